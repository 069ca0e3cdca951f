//! One thing going wrong at a time, and what must come of it.

use std::collections::BTreeSet;

use potluck_peer::Verdict;
use potluck_sim::{Blow, Conduct, Faults, MachineSpec, Scenario, Summary, World, run};

const LIAR: Conduct = Conduct::Lies { per_mille: 1000, pact: None, after: 0 };

fn ends_well(scenario: Scenario) -> Summary {
    match run(scenario) {
        Ok(summary) => summary,
        Err(failure) => panic!("{failure}"),
    }
}

#[test]
fn a_submitter_that_left_at_once_finds_all_results_when_it_returns() {
    let leaves = vec![(0, Blow::SubmitterLeaves { for_ms: 300_000 })];
    let scenario = Scenario {
        blows: leaves,
        calm_at_ms: 310_000,
        ..Scenario::calm("a_submitter_that_left", 4, 50, 2)
    };
    let mut world = World::new(scenario);
    let summary = world.run().unwrap_or_else(|failure| panic!("{failure}"));
    // What was done while it was away is not done again.
    assert!((100..=120).contains(&summary.executions), "{} with audits", summary.executions);
}

#[test]
fn everybody_killed_at_once_forgets_nothing() {
    for seed in 0..5 {
        let crash = |machine| Blow::Crash { machine, torn: machine % 2 == 0, down_ms: 2000 };
        let blows =
            [8000, 20_000].into_iter().flat_map(|at| (0..6).map(move |m| (at, crash(m)))).collect();
        let scenario = Scenario { seed, blows, ..Scenario::calm("everybody_killed", 5, 60, 2) };
        let summary = ends_well(scenario);
        assert!(summary.executions < 160, "{summary:?}");
    }
}

#[test]
fn two_halves_finish_together_after_a_partition() {
    for seed in 0..5 {
        let blows = vec![(6000, Blow::Part { first: 4, for_ms: 60_000 })];
        ends_well(Scenario { seed, blows, ..Scenario::calm("two_halves", 7, 100, 3) });
    }
}

/// Cut for so long that each half has found all the neighbours it wants on its own side.
#[test]
fn two_contented_halves_find_together_again() {
    let blows = vec![(30_000, Blow::Part { first: 30, for_ms: 600_000 })];
    let scenario = Scenario {
        blows,
        submit_at_ms: 900_000,
        end_ms: 1_000_000,
        ..Scenario::calm("two_contented_halves", 59, 30, 2)
    };
    ends_well(scenario);
}

#[test]
fn a_job_that_wants_more_copies_than_there_are_workers_waits_for_a_newcomer() {
    let mut scenario = Scenario::calm("a_job_that_wants_more", 2, 20, 3);
    scenario.machines.push(MachineSpec { start_ms: 200_000, ..MachineSpec::WORKER });
    let summary = ends_well(scenario);
    assert!(summary.ended_ms > 200_000);
    assert_eq!(summary.executions, 60);
}

#[test]
fn a_lone_liar_is_never_believed_and_always_convicted() {
    for seed in 0..5 {
        let mut scenario = Scenario { seed, ..Scenario::calm("a_lone_liar", 4, 40, 2) };
        scenario.machines.push(MachineSpec::with(LIAR));
        assert_eq!(ends_well(scenario).convictions, 5, "four workers and the submitter");
    }
}

/// The submitter's own machine can't run the units that are disputed, so it never learns who lies.
#[test]
fn a_submitter_that_can_not_run_disputed_units_gets_every_result_all_the_same() {
    for seed in 0..5 {
        let mut scenario = Scenario { seed, ..Scenario::calm("a_blind_submitter", 4, 40, 2) };
        scenario.machines[0].conduct = Conduct::Fails;
        scenario.machines.push(MachineSpec::with(LIAR));
        assert_eq!(ends_well(scenario).convictions, 4, "the four workers");
    }
}

fn pair_of_liars(honest: usize, pacts_may_win: bool) -> Scenario {
    let mut scenario = Scenario { pacts_may_win, ..Scenario::calm("a_pact", honest, 40, 2) };
    let liar = Conduct::Lies { per_mille: 1000, pact: Some(1), after: 0 };
    scenario.machines.extend([MachineSpec::with(liar), MachineSpec::with(liar)]);
    scenario
}

