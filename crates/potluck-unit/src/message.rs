//! Messages: what neighbours say to each other.

use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::encoding::{self, DecodeError};
use crate::{JobId, RecordId, Signed};

/// One message between neighbours. Records inside are still bytes: whoever receives them checks
/// whether it has them before it spends a signature check on them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// The first message on a connection, from both sides.
    Hello(Hello),
    /// Records, pushed or asked for.
    Records(Vec<Arc<[u8]>>),
    /// "I have these", for who may want them.
    Have(Vec<RecordId>),
    /// "Send me these".
    Want(Vec<RecordId>),
    /// Fingerprints of ranges of a set: where they differ, the sets do.
    Compare(Compare),
    /// All ids that the sender has in one range of a set.
    Listing(Listing),
    /// "I hold this job, its module and its inputs, on disk."
    Keeping(JobId),
}

/// How neighbours introduce themselves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The sender's own contact record.
    pub contact: Arc<[u8]>,
    /// Where the sender sees the receiver: how a peer behind a router learns its address.
    pub observed: Option<SocketAddr>,
    /// Contact records of others.
    pub others: Vec<Arc<[u8]>>,
}

/// Which set of records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Topic {
    /// Jobs and their closings.
    Board,
    /// The receipts of one job.
    Job(JobId),
}

/// Fingerprints of ranges, which together cover some stretch of ids.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {
    /// The set.
    pub topic: Topic,
    /// Ranges with the sender's fingerprint of each.
    pub ranges: Vec<(IdRange, Fingerprint)>,
}

/// The ids that the sender has in a range.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// The set.
    pub topic: Topic,
    /// The range.
    pub range: IdRange,
    /// Every id in it, rising.
    pub ids: Vec<RecordId>,
}

/// Ids from `first` to `last`, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The lowest id.
    pub first: RecordId,
    /// The highest.
    pub last: RecordId,
}

impl IdRange {
    /// All ids.
    pub const ALL: IdRange = IdRange { first: RecordId([0; 32]), last: RecordId([0xff; 32]) };
}

/// What a set of ids in a range amounts to: their number, and a hash of their sum, which nobody can
/// steer by choosing records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fingerprint {
    /// How many.
    pub count: u32,
    /// The hash.
    pub hash: [u8; 16],
}

impl Fingerprint {
    /// The fingerprint of these ids, in any order.
    pub fn of<'a>(ids: impl IntoIterator<Item = &'a RecordId>) -> Fingerprint {
        let (mut count, mut sum) = (0u32, [0u64; 4]);
        for id in ids {
            count += 1;
            add(&mut sum, id);
        }
        let mut hasher = blake3::Hasher::new_derive_key("potluck fingerprint v1");
        hasher.update(&count.to_le_bytes());
        sum.iter().for_each(|limb| {
            hasher.update(&limb.to_le_bytes());
        });
        let mut hash = [0; 16];
        hash.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Fingerprint { count, hash }
    }
}

/// Addition modulo 2^256.
fn add(sum: &mut [u64; 4], id: &RecordId) {
    let mut carry = false;
    for (limb, bytes) in sum.iter_mut().zip(id.0.chunks_exact(8)) {
        let other = bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
        let (partial, first) = limb.overflowing_add(other);
        let (total, second) = partial.overflowing_add(u64::from(carry));
        (*limb, carry) = (total, first | second);
    }
}

impl Message {
    /// 512 KiB: the frame limit of the transport.
    pub const BYTES_MAX: usize = 512 << 10;
    /// Records in one message.
    pub const RECORDS_MAX: usize = 256;
    /// Ids in one message.
    pub const IDS_MAX: usize = 512;
    /// Ranges in one comparison.
    pub const RANGES_MAX: usize = 64;
    /// Contacts of others in a hello.
    pub const OTHERS_MAX: usize = 32;

