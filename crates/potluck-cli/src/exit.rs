//! How the program ends: exit codes, and the one line that says why.

use std::fmt;
use std::process::ExitCode;

use potluck_node::{StartError, StartErrorKind};

use crate::client::ClientError;

/// The exit codes. Scripts rely on them: a number never changes its meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    /// What was asked for is done.
    Done = 0,
    /// Something failed.
    Failed = 1,
    /// Bad input or usage.
    Input = 2,
    /// Nobody can be reached.
    Alone = 3,
    /// A job that nobody asked knows.
    UnknownJob = 4,
    /// Units without a result.
    Incomplete = 5,
    /// A port or data folder that another program uses.
    InUse = 6,
    /// The doctor found something missing or wrong.
    Unwell = 7,
    /// Evidence that contradicts an accepted result, or that is forged.
    Contradicted = 8,
    /// `exec`: a fault. Far from the codes that programs end with, as are the next two.
    Fault = 121,
    /// `exec`: no result.
    NoResult = 122,
    /// `exec --repeat`: runs of one program that differ.
    Differs = 123,
    /// Ctrl-C or a termination signal.
    Interrupted = 130,
}

impl Exit {
    const ALL: [Exit; 13] = [
        Exit::Done,
        Exit::Failed,
        Exit::Input,
        Exit::Alone,
        Exit::UnknownJob,
        Exit::Incomplete,
        Exit::InUse,
        Exit::Unwell,
        Exit::Contradicted,
        Exit::Fault,
        Exit::NoResult,
        Exit::Differs,
        Exit::Interrupted,
    ];

    fn meaning(self) -> &'static str {
        match self {
            Exit::Done => {
                "done; a unit's own exit code is an answer and does not change this, but exec passes it on"
            }
            Exit::Failed => "failure",
            Exit::Input => {
                "bad input or usage: not a WebAssembly file, no such file, bad option, bad config"
            }
            Exit::Alone => "nobody can be reached, or no other peer holds the job yet",
            Exit::UnknownJob => "unknown job",
            Exit::Incomplete => {
                "some units have no result, results are incomplete, or verify can't decide"
            }
            Exit::InUse => "the port or the data folder is in use",
            Exit::Unwell => "`doctor` found something missing or wrong on this machine",
            Exit::Contradicted => "`verify`: an accepted result is not so, or evidence is forged",
            Exit::Fault => "exec: the program ended by a fault",
            Exit::NoResult => "exec: this machine came to no result",
            Exit::Differs => "exec --repeat: the runs differ",
            Exit::Interrupted => "interrupted",
        }
    }

    /// The list of codes as `--help` shows it.
    pub(crate) fn help() -> String {
        let lines = Exit::ALL.map(|exit| format!("  {:>3}  {}", exit as u8, exit.meaning()));
        format!("Exit codes:\n{}", lines.join("\n"))
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit as u8)
    }
}

/// Why a verb stopped, as one sentence for a person, and the exit code for a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    /// Empty when there is nobody left to tell: standard output was closed.
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl fmt::Display) -> Failure {
        Failure { exit, message: one_line(&message.to_string()) }
    }

    /// Exit code 1.
    pub(crate) fn failed(message: impl fmt::Display) -> Failure {
        Failure::new(Exit::Failed, message)
    }

    /// Exit code 2.
    pub(crate) fn input(message: impl fmt::Display) -> Failure {
        Failure::new(Exit::Input, message)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Failure {
        Failure::new(error.exit(), error)
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Failure {
        let exit = match error.kind() {
            StartErrorKind::InUse => Exit::InUse,
            StartErrorKind::Config => Exit::Input,
            StartErrorKind::Other => Exit::Failed,
        };
        Failure::new(exit, error)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Failure {
        Failure::failed(format!("{error:#}"))
    }
}

/// Errors are one line each: whoever reads them with `grep` must not miss half.
fn one_line(text: &str) -> String {
    text.split('\n').map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_keep_their_numbers() {
        let codes = [0, 1, 2, 3, 4, 5, 6, 7, 8, 121, 122, 123, 130];
        assert_eq!(Exit::ALL.map(|exit| exit as u8), codes);
    }

    #[test]
    fn help_lists_every_code() {
        let help = Exit::help();
        for exit in Exit::ALL {
            assert!(help.contains(&format!("{:>3}  {}", exit as u8, exit.meaning())), "{help}");
        }
    }

    #[test]
    fn a_failure_is_one_line() {
        assert_eq!(Failure::failed("cannot read\n  the file\n").message, "cannot read the file");
    }
}
