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
    let heading =
        ["peer", "slots", "state", "standing", "name", "addresses"].map(str::to_owned).to_vec();
    let rows = peers.iter().map(|peer| {
        let state = if peer.connected { "connected" } else { "known" };
        let addresses: Vec<String> = peer.addresses.iter().map(ToString::to_string).collect();
        let short = peer.id.chars().take(16).collect();
        let slots = peer.slots.to_string();
        vec![short, slots, state.to_owned(), standing(peer), name(peer), addresses.join(" ")]
    });
    table(&std::iter::once(heading).chain(rows).collect::<Vec<_>>())
}

/// What its donor calls itself.
fn name(peer: &PeerInfo) -> String {
    match (peer.nickname.as_str(), peer.team.as_str()) {
        ("", "") => "-".to_owned(),
        (nickname, "") => nickname.to_owned(),
        ("", team) => format!("({team})"),
        (nickname, team) => format!("{nickname} ({team})"),
    }
}

/// What this node has seen of a peer's work. Proven lies come first.
fn standing(peer: &PeerInfo) -> String {
    match (peer.strikes, peer.convicted) {
        (0, false) => peer.standing.clone(),
        (0, true) => "convicted".to_owned(),
        (strikes, _) => format!("convicted: {strikes} of {STRIKES_MAX} strikes"),
    }
}

/// So many proven lies end it.
const STRIKES_MAX: u8 = 3;

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(convicted: bool, strikes: u8) -> PeerInfo {
        PeerInfo {
            id: "ab".repeat(32),
            addresses: vec![([127, 0, 0, 1], 7117).into()],
            connected: true,
            seen_at: None,
            rtt_ms: None,
            bytes_sent: None,
            bytes_received: None,
            slots: 2,
            agent: String::new(),
            nickname: "Ada".to_owned(),
            team: String::new(),
            convicted,
            standing: "established".to_owned(),
            credit: 9,
            strikes,
        }
    }

    #[test]
    fn a_name_is_nickname_and_team() {
        let named = |nickname: &str, team: &str| {
            let (nickname, team) = (nickname.to_owned(), team.to_owned());
            name(&PeerInfo { nickname, team, ..peer(false, 0) })
        };
        assert_eq!(named("Ada", "kitchen"), "Ada (kitchen)");
        assert_eq!(
            [named("Ada", ""), named("", "kitchen"), named("", "")],
            ["Ada", "(kitchen)", "-"]
        );
    }

    #[test]
    fn a_proven_lie_is_said_before_any_standing() {
        assert_eq!(standing(&peer(false, 0)), "established");
        assert_eq!(standing(&peer(true, 0)), "convicted");
        assert_eq!(standing(&peer(false, 1)), "convicted: 1 of 3 strikes");
        let shown = text(&[peer(true, 3)]);
        assert!(
            shown.contains("abababababababab  2      connected  convicted: 3 of 3 strikes"),
            "{shown}"
        );
    }
}
