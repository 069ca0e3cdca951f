//! Admission: in an open grid, whose records are looked at.
//!
//! Keys are free, and so must not count: a record is kept and passed on only if its signer's key
//! cost work. Its signature is checked first, which is cheap; then what the signer proves, which is
//! not and therefore remembered. Among friends nobody asks.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use potluck_unit::{Identity, PeerId, Record, Signed, Time};

use crate::Peer;

/// Whether a record may come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Admitted {
    /// It may.
    Yes,
    /// Not now: it may be looked at again later, and whoever passed it on did nothing wrong.
    NotYet,
    /// No, but whoever passed it on may know the signer.
    No,
    /// Never, and whoever passed it on must have known.
    Never,
}

/// How far another's clock may be ahead: a key that is born later than that is not yet born.
const SKEW_MAX_MS: u64 = 10 * 60 * 1000;
/// Proofs remembered to be good, some 4 MiB of them. Each cost its owner much more than checking it
/// once more costs us, so nobody gains by pushing others out.
const GOOD_MAX: usize = 32 << 10;
/// Proofs remembered to be false. Without them one that took its maker some work could be put into
/// any number of records and cost us that work each time.
const FALSE_MAX: usize = 4096;

/// What is known of peers' proofs of work.
#[derive(Debug, Default)]
pub(crate) struct Admission {
    good: Checked<GOOD_MAX>,
    false_ones: Checked<FALSE_MAX>,
}

/// Proofs with the same answer; the oldest is forgotten when there are too many.
#[derive(Debug, Default)]
struct Checked<const MAX: usize> {
    proofs: BTreeMap<PeerId, BTreeSet<Identity>>,
    order: VecDeque<(PeerId, Identity)>,
}

impl<const MAX: usize> Checked<MAX> {
    fn has(&self, peer: &PeerId, identity: &Identity) -> bool {
        self.proofs.get(peer).is_some_and(|proofs| proofs.contains(identity))
    }

    fn insert(&mut self, peer: PeerId, identity: Identity) {
        if !self.proofs.entry(peer).or_default().insert(identity) {
            return;
        }
        self.order.push_back((peer, identity));
        if self.order.len() > MAX
            && let Some((oldest, its)) = self.order.pop_front()
            && let Some(proofs) = self.proofs.get_mut(&oldest)
        {
            proofs.remove(&its);
            if proofs.is_empty() {
                self.proofs.remove(&oldest);
            }
        }
    }
}

impl Admission {
    /// Whether a proof is good, by looking at it or from memory.
    fn proves(&mut self, peer: &PeerId, identity: &Identity, bits: u8) -> bool {
        if self.good.has(peer, identity) {
            return true;
        }
        if self.false_ones.has(peer, identity) {
            return false;
        }
        let good = identity.proves(peer, bits);
        if good {
            self.good.insert(*peer, *identity);
        } else {
            self.false_ones.insert(*peer, *identity);
        }
        good
    }

    fn knows(&self, peer: &PeerId) -> bool {
        self.good.proofs.contains_key(peer)
    }
}

impl Peer {
    /// Whether this peer takes a record at all.
    pub(crate) fn admits(&mut self, now: Time, record: &Signed) -> Admitted {
        let (signer, bits) = (record.signer(), self.config.work_bits);
        if !self.config.open {
            return Admitted::Yes;
        }
        match (record.record(), record.record().identity()) {
            (_, Some(identity)) if identity.born > now.plus_ms(SKEW_MAX_MS) => Admitted::NotYet,
            (_, Some(identity)) if self.admission.proves(&signer, &identity, bits) => Admitted::Yes,
            (_, Some(_)) => Admitted::Never,
            // Only the submitter's own counts, who was admitted with the job.
            (Record::Close(_), None) => Admitted::Yes,
            // Without a proof of its own it counts only from somebody whose proof was seen. A claim
            // that is lost so costs some work done twice, until its signer says where it is.
            (_, None) if bits == 0 || self.admission.knows(&signer) => Admitted::Yes,
            (_, None) => Admitted::No,
        }
    }
}

#[cfg(test)]
mod tests {
    use potluck_unit::{Claim, Contact, Hello, Key, Message, ReceiptBatch, Seat};

