//! One chunk's words: who said what of its units, and what that came to, a bit for each unit.

use potluck_unit::{
    NoResult, ReceiptBatch, Record, ResultHash, Signed, Statement, Time, Witness, WorkDigest,
};

use crate::seats::LEVEL_MAX;

/// What one batch of receipts says of one chunk.
#[derive(Debug)]
pub(super) struct Word {
    /// Who, as an index into the voters.
    pub(super) voter: u16,
    /// Units with a result.
    pub(super) said: u64,
    /// Units without one.
    pub(super) gave_up: u64,
    /// Units whose result's body travelled with it.
    pub(super) carried: u64,
    /// The level from which on its signer has a seat by the public lottery.
    pub(super) public: u8,
    /// The level from which on it has one by the secret lottery.
    pub(super) drawn: u8,
    /// What it drew, if it says so: it may be an auditor.
    pub(super) draw: Option<potluck_unit::Draw>,
    /// Whether it is called to settle disputes of this chunk.
    pub(super) settler: bool,
    pub(super) record: Signed,
}

/// What this peer itself found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Own {
    /// R.
    pub(crate) result: ResultHash,
    /// M, as long as it is remembered: not over a restart.
    pub(crate) witness: Option<Witness>,
    /// Whether a second run, or somebody else's, came to the same.
    pub(crate) sure: bool,
}

/// No seat at any level.
pub(super) const NO_SEAT: u8 = LEVEL_MAX + 1;

#[derive(Debug, Default)]
pub(super) struct Chunk {
    pub(super) words: Vec<Word>,
    /// What this peer found, by place.
    pub(super) own: Vec<(u8, Own)>,
    /// Bodies that were fetched, by place.
    pub(super) bodies: Vec<(u8, ResultHash)>,
    /// Units whose bodies left the disk again.
    pub(super) dropped: u64,
    /// For each unit that is accepted or partial, a word that says so.
    pub(super) source: Vec<u16>,
    pub(super) partial: u64,
    pub(super) disputed: u64,
    pub(super) accepted: u64,
    pub(super) unrunnable: u64,
    pub(super) why: Vec<(u8, NoResult)>,
    /// Units on which some k agree by right of their seats, whatever others say.
    pub(super) quorate: u64,
    pub(super) finals: u64,
    /// Units this peer ran, is running, or gave up on.
    pub(super) ran: u64,
    /// Units this peer ran without a result, so that it can't know who lies about them.
    pub(super) blind: u64,
    /// Units on which this peer goes by what a great majority says.
    pub(super) led: u64,
    /// When the last of them was accepted.
    pub(super) accepted_at: Time,
}

impl Word {
    pub(super) fn batch(&self) -> &ReceiptBatch {
        match self.record.record() {
            Record::Receipts(batch) => batch,
            Record::Job(_)
            | Record::Claim(_)
            | Record::Close(_)
            | Record::Contact(_)
            | Record::Proof(_) => {
                unreachable!("a word is made of receipts only")
            }
        }
    }

    fn statement(&self, index: u32) -> Option<Statement> {
        let receipts = &self.batch().receipts;
        let at = receipts.binary_search_by_key(&index, |receipt| receipt.index).ok()?;
        Some(receipts[at].statement)
    }

    /// R and D of a unit of which `said` holds the bit.
    pub(super) fn vote(&self, index: u32) -> Option<(ResultHash, WorkDigest)> {
        match self.statement(index)? {
            Statement::Outcome { result, digest } => Some((result, digest)),
            Statement::NoResult(_) => None,
        }
    }

    /// Why there is no result for a unit of which `gave_up` holds the bit.
    pub(super) fn reason(&self, index: u32) -> Option<NoResult> {
        match self.statement(index)? {
            Statement::NoResult(why) => Some(why),
            Statement::Outcome { .. } => None,
        }
    }

    /// The lowest level at which its signer has any seat.
    pub(super) fn level(&self) -> u8 {
        self.public.min(self.drawn)
    }
}

impl Chunk {
    pub(super) fn own(&self, place: u8) -> Option<Own> {
        self.own.iter().find(|(at, _)| *at == place).map(|(_, own)| *own)
    }

    pub(super) fn note_own(&mut self, place: u8, own: Own) {
        match self.own.iter_mut().find(|(at, _)| *at == place) {
            Some((_, before)) => *before = own,
            None => self.own.push((place, own)),
        }
    }

    /// The result of a unit that is accepted or partial.
    pub(super) fn result(&self, place: u8, index: u32) -> Option<ResultHash> {
        let source = self.source.get(usize::from(place))?;
        self.words.get(usize::from(*source))?.vote(index).map(|(result, _)| result)
    }

    /// Whether the body of a result is on this peer's disk.
    pub(super) fn holds(&self, place: u8, index: u32, result: ResultHash) -> bool {
        let bit = 1 << place;
        let fetched = || self.bodies.iter().any(|(at, body)| *at == place && *body == result);
        let found =
            || self.dropped & bit == 0 && self.own(place).is_some_and(|own| own.result == result);
        fetched() || found() || self.carries(place, index, result)
    }

    /// Whether a word on the unit came with the body of this result.
    pub(super) fn carries(&self, place: u8, index: u32, result: ResultHash) -> bool {
        self.words.iter().any(|word| {
            word.carried >> place & 1 == 1
                && word.vote(index).is_some_and(|(said, _)| said == result)
        })
    }
}

/// The places of the bits in a mask, rising.
pub(crate) fn places(mut mask: u64) -> impl Iterator<Item = u8> {
    std::iter::from_fn(move || {
        let place = u8::try_from(mask.trailing_zeros()).ok().filter(|place| *place < 64)?;
        mask &= mask - 1;
        Some(place)
    })
}
