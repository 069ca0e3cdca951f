//! The list of all calls with their types, and those whose answer is always the same.
//!
//! Sockets and signals do not exist here, but their names do: a program that imports one and never
//! calls it must still run.

use wasmtime::{Caller, Engine, FuncType, Linker, Val, ValType};

use super::{Errno, Guest, number};

/// The module that all calls are imported from.
pub(crate) const MODULE: &str = "wasi_snapshot_preview1";

/// One call.
struct Call {
    name: &'static str,
    /// `i` for each i32 parameter, `I` for each i64. The result is an i32, except for `proc_exit`.
    parameters: &'static str,
    answer: Fixed,
}

/// A call's answer, where it does not depend on the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fixed {
    /// It does depend: another module defines the call.
    No,
    /// Always this.
    Always(Result<(), Errno>),
    /// This if the first parameter is an open descriptor.
    IfOpen(Errno),
}

/// The type of a call as a message shows it, if there is such a call.
pub(crate) fn signature(name: &str) -> Option<String> {
    let call = CALLS.iter().find(|call| call.name == name)?;
    let parameters: Vec<&str> =
        call.parameters.chars().map(|kind| if kind == 'i' { "i32" } else { "i64" }).collect();
    let result = if call.has_result() { " -> i32" } else { "" };
    Some(format!("({}){result}", parameters.join(", ")))
}

/// Whether there is such a call and all it ever answers is that there is no such thing here.
pub(crate) fn is_stub(name: &str) -> bool {
    const ABOUT: [&str; 5] = ["sock_", "path_link", "path_symlink", "path_readlink", "proc_raise"];
    let is_fixed = |call: &Call| call.name == name && call.answer != Fixed::No;
    CALLS.iter().any(is_fixed) && ABOUT.iter().any(|about| name.starts_with(about))
}

/// Defines the calls whose answer is fixed.
pub(super) fn define_fixed(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    for call in &CALLS {
        let answer = call.answer;
        if answer == Fixed::No {
            continue;
        }
        let ty = call.ty(linker.engine());
        linker.func_new(MODULE, call.name, ty, move |caller, parameters, results| {
            results[0] = Val::I32(number(answer.of(&caller, parameters)));
            Ok(())
        })?;
    }
    Ok(())
}

impl Call {
    fn has_result(&self) -> bool {
        self.name != "proc_exit"
    }

    fn ty(&self, engine: &Engine) -> FuncType {
        let parameters = self
            .parameters
            .chars()
            .map(|kind| if kind == 'i' { ValType::I32 } else { ValType::I64 });
        FuncType::new(engine, parameters, self.has_result().then_some(ValType::I32))
    }
}

impl Fixed {
    fn of(self, caller: &Caller<'_, Guest>, parameters: &[Val]) -> Result<(), Errno> {
        match (self, parameters) {
            (Fixed::Always(answer), _) => answer,
            (Fixed::IfOpen(errno), [Val::I32(fd), ..]) => {
                caller.data().descriptors.get(fd.cast_unsigned())?;
                Err(errno)
            }
            (Fixed::IfOpen(_) | Fixed::No, _) => Err(Errno::NotSupported),
        }
    }
}

const fn ours(name: &'static str, parameters: &'static str) -> Call {
    Call { name, parameters, answer: Fixed::No }
}

const fn always(name: &'static str, parameters: &'static str, errno: Errno) -> Call {
    Call { name, parameters, answer: Fixed::Always(Err(errno)) }
}

const fn if_open(name: &'static str, parameters: &'static str, errno: Errno) -> Call {
    Call { name, parameters, answer: Fixed::IfOpen(errno) }
}

/// All of preview 1.
const CALLS: [Call; 46] = [
    ours("args_get", "ii"),
    ours("args_sizes_get", "ii"),
    ours("environ_get", "ii"),
    ours("environ_sizes_get", "ii"),
    ours("clock_res_get", "ii"),
    ours("clock_time_get", "iIi"),
    ours("fd_advise", "iIIi"),
    ours("fd_allocate", "iII"),
    ours("fd_close", "i"),
    ours("fd_datasync", "i"),
    ours("fd_fdstat_get", "ii"),
    ours("fd_fdstat_set_flags", "ii"),
    ours("fd_fdstat_set_rights", "iII"),
    ours("fd_filestat_get", "ii"),
    ours("fd_filestat_set_size", "iI"),
    ours("fd_filestat_set_times", "iIIi"),
    ours("fd_pread", "iiiIi"),
    ours("fd_prestat_get", "ii"),
    ours("fd_prestat_dir_name", "iii"),
    ours("fd_pwrite", "iiiIi"),
    ours("fd_read", "iiii"),
    ours("fd_readdir", "iiiIi"),
    ours("fd_renumber", "ii"),
    ours("fd_seek", "iIii"),
    ours("fd_sync", "i"),
    ours("fd_tell", "ii"),
    ours("fd_write", "iiii"),
    ours("path_create_directory", "iii"),
    ours("path_filestat_get", "iiiii"),
    ours("path_filestat_set_times", "iiiiIIi"),
    ours("path_link", "iiiiiii"),
    ours("path_open", "iiiiiIIii"),
    ours("path_readlink", "iiiiii"),
    ours("path_remove_directory", "iii"),
    ours("path_rename", "iiiiii"),
    ours("path_symlink", "iiiii"),
    ours("path_unlink_file", "iii"),
    ours("poll_oneoff", "iiii"),
    ours("proc_exit", "i"),
    always("proc_raise", "i", Errno::NotSupported),
    Call { name: "sched_yield", parameters: "", answer: Fixed::Always(Ok(())) },
    ours("random_get", "ii"),
    if_open("sock_accept", "iii", Errno::NotSocket),
    if_open("sock_recv", "iiiiii", Errno::NotSocket),
    if_open("sock_send", "iiiii", Errno::NotSocket),
    if_open("sock_shutdown", "ii", Errno::NotSocket),
];

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::message::Request;
    use crate::preview1::{Caps, define};
    use wasmtime::{ExternType, Store};

    #[test]
    fn every_call_is_defined_with_the_type_that_the_profile_checks() {
        let engine = Engine::default();
        let mut linker = Linker::new(&engine);
        define(&mut linker).unwrap();
        let guest = Guest::new(
            Caps::new(0, 0, 0),
            Arc::default(),
            Request::default(),
            None,
            Vec::new(),
            Vec::new(),
        );
        let mut store = Store::new(&engine, guest);
        for call in &CALLS {
            let defined = linker.get(&mut store, MODULE, call.name);
            let Ok(ExternType::Func(ty)) = defined.map(|item| item.ty(&store)) else {
                panic!("{} is missing", call.name);
            };
            assert!(ty.matches(&call.ty(&engine)), "{}: {ty}", call.name);
        }
        assert_eq!(linker.iter(&mut store).count(), CALLS.len());
    }

    #[test]
    fn a_signature_reads_as_text() {
        assert_eq!(signature("fd_seek").unwrap(), "(i32, i64, i32, i32) -> i32");
        assert_eq!(signature("proc_exit").unwrap(), "(i32)");
        assert_eq!(signature("sched_yield").unwrap(), "() -> i32");
        assert_eq!(signature("fd_dup"), None);
    }
}
