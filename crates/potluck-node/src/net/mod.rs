//! The network: one UDP socket, QUIC connections to neighbours named by their keys, frames of
//! gossip between them, and blobs by request.
//!
//! Nobody can make this node wait: every neighbour has its own writer with a bounded queue, and its
//! own reader, which alone waits when the node is slow to take events. What a frame says is the
//! peer's business; that a blob is what its id says is checked here.

mod accept;
mod blobs;
mod bucket;
mod dial;
mod limits;
mod link;
mod links;
mod meter;
mod pace;
mod reason;
mod socket;
#[cfg(test)]
mod tests;
mod tls;

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use potluck_unit::{BlobId, Key, Message, PeerId, ResultHash};
use quinn::{Connection, Endpoint, Runtime as _, TokioRuntime};
use tokio::sync::{Semaphore, mpsc};

pub(crate) use blobs::FetchError;
#[cfg_attr(not(test), expect(unused_imports, reason = "who branches on it comes later"))]
pub(crate) use blobs::FetchFault;
pub(crate) use limits::NetLimits;
use links::{Duplicate, Link, Links};
pub(crate) use meter::{Meter, Moved, Rates};
pub(crate) use tls::Grid;

/// A node's place in the network. Clones are the same place; when the last is dropped without
/// [`Net::close`], the neighbours are left without a word.
#[derive(Debug, Clone)]
pub(crate) struct Net(Arc<Handle>);

/// What happens on the network, in order for each peer: `Up`, then `Frame`s, then `Down`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NetEvent {
    /// A neighbour is connected. Told once until it is `Down`, whoever dialled and however often.
    Up {
        /// Who.
        peer: PeerId,
        /// Where, as seen from here; never an IPv4 address in IPv6 clothes.
        address: SocketAddr,
        /// Whether the connection was dialled from here.
        outbound: bool,
    },
    /// A neighbour is gone.
    Down {
        /// Who.
        peer: PeerId,
        /// Why, for a person.
        reason: String,
    },
    /// A neighbour sent one frame, of at most `Message::BYTES_MAX` bytes. Nothing in it is checked.
    /// When a connection has just been replaced, a frame of the one before may still come.
    Frame {
        /// Who.
        peer: PeerId,
        /// What.
        bytes: Vec<u8>,
    },
    /// A [`Net::dial`] came to nothing.
    DialFailed {
        /// Where to.
        address: SocketAddr,
        /// Why, for a person.
        reason: String,
    },
}

/// What can be fetched. Both are checked against the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Wanted {
    /// A blob by its whole id.
    Blob(BlobId),
    /// The body of an outcome by R, the first 16 bytes of its id.
    Body(ResultHash),
}

impl Wanted {
    /// Whether bytes with this id are what is wanted.
    pub(crate) fn is(&self, id: &BlobId) -> bool {
        match self {
            Wanted::Blob(wanted) => wanted == id,
            Wanted::Body(wanted) => *wanted == id.result_hash(),
        }
    }
}

impl fmt::Display for Wanted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Wanted::Blob(id) => write!(f, "blob {}", id.short()),
            Wanted::Body(result) => write!(f, "result {}", result.short()),
        }
    }
}

/// Somebody who may have a blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Source {
    /// Who.
    pub(crate) peer: PeerId,
    /// Where, if it is not a neighbour.
    pub(crate) addresses: Vec<SocketAddr>,
}

/// What this node hands out to others.
pub(crate) trait BlobSource: Send + Sync {
    /// The bytes, if they are here. May block on the disk: it is called where that harms nobody.
    fn read(&self, wanted: &Wanted) -> Option<Vec<u8>>;
}

/// Why there is no network. Nothing has changed.
#[derive(Debug)]
pub(crate) enum BindError {
    /// The address can't be listened on.
    Listen(SocketAddr, std::io::Error),
    /// The identity can't be used for TLS: a bug, or a broken build.
    Identity(rustls::Error),
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            BindError::Listen(address, error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                write!(
                    f,
                    "cannot listen on {address}: address already in use; is another node running? \
                     choose another with --listen"
                )
            }
            BindError::Listen(address, error) => {
                write!(f, "cannot listen on {address}: {error}; choose another with --listen")
            }
            BindError::Identity(error) => {
                write!(f, "cannot use this node's key for TLS: {error}")
            }
        }
    }
}

impl std::error::Error for BindError {}

