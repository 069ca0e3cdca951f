//! A child process on a leash: started clean, signalled only while it exists, always reaped.
//!
//! A process id may be given to somebody else once its process has been reaped. So every signal
//! and the reaping itself happen under one lock: whoever holds it knows that the id is still ours.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use crate::Program;
use crate::cpu;

/// Who ended a child from this side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Somebody holding a handle.
    Asked,
    /// Its runner: deadline, nonsense, or no more use for it.
    Dismissed,
}

/// Why a child stands still. It goes on when no reason is left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Hold {
    /// Somebody holding a handle wants it to.
    Asked,
    /// It has used its share of the processor.
    Throttled,
    /// The leash that it shares with others is held.
    Leashed,
    /// Those on its leash have together used their share of the processor.
    LeashThrottled,
}

/// What came of changing a hold without waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Attempt {
    /// It is as asked.
    Done,
    /// Somebody else has the process in hand. Nothing has changed.
    Busy,
    /// The process has ended. Nothing has changed.
    Gone,
}

/// One child process.
#[derive(Debug)]
pub(crate) struct Process {
    pid: u32,
    meter: cpu::Meter,
    /// What it had used when it was dead and not yet reaped.
    used_in_all: OnceLock<Duration>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    child: Child,
    exited: Option<ExitStatus>,
    end: Option<End>,
    started: Instant,
    /// Why it stands still, a bit for each [`Hold`].
    holds: u8,
    suspended_since: Option<Instant>,
    suspended: Duration,
}

/// A child that has just started, with the parent's ends of its pipes. Both are non-blocking.
pub(crate) struct Started {
    pub(crate) process: Process,
    pub(crate) to_child: OwnedFd,
    pub(crate) from_child: OwnedFd,
}

impl Process {
    /// Starts `program` as a sandbox child with `parameters`: empty environment, `/` as its
    /// directory, pipes on descriptors 0 and 1, and on 2 whatever `third` is.
    pub(crate) fn start(
        program: &Program,
        parameters: &[String],
        third: Stdio,
    ) -> io::Result<Started> {
        let mut command = Command::new(&program.path);
        command.args(&program.args).args(parameters).env_clear().current_dir("/");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(third);
        let mut child = nursery(command)?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let process = Process {
            pid: child.id(),
            meter: cpu::Meter::new(child.id()),
            used_in_all: OnceLock::new(),
            state: Mutex::new(State {
                child,
                exited: None,
                end: None,
                started: Instant::now(),
                holds: 0,
                suspended_since: None,
                suspended: Duration::ZERO,
            }),
        };
        // From here on dropping `process` kills and reaps.
        let (to_child, from_child) = pipes.ok_or(io::ErrorKind::BrokenPipe)?;
        let (to_child, from_child) = (OwnedFd::from(to_child), OwnedFd::from(from_child));
        rustix::io::ioctl_fionbio(&to_child, true)?;
        rustix::io::ioctl_fionbio(&from_child, true)?;
        Ok(Started { process, to_child, from_child })
    }

    /// The process id, for people and for measuring. May be somebody else's once this is reaped.
    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Ends the process now and reaps it. The first reason given stays.
    pub(crate) fn end(&self, end: End) {
        let mut state = self.lock();
        if state.exited.is_none() {
            state.end.get_or_insert(end);
            // Killing works on a stopped process too, and can only fail on one that is gone.
            let _ = state.child.kill();
            self.note_use(&state, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT);
            state.exited = state.child.wait().ok();
        }
    }

    /// Kills the process and leaves the reaping, which can take as long as its memory takes to be
    /// cleared away, to whoever runs it.
    pub(crate) fn strike(&self) {
        let mut state = self.lock();
        if state.exited.is_none() {
            state.end.get_or_insert(End::Asked);
            let _ = state.child.kill();
        }
    }

    /// Processor time that the process has used up to now, or in all. Where the system does not
    /// say, all the time that it was not stopped.
    pub(crate) fn used(&self) -> Duration {
        let in_all = || self.used_in_all.get().copied();
        // It may be reaped between two of these.
        in_all().or_else(|| self.meter.total()).or_else(in_all).unwrap_or_else(|| self.awake())
    }

    /// Reads the meter for the last time, if the process is dead: it is gone with the reaping.
    fn note_use(&self, state: &State, options: WaitIdOptions) {
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        let dead = pid.and_then(|pid| rustix::process::waitid(WaitId::Pid(pid), options).ok());
        if dead.flatten().is_some() {
            self.used_in_all.get_or_init(|| self.meter.total().unwrap_or_else(|| awake(state)));
        }
    }

    /// Whether the process has ended and been reaped, as far as one can tell without waiting.
    pub(crate) fn is_gone(&self) -> bool {
        self.state.try_lock().is_ok_and(|state| state.exited.is_some())
    }

