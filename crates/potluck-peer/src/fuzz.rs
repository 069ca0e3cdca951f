//! What the fuzz target `peer` in `tests/fuzz` calls: bytes are read as a sequence of events, and a
//! claim that fails panics. The test below gives it the corpus.

use std::collections::{BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use potluck_unit::{
    BlobId, Claim, Close, Compare, Contact, DrawProof, Fingerprint, Hello, IdRange, Identity, Job,
    JobId, Key, Limits, Listing, Message, NoResult, Proof, Quality, Receipt, ReceiptBatch, Record,
    RecordId, ResultHash, Seat, Signed, Statement, Time, Topic, Witness, WorkDigest,
};

use crate::{
    Action, Actions, Battery, Caps, Config, Event, Hours, Need, Order, Peer, Ran, Reading, Report,
    Rules,
};

/// Any sequence of events: nothing panics, and what a peer wants done stays bounded by what it was
/// told and what it holds. Returns how many actions there were.
pub fn peer(bytes: &[u8]) -> usize {
    let mut input = Input(bytes);
    let mut world = World::new(&mut input);
    let mut total = 0;
    for _ in 0..EVENTS_MAX {
        if input.0.is_empty() {
            break;
        }
        let Some(event) = world.event(&mut input) else { continue };
        total += world.handle(event);
    }
    for job in world.peer.jobs() {
        let Some(status) = world.peer.job(&job) else { panic!("a job without a status") };
        assert!(status.counts.accepted + status.counts.unrunnable <= UNITS_MAX);
    }
    total
}

/// More says nothing new and takes long.
const EVENTS_MAX: usize = 400;
/// Units of the largest job here.
const UNITS_MAX: u32 = 300;
/// What one event may make a peer do, beside what it does about the units that it knows of: 64
/// ranges answered with a listing each, or every job forgotten with all its records.
const ACTIONS_MAX: usize = 1_000;
/// What it may do about a unit that it knows of: one conviction may re-open all of them.
const ACTIONS_PER_UNIT_MAX: usize = 2;
const WORK_BITS: u8 = 1;
const PEERS: u8 = 5;

/// Bytes to decide with; zeros when there are no more.
struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    fn once_in(&mut self, times: u8) -> bool {
        self.byte().is_multiple_of(times)
    }

    fn number(&mut self) -> u64 {
        (0..8).fold(0, |number, _| number << 8 | u64::from(self.byte()))
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound.max(1)
    }

    fn one<T: Clone>(&mut self, of: &[T]) -> Option<T> {
        let at = self.below(of.len());
        of.get(at).cloned()
    }
}

fn rules(input: &mut Input<'_>) -> Rules {
    let mut rules = if input.once_in(2) { Rules::unlimited() } else { Rules::default() };
    let caps = |input: &mut Input<'_>| Caps {
        slots: (!input.once_in(2)).then(|| u16::from(input.byte() % 4)),
        memory_bytes: input.once_in(4).then(|| u64::from(input.byte()) << 24),
        work_hours: input.once_in(4).then(|| hours(input)),
        network_hours: input.once_in(8).then(|| hours(input)),
        pause_programs: input.once_in(4).then(|| vec!["game".to_owned()]),
        pause_on_battery: input.once_in(4).then(|| input.once_in(2)),
        only_when_idle: input.once_in(4).then(|| input.once_in(2)),
        ..Caps::default()
    };
    rules.base = caps(input);
    rules.in_use = caps(input);
    rules.at = (0..input.below(3)).map(|_| (hours(input), caps(input))).collect();
    rules.release_after_ms = u64::from(input.byte()) * 1000;
    let submitter = keys()[usize::from(input.byte() & 1)].0.id();
    rules.choice.weights.insert(submitter, u32::from(input.byte()) * 4);
    rules
}

