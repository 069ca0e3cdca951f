//! Scheduling: which units this peer runs next, and what it tells others of its intent.
//!
//! A worker claims chunks of a job ahead of running them, in an order of its own that follows from
//! the job, the chunk and its id, so that two workers seldom want the same one. Claims are guided:
//! large while much is open, single chunks at the end. Of two claims too many on one chunk, the one
//! with the higher hash gives way if it has not started. A claim has a lease, so that whoever
//! stalls holds nothing up for long.

use std::collections::{BTreeMap, BTreeSet};

use potluck_unit::{Claim, Job, JobId, PeerId, Record, Signed, Time};

use crate::Peer;
use crate::action::{Action, Actions};
use crate::board::Entry;
use crate::tally::Verdict;

/// Work claimed ahead of running, per slot: covers the way of a claim to the others.
const AHEAD_US: u64 = 300_000;
/// The most work in one claim, per slot.
const CLAIM_US_MAX: u64 = 2_000_000;
/// Work handed to a slot at once: long enough that handing over costs nothing.
const ASSIGN_US: u64 = 50_000;
/// A slot whose work ends within this time is given more in advance.
const NEARLY_DONE_US: u64 = 100_000;
/// Assignments on a slot, the running one included.
const QUEUE_MAX: usize = 2;
/// A lease is three times the estimate and this.
const LEASE_EXTRA_MS: u64 = 10_000;
/// The lease while nothing is known of how long a unit takes; renewed as long as it is needed.
const LEASE_UNKNOWN_MS: u32 = 30_000;
/// Leases that end sooner than this are renewed.
const RENEW_MS: u64 = 6_000;
/// Seats remembered on one chunk.
pub(crate) const SEATS_MAX: usize = 2 * Job::COPIES_MAX as usize;
/// The most one claim is worth; whoever needs longer renews it.
const LEASE_COUNTS_MAX_MS: u32 = 2 * LEASE_UNKNOWN_MS;
/// A seat is left to a silent worker for so many times what its chunk would take here, and this.
const PATIENCE_TIMES: u64 = 8;
const PATIENCE_EXTRA_MS: u64 = 20_000;
/// What is left of the leases of a neighbour that disconnected: time to reconnect, no more.
const LEFT_LEASE_MS: u64 = 3_000;

/// Who has announced to run which chunks of one job.
#[derive(Debug, Default)]
pub(crate) struct Seats(BTreeMap<u32, Vec<Seat>>);

#[derive(Debug, Clone, Copy)]
struct Seat {
    peer: PeerId,
    made: Time,
    /// When it claimed, or last said something of this chunk.
    since: Time,
    until: Time,
}

impl Seats {
    /// A claim arrived. True if it says anything new.
    pub(crate) fn on_claim(&mut self, now: Time, peer: PeerId, claim: &Claim, chunks: u32) -> bool {
        let until = now.plus_ms(claim.lease_ms.min(LEASE_COUNTS_MAX_MS).into());
        let mut fresh = false;
        for chunk in claim.chunks.iter().filter(|chunk| **chunk < chunks) {
            let seats = self.0.entry(*chunk).or_default();
            seats.retain(|seat| seat.until > now || seat.peer == peer);
            if let Some(seat) = seats.iter_mut().find(|seat| seat.peer == peer) {
                if claim.made > seat.made {
                    (seat.made, seat.until) = (claim.made, until);
                    fresh = true;
                }
            } else if seats.len() < SEATS_MAX {
                seats.push(Seat { peer, made: claim.made, since: now, until });
                fresh = true;
            }
        }
        fresh
    }

    /// A neighbour disconnected: its leases shrink.
    pub(crate) fn on_left(&mut self, now: Time, peer: &PeerId) {
        let until = now.plus_ms(LEFT_LEASE_MS);
        for seat in self.0.values_mut().flatten().filter(|seat| seat.peer == *peer) {
            seat.until = seat.until.min(until);
        }
    }

    /// A worker said something of a chunk: it is at it.
    pub(crate) fn on_word(&mut self, now: Time, chunk: u32, peer: &PeerId) {
        let seats = self.0.get_mut(&chunk).into_iter().flatten();
        seats.filter(|seat| seat.peer == *peer).for_each(|seat| seat.since = now);
    }

    /// Everybody but `me` whose lease on `chunk` lasts and who was silent no longer than the
    /// patience: a staller may renew for ever, and holds a seat no longer than that.
    fn live<'a>(
        &'a self,
        now: Time,
        chunk: u32,
        me: &'a PeerId,
        patience_ms: u64,
    ) -> impl Iterator<Item = &'a PeerId> {
        let seats = self.0.get(&chunk).map_or(&[][..], Vec::as_slice);
        let is_live = move |seat: &&Seat| {
            seat.until > now && seat.peer != *me && now.ms_since(seat.since) < patience_ms
        };
        seats.iter().filter(is_live).map(|seat| &seat.peer)
    }
}

