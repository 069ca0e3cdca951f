//! What the budget allows, forbids, and says of it.

use std::collections::BTreeSet;

use super::*;
use crate::chance::Chance;

const NOW: Time = Time(1_700_000_000_000);
const SECOND: u64 = 1000;
const HOUR: u64 = 3600 * SECOND;
const DAY: u64 = 24 * HOUR;

/// A machine on Monday at noon that nothing is known of.
fn reading() -> Reading {
    let (day_ends, month_ends) = (NOW.plus_ms(12 * HOUR), NOW.plus_ms(10 * DAY));
    Reading { week_ms: 12 * HOUR, day_ends, month_ends, ..Reading::default() }
}

fn battery(discharging: bool, percent: u8) -> Option<Battery> {
    Some(Battery { discharging, percent: Some(percent) })
}

fn hours(text: &str) -> Hours {
    text.parse().unwrap()
}

/// The rules that say no, a minute after this was read.
fn noes(rules: &Rules, reading: &Reading) -> Vec<Rule> {
    let mut budget = Budget::new(rules.clone());
    budget.on_reading(NOW, reading.clone());
    let later = NOW.plus_ms(60 * SECOND);
    pass(&mut budget, NOW, later);
    budget.allowance(later).reasons.iter().map(|reason| reason.rule).collect()
}

/// Lets time pass, with an alarm at everything that changes by itself.
fn pass(budget: &mut Budget, from: Time, until: Time) {
    let mut now = from;
    while let Some(at) = budget.changes_at(now).filter(|at| *at <= until) {
        budget.on_time(at);
        now = at;
    }
}

fn base(caps: Caps) -> Rules {
    Rules { base: caps, ..Rules::default() }
}

#[test]
fn every_rule_has_its_own_key_and_says_what_it_does() {
    let all: BTreeSet<Rule> = Rule::ALL.into_iter().collect();
    assert_eq!(all.len(), Rule::ALL.len());
    let keys: BTreeSet<&str> = Rule::ALL.iter().map(|rule| rule.key()).collect();
    let docs: BTreeSet<&str> = Rule::ALL.iter().map(|rule| rule.doc()).collect();
    assert_eq!((keys.len(), docs.len()), (Rule::ALL.len(), Rule::ALL.len()));
    assert!(docs.iter().all(|doc| doc.len() > 20 && !doc.ends_with('.')));
}

#[test]
fn a_machine_of_which_nothing_is_known_is_lent() {
    assert_eq!(noes(&Rules::default(), &reading()), []);
    let allowance = Budget::new(Rules::default()).allowance(NOW);
    assert!(allowance.computes() && allowance.connects() && allowance.takes());
    assert_eq!((allowance.slots_now(), allowance.memory_bytes), (1, 2 << 30));
}

/// Sets a reading to its limit, or one past it.
type Limit = fn(&mut Reading, bool);

