//! The hands of Potluck: runs one module on one input under limits, in a locked child process.
//!
//! The parent, which holds keys, network and disk, never touches guest code: it checks a module's
//! bytes ([`check`]), has a *compiler child* turn it into an artefact ([`Sandbox::prepare`]), starts
//! a *runner child* for it ([`Sandbox::start`]) and hands that one unit after another
//! ([`Runner::run`]). Both children are the same program as the parent, started again with
//! arguments that lead to [`child_main`].
//!
//! What is promised: a unit's outcome and witness depend on nothing but the module, the arguments,
//! the input, the job's files, the unit's id and the limits. A child gets no file, no socket, no
//! environment and no clock it could tell a guest about. On Linux it is also locked twice before
//! it reads a foreign byte, so that native code in it, come there through the engine or the
//! compiler, finds no file, no network, no other process and hardly a system call. What is not:
//! that every kernel has every layer of that lock ([`Sandbox::layers`] says which are there), that
//! the kernel itself has no hole behind the calls that are left, or that processors keep secrets
//! from their own caches: nothing secret is in a child.

#[cfg(not(unix))]
compile_error!("potluck-sandbox cannot lock a child on this system yet: see lock/windows.rs");

mod profile;
mod lint;

mod artefact;
mod refused;
mod compiler;
mod inputs;
mod runner;

mod cpu;
mod message;
mod patience;
mod pipe;
mod probe;
mod process;
mod shared;
mod throttle;
mod leash;

mod layers;

mod child;
mod engine;
mod guest;
mod lock;
mod nan;
mod preview1;
mod witness;

#[cfg(any(test, feature = "fuzz"))]
#[doc(hidden)]
pub mod fuzz;

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use potluck_unit::{Fault, Limits, ModuleId, NoResult, Outcome, RunReport};

pub use artefact::Artefact;
pub use child::{LockedFor, child_main, run_locked};
pub use compiler::CompileLimits;
pub use inputs::{FilesError, InputFile, check_files};
pub use layers::{Layer, LayerKind, LayerState, shortfall};
pub use leash::Leash;
pub use lint::{Advice, Lint, lint};
pub use message::{ARGS_MAX_BYTES, FILES_MAX, FILES_MAX_BYTES, STDERR_MAX_BYTES, STDIN_MAX_BYTES};
pub use probe::ProbeError;
pub use profile::{Feature, ModuleError, ModuleInfo, Place, check};
pub use runner::{Output, RUNS_MAX, Run, Runner, RunnerHandle, Unit};
pub use throttle::Share;

use artefact::Cache;
use engine::Fingerprint;
use refused::Refused;

/// The caller's binary and the arguments that make it a sandbox child, such as `/proc/self/exe`
/// and `__sandbox`. The rest of the command line is this crate's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Program {
    /// The binary.
    pub path: PathBuf,
    /// The arguments that lead to [`child_main`].
    pub args: Vec<OsString>,
}

/// Prepares modules and starts runners. Clones share one cache.
#[derive(Debug, Clone)]
pub struct Sandbox {
    program: Arc<Program>,
    cache: Arc<Cache>,
    compile_limits: CompileLimits,
    /// The engine of this program's children, asked for once.
    engine: Arc<OnceLock<Fingerprint>>,
    /// Held while compiling: one compiler child at a time, because each may take gigabytes. Knows
    /// the modules that the compiler has given up on, under these limits.
    compiling: Arc<Mutex<Refused>>,
    /// Whether the lock was seen to be whole, if it must be. Every child sees to it itself; this
    /// is for a clear word before one is started in vain.
    whole: Option<Arc<OnceLock<()>>>,
    /// What its children are on.
    leash: Leash,
}

impl Sandbox {
    /// A sandbox whose children are `program` and which keeps artefacts in `cache_dir`.
    pub fn new(program: Program, cache_dir: PathBuf) -> Sandbox {
        Sandbox {
            program: Arc::new(program),
            cache: Arc::new(Cache::new(cache_dir)),
            compile_limits: CompileLimits::DEFAULT,
            engine: Arc::default(),
            compiling: Arc::default(),
            whole: None,
            leash: Leash::new(),
        }
    }

