//! `potluck exec`: runs one unit here, in the sandbox that workers use, without a node.

use std::io::{IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use potluck_node::{FILES_MAX, FILES_MAX_BYTES, Local, Output, Run, STDIN_MAX_BYTES};
use potluck_unit::{Limits, Outcome, RunReport, Witness};
use serde::Serialize;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::Context;
use crate::exit::{Exit, Failure};
use crate::interrupt::interrupted;
use crate::limits::LimitArgs;
use crate::module::Module;
use crate::print::count;
use crate::results::{FileEntry, write_files};
use crate::rows::read;

/// What can be said.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The program: a WASI preview-1 command, as .wasm or .wat
    #[arg(value_name = "MODULE")]
    module: PathBuf,
    /// The program's arguments; after `--` if one starts with a dash
    #[arg(value_name = "ARGS")]
    args: Vec<String>,
    /// This file as standard input instead of our own
    #[arg(long, value_name = "FILE")]
    stdin_file: Option<PathBuf>,
    /// A read-only input file at the path NAME below /, with the contents of PATH; may be given
    /// several times
    #[arg(long, value_name = "NAME=PATH", value_parser = parse_file)]
    file: Vec<(String, PathBuf)>,
    /// All files below a folder as read-only input files, at their paths within it; may be given
    /// several times
    #[arg(long, value_name = "PATH")]
    dir: Vec<PathBuf>,
    /// Give the program its folder /out, and write what it leaves there to DIR
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    #[command(flatten)]
    limits: LimitArgs,
    /// Print the hash that a grid would vote on, and nothing else
    #[arg(long)]
    digest: bool,
    /// Run it so many times, and say whether all runs agree
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    repeat: Option<u32>,
    /// Which random bytes the program gets: those of unit N of a job whose id is all zeros
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u32,
}

/// Runs it and ends as it ends.
pub(crate) async fn run(args: Args, context: &Context) -> Result<ExitCode, Failure> {
    let work = args.work(context)?;
    let (said, heard) = mpsc::channel(SAID_MAX);
    let said = args.is_aloud(context).then_some(said);
    // A child dies with this process, whatever ends it.
    let (first, other) = tokio::select! {
        done = listen(tokio::task::spawn_blocking(move || work.run(said)), heard, context) => done?,
        _ = interrupted() => return Err(Failure::new(Exit::Interrupted, "interrupted")),
    };
    context.printer.aside(&first.stderr);
    match other {
        Some((number, other)) => Err(contradiction(number, &first, &other)),
        None if args.repeat.is_some() => args.say_agreement(context, &first),
        None if args.digest => args.say_digest(context, &first),
        None => args.say(context, first),
    }
}

/// Prints what the program says until it has ended.
async fn listen(
    done: JoinHandle<Result<Ended, Failure>>,
    mut heard: mpsc::Receiver<Vec<u8>>,
    context: &Context,
) -> Result<Ended, Failure> {
    while let Some(bytes) = heard.recv().await {
        context.printer.bytes(&bytes)?;
    }
    done.await.map_err(|error| Failure::failed(format!("the run was lost: {error}")))?
}

/// The first run, and the first that differs from it with its number.
type Ended = (Run, Option<(u32, Run)>);

/// All that a thread needs to run it.
struct Work {
    data: PathBuf,
    module: Module,
    limits: Limits,
    files: Vec<(String, Vec<u8>)>,
    args: Vec<String>,
    stdin: Vec<u8>,
    seed: u32,
    times: u32,
}