#[test]
fn every_limit_says_no_one_past_it_and_not_before() {
    let max = Rules::default();
    let low = base(Caps { pause_on_battery: Some(false), ..Caps::default() });
    let idle = base(Caps { only_when_idle: Some(true), ..Caps::default() });
    let games = Some(vec!["game".to_owned()]);
    let listed = base(Caps { pause_programs: games, ..Caps::default() });
    let office = hours("mon 09:00-12:02");
    let late = base(Caps { work_hours: Some(office.clone()), ..Caps::default() });
    let off = base(Caps { network_hours: Some(office), ..Caps::default() });
    let hour: Limit = |r, past| r.week_ms = 12 * HOUR + 60 * SECOND * u64::from(past);
    let cases: [(Rule, &Rules, Limit); 14] = [
        (Rule::Temperature, &max, |r, past| r.celsius = Some(85 + i16::from(past))),
        (Rule::OthersCpu, &max, |r, past| r.others_cpu_percent = Some(25 + u8::from(past))),
        (Rule::Battery, &max, |r, past| r.battery = battery(past, 99)),
        (Rule::BatteryLow, &low, |r, past| r.battery = battery(true, 80 - u8::from(past))),
        (Rule::InUse, &idle, |r, past| r.idle_ms = Some(180_000 - u64::from(past))),
        (Rule::Program, &listed, |r, past| {
            r.programs = vec![if past { "game" } else { "gamer" }.to_owned()];
        }),
        (Rule::Metered, &max, |r, past| r.metered = Some(past)),
        (Rule::Memory, &max, |r, past| r.memory_bytes = Some((2 << 30) + u64::from(past))),
        (Rule::Disk, &max, |r, past| r.disk_bytes = Some((10 << 30) - u64::from(!past))),
        (Rule::DiskFull, &max, |r, past| {
            r.disk_free_bytes = Some(DISK_FREE_MIN_BYTES - u64::from(past));
        }),
        (Rule::TrafficDay, &max, |r, past| r.today_bytes = (2 << 30) - u64::from(!past)),
        (Rule::TrafficMonth, &max, |r, past| r.month_bytes = (40 << 30) - u64::from(!past)),
        (Rule::WorkHours, &late, hour),
        (Rule::NetworkHours, &off, hour),
    ];
    for (rule, rules, set) in cases {
        let mut read = reading();
        set(&mut read, false);
        assert_eq!(noes(rules, &read), [], "{rule:?} at its limit");
        set(&mut read, true);
        assert_eq!(noes(rules, &read), [rule], "one past it");
    }
}

#[test]
fn one_section_or_program_too_many_does_not_count() {
    let pause = Caps { slots: Some(0), ..Caps::default() };
    let mut at = vec![(Hours::ALWAYS, Caps::default()); Rules::SECTIONS_MAX];
    at.push((Hours::ALWAYS, pause));
    let mut rules = Rules { at, ..Rules::default() };
    assert_eq!(noes(&rules, &reading()), []);
    rules.at.remove(0);
    assert_eq!(noes(&rules, &reading()), [Rule::Slots]);
    let mut names = vec!["other".to_owned(); Rules::PROGRAMS_MAX];
    names.push("game".to_owned());
    let game = Reading { programs: vec!["game".to_owned()], ..reading() };
    let with = |names: &[String]| {
        let rules = base(Caps { pause_programs: Some(names.to_vec()), ..Caps::default() });
        (noes(&rules, &game), rules.programs().len())
    };
    assert_eq!(with(&names), (vec![], 1));
    assert_eq!(with(&names[1..]), (vec![Rule::Program], 2));
}

#[test]
fn later_sections_win_key_by_key() {
    let slots = |slots| Caps { slots: Some(slots), ..Caps::default() };
    let mut rules = Rules {
        base: Caps { cpu_percent: Some(30), ..slots(1) },
        at: vec![(hours("mon 09:00-17:00"), slots(2)), (hours("mon 11:00-13:00"), slots(3))],
        idle: slots(4),
        in_use: slots(5),
        on_battery: Caps {
            pause_on_battery: Some(false),
            battery_min_percent: Some(0),
            ..slots(6)
        },
        ..Rules::default()
    };
    let lent = |rules: &Rules, reading: Reading| {
        let mut budget = Budget::new(rules.clone());
        budget.on_reading(NOW, reading);
        let lent = budget.allowance(NOW);
        assert_eq!((lent.cpu_percent, lent.from.cpu_percent), (30, Section::Base));
        (lent.slots, lent.from.slots)
    };
    let (on, off) = (battery(true, 50), battery(false, 50));
    let (used, unused) = (Some(0), Some(HOUR));
    let r = reading;
    assert_eq!(lent(&rules, Reading { week_ms: 8 * HOUR, ..r() }), (1, Section::Base));
    assert_eq!(lent(&rules, Reading { week_ms: 10 * HOUR, ..r() }), (2, Section::At(0)));
    assert_eq!(lent(&rules, r()), (3, Section::At(1)));
    assert_eq!(lent(&rules, Reading { idle_ms: unused, ..r() }), (4, Section::Idle));
    assert_eq!(lent(&rules, Reading { idle_ms: used, battery: off, ..r() }), (5, Section::InUse));
    assert_eq!(
        lent(&rules, Reading { idle_ms: used, battery: on, ..r() }),
        (6, Section::OnBattery)
    );
    rules.on_battery.slots = None;
    assert_eq!(lent(&rules, Reading { idle_ms: used, battery: on, ..r() }), (5, Section::InUse));
    assert_eq!(rules.slots_max(), 5);
}

