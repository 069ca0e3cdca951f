//! `potluck worker`: lends this machine to the grid until it is told to stop.

use std::net::SocketAddr;
use std::time::Duration;

use potluck_node::api::NodeInfo;
use potluck_node::{Node, Options, control_socket, parse_duration};
use serde_json::json;
use tokio::time::{interval, timeout};

use crate::Context;
use crate::client::Client;
use crate::exit::{Exit, Failure};
use crate::interrupt::{Ending, interrupted};
use crate::print::count;
use crate::session::connect_own;
use crate::settings::SettingArgs;

/// What can be said.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A peer to join the grid by, as HOST:PORT; may be given several times. Peers met before are
    /// remembered
    #[arg(long, value_name = "ADDR")]
    join: Vec<String>,
    /// Where to listen [default: listen in potluck.toml, or 0.0.0.0:7117]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// How many units to run at once [default: slots under [budget] in potluck.toml, or half of the
    /// cores]
    #[arg(long, value_name = "N")]
    slots: Option<u16>,
    /// How long to finish what is begun after a SIGTERM
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = parse_duration)]
    grace: Duration,
    #[command(flatten)]
    settings: SettingArgs,
    // Returns wrong results, to show and test that it is found out. Not in the help, and no key of
    // the config file: nobody should come across it.
    #[arg(long, hide = true)]
    cheat: bool,
}

/// Runs a node. The first line of the answer says where it listens, for people and programs.
pub(crate) async fn run(args: Args, context: &Context) -> Result<Exit, Failure> {
    // From here on a signal is a request, even one that comes while the node starts.
    let interrupted = interrupted();
    tokio::pin!(interrupted);
    let joins = !args.join.is_empty();
    let options = Options {
        listen: args.listen,
        join: args.join,
        slots: args.slots,
        flags: args.settings.flags,
        cheat: args.cheat,
        ..context.options()
    };
    let start = async {
        crate::identity::prepare(context, &options).await?;
        Ok::<_, Failure>(Node::start(options).await?)
    };
    let node = tokio::select! {
        node = start => node?,
        _ = &mut interrupted => return Ok(Exit::Done),
    };
    if let Some(warning) = node.warning() {
        context.printer.note(format!("warning: {warning}"));
    }
    let mut client = connect_own(&control_socket(&context.data)).await?;
    let info = client.node().await?;
    let greeting = json!({ "id": info.id, "listen": info.listen, "slots": info.slots });
    context.printer.answer(&greeting, || text(&info))?;
    let ending = tokio::select! {
        ending = interrupted => ending,
        () = node.stopped() => Ending::Now,
        failure = tell_of_joining(context, &mut client, joins) => return Err(failure),
    };
    if ending == Ending::Soon {
        drain(context, &node, args.grace).await;
    }
    context.printer.note("stopping");
    if timeout(STOP_TIMEOUT, node.stop()).await.is_err() {
        context.printer.note("the node did not stop in time; what it had acknowledged is on disk");
    }
    Ok(Exit::Done)
}

/// Lets the node finish what is begun, for so long at most or until somebody asks again.
async fn drain(context: &Context, node: &Node, grace: Duration) {
    let Ok(mut client) = connect_own(&control_socket(&context.data)).await else { return };
    match client.node().await {
        Ok(info) if info.slots_busy == 0 => return,
        Ok(_) | Err(_) => {}
    }
    if client.drain(true).await.is_err() {
        return;
    }
    context.printer.note("finishing what is begun; Ctrl-C stops at once");
    tokio::select! {
        () = node.stopped() => {}
        _ = interrupted() => {}
        () = tokio::time::sleep(grace) => {
            context.printer.note("not all of it was done in time; others will do it");
        }
    }
}

/// Says whom the node can't reach, until it has reached somebody; ends only if the node is broken.
async fn tell_of_joining(context: &Context, client: &mut Client, joins: bool) -> Failure {
    let mut said = Vec::new();
    let mut tick = interval(JOIN_LOOK_EVERY);
    if !joins {
        std::future::pending::<()>().await;
    }
    loop {
        tick.tick().await;
        let node = match client.node().await {
            Ok(node) => node,
            Err(error) => return error.into(),
        };
        if node.neighbours > 0 {
            context.printer.note(format!("connected to {}", count(node.neighbours as u64, "peer")));
            return std::future::pending().await;
        }
        if node.unreachable != said {
            for (join, why) in &node.unreachable {
                context.printer.note(format!("{join} cannot be reached: {why}; trying again"));
            }
            said = node.unreachable;
        }
    }
}

fn text(info: &NodeInfo) -> String {
    let (listen, port) = (info.listen, info.listen.port());
    let host =
        if listen.ip().is_unspecified() { "HOST".to_owned() } else { listen.ip().to_string() };
    let host = if listen.is_ipv6() && host != "HOST" { format!("[{host}]") } else { host };
    let hint = if host == "HOST" { ", HOST being this machine's address" } else { "" };
    let lends = count(info.slots, "slot");
    let (grid, private) =
        if info.open { ("an open grid", "") } else { ("a private grid", " --private") };
    format!(
        "listening on {listen}\nid {}\nlending {lends} to {grid}; stop with Ctrl-C\n\
         others join with `potluck worker{private} --join {host}:{port}`{hint}",
        info.id
    )
}

/// Costs nothing to speak of, and only until somebody is reached.
const JOIN_LOOK_EVERY: Duration = Duration::from_secs(1);
/// Generous: running units are killed, not waited for.
const STOP_TIMEOUT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::tests::node;

    fn shown(listen: &str) -> String {
        text(&NodeInfo { listen: listen.parse().unwrap(), ..node() })
    }

    #[test]
    fn others_are_told_an_address_that_they_can_join() {
        assert!(shown("127.0.0.1:7117").contains("--join 127.0.0.1:7117`"));
        assert!(shown("[::1]:7117").contains("--join [::1]:7117`"));
        let open = NodeInfo { open: true, ..node() };
        assert!(text(&open).contains("to an open grid") && !text(&open).contains("--private"));
        assert!(shown("0.0.0.0:7117").contains("`potluck worker --private --join HOST:7117`"));
        assert!(shown("0.0.0.0:7117").contains("--join HOST:7117`, HOST being"));
        assert!(shown("0.0.0.0:7117").starts_with("listening on 0.0.0.0:7117\n"));
    }
}
