//! What others ask of a tally: who said what, what this peer did, what is still wanted.

use std::collections::BTreeSet;

use potluck_unit::{NoResult, PeerId, ResultHash, Time};

use super::chunk::{Own, Word, places};
use super::verdict::Voice;
use super::{Tally, Verdict, Vote};
use crate::standing::Standing;

/// How many more peers must speak of a unit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Wanted {
    /// In all.
    pub(crate) any: usize,
    /// How many of them may go by the public lottery.
    pub(crate) public: usize,
}

impl Tally {
    /// Notes what this peer itself found.
    pub(crate) fn note_own(&mut self, index: u32, own: Own) {
        let fetched = self.is_fetched(index);
        if let Some((chunk, place)) = self.at_mut(index) {
            chunk.note_own(place, own);
        }
        self.counts.fetched -= u32::from(fetched);
        self.counts.fetched += u32::from(self.is_fetched(index));
    }

    /// What this peer itself found.
    pub(crate) fn own(&self, index: u32) -> Option<Own> {
        self.at(index).and_then(|(chunk, place)| chunk.own(place))
    }

    /// Every vote on a unit with its voter, whether it counts or not.
    pub(crate) fn votes(&self, index: u32) -> impl Iterator<Item = (PeerId, Vote)> {
        let (words, bit) = match self.at(index) {
            Some((chunk, place)) => (&chunk.words[..], 1u64 << place),
            None => (&[][..], 0),
        };
        let said = move |word: &&Word| word.said & bit != 0;
        words.iter().enumerate().filter(move |(_, word)| said(word)).filter_map(
            move |(at, word)| {
                // Once for each peer, however often it says the same.
                if words[..at].iter().any(|other| said(&other) && other.voter == word.voter) {
                    return None;
                }
                let (result, digest) = word.vote(index)?;
                let (record, made) = (word.record.id(), word.batch().made);
                let (peer, _) = self.voters[usize::from(word.voter)];
                Some((peer, Vote { result, digest, record, made }))
            },
        )
    }

    /// Whether a peer has spoken of this job.
    pub(crate) fn knows(&self, peer: &PeerId) -> bool {
        self.voter_at.contains_key(peer)
    }

    /// Whether what a peer signed then counts for anything in this job.
    pub(crate) fn is_heard(&self, peer: &PeerId, made: Time, standing: &Standing) -> bool {
        let doubtful = self.voter_at.get(peer).is_some_and(|voter| self.is_doubtful(*voter));
        !doubtful && !standing.is_dead(peer, &self.job, made)
    }

    /// Everybody who ran a unit without a result.
    pub(crate) fn gave_up(&self, index: u32) -> impl Iterator<Item = (PeerId, NoResult)> {
        let (words, bit) = match self.at(index) {
            Some((chunk, place)) => (&chunk.words[..], 1u64 << place),
            None => (&[][..], 0),
        };
        words.iter().filter(move |word| word.gave_up & bit != 0).filter_map(move |word| {
            let (peer, _) = self.voters[usize::from(word.voter)];
            word.reason(index).map(|why| (peer, why))
        })
    }

    /// Everybody who signed a result of some units of a chunk, with those units.
    pub(crate) fn workers_of(&self, chunk: u32) -> impl Iterator<Item = (PeerId, u64)> {
        let words = self.chunks.get(chunk as usize).map_or(&[][..], |chunk| &chunk.words);
        let said = words.iter().filter(|word| word.said != 0);
        said.map(|word| (self.voters[usize::from(word.voter)].0, word.said))
    }

    /// Whether this peer is among the few that are called first to settle disputes about a unit.
    pub(crate) fn is_called(&self, index: u32) -> bool {
        self.windows.settles_at(self.lot, self.chunk_of(index), self.created) == 0
    }

    /// Peers that a great majority contradicts on some unit, where this peer goes by that.
    pub(crate) fn suspects(&self) -> impl Iterator<Item = PeerId> {
        self.suspects.iter().map(|voter| self.voters[usize::from(*voter)].0)
    }

