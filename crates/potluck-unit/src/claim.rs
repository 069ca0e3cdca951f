//! Claims: a worker's announced intent to run chunks of a job, with a lease.

use serde::{Deserialize, Serialize};

use crate::encoding::DecodeError;
use crate::{JobId, Time};

/// A worker means to run these units until the lease runs out.
///
/// Claims only spare work that would be done twice: no verdict depends on one, and they are
/// neither kept nor reconciled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The job.
    pub job: JobId,
    /// When it was made, by the worker's clock. Only tells two claims of one worker apart.
    pub made: Time,
    /// For how long others should leave these seats to this worker, in milliseconds from when they hear
    /// of it. 0 gives them back.
    pub lease_ms: u32,
    /// What of which chunks, by rising chunk.
    pub pieces: Vec<Piece>,
}

/// Some units of one chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// The chunk.
    pub chunk: u32,
    /// Its units: bit 0 is the first one.
    pub units: u64,
    /// Whether by what the worker drew in secret; else by the public lottery.
    pub secret: bool,
}

impl Claim {
    /// Chunks in one claim.
    pub const PIECES_MAX: usize = 256;
    /// An hour: a worker that needs longer claims again.
    pub const LEASE_MAX_MS: u32 = 3600 * 1000;

    /// Whether every field is within its bounds.
    pub fn check(&self) -> Result<(), DecodeError> {
        if self.pieces.is_empty() || self.pieces.len() > Self::PIECES_MAX {
            return Err(DecodeError::OutOfBounds { what: "number of claimed chunks" });
        }
        if !self.pieces.is_sorted_by(|one, next| one.chunk < next.chunk) {
            return Err(DecodeError::OutOfBounds { what: "order of claimed chunks" });
        }
        if self.lease_ms > Self::LEASE_MAX_MS {
            return Err(DecodeError::OutOfBounds { what: "lease" });
        }
        Ok(())
    }
}
