//! How exactly and how fast the caps on the processor hold, measured on the slots of a node with
//! real guests in locked children.
//!
//! `cargo bench --bench budget` runs it all in some six minutes; `-- shares`, `changes`, `pauses`
//! or `others` after it runs those parts. Shares are of one core. A busy machine gives less than a
//! share and never more, so the load average is printed with the figures.

#![expect(clippy::print_stdout, reason = "a benchmark's figures are its output")]

#[path = "sandbox/clock.rs"]
#[expect(dead_code, reason = "shared with a benchmark that uses more of it")]
mod clock;

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use potluck_node::{Lent, Rig};
use potluck_unit::Limits;

use clock::Meter;

/// Computes for ever.
const LOOP: &str =
    r#"(module (memory (export "memory") 1) (func (export "_start") (loop (br 0))))"#;

/// The least a WASI command can be: of such units, the slot's own thread takes a good part.
const NO_OP: &str = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;

fn main() {
    let asked: Vec<String> =
        std::env::args().skip(1).filter(|word| !word.starts_with('-')).collect();
    if asked.first().is_some_and(|word| word == SPIN) {
        return spin();
    }
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let part = |name: &str, print: fn()| {
        if asked.is_empty() || asked.iter().any(|word| word == name) {
            let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
            println!("{name}; load average before {load:.4} on {cores} cores");
            print();
            println!();
        }
    };
    part("shares", shares);
    part("changes", changes);
    part("pauses", pauses);
    part("others", others);
}

/// Slots that run a guest each.
struct World {
    rig: Option<Rig>,
    _folder: tempfile::TempDir,
}

