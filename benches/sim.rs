//! What a grid of many costs as it grows: simulated crowds of production peers.
//!
//! `cargo bench -p potluck-sim` prints the table and holds it against `benches/baseline.toml`: a
//! figure that is worse than the accepted one by more than its tolerance fails. Virtual time makes
//! every figure but wall time and memory exact for a seed; tolerances leave room for changes that
//! are meant. `-- --full` adds the large crowds, `-- --accept` writes the figures found as the
//! accepted ones, `-- NAME` runs the crowd of that name. Names that begin with `coarse` are of the
//! model for more workers than fit into memory as peers.

#![expect(clippy::print_stdout, reason = "a benchmark's figures are its output")]
#![expect(clippy::cast_precision_loss, reason = "figures for people")]
#![expect(clippy::disallowed_types, reason = "a measurement reads the clock; no peer does")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use potluck_sim::{Coarse, Crowd, Fared, Lived, Lives};
use potluck_unit::Quality;
use toml::{Table, Value};

/// One crowd of the table.
struct Case {
    name: &'static str,
    full: bool,
    crowd: Crowd,
    /// Whether it is coarse, and how many of a thousand workers lie then.
    coarse: Option<u64>,
}

impl Case {
    fn fare(&self) -> Fared {
        let crowd = self.crowd.clone();
        match self.coarse {
            None => crowd.fare(),
            Some(liars_per_mille) => {
                Coarse { crowd, liars_per_mille, lies_per_mille: LIES_PER_MILLE }.fare()
            }
        }
    }
}

/// A coarse coalition lies about so many units in a thousand.
const LIES_PER_MILLE: u64 = 20;

/// A figure that is held against the baseline: lower is better.
struct Figure {
    name: &'static str,
    value: f64,
    /// How much worse it may be than accepted, as a share of that, and on top as such.
    tolerance: (f64, f64),
}

fn cases() -> Vec<Case> {
    let case = |name, full, crowd| Case { name, full, crowd, coarse: None };
    let coarse = |name, workers, units, quality, liars| Case {
        name,
        full: workers > 1000,
        crowd: Crowd::of(workers, units, quality),
        coarse: Some(liars),
    };
    // Units of 10 ms that all want done at once: what people wait for.
    let quick = |workers, units| Crowd {
        unit_us: 10_000,
        unit_sigma: 0,
        speed_sigma: 0,
        submit_ms: 60_000,
        ..Crowd::of(workers, units, Quality::Standard)
    };
    // Workers who did many units before; some of them have slept, and lie about one unit in fifty from
    // their hundredth on.
    let veterans = |sleepers, jobs, units, standing| Crowd {
        lives: Some(Lives {
            jobs,
            pause_ms: 60_000,
            standing,
            sleepers,
            sleepers_standing: standing,
            behaves: 100,
            lies_per_mille: 20,
            returns: false,
        }),
        ..Crowd::of(40, units, Quality::Bulk)
    };
    // Among veterans a third comes as newcomers, does well for so many units, lies about all it can,
    // and comes back under fresh keys.
    let newcomers = |jobs, behaves| Crowd {
        lives: Some(Lives {
            jobs,
            pause_ms: 60_000,
            standing: 20_000,
            sleepers: 5,
            sleepers_standing: 0,
            behaves,
            lies_per_mille: 1000,
            returns: true,
        }),
        ..Crowd::of(15, 2000, Quality::Bulk)
    };
    vec![
        case("interactive-100", false, quick(100, 32)),
        case("interactive-1000", false, quick(1000, 8)),
        case("bulk-100", false, Crowd::of(100, 10_000, Quality::Bulk)),
        case("standard-100", false, Crowd::of(100, 10_000, Quality::Standard)),
        case("veterans-0", false, veterans(0, 8, 2000, 20_000)),
        case("veterans-10", false, veterans(4, 8, 2000, 20_000)),
        case("veterans-33", false, veterans(13, 8, 2000, 20_000)),
        case("veterans-0-long", false, veterans(0, 2, 15_000, 100_000)),
        case("newcomers-33-100", false, newcomers(5, 100)),
        case("newcomers-33-1000", false, newcomers(10, 1000)),
        case("bulk-300", true, Crowd::of(300, 9000, Quality::Bulk)),
        coarse("coarse-bulk-100", 100, 10_000, Quality::Bulk, 0),
        coarse("coarse-bulk-300", 300, 9000, Quality::Bulk, 0),
        coarse("coarse-standard-100", 100, 10_000, Quality::Standard, 0),
        coarse("coarse-bulk-1000", 1000, 100_000, Quality::Bulk, 0),
        coarse("coarse-standard-1000", 1000, 100_000, Quality::Standard, 0),
        coarse("coarse-bulk-10000", 10_000, 1_000_000, Quality::Bulk, 0),
        coarse("coarse-bulk-10000-few", 10_000, 100_000, Quality::Bulk, 0),
        coarse("coarse-bulk-100000-few", 100_000, 1_000_000, Quality::Bulk, 0),
        coarse("coarse-bulk-100-10", 100, 10_000, Quality::Bulk, 100),
        coarse("coarse-bulk-1000-10", 1000, 100_000, Quality::Bulk, 100),
        coarse("coarse-standard-1000-10", 1000, 100_000, Quality::Standard, 100),
    ]
}

