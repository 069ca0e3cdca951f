//! The proof of work that an open grid asks of every key: made once, with a look at how long it
//! takes.

use std::time::Duration;

use potluck_node::{Options, Search, control_socket, keep_identity, read_or_create_key};
use tokio::time::Instant;

use crate::Context;
use crate::client::Client;
use crate::exit::Failure;
use crate::quantity::show_duration;
use crate::session::ticks;

/// Sees to it that a node with these options can start: makes its key's proof of work if the grid is
/// open and there is none yet. May be dropped at any time; nothing is kept then.
pub(crate) async fn prepare(context: &Context, options: &Options) -> Result<(), Failure> {
    if !options.is_open().map_err(Failure::input)? {
        return Ok(());
    }
    // Of a node that runs already it is not needed, and a second one will not start.
    if Client::connect(&control_socket(&options.data)).await.is_ok() {
        return Ok(());
    }
    let key = read_or_create_key(&options.data)?;
    let search = Search::start(&options.data, &key.id(), options.work_bits);
    let Some(search) = search.map_err(Failure::failed)? else { return Ok(()) };
    let start = Instant::now();
    let mut tick = ticks();
    let mut said = false;
    let identity = loop {
        tick.tick().await;
        if let Some(identity) = search.found() {
            break identity;
        }
        let line = line(&search, start.elapsed());
        if context.printer.can_draw() {
            context.printer.draw(&line);
        } else if !std::mem::replace(&mut said, true) {
            context.printer.note(WHY);
        }
    };
    keep_identity(&options.data, &identity).map_err(Failure::failed)?;
    let took = show_duration(start.elapsed());
    context
        .printer
        .note(format!("made the proof of work of this node's key in {took}, once for all"));
    Ok(())
}

fn line(search: &Search, gone: Duration) -> String {
    let (tries, expected) = (search.tries(), search.tries_expected());
    format!("{WHY}: {}", times(tries, expected, gone))
}

/// How long it has taken, and how long it takes on average. The search has no memory: who was
/// unlucky so far is no nearer.
fn times(tries: u64, expected: u64, gone: Duration) -> String {
    let mut text = format!("{} gone", show_duration(gone));
    if gone >= RATE_AFTER && tries > 0 {
        // Both are far below 2^53.
        let share = expected as f64 / tries as f64;
        if let Ok(average) = Duration::try_from_secs_f64(gone.as_secs_f64() * share) {
            text += &format!(", {} expected", show_duration(average));
        }
    }
    text
}

const WHY: &str =
    "making the proof of work that an open grid asks of every new key, once (--private needs none)";
/// Sooner the rate is a guess.
const RATE_AFTER: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_expected_time_follows_from_the_rate_once_there_is_one() {
        assert_eq!(times(500, 1000, Duration::from_millis(300)), "0.3 s gone");
        assert_eq!(times(500, 1000, Duration::from_secs(10)), "10 s gone, 20 s expected");
        assert_eq!(times(2000, 1000, Duration::from_secs(60)), "60 s gone, 30 s expected");
        assert_eq!(times(0, 1000, Duration::from_secs(5)), "5.0 s gone");
    }
}
