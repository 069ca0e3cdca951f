//! Any bytes as a module to the pass that makes NaNs canonical.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| potluck_sandbox::fuzz::nan(bytes));
