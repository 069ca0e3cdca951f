//! The engine's configuration, shared by the compiler child and the runner child.
//!
//! Whatever changes the meaning of a program is set here explicitly, on or off: an engine's
//! defaults grow from version to version. The parent never makes an engine.

use std::hash::{Hash, Hasher};

use wasmtime::{
    Config, Engine, InstanceAllocationStrategy, OptLevel, PoolingAllocationConfig,
    WasmBacktraceDetails, WasmFeatures,
};

use crate::nan;
use crate::profile::{TABLE_ELEMENTS_MAX, TABLES_MAX};
use potluck_unit::Limits;

/// What names an engine: artefacts of one fingerprint load into engines of the same one.
pub(crate) type Fingerprint = [u8; 32];

/// The engine that turns modules into artefacts.
pub(crate) fn compiling() -> wasmtime::Result<Engine> {
    Engine::new(&config())
}

/// The engine that runs artefacts, one instance at a time. It has no compiler.
pub(crate) fn running() -> wasmtime::Result<Engine> {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_core_instances(1)
        .total_memories(1)
        .max_memories_per_module(1)
        .total_tables(TABLES_MAX)
        .max_tables_per_module(TABLES_MAX)
        .table_elements(TABLE_ELEMENTS_MAX)
        .max_core_instance_size(INSTANCE_MAX_BYTES)
        .max_memory_size(usize::try_from(Limits::MEMORY_MAX_BYTES).unwrap_or(usize::MAX))
        .linear_memory_keep_resident(KEEP_RESIDENT_BYTES)
        .table_keep_resident(KEEP_RESIDENT_BYTES);
    let mut config = config();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool)).enable_compiler(false);
    Engine::new(&config)
}

/// The fingerprint of this engine: version, processor features, every setting that artefacts
/// depend on, and the pass that modules go through before.
pub(crate) fn fingerprint(engine: &Engine) -> Fingerprint {
    let mut digest = Digest(blake3::Hasher::new_derive_key("potluck engine fingerprint v1"));
    engine.precompile_compatibility_hash().hash(&mut digest);
    nan::VERSION.hash(&mut digest);
    *digest.0.finalize().as_bytes()
}

fn config() -> Config {
    let mut config = Config::new();
    config
        .wasm_features(WasmFeatures::all(), false)
        .wasm_features(features(), true)
        .shared_memory(false)
        .gc_support(false)
        .concurrency_support(false)
        .relaxed_simd_deterministic(true)
        // 0/0 has other bits on x86 than on ARM, and guests can look at them: `nan` puts guards
        // where they do, and hints that say the guards are hardly ever needed.
        .cranelift_nan_canonicalization(false)
        .wasm_branch_hinting(true)
        // No clock in the code: deadlines are the parent's, and metering costs a fifth.
        .epoch_interruption(false)
        .consume_fuel(false)
        // The guest runs on a thread of its own, on that thread's stack: see `child`.
        .async_stack_size(STACK_BYTES + (1 << 20))
        .max_wasm_stack(STACK_BYTES)
        // Nothing that depends on the environment or that nobody reads.
        .wasm_backtrace_details(WasmBacktraceDetails::Disable)
        .wasm_backtrace_max_frames(None)
        .generate_address_map(false)
        .debug_symbols(false)
        .cranelift_opt_level(OptLevel::Speed)
        .memory_init_cow(true);
    if cfg!(unix) {
        config.native_unwind_info(false);
    }
    config
}

/// The features of `profile`, in the engine's own copy of that type: another version of
/// `wasmparser`, so the compiler cannot tell us when they differ; a test does.
fn features() -> WasmFeatures {
    WasmFeatures::FLOATS
        | WasmFeatures::MUTABLE_GLOBAL
        | WasmFeatures::SATURATING_FLOAT_TO_INT
        | WasmFeatures::SIGN_EXTENSION
        | WasmFeatures::MULTI_VALUE
        | WasmFeatures::BULK_MEMORY
        | WasmFeatures::REFERENCE_TYPES
        | WasmFeatures::SIMD
        | WasmFeatures::TAIL_CALL
        | WasmFeatures::EXTENDED_CONST
        | WasmFeatures::WIDE_ARITHMETIC
}

/// Feeds what is hashed to BLAKE3, because the standard hashers are neither long nor stable.
struct Digest(blake3::Hasher);

impl Hasher for Digest {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Never asked for: the caller takes the digest itself.
    fn finish(&self) -> u64 {
        0
    }
}

/// 256 MiB of native stack: millions of frames, so that only a runaway recursion ends here. It
/// costs nothing until it is touched.
pub(crate) const STACK_BYTES: usize = 256 << 20;
/// What an instance needs beside its memory; whatever fits the profile fits here.
pub(crate) const INSTANCE_MAX_BYTES: usize = 16 << 20;
/// Clearing this much by hand between units is cheaper than giving it back to the system: a C
/// program's 17 pages fit.
const KEEP_RESIDENT_BYTES: usize = 2 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_and_the_profile_have_the_same_features() {
        assert_eq!(features().bits(), crate::profile::FEATURES.bits());
    }

    #[test]
    fn a_fingerprint_is_stable_within_a_build() {
        let print = || fingerprint(&compiling().unwrap());
        assert_eq!(print(), print());
    }
}
