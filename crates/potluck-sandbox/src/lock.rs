//! What a child gives up when it starts, before it reads a byte from anybody.
//!
//! Each step is best effort on systems that lack it; on Linux all of them exist. None covers
//! system calls and the file system: a guest that has broken out of the engine can still read what
//! the user may read.

use std::io;

use rustix::process::{Resource, Rlimit};

/// Closes every file descriptor but the first three.
///
/// Called before anything else in the child, so nothing owns the numbers above 2.
pub(crate) fn close_others() {
    #[cfg(target_os = "linux")]
    #[expect(unsafe_code, reason = "there is no safe way to close what one does not own")]
    // SAFETY: `close_range` takes three integers. No object in this process owns a descriptor
    // above 2, because the child's entry calls this first.
    unsafe {
        libc::close_range(3, libc::c_uint::MAX, 0);
    }
}

/// The rights every child does without, whatever it does.
///
/// `data_max_bytes` bounds private writable memory. It does not cover address space that is only
/// reserved, which an engine takes by the gigabyte.
pub(crate) fn give_up(data_max_bytes: u64, cpu_max_s: Option<u64>) -> io::Result<()> {
    limit(Resource::Core, 0)?;
    limit(Resource::Fsize, 0)?;
    limit(Resource::Nofile, OPEN_FILES_MAX)?;
    limit(Resource::Data, data_max_bytes)?;
    if let Some(seconds) = cpu_max_s {
        limit(Resource::Cpu, seconds)?;
    }
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{DumpableBehavior, Signal};
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
        rustix::thread::set_no_new_privs(true)?;
    }
    rustix::process::nice(19)?;
    Ok(())
}

/// Runs only when nothing else on the machine wants to.
pub(crate) fn go_idle() {
    #[cfg(target_os = "linux")]
    #[expect(unsafe_code, reason = "rustix has no `sched_setscheduler`")]
    // SAFETY: the call reads one `sched_param`, which lives until it returns. Failing is harmless:
    // the process then has nice 19 alone.
    unsafe {
        let nothing = libc::sched_param { sched_priority: 0 };
        libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const nothing);
    }
}

/// Puts the floating-point control word of this thread to what the wasm specification assumes:
/// round to nearest, subnormal numbers kept, no traps. Anything else changes guests' results.
pub(crate) fn reset_float_control() {
    #[cfg(target_arch = "x86_64")]
    #[expect(unsafe_code, reason = "the control register is reached by an instruction")]
    // SAFETY: loads the register from a constant that lives until the instruction is done. The
    // value is the one that every Rust program starts with.
    unsafe {
        let control: u32 = 0x1f80;
        std::arch::asm!("ldmxcsr [{}]", in(reg) &raw const control, options(nostack, readonly));
    }
    #[cfg(target_arch = "aarch64")]
    #[expect(unsafe_code, reason = "the control register is reached by an instruction")]
    // SAFETY: writes the register; the value is the one that every Rust program starts with.
    unsafe {
        std::arch::asm!("msr fpcr, {}", in(reg) 0_u64, options(nomem, nostack));
    }
}

fn limit(resource: Resource, max: u64) -> io::Result<()> {
    // A donor's own limit may be lower already; it is kept.
    let hard = rustix::process::getrlimit(resource).maximum;
    let max = hard.map_or(max, |hard| hard.min(max));
    let limit = Rlimit { current: Some(max), maximum: Some(max) };
    Ok(rustix::process::setrlimit(resource, limit)?)
}

/// Pipes, the artefact, the engine's memory image, and some room.
const OPEN_FILES_MAX: u64 = 16;
