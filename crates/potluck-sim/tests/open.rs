//! An open grid: keys cost nothing here, and newcomers meet peers that others know for long.

use potluck_sim::{Conduct, MachineSpec, Promises, Scenario, Summary, World, live};

/// Units that make a peer established.
const ESTABLISHED: u32 = 500;

fn ended(scenario: Scenario) -> (World, Summary) {
    live(scenario).unwrap_or_else(|failure| panic!("{failure}"))
}

/// A submitter and so many workers that everybody knows to do good work.
fn old_grid(test: &'static str, workers: usize, units: u32, copies: u8) -> Scenario {
    let mut scenario = Scenario { open: true, ..Scenario::calm(test, workers, units, copies) };
    scenario.machines.iter_mut().skip(1).for_each(|machine| machine.standing = ESTABLISHED);
    scenario
}

/// They tell one lie about everything at once, before anybody else has spoken.
#[test]
fn newcomers_alone_accept_nothing() {
    let racer = Conduct::Races { pact: Some(1) };
    let world = |seed, open| {
        let scenario = old_grid("newcomers_alone", 6, 60, 2);
        Scenario { seed, open, ..scenario }.and(racer).and(racer).and(racer)
    };
    for seed in 0..5 {
        assert_eq!(ended(world(seed, true)).1.lies_accepted, 0);
    }
    let among_friends = Promises { lies_final_max: 0, ..Promises::BUT_LIES };
    let lies = |seed| {
        let scenario = Scenario { promises: among_friends, ..world(seed, false) };
        ended(scenario).1.lies_accepted
    };
    assert!((0..5).any(|seed| lies(seed) > 0), "probation is what holds them");
}

#[test]
fn honest_newcomers_help_at_once() {
    let mut scenario = old_grid("honest_newcomers", 4, 80, 2);
    scenario.machines.extend(vec![MachineSpec::WORKER; 4]);
    let (world, _) = ended(scenario);
    for machine in 5..=8 {
        assert!(world.peer(machine).unwrap().units_run() > 0, "machine {machine}");
    }
}

#[test]
fn a_young_grid_accepts_as_soon_as_one_among_friends() {
    for seed in 0..5 {
        let calm = Scenario { seed, ..Scenario::calm("a_young_grid", 6, 60, 2) };
        let friends = ended(calm.clone()).1;
        let strangers = ended(Scenario { open: true, ..calm }).1;
        assert!(
            strangers.done_ms[0] <= friends.done_ms[0] * 11 / 10,
            "{} {}",
            strangers.done_ms[0],
            friends.done_ms[0]
        );
    }
}

/// Three in eleven have done well for long and now lie about one unit in ten, where one copy is enough.
/// Without audits they would keep more.
#[test]
fn sleepers_among_the_established_keep_no_wrong_unit_in_a_hundred() {
    let sleeper = Conduct::Lies { per_mille: 100, pact: Some(1), after: 0, job: None };
    for seed in 0..5 {
        let mut scenario = old_grid("sleepers_among", 8, 200, 1);
        let machine = MachineSpec { standing: ESTABLISHED, ..MachineSpec::with(sleeper) };
        scenario.machines.extend(vec![machine; 3]);
        scenario.promises = Promises { lies_final_max: 2, ..Promises::BUT_LIES };
        ended(Scenario { seed, ..scenario });
    }
}
