//! Spreading records: pushed to a few, announced to the rest, compared with one at random.
//!
//! What somebody may be waiting for goes to every neighbour at once. The receipts of a large job and
//! the contacts of peers are passed on a little later, many in one message.
//!
//! Everything is checked before it is kept or passed on. A set that two neighbours hold is brought
//! level by comparing fingerprints of ranges, so that what gossip lost is found again and a peer that
//! was away catches up with traffic in proportion to what it missed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use potluck_unit::{
    Compare, IdRange, Listing, Message, PeerId, Record, RecordId, Signed, Time, Topic,
};

use crate::Peer;
use crate::action::Actions;
use crate::timers::Timer;

/// Neighbours that get a relayed record pushed; the others get its id.
const EAGER: usize = 3;
/// With so few peers known contacts hurry.
const FEW_KNOWN: usize = 256;
/// Records collected for one neighbour before they are pushed anyway.
const PUSH_MAX: usize = 64;
/// How long records that need not hurry are collected before they are pushed: a message for each
/// would cost more than what is in it. Three or four times this on the way to the last of thousands.
const PUSH_AFTER_MS: u64 = 100;
/// How long ids are collected before they are announced. Most records come by themselves before.
const ANNOUNCE_AFTER_MS: u64 = 500;
/// How long an announced record may take to arrive by itself before it is asked for.
const ASK_AFTER_MS: u64 = 150;
/// How long an answer may take before the next peer is asked.
const ASK_AGAIN_MS: u64 = 1000;
/// Peers remembered to have announced one record.
const SOURCES_MAX: usize = 4;
/// Records announced and not here yet.
pub(crate) const MISSING_MAX: usize = 4096;
/// Ids of records that belong to no set, remembered so that each is handled once.
const SEEN_MAX: usize = 32 << 10;
/// Records remembered as refused, and for how long: a full board has room again one day.
const REFUSED_MAX: usize = 4096;
const REFUSED_MS: u64 = 60 * 1000;
/// Claims and contacts held for neighbours that ask.
const PASSING_MAX: usize = 4096;
/// Ranges with at most this many ids are listed, not split. Measured with 10, 1,000 and 10,000 of
/// 100,000 missing: 64 ids and 8 parts cost 1.1 to 1.7 times as much, and more round trips.
const LISTING_MAX: usize = 16;
/// Into how many parts a range is split.
const SPLIT: usize = 16;
/// Records given in answer to one listing; the rest of the range is compared again.
const GIVE_MAX: usize = 128;
/// Bytes of records given in answer to one message, so that asking costs about as much as answering
/// makes of it.
const GIVE_BYTES_MAX: usize = 1 << 20;
/// A set that has not grown for so long while it was being filled is compared anew, with anybody: a
/// message was lost, or all is there.
const FILL_PAUSE_MS: u64 = 1500;
/// Records of a set that are missing at once: more than ever are on their way by gossip.
const MUCH: u32 = 256;
/// A neighbour may fill a set for so long before others are heard too: one that gives next to nothing
/// must not keep a peer from the rest. Time for a million records at 1,000 for each round trip.
const FILL_MAX_MS: u64 = 60 * 1000;

/// What is on its way.
#[derive(Debug, Default)]
pub(crate) struct Gossip {
    seen: Remembered,
    passing: BTreeMap<RecordId, Arc<[u8]>>,
    passing_order: VecDeque<RecordId>,
    /// What is to be pushed to whom, at most a message's worth each.
    push: BTreeMap<PeerId, Vec<Arc<[u8]>>>,
    announce: BTreeMap<PeerId, Vec<RecordId>>,
    missing: BTreeMap<RecordId, Missing>,
    /// Records that there was no place for, and until when they are not looked at again.
    refused: BTreeMap<RecordId, Time>,
    /// Sets that are being filled; as many as there are topics at most.
    filling: BTreeMap<Topic, Filling>,
}

