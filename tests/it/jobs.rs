//! Jobs on a small grid: submitted, run, checked and fetched as a user would.

use serde_json::Value;

use crate::grid::{Grid, finish, potluck, until};

/// A WASI command that echoes its arguments, a line each, then all of its standard input, and ends
/// with the exit code that `exit=N` as its first argument asks for.
pub(crate) const ECHO: &str = include_str!("echo.wat");

/// A WASI command that never ends.
pub(crate) const SPIN: &str =
    r#"(module (memory (export "memory") 1) (func (export "_start") (loop $again (br $again))))"#;

fn job_id(out: &str) -> String {
    let id = out.trim().to_owned();
    assert_eq!(id.len(), 64, "the job id alone is printed: {out:?}");
    id
}

#[test]
fn arguments_input_output_and_exit_code_of_every_unit_arrive() {
    let grid = Grid::of(2);
    let echo = grid.file("echo.wat", ECHO);
    let lines = grid.file("lines", "one\ntwo words\nthree\n");
    let echo = echo.to_str().unwrap();
    let lines = lines.to_str().unwrap();
    assert_eq!(grid.ok(&["run", echo, "--array", "0-20:10"]), "0\n10\n20\n");
    assert_eq!(grid.ok(&["run", echo, "--array", "1-2", "--", "a{}b", "c"]), "a1b\nc\na2b\nc\n");
    assert_eq!(
        grid.ok(&["run", echo, "--each-line", lines, "--", "x"]),
        "x\none\nx\ntwo words\nx\nthree\n"
    );
    assert_eq!(grid.ok(&["run", echo, "--each-line", lines, "--stdin"]), "one\ntwo words\nthree\n");
    let out = grid.path("out");
    grid.ok(&["run", echo, "--out", out.to_str().unwrap(), "--", "exit=7", "bye"]);
    assert_eq!(std::fs::read_to_string(out.join("0.out")).unwrap(), "bye\n");
    let summary = std::fs::read_to_string(out.join("summary.json")).unwrap();
    let summary: Value = serde_json::from_str(&summary).unwrap();
    assert!(summary.to_string().contains("\"exit_code\":7"), "{summary}");
}

#[test]
fn files_become_units_in_the_order_of_their_names() {
    let grid = Grid::of(2);
    let echo = grid.file("echo.wat", ECHO);
    grid.file("texts/b.txt", "second");
    grid.file("texts/a.txt", "first");
    let glob = grid.path("texts/*.txt");
    let out = grid.ok(&["run", echo.to_str().unwrap(), "--each-file", glob.to_str().unwrap()]);
    assert_eq!(out, "firstsecond");
}

#[test]
fn a_large_output_arrives_whole() {
    let grid = Grid::of(2);
    let echo = grid.file("echo.wat", ECHO);
    let large: String = (0..200_000).map(|n| format!("{n}\n")).collect();
    grid.file("texts/large.txt", &large);
    let glob = grid.path("texts/*.txt");
    let out = grid.ok(&["run", echo.to_str().unwrap(), "--each-file", glob.to_str().unwrap()]);
    assert!(out == large, "{} bytes came of {}", out.len(), large.len());
}

#[test]
fn the_submitter_may_leave_and_any_node_with_its_key_fetches_the_results() {
    let grid = Grid::of(2);
    let echo = grid.file("echo.wat", ECHO);
    let id = job_id(&grid.ok(&["submit", echo.to_str().unwrap(), "--array", "0-99"]));
    // The submitter's process is gone; the workers finish without it.
    until("both workers have every unit", || {
        grid.workers().all(|worker| worker.ask(&["job", "info", &id])["accepted"] == 100)
    });
    let expected: String = (0..100).map(|n| format!("{n}\n")).collect();
    let elsewhere = grid.path("elsewhere");
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::copy(grid.submitter().join("key"), elsewhere.join("key")).unwrap();
    let join = &grid.worker(1).listen;
    let fetched = finish(potluck(&elsewhere, &["job", "results", &id, "--stdout", "--join", join]));
    assert_eq!((fetched.code, fetched.out), (0, expected.clone()), "{}", fetched.err);
    // And the same node, started again.
    grid.ok(&["job", "wait", &id]);
    assert_eq!(grid.ok(&["job", "results", "last", "--stdout"]), expected);
}

#[test]
fn a_worker_that_restarts_finds_its_peers_without_being_told() {
    let mut grid = Grid::of(2);
    let first = grid.worker(0).id.clone();
    until("the second knows the first", || {
        grid.worker(1).ask(&["peers"]).to_string().contains(&first)
    });
    grid.kill(1);
    // Without `--join`.
    let worker = grid.worker(1);
    let mut again = crate::grid::Worker::start(
        worker.data.clone(),
        &worker.listen,
        vec!["--slots".to_owned(), "1".to_owned()],
    );
    until("the restarted worker is connected to the first", || {
        let peers = again.ask(&["peers"]);
        peers
            .as_array()
            .unwrap()
            .iter()
            .any(|peer| peer["id"] == first.as_str() && peer["connected"] == true)
    });
    again.kill();
}

#[test]
fn three_workers_that_joined_one_know_each_other() {
    let grid = Grid::of(3);
    until("everybody is connected to everybody", || {
        grid.workers().all(|worker| {
            let peers = worker.ask(&["peers"]);
            peers.as_array().unwrap().iter().filter(|peer| peer["connected"] == true).count() == 2
        })
    });
}

