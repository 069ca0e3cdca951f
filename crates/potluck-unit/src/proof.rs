//! Proofs of cheating: what one peer signed of a unit next to what another found when it ran it.
//!
//! A proof stands alone: that the accused signed it can be checked by everybody, and who lies by
//! everybody who runs the unit. It convicts nobody by itself.

use serde::{Deserialize, Serialize};

use crate::encoding::DecodeError;
use crate::receipt::leaves;
use crate::{
    Identity, JobId, PeerId, Receipt, ReceiptBatch, ReceiptHead, Record, ResultHash, Seat,
    Signature, Signed, Statement, Time, WorkDigest, tree,
};

/// One receipt out of a signed batch, and what the signer of this proof found instead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proof {
    accused: PeerId,
    head: Rootless,
    signature: Signature,
    position: u16,
    path: Vec<[u8; 32]>,
    index: u32,
    said: (ResultHash, WorkDigest),
    found: (ResultHash, WorkDigest),
}

/// The head of the accused's batch without its root: that is what the path leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Rootless {
    job: JobId,
    made: Time,
    spent_ms: u32,
    seat: Seat,
    identity: Identity,
    entries: u16,
}

impl Proof {
    /// A proof that `batch` is wrong about unit `index`: whoever signs the proof found `found`, and
    /// that the signer of the batch would have had to give `digest`. None if the batch says the
    /// same, or states no outcome of that unit.
    pub fn of(batch: &Signed, index: u32, found: ResultHash, digest: WorkDigest) -> Option<Proof> {
        let Record::Receipts(ReceiptBatch { receipts, .. }) = batch.record() else { return None };
        let head = batch.receipt_head()?;
        let at = receipts.iter().position(|receipt| receipt.index == index)?;
        let Statement::Outcome { result: said, digest: its } = receipts[at].statement else {
            return None;
        };
        let ReceiptHead { job, made, spent_ms, seat, identity, entries, root: _ } = head;
        let proof = Proof {
            accused: batch.signer(),
            head: Rootless { job, made, spent_ms, seat, identity, entries },
            signature: batch.signature(),
            position: u16::try_from(at).ok()?,
            path: tree::path(&leaves(receipts), at),
            index,
            said: (said, its),
            found: (found, digest),
        };
        (proof.said != proof.found).then_some(proof)
    }

    /// Whether the accused signed what it is accused of, and whether that is not what was found.
    pub fn check(&self) -> Result<(), DecodeError> {
        self.check_with(|peer, signed, signature| {
            peer.signed(crate::record::DOMAIN, signed, signature)
        })
    }

    /// [`Proof::check`] with the caller's way of checking a signature.
    pub(crate) fn check_with(
        &self,
        verify: impl Fn(&PeerId, &[u8], &Signature) -> bool,
    ) -> Result<(), DecodeError> {
        let count = usize::from(self.head.entries);
        if count > ReceiptBatch::ENTRIES_MAX {
            return Err(DecodeError::OutOfBounds { what: "number of receipts" });
        }
        if self.said == self.found {
            return Err(DecodeError::OutOfBounds { what: "accusation" });
        }
        let (result, digest) = self.said;
        let said = Receipt { index: self.index, statement: Statement::Outcome { result, digest } };
        let root = tree::climb(said.leaf(), self.position.into(), count, &self.path)
            .ok_or(DecodeError::Malformed)?;
        let Rootless { job, made, spent_ms, seat, identity, entries } = self.head;
        let head = ReceiptHead { job, made, spent_ms, seat, identity, entries, root };
        if verify(&self.accused, &head.signed_bytes(&self.accused), &self.signature) {
            Ok(())
        } else {
            Err(DecodeError::BadSignature)
        }
    }

    /// Who signed the receipt.
    pub fn accused(&self) -> PeerId {
        self.accused
    }

    /// The job.
    pub fn job(&self) -> JobId {
        self.head.job
    }

    /// The unit's row in it.
    pub fn index(&self) -> u32 {
        self.index
    }

    /// When the accused signed it, by its own clock.
    pub fn made(&self) -> Time {
        self.head.made
    }

    /// What the accused says: R and D.
    pub fn said(&self) -> (ResultHash, WorkDigest) {
        self.said
    }

