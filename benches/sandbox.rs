//! What the sandbox costs and how well a donor holds it: units through a locked child beside the
//! bare engine, starting and compiling, guests beside the same C natively, and how exactly and how
//! fast a child obeys.
//!
//! `cargo bench --bench sandbox` runs it all in under three minutes; `-- units`, `compile`,
//! `kernels`, `throttle` or `latency` after it runs those parts. Times are processor time unless
//! they are called wall time, summed over parent and child, medians of rounds that take turns.

#![expect(clippy::print_stdout, reason = "a benchmark's figures are its output")]

#[path = "sandbox/bare.rs"]
mod bare;
#[path = "sandbox/clock.rs"]
mod clock;
#[path = "sandbox/placement.rs"]
mod placement;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use potluck_sandbox::{Artefact, Program, Run, Runner, RunnerHandle, Sandbox, Share, Unit};
use potluck_unit::{BlobId, JobId, Limits, Outcome, RunReport, UnitId};

use clock::Meter;

/// The least a WASI command can be.
const NO_OP: &str = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;

/// Says what it is told.
const ECHO: &str = r#"(module
    (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
    (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
    (memory (export "memory") 18)
    (func (export "_start")
      (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 0x110000))
      (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
      (i32.store (i32.const 4) (i32.load (i32.const 8)))
      (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))"#;

/// Computes for ever.
const LOOP: &str =
    r#"(module (memory (export "memory") 1) (func (export "_start") (loop (br 0))))"#;

/// Fills 256 MiB at a time for ever: one instruction that takes long.
const FILL: &str = r#"(module (memory (export "memory") 4096) (func (export "_start")
    (loop (memory.fill (i32.const 0) (i32.const 1) (i32.const 0x10000000)) (br 0))))"#;

fn main() {
    let asked: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    let world = World::new();
    let part = |name: &str, print: fn(&World)| {
        if asked.is_empty() || asked.iter().any(|word| word == name) {
            print(&world);
            println!();
        }
    };
    part("units", units);
    part("compile", compile);
    part("kernels", kernels);
    part("throttle", throttle);
    part("latency", latency);
}

/// A sandbox with a folder of its own.
struct World {
    folder: tempfile::TempDir,
    sandbox: Sandbox,
}

impl World {
    fn new() -> World {
        let folder = tempfile::Builder::new().prefix("potluck-bench-").tempdir();
        let folder = folder.expect("a folder");
        let path = env!("CARGO_BIN_EXE_potluck").into();
        let program = Program { path, args: vec!["__sandbox".into()] };
        let sandbox = Sandbox::new(program, folder.path().join("artefacts"));
        World { folder, sandbox }
    }

    fn prepare(&self, wasm: &[u8]) -> Artefact {
        self.sandbox.prepare(&BlobId::of(wasm), wasm).expect("the guest compiles")
    }

    fn start(&self, artefact: &Artefact) -> Runner {
        self.sandbox.start(artefact, &LIMITS).expect("a child starts")
    }

    fn runner(&self, wat: &str) -> Runner {
        self.start(&self.prepare(&wat::parse_str(wat).expect("the guest assembles")))
    }
}

fn run(runner: &mut Runner, args: &[String], stdin: &[u8]) -> Run {
    runner.run(&Unit { id: UnitId::of(&JobId([0; 32]), 0), args, stdin })
}

/// Standard output of a run that must have ended well.
fn stdout(run: Run) -> Vec<u8> {
    match run.report {
        RunReport::Done { outcome: Outcome::Result { exit_code: 0, stdout, .. }, .. } => stdout,
        other @ (RunReport::Done { .. } | RunReport::NoResult(_)) => panic!("no result: {other:?}"),
    }
}

fn us(time: Duration) -> f64 {
    time.as_secs_f64() * 1e6
}

fn median<T: PartialOrd + Copy>(mut values: Vec<T>) -> T {
    values.sort_by(|a, b| a.partial_cmp(b).expect("numbers"));
    values[values.len() / 2]
}

/// Units through a child and through the bare engine in this process, in turns.
fn units(world: &World) {
    println!("{:46} {:>9} {:>9} {:>9} {:>12}", "unit", "CPU us", "parent", "child", "units/s/core");
    for (name, wat, stdin_bytes, count) in [
        ("no-op", NO_OP, 0, 4000),
        ("1 KiB echo", ECHO, 1 << 10, 4000),
        ("64 KiB echo", ECHO, 64 << 10, 1000),
        ("1 MiB echo", ECHO, 1 << 20, 200),
    ] {
        let stdin: Arc<[u8]> = vec![7; stdin_bytes].into();
        let bare = bare::Program::new(&wat::parse_str(wat).expect("the guest assembles"));
        let (mut bare_us, mut beside_us, mut apart_us) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            bare_us.push((through_engine(&bare, &stdin, count), 0.0));
            beside_us.extend(through_child(world, wat, &stdin, count, Place::Beside));
            apart_us.extend(through_child(world, wat, &stdin, count, Place::Anywhere));
        }
        unit_row(&format!("{name}: bare engine"), bare_us);
        unit_row(&format!("{name}: locked child, beside its parent"), beside_us);
        unit_row(&format!("{name}: locked child, wherever it is put"), apart_us);
    }
}

