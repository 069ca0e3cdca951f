//! The world: a queue of what happens when, and what follows from it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use potluck_peer::{Action, Actions, Chance, Event, Need, News, Peer, Verify};
use potluck_unit::{
    BlobId, Identity, Job, JobId, Limits, Message, PeerId, Quality, Record, Signed, Time, UnitId,
};

use crate::guest::Guest;
use crate::machine::{Machine, Physics};
use crate::network::Network;
use crate::oracle::{Failure, Oracle};
use crate::scenario::{Blow, Conduct, Faults, Scenario};
use crate::trace::{Line, Trace};

/// When the world begins: clocks are never near zero.
const BEGIN: Time = Time(1_700_000_000_000);
/// How often an end is looked for once faults have ended.
const LOOK_EVERY_MS: u64 = 1000;
/// Events in one world: twice what the longest needs, and twenty times the busiest.
const EVENTS_MAX: u64 = 6_000_000;
/// One event in so many compares two peers.
const COMPARE_EVERY: u64 = 64;

/// Many machines, what connects them, and what is about to happen.
pub struct World {
    pub(crate) scenario: Scenario,
    pub(crate) now: Time,
    pub(crate) chance: Chance,
    pub(crate) machines: Vec<Machine>,
    pub(crate) network: Network,
    queue: BTreeMap<(Time, u64), Happening>,
    sequence: u64,
    by_id: BTreeMap<PeerId, usize>,
    trace: Trace,
    pub(crate) oracle: Oracle,
    physics: Physics,
    verify: Verify,
    job: Signed,
    job_id: JobId,
    pub(crate) leaves: Option<u64>,
    calm: bool,
    actions: Actions,
    stopwatch: Option<fn() -> u64>,
    summary: Summary,
}

/// What a world came to.
#[derive(Debug, Clone, Default)]
pub struct Summary {
    /// The hash of everything that happened.
    pub trace: [u8; 32],
    /// Events that peers were told.
    pub events: u64,
    /// How many of them were of which kind.
    pub kinds: BTreeMap<&'static str, u64>,
    /// Units that were run, by anybody.
    pub executions: u64,
    /// Messages said.
    pub messages: u64,
    /// When all was well, in milliseconds since the start.
    pub ended_ms: u64,
    /// Proofs of lies held by honest machines.
    pub convictions: usize,
    /// Nanoseconds inside [`Peer::handle`] by machine, if there is a stopwatch.
    pub handle_ns: Vec<u64>,
}

/// Something that is about to happen.
#[derive(Debug)]
pub(crate) enum Happening {
    Start { machine: usize },
    Submit,
    Wake { machine: usize, life: u64, at: Time },
    Deliver { from: usize, to: usize, link: u64, message: Box<Message> },
    Dialled { by: usize, life: u64, to: usize },
    Lost { side: usize, other: usize, link: u64 },
    Fetched { machine: usize, life: u64, need: Box<Need>, from: Vec<PeerId> },
    Ended { machine: usize, life: u64, slot: u16 },
    Fate(Blow),
    Churn,
    Calm,
    Look,
}

/// Runs a scenario to its end.
pub fn run(scenario: Scenario) -> Result<Summary, Failure> {
    World::new(scenario).run()
}

impl std::fmt::Debug for World {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("World").field("now", &self.now).finish_non_exhaustive()
    }
}

impl World {
    /// The world of a scenario, before anything has happened.
    pub fn new(scenario: Scenario) -> World {
        let specs = scenario.machines.iter().cloned().enumerate();
        let machines: Vec<Machine> =
            specs.map(|(number, spec)| Machine::new(number, scenario.seed, spec)).collect();
        let job = Signed::sign(&machines[0].key, Record::Job(job(&scenario)));
        let job_id = job.job_id().unwrap_or(JobId([0; 32]));
        let truth = (0..scenario.units)
            .map(|index| Guest::of(&UnitId::of(&job_id, index), index).result)
            .collect();
        let mut world = World {
            now: BEGIN,
            chance: Chance::of_seed(scenario.seed),
            network: Network::new(scenario.faults),
            queue: BTreeMap::new(),
            sequence: 0,
            by_id: machines.iter().map(|machine| (machine.id, machine.number)).collect(),
            trace: Trace::new(),
            oracle: Oracle::new(&scenario, job_id, truth, &machines),
            physics: Physics {
                seed: scenario.seed,
                unit_us: scenario.unit_us,
                no_result_per_mille: scenario.no_result_per_mille,
            },
            verify: remembering(),
            job,
            job_id,
            leaves: None,
            calm: false,
            actions: Actions::new(),
            stopwatch: None,
            summary: Summary { handle_ns: vec![0; machines.len()], ..Summary::default() },
            machines,
            scenario,
        };
        world.foretell();
        world
    }

