//! What the board takes, refuses and forgets.

use potluck_unit::{
    BlobId, Close, Identity, Key, Limits, NoResult, Quality, Receipt, ResultHash, Seat, Statement,
    WorkDigest,
};

use super::*;
use crate::Config;
use crate::action::Need;
use crate::event::{Event, Ran};
use crate::fetch::{FETCH_RETRY_MS, FETCHES_MAX, LOST_AFTER};
use crate::retention::CLOSED_KEPT_MS;

pub(crate) const NOW: Time = Time(1_700_000_000_000);

fn key(n: u8) -> Key {
    Key::of_secret(&[n; 32])
}

/// A job of submitter `n`.
pub(crate) fn job(n: u8, units: u32, copies: u8) -> Signed {
    job_with(n, u64::from(units), units, copies)
}

pub(crate) fn job_with(n: u8, nonce: u64, units: u32, copies: u8) -> Signed {
    Signed::sign(&key(n), Record::Job(plain_job(nonce, units, copies)))
}

/// A job of many workers that lasts another day, of submitter `n`. It is so old that everybody may
/// run everything, and hardly anybody audits.
pub(crate) fn lasting(n: u8, units: u32, copies: u8) -> Signed {
    let created = Time(NOW.0 - 20 * DAY_MS);
    let bare = plain_job(u64::from(units), units, copies);
    let job = Job { created, expires: NOW.plus_ms(DAY_MS), peers: 100_000, ..bare };
    Signed::sign(&key(n), Record::Job(job))
}

const DAY_MS: u64 = 24 * 3_600_000;

/// A job of few workers.
pub(crate) fn plain_job(nonce: u64, units: u32, copies: u8) -> Job {
    Job {
        created: NOW,
        expires: NOW.plus_ms(3_600_000),
        nonce,
        module: BlobId([1; 32]),
        module_bytes: 1,
        inputs: BlobId([2; 32]),
        inputs_bytes: 1,
        units,
        limits: Limits::DEFAULT,
        copies,
        quality: Quality::Standard,
        peers: 2,
        priority: Job::PRIORITY_USUAL,
        label: String::new(),
        identity: Identity::NONE,
        extras: vec![],
    }
}

/// A peer with this key's number, one slot and no neighbours, awake.
pub(crate) fn worker(n: u8) -> Peer {
    let mut peer = asleep(n);
    handle(&mut peer, NOW, Event::Woke);
    peer
}

fn asleep(n: u8) -> Peer {
    let config = Config {
        slots: 1,
        addresses: vec![],
        joins: vec![],
        agent: String::new(),
        seed: 1,
        ..Config::default()
    };
    Peer::new(key(n), config)
}

pub(crate) fn handle(peer: &mut Peer, now: Time, event: Event) -> Vec<Action> {
    let mut actions = Actions::new();
    peer.handle(now, event, &mut actions);
    actions.drain().collect()
}

/// Module and inputs of a job arrive.
pub(crate) fn fetched(peer: &mut Peer, now: Time, job: JobId) -> Vec<Action> {
    let module = Need::Module { job, blob: BlobId([1; 32]), bytes: 1 };
    let inputs = Need::Inputs { job, blob: BlobId([2; 32]), bytes: 1 };
    let mut actions = handle(peer, now, Event::Fetched { need: module, found: true });
    actions.extend(handle(peer, now, Event::Fetched { need: inputs, found: true }));
    actions
}

pub(crate) fn receipt(job: JobId, n: u8, index: u32, said: u8) -> Signed {
    let (result, digest) = (ResultHash([said; 16]), WorkDigest([n; 16]));
    let receipts = vec![Receipt { index, statement: Statement::Outcome { result, digest } }];
    Signed::sign(
        &key(n),
        ReceiptBatch { receipts, ..ReceiptBatch::new(job, NOW, Seat::Public) }.into(),
    )
}

