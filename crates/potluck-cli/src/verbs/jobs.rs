//! `potluck jobs`: the jobs this node knows, or what the grid offers and what this machine takes.

use potluck_node::api::Offer;

use crate::Context;
use crate::exit::{Exit, Failure};
use crate::print::table;
use crate::session::{SessionArgs, running};

/// What can be said.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only jobs that still want work, each with whether this machine takes it, and if not, why not
    #[arg(long)]
    open: bool,
    #[command(flatten)]
    session: SessionArgs,
}

/// Asks the running node.
pub(crate) async fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    if !args.open {
        return super::job::run(&super::job::Verb::List(args.session.clone()), context).await;
    }
    let offers = running(context).await?.offers().await?;
    context.printer.answer(&offers, || text(&offers))?;
    Ok(Exit::Done)
}

fn text(offers: &[Offer]) -> String {
    if offers.is_empty() {
        return "no job that is known here wants work".to_owned();
    }
    let mut rows = vec![["job", "submitter", "label", "done", "taken"].map(str::to_owned).to_vec()];
    rows.extend(offers.iter().map(|Offer { job, refused }| {
        let short = |id: &str| id.get(..8).unwrap_or(id).to_owned();
        let taken =
            refused.as_ref().map_or_else(|| "yes".to_owned(), |refused| format!("no: {refused}"));
        let done = format!("{} of {}", job.accepted, job.units);
        vec![short(&job.id), short(&job.submitter), job.label.clone(), done, taken]
    }));
    table(&rows)
}
