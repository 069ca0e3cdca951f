//! What a peer does and says when less is lent.

use potluck_unit::{BlobId, Claim, Key, Limits, Message, Outcome, Record, Signed, Witness};

use super::*;
use crate::Config;
use crate::board::tests::{NOW, fetched, handle, hear, plain_job};
use crate::budget::{Effect, Rule};
use crate::choice::Pattern;
use crate::event::{Event, Ran, Report};
use crate::idle::Idle;

fn key(n: u8) -> Key {
    Key::of_secret(&[n; 32])
}

/// A peer of so many slots, awake, with one neighbour and these rules.
fn lender(slots: u16, rules: Rules) -> Peer {
    let mut peer = Peer::new(key(1), Config { slots, seed: 1, ..Config::default() });
    handle(&mut peer, NOW, Event::Rules(Box::new(rules)));
    handle(&mut peer, NOW, Event::Woke);
    join(&mut peer);
    peer
}

fn join(peer: &mut Peer) -> Vec<Action> {
    let address = ([127, 0, 0, 1], 5).into();
    handle(peer, NOW, Event::Joined { peer: key(5).id(), address, outbound: false })
}

fn rules(slots: u16) -> Rules {
    let mut rules = Rules::unlimited();
    rules.base.slots = Some(slots);
    rules
}

/// A job of so many units, whose units may use so much memory.
fn job(units: u32, memory_max_bytes: u64, label: &str) -> Signed {
    let limits = Limits { memory_max_bytes, ..Limits::DEFAULT };
    let label = label.to_owned();
    let job = Job { limits, label, ..plain_job(u64::from(units), units, 1) };
    Signed::sign(&key(9), Record::Job(job))
}

/// The job is here with all that it needs: what is done about it.
fn given(peer: &mut Peer, record: &Signed) -> (JobId, Vec<Action>) {
    let id = record.job_id().unwrap();
    let mut actions = hear(peer, NOW, record);
    actions.extend(fetched(peer, NOW, id));
    (id, actions)
}

const LATER: Time = Time(NOW.0 + 5000);

fn runs(actions: &[Action]) -> Vec<(u16, usize)> {
    let run = |action: &Action| match action {
        Action::Run { slot, units, .. } => Some((*slot, units.len())),
        _ => None,
    };
    actions.iter().filter_map(run).collect()
}

fn stops(actions: &[Action]) -> Vec<u16> {
    let stop = |action: &Action| match action {
        Action::Stop { slot } => Some(*slot),
        _ => None,
    };
    actions.iter().filter_map(stop).collect()
}

/// Claims in what is said, each with its lease and its units.
fn claims(actions: &[Action]) -> Vec<(u32, u32)> {
    let mut found = Vec::new();
    for action in actions {
        let Action::Say { message: Message::Records(records), .. } = action else { continue };
        for bytes in records {
            if let Record::Claim(Claim { lease_ms, pieces, .. }) =
                Signed::of_bytes(bytes).unwrap().record()
            {
                let units = pieces.iter().map(|piece| piece.units.count_ones()).sum();
                found.push((*lease_ms, units));
            }
        }
    }
    found
}

fn lent(actions: &[Action]) -> Option<Allowance> {
    let lend = |action: &Action| match action {
        Action::Lend(allowance) => Some(allowance.clone()),
        _ => None,
    };
    actions.iter().rev().find_map(lend)
}

fn order(peer: &mut Peer, order: Order) -> Vec<Action> {
    handle(peer, LATER, Event::Order(order))
}

/// What runs on a slot ends, or is handed back as not run.
fn ended(peer: &mut Peer, now: Time, slot: u16, done: bool) -> Vec<Action> {
    let front = peer.runs.on_slot(slot).0.front().unwrap();
    let (job, units) = (front.job, front.units.clone());
    let outcome = Outcome::Result { exit_code: 0, stdout: vec![1], files: vec![] };
    let body: std::sync::Arc<[u8]> = outcome.to_body().into();
    let result = Ok((BlobId::of(&body).result_hash(), Witness([0; 32])));
    let report = |index| Report { index, result, body: Some(body.clone()) };
    let reports = units.into_iter().filter(|_| done).map(report).collect();
    handle(peer, now, Event::Ran(Ran { slot, job, reports, spent_us: 60_000_000, done: true }))
}

