//! Scheduling: which units this peer runs next, and what it tells others of its intent.
//!
//! A worker claims units ahead of running them, in chunks where it has a seat, in an order of its own
//! that follows from the job, the chunk and its id, so that two workers seldom want the same ones.
//! Claims are guided: large while much is open, single units at the end. What is claimed is started
//! once everybody can have heard of it; of two claims too many, the one with the higher place gives
//! way if it has not started. A claim has a lease, so that whoever stalls holds nothing up for long,
//! and at the very end somebody idle runs a second copy of what is overdue.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use potluck_unit::{Job, JobId, Lot, PeerId, Time};

use crate::Peer;
use crate::action::{Action, Actions};
use crate::board::Entry;
use crate::leases::{LEASE_COUNTS_MAX_MS, LEASE_UNKNOWN_MS, Seat};
use crate::lending::Room;
use crate::runs::{Assignment, Right};
use crate::seats::SMALL_GRID;
use crate::standing::Standing;
use crate::tally::places;
use crate::timers::Timer;

/// Work claimed ahead of running, per slot, beside what covers the settle time.
const AHEAD_US: u64 = 300_000;
/// When no more units than this are left for each worker, who is busy claims no long one ahead: what
/// waits behind something slow at the very end is what all wait for.
pub const LAST_UNITS: u64 = 4;
/// The most work in one claim, per slot, where claims need not settle.
const CLAIM_US_MAX: u64 = 2_000_000;
/// The most where they do: what a crash loses, against what claims cost.
pub const CLAIM_SETTLED_US_MAX: u64 = 20_000_000;
/// Units claimed at once while nothing is known of how long one takes and claims need not settle.
const CLAIM_UNKNOWN: u32 = 4;
/// How long before its start a claim is said, where not everybody is a neighbour: gossip with its
/// announcements and questions takes less.
pub const SETTLE_MS: u64 = 2000;
/// Work handed to a slot at once: long enough that handing over costs nothing.
const ASSIGN_US: u64 = 50_000;
/// A slot whose work ends within this time is given more in advance.
const NEARLY_DONE_US: u64 = 100_000;
/// Assignments on a slot, the running one included.
const QUEUE_MAX: usize = 2;
/// A lease is three times the estimate and this.
pub const LEASE_EXTRA_MS: u64 = 10_000;
/// A seat is left to a silent worker for so many times what its units would take here, and
/// [`PATIENCE_EXTRA_MS`].
pub const PATIENCE_TIMES: u64 = 8;
/// See [`PATIENCE_TIMES`].
pub const PATIENCE_EXTRA_MS: u64 = 20_000;
/// Somebody with nothing else to do runs a unit again that is overdue by so many times what it would
/// take here, and [`OVERDUE_EXTRA_MS`].
pub const OVERDUE_TIMES: u64 = 2;
/// See [`OVERDUE_TIMES`].
pub const OVERDUE_EXTRA_MS: u64 = 3_000;

/// Units of one chunk that this peer has claimed and not handed to a slot yet.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Claimed {
    pub(crate) chunk: u32,
    pub(crate) units: u64,
    pub(crate) right: Right,
    pub(crate) start_at: Time,
    /// Whether somebody else is late with them.
    pub(crate) backup: bool,
}

/// What this peer means to do about one job.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) lot: Lot,
    /// Chunks this peer may still have something to add to, by its place in the public lottery.
    pub(crate) public: BTreeSet<(u64, u32)>,
    /// The same by what it drew in secret, where that matters.
    pub(crate) drawn: BTreeSet<(u64, u32)>,
    /// The first chunk not drawn for yet.
    pub(crate) undrawn: u32,
    /// In the order of claiming.
    pub(crate) claimed: VecDeque<Claimed>,
    /// Units handed to a slot and not done, by chunk.
    pub(crate) running: BTreeMap<u32, u64>,
    pub(crate) lease_until: Time,
    /// The date of the last claim, and that before which no other may be dated: what was given back
    /// stays given back.
    claimed_at: (Time, Time),
    /// When it could first run anything of the job.
    pub(crate) ready_at: Time,
    /// Whether the last look found nothing to claim, and nothing has happened since that could
    /// have freed a seat. Looking costs a pass over all chunks that are left.
    pub(crate) barren: bool,
    /// How long a unit takes here, in microseconds, once one has run.
    own_us: Option<u64>,
    /// How long one takes others, as they say.
    heard_us: Option<u64>,
    chunk_units: u32,
    pub(crate) chunks: u32,
    peers: u32,
    units: u32,
}

