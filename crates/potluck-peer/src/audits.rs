//! Audits: running again what others say they ran, unasked and unannounced.
//!
//! Whether a peer audits a worker's units of a chunk follows from what it drew in secret for that
//! chunk: nobody knows its auditors before they have spoken. How often somebody does is decided by
//! the job's quality, by how many were proven to lie in the job, and, where one copy is enough, by
//! how much the worker has to lose.

use std::collections::{BTreeMap, BTreeSet};

use potluck_unit::{Job, JobId, PeerId, Quality, Signed, Time};

use crate::Peer;
use crate::board::Entry;
use crate::lending::Room;
use crate::seats::AUDITORS_MAX;
use crate::standing::Standing;
use crate::tally::places;
use crate::timers::Timer;

/// What this peer is to audit in one job.
#[derive(Debug, Default)]
pub(crate) struct Audits {
    /// Units by chunk, and when.
    due: BTreeMap<u32, (Time, u64)>,
    /// The next chunk to consider again, while all are.
    review: Option<u32>,
    /// When everything was last to be considered again: audits that follow take their time too.
    pub(crate) review_at: Time,
    /// Peers proven to lie in this job, as far as they raise the rate.
    pub(crate) liars: BTreeSet<PeerId>,
    /// Those whom a great majority contradicts where this peer neither ran the unit nor is called to:
    /// they raise the rate too. A proof is held by few; if only those few looked at everything again,
    /// hardly anybody would in a large grid.
    suspects: BTreeSet<PeerId>,
}

/// Proven liars that raise a job's audit rate: it is at its highest long before.
pub(crate) const LIARS_MAX: usize = 1024;
/// An audit begins within this time, so that its answer does not tell who was about to audit.
pub const DELAY_MS: u64 = 2000;
/// Chunks considered again in one turn: each costs a draw, as much as a few signatures.
const REVIEW_MAX: usize = 64;
/// The share of cheats that is reckoned with: a third.
const CHEATS: f64 = 1.0 / 3.0;

/// Where several copies must agree, liars raise the rate to so many times the usual at most: they
/// must have owned all the seats of a unit to get anything accepted there.
const AGREED_TIMES: f64 = 2.5;

/// How many units in one may be wrong for this quality, in the long run.
pub(crate) fn wrong_share(quality: Quality) -> f64 {
    match quality {
        Quality::Bulk => 1e-3,
        Quality::Standard => 1e-4,
        Quality::Critical => 1e-6,
    }
}

/// How many auditors each unit has at most while nobody was proven to lie: what is lost to more is
/// more than small jobs gain. The long run is held by standing.
fn usual_max(quality: Quality) -> f64 {
    match quality {
        Quality::Bulk => 0.1,
        Quality::Standard => 0.2,
        Quality::Critical => 1.0,
    }
}

/// Auditors a unit needs so that a coalition expects no more than `tolerated` wrong units in the job
/// to survive, when `liars` of its members were proven to lie: `ln(1 + (d + 1/2) / omega) / (1 - f)`.
/// Wrong shares found by this in simulation are 0.3 to 2 times the tolerated one, whence the half.
fn job_rate(job: &Job, liars: usize) -> f64 {
    let tolerated = wrong_share(job.quality) * f64::from(job.units) / 2.0;
    let rate = |liars: f64| (1.0 + (liars + 0.5) / tolerated).ln() / (1.0 - CHEATS);
    match liars {
        0 => rate(0.0).min(usual_max(job.quality)),
        liars => rate(liars as f64),
    }
}

/// Auditors a worker's units need so that however long it behaves before it lies, no more than the
/// wanted share of its units is wrong in the long run: `ln(1 + 1 / (eps R)) / (1 - f)`.
fn worker_rate(job: &Job, credit: u64) -> f64 {
    let lost = wrong_share(job.quality) * credit.max(1) as f64;
    (1.0 + 1.0 / lost).ln() / (1.0 - CHEATS)
}

/// Auditors that each of these units is to have on average.
pub fn rate(job: &Job, liars: usize, credit: Option<u64>) -> f64 {
    let by_worker =
        credit.filter(|_| job.copies == 1).map_or(0.0, |credit| worker_rate(job, credit));
    let most = if job.copies == 1 { AUDITORS_MAX } else { AGREED_TIMES * usual_max(job.quality) };
    // Whoever spoke is audited each for itself.
    job_rate(job, liars).max(by_worker).min(most) / f64::from(job.copies)
}

impl Peer {
    /// Somebody signed results: whether this peer is to audit some of them.
    pub(crate) fn consider(&mut self, now: Time, id: &JobId, record: &Signed) {
        let potluck_unit::Record::Receipts(batch) = record.record() else { return };
        let Some(entry) = self.board.get(id) else { return };
        let chunks: BTreeSet<u32> =
            batch.receipts.iter().map(|receipt| entry.tally.chunk_of(receipt.index)).collect();
        for chunk in chunks {
            self.consider_chunk(now, id, chunk, Some(record.signer()));
        }
    }

