//! Rules: the settings in the types that the peer decides by.

use std::collections::BTreeSet;
use std::str::FromStr;

use potluck_peer::{Caps, Choice, Hours, Pattern, Rules};
use potluck_unit::PeerId;

use super::keys::AT;
use super::kind::Value;
use super::settings::{Origin, Settings};

/// The rules that these settings amount to. What nobody said is left to the peer's own defaults,
/// which are those of the keys, so that it can tell people what comes from where; but for what
/// depends on the machine.
pub(super) fn of_settings(settings: &Settings) -> Rules {
    let at = (1..=settings.at_count()).map(|number| {
        let section = format!("{AT}.{number}");
        let hours = settings.text(&format!("{section}.hours")).parse();
        (hours.unwrap_or(Hours::NEVER), caps(settings, &section))
    });
    Rules {
        base: caps(settings, "budget"),
        at: at.collect(),
        idle: caps(settings, "budget.idle"),
        in_use: caps(settings, "budget.in-use"),
        on_battery: caps(settings, "budget.on-battery"),
        disk_bytes: settings.number("budget.disk"),
        traffic_day_bytes: settings.number("budget.traffic-day"),
        traffic_month_bytes: settings.number("budget.traffic-month"),
        idle_after_ms: settings.number("budget.idle-after"),
        release_after_ms: settings.number("budget.release-after"),
        choice: choice(settings),
        ..Rules::default()
    }
}

fn caps(settings: &Settings, section: &str) -> Caps {
    caps_if(settings, section, |last, origin| {
        *origin != Origin::Default || ["slots", "memory"].contains(&last)
    })
}

/// Those values of a section that are chosen by their last names and origins.
fn caps_if(settings: &Settings, section: &str, chosen: impl Fn(&str, &Origin) -> bool) -> Caps {
    let value = |last: &str| {
        let found = settings.get(&format!("{section}.{last}"));
        found.filter(|found| chosen(last, &found.origin)).map(|found| &found.value)
    };
    let number = |last: &str| value(last).and_then(Value::number);
    let small = |last: &str| number(last).map(|number| u8::try_from(number).unwrap_or(u8::MAX));
    let flag = |last: &str| value(last).and_then(Value::flag);
    let list = |last: &str| value(last).and_then(Value::list);
    Caps {
        slots: number("slots").map(|slots| u16::try_from(slots).unwrap_or(u16::MAX)),
        cpu_percent: small("cpu-percent"),
        memory_bytes: number("memory"),
        upload_per_s: number("upload"),
        download_per_s: number("download"),
        work_hours: list("work-hours").map(hours),
        network_hours: list("network-hours").map(hours),
        pause_on_battery: flag("pause-on-battery"),
        battery_min_percent: small("battery-min"),
        temperature_max_celsius: small("temperature-max"),
        others_cpu_max_percent: small("others-cpu-max"),
        pause_programs: list("pause-programs").map(<[String]>::to_vec),
        pause_on_metered: flag("pause-on-metered"),
        only_when_idle: flag("only-when-idle"),
    }
}

fn choice(settings: &Settings) -> Choice {
    let patterns = |name| settings.list(name).iter().map(|text| Pattern::new(text)).collect();
    let weights = settings.weights().filter_map(|(peer, weight)| {
        Some((peer.parse::<PeerId>().ok()?, u32::try_from(weight).ok()?))
    });
    Choice {
        allow_submitters: ids(settings.list("choice.allow-submitters")),
        deny_submitters: ids(settings.list("choice.deny-submitters")),
        allow_labels: patterns("choice.allow-labels"),
        deny_labels: patterns("choice.deny-labels"),
        allow_modules: ids(settings.list("choice.allow-modules")),
        deny_modules: ids(settings.list("choice.deny-modules")),
        input_max_bytes: settings.number("choice.input-max"),
        weights: weights.collect(),
    }
}

/// All stretches of a list together; none of them is never.
fn hours(list: &[String]) -> Hours {
    let stretches = list.iter().filter_map(|text| text.parse::<Hours>().ok());
    stretches.fold(Hours::NEVER, |all, stretch| all.and(&stretch))
}