impl Plan {
    /// All chunks to do.
    pub(crate) fn new(id: &JobId, me: &PeerId, job: &Job) -> Plan {
        let lot = id.lot(me);
        Plan {
            lot,
            public: (0..job.chunks()).map(|chunk| (lot.rank(chunk), chunk)).collect(),
            drawn: BTreeSet::new(),
            undrawn: 0,
            claimed: VecDeque::new(),
            running: BTreeMap::new(),
            lease_until: Time(0),
            claimed_at: (Time(0), Time(0)),
            ready_at: Time(0),
            barren: false,
            own_us: None,
            heard_us: None,
            chunk_units: job.chunk_units(),
            chunks: job.chunks(),
            peers: job.peers,
            units: job.units,
        }
    }

    /// A unit is open again, so its chunk may be worth another look.
    pub(crate) fn reopen(&mut self, index: u32) {
        let chunk = index / self.chunk_units;
        self.barren = false;
        self.public.insert((self.lot.rank(chunk), chunk));
        self.undrawn = self.undrawn.min(chunk);
    }

    /// Something happened that may have freed a seat.
    pub(crate) fn look_again(&mut self) {
        self.barren = false;
    }

    /// When the next claim was made. Others take no two of one date for the same units, and one that
    /// gives them back must not be taken for one of before.
    pub(crate) fn date_claim(&mut self, now: Time, lease_ms: u32) -> Time {
        let (last, not_before) = self.claimed_at;
        let made = now.max(if lease_ms == 0 { last.plus_ms(1) } else { not_before });
        let not_before = if lease_ms == 0 { made.plus_ms(1) } else { not_before };
        self.claimed_at = (made, not_before);
        made
    }

    /// Nothing more is to be done about the job. Leases run out by themselves.
    pub(crate) fn give_up(&mut self) {
        self.claimed.clear();
    }

    /// Units took `spent_us` together. Takes half of what is new, so that one odd unit passes.
    pub(crate) fn note_cost(&mut self, units: u64, spent_us: u64) {
        let cost = spent_us / units.max(1);
        self.own_us = Some(self.own_us.map_or(cost, |before| u64::midpoint(before, cost)));
    }

    /// Others say how long units took them: better than nothing until one has run here. An eighth of
    /// what is new is taken, since workers differ. Nobody may take longer than `most_ms`, whatever it
    /// says.
    pub(crate) fn note_hearsay(&mut self, units: u64, spent_ms: u32, most_ms: u64) {
        if spent_ms > 0 {
            let cost = u64::from(spent_ms) * 1000 / units.max(1);
            let cost = cost.min(most_ms.saturating_mul(1000));
            self.heard_us =
                Some(self.heard_us.map_or(cost, |before| before - before / 8 + cost / 8));
        }
    }

    /// How long a unit takes here, in microseconds, as far as that is known.
    pub(crate) fn cost_us(&self) -> Option<u64> {
        self.own_us.or(self.heard_us)
    }

    /// A slot is done with a unit, or was stopped.
    pub(crate) fn note_done(&mut self, index: u32) {
        let (chunk, place) = (index / self.chunk_units, index % self.chunk_units);
        if let Some(running) = self.running.get_mut(&chunk) {
            *running &= !(1 << place);
            if *running == 0 {
                self.running.remove(&chunk);
            }
        }
    }

    /// How long units take here. While nothing is known of that, one is enough to have in hand.
    pub(crate) fn units_us(&self, units: u64) -> u64 {
        self.cost_us().unwrap_or_else(|| self.ahead_us()).saturating_mul(units)
    }

    /// What is claimed and not handed to a slot yet.
    pub(crate) fn backlog_us(&self) -> u64 {
        let units: u64 = self.claimed.iter().map(|piece| u64::from(piece.units.count_ones())).sum();
        if self.claimed.is_empty() { 0 } else { self.units_us(units) }
    }

    /// Whether claims must be heard by everybody before work on them starts: not where all workers
    /// are each other's neighbours.
    pub(crate) fn settles(&self) -> bool {
        self.peers > SMALL_GRID
    }

    /// Whether work on a claim waits until everybody must have heard of it.
    pub(crate) fn claims_settle(&self) -> bool {
        self.settles() && !self.is_interactive()
    }

    /// Whether there are so few units that an answer is wanted now rather than at the least cost.
    pub(crate) fn is_interactive(&self) -> bool {
        self.units <= self.peers
    }

