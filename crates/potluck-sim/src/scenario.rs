//! Scenarios: everything that decides how a world goes.

use std::collections::BTreeSet;

use potluck_peer::Order;
use potluck_unit::{Job, Quality};

use crate::shrink::Part;
use crate::trace::LINES_MAX;

/// Everything that decides how a world goes.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The test that runs it, for the command that repeats a failure.
    pub test: &'static str,
    /// Seeds every choice by chance, the peers' own included.
    pub seed: u64,
    /// The machines. Those of the first few numbers are whom everybody is told to join.
    pub machines: Vec<MachineSpec>,
    /// The jobs, each submitted by some machine.
    pub jobs: Vec<JobSpec>,
    /// How many units in a thousand fail on a particular machine, and only there.
    pub no_result_per_mille: u64,
    /// What the network does.
    pub faults: Faults,
    /// Machines that crash and come back by chance.
    pub churn: Option<Churn>,
    /// What happens at a given time, in milliseconds.
    pub blows: Vec<(u64, Blow)>,
    /// When faults end and everything is up again, in milliseconds.
    pub calm_at_ms: u64,
    /// By when all must be well, in milliseconds.
    pub end_ms: u64,
    /// How many of its last events a world that fails tells in words.
    pub told: u64,
    /// What must hold.
    pub promises: Promises,
    /// Whether strangers take part, so that newcomers are on probation. Keys cost nothing all the same.
    pub open: bool,
    /// What was left out of it, to find the least that fails.
    pub without: BTreeSet<Part>,
}

/// What a world promises beyond what holds in every world. The oracle holds it to that.
#[derive(Debug, Clone, Copy)]
pub struct Promises {
    /// Whether cheats that agree may get a lie accepted where no honest peer has spoken. A world in
    /// which they do and may not is there to show that the oracle sees it.
    pub lies_may_win: bool,
    /// Units of one job that may end with a lie at its submitter, if any may.
    pub lies_final_max: u32,
    /// Units run by anybody until the end, if that is promised.
    pub executions_max: Option<u64>,
    /// Records on the disk of one honest machine.
    pub records_max: usize,
    /// What of the open jobs must be done by all in the end.
    pub done: Done,
}

/// What of the open jobs must be done by all in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Done {
    /// Every unit.
    All,
    /// Every unit that enough honest machines can run, and not so many can't that it may be given up.
    Able,
    /// Nothing.
    Nothing,
}

/// One job.
#[derive(Debug, Clone, Copy)]
pub struct JobSpec {
    /// The machine that submits it.
    pub submitter: usize,
    /// Its units.
    pub units: u32,
    /// k.
    pub copies: u8,
    /// How sure the submitter wants to be.
    pub quality: Quality,
    /// Which of the submitter's jobs goes first.
    pub priority: u8,
    /// How long a unit takes on a machine of speed 1000, in microseconds, from and to.
    pub unit_us: (u64, u64),
    /// What a unit may take, in milliseconds: the job's own limit.
    pub deadline_ms: u64,
    /// When it is submitted, in milliseconds.
    pub submit_at_ms: u64,
    /// When its submitter closes it, in milliseconds.
    pub close_at_ms: Option<u64>,
    /// How long after its submission it expires, in milliseconds.
    pub life_ms: u64,
    /// Whether its module finds the same everywhere, as it must.
    pub varies: Varies,
    /// Whether it is never submitted after all.
    pub absent: bool,
}

/// Where a module finds something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Varies {
    /// Nowhere: it is deterministic.
    Never,
    /// In each run.
    ByRun,
    /// On each machine, and there always the same.
    ByMachine,
}

/// One machine.
#[derive(Debug, Clone)]
pub struct MachineSpec {
    /// Slots it lends; 0 for one that only submits or watches.
    pub slots: u16,
    /// How fast it is: 1000 is as fast as the job says, 500 half of it.
    pub speed_per_mille: u64,
    /// When it is first started, in milliseconds.
    pub start_ms: u64,
    /// What it does with the units it was given, and what else it is up to.
    pub conduct: Conduct,
    /// Units that everybody else has seen it do well before the world began.
    pub standing: u32,
    /// How far its clock is ahead of the world's, or behind, in milliseconds.
    pub skew_ms: i64,
    /// How much its clock gains, or loses, in millionths.
    pub drift_ppm: i64,
    /// Whether it can't be dialled, like a machine behind a router.
    pub hidden: bool,
    /// Bytes a second that it can send; 0 for no limit.
    pub up_per_s: u64,
    /// Bytes a second that it can receive; 0 for no limit.
    pub down_per_s: u64,
}

