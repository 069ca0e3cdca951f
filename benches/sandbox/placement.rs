//! Keeping a parent and its child on one core, to see what a core does by itself: between two cores
//! that are otherwise idle much of a small unit's time is waking the other one.

/// This thread and all threads of process `pid` on the core this thread is on, while this lives.
pub(crate) struct OneCore {
    #[cfg(target_os = "linux")]
    before: rustix::thread::CpuSet,
}

impl OneCore {
    /// None where the system has no such thing.
    #[cfg(target_os = "linux")]
    pub(crate) fn with(pid: u32) -> Option<OneCore> {
        use rustix::thread::{CpuSet, Pid, sched_getaffinity, sched_getcpu, sched_setaffinity};
        let before = sched_getaffinity(None).ok()?;
        let mut here = CpuSet::new();
        here.set(sched_getcpu());
        let one = OneCore { before };
        sched_setaffinity(None, &here).ok()?;
        for thread in std::fs::read_dir(format!("/proc/{pid}/task")).ok()? {
            let thread = thread.ok()?.file_name().to_str()?.parse().ok()?;
            sched_setaffinity(Pid::from_raw(thread), &here).ok()?;
        }
        Some(one)
    }

    #[cfg(not(target_os = "linux"))]
    pub(crate) fn with(_: u32) -> Option<OneCore> {
        None
    }
}

impl Drop for OneCore {
    fn drop(&mut self) {
        // The child of a round ends with it; this thread goes on.
        #[cfg(target_os = "linux")]
        let _ = rustix::thread::sched_setaffinity(None, &self.before);
    }
}