    /// Puts what the scenario says into the queue.
    fn foretell(&mut self) {
        for machine in 0..self.machines.len() {
            let at = BEGIN.plus_ms(self.machines[machine].spec.start_ms);
            self.happens_at(at, Happening::Start { machine });
        }
        for (at_ms, blow) in self.scenario.blows.clone() {
            self.happens_at(BEGIN.plus_ms(at_ms), Happening::Fate(blow));
        }
        if let Some(churn) = self.scenario.churn {
            self.happens_at(BEGIN.plus_ms(churn.every_ms.1), Happening::Churn);
        }
        self.happens_at(BEGIN.plus_ms(self.scenario.submit_at_ms), Happening::Submit);
        self.happens_at(BEGIN.plus_ms(self.scenario.calm_at_ms), Happening::Calm);
    }

    /// Measures the time inside peers with a clock of nanoseconds.
    pub fn measure_with(&mut self, stopwatch: fn() -> u64) {
        self.stopwatch = Some(stopwatch);
    }

    /// The peer of a machine, if it is up.
    pub fn peer(&self, machine: usize) -> Option<&Peer> {
        self.machines[machine].peer.as_ref()
    }

    /// Who a machine is.
    pub fn id(&self, machine: usize) -> PeerId {
        self.machines[machine].id
    }

    /// The job.
    pub fn job_id(&self) -> JobId {
        self.job_id
    }

    /// Records on a machine's disk.
    pub fn kept(&self, machine: usize) -> usize {
        self.machines[machine].disk.count()
    }

    pub(crate) fn happens_at(&mut self, at: Time, what: Happening) {
        self.sequence += 1;
        self.queue.insert((at.max(self.now), self.sequence), what);
    }

    pub(crate) fn happens_in(&mut self, ms: u64, what: Happening) {
        self.happens_at(self.now.plus_ms(ms), what);
    }

    /// Lets everything happen until all is well.
    pub fn run(&mut self) -> Result<Summary, Failure> {
        while let Some(((at, _), what)) = self.queue.pop_first() {
            self.now = at;
            if self.trace.events() > EVENTS_MAX {
                return Err(self.failure("too much happens".to_owned()));
            }
            if matches!(what, Happening::Look) {
                match self.oracle.missing(&self.machines) {
                    None => break,
                    Some(missing) if at.ms_since(BEGIN) > self.scenario.end_ms => {
                        return Err(self.failure(format!("no end in sight: {missing}")));
                    }
                    Some(_) => self.happens_in(LOOK_EVERY_MS, Happening::Look),
                }
                continue;
            }
            self.happen(what).map_err(|what| self.failure(what))?;
        }
        self.oracle.on_end(&self.machines).map_err(|what| self.failure(what))?;
        let honest = self.machines.iter().filter(|machine| machine.is_honest());
        self.summary.convictions = honest
            .filter_map(|machine| machine.peer.as_ref())
            .map(|peer| {
                let convicted = peer.convictions().into_iter().map(|conviction| conviction.peer);
                convicted.collect::<BTreeSet<PeerId>>().len()
            })
            .sum();
        self.summary.trace = self.trace.hash();
        self.summary.events = self.trace.events();
        self.summary.kinds = self.trace.kinds().clone();
        self.summary.messages = self.network.said;
        self.summary.ended_ms = self.now.ms_since(BEGIN);
        Ok(self.summary.clone())
    }

    fn failure(&self, what: String) -> Failure {
        Failure {
            what,
            at_ms: self.now.ms_since(BEGIN),
            events: self.trace.to_string(),
            seed: self.scenario.seed,
            test: self.scenario.test,
        }
    }

