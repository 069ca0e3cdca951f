//! `potluck status`: what the node in the data folder is doing.

use std::time::Duration;

use potluck_node::api::{HeldUp, LendingInfo, NodeInfo, RunningInfo};

use crate::Context;
use crate::exit::{Exit, Failure};
use crate::print::count;
use crate::quantity::{show_duration, show_size};
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
    lines.extend(lent(&node.lending));
    lines.extend(node.lending.running.iter().map(|running| format!("running     {}", at(running))));
    lines.extend(node.idle_reason.iter().map(|reason| format!("idle        {reason}")));
    // The first reason is the sentence above, if units are held up.
    let other = |held: &&HeldUp| node.idle_reason.as_ref() != Some(&held.says);
    let held_up = node.lending.held_up.iter().filter(other);
    lines.extend(held_up.map(|held| format!("held up     {}", held.says)));
    let unreachable = node.unreachable.iter();
    lines.extend(unreachable.map(|(join, why)| format!("unreachable {join}: {why}")));
    lines.join("\n")
}

/// What is lent and how much of it is used.
fn lent(lending: &LendingInfo) -> Vec<String> {
    let cap = |bytes: Option<u64>| bytes.map_or_else(|| "no cap".to_owned(), show_size);
    let rate = |bytes: Option<u64>| {
        bytes.map_or_else(|| "no cap".to_owned(), |bytes| format!("{}/s", show_size(bytes)))
    };
    let mut lines = vec![
        format!(
            "lent now    {}, {} % of a core each, {} of memory, {} of disk",
            count(lending.slots, "slot"),
            lending.cpu_percent,
            cap(lending.memory_bytes),
            cap(lending.disk_bytes)
        ),
        format!(
            "network     up {}, down {}; moved {} today, {} this month, {} ever",
            rate(lending.upload_per_s),
            rate(lending.download_per_s),
            show_size(lending.today_bytes),
            show_size(lending.month_bytes),
            show_size(lending.ever_bytes)
        ),
    ];
    lines.extend(
        lending
            .config_error
            .iter()
            .map(|error| format!("settings    {error}; the settings stay as they were")),
    );
    if !lending.restart_needed.is_empty() {
        let keys = lending.restart_needed.join(", ");
        lines.push(format!("settings    {keys}: changed, and hold once the node is started again"));
    }
    lines
}

/// What one slot is at.
fn at(running: &RunningInfo) -> String {
    let short = |id: &str| id.get(..8).unwrap_or(id).to_owned();
    let label =
        if running.label.is_empty() { String::new() } else { format!(" ({})", running.label) };
    let left = running.left_ms.map_or_else(String::new, |ms| {
        format!(", about {} to go", show_duration(Duration::from_millis(ms)))
    });
    let still = if running.suspended { ", suspended" } else { "" };
    format!(
        "slot {}: job {}{label} for {}, {} done, {} here{left}{still}",
        running.slot,
        short(&running.job),
        short(&running.submitter),
        count(running.units_done, "unit"),
        running.units_left
    )
}
