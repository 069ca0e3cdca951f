//! Counting: what the receipts of a job amount to, unit by unit.
//!
//! The verdict on a unit is a pure function of the votes on it, of whom this peer has convicted, of
//! what it found itself, and of k. No clock, no order of arrival.

use std::collections::{BTreeMap, BTreeSet};

use potluck_unit::{NoResult, PeerId, RecordId, ResultHash, Witness, WorkDigest};

use crate::standing::Standing;

/// What a set of receipts on one unit amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nobody whose word counts has spoken.
    Open,
    /// Too few have spoken, and who spoke agrees.
    Partial(ResultHash),
    /// There are contradicting results.
    Disputed,
    /// k distinct peers agree and nobody contradicts.
    Accepted(ResultHash),
    /// No result anywhere, and as many peers as matter have tried.
    Unrunnable(NoResult),
}

/// One peer's word on one unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Vote {
    /// Who, as an index into [`Tally::voters`].
    voter: u16,
    /// R.
    pub(crate) result: ResultHash,
    /// D.
    pub(crate) digest: WorkDigest,
    /// The record it stands in.
    pub(crate) record: RecordId,
}

/// What this peer itself found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Own {
    /// R.
    pub(crate) result: ResultHash,
    /// M, as long as it is remembered: not over a restart.
    pub(crate) witness: Option<Witness>,
}

/// One unit's votes.
#[derive(Debug, Default)]
pub(crate) struct Unit {
    votes: Vec<Vote>,
    gave_up: Vec<(u16, NoResult)>,
    own: Option<Own>,
    /// Whether this peer ran it, is running it, or gave up on it.
    ran: bool,
    /// Whether this peer ran it without a result, so that it can't know who lies about it.
    blind: bool,
    verdict: Option<Verdict>,
    /// The result whose body is known to be on this peer's disk.
    body: Option<ResultHash>,
}

/// The votes on all units of a job.
#[derive(Debug)]
pub(crate) struct Tally {
    copies: usize,
    voters: Vec<PeerId>,
    voter_at: BTreeMap<PeerId, u16>,
    units: Vec<Unit>,
    counts: Counts,
}

/// How many units have which verdict.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// [`Verdict::Open`].
    pub open: u32,
    /// [`Verdict::Partial`].
    pub partial: u32,
    /// [`Verdict::Disputed`].
    pub disputed: u32,
    /// [`Verdict::Accepted`].
    pub accepted: u32,
    /// [`Verdict::Unrunnable`].
    pub unrunnable: u32,
    /// Accepted, and the body is on this peer's disk.
    pub fetched: u32,
}

/// What became of a vote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Counted {
    /// It is new.
    New,
    /// It was known.
    Known,
    /// The same peer had signed another result for this unit.
    Contradiction(ResultHash),
    /// There is no such unit, or no room for another voter.
    Refused,
}

/// What three peers could not do, a fourth need not try.
const GAVE_UP_MAX: usize = 3;
/// Distinct voters on one job.
const VOTERS_MAX: u16 = u16::MAX;
/// Votes on one unit: honest ones are k and a few; the rest is somebody's flood.
const VOTES_MAX: usize = 64;

impl Tally {
    /// Nothing counted yet.
    pub(crate) fn new(units: u32, copies: u8) -> Tally {
        Tally {
            copies: usize::from(copies),
            voters: Vec::new(),
            voter_at: BTreeMap::new(),
            units: (0..units).map(|_| Unit::default()).collect(),
            counts: Counts { open: units, ..Counts::default() },
        }
    }

    fn voter(&mut self, peer: &PeerId) -> Option<u16> {
        if let Some(at) = self.voter_at.get(peer) {
            return Some(*at);
        }
        let at = u16::try_from(self.voters.len()).ok().filter(|at| *at < VOTERS_MAX)?;
        self.voters.push(*peer);
        self.voter_at.insert(*peer, at);
        Some(at)
    }

