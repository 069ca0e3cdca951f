//! Fair shares: whose units run next here when there is more to run than this peer can.
//!
//! A submitter's share follows from what it has done: the work of its key for this peer's jobs, less
//! what this peer did for its jobs, and all other work of its key that this peer saw accepted. A
//! small part of everybody's time is split evenly, so that strangers are served too. The donor's own
//! weights come on top. Turns go to the submitter that has had least for its share; whatever one
//! can't use, because nothing of its can run now, the others get.
//!
//! Turns start even after a restart: what one has had is worth minutes, what one has done is read
//! from the records again.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use potluck_unit::{JobId, PeerId, Time};

use crate::Peer;
use crate::board::Entry;

/// A whole, in the millionths that shares are counted in.
const WHOLE: u64 = 1_000_000;
/// What is split evenly of a whole: a free rider is served twenty times less than an only
/// contributor, and served.
const FLOOR: u64 = WHOLE / 20;
/// The donor's weight of whom it says nothing about.
const WEIGHT_USUAL: u32 = 100;
/// How often it is counted anew who has done what.
const REVIEW_MS: u64 = 5 * 60 * 1000;
/// How soon it is counted for somebody new.
const REVIEW_SOONEST_MS: u64 = 10 * 1000;
/// Units looked at in one count, those of the newest jobs first: tens of milliseconds.
const REVIEW_UNITS_MAX: u32 = 1 << 18;
/// Units looked at of one job, so that a large one leaves some for the others. Of a larger one every
/// second, third and so on stands for all.
const REVIEW_OF_JOB_MAX: u32 = REVIEW_UNITS_MAX / 4;
/// Submitters whose turns are remembered while nothing of theirs can run.
const TURNS_MAX: usize = 1024;
/// How far one may fall behind while its units can't run, in turns of the other, and in microseconds
/// of a whole machine: so much of it is made up for, the rest is gone.
const BEHIND_TURNS: u64 = 8;
const BEHIND_US: u64 = 60_000_000;
/// What an assignment counts whose units nobody has run here yet.
const UNKNOWN_US: u64 = 1_000_000;

/// Who has had how much of this peer's time.
#[derive(Debug, Default)]
pub(crate) struct Shares {
    turns: BTreeMap<PeerId, Turn>,
    /// What each of those who want something now has done, in units.
    owed: BTreeMap<PeerId, u64>,
    reviewed_at: Option<Time>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Turn {
    /// What it has had in microseconds, divided by its share.
    had: u64,
    /// In millionths, at least one.
    share: u64,
    /// Whether something of it can run now.
    active: bool,
}

impl Turn {
    fn stretched(&self, us: u64) -> u64 {
        let stretched = u128::from(us) * u128::from(WHOLE) / u128::from(self.share.max(1));
        u64::try_from(stretched).unwrap_or(u64::MAX)
    }
}

/// The shares of submitters in millionths of each other's time, for what each has done and the
/// donor's weight of it in hundredths. Nobody with a weight gets nothing.
fn shares(done: &[(u64, u32)]) -> Vec<u64> {
    let total: u128 = done.iter().map(|(units, _)| u128::from(*units)).sum();
    let count = (done.len() as u64).max(1);
    let earned = |units: u64| {
        let part = u128::from(WHOLE - FLOOR) * u128::from(units);
        // While nobody has done anything all are alike.
        let even = (WHOLE - FLOOR) / count;
        part.checked_div(total).map_or(even, |part| u64::try_from(part).unwrap_or(WHOLE))
    };
    let share = |(units, weight): &(u64, u32)| {
        let usual = earned(*units) + FLOOR / count;
        (usual.saturating_mul(u64::from(*weight)) / u64::from(WEIGHT_USUAL))
            .max(u64::from(*weight > 0))
    };
    done.iter().map(share).collect()
}

impl Shares {
    /// Who wants something now, with what each has done and the donor's weight of it.
    fn set(&mut self, wanting: &[(PeerId, u64, u32)]) {
        let done: Vec<(u64, u32)> =
            wanting.iter().map(|(_, done, weight)| (*done, *weight)).collect();
        let before = self.turns.values().filter(|turn| turn.active).map(|turn| turn.had).min();
        self.turns.values_mut().for_each(|turn| turn.active = false);
        for ((peer, ..), share) in wanting.iter().zip(shares(&done)) {
            let turn = self.turns.entry(*peer).or_insert(Turn { had: 0, share, active: true });
            // Who comes, or comes back, waits for no more than the others did, and makes up for
            // nothing: it keeps what it has had too much.
            turn.had = turn.had.max(before.unwrap_or(0));
            (turn.share, turn.active) = (share, true);
        }
        self.forget();
    }

