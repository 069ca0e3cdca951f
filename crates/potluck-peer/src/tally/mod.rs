//! Counting: what the receipts of a job amount to, unit by unit.
//!
//! The verdict on a unit is a pure function of the receipts of its job, of what this peer proved and
//! knows of others ([`Standing`]), of what it found itself, and of k. No clock, no order of arrival:
//! even how far the lotteries' windows have widened follows from the set of receipts alone. It is the
//! least level that explains itself: at which as much of the job is covered as it takes to get there.

mod chunk;
mod verdict;

use std::collections::{BTreeMap, BTreeSet};

use potluck_unit::{
    Draw, Job, JobId, Lot, NoResult, PeerId, Receipt, Record, RecordId, ResultHash, Seat, Signed,
    Statement, Time, WorkDigest,
};

use crate::seats::{LEVEL_MAX, Windows};
use crate::standing::Standing;
use chunk::{Chunk, NO_SEAT, Word};
use verdict::{GaveUp, Rule, Voice, majority, verdict};

pub(crate) use chunk::{Own, places};
pub use verdict::Verdict;

/// One peer's word on one unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Vote {
    /// R.
    pub(crate) result: ResultHash,
    /// D.
    pub(crate) digest: WorkDigest,
    /// The record it stands in.
    pub(crate) record: RecordId,
    /// When that was signed.
    pub(crate) made: Time,
}

/// The words on all units of a job.
#[derive(Debug)]
pub(crate) struct Tally {
    job: JobId,
    copies: usize,
    windows: Windows,
    created: Time,
    chunk_units: u32,
    units: u32,
    voters: Vec<(PeerId, Lot)>,
    voter_at: BTreeMap<PeerId, u16>,
    me: PeerId,
    lot: Lot,
    /// Whether this peer settles every dispute of the job itself: it wants the results.
    pub(crate) settles_all: bool,
    chunks: Vec<Chunk>,
    /// For each unit the lowest level at which somebody with a seat has spoken.
    covered: Vec<u8>,
    /// How many units have which lowest level.
    covering: [u32; NO_SEAT as usize + 1],
    quorate: u32,
    level: u8,
    drawn_level: u8,
    /// Voters against whom a great majority stands on some unit, where this peer goes by that.
    suspects: BTreeSet<u16>,
    /// Voters that came to a result with any unit.
    able: BTreeSet<u16>,
    /// Voters that came to none with any.
    gave_up: BTreeSet<u16>,
    /// Voters that contradicted themselves: nothing they say counts, whichever came first.
    two_tongued: BTreeSet<u16>,
    /// Whether a unit came to be led by a majority, or ceased to be, since the last reckoning.
    unsettled: bool,
    ripening: BTreeSet<(Time, u32)>,
    counts: Counts,
}

/// How many units have which verdict.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// [`Verdict::Open`].
    pub open: u32,
    /// [`Verdict::Partial`].
    pub partial: u32,
    /// [`Verdict::Disputed`].
    pub disputed: u32,
    /// [`Verdict::Accepted`].
    pub accepted: u32,
    /// [`Verdict::Unrunnable`].
    pub unrunnable: u32,
    /// Accepted, and the body is on this peer's disk.
    pub fetched: u32,
    /// Accepted for so long that whoever audits it has spoken.
    pub finals: u32,
}

/// What became of a batch of receipts.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    /// Units on which its signer had signed another result, with that result and this one.
    pub(crate) contradictions: Vec<(u32, ResultHash, ResultHash)>,
    /// Whether some receipt says that a run came to no result.
    pub(crate) gave_up: bool,
    /// Units on which its signer had said nothing yet, with a result.
    pub(crate) fresh: BTreeSet<u32>,
}

/// Distinct voters on one job.
const VOTERS_MAX: u16 = u16::MAX;
/// Words on one unit: honest ones are k and a few; the rest is somebody's flood. A word says
/// something of one unit at least, so a chunk has 64 times as many at most.
const WORDS_MAX: u32 = 64;

