//! Slots: threads that run assigned units in sandboxes, one after another, within what is lent.
//!
//! A slot keeps its runner child between units of the same job and starts a fresh one when the
//! submitter, the module or the limits change, so that no submitter's guest ever meets another's
//! memory.
//!
//! What is lent may change at any time ([`Slots::lend`]): every child of a slot, compilers too, is on
//! the slot's leash and is held to its share of a processor, together with what the slot's thread
//! uses itself; slots that are not lent stand still with all they have; and nobody starts a child
//! whose memory does not fit beside the others'.

mod bench;
mod memory;
mod rig;

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use potluck_peer::{Ran, Report};
use potluck_sandbox::{Leash, Sandbox, Share};
use potluck_unit::{Job, JobId, Limits, NoResult, PeerId};
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::mpsc;
use tracing::warn;

use crate::hub::Input;
use crate::store::{Disk, Store};
use bench::Bench;
use memory::Memory;
pub use rig::Rig;

/// What is lent to the grid of this machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lent {
    /// Units at once. What is above the slots that a node was started with changes nothing.
    pub slots: u16,
    /// Of one core, for each slot, from 1 to 100. Covers runners, compilers and the thread that
    /// feeds them. Does not cover the node's own loop, network and disk.
    pub cpu_percent: u8,
    /// Memory in bytes for all slots, compilers and the node together.
    pub memory_bytes: u64,
    /// Disk in bytes for everything below the data folder.
    pub disk_bytes: u64,
}

impl Lent {
    /// No caps.
    pub const ALL: Lent =
        Lent { slots: u16::MAX, cpu_percent: 100, memory_bytes: u64::MAX, disk_bytes: u64::MAX };

    /// Whether units under these limits can ever run within this.
    pub fn can_run(&self, limits: &Limits) -> bool {
        self.slots > 0 && Memory::of_runner(limits) <= memory::for_units(self.memory_bytes)
    }
}

/// Units handed to a slot at once.
#[derive(Debug)]
pub(crate) struct Assignment {
    pub(crate) id: JobId,
    pub(crate) submitter: PeerId,
    pub(crate) job: Arc<Job>,
    pub(crate) units: Vec<u32>,
}

/// Reports are handed on after this much time or at the end of an assignment.
const REPORT_AFTER: Duration = Duration::from_millis(50);
/// Assignments that wait on a slot: the peer hands out two at a time.
const QUEUE_MAX: usize = 8;
/// How much a slot may have used too much of the processor before its thread waits, too: less would
/// wake it for nothing.
const DEBT_MAX: Duration = Duration::from_millis(1);

/// The slots of a node.
#[derive(Debug)]
pub(crate) struct Slots {
    crew: Arc<Crew>,
    sandbox: Sandbox,
    store: Store,
    threads: Vec<JoinHandle<()>>,
}

/// All slots and what they share.
#[derive(Debug)]
struct Crew {
    slots: Vec<Slot>,
    memory: Memory,
    lent: Mutex<Lent>,
    /// Whether everything stands still, whatever is lent.
    suspended: AtomicBool,
}

/// What a slot's thread and the hub share.
#[derive(Debug, Default)]
struct Slot {
    state: Mutex<State>,
    changed: Condvar,
    leash: Leash,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Assignment>,
    /// Whether an assignment is being worked on.
    busy: bool,
    /// How many assignments are to be handed back as they are, the one being worked on first.
    skip: usize,
    /// Since when it stands still, and for how long it has before.
    held_since: Option<Instant>,
    held: Duration,
    /// Whether it stood still since its last unit began, so that its compiler may have been ended.
    was_held: bool,
    /// Whether a runner that has nothing to do is to go.
    shed: bool,
    closing: bool,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two statements that hold the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what it was given is not to be run.
    fn gives_up(&self) -> bool {
        let state = self.lock();
        state.closing || state.skip > 0
    }

