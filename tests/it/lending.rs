//! What a machine lends, changed while it works: by its owner's orders, its settings, and signals.

use std::path::PathBuf;

use serde_json::Value;

use crate::budget::{FLOOD, GREEDY, du, pss};
use crate::grid::{Grid, Worker, descendants, finish, potluck, signal, until};

/// A WASI command that computes for a good second and ends.
const SECOND: &str = r#"(module (memory (export "memory") 1) (func (export "_start") (local i64)
    (loop $again
        (local.set 0 (i64.add (local.get 0) (i64.const 1)))
        (br_if $again (i64.lt_u (local.get 0) (i64.const 1500000000))))))"#;

/// Submits `units` of `module` to the first worker.
fn submit(grid: &Grid, module: &str, units: &str, more: &[&str]) -> String {
    let module = grid.file("module.wat", module);
    let mut args = vec!["submit", module.to_str().unwrap(), "--array", units, "-k", "1"];
    args.extend(more);
    grid.ok(&args).trim().to_owned()
}

fn status(worker: &Worker) -> Value {
    worker.ask(&["status"])
}

fn idle(worker: &Worker) -> String {
    status(worker)["idle_reason"].as_str().unwrap_or_default().to_owned()
}

/// Waits until the sandbox of a worker runs something.
fn until_running(worker: &Worker) {
    until("a unit runs", || {
        status(worker)["lending"]["running"].as_array().is_some_and(|running| !running.is_empty())
    });
    until("its sandbox is there", || !descendants(worker.pid()).is_empty());
}

/// The state of a process as the kernel shows it, such as `T` for one that is stopped.
fn state(pid: u32) -> char {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').and_then(|(_, rest)| rest.trim().chars().next()).unwrap_or('?')
}

fn cpu_ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    rest.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

fn settings(worker: &Worker) -> PathBuf {
    worker.data.join("potluck.toml")
}

#[test]
fn a_pause_stops_what_runs_says_so_and_loses_nothing() {
    let grid = Grid::of(1);
    let worker = grid.worker(0);
    let id = submit(&grid, SECOND, "0-1", &[]);
    until_running(worker);
    let paused = worker.ask(&["pause", "--for", "1h"]);
    assert_eq!(paused["lending"]["slots"], 0);
    assert_eq!(paused["lending"]["held_up"][0]["rule"], "potluck pause");
    assert!(paused["lending"]["held_up"][0]["until_ms"].as_u64().is_some(), "{paused}");
    let children = descendants(worker.pid());
    until("its sandboxes stand still", || {
        children.iter().all(|pid| matches!(state(*pid), 'T' | '?' | 'Z'))
    });
    let before: u64 = children.iter().map(|pid| cpu_ticks(*pid)).sum();
    assert!(idle(worker).starts_with("paused"), "{}", idle(worker));
    assert!(status(worker)["lending"]["running"][0]["suspended"].as_bool().unwrap());
    assert_eq!(children.iter().map(|pid| cpu_ticks(*pid)).sum::<u64>(), before);
    worker.ask(&["resume"]);
    grid.ok(&["job", "wait", &id, "--timeout", "110s"]);
    let log = finish(potluck(&worker.data, &["log"])).out;
    for line in ["asked to pause for 3600 s", "asked to go on"] {
        assert!(log.contains(line), "{log}");
    }
}

#[test]
fn new_settings_hold_without_a_restart_and_broken_ones_change_nothing() {
    let mut grid = Grid::new();
    grid.add(&[]);
    let worker = grid.worker(0);
    std::fs::write(settings(worker), "[budget]\ncpu-percent = 40\n").unwrap();
    until("the new share holds", || status(worker)["lending"]["cpu_percent"] == 40);
    std::fs::write(settings(worker), "[budget]\ncpu-percent = 400\n").unwrap();
    until("the broken file is noticed", || status(worker)["lending"]["config_error"].is_string());
    let now = status(worker);
    assert_eq!(now["lending"]["cpu_percent"], 40);
    let error = now["lending"]["config_error"].as_str().unwrap();
    assert!(error.contains("line 2") && error.contains("cpu-percent"), "{error}");
    std::fs::write(settings(worker), "[budget]\nwork-hours = []\n").unwrap();
    until("it is never the hour to work", || idle(worker).contains("work-hours"));
    assert_eq!(status(worker)["lending"]["config_error"], Value::Null);
}

