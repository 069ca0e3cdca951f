//! Who is connected: the one table behind a [`super::Net`], and the rule by which exactly one of two
//! simultaneous connections stays.
//!
//! The rule, the same on both sides: a dialler opens its gossip stream only if it has no neighbour
//! of that name and no other such dial under way; an acceptor accepts by its own first byte. When
//! both have dialled, the connection of the lower key stays. So at most one is ever announced.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use potluck_unit::PeerId;
use quinn::{Connection, VarInt};
use tokio::sync::mpsc;

use super::limits::NetLimits;

/// Every connection of this node and what it is for.
#[derive(Debug, Default)]
pub(crate) struct Links {
    /// Neighbours that were announced.
    neighbours: BTreeMap<PeerId, Link>,
    /// Dials that have opened their gossip stream and wait for the other side's first byte.
    asked: BTreeMap<PeerId, Connection>,
    /// Connections that this side dialled for blobs only.
    blobs: BTreeMap<PeerId, BlobLink>,
    /// Every open connection by its stable id.
    open: BTreeMap<usize, Connection>,
    inbound: usize,
    handshakes: usize,
    inbound_per_host: BTreeMap<IpAddr, usize>,
    closing: bool,
}

/// A neighbour's connection.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) connection: Connection,
    pub(crate) outbound: bool,
    pub(crate) since: Instant,
    pub(crate) queue: Queue,
}

/// A connection for blobs only and whether it is in use.
#[derive(Debug, Clone)]
pub(crate) struct BlobLink {
    pub(crate) connection: Connection,
    pub(crate) activity: Arc<Activity>,
}

/// What a dialler does once it knows who answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// Open the gossip stream.
    Yes,
    /// Don't: there is a connection to this peer, or there will be.
    Duplicate,
}

/// A connection that would be a neighbour's second one and is not wanted. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Duplicate;

/// Why an inbound connection is turned away. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Door {
    /// Come in.
    Open,
    /// First show that you can receive where you claim to be.
    Prove,
    /// Too many are here already.
    Full,
}

impl Links {
    /// A dialler has found `peer` at the other end of `connection`.
    pub(crate) fn ask(&mut self, peer: PeerId, connection: &Connection) -> Ask {
        let alive = |connection: &Connection| connection.close_reason().is_none();
        let known = self.neighbours.get(&peer).is_some_and(|link| alive(&link.connection));
        if self.closing || known || self.asked.get(&peer).is_some_and(alive) {
            return Ask::Duplicate;
        }
        self.asked.insert(peer, connection.clone());
        Ask::Yes
    }

    /// A dial that asked has ended, one way or another.
    pub(crate) fn forget_ask(&mut self, peer: &PeerId, connection: &Connection) {
        if self.asked.get(peer).is_some_and(|mine| mine.stable_id() == connection.stable_id()) {
            self.asked.remove(peer);
        }
    }

    /// Makes `link` the connection of `peer`. Returns the one that it takes the place of.
    pub(crate) fn admit(
        &mut self,
        me: &PeerId,
        peer: PeerId,
        link: Link,
        simultaneous_max: Duration,
    ) -> Result<Option<Link>, Duplicate> {
        if self.closing {
            return Err(Duplicate);
        }
        let asked = self.asked.get(&peer);
        if link.outbound {
            // Taken away by an inbound connection that was accepted meanwhile.
            if asked.map(Connection::stable_id) != Some(link.connection.stable_id()) {
                return Err(Duplicate);
            }
        } else {
            let mine = self.neighbours.get(&peer).map(|link| Mine {
                alive: link.connection.close_reason().is_none(),
                outbound: link.outbound,
                age: link.since.elapsed(),
            });
            let asking = asked.is_some_and(|mine| mine.close_reason().is_none());
            if refuses(me < &peer, asking, mine, simultaneous_max) {
                return Err(Duplicate);
            }
        }
        if let Some(asked) = self.asked.remove(&peer)
            && asked.stable_id() != link.connection.stable_id()
        {
            asked.close(super::code::DUPLICATE, b"another connection is kept");
        }
        Ok(self.neighbours.insert(peer, link))
    }

    /// Removes the neighbour if this connection still is its one. Whether it was.
    pub(crate) fn dismiss(&mut self, peer: &PeerId, connection: &Connection) -> bool {
        let mine = |link: &Link| link.connection.stable_id() == connection.stable_id();
        self.neighbours.get(peer).is_some_and(mine) && self.neighbours.remove(peer).is_some()
    }

    /// The link of a neighbour.
    pub(crate) fn neighbour(&self, peer: &PeerId) -> Option<&Link> {
        self.neighbours.get(peer)
    }

    /// All neighbours.
    pub(crate) fn neighbours(&self) -> impl Iterator<Item = (&PeerId, &Link)> {
        self.neighbours.iter()
    }

