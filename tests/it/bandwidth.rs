//! Caps on bytes per second as the kernel's interface counters see them: real nodes in network
//! namespaces on one switch, a large input that moves between them, counters read ten times a
//! second.
//!
//! Needs the right to make network namespaces (root) and `ip`; without them the tests say so and
//! test nothing. What is claimed is about bytes, not about this machine's speed: a busy one moves
//! less, never more.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::grid::{Grid, POTLUCK, Worker, finish, until};

/// Machines on one switch. Dropping it removes them.
struct Lan {
    switch: String,
    names: Vec<String>,
}

fn ip(args: &str) -> bool {
    let status = Command::new("ip").args(args.split(' ')).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

fn address(machine: usize) -> String {
    format!("10.213.78.{}", machine + 1)
}

impl Lan {
    /// None where namespaces can't be made.
    fn of(machines: usize) -> Option<Lan> {
        static LANS: AtomicUsize = AtomicUsize::new(0);
        let lan = LANS.fetch_add(1, Ordering::Relaxed);
        let stem = format!("potluck-{}-{lan}", std::process::id());
        let names = (0..machines).map(|machine| format!("{stem}-{machine}")).collect();
        let lan = Lan { switch: format!("{stem}-switch"), names };
        let switch = &lan.switch;
        let plugged = |machine: usize, name: &str| {
            let (address, port) = (address(machine), format!("port{machine}"));
            let cable = format!("link add cable netns {name} type veth peer name {port}");
            ip(&format!("netns add {name}"))
                && ip(&format!("{cable} netns {switch}"))
                && ip(&format!("-n {switch} link set {port} master switch"))
                && ip(&format!("-n {switch} link set {port} up"))
                && ip(&format!("-n {name} addr add {address}/24 dev cable"))
                && ip(&format!("-n {name} link set cable up"))
                && ip(&format!("-n {name} link set lo up"))
        };
        let laid = ip(&format!("netns add {switch}"))
            && ip(&format!("-n {switch} link add switch type bridge"))
            && ip(&format!("-n {switch} link set switch up"))
            && lan.names.iter().enumerate().all(|(machine, name)| plugged(machine, name));
        if !laid {
            // Past the test runner, which swallows what a passing test prints.
            let why = "bandwidth tests are skipped: this user can't make namespaces, or there is \
                       no `ip`";
            let mut terminal = std::io::stderr();
            writeln!(terminal, "{why}").unwrap();
        }
        laid.then_some(lan)
    }

    /// A command of the program on one of the machines.
    fn potluck(&self, machine: usize, data: &Path, args: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.names[machine], POTLUCK]);
        command
            .env_remove("POTLUCK_DATA")
            .envs(crate::grid::UNPAUSED)
            .arg("--private")
            .arg("--data")
            .arg(data)
            .args(args);
        command
    }

    /// A worker on one of the machines, joined to another's.
    fn worker(&self, machine: usize, grid: &Grid, join: Option<usize>, caps: &[Cap]) -> Running {
        let data = grid.path(&format!("machine-{machine}"));
        let listen = format!("{}:7117", address(machine));
        let join = join.map(|other| format!("{}:7117", address(other)));
        let mut args = vec!["--json", "worker", "--slots", "1", "--listen", &listen];
        args.extend(join.iter().flat_map(|join| ["--join", join]));
        let mut command = self.potluck(machine, &data, &args);
        command.envs(caps.iter().map(|cap| (cap.variable, format!("{}KiB/s", cap.kib_per_s))));
        command.stderr(Stdio::null());
        Running(Worker::of(command, data, Vec::new()))
    }

    /// A job from a machine's own worker, with so many bytes of input. Nobody can finish it, because
    /// more must agree than there are, so whoever hears of it fetches what it needs.
    fn submit(&self, machine: usize, grid: &Grid, bytes: u64) {
        let module = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;
        let module = grid.file("nothing.wat", module);
        let noise = noise(machine as u64 + 1, bytes);
        for (part, noise) in noise.chunks(8 << 20).enumerate() {
            grid.file(&format!("inputs-{machine}/{part}"), noise);
        }
        let inputs = grid.path(&format!("inputs-{machine}/*"));
        let (module, inputs) = (module.to_str().unwrap(), inputs.to_str().unwrap());
        let args = ["submit", module, "-k", "9", "--each-file", inputs];
        let done = finish(self.potluck(machine, &grid.path(&format!("machine-{machine}")), &args));
        assert_eq!(done.code, 0, "{}", done.err);
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        for name in self.names.iter().chain([&self.switch]) {
            ip(&format!("netns del {name}"));
        }
    }
}

/// A worker that is killed when dropped, also when a check has failed.
struct Running(Worker);

impl Running {
    fn pid(&self) -> u32 {
        self.0.pid()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.kill();
    }
}

/// A cap on one direction, as the environment names it.
struct Cap {
    variable: &'static str,
    kib_per_s: u64,
}

fn noise(seed: u64, bytes: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let byte = |_| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..bytes).map(byte).collect()
}

/// Which counter of an interface.
#[derive(Clone, Copy)]
enum Counter {
    Received,
    Sent,
}

