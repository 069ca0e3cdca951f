//! `potluck id`: this node's name, and what it cost.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use potluck_unit::{Identity, PeerId};
use serde::Serialize;

use crate::Context;
use crate::exit::{Exit, Failure};
use crate::quantity::show_duration;

/// What can be said.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Prints the peer id of the data folder, which gets a key if it has none. What proof of work there
/// is goes to standard error, so that scripts get the id alone.
pub(crate) fn run(_: &Args, context: &Context) -> Result<Exit, Failure> {
    let peer = potluck_node::read_or_create_key(&context.data)?.id();
    let identity = potluck_node::read_identity(&context.data).map_err(Failure::failed)?;
    let work = identity.and_then(|identity| Work::of(&peer, &identity));
    let answer = serde_json::json!({ "id": peer.to_string(), "identity": work });
    context.printer.answer(&answer, || peer.to_string())?;
    if !context.printer.is_json() {
        context.printer.note(work.map_or_else(|| NONE.to_owned(), |work| work.text()));
    }
    Ok(Exit::Done)
}

/// What the key cost.
#[derive(Debug, Serialize)]
struct Work {
    born_ms: u64,
    nonce: u64,
    bits: u8,
}

impl Work {
    /// None if it proves nothing for this peer. Takes some milliseconds for each bit.
    fn of(peer: &PeerId, identity: &Identity) -> Option<Work> {
        let bits = (1..=Identity::BITS_MAX).take_while(|bits| identity.proves(peer, *bits)).last();
        Some(Work { born_ms: identity.born.0, nonce: identity.nonce, bits: bits? })
    }

    fn text(&self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let age = show_duration(now.saturating_sub(Duration::from_millis(self.born_ms)));
        format!("proof of work: {} bits, made {age} ago", self.bits)
    }
}

const NONE: &str = "proof of work: none yet; the first start in an open grid makes it";
