//! `potluck pause`: suspends what runs here, without losing any of it.

use std::time::Duration;

use potluck_node::api::NodeInfo;
use potluck_node::parse_duration;

use crate::Context;
use crate::exit::{Exit, Failure};
use crate::session::running;

/// What can be said.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Go on by itself after this time, such as 90s, 2h or 1d
    #[arg(long = "for", value_name = "TIME", value_parser = parse_duration)]
    for_time: Option<Duration>,
}

/// Tells the running node.
pub(crate) async fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let for_ms = args.for_time.map(|time| u64::try_from(time.as_millis()).unwrap_or(u64::MAX));
    let node = running(context).await?.pause(for_ms).await?;
    context.printer.answer(&node, || state(&node))?;
    Ok(Exit::Done)
}

/// What a node is at, in one sentence.
pub(crate) fn state(node: &NodeInfo) -> String {
    node.idle_reason
        .clone()
        .unwrap_or_else(|| format!("{} of {} slots busy", node.slots_busy, node.lending.slots))
}