fn hours(input: &mut Input<'_>) -> Hours {
    let (from, until) = (input.byte() % 24, input.byte() % 25);
    let text = format!("mon-fri {from:02}:{:02}-{until:02}:00", input.byte() % 60);
    text.parse().unwrap_or(Hours::NEVER)
}

struct World {
    peer: Peer,
    now: Time,
    jobs: Vec<JobId>,
    records: Vec<RecordId>,
    batches: Vec<Signed>,
    fetches: VecDeque<Need>,
    runs: VecDeque<(u16, JobId, Vec<u32>)>,
}

impl World {
    fn new(input: &mut Input<'_>) -> World {
        let flags = input.byte();
        let config = Config {
            slots: u16::from(flags % 4),
            addresses: vec![address(9)],
            joins: vec![address(1)],
            open: flags & 0x80 != 0,
            work_bits: WORK_BITS,
            identity: keys()[0].1,
            // No fuzzer can sign; that bad signatures are refused is claimed elsewhere.
            verify: Some(Arc::new(|_, _, _| true)),
            ..Config::default()
        };
        let mut peer = Peer::new(keys()[0].0.clone(), config);
        peer.handle(START, Event::Woke, &mut Actions::new());
        World {
            peer,
            now: START,
            jobs: vec![],
            records: vec![],
            batches: vec![],
            fetches: VecDeque::new(),
            runs: VecDeque::new(),
        }
    }

    /// Hands one event to the peer and looks at what it wants done.
    fn handle(&mut self, event: Event) -> usize {
        let mut actions = Actions::new();
        let before = self.units();
        self.peer.handle(self.now, event, &mut actions);
        let actions_max = ACTIONS_MAX + ACTIONS_PER_UNIT_MAX * before.max(self.units());
        let mut count = 0;
        for action in actions.drain() {
            count += 1;
            match action {
                Action::Say { message, .. } => {
                    assert!(Message::of_bytes(&message.to_bytes()).is_ok(), "{message:?}");
                }
                Action::Fetch { need, .. } => self.fetches.push_back(need),
                Action::Run { slot, job, units } => {
                    assert!(!units.is_empty());
                    self.runs.push_back((slot, job, units));
                }
                Action::Keep(record) => self.records.push(record.id()),
                Action::Stop { .. }
                | Action::Dial { .. }
                | Action::HangUp { .. }
                | Action::Forget(_)
                | Action::Note(_)
                | Action::Clear(_)
                | Action::Credit(_)
                | Action::Discard(_)
                | Action::Lend(_)
                | Action::Tell(_)
                | Action::WakeAt(_) => {}
            }
        }
        assert!(count <= actions_max, "{count} actions, {actions_max} at most");
        count
    }

    /// How many units the peer knows of.
    fn units(&self) -> usize {
        let units = |job: JobId| self.peer.job(&job).map_or(0, |status| unit_count(&status.record));
        self.peer.jobs().into_iter().map(units).sum()
    }

    fn event(&mut self, input: &mut Input<'_>) -> Option<Event> {
        let from = keys()[1 + input.below(usize::from(PEERS))].0.id();
        Some(match input.byte() % 16 {
            0 => {
                let (address, outbound) = (address(input.byte()), input.byte() & 1 == 1);
                Event::Joined { peer: from, address, outbound }
            }
            1 => Event::Left { peer: from },
            2 => Event::DialFailed { address: address(input.byte()) },
            3..=7 => {
                let count = 1 + input.below(8);
                let records = (0..count).map(|_| self.record(input).bytes().clone()).collect();
                Event::Heard { from, message: Message::Records(records) }
            }
            8 => Event::Heard { from, message: self.message(input) },
            9 | 10 => {
                let steps = [37, 1_000, 11_000, 60_000, 3_600_000, 86_400_000];
                self.now = self.now.plus_ms(input.one(&steps)?);
                Event::Woke
            }
            11 => {
                let need = self.fetches.pop_front()?;
                Event::Fetched { need, found: !input.once_in(4) }
            }
            12 | 13 => Event::Ran(self.ran(input)?),
            14 => {
                let key = &keys()[usize::from(input.byte() & 1)];
                let record = Signed::sign(&key.0, self.job(input, key.1));
                self.jobs.extend(record.job_id());
                Event::Submitted { record }
            }
            _ => match input.byte() % 16 {
                0 | 4 | 8 | 12 => Event::Check { job: self.known_job(input) },
                1 => Event::Rules(Box::new(rules(input))),
                5 | 9 => Event::Reading(self.reading(input)),
                13 => Event::Order(self.order(input)),
                _ => Event::Collect { job: self.known_job(input) },
            },
        })
    }

