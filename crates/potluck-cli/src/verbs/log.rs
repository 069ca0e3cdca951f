//! `potluck log`: what changed about what this machine lends, and when.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use potluck_node::api::LogLine;

use crate::Context;
use crate::exit::{Exit, Failure};
use crate::print::table;
use crate::quantity::show_duration;
use crate::session::running;

/// What can be said.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show so many of the newest lines
    #[arg(short = 'n', long, value_name = "N", default_value_t = 20)]
    lines: usize,
}

/// Asks the running node.
pub(crate) async fn run(args: &Args, context: &Context) -> Result<Exit, Failure> {
    let mut lines = running(context).await?.log().await?;
    lines.drain(..lines.len().saturating_sub(args.lines));
    context.printer.answer(&lines, || text(&lines, now_ms()))?;
    Ok(Exit::Done)
}

fn text(lines: &[LogLine], now_ms: u64) -> String {
    if lines.is_empty() {
        return "nothing has changed since this node started".to_owned();
    }
    let ago = |line: &LogLine| {
        let ago = Duration::from_millis(now_ms.saturating_sub(line.at_ms));
        vec![format!("{} ago", show_duration(ago)), line.says.clone()]
    };
    table(&lines.iter().map(ago).collect::<Vec<_>>())
}

fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_how_long_ago_they_were() {
        assert!(text(&[], 0).starts_with("nothing"));
        let line = LogLine { at_ms: 1000, says: "asked to pause".to_owned() };
        let shown = text(&[line], 61_000);
        assert_eq!(shown, "60 s ago  asked to pause\n");
    }
}
