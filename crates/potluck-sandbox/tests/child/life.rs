//! Claims about children: how they are made, stopped and lost.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use potluck_sandbox::{RUNS_MAX, Refusal, Unit};
use potluck_unit::{Limits, NoResult};

use crate::claims;
use crate::world::{
    SMALL, World, eventually, exists, go, module, no_result, program, result, unit,
};

claims![
    an_endless_loop_ends_at_its_deadline_and_its_child_with_it,
    a_child_killed_from_outside_is_lost,
    a_killed_runner_was_stopped,
    a_suspended_child_waits_and_its_deadline_with_it,
    a_dropped_runner_leaves_no_process,
    a_child_outlives_the_thread_that_started_it,
    a_child_dies_with_its_parent_even_in_an_endless_loop,
    a_runner_retires_after_its_last_unit,
    a_unit_over_the_bounds_never_reaches_the_child,
    processor_time_is_counted,
    a_child_has_given_up_its_rights,
    a_damaged_artefact_is_made_again,
    an_artefact_no_engine_loads_is_forgotten,
    bytes_of_another_module_are_not_prepared,
    a_missing_program_is_no_result,
];

const FOREVER: &str = "(loop (br 0))";

fn an_endless_loop_ends_at_its_deadline_and_its_child_with_it() {
    let limits = Limits { deadline_ms: 100, ..SMALL };
    let mut runner = World::new().runner(&program(FOREVER), &limits);
    let pid = runner.handle().pid();
    let start = Instant::now();
    assert_eq!(no_result(&go(&mut runner, &[], b"")), NoResult::Deadline);
    assert!(start.elapsed() >= Duration::from_millis(100));
    assert!(runner.is_spent() && !exists(pid));
    assert_eq!(no_result(&go(&mut runner, &[], b"")), NoResult::ChildDied);
}

/// Sends a signal by the shell's own `kill`, which every system has.
fn signal(pid: u32, name: &str) {
    let done = Command::new("sh").args(["-c", &format!("kill {name} {pid}")]).status();
    assert!(done.unwrap().success());
}

/// CPU time that a process has used, in clock ticks.
fn ticks(pid: u32) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

/// Waits until a child has worked for some ticks more than `before`: its guest is in its loop.
fn await_loop(pid: u32, before: u64) {
    assert!(eventually(|| ticks(pid) > before + 1), "the guest does not get to run");
}

fn a_child_killed_from_outside_is_lost() {
    let mut runner = World::new().runner(&program(FOREVER), &SMALL);
    let pid = runner.handle().pid();
    let before = ticks(pid);
    let killer = std::thread::spawn(move || {
        await_loop(pid, before);
        signal(pid, "-KILL");
    });
    assert_eq!(no_result(&go(&mut runner, &[], b"")), NoResult::ChildDied);
    killer.join().unwrap();
    assert!(runner.is_spent() && !exists(pid));
}

fn a_killed_runner_was_stopped() {
    let mut runner = World::new().runner(&program(FOREVER), &SMALL);
    let handle = runner.handle();
    let before = ticks(handle.pid());
    let killer = std::thread::spawn(move || {
        await_loop(handle.pid(), before);
        handle.kill();
        handle.kill();
        handle.suspend();
        handle.resume();
    });
    assert_eq!(no_result(&go(&mut runner, &[], b"")), NoResult::Stopped);
    killer.join().unwrap();
    assert!(runner.is_spent());
}