impl Work {
    /// Runs it so many times, and stops at one that differs from the first: which, and how. What
    /// the first run says goes to `said` as it comes.
    fn run(self, said: Option<mpsc::Sender<Vec<u8>>>) -> Result<Ended, Failure> {
        let mut local = Local::new(&self.data, &self.module.bytes, self.limits, self.files)
            .map_err(Failure::input)?;
        // If nobody listens any more, this process is about to end.
        let mut say = said.map(|said| move |bytes: &[u8]| drop(said.blocking_send(bytes.to_vec())));
        let output = say.as_mut().map(|say| say as Output<'_>);
        let first = local.run(self.seed, &self.args, &self.stdin, output);
        for number in 2..=self.times {
            // The second run shares a child with the first, the third gets a fresh one, and so on:
            // both must make no difference.
            if number % 2 == 1 {
                local.renew();
            }
            let other = local.run(self.seed, &self.args, &self.stdin, None);
            if other.report != first.report {
                return Ok((first, Some((number, other))));
            }
        }
        Ok((first, None))
    }
}

impl Args {
    /// Reads everything there is to read.
    fn work(&self, context: &Context) -> Result<Work, Failure> {
        if self.args.iter().any(|arg| arg.contains('\0')) {
            let message = "an argument has a zero byte, which no program can be given";
            return Err(Failure::input(message));
        }
        Ok(Work {
            limits: self.limits.limits_with_out(if self.out.is_some() { OUT_BYTES } else { 0 })?,
            module: Module::read(&self.module)?,
            files: self.files()?,
            stdin: self.stdin(context)?,
            data: context.data.clone(),
            args: self.args.clone(),
            seed: self.seed,
            times: self.repeat.unwrap_or(1),
        })
    }

    /// All input files, named ones first.
    fn files(&self) -> Result<Vec<(String, Vec<u8>)>, Failure> {
        let mut paths = self.file.clone();
        for folder in &self.dir {
            add_folder(folder, "", &mut paths)?;
        }
        // What is far too much need not be read first.
        let size = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
        if paths.iter().map(|(_, path)| size(path)).sum::<u64>() > FILES_MAX_BYTES {
            let message =
                format!("the input files have more than {FILES_MAX_BYTES} bytes together");
            return Err(Failure::input(message));
        }
        paths.into_iter().map(|(name, path)| Ok((name, read(&path)?))).collect()
    }

    fn stdin(&self, context: &Context) -> Result<Vec<u8>, Failure> {
        let bytes = match &self.stdin_file {
            Some(path) => read(path)?,
            None => {
                if std::io::stdin().is_terminal() {
                    context.printer.note("reading standard input, until Ctrl-D");
                }
                let mut bytes = Vec::new();
                let max = STDIN_MAX_BYTES as u64 + 1;
                let read = std::io::stdin().lock().take(max).read_to_end(&mut bytes);
                read.map_err(|error| {
                    Failure::input(format!(
                        "cannot read standard input: {error}; give --stdin-file"
                    ))
                })?;
                bytes
            }
        };
        if bytes.len() > STDIN_MAX_BYTES {
            let message =
                format!("standard input has more than the {STDIN_MAX_BYTES} bytes allowed");
            return Err(Failure::input(message));
        }
        Ok(bytes)
    }

    /// Whether what the program says is printed as it comes.
    fn is_aloud(&self, context: &Context) -> bool {
        !self.digest && self.repeat.is_none() && !context.printer.is_json()
    }

    /// The outcome in JSON, unless its output has been printed already; and its exit code.
    fn say(&self, context: &Context, run: Run) -> Result<ExitCode, Failure> {
        let summary = Summary::of(&run);
        let RunReport::Done { outcome: Outcome::Result { exit_code, files, .. }, .. } = run.report
        else {
            if context.printer.is_json() {
                context.printer.answer(&summary, String::new)?;
            }
            return Err(failure(&run.report));
        };
        if context.printer.is_json() {
            context.printer.answer(&summary, String::new)?;
        }
        match &self.out {
            Some(folder) => write_files(folder, &files)?,
            None if !files.is_empty() => {
                let left = count(files.len() as u64, "file");
                context.printer.note(format!("{left} in /out not kept; keep with --out DIR"));
            }
            None => {}
        }
        Ok(code(exit_code, context))
    }

