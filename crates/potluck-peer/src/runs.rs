//! Runs: what is on the slots of this peer, and the receipts of what has ended.
//!
//! Receipts wait a moment so that many travel under one signature, and go at once when nothing more
//! is running for their job.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use potluck_unit::{
    JobId, NoResult, Receipt, ReceiptBatch, Record, Seat, Signed, Statement, Time, UnitId,
};

use crate::Peer;
use crate::action::{Action, Actions, News};
use crate::event::{Ran, Report};
use crate::tally::Own;
use crate::timers::Timer;

/// How long a finished run may wait for its receipt to be signed, at least and at most; in between
/// it is a twentieth of the time that the job has been going. Every peer gets every record: a unit
/// more in a batch costs 36 bytes, a batch more 200. A crash loses what waits.
pub const FLUSH_AFTER_MS: (u64, u64) = (200, 10_000);
/// Receipts that are signed without waiting.
const FLUSH_AT: usize = 256;
/// A slot that had nothing of a job for so long begins with it anew.
const STINT_PAUSE_MAX_MS: u64 = 5_000;

/// What is on the slots, and what waits to be signed.
#[derive(Debug)]
pub(crate) struct Runs {
    slots: Vec<VecDeque<Assignment>>,
    /// What each slot has been at.
    stints: Vec<Stint>,
    waiting: BTreeMap<(JobId, Right), Waiting>,
    units_run: u64,
}

/// What a slot has been at without a break.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Stint {
    job: Option<JobId>,
    pub(crate) since: Time,
    /// Units that have ended since.
    pub(crate) units: u64,
    /// When it last ended any.
    last: Time,
}

/// Units given to a slot together.
#[derive(Debug)]
pub(crate) struct Assignment {
    pub(crate) job: JobId,
    pub(crate) units: BTreeSet<u32>,
    right: Right,
    /// Whether others heard that this peer runs them: nobody may know of an audit.
    claimed: bool,
    pub(crate) cost_us: Option<u64>,
}

impl Assignment {
    pub(crate) fn new(
        job: JobId,
        units: &[u32],
        right: Right,
        claimed: bool,
        cost_us: Option<u64>,
    ) -> Assignment {
        Assignment { job, units: units.iter().copied().collect(), right, claimed, cost_us }
    }
}

/// By which right this peer runs units: what their receipts will say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Right {
    /// By the public lottery.
    Public,
    /// By what it drew for this chunk.
    Drawn(u32),
    /// By none.
    Extra,
}

/// What is said of a unit, with its body if that is small.
type Said = (Statement, Option<Arc<[u8]>>);

#[derive(Debug, Default)]
struct Waiting {
    receipts: BTreeMap<u32, Said>,
    spent_us: u64,
}

impl Runs {
    /// Nothing running on so many slots.
    pub(crate) fn new(slots: u16) -> Runs {
        Runs {
            slots: (0..slots).map(|_| VecDeque::new()).collect(),
            stints: vec![Stint::default(); slots.into()],
            waiting: BTreeMap::new(),
            units_run: 0,
        }
    }

    pub(crate) fn slots(&self) -> u16 {
        u16::try_from(self.slots.len()).unwrap_or(u16::MAX)
    }

    /// How many slots have something to run.
    pub(crate) fn busy(&self) -> usize {
        self.slots.iter().filter(|queue| !queue.is_empty()).count()
    }

    pub(crate) fn is_busy(&self) -> bool {
        self.busy() > 0
    }

    pub(crate) fn units_run(&self) -> u64 {
        self.units_run
    }

    /// Whether a slot should be given more: it has nothing, or little enough that it would run dry
    /// before it could be given more.
    pub(crate) fn has_room(&self, slot: u16, queue_max: usize, nearly_done_us: u64) -> bool {
        let Some(queue) = self.slots.get(usize::from(slot)) else { return false };
        let short =
            |assignment: &Assignment| assignment.cost_us.is_some_and(|cost| cost <= nearly_done_us);
        queue.is_empty() || (queue.len() < queue_max && queue.iter().all(short))
    }

