//! Who holds what, and how much of it.

use potluck_unit::{Contact, Job, Key, Record, Signed};

use super::*;
use crate::Config;
use crate::board::tests::{NOW, fetched, handle, hear, job, lasting, plain_job, receipt};
use crate::event::Event;

fn key(n: u8) -> Key {
    Key::of_secret(&[n; 32])
}

/// A worker with this number and no neighbours that has heard of the workers `others`.
fn worker(n: u8, others: &[u8], keep_max_bytes: Option<u64>) -> Peer {
    let mut peer = asleep(n, keep_max_bytes);
    handle(&mut peer, NOW, Event::Woke);
    for other in others.iter().filter(|other| **other != n) {
        hear(&mut peer, NOW, &contact(*other, NOW));
    }
    peer
}

fn asleep(n: u8, keep_max_bytes: Option<u64>) -> Peer {
    Peer::new(key(n), Config { slots: 1, seed: n.into(), keep_max_bytes, ..Config::default() })
}

fn contact(n: u8, made: Time) -> Signed {
    let addresses = vec![([127, 0, 0, 1], n.into()).into()];
    let contact = Contact {
        made,
        identity: potluck_unit::Identity::NONE,
        addresses,
        slots: 1,
        agent: String::new(),
        nickname: String::new(),
        team: String::new(),
    };
    Signed::sign(&key(n), Record::Contact(contact))
}

/// Wakes a peer every ten seconds for some minutes from a minute on; answers each fetch of a body.
/// What it wanted.
fn wait(peer: &mut Peer, from: u64, minutes: u64, found: Option<bool>) -> Vec<Action> {
    let mut wanted = Vec::new();
    for step in from * 6..(from + minutes) * 6 {
        let now = NOW.plus_ms(step * 10_000);
        let mut turn = handle(peer, now, Event::Woke);
        while let Some(action) = turn.pop() {
            if let (Action::Fetch { need: need @ Need::Body { .. }, .. }, Some(found)) =
                (&action, found)
            {
                turn.extend(handle(peer, now, Event::Fetched { need: *need, found }));
            }
            wanted.push(action);
        }
    }
    wanted
}

fn bodies(actions: &[Action]) -> BTreeSet<u32> {
    let index = |action: &Action| match action {
        Action::Fetch { need: Need::Body { index, .. }, .. } => Some(*index),
        _ => None,
    };
    actions.iter().filter_map(index).collect()
}

/// Five workers that know each other and a job of 40 units, each accepted by the word of `signers`.
fn five(signers: &[u8]) -> (Vec<Peer>, JobId) {
    let crew = [2, 3, 4, 5, 6, 10, 11, 12];
    let record = lasting(1, 40, u8::try_from(signers.len()).unwrap());
    let id = record.job_id().unwrap();
    let mut peers: Vec<Peer> = (2..=6).map(|n| worker(n, &crew, None)).collect();
    for peer in &mut peers {
        hear(peer, NOW, &record);
        for index in 0..40 {
            signers
                .iter()
                .for_each(|n| drop(hear(peer, NOW, &receipt(id, *n, index, 7 + index as u8))));
        }
        assert_eq!(peer.job(&id).unwrap().counts.accepted, 40);
    }
    (peers, id)
}

fn holders(signers: &[u8]) -> Vec<usize> {
    let (mut peers, _) = five(signers);
    let kept: Vec<_> =
        peers.iter_mut().map(|peer| bodies(&wait(peer, 0, 15, Some(true)))).collect();
    (0..40).map(|index| kept.iter().filter(|kept| kept.contains(&index)).count()).collect()
}

#[test]
fn as_many_step_in_as_holders_are_missing() {
    // One of the signers, 50, was never heard of.
    for (signers, missing) in [(&[10][..], 2), (&[10, 11], 1), (&[10, 11, 12], 0), (&[10, 50], 2)] {
        // Three of the crew of eight are not asked here, so not every place is seen to be taken.
        let found = holders(signers);
        assert!(found.iter().all(|holders| *holders <= missing), "{found:?}");
        let all: usize = found.iter().sum();
        assert!(all * 10 >= 40 * missing * 5, "{signers:?}: {found:?}");
    }
}

#[test]
fn every_peer_computes_the_same_order() {
    let (peers, _) = five(&[10]);
    let mut peers = peers;
    peers.iter_mut().for_each(|peer| drop(handle(peer, NOW.plus_ms(10_000), Event::Woke)));
    let order = |peer: &Peer, n: u8| peer.keepers.in_order(&ResultHash([n; 16]), 8, |_| true);
    for n in 0..20 {
        assert_eq!(order(&peers[0], n).len(), 8);
        assert!(peers.iter().all(|peer| order(peer, n) == order(&peers[0], n)));
    }
}

