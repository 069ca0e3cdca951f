//! How hot the processor is.
//!
//! Every chip that reports temperatures is listed by the system under a driver's name; those of
//! processors are known by name. Where there is none, the thermal zones of processors are asked, and
//! last the one that the firmware offers, which on some machines never changes.

use std::path::{Path, PathBuf};

use super::files;

/// The sensors of the processor. Looking for them costs more than reading them.
#[derive(Debug, Default)]
pub(super) struct Heat {
    sensors: Vec<PathBuf>,
    looked: bool,
}

impl Heat {
    /// The hottest sensor in degrees Celsius; none if there is no sensor of a processor.
    pub(super) fn look(&mut self, root: &Path) -> Option<i16> {
        let read = |sensors: &[PathBuf]| sensors.iter().filter_map(|path| degrees(path)).max();
        if !std::mem::replace(&mut self.looked, true) {
            self.sensors = find(root);
        }
        read(&self.sensors)
    }

    /// Has the sensors looked for again: drivers come and go.
    pub(super) fn look_anew(&mut self) {
        self.looked = false;
    }

    /// How many sensors are read.
    pub(super) fn sensors(&self) -> usize {
        self.sensors.len()
    }
}

fn find(root: &Path) -> Vec<PathBuf> {
    let chips = chips(root);
    if !chips.is_empty() {
        return chips;
    }
    let zones = zones(root);
    let of = |wanted: fn(&str) -> bool| -> Vec<PathBuf> {
        let zones = zones.iter().filter(|(kind, _)| wanted(kind));
        zones.map(|(_, path)| path.clone()).filter(|path| degrees(path).is_some()).collect()
    };
    let processor = of(|kind| {
        let kind = kind.to_ascii_lowercase();
        ["x86_pkg_temp", "tcpu", "b0d4"].contains(&kind.as_str())
            || kind.starts_with("cpu")
            || kind.starts_with("soc")
    });
    if processor.is_empty() { of(|kind| kind == "acpitz") } else { processor }
}

/// The sensors of chips that are processors.
fn chips(root: &Path) -> Vec<PathBuf> {
    let folder = root.join("sys/class/hwmon");
    let mut found = Vec::new();
    for chip in files::list(&folder, CHIPS_MAX) {
        let chip = folder.join(chip);
        if !files::word(&chip.join("name")).is_some_and(|name| DRIVERS.contains(&name.as_str())) {
            continue;
        }
        let names = files::list(&chip, CHIP_FILES_MAX);
        let inputs =
            names.iter().filter(|name| name.starts_with("temp") && name.ends_with("_input"));
        let sensors: Vec<(String, PathBuf)> = inputs
            .map(|name| (files::word(&chip.join(name.replace("_input", "_label"))), name))
            .map(|(label, name)| (label.unwrap_or_default(), chip.join(name)))
            .filter(|(_, path)| degrees(path).is_some())
            .collect();
        // The whole package is as hot as its hottest core, and asking it wakes none of them. Of the
        // two that AMD offers, `Tctl` is for fans and may stand above the truth.
        let best = sensors.iter().filter(|(label, _)| {
            label.starts_with("Package") || label == "Tdie" || label.starts_with("Tccd")
        });
        let best: Vec<PathBuf> = best.map(|(_, path)| path.clone()).collect();
        let all = sensors.into_iter().map(|(_, path)| path);
        found.extend(if best.is_empty() { all.collect() } else { best });
    }
    found.truncate(SENSORS_MAX);
    found
}

/// Kind and temperature of every thermal zone.
fn zones(root: &Path) -> Vec<(String, PathBuf)> {
    let folder = root.join("sys/class/thermal");
    let zones = files::list(&folder, CHIPS_MAX).into_iter();
    let zones = zones.filter(|name| name.starts_with("thermal_zone")).map(|name| folder.join(name));
    zones.filter_map(|zone| Some((files::word(&zone.join("type"))?, zone.join("temp")))).collect()
}

/// What a sensor says, if it is plausible: broken ones say 0 or the ends of their range.
fn degrees(path: &Path) -> Option<i16> {
    let thousandths = files::number::<i64>(path)?;
    i16::try_from(thousandths / 1000).ok().filter(|degrees| PLAUSIBLE.contains(degrees))
}

