//! `potluck demo`: the main job, and that it leaves nothing behind.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::grid::{Grid, PATIENCE, POTLUCK, descendants, is_alive, signal, until};

/// Whether nothing is left in a folder that was the demo's place for temporary files.
fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).unwrap().next().is_none()
}

fn demo(temporary: &Path) -> Command {
    std::fs::create_dir_all(temporary).unwrap();
    let mut command = Command::new(POTLUCK);
    command.arg("demo").env("TMPDIR", temporary).stdin(Stdio::null());
    command
}

#[test]
fn the_demo_counts_right_names_the_cheat_and_leaves_nothing_behind() {
    let grid = Grid::new();
    let temporary = grid.path("tmp");
    let output = demo(&temporary).output().unwrap();
    let out = String::from_utf8_lossy(&output.stdout);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{out}{err}");
    assert!(out.contains("455 052 511"), "{out}");
    assert!(out.contains("units/s"), "{out}");
    assert!(out.contains("cheated"), "{out}");
    assert!(is_empty(&temporary), "the demo left files in {}", temporary.display());
}

/// Starts the demo, waits until `ready` says that the moment has come, interrupts it, and expects
/// that neither a process nor a file is left.
fn interrupted(name: &str, by: &str, ready: impl Fn(u32, &str) -> bool) {
    let grid = Grid::new();
    let temporary = grid.path("tmp");
    let mut child = demo(&temporary).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let pid = child.id();
    let (sender, lines) = std::sync::mpsc::channel();
    let stderr = child.stderr.take().unwrap();
    std::thread::spawn(move || {
        for line in BufReader::new(stderr).split(b'\r').flatten() {
            let _ = sender.send(String::from_utf8_lossy(&line).into_owned());
        }
    });
    let mut said = String::new();
    until(name, || {
        said.extend(lines.try_iter());
        ready(pid, &said) || child.try_wait().unwrap().is_some()
    });
    let children = descendants(pid);
    if child.try_wait().unwrap().is_none() {
        signal(pid, by);
    }
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
        assert!(Instant::now() < deadline, "the demo ignores SIG{by}");
        std::thread::sleep(Duration::from_millis(10));
    };
    assert_eq!(status.code(), Some(130), "{name}: {said}");
    until("its processes are gone", || !children.iter().any(|pid| is_alive(*pid)));
    assert!(is_empty(&temporary), "the demo left files in {}", temporary.display());
}

#[test]
fn interrupted_while_it_starts_it_leaves_nothing_behind() {
    interrupted("a first worker runs", "INT", |pid, _| !descendants(pid).is_empty());
}

#[test]
fn interrupted_while_it_runs_it_leaves_nothing_behind() {
    // Five workers, and a sandbox at least.
    interrupted("sandboxes run", "INT", |pid, _| descendants(pid).len() > 6);
}

#[test]
fn terminated_while_it_runs_it_leaves_nothing_behind() {
    interrupted("sandboxes run", "TERM", |pid, _| descendants(pid).len() > 6);
}

#[test]
fn killed_outright_it_leaves_no_process_behind() {
    let grid = Grid::new();
    let mut child =
        demo(&grid.path("tmp")).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let pid = child.id();
    until("sandboxes run", || descendants(pid).len() > 6);
    let children = descendants(pid);
    child.kill().unwrap();
    child.wait().unwrap();
    until("its processes are gone", || !children.iter().any(|pid| is_alive(*pid)));
}
