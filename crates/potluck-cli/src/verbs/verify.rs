//! `potluck verify`: checks what is known of a job, without believing the node that tells it.
//!
//! A running node, or one started for this, gives its evidence; from there on everything happens in
//! this process and its sandboxes, as with a file from anybody else.

use std::collections::BTreeSet;
use std::hash::BuildHasher as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use potluck_node::{Evidence, EvidenceError, Progress, Proof, Report, Wrongdoing};
use tempfile::NamedTempFile;
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::Context;
use crate::exit::{Exit, Failure};
use crate::interrupt::interrupted;
use crate::print::count;
use crate::progress::follow;
use crate::rows::parse_numbers;
use crate::session::{JobArgs, JobName, Session, SessionArgs};

/// What can be said.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The job's id, 6 or more of its first digits, or `last` for the newest job of your own
    #[arg(value_name = "ID", value_parser = JobName::parse)]
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    id: Option<JobName>,
    /// Check this evidence instead, without a node
    #[arg(long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Write the evidence to FILE, for others to check
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    export: Option<PathBuf>,
    /// Run these units again besides those that somebody contradicts: `all`, `random:20`, or numbers
    /// like 0-99 and 1,5,7
    #[arg(long, value_name = "UNITS", value_parser = Sample::parse)]
    units: Option<Sample>,
    /// How long to wait for peers to tell of a job that is not known here [default: 10s when no node
    /// runs in the data folder, 0s when one does]
    #[arg(long, value_name = "TIME", value_parser = crate::quantity::parse_duration)]
    find_timeout: Option<Duration>,
    #[command(flatten)]
    session: SessionArgs,
}

/// Gets the evidence, checks it, and says what it proves.
pub(crate) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    let sample = args.units.unwrap_or(Sample::List(Vec::new()));
    let (report, told) = match (args.file, args.id) {
        (Some(file), _) => (check(context, file, sample).await?, String::new()),
        (None, None) => return Err(Failure::input("no job is named; see --help")),
        (None, Some(id)) => {
            let job =
                JobArgs { id, find_timeout: args.find_timeout, session: args.session.clone() };
            let target = args.export.as_deref();
            let (file, told) = fetch(context, &job, target).await?;
            let report = check(context, file.path().to_owned(), sample).await?;
            let told = match target {
                Some(target) => keep(file, target).map(|shown| format!("\n{told}{shown}"))?,
                None => String::new(),
            };
            (report, told)
        }
    };
    context.printer.answer(&report, || text(&report) + &told)?;
    verdict(&report)
}

/// Has a node write its evidence, next to where it is to be kept.
async fn fetch(
    context: &Context,
    job: &JobArgs,
    target: Option<&Path>,
) -> Result<(NamedTempFile, String), Failure> {
    let made = match target {
        None => NamedTempFile::new(),
        Some(target) => {
            let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
            NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))
        }
    };
    let mut file = made.map_err(|error| {
        let place = target.map_or_else(|| "a temporary file".to_owned(), shown);
        Failure::input(format!("cannot write evidence to {place}: {error}; choose another place"))
    })?;
    let told = Session::with(context, &job.session, async |session| {
        let (id, info) = session.find(job).await?;
        // A node that has just started may need a moment to hear what others know.
        if !info.finished && session.is_transient() {
            let until = Instant::now() + job.find_timeout.unwrap_or(HEAR_TIMEOUT);
            follow(context, session, &id, Some(until)).await?;
        }
        let mut pieces = session.client.evidence(&id).await?;
        while let Some(piece) = pieces.next().await? {
            file.write_all(&piece).map_err(unwritten)?;
        }
        Ok(format!("evidence of {} bytes is in ", pieces.bytes))
    })
    .await?;
    Ok((file, told))
}

fn unwritten(error: io::Error) -> Failure {
    Failure::failed(format!("cannot write evidence: {error}; make room or choose another place"))
}

/// Gives the file its name, which it has only once it is whole.
fn keep(file: NamedTempFile, target: &Path) -> Result<String, Failure> {
    file.as_file().sync_all().map_err(unwritten)?;
    file.persist(target).map_err(|error| unwritten(error.error))?;
    Ok(shown(target))
}

fn shown(path: &Path) -> String {
    path.display().to_string()
}