    /// Forgets those who want nothing and have had nothing too much.
    fn forget(&mut self) {
        let active = self.turns.values().filter(|turn| turn.active);
        let least = active.map(|turn| turn.had).min().unwrap_or(0);
        self.turns.retain(|_, turn| turn.active || turn.had > least);
        self.turns.values_mut().for_each(|turn| turn.had -= least.min(turn.had));
        while self.turns.len() > TURNS_MAX {
            let idle = self.turns.iter().filter(|(_, turn)| !turn.active);
            let Some(peer) = idle.min_by_key(|(_, turn)| turn.had).map(|(peer, _)| *peer) else {
                return;
            };
            self.turns.remove(&peer);
        }
    }

    /// Units of `submitter` were run for so long.
    pub(crate) fn on_spent(&mut self, submitter: &PeerId, us: u64) {
        let Some(turn) = self.turns.get_mut(submitter) else { return };
        let more = turn.stretched(us);
        turn.had = turn.had.saturating_add(more);
        let behind = more.saturating_mul(BEHIND_TURNS).saturating_add(BEHIND_US);
        let least = turn.had.saturating_sub(behind);
        let others = self.turns.values_mut().filter(|turn| turn.active);
        others.for_each(|turn| turn.had = turn.had.max(least));
    }

    /// Where a submitter stands in the order of turns, if so much of it is on its way already.
    fn turn(&self, submitter: &PeerId, pending_us: u64) -> u64 {
        let turn = self.turns.get(submitter);
        turn.map_or(u64::MAX, |turn| turn.had.saturating_add(turn.stretched(pending_us)))
    }
}

impl Peer {
    fn weight(&self, submitter: &PeerId) -> u32 {
        self.rules().choice.weights.get(submitter).copied().unwrap_or(WEIGHT_USUAL)
    }

    /// Whether this peer may run units of a job now.
    pub(crate) fn can_run(&self, entry: &Entry) -> bool {
        entry.is_ready() && !entry.closed && !entry.is_settled() && self.may_run(entry)
    }

    /// Sets everybody's share by who wants something now.
    pub(crate) fn share_out(&mut self, now: Time) {
        let open = self.board.jobs().filter(|(_, entry)| self.can_run(entry));
        let wanting: BTreeSet<PeerId> = open.map(|(_, entry)| entry.submitter()).collect();
        // With one alone there is nothing to share.
        let due_ms = if wanting.iter().all(|peer| self.shares.owed.contains_key(peer)) {
            REVIEW_MS
        } else {
            REVIEW_SOONEST_MS
        };
        let due = self.shares.reviewed_at.is_none_or(|at| now.ms_since(at) >= due_ms);
        if wanting.len() > 1 && due {
            self.shares.owed = self.done_by(&wanting);
            self.shares.reviewed_at = Some(now);
        }
        let done = |peer: &PeerId| self.shares.owed.get(peer).copied().unwrap_or(0);
        let weight = |peer: &PeerId| self.weight(peer).max(u32::from(*peer == self.me));
        let wanting: Vec<(PeerId, u64, u32)> =
            wanting.iter().map(|peer| (*peer, done(peer), weight(peer))).collect();
        self.shares.set(&wanting);
    }