    use super::*;
    use crate::{Action, Actions, Config, Event};

    const NOW: Time = Time(1_700_000_000_000);
    const BITS: u8 = 1;

    fn key(n: u8) -> Key {
        Key::of_secret(&[n; 32])
    }

    fn identity(n: u8) -> Identity {
        let tries = 1000 * Identity::tries_expected(BITS);
        Identity::search(&key(n).id(), NOW, BITS, 0, tries).unwrap()
    }

    fn contact(n: u8, identity: Identity) -> Signed {
        let addresses = vec![([127, 0, 0, 1], n.into()).into()];
        let agent = "test".to_owned();
        let (nickname, team) = (String::new(), String::new());
        let contact = Contact { made: NOW, addresses, slots: 1, agent, nickname, team, identity };
        Signed::sign(&key(n), Record::Contact(contact))
    }

    /// A peer with two neighbours, 2 and 3.
    fn peer(open: bool) -> Peer {
        let config = Config { slots: 1, open, work_bits: BITS, ..Config::default() };
        let mut peer = Peer::new(key(1), config);
        peer.handle(NOW, Event::Woke, &mut Actions::new());
        for n in [2, 3] {
            let address = ([127, 0, 0, 1], n.into()).into();
            let joined = Event::Joined { peer: key(n).id(), address, outbound: false };
            peer.handle(NOW, joined, &mut Actions::new());
        }
        peer
    }

    /// Neighbour 2 passes on a record. Whether it is sent away, and whether 3 is told.
    fn hear(peer: &mut Peer, now: Time, record: &Signed) -> (bool, bool) {
        let mut actions = Actions::new();
        let message = Message::Records(vec![record.bytes().clone()]);
        peer.handle(now, Event::Heard { from: key(2).id(), message }, &mut actions);
        // What need not hurry is passed on a little later.
        peer.handle(now.plus_ms(500), Event::Woke, &mut actions);
        let (mut sent_away, mut passed_on) = (false, false);
        for action in actions.drain() {
            match action {
                Action::HangUp { peer } => sent_away |= peer == key(2).id(),
                Action::Say { to, message: Message::Records(_) } => {
                    passed_on |= to == key(3).id();
                }
                _ => {}
            }
        }
        (sent_away, passed_on)
    }

    const TAKEN: (bool, bool) = (false, true);
    const IGNORED: (bool, bool) = (false, false);
    const MISDEED: (bool, bool) = (true, false);

    #[test]
    fn an_open_peer_takes_only_what_is_signed_with_a_key_that_cost_work() {
        let mut peer = peer(true);
        assert_eq!(hear(&mut peer, NOW, &contact(4, identity(4))), TAKEN);
        assert_eq!(hear(&mut peer, NOW, &contact(5, Identity::NONE)), MISDEED);
        assert_eq!(hear(&mut peer, NOW, &contact(6, identity(4))), MISDEED, "another's");
        assert!(peer.roster.contact(&key(4).id()).is_some());
        assert!(peer.roster.contact(&key(5).id()).is_none());
    }

    #[test]
    fn a_closed_peer_does_not_ask() {
        let mut peer = peer(false);
        assert_eq!(hear(&mut peer, NOW, &contact(5, Identity::NONE)), TAKEN);
        assert!(peer.admission.good.order.is_empty());
    }

    #[test]
    fn a_neighbour_without_work_is_sent_away() {
        let mut peer = peer(true);
        let contact = contact(2, Identity::NONE).bytes().clone();
        let hello = Hello { contact, observed: None, others: vec![] };
        let mut actions = Actions::new();
        let heard = Event::Heard { from: key(2).id(), message: Message::Hello(hello) };
        peer.handle(NOW, heard, &mut actions);
        assert!(actions.drain().any(|action| matches!(action, Action::HangUp { .. })));
    }

    #[test]
    fn a_key_that_is_not_yet_born_may_come_again() {
        let mut peer = peer(true);
        let (id, born) = (key(4).id(), NOW.plus_ms(SKEW_MAX_MS + 1));
        let tries = 1000 * Identity::tries_expected(BITS);
        let early = contact(4, Identity::search(&id, born, BITS, 0, tries).unwrap());
        assert_eq!(hear(&mut peer, NOW, &early), IGNORED);
        let later = NOW.plus_ms(70_000);
        peer.handle(later, Event::Woke, &mut Actions::new());
        assert_eq!(hear(&mut peer, later, &early), TAKEN);
    }

