//! Any bytes as records, messages and blobs.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| potluck_unit::fuzz::record(bytes));