/// Drivers of processors' own sensors: Intel, AMD, VIA, and boards with ARM processors.
const DRIVERS: &[&str] = &[
    "coretemp",
    "k10temp",
    "k8temp",
    "zenpower",
    "via_cputemp",
    "cpu_thermal",
    "cpu-thermal",
    "soc_thermal",
    "scpi_sensors",
];
/// Chips, and zones, looked at.
const CHIPS_MAX: usize = 128;
/// Files of one chip looked at: a processor of 128 cores has five for each.
const CHIP_FILES_MAX: usize = 1024;
/// Sensors read each time.
const SENSORS_MAX: usize = 64;
/// A machine that is on is warmer than 0 degrees, and one above 150 is not.
const PLAUSIBLE: std::ops::RangeInclusive<i16> = 1..=150;

#[cfg(test)]
mod tests {
    use super::super::tests::Machine;
    use super::*;

    fn chip(machine: &Machine, number: u32, name: &str, sensors: &[(&str, &str)]) {
        let folder = format!("sys/class/hwmon/hwmon{number}");
        machine.file(&format!("{folder}/name"), &format!("{name}\n"));
        for (at, (label, value)) in sensors.iter().enumerate() {
            machine.file(&format!("{folder}/temp{}_input", at + 1), &format!("{value}\n"));
            if !label.is_empty() {
                machine.file(&format!("{folder}/temp{}_label", at + 1), &format!("{label}\n"));
            }
        }
    }

    fn zone(machine: &Machine, number: u32, kind: &str, value: &str) {
        let folder = format!("sys/class/thermal/thermal_zone{number}");
        machine.file(&format!("{folder}/type"), kind).file(&format!("{folder}/temp"), value);
    }

    fn look_at(machine: &Machine) -> Option<i16> {
        Heat::default().look(machine.root())
    }

    #[test]
    fn the_hottest_processor_counts_and_disks_do_not() {
        let machine = Machine::new();
        chip(&machine, 0, "nvme", &[("Composite", "91000")]);
        chip(&machine, 1, "coretemp", &[("Package id 0", "71500"), ("Core 0", "70000")]);
        chip(&machine, 2, "coretemp", &[("Package id 1", "78000")]);
        chip(&machine, 3, "amdgpu", &[("edge", "88000")]);
        assert_eq!(look_at(&machine), Some(78));
    }

    #[test]
    fn of_what_amd_offers_the_temperature_of_the_die_is_taken() {
        let machine = Machine::new();
        chip(&machine, 0, "k10temp", &[("Tctl", "95000"), ("Tdie", "68000"), ("Tccd1", "69250")]);
        assert_eq!(look_at(&machine), Some(69));
        let machine = Machine::new();
        chip(&machine, 0, "k10temp", &[("Tctl", "64000")]);
        assert_eq!(look_at(&machine), Some(64));
    }

    #[test]
    fn zones_are_asked_where_no_chip_is_known_the_firmwares_last() {
        let machine = Machine::new();
        zone(&machine, 0, "acpitz\n", "27800\n");
        assert_eq!(look_at(&machine), Some(27));
        zone(&machine, 1, "cpu0-thermal\n", "51000\n");
        zone(&machine, 2, "gpu-thermal\n", "81000\n");
        assert_eq!(look_at(&machine), Some(51));
        chip(&machine, 0, "cpu_thermal", &[("", "55000")]);
        assert_eq!(look_at(&machine), Some(55));
    }

    #[test]
    fn sensors_that_are_broken_are_none() {
        let machine = Machine::new();
        chip(&machine, 0, "coretemp", &[("Package id 0", "0"), ("Core 0", "-128000")]);
        chip(&machine, 1, "k10temp", &[("Tctl", "many")]);
        zone(&machine, 0, "x86_pkg_temp\n", "200000\n");
        assert_eq!(look_at(&machine), None);
    }

    #[test]
    fn sensors_past_the_bound_are_left_out() {
        let machine = Machine::new();
        let all: Vec<(&str, &str)> = vec![("", "50000"); SENSORS_MAX + 1];
        chip(&machine, 0, "coretemp", &all);
        let mut heat = Heat::default();
        assert_eq!((heat.look(machine.root()), heat.sensors()), (Some(50), SENSORS_MAX));
    }

    #[test]
    fn a_sensor_that_appears_is_found_when_looked_for_anew() {
        let (machine, mut heat) = (Machine::new(), Heat::default());
        assert_eq!(heat.look(machine.root()), None);
        chip(&machine, 0, "coretemp", &[("Package id 0", "40000")]);
        assert_eq!(heat.look(machine.root()), None);
        heat.look_anew();
        assert_eq!(heat.look(machine.root()), Some(40));
    }
}
