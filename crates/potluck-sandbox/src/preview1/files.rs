//! Reading and writing: streams and files alike.
//!
//! Reads and writes are full: all of the vectors, until the end or the cap is reached, so that a
//! program that forgets to loop behaves the same everywhere. A write to a file that does not fit
//! the quota changes nothing.

use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

use potluck_unit::{Fault, NoResult};
use wasmtime::{Caller, Linker};

use super::descriptors::{
    FLAG_APPEND, RIGHT_ALLOCATE, RIGHT_READ, RIGHT_SEEK, RIGHT_SET_SIZE, RIGHT_TELL, RIGHT_WRITE,
    Rights, Target,
};
use super::memory::{Array, GuestMemory, split};
use super::tree::Id;
use super::{Answer, Errno, Guest, Halt, MODULE, Stop, number, number_or_stop};
use crate::message::{STDERR_MAX_BYTES, TAG_OUTPUT};
use crate::pipe::{self, Blocking};

type Call<'a> = Caller<'a, Guest>;

/// What has gone through the three streams.
#[derive(Debug)]
pub(super) struct Streams {
    input_read: usize,
    output: Vec<u8>,
    output_max_bytes: usize,
    /// The pipe to a parent that wants to hear output as it comes.
    aloud: Option<Arc<OwnedFd>>,
    error: Vec<u8>,
}

impl Streams {
    pub(super) fn new(
        output_max_bytes: usize,
        aloud: Option<Arc<OwnedFd>>,
        output: Vec<u8>,
        error: Vec<u8>,
    ) -> Streams {
        Streams { input_read: 0, output, output_max_bytes, aloud, error }
    }

    pub(super) fn stdout(&self) -> &[u8] {
        &self.output
    }

    pub(super) fn into_buffers(self) -> (Vec<u8>, Vec<u8>) {
        (self.output, self.error)
    }

    fn write_output(&mut self, bytes: &[u8]) -> Result<(), Halt> {
        if bytes.len() > self.output_max_bytes - self.output.len() {
            return Err(Stop::Fault(Fault::OutputTooLarge).into());
        }
        let no_memory = |_| Stop::NoResult(NoResult::HostMemory);
        self.output.try_reserve(bytes.len()).map_err(no_memory)?;
        self.output.extend_from_slice(bytes);
        if let Some(parent) = &self.aloud
            && !bytes.is_empty()
        {
            // A parent that has gone is noticed when the unit is done.
            let _ = pipe::send(parent.as_fd(), TAG_OUTPUT, [bytes], &mut Blocking);
        }
        Ok(())
    }

    fn write_error(&mut self, bytes: &[u8]) {
        let kept = bytes.len().min(STDERR_MAX_BYTES - self.error.len());
        self.error.extend_from_slice(&bytes[..kept]);
    }
}

impl Guest {
    /// The file behind `fd`, if `rights` are held; of a stream `if_stream` is said.
    pub(super) fn file(&self, fd: u32, rights: Rights, if_stream: Errno) -> Result<Id, Errno> {
        let open = self.descriptors.get(fd)?;
        let Target::Node(id) = open.target else { return Err(if_stream) };
        if self.files.get(id)?.is_folder() {
            return Err(Errno::IsFolder);
        }
        open.allow(rights)?;
        Ok(id)
    }

    /// The same for a file that is to be changed.
    pub(super) fn own_file(&self, fd: u32, rights: Rights, if_stream: Errno) -> Result<Id, Errno> {
        let id = self.file(fd, rights, if_stream)?;
        if self.files.is_own(id) { Ok(id) } else { Err(Errno::ReadOnly) }
    }

    /// What the next read of `fd` would find, whether it may read or not.
    pub(super) fn rest(&self, fd: u32) -> Result<&[u8], Errno> {
        let open = self.descriptors.get(fd)?;
        Ok(match open.target {
            Target::Input => {
                self.request.stdin().get(self.streams.input_read..).unwrap_or_default()
            }
            Target::Output | Target::Error => &[],
            Target::Node(id) => from(self.files.get(id)?.contents(), open.at),
        })
    }
}

