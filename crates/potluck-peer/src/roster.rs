//! Who is there: neighbours, everybody heard of, and whom to connect to next.
//!
//! A few connections are dialled by this peer and can't be taken by others; connections from outside
//! have places of their own, and nobody is sent away for a newcomer.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use potluck_unit::{Contact, PeerId, Record, Signed, Time};

use crate::action::Source;
use crate::chance::Chance;

/// A connected peer.
#[derive(Debug)]
pub(crate) struct Neighbour {
    pub(crate) address: SocketAddr,
    pub(crate) outbound: bool,
    since: Time,
}

/// A peer heard of.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) record: Signed,
    /// The one on disk: the first with these addresses.
    kept: Signed,
    /// When a sign of life was last heard.
    pub(crate) heard: Time,
    /// Not dialled again before.
    retry_at: Time,
    failures: u32,
}

/// An address that the user gave.
#[derive(Debug)]
struct Join {
    address: SocketAddr,
    retry_at: Time,
    failures: u32,
    /// Who answered there.
    peer: Option<PeerId>,
}

/// Who is there.
#[derive(Debug)]
pub(crate) struct Roster {
    me: PeerId,
    neighbours: BTreeMap<PeerId, Neighbour>,
    known: BTreeMap<PeerId, Known>,
    joins: Vec<Join>,
    dialling: BTreeMap<SocketAddr, Time>,
    /// Who came when there was no place, and until when it may listen.
    parting: BTreeMap<PeerId, Time>,
    mix_at: Time,
}

/// Connections this peer seeks for itself.
pub(crate) const OUTBOUND_WANTED: usize = 4;
/// Connections it accepts on top.
pub(crate) const INBOUND_MAX: usize = 28;
/// Contacts remembered.
pub(crate) const KNOWN_MAX: usize = 4096;
/// Addresses given by the user.
const JOINS_MAX: usize = 64;
/// A worker not heard of for two contact rounds and this is not counted on.
const LIVE_EXTRA_MS: u64 = 60 * 1000;
/// How often a peer says anew where it is, while few are known.
const CONTACT_EVERY_MS: u64 = 5 * 60 * 1000;
/// From so many known peers on they say it less often each: everybody hears all of them, three a
/// second together and no more however many there are.
const CONTACTS_PER_ROUND: u64 = 1000;
/// A contact that repeats another sooner than this is not passed on.
const CONTACT_SOONEST_MS: u64 = 30 * 1000;
/// Peers looked at for somebody to dial.
const DIAL_TRIES: usize = 64;
/// A dial that has not ended after this long never will.
const DIAL_MAX_MS: u64 = 15 * 1000;
/// Who is sent away for want of a place stays this long, to hear of others: what is said just before
/// hanging up is lost.
const PARTING_MS: u64 = 2000;
/// Peers sent away at once; more than these hear nothing.
const PARTING_MAX: usize = 32;
/// A connection that lasted less counts as a failed dial, so that nobody knocks every second where
/// there is no place.
const SHORT_MS: u64 = 10 * 1000;
/// How often an outbound neighbour is exchanged for somebody else. Two halves of a grid that were
/// cut off from each other and are content with themselves find together again this way.
const MIX_EVERY_MS: u64 = 60 * 1000;

/// What became of a contact.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Noted {
    /// New or newer: pass it on. Holds the record it replaces, if that one was kept on disk.
    New {
        /// Whether the addresses are other than before, so that the disk should know.
        moved: bool,
        /// What on disk it makes useless: the one before if it moved, or the one it drove out.
        useless: Option<Signed>,
    },
    /// Nothing new.
    Stale,
}

impl Roster {
    /// Nobody yet. Addresses past the bound are left out.
    pub(crate) fn new(me: PeerId, joins: &[SocketAddr]) -> Roster {
        let join = |address: &SocketAddr| Join {
            address: *address,
            retry_at: Time(0),
            failures: 0,
            peer: None,
        };
        Roster {
            me,
            neighbours: BTreeMap::new(),
            known: BTreeMap::new(),
            joins: joins.iter().take(JOINS_MAX).map(join).collect(),
            dialling: BTreeMap::new(),
            parting: BTreeMap::new(),
            mix_at: Time(0),
        }
    }

