//! M, the witness of a run: what only somebody who executed the unit can know.
//!
//! ```text
//! M = BLAKE3 derive_key "potluck witness v1" of
//!     memory length ‖ runs of the final linear memory ‖ 2⁶⁴-1 ‖ outcome body
//! run: start ‖ length ‖ bytes
//! ```
//!
//! Numbers are u64, little endian. A run is the longest stretch of blocks of 4 KiB that each hold
//! something else than zeros: most of a program's memory is empty, and looking for a byte that is
//! not zero is ten times cheaper than hashing.
//!
//! The memory is the one the module exports as `memory`, the one that WASI itself uses; a module
//! without it has none. A fault's witness covers the body alone: how much of a store that crosses
//! the end of memory has been written when it traps differs between processors, so the memory at
//! a trap is not the same everywhere.

use potluck_unit::{Fault, Outcome, Witness};

/// The witness of a run that ended by itself. `files` are the bytes of the files it left, empty if
/// there are none.
pub(crate) fn of_result(memory: &[u8], exit_code: u32, stdout: &[u8], files: &[u8]) -> Witness {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    hash_memory(&mut hasher, memory);
    hasher.update(&Outcome::head(exit_code, stdout.len(), !files.is_empty()));
    hasher.update(stdout);
    hasher.update(files);
    Witness(*hasher.finalize().as_bytes())
}

/// The witness of a fault.
pub(crate) fn of_fault(fault: Fault) -> Witness {
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    hash_memory(&mut hasher, &[]);
    hasher.update(&Outcome::Fault(fault).to_body());
    Witness(*hasher.finalize().as_bytes())
}

fn hash_memory(hasher: &mut blake3::Hasher, memory: &[u8]) {
    hasher.update(&(memory.len() as u64).to_le_bytes());
    let is_empty = |block: &&[u8]| **block == ZEROS[..block.len()];
    let mut at = 0;
    while at < memory.len() {
        let rest = &memory[at..];
        let empty = rest.chunks(BLOCK_BYTES).take_while(is_empty).count() * BLOCK_BYTES;
        let rest = &rest[empty.min(rest.len())..];
        let full = rest.chunks(BLOCK_BYTES).take_while(|block| !is_empty(block)).count();
        let run = &rest[..rest.len().min(full * BLOCK_BYTES)];
        at += empty;
        if !run.is_empty() {
            hasher.update(&(at as u64).to_le_bytes());
            hasher.update(&(run.len() as u64).to_le_bytes());
            hasher.update(run);
        }
        at += run.len();
    }
    hasher.update(&u64::MAX.to_le_bytes());
}

/// A page of most machines; part of the witness's definition.
const BLOCK_BYTES: usize = 4 << 10;
const ZEROS: [u8; BLOCK_BYTES] = [0; BLOCK_BYTES];
const CONTEXT: &str = "potluck witness v1";

#[cfg(test)]
mod tests {
    use potluck_unit::OutFile;

    use super::*;

    #[test]
    fn a_witness_covers_memory_code_and_output() {
        let base = of_result(b"memory", 0, b"out", b"");
        assert_eq!(base, of_result(b"memory", 0, b"out", b""));
        for other in [
            of_result(b"memorx", 0, b"out", b""),
            of_result(b"memory", 1, b"out", b""),
            of_result(b"memory", 0, b"oux", b""),
            of_result(b"", 0, b"memory", b""),
            of_result(b"memory", 0, b"out", b"files"),
            of_fault(Fault::Unreachable),
        ] {
            assert_ne!(base, other);
        }
    }

    #[test]
    fn a_witness_covers_where_each_byte_is_and_how_much_is_empty() {
        let mut seen = std::collections::BTreeSet::new();
        for pages in [0, 1, 2] {
            let mut memory = vec![0; pages * 0x10000];
            assert!(seen.insert(of_result(&memory, 0, b"", b"")));
            for at in (0..memory.len()).step_by(BLOCK_BYTES / 2) {
                memory[at] = 1;
                assert!(seen.insert(of_result(&memory, 0, b"", b"")), "{pages} {at}");
                let far = memory.len() - 1;
                memory[far] = 1;
                assert!(seen.insert(of_result(&memory, 0, b"", b"")), "{pages} {at}");
                memory[at] = 0;
                memory[far] = 0;
            }
        }
    }

    #[test]
    fn a_witness_covers_the_body_that_is_voted_on() {
        let files = vec![OutFile { path: "a/b".to_owned(), bytes: b"x".to_vec() }];
        let mut bytes = Vec::new();
        potluck_unit::write_files(&files, &mut bytes);
        let outcome = Outcome::Result { exit_code: 7, stdout: b"out".to_vec(), files };
        let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
        hash_memory(&mut hasher, b"memory");
        hasher.update(&outcome.to_body());
        let found = of_result(b"memory", 7, b"out", &bytes);
        assert_eq!(found.as_bytes(), hasher.finalize().as_bytes());
    }

    #[test]
    fn witnesses_keep_their_value() {
        assert_eq!(of_result(b"memory", 7, b"out", b"").short(), "b32428af");
        assert_eq!(of_result(b"memory", 7, b"out", b"files").short(), "9234af13");
        assert_eq!(of_fault(Fault::Unreachable).short(), "5f8914e3");
    }
}