    /// The bytes of one frame.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![VERSION];
        bytes.extend_from_slice(&encoding::encode(self));
        bytes
    }

    /// Reads a frame. Errors change nothing.
    pub fn of_bytes(bytes: &[u8]) -> Result<Message, DecodeError> {
        if bytes.len() > Self::BYTES_MAX {
            return Err(DecodeError::TooLong { bytes: bytes.len(), max: Self::BYTES_MAX });
        }
        let (version, body) = bytes.split_first().ok_or(DecodeError::Malformed)?;
        if *version != VERSION {
            return Err(DecodeError::UnknownVersion { version: *version });
        }
        let message: Message = encoding::decode(body, Self::BYTES_MAX)?;
        message.check().map(|()| message)
    }

    fn check(&self) -> Result<(), DecodeError> {
        let fits = |records: &[Arc<[u8]>], max| {
            records.len() <= max && records.iter().all(|bytes| bytes.len() <= Signed::BYTES_MAX)
        };
        let (what, within) = match self {
            Message::Hello(hello) => (
                "hello",
                hello.contact.len() <= Signed::BYTES_MAX && fits(&hello.others, Self::OTHERS_MAX),
            ),
            Message::Records(records) => ("number of records", fits(records, Self::RECORDS_MAX)),
            Message::Have(ids) | Message::Want(ids) => {
                ("number of ids", ids.len() <= Self::IDS_MAX)
            }
            Message::Compare(compare) => {
                ("number of ranges", compare.ranges.len() <= Self::RANGES_MAX)
            }
            Message::Listing(listing) => ("number of ids", listing.ids.len() <= Self::IDS_MAX),
            Message::Keeping(_) => ("job", true),
        };
        if within { Ok(()) } else { Err(DecodeError::OutOfBounds { what }) }
    }
}

const VERSION: u8 = 1;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    fn ids(count: usize) -> Vec<RecordId> {
        (0..count).map(|n| RecordId(*blake3::hash(&n.to_le_bytes()).as_bytes())).collect()
    }

    pub(crate) fn samples() -> Vec<Message> {
        let bytes: Arc<[u8]> = Arc::from(&b"record"[..]);
        let range = IdRange::ALL;
        vec![
            Message::Hello(Hello {
                contact: bytes.clone(),
                observed: Some(([10, 0, 0, 1], 4).into()),
                others: vec![bytes.clone()],
            }),
            Message::Records(vec![bytes]),
            Message::Have(ids(3)),
            Message::Want(ids(1)),
            Message::Compare(Compare {
                topic: Topic::Board,
                ranges: vec![(range, Fingerprint::of(&ids(3)))],
            }),
            Message::Listing(Listing { topic: Topic::Job(JobId([1; 32])), range, ids: ids(2) }),
            Message::Keeping(JobId([1; 32])),
        ]
    }

    #[test]
    fn every_message_reads_back_from_its_bytes() {
        for message in samples() {
            assert_eq!(Message::of_bytes(&message.to_bytes()), Ok(message));
        }
    }

    #[test]
    fn messages_keep_their_bytes() {
        let all: Vec<u8> = samples().iter().flat_map(Message::to_bytes).collect();
        assert_eq!(crate::BlobId::of(&all).short(), "15fdf09c");
    }

    #[test]
    fn one_past_each_bound_is_refused() {
        let record: Arc<[u8]> = Arc::from(&b"r"[..]);
        let print = (IdRange::ALL, Fingerprint::of(&[]));
        let over = [
            Message::Records(vec![record.clone(); Message::RECORDS_MAX + 1]),
            Message::Records(vec![vec![0; Signed::BYTES_MAX + 1].into()]),
            Message::Have(ids(Message::IDS_MAX + 1)),
            Message::Want(ids(Message::IDS_MAX + 1)),
            Message::Compare(Compare {
                topic: Topic::Board,
                ranges: vec![print; Message::RANGES_MAX + 1],
            }),
            Message::Hello(Hello {
                contact: record.clone(),
                observed: None,
                others: vec![record; Message::OTHERS_MAX + 1],
            }),
        ];
        for message in over {
            assert!(Message::of_bytes(&message.to_bytes()).is_err());
        }
        assert!(Message::of_bytes(&vec![1; Message::BYTES_MAX + 1]).is_err());
    }

    #[test]
    fn no_truncated_message_is_read() {
        for message in samples() {
            let bytes = message.to_bytes();
            for end in 0..bytes.len() {
                assert!(Message::of_bytes(&bytes[..end]).is_err());
            }
        }
    }

    #[test]
    fn a_fingerprint_knows_its_set_and_not_its_order() {
        let set = ids(9);
        let mut turned = set.clone();
        turned.reverse();
        assert_eq!(Fingerprint::of(&set), Fingerprint::of(&turned));
        assert_ne!(Fingerprint::of(&set), Fingerprint::of(&set[1..]));
    }
}
