//! Lending: what the budget allows, carried into what this peer does and tells its node.
//!
//! What may not run is suspended by the node at once, slot by slot: nothing of it is lost. Claimed
//! units that no slot has begun are given back at once; those on a slot when they have been suspended
//! for so long that the donor wants the memory back.

use std::collections::{BTreeMap, BTreeSet};

use potluck_unit::{Job, JobId, PeerId, Time};

use crate::Peer;
use crate::action::{Action, Actions, News};
use crate::board::Entry;
use crate::budget::{Allowance, Budget, Order, Reading, Rules};
use crate::choice::{Refusal, inputs_bytes, needed_bytes};
use crate::timers::Timer;

/// The budget, and what was done about it.
#[derive(Debug)]
pub(crate) struct Lending {
    pub(crate) budget: Budget,
    /// What is lent now.
    pub(crate) now: Allowance,
    /// Whether the node was told of the rules that hold.
    told: bool,
    /// Slots with something on them that may not run, and since when.
    suspended: BTreeMap<u16, Time>,
    /// Slots that were stopped and have not ended yet.
    stopped: BTreeSet<u16>,
    /// Whether the user was told that nothing is left to do.
    drained: bool,
}

/// The memory that one unit can hold, in bytes, as [`potluck_unit::Limits::held_bytes`] counts it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Room(u64);

impl Room {
    /// Whether a unit of a job can't outgrow it.
    pub(crate) fn fits(self, job: &Job) -> bool {
        job.limits.held_bytes() <= self.0
    }
}

impl Lending {
    /// Everything is lent until somebody says otherwise, to whom these weights say.
    pub(crate) fn new(weights: BTreeMap<PeerId, u32>) -> Lending {
        let mut rules = Rules::unlimited();
        rules.choice.weights = weights;
        let budget = Budget::new(rules);
        Lending {
            now: budget.allowance(Time(0)),
            budget,
            told: true,
            suspended: BTreeMap::new(),
            stopped: BTreeSet::new(),
            drained: false,
        }
    }
}

impl Peer {
    /// What is lent now.
    pub fn allowance(&self) -> &Allowance {
        &self.lending.now
    }

    /// The rules it goes by.
    pub fn rules(&self) -> &Rules {
        self.lending.budget.rules()
    }

    /// Whether the donor's machine runs units of a job, or why not. None for a job that is not known.
    /// What keeps it from running any at all for a time is [`Peer::allowance`]'s to say.
    pub fn choice(&self, job: &JobId) -> Option<Result<(), Refusal>> {
        self.board.get(job).map(|entry| self.takes(entry))
    }

    pub(crate) fn takes(&self, entry: &Entry) -> Result<(), Refusal> {
        let (job, own) = (entry.job(), entry.submitter() == self.me);
        if !entry.is_understood() {
            return Err(Refusal::TooNew);
        }
        if !self.lends() {
            return Err(Refusal::NothingLent);
        }
        if !own {
            self.rules().choice.takes(&entry.submitter(), job, inputs_bytes(job))?;
        }
        let room = self.room_alone();
        if !room.fits(job) {
            return Err(Refusal::MemoryTooLarge(job.limits.held_bytes(), room.0));
        }
        let (needed, left) = (needed_bytes(job), self.lending.now.inputs_max_bytes);
        if !own && !entry.is_ready() && needed > left {
            return Err(Refusal::TrafficTooLarge(needed, left));
        }
        Ok(())
    }

    /// Whether the donor's choice leaves a job to this machine.
    pub(crate) fn chooses(&self, submitter: &PeerId, job: &Job) -> bool {
        self.rules().choice.takes(submitter, job, inputs_bytes(job)).is_ok()
    }

    /// Whether units of a job may run here at all.
    pub(crate) fn may_run(&self, entry: &Entry) -> bool {
        entry.chosen && self.room_alone().fits(entry.job())
    }

    /// Whether so much may be fetched that nobody here asked for.
    pub(crate) fn may_fetch(&self, bytes: u64) -> bool {
        let lent = &self.lending.now;
        let left = lent.inputs_max_bytes;
        lent.takes() && lent.connects() && left > 0 && bytes <= left
    }

