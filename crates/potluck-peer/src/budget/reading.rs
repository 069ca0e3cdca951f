//! Readings: what the node measured of the machine and of its own use of it.

use potluck_unit::Time;

/// What the node measured. What is unknown says no to nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reading {
    /// What the local clock shows now, in milliseconds since Monday 00:00. More than a week counts
    /// from its start.
    pub week_ms: u64,
    /// When the local day ends.
    pub day_ends: Time,
    /// When the local month ends.
    pub month_ends: Time,
    /// How long nobody has touched the machine, in milliseconds.
    pub idle_ms: Option<u64>,
    /// The battery, if there is one.
    pub battery: Option<Battery>,
    /// The processor's hottest sensor, in degrees Celsius.
    pub celsius: Option<i16>,
    /// What other programs use of all cores together, in percent.
    pub others_cpu_percent: Option<u8>,
    /// Which of [`super::Rules::programs`] run, spelt as there.
    pub programs: Vec<String>,
    /// Whether the connection is metered.
    pub metered: Option<bool>,
    /// Memory in use by the node, its compilers, its caches and all slots, in bytes.
    pub memory_bytes: Option<u64>,
    /// Bytes below the data folder.
    pub disk_bytes: Option<u64>,
    /// Bytes that the disk has left.
    pub disk_free_bytes: Option<u64>,
    /// Bytes sent and received since the local day began.
    pub today_bytes: u64,
    /// Bytes sent and received since the local month began.
    pub month_bytes: u64,
}

/// A battery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Battery {
    /// Whether the machine runs on it.
    pub discharging: bool,
    /// Its charge in percent, if that is known.
    pub percent: Option<u8>,
}
