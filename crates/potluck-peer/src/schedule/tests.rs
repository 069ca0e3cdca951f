//! Seats, leases, guided claims and what is given again.

use potluck_unit::{Claim, Key, Message, Piece, Record, Signed};

use super::*;
use crate::action::News;
use crate::board::tests::{NOW, fetched, handle, hear, job, job_with, plain_job, receipt, worker};
use crate::claims::some_of;
use crate::event::{Event, Ran, Report};
use crate::leases::{LEFT_LEASE_MS, SEATS_EACH_MAX, SEATS_MAX};
use crate::standing::Standing;

fn other(n: u8) -> PeerId {
    Key::of_secret(&[100 + n; 32]).id()
}

fn claim(job: JobId, made: Time, lease_ms: u32, chunks: &[u32]) -> Claim {
    let pieces =
        chunks.iter().map(|chunk| Piece { chunk: *chunk, units: 1, secret: false }).collect();
    Claim { job, made, lease_ms, pieces }
}

/// A worker with a job of 100 single-unit chunks that it may run, and a look at its entry.
fn entry(copies: u8, look: impl FnOnce(&mut Entry, JobId, PeerId)) {
    let mut peer = worker(1);
    let record = job(1, 100, copies);
    let id = record.job_id().unwrap();
    handle(&mut peer, NOW, Event::Submitted { record });
    let me = peer.me;
    look(peer.board.get_mut(&id).unwrap(), id, me);
}

fn free(entry: &Entry, now: Time, me: &PeerId) -> bool {
    entry.free(now, (7, Right::Public), me, &Standing::default(), |_| true, false) != 0
}

#[test]
fn a_chunk_has_as_many_seats_as_copies_are_wanted() {
    for copies in [1, 2, 3] {
        entry(copies, |entry, id, me| {
            for n in 0..copies {
                assert!(free(entry, NOW, &me));
                entry.seats.on_claim(NOW, other(n), &claim(id, NOW, 10_000, &[7]), 100);
            }
            assert!(!free(entry, NOW, &me));
            let late = Time(NOW.0 + 10_000);
            assert!(free(entry, late, &me), "the leases have run out");
        });
    }
}

#[test]
fn a_seat_is_free_again_when_its_owner_gives_it_back_or_leaves() {
    entry(1, |entry, id, me| {
        entry.seats.on_claim(NOW, other(1), &claim(id, NOW, 50_000, &[7]), 100);
        assert!(!free(entry, NOW, &me));
        let back = claim(id, NOW.plus_ms(1), 0, &[7]);
        assert!(entry.seats.on_claim(NOW.plus_ms(1), other(1), &back, 100));
        assert!(free(entry, NOW.plus_ms(1), &me));
        entry.seats.on_claim(NOW.plus_ms(2), other(2), &claim(id, NOW, 50_000, &[7]), 100);
        assert!(!free(entry, NOW.plus_ms(2), &me));
        entry.seats.on_left(NOW.plus_ms(2), &other(2));
        assert!(free(entry, NOW.plus_ms(2 + LEFT_LEASE_MS), &me));
    });
}

#[test]
fn a_silent_worker_that_renews_for_ever_loses_its_seat_and_a_busy_one_keeps_it() {
    entry(1, |entry, id, me| {
        entry.plan.note_cost(1, 1_000_000);
        entry.seats.on_claim(NOW, other(1), &claim(id, NOW, 30_000, &[7]), 100);
        let patience_ms = entry.patience_ms(&entry.seats.0[&7][0]);
        for second in 0..=patience_ms / 1000 {
            let now = NOW.plus_ms(second * 1000);
            entry.seats.on_claim(now, other(1), &claim(id, now, 30_000, &[7]), 100);
        }
        let late = NOW.plus_ms(patience_ms);
        assert!(free(entry, late, &me));
        entry.seats.on_word(late, 7, &other(1));
        assert!(!free(entry, late, &me));
    });
}