    /// A slot is given units.
    pub(crate) fn assign(&mut self, now: Time, slot: u16, assignment: Assignment) {
        let at = usize::from(slot);
        let (Some(queue), Some(stint)) = (self.slots.get_mut(at), self.stints.get_mut(at)) else {
            return;
        };
        let pause_ms = if queue.is_empty() { now.ms_since(stint.last) } else { 0 };
        if stint.job != Some(assignment.job) || pause_ms > STINT_PAUSE_MAX_MS {
            *stint = Stint { job: Some(assignment.job), since: now, units: 0, last: now };
        }
        queue.push_back(assignment);
    }

    /// What a slot was given and has not finished, and what it has been at.
    pub(crate) fn on_slot(&self, slot: u16) -> (&VecDeque<Assignment>, Stint) {
        static NOTHING: VecDeque<Assignment> = VecDeque::new();
        let at = usize::from(slot);
        let stint = self.stints.get(at).copied().unwrap_or_default();
        (self.slots.get(at).unwrap_or(&NOTHING), stint)
    }

    /// Claimed units on a slot, by job.
    pub(crate) fn claimed_on(&self, slot: u16) -> BTreeMap<JobId, (BTreeSet<u32>, Right)> {
        let mut claimed: BTreeMap<JobId, (BTreeSet<u32>, Right)> = BTreeMap::new();
        for assignment in self.on_slot(slot).0.iter().filter(|assignment| assignment.claimed) {
            let none = (BTreeSet::new(), assignment.right);
            claimed.entry(assignment.job).or_insert(none).0.extend(&assignment.units);
        }
        claimed
    }

    /// Whether nothing is left to run or to sign.
    pub(crate) fn is_done(&self) -> bool {
        !self.is_busy() && self.waiting.is_empty()
    }

    /// How long what slots were given of each job will take, each assignment of unknown cost taken
    /// for `unknown_us`.
    pub(crate) fn pending_us(&self, unknown_us: u64) -> BTreeMap<JobId, u64> {
        let mut pending = BTreeMap::new();
        for assignment in self.slots.iter().flatten() {
            *pending.entry(assignment.job).or_default() += assignment.cost_us.unwrap_or(unknown_us);
        }
        pending
    }

    /// Stops the slots that run or hold units of `job`: nobody wants them any more. What else a slot
    /// held comes back as not run.
    pub(crate) fn stop(&self, job: &JobId, actions: &mut Actions) {
        for (slot, queue) in (0..).zip(&self.slots) {
            if queue.iter().any(|assignment| assignment.job == *job) {
                actions.push(Action::Stop { slot });
            }
        }
    }

    /// Whether a unit runs or waits on a slot.
    pub(crate) fn holds(&self, job: &JobId, index: u32) -> bool {
        let mut all = self.slots.iter().flatten().filter(|assignment| assignment.job == *job);
        all.any(|assignment| assignment.units.contains(&index))
    }

    fn runs_for(&self, job: &JobId) -> bool {
        self.slots.iter().flatten().any(|assignment| assignment.job == *job)
    }
}

