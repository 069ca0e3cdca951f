//! A job: one module, a table of inputs, limits and a verification policy, signed by the submitter.

use serde::{Deserialize, Serialize};

use crate::encoding::DecodeError;
use crate::{BlobId, Identity, InputIndex, InputTable, Limits, ModuleId, Time};

/// What a submitter signs once; every unit of the job follows from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Job {
    /// When it was made, by the submitter's clock.
    pub created: Time,
    /// When peers may forget it. At most [`Job::LIFE_MAX_MS`] after `created`.
    pub expires: Time,
    /// Makes two submissions of the same work two jobs.
    pub nonce: u64,
    /// The program.
    pub module: ModuleId,
    /// Its size in bytes.
    pub module_bytes: u32,
    /// The index blob of the input table.
    pub inputs: BlobId,
    /// The index blob's size in bytes.
    pub inputs_bytes: u32,
    /// How many units there are: rows 0 to `units - 1` of the table.
    pub units: u32,
    /// What one unit may use.
    pub limits: Limits,
    /// k: how many distinct peers must say the same before a result is accepted.
    pub copies: u8,
    /// How sure the submitter wants to be: decides how much is audited beyond that.
    pub quality: Quality,
    /// N: how many workers the submitter knew of. Seats are drawn so that each has a few takers
    /// among so many.
    pub peers: u32,
    /// Which of a submitter's own jobs goes first: the higher.
    pub priority: u8,
    /// What people call it. May be empty.
    pub label: String,
    /// The submitter's proof of work; none in a grid among friends.
    pub identity: Identity,
    /// Parts that later versions add. A reader skips those whose tag it does not know, unless the
    /// tag says that the units can't be run without them.
    pub extras: Vec<Extra>,
}

/// How sure a submitter wants to be of its results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Quality {
    /// One copy, and audits.
    Bulk,
    /// Two copies, and audits.
    Standard,
    /// Four copies, and audits.
    Critical,
}

impl Quality {
    /// k where the submitter does not say otherwise.
    pub fn copies(self) -> u8 {
        match self {
            Quality::Bulk => 1,
            Quality::Standard => 2,
            Quality::Critical => 4,
        }
    }
}

/// An optional part of a record, told apart by its tag.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extra {
    /// Which part.
    pub tag: u16,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Extra {
    /// The bit of a tag that says: without this part the units can't be run or judged.
    pub const REQUIRED: u16 = 0x8000;
}

impl Job {
    /// 32 MiB: every interpreter and solver that was tried fits, most programs by a factor of 100.
    pub const MODULE_BYTES_MAX: u32 = 32 << 20;
    /// More copies than this would only waste donors' time.
    pub const COPIES_MAX: u8 = 16;
    /// Bytes of the label.
    pub const LABEL_BYTES_MAX: usize = 64;
    /// A million workers.
    pub const PEERS_MAX: u32 = 1 << 20;
    /// The highest priority; the usual one is in the middle.
    pub const PRIORITY_MAX: u8 = 9;
    /// The usual priority.
    pub const PRIORITY_USUAL: u8 = 5;
    /// 30 days.
    pub const LIFE_MAX_MS: u64 = 30 * 24 * 3600 * 1000;
    /// Optional parts.
    pub const EXTRAS_MAX: usize = 8;
    /// Bytes of one optional part.
    pub const EXTRA_BYTES_MAX: usize = 512;

    /// Whether every field is within its bounds. Says which is not.
    pub fn check(&self) -> Result<(), DecodeError> {
        let life_ms = self.expires.ms_since(self.created);
        let bounds = [
            ("expiry", (1..=Self::LIFE_MAX_MS).contains(&life_ms)),
            ("module size", (1..=Self::MODULE_BYTES_MAX).contains(&self.module_bytes)),
            (
                "input index size",
                (1..=InputIndex::BYTES_MAX).contains(&(self.inputs_bytes as usize)),
            ),
            ("number of peers", (1..=Self::PEERS_MAX).contains(&self.peers)),
            ("priority", self.priority <= Self::PRIORITY_MAX),
            ("number of units", (1..=InputTable::UNITS_MAX).contains(&self.units)),
            ("limits", self.limits.check().is_ok()),
            ("number of copies", (1..=Self::COPIES_MAX).contains(&self.copies)),
            ("label", self.label.len() <= Self::LABEL_BYTES_MAX && !has_control(&self.label)),
            ("number of extras", self.extras.len() <= Self::EXTRAS_MAX),
            ("extra", self.extras.iter().all(|extra| extra.bytes.len() <= Self::EXTRA_BYTES_MAX)),
        ];
        match bounds.into_iter().find(|(_, within)| !within) {
            None => Ok(()),
            Some((what, _)) => Err(DecodeError::OutOfBounds { what }),
        }
    }

