//! How a run ended: a result, a deterministic fault, or no result.
//!
//! Results and faults have a *body*, bytes that are equal on every honest machine; R is the hash of
//! the body. No result has neither: it depends on the machine and is never voted on.
//!
//! ```text
//! result:            0x00 ‖ exit code (u32) ‖ standard output
//! fault:             0x01 ‖ kind (u8)
//! result with files: 0x02 ‖ exit code (u32) ‖ length (u32) ‖ standard output ‖ files
//! ```
//!
//! Numbers are little-endian. A unit that left files in `/out` has a result with files, and no other
//! unit has; what the bytes of files are is said in `files`.

use serde::{Deserialize, Serialize};

use crate::files::{OutFile, files_length, read_files, write_files};
use crate::{BlobId, Limits, ResultHash, Witness};

/// What every honest machine says of one unit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The guest ended by itself. A non-zero exit code is an answer like any other.
    Result {
        /// What the guest passed to `proc_exit`, or 0.
        exit_code: u32,
        /// All that it wrote to standard output.
        stdout: Vec<u8>,
        /// All files that it left in `/out`, sorted by the bytes of their paths.
        files: Vec<OutFile>,
    },
    /// The guest broke a rule that every machine enforces alike. Only the kind is voted on.
    Fault(Fault),
}

/// Deterministic ways to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
pub enum Fault {
    /// `unreachable` was executed: a panic or an abort in most languages.
    Unreachable = 1,
    /// A load or store outside linear memory.
    MemoryOutOfBounds = 2,
    /// An access outside a table.
    TableOutOfBounds = 3,
    /// `call_indirect` through a null entry.
    IndirectCallToNull = 4,
    /// `call_indirect` to a function of another type.
    BadSignature = 5,
    /// Integer overflow, as in `i32::MIN / -1`.
    IntegerOverflow = 6,
    /// Integer division by zero.
    IntegerDivisionByZero = 7,
    /// A float with no integer value was converted to one.
    BadConversionToInteger = 8,
    /// Standard output passed the job's limit.
    OutputTooLarge = 9,
    /// The module is not a WASI preview-1 command that this profile runs.
    InvalidModule = 10,
    /// A null reference was used.
    NullReference = 11,
}

impl Fault {
    /// Every kind.
    pub const ALL: [Fault; 11] = [
        Fault::Unreachable,
        Fault::MemoryOutOfBounds,
        Fault::TableOutOfBounds,
        Fault::IndirectCallToNull,
        Fault::BadSignature,
        Fault::IntegerOverflow,
        Fault::IntegerDivisionByZero,
        Fault::BadConversionToInteger,
        Fault::OutputTooLarge,
        Fault::InvalidModule,
        Fault::NullReference,
    ];

    /// What a person calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            Fault::Unreachable => "unreachable executed",
            Fault::MemoryOutOfBounds => "memory access out of bounds",
            Fault::TableOutOfBounds => "table access out of bounds",
            Fault::IndirectCallToNull => "indirect call to null",
            Fault::BadSignature => "indirect call type mismatch",
            Fault::IntegerOverflow => "integer overflow",
            Fault::IntegerDivisionByZero => "integer division by zero",
            Fault::BadConversionToInteger => "invalid conversion to integer",
            Fault::OutputTooLarge => "output over its limit",
            Fault::InvalidModule => "invalid module",
            Fault::NullReference => "null reference",
        }
    }

    fn of_code(code: u8) -> Option<Fault> {
        Fault::ALL.into_iter().find(|fault| *fault as u8 == code)
    }
}

/// Why a run has nothing to say. Depends on the machine, so it is never held against a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
pub enum NoResult {
    /// The deadline passed.
    Deadline = 1,
    /// The native stack ran out; how deep that is depends on compiler and machine.
    StackOverflow = 2,
    /// The machine had less memory to give than the job allows.
    HostMemory = 3,
    /// Compiling the module passed the compiler's own limits.
    TooCostlyToCompile = 4,
    /// The sandbox process died or spoke nonsense.
    ChildDied = 5,
    /// The engine failed in a way that says nothing about the guest.
    Engine = 6,
    /// The owner of the machine wanted it back.
    Stopped = 7,
}

impl NoResult {
    const ALL: [NoResult; 7] = [
        NoResult::Deadline,
        NoResult::StackOverflow,
        NoResult::HostMemory,
        NoResult::TooCostlyToCompile,
        NoResult::ChildDied,
        NoResult::Engine,
        NoResult::Stopped,
    ];

    pub(crate) fn of_code(code: u8) -> Option<NoResult> {
        NoResult::ALL.into_iter().find(|reason| *reason as u8 == code)
    }

    /// What a person calls it.
    pub fn as_str(self) -> &'static str {
        match self {
            NoResult::Deadline => "deadline passed",
            NoResult::StackOverflow => "stack overflow",
            NoResult::HostMemory => "not enough memory on the machine",
            NoResult::TooCostlyToCompile => "too costly to compile",
            NoResult::ChildDied => "sandbox process died",
            NoResult::Engine => "engine error",
            NoResult::Stopped => "stopped by the donor",
        }
    }
}

/// A body that no honest worker could have made. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("these {bytes} bytes are not an outcome")]
pub struct OutcomeError {
    bytes: usize,
}

const TAG_RESULT: u8 = 0;
const TAG_FAULT: u8 = 1;
const TAG_FILES: u8 = 2;

