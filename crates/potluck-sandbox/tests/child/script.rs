//! Guests put together call by call: each call says what it must answer, and what must be in memory
//! then. The guest writes down what it finds, and the claim compares.

use std::fmt::Write as _;
use std::sync::Arc;

use potluck_sandbox::{InputFile, Run, Runner};
use potluck_unit::{Limits, OutFile, Outcome, RunReport};

use crate::world::{SMALL, World, go};

/// An argument of a call.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Arg<'a> {
    /// A number or an address.
    I(u32),
    /// A number of 64 bits.
    L(u64),
    /// Bytes that the guest has, as their address and their length.
    B(&'a [u8]),
}

/// A path, as its address and its length.
pub(crate) fn path(text: &str) -> Arg<'_> {
    Arg::B(text.as_bytes())
}

pub(crate) use Arg::{B, I, L};

/// All rights there are.
pub(crate) const ALL: u64 = 0x3fff_ffff;
pub(crate) const READ: u64 = 1 << 1;
pub(crate) const SEEK: u64 = 1 << 2;
pub(crate) const TELL: u64 = 1 << 5;
pub(crate) const WRITE: u64 = 1 << 6;
pub(crate) const CREATE: u32 = 1;
pub(crate) const FOLDER: u32 = 2;
pub(crate) const EXCLUSIVE: u32 = 4;
pub(crate) const TRUNCATE: u32 = 8;
pub(crate) const APPEND: u32 = 1;

pub(crate) const BADF: u32 = 8;
pub(crate) const BUSY: u32 = 10;
pub(crate) const EXIST: u32 = 20;
pub(crate) const FAULT: u32 = 21;
pub(crate) const ILSEQ: u32 = 25;
pub(crate) const INVAL: u32 = 28;
pub(crate) const ISDIR: u32 = 31;
pub(crate) const MFILE: u32 = 33;
pub(crate) const NAMETOOLONG: u32 = 37;
pub(crate) const NOENT: u32 = 44;
pub(crate) const NOSPC: u32 = 51;
pub(crate) const NOTDIR: u32 = 54;
pub(crate) const NOTEMPTY: u32 = 55;
pub(crate) const NOTSOCK: u32 = 57;
pub(crate) const NOTSUP: u32 = 58;
pub(crate) const PERM: u32 = 63;
pub(crate) const ROFS: u32 = 69;
pub(crate) const SPIPE: u32 = 70;
pub(crate) const NOTCAPABLE: u32 = 76;

/// Where calls may write: nothing else is here.
pub(crate) const TO: u32 = 1024;
/// The vectors of reads and writes.
const VECTORS: u32 = 64;
/// What a guest has from the start.
const DATA: u32 = 0x10000;
/// What it has written down.
const LOG: u32 = 0x20000;
/// Where long things go, after all of it.
pub(crate) const LARGE: u32 = 0x40000;

/// A guest in the making.
#[derive(Default)]
pub(crate) struct Script {
    body: String,
    data: Vec<u8>,
    expected: Vec<(String, Vec<u8>)>,
    inputs: Vec<InputFile>,
    out_max_bytes: u64,
    step: u32,
}

impl Script {
    /// A guest without a file.
    pub(crate) fn new() -> Script {
        Script::default()
    }

    /// A guest whose folder `/out` is descriptor 4, and the root 3.
    pub(crate) fn in_out() -> Script {
        let mut script = Script::new().with_out(1 << 20);
        script.opens(4, 3, "out", FOLDER, ALL, 0);
        script
    }

    pub(crate) fn with_out(self, out_max_bytes: u64) -> Script {
        Script { out_max_bytes, ..self }
    }

    pub(crate) fn with_file(mut self, path: &str, bytes: &[u8]) -> Script {
        self.inputs.push(InputFile { path: path.to_owned(), bytes: Arc::from(bytes) });
        self
    }

