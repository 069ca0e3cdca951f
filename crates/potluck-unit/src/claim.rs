//! Claims: a worker's announced intent to run chunks of a job, with a lease.

use serde::{Deserialize, Serialize};

use crate::encoding::DecodeError;
use crate::{JobId, Time};

/// A worker means to run these chunks until the lease runs out.
///
/// Claims only spare work that would be done twice: no verdict depends on one, and they are
/// neither kept nor reconciled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// The job.
    pub job: JobId,
    /// When it was made, by the worker's clock. Only tells two claims of one worker apart.
    pub made: Time,
    /// For how long others should leave a seat to this worker, in milliseconds from when they hear
    /// of it. 0 gives the chunks back.
    pub lease_ms: u32,
    /// The chunks.
    pub chunks: Vec<u32>,
}

impl Claim {
    /// Chunks in one claim.
    pub const CHUNKS_MAX: usize = 256;
    /// An hour: a worker that needs longer claims again.
    pub const LEASE_MAX_MS: u32 = 3600 * 1000;

    /// Whether every field is within its bounds.
    pub fn check(&self) -> Result<(), DecodeError> {
        if self.chunks.is_empty() || self.chunks.len() > Self::CHUNKS_MAX {
            return Err(DecodeError::OutOfBounds { what: "number of claimed chunks" });
        }
        if self.lease_ms > Self::LEASE_MAX_MS {
            return Err(DecodeError::OutOfBounds { what: "lease" });
        }
        Ok(())
    }
}
