//! The board: every job known here, with the set of records about it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use potluck_unit::{
    Claim, Draw, Job, JobId, PeerId, ReceiptBatch, Record, RecordId, Signed, Time, Topic,
};

use crate::Peer;
use crate::accusations::Accusations;
use crate::action::{Action, Actions, Need, News};
use crate::audits::Audits;
use crate::leases::Seats;
use crate::record_set::RecordSet;
use crate::schedule::Plan;
use crate::tally::Tally;

/// Jobs held at once.
pub(crate) const JOBS_MAX: usize = 1024;
/// Open jobs of one submitter.
pub(crate) const JOBS_PER_SUBMITTER_MAX: usize = 64;
/// Units of all open jobs of one submitter: four of the largest jobs. Each unit costs every follower
/// some hundred bytes of memory.
pub(crate) const UNITS_PER_SUBMITTER_MAX: u64 = 4_000_000;
/// Units of all jobs held, open or not: what counting them takes stays within a few gigabytes
/// however many submitters there are.
pub(crate) const UNITS_MAX: u64 = 16_000_000;
/// Distinct modules of all open jobs of one submitter. A worker compiles every one that is new to it,
/// and a module that is slow to compile costs minutes.
pub(crate) const MODULES_PER_SUBMITTER_MAX: usize = 32;
/// How far a submitter's clock may be ahead.
const SKEW_MAX_MS: u64 = 10 * 60 * 1000;
/// Peers remembered to hold a job.
const KEEPERS_MAX: usize = 64;
/// After this time twice as many are called to settle a dispute.
const SETTLE_WIDEN_MS: u64 = 30_000;
/// Units of a job whose records hurry: a few hundred.
const SMALL_UNITS: u32 = 512;

/// Whether something is on this peer's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Held {
    /// No, and nobody is getting it; not to be asked for again before this time.
    No(Time),
    /// It is being fetched.
    Asked,
    /// Yes.
    Yes,
}

/// One job with all that is known of it.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) record: Signed,
    pub(crate) tally: Tally,
    pub(crate) receipts: RecordSet,
    pub(crate) seats: Seats,
    pub(crate) plan: Plan,
    pub(crate) module: Held,
    pub(crate) inputs: Held,
    pub(crate) audits: Audits,
    pub(crate) accusations: Accusations,
    /// When this peer last convicted somebody in it.
    pub(crate) convicted_at: Option<Time>,
    /// What this peer drew for which chunks, at most one for each.
    pub(crate) draws: BTreeMap<u32, Draw>,
    /// Disputed units, and since when.
    pub(crate) disputed: BTreeMap<u32, Time>,
    /// Units that this peer runs again, because others contradict it and nobody agrees.
    pub(crate) doubts: BTreeSet<u32>,
    /// Whether a unit came to different results when it was run twice here.
    pub(crate) unsteady: bool,
    /// Whether the donor's choice leaves it to this machine.
    pub(crate) chosen: bool,
    /// Whether this peer has run units of it, or submitted it: then it knows that the work is real.
    pub(crate) took_part: bool,
    pub(crate) keepers: BTreeSet<PeerId>,
    pub(crate) collect: bool,
    /// Until when the user wants module and inputs here, to check it.
    pub(crate) check_until: Time,
    pub(crate) closed: bool,
    /// Accepted units whose bodies are wanted here and not on their way.
    pub(crate) to_fetch: BTreeSet<u32>,
    pub(crate) fetching: BTreeSet<u32>,
    /// Units whose bodies were not found, with how often, and when to ask again.
    pub(crate) missed: BTreeMap<u32, (u32, Time)>,
    /// Units whose bodies this peer should keep for others and found nowhere.
    pub(crate) orphans: BTreeSet<u32>,
    /// When all but the job and its closing goes, once it is closed.
    pub(crate) clear_at: Option<Time>,
    pub(crate) cleared: bool,
    /// Receipts taken from each peer, whether new or not.
    pub(crate) taken: BTreeMap<PeerId, u64>,
    changed: bool,
}

/// Every job known here.
#[derive(Debug, Default)]
pub(crate) struct Board {
    pub(crate) jobs: BTreeMap<JobId, Entry>,
    /// Everything in one of the sets.
    pub(crate) records: RecordSet,
    /// Jobs and closings.
    pub(crate) jobs_set: RecordSet,
    changed: BTreeSet<JobId>,
}

impl Entry {
    pub(crate) fn job(&self) -> &Job {
        match self.record.record() {
            Record::Job(job) => job,
            Record::Claim(_)
            | Record::Receipts(_)
            | Record::Close(_)
            | Record::Contact(_)
            | Record::Proof(_) => {
                unreachable!("an entry is made of a job record only")
            }
        }
    }

    pub(crate) fn submitter(&self) -> PeerId {
        self.record.signer()
    }

    /// Whether this peer is called to settle a dispute that has lasted since then: a few are, and
    /// more the longer it lasts.
    pub(crate) fn is_settler(&self, now: Time, since: Time, index: u32) -> bool {
        let level = self.tally.windows().settles_at(self.plan.lot, self.tally.chunk_of(index), now);
        let waited = now.ms_since(since) / SETTLE_WIDEN_MS;
        level <= crate::seats::doublings(1 + waited)
    }