    /// A live connection over which `peer` can be asked for blobs, marked as in use.
    pub(crate) fn blob_link(&self, peer: &PeerId) -> Option<(Connection, Option<Busy>)> {
        let alive = |connection: &Connection| connection.close_reason().is_none();
        if let Some(link) = self.neighbours.get(peer).filter(|link| alive(&link.connection)) {
            return Some((link.connection.clone(), None));
        }
        let link = self.blobs.get(peer).filter(|link| alive(&link.connection))?;
        Some((link.connection.clone(), Some(link.activity.begin())))
    }

    /// Remembers a connection for blobs only, marked as in use. If there is one already, that one
    /// is returned and stays.
    pub(crate) fn insert_blob_link(
        &mut self,
        peer: PeerId,
        connection: &Connection,
    ) -> Result<Busy, (Connection, Option<Busy>)> {
        if let Some(known) = self.blob_link(&peer) {
            return Err(known);
        }
        let activity = Arc::new(Activity::default());
        let busy = activity.begin();
        self.blobs.insert(peer, BlobLink { connection: connection.clone(), activity });
        Ok(busy)
    }

    /// Removes a connection for blobs only if nobody uses it and nobody has since `begun` requests,
    /// or if it is lost. Returns how many requests there were if it stays.
    pub(crate) fn retire_blob_link(
        &mut self,
        peer: &PeerId,
        connection: &Connection,
        begun: u64,
    ) -> Option<u64> {
        let mine = |link: &&BlobLink| link.connection.stable_id() == connection.stable_id();
        let link = self.blobs.get(peer).filter(mine)?;
        if link.connection.close_reason().is_none() && !link.activity.idle_since(begun) {
            return Some(link.activity.begun());
        }
        self.blobs.remove(peer);
        None
    }

    /// Whether one more inbound connection from `address` is let in.
    pub(crate) fn door(&self, address: SocketAddr, proven: bool, limits: &NetLimits) -> Door {
        let from_host = self.inbound_per_host.get(&host_of(address)).copied().unwrap_or(0);
        let here = address.ip().to_canonical().is_loopback();
        if self.closing || self.inbound >= limits.inbound_max {
            return Door::Full;
        }
        let crowded = self.handshakes >= limits.handshakes_free_max
            || !here && from_host >= limits.inbound_per_host_max / 2;
        if crowded && !proven {
            // An address that was not proven may be somebody else's, and must not cost them.
            return Door::Prove;
        }
        if !here && from_host >= limits.inbound_per_host_max { Door::Full } else { Door::Open }
    }

    /// Counts an inbound connection in. It shakes hands first.
    pub(crate) fn enter(&mut self, address: SocketAddr) {
        self.inbound += 1;
        self.handshakes += 1;
        *self.inbound_per_host.entry(host_of(address)).or_default() += 1;
    }

    /// An inbound handshake is over.
    pub(crate) fn shaken(&mut self) {
        self.handshakes -= 1;
    }

    /// Counts an inbound connection out.
    pub(crate) fn leave(&mut self, address: SocketAddr) {
        self.inbound -= 1;
        let host = host_of(address);
        if let Some(count) = self.inbound_per_host.get_mut(&host) {
            *count -= 1;
            if *count == 0 {
                self.inbound_per_host.remove(&host);
            }
        }
    }

    /// A connection is open until [`Links::untrack`].
    pub(crate) fn track(&mut self, connection: &Connection) {
        self.open.insert(connection.stable_id(), connection.clone());
    }

    /// A connection has ended.
    pub(crate) fn untrack(&mut self, connection: &Connection) {
        self.open.remove(&connection.stable_id());
    }

    /// Closes every connection.
    pub(crate) fn hang_up(&self, code: VarInt, reason: &[u8]) {
        self.open.values().for_each(|connection| connection.close(code, reason));
    }

    /// Lets nobody in any more and takes all neighbours: their queues end with this.
    pub(crate) fn close(&mut self) -> Vec<Connection> {
        self.closing = true;
        std::mem::take(&mut self.neighbours).into_values().map(|link| link.connection).collect()
    }

    /// Whether [`Links::close`] was called.
    pub(crate) fn closing(&self) -> bool {
        self.closing
    }
}

/// The neighbour's connection that is there when another one comes in.
#[derive(Debug, Clone, Copy)]
struct Mine {
    alive: bool,
    outbound: bool,
    age: Duration,
}

/// Whether an inbound connection is refused as a duplicate. `lower`: whether our key is the lower.
fn refuses(lower: bool, asking: bool, mine: Option<Mine>, simultaneous_max: Duration) -> bool {
    // Whoever has a connection does not dial. So a second one means that the neighbour has lost the
    // first, unless its dial and ours have crossed, and then ours is young, and stays if we are the
    // lower.
    let crossed =
        mine.is_some_and(|mine| mine.alive && mine.outbound && mine.age < simultaneous_max);
    lower && (asking || crossed)
}

/// Frames that wait for one neighbour, bounded in number and bytes.
#[derive(Debug, Clone)]
pub(crate) struct Queue {
    frames: mpsc::Sender<Arc<[u8]>>,
    bytes: Arc<AtomicUsize>,
    bytes_max: usize,
}

/// The other end of a [`Queue`].
#[derive(Debug)]
pub(crate) struct Queued {
    frames: mpsc::Receiver<Arc<[u8]>>,
    bytes: Arc<AtomicUsize>,
}