    /// The same with other limits on compiling. What was too costly may not be so now.
    pub fn with_compile_limits(self, compile_limits: CompileLimits) -> Sandbox {
        Sandbox { compile_limits, compiling: Arc::default(), ..self }
    }

    /// The same, but every child that it starts is on this leash.
    pub fn on(self, leash: &Leash) -> Sandbox {
        Sandbox { leash: leash.clone(), ..self }
    }

    /// The same, but no child of it meets a foreign byte unless every layer of its lock is full.
    pub fn with_whole_lock(self) -> Sandbox {
        let mut program = Program::clone(&self.program);
        program.args.push(child::STRICT.into());
        Sandbox { program: Arc::new(program), whole: Some(Arc::default()), ..self }
    }

    /// What the lock on this machine's children is made of, said by one that has just taken it.
    /// Blocks until then.
    ///
    /// # Errors
    ///
    /// When no child can be started, or when its lock must be whole and is not.
    pub fn layers(&self) -> Result<Vec<Layer>, ProbeError> {
        probe::layers(&self.program)
    }

    /// Keeps no more than this on disk from now on. What is too much goes at once, what was used
    /// least lately first; what is being run from keeps its place on disk until it has ended.
    pub fn set_cache_max(&self, bytes: u64) {
        self.cache.set_max(bytes);
    }

    /// What artefacts take on disk, in whole blocks of 4 KiB.
    pub fn cache_bytes(&self) -> u64 {
        self.cache.bytes()
    }

    /// What [`Sandbox::prepare`] comes to, if it takes no compiling: none if it does.
    ///
    /// # Errors
    ///
    /// As for [`Sandbox::prepare`].
    pub fn prepared(&self, module: &ModuleId, wasm: &[u8]) -> Result<Option<Artefact>, Refusal> {
        self.find(module, wasm).map(|(_, found)| found)
    }

    /// Makes `wasm` ready to start: checks it against the profile and compiles it in a compiler
    /// child, unless the cache has it. Blocks until then. A module that was too costly is not
    /// tried again.
    ///
    /// # Errors
    ///
    /// [`Refusal::Invalid`] is the same on every machine; the rest is about this one.
    pub fn prepare(&self, module: &ModuleId, wasm: &[u8]) -> Result<Artefact, Refusal> {
        self.prepare_within(module, wasm, self.compile_limits.memory_max_bytes)
    }

    /// The same, and a compiler child gets no more memory than this, whatever the limits say. A
    /// module that was too costly is tried again where there is more.
    ///
    /// # Errors
    ///
    /// As for [`Sandbox::prepare`].
    pub fn prepare_within(
        &self,
        module: &ModuleId,
        wasm: &[u8],
        memory_max_bytes: u64,
    ) -> Result<Artefact, Refusal> {
        let (info, found) = self.find(module, wasm)?;
        if let Some(artefact) = found {
            return Ok(artefact);
        }
        let engine = self.engine()?;
        let memory_max_bytes = memory_max_bytes.min(self.compile_limits.memory_max_bytes);
        let limits = CompileLimits { memory_max_bytes, ..self.compile_limits };
        let mut refused = self.compiling.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(refusal) = refused.find(module, memory_max_bytes) {
            return Err(refusal);
        }
        // A compiler that stands still would keep everybody else from compiling.
        if self.leash.is_held() {
            let text = "this leash was held before it was its turn".to_owned();
            return Err(Refusal::NoResult(NoResult::Stopped, text));
        }
        // Somebody else may have compiled it while this thread waited for its turn.
        if let Some(artefact) = self.cache.find(module, info, &engine) {
            return Ok(artefact);
        }
        let compiled = compiler::compile(&self.program, &limits, &self.leash, wasm, &self.cache);
        let (engine, artefact) =
            compiled.inspect_err(|refusal| refused.insert(module, memory_max_bytes, refusal))?;
        artefact.finish(module, &engine).map_err(|error| {
            let text = format!("could not keep an artefact: {error}");
            Refusal::NoResult(NoResult::Stopped, text)
        })?;
        self.cache.find(module, info, &engine).ok_or_else(|| {
            let text = "an artefact vanished as soon as it was written";
            Refusal::NoResult(NoResult::Engine, text.into())
        })
    }