#[test]
fn a_reading_that_hovers_at_its_limit_does_not_make_work_flap() {
    let mut chance = Chance::of_seed(3);
    let changes = |seconds: u64, next: &mut dyn FnMut() -> Reading| {
        let mut budget = Budget::new(Rules::default());
        let mut states = vec![true];
        for second in 0..seconds {
            let now = NOW.plus_ms(second * SECOND);
            budget.on_reading(now, next());
            states.push(budget.allowance(now).computes());
        }
        states.dedup();
        states.len() - 1
    };
    let hot = changes(3600, &mut || {
        let celsius = Some(83 + i16::try_from(chance.below(5)).unwrap());
        Reading { celsius, ..reading() }
    });
    assert_eq!(hot, 1, "it never cooled down");
    // A tenth of all seconds above: never for three in a row and then calm for thirty, or seldom.
    let busy = changes(3600, &mut || {
        let percent = if chance.happens(100) { 60 } else { 10 };
        Reading { others_cpu_percent: Some(percent), ..reading() }
    });
    assert!(busy <= 2 * 3600 / 33, "{busy}");
    let half = changes(3600, &mut || {
        let percent = if chance.happens(500) { 26 } else { 25 };
        Reading { others_cpu_percent: Some(percent), ..reading() }
    });
    assert!(half <= 3, "{half}");
    let plug =
        changes(600, &mut || Reading { battery: battery(chance.happens(500), 90), ..reading() });
    assert!(plug <= 3, "{plug}");
}

#[test]
fn other_programs_count_after_three_seconds_and_are_forgotten_after_thirty_of_calm() {
    let mut budget = Budget::new(Rules::default());
    let read = |budget: &mut Budget, at: u64, percent: u8| {
        let now = NOW.plus_ms(at);
        budget.on_reading(now, Reading { others_cpu_percent: Some(percent), ..reading() });
    };
    let computes = |budget: &Budget, at: u64| budget.allowance(NOW.plus_ms(at)).computes();
    read(&mut budget, 0, 90);
    assert!(computes(&budget, BUSY_AFTER_MS - 1));
    assert!(!computes(&budget, BUSY_AFTER_MS));
    read(&mut budget, 10_000, 0);
    let reasons = budget.allowance(NOW.plus_ms(10_000)).reasons;
    let until = NOW.plus_ms(10_000 + CALM_AFTER_MS);
    assert_eq!(reasons.first().and_then(|reason| reason.until), Some(until));
    assert!(!computes(&budget, 10_000 + CALM_AFTER_MS - 1));
    assert!(computes(&budget, 10_000 + CALM_AFTER_MS));
}

#[test]
fn orders_hold_until_their_time_or_until_the_next() {
    let mut budget = Budget::new(Rules::default());
    budget.on_reading(NOW, reading());
    let until = NOW.plus_ms(2 * HOUR);
    budget.on_order(NOW, Order::Pause { until: Some(until) });
    assert_eq!(budget.changes_at(NOW), Some(NOW.plus_ms(budget.rules.release_after_ms)));
    let paused = budget.allowance(NOW);
    assert_eq!((paused.slots, paused.slots_now(), paused.runs(0)), (1, 0, false));
    let said = paused.reasons[0].to_string();
    assert_eq!(said, "paused: `potluck pause` was said, until Mon 14:00");
    assert!(!budget.allowance(Time(until.0 - 1)).computes());
    assert!(budget.allowance(until).computes());
    budget.on_order(NOW, Order::Pause { until: None });
    assert_eq!(budget.allowance(NOW).reasons[0].until, None);
    budget.on_order(NOW, Order::Drain { exit: true });
    budget.on_order(NOW, Order::Resume);
    assert_eq!(budget.allowance(NOW).reasons, []);
    budget.on_order(NOW, Order::Drain { exit: false });
    let draining = budget.allowance(NOW);
    assert!(draining.draining && !draining.exit && draining.computes() && !draining.takes());
}

