//! One thing going wrong at a time, and what must come of it.

use std::collections::BTreeSet;

use potluck_peer::Verdict;
use potluck_sim::{
    Blow, Conduct, Faults, JobSpec, MachineSpec, Promises, Scenario, Summary, World, live, run,
};

fn ends_well(scenario: Scenario) -> Summary {
    match run(scenario) {
        Ok(summary) => summary,
        Err(failure) => panic!("{failure}"),
    }
}

#[test]
fn a_submitter_that_left_at_once_finds_all_results_when_it_returns() {
    let leaves = vec![(0, Blow::SubmitterLeaves { job: 0, for_ms: 300_000 })];
    let scenario = Scenario {
        blows: leaves,
        calm_at_ms: 310_000,
        ..Scenario::calm("a_submitter_that_left", 4, 50, 2)
    };
    let summary = ends_well(scenario);
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
    let scenario =
        Scenario { blows, end_ms: 1_000_000, ..Scenario::calm("two_contented_halves", 59, 30, 2) };
    ends_well(scenario.with_job(|job| job.submit_at_ms = 900_000));
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
        scenario.machines.push(MachineSpec::with(Conduct::LIAR));
        assert_eq!(ends_well(scenario).convictions, 5, "four workers and the submitter");
    }
}

/// The submitter's own machine can't run the units that are disputed, so it never learns who lies.
#[test]
fn a_submitter_that_can_not_run_disputed_units_gets_every_result_all_the_same() {
    for seed in 0..5 {
        let mut scenario = Scenario { seed, ..Scenario::calm("a_blind_submitter", 4, 40, 2) };
        scenario.machines[0].conduct = Conduct::Fails;
        scenario.machines.push(MachineSpec::with(Conduct::LIAR));
        assert_eq!(ends_well(scenario).convictions, 4, "the four workers");
    }
}

fn pair_of_liars(honest: usize, promises: Promises) -> Scenario {
    let scenario = Scenario { promises, ..Scenario::calm("a_pact", honest, 40, 2) };
    let liar = Conduct::Lies { per_mille: 1000, pact: Some(1), after: 0, job: None };
    scenario.and(liar).and(liar)
}

/// A pact that lies about everything is contradicted by whoever runs the same unit.
#[test]
fn a_pact_of_two_is_convicted_by_the_first_honest_peers_that_run_the_same() {
    let (world, _) =
        live(pair_of_liars(4, Promises::BUT_LIES)).unwrap_or_else(|failure| panic!("{failure}"));
    for machine in 1..=4 {
        let convicted = world.peer(machine).unwrap().convictions();
        let liars: BTreeSet<_> = convicted.iter().map(|conviction| conviction.peer).collect();
        assert_eq!(liars.len(), 2, "machine {machine}: {convicted:?}");
    }
}

#[test]
fn the_oracle_sees_a_lie_that_won() {
    let failure = run(pair_of_liars(0, Promises::ALL)).unwrap_err();
    assert!(failure.what.contains("accepts a lie"), "{failure}");
    assert!(failure.to_string().contains("POTLUCK_SIM_SEED=1 cargo test -p potluck-sim a_pact"));
}

