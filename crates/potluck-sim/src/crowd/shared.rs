//! What all peers of a crowd share, because nobody there forges anything: records that were decoded
//! and checked once, and draws that cost nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use potluck_peer::{Draws, Read};
use potluck_unit::{Draw, DrawProof, Key, PeerId, Record, Signed};

/// How many different claims and batches of receipts somebody heard.
#[derive(Debug, Default)]
pub(super) struct Heard {
    claims: AtomicU64,
    receipts: AtomicU64,
}

impl Heard {
    /// Claims, then batches.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.claims.load(Ordering::Relaxed), self.receipts.load(Ordering::Relaxed))
    }

    fn note(&self, record: &Record) {
        let count = match record {
            Record::Claim(_) => &self.claims,
            Record::Receipts(_) => &self.receipts,
            Record::Job(_) | Record::Close(_) | Record::Contact(_) | Record::Proof(_) => return,
        };
        count.fetch_add(1, Ordering::Relaxed);
    }
}

/// Decodes and checks each record once for all peers. Knows them by where their bytes are, which
/// stay there as long as they are remembered: for ever.
pub(super) fn remembering(heard: Arc<Heard>) -> Read {
    let known: Mutex<BTreeMap<usize, Signed>> = Mutex::default();
    Arc::new(move |bytes| {
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        let place = bytes.as_ptr().addr();
        if let Some(record) = known.get(&place) {
            return Ok(record.clone());
        }
        let record = Signed::of_shared(bytes)?;
        heard.note(record.record());
        known.insert(place, record.clone());
        Ok(record)
    })
}

/// Draws that anybody could make: nobody here does.
pub(super) struct Cheap;

impl Cheap {
    fn draw(peer: &PeerId, input: &[u8]) -> Draw {
        Draw(*blake3::keyed_hash(&peer.0, input).as_bytes())
    }
}

impl Draws for Cheap {
    fn make(&self, key: &Key, input: &[u8]) -> (DrawProof, Draw) {
        (DrawProof([0; DrawProof::BYTES]), Cheap::draw(&key.id(), input))
    }

    fn check(&self, peer: &PeerId, _: &DrawProof, input: &[u8]) -> Option<Draw> {
        Some(Cheap::draw(peer, input))
    }
}