/// Where a child runs.
#[derive(Clone, Copy, PartialEq)]
enum Place {
    /// On the core that its parent is on.
    Beside,
    /// Where the system puts it: on another core, if one is idle.
    Anywhere,
}

/// What a unit takes of its parent and of its child, witness included, in microseconds.
fn through_child(
    world: &World,
    wat: &str,
    stdin: &[u8],
    count: u32,
    place: Place,
) -> Option<(f64, f64)> {
    let mut runner = world.runner(wat);
    let _core = match place {
        Place::Beside => Some(placement::OneCore::with(runner.handle().pid())?),
        Place::Anywhere => None,
    };
    // The first units of a child touch memory that the later ones find ready.
    (0..count / 10).for_each(|_| drop(stdout(run(&mut runner, &[], stdin))));
    let (before, mut child) = (clock::thread(), Duration::ZERO);
    for _ in 0..count {
        let run = run(&mut runner, &[], stdin);
        child += run.cpu.expect("processor time is counted");
        assert_eq!(stdout(run).len(), stdin.len());
    }
    let each = |time| us(time) / f64::from(count);
    Some((each(clock::thread() - before), each(child)))
}

/// The same in this process, with nothing around it.
fn through_engine(program: &bare::Program, stdin: &Arc<[u8]>, count: u32) -> f64 {
    let mut stdout_bytes = Vec::new();
    (0..count / 10).for_each(|_| program.run(stdin, &mut stdout_bytes));
    let before = clock::thread();
    (0..count).for_each(|_| program.run(stdin, &mut stdout_bytes));
    let each = us(clock::thread() - before) / f64::from(count);
    assert_eq!(stdout_bytes[..], stdin[..]);
    each
}

/// Nothing, where nothing could be measured.
fn unit_row(name: &str, rounds: Vec<(f64, f64)>) {
    if rounds.is_empty() {
        return;
    }
    let (parent, child): (Vec<f64>, Vec<f64>) = rounds.into_iter().unzip();
    let (parent, child) = (median(parent), median(child));
    let whole = parent + child;
    println!("{name:46} {whole:>9.1} {parent:>9.1} {child:>9.1} {:>12.0}", 1e6 / whole);
}

/// Starting children, and compiling.
fn compile(world: &World) {
    println!("{:46} {:>9} {:>9}", "children and modules", "CPU ms", "wall ms");
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    let row = |name: &str, count: u32, work: &mut dyn FnMut()| {
        let (before, start) = (clock::all(), Instant::now());
        (0..count).for_each(|_| work());
        let (cpu, wall) = ((clock::all() - before) / count, start.elapsed() / count);
        println!("{name:46} {:>9.2} {:>9.2}", ms(cpu), ms(wall));
        cpu
    };
    let [no_op, echo] =
        [NO_OP, ECHO].map(|wat| world.prepare(&wat::parse_str(wat).expect("it assembles")));
    row("start a runner and drop it", 100, &mut || drop(world.start(&no_op)));
    let mut artefacts = [&no_op, &echo].into_iter().cycle();
    let mut runner = world.start(&echo);
    row("switch modules: drop, start, one unit", 100, &mut || {
        runner = world.start(artefacts.next().expect("a cycle has no end"));
        stdout(run(&mut runner, &[], b"hello"));
    });
    let wasm = large_module();
    let name = format!("compile a module of {:.1} MB", wasm.len() as f64 / 1e6);
    let mut artefact = None;
    let cpu = row(&name, 1, &mut || artefact = Some(world.prepare(&wasm)));
    println!("{:46} {:>9.2} MB/s", "", wasm.len() as f64 / 1e6 / cpu.as_secs_f64());
    row("the same from the cache", 5, &mut || drop(world.prepare(&wasm)));
    let artefact = artefact.expect("it was compiled");
    row("start a runner for it and drop it", 10, &mut || drop(world.start(&artefact)));
}

