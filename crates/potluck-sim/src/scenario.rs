//! Scenarios: everything that decides how a world goes.

use potluck_peer::Chance;

/// Everything that decides how a world goes.
#[derive(Debug, Clone)]
pub struct Scenario {
    /// The test that runs it, for the command that repeats a failure.
    pub test: &'static str,
    /// Seeds every choice by chance, the peers' own included.
    pub seed: u64,
    /// The machines. The first one submits the job.
    pub machines: Vec<MachineSpec>,
    /// Units of the job.
    pub units: u32,
    /// k.
    pub copies: u8,
    /// How long a unit takes on a machine of speed 1000, in microseconds, from and to.
    pub unit_us: (u64, u64),
    /// What a unit may take, in milliseconds: the job's own limit.
    pub deadline_ms: u64,
    /// How many units in a thousand fail on a particular machine, and only there.
    pub no_result_per_mille: u64,
    /// When the job is submitted, in milliseconds.
    pub submit_at_ms: u64,
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
    /// Whether k cheats that agree may get a lie accepted. A world in which they do and may not is
    /// there to show that the oracle sees it.
    pub pacts_may_win: bool,
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
    /// What it does with the units it was given.
    pub conduct: Conduct,
}

/// What a machine does with the units it was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Conduct {
    /// Runs them and says what came out.
    Honest,
    /// Honest too, but none of its runs comes to a result.
    Fails,
    /// Says something else, so many times in a thousand, after having been honest a number of times.
    /// All machines of one pact tell the same lie.
    Lies {
        /// How often.
        per_mille: u64,
        /// Who lies alike. None lies like nobody else.
        pact: Option<u8>,
        /// Units run honestly first.
        after: u32,
    },
    /// Says what another said, without having run anything, if another has said something.
    Copies,
    /// Claims, and never delivers.
    Stalls,
    /// Runs them and says what came out, and gives no body to anybody.
    Withholds,
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
    /// A machine is gone for good.
    Dies {
        /// Which.
        machine: usize,
    },
    /// A machine's disk loses all bodies of outcomes.
    LosesBodies {
        /// Which.
        machine: usize,
    },
    /// The submitter crashes as soon as another holds its job, and comes back.
    SubmitterLeaves {
        /// How long it stays away, in milliseconds.
        for_ms: u64,
    },
}

impl Faults {
    /// A network without faults.
    pub const NONE: Faults =
        Faults { loss_per_mille: 0, twice_per_mille: 0, delay_ms: (1, 5), reorder: false };
}

impl MachineSpec {
    /// An honest machine with one slot.
    pub const WORKER: MachineSpec =
        MachineSpec { slots: 1, speed_per_mille: 1000, start_ms: 0, conduct: Conduct::Honest };
    /// A machine that only submits.
    pub const SUBMITTER: MachineSpec = MachineSpec { slots: 0, ..MachineSpec::WORKER };

    /// A machine with one slot and this conduct.
    pub fn with(conduct: Conduct) -> MachineSpec {
        MachineSpec { conduct, ..MachineSpec::WORKER }
    }
}

impl Scenario {
    /// A submitter and honest workers with a slot each, in a calm network.
    pub fn calm(test: &'static str, workers: usize, units: u32, copies: u8) -> Scenario {
        let mut machines = vec![MachineSpec::SUBMITTER];
        machines.extend(std::iter::repeat_n(MachineSpec::WORKER, workers));
        Scenario {
            test,
            seed: 1,
            machines,
            units,
            copies,
            unit_us: (200_000, 2_000_000),
            deadline_ms: 10_000,
            no_result_per_mille: 0,
            submit_at_ms: 3000,
            faults: Faults::NONE,
            churn: None,
            blows: Vec::new(),
            calm_at_ms: 0,
            end_ms: 30 * 60 * 1000,
            pacts_may_win: false,
        }
    }

    /// Fifty machines, one in ten a cheat of some kind, with a network and a fate drawn from `seed`.
    pub fn of_seed(seed: u64) -> Scenario {
        let mut chance = Chance::of_seed(seed ^ 0x5eed);
        // A copycat is in every liar's pact, so half of the worlds go without: there no lie may win.
        let copycats = chance.happens(500);
        let mut machines = vec![MachineSpec::SUBMITTER];
        for _ in 1..50 {
            machines.push(MachineSpec {
                slots: u16::from(!chance.happens(100)) + u16::from(chance.happens(200)),
                speed_per_mille: 300 + chance.below(1200),
                start_ms: chance.below(4000),
                conduct: conduct(&mut chance, copycats),
            });
        }
        let calm_at_ms = 18_000;
        let part = Blow::Part {
            first: 5 + usize::try_from(chance.below(40)).unwrap_or(0),
            for_ms: 3000 + chance.below(8000),
        };
        let crash = |chance: &mut Chance| Blow::Crash {
            machine: usize::try_from(chance.below(50)).unwrap_or(0),
            torn: true,
            down_ms: 500 + chance.below(7000),
        };
        let mut blows = vec![(5000 + chance.below(6000), part)];
        blows.extend((0..3).map(|_| (4000 + chance.below(12_000), crash(&mut chance))));
        if chance.happens(500) {
            blows.push((0, Blow::SubmitterLeaves { for_ms: 4000 + chance.below(12_000) }));
        }
        Scenario {
            seed,
            machines,
            unit_us: (100_000, 1_500_000),
            no_result_per_mille: chance.below(20),
            faults: Faults {
                loss_per_mille: chance.below(60),
                twice_per_mille: chance.below(20),
                delay_ms: (1, 20 + chance.below(200)),
                reorder: chance.happens(300),
            },
            churn: Some(Churn { every_ms: (500, 3000), down_ms: (300, 8000) }),
            blows,
            calm_at_ms,
            end_ms: calm_at_ms + 10 * 60 * 1000,
            pacts_may_win: copycats,
            ..Scenario::calm("one_seed", 0, 32, 2)
        }
    }
}

/// One machine in ten cheats, each kind as often.
fn conduct(chance: &mut Chance, copycats: bool) -> Conduct {
    if !chance.happens(100) {
        return Conduct::Honest;
    }
    match chance.below(if copycats { 5 } else { 4 }) {
        0 => Conduct::Lies { per_mille: 1000, pact: None, after: 0 },
        1 => Conduct::Lies { per_mille: 300, pact: None, after: 0 },
        2 => Conduct::Lies { per_mille: 1000, pact: None, after: 3 },
        3 => Conduct::Stalls,
        _ => Conduct::Copies,
    }
}
