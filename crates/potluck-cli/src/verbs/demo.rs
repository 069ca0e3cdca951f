//! `potluck demo`: a whole grid on this machine. Five workers, one of them a cheat, and a submitter
//! count primes; the total must be the published one, and the cheat must be found out.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use potluck_node::api::{ConvictionInfo, JobInfo};
use potluck_node::{Node, Options, control_socket};
use potluck_unit::{Job, JobId, Limits, Quality, Row};
use serde::Serialize;
use tempfile::TempDir;
use tokio::time::{Instant, timeout};

use crate::Context;
use crate::client::Client;
use crate::crew::{Crew, Greeting};
use crate::exit::{Exit, Failure};
use crate::interrupt::interrupted;
use crate::module::Module;
use crate::print::count;
use crate::progress::Progress;
use crate::results::collect;
use crate::session::{connect_own, ticks};
use crate::verbs::submit::Draft;

/// What can be said.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Shows it. Whatever happens, no process and no file stays behind.
pub(crate) async fn run(_: &Args, context: &Context) -> Result<Exit, Failure> {
    // Dropped last, after the processes that write into it are gone.
    let folder = tempfile::Builder::new().prefix("potluck-demo-").tempdir().map_err(|error| {
        Failure::failed(format!(
            "cannot make a temporary folder: {error}; set TMPDIR to another place"
        ))
    })?;
    let mut stage = Stage { crew: Crew::new(folder.path()), submitter: None };
    let shown = tokio::select! {
        shown = show(context, folder.path(), &mut stage) => shown,
        _ = interrupted() => Err(Failure::new(Exit::Interrupted, "interrupted; nothing is left behind")),
    };
    context.printer.wipe();
    stage.clear().await;
    remove(folder)?;
    let report = shown?;
    context.printer.answer(&report, || report.text())?;
    Ok(Exit::Done)
}

/// All that runs.
#[derive(Debug)]
struct Stage {
    crew: Crew,
    submitter: Option<Node>,
}

impl Stage {
    /// Stops everything, and waits until it has stopped.
    async fn clear(self) {
        if let Some(node) = self.submitter {
            // Quick, and if not, whatever it would still write goes with the folder.
            let _ = timeout(STOP_TIMEOUT, node.stop()).await;
        }
        drop(self.crew);
    }
}

/// What the demo showed.
#[derive(Debug, Clone, Serialize)]
struct Report {
    /// Primes are counted below this.
    below: u64,
    counted: u64,
    units: u32,
    copies: u8,
    seconds: f64,
    units_per_second: f64,
    /// The peer that cheats.
    cheat: String,
    /// Peers that hold proof of it, of those that do not cheat.
    witnesses: usize,
    /// What it was caught with.
    receipts: Vec<Receipt>,
}

/// A wrong receipt: what the cheat said of a unit, and what re-execution found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct Receipt {
    unit: u32,
    said: String,
    found: String,
}

async fn show(context: &Context, folder: &Path, stage: &mut Stage) -> Result<Report, Failure> {
    let note = |text: String| context.printer.note(text);
    // Read first: nothing is started for a program that can't run.
    let module = Module::of_bytes(PRIMES.to_vec(), Path::new("primes.wasm"))?;
    note(format!("starting {WORKERS} workers, one of which cheats, in {}", folder.display()));
    let workers = hire(&mut stage.crew).await?;
    for (at, worker) in workers.iter().enumerate() {
        let cheats = if at == CHEAT { ", the cheat" } else { "" };
        note(format!("  {} is peer {}{cheats}", name(at), short(&worker.id)));
    }
    let data = folder.join("submitter");
    let node = Node::start(Options {
        listen: Some(([127, 0, 0, 1], 0).into()),
        join: vec![workers[0].listen.to_string()],
        slots: Some(0),
        open: Some(false),
        ..Options::new(data.clone())
    })
    .await?;
    stage.submitter = Some(node);
    compute(context, module, &mut stage.crew, &workers, &data).await
}