#[test]
fn a_lone_cheat_is_found_out_and_its_results_never_count() {
    let mut grid = Grid::of(2);
    let liar = grid.add(&["--cheat"]).id.clone();
    let echo = grid.file("echo.wat", ECHO);
    until("everybody knows three workers", || {
        grid.workers().all(|worker| worker.ask(&["status"])["workers"] == 3)
    });
    let out = grid.ok(&["run", echo.to_str().unwrap(), "--array", "0-199"]);
    let expected: String = (0..200).map(|n| format!("{n}\n")).collect();
    assert_eq!(out, expected);
    until("an honest worker has proof", || {
        (0..2).any(|number| {
            grid.worker(number)
                .ask(&["peers"])
                .as_array()
                .unwrap()
                .iter()
                .any(|peer| peer["id"] == liar.as_str() && peer["convicted"] == true)
        })
    });
    let honest = [grid.worker(0).id.clone(), grid.worker(1).id.clone()];
    for number in 0..2 {
        for peer in grid.worker(number).ask(&["peers"]).as_array().unwrap() {
            let id = peer["id"].as_str().unwrap();
            assert!(!(honest.iter().any(|honest| honest == id) && peer["convicted"] == true));
        }
    }
}

#[test]
fn too_few_workers_is_said_and_waited_for() {
    let mut grid = Grid::of(1);
    let echo = grid.file("echo.wat", ECHO);
    let id = job_id(&grid.ok(&["submit", echo.to_str().unwrap(), "--array", "0-9", "-k", "2"]));
    let waited = grid.run(&["job", "wait", &id, "--timeout", "2s"]);
    assert_eq!(waited.code, 1, "{}", waited.err);
    assert!(waited.err.contains("needs 2 distinct workers"), "{}", waited.err);
    assert!(waited.err.contains("knows of 1"), "{}", waited.err);
    grid.add(&[]);
    grid.ok(&["job", "wait", &id]);
    let expected: String = (0..10).map(|n| format!("{n}\n")).collect();
    assert_eq!(grid.ok(&["job", "results", &id, "--stdout"]), expected);
}

#[test]
fn a_unit_that_faults_or_never_ends_is_told_apart_and_the_rest_arrives() {
    let grid = Grid::of(2);
    let spin = grid.file("spin.wat", SPIN);
    let finished = grid.run(&["run", spin.to_str().unwrap(), "--deadline", "1s", "-k", "2"]);
    assert_eq!(finished.code, 5, "{}", finished.err);
    assert!(finished.err.contains("deadline"), "{}", finished.err);
    let trap = grid.file(
        "trap.wat",
        r#"(module (memory (export "memory") 1) (func (export "_start") unreachable))"#,
    );
    let finished = grid.run(&["run", trap.to_str().unwrap()]);
    assert_eq!(finished.code, 5, "{}", finished.err);
    assert!(finished.err.contains("unreachable"), "{}", finished.err);
}

#[test]
fn a_cancelled_job_frees_the_slot_it_was_running_on() {
    let grid = Grid::of(1);
    let spin = grid.file("spin.wat", SPIN);
    let id = job_id(&grid.ok(&["submit", spin.to_str().unwrap(), "--array", "0-9", "-k", "1"]));
    let status = || grid.worker(0).ask(&["status"]);
    until("the worker runs it", || status()["slots_busy"] == 1);
    grid.ok(&["job", "cancel", &id]);
    // Far sooner than the ten minutes that each unit may take.
    until("the worker is idle again", || status()["slots_busy"] == 0);
    assert_eq!(grid.worker(0).ask(&["job", "info", &id])["closed"], true);
    // And the slot is good for other work.
    let echo = grid.file("echo.wat", ECHO);
    assert_eq!(grid.ok(&["run", echo.to_str().unwrap(), "--array", "7", "-k", "1"]), "7\n");
}

#[test]
fn quality_decides_the_copies_and_info_says_what_results_stand_on() {
    let grid = Grid::of(1);
    let echo = grid.file("echo.wat", ECHO);
    let echo = echo.to_str().unwrap();
    let run = ["run", echo, "--array", "0-4", "--quality", "bulk", "--priority", "9"];
    let finished = grid.run(&run);
    assert_eq!((finished.code, &finished.out[..]), (0, "0\n1\n2\n3\n4\n"), "{}", finished.err);
    assert!(finished.err.contains("accepted 5 of 5, 0 final"), "{}", finished.err);
    let info = |id: &str| grid.worker(0).ask(&["job", "info", id]);
    let jobs = grid.ok(&["--json", "job", "list"]);
    let id = serde_json::from_str::<Value>(&jobs).unwrap()["id"].as_str().unwrap().to_owned();
    let bulk = info(&id);
    assert_eq!(
        (&bulk["copies"], &bulk["priority"], &bulk["peers"]),
        (&1.into(), &9.into(), &1.into())
    );
    assert_eq!((&bulk["quality"], &bulk["assurance"]["own"]), (&"bulk".into(), &5.into()));
    let text = finish(potluck(&grid.worker(0).data, &["job", "info", &id])).out;
    assert!(text.contains("run by this node alone: nobody cross-checked it"), "{text}");
    let id = job_id(&grid.ok(&["submit", echo, "--quality", "critical"]));
    let text = finish(potluck(&grid.worker(0).data, &["job", "info", &id])).out;
    assert!(text.contains("quality    critical, 4 copies"), "{text}");
    assert!(
        text.contains("4 must agree on each unit, 1 worker known, waiting for 3 more"),
        "{text}"
    );
    let overruled = job_id(&grid.ok(&["submit", echo, "--quality", "critical", "-k", "3"]));
    assert_eq!(info(&overruled)["copies"], 3);
}
