//! A coarser crowd, for more workers than fit into memory as peers: one view that all share, and that
//! shows what somebody said a moment later.
//!
//! Kept is what decides how much work is done and when: chunks, the windows of both lotteries and how
//! they widen, guided claims that settle and who gives way, patience and second copies of what is late,
//! batches of receipts, audits and what raises their rate, disputes and who settles them. All of that is
//! the arithmetic of the production code. Left out are messages, neighbours, standing, churn, and units
//! so short that several are handed to a slot at once. The production code is held against this where
//! both can go (`benches/sim.rs`).

mod audits;
mod claims;
mod view;

use std::collections::{BTreeMap, VecDeque};

use potluck_peer::Chance;
use potluck_peer::arithmetic::{FLUSH_AFTER_MS, SETTLE_MS};

use crate::crowd::{Crowd, Fared, log_normal};
use audits::LEAD;
use claims::Claimed;
use view::{Kind, View, Word};

/// Everything that decides how a coarse crowd fares.
#[derive(Debug, Clone)]
pub struct Coarse {
    /// Workers, units and what they cost; one job, and its `lives` don't matter.
    pub crowd: Crowd,
    /// So many workers in a thousand are one coalition that lies alike about the same units, where no
    /// outsider has spoken as far as it has heard.
    pub liars_per_mille: u64,
    /// About so many units in a thousand.
    pub lies_per_mille: u64,
}

/// What becomes visible to everybody.
#[derive(Debug)]
enum Said {
    Claim(u32, Vec<Claimed>),
    Words(Vec<(u32, Word)>),
}

#[derive(Debug)]
enum Happening {
    /// A worker looks whether there is something to do.
    Woke(u32),
    Ended(u32),
    Flush(u32),
    Seen(Said),
    /// What is looked at once a second.
    Second,
}

/// One worker with one slot.
#[derive(Debug, Default)]
struct Worker {
    speed_per_mille: u64,
    liar: bool,
    convicted: bool,
    /// How long a unit takes it, in microseconds, once one has.
    own_us: Option<u64>,
    /// Where it won a place, by lottery, best first: ticket and chunk.
    places: [Vec<(u64, u32)>; 2],
    /// Whether places were added since they were last put in order.
    unsorted: [bool; 2],
    claimed: VecDeque<Claimed>,
    lease_until: u64,
    /// What it was handed: unit and by which right.
    hand: VecDeque<(u32, Kind)>,
    running: Option<(u32, Kind, u64)>,
    /// Units to audit by when and chunk.
    due: BTreeMap<(u64, u32), u64>,
    /// Words that are not signed yet.
    waiting: BTreeMap<(u32, Kind), Word>,
    flush_at: Option<u64>,
    woke_at: Option<u64>,
    /// Chunks it has spoken of.
    spoken: Vec<u32>,
}

#[derive(Debug)]
struct World {
    coarse: Coarse,
    now: u64,
    queue: BTreeMap<u64, VecDeque<Happening>>,
    workers: Vec<Worker>,
    view: View,
    chance: Chance,
    /// How long what one says takes to all, in milliseconds.
    delay_ms: u64,
    /// What units take others, as everybody hears it.
    heard_us: Option<u64>,
    /// The rate of audits, and how many were proven to lie.
    rate: f64,
    liars: usize,
    /// Chunks with a dispute, and since when.
    disputes: VecDeque<(u64, u32)>,
    /// Workers that run nothing.
    idle: u64,
    /// Work begun, and how much of it for units that were accepted already.
    executed_us: u64,
    audited_us: u64,
    accepted_ms: Vec<u64>,
    /// Things that are still to happen, beside looks at what is there.
    pending: u64,
    fared: Fared,
}

/// Who has nothing to do looks again after this time, in milliseconds.
const IDLE_MS: u64 = 500;
/// Neighbours that one tells at once, on average: gossip takes as many steps as this needs to reach all.
const FANOUT: u64 = 3;

impl Coarse {
    /// Lets it do its job.
    pub fn fare(self) -> Fared {
        let mut world = World::new(self);
        world.run();
        world.sum_up()
    }
}

impl World {
    fn new(coarse: Coarse) -> World {
        let crowd = &coarse.crowd;
        let mut chance = Chance::of_seed(crowd.seed);
        let workers: Vec<Worker> = (0..crowd.workers)
            .map(|number| Worker {
                speed_per_mille: log_normal(&mut chance, 1000, crowd.speed_sigma),
                liar: u64::from(number) * 1000 < u64::from(crowd.workers) * coarse.liars_per_mille,
                ..Worker::default()
            })
            .collect();
        let steps = u64::from(crowd.workers.max(2).ilog(u32::try_from(FANOUT).unwrap_or(2)) + 1);
        let one_way = u64::midpoint(crowd.delay_ms.0, crowd.delay_ms.1);
        let accepted_ms = vec![u64::MAX; crowd.units as usize];
        let mut world = World {
            now: 0,
            queue: BTreeMap::new(),
            view: View::new(&crate::crowd::plain_job(crowd)),
            delay_ms: steps * one_way,
            heard_us: None,
            rate: 0.0,
            liars: 0,
            disputes: VecDeque::new(),
            idle: u64::from(coarse.crowd.workers),
            executed_us: 0,
            audited_us: 0,
            accepted_ms,
            pending: 0,
            fared: Fared::default(),
            workers,
            chance,
            coarse,
        };
        world.rate = world.rate_of(0);
        world.widen();
        for worker in 0..world.coarse.crowd.workers {
            // The job's record, then its module and inputs.
            let ms = world.delay_ms + 4 * one_way + world.chance.below(one_way + 1);
            world.happens_in(ms, Happening::Woke(worker));
        }
        world.happens_in(1000, Happening::Second);
        world
    }