pub(crate) fn hear(peer: &mut Peer, now: Time, record: &Signed) -> Vec<Action> {
    let message = potluck_unit::Message::Records(vec![record.bytes().clone()]);
    handle(peer, now, Event::Heard { from: key(99).id(), message })
}

#[test]
fn one_job_too_many_is_refused_and_the_submitters_own_never() {
    let (mut other, mut own) = (worker(2), worker(1));
    for nonce in 0..=JOBS_PER_SUBMITTER_MAX as u64 {
        let record = job_with(1, nonce, 1, 1);
        hear(&mut other, NOW, &record);
        handle(&mut own, NOW, Event::Submitted { record });
    }
    assert_eq!(other.jobs().len(), JOBS_PER_SUBMITTER_MAX);
    assert_eq!(own.jobs().len(), JOBS_PER_SUBMITTER_MAX + 1);
}

#[test]
fn a_full_board_takes_nothing_more() {
    let mut peer = worker(2);
    for n in 0..=JOBS_MAX {
        let submitter = 10 + (n / JOBS_PER_SUBMITTER_MAX) as u8;
        hear(&mut peer, NOW, &job_with(submitter, n as u64, 1, 1));
    }
    assert_eq!(peer.jobs().len(), JOBS_MAX);
}

/// Hears of a job, and forgets all but one of its units: tests need not hold millions.
fn hear_large(peer: &mut Peer, record: &Signed) {
    hear(peer, NOW, record);
    let (me, id) = (peer.me, record.job_id().unwrap());
    if let Some(entry) = peer.board.get_mut(&id) {
        entry.tally = Tally::new(&id, &plain_job(1, 1, 1), &me);
    }
}

#[test]
fn one_unit_too_many_is_refused_until_a_job_is_closed_or_has_expired() {
    let most = u32::try_from(UNITS_PER_SUBMITTER_MAX / 4).unwrap();
    let jobs: Vec<Signed> = (1..=4).map(|nonce| job_with(1, nonce, most, 1)).collect();
    let more = job_with(1, 5, 1, 1);
    let full = || {
        let mut peer = worker(2);
        jobs.iter().for_each(|record| hear_large(&mut peer, record));
        assert_eq!(peer.jobs().len(), 4);
        hear(&mut peer, NOW, &more);
        assert_eq!(peer.jobs().len(), 4);
        peer
    };
    let later = NOW.plus_ms(70_000);
    let mut peer = full();
    let close = Record::Close(Close { job: jobs[0].job_id().unwrap(), results: None });
    hear(&mut peer, NOW, &Signed::sign(&key(1), close));
    handle(&mut peer, later, Event::Woke);
    hear(&mut peer, later, &more);
    assert_eq!(peer.jobs().len(), 5);
    let mut peer = full();
    let late = NOW.plus_ms(3_600_000);
    handle(&mut peer, late, Event::Woke);
    assert!(peer.jobs().is_empty());
    let anew = Job { created: late, expires: late.plus_ms(1), ..plain_job(6, most, 1) };
    hear(&mut peer, late, &Signed::sign(&key(1), Record::Job(anew)));
    assert_eq!(peer.jobs().len(), 1);
}

#[test]
fn one_unit_too_many_of_all_submitters_is_refused() {
    let mut peer = worker(2);
    let most = u32::try_from(UNITS_PER_SUBMITTER_MAX / 4).unwrap();
    for n in 0..u8::try_from(UNITS_MAX / u64::from(most)).unwrap() {
        hear_large(&mut peer, &job_with(10 + n / 4, n.into(), most, 1));
    }
    assert_eq!(peer.jobs().len(), 16);
    hear(&mut peer, NOW, &job_with(20, 1, 1, 1));
    assert_eq!(peer.jobs().len(), 16);
}

