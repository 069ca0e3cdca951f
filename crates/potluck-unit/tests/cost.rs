//! What things cost. Prints and asserts nothing; the numbers are in `docs/records.md`.
//!
//! ```sh
//! cargo test -p potluck-unit --test cost -- --ignored --nocapture --test-threads 1
//! ```

#![allow(clippy::print_stdout, reason = "it is what these tests are for")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use potluck_unit::{Identity, JobId, Key, Time};

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

#[test]
#[ignore = "measures"]
fn cost_of_identities() {
    let id = Key::of_secret(&[1; 32]).id();
    let born = Time(1_700_000_000_000);
    let costly = Identity::search(&id, born, 1, 0, u64::MAX).expect("one of all numbers");
    let cheap = Identity { nonce: costly.nonce + 1, ..costly };
    print("check a proof of work", || costly.proves(&id, 1));
    print("check a false one that cost nothing", || cheap.proves(&id, 1));
    let bits = Identity::BITS_MAX;
    let mut next = 0;
    let start = Instant::now();
    while start.elapsed() < Duration::from_secs(10) {
        assert_eq!(Identity::search(&id, born, bits, next, 1 << 16), None);
        next += 1 << 16;
    }
    let tries_a_second = next / start.elapsed().as_secs();
    let expected = Identity::tries_expected(Identity::BITS) / tries_a_second;
    println!("search: {tries_a_second} tries a second, {expected} s by default");
}