#[test]
fn an_older_claim_or_a_chunk_past_the_last_changes_nothing() {
    entry(1, |entry, id, _| {
        let first = claim(id, NOW, 10_000, &[7]);
        assert!(entry.seats.on_claim(NOW, other(1), &first, 100));
        assert!(!entry.seats.on_claim(NOW, other(1), &first, 100));
        let past = claim(id, NOW, 10_000, &[100, u32::MAX]);
        assert!(!entry.seats.on_claim(NOW, other(2), &past, 100));
        assert_eq!(entry.seats.0.len(), 1);
    });
}

#[test]
fn two_claims_of_one_moment_both_count() {
    entry(1, |entry, id, _| {
        let piece = |units| Claim {
            pieces: vec![Piece { chunk: 7, units, secret: false }],
            ..claim(id, NOW, 10_000, &[7])
        };
        assert!(entry.seats.on_claim(NOW, other(1), &piece(1), 100));
        assert!(entry.seats.on_claim(NOW, other(1), &piece(2), 100));
        assert!(!entry.seats.on_claim(NOW, other(1), &piece(2), 100));
        let units: Vec<u64> = entry.seats.0[&7].iter().map(|seat| seat.units).collect();
        assert_eq!(units, [1, 2]);
    });
}

#[test]
fn units_claimed_later_are_not_held_to_have_been_silent_since_the_first() {
    entry(1, |entry, id, _| {
        let claimed = |at: Time, units| Claim {
            pieces: vec![Piece { chunk: 7, units, secret: false }],
            ..claim(id, at, 60_000, &[7])
        };
        let later = |n: u64| NOW.plus_ms(1000 * n);
        entry.seats.on_claim(NOW, other(1), &claimed(NOW, 1), 100);
        entry.seats.on_claim(later(5), other(1), &claimed(later(5), 3), 100);
        let since = |entry: &Entry| -> Vec<(u64, Time)> {
            entry.seats.0[&7].iter().map(|seat| (seat.units, seat.since)).collect()
        };
        assert_eq!(since(entry), [(1, NOW), (2, later(5))]);
        for n in 2..=SEATS_EACH_MAX as u64 {
            entry.seats.on_claim(later(5 + n), other(1), &claimed(later(5 + n), 1 << n), 100);
        }
        assert_eq!(entry.seats.0[&7].len(), SEATS_EACH_MAX);
        assert_eq!(since(entry).last(), Some(&(0b11000, later(8))));
    });
}

#[test]
fn one_seat_too_many_on_a_chunk_is_not_remembered() {
    entry(1, |entry, id, _| {
        for n in 0..=SEATS_MAX {
            let peer = other(n as u8);
            let fresh = entry.seats.on_claim(NOW, peer, &claim(id, NOW, 10_000, &[7]), 100);
            assert_eq!(fresh, n < SEATS_MAX);
        }
    });
}

#[test]
fn of_two_claims_too_many_the_higher_rank_gives_way() {
    entry(1, |entry, id, me| {
        let rival = other(1);
        entry.seats.on_claim(
            NOW,
            rival,
            &claim(id, NOW, 10_000, &(0..100).collect::<Vec<_>>()),
            100,
        );
        for chunk in (0..100).filter(|chunk| entry.tally.useful(*chunk) != 0) {
            let first = |peer: &PeerId| id.rank(chunk, peer) < id.rank(chunk, &me);
            let keeps =
                entry.free(NOW, (chunk, Right::Public), &me, &Standing::default(), first, false)
                    != 0;
            assert_eq!(keeps, id.rank(chunk, &me) < id.rank(chunk, &rival));
        }
    });
}