/// What this peer means to do about one job.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Chunks this peer may still have something to add to, in its own order.
    todo: BTreeSet<(u64, u32)>,
    /// Chunks it has claimed and not handed to a slot yet, in the order of claiming.
    claimed: Vec<u32>,
    /// Chunks handed to a slot and not done.
    running: BTreeSet<u32>,
    lease_until: Time,
    /// Whether the last look found no chunk to claim, and nothing has happened since that could
    /// have freed a seat. Looking costs a pass over all chunks that are left.
    barren: bool,
    /// How long a unit takes here, in microseconds, once one has run.
    cost_us: Option<u64>,
    job: JobId,
    chunk_units: u32,
    chunks: u32,
}

impl Plan {
    /// All chunks to do.
    pub(crate) fn new(id: &JobId, me: &PeerId, job: &Job) -> Plan {
        let mut plan = Plan {
            todo: BTreeSet::new(),
            claimed: Vec::new(),
            running: BTreeSet::new(),
            lease_until: Time(0),
            barren: false,
            cost_us: None,
            job: *id,
            chunk_units: job.chunk_units(),
            chunks: job.chunks(),
        };
        plan.todo = (0..plan.chunks).map(|chunk| (plan.rank(chunk, me), chunk)).collect();
        plan
    }

    /// Where `chunk` stands in the order of `peer`; between two peers, who keeps the seat.
    fn rank(&self, chunk: u32, peer: &PeerId) -> u64 {
        self.job.rank(chunk, peer)
    }

    /// A unit is open again, so its chunk may be worth another look.
    pub(crate) fn reopen(&mut self, index: u32, me: &PeerId) {
        let chunk = index / self.chunk_units;
        self.barren = false;
        self.todo.insert((self.rank(chunk, me), chunk));
    }

    /// Something happened that may have freed a seat.
    pub(crate) fn look_again(&mut self) {
        self.barren = false;
    }

    /// Nothing more is to be done about the job. Leases run out by themselves.
    pub(crate) fn give_up(&mut self) {
        self.claimed.clear();
    }

    /// Units took `spent_us` together. Takes half of what is new, so that one odd unit passes.
    pub(crate) fn note_cost(&mut self, units: u64, spent_us: u64) {
        let cost = spent_us / units.max(1);
        self.cost_us = Some(self.cost_us.map_or(cost, |before| u64::midpoint(before, cost)));
    }

    /// A slot is done with a chunk, or was stopped.
    pub(crate) fn note_done(&mut self, chunk: u32) {
        self.running.remove(&chunk);
    }

    fn chunk_us(&self) -> u64 {
        self.cost_us.map_or(AHEAD_US, |cost| cost.saturating_mul(u64::from(self.chunk_units)))
    }

    /// What is claimed and not handed to a slot yet.
    pub(crate) fn backlog_us(&self) -> u64 {
        self.chunk_us().saturating_mul(self.claimed.len() as u64)
    }

    /// How many chunks to claim at once: enough for a while, never more than this peer's share of
    /// half of what is left, so that the end comes to all at the same time.
    fn batch(&self, slots: u64, workers: u64) -> usize {
        if self.cost_us.is_none() {
            return usize::try_from(slots).unwrap_or(1).clamp(1, Claim::CHUNKS_MAX);
        }
        let by_time = (CLAIM_US_MAX * slots) / self.chunk_us().max(1);
        let by_share = self.todo.len() as u64 / (2 * workers.max(1));
        usize::try_from(by_time.min(by_share)).unwrap_or(usize::MAX).clamp(1, Claim::CHUNKS_MAX)
    }

    fn lease_ms(&self, slots: u64) -> u32 {
        let estimate = match self.cost_us {
            None => LEASE_UNKNOWN_MS.into(),
            Some(_) => 3 * self.backlog_us() / slots.max(1) / 1000 + LEASE_EXTRA_MS,
        };
        u32::try_from(estimate).unwrap_or(u32::MAX).min(Claim::LEASE_MAX_MS)
    }
}

impl Entry {
    /// How long a silent worker is left a seat: judged by what its chunk would take here, or by the
    /// job's own limit where nothing has been run yet.
    fn patience_ms(&self) -> u64 {
        let limit_ms = self.job().limits.deadline_ms.saturating_mul(2);
        let units = u64::from(self.job().chunk_units());
        let known_ms = self
            .plan
            .cost_us
            .map(|cost| PATIENCE_TIMES.saturating_mul(units.saturating_mul(cost)) / 1000);
        known_ms.unwrap_or(limit_ms).saturating_add(PATIENCE_EXTRA_MS)
    }

