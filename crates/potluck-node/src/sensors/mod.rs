//! Sensors: what this machine does and is besides, as the rules of a budget want to know it.
//!
//! Everything is read from small files that anybody may read, and from two services over the
//! system's message bus. What can't be told is unknown, and a rule about it never holds. Where there
//! is nothing to tell whether a person is there (no session, terminal, keyboard or mouse), the load of
//! other programs decides: who asks for idleness treats a machine without people as idle.
//!
//! A reading takes half a millisecond of processor time in a build that is not optimised, so that one
//! every three seconds costs a sixtieth of a percent of a core, and wakes the node once. What changes
//! seldom or costs more is read less often: services every few seconds, names of programs every ten.

mod files;
mod load;
mod power;
mod heat;
mod person;
mod bus;
mod programs;
mod calendar;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::tz::TimeZone;
use potluck_unit::Time;

use bus::{Bus, Sessions};
use heat::Heat;
use load::Load;
use person::Person;
use power::Power;

/// Where things are read.
#[derive(Debug, Clone)]
pub(crate) struct Places {
    /// What stands for `/`.
    root: PathBuf,
    /// The address of the system's message bus, if it is not where systems have it.
    bus: Option<String>,
    /// This process.
    pid: u32,
    /// The time zone, if it is not the system's.
    zone: Option<TimeZone>,
    /// The data folder, or where it will be.
    data: PathBuf,
}

impl Places {
    /// Where the running system has them, for a node on this data folder.
    pub(crate) fn of_system(data: &Path) -> Places {
        let pid = std::process::id();
        Places { root: "/".into(), bus: None, pid, zone: None, data: data.to_owned() }
    }
}

/// Everything that is measured, with what was read last.
#[derive(Debug)]
pub(crate) struct Sensors {
    places: Places,
    programs: Vec<String>,
    load: Load,
    heat: Heat,
    person: Person,
    bus: Bus,
    sessions: Kept<Result<Sessions, String>>,
    metered: Kept<Result<Option<bool>, String>>,
    running: Kept<Vec<String>>,
    /// When devices are looked for again.
    devices_at: Time,
}

/// What was measured. None is unknown.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Measured {
    /// What the local clock shows, in milliseconds since Monday 00:00.
    pub(crate) week_ms: u64,
    /// When the local day ends.
    pub(crate) day_ends: Time,
    /// When the local month ends.
    pub(crate) month_ends: Time,
    /// How long nobody has touched the machine.
    pub(crate) idle_ms: Option<u64>,
    /// Whether the machine runs on a battery; none where the system does not tell.
    pub(crate) on_battery: Option<bool>,
    /// How full that is, in percent; none without a battery.
    pub(crate) battery_percent: Option<u8>,
    /// The processor's hottest sensor, in degrees Celsius.
    pub(crate) celsius: Option<i16>,
    /// What other programs use of all cores together since the last reading, in percent.
    pub(crate) others_cpu_percent: Option<f64>,
    /// Which of the names that are watched for belong to a program that runs, spelt as given.
    pub(crate) programs: Vec<String>,
    /// Whether the connection is metered.
    pub(crate) metered: Option<bool>,
    /// Memory of this process and all its children, with what they share counted once.
    pub(crate) memory_bytes: Option<u64>,
    /// What the disk of the data folder has left for this user.
    pub(crate) disk_free_bytes: Option<u64>,
}

impl Sensors {
    /// Sensors that watch for programs of these names, at most [`PROGRAMS_MAX`].
    pub(crate) fn new(places: Places, programs: Vec<String>) -> Sensors {
        let mut sensors = Sensors {
            load: Load::new(&places.root, places.pid),
            heat: Heat::default(),
            person: Person::default(),
            bus: Bus::new(places.bus.clone()),
            sessions: Kept::new(Err(NOT_YET.to_owned())),
            metered: Kept::new(Err(NOT_YET.to_owned())),
            running: Kept::new(Vec::new()),
            devices_at: Time(0),
            programs: Vec::new(),
            places,
        };
        sensors.watch_for(programs);
        sensors
    }

    /// Watches for programs of these names instead, at most [`PROGRAMS_MAX`].
    pub(crate) fn watch_for(&mut self, mut programs: Vec<String>) {
        programs.truncate(PROGRAMS_MAX);
        self.programs = programs;
        self.running = Kept::new(Vec::new());
    }

    /// Reads everything that is due. Files are read at once, which takes well below a millisecond;
    /// services may take a few seconds to fail, once a minute.
    pub(crate) async fn read(&mut self, now: Time) -> Measured {
        self.read_services(now).await;
        self.read_files(now)
    }

    async fn read_services(&mut self, now: Time) {
        if self.sessions.is_due(now) {
            let sessions = self.bus.sessions(now).await;
            // Somebody who comes back is noticed soon; that somebody has left has time.
            let there = |sessions: &Sessions| sessions.touched.is_some_and(|at| at >= now);
            let there = sessions.as_ref().is_ok_and(there);
            let again_ms = if there { SESSIONS_IN_USE_EVERY_MS } else { SESSIONS_EVERY_MS };
            self.sessions.set(sessions, now.plus_ms(again_ms));
        }
        if self.metered.is_due(now) {
            let metered = self.bus.metered(now).await;
            self.metered.set(metered, now.plus_ms(METERED_EVERY_MS));
        }
    }