    /// What each of these has done, in accepted units: for jobs of this peer, less what this peer
    /// did for its jobs, never below nothing; and for anybody but itself.
    fn done_by(&self, wanting: &BTreeSet<PeerId>) -> BTreeMap<PeerId, u64> {
        let mut for_me: BTreeMap<PeerId, i64> = BTreeMap::new();
        let mut seen: BTreeMap<PeerId, u64> = wanting.iter().map(|peer| (*peer, 0)).collect();
        let mut newest: Vec<&Entry> = self.board.jobs().map(|(_, entry)| entry).collect();
        newest.sort_unstable_by_key(|entry| Reverse(entry.job().created));
        let mut looked = 0;
        for entry in newest {
            let submitter = entry.submitter();
            let of_one = wanting.contains(&submitter);
            let is_there = |peer: &&PeerId| entry.tally.knows(peer);
            let voted = wanting.iter().filter(is_there).any(|peer| *peer != submitter);
            let served = of_one && is_there(&&self.me);
            if !voted && !served {
                continue;
            }
            let stride = stride(entry.tally.units());
            looked += entry.tally.units() / stride;
            if looked > REVIEW_UNITS_MAX {
                break;
            }
            for (peer, units) in accepted_of(entry, stride) {
                if let Some(seen) = seen.get_mut(&peer).filter(|_| peer != submitter) {
                    *seen += units;
                }
                let units = i64::try_from(units).unwrap_or(i64::MAX);
                if submitter == self.me && peer != self.me {
                    *for_me.entry(peer).or_default() += units;
                } else if of_one && peer == self.me && submitter != self.me {
                    *for_me.entry(submitter).or_default() -= units;
                }
            }
        }
        for (peer, balance) in for_me {
            if let Some(seen) = seen.get_mut(&peer) {
                *seen += u64::try_from(balance).unwrap_or(0);
            }
        }
        seen
    }

    /// Jobs this peer can run, in the order of turns; of one submitter those of higher priority
    /// first, then the older.
    pub(crate) fn jobs_by_turn(&self) -> Vec<JobId> {
        let open = || self.board.jobs().filter(|(_, entry)| self.can_run(entry));
        let on_slots = self.runs.pending_us(UNKNOWN_US);
        let mut pending: BTreeMap<PeerId, u64> = BTreeMap::new();
        for (id, entry) in open() {
            let us = on_slots.get(id).copied().unwrap_or(0) + entry.plan.backlog_us();
            *pending.entry(entry.submitter()).or_default() += us;
        }
        let turns: BTreeMap<PeerId, u64> =
            pending.iter().map(|(peer, us)| (*peer, self.shares.turn(peer, *us))).collect();
        let mut jobs: Vec<_> = open()
            .map(|(id, entry)| {
                let (submitter, job) = (entry.submitter(), entry.job());
                let turn = turns.get(&submitter).copied();
                (turn, submitter, Reverse(job.priority), job.created, *id)
            })
            .collect();
        jobs.sort_unstable();
        jobs.into_iter().map(|(.., id)| id).collect()
    }
}

/// One in how many units of a job is looked at.
fn stride(units: u32) -> u32 {
    units.div_ceil(REVIEW_OF_JOB_MAX).max(1)
}

/// How many accepted units of a job each peer has signed for, if one in `stride` stands for all.
fn accepted_of(entry: &Entry, stride: u32) -> BTreeMap<PeerId, u64> {
    let mut units = BTreeMap::new();
    for index in (0..entry.tally.units()).step_by(stride as usize) {
        let Some(result) = entry.tally.accepted(index) else { continue };
        for (peer, _) in entry.tally.votes(index).filter(|(_, vote)| vote.result == result) {
            *units.entry(peer).or_default() += u64::from(stride);
        }
    }
    units
}

#[cfg(test)]
mod tests {
    use potluck_unit::{Job, Key, Record, Signed};

    use super::*;
    use crate::board::tests::{NOW, fetched, handle, hear, job, plain_job, receipt, worker};
    use crate::event::Event;

    fn check(done: &[(u64, u32)], expected: &[u64]) {
        assert_eq!(shares(done), expected, "{done:?}");
    }

