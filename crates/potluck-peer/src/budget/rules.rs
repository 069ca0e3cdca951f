//! Rules: what the donor set, by section, and which section's word holds.

use std::fmt;

use super::hours::Hours;
use crate::choice::Choice;

/// What the donor set: `[budget]`, its sections, and `[choice]`. Of the sections that hold at a
/// time, later ones win key by key: [`Rules::base`], [`Rules::at`] in order, [`Rules::idle`] or
/// [`Rules::in_use`], [`Rules::on_battery`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// `[budget]`. What it leaves out is as [`Caps::defaults`] says.
    pub base: Caps,
    /// `[[budget.at]]`: these hold while the local time is within their hours. The first
    /// [`Rules::SECTIONS_MAX`] count.
    pub at: Vec<(Hours, Caps)>,
    /// `[budget.idle]`: holds while nobody has touched the machine for `idle-after`.
    pub idle: Caps,
    /// `[budget.in-use]`: holds while somebody has.
    pub in_use: Caps,
    /// `[budget.on-battery]`: holds while the machine runs on its battery.
    pub on_battery: Caps,
    /// `disk`: bytes of everything below the data folder.
    pub disk_bytes: u64,
    /// `traffic-day`: bytes of every packet, both directions together, per day of the local clock.
    pub traffic_day_bytes: u64,
    /// `traffic-month`: the same per month.
    pub traffic_month_bytes: u64,
    /// `idle-after`: so long after the last touch the machine counts as idle, in milliseconds.
    pub idle_after_ms: u64,
    /// `release-after`: what was suspended for so long is stopped: its memory is given back, and its
    /// units to others. In milliseconds.
    pub release_after_ms: u64,
    /// What the node itself takes of `memory` whatever it runs, in bytes.
    pub node_bytes: u64,
    /// What each busy slot takes of `memory` beside [`potluck_unit::Limits::held_bytes`] of its unit, in
    /// bytes.
    pub slot_bytes: u64,
    /// `[choice]`: for whom and for what.
    pub choice: Choice,
}

/// One section of the rules. What it leaves out, the section below it says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caps {
    /// `slots`: units run at once.
    pub slots: Option<u16>,
    /// `cpu-percent`: of one core, per slot, 1 to 100. 0 counts as 1, more as 100.
    pub cpu_percent: Option<u8>,
    /// `memory`: bytes of all slots, compilers, caches and the node together.
    pub memory_bytes: Option<u64>,
    /// `upload`: bytes per second, every byte of the socket.
    pub upload_per_s: Option<u64>,
    /// `download`: the same towards here.
    pub download_per_s: Option<u64>,
    /// `work-hours`: when units are run, by the local clock.
    pub work_hours: Option<Hours>,
    /// `network-hours`: when the network is used, by the local clock.
    pub network_hours: Option<Hours>,
    /// `pause-on-battery`.
    pub pause_on_battery: Option<bool>,
    /// `battery-min`: on battery, pause below this charge in percent. 0 for never.
    pub battery_min_percent: Option<u8>,
    /// `temperature-max`: pause above this, in degrees Celsius, hottest sensor of the processor.
    pub temperature_max_celsius: Option<u8>,
    /// `others-cpu-max`: pause while other programs use more than this, in percent of all cores.
    /// 100 for never.
    pub others_cpu_max_percent: Option<u8>,
    /// `pause-programs`: pause while one of these runs. The first [`Rules::PROGRAMS_MAX`] count.
    pub pause_programs: Option<Vec<String>>,
    /// `pause-on-metered`: leave the network alone while the connection is metered.
    pub pause_on_metered: Option<bool>,
    /// `only-when-idle`: pause while somebody uses the machine.
    pub only_when_idle: Option<bool>,
}

/// Which section of the rules a value comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// No section says anything of it: the default.
    #[default]
    Default,
    /// `[budget]`.
    Base,
    /// `[[budget.at]]` number so and so, from 0.
    At(u16),
    /// `[budget.idle]`.
    Idle,
    /// `[budget.in-use]`.
    InUse,
    /// `[budget.on-battery]`.
    OnBattery,
}

/// A value, and the section that it comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Set<T> {
    /// The value.
    pub value: T,
    /// Where it comes from.
    pub from: Section,
}

/// What holds where no section says anything of a key: what a stranger's laptop lends.
static DEFAULTS: Caps = Caps {
    slots: Some(SLOTS),
    cpu_percent: Some(100),
    memory_bytes: Some(MEMORY_BYTES),
    upload_per_s: Some(UPLOAD_PER_S),
    download_per_s: Some(DOWNLOAD_PER_S),
    work_hours: Some(Hours::ALWAYS),
    network_hours: Some(Hours::ALWAYS),
    pause_on_battery: Some(true),
    battery_min_percent: Some(BATTERY_MIN_PERCENT),
    temperature_max_celsius: Some(TEMPERATURE_MAX_CELSIUS),
    others_cpu_max_percent: Some(OTHERS_CPU_MAX_PERCENT),
    pause_programs: Some(Vec::new()),
    pause_on_metered: Some(true),
    only_when_idle: Some(false),
};

