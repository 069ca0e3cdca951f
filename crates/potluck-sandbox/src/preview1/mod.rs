//! The 46 calls of WASI preview 1, as a guest on any machine sees them: the same.
//!
//! There is no disk, no network, no host clock and no host randomness behind them. What a guest can
//! learn is its arguments, its input, the job's input files, a clock that counts its own looks at
//! it, and bytes derived from the unit's id; what it writes to its folder stays in memory. No answer
//! depends on the machine, and no argument, however wild, can make the child panic or allocate more
//! than the caps say.

mod args;
mod clock;
mod descriptors;
mod files;
mod memory;
mod paths;
mod status;
mod table;
mod tree;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use potluck_unit::{Fault, NoResult, OutFile, UnitId};
use wasmtime::{Caller, Linker, Memory, ResourceLimiter};

use crate::message::Request;
use crate::profile::TABLE_ELEMENTS_MAX;

pub(crate) use table::{MODULE, is_stub, signature};
pub(crate) use tree::{Inputs, OUT};

use clock::Clock;
use descriptors::Descriptors;
use files::Streams;
use memory::split;
use tree::Files;

/// Why a call ends the guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Stop {
    /// It asked to end.
    #[error("exit {0}")]
    Exit(u32),
    /// It broke a rule.
    #[error("fault: {}", .0.as_str())]
    Fault(Fault),
    /// The machine could not go on.
    #[error("no result: {}", .0.as_str())]
    NoResult(NoResult),
}

/// The error numbers that guests get to see, with WASI's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Errno {
    BadDescriptor = 8,
    Busy = 10,
    Exists = 20,
    Fault = 21,
    IllegalSequence = 25,
    Invalid = 28,
    IsFolder = 31,
    TooManyOpen = 33,
    NameTooLong = 37,
    NoEntry = 44,
    NoSpace = 51,
    NotFolder = 54,
    NotEmpty = 55,
    NotSocket = 57,
    NotSupported = 58,
    NotPermitted = 63,
    ReadOnly = 69,
    IllegalSeek = 70,
    NotCapable = 76,
}

/// What a call came to, short of ending the guest.
type Answer = Result<(), Errno>;

/// How a call fails: for the guest to see, or for good.
enum Halt {
    Errno(Errno),
    Stop(Stop),
}

impl From<Errno> for Halt {
    fn from(errno: Errno) -> Halt {
        Halt::Errno(errno)
    }
}

impl From<Stop> for Halt {
    fn from(stop: Stop) -> Halt {
        Halt::Stop(stop)
    }
}

/// The number a guest gets.
fn number(answer: Answer) -> i32 {
    answer.map_or_else(|errno| i32::from(errno as u16), |()| 0)
}

/// The number a guest gets, unless the call was its last.
fn number_or_stop(answer: Result<(), Halt>) -> wasmtime::Result<i32> {
    match answer {
        Ok(()) => Ok(0),
        Err(Halt::Errno(errno)) => Ok(number(Err(errno))),
        Err(Halt::Stop(stop)) => Err(stop.into()),
    }
}

/// What an instance may take from the machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Caps {
    memory_max_bytes: usize,
    output_max_bytes: usize,
    out_max_bytes: u64,
}

impl Caps {
    pub(crate) fn new(memory_max_bytes: u64, output_max_bytes: u64, out_max_bytes: u64) -> Caps {
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        Caps {
            memory_max_bytes: size(memory_max_bytes),
            output_max_bytes: size(output_max_bytes),
            out_max_bytes,
        }
    }

    /// How much private memory the child needs for all of it. Output may grow to twice its size, as
    /// may files in `/out`, which are there once more while one of them grows, and once as bytes to
    /// send.
    pub(crate) fn data_max_bytes(&self) -> u64 {
        (self.memory_max_bytes as u64)
            .saturating_add((self.output_max_bytes as u64).saturating_mul(2))
            .saturating_add(self.out_max_bytes.saturating_mul(4))
    }

    /// Whether there is a folder `/out`.
    pub(crate) fn has_out(&self) -> bool {
        self.out_max_bytes > 0
    }
}

/// Growth above a cap is -1 on every machine; growth that is allowed and that this machine cannot
/// give is no result, because elsewhere it succeeds.
impl ResourceLimiter for Caps {
    fn memory_growing(
        &mut self,
        _: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= maximum.unwrap_or(usize::MAX).min(self.memory_max_bytes))
    }

    fn memory_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        Err(Stop::NoResult(NoResult::HostMemory).into())
    }

    fn table_growing(
        &mut self,
        _: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        Ok(desired <= maximum.unwrap_or(usize::MAX).min(TABLE_ELEMENTS_MAX))
    }

    fn table_grow_failed(&mut self, _: wasmtime::Error) -> wasmtime::Result<()> {
        Err(Stop::NoResult(NoResult::HostMemory).into())
    }
}

