//! What macOS and other Unix systems give a child: limits, a low priority, and stopping it where it
//! is. They have no landlock and no filter on system calls that a program could put on itself, no
//! way to be killed with the parent (a child ends when it next looks at its pipe), no limit on
//! private memory that holds, and no idle scheduling class. A guest that breaks out of the engine
//! there can do what the user can.

use std::io;

use rustix::process::Resource;

use super::{Bounds, Stage, limits};
use crate::layers::{Layer, LayerKind, LayerState};

pub(super) fn close_above(last_kept: u32) -> Layer {
    let last = rustix::process::getrlimit(Resource::Nofile).current.unwrap_or(OPEN_MAX);
    let first = i32::try_from(last_kept).unwrap_or(i32::MAX).saturating_add(1);
    for number in first..i32::try_from(last.min(OPEN_MAX)).unwrap_or(i32::MAX) {
        #[expect(unsafe_code, reason = "there is no safe way to close what one does not own")]
        // SAFETY: no object in this process owns a descriptor above `last_kept`, because the
        // child's entry calls this first. Closing one that is not open is an error, not undefined.
        unsafe {
            libc::close(number);
        }
    }
    let note = "nothing but the pipes is handed over";
    Layer::new(LayerKind::Descriptors, LayerState::Full, note)
}

pub(super) fn limit(bounds: &Bounds) -> io::Result<Layer> {
    limits::take(bounds)?;
    let note = "this system does not count mapped memory against a limit";
    Ok(Layer::new(LayerKind::Limits, LayerState::Partial, note))
}

pub(super) fn drop_privileges() -> io::Result<Layer> {
    let note = "this system cannot keep a process from gaining privileges";
    Ok(Layer::new(LayerKind::Privileges, LayerState::Missing, note))
}

pub(super) fn leash() -> io::Result<Layer> {
    let note = "this system does not kill a process with its parent";
    Ok(Layer::new(LayerKind::Leash, LayerState::Missing, note))
}

pub(super) fn give_way(idle: bool) -> io::Result<Layer> {
    rustix::process::nice(19)?;
    if idle {
        let note = "nice 19, but this system has no idle class";
        return Ok(Layer::new(LayerKind::Priority, LayerState::Partial, note));
    }
    Ok(Layer::new(LayerKind::Priority, LayerState::Full, "nice 19"))
}

pub(super) fn enter_domain() -> Layer {
    Layer::new(LayerKind::Domain, LayerState::Missing, "only Linux has it")
}

pub(super) fn filter(_: Stage) -> Layer {
    Layer::new(LayerKind::Calls, LayerState::Missing, "this system has none")
}

/// Where closing by hand stops when the limit says endless.
const OPEN_MAX: u64 = 10_240;
