//! Bad input: one clear line that says what was tried, on what, and what to do, with the documented
//! exit code, and nothing lost.

use crate::grid::{Finished, Grid, finish, potluck};
use crate::jobs::ECHO;

/// One line that starts with the program's name and holds every one of `words`, and no trace of the
/// program's insides.
#[track_caller]
pub(crate) fn refused(finished: &Finished, code: i32, words: &[&str]) {
    let err = &finished.err;
    assert_eq!(finished.code, code, "{err}");
    let last = err.lines().last().unwrap_or_default();
    assert!(last.starts_with("potluck: "), "{err}");
    for word in words {
        assert!(last.contains(word), "{word:?} is missing in: {err}");
    }
    for trace in ["panicked", "backtrace", "RUST_BACKTRACE", "src/"] {
        assert!(!err.contains(trace), "{err}");
    }
}

#[test]
fn modules_that_are_none_are_refused_before_anything_is_sent() {
    let grid = Grid::new();
    let text = grid.file("notes.wasm", "hello, this is no module");
    let wasm = wat(r#"(module (memory (export "memory") 1) (func (export "_start")))"#);
    let truncated = grid.file("truncated.wasm", &wasm[..wasm.len() - 3]);
    let foreign = grid.file(
        "foreign.wat",
        r#"(module (import "env" "launch" (func)) (memory (export "memory") 1) (func (export "_start")))"#,
    );
    let library = grid.file("library.wat", r#"(module (func (export "add")))"#);
    let broken = grid.file("broken.wat", "(module (func (export \"_start\") (i32.wrong)))");
    let run = |path: &std::path::Path| grid.run(&["submit", path.to_str().unwrap()]);
    refused(&run(&text), 2, &["notes.wasm", "not a wasm module"]);
    refused(&run(&truncated), 2, &["truncated.wasm", "truncated"]);
    refused(&run(&foreign), 2, &["foreign.wat", "env", "launch"]);
    refused(&run(&library), 2, &["library.wat", "_start"]);
    assert_eq!(run(&broken).code, 2);
    refused(&run(&grid.path("missing.wasm")), 2, &["missing.wasm"]);
}

fn wat(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

#[test]
fn inputs_that_make_no_units_are_refused() {
    let grid = Grid::new();
    let echo = grid.file("echo.wat", ECHO);
    let echo = echo.to_str().unwrap();
    let empty = grid.file("empty", "");
    let run = |args: &[&str]| grid.run(&[&["submit", echo], args].concat());
    refused(&run(&["--each-line", grid.path("nothing").to_str().unwrap()]), 2, &["nothing"]);
    refused(&run(&["--each-line", empty.to_str().unwrap()]), 2, &["empty"]);
    refused(&run(&["--each-file", grid.path("*.none").to_str().unwrap()]), 2, &["*.none"]);
    for array in ["9-0", "x", "0-9:0", "0-99999999999999999999"] {
        assert_eq!(run(&["--array", array]).code, 2, "{array}");
    }
    refused(&run(&["--array", "0-2000000"]), 2, &["1000000"]);
    assert_eq!(run(&["-k", "0"]).code, 2);
    assert_eq!(run(&["-k", "17"]).code, 2);
    assert_eq!(run(&["--memory", "5GiB"]).code, 2);
    refused(&run(&["--quality", "best"]), 2, &["best", "bulk, standard, critical"]);
    refused(&run(&["--priority", "10"]), 2, &["10", "0..=9"]);
}

#[test]
fn an_address_nobody_answers_at_is_named_and_the_job_is_kept() {
    let grid = Grid::new();
    let echo = grid.file("echo.wat", ECHO);
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let dead = socket.local_addr().unwrap().to_string();
    let submitted = finish(potluck(
        &grid.submitter(),
        &["submit", echo.to_str().unwrap(), "--join", &dead, "--hold-timeout", "8s"],
    ));
    assert_eq!(submitted.code, 3, "{}", submitted.err);
    assert!(submitted.err.contains(&dead), "{}", submitted.err);
    let id = submitted.out.trim().to_owned();
    assert_eq!(id.len(), 64);
    // Nothing is lost: it is still there, and a grid that comes later runs it.
    let mut grid = grid;
    grid.add(&[]);
    grid.add(&[]);
    grid.ok(&["job", "wait", &id]);
    let malformed = finish(potluck(
        &grid.submitter(),
        &["submit", echo.to_str().unwrap(), "--join", "nowhere"],
    ));
    refused(&malformed, 2, &["nowhere", "HOST:PORT"]);
}

#[test]
fn a_port_or_folder_in_use_is_named() {
    let grid = Grid::of(1);
    let worker = grid.worker(0);
    let elsewhere = grid.path("elsewhere");
    let same_port = finish(potluck(&elsewhere, &["worker", "--listen", &worker.listen]));
    refused(&same_port, 6, &[&worker.listen, "in use"]);
    let same_folder = finish(potluck(&worker.data, &["worker", "--listen", "127.0.0.1:0"]));
    refused(&same_folder, 6, &["worker-0", "in use"]);
}

#[test]
fn an_unknown_job_is_named() {
    let grid = Grid::of(1);
    let unknown = "ab".repeat(32);
    for verb in ["info", "wait", "results"] {
        let asked = grid.run(&["job", verb, &unknown, "--find-timeout", "1s"]);
        refused(&asked, 4, &[&unknown[..8]]);
    }
    assert_eq!(grid.run(&["job", "info", "xyz"]).code, 2);
}

#[test]
fn a_broken_config_names_the_line_and_starts_nothing() {
    let grid = Grid::new();
    grid.file("node/potluck.toml", "join = []\nspeed = 'high'\n");
    let started = finish(potluck(&grid.path("node"), &["worker", "--listen", "127.0.0.1:0"]));
    refused(&started, 2, &["potluck.toml", "line 2", "speed"]);
    grid.file("node/potluck.toml", "cheat = true\n");
    let started = finish(potluck(&grid.path("node"), &["worker", "--listen", "127.0.0.1:0"]));
    refused(&started, 2, &["potluck.toml", "cheat"]);
}

#[test]
fn a_key_that_is_none_is_left_as_it_is() {
    let grid = Grid::new();
    let key = grid.file("node/key", "not a key");
    let started = finish(potluck(&grid.path("node"), &["worker", "--listen", "127.0.0.1:0"]));
    assert_eq!(started.code, 1, "{}", started.err);
    assert!(started.err.contains("key"), "{}", started.err);
    assert_eq!(std::fs::read_to_string(key).unwrap(), "not a key");
}

#[test]
fn help_documents_the_exit_codes_and_hides_the_cheat() {
    let grid = Grid::new();
    let help = finish(potluck(&grid.path("x"), &["--help"]));
    assert_eq!(help.code, 0);
    for code in ["0", "1", "2", "3", "4", "5", "6", "130"] {
        assert!(help.out.contains(code), "{}", help.out);
    }
    let worker = finish(potluck(&grid.path("x"), &["worker", "--help"]));
    assert!(!worker.out.contains("cheat"), "{}", worker.out);
}
