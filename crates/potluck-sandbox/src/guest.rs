//! The runner child's side of a unit: a fresh instance for each, and a word on how it ended.
//!
//! Module, imports and buffers are made once; a unit costs an instance slot, its pages and one
//! frame each way.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::ExitCode;

use potluck_unit::{Fault, NoResult};
use wasmtime::{Engine, Extern, InstancePre, Linker, Module, Store, Trap};

use crate::lock::{self, Lock, Stage};
use crate::message::{
    ARGS_MAX_BYTES, Done, Ending, FAILED_MAX_BYTES, Request, STDIN_MAX_BYTES, TAG_DONE, TAG_FAILED,
    TAG_READY, TAG_UNIT, UNIT_BYTES,
};
use crate::pipe::{self, Blocking, Inbox};
use crate::preview1::{self, Caps, Guest, Stop};
use crate::{engine, witness};

/// Loads the artefact and runs units until the parent closes the pipe.
pub(crate) fn serve(
    lock: &mut Lock,
    artefact: File,
    memory_max_bytes: u64,
    output_max_bytes: u64,
    from_parent: OwnedFd,
    to_parent: &OwnedFd,
) -> ExitCode {
    let to_parent = to_parent.as_fd();
    // What follows the load needs no executable memory, no file and no more filters.
    let loaded =
        load(artefact).and_then(|program| Ok(lock.narrow(Stage::Serve).map(|()| program)?));
    let program = match loaded {
        Ok(program) => program,
        Err(error) => {
            let mut reason = format!("{error:#}").into_bytes();
            reason.truncate(FAILED_MAX_BYTES);
            let _ = pipe::send(to_parent, TAG_FAILED, [&reason], &mut Blocking);
            return ExitCode::FAILURE;
        }
    };
    if pipe::send(to_parent, TAG_READY, [], &mut Blocking).is_err() {
        return ExitCode::FAILURE;
    }
    let caps = Caps::new(memory_max_bytes, output_max_bytes);
    let mut inbox = Inbox::new(from_parent);
    let mut buffers = Buffers::default();
    loop {
        let Some(request) = next(&mut inbox, std::mem::take(&mut buffers.request)) else {
            // The parent has gone, or is none.
            return ExitCode::SUCCESS;
        };
        let (ending, guest) =
            program.run(Guest::new(caps, request, buffers.stdout, buffers.stderr));
        buffers = Buffers::of(guest);
        let (stdout, stderr) = match ending {
            Ending::Result { .. } => (&buffers.stdout[..], &buffers.stderr[..]),
            Ending::Fault { .. } | Ending::NoResult(_) => (&[][..], &buffers.stderr[..]),
        };
        let stdout_length = u32::try_from(stdout.len()).unwrap_or(u32::MAX);
        let head = Done { ending, stdout_length }.to_bytes();
        if pipe::send(to_parent, TAG_DONE, [&head, stdout, stderr], &mut Blocking).is_err() {
            return ExitCode::SUCCESS;
        }
    }
}