    #[test]
    fn shares_follow_work_and_weights_over_a_floor() {
        check(&[], &[]);
        check(&[(0, 100)], &[1_000_000]);
        check(&[(7, 100)], &[1_000_000]);
        check(&[(0, 100), (0, 100)], &[500_000, 500_000]);
        // A contributor, a free rider, a stranger.
        check(&[(500, 100), (0, 100), (0, 100)], &[966_666, 16_666, 16_666]);
        // In proportion to what they have done.
        check(&[(300, 100), (100, 100)], &[737_500, 262_500]);
        // The donor's own weights.
        check(&[(0, 200), (0, 100), (0, 0)], &[666_664, 333_332, 0]);
        check(&[(u64::MAX, 100), (u64::MAX, 100)], &[500_000, 500_000]);
        // The smallest share is one.
        check(&[(0, 1)], &[10_000]);
        let many: Vec<(u64, u32)> = (0..1025).map(|n| (u64::from(n == 0), 1)).collect();
        assert!(shares(&many).iter().all(|share| *share >= 1 && *share < WHOLE));
    }

    fn peer(n: u8) -> PeerId {
        PeerId([n; 32])
    }

    /// Serves in turns of a second for so many seconds. Seconds of each.
    fn serve(shares: &mut Shares, wanting: &[u8], seconds: u64) -> BTreeMap<u8, u64> {
        let mut served = BTreeMap::new();
        for _ in 0..seconds {
            let turns = wanting.iter().map(|n| (shares.turn(&peer(*n), 0), *n));
            let next = turns.min().map_or(0, |(_, n)| n);
            shares.on_spent(&peer(next), 1_000_000);
            *served.entry(next).or_default() += 1;
        }
        served
    }

    #[test]
    fn time_is_served_in_proportion_to_shares() {
        let mut shares = Shares::default();
        shares.set(&[(peer(1), 300, 100), (peer(2), 100, 100), (peer(3), 0, 100)]);
        let served = serve(&mut shares, &[1, 2, 3], 6000);
        for (n, expected) in [(1, 4375), (2, 1525), (3, 100)] {
            assert!(served[&n].abs_diff(expected) < 20, "{served:?}");
        }
    }

    #[test]
    fn of_one_submitter_higher_priority_goes_first_and_then_the_older_job() {
        let mut donor = worker(2);
        let record = |nonce, priority, after_ms| {
            let created = NOW.plus_ms(after_ms);
            let job = Job { priority, created, ..plain_job(nonce, 100, 1) };
            Signed::sign(&Key::of_secret(&[1; 32]), Record::Job(job))
        };
        let records = [record(1, 5, 0), record(2, 5, 1), record(3, 9, 2), record(4, 0, 0)];
        for record in &records {
            hear(&mut donor, NOW, record);
            fetched(&mut donor, NOW, record.job_id().unwrap());
        }
        let expected = [2, 0, 1, 3].map(|n: usize| records[n].job_id().unwrap());
        assert_eq!(donor.jobs_by_turn(), expected);
    }

    #[test]
    fn of_a_job_too_large_to_be_counted_a_part_stands_for_all() {
        for (units, one_in) in [(1, 1), (65_536, 1), (65_537, 2), (1_000_000, 16)] {
            assert_eq!(stride(units), one_in);
            assert!(units / one_in <= REVIEW_OF_JOB_MAX);
        }
        let (mut donor, record) = (worker(2), job(1, 10, 1));
        let id = record.job_id().unwrap();
        hear(&mut donor, NOW, &record);
        (0..10).for_each(|index| drop(hear(&mut donor, NOW, &receipt(id, 5, index, 1))));
        let five = Key::of_secret(&[5; 32]).id();
        let entry = donor.board.get(&id).unwrap();
        assert_eq!([1, 2, 5].map(|stride| accepted_of(entry, stride)[&five]), [10; 3]);
    }

