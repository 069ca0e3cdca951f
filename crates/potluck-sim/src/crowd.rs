//! A crowd: very many peers, and nothing that goes wrong but what [`Lives`] says. For figures, where
//! [`crate::World`] is for faults: no oracle looks on, there are no disks, what has been decoded once
//! is shared, and time is cut into milliseconds. The peers are the production code.

mod lives;
mod shared;

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use potluck_peer::{Action, Actions, Chance, Config, Event, Need, Peer, Ran, Report, Verdict};
use potluck_unit::{
    BlobId, Identity, Job, JobId, Key, Limits, Message, Outcome, PeerId, Quality, Record,
    ResultHash, Signed, Time, UnitId, Witness,
};

use lives::Sleepers;
pub use lives::{Lived, Lives};
use shared::{Cheap, Heard, remembering};

/// Everything that decides how a crowd fares.
#[derive(Debug, Clone)]
pub struct Crowd {
    /// Seeds every choice by chance.
    pub seed: u64,
    /// How many lend a slot each. One more submits.
    pub workers: u32,
    /// Units of a job.
    pub units: u32,
    /// How sure the submitter wants to be; decides k.
    pub quality: Quality,
    /// How long half of the units take at most at half of the workers' speed, in microseconds.
    pub unit_us: u64,
    /// The spread of units' costs: the standard deviation of their logarithm, in thousandths.
    pub unit_sigma: u64,
    /// The spread of workers' speeds, likewise.
    pub speed_sigma: u64,
    /// One way between two peers, in milliseconds, from and to. A pair's is always the same.
    pub delay_ms: (u64, u64),
    /// When the job is submitted, in milliseconds: time for all to find each other.
    pub submit_ms: u64,
    /// When to give up, in milliseconds after that.
    pub end_ms: u64,
    /// What else there is than one job and honest workers.
    pub lives: Option<Lives>,
}

/// What became of a crowd's jobs. Times are in milliseconds since a unit's job was submitted.
#[derive(Debug, Clone, Default)]
pub struct Fared {
    /// When the submitter first took each unit for accepted, rising.
    pub accepted_ms: Vec<u64>,
    /// When the jobs would have been done had all worked all the time on what was needed.
    pub fluid_ms: u64,
    /// Work done or under way beyond k times what the units are and beyond audits, in millionths of
    /// the first.
    pub waste_ppm: u64,
    /// Work to run again what was accepted already, in the same.
    pub audits_ppm: u64,
    /// Units that the submitter accepted with a wrong result at any time.
    pub wrong: u32,
    /// Those that were still so in the end; of a coarse crowd alone.
    pub wrong_left: u32,
    /// What became of each job, where there are several.
    pub lived: Vec<Lived>,
    /// How often a sleeper came back under a fresh key.
    pub returned: u32,
    /// Honest peers that some honest peer convicted.
    pub convicted_honest: u32,
    /// What was said since the job was submitted, by kind of message: how many and how many bytes.
    pub said: BTreeMap<&'static str, (u64, u64)>,
    /// What was said until then.
    pub said_before: BTreeMap<&'static str, (u64, u64)>,
    /// Different claims that somebody heard since then.
    pub claims: u64,
    /// Different batches of receipts.
    pub receipts: u64,
    /// How often a record was said.
    pub copies: u64,
    /// Events that peers were told.
    pub events: u64,
    /// Neighbours of a peer on average, in thousandths, when the job was submitted.
    pub neighbours_per_mille: u64,
    /// Workers that the submitter knew of then.
    pub workers_known: usize,
}

impl Crowd {
    /// Workers of different speed and units of 10 s that differ too, 50 ms from each other and back.
    pub fn of(workers: u32, units: u32, quality: Quality) -> Crowd {
        Crowd {
            seed: 1,
            workers,
            units,
            quality,
            unit_us: 10_000_000,
            unit_sigma: 500,
            speed_sigma: 600,
            delay_ms: (20, 30),
            submit_ms: 120_000,
            end_ms: 24 * 3_600_000,
            lives: None,
        }
    }