/// What a machine does with the units it was given, and what else it is up to. The module on cheats
/// says of each what it tries and what must come of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conduct {
    /// Runs them and says what came out.
    Honest,
    /// Honest too, but none of its runs comes to a result.
    Fails,
    /// Honest too, but so many times in a thousand a bad memory cell makes its result wrong, and it
    /// does not know.
    BadCell {
        /// How often.
        per_mille: u64,
    },
    /// Says something else, so many times in a thousand, after having been honest a number of times.
    /// All machines of one pact tell the same lie.
    Lies {
        /// How often.
        per_mille: u64,
        /// Who lies alike. None lies like nobody else.
        pact: Option<u8>,
        /// Units run honestly first: a sleeper.
        after: u32,
        /// The one job it lies about, if it is after one: a heist.
        job: Option<usize>,
    },
    /// Lies like its pact, and only where it believes that the pact has a quorum to itself.
    Colludes {
        /// Whose keys are known to be the same owner's.
        pact: u8,
    },
    /// Says what another said, without having run anything, if another has said something.
    Copies,
    /// Claims, and never delivers.
    Stalls,
    /// Signs right results and gives nobody their bodies, nor anything else.
    Withholds,
    /// Forges lies about every unit at once, without a seat or a claim.
    Races {
        /// Who lies alike. None lies like nobody else.
        pact: Option<u8>,
    },
    /// Forges dissent about what others did right, and proofs that they did not do it: about one
    /// machine's work, or anybody's.
    Accuses {
        /// Whose work.
        victim: Option<usize>,
        /// Who says the same. None says what nobody else does.
        pact: Option<u8>,
    },
    /// One machine that comes with many keys at once and lies with all of them.
    Swarms {
        /// How many.
        keys: u16,
    },
    /// Fills the victim's contacts with keys of its own, sits in its places for neighbours, and says
    /// nothing that matters to it.
    Eclipses {
        /// Whom.
        victim: usize,
        /// How many keys.
        keys: u16,
    },
    /// Floods everybody with claims, contacts, receipts, jobs and rubbish.
    Spams,
}

/// What the network does.
#[derive(Debug, Clone, Copy)]
pub struct Faults {
    /// Messages lost in a thousand.
    pub loss_per_mille: u64,
    /// Messages delivered twice in a thousand.
    pub twice_per_mille: u64,
    /// How long a message takes, in milliseconds, from and to.
    pub delay_ms: (u64, u64),
    /// Whether messages overtake each other.
    pub reorder: bool,
}

/// Machines that crash and come back.
#[derive(Debug, Clone, Copy)]
pub struct Churn {
    /// How long until the next crash, in milliseconds, from and to.
    pub every_ms: (u64, u64),
    /// How long a machine stays down, in milliseconds, from and to.
    pub down_ms: (u64, u64),
}

/// Something that happens at a given time.
#[derive(Debug, Clone)]
pub enum Blow {
    /// A machine crashes, as by `kill -9`, and comes back.
    Crash {
        /// Which.
        machine: usize,
        /// In the middle of its next turn: before what it decided there was on disk or said.
        torn: bool,
        /// How long it stays down, in milliseconds.
        down_ms: u64,
    },
    /// The machines below `first` and the others no longer reach each other.
    Part {
        /// The first machine on the other side.
        first: usize,
        /// For how long, in milliseconds.
        for_ms: u64,
    },
    /// The submitter of a job crashes as soon as another holds the job, and comes back.
    SubmitterLeaves {
        /// The job.
        job: usize,
        /// How long it stays away, in milliseconds.
        for_ms: u64,
    },
    /// A machine crashes and never comes back.
    Die {
        /// Which.
        machine: usize,
    },
    /// The owner of a machine tells it something. It is forgotten in a crash.
    Tell {
        /// Which.
        machine: usize,
        /// What.
        order: Order,
    },
    /// A machine loses the outcomes it kept as blobs, and does not know.
    LoseOutputs {
        /// Which.
        machine: usize,
    },
}

impl Faults {
    /// A network without faults.
    pub const NONE: Faults =
        Faults { loss_per_mille: 0, twice_per_mille: 0, delay_ms: (1, 5), reorder: false };
}

