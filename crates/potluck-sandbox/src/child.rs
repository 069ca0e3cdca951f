//! The entry of both children: gives up rights first, then does the one thing it was started for.
//!
//! Descriptors 0 and 1 are the pipes from and to the parent. On 2 a runner finds its artefact,
//! open for reading, and the memory it shares with its parent (see `shared`); once it has taken
//! them, 2 leads nowhere.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;

use crate::lock::{Bounds, Lock, Stage};
use crate::message::{ARGS_MAX_BYTES, FAILED_MAX_BYTES, STDIN_MAX_BYTES, TAG_FAILED, TAG_LAYERS};
use crate::pipe::{self, Blocking};
use crate::preview1::Caps;
use crate::{compiler, engine, guest, layers, shared};

/// Runs as a sandbox child. `argv` are the arguments after [`crate::Program::args`].
///
/// To be called before the process opens a file or starts a thread: it closes every descriptor
/// above 2, whoever owns it. The process must exit with what this returns and do nothing else.
pub fn child_main(argv: impl Iterator<Item = OsString>) -> ExitCode {
    let argv: Vec<String> =
        argv.take(WORDS_MAX).filter_map(|word| word.into_string().ok()).collect();
    let mut words: Vec<&str> = argv.iter().map(String::as_str).collect();
    let strict = words.first() == Some(&STRICT);
    if strict {
        words.remove(0);
    }
    let started = Lock::start(strict, LAST_GIVEN);
    let Some(role) = Role::of(&words) else { return ExitCode::from(EXIT_USAGE) };
    let Ok((from_parent, to_parent)) = pipes() else { return ExitCode::FAILURE };
    let served = started.and_then(|lock| match role {
        Role::Compile { cpu_max_s, memory_max_bytes } => {
            compile(lock, cpu_max_s, memory_max_bytes, from_parent, &to_parent)
        }
        Role::Run { caps, files_bytes } => run(lock, caps, files_bytes, from_parent, &to_parent),
        Role::Probe { data_max_bytes } => probe(lock, data_max_bytes, &to_parent),
    });
    served.unwrap_or_else(|error| {
        let text = format!("the child could not start: {error}");
        let text = &text.as_bytes()[..text.len().min(FAILED_MAX_BYTES)];
        let _ = pipe::send(to_parent.as_fd(), TAG_FAILED, [text], &mut Blocking);
        ExitCode::FAILURE
    })
}

/// What a child was started for.
enum Role {
    Compile { cpu_max_s: u64, memory_max_bytes: u64 },
    Run { caps: Caps, files_bytes: u64 },
    Probe { data_max_bytes: u64 },
}

impl Role {
    fn of(words: &[&str]) -> Option<Role> {
        let [role, numbers @ ..] = words else { return None };
        let numbers: Option<Vec<u64>> = numbers.iter().map(|word| word.parse().ok()).collect();
        match (*role, &numbers?[..]) {
            ("compile", &[cpu_max_s, memory_max_bytes]) => {
                Some(Role::Compile { cpu_max_s, memory_max_bytes })
            }
            ("run", &[memory, output, out, files_bytes]) => {
                Some(Role::Run { caps: Caps::new(memory, output, out), files_bytes })
            }
            ("probe", &[data_max_bytes]) => Some(Role::Probe { data_max_bytes }),
            _ => None,
        }
    }
}

fn compile(
    mut lock: Lock,
    cpu_max_s: u64,
    memory_max_bytes: u64,
    from_parent: OwnedFd,
    to_parent: &OwnedFd,
) -> io::Result<ExitCode> {
    lock_compiler(&mut lock, cpu_max_s, memory_max_bytes)?;
    Ok(compiler::serve(from_parent, to_parent))
}

fn lock_compiler(lock: &mut Lock, cpu_max_s: u64, memory_max_bytes: u64) -> io::Result<()> {
    lock.confine(&Bounds {
        data_max_bytes: memory_max_bytes,
        cpu_max_s: Some(cpu_max_s),
        idle: true,
    })?;
    lock.narrow(Stage::Compile)
}

fn run(
    lock: Lock,
    caps: Caps,
    files_bytes: u64,
    from_parent: OwnedFd,
    to_parent: &OwnedFd,
) -> io::Result<ExitCode> {
    let (artefact, window) = shared::take_over(rustix::stdio::stderr())?;
    rustix::stdio::dup2_stderr(File::options().write(true).open("/dev/null")?)?;
    let aloud = Arc::new(to_parent.try_clone()?);
    // An input file is there twice while it arrives.
    let data_max_bytes = caps
        .data_max_bytes()
        .saturating_add(files_bytes.saturating_mul(2))
        .saturating_add(OVERHEAD_BYTES);
    in_locked_runner(lock, data_max_bytes, |lock| {
        Ok(guest::serve(lock, artefact, caps, (from_parent, to_parent, aloud), window))
    })
}

