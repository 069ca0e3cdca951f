//! How peers bring the set of a job level: what it costs, how long it takes, what loss does to it.

#![allow(
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    clippy::unwrap_used,
    reason = "tests count small things and look for one variant among many"
)]

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use potluck_peer::{Action, Actions, Chance, Config, Event, Peer};
use potluck_unit::{
    BlobId, Identity, Job, JobId, Key, Limits, Message, PeerId, Quality, Receipt, ReceiptBatch,
    Record, ResultHash, Seat, Signed, Statement, Time, Topic, WorkDigest,
};

const NOW: Time = Time(1_700_000_000_000);
const UNITS: u32 = 100_000;
/// One way between two peers.
const DELAY_MS: u64 = 25;

fn job() -> Signed {
    let job = Job {
        created: NOW,
        expires: NOW.plus_ms(24 * 3_600_000),
        nonce: 1,
        module: BlobId([1; 32]),
        module_bytes: 1,
        inputs: BlobId([2; 32]),
        inputs_bytes: 1,
        units: UNITS,
        limits: Limits::DEFAULT,
        copies: 2,
        quality: Quality::Standard,
        peers: 2,
        priority: Job::PRIORITY_USUAL,
        label: String::new(),
        extras: vec![],
        identity: Identity::NONE,
    };
    Signed::sign(&Key::of_secret(&[1; 32]), Record::Job(job))
}

/// A job and one record for each of its units.
static RECORDS: LazyLock<(Signed, Vec<Signed>)> = LazyLock::new(|| {
    let (record, worker) = (job(), Key::of_secret(&[2; 32]));
    let id = record.job_id().unwrap();
    let receipt = |index: u32| {
        let mut batch = ReceiptBatch::new(id, NOW, Seat::Public);
        let result = ResultHash([7; 16]);
        let statement = Statement::Outcome { result, digest: WorkDigest([8; 16]) };
        batch.receipts.push(Receipt { index, statement });
        Signed::sign(&worker, batch.into())
    };
    (record, (0..UNITS).map(receipt).collect())
});

fn job_id() -> JobId {
    RECORDS.0.job_id().unwrap()
}

type Told = (PeerId, Option<(PeerId, Message)>);

/// A few peers that say things to each other.
struct Few {
    now: Time,
    peers: BTreeMap<PeerId, Peer>,
    /// Whom something is told: what another says, or that the alarm rang.
    queue: BTreeMap<(Time, u64), Told>,
    sequence: u64,
    chance: Chance,
    loss_per_mille: u64,
    /// Bytes said since the start: of records, and of all else.
    records: usize,
    others: usize,
    said: usize,
}

impl Few {
    /// Peers that know the job, and of the records all that `has` says.
    fn new(count: u8, has: impl Fn(u8, u32) -> bool) -> Few {
        let mut few = Few {
            now: NOW,
            peers: BTreeMap::new(),
            queue: BTreeMap::new(),
            sequence: 0,
            chance: Chance::of_seed(5),
            loss_per_mille: 0,
            records: 0,
            others: 0,
            said: 0,
        };
        for n in 0..count {
            let config = Config {
                seed: n.into(),
                verify: Some(Arc::new(|_, _, _| true)),
                ..Config::default()
            };
            let mut peer = Peer::new(Key::of_secret(&[10 + n; 32]), config);
            let mut nothing = Actions::new();
            let (job, records) = &*RECORDS;
            let kept = records.iter().enumerate().filter(|(index, _)| has(n, *index as u32));
            for record in std::iter::once(job).chain(kept.map(|(_, record)| record)) {
                peer.handle(NOW, Event::Kept { record: record.clone() }, &mut nothing);
            }
            few.peers.insert(peer.id(), peer);
        }
        for id in few.ids() {
            few.handle(id, Event::Woke);
        }
        few
    }

    fn ids(&self) -> Vec<PeerId> {
        self.peers.keys().copied().collect()
    }

    fn id(n: u8) -> PeerId {
        Key::of_secret(&[10 + n; 32]).id()
    }

    fn join(&mut self, a: u8, b: u8) {
        let address = ([127, 0, 0, 1], 1).into();
        for (a, b, outbound) in [(a, b, true), (b, a, false)] {
            self.handle(Few::id(a), Event::Joined { peer: Few::id(b), address, outbound });
        }
    }