/// A mebibyte of functions that load, compute, branch, loop and call each other, no two alike.
fn large_module() -> Vec<u8> {
    let mut functions = String::new();
    for n in 0..6000 {
        let _ = write!(
            functions,
            "(func $f{n} (param $a i32) (param $b i64) (result i64) (local $c i64) (local $x f64)
               (local.set $c (i64.mul (local.get $b) (i64.const {0})))
               (loop $again
                 (local.set $c (i64.xor (i64.rotl (local.get $c) (i64.const {1}))
                   (i64.load offset={2} (i32.and (local.get $a) (i32.const 0xfff8)))))
                 (if (i64.lt_u (local.get $c) (i64.const {0}))
                   (then (i64.store offset={3} (i32.and (local.get $a) (i32.const 0xff8)) (local.get $c)))
                   (else (local.set $x (f64.add (local.get $x) (f64.convert_i64_s (local.get $c))))
                     (f64.store (i32.and (local.get $a) (i32.const 0x7f8)) (local.get $x))))
                 (local.set $a (i32.sub (local.get $a) (i32.const 1)))
                 (br_if $again (i32.gt_s (local.get $a) (i32.const {1}))))
               (i64.add (local.get $c) (i64.trunc_sat_f64_s (f64.sqrt (local.get $x))))
               (call $f{4} (i32.const 0) (local.get $b)) i64.add)",
            u64::from(n) * 0x9e37_79b9 + 1,
            n % 63 + 1,
            n * 8 % 4096,
            n * 16 % 2048,
            n * 7 % 6000u32,
        );
    }
    let text =
        format!(r#"(module (memory (export "memory") 2) {functions} (func (export "_start")))"#);
    wat::parse_str(text).expect("the module assembles")
}

/// C in the sandbox beside the same C natively.
fn kernels(world: &World) {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/kernels");
    println!("{:46} {:>9} {:>9} {:>9}", "kernel", "native s", "guest s", "ratio");
    let mut ratios = Vec::new();
    for (name, source, rounds) in KERNELS {
        let args = [rounds.to_string()];
        let wasm = std::fs::read(sources.join(name).with_extension("wasm")).expect("a module");
        let artefact = world.prepare(&wasm);
        let native = native(&sources.join(source), &world.folder.path().join(name));
        let (mut guest_s, mut native_s) = (Vec::new(), Vec::new());
        for _ in 0..KERNEL_ROUNDS {
            let mut answer = None;
            if let Some(native) = &native {
                let before = clock::all();
                let output = Command::new(native).args(&args).output().expect("it runs");
                native_s.push((clock::all() - before).as_secs_f64());
                answer = Some(output.stdout);
            }
            let run = run(&mut world.start(&artefact), &args, &[]);
            guest_s.push(run.cpu.expect("processor time is counted").as_secs_f64());
            let found = stdout(run);
            assert_eq!(answer.unwrap_or(found.clone()), found, "{name} comes to something else");
        }
        let guest = median(guest_s);
        if native_s.is_empty() {
            println!("{name:46} {:>9} {guest:>9.2} {:>9}", "-", "-");
        } else {
            let native = median(native_s);
            println!("{name:46} {native:>9.2} {guest:>9.2} {:>9.2}", guest / native);
            ratios.push((guest / native).ln());
        }
    }
    if ratios.is_empty() {
        println!("there is no `cc` here to build the kernels natively");
    } else {
        let mean = (ratios.iter().sum::<f64>() / ratios.len() as f64).exp();
        println!("{:46} {:>9} {:>9} {mean:>9.2}", "geometric mean", "", "");
    }
}

/// The kernel as a native program, if there is a compiler.
fn native(source: &Path, program: &Path) -> Option<PathBuf> {
    let mut compiler = Command::new("cc");
    compiler.args(["-O3", "-o"]).arg(program).arg(source).arg("-lm");
    let built = compiler.status().ok()?;
    assert!(built.success(), "{} does not compile natively", source.display());
    Some(program.into())
}

/// How near to its share a busy child stays.
fn throttle(world: &World) {
    println!("10 s of a busy child under a share, from its own processor time");
    println!("{:46} {:>9} {:>9} {:>9} {:>9}", "", "share %", "lowest 1s", "highest", "governor %");
    for count in [1, 2] {
        for percent in [5, 25, 50, 90] {
            let runners: Vec<Busy> = (0..count).map(|_| Busy::start(world, LOOP)).collect();
            for runner in &runners {
                let share = Share::from_percent(percent).expect("a percentage");
                runner.handle.throttle(share).expect("a thread");
            }
            std::thread::sleep(Duration::from_millis(200));
            let own = clock::own();
            let samples = sample(&runners, Duration::from_secs(10));
            let own = 10.0 * (clock::own() - own).as_secs_f64();
            for (at, marks) in samples.iter().enumerate() {
                let share = |from: &Mark, to: &Mark| {
                    100.0 * (to.1 - from.1).as_secs_f64() / (to.0 - from.0).as_secs_f64()
                };
                let seconds: Vec<f64> =
                    marks.windows(11).map(|window| share(&window[0], &window[10])).collect();
                let lowest = seconds.iter().copied().fold(f64::INFINITY, f64::min);
                let highest = seconds.iter().copied().fold(0.0, f64::max);
                let whole = share(&marks[0], &marks[marks.len() - 1]);
                let name = format!("{percent} %, runner {} of {count}", at + 1);
                println!("{name:46} {whole:>9.2} {lowest:>9.2} {highest:>9.2} {own:>9.2}");
            }
        }
    }
}