/// What went over the network so far.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct NetStats {
    /// Frames written to neighbours.
    pub(crate) frames_sent: u64,
    /// Bytes of these, without headers.
    pub(crate) frame_bytes_sent: u64,
    /// Frames taken from neighbours.
    pub(crate) frames_received: u64,
    /// Bytes of these, without headers.
    pub(crate) frame_bytes_received: u64,
    /// Frames that were not sent: no such neighbour, its queue full, or too long.
    pub(crate) frames_dropped: u64,
    /// Bytes of blobs handed out.
    pub(crate) blob_bytes_sent: u64,
    /// Bytes of blobs fetched, useful or not.
    pub(crate) blob_bytes_received: u64,
    /// Bytes that left by the socket, as an interface counts them: every datagram with its headers.
    pub(crate) wire_bytes_sent: u64,
    /// Bytes that arrived at the socket, likewise, wanted or not.
    pub(crate) wire_bytes_received: u64,
    /// Inbound connections that were turned away.
    pub(crate) refused: u64,
    /// The neighbours now.
    pub(crate) neighbours: BTreeMap<PeerId, NeighbourStats>,
}

/// One neighbour now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NeighbourStats {
    /// Where, as seen from here.
    pub(crate) address: SocketAddr,
    /// Whether the connection was dialled from here.
    pub(crate) outbound: bool,
    /// The current estimate of the round trip.
    pub(crate) rtt: Duration,
    /// How long it has been connected.
    pub(crate) age: Duration,
    /// What has moved over this connection, headers included.
    pub(crate) moved: Moved,
}

impl Net {
    /// Listens on `listen` (one socket, for dialling too) and reports to `events`. `blobs` answers
    /// the requests of others. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// If the address can't be bound.
    pub(crate) fn bind(
        key: &Key,
        listen: SocketAddr,
        events: mpsc::Sender<NetEvent>,
        blobs: Arc<dyn BlobSource>,
        grid: Grid,
    ) -> Result<Net, BindError> {
        Net::bind_with(key, listen, events, blobs, grid, NetLimits::default())
    }

    /// [`Net::bind`] with other bounds.
    pub(crate) fn bind_with(
        key: &Key,
        listen: SocketAddr,
        events: mpsc::Sender<NetEvent>,
        blobs: Arc<dyn BlobSource>,
        grid: Grid,
        limits: NetLimits,
    ) -> Result<Net, BindError> {
        let refused = |error| BindError::Listen(listen, error);
        let socket = UdpSocket::bind(listen).map_err(refused)?;
        let identity = tls::Identity::of(key, grid);
        let server = identity.server().map_err(BindError::Identity)?;
        let meter = Arc::new(Meter::default());
        let socket = TokioRuntime.wrap_udp_socket(socket).map_err(refused)?;
        let socket = Arc::new(socket::Metered::new(socket, meter.clone()));
        let (config, runtime) = (identity.endpoint(), Arc::new(TokioRuntime));
        let endpoint = Endpoint::new_with_abstract_socket(config, Some(server), socket, runtime);
        let endpoint = endpoint.map_err(refused)?;
        let local = plain(endpoint.local_addr().map_err(refused)?);
        let shared = Arc::new(Shared {
            me: key.id(),
            local,
            endpoint,
            identity,
            events,
            blobs,
            links: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            came: tokio::sync::Notify::new(),
            counters: Counters::default(),
            dials: Semaphore::new(limits.dials_max),
            answers: blobs::Answers::new(&limits),
            pace: pace::Pace::new(meter.clone(), limits.bytes_per_s_min),
            meter,
            shut: Mutex::default(),
            limits,
        });
        tokio::spawn(accept::accept(shared.clone()));
        Ok(Net(Arc::new(Handle(shared))))
    }

    /// Where this node listens. The port is the real one, if 0 was asked for.
    pub(crate) fn local_address(&self) -> SocketAddr {
        self.0.0.local
    }

    /// Starts to dial; ends in one `Up` of whoever answers, or in `DialFailed`. With `expect`, no
    /// other peer is accepted.
    pub(crate) fn dial(&self, address: SocketAddr, expect: Option<PeerId>) {
        tokio::spawn(dial::neighbour(self.0.0.clone(), plain(address), expect));
    }

    /// Queues one frame for a neighbour, without ever waiting. Whether it was queued: not if there
    /// is no such neighbour, or its queue is full, or the frame is too long.
    pub(crate) fn send(&self, peer: &PeerId, frame: Arc<[u8]>) -> bool {
        let shared = &self.0.0;
        let queued = frame.len() <= Message::BYTES_MAX
            && shared.links().neighbour(peer).is_some_and(|link| link.queue.push(frame));
        if !queued {
            shared.counters.frames_dropped.fetch_add(1, Ordering::Relaxed);
        }
        queued
    }

    /// Disconnects a neighbour, if it is one; `Down` follows. What is queued for it is dropped.
    pub(crate) fn hang_up(&self, peer: &PeerId) {
        if let Some(link) = self.0.0.links().neighbour(peer) {
            link.connection.close(code::HUNG_UP, b"hung up");
        }
    }