    /// Whether this version knows every part without which the units can't be run and judged. It
    /// spreads the records of other jobs, and does nothing else about them.
    pub(crate) fn is_understood(&self) -> bool {
        self.job().unknown_requirement().is_none()
    }

    /// Whether there are so few units that somebody may be waiting for the answers, and that telling
    /// everybody of each at once costs little.
    pub(crate) fn is_small(&self) -> bool {
        self.job().units <= SMALL_UNITS
    }

    /// Whether the units can be run here: module and inputs are on disk, and nothing else is needed.
    pub(crate) fn is_ready(&self) -> bool {
        self.module == Held::Yes && self.inputs == Held::Yes && self.is_understood()
    }

    /// Whether all but the job and its closing was dropped.
    pub(crate) fn is_cleared(&self) -> bool {
        self.cleared
    }

    /// Units whose bodies nobody seems to have any more.
    pub(crate) fn lost_bodies(&self) -> impl Iterator<Item = &u32> {
        let lost = |(_, (times, _)): &(&u32, &(u32, Time))| *times >= crate::fetch::LOST_AFTER;
        self.missed.iter().filter(lost).map(|(index, _)| index).chain(&self.orphans)
    }

    /// Puts what is due to be asked for again among what is to be fetched.
    pub(crate) fn retry_missed(&mut self, now: Time) {
        let due = self.missed.iter().filter(|(_, (_, retry_at))| *retry_at <= now);
        let tally = &self.tally;
        self.to_fetch
            .extend(due.map(|(index, _)| *index).filter(|index| !tally.is_fetched(*index)));
        self.missed.retain(|index, _| !tally.is_fetched(*index));
    }

    /// Whether every unit is accepted or unrunnable.
    pub(crate) fn is_settled(&self) -> bool {
        let counts = self.tally.counts();
        counts.accepted + counts.unrunnable == self.tally.units()
    }
}

impl Board {
    pub(crate) fn get(&self, job: &JobId) -> Option<&Entry> {
        self.jobs.get(job)
    }

    pub(crate) fn get_mut(&mut self, job: &JobId) -> Option<&mut Entry> {
        self.jobs.get_mut(job)
    }

    /// Every job, by id.
    pub(crate) fn jobs(&self) -> impl Iterator<Item = (&JobId, &Entry)> {
        self.jobs.iter()
    }

    pub(crate) fn job_ids(&self) -> Vec<JobId> {
        self.jobs.keys().copied().collect()
    }

    /// The first job from this id on.
    pub(crate) fn at_or_after(&self, job: &JobId) -> Option<(JobId, &Entry)> {
        self.jobs.range(job..).next().map(|(id, entry)| (*id, entry))
    }

    /// The first job past this id.
    pub(crate) fn after(&self, job: &JobId) -> Option<JobId> {
        self.jobs.range((Bound::Excluded(job), Bound::Unbounded)).next().map(|(id, _)| *id)
    }

    /// Whether a record is in one of the sets.
    pub(crate) fn has(&self, id: &RecordId) -> bool {
        self.records.contains(id)
    }

    pub(crate) fn record(&self, id: &RecordId) -> Option<&Signed> {
        self.records.get(id)
    }

    /// The records of a topic, if it is known here.
    pub(crate) fn set(&self, topic: &Topic) -> Option<&RecordSet> {
        match topic {
            Topic::Board => Some(&self.jobs_set),
            // What is left of a cleared job is not to be completed by neighbours that still have it.
            Topic::Job(job) => {
                self.jobs.get(job).filter(|entry| !entry.cleared).map(|entry| &entry.receipts)
            }
        }
    }

    /// Whether all receipts of a batch are about units that its job has. Nobody passes on others.
    pub(crate) fn is_within(&self, batch: &ReceiptBatch) -> bool {
        let units = self.jobs.get(&batch.job).map_or(0, |entry| entry.tally.units());
        batch.receipts.last().is_some_and(|receipt| receipt.index < units)
    }

    /// Whether there is room for one more job, whosever it is.
    fn has_room(&self, job: &Job) -> bool {
        let counted = self.jobs.values().filter(|entry| !entry.cleared);
        let units: u64 = counted.map(|entry| u64::from(entry.job().units)).sum();
        self.jobs.len() < JOBS_MAX && units + u64::from(job.units) <= UNITS_MAX
    }

    /// Whether a submitter may have one more open job. Settled and closed ones do not count.
    fn has_room_of(&self, submitter: &PeerId, job: &Job) -> bool {
        let (mut jobs, mut units, mut modules) = (1, u64::from(job.units), BTreeSet::new());
        modules.insert(job.module);
        let theirs = self.jobs.values().filter(|entry| entry.submitter() == *submitter);
        for entry in theirs.filter(|entry| !entry.closed && !entry.is_settled()) {
            jobs += 1;
            units += u64::from(entry.job().units);
            modules.insert(entry.job().module);
        }
        jobs <= JOBS_PER_SUBMITTER_MAX
            && units <= UNITS_PER_SUBMITTER_MAX
            && modules.len() <= MODULES_PER_SUBMITTER_MAX
    }

