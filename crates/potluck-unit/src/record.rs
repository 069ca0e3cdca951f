//! Records: everything that is signed and spread, in one envelope.
//!
//! ```text
//! version (1) ‖ kind (1) ‖ signer (32) ‖ head length (u16, little endian) ‖ head
//!   ‖ signature over all of that (64) ‖ tail
//! ```
//!
//! The head is the kind's own fields. Only receipts have a tail; the head's Merkle root vouches for
//! it. A job's id is the hash of its signed part. A record's id is that of everything up to the
//! signature: a relay that strips the outcome bodies from a tail makes no second record of it.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::encoding::{self, DecodeError};
use crate::key::{Key, Signature};
use crate::{
    Claim, Contact, Identity, Job, JobId, PeerId, Proof, ReceiptBatch, ReceiptHead, RecordId,
    ResultHash,
};

/// What a record says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// Work to do.
    Job(Job),
    /// Intent to do some of it.
    Claim(Claim),
    /// What came of it.
    Receipts(ReceiptBatch),
    /// The submitter wants no more of it.
    Close(Close),
    /// Where the signer can be reached.
    Contact(Contact),
    /// What somebody else signed and the signer found to be wrong.
    Proof(Proof),
}

/// The submitter ends a job. Counts only when the job's own submitter signed it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Close {
    /// The job.
    pub job: JobId,
    /// What came of all units, [`results_root`]. None if the job is cancelled.
    pub results: Option<[u8; 32]>,
}

/// What all results of a job amount to, by rising unit; none for a unit that has none.
pub fn results_root(results: impl IntoIterator<Item = Option<ResultHash>>) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("potluck results v1");
    for result in results {
        match result {
            None => hasher.update(&[0]),
            Some(result) => hasher.update(&[1]).update(&result.0),
        };
    }
    *hasher.finalize().as_bytes()
}

impl From<ReceiptBatch> for Record {
    fn from(batch: ReceiptBatch) -> Record {
        Record::Receipts(batch)
    }
}

impl Record {
    /// The signer's proof of work, if this kind of record carries one.
    pub fn identity(&self) -> Option<Identity> {
        match self {
            Record::Job(job) => Some(job.identity),
            Record::Receipts(batch) => Some(batch.identity),
            Record::Contact(contact) => Some(contact.identity),
            Record::Claim(_) | Record::Close(_) | Record::Proof(_) => None,
        }
    }

    fn kind(&self) -> u8 {
        match self {
            Record::Job(_) => 1,
            Record::Claim(_) => 2,
            Record::Receipts(_) => RECEIPTS,
            Record::Close(_) => 4,
            Record::Contact(_) => 5,
            Record::Proof(_) => 6,
        }
    }

    fn head(&self) -> Vec<u8> {
        match self {
            Record::Job(job) => encoding::encode(job),
            Record::Claim(claim) => encoding::encode(claim),
            Record::Receipts(batch) => encoding::encode(&batch.head()),
            Record::Close(close) => encoding::encode(close),
            Record::Contact(contact) => encoding::encode(contact),
            Record::Proof(proof) => encoding::encode(proof),
        }
    }

    fn of_parts(kind: u8, head: &[u8], tail: &[u8]) -> Result<Record, DecodeError> {
        let record = match kind {
            1 => Record::Job(encoding::decode(head, HEAD_BYTES_MAX)?),
            2 => Record::Claim(encoding::decode(head, HEAD_BYTES_MAX)?),
            RECEIPTS => {
                let head: ReceiptHead = encoding::decode(head, HEAD_BYTES_MAX)?;
                return ReceiptBatch::of_tail(&head, tail).map(Record::Receipts);
            }
            4 => Record::Close(encoding::decode(head, HEAD_BYTES_MAX)?),
            5 => Record::Contact(encoding::decode(head, HEAD_BYTES_MAX)?),
            6 => Record::Proof(encoding::decode(head, HEAD_BYTES_MAX)?),
            kind => return Err(DecodeError::UnknownKind { kind }),
        };
        if !tail.is_empty() {
            return Err(DecodeError::Malformed);
        }
        record.check().map(|()| record)
    }