pub(super) fn define(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    linker.func_wrap(
        MODULE,
        "fd_read",
        |mut caller: Call<'_>, fd: u32, at: u32, count: u32, to: u32| {
            number(read(&mut caller, fd, Array { at, count }, to))
        },
    )?;
    linker.func_wrap(
        MODULE,
        "fd_write",
        |mut caller: Call<'_>, fd: u32, at: u32, count: u32, to: u32| {
            number_or_stop(write(&mut caller, fd, Array { at, count }, to))
        },
    )?;
    linker.func_wrap(
        MODULE,
        "fd_pread",
        |mut caller: Call<'_>, fd: u32, at: u32, count: u32, offset: u64, to: u32| {
            number(read_at(&mut caller, fd, Array { at, count }, offset, to))
        },
    )?;
    linker.func_wrap(
        MODULE,
        "fd_pwrite",
        |mut caller: Call<'_>, fd: u32, at: u32, count: u32, offset: u64, to: u32| {
            number_or_stop(write_at(&mut caller, fd, Array { at, count }, offset, to))
        },
    )?;
    linker.func_wrap(
        MODULE,
        "fd_seek",
        |mut caller: Call<'_>, fd: u32, by: i64, whence: u32, to: u32| {
            number(seek(&mut caller, fd, by, whence, to))
        },
    )?;
    linker.func_wrap(MODULE, "fd_tell", |mut caller: Call<'_>, fd: u32, to: u32| {
        number(seek(&mut caller, fd, 0, WHENCE_CURRENT, to))
    })?;
    linker.func_wrap(
        MODULE,
        "fd_allocate",
        |mut caller: Call<'_>, fd: u32, at: u64, more: u64| {
            number_or_stop(allocate(caller.data_mut(), fd, at, more))
        },
    )?;
    linker.func_wrap(
        MODULE,
        "fd_filestat_set_size",
        |mut caller: Call<'_>, fd: u32, size: u64| {
            number_or_stop(set_size(caller.data_mut(), fd, size))
        },
    )?;
    Ok(())
}

fn read(caller: &mut Call<'_>, fd: u32, vectors: Array, to: u32) -> Answer {
    let (mut memory, guest) = split(caller)?;
    let open = guest.descriptors.get(fd)?;
    match open.target {
        Target::Input => open.allow(RIGHT_READ)?,
        Target::Output | Target::Error => return Err(Errno::BadDescriptor),
        Target::Node(_) => guest.file(fd, RIGHT_READ, Errno::BadDescriptor).map(|_| ())?,
    }
    let total = memory.scatter(vectors, guest.rest(fd)?)?;
    let open = guest.descriptors.get_mut(fd)?;
    match open.target {
        Target::Input => guest.streams.input_read += total as usize,
        Target::Output | Target::Error | Target::Node(_) => open.at += u64::from(total),
    }
    memory.write_u32(to, total)
}

fn read_at(caller: &mut Call<'_>, fd: u32, vectors: Array, offset: u64, to: u32) -> Answer {
    let (mut memory, guest) = split(caller)?;
    let id = guest.file(fd, RIGHT_READ | RIGHT_SEEK, Errno::IllegalSeek)?;
    let total = memory.scatter(vectors, from(guest.files.get(id)?.contents(), offset))?;
    memory.write_u32(to, total)
}

/// What is in a file from `at` on.
fn from(contents: &[u8], at: u64) -> &[u8] {
    usize::try_from(at).ok().and_then(|at| contents.get(at..)).unwrap_or_default()
}

