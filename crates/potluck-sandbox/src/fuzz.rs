//! What the fuzz targets in `tests/fuzz` call, one function for each: any bytes may be given, and a
//! claim that fails panics. The tests below give them the corpora.

use std::io::{PipeWriter, Write as _};
use std::os::fd::OwnedFd;
use std::sync::OnceLock;

use potluck_unit::{Limits, OutFile, Outcome, RunReport};
use wasmtime::{Engine, Module};

use crate::message::{Request, STDERR_MAX_BYTES};
use crate::pipe::{Blocking, Inbox};
use crate::{ModuleError, check, engine, lint, nan, runner};

/// Bytes that claim to be a module: nothing panics, `lint` agrees with `check`, and what the profile
/// accepts is a valid module to the engine, which can compile it.
pub fn profile(wasm: &[u8]) {
    let checked = check(wasm);
    let lint = lint(wasm);
    assert_eq!(checked.is_ok(), lint.fits());
    assert_eq!(checked.is_ok(), lint.reasons.is_empty());
    assert_eq!(checked.clone().ok(), lint.info);
    for reason in &lint.reasons {
        assert!(reason.to_string().len() < REASON_MAX_BYTES, "{reason}");
    }
    if checked.is_err() {
        return;
    }
    let engine = compiler();
    if let Err(error) = Module::validate(engine, wasm) {
        panic!("the profile accepts what the engine does not: {error:#}");
    }
    if wasm.len() <= COMPILED_MAX_BYTES
        && let Err(error) = engine.precompile_module(wasm)
    {
        panic!("the engine can't compile what the profile accepts: {error:#}");
    }
}

/// Bytes as a module to the pass that makes NaNs canonical: of those that fit, `_start` aside, it
/// takes every one, does the same twice, and leaves a valid module, grown within bounds. What it
/// means is for the seeded runs in `nan`, which need modules that end.
pub fn nan(wasm: &[u8]) {
    // What does not fit never gets there, and the profile's limits are what bounds the pass.
    if !matches!(check(wasm), Ok(_) | Err(ModuleError::NoStart)) {
        return;
    }
    let pass = || nan::canonicalise(wasm).unwrap_or_else(|error| panic!("it fits: {error}"));
    let canonical = pass();
    assert_eq!(canonical, pass());
    if let Err(error) = Module::validate(compiler(), &canonical) {
        panic!("valid before the pass and not after it: {error:#}");
    }
    assert!(canonical.len() <= GROWTH_MAX * wasm.len(), "{} bytes", canonical.len());
}

fn compiler() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| engine::compiling().unwrap_or_else(|error| panic!("{error:#}")))
}

/// Bytes that a hijacked child may send: what is believed is within the limits.
pub fn pipe(bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(PIPE_MAX_BYTES)];
    let limits = Limits { output_max_bytes: 1000, out_max_bytes: 1000, ..Limits::DEFAULT };
    let inbox = || filled(bytes).map(Inbox::new);
    let Ok(mut replies) = inbox() else { return };
    // Reply after reply, as to a parent that has nothing else to do.
    let mut reply = || {
        let mut heard = 0;
        let output = &mut |bytes: &[u8]| heard += bytes.len() as u64;
        let header = runner::listen(&mut replies, &limits, output, &mut Blocking)?;
        assert!(heard <= limits.output_max_bytes);
        runner::receive(&mut replies, header, &limits, &mut Blocking)
    };
    while let Ok((report, stderr)) = reply() {
        assert!(stderr.len() <= STDERR_MAX_BYTES);
        if let RunReport::Done { outcome: Outcome::Result { stdout, files, .. }, .. } = report {
            assert!(stdout.len() as u64 <= limits.output_max_bytes);
            assert!(files.iter().map(OutFile::cost).sum::<u64>() <= limits.out_max_bytes);
        }
    }
    let Ok(mut frames) = inbox() else { return };
    let mut payload = Vec::new();
    while let Ok(header) = frames.header(&mut Blocking) {
        if header.length > PIPE_MAX_BYTES
            || frames.take(header.length, &mut payload, &mut Blocking).is_err()
        {
            break;
        }
        assert_eq!(payload.len(), header.length);
        if let Some(request) = Request::of(payload.clone()) {
            let arguments: usize = request.arguments().map(|argument| argument.len() + 4).sum();
            assert!(request.stdin().len() + arguments <= payload.len());
        }
    }
}

/// A pipe that holds these bytes and has no writer.
fn filled(bytes: &[u8]) -> std::io::Result<OwnedFd> {
    let (reader, mut writer): (_, PipeWriter) = std::io::pipe()?;
    writer.write_all(bytes)?;
    Ok(reader.into())
}

/// What a pipe holds without a reader.
const PIPE_MAX_BYTES: usize = 60 << 10;
/// Compiling more takes longer than trying something else.
const COMPILED_MAX_BYTES: usize = 16 << 10;
/// A guard is some 40 bytes after an operator of one or two.
const GROWTH_MAX: usize = 32;
/// Names from a stranger are clipped, whatever they are.
const REASON_MAX_BYTES: usize = 4000;

#[cfg(test)]
mod tests {
    use std::path::Path;

    fn replay(target: &str, run: fn(&[u8])) {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus");
        let mut inputs = 0;
        for entry in std::fs::read_dir(folder.join(target)).unwrap() {
            run(&std::fs::read(entry.unwrap().path()).unwrap());
            inputs += 1;
        }
        assert!(inputs >= 20, "{target} has {inputs} inputs");
    }

    #[test]
    fn the_corpus_of_modules_holds() {
        replay("profile", super::profile);
    }

    #[test]
    fn the_corpus_of_floats_holds() {
        replay("nan", super::nan);
        replay("profile", super::nan);
    }

    #[test]
    fn the_corpus_of_replies_holds() {
        replay("pipe", super::pipe);
    }
}
