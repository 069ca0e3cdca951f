//! The compiler child: a module in, an artefact out, and no other rights.
//!
//! Compiling is the cheapest way to burn a donor's machine: 200 KB of wasm can take minutes and
//! gigabytes. So it happens in a process of its own under limits on processor time, memory and
//! wall time, and being over them says nothing about the module: it is no result.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitCode, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use potluck_unit::NoResult;
use rustix::process::Signal;
use wasmtime::Engine;

use crate::artefact::{Cache, Unfinished};
use crate::engine::{self, Fingerprint};
use crate::leash::Leash;
use crate::message::{
    ARTEFACT_MAX_BYTES, FAILED_MAX_BYTES, TAG_ARTEFACT, TAG_ENGINE, TAG_FAILED, TAG_MODULE,
};
use crate::patience::Until;
use crate::pipe::{self, Blocking, Inbox, PipeError};
use crate::process::{End, Process, Started};
use crate::{Program, Refusal, nan};

/// What compiling one module may cost.
///
/// They do not cover the parent, which holds the module in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CompileLimits {
    /// Processor time for any module, in seconds.
    pub cpu_base_s: u64,
    /// Processor time for every MiB of module that has begun, in seconds.
    pub cpu_per_mib_s: u64,
    /// Memory, in bytes.
    pub memory_max_bytes: u64,
}

impl CompileLimits {
    /// Three times what honest modules take, of which large ones compile at 0.9 MB per second.
    pub const DEFAULT: CompileLimits =
        CompileLimits { cpu_base_s: 10, cpu_per_mib_s: 3, memory_max_bytes: 2 << 30 };

    fn cpu_s(&self, module_bytes: usize) -> u64 {
        let mib = (module_bytes as u64).div_ceil(1 << 20);
        self.cpu_base_s.saturating_add(self.cpu_per_mib_s.saturating_mul(mib)).max(1)
    }
}

/// The fingerprint of the engine that `program`'s children make.
pub(crate) fn fingerprint(
    program: &Program,
    limits: &CompileLimits,
    leash: &Leash,
) -> Result<Fingerprint, Refusal> {
    let mut child = Child::start(program, limits, 0, leash)?;
    let _work = leash.work();
    child.engine().map_err(|error| child.refusal(error))
}

/// Compiles `wasm`, which the profile has accepted, into `cache`, and says for which engine.
pub(crate) fn compile<'a>(
    program: &Program,
    limits: &CompileLimits,
    leash: &Leash,
    wasm: &[u8],
    cache: &'a Cache,
) -> Result<(Fingerprint, Unfinished<'a>), Refusal> {
    let mut child = Child::start(program, limits, wasm.len(), leash)?;
    let _work = leash.work();
    child.compile(wasm, cache).map_err(|error| child.refusal(error))
}

struct Child {
    process: Arc<Process>,
    to_child: OwnedFd,
    inbox: Inbox,
    cpu_max: Duration,
    wall: Duration,
    failed: Option<String>,
    /// Why the artefact was not kept.
    unkept: Option<io::Error>,
}

impl Child {
    fn start(
        program: &Program,
        limits: &CompileLimits,
        module_bytes: usize,
        leash: &Leash,
    ) -> Result<Child, Refusal> {
        let cpu_s = limits.cpu_s(module_bytes);
        let parameters = ["compile".into(), cpu_s.to_string(), limits.memory_max_bytes.to_string()];
        let Started { process, to_child, from_child } =
            Process::start(program, &parameters, Stdio::null()).map_err(|error| {
                let path = program.path.display();
                Refusal::NoResult(NoResult::ChildDied, format!("could not start {path}: {error}"))
            })?;
        let process = Arc::new(process);
        leash.tie(&process, true);
        let cpu_max = Duration::from_secs(cpu_s);
        let wall = cpu_max.saturating_mul(WALL_PER_CPU);
        let inbox = Inbox::new(from_child);
        Ok(Child { process, to_child, inbox, cpu_max, wall, failed: None, unkept: None })
    }

    fn engine(&mut self) -> Result<Fingerprint, PipeError> {
        let mut patience = Until::new(&self.process, self.wall);
        let header = self.inbox.header(&mut patience)?;
        match (header.tag, header.length) {
            (TAG_ENGINE, 32) => self.inbox.array(&mut patience),
            _ => Err(PipeError::Nonsense("a compiler that does not name its engine")),
        }
    }

