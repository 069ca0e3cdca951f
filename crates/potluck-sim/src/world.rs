//! The world: a queue of what happens when, and what follows from it.

use std::collections::{BTreeMap, BTreeSet};

use potluck_peer::{Action, Actions, Chance, Credit, Event, Need, News, Peer, Ran};
use potluck_unit::{JobId, Message, PeerId, ResultHash, Time};

use crate::cheap::{WorldDraws, remembering};
use crate::cheats::{self, Deed, Plots};
use crate::machine::{BEGIN, Machine, Means};
use crate::mail;
use crate::network::Network;
use crate::oracle::{Failure, Oracle};
use crate::scenario::{Blow, Conduct, Faults, Scenario};
use crate::story;
use crate::trace::{Line, Trace};
use crate::work::Work;

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
    pub(crate) by_id: BTreeMap<PeerId, usize>,
    ids: Vec<PeerId>,
    trace: Trace,
    pub(crate) oracle: Oracle,
    pub(crate) work: Work,
    means: Means,
    plots: Plots,
    /// Jobs whose submitters leave once somebody else holds them, and for how long.
    pub(crate) leaves: BTreeMap<usize, u64>,
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
    /// The same by job.
    pub executions_of: Vec<u64>,
    /// Messages said.
    pub messages: u64,
    /// Their bytes.
    pub bytes: u64,
    /// When all was well, in milliseconds since the start.
    pub ended_ms: u64,
    /// When the submitter of each job had accepted all of it, to the second; 0 if it never had.
    pub done_ms: Vec<u64>,
    /// Lies that honest machines accepted, at any time.
    pub lies_accepted: u64,
    /// Proven liars, counted by each honest machine for itself.
    pub convictions: usize,
    /// Nanoseconds inside [`Peer::handle`] by machine, if there is a stopwatch.
    pub handle_ns: Vec<u64>,
}

/// Something that is about to happen.
#[derive(Debug)]
pub(crate) enum Happening {
    Start { machine: usize },
    Submit { job: usize },
    Close { job: usize },
    Wake { machine: usize, life: u64, at: Time },
    Deliver { from: usize, to: usize, link: u64, message: Box<Message> },
    Dialled { by: usize, life: u64, to: usize, expect: Option<PeerId> },
    Lost { side: usize, other: usize, link: u64 },
    Fetched { machine: usize, life: u64, need: Box<Need>, from: Vec<PeerId> },
    Ended { machine: usize, life: u64, slot: u16, turn: u64 },
    Stopped { machine: usize, life: u64, slot: u16, jobs: Vec<JobId> },
    Scheme { machine: usize },
    Fate(Blow),
    Churn,
    Calm,
    Look,
}

/// Runs a scenario to its end.
pub fn run(scenario: Scenario) -> Result<Summary, Failure> {
    live(scenario).map(|(_, summary)| summary)
}

