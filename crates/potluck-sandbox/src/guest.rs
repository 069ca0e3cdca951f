//! The runner child's side of a unit: a fresh instance for each, and a word on how it ended.
//!
//! Module, imports and buffers are made once; a unit costs an instance slot, its pages and one
//! frame each way.

use std::fs::File;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::ExitCode;
use std::sync::Arc;

use potluck_unit::{Fault, NoResult, OutFile};
use wasmtime::{Engine, Extern, InstancePre, Linker, Module, Store, Trap};

use crate::lock::{self, Lock, Stage};
use crate::message::{
    ARGS_MAX_BYTES, Done, Ending, FAILED_MAX_BYTES, FILES_MAX, FILES_MAX_BYTES, Request,
    STDIN_MAX_BYTES, TAG_DONE, TAG_FAILED, TAG_FILE, TAG_READY, TAG_UNIT, TAG_UNIT_ALOUD,
    UNIT_BYTES, file_of,
};
use crate::pipe::{self, Beside, Blocking, Header, Inbox, Outbox, PipeError};
use crate::preview1::{self, Caps, Guest, Inputs, KEPT_MAX_BYTES, Stop};
use crate::shared::Window;
use crate::{engine, witness};

/// Loads the artefact and runs units until the parent closes the pipe.
pub(crate) fn serve(
    lock: &mut Lock,
    artefact: File,
    caps: Caps,
    (from_parent, to_parent, aloud): (OwnedFd, &OwnedFd, Arc<OwnedFd>),
    window: Option<Window>,
) -> ExitCode {
    let beside = window.map(|window| Arc::new(window) as Arc<dyn Beside>);
    let to_parent = Outbox::new(to_parent.as_fd(), beside.as_deref());
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
    let mut inbox = Inbox::new(from_parent).with(beside.clone());
    let mut buffers = Buffers::default();
    // The parent has gone, or is none, when it says nothing more that makes sense.
    let Some((inputs, mut header)) = receive_inputs(&mut inbox, caps.has_out()) else {
        return ExitCode::SUCCESS;
    };
    loop {
        let payload = std::mem::take(&mut buffers.request);
        let Some(request) = receive(&mut inbox, header, payload) else { return ExitCode::SUCCESS };
        let Buffers { stdout, stderr, .. } = buffers;
        let aloud = (header.tag == TAG_UNIT_ALOUD).then(|| Arc::clone(&aloud));
        let guest = Guest::new(caps, Arc::clone(&inputs), request, aloud, stdout, stderr);
        let (ending, files, guest) = program.run(guest);
        buffers = Buffers::of(guest);
        if send(to_parent, ending, &buffers, &files).is_err() {
            return ExitCode::SUCCESS;
        }
        header = match inbox.header(&mut Blocking) {
            Ok(header) => header,
            Err(_) => return ExitCode::SUCCESS,
        };
    }
}

/// Takes the input files, up to the header of the first unit.
fn receive_inputs(inbox: &mut Inbox, has_out: bool) -> Option<(Arc<Inputs>, Header)> {
    let mut files = Vec::new();
    let mut payload = Vec::new();
    loop {
        let header = inbox.header(&mut Blocking).ok()?;
        if header.tag != TAG_FILE {
            return Some((Arc::new(Inputs::new(files, has_out)), header));
        }
        let max = FILES_MAX_BYTES + OutFile::PATH_BYTES_MAX as u64 + 4;
        if header.length as u64 > max || files.len() == FILES_MAX {
            return None;
        }
        inbox.take(header.length, &mut payload, &mut Blocking).ok()?;
        files.push(file_of(&payload)?);
    }
}

/// Says how a unit ended.
fn send(
    to_parent: Outbox<'_>,
    ending: Ending,
    buffers: &Buffers,
    files: &[u8],
) -> Result<(), PipeError> {
    let stdout = match ending {
        Ending::Result { .. } => &buffers.stdout[..],
        Ending::Fault { .. } | Ending::NoResult(_) => &[],
    };
    let number = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    let head = Done { ending, stdout_length: number(stdout) }.to_bytes();
    let length = number(files).to_le_bytes();
    let length = if files.is_empty() { &[][..] } else { &length };
    let parts = [&head, stdout, length, files, &buffers.stderr];
    pipe::send(to_parent, TAG_DONE, parts, &mut Blocking)
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

fn receive(inbox: &mut Inbox, header: Header, mut payload: Vec<u8>) -> Option<Request> {
    // Arguments travel with their lengths, so four bytes more each than the guest sees.
    let max = UNIT_BYTES + STDIN_MAX_BYTES + 4 * ARGS_MAX_BYTES;
    let is_unit = [TAG_UNIT, TAG_UNIT_ALOUD].contains(&header.tag);
    if !is_unit || header.length > max {
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
    /// Runs one unit. The guest comes back with what it wrote; the bytes of its files are empty
    /// unless it has a result with files.
    fn run(&self, guest: Guest) -> (Ending, Vec<u8>, Guest) {
        lock::reset_float_control();
        let mut store = Store::new(&self.engine, guest);
        store.limiter(Guest::caps);
        let mut stop = match self.start(&mut store) {
            Ok(()) => Stop::Exit(0),
            Err(error) => stop_of(&error),
        };
        let mut files = Vec::new();
        if let Stop::Exit(_) = stop
            && let Err(reason) = collect(store.data_mut(), &mut files)
        {
            stop = Stop::NoResult(reason);
        }
        let ending = match stop {
            Stop::Exit(exit_code) => {
                let memory = store.data().memory();
                let memory = memory.map_or(&[][..], |memory| memory.data(&store));
                let witness = witness::of_result(memory, exit_code, store.data().stdout(), &files);
                Ending::Result { exit_code, witness, has_files: !files.is_empty() }
            }
            Stop::Fault(fault) => Ending::Fault { fault, witness: witness::of_fault(fault) },
            Stop::NoResult(reason) => Ending::NoResult(reason),
        };
        (ending, files, store.into_data())
    }

    fn start(&self, store: &mut Store<Guest>) -> wasmtime::Result<()> {
        let instance = self.instance.instantiate(&mut *store)?;
        let memory = instance.get_export(&mut *store, "memory").and_then(Extern::into_memory);
        store.data_mut().set_memory(memory);
        instance.get_typed_func::<(), ()>(&mut *store, "_start")?.call(store, ())
    }
}

/// Writes the files that a guest has left, if there are any.
fn collect(guest: &mut Guest, into: &mut Vec<u8>) -> Result<(), NoResult> {
    let files = guest.take_files();
    if !files.is_empty() {
        let length = potluck_unit::files_length(&files);
        into.try_reserve_exact(length).map_err(|_| NoResult::HostMemory)?;
        potluck_unit::write_files(&files, into);
    }
    Ok(())
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