    /// Considers everything again, a part in each turn, after the rate has risen or the module has
    /// come.
    pub(crate) fn consider_all(&mut self, now: Time, id: &JobId) {
        if let Some(entry) = self.board.get_mut(id) {
            (entry.audits.review, entry.audits.review_at) = (Some(0), now);
            self.timers.at_latest(Timer::Plan, now);
        }
    }

    /// Considers some more chunks of the jobs that are to be considered again.
    pub(crate) fn review_audits(&mut self, now: Time) {
        let mut left = REVIEW_MAX;
        for id in self.board.job_ids() {
            let Some(entry) = self.board.get_mut(&id) else { continue };
            entry.heed_suspects(now, &self.standing);
            let Some(from) = entry.audits.review else { continue };
            let begun = (from..entry.job().chunks()).filter(|chunk| entry.tally.is_begun(*chunk));
            let chunks: Vec<u32> = begun.take(left + 1).collect();
            entry.audits.review = chunks.get(left).copied();
            if entry.audits.review.is_some() {
                self.timers.at_latest(Timer::Plan, now.plus_ms(1));
            }
            for chunk in chunks.into_iter().take(left) {
                left -= 1;
                self.consider_chunk(now, &id, chunk, None);
            }
        }
    }

    fn consider_chunk(&mut self, now: Time, id: &JobId, chunk: u32, only: Option<PeerId>) {
        let me = self.me;
        let Some(entry) = self.board.get(id) else { return };
        if !self.lends() || !self.may_run(entry) || entry.closed || !entry.is_ready() {
            return;
        }
        let (tally, standing) = (&entry.tally, &self.standing);
        let peers: BTreeSet<PeerId> = tally.workers_of(chunk).map(|(peer, _)| peer).collect();
        let workers: Vec<(PeerId, u64)> = (peers.into_iter())
            .filter(|peer| *peer != me && only.is_none_or(|only| only == *peer))
            .map(|peer| (peer, tally.audited_of(chunk, &peer, standing)))
            .filter(|(_, units)| units & !tally.ran(chunk) != 0)
            .collect();
        if workers.is_empty() {
            return;
        }
        let draw = match entry.draws.get(&chunk) {
            Some(draw) => *draw,
            None => self.config.draw(&self.key, &id.draw_input(chunk)).1,
        };
        let mut units = 0;
        for (worker, signed) in workers {
            let credit = self.standing.is_strict().then(|| self.standing.credit(now, &worker));
            let liars = entry.audits.liars.union(&entry.audits.suspects).count();
            let rate = rate(entry.job(), liars, credit);
            if entry.tally.windows().audits(draw.audit_ticket(&worker), rate) {
                units |= signed;
            }
        }
        let at = now.plus_ms(self.chance.below(DELAY_MS));
        let Some(entry) = self.board.get_mut(id) else { return };
        entry.draws.insert(chunk, draw);
        if units != 0 {
            let (due, wanted) = entry.audits.due.entry(chunk).or_insert((at, 0));
            *wanted |= units;
            self.timers.at_latest(Timer::Plan, *due);
        }
    }

    /// The next audit that is due and has room: units of one chunk.
    pub(crate) fn next_audit(&mut self, now: Time, room: Room) -> Option<(JobId, Vec<u32>, u32)> {
        for id in self.board.job_ids() {
            let Some(entry) = self.board.get_mut(&id) else { continue };
            if !entry.chosen || !room.fits(entry.job()) {
                continue;
            }
            let due = |(_, (at, _)): &(&u32, &(Time, u64))| *at <= now;
            while let Some(chunk) = entry.audits.due.iter().find(due).map(|(chunk, _)| *chunk) {
                let Some((_, wanted)) = entry.audits.due.remove(&chunk) else { break };
                let units = entry.audited(chunk, wanted);
                if !units.is_empty() && !entry.closed {
                    return Some((id, units, chunk));
                }
            }
        }
        None
    }

    /// When the next audit is due.
    pub(crate) fn audit_at(&self) -> Option<Time> {
        let due = self.board.jobs().flat_map(|(_, entry)| entry.audits.due.values());
        due.map(|(at, _)| *at).min()
    }
}

impl Entry {
    /// Counts those whom a great majority contradicts among the liars of the job, and looks at
    /// everything again if there are new ones. Who they are may change: who was counted stays so.
    fn heed_suspects(&mut self, now: Time, standing: &Standing) {
        let weighty = |peer: &PeerId| !standing.is_strict() || standing.is_established(peer);
        let before = self.audits.suspects.len();
        let room = LIARS_MAX.saturating_sub(before);
        let fresh = |peer: &PeerId| !self.audits.suspects.contains(peer);
        let suspects: Vec<PeerId> =
            self.tally.suspects().filter(weighty).filter(fresh).take(room).collect();
        self.audits.suspects.extend(suspects);
        if self.audits.suspects.len() > before {
            (self.audits.review, self.audits.review_at) = (Some(0), now);
        }
    }