    /// R alone, of whatever has one.
    fn say_digest(&self, context: &Context, run: &Run) -> Result<ExitCode, Failure> {
        if let RunReport::Done { outcome, .. } = &run.report {
            context.printer.answer(&Summary::of(run), || outcome.result_hash().to_string())?;
        }
        ended(run)
    }

    fn say_agreement(&self, context: &Context, run: &Run) -> Result<ExitCode, Failure> {
        if let RunReport::Done { outcome, witness } = &run.report {
            let (result, times) = (outcome.result_hash(), self.repeat.unwrap_or(1));
            context.printer.answer(&Summary::of(run), || {
                if self.digest {
                    result.to_string()
                } else {
                    format!(
                        "{} agree: result {result}, witness {}",
                        count(times, "run"),
                        witness.short()
                    )
                }
            })?;
        }
        ended(run)
    }
}

/// Done, unless there is no exit code.
fn ended(run: &Run) -> Result<ExitCode, Failure> {
    match &run.report {
        RunReport::Done { outcome: Outcome::Result { .. }, .. } => Ok(Exit::Done.into()),
        other @ (RunReport::Done { .. } | RunReport::NoResult(_)) => Err(failure(other)),
    }
}

fn failure(report: &RunReport) -> Failure {
    match report {
        RunReport::Done { outcome: Outcome::Fault(fault), .. } => {
            Failure::new(Exit::Fault, format!("the program ended by a fault: {}", fault.as_str()))
        }
        RunReport::Done { outcome: Outcome::Result { .. }, .. } => Failure::failed("no failure"),
        RunReport::NoResult(reason) => {
            Failure::new(Exit::NoResult, format!("no result on this machine: {}", reason.as_str()))
        }
    }
}

fn contradiction(number: u32, first: &Run, next: &Run) -> Failure {
    let text = |run: &Run| match &run.report {
        RunReport::Done { outcome, witness } => {
            format!("result {}, witness {}", outcome.result_hash(), witness.short())
        }
        RunReport::NoResult(reason) => format!("no result: {}", reason.as_str()),
    };
    let (first, next) = (text(first), text(next));
    Failure::new(Exit::Differs, format!("run 1 and run {number} differ: {first}; {next}"))
}

/// The program's exit code as far as a process can end with it.
fn code(exit_code: u32, context: &Context) -> ExitCode {
    let code = u8::try_from(exit_code).unwrap_or_else(|_| {
        context.printer.note(format!("the program's exit code {exit_code} is shown as 255"));
        u8::MAX
    });
    ExitCode::from(code)
}

/// What came of a run, for programs.
#[derive(Debug, Serialize)]
struct Summary {
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fault: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    no_result: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    output_bytes: Option<usize>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    files: Vec<FileEntry>,
    /// R, which a grid would vote on.
    #[serde(skip_serializing_if = "Option::is_none")]
    result: Option<String>,
    /// M, which no grid ever sees.
    #[serde(skip_serializing_if = "Option::is_none")]
    witness: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cpu_ms: Option<u128>,
}

impl Summary {
    fn of(run: &Run) -> Summary {
        let mut summary = Summary {
            exit_code: None,
            fault: None,
            no_result: None,
            output_bytes: None,
            files: Vec::new(),
            result: None,
            witness: None,
            cpu_ms: run.cpu.map(|cpu| cpu.as_millis()),
        };
        match &run.report {
            RunReport::NoResult(reason) => summary.no_result = Some(reason.as_str()),
            RunReport::Done { outcome, witness } => summary.fill(outcome, witness),
        }
        summary
    }