    fn happens_in(&mut self, ms: u64, what: Happening) {
        self.pending += u64::from(matches!(what, Happening::Ended(_) | Happening::Seen(_)));
        self.queue.entry(self.now + ms).or_default().push_back(what);
    }

    fn run(&mut self) {
        while !self.is_over() {
            let Some(mut first) = self.queue.first_entry() else { break };
            self.now = *first.key();
            let Some(what) = first.get_mut().pop_front() else {
                first.remove();
                continue;
            };
            if self.now > self.coarse.crowd.end_ms {
                break;
            }
            self.fared.events += 1;
            match what {
                Happening::Woke(worker) => self.woke(worker),
                Happening::Ended(worker) => self.ended(worker),
                Happening::Flush(worker) => self.flush(worker),
                Happening::Seen(said) => {
                    self.pending -= 1;
                    self.seen(said);
                }
                Happening::Second => self.second(),
            }
        }
    }

    /// With liars, what has been said is audited to the end.
    fn is_over(&self) -> bool {
        let calm = || {
            let idle = |worker: &Worker| {
                worker.due.is_empty() && worker.hand.is_empty() && worker.waiting.is_empty()
            };
            self.pending == 0 && self.workers.iter().all(idle)
        };
        self.view.open == 0 && (self.coarse.liars_per_mille == 0 || calm())
    }

    fn at(&mut self, worker: u32) -> &mut Worker {
        &mut self.workers[worker as usize]
    }

    fn cost_us(&self, unit: u32) -> u64 {
        self.coarse.crowd.cost_us(0, unit)
    }

    fn woke(&mut self, worker: u32) {
        let now = self.now;
        let at = self.at(worker);
        if at.woke_at.is_some_and(|at| at <= now) {
            at.woke_at = None;
        }
        self.plan(worker);
    }

    fn wake_in(&mut self, worker: u32, ms: u64) {
        let at = self.now + ms;
        if self.at(worker).woke_at.is_none_or(|before| at < before) {
            self.at(worker).woke_at = Some(at);
            self.happens_in(ms, Happening::Woke(worker));
        }
    }

    /// Gives a worker what is next, and lets it claim more.
    fn plan(&mut self, worker: u32) {
        if self.at(worker).convicted {
            return;
        }
        if self.at(worker).running.is_none() {
            match self.next(worker) {
                Some((unit, kind)) => self.start(worker, unit, kind),
                None if self.at(worker).claimed.is_empty() => {
                    let _ = self.claim(worker, false) || self.claim(worker, true);
                }
                None => {}
            }
        }
        self.claim_ahead(worker);
        let (now, at) = (self.now, self.at(worker));
        let start = at.claimed.front().map(|piece| piece.start_at);
        let due = at.due.keys().next().map(|(at, _)| *at);
        let next = start.into_iter().chain(due).filter(|at| *at > now).min();
        let idle = at.running.is_none();
        match next {
            Some(next) if !idle || next < now + IDLE_MS => self.wake_in(worker, next - now),
            _ if idle => {
                let ms = self.idle_ms();
                self.wake_in(worker, ms);
            }
            _ => {}
        }
    }

    /// When who has nothing to do looks again. Where there are many times more of them than units, not
    /// all need look each time for somebody to find what there is.
    fn idle_ms(&self) -> u64 {
        IDLE_MS * (self.idle / (8 * u64::from(self.view.open) + 1)).clamp(1, 20)
    }

    /// The next unit to run: what is in hand, then audits, then what is claimed and may start.
    fn next(&mut self, worker: u32) -> Option<(u32, Kind)> {
        loop {
            if let Some(next) = self.at(worker).hand.pop_front() {
                return Some(next);
            }
            if !(self.take_audit(worker) || self.take_claimed(worker)) {
                return None;
            }
        }
    }

    fn start(&mut self, worker: u32, unit: u32, kind: Kind) {
        let cost = self.cost_us(unit);
        let us = cost * 1000 / self.at(worker).speed_per_mille.max(1);
        if !self.lies(worker, unit) {
            self.executed_us += cost;
            self.audited_us += if self.view.is_accepted(unit) { cost } else { 0 };
        }
        self.at(worker).running = Some((unit, kind, us));
        self.idle -= 1;
        self.happens_in(us.div_ceil(1000), Happening::Ended(worker));
    }