    /// Counts a result.
    pub(crate) fn count(
        &mut self,
        peer: &PeerId,
        index: u32,
        result: ResultHash,
        digest: WorkDigest,
        record: RecordId,
    ) -> Counted {
        let Some(voter) = self.voter(peer) else { return Counted::Refused };
        let Some(unit) = self.units.get_mut(index as usize) else { return Counted::Refused };
        match unit.votes.iter().find(|vote| vote.voter == voter) {
            Some(vote) if vote.result == result => Counted::Known,
            Some(vote) => Counted::Contradiction(vote.result),
            None if unit.votes.len() >= VOTES_MAX => Counted::Refused,
            None => {
                unit.votes.push(Vote { voter, result, digest, record });
                Counted::New
            }
        }
    }

    /// Counts a run without a result.
    pub(crate) fn count_no_result(&mut self, peer: &PeerId, index: u32, why: NoResult) -> Counted {
        let Some(voter) = self.voter(peer) else { return Counted::Refused };
        let Some(unit) = self.units.get_mut(index as usize) else { return Counted::Refused };
        if unit.gave_up.iter().any(|(other, _)| *other == voter) {
            Counted::Known
        } else if unit.gave_up.len() >= VOTES_MAX {
            Counted::Refused
        } else {
            unit.gave_up.push((voter, why));
            Counted::New
        }
    }

    /// Notes what this peer itself found.
    pub(crate) fn note_own(&mut self, index: u32, own: Own) {
        if let Some(unit) = self.units.get_mut(index as usize) {
            unit.own = Some(own);
        }
    }

    /// What this peer itself found.
    pub(crate) fn own(&self, index: u32) -> Option<Own> {
        self.units.get(index as usize).and_then(|unit| unit.own)
    }

    /// Every vote on a unit with its voter, whether it counts or not.
    pub(crate) fn votes(&self, index: u32) -> impl Iterator<Item = (PeerId, &Vote)> {
        let votes = self.units.get(index as usize).map_or(&[][..], |unit| &unit.votes);
        votes.iter().map(|vote| (self.voters[usize::from(vote.voter)], vote))
    }

    /// Everybody who ran a unit without a result.
    pub(crate) fn gave_up(&self, index: u32) -> impl Iterator<Item = (PeerId, NoResult)> {
        let gave_up = self.units.get(index as usize).map_or(&[][..], |unit| &unit.gave_up);
        gave_up.iter().map(|(voter, why)| (self.voters[usize::from(*voter)], *why))
    }

    /// The number of a peer that has spoken of this job.
    pub(crate) fn voter_of(&self, peer: &PeerId) -> Option<u16> {
        self.voter_at.get(peer).copied()
    }

    /// Whether the voter of this number has said anything on a unit.
    pub(crate) fn has_spoken(&self, index: u32, voter: u16) -> bool {
        self.units.get(index as usize).is_some_and(|unit| {
            unit.votes.iter().any(|vote| vote.voter == voter)
                || unit.gave_up.iter().any(|(other, _)| *other == voter)
        })
    }

    /// How many more peers must speak before a unit can be accepted; 0 for one that is settled or
    /// waits for a dispute to end.
    pub(crate) fn wanted(&self, index: u32, standing: &Standing) -> usize {
        match self.verdict(index) {
            Verdict::Accepted(_) | Verdict::Unrunnable(_) | Verdict::Disputed => 0,
            Verdict::Open | Verdict::Partial(_) => {
                let Some(unit) = self.units.get(index as usize) else { return 0 };
                let live = unit.votes.iter().filter(|vote| self.counts_vote(unit, vote, standing));
                self.copies.saturating_sub(live.count())
            }
        }
    }

    /// Whether a vote counts: not a convicted peer's, unless this peer found the same when it ran
    /// the unit itself. Others may not know of the liar and take the unit for settled, so nobody
    /// would come to add the voice that is missing here.
    fn counts_vote(&self, unit: &Unit, vote: &Vote, standing: &Standing) -> bool {
        !standing.is_liar(&self.voters[usize::from(vote.voter)])
            || unit.own.is_some_and(|own| own.result == vote.result)
    }

    /// The verdict as of the last [`Tally::judge`].
    pub(crate) fn verdict(&self, index: u32) -> Verdict {
        self.units.get(index as usize).and_then(|unit| unit.verdict).unwrap_or(Verdict::Open)
    }