impl World {
    /// Returns when every slot's child has computed for a while.
    fn busy(slots: u16, wat: &str, units: u32) -> World {
        let folder = tempfile::Builder::new().prefix("potluck-bench-").tempdir();
        let folder = folder.expect("a folder");
        let rig = Rig::start(env!("CARGO_BIN_EXE_potluck").into(), folder.path(), slots);
        let world = World { rig: Some(rig.expect("slots")), _folder: folder };
        let wasm = wat::parse_str(wat).expect("the guest assembles");
        for slot in 0..slots {
            world.rig().assign(slot, &wasm, LIMITS, units).expect("an assignment");
        }
        // Compilers are gone, and nobody is without a runner, once as many as there are slots have
        // computed for a while.
        let mut since = world.rig().used();
        while world.rig().used() < since + Duration::from_millis(300) {
            if world.rig().pids().len() != usize::from(slots) {
                since = world.rig().used();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        world
    }

    fn rig(&self) -> &Rig {
        self.rig.as_ref().expect("taken only when it is dropped")
    }

    fn lend(&self, cpu_percent: u8) {
        self.rig().lend(Lent { cpu_percent, ..Lent::ALL });
    }

    fn meters(&self) -> Vec<Meter> {
        self.rig().pids().into_iter().map(Meter::of).collect()
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.rig.take().expect("taken only here").close();
    }
}

/// When, and how much processor time until then.
type Mark = (Instant, Duration);

fn percent(from: &Mark, to: &Mark) -> f64 {
    100.0 * (to.1.saturating_sub(from.1)).as_secs_f64() / (to.0 - from.0).as_secs_f64()
}

/// How near to its share a slot stays.
fn shares() {
    println!("10 s of busy slots under a cap: whole, and the lowest and highest window of 1 s");
    println!("{:46} {:>9} {:>9} {:>9} {:>9}", "", "share %", "lowest", "highest", "node %");
    for slots in [1, 2] {
        for cap in SHARES {
            let world = World::busy(slots, LOOP, 1);
            world.lend(cap);
            std::thread::sleep(SETTLE);
            let meters = world.meters();
            let own = clock::own();
            let marks = sample(|| meters.iter().map(Meter::read).collect());
            let own = 10.0 * (clock::own() - own).as_secs_f64();
            for (at, marks) in marks.iter().enumerate() {
                row(&format!("{cap} %, slot {} of {slots}", at + 1), marks, own);
            }
        }
    }
    for cap in SHARES {
        let world = World::busy(1, NO_OP, 1_000_000);
        world.lend(cap);
        std::thread::sleep(SETTLE);
        let own = clock::own();
        let marks = sample(|| vec![world.rig().used()]);
        let own = 10.0 * (clock::own() - own).as_secs_f64();
        row(&format!("{cap} %, units of nothing, thread included"), &marks[0], own);
    }
}

fn row(name: &str, marks: &[Mark], own: f64) {
    let seconds: Vec<f64> =
        marks.windows(11).map(|window| percent(&window[0], &window[10])).collect();
    let lowest = seconds.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = seconds.iter().copied().fold(0.0, f64::max);
    let whole = percent(&marks[0], &marks[marks.len() - 1]);
    println!("{name:46} {whole:>9.2} {lowest:>9.2} {highest:>9.2} {own:>9.2}");
}

/// Ten marks a second of each thing that is read.
fn sample(read: impl Fn() -> Vec<Duration>) -> Vec<Vec<Mark>> {
    let start = Instant::now();
    let mut marks = vec![Vec::new(); read().len()];
    loop {
        let (now, used) = together(&read);
        for (marks, used) in marks.iter_mut().zip(used) {
            marks.push((now, used));
        }
        if start.elapsed() >= SPAN {
            return marks;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// Reads at a time that is known: again, if this thread was interrupted meanwhile.
fn together<T>(read: impl Fn() -> T) -> (Instant, T) {
    loop {
        let before = Instant::now();
        let used = read();
        if before.elapsed() < Duration::from_micros(200) {
            return (before, used);
        }
    }
}

/// How long it takes until another cap holds.
fn changes() {
    println!("ms from a change of the cap until use stays within {TOLERANCE:?} of the new share");
    println!("{:46} {:>9} {:>9} {:>9}", "", "median", "p99", "max");
    for (from, to) in [(90, 5), (50, 25), (100, 5), (5, 90), (25, 50), (5, 100)] {
        let world = World::busy(1, LOOP, 1);
        let meter = world.meters().pop().expect("a child");
        let times = (0..40).map(|round| {
            world.lend(from);
            std::thread::sleep(SETTLE + Duration::from_millis(round % 10));
            let start = Instant::now();
            world.lend(to);
            let mut marks = vec![together(|| meter.read())];
            while start.elapsed() < Duration::from_millis(300) {
                std::thread::sleep(Duration::from_micros(500));
                marks.push(together(|| meter.read()));
            }
            settled(&marks, to)
        });
        distribution(&format!("{from} % to {to} %"), times.collect());
    }
}

/// From when on the use stays near to what the cap gives, counted from there.
fn settled(marks: &[Mark], cap: u8) -> Duration {
    let holds = |at: usize| {
        let (start, before) = marks[at];
        marks[at..].iter().all(|(now, used)| {
            let fair = (*now - start).mul_f64(f64::from(cap) / 100.0);
            used.saturating_sub(before).abs_diff(fair) <= TOLERANCE
        })
    };
    let from = (0..marks.len()).find(|at| holds(*at)).unwrap_or(marks.len() - 1);
    marks[from].0 - marks[0].0
}

/// How long two busy slots go on after a pause, and how long they take to go on again.
fn pauses() {
    println!("{:46} {:>9} {:>9} {:>9}", "ms, two busy slots", "median", "p99", "max");
    for cap in [100, 50] {
        let world = World::busy(2, LOOP, 1);
        world.lend(cap);
        let meters = world.meters();
        let used = || meters.iter().map(Meter::read).sum::<Duration>();
        let (mut walls, mut cpus, mut returns) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..200 {
            std::thread::sleep(Duration::from_micros(5000 + round * 37 % 3000));
            let (start, before) = (Instant::now(), used());
            world.rig().suspend();
            while !world.rig().pids().into_iter().all(clock::is_stopped) {}
            walls.push(start.elapsed());
            cpus.push(used() - before);
            // It has to stay so: several periods of the throttle.
            let after = used();
            std::thread::sleep(Duration::from_millis(30));
            assert_eq!(used(), after, "something computes while all stands still");
            let start = Instant::now();
            world.rig().resume();
            while used() == after {}
            returns.push(start.elapsed());
        }
        distribution(&format!("pause at {cap} %: wall time"), walls);
        distribution(&format!("pause at {cap} %: they compute on for"), cpus);
        distribution(&format!("resume at {cap} %: wall time"), returns);
        assert_eq!(world.rig().ended(), (0, 0, 0), "no unit has ended");
    }
}

fn distribution(name: &str, mut times: Vec<Duration>) {
    times.sort();
    let at = |rank: usize| times[rank.min(times.len() - 1)].as_secs_f64() * 1e3;
    let (median, p99, max) = (at(times.len() / 2), at(times.len() * 99 / 100), at(usize::MAX));
    println!("{name:46} {median:>9.3} {p99:>9.3} {max:>9.3}");
}

/// What other programs lose: a busy loop at normal priority on every core, with and without busy
/// slots on every core, in turns.
fn others() {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let world = World::busy(u16::try_from(cores).expect("few cores"), LOOP, 1);
    world.rig().suspend();
    let loops: Vec<Loop> = (0..cores).map(|_| Loop::start()).collect();
    let used = || loops.iter().map(|one| one.meter.read()).sum::<Duration>();
    let part = |span: Duration| {
        let (start, before) = (Instant::now(), used());
        std::thread::sleep(span);
        (used() - before).as_secs_f64() / start.elapsed().as_secs_f64() / cores as f64 * 100.0
    };
    let (mut alone, mut beside, mut ours) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..8 {
        alone.push(part(Duration::from_secs(2)));
        let before = world.rig().used();
        world.rig().resume();
        let start = Instant::now();
        beside.push(part(Duration::from_secs(2)));
        let gained = world.rig().used() - before;
        ours.push(gained.as_secs_f64() / start.elapsed().as_secs_f64() / cores as f64 * 100.0);
        world.rig().suspend();
    }
    let [alone, beside, ours] = [alone, beside, ours].map(median);
    println!("a busy loop at normal priority on each of {cores} cores: % of them, medians of 8");
    println!("{:46} {alone:>9.2}", "without units");
    println!("{:46} {beside:>9.2}", "beside a busy slot on each");
    println!("{:46} {ours:>9.2}", "what the slots get");
    println!("{:46} {:>9.2}", "what the loops lose", alone - beside);
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// A process that computes at normal priority until it is dropped.
struct Loop {
    child: Child,
    meter: Meter,
}

impl Loop {
    fn start() -> Loop {
        let program = std::env::current_exe().expect("a program");
        let mut command = Command::new(program);
        // Ends when its input does, should this program be killed.
        command.arg(SPIN).stdin(Stdio::piped()).stdout(Stdio::null());
        let child = command.spawn().expect("a process");
        let meter = Meter::of(child.id());
        Loop { child, meter }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn spin() {
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(0);
    });
    loop {
        std::hint::spin_loop();
    }
}

/// The word that makes this program a busy loop.
const SPIN: &str = "spin";
const SHARES: [u8; 4] = [5, 25, 50, 90];
const SPAN: Duration = Duration::from_secs(10);
/// Some periods of the throttle.
const SETTLE: Duration = Duration::from_millis(200);
/// What one period of the throttle gives, and a late look.
const TOLERANCE: Duration = Duration::from_millis(5);
/// Room for a small guest, and time for as long as this takes.
const LIMITS: Limits = Limits {
    memory_max_bytes: 16 << 20,
    output_max_bytes: 64 << 10,
    out_max_bytes: 0,
    deadline_ms: 3_600_000,
};
