//! A small grid of real processes, and the ways in which tests talk to it.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The built program.
pub(crate) const POTLUCK: &str = env!("CARGO_BIN_EXE_potluck");

/// How long anything may take. Far above what it takes, so that only a hang trips it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A folder and the workers that run below it. Dropping it kills them and removes the folder.
pub(crate) struct Grid {
    folder: tempfile::TempDir,
    workers: Vec<Worker>,
}

/// A worker process.
pub(crate) struct Worker {
    child: Child,
    pub(crate) id: String,
    pub(crate) listen: String,
    pub(crate) data: PathBuf,
    flags: Vec<String>,
}

impl Grid {
    /// A grid of nobody.
    pub(crate) fn new() -> Grid {
        let folder = tempfile::Builder::new().prefix("potluck-it-").tempdir().unwrap();
        Grid { folder, workers: Vec::new() }
    }

    /// A grid of so many workers with a slot each, all joined to the first.
    pub(crate) fn of(workers: usize) -> Grid {
        let mut grid = Grid::new();
        for _ in 0..workers {
            grid.add(&[]);
        }
        grid
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file into the grid's folder.
    pub(crate) fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Starts one more worker, joined to the first.
    pub(crate) fn add(&mut self, more: &[&str]) -> &Worker {
        let data = self.path(&format!("worker-{}", self.workers.len()));
        let mut flags: Vec<String> = more.iter().map(|flag| (*flag).to_owned()).collect();
        if let Some(first) = self.workers.first() {
            flags.extend(["--join".to_owned(), first.listen.clone()]);
        }
        if !more.contains(&"--slots") {
            flags.extend(["--slots".to_owned(), "1".to_owned()]);
        }
        self.workers.push(Worker::start(data, "127.0.0.1:0", flags));
        self.workers.last().unwrap()
    }

    pub(crate) fn worker(&self, number: usize) -> &Worker {
        &self.workers[number]
    }

    pub(crate) fn workers(&self) -> impl Iterator<Item = &Worker> {
        self.workers.iter()
    }

    /// Kills a worker as a power cut would.
    pub(crate) fn kill(&mut self, number: usize) {
        self.workers[number].kill();
    }

    /// Starts a killed worker again, on the same address and data folder.
    pub(crate) fn restart(&mut self, number: usize) {
        let worker = &self.workers[number];
        let again = Worker::start(worker.data.clone(), &worker.listen, worker.flags.clone());
        assert_eq!(again.id, worker.id, "a restarted node keeps its key");
        self.workers[number] = again;
    }

    /// The data folder of the submitter.
    pub(crate) fn submitter(&self) -> PathBuf {
        self.path("submitter")
    }

    /// A command of the submitter's, joined to the first worker where that makes sense.
    pub(crate) fn submitter_command(&self, args: &[&str]) -> Command {
        let mut command = potluck(&self.submitter(), args);
        let verb = args.iter().find(|arg| !arg.starts_with('-')).copied();
        if let (Some(first), Some("submit" | "run" | "job" | "verify" | "peers" | "status")) =
            (self.workers.first(), verb)
        {
            // Before `--`, after which everything is the program's.
            let place = args.iter().position(|arg| *arg == "--").unwrap_or(args.len());
            command = potluck(&self.submitter(), &args[..place]);
            command.args(["--join", &first.listen]).args(&args[place..]);
        }
        command
    }

    /// Runs a command of the submitter's to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Finished {
        finish(self.submitter_command(args))
    }

    /// Runs a command that must succeed, and answers what it printed.
    pub(crate) fn ok(&self, args: &[&str]) -> String {
        let finished = self.run(args);
        assert_eq!(finished.code, 0, "potluck {args:?}: {}", finished.err);
        finished.out
    }
}

impl Drop for Grid {
    fn drop(&mut self) {
        self.workers.iter_mut().for_each(Worker::kill);
    }
}

impl Worker {
    /// Starts a worker and waits until it says where it listens.
    pub(crate) fn start(data: PathBuf, listen: &str, flags: Vec<String>) -> Worker {
        let mut command = potluck(&data, &["--json", "worker", "--listen", listen]);
        command.args(&flags).stderr(Stdio::null());
        Worker::of(command, data, flags)
    }