impl Peer {
    /// Runs ended on a slot.
    pub(crate) fn on_ran(&mut self, now: Time, ran: Ran, actions: &mut Actions) {
        let Some(queue) = self.runs.slots.get_mut(usize::from(ran.slot)) else { return };
        let Some(assignment) = queue.front_mut().filter(|front| front.job == ran.job) else {
            return;
        };
        // What the donor stopped has not been tried: it stays among what was not run after all.
        let reports: Vec<Report> = (ran.reports.into_iter())
            .filter(|report| !matches!(report.result, Err(NoResult::Stopped)))
            .filter(|report| assignment.units.remove(&report.index))
            .collect();
        let right = assignment.right;
        let ended = if ran.done { queue.pop_front() } else { None };
        self.runs.units_run += reports.len() as u64;
        if let Some(stint) = self.runs.stints.get_mut(usize::from(ran.slot)) {
            stint.units += reports.len() as u64;
            stint.last = now;
        }
        if let Some(entry) = self.board.get_mut(&ran.job) {
            self.shares.on_spent(&entry.submitter(), ran.spent_us);
            if !reports.is_empty() {
                entry.plan.note_cost(reports.len() as u64, ran.spent_us);
            }
            for report in &reports {
                entry.plan.note_done(report.index);
            }
            // Whatever was not run after all may be run again, here or elsewhere.
            for index in ended.into_iter().flat_map(|ended| ended.units) {
                entry.plan.note_done(index);
                if entry.tally.own(index).is_none() {
                    entry.tally.note_ran(index, false);
                    entry.plan.reopen(index);
                }
            }
        }
        let units = reports.len() as u64;
        for report in reports {
            let spent_us = ran.spent_us / units;
            self.on_report(now, (ran.job, right), report, spent_us, actions);
        }
        self.plan_due = true;
        self.on_slot_ended(ran.slot);
        let full = (self.runs.waiting.get(&(ran.job, right)))
            .is_some_and(|waiting| waiting.receipts.len() >= FLUSH_AT);
        let job = self.board.get(&ran.job).map(|entry| (entry.job().created, entry.is_small()));
        let (created, small) = job.unwrap_or((now, true));
        if small && !self.runs.runs_for(&ran.job) {
            self.flush_job(now, &ran.job, actions);
        } else if full {
            self.flush(now, (ran.job, right), actions);
        } else if !self.runs.waiting.is_empty() {
            let (least, most) = FLUSH_AFTER_MS;
            let age_ms = if small { 0 } else { now.ms_since(created) };
            self.timers.at_latest(Timer::Flush, now.plus_ms((age_ms / 20).clamp(least, most)));
        }
    }

    /// Signs what waits for a job of which nothing is left to run here for now.
    pub(crate) fn flush_idle(&mut self, now: Time, actions: &mut Actions) {
        let idle = |(job, _): &&(JobId, Right)| !self.runs.runs_for(job);
        let waiting = self.runs.waiting.keys().filter(idle).copied();
        for key in waiting.collect::<Vec<_>>() {
            self.flush(now, key, actions);
        }
    }

    fn on_report(
        &mut self,
        now: Time,
        (job, right): (JobId, Right),
        report: Report,
        spent_us: u64,
        actions: &mut Actions,
    ) {
        let (me, index) = (self.me, report.index);
        let Some(entry) = self.board.get_mut(&job) else { return };
        if entry.doubts.remove(&index) {
            return self.on_second_run(now, &job, &report, actions);
        }
        let statement = match report.result {
            Ok((result, witness)) => {
                let own = Own { result, witness: Some(witness), sure: false };
                entry.tally.note_own(index, own);
                let digest = witness.work_digest(&me, &UnitId::of(&job, index));
                Statement::Outcome { result, digest }
            }
            Err(why) => Statement::NoResult(why),
        };
        // Somebody's batch carried the body already. Who only signed the result may not have it.
        let carried = matches!(statement,
            Statement::Outcome { result, .. } if entry.tally.is_carried(index, result));
        let made = match statement {
            Statement::Outcome { result, .. } if report.body.is_none() => Some(result),
            Statement::Outcome { .. } | Statement::NoResult(_) => None,
        };
        let body = report.body.filter(|_| !carried);
        let waiting = self.runs.waiting.entry((job, right)).or_default();
        waiting.receipts.insert(index, (statement, body));
        waiting.spent_us += spent_us;
        if let Some(result) = made {
            self.shelve(&job, index, result, actions);
        }
        self.check_against_own(now, &job, index, actions);
        self.weigh_accusations(&job, index);
    }

    /// A unit was run again because others contradict what this peer found. If it comes to the same,
    /// they are wrong; if not, no word of this machine on this module convicts anyone.
    fn on_second_run(&mut self, now: Time, job: &JobId, report: &Report, actions: &mut Actions) {
        let Some(entry) = self.board.get_mut(job) else { return };
        let (Some(first), Ok((result, witness))) = (entry.tally.own(report.index), report.result)
        else {
            return;
        };
        let same = first.result == result && first.witness.is_none_or(|before| before == witness);
        if same {
            let own = Own { result, witness: Some(witness), sure: true };
            entry.tally.note_own(report.index, own);
            self.check_against_own(now, job, report.index, actions);
            self.weigh_accusations(job, report.index);
        } else {
            entry.unsteady = true;
            actions.tell(News::Unsteady { job: *job, index: report.index });
        }
    }

