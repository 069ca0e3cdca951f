//! The program of a job: read from a file, assembled if it is text, checked before anybody else
//! sees it.

use std::path::Path;

use potluck_unit::Job;

use crate::exit::Failure;
use crate::rows::read;

/// A module that is fit to be sent.
#[derive(Debug)]
pub(crate) struct Module {
    pub(crate) bytes: Vec<u8>,
    /// Its size once more, as the job states it.
    pub(crate) size_bytes: u32,
}

impl Module {
    /// Reads `path`: a WebAssembly module, or its text form.
    pub(crate) fn read(path: &Path) -> Result<Module, Failure> {
        Module::of_bytes(wasm(path)?, path)
    }

    /// Takes bytes that came from `path`.
    pub(crate) fn of_bytes(bytes: Vec<u8>, path: &Path) -> Result<Module, Failure> {
        let shown = path.display();
        let size_bytes = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        if size_bytes > Job::MODULE_BYTES_MAX {
            let (bytes, max) = (bytes.len(), Job::MODULE_BYTES_MAX);
            let message = format!(
                "{shown} has {bytes} bytes, and a module may have {max}; strip its debug sections"
            );
            return Err(Failure::input(message));
        }
        potluck_node::check_module(&bytes)
            .map_err(|error| Failure::input(format!("{shown} can't be run: {error}")))?;
        Ok(Module { bytes, size_bytes })
    }
}

/// The bytes that `path` holds, or that its text stands for, whether or not they can be run.
pub(crate) fn wasm(path: &Path) -> Result<Vec<u8>, Failure> {
    assemble(read(path)?, path)
}

fn assemble(bytes: Vec<u8>, path: &Path) -> Result<Vec<u8>, Failure> {
    if !is_text(&bytes, path) {
        return Ok(bytes);
    }
    let assembled =
        wat::Parser::new().parse_bytes(Some(path), &bytes).map(|wasm| wasm.into_owned());
    assembled.map_err(|error| {
        // The message goes on with a drawing of the line, which is no use on one line.
        let text = error.to_string();
        let what = text.lines().next().unwrap_or_default();
        let at = text.lines().find_map(|line| line.trim().strip_prefix("--> ")).unwrap_or_default();
        let shown = if at.is_empty() { path.display().to_string() } else { at.to_owned() };
        Failure::input(format!("{shown} can't be assembled: {what}"))
    })
}

/// Whether this is WebAssembly text: by its name, or because it starts like it.
fn is_text(bytes: &[u8], path: &Path) -> bool {
    let named = path.extension().is_some_and(|extension| extension == "wat");
    named && !bytes.starts_with(b"\0asm") || bytes.trim_ascii_start().starts_with(b"(module")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_known_by_its_name_or_its_beginning() {
        let text = |bytes: &[u8], name: &str| is_text(bytes, Path::new(name));
        assert!(text(b"(module)", "a.wasm"));
        assert!(text(b"\n  (module)", "a"));
        assert!(text(b";; comment\n(module)", "a.wat"));
        assert!(!text(b";; comment\n(module)", "a.txt"));
        assert!(!text(b"\0asm\x01\0\0\0", "a.wat"));
        assert!(!text(b"", "a.wasm"));
    }

    #[test]
    fn text_is_assembled_and_its_errors_say_where() {
        let wasm = assemble(b"(module)".to_vec(), Path::new("a.wat")).unwrap();
        assert!(wasm.starts_with(b"\0asm"));
        let error = assemble(b"(module\n (funk))".to_vec(), Path::new("a.wat")).unwrap_err();
        assert!(error.message.starts_with("a.wat:2:"), "{error:?}");
    }

    #[test]
    fn one_byte_too_many_is_refused() {
        let bytes = vec![0; Job::MODULE_BYTES_MAX as usize + 1];
        let error = Module::of_bytes(bytes, Path::new("a.wasm")).unwrap_err();
        assert!(error.message.contains("33554433"), "{error:?}");
    }
}
