//! `potluck drain`: finishes what is begun and takes on nothing new.

use std::time::Duration;

use super::pause::state;
use crate::Context;
use crate::exit::{Exit, Failure};
use crate::session::running;

/// What can be said.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Stop the node when that is done, and wait until it has
    #[arg(long)]
    then_exit: bool,
}

/// Tells the running node.
pub(crate) async fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let mut client = running(context).await?;
    let node = client.drain(args.then_exit).await?;
    context.printer.answer(&node, || state(&node))?;
    // The node answers until it has stopped.
    while args.then_exit && client.node().await.is_ok() {
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(Exit::Done)
}

/// Costs nothing to speak of.
const LOOK_EVERY: Duration = Duration::from_millis(200);
