//! Outputs outlive those who made them: bodies too large for a receipt, over days of the world's time.

use potluck_peer::Verdict;
use potluck_sim::{Blow, Conduct, MachineSpec, Scenario, World};

const MINUTE_MS: u64 = 60_000;
const DAY_MS: u64 = 24 * 60 * MINUTE_MS;
/// One unit in eleven has a body that is too large for a receipt.
const UNITS: u32 = 110;
/// Runs of one unit: by who has the seat, to restore its body, and by a hidden auditor or two. Fewer
/// than there are workers, who all know that the body is gone.
const FEW: usize = 4;

fn large() -> impl Iterator<Item = u32> {
    (0..UNITS).filter(|index| index % 11 == 3)
}

/// Workers with a job of one copy, whose submitter leaves as soon as another holds it.
fn away(test: &'static str, workers: usize, for_ms: u64, blows: Vec<(u64, Blow)>) -> Scenario {
    let leaves = (0, Blow::SubmitterLeaves { job: 0, for_ms });
    Scenario {
        blows: std::iter::once(leaves).chain(blows).collect(),
        calm_at_ms: for_ms + MINUTE_MS,
        end_ms: for_ms + 60 * MINUTE_MS,
        ..Scenario::calm(test, workers, UNITS, 1)
    }
}

/// Runs a world in which the submitter gets every body: the oracle looks whether it does.
fn ends_well(scenario: Scenario) -> World {
    let mut world = World::new(scenario);
    world.run().unwrap_or_else(|failure| panic!("{failure}"));
    world
}

/// How many times each unit with a large body was run, as far as the submitter knows.
fn times_run(world: &World) -> Vec<usize> {
    let unit = |index| world.peer(0).and_then(|peer| peer.unit(&world.job_id(), index));
    large().map(|index| unit(index).map_or(0, |unit| unit.words.len())).collect()
}

/// Two of six workers, each the only signer of what it ran, die a day after the other.
#[test]
fn a_submitter_that_returns_after_five_days_gets_every_body_though_a_third_of_the_peers_changed() {
    let deaths = [2, 3].map(|machine| (machine as u64 * DAY_MS, Blow::Die { machine }));
    let mut scenario = away("a_submitter_that_returns", 6, 5 * DAY_MS, deaths.to_vec());
    for day in [2, 3] {
        let newcomer = MachineSpec { start_ms: day * DAY_MS + 5000, ..MachineSpec::WORKER };
        scenario.machines.push(newcomer);
    }
    let world = ends_well(scenario);
    for index in large() {
        let job = world.job_id();
        let workers = (1..=8).filter_map(|machine| world.peer(machine));
        let holders = workers.filter(|peer| peer.unit(&job, index).is_some_and(|u| u.fetched));
        assert!(holders.count() >= 3, "unit {index}");
    }
}

#[test]
fn what_died_with_its_only_holder_is_made_anew_by_few_while_the_submitter_is_away() {
    // Just after the job is done, before anybody steps in.
    let deaths = [1, 2, 3].map(|machine| (4 * MINUTE_MS, Blow::Die { machine }));
    let scenario = away("what_died_with", 6, 8 * 60 * MINUTE_MS, deaths.to_vec());
    let times = times_run(&ends_well(scenario));
    assert!(times.iter().any(|times| *times > 1), "three in six workers held some: {times:?}");
    assert!(times.iter().all(|times| *times <= FEW), "{times:?}");
}

#[test]
fn what_all_holders_lost_is_made_anew_by_few() {
    let losses = (1..=6).map(|machine| (60 * MINUTE_MS, Blow::LoseOutputs { machine }));
    let scenario = away("what_all_holders_lost", 6, 90 * MINUTE_MS, losses.collect());
    let times = times_run(&ends_well(scenario));
    assert!(times.iter().all(|times| (2..=FEW).contains(times)), "{times:?}");
}

#[test]
fn a_holder_that_gives_nothing_away_withholds_no_result() {
    let mut scenario = away("a_holder_that_gives", 4, 8 * 60 * MINUTE_MS, vec![]);
    scenario.machines.extend(vec![MachineSpec::with(Conduct::Withholds); 2]);
    let times = times_run(&ends_well(scenario));
    assert!(times.iter().any(|times| *times > 1), "two in six workers withheld some: {times:?}");
    // The first in order may be the other one, and withhold it as well.
    assert!(times.iter().all(|times| *times <= FEW), "{times:?}");
}

#[test]
fn a_submitter_that_stays_has_every_body_though_all_who_give_it_withhold_it() {
    let mut scenario = Scenario::calm("a_submitter_that_stays", 0, UNITS, 1);
    scenario.machines.extend(vec![MachineSpec::with(Conduct::Withholds); 3]);
    let world = ends_well(scenario);
    let (peer, job) = (world.peer(0).unwrap(), world.job_id());
    assert!(large().all(|index| matches!(peer.verdict(&job, index), Some(Verdict::Accepted(_)))));
}
