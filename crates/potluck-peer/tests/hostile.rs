//! A neighbour that says whatever it likes: nothing it says may make a peer panic, keep without
//! bound, or answer without bound.

#![allow(
    clippy::cast_possible_truncation,
    clippy::wildcard_enum_match_arm,
    clippy::unwrap_used,
    reason = "garbage is made of truncated numbers, and a test looks for one variant among many"
)]

use std::sync::Arc;

use std::collections::BTreeSet;

use potluck_peer::{Action, Actions, Chance, Config, Event, Peer};
use potluck_unit::{
    BlobId, Claim, Close, Compare, Contact, Fingerprint, Hello, IdRange, Identity, Job, JobId, Key,
    Limits, Listing, Message, NoResult, PeerId, Piece, Quality, Receipt, ReceiptBatch, Record,
    RecordId, ResultHash, Seat, Signed, Statement, Time, Topic, WorkDigest,
};

const NOW: Time = Time(1_700_000_000_000);
/// What one message may make a peer do: 64 ranges answered with a listing each, and small change.
const ACTIONS_MAX: usize = 200;
/// What one message may make a peer say.
const SAID_BYTES_MAX: usize = 2 << 20;

fn key(n: u8) -> Key {
    Key::of_secret(&[n; 32])
}

fn job(units: u32) -> Signed {
    let job = Job {
        created: NOW,
        expires: NOW.plus_ms(3_600_000),
        nonce: units.into(),
        module: BlobId([1; 32]),
        module_bytes: 1,
        inputs: BlobId([2; 32]),
        inputs_bytes: 1,
        units,
        limits: Limits::DEFAULT,
        copies: 2,
        quality: Quality::Standard,
        peers: 2,
        priority: Job::PRIORITY_USUAL,
        label: String::new(),
        identity: Identity::NONE,
        extras: vec![],
    };
    Signed::sign(&key(1), Record::Job(job))
}

/// A worker with two neighbours, 2 and 3, that knows a job of 1,000 units.
fn peer() -> (Peer, Signed) {
    let config = Config {
        slots: 2,
        addresses: vec![([127, 0, 0, 1], 1).into()],
        joins: vec![],
        agent: "test".to_owned(),
        seed: 1,
        ..Config::default()
    };
    let mut peer = Peer::new(key(9), config);
    let (mut actions, record) = (Actions::new(), job(1000));
    peer.handle(NOW, Event::Woke, &mut actions);
    for n in [2, 3] {
        let address = ([127, 0, 0, 1], n.into()).into();
        let joined = Event::Joined { peer: key(n).id(), address, outbound: false };
        peer.handle(NOW, joined, &mut actions);
    }
    let message = Message::Records(vec![record.bytes().clone()]);
    peer.handle(NOW, Event::Heard { from: key(2).id(), message }, &mut actions);
    (peer, record)
}

/// Says something to the peer and looks at what comes of it.
fn hear(peer: &mut Peer, now: Time, message: Message) -> Vec<Action> {
    let mut actions = Actions::new();
    peer.handle(now, Event::Heard { from: key(2).id(), message }, &mut actions);
    let actions: Vec<Action> = actions.drain().collect();
    let bytes = |action: &Action| match action {
        Action::Say { message, .. } => message.to_bytes().len(),
        _ => 0,
    };
    assert!(actions.len() <= ACTIONS_MAX, "{} actions", actions.len());
    assert!(actions.iter().map(bytes).sum::<usize>() <= SAID_BYTES_MAX);
    actions
}

fn id(chance: &mut Chance) -> RecordId {
    let mut id = [0; 32];
    id.iter_mut().for_each(|byte| *byte = chance.below(256) as u8);
    RecordId(id)
}

fn range(chance: &mut Chance) -> IdRange {
    match chance.below(4) {
        0 => IdRange::ALL,
        1 => IdRange { first: RecordId([0xff; 32]), last: RecordId([0; 32]) },
        _ => IdRange { first: id(chance), last: id(chance) },
    }
}

fn topic(chance: &mut Chance, known: JobId) -> Topic {
    match chance.below(3) {
        0 => Topic::Board,
        1 => Topic::Job(known),
        _ => Topic::Job(JobId(id(chance).0)),
    }
}

fn garbage(chance: &mut Chance) -> Arc<[u8]> {
    let bytes = chance.below(400);
    (0..bytes).map(|_| chance.below(256) as u8).collect()
}

fn statement(chance: &mut Chance) -> Statement {
    if chance.happens(300) {
        return Statement::NoResult(NoResult::Deadline);
    }
    let (result, digest) = (ResultHash([chance.below(3) as u8; 16]), WorkDigest([1; 16]));
    Statement::Outcome { result, digest }
}