#[test]
fn what_is_suspended_for_long_is_released_and_memory_at_once() {
    let rules = Rules { release_after_ms: 600_000, ..Rules::default() };
    let mut budget = Budget::new(rules);
    let hot = Reading { celsius: Some(99), ..reading() };
    budget.on_reading(NOW, hot.clone());
    assert!(!budget.allowance(NOW.plus_ms(599_999)).released);
    assert_eq!(budget.changes_at(NOW), Some(NOW.plus_ms(600_000)));
    assert!(budget.allowance(NOW.plus_ms(600_000)).released);
    // Another rule takes over: it is the same suspension.
    let now = NOW.plus_ms(300_000);
    budget.on_reading(now, Reading { battery: battery(true, 90), ..hot });
    budget.on_reading(now, Reading { battery: battery(true, 90), ..reading() });
    assert!(budget.allowance(NOW.plus_ms(600_000)).released);
    budget.on_reading(now, reading());
    pass(&mut budget, now, now.plus_ms(SETTLED_AFTER_MS));
    assert!(!budget.allowance(NOW.plus_ms(600_000)).released);
    budget.on_reading(now, Reading { memory_bytes: Some(3 << 30), ..reading() });
    assert!(budget.allowance(now).released, "memory comes back no other way");
    let mut draining = Budget::new(Rules::default());
    draining.on_reading(NOW, Reading { celsius: Some(99), ..reading() });
    draining.on_order(NOW, Order::Drain { exit: true });
    assert!(draining.allowance(NOW).released, "what is suspended is never finished");
}

#[test]
fn near_the_quota_only_small_inputs_are_taken_and_none_at_last() {
    let rules = Rules { traffic_day_bytes: 800 << 20, ..Rules::default() };
    let left = |today: u64| {
        let mut budget = Budget::new(rules.clone());
        budget.on_reading(NOW, Reading { today_bytes: today << 20, ..reading() });
        (budget.allowance(NOW).inputs_max_bytes >> 20, budget.allowance(NOW).connects())
    };
    assert_eq!(left(0), (800 - 64, true));
    assert_eq!(left(700), (36, true));
    assert_eq!(left(736), (0, true));
    assert_eq!(left(799), (0, true));
    assert_eq!(left(800), (0, false));
    let unlimited = Budget::new(Rules::unlimited()).allowance(NOW);
    assert_eq!(unlimited.inputs_max_bytes, u64::MAX);
}