    fn handle(&mut self, id: PeerId, event: Event) {
        let mut actions = Actions::new();
        self.peers.get_mut(&id).unwrap().handle(self.now, event, &mut actions);
        for action in actions.drain() {
            match action {
                Action::Say { to, message } => {
                    let bytes = message.to_bytes().len();
                    self.said += 1;
                    match message {
                        Message::Records(_) => self.records += bytes,
                        _ => self.others += bytes,
                    }
                    if !self.chance.happens(self.loss_per_mille) {
                        self.push(DELAY_MS, to, Some((id, message)));
                    }
                }
                Action::WakeAt(at) => self.push(at.ms_since(self.now), id, None),
                Action::HangUp { .. } => panic!("a neighbour is hung up on"),
                _ => {}
            }
        }
    }

    fn push(&mut self, ms: u64, to: PeerId, what: Option<(PeerId, Message)>) {
        self.sequence += 1;
        self.queue.insert((self.now.plus_ms(ms), self.sequence), (to, what));
    }

    fn is_level(&self) -> bool {
        let topic = Topic::Job(job_id());
        let mut prints = self.peers.values().map(|peer| peer.fingerprint(&topic).unwrap());
        let first = prints.next().unwrap();
        first.count == UNITS && prints.all(|print| print == first)
    }

    /// Lets things happen until all have everything. How long that took.
    fn level(&mut self, within_ms: u64) -> u64 {
        while !self.is_level() {
            let ((at, _), (to, what)) = self.queue.pop_first().unwrap();
            let late = at.ms_since(NOW);
            assert!(late <= within_ms, "not level after {late} ms");
            self.now = at;
            let event = match what {
                Some((from, message)) => Event::Heard { from, message },
                None => Event::Woke,
            };
            self.handle(to, event);
        }
        self.now.ms_since(NOW)
    }
}

/// Two peers of which the second lacks so many records, or each lacks half as many.
fn two(lacking: u32, both: bool) -> (Few, u64, usize) {
    let every = UNITS / lacking;
    let lacks = |n: u8, index: u32| {
        index.is_multiple_of(every) && (n == 1) != (both && (index / every).is_multiple_of(2))
    };
    let mut few = Few::new(2, |n, index| !lacks(n, index));
    few.join(0, 1);
    let ms = few.level(60_000);
    let missing: usize = (RECORDS.1.iter().enumerate())
        .filter(|(index, _)| (*index as u32).is_multiple_of(every))
        .map(|(_, record)| record.bytes().len())
        .sum();
    (few, ms, missing)
}

#[test]
fn bringing_sets_level_costs_what_is_missing_and_not_what_is_there() {
    eprintln!(
        "{:>7} {:>6} {:>9} {:>9} {:>9} {:>8} {:>8}",
        "lacking", "both", "missing", "records", "others", "messages", "ms"
    );
    // The ids of the whole set alone would be 3.2 MB.
    let bounds = [(10, 24 << 10), (1000, 768 << 10), (10_000, 4 << 20)];
    for (lacking, others_max) in bounds {
        // Each lacks half, where that costs most.
        for both in if lacking == 1000 { &[false, true][..] } else { &[false] } {
            let (few, ms, missing) = two(lacking, *both);
            let Few { records, others, said, .. } = few;
            eprintln!(
                "{lacking:>7} {both:>6} {missing:>9} {records:>9} {others:>9} {said:>8} {ms:>8}"
            );
            assert!(others <= others_max, "{others} bytes to find {lacking} records");
            assert!(
                records <= missing + missing / 10 + 100,
                "{records} bytes of records for {missing}"
            );
        }
    }
}

#[test]
fn a_late_joiner_gets_everything_once_and_without_pauses() {
    let mut few = Few::new(5, |n, _| n > 0);
    for other in 1..5 {
        few.join(0, other);
    }
    let ms = few.level(60_000);
    let all: usize = RECORDS.1.iter().map(|record| record.bytes().len()).sum();
    let Few { records, others, said, .. } = few;
    eprintln!(
        "{all} bytes missing: {records} of records and {others} of others in {said} messages, {ms} ms"
    );
    assert!(records < all + all / 10);
    assert!(ms < 8000, "{ms}");
}

#[test]
fn what_is_missing_is_found_though_one_message_in_twenty_is_lost() {
    let mut few = Few::new(3, |n, index| n > 0 || index >= 10_000);
    few.loss_per_mille = 50;
    few.join(0, 1);
    few.join(0, 2);
    let ms = few.level(120_000);
    let Few { records, others, said, .. } = few;
    eprintln!("{records} bytes of records and {others} of others in {said} messages, {ms} ms");
}