fn record(chance: &mut Chance, known: JobId) -> Arc<[u8]> {
    let job = if chance.happens(800) { known } else { JobId(id(chance).0) };
    let record = match chance.below(5) {
        0 => Record::Claim(Claim {
            job,
            made: Time(chance.next_u64()),
            lease_ms: chance.below(u64::from(Claim::LEASE_MAX_MS) + 1) as u32,
            pieces: {
                let chunks = (0..=chance.below(255)).map(|_| chance.next_u64() as u32);
                let chunks: BTreeSet<u32> = chunks.collect();
                let piece =
                    |chunk| Piece { chunk, units: chance.next_u64(), secret: chance.happens(500) };
                chunks.into_iter().map(piece).collect()
            },
        }),
        1 => Record::Close(Close { job, results: None }),
        2 => Record::Contact(Contact {
            made: Time(chance.next_u64()),
            addresses: vec![([0, 0, 0, 0], chance.below(65_536) as u16).into()],
            slots: chance.below(1024) as u16,
            agent: String::new(),
            nickname: String::new(),
            team: String::new(),
            identity: Identity::NONE,
        }),
        _ => {
            let first = [0, 990, 1_000_000, u32::MAX - 600][chance.below(4) as usize];
            let indices = first..first + 1 + chance.below(20) as u32;
            let receipts = indices.map(|index| Receipt { index, statement: statement(chance) });
            ReceiptBatch {
                receipts: receipts.collect(),
                ..ReceiptBatch::new(job, NOW, Seat::Public)
            }
            .into()
        }
    };
    let bytes = Signed::sign(&key(10 + chance.below(4) as u8), record).bytes().clone();
    if chance.happens(200) {
        let mut broken = bytes.to_vec();
        let at = chance.below(broken.len() as u64) as usize;
        broken[at] ^= 1;
        return broken.into();
    }
    bytes
}

fn message(chance: &mut Chance, known: JobId) -> Message {
    match chance.below(8) {
        0 => Message::Hello(Hello {
            contact: garbage(chance),
            observed: None,
            others: (0..chance.below(32)).map(|_| garbage(chance)).collect(),
        }),
        1 => Message::Have((0..chance.below(512)).map(|_| id(chance)).collect()),
        2 => Message::Want((0..chance.below(512)).map(|_| id(chance)).collect()),
        3 => {
            let print = |chance: &mut Chance| {
                let count = chance.next_u64() as u32;
                (range(chance), Fingerprint { count, hash: [7; 16] })
            };
            let ranges = (0..chance.below(64)).map(|_| print(chance)).collect();
            Message::Compare(Compare { topic: topic(chance, known), ranges })
        }
        4 => Message::Listing(Listing {
            topic: topic(chance, known),
            range: range(chance),
            ids: (0..chance.below(512)).map(|_| id(chance)).collect(),
        }),
        5 => Message::Keeping(if chance.happens(500) { known } else { JobId(id(chance).0) }),
        _ => Message::Records((0..chance.below(8)).map(|_| record(chance, known)).collect()),
    }
}

#[test]
fn whatever_a_neighbour_says_a_peer_neither_panics_nor_answers_without_bound() {
    for seed in 0..20 {
        let mut chance = Chance::of_seed(seed);
        let (mut peer, job) = peer();
        let known = job.job_id().unwrap();
        for step in 0..300 {
            let message = message(&mut chance, known);
            hear(&mut peer, NOW.plus_ms(step * 37), message);
        }
    }
}

#[test]
fn random_bytes_that_happen_to_be_a_message_do_no_harm() {
    let (mut peer, _) = peer();
    let mut chance = Chance::of_seed(5);
    let mut read = 0;
    for step in 0..100_000 {
        let mut bytes = vec![1, chance.below(8) as u8];
        bytes.extend((0..chance.below(80)).map(|_| chance.below(256) as u8));
        if let Ok(message) = Message::of_bytes(&bytes) {
            read += 1;
            hear(&mut peer, NOW.plus_ms(step), message);
        }
    }
    assert!(read > 0);
}

fn said_to(actions: &[Action], to: PeerId) -> usize {
    let is_say = |action: &&Action| matches!(action, Action::Say { to: other, .. } if *other == to);
    actions.iter().filter(is_say).count()
}

#[test]
fn who_asks_for_one_record_many_times_gets_it_once() {
    let (mut peer, job) = peer();
    let actions = hear(&mut peer, NOW, Message::Want(vec![job.id(); Message::IDS_MAX]));
    let records: usize = (actions.iter())
        .map(|action| match action {
            Action::Say { message: Message::Records(records), .. } => records.len(),
            _ => 0,
        })
        .sum();
    assert_eq!(records, 1);
}

