//! What a node costs that has eight neighbours and nothing to do.
//!
//! The measured node has a network namespace to itself, so the interface's counters are its own.
//! Needs the right to make network namespaces (root) and `ip`; without them the test says so and
//! tests nothing. `POTLUCK_IDLE_MINUTES` says for how long to measure, one minute if it is not set.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::grid::{Grid, POTLUCK, Worker, until};

/// Of one core.
const CPU_PERCENT_MAX: f64 = 0.2;
/// What it holds for itself. Pages of the program's file are as many as a build makes them: they count
/// where the program is optimised, as what people run is.
const MEMORY_MAX_BYTES: u64 = 30 << 20;
/// How often it wakes up, packets that come and go left out.
const WAKE_UPS_PER_S_MAX: f64 = 2.0;
/// Each way, headers of every layer counted.
const BYTES_PER_S_MAX: f64 = 200.0;
const NEIGHBOURS: usize = 8;

/// The measured machine's address, and that of the others.
const ADDRESSES: [&str; 2] = ["10.213.78.1", "10.213.78.2"];

/// Two namespaces joined by a cable that carries nothing but IPv4. Dropping it removes them.
struct Cable {
    names: [String; 2],
}

fn ip(args: &str) -> bool {
    let status = Command::new("ip").args(args.split(' ')).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

impl Cable {
    /// None where namespaces can't be made.
    fn lay() -> Option<Cable> {
        let pid = std::process::id();
        let cable = Cable { names: [format!("potluck-{pid}-one"), format!("potluck-{pid}-many")] };
        let [one, many] = &cable.names;
        if !ip(&format!("netns add {one}")) || !ip(&format!("netns add {many}")) {
            return None;
        }
        for name in &cable.names {
            let quiet = "net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1";
            // A kernel without IPv6 has nothing to switch off.
            ip(&format!("netns exec {name} sysctl -qw {quiet}"));
        }
        let laid =
            ip(&format!("link add cable netns {one} type veth peer name cable netns {many}"))
                && cable.names.iter().zip(ADDRESSES).all(|(name, address)| {
                    ip(&format!("-n {name} addr add {address}/24 dev cable"))
                        && ip(&format!("-n {name} link set cable up"))
                        && ip(&format!("-n {name} link set lo up"))
                });
        laid.then_some(cable)
    }

    /// Starts a worker on one of the machines.
    fn worker(&self, machine: usize, data: &Path, listen: &str, join: Option<&str>) -> Worker {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.names[machine], POTLUCK]);
        command.env_remove("POTLUCK_DATA").env_remove("RUST_LOG").stderr(Stdio::null());
        command.args(["--private", "--json", "--data"]).arg(data);
        command.args(["worker", "--slots", "1", "--listen", listen]);
        command.args(join.iter().flat_map(|join| ["--join", join]));
        Worker::of(command, data.to_owned(), Vec::new())
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for name in &self.names {
            ip(&format!("netns del {name}"));
        }
    }
}

/// What a process and its interface have used so far.
#[derive(Debug, Clone, Copy)]
struct Used {
    at: Instant,
    cpu_ns: u64,
    /// How often any of its threads went to sleep.
    sleeps: u64,
    packets: u64,
    received_bytes: u64,
    sent_bytes: u64,
}

impl Used {
    fn by(pid: u32) -> Used {
        let read = |path: &str| std::fs::read_to_string(format!("/proc/{pid}/{path}"));
        let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
        let (mut cpu_ns, mut sleeps) = (0, 0);
        for thread in threads.map(|entry| entry.unwrap().file_name().into_string().unwrap()) {
            let files =
                (read(&format!("task/{thread}/schedstat")), read(&format!("task/{thread}/status")));
            // One that was lent for something short may have ended meanwhile.
            let (Ok(spent), Ok(status)) = files else { continue };
            cpu_ns += spent.split(' ').next().unwrap().parse::<u64>().unwrap();
            sleeps += field(&status, "voluntary_ctxt_switches:");
        }
        let devices = read("net/dev").unwrap();
        let cable = devices.lines().find_map(|line| line.trim().strip_prefix("cable:")).unwrap();
        let counts: Vec<u64> = cable.split_whitespace().map(|n| n.parse().unwrap()).collect();
        Used {
            at: Instant::now(),
            cpu_ns,
            sleeps,
            packets: counts[1] + counts[9],
            received_bytes: counts[0],
            sent_bytes: counts[8],
        }
    }
}

