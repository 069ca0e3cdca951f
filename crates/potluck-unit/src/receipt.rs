//! Receipts: a worker's signed statements of what its runs came to, many under one signature.
//!
//! A batch's signed head holds the Merkle root of its entries, so one entry with its path is
//! evidence that stands alone. In a record the entries follow the signature:
//!
//! ```text
//! entry: varint((index - previous index) * 2 + no result?) ‖ R (16) ‖ D (16)   or   ‖ reason (1)
//! ```

use serde::{Deserialize, Serialize};

use crate::encoding::DecodeError;
use crate::tree;
use crate::{BlobId, DrawProof, Identity, JobId, NoResult, ResultHash, Time, WorkDigest};

/// The signed part of a batch of receipts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptHead {
    /// The job whose units these are.
    pub job: JobId,
    /// When it was signed, by the worker's clock.
    pub made: Time,
    /// How long these runs took together, in milliseconds, by the worker's clock. For estimates.
    pub spent_ms: u32,
    /// By which right the worker ran them.
    pub seat: Seat,
    /// The worker's proof of work; none in a grid among friends.
    pub identity: Identity,
    /// How many entries follow.
    pub entries: u16,
    /// The Merkle root over them.
    pub root: [u8; 32],
}

/// By which right a worker ran units. Everybody can check it from the record and the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seat {
    /// By its place in the public lottery of each chunk, [`JobId::rank`].
    Public,
    /// By what it drew in secret for this chunk, which holds all of the units: as a verifier, or as
    /// an auditor of somebody's receipts.
    Drawn {
        /// The chunk.
        chunk: u32,
        /// The proof of the draw.
        proof: DrawProof,
    },
    /// By none: to settle a dispute, to restore a lost body, to show what it can do.
    Extra,
}

/// One unit's receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Receipt {
    /// The unit's row in the job.
    pub index: u32,
    /// What the worker says of it.
    pub statement: Statement,
}

/// What a worker says of one unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Statement {
    /// It ran and came to this.
    Outcome {
        /// R, the hash of the outcome's body.
        result: ResultHash,
        /// D, the proof of having executed.
        digest: WorkDigest,
    },
    /// It ran and there is nothing to vote on.
    NoResult(NoResult),
}

/// A batch of receipts with the small outcome bodies that travel inside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiptBatch {
    /// The job whose units these are.
    pub job: JobId,
    /// When it was signed, by the worker's clock.
    pub made: Time,
    /// How long these runs took together, in milliseconds.
    pub spent_ms: u32,
    /// By which right the worker ran them.
    pub seat: Seat,
    /// The worker's proof of work; none in a grid among friends.
    pub identity: Identity,
    /// At least one, at most [`ReceiptBatch::ENTRIES_MAX`], by rising index.
    pub receipts: Vec<Receipt>,
    /// Bodies of outcomes, each the body of some R among the receipts. Not signed: R vouches.
    pub bodies: Vec<Vec<u8>>,
}

impl ReceiptBatch {
    /// Receipts under one signature.
    pub const ENTRIES_MAX: usize = 512;
    /// A body above this many bytes is a blob to be fetched, not carried along.
    pub const BODY_BYTES_MAX: usize = 1024;
    /// All bodies of one batch together.
    pub const BODIES_BYTES_MAX: usize = 32 << 10;

    /// A batch of nothing yet, by nobody who proves work.
    pub fn new(job: JobId, made: Time, seat: Seat) -> ReceiptBatch {
        let (receipts, bodies) = (Vec::new(), Vec::new());
        ReceiptBatch { job, made, spent_ms: 0, seat, identity: Identity::NONE, receipts, bodies }
    }

    /// The signed head of this batch.
    pub fn head(&self) -> ReceiptHead {
        let entries = u16::try_from(self.receipts.len()).unwrap_or(u16::MAX);
        ReceiptHead {
            job: self.job,
            made: self.made,
            spent_ms: self.spent_ms,
            seat: self.seat,
            identity: self.identity,
            entries,
            root: tree::root(&leaves(&self.receipts)),
        }
    }

