//! The voice of Potluck: the verbs and what they print.
//!
//! Every verb is a client of a node's control interface, be it a node that runs already or one that
//! lives as long as the verb. Nothing here knows how a job gets done.

mod assurance;
mod client;
mod crew;
mod exit;
mod identity;
mod interrupt;
mod limits;
mod module;
mod print;
mod progress;
mod quantity;
mod results;
mod rows;
mod service_file;
mod session;
mod settings;
mod verbs;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::{Mutex, PoisonError};

use clap::Parser;
use clap::error::ErrorKind;
use potluck_node::Options;
use potluck_unit::Identity;
use tracing_subscriber::EnvFilter;

use crate::exit::{Exit, Failure};
use crate::print::{Format, Printer};
use crate::verbs::Verb;

/// The program: reads the command line, does what it says, answers with the exit code.
pub fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    // A sandbox child must not have threads or handlers of ours: this comes before everything.
    if args.next().is_some_and(|verb| verb == potluck_node::SANDBOX_VERB) {
        return potluck_node::sandbox_main(args);
    }
    match Cli::try_parse() {
        Ok(cli) => cli.run(),
        Err(error) => refuse(&error).into(),
    }
}

/// A volunteer computing grid without servers: lend your machine with `potluck worker`, use others'
/// with `potluck run`, see it work with `potluck demo`.
#[derive(Debug, Parser)]
#[command(name = "potluck", version, after_help = Exit::help(), disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, clap::Args)]
#[command(next_help_heading = "Global options")]
struct Global {
    /// Where key, jobs and results are kept [default: $POTLUCK_DATA, or potluck in
    /// $XDG_DATA_HOME or ~/.local/share]
    #[arg(long, global = true, value_name = "DIR")]
    data: Option<PathBuf>,
    /// Take part in a private grid, where keys cost no work; nodes of open grids are none of it
    /// [default: open, unless [grid] in potluck.toml says otherwise]
    #[arg(long, global = true)]
    private: bool,
    // How much work a key must prove in an open grid; tests can't wait for as much as is usual.
    // Who asks for another amount than all others is alone.
    #[arg(long, global = true, hide = true, value_name = "N", default_value_t = Identity::BITS)]
    #[arg(value_parser = clap::value_parser!(u8).range(..=i64::from(Identity::BITS_MAX)))]
    work_bits: u8,
    /// Answer in JSON, one value a line
    #[arg(long, global = true)]
    json: bool,
    /// Say more of what goes on; twice for even more
    #[arg(short, long, global = true, action = clap::ArgAction::Count)]
    verbose: u8,
}

impl Cli {
    fn run(self) -> ExitCode {
        let format = if self.global.json { Format::Json } else { Format::Human };
        let printer = Printer::new(format);
        log(self.global.verbose);
        let open = self.global.private.then_some(false);
        let work_bits = self.global.work_bits;
        let lends = matches!(self.verb, Verb::Worker(_));
        match prepare(self.global.data, lends) {
            Ok((runtime, data)) => {
                let farewell = Mutex::default();
                let context = Context { data, open, work_bits, printer, farewell };
                let done = runtime.block_on(verbs::run(self.verb, &context));
                // What still runs now has nothing left to do that must not be lost.
                runtime.shutdown_background();
                done.unwrap_or_else(|failure| {
                    context.printer.failure(&failure);
                    failure.exit.into()
                })
            }
            Err(failure) => {
                printer.failure(&failure);
                failure.exit.into()
            }
        }
    }
}

/// What every verb has at hand.
#[derive(Debug)]
pub(crate) struct Context {
    pub(crate) data: PathBuf,
    /// Whether the person said anything of open and private grids.
    open: Option<bool>,
    pub(crate) work_bits: u8,
    pub(crate) printer: Printer,
    farewell: Mutex<Option<String>>,
}

impl Context {
    /// A node on the data folder in the grid that was asked for.
    pub(crate) fn options(&self) -> Options {
        let (open, work_bits) = (self.open, self.work_bits);
        let environment = settings::environment();
        Options { open, work_bits, environment, ..Options::new(self.data.clone()) }
    }

