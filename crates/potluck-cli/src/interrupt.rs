//! Ctrl-C and the termination signal.

use tokio::signal::unix::{SignalKind, signal};

/// How somebody wants the program to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    /// SIGINT: at once.
    Now,
    /// SIGTERM: as a system asks that shuts down or restarts a service.
    Soon,
}

/// Resolves when somebody wants the program to end: SIGINT or SIGTERM.
pub(crate) async fn interrupted() -> Ending {
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        // Without a handler the signals do what they do by default: they end us.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => Ending::Now,
        _ = terminate.recv() => Ending::Soon,
    }
}
