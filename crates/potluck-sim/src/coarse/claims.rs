//! Claiming: where a worker won a place, and what it takes of that.

use potluck_peer::Chance;
use potluck_peer::arithmetic::{
    CLAIM_SETTLED_US_MAX, LAST_UNITS, LEASE_EXTRA_MS, OVERDUE_EXTRA_MS, OVERDUE_TIMES,
    PATIENCE_EXTRA_MS, PATIENCE_TIMES, RENEW_MS, guided,
};

use super::view::{Kind, Seat};
use super::{Happening, START_MS, Said, World};

/// Units of one chunk that a worker has announced and not begun.
#[derive(Debug, Clone, Copy)]
pub(super) struct Claimed {
    pub(super) chunk: u32,
    pub(super) units: u64,
    pub(super) secret: bool,
    pub(super) ticket: u64,
    pub(super) start_at: u64,
    backup: bool,
}

/// Work claimed ahead of running, in microseconds, with what covers the settle time.
const AHEAD_US: u64 = 300_000 + 1000 * START_MS;

impl World {
    /// Lets windows widen to where they are now, and gives places to who wins by that.
    pub(super) fn widen(&mut self) {
        let levels = self.view.levels_at(self.now);
        let (windows, was_open) = (self.view.windows, self.view.is_open());
        for secret in [false, true] {
            let lottery = usize::from(secret);
            let from = self.view.levels[lottery];
            let to = levels[lottery].max(from);
            self.view.levels[lottery] = to;
            if secret && !self.view.has_secrets() {
                continue;
            }
            if self.now == 0 {
                self.give_places(secret, 0, windows.winners(secret, 0));
            }
            for level in from + 1..=to {
                let more = windows.winners(secret, level) - windows.winners(secret, level - 1);
                self.give_places(secret, level, more);
            }
        }
        if self.view.is_open() && !was_open {
            // Words by the public lottery now count like any other.
            for chunk in 0..u32::try_from(self.view.chunks.len()).unwrap_or(u32::MAX) {
                self.note_accepted(chunk);
            }
        }
    }

    /// Gives each chunk that is not done so many more winners on average, in parts of 2^16.
    fn give_places(&mut self, secret: bool, level: u8, winners: u128) {
        if winners == 0 {
            return;
        }
        let mean = winners as f64 / 65_536.0;
        for chunk in 0..u32::try_from(self.view.chunks.len()).unwrap_or(u32::MAX) {
            if self.view.is_done(chunk) {
                continue;
            }
            for _ in 0..poisson(&mut self.chance, mean) {
                self.give_place(secret, level, chunk);
            }
        }
    }

    fn give_place(&mut self, secret: bool, level: u8, chunk: u32) {
        let worker = self.chance.below(self.workers.len() as u64);
        let ticket = u64::from(level) << 32 | self.chance.next_u64() >> 32;
        let at = &mut self.workers[usize::try_from(worker).unwrap_or(0)];
        at.places[usize::from(secret)].push((ticket, chunk));
        at.unsorted[usize::from(secret)] = true;
    }

    /// What relied on a liar is open again: who won it may have crossed it off.
    pub(super) fn reopen(&mut self, chunk: u32) {
        let lotteries: &[bool] = if self.view.has_secrets() { &[false, true] } else { &[false] };
        for secret in lotteries.iter().copied() {
            let level = self.view.levels[usize::from(secret)];
            let winners = self.view.windows.winners(secret, level) as f64 / 65_536.0;
            for _ in 0..poisson(&mut self.chance, winners.min(64.0)) {
                self.give_place(secret, level, chunk);
            }
        }
    }

    /// How long a unit takes this worker, as far as it knows.
    fn estimate_us(&self, worker: u32) -> Option<u64> {
        self.workers[worker as usize].own_us.or(self.heard_us)
    }

    fn backlog_us(&self, worker: u32) -> u64 {
        let at = &self.workers[worker as usize];
        let units: u64 = at.claimed.iter().map(|piece| u64::from(piece.units.count_ones())).sum();
        self.estimate_us(worker).unwrap_or(AHEAD_US) * units
    }