impl Queue {
    pub(crate) fn new(frames_max: usize, bytes_max: usize) -> (Queue, Queued) {
        let (sender, receiver) = mpsc::channel(frames_max);
        let bytes = Arc::new(AtomicUsize::new(0));
        let queued = Queued { frames: receiver, bytes: bytes.clone() };
        (Queue { frames: sender, bytes, bytes_max }, queued)
    }

    /// Whether there was room for it.
    pub(crate) fn push(&self, frame: Arc<[u8]>) -> bool {
        let bytes = frame.len();
        let before = self.bytes.fetch_add(bytes, Ordering::Relaxed);
        let queued = before + bytes <= self.bytes_max && self.frames.try_send(frame).is_ok();
        if !queued {
            self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        }
        queued
    }
}

impl Queued {
    /// The next frame, or nothing once the queue is gone.
    pub(crate) async fn next(&mut self) -> Option<Arc<[u8]>> {
        self.frames.recv().await
    }

    /// A frame has been handed on.
    pub(crate) fn done(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Whether requests are under way on a connection, and how many there have been.
#[derive(Debug, Default)]
pub(crate) struct Activity {
    open: AtomicUsize,
    begun: AtomicU64,
}

/// A request under way; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Busy(Arc<Activity>);

impl Activity {
    pub(crate) fn begin(self: &Arc<Activity>) -> Busy {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.begun.fetch_add(1, Ordering::Relaxed);
        Busy(self.clone())
    }

    pub(crate) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    /// Whether nothing is under way and nothing has been since there were `begun` requests.
    pub(crate) fn idle_since(&self, begun: u64) -> bool {
        self.open.load(Ordering::Relaxed) == 0 && self.begun() == begun
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What counts as one host: an IPv4 address, or the /64 that every IPv6 customer has to themselves.
fn host_of(address: SocketAddr) -> IpAddr {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => ip.into(),
        IpAddr::V6(ip) => Ipv6Addr::from_bits(ip.to_bits() >> 64 << 64).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WINDOW: Duration = Duration::from_secs(5);

    fn mine(outbound: bool, age_s: u64) -> Option<Mine> {
        Some(Mine { alive: true, outbound, age: Duration::from_secs(age_s) })
    }

    #[test]
    fn of_two_crossing_dials_the_lower_keys_stays() {
        assert!(refuses(true, true, None, WINDOW));
        assert!(!refuses(false, true, None, WINDOW));
        assert!(refuses(true, false, mine(true, 1), WINDOW));
        assert!(!refuses(false, false, mine(true, 1), WINDOW));
    }

    #[test]
    fn a_neighbour_that_was_restarted_takes_the_place_of_what_it_was() {
        for lower in [true, false] {
            assert!(!refuses(lower, false, mine(true, 6), WINDOW));
            assert!(!refuses(lower, false, mine(false, 0), WINDOW));
        }
        let dead = Mine { alive: false, outbound: true, age: Duration::ZERO };
        assert!(!refuses(true, false, Some(dead), WINDOW));
    }

    #[test]
    fn a_queue_is_bounded_in_frames_and_in_bytes() {
        let (queue, _queued) = Queue::new(2, 100);
        assert!(!queue.push(vec![0; 101].into()));
        assert!(queue.push(vec![0; 60].into()));
        assert!(!queue.push(vec![0; 41].into()));
        assert!(queue.push(vec![0; 40].into()));
        let (queue, _queued) = Queue::new(2, 100);
        assert_eq!([(); 3].map(|()| queue.push(vec![0].into())), [true, true, false]);
    }

    #[test]
    fn one_host_gets_its_share_of_inbound_connections_and_must_prove_where_it_is() {
        let limits = NetLimits { inbound_per_host_max: 4, inbound_max: 7, ..NetLimits::default() };
        let mut links = Links::default();
        let address = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (here, there) = (address("127.0.0.1:1"), address("192.0.2.1:1"));
        assert_eq!(links.door(there, false, &limits), Door::Open);
        links.enter(there);
        links.enter(address("192.0.2.1:2"));
        assert_eq!(links.door(there, false, &limits), Door::Prove);
        assert_eq!(links.door(there, true, &limits), Door::Open);
        links.enter(there);
        links.enter(address("[::ffff:192.0.2.1]:3"));
        assert_eq!(links.door(there, true, &limits), Door::Full);
        assert_eq!(links.door(address("192.0.2.2:1"), false, &limits), Door::Open);
        links.leave(there);
        assert_eq!(links.door(there, true, &limits), Door::Open);
        (0..4).for_each(|_| links.enter(here));
        assert_eq!(links.door(here, true, &limits), Door::Full);
    }

    #[test]
    fn a_whole_ipv6_customer_counts_as_one_host() {
        let host = |text: &str| host_of(text.parse().unwrap());
        assert_eq!(host("[2001:db8:1:2::1]:1"), host("[2001:db8:1:2:ffff::9]:2"));
        assert_ne!(host("[2001:db8:1:2::1]:1"), host("[2001:db8:1:3::1]:1"));
    }
}