    /// Signs what waits, of every job.
    pub(crate) fn flush_all(&mut self, now: Time, actions: &mut Actions) {
        let waiting: Vec<(JobId, Right)> = self.runs.waiting.keys().copied().collect();
        for key in waiting {
            self.flush(now, key, actions);
        }
    }

    fn flush_job(&mut self, now: Time, job: &JobId, actions: &mut Actions) {
        let waiting = self.runs.waiting.keys().filter(|(of, _)| of == job);
        for key in waiting.copied().collect::<Vec<_>>() {
            self.flush(now, key, actions);
        }
    }

    fn flush(&mut self, now: Time, (job, right): (JobId, Right), actions: &mut Actions) {
        let Some(waiting) = self.runs.waiting.remove(&(job, right)) else { return };
        let (seat, draw) = match right {
            Right::Public => (Seat::Public, None),
            Right::Extra => (Seat::Extra, None),
            Right::Drawn(chunk) => {
                let (proof, draw) = self.config.draw(&self.key, &job.draw_input(chunk));
                (Seat::Drawn { chunk, proof }, Some(draw))
            }
        };
        for mut batch in batches(&ReceiptBatch::new(job, now, seat), waiting) {
            batch.identity = self.config.identity;
            let record = Signed::sign(&self.key, Record::Receipts(batch));
            if self.on_receipts(now, &record, draw, actions) {
                self.spread(now, &record, None, actions);
            }
        }
    }
}

/// Cuts what waits into batches within their bounds.
fn batches(empty: &ReceiptBatch, waiting: Waiting) -> Vec<ReceiptBatch> {
    let each_us = waiting.spent_us / (waiting.receipts.len() as u64).max(1);
    let empty = || empty.clone();
    let (mut batches, mut batch, mut bytes) = (Vec::new(), empty(), 0);
    let mut carried = BTreeSet::new();
    for (index, (statement, body)) in waiting.receipts {
        let body = body
            .filter(|body| body.len() <= ReceiptBatch::BODY_BYTES_MAX && !carried.contains(body));
        let more = body.as_ref().map_or(0, |body| body.len());
        if batch.receipts.len() == ReceiptBatch::ENTRIES_MAX
            || bytes + more > ReceiptBatch::BODIES_BYTES_MAX
        {
            batches.push(std::mem::replace(&mut batch, empty()));
            (bytes, carried) = (0, BTreeSet::new());
        }
        batch.receipts.push(Receipt { index, statement });
        if let Some(body) = body {
            bytes += more;
            batch.bodies.push(body.to_vec());
            carried.insert(body);
        }
    }
    if !batch.receipts.is_empty() {
        batches.push(batch);
    }
    for batch in &mut batches {
        let spent_ms = each_us * batch.receipts.len() as u64 / 1000;
        batch.spent_ms = u32::try_from(spent_ms).unwrap_or(u32::MAX);
    }
    batches
}

#[cfg(test)]
mod tests {
    use potluck_unit::{BlobId, WorkDigest};

    use super::*;

    #[test]
    fn batches_stay_within_their_bounds_and_lose_nothing() {
        let receipts = (0..3000u32).map(|index| {
            let body: Arc<[u8]> = vec![(index % 251) as u8; 200 + index as usize % 400].into();
            let result = BlobId::of(&body).result_hash();
            let statement = Statement::Outcome { result, digest: WorkDigest([0; 16]) };
            (index, (statement, Some(body)))
        });
        let empty = ReceiptBatch::new(JobId([1; 32]), Time(1), Seat::Public);
        let waiting = Waiting { receipts: receipts.collect(), spent_us: 6_000_000 };
        let batches = batches(&empty, waiting);
        let count: usize = batches.iter().map(|batch| batch.receipts.len()).sum();
        assert_eq!(count, 3000);
        assert_eq!(batches[0].spent_ms as usize, 2 * batches[0].receipts.len());
        for batch in batches {
            assert!(batch.receipts.len() <= ReceiptBatch::ENTRIES_MAX);
            assert!(
                batch.bodies.iter().map(Vec::len).sum::<usize>() <= ReceiptBatch::BODIES_BYTES_MAX
            );
            assert_eq!(ReceiptBatch::of_tail(&batch.head(), &batch.tail()), Ok(batch));
        }
    }
}
