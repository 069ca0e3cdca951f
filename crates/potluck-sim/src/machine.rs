//! One machine: a disk that outlives crashes, slots that run guests, and a peer while it is up.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use potluck_peer::{
    Action, Actions, Allowance, Chance, Config, Conviction, Credit, Draws, Event, Peer, Ran,
    Report, Verify,
};
use potluck_unit::{
    BlobId, JobId, Key, PeerId, ReceiptBatch, Record, RecordId, ResultHash, Signed, Time,
};

use crate::cheats::{self, Plots};
use crate::guest::{self, Guest};
use crate::scenario::{Conduct, MachineSpec};
use crate::work::Work;

/// Runs that are told of together at most: production reports several that end at once.
const TOGETHER_MAX: u64 = 4;

/// One machine.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) number: usize,
    pub(crate) key: Key,
    pub(crate) id: PeerId,
    pub(crate) spec: MachineSpec,
    /// None while it is down.
    pub(crate) peer: Option<Peer>,
    /// How often it was started: what was under way in an earlier life is void.
    pub(crate) life: u64,
    pub(crate) disk: Disk,
    pub(crate) slots: Vec<Slot>,
    pub(crate) alarm: Option<Time>,
    /// It crashes in its next turn, which comes to nothing.
    pub(crate) torn: Option<u64>,
    /// It never comes back.
    pub(crate) dead: bool,
    /// Units it has run, or said so.
    pub(crate) runs: u32,
    /// What it has forged so far.
    pub(crate) forged: cheats::Forged,
}

/// What is the same for all machines of a world.
#[derive(Clone)]
pub(crate) struct Means {
    pub(crate) seed: u64,
    pub(crate) verify: Verify,
    pub(crate) draws: Arc<dyn Draws>,
    pub(crate) open: bool,
}

/// What outlives a crash.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    records: BTreeMap<u64, Signed>,
    places: BTreeMap<RecordId, u64>,
    next: u64,
    pub(crate) notes: Vec<Conviction>,
    pub(crate) credits: BTreeMap<PeerId, Credit>,
    pub(crate) blobs: BTreeSet<BlobId>,
    /// Outcomes, with their bytes.
    pub(crate) bodies: BTreeMap<ResultHash, u64>,
}

/// A place to run units.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    queue: VecDeque<(JobId, VecDeque<u32>)>,
    /// Units of the front assignment that run now.
    running: usize,
    running_us: u64,
    /// When it ends, unless it is suspended.
    ends: Option<Time>,
    /// What is left of it while it is, in milliseconds.
    left_ms: Option<u64>,
    /// Tells what runs now from what ran before: what was stopped does not end by itself.
    pub(crate) turn: u64,
    /// Time that is less than a tick of the clock.
    rest_us: u64,
}

impl Disk {
    /// Carries out what a turn wants kept.
    pub(crate) fn write(&mut self, action: &Action) {
        match action {
            Action::Keep(record) => {
                if let Record::Receipts(batch) = record.record() {
                    self.bodies.extend(batch.bodies.iter().map(|body| measured(body)));
                }
                self.next += 1;
                if self.places.insert(record.id(), self.next).is_none() {
                    self.records.insert(self.next, record.clone());
                }
            }
            Action::Forget(record) => {
                if let Some(place) = self.places.remove(&record.id()) {
                    self.records.remove(&place);
                }
            }
            Action::Note(conviction) => self.notes.push(conviction.clone()),
            Action::Discard(result) => {
                self.bodies.remove(result);
            }
            Action::Credit(credit) => {
                self.credits.insert(credit.peer, *credit);
            }
            Action::Say { .. }
            | Action::Dial { .. }
            | Action::HangUp { .. }
            | Action::Clear(_)
            | Action::Fetch { .. }
            | Action::Run { .. }
            | Action::Stop { .. }
            | Action::Lend(_)
            | Action::Tell(_)
            | Action::WakeAt(_) => {}
        }
    }

    /// Whether a record is kept.
    pub(crate) fn holds(&self, id: &RecordId) -> bool {
        self.places.contains_key(id)
    }

    /// Loses the outcomes that are not inside records.
    pub(crate) fn lose_outputs(&mut self) {
        self.bodies.clear();
        for record in self.records.values() {
            if let Record::Receipts(batch) = record.record() {
                self.bodies.extend(batch.bodies.iter().map(|body| measured(body)));
            }
        }
    }

    /// How long an outcome is that is here and too large for a receipt.
    pub(crate) fn large(&self, result: &ResultHash) -> Option<u64> {
        self.bodies.get(result).copied().filter(|bytes| *bytes > INLINE_BYTES_MAX)
    }

    /// How many records are kept.
    pub(crate) fn count(&self) -> usize {
        self.records.len()
    }
}

