//! What a unit costs on its whole way: two workers with a slot each and a submitting node, over QUIC
//! on loopback, in sandbox children, with signed receipts and a durable store, beside `xargs -P2`
//! and GNU parallel in the same run.
//!
//! `cargo bench --bench grid` prints CPU microseconds per task, over all processes with their
//! children, and how many times that is what `xargs` took. Wall-clock figures are for interest only:
//! three nodes share the machine with what they measure.

#![expect(clippy::print_stdout, reason = "a benchmark's figures are its output")]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "figures for people"
)]

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use potluck_sandbox::{Program, Sandbox, Unit};
use potluck_unit::{BlobId, JobId, Limits, UnitId};
use serde_json::Value;

const POTLUCK: &str = env!("CARGO_BIN_EXE_potluck");

/// The least a WASI command can be.
const NO_OP: &str = r#"(module (memory (export "memory") 1) (func (export "_start")))"#;

/// A loop that counts as far as it is told at build time.
fn spin(rounds: u64) -> String {
    format!(
        r#"(module (memory (export "memory") 1) (func (export "_start") (local $n i64)
            (loop $again
              (local.set $n (i64.add (local.get $n) (i64.const 1)))
              (br_if $again (i64.lt_u (local.get $n) (i64.const {rounds}))))))"#
    )
}

fn main() {
    let mut args = std::env::args().skip(1);
    if args.next().as_deref() == Some("--spin-ms") {
        let ms = args.next().and_then(|ms| ms.parse().ok()).unwrap_or(0);
        spin_here(Duration::from_millis(ms));
        return;
    }
    let folder = tempfile::Builder::new().prefix("potluck-bench-").tempdir().expect("a folder");
    let rounds = rounds_of_10_ms(folder.path());
    println!("CPU per task, over all processes and their children, in one run on this machine");
    println!();
    println!("{:46} {:>9} {:>10} {:>8} {:>9}", "", "tasks", "CPU us", "x xargs", "tasks/s");
    compare(folder.path(), "no-op", NO_OP, 10_000, 0);
    compare(folder.path(), "10 ms", &spin(rounds), 1_000, 10);
}

/// One kind of task through everything.
fn compare(folder: &Path, name: &str, wat: &str, tasks: u32, work_ms: u64) {
    let own = std::env::current_exe().expect("this program has a path");
    let native = match work_ms {
        0 => "true".to_owned(),
        ms => format!("{} --spin-ms {ms}", own.display()),
    };
    // Each task gets its number as one more argument, which it ignores.
    let base = shell(&format!("seq {tasks} | xargs -P2 -n1 {native} >/dev/null"), tasks);
    row(&format!("{name}: xargs -P2"), &base, &base);
    if Command::new("parallel").arg("--version").output().is_ok() {
        let few = tasks.min(1000);
        let line = format!("seq {few} | parallel -j2 {native} {{}} >/dev/null 2>&1");
        row(&format!("{name}: GNU parallel -j2"), &shell(&line, few), &base);
    } else {
        println!("{name}: GNU parallel is not installed and left out");
    }
    row(&format!("{name}: one sandbox child alone"), &sandbox(folder, wat, tasks), &base);
    for copies in [1, 2] {
        let grid = Grid::start(&folder.join(format!("{}-{copies}", name.replace(' ', "-"))));
        row(&format!("{name}: grid of 2, k = {copies}"), &grid.run(wat, tasks, copies), &base);
    }
    println!();
}

/// What some tasks cost.
struct Cost {
    tasks: u32,
    cpu: Duration,
    wall: Duration,
}

impl Cost {
    fn cpu_us(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / f64::from(self.tasks)
    }
}

fn row(name: &str, cost: &Cost, base: &Cost) {
    let ratio = cost.cpu_us() / base.cpu_us().max(0.001);
    let rate = f64::from(cost.tasks) / cost.wall.as_secs_f64();
    println!("{name:46} {:>9} {:>10.0} {ratio:>8.2} {rate:>9.0}", cost.tasks, cost.cpu_us());
}

fn shell(line: &str, tasks: u32) -> Cost {
    let (before, start) = (cpu_of_ended_children(), Instant::now());
    let status = Command::new("sh").args(["-c", line]).status().expect("sh runs");
    assert!(status.success(), "{line}");
    Cost { tasks, cpu: cpu_of_ended_children() - before, wall: start.elapsed() }
}

/// The same tasks in one child, without a grid: what the rest of the way adds to.
fn sandbox(folder: &Path, wat: &str, tasks: u32) -> Cost {
    let wasm = wat::parse_str(wat).expect("the guest assembles");
    let program = Program { path: POTLUCK.into(), args: vec!["__sandbox".into()] };
    let sandbox = Sandbox::new(program, folder.join("artefacts"));
    let artefact = sandbox.prepare(&BlobId::of(&wasm), &wasm).expect("the guest compiles");
    let mut runner = sandbox.start(&artefact, &Limits::DEFAULT).expect("a child starts");
    let pids = [std::process::id()];
    let (before, start) = (cpu_of_trees(&pids), Instant::now());
    for index in 0..tasks {
        if runner.is_spent() {
            runner = sandbox.start(&artefact, &Limits::DEFAULT).expect("a child starts");
        }
        let id = UnitId::of(&JobId([0; 32]), index);
        runner.run(&Unit { id, args: &[], stdin: &[] });
    }
    Cost { tasks, cpu: cpu_of_trees(&pids) - before, wall: start.elapsed() }
}

