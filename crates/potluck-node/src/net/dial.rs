//! Dialling: for a neighbour, or for blobs only.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};

use potluck_unit::PeerId;
use quinn::{Connection, ConnectionError};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout_at};

use super::links::{Activity, Ask, Busy};
use super::{NetEvent, Shared, Source, blobs, code, link, reason, tls};

/// Dials one address for a neighbour and serves it; or tells why not.
pub(crate) async fn neighbour(shared: Arc<Shared>, address: SocketAddr, expect: Option<PeerId>) {
    let begun = Instant::now();
    let deadline = begun + shared.limits.dial_timeout;
    let end = match shared.dials.try_acquire() {
        Ok(_permit) => {
            let dialled = timeout_at(deadline, ask(&shared, address, expect)).await;
            dialled.unwrap_or_else(|_elapsed| Err(End::Failed(no_answer(&shared))))
        }
        Err(_full) => {
            let max = shared.limits.dials_max;
            Err(End::Failed(format!("more than {max} dials at once; try again later")))
        }
    };
    let end = match end {
        Ok(asked) => serve(&shared, asked).await,
        Err(end) => Err(end),
    };
    let reason = match end {
        Ok(()) => return,
        Err(End::Failed(reason)) => reason,
        // The other connection is announced, or was; if it was before this dial, this one failed.
        Err(End::Duplicate(peer)) => {
            let up = async {
                loop {
                    // Before the look, so that nobody comes between the two.
                    let came = shared.came.notified();
                    if is_up(&shared, &peer) {
                        return;
                    }
                    came.await;
                }
            };
            match timeout_at(deadline, up).await {
                Ok(()) if up_since(&shared, &peer, begun) => return,
                Ok(()) => format!("peer {} is a neighbour already", peer.short()),
                Err(_elapsed) => no_answer(&shared),
            }
        }
    };
    shared.tell(NetEvent::DialFailed { address, reason }).await;
}

/// A dial that has come as far as it can without the other side's word.
struct Asked {
    peer: PeerId,
    connection: Connection,
    outbox: quinn::SendStream,
    inbox: quinn::RecvStream,
    _asking: Asking,
    _tracked: super::Tracked,
}

/// How a dial ends without a neighbour.
enum End {
    Failed(String),
    /// There is another connection to this peer, or there will be.
    Duplicate(PeerId),
}

/// Takes an entry in the table of dials back, however the dial ends.
struct Asking {
    shared: Arc<Shared>,
    peer: PeerId,
    connection: Connection,
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.shared.links().forget_ask(&self.peer, &self.connection);
    }
}

/// Connects, asks to be a neighbour and waits for the answer.
async fn ask(
    shared: &Arc<Shared>,
    address: SocketAddr,
    expect: Option<PeerId>,
) -> Result<Asked, End> {
    if expect.is_some_and(|peer| is_up(shared, &peer)) {
        let peer = expect.map_or_else(String::new, |peer| peer.short());
        return Err(End::Failed(format!("peer {peer} is a neighbour already")));
    }
    let (connection, peer) = connect(shared, address, expect).await.map_err(End::Failed)?;
    let tracked = shared.track(&connection);
    if shared.links().ask(peer, &connection) == Ask::Duplicate {
        connection.close(code::DUPLICATE, b"another connection is kept");
        return Err(End::Duplicate(peer));
    }
    let asking = Asking { shared: shared.clone(), peer, connection: connection.clone() };
    let answered = async {
        let outbox = link::open(&connection).await?;
        let inbox = link::opened(&connection).await?;
        Ok((outbox, inbox))
    };
    let answered: Result<_, String> = answered.await;
    match answered {
        Ok((outbox, inbox)) => {
            Ok(Asked { peer, connection, outbox, inbox, _asking: asking, _tracked: tracked })
        }
        Err(_) if is_duplicate(&connection) => Err(End::Duplicate(peer)),
        Err(reason) => Err(End::Failed(reason)),
    }
}

/// Serves a neighbour that has answered, until it is gone.
async fn serve(shared: &Arc<Shared>, asked: Asked) -> Result<(), End> {
    let activity = Arc::new(Activity::default());
    let Asked { peer, connection, outbox, inbox, _asking, _tracked } = asked;
    let ran = tokio::select! {
        ran = link::run(shared, peer, &connection, Some(outbox), inbox) => ran,
        never = blobs::answer(shared, peer, &connection, &activity) => match never {},
    };
    ran.map_err(|_duplicate| End::Duplicate(peer))
}