    #[test]
    fn claims_count_only_from_peers_whose_work_was_seen() {
        let mut peer = peer(true);
        let job = crate::board::tests::job(4, 4, 1);
        assert_eq!(hear(&mut peer, NOW, &job), MISDEED, "it proves nothing");
        let Record::Job(bare) = job.record() else { panic!("a job") };
        let proven = potluck_unit::Job { identity: identity(4), ..bare.clone() };
        let job = Signed::sign(&key(4), Record::Job(proven));
        assert_eq!(hear(&mut peer, NOW, &job), TAKEN);
        let id = job.job_id().unwrap();
        let claim = |n, made| {
            let claim = Claim {
                job: id,
                made: Time(made),
                lease_ms: 60_000,
                pieces: vec![potluck_unit::Piece { chunk: 0, units: 1, secret: false }],
            };
            Signed::sign(&key(n), Record::Claim(claim))
        };
        assert_eq!(hear(&mut peer, NOW, &claim(5, 1)), IGNORED);
        assert_eq!(hear(&mut peer, NOW, &contact(5, identity(5))), TAKEN);
        assert_eq!(hear(&mut peer, NOW, &claim(5, 2)), TAKEN);
    }

    #[test]
    fn receipts_without_work_are_not_kept() {
        let mut peer = peer(true);
        let Record::Job(bare) = crate::board::tests::job(4, 4, 1).record().clone() else {
            panic!("a job")
        };
        let proven = potluck_unit::Job { identity: identity(4), ..bare };
        let job = Signed::sign(&key(4), Record::Job(proven));
        hear(&mut peer, NOW, &job);
        let batch = |identity| {
            let statement = potluck_unit::Statement::NoResult(potluck_unit::NoResult::Deadline);
            let receipts = vec![potluck_unit::Receipt { index: 0, statement }];
            let batch = ReceiptBatch::new(job.job_id().unwrap(), NOW, Seat::Public);
            Signed::sign(&key(5), ReceiptBatch { identity, receipts, ..batch }.into())
        };
        let (bare, proven) = (batch(Identity::NONE), batch(identity(5)));
        assert_eq!(hear(&mut peer, NOW, &bare), MISDEED);
        assert!(!peer.board.has(&bare.id()));
        assert_eq!(hear(&mut peer, NOW, &proven), TAKEN);
        assert!(peer.board.has(&proven.id()));
    }

    #[test]
    fn what_was_kept_in_a_private_grid_stays_out_of_an_open_one() {
        for (open, known) in [(false, 2), (true, 1)] {
            let mut peer = peer(open);
            for record in [contact(4, identity(4)), contact(5, Identity::NONE)] {
                peer.handle(NOW, Event::Kept { record }, &mut Actions::new());
            }
            assert_eq!(peer.peers().iter().filter(|peer| peer.slots > 0).count(), known);
        }
    }

    #[test]
    fn one_proof_too_many_replaces_the_one_checked_longest_ago() {
        let mut checked = Checked::<FALSE_MAX>::default();
        let born = |n: usize| Identity { born: Time(n as u64), nonce: 0 };
        for n in 0..=FALSE_MAX {
            checked.insert(PeerId([(n / 256) as u8; 32]), born(n));
            checked.insert(PeerId([(n / 256) as u8; 32]), born(n));
        }
        assert_eq!(checked.order.len(), FALSE_MAX);
        assert_eq!(checked.proofs.values().map(BTreeSet::len).sum::<usize>(), FALSE_MAX);
        assert!(!checked.has(&PeerId([0; 32]), &born(0)));
        assert!(checked.has(&PeerId([0; 32]), &born(1)));
    }

    #[test]
    fn a_false_proof_is_looked_at_once() {
        let mut admission = Admission::default();
        let peer = key(4).id();
        assert!(!admission.proves(&peer, &Identity::NONE, BITS));
        assert!(!admission.proves(&peer, &Identity::NONE, BITS));
        assert_eq!(admission.false_ones.order.len(), 1);
        assert!(!admission.knows(&peer));
    }
}