    /// Lets the crowd do its jobs.
    pub fn fare(self) -> Fared {
        let mut world = Lean::new(self);
        world.run();
        world.fared
    }

    /// How much work a unit is, in the job of this number.
    pub(crate) fn cost_us(&self, job: usize, index: u32) -> u64 {
        let seed = self.seed.wrapping_add((job as u64) << 32);
        let mut chance = Chance::of_seed(seed ^ u64::from(index).wrapping_mul(0x9e37_79b9));
        chance.next_u64();
        log_normal(&mut chance, self.unit_us, self.unit_sigma)
    }
}

/// A draw from a log-normal distribution. Made of additions and multiplications only, which are the
/// same on every machine.
pub(crate) fn log_normal(chance: &mut Chance, median: u64, sigma_per_mille: u64) -> u64 {
    // The sum of twelve uniform numbers is normal enough, with a variance of one.
    let sum: u64 = (0..12).map(|_| chance.below(1 << 20)).sum();
    let normal = sum as f64 / f64::from(1 << 20) - 6.0;
    let exponent = normal * sigma_per_mille as f64 / 1000.0;
    let grown = (0..12).fold(1.0 + exponent / 4096.0, |power, _| power * power);
    // Far inside the range of both.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "see above")]
    let drawn = (median as f64 * grown) as u64;
    drawn.max(1)
}

enum Happening {
    Start(usize),
    Submit,
    Woke { machine: usize, at: Time },
    Heard { from: usize, to: usize, message: Message },
    Dialled { by: usize, to: usize },
    Left { machine: usize, other: usize },
    Fetched { machine: usize, need: Need },
    Ended { machine: usize, slot: u16 },
    Looked,
    Returned { machine: usize },
}

struct Machine {
    id: PeerId,
    peer: Peer,
    started: bool,
    alarm: Option<Time>,
    speed_per_mille: u64,
    neighbours: Vec<usize>,
    /// What is on its slot, and what it has left of the first.
    queue: VecDeque<(JobId, VecDeque<u32>)>,
    running: bool,
}

impl Machine {
    fn of(peer: Peer, speed_per_mille: u64) -> Machine {
        Machine {
            id: peer.id(),
            peer,
            started: false,
            alarm: None,
            speed_per_mille,
            neighbours: Vec::new(),
            queue: VecDeque::new(),
            running: false,
        }
    }
}

struct Lean {
    crowd: Crowd,
    now: Time,
    queue: BTreeMap<Time, VecDeque<Happening>>,
    machines: Vec<Machine>,
    by_id: Vec<(PeerId, usize)>,
    /// What all peers are born with.
    born: Config,
    heard: Arc<Heard>,
    /// Those submitted so far, by number.
    jobs: Vec<JobId>,
    bodies: Vec<(ResultHash, Arc<[u8]>)>,
    executed_us: u64,
    audited_us: u64,
    sleepers: Sleepers,
    actions: Actions,
    fared: Fared,
}

/// When the world begins: clocks are never near zero.
const BEGIN: Time = Time(1_700_000_000_000);
/// All start within this time, in milliseconds.
const STARTS_MS: u64 = 20_000;