    fn read_files(&mut self, now: Time) -> Measured {
        let root = &self.places.root;
        if self.devices_at <= now {
            self.devices_at = now.plus_ms(DEVICES_EVERY_MS);
            self.heat.look_anew();
            self.person.look_anew();
        }
        if self.running.is_due(now) {
            let running = programs::running(root, &self.programs);
            self.running.set(running, now.plus_ms(PROGRAMS_EVERY_MS));
        }
        let (others_cpu_percent, tree) = self.load.look();
        let power = power::look(root);
        let local = calendar::at(now, self.places.zone.as_ref());
        let session = self.sessions.value.as_ref().ok().and_then(|sessions| sessions.touched);
        let touched = session.max(self.person.touched(root, now));
        Measured {
            week_ms: local.week_ms,
            day_ends: local.day_ends,
            month_ends: local.month_ends,
            idle_ms: touched.map(|at| now.ms_since(at)),
            on_battery: power.map(|power| power.on_battery),
            battery_percent: power.and_then(|power| power.percent),
            celsius: self.heat.look(root),
            others_cpu_percent,
            programs: self.running.value.clone(),
            metered: self.metered.value.as_ref().ok().copied().flatten(),
            memory_bytes: tree.map(|tree| tree.memory_bytes),
            disk_free_bytes: disk_free_bytes(&self.places.data),
        }
    }

    /// What each sensor says, or why it can't, for a person: subject and sentence.
    pub(crate) async fn explain(&mut self, now: Time) -> Vec<(&'static str, String)> {
        self.load.look();
        tokio::time::sleep(EXPLAIN_AFTER).await;
        let found = self.read(now).await;
        let load = found.others_cpu_percent.map_or_else(
            || unknown("this system does not tell who uses the processor"),
            |percent| format!("other programs use {percent:.0} % of all cores"),
        );
        let power = power::look(&self.places.root);
        let heat = found.celsius.map_or_else(
            || unknown("no sensor of the processor is known here"),
            |celsius| format!("{celsius} °C, the hottest of {} sensors", self.heat.sensors()),
        );
        let metered = match (&self.metered.value, found.metered) {
            (_, Some(true)) => "NetworkManager says that the connection is metered".to_owned(),
            (_, Some(false)) => "NetworkManager says that the connection is not metered".to_owned(),
            (Ok(_), None) => unknown("NetworkManager does not know"),
            (Err(why), None) => unknown(why),
        };
        let memory = found.memory_bytes.map_or_else(
            || unknown("this system does not tell what processes use"),
            |bytes| format!("told; this process uses {} MiB", bytes >> 20),
        );
        vec![
            ("others' load", load),
            ("power", power.map_or_else(|| unknown("this system tells of no battery"), told_power)),
            ("temperature", heat),
            ("person", self.told_person(&found)),
            ("metered", metered),
            ("memory", memory),
        ]
    }

    fn told_person(&self, found: &Measured) -> String {
        let sessions = match &self.sessions.value {
            Ok(Sessions { count: 0, .. }) => "logind knows of no session".to_owned(),
            Ok(Sessions { count: 1, .. }) => "logind knows of one session".to_owned(),
            Ok(Sessions { count, .. }) => format!("logind knows of {count} sessions"),
            Err(why) => why.clone(),
        };
        let Some(idle_ms) = found.idle_ms else {
            let what = "no terminal, keyboard or mouse is seen";
            return format!("unknown: {what} ({sessions}); others' load decides");
        };
        format!("nobody has touched this machine for {} s ({sessions})", idle_ms / 1000)
    }
}

fn unknown(why: &str) -> String {
    format!("unknown: {why}; rules about it never hold")
}

fn told_power(power: Power) -> String {
    let source = if power.on_battery { "on battery" } else { "not on battery" };
    match power.percent {
        Some(percent) => format!("{source}, which is {percent} % full"),
        None => format!("{source}; no battery says how full it is"),
    }
}

/// What is left where the data folder is or would be.
fn disk_free_bytes(data: &Path) -> Option<u64> {
    let there = data.ancestors().find(|folder| folder.is_dir())?;
    let space = rustix::fs::statvfs(there).ok()?;
    Some(space.f_bavail.saturating_mul(space.f_frsize))
}

/// Something that is not read every time.
#[derive(Debug)]
struct Kept<T> {
    value: T,
    due: Time,
}

impl<T> Kept<T> {
    fn new(value: T) -> Kept<T> {
        Kept { value, due: Time(0) }
    }

    fn is_due(&self, now: Time) -> bool {
        self.due <= now
    }

    fn set(&mut self, value: T, due: Time) {
        (self.value, self.due) = (value, due);
    }
}

/// Names of programs watched for: each is compared with every process.
pub(crate) const PROGRAMS_MAX: usize = 256;
const NOT_YET: &str = "not asked yet";
/// How soon somebody who comes back is noticed. Until then only time that nobody else wants is used.
const SESSIONS_EVERY_MS: u64 = 5_000;
const SESSIONS_IN_USE_EVERY_MS: u64 = 15_000;
/// Machines change networks seldom, and what was begun on the old one is a few seconds' worth.
const METERED_EVERY_MS: u64 = 30_000;
/// Every process is looked at, which takes about ten microseconds each.
const PROGRAMS_EVERY_MS: u64 = 10_000;
const DEVICES_EVERY_MS: u64 = 60_000;
/// How long the load is measured for a person who waits.
const EXPLAIN_AFTER: Duration = Duration::from_millis(250);
