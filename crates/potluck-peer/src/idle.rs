//! Why a peer is idle: always one sentence, and what it runs if it is not.

use std::fmt;

use potluck_unit::{JobId, PeerId, Time};

use crate::Peer;
use crate::board::Entry;
use crate::budget::{Effect, Reason};
use crate::choice::Refusal;

/// Why a peer runs nothing now, or that it does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Idle {
    /// It is not: so many slots have something to run.
    Busy(usize),
    /// A rule keeps units from running; what was on a slot is suspended.
    Paused(Reason),
    /// Draining: so many slots are still at it.
    Draining(usize),
    /// Draining is done.
    Drained,
    /// This node never lends anything.
    NothingLent,
    /// A rule keeps it from taking on anything new.
    Full(Reason),
    /// A rule keeps it off the network, and nothing that is here can be run.
    OffNetwork(Reason),
    /// No peer is connected, and no open job is known.
    NoNeighbours,
    /// No open job is known.
    NoJobs,
    /// The donor's machine takes none of the open jobs: how many there are, and why not the first.
    Refused(usize, JobId, Refusal),
    /// The module or inputs of a job are not here yet.
    Fetching(JobId),
    /// A job has nothing to claim now: others are at it, or must be.
    NothingToClaim(JobId),
}

/// What is on a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotStatus {
    /// The slot.
    pub slot: u16,
    /// The job.
    pub job: JobId,
    /// Who submitted it.
    pub submitter: PeerId,
    /// What the submitter calls it.
    pub label: String,
    /// Since when the slot has been at this job without a break.
    pub since: Time,
    /// Units of it that have ended there since.
    pub units_done: u64,
    /// Units on the slot that have not ended.
    pub units_left: usize,
    /// How long those take together, in microseconds, as far as that is known.
    pub left_us: Option<u64>,
    /// Whether it is suspended.
    pub suspended: bool,
}

impl Peer {
    /// Why this peer runs nothing now, or that it does.
    pub fn why_idle(&self, now: Time) -> Idle {
        let (lent, busy) = (&self.lending.now, self.runs.busy());
        if let Some(reason) = lent.first(Effect::Compute) {
            return Idle::Paused(reason.clone());
        }
        if lent.draining {
            return if self.is_drained() { Idle::Drained } else { Idle::Draining(busy) };
        }
        if busy > 0 {
            return Idle::Busy(busy);
        }
        if !self.lends() {
            return Idle::NothingLent;
        }
        if let Some(reason) = lent.first(Effect::Intake) {
            return Idle::Full(reason.clone());
        }
        let open =
            |entry: &Entry| !entry.closed && !entry.is_settled() && entry.job().expires > now;
        let jobs: Vec<(&JobId, &Entry)> =
            self.board.jobs().filter(|(_, entry)| open(entry)).collect();
        let taken: Vec<(&JobId, &Entry)> =
            jobs.iter().copied().filter(|(_, entry)| self.takes(entry).is_ok()).collect();
        if let Some((id, _)) = taken.iter().find(|(_, entry)| entry.is_ready()) {
            return Idle::NothingToClaim(**id);
        }
        if let Some(reason) = lent.first(Effect::Network) {
            return Idle::OffNetwork(reason.clone());
        }
        if let Some((id, _)) = taken.first() {
            return Idle::Fetching(**id);
        }
        let refused = jobs.iter().find_map(|(id, entry)| Some((**id, self.takes(entry).err()?)));
        match refused {
            Some((id, refusal)) => Idle::Refused(jobs.len(), id, refusal),
            None if self.roster.count() == 0 => Idle::NoNeighbours,
            None => Idle::NoJobs,
        }
    }

    /// Why no slot is busy, in a sentence, if none is.
    pub fn idle_reason(&self, now: Time) -> Option<String> {
        let why = self.why_idle(now);
        (!matches!(why, Idle::Busy(_))).then(|| why.to_string())
    }

    /// What is on each slot that has anything.
    pub fn running(&self) -> Vec<SlotStatus> {
        let status = |slot: u16| {
            let (queue, stint) = self.runs.on_slot(slot);
            let job = queue.front()?.job;
            let entry = self.board.get(&job)?;
            Some(SlotStatus {
                slot,
                job,
                submitter: entry.submitter(),
                label: entry.job().label.clone(),
                since: stint.since,
                units_done: stint.units,
                units_left: queue.iter().map(|assignment| assignment.units.len()).sum(),
                left_us: queue.iter().map(|assignment| self.left_us(assignment)).sum(),
                suspended: !self.lending.now.runs(slot),
            })
        };
        (0..self.runs.slots()).filter_map(status).collect()
    }

    fn left_us(&self, assignment: &crate::runs::Assignment) -> Option<u64> {
        let cost_us = self.board.get(&assignment.job)?.plan.cost_us()?;
        Some(cost_us.saturating_mul(assignment.units.len() as u64))
    }
}

impl fmt::Display for Idle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Idle::Busy(1) => f.write_str("1 slot is at work"),
            Idle::Busy(count) => write!(f, "{count} slots are at work"),
            Idle::Paused(reason) | Idle::Full(reason) | Idle::OffNetwork(reason) => reason.fmt(f),
            Idle::Draining(1) => f.write_str("draining: 1 slot finishes what was begun"),
            Idle::Draining(count) => write!(f, "draining: {count} slots finish what was begun"),
            Idle::Drained => f.write_str("drained: all that was begun is finished and said"),
            Idle::NothingLent => f.write_str("this node lends no slots"),
            Idle::NoNeighbours => f.write_str("no peer is connected"),
            Idle::NoJobs => f.write_str("no open job is known"),
            Idle::Refused(1, job, refusal) => {
                write!(f, "the only open job, {}, is not run here: {refusal}", job.short())
            }
            Idle::Refused(count, job, refusal) => write!(
                f,
                "none of {count} open jobs is run here; of job {}: {refusal}",
                job.short()
            ),
            Idle::Fetching(job) => {
                write!(f, "the module or inputs of job {} are not here yet", job.short())
            }
            Idle::NothingToClaim(job) => {
                write!(f, "job {} needs other peers now: this one has done its part", job.short())
            }
        }
    }
}