    /// The tag of a part without which the units can't be run and that this version does not know.
    pub fn unknown_requirement(&self) -> Option<u16> {
        let required = |extra: &&Extra| extra.tag & Extra::REQUIRED != 0;
        self.extras.iter().find(required).map(|extra| extra.tag)
    }

    /// How many units are claimed together. Follows from the job alone, so that every peer cuts it
    /// alike: single units while they are few, up to 64 once there are many, which keeps claims
    /// short and still leaves 256 pieces to share out, and 16 for each worker: whoever is slow must
    /// not be at its last one when all others are done.
    pub fn chunk_units(&self) -> u32 {
        let pieces = self.peers.saturating_mul(16).max(256);
        (self.units / pieces).clamp(1, Self::CHUNK_UNITS_MAX)
    }

    /// How many chunks that makes.
    pub fn chunks(&self) -> u32 {
        self.units.div_ceil(self.chunk_units())
    }

    /// The units of `chunk`; empty past the last.
    pub fn units_of(&self, chunk: u32) -> std::ops::Range<u32> {
        let first = chunk.saturating_mul(self.chunk_units()).min(self.units);
        first..first.saturating_add(self.chunk_units()).min(self.units)
    }

    /// Units in the largest chunk.
    pub const CHUNK_UNITS_MAX: u32 = 64;
}

/// A label is printed on other people's terminals: no control characters.
fn has_control(text: &str) -> bool {
    text.chars().any(char::is_control)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn job() -> Job {
        Job {
            created: Time(1_700_000_000_000),
            expires: Time(1_700_000_000_000 + 7 * 24 * 3600 * 1000),
            nonce: 5,
            module: BlobId([3; 32]),
            module_bytes: 1000,
            inputs: BlobId([4; 32]),
            inputs_bytes: 50,
            units: 64,
            limits: Limits::DEFAULT,
            copies: 2,
            quality: Quality::Standard,
            peers: 20,
            priority: Job::PRIORITY_USUAL,
            label: "primes".to_owned(),
            identity: Identity { born: Time(1_690_000_000_000), nonce: 70_000_000 },
            extras: vec![],
        }
    }

    #[test]
    fn one_past_each_bound_is_refused() {
        assert_eq!(job().check(), Ok(()));
        let extra = Extra { tag: 1, bytes: vec![0; Job::EXTRA_BYTES_MAX + 1] };
        let small = Extra { tag: 1, bytes: vec![] };
        let broken = [
            Job { expires: job().created, ..job() },
            Job { expires: job().created.plus_ms(Job::LIFE_MAX_MS + 1), ..job() },
            Job { module_bytes: Job::MODULE_BYTES_MAX + 1, ..job() },
            Job { inputs_bytes: u32::try_from(InputIndex::BYTES_MAX).unwrap() + 1, ..job() },
            Job { units: 0, ..job() },
            Job { units: InputTable::UNITS_MAX + 1, ..job() },
            Job { peers: 0, ..job() },
            Job { peers: Job::PEERS_MAX + 1, ..job() },
            Job { priority: Job::PRIORITY_MAX + 1, ..job() },
            Job { copies: 0, ..job() },
            Job { copies: Job::COPIES_MAX + 1, ..job() },
            Job { label: "x".repeat(Job::LABEL_BYTES_MAX + 1), ..job() },
            Job { label: "\u{1b}[2J".to_owned(), ..job() },
            Job { extras: vec![small; Job::EXTRAS_MAX + 1], ..job() },
            Job { extras: vec![extra], ..job() },
        ];
        for job in broken {
            assert!(job.check().is_err(), "{job:?}");
        }
    }

    #[test]
    fn chunks_cover_every_unit_once() {
        for units in [1, 2, 255, 256, 257, 10_000, 16_384, 100_000, 999_999] {
            let job = Job { units, ..job() };
            let mut next = 0;
            for chunk in 0..job.chunks() {
                assert_eq!(job.units_of(chunk).start, next);
                next = job.units_of(chunk).end;
            }
            assert_eq!(next, units);
            assert!(job.units_of(job.chunks()).is_empty());
            assert!(job.units_of(u32::MAX).is_empty());
        }
    }
}