/// The number after `name` in a file of `/proc`.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[test]
fn a_node_with_eight_neighbours_and_nothing_to_do_costs_next_to_nothing() {
    let Some(cable) = Cable::lay() else {
        // Past the test runner, which swallows what a passing test prints.
        let why = "what an idle node costs is not measured: this user can't make namespaces, or \
                   there is no `ip`";
        writeln!(std::io::stderr(), "{why}").unwrap();
        return;
    };
    let minutes = std::env::var("POTLUCK_IDLE_MINUTES").map_or(1, |text| text.parse().unwrap());
    let grid = Grid::new();
    let [address, others] = ADDRESSES;
    let mut one = cable.worker(0, &grid.path("one"), &format!("{address}:7117"), None);
    let mut many: Vec<Worker> = (0..NEIGHBOURS)
        .map(|n| {
            let listen = format!("{others}:{}", 7200 + n);
            cable.worker(1, &grid.path(&format!("other-{n}")), &listen, Some(&one.listen))
        })
        .collect();
    let neighbours = || one.ask(&["status"])["neighbours"].as_u64();
    until("all are neighbours", || neighbours() == Some(NEIGHBOURS as u64));
    // Everybody tells everybody who else there is, for less than two rounds of comparing.
    wait(SETTLING);

    let before = Used::by(one.pid());
    wait(Duration::from_secs(60 * minutes));
    let after = Used::by(one.pid());
    let status = std::fs::read_to_string(format!("/proc/{}/status", one.pid())).unwrap();
    assert_eq!(neighbours(), Some(NEIGHBOURS as u64), "somebody has left");
    many.iter_mut().for_each(Worker::kill);
    one.kill();

    let (own, all) = (field(&status, "RssAnon:") << 10, field(&status, "VmRSS:") << 10);
    let memory = if cfg!(debug_assertions) { own } else { all };
    let seconds = (after.at - before.at).as_secs_f64();
    let per_s = |before: u64, after: u64| after.saturating_sub(before) as f64 / seconds;
    let cpu_percent = per_s(before.cpu_ns, after.cpu_ns) / 1e7;
    let sleeps = per_s(before.sleeps, after.sleeps);
    let packets = per_s(before.packets, after.packets);
    let wake_ups = (sleeps - packets).max(0.0);
    let received = per_s(before.received_bytes, after.received_bytes);
    let sent = per_s(before.sent_bytes, after.sent_bytes);
    let found = format!(
        "idle for {seconds:.0} s: {cpu_percent:.3} % of a core; {:.1} MiB, {:.1} MiB with its \
         program; {wake_ups:.2} wake-ups/s besides {packets:.2} packets/s; {received:.0} B/s \
         received, {sent:.0} B/s sent",
        own as f64 / f64::from(1 << 20),
        all as f64 / f64::from(1 << 20),
    );
    writeln!(std::io::stderr(), "{found}").unwrap();
    assert!(cpu_percent <= CPU_PERCENT_MAX, "{found}");
    assert!(memory <= MEMORY_MAX_BYTES, "{found}");
    assert!(wake_ups <= WAKE_UPS_PER_S_MAX, "{found}");
    assert!(received <= BYTES_PER_S_MAX && sent <= BYTES_PER_S_MAX, "{found}");
}

/// Lets time pass, which is what is measured here.
fn wait(time: Duration) {
    std::thread::sleep(time);
}

/// Longer than gossip needs to go round among nine.
const SETTLING: Duration = Duration::from_secs(10);