/// What the kernel has counted on the cable of the machine that this process is on.
fn counted(pid: u32, counter: Counter) -> u64 {
    let table = std::fs::read_to_string(format!("/proc/{pid}/net/dev")).unwrap();
    let line = table.lines().find_map(|line| line.trim().strip_prefix("cable:")).unwrap();
    let column = match counter {
        Counter::Received => 0,
        Counter::Sent => 8,
    };
    line.split_whitespace().nth(column).unwrap().parse().unwrap()
}

/// A counter that is read ten times a second.
struct Watch {
    stop: Arc<AtomicBool>,
    reader: JoinHandle<Vec<Reading>>,
}

/// What a counter showed, and the times between which it was read.
struct Reading {
    begun: Duration,
    ended: Duration,
    bytes: u64,
}

impl Watch {
    fn begin(pid: u32, counter: Counter) -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let reader = std::thread::spawn(move || {
            let start = Instant::now();
            let mut read = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let (begun, bytes) = (start.elapsed(), counted(pid, counter));
                read.push(Reading { begun, ended: start.elapsed(), bytes });
                std::thread::sleep(Duration::from_millis(100));
            }
            read
        });
        Watch { stop, reader }
    }

    fn end(self) -> Vec<Reading> {
        self.stop.store(true, Ordering::Relaxed);
        self.reader.join().unwrap()
    }
}

/// The highest rate over any stretch of at least this length, as a share of the cap. A stretch
/// lasts from before its first reading until after its last, so that being late makes none higher.
fn highest(read: &[Reading], least: Duration, cap: u64) -> f64 {
    let from = |(place, first): (usize, &Reading)| {
        let last = read[place..].iter().find(|last| last.ended - first.begun >= least)?;
        let seconds = (last.ended - first.begun).as_secs_f64();
        Some((last.bytes - first.bytes) as f64 / seconds / cap as f64)
    };
    read.iter().enumerate().filter_map(from).fold(0.0, f64::max)
}

/// Checks both promises and that the cap was what held things up.
fn check(what: &str, read: &[Reading], cap: u64) {
    let second = highest(read, Duration::from_secs(1), cap);
    let ten = highest(read, Duration::from_secs(10), cap);
    let moved = read.last().unwrap().bytes - read[0].bytes;
    eprintln!("{what}: {moved} bytes, at most {second:.3} in 1 s and {ten:.3} in 10 s of the cap");
    assert!(second <= 1.25, "{what}: {second:.3} of the cap in a second");
    assert!(ten <= 1.02, "{what}: {ten:.3} of the cap in ten seconds");
    assert!(second > 0.5, "{what}: the cap was never reached, so nothing is shown");
}

/// One capped node gives a large input to others.
fn upload(kib_per_s: u64, others: usize) {
    let Some(lan) = Lan::of(1 + others) else { return };
    let (grid, cap) = (Grid::new(), kib_per_s << 10);
    let caps = [Cap { variable: "POTLUCK_BUDGET_UPLOAD", kib_per_s }];
    let first = lan.worker(0, &grid, None, &caps);
    lan.submit(0, &grid, 12 * cap / others as u64);
    let watch = Watch::begin(first.pid(), Counter::Sent);
    let others: Vec<Running> =
        (1..=others).map(|machine| lan.worker(machine, &grid, Some(0), &[])).collect();
    until("the input has been sent", || counted(first.pid(), Counter::Sent) >= 12 * cap);
    let what = format!("upload at {kib_per_s} KiB/s to {}", others.len());
    check(&what, &watch.end(), cap);
}

/// One capped node gets large inputs from others.
fn download(kib_per_s: u64, others: usize) {
    let Some(lan) = Lan::of(1 + others) else { return };
    let (grid, cap) = (Grid::new(), kib_per_s << 10);
    let mut workers = Vec::new();
    for machine in 1..=others {
        workers.push(lan.worker(machine, &grid, (machine > 1).then_some(1), &[]));
        lan.submit(machine, &grid, 12 * cap / others as u64);
    }
    let caps = [Cap { variable: "POTLUCK_BUDGET_DOWNLOAD", kib_per_s }];
    let last = lan.worker(0, &grid, Some(1), &caps);
    let watch = Watch::begin(last.pid(), Counter::Received);
    until("the inputs have come", || counted(last.pid(), Counter::Received) >= 12 * cap);
    check(&format!("download at {kib_per_s} KiB/s from {others}"), &watch.end(), cap);
}

#[test]
fn an_interface_counts_no_more_than_the_cap_on_what_leaves() {
    for (kib_per_s, others) in [(100, 3), (1024, 1)] {
        upload(kib_per_s, others);
    }
}

#[test]
fn an_interface_counts_no_more_than_the_cap_on_what_arrives() {
    for (kib_per_s, others) in [(100, 3), (1024, 1)] {
        download(kib_per_s, others);
    }
}

/// The rest of the table: `cargo test --test it bandwidth -- --ignored --nocapture`.
#[test]
#[ignore = "takes two minutes and is limited by the speed of the machine"]
fn caps_hold_at_every_speed_and_with_one_neighbour_and_several() {
    for (kib_per_s, others) in [(100, 1), (1024, 3), (4096, 1), (4096, 3)] {
        upload(kib_per_s, others);
        download(kib_per_s, others);
    }
}