#[test]
fn each_reason_is_a_sentence_with_the_key_what_was_measured_and_until_when() {
    let night = base(Caps { work_hours: Some(hours("mon-fri 18:00-24:00")), ..Caps::default() });
    let said = |rules: &Rules, reading: Reading| {
        let mut budget = Budget::new(rules.clone());
        budget.on_reading(NOW, reading);
        pass(&mut budget, NOW, NOW.plus_ms(5000));
        let reasons = budget.allowance(NOW.plus_ms(5000)).reasons;
        reasons.first().map(ToString::to_string).unwrap_or_default()
    };
    let (rules, r) = (Rules::default(), reading);
    assert_eq!(
        said(&rules, Reading { battery: battery(true, 90), ..r() }),
        "paused: the battery is in use (pause-on-battery), until it is plugged in"
    );
    assert_eq!(said(&night, r()), "paused: it is outside work-hours, until Mon 18:00");
    assert_eq!(
        said(&rules, Reading { celsius: Some(91), ..r() }),
        "paused: the processor has 91 °C, temperature-max is 85 °C, until it has cooled down"
    );
    assert_eq!(
        said(&rules, Reading { today_bytes: (5 << 30) / 2, ..r() }),
        "off the network: 2.5 GiB were moved today, traffic-day is 2 GiB, until Tue 00:00"
    );
    assert_eq!(
        said(&rules, Reading { month_bytes: 40 << 30, ..r() }),
        "off the network: 40 GiB were moved this month, traffic-month is 40 GiB, for 9 days more"
    );
    assert_eq!(
        said(&rules, Reading { others_cpu_percent: Some(43), ..r() }),
        "paused: other programs use 43 % of the processor, others-cpu-max is 25 %, until they use less"
    );
}

/// Rules, readings and orders by chance, with every limit well within reach.
struct Random(Chance);

impl Random {
    fn some<T>(&mut self, make: impl FnOnce(&mut Random) -> T) -> Option<T> {
        self.0.happens(500).then(|| make(self))
    }

    fn byte(&mut self, below: u64) -> u8 {
        self.0.below(below) as u8
    }

    fn yes(&mut self) -> bool {
        self.0.happens(500)
    }

    fn hours(&mut self) -> Hours {
        let days = ["mon-fri", "sat,sun", "mon", "wed-tue", "fri-sat"];
        let day = days[self.0.below(5) as usize];
        let (from, until) = (self.0.below(24), self.0.below(25));
        let text = format!("{day} {from:02}:{:02}-{until:02}:00", self.0.below(60));
        text.parse().unwrap()
    }

    fn programs(&mut self) -> Vec<String> {
        ["a", "b", "c"].into_iter().filter(|_| self.0.happens(300)).map(str::to_owned).collect()
    }

    fn caps(&mut self) -> Caps {
        Caps {
            slots: self.some(|r| r.byte(4).into()),
            cpu_percent: self.some(|r| 1 + r.byte(100)),
            memory_bytes: self.some(|r| r.0.below(4)),
            upload_per_s: self.some(|r| r.0.below(1000)),
            download_per_s: self.some(|r| r.0.below(1000)),
            work_hours: self.some(Random::hours),
            network_hours: self.some(Random::hours),
            pause_on_battery: self.some(Random::yes),
            battery_min_percent: self.some(|r| r.byte(101)),
            temperature_max_celsius: self.some(|r| r.byte(100)),
            others_cpu_max_percent: self.some(|r| r.byte(101)),
            pause_programs: self.some(Random::programs),
            pause_on_metered: self.some(Random::yes),
            only_when_idle: self.some(Random::yes),
        }
    }

    fn rules(&mut self) -> Rules {
        Rules {
            base: self.caps(),
            at: (0..self.0.below(4)).map(|_| (self.hours(), self.caps())).collect(),
            idle: self.caps(),
            in_use: self.caps(),
            on_battery: self.caps(),
            disk_bytes: self.0.below(4),
            traffic_day_bytes: self.0.below(4),
            traffic_month_bytes: self.0.below(4),
            idle_after_ms: self.0.below(300_000),
            release_after_ms: self.0.below(1_000_000),
            ..Rules::default()
        }
    }

    fn reading(&mut self, now: Time) -> Reading {
        let charge = self.some(|r| r.byte(101));
        Reading {
            week_ms: self.0.below(7 * DAY),
            day_ends: now.plus_ms(self.0.below(DAY)),
            month_ends: now.plus_ms(self.0.below(31 * DAY)),
            idle_ms: self.some(|r| r.0.below(300_000)),
            battery: self.some(|r| Battery { discharging: r.yes(), percent: charge }),
            celsius: self.some(|r| i16::from(r.byte(110)) - 5),
            others_cpu_percent: self.some(|r| r.byte(101)),
            programs: self.programs(),
            metered: self.some(Random::yes),
            memory_bytes: self.some(|r| r.0.below(5)),
            disk_bytes: self.some(|r| r.0.below(5)),
            disk_free_bytes: self.some(|r| r.0.below(2 * DISK_FREE_MIN_BYTES)),
            today_bytes: self.0.below(5),
            month_bytes: self.0.below(5),
        }
    }
}

