//! Names: every id is a type of its own, so that a peer can't be passed for a unit.
//!
//! All hashes are BLAKE3. Ids print as lower-case hex; [`PeerId::short`] and its siblings give the
//! first eight digits for people.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An id could not be read from text. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {what}: expected {digits} hexadecimal digits")]
pub struct IdError {
    text: String,
    what: &'static str,
    digits: usize,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; $bytes]);

        impl $name {
            /// How many bytes this id has.
            pub const BYTES: usize = $bytes;

            /// The bytes themselves.
            pub fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }

            /// The first eight hexadecimal digits: enough for people to tell a handful apart.
            pub fn short(&self) -> String {
                hex(&self.0[..4])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self.short())
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                unhex(text).map($name).ok_or_else(|| IdError {
                    text: text.chars().take(80).collect(),
                    what: $what,
                    digits: 2 * $bytes,
                })
            }
        }
    };
}

id!(
    /// A running node: its Ed25519 public key, which is also its TLS identity.
    PeerId, 32, "a peer id"
);
id!(
    /// A job: the hash of its record's signed bytes.
    JobId, 32, "a job id"
);
id!(
    /// One unit of one job: `BLAKE3(job ‖ index)` under a domain of its own, see [`UnitId::of`].
    UnitId, 32, "a unit id"
);
id!(
    /// Content-addressed bytes: the BLAKE3 hash of the bytes.
    BlobId, 32, "a blob id"
);
id!(
    /// A signed record in a job's set: the hash of the whole record, signature included.
    RecordId, 32, "a record id"
);
id!(
    /// R, what a receipt says came out: the first 16 bytes of the outcome body's hash. A liar who
    /// wants a wrong body under the right R needs a second preimage of 128 bits.
    ResultHash, 16, "a result hash"
);
id!(
    /// D, what only somebody who ran the unit can make or check: a digest of what the run left in
    /// memory, keyed by the worker and the unit, so that copying another's D is useless.
    WorkDigest, 16, "a work digest"
);
id!(
    /// M, the digest of a run's final memory and outputs. Secret: only who executed knows it.
    Witness, 32, "a witness"
);

/// A module is named by the hash of its bytes, like any other blob.
pub type ModuleId = BlobId;

impl BlobId {
    /// The id of these bytes.
    pub fn of(bytes: &[u8]) -> BlobId {
        BlobId(*blake3::hash(bytes).as_bytes())
    }

    /// The result hash of an outcome body with this id.
    pub fn result_hash(&self) -> ResultHash {
        let mut short = [0; 16];
        short.copy_from_slice(&self.0[..16]);
        ResultHash(short)
    }
}

impl UnitId {
    /// The id of row `index` of `job`. Derived, so that one signature over the job covers them all.
    pub fn of(job: &JobId, index: u32) -> UnitId {
        let mut hasher = blake3::Hasher::new_derive_key("potluck unit id v1");
        hasher.update(&job.0);
        hasher.update(&index.to_le_bytes());
        UnitId(*hasher.finalize().as_bytes())
    }
}

impl JobId {
    /// What the order of `peer` among the chunks of this job follows from: nobody can steer it but by
    /// making another key.
    pub fn lot(&self, peer: &PeerId) -> Lot {
        let mut lot = [0; 8];
        lot.copy_from_slice(&blake3::keyed_hash(&self.0, &peer.0).as_bytes()[..8]);
        Lot(u64::from_le_bytes(lot))
    }

    /// Where `chunk` of this job stands in the order of `peer`.
    pub fn rank(&self, chunk: u32, peer: &PeerId) -> u64 {
        self.lot(peer).rank(chunk)
    }
}

/// One peer's part in the public lottery of a job: its place for every chunk follows from it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lot(u64);

impl Lot {
    /// The place for `chunk`: a number below 2^64 that everybody can compute, low ones first. The
    /// mixing is that of SplitMix64 (Steele, Lea and Flood 2014): it need not be secret, only even.
    pub fn rank(self, chunk: u32) -> u64 {
        let mut mixed =
            self.0 ^ u64::from(chunk).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

impl Witness {
    /// The digest that `worker` publishes for `unit`: `BLAKE3_keyed(worker ‖ unit, M)`, 16 bytes.
    pub fn work_digest(&self, worker: &PeerId, unit: &UnitId) -> WorkDigest {
        let mut hasher = blake3::Hasher::new_derive_key("potluck work digest v1");
        hasher.update(&worker.0);
        hasher.update(&unit.0);
        let key = *hasher.finalize().as_bytes();
        let mut short = [0; 16];
        short.copy_from_slice(&blake3::keyed_hash(&key, &self.0).as_bytes()[..16]);
        WorkDigest(short)
    }
}

fn hex(bytes: &[u8]) -> String {
    use fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |ascii: u8| (ascii as char).to_digit(16).and_then(|d| u8::try_from(d).ok());
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_from_what_it_prints() {
        let id = BlobId::of(b"potluck");
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn an_id_of_the_wrong_length_or_alphabet_is_refused() {
        for text in ["", "00", &"g".repeat(64), &"0".repeat(63), &"0".repeat(65)] {
            assert!(text.parse::<JobId>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_work_digest_of_one_peer_is_useless_to_another() {
        let unit = UnitId::of(&JobId([1; 32]), 0);
        let witness = Witness([7; 32]);
        let mine = witness.work_digest(&PeerId([1; 32]), &unit);
        assert_eq!(mine, witness.work_digest(&PeerId([1; 32]), &unit));
        assert_ne!(mine, witness.work_digest(&PeerId([2; 32]), &unit));
        assert_ne!(mine, witness.work_digest(&PeerId([1; 32]), &UnitId::of(&JobId([1; 32]), 1)));
    }
}