    /// Everybody connected, by id.
    pub(crate) fn neighbours(&self) -> impl Iterator<Item = PeerId> {
        self.neighbours.keys().copied()
    }

    /// Whether `peer` is connected.
    pub(crate) fn is_neighbour(&self, peer: &PeerId) -> bool {
        self.neighbours.contains_key(peer)
    }

    /// How many are connected.
    pub(crate) fn count(&self) -> usize {
        self.neighbours.len()
    }

    /// A neighbour is connected. False if there is no place for it.
    pub(crate) fn on_joined(
        &mut self,
        now: Time,
        peer: PeerId,
        address: SocketAddr,
        outbound: bool,
    ) -> bool {
        self.dialling.remove(&address);
        if let Some(join) = self.joins.iter_mut().find(|join| join.address == address) {
            join.peer = Some(peer);
        }
        if let Some(known) = self.known.get_mut(&peer) {
            known.heard = now;
        }
        let inbound = self.neighbours.values().filter(|neighbour| !neighbour.outbound).count();
        if peer == self.me || (!outbound && inbound >= INBOUND_MAX) {
            return false;
        }
        self.neighbours.insert(peer, Neighbour { address, outbound, since: now });
        true
    }

    /// Whether somebody without a place may stay a moment, to hear of others.
    pub(crate) fn may_listen(&mut self, now: Time, peer: PeerId) -> bool {
        let room = peer != self.me && self.parting.len() < PARTING_MAX;
        room && self.parting.insert(peer, now.plus_ms(PARTING_MS)).is_none()
    }

    /// Whom to hang up on now: who has listened long enough, and one whose place another took.
    pub(crate) fn partings(&mut self, now: Time, chance: &mut Chance) -> Vec<PeerId> {
        let mut gone: Vec<PeerId> =
            self.parting.extract_if(.., |_, until| *until <= now).map(|(peer, _)| peer).collect();
        let joined = |peer: &PeerId| self.joins.iter().any(|join| join.peer == Some(*peer));
        let old = |(_, neighbour): &(&PeerId, &Neighbour)| {
            neighbour.outbound && now.ms_since(neighbour.since) >= SHORT_MS
        };
        let outbound = self.neighbours.values().filter(|neighbour| neighbour.outbound).count();
        if outbound > OUTBOUND_WANTED {
            let mut old: Vec<PeerId> = (self.neighbours.iter().filter(old))
                .map(|(peer, _)| *peer)
                .filter(|peer| !joined(peer))
                .collect();
            chance.shuffle(&mut old);
            gone.extend(old.first());
        }
        gone
    }

    /// A neighbour is gone.
    pub(crate) fn on_left(&mut self, now: Time, peer: &PeerId) {
        self.parting.remove(peer);
        let Some(neighbour) = self.neighbours.remove(peer) else { return };
        let short = neighbour.outbound && now.ms_since(neighbour.since) < SHORT_MS;
        let again = |failures: &mut u32, retry_at: &mut Time| {
            *failures = if short { *failures + 1 } else { 0 };
            *retry_at = now.plus_ms(backoff_ms(*failures));
        };
        for join in self.joins.iter_mut().filter(|join| join.peer == Some(*peer)) {
            again(&mut join.failures, &mut join.retry_at);
        }
        if let Some(known) = self.known.get_mut(peer) {
            // Gone until heard of again: nobody should wait for it.
            known.heard = Time(0);
            again(&mut known.failures, &mut known.retry_at);
        }
    }

    /// A dial came to nothing.
    pub(crate) fn on_dial_failed(&mut self, now: Time, address: SocketAddr) {
        self.dialling.remove(&address);
        for join in self.joins.iter_mut().filter(|join| join.address == address) {
            join.failures += 1;
            join.retry_at = now.plus_ms(backoff_ms(join.failures));
        }
        let at_address = |known: &&mut Known| addresses(&known.record).contains(&address);
        for known in self.known.values_mut().filter(at_address) {
            known.failures += 1;
            known.retry_at = now.plus_ms(backoff_ms(known.failures));
        }
    }