    /// Judges a unit anew; answers the verdict before and after if it changed. `workers` is how many
    /// peers could run it at all: when all of them gave up, nobody is left to wait for.
    pub(crate) fn judge(
        &mut self,
        index: u32,
        standing: &Standing,
        workers: usize,
    ) -> Option<(Verdict, Verdict)> {
        let before = self.verdict(index);
        let unit = self.units.get(index as usize)?;
        let honest = |voter: u16| !standing.is_liar(&self.voters[usize::from(voter)]);
        let votes = unit.votes.iter().filter(|vote| self.counts_vote(unit, vote, standing));
        let votes: Vec<ResultHash> = votes.map(|vote| vote.result).collect();
        let gave_up = unit.gave_up.iter().filter(|(voter, _)| honest(*voter)).map(|(_, why)| *why);
        let mut after = verdict(&votes, &gave_up.collect::<Vec<_>>(), self.copies, workers);
        if after == Verdict::Disputed && unit.blind {
            after = majority(&votes, self.copies);
        }
        if before == after {
            return None;
        }
        *self.counts.of(before) -= 1;
        *self.counts.of(after) += 1;
        self.counts.fetched -= u32::from(unit.is_fetched());
        let unit = self.units.get_mut(index as usize)?;
        unit.verdict = Some(after);
        self.counts.fetched += u32::from(unit.is_fetched());
        Some((before, after))
    }

    /// The body of this result is on this peer's disk.
    pub(crate) fn note_body(&mut self, index: u32, result: ResultHash) {
        if let Some(unit) = self.units.get_mut(index as usize)
            && !unit.is_fetched()
        {
            unit.body = Some(result);
            self.counts.fetched += u32::from(unit.is_fetched());
        }
    }

    /// The bodies of these results are no longer on this peer's disk.
    pub(crate) fn forget_bodies(&mut self, gone: &BTreeSet<ResultHash>) {
        for unit in &mut self.units {
            if unit.body.is_some_and(|body| gone.contains(&body)) {
                self.counts.fetched -= u32::from(unit.is_fetched());
                unit.body = None;
            }
        }
    }

    /// The accepted result of a unit.
    pub(crate) fn accepted(&self, index: u32) -> Option<ResultHash> {
        match self.verdict(index) {
            Verdict::Accepted(result) => Some(result),
            Verdict::Open | Verdict::Partial(_) | Verdict::Disputed | Verdict::Unrunnable(_) => {
                None
            }
        }
    }

    /// Whether the body of the accepted result is on this peer's disk.
    pub(crate) fn is_fetched(&self, index: u32) -> bool {
        self.units.get(index as usize).is_some_and(Unit::is_fetched)
    }

    /// Notes whether this peer ran a unit, is running it, or gave up on it.
    pub(crate) fn note_ran(&mut self, index: u32, ran: bool) {
        if let Some(unit) = self.units.get_mut(index as usize) {
            unit.ran = ran;
        }
    }

    /// Notes that this peer ran a unit without a result.
    pub(crate) fn note_blind(&mut self, index: u32) {
        if let Some(unit) = self.units.get_mut(index as usize) {
            unit.blind = true;
        }
    }

    /// Whether this peer ran a unit, is running it, or gave up on it.
    pub(crate) fn has_run(&self, index: u32) -> bool {
        self.units.get(index as usize).is_some_and(|unit| unit.ran)
    }

    /// How many units have which verdict.
    pub(crate) fn counts(&self) -> Counts {
        self.counts
    }

    /// How many units there are.
    pub(crate) fn units(&self) -> u32 {
        u32::try_from(self.units.len()).unwrap_or(u32::MAX)
    }
}

impl Unit {
    fn is_fetched(&self) -> bool {
        matches!(self.verdict, Some(Verdict::Accepted(result)) if self.body == Some(result))
    }
}

impl Counts {
    fn of(&mut self, verdict: Verdict) -> &mut u32 {
        match verdict {
            Verdict::Open => &mut self.open,
            Verdict::Partial(_) => &mut self.partial,
            Verdict::Disputed => &mut self.disputed,
            Verdict::Accepted(_) => &mut self.accepted,
            Verdict::Unrunnable(_) => &mut self.unrunnable,
        }
    }
}

