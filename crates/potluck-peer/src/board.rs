//! The board: every job known here, with the set of records about it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use potluck_unit::{
    Claim, Job, JobId, PeerId, Receipt, ReceiptBatch, Record, RecordId, ResultHash, Signed,
    Statement, Time, Topic, UnitId,
};

use crate::Peer;
use crate::action::{Action, Actions, Need, News};
use crate::schedule::{Plan, Seats};
use crate::standing::Conviction;
use crate::tally::{Counted, Own, Tally, Verdict};

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
/// Records of receipts held for one job: a batch a unit and copy would be the worst honest case.
const RECEIPTS_MAX: usize = 1 << 20;
/// Receipts of one peer on one job, for each of its units: one that counts, and as many again for
/// what a crash made it say twice. Beyond that it is a flood.
const RECEIPTS_PER_UNIT_MAX: u64 = 2;

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
    pub(crate) receipts: BTreeSet<RecordId>,
    pub(crate) seats: Seats,
    pub(crate) plan: Plan,
    pub(crate) module: Held,
    pub(crate) inputs: Held,
    pub(crate) disputed: BTreeSet<u32>,
    pub(crate) keepers: BTreeSet<PeerId>,
    pub(crate) collect: bool,
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
    pub(crate) records: BTreeMap<RecordId, Signed>,
    /// Jobs and closings.
    pub(crate) ids: BTreeSet<RecordId>,
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

    /// Whether this version knows every part without which the units can't be run and judged. It
    /// spreads the records of other jobs, and does nothing else about them.
    pub(crate) fn is_understood(&self) -> bool {
        self.job().unknown_requirement().is_none()
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
        self.records.contains_key(id)
    }

    pub(crate) fn record(&self, id: &RecordId) -> Option<&Signed> {
        self.records.get(id)
    }

    /// The ids in a set, if the set is known here.
    pub(crate) fn ids(&self, topic: &Topic) -> Option<&BTreeSet<RecordId>> {
        match topic {
            Topic::Board => Some(&self.ids),
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
        let units: u64 = self.jobs.values().map(|entry| u64::from(entry.job().units)).sum();
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
        let entry = Entry {
            record: record.clone(),
            tally: Tally::new(job.units, job.copies),
            receipts: BTreeSet::new(),
            seats: Seats::default(),
            plan: Plan::new(&id, &self.me, job),
            module: held,
            inputs: held,
            disputed: BTreeSet::new(),
            keepers: BTreeSet::new(),
            collect: own,
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
        self.board.jobs.insert(id, entry);
        self.board.records.insert(record.id(), record.clone());
        self.board.ids.insert(record.id());
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
        self.board.records.insert(record.id(), record.clone());
        self.board.ids.insert(record.id());
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

    /// Receipts arrived, or were signed here. True if they were taken.
    pub(crate) fn on_receipts(
        &mut self,
        now: Time,
        record: &Signed,
        actions: &mut Actions,
    ) -> bool {
        let Record::Receipts(batch) = record.record() else { return false };
        let Some(entry) = self.board.jobs.get_mut(&batch.job) else { return false };
        let peer = record.signer();
        let taken = entry.taken.get(&peer).copied().unwrap_or(0) + batch.receipts.len() as u64;
        let taken_max = RECEIPTS_PER_UNIT_MAX * u64::from(entry.tally.units()) + RECEIPTS_EXTRA;
        if entry.receipts.len() >= RECEIPTS_MAX || taken > taken_max {
            self.gossip.refuse(now, record.id());
            return false;
        }
        // Kept even if it says nothing new: sets that depended on the order of arrival would differ
        // from neighbour to neighbour, and be compared and given again for ever.
        entry.taken.insert(peer, taken);
        let (mut lies, mut chunk) = (Vec::new(), None);
        for receipt in &batch.receipts {
            match count(entry, &peer, receipt, record.id()) {
                Counted::New | Counted::Known | Counted::Refused => {}
                Counted::Contradiction(found) => lies.push((receipt.index, found)),
            }
            let its_chunk = receipt.index / entry.job().chunk_units();
            if chunk.replace(its_chunk) != Some(its_chunk) {
                entry.seats.on_word(now, its_chunk, &peer);
            }
        }
        entry.receipts.insert(record.id());
        self.board.records.insert(record.id(), record.clone());
        actions.push(Action::Keep(record.clone()));
        if peer == self.me {
            mark_own(self.board.jobs.get_mut(&batch.job), batch);
        }
        for (index, found) in lies {
            self.convict(&batch.job, index, &peer, found, actions);
        }
        for receipt in &batch.receipts {
            self.check_against_own(&batch.job, receipt.index, actions);
            self.judge(&batch.job, receipt.index, actions);
        }
        self.note_bodies(batch);
        self.fetch_bodies(&batch.job, actions);
        true
    }

    fn note_bodies(&mut self, batch: &ReceiptBatch) {
        let Some(entry) = self.board.jobs.get_mut(&batch.job) else { return };
        let results = batch.bodies.iter().map(|body| potluck_unit::BlobId::of(body).result_hash());
        let carried: BTreeSet<ResultHash> = results.collect();
        for receipt in &batch.receipts {
            if let Statement::Outcome { result, .. } = receipt.statement
                && carried.contains(&result)
            {
                entry.tally.note_body(receipt.index, result);
            }
        }
    }

    /// Holds what others say of a unit against what this peer found when it ran it: a different
    /// result is a lie, and so is a digest that only somebody who did not run it would give.
    pub(crate) fn check_against_own(&mut self, id: &JobId, index: u32, actions: &mut Actions) {
        let Some(entry) = self.board.jobs.get(id) else { return };
        let Some(own) = entry.tally.own(index) else { return };
        let unit = UnitId::of(id, index);
        let is_lie = |peer: &PeerId, vote: &crate::tally::Vote| {
            let digest = own.witness.map(|witness| witness.work_digest(peer, &unit));
            vote.result != own.result || digest.is_some_and(|digest| digest != vote.digest)
        };
        let liars: Vec<PeerId> = (entry.tally.votes(index))
            .filter(|(peer, vote)| *peer != self.me && is_lie(peer, vote))
            .map(|(peer, _)| peer)
            .collect();
        for liar in liars {
            self.convict(id, index, &liar, own.result, actions);
        }
    }

    fn convict(
        &mut self,
        job: &JobId,
        index: u32,
        peer: &PeerId,
        found: ResultHash,
        actions: &mut Actions,
    ) {
        let Some(entry) = self.board.jobs.get(job).filter(|entry| entry.is_understood()) else {
            return;
        };
        let Some((_, vote)) = entry.tally.votes(index).find(|(other, _)| other == peer) else {
            return;
        };
        let made = match self.board.record(&vote.record).map(Signed::record) {
            Some(Record::Receipts(batch)) => batch.made,
            Some(
                Record::Job(_)
                | Record::Claim(_)
                | Record::Close(_)
                | Record::Contact(_)
                | Record::Proof(_),
            )
            | None => {
                return;
            }
        };
        let conviction = Conviction {
            peer: *peer,
            job: *job,
            index,
            said: vote.result,
            found,
            record: vote.record,
            made,
        };
        if !self.standing.convict(conviction.clone()) {
            return;
        }
        actions.push(Action::Note(conviction.clone()));
        actions.tell(News::Convicted(conviction));
        self.judge_all(actions);
    }

    /// Judges every unit anew, after whom to believe or how many could run them has changed.
    pub(crate) fn judge_all(&mut self, actions: &mut Actions) {
        for id in self.board.job_ids() {
            let units = self.board.jobs.get(&id).map_or(0, |entry| entry.tally.units());
            for index in 0..units {
                self.judge(&id, index, actions);
            }
            self.fetch_bodies(&id, actions);
        }
        self.plan_due = true;
    }

    /// Judges a unit and does what follows from a new verdict.
    fn judge(&mut self, id: &JobId, index: u32, actions: &mut Actions) {
        let Some(entry) = self.board.jobs.get_mut(id).filter(|entry| entry.is_understood()) else {
            return;
        };
        let Some((before, after)) = entry.tally.judge(index, &self.standing, self.workers) else {
            return;
        };
        match after {
            Verdict::Disputed => {
                entry.disputed.insert(index);
            }
            Verdict::Open | Verdict::Partial(_) | Verdict::Accepted(_) | Verdict::Unrunnable(_) => {
                entry.disputed.remove(&index);
            }
        }
        if let Verdict::Accepted(result) = after {
            actions.tell(News::Accepted { job: *id, index, result });
            if !entry.tally.is_fetched(index) && entry.collect {
                entry.to_fetch.insert(index);
            }
        } else if matches!(before, Verdict::Accepted(_)) {
            actions.tell(News::Reopened { job: *id, index });
        }
        // From open to partial, what was still to be done is still to be done.
        let undone = matches!(after, Verdict::Open | Verdict::Partial(_));
        if undone && !matches!(before, Verdict::Open | Verdict::Partial(_)) {
            entry.plan.reopen(index, &self.me);
        }
        self.plan_due = true;
        self.board.note_changed(*id);
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

fn count(entry: &mut Entry, peer: &PeerId, receipt: &Receipt, record: RecordId) -> Counted {
    match receipt.statement {
        Statement::Outcome { result, digest } => {
            entry.tally.count(peer, receipt.index, result, digest, record)
        }
        Statement::NoResult(why) => {
            // Who gave up leaves its seat without having voted.
            entry.plan.look_again();
            entry.tally.count_no_result(peer, receipt.index, why)
        }
    }
}

/// What this peer signed it has run: known at once when it signs, and again after a restart.
fn mark_own(entry: Option<&mut Entry>, batch: &ReceiptBatch) {
    let Some(entry) = entry else { return };
    for receipt in &batch.receipts {
        entry.tally.note_ran(receipt.index, true);
        match receipt.statement {
            Statement::Outcome { result, .. } if entry.tally.own(receipt.index).is_none() => {
                entry.tally.note_own(receipt.index, Own { result, witness: None });
            }
            Statement::Outcome { .. } => {}
            Statement::NoResult(_) => entry.tally.note_blind(receipt.index),
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

/// What a peer may say beyond that on a job of few units.
const RECEIPTS_EXTRA: u64 = 64;

#[cfg(test)]
pub(crate) mod tests;
