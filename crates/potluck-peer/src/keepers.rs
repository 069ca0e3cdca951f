//! Keeping: bodies of outcomes that are too large to travel inside a receipt have three holders.
//!
//! The natural holders are those who signed R. Where fewer of them than three are there, those of
//! the other workers whose hash with R is lowest step in: each peer computes from its own view
//! whether it is one of them, fetches the body, and serves it from then on. Everybody who looks for
//! the body computes the same. All bodies are looked at again at a slow rhythm, and sooner when a
//! worker is gone. A body that nobody has any more is made anew by the first of those who should
//! have it.
//!
//! What is kept for others is bounded in bytes; the oldest job goes first.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use potluck_unit::{BlobId, JobId, PeerId, ResultHash, Time};

use crate::Peer;
use crate::action::{Action, Actions, Need, Source};
use crate::board::Entry;
use crate::fetch::{LOST_AFTER, SOURCES_MAX};
use crate::roster::Roster;
use crate::standing::Standing;

/// Holders of a body: with repair within hours and peers that live for a month, three lose less than
/// one body in ten thousand in a month.
const HOLDERS: usize = 3;
/// Bytes of bodies kept for others where the donor says nothing.
const KEEP_MAX_BYTES: u64 = 1 << 30;
/// Bodies found on the disk after a restart: as many as fit into 1 GiB.
const FOUND_MAX: usize = 1 << 20;
/// Bodies on the disk whose runs and fetches are about to be told: more than all slots of a large
/// machine report at once.
const AWAITED_MAX: usize = 16 << 10;
/// Units looked at in one turn: some milliseconds in a grid of a thousand, if none of their bodies is
/// here.
const LOOKS_MAX: usize = 1024;
/// Bodies to be fetched for keeping. When there are so many, looking waits.
const WANTED_MAX: usize = 256;
/// Bodies fetched for keeping at once: repairing a grid must not fill a donor's line.
const FETCHES_MAX: usize = 4;
/// From one round of looking at everything to the next, on average.
const ROUND_MS: u64 = 3600 * 1000;
/// How soon what has just been accepted is looked at, on average.
const SOON_MS: u64 = 60 * 1000;
/// How soon everything is looked at when a worker is gone, on average.
const LEFT_MS: u64 = 10 * 60 * 1000;
/// Nothing is looked at sooner after a start: who is there is known once everybody has said so.
const START_MS: u64 = 10 * 60 * 1000;
/// A worker that was not heard of for so long is gone. Restarts and changes of neighbours take less.
const AWAY_MS: u64 = 30 * 60 * 1000;
/// Fetches for keeping start at a moment by chance within this time.
const SPREAD_MS: u64 = 30 * 1000;
/// How long after a fetch for keeping that found nothing the next is tried.
const RETRY_MS: u64 = 5 * 60 * 1000;
/// Peers so far down the order are asked too: others' views differ from this peer's.
const ASKED: usize = 2 * HOLDERS;

/// What this peer keeps for others, and whom it counts on to do the same.
#[derive(Debug)]
pub(crate) struct Keepers {
    bytes_max: u64,
    bytes: u64,
    shelves: BTreeMap<JobId, Shelf>,
    found: BTreeMap<ResultHash, u64>,
    /// Workers, this peer included if it is one, with when they were last known to be there.
    crew: BTreeMap<PeerId, Time>,
    /// Where the round under way goes on.
    round: Option<(JobId, u32)>,
    round_at: Time,
    not_before: Time,
    /// Accepted outcomes without a body here, as of the last turn.
    absent: u64,
    wanted: BTreeMap<(JobId, u32), Wanted>,
}

/// The bodies kept of one job.
#[derive(Debug)]
struct Shelf {
    created: Time,
    bytes: u64,
    /// One of the units each is of, and its bytes.
    bodies: BTreeMap<ResultHash, (u32, u64)>,
}

/// A body that this peer should hold and does not.
#[derive(Debug, Clone, Copy)]
struct Wanted {
    result: ResultHash,
    /// How many others should fetch it first.
    place: u32,
    times: u32,
    at: Time,
    under_way: bool,
}