    /// Somebody's contact arrived, from them or through others. `live` says whether it is news
    /// rather than a memory from before a restart.
    pub(crate) fn note(&mut self, now: Time, record: &Signed, live: bool) -> Noted {
        let Record::Contact(contact) = record.record() else { return Noted::Stale };
        let peer = record.signer();
        if peer == self.me {
            return Noted::Stale;
        }
        let heard = if live || self.is_neighbour(&peer) { now } else { Time(0) };
        let Some(known) = self.known.get_mut(&peer) else {
            let full = self.known.len() >= KNOWN_MAX;
            let useless = if full { self.forget_one() } else { None };
            if full && useless.is_none() {
                return Noted::Stale;
            }
            let (record, kept) = (record.clone(), record.clone());
            let known = Known { record, kept, heard, retry_at: Time(0), failures: 0 };
            self.known.insert(peer, known);
            return Noted::New { moved: true, useless };
        };
        let Record::Contact(before) = known.record.record() else { return Noted::Stale };
        let moved = before.addresses != contact.addresses || before.slots != contact.slots;
        if contact.made <= before.made
            || (!moved && contact.made.ms_since(before.made) < CONTACT_SOONEST_MS)
        {
            return Noted::Stale;
        }
        known.heard = known.heard.max(heard);
        known.record = record.clone();
        let useless = moved.then(|| std::mem::replace(&mut known.kept, record.clone()));
        Noted::New { moved, useless }
    }

    /// Makes room by forgetting who was not heard of for longest and is no neighbour. What was kept
    /// of it.
    fn forget_one(&mut self) -> Option<Signed> {
        let candidates = self.known.iter().filter(|(peer, _)| !self.neighbours.contains_key(peer));
        let oldest = candidates.min_by_key(|(_, known)| known.heard).map(|(peer, _)| *peer);
        oldest.and_then(|peer| self.known.remove(&peer)).map(|known| known.kept)
    }

    /// What `peer` says of itself.
    pub(crate) fn contact(&self, peer: &PeerId) -> Option<&Contact> {
        match self.known.get(peer)?.record.record() {
            Record::Contact(contact) => Some(contact),
            Record::Job(_)
            | Record::Claim(_)
            | Record::Receipts(_)
            | Record::Close(_)
            | Record::Proof(_) => None,
        }
    }

    /// Everybody heard of, by id.
    pub(crate) fn known(&self) -> impl ExactSizeIterator<Item = (&PeerId, &Known)> {
        self.known.iter()
    }

    /// How often each peer says anew where it is.
    pub(crate) fn contact_every_ms(&self) -> u64 {
        CONTACT_EVERY_MS.max(CONTACT_EVERY_MS * self.known.len() as u64 / CONTACTS_PER_ROUND)
    }

    /// How long a peer is counted on after it was heard of.
    fn live_ms(&self) -> u64 {
        2 * self.contact_every_ms() + LIVE_EXTRA_MS
    }

    /// How many peers lend slots and were heard of lately, not counting this one.
    pub(crate) fn workers(&self, now: Time) -> usize {
        self.live_workers(now).count()
    }

    /// Who lends slots and was heard of lately, not counting this one.
    pub(crate) fn live_workers(&self, now: Time) -> impl Iterator<Item = &PeerId> {
        let live_ms = self.live_ms();
        let lends = |peer: &PeerId| self.contact(peer).is_some_and(|contact| contact.slots > 0);
        let live = move |(peer, known): &(&PeerId, &Known)| {
            self.is_neighbour(peer) || now.ms_since(known.heard) < live_ms
        };
        self.known.iter().filter(live).map(|(peer, _)| peer).filter(move |peer| lends(peer))
    }

    /// A handful of contacts for a newcomer: at most half of them neighbours, the rest by chance.
    pub(crate) fn sample(&self, most: usize, chance: &mut Chance) -> Vec<&Signed> {
        let mut near: Vec<&PeerId> =
            self.neighbours.keys().filter(|peer| self.known.contains_key(peer)).collect();
        chance.shuffle(&mut near);
        near.truncate(most / 2);
        let mut peers: BTreeSet<&PeerId> = near.into_iter().collect();
        peers.extend(self.random(most - peers.len(), chance));
        peers.into_iter().map(|peer| &self.known[peer].record).collect()
    }