    fn check(&self) -> Result<(), DecodeError> {
        match self {
            Record::Job(job) => job.check(),
            Record::Claim(claim) => claim.check(),
            Record::Contact(contact) => contact.check(),
            Record::Receipts(_) | Record::Close(_) | Record::Proof(_) => Ok(()),
        }
    }
}

/// A record with its signer and its bytes. Exists only if the signature is good: there is no way to
/// make one but [`Signed::sign`] and [`Signed::of_bytes`].
///
/// One pointer: a peer holds a record in several places, and a simulation at thousands of peers.
#[derive(Clone)]
pub struct Signed(Arc<Parts>);

struct Parts {
    record: Record,
    signer: PeerId,
    bytes: Arc<[u8]>,
    id: RecordId,
    signed_bytes: usize,
}

impl fmt::Debug for Signed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Parts { record, signer, id, .. } = &*self.0;
        write!(f, "Signed({} {record:?} by {})", id.short(), signer.short())
    }
}

impl PartialEq for Signed {
    fn eq(&self, other: &Signed) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for Signed {}

impl Signed {
    /// 64 KiB: the longest record, a full batch of receipts with its bodies, stays well below.
    pub const BYTES_MAX: usize = 64 << 10;

    /// Signs a record, which must be within its bounds.
    pub fn sign(key: &Key, record: Record) -> Signed {
        debug_assert_eq!(record.check(), Ok(()));
        Self::sign_unchecked(key, record)
    }

    pub(crate) fn sign_unchecked(key: &Key, record: Record) -> Signed {
        let mut bytes = signed_part(record.kind(), &key.id(), &record.head());
        let signed_bytes = bytes.len();
        bytes.extend_from_slice(&key.sign(DOMAIN, &bytes).0);
        if let Record::Receipts(batch) = &record {
            bytes.extend_from_slice(&batch.tail());
        }
        debug_assert!(bytes.len() <= Self::BYTES_MAX);
        Signed(Arc::new(Parts {
            record,
            signer: key.id(),
            id: derive(&bytes[..signed_bytes + Signature::BYTES]),
            bytes: bytes.into(),
            signed_bytes,
        }))
    }

    /// Reads a record and checks its signature. Errors change nothing.
    pub fn of_bytes(bytes: &[u8]) -> Result<Signed, DecodeError> {
        Self::of_bytes_with(bytes, |signer, signed, signature| {
            signer.signed(DOMAIN, signed, signature)
        })
    }

    /// [`Signed::of_bytes`] that holds on to the bytes it is given instead of a copy.
    pub fn of_shared(bytes: &Arc<[u8]>) -> Result<Signed, DecodeError> {
        let Signed(parts) = Self::of_bytes(bytes)?;
        let parts = Arc::into_inner(parts).map(|parts| Parts { bytes: bytes.clone(), ..parts });
        parts.map(|parts| Signed(Arc::new(parts))).ok_or(DecodeError::Malformed)
    }