/// The verdict on a unit with these votes and these runs without a result, liars' left out.
fn verdict(votes: &[ResultHash], gave_up: &[NoResult], copies: usize, workers: usize) -> Verdict {
    let first = votes.first().copied();
    if votes.iter().any(|result| Some(*result) != first) {
        return Verdict::Disputed;
    }
    if let Some(result) = first.filter(|_| votes.len() >= copies) {
        return Verdict::Accepted(result);
    }
    // The lowest reason, so that the order of arrival does not matter.
    if let Some(why) = gave_up.iter().min()
        && (gave_up.len() >= GAVE_UP_MAX || gave_up.len() + votes.len() >= workers)
    {
        return Verdict::Unrunnable(*why);
    }
    first.map_or(Verdict::Open, Verdict::Partial)
}

/// The verdict on a dispute at a peer that ran the unit without a result: it can't tell who lies, and
/// must not wait for ever. It takes a result that a quorum agrees on, if that is more peers than all
/// who contradict: no more than a quorum of liars could get accepted without a dispute. It convicts
/// nobody by this.
fn majority(votes: &[ResultHash], copies: usize) -> Verdict {
    let times = |result: ResultHash| votes.iter().filter(|other| **other == result).count();
    let found = votes.iter().find(|result| {
        let agree = times(**result);
        agree >= copies && 2 * agree > votes.len()
    });
    found.map_or(Verdict::Disputed, |result| Verdict::Accepted(*result))
}

#[cfg(test)]
mod tests {
    use potluck_unit::JobId;

    use super::*;
    use crate::chance::Chance;
    use crate::standing::Conviction;

    fn result(n: u8) -> ResultHash {
        ResultHash([n; 16])
    }

    fn check(votes: &[u8], gave_up: usize, copies: usize, workers: usize, expected: Verdict) {
        let votes: Vec<_> = votes.iter().map(|n| result(*n)).collect();
        let gave_up = vec![NoResult::Deadline; gave_up];
        assert_eq!(verdict(&votes, &gave_up, copies, workers), expected);
    }

    #[test]
    fn a_result_needs_k_voices_and_no_dissent() {
        check(&[], 0, 2, 5, Verdict::Open);
        check(&[1], 0, 2, 5, Verdict::Partial(result(1)));
        check(&[1, 1], 0, 2, 5, Verdict::Accepted(result(1)));
        check(&[1, 2], 0, 2, 5, Verdict::Disputed);
        check(&[1, 1, 1, 2], 0, 2, 5, Verdict::Disputed);
        check(&[1], 0, 1, 5, Verdict::Accepted(result(1)));
    }

    #[test]
    fn who_can_not_run_a_disputed_unit_follows_a_quorum_that_outnumbers_its_dissent() {
        let mut tally = counted(&[(1, 1), (2, 2), (3, 1)]);
        tally.judge(0, &Standing::default(), 9);
        assert_eq!(tally.verdict(0), Verdict::Disputed);
        tally.note_blind(0);
        tally.judge(0, &Standing::default(), 9);
        assert_eq!(tally.verdict(0), Verdict::Accepted(result(1)));
        for even in
            [&[(1, 1), (2, 2)][..], &[(1, 1), (2, 2), (3, 1), (4, 2)], &[(1, 1), (2, 2), (3, 3)]]
        {
            let mut tally = counted(even);
            tally.note_blind(0);
            tally.judge(0, &Standing::default(), 9);
            assert_eq!(tally.verdict(0), Verdict::Disputed, "{even:?}");
        }
    }

    #[test]
    fn a_unit_is_unrunnable_when_three_gave_up_or_nobody_is_left_to_try() {
        check(&[], 2, 2, 5, Verdict::Open);
        check(&[], 3, 2, 5, Verdict::Unrunnable(NoResult::Deadline));
        check(&[], 2, 2, 2, Verdict::Unrunnable(NoResult::Deadline));
        check(&[1], 1, 2, 2, Verdict::Unrunnable(NoResult::Deadline));
        check(&[1], 1, 2, 3, Verdict::Partial(result(1)));
        check(&[1, 1], 3, 2, 5, Verdict::Accepted(result(1)));
    }

    fn peer(n: u8) -> PeerId {
        PeerId([n; 32])
    }