#[test]
fn one_module_too_many_is_refused_and_known_ones_are_not() {
    let mut peer = worker(2);
    let with_module = |n: usize, nonce| {
        let job = Job { module: BlobId([n as u8; 32]), ..plain_job(nonce, 1, 1) };
        Signed::sign(&key(1), Record::Job(job))
    };
    for n in 0..=MODULES_PER_SUBMITTER_MAX {
        hear(&mut peer, NOW, &with_module(n, n as u64));
    }
    assert_eq!(peer.jobs().len(), MODULES_PER_SUBMITTER_MAX);
    hear(&mut peer, NOW, &with_module(0, 1000));
    assert_eq!(peer.jobs().len(), MODULES_PER_SUBMITTER_MAX + 1);
}

#[test]
fn a_job_with_an_unknown_requirement_is_spread_and_neither_run_nor_judged() {
    let mut peer = worker(2);
    let address = ([127, 0, 0, 1], 5).into();
    handle(&mut peer, NOW, Event::Joined { peer: key(5).id(), address, outbound: false });
    let extra = potluck_unit::Extra { tag: potluck_unit::Extra::REQUIRED | 1, bytes: vec![] };
    let job = Job { extras: vec![extra], ..plain_job(1, 2, 1) };
    let record = Signed::sign(&key(1), Record::Job(job));
    let id = record.job_id().unwrap();
    let mut actions = hear(&mut peer, NOW, &record);
    actions.extend(hear(&mut peer, NOW, &receipt(id, 5, 0, 7)));
    actions.extend(hear(&mut peer, NOW, &receipt(id, 5, 0, 8)));
    actions.extend(fetched(&mut peer, NOW, id));
    actions.extend(handle(&mut peer, NOW.plus_ms(60_000), Event::Woke));
    let spread = |action: &&Action| match action {
        Action::Say { message: potluck_unit::Message::Records(records), .. } => {
            records.iter().any(|bytes| bytes == record.bytes())
        }
        _ => false,
    };
    assert_eq!(actions.iter().filter(spread).count(), 1);
    let undone = |action: &Action| !matches!(action, Action::Run { .. } | Action::Fetch { .. });
    assert!(actions.iter().all(undone), "{actions:?}");
    assert_eq!(peer.job(&id).unwrap().counts.open, 2);
    assert!(peer.convictions().is_empty());
    assert!(peer.idle_reason(NOW).unwrap().contains("newer version"));
}

/// Otherwise a submitter could have no more than so many jobs in a month.
#[test]
fn settled_jobs_of_a_submitter_do_not_count() {
    let mut peer = worker(2);
    for nonce in 0..=JOBS_PER_SUBMITTER_MAX as u64 {
        let record = job_with(1, nonce, 1, 1);
        hear(&mut peer, NOW, &record);
        hear(&mut peer, NOW, &receipt(record.job_id().unwrap(), 5, 0, 7));
    }
    assert_eq!(peer.jobs().len(), JOBS_PER_SUBMITTER_MAX + 1);
}

#[test]
fn expired_jobs_and_jobs_of_the_future_are_refused() {
    let mut peer = worker(2);
    hear(&mut peer, NOW.plus_ms(3_600_000), &job(1, 1, 1));
    assert!(peer.jobs().is_empty());
    let mut peer = worker(2);
    hear(&mut peer, Time(NOW.0 - SKEW_MAX_MS - 1), &job(1, 1, 1));
    assert!(peer.jobs().is_empty());
}

#[test]
fn a_job_that_expired_while_the_peer_was_away_leaves_the_disk() {
    let (mut peer, record) = (asleep(2), job(1, 1, 1));
    let later = NOW.plus_ms(3_600_001);
    let word = receipt(record.job_id().unwrap(), 5, 0, 7);
    handle(&mut peer, later, Event::Kept { record });
    handle(&mut peer, later, Event::Kept { record: word });
    let actions = handle(&mut peer, later, Event::Woke);
    let forgotten = actions.iter().filter(|action| matches!(action, Action::Forget(_))).count();
    assert_eq!(forgotten, 2);
    assert!(actions.iter().any(|action| matches!(action, Action::Clear(_))));
}

