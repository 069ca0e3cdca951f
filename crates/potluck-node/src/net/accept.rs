//! Who comes in: handshakes with strangers, and what a connection that others dialled may become.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use quinn::{Connection, Incoming};
use tokio::time::{sleep, timeout};

use super::links::{Activity, Door};
use super::{Shared, blobs, code, link, tls};

/// Takes inbound connections until the endpoint is closed.
pub(crate) async fn accept(shared: Arc<Shared>) {
    while let Some(incoming) = shared.endpoint.accept().await {
        if shared.shut().is_some() {
            incoming.ignore();
            continue;
        }
        let address = incoming.remote_address();
        let proven = incoming.remote_address_validated();
        let door = shared.links().door(address, proven, &shared.limits);
        match door {
            Door::Open => {
                let place = Place::take(&shared, address);
                tokio::spawn(welcome(shared.clone(), incoming, place));
            }
            // It fails only if the address was proven by then, and then it may knock again.
            Door::Prove => drop(incoming.retry()),
            Door::Full => {
                shared.counters.refused.fetch_add(1, Ordering::Relaxed);
                incoming.refuse();
            }
        }
    }
}

async fn welcome(shared: Arc<Shared>, incoming: Incoming, mut place: Place) {
    let Ok(connecting) = incoming.accept() else { return };
    let shaken = timeout(shared.limits.greeting_timeout, connecting).await;
    place.shaken();
    match shaken {
        Ok(Ok(connection)) => serve(&shared, &connection).await,
        Ok(Err(error)) => tracing::debug!(%error, "an inbound handshake failed"),
        Err(_elapsed) => tracing::debug!("an inbound handshake took too long"),
    }
}

/// Answers requests and, if the other side wants to be a neighbour, takes it as one.
async fn serve(shared: &Arc<Shared>, connection: &Connection) {
    let _tracked = shared.track(connection);
    let Some(peer) = tls::peer_of(connection).filter(|peer| *peer != shared.me) else { return };
    let activity = Arc::new(Activity::default());
    let neighbour = async {
        match timeout(shared.limits.greeting_timeout, link::opened(connection)).await {
            Ok(Ok(inbox)) => {
                if link::run(shared, peer, connection, None, inbox).await.is_err() {
                    connection.close(code::DUPLICATE, b"another connection is kept");
                }
            }
            Ok(Err(reason)) => tracing::debug!(%peer, reason, "an inbound connection ended"),
            Err(_elapsed) => tokio::select! {
                () = until_idle(shared, &activity) => {}
                _ = connection.closed() => {}
            },
        }
    };
    tokio::select! {
        () = neighbour => {}
        never = blobs::answer(shared, peer, connection, &activity) => match never {},
    }
}

/// Waits until there has been no request for a while. Longer than the other side waits before it
/// closes, so that it is not cut off in the moment it asks again.
async fn until_idle(shared: &Shared, activity: &Activity) {
    let mut begun = activity.begun();
    loop {
        sleep(shared.limits.blob_idle * 2).await;
        if activity.idle_since(begun) {
            return;
        }
        begun = activity.begun();
    }
}

/// An inbound connection's place among those that may be open at once.
struct Place {
    shared: Arc<Shared>,
    address: SocketAddr,
    shaking: bool,
}

impl Place {
    fn take(shared: &Arc<Shared>, address: SocketAddr) -> Place {
        shared.links().enter(address);
        Place { shared: shared.clone(), address, shaking: true }
    }

    fn shaken(&mut self) {
        if std::mem::take(&mut self.shaking) {
            self.shared.links().shaken();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.shaken();
        self.shared.links().leave(self.address);
    }
}