/// A set in which much is missing is filled from one neighbour: the others would all give the same.
#[derive(Debug)]
struct Filling {
    from: PeerId,
    begun: Time,
    /// When it last grew, and how many records were in it then.
    grew: Time,
    len: usize,
    /// Whether so much is missing that what comes is old, and others have it too.
    much: bool,
}

/// How a record is spread. Neighbours that do not get it pushed hear that it is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    /// Neighbours that get it pushed.
    eager: usize,
    /// Whether a little later and with others.
    later: bool,
}

impl Way {
    /// To every neighbour, at once.
    const ALL: Way = Way { eager: usize::MAX, later: false };
    /// To a few at once.
    const FEW: Way = Way { eager: EAGER, later: false };
    /// The same, a little later. Without announcements one in twenty would have to wait until sets are
    /// compared, and auditors would be heard before those they audit, and audited too.
    const LATER: Way = Way { eager: EAGER, later: true };
    /// Claims that have some time to get around, and must get everywhere.
    const CLAIM: Way = Way { eager: 2, later: true };
}

/// A set that forgets its oldest.
#[derive(Debug, Default)]
struct Remembered {
    /// The first eight bytes of each id: to hide a record of another behind one of its own somebody
    /// would have to try 2^64 of them.
    ids: BTreeSet<u64>,
    order: VecDeque<u64>,
}

#[derive(Debug)]
struct Missing {
    ask_at: Time,
    from: Vec<PeerId>,
    asked: usize,
}

fn short(id: &RecordId) -> u64 {
    id.0.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}

impl Remembered {
    fn contains(&self, id: &RecordId) -> bool {
        self.ids.contains(&short(id))
    }

    fn insert(&mut self, id: RecordId) {
        let id = short(&id);
        if !self.ids.insert(id) {
            return;
        }
        self.order.push_back(id);
        if self.order.len() > SEEN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.ids.remove(&oldest);
        }
    }
}

impl Filling {
    fn lasts(&self, now: Time) -> bool {
        now.ms_since(self.grew) < FILL_PAUSE_MS && now.ms_since(self.begun) < FILL_MAX_MS
    }
}

impl Gossip {
    /// A record was handled and need not be handled again.
    pub(crate) fn note_seen(&mut self, id: RecordId) {
        self.seen.insert(id);
        self.missing.remove(&id);
    }

    /// A record belongs into a set and has no place there now. It is not looked at again for a while.
    pub(crate) fn refuse(&mut self, now: Time, id: RecordId) {
        self.missing.remove(&id);
        if self.refused.len() < REFUSED_MAX {
            self.refused.insert(id, now.plus_ms(REFUSED_MS));
        }
    }

    /// Whether a record was refused lately.
    pub(crate) fn is_refused(&self, id: &RecordId) -> bool {
        self.refused.contains_key(id)
    }

    /// Gives what was refused another chance.
    pub(crate) fn pardon(&mut self, now: Time) {
        self.refused.retain(|_, until| *until > now);
    }

    /// A record arrived and went into a set.
    pub(crate) fn note_here(&mut self, id: &RecordId) {
        self.missing.remove(id);
    }

    /// Holds a record that belongs to no set, for neighbours that ask for it.
    pub(crate) fn pass(&mut self, record: &Signed) {
        self.note_seen(record.id());
        if self.passing.insert(record.id(), record.bytes().clone()).is_none() {
            self.passing_order.push_back(record.id());
        }
        if self.passing_order.len() > PASSING_MAX
            && let Some(oldest) = self.passing_order.pop_front()
        {
            self.passing.remove(&oldest);
        }
    }

    /// Whether a set is being filled by another neighbour than this.
    fn is_filled_by_another(&self, now: Time, topic: &Topic, peer: &PeerId) -> bool {
        self.filling.get(topic).is_some_and(|filling| filling.from != *peer && filling.lasts(now))
    }