impl Tally {
    /// Nothing counted yet.
    pub(crate) fn new(id: &JobId, job: &Job, me: &PeerId) -> Tally {
        let mut covering = [0; NO_SEAT as usize + 1];
        covering[usize::from(NO_SEAT)] = job.units;
        Tally {
            job: *id,
            copies: usize::from(job.copies),
            windows: Windows::of(job),
            created: job.created,
            chunk_units: job.chunk_units(),
            units: job.units,
            voters: Vec::new(),
            voter_at: BTreeMap::new(),
            me: *me,
            lot: id.lot(me),
            settles_all: false,
            chunks: (0..job.chunks()).map(|_| Chunk::default()).collect(),
            covered: vec![NO_SEAT; job.units as usize],
            covering,
            quorate: 0,
            level: 0,
            drawn_level: 0,
            suspects: BTreeSet::new(),
            able: BTreeSet::new(),
            gave_up: BTreeSet::new(),
            two_tongued: BTreeSet::new(),
            unsettled: false,
            ripening: BTreeSet::new(),
            counts: Counts { open: job.units, ..Counts::default() },
        }
    }

    fn voter(&mut self, peer: &PeerId) -> Option<u16> {
        if let Some(at) = self.voter_at.get(peer) {
            return Some(*at);
        }
        let at = u16::try_from(self.voters.len()).ok().filter(|at| *at < VOTERS_MAX)?;
        self.voters.push((*peer, self.job.lot(peer)));
        self.voter_at.insert(*peer, at);
        Some(at)
    }

    fn at(&self, index: u32) -> Option<(&Chunk, u8)> {
        let chunk = self.chunks.get((index / self.chunk_units) as usize)?;
        Some((chunk, u8::try_from(index % self.chunk_units).ok()?))
    }

    fn at_mut(&mut self, index: u32) -> Option<(&mut Chunk, u8)> {
        let chunk = self.chunks.get_mut((index / self.chunk_units) as usize)?;
        Some((chunk, u8::try_from(index % self.chunk_units).ok()?))
    }

    /// The chunk that a unit is in.
    pub(crate) fn chunk_of(&self, index: u32) -> u32 {
        index / self.chunk_units
    }

    fn index(&self, chunk: u32, place: u8) -> u32 {
        chunk * self.chunk_units + u32::from(place)
    }

    /// Counts a batch of receipts, all about units that there are. `draw` is what the signer proved
    /// to have drawn.
    pub(crate) fn count(
        &mut self,
        record: &Signed,
        draw: Option<Draw>,
        standing: &Standing,
    ) -> Counted {
        let mut counted = Counted::default();
        let Record::Receipts(batch) = record.record() else { return counted };
        let Some(voter) = self.voter(&record.signer()) else { return counted };
        let mut words: BTreeMap<u32, Word> = BTreeMap::new();
        let bodies: BTreeSet<ResultHash> =
            batch.bodies.iter().map(|body| potluck_unit::BlobId::of(body).result_hash()).collect();
        for receipt in batch.receipts.iter().filter(|receipt| receipt.index < self.units) {
            let chunk = self.chunk_of(receipt.index);
            let word = words.entry(chunk).or_insert_with(|| self.word(voter, record, chunk, draw));
            self.sort(receipt, &bodies, word, &mut counted);
        }
        if !counted.contradictions.is_empty() && self.two_tongued.insert(voter) {
            self.unsettled = true;
        }
        let live =
            !standing.is_dead(&record.signer(), &self.job, batch.made) && !self.is_doubtful(voter);
        for (chunk, mut word) in words {
            for place in places(word.said) {
                let index = self.index(chunk, place);
                let carried = word.vote(index).is_some_and(|(result, _)| bodies.contains(&result));
                word.carried |= u64::from(carried) << place;
                if live {
                    self.cover(index, word.level());
                }
            }
            let fetched = |tally: &Tally, mask: u64| -> u32 {
                let held =
                    places(mask).filter(|place| tally.is_fetched(tally.index(chunk, *place)));
                u32::try_from(held.count()).unwrap_or(0)
            };
            let (carried, before) = (word.carried, fetched(self, word.carried));
            if word.said != 0 && self.able.insert(voter) && self.gave_up.contains(&voter) {
                self.unsettled = true;
            }
            if word.gave_up != 0 {
                self.gave_up.insert(voter);
            }
            if word.said | word.gave_up != 0 {
                self.chunks[chunk as usize].words.push(word);
            }
            self.counts.fetched += fetched(self, carried) - before;
        }
        counted
    }