impl Machine {
    pub(crate) fn new(number: usize, seed: u64, spec: MachineSpec) -> Machine {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&seed.to_le_bytes()).update(&(number as u64).to_le_bytes());
        let key = Key::of_secret(hasher.finalize().as_bytes());
        let slots = usize::from(spec.slots.max(1));
        let forged = cheats::Forged::of(&spec, number, seed);
        Machine {
            number,
            id: key.id(),
            key,
            peer: None,
            life: 0,
            disk: Disk::default(),
            slots: (0..slots).map(|_| Slot::default()).collect(),
            alarm: None,
            torn: None,
            dead: false,
            runs: 0,
            forged,
            spec,
        }
    }

    /// Where a machine of this number can be reached.
    pub(crate) fn address(number: usize) -> SocketAddr {
        let port = u16::try_from(number).unwrap_or(u16::MAX - 1) + 1;
        ([10, 0, 0, 1], port).into()
    }

    /// Which machine is reached there; a number that no machine has for what a cheat made up.
    pub(crate) fn at(address: &SocketAddr) -> usize {
        usize::from(address.port()).checked_sub(1).unwrap_or(usize::MAX)
    }

    /// Whether its owner means well and nothing is wrong with it.
    pub(crate) fn is_honest(&self) -> bool {
        self.spec.conduct.is_blameless()
    }

    /// What its clock shows. Never less than before.
    pub(crate) fn clock(&self, now: Time) -> Time {
        let gained_ms = i128::from(now.0 - BEGIN.0) * i128::from(self.spec.drift_ppm) / 1_000_000;
        let local = i128::from(now.0) + i128::from(self.spec.skew_ms) + gained_ms;
        Time(u64::try_from(local).unwrap_or(0))
    }

    /// When its clock will show this, by the world's time.
    fn world_time(&self, now: Time, local: Time) -> Time {
        let left_ms = i128::from(local.ms_since(self.clock(now)));
        let ms = left_ms * 1_000_000 / (1_000_000 + i128::from(self.spec.drift_ppm)).max(1);
        // A little late rather than early: an alarm that finds nothing due rings again.
        now.plus_ms(u64::try_from(ms).unwrap_or(0) + u64::from(self.spec.drift_ppm != 0))
    }

    /// Sets the one alarm. When it rings, by the world's time.
    pub(crate) fn wake_at(&mut self, now: Time, local: Time) -> Time {
        let at = self.world_time(now, local);
        self.alarm = Some(at);
        at
    }

    /// Tells its peer something, if it is up.
    pub(crate) fn handle(&mut self, now: Time, event: Event, actions: &mut Actions) {
        let local = self.clock(now);
        if let Some(peer) = &mut self.peer {
            peer.handle(local, event, actions);
        }
    }

    /// Starts the machine: a new peer that is told what the disk kept.
    pub(crate) fn start(&mut self, now: Time, joins: Vec<SocketAddr>, means: &Means) {
        self.life += 1;
        let config = Config {
            slots: self.spec.slots,
            addresses: vec![Machine::address(self.number)],
            joins,
            agent: "sim".to_owned(),
            seed: means.seed ^ self.life << 40 ^ self.number as u64,
            verify: Some(means.verify.clone()),
            draws: Some(means.draws.clone()),
            open: means.open,
            ..Config::default()
        };
        let mut peer = Peer::new(self.key.clone(), config);
        let (mut nothing, local) = (Actions::new(), self.clock(now));
        for conviction in &self.disk.notes {
            peer.handle(local, Event::Convicted(conviction.clone()), &mut nothing);
        }
        for credit in self.disk.credits.values() {
            peer.handle(local, Event::Credited(*credit), &mut nothing);
        }
        for record in self.disk.records.values() {
            peer.handle(local, Event::Kept { record: record.clone() }, &mut nothing);
        }
        for (result, bytes) in &self.disk.bodies {
            if *bytes > INLINE_BYTES_MAX {
                let event = Event::Holds { result: *result, bytes: *bytes };
                peer.handle(local, event, &mut nothing);
            }
        }
        self.peer = Some(peer);
    }

    /// Everything but the disk is gone.
    pub(crate) fn crash(&mut self) {
        self.peer = None;
        self.alarm = None;
        self.torn = None;
        self.slots.iter_mut().for_each(|slot| *slot = Slot::default());
    }

    /// A slot is given units. When the first of them end, if it had nothing to do.
    pub(crate) fn assign(
        &mut self,
        now: Time,
        slot: u16,
        (job, units): (JobId, &[u32]),
        work: &Work,
        chance: &mut Chance,
    ) -> Option<Time> {
        let place = self.slots.get_mut(usize::from(slot))?;
        place.queue.push_back((job, units.iter().copied().collect()));
        self.go_on(now, slot, work, chance)
    }

    /// What runs on a slot is killed and what waits there dropped: the assignments.
    pub(crate) fn stop(&mut self, slot: u16) -> Vec<(JobId, Vec<u32>)> {
        let Some(place) = self.slots.get_mut(usize::from(slot)) else { return Vec::new() };
        place.running = 0;
        (place.ends, place.left_ms) = (None, None);
        place.turn += 1;
        let dropped = std::mem::take(&mut place.queue);
        dropped.into_iter().map(|(job, units)| (job, units.into())).collect()
    }

    /// Runs the next units of a slot. When they end, unless it has nothing to do or is at it.
    fn go_on(&mut self, now: Time, slot: u16, work: &Work, chance: &mut Chance) -> Option<Time> {
        let speed = self.spec.speed_per_mille.max(1);
        let place = self.slots.get_mut(usize::from(slot))?;
        let (job, units) = place.queue.front().filter(|_| place.running == 0)?;
        if self.spec.conduct == Conduct::Stalls {
            return None;
        }
        let most = usize::try_from(1 + chance.below(TOGETHER_MAX)).unwrap_or(1);
        place.running = units.len().min(most);
        let costs = units.iter().take(place.running);
        let full_us: u64 = costs.map(|index| work.cost_us(job, *index)).sum();
        place.running_us = full_us * 1000 / speed;
        place.turn += 1;
        let total_us = place.rest_us + place.running_us;
        place.rest_us = total_us % 1000;
        place.ends = Some(now.plus_ms(total_us / 1000));
        place.ends
    }

    /// What is lent changed: suspends what may not run any more, and lets go on what may again.
    /// Which slots end in which turn, and when.
    pub(crate) fn lend(&mut self, now: Time, lent: &Allowance) -> Vec<(u16, u64, Time)> {
        let mut going = Vec::new();
        for (slot, place) in (0..).zip(&mut self.slots) {
            if let Some(ends) = place.ends.take_if(|_| place.running > 0 && !lent.runs(slot)) {
                place.left_ms = Some(ends.ms_since(now));
                place.turn += 1;
            } else if let Some(left_ms) = place.left_ms.take_if(|_| lent.runs(slot)) {
                let at = now.plus_ms(left_ms);
                place.ends = Some(at);
                going.push((slot, place.turn, at));
            }
        }
        going
    }

    /// Which turn of a slot this is.
    pub(crate) fn turn(&self, slot: u16) -> u64 {
        self.slots.get(usize::from(slot)).map_or(0, |place| place.turn)
    }

    /// What runs on a slot has ended: what to tell the peer, and when what runs next ends.
    pub(crate) fn end(
        &mut self,
        now: Time,
        slot: u16,
        work: &Work,
        plots: &mut Plots,
        chance: &mut Chance,
    ) -> Option<(Ran, Option<Time>)> {
        let place = self.slots.get_mut(usize::from(slot))?;
        let (job, units) = place.queue.front_mut()?;
        let (job, ended) = (*job, units.drain(..place.running).collect::<Vec<u32>>());
        let done = units.is_empty();
        if done {
            place.queue.pop_front();
        }
        place.running = 0;
        let spent_us = place.running_us;
        let reports =
            ended.into_iter().map(|index| self.report(&job, index, work, plots, chance)).collect();
        let next = self.go_on(now, slot, work, chance);
        Some((Ran { slot, job, reports, spent_us, done }, next))
    }

    /// What this machine says of a unit that it ran, or should have run.
    fn report(
        &mut self,
        job: &JobId,
        index: u32,
        work: &Work,
        plots: &mut Plots,
        chance: &mut Chance,
    ) -> Report {
        self.runs += 1;
        match cheats::says(self, job, index, work, plots, chance) {
            cheats::Says::Made(guest) => return self.done(&guest, index),
            cheats::Says::Only(report) => return report,
            cheats::Says::Truth => {}
        }
        if work.fails(self, index) {
            return guest::no_result(index);
        }
        self.done(&work.run(job, index, self), index)
    }

    fn done(&mut self, guest: &Guest, index: u32) -> Report {
        self.disk.bodies.insert(guest.result, guest.body.len() as u64);
        let report = guest.report(index);
        let silent = self.spec.conduct == Conduct::Withholds;
        if silent { Report { body: None, ..report } } else { report }
    }
}

/// What a body may have to travel inside a receipt.
const INLINE_BYTES_MAX: u64 = ReceiptBatch::BODY_BYTES_MAX as u64;

fn measured(body: &[u8]) -> (ResultHash, u64) {
    (BlobId::of(body).result_hash(), body.len() as u64)
}

/// When the world begins: clocks are never near zero.
pub(crate) const BEGIN: Time = Time(1_700_000_000_000);