    /// Calls `name`, which must answer `errno`.
    pub(crate) fn call(&mut self, errno: u32, name: &str, args: &[Arg<'_>]) {
        let mut words = String::new();
        for arg in args {
            match arg {
                I(number) => write!(words, " (i32.const {})", number.cast_signed()),
                L(number) => write!(words, " (i64.const {})", number.cast_signed()),
                B(bytes) => {
                    let at = self.keep(bytes);
                    write!(words, " (i32.const {at}) (i32.const {})", bytes.len())
                }
            }
            .unwrap();
        }
        self.step += 1;
        let step = format!("step {}: {name} {args:?}", self.step);
        writeln!(self.body, "(i32.store (i32.const 0) (call ${name}{words}))").unwrap();
        self.dump(&step, 0, &errno.to_le_bytes());
    }

    /// What must be at `at` now.
    pub(crate) fn holds(&mut self, at: u32, bytes: &[u8]) {
        let step = format!("step {}, memory at {at}", self.step);
        self.dump(&step, at, bytes);
    }

    pub(crate) fn holds_u32(&mut self, at: u32, number: u32) {
        self.holds(at, &number.to_le_bytes());
    }

    pub(crate) fn holds_u64(&mut self, at: u32, number: u64) {
        self.holds(at, &number.to_le_bytes());
    }

    fn dump(&mut self, step: &str, at: u32, bytes: &[u8]) {
        writeln!(self.body, "(call $dump (i32.const {at}) (i32.const {}))", bytes.len()).unwrap();
        self.expected.push((step.to_owned(), bytes.to_vec()));
    }

    /// Gives the guest these bytes and says where.
    pub(crate) fn keep(&mut self, bytes: &[u8]) -> u32 {
        let at = DATA + u32::try_from(self.data.len()).unwrap();
        self.data.extend_from_slice(bytes);
        assert!(self.data.len() < (LOG - DATA) as usize);
        at
    }

    /// Opens `name` below `folder`, which must give the number `fd`.
    pub(crate) fn opens(
        &mut self,
        fd: u32,
        folder: u32,
        name: &str,
        how: u32,
        rights: u64,
        flags: u32,
    ) {
        self.open(0, folder, name, how, rights, flags);
        self.holds_u32(TO, fd);
    }

    /// Opens `name`, which must answer `errno`.
    pub(crate) fn open(
        &mut self,
        errno: u32,
        folder: u32,
        name: &str,
        how: u32,
        rights: u64,
        flags: u32,
    ) {
        let rights = [L(rights), L(ALL)];
        let args = [I(folder), I(0), path(name), I(how), rights[0], rights[1], I(flags), I(TO)];
        self.call(errno, "path_open", &args);
    }

    /// Makes an empty file.
    pub(crate) fn touch(&mut self, folder: u32, name: &str, free: u32) {
        self.opens(free, folder, name, CREATE | EXCLUSIVE, 0, 0);
        self.call(0, "fd_close", &[I(free)]);
    }

    /// Points the vectors at these places.
    pub(crate) fn vectors(&mut self, vectors: &[(u32, u32)]) {
        for (number, place) in vectors.iter().zip(VECTORS / 8..).map(|(pair, at)| (pair, at * 8)) {
            for (number, at) in [(number.0, place), (number.1, place + 4)] {
                let number = number.cast_signed();
                writeln!(self.body, "(i32.store (i32.const {at}) (i32.const {number}))").unwrap();
            }
        }
    }

    /// Puts a number into memory.
    pub(crate) fn put(&mut self, at: u32, number: u64) {
        let number = number.cast_signed();
        writeln!(self.body, "(i64.store (i32.const {at}) (i64.const {number}))").unwrap();
    }

    /// A read or write with one vector, at an offset if there is one.
    fn moves(&mut self, errno: u32, name: &str, fd: u32, offset: Option<u64>) {
        let (vectors, to) = ([I(VECTORS), I(1)], I(TO));
        match offset {
            None => self.call(errno, name, &[I(fd), vectors[0], vectors[1], to]),
            Some(at) => self.call(errno, name, &[I(fd), vectors[0], vectors[1], L(at), to]),
        }
    }

    /// Writes `bytes`, all of them if `errno` is 0.
    pub(crate) fn writes(&mut self, errno: u32, fd: u32, offset: Option<u64>, bytes: &[u8]) {
        let (at, length) = (self.keep(bytes), u32::try_from(bytes.len()).unwrap());
        self.vectors(&[(at, length)]);
        self.moves(errno, if offset.is_some() { "fd_pwrite" } else { "fd_write" }, fd, offset);
        if errno == 0 {
            self.holds_u32(TO, length);
        }
    }

    /// Any code, with `$n` and `$m` to count with.
    pub(crate) fn code(&mut self, code: &str) {
        self.body.push_str(code);
    }

    /// Calls `name` with words that are known only then, whatever it answers.
    pub(crate) fn tries(&mut self, name: &str, words: &[u64]) {
        let (_, parameters) = CALLS.iter().find(|(known, _)| *known == name).unwrap();
        write!(self.body, "(drop (call ${name}").unwrap();
        for (kind, word) in parameters.chars().zip(words) {
            let number = word.cast_signed();
            match kind {
                'i' => write!(self.body, " (i32.wrap_i64 (i64.const {number}))"),
                _ => write!(self.body, " (i64.const {number})"),
            }
            .unwrap();
        }
        self.body.push_str("))\n");
    }

    /// Reads up to 200 bytes, which must be these.
    pub(crate) fn reads(&mut self, fd: u32, offset: Option<u64>, bytes: &[u8]) {
        self.vectors(&[(TO + 8, 200)]);
        self.moves(0, if offset.is_some() { "fd_pread" } else { "fd_read" }, fd, offset);
        self.holds_u32(TO, u32::try_from(bytes.len()).unwrap());
        self.holds(TO + 8, bytes);
    }

    /// A read that must fail.
    pub(crate) fn reads_not(&mut self, errno: u32, fd: u32, offset: Option<u64>) {
        self.vectors(&[(TO + 8, 200)]);
        self.moves(errno, if offset.is_some() { "fd_pread" } else { "fd_read" }, fd, offset);
    }

    /// Seeks, which must lead to `at`.
    pub(crate) fn seeks(&mut self, fd: u32, by: i64, whence: u32, at: u64) {
        self.call(0, "fd_seek", &[I(fd), L(by.cast_unsigned()), I(whence), I(TO)]);
        self.holds_u64(TO, at);
    }

    /// The size of a file by its descriptor.
    pub(crate) fn has_size(&mut self, fd: u32, size: u64) {
        self.call(0, "fd_filestat_get", &[I(fd), I(TO)]);
        self.holds_u64(TO + 32, size);
    }

    /// The size of a file by its path.
    pub(crate) fn has_size_of(&mut self, folder: u32, name: &str, size: u64) {
        self.is_there(folder, name, 4, size);
    }

    /// The type and size of what is at a path.
    pub(crate) fn is_there(&mut self, folder: u32, name: &str, kind: u8, size: u64) {
        self.call(0, "path_filestat_get", &[I(folder), I(0), path(name), I(TO)]);
        self.holds(TO + 16, &[kind]);
        self.holds_u64(TO + 32, size);
    }

    pub(crate) fn is_missing(&mut self, folder: u32, name: &str) {
        self.call(NOENT, "path_filestat_get", &[I(folder), I(0), path(name), I(TO)]);
    }

    fn wat(&self) -> String {
        let mut imports = String::new();
        for (name, parameters) in CALLS {
            let parameters: String =
                parameters.chars().map(|kind| if kind == 'i' { " i32" } else { " i64" }).collect();
            writeln!(
                imports,
                "(import \"wasi_snapshot_preview1\" \"{name}\"
                   (func ${name} (param{parameters}) (result i32)))"
            )
            .unwrap();
        }
        let data: String = self.data.iter().map(|byte| format!("\\{byte:02x}")).collect();
        let body = &self.body;
        format!(
            "(module {imports} (memory (export \"memory\") 40) (global $log (mut i32) (i32.const {LOG}))
               (data (i32.const {DATA}) \"{data}\")
               (func $dump (param $at i32) (param $length i32)
                 (memory.copy (global.get $log) (local.get $at) (local.get $length))
                 (global.set $log (i32.add (global.get $log) (local.get $length))))
               (func (export \"_start\") (local $n i32) (local $m i32) {body}
                 (i32.store (i32.const 0) (i32.const {LOG}))
                 (i32.store (i32.const 4) (i32.sub (global.get $log) (i32.const {LOG})))
                 (drop (call $fd_write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"
        )
    }

    /// Runs it, compares, and answers with the files it left.
    pub(crate) fn run(self) -> Vec<OutFile> {
        let (run, files) = self.ends();
        drop(run);
        files
    }

    /// A runner of this guest.
    pub(crate) fn runner(&self) -> Runner {
        let limits = Limits { out_max_bytes: self.out_max_bytes, ..SMALL };
        World::new().runner_with(&self.wat(), &limits, &self.inputs)
    }

    /// The same with the run itself.
    pub(crate) fn ends(self) -> (Run, Vec<OutFile>) {
        let mut runner = self.runner();
        let run = go(&mut runner, &[], b"input");
        let (stdout, files) = match &run.report {
            RunReport::Done { outcome: Outcome::Result { stdout, files, .. }, .. } => {
                (stdout.clone(), files.clone())
            }
            other @ (RunReport::Done { .. } | RunReport::NoResult(_)) => {
                panic!("not a result: {other:?}")
            }
        };
        let mut found = &stdout[..];
        for (step, expected) in &self.expected {
            let (here, rest) = found.split_at(expected.len());
            assert!(here == expected, "{step}: {here:?} and not {expected:?}");
            found = rest;
        }
        assert!(found.is_empty());
        // Whatever a guest does with files, it does the same again in the same child.
        assert_eq!(go(&mut runner, &[], b"input").report, run.report);
        (run, files)
    }
}

/// Every call that returns, with an `i` for each i32 it takes and an `I` for each i64.
pub(crate) const CALLS: [(&str, &str); 45] = [
    ("args_get", "ii"),
    ("args_sizes_get", "ii"),
    ("environ_get", "ii"),
    ("environ_sizes_get", "ii"),
    ("clock_res_get", "ii"),
    ("clock_time_get", "iIi"),
    ("fd_advise", "iIIi"),
    ("fd_allocate", "iII"),
    ("fd_close", "i"),
    ("fd_datasync", "i"),
    ("fd_fdstat_get", "ii"),
    ("fd_fdstat_set_flags", "ii"),
    ("fd_fdstat_set_rights", "iII"),
    ("fd_filestat_get", "ii"),
    ("fd_filestat_set_size", "iI"),
    ("fd_filestat_set_times", "iIIi"),
    ("fd_pread", "iiiIi"),
    ("fd_prestat_get", "ii"),
    ("fd_prestat_dir_name", "iii"),
    ("fd_pwrite", "iiiIi"),
    ("fd_read", "iiii"),
    ("fd_readdir", "iiiIi"),
    ("fd_renumber", "ii"),
    ("fd_seek", "iIii"),
    ("fd_sync", "i"),
    ("fd_tell", "ii"),
    ("fd_write", "iiii"),
    ("path_create_directory", "iii"),
    ("path_filestat_get", "iiiii"),
    ("path_filestat_set_times", "iiiiIIi"),
    ("path_link", "iiiiiii"),
    ("path_open", "iiiiiIIii"),
    ("path_readlink", "iiiiii"),
    ("path_remove_directory", "iii"),
    ("path_rename", "iiiiii"),
    ("path_symlink", "iiiii"),
    ("path_unlink_file", "iii"),
    ("poll_oneoff", "iiii"),
    ("proc_raise", "i"),
    ("sched_yield", ""),
    ("random_get", "ii"),
    ("sock_accept", "iii"),
    ("sock_recv", "iiiiii"),
    ("sock_send", "iiiii"),
    ("sock_shutdown", "ii"),
];