    #[test]
    fn work_for_ones_own_jobs_earns_nothing_and_work_for_others_does() {
        let mut donor = worker(2);
        let (own, others) = (job(5, 10, 1), job(6, 10, 1));
        for record in [&own, &others] {
            hear(&mut donor, NOW, record);
        }
        let done = |donor: &Peer| {
            let wanting = [5, 6, 7].map(|n| Key::of_secret(&[n; 32]).id());
            let done = donor.done_by(&BTreeSet::from(wanting));
            wanting.map(|peer| done[&peer])
        };
        (0..8).for_each(|index| {
            drop(hear(&mut donor, NOW, &receipt(own.job_id().unwrap(), 5, index, 1)))
        });
        assert_eq!(done(&donor), [0, 0, 0]);
        (0..3).for_each(|index| {
            drop(hear(&mut donor, NOW, &receipt(others.job_id().unwrap(), 5, index, 1)))
        });
        assert_eq!(done(&donor), [3, 0, 0]);
    }

    #[test]
    fn what_a_peer_did_for_another_is_set_off_against_what_that_one_did_for_it() {
        let mut donor = worker(2);
        let (mine, theirs) = (job(2, 10, 1), job(5, 10, 1));
        handle(&mut donor, NOW, Event::Submitted { record: mine.clone() });
        hear(&mut donor, NOW, &theirs);
        let five = Key::of_secret(&[5; 32]).id();
        let done = |donor: &Peer| donor.done_by(&BTreeSet::from([five]))[&five];
        (0..6).for_each(|index| {
            drop(hear(&mut donor, NOW, &receipt(mine.job_id().unwrap(), 5, index, 1)))
        });
        assert_eq!(done(&donor), 12, "six that were seen, and a balance of six");
        (0..4).for_each(|index| {
            drop(hear(&mut donor, NOW, &receipt(theirs.job_id().unwrap(), 2, index, 1)))
        });
        assert_eq!(done(&donor), 8);
        (4..9).for_each(|index| {
            drop(hear(&mut donor, NOW, &receipt(theirs.job_id().unwrap(), 2, index, 1)))
        });
        assert_eq!(done(&donor), 6, "never below nothing");
    }

    #[test]
    fn who_comes_late_has_its_share_and_makes_up_for_nothing() {
        let mut shares = Shares::default();
        shares.set(&[(peer(1), 0, 100), (peer(2), 0, 100)]);
        serve(&mut shares, &[1, 2], 10_000);
        shares.set(&[(peer(1), 0, 100), (peer(2), 0, 100), (peer(3), 0, 100)]);
        let served = serve(&mut shares, &[1, 2, 3], 300);
        assert!(served.values().all(|seconds| (98..=102).contains(seconds)), "{served:?}");
    }

    #[test]
    fn idle_time_that_a_free_rider_had_is_not_held_against_it_for_long() {
        let mut shares = Shares::default();
        shares.set(&[(peer(1), 100, 100), (peer(2), 0, 100)]);
        // Nothing of the contributor's can be claimed for two hours.
        serve(&mut shares, &[2], 7200);
        let served = serve(&mut shares, &[1, 2], 1200);
        assert!((20..=32).contains(&served[&2]), "{served:?}");
    }

    #[test]
    fn who_cancels_and_comes_back_keeps_what_it_had_too_much() {
        let mut shares = Shares::default();
        let both = [(peer(1), 100, 100), (peer(2), 0, 100)];
        shares.set(&both);
        serve(&mut shares, &[2], 2);
        let before = shares.turn(&peer(2), 0) - shares.turn(&peer(1), 0);
        shares.set(&both[..1]);
        shares.set(&both);
        assert_eq!(shares.turn(&peer(2), 0) - shares.turn(&peer(1), 0), before);
    }

    #[test]
    fn one_remembered_turn_too_many_is_forgotten() {
        let mut shares = Shares::default();
        let name = |n: usize| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&n.to_le_bytes());
            PeerId(id)
        };
        let all: Vec<_> = (0..=TURNS_MAX + 1).map(|n| (name(n), 0, 100)).collect();
        shares.set(&all);
        (1..all.len()).for_each(|n| shares.on_spent(&name(n), n as u64));
        shares.set(&all[..1]);
        assert_eq!(shares.turns.len(), TURNS_MAX);
        assert!(shares.turns.contains_key(&name(0)) && !shares.turns.contains_key(&name(1)));
    }
}
