//! Whether the machine runs on its battery, and how full that is.

use std::path::Path;

use super::files;

/// Where the machine's power comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Power {
    /// Whether it comes from a battery now.
    pub(super) on_battery: bool,
    /// How full the batteries are together, in percent; none without a battery that says so.
    pub(super) percent: Option<u8>,
}

/// Looks at every source of power. Batteries of mice and the like are not the machine's. A machine
/// without a battery is not on battery; none if the system does not tell at all.
pub(super) fn look(root: &Path) -> Option<Power> {
    let folder = root.join("sys/class/power_supply");
    if !folder.is_dir() {
        return None;
    }
    let (mut discharging, mut silent) = (false, false);
    let (mut plugs, mut plugged) = (0, false);
    let mut charges: Vec<Charge> = Vec::new();
    for name in files::list(&folder, SUPPLIES_MAX) {
        let supply = folder.join(name);
        if files::word(&supply.join("scope")).is_some_and(|scope| scope == "Device") {
            continue;
        }
        let Some(kind) = files::word(&supply.join("type")) else { continue };
        match kind.as_str() {
            "Battery" | "UPS" => {
                if files::number::<u8>(&supply.join("present")) == Some(0) {
                    continue;
                }
                let status = files::word(&supply.join("status")).unwrap_or_default();
                discharging |= status == "Discharging";
                silent |= status == "Unknown" || status.is_empty();
                charges.extend(Charge::of(&supply));
            }
            // Mains, USB in its many kinds, wireless.
            _ => {
                plugs += 1;
                plugged |= files::number::<u8>(&supply.join("online")).is_some_and(|on| on > 0);
            }
        }
    }
    // A battery that can't tell runs down where nothing is plugged in.
    let on_battery = discharging || (silent && plugs > 0 && !plugged);
    Some(Power { on_battery, percent: Charge::together(&charges) })
}

/// How full one battery is.
#[derive(Debug, Clone, Copy)]
struct Charge {
    percent: u8,
    /// What it holds when full, in whatever unit; none if it does not say.
    full: Option<u64>,
}

impl Charge {
    fn of(supply: &Path) -> Option<Charge> {
        let full = ["energy_full", "charge_full"].iter();
        let full = full.filter_map(|name| files::number::<u64>(&supply.join(name)));
        let percent = files::number::<u8>(&supply.join("capacity"))?.min(100);
        Some(Charge { percent, full: full.filter(|full| *full > 0).max() })
    }

    /// Weighed by what they hold, if all of them say; otherwise as if they held the same.
    fn together(charges: &[Charge]) -> Option<u8> {
        let even = charges.iter().any(|charge| charge.full.is_none());
        let weight = |charge: &Charge| if even { 1 } else { u128::from(charge.full.unwrap_or(1)) };
        let whole: u128 = charges.iter().map(weight).sum();
        let held: u128 =
            charges.iter().map(|charge| weight(charge) * u128::from(charge.percent)).sum();
        u8::try_from(held.checked_div(whole)?).ok()
    }
}

/// Sources of power looked at; laptops have up to a dozen.
const SUPPLIES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::super::tests::Machine;
    use super::*;

    type Supply<'a> = (&'a str, &'a [(&'a str, &'a str)]);

    fn look_at(supplies: &[Supply<'_>]) -> (bool, Option<u8>) {
        let machine = Machine::new();
        for (name, files) in supplies {
            for (file, text) in *files {
                let path = format!("sys/class/power_supply/{name}/{file}");
                machine.file(&path, &format!("{text}\n"));
            }
        }
        let power = look(machine.root()).unwrap();
        (power.on_battery, power.percent)
    }

    #[test]
    fn a_laptop_is_on_battery_when_that_discharges() {
        let battery = |status| {
            let bat0 = [("type", "Battery"), ("status", status), ("capacity", "81")];
            let ac = [("type", "Mains"), ("online", "0")];
            look_at(&[("BAT0", &bat0), ("AC", &ac)])
        };
        assert_eq!(battery("Discharging"), (true, Some(81)));
        assert_eq!(battery("Charging"), (false, Some(81)));
        assert_eq!(battery("Not charging"), (false, Some(81)));
        assert_eq!(battery("Unknown"), (true, Some(81)), "nothing is plugged in");
    }

    #[test]
    fn a_battery_that_cannot_tell_is_believed_to_charge_while_something_is_plugged_in() {
        let bat0 = [("type", "Battery"), ("status", "Unknown"), ("capacity", "50")];
        let usb = [("type", "USB"), ("online", "1")];
        assert_eq!(look_at(&[("BAT0", &bat0), ("ucsi", &usb)]), (false, Some(50)));
        assert_eq!(look_at(&[("BAT0", &bat0)]), (false, Some(50)), "nobody knows");
    }

    #[test]
    fn two_batteries_count_by_what_they_hold_and_those_of_mice_not_at_all() {
        let of = |capacity, full| {
            [("type", "Battery"), ("status", "Full"), ("capacity", capacity), ("energy_full", full)]
        };
        let (small, large) = (of("100", "1000"), of("20", "3000"));
        let mouse = [
            ("type", "Battery"),
            ("scope", "Device"),
            ("status", "Discharging"),
            ("capacity", "5"),
        ];
        assert_eq!(look_at(&[("a", &small), ("b", &large), ("m", &mouse)]), (false, Some(40)));
        let empty_bay = [("type", "Battery"), ("present", "0"), ("status", "Discharging")];
        assert_eq!(look_at(&[("a", &small), ("c", &empty_bay)]), (false, Some(100)));
        let unsaid = [("type", "Battery"), ("status", "Full"), ("capacity", "50")];
        assert_eq!(look_at(&[("a", &small), ("d", &unsaid)]), (false, Some(75)));
    }

    #[test]
    fn a_machine_without_a_battery_is_not_on_battery() {
        assert_eq!(look_at(&[("AC", &[("type", "Mains"), ("online", "1")])]), (false, None));
        assert_eq!(look(Machine::new().root()), None);
    }

    #[test]
    fn what_a_battery_says_may_be_nonsense() {
        let bat0 = [("type", "Battery"), ("status", "Discharging"), ("capacity", "4000000000")];
        assert_eq!(look_at(&[("BAT0", &bat0)]), (true, None));
        let bat0 = [("type", "Battery"), ("status", "Charging"), ("capacity", "120")];
        assert_eq!(look_at(&[("BAT0", &bat0)]), (false, Some(100)));
    }
}
