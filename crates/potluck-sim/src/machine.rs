//! One machine: a disk that outlives crashes, slots that run guests, and a peer while it is up.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;

use potluck_peer::{
    Action, Actions, Chance, Config, Conviction, Credit, Event, Peer, Ran, Report, Verify,
};
use potluck_unit::{
    BlobId, JobId, Key, PeerId, Record, RecordId, ResultHash, Signed, Time, UnitId, Witness,
};

use crate::guest::{self, Guest};
use crate::scenario::{Conduct, MachineSpec};

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
    /// Gone for good.
    pub(crate) dead: bool,
    /// How often it was started: what was under way in an earlier life is void.
    pub(crate) life: u64,
    pub(crate) disk: Disk,
    pub(crate) slots: Vec<Slot>,
    pub(crate) alarm: Option<Time>,
    /// It crashes in its next turn, which comes to nothing.
    pub(crate) torn: Option<u64>,
    runs: u32,
}

/// What outlives a crash.
#[derive(Debug, Default)]
pub(crate) struct Disk {
    records: BTreeMap<u64, Signed>,
    places: BTreeMap<RecordId, u64>,
    next: u64,
    pub(crate) notes: Vec<Conviction>,
    pub(crate) credits: BTreeMap<PeerId, Credit>,
    pub(crate) module: bool,
    pub(crate) inputs: bool,
    pub(crate) bodies: BTreeSet<ResultHash>,
}

/// A place to run units.
#[derive(Debug, Default)]
pub(crate) struct Slot {
    queue: VecDeque<(JobId, VecDeque<u32>)>,
    /// Units of the front assignment that run now.
    running: usize,
    running_us: u64,
    /// Time that is less than a tick of the clock.
    rest_us: u64,
}

/// What units are, on this world.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Physics {
    pub(crate) seed: u64,
    pub(crate) unit_us: (u64, u64),
    pub(crate) no_result_per_mille: u64,
}

impl Disk {
    /// Carries out what a turn wants kept.
    pub(crate) fn write(&mut self, action: &Action) {
        match action {
            Action::Keep(record) => {
                if let Record::Receipts(batch) = record.record() {
                    let results = batch.bodies.iter().map(|body| BlobId::of(body).result_hash());
                    self.bodies.extend(results);
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
            | Action::Tell(_)
            | Action::WakeAt(_) => {}
        }
    }

    /// Whether a record is kept.
    pub(crate) fn holds(&self, id: &RecordId) -> bool {
        self.places.contains_key(id)
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
        Machine {
            number,
            id: key.id(),
            key,
            peer: None,
            life: 0,
            dead: false,
            disk: Disk::default(),
            slots: (0..slots).map(|_| Slot::default()).collect(),
            alarm: None,
            torn: None,
            runs: 0,
            spec,
        }
    }

    /// Where a machine of this number can be reached.
    pub(crate) fn address(number: usize) -> SocketAddr {
        let port = u16::try_from(number).unwrap_or(u16::MAX - 1) + 1;
        ([10, 0, 0, 1], port).into()
    }

    /// Which machine is reached there.
    pub(crate) fn at(address: &SocketAddr) -> usize {
        usize::from(address.port()) - 1
    }

    pub(crate) fn is_honest(&self) -> bool {
        !self.dead && matches!(self.spec.conduct, Conduct::Honest | Conduct::Fails)
    }

    /// Starts the machine: a new peer that is told what the disk kept.
    pub(crate) fn start(&mut self, now: Time, seed: u64, joins: Vec<SocketAddr>, verify: &Verify) {
        self.life += 1;
        let config = Config {
            slots: self.spec.slots,
            addresses: vec![Machine::address(self.number)],
            joins,
            agent: "sim".to_owned(),
            seed: seed ^ self.life << 40 ^ self.number as u64,
            verify: Some(verify.clone()),
            ..Config::default()
        };
        let mut peer = Peer::new(self.key.clone(), config);
        let mut nothing = Actions::new();
        for conviction in &self.disk.notes {
            peer.handle(now, Event::Convicted(conviction.clone()), &mut nothing);
        }
        for credit in self.disk.credits.values() {
            peer.handle(now, Event::Credited(*credit), &mut nothing);
        }
        for record in self.disk.records.values() {
            peer.handle(now, Event::Kept { record: record.clone() }, &mut nothing);
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
        job: JobId,
        units: &[u32],
        physics: &Physics,
        chance: &mut Chance,
    ) -> Option<Time> {
        let place = self.slots.get_mut(usize::from(slot))?;
        place.queue.push_back((job, units.iter().copied().collect()));
        self.go_on(now, slot, physics, chance)
    }

    /// Runs the next units of a slot. When they end, unless it has nothing to do or is at it.
    fn go_on(
        &mut self,
        now: Time,
        slot: u16,
        physics: &Physics,
        chance: &mut Chance,
    ) -> Option<Time> {
        let speed = self.spec.speed_per_mille.max(1);
        let place = self.slots.get_mut(usize::from(slot))?;
        let (_, units) = place.queue.front().filter(|_| place.running == 0)?;
        if self.spec.conduct == Conduct::Stalls {
            return None;
        }
        let most = usize::try_from(1 + chance.below(TOGETHER_MAX)).unwrap_or(1);
        place.running = units.len().min(most);
        let costs = units.iter().take(place.running);
        let full_us: u64 =
            costs.map(|index| guest::cost_us(physics.seed, *index, physics.unit_us)).sum();
        place.running_us = full_us * 1000 / speed;
        let total_us = place.rest_us + place.running_us;
        place.rest_us = total_us % 1000;
        Some(now.plus_ms(total_us / 1000))
    }

    /// What runs on a slot has ended: what to tell the peer, how many were run, and when what runs
    /// next ends.
    pub(crate) fn end(
        &mut self,
        now: Time,
        slot: u16,
        physics: &Physics,
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
            ended.into_iter().map(|index| self.report(&job, index, physics, chance)).collect();
        let next = self.go_on(now, slot, physics, chance);
        Some((Ran { slot, job, reports, spent_us, done }, next))
    }

    /// What this machine says of a unit that it ran, or should have run.
    fn report(
        &mut self,
        job: &JobId,
        index: u32,
        physics: &Physics,
        chance: &mut Chance,
    ) -> Report {
        self.runs += 1;
        match self.spec.conduct {
            Conduct::Lies { per_mille, pact, after } => {
                if self.runs > after && chance.happens(per_mille) {
                    let liar = pact.map_or(1000 + self.number as u64, u64::from);
                    return self.done(&Guest::lie(index, liar), index);
                }
            }
            Conduct::Copies => {
                let words = self.peer.as_ref().and_then(|peer| peer.unit(job, index));
                let mut others = words.into_iter().flat_map(|unit| unit.words);
                if let Some(result) = others.find_map(|word| word.said.ok()) {
                    let made_up = Witness([u8::try_from(self.number % 251).unwrap_or(0); 32]);
                    return Report { index, result: Ok((result, made_up)), body: None };
                }
            }
            Conduct::Fails => return guest::no_result(index),
            Conduct::Honest | Conduct::Stalls | Conduct::Withholds => {}
        }
        if guest::fails_here(physics.seed, self.number, index, physics.no_result_per_mille) {
            return guest::no_result(index);
        }
        self.done(&Guest::of(&UnitId::of(job, index), index), index)
    }

    fn done(&mut self, guest: &Guest, index: u32) -> Report {
        self.disk.bodies.insert(guest.result);
        guest.report(index)
    }
}
