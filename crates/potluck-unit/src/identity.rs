//! Identities: proof that a key cost its owner work, so that names are not free.
//!
//! In an open grid anybody may take part, and a thousand keys must cost more than one. A proof binds
//! a number to one key and to the moment from which the key counts: it can neither be lent nor be
//! made older. It is work for everybody alike and says nothing of its owner; trust is earned
//! elsewhere.
//!
//! ```text
//! seed = BLAKE3_derive("potluck identity v1", peer (32) ‖ born (8))
//! try  = BLAKE3_keyed(seed, nonce (8))             its first 14 bits must be 0
//! work = Argon2d(try, 6 MiB, one pass)             its first `bits` bits must be 0
//! ```
//!
//! Numbers are little-endian. The first test is there for whoever checks: a false proof that passes
//! it, and so makes its reader fill 6 MiB, took its maker about as long.

use argon2::{Algorithm, Argon2, Block, Params, Version};
use serde::{Deserialize, Serialize};

use crate::{PeerId, Time};

/// What a key cost its owner, and since when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
pub struct Identity {
    /// From when on the key counts, by its owner's clock.
    pub born: Time,
    /// What was searched for.
    pub nonce: u64,
}

impl Identity {
    /// No work at all: enough among friends.
    pub const NONE: Identity = Identity { born: Time(0), nonce: 0 };
    /// How much work an open grid asks for by default: one fill of 6 MiB in 8,192 succeeds, some
    /// 25 s of one core. Dear enough for whoever wants thousands of keys, and a wait that
    /// people take once.
    pub const BITS: u8 = 13;
    /// More than anybody will ever find.
    pub const BITS_MAX: u8 = 40;

    /// Whether this proves so many bits of work for `peer`. Nothing is needed for 0 bits. Takes a
    /// few milliseconds at worst, and under a microsecond for what did not cost its maker as much.
    pub fn proves(&self, peer: &PeerId, bits: u8) -> bool {
        if bits == 0 {
            return true;
        }
        let attempt = attempt(&seed(peer, self.born), self.nonce);
        is_cheap_pass(&attempt) && leading_zeros(&fill(&attempt, &mut memory())) >= u32::from(bits)
    }

    /// Tries the numbers from `first_nonce` on, `tries` of them: one step of a search, so that the
    /// caller may show how far it is, stop, and share the numbers out among threads.
    pub fn search(
        peer: &PeerId,
        born: Time,
        bits: u8,
        first_nonce: u64,
        tries: u64,
    ) -> Option<Identity> {
        let seed = seed(peer, born);
        let mut memory = memory();
        let nonces = first_nonce..first_nonce.saturating_add(tries);
        let attempts = nonces.map(|nonce| (nonce, attempt(&seed, nonce)));
        attempts
            .filter(|(_, attempt)| bits == 0 || is_cheap_pass(attempt))
            .find(|(_, attempt)| {
                bits == 0 || leading_zeros(&fill(attempt, &mut memory)) >= u32::from(bits)
            })
            .map(|(nonce, _)| Identity { born, nonce })
    }

    /// How many numbers have to be tried on average.
    pub fn tries_expected(bits: u8) -> u64 {
        if bits == 0 { 1 } else { 1 << (u32::from(bits.min(Self::BITS_MAX)) + CHEAP_BITS) }
    }
}

/// Passing the cheap test takes as long as one fill.
const CHEAP_BITS: u32 = 14;
/// 6 MiB, more than a graphics card has for each of its threads, filled in a few milliseconds.
const MEMORY_KIB: u32 = 6144;

fn seed(peer: &PeerId, born: Time) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("potluck identity v1");
    hasher.update(&peer.0);
    hasher.update(&born.0.to_le_bytes());
    *hasher.finalize().as_bytes()
}

fn attempt(seed: &[u8; 32], nonce: u64) -> [u8; 32] {
    *blake3::keyed_hash(seed, &nonce.to_le_bytes()).as_bytes()
}

fn is_cheap_pass(attempt: &[u8; 32]) -> bool {
    u16::from_be_bytes([attempt[0], attempt[1]]).leading_zeros() >= CHEAP_BITS
}

fn memory() -> Vec<Block> {
    vec![Block::new(); MEMORY_KIB as usize]
}

/// Argon2d: its addresses depend on the data, which is what makes it hard to do with less memory;
/// there is no secret that they could betray.
fn fill(attempt: &[u8; 32], memory: &mut [Block]) -> [u8; 8] {
    let params = Params::new(MEMORY_KIB, 1, 1, Some(8)).expect("within the bounds of Argon2");
    let argon = Argon2::new(Algorithm::Argon2d, Version::V0x13, params);
    let mut work = [0; 8];
    argon
        .hash_password_into_with_memory(attempt, b"potluck identity v1", &mut work, memory)
        .expect("lengths within the bounds of Argon2");
    work
}

fn leading_zeros(work: &[u8; 8]) -> u32 {
    u64::from_be_bytes(*work).leading_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Key;

    const BORN: Time = Time(1_700_000_000_000);

    fn search(peer: &PeerId, bits: u8) -> Identity {
        let tries = 100 * Identity::tries_expected(bits);
        Identity::search(peer, BORN, bits, 0, tries).unwrap()
    }

    #[test]
    fn what_was_searched_for_proves_itself_for_its_key_and_birth_only() {
        let (peer, other) = (Key::of_secret(&[1; 32]).id(), Key::of_secret(&[2; 32]).id());
        let found = search(&peer, 2);
        assert!(found.proves(&peer, 2));
        assert!(!found.proves(&other, 2));
        assert!(!Identity { born: BORN.plus_ms(1), ..found }.proves(&peer, 2));
        assert!(!Identity { nonce: found.nonce + 1, ..found }.proves(&peer, 2));
        assert!(!found.proves(&peer, Identity::BITS_MAX));
    }

    #[test]
    fn no_work_is_enough_where_none_is_asked_for() {
        let peer = Key::of_secret(&[1; 32]).id();
        assert!(Identity::NONE.proves(&peer, 0));
        assert!(!Identity::NONE.proves(&peer, 1));
        assert_eq!(Identity::search(&peer, BORN, 0, 7, 1), Some(Identity { born: BORN, nonce: 7 }));
    }

    #[test]
    fn a_search_in_steps_finds_what_one_search_finds() {
        let peer = Key::of_secret(&[1; 32]).id();
        let found = search(&peer, 1);
        let step = Identity::tries_expected(1) / 3;
        let mut steps = (0..).map(|n| Identity::search(&peer, BORN, 1, n * step, step));
        assert_eq!(steps.find_map(|step| step), Some(found));
        assert_eq!(Identity::search(&peer, BORN, 1, 0, found.nonce), None);
    }

    #[test]
    fn each_bit_doubles_the_work() {
        assert_eq!(Identity::tries_expected(0), 1);
        assert_eq!(Identity::tries_expected(1), 1 << 15);
        for bits in 1..Identity::BITS_MAX {
            assert_eq!(Identity::tries_expected(bits + 1), 2 * Identity::tries_expected(bits));
        }
        assert_eq!(Identity::tries_expected(u8::MAX), Identity::tries_expected(Identity::BITS_MAX));
    }

    /// Everybody must find the same: the numbers of Argon2 are part of the format.
    #[test]
    fn the_work_of_a_number_never_changes() {
        let attempt = attempt(&seed(&PeerId([1; 32]), BORN), 5);
        assert_eq!(fill(&attempt, &mut memory()), GOLDEN);
    }

    const GOLDEN: [u8; 8] = [147, 130, 218, 245, 252, 246, 36, 223];
}
