//! What a unit costs inside each peer. Ignored: it measures, and a busy machine measures badly.
//! `cargo test --release -p potluck-sim --test handle_cost -- --ignored --nocapture`

#![expect(clippy::disallowed_types, reason = "a measurement reads the clock; no peer does")]

use std::sync::LazyLock;
use std::time::Instant;

use potluck_sim::{Scenario, World};

fn nanoseconds() -> u64 {
    static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(BEGIN.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

#[test]
#[ignore = "measures time"]
fn ten_thousand_units_cost_each_peer_under_ten_microseconds_a_unit() {
    for copies in [1, 2] {
        let scenario = Scenario::calm("", 2, 10_000, copies).with_job(|job| job.unit_us = (50, 50));
        let mut world = World::new(scenario);
        world.measure_with(nanoseconds);
        let summary = world.run().unwrap();
        let us: Vec<f64> =
            summary.handle_ns.iter().map(|ns| *ns as f64 / 1000.0 / 10_000.0).collect();
        eprintln!(
            "k = {copies}: {us:.2?} µs a unit and peer (the submitter first), {} executions, {} events",
            summary.executions, summary.events
        );
    }
}
