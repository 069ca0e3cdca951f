//! What this peer has seen of others' conduct.
//!
//! A peer is convicted only by what this peer itself executed, or by two statements of its own that
//! contradict each other. Nobody's word, and no vote, convicts anyone: in simulation, committees
//! that voted banned honest peers. A conviction is a *strike*: an honest machine can have one bad
//! memory cell, so it takes three to be out for good.
//!
//! Good conduct is recent work that this peer saw accepted in jobs it took part in. It halves with
//! time, one strike ends it, and nobody's praise is counted.

use std::collections::{BTreeMap, BTreeSet};

use potluck_unit::{JobId, PeerId, RecordId, ResultHash, Time};

/// Proof that a peer signed a wrong receipt. The record itself stays kept with its job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conviction {
    /// Who lied.
    pub peer: PeerId,
    /// In which job.
    pub job: JobId,
    /// On which unit.
    pub index: u32,
    /// What the liar signed.
    pub said: ResultHash,
    /// What this peer found, or what else the liar signed.
    pub found: ResultHash,
    /// The record that holds the liar's receipt.
    pub record: RecordId,
    /// When the liar signed it, by its own clock.
    pub made: Time,
}

/// What a peer has earned here, as of a time: kept over restarts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Credit {
    /// Whose it is.
    pub peer: PeerId,
    /// How many of its units this peer saw accepted, older ones counting less.
    pub units: u32,
    /// When that was so.
    pub at: Time,
}

/// How well a peer is known here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Hardly: its word alone accepts nothing, once most others are established.
    Newcomer,
    /// It did enough work that was accepted.
    Established,
    /// It did so much that it is worth more to it than any lie.
    Veteran,
}

/// Everybody this peer has proved to lie, and who did good work.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    strikes: BTreeMap<PeerId, Vec<Conviction>>,
    credits: BTreeMap<PeerId, Account>,
    /// Who is established, as of the last [`Standing::refresh`]: verdicts go by no clock.
    known: BTreeSet<PeerId>,
    /// Whether most workers are established, so that others have to prove themselves first.
    strict: bool,
}

/// Units of one peer that were accepted.
#[derive(Debug, Clone, Copy, Default)]
struct Account {
    /// As kept on disk, halved up to `at`.
    kept: f64,
    at: Time,
    /// In jobs that are on the board.
    live: u32,
}

impl Standing {
    /// Peers with strikes held at once; each strike took a run to prove.
    pub(crate) const STRUCK_MAX: usize = 100_000;
    /// After so many a peer's word never counts again.
    pub(crate) const STRIKES_MAX: usize = 3;
    /// For how long before and after a wrong receipt its signer's word does not count: bad memory is
    /// seldom bad once.
    pub(crate) const QUARANTINE_MS: u64 = 24 * 3600 * 1000;
    /// Peers with credit: as many as could be met in a month of a large grid.
    pub(crate) const CREDITS_MAX: usize = 100_000;
    /// From this many accepted units on a peer is established: less was shown in simulation to leave
    /// the cap on audits as the only bound on a sleeper.
    pub(crate) const ESTABLISHED: u64 = 100;
    /// With fewer established workers nobody has to prove itself: they could not do all the work.
    const STRICT_FROM: usize = 3;
    /// Work halves in value within 14 days.
    const HALF_LIFE_MS: f64 = 14.0 * 24.0 * 3600.0 * 1000.0;

    /// Whether this peer's word counts no longer, wherever and whenever it was given.
    pub(crate) fn is_out(&self, peer: &PeerId) -> bool {
        self.strikes(peer).len() >= Self::STRIKES_MAX
    }

    /// Whether there is any proof against this peer.
    pub(crate) fn is_liar(&self, peer: &PeerId) -> bool {
        self.strikes.contains_key(peer)
    }

    /// Whether what this peer signed at `made` on `job` does not count: because of a lie in the same
    /// job, or one about the same time, or three anywhere.
    pub(crate) fn is_dead(&self, peer: &PeerId, job: &JobId, made: Time) -> bool {
        let strikes = self.strikes(peer);
        strikes.len() >= Self::STRIKES_MAX
            || strikes.iter().any(|strike| strike.job == *job || is_near(strike.made, made))
    }

    /// The proofs against a peer.
    pub(crate) fn strikes(&self, peer: &PeerId) -> &[Conviction] {
        self.strikes.get(peer).map_or(&[], Vec::as_slice)
    }

    /// Remembers a proof. False if it is known, or beyond those that matter, or there is no room.
    pub(crate) fn convict(&mut self, conviction: Conviction) -> bool {
        let room = self.strikes.len() < Self::STRUCK_MAX || self.is_liar(&conviction.peer);
        let strikes = self.strikes(&conviction.peer);
        let known =
            |other: &Conviction| (other.job, other.index) == (conviction.job, conviction.index);
        if !room || strikes.len() >= Self::STRIKES_MAX || strikes.iter().any(known) {
            return false;
        }
        if let Some(account) = self.credits.get_mut(&conviction.peer) {
            (account.kept, account.live) = (0.0, 0);
        }
        self.strikes.entry(conviction.peer).or_default().push(conviction);
        true
    }