    /// Fetches what is wanted from the first of `sources` that has it, at most `bytes_max` bytes,
    /// checked against its id. A neighbour is asked over its connection, anybody else is dialled.
    ///
    /// # Errors
    /// If no source had it, with what each of them did. Takes up to 5 s for a source that can't be
    /// reached and 10 s for one that falls silent.
    pub(crate) async fn fetch(
        &self,
        wanted: Wanted,
        sources: &[Source],
        bytes_max: u64,
    ) -> Result<Vec<u8>, FetchError> {
        blobs::fetch(&self.0.0, wanted, sources, bytes_max).await
    }

    /// What went over the network so far, and who is connected.
    pub(crate) fn stats(&self) -> NetStats {
        let shared = &self.0.0;
        let links = shared.links();
        let moved = shared.meter.moved();
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let counters = &shared.counters;
        NetStats {
            frames_sent: of(&counters.frames_sent),
            frame_bytes_sent: of(&counters.frame_bytes_sent),
            frames_received: of(&counters.frames_received),
            frame_bytes_received: of(&counters.frame_bytes_received),
            frames_dropped: of(&counters.frames_dropped),
            blob_bytes_sent: of(&counters.blob_bytes_sent),
            blob_bytes_received: of(&counters.blob_bytes_received),
            wire_bytes_sent: moved.sent,
            wire_bytes_received: moved.received,
            refused: of(&counters.refused),
            neighbours: links
                .neighbours()
                .map(|(peer, link)| (*peer, NeighbourStats::of(link)))
                .collect(),
        }
    }

    /// Other caps from now on. Connections stay.
    pub(crate) fn set_rates(&self, rates: Rates) {
        self.0.0.meter.set_rates(rates, socket::now());
    }

    /// Stops using the network, or uses it again. `why` is what neighbours are told, such as `its
    /// traffic quota is used up`; none opens. After the goodbyes, nothing leaves, dials and fetches
    /// fail, and whoever calls gets no answer. What arrives all the same is counted and thrown away.
    pub(crate) fn set_shut(&self, why: Option<&str>) {
        let shared = &self.0.0;
        let was = std::mem::replace(&mut *shared.shut(), why.map(str::to_owned));
        match (was, why) {
            (None, Some(why)) => {
                shared.links().hang_up(code::SHUT, why.as_bytes());
                let shared = shared.clone();
                tokio::spawn(async move {
                    tokio::time::sleep(shared.limits.flush_timeout).await;
                    shared.meter.set_shut(shared.shut().is_some());
                });
            }
            (Some(_), None) => shared.meter.set_shut(false),
            (None, None) | (Some(_), Some(_)) => {}
        }
    }

    /// The meter of the socket.
    pub(crate) fn meter(&self) -> &Arc<Meter> {
        &self.0.0.meter
    }

    /// Sends what is queued, for half a second at most, tells everybody and closes the socket.
    pub(crate) async fn close(&self) {
        let shared = &self.0.0;
        // Taking the links ends their queues, and each writer closes its connection when all of
        // its frames have arrived.
        let connections = shared.links().close();
        let flushed = async {
            for connection in &connections {
                connection.closed().await;
            }
        };
        let _ = tokio::time::timeout(shared.limits.flush_timeout, flushed).await;
        shared.endpoint.close(code::LEAVING, b"this node is stopping");
        let told = shared.endpoint.wait_idle();
        let _ = tokio::time::timeout(Duration::from_millis(100), told).await;
    }
}

impl NeighbourStats {
    fn of(link: &Link) -> NeighbourStats {
        NeighbourStats {
            address: plain(link.connection.remote_address()),
            outbound: link.outbound,
            rtt: link.connection.rtt(),
            age: link.since.elapsed(),
            moved: moved_over(&link.connection),
        }
    }
}

/// What has moved over a connection, headers included.
fn moved_over(connection: &Connection) -> Moved {
    let (stats, header) = (connection.stats(), meter::header_bytes(connection.remote_address()));
    Moved {
        sent: stats.udp_tx.bytes + stats.udp_tx.datagrams * header,
        received: stats.udp_rx.bytes + stats.udp_rx.datagrams * header,
    }
}

/// Closes the endpoint with the last [`Net`]: its tasks keep the rest alive until then.
#[derive(Debug)]
struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.endpoint.close(code::LEAVING, b"this node is stopping");
    }
}

