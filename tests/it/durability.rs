//! `kill -9` at any moment loses nothing that was acknowledged.

use crate::grid::{Grid, descendants, finish, is_alive, potluck, until};
use crate::jobs::{self, ECHO};

#[test]
fn every_peer_killed_and_restarted_in_turn_and_the_job_still_finishes() {
    let mut grid = Grid::of(3);
    let spin = grid.file("spin.wat", SPIN);
    let args = ["submit", spin.to_str().unwrap(), "--array", "0-149"];
    let id = grid.ok(&args).trim().to_owned();
    for round in 0..6 {
        let victim = round % 3;
        let goal = 10 * (round + 1);
        until("some units more are accepted", || {
            let seen = |number: usize| {
                grid.worker(number).ask(&["job", "info", &id])["accepted"].as_u64().unwrap()
            };
            (0..3).filter(|number| *number != victim).map(seen).max().unwrap() >= goal as u64
        });
        grid.kill(victim);
        grid.restart(victim);
    }
    grid.ok(&["job", "wait", &id]);
    let expected: String = (0..150).map(|n| format!("{n}\n")).collect();
    assert_eq!(grid.ok(&["job", "results", &id, "--stdout"]), expected);
}

#[test]
fn what_a_killed_peer_had_accepted_is_there_when_it_restarts_alone() {
    let mut grid = Grid::of(2);
    let echo = grid.file("echo.wat", ECHO);
    let id = grid.ok(&["submit", echo.to_str().unwrap(), "--array", "0-299"]).trim().to_owned();
    until("a worker has accepted something", || {
        grid.worker(0).ask(&["job", "info", &id])["accepted"].as_u64().unwrap() > 0
    });
    let before = grid.worker(0).ask(&["job", "info", &id])["accepted"].as_u64().unwrap();
    grid.kill(0);
    grid.kill(1);
    grid.restart(0);
    let after = grid.worker(0).ask(&["job", "info", &id])["accepted"].as_u64().unwrap();
    assert!(after >= before, "{after} of {before} accepted units are left");
}

#[test]
fn a_submitter_killed_right_after_it_was_told_the_id_loses_nothing() {
    let mut grid = Grid::of(1);
    let echo = grid.file("echo.wat", ECHO);
    // A node of the submitter's own runs and is killed the moment the job is acknowledged.
    let first = grid.worker(0).listen.clone();
    let flags = ["--slots", "0", "--join", &first].map(str::to_owned).to_vec();
    let mut node = crate::grid::Worker::start(grid.submitter(), "127.0.0.1:0", flags);
    let submit = potluck(
        &grid.submitter(),
        &["submit", echo.to_str().unwrap(), "--array", "0-49", "-k", "1"],
    );
    let submitted = finish(submit);
    node.kill();
    assert_eq!(submitted.code, 0, "{}", submitted.err);
    let id = submitted.out.trim().to_owned();
    grid.ok(&["job", "wait", &id]);
    let expected: String = (0..50).map(|n| format!("{n}\n")).collect();
    assert_eq!(grid.ok(&["job", "results", &id, "--stdout"]), expected);
    grid.kill(0);
    // Everybody else is gone: the submitter's own disk has it all.
    let alone = finish(potluck(&grid.submitter(), &["job", "results", &id, "--stdout"]));
    assert_eq!((alone.code, alone.out), (0, expected), "{}", alone.err);
}

#[test]
fn a_killed_worker_leaves_no_sandbox_behind() {
    let mut grid = Grid::of(1);
    let spin = grid.file("spin.wat", jobs::SPIN);
    grid.ok(&["submit", spin.to_str().unwrap(), "-k", "1"]);
    let pid = grid.worker(0).pid();
    until("a sandbox runs", || !descendants(pid).is_empty());
    let children = descendants(pid);
    grid.kill(0);
    until("its sandboxes are gone", || !children.iter().any(|pid| is_alive(*pid)));
}

/// Echoes its argument after some 20 ms of work.
const SPIN: &str = r#"(module
  (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "_start") (local $n i32) (local $end i32)
    (loop $work
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $work (i32.lt_u (local.get $n) (i32.const 50000000))))
    (drop (call $args_get (i32.const 64) (i32.const 4096)))
    (local.set $end (i32.load (i32.const 68)))
    (loop $next
      (if (i32.load8_u (local.get $end))
        (then (local.set $end (i32.add (local.get $end) (i32.const 1))) (br $next))))
    (i32.store8 (local.get $end) (i32.const 10))
    (i32.store (i32.const 8) (i32.load (i32.const 68)))
    (i32.store (i32.const 12)
      (i32.add (i32.sub (local.get $end) (i32.load (i32.const 68))) (i32.const 1)))
    (drop (call $fd_write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 16)))))"#;
