//! Whether this machine can do its part: what the doctor looks at, one thing at a time.
//!
//! Nothing is changed and nothing kept: a node may run in the data folder meanwhile, and there
//! need be no data folder yet.

use std::io::ErrorKind;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use potluck_sandbox::{LayerState, Sandbox, Unit};
use potluck_unit::{JobId, Limits, ModuleId, Outcome, RunReport, UnitId};
use serde::Serialize;

use crate::AGENT;
use crate::config::{Config, Require};
use crate::hub::clock;
use crate::node::{control_socket, program};
use crate::options::Options;
use crate::sensors::{Places, Sensors};

/// What was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Checkup {
    /// The software and its version.
    pub agent: String,
    /// Operating system, its kernel and the processor's architecture.
    pub system: String,
    /// Processor cores that this process may use.
    pub cores: usize,
    /// One after another.
    pub findings: Vec<Finding>,
}

/// One thing looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub subject: String,
    /// How it is.
    pub state: Condition,
    /// The finding, for a person; if it is not fine, what is missing or what to do.
    pub note: String,
}

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    /// As it should be.
    Fine,
    /// Partly there.
    Partial,
    /// Not there.
    Missing,
    /// There, but not as it should be.
    Wrong,
}

impl Condition {
    /// In one word.
    pub fn as_str(self) -> &'static str {
        match self {
            Condition::Fine => "fine",
            Condition::Partial => "partial",
            Condition::Missing => "missing",
            Condition::Wrong => "wrong",
        }
    }
}

impl Finding {
    fn of(subject: &str, found: Result<String, String>) -> Finding {
        let (state, note) = match found {
            Ok(note) => (Condition::Fine, note),
            Err(note) => (Condition::Wrong, note),
        };
        Finding { subject: subject.to_owned(), state, note }
    }
}

impl Checkup {
    /// Looks at everything a node with these options would need. Blocks until then.
    pub fn of(options: &Options) -> Checkup {
        let resolved = options.resolve();
        let config =
            resolved.as_ref().map(|_| "can be used".to_owned()).map_err(ToString::to_string);
        let (listen, require) = resolved.as_ref().map_or_else(
            |_| (Config::default_listen(), Require::Available),
            |resolved| (resolved.listen, resolved.require),
        );
        let mut findings = sandbox_findings(require);
        findings.push(Finding::of("config", config));
        findings.push(Finding::of("data folder", look_at_data(&options.data)));
        findings.push(Finding::of("UDP port", look_at_port(listen, &options.data)));
        findings.push(Finding::of("clock", look_at_clock(SystemTime::now())));
        findings.extend(sensor_findings(&options.data));
        let kernel = sysinfo::System::kernel_version().unwrap_or_default();
        Checkup {
            agent: AGENT.to_owned(),
            system: format!("{} {kernel} {}", std::env::consts::OS, std::env::consts::ARCH),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            findings,
        }
    }

    /// Whether nothing is missing or wrong.
    pub fn is_fine(&self) -> bool {
        self.findings.iter().all(|finding| finding.state == Condition::Fine)
    }
}

/// A finding for each layer of the lock on children, and one for a unit that ran in it.
fn sandbox_findings(require: Require) -> Vec<Finding> {
    let subject = "sandbox";
    let folder = match tempfile::tempdir() {
        Ok(folder) => folder,
        Err(error) => {
            let why = format!("there is no temporary folder to try it in: {error}");
            return vec![Finding::of(subject, Err(why))];
        }
    };
    let sandbox = match program() {
        Ok(program) => Sandbox::new(program, folder.path().to_owned()),
        Err(error) => return vec![Finding::of(subject, Err(error.to_string()))],
    };
    let mut findings = match sandbox.layers() {
        Ok(layers) => layers.into_iter().map(of_layer).collect(),
        Err(error) => vec![Finding::of(subject, Err(error.to_string()))],
    };
    let sandbox = match require {
        Require::Available => sandbox,
        Require::Full => sandbox.with_whole_lock(),
    };
    findings.push(Finding::of(subject, run_a_unit(&sandbox)));
    findings
}

fn of_layer(layer: potluck_sandbox::Layer) -> Finding {
    let state = match layer.state {
        LayerState::Full => Condition::Fine,
        LayerState::Partial => Condition::Partial,
        LayerState::Missing => Condition::Missing,
    };
    Finding { subject: layer.kind.as_str().to_owned(), state, note: layer.note }
}

/// Compiles and runs [`MODULE`] as if it had come from a stranger.
fn run_a_unit(sandbox: &Sandbox) -> Result<String, String> {
    let start = Instant::now();
    let id = ModuleId::of(MODULE);
    let artefact = sandbox.prepare(&id, MODULE).map_err(|error| error.to_string())?;
    let limits = Limits {
        memory_max_bytes: 16 << 20,
        output_max_bytes: 1 << 20,
        out_max_bytes: 0,
        deadline_ms: 60_000,
    };
    let mut runner = sandbox.start(&artefact, &limits).map_err(|error| error.to_string())?;
    let id = UnitId::of(&JobId([0; 32]), 0);
    match runner.run(&Unit { id, args: &[], stdin: b"" }).report {
        RunReport::Done { outcome: Outcome::Result { exit_code: 7, .. }, .. } => {
            Ok(format!("a unit ran in it: {:.2} s", start.elapsed().as_secs_f64()))
        }
        other @ (RunReport::Done { .. } | RunReport::NoResult(_)) => {
            Err(format!("a unit that should exit with 7 ended otherwise: {other:?}"))
        }
    }
}