/// One running unit, as its calls see it.
#[derive(Debug)]
pub(crate) struct Guest {
    caps: Caps,
    request: Request,
    memory: Option<Memory>,
    clock: Clock,
    random: Option<Box<blake3::OutputReader>>,
    streams: Streams,
    files: Files,
    descriptors: Descriptors,
}

impl Guest {
    /// A guest about to start; the two buffers are emptied and used for what it writes. Where it is
    /// to be heard `aloud`, its output also goes there as it comes.
    pub(crate) fn new(
        caps: Caps,
        inputs: Arc<Inputs>,
        request: Request,
        aloud: Option<Arc<OwnedFd>>,
        stdout: Vec<u8>,
        stderr: Vec<u8>,
    ) -> Guest {
        let clean = |mut buffer: Vec<u8>| {
            buffer.clear();
            buffer.shrink_to(KEPT_MAX_BYTES);
            buffer
        };
        let (stdout, stderr) = (clean(stdout), clean(stderr));
        let streams = Streams::new(caps.output_max_bytes, aloud, stdout, stderr);
        let files = Files::new(inputs, caps.out_max_bytes);
        let descriptors = Descriptors::new(files.is_there());
        let (clock, random) = (Clock::default(), None);
        Guest { caps, request, memory: None, clock, random, streams, files, descriptors }
    }

    /// The limiter of the guest's store.
    pub(crate) fn caps(&mut self) -> &mut dyn ResourceLimiter {
        &mut self.caps
    }

    /// The memory that calls read and write, as far as known.
    pub(crate) fn memory(&self) -> Option<Memory> {
        self.memory
    }

    /// Makes `memory` known before the first call.
    pub(crate) fn set_memory(&mut self, memory: Option<Memory>) {
        self.memory = memory;
    }

    /// What it has written to standard output.
    pub(crate) fn stdout(&self) -> &[u8] {
        self.streams.stdout()
    }

    /// Takes what it has left in its folder, sorted by path. Nothing of it is there afterwards.
    pub(crate) fn take_files(&mut self) -> Vec<OutFile> {
        let nothing = Files::new(Arc::default(), 0);
        std::mem::replace(&mut self.files, nothing).into_out()
    }

    /// The request, standard output and standard error.
    pub(crate) fn into_buffers(self) -> (Request, Vec<u8>, Vec<u8>) {
        let (stdout, stderr) = self.streams.into_buffers();
        (self.request, stdout, stderr)
    }
}

/// Defines every call.
pub(crate) fn define(linker: &mut Linker<Guest>) -> wasmtime::Result<()> {
    table::define_fixed(linker)?;
    args::define(linker)?;
    clock::define(linker)?;
    files::define(linker)?;
    status::define(linker)?;
    paths::define(linker)?;
    linker.func_wrap(
        MODULE,
        "random_get",
        |mut caller: Caller<'_, Guest>, at: u32, length: u32| {
            number(random(&mut caller, at, length))
        },
    )?;
    linker.func_wrap(
        MODULE,
        "proc_exit",
        |mut caller: Caller<'_, Guest>, code: u32| -> wasmtime::Result<()> {
            // The witness covers the memory as it is now, also if no call has needed it so far.
            let _ = split(&mut caller);
            Err(Stop::Exit(code).into())
        },
    )?;
    Ok(())
}

/// Fills the buffer with bytes that follow from the unit's id, going on where the last call ended.
fn random(caller: &mut Caller<'_, Guest>, at: u32, length: u32) -> Answer {
    let (mut memory, guest) = split(caller)?;
    let bytes = memory.bytes_mut(at, length)?;
    guest.random.get_or_insert_with(|| Box::new(stream(&guest.request.id()))).fill(bytes);
    Ok(())
}

fn stream(unit: &UnitId) -> blake3::OutputReader {
    let mut hasher = blake3::Hasher::new_derive_key("potluck guest randomness v1");
    hasher.update(unit.as_bytes());
    hasher.finalize_xof()
}

/// A buffer that grew beyond this for one unit does not stay so for the next.
pub(crate) const KEPT_MAX_BYTES: usize = 1 << 20;
