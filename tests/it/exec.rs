//! Running a program here, without a grid: it ends as the program does, and finds what a grid finds.

use std::io::{BufRead as _, Write as _};
use std::process::Stdio;

use serde_json::Value;

use crate::grid::{Finished, Grid, finish, potluck};
use crate::jobs::{ECHO, SPIN};

/// A WASI command that copies its input file `data.txt` to `/out/sub/copy`.
const FILES: &str = include_str!("files.wat");

/// Runs `potluck exec` on a data folder of its own, with nothing on standard input.
fn exec(grid: &Grid, args: &[&str]) -> Finished {
    finish(potluck(&grid.path("alone"), &[&["exec"], args].concat()))
}

fn file(grid: &Grid, name: &str, text: &str) -> String {
    grid.file(name, text).to_str().unwrap().to_owned()
}

#[test]
fn a_program_runs_here_as_if_it_were_one_of_this_machine() {
    let grid = Grid::new();
    let echo = file(&grid, "echo.wat", ECHO);
    let ended = exec(&grid, &[&echo, "exit=7", "one", "--", "--two"]);
    assert_eq!((ended.code, ended.out.as_str(), ended.err.as_str()), (7, "one\n--two\n", ""));
    // Standard input comes from a pipe.
    let mut command = potluck(&grid.path("alone"), &["exec", &echo]);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"from\0a pipe").unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, b"from\0a pipe");
    let json: Value = serde_json::from_str(&exec(&grid, &[&echo, "x", "--json"]).out).unwrap();
    assert_eq!((&json["exit_code"], &json["output_bytes"]), (&0.into(), &2.into()));
    // Neither a key nor anything else of a node has been made.
    let left = std::fs::read_dir(grid.path("alone")).unwrap();
    let left: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["artefacts"]);
}

#[test]
fn output_is_there_before_the_program_has_ended() {
    let grid = Grid::new();
    let text = r#"(module
        (import "wasi_snapshot_preview1" "fd_write"
          (func $write (param i32 i32 i32 i32) (result i32)))
        (memory (export "memory") 1) (data (i32.const 0) "\08\00\00\00\06\00\00\00first\n")
        (func (export "_start")
          (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))
          (loop (br 0))))"#;
    let mut command = potluck(&grid.path("alone"), &["exec", &file(&grid, "first.wat", text)]);
    let command = command.stdin(Stdio::null()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    // The program never ends: if this line came with its end, it would never come.
    let mut line = String::new();
    std::io::BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "first\n");
    assert!(child.try_wait().unwrap().is_none());
    child.kill().unwrap();
    child.wait().unwrap();
}

#[test]
fn a_digest_is_what_a_grid_accepts() {
    let grid = Grid::of(2);
    let echo = file(&grid, "echo.wat", ECHO);
    let files = file(&grid, "files.wat", FILES);
    let input = file(&grid, "input", "some input");
    for (name, run, alone) in [
        (
            "text",
            vec![&echo[..], "--stdin-file", &input, "--", "exit=3", "a"],
            vec![&echo[..], "exit=3", "a", "--stdin-file", &input],
        ),
        ("files", vec![&files[..], "--out-limit", "100"], vec![&files[..], "--out-limit", "100"]),
    ] {
        let out = grid.path(name);
        let run = [&["run", "--out", out.to_str().unwrap()], &run[..]].concat();
        grid.ok(&run);
        let summary = std::fs::read_to_string(out.join("summary.json")).unwrap();
        let summary: Value = serde_json::from_str(&summary).unwrap();
        let accepted = summary["units"][0]["result"].as_str().unwrap().to_owned();
        let digest = exec(&grid, &[&["--digest"], &alone[..]].concat());
        assert_eq!((digest.code, digest.out), (0, accepted + "\n"), "{name}");
        if name == "files" {
            assert_eq!(std::fs::read(out.join("0/sub/copy")).unwrap(), b"");
            assert_eq!(std::fs::read_to_string(out.join("0.out")).unwrap(), "read 0\n");
            let named = serde_json::json!([{ "path": "sub/copy", "bytes": 0 }]);
            assert_eq!(summary["units"][0]["files"], named);
        }
    }
}

