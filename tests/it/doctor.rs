//! What a machine is told about itself: the doctor's findings, and what a worker does on a kernel
//! that lacks a layer of the sandbox's lock.

use std::net::UdpSocket;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch};
use serde_json::Value;

use crate::grid::{Finished, Grid, Worker, finish, potluck};
use crate::jobs::ECHO;

/// The program as on a kernel that has no landlock: the system call is not there, for it and all
/// that it starts.
#[expect(unsafe_code, reason = "a filter is put on the new process between fork and exec")]
fn without_landlock(mut command: Command) -> Command {
    let arch = if cfg!(target_arch = "x86_64") { TargetArch::x86_64 } else { TargetArch::aarch64 };
    let missing = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let rules = [(libc::SYS_landlock_create_ruleset, Vec::new())].into();
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, missing, arch).unwrap();
    let program: BpfProgram = filter.try_into().unwrap();
    let lose = move || {
        seccompiler::apply_filter(&program).map_err(|_| std::io::ErrorKind::Unsupported.into())
    };
    // SAFETY: the closure makes two system calls with a filter that was made before the fork, and
    // takes no lock and no memory.
    unsafe { command.pre_exec(lose) };
    command
}

/// The doctor's findings by their subjects: the state, and the note.
fn findings(doctor: &Finished) -> Vec<(String, String, String)> {
    let checkup: Value = serde_json::from_str(&doctor.out).unwrap();
    let text = |finding: &Value, key: &str| finding[key].as_str().unwrap().to_owned();
    let of = |finding| (text(finding, "subject"), text(finding, "state"), text(finding, "note"));
    checkup["findings"].as_array().unwrap().iter().map(of).collect()
}

fn state<'a>(found: &'a [(String, String, String)], subject: &str) -> &'a str {
    &found.iter().find(|(name, _, _)| name == subject).unwrap().1
}

#[test]
fn the_doctor_looks_at_everything_and_changes_nothing() {
    let grid = Grid::new();
    let data = grid.path("new");
    let doctor = |args: &[&str]| {
        finish(potluck(&data, &[args, &["doctor", "--listen", "127.0.0.1:0"]].concat()))
    };
    let json = doctor(&["--json"]);
    let found = findings(&json);
    let subjects: Vec<&str> = found.iter().map(|(subject, _, _)| subject.as_str()).collect();
    let expected = [
        "closed descriptors",
        "resource limits",
        "no privileges",
        "dies with its parent",
        "lowest priority",
        "landlock",
        "system call filter",
        "sandbox",
        "config",
        "data folder",
        "UDP port",
        "clock",
        "others' load",
        "power",
        "temperature",
        "person",
        "metered",
        "memory",
    ];
    assert_eq!(subjects, expected);
    // Whichever kernel this is: what does not depend on it is fine, and the code says the rest.
    for subject in ["system call filter", "sandbox", "config", "data folder", "UDP port"] {
        assert_eq!(state(&found, subject), "fine", "{}", json.out);
    }
    let is_fine = found.iter().all(|(_, state, _)| state == "fine");
    assert_eq!(json.code, if is_fine { 0 } else { 7 }, "{}", json.out);
    let text = doctor(&[]);
    assert_eq!(text.code, json.code);
    assert!(text.out.contains("a unit ran in it"), "{}", text.out);
    assert!(text.out.lines().count() <= 24, "more than a screen:\n{}", text.out);
    assert!(!data.exists());
}

#[test]
fn the_doctor_names_what_is_wrong() {
    let mut grid = Grid::new();
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let doctor = finish(potluck(&grid.path("a"), &["--json", "doctor", "--listen", &listen]));
    assert_eq!((doctor.code, state(&findings(&doctor), "UDP port")), (7, "wrong"));
    let config = grid.file("b/potluck.toml", "slot = 1");
    let data = config.parent().unwrap();
    let doctor = finish(potluck(data, &["--json", "doctor", "--listen", "127.0.0.1:0"]));
    assert_eq!((doctor.code, state(&findings(&doctor), "config")), (7, "wrong"));
    // A port that the node in this very folder uses is as it should be.
    let (data, listen) = {
        let worker = grid.add(&[]);
        (worker.data.clone(), worker.listen.clone())
    };
    let doctor = finish(potluck(&data, &["--json", "doctor", "--listen", &listen]));
    assert_eq!(state(&findings(&doctor), "UDP port"), "fine", "{}", doctor.out);
}

#[test]
fn a_kernel_without_landlock_is_named_and_units_run_there() {
    let grid = Grid::new();
    let data = grid.path("worker");
    let doctor =
        finish(without_landlock(potluck(&data, &["--json", "doctor", "--listen", "127.0.0.1:0"])));
    let found = findings(&doctor);
    assert_eq!((doctor.code, state(&found, "landlock")), (7, "missing"), "{}", doctor.out);
    assert_eq!(state(&found, "sandbox"), "fine", "{}", doctor.out);
    let errors = grid.path("errors");
    let flags = ["--json", "worker", "--listen", "127.0.0.1:0", "--slots", "1"];
    let mut command = potluck(&data, &flags);
    command.stderr(Stdio::from(std::fs::File::create(&errors).unwrap()));
    let mut worker = Worker::of(without_landlock(command), data, Vec::new());
    let said = std::fs::read_to_string(&errors).unwrap();
    assert!(said.starts_with("warning: the sandbox is not whole on this machine: "), "{said}");
    assert!(said.lines().next().unwrap().contains("landlock is missing"), "{said}");
    let echo = grid.file("echo.wat", ECHO);
    let args = ["run", echo.to_str().unwrap(), "-k", "1", "--join", &worker.listen, "--", "hello"];
    let ran = finish(potluck(&grid.submitter(), &args));
    worker.kill();
    assert_eq!((ran.code, ran.out.contains("hello")), (0, true), "{}{}", ran.out, ran.err);
}

#[test]
fn a_donor_who_requires_the_whole_lock_runs_nothing_without() {
    let grid = Grid::new();
    let config = grid.file("worker/potluck.toml", "[sandbox]\nrequire = 'full'\n");
    let data = config.parent().unwrap();
    let worker = ["worker", "--listen", "127.0.0.1:0", "--slots", "1"];
    let refused = finish(without_landlock(potluck(data, &worker)));
    assert_eq!((refused.code, refused.err.lines().count()), (1, 1), "{}", refused.err);
    for word in ["potluck: ", "sandbox.require", "landlock is missing", "potluck.toml"] {
        assert!(refused.err.contains(word), "{word:?} is missing in: {}", refused.err);
    }
    // Nothing was begun that the next start would find.
    assert!(!data.join("store.redb").exists());
    grid.file("worker/potluck.toml", "[sandbox]\nrequire = 'most'\n");
    let wrong = finish(potluck(data, &worker));
    assert_eq!((wrong.code, wrong.err.lines().count()), (2, 1), "{}", wrong.err);
    for word in ["line 2", "sandbox.require", "\"full\" or \"available\""] {
        assert!(wrong.err.contains(word), "{word:?} is missing in: {}", wrong.err);
    }
}
