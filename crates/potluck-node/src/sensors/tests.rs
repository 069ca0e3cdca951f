//! A machine made of files, and what the sensors say of it together.

use std::fs::{File, FileTimes};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, SystemTime};

use super::*;

const NOW: Time = Time(1_800_000_000_000);

/// A folder that stands for `/`.
pub(super) struct Machine(tempfile::TempDir);

impl Machine {
    pub(super) fn new() -> Machine {
        Machine(tempfile::tempdir().unwrap())
    }

    pub(super) fn root(&self) -> &Path {
        self.0.path()
    }

    pub(super) fn file(&self, path: &str, text: &str) -> &Machine {
        let path = self.root().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
        self
    }

    pub(super) fn link(&self, path: &str, to: &str) -> &Machine {
        let path = self.root().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        symlink(to, path).unwrap();
        self
    }

    /// A device that was last typed into so many seconds after 1970.
    pub(super) fn touched(&self, path: &str, seconds: u64) -> &Machine {
        self.file(path, "");
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
        let file = File::options().write(true).open(self.root().join(path)).unwrap();
        file.set_times(FileTimes::new().set_accessed(at)).unwrap();
        self
    }

    /// What all processors did: user, nice, system and idle ticks.
    pub(super) fn cpu(&self, [user, nice, system, idle]: [u64; 4]) -> &Machine {
        self.file("proc/stat", &format!("cpu  {user} {nice} {system} {idle} 0 0 0 0 0 0\ncpu0 1\n"))
    }

    /// A process with its user and system time, and that of its reaped children.
    pub(super) fn process(&self, pid: u32, parent: u32, nice: i32, ticks: [u64; 4]) -> &Machine {
        let [user, system, reaped_user, reaped_system] = ticks;
        self.file(
            &format!("proc/{pid}/stat"),
            &format!(
                "{pid} (a ) (b) S {parent} 1 1 0 -1 0 0 0 0 0 {user} {system} {reaped_user} \
                 {reaped_system} 20 {nice} 1 0 77 0 0\n"
            ),
        )
    }

    pub(super) fn children(&self, pid: u32, children: &[u32]) -> &Machine {
        let list: String = children.iter().map(|child| format!("{child} ")).collect();
        self.file(&format!("proc/{pid}/task/{pid}/children"), &list)
    }

    /// What a process has in memory: its own, pages of files, and shared, in KiB.
    pub(super) fn memory(&self, pid: u32, [anon, file, shmem]: [u64; 3]) -> &Machine {
        let text = format!(
            "Name:\tx\nRssAnon:\t  {anon} kB\nRssFile:\t  {file} kB\nRssShmem:\t  {shmem} kB\n"
        );
        self.file(&format!("proc/{pid}/status"), &text)
    }

    pub(super) fn gone(&self, pid: u32) {
        std::fs::remove_dir_all(self.root().join(format!("proc/{pid}"))).unwrap();
    }

    fn sensors(&self, programs: &[&str]) -> Sensors {
        let places = Places {
            root: self.root().to_owned(),
            bus: Some("unix:path=/nowhere/bus".to_owned()),
            pid: 10,
            zone: Some(TimeZone::UTC),
            data: self.root().join("data"),
        };
        Sensors::new(places, programs.iter().map(|name| (*name).to_owned()).collect())
    }
}