#[test]
fn rules_are_answered_with_what_is_lent_and_readings_only_when_that_changes() {
    let mut peer = Peer::new(key(1), Config { slots: 4, ..Config::default() });
    let first = handle(&mut peer, NOW, Event::Rules(Box::new(rules(3))));
    assert_eq!(lent(&first).map(|lent| lent.slots_now()), Some(3));
    handle(&mut peer, NOW, Event::Woke);
    let hot = |celsius| Event::Reading(Reading { celsius: Some(celsius), ..Reading::default() });
    let mut strict = rules(3);
    strict.base.temperature_max_celsius = Some(80);
    handle(&mut peer, NOW, Event::Rules(Box::new(strict)));
    assert_eq!(lent(&handle(&mut peer, NOW, hot(70))), None);
    let paused = lent(&handle(&mut peer, NOW, hot(90))).unwrap();
    assert_eq!(paused.first(Effect::Compute).map(|reason| reason.rule), Some(Rule::Temperature));
    assert_eq!(lent(&handle(&mut peer, NOW, hot(95))), None, "as hot as that says nothing new");
    assert!(lent(&handle(&mut peer, NOW, hot(60))).unwrap().computes());
}

#[test]
fn a_peer_that_was_told_no_rules_lends_all_that_it_has() {
    let mut peer = Peer::new(key(1), Config { slots: 2, ..Config::default() });
    handle(&mut peer, NOW, Event::Woke);
    let (_, actions) = given(&mut peer, &job(100, 1 << 32, ""));
    assert_eq!(lent(&actions), None);
    assert_eq!(runs(&actions).iter().map(|(slot, _)| *slot).collect::<Vec<_>>(), [0, 1]);
}

#[test]
fn only_the_slots_that_are_lent_are_given_anything() {
    let mut peer = lender(4, rules(2));
    let (_, actions) = given(&mut peer, &job(100, 1, ""));
    assert_eq!(runs(&actions).iter().map(|(slot, _)| *slot).collect::<Vec<_>>(), [0, 1]);
    let more = handle(&mut peer, LATER, Event::Rules(Box::new(rules(4))));
    let later = handle(&mut peer, LATER.plus_ms(4000), Event::Woke);
    let all = [more, later].concat();
    assert_eq!(runs(&all).iter().map(|(slot, _)| *slot).collect::<Vec<_>>(), [2, 3]);
    let fewer = handle(&mut peer, LATER.plus_ms(4000), Event::Rules(Box::new(rules(1))));
    let allowance = lent(&fewer).unwrap();
    assert_eq!([0, 1, 3].map(|slot| allowance.runs(slot)), [true, false, false]);
    assert!(stops(&fewer).is_empty(), "what runs is suspended, not lost");
    ended(&mut peer, LATER.plus_ms(4000), 1, true);
    assert!(peer.runs.on_slot(1).0.is_empty(), "and a slot too many gets nothing more");
}

#[test]
fn a_pause_suspends_what_runs_gives_back_what_waits_and_later_the_rest() {
    let mut peer = lender(1, rules(1));
    let (id, actions) = given(&mut peer, &job(100, 1, ""));
    assert_eq!(runs(&actions), [(0, 1)]);
    // Others say that a unit takes a while, so that some are claimed ahead.
    peer.board.get_mut(&id).unwrap().plan.note_cost(1, 1_000_000);
    peer.plan_due = true;
    handle(&mut peer, LATER, Event::Woke);
    let held: u32 = peer
        .board
        .get(&id)
        .unwrap()
        .plan
        .claimed
        .iter()
        .map(|piece| piece.units.count_ones())
        .sum();
    assert!(held > 0);
    let paused = order(&mut peer, Order::Pause { until: None });
    assert!(!lent(&paused).unwrap().computes());
    assert_eq!(claims(&paused), [(0, held)], "given back: what no slot has begun");
    assert!(stops(&paused).is_empty());
    assert!(peer.running()[0].suspended);
    let minutes = |n: u64| LATER.plus_ms(n * 60_000);
    for minute in 1..10 {
        let actions = handle(&mut peer, minutes(minute), Event::Woke);
        assert!(runs(&actions).is_empty() && stops(&actions).is_empty(), "minute {minute}");
    }
    let released = handle(&mut peer, minutes(10), Event::Woke);
    assert_eq!(stops(&released), [0]);
    assert!(claims(&released).contains(&(0, 1)), "{:?}", claims(&released));
    assert!(lent(&released).unwrap().released);
    assert_eq!(peer.slots_said(), 0);
    let back = ended(&mut peer, minutes(10), 0, false);
    assert!(runs(&back).is_empty() && stops(&back).is_empty());
    let resumed = handle(&mut peer, minutes(11), Event::Order(Order::Resume));
    let started = handle(&mut peer, minutes(11).plus_ms(4000), Event::Woke);
    assert_eq!(runs(&[resumed, started].concat()).len(), 1, "and it goes on");
}