impl Lean {
    fn new(crowd: Crowd) -> Lean {
        let count = crowd.workers as usize + 1;
        let heard = Arc::new(Heard::default());
        let born = Config {
            agent: "crowd".to_owned(),
            read: Some(remembering(heard.clone())),
            draws: Some(Arc::new(Cheap)),
            open: crowd.lives.is_some(),
            ..Config::default()
        };
        let mut chance = Chance::of_seed(crowd.seed);
        let machines: Vec<Machine> = (0..count)
            .map(|number| {
                let known = (0..2.min(number)).map(|_| chance.below(number as u64)).collect();
                let peer = peer(&crowd, &born, number, known);
                let speed_per_mille = log_normal(&mut chance, 1000, crowd.speed_sigma);
                Machine::of(peer, speed_per_mille)
            })
            .collect();
        let mut by_id: Vec<(PeerId, usize)> =
            machines.iter().enumerate().map(|(number, machine)| (machine.id, number)).collect();
        by_id.sort_unstable();
        let bodies = (0..crowd.units).map(outcome).collect();
        let sleepers = Sleepers::of(&crowd, &by_id);
        let mut lean = Lean {
            now: BEGIN,
            queue: BTreeMap::new(),
            machines,
            by_id,
            born,
            heard,
            jobs: Vec::new(),
            bodies,
            executed_us: 0,
            audited_us: 0,
            sleepers,
            actions: Actions::new(),
            fared: Fared::default(),
            crowd,
        };
        lean.give_standing();
        for number in 0..count {
            let ms = STARTS_MS * number as u64 / count as u64;
            lean.happens_in(ms, Happening::Start(number));
        }
        lean.happens_in(lean.crowd.submit_ms, Happening::Submit);
        lean
    }

    fn happens_in(&mut self, ms: u64, what: Happening) {
        self.queue.entry(self.now.plus_ms(ms)).or_default().push_back(what);
    }

    fn run(&mut self) {
        let end = BEGIN.plus_ms(self.crowd.submit_ms + self.crowd.end_ms);
        while !self.is_over() {
            let Some(mut first) = self.queue.first_entry() else { break };
            self.now = *first.key();
            let Some(what) = first.get_mut().pop_front() else {
                first.remove();
                continue;
            };
            if self.now > end {
                break;
            }
            self.happen(what);
        }
        self.weigh();
        self.sum_up();
    }

    fn is_over(&self) -> bool {
        match &self.crowd.lives {
            None => self.fared.accepted_ms.len() >= self.crowd.units as usize,
            Some(lives) => self.fared.lived.len() >= lives.jobs as usize,
        }
    }

