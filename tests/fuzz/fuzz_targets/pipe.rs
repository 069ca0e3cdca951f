//! Any bytes as what a child sends to its parent.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| potluck_sandbox::fuzz::pipe(bytes));
