//! The demo's workers: processes of this very program that never outlive the demo, however it ends.
//!
//! Three nets under each other: the crew stops its workers when it is dropped, which covers errors,
//! signals and panics; the kernel kills the workers of a demo that was itself killed; and each
//! worker leads a process group of its own, so that its sandboxes are found and killed with it.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use serde::Deserialize;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::time::timeout;

use crate::exit::Failure;

/// Worker processes with a folder of their own each.
#[derive(Debug)]
pub(crate) struct Crew {
    folder: PathBuf,
    workers: Vec<Child>,
}

/// A worker that has not said yet where it listens.
#[derive(Debug)]
pub(crate) struct Hired {
    name: String,
    stdout: ChildStdout,
    log: PathBuf,
}

/// What a worker says first, see the worker verb.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Greeting {
    pub(crate) id: String,
    pub(crate) listen: SocketAddr,
}

/// No rule pauses the demo's workers or slows them down.
const UNPAUSED: [&str; 8] = [
    "budget.memory=2GiB",
    "budget.upload=unlimited",
    "budget.download=unlimited",
    "budget.others-cpu-max=100",
    "budget.pause-on-battery=false",
    "budget.battery-min=0",
    "budget.pause-on-metered=false",
    "budget.temperature-max=110",
];

impl Crew {
    /// A crew that keeps its data below `folder`.
    pub(crate) fn new(folder: &Path) -> Crew {
        Crew { folder: folder.to_owned(), workers: Vec::new() }
    }

    /// The data folder of the worker of this name.
    pub(crate) fn data(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Starts one more worker. To be called from the main thread only: the kernel ends the worker
    /// when the thread that started it ends.
    pub(crate) fn hire(
        &mut self,
        name: &str,
        join: Option<SocketAddr>,
        extra: &[&str],
    ) -> Result<Hired, Failure> {
        let log = self.folder.join(format!("{name}.log"));
        let start = || {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["worker", "--json", "--private", "--listen", "127.0.0.1:0"]);
            command.args(["--slots", "1"]);
            // Whoever shows a grid wants to see it work, whatever else the machine does or runs on.
            command.args(UNPAUSED.iter().flat_map(|setting| ["--set", setting]));
            command.arg("--data");
            command.arg(self.data(name)).args(extra);
            if let Some(join) = join {
                command.args(["--join", &join.to_string()]);
            }
            command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&log)?);
            command.process_group(0);
            end_with_us(&mut command);
            command.spawn()
        };
        let mut child =
            start().map_err(|error| Failure::failed(format!("cannot start {name}: {error}")))?;
        let stdout = child.stdout.take();
        self.workers.push(child);
        let stdout =
            stdout.ok_or_else(|| Failure::failed(format!("{name} has no standard output")))?;
        Ok(Hired { name: name.to_owned(), stdout, log })
    }

    /// A worker that has ended although nobody asked it to.
    pub(crate) fn deserter(&mut self) -> Option<u32> {
        let ended = |child: &mut Child| !matches!(child.try_wait(), Ok(None));
        self.workers.iter_mut().find_map(|child| ended(child).then(|| child.id()))
    }

    fn any_left(&mut self) -> bool {
        self.workers.iter_mut().any(|child| matches!(child.try_wait(), Ok(None)))
    }
}

impl Hired {
    /// Waits for the worker's first line.
    pub(crate) async fn greeting(self) -> Result<Greeting, Failure> {
        let line = timeout(GREETING_TIMEOUT, first_line(self.stdout)).await;
        let greeting = match line {
            Ok(Ok(line)) => serde_json::from_str(&line).map_err(|error| error.to_string()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("nothing said within {} s", GREETING_TIMEOUT.as_secs())),
        };
        greeting.map_err(|error| {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            let why = log.lines().last().map_or(error, str::to_owned);
            Failure::failed(format!("{} did not start: {why}", self.name))
        })
    }
}

impl Drop for Crew {
    /// Asks every worker to stop, waits a little, and kills what is left.
    fn drop(&mut self) {
        for child in &self.workers {
            send(child.id(), libc::SIGINT);
        }
        let until = Instant::now() + STOP_TIMEOUT;
        while self.any_left() && Instant::now() < until {
            // No event loop here: a panic or an early error may have ended it.
            std::thread::sleep(Duration::from_millis(5));
        }
        for child in &mut self.workers {
            send_group(child.id(), libc::SIGKILL);
            // Reaps it; an error means that there is nothing to reap.
            let _ = child.wait();
        }
    }
}

async fn first_line(stdout: ChildStdout) -> io::Result<String> {
    let stdout = tokio::process::ChildStdout::from_std(stdout)?;
    let mut line = String::new();
    BufReader::new(stdout.take(GREETING_BYTES_MAX)).read_line(&mut line).await?;
    Ok(line)
}

#[cfg(target_os = "linux")]
#[expect(
    unsafe_code,
    reason = "only between fork and exec can a child be told to end with its parent"
)]
fn end_with_us(command: &mut Command) {
    let us = std::process::id();
    let ask = move || {
        // SAFETY: prctl with these arguments only sets an attribute of the calling process, and both
        // calls may be made between fork and exec; nothing is allocated.
        let (asked, parent) =
            unsafe { (libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL), libc::getppid()) };
        if asked != 0 {
            return Err(io::Error::last_os_error());
        }
        // We may have been killed before the kernel was asked: then nobody is left to end it.
        if u32::try_from(parent) == Ok(us) { Ok(()) } else { Err(io::ErrorKind::NotFound.into()) }
    };
    // SAFETY: the closure calls nothing that is unsafe after a fork, see above.
    unsafe { command.pre_exec(ask) };
}

#[cfg(not(target_os = "linux"))]
fn end_with_us(_: &mut Command) {}

/// Sends a signal to a child that has not been reaped, so that its number is still its own.
fn send(child: u32, signal: i32) {
    if let Ok(child) = libc::pid_t::try_from(child) {
        kill(child, signal);
    }
}

/// The same to all of the child's process group.
fn send_group(child: u32, signal: i32) {
    if let Ok(child) = libc::pid_t::try_from(child) {
        kill(-child, signal);
    }
}

#[expect(unsafe_code, reason = "the standard library can send SIGKILL only")]
fn kill(target: libc::pid_t, signal: i32) {
    // SAFETY: kill touches no memory of ours; an error means that the target is gone already.
    let _ = unsafe { libc::kill(target, signal) };
}

/// A debug build on a loaded machine needs several seconds.
const GREETING_TIMEOUT: Duration = Duration::from_secs(30);
/// The first line has about 150 bytes.
const GREETING_BYTES_MAX: u64 = 4096;
/// How long a worker may take to stop by itself.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
