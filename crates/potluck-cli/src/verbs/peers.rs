//! `potluck peers`: whom the node in the data folder knows.

use potluck_node::api::PeerInfo;

use crate::Context;
use crate::exit::{Exit, Failure};
use crate::print::table;
use crate::session::running;

/// What can be said.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Lists the running node's peers.
pub(crate) async fn run(_: &Args, context: &Context) -> Result<Exit, Failure> {
    let peers = running(context).await?.peers().await?;
    if context.printer.is_json() {
        peers.iter().try_for_each(|peer| context.printer.answer(peer, String::new))?;
    } else if peers.is_empty() {
        context.printer.note("no other peer is known; join one with `potluck worker --join ADDR`");
    } else {
        context.printer.bytes(text(&peers).as_bytes())?;
    }
    Ok(Exit::Done)
}

fn text(peers: &[PeerInfo]) -> String {
    let heading = ["peer", "slots", "state", "addresses"].map(str::to_owned).to_vec();
    let rows = peers.iter().map(|peer| {
        let connected = if peer.connected { "connected" } else { "known" };
        let state =
            if peer.convicted { format!("{connected}, lied") } else { connected.to_owned() };
        let addresses: Vec<String> = peer.addresses.iter().map(ToString::to_string).collect();
        let short = peer.id.chars().take(16).collect();
        vec![short, peer.slots.to_string(), state, addresses.join(" ")]
    });
    table(&std::iter::once(heading).chain(rows).collect::<Vec<_>>())
}