#[test]
fn claims_are_small_at_first_then_by_time_and_single_at_the_end() {
    entry(1, |entry, _, _| {
        assert_eq!(entry.plan.batch(2, 4, 100), 2, "nothing is known yet");
        entry.plan.note_cost(10, 100_000);
        assert_eq!(entry.plan.batch(1, 1, 100), 50, "half of what is left");
        assert_eq!(entry.plan.batch(1, 5, 100), 10, "a share of half");
        entry.plan.note_cost(1, 1_990_000);
        assert_eq!(entry.plan.batch(1, 1, 100), 2, "two seconds of work");
        assert_eq!(entry.plan.batch(1, 1000, 100), 1);
        assert_eq!(entry.plan.batch(8, 1, 1), 4);
    });
}

#[test]
fn what_others_say_a_unit_takes_counts_until_one_has_run_here_and_never_beyond_the_deadline() {
    entry(1, |entry, _, _| {
        entry.plan.note_hearsay(1, u32::MAX, 5000);
        assert_eq!(entry.plan.cost_us(), Some(5_000_000));
        entry.plan.note_hearsay(2, 1600, 5000);
        assert_eq!(entry.plan.cost_us(), Some(5_000_000 / 8 * 7 + 100_000));
        entry.plan.note_cost(1, 300);
        entry.plan.note_hearsay(1, 4000, 5000);
        assert_eq!(entry.plan.cost_us(), Some(300));
        entry.plan.note_cost(1, 100);
        assert_eq!(entry.plan.cost_us(), Some(200));
    });
}

/// It would have them in hand, with everybody waiting for it, until the job is nearly over.
#[test]
fn a_worker_that_does_not_know_what_a_unit_takes_claims_no_more_the_more_it_hears() {
    let mut peer = worker(2);
    let job = Job { peers: 100, ..plain_job(1, 10_000, 1) };
    let record = Signed::sign(&Key::of_secret(&[1; 32]), Record::Job(job));
    let id = record.job_id().unwrap();
    hear(&mut peer, NOW, &record);
    fetched(&mut peer, NOW, id);
    for n in 0..100u32 {
        hear(&mut peer, NOW.plus_ms(u64::from(n) * 100), &receipt(id, 7, n, 1));
    }
    let plan = &peer.board.get(&id).unwrap().plan;
    assert_eq!(plan.cost_us(), None);
    let claimed: u32 = plan.claimed.iter().map(|piece| piece.units.count_ones()).sum();
    assert!(claimed <= 1, "{claimed} units beside the one that runs");
    assert_eq!(plan.running.values().map(|units| units.count_ones()).sum::<u32>(), 1);
}

fn claims(actions: &[Action]) -> Vec<Claim> {
    let records = actions.iter().filter_map(|action| match action {
        Action::Say { message: Message::Records(records), .. } => Some(records.clone()),
        _ => None,
    });
    (records.flatten())
        .filter_map(|bytes| match Signed::of_bytes(&bytes).unwrap().record() {
            Record::Claim(claim) => Some(claim.clone()),
            _ => None,
        })
        .collect()
}

#[test]
fn a_lease_is_renewed_while_its_chunk_runs_and_not_after() {
    let mut peer = worker(1);
    let address = ([127, 0, 0, 1], 5).into();
    let joined = Event::Joined { peer: other(5), address, outbound: false };
    handle(&mut peer, NOW, joined);
    let record = job(1, 1, 2);
    let id = record.job_id().unwrap();
    handle(&mut peer, NOW, Event::Submitted { record });
    let actions = handle(&mut peer, NOW, Event::Woke);
    assert!(claims(&actions).is_empty(), "it has said so already");
    let mut renewed = 0;
    for second in 1..=60 {
        renewed += claims(&handle(&mut peer, NOW.plus_ms(second * 1000), Event::Woke)).len();
    }
    assert!((2..=3).contains(&renewed), "{renewed} times in two leases");
    let done = Ran { slot: 0, job: id, reports: vec![], spent_us: 60_000_000, done: true };
    let report = Report { index: 0, result: Err(potluck_unit::NoResult::Deadline), body: None };
    handle(&mut peer, NOW.plus_ms(61_000), Event::Ran(Ran { reports: vec![report], ..done }));
    for second in 62..=120 {
        let actions = handle(&mut peer, NOW.plus_ms(second * 1000), Event::Woke);
        assert!(claims(&actions).is_empty());
    }
}