    /// Checks `wasm` and looks into the cache.
    fn find(
        &self,
        module: &ModuleId,
        wasm: &[u8],
    ) -> Result<(ModuleInfo, Option<Artefact>), Refusal> {
        let info = check(wasm).map_err(Refusal::Invalid)?;
        if ModuleId::of(wasm) != *module {
            let text = format!("these bytes are not module {module}");
            return Err(Refusal::NoResult(NoResult::Engine, text));
        }
        self.check_lock().map_err(|text| Refusal::NoResult(NoResult::Engine, text))?;
        let engine = self.engine()?;
        Ok((info, self.cache.find(module, info, &engine)))
    }

    /// Starts a runner child and returns when it is ready for units. Blocks until then.
    ///
    /// # Errors
    ///
    /// [`StartError::Invalid`] is the same on every machine; the rest is about this one.
    pub fn start(&self, artefact: &Artefact, limits: &Limits) -> Result<Runner, StartError> {
        self.start_with(artefact, limits, &[])
    }

    /// The same for units that find `files`, which must pass [`check_files`].
    ///
    /// # Errors
    ///
    /// As for [`Sandbox::start`].
    pub fn start_with(
        &self,
        artefact: &Artefact,
        limits: &Limits,
        files: &[InputFile],
    ) -> Result<Runner, StartError> {
        let refuse = |error| StartError::NoResult(NoResult::Engine, error);
        limits.check().map_err(|error| refuse(error.to_string()))?;
        check_files(files, limits).map_err(|error| refuse(error.to_string()))?;
        let (found, max) = (artefact.info().memory_min_bytes, limits.memory_max_bytes);
        if found > max {
            let what = "bytes of memory at the start";
            return Err(StartError::Invalid(ModuleError::OverLimit {
                what,
                found,
                max,
                place: None,
            }));
        }
        self.check_lock().map_err(|text| StartError::NoResult(NoResult::Engine, text))?;
        Runner::start(&self.program, artefact, limits, files, &self.leash)
    }

    fn check_lock(&self) -> Result<(), String> {
        let Some(seen) = self.whole.as_ref().filter(|seen| seen.get().is_none()) else {
            return Ok(());
        };
        self.layers().map_err(|error| error.to_string())?;
        seen.get_or_init(|| ());
        Ok(())
    }

    fn engine(&self) -> Result<Fingerprint, Refusal> {
        if let Some(engine) = self.engine.get() {
            return Ok(*engine);
        }
        let engine = compiler::fingerprint(&self.program, &self.compile_limits, &self.leash)?;
        Ok(*self.engine.get_or_init(|| engine))
    }
}

/// Why a module was not made ready. Nothing has changed but the cache.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It is outside the profile: the outcome of each of its units is
    /// [`Fault::InvalidModule`].
    #[error("{0}")]
    Invalid(ModuleError),
    /// This machine could not; the text is for people.
    #[error("{reason}: {1}", reason = .0.as_str())]
    NoResult(NoResult, String),
}

impl Refusal {
    /// What to report of a unit of this module.
    pub fn report(&self) -> RunReport {
        match self {
            Refusal::Invalid(_) => invalid_module(),
            Refusal::NoResult(reason, _) => RunReport::NoResult(*reason),
        }
    }
}

/// Why a runner was not started. Nothing has changed, except that an artefact that would not load
/// is forgotten: prepare the module again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// The module asks for more than the job's limits at its start: the outcome of each of its
    /// units is [`Fault::InvalidModule`].
    #[error("{0}")]
    Invalid(ModuleError),
    /// This machine could not; the text is for people.
    #[error("{reason}: {1}", reason = .0.as_str())]
    NoResult(NoResult, String),
}

impl StartError {
    /// What to report of a unit of this module.
    pub fn report(&self) -> RunReport {
        match self {
            StartError::Invalid(_) => invalid_module(),
            StartError::NoResult(reason, _) => RunReport::NoResult(*reason),
        }
    }
}

fn invalid_module() -> RunReport {
    let fault = Fault::InvalidModule;
    RunReport::Done { outcome: Outcome::Fault(fault), witness: witness::of_fault(fault) }
}
