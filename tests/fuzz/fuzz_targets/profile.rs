//! Any bytes as a module, and the module that a generator makes of them.

#![no_main]

use libfuzzer_sys::arbitrary::Unstructured;
use libfuzzer_sys::fuzz_target;
use wasm_smith::{Config, Module};

fuzz_target!(|bytes: &[u8]| {
    potluck_sandbox::fuzz::profile(bytes);
    for module in [command(bytes), anything(bytes)].into_iter().flatten() {
        potluck_sandbox::fuzz::profile(&module);
    }
});

/// A module that fits unless its shape is too large: it exports `_start` and imports nothing.
fn command(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut config = few_features();
    // (module (func (export "_start")))
    config.exports = Some(
        b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x07\x0a\x01\x06_start\0\0\x0a\x04\x01\x02\0\x0b"
            .to_vec(),
    );
    // Where there are references the generator makes `externref` too, which does not fit.
    config.reference_types_enabled = bytes.first().is_some_and(|byte| byte % 8 == 0);
    generate(config, bytes)
}

/// A module that may use any feature there is.
fn anything(bytes: &[u8]) -> Option<Vec<u8>> {
    generate(Config { threads_enabled: true, ..Config::default() }, bytes)
}

fn few_features() -> Config {
    Config {
        max_imports: 0,
        max_memories: 1,
        max_tables: 4,
        exceptions_enabled: false,
        gc_enabled: false,
        memory64_enabled: false,
        multi_value_enabled: true,
        relaxed_simd_enabled: false,
        simd_enabled: true,
        tail_call_enabled: true,
        threads_enabled: false,
        wide_arithmetic_enabled: true,
        ..Config::default()
    }
}

fn generate(config: Config, bytes: &[u8]) -> Option<Vec<u8>> {
    Some(Module::new(config, &mut Unstructured::new(bytes)).ok()?.to_bytes())
}