/// Starts the workers; all but the first join the first.
async fn hire(crew: &mut Crew) -> Result<Vec<Greeting>, Failure> {
    let first = crew.hire(&name(0), None, &[])?.greeting().await?;
    let mut hired = Vec::new();
    for at in 1..WORKERS {
        let extra: &[&str] = if at == CHEAT { &["--cheat"] } else { &[] };
        hired.push(crew.hire(&name(at), Some(first.listen), extra)?);
    }
    let mut workers = vec![first];
    for worker in hired {
        workers.push(worker.greeting().await?);
    }
    Ok(workers)
}

async fn compute(
    context: &Context,
    module: Module,
    crew: &mut Crew,
    workers: &[Greeting],
    data: &Path,
) -> Result<Report, Failure> {
    let mut client = connect_own(&control_socket(data)).await?;
    gather(&mut client, crew).await?;
    let start = Instant::now();
    let (id, _) = draft(module).submit(context, data, &mut client).await?;
    context.printer.note(format!(
        "counting the primes below {}: job {}, each unit computed by {COPIES} peers that must agree",
        spaced(SIZE.below),
        short(&id.to_string())
    ));
    let info = watch(context, &mut client, crew, &id).await?;
    let seconds = start.elapsed().as_secs_f64();
    let counted = total(&mut client, &id, &info).await?;
    if counted != SIZE.primes {
        let (below, primes) = (spaced(SIZE.below), spaced(SIZE.primes));
        let message =
            format!("{counted} primes were counted below {below}, and there are {primes}");
        return Err(Failure::failed(message));
    }
    let cheat = workers[CHEAT].id.clone();
    let (witnesses, receipts) = convict(context, crew, &mut client, &cheat).await?;
    Ok(Report {
        below: SIZE.below,
        counted,
        units: info.units,
        copies: COPIES,
        seconds,
        units_per_second: f64::from(info.units) / seconds,
        cheat,
        witnesses,
        receipts,
    })
}

/// Waits until the submitter has heard of every worker.
async fn gather(client: &mut Client, crew: &mut Crew) -> Result<(), Failure> {
    let until = Instant::now() + GATHER_TIMEOUT;
    let mut tick = ticks();
    loop {
        tick.tick().await;
        let known = client.node().await?.workers;
        if known >= WORKERS {
            return Ok(());
        }
        all_at_work(crew)?;
        if Instant::now() > until {
            let seconds = GATHER_TIMEOUT.as_secs();
            let message =
                format!("only {known} of {WORKERS} workers were heard of within {seconds} s");
            return Err(Failure::failed(message));
        }
    }
}

fn draft(module: Module) -> Draft {
    let length = SIZE.below / u64::from(UNITS);
    let row =
        |at: u64| Row { args: vec![(at * length).to_string(), length.to_string()], stdin: vec![] };
    Draft {
        module,
        rows: (0..u64::from(UNITS)).map(row).collect(),
        limits: Limits::DEFAULT,
        quality: Quality::Standard,
        copies: COPIES,
        priority: Job::PRIORITY_USUAL,
        life_ms: 3_600_000,
        label: "primes".to_owned(),
    }
}

/// Follows the job until it is finished.
async fn watch(
    context: &Context,
    client: &mut Client,
    crew: &mut Crew,
    id: &JobId,
) -> Result<JobInfo, Failure> {
    let mut watch = client.watch(id).await?;
    let mut progress = Progress::default();
    let start = Instant::now();
    let mut tick = ticks();
    let mut last: Option<JobInfo> = None;
    loop {
        tokio::select! {
            info = watch.next() => {
                let ended = || Failure::failed("the submitter's node stopped by itself");
                last = Some(info?.ok_or_else(ended)?);
            }
            _ = tick.tick() => all_at_work(crew)?,
        }
        let Some(info) = &last else { continue };
        progress.show(&context.printer, info, start.elapsed());
        if info.finished {
            context.printer.wipe();
            return Ok(info.clone());
        }
        if start.elapsed() > JOB_TIMEOUT {
            let (seconds, missing) = (JOB_TIMEOUT.as_secs(), crate::progress::missing(info));
            return Err(Failure::failed(format!(
                "the job was not finished within {seconds} s: {missing}"
            )));
        }
    }
}