/// How many rounds of [`spin`] take 10 ms here.
fn rounds_of_10_ms(folder: &Path) -> u64 {
    let rounds = 100_000_000;
    let cost = sandbox(folder, &spin(rounds), 5);
    let us = cost.wall.as_secs_f64() * 1e6 / 5.0;
    (rounds as f64 * 10_000.0 / us) as u64
}

fn spin_here(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// Two workers and a submitter, each a process.
struct Grid {
    nodes: Vec<Child>,
    submitter: PathBuf,
}

impl Grid {
    fn start(folder: &Path) -> Grid {
        let mut grid = Grid { nodes: Vec::new(), submitter: folder.join("submitter") };
        let mut first: Option<String> = None;
        for (name, slots) in [("a", "1"), ("b", "1"), ("submitter", "0")] {
            let mut command = Command::new(POTLUCK);
            command.arg("--json").arg("--data").arg(folder.join(name));
            command.args(["worker", "--private", "--listen", "127.0.0.1:0", "--slots", slots]);
            if let Some(first) = &first {
                command.args(["--join", first]);
            }
            command.stdout(Stdio::piped()).stderr(Stdio::null()).stdin(Stdio::null());
            let mut child = command.spawn().expect("a node starts");
            let mut line = String::new();
            let out = child.stdout.take().expect("its output is piped");
            BufReader::new(out).read_line(&mut line).expect("it says where it listens");
            grid.nodes.push(child);
            let info: Value = serde_json::from_str(&line).expect("in JSON");
            first.get_or_insert_with(|| info["listen"].as_str().expect("an address").to_owned());
        }
        let deadline = Instant::now() + Duration::from_secs(30);
        while grid.ask(&["--json", "status"])["workers"] != 2 {
            assert!(Instant::now() < deadline, "the nodes do not find each other");
            std::thread::sleep(Duration::from_millis(20));
        }
        grid
    }

    fn potluck(&self, args: &[&str]) -> Command {
        let mut command = Command::new(POTLUCK);
        command.arg("--data").arg(&self.submitter).args(args).stderr(Stdio::null());
        command
    }

    fn ask(&self, args: &[&str]) -> Value {
        let output = self.potluck(args).output().expect("the program runs");
        serde_json::from_slice(&output.stdout).unwrap_or(Value::Null)
    }

    /// Submits, waits, fetches; counts all of it.
    fn run(&self, wat: &str, tasks: u32, copies: u8) -> Cost {
        let module = self.submitter.join("task.wat");
        std::fs::write(&module, wat).expect("the module is written");
        let pids: Vec<u32> = self.nodes.iter().map(Child::id).collect();
        let before = cpu_of_trees(&pids) + cpu_of_ended_children();
        let start = Instant::now();
        let status = (self.potluck(&["run", "--array", &format!("1-{tasks}")]))
            .args(["-k", &copies.to_string()])
            .arg(&module)
            .stdout(Stdio::null())
            .status()
            .expect("the program runs");
        assert!(status.success(), "the job did not finish");
        let wall = start.elapsed();
        Cost { tasks, cpu: cpu_of_trees(&pids) + cpu_of_ended_children() - before, wall }
    }
}

impl Drop for Grid {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            let _ = node.kill();
            let _ = node.wait();
        }
    }
}

/// CPU time of the children that this process has waited for, with their own.
fn cpu_of_ended_children() -> Duration {
    let [_, _, user, system] = cpu_ticks(std::process::id()).unwrap_or_default();
    ticks(user + system)
}

/// CPU time of these processes and everything below them, ended or not. This process's own ended
/// children are left out: [`cpu_of_ended_children`] has them.
fn cpu_of_trees(roots: &[u32]) -> Duration {
    let mut pids = roots.to_vec();
    let parents = parents();
    let mut at = 0;
    while at < pids.len() {
        let of = pids[at];
        pids.extend(parents.iter().filter(|(_, parent)| *parent == of).map(|(pid, _)| *pid));
        at += 1;
    }
    let own = std::process::id();
    let of = |pid: &u32| match (cpu_ticks(*pid), *pid == own) {
        (Some([user, system, ..]), true) => user + system,
        (Some(all), false) => all.iter().sum(),
        (None, _) => 0,
    };
    ticks(pids.iter().map(of).sum())
}

fn parents() -> Vec<(u32, u32)> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| Some((pid, stat(pid)?.get(1)?.parse().ok()?))).collect()
}

/// Fields of `/proc/PID/stat` after the name: state, parent, and so on.
fn stat(pid: u32) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(text.rsplit_once(')')?.1.split_whitespace().map(str::to_owned).collect())
}

/// User and system time of a process and of its ended children, in clock ticks.
fn cpu_ticks(pid: u32) -> Option<[u64; 4]> {
    let fields = stat(pid)?;
    let field = |at: usize| fields.get(at).and_then(|text| text.parse().ok());
    Some([field(11)?, field(12)?, field(13)?, field(14)?])
}

/// Linux counts 100 ticks a second for user space, whatever the kernel's own clock is.
fn ticks(count: u64) -> Duration {
    Duration::from_millis(count * 10)
}