    /// Every conviction, by peer.
    pub(crate) fn convictions(&self) -> impl Iterator<Item = &Conviction> {
        self.strikes.values().flatten()
    }

    /// Standing that was kept before a restart.
    pub(crate) fn on_credited(&mut self, credit: &Credit) {
        if let Some(account) = self.account(&credit.peer) {
            (account.kept, account.at) = (credit.units.into(), credit.at);
        }
    }

    fn account(&mut self, peer: &PeerId) -> Option<&mut Account> {
        if self.credits.len() >= Self::CREDITS_MAX && !self.credits.contains_key(peer) {
            let least = |(_, account): &(&PeerId, &Account)| account.live + whole(account.kept);
            let poorest = self.credits.iter().min_by_key(least).map(|(peer, _)| *peer)?;
            self.credits.remove(&poorest);
        }
        Some(self.credits.entry(*peer).or_default())
    }

    /// So many more units on which this peer is right are accepted, or fewer.
    pub(crate) fn note_work(&mut self, peer: &PeerId, units: i32) {
        if self.is_liar(peer) {
            return;
        }
        if let Some(account) = self.account(peer) {
            account.live = account.live.saturating_add_signed(units);
        }
    }

    /// A job left the board: what a peer did for it is from now on kept on disk. None for a peer
    /// without any.
    pub(crate) fn settle(&mut self, now: Time, peer: &PeerId, units: u32) -> Option<Credit> {
        let account = self.credits.get_mut(peer)?;
        account.kept =
            halved(account.kept, now.ms_since(account.at)) + f64::from(units.min(account.live));
        account.at = now;
        account.live = account.live.saturating_sub(units);
        Some(Credit { peer: *peer, units: whole(account.kept), at: now })
    }

    /// Units of this peer that were accepted, old ones counted for less.
    pub(crate) fn credit(&self, now: Time, peer: &PeerId) -> u64 {
        self.credits.get(peer).map_or(0, |account| {
            let kept = halved(account.kept, now.ms_since(account.at));
            u64::from(account.live) + u64::from(whole(kept))
        })
    }

    /// How well a peer is known, for work where one unit in `1 / wrong` may be wrong.
    pub(crate) fn level(&self, now: Time, peer: &PeerId, wrong: f64) -> Level {
        match self.credit(now, peer) {
            credit if credit as f64 >= VETERAN_TIMES / wrong => Level::Veteran,
            credit if credit >= Self::ESTABLISHED => Level::Established,
            _ => Level::Newcomer,
        }
    }

    /// Looks anew at who is established. True if verdicts may change by it.
    pub(crate) fn refresh(&mut self, now: Time) -> bool {
        let known: BTreeSet<PeerId> = (self.credits.keys())
            .filter(|peer| self.credit(now, peer) >= Self::ESTABLISHED)
            .copied()
            .collect();
        let changed = self.strict && known != self.known;
        self.known = known;
        changed
    }

    /// Looks anew whether most of these workers of an open grid are established. Who has just started
    /// has not heard of many yet, and may have heard of strangers first: until it has `settled`, it
    /// takes all whom it knows for present. True if verdicts may change by it.
    pub(crate) fn weigh(&mut self, workers: &[PeerId], settled: bool) -> bool {
        let there = workers.iter().filter(|peer| self.known.contains(*peer)).count();
        let there = if settled { there } else { self.known.len() };
        // Once strict it stays so until two thirds are strangers again.
        let needed =
            if self.strict { workers.len().div_ceil(3) } else { workers.len().div_ceil(2) };
        let strict = there >= Self::STRICT_FROM && there >= needed;
        std::mem::replace(&mut self.strict, strict) != strict
    }

    /// Whether a peer's word may support a result: everybody's, as long as most are strangers.
    pub(crate) fn is_known(&self, peer: &PeerId) -> bool {
        !self.strict || self.known.contains(peer)
    }

    /// Whether most workers are established.
    pub(crate) fn is_strict(&self) -> bool {
        self.strict
    }

    /// Whether a peer is established, whatever that counts for now.
    pub(crate) fn is_established(&self, peer: &PeerId) -> bool {
        self.known.contains(peer)
    }
}

fn is_near(one: Time, other: Time) -> bool {
    one.ms_since(other).max(other.ms_since(one)) < Standing::QUARANTINE_MS
}

fn halved(units: f64, ms: u64) -> f64 {
    units * 0.5f64.powf(ms as f64 / Standing::HALF_LIFE_MS)
}