    /// What follows the signature: entries, then bodies.
    pub fn tail(&self) -> Vec<u8> {
        let mut tail = Vec::with_capacity(self.receipts.len() * 34);
        let mut next = 0;
        for receipt in &self.receipts {
            let gap = u64::from(receipt.index - next) << 1;
            next = receipt.index + 1;
            match receipt.statement {
                Statement::Outcome { result, digest } => {
                    push_varint(&mut tail, gap);
                    tail.extend_from_slice(&result.0);
                    tail.extend_from_slice(&digest.0);
                }
                Statement::NoResult(reason) => {
                    push_varint(&mut tail, gap | 1);
                    tail.push(reason as u8);
                }
            }
        }
        for body in &self.bodies {
            push_varint(&mut tail, body.len() as u64);
            tail.extend_from_slice(body);
        }
        tail
    }

    /// Reads the tail that belongs to `head`, which must have been checked against its signature:
    /// the entries must hash to the signed root and every body to an R among them.
    pub fn of_tail(head: &ReceiptHead, tail: &[u8]) -> Result<ReceiptBatch, DecodeError> {
        let count = usize::from(head.entries);
        if count == 0 || count > Self::ENTRIES_MAX {
            return Err(DecodeError::OutOfBounds { what: "number of receipts" });
        }
        let mut reader = Reader(tail);
        let mut receipts = Vec::with_capacity(count);
        let mut next = 0;
        for _ in 0..count {
            let receipt = reader.receipt(next)?;
            next = receipt.index + 1;
            receipts.push(receipt);
        }
        if tree::root(&leaves(&receipts)) != head.root {
            return Err(DecodeError::BadSignature);
        }
        let bodies = reader.bodies(&receipts)?;
        let batch = ReceiptBatch {
            job: head.job,
            made: head.made,
            spent_ms: head.spent_ms,
            seat: head.seat,
            identity: head.identity,
            receipts,
            bodies,
        };
        if batch.tail() == tail { Ok(batch) } else { Err(DecodeError::Malformed) }
    }
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, bytes: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(bytes).ok_or(DecodeError::Malformed)?;
        self.0 = rest;
        Ok(taken)
    }

    fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut value = 0;
        for shift in (0..35).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Malformed)
    }

    fn receipt(&mut self, next: u32) -> Result<Receipt, DecodeError> {
        let code = self.varint()?;
        let index = u32::try_from(u64::from(next) + (code >> 1))
            .ok()
            .filter(|index| *index < u32::MAX)
            .ok_or(DecodeError::OutOfBounds { what: "unit index" })?;
        let statement = if code & 1 == 1 {
            let reason = NoResult::of_code(self.take(1)?[0]).ok_or(DecodeError::Malformed)?;
            Statement::NoResult(reason)
        } else {
            let mut result = ResultHash([0; 16]);
            result.0.copy_from_slice(self.take(16)?);
            let mut digest = WorkDigest([0; 16]);
            digest.0.copy_from_slice(self.take(16)?);
            Statement::Outcome { result, digest }
        };
        Ok(Receipt { index, statement })
    }

    fn bodies(&mut self, receipts: &[Receipt]) -> Result<Vec<Vec<u8>>, DecodeError> {
        let mut bodies: Vec<Vec<u8>> = Vec::new();
        let mut total = 0;
        while !self.0.is_empty() {
            let bytes = usize::try_from(self.varint()?).map_err(|_| DecodeError::Malformed)?;
            total += bytes;
            if bytes > ReceiptBatch::BODY_BYTES_MAX
                || total > ReceiptBatch::BODIES_BYTES_MAX
                || bodies.len() == receipts.len()
            {
                return Err(DecodeError::OutOfBounds { what: "outcome body" });
            }
            let body = self.take(bytes)?.to_vec();
            let result = BlobId::of(&body).result_hash();
            let vouched = |receipt: &Receipt| matches!(receipt.statement, Statement::Outcome { result: r, .. } if r == result);
            if !receipts.iter().any(vouched) {
                return Err(DecodeError::OutOfBounds { what: "outcome body" });
            }
            bodies.push(body);
        }
        Ok(bodies)
    }
}