/// Checks a file in threads of its own, so that progress can be shown and Ctrl-C heard.
async fn check(context: &Context, file: PathBuf, sample: Sample) -> Result<Report, Failure> {
    let (sender, mut heard) = mpsc::channel::<Progress>(PROGRESS_MAX);
    let (data, bits) = (context.data.clone(), context.work_bits);
    let work = tokio::task::spawn_blocking(move || {
        let mut evidence = Evidence::open(&file).map_err(unusable)?;
        let also = sample.units(evidence.job().units)?;
        let tell = |progress| {
            // What nobody looks at in time is not worth waiting for.
            let _ = sender.try_send(progress);
        };
        evidence.check(&data, &also, bits, tell).map_err(Failure::failed)
    });
    let listen = async {
        while let Some(Progress { unit, number, of }) = heard.recv().await {
            context.printer.draw(&format!("running unit {unit} again, {number} of {of}"));
        }
        work.await.map_err(|error| Failure::failed(format!("the check was lost: {error}")))?
    };
    // A sandbox dies with this process, whatever ends it.
    let report = tokio::select! {
        report = listen => report,
        _ = interrupted() => Err(Failure::new(Exit::Interrupted, "interrupted; nothing is decided")),
    };
    context.printer.wipe();
    report
}

fn unusable(error: EvidenceError) -> Failure {
    let exit = match error {
        EvidenceError::Unusable(_) => Exit::Input,
        EvidenceError::Forged(_) => Exit::Contradicted,
    };
    Failure::new(exit, error)
}

fn verdict(report: &Report) -> Result<Exit, Failure> {
    let id = &report.job;
    if let [first, ..] = &report.contradictions[..] {
        let (units, unit) =
            (count(report.contradictions.len() as u64, "accepted result"), first.unit);
        let message = format!("{units} of job {id} not so, the first that of unit {unit}");
        return Err(Failure::new(Exit::Contradicted, message));
    }
    if let [first, ..] = &report.undecided[..] {
        let (units, unit) = (count(report.undecided.len() as u64, "unit"), first.unit);
        let message = format!(
            "{units} of job {id} could not be decided; unit {unit} came to nothing here: {}",
            first.why
        );
        return Err(Failure::new(Exit::Incomplete, message));
    }
    Ok(Exit::Done)
}

fn text(report: &Report) -> String {
    let Report { job, label, units, copies, .. } = report;
    let mut lines = vec![
        format!("job        {job}"),
        format!("label      {label}"),
        format!("submitter  {}, whose signature is good", report.submitter),
        format!(
            "receipts   {} in {} by {}: every signature and Merkle root is good",
            report.receipts,
            count(report.records as u64, "record"),
            count(report.signers as u64, "peer")
        ),
        format!("grid       {}", if report.open { OPEN } else { PRIVATE }),
        format!(
            "accepted   {} of {units} by these receipts, {copies} of which must agree{}",
            report.accepted,
            report
                .claimed
                .map_or_else(String::new, |claimed| format!("; {claimed} are said to be"))
        ),
        format!("ran again  {}", count(report.ran as u64, "unit")),
    ];
    shorten(&mut lines, &report.proofs, proof);
    shorten(&mut lines, &report.unproven, |unproven| {
        let (peer, records) = (short(&unproven.peer), count(unproven.records as u64, "record"));
        format!("left out   {records} of peer {peer}, whose key proves no work")
    });
    shorten(&mut lines, &report.false_seats, |seat| {
        let peer = short(&seat.peer);
        format!("cheating   peer {peer} never drew the seat on chunk {} that it signed", seat.chunk)
    });
    shorten(&mut lines, &report.contradictions, |unit| {
        let (accepted, found) = (&unit.accepted, &unit.found);
        format!(
            "wrong      unit {}: accepted is R={accepted}; running it gives R={found}",
            unit.unit
        )
    });
    shorten(&mut lines, &report.undecided, |unit| {
        format!("undecided  unit {}: {}", unit.unit, unit.why)
    });
    if report.contradictions.is_empty() && report.undecided.is_empty() {
        lines.push("verdict    every accepted result stands".to_owned());
    }
    lines.join("\n")
}

fn proof(proof: &Proof) -> String {
    let Proof { unit, said, found, .. } = proof;
    let peer = short(&proof.peer);
    match proof.wrongdoing {
        Wrongdoing::WrongResult => format!(
            "cheating   peer {peer} signed R={said} for unit {unit}; running it gives R={found}: \
             proof of cheating"
        ),
        Wrongdoing::NotRun => format!(
            "cheating   peer {peer} signed the right R={said} for unit {unit} with a digest that nobody \
             who ran it would give: proof of cheating"
        ),
    }
}

/// A line for each, as many as a person wants to read.
fn shorten<T>(lines: &mut Vec<String>, list: &[T], line: impl Fn(&T) -> String) {
    lines.extend(list.iter().take(LINES_MAX).map(line));
    if let Some(more) = list.len().checked_sub(LINES_MAX).filter(|more| *more > 0) {
        lines.push(format!("           … and {more} more; --json has all"));
    }
}

fn short(id: &str) -> String {
    id.chars().take(8).collect()
}

/// Which units to run again although nobody contradicts.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Sample {
    All,
    Random(u32),
    List(Vec<u64>),
}

