//! Slots: threads that run assigned units in sandboxes, one after another.
//!
//! A slot keeps its runner child between units of the same job and starts a fresh one when the
//! submitter, the module or the limits change, so that no submitter's guest ever meets another's
//! memory.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use potluck_peer::{Ran, Report};
use potluck_sandbox::{Runner, RunnerHandle, Sandbox, Unit};
use potluck_unit::{
    BlobId, Job, JobId, Limits, NoResult, Outcome, PeerId, ReceiptBatch, RunReport, UnitId, Witness,
};
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::hub::Input;
use crate::inputs::Rows;
use crate::net::Wanted;
use crate::store::Store;

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

/// The slots of a node.
#[derive(Debug)]
pub(crate) struct Slots {
    slots: Vec<Arc<Slot>>,
    threads: Vec<JoinHandle<()>>,
}

/// What a slot's thread and the hub share.
#[derive(Debug, Default)]
struct Slot {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    queue: VecDeque<Assignment>,
    /// Whether an assignment is being worked on.
    busy: bool,
    /// How many assignments are to be handed back as they are, the one being worked on first.
    skip: usize,
    runner: Option<RunnerHandle>,
    closing: bool,
}

impl Slot {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is whole between any two statements that hold the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        let slots: Vec<Arc<Slot>> = (0..count).map(|_| Arc::default()).collect();
        let mut threads = Vec::new();
        for (number, slot) in (0..count).zip(&slots) {
            let (slot, equipment) = (slot.clone(), equipment.clone());
            let thread = std::thread::Builder::new().name(format!("slot-{number}"));
            threads.push(thread.spawn(move || work(number, &slot, &equipment))?);
        }
        Ok(Slots { slots, threads })
    }

    /// Gives a slot units to run after what it has.
    pub(crate) fn assign(&self, slot: u16, assignment: Assignment) {
        let Some(slot) = self.slots.get(usize::from(slot)) else { return };
        let mut state = slot.lock();
        debug_assert!(state.queue.len() < QUEUE_MAX, "the peer hands out two assignments a slot");
        state.queue.push_back(assignment);
        slot.changed.notify_one();
    }

    /// Kills what runs on a slot and hands everything it was given back, as far as it was not run.
    pub(crate) fn stop(&self, slot: u16) {
        let Some(slot) = self.slots.get(usize::from(slot)) else { return };
        let mut state = slot.lock();
        state.skip = state.queue.len() + usize::from(state.busy);
        if state.busy
            && let Some(runner) = &state.runner
        {
            runner.kill();
        }
    }

    /// Kills what runs, drops what waits, and ends the threads.
    pub(crate) fn close(self) {
        for slot in &self.slots {
            let mut state = slot.lock();
            state.closing = true;
            state.queue.clear();
            if let Some(runner) = &state.runner {
                runner.kill();
            }
            slot.changed.notify_one();
        }
        for thread in self.threads {
            if thread.join().is_err() {
                warn!("a slot's thread had panicked");
            }
        }
    }
}

/// A slot's thread.
fn work(number: u16, slot: &Slot, equipment: &Equipment) {
    let mut bench = Bench { equipment, slot, at: None };
    while let Some(assignment) = next(slot) {
        let mut reporter = Reporter {
            slot: number,
            job: assignment.id,
            inputs: &equipment.inputs,
            reports: Vec::new(),
            since: Instant::now(),
        };
        for index in &assignment.units {
            {
                let state = slot.lock();
                if state.closing {
                    return;
                }
                if state.skip > 0 {
                    break;
                }
            }
            let report = bench.run(&assignment, *index);
            reporter.reports.push(report);
            if reporter.since.elapsed() >= REPORT_AFTER {
                reporter.send(false);
            }
        }
        {
            let mut state = slot.lock();
            state.busy = false;
            state.skip = state.skip.saturating_sub(1);
        }
        reporter.send(true);
    }
}

fn next(slot: &Slot) -> Option<Assignment> {
    let mut state = slot.lock();
    loop {
        if state.closing {
            return None;
        }
        if let Some(assignment) = state.queue.pop_front() {
            state.busy = true;
            return Some(assignment);
        }
        state = slot.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
    }
}

struct Reporter<'a> {
    slot: u16,
    job: JobId,
    inputs: &'a mpsc::Sender<Input>,
    reports: Vec<Report>,
    since: Instant,
}

impl Reporter<'_> {
    fn send(&mut self, done: bool) {
        let spent_us = u64::try_from(self.since.elapsed().as_micros()).unwrap_or(u64::MAX);
        let reports = std::mem::take(&mut self.reports);
        let ran = Ran { slot: self.slot, job: self.job, reports, spent_us, done };
        // The hub is gone only when the node stops; then nobody waits for the report.
        let _ = self.inputs.blocking_send(Input::Ran(ran));
        self.since = Instant::now();
    }
}

/// Where units of one job are run.
struct Bench<'a> {
    equipment: &'a Equipment,
    slot: &'a Slot,
    at: Option<Post>,
}

/// A runner set up for one submitter, module and limits.
struct Post {
    submitter: PeerId,
    module: BlobId,
    inputs: BlobId,
    limits: Limits,
    rows: Rows,
    /// The runner, or what is to be said of every unit because there is none.
    runner: Result<Runner, RunReport>,
}