    pub(super) fn claim_ahead(&mut self, worker: u32) {
        while self.at(worker).running.is_some() {
            let backlog = self.backlog_us(worker);
            let last = u64::from(self.view.open) <= LAST_UNITS * self.workers.len() as u64;
            let long =
                self.estimate_us(worker).unwrap_or(AHEAD_US) > AHEAD_US && (backlog > 0 || last);
            if backlog >= AHEAD_US || long || !self.claim(worker, false) {
                break;
            }
        }
    }

    /// Claims units; with `backup`, one that somebody else is late with. False if there are none.
    pub(super) fn claim(&mut self, worker: u32, backup: bool) -> bool {
        let left = self.view.open;
        let most = match self.estimate_us(worker) {
            Some(cost) if !backup => {
                let workers = self.workers.len() as u64;
                guided(CLAIM_SETTLED_US_MAX, cost, 1, workers, left)
            }
            _ => 1,
        };
        let picked = self.pick(worker, most, backup);
        if picked.is_empty() {
            return false;
        }
        for piece in &picked {
            self.view.took(worker, piece.chunk, piece.units);
        }
        let held = self.at(worker).running.is_some() || !self.at(worker).claimed.is_empty();
        self.at(worker).claimed.extend(picked.iter().copied());
        let until = self.now + 3 * self.backlog_us(worker) / 1000 + LEASE_EXTRA_MS;
        let at = self.at(worker);
        at.lease_until = if held { until.min(at.lease_until) } else { until };
        self.fared.claims += 1;
        self.happens_in(self.delay_ms, Happening::Seen(Said::Claim(worker, picked)));
        true
    }

    /// Renewals are said and change nothing: nobody dies here.
    pub(super) fn renew(&mut self) {
        for worker in 0..self.coarse.crowd.workers {
            let (now, backlog) = (self.now, self.backlog_us(worker));
            let at = self.at(worker);
            let idle = at.running.is_none() && at.claimed.is_empty();
            if !idle && !at.convicted && at.lease_until < now + RENEW_MS {
                at.lease_until = now + (3 * backlog / 1000 + LEASE_EXTRA_MS).max(30_000);
                self.fared.claims += 1;
            }
        }
    }

    fn pick(&mut self, worker: u32, most: u32, backup: bool) -> Vec<Claimed> {
        let (mut picked, mut left) = (Vec::new(), most);
        for secret in [false, true] {
            let lottery = usize::from(secret);
            if std::mem::take(&mut self.at(worker).unsorted[lottery]) {
                self.at(worker).places[lottery].sort_unstable();
            }
            let places = std::mem::take(&mut self.at(worker).places[lottery]);
            let mut done = 0;
            for (ticket, chunk) in places.iter().copied() {
                if left == 0 {
                    break;
                }
                if self.view.is_done(chunk) {
                    done += 1;
                    continue;
                }
                let useful = self.view.useful(chunk, worker, secret);
                if useful == 0 || picked.iter().any(|piece: &Claimed| piece.chunk == chunk) {
                    continue;
                }
                let free = self.free(worker, chunk, useful, secret, |_| true, backup);
                let units = some_of(free, left, ticket);
                if units != 0 {
                    left -= units.count_ones();
                    let start_at = self.now + START_MS;
                    picked.push(Claimed { chunk, units, secret, ticket, start_at, backup });
                }
            }
            let mut places = places;
            if 2 * done > places.len() {
                places.retain(|(_, chunk)| !self.view.is_done(*chunk));
            }
            self.at(worker).places[lottery] = places;
        }
        picked
    }

