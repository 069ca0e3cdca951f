//! `potluck resume`: goes on after `pause` or `drain`.

use super::pause::state;
use crate::Context;
use crate::exit::{Exit, Failure};
use crate::session::running;

/// What can be said.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Tells the running node.
pub(crate) async fn run(_: &Args, context: &Context) -> Result<Exit, Failure> {
    let node = running(context).await?.resume().await?;
    context.printer.answer(&node, || state(&node))?;
    Ok(Exit::Done)
}