    /// Whether any job still has something to be done or fetched.
    pub(crate) fn is_busy(&self) -> bool {
        self.jobs.values().any(|entry| {
            let wanting = !entry.to_fetch.is_empty() || !entry.missed.is_empty();
            !entry.closed && entry.is_understood() && (!entry.is_settled() || wanting)
        })
    }

    pub(crate) fn note_changed(&mut self, job: JobId) {
        if let Some(entry) = self.jobs.get_mut(&job)
            && !std::mem::replace(&mut entry.changed, true)
        {
            self.changed.insert(job);
        }
    }

    /// Takes the jobs that changed since the last call.
    pub(crate) fn take_changed(&mut self) -> BTreeSet<JobId> {
        let changed = std::mem::take(&mut self.changed);
        for job in &changed {
            if let Some(entry) = self.jobs.get_mut(job) {
                entry.changed = false;
            }
        }
        changed
    }
}

impl Peer {
    /// A job arrived. True if it is new and within bounds.
    pub(crate) fn on_job(
        &mut self,
        now: Time,
        record: &Signed,
        held: Held,
        actions: &mut Actions,
    ) -> bool {
        let (Record::Job(job), Some(id)) = (record.record(), record.job_id()) else { return false };
        let submitter = record.signer();
        let own = submitter == self.me;
        if self.board.jobs.contains_key(&id) {
            return false;
        }
        let refused = job.expires <= now
            || job.created > now.plus_ms(SKEW_MAX_MS)
            || !(self.board.has_room(job) || own)
            || !(self.board.has_room_of(&submitter, job) || own);
        // What was kept was within bounds when it came. If it has expired since, it will go the way
        // of all expired jobs, and its records leave the disk with it.
        if refused && self.awake {
            self.gossip.refuse(now, record.id());
            return false;
        }
        let mut entry = Entry {
            record: record.clone(),
            tally: Tally::new(&id, job, &self.me),
            receipts: RecordSet::default(),
            seats: Seats::default(),
            plan: Plan::new(&id, &self.me, job),
            module: held,
            inputs: held,
            audits: Audits::default(),
            accusations: Accusations::default(),
            convicted_at: None,
            draws: BTreeMap::new(),
            disputed: BTreeMap::new(),
            doubts: BTreeSet::new(),
            unsteady: false,
            chosen: own || self.chooses(&submitter, job),
            took_part: own,
            keepers: BTreeSet::new(),
            collect: own,
            check_until: Time(0),
            closed: false,
            to_fetch: BTreeSet::new(),
            fetching: BTreeSet::new(),
            missed: BTreeMap::new(),
            orphans: BTreeSet::new(),
            clear_at: None,
            cleared: false,
            taken: BTreeMap::new(),
            changed: false,
        };
        entry.tally.settles_all = own;
        self.board.jobs.insert(id, entry);
        self.board.records.insert(record);
        self.board.jobs_set.insert(record);
        self.board.note_changed(id);
        actions.push(Action::Keep(record.clone()));
        self.plan_due = true;
        true
    }

    /// A closing arrived. True if it is new and the submitter's own.
    pub(crate) fn on_close(&mut self, record: &Signed, actions: &mut Actions) -> bool {
        let Record::Close(close) = record.record() else { return false };
        let Some(entry) = self.board.jobs.get_mut(&close.job) else { return false };
        if entry.closed || entry.submitter() != record.signer() {
            return false;
        }
        entry.closed = true;
        entry.plan.give_up();
        self.board.records.insert(record);
        self.board.jobs_set.insert(record);
        self.board.note_changed(close.job);
        actions.push(Action::Keep(record.clone()));
        self.runs.stop(&close.job, actions);
        true
    }

    /// A claim arrived. True if it is worth passing on.
    pub(crate) fn on_claim(&mut self, now: Time, peer: PeerId, claim: &Claim) -> bool {
        let Some(entry) = self.board.jobs.get_mut(&claim.job) else { return false };
        if entry.closed || self.standing.is_liar(&peer) {
            return false;
        }
        let chunks = entry.job().chunks();
        let fresh = entry.seats.on_claim(now, peer, claim, chunks);
        if claim.lease_ms == 0 {
            entry.plan.look_again();
        }
        self.plan_due |= fresh;
        fresh
    }

    /// Notes that a neighbour holds a job.
    pub(crate) fn on_keeping(&mut self, from: PeerId, job: JobId, actions: &mut Actions) {
        if let Some(entry) = self.board.jobs.get_mut(&job)
            && entry.keepers.len() < KEEPERS_MAX
            && entry.keepers.insert(from)
        {
            actions.tell(News::Keeping { job, peer: from });
            self.board.note_changed(job);
        }
    }
}

impl Need {
    /// The job that this is about.
    pub fn job(&self) -> JobId {
        match self {
            Need::Module { job, .. } | Need::Inputs { job, .. } | Need::Body { job, .. } => *job,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
