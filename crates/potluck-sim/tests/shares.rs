//! A grid with more to do than it can: who is served how much. Peers of production, a network and
//! machines without faults, several submitters.

use std::collections::{BTreeMap, BTreeSet};

use potluck_peer::{Action, Actions, Config, Event, Peer, Ran, Report};
use potluck_unit::{
    BlobId, Job, JobId, Key, Limits, Outcome, PeerId, Quality, Record, Signed, Time, Witness,
};

const BEGIN: Time = Time(1_700_000_000_000);
const DELAY_MS: u64 = 2;
const UNIT_MS: u64 = 1000;
const DONORS: usize = 6;
const CONTRIBUTOR: usize = DONORS;
const FREE_RIDER: usize = DONORS + 1;
const STRANGER: usize = DONORS + 2;

/// Something that is about to happen to a peer. Alarms hold their time: only the last set one rings.
enum What {
    Told(Box<Event>),
    Rings,
}

struct Grid {
    now: Time,
    peers: Vec<Peer>,
    ids: BTreeMap<PeerId, usize>,
    alarms: Vec<Option<Time>>,
    links: BTreeSet<(usize, usize)>,
    /// When each peer's one slot is free.
    free_at: Vec<Time>,
    queue: BTreeMap<(Time, u64), (usize, What)>,
    sequence: u64,
}

fn key(n: usize) -> Key {
    Key::of_secret(blake3::hash(&n.to_le_bytes()).as_bytes())
}

fn address(n: usize) -> std::net::SocketAddr {
    ([127, 0, 0, 1], 1 + u16::try_from(n).unwrap_or(0)).into()
}

impl Grid {
    /// Six donors, a contributor that lends a slot as well, and two that lend nothing, with the
    /// weights that some of them set.
    fn new(weights: &BTreeMap<usize, BTreeMap<PeerId, u32>>) -> Grid {
        let peer = |n: usize| {
            let config = Config {
                slots: u16::from(n <= CONTRIBUTOR),
                addresses: vec![address(n)],
                joins: if n == 0 { vec![] } else { vec![address(0)] },
                seed: n as u64,
                weights: weights.get(&n).cloned().unwrap_or_default(),
                ..Config::default()
            };
            Peer::new(key(n), config)
        };
        let peers: Vec<Peer> = (0..=STRANGER).map(peer).collect();
        let mut grid = Grid {
            now: BEGIN,
            ids: peers.iter().enumerate().map(|(n, peer)| (peer.id(), n)).collect(),
            alarms: vec![None; peers.len()],
            links: BTreeSet::new(),
            free_at: vec![BEGIN; peers.len()],
            queue: BTreeMap::new(),
            sequence: 0,
            peers,
        };
        (0..=STRANGER).for_each(|n| grid.tell(n, Event::Woke));
        grid
    }

    fn later(&mut self, at: Time, n: usize, what: What) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), (n, what));
    }

    fn soon(&mut self, n: usize, event: Event) {
        self.later(self.now.plus_ms(DELAY_MS), n, What::Told(Box::new(event)));
    }

    fn run_until(&mut self, second: u64) {
        let end = BEGIN.plus_ms(second * 1000);
        while let Some(next) = self.queue.first_entry().filter(|next| next.key().0 <= end) {
            let ((at, _), (n, what)) = next.remove_entry();
            self.now = at;
            match what {
                What::Told(event) => self.tell(n, *event),
                What::Rings if self.alarms[n] == Some(at) => self.tell(n, Event::Woke),
                What::Rings => {}
            }
        }
        self.now = end;
    }

    fn tell(&mut self, n: usize, event: Event) {
        let mut actions = Actions::new();
        self.peers[n].handle(self.now, event, &mut actions);
        let actions: Vec<Action> = actions.drain().collect();
        actions.into_iter().for_each(|action| self.carry_out(n, action));
    }

    fn carry_out(&mut self, n: usize, action: Action) {
        let from = self.peers[n].id();
        if let Action::Say { to, message } = action {
            let to = self.ids[&to];
            if self.links.contains(&(n.min(to), n.max(to))) {
                self.soon(to, Event::Heard { from, message });
            }
        } else if let Action::Dial { address: to, .. } = action {
            let other = usize::from(to.port()) - 1;
            if other == n || !self.links.insert((n.min(other), n.max(other))) {
                return self.soon(n, Event::DialFailed { address: to });
            }
            let peer = self.peers[other].id();
            self.soon(n, Event::Joined { peer, address: to, outbound: true });
            self.soon(other, Event::Joined { peer: from, address: address(n), outbound: false });
        } else if let Action::HangUp { peer } = action {
            let other = self.ids[&peer];
            if self.links.remove(&(n.min(other), n.max(other))) {
                self.soon(n, Event::Left { peer });
                self.soon(other, Event::Left { peer: from });
            }
        } else if let Action::Fetch { need, .. } = action {
            self.soon(n, Event::Fetched { need, found: true });
        } else if let Action::Run { slot, job, units } = action {
            let spent_ms = units.len() as u64 * UNIT_MS;
            self.free_at[n] = self.free_at[n].max(self.now).plus_ms(spent_ms);
            let reports = units.iter().map(|index| report(job, *index)).collect();
            let ran = Ran { slot, job, reports, spent_us: spent_ms * 1000, done: true };
            self.later(self.free_at[n], n, What::Told(Box::new(Event::Ran(ran))));
        } else if let Action::WakeAt(at) = action {
            self.alarms[n] = Some(at);
            self.later(at.max(self.now), n, What::Rings);
        }
    }

    fn submit(&mut self, n: usize, units: u32) -> JobId {
        let job = Job {
            identity: potluck_unit::Identity::NONE,
            created: self.now,
            expires: self.now.plus_ms(Job::LIFE_MAX_MS),
            nonce: n as u64,
            module: BlobId([1; 32]),
            module_bytes: 1,
            inputs: BlobId([2; 32]),
            inputs_bytes: 1,
            units,
            limits: Limits::DEFAULT,
            copies: 1,
            quality: Quality::Bulk,
            peers: u32::try_from(DONORS + 1).unwrap_or(1),
            priority: Job::PRIORITY_USUAL,
            label: String::new(),
            extras: vec![],
        };
        let record = Signed::sign(&key(n), Record::Job(job));
        let id = record.job_id().unwrap_or(JobId([0; 32]));
        self.tell(n, Event::Submitted { record });
        id
    }

    fn accepted(&self, job: &JobId) -> u32 {
        self.peers[0].job(job).map_or(0, |status| status.counts.accepted)
    }

    /// Units of each job that are accepted in the next seconds.
    fn served(&mut self, jobs: &[JobId], until: u64) -> Vec<u32> {
        let before: Vec<u32> = jobs.iter().map(|job| self.accepted(job)).collect();
        self.run_until(until);
        jobs.iter().zip(before).map(|(job, before)| self.accepted(job) - before).collect()
    }
}