    /// Units of a chunk on which a peer's word is worth an audit, if it counts at all. Not where it
    /// audited somebody itself, after as many had spoken as must agree: their words are audited in any
    /// case, and if its were too, and those of its auditors, few units would end before all have run
    /// them. Who was heard first is audited, so that two can't be each other's auditors.
    pub(crate) fn audited_of(&self, chunk: u32, peer: &PeerId, standing: &Standing) -> u64 {
        let Some(voter) = self.voter_at.get(peer) else { return 0 };
        let words = self.chunks.get(chunk as usize).map_or(&[][..], |chunk| &chunk.words);
        let live = |word: &Word| {
            let (peer, _) = &self.voters[usize::from(word.voter)];
            self.is_heard(peer, word.batch().made, standing)
        };
        let theirs = words.iter().enumerate().filter(|(_, word)| word.voter == *voter);
        theirs.filter(|(_, word)| word.said != 0 && live(word)).fold(0, |mask, (at, word)| {
            let before = || words[..at].iter().filter(|other| other.said & word.said != 0);
            let others = before().filter(|other| other.voter != *voter && live(other));
            let Some(draw) = word.draw else { return mask | word.said };
            let (mut seen, mut drawn) = ([0u8; 64], 0);
            for other in others {
                let both = other.said & word.said;
                places(both).for_each(|place| seen[usize::from(place)] += 1);
                let (peer, _) = &self.voters[usize::from(other.voter)];
                if self.windows.may_audit(draw.audit_ticket(peer)) {
                    drawn |= both;
                }
            }
            let enough = |place: &u8| usize::from(seen[usize::from(*place)]) >= self.copies;
            let audits = places(drawn).filter(enough).fold(0, |mask, place| mask | 1 << place);
            mask | word.said & !audits
        })
    }

    /// Whether anybody has signed a result of any unit of a chunk.
    pub(crate) fn is_begun(&self, chunk: u32) -> bool {
        self.workers_of(chunk).next().is_some()
    }

    /// Units of a chunk on which a peer has said anything.
    pub(crate) fn spoken(&self, chunk: u32, peer: &PeerId) -> u64 {
        let Some(voter) = self.voter_at.get(peer) else { return 0 };
        let words = self.chunks.get(chunk as usize).map_or(&[][..], |chunk| &chunk.words);
        let theirs = words.iter().filter(|word| word.voter == *voter);
        theirs.fold(0, |mask, word| mask | word.said | word.gave_up)
    }

    /// Units of a chunk that are open or partial and that this peer has not run.
    pub(crate) fn useful(&self, chunk: u32) -> u64 {
        let Some(place) = self.chunks.get(chunk as usize) else { return 0 };
        let units = (self.units - (chunk * self.chunk_units).min(self.units)).min(self.chunk_units);
        let all = if units >= 64 { u64::MAX } else { (1 << units) - 1 };
        all & !(place.accepted | place.disputed | place.unrunnable | place.ran)
    }

    /// Units of a chunk that this peer ran, is running, or gave up on.
    pub(crate) fn ran(&self, chunk: u32) -> u64 {
        self.chunks.get(chunk as usize).map_or(0, |chunk| chunk.ran)
    }

    /// How many more peers must speak before a unit can be accepted; 0 for one that is settled or
    /// waits for a dispute to end.
    pub(crate) fn wanted(&self, index: u32, standing: &Standing) -> Wanted {
        match self.verdict(index) {
            Verdict::Accepted(_) | Verdict::Unrunnable(_) | Verdict::Disputed => Wanted::default(),
            Verdict::Open | Verdict::Partial(_) => {
                let voices = self.voices(index, standing);
                let drawn = |voice: &Voice| voice.drawn <= self.drawn_level;
                let public = |voice: &Voice| voice.public <= self.level && !drawn(voice);
                let public = voices.iter().filter(|(_, voice)| public(voice)).count().min(1);
                let drawn = voices.iter().filter(|(_, voice)| drawn(voice)).count();
                let known = voices.iter().any(|(_, voice)| voice.known);
                let missing = self.copies.saturating_sub(drawn + public);
                let any = missing.max(usize::from(!voices.is_empty() && !known));
                Wanted { any, public: any.min(1 - public) }
            }
        }
    }

    /// The body of this result is on this peer's disk.
    pub(crate) fn note_body(&mut self, index: u32, result: ResultHash) {
        let fetched = self.is_fetched(index);
        let Some((chunk, place)) = self.at_mut(index) else { return };
        if chunk.holds(place, index, result) {
            return;
        }
        chunk.bodies.retain(|(at, _)| *at != place);
        chunk.bodies.push((place, result));
        let now = self.is_fetched(index);
        self.counts.fetched -= u32::from(fetched);
        self.counts.fetched += u32::from(now);
    }

    /// The bodies of these results are no longer on this peer's disk. Those that travelled inside of
    /// receipts are there as long as the receipts.
    pub(crate) fn forget_bodies(&mut self, gone: &BTreeSet<ResultHash>) {
        for index in 0..self.units {
            let fetched = self.is_fetched(index);
            let Some((chunk, place)) = self.at_mut(index) else { continue };
            chunk.bodies.retain(|(at, result)| *at != place || !gone.contains(result));
            if chunk.own(place).is_some_and(|own| gone.contains(&own.result)) {
                chunk.dropped |= 1 << place;
            }
            self.counts.fetched -= u32::from(fetched);
            self.counts.fetched += u32::from(self.is_fetched(index));
        }
    }