    /// Adds one receipt to a word, unless it says nothing new: neither a result, nor a better seat,
    /// nor a body that was missing.
    fn sort(
        &self,
        receipt: &Receipt,
        bodies: &BTreeSet<ResultHash>,
        word: &mut Word,
        counted: &mut Counted,
    ) {
        let Some((chunk, place)) = self.at(receipt.index) else { return };
        let bit = 1u64 << place;
        let heard = |word: &&Word| (word.said | word.gave_up) & bit != 0;
        let voter = word.voter;
        let own = || chunk.words.iter().filter(heard).filter(move |word| word.voter == voter);
        let full = chunk.words.iter().filter(heard).count() >= WORDS_MAX as usize;
        match receipt.statement {
            Statement::Outcome { result, .. } => {
                let before = own().find_map(|word| word.vote(receipt.index));
                // A draw may also give the right to audit.
                let worse = |other: &Word| {
                    word.public < other.public
                        || word.drawn < other.drawn
                        || word.draw.is_some() && other.draw.is_none()
                };
                match before {
                    Some((before, _)) if before != result => {
                        counted.contradictions.push((receipt.index, before, result));
                    }
                    _ if full => {}
                    Some(_)
                        if own().all(|other| other.said & bit == 0 || worse(other))
                            || bodies.contains(&result)
                                && !chunk.carries(place, receipt.index, result) =>
                    {
                        word.said |= bit;
                    }
                    Some(_) => {}
                    None => {
                        word.said |= bit;
                        counted.fresh.insert(receipt.index);
                    }
                }
            }
            Statement::NoResult(_) => {
                counted.gave_up = true;
                if !full && own().all(|word| word.gave_up & bit == 0) {
                    word.gave_up |= bit;
                }
            }
        }
    }

    /// A word on a chunk, with the seats that its signer has there.
    fn word(&self, voter: u16, record: &Signed, chunk: u32, draw: Option<Draw>) -> Word {
        let (_, lot) = self.voters[usize::from(voter)];
        let Record::Receipts(batch) = record.record() else {
            unreachable!("only receipts are counted")
        };
        let undrawn = self.windows.undrawn_level(batch.made);
        // A key made after the job could have been made for its lotteries.
        let young = batch.identity.born > self.created && self.windows.are_drawn();
        let (public, drawn) = match batch.seat {
            _ if young => (NO_SEAT, NO_SEAT),
            Seat::Public => (self.windows.public_level(lot.rank(chunk), batch.made), undrawn),
            Seat::Drawn { .. } => {
                let ticket = draw.map_or(u64::MAX, |draw| draw.ticket());
                (NO_SEAT, self.windows.drawn_level(ticket, batch.made))
            }
            Seat::Extra => (NO_SEAT, NO_SEAT),
        };
        Word {
            voter,
            said: 0,
            gave_up: 0,
            carried: 0,
            public,
            drawn,
            draw,
            settler: self.windows.settles_at(lot, chunk, batch.made) == 0,
            record: record.clone(),
        }
    }

    fn cover(&mut self, index: u32, level: u8) {
        if let Some(lowest) = self.covered.get_mut(index as usize).filter(|lowest| level < **lowest)
        {
            self.covering[usize::from(*lowest)] -= 1;
            self.covering[usize::from(level)] += 1;
            *lowest = level;
        }
    }

    fn rule(&self, workers: usize) -> Rule {
        let (copies, level, drawn_level) = (self.copies, self.level, self.drawn_level);
        Rule { copies, level, drawn_level, workers }
    }

    /// Every voice on a unit that counts, with its voter.
    fn voices(&self, index: u32, standing: &Standing) -> Vec<(u16, Voice)> {
        let Some((chunk, place)) = self.at(index) else { return Vec::new() };
        let (bit, own) = (1u64 << place, chunk.own(place));
        let contested = self.is_contested(chunk, bit, index);
        let mut voices: Vec<(u16, Voice)> = Vec::new();
        for word in chunk.words.iter().filter(|word| word.said & bit != 0) {
            let (peer, _) = self.voters[usize::from(word.voter)];
            let Some((result, _)) = word.vote(index) else { continue };
            // A liar's word counts where this peer found the same: others may not know of the liar,
            // take the unit for settled, and not come to add the voice that is missing here.
            let dead = standing.is_dead(&peer, &self.job, word.batch().made)
                || self.is_doubtful(word.voter);
            let found = own.is_some_and(|own| own.result == result)
                && !self.two_tongued.contains(&word.voter);
            if dead && !found {
                continue;
            }
            let called = (contested && word.settler) || self.is_auditor(chunk, bit, word);
            let drawn = if called { 0 } else { word.drawn };
            if let Some((_, voice)) = voices.iter_mut().find(|(voter, _)| *voter == word.voter) {
                (voice.public, voice.drawn) =
                    (voice.public.min(word.public), voice.drawn.min(drawn));
                continue;
            }
            let known = peer == self.me || found || standing.is_known(&peer);
            voices.push((word.voter, Voice { result, public: word.public, drawn, known }));
        }
        voices
    }

