//! What one unit may use. Part of the signed job, because a cap that the guest can observe is part
//! of what the result means.

use serde::{Deserialize, Serialize};

/// The caps on one unit, chosen by the submitter and enforced by every worker.
///
/// None of them covers compiling the module or the sandbox process itself: those have limits of
/// their own in the sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Linear memories together, in bytes. Above it `memory.grow` answers -1, everywhere alike.
    pub memory_max_bytes: u64,
    /// Standard output, in bytes. One byte more is the fault [`crate::Fault::OutputTooLarge`].
    pub output_max_bytes: u64,
    /// Wall-clock time a worker grants one unit, in milliseconds, not counting time suspended.
    /// Running over is no result: how fast a machine is must never be voted on.
    pub deadline_ms: u64,
    /// What the unit may keep in its folder `/out`, in bytes of contents and paths; 0 is no such
    /// folder. To a guest one byte more is a full disk. Does not cover the folder's bookkeeping,
    /// which [`Limits::OUT_FILES_MAX`] bounds.
    pub out_max_bytes: u64,
}

impl Limits {
    /// 512 MiB admits nearly every real program that was measured; 256 MiB refuses some.
    pub const DEFAULT: Limits = Limits {
        memory_max_bytes: 512 << 20,
        output_max_bytes: 16 << 20,
        deadline_ms: 10 * 60 * 1000,
        out_max_bytes: 0,
    };
    /// 4 GiB: all that a 32-bit guest can address.
    pub const MEMORY_MAX_BYTES: u64 = 4 << 30;
    /// 64 MiB: a worker holds a unit's output in memory before it goes to disk.
    pub const OUTPUT_MAX_BYTES: u64 = 64 << 20;
    /// 64 MiB, together with standard output: an outcome is one blob, and travels as one.
    pub const OUT_MAX_BYTES: u64 = Self::OUTPUT_MAX_BYTES;
    /// Files and folders in `/out` at a time. Each costs a worker some hundred bytes of memory that
    /// no other cap counts.
    pub const OUT_FILES_MAX: u32 = 10_000;
    /// One day: longer units lose too much work when a donor's laptop closes.
    pub const DEADLINE_MAX_MS: u64 = 24 * 3600 * 1000;

    /// The most memory that one unit under these limits holds on a worker, in bytes, beside what runs it:
    /// its own, and its output on the way. In the sandbox output may grow to twice its size, as may
    /// files, which are there once more while one of them grows and once as bytes to send. Then they lie
    /// in memory that sandbox and worker share, and with the worker as they came, decoded, encoded as a
    /// body and once more while the body is checked.
    pub fn held_bytes(&self) -> u64 {
        let (output, out) = (self.output_max_bytes, self.out_max_bytes);
        let sandbox = output.saturating_mul(2).saturating_add(out.saturating_mul(4));
        let on_the_way = output.saturating_add(out).saturating_mul(5);
        self.memory_max_bytes.saturating_add(sandbox).saturating_add(on_the_way)
    }

    /// Whether every cap is one that a worker can be asked for.
    pub fn check(&self) -> Result<(), LimitsError> {
        let both = self.output_max_bytes.saturating_add(self.out_max_bytes);
        let limits = [
            ("memory", self.memory_max_bytes, Self::MEMORY_MAX_BYTES, "bytes"),
            ("output", self.output_max_bytes, Self::OUTPUT_MAX_BYTES, "bytes"),
            ("deadline", self.deadline_ms, Self::DEADLINE_MAX_MS, "ms"),
            ("combined output and /out", both, Self::OUT_MAX_BYTES, "bytes"),
        ];
        match limits.into_iter().find(|(_, asked, max, _)| *asked == 0 || asked > max) {
            None => Ok(()),
            Some((limit, asked, max, unit)) => Err(LimitsError { limit, asked, max, unit }),
        }
    }
}

/// A cap outside its range. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a {limit} limit of {asked} {unit} is outside 1 to {max} {unit}")]
pub struct LimitsError {
    limit: &'static str,
    asked: u64,
    max: u64,
    unit: &'static str,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_past_each_limit_is_refused_and_names_it() {
        assert_eq!(Limits::DEFAULT.check(), Ok(()));
        let over = |limits: Limits| limits.check().unwrap_err().to_string();
        assert!(
            over(Limits { memory_max_bytes: Limits::MEMORY_MAX_BYTES + 1, ..Limits::DEFAULT })
                .contains("memory")
        );
        assert!(
            over(Limits { output_max_bytes: Limits::OUTPUT_MAX_BYTES + 1, ..Limits::DEFAULT })
                .contains("output")
        );
        assert!(
            over(Limits { deadline_ms: Limits::DEADLINE_MAX_MS + 1, ..Limits::DEFAULT })
                .contains("deadline")
        );
        assert!(over(Limits { deadline_ms: 0, ..Limits::DEFAULT }).contains("deadline"));
        let out_max_bytes = Limits::OUT_MAX_BYTES - Limits::DEFAULT.output_max_bytes;
        assert_eq!(Limits { out_max_bytes, ..Limits::DEFAULT }.check(), Ok(()));
        let out_max_bytes = out_max_bytes + 1;
        assert!(over(Limits { out_max_bytes, ..Limits::DEFAULT }).contains("/out"));
        assert!(over(Limits { out_max_bytes: u64::MAX, ..Limits::DEFAULT }).contains("/out"));
    }
}
