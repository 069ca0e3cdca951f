//! The results of a job: fetched from the node, checked against what was accepted, written out.

use std::collections::BTreeMap;
use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use potluck_node::api::{JobInfo, ResultFrame, ResultState};
use potluck_unit::{BlobId, JobId, OutFile, Outcome, ResultHash};
use serde::Serialize;

use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::print::{Printer, count, table};

/// One unit as `summary.json` and `--json` show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Entry {
    pub(crate) unit: u32,
    /// `result`, `fault`, `unrunnable`, `pending` (not accepted yet) or `missing` (not fetched yet).
    pub(crate) state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) exit_code: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) fault: Option<&'static str>,
    /// Why no machine could run it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    /// How many bytes the unit wrote to standard output.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) output_bytes: Option<usize>,
    /// The files that the unit left in `/out`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) files: Vec<FileEntry>,
    /// R of the accepted outcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) result: Option<String>,
}

/// A file that a unit left, without its contents.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct FileEntry {
    /// Where, below `/out`.
    pub(crate) path: String,
    pub(crate) bytes: usize,
}

impl FileEntry {
    pub(crate) fn of(file: &OutFile) -> FileEntry {
        FileEntry { path: file.path.clone(), bytes: file.bytes.len() }
    }
}

/// What a unit with a result wrote.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Output {
    pub(crate) stdout: Vec<u8>,
    pub(crate) files: Vec<OutFile>,
}

/// What the units of a job came to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Summary {
    pub(crate) job: String,
    pub(crate) label: String,
    /// How many units there are.
    pub(crate) total: u32,
    /// Units that ended with a result, whatever their exit code.
    pub(crate) results: u32,
    /// How often each exit code came.
    pub(crate) exit_codes: BTreeMap<u32, u32>,
    /// How often each fault came.
    pub(crate) faults: BTreeMap<&'static str, u32>,
    /// Units that no machine could run, by the reason.
    pub(crate) unrunnable: BTreeMap<String, u32>,
    /// Units not accepted or not fetched yet.
    pub(crate) missing: u32,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) units: Vec<Entry>,
}

impl Summary {
    fn of(job: &JobInfo) -> Summary {
        Summary {
            job: job.id.clone(),
            label: job.label.clone(),
            total: job.units,
            ..Summary::default()
        }
    }

    fn count(&mut self, entry: &Entry) {
        match (entry.exit_code, entry.fault) {
            (Some(code), _) => {
                self.results += 1;
                *self.exit_codes.entry(code).or_default() += 1;
            }
            (None, Some(fault)) => *self.faults.entry(fault).or_default() += 1,
            (None, None) if entry.state == UNRUNNABLE => {
                *self.unrunnable.entry(entry.reason.clone().unwrap_or_default()).or_default() += 1;
            }
            (None, None) => self.missing += 1,
        }
    }

    /// In one sentence, for a person.
    pub(crate) fn text(&self) -> String {
        let mut text = format!("{} of {} have a result", self.results, count(self.total, "unit"));
        let odd: Vec<String> = (self.exit_codes.iter().filter(|(code, _)| **code != 0))
            .map(|(code, times)| format!("{times} with exit code {code}"))
            .collect();
        if !odd.is_empty() {
            text += &format!(" ({})", odd.join(", "));
        }
        for (fault, times) in &self.faults {
            text += &format!(", {} by a fault: {fault}", ended(*times));
        }
        for (reason, times) in &self.unrunnable {
            text += &format!(", {times} could not be run by any machine: {reason}");
        }
        if self.missing > 0 {
            text += &format!(", {} missing", self.missing);
        }
        text
    }

    /// Done, or why not.
    pub(crate) fn verdict(&self) -> Result<Exit, Failure> {
        if self.results == self.total {
            return Ok(Exit::Done);
        }
        let (text, id) = (self.text(), &self.job);
        let next = if self.missing > 0 {
            format!("wait for the rest with `potluck job wait {id}`")
        } else {
            format!("see what the workers said with `potluck job units {id}`")
        };
        Err(Failure::new(Exit::Incomplete, format!("{text}; {next}")))
    }
}

fn ended(times: u32) -> String {
    if times == 1 { "1 ended".to_owned() } else { format!("{times} ended") }
}

/// Where results go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Sink {
    /// `INDEX.out` for each unit's standard output, `INDEX/` for its files if it left any, and
    /// `summary.json`.
    Folder(PathBuf),
    /// All standard outputs in unit order, to ours.
    Stdout,
    /// A table for a person, a line of JSON a unit for a program.
    Table,
}