fn ids<T: FromStr + Ord>(list: &[String]) -> BTreeSet<T> {
    list.iter().filter_map(|text| text.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config::Sources;
    use crate::machine::Machine;

    fn settings(text: &str) -> Settings {
        let machine = Machine { cores: 2, memory_bytes: 8 << 30 };
        let (environment, flags) = (Vec::new(), Vec::new());
        let file = PathBuf::from("potluck.toml");
        Sources { file, environment, flags, machine }.with_text(text).unwrap()
    }

    fn rules(text: &str) -> Rules {
        of_settings(&settings(text))
    }

    #[test]
    fn the_defaults_of_the_keys_are_those_of_the_peer() {
        // A machine of two cores and 8 GiB is the one that the peer has in mind.
        assert_eq!(&caps_if(&settings(""), "budget", |_, _| true), Caps::defaults());
        let base = Caps { slots: Some(1), memory_bytes: Some(2 << 30), ..Caps::default() };
        assert_eq!(rules(""), Rules { base, ..Rules::default() });
    }

    #[test]
    fn every_key_of_every_section_reaches_the_rules() {
        let caps = "slots = 3\ncpu-percent = 50\nmemory = '1GiB'\nupload = '8KiB/s'\n\
                    download = 'unlimited'\nwork-hours = ['mon 9:00-10:00', 'tue 9:00-10:00']\n\
                    network-hours = []\npause-on-battery = false\nbattery-min = 30\n\
                    temperature-max = 70\nothers-cpu-max = 40\npause-programs = ['a', 'b']\n\
                    pause-on-metered = false\nonly-when-idle = true\n";
        let expected = Caps {
            slots: Some(3),
            cpu_percent: Some(50),
            memory_bytes: Some(1 << 30),
            upload_per_s: Some(8 << 10),
            download_per_s: Some(Rules::UNLIMITED),
            work_hours: Some("mon,tue 09:00-10:00".parse().unwrap()),
            network_hours: Some(Hours::NEVER),
            pause_on_battery: Some(false),
            battery_min_percent: Some(30),
            temperature_max_celsius: Some(70),
            others_cpu_max_percent: Some(40),
            pause_programs: Some(vec!["a".to_owned(), "b".to_owned()]),
            pause_on_metered: Some(false),
            only_when_idle: Some(true),
        };
        let text = format!(
            "[budget]\n{caps}disk = '1GiB'\ntraffic-day = '3GiB'\ntraffic-month = 'unlimited'\n\
             idle-after = '1m'\nrelease-after = '2m'\n[budget.idle]\n{caps}[budget.in-use]\n{caps}\
             [budget.on-battery]\n{caps}[[budget.at]]\nhours = 'sun 1:00-2:00'\n[[budget.at]]\n\
             hours = '22:00-06:00'\n{caps}"
        );
        let rules = rules(&text);
        for found in [&rules.base, &rules.idle, &rules.in_use, &rules.on_battery, &rules.at[1].1] {
            assert_eq!(found, &expected);
        }
        assert_eq!(rules.at[0], ("sun 01:00-02:00".parse().unwrap(), Caps::default()));
        assert_eq!(rules.at[1].0, "22:00-06:00".parse().unwrap());
        assert_eq!((rules.disk_bytes, rules.traffic_day_bytes), (1 << 30, 3 << 30));
        assert_eq!(rules.traffic_month_bytes, Rules::UNLIMITED);
        assert_eq!((rules.idle_after_ms, rules.release_after_ms), (60_000, 120_000));
    }

    #[test]
    fn the_choice_reaches_the_rules() {
        let (a, b) = ("ab".repeat(32), "cd".repeat(32));
        let choice = rules(&format!(
            "[choice]\nallow-submitters = ['{a}']\ndeny-submitters = ['{b}']\nallow-labels = ['x*']\n\
             deny-labels = ['y?']\nallow-modules = ['{b}']\ndeny-modules = ['{a}']\n\
             input-max = '1MiB'\n[choice.weights]\n{a} = 200\n{b} = 0\n"
        ))
        .choice;
        let expected = Choice {
            allow_submitters: [a.parse().unwrap()].into(),
            deny_submitters: [b.parse().unwrap()].into(),
            allow_labels: vec![Pattern::new("x*")],
            deny_labels: vec![Pattern::new("y?")],
            allow_modules: [b.parse().unwrap()].into(),
            deny_modules: [a.parse().unwrap()].into(),
            input_max_bytes: 1 << 20,
            weights: [(a.parse().unwrap(), 200), (b.parse().unwrap(), 0)].into(),
        };
        assert_eq!(choice, expected);
    }
}
