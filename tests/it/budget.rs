//! What is lent is what is taken: slots, processor, memory and disk of a node's slots with real
//! children and guests that want more.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use potluck_node::{Lent, Rig};
use potluck_unit::Limits;

use crate::grid::{POTLUCK, descendants, is_alive, until};

const LIMITS: Limits = Limits {
    memory_max_bytes: 16 << 20,
    output_max_bytes: 1 << 20,
    out_max_bytes: 0,
    deadline_ms: 600_000,
};

fn rig(data: &Path, slots: u16) -> Rig {
    Rig::start(POTLUCK.into(), data, slots).unwrap()
}

fn wasm(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap()
}

/// Whether every child of a rig stands still, and there are so many.
fn all_stand(rig: &Rig, count: usize) -> bool {
    let pids = rig.pids();
    pids.len() == count && pids.into_iter().all(stands)
}

fn stands(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('T'))
}

/// Waits until the slots have computed for so long from now on.
fn worked(rig: &Rig, time: Duration) {
    let before = rig.used();
    until("the slots have computed for a while", || rig.used() >= before + time);
}

#[test]
fn a_pause_stops_every_child_and_loses_no_work_and_no_deadline() {
    let folder = tempfile::tempdir().unwrap();
    let rig = rig(folder.path(), 2);
    let short = Limits { deadline_ms: 6000, ..LIMITS };
    rig.assign(0, &wasm(FOREVER), short, 1).unwrap();
    rig.assign(1, &wasm(SPIN), LIMITS, 2).unwrap();
    until("both slots have a runner", || rig.pids().len() == 2);
    worked(&rig, Duration::from_millis(5));
    rig.suspend();
    until("all stand still", || all_stand(&rig, 2));
    let (before, stood, used) = (rig.ended(), Instant::now(), rig.used());
    // Real time has to pass here: more than the deadline.
    until("more than the deadline has passed", || stood.elapsed() > Duration::from_secs(7));
    assert!(all_stand(&rig, 2));
    assert_eq!(rig.ended(), before, "something goes on");
    // The kernel counts what was under way when they were stopped a moment later.
    let more = rig.used() - used;
    assert!(more < Duration::from_millis(5), "{more:?} in seven seconds");
    rig.resume();
    until("all units have ended", || rig.assignments_ended() == 2);
    assert_eq!(rig.ended(), (2, 0, 1), "one passes its deadline now that it runs");
    rig.close();
}

#[test]
fn what_is_paused_for_long_gives_its_memory_back_and_its_units_come_back_as_not_run() {
    let folder = tempfile::tempdir().unwrap();
    let rig = rig(folder.path(), 2);
    for slot in 0..2 {
        rig.assign(slot, &wasm(FOREVER), LIMITS, 5).unwrap();
    }
    until("both slots have a runner", || rig.pids().len() == 2);
    worked(&rig, Duration::from_millis(50));
    rig.suspend();
    let pids = rig.pids();
    rig.release();
    until("both assignments are handed back", || rig.assignments_ended() == 2);
    assert_eq!(rig.ended(), (0, 2, 0), "the units that ran are stopped, the others never began");
    until("the children are gone", || !pids.iter().any(|pid| is_alive(*pid)));
    // What comes now waits until it may begin.
    rig.assign(0, &wasm(SPIN), LIMITS, 1).unwrap();
    rig.resume();
    until("the unit has ended", || rig.assignments_ended() == 3);
    assert_eq!(rig.ended(), (1, 2, 0));
    rig.close();
}

#[test]
fn a_slot_that_is_not_lent_stands_still_while_the_others_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let rig = rig(folder.path(), 2);
    for slot in 0..2 {
        rig.assign(slot, &wasm(FOREVER), LIMITS, 1).unwrap();
    }
    until("both slots have a runner", || rig.pids().len() == 2);
    worked(&rig, Duration::from_millis(50));
    rig.lend(Lent { slots: 1, ..Lent::ALL });
    let standing = || rig.pids().into_iter().filter(|pid| stands(*pid)).count();
    until("one of them stands still", || standing() == 1);
    worked(&rig, Duration::from_millis(100));
    rig.lend(Lent { slots: 0, ..Lent::ALL });
    until("both stand still", || all_stand(&rig, 2));
    rig.lend(Lent::ALL);
    until("none stands still", || standing() == 0);
    assert_eq!(rig.ended(), (0, 0, 0));
    rig.close();
}