/// The sum of what the units printed.
async fn total(client: &mut Client, id: &JobId, info: &JobInfo) -> Result<u64, Failure> {
    let mut total = 0;
    let summary = collect(client, id, info, |entry, output| {
        let stdout = output.map(|output| &output.stdout[..]).unwrap_or_default();
        let text = str::from_utf8(stdout).unwrap_or_default();
        let number = text.trim().parse::<u64>();
        let unit = entry.unit;
        total +=
            number.map_err(|_| Failure::failed(format!("unit {unit} gave no number: {text:?}")))?;
        Ok(())
    })
    .await?;
    summary.verdict()?;
    Ok(total)
}

/// Asks every honest peer whom it proved a liar, until one has an answer. It must be the cheat, and
/// nobody else.
async fn convict(
    context: &Context,
    crew: &mut Crew,
    submitter: &mut Client,
    cheat: &str,
) -> Result<(usize, Vec<Receipt>), Failure> {
    let until = Instant::now() + CONVICT_TIMEOUT;
    let mut tick = ticks();
    loop {
        tick.tick().await;
        let mut found = vec![submitter.convictions().await?];
        for at in (0..WORKERS).filter(|at| *at != CHEAT) {
            let socket = control_socket(&crew.data(&name(at)));
            found.push(connect_own(&socket).await?.convictions().await?);
        }
        let (witnesses, mut caught) = sort(&found);
        match (caught.remove(cheat), caught.pop_first()) {
            (_, Some((innocent, _))) => {
                return Err(Failure::failed(format!(
                    "peer {innocent} was convicted and does not cheat"
                )));
            }
            (Some(receipts), None) => return Ok((witnesses, receipts)),
            (None, None) if Instant::now() > until => {
                let message = format!("peer {cheat} cheats, and nobody has found it out");
                return Err(Failure::failed(message));
            }
            (None, None) => context.printer.draw("waiting for proof against the cheat"),
        }
        all_at_work(crew)?;
    }
}

/// How many peers convicted anybody, and all wrong receipts by who signed them.
fn sort(found: &[Vec<ConvictionInfo>]) -> (usize, BTreeMap<String, Vec<Receipt>>) {
    let mut caught: BTreeMap<String, Vec<Receipt>> = BTreeMap::new();
    for conviction in found.iter().flatten() {
        let ConvictionInfo { peer, unit, said, found, .. } = conviction.clone();
        caught.entry(peer).or_default().push(Receipt { unit, said, found });
    }
    for receipts in caught.values_mut() {
        receipts.sort();
        receipts.dedup();
    }
    (found.iter().filter(|list| !list.is_empty()).count(), caught)
}

fn all_at_work(crew: &mut Crew) -> Result<(), Failure> {
    match crew.deserter() {
        None => Ok(()),
        Some(process) => Err(Failure::failed(format!("worker process {process} ended by itself"))),
    }
}

/// Removes the folder, which nobody writes to any more.
fn remove(folder: TempDir) -> Result<(), Failure> {
    let path = folder.path().display().to_string();
    folder.close().map_err(|error| {
        Failure::failed(format!(
            "cannot remove the temporary folder {path}: {error}; remove it by hand"
        ))
    })
}

