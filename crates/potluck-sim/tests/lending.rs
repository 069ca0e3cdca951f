//! Machines whose owners want them back: nothing is lost, and nobody waits for them.

use potluck_peer::{Idle, Order};
use potluck_sim::{Blow, JobSpec, Scenario, Summary, World, live};
use potluck_unit::Time;

fn ended(scenario: Scenario) -> (World, Summary) {
    live(scenario).unwrap_or_else(|failure| panic!("{failure}"))
}

/// Units of five seconds, so that there is always one on every slot.
fn long(test: &'static str, workers: usize, units: u32) -> Scenario {
    let slow = |job: &mut JobSpec| job.unit_us = (5_000_000, 5_000_000);
    Scenario::calm(test, workers, units, 1).with_job(slow)
}

fn told(at_ms: u64, machine: usize, order: Order) -> (u64, Blow) {
    (at_ms, Blow::Tell { machine, order })
}

#[test]
fn a_pause_of_all_workers_delays_the_job_and_repeats_nothing() {
    let usual = ended(long("a_pause_of_all", 4, 40)).1;
    let pause = |machine| told(20_000, machine, Order::Pause { until: None });
    let resume = |machine| told(80_000, machine, Order::Resume);
    let blows = (1..=4).map(pause).chain((1..=4).map(resume)).collect();
    let paused = ended(Scenario { blows, ..long("a_pause_of_all", 4, 40) }).1;
    let late_ms = paused.ended_ms - usual.ended_ms;
    assert!((55_000..75_000).contains(&late_ms), "{late_ms}");
    assert!(
        paused.executions <= usual.executions + 2,
        "{} {}",
        paused.executions,
        usual.executions
    );
}

/// A machine that is paused for good holds up nobody for longer than its units' patience.
#[test]
fn a_machine_that_stays_paused_holds_nobody_up() {
    let usual = ended(long("a_machine_that_stays", 4, 40)).1;
    let blows = vec![told(20_000, 1, Order::Pause { until: None })];
    let (world, summary) = ended(Scenario { blows, ..long("a_machine_that_stays", 4, 40) });
    let late_ms = summary.ended_ms.saturating_sub(usual.ended_ms);
    assert!(late_ms < 60_000, "{late_ms}");
    let peer = world.peer(1).unwrap();
    assert!(matches!(peer.why_idle(Time(0)), Idle::Paused(_)));
}

#[test]
fn units_of_a_machine_that_drains_are_taken_at_once_and_what_it_ran_is_known_to_all() {
    let blows = vec![
        told(20_000, 1, Order::Drain { exit: true }),
        (40_000, Blow::Die { machine: 1 }),
        told(20_000, 2, Order::Drain { exit: false }),
    ];
    let usual = ended(long("units_of_a_machine", 4, 60)).1;
    let (world, summary) = ended(Scenario { blows, ..long("units_of_a_machine", 4, 60) });
    assert_eq!(world.peer(2).unwrap().why_idle(Time(0)), Idle::Drained);
    assert_eq!(world.peer(2).unwrap().slots_busy(), 0);
    let more = summary.executions.saturating_sub(usual.executions);
    assert!(more <= 6, "{more} more, audits aside: nothing that it ran was run again");
    // Two workers instead of four for what was left.
    assert!(summary.ended_ms < 2 * usual.ended_ms + 20_000, "{}", summary.ended_ms);
}