    pub(crate) fn ahead_us(&self) -> u64 {
        let settle_us = if self.claims_settle() { SETTLE_MS * 1000 } else { 0 };
        AHEAD_US + settle_us
    }

    /// How many units to claim at once: enough for a while, never more than this peer's share of
    /// half of what is left, so that the end comes to all at the same time.
    pub(crate) fn batch(&self, slots: u64, workers: u64, left: u32) -> u32 {
        let Some(cost) = self.cost_us() else {
            let unknown = if self.settles() { 1 } else { CLAIM_UNKNOWN.min(self.chunk_units) };
            return u32::try_from(slots).unwrap_or(u32::MAX).max(unknown);
        };
        let most_us = if self.settles() { CLAIM_SETTLED_US_MAX } else { CLAIM_US_MAX };
        guided(most_us, cost, slots, workers, left)
    }

    pub(crate) fn lease_ms(&self, slots: u64) -> u32 {
        let estimate = match self.cost_us() {
            None => LEASE_UNKNOWN_MS.into(),
            Some(_) => 3 * self.backlog_us() / slots.max(1) / 1000 + LEASE_EXTRA_MS,
        };
        u32::try_from(estimate).unwrap_or(u32::MAX).min(LEASE_COUNTS_MAX_MS)
    }

    pub(crate) fn in_hand(&self, chunk: u32) -> u64 {
        let claimed = self.claimed.iter().filter(|piece| piece.chunk == chunk);
        let running = self.running.get(&chunk).copied().unwrap_or(0);
        claimed.fold(running, |units, piece| units | piece.units)
    }
}

/// How many units of `cost_us` to claim at once: `most_us` of work on each of `slots`, and no more
/// than a share, among `workers`, of half of the `left` ones.
pub fn guided(most_us: u64, cost_us: u64, slots: u64, workers: u64, left: u32) -> u32 {
    let by_time = most_us * slots / cost_us.max(1);
    let by_share = u64::from(left) * slots / (2 * workers.max(1));
    u32::try_from(by_time.min(by_share)).unwrap_or(u32::MAX).max(1)
}

impl Entry {
    /// How long a silent worker is left a seat: judged by what its units would take here or take
    /// others, whatever is longer, or by the job's own limit where nothing has been run yet.
    fn patience_ms(&self, seat: &Seat) -> u64 {
        let limit_ms = self.job().limits.deadline_ms.saturating_mul(2);
        let units = u64::from(seat.units.count_ones());
        let known = |cost: u64| PATIENCE_TIMES.saturating_mul(units.saturating_mul(cost)) / 1000;
        let cost = self.plan.own_us.max(self.plan.heard_us);
        cost.map_or(limit_ms, known).saturating_add(PATIENCE_EXTRA_MS)
    }

    /// Whether somebody idle should run a second copy of what a seat stands for.
    fn is_overdue(&self, now: Time, seat: &Seat) -> bool {
        let units = u64::from(seat.units.count_ones());
        self.plan.cost_us().is_some_and(|cost| {
            let grant = OVERDUE_TIMES.saturating_mul(units.saturating_mul(cost)) / 1000;
            now.ms_since(seat.since) >= grant.saturating_add(OVERDUE_EXTRA_MS)
        })
    }

    fn index(&self, chunk: u32, place: u8) -> u32 {
        chunk * self.job().chunk_units() + u32::from(place)
    }

    /// Units of a chunk with a seat that is free for this peer: fewer others than wanted have
    /// announced to run them. A staller may renew for ever, and holds a seat no longer than the
    /// patience. `rivals` says whose claims come first; with `spare`, one more may come for what is
    /// overdue.
    pub(crate) fn free(
        &self,
        now: Time,
        (chunk, right): (u32, Right),
        me: &PeerId,
        standing: &Standing,
        rivals: impl Fn(&PeerId) -> bool,
        spare: bool,
    ) -> u64 {
        let useful = self.tally.useful(chunk);
        // Where everybody wins both lotteries any seat is as good as another.
        let open = self.tally.windows().undrawn_level(now) <= self.tally.levels().1;
        let public_only = right == Right::Public && !open;
        let coming: Vec<(u64, bool, bool)> = (self.seats.live(now, chunk, me))
            .filter(|seat| now.ms_since(seat.since) < self.patience_ms(seat))
            .filter(|seat| !standing.is_liar(&seat.peer) && rivals(&seat.peer))
            .map(|seat| {
                let units = seat.units & !self.tally.spoken(chunk, &seat.peer);
                (units, self.is_overdue(now, seat), seat.secret || open)
            })
            .filter(|(units, _, _)| *units & useful != 0)
            .collect();
        if coming.is_empty() && !self.tally.is_begun(chunk) {
            return useful;
        }
        let is_free = |place: &u8| {
            let on_it = || coming.iter().filter(|(units, _, _)| units >> place & 1 == 1);
            let wanted = self.tally.wanted(self.index(chunk, *place), standing);
            // Beside one that is late, one more of its kind.
            let late = |any: bool| {
                usize::from(spare && on_it().any(|(_, late, secret)| *late && (any || !secret)))
            };
            let secret = on_it().filter(|(_, _, secret)| *secret).count();
            let public = on_it().count() - secret;
            let taken = secret + public.min(1);
            if public_only {
                wanted.any + late(false) > taken && wanted.public + late(false) > public
            } else {
                wanted.any + late(true) > taken
            }
        };
        places(useful).filter(is_free).fold(0, |free, place| free | 1 << place)
    }

