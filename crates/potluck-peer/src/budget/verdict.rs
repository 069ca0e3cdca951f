//! Verdicts: which rules say no at a time, and when that changes.

use potluck_unit::Time;

use super::hours::WEEK_MS;
use super::rule::{Effect, Measure, Reason, Rule};
use super::rules::{Caps, Rules, Section, Set};
use super::{
    AHEAD_MAX, Budget, CHARGED_PERCENT, COOLER_CELSIUS, DISK_FREE_MIN_BYTES, Hours, InForce, Level,
    Marks, Noisy, RESERVE_BYTES_MAX, RESERVE_PART, ROOM_PART, Reading,
};

/// What a hold may take beyond the last edge of a week.
const SLACK_MS: u64 = 120_000;

impl Budget {
    /// What all sections that hold say together.
    pub(super) fn in_force(&self, now: Time, marks: &Marks) -> InForce<'_> {
        let held = self.held(now, marks);
        InForce {
            slots: find(&held, |caps| caps.slots),
            cpu_percent: find(&held, |caps| caps.cpu_percent),
            memory_bytes: find(&held, |caps| caps.memory_bytes),
            upload_per_s: find(&held, |caps| caps.upload_per_s),
            download_per_s: find(&held, |caps| caps.download_per_s),
            work_hours: find(&held, |caps| caps.work_hours.as_ref()),
            network_hours: find(&held, |caps| caps.network_hours.as_ref()),
            pause_on_battery: find(&held, |caps| caps.pause_on_battery),
            battery_min_percent: find(&held, |caps| caps.battery_min_percent),
            temperature_max_celsius: find(&held, |caps| caps.temperature_max_celsius),
            others_cpu_max_percent: find(&held, |caps| caps.others_cpu_max_percent),
            pause_programs: find(&held, |caps| caps.pause_programs.as_deref()),
            pause_on_metered: find(&held, |caps| caps.pause_on_metered),
            only_when_idle: find(&held, |caps| caps.only_when_idle),
        }
    }

    /// The sections that hold, the one that wins first.
    fn held(&self, now: Time, marks: &Marks) -> Vec<(Section, &Caps)> {
        let week_ms = self.week_ms(now);
        let on = |noisy: Noisy| marks.holds[noisy as usize].holds(now, noisy);
        let knows_idle = self.reading().is_some_and(|reading| reading.idle_ms.is_some());
        let holds = |section: &Section| match section {
            Section::Default | Section::Base => true,
            Section::At(n) => week_ms.is_some_and(|week_ms| {
                self.rules.at.get(usize::from(*n)).is_some_and(|(hours, _)| hours.holds(week_ms))
            }),
            Section::Idle => knows_idle && !on(Noisy::InUse),
            Section::InUse => on(Noisy::InUse),
            Section::OnBattery => on(Noisy::OnBattery),
        };
        let held = self.rules.sections().rev().filter(|(section, _)| holds(section));
        held.chain([(Section::Default, Caps::defaults())]).collect()
    }

    fn reading(&self) -> Option<&Reading> {
        self.read.as_ref().map(|(_, reading)| reading)
    }

    /// What is remembered from now on.
    pub(super) fn settled(&self, now: Time, before: Marks) -> Marks {
        let mut marks = before;
        // Which sections hold follows from the first two, and what the others mean from that.
        for noisy in [Noisy::OnBattery, Noisy::InUse] {
            let level = self.section_level(noisy);
            marks.holds[noisy as usize] = before.holds[noisy as usize].settled(now, noisy, level);
        }
        let force = self.in_force(now, &marks);
        for noisy in Noisy::ALL.into_iter().skip(2) {
            let level = self.level(noisy, &force);
            marks.holds[noisy as usize] = before.holds[noisy as usize].settled(now, noisy, level);
        }
        let suspends = |rule: &Rule| {
            rule.effect() == Effect::Compute && self.says_no(*rule, now, &marks, &force)
        };
        let suspended = Rule::ALL.iter().any(suspends);
        marks.suspended_since = suspended.then(|| before.suspended_since.unwrap_or(now));
        marks
    }

    /// What decides which sections hold.
    fn section_level(&self, noisy: Noisy) -> Level {
        let Some(reading) = self.reading() else { return Level::Below };
        let beyond = if noisy == Noisy::InUse {
            reading.idle_ms.is_some_and(|idle| idle < self.rules.idle_after_ms)
        } else {
            reading.battery.is_some_and(|battery| battery.discharging)
        };
        if beyond { Level::Beyond } else { Level::Below }
    }

    fn level(&self, noisy: Noisy, force: &InForce<'_>) -> Level {
        let Some(reading) = self.reading() else { return Level::Below };
        match noisy {
            Noisy::OnBattery | Noisy::InUse => self.section_level(noisy),
            Noisy::BatteryLow => {
                let (min, battery) = (force.battery_min_percent.value, reading.battery);
                let percent = battery.filter(|battery| battery.discharging);
                let percent = percent.and_then(|battery| battery.percent).unwrap_or(u8::MAX);
                let charged = percent >= min.saturating_add(CHARGED_PERCENT) || percent >= 100;
                level(percent < min, charged)
            }
            Noisy::Program => {
                let runs = running(reading, force).is_some();
                level(runs, !runs)
            }
            Noisy::Temperature => {
                let max = i16::from(force.temperature_max_celsius.value);
                let celsius = reading.celsius.unwrap_or(i16::MIN);
                level(celsius > max, celsius <= max - COOLER_CELSIUS)
            }
            Noisy::OthersCpu => {
                let max = force.others_cpu_max_percent.value;
                let percent = reading.others_cpu_percent.unwrap_or(0).min(100);
                level(percent > max, percent <= max)
            }
            Noisy::Memory => {
                let max = force.memory_bytes.value;
                let used = reading.memory_bytes.unwrap_or(0);
                level(used > max, used <= max - max / ROOM_PART)
            }
            Noisy::Metered => {
                let metered = reading.metered == Some(true);
                level(metered, !metered)
            }
            Noisy::Disk => {
                let (max, used) = (self.rules.disk_bytes, reading.disk_bytes);
                let Some(used) = used else { return Level::Below };
                level(used >= max && max < Rules::UNLIMITED, used <= max - max / ROOM_PART)
            }
            Noisy::DiskFull => {
                let min = DISK_FREE_MIN_BYTES;
                let left = reading.disk_free_bytes.unwrap_or(u64::MAX);
                level(left < min, left >= min + min / ROOM_PART)
            }
        }
    }

    /// Whether a rule says no at a time.
    fn says_no(&self, rule: Rule, now: Time, marks: &Marks, force: &InForce<'_>) -> bool {
        let on = |noisy: Noisy| marks.holds[noisy as usize].holds(now, noisy);
        let outside =
            |hours: &Hours| self.week_ms(now).is_some_and(|week_ms| !hours.holds(week_ms));
        match rule {
            Rule::Asked => self.paused.is_some_and(|until| until > now),
            // Who never lends anything is not kept from it.
            Rule::Slots => force.slots.value == 0 && self.rules.slots_max() > 0,
            Rule::WorkHours => outside(force.work_hours.value),
            Rule::NetworkHours => outside(force.network_hours.value),
            Rule::InUse => force.only_when_idle.value && on(Noisy::InUse),
            Rule::Battery => force.pause_on_battery.value && on(Noisy::OnBattery),
            Rule::BatteryLow => on(Noisy::BatteryLow),
            Rule::Program => on(Noisy::Program),
            Rule::Temperature => on(Noisy::Temperature),
            Rule::OthersCpu => on(Noisy::OthersCpu),
            Rule::Memory => on(Noisy::Memory),
            Rule::Metered => force.pause_on_metered.value && on(Noisy::Metered),
            Rule::TrafficDay | Rule::TrafficMonth => {
                self.traffic(rule, now).is_some_and(|(used, max)| used >= max)
            }
            Rule::Disk => on(Noisy::Disk),
            Rule::DiskFull => on(Noisy::DiskFull),
            Rule::Draining => self.draining.is_some(),
        }
    }

    /// What a rule measured, and what it allows.
    fn measured(&self, rule: Rule, now: Time, force: &InForce<'_>) -> (Measure, Measure) {
        let Some(reading) = self.reading() else { return (Measure::None, Measure::None) };
        let of_bytes = |bytes: Option<u64>| bytes.map_or(Measure::None, Measure::Bytes);
        let of_percent = |percent: Option<u8>| percent.map_or(Measure::None, Measure::Percent);
        match rule {
            Rule::Asked
            | Rule::Slots
            | Rule::WorkHours
            | Rule::NetworkHours
            | Rule::Battery
            | Rule::Metered
            | Rule::Draining => (Measure::None, Measure::None),
            Rule::InUse => {
                let idle = reading.idle_ms.map_or(Measure::None, Measure::Ms);
                (idle, Measure::Ms(self.rules.idle_after_ms))
            }
            Rule::BatteryLow => {
                let percent = of_percent(reading.battery.and_then(|battery| battery.percent));
                (percent, Measure::Percent(force.battery_min_percent.value))
            }
            Rule::Program => {
                let name = running(reading, force).map(str::to_owned);
                (name.map_or(Measure::None, Measure::Name), Measure::None)
            }
            Rule::Temperature => {
                let celsius = reading.celsius.map_or(Measure::None, Measure::Celsius);
                (celsius, Measure::Celsius(force.temperature_max_celsius.value.into()))
            }
            Rule::OthersCpu => {
                let percent = of_percent(reading.others_cpu_percent);
                (percent, Measure::Percent(force.others_cpu_max_percent.value))
            }
            Rule::Memory => {
                (of_bytes(reading.memory_bytes), Measure::Bytes(force.memory_bytes.value))
            }
            Rule::TrafficDay | Rule::TrafficMonth => {
                let (used, max) = self.traffic(rule, now).unwrap_or_default();
                (Measure::Bytes(used), Measure::Bytes(max))
            }
            Rule::Disk => (of_bytes(reading.disk_bytes), Measure::Bytes(self.rules.disk_bytes)),
            Rule::DiskFull => {
                (of_bytes(reading.disk_free_bytes), Measure::Bytes(DISK_FREE_MIN_BYTES))
            }
        }
    }

    /// What was moved in the day or month that lasts, and what may be, where that is bounded.
    fn traffic(&self, rule: Rule, now: Time) -> Option<(u64, u64)> {
        let reading = self.reading()?;
        let (used, max, ends) = if rule == Rule::TrafficDay {
            (reading.today_bytes, self.rules.traffic_day_bytes, reading.day_ends)
        } else {
            (reading.month_bytes, self.rules.traffic_month_bytes, reading.month_ends)
        };
        let used = if now < ends { used } else { 0 };
        (max < Rules::UNLIMITED).then_some((used, max))
    }

    /// The largest inputs that may be fetched: what is left of the quotas, less what finishing and
    /// saying what is begun may take.
    pub(super) fn inputs_max_bytes(&self, now: Time) -> u64 {
        let quotas = [Rule::TrafficDay, Rule::TrafficMonth];
        let left = quotas.into_iter().filter_map(|rule| {
            let (used, max) = self.traffic(rule, now)?;
            let reserve = (max / RESERVE_PART).min(RESERVE_BYTES_MAX);
            Some(max.saturating_sub(used).saturating_sub(reserve))
        });
        left.min().unwrap_or(u64::MAX)
    }

    /// Every rule that says no, with until when.
    pub(super) fn reasons(&self, now: Time, force: &InForce<'_>) -> Vec<Reason> {
        let says_no = |rule: &Rule| self.says_no(*rule, now, &self.marks, force);
        let rules: Vec<Rule> = Rule::ALL.into_iter().filter(says_no).collect();
        let ends = self.ends(now, &rules);
        let reason = |(rule, until): (Rule, Option<Time>)| {
            let (measured, limit) = self.measured(rule, now, force);
            Reason {
                rule,
                measured,
                limit,
                from: origin(rule, force),
                until,
                until_week_ms: until.and_then(|at| self.week_ms(at)),
                wait_ms: until.map(|at| at.ms_since(now)),
            }
        };
        rules.into_iter().zip(ends).map(reason).collect()
    }

    /// When each of these no longer says no if nothing else changes, where that can be known: looks
    /// at one change after the other, a week ahead, since every week is like the last.
    fn ends(&self, now: Time, rules: &[Rule]) -> Vec<Option<Time>> {
        let mut ends: Vec<Option<Time>> = (rules.iter())
            .map(|rule| match (rule, self.reading()) {
                (Rule::Asked, _) => self.paused.filter(|until| *until < Time(u64::MAX)),
                (Rule::TrafficDay, Some(reading)) => {
                    Some(reading.day_ends).filter(|_| self.rules.traffic_day_bytes > 0)
                }
                (Rule::TrafficMonth, Some(reading)) => {
                    Some(reading.month_ends).filter(|_| self.rules.traffic_month_bytes > 0)
                }
                (_, _) => None,
            })
            .collect();
        let known = [Rule::Asked, Rule::TrafficDay, Rule::TrafficMonth, Rule::Draining];
        let mut open: Vec<usize> =
            (0..rules.len()).filter(|n| !known.contains(&rules[*n])).collect();
        let (mut at, mut marks) = (now, self.marks);
        for _ in 0..AHEAD_MAX {
            let next = self.next_change(at, &marks).filter(|_| !open.is_empty());
            let Some(next) = next.filter(|next| next.ms_since(now) <= WEEK_MS + SLACK_MS) else {
                break;
            };
            at = next;
            marks = self.settled(at, marks);
            let force = self.in_force(at, &marks);
            open.retain(|n| {
                let says_no = self.says_no(rules[*n], at, &marks, &force);
                if !says_no {
                    ends[*n] = Some(at);
                }
                says_no
            });
        }
        ends
    }

    /// When something changes by itself, after `now`.
    pub(super) fn next_change(&self, now: Time, marks: &Marks) -> Option<Time> {
        let force = self.in_force(now, marks);
        let week_ms = self.week_ms(now);
        let at = self.rules.at.iter().take(Rules::SECTIONS_MAX).map(|(hours, _)| hours);
        let hours = at.chain([force.work_hours.value, force.network_hours.value]);
        let edges = hours.filter_map(|hours| Some(now.plus_ms(hours.next_edge_ms(week_ms?)?)));
        let turns = Noisy::ALL.into_iter();
        let turns = turns.filter_map(|noisy| marks.holds[noisy as usize].turns_at(noisy));
        let release = marks.suspended_since.map(|at| at.plus_ms(self.rules.release_after_ms));
        let reading = self.reading();
        let resets = reading.into_iter().flat_map(|reading| [reading.day_ends, reading.month_ends]);
        let paused = self.paused.filter(|until| *until < Time(u64::MAX));
        let times = edges.chain(turns).chain(release).chain(resets).chain(paused);
        times.filter(|at| *at > now).min()
    }
}

