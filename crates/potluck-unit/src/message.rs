//! Messages: what neighbours say to each other.

use std::net::SocketAddr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

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

/// Ids from `first` to `last`, both included. Its bytes leave out the zeros at the end of `first` and
/// the ones at the end of `last`: bounds that are chosen well cost three or four bytes each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// The lowest id.
    pub first: RecordId,
    /// The highest.
    pub last: RecordId,
}

impl IdRange {
    /// All ids.
    pub const ALL: IdRange = IdRange { first: RecordId([0; 32]), last: RecordId([0xff; 32]) };

    /// Cuts this range in two between `below`, which goes to the lower part, and `above`, where as
    /// few bytes as possible name the cut. Both must be in the range, in this order.
    pub fn cut(&self, below: &RecordId, above: &RecordId) -> (IdRange, IdRange) {
        let same = below.0.iter().zip(&above.0).take_while(|(a, b)| a == b).count();
        let mut first = RecordId([0; 32]);
        let named = (same + 1).min(32);
        first.0[..named].copy_from_slice(&above.0[..named]);
        let lower = IdRange { first: self.first, last: before(first) };
        (lower, IdRange { first, last: self.last })
    }
}

/// The id just below this one, which must not be the lowest.
fn before(mut id: RecordId) -> RecordId {
    for byte in id.0.iter_mut().rev() {
        let (lower, borrowed) = byte.overflowing_sub(1);
        *byte = lower;
        if !borrowed {
            break;
        }
    }
    id
}

impl Serialize for IdRange {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (trimmed(&self.first, 0), trimmed(&self.last, 0xff)).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for IdRange {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (first, last) = <(&[u8], &[u8])>::deserialize(deserializer)?;
        let padded = |bytes: &[u8], padding| {
            let mut id = RecordId([padding; 32]);
            let start = id.0.get_mut(..bytes.len());
            start.ok_or_else(|| de::Error::custom("a bound is too long"))?.copy_from_slice(bytes);
            Ok(id)
        };
        Ok(IdRange { first: padded(first, 0)?, last: padded(last, 0xff)? })
    }
}

/// An id without the bytes of `padding` at its end.
fn trimmed(id: &RecordId, padding: u8) -> &[u8] {
    let bytes = id.0.iter().rposition(|byte| *byte != padding).map_or(0, |at| at + 1);
    &id.0[..bytes]
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
        let mut sum = IdSum::default();
        ids.into_iter().for_each(|id| sum.add(id));
        sum.fingerprint()
    }
}

/// The sum of a set of ids modulo 2^256, and their number: what a fingerprint is made of. Sums of
/// parts add up to that of the whole, so a set that keeps them need not look at each id again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IdSum {
    count: u32,
    limbs: [u64; 4],
}

impl IdSum {
    /// How many ids are in it.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Adds an id.
    pub fn add(&mut self, id: &RecordId) {
        self.add_all(&IdSum { count: 1, limbs: limbs(id) });
    }

    /// Adds all ids of another sum.
    pub fn add_all(&mut self, other: &IdSum) {
        self.count = self.count.wrapping_add(other.count);
        let mut carry = false;
        for (limb, other) in self.limbs.iter_mut().zip(other.limbs) {
            let (partial, first) = limb.overflowing_add(other);
            let (total, second) = partial.overflowing_add(u64::from(carry));
            (*limb, carry) = (total, first | second);
        }
    }

    /// Takes away an id that is in it.
    pub fn subtract(&mut self, id: &RecordId) {
        self.count = self.count.wrapping_sub(1);
        let mut borrow = false;
        for (limb, other) in self.limbs.iter_mut().zip(limbs(id)) {
            let (partial, first) = limb.overflowing_sub(other);
            let (total, second) = partial.overflowing_sub(u64::from(borrow));
            (*limb, borrow) = (total, first | second);
        }
    }

    /// What the ids amount to.
    pub fn fingerprint(&self) -> Fingerprint {
        let mut hasher = blake3::Hasher::new_derive_key("potluck fingerprint v1");
        hasher.update(&self.count.to_le_bytes());
        self.limbs.iter().for_each(|limb| {
            hasher.update(&limb.to_le_bytes());
        });
        let mut hash = [0; 16];
        hash.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
        Fingerprint { count: self.count, hash }
    }
}

/// An id as a number of 256 bits, the lowest limb first.
fn limbs(id: &RecordId) -> [u64; 4] {
    let mut limbs = [0; 4];
    for (limb, bytes) in limbs.iter_mut().zip(id.0.chunks_exact(8)) {
        *limb = bytes.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
    }
    limbs
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
        assert_eq!(crate::BlobId::of(&all).short(), "aef304de");
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

    #[test]
    fn what_is_taken_out_of_a_sum_leaves_the_rest() {
        let set = ids(9);
        let sum = |ids: &[RecordId]| {
            let mut sum = IdSum::default();
            ids.iter().for_each(|id| sum.add(id));
            sum
        };
        let mut left = sum(&set);
        set[4..].iter().for_each(|id| left.subtract(id));
        assert_eq!(left, sum(&set[..4]));
        left.add_all(&sum(&set[4..]));
        assert_eq!(left.fingerprint(), Fingerprint::of(&set));
    }

    #[test]
    fn a_range_is_cut_between_two_ids_by_few_bytes() {
        let mut set = ids(1000);
        set.sort_unstable();
        let mut rest = IdRange::ALL;
        for pair in set.windows(2) {
            let (lower, upper) = rest.cut(&pair[0], &pair[1]);
            assert!(lower.last >= pair[0] && upper.first <= pair[1] && lower.last < upper.first);
            assert_eq!(before(upper.first), lower.last);
            assert!(encoding::encode(&lower).len() <= 10, "{lower:?}");
            rest = upper;
        }
        let twin = RecordId([7; 32]);
        let mut next = twin;
        next.0[31] += 1;
        let (lower, upper) = IdRange::ALL.cut(&twin, &next);
        assert_eq!((lower.last, upper.first), (twin, next));
    }

    #[test]
    fn a_bound_with_padding_or_of_33_bytes_is_refused() {
        let range = |first: &[u8], last: &[u8]| {
            encoding::decode::<IdRange>(&encoding::encode(&(first, last)), 100)
        };
        assert_eq!(range(&[], &[]), Ok(IdRange::ALL));
        assert!(range(&[1; 32], &[2; 32]).is_ok());
        assert!(range(&[1, 0], &[]).is_err());
        assert!(range(&[], &[1, 0xff]).is_err());
        assert!(range(&[1; 33], &[]).is_err());
    }
}
