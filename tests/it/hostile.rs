//! Guests that mean harm, each in a file of its own, through real children: every one ends in
//! exactly the outcome that this table says, and the parent's memory does not grow with it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use potluck_sandbox::{Program, Run, STDERR_MAX_BYTES, STDIN_MAX_BYTES, Sandbox, Unit};
use potluck_unit::{Fault, JobId, Limits, ModuleId, NoResult, Outcome, RunReport, UnitId};

use crate::grid::POTLUCK;

/// What a guest is given and how it must end.
struct Case {
    file: &'static str,
    stdin: &'static [u8],
    limits: Limits,
    end: End,
}

#[derive(Debug, PartialEq, Eq)]
enum End {
    /// An exit code and nothing on standard output.
    Exit(u32),
    /// An exit code and so many bytes of output.
    Output(u32, usize),
    Fault(Fault),
    NoResult(NoResult),
}

const SMALL: Limits = Limits {
    memory_max_bytes: 16 << 20,
    output_max_bytes: 2 << 20,
    out_max_bytes: 0,
    deadline_ms: 120_000,
};
/// For guests that would go on for ever.
const SHORT: Limits = Limits { deadline_ms: 300, ..SMALL };

const fn case(file: &'static str, end: End) -> Case {
    Case { file, stdin: b"", limits: SMALL, end }
}

const fn endless(file: &'static str) -> Case {
    Case { limits: SHORT, ..case(file, End::NoResult(NoResult::Deadline)) }
}

const fn exit(stdin: &'static [u8], code: u32) -> Case {
    Case { stdin, ..case("exit", End::Exit(code)) }
}

const CASES: [Case; 33] = [
    case("memory-grow", End::Exit(256)),
    case("memory-touch", End::Exit(256)),
    Case {
        limits: Limits { memory_max_bytes: 128 << 20, ..SMALL },
        ..case("memory-touch", End::Exit(2048))
    },
    endless("memory-fill"),
    Case {
        limits: Limits { memory_max_bytes: 1 << 30, ..SHORT },
        ..case("memory-fill", End::NoResult(NoResult::Deadline))
    },
    case("memory-above-cap", End::Fault(Fault::InvalidModule)),
    case("table-grow", End::Exit(100_000)),
    case("output-full", End::Output(0, 2 << 20)),
    case("output-flood", End::Fault(Fault::OutputTooLarge)),
    Case {
        limits: Limits { output_max_bytes: (2 << 20) + 1, ..SMALL },
        ..case("output-flood", End::Output(0, (2 << 20) + 1))
    },
    case("error-flood", End::Exit(0)),
    Case { stdin: b"abcdefgh", ..case("input-flood", End::Exit(8)) },
    case("recursion-runaway", End::NoResult(NoResult::StackOverflow)),
    case("recursion-deep", End::Exit(1_000_000)),
    endless("loop"),
    endless("start-loop"),
    case("start-trap", End::Fault(Fault::Unreachable)),
    case("start-exit", End::Exit(7)),
    exit(&[0, 0, 0, 0], 0),
    exit(&[1, 0, 0, 0], 1),
    exit(&[125, 0, 0, 0], 125),
    exit(&[126, 0, 0, 0], 126),
    exit(&[255, 0, 0, 0], 255),
    exit(&[0, 1, 0, 0], 256),
    exit(&[255, 255, 255, 255], u32::MAX),
    case("proc-raise", End::Exit(58)),
    case("clock-spin", End::Exit(10_000_000)),
    case("sleep-years", End::Exit(100)),
    case("random-flood", End::Output(0, 16)),
    Case { stdin: b"abcdefgh", ..case("descriptors", End::Output(0, 131_070)) },
    case("data-at-the-end", End::Exit(42)),
    case("data-beyond", End::Fault(Fault::MemoryOutOfBounds)),
    case("nan-bits", End::Exit(0)),
];

/// Guests that no machine even compiles.
const REFUSED: [&str; 1] = ["locals"];

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/hostile")
}

fn wasm(file: &str) -> Vec<u8> {
    wat::parse_file(folder().join(file).with_extension("wat")).unwrap()
}

/// A sandbox whose children are the built program's.
pub(crate) fn sandbox(cache: &Path) -> Sandbox {
    let program = Program { path: POTLUCK.into(), args: vec!["__sandbox".into()] };
    Sandbox::new(program, cache.into())
}