fn figures(case: &Case, fared: &Fared) -> Vec<Figure> {
    match &case.crowd.lives {
        None => figures_of_one(case, fared),
        Some(lives) => figures_of_lives(&case.crowd, lives, fared),
    }
}

/// What the long run is measured by. Of wrong units, shares in a million of all, the past being the
/// units by which standing was earned: without it this would be a look at the theft alone.
fn figures_of_lives(crowd: &Crowd, lives: &Lives, fared: &Fared) -> Vec<Figure> {
    let units = f64::from(crowd.units) * f64::from(lives.jobs);
    let past = f64::from(crowd.workers - lives.sleepers) * f64::from(lives.standing)
        + f64::from(lives.sleepers) * f64::from(lives.sleepers_standing);
    let sum = |pick: fn(&Lived) -> u64| fared.lived.iter().map(pick).sum::<u64>() as f64;
    let ppm = |pick: fn(&Lived) -> u64| sum(pick) * 1e6 / units;
    let needed = sum(|lived| lived.needed_us);
    // A few lies more or less that an audit meets change what all of the jobs take.
    let rough = if lives.sleepers > 0 { (0.3, 0.05) } else { (0.02, 0.01) };
    let figure = |name, value, tolerance| Figure { name, value, tolerance };
    let taken = sum(|lived| lived.wrong_taken.into());
    vec![
        figure("unaccepted", units - fared.accepted_ms.len() as f64, (0.0, 0.0)),
        figure("convicted_honest", fared.convicted_honest.into(), (0.0, 0.0)),
        figure("wrong_ever_ppm", ppm(|lived| lived.wrong_ever.into()), (1.0, 1000.0)),
        figure("wrong_taken_ppm", ppm(|lived| lived.wrong_taken.into()), (1.0, 1000.0)),
        figure("wrong_left_ppm", ppm(|lived| lived.wrong_left.into()), (1.0, 1000.0)),
        figure("wrong_taken_with_past_ppm", taken * 1e6 / (units + past), (1.0, 50.0)),
        figure("overhead", sum(|lived| lived.executed_us) / needed, rough),
        figure("overhead_honest", sum(|lived| lived.honest_us) / needed, rough),
        figure("audits_percent", sum(|lived| lived.audited_us) / needed * 100.0, (rough.0, 2.0)),
    ]
}

fn figures_of_one(case: &Case, fared: &Fared) -> Vec<Figure> {
    let units = f64::from(case.crowd.units);
    let total = |pick: fn(&(u64, u64)) -> u64| fared.said.values().map(pick).sum::<u64>() as f64;
    let done = fared.accepted_ms.last().copied().unwrap_or(0) as f64;
    let peers = f64::from(case.crowd.workers + 1);
    let figure = |name, value, tolerance| Figure { name, value, tolerance };
    let mut figures = vec![
        figure("unaccepted", units - fared.accepted_ms.len() as f64, (0.0, 0.0)),
        figure("p50_ms", share(&fared.accepted_ms, 0.5), (0.1, 10.0)),
        figure("p99_ms", share(&fared.accepted_ms, 0.99), (0.1, 10.0)),
        figure("makespan_to_fluid", done / (fared.fluid_ms.max(1) as f64), (0.03, 0.01)),
        figure("waste_percent", fared.waste_ppm as f64 / 10_000.0, (0.2, 0.2)),
        figure("audits_percent", fared.audits_ppm as f64 / 10_000.0, (0.2, 0.2)),
        figure("claims_per_unit", fared.claims as f64 / units, (0.1, 0.01)),
        figure("batches_per_unit", fared.receipts as f64 / units, (0.1, 0.01)),
    ];
    figures.extend(match case.coarse {
        None => vec![
            figure("wrong", fared.wrong.into(), (0.0, 0.0)),
            figure("messages_per_unit_and_peer", total(|said| said.0) / units / peers, (0.1, 0.01)),
            figure("bytes_per_unit_and_peer", total(|said| said.1) / units / peers, (0.1, 10.0)),
        ],
        Some(_) => vec![
            figure("wrong_ever_ppm", f64::from(fared.wrong) * 1e6 / units, (0.5, 100.0)),
            figure("wrong_left_ppm", f64::from(fared.wrong_left) * 1e6 / units, (1.0, 100.0)),
        ],
    });
    figures
}