/// The node says half of the cores instead.
const SLOTS: u16 = 1;
/// A quarter of a small machine's 8 GiB.
const MEMORY_BYTES: u64 = 2 << 30;
/// Most of a slow line's 10 Mbit/s up, a third of 100 Mbit/s down: guesses.
const UPLOAD_PER_S: u64 = 1 << 20;
const DOWNLOAD_PER_S: u64 = 4 << 20;
/// Below it a laptop that was just unplugged stops soon, and one on a full battery may go on.
const BATTERY_MIN_PERCENT: u8 = 80;
/// Most processors slow down at 95 to 105 degrees; fans are loud before.
const TEMPERATURE_MAX_CELSIUS: u8 = 85;
/// What a machine with one busy program on four cores shows.
const OTHERS_CPU_MAX_PERCENT: u8 = 25;
const DISK_BYTES: u64 = 10 << 30;
const TRAFFIC_DAY_BYTES: u64 = 2 << 30;
const TRAFFIC_MONTH_BYTES: u64 = 40 << 30;
/// What desktops wait before they dim the screen.
const IDLE_AFTER_MS: u64 = 3 * 60 * 1000;
/// Longer than a call or a compilation, shorter than what others should wait for.
const RELEASE_AFTER_MS: u64 = 10 * 60 * 1000;

impl Rules {
    /// What the node itself takes: its program, the records of the board, the database's cache, and
    /// blobs on their way. `docs/caps.md` says what was measured.
    pub const NODE_BYTES: u64 = 160 << 20;
    /// What a sandbox takes beside its unit: a stack of 256 MiB that a deep recursion fills, an input
    /// row there and in the node, the engine, the program and the module's code.
    pub const SLOT_BYTES: u64 = 320 << 20;
    /// A cap that caps nothing.
    pub const UNLIMITED: u64 = u64::MAX;
    /// `[[budget.at]]` sections that count: nobody writes more than a few.
    pub const SECTIONS_MAX: usize = 32;
    /// Names in one `pause-programs` that count.
    pub const PROGRAMS_MAX: usize = 64;

    /// Rules that never say no: what a peer goes by that was told none.
    pub fn unlimited() -> Rules {
        let base = Caps {
            slots: Some(u16::MAX),
            cpu_percent: Some(100),
            memory_bytes: Some(Rules::UNLIMITED),
            upload_per_s: Some(Rules::UNLIMITED),
            download_per_s: Some(Rules::UNLIMITED),
            work_hours: Some(Hours::ALWAYS),
            network_hours: Some(Hours::ALWAYS),
            pause_on_battery: Some(false),
            battery_min_percent: Some(0),
            temperature_max_celsius: Some(u8::MAX),
            others_cpu_max_percent: Some(100),
            pause_programs: Some(Vec::new()),
            pause_on_metered: Some(false),
            only_when_idle: Some(false),
        };
        Rules {
            base,
            disk_bytes: Rules::UNLIMITED,
            traffic_day_bytes: Rules::UNLIMITED,
            traffic_month_bytes: Rules::UNLIMITED,
            node_bytes: 0,
            slot_bytes: 0,
            choice: Choice::everything(),
            ..Rules::default()
        }
    }

    /// Every section with its name, in rising precedence. Whether it holds is another question.
    pub fn sections(&self) -> impl DoubleEndedIterator<Item = (Section, &Caps)> {
        let at = (0..).zip(self.at.iter().take(Rules::SECTIONS_MAX));
        let at = at.map(|(n, (_, caps))| (Section::At(n), caps)).collect::<Vec<_>>();
        let states = [
            (Section::Idle, &self.idle),
            (Section::InUse, &self.in_use),
            (Section::OnBattery, &self.on_battery),
        ];
        std::iter::once((Section::Base, &self.base)).chain(at).chain(states)
    }

    /// The most slots that any section lends: so many a node must have ready.
    pub fn slots_max(&self) -> u16 {
        let sections = self.sections().filter_map(|(_, caps)| caps.slots);
        let default = if self.base.slots.is_none() { SLOTS } else { 0 };
        sections.max().unwrap_or(0).max(default)
    }

    /// Every program that any section wants watched, without repeats.
    pub fn programs(&self) -> Vec<&str> {
        let lists = self.sections().filter_map(|(_, caps)| caps.pause_programs.as_ref());
        let listed = lists.flat_map(|list| list.iter().take(Rules::PROGRAMS_MAX));
        let mut names: Vec<&str> = listed.map(String::as_str).collect();
        names.sort_unstable();
        names.dedup();
        names
    }
}

impl Caps {
    /// What holds where no section says anything: what a stranger's laptop lends.
    pub fn defaults() -> &'static Caps {
        &DEFAULTS
    }
}

/// What a stranger's laptop lends. What depends on the machine, slots and memory, is for the node to
/// say: here it is a small machine's.
impl Default for Rules {
    fn default() -> Rules {
        Rules {
            base: Caps::default(),
            at: Vec::new(),
            idle: Caps::default(),
            in_use: Caps::default(),
            on_battery: Caps::default(),
            disk_bytes: DISK_BYTES,
            traffic_day_bytes: TRAFFIC_DAY_BYTES,
            traffic_month_bytes: TRAFFIC_MONTH_BYTES,
            idle_after_ms: IDLE_AFTER_MS,
            release_after_ms: RELEASE_AFTER_MS,
            node_bytes: Rules::NODE_BYTES,
            slot_bytes: Rules::SLOT_BYTES,
            choice: Choice::default(),
        }
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Section::Default => f.write_str("default"),
            Section::Base => f.write_str("[budget]"),
            Section::At(n) => write!(f, "[[budget.at]] number {}", n + 1),
            Section::Idle => f.write_str("[budget.idle]"),
            Section::InUse => f.write_str("[budget.in-use]"),
            Section::OnBattery => f.write_str("[budget.on-battery]"),
        }
    }
}
