//! Mixed worlds: everything that can go wrong at once, drawn from a seed.

use potluck_peer::Chance;
use potluck_unit::{Job, Quality};

use crate::scenario::{
    Blow, Churn, Conduct, Done, Faults, JobSpec, MachineSpec, Promises, Scenario,
};

/// Faults end, and all must become well.
const CALM_AT_MS: u64 = 18_000;
/// All must be well so long after that. Bodies whose holders withhold them are made anew last: by
/// keepers that do not look before ten minutes and ask five times, five minutes apart.
const PATIENCE_MS: u64 = 2 * 3600 * 1000;

impl Scenario {
    /// A world of 5 to 50 machines, most of them small, with one to four jobs, a few cheats of any
    /// kind, and a network and a fate drawn from `seed`.
    pub fn of_seed(seed: u64) -> Scenario {
        let mut chance = Chance::of_seed(seed ^ 0x5eed);
        // Many small worlds find more than few large ones; some are large all the same.
        let most = [8, 8, 10, 12, 16, 50][index(&mut chance, 6)];
        let count = 5 + index(&mut chance, most - 4);
        // Cheats that may agree win where all voices on a unit are theirs. Half of the worlds are
        // without: there no lie may ever be accepted.
        let agree = chance.happens(500);
        let clocks = chance.happens(500);
        let narrow = chance.happens(200);
        let mut machines: Vec<MachineSpec> =
            (0..count).map(|number| machine(&mut chance, number, clocks, narrow)).collect();
        for _ in 0..=chance.below(count as u64 / 5) {
            // The first few are honest: they submit, and everybody is told to join them.
            let number = 3 + index(&mut chance, count - 3);
            let spec = &mut machines[number];
            spec.conduct = cheat(&mut chance, agree, count);
            spec.slots = spec.slots.max(1);
        }
        let promises = if agree { Promises::BUT_LIES } else { Promises::ALL };
        let jobs: Vec<JobSpec> =
            (0..=chance.below(4)).map(|number| job(&mut chance, number)).collect();
        Scenario {
            seed,
            no_result_per_mille: chance.below(20),
            faults: Faults {
                loss_per_mille: chance.below(60),
                twice_per_mille: chance.below(20),
                delay_ms: (1, 20 + chance.below(200)),
                reorder: chance.happens(300),
            },
            churn: chance
                .happens(700)
                .then_some(Churn { every_ms: (1000, 6000), down_ms: (300, 8000) }),
            blows: blows(&mut chance, count, jobs.len()),
            machines,
            jobs,
            calm_at_ms: CALM_AT_MS,
            end_ms: CALM_AT_MS + PATIENCE_MS,
            promises: Promises { done: Done::Able, ..promises },
            ..Scenario::calm("one_seed", 0, 1, 2)
        }
    }
}

fn index(chance: &mut Chance, bound: usize) -> usize {
    usize::try_from(chance.below(bound.max(1) as u64)).unwrap_or(0)
}

fn machine(chance: &mut Chance, number: usize, clocks: bool, narrow: bool) -> MachineSpec {
    // Five minutes, and a second for the drift.
    let skew = |chance: &mut Chance| chance.below(598_001).cast_signed() - 299_000;
    let late = chance.happens(100);
    let slots = u16::from(!chance.happens(100)) + u16::from(chance.happens(200));
    MachineSpec {
        slots: if number == 0 { 0 } else { slots.max(u16::from(number < 4)) },
        speed_per_mille: 300 + chance.below(1200),
        start_ms: if late { chance.below(30_000) } else { chance.below(4000) },
        skew_ms: if clocks { skew(chance) } else { 0 },
        drift_ppm: if clocks { chance.below(401).cast_signed() - 200 } else { 0 },
        // Somebody must be there who can be dialled.
        hidden: number > 4 && chance.happens(200),
        up_per_s: if narrow { 50_000 + chance.below(1_000_000) } else { 0 },
        down_per_s: if narrow { 100_000 + chance.below(2_000_000) } else { 0 },
        conduct: Conduct::Honest,
        standing: 0,
    }
}

fn job(chance: &mut Chance, number: u64) -> JobSpec {
    let units = u32::try_from(1 + chance.below(if number == 0 { 48 } else { 24 })).unwrap_or(1);
    let submit_at_ms = 2000 + number * chance.below(6000);
    let closes = number > 0 && chance.happens(200);
    JobSpec {
        submitter: index(chance, 3),
        units,
        // One copy would make every lone liar right, and three need more machines than some have.
        copies: 2,
        quality: Quality::Standard,
        priority: u8::try_from(chance.below(u64::from(Job::PRIORITY_MAX) + 1)).unwrap_or(0),
        unit_us: (50_000, 200_000 + chance.below(1_500_000)),
        submit_at_ms,
        close_at_ms: closes.then(|| submit_at_ms + chance.below(20_000)),
        ..JobSpec::SMALL
    }
}

fn cheat(chance: &mut Chance, agree: bool, count: usize) -> Conduct {
    let lies = |per_mille, pact, after, job| Conduct::Lies { per_mille, pact, after, job };
    if agree && chance.happens(500) {
        return match chance.below(6) {
            0 => lies(1000, Some(1), 0, None),
            1 => Conduct::Colludes { pact: 1 },
            2 => Conduct::Races { pact: Some(1) },
            3 => Conduct::Accuses { victim: Some(index(chance, count)), pact: Some(1) },
            4 => Conduct::Swarms { keys: 4 },
            _ => Conduct::Copies,
        };
    }
    match chance.below(11) {
        0 => Conduct::LIAR,
        1 => lies(300, None, 0, None),
        2 => lies(1000, None, 3, None),
        3 => lies(1000, None, 0, Some(1)),
        4 => Conduct::Stalls,
        5 => Conduct::Withholds,
        6 => Conduct::Races { pact: None },
        7 => Conduct::Accuses { victim: None, pact: None },
        8 => Conduct::Eclipses { victim: index(chance, count), keys: 50 },
        9 => Conduct::Spams,
        _ => Conduct::BadCell { per_mille: 100 },
    }
}

fn blows(chance: &mut Chance, count: usize, jobs: usize) -> Vec<(u64, Blow)> {
    let mut blows = Vec::new();
    if chance.happens(500) {
        let part =
            Blow::Part { first: 1 + index(chance, count - 1), for_ms: 3000 + chance.below(8000) };
        blows.push((4000 + chance.below(7000), part));
    }
    for _ in 0..chance.below(4) {
        let machine = index(chance, count);
        let crash = Blow::Crash { machine, torn: true, down_ms: 500 + chance.below(7000) };
        blows.push((3000 + chance.below(13_000), crash));
    }
    if chance.happens(300) {
        let leaves =
            Blow::SubmitterLeaves { job: index(chance, jobs), for_ms: 4000 + chance.below(12_000) };
        blows.push((0, leaves));
    }
    if chance.happens(300) {
        // A submitter that lost what it had fetched would have to ask for it again: its user does.
        let machine = 3 + index(chance, count - 3);
        blows.push((5000 + chance.below(10_000), Blow::LoseOutputs { machine }));
    }
    // One of many may stay away for good.
    if count > 7 && chance.happens(200) {
        let machine = 4 + index(chance, count - 4);
        blows.push((3000 + chance.below(12_000), Blow::Die { machine }));
    }
    blows
}