    /// By which right this peer may run units of a chunk now.
    pub(crate) fn right(&self, now: Time, chunk: u32, secret: Option<u64>) -> Option<Right> {
        let (windows, levels) = (self.tally.windows(), self.tally.levels());
        match secret {
            None => (windows.public_level(self.plan.lot.rank(chunk), now) <= levels.0)
                .then_some(Right::Public),
            Some(ticket) => {
                (windows.drawn_level(ticket, now) <= levels.1).then_some(Right::Drawn(chunk))
            }
        }
    }

    /// By which right this peer runs a unit that it did not claim: one by which its word counts, if it
    /// has one, since it runs no unit twice.
    fn best_right(&self, now: Time, index: u32) -> Right {
        let chunk = self.tally.chunk_of(index);
        let secret =
            || self.draws.get(&chunk).and_then(|draw| self.right(now, chunk, Some(draw.ticket())));
        self.right(now, chunk, None).or_else(secret).unwrap_or(Right::Extra)
    }

    /// When work on a claim may start: when everybody must have heard of it, unless all are
    /// neighbours or an answer is wanted soon.
    pub(crate) fn start_at(&self, now: Time) -> Time {
        if self.plan.claims_settle() { now.plus_ms(SETTLE_MS) } else { now }
    }

    /// When it is this peer's turn to claim: later for a worse place where an answer is wanted soon,
    /// so that not all who may start do.
    pub(crate) fn turn_at(&self, ticket: u64, secret: bool) -> Time {
        if self.plan.settles() && self.plan.is_interactive() {
            self.plan.ready_at.plus_ms(self.tally.windows().stagger_ms(ticket, secret))
        } else {
            Time(0)
        }
    }
}

impl Peer {
    /// Gives free slots work: disputed units and audits first, then what is claimed, then claims
    /// more.
    pub(crate) fn plan(&mut self, now: Time, actions: &mut Actions) {
        if !std::mem::take(&mut self.plan_due) {
            return;
        }
        self.drop_idle_claims();
        self.review_audits(now);
        for slot in 0..self.runs.slots() {
            while self.is_lent(slot)
                && self.runs.has_room(slot, QUEUE_MAX, NEARLY_DONE_US)
                && self.assign(now, slot, actions)
            {}
        }
        self.claim_ahead(now, actions);
        let starts = self.board.jobs().filter_map(|(_, entry)| entry.plan.claimed.front());
        let starts = starts.map(|piece| piece.start_at).chain(self.audit_at());
        if let Some(at) = starts.filter(|at| *at > now).min() {
            self.timers.at_latest(Timer::Plan, at);
        }
    }

    /// Drops what is claimed of jobs that have nothing left to run: others did it meanwhile. It would
    /// pass for work that waits, and keep this peer from claiming any other.
    fn drop_idle_claims(&mut self) {
        let waits = |(_, entry): &(&JobId, &Entry)| !entry.plan.claimed.is_empty();
        let idle = self.board.jobs().filter(waits).filter(|(_, entry)| !self.can_run(entry));
        for id in idle.map(|(id, _)| *id).collect::<Vec<_>>() {
            if let Some(entry) = self.board.get_mut(&id) {
                entry.plan.give_up();
            }
        }
    }