    /// Holds what was done against what there was to do.
    fn weigh(&mut self) {
        let crowd = &self.crowd;
        let copies = u64::from(crowd.quality.copies());
        let work_us: u64 = (0..self.jobs.len())
            .flat_map(|job| (0..crowd.units).map(move |index| crowd.cost_us(job, index)))
            .sum::<u64>()
            * copies;
        let workers = &self.machines[1..];
        let speed: u64 = workers.iter().map(|machine| machine.speed_per_mille).sum();
        let under_way: u64 = workers
            .iter()
            .filter(|machine| machine.running)
            .filter_map(|machine| machine.queue.front())
            .filter_map(|(job, units)| Some(self.work_us(job, *units.front()?)))
            .sum();
        self.fared.fluid_ms = work_us / speed.max(1);
        let beyond = (self.executed_us + under_way).saturating_sub(work_us);
        let beyond = u128::from(beyond.saturating_sub(self.audited_us));
        self.fared.audits_ppm =
            u64::try_from(u128::from(self.audited_us) * 1_000_000 / u128::from(work_us.max(1)))
                .unwrap_or(u64::MAX);
        self.fared.waste_ppm =
            u64::try_from(beyond * 1_000_000 / u128::from(work_us.max(1))).unwrap_or(u64::MAX);
        self.fared.accepted_ms.sort_unstable();
        (self.fared.claims, self.fared.receipts) = self.heard.counts();
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Start(machine) => {
                self.machines[machine].started = true;
                self.tell(machine, Event::Woke);
            }
            Happening::Submit => {
                if self.jobs.is_empty() {
                    self.note_links();
                }
                self.submit();
            }
            Happening::Woke { machine, at } => {
                if self.machines[machine].alarm == Some(at) {
                    self.machines[machine].alarm = None;
                    self.tell(machine, Event::Woke);
                }
            }
            Happening::Heard { from, to, message } => {
                if self.machines[to].neighbours.contains(&from) {
                    let from = self.machines[from].id;
                    self.tell(to, Event::Heard { from, message });
                }
            }
            Happening::Dialled { by, to } => self.dialled(by, to),
            Happening::Left { machine, other } => {
                let neighbours = &mut self.machines[machine].neighbours;
                if let Some(at) = neighbours.iter().position(|neighbour| *neighbour == other) {
                    neighbours.swap_remove(at);
                    let peer = self.machines[other].id;
                    self.tell(machine, Event::Left { peer });
                }
            }
            Happening::Fetched { machine, need } => {
                self.tell(machine, Event::Fetched { need, found: true });
            }
            Happening::Ended { machine, slot } => self.ended(machine, slot),
            Happening::Looked => self.look(),
            Happening::Returned { machine } => self.come_back(machine),
        }
    }

    /// How all are linked when the first job comes, and what was said until then.
    fn note_links(&mut self) {
        self.fared.said_before = std::mem::take(&mut self.fared.said);
        let neighbours: usize = self.machines.iter().map(|machine| machine.neighbours.len()).sum();
        self.fared.neighbours_per_mille = (1000 * neighbours / self.machines.len()) as u64;
        self.fared.workers_known = self.machines[0].peer.workers();
    }

    fn submit(&mut self) {
        let record = job(&self.crowd, self.now, self.jobs.len());
        let record = Signed::sign(&key(&self.crowd, 0), record);
        self.jobs.extend(record.job_id());
        self.open_account();
        self.tell(0, Event::Submitted { record });
    }

    /// How much work a unit is.
    fn work_us(&self, job: &JobId, index: u32) -> u64 {
        let job = self.jobs.iter().position(|other| other == job).unwrap_or(0);
        self.crowd.cost_us(job, index)
    }

    fn dialled(&mut self, by: usize, to: usize) {
        let there = self.machines.get(to).is_some_and(|machine| machine.started);
        if !there || by == to || self.machines[by].neighbours.contains(&to) {
            return self.tell(by, Event::DialFailed { address: address(to) });
        }
        for (side, other, outbound) in [(by, to, true), (to, by, false)] {
            self.machines[side].neighbours.push(other);
            let peer = self.machines[other].id;
            self.tell(side, Event::Joined { peer, address: address(other), outbound });
        }
    }

    /// One unit ended.
    fn ended(&mut self, number: usize, slot: u16) {
        let machine = &mut self.machines[number];
        let Some((job, units)) = machine.queue.front_mut() else { return };
        let (job, index) = (*job, units.pop_front().unwrap_or(0));
        let done = units.is_empty();
        if done {
            machine.queue.pop_front();
        }
        machine.running = false;
        let speed_per_mille = machine.speed_per_mille;
        let cost = self.work_us(&job, index);
        let (result, body, witness) = match self.lie(number, &job, index) {
            Some(lie) => lie,
            None => {
                self.executed_us += cost;
                self.note_run(number, &job, cost);
                let (result, body) = self.bodies[index as usize].clone();
                (result, body, Witness(*blake3::hash(&UnitId::of(&job, index).0).as_bytes()))
            }
        };
        let spent_us = cost * 1000 / speed_per_mille;
        let reports = vec![Report { index, result: Ok((result, witness)), body: Some(body) }];
        self.go_on(number, slot);
        self.tell(number, Event::Ran(Ran { slot, job, reports, spent_us, done }));
    }

    fn go_on(&mut self, number: usize, slot: u16) {
        let machine = &self.machines[number];
        let next = machine.queue.front().and_then(|(job, units)| Some((*job, *units.front()?)));
        if let Some((job, index)) = next.filter(|_| !machine.running) {
            let us = self.work_us(&job, index) * 1000 / machine.speed_per_mille;
            self.machines[number].running = true;
            self.happens_in(us.div_ceil(1000), Happening::Ended { machine: number, slot });
        }
    }

    fn tell(&mut self, machine: usize, event: Event) {
        self.fared.events += 1;
        let mut actions = std::mem::take(&mut self.actions);
        self.machines[machine].peer.handle(self.now, event, &mut actions);
        for action in actions.drain() {
            self.carry_out(machine, action);
        }
        self.actions = actions;
    }

    fn carry_out(&mut self, machine: usize, action: Action) {
        match action {
            Action::Say { to, message } => {
                let Some(to) = self.number(&to) else { return };
                self.count(&message);
                let ms = self.delay(machine, to);
                self.happens_in(ms, Happening::Heard { from: machine, to, message });
            }
            Action::Dial { address, .. } => {
                let to = usize::from(address.port()) - 1 + usize::from(octet(&address)) * PORTS;
                let ms = 2 * self.delay(machine, to);
                self.happens_in(ms, Happening::Dialled { by: machine, to });
            }
            Action::HangUp { peer } => {
                let Some(other) = self.number(&peer) else { return };
                self.happens_in(0, Happening::Left { machine, other });
                let ms = self.delay(machine, other);
                self.happens_in(ms, Happening::Left { machine: other, other: machine });
            }
            Action::Fetch { need, from } => {
                let from = from.first().and_then(|source| self.number(&source.peer));
                let ms = 2 * self.delay(machine, from.unwrap_or(0));
                self.happens_in(ms, Happening::Fetched { machine, need });
            }
            Action::Run { slot, job, units } => {
                let peer = &self.machines[machine].peer;
                let audited = units.iter().filter(|index| {
                    matches!(peer.verdict(&job, **index), Some(Verdict::Accepted(_)))
                });
                let us = audited.map(|index| self.work_us(&job, *index)).sum::<u64>();
                self.audited_us += us;
                self.note_audit(&job, us);
                self.machines[machine].queue.push_back((job, units.into()));
                self.go_on(machine, slot);
            }
            Action::WakeAt(at) => {
                self.machines[machine].alarm = Some(at);
                self.happens_in(at.ms_since(self.now), Happening::Woke { machine, at });
            }
            Action::Tell(news) => self.on_news(machine, news),
            Action::Stop { .. }
            | Action::Clear(_)
            | Action::Keep(_)
            | Action::Forget(_)
            | Action::Note(_)
            | Action::Credit(_)
            | Action::Lend(_)
            | Action::Discard(_) => {}
        }
    }

    fn number(&self, id: &PeerId) -> Option<usize> {
        let at = self.by_id.binary_search_by(|(other, _)| other.cmp(id)).ok()?;
        Some(self.by_id[at].1)
    }

    fn delay(&self, a: usize, b: usize) -> u64 {
        let (least, most) = self.crowd.delay_ms;
        let pair = (a.min(b) as u64) << 32 | a.max(b) as u64;
        least + Chance::of_seed(pair).below(most - least + 1)
    }

    fn count(&mut self, message: &Message) {
        let (kind, bytes) = match message {
            Message::Hello(_) => ("hello", message.to_bytes().len()),
            Message::Records(records) => {
                self.fared.copies += records.len() as u64;
                // What a record is of stands in its second byte.
                let kind = match records.first().and_then(|bytes| bytes.get(1)) {
                    Some(2) => "claims",
                    Some(3) => "receipts",
                    Some(5) => "contacts",
                    _ => "jobs",
                };
                (kind, 3 + records.iter().map(|bytes| bytes.len() + 2).sum::<usize>())
            }
            Message::Have(ids) => ("have", 4 + 32 * ids.len()),
            Message::Want(ids) => ("want", 4 + 32 * ids.len()),
            Message::Compare(_) => ("compare", message.to_bytes().len()),
            Message::Listing(_) => ("listing", message.to_bytes().len()),
            Message::Keeping(_) => ("keeping", 34),
        };
        let (messages, sum) = self.fared.said.entry(kind).or_default();
        *messages += 1;
        *sum += bytes as u64;
    }
}

