//! Evidence: all that a node holds about a job, in one file that anybody can check without it.
//!
//! [`file`] is how the file looks, [`open`](Evidence::open) reads one and believes nothing in it,
//! and [`check`](Evidence::check) says what it proves: signatures, seats, verdicts recomputed from
//! the records alone, and units run again where somebody contradicts. The page `docs/evidence.md`
//! has the exact bytes.

mod file;
mod open;
mod check;

pub use check::{
    Contradiction, FalseSeat, Progress, Proof, Report, Undecided, Unproven, Wrongdoing,
};
pub use file::EVIDENCE_BYTES_MAX;
pub(crate) use file::{Claim, Encoder, Kind, RECORDS_BYTES_MAX, without_bodies};
pub use open::{Evidence, EvidenceError};
