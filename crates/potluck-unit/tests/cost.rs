//! What things cost. Prints and asserts nothing; the numbers are in `docs/records.md`.
//!
//! ```sh
//! cargo test --release -p potluck-unit --test cost -- --ignored --nocapture --test-threads 1
//! ```

#![allow(clippy::print_stdout, reason = "it is what these tests are for")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use potluck_unit::{JobId, Key};

/// Prints how long one call takes, in the fastest of several rounds.
fn print<T>(what: &str, mut call: impl FnMut() -> T) {
    let mut round = |calls: u32| {
        let start = Instant::now();
        (0..calls).for_each(|_| drop(black_box(call())));
        start.elapsed()
    };
    let mut calls = 1;
    while round(calls) < Duration::from_millis(20) {
        calls *= 2;
    }
    let fastest = (0..9).map(|_| round(calls)).min().unwrap_or_default();
    println!("{what}: {} ns", fastest.as_nanos() / u128::from(calls));
}

#[test]
#[ignore = "measures"]
fn cost_of_draws() {
    let key = Key::of_secret(&[1; 32]);
    let id = key.id();
    let input = JobId([7; 32]).draw_input(3);
    let (proof, _) = key.draw(&input);
    let signature = key.sign("potluck test v1", &input);
    print("make a draw", || key.draw(&input));
    print("check a draw", || proof.check(&id, &input));
    print("sign", || key.sign("potluck test v1", &input));
    print("check a signature", || id.signed("potluck test v1", &input, &signature));
}
