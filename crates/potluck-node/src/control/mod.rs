//! The local control interface: HTTP with JSON on a Unix socket in the data folder.
//!
//! Whoever can open the socket is the node's user: the folder is theirs alone. The command line is
//! just one client of it. What it says is in [`api`].

pub mod api;
mod answers;
mod evidence;
mod giving;
mod lending;
mod routes;

use std::path::{Path, PathBuf};

use potluck_unit::JobId;
use tokio::net::UnixListener;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tracing::warn;

use crate::hub::{Hub, Input};

/// The running interface.
#[derive(Debug)]
pub(crate) struct Control {
    socket: PathBuf,
    server: JoinHandle<()>,
}

impl Control {
    /// Stops answering and removes the socket.
    pub(crate) async fn close(self) {
        self.server.abort();
        let _ = self.server.await;
        if let Err(error) = std::fs::remove_file(&self.socket) {
            warn!("cannot remove {}: {error}", self.socket.display());
        }
    }
}

/// The way to the loop.
#[derive(Clone)]
pub(crate) struct Line {
    inputs: mpsc::Sender<Input>,
    news: broadcast::Sender<JobId>,
    stop: watch::Sender<bool>,
    manner: Manner,
}

/// What the node was started with and the peer does not tell.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Manner {
    pub(crate) slots: u16,
    pub(crate) open: bool,
}

impl Line {
    /// Asks the loop and waits for its answer; none if the node is stopping.
    pub(crate) async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&mut Hub) -> T + Send + 'static,
    ) -> Option<T> {
        let (sender, answer) = oneshot::channel();
        let ask = Input::Ask(Box::new(move |hub| {
            // Who asked may have gone.
            let _ = sender.send(question(hub));
        }));
        self.inputs.send(ask).await.ok()?;
        answer.await.ok()
    }
}

/// Starts answering on `socket`. A socket left behind by a node that was killed is replaced: the
/// data folder's lock is ours, so nobody can be behind it.
pub(crate) fn serve(
    socket: &Path,
    inputs: mpsc::Sender<Input>,
    news: broadcast::Sender<JobId>,
    stop: watch::Sender<bool>,
    manner: Manner,
) -> Result<Control, String> {
    let fail = |error: std::io::Error| {
        format!(
            "cannot open the control socket {}: {error}; a path of at most 107 bytes is needed",
            socket.display()
        )
    };
    match std::fs::remove_file(socket) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(fail(error)),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(socket).map_err(fail)?;
    let router = routes::router(Line { inputs, news, stop, manner });
    let server = tokio::spawn(async move {
        if let Err(error) = axum::serve(listener, router).await {
            warn!("the control interface ended: {error}");
        }
    });
    Ok(Control { socket: socket.to_owned(), server })
}