    /// What the accuser found: R, and the D that the accused would have had to give.
    pub fn found(&self) -> (ResultHash, WorkDigest) {
        self.found
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::receipt::tests::{empty, receipt};
    use crate::{Key, NoResult};

    const FOUND: (ResultHash, WorkDigest) = (ResultHash([1; 16]), WorkDigest([2; 16]));

    fn liar() -> Key {
        Key::of_secret(&[8; 32])
    }

    fn batch(count: u32, seat: Seat) -> Signed {
        let receipts = (1_000..1_000 + count).map(|index| receipt(index, "x")).collect();
        Signed::sign(&liar(), ReceiptBatch { seat, receipts, ..empty() }.into())
    }

    #[test]
    fn every_receipt_of_a_batch_can_be_proved_to_be_signed() {
        for count in [1, 2, 3, 64, 65, 100] {
            let batch = batch(count, Seat::Public);
            for index in 1_000..1_000 + count {
                let proof = Proof::of(&batch, index, FOUND.0, FOUND.1).unwrap();
                assert_eq!(proof.check(), Ok(()));
                assert_eq!((proof.accused(), proof.index()), (liar().id(), index));
                assert_eq!((proof.job(), proof.found()), (empty().job, FOUND));
                let Statement::Outcome { result, digest } = receipt(index, "x").statement else {
                    panic!("an outcome")
                };
                assert_eq!(proof.said(), (result, digest));
            }
        }
    }

    #[test]
    fn nothing_that_was_not_signed_can_be_proved() {
        let proof = Proof::of(&batch(5, Seat::Public), 1_002, FOUND.0, FOUND.1).unwrap();
        let other = Key::of_secret(&[9; 32]).id();
        let broken = [
            Proof { accused: other, ..proof.clone() },
            Proof { index: 1_003, ..proof.clone() },
            Proof { position: 1, ..proof.clone() },
            Proof { position: 5, ..proof.clone() },
            Proof { said: FOUND, found: proof.said, ..proof.clone() },
            Proof { found: proof.said, ..proof.clone() },
            Proof { path: vec![], ..proof.clone() },
            Proof { path: [&proof.path[..], &[[0; 32]]].concat(), ..proof.clone() },
            Proof { head: Rootless { entries: 6, ..proof.head }, ..proof.clone() },
            Proof { head: Rootless { entries: 0, ..proof.head }, ..proof.clone() },
            Proof { head: Rootless { entries: 513, ..proof.head }, ..proof.clone() },
            Proof { head: Rootless { job: JobId([9; 32]), ..proof.head }, ..proof.clone() },
        ];
        for broken in broken {
            assert!(broken.check().is_err(), "{broken:?}");
        }
    }

    #[test]
    fn nobody_is_accused_of_what_it_did_not_say_or_of_the_truth() {
        let truth = receipt(1_000, "x");
        let Statement::Outcome { result, digest } = truth.statement else { panic!("an outcome") };
        let batch = batch(3, Seat::Public);
        assert_eq!(Proof::of(&batch, 1_000, result, digest), None);
        assert_eq!(Proof::of(&batch, 999, FOUND.0, FOUND.1), None);
        let statement = Statement::NoResult(NoResult::Deadline);
        let gave_up = ReceiptBatch { receipts: vec![Receipt { index: 0, statement }], ..empty() };
        let gave_up = Signed::sign(&liar(), gave_up.into());
        assert_eq!(Proof::of(&gave_up, 0, FOUND.0, FOUND.1), None);
    }

    #[test]
    fn a_digest_alone_may_be_the_lie() {
        let Statement::Outcome { result, .. } = receipt(1_000, "x").statement else {
            panic!("an outcome")
        };
        let proof = Proof::of(&batch(3, Seat::Public), 1_000, result, FOUND.1).unwrap();
        assert_eq!(proof.check(), Ok(()));
    }

    #[test]
    fn a_proof_out_of_the_largest_batch_has_at_most_700_bytes() {
        let (proof, _) = liar().draw(b"chunk");
        for seat in [Seat::Public, Seat::Drawn { chunk: 15_000, proof }] {
            let proof = Proof::of(&batch(512, seat), 1_200, FOUND.0, FOUND.1).unwrap();
            let signed = Signed::sign(&Key::of_secret(&[1; 32]), Record::Proof(proof));
            assert!(signed.bytes().len() <= 700, "{} bytes", signed.bytes().len());
            assert_eq!(Signed::of_bytes(signed.bytes()), Ok(signed));
        }
    }

    #[test]
    fn a_false_proof_is_no_record() {
        let proof = Proof::of(&batch(5, Seat::Public), 1_002, FOUND.0, FOUND.1).unwrap();
        let signed = Signed::sign(&Key::of_secret(&[1; 32]), Record::Proof(proof.clone()));
        assert!(Signed::of_bytes(signed.bytes()).is_ok());
        let other = Signed::sign_unchecked(
            &Key::of_secret(&[1; 32]),
            Record::Proof(Proof { index: 1_003, ..proof }),
        );
        assert_eq!(Signed::of_bytes(other.bytes()), Err(DecodeError::BadSignature));
    }
}
