//! Claims about modules that fit the profile and are made to be costly to compile.

use std::path::Path;

use potluck_sandbox::{CompileLimits, Program, Refusal, Sandbox};
use potluck_unit::NoResult;

use crate::claims;
use crate::world::{CHILD, World, module, program};

claims![
    every_bomb_is_too_costly_or_compiles_within_its_limits,
    too_little_memory_is_too_costly_too,
    a_bomb_is_tried_once,
    other_limits_are_another_try,
];

/// One second of processor time, whatever the size.
const SECOND: CompileLimits =
    CompileLimits { cpu_base_s: 1, cpu_per_mib_s: 0, ..CompileLimits::DEFAULT };

/// Many locals that are all alive across many nested loops, in many functions.
fn locals_in_loops() -> String {
    let locals = 2000;
    let sets: String = (0..locals)
        .map(|n| {
            let other = (n * 7 + 1) % locals;
            format!("(local.set {n} (i32.add (local.get {n}) (local.get {other})))")
        })
        .collect();
    let body = format!("{} {sets} {}", "loop ".repeat(60), "local.get 0 br_if 0 end ".repeat(60));
    format!("(func (local{}) {body})", " i32".repeat(locals)).repeat(12)
}

/// Calls through a table, each of which the compiler checks in place.
fn indirect_calls() -> String {
    let calls = "(call_indirect (i32.const 0))".repeat(33_000);
    format!("(table 1 funcref) (func {calls})")
}

/// The innermost block may leave by every one of a thousand.
fn branches() -> String {
    let targets: String = (0..990).map(|n| format!(" {n}")).collect();
    let table = format!("(br_table{targets} (i32.const 7))");
    let function = format!(
        "(func {} {table} {})",
        "block ".repeat(990),
        "(drop (i32.const 1)) end ".repeat(990)
    );
    function.repeat(40)
}

fn straight(line: &str, times: usize, locals: &str) -> String {
    format!("(func (local {locals}) {})", line.repeat(times))
}

fn bombs() -> Vec<(&'static str, String)> {
    let divide = "(local.set 0 (f64.div (f64.sqrt (local.get 0)) (local.get 1)))";
    let shuffle = "(local.set 0 (f32x4.div (f32x4.sqrt (local.get 0)) (f32x4.min (local.get 0) (local.get 1))))";
    let grow = "(drop (memory.grow (i32.const 0)))";
    vec![
        ("locals in loops", locals_in_loops()),
        ("indirect calls", indirect_calls()),
        ("branches", branches()),
        ("empty functions", "(func)".repeat(50_000)),
        ("divisions", straight(divide, 25_000, "f64 f64").repeat(4)),
        ("vectors", straight(shuffle, 15_000, "v128 v128").repeat(4)),
        ("calls of the engine", format!("(memory 1) {}", straight(grow, 40_000, ""))),
        (
            "constants",
            format!("(global i32 (i32.const 0) {})", "(i32.const 1) i32.add ".repeat(199_000)),
        ),
    ]
}

fn wasm(fields: &str) -> (potluck_unit::ModuleId, Vec<u8>) {
    module(&format!("(module {fields} (func (export \"_start\")))"))
}

/// Processor time of children that this process has reaped, in seconds.
fn reaped_s() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u64 = fields[13..15].iter().map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    ticks / 100
}

fn is_too_costly(refusal: &Refusal) -> bool {
    matches!(refusal, Refusal::NoResult(NoResult::TooCostlyToCompile, _))
}

fn every_bomb_is_too_costly_or_compiles_within_its_limits() {
    let world = World::new();
    let sandbox = world.sandbox.clone().with_compile_limits(SECOND);
    let mut went_off = Vec::new();
    for (name, fields) in bombs() {
        let (module, wasm) = wasm(&fields);
        potluck_sandbox::check(&wasm).unwrap();
        let before = reaped_s();
        if let Err(refusal) = sandbox.prepare(&module, &wasm) {
            assert!(is_too_costly(&refusal), "{name}: {refusal}");
            went_off.push(name);
        }
        let spent_s = reaped_s() - before;
        assert!(spent_s <= SECOND.cpu_base_s + 2, "{name}: {spent_s} s");
    }
    for name in ["locals in loops", "indirect calls"] {
        assert!(went_off.contains(&name), "{name} is no bomb: {went_off:?}");
    }
}

fn too_little_memory_is_too_costly_too() {
    let world = World::new();
    let limits = CompileLimits { memory_max_bytes: 24 << 20, ..CompileLimits::DEFAULT };
    let sandbox = world.sandbox.clone().with_compile_limits(limits);
    for (name, fields) in [
        ("locals in loops", locals_in_loops()),
        ("indirect calls", indirect_calls()),
        ("empty functions", "(func)".repeat(50_000)),
    ] {
        let (module, wasm) = wasm(&fields);
        let refusal = sandbox.prepare(&module, &wasm).unwrap_err();
        assert!(is_too_costly(&refusal), "{name}: {refusal}");
    }
}

/// A sandbox whose children leave a line in a file when they start.
fn counted(world: &World, log: &Path) -> Sandbox {
    let own = std::env::current_exe().unwrap();
    let script =
        format!("echo started >> '{}'; exec '{}' {CHILD} \"$@\"", log.display(), own.display());
    let args = ["-c", &script, "sh"].map(Into::into).to_vec();
    Sandbox::new(Program { path: "/bin/sh".into(), args }, world.cache())
}

fn starts(log: &Path) -> usize {
    std::fs::read_to_string(log).unwrap_or_default().lines().count()
}

fn a_bomb_is_tried_once() {
    let world = World::new();
    let log = world.cache().with_file_name("log");
    let sandbox = counted(&world, &log).with_compile_limits(SECOND);
    let (bomb, wasm) = wasm(&locals_in_loops());
    let first = sandbox.prepare(&bomb, &wasm).unwrap_err();
    assert!(is_too_costly(&first), "{first}");
    let tried = starts(&log);
    assert!(tried > 0);
    // A clone is the same sandbox.
    assert_eq!(sandbox.clone().prepare(&bomb, &wasm).unwrap_err(), first);
    assert_eq!(starts(&log), tried);
    // Only that module is remembered.
    let (good, wasm) = module(&program(""));
    sandbox.prepare(&good, &wasm).unwrap();
    assert_eq!(starts(&log), tried + 1);
}

fn other_limits_are_another_try() {
    let world = World::new();
    let (module, wasm) = wasm(&"(func)".repeat(2000));
    let little = CompileLimits { memory_max_bytes: 2 << 20, ..CompileLimits::DEFAULT };
    let poor = world.sandbox.clone().with_compile_limits(little);
    assert!(poor.prepare(&module, &wasm).is_err());
    assert!(poor.with_compile_limits(CompileLimits::DEFAULT).prepare(&module, &wasm).is_ok());
}