#[test]
fn ranges_that_overlap_are_not_looked_into() {
    let (mut peer, _) = peer();
    let print = Fingerprint { count: 5, hash: [0; 16] };
    let ranges = vec![(IdRange::ALL, print); Message::RANGES_MAX];
    let actions = hear(&mut peer, NOW, Message::Compare(Compare { topic: Topic::Board, ranges }));
    assert_eq!(said_to(&actions, key(2).id()), 0);
    assert!(actions.iter().any(|action| matches!(action, Action::HangUp { .. })));
}

#[test]
fn receipts_for_units_that_do_not_exist_are_not_kept_and_end_the_connection() {
    let (mut peer, job) = peer();
    let receipts = vec![Receipt { index: 1000, statement: Statement::NoResult(NoResult::Engine) }];
    let batch =
        ReceiptBatch { receipts, ..ReceiptBatch::new(job.job_id().unwrap(), NOW, Seat::Public) };
    let record = Signed::sign(&key(5), batch.into());
    let actions = hear(&mut peer, NOW, Message::Records(vec![record.bytes().clone()]));
    assert!(!actions.iter().any(|action| matches!(action, Action::Keep(_))));
    assert!(actions.iter().any(|action| matches!(action, Action::HangUp { .. })));
}

/// A proof of another key's draw, and one for a chunk that the unit is not in.
#[test]
fn receipts_whose_draw_proves_nothing_are_not_kept_and_end_the_connection() {
    for (drawer, chunk) in [(6, 0), (5, 1)] {
        let (mut peer, job) = peer();
        let id = job.job_id().unwrap();
        let (proof, _) = key(drawer).draw(&id.draw_input(chunk));
        let statement = Statement::NoResult(NoResult::Engine);
        let receipts = vec![Receipt { index: 0, statement }];
        let seat = Seat::Drawn { chunk, proof };
        let batch = ReceiptBatch { receipts, ..ReceiptBatch::new(id, NOW, seat) };
        let record = Signed::sign(&key(5), batch.into());
        let actions = hear(&mut peer, NOW, Message::Records(vec![record.bytes().clone()]));
        assert!(!actions.iter().any(|action| matches!(action, Action::Keep(_))));
        assert!(actions.iter().any(|action| matches!(action, Action::HangUp { .. })));
    }
}

#[test]
fn a_peer_that_floods_a_job_with_receipts_is_heard_up_to_its_bound() {
    let (mut peer, _) = peer();
    let small = job(1);
    hear(&mut peer, NOW, Message::Records(vec![small.bytes().clone()]));
    let mut kept = 0;
    for n in 0..200u8 {
        let statement =
            Statement::Outcome { result: ResultHash([n; 16]), digest: WorkDigest([n; 16]) };
        let receipts = vec![Receipt { index: 0, statement }];
        let batch = ReceiptBatch {
            receipts,
            ..ReceiptBatch::new(small.job_id().unwrap(), NOW, Seat::Public)
        };
        let record = Signed::sign(&key(5), batch.into());
        let actions = hear(&mut peer, NOW, Message::Records(vec![record.bytes().clone()]));
        kept += actions.iter().filter(|action| matches!(action, Action::Keep(_))).count();
    }
    assert_eq!(kept, 66, "two for the unit and 64 on top");
}

/// Jobs of one submitter past the bound are refused, and taken once there is room.
#[test]
fn a_full_board_takes_a_refused_job_once_there_is_room() {
    let (mut peer, _) = peer();
    let jobs: Vec<Signed> = (1..=65).map(job).collect();
    for job in &jobs {
        hear(&mut peer, NOW, Message::Records(vec![job.bytes().clone()]));
    }
    assert_eq!(peer.jobs().len(), 64, "one of 1,000 units and 63 of these");
    let first = jobs[0].job_id().unwrap();
    let close = Signed::sign(&key(1), Record::Close(Close { job: first, results: None }));
    hear(&mut peer, NOW, Message::Records(vec![close.bytes().clone()]));
    let last = Message::Records(vec![jobs[64].bytes().clone()]);
    hear(&mut peer, NOW, last.clone());
    assert_eq!(peer.jobs().len(), 64, "it was refused a moment ago");
    let later = NOW.plus_ms(70_000);
    peer.handle(later, Event::Woke, &mut Actions::new());
    hear(&mut peer, later, last);
    assert_eq!(peer.jobs().len(), 65);
}