/// A connection to `source` for blobs: the neighbour's, or one that is there, or a new one.
pub(crate) async fn for_blobs(
    shared: &Arc<Shared>,
    source: &Source,
) -> Result<(Connection, Option<Busy>), String> {
    if let Some(link) = shared.links().blob_link(&source.peer) {
        return Ok(link);
    }
    if source.addresses.is_empty() {
        return Err("it is no neighbour and its address is not known".to_owned());
    }
    let connection = first_to_answer(shared, source).await?;
    let known = shared.links().insert_blob_link(source.peer, &connection);
    match known {
        Ok(busy) => {
            tokio::spawn(keep_for_blobs(shared.clone(), source.peer, connection.clone()));
            Ok((connection, Some(busy)))
        }
        Err(known) => {
            connection.close(code::DUPLICATE, b"another connection is kept");
            Ok(known)
        }
    }
}

/// Dials all addresses of a source at once.
async fn first_to_answer(shared: &Arc<Shared>, source: &Source) -> Result<Connection, String> {
    let mut dials = JoinSet::new();
    for &address in source.addresses.iter().take(shared.limits.addresses_per_source_max) {
        let (shared, peer) = (shared.clone(), source.peer);
        dials.spawn(async move {
            let deadline = Instant::now() + shared.limits.dial_timeout;
            let dialled = timeout_at(deadline, connect(&shared, address, Some(peer))).await;
            let dialled = dialled.unwrap_or_else(|_elapsed| Err(no_answer(&shared)));
            dialled.map_err(|reason| format!("{address}: {reason}"))
        });
    }
    let mut reasons = Vec::new();
    while let Some(dialled) = dials.join_next().await {
        match dialled {
            Ok(Ok((connection, _))) => return Ok(connection),
            Ok(Err(reason)) => reasons.push(reason),
            Err(_panicked) => {}
        }
    }
    Err(reasons.join(", "))
}

/// Keeps the books of a connection for blobs only, and closes it when it is idle.
async fn keep_for_blobs(shared: Arc<Shared>, peer: PeerId, connection: Connection) {
    let _tracked = shared.track(&connection);
    let mut begun = 0;
    loop {
        tokio::select! {
            () = sleep(shared.limits.blob_idle) => {}
            _ = connection.closed() => {}
        }
        let stays = shared.links().retire_blob_link(&peer, &connection, begun);
        match stays {
            Some(requests) => begun = requests,
            None => return,
        }
    }
}

/// Connects to whoever is at this address.
async fn connect(
    shared: &Shared,
    address: SocketAddr,
    expect: Option<PeerId>,
) -> Result<(Connection, PeerId), String> {
    if expect == Some(shared.me) {
        return Err(OWN_ADDRESS.to_owned());
    }
    if let Some(why) = &*shared.shut() {
        return Err(format!("this node does not use the network now: {why}"));
    }
    let seen = Arc::new(OnceLock::new());
    let client = shared.identity.client(expect, seen.clone()).map_err(|error| error.to_string())?;
    let connecting = shared
        .endpoint
        .connect_with(client, address, tls::SERVER_NAME)
        .map_err(|error| format!("it can't be dialled from here: {error}"))?;
    let connected = connecting.await.map_err(|error| match (seen.get(), expect) {
        (Some(found), _) if *found == shared.me => OWN_ADDRESS.to_owned(),
        (Some(found), Some(expected)) if *found != expected => {
            format!("peer {} answers there, not {}", found.short(), expected.short())
        }
        (_, _) if error == ConnectionError::TimedOut => no_answer(shared),
        (_, _) => reason::of_connection(&error),
    });
    let connection = connected?;
    let peer = tls::peer_of(&connection).ok_or("it has shown no key")?;
    if peer == shared.me {
        connection.close(code::DONE, b"own address");
        return Err(OWN_ADDRESS.to_owned());
    }
    Ok((connection, peer))
}

fn is_duplicate(connection: &Connection) -> bool {
    match connection.close_reason() {
        Some(ConnectionError::ApplicationClosed(close)) => close.error_code == code::DUPLICATE,
        // Only the table closes it on this side, for an inbound one.
        Some(ConnectionError::LocallyClosed) => true,
        _ => false,
    }
}

fn is_up(shared: &Shared, peer: &PeerId) -> bool {
    let links = shared.links();
    links.neighbour(peer).is_some_and(|link| link.connection.close_reason().is_none())
}

fn up_since(shared: &Shared, peer: &PeerId, begun: Instant) -> bool {
    shared.links().neighbour(peer).is_some_and(|link| link.since >= begun.into_std())
}

fn no_answer(shared: &Shared) -> String {
    format!("no answer within {} s", shared.limits.dial_timeout.as_secs_f32())
}

const OWN_ADDRESS: &str = "this is our own address";
