//! The verbs: one file each, with the same shape in each: what can be said, and `run`.

mod config;
mod demo;
mod doctor;
mod drain;
mod exec;
mod given;
mod id;
mod job;
mod jobs;
mod lint;
mod log;
mod pause;
mod peers;
mod resume;
mod run;
mod service;
mod status;
mod submit;
mod verify;
mod worker;

use std::process::ExitCode;

use crate::Context;
use crate::exit::Failure;

/// What to do.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Verb {
    /// Show a whole grid at work on this machine, a cheat included
    Demo(demo::Args),
    /// Lend this machine to the grid, until Ctrl-C
    Worker(worker::Args),
    /// Suspend what runs here, until a time is over or until resume
    Pause(pause::Args),
    /// Go on after pause or drain
    Resume(resume::Args),
    /// Finish what is begun and take on nothing new
    Drain(drain::Args),
    /// Show what changed about what is lent, and when
    Log(log::Args),
    /// Say what is lent and when: init, check, show, path, set, unset
    #[command(subcommand)]
    Config(config::Verb),
    /// Run the worker with the system: install, uninstall, status
    #[command(subcommand)]
    Service(service::Verb),
    /// Hand a job to the grid and print its id
    Submit(submit::Args),
    /// Hand a job to the grid, wait for it and get its results
    Run(run::Args),
    /// Say whether modules can be run, why not, and what makes them slow
    Lint(lint::Args),
    /// Run a program here, in the sandbox that units run in, and end with its exit code
    Exec(exec::Args),
    /// Look after jobs: list, info, wait, results, units, cancel
    #[command(subcommand)]
    Job(job::Verb),
    /// List the jobs this node knows, or with --open what the grid offers and what this machine takes
    Jobs(jobs::Args),
    /// Check what is known of a job: signatures, verdicts, and by running units again who lied
    Verify(verify::Args),
    /// Show what the node in the data folder is doing
    Status(status::Args),
    /// List the peers that the node in the data folder knows
    Peers(peers::Args),
    /// Show what this node has given, export it with its proof, or check such an export
    Given(given::Args),
    /// Look at whether this machine can do its part, and how well its sandbox is locked
    Doctor(doctor::Args),
    /// Print this node's peer id
    Id(id::Args),
}

/// Does it.
pub(crate) async fn run(verb: Verb, context: &Context) -> Result<ExitCode, Failure> {
    let exit = match verb {
        // The only verb whose exit code may be somebody else's.
        Verb::Exec(args) => return exec::run(args, context).await,
        Verb::Demo(args) => demo::run(&args, context).await,
        Verb::Worker(args) => worker::run(args, context).await,
        Verb::Pause(args) => pause::run(&args, context).await,
        Verb::Resume(args) => resume::run(&args, context).await,
        Verb::Drain(args) => drain::run(&args, context).await,
        Verb::Log(args) => log::run(&args, context).await,
        Verb::Config(verb) => config::run(&verb, context),
        Verb::Service(verb) => service::run(&verb, context),
        Verb::Submit(args) => submit::run(&args, context).await,
        Verb::Run(args) => run::run(&args, context).await,
        Verb::Lint(args) => lint::run(&args, context),
        Verb::Job(verb) => job::run(&verb, context).await,
        Verb::Jobs(args) => jobs::run(&args, context).await,
        Verb::Verify(args) => verify::run(args, context).await,
        Verb::Status(args) => status::run(&args, context).await,
        Verb::Peers(args) => peers::run(&args, context).await,
        Verb::Given(args) => given::run(args, context).await,
        Verb::Doctor(args) => doctor::run(&args, context),
        Verb::Id(args) => id::run(&args, context),
    };
    exit.map(ExitCode::from)
}