    /// [`Signed::of_bytes`] with the caller's way of checking a signature, which must agree with
    /// [`PeerId::signed`]: a simulation of many peers remembers the answers, a peer that reads back
    /// its own disk need not ask again.
    pub fn of_bytes_with(
        bytes: &[u8],
        verify: impl Fn(&PeerId, &[u8], &Signature) -> bool,
    ) -> Result<Signed, DecodeError> {
        if bytes.len() > Self::BYTES_MAX {
            return Err(DecodeError::TooLong { bytes: bytes.len(), max: Self::BYTES_MAX });
        }
        let (fixed, rest) =
            bytes.split_first_chunk::<ENVELOPE_BYTES>().ok_or(DecodeError::Malformed)?;
        let [version, kind, signer @ .., low, high] = fixed;
        if *version != VERSION {
            return Err(DecodeError::UnknownVersion { version: *version });
        }
        let mut id = PeerId([0; 32]);
        id.0.copy_from_slice(signer);
        let head_bytes = usize::from(u16::from_le_bytes([*low, *high]));
        let (head, rest) = rest.split_at_checked(head_bytes).ok_or(DecodeError::Malformed)?;
        let (signature, tail) =
            rest.split_first_chunk::<{ Signature::BYTES }>().ok_or(DecodeError::Malformed)?;
        let signed_bytes = ENVELOPE_BYTES + head_bytes;
        let record = Record::of_parts(*kind, head, tail)?;
        if !verify(&id, &bytes[..signed_bytes], &Signature(*signature)) {
            return Err(DecodeError::BadSignature);
        }
        if let Record::Proof(proof) = &record {
            proof.check_with(verify)?;
        }
        Ok(Signed(Arc::new(Parts {
            record,
            signer: id,
            bytes: bytes.into(),
            id: derive(&bytes[..signed_bytes + Signature::BYTES]),
            signed_bytes,
        })))
    }

    /// What it says.
    pub fn record(&self) -> &Record {
        &self.0.record
    }

    /// Who says it.
    pub fn signer(&self) -> PeerId {
        self.0.signer
    }

    /// The whole record as it travels.
    pub fn bytes(&self) -> &Arc<[u8]> {
        &self.0.bytes
    }

    /// The head of a batch of receipts.
    pub(crate) fn receipt_head(&self) -> Option<ReceiptHead> {
        let head = self.0.bytes.get(ENVELOPE_BYTES..self.0.signed_bytes)?;
        matches!(self.0.record, Record::Receipts(_))
            .then(|| encoding::decode(head, HEAD_BYTES_MAX).ok())?
    }

    pub(crate) fn signature(&self) -> Signature {
        let mut signature = Signature([0; Signature::BYTES]);
        let end = self.0.signed_bytes + Signature::BYTES;
        signature.0.copy_from_slice(&self.0.bytes[self.0.signed_bytes..end]);
        signature
    }

    /// The record's id.
    pub fn id(&self) -> RecordId {
        self.0.id
    }

    /// The job's id, if this is a job.
    pub fn job_id(&self) -> Option<JobId> {
        matches!(self.0.record, Record::Job(_)).then(|| {
            let mut hasher = blake3::Hasher::new_derive_key("potluck job id v1");
            hasher.update(&self.0.bytes[..self.0.signed_bytes]);
            JobId(*hasher.finalize().as_bytes())
        })
    }
}

/// The id of the record with these bytes, before anything about them is checked; none if they are
/// too short to be one.
pub fn id_of(bytes: &[u8]) -> Option<RecordId> {
    let (fixed, _) = bytes.split_first_chunk::<ENVELOPE_BYTES>()?;
    let head_bytes =
        usize::from(u16::from_le_bytes([fixed[ENVELOPE_BYTES - 2], fixed[ENVELOPE_BYTES - 1]]));
    bytes.get(..ENVELOPE_BYTES + head_bytes + Signature::BYTES).map(derive)
}

impl ReceiptHead {
    /// The bytes that `signer` signed with this head.
    pub(crate) fn signed_bytes(&self, signer: &PeerId) -> Vec<u8> {
        signed_part(RECEIPTS, signer, &encoding::encode(self))
    }
}

/// What the signature of a record covers.
fn signed_part(kind: u8, signer: &PeerId, head: &[u8]) -> Vec<u8> {
    let head_bytes = u16::try_from(head.len()).expect("heads are bounded below 64 KiB");
    let mut bytes = vec![VERSION, kind];
    bytes.extend_from_slice(&signer.0);
    bytes.extend_from_slice(&head_bytes.to_le_bytes());
    bytes.extend_from_slice(head);
    bytes
}

fn derive(bytes: &[u8]) -> RecordId {
    RecordId(blake3::derive_key("potluck record id v1", bytes))
}

const VERSION: u8 = 1;
/// The kind of a batch of receipts.
const RECEIPTS: u8 = 3;
/// Under which records are signed.
pub(crate) const DOMAIN: &str = "potluck record v1";
const ENVELOPE_BYTES: usize = 1 + 1 + PeerId::BYTES + 2;
/// The longest head is a job with all its extras, under 5 KiB.
const HEAD_BYTES_MAX: usize = 8 << 10;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::job::tests::job;
    use crate::receipt::tests::{empty, outcome, receipt};
    use crate::{Limits, NoResult, Piece, Receipt, Seat, Statement, Time, WorkDigest};

