//! Processor time of a child, as the system counts it: a child cannot lie about it.

use std::time::Duration;

/// Counts one child's processor time from lap to lap.
#[derive(Debug)]
pub(crate) struct Meter {
    #[cfg(target_os = "linux")]
    clock: Option<libc::clockid_t>,
    last: Duration,
}

impl Meter {
    /// A meter for process `pid`, which the caller has not reaped.
    pub(crate) fn new(pid: u32) -> Meter {
        #[cfg(target_os = "linux")]
        {
            Meter { clock: clock_of(pid), last: Duration::ZERO }
        }
        #[cfg(not(target_os = "linux"))]
        {
            let _ = pid;
            Meter { last: Duration::ZERO }
        }
    }

    /// Processor time since the last lap. Once the process is reaped there is none.
    pub(crate) fn lap(&mut self) -> Option<Duration> {
        let now = self.total()?;
        let lap = now.checked_sub(self.last)?;
        self.last = now;
        Some(lap)
    }

    /// Processor time since the process started, or none where nobody counts it.
    #[cfg(not(target_os = "linux"))]
    pub(crate) fn total(&self) -> Option<Duration> {
        None
    }

    /// Processor time since the process started, or none where nobody counts it.
    #[cfg(target_os = "linux")]
    pub(crate) fn total(&self) -> Option<Duration> {
        let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        #[expect(unsafe_code, reason = "rustix knows no other process's clock")]
        // SAFETY: writes one `timespec`, which lives until the call returns. A clock of a process
        // that is gone is an error, not undefined.
        let status = unsafe { libc::clock_gettime(self.clock?, &raw mut time) };
        let seconds = u64::try_from(time.tv_sec).ok()?;
        let nanoseconds = u32::try_from(time.tv_nsec).ok()?;
        (status == 0).then(|| Duration::new(seconds, nanoseconds))
    }
}

#[cfg(target_os = "linux")]
fn clock_of(pid: u32) -> Option<libc::clockid_t> {
    let mut clock = 0;
    let pid = libc::pid_t::try_from(pid).ok()?;
    #[expect(unsafe_code, reason = "rustix knows no other process's clock")]
    // SAFETY: writes one `clockid_t`, which lives until the call returns.
    let status = unsafe { libc::clock_getcpuclockid(pid, &raw mut clock) };
    (status == 0).then_some(clock)
}