    fn reading(&self, input: &mut Input<'_>) -> Reading {
        let percent = |input: &mut Input<'_>| (!input.once_in(4)).then(|| input.byte() % 110);
        let bytes = |input: &mut Input<'_>| u64::from(input.byte()) << 24;
        let charge = percent(input);
        Reading {
            week_ms: input.number(),
            day_ends: self.time(input),
            month_ends: self.time(input).plus_ms(86_400_000),
            idle_ms: percent(input).map(|ms| u64::from(ms) * 1000),
            battery: charge.map(|_| Battery { discharging: input.once_in(2), percent: charge }),
            celsius: percent(input).map(i16::from),
            others_cpu_percent: percent(input),
            programs: if input.once_in(4) { vec!["game".to_owned()] } else { vec![] },
            metered: percent(input).map(|percent| percent % 4 == 1),
            memory_bytes: percent(input).map(|_| bytes(input)),
            disk_bytes: percent(input).map(|_| bytes(input)),
            disk_free_bytes: percent(input).map(|_| bytes(input)),
            today_bytes: bytes(input),
            month_bytes: bytes(input),
        }
    }

    fn order(&self, input: &mut Input<'_>) -> Order {
        match input.byte() % 6 {
            0 => Order::Pause { until: None },
            1 => Order::Pause { until: Some(self.time(input)) },
            2 => Order::Drain { exit: input.once_in(2) },
            _ => Order::Resume,
        }
    }

    fn known_job(&self, input: &mut Input<'_>) -> JobId {
        input.one(&self.jobs).unwrap_or(JobId([input.byte(); 32]))
    }

    fn record(&mut self, input: &mut Input<'_>) -> Signed {
        let (key, mut identity) = keys()[input.below(1 + usize::from(PEERS))].clone();
        if input.once_in(16) {
            identity.nonce ^= u64::from(input.byte());
        }
        let job = self.known_job(input);
        let record = match input.byte() % 10 {
            0 => self.job(input, identity),
            1 | 2 => Record::Claim(self.claim(input, job)),
            3 => {
                let results = (input.byte() & 1 == 1).then_some([input.byte(); 32]);
                Record::Close(Close { job, results })
            }
            4 => Record::Contact(Contact {
                made: self.time(input),
                addresses: (0..input.below(9)).map(|_| address(input.byte())).collect(),
                slots: u16::from(input.byte()) * 4,
                agent: String::new(),
                nickname: String::new(),
                team: String::new(),
                identity,
            }),
            5 => match input.one(&self.batches).and_then(|batch| proof(input, &batch)) {
                Some(proof) => Record::Proof(proof),
                None => Record::Close(Close { job, results: None }),
            },
            _ => self.batch(input, job, identity).into(),
        };
        let signed = Signed::sign(&key, record);
        self.jobs.extend(signed.job_id());
        self.records.push(signed.id());
        if matches!(signed.record(), Record::Receipts(_)) {
            self.batches.push(signed.clone());
        }
        signed
    }

    fn time(&self, input: &mut Input<'_>) -> Time {
        match input.byte() % 4 {
            0 => Time(input.number()),
            1 => START,
            _ => self.now,
        }
    }