    /// Waits until something changes, and no longer than this.
    fn wait(&self, most: Duration) {
        let state = self.lock();
        if !state.closing && state.skip == 0 {
            drop(self.changed.wait_timeout(state, most).unwrap_or_else(PoisonError::into_inner));
        }
    }

    /// Stops everything where it is, or lets it go on.
    fn hold(&self, held: bool) {
        {
            let mut state = self.lock();
            state.was_held |= held;
            match (held, state.held_since) {
                (true, None) => state.held_since = Some(Instant::now()),
                (false, Some(since)) => {
                    state.held += since.elapsed();
                    state.held_since = None;
                }
                (true, Some(_)) | (false, None) => {}
            }
        }
        if held {
            self.leash.suspend()
        } else {
            self.leash.resume()
        }
        self.changed.notify_all();
    }

    /// Hands back all that it was given, as far as it was not run, and ends its children.
    fn stop(&self) {
        {
            let mut state = self.lock();
            state.skip = state.queue.len() + usize::from(state.busy);
            if !state.busy {
                return;
            }
        }
        self.leash.kill();
        self.changed.notify_all();
    }

    /// For how long it has stood still in all.
    fn stood(&self) -> Duration {
        let state = self.lock();
        state.held + state.held_since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

impl Crew {
    /// Lets runners go that have nothing to do: somebody else needs their memory.
    fn shed_idle(&self) {
        for slot in &self.slots {
            let mut state = slot.lock();
            if !state.busy && state.queue.is_empty() {
                state.shed = true;
                slot.changed.notify_all();
            }
        }
    }
}

/// What every slot's thread needs.
#[derive(Debug, Clone)]
pub(crate) struct Equipment {
    pub(crate) sandbox: Sandbox,
    pub(crate) store: Store,
    pub(crate) inputs: mpsc::Sender<Input>,
    /// Return wrong results.
    pub(crate) cheat: bool,
}

impl Slots {
    /// Starts so many threads. They do nothing until they are assigned something.
    pub(crate) fn start(count: u16, equipment: &Equipment) -> std::io::Result<Slots> {
        let crew = Arc::new(Crew {
            slots: (0..count).map(|_| Slot::default()).collect(),
            memory: Memory::new(Lent::ALL.memory_bytes),
            lent: Mutex::new(Lent::ALL),
            suspended: AtomicBool::new(false),
        });
        let mut threads = Vec::new();
        for number in 0..count {
            let (crew, equipment) = (crew.clone(), equipment.clone());
            let thread = std::thread::Builder::new().name(format!("slot-{number}"));
            threads.push(thread.spawn(move || work(number, &crew, &equipment))?);
        }
        let (sandbox, store) = (equipment.sandbox.clone(), equipment.store.clone());
        Ok(Slots { crew, sandbox, store, threads })
    }

    /// Changes what is lent, from now on. Slots from the number `lent.slots` on stand still at once
    /// and go on when they are lent again. Where less memory is lent than is in use, slots with the
    /// highest numbers are stopped; where less disk is, nothing is added to it.
    pub(crate) fn lend(&self, lent: Lent) {
        let before = {
            let mut held = self.crew.lent.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *held, lent)
        };
        let share = Share::from_percent(lent.cpu_percent.clamp(1, 100)).unwrap_or(Share::FULL);
        let mut unheld = Vec::new();
        for slot in &self.crew.slots {
            if let Err(error) = slot.leash.throttle(share) {
                warn!("a slot stands still, because it can't be held to {share}: {error}");
                unheld.push(slot);
            }
        }
        self.hold_those_not_lent();
        // Better still than above the cap.
        unheld.iter().for_each(|slot| slot.hold(true));
        self.crew.memory.set_max(lent.memory_bytes);
        if self.crew.memory.is_over() {
            self.crew.shed_idle();
            for number in self.crew.memory.too_many() {
                self.stop(number);
            }
        }
        if lent.disk_bytes != before.disk_bytes {
            self.store.set_disk_max(lent.disk_bytes);
            self.sandbox.set_cache_max(Store::artefacts_part(lent.disk_bytes));
        }
    }

    /// Stops every child where it is. Nothing is lost, and no deadline comes nearer.
    pub(crate) fn suspend(&self) {
        self.crew.suspended.store(true, Ordering::Relaxed);
        self.hold_those_not_lent();
    }

    /// Lets everything go on, as far as it is lent.
    pub(crate) fn resume(&self) {
        self.crew.suspended.store(false, Ordering::Relaxed);
        self.hold_those_not_lent();
    }

    /// Gives back the memory of slots that stand still: their children are ended, and their units
    /// come back as not run.
    pub(crate) fn release(&self) {
        for slot in &self.crew.slots {
            let held = slot.lock().held_since.is_some();
            if held {
                slot.stop();
                slot.lock().shed = true;
                slot.changed.notify_all();
            }
        }
        self.crew.memory.wake();
    }

    /// Whether a unit under these limits would fit beside what runs now.
    pub(crate) fn fits(&self, limits: &Limits) -> bool {
        let busy = |number: u16| {
            let slot = self.crew.slots.get(usize::from(number));
            slot.is_some_and(|slot| slot.lock().busy)
        };
        self.crew.memory.fits(Memory::of_runner(limits), busy)
    }

    /// How the disk stands, artefacts included.
    pub(crate) fn disk(&self) -> Disk {
        self.store.disk(self.sandbox.cache_bytes())
    }

    /// Processor time that all slots have used so far: their children, and what feeds them.
    pub(crate) fn used(&self) -> Duration {
        self.crew.slots.iter().map(|slot| slot.leash.used()).sum()
    }

    /// The process ids of all children, to show and to measure.
    pub(crate) fn pids(&self) -> Vec<u32> {
        self.crew.slots.iter().flat_map(|slot| slot.leash.pids()).collect()
    }

    fn hold_those_not_lent(&self) {
        let lent = self.crew.lent.lock().unwrap_or_else(PoisonError::into_inner).slots;
        let all = self.crew.suspended.load(Ordering::Relaxed);
        for (number, slot) in (0..u16::MAX).zip(&self.crew.slots) {
            slot.hold(all || number >= lent);
            if number >= lent {
                // Compiling is one at a time: who stands still must not keep the others from it.
                slot.leash.kill_compiler();
            }
        }
    }

    /// Gives a slot units to run after what it has.
    pub(crate) fn assign(&self, slot: u16, assignment: Assignment) {
        let Some(slot) = self.crew.slots.get(usize::from(slot)) else { return };
        let mut state = slot.lock();
        debug_assert!(state.queue.len() < QUEUE_MAX, "the peer hands out two assignments a slot");
        state.queue.push_back(assignment);
        slot.changed.notify_all();
    }

    /// Kills what runs on a slot and hands everything it was given back, as far as it was not run.
    pub(crate) fn stop(&self, slot: u16) {
        let Some(slot) = self.crew.slots.get(usize::from(slot)) else { return };
        slot.stop();
        self.crew.memory.wake();
    }

    /// Kills what runs, drops what waits, and ends the threads.
    pub(crate) fn close(self) {
        for slot in &self.crew.slots {
            {
                let mut state = slot.lock();
                state.closing = true;
                state.queue.clear();
            }
            slot.leash.kill();
            slot.changed.notify_all();
        }
        self.crew.memory.wake();
        for thread in self.threads {
            if thread.join().is_err() {
                warn!("a slot's thread had panicked");
            }
        }
    }
}

/// A slot's thread.
fn work(number: u16, crew: &Crew, equipment: &Equipment) {
    let Some(slot) = crew.slots.get(usize::from(number)) else { return };
    let mut bench = Bench::new(number, slot, crew, equipment);
    let mut own = OwnTime::default();
    while let Some(assignment) = next(slot, || bench.clear()) {
        let mut reporter = Reporter {
            slot: number,
            job: assignment.id,
            inputs: &equipment.inputs,
            reports: Vec::new(),
            since: Instant::now(),
            stood: slot.stood(),
        };
        let mut left = assignment.units.iter().peekable();
        while let Some(index) = left.peek() {
            slot.leash.charge(own.lap());
            match turn(slot) {
                Turn::Go => {}
                Turn::Skip => break,
                Turn::End => return,
            }
            let report = bench.run(&assignment, **index);
            // What was ended because the slot stands still begins again when it does not.
            let stopped = matches!(report.result, Err(NoResult::Stopped));
            if stopped && slot.lock().was_held && !slot.gives_up() {
                continue;
            }
            left.next();
            reporter.reports.push(report);
            if reporter.since.elapsed() >= REPORT_AFTER {
                reporter.send(slot, false);
            }
        }
        {
            let mut state = slot.lock();
            state.busy = false;
            state.skip = state.skip.saturating_sub(1);
        }
        crew.memory.wake();
        reporter.send(slot, true);
    }
}

/// What a slot's thread may do next.
enum Turn {
    /// Run a unit.
    Go,
    /// Hand the rest of the assignment back.
    Skip,
    /// End.
    End,
}

/// Waits until a unit may begin: while the slot stands still, and while it has used more than its
/// share of the processor.
fn turn(slot: &Slot) -> Turn {
    loop {
        // Asked without the slot's lock, which is not to be held over any other.
        let debt = slot.leash.debt();
        let mut state = slot.lock();
        if state.closing {
            return Turn::End;
        }
        if state.skip > 0 {
            return Turn::Skip;
        }
        if state.held_since.is_some() {
            drop(slot.changed.wait(state).unwrap_or_else(PoisonError::into_inner));
        } else if debt > DEBT_MAX {
            drop(slot.changed.wait_timeout(state, debt).unwrap_or_else(PoisonError::into_inner));
        } else {
            state.was_held = false;
            return Turn::Go;
        }
    }
}

/// Waits for the next assignment; meanwhile, lets the runner go if that is asked for.
fn next(slot: &Slot, mut clear: impl FnMut()) -> Option<Assignment> {
    let mut state = slot.lock();
    loop {
        if state.closing {
            return None;
        }
        if std::mem::take(&mut state.shed) {
            drop(state);
            clear();
            state = slot.lock();
            continue;
        }
        if let Some(assignment) = state.queue.pop_front() {
            state.busy = true;
            return Some(assignment);
        }
        state = slot.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
}

/// Processor time of the thread that asks, from lap to lap.
#[derive(Default)]
struct OwnTime(Duration);

impl OwnTime {
    fn lap(&mut self) -> Duration {
        let now = Duration::try_from(clock_gettime(ClockId::ThreadCPUTime)).unwrap_or(self.0);
        let lap = now.saturating_sub(self.0);
        self.0 = now;
        lap
    }
}

struct Reporter<'a> {
    slot: u16,
    job: JobId,
    inputs: &'a mpsc::Sender<Input>,
    reports: Vec<Report>,
    since: Instant,
    /// For how long the slot had stood still by then.
    stood: Duration,
}

impl Reporter<'_> {
    fn send(&mut self, slot: &Slot, done: bool) {
        let stood = slot.stood();
        // Standing still says nothing about how long units take.
        let spent = self.since.elapsed().saturating_sub(stood.saturating_sub(self.stood));
        let spent_us = u64::try_from(spent.as_micros()).unwrap_or(u64::MAX);
        let reports = std::mem::take(&mut self.reports);
        let ran = Ran { slot: self.slot, job: self.job, reports, spent_us, done };
        // The hub is gone only when the node stops; then nobody waits for the report.
        let _ = self.inputs.blocking_send(Input::Ran(ran));
        (self.since, self.stood) = (Instant::now(), stood);
    }
}

#[cfg(test)]
mod tests;