/// What all tasks of one [`Net`] have in common.
struct Shared {
    me: PeerId,
    local: SocketAddr,
    endpoint: Endpoint,
    identity: tls::Identity,
    events: mpsc::Sender<NetEvent>,
    blobs: Arc<dyn BlobSource>,
    links: Mutex<Links>,
    /// Held while a neighbour comes or goes and that is told, so that what is told is in order.
    turn: tokio::sync::Mutex<()>,
    /// Rung whenever a neighbour has come.
    came: tokio::sync::Notify,
    counters: Counters,
    dials: Semaphore,
    answers: blobs::Answers,
    meter: Arc<Meter>,
    pace: pace::Pace,
    /// Why the network is not used, while it is not.
    shut: Mutex<Option<String>>,
    limits: NetLimits,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("me", &self.me).field("local", &self.local).finish()
    }
}

#[derive(Debug, Default)]
struct Counters {
    frames_sent: AtomicU64,
    frame_bytes_sent: AtomicU64,
    frames_received: AtomicU64,
    frame_bytes_received: AtomicU64,
    frames_dropped: AtomicU64,
    blob_bytes_sent: AtomicU64,
    blob_bytes_received: AtomicU64,
    refused: AtomicU64,
}

impl Shared {
    /// The table. Never held across an await; every change under it leaves it whole, so a panic
    /// elsewhere in a holder does no harm.
    fn links(&self) -> MutexGuard<'_, Links> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Why the network is not used, if it is not.
    fn shut(&self) -> MutexGuard<'_, Option<String>> {
        self.shut.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the node. That nobody listens any more is no error: the node is stopping.
    async fn tell(&self, event: NetEvent) {
        let _ = self.events.send(event).await;
    }

    /// Makes `link` the connection of `peer` and announces it.
    async fn admit(&self, peer: PeerId, link: Link) -> Result<(), Duplicate> {
        let _turn = self.turn.lock().await;
        if self.shut().is_some() {
            return Err(Duplicate);
        }
        let (connection, outbound) = (link.connection.clone(), link.outbound);
        let replaced = self.links().admit(&self.me, peer, link, self.limits.simultaneous_max)?;
        if let Some(old) = replaced {
            old.connection.close(code::REPLACED, b"replaced by a new connection");
            let reason = "it has connected anew".to_owned();
            self.tell(NetEvent::Down { peer, reason }).await;
        }
        let address = plain(connection.remote_address());
        self.tell(NetEvent::Up { peer, address, outbound }).await;
        self.came.notify_waiters();
        Ok(())
    }

    /// Announces that `peer` is gone, if `connection` was its one.
    async fn dismiss(&self, peer: PeerId, connection: &Connection, reason: String) {
        let _turn = self.turn.lock().await;
        let was = self.links().dismiss(&peer, connection);
        // When this node closes, the table is emptied at once, and each of them is told of here.
        if was || connection.close_reason().is_some() && self.links().closing() {
            self.tell(NetEvent::Down { peer, reason }).await;
        }
    }

    /// Keeps the books of a connection until the guard is dropped, which also closes it.
    fn track(self: &Arc<Shared>, connection: &Connection) -> Tracked {
        self.links().track(connection);
        Tracked { shared: self.clone(), connection: connection.clone() }
    }
}

/// A connection in the books.
#[derive(Debug)]
struct Tracked {
    shared: Arc<Shared>,
    connection: Connection,
}

impl Drop for Tracked {
    fn drop(&mut self) {
        self.connection.close(code::DONE, b"");
        self.shared.links().untrack(&self.connection);
    }
}

/// What a connection is closed with.
mod code {
    use quinn::VarInt;

    /// It is of no more use.
    pub(super) const DONE: VarInt = VarInt::from_u32(0);
    /// There is another connection between the same two.
    pub(super) const DUPLICATE: VarInt = VarInt::from_u32(1);
    /// There is a newer connection between the same two.
    pub(super) const REPLACED: VarInt = VarInt::from_u32(2);
    /// The other side is not wanted as a neighbour.
    pub(super) const HUNG_UP: VarInt = VarInt::from_u32(3);
    /// The other side broke the protocol, or does not read.
    pub(super) const MISBEHAVED: VarInt = VarInt::from_u32(4);
    /// The node is stopping.
    pub(super) const LEAVING: VarInt = VarInt::from_u32(5);
    /// The node does not use the network for now, for the reason given.
    pub(super) const SHUT: VarInt = VarInt::from_u32(6);
}

/// The first byte of a gossip stream.
const GOSSIP: u8 = 1;

/// The same address without IPv4 in IPv6 clothes, which a dual-stack socket shows.
fn plain(address: SocketAddr) -> SocketAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), address.port()),
        IpAddr::V6(_) => address,
    }
}

/// Now, for the ages of links.
fn now() -> Instant {
    Instant::now()
}