    fn compile<'a>(
        &mut self,
        wasm: &[u8],
        cache: &'a Cache,
    ) -> Result<(Fingerprint, Unfinished<'a>), PipeError> {
        let engine = self.engine()?;
        let mut patience = Until::new(&self.process, self.wall);
        pipe::send(self.to_child.as_fd(), TAG_MODULE, [wasm], &mut patience)?;
        let header = self.inbox.header(&mut patience)?;
        let mut payload = Vec::new();
        match header.tag {
            TAG_ARTEFACT if header.length <= ARTEFACT_MAX_BYTES => {
                let unkept = &mut self.unkept;
                let mut not_kept = |error| {
                    *unkept = Some(error);
                    PipeError::Closed
                };
                let mut artefact = cache.begin(header.length).map_err(&mut not_kept)?;
                let mut left = header.length;
                while left > 0 {
                    // Piece by piece: an artefact is never in this process's memory as a whole.
                    let piece = left.min(PIECE_BYTES);
                    self.inbox.take(piece, &mut payload, &mut patience)?;
                    artefact.write(&payload).map_err(&mut not_kept)?;
                    left -= piece;
                }
                Ok((engine, artefact))
            }
            TAG_FAILED if header.length <= FAILED_MAX_BYTES => {
                self.inbox.take(header.length, &mut payload, &mut patience)?;
                self.failed = Some(String::from_utf8_lossy(&payload).into_owned());
                Err(PipeError::Closed)
            }
            _ => Err(PipeError::Nonsense("neither an artefact nor a failure")),
        }
    }

    /// What a child that stopped answering means.
    fn refusal(&mut self, error: PipeError) -> Refusal {
        if let Some(error) = self.unkept.take() {
            let text = format!("could not keep an artefact: {error}");
            return Refusal::NoResult(NoResult::Stopped, text);
        }
        if let Some(reason) = self.failed.take() {
            return Refusal::NoResult(NoResult::Engine, reason);
        }
        if self.process.ended() == Some(End::Asked) {
            return Refusal::NoResult(NoResult::Stopped, "compiling was stopped".to_owned());
        }
        match error {
            // Says nothing about the module: the machine had other things to do.
            PipeError::Late if self.process.used() < self.cpu_max => Refusal::NoResult(
                NoResult::Stopped,
                format!("compiling had too little of the processor for {} s", self.wall.as_secs()),
            ),
            PipeError::Late => Refusal::NoResult(
                NoResult::TooCostlyToCompile,
                format!("compiling took more than {} s", self.wall.as_secs()),
            ),
            PipeError::NoMemory => Refusal::NoResult(NoResult::HostMemory, error.to_string()),
            PipeError::Closed => self
                .process
                .reap(REAP_MAX)
                .map_or_else(|| Refusal::NoResult(NoResult::ChildDied, error.to_string()), death),
            PipeError::Nonsense(_) | PipeError::System(_) => {
                Refusal::NoResult(NoResult::ChildDied, error.to_string())
            }
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        // Its leash may outlive it; the process must not.
        self.process.end(End::Dismissed);
    }
}

/// What the way a compiler died says. The system kills it for its processor time; a Rust program
/// whose allocation is refused aborts.
fn death(status: ExitStatus) -> Refusal {
    let too_costly = [Signal::XCPU, Signal::KILL, Signal::ABORT].map(Signal::as_raw);
    let reason = match status.signal() {
        Some(signal) if too_costly.contains(&signal) => NoResult::TooCostlyToCompile,
        // A panic: it would do the same again.
        None if status.code() == Some(EXIT_PANIC) => NoResult::Engine,
        _ => NoResult::ChildDied,
    };
    Refusal::NoResult(reason, format!("the compiler ended with {status}"))
}

/// The child's side: names its engine, compiles one module and exits.
pub(crate) fn serve(from_parent: OwnedFd, to_parent: &OwnedFd) -> ExitCode {
    let to_parent = to_parent.as_fd();
    let Ok(engine) = engine::compiling() else { return ExitCode::FAILURE };
    let print = engine::fingerprint(&engine);
    if pipe::send(to_parent, TAG_ENGINE, [&print], &mut Blocking).is_err() {
        return ExitCode::FAILURE;
    }
    let mut inbox = Inbox::new(from_parent);
    let mut wasm = Vec::new();
    let read = inbox.header(&mut Blocking).and_then(|header| match header.tag {
        TAG_MODULE => inbox.take(header.length, &mut wasm, &mut Blocking),
        _ => Err(PipeError::Nonsense("not a module")),
    });
    // A parent that only wanted the fingerprint closes the pipe here.
    let Ok(()) = read else { return ExitCode::SUCCESS };
    let sent = match artefact(&engine, &wasm) {
        Ok(code) => pipe::send(to_parent, TAG_ARTEFACT, [&code], &mut Blocking),
        Err(error) => {
            let mut reason = format!("{error:#}").into_bytes();
            reason.truncate(FAILED_MAX_BYTES);
            pipe::send(to_parent, TAG_FAILED, [&reason], &mut Blocking)
        }
    };
    if sent.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The artefact of a module, after the pass that makes its NaNs the same everywhere.
fn artefact(engine: &Engine, wasm: &[u8]) -> wasmtime::Result<Vec<u8>> {
    engine.precompile_module(&nan::canonicalise(wasm)?)
}

/// What is read of an artefact at once.
const PIECE_BYTES: usize = 1 << 20;
/// What a Rust program ends with when it panics.
const EXIT_PANIC: i32 = 101;
/// How much longer than its processor time a compiler may take: it runs when nothing else on the
/// machine wants to, and nobody else compiles meanwhile.
const WALL_PER_CPU: u32 = 30;
/// A process that has closed its pipes is gone in no time.
const REAP_MAX: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mib_that_has_begun_buys_time() {
        let limits = CompileLimits::DEFAULT;
        let asked = [0, 1, 1 << 20, (1 << 20) + 1].map(|bytes| limits.cpu_s(bytes));
        assert_eq!(asked, [10, 13, 13, 16]);
    }
}