#[test]
fn a_pause_with_an_end_is_ended_by_the_alarm() {
    let mut peer = lender(1, rules(1));
    let until = LATER.plus_ms(90_000);
    order(&mut peer, Order::Pause { until: Some(until) });
    let mut now = LATER;
    let mut resumed = None;
    for _ in 0..200 {
        let at = peer.timers.next().unwrap();
        now = now.max(at);
        if lent(&handle(&mut peer, now, Event::Woke)).is_some_and(|lent| lent.computes()) {
            resumed = Some(now);
            break;
        }
    }
    assert_eq!(resumed, Some(until));
}

#[test]
fn a_draining_peer_finishes_says_so_once_and_takes_nothing_more() {
    let mut peer = lender(1, rules(1));
    let (id, _) = given(&mut peer, &job(100, 1, ""));
    let draining = order(&mut peer, Order::Drain { exit: true });
    let drained = |actions: &[Action]| {
        actions.iter().any(|action| matches!(action, Action::Tell(News::Drained { exit: true })))
    };
    assert!(!drained(&draining));
    assert_eq!(peer.why_idle(LATER), Idle::Draining(1));
    assert!(peer.board.get(&id).unwrap().plan.claimed.is_empty());
    let last = ended(&mut peer, LATER, 0, true);
    assert!(drained(&last) && runs(&last).is_empty());
    let receipts = |action: &Action| match action {
        Action::Say { message: Message::Records(records), .. } => records
            .iter()
            .any(|bytes| matches!(Signed::of_bytes(bytes).unwrap().record(), Record::Receipts(_))),
        _ => false,
    };
    let said = last.iter().position(receipts);
    let told = last.iter().position(|action| drained(std::slice::from_ref(action)));
    assert!(said.is_some() && said < told, "the receipts come first");
    let after = handle(&mut peer, LATER.plus_ms(20_000), Event::Woke);
    assert!(runs(&after).is_empty() && !drained(&after));
    assert_eq!(peer.why_idle(LATER), Idle::Drained);
    let mut idle = lender(1, rules(1));
    let drained_at_once = order(&mut idle, Order::Drain { exit: true });
    assert!(drained(&drained_at_once));
}

#[test]
fn units_run_together_only_as_far_as_their_memory_limits_fit() {
    let mib = |n: u64| n << 20;
    let with = |memory: u64| {
        let mut rules = rules(3);
        rules.base.memory_bytes = Some(mib(memory));
        (rules.node_bytes, rules.slot_bytes) = (mib(50), mib(25));
        rules
    };
    // With seven times the output's limit, for its ways through sandbox and node.
    let one = 25 + (Limits { memory_max_bytes: mib(100), ..Limits::DEFAULT }.held_bytes() >> 20);
    assert_eq!(one, 25 + 100 + 7 * 16);
    let slots = |memory: u64| {
        let mut peer = lender(3, with(memory));
        let (id, actions) = given(&mut peer, &job(100, mib(100), ""));
        (runs(&actions).len(), peer.choice(&id).unwrap().is_ok())
    };
    assert_eq!(slots(50 + 3 * one), (3, true));
    assert_eq!(slots(50 + 3 * one - 1), (2, true));
    assert_eq!(slots(50 + one), (1, true));
    assert_eq!(slots(50 + one - 1), (0, false));
    let mut peer = lender(3, with(1000));
    let (_, actions) = given(&mut peer, &job(100, mib(100), ""));
    assert_eq!(runs(&actions).len(), 3);
    let fewer = handle(&mut peer, LATER, Event::Rules(Box::new(with(50 + one))));
    assert_eq!(stops(&fewer), [1, 2], "less memory is lent than they may take");
}