    /// Whether what a neighbour says of a set comes because much was missing here.
    pub(crate) fn is_filled_by(&self, now: Time, topic: &Topic, peer: &PeerId) -> bool {
        let filling = self.filling.get(topic).filter(|filling| filling.much && filling.lasts(now));
        filling.is_some_and(|filling| filling.from == *peer)
    }

    /// A neighbour has so many records of a set that are missing here, where `len` are.
    fn note_filling(&mut self, now: Time, topic: Topic, from: PeerId, len: usize, missing: u32) {
        let much = missing >= MUCH;
        let fresh = || Filling { from, begun: now, grew: now, len, much };
        let filling = self.filling.entry(topic).or_insert_with(fresh);
        if filling.from != from {
            *filling = fresh();
        } else if len > filling.len {
            (filling.grew, filling.len) = (now, len);
        }
        filling.much |= much;
    }

    /// Takes the sets that have stopped growing.
    fn take_filled(&mut self, now: Time) -> Vec<(Topic, bool)> {
        let ended = self.filling.extract_if(.., |_, filling| !filling.lasts(now));
        ended.map(|(topic, filling)| (topic, filling.much)).collect()
    }

    /// A neighbour is gone.
    pub(crate) fn on_left(&mut self, peer: &PeerId) {
        self.push.remove(peer);
        self.announce.remove(peer);
        self.filling.values_mut().filter(|filling| filling.from == *peer).for_each(|filling| {
            filling.begun = Time(0);
        });
        for missing in self.missing.values_mut() {
            let asked =
                missing.from.iter().take(missing.asked).filter(|from| *from != peer).count();
            missing.asked = asked;
            missing.from.retain(|from| from != peer);
        }
    }
}

impl Peer {
    /// Whether a record was handled before.
    pub(crate) fn is_seen(&self, id: &RecordId) -> bool {
        self.board.has(id) || self.gossip.seen.contains(id) || self.gossip.refused.contains_key(id)
    }

    /// Spreads a record: one's own, and what somebody may be waiting for, to every neighbour; else to a
    /// few, with its id to the rest.
    pub(crate) fn spread(
        &mut self,
        now: Time,
        record: &Signed,
        from: Option<PeerId>,
        actions: &mut Actions,
    ) {
        let mut to: Vec<PeerId> =
            self.roster.neighbours().filter(|peer| Some(*peer) != from).collect();
        let way = if from.is_none() { Way::ALL } else { self.way(record) };
        if to.len() > way.eager {
            self.chance.shuffle(&mut to);
        }
        for (at, peer) in to.into_iter().enumerate() {
            if at < way.eager {
                if way.later {
                    self.push_later(now, peer, record, actions);
                } else {
                    actions.say_record(peer, record.bytes().clone());
                }
                continue;
            }
            let ids = self.gossip.announce.entry(peer).or_default();
            // Past the bound an id is left out: reconciliation will find the record.
            if ids.len() < Message::IDS_MAX {
                ids.push(record.id());
                self.timers.at_latest(Timer::Announce, now.plus_ms(ANNOUNCE_AFTER_MS));
            }
        }
    }

    /// How another's record is spread.
    fn way(&self, record: &Signed) -> Way {
        match record.record() {
            Record::Job(_) | Record::Close(_) => Way::ALL,
            Record::Receipts(batch) => match self.board.get(&batch.job) {
                Some(entry) if entry.is_small() => Way::ALL,
                Some(_) | None => Way::LATER,
            },
            Record::Claim(claim) => match self.board.get(&claim.job) {
                Some(entry) if entry.plan.claims_settle() => Way::CLAIM,
                Some(_) | None => Way::FEW,
            },
            Record::Proof(_) => Way::FEW,
            // While there are few, finding each other is what people wait for.
            Record::Contact(_) if self.roster.known().len() <= FEW_KNOWN => Way::FEW,
            Record::Contact(_) => Way::LATER,
        }
    }