#[test]
fn a_liar_that_was_restarted_stays_convicted() {
    let mut scenario = Scenario::calm("a_liar_that_was", 4, 60, 2);
    scenario.machines.push(MachineSpec::with(Conduct::LIAR));
    let crash = |machine| (25_000, Blow::Crash { machine, torn: false, down_ms: 5000 });
    scenario.blows = (0..=5).map(crash).collect();
    let liar = 5;
    let (world, _) = live(scenario).unwrap_or_else(|failure| panic!("{failure}"));
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
        let scenario = Scenario::calm("ten_thousand_units", 2, 10_000, copies);
        let summary = ends_well(scenario.with_job(|job| job.unit_us = (5000, 15_000)));
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

#[test]
fn clocks_that_are_five_minutes_off_hold_nothing_up() {
    let right = ends_well(Scenario::calm("clocks", 8, 60, 2));
    let mut scenario = Scenario::calm("clocks", 8, 60, 2);
    for (number, machine) in scenario.machines.iter_mut().enumerate() {
        let ahead = number.is_multiple_of(2);
        // A second less for the drift.
        machine.skew_ms = if ahead { 299_000 } else { -299_000 };
        machine.drift_ppm = if ahead { 500 } else { -500 };
    }
    let off = ends_well(scenario);
    assert!(off.ended_ms < right.ended_ms * 3 / 2, "{} {}", right.ended_ms, off.ended_ms);
    assert!(off.executions < right.executions * 11 / 10, "{}", off.executions);
}

#[test]
fn machines_that_can_only_dial_out_submit_and_work() {
    let mut scenario = Scenario::calm("machines_that_can_only", 12, 80, 2);
    for machine in scenario.machines.iter_mut().enumerate().filter(|(n, _)| ![1, 2, 3].contains(n))
    {
        machine.1.hidden = true;
    }
    let (world, _) = live(scenario).unwrap_or_else(|failure| panic!("{failure}"));
    for machine in 4..=12 {
        assert!(world.peer(machine).unwrap().units_run() > 0, "machine {machine}");
    }
}

#[test]
fn narrow_links_only_delay() {
    let wide = ends_well(Scenario::calm("narrow_links", 8, 60, 2));
    let mut scenario = Scenario::calm("narrow_links", 8, 60, 2);
    for machine in &mut scenario.machines {
        (machine.up_per_s, machine.down_per_s) = (50_000, 100_000);
    }
    let narrow = ends_well(scenario);
    assert!(narrow.ended_ms > wide.ended_ms, "the module alone takes seconds");
    assert!(
        narrow.executions < wide.executions * 6 / 5,
        "{} {}",
        narrow.executions,
        wide.executions
    );
}

fn jobs_of(submitters: &[usize]) -> Vec<JobSpec> {
    let job = |(n, submitter): (usize, &usize)| JobSpec {
        submitter: *submitter,
        units: [20, 30, 40, 50][n % 4],
        copies: [1, 2, 3, 2][n % 4],
        submit_at_ms: 3000 + 2000 * n as u64,
        ..JobSpec::SMALL
    };
    submitters.iter().enumerate().map(job).collect()
}

#[test]
fn jobs_of_several_submitters_are_all_done() {
    let jobs = jobs_of(&[0, 1, 2, 0]);
    let wanted: u64 = jobs.iter().map(|job| u64::from(job.units) * u64::from(job.copies)).sum();
    let summary = ends_well(Scenario { jobs, ..Scenario::calm("jobs_of_several", 8, 0, 2) });
    // One unit in five is audited.
    assert!(summary.executions <= wanted * 5 / 4, "{} of {wanted}", summary.executions);
}

/// What ran when the closing came is stopped, and the workers go on with the other job.
#[test]
fn a_closed_job_is_run_no_further() {
    let mut jobs = jobs_of(&[0, 0]);
    jobs[0] = JobSpec { units: 400, close_at_ms: Some(20_000), ..jobs[0] };
    let (world, summary) = live(Scenario { jobs, ..Scenario::calm("a_closed_job", 4, 0, 2) })
        .unwrap_or_else(|failure| panic!("{failure}"));
    assert!(summary.executions_of[0] < 200, "{:?}", summary.executions_of);
    assert!(summary.executions_of[1] >= 60, "{:?}", summary.executions_of);
    for machine in 0..=4 {
        assert_eq!(world.peer(machine).unwrap().slots_busy(), 0, "machine {machine}");
    }
}

#[test]
fn a_submitter_that_was_away_for_two_days_finds_all_results() {
    let for_ms = 2 * 24 * 3600 * 1000;
    let scenario = Scenario {
        blows: vec![(0, Blow::SubmitterLeaves { job: 0, for_ms })],
        calm_at_ms: for_ms + 10_000,
        end_ms: for_ms + 600_000,
        ..Scenario::calm("a_submitter_that_was_away", 3, 22, 2)
    };
    let summary = ends_well(scenario);
    // One unit in five is audited.
    assert!((44..=58).contains(&summary.executions), "{}", summary.executions);
}

#[test]
fn a_job_that_expired_is_forgotten_by_all() {
    let scenario = Scenario::calm("a_job_that_expired", 5, 20, 2);
    let mut scenario = scenario.with_job(|job| job.life_ms = 300_000);
    scenario.machines[2].skew_ms = 200_000;
    scenario.machines[3].skew_ms = -200_000;
    let (world, _) = live(scenario).unwrap_or_else(|failure| panic!("{failure}"));
    for machine in 0..=5 {
        // Nothing but others' contacts.
        assert!(world.kept(machine) <= 5, "machine {machine} keeps {}", world.kept(machine));
    }
}

/// All who made the outcomes lose them while the submitter is away.
#[test]
fn outputs_that_all_have_lost_are_made_anew() {
    let mut blows = vec![(0, Blow::SubmitterLeaves { job: 0, for_ms: 120_000 })];
    blows.extend((1..=4).map(|machine| (110_000, Blow::LoseOutputs { machine })));
    let scenario = Scenario {
        blows,
        calm_at_ms: 130_000,
        ..Scenario::calm("outputs_that_all_have_lost", 4, 44, 2)
    };
    let summary = ends_well(scenario);
    assert!(summary.executions > 88, "{summary:?}");
}

#[test]
fn machines_that_die_leave_no_hole() {
    for seed in 0..5 {
        let blows = [1, 3, 5, 7].map(|machine| (8000, Blow::Die { machine })).to_vec();
        ends_well(Scenario { seed, blows, ..Scenario::calm("machines_that_die", 8, 80, 2) });
    }
}

#[test]
fn the_urgent_job_of_a_submitter_is_done_first() {
    let job = JobSpec { units: 60, ..JobSpec::SMALL };
    let urgent = JobSpec { priority: 9, submit_at_ms: 10_000, ..job };
    let scenario =
        Scenario { jobs: vec![job, urgent], ..Scenario::calm("the_urgent_job", 4, 0, 2) };
    let summary = ends_well(scenario);
    assert!(summary.done_ms[1] < summary.done_ms[0], "{:?}", summary.done_ms);
}

/// A submitter that lends four slots to others, and one that lends nothing, want as much at once.
#[test]
fn who_lends_much_is_served_before_who_lends_nothing() {
    let jobs = jobs_of(&[0, 1]).into_iter().map(|job| JobSpec { units: 80, copies: 2, ..job });
    let earlier = JobSpec { submitter: 2, units: 100, copies: 2, ..JobSpec::SMALL };
    let mut jobs: Vec<JobSpec> = jobs.collect();
    jobs.iter_mut().for_each(|job| job.submit_at_ms = 120_000);
    jobs.push(earlier);
    let mut scenario = Scenario { jobs, ..Scenario::calm("who_lends_much", 6, 0, 2) };
    scenario.machines[1].slots = 4;
    let summary = ends_well(scenario);
    assert!(summary.done_ms[1] < summary.done_ms[0], "{:?}", summary.done_ms);
}