/// The value of the first section that says anything.
fn find<'a, T>(held: &[(Section, &'a Caps)], get: impl Fn(&'a Caps) -> Option<T>) -> Set<T> {
    let mut said =
        held.iter().filter_map(|(from, caps)| Some(Set { value: get(caps)?, from: *from }));
    match said.next() {
        Some(set) => set,
        None => unreachable!("the defaults say something of every key"),
    }
}

/// The first listed program that runs.
fn running<'a>(reading: &'a Reading, force: &InForce<'_>) -> Option<&'a str> {
    let listed = &force.pause_programs.value;
    let listed = &listed[..listed.len().min(Rules::PROGRAMS_MAX)];
    reading.programs.iter().map(String::as_str).find(|name| listed.iter().any(|one| one == name))
}

fn level(beyond: bool, below: bool) -> Level {
    match (beyond, below) {
        (true, _) => Level::Beyond,
        (false, true) => Level::Below,
        (false, false) => Level::Near,
    }
}

/// Which section a rule's limit comes from.
fn origin(rule: Rule, force: &InForce<'_>) -> Section {
    match rule {
        Rule::Asked | Rule::Draining | Rule::DiskFull => Section::Default,
        Rule::TrafficDay | Rule::TrafficMonth | Rule::Disk => Section::Base,
        Rule::Slots => force.slots.from,
        Rule::WorkHours => force.work_hours.from,
        Rule::NetworkHours => force.network_hours.from,
        Rule::InUse => force.only_when_idle.from,
        Rule::Battery => force.pause_on_battery.from,
        Rule::BatteryLow => force.battery_min_percent.from,
        Rule::Program => force.pause_programs.from,
        Rule::Temperature => force.temperature_max_celsius.from,
        Rule::OthersCpu => force.others_cpu_max_percent.from,
        Rule::Memory => force.memory_bytes.from,
        Rule::Metered => force.pause_on_metered.from,
    }
}