impl Keepers {
    /// Nothing kept yet.
    pub(crate) fn new(bytes_max: Option<u64>) -> Keepers {
        Keepers {
            bytes_max: bytes_max.unwrap_or(KEEP_MAX_BYTES),
            bytes: 0,
            shelves: BTreeMap::new(),
            found: BTreeMap::new(),
            crew: BTreeMap::new(),
            round: None,
            round_at: Time(0),
            not_before: Time(0),
            absent: 0,
            wanted: BTreeMap::new(),
        }
    }

    /// A body is on disk.
    pub(crate) fn on_holds(&mut self, awake: bool, result: ResultHash, bytes: u64) {
        if awake && self.found.len() >= AWAITED_MAX {
            // What nobody asked about by now belongs to runs that came to nothing.
            self.found.clear();
        }
        if self.found.len() < FOUND_MAX {
            self.found.insert(result, bytes);
        }
    }

    /// The most bytes of one job: no job alone drives out all others.
    fn job_max(&self) -> u64 {
        self.bytes_max / 2
    }

    /// Puts a body on its job's shelf.
    fn shelve(&mut self, id: &JobId, created: Time, index: u32, result: ResultHash, bytes: u64) {
        let empty = || Shelf { created, bytes: 0, bodies: BTreeMap::new() };
        let shelf = self.shelves.entry(*id).or_insert_with(empty);
        if let std::collections::btree_map::Entry::Vacant(place) = shelf.bodies.entry(result) {
            place.insert((index, bytes));
            shelf.bytes += bytes;
            self.bytes += bytes;
        }
    }

    /// Nothing of a job is kept for others any more.
    pub(crate) fn forget(&mut self, id: &JobId) {
        if let Some(shelf) = self.shelves.remove(id) {
            self.bytes -= shelf.bytes;
        }
        self.wanted.retain(|(job, _), _| job != id);
    }

    /// Whether a body of this job may be fetched for keeping. An older job's is driven out for it; but
    /// what was driven out is not fetched again, which would go on for ever: there must be more room
    /// than driving out makes.
    fn has_room(&self, id: &JobId, created: Time) -> bool {
        let most = |bytes: u64| bytes - bytes / 4;
        let held = self.shelves.get(id).map_or(0, |shelf| shelf.bytes);
        let older = || self.shelves.iter().any(|(job, shelf)| (shelf.created, job) < (created, id));
        held < most(self.job_max()) && (self.bytes < most(self.bytes_max) || older())
    }

    /// The job that has to give something up, with how many bytes it may keep: some less than the
    /// bound, so that it is not searched for every single body.
    fn too_large(&self) -> Option<(JobId, u64)> {
        let less = |bytes: u64| bytes - bytes / 8;
        let greedy = self.shelves.iter().find(|(_, shelf)| shelf.bytes > self.job_max());
        if let Some((id, _)) = greedy {
            return Some((*id, less(self.job_max())));
        }
        if self.bytes <= self.bytes_max {
            return None;
        }
        let over = self.bytes - less(self.bytes_max);
        let kept = self.shelves.iter().filter(|(_, shelf)| shelf.bytes > 0);
        let oldest = kept.min_by_key(|(id, shelf)| (shelf.created, **id));
        oldest.map(|(id, shelf)| (*id, shelf.bytes.saturating_sub(over)))
    }

    /// Looks at everything at this time at the latest.
    fn hurry(&mut self, at: Time) {
        self.round_at = self.round_at.min(at).max(self.not_before);
    }

    fn under_way(&self) -> usize {
        self.wanted.values().filter(|wanted| wanted.under_way).count()
    }

    fn is_here(&self, peer: &PeerId) -> bool {
        self.crew.contains_key(peer)
    }

    /// The workers, without some, in the order in which they should hold a body, as far as `most`.
    fn in_order(
        &self,
        result: &ResultHash,
        most: usize,
        counts: impl Fn(&PeerId) -> bool,
    ) -> Vec<PeerId> {
        let others = self.crew.keys().filter(|peer| counts(peer));
        let mut order: Vec<(u64, PeerId)> =
            others.map(|peer| (place_of(result, peer), *peer)).collect();
        order.sort_unstable();
        order.into_iter().take(most).map(|(_, peer)| peer).collect()
    }