/// How many machines share one address.
const PORTS: usize = 60_000;

fn address(number: usize) -> SocketAddr {
    let port = u16::try_from(number % PORTS).unwrap_or(0) + 1;
    ([10, 0, 0, u8::try_from(number / PORTS).unwrap_or(u8::MAX)], port).into()
}

fn octet(address: &SocketAddr) -> u8 {
    match address {
        SocketAddr::V4(v4) => v4.ip().octets()[3],
        SocketAddr::V6(_) => 0,
    }
}

fn key(crowd: &Crowd, number: usize) -> Key {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&crowd.seed.to_le_bytes()).update(&(number as u64).to_le_bytes());
    Key::of_secret(hasher.finalize().as_bytes())
}

fn peer(crowd: &Crowd, born: &Config, number: usize, known: Vec<u64>) -> Peer {
    let joins = known.into_iter().map(|other| address(usize::try_from(other).unwrap_or(0)));
    let config = Config {
        slots: u16::from(number > 0),
        addresses: vec![address(number)],
        joins: joins.collect(),
        seed: crowd.seed << 32 ^ number as u64,
        ..born.clone()
    };
    Peer::new(key(crowd, number), config)
}

fn outcome(index: u32) -> (ResultHash, Arc<[u8]>) {
    said(format!("{index}\n"))
}