    fn push_later(&mut self, now: Time, to: PeerId, record: &Signed, actions: &mut Actions) {
        let batch = self.gossip.push.entry(to).or_default();
        batch.push(record.bytes().clone());
        if batch.len() == PUSH_MAX {
            actions.say_records(to, std::mem::take(batch));
        }
        self.timers.at_latest(Timer::Push, now.plus_ms(PUSH_AFTER_MS));
    }

    /// Pushes what was collected.
    pub(crate) fn push_all(&mut self, actions: &mut Actions) {
        for (peer, records) in std::mem::take(&mut self.gossip.push) {
            actions.say_records(peer, records);
        }
    }

    /// Announces what was collected.
    pub(crate) fn announce(&mut self, actions: &mut Actions) {
        for (peer, ids) in std::mem::take(&mut self.gossip.announce) {
            actions.say(peer, Message::Have(ids));
        }
    }

    /// A neighbour announced records.
    pub(crate) fn on_have(&mut self, now: Time, from: PeerId, ids: &[RecordId]) {
        for id in ids {
            if self.is_seen(id) {
                continue;
            }
            let room = self.gossip.missing.len() < MISSING_MAX;
            if let Some(missing) = self.gossip.missing.get_mut(id) {
                if missing.from.len() < SOURCES_MAX && !missing.from.contains(&from) {
                    missing.from.push(from);
                }
            } else if room {
                let ask_at = now.plus_ms(ASK_AFTER_MS);
                self.gossip.missing.insert(*id, Missing { ask_at, from: vec![from], asked: 0 });
                self.timers.at_latest(Timer::Ask, ask_at);
            }
        }
    }

    /// Asks for announced records that did not come. After every source was asked once, the record
    /// is given up: reconciliation will find it if it matters.
    pub(crate) fn ask(&mut self, now: Time, actions: &mut Actions) {
        let mut wants: BTreeMap<PeerId, Vec<RecordId>> = BTreeMap::new();
        self.gossip.missing.retain(|id, missing| {
            if missing.ask_at > now {
                return true;
            }
            let Some(peer) = missing.from.get(missing.asked) else { return false };
            wants.entry(*peer).or_default().push(*id);
            missing.asked += 1;
            missing.ask_at = now.plus_ms(ASK_AGAIN_MS);
            true
        });
        for (peer, ids) in wants {
            for ids in ids.chunks(Message::IDS_MAX) {
                actions.say(peer, Message::Want(ids.to_vec()));
            }
        }
        if let Some(next) = self.gossip.missing.values().map(|missing| missing.ask_at).min() {
            self.timers.at_latest(Timer::Ask, next);
        }
    }

    /// A neighbour asks for records.
    pub(crate) fn on_want(&self, from: PeerId, ids: &[RecordId], actions: &mut Actions) {
        let mut asked = BTreeSet::new();
        let found = ids.iter().filter(|id| asked.insert(**id)).filter_map(|id| {
            let passing = self.gossip.passing.get(id);
            passing.or_else(|| self.board.record(id).map(Signed::bytes)).cloned()
        });
        // What is left out is found by comparing again.
        let mut bytes = 0;
        let found = found.take_while(|record| {
            bytes += record.len();
            bytes <= GIVE_BYTES_MAX
        });
        actions.say_records(from, found);
    }

    /// Starts comparing a set with a neighbour, unless another is about to fill it.
    pub(crate) fn compare_with(&self, now: Time, to: PeerId, topic: Topic, actions: &mut Actions) {
        let set = self.board.set(&topic);
        if let Some(set) = set.filter(|_| !self.gossip.is_filled_by_another(now, &topic, &to)) {
            let ranges = vec![(IdRange::ALL, set.fingerprint(IdRange::ALL))];
            actions.say(to, Message::Compare(Compare { topic, ranges }));
        }
    }

    /// Compares anew what was being filled and has stopped growing: with anybody, to go on where a
    /// message was lost; with everybody if much has come, since none of it was passed on.
    pub(crate) fn compare_filled(&mut self, now: Time, actions: &mut Actions) {
        let mut neighbours: Vec<PeerId> = self.roster.neighbours().collect();
        for (topic, much) in self.gossip.take_filled(now) {
            self.chance.shuffle(&mut neighbours);
            let few = if much { neighbours.len() } else { 1 };
            for peer in neighbours.iter().take(few) {
                self.compare_with(now, *peer, topic, actions);
            }
        }
    }

