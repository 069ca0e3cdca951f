//! Ctrl-C and the termination signal.

use tokio::signal::unix::{SignalKind, signal};

/// Resolves when somebody wants the program to end: SIGINT or SIGTERM.
pub(crate) async fn interrupted() {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        // Without a handler the signals do what they do by default: they end us.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
}