    /// Units of a chunk that are still worth an audit.
    fn audited(&self, chunk: u32, wanted: u64) -> Vec<u32> {
        let first = chunk * self.job().chunk_units();
        places(wanted & !self.tally.ran(chunk)).map(|place| first + u32::from(place)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::tests::{NOW, fetched, handle, hear, receipt, worker};
    use crate::event::Event;

    fn job(quality: Quality, units: u32) -> Job {
        let mut job = crate::board::tests::plain_job(0, units, 1);
        job.quality = quality;
        job
    }

    fn check(quality: Quality, units: u32, liars: usize, credit: Option<u64>, expected: f64) {
        let rate = rate(&job(quality, units), liars, credit);
        assert!((rate - expected).abs() < 0.01, "{rate} instead of {expected}");
    }

    #[test]
    fn a_calm_job_is_audited_as_its_quality_says() {
        check(Quality::Bulk, 100_000, 0, None, 0.015);
        check(Quality::Bulk, 1000, 0, None, 0.1);
        check(Quality::Standard, 100_000, 0, None, 0.143);
        check(Quality::Standard, 100, 0, None, 0.2);
        check(Quality::Critical, 1000, 0, None, 1.0);
    }

    #[test]
    fn every_proven_liar_raises_the_rate_of_the_whole_job() {
        check(Quality::Bulk, 100_000, 1, None, 0.044);
        check(Quality::Bulk, 100_000, 20, None, 0.515);
        check(Quality::Bulk, 100, 1, None, AUDITORS_MAX);
    }

    #[test]
    fn a_job_of_several_copies_is_not_run_five_times_for_one_liar() {
        let job = Job { copies: 2, ..job(Quality::Standard, 1000) };
        assert!((rate(&job, 0, None) - 0.1).abs() < 1e-9);
        assert!((rate(&job, 1, None) - 0.25).abs() < 1e-9);
    }

    #[test]
    fn a_worker_is_audited_less_the_more_it_has_to_lose() {
        check(Quality::Bulk, 100_000, 0, Some(0), AUDITORS_MAX);
        check(Quality::Bulk, 100_000, 0, Some(1000), 1.04);
        check(Quality::Bulk, 100_000, 0, Some(100_000), 0.015);
    }

    #[test]
    fn whom_a_great_majority_contradicts_raises_the_rate_and_puts_off_what_is_final() {
        let (mut peer, record) = (worker(2), crate::board::tests::lasting(1, 4, 1));
        let id = record.job_id().unwrap();
        hear(&mut peer, NOW, &record);
        for (n, said) in [(5, 1), (6, 1), (7, 1), (8, 1), (9, 2)] {
            assert!(peer.board.get(&id).unwrap().audits.suspects.is_empty());
            hear(&mut peer, NOW.plus_ms(1), &receipt(id, n, 0, said));
        }
        let audits = &peer.board.get(&id).unwrap().audits;
        let liar = potluck_unit::Key::of_secret(&[9; 32]).id();
        assert_eq!(audits.suspects, BTreeSet::from([liar]));
        assert_eq!(audits.review_at, NOW.plus_ms(1));
        handle(&mut peer, NOW.plus_ms(6000), Event::Woke);
        assert_eq!(peer.job(&id).unwrap().counts.finals, 0);
        handle(&mut peer, NOW.plus_ms(20_000), Event::Woke);
        assert_eq!(peer.job(&id).unwrap().counts.finals, 1);
    }

    #[test]
    fn a_job_that_is_considered_again_takes_no_more_draws_in_a_turn_than_are_bounded() {
        let mut peer = worker(2);
        let units = 2 * REVIEW_MAX as u32 + 1;
        let record = crate::board::tests::job(1, units, 1);
        let id = record.job_id().unwrap();
        hear(&mut peer, NOW, &record);
        (0..units).for_each(|index| drop(hear(&mut peer, NOW, &receipt(id, 5, index, 7))));
        let drawn = |peer: &Peer| peer.board.get(&id).unwrap().draws.len();
        assert_eq!(drawn(&peer), 0, "there is nothing to run yet");
        fetched(&mut peer, NOW, id);
        assert_eq!(drawn(&peer), REVIEW_MAX);
        for turn in 1..=2 {
            handle(&mut peer, NOW.plus_ms(turn), Event::Woke);
        }
        assert_eq!(drawn(&peer), units as usize);
        assert!(peer.board.get(&id).unwrap().audits.review.is_none());
    }
}
