//! Slots with a store and no node around them: so that a measurement can tell what they cost and
//! how they obey.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use potluck_sandbox::{Program, Sandbox};
use potluck_unit::{
    BlobId, Identity, InputTable, Job, JobId, Limits, NoResult, PeerId, Quality, Row, Time,
};
use tokio::sync::mpsc;

use super::{Assignment, Equipment, Lent, Slots};
use crate::SANDBOX_VERB;
use crate::hub::Input;
use crate::store::Store;

/// Slots as a node has them.
#[derive(Debug)]
pub struct Rig {
    slots: Slots,
    store: Store,
    counts: Arc<Counts>,
    jobs: AtomicU64,
}

/// How units have ended.
#[derive(Debug, Default)]
struct Counts {
    done: AtomicU64,
    stopped: AtomicU64,
    failed: AtomicU64,
    assignments: AtomicU64,
}

impl Rig {
    /// Starts slots whose children are `program`, with a data folder. The error is for a person.
    pub fn start(program: PathBuf, data: &Path, slots: u16) -> Result<Rig, String> {
        let (store, _key) = Store::open(data).map_err(|error| error.to_string())?;
        let program = Program { path: program, args: vec![SANDBOX_VERB.into()] };
        let (inputs, mut events) = mpsc::channel(EVENTS_MAX);
        let equipment = Equipment {
            sandbox: Sandbox::new(program, data.join("artefacts")),
            store: store.clone(),
            inputs,
            cheat: false,
        };
        let counts = Arc::new(Counts::default());
        let of_thread = counts.clone();
        // Ends with the last slot's thread.
        std::thread::spawn(move || {
            while let Some(input) = events.blocking_recv() {
                of_thread.count(&input);
            }
        });
        let slots = Slots::start(slots, &equipment).map_err(|error| error.to_string())?;
        Ok(Rig { slots, store, counts, jobs: AtomicU64::new(0) })
    }

    /// Has a slot run so many units of a module without input. The error is for a person.
    pub fn assign(&self, slot: u16, wasm: &[u8], limits: Limits, units: u32) -> Result<(), String> {
        let put = |bytes: &[u8]| self.store.put_blob(bytes).map_err(|error| error.to_string());
        let rows = vec![Row::default(); units as usize];
        let table = InputTable::of_rows(&rows).map_err(|error| error.to_string())?;
        for page in &table.pages {
            put(page)?;
        }
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let number = self.jobs.fetch_add(1, Ordering::Relaxed);
        let job = Job {
            created: Time(0),
            expires: Time(1),
            nonce: number,
            module: put(wasm)?,
            module_bytes: length(wasm),
            inputs: put(&table.index)?,
            inputs_bytes: length(&table.index),
            units,
            limits,
            copies: 1,
            quality: Quality::Bulk,
            peers: 1,
            priority: Job::PRIORITY_USUAL,
            label: String::new(),
            identity: Identity::NONE,
            extras: Vec::new(),
        };
        let id = JobId(*BlobId::of(&number.to_le_bytes()).as_bytes());
        let (submitter, units) = (PeerId([0; 32]), (0..units).collect());
        self.slots.assign(slot, Assignment { id, submitter, job: Arc::new(job), units });
        Ok(())
    }

    /// Changes what is lent.
    pub fn lend(&self, lent: Lent) {
        self.slots.lend(lent);
    }

    /// Stops everything where it is.
    pub fn suspend(&self) {
        self.slots.suspend();
    }

    /// Lets everything go on.
    pub fn resume(&self) {
        self.slots.resume();
    }

    /// Gives back the memory of what stands still.
    pub fn release(&self) {
        self.slots.release();
    }

    /// Whether a unit under these limits fits beside what runs.
    pub fn fits(&self, limits: &Limits) -> bool {
        self.slots.fits(limits)
    }

    /// What is used on disk, and why nothing more is taken in, if nothing is.
    pub fn disk(&self) -> (u64, Option<String>) {
        let disk = self.slots.disk();
        (disk.used, disk.full)
    }

    /// Processor time used so far by all slots, their children and what feeds them.
    pub fn used(&self) -> Duration {
        self.slots.used()
    }

    /// The process ids of all children.
    pub fn pids(&self) -> Vec<u32> {
        self.slots.pids()
    }

    /// How many units have a result, came back as not run, and failed.
    pub fn ended(&self) -> (u64, u64, u64) {
        let of = |count: &AtomicU64| count.load(Ordering::SeqCst);
        (of(&self.counts.done), of(&self.counts.stopped), of(&self.counts.failed))
    }

    /// How many assignments have been worked off or handed back.
    pub fn assignments_ended(&self) -> u64 {
        self.counts.assignments.load(Ordering::SeqCst)
    }

    /// Kills what runs and ends the slots.
    pub fn close(self) {
        self.slots.close();
    }
}

impl Counts {
    fn count(&self, input: &Input) {
        let Input::Ran(ran) = input else { return };
        for report in &ran.reports {
            let count = match report.result {
                Ok(_) => &self.done,
                Err(NoResult::Stopped) => &self.stopped,
                Err(_) => &self.failed,
            };
            count.fetch_add(1, Ordering::SeqCst);
        }
        self.assignments.fetch_add(u64::from(ran.done), Ordering::SeqCst);
    }
}

/// Reports that wait to be counted.
const EVENTS_MAX: usize = 1024;