    /// How many others should step in before `me` to hold this body; none if `me` need not.
    fn my_place(
        &self,
        entry: &Entry,
        index: u32,
        result: &ResultHash,
        me: &PeerId,
        standing: &Standing,
    ) -> Option<u32> {
        let signers = signers(entry, index, result);
        let counts = |peer: &PeerId| !standing.is_liar(peer);
        let here = signers.iter().filter(|peer| self.is_here(peer) && counts(peer)).count();
        let missing = HOLDERS.saturating_sub(here);
        if missing == 0 || signers.contains(me) {
            return None;
        }
        // Hashing for everybody is worth it only if this peer can be among the lowest at all. That
        // fewer than `missing` are below sixteen times their share has no chance to matter.
        let share = u64::MAX / (self.crew.len() as u64).max(1);
        if place_of(result, me) / 16 > share.saturating_mul(missing as u64) {
            return None;
        }
        let order = self.in_order(result, missing, |peer| !signers.contains(peer) && counts(peer));
        order.iter().position(|peer| peer == me).and_then(|place| u32::try_from(place).ok())
    }
}

/// Where a peer stands in the order of those who should hold a body: the lower, the sooner.
fn place_of(result: &ResultHash, peer: &PeerId) -> u64 {
    let mut both = [0; ResultHash::BYTES + PeerId::BYTES];
    both[..ResultHash::BYTES].copy_from_slice(&result.0);
    both[ResultHash::BYTES..].copy_from_slice(&peer.0);
    let mut place = [0; 8];
    place.copy_from_slice(&BlobId::of(&both).0[..8]);
    u64::from_le_bytes(place)
}

fn signers(entry: &Entry, index: u32, result: &ResultHash) -> BTreeSet<PeerId> {
    let votes = entry.tally.votes(index).filter(|(_, vote)| vote.result == *result);
    votes.map(|(peer, _)| peer).collect()
}

/// Whom to ask for a body: who signed for it, neighbours first, then who should have stepped in, and
/// last the signers that seem to be gone: waiting for one costs seconds.
pub(crate) fn sources(
    entry: &Entry,
    index: u32,
    result: &ResultHash,
    me: &PeerId,
    roster: &Roster,
    keepers: &Keepers,
) -> Vec<Source> {
    let signers = signers(entry, index, result);
    let (near, far): (Vec<PeerId>, Vec<PeerId>) =
        signers.iter().copied().partition(|peer| roster.is_neighbour(peer));
    let (here, gone): (Vec<PeerId>, Vec<PeerId>) =
        far.into_iter().partition(|peer| keepers.is_here(peer));
    let stepped_in = keepers.in_order(result, ASKED, |peer| !signers.contains(peer));
    let order = near.into_iter().chain(here).chain(stepped_in).chain(gone);
    let others = order.filter(|peer| peer != me).take(SOURCES_MAX);
    others.map(|peer| roster.source(&peer)).collect()
}

impl Peer {
    /// The peer starts: what was found on disk is put where it belongs.
    pub(crate) fn settle_in(&mut self, now: Time, actions: &mut Actions) {
        self.keepers.not_before = now.plus_ms(START_MS);
        self.keepers.round_at = now.plus_ms(ROUND_MS / 2 + self.chance.below(ROUND_MS));
        let found = std::mem::take(&mut self.keepers.found);
        for id in self.board.job_ids() {
            let Some(entry) = self.board.get_mut(&id).filter(|_| !found.is_empty()) else {
                continue;
            };
            let (created, collect) = (entry.job().created, entry.collect);
            for index in 0..entry.tally.units() {
                let said: Vec<ResultHash> =
                    entry.tally.votes(index).map(|(_, vote)| vote.result).collect();
                for result in said {
                    let Some(bytes) = found.get(&result) else { continue };
                    entry.tally.note_body(index, result);
                    if !collect {
                        self.keepers.shelve(&id, created, index, result, *bytes);
                    }
                }
            }
        }
        self.trim(actions);
    }

    /// A body was made or fetched and is on disk.
    pub(crate) fn shelve(
        &mut self,
        id: &JobId,
        index: u32,
        result: ResultHash,
        actions: &mut Actions,
    ) {
        let bytes = self.keepers.found.remove(&result).unwrap_or(0);
        self.keepers.wanted.remove(&(*id, index));
        let Some(entry) = self.board.get_mut(id) else { return };
        entry.orphans.remove(&index);
        if !entry.collect && !entry.is_cleared() {
            self.keepers.shelve(id, entry.job().created, index, result, bytes);
            self.trim(actions);
        }
    }