fn a_suspended_child_waits_and_its_deadline_with_it() {
    let deadline = Duration::from_secs(2);
    let limits = Limits { deadline_ms: 2000, ..SMALL };
    let mut runner = World::new().runner(&program(FOREVER), &limits);
    let handle = runner.handle();
    let before = ticks(handle.pid());
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let ended = &ended;
        scope.spawn(move || {
            await_loop(handle.pid(), before);
            handle.suspend();
            // Real time has to pass here: more than the deadline as a whole.
            std::thread::sleep(deadline + deadline / 4);
            assert!(!ended.load(Ordering::SeqCst), "suspended time was counted");
            handle.resume();
        });
        assert_eq!(no_result(&go(&mut runner, &[], b"")), NoResult::Deadline);
        ended.store(true, Ordering::SeqCst);
    });
    // Between units, too.
    let mut idle = World::new().runner(&program(""), &SMALL);
    idle.handle().suspend();
    idle.handle().resume();
    assert_eq!(result(&go(&mut idle, &[], b"")).0, 0);
}

fn a_dropped_runner_leaves_no_process() {
    let runner = World::new().runner(&program(""), &SMALL);
    let handle = runner.handle();
    assert!(exists(handle.pid()));
    drop(runner);
    assert!(!exists(handle.pid()));
    handle.kill();
}

fn a_child_outlives_the_thread_that_started_it() {
    let world = World::new();
    let start = || {
        let thread = std::fs::read_link("/proc/thread-self").unwrap();
        (world.runner(&program(""), &SMALL), Path::new("/proc").join(thread))
    };
    let (mut runner, thread) = std::thread::scope(|scope| scope.spawn(start).join()).unwrap();
    assert!(eventually(|| !thread.exists()));
    assert_eq!(result(&go(&mut runner, &[], b"")).0, 0);
}

/// The word that makes this binary a parent which shows its child's id and then runs for good.
pub(crate) const PARENT: &str = "__parent";

pub(crate) fn parent() -> ExitCode {
    let mut runner = World::new().runner(&program(FOREVER), &SMALL);
    crate::say(&runner.handle().pid().to_string());
    go(&mut runner, &[], b"");
    ExitCode::SUCCESS
}

fn a_child_dies_with_its_parent_even_in_an_endless_loop() {
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .arg(PARENT)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(parent.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let pid: u32 = line.trim().parse().unwrap();
    // In its loop the guest never looks at the pipe.
    await_loop(pid, ticks(pid));
    parent.kill().unwrap();
    parent.wait().unwrap();
    assert!(eventually(|| !runs(pid)));
}

/// Whether this process exists and is no zombie: who reaps an orphan is not ours to say.
fn runs(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim().starts_with('Z'))
}

fn a_runner_retires_after_its_last_unit() {
    let mut runner = World::new().runner(&program(""), &SMALL);
    for run in 1..=RUNS_MAX {
        assert!(!runner.is_spent(), "{run}");
        assert_eq!(result(&go(&mut runner, &[], b"")).0, 0);
    }
    assert!(runner.is_spent());
    assert_eq!(no_result(&go(&mut runner, &[], b"")), NoResult::ChildDied);
}

fn a_unit_over_the_bounds_never_reaches_the_child() {
    let world = World::new();
    let mut runner = world.runner(&program(""), &SMALL);
    let most = vec![0; potluck_sandbox::STDIN_MAX_BYTES];
    assert_eq!(result(&go(&mut runner, &[], &most)).0, 0);
    let args = vec!["x".repeat(potluck_sandbox::ARGS_MAX_BYTES / 4 - 1); 4];
    let all = Unit { id: unit(0), args: &args, stdin: b"" };
    assert_eq!(result(&runner.run(&all)).0, 0);
    let empty = vec![String::new(); potluck_sandbox::ARGS_MAX_BYTES];
    assert_eq!(result(&runner.run(&Unit { args: &empty, ..all })).0, 0);
    let over = vec![0; potluck_sandbox::STDIN_MAX_BYTES + 1];
    assert_eq!(no_result(&go(&mut runner, &[], &over)), NoResult::Engine);
    let args = vec!["x".repeat(potluck_sandbox::ARGS_MAX_BYTES / 4); 4];
    let mut runner = world.runner(&program(""), &SMALL);
    assert_eq!(no_result(&runner.run(&Unit { args: &args, ..all })), NoResult::Engine);
}

