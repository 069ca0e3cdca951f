//! Many mixed worlds with everything that can go wrong at once.

use std::collections::{BTreeMap, BTreeSet};

use potluck_sim::{Conduct, Failure, Part, Promises, Scenario, run, shrink};

/// Worlds that every change must pass.
const SEEDS: u64 = 1000;

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// The parts to leave out, from the same command.
fn left_out() -> BTreeSet<Part> {
    let parts = std::env::var("POTLUCK_SIM_WITHOUT").unwrap_or_default();
    let parts = parts.split(',').filter(|part| !part.is_empty());
    parts.map(|part| part.parse().unwrap_or_else(|error| panic!("{error}"))).collect()
}

/// The seed to repeat, from the command that a failure prints. `POTLUCK_SIM_TOLD` says how many of
/// the last events to tell.
#[test]
fn one_seed() {
    let scenario = Scenario::of_seed(number("POTLUCK_SIM_SEED").unwrap_or(1));
    let told = number("POTLUCK_SIM_TOLD").unwrap_or(scenario.told);
    match run(Scenario { told, ..scenario.without(&left_out()) }) {
        Ok(summary) => eprintln!("{summary:?}"),
        Err(failure) => panic!("{failure}"),
    }
}

#[test]
fn a_thousand_mixed_worlds_keep_every_promise() {
    let seeds = number("POTLUCK_SIM_SEEDS").unwrap_or(SEEDS);
    let first = number("POTLUCK_SIM_FROM").unwrap_or(0);
    let threads = std::thread::available_parallelism().map_or(2, |count| count.get() as u64);
    let failures_of = |thread: u64| -> Vec<(u64, Failure)> {
        let seeds = (first..first + seeds).filter(|seed| seed % threads == thread);
        let failures = seeds.filter_map(|seed| {
            let failure = run(Scenario::of_seed(seed)).err()?;
            eprintln!("seed {seed}: {} at {} ms", failure.what, failure.at_ms);
            Some((seed, failure))
        });
        failures.collect()
    };
    let failures: Vec<(u64, Failure)> = std::thread::scope(|scope| {
        let spawned: Vec<_> =
            (0..threads).map(|thread| scope.spawn(move || failures_of(thread))).collect();
        spawned.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let count = failures.len();
    if let Some((seed, failure)) = failures.into_iter().next() {
        let least = shrink(&Scenario::of_seed(seed), failure);
        panic!(
            "{count} of {seeds} worlds failed; one of them, with all left out that can be: {least}"
        );
    }
}

/// Worlds that never met a kind of cheat or blow would keep every promise about it.
#[test]
fn the_mixed_worlds_meet_everything() {
    let mut met: BTreeMap<String, u32> = BTreeMap::new();
    let word = |text: String| text.split([' ', '{']).next().unwrap_or_default().to_owned();
    for seed in 0..SEEDS {
        let scenario = Scenario::of_seed(seed);
        let conducts = scenario.machines.iter().map(|machine| format!("{:?}", machine.conduct));
        let blows = scenario.blows.iter().map(|(_, blow)| format!("{blow:?}"));
        let kinds: BTreeSet<String> = conducts.chain(blows).map(word).collect();
        let machines = &scenario.machines;
        let faults = [
            ("churn", scenario.churn.is_some()),
            ("loss", scenario.faults.loss_per_mille > 0),
            ("reorder", scenario.faults.reorder),
            ("clocks", machines.iter().any(|machine| machine.skew_ms.abs() > 240_000)),
            ("hidden", machines.iter().any(|machine| machine.hidden)),
            ("bandwidth", machines.iter().any(|machine| machine.up_per_s > 0)),
            ("late", machines.iter().any(|machine| machine.start_ms > 10_000)),
            ("large", machines.len() > 40),
            ("four jobs", scenario.jobs.len() == 4),
            ("closing", scenario.jobs.iter().any(|job| job.close_at_ms.is_some())),
            ("other submitters", scenario.jobs.iter().any(|job| job.submitter > 0)),
        ];
        let faults = faults.into_iter().filter(|(_, is)| *is).map(|(name, _)| name.to_owned());
        kinds.into_iter().chain(faults).for_each(|kind| *met.entry(kind).or_default() += 1);
    }
    let kinds = [
        "Honest",
        "BadCell",
        "Lies",
        "Colludes",
        "Copies",
        "Stalls",
        "Withholds",
        "Races",
        "Accuses",
        "Swarms",
        "Eclipses",
        "Spams",
        "Crash",
        "Part",
        "SubmitterLeaves",
        "Die",
        "LoseOutputs",
        "churn",
        "loss",
        "reorder",
        "clocks",
        "hidden",
        "bandwidth",
        "late",
        "large",
        "four jobs",
        "closing",
        "other submitters",
    ];
    for kind in kinds {
        let times = met.get(kind).copied().unwrap_or(0);
        assert!(times >= 20, "{kind} is met in {times} worlds: {met:?}");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let hash = |seed| run(Scenario::of_seed(seed)).unwrap().trace;
    assert_eq!(hash(7), hash(7));
    assert_ne!(hash(7), hash(8));
}

/// Two racers that agree win in this world, which promises that nobody does.
#[test]
fn a_world_that_fails_is_shrunk_to_what_it_takes() {
    let mut scenario = Scenario { promises: Promises::ALL, ..Scenario::of_seed(7) };
    for machine in [3, 4] {
        scenario.machines[machine].conduct = Conduct::Races { pact: Some(9) };
    }
    let failure = run(scenario.clone()).unwrap_err();
    let least = shrink(&scenario, failure);
    assert!(least.what.starts_with("I1: "), "{least}");
    for part in ["churn", "loss", "blow:", "clocks"] {
        assert!(least.command.contains(part), "{part} is left out: {least}");
    }
    for part in ["cheat:3", "cheat:4"] {
        assert!(!least.command.contains(part), "{part} is what it takes: {least}");
    }
}