    /// Drops bodies until what is kept is within its bounds: the oldest job's first, and of a job
    /// those first that most others hold.
    fn trim(&mut self, actions: &mut Actions) {
        while let Some((id, may_keep)) = self.keepers.too_large() {
            let Some(shelf) = self.keepers.shelves.get(&id) else { return };
            let others = |index: u32, result: &ResultHash| {
                let signers = self.board.get(&id).map(|entry| signers(entry, index, result));
                let here = signers.iter().flatten().filter(|peer| self.keepers.is_here(peer));
                here.filter(|peer| **peer != self.me).count()
            };
            let mut order: Vec<(Reverse<usize>, ResultHash, u64)> = (shelf.bodies.iter())
                .map(|(result, (index, bytes))| (Reverse(others(*index, result)), *result, *bytes))
                .collect();
            order.sort_unstable();
            let (mut over, mut gone) = (shelf.bytes.saturating_sub(may_keep), BTreeSet::new());
            for (_, result, bytes) in order {
                if over == 0 {
                    break;
                }
                over = over.saturating_sub(bytes);
                gone.insert(result);
            }
            self.discard(&id, &gone, actions);
        }
    }

    fn discard(&mut self, id: &JobId, gone: &BTreeSet<ResultHash>, actions: &mut Actions) {
        let Some(shelf) = self.keepers.shelves.get_mut(id) else { return };
        for result in gone {
            if let Some((_, bytes)) = shelf.bodies.remove(result) {
                shelf.bytes -= bytes;
                self.keepers.bytes -= bytes;
            }
        }
        if shelf.bodies.is_empty() {
            self.keepers.shelves.remove(id);
        }
        if let Some(entry) = self.board.get_mut(id) {
            entry.tally.forget_bodies(gone);
        }
        // The user's own jobs may have come to the same.
        let own = self.board.jobs().filter(|(_, entry)| entry.collect);
        let kept: BTreeSet<ResultHash> = own
            .flat_map(|(_, entry)| (0..entry.tally.units()).map(move |index| (entry, index)))
            .filter_map(|(entry, index)| entry.tally.accepted(index))
            .filter(|result| gone.contains(result))
            .collect();
        let elsewhere = |result: &ResultHash| {
            self.keepers.shelves.values().any(|shelf| shelf.bodies.contains_key(result))
        };
        for result in gone.iter().filter(|result| !kept.contains(*result)) {
            if !elsewhere(result) {
                actions.push(Action::Discard(*result));
            }
        }
    }

    /// Looks whether bodies have holders enough, a few units a turn, and fetches what this peer
    /// should hold.
    pub(crate) fn look_after_bodies(&mut self, now: Time, actions: &mut Actions) {
        self.count_crew(now);
        self.note_absent(now);
        let entry_of = |at: &(JobId, u32)| self.board.get(&at.0);
        self.keepers.wanted.retain(|at, wanted| {
            wanted.under_way
                || entry_of(at).is_some_and(|entry| {
                    entry.tally.accepted(at.1) == Some(wanted.result)
                        && !entry.tally.is_fetched(at.1)
                })
        });
        if self.keepers.round.is_none() && self.keepers.round_at <= now {
            self.keepers.round = Some((JobId([0; 32]), 0));
            self.keepers.round_at = now.plus_ms(ROUND_MS / 2 + self.chance.below(ROUND_MS));
        }
        self.look(now);
        self.fetch_wanted(now, actions);
        if self.keepers.round.is_some() {
            self.look_again_at_latest(now.plus_ms(crate::TICK_BUSY_MS));
        }
    }

    fn count_crew(&mut self, now: Time) {
        let before = self.keepers.crew.len();
        self.keepers.crew.retain(|_, seen| now.ms_since(*seen) < AWAY_MS);
        if self.keepers.crew.len() < before {
            self.keepers.hurry(now.plus_ms(LEFT_MS / 2 + self.chance.below(LEFT_MS)));
        }
        self.keepers.crew.extend(self.roster.live_workers(now).map(|peer| (*peer, now)));
        if self.lends() {
            self.keepers.crew.insert(self.me, now);
        }
    }

