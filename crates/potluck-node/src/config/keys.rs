//! Every key of `potluck.toml`, each declared once: its name, what it allows, its default, and what
//! it is for.

use super::kind::Kind;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const TIB: u64 = 1 << 40;
const SECOND_MS: u64 = 1000;
const DAY_MS: u64 = 24 * 3_600_000;

/// One key.
#[derive(Debug)]
pub struct Key {
    /// Its name with its section before it: `budget.cpu-percent`.
    pub name: &'static str,
    /// What it allows.
    pub kind: Kind,
    /// What holds where nobody says anything.
    pub default: Fallback,
    /// What it is for, in one line.
    pub about: &'static str,
    /// Whether it may also stand in [`SECTIONS`] and `[[budget.at]]`.
    pub varies: bool,
    /// Whether a running node goes on with the old value until it is started again.
    pub restart: bool,
    /// Whether `potluck worker` has a flag of this name.
    pub flag: bool,
}

/// What holds where nobody says anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fallback {
    /// This, as the environment would say it.
    Is(&'static str),
    /// Half of the cores that this process may use, at least one.
    HalfOfCores,
    /// A quarter of the memory that this process may use, within what the key allows.
    QuarterOfMemory,
}

/// States of the machine, by the names of their sections, later ones winning.
pub const SECTIONS: [&str; 3] = ["budget.idle", "budget.in-use", "budget.on-battery"];

/// The section of which there may be several, each with hours of the week.
pub const AT: &str = "budget.at";

/// When a section of [`AT`] holds: the one key that stands nowhere else.
pub const AT_HOURS: &Key = &key(
    "budget.at.hours",
    Kind::Stretch,
    "00:00-24:00",
    "when this section holds, by this machine's clock",
);

/// The section with a key for each peer.
pub const WEIGHTS: &str = "choice.weights";

/// How much of this machine's time a submitter gets: a key for each peer id.
pub const WEIGHT: &Key = &key(
    "choice.weights.PEERID",
    Kind::Count(0, 10_000),
    "100",
    "share of this submitter against the 100 of everybody else; 0 is nothing at all",
);

const fn key(name: &'static str, kind: Kind, default: &'static str, about: &'static str) -> Key {
    let default = Fallback::Is(default);
    Key { name, kind, default, about, varies: false, restart: false, flag: false }
}

impl Key {
    const fn varies(mut self) -> Key {
        self.varies = true;
        self
    }

    const fn restart(mut self) -> Key {
        self.restart = true;
        self
    }

    const fn flag(mut self) -> Key {
        self.flag = true;
        self
    }

    const fn default_of(mut self, default: Fallback) -> Key {
        self.default = default;
        self
    }

    /// The section it stands in, empty for the top of the file, and its name there.
    pub fn split(&self) -> (&'static str, &'static str) {
        self.name.rsplit_once('.').unwrap_or(("", self.name))
    }
}

