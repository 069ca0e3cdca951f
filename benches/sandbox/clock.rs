//! Processor time to the nanosecond, of this thread, this process and others.

use std::time::Duration;

use rustix::time::ClockId;

/// What this thread has used.
pub(crate) fn thread() -> Duration {
    clock(ClockId::ThreadCPUTime)
}

/// What this process has used.
pub(crate) fn own() -> Duration {
    clock(ClockId::ProcessCPUTime)
}

/// What this process has used, and its children that have ended.
pub(crate) fn all() -> Duration {
    own() + ended_children()
}

fn clock(id: ClockId) -> Duration {
    Duration::try_from(rustix::time::clock_gettime(id)).expect("time goes up from zero")
}

fn ended_children() -> Duration {
    let mut usage = std::mem::MaybeUninit::<libc::rusage>::zeroed();
    #[expect(unsafe_code, reason = "rustix has no `getrusage`")]
    // SAFETY: writes one `rusage`, which lives until the call returns, and for which all zeroes
    // are a value, too.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_CHILDREN, usage.as_mut_ptr());
        usage.assume_init()
    };
    [usage.ru_utime, usage.ru_stime].map(|time| of(time.tv_sec, 1000 * time.tv_usec)).iter().sum()
}

fn of(seconds: i64, nanoseconds: i64) -> Duration {
    let seconds = u64::try_from(seconds).expect("time goes up from zero");
    Duration::from_secs(seconds)
        + Duration::from_nanos(u64::try_from(nanoseconds).expect("time goes up from zero"))
}

/// The processor time of another process.
pub(crate) struct Meter(libc::clockid_t);

impl Meter {
    pub(crate) fn of(pid: u32) -> Meter {
        let mut clock = 0;
        let pid = libc::pid_t::try_from(pid).expect("a process id");
        #[expect(unsafe_code, reason = "rustix knows no other process's clock")]
        // SAFETY: writes one `clockid_t`, which lives until the call returns.
        let status = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
        assert_eq!(status, 0, "the process is there");
        Meter(clock)
    }

    pub(crate) fn read(&self) -> Duration {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        #[expect(unsafe_code, reason = "rustix knows no other process's clock")]
        // SAFETY: writes one `timespec`, which lives until the call returns.
        let status = unsafe { libc::clock_gettime(self.0, &raw mut time) };
        assert_eq!(status, 0, "the process is there");
        of(time.tv_sec, time.tv_nsec)
    }
}

/// Whether every thread of a process stands still.
pub(crate) fn is_stopped(pid: u32) -> bool {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process is there");
    tasks.map(|task| task.expect("a thread").path().join("stat")).all(|stat| {
        let text = std::fs::read_to_string(stat).unwrap_or_default();
        text.rsplit(')').next().is_some_and(|fields| fields.trim_start().starts_with('T'))
    })
}