    fn happen(&mut self, what: Happening) -> Result<(), String> {
        match what {
            Happening::Start { machine } => self.start(machine),
            Happening::Submit => self.submit(),
            Happening::Wake { machine, life, at } => {
                let place = &mut self.machines[machine];
                if place.life == life && place.alarm == Some(at) {
                    place.alarm = None;
                    return self.tell(machine, Event::Woke, "woke", machine, 0);
                }
                Ok(())
            }
            Happening::Deliver { from, to, link, message } => {
                if !self.network.carries(from, to, link) {
                    return Ok(());
                }
                let (what, detail) = summary(&message);
                let from_id = self.machines[from].id;
                self.tell(to, Event::Heard { from: from_id, message: *message }, what, from, detail)
            }
            Happening::Dialled { by, life, to } => self.dialled(by, life, to),
            Happening::Lost { side, other, link } => {
                if self.network.leave(side, other, link) {
                    let peer = self.machines[other].id;
                    return self.tell(side, Event::Left { peer }, "left", other, link);
                }
                Ok(())
            }
            Happening::Fetched { machine, life, need, from } => {
                if self.machines[machine].life != life {
                    return Ok(());
                }
                let found = self.fetch(machine, &need, &from);
                let need = *need;
                self.tell(machine, Event::Fetched { need, found }, "fetched", machine, found.into())
            }
            Happening::Ended { machine, life, slot } => self.ended(machine, life, slot),
            Happening::Fate(blow) => self.strike(blow),
            Happening::Churn => self.churn(),
            Happening::Calm => self.calm_down(),
            Happening::Look => Ok(()),
        }
    }

    pub(crate) fn start(&mut self, machine: usize) -> Result<(), String> {
        if self.machines[machine].peer.is_some() || self.machines[machine].dead {
            return Ok(());
        }
        let all = self.machines.len() as u64;
        let mut joins = BTreeSet::from([1 % self.machines.len()]);
        joins.insert(usize::try_from(self.chance.below(all)).unwrap_or(0));
        joins.remove(&machine);
        let joins = joins.into_iter().map(Machine::address).collect();
        self.machines[machine].start(self.now, self.scenario.seed, joins, &self.verify);
        self.oracle.on_restart(&self.machines[machine])?;
        self.tell(machine, Event::Woke, "started", machine, 0)
    }

    fn submit(&mut self) -> Result<(), String> {
        let known = self.machines[0].peer.as_ref().map(|peer| peer.job(&self.job_id).is_some());
        match known {
            Some(true) => return Ok(()),
            None => {}
            Some(false) => {
                self.machines[0].disk.module = true;
                self.machines[0].disk.inputs = true;
                let record = self.job.clone();
                self.tell(0, Event::Submitted { record }, "submitted", 0, 0)?;
            }
        }
        // Unless a crash came in between: then the user tries again.
        self.happens_in(1000, Happening::Submit);
        Ok(())
    }

    fn dialled(&mut self, by: usize, life: u64, to: usize) -> Result<(), String> {
        if self.machines[by].life != life || self.machines[by].peer.is_none() {
            return Ok(());
        }
        let address = Machine::address(to);
        let up = self.machines.get(to).is_some_and(|machine| machine.peer.is_some());
        if up && let Some(link) = self.network.stale(by, to) {
            for (side, other) in [(by, to), (to, by)] {
                self.happen(Happening::Lost { side, other, link })?;
            }
        }
        let up = up && self.machines[to].peer.is_some() && self.machines[by].peer.is_some();
        if !up || by == to || !self.network.reaches(self.now, by, to) {
            return self.tell(by, Event::DialFailed { address }, "dial failed", to, 0);
        }
        let Some(link) = self.network.link(by, to) else {
            return self.tell(by, Event::DialFailed { address }, "dialled twice", to, 0);
        };
        let joined = |world: &World, other: usize, outbound| Event::Joined {
            peer: world.machines[other].id,
            address: Machine::address(other),
            outbound,
        };
        let event = joined(self, to, true);
        self.tell(by, event, "joined", to, link)?;
        let event = joined(self, by, false);
        self.tell(to, event, "joined", by, link)
    }

    fn fetch(&mut self, machine: usize, need: &Need, from: &[PeerId]) -> bool {
        let lost = self.chance.happens(self.network.faults.loss_per_mille);
        let sources = from.iter().filter_map(|peer| self.by_id.get(peer).copied());
        let found = std::iter::once(machine).chain(sources).any(|source| {
            let near = source == machine
                || (!lost
                    && self.machines[source].peer.is_some()
                    && self.network.reaches(self.now, machine, source));
            let gives =
                source == machine || self.machines[source].spec.conduct != Conduct::Withholds;
            near && gives && holds(&self.machines[source], need)
        });
        if found {
            let disk = &mut self.machines[machine].disk;
            match need {
                Need::Module { .. } => disk.module = true,
                Need::Inputs { .. } => disk.inputs = true,
                Need::Body { result, .. } => {
                    disk.bodies.insert(*result);
                }
            }
        }
        found
    }