    /// Whether this peer ever runs anything for others.
    pub(crate) fn lends(&self) -> bool {
        self.config.slots > 0 && self.rules().slots_max() > 0
    }

    /// Slots that may be given something now.
    pub(crate) fn slots_now(&self) -> u16 {
        let lent = &self.lending.now;
        if lent.takes() { self.config.slots.min(lent.slots_now()) } else { 0 }
    }

    /// What others are told it lends: nothing while it is away for long.
    pub(crate) fn slots_said(&self) -> u16 {
        let lent = &self.lending.now;
        let away = lent.draining || lent.released;
        if away { 0 } else { self.config.slots.min(self.rules().slots_max()) }
    }

    /// Whether a slot may be given something now.
    pub(crate) fn is_lent(&self, slot: u16) -> bool {
        self.lending.now.takes() && self.lending.now.runs(slot)
    }

    /// The memory of a unit if nothing else runs.
    pub(crate) fn room_alone(&self) -> Room {
        let (memory, rules) = (self.lending.now.memory_bytes, self.rules());
        if memory == Rules::UNLIMITED {
            return Room(memory);
        }
        Room(memory.saturating_sub(rules.node_bytes).saturating_sub(rules.slot_bytes))
    }

    /// The memory of a unit on a slot, beside what runs on the others. What is suspended keeps its
    /// own.
    pub(crate) fn room(&self, slot: u16) -> Room {
        let Room(alone) = self.room_alone();
        if alone == Rules::UNLIMITED {
            return Room(alone);
        }
        let others = (0..self.runs.slots()).filter(|other| *other != slot);
        let taken = others.fold(0u64, |sum, other| sum.saturating_add(self.memory_of(other)));
        Room(alone.saturating_sub(taken))
    }

    /// What the units on a slot may take, with all that is around them, in bytes.
    fn memory_of(&self, slot: u16) -> u64 {
        let units = self.runs.on_slot(slot).0.iter();
        let entries = units.filter_map(|assignment| self.board.get(&assignment.job));
        let most = entries.map(|entry| entry.job().limits.held_bytes()).max();
        most.map_or(0, |most| most.saturating_add(self.rules().slot_bytes))
    }

    /// The donor set other rules.
    pub(crate) fn on_rules(&mut self, now: Time, rules: Rules, actions: &mut Actions) {
        self.lending.budget.on_rules(now, rules);
        self.lending.told = false;
        self.lend(now, actions);
        self.choose_anew(now, actions);
        self.count_workers_soon(now, actions);
    }

    /// The node measured.
    pub(crate) fn on_reading(&mut self, now: Time, reading: Reading, actions: &mut Actions) {
        self.lending.budget.on_reading(now, reading);
        self.lend(now, actions);
    }

    /// The user wants something of the machine.
    pub(crate) fn on_order(&mut self, now: Time, order: Order, actions: &mut Actions) {
        self.lending.drained = false;
        self.lending.budget.on_order(now, order);
        self.lend(now, actions);
    }

    /// Time has passed.
    pub(crate) fn on_lending_due(&mut self, now: Time, actions: &mut Actions) {
        self.lending.budget.on_time(now);
        self.lend(now, actions);
    }

    /// Tells the node what is lent now, if that is something else, and does what follows.
    fn lend(&mut self, now: Time, actions: &mut Actions) {
        let lent = self.lending.budget.allowance(now);
        let before = std::mem::replace(&mut self.lending.now, lent.clone());
        if before.connects() && !lent.connects() && self.awake {
            // What is known by now is still said.
            self.flush_all(now, actions);
        }
        if !std::mem::replace(&mut self.lending.told, true) || !lent.is_alike(&before) {
            actions.push(Action::Lend(lent.clone()));
            self.plan_due = true;
        }
        if before.connects() != lent.connects() {
            self.look_again_at_latest(now);
            let neighbours = self.roster.neighbours().filter(|_| !lent.connects());
            neighbours.for_each(|peer| actions.push(Action::HangUp { peer }));
        }
        self.give_back(now, actions);
        if let Some(at) = self.lending.budget.changes_at(now) {
            self.timers.at_latest(Timer::Lend, at);
        }
    }