/// What applies, worked out as the documentation says it: section after section over the defaults.
fn plain(rules: &Rules, reading: &Reading, week_ms: u64) -> Caps {
    let mut caps = Caps::defaults().clone();
    let mut lay = |over: &Caps| {
        let Caps { slots, cpu_percent, memory_bytes, upload_per_s, download_per_s, .. } = over;
        caps.slots = slots.or(caps.slots);
        caps.cpu_percent = cpu_percent.or(caps.cpu_percent);
        caps.memory_bytes = memory_bytes.or(caps.memory_bytes);
        caps.upload_per_s = upload_per_s.or(caps.upload_per_s);
        caps.download_per_s = download_per_s.or(caps.download_per_s);
        caps.work_hours = over.work_hours.clone().or(caps.work_hours.take());
        caps.network_hours = over.network_hours.clone().or(caps.network_hours.take());
        caps.pause_on_battery = over.pause_on_battery.or(caps.pause_on_battery);
        caps.battery_min_percent = over.battery_min_percent.or(caps.battery_min_percent);
        caps.temperature_max_celsius =
            over.temperature_max_celsius.or(caps.temperature_max_celsius);
        caps.others_cpu_max_percent = over.others_cpu_max_percent.or(caps.others_cpu_max_percent);
        caps.pause_programs = over.pause_programs.clone().or(caps.pause_programs.take());
        caps.pause_on_metered = over.pause_on_metered.or(caps.pause_on_metered);
        caps.only_when_idle = over.only_when_idle.or(caps.only_when_idle);
    };
    lay(&rules.base);
    rules.at.iter().filter(|(hours, _)| hours.holds(week_ms)).for_each(|(_, caps)| lay(caps));
    match reading.idle_ms {
        Some(idle) if idle < rules.idle_after_ms => lay(&rules.in_use),
        Some(_) => lay(&rules.idle),
        None => {}
    }
    if reading.battery.is_some_and(|battery| battery.discharging) {
        lay(&rules.on_battery);
    }
    caps
}

/// Which rules must say no then if all that was read has been so for long.
fn expected(rules: &Rules, reading: &Reading, caps: &Caps, now: Time, week_ms: u64) -> Vec<Rule> {
    let discharging = reading.battery.is_some_and(|battery| battery.discharging);
    let charge = reading.battery.and_then(|battery| battery.percent);
    let listed = caps.pause_programs.clone().unwrap();
    let today = if now < reading.day_ends { reading.today_bytes } else { 0 };
    let month = if now < reading.month_ends { reading.month_bytes } else { 0 };
    let noes = [
        (Rule::Slots, caps.slots == Some(0) && rules.slots_max() > 0),
        (Rule::WorkHours, !caps.work_hours.as_ref().unwrap().holds(week_ms)),
        (
            Rule::InUse,
            caps.only_when_idle == Some(true)
                && reading.idle_ms.is_some_and(|idle| idle < rules.idle_after_ms),
        ),
        (Rule::Battery, caps.pause_on_battery == Some(true) && discharging),
        (Rule::BatteryLow, discharging && charge.is_some() && charge < caps.battery_min_percent),
        (Rule::Program, reading.programs.iter().any(|name| listed.contains(name))),
        (
            Rule::Temperature,
            reading.celsius > caps.temperature_max_celsius.map(i16::from)
                && reading.celsius.is_some(),
        ),
        (Rule::OthersCpu, reading.others_cpu_percent > caps.others_cpu_max_percent),
        (Rule::Memory, reading.memory_bytes > caps.memory_bytes),
        (Rule::Metered, caps.pause_on_metered == Some(true) && reading.metered == Some(true)),
        (Rule::NetworkHours, !caps.network_hours.as_ref().unwrap().holds(week_ms)),
        (Rule::TrafficDay, today >= rules.traffic_day_bytes),
        (Rule::TrafficMonth, month >= rules.traffic_month_bytes),
        (Rule::Disk, reading.disk_bytes >= Some(rules.disk_bytes)),
        (Rule::DiskFull, reading.disk_free_bytes.is_some_and(|left| left < DISK_FREE_MIN_BYTES)),
    ];
    noes.into_iter().filter(|(_, no)| *no).map(|(rule, _)| rule).collect()
}