#[test]
fn a_compiler_stands_still_with_its_slot_and_begins_again_when_the_slot_is_lent_again() {
    let folder = tempfile::tempdir().unwrap();
    let rig = rig(folder.path(), 2);
    rig.lend(Lent { cpu_percent: 20, ..Lent::ALL });
    rig.assign(1, &wasm(&costly(1)), LIMITS, 1).unwrap();
    worked(&rig, Duration::from_millis(100));
    assert_eq!(rig.ended(), (0, 0, 0), "it is still being compiled");
    rig.lend(Lent { slots: 1, ..Lent::ALL });
    // The compiler that stands still does not keep this one from being compiled.
    rig.assign(0, &wasm(SPIN), LIMITS, 1).unwrap();
    until("the other slot's unit has ended", || rig.ended() == (1, 0, 0));
    rig.lend(Lent::ALL);
    until("the unit has ended", || rig.ended() == (2, 0, 0));
    rig.close();
}

#[test]
fn no_more_memory_is_taken_than_is_lent_and_what_does_not_fit_waits_for_its_turn() {
    let folder = tempfile::tempdir().unwrap();
    let rig = rig(folder.path(), 2);
    let limits = Limits { memory_max_bytes: 64 << 20, ..LIMITS };
    let lent = Lent { memory_bytes: 800 << 20, ..Lent::ALL };
    assert!(lent.can_run(&limits));
    rig.lend(lent);
    rig.assign(0, &wasm(SPIN), limits, 4).unwrap();
    until("it has a runner", || rig.ended().0 > 0);
    assert!(!rig.fits(&limits));
    rig.assign(1, &wasm(SPIN), limits, 4).unwrap();
    let mut most = 0;
    until("all units have ended", || {
        most = most.max(rig.pids().len());
        rig.assignments_ended() == 2
    });
    assert_eq!((rig.ended(), most), ((8, 0, 0), 1));
    assert!(rig.fits(&limits), "what idles lets go");
    rig.close();
}

#[test]
fn a_hostile_job_on_all_slots_stays_within_memory_and_disk() {
    let folder = tempfile::tempdir().unwrap();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "budget::hostile_job", "--ignored", "--nocapture"])
        .env("POTLUCK_TEST_DATA", folder.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let (mut memory, mut disk, mut looks) = (0, 0, 0_u32);
    // Or it would not have been hostile.
    let is_hostile =
        |memory: u64, disk: u64| memory > HOSTILE.memory_bytes / 4 && disk > HOSTILE.disk_bytes / 4;
    until("the job has done its worst", || {
        let pids = [vec![child.id()], descendants(child.id())].concat();
        memory = memory.max(pids.into_iter().map(pss).sum());
        disk = disk.max(du(folder.path()));
        looks += 1;
        assert!(memory <= HOSTILE.memory_bytes, "{memory} bytes of memory");
        assert!(disk <= HOSTILE.disk_bytes, "{disk} bytes of disk");
        child.try_wait().unwrap().is_some() || (looks > 200 && is_hostile(memory, disk))
    });
    // Its own children end with it.
    let _ = child.kill();
    let _ = child.wait();
    eprintln!("{} MiB of memory, {} MiB of disk, {looks} looks", memory >> 20, disk >> 20);
    assert!(is_hostile(memory, disk), "only {memory} bytes of memory and {disk} of disk");
}

const HOSTILE: Lent =
    Lent { memory_bytes: 1536 << 20, disk_bytes: 192 << 20, slots: 3, cpu_percent: 100 };

#[test]
#[ignore = "fills memory and disk: the test before runs it in a process of its own"]
fn hostile_job() {
    let data = std::env::var_os("POTLUCK_TEST_DATA").unwrap();
    let rig = rig(Path::new(&data), 3);
    rig.lend(HOSTILE);
    let limits = Limits {
        memory_max_bytes: 256 << 20,
        output_max_bytes: 8 << 20,
        out_max_bytes: 0,
        deadline_ms: 600_000,
    };
    for slot in 0..3 {
        rig.assign(slot, &wasm(GREEDY), limits, 2).unwrap();
        rig.assign(slot, &wasm(FLOOD), limits, 4).unwrap();
        rig.assign(slot, &wasm(&costly(u32::from(slot))), limits, 1).unwrap();
        rig.assign(slot, &wasm(FLOOD), limits, 4).unwrap();
    }
    until("the disk or the units are used up", || {
        rig.disk().1.is_some() || rig.assignments_ended() == 12
    });
    rig.close();
}

