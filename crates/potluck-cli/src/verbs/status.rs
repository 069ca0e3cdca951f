//! `potluck status`: what the node in the data folder is doing.

use potluck_node::api::NodeInfo;

use crate::Context;
use crate::exit::{Exit, Failure};
use crate::print::count;
use crate::quantity::show_size;
use crate::session::running;

/// What can be said.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Prints what the running node says of itself.
pub(crate) async fn run(_: &Args, context: &Context) -> Result<Exit, Failure> {
    let node = running(context).await?.node().await?;
    context.printer.answer(&node, || text(&node))?;
    Ok(Exit::Done)
}

fn text(node: &NodeInfo) -> String {
    let mut lines = vec![
        format!("id          {}", node.id),
        format!("software    {}", node.agent),
        format!("listens on  {}", node.listen),
        format!("grid        {}", if node.open { "open" } else { "private" }),
        format!("slots       {} of {} busy", node.slots_busy, node.slots),
        format!("units run   {}", node.units_run),
        format!(
            "connected   to {}; {} known, this one included if it lends",
            count(node.neighbours as u64, "peer"),
            count(node.workers as u64, "worker")
        ),
        format!(
            "traffic     {} received, {} sent; {} on disk",
            show_size(node.bytes_received),
            show_size(node.bytes_sent),
            show_size(node.bytes_on_disk)
        ),
    ];
    lines.extend(node.idle_reason.iter().map(|reason| format!("idle        {reason}")));
    let unreachable = node.unreachable.iter();
    lines.extend(unreachable.map(|(join, why)| format!("unreachable {join}: {why}")));
    lines.join("\n")
}