#[tokio::test]
async fn a_machine_that_tells_nothing_has_a_clock_and_a_disk() {
    let found = Machine::new().sensors(&["steam"]).read(NOW).await;
    let disk_free_bytes = found.disk_free_bytes;
    assert!(disk_free_bytes.is_some());
    let expected = Measured {
        // Friday 15 January 2027, 08:00.
        week_ms: (4 * 24 + 8) * 60 * 60 * 1000,
        day_ends: NOW.plus_ms(16 * 60 * 60 * 1000),
        month_ends: NOW.plus_ms((16 * 24 + 16) * 60 * 60 * 1000),
        idle_ms: None,
        on_battery: None,
        battery_percent: None,
        celsius: None,
        others_cpu_percent: None,
        programs: vec![],
        metered: None,
        memory_bytes: None,
        disk_free_bytes,
    };
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_laptop_in_use_tells_all_there_is() {
    let machine = Machine::new();
    machine.cpu([0, 0, 0, 0]).process(10, 1, 0, [0; 4]).children(10, &[]).memory(10, [9, 1, 0]);
    machine.file("sys/class/power_supply/BAT0/type", "Battery\n");
    machine.file("sys/class/power_supply/BAT0/status", "Discharging\n");
    machine.file("sys/class/power_supply/BAT0/capacity", "77\n");
    machine.file("sys/class/hwmon/hwmon0/name", "k10temp\n");
    machine.file("sys/class/hwmon/hwmon0/temp1_input", "61234\n");
    machine.file("proc/77/comm", "steam\n").touched("dev/pts/0", NOW.0 / 1000 - 30);
    let mut sensors = machine.sensors(&["steam", "doom"]);
    sensors.read(NOW).await;
    machine.cpu([30, 0, 0, 70]);
    let found = sensors.read(NOW.plus_ms(3000)).await;
    assert_eq!((found.on_battery, found.battery_percent), (Some(true), Some(77)));
    assert_eq!((found.celsius, found.idle_ms), (Some(61), Some(33_000)));
    assert_eq!((found.others_cpu_percent, found.memory_bytes), (Some(30.0), Some(10 << 10)));
    assert_eq!(found.programs, ["steam"]);
}

#[tokio::test]
async fn names_are_looked_for_now_and_then_and_at_once_when_they_change() {
    let machine = Machine::new();
    let mut sensors = machine.sensors(&["steam"]);
    assert_eq!(sensors.read(NOW).await.programs, [""; 0]);
    machine.file("proc/77/comm", "steam\n");
    assert_eq!(sensors.read(NOW.plus_ms(PROGRAMS_EVERY_MS - 1)).await.programs, [""; 0]);
    assert_eq!(sensors.read(NOW.plus_ms(PROGRAMS_EVERY_MS)).await.programs, ["steam"]);
    sensors.watch_for(vec!["doom".to_owned()]);
    assert_eq!(sensors.read(NOW.plus_ms(PROGRAMS_EVERY_MS)).await.programs, [""; 0]);
    sensors.watch_for((0..=PROGRAMS_MAX).map(|n| n.to_string()).collect());
    assert_eq!(sensors.programs.len(), PROGRAMS_MAX);
}

#[tokio::test]
async fn every_sensor_explains_itself_in_a_line() {
    let machine = Machine::new();
    let told = machine.sensors(&[]).explain(NOW).await;
    assert_eq!(told.len(), 6);
    for (subject, note) in &told {
        assert!(note.starts_with("unknown: ") && !note.contains('\n'), "{subject}: {note}");
    }
    machine.touched("dev/tty1", NOW.0 / 1000 - 5);
    let told = machine.sensors(&[]).explain(NOW).await;
    let person = &told.iter().find(|(subject, _)| *subject == "person").unwrap().1;
    let expected = "nobody has touched this machine for 5 s (no system bus";
    assert!(person.starts_with(expected), "{person}");
}

/// The module's first paragraph promises less than a millisecond; thirty times that is a mistake in
/// any build.
#[cfg(target_os = "linux")]
#[test]
fn a_reading_of_this_machine_takes_little_processor_time() {
    use rustix::time::{ClockId, clock_gettime};
    let mut sensors = Sensors::new(Places::of_system(Path::new("/tmp")), Vec::new());
    sensors.read_files(NOW);
    let spent = || {
        let spent = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(spent.tv_sec.unsigned_abs(), spent.tv_nsec.try_into().unwrap())
    };
    let before = spent();
    (1..=50).for_each(|n| drop(sensors.read_files(NOW.plus_ms(n))));
    let each = (spent() - before) / 50;
    writeln!(std::io::stderr(), "a reading takes {each:?} of processor time").unwrap();
    assert!(each < Duration::from_millis(30), "{each:?}");
}
