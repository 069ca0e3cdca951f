//! Rules one by one: each with its key, what it does, and the sentence that says it says no.

use std::fmt;

use potluck_unit::Time;

use super::rules::Section;

/// One thing that can keep a machine from being lent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// The user said pause.
    Asked,
    /// No slots are lent now.
    Slots,
    /// It is outside the hours in which units are run.
    WorkHours,
    /// Somebody uses the machine.
    InUse,
    /// The machine runs on its battery.
    Battery,
    /// The machine runs on its battery, and that is low.
    BatteryLow,
    /// One of the programs that come first runs.
    Program,
    /// The processor is hot.
    Temperature,
    /// Other programs need the processor.
    OthersCpu,
    /// More memory is in use than is lent.
    Memory,
    /// The connection is metered.
    Metered,
    /// It is outside the hours in which the network is used.
    NetworkHours,
    /// The day's traffic is used up.
    TrafficDay,
    /// The month's traffic is used up.
    TrafficMonth,
    /// The data folder is as large as it may be.
    Disk,
    /// The disk is full, whosever the bytes are.
    DiskFull,
    /// The user said drain.
    Draining,
}

/// What a rule that says no keeps from happening.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Effect {
    /// Running units: what runs is suspended.
    Compute,
    /// Using the network. What is here is run all the same.
    Network,
    /// Taking on anything new. What is begun is finished and said.
    Intake,
}

/// A rule that says no, with all that a sentence about it needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reason {
    /// Which.
    pub rule: Rule,
    /// What was measured, if that is a number or a name.
    pub measured: Measure,
    /// What the donor set.
    pub limit: Measure,
    /// Which section says so.
    pub from: Section,
    /// When it stops saying no if nothing else changes, where that can be known.
    pub until: Option<Time>,
    /// The same as the local clock will show it, in milliseconds since Monday 00:00.
    pub until_week_ms: Option<u64>,
    /// How long that is from now, in milliseconds.
    pub wait_ms: Option<u64>,
}

/// A measured or a set value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Measure {
    /// Nothing to say.
    None,
    /// Percent.
    Percent(u8),
    /// Degrees Celsius.
    Celsius(i16),
    /// Bytes.
    Bytes(u64),
    /// Milliseconds.
    Ms(u64),
    /// The name of a program.
    Name(String),
}

impl Rule {
    /// Every rule, in the order in which reasons are shown.
    pub const ALL: [Rule; 17] = [
        Rule::Asked,
        Rule::Slots,
        Rule::WorkHours,
        Rule::InUse,
        Rule::Battery,
        Rule::BatteryLow,
        Rule::Program,
        Rule::Temperature,
        Rule::OthersCpu,
        Rule::Memory,
        Rule::Metered,
        Rule::NetworkHours,
        Rule::TrafficDay,
        Rule::TrafficMonth,
        Rule::Disk,
        Rule::DiskFull,
        Rule::Draining,
    ];

    /// Its key in `potluck.toml`, or the command that sets it, or `the disk` where nobody can.
    pub fn key(self) -> &'static str {
        match self {
            Rule::Asked => "potluck pause",
            Rule::Slots => "slots",
            Rule::WorkHours => "work-hours",
            Rule::InUse => "only-when-idle",
            Rule::Battery => "pause-on-battery",
            Rule::BatteryLow => "battery-min",
            Rule::Program => "pause-programs",
            Rule::Temperature => "temperature-max",
            Rule::OthersCpu => "others-cpu-max",
            Rule::Memory => "memory",
            Rule::Metered => "pause-on-metered",
            Rule::NetworkHours => "network-hours",
            Rule::TrafficDay => "traffic-day",
            Rule::TrafficMonth => "traffic-month",
            Rule::Disk => "disk",
            Rule::DiskFull => "the disk",
            Rule::Draining => "potluck drain",
        }
    }

    /// What it does, in a line.
    pub fn doc(self) -> &'static str {
        match self {
            Rule::Asked => "suspends all units until `potluck resume`, or for as long as was said",
            Rule::Slots => "suspends all units while a section lends no slots",
            Rule::WorkHours => "suspends all units outside these hours of the local clock",
            Rule::InUse => "suspends all units while somebody uses the machine",
            Rule::Battery => "suspends all units while the machine runs on its battery",
            Rule::BatteryLow => "suspends all units on battery below this charge",
            Rule::Program => "suspends all units while one of these programs runs",
            Rule::Temperature => "suspends all units while the processor is hotter than this",
            Rule::OthersCpu => "suspends all units while other programs use more than this",
            Rule::Memory => "stops all units while more memory than this is in use",
            Rule::Metered => "leaves the network alone while the connection is metered",
            Rule::NetworkHours => "leaves the network alone outside these hours of the local clock",
            Rule::TrafficDay => "leaves the network alone when the day's bytes are used",
            Rule::TrafficMonth => "leaves the network alone when the month's bytes are used",
            Rule::Disk => "takes on nothing new while the data folder is as large as this",
            Rule::DiskFull => "takes on nothing new while the disk has hardly any room left",
            Rule::Draining => "takes on nothing new; finishes and says what is begun",
        }
    }

    /// What it keeps from happening.
    pub fn effect(self) -> Effect {
        match self {
            Rule::Asked
            | Rule::Slots
            | Rule::WorkHours
            | Rule::InUse
            | Rule::Battery
            | Rule::BatteryLow
            | Rule::Program
            | Rule::Temperature
            | Rule::OthersCpu
            | Rule::Memory => Effect::Compute,
            Rule::Metered | Rule::NetworkHours | Rule::TrafficDay | Rule::TrafficMonth => {
                Effect::Network
            }
            Rule::Disk | Rule::DiskFull | Rule::Draining => Effect::Intake,
        }
    }

    /// What ends it, where no time does.
    fn ends(self) -> &'static str {
        match self {
            Rule::Asked | Rule::Draining => "until `potluck resume`",
            Rule::Slots => "until another section holds",
            Rule::WorkHours | Rule::NetworkHours => "until the hours are changed",
            Rule::InUse => "until nobody has touched it for idle-after",
            Rule::Battery => "until it is plugged in",
            Rule::BatteryLow => "until it is plugged in or charged",
            Rule::Program => "until it ends",
            Rule::Temperature => "until it has cooled down",
            Rule::OthersCpu => "until they use less",
            Rule::Memory => "until that is given back",
            Rule::Metered => "until it no longer is",
            Rule::TrafficDay | Rule::TrafficMonth => "until more is allowed",
            Rule::Disk | Rule::DiskFull => "until there is room",
        }
    }
}