fn share(sorted: &[u64], share: f64) -> f64 {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "far inside")]
    let at = (sorted.len().saturating_sub(1) as f64 * share).round() as usize;
    sorted.get(at).copied().unwrap_or(0) as f64
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let has = |flag: &str| args.iter().any(|arg| arg == flag);
    let wanted: Vec<&String> = args.iter().filter(|arg| !arg.starts_with("--")).collect();
    let mut accepted = baseline();
    let mut worse = Vec::new();
    for case in cases() {
        let named = wanted.iter().any(|name| *name == case.name);
        if !(named || (wanted.is_empty() && (has("--full") || !case.full))) {
            continue;
        }
        let (begun, cpu) = (Instant::now(), cpu_s());
        let before = resident_kib("VmRSS:");
        reset_peak();
        let fared = case.fare();
        let took = (begun.elapsed().as_secs_f64(), cpu_s() - cpu);
        let peak = resident_kib("VmHWM:");
        let figures = figures(&case, &fared);
        print(&case, &fared, took, peak.saturating_sub(before));
        let row = accepted.entry(case.name).or_insert_with(|| Value::Table(Table::new()));
        let Value::Table(row) = row else { continue };
        for figure in &figures {
            let before = row.get(figure.name).and_then(Value::as_float);
            let limit = before
                .map(|before| before + before.abs() * figure.tolerance.0 + figure.tolerance.1);
            let note = match (before, limit) {
                (Some(before), Some(limit)) if figure.value > limit => {
                    worse.push(format!("{}: {} is {:.3}, accepted was {before:.3} and at most {limit:.3} is tolerated", case.name, figure.name, figure.value));
                    "  WORSE"
                }
                (None, _) | (Some(_), _) => "",
            };
            println!("  {:28} {:>12.3}{note}", figure.name, figure.value);
            if has("--accept") {
                let rounded = (figure.value * 1000.0).round() / 1000.0;
                row.insert(figure.name.to_owned(), Value::Float(rounded));
            }
        }
        println!();
    }
    if has("--accept") {
        let text = format!("{HEADER}\n{accepted}");
        std::fs::write(path(), text).expect("the baseline can be written");
        return ExitCode::SUCCESS;
    }
    worse.iter().for_each(|line| println!("{line}"));
    if !worse.is_empty() {
        println!("if that is meant, accept it: cargo bench -p potluck-sim -- --accept");
    }
    ExitCode::from(u8::from(!worse.is_empty()))
}

/// What is not held against anything.
fn print(case: &Case, fared: &Fared, (wall, cpu): (f64, f64), grew_kib: u64) {
    let Crowd { workers, units, quality, .. } = case.crowd;
    println!("{}: {workers} workers, {units} units, {quality:?}", case.name);
    let peers = f64::from(workers + 1);
    println!(
        "  {wall:.1} s of wall time, {cpu:.1} s of CPU, {} events ({:.2} us each), {:.1} neighbours, {} workers known",
        fared.events,
        cpu * 1e6 / fared.events.max(1) as f64,
        fared.neighbours_per_mille as f64 / 1000.0,
        fared.workers_known,
    );
    println!(
        "  memory grew by {:.1} MiB: {:.1} KiB a peer, {:.1} bytes a peer and unit",
        grew_kib as f64 / 1024.0,
        grew_kib as f64 / peers,
        grew_kib as f64 * 1024.0 / peers / f64::from(units),
    );
    for (when, said) in [("before", &fared.said_before), ("after", &fared.said)] {
        let kinds = said.iter().map(|(kind, (messages, bytes))| {
            format!("{kind} {messages} ({:.1} MB)", *bytes as f64 / 1e6)
        });
        println!("  said {when} submission: {}", kinds.collect::<Vec<_>>().join(", "));
    }
    for (number, lived) in fared.lived.iter().enumerate() {
        let times = |us: u64| us as f64 / lived.needed_us as f64;
        println!(
            "  job {number}: final after {} s; lies about {} units, {} ever accepted, {} taken, {} left; {} liars convicted by {:.1} each; executed {:.3}, by honest workers {:.3}, audits {:.3}",
            lived.final_ms / 1000,
            lived.lies,
            lived.wrong_ever,
            lived.wrong_taken,
            lived.wrong_left,
            lived.convicted,
            f64::from(lived.convictions) / f64::from(lived.convicted.max(1)),
            times(lived.executed_us),
            times(lived.honest_us),
            times(lived.audited_us),
        );
    }
}

const HEADER: &str = "# The last accepted figures of benches/sim.rs; written by `cargo bench -p potluck-sim -- --accept`.";

fn path() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../benches/baseline.toml"))
}

fn baseline() -> Table {
    let text = std::fs::read_to_string(path()).unwrap_or_default();
    text.parse().expect("benches/baseline.toml is TOML")
}

/// A line of `/proc/self/status` in KiB; 0 where there is none.
fn resident_kib(name: &str) -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

/// CPU time of this thread; 0 where Linux doesn't tell.
fn cpu_s() -> f64 {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    text.split_whitespace().next().and_then(|ns| ns.parse::<f64>().ok()).unwrap_or(0.0) / 1e9
}

/// Lets Linux count the peak of memory from here.
fn reset_peak() {
    let _ = std::fs::write("/proc/self/clear_refs", "5");
}