    /// A neighbour's fingerprints: where ours differ, we list what we have or look closer.
    pub(crate) fn on_compare(
        &mut self,
        now: Time,
        from: PeerId,
        compare: &Compare,
        actions: &mut Actions,
    ) {
        let topic = compare.topic;
        let Some(set) = self.board.set(&topic) else { return };
        let (mut closer, mut listings, mut after, mut missing) =
            (Vec::new(), Vec::new(), None, 0u32);
        for (range, theirs) in &compare.ranges {
            // Honest ranges rise and do not overlap; then all of them cost one pass over the sums.
            if range.first > range.last || after.is_some_and(|last| range.first <= last) {
                return self.on_misdeed(from, actions);
            }
            after = Some(range.last);
            let sum = set.sum(*range);
            if sum.fingerprint() == *theirs {
                continue;
            }
            let count = sum.count() as usize;
            missing = missing.saturating_add(theirs.count.saturating_sub(sum.count()));
            if count <= LISTING_MAX {
                let mut mine: Vec<RecordId> = set.range(*range).map(Signed::id).collect();
                // What was refused is named too: it need not be given again.
                let refused = self.gossip.refused.range(range.first..=range.last);
                mine.extend(refused.map(|(id, _)| *id).take(Message::IDS_MAX - LISTING_MAX));
                listings.push(Listing { topic, range: *range, ids: mine });
            } else {
                closer.extend(set.split(*range, count, SPLIT));
            }
        }
        if missing > 0 {
            if self.gossip.is_filled_by_another(now, &topic, &from) {
                return;
            }
            let len = set.len();
            self.gossip.note_filling(now, topic, from, len, missing);
            self.timers.at_latest(Timer::Tick, now.plus_ms(FILL_PAUSE_MS));
        }
        for listing in listings {
            actions.say(from, Message::Listing(listing));
        }
        for ranges in closer.chunks(Message::RANGES_MAX) {
            actions.say(from, Message::Compare(Compare { topic, ranges: ranges.to_vec() }));
        }
    }

    /// All that a neighbour has in a range: we ask for what is missing here and give what is there.
    pub(crate) fn on_listing(&self, from: PeerId, listing: &Listing, actions: &mut Actions) {
        let (topic, range) = (listing.topic, listing.range);
        let Some(set) = self.board.set(&topic).filter(|_| range.first <= range.last) else {
            return;
        };
        let theirs: BTreeSet<RecordId> = listing.ids.iter().copied().collect();
        let missing: Vec<RecordId> =
            theirs.iter().filter(|id| !self.is_seen(id)).copied().collect();
        if !missing.is_empty() {
            actions.say(from, Message::Want(missing));
        }
        let give = set.range(range).filter(|record| !theirs.contains(&record.id()));
        let (mut records, mut bytes, mut rest) = (Vec::new(), 0, None);
        for record in give {
            bytes += record.bytes().len();
            if records.len() == GIVE_MAX || bytes > GIVE_BYTES_MAX {
                rest = Some(record.id());
                break;
            }
            records.push(record.bytes().clone());
        }
        actions.say_records(from, records);
        if let Some(next) = rest {
            let rest = IdRange { first: next, last: range.last };
            let print = set.fingerprint(rest);
            actions.say(from, Message::Compare(Compare { topic, ranges: vec![(rest, print)] }));
        }
    }
}

#[cfg(test)]
mod tests {
    use potluck_unit::{Key, NoResult, Receipt, ReceiptBatch, Seat, Statement};

    use super::*;
    use crate::action::Action;
    use crate::event::Event;

    fn id(n: u64) -> RecordId {
        let mut id = RecordId([0; 32]);
        id.0[..8].copy_from_slice(&n.to_be_bytes());
        id
    }