    /// Starts the worker that this command is.
    pub(crate) fn of(mut command: Command, data: PathBuf, flags: Vec<String>) -> Worker {
        command.stdout(Stdio::piped()).stdin(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let info: Value = serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("a worker said {line:?} first: {error}"));
        let text = |key: &str| info[key].as_str().unwrap().to_owned();
        Worker { child, id: text("id"), listen: text("listen"), data, flags }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn kill(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// What the worker's own node answers to a verb.
    pub(crate) fn ask(&self, args: &[&str]) -> Value {
        let finished = finish(potluck(&self.data, &[&["--json"], args].concat()));
        assert_eq!(finished.code, 0, "potluck {args:?}: {}", finished.err);
        let values = serde_json::Deserializer::from_str(&finished.out).into_iter();
        let mut values: Vec<Value> = values.map(Result::unwrap).collect();
        // Lists come as a value a line.
        if args[0] == "peers" { Value::Array(values) } else { values.remove(0) }
    }
}

/// Sends a signal by name. By the shell's own `kill`, which every system has.
pub(crate) fn signal(pid: u32, name: &str) {
    let status = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status();
    assert!(status.unwrap().success());
}

/// How a command ended.
pub(crate) struct Finished {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// The program on a data folder, in a private grid, where keys cost no work.
pub(crate) fn potluck(data: &Path, args: &[&str]) -> Command {
    let mut command = program(data);
    command.arg("--private").args(args);
    command
}

/// The program on a data folder, in an open grid whose keys cost next to no work.
pub(crate) fn in_the_open(data: &Path, args: &[&str]) -> Command {
    let mut command = program(data);
    command.args(["--work-bits", "2"]).args(args);
    command
}

fn program(data: &Path) -> Command {
    let mut command = Command::new(POTLUCK);
    command.env_remove("POTLUCK_DATA").env_remove("RUST_LOG").envs(UNPAUSED);
    command.arg("--data").arg(data);
    command
}

/// Nothing pauses a test's workers or slows them down, whatever else the machine does or runs on.
pub(crate) const UNPAUSED: [(&str, &str); 9] = [
    ("POTLUCK_BUDGET_UPLOAD", "unlimited"),
    ("POTLUCK_BUDGET_DOWNLOAD", "unlimited"),
    ("POTLUCK_BUDGET_TRAFFIC_DAY", "unlimited"),
    ("POTLUCK_BUDGET_TRAFFIC_MONTH", "unlimited"),
    ("POTLUCK_BUDGET_OTHERS_CPU_MAX", "100"),
    ("POTLUCK_BUDGET_PAUSE_ON_BATTERY", "false"),
    ("POTLUCK_BUDGET_BATTERY_MIN", "0"),
    ("POTLUCK_BUDGET_PAUSE_ON_METERED", "false"),
    ("POTLUCK_BUDGET_TEMPERATURE_MAX", "110"),
];

/// Runs a command to its end, or panics when it hangs.
pub(crate) fn finish(mut command: Command) -> Finished {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let child = command.spawn().unwrap();
    let pid = child.id();
    let (sender, receiver) = std::sync::mpsc::channel::<Output>();
    std::thread::spawn(move || sender.send(child.wait_with_output().unwrap()));
    let output = receiver.recv_timeout(PATIENCE).unwrap_or_else(|_| {
        signal(pid, "KILL");
        let output = receiver.recv().unwrap();
        let err = String::from_utf8_lossy(&output.stderr);
        panic!("{command:?} hangs; it said: {err}");
    });
    Finished {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Waits until `condition` holds, or panics saying what it waited for.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Every process below `pid`, itself left out.
pub(crate) fn descendants(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut at = 0;
    let parents: Vec<(u32, u32)> = processes();
    while at < found.len() {
        let of = found[at];
        found.extend(parents.iter().filter(|(_, parent)| *parent == of).map(|(pid, _)| *pid));
        at += 1;
    }
    found.split_off(1)
}

/// Every process with its parent.
fn processes() -> Vec<(u32, u32)> {
    let pids = std::fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let parent = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<u32>().ok()
    };
    pids.filter_map(|pid| Some((pid, parent(&pid)?))).collect()
}

/// Whether a process is still there and is not a zombie.
pub(crate) fn is_alive(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| Some(stat.rsplit_once(')')?.1.trim_start().starts_with('Z')))
        .is_some_and(|zombie| !zombie)
}