#[test]
fn what_a_slot_was_given_and_did_not_run_is_given_again() {
    let mut peer = worker(1);
    let record = job(1, 1, 1);
    let id = record.job_id().unwrap();
    let runs = |actions: &[Action]| {
        actions.iter().filter(|action| matches!(action, Action::Run { .. })).count()
    };
    let mut actions = handle(&mut peer, NOW, Event::Submitted { record });
    actions.extend(fetched(&mut peer, NOW, id));
    assert_eq!(runs(&actions), 1);
    let stopped = Report { index: 0, result: Err(potluck_unit::NoResult::Stopped), body: None };
    let ran = Ran { slot: 0, job: id, reports: vec![stopped], spent_us: 1, done: true };
    let actions = handle(&mut peer, NOW, Event::Ran(ran));
    assert_eq!(runs(&actions), 1);
    let said = |action: &Action| matches!(action, Action::Tell(News::Accepted { .. }));
    assert!(!actions.iter().any(said));
    assert!(!actions.iter().any(|action| matches!(action, Action::Keep(_))));
}

/// What others have done before this peer came to it is no work that waits.
#[test]
fn a_claim_on_a_job_that_others_finished_keeps_nobody_from_the_next_job() {
    let mut peer = worker(1);
    let (first, second) = (job_with(1, 1, 4, 1), job_with(1, 2, 4, 1));
    let ids = [&first, &second].map(|record| record.job_id().unwrap());
    handle(&mut peer, NOW, Event::Submitted { record: first });
    fetched(&mut peer, NOW, ids[0]);
    assert!(!peer.board.get(&ids[0]).unwrap().plan.claimed.is_empty());
    for index in 0..4 {
        hear(&mut peer, NOW, &receipt(ids[0], 7, index, 1));
    }
    assert!(peer.board.get(&ids[0]).unwrap().is_settled());
    let ran = Ran { slot: 0, job: ids[0], reports: vec![], spent_us: 1, done: true };
    handle(&mut peer, NOW, Event::Ran(ran));
    let mut actions = handle(&mut peer, NOW, Event::Submitted { record: second });
    actions.extend(fetched(&mut peer, NOW, ids[1]));
    let runs = |action: &Action| matches!(action, Action::Run { job, .. } if *job == ids[1]);
    assert!(actions.iter().any(runs));
}

#[test]
fn a_second_copy_of_what_is_overdue_has_one_seat_and_not_before() {
    entry(1, |entry, id, me| {
        entry.plan.note_cost(1, 1_000_000);
        entry.seats.on_claim(NOW, other(1), &claim(id, NOW, 60_000, &[7]), 100);
        let spare = |entry: &Entry, now| {
            entry.free(now, (7, Right::Public), &me, &Standing::default(), |_| true, true) != 0
        };
        let late = NOW.plus_ms(OVERDUE_TIMES * 1000 + OVERDUE_EXTRA_MS);
        assert!(!spare(entry, NOW.plus_ms(1000)));
        assert!(spare(entry, late));
        entry.seats.on_claim(late, other(2), &claim(id, late, 60_000, &[7]), 100);
        assert!(!spare(entry, late));
    });
}

#[test]
fn a_part_of_a_chunk_begins_at_a_place_of_ones_own() {
    for ticket in 0..200 {
        let some = some_of(u64::MAX, 5, ticket);
        assert_eq!(some.count_ones(), 5);
        assert!(some >> (ticket & 63) & 1 == 1);
    }
    assert_eq!(some_of(0b1011, 9, 77), 0b1011);
    assert_eq!(some_of(0, 9, 77), 0);
}