impl Receipt {
    /// What the Merkle tree is made of.
    pub(crate) fn leaf(&self) -> [u8; 32] {
        let mut hasher = blake3::Hasher::new_derive_key("potluck receipt v1");
        hasher.update(&self.index.to_le_bytes());
        match self.statement {
            Statement::Outcome { result, digest } => {
                hasher.update(&[0]);
                hasher.update(&result.0);
                hasher.update(&digest.0);
            }
            Statement::NoResult(reason) => {
                hasher.update(&[1, reason as u8]);
            }
        }
        *hasher.finalize().as_bytes()
    }
}

pub(crate) fn leaves(receipts: &[Receipt]) -> Vec<[u8; 32]> {
    receipts.iter().map(Receipt::leaf).collect()
}

fn push_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push((value & 0x7f) as u8);
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::Outcome;

    pub(crate) fn receipt(index: u32, text: &str) -> Receipt {
        let result = outcome(text).result_hash();
        Receipt { index, statement: Statement::Outcome { result, digest: WorkDigest([9; 16]) } }
    }

    pub(crate) fn outcome(text: &str) -> Outcome {
        Outcome::Result { exit_code: 0, stdout: text.as_bytes().to_vec(), files: vec![] }
    }

    pub(crate) fn empty() -> ReceiptBatch {
        ReceiptBatch {
            job: JobId([1; 32]),
            made: Time(1_700_000_000_000),
            spent_ms: 12,
            seat: Seat::Public,
            identity: Identity { born: Time(1_690_000_000_000), nonce: 70_000_000 },
            receipts: vec![],
            bodies: vec![],
        }
    }

    fn batch(count: u32) -> ReceiptBatch {
        let receipts = (0..count).map(|index| receipt(index * 3, "x")).collect();
        let bodies = vec![outcome("x").to_body()];
        ReceiptBatch { receipts, bodies, ..empty() }
    }

    #[test]
    fn a_batch_reads_back_from_its_head_and_tail() {
        let mut batch = batch(5);
        let statement = Statement::NoResult(NoResult::Deadline);
        batch.receipts.push(Receipt { index: 1000, statement });
        assert_eq!(ReceiptBatch::of_tail(&batch.head(), &batch.tail()), Ok(batch));
    }

    #[test]
    fn any_changed_byte_of_the_tail_is_refused() {
        let batch = batch(3);
        let (head, tail) = (batch.head(), batch.tail());
        for at in 0..tail.len() {
            let mut changed = tail.clone();
            changed[at] ^= 1;
            assert!(ReceiptBatch::of_tail(&head, &changed).is_err(), "byte {at}");
        }
        assert!(ReceiptBatch::of_tail(&head, &tail[..tail.len() - 1]).is_err());
    }

    #[test]
    fn one_receipt_too_many_is_refused() {
        let most = batch(u32::try_from(ReceiptBatch::ENTRIES_MAX).unwrap());
        assert!(ReceiptBatch::of_tail(&most.head(), &most.tail()).is_ok());
        let over = batch(u32::try_from(ReceiptBatch::ENTRIES_MAX).unwrap() + 1);
        assert!(ReceiptBatch::of_tail(&over.head(), &over.tail()).is_err());
    }

    #[test]
    fn a_body_over_its_bound_or_without_a_receipt_is_refused() {
        let text = "y".repeat(ReceiptBatch::BODY_BYTES_MAX);
        let large = ReceiptBatch {
            receipts: vec![receipt(0, &text)],
            bodies: vec![outcome(&text).to_body()],
            ..empty()
        };
        assert!(ReceiptBatch::of_tail(&large.head(), &large.tail()).is_err());
        let mut foreign = batch(1);
        foreign.bodies = vec![outcome("other").to_body()];
        assert!(ReceiptBatch::of_tail(&foreign.head(), &foreign.tail()).is_err());
    }

    #[test]
    fn sixty_four_receipts_cost_at_most_40_bytes_a_unit() {
        let key = crate::Key::of_secret(&[1; 32]);
        let (proof, _) = key.draw(b"chunk");
        for seat in [Seat::Public, Seat::Drawn { chunk: 15_000, proof }] {
            let receipts = (900_000..900_064).map(|index| receipt(index, "x")).collect();
            let batch = ReceiptBatch { spent_ms: 600_000, seat, receipts, ..empty() };
            let bytes = crate::Signed::sign(&key, batch.into()).bytes().len();
            assert!(bytes <= 64 * 40, "{bytes} bytes with {seat:?}");
        }
    }
}