    /// The accepted result of a unit.
    pub(crate) fn accepted(&self, index: u32) -> Option<ResultHash> {
        match self.verdict(index) {
            Verdict::Accepted(result) => Some(result),
            Verdict::Open | Verdict::Partial(_) | Verdict::Disputed | Verdict::Unrunnable(_) => {
                None
            }
        }
    }

    /// Whether the body of the accepted result is on this peer's disk.
    pub(crate) fn is_fetched(&self, index: u32) -> bool {
        let Verdict::Accepted(result) = self.verdict(index) else { return false };
        self.at(index).is_some_and(|(chunk, place)| chunk.holds(place, index, result))
    }

    /// Whether a batch of receipts that is known here carried the body of this result.
    pub(crate) fn is_carried(&self, index: u32, result: ResultHash) -> bool {
        self.at(index).is_some_and(|(chunk, place)| chunk.carries(place, index, result))
    }

    /// Notes whether this peer ran a unit, is running it, or gave up on it.
    pub(crate) fn note_ran(&mut self, index: u32, ran: bool) {
        if let Some((chunk, place)) = self.at_mut(index) {
            chunk.ran = chunk.ran & !(1 << place) | u64::from(ran) << place;
        }
    }

    /// Notes that this peer ran a unit without a result.
    pub(crate) fn note_blind(&mut self, index: u32) {
        if let Some((chunk, place)) = self.at_mut(index) {
            chunk.blind |= 1 << place;
        }
    }

    /// Whether this peer ran a unit, is running it, or gave up on it.
    pub(crate) fn has_run(&self, index: u32) -> bool {
        self.at(index).is_some_and(|(chunk, place)| chunk.ran >> place & 1 == 1)
    }

    /// Who is right about each accepted unit: how many units of each peer.
    pub(crate) fn credits(&self) -> Vec<(PeerId, u32)> {
        let mut units = vec![0; self.voters.len()];
        for index in 0..self.units {
            for voter in self.right_about(index) {
                units[usize::from(voter)] += 1;
            }
        }
        self.voters.iter().map(|(peer, _)| *peer).zip(units).filter(|(_, n)| *n > 0).collect()
    }

    fn right_about(&self, index: u32) -> Vec<u16> {
        let Verdict::Accepted(accepted) = self.verdict(index) else { return Vec::new() };
        let right = self.words_on(index).into_iter().filter(|(_, result, _)| *result == accepted);
        right.map(|(voter, _, _)| voter).collect()
    }

    /// Peers that signed what was accepted of a unit, this one left out.
    pub(crate) fn supporters(&self, index: u32) -> impl Iterator<Item = PeerId> {
        let right = self.right_about(index).into_iter();
        right.map(|voter| self.voters[usize::from(voter)].0).filter(|peer| *peer != self.me)
    }

    /// Whether this peer signed what was accepted of a unit.
    pub(crate) fn is_own(&self, index: u32) -> bool {
        let right = self.right_about(index).into_iter();
        right.into_iter().any(|voter| self.voters[usize::from(voter)].0 == self.me)
    }

    /// Units with a verdict that stands on words, for judging anew.
    pub(crate) fn spoken_of(&self) -> Vec<u32> {
        let mut units = Vec::new();
        for (chunk, place) in (0..).zip(&self.chunks) {
            let heard = place.words.iter().fold(0, |mask, word| mask | word.said | word.gave_up);
            units.extend(places(heard).map(|place| self.index(chunk, place)));
        }
        units
    }

    /// Units that lack voices here, and on which somebody has spoken whose word does not count.
    pub(crate) fn misled(&self, standing: &Standing) -> Vec<u32> {
        let mut units = Vec::new();
        for (chunk, place) in (0..).zip(&self.chunks).filter(|(_, place)| place.partial != 0) {
            let dead = |word: &&Word| {
                let (peer, _) = self.voters[usize::from(word.voter)];
                standing.is_dead(&peer, &self.job, word.batch().made)
            };
            let said = place.words.iter().filter(dead).fold(0, |mask, word| mask | word.said);
            units.extend(places(said & place.partial).map(|place| self.index(chunk, place)));
        }
        units
    }

    /// Units that some have spoken of and that are not accepted: wider windows may change that.
    pub(crate) fn waiting(&self) -> Vec<u32> {
        let mut units = Vec::new();
        for (chunk, place) in (0..).zip(&self.chunks) {
            let open = place.partial | place.disputed | place.unrunnable;
            units.extend(places(open).map(|place| self.index(chunk, place)));
        }
        units
    }
}