/// Tries to write where the data folder is or would be, and looks at how much fits there.
fn look_at_data(data: &Path) -> Result<String, String> {
    let there = data.ancestors().find(|folder| folder.is_dir()).unwrap_or(Path::new("."));
    let shown = data.display();
    if data.exists() && there != data {
        return Err(format!("{shown} is not a folder"));
    }
    tempfile::tempfile_in(there)
        .map_err(|error| format!("{} cannot be written: {error}", there.display()))?;
    let space = rustix::fs::statvfs(there)
        .map_err(|error| format!("{shown}: the free space cannot be told: {error}"))?;
    let free = space.f_bavail.saturating_mul(space.f_frsize);
    let is_new = if there == data { "" } else { " can be made" };
    let free_gib = format!("{}.{} GiB", free >> 30, ((free >> 20) & 1023) * 10 / 1024);
    if free < FREE_MIN_BYTES {
        let least = FREE_MIN_BYTES >> 30;
        return Err(format!(
            "{shown}: only {free_gib} free; a node needs {least} GiB to be of use"
        ));
    }
    Ok(format!("{shown}{is_new}, {free_gib} free"))
}

/// What the sensors say. One that can't is no fault: a machine may have no battery.
fn sensor_findings(data: &Path) -> Vec<Finding> {
    let mut sensors = Sensors::new(Places::of_system(data), Vec::new());
    // On a thread of its own: this one may belong to a runtime already.
    let told = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        Ok::<_, std::io::Error>(runtime.block_on(sensors.explain(clock())))
    });
    match told.join() {
        Ok(Ok(told)) => {
            told.into_iter().map(|(subject, note)| Finding::of(subject, Ok(note))).collect()
        }
        Ok(Err(_)) | Err(_) => {
            vec![Finding::of("sensors", Err("they can't be read: no more threads".to_owned()))]
        }
    }
}

fn look_at_port(listen: SocketAddr, data: &Path) -> Result<String, String> {
    match UdpSocket::bind(listen) {
        Ok(_) => Ok(format!("{listen} is free")),
        Err(error)
            if error.kind() == ErrorKind::AddrInUse
                && UnixStream::connect(control_socket(data)).is_ok() =>
        {
            Ok(format!("{listen} is used by the node that runs in the data folder"))
        }
        Err(error) => Err(format!("{listen} cannot be used: {error}; set listen in potluck.toml")),
    }
}

/// Jobs expire by the clock, so one that is years off sees none or keeps all.
fn look_at_clock(now: SystemTime) -> Result<String, String> {
    let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let year = 1970 + since.as_secs() / YEAR_S;
    if since < RELEASED || since > RELEASED + SUPPORTED {
        return Err(format!("it says that this is {year}; set this machine's time"));
    }
    // The program cannot have been built in the future.
    let built = std::env::current_exe().and_then(|path| path.metadata()?.modified()).ok();
    if built.is_some_and(|built| built > now + SKEW_MAX) {
        return Err("it is behind the time this program was installed at; set it".to_owned());
    }
    Ok(format!("plausible: the year {year}"))
}

/// `(module (import "wasi_snapshot_preview1" "proc_exit" (func (param i32))) (memory (export
/// "memory") 1) (func (export "_start") (call 0 (i32.const 7))))`
const MODULE: &[u8] = b"\0asm\x01\0\0\0\
    \x01\x08\x02\x60\x01\x7f\0\x60\0\0\
    \x02\x24\x01\x16wasi_snapshot_preview1\x09proc_exit\0\0\
    \x03\x02\x01\x01\
    \x05\x03\x01\0\x01\
    \x07\x13\x02\x06memory\x02\0\x06_start\0\x01\
    \x0a\x08\x01\x06\0\x41\x07\x10\0\x0b";

/// Room for the database and a few jobs' modules and inputs.
const FREE_MIN_BYTES: u64 = 1 << 30;
/// 2026-01-01: no node of this version ran before.
const RELEASED: Duration = Duration::from_secs(1_767_225_600);
/// Nor will it thirty years later.
const SUPPORTED: Duration = Duration::from_secs(30 * YEAR_S);
const YEAR_S: u64 = 31_556_952;
/// Machines that exchange files differ by as much.
const SKEW_MAX: Duration = Duration::from_secs(24 * 60 * 60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_that_is_tried_is_one() {
        assert!(potluck_sandbox::check(MODULE).is_ok());
    }

    #[test]
    fn a_clock_that_starts_anew_or_runs_ahead_is_found_out() {
        let at = |since: Duration| look_at_clock(SystemTime::UNIX_EPOCH + since);
        assert!(at(Duration::ZERO).unwrap_err().contains("1970"));
        assert!(at(RELEASED - Duration::from_secs(1)).is_err());
        assert!(at(RELEASED + SUPPORTED + Duration::from_secs(1)).unwrap_err().contains("2056"));
        assert!(look_at_clock(SystemTime::now()).is_ok());
    }

    #[test]
    fn a_data_folder_need_not_exist_but_must_be_possible() {
        let folder = tempfile::tempdir().unwrap();
        let new = folder.path().join("a").join("b");
        assert!(look_at_data(&new).unwrap().contains("can be made"));
        assert!(!new.exists());
        let file = folder.path().join("file");
        std::fs::write(&file, b"").unwrap();
        assert!(look_at_data(&file).unwrap_err().contains("not a folder"));
        assert!(look_at_data(Path::new("/proc/nothing")).unwrap_err().contains("be written"));
    }

    #[test]
    fn a_port_that_somebody_else_uses_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
        let listen = taken.local_addr().unwrap();
        let error = look_at_port(listen, folder.path()).unwrap_err();
        assert!(error.contains(&listen.to_string()), "{error}");
        drop(taken);
        assert!(look_at_port(listen, folder.path()).is_ok());
    }
}
