//! What a donor has given: counted once it is found right, kept over restarts, and added up again by
//! anybody.

use serde_json::Value;

use crate::grid::{Grid, finish, potluck, until};
use crate::jobs::ECHO;

/// What a worker says that it has given ever.
fn units(grid: &Grid, worker: usize) -> i64 {
    grid.worker(worker).ask(&["given"])["ever"]["units"].as_i64().unwrap()
}

#[test]
fn what_was_given_is_counted_exported_and_added_up_again_by_anybody() {
    let mut grid = Grid::of(3);
    let echo = grid.file("echo.wat", ECHO);
    grid.ok(&["run", echo.to_str().unwrap(), "--array", "0-99", "--copies", "2"]);
    // Whatever was found right counts for whoever did it, and each unit has two copies at least.
    until("all is counted", || (0..3).map(|worker| units(&grid, worker)).sum::<i64>() >= 200);

    let worker = grid.worker(0);
    let given = worker.ask(&["given"]);
    let units = given["ever"]["units"].as_i64().unwrap();
    assert!(units > 0, "{given}");
    for by in ["day", "submitter"] {
        let parts = worker.ask(&["given", "--by", by])["parts"].clone();
        let sum: i64 =
            parts.as_array().unwrap().iter().map(|part| part["units"].as_i64().unwrap()).sum();
        assert_eq!(sum, units, "{parts}");
    }

    let file = grid.path("given.json");
    let file = file.to_str().unwrap();
    worker.ask(&["given", "--export", file]);
    // Anywhere: there is no node in this folder.
    let check = |file: &str| {
        finish(potluck(&grid.path("elsewhere"), &["--json", "given", "--check", file]))
    };
    let checked = check(file);
    assert_eq!(checked.code, 0, "{}", checked.err);
    let found: Value = serde_json::from_str(&checked.out).unwrap();
    assert_eq!((&found["shown"], &found["donor"]), (&given["ever"], &given["donor"]), "{found}");

    // One more unit is claimed than was given; a digit of a receipt is another; half is missing.
    let text = std::fs::read_to_string(file).unwrap();
    let claim = (format!("\"units\":{units}"), format!("\"units\":{}", units + 1));
    let boast = check(grid.file("boast.json", text.replace(&claim.0, &claim.1)).to_str().unwrap());
    assert_eq!(boast.code, 8, "{}", boast.err);
    assert!(boast.out.contains("its records show"), "{}", boast.out);
    let at = text.find("\"records\":[\"").unwrap() + 200;
    let mut forged = text.clone();
    forged.replace_range(at..=at, if &text[at..=at] == "0" { "1" } else { "0" });
    assert_eq!(check(grid.file("forged.json", forged).to_str().unwrap()).code, 8);
    let half = grid.file("half.json", &text[..text.len() / 2]);
    assert_eq!(check(half.to_str().unwrap()).code, 2);

    // A power cut neither loses anything nor counts it twice.
    grid.kill(0);
    grid.restart(0);
    assert_eq!(grid.worker(0).ask(&["given"])["ever"], given["ever"]);
}

#[test]
fn what_was_found_wrong_is_not_given() {
    let mut grid = Grid::of(2);
    grid.add(&["--cheat"]);
    let echo = grid.file("echo.wat", ECHO);
    grid.ok(&["run", echo.to_str().unwrap(), "--array", "0-39", "--copies", "2"]);
    // The submitter may have run some units itself, but none without an honest worker.
    until("the honest are counted", || units(&grid, 0) + units(&grid, 1) >= 40);
    assert_eq!(units(&grid, 2), 0);
}
