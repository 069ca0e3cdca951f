//! The sample programs against their published values, on a real grid of two.

use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::grid::Grid;

/// `tasks/expected.toml`.
#[derive(Deserialize)]
struct Expected {
    case: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    task: String,
    #[serde(default)]
    units: Vec<String>,
    #[serde(default)]
    args: Vec<String>,
    lines: Option<Vec<String>>,
    combine: String,
    expected: String,
    source: String,
}

fn tasks() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tasks")
}

fn combine(how: &str, out: &str) -> String {
    let columns = || out.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    match how {
        "sum" => columns().map(|row| row[0].parse::<u128>().unwrap()).sum::<u128>().to_string(),
        "max-second-column" => {
            columns().max_by_key(|row| row[1].parse::<u128>().unwrap()).unwrap().join(" ")
        }
        "concat" => out.to_owned(),
        other => panic!("no such way to combine: {other}"),
    }
}

#[test]
fn every_program_gives_its_published_value_on_a_grid_of_two() {
    let text = std::fs::read_to_string(tasks().join("expected.toml")).unwrap();
    let expected: Expected = toml::from_str(&text).unwrap();
    let grid = Grid::of(2);
    for case in &expected.case {
        let module = tasks().join(&case.task).join(format!("{}.wasm", case.task));
        let mut args = vec!["run".to_owned(), module.to_str().unwrap().to_owned()];
        args.extend(case.units.iter().cloned());
        if let Some(lines) = &case.lines {
            let file = grid.file("lines", lines.join("\n") + "\n");
            args.extend(["--each-line".to_owned(), file.to_str().unwrap().to_owned()]);
            args.push("--stdin".to_owned());
        }
        args.push("--".to_owned());
        args.extend(case.args.iter().cloned());
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let found = combine(&case.combine, &grid.ok(&args));
        assert_eq!(found.trim_end(), case.expected.trim_end(), "{} ({})", case.task, case.source);
    }
    let mut tried: Vec<&str> = expected.case.iter().map(|case| case.task.as_str()).collect();
    tried.dedup();
    let mut there: Vec<String> = std::fs::read_dir(tasks())
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_type().unwrap().is_dir())
        .map(|entry| entry.file_name().into_string().unwrap())
        .collect();
    there.sort();
    tried.sort_unstable();
    assert_eq!(tried, there, "every folder of tasks has a case in expected.toml");
}

#[test]
fn the_prebuilt_modules_are_those_that_the_sums_name() {
    let sums = std::fs::read_to_string(tasks().join("SHA256SUMS")).unwrap();
    assert!(sums.lines().count() >= 4);
    let checked = std::process::Command::new("sha256sum")
        .args(["--check", "--quiet", "SHA256SUMS"])
        .current_dir(tasks())
        .status()
        .unwrap();
    assert!(checked.success());
}