    fn key() -> Key {
        Key::of_secret(&[7; 32])
    }

    pub(crate) fn samples() -> Vec<Record> {
        vec![
            Record::Job(job()),
            Record::Claim(Claim {
                job: JobId([1; 32]),
                made: Time(5),
                lease_ms: 10_000,
                pieces: [0, 5, 6]
                    .map(|chunk| Piece { chunk, units: 3, secret: chunk == 5 })
                    .to_vec(),
            }),
            Record::Receipts(ReceiptBatch {
                receipts: vec![receipt(0, "168\n"), receipt(7, "135\n")],
                bodies: vec![outcome("168\n").to_body()],
                ..empty()
            }),
            Record::Close(Close { job: JobId([1; 32]), results: None }),
            Record::Contact(Contact {
                made: Time(9),
                addresses: vec![([127, 0, 0, 1], 7117).into()],
                slots: 2,
                agent: "potluck/0.1.0".to_owned(),
                nickname: "Ada".to_owned(),
                team: "kitchen".to_owned(),
                identity: Identity { born: Time(1_690_000_000_000), nonce: 70_000_000 },
            }),
            Record::Close(Close {
                job: JobId([1; 32]),
                results: Some(results_root([Some(ResultHash([5; 16])), None])),
            }),
            Record::Proof(proof()),
            Record::Receipts(drawn()),
        ]
    }

    /// By a drawn seat on chunk 3.
    fn drawn() -> ReceiptBatch {
        let job = JobId([1; 32]);
        let (proof, _) = key().draw(&job.draw_input(3));
        let statement = Statement::NoResult(NoResult::Deadline);
        ReceiptBatch {
            seat: Seat::Drawn { chunk: 3, proof },
            receipts: vec![receipt(3, "135\n"), Receipt { index: 300, statement }],
            ..empty()
        }
    }

    fn proof() -> Proof {
        let receipts = vec![receipt(0, "168\n"), receipt(7, "135\n"), receipt(8, "")];
        let batch = Signed::sign(&key(), ReceiptBatch { receipts, ..empty() }.into());
        Proof::of(&batch, 7, ResultHash([6; 16]), WorkDigest([7; 16])).unwrap()
    }

    #[test]
    fn every_kind_reads_back_from_its_bytes() {
        for record in samples() {
            let signed = Signed::sign(&key(), record.clone());
            let read = Signed::of_bytes(signed.bytes()).unwrap();
            assert_eq!(*read.record(), record);
            assert_eq!((read.id(), read.signer()), (signed.id(), key().id()));
            assert_eq!(read.job_id(), signed.job_id());
        }
    }

    #[test]
    fn records_keep_the_bytes_that_the_page_shows() {
        let page = include_str!("../../../docs/records.md");
        for record in samples() {
            let signed = Signed::sign(&key(), record);
            let digits: String = signed.bytes().iter().map(|byte| format!("{byte:02x}")).collect();
            let lines: Vec<&str> =
                digits.as_bytes().chunks(64).map(|line| str::from_utf8(line).unwrap()).collect();
            let block = format!("```hex\n{}\n```", lines.join("\n"));
            assert!(page.contains(&block), "docs/records.md lacks\n{block}\n{signed:?}");
        }
    }

