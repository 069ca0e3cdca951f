//! `potluck id`: this node's name.

use crate::Context;
use crate::exit::{Exit, Failure};

/// What can be said.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {}

/// Prints the peer id of the data folder, which gets a key if it has none.
pub(crate) fn run(_: &Args, context: &Context) -> Result<Exit, Failure> {
    let id = potluck_node::read_or_create_key(&context.data)?.id().to_string();
    context.printer.answer(&serde_json::json!({ "id": id }), || id.clone())?;
    Ok(Exit::Done)
}
