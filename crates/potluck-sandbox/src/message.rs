//! What the frames mean: one request and one reply per unit, and what both sides say at the start.
//!
//! ```text
//! file:  path length (u32) ‖ path ‖ bytes
//! unit:  unit id (32) ‖ stdin length (u32) ‖ stdin ‖ arguments, each: length (u32) ‖ bytes
//! done:  ending (u8) ‖ code (u32) ‖ witness (32) ‖ stdout length (u32) ‖ stdout
//!        [‖ files length (u32) ‖ files] ‖ stderr
//! output: bytes
//! ```
//!
//! Integers are little-endian. An ending of 0 is a result whose code is the exit code, 1 a fault
//! and 2 no result, whose codes are those of `potluck_unit`; 3 is a result with files, in the bytes
//! that `potluck_unit` gives them. Input files come before the first unit and are there for all.
//! Output frames come before the reply to a unit that is run aloud, which has all of it once more.

use std::ops::Range;

use potluck_unit::{Fault, NoResult, UnitId, Witness};

/// Parent to runner: run this unit.
pub(crate) const TAG_UNIT: u8 = 1;
/// Parent to compiler: compile this module.
pub(crate) const TAG_MODULE: u8 = 2;
/// Parent to runner: an input file of all units to come.
pub(crate) const TAG_FILE: u8 = 3;
/// Parent to runner: run this unit, and say what it writes to standard output as it comes.
pub(crate) const TAG_UNIT_ALOUD: u8 = 4;
/// Runner to parent: ready for the first unit. No payload.
pub(crate) const TAG_READY: u8 = 16;
/// Child to parent: it cannot go on; the payload says why, for people.
pub(crate) const TAG_FAILED: u8 = 17;
/// Runner to parent: how the unit ended.
pub(crate) const TAG_DONE: u8 = 18;
/// Compiler to parent: its engine's fingerprint.
pub(crate) const TAG_ENGINE: u8 = 19;
/// Compiler to parent: the artefact.
pub(crate) const TAG_ARTEFACT: u8 = 20;
/// Any child to parent: the layers of its lock.
pub(crate) const TAG_LAYERS: u8 = 21;
/// Runner to parent: more of standard output.
pub(crate) const TAG_OUTPUT: u8 = 22;

/// The fixed fields at the start of a unit's payload.
pub(crate) const UNIT_BYTES: usize = 36;
/// The fixed fields at the start of a done payload.
pub(crate) const DONE_BYTES: usize = 41;

/// An input file as the runner child has received it.
pub(crate) fn file_of(payload: &[u8]) -> Option<(String, Vec<u8>)> {
    let (length, rest) = payload.split_first_chunk()?;
    let (path, bytes) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
    Some((String::from_utf8(path.to_vec()).ok()?, bytes.to_vec()))
}

/// The fixed fields of a request.
pub(crate) fn unit_head(id: &UnitId, stdin_length: u32) -> [u8; UNIT_BYTES] {
    let mut head = [0; UNIT_BYTES];
    head[..32].copy_from_slice(id.as_bytes());
    head[32..].copy_from_slice(&stdin_length.to_le_bytes());
    head
}

/// Appends one argument to a request's tail.
pub(crate) fn push_argument(tail: &mut Vec<u8>, argument: &[u8]) {
    // Bounded by `ARGS_MAX_BYTES`, which the caller has checked.
    let length = u32::try_from(argument.len()).unwrap_or(u32::MAX);
    tail.extend_from_slice(&length.to_le_bytes());
    tail.extend_from_slice(argument);
}

/// A unit as the runner child has received it, kept as it came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Request {
    payload: Vec<u8>,
    stdin: Range<usize>,
}

impl Request {
    /// Takes a payload, or gives up on one that no parent sends.
    pub(crate) fn of(payload: Vec<u8>) -> Option<Request> {
        let length = payload.get(32..UNIT_BYTES)?.try_into().map(u32::from_le_bytes).ok()?;
        let stdin = UNIT_BYTES..UNIT_BYTES.checked_add(length as usize)?;
        payload.get(stdin.clone())?;
        Some(Request { payload, stdin })
    }

    /// The unit's id.
    pub(crate) fn id(&self) -> UnitId {
        let mut id = [0; 32];
        if let Some(bytes) = self.payload.get(..32) {
            id.copy_from_slice(bytes);
        }
        UnitId(id)
    }

    /// Standard input.
    pub(crate) fn stdin(&self) -> &[u8] {
        self.payload.get(self.stdin.clone()).unwrap_or_default()
    }

    /// The arguments, without the program's name.
    pub(crate) fn arguments(&self) -> impl Iterator<Item = &[u8]> {
        let mut rest = self.payload.get(self.stdin.end..).unwrap_or_default();
        std::iter::from_fn(move || {
            let (length, tail) = rest.split_first_chunk()?;
            let (argument, tail) = tail.split_at_checked(u32::from_le_bytes(*length) as usize)?;
            rest = tail;
            Some(argument)
        })
    }

    /// Gives the buffer back for the next request.
    pub(crate) fn into_payload(self) -> Vec<u8> {
        self.payload
    }
}

/// How a unit ended, with a witness if that is an outcome. Standard output travels separately.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The guest ended by itself.
    Result { exit_code: u32, witness: Witness, has_files: bool },
    /// A deterministic fault.
    Fault { fault: Fault, witness: Witness },
    /// Nothing to say.
    NoResult(NoResult),
}

/// The fixed fields of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Done {
    /// How it ended.
    pub(crate) ending: Ending,
    /// How many bytes of standard output follow; after these and the files, if there are any, what
    /// is left of the payload is standard error.
    pub(crate) stdout_length: u32,
}