#[test]
fn a_job_that_is_not_chosen_is_followed_and_neither_fetched_for_nor_run() {
    let mut picky = rules(1);
    picky.choice.deny_labels = vec![Pattern::new("mine*")];
    let mut peer = lender(1, picky);
    let record = job(100, 1, "mines");
    let id = record.job_id().unwrap();
    let heard = hear(&mut peer, NOW, &record);
    let tick = handle(&mut peer, LATER, Event::Woke);
    let fetches = |actions: &[Action]| {
        actions.iter().filter(|action| matches!(action, Action::Fetch { .. })).count()
    };
    assert_eq!((fetches(&heard), fetches(&tick)), (0, 0));
    assert!(peer.jobs().contains(&id));
    let said = peer.why_idle(LATER).to_string();
    assert!(said.contains("its label `mines` matches deny-labels `mine*`"), "{said}");
    let all = handle(&mut peer, LATER, Event::Rules(Box::new(rules(1))));
    let tick = handle(&mut peer, LATER.plus_ms(1000), Event::Woke);
    assert_eq!(fetches(&all) + fetches(&tick), 2, "module and inputs");
}

#[test]
fn a_submitter_that_is_denied_is_stopped_at_once() {
    let mut peer = lender(1, rules(1));
    let (id, actions) = given(&mut peer, &job(100, 1, ""));
    assert_eq!(runs(&actions).len(), 1);
    let mut strict = rules(1);
    strict.choice.weights.insert(key(9).id(), 0);
    let denied = handle(&mut peer, LATER, Event::Rules(Box::new(strict)));
    assert_eq!(stops(&denied), [0]);
    assert_eq!(peer.choice(&id), Some(Err(Refusal::NoWeight(key(9).id()))));
    let back = ended(&mut peer, LATER, 0, false);
    let after = handle(&mut peer, LATER.plus_ms(20_000), Event::Woke);
    assert!(runs(&back).is_empty() && runs(&after).is_empty());
}

#[test]
fn a_peer_off_the_network_leaves_its_neighbours_and_comes_back() {
    let mut peer = lender(1, Rules { traffic_day_bytes: 100, ..rules(1) });
    let record = job(100, 1, "");
    let used = |today_bytes| {
        let ends = NOW.plus_ms(60_000);
        let more = Reading { day_ends: ends, month_ends: ends, ..Reading::default() };
        Event::Reading(Reading { today_bytes, ..more })
    };
    let off = handle(&mut peer, NOW, used(100));
    let hang_ups = |actions: &[Action]| {
        actions.iter().filter(|action| matches!(action, Action::HangUp { .. })).count()
    };
    assert_eq!(hang_ups(&off), 1);
    handle(&mut peer, NOW, Event::Left { peer: key(5).id() });
    assert_eq!(hang_ups(&join(&mut peer)), 1, "nobody is let in");
    handle(&mut peer, NOW, Event::Left { peer: key(5).id() });
    assert!(matches!(peer.why_idle(NOW), Idle::OffNetwork(_)));
    let submitted = handle(&mut peer, NOW, Event::Submitted { record });
    assert!(submitted.iter().all(|action| !matches!(action, Action::Dial { .. })));
    // The day ends.
    let back = handle(&mut peer, NOW.plus_ms(60_000), Event::Woke);
    assert!(lent(&back).unwrap().connects());
    assert_eq!(hang_ups(&join(&mut peer)), 0);
}