    /// Gives back what will not be run here soon.
    fn give_back(&mut self, now: Time, actions: &mut Actions) {
        if self.slots_now() == 0 {
            let waits = |(_, entry): &(&JobId, &Entry)| !entry.plan.claimed.is_empty();
            let waiting: Vec<JobId> = self.board.jobs().filter(waits).map(|(id, _)| *id).collect();
            waiting.into_iter().for_each(|id| self.unclaim(now, id, actions));
        }
        let release_after_ms = self.rules().release_after_ms;
        for slot in 0..self.runs.slots() {
            if self.lending.now.runs(slot) || self.runs.on_slot(slot).0.is_empty() {
                self.lending.suspended.remove(&slot);
                self.lending.stopped.remove(&slot);
                continue;
            }
            let since = *self.lending.suspended.entry(slot).or_insert(now);
            let release_at = since.plus_ms(release_after_ms);
            if self.lending.now.released || release_at <= now {
                self.stop_slot(now, slot, actions);
            } else {
                self.timers.at_latest(Timer::Lend, release_at);
            }
        }
        self.hold_memory(now, actions);
    }

    /// Stops the last slots while what runs may take more memory than is lent.
    fn hold_memory(&mut self, now: Time, actions: &mut Actions) {
        let memory = self.lending.now.memory_bytes;
        if memory == Rules::UNLIMITED {
            return;
        }
        let (most, mut taken) = (memory.saturating_sub(self.rules().node_bytes), 0u64);
        for slot in 0..self.runs.slots() {
            let more = self.memory_of(slot);
            if more > 0 && taken.saturating_add(more) > most {
                self.stop_slot(now, slot, actions);
            } else {
                taken = taken.saturating_add(more);
            }
        }
    }

    /// Stops what is on a slot, once, and gives the units back to others.
    fn stop_slot(&mut self, now: Time, slot: u16, actions: &mut Actions) {
        if !self.lending.stopped.insert(slot) {
            return;
        }
        actions.push(Action::Stop { slot });
        for (id, (units, right)) in self.runs.claimed_on(slot) {
            let Some(entry) = self.board.get(&id) else { continue };
            let chunk_units = entry.job().chunk_units();
            let held = units.into_iter();
            let held = held.map(|index| (index / chunk_units, 1 << (index % chunk_units), right));
            self.say_release(now, id, held, actions);
        }
    }

    /// A slot has ended an assignment. What it is given after the last can be stopped anew.
    pub(crate) fn on_slot_ended(&mut self, slot: u16) {
        if self.runs.on_slot(slot).0.is_empty() {
            self.lending.stopped.remove(&slot);
            self.lending.suspended.remove(&slot);
        }
    }

    /// Looks anew at which jobs the donor's choice leaves to this machine, and stops the others.
    fn choose_anew(&mut self, now: Time, actions: &mut Actions) {
        for id in self.board.job_ids() {
            let Some(entry) = self.board.get(&id) else { continue };
            let submitter = entry.submitter();
            let chosen = submitter == self.me || self.chooses(&submitter, entry.job());
            let Some(entry) = self.board.get_mut(&id) else { continue };
            if std::mem::replace(&mut entry.chosen, chosen) == chosen {
                continue;
            }
            let ready = entry.is_ready();
            self.board.note_changed(id);
            self.look_again_at_latest(now);
            if chosen && ready {
                self.consider_all(now, &id);
            } else if !chosen {
                self.unclaim(now, id, actions);
                for slot in 0..self.runs.slots() {
                    if self.runs.on_slot(slot).0.iter().any(|assignment| assignment.job == id) {
                        self.stop_slot(now, slot, actions);
                    }
                }
            }
        }
        self.plan_due = true;
    }

    /// Whether all that was begun before draining is finished and said.
    pub(crate) fn is_drained(&self) -> bool {
        self.lending.now.draining && self.runs.is_done()
    }

    /// Tells the user once that it is.
    pub(crate) fn tell_drained(&mut self, actions: &mut Actions) {
        if self.is_drained() && !std::mem::replace(&mut self.lending.drained, true) {
            actions.tell(News::Drained { exit: self.lending.now.exit });
        }
    }
}

#[cfg(test)]
mod tests;