/// Runs unit 0 of a module in a fresh child.
pub(crate) fn run(
    sandbox: &Sandbox,
    wasm: &[u8],
    limits: &Limits,
    args: &[String],
    stdin: &[u8],
) -> Run {
    let refused = |report| Run { report, stderr: Vec::new(), cpu: None };
    let artefact = match sandbox.prepare(&ModuleId::of(wasm), wasm) {
        Ok(artefact) => artefact,
        Err(refusal) => return refused(refusal.report()),
    };
    let mut runner = match sandbox.start(&artefact, limits) {
        Ok(runner) => runner,
        Err(error) => return refused(error.report()),
    };
    runner.run(&Unit { id: UnitId::of(&JobId([9; 32]), 0), args, stdin })
}

fn end(report: &RunReport) -> End {
    match report {
        RunReport::Done { outcome: Outcome::Result { exit_code, stdout, .. }, .. } => {
            if stdout.is_empty() {
                End::Exit(*exit_code)
            } else {
                End::Output(*exit_code, stdout.len())
            }
        }
        RunReport::Done { outcome: Outcome::Fault(fault), .. } => End::Fault(*fault),
        RunReport::NoResult(reason) => End::NoResult(*reason),
    }
}

/// The most memory that this process has had in use, in bytes.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}

/// What the parent may take while guests run: the test itself, the largest output of the table a
/// few times over, an artefact and an inbox. Guests take up to a gibibyte.
const PARENT_MAX_BYTES: u64 = 64 << 20;

#[test]
#[ignore = "measures its whole process: the next test runs it in one of its own"]
fn table() {
    let cache = tempfile::tempdir().unwrap();
    let sandbox = sandbox(cache.path());
    for case in &CASES {
        let wasm = wasm(case.file);
        let run = || run(&sandbox, &wasm, &case.limits, &[], case.stdin);
        let first = run();
        assert_eq!(end(&first.report), case.end, "{}", case.file);
        assert!(first.stderr.len() <= STDERR_MAX_BYTES, "{}", case.file);
        if !matches!(case.end, End::NoResult(_)) {
            assert_eq!(run().report, first.report, "{}", case.file);
        }
        let peak = peak();
        assert!(peak < PARENT_MAX_BYTES, "{}: the parent has taken {peak} bytes", case.file);
    }
}

#[test]
fn every_hostile_guest_ends_as_the_table_says_and_the_parent_stays_small() {
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "hostile::table", "--ignored", "--nocapture"])
        .output()
        .unwrap();
    let out = String::from_utf8_lossy(&child.stdout);
    let err = String::from_utf8_lossy(&child.stderr);
    assert!(child.status.success() && out.contains("1 passed"), "{out}{err}");
}

#[test]
fn guests_outside_the_profile_are_invalid_before_anything_is_compiled() {
    let cache = tempfile::tempdir().unwrap();
    // Its children could not even be started.
    let nobody = Program { path: "/nowhere/at/all".into(), args: Vec::new() };
    let sandbox = Sandbox::new(nobody, cache.path().into());
    for file in REFUSED {
        let report = run(&sandbox, &wasm(file), &SMALL, &[], b"").report;
        assert_eq!(end(&report), End::Fault(Fault::InvalidModule), "{file}");
    }
}

#[test]
fn an_input_of_64_mib_is_read_and_one_byte_more_never_reaches_a_guest() {
    let cache = tempfile::tempdir().unwrap();
    let sandbox = sandbox(cache.path());
    let wasm = wasm("input-flood");
    let mut stdin = vec![7; STDIN_MAX_BYTES];
    let most = run(&sandbox, &wasm, &SMALL, &[], &stdin);
    assert_eq!(end(&most.report), End::Exit(64 << 20));
    stdin.push(7);
    let more = run(&sandbox, &wasm, &SMALL, &[], &stdin);
    assert_eq!(end(&more.report), End::NoResult(NoResult::Engine));
}

#[test]
fn every_guest_has_an_expectation_and_every_expectation_a_guest() {
    let expected = CASES.iter().map(|case| case.file).chain(REFUSED);
    let expected: BTreeSet<String> = expected.map(|file| format!("{file}.wat")).collect();
    let there: BTreeSet<String> = std::fs::read_dir(folder())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(there, expected);
}