    /// What to say should the person press Ctrl-C from now on.
    pub(crate) fn set_farewell(&self, text: String) {
        *self.farewell.lock().unwrap_or_else(PoisonError::into_inner) = Some(text);
    }

    pub(crate) fn farewell(&self) -> String {
        let text = self.farewell.lock().unwrap_or_else(PoisonError::into_inner);
        text.clone().unwrap_or_else(|| "interrupted".to_owned())
    }
}

fn prepare(
    data: Option<PathBuf>,
    lends: bool,
) -> Result<(tokio::runtime::Runtime, PathBuf), Failure> {
    let given = data.or_else(|| {
        std::env::var_os("POTLUCK_DATA").filter(|value| !value.is_empty()).map(PathBuf::from)
    });
    let data = given.or_else(potluck_node::default_data_folder).ok_or_else(|| {
        Failure::input("there is no home folder to keep data in; say where with --data DIR")
    })?;
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if lends {
        // A machine that is lent is somebody's: with more threads than this every packet wakes two,
        // and the node's own work could take more than one of its cores.
        runtime.worker_threads(1);
    }
    let runtime = runtime
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("cannot start threads: {error}")))?;
    Ok((runtime, data))
}

/// Quiet unless asked; `RUST_LOG` has the last word.
fn log(verbose: u8) {
    let level = match verbose {
        0 => "error",
        1 => "warn,potluck_node=info,potluck_peer=info,potluck_sandbox=info",
        _ => "info,potluck_node=debug,potluck_peer=debug,potluck_sandbox=debug",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(level));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
}

/// Help goes out as it is; an error of usage becomes one line like every other error.
fn refuse(error: &clap::Error) -> Exit {
    let printer = Printer::new(Format::Human);
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        return match printer.bytes(error.render().to_string().as_bytes()) {
            Ok(()) => Exit::Done,
            Err(failure) => failure.exit,
        };
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        printer.note(error.render().to_string());
        return Exit::Input;
    }
    printer.failure(&usage_failure(error));
    Exit::Input
}

fn usage_failure(error: &clap::Error) -> Failure {
    let text = error.render().to_string();
    let what = text.split("\n\n").next().unwrap_or_default();
    let what = what.strip_prefix("error: ").unwrap_or(what);
    let tip = text.lines().find_map(|line| line.trim().strip_prefix("tip: "));
    let next = tip.unwrap_or("see --help");
    Failure::input(format!("{what}; {next}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    fn usage_error(args: &[&str]) -> String {
        let args = std::iter::once("potluck").chain(args.iter().copied());
        usage_failure(&Cli::try_parse_from(args).unwrap_err()).message
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn usage_errors_are_one_line_and_say_what_to_do() {
        let unknown = usage_error(&["submit", "a.wasm", "--arr", "1"]);
        assert!(unknown.starts_with("unexpected argument '--arr' found; "), "{unknown}");
        let missing = usage_error(&["submit"]);
        assert!(missing.contains("<MODULE>") && !missing.contains('\n'), "{missing}");
        let copies = usage_error(&["submit", "a.wasm", "-k", "17"]);
        assert!(copies.contains("1..=16"), "{copies}");
    }

    #[test]
    fn only_one_source_of_units_may_be_given() {
        let sources =
            [["--array", "1"], ["--each-line", "a"], ["--each-file", "*"], ["--stdin-file", "-"]];
        for (at, one) in sources.iter().enumerate() {
            for other in &sources[at + 1..] {
                let error = usage_error(&["submit", "m", one[0], one[1], other[0], other[1]]);
                assert!(error.contains("cannot be used with"), "{error}");
            }
        }
        assert!(usage_error(&["submit", "m", "--stdin"]).contains("--each-line"));
    }

    #[test]
    fn help_tells_nothing_of_cheating() {
        let mut command = Cli::command();
        command.build();
        for verb in command.get_subcommands_mut() {
            assert!(
                !verb.render_long_help().to_string().contains("cheat  "),
                "{}",
                verb.get_name()
            );
            assert!(
                !verb.render_long_help().to_string().contains("--cheat"),
                "{}",
                verb.get_name()
            );
        }
    }

    #[test]
    fn help_lists_the_exit_codes() {
        assert!(Cli::command().render_help().to_string().contains("130  interrupted"));
    }
}