/// Where results go, as flags.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct SinkArgs {
    /// Write each unit's standard output to DIR/INDEX.out, its files to the folder DIR/INDEX, and
    /// everything else to DIR/summary.json
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Write all units' standard outputs to standard output, in unit order
    #[arg(long, conflicts_with = "out")]
    pub(crate) stdout: bool,
}

impl SinkArgs {
    /// What was asked for, or `otherwise`.
    pub(crate) fn sink(&self, otherwise: Sink) -> Sink {
        match (&self.out, self.stdout) {
            (Some(folder), _) => Sink::Folder(folder.clone()),
            (None, true) => Sink::Stdout,
            (None, false) => otherwise,
        }
    }
}

impl Sink {
    /// Makes sure that results can be written, before a person waits for them in vain.
    pub(crate) fn prepare(&self, job: Option<&JobId>) -> Result<(), Failure> {
        let Sink::Folder(folder) = self else { return Ok(()) };
        let shown = folder.display();
        if folder.exists() && !folder.is_dir() {
            return Err(Failure::input(format!("{shown} is a file; give --out a folder")));
        }
        fs::create_dir_all(folder).map_err(|error| {
            Failure::input(format!(
                "cannot make the folder {shown}: {error}; give --out another one"
            ))
        })?;
        let other = job_in(&folder.join(SUMMARY));
        if let (Some(other), true) = (&other, other != job.map(JobId::to_string)) {
            let message = format!(
                "{shown} holds the results of job {other}; give --out another folder, or remove it"
            );
            return Err(Failure::input(message));
        }
        Ok(())
    }

    /// Writes every result that is there.
    pub(crate) async fn write(
        &self,
        client: &mut Client,
        printer: &Printer,
        id: &JobId,
        job: &JobInfo,
    ) -> Result<Summary, Failure> {
        self.prepare(Some(id))?;
        let mut units = Vec::new();
        let mut summary = collect(client, id, job, |entry, output| {
            match (self, output) {
                (Sink::Folder(folder), Some(output)) => {
                    write_file(&folder.join(format!("{}.out", entry.unit)), &output.stdout)?;
                    write_files(&folder.join(entry.unit.to_string()), &output.files)?;
                }
                (Sink::Stdout, Some(output)) => printer.bytes(&output.stdout)?,
                (Sink::Table, _) | (_, None) => {}
            }
            if *self != Sink::Stdout {
                units.push(entry);
            }
            Ok(())
        })
        .await?;
        match self {
            Sink::Stdout => {}
            Sink::Table => show_table(printer, &units)?,
            Sink::Folder(folder) => {
                summary.units = units;
                let mut json = serde_json::to_vec_pretty(&summary)
                    .map_err(|error| Failure::failed(format!("cannot write {SUMMARY}: {error}")))?;
                json.push(b'\n');
                write_file(&folder.join(SUMMARY), &json)?;
                summary.units.clear();
                printer.answer(&summary, || format!("results are in {}", folder.display()))?;
            }
        }
        Ok(summary)
    }
}

/// Fetches every unit of a job in order, checks it, and hands it over with what it wrote if it has a
/// result.
pub(crate) async fn collect(
    client: &mut Client,
    id: &JobId,
    job: &JobInfo,
    mut each: impl FnMut(Entry, Option<&Output>) -> Result<(), Failure>,
) -> Result<Summary, Failure> {
    let mut summary = Summary::of(job);
    let mut next = 0;
    while next < job.units {
        let mut frames = client.results(id, next, AT_ONCE).await?;
        let before = next;
        while let Some(frame) = frames.next().await? {
            if frame.index != next {
                let got = frame.index;
                return Err(Failure::failed(format!(
                    "the node gave unit {got} where unit {next} was due"
                )));
            }
            let (entry, output) = open(&frame)?;
            summary.count(&entry);
            each(entry, output.as_ref())?;
            next += 1;
        }
        if next == before {
            return Err(Failure::failed(format!(
                "the node gives nothing for unit {next}; ask again"
            )));
        }
    }
    Ok(summary)
}