/// Takes a runner's lock, all of it, and says what came of each step.
fn probe(lock: Lock, data_max_bytes: u64, to_parent: &OwnedFd) -> io::Result<ExitCode> {
    in_locked_runner(lock, data_max_bytes.saturating_add(OVERHEAD_BYTES), |lock| {
        lock.narrow(Stage::Serve)?;
        let layers = layers::to_bytes(lock.layers());
        let sent = pipe::send(to_parent.as_fd(), TAG_LAYERS, [&layers], &mut Blocking);
        Ok(if sent.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    })
}

/// Locks this process as a runner that is about to load its artefact, and goes on with `serve`.
fn in_locked_runner(
    mut lock: Lock,
    data_max_bytes: u64,
    serve: impl FnOnce(&mut Lock) -> io::Result<ExitCode> + Send,
) -> io::Result<ExitCode> {
    lock.confine(&Bounds { data_max_bytes, cpu_max_s: None, idle: true })?;
    let lock = &mut lock;
    let serve = move || {
        // This is the last thread there will be.
        lock.narrow(Stage::Load)?;
        serve(lock)
    };
    // Guests run on the stack of the thread that calls them, so this one has the guests' stack
    // and some for itself.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(THREAD_STACK_BYTES);
        thread.spawn_scoped(scope, serve)?.join().unwrap_or(Ok(ExitCode::FAILURE))
    })
}

/// What this process is locked for: the moments at which a child first meets foreign bytes.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LockedFor {
    /// A compiler that is about to read a module.
    Compiling,
    /// A runner that is about to load an artefact.
    Loading,
    /// A runner that is about to take its first unit.
    Serving,
    /// A runner as far as it is locked without a filter on system calls.
    Nothing,
}

/// Locks this process just as a child is, and then does what a child would not: so that a test can
/// see what the lock is worth against native code.
#[doc(hidden)]
pub fn run_locked(what: LockedFor, work: impl FnOnce() -> ExitCode + Send) -> io::Result<ExitCode> {
    let mut lock = Lock::start(false, LAST_GIVEN)?;
    match what {
        LockedFor::Compiling => {
            lock_compiler(&mut lock, TEST_CPU_S, TEST_BYTES)?;
            Ok(work())
        }
        LockedFor::Loading => in_locked_runner(lock, TEST_BYTES, |_| Ok(work())),
        LockedFor::Serving => in_locked_runner(lock, TEST_BYTES, |lock| {
            lock.narrow(Stage::Serve)?;
            Ok(work())
        }),
        LockedFor::Nothing => {
            lock.confine(&Bounds { data_max_bytes: TEST_BYTES, cpu_max_s: None, idle: true })?;
            Ok(work())
        }
    }
}

/// The pipes as objects of their own, so that nothing printed by accident gets into a frame.
fn pipes() -> io::Result<(OwnedFd, OwnedFd)> {
    let from_parent = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3)?;
    let to_parent = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3)?;
    let nowhere = File::options().read(true).write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdin(&nowhere)?;
    rustix::stdio::dup2_stdout(&nowhere)?;
    Ok((from_parent, to_parent))
}

/// The guests' stack and 16 MiB for our own calls below and above them.
const THREAD_STACK_BYTES: usize = engine::STACK_BYTES + (16 << 20);
/// What a runner needs beside guest memory and output: its stack, the largest request, and 96 MiB
/// for the engine, the program and tables.
const OVERHEAD_BYTES: u64 =
    (THREAD_STACK_BYTES + STDIN_MAX_BYTES + 4 * ARGS_MAX_BYTES + (96 << 20)) as u64;
/// The word before the role that makes a child end rather than do without a layer of its lock.
pub(crate) const STRICT: &str = "strict";
/// The highest descriptor that a parent hands over.
const LAST_GIVEN: u32 = 2;
/// The longest command line has six words, and a seventh shows that it is another.
const WORDS_MAX: usize = 7;
/// What a test's stand-in for a child may take.
const TEST_BYTES: u64 = 512 << 20;
const TEST_CPU_S: u64 = 10;
/// The command line was not one of ours.
const EXIT_USAGE: u8 = 64;