    /// At most so many of those heard of, by chance: who stands next to a random id.
    fn random(&self, most: usize, chance: &mut Chance) -> Vec<&PeerId> {
        if self.known.len() <= most {
            return self.known.keys().collect();
        }
        let mut found = Vec::with_capacity(most);
        for _ in 0..most {
            let mut id = PeerId([0; 32]);
            id.0.chunks_exact_mut(8).for_each(|part| {
                part.copy_from_slice(&chance.next_u64().to_le_bytes());
            });
            let after = self.known.range(id..).next().or_else(|| self.known.iter().next());
            found.extend(after.map(|(peer, _)| peer));
        }
        found
    }

    /// Where to ask `peer` for something.
    pub(crate) fn source(&self, peer: &PeerId) -> Source {
        let mut found: Vec<SocketAddr> =
            self.neighbours.get(peer).map(|neighbour| neighbour.address).into_iter().collect();
        if let Some(contact) = self.contact(peer) {
            found.extend(&contact.addresses);
        }
        Source { peer: *peer, addresses: found }
    }

    /// Whom to dial now: the user's addresses first, then chosen at random among those heard of.
    pub(crate) fn dials(
        &mut self,
        now: Time,
        chance: &mut Chance,
    ) -> Vec<(SocketAddr, Option<PeerId>)> {
        self.dialling.retain(|_, since| now.ms_since(*since) < DIAL_MAX_MS);
        let outbound = self.neighbours.values().filter(|neighbour| neighbour.outbound).count();
        let mut places = OUTBOUND_WANTED.saturating_sub(outbound + self.dialling.len());
        if self.mix_at <= now {
            if self.mix_at > Time(0) {
                places = places.max(1);
            }
            self.mix_at = now.plus_ms(MIX_EVERY_MS / 2 + chance.below(MIX_EVERY_MS));
        }
        let mut dials: Vec<(SocketAddr, Option<PeerId>)> = Vec::new();
        for join in &self.joins {
            if places > 0
                && !self.is_reached(join)
                && join.retry_at <= now
                && !self.dialling.contains_key(&join.address)
            {
                dials.push((join.address, None));
                places -= 1;
            }
        }
        // A few more than there are places: some of them are neighbours, or were tried just now.
        let tries = if places == 0 { 0 } else { DIAL_TRIES };
        let mut others: Vec<PeerId> = self.random(tries, chance).into_iter().copied().collect();
        chance.shuffle(&mut others);
        others.retain(|peer| !self.is_neighbour(peer) && self.known[peer].retry_at <= now);
        for peer in others {
            let address = addresses(&self.known[&peer].record).first().copied();
            if places > 0
                && let Some(address) = address
                && !self.dialling.contains_key(&address)
                && !dials.iter().any(|(other, _)| *other == address)
            {
                dials.push((address, Some(peer)));
                places -= 1;
            }
        }
        self.dialling.extend(dials.iter().map(|(address, _)| (*address, now)));
        dials
    }

    /// Whether who is at an address that the user gave is a neighbour, whoever of us dialled.
    fn is_reached(&self, join: &Join) -> bool {
        join.peer.is_some_and(|peer| self.neighbours.contains_key(&peer))
            || self.neighbours.values().any(|neighbour| neighbour.address == join.address)
            || self.neighbours.keys().any(|peer| {
                self.contact(peer).is_some_and(|contact| contact.addresses.contains(&join.address))
            })
    }

    /// Whether more connections are wanted and there is anybody left to try, now or later.
    pub(crate) fn is_lonely(&self) -> bool {
        let outbound = self.neighbours.values().filter(|neighbour| neighbour.outbound).count();
        let missing = self.known.keys().any(|peer| !self.is_neighbour(peer))
            || self.joins.iter().any(|join| !self.is_reached(join));
        outbound < OUTBOUND_WANTED && missing
    }
}

fn addresses(record: &Signed) -> &[SocketAddr] {
    match record.record() {
        Record::Contact(contact) => &contact.addresses,
        Record::Job(_)
        | Record::Claim(_)
        | Record::Receipts(_)
        | Record::Close(_)
        | Record::Proof(_) => &[],
    }
}

/// 1 s, doubling up to 64 s: short enough that a rebooted router is found again within a minute.
fn backoff_ms(failures: u32) -> u64 {
    1000 << failures.saturating_sub(1).min(6)
}