#[test]
fn what_is_lent_is_what_the_rules_say_and_nothing_more() {
    let mut random = Random(Chance::of_seed(11));
    for _ in 0..3000 {
        let (rules, reading) = (random.rules(), random.reading(NOW));
        let mut budget = Budget::new(rules.clone());
        budget.on_reading(NOW, reading.clone());
        // As long as others must need the processor before that counts.
        let now = NOW.plus_ms(BUSY_AFTER_MS);
        let week_ms = (reading.week_ms + BUSY_AFTER_MS) % WEEK_MS;
        let edge =
            |hours: &Hours| hours.next_edge_ms(reading.week_ms).is_none_or(|ms| ms > BUSY_AFTER_MS);
        let all = rules.sections().map(|(_, caps)| caps);
        let written = all.flat_map(|caps| caps.work_hours.iter().chain(&caps.network_hours));
        if !written.chain(rules.at.iter().map(|(hours, _)| hours)).all(edge) {
            continue;
        }
        budget.on_time(now);
        let lent = budget.allowance(now);
        let caps = plain(&rules, &reading, week_ms);
        let given = (lent.slots, lent.cpu_percent, lent.memory_bytes);
        let wanted = (caps.slots, caps.cpu_percent, caps.memory_bytes);
        assert_eq!((Some(given.0), Some(given.1), Some(given.2)), wanted);
        let rates = (Some(lent.upload_per_s), Some(lent.download_per_s));
        assert_eq!(rates, (caps.upload_per_s, caps.download_per_s));
        let said: Vec<Rule> = lent.reasons.iter().map(|reason| reason.rule).collect();
        assert_eq!(said, expected(&rules, &reading, &caps, now, week_ms), "{rules:?} {reading:?}");
        let suspends = said.iter().any(|rule| rule.effect() == Effect::Compute);
        assert_eq!(lent.slots_now(), if suspends { 0 } else { lent.slots });
    }
}

#[test]
fn a_rule_says_no_until_the_time_that_it_says_and_not_after() {
    let mut random = Random(Chance::of_seed(12));
    let mut ends = 0;
    for _ in 0..400 {
        let mut budget = Budget::new(random.rules());
        let mut now = NOW;
        for _ in 0..3 {
            budget.on_reading(now, random.reading(now));
            if random.0.happens(200) {
                let until = random.some(|r| now.plus_ms(r.0.below(DAY)));
                budget.on_order(now, Order::Pause { until });
            }
            let later = now.plus_ms(random.0.below(60_000));
            pass(&mut budget, now, later);
            now = later;
        }
        budget.on_time(now);
        for reason in budget.allowance(now).reasons {
            let Some(until) = reason.until else { continue };
            ends += 1;
            let says_no = |at: Time| {
                let mut ahead = budget.clone();
                pass(&mut ahead, now, at);
                ahead.allowance(at).reasons.iter().any(|other| other.rule == reason.rule)
            };
            assert!(until > now, "{reason:?}");
            assert!(says_no(Time(until.0 - 1)), "{reason:?}");
            assert!(!says_no(until), "{reason:?}");
        }
    }
    assert!(ends > 400, "{ends}");
}