/// A result with this on standard output.
fn said(stdout: String) -> (ResultHash, Arc<[u8]>) {
    let stdout = stdout.into_bytes();
    let body: Arc<[u8]> = Outcome::Result { exit_code: 0, stdout, files: vec![] }.to_body().into();
    (BlobId::of(&body).result_hash(), body)
}

fn job(crowd: &Crowd, created: Time, number: usize) -> Record {
    Record::Job(Job {
        created,
        expires: created.plus_ms(Job::LIFE_MAX_MS),
        nonce: crowd.seed.wrapping_add(number as u64),
        ..plain_job(crowd)
    })
}

/// A crowd's job, as of no time.
pub(crate) fn plain_job(crowd: &Crowd) -> Job {
    Job {
        created: Time(0),
        expires: Time(Job::LIFE_MAX_MS),
        nonce: 0,
        module: BlobId([1; 32]),
        module_bytes: 1000,
        inputs: BlobId([2; 32]),
        inputs_bytes: 100,
        units: crowd.units,
        limits: Limits { deadline_ms: 1 + crowd.unit_us / 10, ..Limits::DEFAULT },
        copies: crowd.quality.copies(),
        quality: crowd.quality,
        peers: crowd.workers.max(1),
        priority: Job::PRIORITY_USUAL,
        label: String::new(),
        extras: Vec::new(),
        identity: Identity::NONE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_crowd_does_its_job_and_the_same_seed_fares_the_same() {
        let crowd = Crowd { submit_ms: 40_000, ..Crowd::of(12, 60, Quality::Standard) };
        let first = crowd.clone().fare();
        assert_eq!((first.accepted_ms.len(), first.wrong), (60, 0));
        let second = crowd.fare();
        assert_eq!(first.accepted_ms, second.accepted_ms);
        assert_eq!(first.said, second.said);
    }

    #[test]
    fn half_of_what_is_drawn_is_below_the_median() {
        let mut chance = Chance::of_seed(1);
        let mut drawn: Vec<u64> = (0..10_001).map(|_| log_normal(&mut chance, 1000, 600)).collect();
        drawn.sort_unstable();
        assert!((950..1050).contains(&drawn[5000]), "{}", drawn[5000]);
        // One standard deviation up is exp(0.6) times as much.
        assert!((1720..1930).contains(&drawn[8413]), "{}", drawn[8413]);
    }
}