impl Outcome {
    /// No body is longer: standard output and files share [`Limits::OUT_MAX_BYTES`], and what stands
    /// between them takes less than 64 KiB.
    pub const BODY_BYTES_MAX: u64 = Limits::OUT_MAX_BYTES + (64 << 10);

    /// The bytes that are hashed, kept and fetched.
    pub fn to_body(&self) -> Vec<u8> {
        match self {
            Outcome::Result { exit_code, stdout, files } => {
                let has_files = !files.is_empty();
                let head = Outcome::head(*exit_code, stdout.len(), has_files);
                let tail = if has_files { files_length(files) } else { 0 };
                let mut body = Vec::with_capacity(head.len() + stdout.len() + tail);
                body.extend_from_slice(&head);
                body.extend_from_slice(stdout);
                if has_files {
                    write_files(files, &mut body);
                }
                body
            }
            Outcome::Fault(fault) => vec![TAG_FAULT, *fault as u8],
        }
    }

    /// The bytes of a result's body before its standard output; after that come the bytes of its
    /// files, if it has any.
    pub fn head(exit_code: u32, stdout_length: usize, has_files: bool) -> Vec<u8> {
        let mut head = vec![if has_files { TAG_FILES } else { TAG_RESULT }];
        head.extend_from_slice(&exit_code.to_le_bytes());
        if has_files {
            let length = u32::try_from(stdout_length).expect("output is bounded at 64 MiB");
            head.extend_from_slice(&length.to_le_bytes());
        }
        head
    }

    /// Reads a body back. Errors on anything that [`Outcome::to_body`] does not write.
    pub fn of_body(body: &[u8]) -> Result<Outcome, OutcomeError> {
        let outcome = match body {
            [TAG_RESULT, a, b, c, d, stdout @ ..] => Some(Outcome::Result {
                exit_code: u32::from_le_bytes([*a, *b, *c, *d]),
                stdout: stdout.to_vec(),
                files: vec![],
            }),
            [TAG_FAULT, code] => Fault::of_code(*code).map(Outcome::Fault),
            [TAG_FILES, a, b, c, d, rest @ ..] => {
                Outcome::with_files(u32::from_le_bytes([*a, *b, *c, *d]), rest)
            }
            _ => None,
        };
        outcome.ok_or(OutcomeError { bytes: body.len() })
    }

    fn with_files(exit_code: u32, rest: &[u8]) -> Option<Outcome> {
        let (length, rest) = rest.split_first_chunk()?;
        let (stdout, files) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        Some(Outcome::Result { exit_code, stdout: stdout.to_vec(), files: read_files(files)? })
    }

    /// R: what a receipt says of this outcome.
    pub fn result_hash(&self) -> ResultHash {
        BlobId::of(&self.to_body()).result_hash()
    }
}

/// What the sandbox reports of one run: the outcome with its witness, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RunReport {
    /// The run has an outcome.
    Done {
        /// How it ended.
        outcome: Outcome,
        /// M, the digest of final memory and outputs.
        witness: Witness,
    },
    /// The run has nothing to say.
    NoResult(NoResult),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::tests::file;

    #[test]
    fn every_outcome_reads_back_from_its_body() {
        let files = vec![file("a", b""), file("b/c", b"\0text")];
        let results = [(0, &b""[..], vec![]), (u32::MAX, b"\xff\x00text", vec![]), (1, b"", files)]
            .map(|(exit_code, stdout, files)| Outcome::Result {
                exit_code,
                stdout: stdout.to_vec(),
                files,
            });
        for outcome in results.into_iter().chain(Fault::ALL.map(Outcome::Fault)) {
            assert_eq!(Outcome::of_body(&outcome.to_body()), Ok(outcome));
        }
    }

    #[test]
    fn a_body_of_another_shape_is_refused() {
        for body in [
            &b""[..],
            b"\x00",
            b"\x00\x01\x02\x03",
            b"\x01",
            b"\x01\x00",
            b"\x01\x01\x01",
            b"\x02\x00",
            // No files, and more output than body.
            b"\x02\0\0\0\0\0\0\0\0\0\0\0\0",
            b"\x02\0\0\0\0\xff\xff\xff\xff\x01\0\0\0\x01\0a\0\0\0\0",
            b"\x03\0\0\0\0",
        ] {
            assert!(Outcome::of_body(body).is_err(), "{body:?}");
        }
    }

    #[test]
    fn outcome_bodies_keep_their_bytes() {
        let result = |files| Outcome::Result { exit_code: 7, stdout: b"168\n".to_vec(), files };
        let outcome = result(vec![]);
        assert_eq!(outcome.to_body(), b"\x00\x07\x00\x00\x00168\n");
        assert_eq!(outcome.result_hash().to_string(), "057fedc3fd8226567524c52ba92d4ab9");
        let outcome = result(vec![file("a", b""), file("b/c", b"xy")]);
        let body = b"\x02\x07\0\0\0\x04\0\0\x00168\n\x02\0\0\0\x01\0a\0\0\0\0\x03\0b/c\x02\0\0\0xy";
        assert_eq!(outcome.to_body(), body);
        assert_eq!(outcome.result_hash().to_string(), "bc5a7b1af48006791d3b2722d32000fd");
    }

    #[test]
    fn the_longest_body_is_within_its_bound() {
        let between = 13 + OutFile::HEAD_BYTES as u64 * u64::from(Limits::OUT_FILES_MAX);
        assert!(Limits::OUT_MAX_BYTES + between <= Outcome::BODY_BYTES_MAX);
    }
}