    /// Units of a chunk that this peer could still add something to.
    fn useful(&self, chunk: u32) -> impl Iterator<Item = u32> {
        let units = self.job().units_of(chunk);
        units.filter(|index| {
            let open = matches!(self.tally.verdict(*index), Verdict::Open | Verdict::Partial(_));
            open && !self.tally.has_run(*index)
        })
    }
}

impl Peer {
    /// Gives free slots work: disputed units first, then what is claimed, then claims more.
    pub(crate) fn plan(&mut self, now: Time, actions: &mut Actions) {
        if !std::mem::take(&mut self.plan_due) {
            return;
        }
        for slot in 0..self.runs.slots() {
            while self.runs.has_room(slot, QUEUE_MAX, NEARLY_DONE_US)
                && self.assign(now, slot, actions)
            {}
        }
        self.claim_ahead(now, actions);
    }

    fn assign(&mut self, now: Time, slot: u16, actions: &mut Actions) -> bool {
        if let Some((job, index)) = self.next_disputed() {
            self.run(slot, job, vec![index], BTreeSet::new(), actions);
            return true;
        }
        if self.config.slots == 0 {
            return false;
        }
        loop {
            if let Some((job, units, chunks)) = self.next_claimed(now) {
                self.run(slot, job, units, chunks, actions);
                return true;
            }
            if !self.claim(now, actions) {
                return false;
            }
        }
    }

    /// A unit on which others contradict each other, or whose body nobody has any more, and that
    /// this peer has not run: whoever runs it knows who lied, and has the body. A peer that lends
    /// nothing does so for its own jobs only.
    fn next_disputed(&self) -> Option<(JobId, u32)> {
        self.board.jobs().find_map(|(id, entry)| {
            let mine = self.config.slots > 0 || entry.submitter() == self.me;
            let mut wanted = entry.disputed.iter().chain(entry.lost_bodies());
            let index = wanted.find(|index| !entry.tally.has_run(**index))?;
            (mine && entry.is_ready() && !entry.closed).then_some((*id, *index))
        })
    }

    fn run(
        &mut self,
        slot: u16,
        job: JobId,
        units: Vec<u32>,
        chunks: BTreeSet<u32>,
        actions: &mut Actions,
    ) {
        let Some(entry) = self.board.get_mut(&job) else { return };
        for index in &units {
            entry.tally.note_ran(*index, true);
        }
        entry.plan.running.extend(&chunks);
        let cost_us = entry.plan.cost_us.map(|cost| cost.saturating_mul(units.len() as u64));
        self.runs.assign(slot, job, &units, chunks, cost_us);
        actions.push(Action::Run { slot, job, units });
    }

    /// Takes claimed chunks that are still worth running, as many as make one assignment.
    fn next_claimed(&mut self, now: Time) -> Option<(JobId, Vec<u32>, BTreeSet<u32>)> {
        for id in self.jobs_by_turn() {
            let Some(entry) = self.board.get_mut(&id) else { continue };
            let (mut units, mut chunks) = (Vec::new(), BTreeSet::new());
            let mut claimed = std::mem::take(&mut entry.plan.claimed).into_iter();
            for chunk in claimed.by_ref() {
                if !is_seated(entry, now, chunk, &self.me, &self.standing) {
                    continue;
                }
                let before = units.len();
                units.extend(entry.useful(chunk));
                if units.len() > before {
                    chunks.insert(chunk);
                }
                let enough = entry
                    .plan
                    .cost_us
                    .is_none_or(|cost| cost.saturating_mul(units.len() as u64) >= ASSIGN_US);
                if enough && !units.is_empty() {
                    break;
                }
            }
            entry.plan.claimed = claimed.collect();
            if !units.is_empty() {
                units.sort_unstable();
                return Some((id, units, chunks));
            }
        }
        None
    }

    fn claim_ahead(&mut self, now: Time, actions: &mut Actions) {
        let slots = u64::from(self.config.slots);
        let backlog = |peer: &Peer| -> u64 {
            peer.board.jobs().map(|(_, entry)| entry.plan.backlog_us()).sum()
        };
        // Each turn claims at least one chunk, and a chunk is never free of cost.
        while slots > 0 && backlog(self) < AHEAD_US * slots && self.runs.is_busy() {
            let before = backlog(self);
            let long = self
                .board
                .jobs()
                .any(|(_, entry)| entry.is_ready() && entry.plan.chunk_us() > AHEAD_US * slots);
            if long || !self.claim(now, actions) || backlog(self) <= before {
                break;
            }
        }
    }

