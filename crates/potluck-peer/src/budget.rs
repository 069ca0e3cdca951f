//! The budget: what the donor's machine lends right now, decided from rules, readings and orders.
//!
//! Nothing is measured and nothing enforced here: the node does both. What was measured goes in with
//! the time, an [`Allowance`] comes out, which says what may be used and, of everything that may not
//! be, which rule forbids it and until when. Where a reading can hover at a limit, a rule says yes
//! again only once the reading is well below it, or has been for a while, so that work doesn't flap.

mod rules;
mod hours;
mod reading;
mod rule;
mod allowance;
mod verdict;

use potluck_unit::Time;

pub use allowance::{Allowance, Origins};
pub use hours::{Hours, HoursError};
pub use reading::{Battery, Reading};
pub(crate) use rule::size;
pub use rule::{Effect, Measure, Reason, Rule};
pub use rules::{Caps, Rules, Section, Set};

use hours::WEEK_MS;

/// What the user said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    /// Suspend all units, until this time or until told otherwise.
    Pause {
        /// When to go on by itself.
        until: Option<Time>,
    },
    /// Go on: neither paused nor draining any more.
    Resume,
    /// Finish and say what is begun, and take on nothing new.
    Drain {
        /// Whether the node stops then.
        exit: bool,
    },
}

/// What is lent, and all that follows from.
#[derive(Debug, Clone)]
pub struct Budget {
    rules: Rules,
    read: Option<(Time, Reading)>,
    /// Until when the user wants a pause; the end of time for one without an end.
    paused: Option<Time>,
    /// Whether the node stops when nothing is left to do.
    draining: Option<bool>,
    marks: Marks,
}

/// What is remembered of earlier readings.
#[derive(Debug, Clone, Copy, Default)]
struct Marks {
    holds: [Hold; Noisy::ALL.len()],
    suspended_since: Option<Time>,
}

/// A reading that can hover at its limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Noisy {
    OnBattery = 0,
    InUse = 1,
    BatteryLow = 2,
    Program = 3,
    Temperature = 4,
    OthersCpu = 5,
    Memory = 6,
    Metered = 7,
    Disk = 8,
    DiskFull = 9,
}

/// Whether one of them counts as beyond its limit.
#[derive(Debug, Clone, Copy, Default)]
struct Hold {
    on: bool,
    /// Since when the reading has been on the other side.
    since: Option<Time>,
}

/// What one of them reads now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Level {
    /// Beyond its limit.
    Beyond,
    /// Not beyond, and not clearly below either.
    Near,
    /// Clearly below, or unknown.
    Below,
}

/// What all sections that hold say together.
#[derive(Debug, Clone, Copy)]
struct InForce<'a> {
    slots: Set<u16>,
    cpu_percent: Set<u8>,
    memory_bytes: Set<u64>,
    upload_per_s: Set<u64>,
    download_per_s: Set<u64>,
    work_hours: Set<&'a Hours>,
    network_hours: Set<&'a Hours>,
    pause_on_battery: Set<bool>,
    battery_min_percent: Set<u8>,
    temperature_max_celsius: Set<u8>,
    others_cpu_max_percent: Set<u8>,
    pause_programs: Set<&'a [String]>,
    pause_on_metered: Set<bool>,
    only_when_idle: Set<bool>,
}

/// The processor must cool by so much before work goes on: at the limit it would heat up within
/// seconds of going on.
const COOLER_CELSIUS: i16 = 5;
/// The battery must be charged by so much more: its gauge moves by a percent under load.
const CHARGED_PERCENT: u8 = 2;
/// Other programs must need the processor for so long before that counts: opening a window takes less.
const BUSY_AFTER_MS: u64 = 3_000;
/// They must leave it alone for so long before work goes on: a build pauses between its steps.
const CALM_AFTER_MS: u64 = 30_000;
/// So long must a plug hold, a program stay away, a connection be free, or nobody touch the machine:
/// each may come back at once, and nothing is lost by waiting.
const SETTLED_AFTER_MS: u64 = 10_000;
/// So long must memory stay below: whatever took it may take it again.
const GIVEN_BACK_AFTER_MS: u64 = 60_000;
/// Part of a cap in bytes by which a reading must fall below it again.
const ROOM_PART: u64 = 16;
/// With less room left on the disk nothing new is taken on: others write there too, and a system
/// whose disk is full stops working.
const DISK_FREE_MIN_BYTES: u64 = 512 << 20;
/// Part of a traffic quota, and the most of it in bytes, that is left for finishing and saying what
/// is begun: a day of gossip among friends is less.
const RESERVE_PART: u64 = 8;
const RESERVE_BYTES_MAX: u64 = 64 << 20;
/// Changes looked at ahead to say until when: more than what people write into a week has edges.
const AHEAD_MAX: usize = 512;