impl Sample {
    fn parse(text: &str) -> Result<Sample, String> {
        if text == "all" {
            return Ok(Sample::All);
        }
        match text.strip_prefix("random:").map(str::parse) {
            Some(Ok(number)) => Ok(Sample::Random(number)),
            Some(Err(_)) => Err(format!("`{text}` has no number of units; write random:20")),
            None => parse_numbers(text, "--units").map(Sample::List),
        }
    }

    fn units(self, units: u32) -> Result<BTreeSet<u32>, Failure> {
        match self {
            Sample::All => Ok((0..units).collect()),
            Sample::Random(number) => {
                // Nobody who made the evidence can have known: hashers are seeded by the system.
                let random = std::hash::RandomState::new();
                let mut all: Vec<u32> = (0..units).collect();
                all.sort_by_cached_key(|unit| random.hash_one(unit));
                Ok(all.into_iter().take(number as usize).collect())
            }
            Sample::List(list) => {
                let within = |unit: u64| {
                    u32::try_from(unit).ok().filter(|unit| *unit < units).ok_or_else(|| {
                        let last = units - 1;
                        Failure::input(format!(
                            "--units names unit {unit}, and the job has units 0 to {last}"
                        ))
                    })
                };
                list.into_iter().map(within).collect()
            }
        }
    }
}

const OPEN: &str = "open: every signer's key had to prove work";
const PRIVATE: &str =
    "private: keys cost nothing, so that one person may have signed as many peers";
/// As long as a connection and a comparison of what both know may take.
const HEAR_TIMEOUT: Duration = Duration::from_secs(10);
/// What is not shown yet.
const PROGRESS_MAX: usize = 16;
/// Lines of one kind.
const LINES_MAX: usize = 20;

#[cfg(test)]
mod tests {
    use super::*;
    use potluck_node::{Contradiction, Undecided};

    fn report() -> Report {
        Report {
            job: "ab".repeat(32),
            label: "primes".to_owned(),
            submitter: "cd".repeat(32),
            units: 10,
            copies: 2,
            records: 3,
            receipts: 21,
            signers: 3,
            claimed: Some(10),
            accepted: 10,
            ran: 1,
            proofs: vec![],
            open: false,
            unproven: vec![],
            false_seats: vec![],
            contradictions: vec![],
            undecided: vec![],
        }
    }

    fn lie(unit: u32) -> Proof {
        Proof {
            unit,
            peer: "ab12cd34".repeat(8),
            said: "aa".repeat(16),
            found: "bb".repeat(16),
            wrongdoing: Wrongdoing::WrongResult,
            record: String::new(),
        }
    }

    #[test]
    fn a_lie_that_was_not_believed_is_named_and_changes_no_result() {
        let report = Report { proofs: vec![lie(7)], ..report() };
        let (said, found) = ("aa".repeat(16), "bb".repeat(16));
        let line = format!(
            "peer ab12cd34 signed R={said} for unit 7; running it gives R={found}: proof of cheating"
        );
        assert!(text(&report).contains(&line), "{}", text(&report));
        assert!(text(&report).ends_with("every accepted result stands"));
        assert_eq!(verdict(&report), Ok(Exit::Done));
    }

    #[test]
    fn wrong_results_and_undecided_units_have_exit_codes_of_their_own() {
        let contradiction =
            Contradiction { unit: 3, accepted: "aa".to_owned(), found: "bb".to_owned() };
        let wrong = Report { contradictions: vec![contradiction], ..report() };
        assert_eq!(verdict(&wrong).unwrap_err().exit, Exit::Contradicted);
        assert!(!text(&wrong).contains("stands"));
        let undecided = Undecided { unit: 4, why: "deadline".to_owned() };
        let open = Report { undecided: vec![undecided], ..report() };
        let failure = verdict(&open).unwrap_err();
        assert_eq!(failure.exit, Exit::Incomplete);
        assert!(failure.message.contains("unit 4 came to nothing here: deadline"));
    }

    #[test]
    fn many_proofs_are_cut_short_for_people() {
        let report = Report { proofs: (0..25).map(lie).collect(), ..report() };
        assert!(text(&report).contains("… and 5 more; --json has all"));
    }

    #[test]
    fn samples_name_units_that_there_are() {
        let units = |text: &str| Sample::parse(text).unwrap().units(10);
        assert_eq!(units("all").unwrap().len(), 10);
        assert_eq!(units("random:4").unwrap().len(), 4);
        assert_eq!(units("random:40").unwrap().len(), 10);
        assert_eq!(units("1,8-9").unwrap(), BTreeSet::from([1, 8, 9]));
        assert!(units("10").unwrap_err().message.contains("0 to 9"));
        for wrong in ["some", "random:", "random:x", ""] {
            assert!(Sample::parse(wrong).unwrap_err().contains("units"), "{wrong}");
        }
    }
}
