//! Claiming: which units this peer announces that it will run.

use std::collections::BTreeMap;

use potluck_unit::{Claim, JobId, PeerId, Piece, Record, Signed, Time};

use crate::Peer;
use crate::action::Actions;
use crate::board::Entry;
use crate::leases::LEASE_UNKNOWN_MS;
use crate::lending::Room;
use crate::runs::Right;
use crate::schedule::{Claimed, LAST_UNITS};
use crate::standing::Standing;
use crate::timers::Timer;

impl Peer {
    pub(crate) fn claim_ahead(&mut self, now: Time, actions: &mut Actions) {
        let slots = u64::from(self.slots_now());
        let room = self.room_alone();
        let backlog = |peer: &Peer| -> u64 {
            peer.board.jobs().map(|(_, entry)| entry.plan.backlog_us()).sum()
        };
        let ready = |(_, entry): &(&JobId, &Entry)| entry.is_ready() && !entry.is_settled();
        let ahead_us =
            self.board.jobs().filter(ready).map(|(_, entry)| entry.plan.ahead_us()).max();
        let ahead_us = ahead_us.unwrap_or(0) * slots;
        // Each turn claims at least one unit, and a unit is never free of cost.
        while slots > 0 && backlog(self) < ahead_us && self.runs.is_busy() {
            let before = backlog(self);
            let workers = self.workers as u64;
            let long = |(_, entry): (&JobId, &Entry)| {
                let counts = entry.tally.counts();
                let last = u64::from(counts.open + counts.partial) <= LAST_UNITS * workers;
                entry.is_ready() && entry.plan.units_us(1) > ahead_us && (before > 0 || last)
            };
            if self.board.jobs().any(long)
                || !self.claim(now, false, room, actions)
                || backlog(self) <= before
            {
                break;
            }
        }
    }

    /// Claims units of one job that has room; with `backup`, such as somebody else is late with. False if there is
    /// nothing to claim anywhere.
    pub(crate) fn claim(
        &mut self,
        now: Time,
        backup: bool,
        room: Room,
        actions: &mut Actions,
    ) -> bool {
        let (workers, slots) = (self.workers as u64, u64::from(self.slots_now()));
        for id in self.jobs_by_turn() {
            if !self.board.get(&id).is_some_and(|entry| room.fits(entry.job())) {
                continue;
            }
            self.draw_some(now, &id);
            let Some(entry) = self.board.get_mut(&id) else { continue };
            if entry.plan.barren && !backup {
                continue;
            }
            let counts = entry.tally.counts();
            let most = entry.plan.batch(slots, workers, counts.open + counts.partial);
            let most = if backup { 1 } else { most };
            let (picked, turn_at) = pick(entry, now, &self.me, &self.standing, most, backup);
            if let Some(at) = turn_at {
                self.timers.at_latest(Timer::Plan, at);
            }
            if picked.is_empty() {
                entry.plan.barren |= !backup && turn_at.is_none();
                continue;
            }
            let pieces = pieces(picked.iter().map(|piece| (piece.chunk, piece.units, piece.right)));
            let held = !entry.plan.running.is_empty() || !entry.plan.claimed.is_empty();
            entry.plan.claimed.extend(picked);
            let lease_ms = entry.plan.lease_ms(slots);
            // What is held already ends when it did.
            let until = now.plus_ms(u64::from(lease_ms));
            entry.plan.lease_until = if held { until.min(entry.plan.lease_until) } else { until };
            self.say_claim(now, id, lease_ms, pieces, actions);
            return true;
        }
        false
    }

    /// Draws for some more chunks of a job, if what is drawn matters there.
    fn draw_some(&mut self, now: Time, id: &JobId) {
        let Some(entry) = self.board.get_mut(id) else { return };
        let matters = entry.job().copies > 1
            && entry.tally.windows().undrawn_level(now) > entry.tally.levels().1;
        let mut more = DRAWS_MAX;
        while matters && more > 0 && entry.plan.undrawn < entry.plan.chunks {
            let chunk = entry.plan.undrawn;
            entry.plan.undrawn += 1;
            if entry.tally.useful(chunk) == 0 {
                continue;
            }
            more -= 1;
            let draw = match entry.draws.get(&chunk) {
                Some(draw) => *draw,
                None => self.config.draw(&self.key, &id.draw_input(chunk)).1,
            };
            entry.draws.insert(chunk, draw);
            entry.plan.drawn.insert((draw.ticket(), chunk));
            entry.plan.barren = false;
        }
    }

    fn say_claim(
        &mut self,
        now: Time,
        job: JobId,
        lease_ms: u32,
        pieces: Vec<Piece>,
        actions: &mut Actions,
    ) {
        let Some(entry) = self.board.get_mut(&job) else { return };
        let made = entry.plan.date_claim(now, lease_ms);
        let claim = Claim { job, made, lease_ms, pieces };
        let record = Signed::sign(&self.key, Record::Claim(claim));
        self.gossip.pass(&record);
        self.spread(now, &record, None, actions);
    }

