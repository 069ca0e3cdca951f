//! The entry of both children: gives up rights first, then does the one thing it was started for.
//!
//! Descriptors 0 and 1 are the pipes from and to the parent. On 2 a runner finds its artefact,
//! open for reading, because the first three are the only ones that every way of spawning hands
//! over; once it has taken that, 2 leads nowhere.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::ExitCode;

use crate::message::{ARGS_MAX_BYTES, FAILED_MAX_BYTES, STDIN_MAX_BYTES, TAG_FAILED};
use crate::pipe::{self, Blocking};
use crate::{compiler, engine, guest, lock};

/// Runs as a sandbox child. `argv` are the arguments after [`crate::Program::args`].
///
/// To be called before the process opens a file or starts a thread: it closes every descriptor
/// above 2, whoever owns it. The process must exit with what this returns and do nothing else.
pub fn child_main(argv: impl Iterator<Item = OsString>) -> ExitCode {
    lock::close_others();
    let argv: Vec<String> =
        argv.take(WORDS_MAX).filter_map(|word| word.into_string().ok()).collect();
    let words: Vec<&str> = argv.iter().map(String::as_str).collect();
    let [role @ ("compile" | "run"), first, second] = words[..] else {
        return ExitCode::from(EXIT_USAGE);
    };
    let Some((first, second)) = first.parse().ok().zip(second.parse().ok()) else {
        return ExitCode::from(EXIT_USAGE);
    };
    let Ok((from_parent, to_parent)) = pipes() else { return ExitCode::FAILURE };
    let served = match role {
        "compile" => compile(first, second, from_parent, &to_parent),
        _ => run(first, second, from_parent, &to_parent),
    };
    served.unwrap_or_else(|error| {
        let text = format!("the child could not start: {error}");
        let text = &text.as_bytes()[..text.len().min(FAILED_MAX_BYTES)];
        let _ = pipe::send(to_parent.as_fd(), TAG_FAILED, [text], &mut Blocking);
        ExitCode::FAILURE
    })
}

fn compile(
    cpu_max_s: u64,
    memory_max_bytes: u64,
    from_parent: OwnedFd,
    to_parent: &OwnedFd,
) -> io::Result<ExitCode> {
    lock::give_up(memory_max_bytes, Some(cpu_max_s))?;
    Ok(compiler::serve(from_parent, to_parent))
}

fn run(
    memory_max_bytes: u64,
    output_max_bytes: u64,
    from_parent: OwnedFd,
    to_parent: &OwnedFd,
) -> io::Result<ExitCode> {
    let artefact = File::from(rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stderr(), 3)?);
    rustix::stdio::dup2_stderr(File::options().write(true).open("/dev/null")?)?;
    let data_max_bytes = memory_max_bytes
        .saturating_add(output_max_bytes.saturating_mul(2))
        .saturating_add(OVERHEAD_BYTES);
    lock::give_up(data_max_bytes, None)?;
    lock::go_idle();
    let serve =
        || guest::serve(artefact, memory_max_bytes, output_max_bytes, from_parent, to_parent);
    // Guests run on the stack of the thread that calls them, so this one has the guests' stack
    // and some for itself.
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(THREAD_STACK_BYTES);
        Ok(thread.spawn_scoped(scope, serve)?.join().unwrap_or(ExitCode::FAILURE))
    })
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
/// The longest command line has three words, and a fourth shows that it is another.
const WORDS_MAX: usize = 4;
/// The command line was not one of ours.
const EXIT_USAGE: u8 = 64;
