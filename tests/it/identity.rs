//! Open grids: what a key must prove there, that it is proved once, and that private grids stay
//! apart.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::grid::{Finished, Grid, Worker, finish, in_the_open, potluck, signal, until};
use crate::jobs::ECHO;

const WORKER: [&str; 6] = ["--json", "worker", "--listen", "127.0.0.1:0", "--slots", "1"];

/// Starts a worker whose words to people go to a file.
fn start(mut command: Command, data: &Path, errors: &Path) -> Worker {
    command.stderr(Stdio::from(File::create(errors).unwrap()));
    Worker::of(command, data.to_owned(), Vec::new())
}

fn said(errors: &Path) -> String {
    std::fs::read_to_string(errors).unwrap()
}

fn id(data: &Path) -> Value {
    let Finished { code, out, err } = finish(potluck(data, &["--json", "id"]));
    assert_eq!(code, 0, "{err}");
    serde_json::from_str(&out).unwrap()
}

#[test]
fn a_key_proves_its_work_once_and_then_takes_part() {
    let grid = Grid::new();
    let (data, errors) = (grid.path("worker"), grid.path("errors"));
    let mut worker = start(in_the_open(&data, &WORKER), &data, &errors);
    assert!(said(&errors).contains("made the proof of work"), "{}", said(&errors));
    let proof = std::fs::read(data.join("identity")).unwrap();
    let shown = id(&data);
    assert_eq!(shown["id"], worker.id.as_str());
    assert!(shown["identity"]["bits"].as_u64().unwrap() >= 2, "{shown}");
    worker.kill();
    let mut worker = start(in_the_open(&data, &WORKER), &data, &errors);
    assert!(!said(&errors).contains("proof of work"), "{}", said(&errors));
    assert_eq!(std::fs::read(data.join("identity")).unwrap(), proof);
    // Who submits in an open grid proves as much, and is served.
    let echo = grid.file("echo.wat", ECHO);
    let run = ["run", echo.to_str().unwrap(), "-k", "1", "--join", &worker.listen, "--", "hello"];
    let ran = finish(in_the_open(&grid.submitter(), &run));
    worker.kill();
    assert_eq!((ran.code, ran.out.as_str()), (0, "hello\n"), "{}", ran.err);
    assert!(id(&grid.submitter())["identity"]["bits"].as_u64().unwrap() >= 2);
}

#[test]
fn a_private_grid_asks_for_no_work_and_the_config_can_say_so() {
    let grid = Grid::new();
    let config = grid.file("worker/potluck.toml", "[grid]\nopen = false\n");
    let data = config.parent().unwrap();
    let errors = grid.path("errors");
    let mut worker = start(in_the_open(data, &WORKER), data, &errors);
    assert_eq!(worker.ask(&["status"])["open"], false);
    assert!(!said(&errors).contains("proof of work"), "{}", said(&errors));
    assert!(!data.join("identity").exists());
    worker.kill();
}

#[test]
fn interrupting_the_search_ends_it_and_leaves_no_proof() {
    let grid = Grid::new();
    let (data, errors) = (grid.path("worker"), grid.path("errors"));
    let echo = grid.file("echo.wat", ECHO);
    let verbs = [(&WORKER[..], 0), (&["run", echo.to_str().unwrap()], 130)];
    for (verb, code) in verbs {
        let mut command = Command::new(crate::grid::POTLUCK);
        command.arg("--data").arg(&data).args(["--work-bits", "40"]).args(verb);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::from(File::create(&errors).unwrap()));
        let mut child = command.spawn().unwrap();
        until("it says what it does", || said(&errors).contains("making the proof of work"));
        signal(child.id(), "INT");
        assert_eq!(child.wait().unwrap().code(), Some(code), "{}", said(&errors));
        assert!(!data.join("identity").exists());
    }
    assert_eq!(id(&data)["identity"], Value::Null);
}

#[test]
fn open_and_private_grids_stay_apart_and_say_why() {
    let grid = Grid::new();
    let (open, private) = (grid.path("open"), grid.path("private"));
    let errors = grid.path("errors");
    let mut worker = start(in_the_open(&open, &WORKER), &open, &errors);
    let join = [&WORKER[..], &["--join", &worker.listen]].concat();
    let mut other = start(potluck(&private, &join), &private, &grid.path("other"));
    let why = || other.ask(&["status"])["unreachable"].to_string();
    until("the private worker says why it stays away", || why().contains("--private"));
    assert_eq!(other.ask(&["status"])["neighbours"], 0);
    assert_eq!(
        (&other.ask(&["status"])["open"], &worker.ask(&["status"])["open"]),
        (&false.into(), &true.into())
    );
    until("it says so where it was started, too", || {
        let told = said(&grid.path("other"));
        told.contains("cannot be reached") && told.contains("open grid")
    });
    worker.kill();
    other.kill();
}