#[test]
fn what_a_donor_denies_is_not_run_and_the_reason_is_shown() {
    let grid = Grid::of(2);
    for worker in grid.workers() {
        std::fs::write(settings(worker), "[choice]\ndeny-labels = [\"coin*\"]\n").unwrap();
    }
    until("the choice holds", || {
        grid.workers().all(|worker| {
            finish(potluck(&worker.data, &["log"])).out.contains("potluck.toml was read anew")
        })
    });
    // Nobody keeps it, so there is nobody to hand it to.
    let module = grid.file("module.wat", SECOND);
    let coins = grid.run(&["submit", module.to_str().unwrap(), "-k", "1", "--label", "coins"]);
    assert_eq!(coins.code, 3, "{}", coins.err);
    let offers = |worker: &Worker| finish(potluck(&worker.data, &["--json", "jobs", "--open"])).out;
    until("the job is known everywhere", || {
        grid.workers().all(|worker| offers(worker).contains("coins"))
    });
    for worker in grid.workers() {
        let offers = offers(worker);
        assert!(offers.contains("deny-labels") && offers.contains("coins"), "{offers}");
    }
    until("a worker says why it is idle", || idle(grid.worker(1)).contains("deny-labels"));
    let taken = submit(&grid, SECOND, "0", &["--label", "other"]);
    grid.ok(&["job", "wait", &taken, "--timeout", "110s"]);
    for worker in grid.workers() {
        assert!(offers(worker).contains("\"accepted\":0"), "{}", offers(worker));
    }
}

#[test]
fn the_disk_that_is_lent_is_never_exceeded_and_that_it_is_full_is_said() {
    const LENT: u64 = 96 << 20;
    let mut grid = Grid::new();
    grid.add(&["--set", "budget.disk=96MiB"]);
    let worker = grid.worker(0);
    submit(&grid, FLOOD, "0-29", &["--output-limit", "8MiB"]);
    let held_up = || status(worker)["lending"]["held_up"].to_string();
    until("the disk is full", || {
        let used = du(&worker.data);
        assert!(used <= LENT, "{used} bytes on disk");
        held_up().contains("\"rule\":\"disk\"")
    });
    let done = status(worker)["units_run"].as_u64().unwrap();
    assert!((2..30).contains(&done), "{done} units run");
    assert!(du(&worker.data) <= LENT);
}

#[test]
fn all_that_a_worker_runs_stays_within_the_memory_that_is_lent() {
    const LENT: u64 = 1 << 30;
    let mut grid = Grid::new();
    grid.add(&["--slots", "3", "--set", "budget.memory=1GiB"]);
    let worker = grid.worker(0);
    submit(&grid, GREEDY, "0-29", &["--memory", "256MiB"]);
    let (mut most, mut looks) = (0, 0);
    until("guests have taken what they can", || {
        let tree = [vec![worker.pid()], descendants(worker.pid())].concat();
        let memory = tree.into_iter().map(pss).sum::<u64>();
        assert!(memory <= LENT, "{memory} bytes of memory");
        most = most.max(memory);
        looks += 1;
        // One guest that has filled its memory, at least.
        looks > 40 && most > 256 << 20
    });
}

#[test]
fn a_drained_worker_finishes_what_it_began_and_ends_by_itself() {
    let mut grid = Grid::of(1);
    let id = submit(&grid, SECOND, "0-9", &[]);
    until_running(grid.worker(0));
    let drained = finish(potluck(&grid.worker(0).data, &["drain", "--then-exit"]));
    assert_eq!(drained.code, 0, "{}", drained.err);
    let pid = grid.worker(0).pid();
    until("the worker has ended", || is_over(pid));
    // What it had not begun is still to be done, and what it did is not lost.
    grid.restart(0);
    let before = grid.worker(0).ask(&["job", "info", &id]);
    assert!(before["accepted"].as_u64().unwrap() >= 1, "{before}");
    grid.ok(&["job", "wait", &id, "--timeout", "110s"]);
}

#[test]
fn a_terminated_worker_hands_in_the_unit_it_is_at() {
    let mut grid = Grid::new();
    // A busy machine has little time for guests.
    grid.add(&["--grace", "100s"]);
    let id = submit(&grid, SECOND, "0-9", &[]);
    until_running(grid.worker(0));
    let pid = grid.worker(0).pid();
    signal(pid, "TERM");
    until("the worker has ended", || is_over(pid));
    grid.restart(0);
    let info = grid.worker(0).ask(&["job", "info", &id]);
    assert!(info["accepted"].as_u64().unwrap() >= 1, "{info}");
}

#[test]
fn what_a_donor_calls_itself_is_shown_to_others() {
    let mut grid = Grid::of(1);
    grid.add(&["--set", "donor.nickname=Ada", "--set", "donor.team=kitchen"]);
    let named = grid.worker(1).id.clone();
    until("the other worker knows its name", || {
        let peers = grid.worker(0).ask(&["peers"]);
        let peer = peers.as_array().unwrap().iter().find(|peer| peer["id"] == named.as_str());
        peer.is_some_and(|peer| peer["nickname"] == "Ada" && peer["team"] == "kitchen")
    });
    let shown = finish(potluck(&grid.worker(0).data, &["peers"])).out;
    assert!(shown.contains("Ada (kitchen)"), "{shown}");
}

/// Whether a process has ended, reaped or not.
fn is_over(pid: u32) -> bool {
    !crate::grid::is_alive(pid)
}