impl MachineSpec {
    /// An honest machine with one slot.
    pub const WORKER: MachineSpec = MachineSpec {
        slots: 1,
        speed_per_mille: 1000,
        start_ms: 0,
        conduct: Conduct::Honest,
        standing: 0,
        skew_ms: 0,
        drift_ppm: 0,
        hidden: false,
        up_per_s: 0,
        down_per_s: 0,
    };
    /// A machine that only submits.
    pub const SUBMITTER: MachineSpec = MachineSpec { slots: 0, ..MachineSpec::WORKER };

    /// A machine with one slot and this conduct.
    pub fn with(conduct: Conduct) -> MachineSpec {
        MachineSpec { conduct, ..MachineSpec::WORKER }
    }
}

impl Conduct {
    /// Always lies, like nobody else.
    pub const LIAR: Conduct = Conduct::Lies { per_mille: 1000, pact: None, after: 0, job: None };

    /// Whether whoever does this means well, and nothing is wrong with the machine: nobody honest may
    /// ever convict it.
    pub fn is_blameless(self) -> bool {
        match self {
            Conduct::Honest | Conduct::Fails => true,
            Conduct::BadCell { .. }
            | Conduct::Lies { .. }
            | Conduct::Colludes { .. }
            | Conduct::Copies
            | Conduct::Stalls
            | Conduct::Withholds
            | Conduct::Races { .. }
            | Conduct::Accuses { .. }
            | Conduct::Swarms { .. }
            | Conduct::Eclipses { .. }
            | Conduct::Spams => false,
        }
    }
}

impl JobSpec {
    /// A small job of the first machine.
    pub const SMALL: JobSpec = JobSpec {
        submitter: 0,
        units: 30,
        copies: 2,
        quality: Quality::Standard,
        priority: Job::PRIORITY_USUAL,
        unit_us: (200_000, 2_000_000),
        deadline_ms: 10_000,
        submit_at_ms: 3000,
        close_at_ms: None,
        life_ms: Job::LIFE_MAX_MS,
        varies: Varies::Never,
        absent: false,
    };
}

impl Promises {
    /// No lie ever, everything done, and no more on disk than small worlds need.
    pub const ALL: Promises = Promises {
        lies_may_win: false,
        lies_final_max: 0,
        executions_max: None,
        // Four times what the worst of 1,000 mixed worlds needs.
        records_max: 10_000,
        done: Done::All,
    };
    /// What lies of cheats that agree may come to.
    pub const BUT_LIES: Promises =
        Promises { lies_may_win: true, lies_final_max: u32::MAX, ..Promises::ALL };
}

impl Scenario {
    /// A submitter with one job and honest workers with a slot each, in a calm network.
    pub fn calm(test: &'static str, workers: usize, units: u32, copies: u8) -> Scenario {
        let mut machines = vec![MachineSpec::SUBMITTER];
        machines.extend(std::iter::repeat_n(MachineSpec::WORKER, workers));
        let quality = if copies == 1 { Quality::Bulk } else { Quality::Standard };
        Scenario {
            test,
            seed: 1,
            machines,
            jobs: vec![JobSpec { units, copies, quality, ..JobSpec::SMALL }],
            no_result_per_mille: 0,
            faults: Faults::NONE,
            churn: None,
            blows: Vec::new(),
            calm_at_ms: 0,
            end_ms: 30 * 60 * 1000,
            told: LINES_MAX as u64,
            promises: Promises::ALL,
            open: false,
            without: BTreeSet::new(),
        }
    }

    /// The command that repeats it.
    pub fn command(&self) -> String {
        let Scenario { seed, test, .. } = self;
        let parts: Vec<String> = self.without.iter().map(Part::to_string).collect();
        let without = match parts.join(",") {
            none if none.is_empty() => none,
            parts => format!(" POTLUCK_SIM_WITHOUT={parts}"),
        };
        format!("POTLUCK_SIM_SEED={seed}{without} cargo test -p potluck-sim {test} -- --nocapture")
    }

    /// The same with another job instead of the first.
    pub fn with_job(mut self, change: impl FnMut(&mut JobSpec)) -> Scenario {
        self.jobs.iter_mut().take(1).for_each(change);
        self
    }

    /// The same with one more machine of this conduct, which lends a slot.
    pub fn and(mut self, conduct: Conduct) -> Scenario {
        self.machines.push(MachineSpec::with(conduct));
        self
    }
}