    fn ended(&mut self, machine: usize, life: u64, slot: u16) -> Result<(), String> {
        let place = &mut self.machines[machine];
        if place.life != life || place.peer.is_none() {
            return Ok(());
        }
        let ended = place.end(self.now, slot, &self.physics, &mut self.chance);
        let Some((ran, next)) = ended else { return Ok(()) };
        if let Some(at) = next {
            self.happens_at(at, Happening::Ended { machine, life, slot });
        }
        self.summary.executions += ran.reports.len() as u64;
        let detail = ran.reports.first().map_or(0, |report| u64::from(report.index));
        self.tell(machine, Event::Ran(ran), "ran", machine, detail)
    }

    /// Tells a peer something and carries out what it wants done: the disk first.
    fn tell(
        &mut self,
        machine: usize,
        event: Event,
        what: &'static str,
        other: usize,
        detail: u64,
    ) -> Result<(), String> {
        let place = &mut self.machines[machine];
        let Some(peer) = &mut place.peer else { return Ok(()) };
        self.trace.note(Line { at: Time(self.now.ms_since(BEGIN)), machine, what, other, detail });
        // One list for all turns: growing a new one each time costs more than many a turn.
        let mut actions = std::mem::take(&mut self.actions);
        let begun = self.stopwatch.map(|clock| clock());
        peer.handle(self.now, event, &mut actions);
        if let (Some(clock), Some(begun)) = (self.stopwatch, begun) {
            self.summary.handle_ns[machine] += clock() - begun;
        }
        let wanted: Vec<Action> = actions.drain().collect();
        self.actions = actions;
        let actions = wanted;
        if let Some(down_ms) = place.torn {
            self.crash(machine, down_ms);
            return Ok(());
        }
        actions.iter().for_each(|action| place.disk.write(action));
        self.oracle.on_turn(place, &actions)?;
        for action in actions {
            self.carry_out(machine, action)?;
        }
        if self.calm && self.trace.events().is_multiple_of(COMPARE_EVERY) {
            let other = usize::try_from(self.chance.below(self.machines.len() as u64)).unwrap_or(0);
            self.oracle.compare(&self.machines[machine], &self.machines[other])?;
        }
        Ok(())
    }

    fn carry_out(&mut self, machine: usize, action: Action) -> Result<(), String> {
        let life = self.machines[machine].life;
        match action {
            Action::Say { to, message } => self.say(machine, &to, message)?,
            Action::Dial { address, .. } => {
                let (to, ms) = (Machine::at(&address), 2 * self.delay());
                self.happens_in(ms, Happening::Dialled { by: machine, life, to });
            }
            Action::HangUp { peer } => {
                let other = self.by_id[&peer];
                if let Some(link) = self.network.break_link(machine, other) {
                    let ms = self.delay();
                    self.happens_in(0, Happening::Lost { side: machine, other, link });
                    self.happens_in(ms, Happening::Lost { side: other, other: machine, link });
                }
            }
            Action::Fetch { need, from } => {
                let from = from.into_iter().map(|source| source.peer).collect();
                let ms = 2 * self.delay();
                self.happens_in(
                    ms,
                    Happening::Fetched { machine, life, need: Box::new(need), from },
                );
            }
            Action::Run { slot, job, units } => {
                let place = &mut self.machines[machine];
                let at = place.assign(self.now, slot, job, &units, &self.physics, &mut self.chance);
                if let Some(at) = at {
                    self.happens_at(at, Happening::Ended { machine, life, slot });
                }
            }
            Action::WakeAt(at) => {
                self.machines[machine].alarm = Some(at);
                self.happens_at(at, Happening::Wake { machine, life, at });
            }
            Action::Tell(News::Keeping { .. }) if machine == 0 => {
                if let Some(for_ms) = self.leaves.take() {
                    let blow = Blow::Crash { machine: 0, torn: false, down_ms: for_ms };
                    self.happens_in(1, Happening::Fate(blow));
                }
            }
            Action::Stop { .. }
            | Action::Clear(_)
            | Action::Keep(_)
            | Action::Forget(_)
            | Action::Note(_)
            | Action::Discard(_)
            | Action::Credit(_)
            | Action::Tell(_) => {}
        }
        Ok(())
    }