    /// Who ended it from this side, if anybody did.
    pub(crate) fn ended(&self) -> Option<End> {
        self.lock().end
    }

    /// Waits for a process that has closed its pipes, at most `patience`, then ends it.
    pub(crate) fn reap(&self, patience: Duration) -> Option<ExitStatus> {
        let until = Instant::now() + patience;
        loop {
            {
                let mut state = self.lock();
                if state.exited.is_none() {
                    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
                    self.note_use(&state, options | WaitIdOptions::NOHANG);
                    state.exited = state.child.try_wait().ok().flatten();
                }
                if state.exited.is_some() || Instant::now() >= until {
                    break;
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        self.end(End::Dismissed);
        self.lock().exited
    }

    /// Stops the process where it is for one reason, or takes that reason back. Does not wait for a
    /// process that is being reaped, which can take as long as its memory takes to be cleared away.
    pub(crate) fn try_hold(&self, why: Hold, held: bool) -> Attempt {
        let mut state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(state)) => state.into_inner(),
            Err(TryLockError::WouldBlock) => return Attempt::Busy,
        };
        self.settle(&mut state, why, held);
        if state.exited.is_some() { Attempt::Gone } else { Attempt::Done }
    }

    fn settle(&self, state: &mut State, why: Hold, held: bool) {
        let bit = 1 << why as u8;
        state.holds = if held { state.holds | bit } else { state.holds & !bit };
        let suspended = state.holds != 0;
        if state.exited.is_some() || suspended == state.suspended_since.is_some() {
            return;
        }
        let signal = if suspended { Signal::STOP } else { Signal::CONT };
        let pid = i32::try_from(self.pid).ok().and_then(Pid::from_raw);
        if pid.is_none_or(|pid| rustix::process::kill_process(pid, signal).is_err()) {
            return;
        }
        match state.suspended_since.take() {
            Some(since) => state.suspended += since.elapsed(),
            None => state.suspended_since = Some(Instant::now()),
        }
    }

    /// How long the process has been allowed to run: time since its start, suspensions left out.
    pub(crate) fn awake(&self) -> Duration {
        awake(&self.lock())
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn awake(state: &State) -> Duration {
    let until = state.suspended_since.unwrap_or_else(Instant::now);
    until.saturating_duration_since(state.started).saturating_sub(state.suspended)
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end(End::Dismissed);
    }
}

/// Spawns on one thread that lives as long as this process does.
///
/// Children ask to be killed when their parent dies, and by that the kernel means the *thread*
/// that spawned them. A worker thread of a pool may end at any time; this one does not.
fn nursery(command: Command) -> io::Result<Child> {
    type Order = (Command, SyncSender<io::Result<Child>>);
    static NURSERY: OnceLock<Result<SyncSender<Order>, io::ErrorKind>> = OnceLock::new();
    let nursery = NURSERY.get_or_init(|| {
        let (orders, queue) = sync_channel::<Order>(QUEUE_MAX);
        let spawn = move || {
            for (mut command, answer) in queue {
                // Whoever ordered it may be gone; then the child's pipes close and it exits.
                let _ = answer.send(command.spawn());
            }
        };
        let thread = std::thread::Builder::new().name("sandbox-nursery".into()).spawn(spawn);
        thread.map(|_| orders).map_err(|error| error.kind())
    });
    let orders = nursery.as_ref().map_err(|kind| io::Error::from(*kind))?;
    let (answer, child) = sync_channel(1);
    orders.send((command, answer)).map_err(|_| io::ErrorKind::BrokenPipe)?;
    child.recv().map_err(|_| io::ErrorKind::BrokenPipe)?
}

/// Spawning takes a millisecond; whoever finds the queue full waits for its turn.
const QUEUE_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_stands_still_and_its_time_too_until_no_reason_is_left() {
        let program = Program { path: "/bin/cat".into(), args: Vec::new() };
        let process = Process::start(&program, &[], Stdio::null()).unwrap().process;
        let stands = || {
            let before = process.awake();
            std::thread::sleep(Duration::from_millis(2));
            process.awake() == before
        };
        assert!(!stands());
        process.try_hold(Hold::Asked, true);
        assert!(stands());
        assert_eq!(process.try_hold(Hold::Throttled, true), Attempt::Done);
        process.try_hold(Hold::Asked, false);
        assert!(stands(), "one reason is left");
        process.try_hold(Hold::Asked, true);
        process.try_hold(Hold::Throttled, false);
        assert!(stands(), "the other is left");
        process.try_hold(Hold::Asked, false);
        assert!(!stands());
        let lock = process.lock();
        assert_eq!(process.try_hold(Hold::Throttled, true), Attempt::Busy);
        drop(lock);
        assert!(!process.is_gone());
        process.end(End::Dismissed);
        assert_eq!(process.try_hold(Hold::Throttled, true), Attempt::Gone);
        assert!(process.is_gone());
    }
}
