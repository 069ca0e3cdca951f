//! Where the units of one job are run: a runner for one submitter, module and limits, set up within
//! the memory and the disk that are lent.

use std::time::{Duration, Instant};

use potluck_peer::Report;
use potluck_sandbox::{Artefact, Runner, Sandbox, Unit};
use potluck_unit::{
    BlobId, Job, Limits, NoResult, Outcome, PeerId, ReceiptBatch, RunReport, UnitId, Witness,
};
use tracing::{debug, warn};

use super::memory::{Memory, Refused};
use super::{Assignment, Crew, Equipment, Slot};
use crate::hub::Input;
use crate::inputs::Rows;
use crate::net::Wanted;
use crate::store::Room;

/// Where units of one job are run.
pub(super) struct Bench<'a> {
    number: u16,
    equipment: &'a Equipment,
    /// The equipment's sandbox, on this slot's leash.
    sandbox: Sandbox,
    crew: &'a Crew,
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
const STOPPED: RunReport = RunReport::NoResult(NoResult::Stopped);

impl<'a> Bench<'a> {
    pub(super) fn new(
        number: u16,
        slot: &'a Slot,
        crew: &'a Crew,
        equipment: &'a Equipment,
    ) -> Bench<'a> {
        let sandbox = equipment.sandbox.clone().on(&slot.leash);
        Bench { number, equipment, sandbox, crew, slot, at: None }
    }

    /// Gives back what the runner takes.
    pub(super) fn clear(&mut self) {
        self.at = None;
        self.crew.memory.give_back(self.number);
    }

    pub(super) fn run(&mut self, assignment: &Assignment, index: u32) -> Report {
        // Before the work and not after it: what is found must have a place to stay.
        let Some(room) = self.room(&assignment.job.limits) else {
            return Report { index, result: Err(NoResult::Stopped), body: None };
        };
        let report = self.run_in_sandbox(assignment, index).unwrap_or_else(|report| report);
        let result = match report {
            RunReport::Done { outcome, witness } => self.done(index, outcome, witness, room),
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
            self.clear();
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
        self.clear();
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
        // Who stopped the slot before there was a runner found none to kill.
        if self.slot.gives_up() {
            drop(runner);
            self.crew.memory.give_back(self.number);
            return Err(STOPPED);
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
        let wasm = self.equipment.store.read(&Wanted::Blob(job.module)).ok_or(ENGINE)?;
        let artefact = self.prepare(&job.module, &wasm)?;
        drop(wasm);
        self.take(Memory::of_runner(&job.limits))?;
        let started = self.sandbox.start(&artefact, &job.limits).map_err(|error| {
            warn!("no sandbox for module {}: {error}", job.module.short());
            error.report()
        });
        if started.is_err() {
            self.crew.memory.give_back(self.number);
        }
        started
    }

    fn prepare(&self, module: &BlobId, wasm: &[u8]) -> Result<Artefact, RunReport> {
        let refused = |refusal: potluck_sandbox::Refusal| {
            debug!("module {}: {refusal}", module.short());
            refusal.report()
        };
        if let Some(artefact) = self.sandbox.prepared(module, wasm).map_err(refused)? {
            return Ok(artefact);
        }
        let bytes = self.crew.memory.of_compiler();
        self.take(bytes)?;
        let compiled = self.sandbox.prepare_within(module, wasm, bytes);
        self.crew.memory.give_back(self.number);
        compiled.map_err(refused)
    }

    /// Waits for so much memory. Without it, a unit is handed back as it was.
    fn take(&self, bytes: u64) -> Result<(), RunReport> {
        let (crew, slot) = (self.crew, self.slot);
        let taken = crew.memory.take(self.number, bytes, || crew.shed_idle(), || slot.gives_up());
        taken.map_err(|refused| {
            match refused {
                Refused::TooMuch { lent } => warn!(
                    "a unit is handed back: it may take {bytes} bytes of memory and {lent} are \
                     lent for units; raise memory in potluck.toml"
                ),
                Refused::NoRoom => debug!("a unit is handed back: others use the memory"),
                Refused::GaveUp => {}
            }
            STOPPED
        })
    }

    /// Waits for room on the disk for the largest outcome there can be, but not for ever.
    fn room(&self, limits: &Limits) -> Option<Room> {
        let bytes = limits.output_max_bytes.saturating_add(limits.out_max_bytes);
        let until = Instant::now() + ROOM_WAIT_MAX;
        loop {
            match self.equipment.store.reserve(bytes.saturating_add(BODY_HEAD_BYTES)) {
                Ok(room) => return Some(room),
                Err(error) if Instant::now() >= until => {
                    warn!("a unit is handed back: {error}");
                    return None;
                }
                Err(_) if self.slot.gives_up() => return None,
                Err(_) => self.slot.wait(DISK_RETRY),
            }
        }
    }

    /// Keeps the body where others can fetch it, unless it is small enough to travel with the
    /// receipt.
    fn done(
        &self,
        index: u32,
        outcome: Outcome,
        witness: Witness,
        room: Room,
    ) -> Result<Report, NoResult> {
        let outcome = if self.equipment.cheat { lie(outcome) } else { outcome };
        let body = outcome.to_body();
        drop(outcome);
        let result = BlobId::of(&body).result_hash();
        let small = body.len() <= ReceiptBatch::BODY_BYTES_MAX;
        if !small {
            self.keep(&body, room)?;
            // The hub is gone only when the node stops.
            let _ = self.equipment.inputs.blocking_send(Input::Holds(result, body.len() as u64));
        }
        let body = small.then(|| body.into());
        Ok(Report { index, result: Ok((result, witness)), body })
    }

    /// Keeps a body, and tries again for as long as it takes where the disk itself has filled up:
    /// the work is done.
    fn keep(&self, body: &[u8], room: Room) -> Result<(), NoResult> {
        let mut room = Some(room);
        loop {
            let kept = crate::fetch::keep_body(&self.equipment.store, body, room.take());
            match kept {
                Ok(()) => return Ok(()),
                Err(error) if error.is_full() && !self.slot.gives_up() => {
                    warn!("an outcome waits: {error}");
                    self.slot.wait(DISK_RETRY);
                }
                Err(error) => {
                    warn!("an outcome is lost: {error}");
                    let full = error.is_full();
                    return Err(if full { NoResult::Stopped } else { NoResult::Engine });
                }
            }
        }
    }
}

/// How long room on the disk is waited for. Others then get to run the unit.
const ROOM_WAIT_MAX: Duration = Duration::from_secs(60);
/// How long after the disk was full it is tried again.
const DISK_RETRY: Duration = Duration::from_secs(1);
/// What a body has beside output and files.
const BODY_HEAD_BYTES: u64 = 64 << 10;

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