#[test]
fn near_the_quota_a_job_waits_unless_it_is_here_already() {
    let tight = Rules { traffic_day_bytes: 64 << 20, ..rules(1) };
    let mut peer = lender(1, tight);
    let ends = NOW.plus_ms(3_600_000);
    let reading =
        Reading { day_ends: ends, month_ends: ends, today_bytes: 60 << 20, ..Reading::default() };
    handle(&mut peer, NOW, Event::Reading(reading));
    let record = job(100, 1, "");
    let heard = hear(&mut peer, NOW, &record);
    let asked: Vec<usize> = (heard.iter())
        .filter_map(|action| match action {
            Action::Fetch { from, .. } => Some(from.len()),
            _ => None,
        })
        .collect();
    assert_eq!(asked, [0, 0], "looked for on the disk only");
    let id = record.job_id().unwrap();
    assert!(matches!(peer.choice(&id), Some(Err(Refusal::TrafficTooLarge(_, 0)))));
    let ran = fetched(&mut peer, NOW, id);
    assert!(!claims(&ran).is_empty() || !runs(&ran).is_empty(), "what is here is run");
}

#[test]
fn a_full_disk_stops_intake_and_nothing_else() {
    let mut peer = lender(1, Rules { disk_bytes: 1000, ..rules(1) });
    let (_, actions) = given(&mut peer, &job(100, 1, ""));
    assert_eq!(runs(&actions).len(), 1);
    let reading = |disk| Event::Reading(Reading { disk_bytes: Some(disk), ..Reading::default() });
    let full = handle(&mut peer, LATER, reading(1000));
    let allowance = lent(&full).unwrap();
    assert!(allowance.computes() && !allowance.takes() && stops(&full).is_empty());
    let done = ended(&mut peer, LATER, 0, true);
    assert!(runs(&done).is_empty());
    assert!(matches!(peer.why_idle(LATER), Idle::Full(_)));
    let roomy = handle(&mut peer, LATER, reading(900));
    let started = handle(&mut peer, LATER.plus_ms(4000), Event::Woke);
    assert!(!runs(&[roomy, started].concat()).is_empty());
}

#[test]
fn what_runs_is_shown_with_whom_it_is_for() {
    let mut peer = lender(1, rules(1));
    let (id, _) = given(&mut peer, &job(100, 1, "primes"));
    let running = peer.running();
    let [slot] = running.as_slice() else { panic!("{running:?}") };
    assert_eq!((slot.job, slot.submitter, slot.label.as_str()), (id, key(9).id(), "primes"));
    assert_eq!((slot.units_left, slot.units_done, slot.suspended), (1, 0, false));
    assert_eq!(peer.why_idle(LATER), Idle::Busy(1));
    let since = slot.since;
    ended(&mut peer, LATER, 0, true);
    let units = handle(&mut peer, LATER.plus_ms(2000), Event::Woke);
    let running = peer.running();
    assert_eq!((running[0].since, running[0].units_done), (since, 1), "{units:?}");
}

#[test]
fn a_peer_without_anything_to_do_says_why_in_one_sentence() {
    let mut alone = Peer::new(key(1), Config { slots: 1, ..Config::default() });
    handle(&mut alone, NOW, Event::Woke);
    assert_eq!(alone.why_idle(NOW), Idle::NoNeighbours);
    let mut peer = lender(1, rules(1));
    assert_eq!(peer.why_idle(NOW), Idle::NoJobs);
    let record = job(1, 1, "");
    hear(&mut peer, NOW, &record);
    let id = record.job_id().unwrap();
    assert_eq!(peer.why_idle(NOW), Idle::Fetching(id));
    let none = lender(1, rules(0));
    assert_eq!(none.why_idle(NOW), Idle::NothingLent);
    assert!(none.allowance().runs(0), "disputed units of its own jobs run all the same");
    for why in [Idle::NoNeighbours, Idle::Refused(3, id, Refusal::TooNew), Idle::Draining(2)] {
        let said = why.to_string();
        assert!(!said.contains('\n') && !said.ends_with('.') && said.len() > 10, "{said}");
    }
}

#[test]
fn others_take_units_that_were_given_back_even_in_the_moment_they_were_claimed() {
    let mut peer = lender(1, rules(1));
    let record = job(100, 1, "");
    let id = record.job_id().unwrap();
    hear(&mut peer, NOW, &record);
    let entry = peer.board.get_mut(&id).unwrap();
    let dates: Vec<u64> =
        [9, 0, 9, 9, 0].map(|lease| entry.plan.date_claim(NOW, lease).0 - NOW.0).to_vec();
    assert_eq!(dates, [0, 1, 2, 2, 3], "each after what it must not be taken for");
}
