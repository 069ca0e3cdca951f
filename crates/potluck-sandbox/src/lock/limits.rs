//! The resource limits that every Unix system has.

use std::io;

use rustix::process::{Resource, Rlimit};

use super::Bounds;

/// Takes them all.
pub(super) fn take(bounds: &Bounds) -> io::Result<()> {
    set(Resource::Core, 0)?;
    set(Resource::Fsize, 0)?;
    set(Resource::Nofile, OPEN_FILES_MAX)?;
    set(Resource::Data, bounds.data_max_bytes)?;
    bounds.cpu_max_s.map_or(Ok(()), |seconds| set(Resource::Cpu, seconds))
}

/// Takes one, for good.
pub(super) fn set(resource: Resource, max: u64) -> io::Result<()> {
    // A donor's own limit may be lower already; it is kept.
    let hard = rustix::process::getrlimit(resource).maximum;
    let max = hard.map_or(max, |hard| hard.min(max));
    let limit = Rlimit { current: Some(max), maximum: Some(max) };
    Ok(rustix::process::setrlimit(resource, limit)?)
}

/// Pipes, the artefact, the engine's memory image, and some room.
const OPEN_FILES_MAX: u64 = 16;
