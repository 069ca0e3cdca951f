//! Reckoning: how far windows have widened, and whose word has lost its weight.

use std::collections::BTreeSet;

use potluck_unit::ResultHash;

use super::chunk::NO_SEAT;
use super::verdict::{LEAD, Voice, has_quorum, majority};
use super::{Tally, places};
use crate::seats::drained;
use crate::standing::Standing;

impl Tally {
    /// Reckons how far windows have widened, after words on the units of `chunks` were counted.
    /// True if they are wider than before, so that more than those units may have to be judged.
    pub(crate) fn reckon(
        &mut self,
        chunks: impl IntoIterator<Item = u32>,
        standing: &Standing,
    ) -> bool {
        for chunk in chunks {
            self.recount(chunk, standing);
        }
        let before = (self.level, self.drawn_level);
        loop {
            let levels = (self.level, self.drawn_level);
            let covered = |level: u8| -> u32 { self.covering[..=usize::from(level)].iter().sum() };
            while drained(self.units, covered(self.level)) > self.level {
                self.level = drained(self.units, covered(self.level));
            }
            self.drawn_level = self.drawn_level.max(drained(self.units, self.quorate));
            if levels == (self.level, self.drawn_level) {
                return levels != before;
            }
            for chunk in 0..u32::try_from(self.chunks.len()).unwrap_or(u32::MAX) {
                self.recount(chunk, standing);
            }
        }
    }

    /// Looks again which units of a chunk have a quorum.
    fn recount(&mut self, chunk: u32, standing: &Standing) {
        let Some(place) = self.chunks.get(chunk as usize) else { return };
        let said = place.words.iter().fold(0, |mask, word| mask | word.said);
        let mut quorate = place.quorate;
        for place in places(said & !quorate) {
            let index = self.index(chunk, place);
            let voices: Vec<Voice> =
                self.voices(index, standing).into_iter().map(|(_, voice)| voice).collect();
            quorate |= u64::from(has_quorum(&voices, &self.rule(0))) << place;
        }
        let place = &mut self.chunks[chunk as usize];
        self.quorate += (quorate & !place.quorate).count_ones();
        place.quorate = quorate;
    }

    /// Reckons everything anew, after whom to believe has changed.
    pub(crate) fn reckon_all(&mut self, standing: &Standing) {
        self.covered.fill(NO_SEAT);
        self.covering = [0; NO_SEAT as usize + 1];
        self.covering[usize::from(NO_SEAT)] = self.units;
        (self.level, self.drawn_level, self.quorate) = (0, 0, 0);
        self.unsettled = false;
        self.suspects = self.led_against(standing);
        let mut covers = Vec::new();
        for (chunk, place) in (0..).zip(&mut self.chunks) {
            place.quorate = 0;
            for word in place.words.iter().filter(|word| word.said != 0) {
                covers.push((chunk, word.voter, word.said, word.level(), word.batch().made));
            }
        }
        for (chunk, voter, said, level, made) in covers {
            let (peer, _) = self.voters[usize::from(voter)];
            if standing.is_dead(&peer, &self.job, made) || self.is_doubtful(voter) {
                continue;
            }
            for place in places(said) {
                self.cover(self.index(chunk, place), level);
            }
        }
        let chunks = u32::try_from(self.chunks.len()).unwrap_or(u32::MAX);
        self.reckon(0..chunks, standing);
    }

    pub(super) fn is_doubtful(&self, voter: u16) -> bool {
        self.suspects.contains(&voter) || self.two_tongued.contains(&voter)
    }

    /// Whether it must be reckoned anew.
    pub(crate) fn is_unsettled(&self) -> bool {
        self.unsettled
    }

    /// Voters whom a great majority contradicts on units where this peer goes by that.
    fn led_against(&self, standing: &Standing) -> BTreeSet<u16> {
        let mut suspects = BTreeSet::new();
        for (chunk, place) in (0..).zip(&self.chunks) {
            for place in places(place.led) {
                let led = self.led(self.index(chunk, place), standing);
                suspects.extend(led.into_iter().flat_map(|(_, against)| against));
            }
        }
        suspects
    }

    /// Every result that was signed on a unit: voter, R, and whether the word had a seat in the first
    /// windows, or has one because its signer is called to settle or to audit.
    pub(super) fn words_on(&self, index: u32) -> Vec<(u16, ResultHash, bool)> {
        let Some((chunk, place)) = self.at(index) else { return Vec::new() };
        let bit = 1u64 << place;
        let mut words: Vec<(u16, ResultHash, bool)> = Vec::new();
        for word in chunk.words.iter().filter(|word| word.said & bit != 0) {
            let seated = word.settler || word.level() == 0 || self.is_auditor(chunk, bit, word);
            match words.iter_mut().find(|(voter, ..)| *voter == word.voter) {
                Some((_, _, before)) => *before |= seated,
                None => {
                    let vote = word.vote(index).map(|(result, _)| (word.voter, result, seated));
                    words.extend(vote);
                }
            }
        }
        words
    }

    /// What a great majority of those with a seat says of a unit, for a peer that neither ran it nor
    /// is called to settle it, and who contradicts them. Goes by the first windows: how wide they
    /// are now depends on who counts, and so on this.
    pub(super) fn led(
        &self,
        index: u32,
        standing: &Standing,
    ) -> Option<(ResultHash, BTreeSet<u16>)> {
        let (chunk, place) = self.at(index)?;
        if !self.is_contested(chunk, 1 << place, index) || self.settles_all {
            return None;
        }
        if self.is_called(index) || chunk.own(place).is_some() || chunk.blind >> place & 1 == 1 {
            return None;
        }
        let live = |voter: &u16| {
            let (peer, _) = self.voters[usize::from(*voter)];
            !self.two_tongued.contains(voter)
                && !standing.strikes(&peer).iter().any(|strike| strike.job == self.job)
        };
        let words = self.words_on(index);
        let seated = || words.iter().filter(|(voter, _, seated)| *seated && live(voter));
        let results: Vec<ResultHash> = seated().map(|(_, result, _)| *result).collect();
        let led = majority(&results, self.copies, LEAD)?;
        let known = |voter: u16| standing.is_known(&self.voters[usize::from(voter)].0);
        if !seated().any(|(voter, result, _)| *result == led && known(*voter)) {
            return None;
        }
        let against = words.iter().filter(|(_, result, _)| *result != led);
        Some((led, against.map(|(voter, _, _)| *voter).collect()))
    }
}