/// Checks a unit's bytes against the accepted result and reads them.
fn open(frame: &ResultFrame) -> Result<(Entry, Option<Output>), Failure> {
    let unit = frame.index;
    let entry = |state| Entry {
        unit,
        state,
        exit_code: None,
        fault: None,
        reason: None,
        output_bytes: None,
        files: Vec::new(),
        result: (frame.result != ResultHash([0; 16])).then(|| frame.result.to_string()),
    };
    match frame.state {
        ResultState::Pending => return Ok((entry("pending"), None)),
        ResultState::Unrunnable => {
            let reason = Some(String::from_utf8_lossy(&frame.body).into_owned());
            return Ok((Entry { reason, ..entry(UNRUNNABLE) }, None));
        }
        ResultState::Missing => return Ok((entry("missing"), None)),
        ResultState::Body => {}
    }
    let found = BlobId::of(&frame.body).result_hash();
    if found != frame.result {
        let accepted = frame.result;
        return Err(Failure::failed(format!(
            "the bytes of unit {unit} have the hash {found}, and {accepted} was accepted; the data folder is damaged"
        )));
    }
    match Outcome::of_body(&frame.body) {
        Err(error) => Err(Failure::failed(format!("unit {unit} was accepted, but {error}"))),
        Ok(Outcome::Fault(fault)) => {
            Ok((Entry { fault: Some(fault.as_str()), ..entry("fault") }, None))
        }
        Ok(Outcome::Result { exit_code, stdout, files }) => {
            let (exit_code, output_bytes) = (Some(exit_code), Some(stdout.len()));
            let named = files.iter().map(FileEntry::of).collect();
            let entry = Entry { exit_code, output_bytes, files: named, ..entry("result") };
            Ok((entry, Some(Output { stdout, files })))
        }
    }
}

/// Writes the files that a unit left below `folder`. Their paths were checked when they were read:
/// none leads out of it.
pub(crate) fn write_files(folder: &Path, files: &[OutFile]) -> Result<(), Failure> {
    for OutFile { path, bytes } in files {
        let path = folder.join(path);
        let parent = path.parent().unwrap_or(folder);
        fs::create_dir_all(parent).map_err(|error| {
            let shown = parent.display();
            Failure::failed(format!(
                "cannot make the folder {shown}: {error}; make room or give --out another folder"
            ))
        })?;
        write_file(&path, bytes)?;
    }
    Ok(())
}

/// Writes a file whole or not at all.
fn write_file(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let folder = path.parent().unwrap_or(Path::new("."));
    // A temporary file would be its owner's alone; results are like any file of theirs.
    let write = || {
        let mut file = tempfile::Builder::new()
            .prefix(".potluck-")
            .permissions(Permissions::from_mode(0o666))
            .tempfile_in(folder)?;
        file.write_all(bytes)?;
        file.persist(path)?;
        std::io::Result::Ok(())
    };
    write().map_err(|error| {
        Failure::failed(format!(
            "cannot write {}: {error}; make room or give --out another folder",
            path.display()
        ))
    })
}

/// The job that a folder's summary is of, if there is one.
fn job_in(summary: &Path) -> Option<String> {
    let text = fs::read(summary).ok()?;
    let value: serde_json::Value = serde_json::from_slice(&text).ok()?;
    value.get("job")?.as_str().map(str::to_owned)
}