#[test]
fn a_worker_that_is_gone_for_good_is_replaced_and_one_that_restarts_is_not() {
    let (mut peers, _) = five(&[10, 11, 12]);
    let peer = &mut peers[0];
    // All were heard of at the start only: they count for eleven minutes and half an hour.
    assert!(bodies(&wait(peer, 0, 35, Some(true))).is_empty());
    for n in [2, 3, 10, 11, 12] {
        hear(peer, NOW.plus_ms(35 * 60_000), &contact(n, NOW.plus_ms(35 * 60_000)));
    }
    assert!(bodies(&wait(peer, 35, 20, Some(true))).is_empty(), "4, 5 and 6 signed for nothing");
    for n in [2, 3, 12] {
        hear(peer, NOW.plus_ms(55 * 60_000), &contact(n, NOW.plus_ms(55 * 60_000)));
    }
    let kept = bodies(&wait(peer, 55, 40, Some(true)));
    assert_eq!(kept.len(), 40, "12 is there, 2 and 3 step in");
}

#[test]
fn what_no_holder_gives_is_made_anew_by_the_first_in_order_alone() {
    let (mut peers, id) = five(&[10]);
    let mut again = Vec::new();
    for peer in &mut peers {
        fetched(peer, NOW, id);
        again.extend(wait(peer, 0, 36, Some(false)));
        assert!(peer.keepers.wanted.len() <= 40);
    }
    let one_slot = again.iter().filter_map(|action| match action {
        Action::Run { units, .. } => Some(units.clone()),
        _ => None,
    });
    let made: Vec<u32> = one_slot.flatten().collect();
    assert!(!made.is_empty());
    let once: BTreeSet<u32> = made.iter().copied().collect();
    assert_eq!(once.len(), made.len(), "nobody makes what another makes: {made:?}");
}

#[test]
fn fetches_for_keeping_are_few_at_once_and_bounded_in_all() {
    let record = job(1, 600, 1);
    let id = record.job_id().unwrap();
    let mut peer = worker(2, &[10], None);
    hear(&mut peer, NOW, &record);
    for index in 0..600u32 {
        hear(&mut peer, NOW, &receipt(id, 10, index, (index % 250) as u8));
    }
    let wanted = wait(&mut peer, 0, 15, None);
    assert_eq!(bodies(&wanted).len(), FETCHES_MAX);
    assert_eq!(peer.keepers.wanted.len(), WANTED_MAX);
    let now = NOW.plus_ms(15 * 60_000);
    for action in wanted {
        if let Action::Fetch { need: need @ Need::Body { .. }, .. } = action {
            let next = handle(&mut peer, now, Event::Fetched { need, found: true });
            assert!(bodies(&next).len() <= 1);
        }
    }
    assert_eq!(peer.keepers.under_way(), FETCHES_MAX);
}

#[test]
fn one_unit_too_many_for_a_turn_is_looked_at_in_the_next() {
    let units = u32::try_from(LOOKS_MAX).unwrap() + 1;
    let record = job(1, units, 1);
    let id = record.job_id().unwrap();
    let mut peer = worker(2, &[], None);
    hear(&mut peer, NOW, &record);
    hear(&mut peer, NOW, &receipt(id, 10, 0, 7));
    peer.keepers.round = Some((id, 0));
    peer.look(NOW);
    assert_eq!(peer.keepers.round, Some((id, units - 1)));
    peer.look(NOW);
    assert_eq!(peer.keepers.round, None);
}

/// Bodies of 1,000 bytes arrive for these units.
fn bring(peer: &mut Peer, id: JobId, units: std::ops::Range<u32>) -> Vec<Action> {
    let mut wanted = Vec::new();
    for index in units {
        let result = peer.board.get(&id).unwrap().tally.accepted(index).unwrap();
        handle(peer, NOW, Event::Holds { result, bytes: 1000 });
        let need = Need::Body { job: id, index, result };
        wanted.extend(handle(peer, NOW, Event::Fetched { need, found: true }));
    }
    wanted
}

fn discarded(actions: &[Action]) -> usize {
    actions.iter().filter(|action| matches!(action, Action::Discard(_))).count()
}

fn known(peer: &mut Peer, n: u8, said: u8) -> JobId {
    let job = Job { created: NOW.plus_ms(n.into()), ..plain_job(n.into(), 40, 1) };
    let record = Signed::sign(&key(n), Record::Job(job));
    let id = record.job_id().unwrap();
    hear(peer, NOW, &record);
    for index in 0..40 {
        hear(peer, NOW, &receipt(id, 10, index, said + index as u8));
    }
    id
}

