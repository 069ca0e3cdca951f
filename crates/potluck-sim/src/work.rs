//! The work of a world: its jobs, what is true of their units, and what units cost.

use std::collections::BTreeMap;

use potluck_peer::{Event, Need};
use potluck_unit::{
    BlobId, Close, Identity, Job, JobId, Key, Limits, Record, ResultHash, Signed, Time, UnitId,
};

use crate::guest::{self, Guest};
use crate::machine::Machine;
use crate::scenario::{Conduct, JobSpec, Scenario, Varies};
use crate::world::{Happening, World};

/// Every job of a world that is meant to be done. What spammers submit is not among them.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) seed: u64,
    pub(crate) no_result_per_mille: u64,
    pub(crate) jobs: Vec<Task>,
    by_id: BTreeMap<JobId, usize>,
}

/// One job, and what is true of its units.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) spec: JobSpec,
    pub(crate) record: Signed,
    pub(crate) close: Signed,
    pub(crate) id: JobId,
    pub(crate) truth: Vec<ResultHash>,
}

impl Task {
    /// Whether it expires within what a world may last, so that all must have forgotten it then.
    pub(crate) fn expires_soon(&self) -> bool {
        self.spec.life_ms < Job::LIFE_MAX_MS
    }

    /// Whether it has expired by everybody's clock.
    pub(crate) fn is_over(&self, now: Time) -> bool {
        match self.record.record() {
            Record::Job(job) => job.expires.plus_ms(SKEW_MAX_MS) < now,
            Record::Claim(_)
            | Record::Receipts(_)
            | Record::Close(_)
            | Record::Proof(_)
            | Record::Contact(_) => false,
        }
    }
}

/// How far clocks of a world are off at most.
const SKEW_MAX_MS: u64 = 5 * 60 * 1000;

impl Work {
    /// The jobs of a scenario, signed by the keys of their submitters by whose clocks they are made.
    pub(crate) fn of(scenario: &Scenario, sign: impl Fn(&JobSpec) -> (Key, Time)) -> Work {
        let mut work = Work {
            seed: scenario.seed,
            no_result_per_mille: scenario.no_result_per_mille,
            jobs: Vec::new(),
            by_id: BTreeMap::new(),
        };
        for (number, spec) in scenario.jobs.iter().enumerate() {
            let (key, created) = sign(spec);
            let record = Record::Job(job(scenario, spec, number, created));
            let record = Signed::sign(&key, record);
            let id = record.job_id().unwrap_or(JobId([0; 32]));
            let close = Signed::sign(&key, Record::Close(Close { job: id, results: None }));
            let truth = (0..spec.units)
                .map(|index| Guest::of(&UnitId::of(&id, index), index).result)
                .collect();
            work.by_id.insert(id, number);
            work.jobs.push(Task { spec: *spec, record, close, id, truth });
        }
        work
    }

    /// The number of a job.
    pub(crate) fn number(&self, id: &JobId) -> Option<usize> {
        self.by_id.get(id).copied()
    }

    /// A job.
    pub(crate) fn task(&self, id: &JobId) -> Option<&Task> {
        self.by_id.get(id).map(|number| &self.jobs[*number])
    }

    /// How long a unit takes at full speed, in microseconds. The same for everybody.
    pub(crate) fn cost_us(&self, id: &JobId, index: u32) -> u64 {
        let number = self.number(id).unwrap_or(0);
        let unit_us = self.jobs.get(number).map_or((1000, 1000), |task| task.spec.unit_us);
        guest::cost_us(self.seed ^ (number as u64) << 32, index, unit_us)
    }

    /// Whether a unit fails on this machine, and only there.
    pub(crate) fn fails(&self, machine: &Machine, index: u32) -> bool {
        machine.spec.conduct == Conduct::Fails
            || guest::fails_here(self.seed, machine.number, index, self.no_result_per_mille)
    }

    /// What an honest run on a machine finds.
    pub(crate) fn run(&self, id: &JobId, index: u32, machine: &Machine) -> Guest {
        let unit = UnitId::of(id, index);
        let place = machine.number as u64;
        match self.task(id).map_or(Varies::Never, |task| task.spec.varies) {
            Varies::Never => Guest::of(&unit, index),
            Varies::ByRun => Guest::lie(&unit, index, place << 32 | u64::from(machine.runs)),
            Varies::ByMachine => Guest::lie(&unit, index, place),
        }
    }
}

impl World {
    /// A user submits a job.
    pub(crate) fn submit(&mut self, job: usize) -> Result<(), String> {
        let task = &self.work.jobs[job];
        let (machine, record) = (task.spec.submitter, task.record.clone());
        let place = &mut self.machines[machine];
        let known = place.peer.as_ref().map(|peer| peer.job(&task.id).is_some());
        match known {
            Some(true) => return Ok(()),
            None if place.dead => return Ok(()),
            None => {}
            Some(false) => {
                if let Record::Job(job) = record.record() {
                    place.disk.blobs.extend([job.module, job.inputs]);
                }
                self.tell(machine, Event::Submitted { record }, "submitted", machine, job as u64)?;
            }
        }
        // Unless a crash came in between: then the user tries again.
        self.happens_in(1000, Happening::Submit { job });
        Ok(())
    }

    /// Its submitter closes a job.
    pub(crate) fn close(&mut self, job: usize) -> Result<(), String> {
        let task = &self.work.jobs[job];
        let (machine, record) = (task.spec.submitter, task.close.clone());
        let peer = self.machines[machine].peer.as_ref();
        let closed = peer.and_then(|peer| peer.job(&task.id)).is_some_and(|status| status.closed);
        if closed || self.machines[machine].dead {
            return Ok(());
        }
        self.tell(machine, Event::Submitted { record }, "closed", machine, job as u64)?;
        self.happens_in(1000, Happening::Close { job });
        Ok(())
    }
}

/// The bytes of what is fetched, for links of a given width. Outcomes are bounded by what guests
/// make of them.
pub(crate) fn bytes(need: &Need) -> u64 {
    match need {
        Need::Module { bytes, .. } | Need::Inputs { bytes, .. } => u64::from(*bytes),
        Need::Body { .. } => guest::BODY_BYTES as u64,
    }
}

fn job(scenario: &Scenario, spec: &JobSpec, number: usize, created: Time) -> Job {
    let blob = |kind: u8| {
        let mut id = [kind; 32];
        id[..8].copy_from_slice(&(number as u64).to_le_bytes());
        BlobId(id)
    };
    let workers = scenario.machines.iter().filter(|machine| machine.slots > 0).count();
    Job {
        created,
        expires: created.plus_ms(spec.life_ms),
        nonce: scenario.seed.wrapping_add(number as u64),
        module: blob(1),
        module_bytes: 100_000,
        inputs: blob(2),
        inputs_bytes: 100,
        units: spec.units,
        limits: Limits { deadline_ms: spec.deadline_ms, ..Limits::DEFAULT },
        copies: spec.copies,
        quality: spec.quality,
        peers: u32::try_from(workers).unwrap_or(u32::MAX).clamp(1, Job::PEERS_MAX),
        priority: spec.priority,
        label: String::new(),
        identity: Identity::NONE,
        extras: Vec::new(),
    }
}