    fn job(&self, input: &mut Input<'_>, identity: Identity) -> Record {
        let created = if input.byte() & 7 == 0 { Time(input.number() >> 1) } else { self.now };
        let units = match input.byte() % 4 {
            0 => 1,
            1 => UNITS_MAX,
            _ => 1 + u32::from(input.byte() % 20),
        };
        Record::Job(Job {
            created,
            expires: created.plus_ms(1 + 3_600_000 * u64::from(input.byte())),
            nonce: u64::from(input.byte()),
            module: BlobId([input.byte() % 2; 32]),
            module_bytes: 1,
            inputs: BlobId([2; 32]),
            inputs_bytes: 1,
            units,
            limits: Limits::DEFAULT,
            copies: 1 + input.byte() % 4,
            quality: [Quality::Bulk, Quality::Standard, Quality::Critical][input.below(3)],
            peers: 1 + u32::from(input.byte()),
            priority: input.byte() % (1 + Job::PRIORITY_MAX),
            label: String::new(),
            identity,
            extras: vec![],
        })
    }

    fn claim(&self, input: &mut Input<'_>, job: JobId) -> Claim {
        Claim {
            job,
            made: self.time(input),
            lease_ms: 15_000 * u32::from(input.byte() % 240),
            pieces: {
                let chunks = (0..=input.byte() % 8).map(|_| u32::from(input.byte()));
                let chunks: BTreeSet<u32> = chunks.collect();
                let units = u64::from(input.byte()).wrapping_mul(0x0101_0101_0101_0101);
                let piece = |chunk| potluck_unit::Piece { chunk, units, secret: units & 1 == 1 };
                chunks.into_iter().map(piece).collect()
            },
        }
    }

    fn batch(&self, input: &mut Input<'_>, job: JobId, identity: Identity) -> ReceiptBatch {
        let seat = match input.byte() % 4 {
            0 => Seat::Extra,
            1 => Seat::Drawn {
                chunk: u32::from(input.byte()),
                proof: DrawProof([input.byte(); DrawProof::BYTES]),
            },
            _ => Seat::Public,
        };
        let (mut receipts, mut next) = (Vec::new(), 0);
        for _ in 0..=input.byte() % 16 {
            let index = next + u32::from(input.byte() % 20);
            receipts.push(Receipt { index, statement: statement(input, &job, index) });
            next = index + 1;
        }
        let made = self.time(input);
        ReceiptBatch { identity, receipts, ..ReceiptBatch::new(job, made, seat) }
    }

    fn ran(&mut self, input: &mut Input<'_>) -> Option<Ran> {
        if input.once_in(8) {
            // What no node would report.
            let index = u32::from(input.byte());
            let reports = vec![report(input, index)];
            let (job, slot) = (self.known_job(input), u16::from(input.byte() % 4));
            return Some(Ran { slot, job, reports, spent_us: 5, done: input.byte() & 1 == 1 });
        }
        let (slot, job, mut units) = self.runs.pop_front()?;
        let ended = units.len().min(1 + input.below(16));
        let reports = units.drain(..ended).map(|index| report(input, index)).collect();
        let done = units.is_empty() || input.once_in(4);
        if !done {
            self.runs.push_front((slot, job, units));
        }
        Some(Ran { slot, job, reports, spent_us: u64::from(input.byte()) * 100_000, done })
    }