#[test]
fn what_is_kept_stays_within_its_bounds_and_the_oldest_job_goes_first() {
    let mut peer = worker(2, &[10], Some(16_000));
    let ids = [known(&mut peer, 1, 0), known(&mut peer, 3, 50), known(&mut peer, 4, 100)];
    // Of one job half of all that is kept, and some less once it was more.
    assert_eq!(discarded(&bring(&mut peer, ids[0], 0..8)), 0);
    assert_eq!(discarded(&bring(&mut peer, ids[0], 8..9)), 2);
    assert_eq!(peer.job(&ids[0]).unwrap().counts.fetched, 7);
    assert_eq!(discarded(&bring(&mut peer, ids[1], 0..8)), 0);
    assert!(!peer.keepers.has_room(&ids[1], NOW.plus_ms(3)), "its share is full");
    let gone = bring(&mut peer, ids[2], 0..2);
    assert_eq!(discarded(&gone), 3);
    assert_eq!(peer.keepers.bytes, 14_000);
    let counts = ids.map(|id| peer.job(&id).unwrap().counts.fetched);
    assert_eq!(counts, [4, 8, 2]);
}

#[test]
fn what_was_driven_out_is_not_fetched_again_and_a_newer_job_is() {
    let mut peer = worker(2, &[10], Some(16_000));
    let ids = [known(&mut peer, 1, 0), known(&mut peer, 3, 50), known(&mut peer, 4, 100)];
    assert!(peer.keepers.has_room(&ids[0], NOW.plus_ms(1)));
    bring(&mut peer, ids[0], 0..9);
    assert!(!peer.keepers.has_room(&ids[0], NOW.plus_ms(1)), "7,000 of 8,000");
    bring(&mut peer, ids[1], 0..6);
    let later = NOW.plus_ms(4);
    assert!(peer.keepers.has_room(&ids[2], later), "older ones give way");
    assert!(!peer.keepers.has_room(&ids[2], Time(NOW.0 - 1)));
}

#[test]
fn what_another_job_came_to_as_well_is_not_discarded() {
    let mut peer = worker(2, &[10], Some(16_000));
    let ids = [known(&mut peer, 1, 0), known(&mut peer, 3, 0)];
    bring(&mut peer, ids[0], 0..8);
    bring(&mut peer, ids[1], 0..8);
    assert_eq!(discarded(&bring(&mut peer, ids[0], 8..9)), 0);
    assert!(peer.keepers.shelves[&ids[0]].bytes <= 8_000);
}

#[test]
fn what_is_found_on_disk_at_the_start_is_known_and_counted() {
    let mut peer = asleep(2, None);
    let id = known(&mut peer, 1, 0);
    for n in [0, 1, 200] {
        handle(&mut peer, NOW, Event::Holds { result: ResultHash([n; 16]), bytes: 5000 });
    }
    handle(&mut peer, NOW, Event::Woke);
    assert_eq!(peer.job(&id).unwrap().counts.fetched, 2);
    assert_eq!(peer.keepers.bytes, 10_000, "the third is of no job");
    assert!(peer.keepers.found.is_empty());
}

#[test]
fn one_body_too_many_that_nobody_asks_about_is_forgotten_with_the_others() {
    let mut keepers = Keepers::new(None);
    for n in 0..=AWAITED_MAX {
        let mut result = ResultHash([0; 16]);
        result.0[..8].copy_from_slice(&(n as u64).to_le_bytes());
        keepers.on_holds(true, result, 1);
    }
    assert_eq!(keepers.found.len(), 1);
}

#[test]
fn signers_are_asked_before_those_who_step_in_and_the_gone_last() {
    let (mut peers, id) = five(&[10, 50]);
    let peer = &mut peers[0];
    handle(peer, NOW.plus_ms(10_000), Event::Woke);
    let address = ([127, 0, 0, 1], 10).into();
    let joined = Event::Joined { peer: key(10).id(), address, outbound: false };
    handle(peer, NOW.plus_ms(10_000), joined);
    let entry = peer.board.get(&id).unwrap();
    let result = entry.tally.accepted(0).unwrap();
    let asked = sources(entry, 0, &result, &peer.me, &peer.roster, &peer.keepers);
    let asked: Vec<PeerId> = asked.into_iter().map(|source| source.peer).collect();
    assert_eq!(asked.first(), Some(&key(10).id()));
    assert_eq!(asked.last(), Some(&key(50).id()));
    assert!(!asked.contains(&peer.me) && asked.len() >= 2 + ASKED - 1);
}
