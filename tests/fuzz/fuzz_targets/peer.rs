//! Any bytes as what happens to a peer.

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    potluck_peer::fuzz::peer(bytes);
});