/// Every key but [`AT_HOURS`] and [`WEIGHT`], in the order in which they are written.
pub static KEYS: &[Key] = &[
    key("listen", Kind::Address, "0.0.0.0:7117", "address and UDP port of this node").restart(),
    key("join", Kind::Joins, "", "peers to join the grid by; peers met before are remembered")
        .restart(),
    key("grid.open", Kind::Flag, "true", "whether strangers take part, so that keys cost work")
        .restart(),
    key(
        "sandbox.require",
        Kind::OneOf(&["full", "available"]),
        "available",
        "how much of the lock on sandboxes must hold before a unit is run",
    )
    .restart(),
    key("budget.slots", Kind::Count(0, 1024), "1", "units at once; 0 lends nothing")
        .default_of(Fallback::HalfOfCores)
        .varies(),
    key("budget.cpu-percent", Kind::Percent(1, 100), "100", "of one core, for each slot")
        .varies()
        .flag(),
    key(
        "budget.memory",
        Kind::Size(128 * MIB, 16 * TIB),
        "2GiB",
        "of all slots, compilers, caches and the node together",
    )
    .default_of(Fallback::QuarterOfMemory)
    .varies()
    .flag(),
    key("budget.disk", Kind::Size(64 * MIB, 1024 * TIB), "10GiB", "all that is kept on disk")
        .flag(),
    key("budget.upload", Kind::Rate(4 * KIB), "1MiB/s", "every byte sent").varies().flag(),
    key("budget.download", Kind::Rate(4 * KIB), "4MiB/s", "every byte received").varies().flag(),
    key("budget.traffic-day", Kind::Quota(MIB), "2GiB", "both directions together, in a day")
        .flag(),
    key("budget.traffic-month", Kind::Quota(MIB), "40GiB", "both directions together, in a month")
        .flag(),
    key("budget.work-hours", Kind::Hours, "mon-sun 00:00-24:00", "when units are run").varies(),
    key("budget.network-hours", Kind::Hours, "mon-sun 00:00-24:00", "when the network is used")
        .varies(),
    key("budget.pause-on-battery", Kind::Flag, "true", "pause while there is no mains power")
        .varies()
        .flag(),
    key(
        "budget.battery-min",
        Kind::Percent(0, 100),
        "80",
        "pause below this charge while on battery; matters if pause-on-battery is false",
    )
    .varies(),
    key(
        "budget.temperature-max",
        Kind::Degrees(30, 150),
        "85",
        "pause above this; the hottest sensor of the processor",
    )
    .varies()
    .flag(),
    key(
        "budget.others-cpu-max",
        Kind::Percent(1, 100),
        "25",
        "pause while other programs use more than this of all cores; 100 is never",
    )
    .varies()
    .flag(),
    key("budget.pause-programs", Kind::Programs, "", "pause while one of these programs runs")
        .varies()
        .flag(),
    key("budget.pause-on-metered", Kind::Flag, "true", "pause while the connection is metered")
        .varies()
        .flag(),
    key("budget.only-when-idle", Kind::Flag, "false", "pause while somebody uses the machine")
        .varies()
        .flag(),
    key(
        "budget.idle-after",
        Kind::Duration(5 * SECOND_MS, DAY_MS),
        "3m",
        "so long after the last touch the machine counts as idle",
    ),
    key(
        "budget.release-after",
        Kind::Duration(0, 30 * DAY_MS),
        "10m",
        "paused for so long: memory is given back, and the units go to others",
    ),
    key("choice.allow-submitters", Kind::Peers, "", "run units of these alone; none is of all"),
    key("choice.deny-submitters", Kind::Peers, "", "run no units of these"),
    key("choice.allow-labels", Kind::Patterns, "", "run jobs with such a label alone; none is all"),
    key("choice.deny-labels", Kind::Patterns, "", "run no jobs with such a label"),
    key("choice.allow-modules", Kind::Modules, "", "run these modules alone; none is all"),
    key("choice.deny-modules", Kind::Modules, "", "never run these modules"),
    key("choice.input-max", Kind::Quota(0), "1GiB", "take no job with larger inputs"),
    key("donor.nickname", Kind::Text(32), "", "shown to other peers; none by default").restart(),
    key("donor.team", Kind::Text(32), "", "shown to other peers; none by default").restart(),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_key_has_one_name_a_short_explanation_and_a_default_it_allows() {
        let names: BTreeSet<&str> = KEYS.iter().map(|key| key.name).collect();
        assert_eq!(names.len(), KEYS.len());
        for key in KEYS.iter().chain([AT_HOURS, WEIGHT]) {
            assert!((1..=110).contains(&key.about.len()), "{}", key.name);
            if let Fallback::Is(text) = key.default {
                assert!(key.kind.value(&key.kind.of_plain(text)).is_some(), "{}", key.name);
            }
        }
    }

    #[test]
    fn keys_of_one_section_stand_together() {
        let mut sections: Vec<&str> = KEYS.iter().map(|key| key.split().0).collect();
        sections.dedup();
        assert_eq!(sections, ["", "grid", "sandbox", "budget", "choice", "donor"]);
        assert!(KEYS.iter().all(|key| !key.varies || key.split().0 == "budget"));
    }

    /// The row of a key in the table of the page.
    fn row(key: &Key) -> String {
        let default = match key.default {
            Fallback::Is(text) => {
                key.kind.value(&key.kind.of_plain(text)).map(|value| key.kind.write(&value))
            }
            Fallback::HalfOfCores => Some("half of the cores, at least 1".to_owned()),
            Fallback::QuarterOfMemory => Some("a quarter of the machine's".to_owned()),
        };
        let default = default.unwrap_or_default();
        let sections = if key.varies { "yes" } else { "" };
        let restart = if key.restart { "; *restart*" } else { "" };
        let (name, allowed, about) = (key.name, key.kind.expected(), key.about);
        format!("| `{name}` | {allowed} | {default} | {sections} | {about}{restart} |")
    }

    #[test]
    fn the_page_has_every_key_as_it_is_declared_and_no_other() {
        let page = include_str!("../../../../docs/donating.md");
        let expected: Vec<String> = KEYS.iter().chain([AT_HOURS, WEIGHT]).map(row).collect();
        let table = page.split("## Every key").nth(1).and_then(|rest| rest.split("## ").next());
        let found: Vec<&str> =
            table.unwrap().lines().filter(|line| line.starts_with("| `")).collect();
        assert_eq!(found, expected, "the table should read:\n{}", expected.join("\n"));
    }
}
