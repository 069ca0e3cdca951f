//! The bytes of an evidence file: a head, parts with their kind and length, and a checksum.
//!
//! ```text
//! "potluck evidence" (16) ‖ version (1) ‖ part…
//! part: kind (1) ‖ length (u32, little endian) ‖ bytes
//! ```

use potluck_peer::Verdict;
use potluck_unit::{InputIndex, InputTable, Job, ReceiptBatch, Record, ResultHash, Row, Signed};

/// What every file starts with.
pub(super) const MAGIC: &[u8; 16] = b"potluck evidence";
/// The version that this program writes and reads.
pub(super) const VERSION: u8 = 1;
/// Magic and version.
pub(super) const HEAD_BYTES: usize = MAGIC.len() + 1;
/// Kind and length.
pub(super) const PART_HEAD_BYTES: usize = 5;
/// Units whose claims stand in one part: about a mebibyte.
pub(super) const CLAIMS_MAX: usize = 1 << 16;
/// Records of one file, as many as a node holds for a job, with its own and a closing.
pub(super) const RECORDS_MAX: usize = (1 << 20) + 2;
/// All records of one file. They are held in memory while they are checked; a million units signed
/// by 16 peers take 640 MB.
pub(crate) const RECORDS_BYTES_MAX: u64 = 1 << 30;
/// The largest file: all records, the largest module, and the largest table of inputs.
pub const EVIDENCE_BYTES_MAX: u64 = 6 << 30;

/// What a part is. In a file their numbers never go down, and the end is the last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Kind {
    /// The job's record. Exactly one.
    Job = 1,
    /// Any other record about the job: receipts without the bodies of outcomes, a closing.
    Record = 2,
    /// What whoever wrote the file takes for accepted.
    Claims = 3,
    /// The module. At most one.
    Module = 4,
    /// The index of the input table. At most one.
    Index = 5,
    /// A page of the input table.
    Page = 6,
    /// The BLAKE3 hash of everything before this part.
    End = 7,
}

impl Kind {
    pub(super) fn of_code(code: u8) -> Option<Kind> {
        let kinds = [
            Kind::Job,
            Kind::Record,
            Kind::Claims,
            Kind::Module,
            Kind::Index,
            Kind::Page,
            Kind::End,
        ];
        kinds.into_iter().find(|kind| *kind as u8 == code)
    }

    /// The longest part of this kind.
    pub(super) fn bytes_max(self) -> usize {
        match self {
            Kind::Job | Kind::Record => Signed::BYTES_MAX,
            Kind::Claims => 4 + CLAIMS_MAX * Claim::BYTES,
            Kind::Module => Job::MODULE_BYTES_MAX as usize,
            Kind::Index => InputIndex::BYTES_MAX,
            // One row of the largest size on top of a full page.
            Kind::Page => InputTable::PAGE_BYTES + Row::BYTES_MAX + 8 * Row::ARGS_MAX,
            Kind::End => 32,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Job => "the job's record",
            Kind::Record => "a record",
            Kind::Claims => "the claims",
            Kind::Module => "the module",
            Kind::Index => "the input index",
            Kind::Page => "an input page",
            Kind::End => "the checksum",
        }
    }
}

/// What whoever wrote the file says of one unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Claim {
    /// Nothing is accepted.
    Open,
    /// This is accepted.
    Accepted(ResultHash),
    /// Every machine that tried gave up.
    Unrunnable,
}

impl Claim {
    /// State and R.
    pub(super) const BYTES: usize = 1 + ResultHash::BYTES;

    pub(crate) fn of(verdict: Option<Verdict>) -> Claim {
        match verdict {
            Some(Verdict::Accepted(result)) => Claim::Accepted(result),
            Some(Verdict::Unrunnable(_)) => Claim::Unrunnable,
            Some(Verdict::Open | Verdict::Partial(_) | Verdict::Disputed) | None => Claim::Open,
        }
    }

    fn write(self, bytes: &mut Vec<u8>) {
        let (state, result) = match self {
            Claim::Open => (0, ResultHash([0; 16])),
            Claim::Accepted(result) => (1, result),
            Claim::Unrunnable => (2, ResultHash([0; 16])),
        };
        bytes.push(state);
        bytes.extend_from_slice(&result.0);
    }

    fn read(bytes: &[u8; Claim::BYTES]) -> Option<Claim> {
        let [state, result @ ..] = bytes;
        match state {
            0 => Some(Claim::Open),
            1 => Some(Claim::Accepted(ResultHash(*result))),
            2 => Some(Claim::Unrunnable),
            _ => None,
        }
    }

    /// The first unit and the claims of a part.
    pub(super) fn read_part(bytes: &[u8]) -> Option<(u32, Vec<Claim>)> {
        let (first, rest) = bytes.split_first_chunk::<4>()?;
        let (claims, rest) = rest.as_chunks::<{ Claim::BYTES }>();
        let claims: Option<Vec<Claim>> = claims.iter().map(Claim::read).collect();
        claims.filter(|_| rest.is_empty()).map(|claims| (u32::from_le_bytes(*first), claims))
    }
}

/// Writes a file piece by piece, without ever holding it.
#[derive(Debug, Default)]
pub(crate) struct Encoder {
    hasher: blake3::Hasher,
}

impl Encoder {
    /// What comes first.
    pub(crate) fn head(&mut self) -> Vec<u8> {
        let bytes = [&MAGIC[..], &[VERSION]].concat();
        self.hasher.update(&bytes);
        bytes
    }

    /// One more part.
    pub(crate) fn part(&mut self, kind: Kind, bytes: &[u8]) -> Vec<u8> {
        let length = u32::try_from(bytes.len()).expect("parts are bounded far below 4 GiB");
        let part = [&[kind as u8], &length.to_le_bytes()[..], bytes].concat();
        self.hasher.update(&part);
        part
    }

    /// The claims on all units, one part after another.
    pub(crate) fn claims(&mut self, claims: &[Claim]) -> Vec<u8> {
        let mut parts = Vec::new();
        for (at, some) in claims.chunks(CLAIMS_MAX).enumerate() {
            let first = u32::try_from(at * CLAIMS_MAX).expect("a job has at most a million units");
            let mut bytes = first.to_le_bytes().to_vec();
            some.iter().for_each(|claim| claim.write(&mut bytes));
            parts.extend(self.part(Kind::Claims, &bytes));
        }
        parts
    }

    /// What comes last.
    pub(crate) fn end(mut self) -> Vec<u8> {
        let hash = self.hasher.finalize();
        self.part(Kind::End, hash.as_bytes())
    }
}

/// A record's bytes without the bodies of outcomes in it: they are not signed, R vouches for them,
/// and they prove nothing.
pub(crate) fn without_bodies(record: &Signed) -> &[u8] {
    let bytes = record.bytes();
    let Record::Receipts(batch) = record.record() else { return bytes };
    let bare = ReceiptBatch { bodies: Vec::new(), ..batch.clone() };
    let bodies = batch.tail().len() - bare.tail().len();
    &bytes[..bytes.len() - bodies]
}