/// When, and how much processor time until then.
type Mark = (Instant, Duration);

/// Ten marks a second of each runner.
fn sample(runners: &[Busy], span: Duration) -> Vec<Vec<Mark>> {
    let start = Instant::now();
    let mut marks = vec![Vec::new(); runners.len()];
    loop {
        for (marks, runner) in marks.iter_mut().zip(runners) {
            marks.push((Instant::now(), runner.meter.read()));
        }
        if start.elapsed() >= span {
            return marks;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// A runner with a guest that never ends, on a thread of its own.
struct Busy {
    handle: RunnerHandle,
    meter: Meter,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Busy {
    /// Returns when the guest has computed for a while.
    fn start(world: &World, wat: &str) -> Busy {
        let mut runner = world.runner(wat);
        let handle = runner.handle();
        let meter = Meter::of(handle.pid());
        let thread = std::thread::spawn(move || drop(run(&mut runner, &[], &[])));
        let busy = Busy { handle, meter, thread: Some(thread) };
        busy.work(Duration::from_millis(20));
        busy
    }

    /// Returns when the guest has computed for so long.
    fn work(&self, time: Duration) {
        let before = self.meter.read();
        while self.meter.read() < before + time {
            std::thread::sleep(Duration::from_micros(200));
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.handle.kill();
        drop(self.thread.take().map(std::thread::JoinHandle::join));
    }
}

/// How long a child goes on after it was told to stop.
fn latency(world: &World) {
    println!("{:46} {:>9} {:>9} {:>9}", "ms until a busy child obeys", "median", "p99", "max");
    for (name, wat) in [("endless loop", LOOP), ("memory.fill of 256 MiB", FILL)] {
        let busy = Busy::start(world, wat);
        let (mut walls, mut cpus) = (Vec::new(), Vec::new());
        for n in 0..300 {
            busy.work(Duration::from_micros(1000 + n * 37 % 3000));
            let (start, before) = (Instant::now(), busy.meter.read());
            busy.handle.suspend();
            while !clock::is_stopped(busy.handle.pid()) {}
            walls.push(start.elapsed());
            cpus.push(busy.meter.read() - before);
            busy.handle.resume();
        }
        distribution(&format!("pause, {name}: wall time"), walls);
        distribution(&format!("pause, {name}: it computes on for"), cpus);
        drop(busy);
        let kills = (0..60).map(|_| {
            let busy = Busy::start(world, wat);
            let start = Instant::now();
            busy.handle.kill();
            start.elapsed()
        });
        distribution(&format!("kill and reap, {name}: wall time"), kills.collect());
    }
}

fn distribution(name: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |rank: usize| times[rank.min(times.len() - 1)].as_secs_f64() * 1e3;
    let (median, p99, max) = (at(times.len() / 2), at(times.len() * 99 / 100), at(usize::MAX));
    println!("{name:46} {median:>9.3} {p99:>9.3} {max:>9.3}");
}

/// Room for any kernel, and time for a slow machine.
const LIMITS: Limits = Limits {
    memory_max_bytes: 512 << 20,
    output_max_bytes: 2 << 20,
    out_max_bytes: 0,
    deadline_ms: 3_600_000,
};
const ROUNDS: u32 = 5;
const KERNEL_ROUNDS: u32 = 3;
/// Each kernel with as many rounds as make half a second or a whole one.
/// Module, source, and as many rounds as make half a second or a whole one.
const KERNELS: [(&str, &str, u32); 11] = [
    ("mandelbrot", "mandelbrot.c", 200),
    ("nbody", "nbody.c", 5000),
    ("matmul", "matmul.c", 1000),
    ("sha256", "sha256.c", 150),
    ("sieve", "sieve.c", 12),
    ("interpreter", "interpreter.c", 1000),
    ("fib", "fib.c", 4000),
    ("chase", "chase.c", 1),
    ("quicksort", "quicksort.c", 70),
    ("multiply", "multiply.c", 5000),
    ("multiply-wide", "multiply.c", 5000),
];