    fn say(&mut self, from: usize, to: &PeerId, message: Message) -> Result<(), String> {
        let Some(to) = self.by_id.get(to).copied() else { return Ok(()) };
        if let Message::Records(records) = &message {
            let disk = &self.machines[from].disk;
            let own =
                |bytes: &[u8]| bytes[1] == RECEIPTS && bytes[2..34] == self.machines[from].id.0;
            let kept = |bytes: &[u8]| potluck_unit::id_of(bytes).is_some_and(|id| disk.holds(&id));
            if records.iter().any(|bytes| own(bytes) && !kept(bytes)) {
                return Err(format!("machine {from} says receipts that it does not keep"));
            }
        }
        let twice = self.chance.happens(self.network.faults.twice_per_mille);
        let again = twice.then(|| message.clone());
        for message in again.into_iter().chain([message]) {
            if let Some((at, link)) = self.network.say(self.now, from, to, &mut self.chance) {
                self.happens_at(
                    at,
                    Happening::Deliver { from, to, link, message: Box::new(message) },
                );
            }
        }
        Ok(())
    }

    pub(crate) fn delay(&mut self) -> u64 {
        let (least, most) = self.network.faults.delay_ms;
        least + self.chance.below(most - least + 1)
    }

    /// Faults end: the network is whole, everybody is up.
    fn calm_down(&mut self) -> Result<(), String> {
        self.calm = true;
        self.network.heal();
        let delay_ms = self.network.faults.delay_ms;
        self.network.faults = Faults { delay_ms, ..Faults::NONE };
        self.scenario.churn = None;
        self.leaves = None;
        for machine in 0..self.machines.len() {
            self.machines[machine].torn = None;
            if self.machines[machine].life > 0 {
                self.start(machine)?;
            }
        }
        // Before the job is submitted there is nothing to be well.
        let at = BEGIN.plus_ms(self.scenario.submit_at_ms + LOOK_EVERY_MS).max(self.now);
        self.happens_at(at, Happening::Look);
        Ok(())
    }
}

/// The kind of receipts in a record's second byte.
const RECEIPTS: u8 = 3;

fn holds(machine: &Machine, need: &Need) -> bool {
    match need {
        Need::Module { .. } => machine.disk.module,
        Need::Inputs { .. } => machine.disk.inputs,
        Need::Body { result, .. } => machine.disk.bodies.contains(result),
    }
}

/// A message in a word and a number.
fn summary(message: &Message) -> (&'static str, u64) {
    let first = |bytes: &[u8; 32]| bytes[..8].iter().fold(0, |n, byte| n << 8 | u64::from(*byte));
    match message {
        Message::Hello(hello) => ("hello", hello.others.len() as u64),
        Message::Records(records) => {
            let id = records.first().and_then(|bytes| potluck_unit::id_of(bytes));
            ("records", id.map_or(0, |id| first(&id.0)))
        }
        Message::Have(ids) => ("have", ids.first().map_or(0, |id| first(&id.0))),
        Message::Want(ids) => ("want", ids.first().map_or(0, |id| first(&id.0))),
        Message::Compare(compare) => ("compare", compare.ranges.len() as u64),
        Message::Listing(listing) => ("listing", listing.ids.len() as u64),
        Message::Keeping(_) => ("keeping", 0),
    }
}

fn job(scenario: &Scenario) -> Job {
    let created = BEGIN.plus_ms(scenario.submit_at_ms);
    Job {
        created,
        expires: created.plus_ms(Job::LIFE_MAX_MS),
        nonce: scenario.seed,
        module: BlobId([1; 32]),
        module_bytes: 1000,
        inputs: BlobId([2; 32]),
        inputs_bytes: 100,
        units: scenario.units,
        limits: Limits { deadline_ms: scenario.deadline_ms, ..Limits::DEFAULT },
        copies: scenario.copies,
        quality: if scenario.copies == 1 { Quality::Bulk } else { Quality::Standard },
        peers: u32::try_from(scenario.machines.len()).unwrap_or(1),
        priority: Job::PRIORITY_USUAL,
        label: String::new(),
        identity: Identity::NONE,
        extras: Vec::new(),
    }
}

/// Checks each signature once for all peers of a world: checking dominates otherwise.
fn remembering() -> Verify {
    type Known = BTreeMap<[u8; 64], Vec<(PeerId, Box<[u8]>, bool)>>;
    let known: Mutex<Known> = Mutex::default();
    Arc::new(move |peer, signed, signature| {
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        let same = known.entry(signature.0).or_default();
        let before = same.iter().find(|(who, what, _)| who == peer && **what == *signed);
        if let Some((_, _, good)) = before {
            return *good;
        }
        let good = peer.signed("potluck record v1", signed, signature);
        same.push((*peer, signed.into(), good));
        good
    })
}
