//! Many worlds of fifty machines with everything that can go wrong at once.

use potluck_sim::{Scenario, run};

/// Worlds: half a minute of two cores, and enough to have found every bug so far in the first half.
const SEEDS: u64 = 200;

/// The seed to repeat, from the command that a failure prints.
fn seed() -> u64 {
    std::env::var("POTLUCK_SIM_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(1)
}

#[test]
fn one_seed() {
    match run(Scenario::of_seed(seed())) {
        Ok(summary) => eprintln!("{summary:?}"),
        Err(failure) => panic!("{failure}"),
    }
}

#[test]
fn two_hundred_seeds_of_fifty_peers() {
    let threads = std::thread::available_parallelism().map_or(2, |count| count.get() as u64);
    let failures_of = |thread: u64| -> Vec<String> {
        let seeds = (0..SEEDS).filter(|seed| seed % threads == thread);
        let failures = seeds.filter_map(|seed| run(Scenario::of_seed(seed)).err());
        failures.map(|failure| failure.to_string()).collect()
    };
    let failures: Vec<String> = std::thread::scope(|scope| {
        let spawned: Vec<_> =
            (0..threads).map(|thread| scope.spawn(move || failures_of(thread))).collect();
        spawned.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let first = failures.first().map_or("", String::as_str);
    assert!(failures.is_empty(), "{} of {SEEDS} worlds failed; the first: {first}", failures.len());
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let hash = |seed| run(Scenario::of_seed(seed)).unwrap().trace;
    assert_eq!(hash(7), hash(7));
    assert_ne!(hash(7), hash(8));
}