    /// Claims chunks of one job. False if there is nothing to claim anywhere.
    fn claim(&mut self, now: Time, actions: &mut Actions) -> bool {
        let workers = self.workers as u64;
        for id in self.jobs_by_turn() {
            let slots = u64::from(self.config.slots);
            let Some(entry) = self.board.get_mut(&id) else { continue };
            if entry.plan.barren {
                continue;
            }
            let chunks =
                pick(entry, now, &self.me, &self.standing, entry.plan.batch(slots, workers));
            if chunks.is_empty() {
                entry.plan.barren = true;
                continue;
            }
            entry.plan.claimed.extend(&chunks);
            let lease_ms = entry.plan.lease_ms(slots);
            entry.plan.lease_until = now.plus_ms(u64::from(lease_ms));
            self.say_claim(now, id, lease_ms, chunks, actions);
            return true;
        }
        false
    }

    fn say_claim(
        &mut self,
        now: Time,
        job: JobId,
        lease_ms: u32,
        chunks: Vec<u32>,
        actions: &mut Actions,
    ) {
        let claim = Claim { job, made: now, lease_ms, chunks };
        let record = Signed::sign(&self.key, Record::Claim(claim));
        self.gossip.pass(&record);
        self.spread(now, &record, None, actions);
    }

    /// Renews leases that would end while their chunks still wait or run.
    pub(crate) fn renew_claims(&mut self, now: Time, actions: &mut Actions) {
        for id in self.board.job_ids() {
            let slots = u64::from(self.config.slots);
            let Some(entry) = self.board.get_mut(&id) else { continue };
            let held: Vec<u32> = (entry.plan.running.iter().copied())
                .chain(entry.plan.claimed.iter().copied())
                .take(Claim::CHUNKS_MAX)
                .collect();
            if held.is_empty() || entry.plan.lease_until.ms_since(now) > RENEW_MS {
                continue;
            }
            let lease_ms = entry.plan.lease_ms(slots).max(LEASE_UNKNOWN_MS);
            entry.plan.lease_until = now.plus_ms(u64::from(lease_ms));
            self.say_claim(now, id, lease_ms, held, actions);
        }
    }
}

/// Picks chunks with a seat for this peer, in its own order, and drops from its list those that it
/// can add nothing to.
fn pick(
    entry: &mut Entry,
    now: Time,
    me: &PeerId,
    standing: &crate::standing::Standing,
    most: usize,
) -> Vec<u32> {
    let (mut picked, mut useless) = (Vec::new(), Vec::new());
    for (rank, chunk) in &entry.plan.todo {
        if picked.len() == most {
            break;
        }
        if entry.plan.claimed.contains(chunk) || entry.plan.running.contains(chunk) {
            continue;
        }
        if entry.useful(*chunk).next().is_none() {
            useless.push((*rank, *chunk));
        } else if has_seat(entry, now, *chunk, me, standing, |_| true) {
            picked.push(*chunk);
        }
    }
    for key in useless {
        entry.plan.todo.remove(&key);
    }
    picked
}

/// Whether fewer others than wanted have announced to run some unit of `chunk`.
fn has_seat(
    entry: &Entry,
    now: Time,
    chunk: u32,
    me: &PeerId,
    standing: &crate::standing::Standing,
    counts: impl Fn(&PeerId) -> bool,
) -> bool {
    let others: Vec<&PeerId> = (entry.seats.live(now, chunk, me, entry.patience_ms()))
        .filter(|peer| !standing.is_liar(peer) && counts(peer))
        .collect();
    if others.is_empty() {
        return true;
    }
    // Who has never spoken of this job is still to come on every unit.
    let voters: Vec<u16> = others.iter().filter_map(|peer| entry.tally.voter_of(peer)).collect();
    let silent = others.len() - voters.len();
    entry.useful(chunk).any(|index| {
        let coming = voters.iter().filter(|voter| !entry.tally.has_spoken(index, **voter)).count();
        silent + coming < entry.tally.wanted(index, standing)
    })
}

/// Whether this peer keeps its seat on a chunk it claimed: not if enough others with a lower rank
/// have claimed it too.
fn is_seated(
    entry: &Entry,
    now: Time,
    chunk: u32,
    me: &PeerId,
    standing: &crate::standing::Standing,
) -> bool {
    let mine = entry.plan.rank(chunk, me);
    has_seat(entry, now, chunk, me, standing, |peer| entry.plan.rank(chunk, peer) < mine)
}

#[cfg(test)]
mod tests;