    fn assign(&mut self, now: Time, slot: u16, actions: &mut Actions) -> bool {
        let room = self.room(slot);
        if let Some((job, index)) = self.next_disputed(now, room) {
            let right =
                self.board.get(&job).map_or(Right::Extra, |entry| entry.best_right(now, index));
            self.run(now, slot, (job, vec![index], right), false, actions);
            return true;
        }
        if self.slots_now() == 0 {
            return false;
        }
        if let Some((job, units, chunk)) = self.next_audit(now, room) {
            self.run(now, slot, (job, units, Right::Drawn(chunk)), false, actions);
            return true;
        }
        let waits =
            |(_, entry): (&JobId, &Entry)| !entry.plan.claimed.is_empty() && room.fits(entry.job());
        loop {
            if let Some(next) = self.next_claimed(now, room) {
                self.run(now, slot, next, true, actions);
                return true;
            }
            if self.board.jobs().any(waits) || !self.claim(now, false, room, actions) {
                break;
            }
        }
        let idle = !self.board.jobs().any(waits);
        idle && !self.runs.is_busy() && self.claim(now, true, room, actions) && {
            let next = self.next_claimed(now, room);
            next.map(|next| self.run(now, slot, next, true, actions)).is_some()
        }
    }

    /// A unit on which others contradict each other or this peer, or one of them is accused, or whose
    /// body nobody has any more: whoever runs it knows who lied, and has the body. A peer that lends nothing does so for
    /// its own jobs only.
    fn next_disputed(&self, now: Time, room: Room) -> Option<(JobId, u32)> {
        self.board.jobs().find_map(|(id, entry)| {
            let own = entry.submitter() == self.me;
            let lends = own || self.lends() && (entry.chosen || entry.collect);
            if !lends || !entry.is_ready() || entry.closed || !room.fits(entry.job()) {
                return None;
            }
            let all = own || entry.collect;
            let disputed = entry.disputed.iter();
            let called = disputed
                .filter(|(index, since)| all || entry.is_settler(now, **since, **index))
                .map(|(index, _)| index);
            let accused = entry.accused_units(id, &self.standing, all);
            let misled = if all { entry.misled_units(now, &self.standing) } else { Vec::new() };
            let mut wanted = called.chain(entry.lost_bodies()).chain(&accused).chain(&misled);
            let again = entry.doubts.iter().find(|index| !self.runs.holds(id, **index));
            let index = again.or_else(|| wanted.find(|index| !entry.tally.has_run(**index)))?;
            Some((*id, *index))
        })
    }

    fn run(
        &mut self,
        now: Time,
        slot: u16,
        (job, units, right): (JobId, Vec<u32>, Right),
        claimed: bool,
        actions: &mut Actions,
    ) {
        let Some(entry) = self.board.get_mut(&job) else { return };
        let chunk_units = entry.job().chunk_units();
        for index in &units {
            entry.tally.note_ran(*index, true);
            let (chunk, place) = (index / chunk_units, index % chunk_units);
            *entry.plan.running.entry(chunk).or_default() |= 1 << place;
        }
        let cost_us = entry.plan.cost_us().map(|cost| cost.saturating_mul(units.len() as u64));
        self.runs.assign(now, slot, Assignment::new(job, &units, right, claimed, cost_us));
        actions.push(Action::Run { slot, job, units });
    }

    /// Takes claimed units that are still worth running, as many as make one assignment.
    fn next_claimed(&mut self, now: Time, room: Room) -> Option<(JobId, Vec<u32>, Right)> {
        for id in self.jobs_by_turn() {
            let Some(entry) = self.board.get_mut(&id) else { continue };
            if !room.fits(entry.job()) {
                continue;
            }
            let (mut units, mut right) = (Vec::new(), None);
            while let Some(piece) = entry.plan.claimed.front().copied() {
                if piece.start_at > now || right.is_some_and(|right| right != piece.right) {
                    break;
                }
                entry.plan.claimed.pop_front();
                let place = entry.plan.lot.rank(piece.chunk);
                let first = |peer: &PeerId| id.rank(piece.chunk, peer) < place;
                let (standing, spare) = (&self.standing, piece.backup);
                let free =
                    entry.free(now, (piece.chunk, piece.right), &self.me, standing, first, spare);
                let runnable = piece.units & free;
                units.extend(places(runnable).map(|place| entry.index(piece.chunk, place)));
                if runnable != 0 {
                    right = Some(piece.right);
                }
                let cost = entry.plan.cost_us();
                let enough =
                    cost.is_none_or(|cost| cost.saturating_mul(units.len() as u64) >= ASSIGN_US);
                if enough && !units.is_empty() {
                    break;
                }
            }
            if let Some(right) = right {
                units.sort_unstable();
                return Some((id, units, right));
            }
        }
        None
    }
}

#[cfg(test)]
mod tests;