    /// Hurries when more has been accepted whose bodies are not here.
    fn note_absent(&mut self, now: Time) {
        let others = self.board.jobs().filter(|(_, entry)| is_looked_after(entry));
        let counts = others.map(|(_, entry)| entry.tally.counts());
        let absent = counts.map(|counts| u64::from(counts.accepted - counts.fetched)).sum();
        if std::mem::replace(&mut self.keepers.absent, absent) < absent {
            self.keepers.hurry(now.plus_ms(SOON_MS / 2 + self.chance.below(SOON_MS)));
        }
    }

    /// Goes on with the round under way.
    fn look(&mut self, now: Time) {
        let mut looks = 0;
        while let Some((id, index)) = self.keepers.round {
            if looks == LOOKS_MAX || self.keepers.wanted.len() >= WANTED_MAX {
                return;
            }
            looks += 1;
            let Some((job, entry)) = self.board.at_or_after(&id) else {
                self.keepers.round = None;
                return;
            };
            let index = if job == id { index } else { 0 };
            let counts = entry.tally.counts();
            let idle = !self.lends() || !is_looked_after(entry) || !entry.chosen;
            if idle || index >= entry.tally.units() || counts.accepted == counts.fetched {
                self.keepers.round = self.board.after(&job).map(|next| (next, 0));
                continue;
            }
            self.keepers.round = Some((job, index + 1));
            let result = entry.tally.accepted(index).filter(|_| !entry.tally.is_fetched(index));
            let Some(result) = result.filter(|_| self.keepers.has_room(&job, entry.job().created))
            else {
                continue;
            };
            let place = self.keepers.my_place(entry, index, &result, &self.me, &self.standing);
            if let Some(place) = place {
                let at = now.plus_ms(self.chance.below(SPREAD_MS));
                let wanted = Wanted { result, place, times: 0, at, under_way: false };
                self.keepers.wanted.entry((job, index)).or_insert(wanted);
            }
        }
    }

    /// Fetches what is wanted and due, a few at once.
    fn fetch_wanted(&mut self, now: Time, actions: &mut Actions) {
        if !self.may_fetch(0) {
            return;
        }
        let mut free = FETCHES_MAX.saturating_sub(self.keepers.under_way());
        let due: Vec<(JobId, u32)> = (self.keepers.wanted.iter())
            .filter(|(_, wanted)| !wanted.under_way && wanted.at <= now)
            .map(|(at, _)| *at)
            .collect();
        for (job, index) in due {
            let Some(entry) = self.board.get(&job).filter(|_| free > 0) else { return };
            let Some(wanted) = self.keepers.wanted.get_mut(&(job, index)) else { continue };
            wanted.under_way = true;
            free -= 1;
            let result = wanted.result;
            let from = sources(entry, index, &result, &self.me, &self.roster, &self.keepers);
            actions.push(Action::Fetch { need: Need::Body { job, index, result }, from });
        }
    }

    /// A body that this peer should hold was fetched, or not.
    pub(crate) fn on_kept_body(
        &mut self,
        now: Time,
        job: JobId,
        index: u32,
        found: bool,
        actions: &mut Actions,
    ) {
        if let Some(wanted) = self.keepers.wanted.get_mut(&(job, index)).filter(|_| !found) {
            wanted.under_way = false;
            wanted.times += 1;
            wanted.at = now.plus_ms(RETRY_MS / 2 + self.chance.below(RETRY_MS));
            // The first of those who should have it makes it anew. The next ones wait so much
            // longer that they find it by then.
            let patience = LOST_AFTER * (1 + 2 * wanted.place);
            if wanted.times == patience
                && let Some(entry) = self.board.get_mut(&job)
            {
                entry.orphans.insert(index);
                self.plan_due = true;
            }
            if wanted.times > 2 * patience {
                // The next round looks at it again.
                self.keepers.wanted.remove(&(job, index));
            }
        }
        self.fetch_wanted(now, actions);
    }
}

/// Whether bodies of this job are kept for others here.
fn is_looked_after(entry: &Entry) -> bool {
    !entry.closed && !entry.collect && entry.is_understood()
}

#[cfg(test)]
mod tests;