fn report(job: JobId, index: u32) -> Report {
    let stdout = format!("{job} {index}").into_bytes();
    let outcome = Outcome::Result { exit_code: 0, stdout, files: vec![] };
    let result = Ok((outcome.result_hash(), Witness([7; 32])));
    Report { index, result, body: Some(outcome.to_body().into()) }
}

#[test]
fn a_free_rider_gets_the_floor_and_what_is_idle_and_a_late_stranger_does_not_starve() {
    let mut grid = Grid::new(&BTreeMap::new());
    grid.run_until(20);
    // Nobody else wants anything: the free rider gets the whole grid.
    let free = grid.submit(FREE_RIDER, 700);
    assert!(grid.served(&[free], 200)[0] >= 690);
    // The contributor worked for it as much as anybody.
    let (contributor, free) = (grid.submit(CONTRIBUTOR, 6000), grid.submit(FREE_RIDER, 900));
    let served = grid.served(&[contributor, free], 600);
    let all: u32 = served.iter().sum();
    assert!(all > 2500, "seven slots are busy: {served:?}");
    assert!(served[1] * 20 <= all, "the floor is a fortieth: {served:?}");
    assert!(served[1] * 200 >= all, "{served:?}");
    let stranger = grid.submit(STRANGER, 900);
    let served = grid.served(&[contributor, free, stranger], 1000);
    let all: u32 = served.iter().sum();
    assert!(served[0] * 10 >= all * 9, "{served:?}");
    for some in &served[1..] {
        assert!(*some * 200 >= all, "nobody starves: {served:?}");
    }
    // When the contributor has all it wanted, the others share the grid.
    grid.run_until(1800);
    let done = [contributor, free, stranger].map(|job| grid.accepted(&job));
    assert_eq!(done, [6000, 900, 900]);
}

#[test]
fn a_donors_own_weights_decide_whom_it_serves() {
    let never = BTreeMap::from([(key(FREE_RIDER).id(), 0)]);
    let twice = BTreeMap::from([(key(STRANGER).id(), 200)]);
    let mut weights = BTreeMap::from([(0, never.clone())]);
    weights.extend((1..=CONTRIBUTOR).map(|n| (n, twice.clone())));
    let mut grid = Grid::new(&weights);
    grid.run_until(20);
    let (free, stranger) = (grid.submit(FREE_RIDER, 2000), grid.submit(STRANGER, 2000));
    let served = grid.served(&[free, stranger], 320);
    let ran = |grid: &Grid, n: usize, job: &JobId| {
        let by = grid.peers[n].receipts_of(&key(n).id());
        by.iter().filter(|(_, other, ..)| other == job).count()
    };
    assert_eq!(ran(&grid, 0, &free), 0, "its donor said never");
    // Six donors give a third to the one, and the seventh gives all to the other.
    let others: usize = (1..=CONTRIBUTOR).map(|n| ran(&grid, n, &free)).sum();
    let all: usize = (1..=CONTRIBUTOR).map(|n| ran(&grid, n, &stranger)).sum::<usize>() + others;
    assert!((28..=39).contains(&(others * 100 / all)), "{served:?}: {others} of {all}");
}