    /// Renews leases that would end while their units still wait or run.
    pub(crate) fn renew_claims(&mut self, now: Time, actions: &mut Actions) {
        for id in self.board.job_ids() {
            let slots = u64::from(self.slots_now());
            let Some(entry) = self.board.get_mut(&id) else { continue };
            let plan = &mut entry.plan;
            let idle = plan.running.is_empty() && plan.claimed.is_empty();
            if idle || plan.lease_until.ms_since(now) > RENEW_MS {
                continue;
            }
            // By which right was said when it was claimed, and is not forgotten.
            let running = plan.running.iter().map(|(chunk, units)| (*chunk, *units, Right::Public));
            let claimed = plan.claimed.iter().map(|piece| (piece.chunk, piece.units, piece.right));
            let mut pieces = pieces(running.chain(claimed));
            pieces.truncate(Claim::PIECES_MAX);
            let lease_ms = plan.lease_ms(slots).max(LEASE_UNKNOWN_MS);
            plan.lease_until = now.plus_ms(u64::from(lease_ms));
            self.say_claim(now, id, lease_ms, pieces, actions);
        }
    }

    /// Gives back what is claimed of a job and not handed to a slot, so that others take it at once.
    pub(crate) fn unclaim(&mut self, now: Time, id: JobId, actions: &mut Actions) {
        let Some(entry) = self.board.get_mut(&id) else { return };
        let claimed: Vec<Claimed> = entry.plan.claimed.drain(..).collect();
        entry.plan.look_again();
        let held = claimed.iter().map(|piece| (piece.chunk, piece.units, piece.right));
        self.say_release(now, id, held, actions);
    }

    /// Says that others may have these units.
    pub(crate) fn say_release(
        &mut self,
        now: Time,
        id: JobId,
        held: impl Iterator<Item = (u32, u64, Right)>,
        actions: &mut Actions,
    ) {
        for part in pieces(held).chunks(Claim::PIECES_MAX) {
            self.say_claim(now, id, 0, part.to_vec(), actions);
        }
    }
}

/// Units of chunks as a claim names them: each chunk once.
fn pieces(held: impl Iterator<Item = (u32, u64, Right)>) -> Vec<Piece> {
    let mut pieces: BTreeMap<u32, Piece> = BTreeMap::new();
    for (chunk, units, right) in held {
        let piece = pieces.entry(chunk).or_insert(Piece { chunk, units: 0, secret: false });
        piece.units |= units;
        piece.secret |= right != Right::Public;
    }
    pieces.into_values().collect()
}

/// Picks up to `most` units with a seat for this peer, in its own order, and drops from its lists the
/// chunks that it can add nothing to. Says when its turn comes where that is still to come.
fn pick(
    entry: &mut Entry,
    now: Time,
    me: &PeerId,
    standing: &Standing,
    most: u32,
    backup: bool,
) -> (Vec<Claimed>, Option<Time>) {
    let (mut picked, mut left, mut turn_at) = (Vec::new(), most, None);
    for secret in [false, true] {
        let mut useless = Vec::new();
        let list = if secret { &entry.plan.drawn } else { &entry.plan.public };
        for (ticket, chunk) in list {
            if left == 0 || picked.len() == Claim::PIECES_MAX {
                break;
            }
            // Places rise: who has none here has none further on.
            let Some(right) = entry.right(now, *chunk, secret.then_some(*ticket)) else { break };
            if entry.tally.useful(*chunk) == 0 {
                useless.push((*ticket, *chunk));
                continue;
            }
            let at = entry.turn_at(*ticket, secret);
            if at > now {
                turn_at = turn_at.into_iter().chain([at]).min();
                break;
            }
            let taken = picked.iter().filter(|piece: &&Claimed| piece.chunk == *chunk);
            let taken = taken.fold(entry.plan.in_hand(*chunk), |units, piece| units | piece.units);
            let free = entry.free(now, (*chunk, right), me, standing, |_| true, backup) & !taken;
            let units = some_of(free, left, *ticket);
            if units != 0 {
                left -= units.count_ones();
                let start_at = entry.start_at(now);
                picked.push(Claimed { chunk: *chunk, units, right, start_at, backup });
            }
        }
        let list = if secret { &mut entry.plan.drawn } else { &mut entry.plan.public };
        list.retain(|key| !useless.contains(key));
    }
    (picked, turn_at)
}

/// Some of the units in a mask, beginning at a place of one's own.
pub(crate) fn some_of(units: u64, most: u32, ticket: u64) -> u64 {
    let turn = u32::try_from(ticket & 63).unwrap_or(0);
    let mut turned = units.rotate_right(turn);
    while turned.count_ones() > most {
        turned &= !(1 << (63 - turned.leading_zeros()));
    }
    turned.rotate_left(turn)
}

/// Secret lots drawn in one turn: each costs as much as a few signatures.
const DRAWS_MAX: u32 = 64;
/// Leases that end sooner than this are renewed.
pub const RENEW_MS: u64 = 6_000;
