//! Two machines with a network of their own each, as far as a kernel can play that.
//!
//! Needs the right to make network namespaces (root) and `ip`; without them the test says so and
//! tests nothing.

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::grid::{Grid, POTLUCK, UNPAUSED, finish, until};

/// Two namespaces joined by a cable. Dropping it removes them.
struct Cable {
    names: [String; 2],
}

const ADDRESSES: [&str; 2] = ["10.213.77.1", "10.213.77.2"];

fn ip(args: &str) -> bool {
    let status = Command::new("ip").args(args.split(' ')).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

impl Cable {
    /// None where namespaces can't be made.
    fn lay() -> Option<Cable> {
        let pid = std::process::id();
        let cable = Cable { names: [format!("potluck-{pid}-a"), format!("potluck-{pid}-b")] };
        let [a, b] = &cable.names;
        let laid = ip(&format!("netns add {a}"))
            && ip(&format!("netns add {b}"))
            && ip(&format!("link add cable netns {a} type veth peer name cable netns {b}"))
            && cable.names.iter().zip(ADDRESSES).all(|(name, address)| {
                ip(&format!("-n {name} addr add {address}/24 dev cable"))
                    && ip(&format!("-n {name} link set cable up"))
                    && ip(&format!("-n {name} link set lo up"))
            });
        laid.then_some(cable)
    }

    /// A command of the program on one of the machines.
    fn potluck(&self, machine: usize, data: &Path, args: &[&str]) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.names[machine], POTLUCK]);
        command.env_remove("POTLUCK_DATA").envs(UNPAUSED);
        command.arg("--private").arg("--data").arg(data).args(args);
        command
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        for name in &self.names {
            ip(&format!("netns del {name}"));
        }
    }
}

/// A worker on a machine, killed when dropped.
struct Worker(Child);

impl Worker {
    fn start(mut command: Command) -> Worker {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("listen"), "{line}");
        Worker(child)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn machines_on_a_network_share_a_job_and_carry_on_when_the_cable_is_back() {
    let Some(cable) = Cable::lay() else {
        // Past the test runner, which swallows what a passing test prints.
        let why = "network tests are skipped: this user can't make namespaces, or there is no `ip`";
        writeln!(std::io::stderr(), "{why}").unwrap();
        return;
    };
    let grid = Grid::new();
    let (first, second) = (grid.path("first"), grid.path("second"));
    let worker = ["--json", "worker", "--slots", "1"];
    let join = format!("{}:7117", ADDRESSES[0]);
    let _first = Worker::start(cable.potluck(0, &first, &worker));
    let joined = [&worker[..], &["--join", &join]].concat();
    let _second = Worker::start(cable.potluck(1, &second, &joined));
    // Both listen on every address; the submitter is on the second machine.
    let echo = grid.file("echo.wat", crate::jobs::ECHO);
    let run = |array: &str| {
        let args = ["run", echo.to_str().unwrap(), "--array", array, "--join", &join];
        finish(cable.potluck(1, &grid.submitter(), &args))
    };
    let done = run("0-99");
    let expected: String = (0..100).map(|n| format!("{n}\n")).collect();
    assert_eq!((done.code, done.out), (0, expected), "{}", done.err);
    // The cable is out for longer than a connection lives without a word.
    let name = &cable.names[0];
    assert!(ip(&format!("-n {name} link set cable down")));
    let connected = || {
        let peers = finish(cable.potluck(0, &first, &["--json", "peers"]));
        peers.out.contains("\"connected\":true")
    };
    until("the first has given up the second", || !connected());
    assert!(ip(&format!("-n {name} link set cable up")));
    until("they are connected again", connected);
    let done = run("5-7");
    assert_eq!((done.code, done.out.as_str()), (0, "5\n6\n7\n"), "{}", done.err);
}