fn processor_time_is_counted() {
    let limits = Limits { deadline_ms: 400, ..SMALL };
    let run = go(&mut World::new().runner(&program(FOREVER), &limits), &[], b"");
    // The machine may be busy, and the child gives way.
    assert!(run.cpu.unwrap() <= Duration::from_millis(600));
    assert!(cfg!(not(target_os = "linux")) || run.cpu.is_some());
}

fn a_child_has_given_up_its_rights() {
    let runner = World::new().runner(&program(""), &SMALL);
    let proc = std::path::PathBuf::from(format!("/proc/{}", runner.handle().pid()));
    let status = std::fs::read_to_string(proc.join("status")).unwrap();
    assert!(status.lines().any(|line| line == "NoNewPrivs:\t1"), "{status}");
    let limits = std::fs::read_to_string(proc.join("limits")).unwrap();
    for line in [
        "Max core file size        0",
        "Max file size             0",
        "Max open files            16",
    ] {
        assert!(limits.contains(line), "{limits}");
    }
    // Fields 19 and 41 of stat: nice value and scheduling policy (5 is SCHED_IDLE).
    let stat = std::fs::read_to_string(proc.join("stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    assert_eq!((fields[16], fields[38]), ("19", "5"));
    if let Ok(environment) = std::fs::read(proc.join("environ")) {
        assert_eq!(environment, b"");
    }
}

fn a_damaged_artefact_is_made_again() {
    let world = World::new();
    let (module, wasm) = module(&program(""));
    world.sandbox.prepare(&module, &wasm).unwrap();
    let file = std::fs::read_dir(world.cache()).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let artefact = world.sandbox.prepare(&module, &wasm).unwrap();
    let mut runner = world.sandbox.start(&artefact, &SMALL).unwrap();
    assert_eq!(result(&go(&mut runner, &[], b"")).0, 0);
    // And a good one is not: the file is still the same.
    let written = std::fs::metadata(&file).unwrap().len();
    world.sandbox.prepare(&module, &wasm).unwrap();
    assert_eq!(std::fs::metadata(&file).unwrap().len(), written);
}

fn an_artefact_no_engine_loads_is_forgotten() {
    let world = World::new();
    let (module, wasm) = module(&program(""));
    world.sandbox.prepare(&module, &wasm).unwrap();
    let file = std::fs::read_dir(world.cache()).unwrap().next().unwrap().unwrap().path();
    let code = b"\x7fELF and so on".repeat(999);
    let whole = [&code[..], blake3::hash(&code).as_bytes()].concat();
    std::fs::write(&file, whole).unwrap();
    let artefact = world.sandbox.prepare(&module, &wasm).unwrap();
    assert!(world.sandbox.start(&artefact, &SMALL).is_err());
    assert!(!file.exists());
    let artefact = world.sandbox.prepare(&module, &wasm).unwrap();
    assert!(world.sandbox.start(&artefact, &SMALL).is_ok());
}

fn bytes_of_another_module_are_not_prepared() {
    let (module, _) = module(&program(""));
    let (_, other) = crate::world::module(&program("nop"));
    let refusal = World::new().sandbox.prepare(&module, &other).unwrap_err();
    assert!(matches!(refusal, Refusal::NoResult(NoResult::Engine, _)), "{refusal:?}");
}

fn a_missing_program_is_no_result() {
    let program_text = program("");
    let (module, wasm) = module(&program_text);
    let missing = potluck_sandbox::Program { path: "/nowhere/at/all".into(), args: Vec::new() };
    let folder = tempfile::tempdir().unwrap();
    let sandbox = potluck_sandbox::Sandbox::new(missing, folder.path().into());
    let refusal = sandbox.prepare(&module, &wasm).unwrap_err();
    assert!(matches!(refusal, Refusal::NoResult(NoResult::ChildDied, _)), "{refusal:?}");
}