const ENGINE: RunReport = RunReport::NoResult(NoResult::Engine);

impl Bench<'_> {
    fn run(&mut self, assignment: &Assignment, index: u32) -> Report {
        let report = self.run_in_sandbox(assignment, index).unwrap_or_else(|report| report);
        let result = match report {
            RunReport::Done { outcome, witness } => self.done(index, outcome, witness),
            RunReport::NoResult(why) => Err(why),
        };
        result.unwrap_or_else(|why| Report { index, result: Err(why), body: None })
    }

    fn run_in_sandbox(
        &mut self,
        assignment: &Assignment,
        index: u32,
    ) -> Result<RunReport, RunReport> {
        self.set_up(assignment)?;
        let post = self.at.as_mut().ok_or(ENGINE)?;
        let row = post.rows.row(index).ok_or(ENGINE)?;
        let runner = post.runner.as_mut().map_err(|report| report.clone())?;
        let id = UnitId::of(&assignment.id, index);
        let run = runner.run(&Unit { id, args: &row.args, stdin: &row.stdin });
        if runner.is_spent() {
            self.slot.lock().runner = None;
            self.at = None;
        }
        Ok(run.report)
    }

    /// Makes the runner one for this assignment.
    fn set_up(&mut self, assignment: &Assignment) -> Result<(), RunReport> {
        let job = &assignment.job;
        let fits = |post: &Post| {
            post.submitter == assignment.submitter
                && post.module == job.module
                && post.inputs == job.inputs
                && post.limits == job.limits
                && !matches!(&post.runner, Ok(runner) if runner.is_spent())
        };
        if self.at.as_ref().is_some_and(fits) {
            return Ok(());
        }
        self.slot.lock().runner = None;
        self.at = None;
        let rows = Rows::open(&self.equipment.store, &job.inputs).map_err(|error| {
            warn!("job {}: {error}", assignment.id.short());
            ENGINE
        })?;
        let runner = match self.start(job) {
            // Trying again costs little and may go better. Not so for what is the module's fault.
            Err(RunReport::NoResult(why)) if why != NoResult::TooCostlyToCompile => {
                return Err(RunReport::NoResult(why));
            }
            started => started,
        };
        if let Ok(runner) = &runner {
            let mut state = self.slot.lock();
            // Who stopped the slot while this was compiled found no runner to kill.
            if state.closing || state.skip > 0 {
                return Err(RunReport::NoResult(NoResult::Stopped));
            }
            state.runner = Some(runner.handle());
        }
        self.at = Some(Post {
            submitter: assignment.submitter,
            module: job.module,
            inputs: job.inputs,
            limits: job.limits,
            rows,
            runner,
        });
        Ok(())
    }

    fn start(&self, job: &Job) -> Result<Runner, RunReport> {
        let (sandbox, store) = (&self.equipment.sandbox, &self.equipment.store);
        let wasm = store.read(&Wanted::Blob(job.module)).ok_or(ENGINE)?;
        let artefact = sandbox.prepare(&job.module, &wasm).map_err(|refusal| {
            debug!("module {}: {refusal}", job.module.short());
            refusal.report()
        })?;
        sandbox.start(&artefact, &job.limits).map_err(|error| {
            warn!("no sandbox for module {}: {error}", job.module.short());
            error.report()
        })
    }

    /// Keeps the body where others can fetch it, unless it is small enough to travel with the
    /// receipt.
    fn done(&self, index: u32, outcome: Outcome, witness: Witness) -> Result<Report, NoResult> {
        let outcome = if self.equipment.cheat { lie(outcome) } else { outcome };
        let body = outcome.to_body();
        let result = BlobId::of(&body).result_hash();
        let small = body.len() <= ReceiptBatch::BODY_BYTES_MAX;
        if !small && let Err(error) = crate::fetch::keep_body(&self.equipment.store, &body) {
            warn!("an outcome is lost: {error}");
            return Err(NoResult::Engine);
        }
        if !small {
            // The hub is gone only when the node stops.
            let _ = self.equipment.inputs.blocking_send(Input::Holds(result, body.len() as u64));
        }
        let body = small.then(|| body.into());
        Ok(Report { index, result: Ok((result, witness)), body })
    }
}

/// A wrong answer of the right shape: what a cheat that skips the work would send.
fn lie(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Result { exit_code, mut stdout, files } => {
            match stdout.iter_mut().find(|byte| byte.is_ascii_digit()) {
                Some(digit) => *digit = b'0' + (*digit - b'0' + 1) % 10,
                None => stdout.push(b'!'),
            }
            Outcome::Result { exit_code, stdout, files }
        }
        Outcome::Fault(_) => {
            Outcome::Result { exit_code: 0, stdout: Vec::new(), files: Vec::new() }
        }
    }
}

#[cfg(test)]
mod tests {
    use potluck_unit::Fault;

    use super::*;

    #[test]
    fn a_lie_is_never_the_truth() {
        for stdout in [&b""[..], b"168\n", b"text", b"9"] {
            let truth = Outcome::Result { exit_code: 0, stdout: stdout.to_vec(), files: vec![] };
            assert_ne!(lie(truth.clone()), truth);
        }
        let fault = Outcome::Fault(Fault::Unreachable);
        assert_ne!(lie(fault.clone()), fault);
    }
}