/// Runs a scenario to its end, and leaves its world to look at. A world that fails is run again, to
/// tell how it came to that.
pub fn live(scenario: Scenario) -> Result<(World, Summary), Failure> {
    let mut world = World::new(scenario.clone());
    match world.run() {
        Ok(summary) => Ok((world, summary)),
        Err(failure) => {
            let told = scenario.told;
            let mut again = World::new(scenario);
            again.trace.tell_from(failure.event.saturating_sub(told));
            Err(again.run().err().unwrap_or(failure))
        }
    }
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
        let mut machines: Vec<Machine> =
            specs.map(|(number, spec)| Machine::new(number, scenario.seed, spec)).collect();
        let credits: BTreeMap<PeerId, Credit> = (machines.iter())
            .filter(|machine| machine.spec.standing > 0)
            .map(|m| (m.id, Credit { peer: m.id, units: m.spec.standing, at: BEGIN }))
            .collect();
        for machine in &mut machines {
            machine.disk.credits = credits.clone();
            machine.disk.credits.remove(&machine.id);
        }
        let work = Work::of(&scenario, |spec| {
            // The submitter of a job that was left out may be left out too.
            let machine = machines.get(spec.submitter).unwrap_or(&machines[0]);
            (machine.key.clone(), machine.clock(BEGIN.plus_ms(spec.submit_at_ms)))
        });
        let mut world = World {
            now: BEGIN,
            chance: Chance::of_seed(scenario.seed),
            network: Network::new(scenario.faults, &scenario.machines),
            queue: BTreeMap::new(),
            sequence: 0,
            by_id: machines.iter().map(|machine| (machine.id, machine.number)).collect(),
            ids: machines.iter().map(|machine| machine.id).collect(),
            trace: Trace::new(),
            oracle: Oracle::new(&scenario, &machines),
            means: Means {
                seed: scenario.seed,
                verify: remembering(),
                draws: WorldDraws::of_seed(scenario.seed),
                open: scenario.open,
            },
            plots: Plots::new(),
            leaves: BTreeMap::new(),
            calm: false,
            actions: Actions::new(),
            stopwatch: None,
            summary: Summary {
                handle_ns: vec![0; machines.len()],
                executions_of: vec![0; work.jobs.len()],
                done_ms: vec![0; work.jobs.len()],
                ..Summary::default()
            },
            work,
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
        for job in 0..self.scenario.jobs.len() {
            let spec = self.scenario.jobs[job];
            if spec.absent {
                continue;
            }
            self.happens_at(BEGIN.plus_ms(spec.submit_at_ms), Happening::Submit { job });
            if let Some(at_ms) = spec.close_at_ms {
                self.happens_at(BEGIN.plus_ms(at_ms), Happening::Close { job });
            }
        }
        for machine in 0..self.machines.len() {
            let spec = &self.machines[machine].spec;
            if cheats::schemes(spec.conduct) {
                let at = BEGIN.plus_ms(spec.start_ms + cheats::SCHEME_EVERY_MS);
                self.happens_at(at, Happening::Scheme { machine });
            }
        }
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

    /// The first job.
    pub fn job_id(&self) -> JobId {
        self.job_ids()[0]
    }

    /// Every job of the scenario.
    pub fn job_ids(&self) -> Vec<JobId> {
        self.work.jobs.iter().map(|task| task.id).collect()
    }

    /// When a machine says that it is, by its own clock.
    pub fn clock(&self, machine: usize) -> Time {
        self.machines[machine].clock(self.now)
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
                self.note_done();
                match self.oracle.missing(&self.machines, &self.work, self.now) {
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
        self.oracle
            .on_end(&self.machines, &self.work, self.summary.executions)
            .map_err(|what| self.failure(what))?;
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
        self.summary.bytes = self.network.bytes;
        self.summary.lies_accepted = self.oracle.lies_accepted;
        self.summary.ended_ms = self.now.ms_since(BEGIN);
        Ok(self.summary.clone())
    }

    /// Notes which jobs are done by now.
    fn note_done(&mut self) {
        for (number, task) in self.work.jobs.iter().enumerate() {
            let submitter = self.machines.get(task.spec.submitter);
            let peer = submitter.and_then(|machine| machine.peer.as_ref());
            let status = peer.and_then(|peer| peer.job(&task.id));
            let done = status.is_some_and(|status| status.counts.accepted == task.spec.units);
            if done && self.summary.done_ms[number] == 0 {
                self.summary.done_ms[number] = self.now.ms_since(BEGIN);
            }
        }
    }

    fn failure(&self, what: String) -> Failure {
        Failure {
            what,
            at_ms: self.now.ms_since(BEGIN),
            event: self.trace.events(),
            events: self.trace.to_string(),
            command: self.scenario.command(),
            seed: self.scenario.seed,
        }
    }

    pub(crate) fn happen(&mut self, what: Happening) -> Result<(), String> {
        match what {
            Happening::Start { machine } => self.start(machine),
            Happening::Submit { job } => self.submit(job),
            Happening::Close { job } => self.close(job),
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
                let (what, detail) = mail::summary(&message);
                let from_id = self.machines[from].id;
                self.tell(to, Event::Heard { from: from_id, message: *message }, what, from, detail)
            }
            Happening::Dialled { by, life, to, expect } => self.dialled(by, life, to, expect),
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
                if let Need::Body { result, .. } = need
                    && found
                {
                    self.tell_held(machine, result)?;
                }
                self.tell(machine, Event::Fetched { need, found }, "fetched", machine, found.into())
            }
            Happening::Ended { machine, life, slot, turn } => self.ended(machine, life, slot, turn),
            Happening::Stopped { machine, life, slot, jobs } => {
                self.stopped(machine, life, slot, jobs)
            }
            Happening::Scheme { machine } => self.scheme(machine),
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
        let reached = |number: &usize| !self.machines[*number].spec.hidden;
        let open: Vec<usize> = (0..self.machines.len()).filter(reached).collect();
        let any = usize::try_from(self.chance.below(open.len().max(1) as u64)).unwrap_or(0);
        let known = open.get(1).or(open.first());
        let mut joins: BTreeSet<usize> = known.into_iter().chain(open.get(any)).copied().collect();
        joins.remove(&machine);
        let joins = joins.into_iter().map(Machine::address).collect();
        self.machines[machine].start(self.now, joins, &self.means);
        self.oracle.on_restart(&self.machines[machine], &self.work)?;
        self.tell(machine, Event::Woke, "started", machine, 0)
    }

    fn ended(&mut self, machine: usize, life: u64, slot: u16, turn: u64) -> Result<(), String> {
        let place = &mut self.machines[machine];
        if place.life != life || place.peer.is_none() || place.turn(slot) != turn {
            return Ok(());
        }
        let ended = place.end(self.now, slot, &self.work, &mut self.plots, &mut self.chance);
        let Some((ran, next)) = ended else { return Ok(()) };
        if let Some(at) = next {
            let turn = place.turn(slot);
            self.happens_at(at, Happening::Ended { machine, life, slot, turn });
        }
        let count = ran.reports.len() as u64;
        self.summary.executions += count;
        if let Some(number) = self.work.number(&ran.job) {
            self.summary.executions_of[number] += count;
        }
        for report in &ran.reports {
            if let Ok((result, _)) = report.result {
                self.tell_held(machine, result)?;
            }
        }
        let detail = ran.reports.first().map_or(0, |report| u64::from(report.index));
        self.tell(machine, Event::Ran(ran), "ran", machine, detail)
    }

    /// Tells of an outcome on the disk, before what brought it is told, if it is large.
    fn tell_held(&mut self, machine: usize, result: ResultHash) -> Result<(), String> {
        match self.machines[machine].disk.large(&result) {
            Some(bytes) => {
                self.tell(machine, Event::Holds { result, bytes }, "holds", machine, bytes)
            }
            None => Ok(()),
        }
    }

    /// Each assignment of a slot that was stopped ends, with nothing run.
    fn stopped(
        &mut self,
        machine: usize,
        life: u64,
        slot: u16,
        jobs: Vec<JobId>,
    ) -> Result<(), String> {
        for job in jobs {
            if self.machines[machine].life != life {
                break;
            }
            let ran = Ran { slot, job, reports: Vec::new(), spent_us: 0, done: true };
            self.tell(machine, Event::Ran(ran), "stopped", machine, u64::from(slot))?;
        }
        Ok(())
    }

    /// A cheat does something of its own accord.
    fn scheme(&mut self, machine: usize) -> Result<(), String> {
        self.happens_in(cheats::SCHEME_EVERY_MS, Happening::Scheme { machine });
        let (now, draws) = (self.clock(machine), self.means.draws.clone());
        let place = &mut self.machines[machine];
        let (id, life) = (place.id, place.life);
        let deeds = cheats::scheme(place, now, &self.ids, &*draws, &mut self.chance);
        for deed in deeds {
            match deed {
                Deed::Spread(records) => {
                    let bytes: Vec<_> = records.iter().map(|r| r.bytes().clone()).collect();
                    for records in bytes.chunks(Message::RECORDS_MAX) {
                        let message = Message::Records(records.to_vec());
                        let event = Event::Heard { from: id, message };
                        self.tell(machine, event, "forged", machine, records.len() as u64)?;
                        self.shout(machine, None, records);
                    }
                }
                Deed::Say(to, bytes) => self.shout(machine, to, &bytes),
                Deed::Dial(to) => {
                    let happening = Happening::Dialled { by: machine, life, to, expect: None };
                    self.happens_in(1, happening);
                }
            }
        }
        Ok(())
    }

    /// Tells a peer something and carries out what it wants done: the disk first.
    pub(crate) fn tell(
        &mut self,
        machine: usize,
        event: Event,
        what: &'static str,
        other: usize,
        detail: u64,
    ) -> Result<(), String> {
        let place = &mut self.machines[machine];
        if place.peer.is_none() {
            return Ok(());
        }
        self.trace.note(Line { at: Time(self.now.ms_since(BEGIN)), machine, what, other, detail });
        if self.trace.is_told() {
            let names = |peer: &PeerId| self.by_id.get(peer).copied();
            let words = story::event(&event, &self.work, names);
            let at_ms = self.now.ms_since(BEGIN);
            self.trace.add(format!("{at_ms:>7} ms machine {machine} {words}"));
        }
        // One list for all turns: growing a new one each time costs more than many a turn.
        let mut actions = std::mem::take(&mut self.actions);
        let begun = self.stopwatch.map(|clock| clock());
        place.handle(self.now, event, &mut actions);
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
        if self.trace.is_told() {
            let lines = actions.iter().filter_map(|action| story::action(action, &self.work));
            lines.for_each(|words| self.trace.add(format!("{:>10} {words}", "")));
        }
        actions.iter().for_each(|action| place.disk.write(action));
        self.oracle.on_turn(place, &self.work, &actions)?;
        for action in actions {
            self.carry_out(machine, action)?;
        }
        if self.calm && self.trace.events().is_multiple_of(COMPARE_EVERY) {
            let other = usize::try_from(self.chance.below(self.machines.len() as u64)).unwrap_or(0);
            self.oracle.compare(&self.machines[machine], &self.machines[other], &self.work)?;
        }
        Ok(())
    }

    fn carry_out(&mut self, machine: usize, action: Action) -> Result<(), String> {
        let life = self.machines[machine].life;
        match action {
            Action::Say { to, message } => self.say(machine, &to, message)?,
            Action::Dial { address, expect } => {
                let (to, ms) = (Machine::at(&address), 2 * self.delay());
                self.happens_in(ms, Happening::Dialled { by: machine, life, to, expect });
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
                self.fetching(machine, need, from);
            }
            Action::Run { slot, job, units } => {
                let place = &mut self.machines[machine];
                if let Conduct::Colludes { pact } = place.spec.conduct {
                    self.plots.entry(pact).or_default().take(place.id, job, &units);
                }
                let task = (job, units.as_slice());
                let at = place.assign(self.now, slot, task, &self.work, &mut self.chance);
                let turn = place.turn(slot);
                if let Some(at) = at {
                    self.happens_at(at, Happening::Ended { machine, life, slot, turn });
                }
            }
            Action::Stop { slot } => {
                let dropped = self.machines[machine].stop(slot);
                self.oracle.on_stopped(machine, &dropped, &self.work);
                let jobs = dropped.into_iter().map(|(job, _)| job).collect();
                self.happens_in(0, Happening::Stopped { machine, life, slot, jobs });
            }
            Action::Lend(lent) => {
                for (slot, turn, at) in self.machines[machine].lend(self.now, &lent) {
                    self.happens_at(at, Happening::Ended { machine, life, slot, turn });
                }
            }
            Action::WakeAt(at) => {
                let at = self.machines[machine].wake_at(self.now, at);
                self.happens_at(at, Happening::Wake { machine, life, at });
            }
            Action::Tell(News::Keeping { job, .. }) => self.kept_elsewhere(machine, &job),
            Action::Clear(job) => {
                if let Some(task) = self.work.task(&job)
                    && let potluck_unit::Record::Job(job) = task.record.record()
                {
                    let disk = &mut self.machines[machine].disk;
                    disk.blobs.retain(|blob| *blob != job.module && *blob != job.inputs);
                    disk.bodies.retain(|body, _| !task.truth.contains(body));
                }
            }
            Action::Keep(_)
            | Action::Forget(_)
            | Action::Note(_)
            | Action::Discard(_)
            | Action::Credit(_)
            | Action::Tell(_) => {}
        }
        Ok(())
    }

    /// Faults end: the network is whole, everybody is up.
    fn calm_down(&mut self) -> Result<(), String> {
        self.calm = true;
        self.network.heal();
        let delay_ms = self.network.faults.delay_ms;
        self.network.faults = Faults { delay_ms, ..Faults::NONE };
        self.scenario.churn = None;
        self.leaves.clear();
        for machine in 0..self.machines.len() {
            self.machines[machine].torn = None;
            if self.machines[machine].life > 0 {
                self.start(machine)?;
            }
        }
        // Before the jobs are submitted, and closed, there is nothing to be well.
        let times = self.scenario.jobs.iter();
        let times = times.map(|job| job.submit_at_ms.max(job.close_at_ms.unwrap_or(0)));
        let last_ms = times.max().unwrap_or(0) + LOOK_EVERY_MS;
        let at = BEGIN.plus_ms(last_ms).max(self.now);
        self.happens_at(at, Happening::Look);
        Ok(())
    }
}
