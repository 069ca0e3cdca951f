//! Linux has every layer. A kernel may still lack one (landlock before 5.13, or left out when it
//! was built) and a container may refuse one: then that layer says so and the rest holds.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Signal};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::{Bounds, Stage, domain, limits};
use crate::layers::{Layer, LayerKind, LayerState};

pub(super) fn close_above(last_kept: u32) -> Layer {
    #[expect(unsafe_code, reason = "there is no safe way to close what one does not own")]
    // SAFETY: `close_range` takes three integers. No object in this process owns a descriptor
    // above `last_kept`, because the child's entry calls this first.
    let closed = unsafe { libc::close_range(last_kept + 1, libc::c_uint::MAX, 0) };
    let kind = LayerKind::Descriptors;
    if closed == 0 {
        return Layer::new(kind, LayerState::Full, "nothing but the pipes is handed over");
    }
    let why = io::Error::last_os_error();
    let note = format!("what the parent left open stays open, because close_range failed: {why}");
    Layer::new(kind, LayerState::Missing, note)
}

pub(super) fn limit(bounds: &Bounds) -> io::Result<Layer> {
    limits::take(bounds)?;
    limits::set(Resource::Memlock, 0)?;
    let note = "memory, open files and processes are bounded; no file can be written";
    Ok(Layer::new(LayerKind::Limits, LayerState::Full, note))
}

/// A node that runs as root must not have children with root's capabilities; one that does not has
/// none to drop.
pub(super) fn drop_privileges() -> io::Result<Layer> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable)?;
    rustix::thread::set_no_new_privs(true)?;
    // Who has no capabilities may not shrink the bound on them either, and need not.
    for capability in CapabilitySet::all() {
        let _ = rustix::thread::remove_capability_from_bounding_set(capability);
    }
    let none = CapabilitySet::empty();
    let sets = CapabilitySets { effective: none, permitted: none, inheritable: none };
    let dropped = rustix::thread::clear_ambient_capability_set()
        .and_then(|()| rustix::thread::set_capabilities(None, sets));
    Ok(match dropped {
        Ok(()) => {
            let note = "no capabilities, no new privileges, not to be traced or dumped";
            Layer::new(LayerKind::Privileges, LayerState::Full, note)
        }
        Err(errno) => {
            let note = format!("capabilities cannot be dropped: {errno}");
            Layer::new(LayerKind::Privileges, LayerState::Partial, note)
        }
    })
}

pub(super) fn leash() -> io::Result<Layer> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let note = "the system kills it when its parent ends";
    Ok(Layer::new(LayerKind::Leash, LayerState::Full, note))
}

pub(super) fn give_way(idle: bool) -> io::Result<Layer> {
    rustix::process::nice(19)?;
    if !idle {
        return Ok(Layer::new(LayerKind::Priority, LayerState::Full, "nice 19"));
    }
    let nothing = libc::sched_param { sched_priority: 0 };
    #[expect(unsafe_code, reason = "rustix has no `sched_setscheduler`")]
    // SAFETY: the call reads one `sched_param`, which lives until it returns.
    let set = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const nothing) };
    if set == 0 {
        let note = "nice 19 and SCHED_IDLE";
        return Ok(Layer::new(LayerKind::Priority, LayerState::Full, note));
    }
    let why = io::Error::last_os_error();
    let note = format!("nice 19, but SCHED_IDLE is refused: {why}");
    Ok(Layer::new(LayerKind::Priority, LayerState::Partial, note))
}

pub(super) fn enter_domain() -> Layer {
    domain::enter()
}

pub(super) fn filter(stage: Stage) -> Layer {
    // Every thread there will be has been started. The superuser's processes are not counted, so
    // this is nobody's only lock; the last stage can neither undo it nor do it again.
    if stage != Stage::Serve {
        let _ = limits::set(Resource::Nproc, 0);
    }
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    return super::calls::filter(stage);
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    Layer::new(LayerKind::Calls, LayerState::Missing, "its lists are of x86-64 and ARM calls only")
}