#[cfg(test)]
mod tests {
    use potluck_unit::Key;

    use super::*;

    fn address(n: u16) -> SocketAddr {
        ([127, 0, 0, 1], n).into()
    }

    fn contact(n: u8, made: u64, slots: u16) -> Signed {
        let contact = Contact {
            made: Time(made),
            addresses: vec![address(n.into())],
            slots,
            agent: "test".to_owned(),
            nickname: String::new(),
            team: String::new(),
            identity: potluck_unit::Identity::NONE,
        };
        Signed::sign(&Key::of_secret(&[n; 32]), Record::Contact(contact))
    }

    fn roster() -> Roster {
        Roster::new(Key::of_secret(&[99; 32]).id(), &[address(1000)])
    }

    #[test]
    fn the_users_address_is_dialled_first_and_again_after_a_pause() {
        let (mut roster, mut chance) = (roster(), Chance::of_seed(1));
        roster.note(Time(0), &contact(1, 5, 1), true);
        let dials = roster.dials(Time(0), &mut chance);
        assert_eq!(dials[0], (address(1000), None));
        assert_eq!(dials[1].0, address(1));
        assert_eq!(roster.dials(Time(0), &mut chance), []);
        roster.on_dial_failed(Time(0), address(1000));
        assert_eq!(roster.dials(Time(999), &mut chance), []);
        assert_eq!(roster.dials(Time(1000), &mut chance), [(address(1000), None)]);
    }

    #[test]
    fn inbound_neighbours_never_take_outbound_places() {
        let mut roster = roster();
        for n in 0..=INBOUND_MAX {
            let peer = Key::of_secret(&[n as u8; 32]).id();
            let joined = roster.on_joined(Time(0), peer, address(n as u16), false);
            assert_eq!(joined, n < INBOUND_MAX);
        }
        let peer = Key::of_secret(&[200; 32]).id();
        assert!(roster.on_joined(Time(0), peer, address(200), true));
    }

    #[test]
    fn an_older_or_hasty_contact_is_not_passed_on() {
        let mut roster = roster();
        assert!(matches!(
            roster.note(Time(0), &contact(1, 50_000, 1), true),
            Noted::New { moved: true, useless: None }
        ));
        assert_eq!(roster.note(Time(0), &contact(1, 40_000, 1), true), Noted::Stale);
        assert_eq!(roster.note(Time(0), &contact(1, 60_000, 1), true), Noted::Stale);
        assert!(matches!(
            roster.note(Time(0), &contact(1, 90_000, 1), true),
            Noted::New { moved: false, .. }
        ));
        assert!(matches!(
            roster.note(Time(0), &contact(1, 90_001, 0), true),
            Noted::New { moved: true, .. }
        ));
    }

    #[test]
    fn a_worker_that_left_is_not_counted_on() {
        let mut roster = roster();
        let live_ms = roster.live_ms();
        let record = contact(1, 5, 2);
        roster.note(Time(10), &record, true);
        assert_eq!(roster.workers(Time(20)), 1);
        assert_eq!(roster.workers(Time(20 + live_ms)), 0);
        roster.on_joined(Time(30), record.signer(), address(1), true);
        assert_eq!(roster.workers(Time(30 + live_ms)), 1);
        roster.on_left(Time(live_ms + 40), &record.signer());
        assert_eq!(roster.workers(Time(live_ms + 41)), 0);
    }

    #[test]
    fn one_contact_too_many_replaces_the_one_heard_of_longest_ago() {
        let mut roster = roster();
        let template = contact(1, 5, 0);
        for n in 0..KNOWN_MAX {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&n.to_le_bytes());
            let heard = Time(n as u64 + 1);
            let known = Known {
                record: template.clone(),
                kept: template.clone(),
                heard,
                retry_at: Time(0),
                failures: 0,
            };
            roster.known.insert(PeerId(id), known);
        }
        assert!(matches!(roster.note(Time(9999), &contact(2, 5, 0), true), Noted::New { .. }));
        assert_eq!(roster.known.len(), KNOWN_MAX);
        assert!(!roster.known.contains_key(&PeerId([0; 32])));
    }
}