    #[test]
    fn what_was_seen_is_forgotten_past_the_bound() {
        let mut seen = Remembered::default();
        for n in 0..=SEEN_MAX as u64 {
            seen.insert(id(n));
        }
        assert_eq!((seen.ids.len(), seen.order.len()), (SEEN_MAX, SEEN_MAX));
        assert!(!seen.contains(&id(0)));
    }

    const NOW: Time = crate::board::tests::NOW;

    fn key(n: u8) -> Key {
        Key::of_secret(&[n; 32])
    }

    /// A worker with neighbours 10 to 17.
    fn connected() -> Peer {
        let mut peer = crate::board::tests::worker(1);
        for n in 10..18 {
            let address = ([127, 0, 0, 1], n.into()).into();
            let joined = Event::Joined { peer: key(n).id(), address, outbound: false };
            peer.handle(NOW, joined, &mut Actions::new());
        }
        peer
    }

    /// Neighbour 10 says records. Who is told records in this turn, and how many each.
    fn hear(peer: &mut Peer, records: &[Signed]) -> Vec<(PeerId, usize)> {
        let message = Message::Records(records.iter().map(|r| r.bytes().clone()).collect());
        turn(peer, NOW, Event::Heard { from: key(10).id(), message })
    }

    fn turn(peer: &mut Peer, now: Time, event: Event) -> Vec<(PeerId, usize)> {
        let mut actions = Actions::new();
        peer.handle(now, event, &mut actions);
        let said = actions.drain().filter_map(|action| match action {
            Action::Say { to, message: Message::Records(records) } => Some((to, records.len())),
            _ => None,
        });
        said.collect()
    }

    /// A job, and a receipt of each of its first units.
    fn job_with_receipts(units: u32, receipts: u32) -> (Signed, Vec<Signed>) {
        let job = crate::board::tests::job(20, units, 2);
        let receipt = |index| {
            let mut batch = ReceiptBatch::new(job.job_id().unwrap(), NOW, Seat::Public);
            let statement = Statement::NoResult(NoResult::Engine);
            batch.receipts.push(Receipt { index, statement });
            Signed::sign(&key(21), batch.into())
        };
        let receipts = (0..receipts).map(receipt).collect();
        (job, receipts)
    }

    #[test]
    fn a_job_and_the_receipts_of_a_small_one_go_to_every_neighbour_at_once() {
        let (job, receipts) = job_with_receipts(4, 1);
        let mut peer = connected();
        assert_eq!(hear(&mut peer, &[job]).len(), 7);
        assert_eq!(hear(&mut peer, &receipts).len(), 7);
    }

    #[test]
    fn the_receipts_of_a_large_job_are_pushed_together_to_a_few() {
        let (job, receipts) = job_with_receipts(10_000, 20);
        let mut peer = connected();
        hear(&mut peer, &[job]);
        assert_eq!(hear(&mut peer, &receipts), []);
        let said = turn(&mut peer, NOW.plus_ms(PUSH_AFTER_MS), Event::Woke);
        assert!(said.len() <= 7, "one message each: {said:?}");
        assert_eq!(said.iter().map(|(_, records)| records).sum::<usize>(), EAGER * 20);
    }

    #[test]
    fn what_waits_to_be_pushed_is_bounded() {
        let (job, receipts) = job_with_receipts(10_000, 400);
        let mut peer = connected();
        hear(&mut peer, &[job]);
        let said: usize =
            receipts.chunks(100).flat_map(|some| hear(&mut peer, some)).map(|(_, n)| n).sum();
        let waiting: Vec<usize> = peer.gossip.push.values().map(Vec::len).collect();
        assert!(said > 0 && said.is_multiple_of(PUSH_MAX), "{said}");
        assert!(waiting.iter().all(|records| *records < PUSH_MAX), "{waiting:?}");
        assert_eq!(said + waiting.iter().sum::<usize>(), EAGER * 400);
    }
}
