//! Descriptors: standard input, output and error, and nothing else.
//!
//! Reads and writes are full: all of the vectors, until the input ends or the cap is reached, so
//! that a program that forgets to loop behaves the same everywhere.

use potluck_unit::{Fault, NoResult};
use wasmtime::{Caller, Linker};

use super::memory::{Array, split};
use super::{Answer, Errno, Guest, Halt, MODULE, Stop, number, number_or_stop};
use crate::message::STDERR_MAX_BYTES;

type Call<'a> = Caller<'a, Guest>;

/// What a descriptor can lead to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stream {
    Input,
    Output,
    Error,
}

/// An open descriptor.
#[derive(Debug, Clone, Copy)]
struct Open {
    stream: Stream,
    /// The flags a guest has set: kept to be shown, and without effect.
    flags: u16,
}

/// The three descriptors and the buffers behind them.
#[derive(Debug)]
pub(super) struct Streams {
    open: [Option<Open>; 3],
    input_read: usize,
    output: Vec<u8>,
    output_max_bytes: usize,
    error: Vec<u8>,
}

impl Streams {
    pub(super) fn new(output_max_bytes: usize, output: Vec<u8>, error: Vec<u8>) -> Streams {
        let open = [Stream::Input, Stream::Output, Stream::Error]
            .map(|stream| Some(Open { stream, flags: 0 }));
        Streams { open, input_read: 0, output, output_max_bytes, error }
    }

    pub(super) fn stdout(&self) -> &[u8] {
        &self.output
    }

    pub(super) fn into_buffers(self) -> (Vec<u8>, Vec<u8>) {
        (self.output, self.error)
    }

    /// Whether `fd` is open.
    pub(super) fn check(&self, fd: u32) -> Answer {
        self.open.get(fd as usize).copied().flatten().map(|_| ()).ok_or(Errno::BadDescriptor)
    }

    fn get(&mut self, fd: u32) -> Result<&mut Open, Errno> {
        self.open.get_mut(fd as usize).and_then(Option::as_mut).ok_or(Errno::BadDescriptor)
    }

    fn close(&mut self, fd: u32) -> Answer {
        self.check(fd)?;
        self.open[fd as usize] = None;
        Ok(())
    }

    fn renumber(&mut self, from: u32, to: u32) -> Answer {
        self.check(from)?;
        self.check(to)?;
        if from != to {
            self.open[to as usize] = self.open[from as usize].take();
        }
        Ok(())
    }

    fn write(&mut self, stream: Stream, bytes: &[u8]) -> Result<(), Halt> {
        match stream {
            Stream::Input => Err(Errno::BadDescriptor.into()),
            Stream::Output => {
                if bytes.len() > self.output_max_bytes - self.output.len() {
                    return Err(Stop::Fault(Fault::OutputTooLarge).into());
                }
                let no_memory = |_| Stop::NoResult(NoResult::HostMemory);
                self.output.try_reserve(bytes.len()).map_err(no_memory)?;
                self.output.extend_from_slice(bytes);
                Ok(())
            }
            Stream::Error => {
                let kept = bytes.len().min(STDERR_MAX_BYTES - self.error.len());
                self.error.extend_from_slice(&bytes[..kept]);
                Ok(())
            }
        }
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
    linker.func_wrap(MODULE, "fd_close", |mut caller: Call<'_>, fd: u32| {
        number(caller.data_mut().streams.close(fd))
    })?;
    linker.func_wrap(MODULE, "fd_renumber", |mut caller: Call<'_>, from: u32, to: u32| {
        number(caller.data_mut().streams.renumber(from, to))
    })?;
    linker.func_wrap(MODULE, "fd_fdstat_get", |mut caller: Call<'_>, fd: u32, to: u32| {
        number(status(&mut caller, fd, to))
    })?;
    linker.func_wrap(
        MODULE,
        "fd_fdstat_set_flags",
        |mut caller: Call<'_>, fd: u32, flags: u32| number(set_flags(&mut caller, fd, flags)),
    )?;
    linker.func_wrap(MODULE, "fd_filestat_get", |mut caller: Call<'_>, fd: u32, to: u32| {
        number(split(&mut caller).and_then(|(mut memory, guest)| {
            guest.streams.check(fd)?;
            memory.write(to, &[0; FILESTAT_BYTES])
        }))
    })?;
    Ok(())
}

fn read(caller: &mut Call<'_>, fd: u32, vectors: Array, to: u32) -> Answer {
    let (mut memory, guest) = split(caller)?;
    if guest.streams.get(fd)?.stream != Stream::Input {
        return Err(Errno::BadDescriptor);
    }
    let mut total = 0_u32;
    for index in 0..vectors.count {
        let (at, length) = memory.vector(vectors, index)?;
        let into = memory.bytes_mut(at, length)?;
        let rest = guest.request.stdin().get(guest.streams.input_read..).unwrap_or_default();
        let read = into.len().min(rest.len());
        into[..read].copy_from_slice(&rest[..read]);
        guest.streams.input_read += read;
        // Bounded by the size of standard input.
        total += u32::try_from(read).unwrap_or(0);
        if read == rest.len() {
            break;
        }
    }
    memory.write_u32(to, total)
}

fn write(caller: &mut Call<'_>, fd: u32, vectors: Array, to: u32) -> Result<(), Halt> {
    let (mut memory, guest) = split(caller)?;
    let stream = guest.streams.get(fd)?.stream;
    if stream == Stream::Input {
        return Err(Errno::BadDescriptor.into());
    }
    // All or nothing: a vector that is no good is found before the first byte is written.
    let mut total = 0_u32;
    for index in 0..vectors.count {
        let (at, length) = memory.vector(vectors, index)?;
        memory.bytes(at, length)?;
        total = total.checked_add(length).ok_or(Errno::Invalid)?;
    }
    for index in 0..vectors.count {
        let (at, length) = memory.vector(vectors, index)?;
        guest.streams.write(stream, memory.bytes(at, length)?)?;
    }
    memory.write_u32(to, total)?;
    Ok(())
}

/// A stream of no particular type, so that no runtime takes it for a terminal.
fn status(caller: &mut Call<'_>, fd: u32, to: u32) -> Answer {
    let (mut memory, guest) = split(caller)?;
    let Open { stream, flags } = *guest.streams.get(fd)?;
    let rights = if stream == Stream::Input { RIGHT_READ } else { RIGHT_WRITE };
    let mut status = [0; 24];
    status[2..4].copy_from_slice(&flags.to_le_bytes());
    status[8..16].copy_from_slice(&(rights | RIGHT_POLL).to_le_bytes());
    memory.write(to, &status)
}

fn set_flags(caller: &mut Call<'_>, fd: u32, flags: u32) -> Answer {
    let open = caller.data_mut().streams.get(fd)?;
    open.flags =
        u16::try_from(flags & FLAGS).ok().filter(|_| flags <= FLAGS).ok_or(Errno::Invalid)?;
    Ok(())
}

const FILESTAT_BYTES: usize = 64;
const RIGHT_READ: u64 = 1 << 1;
const RIGHT_WRITE: u64 = 1 << 6;
const RIGHT_POLL: u64 = 1 << 27;
/// The five descriptor flags that preview 1 knows.
const FLAGS: u32 = 0b1_1111;
