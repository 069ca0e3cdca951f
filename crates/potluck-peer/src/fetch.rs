//! Fetching: modules and inputs of jobs to run, and bodies of outcomes that the user wants here.

use std::collections::BTreeSet;

use potluck_unit::{JobId, PeerId, Time};

use crate::Peer;
use crate::action::{Action, Actions, Need};
use crate::board::Held;
use crate::chance::Chance;
use crate::choice::needed_bytes;
use crate::keepers::sources;
use crate::tally::Verdict;

/// Who asked to check a job waits no longer than this for its module and inputs.
const CHECK_MS: u64 = 60 * 1000;
/// Outcome bodies of one job being fetched at once.
pub(crate) const FETCHES_MAX: usize = 16;
/// Peers asked for one thing at once.
pub(crate) const SOURCES_MAX: usize = 16;
/// How long after a fetch that found nothing the next one is tried. For a body twice as long each
/// time.
pub(crate) const FETCH_RETRY_MS: u64 = 2000;
/// A body that so many rounds of asking did not find is made anew: after a minute, in which who has
/// just come back hears of those that keep it.
pub(crate) const LOST_AFTER: u32 = 5;

impl Peer {
    /// Fetches module and inputs of jobs that this peer could run or its user wants to check.
    pub(crate) fn fetch_inputs(&mut self, now: Time, actions: &mut Actions) {
        for id in self.board.job_ids() {
            let Some(entry) = self.board.get(&id) else { continue };
            let own = entry.submitter() == self.me;
            let lends = own || self.lends() && self.may_run(entry);
            let done = entry.is_settled() && entry.lost_bodies().next().is_none();
            let wanted = entry.check_until > now || lends && !entry.closed && !done;
            if entry.is_ready() || entry.is_cleared() || !wanted || !entry.is_understood() {
                continue;
            }
            let due = |held: &Held| matches!(held, Held::No(retry_at) if *retry_at <= now);
            if !due(&entry.module) && !due(&entry.inputs) {
                continue;
            }
            let may_ask =
                own || entry.check_until > now || self.may_fetch(needed_bytes(entry.job()));
            let mut chance = self.chance.clone();
            let mut from = self.holders(&id, &mut chance);
            self.chance = chance;
            // What is here already is found without asking anybody.
            if !may_ask || !self.lending.now.connects() {
                from.clear();
            }
            let Some(entry) = self.board.get_mut(&id) else { continue };
            let job = entry.job();
            let module = Need::Module { job: id, blob: job.module, bytes: job.module_bytes };
            let inputs = Need::Inputs { job: id, blob: job.inputs, bytes: job.inputs_bytes };
            for (need, held) in [(module, &mut entry.module), (inputs, &mut entry.inputs)] {
                if due(held) {
                    *held = Held::Asked;
                    actions.push(Action::Fetch { need, from: from.clone() });
                }
            }
        }
    }

    /// Who may have a job's module and inputs: the submitter, who said so, and the neighbours.
    fn holders(&self, id: &JobId, chance: &mut Chance) -> Vec<crate::action::Source> {
        let Some(entry) = self.board.get(id) else { return Vec::new() };
        let near = |peer: &&PeerId| self.roster.is_neighbour(peer);
        // Keepers that are connected first; of the others a few at random, so that the next round
        // asks others if none of these answers.
        let mut peers: Vec<PeerId> = entry.keepers.iter().filter(near).copied().collect();
        chance.shuffle(&mut peers);
        peers.truncate(SOURCES_MAX / 4);
        let submitter = entry.submitter();
        peers.extend(Some(submitter).filter(|peer| near(&peer)));
        // Who is connected says at once that it has nothing; a submitter whose lid is closed lets
        // everybody wait.
        let mut neighbours: Vec<PeerId> = self.roster.neighbours().collect();
        chance.shuffle(&mut neighbours);
        neighbours.truncate(SOURCES_MAX / 4);
        peers.extend(neighbours);
        peers.push(submitter);
        let mut others: Vec<PeerId> =
            self.roster.neighbours().chain(entry.keepers.iter().copied()).collect();
        chance.shuffle(&mut others);
        peers.extend(others);
        let mut asked = BTreeSet::from([self.me]);
        peers.retain(|peer| asked.insert(*peer));
        peers.truncate(SOURCES_MAX);
        peers.iter().map(|peer| self.roster.source(peer)).collect()
    }

