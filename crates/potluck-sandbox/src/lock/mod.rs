//! What a child gives up before it reads a byte from anybody, and what it may still ask the system
//! for afterwards.
//!
//! A child is locked twice, so that no single mistake opens it: its *domain* shows it no file, no
//! network and no other process, and a *filter* makes any system call that its work does not need
//! its last. The order matters: descriptors, limits, privileges and domain while there is one
//! thread ([`Lock::start`], [`Lock::confine`]), then the filters, which hold for every thread
//! ([`Lock::narrow`]). What each system lacks is said in its own file; what came of each step on
//! this machine is kept as [`Layer`]s.

#[cfg_attr(target_os = "linux", path = "linux.rs")]
#[cfg_attr(all(unix, not(target_os = "linux")), path = "macos.rs")]
#[cfg_attr(not(unix), path = "windows.rs")]
mod system;

#[cfg(unix)]
mod limits;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod calls;
#[cfg(target_os = "linux")]
mod domain;

use std::io;

use crate::layers::{Layer, LayerKind};

/// What a child is about to do: the filters let through what that needs and nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Turn modules into artefacts.
    Compile,
    /// Make an engine and load an artefact: the last time that memory becomes executable.
    Load,
    /// Run guests. Follows [`Stage::Load`] and only takes away.
    Serve,
}

/// How much a child may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Private writable memory. Does not cover address space that is only reserved, which an
    /// engine takes by the gigabyte.
    pub(crate) data_max_bytes: u64,
    /// Processor time, if it is bounded.
    pub(crate) cpu_max_s: Option<u64>,
    /// Whether it runs only when nothing else on the machine wants to.
    pub(crate) idle: bool,
}

/// The lock on this process, as far as it has been taken.
#[derive(Debug)]
pub(crate) struct Lock {
    strict: bool,
    layers: Vec<Layer>,
}

impl Lock {
    /// Closes every file descriptor above `last_kept`. A strict lock fails at the first layer that
    /// is not full; another makes do with what there is.
    ///
    /// Called before anything else in the child, so nothing in it owns those numbers.
    pub(crate) fn start(strict: bool, last_kept: u32) -> io::Result<Lock> {
        let mut lock = Lock { strict, layers: Vec::new() };
        lock.hold(system::close_above(last_kept))?;
        Ok(lock)
    }

    /// Takes everything but the filters, for this thread and those it will start. To be called
    /// while it is the only one.
    pub(crate) fn confine(&mut self, bounds: &Bounds) -> io::Result<()> {
        self.hold(system::limit(bounds)?)?;
        self.hold(system::drop_privileges()?)?;
        self.hold(system::leash()?)?;
        self.hold(system::give_way(bounds.idle)?)?;
        self.hold(system::enter_domain())
    }

    /// Takes every system call that `stage` can do without, from all threads.
    pub(crate) fn narrow(&mut self, stage: Stage) -> io::Result<()> {
        self.layers.retain(|layer| layer.kind != LayerKind::Calls);
        self.hold(system::filter(stage))
    }

    /// What holds by now.
    pub(crate) fn layers(&self) -> &[Layer] {
        &self.layers
    }

    fn hold(&mut self, layer: Layer) -> io::Result<()> {
        if self.strict && !layer.is_full() {
            return Err(io::Error::other(layer.to_string()));
        }
        self.layers.push(layer);
        Ok(())
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