impl Report {
    fn text(&self) -> String {
        let (counted, below) = (spaced(self.counted), spaced(self.below));
        let mut text = format!(
            "{counted} primes below {below}: as published ({})\n\
             {} in {:.1} s, {:.1} units/s, {} copies of each\n\
             peer {} cheated; {} it by re-execution. It signed:\n",
            SIZE.source,
            count(self.units, "unit"),
            self.seconds,
            self.units_per_second,
            self.copies,
            self.cheat,
            if self.witnesses == 1 {
                "1 peer proved".to_owned()
            } else {
                format!("{} peers proved", self.witnesses)
            },
        );
        for receipt in self.receipts.iter().take(RECEIPTS_SHOWN_MAX) {
            let Receipt { unit, said, found } = receipt;
            text += &format!("  unit {unit}: said {said}, found {found}\n");
        }
        if self.receipts.len() > RECEIPTS_SHOWN_MAX {
            text += &format!("  … and {} more\n", self.receipts.len() - RECEIPTS_SHOWN_MAX);
        }
        text + "nothing is left behind"
    }
}

fn name(at: usize) -> String {
    format!("worker-{}", at + 1)
}

fn short(id: &str) -> String {
    id.chars().take(8).collect()
}

/// A number with a space after every three digits.
fn spaced(number: u64) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    groups.collect::<Vec<_>>().join(" ")
}

/// How much to count.
struct Size {
    below: u64,
    /// π(below), as published.
    primes: u64,
    /// Where.
    source: &'static str,
}

/// The numbers of the demo in one place. Once through 10^10 takes one core about 7 s, so two copies
/// of each unit keep two cores busy for about 10 s: long enough to watch, short enough to wait for.
const SIZE: Size = Size { below: 10_000_000_000, primes: 455_052_511, source: "OEIS A006880" };
const UNITS: u32 = 1000;
const COPIES: u8 = 2;
const WORKERS: usize = 5;
/// The fourth worker cheats.
const CHEAT: usize = 3;
/// Counts the primes in `[START, START + LENGTH)`.
const PRIMES: &[u8] = include_bytes!("../../../../tasks/primes/primes.wasm");

/// Loopback connections take milliseconds; a debug build on a loaded machine, seconds.
const GATHER_TIMEOUT: Duration = Duration::from_secs(30);
/// Ten times what a slow machine was seen to need.
const JOB_TIMEOUT: Duration = Duration::from_secs(300);
/// A contradiction is re-executed at once; this is for a machine under load.
const CONVICT_TIMEOUT: Duration = Duration::from_secs(20);
/// A node stops in well under a second.
const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// Receipts that a person wants to read.
const RECEIPTS_SHOWN_MAX: usize = 5;

#[cfg(test)]
mod tests {
    use super::*;

    fn conviction(peer: &str, unit: u32) -> ConvictionInfo {
        ConvictionInfo {
            peer: peer.to_owned(),
            job: String::new(),
            unit,
            said: "a".to_owned(),
            found: "b".to_owned(),
            record: String::new(),
            receipts_held: 1,
        }
    }

    #[test]
    fn units_cover_the_range_without_a_gap() {
        let module = Module { bytes: vec![], size_bytes: 0 };
        let rows = draft(module).rows;
        let mut next = 0;
        for row in &rows {
            assert_eq!(row.args[0].parse::<u64>(), Ok(next));
            next += row.args[1].parse::<u64>().unwrap();
        }
        assert_eq!(next, SIZE.below);
        assert!(rows.len() >= 64);
    }

    #[test]
    fn the_same_receipt_seen_by_two_peers_is_shown_once() {
        let (liar, other) = (|unit| conviction("liar", unit), conviction("other", 9));
        let (witnesses, caught) = sort(&[vec![liar(5), liar(2)], vec![], vec![liar(5), other]]);
        assert_eq!(witnesses, 2);
        let units =
            |peer: &str| caught[peer].iter().map(|receipt| receipt.unit).collect::<Vec<_>>();
        assert_eq!((units("liar"), units("other")), (vec![2, 5], vec![9]));
    }

    #[test]
    fn long_numbers_are_grouped() {
        assert_eq!([7, 999, 1000, 5_761_455].map(spaced), ["7", "999", "1 000", "5 761 455"]);
    }
}