/// What is kept from unit to unit for its capacity alone.
#[derive(Default)]
struct Buffers {
    request: Vec<u8>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Buffers {
    fn of(guest: Guest) -> Buffers {
        let (request, stdout, stderr) = guest.into_buffers();
        let mut request = request.into_payload();
        // A large unit's input is given back; its output still has to be sent, and the next guest
        // sees to it.
        request.clear();
        request.shrink_to(KEPT_MAX_BYTES);
        Buffers { request, stdout, stderr }
    }
}

fn next(inbox: &mut Inbox, mut payload: Vec<u8>) -> Option<Request> {
    let header = inbox.header(&mut Blocking).ok()?;
    // Arguments travel with their lengths, so four bytes more each than the guest sees.
    let max = UNIT_BYTES + STDIN_MAX_BYTES + 4 * ARGS_MAX_BYTES;
    if header.tag != TAG_UNIT || header.length > max {
        return None;
    }
    inbox.take(header.length, &mut payload, &mut Blocking).ok()?;
    Request::of(payload)
}

/// A loaded module with its imports resolved.
struct Program {
    engine: Engine,
    instance: InstancePre<Guest>,
}

fn load(artefact: File) -> wasmtime::Result<Program> {
    let engine = engine::running()?;
    #[expect(unsafe_code, reason = "an artefact is native code; loading it is what we are for")]
    // SAFETY: the file was made by our own compiler child for this engine, its hash was checked by
    // the parent through this very descriptor, and nothing writes to it: files in the cache are
    // replaced, never changed. The engine itself refuses another version's or configuration's.
    // Were it hostile all the same, it would run in this locked child, where guests' code runs.
    let module = unsafe { Module::deserialize_open_file(&engine, artefact)? };
    let mut linker = Linker::new(&engine);
    preview1::define(&mut linker)?;
    Ok(Program { instance: linker.instantiate_pre(&module)?, engine })
}

impl Program {
    /// Runs one unit. The guest comes back with what it wrote.
    fn run(&self, guest: Guest) -> (Ending, Guest) {
        lock::reset_float_control();
        let mut store = Store::new(&self.engine, guest);
        store.limiter(Guest::caps);
        let stop = match self.start(&mut store) {
            Ok(()) => Stop::Exit(0),
            Err(error) => stop_of(&error),
        };
        let ending = match stop {
            Stop::Exit(exit_code) => {
                let memory = store.data().memory();
                let memory = memory.map_or(&[][..], |memory| memory.data(&store));
                let witness = witness::of_result(memory, exit_code, store.data().stdout());
                Ending::Result { exit_code, witness }
            }
            Stop::Fault(fault) => Ending::Fault { fault, witness: witness::of_fault(fault) },
            Stop::NoResult(reason) => Ending::NoResult(reason),
        };
        (ending, store.into_data())
    }

    fn start(&self, store: &mut Store<Guest>) -> wasmtime::Result<()> {
        let instance = self.instance.instantiate(&mut *store)?;
        let memory = instance.get_export(&mut *store, "memory").and_then(Extern::into_memory);
        store.data_mut().set_memory(memory);
        instance.get_typed_func::<(), ()>(&mut *store, "_start")?.call(store, ())
    }
}

/// What an error out of the engine means. Our own calls stop a guest with a [`Stop`]; of the
/// engine's traps only those in [`FAULTS`] happen on every machine alike.
fn stop_of(error: &wasmtime::Error) -> Stop {
    if let Some(stop) = error.downcast_ref::<Stop>() {
        return *stop;
    }
    let Some(trap) = error.downcast_ref::<Trap>() else {
        // Instantiating needs nothing but memory; whatever else it could lack, the profile has
        // refused before.
        let is_memory = error.is::<wasmtime::OutOfMemory>() || error.is::<std::io::Error>();
        let reason = if is_memory { NoResult::HostMemory } else { NoResult::Engine };
        return Stop::NoResult(reason);
    };
    if *trap == Trap::StackOverflow {
        return Stop::NoResult(NoResult::StackOverflow);
    }
    FAULTS
        .iter()
        .find(|(known, _)| known == trap)
        .map_or(Stop::NoResult(NoResult::Engine), |(_, fault)| Stop::Fault(*fault))
}

/// The traps that are outcomes.
const FAULTS: [(Trap, Fault); 9] = [
    (Trap::UnreachableCodeReached, Fault::Unreachable),
    (Trap::MemoryOutOfBounds, Fault::MemoryOutOfBounds),
    (Trap::TableOutOfBounds, Fault::TableOutOfBounds),
    (Trap::IndirectCallToNull, Fault::IndirectCallToNull),
    (Trap::BadSignature, Fault::BadSignature),
    (Trap::IntegerOverflow, Fault::IntegerOverflow),
    (Trap::IntegerDivisionByZero, Fault::IntegerDivisionByZero),
    (Trap::BadConversionToInteger, Fault::BadConversionToInteger),
    (Trap::NullReference, Fault::NullReference),
];

/// A buffer that grew beyond this for one unit does not stay so for the next.
pub(crate) const KEPT_MAX_BYTES: usize = 1 << 20;