    /// What became of a fetch.
    pub(crate) fn on_fetched(&mut self, now: Time, need: Need, found: bool, actions: &mut Actions) {
        let job = need.job();
        let Some(entry) = self.board.get_mut(&job) else { return };
        let held = if found { Held::Yes } else { Held::No(now.plus_ms(FETCH_RETRY_MS)) };
        match need {
            Need::Module { .. } => entry.module = held,
            Need::Inputs { .. } => entry.inputs = held,
            Need::Body { index, result, .. } => {
                let collected = entry.fetching.remove(&index);
                if found {
                    entry.tally.note_body(index, result);
                    entry.missed.remove(&index);
                } else if collected {
                    self.on_missed(now, &job, index);
                }
                if found {
                    self.shelve(&job, index, result, actions);
                }
                self.on_kept_body(now, job, index, found, actions);
                self.board.note_changed(job);
                return self.fetch_bodies(&job, actions);
            }
        }
        if entry.is_ready() {
            entry.plan.ready_at = now;
            self.plan_due = true;
            self.consider_all(now, &job);
            for peer in self.roster.neighbours() {
                actions.say(peer, potluck_unit::Message::Keeping(job));
            }
        }
        self.board.note_changed(job);
    }

    /// A body that the user wants was found nowhere. It is made anew when that has happened often
    /// enough, here if need be even by who ran the unit before, and whose disk has lost it. Rounds
    /// do not count while nobody is connected and somebody could be.
    fn on_missed(&mut self, now: Time, job: &JobId, index: u32) {
        let alone = self.roster.count() == 0 && self.roster.known().next().is_some();
        let Some(entry) = self.board.get_mut(job) else { return };
        let before = entry.missed.get(&index).map_or(0, |(times, _)| *times);
        let times = if alone { before } else { before + 1 };
        let retry_ms = FETCH_RETRY_MS << before.min(LOST_AFTER);
        entry.missed.insert(index, (times, now.plus_ms(retry_ms)));
        if times == LOST_AFTER && before < LOST_AFTER {
            entry.tally.note_ran(index, false);
        }
        self.plan_due |= times >= LOST_AFTER;
    }

    /// Fetches bodies of accepted outcomes that the user wants here.
    pub(crate) fn fetch_bodies(&mut self, id: &JobId, actions: &mut Actions) {
        let connects = self.lending.now.connects();
        let Some(entry) = self.board.get_mut(id).filter(|_| self.awake) else { return };
        if !entry.collect || !connects {
            return;
        }
        while entry.fetching.len() < FETCHES_MAX {
            let Some(index) = entry.to_fetch.pop_first() else { break };
            let Verdict::Accepted(result) = entry.tally.verdict(index) else {
                entry.missed.remove(&index);
                continue;
            };
            if entry.tally.is_fetched(index) || !entry.fetching.insert(index) {
                continue;
            }
            if let Some((_, retry_at)) = entry.missed.get_mut(&index) {
                *retry_at = Time(u64::MAX);
            }
            let from = sources(entry, index, &result, &self.me, &self.roster, &self.keepers);
            actions.push(Action::Fetch { need: Need::Body { job: *id, index, result }, from });
        }
    }

    /// The local user wants to check a job. What was not found before is looked for at once.
    pub(crate) fn on_check(&mut self, now: Time, id: &JobId, actions: &mut Actions) {
        let Some(entry) = self.board.get_mut(id) else { return };
        entry.check_until = now.plus_ms(CHECK_MS);
        for held in [&mut entry.module, &mut entry.inputs] {
            if matches!(held, Held::No(_)) {
                *held = Held::No(now);
            }
        }
        self.fetch_inputs(now, actions);
    }

    /// The local user wants a job's outcomes here.
    pub(crate) fn on_collect(&mut self, id: &JobId, actions: &mut Actions) {
        let Some(entry) = self.board.get_mut(id) else { return };
        entry.tally.settles_all = true;
        if !std::mem::replace(&mut entry.collect, true) {
            self.keepers.forget(id);
            entry.to_fetch =
                (0..entry.tally.units()).filter(|index| !entry.tally.is_fetched(*index)).collect();
        }
        self.fetch_bodies(id, actions);
    }
}