fn write(caller: &mut Call<'_>, fd: u32, vectors: Array, to: u32) -> Result<(), Halt> {
    let (mut memory, guest) = split(caller)?;
    let open = guest.descriptors.get(fd)?;
    let (target, flags, at) = (open.target, open.flags, open.at);
    if target == Target::Input {
        return Err(Errno::BadDescriptor.into());
    }
    let total = if let Target::Node(_) = target {
        let id = guest.own_file(fd, RIGHT_WRITE, Errno::BadDescriptor)?;
        let end = guest.files.get(id)?.contents().len() as u64;
        let at = if flags & FLAG_APPEND != 0 { end } else { at };
        let total = write_file(&memory, guest, id, vectors, at)?;
        guest.descriptors.get_mut(fd)?.at = at + u64::from(total);
        total
    } else {
        open.allow(RIGHT_WRITE)?;
        // All or nothing: a vector that is no good is found before the first byte is written.
        let total = memory.check(vectors)?;
        for index in 0..vectors.count {
            let (at, length) = memory.vector(vectors, index)?;
            let bytes = memory.bytes(at, length)?;
            match target {
                Target::Output => guest.streams.write_output(bytes)?,
                Target::Input | Target::Error | Target::Node(_) => guest.streams.write_error(bytes),
            }
        }
        total
    };
    memory.write_u32(to, total)?;
    Ok(())
}

fn write_at(
    caller: &mut Call<'_>,
    fd: u32,
    vectors: Array,
    offset: u64,
    to: u32,
) -> Result<(), Halt> {
    let (mut memory, guest) = split(caller)?;
    let id = guest.own_file(fd, RIGHT_WRITE | RIGHT_SEEK, Errno::IllegalSeek)?;
    let total = write_file(&memory, guest, id, vectors, offset)?;
    memory.write_u32(to, total)?;
    Ok(())
}

fn write_file(
    memory: &GuestMemory<'_>,
    guest: &mut Guest,
    id: Id,
    vectors: Array,
    at: u64,
) -> Result<u32, Halt> {
    let total = memory.check(vectors)?;
    if total == 0 {
        return Ok(0);
    }
    guest.files.grow(id, at.saturating_add(total.into()), guest.clock.now_ns())?;
    let mut into = guest.files.bytes_mut(id, at)?;
    for index in 0..vectors.count {
        let (at, length) = memory.vector(vectors, index)?;
        let bytes = memory.bytes(at, length)?;
        let (here, rest) = into.split_at_mut_checked(bytes.len()).ok_or(Errno::Invalid)?;
        here.copy_from_slice(bytes);
        into = rest;
    }
    Ok(total)
}

fn seek(caller: &mut Call<'_>, fd: u32, by: i64, whence: u32, to: u32) -> Answer {
    let (mut memory, guest) = split(caller)?;
    let id = guest.file(fd, 0, Errno::IllegalSeek)?;
    let open = guest.descriptors.get_mut(fd)?;
    let only_tells = by == 0 && whence == WHENCE_CURRENT;
    if !only_tells || open.allow(RIGHT_TELL).is_err() {
        // Whoever may seek may ask where it is.
        open.allow(RIGHT_SEEK)?;
    }
    let start = match whence {
        WHENCE_START => 0,
        WHENCE_CURRENT => open.at,
        WHENCE_END => guest.files.get(id)?.contents().len() as u64,
        _ => return Err(Errno::Invalid),
    };
    let at = start.checked_add_signed(by).filter(|at| i64::try_from(*at).is_ok());
    let at = at.ok_or(Errno::Invalid)?;
    memory.write_u64(to, at)?;
    open.at = at;
    Ok(())
}

fn allocate(guest: &mut Guest, fd: u32, at: u64, more: u64) -> Result<(), Halt> {
    let id = guest.own_file(fd, RIGHT_ALLOCATE, Errno::IllegalSeek)?;
    if more == 0 {
        return Err(Errno::Invalid.into());
    }
    guest.files.grow(id, at.saturating_add(more), guest.clock.now_ns())
}

fn set_size(guest: &mut Guest, fd: u32, size: u64) -> Result<(), Halt> {
    let id = guest.own_file(fd, RIGHT_SET_SIZE, Errno::Invalid)?;
    let now_ns = guest.clock.now_ns();
    if size < guest.files.get(id)?.contents().len() as u64 {
        Ok(guest.files.cut(id, size, now_ns)?)
    } else {
        guest.files.grow(id, size, now_ns)
    }
}

const WHENCE_START: u32 = 0;
const WHENCE_CURRENT: u32 = 1;
const WHENCE_END: u32 = 2;