    fn counted(votes: &[(u8, u8)]) -> Tally {
        let mut tally = Tally::new(1, 2);
        for (voter, said) in votes {
            let record = RecordId([*voter; 32]);
            tally.count(&peer(*voter), 0, result(*said), WorkDigest([0; 16]), record);
        }
        tally
    }

    #[test]
    fn the_verdict_depends_on_the_set_of_votes_and_not_on_their_order_or_number() {
        let mut chance = Chance::of_seed(3);
        for _ in 0..500 {
            let mut votes: Vec<(u8, u8)> =
                (0..chance.below(6)).map(|voter| (voter as u8, chance.below(2) as u8)).collect();
            let mut standing = Standing::default();
            if chance.happens(500) {
                standing.convict(conviction(0));
            }
            let mut first = counted(&votes);
            first.judge(0, &standing, 9);
            votes.extend(votes.clone());
            chance.shuffle(&mut votes);
            let mut second = counted(&votes);
            second.judge(0, &standing, 9);
            assert_eq!(first.verdict(0), second.verdict(0), "{votes:?}");
        }
    }

    #[test]
    fn a_liars_word_counts_where_this_peer_found_the_same() {
        let mut standing = Standing::default();
        standing.convict(conviction(2));
        let mut tally = counted(&[(1, 1), (2, 1)]);
        tally.judge(0, &standing, 9);
        assert_eq!(tally.verdict(0), Verdict::Partial(result(1)));
        tally.note_own(0, Own { result: result(1), witness: None });
        tally.judge(0, &standing, 9);
        assert_eq!(tally.verdict(0), Verdict::Accepted(result(1)));
        let mut lied = counted(&[(1, 1), (2, 2)]);
        lied.note_own(0, Own { result: result(1), witness: None });
        lied.judge(0, &standing, 9);
        assert_eq!(lied.verdict(0), Verdict::Partial(result(1)));
    }

    fn conviction(liar: u8) -> Conviction {
        Conviction {
            peer: peer(liar),
            job: JobId([0; 32]),
            index: 0,
            said: result(2),
            found: result(1),
            record: RecordId([liar; 32]),
            made: potluck_unit::Time(0),
        }
    }

    #[test]
    fn a_conviction_settles_a_dispute_and_reopens_what_relied_on_the_liar() {
        let mut standing = Standing::default();
        let mut disputed = counted(&[(1, 1), (2, 2), (3, 1)]);
        let mut relied = counted(&[(1, 1), (2, 1)]);
        disputed.judge(0, &standing, 9);
        relied.judge(0, &standing, 9);
        relied.note_body(0, result(1));
        assert_eq!(disputed.verdict(0), Verdict::Disputed);
        assert_eq!(relied.verdict(0), Verdict::Accepted(result(1)));
        standing.convict(conviction(2));
        disputed.judge(0, &standing, 9);
        relied.judge(0, &standing, 9);
        assert_eq!(disputed.verdict(0), Verdict::Accepted(result(1)));
        assert_eq!(relied.verdict(0), Verdict::Partial(result(1)));
        assert_eq!((relied.counts().partial, relied.counts().fetched), (1, 0));
        assert_eq!(relied.wanted(0, &standing), 1);
    }

    #[test]
    fn a_second_word_of_the_same_peer_is_known_or_a_contradiction() {
        let mut tally = counted(&[(1, 1)]);
        let mut again =
            |said| tally.count(&peer(1), 0, result(said), WorkDigest([0; 16]), RecordId([9; 32]));
        assert_eq!(again(1), Counted::Known);
        assert_eq!(again(2), Counted::Contradiction(result(1)));
    }

    #[test]
    fn one_vote_too_many_or_past_the_last_unit_is_refused() {
        let mut tally = Tally::new(1, 2);
        let mut count = |voter: usize, index| {
            let voter = PeerId(*blake3_of(voter));
            tally.count(&voter, index, result(1), WorkDigest([0; 16]), RecordId([0; 32]))
        };
        assert_eq!(count(0, 1), Counted::Refused);
        for voter in 0..VOTES_MAX {
            assert_eq!(count(voter, 0), Counted::New);
        }
        assert_eq!(count(VOTES_MAX, 0), Counted::Refused);
    }

    fn blake3_of(n: usize) -> Box<[u8; 32]> {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&n.to_le_bytes());
        Box::new(id)
    }
}