    fn fill(&mut self, outcome: &Outcome, witness: &Witness) {
        self.result = Some(outcome.result_hash().to_string());
        self.witness = Some(witness.to_string());
        match outcome {
            Outcome::Fault(fault) => self.fault = Some(fault.as_str()),
            Outcome::Result { exit_code, stdout, files } => {
                self.exit_code = Some(*exit_code);
                self.output_bytes = Some(stdout.len());
                self.files = files.iter().map(FileEntry::of).collect();
            }
        }
    }
}

fn parse_file(text: &str) -> Result<(String, PathBuf), String> {
    match text.split_once('=') {
        Some((name, path)) if !name.is_empty() && !path.is_empty() => {
            Ok((name.trim_start_matches('/').to_owned(), path.into()))
        }
        _ => Err(format!("`{text}` names no file; write it like data.txt=/home/me/data.txt")),
    }
}

/// Adds all files below `folder`, with `prefix` before their names. What is neither a file nor a
/// folder is left out, and so are links to folders, which might lead in a circle.
fn add_folder(
    folder: &Path,
    prefix: &str,
    paths: &mut Vec<(String, PathBuf)>,
) -> Result<(), Failure> {
    let shown = folder.display();
    let unread = |error| Failure::input(format!("cannot list {shown}: {error}; check the path"));
    for entry in std::fs::read_dir(folder).map_err(unread)? {
        let entry = entry.map_err(unread)?;
        let name = entry.file_name().into_string().map_err(|name| {
            let name = name.display();
            Failure::input(format!("the name of {name} in {shown} is not UTF-8; rename it"))
        })?;
        let (path, name) = (entry.path(), format!("{prefix}{name}"));
        if entry.file_type().map_err(unread)?.is_dir() {
            add_folder(&path, &format!("{name}/"), paths)?;
        } else if path.is_file() {
            if paths.len() == FILES_MAX {
                let message = format!("{shown} holds more than {FILES_MAX} files; give fewer");
                return Err(Failure::input(message));
            }
            paths.push((name, path));
        }
    }
    Ok(())
}

/// How many pieces of output wait to be printed; then the program waits.
const SAID_MAX: usize = 16;
/// For `/out` unless --out-limit says otherwise: as for standard output.
const OUT_BYTES: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use potluck_unit::{Fault, NoResult};

    use super::*;

    fn run(outcome: Outcome) -> Run {
        let report = RunReport::Done { outcome, witness: Witness([7; 32]) };
        Run { report, stderr: Vec::new(), cpu: None }
    }

    fn result(stdout: &[u8]) -> Run {
        run(Outcome::Result { exit_code: 3, stdout: stdout.to_vec(), files: vec![] })
    }

    #[test]
    fn runs_that_differ_are_told_apart_by_what_they_came_to() {
        let found = contradiction(3, &result(b"a"), &result(b"b"));
        assert_eq!(found.exit, Exit::Differs);
        assert!(found.message.starts_with("run 1 and run 3 differ: result "), "{found:?}");
        let late = Run { report: RunReport::NoResult(NoResult::Deadline), ..result(b"") };
        assert!(contradiction(2, &result(b"a"), &late).message.ends_with("deadline passed"));
    }

    #[test]
    fn a_fault_and_no_result_have_exit_codes_of_their_own() {
        let fault = failure(&run(Outcome::Fault(Fault::Unreachable)).report);
        assert_eq!(fault.exit, Exit::Fault);
        assert_eq!(failure(&RunReport::NoResult(NoResult::HostMemory)).exit, Exit::NoResult);
    }

    #[test]
    fn input_files_are_named_and_folders_taken_with_their_paths() {
        let expected = ("a/b".to_owned(), PathBuf::from("x=y"));
        assert_eq!(parse_file("/a/b=x=y"), Ok(expected));
        for text in ["", "a", "=a", "a="] {
            assert!(parse_file(text).is_err(), "{text}");
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(folder.path().join("b/c")).unwrap();
        for name in ["a", "b/c/d"] {
            std::fs::write(folder.path().join(name), name).unwrap();
        }
        std::os::unix::fs::symlink(".", folder.path().join("circle")).unwrap();
        let mut found = Vec::new();
        add_folder(folder.path(), "", &mut found).unwrap();
        found.sort();
        let names: Vec<&str> = found.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["a", "b/c/d"]);
    }
}
