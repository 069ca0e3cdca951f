//! `potluck given`: what this node has given, with the proof that others can check.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use potluck_node::{Given, GivenBy, GivenCheck, GivenInfo, GivenPart, check_given};
use serde_json::json;
use tempfile::NamedTempFile;

use crate::Context;
use crate::exit::{Exit, Failure};
use crate::print::{count, table};
use crate::quantity::show_duration;
use crate::session::running;

/// What can be said.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show a line for each day, or for each submitter
    #[arg(long, value_name = "WHAT", conflicts_with_all = ["export", "check"])]
    by: Option<By>,
    /// Write it to FILE as JSON, with the signed receipts that show it
    #[arg(long, value_name = "FILE", conflicts_with = "check")]
    export: Option<PathBuf>,
    /// Add such a FILE up again, needing no node: signatures, verdicts and sums
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
}

/// What lines are for.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum By {
    Day,
    Submitter,
}

/// Asks the running node, or checks a file without one.
pub(crate) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    match (args.export, args.check) {
        (Some(target), _) => export(context, &target).await,
        (None, Some(file)) => check(context, file).await,
        (None, None) => show(context, args.by).await,
    }
}

async fn show(context: &Context, by: Option<By>) -> Result<Exit, Failure> {
    let by = by.map(|by| match by {
        By::Day => GivenBy::Day,
        By::Submitter => GivenBy::Submitter,
    });
    let info = running(context).await?.given(by).await?;
    context.printer.answer(&info, || text(&info))?;
    Ok(Exit::Done)
}

/// The file has its name only once it is whole.
async fn export(context: &Context, target: &Path) -> Result<Exit, Failure> {
    let shown = target.display();
    let unwritten = |error: io::Error| {
        Failure::failed(format!("cannot write {shown}: {error}; make room or choose another place"))
    };
    let client = running(context).await?;
    let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
    let mut file = NamedTempFile::new_in(folder.unwrap_or(Path::new("."))).map_err(unwritten)?;
    let mut pieces = client.given_export().await?;
    while let Some(piece) = pieces.next().await? {
        file.write_all(&piece).map_err(unwritten)?;
    }
    file.as_file().sync_all().map_err(unwritten)?;
    file.persist(target).map_err(|error| unwritten(error.error))?;
    let bytes = pieces.bytes;
    context.printer.answer(&json!({ "file": target, "bytes": bytes }), || {
        let how = "anybody can add it up again with `potluck given --check FILE`";
        format!("what was given is in {shown}, {bytes} bytes; {how}")
    })?;
    Ok(Exit::Done)
}

async fn check(context: &Context, file: PathBuf) -> Result<Exit, Failure> {
    let bits = context.work_bits;
    let work = tokio::task::spawn_blocking(move || check_given(&file, bits)).await;
    let work = work.map_err(|error| Failure::failed(format!("the check was lost: {error}")))?;
    let found = work.map_err(Failure::input)?;
    context.printer.answer(&found, || told(&found))?;
    match &found.faults[..] {
        [] => Ok(Exit::Done),
        [first, ..] => {
            let message = format!("this record of giving does not add up: {first}");
            Err(Failure::new(Exit::Contradicted, message))
        }
    }
}

fn text(info: &GivenInfo) -> String {
    let mut lines = vec![
        format!("donor  {}", info.donor),
        format!("today  {}", sum(info.today)),
        format!("ever   {}", sum(info.ever)),
    ];
    if let [first, ..] = &info.parts[..] {
        let heading = if first.day.is_some() { "day" } else { "submitter" };
        let heading = [heading, "units", "time"].map(str::to_owned).to_vec();
        let rows = std::iter::once(heading).chain(info.parts.iter().map(row));
        lines.push(table(&rows.collect::<Vec<_>>()));
    }
    lines.join("\n")
}

fn row(part: &GivenPart) -> Vec<String> {
    let name = part.day.as_ref().or(part.submitter.as_ref()).cloned().unwrap_or_default();
    vec![name, part.given.units.to_string(), time(part.given)]
}

fn told(found: &GivenCheck) -> String {
    let jobs = count(found.jobs as u64, "job");
    let mut lines = vec![
        format!("donor    {}", found.donor),
        format!("ever     {}, as the donor says", sum(found.ever)),
        format!("claimed  {} on {jobs} with records in the file", sum(found.claimed)),
        format!("shown    {} by these records", sum(found.shown)),
    ];
    lines.extend(found.faults.iter().map(|fault| format!("wrong    {fault}")));
    lines.join("\n")
}

fn sum(given: Given) -> String {
    let noun = if given.units == 1 { "unit" } else { "units" };
    format!("{} {noun} found right, {}", given.units, time(given))
}

/// Time that was taken back stands with its sign.
fn time(given: Given) -> String {
    let sign = if given.spent_ms < 0 { "-" } else { "" };
    format!("{sign}{}", show_duration(Duration::from_millis(given.spent_ms.unsigned_abs())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_come_first_and_a_line_for_each_part_after() {
        let given = |units| Given { units, spent_ms: units * 1000 };
        let part = |day: &str, units| GivenPart {
            day: Some(day.to_owned()),
            submitter: None,
            given: given(units),
        };
        let parts = vec![part("2027-01-14", 5), part("2027-01-15", -1)];
        let info = GivenInfo { donor: "ab".to_owned(), today: given(-1), ever: given(4), parts };
        let shown = text(&info);
        assert!(shown.starts_with("donor  ab\ntoday  -1 units found right, -1"), "{shown}");
        assert!(shown.contains("day         units  time\n2027-01-14  5      5"), "{shown}");
        let none = GivenInfo { parts: vec![], ..info };
        assert_eq!(text(&none).lines().count(), 3);
    }

    #[test]
    fn a_check_says_what_is_claimed_and_what_is_shown() {
        let given = |units| Given { units, spent_ms: 0 };
        let found = GivenCheck {
            donor: "ab".to_owned(),
            ever: given(9),
            jobs: 2,
            claimed: given(7),
            shown: given(1),
            faults: vec!["job cd: no".to_owned()],
        };
        let shown = told(&found);
        assert!(shown.contains("shown    1 unit found right"), "{shown}");
        assert!(shown.ends_with("wrong    job cd: no"), "{shown}");
    }
}