#[test]
fn one_keeper_too_many_is_not_remembered() {
    let (mut peer, record) = (worker(2), job(1, 1, 1));
    let id = record.job_id().unwrap();
    hear(&mut peer, NOW, &record);
    for n in 0..=KEEPERS_MAX {
        let message = potluck_unit::Message::Keeping(id);
        handle(&mut peer, NOW, Event::Heard { from: key(n as u8).id(), message });
    }
    assert_eq!(peer.job(&id).unwrap().keepers, KEEPERS_MAX);
}

#[test]
fn only_the_submitter_closes_its_job() {
    let (mut peer, record) = (worker(2), job(1, 1, 1));
    let id = record.job_id().unwrap();
    hear(&mut peer, NOW, &record);
    let close = |n| Signed::sign(&key(n), Record::Close(Close { job: id, results: None }));
    hear(&mut peer, NOW, &close(3));
    assert!(!peer.job(&id).unwrap().closed);
    hear(&mut peer, NOW, &close(1));
    assert!(peer.job(&id).unwrap().closed);
}

#[test]
fn a_closed_job_leaves_the_disk_after_a_while_and_nothing_old_of_it_comes_back() {
    let mut peer = worker(2);
    let (record, other) = (lasting(1, 2, 1), lasting(1, 3, 1));
    let (id, word) = (record.job_id().unwrap(), receipt(record.job_id().unwrap(), 5, 0, 7));
    for known in [&record, &other, &word] {
        hear(&mut peer, NOW, known);
    }
    let close = Signed::sign(&key(1), Record::Close(Close { job: id, results: None }));
    hear(&mut peer, NOW, &close);
    let forgets = |actions: &[Action]| -> Vec<RecordId> {
        let id = |action: &Action| match action {
            Action::Forget(record) => Some(record.id()),
            _ => None,
        };
        actions.iter().filter_map(id).collect()
    };
    let clears = |actions: &[Action]| -> usize {
        actions.iter().filter(|action| matches!(action, Action::Clear(_))).count()
    };
    let seen = NOW.plus_ms(15_000);
    let mut actions = handle(&mut peer, seen, Event::Woke);
    actions.extend(handle(&mut peer, seen.plus_ms(CLOSED_KEPT_MS - 1), Event::Woke));
    assert_eq!((clears(&actions), forgets(&actions)), (0, vec![]));
    let later = seen.plus_ms(CLOSED_KEPT_MS);
    // The next turn of looking around.
    let mut actions = handle(&mut peer, later, Event::Woke);
    actions.extend(handle(&mut peer, later.plus_ms(15_000), Event::Woke));
    assert_eq!((clears(&actions), forgets(&actions)), (1, vec![word.id()]));
    assert_eq!(peer.fingerprint(&Topic::Job(id)), None, "no neighbour fills it up again");
    assert!(!peer.needed().1.contains(&ResultHash([7; 16])));
    let address = ([127, 0, 0, 1], 99).into();
    handle(&mut peer, later, Event::Joined { peer: key(99).id(), address, outbound: false });
    for old in [&record, &word, &close] {
        let actions = hear(&mut peer, later, old);
        assert!(!actions.iter().any(|a| matches!(a, Action::Keep(_) | Action::HangUp { .. })));
    }
    assert!(peer.job(&id).unwrap().closed);
    let actions = handle(&mut peer, NOW.plus_ms(DAY_MS), Event::Woke);
    assert!(forgets(&actions).contains(&record.id()) && forgets(&actions).contains(&close.id()));
    assert!(peer.jobs().is_empty());
}

