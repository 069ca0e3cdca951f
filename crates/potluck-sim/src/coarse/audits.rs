//! Auditors, disputes, and what becomes of who is found to lie.

use potluck_peer::Chance;
use potluck_peer::arithmetic::{AUDIT_DELAY_MS, SETTLERS, audit_rate};

use super::World;
use super::claims::uniform;
use super::view::{Kind, Word};

/// By how many words the truth must lead before everybody goes by it.
pub(super) const LEAD: u32 = 3;
/// What is disputed for so long the submitter's node has run itself. Here everybody believes it.
const SUBMITTER_MS: u64 = 60_000;

impl World {
    /// Auditors of each unit on average, once so many were proven to lie.
    pub(super) fn rate_of(&self, liars: usize) -> f64 {
        audit_rate(&crate::crowd::plain_job(&self.coarse.crowd), liars, None)
    }

    /// Draws who audits this word at the rate of now, beyond those at the rate of `before`. They are
    /// the same ones whenever it is drawn. What is no more than an audit, after all had spoken who must,
    /// is not audited in turn.
    pub(super) fn draw_auditors(&mut self, chunk: u32, word: Word, before: f64) {
        if word.kind == Kind::Audit && self.view.is_late(chunk, word) {
            return;
        }
        let seed = u64::from(word.worker) << 32 | u64::from(chunk);
        let mut chance = Chance::of_seed(self.coarse.crowd.seed ^ seed.wrapping_mul(0x9e37_79b9));
        let mut place = 0.0;
        loop {
            place += exponential(&mut chance);
            if place > self.rate {
                break;
            }
            let auditor = chance.below(self.workers.len() as u64);
            let auditor = u32::try_from(auditor).unwrap_or(0);
            if place > before && auditor != word.worker {
                self.audit(auditor, chunk, word.units, AUDIT_DELAY_MS);
            }
        }
    }

    fn audit(&mut self, auditor: u32, chunk: u32, units: u64, within_ms: u64) {
        let at = self.now + self.chance.below(within_ms + 1);
        *self.at(auditor).due.entry((at, chunk)).or_default() |= units;
        let now = self.now;
        if self.at(auditor).running.is_none() {
            self.wake_in(auditor, at - now);
        }
    }

    /// Hands a worker the next audit that is due. False if there is none.
    pub(super) fn take_audit(&mut self, worker: u32) -> bool {
        let now = self.now;
        while let Some(entry) = self.at(worker).due.first_entry() {
            let (at, chunk) = *entry.key();
            if at > now {
                return false;
            }
            let units = entry.remove();
            let takers = self.view.chunks[chunk as usize].takers.iter();
            let own = takers.filter(|(taker, _)| *taker == worker);
            let units = units & !own.fold(0, |units, (_, taken)| units | taken);
            if units != 0 {
                self.view.took(worker, chunk, units);
                let units = self.view.units_of(chunk, units);
                self.at(worker).hand.extend(units.map(|unit| (unit, Kind::Audit)));
                return true;
            }
        }
        false
    }

    /// Units are newly disputed: some are called to run them.
    pub(super) fn dispute(&mut self, chunk: u32, units: u64) {
        self.disputes.push_back((self.now, chunk));
        for _ in 0..SETTLERS {
            let called = self.chance.below(self.workers.len() as u64);
            self.audit(u32::try_from(called).unwrap_or(0), chunk, units, 0);
        }
    }

    /// Settles what waited for long enough.
    pub(super) fn settle_old(&mut self) {
        while let Some((since, chunk)) = self.disputes.front().copied() {
            if self.now < since + SUBMITTER_MS {
                break;
            }
            self.disputes.pop_front();
            self.settle(chunk, 0);
        }
    }

    /// Convicts whom the truth leads against by so many words; by none, whom it contradicts.
    pub(super) fn settle(&mut self, chunk: u32, lead: u32) {
        let at = &self.view.chunks[chunk as usize];
        let mut liars = Vec::new();
        for place in (0..64).filter(|place| at.disputed >> place & 1 == 1) {
            let bit = 1 << place;
            let on_it = || at.words.iter().filter(|word| word.units & bit != 0);
            let lies = on_it().filter(|word| word.lies & bit != 0);
            let count = u32::try_from(on_it().count()).unwrap_or(u32::MAX);
            let lying: Vec<u32> = lies.map(|word| word.worker).collect();
            let lied = u32::try_from(lying.len()).unwrap_or(u32::MAX);
            let truths = count - lied;
            if (lead == 0 && truths > 0) || truths >= lied + lead {
                liars.extend(lying);
            }
        }
        for liar in liars {
            self.convict(liar);
        }
    }

    /// A word of this worker counts no longer, and it is heard no more.
    fn convict(&mut self, liar: u32) {
        let at = self.at(liar);
        if std::mem::replace(&mut at.convicted, true) {
            return;
        }
        self.liars += 1;
        let at = self.at(liar);
        (at.waiting, at.due, at.claimed, at.hand) = Default::default();
        for chunk in std::mem::take(&mut self.at(liar).spoken) {
            self.view.unhear(chunk, liar);
            self.note_accepted(chunk);
        }
        for chunk in &mut self.view.chunks {
            chunk.seats.retain(|seat| seat.worker != liar);
        }
    }

    /// Looks at everything again if more were proven to lie.
    pub(super) fn raise_rate(&mut self) {
        let rate = self.rate_of(self.liars);
        let before = std::mem::replace(&mut self.rate, rate);
        if rate <= before {
            return;
        }
        for chunk in 0..u32::try_from(self.view.chunks.len()).unwrap_or(u32::MAX) {
            for word in self.view.chunks[chunk as usize].words.clone() {
                self.draw_auditors(chunk, word, before);
            }
        }
    }
}

/// A draw from the exponential distribution of mean 1: how far it is to the next of many rare things.
/// By von Neumann's comparison of uniform numbers, exact and without a logarithm.
fn exponential(chance: &mut Chance) -> f64 {
    let mut whole = 0.0;
    loop {
        let first = uniform(chance);
        let (mut last, mut odd) = (first, true);
        loop {
            let next = uniform(chance);
            if next >= last {
                break;
            }
            (last, odd) = (next, !odd);
        }
        if odd {
            return whole + first;
        }
        whole += 1.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponential_draws_have_their_mean_and_their_median() {
        let mut chance = Chance::of_seed(9);
        let mut drawn: Vec<f64> = (0..20_001).map(|_| exponential(&mut chance)).collect();
        let mean = drawn.iter().sum::<f64>() / 20_001.0;
        drawn.sort_unstable_by(f64::total_cmp);
        assert!((mean - 1.0).abs() < 0.03, "{mean}");
        assert!((drawn[10_000] - 0.693).abs() < 0.03, "{}", drawn[10_000]);
    }
}