    /// Units with a seat that is free for a worker: see the production code's rule of that name.
    fn free(
        &self,
        worker: u32,
        chunk: u32,
        useful: u64,
        secret: bool,
        rivals: impl Fn(&Seat) -> bool,
        spare: bool,
    ) -> u64 {
        let seats = &self.view.chunks[chunk as usize].seats;
        let cost = self.estimate_us(worker);
        let heard = cost.max(self.heard_us);
        // Where everybody wins both lotteries any seat is as good as another.
        let open = self.view.is_open();
        let coming: Vec<(&Seat, bool)> = (seats.iter())
            .filter(|seat| seat.worker != worker && seat.units & useful != 0 && rivals(seat))
            .filter(|seat| {
                let work = heard.unwrap_or(0) * u64::from(seat.units.count_ones());
                self.now - seat.since < PATIENCE_TIMES * work / 1000 + PATIENCE_EXTRA_MS
                    || heard.is_none()
            })
            .map(|seat| {
                let work = cost.unwrap_or(0) * u64::from(seat.units.count_ones());
                let grant = OVERDUE_TIMES * work / 1000 + OVERDUE_EXTRA_MS;
                (seat, cost.is_some() && self.now - seat.since >= grant)
            })
            .collect();
        let mut free = 0;
        for place in (0..64).filter(|place| useful >> place & 1 == 1) {
            let bit = 1 << place;
            let on_it = || coming.iter().filter(|(seat, _)| seat.units & bit != 0);
            let (any, public_wanted) = self.view.wanted(chunk, bit);
            let is_drawn = |seat: &Seat| seat.secret || open;
            let late = |public_only: bool| {
                let counts = |seat: &Seat| !public_only || !is_drawn(seat);
                u32::from(spare && on_it().any(|(seat, overdue)| *overdue && counts(seat)))
            };
            let drawn = on_it().filter(|(seat, _)| is_drawn(seat)).count();
            let drawn = u32::try_from(drawn).unwrap_or(0);
            let public = u32::try_from(on_it().count()).unwrap_or(0) - drawn;
            let taken = drawn + public.min(1);
            let is_free = if secret || open {
                any + late(false) > taken
            } else {
                any + late(true) > taken && public_wanted + late(true) > public
            };
            free |= if is_free { bit } else { 0 };
        }
        free
    }

    /// Hands a worker what it claimed next and may begin, as far as nobody with a better place wants
    /// it. False if there is nothing.
    pub(super) fn take_claimed(&mut self, worker: u32) -> bool {
        while let Some(piece) = self.at(worker).claimed.front().copied() {
            if piece.start_at > self.now {
                return false;
            }
            self.at(worker).claimed.pop_front();
            let accepted = self.view.chunks[piece.chunk as usize].accepted;
            let useful = piece.units & !accepted;
            let first = |seat: &Seat| seat.ticket < piece.ticket;
            let free = self.free(worker, piece.chunk, useful, piece.secret, first, piece.backup);
            let kind = if piece.secret { Kind::Drawn } else { Kind::Public };
            self.view.gave_back(worker, piece.chunk, piece.units & !free);
            let units = self.view.units_of(piece.chunk, free);
            self.at(worker).hand.extend(units.map(|unit| (unit, kind)));
            if free != 0 {
                return true;
            }
        }
        false
    }
}

/// Some of the units in a mask, beginning at a place of one's own.
fn some_of(units: u64, most: u32, ticket: u64) -> u64 {
    let turn = u32::try_from(ticket & 63).unwrap_or(0);
    let mut turned = units.rotate_right(turn);
    while turned.count_ones() > most {
        turned &= !(1 << (63 - turned.leading_zeros()));
    }
    turned.rotate_left(turn)
}

/// How often something happens that does so `mean` times on average, by Knuth's product of uniform
/// numbers, in parts of a mean small enough for it.
fn poisson(chance: &mut Chance, mean: f64) -> u32 {
    let (mut times, mut left) = (0, mean);
    while left > 0.0 {
        let part = left.min(16.0);
        left -= part;
        let floor = (0..12).fold(1.0 - part / 4096.0, |power, _| power * power);
        let mut product = uniform(chance);
        while product > floor {
            times += 1;
            product *= uniform(chance);
        }
    }
    times
}

/// Between 0 and 1.
pub(super) fn uniform(chance: &mut Chance) -> f64 {
    (chance.next_u64() >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_happens_so_often_on_average_does() {
        let mut chance = Chance::of_seed(3);
        for mean in [0.2, 4.0, 40.0] {
            let sum: u32 = (0..200_000).map(|_| poisson(&mut chance, mean)).sum();
            let found = f64::from(sum) / 200_000.0;
            assert!((found / mean - 1.0).abs() < 0.03, "{found} instead of {mean}");
        }
    }
}