    fn message(&mut self, input: &mut Input<'_>) -> Message {
        let ids = |world: &World, input: &mut Input<'_>| {
            let count = input.below(32);
            let id = |input: &mut Input<'_>| match input.one(&world.records) {
                Some(id) if !input.once_in(4) => id,
                Some(_) | None => RecordId([input.byte(); 32]),
            };
            (0..count).map(|_| id(input)).collect::<Vec<RecordId>>()
        };
        let topic = match input.byte() % 3 {
            0 => Topic::Board,
            _ => Topic::Job(self.known_job(input)),
        };
        let range = |input: &mut Input<'_>| match input.byte() % 3 {
            0 => IdRange::ALL,
            _ => {
                IdRange { first: RecordId([input.byte(); 32]), last: RecordId([input.byte(); 32]) }
            }
        };
        match input.byte() % 6 {
            0 => Message::Have(ids(self, input)),
            1 => Message::Want(ids(self, input)),
            2 => {
                let print = Fingerprint { count: u32::from(input.byte()), hash: [7; 16] };
                let ranges = (0..input.below(65)).map(|_| (range(input), print)).collect();
                Message::Compare(Compare { topic, ranges })
            }
            3 => Message::Listing(Listing { topic, range: range(input), ids: ids(self, input) }),
            4 => Message::Keeping(self.known_job(input)),
            _ => {
                let contact = self.record(input).bytes().clone();
                let others = (0..input.below(4)).map(|_| self.record(input).bytes().clone());
                let others = others.collect();
                Message::Hello(Hello { contact, observed: Some(address(input.byte())), others })
            }
        }
    }
}

fn unit_count(record: &Signed) -> usize {
    let Record::Job(job) = record.record() else { return 0 };
    job.units as usize
}

const START: Time = Time(1_700_000_000_000);

fn address(n: u8) -> SocketAddr {
    ([127, 0, 0, 1], n.into()).into()
}

/// Few results, so that peers agree and disagree.
fn result(input: &mut Input<'_>) -> (ResultHash, Witness) {
    let n = if input.once_in(4) { 1 + input.byte() % 3 } else { 0 };
    (ResultHash([n; 16]), Witness([n; 32]))
}

fn statement(input: &mut Input<'_>, job: &JobId, index: u32) -> Statement {
    if input.once_in(8) {
        return Statement::NoResult(NoResult::Deadline);
    }
    let (result, witness) = result(input);
    let worker = keys()[1 + input.below(usize::from(PEERS))].0.id();
    let unit = potluck_unit::UnitId::of(job, index);
    Statement::Outcome { result, digest: witness.work_digest(&worker, &unit) }
}

fn report(input: &mut Input<'_>, index: u32) -> Report {
    let result = match input.byte() % 8 {
        0 => Err(NoResult::Stopped),
        1 => Err(NoResult::Deadline),
        _ => Ok(result(input)),
    };
    let body = (input.byte() & 1 == 1).then(|| Arc::from(vec![0; input.below(64)]));
    Report { index, result, body }
}

fn proof(input: &mut Input<'_>, batch: &Signed) -> Option<Proof> {
    let Record::Receipts(said) = batch.record() else { return None };
    let index = input.one(&said.receipts)?.index;
    Proof::of(batch, index, ResultHash([9; 16]), WorkDigest([9; 16]))
}

/// The peer's own key and those of its neighbours, with proofs of work.
fn keys() -> &'static [(Key, Identity)] {
    static KEYS: OnceLock<Vec<(Key, Identity)>> = OnceLock::new();
    KEYS.get_or_init(|| {
        let tries = 1000 * Identity::tries_expected(WORK_BITS);
        let with_work = |n| {
            let key = Key::of_secret(&[n; 32]);
            let found = Identity::search(&key.id(), START, WORK_BITS, 0, tries);
            (key, found.unwrap_or(Identity::NONE))
        };
        (0..=PEERS).map(with_work).collect()
    })
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    #[test]
    fn the_corpus_of_events_holds() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus/peer");
        let (mut inputs, mut actions) = (0, 0);
        for entry in std::fs::read_dir(folder).unwrap() {
            actions += super::peer(&std::fs::read(entry.unwrap().path()).unwrap());
            inputs += 1;
        }
        assert!(inputs >= 20 && actions >= 1000, "{inputs} inputs, {actions} actions");
    }

    #[test]
    fn the_same_bytes_give_as_many_actions() {
        let mut chance = crate::Chance::of_seed(1);
        for _ in 0..20 {
            let bytes: Vec<u8> = (0..2_000).map(|_| chance.below(256) as u8).collect();
            assert_eq!(super::peer(&bytes), super::peer(&bytes));
        }
    }
}