impl Noisy {
    const ALL: [Noisy; 10] = [
        Noisy::OnBattery,
        Noisy::InUse,
        Noisy::BatteryLow,
        Noisy::Program,
        Noisy::Temperature,
        Noisy::OthersCpu,
        Noisy::Memory,
        Noisy::Metered,
        Noisy::Disk,
        Noisy::DiskFull,
    ];

    /// For how long it must be beyond its limit before that counts, and below before that does.
    fn after_ms(self) -> (u64, u64) {
        match self {
            Noisy::OthersCpu => (BUSY_AFTER_MS, CALM_AFTER_MS),
            Noisy::OnBattery | Noisy::InUse | Noisy::Program | Noisy::Metered => {
                (0, SETTLED_AFTER_MS)
            }
            Noisy::Memory => (0, GIVEN_BACK_AFTER_MS),
            Noisy::BatteryLow | Noisy::Temperature | Noisy::Disk | Noisy::DiskFull => (0, 0),
        }
    }
}

impl Hold {
    fn holds(self, now: Time, noisy: Noisy) -> bool {
        self.turns_at(noisy).is_some_and(|at| at <= now) != self.on
    }

    /// When it changes if the reading stays.
    fn turns_at(self, noisy: Noisy) -> Option<Time> {
        let (on_after_ms, off_after_ms) = noisy.after_ms();
        let after_ms = if self.on { off_after_ms } else { on_after_ms };
        self.since.map(|since| since.plus_ms(after_ms))
    }

    fn settled(self, now: Time, noisy: Noisy, level: Level) -> Hold {
        let on = self.holds(now, noisy);
        let other_side = if on { level == Level::Below } else { level == Level::Beyond };
        // The time before it turned counts for nothing now.
        let since = self.since.filter(|_| on == self.on);
        Hold { on, since: other_side.then(|| since.unwrap_or(now)) }
    }
}

impl Budget {
    /// A budget by these rules, that has read nothing and was told nothing.
    pub fn new(rules: Rules) -> Budget {
        Budget { rules, read: None, paused: None, draining: None, marks: Marks::default() }
    }

    /// The rules.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The rules are others now. What was read and said holds on.
    pub fn on_rules(&mut self, now: Time, rules: Rules) {
        self.on_time(now);
        self.rules = rules;
        self.on_time(now);
    }

    /// The node measured.
    pub fn on_reading(&mut self, now: Time, reading: Reading) {
        self.on_time(now);
        self.read = Some((now, reading));
        self.on_time(now);
    }

    /// The user said something.
    pub fn on_order(&mut self, now: Time, order: Order) {
        self.on_time(now);
        match order {
            Order::Pause { until } => self.paused = Some(until.unwrap_or(Time(u64::MAX))),
            Order::Resume => (self.paused, self.draining) = (None, None),
            Order::Drain { exit } => self.draining = Some(exit),
        }
        self.on_time(now);
    }

    /// Time has passed: to be told at [`Budget::changes_at`] at the latest.
    pub fn on_time(&mut self, now: Time) {
        self.marks = self.settled(now, self.marks);
    }

    /// When something changes by itself.
    pub fn changes_at(&self, now: Time) -> Option<Time> {
        self.next_change(now, &self.marks)
    }

    /// What is lent now.
    pub fn allowance(&self, now: Time) -> Allowance {
        let force = self.in_force(now, &self.marks);
        let reasons = self.reasons(now, &force);
        let suspended = reasons.iter().any(|reason| reason.rule.effect() == Effect::Compute);
        let suspended_since = self.marks.suspended_since.filter(|_| suspended);
        let release_at = suspended_since.map(|since| since.plus_ms(self.rules.release_after_ms));
        // Memory comes back no other way, and what is suspended is never finished.
        let at_once = reasons.iter().any(|reason| reason.rule == Rule::Memory)
            || suspended && self.draining.is_some();
        Allowance {
            slots: force.slots.value,
            cpu_percent: force.cpu_percent.value.clamp(1, 100),
            memory_bytes: force.memory_bytes.value,
            disk_bytes: self.rules.disk_bytes,
            upload_per_s: force.upload_per_s.value,
            download_per_s: force.download_per_s.value,
            inputs_max_bytes: self.inputs_max_bytes(now),
            reasons,
            suspended_since,
            released: at_once || release_at.is_some_and(|at| at <= now),
            draining: self.draining.is_some(),
            exit: self.draining == Some(true),
            from: Origins {
                slots: force.slots.from,
                cpu_percent: force.cpu_percent.from,
                memory: force.memory_bytes.from,
                upload: force.upload_per_s.from,
                download: force.download_per_s.from,
            },
        }
    }

    /// What the local clock shows then, in milliseconds since Monday 00:00.
    fn week_ms(&self, at: Time) -> Option<u64> {
        let (read_at, reading) = self.read.as_ref()?;
        Some((reading.week_ms % WEEK_MS + at.ms_since(*read_at) % WEEK_MS) % WEEK_MS)
    }
}

#[cfg(test)]
mod tests;