#[expect(clippy::cast_possible_truncation, reason = "clamped to what fits")]
fn whole(units: f64) -> u32 {
    units.clamp(0.0, f64::from(u32::MAX)) as u32
}

/// A veteran's standing is worth more than what a proven lie of its makes others run again.
const VETERAN_TIMES: f64 = 1.5;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn conviction(liar: u8, index: u32) -> Conviction {
        Conviction {
            peer: PeerId([liar; 32]),
            job: JobId([0; 32]),
            index,
            said: ResultHash([2; 16]),
            found: ResultHash([1; 16]),
            record: RecordId([liar; 32]),
            made: Time(1_000_000_000),
        }
    }

    const LIAR: PeerId = PeerId([7; 32]);
    const OTHER: JobId = JobId([9; 32]);

    #[test]
    fn one_strike_silences_a_peer_in_the_job_and_for_a_day() {
        let mut standing = Standing::default();
        assert!(standing.convict(conviction(7, 0)));
        let day = |days: u64| Time(1_000_000_000 + days * Standing::QUARANTINE_MS);
        assert!(standing.is_dead(&LIAR, &JobId([0; 32]), day(5)));
        assert!(standing.is_dead(&LIAR, &OTHER, day(0)));
        assert!(standing.is_dead(&LIAR, &OTHER, Time(990_000_000)));
        assert!(!standing.is_dead(&LIAR, &OTHER, day(1)));
        assert!(!standing.is_out(&LIAR));
    }

    #[test]
    fn three_strikes_are_the_end_and_a_fourth_is_not_kept() {
        let mut standing = Standing::default();
        assert!(standing.convict(conviction(7, 0)));
        assert!(!standing.convict(conviction(7, 0)), "the same unit again");
        assert!(standing.convict(conviction(7, 1)));
        assert!(!standing.is_out(&LIAR));
        assert!(standing.convict(conviction(7, 2)));
        assert!(standing.is_out(&LIAR));
        assert!(standing.is_dead(&LIAR, &OTHER, Time(u64::MAX)));
        assert!(!standing.convict(conviction(7, 3)));
        assert_eq!(standing.convictions().count(), Standing::STRIKES_MAX);
    }

    #[test]
    fn work_halves_in_a_fortnight_and_is_lost_with_the_first_strike() {
        let mut standing = Standing::default();
        for _ in 0..400 {
            standing.note_work(&LIAR, 1);
        }
        let fortnight = Time(14 * 24 * 3600 * 1000);
        assert_eq!(standing.level(Time(0), &LIAR, 1e-3), Level::Established);
        assert_eq!(standing.level(Time(0), &LIAR, 1e-2), Level::Veteran);
        assert_eq!(standing.settle(Time(0), &LIAR, 400).unwrap().units, 400);
        assert_eq!(standing.credit(fortnight, &LIAR), 200);
        standing.convict(conviction(7, 0));
        assert_eq!(standing.credit(fortnight, &LIAR), 0);
        standing.note_work(&LIAR, 1);
        assert_eq!(standing.level(fortnight, &LIAR, 1e-2), Level::Newcomer);
    }

    /// A restart is no time to get a lie in, whoever is heard of first then.
    #[test]
    fn who_has_just_started_counts_on_whom_it_knows_and_later_on_who_is_there() {
        let mut standing = Standing::default();
        let peers = |from: u8, to: u8| (from..to).map(|n| PeerId([n; 32])).collect::<Vec<_>>();
        for peer in peers(1, 6) {
            standing.on_credited(&Credit { peer, units: 500, at: Time(0) });
        }
        standing.refresh(Time(0));
        let strangers = peers(100, 104);
        assert!(standing.weigh(&strangers, false) && standing.is_strict());
        assert!(!standing.is_known(&strangers[0]) && standing.is_known(&PeerId([1; 32])));
        assert!(standing.weigh(&strangers, true) && !standing.is_strict(), "they alone came back");
        let all = [peers(1, 4), strangers].concat();
        assert!(!standing.weigh(&all, true), "three in seven are not most");
        assert!(standing.weigh(&all[..6], true) && standing.is_strict());
        assert!(!standing.weigh(&all, true) && standing.is_strict(), "no back and forth");
    }

    #[test]
    fn one_account_too_many_replaces_the_poorest() {
        let mut standing = Standing::default();
        let peer = |n: usize| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&n.to_le_bytes());
            PeerId(id)
        };
        for n in 0..Standing::CREDITS_MAX {
            let account = Account { live: u32::try_from(n).unwrap() + 1, ..Account::default() };
            standing.credits.insert(peer(n), account);
        }
        standing.note_work(&peer(Standing::CREDITS_MAX), 1);
        assert_eq!(standing.credits.len(), Standing::CREDITS_MAX);
        assert_eq!(standing.credit(Time(0), &peer(0)), 0);
        assert_eq!(standing.credit(Time(0), &peer(1)), 2);
    }
}
