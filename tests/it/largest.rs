//! Modules that are as large as the profile allows in one way or another: each can be compiled,
//! loaded and started, because "fits" has to mean the same on every machine.

use potluck_sandbox::CompileLimits;
use potluck_unit::{Limits, Outcome, RunReport};

use crate::hostile::{run, sandbox};

fn module(fields: &str) -> Vec<u8> {
    wat::parse_str(format!("(module {fields} (func (export \"_start\")))")).unwrap()
}

fn numbered(count: usize, field: impl Fn(usize) -> String) -> String {
    (0..count).map(field).collect()
}

#[test]
fn the_largest_modules_that_fit_can_be_started() {
    // What an instance needs for 100,000 of these is for the profile's own tests to say: compiling
    // as many takes a minute.
    let functions = "(func)".repeat(5_000);
    let declared = numbered(5_000, |n| format!("{n} "));
    let escaped = format!("{functions} (elem declare func {declared})");
    let cases = [
        ("globals", "(global (mut v128) (v128.const i64x2 1 2))".repeat(100_000)),
        ("functions", escaped),
        (
            "elements",
            format!(
                "(func $f) (table $t 100000 funcref) {}",
                r"(elem (table $t) (i32.const 0) func".to_owned() + &" $f".repeat(100_000) + ")"
            ),
        ),
        (
            "element segments",
            format!(
                "(func $f) (table $t 1000 funcref) {}",
                "(elem (table $t) (i32.const 0) funcref (ref.func $f))".repeat(1000)
            ),
        ),
        ("tables", "(table 100000 funcref)".repeat(16)),
        ("passive data", r#"(memory 1) (data "x")"#.to_owned() + &r#"(data "y")"#.repeat(49_999)),
        (
            // Ten times as many take minutes to compile, because each needs code.
            "active data",
            "(memory 65536)".to_owned()
                + &numbered(5_000, |n| format!(r#"(data (i32.const {}) "x")"#, n * 800_000)),
        ),
        (
            "imports",
            r#"(import "wasi_snapshot_preview1" "sched_yield" (func (result i32)))"#.repeat(1000),
        ),
        (
            "exports",
            "(func)".to_owned() + &numbered(99_999, |n| format!("(export \"{n:080}\" (func 0))")),
        ),
        (
            "constants",
            numbered(1000, |n| {
                format!("(global i32 (i32.const {n}) {})", "(i32.const 1) i32.add ".repeat(199))
            }),
        ),
        (
            "parameters",
            format!(
                "(type $t (func (param{}) (result{}))) (table 1 funcref)
                 (func $f (type $t) unreachable) (func (export \"g\") (type $t) unreachable)",
                " i64".repeat(500),
                " f64".repeat(500)
            ),
        ),
        (
            "types",
            numbered(9_999, |n| {
                let bits = (0..16).map(|bit| if n >> bit & 1 == 1 { " i32" } else { " f64" });
                format!("(type (func (param{})))", bits.collect::<String>())
            }),
        ),
    ];
    let limits = Limits { memory_max_bytes: 4 << 30, ..Limits::DEFAULT };
    let cache = tempfile::tempdir().unwrap();
    let compile_limits = CompileLimits { cpu_base_s: 300, ..CompileLimits::DEFAULT };
    let sandbox = sandbox(cache.path()).with_compile_limits(compile_limits);
    for (what, fields) in cases {
        let run = run(&sandbox, &module(&fields), &limits, &[], b"");
        let is_result = matches!(
            run.report,
            RunReport::Done { outcome: Outcome::Result { exit_code: 0, .. }, .. }
        );
        assert!(is_result, "{what}: {:?}", run.report);
    }
}