impl Reason {
    /// What is the case, with what was measured and what is allowed, and the key that says so.
    fn what(&self) -> String {
        let (key, measured, limit) = (self.rule.key(), &self.measured, &self.limit);
        match self.rule {
            Rule::Asked | Rule::Draining => format!("`{key}` was said"),
            Rule::Slots => format!("no slots are lent now ({key} = 0 in {})", self.from),
            Rule::WorkHours | Rule::NetworkHours => format!("it is outside {key}"),
            Rule::InUse => format!("the machine was in use {measured} ago ({key})"),
            Rule::Battery => format!("the battery is in use ({key})"),
            Rule::BatteryLow => format!("the battery is at {measured}, {key} is {limit}"),
            Rule::Program => match measured {
                Measure::Name(name) => format!("`{name}` runs ({key})"),
                Measure::None
                | Measure::Percent(_)
                | Measure::Celsius(_)
                | Measure::Bytes(_)
                | Measure::Ms(_) => format!("a program of {key} has just ended"),
            },
            Rule::Temperature => format!("the processor has {measured}, {key} is {limit}"),
            Rule::OthersCpu => {
                format!("other programs use {measured} of the processor, {key} is {limit}")
            }
            Rule::Memory => format!("{measured} of memory are in use, {key} is {limit}"),
            Rule::Metered => format!("the connection is metered ({key})"),
            Rule::TrafficDay => format!("{measured} were moved today, {key} is {limit}"),
            Rule::TrafficMonth => format!("{measured} were moved this month, {key} is {limit}"),
            Rule::Disk => format!("the data folder has {measured}, {key} is {limit}"),
            Rule::DiskFull => format!("{key} has {measured} left, less than {limit}"),
        }
    }

    /// Until when, or what ends it.
    fn end(&self) -> String {
        match (self.until_week_ms, self.wait_ms) {
            (_, None) => self.rule.ends().to_owned(),
            (Some(week_ms), Some(wait_ms)) if (SPAN_MAX_MS..CLOCK_MAX_MS).contains(&wait_ms) => {
                format!("until {}", super::hours::clock(week_ms))
            }
            (_, Some(wait_ms)) => format!("for {} more", span(wait_ms)),
        }
    }
}

/// Up to this time people say for how long rather than until when.
const SPAN_MAX_MS: u64 = 2 * 60 * 1000;
/// Within this time the name of a day says which one is meant.
const CLOCK_MAX_MS: u64 = 6 * 24 * 3600 * 1000;

/// `paused: the battery is in use (pause-on-battery), until it is plugged in`.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let effect = match self.rule.effect() {
            Effect::Compute => "paused",
            Effect::Network => "off the network",
            Effect::Intake => "taking on nothing new",
        };
        write!(f, "{effect}: {}, {}", self.what(), self.end())
    }
}

impl fmt::Display for Measure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Measure::None => f.write_str("an unknown amount"),
            Measure::Percent(percent) => write!(f, "{percent} %"),
            Measure::Celsius(degrees) => write!(f, "{degrees} °C"),
            Measure::Bytes(bytes) => f.write_str(&size(*bytes)),
            Measure::Ms(ms) => f.write_str(&span(*ms)),
            Measure::Name(name) => f.write_str(name),
        }
    }
}

/// Bytes as the donor writes them, to a tenth: `2 GiB`, `1.5 MiB`.
pub(crate) fn size(bytes: u64) -> String {
    let units = [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    let Some((one, unit)) = units.into_iter().find(|(one, _)| bytes >= *one) else {
        return format!("{bytes} bytes");
    };
    let tenths = u128::from(bytes) * 10 / u128::from(one);
    match tenths % 10 {
        0 => format!("{} {unit}", tenths / 10),
        rest => format!("{}.{rest} {unit}", tenths / 10),
    }
}

/// A span of time as people say it, rounded down.
fn span(ms: u64) -> String {
    const MINUTE: u64 = 60_000;
    let units =
        [(24 * 60 * MINUTE, "day"), (60 * MINUTE, "hour"), (MINUTE, "minute"), (1000, "second")];
    let fits = |(one, _): &(u64, &str)| ms >= 2 * one;
    let (one, unit) = units.into_iter().find(fits).unwrap_or((1000, "second"));
    match ms / one {
        1 => format!("1 {unit}"),
        count => format!("{count} {unit}s"),
    }
}