/// A pact that lies about everything is contradicted by whoever runs the same unit.
#[test]
fn a_pact_of_two_is_convicted_by_the_first_honest_peers_that_run_the_same() {
    let mut world = World::new(pair_of_liars(4, true));
    world.run().unwrap_or_else(|failure| panic!("{failure}"));
    for machine in 1..=4 {
        let convicted = world.peer(machine).unwrap().convictions();
        let liars: BTreeSet<_> = convicted.iter().map(|conviction| conviction.peer).collect();
        assert_eq!(liars.len(), 2, "machine {machine}: {convicted:?}");
    }
}

#[test]
fn the_oracle_sees_a_lie_that_won() {
    let failure = run(pair_of_liars(0, false)).unwrap_err();
    assert!(failure.what.contains("accepts a lie"), "{failure}");
    assert!(failure.to_string().contains("POTLUCK_SIM_SEED=1 cargo test -p potluck-sim a_pact"));
}

#[test]
fn stallers_hold_nothing_up_for_long() {
    for copies in [1, 2] {
        let mut scenario = Scenario::calm("stallers", 4, 60, copies);
        scenario.machines.extend(vec![MachineSpec::with(Conduct::Stalls); 4]);
        let summary = ends_well(scenario);
        assert!(summary.ended_ms < 180_000, "{summary:?}");
    }
}

#[test]
fn a_copycat_is_convicted_by_who_ran_what_it_copied() {
    let mut scenario = Scenario::calm("a_copycat", 4, 60, 3);
    scenario.machines.push(MachineSpec::with(Conduct::Copies));
    assert!(ends_well(scenario).convictions >= 1);
}

#[test]
fn a_liar_that_was_restarted_stays_convicted() {
    let mut scenario = Scenario::calm("a_liar_that_was", 4, 60, 2);
    scenario.machines.push(MachineSpec::with(LIAR));
    let crash = |machine| (25_000, Blow::Crash { machine, torn: false, down_ms: 5000 });
    scenario.blows = (0..=5).map(crash).collect();
    let liar = 5;
    let mut world = World::new(scenario);
    world.run().unwrap_or_else(|failure| panic!("{failure}"));
    let (id, job) = (world.id(liar), world.job_id());
    for machine in 1..=4 {
        let peer = world.peer(machine).unwrap();
        assert!(peer.convictions().iter().any(|conviction| conviction.peer == id));
        let words = (0..60).flat_map(|index| peer.unit(&job, index).unwrap().words);
        assert!(words.filter(|word| word.peer == id).all(|word| !word.counts));
    }
}

#[test]
fn ten_thousand_units_are_run_little_more_than_k_times() {
    for copies in [1, 2] {
        let scenario = Scenario {
            unit_us: (5000, 15_000),
            ..Scenario::calm("ten_thousand_units", 2, 10_000, copies)
        };
        let summary = ends_well(scenario);
        let wanted = 10_000 * u64::from(copies);
        // With one copy one unit in ten is audited.
        let most = wanted + wanted / 8;
        assert!(summary.executions <= most, "{} of {wanted}", summary.executions);
    }
}

#[test]
fn units_that_run_on_no_machine_are_given_up_with_the_reason() {
    let scenario = Scenario {
        no_result_per_mille: 1000,
        end_ms: 60_000,
        ..Scenario::calm("units_that_run_on_no_machine", 4, 10, 2)
    };
    let mut world = World::new(scenario);
    assert!(world.run().is_err(), "nothing can be accepted");
    let job = world.job_id();
    for index in 0..10 {
        let verdict = world.peer(0).unwrap().verdict(&job, index);
        assert!(matches!(verdict, Some(Verdict::Unrunnable(_))), "{verdict:?}");
    }
}

#[test]
fn a_network_that_loses_half_of_everything_only_delays() {
    let faults =
        Faults { loss_per_mille: 500, twice_per_mille: 100, delay_ms: (1, 500), reorder: true };
    let scenario = Scenario {
        faults,
        calm_at_ms: 120_000,
        ..Scenario::calm("a_network_that_loses", 6, 60, 2)
    };
    ends_well(scenario);
}