impl Done {
    /// The bytes a child sends.
    pub(crate) fn to_bytes(self) -> [u8; DONE_BYTES] {
        let (tag, code, witness) = match self.ending {
            Ending::Result { exit_code, witness, has_files } => {
                (if has_files { 3 } else { 0 }, exit_code, witness)
            }
            Ending::Fault { fault, witness } => (1, fault as u32, witness),
            Ending::NoResult(reason) => (2, reason as u32, Witness([0; 32])),
        };
        let mut bytes = [0; DONE_BYTES];
        bytes[0] = tag;
        bytes[1..5].copy_from_slice(&code.to_le_bytes());
        bytes[5..37].copy_from_slice(witness.as_bytes());
        bytes[37..].copy_from_slice(&self.stdout_length.to_le_bytes());
        bytes
    }

    /// Reads what claims to be the start of a reply.
    pub(crate) fn of_bytes(bytes: &[u8; DONE_BYTES]) -> Option<Done> {
        let number = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let mut witness = Witness([0; 32]);
        witness.0.copy_from_slice(&bytes[5..37]);
        let code = number(1);
        let ending = match bytes[0] {
            0 | 3 => Ending::Result { exit_code: code, witness, has_files: bytes[0] == 3 },
            1 => Ending::Fault { fault: fault_of(code)?, witness },
            2 => Ending::NoResult(child_reason_of(code)?),
            _ => return None,
        };
        let stdout_length = number(37);
        let has_stdout = matches!(ending, Ending::Result { .. });
        (has_stdout || stdout_length == 0).then_some(Done { ending, stdout_length })
    }
}

fn fault_of(code: u32) -> Option<Fault> {
    Fault::ALL.into_iter().find(|fault| *fault as u32 == code)
}

/// The reasons a child may give; the others are the parent's to find.
fn child_reason_of(code: u32) -> Option<NoResult> {
    [NoResult::StackOverflow, NoResult::HostMemory, NoResult::Engine]
        .into_iter()
        .find(|reason| *reason as u32 == code)
}

/// 64 MiB, as for standard output: one unit's output can be the next one's input.
pub const STDIN_MAX_BYTES: usize = 64 << 20;
/// All arguments of a unit with their terminators. A job's table of a million rows has short ones.
pub const ARGS_MAX_BYTES: usize = 1 << 20;
/// What is kept of standard error: enough for a person to see what went wrong.
pub const STDERR_MAX_BYTES: usize = 64 << 10;
/// All input files of a job together: each runner holds them in memory.
pub const FILES_MAX_BYTES: u64 = 64 << 20;
/// Input files of a job: a child names each in memory.
pub const FILES_MAX: usize = 1000;
/// A child's last words.
pub(crate) const FAILED_MAX_BYTES: usize = 4 << 10;
/// 512 MiB: native code is a few times its module.
pub(crate) const ARTEFACT_MAX_BYTES: usize = 512 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(stdin: &[u8], arguments: &[&[u8]]) -> Vec<u8> {
        let mut bytes = unit_head(&UnitId([7; 32]), u32::try_from(stdin.len()).unwrap()).to_vec();
        bytes.extend_from_slice(stdin);
        arguments.iter().for_each(|argument| push_argument(&mut bytes, argument));
        bytes
    }

    #[test]
    fn a_request_reads_back() {
        let request = Request::of(payload(b"input", &[b"a", b"", b"ccc"])).unwrap();
        assert_eq!(request.id(), UnitId([7; 32]));
        assert_eq!(request.stdin(), b"input");
        assert_eq!(request.arguments().collect::<Vec<_>>(), [&b"a"[..], b"", b"ccc"]);
    }

    #[test]
    fn a_request_cut_anywhere_is_refused_or_has_fewer_arguments() {
        let whole = payload(b"input", &[b"a", b"bb"]);
        for length in 0..whole.len() {
            if let Some(request) = Request::of(whole[..length].to_vec()) {
                assert_eq!(request.stdin(), b"input");
                assert!(request.arguments().count() < 2);
            }
        }
        let mut lying = payload(b"", &[]);
        lying[32..36].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(Request::of(lying).is_none());
    }

    #[test]
    fn a_file_reads_back_and_a_cut_one_is_refused() {
        let payload = b"\x03\0\0\0a/bbytes";
        assert_eq!(file_of(payload), Some(("a/b".to_owned(), b"bytes".to_vec())));
        for end in 0..7 {
            assert_eq!(file_of(&payload[..end]), None, "{end}");
        }
        assert_eq!(file_of(b"\x01\0\0\0\xff"), None);
    }

    #[test]
    fn a_reply_reads_back_and_any_other_is_refused() {
        let witness = Witness([3; 32]);
        let mut endings = vec![
            Ending::Result { exit_code: u32::MAX, witness, has_files: false },
            Ending::Result { exit_code: 0, witness, has_files: true },
            Ending::NoResult(NoResult::StackOverflow),
        ];
        endings.extend(Fault::ALL.map(|fault| Ending::Fault { fault, witness }));
        for ending in endings {
            let done = Done { ending, stdout_length: 0 };
            assert_eq!(Done::of_bytes(&done.to_bytes()), Some(done));
        }
        for (ending, code) in [(1, 0), (1, 200), (2, 0), (2, NoResult::Deadline as u32), (4, 0)] {
            let mut bytes = [0; DONE_BYTES];
            bytes[0] = ending;
            bytes[1..5].copy_from_slice(&u32::to_le_bytes(code));
            assert_eq!(Done::of_bytes(&bytes), None, "{ending} {code}");
        }
        let fault = Ending::Fault { fault: Fault::Unreachable, witness };
        let chatty = Done { ending: fault, stdout_length: 1 };
        assert_eq!(Done::of_bytes(&chatty.to_bytes()), None);
    }
}