#[test]
fn the_local_users_own_results_stay_until_the_job_expires() {
    let mut peer = worker(1);
    let record = lasting(1, 1, 1);
    let id = record.job_id().unwrap();
    handle(&mut peer, NOW, Event::Submitted { record });
    hear(&mut peer, NOW, &receipt(id, 5, 0, 7));
    let close = Signed::sign(&key(1), Record::Close(Close { job: id, results: None }));
    handle(&mut peer, NOW, Event::Submitted { record: close });
    handle(&mut peer, NOW, Event::Woke);
    handle(&mut peer, NOW.plus_ms(2 * CLOSED_KEPT_MS), Event::Woke);
    handle(&mut peer, NOW.plus_ms(3 * CLOSED_KEPT_MS), Event::Woke);
    assert_eq!(peer.job(&id).unwrap().counts.accepted, 1);
    assert!(peer.needed().1.contains(&ResultHash([7; 16])));
}

#[test]
fn a_closing_stops_what_runs_of_the_job_and_nothing_more_of_it_is_started() {
    let mut peer = worker(1);
    let record = job(2, 3, 1);
    let id = record.job_id().unwrap();
    hear(&mut peer, NOW, &record);
    let started = fetched(&mut peer, NOW, id);
    assert!(started.iter().any(|action| matches!(action, Action::Run { slot: 0, .. })));
    let close = Signed::sign(&key(2), Record::Close(Close { job: id, results: None }));
    let stopped = hear(&mut peer, NOW, &close);
    assert!(stopped.iter().any(|action| matches!(action, Action::Stop { slot: 0 })));
    let ran = Ran { slot: 0, job: id, reports: vec![], spent_us: 1, done: true };
    let after = handle(&mut peer, NOW, Event::Ran(ran));
    assert!(!after.iter().any(|action| matches!(action, Action::Run { .. })), "{after:?}");
    assert_eq!(peer.slots_busy(), 0);
}

/// A set that depended on the order of arrival would never be level with a neighbour's.
#[test]
fn receipts_that_say_nothing_new_are_kept_like_the_others() {
    let (mut one, mut two) = (worker(2), worker(3));
    let record = job(1, 4, 2);
    let id = record.job_id().unwrap();
    let both = {
        let (result, digest) = (ResultHash([7; 16]), WorkDigest([5; 16]));
        let statement = Statement::Outcome { result, digest };
        let receipts = vec![Receipt { index: 0, statement }, Receipt { index: 1, statement }];
        Signed::sign(
            &key(5),
            ReceiptBatch { receipts, ..ReceiptBatch::new(id, NOW, Seat::Public) }.into(),
        )
    };
    let words = [receipt(id, 5, 0, 7), both];
    for (peer, order) in [(&mut one, [0, 1]), (&mut two, [1, 0])] {
        hear(peer, NOW, &record);
        order.iter().for_each(|at| drop(hear(peer, NOW, &words[*at])));
    }
    assert_eq!(one.fingerprint(&Topic::Job(id)), two.fingerprint(&Topic::Job(id)));
}

fn bodies(actions: &[Action]) -> Vec<u32> {
    (actions.iter())
        .filter_map(|action| match action {
            Action::Fetch { need: Need::Body { index, .. }, .. } => Some(*index),
            _ => None,
        })
        .collect()
}

fn body(job: JobId, index: u32, found: bool) -> Event {
    Event::Fetched { need: Need::Body { job, index, result: ResultHash([7; 16]) }, found }
}

#[test]
fn a_body_that_is_not_found_holds_up_no_other_and_is_asked_for_again() {
    let mut peer = worker(1);
    let record = job(1, 40, 1);
    let id = record.job_id().unwrap();
    handle(&mut peer, NOW, Event::Submitted { record });
    let mut asked = Vec::new();
    for index in 0..40 {
        asked.extend(bodies(&hear(&mut peer, NOW, &receipt(id, 5, index, 7))));
    }
    assert_eq!(asked.len(), FETCHES_MAX);
    let mut next = bodies(&handle(&mut peer, NOW, body(id, 0, false)));
    while let Some(index) = next.pop() {
        next.extend(bodies(&handle(&mut peer, NOW, body(id, index, true))));
    }
    assert_eq!(peer.job(&id).unwrap().counts.fetched, 40 - 16);
    let later = NOW.plus_ms(FETCH_RETRY_MS);
    assert_eq!(bodies(&handle(&mut peer, later, Event::Woke)), [0]);
}