    /// Whether anybody ever contradicted anybody on a unit: then some are called to settle it. Who
    /// contradicts itself later takes nothing back: those who were called have spoken meanwhile.
    fn is_contested(&self, chunk: &Chunk, bit: u64, index: u32) -> bool {
        let words = || chunk.words.iter().filter(|word| word.said & bit != 0);
        let first = words().next().and_then(|word| word.vote(index)).map(|vote| vote.0);
        words().any(|word| {
            self.two_tongued.contains(&word.voter) || word.vote(index).map(|vote| vote.0) != first
        })
    }

    /// Whether a word's signer drew the right to audit somebody else who spoke of the unit.
    fn is_auditor(&self, chunk: &Chunk, bit: u64, word: &Word) -> bool {
        word.draw.is_some_and(|draw| {
            let others = chunk.words.iter().filter(|other| other.said & bit != 0);
            others.filter(|other| other.voter != word.voter).any(|other| {
                let (peer, _) = &self.voters[usize::from(other.voter)];
                self.windows.may_audit(draw.audit_ticket(peer))
            })
        })
    }

    /// Judges a unit anew; answers the verdict before and after if it changed. `workers` is how many
    /// peers could run it at all: when all of them gave up, nobody is left to wait for.
    pub(crate) fn judge(
        &mut self,
        now: Time,
        index: u32,
        standing: &Standing,
        workers: usize,
    ) -> Option<(Verdict, Verdict)> {
        let before = self.verdict(index);
        let voices = self.voices(index, standing);
        let (chunk, place) = self.at(index)?;
        let bit = 1u64 << place;
        let gave_up = chunk.words.iter().filter(|word| word.gave_up & bit != 0);
        let gave_up: Vec<GaveUp> = gave_up
            .filter(|word| {
                let (peer, _) = &self.voters[usize::from(word.voter)];
                !standing.is_dead(peer, &self.job, word.batch().made)
            })
            .filter_map(|word| {
                let able = self.able.contains(&word.voter);
                word.reason(index).map(|why| GaveUp { why, able })
            })
            .collect();
        let only: Vec<Voice> = voices.iter().map(|(_, voice)| *voice).collect();
        let mut after = verdict(&only, &gave_up, &self.rule(workers));
        let led = self.led(index, standing);
        if after == Verdict::Disputed {
            let found = if chunk.blind & bit != 0 {
                let results: Vec<ResultHash> = only.iter().map(|voice| voice.result).collect();
                majority(&results, self.copies, 1)
            } else {
                led.as_ref().map(|(result, _)| *result)
            };
            after = found.map_or(Verdict::Disputed, Verdict::Accepted);
        }
        let was_led = chunk.led & bit != 0;
        let told = led.as_ref().is_none_or(|(_, against)| against.is_subset(&self.suspects));
        self.unsettled |= led.is_some() != was_led || !told;
        if led.is_some() {
            self.at_mut(index)?.0.led |= bit;
        } else {
            self.at_mut(index)?.0.led &= !bit;
        }
        if before == after {
            return None;
        }
        self.enter(now, index, before, after);
        Some((before, after))
    }