    /// Whether a worker lies about a unit: a liar does about some, and says so as long as all who have
    /// spoken lie too.
    fn lies(&self, worker: u32, unit: u32) -> bool {
        let chosen = || {
            let seed = self.coarse.crowd.seed ^ (u64::from(unit) << 20);
            Chance::of_seed(seed).happens(self.coarse.lies_per_mille)
        };
        self.workers[worker as usize].liar && chosen() && !self.view.is_told(unit)
    }

    fn ended(&mut self, worker: u32) {
        self.pending -= 1;
        let lies = self.at(worker).running.is_some_and(|(unit, ..)| self.lies(worker, unit));
        let Some((unit, kind, us)) = self.at(worker).running.take() else { return };
        self.idle += 1;
        let (chunk, bit) = self.view.place(unit);
        let at = self.at(worker);
        at.own_us = Some(at.own_us.map_or(us, |before| u64::midpoint(before, us)));
        let word = at.waiting.entry((chunk, kind)).or_insert(Word::of(worker, kind));
        word.units |= bit;
        word.lies |= if lies { bit } else { 0 };
        word.spent_us += us;
        if at.flush_at.is_none() {
            let (least, most) = FLUSH_AFTER_MS;
            let wait = (self.now / 20).clamp(least, most);
            self.at(worker).flush_at = Some(self.now + wait);
            self.happens_in(wait, Happening::Flush(worker));
        }
        self.plan(worker);
        if self.at(worker).running.is_none() {
            self.flush(worker);
        }
    }

    /// Signs what waits: one batch for the public lottery, one for each chunk drawn.
    fn flush(&mut self, worker: u32) {
        let at = self.at(worker);
        at.flush_at = None;
        if at.convicted {
            return at.waiting.clear();
        }
        let waiting = std::mem::take(&mut at.waiting);
        let public = |(_, kind): &&(u32, Kind)| *kind == Kind::Public;
        let drawn = waiting.keys().filter(|key| !public(key)).count();
        self.fared.receipts += (drawn + usize::from(waiting.keys().any(|key| public(&key)))) as u64;
        let words: Vec<(u32, Word)> =
            waiting.into_iter().map(|((chunk, _), word)| (chunk, word)).collect();
        if !words.is_empty() {
            self.happens_in(self.delay_ms, Happening::Seen(Said::Words(words)));
        }
    }

    fn seen(&mut self, said: Said) {
        match said {
            Said::Claim(worker, pieces) => {
                for piece in pieces {
                    self.view.claimed(self.now, worker, &piece);
                }
            }
            Said::Words(words) => {
                for (chunk, word) in words {
                    self.heard(chunk, word);
                }
                self.widen();
            }
        }
    }

    fn heard(&mut self, chunk: u32, word: Word) {
        if self.at(word.worker).convicted {
            return;
        }
        let cost = word.spent_us / u64::from(word.units.count_ones().max(1));
        self.heard_us = Some(self.heard_us.map_or(cost, |before| before - before / 8 + cost / 8));
        self.at(word.worker).spoken.push(chunk);
        let contradicted = self.view.hear(self.now, chunk, word);
        self.note_accepted(chunk);
        if contradicted != 0 {
            self.dispute(chunk, contradicted);
        }
        self.settle(chunk, LEAD);
        self.draw_auditors(chunk, word, 0.0);
    }

    /// Notes when units were accepted: the last time counts.
    fn note_accepted(&mut self, chunk: u32) {
        let (accepted, reopened) = self.view.judge(chunk);
        for unit in self.view.units_of(chunk, accepted) {
            self.accepted_ms[unit as usize] = self.now;
            self.fared.wrong += u32::from(self.view.is_lie(unit));
        }
        for unit in self.view.units_of(chunk, reopened) {
            self.accepted_ms[unit as usize] = u64::MAX;
        }
        if reopened != 0 {
            self.reopen(chunk);
        }
    }

    fn second(&mut self) {
        self.widen();
        self.renew();
        self.settle_old();
        self.raise_rate();
        self.happens_in(1000, Happening::Second);
    }

    fn sum_up(mut self) -> Fared {
        let copies = u64::from(self.coarse.crowd.quality.copies());
        let units = 0..self.coarse.crowd.units;
        let work: u64 = units.map(|unit| self.cost_us(unit)).sum::<u64>() * copies;
        let speed: u64 = self.workers.iter().map(|worker| worker.speed_per_mille).sum();
        let ppm = |us: u64| {
            let ppm = u128::from(us) * 1_000_000 / u128::from(work.max(1));
            u64::try_from(ppm).unwrap_or(u64::MAX)
        };
        self.fared.fluid_ms = work / speed.max(1);
        self.fared.audits_ppm = ppm(self.audited_us);
        self.fared.waste_ppm =
            ppm(self.executed_us.saturating_sub(work).saturating_sub(self.audited_us));
        self.fared.wrong_left = self.view.wrong();
        self.accepted_ms.retain(|ms| *ms < u64::MAX);
        self.accepted_ms.sort_unstable();
        self.fared.accepted_ms = self.accepted_ms;
        self.fared
    }
}

/// Work on a claim starts this long after it was said.
const START_MS: u64 = SETTLE_MS;