/// Bodies that this peer's receipts carry when it runs a unit of which another, who ran it first,
/// sent the result with or without its body.
fn carried_after(other_sends: bool) -> Vec<Vec<u8>> {
    let mut peer = worker(2);
    let record = job(1, 1, 2);
    let id = record.job_id().unwrap();
    hear(&mut peer, NOW, &record);
    fetched(&mut peer, NOW, id);
    let body: std::sync::Arc<[u8]> = b"some bytes".as_slice().into();
    let result = BlobId::of(&body).result_hash();
    let statement = Statement::Outcome { result, digest: WorkDigest([5; 16]) };
    let receipts = vec![Receipt { index: 0, statement }];
    let bodies = if other_sends { vec![body.to_vec()] } else { vec![] };
    let batch = ReceiptBatch { receipts, bodies, ..ReceiptBatch::new(id, NOW, Seat::Public) };
    hear(&mut peer, NOW, &Signed::sign(&key(5), batch.into()));
    let result = Ok((result, potluck_unit::Witness([3; 32])));
    let report = crate::Report { index: 0, result, body: Some(body) };
    let ran = Ran { slot: 0, job: id, reports: vec![report], spent_us: 1, done: true };
    let actions = handle(&mut peer, NOW, Event::Ran(ran));
    let own = actions.iter().filter_map(|action| match action {
        Action::Keep(record) => match record.record() {
            Record::Receipts(batch) => Some(batch.bodies.clone()),
            _ => None,
        },
        _ => None,
    });
    own.flatten().collect()
}

#[test]
fn a_body_that_nobody_has_sent_goes_with_the_receipt_though_somebody_signed_its_result() {
    assert_eq!(carried_after(false), [b"some bytes".to_vec()]);
    assert!(carried_after(true).is_empty());
}

#[test]
fn a_body_that_nobody_has_any_more_is_made_anew() {
    let mut peer = worker(1);
    let record = job(1, 1, 1);
    let id = record.job_id().unwrap();
    handle(&mut peer, NOW, Event::Submitted { record });
    hear(&mut peer, NOW, &receipt(id, 5, 0, 7));
    let mut actions = Vec::new();
    // The slot was given the unit before the receipt came; it had no result.
    let report = crate::Report { index: 0, result: Err(NoResult::Stopped), body: None };
    let ran = crate::Ran { slot: 0, job: id, reports: vec![report], spent_us: 1, done: true };
    handle(&mut peer, NOW, Event::Ran(ran));
    let mut now = NOW;
    for round in 0..LOST_AFTER {
        let runs = |action: &Action| matches!(action, Action::Run { .. });
        assert!(!actions.iter().any(runs), "too early: {actions:?}");
        actions = handle(&mut peer, now, body(id, 0, false));
        now = now.plus_ms(FETCH_RETRY_MS << round);
        actions.extend(handle(&mut peer, now, Event::Woke));
    }
    let runs = |action: &Action| matches!(action, Action::Run { units, .. } if *units == [0]);
    assert!(actions.iter().any(runs) || peer.slots_busy() == 1, "{actions:?}");
}

#[test]
fn who_contradicts_itself_is_convicted_by_both_of_its_words() {
    let mut peer = worker(2);
    let record = job(1, 4, 2);
    let id = record.job_id().unwrap();
    hear(&mut peer, NOW, &record);
    let second = receipt(id, 5, 0, 8);
    hear(&mut peer, NOW, &receipt(id, 5, 0, 7));
    hear(&mut peer, NOW, &second);
    let [conviction] = &peer.convictions()[..] else { panic!("{:?}", peer.convictions()) };
    let words = (conviction.found, conviction.said);
    assert_eq!(words, (ResultHash([7; 16]), ResultHash([8; 16])));
    assert_eq!((conviction.record, conviction.made), (second.id(), NOW));
}