    #[test]
    fn the_page_names_every_domain() {
        let page = include_str!("../../../docs/records.md");
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src");
        let mut domains = 0;
        for file in std::fs::read_dir(folder).unwrap() {
            let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
            let code = text.split("mod tests {").next().unwrap();
            for domain in code.split("\"potluck ").skip(1) {
                let domain = domain.split(['"', '\\']).next().unwrap();
                assert!(page.contains(&format!("`potluck {domain}`")), "potluck {domain}");
                domains += 1;
            }
        }
        assert!(domains >= 12, "{domains} domains");
    }

    #[test]
    fn any_flipped_bit_of_any_kind_is_refused() {
        for record in samples() {
            let signed = Signed::sign(&key(), record);
            for at in 0..signed.bytes().len() {
                let mut bytes = signed.bytes().to_vec();
                bytes[at] ^= 4;
                assert!(Signed::of_bytes(&bytes).is_err(), "byte {at} of {signed:?}");
            }
        }
    }

    #[test]
    fn truncated_extended_and_oversized_records_are_refused() {
        for record in samples() {
            let signed = Signed::sign(&key(), record);
            let bytes = signed.bytes().to_vec();
            for end in 0..bytes.len() {
                let stripped = Signed::of_bytes(&bytes[..end]);
                assert!(stripped.is_err() || stripped == Ok(signed.clone()), "up to {end}");
            }
            assert!(Signed::of_bytes(&[&bytes[..], &[0]].concat()).is_err());
        }
        let long = vec![1; Signed::BYTES_MAX + 1];
        assert!(matches!(Signed::of_bytes(&long), Err(DecodeError::TooLong { .. })));
    }

    #[test]
    fn another_version_is_refused_as_such() {
        let mut bytes = Signed::sign(&key(), samples().remove(0)).bytes().to_vec();
        bytes[0] = 2;
        assert_eq!(Signed::of_bytes(&bytes), Err(DecodeError::UnknownVersion { version: 2 }));
    }

    #[test]
    fn a_signed_record_out_of_bounds_is_refused() {
        let head = encoding::encode(&Job {
            limits: Limits { memory_max_bytes: 0, ..Limits::DEFAULT },
            ..job()
        });
        let mut bytes = signed_part(1, &key().id(), &head);
        let signature = key().sign(DOMAIN, &bytes);
        bytes.extend_from_slice(&signature.0);
        assert_eq!(Signed::of_bytes(&bytes), Err(DecodeError::OutOfBounds { what: "limits" }));
    }

    /// Newer software may sign kinds that are not known here: that must show before anything else,
    /// so that nobody is blamed for passing them on.
    #[test]
    fn an_unknown_kind_is_refused_as_such() {
        for kind in [0, 7, 255] {
            let mut bytes = Signed::sign(&key(), samples().remove(0)).bytes().to_vec();
            bytes[1] = kind;
            assert_eq!(Signed::of_bytes(&bytes), Err(DecodeError::UnknownKind { kind }));
            bytes.truncate(ENVELOPE_BYTES);
            assert_eq!(Signed::of_bytes(&bytes), Err(DecodeError::Malformed));
        }
    }

    #[test]
    fn the_root_of_results_knows_each_and_its_unit() {
        let (one, two) = (Some(ResultHash([1; 16])), Some(ResultHash([2; 16])));
        let root = results_root([one, two, None]);
        let others = [
            vec![two, one, None],
            vec![one, None, two],
            vec![one, two],
            vec![one, two, None, None],
            vec![one, Some(ResultHash([3; 16])), None],
        ];
        for other in others {
            assert_ne!(results_root(other), root);
        }
    }

    #[test]
    fn a_record_has_its_id_before_it_is_read() {
        for record in samples() {
            let signed = Signed::sign(&key(), record);
            assert_eq!(id_of(signed.bytes()), Some(signed.id()));
        }
        assert_eq!(id_of(&[1; 99]), None);
    }
}