#[test]
fn runs_agree_and_say_so() {
    let grid = Grid::new();
    let echo = file(&grid, "echo.wat", ECHO);
    let digest = exec(&grid, &[&echo, "x", "--digest"]).out;
    let agreed = exec(&grid, &[&echo, "x", "--repeat", "5"]);
    assert_eq!(agreed.code, 0, "{}", agreed.err);
    let expected = format!("5 runs agree: result {}, witness ", digest.trim_end());
    assert!(agreed.out.starts_with(&expected), "{}", agreed.out);
    // With both, the hash alone; and another input has another.
    assert_eq!(exec(&grid, &[&echo, "x", "--repeat", "2", "--digest"]).out, digest);
    assert_ne!(exec(&grid, &[&echo, "y", "--digest"]).out, digest);
}

#[test]
fn faults_and_no_results_are_told_from_exit_codes() {
    let grid = Grid::new();
    let trap = r#"(module (func (export "_start") unreachable))"#;
    let trap = file(&grid, "trap.wat", trap);
    let spin = file(&grid, "spin.wat", SPIN);
    let fault = exec(&grid, &[&trap]);
    let said = "potluck: the program ended by a fault: unreachable executed\n";
    assert_eq!((fault.code, fault.out.as_str(), fault.err.as_str()), (121, "", said));
    // A fault is an outcome too, and a grid would vote on it.
    let digest = exec(&grid, &[&trap, "--digest"]);
    assert_eq!((digest.code, digest.out.len()), (121, 33));
    let late = exec(&grid, &[&spin, "--deadline", "50ms"]);
    let said = "potluck: no result on this machine: deadline passed\n";
    assert_eq!((late.code, late.out.as_str(), late.err.as_str()), (122, "", said));
    let missing = exec(&grid, &["missing.wasm"]);
    assert_eq!(missing.code, 2);
}

#[test]
fn input_files_are_found_and_files_left_are_kept() {
    let grid = Grid::new();
    let files = file(&grid, "files.wat", FILES);
    let data = file(&grid, "data", "words");
    grid.file("folder/data.txt", "letters");
    grid.file("folder/more/data.txt", "");
    let named = format!("data.txt={data}");
    let (out, folder) = (grid.path("kept"), grid.path("folder"));
    let (out, folder) = (out.to_str().unwrap(), folder.to_str().unwrap());
    let kept = || std::fs::read(grid.path("kept/sub/copy")).unwrap();
    // Without any there is no file system at all.
    assert_eq!(exec(&grid, &[&files]).out, "read 0\n");
    let ended = exec(&grid, &[&files, "--file", &named, "--out", out]);
    assert_eq!((ended.code, ended.out.as_str(), kept()), (0, "read 5\n", b"words".to_vec()));
    let ended = exec(&grid, &[&files, "--dir", folder, "--out", out]);
    assert_eq!((ended.code, ended.out.as_str(), kept()), (0, "read 7\n", b"letters".to_vec()));
    // Not asked for, not kept, but said.
    let ended = exec(&grid, &[&files, "--file", &named, "--out-limit", "1KiB"]);
    assert_eq!(ended.err, "1 file in /out not kept; keep with --out DIR\n");
    // `sub` and `sub/copy` are eleven bytes, so the file is there and its contents are not.
    let full = ["--file", &named, "--out", out, "--out-limit", "15"];
    assert_eq!(exec(&grid, &[&[&files[..]], &full[..]].concat()).code, 0);
    assert_eq!(kept(), b"");
    let twice = exec(&grid, &[&files, "--file", &named, "--dir", folder]);
    assert_eq!(twice.code, 2);
    assert!(twice.err.contains("two input files need the path `data.txt`"), "{}", twice.err);
    let inside = format!("out/x={data}");
    let inside = exec(&grid, &[&files, "--file", &inside, "--out", out]);
    assert!(inside.err.contains("`/out` is the unit's own folder"), "{}", inside.err);
}
