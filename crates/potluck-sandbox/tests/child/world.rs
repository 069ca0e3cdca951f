//! What every claim needs: a sandbox of its own, and one line from a program's text to its end.

use std::path::Path;
use std::time::Duration;

use potluck_sandbox::{InputFile, Program, Run, Runner, Sandbox, Unit};
use potluck_unit::{Fault, JobId, Limits, ModuleId, NoResult, Outcome, RunReport, UnitId, Witness};

/// A claim's name and itself.
pub(crate) type Claim = (&'static str, fn());

/// A list of claims by the names of their functions.
#[macro_export]
macro_rules! claims {
    ($($name:ident),* $(,)?) => {
        pub(crate) const CLAIMS: &[$crate::world::Claim] = &[$((stringify!($name), $name)),*];
    };
}

/// The word that makes this binary a child.
pub(crate) const CHILD: &str = "__sandbox";

/// Limits that make a claim quick to check.
pub(crate) const SMALL: Limits = Limits {
    memory_max_bytes: 16 << 20,
    output_max_bytes: 2 << 20,
    deadline_ms: 20_000,
    out_max_bytes: 0,
};

/// A sandbox with a folder of its own.
pub(crate) struct World {
    folder: tempfile::TempDir,
    pub(crate) sandbox: Sandbox,
}

impl World {
    pub(crate) fn new() -> World {
        World::of(CHILD)
    }

    /// A world whose children are started with this word.
    pub(crate) fn of(word: &str) -> World {
        let folder = tempfile::tempdir().unwrap();
        let path = std::env::current_exe().unwrap();
        let program = Program { path, args: vec![word.into()] };
        let sandbox = Sandbox::new(program, folder.path().join("cache"));
        World { folder, sandbox }
    }

    pub(crate) fn cache(&self) -> std::path::PathBuf {
        Path::join(self.folder.path(), "cache")
    }

    pub(crate) fn runner(&self, wat: &str, limits: &Limits) -> Runner {
        self.runner_with(wat, limits, &[])
    }

    pub(crate) fn runner_with(&self, wat: &str, limits: &Limits, files: &[InputFile]) -> Runner {
        let (module, wasm) = module(wat);
        let artefact = self.sandbox.prepare(&module, &wasm).unwrap();
        self.sandbox.start_with(&artefact, limits, files).unwrap()
    }

    /// Runs one unit in a fresh child.
    pub(crate) fn run(&self, wat: &str, args: &[&str], stdin: &[u8]) -> Run {
        go(&mut self.runner(wat, &SMALL), args, stdin)
    }
}

pub(crate) fn module(wat: &str) -> (ModuleId, Vec<u8>) {
    let wasm = wat::parse_str(wat).unwrap();
    (ModuleId::of(&wasm), wasm)
}

/// A program that calls preview 1: `body` is what `_start` does.
pub(crate) fn program(body: &str) -> String {
    format!(
        "(module {IMPORTS} (memory (export \"memory\") 1) (func (export \"_start\") {LOCALS} {body}))"
    )
}

/// Runs unit 0.
pub(crate) fn go(runner: &mut Runner, args: &[&str], stdin: &[u8]) -> Run {
    let args: Vec<String> = args.iter().map(ToString::to_string).collect();
    runner.run(&Unit { id: unit(0), args: &args, stdin })
}

pub(crate) fn unit(index: u32) -> UnitId {
    UnitId::of(&JobId([9; 32]), index)
}

/// The exit code and output of a run that must have ended by itself.
pub(crate) fn result(run: &Run) -> (u32, &[u8]) {
    match &run.report {
        RunReport::Done { outcome: Outcome::Result { exit_code, stdout, .. }, .. } => {
            (*exit_code, stdout)
        }
        other @ (RunReport::Done { .. } | RunReport::NoResult(_)) => {
            panic!("not a result: {other:?}")
        }
    }
}

pub(crate) fn witness(run: &Run) -> Witness {
    match &run.report {
        RunReport::Done { witness, .. } => *witness,
        RunReport::NoResult(reason) => panic!("no witness: {reason:?}"),
    }
}

pub(crate) fn fault(run: &Run) -> Fault {
    match &run.report {
        RunReport::Done { outcome: Outcome::Fault(fault), .. } => *fault,
        other @ (RunReport::Done { .. } | RunReport::NoResult(_)) => {
            panic!("not a fault: {other:?}")
        }
    }
}

pub(crate) fn no_result(run: &Run) -> NoResult {
    match &run.report {
        RunReport::NoResult(reason) => *reason,
        other @ RunReport::Done { .. } => panic!("a result after all: {other:?}"),
    }
}

/// Whether a process with this id is there; a zombie is.
pub(crate) fn exists(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// What the system says a process is doing: `T` is stopped, `Z` a zombie, `?` that it is gone.
pub(crate) fn state(pid: u32) -> char {
    stat(pid).first().and_then(|state| state.chars().next()).unwrap_or('?')
}

/// Processor time that a process has used, as the system counts it: in ticks.
pub(crate) fn cpu(pid: u32) -> Duration {
    let ticks = |text: &String| text.parse::<u64>().unwrap();
    Duration::from_millis(10)
        * u32::try_from(stat(pid).iter().skip(11).take(2).map(ticks).sum::<u64>()).unwrap()
}

/// The fields of `/proc/PID/stat` after the name.
fn stat(pid: u32) -> Vec<String> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.map(str::to_owned).collect()
}

/// Waits until `condition` holds, for at most ten seconds.
pub(crate) fn eventually(condition: impl Fn() -> bool) -> bool {
    (0..2000).any(|_| {
        let holds = condition();
        if !holds {
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        holds
    })
}

const LOCALS: &str = "(local $n i32) (local $m i32)";

const IMPORTS: &str = r#"
    (import "wasi_snapshot_preview1" "args_sizes_get"
      (func $args_sizes_get (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_read"
      (func $fd_read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write"
      (func $fd_write (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_seek"
      (func $fd_seek (param i32 i64 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_prestat_get"
      (func $fd_prestat_get (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "sock_recv"
      (func $sock_recv (param i32 i32 i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "clock_time_get"
      (func $clock_time_get (param i32 i64 i32) (result i32)))
    (import "wasi_snapshot_preview1" "poll_oneoff"
      (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
"#;