    /// Writes a new verdict down.
    fn enter(&mut self, now: Time, index: u32, before: Verdict, after: Verdict) {
        *self.counts.of(before) -= 1;
        *self.counts.of(after) += 1;
        self.counts.fetched -= u32::from(self.is_fetched(index));
        let (chunk_units, number) = (self.chunk_units, self.chunk_of(index));
        let Some((chunk, place)) = self.at_mut(index) else { return };
        let bit = 1u64 << place;
        let finals = u32::from(chunk.finals & bit != 0);
        for mask in [
            &mut chunk.partial,
            &mut chunk.disputed,
            &mut chunk.accepted,
            &mut chunk.unrunnable,
            &mut chunk.finals,
        ] {
            *mask &= !bit;
        }
        chunk.why.retain(|(at, _)| *at != place);
        match after {
            Verdict::Open => {}
            Verdict::Disputed => chunk.disputed |= bit,
            Verdict::Unrunnable(why) => {
                chunk.unrunnable |= bit;
                chunk.why.push((place, why));
            }
            Verdict::Partial(result) | Verdict::Accepted(result) => {
                let says = |word: &Word| {
                    word.said & bit != 0 && word.vote(index).is_some_and(|(said, _)| said == result)
                };
                let source = chunk.words.iter().position(says).unwrap_or(0);
                if chunk.source.is_empty() {
                    chunk.source = vec![0; chunk_units as usize];
                }
                chunk.source[usize::from(place)] = u16::try_from(source).unwrap_or(u16::MAX);
                if matches!(after, Verdict::Accepted(_)) {
                    chunk.accepted |= bit;
                    chunk.accepted_at = now;
                } else {
                    chunk.partial |= bit;
                }
            }
        }
        self.counts.finals -= finals;
        if matches!(after, Verdict::Accepted(_)) {
            self.ripening.insert((now, number));
        }
        self.counts.fetched += u32::from(self.is_fetched(index));
    }

    /// Takes accepted units for final once they have been so for `window_ms`. True if any is new.
    pub(crate) fn ripen(&mut self, now: Time, window_ms: u64) -> bool {
        let mut any = false;
        while let Some((at, number)) = self.ripening.first().copied() {
            if now.ms_since(at) < window_ms {
                break;
            }
            self.ripening.pop_first();
            let Some(chunk) = self.chunks.get_mut(number as usize) else { continue };
            if now.ms_since(chunk.accepted_at) < window_ms {
                continue;
            }
            self.counts.finals += (chunk.accepted & !chunk.finals).count_ones();
            any |= chunk.finals != chunk.accepted;
            chunk.finals = chunk.accepted;
        }
        any
    }

    /// Whether a unit is accepted and whoever audits it has spoken.
    #[cfg(test)]
    pub(crate) fn is_final(&self, index: u32) -> bool {
        self.at(index).is_some_and(|(chunk, place)| chunk.finals >> place & 1 == 1)
    }

    /// The verdict as of the last [`Tally::judge`].
    pub(crate) fn verdict(&self, index: u32) -> Verdict {
        let Some((chunk, place)) = self.at(index) else { return Verdict::Open };
        let is = |mask: u64| mask >> place & 1 == 1;
        if is(chunk.disputed) {
            return Verdict::Disputed;
        }
        if is(chunk.unrunnable) {
            let why = chunk.why.iter().find(|(at, _)| *at == place).map(|(_, why)| *why);
            return Verdict::Unrunnable(why.unwrap_or(NoResult::Engine));
        }
        match chunk.result(place, index) {
            Some(result) if is(chunk.accepted) => Verdict::Accepted(result),
            Some(result) if is(chunk.partial) => Verdict::Partial(result),
            Some(_) | None => Verdict::Open,
        }
    }

    /// How many units have which verdict.
    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// How many units there are.
    pub(crate) fn units(&self) -> u32 {
        self.units
    }

    /// The windows of this job.
    pub(crate) fn windows(&self) -> &Windows {
        &self.windows
    }

    /// How far the public windows have widened, and the secret ones.
    pub(crate) fn levels(&self) -> (u8, u8) {
        (self.level, self.drawn_level)
    }
}

impl Counts {
    fn of(&mut self, verdict: Verdict) -> &mut u32 {
        match verdict {
            Verdict::Open => &mut self.open,
            Verdict::Partial(_) => &mut self.partial,
            Verdict::Disputed => &mut self.disputed,
            Verdict::Accepted(_) => &mut self.accepted,
            Verdict::Unrunnable(_) => &mut self.unrunnable,
        }
    }
}

const _: () = assert!(NO_SEAT > LEVEL_MAX, "no window is so wide that who has no seat has one");

mod lookup;
mod reckon;

#[cfg(test)]
mod tests;