fn show_table(printer: &Printer, units: &[Entry]) -> Result<(), Failure> {
    if printer.is_json() {
        return units.iter().try_for_each(|entry| printer.answer(entry, String::new));
    }
    let heading = ["unit", "state", "exit", "bytes", "files", "result"].map(str::to_owned).to_vec();
    let number =
        |value: Option<u64>| value.map_or_else(|| "-".to_owned(), |value| value.to_string());
    let rows = units.iter().take(TABLE_ROWS_MAX).map(|entry| {
        vec![
            entry.unit.to_string(),
            entry.fault.unwrap_or(entry.state).to_owned(),
            number(entry.exit_code.map(u64::from)),
            number(entry.output_bytes.map(|bytes| bytes as u64)),
            entry.files.len().to_string(),
            entry.result.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    });
    let mut text = table(&std::iter::once(heading).chain(rows).collect::<Vec<_>>());
    if units.len() > TABLE_ROWS_MAX {
        let more = units.len() - TABLE_ROWS_MAX;
        text += &format!("… and {more} more; get all with --out DIR, --stdout or --json\n");
    }
    printer.bytes(text.as_bytes())
}

const UNRUNNABLE: &str = "unrunnable";
const SUMMARY: &str = "summary.json";
/// Rows that fit a screen.
const TABLE_ROWS_MAX: usize = 20;
/// Units asked for at once: enough to make the round trip cheap. The node bounds the bytes.
const AT_ONCE: u32 = 1000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::tests::job;
    use potluck_unit::Fault;

    fn frame(outcome: &Outcome) -> ResultFrame {
        let (body, result) = (outcome.to_body(), outcome.result_hash());
        ResultFrame { index: 3, state: ResultState::Body, result, body }
    }

    fn result(exit_code: u32) -> Outcome {
        Outcome::Result { exit_code, stdout: b"168\n".to_vec(), files: vec![] }
    }

    fn summary_of(frames: &[ResultFrame]) -> Summary {
        let units = u32::try_from(frames.len()).unwrap();
        let mut summary = Summary::of(&JobInfo { units, ..job("1", 1) });
        frames.iter().for_each(|frame| summary.count(&open(frame).unwrap().0));
        summary
    }

    #[test]
    fn bytes_that_were_not_accepted_are_refused() {
        let mut wrong = frame(&result(0));
        wrong.body[6] ^= 1;
        assert!(open(&wrong).unwrap_err().message.contains("unit 3"));
        let (body, result) = (vec![9, 9], BlobId::of(&[9, 9]).result_hash());
        assert!(open(&ResultFrame { body, result, ..wrong }).is_err());
    }

    #[test]
    fn an_exit_code_is_an_answer_and_a_fault_is_none() {
        let odd = summary_of(&[frame(&result(0)), frame(&result(7))]);
        assert_eq!(odd.verdict(), Ok(Exit::Done));
        assert_eq!(odd.text(), "2 of 2 units have a result (1 with exit code 7)");
        let fault = summary_of(&[frame(&result(0)), frame(&Outcome::Fault(Fault::Unreachable))]);
        assert_eq!(fault.verdict().unwrap_err().exit, Exit::Incomplete);
        assert_eq!(
            fault.text(),
            "1 of 2 units have a result, 1 ended by a fault: unreachable executed"
        );
    }

    #[test]
    fn what_is_not_there_is_counted() {
        let empty =
            |state| ResultFrame { index: 0, state, result: ResultHash([0; 16]), body: vec![] };
        let summary = summary_of(&[
            empty(ResultState::Pending),
            empty(ResultState::Missing),
            empty(ResultState::Unrunnable),
        ]);
        assert_eq!(
            (summary.missing, summary.unrunnable.values().sum::<u32>(), summary.results),
            (2, 1, 0)
        );
        assert_eq!(summary.verdict().unwrap_err().exit, Exit::Incomplete);
    }

    #[test]
    fn results_never_go_over_a_file_or_another_jobs_results() {
        let folder = tempfile::tempdir().unwrap();
        let (mine, other) = (JobId([1; 32]), JobId([2; 32]));
        let sink = Sink::Folder(folder.path().join("new/out"));
        assert_eq!(sink.prepare(None), Ok(()));
        let summary = folder.path().join("new/out").join(SUMMARY);
        write_file(&summary, format!("{{\"job\":\"{mine}\"}}").as_bytes()).unwrap();
        assert_eq!(sink.prepare(Some(&mine)), Ok(()));
        assert_eq!(sink.prepare(Some(&other)).unwrap_err().exit, Exit::Input);
        assert_eq!(sink.prepare(None).unwrap_err().exit, Exit::Input);
        assert!(Sink::Folder(summary).prepare(None).unwrap_err().message.contains("is a file"));
    }

    #[test]
    fn files_go_into_a_folder_of_their_unit() {
        let folder = tempfile::tempdir().unwrap();
        let file = |path: &str| OutFile { path: path.to_owned(), bytes: path.as_bytes().to_vec() };
        let outcome =
            Outcome::Result { exit_code: 0, stdout: vec![], files: vec![file("a"), file("b/c/d")] };
        let (entry, output) = open(&frame(&outcome)).unwrap();
        let json = serde_json::to_string(&entry.files).unwrap();
        assert_eq!(json, r#"[{"path":"a","bytes":1},{"path":"b/c/d","bytes":5}]"#);
        for _ in 0..2 {
            write_files(&folder.path().join("3"), &output.clone().unwrap().files).unwrap();
            assert_eq!(fs::read(folder.path().join("3/a")).unwrap(), b"a");
            assert_eq!(fs::read(folder.path().join("3/b/c/d")).unwrap(), b"b/c/d");
        }
    }

    #[test]
    fn a_file_is_replaced_whole_and_nothing_else_is_left() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.out");
        write_file(&path, b"first").unwrap();
        write_file(&path, b"second").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"second");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