#[test]
fn a_disk_that_fills_up_loses_nothing_and_goes_on_when_there_is_room() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = SmallDisk::mount(folder.path(), 40) else {
        eprintln!("skipped: only root can mount a small disk");
        return;
    };
    let rig = rig(&folder.path().join("data"), 1);
    let limits = Limits { output_max_bytes: 8 << 20, ..LIMITS };
    let ballast = folder.path().join("ballast");
    std::fs::write(&ballast, vec![7; 26 << 20]).unwrap();
    rig.assign(0, &wasm(FLOOD), limits, 3).unwrap();
    until("the disk is full", || rig.disk().1.is_some());
    assert_eq!(rig.disk().1.unwrap(), "the disk has no space left");
    let (done, stopped, failed) = rig.ended();
    assert!(done < 3 && (stopped, failed) == (0, 0));
    std::fs::remove_file(ballast).unwrap();
    until("all units have ended", || rig.assignments_ended() == 1);
    assert_eq!((rig.ended(), rig.disk().1), ((3, 0, 0), None));
    rig.close();
    drop(disk);
}

/// A disk of some MiB in memory, until it is dropped.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(path: &Path, mib: u32) -> Option<SmallDisk> {
        let size = format!("size={mib}m");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path).stderr(Stdio::null());
        mount.status().ok()?.success().then(|| SmallDisk(path.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A process's part of the memory it is in, or all of that where the system does not say.
pub(crate) fn pss(pid: u32) -> u64 {
    let read = |name: &str| std::fs::read_to_string(format!("/proc/{pid}/{name}"));
    let kib = |text: String, key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().trim_end_matches(" kB").parse::<u64>().ok()
    };
    let pss = read("smaps_rollup").ok().and_then(|text| kib(text, "Pss:"));
    // A process that has ended has none.
    pss.or_else(|| kib(read("status").ok()?, "VmRSS:")).unwrap_or(0) << 10
}

/// What the files and folders below a path take on disk.
pub(crate) fn du(path: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt as _;
    // Files come and go meanwhile.
    let Ok(about) = std::fs::symlink_metadata(path) else { return 0 };
    let entries = about.is_dir().then(|| std::fs::read_dir(path).ok()).flatten();
    let below = entries.into_iter().flatten().filter_map(Result::ok);
    about.blocks() * 512 + below.map(|entry| du(&entry.path())).sum::<u64>()
}

/// A module whose functions, no two alike, take a compiler some seconds; `seed` makes it another.
fn costly(seed: u32) -> String {
    use std::fmt::Write as _;
    let mut functions = String::new();
    for n in 0..COSTLY_FUNCTIONS {
        let _ = write!(
            functions,
            "(func $f{n} (param $a i32) (param $b i64) (result i64) (local $c i64)
               (local.set $c (i64.mul (local.get $b) (i64.const {}{n})))
               (loop $again
                 (local.set $c (i64.xor (i64.rotl (local.get $c) (i64.const {}))
                   (i64.load offset={n} (i32.and (local.get $a) (i32.const 0xfff8)))))
                 (local.set $a (i32.sub (local.get $a) (i32.const 1)))
                 (br_if $again (i32.gt_s (local.get $a) (i32.const 7))))
               (i64.add (local.get $c) (call $f{} (i32.const 0) (local.get $b))))",
            seed + 1,
            n % 63 + 1,
            n * 7 % COSTLY_FUNCTIONS,
        );
    }
    format!(r#"(module (memory (export "memory") 2) {functions} (func (export "_start")))"#)
}

/// A second or so of compiling without optimisation of the compiler, less with it.
const COSTLY_FUNCTIONS: u32 = 600;

/// Computes for a tenth of a second or so.
const SPIN: &str = r#"(module (memory (export "memory") 1) (func (export "_start") (local $n i32)
  (loop $work
    (local.set $n (i32.add (local.get $n) (i32.const 1)))
    (br_if $work (i32.lt_u (local.get $n) (i32.const 100000000))))))"#;

const FOREVER: &str =
    r#"(module (memory (export "memory") 1) (func (export "_start") (loop (br 0))))"#;

/// Takes all the memory it can have and most of the stack.
pub(crate) const GREEDY: &str = r#"(module (memory (export "memory") 1)
  (func $deep (param $n i32) (result i32)
    (if (i32.eqz (local.get $n)) (then (return (i32.const 0))))
    (i32.add (call $deep (i32.sub (local.get $n) (i32.const 1))) (local.get $n)))
  (func (export "_start")
    (loop $grow (br_if $grow (i32.ne (memory.grow (i32.const 1)) (i32.const -1))))
    (memory.fill (i32.const 0) (i32.const 7) (i32.mul (memory.size) (i32.const 65536)))
    (drop (call $deep (i32.const 3000000)))))"#;

/// Says 8 MiB that no other unit says.
pub(crate) const FLOOD: &str = r#"(module
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 20)
  (func (export "_start") (local $n i32)
    (i32.store (i32.const 0) (i32.const 65536)) (i32.store (i32.const 4) (i32.const 0x100000))
    (loop $more
      (drop (call $random (i32.const 65536) (i32.const 0x100000)))
      (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $more (i32.lt_u (local.get $n) (i32.const 8))))))"#;
