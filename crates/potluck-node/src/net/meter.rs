//! What goes through the socket: counted as an interface counts it, held to the caps, or stopped
//! altogether. Pure bookkeeping: who calls brings the time, and does the waiting.
//!
//! Counted is what a packet is on the cable: the datagram, its UDP and IP headers, and the 14 bytes
//! of an Ethernet header, because that is what interfaces count and people read. What the kernel
//! sends of its own accord (ARP, ICMP) passes no socket and is not counted.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use tokio::sync::Notify;

use super::bucket::{Bucket, bytes_in};

/// How fast this node may be. None for as fast as it goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Rates {
    /// Bytes per second that leave, headers included.
    pub(crate) upload_per_s: Option<u64>,
    /// Bytes per second that arrive, headers included.
    pub(crate) download_per_s: Option<u64>,
}

/// Bytes in both directions, headers included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Moved {
    /// Bytes that left.
    pub(crate) sent: u64,
    /// Bytes that arrived, wanted or not.
    pub(crate) received: u64,
}

impl Moved {
    /// Both directions together.
    pub(crate) fn both(&self) -> u64 {
        self.sent.saturating_add(self.received)
    }
}

/// The meter of one socket.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    sent: AtomicU64,
    received: AtomicU64,
    /// Rings once when so many bytes have moved in both directions. 0 for never.
    mark: AtomicU64,
    passed: Notify,
    upload_capped: AtomicBool,
    download_capped: AtomicBool,
    upload: Mutex<Upload>,
    download: Mutex<Download>,
    /// Rung whenever a cap has changed.
    changed: Notify,
    shut: AtomicBool,
}

#[derive(Debug, Default)]
struct Upload {
    bucket: Option<Bucket>,
    /// What blobs may be handed to connections: it fills as fast as the other and says how much of
    /// what was handed over may not have left yet.
    blobs: Option<Bucket>,
    /// Who waits for the socket, in the order in which they came.
    line: VecDeque<(u64, Waker)>,
    tickets: u64,
}

#[derive(Debug, Default)]
struct Download {
    /// What the connections get of what has arrived.
    bucket: Option<Bucket>,
    /// What fetches may still ask others to send: what has arrived and what was asked for is taken
    /// from it.
    grants: Option<Bucket>,
    /// Whoever reads the socket, to be woken when a cap changes.
    reader: Option<Waker>,
}

/// Whether somebody who wants to send may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Now.
    Now,
    /// Not before this.
    At(Instant),
    /// Others come first; they will wake whoever is next.
    Later,
}

impl Meter {
    /// Other caps from now on.
    pub(crate) fn set_rates(&self, rates: Rates, now: Instant) {
        let set = |bucket: &mut Option<Bucket>, rate: Option<u64>| match (bucket.as_mut(), rate) {
            (Some(bucket), Some(rate)) => bucket.set_rate(rate, now),
            (None, Some(rate)) => *bucket = Some(Bucket::new(rate, now)),
            (_, None) => *bucket = None,
        };
        let waiting = {
            let mut upload = self.upload();
            set(&mut upload.bucket, rates.upload_per_s);
            set(&mut upload.blobs, rates.upload_per_s);
            self.upload_capped.store(rates.upload_per_s.is_some(), Ordering::Release);
            upload.line.iter().map(|(_, waker)| waker.clone()).collect::<Vec<_>>()
        };
        let reader = {
            let mut download = self.download();
            set(&mut download.bucket, rates.download_per_s);
            set(&mut download.grants, rates.download_per_s);
            self.download_capped.store(rates.download_per_s.is_some(), Ordering::Release);
            download.reader.take()
        };
        waiting.into_iter().chain(reader).for_each(Waker::wake);
        self.changed.notify_waiters();
    }

    /// Resolves when a cap changes after this was called.
    pub(crate) fn changed(&self) -> tokio::sync::futures::Notified<'_> {
        self.changed.notified()
    }

    /// Lets nothing through any more in either direction, or lets it through again.
    pub(crate) fn set_shut(&self, shut: bool) {
        self.shut.store(shut, Ordering::Release);
    }

    /// Whether nothing is let through.
    pub(crate) fn is_shut(&self) -> bool {
        self.shut.load(Ordering::Acquire)
    }

    /// What has moved since the start.
    pub(crate) fn moved(&self) -> Moved {
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Moved { sent: of(&self.sent), received: of(&self.received) }
    }

    /// Waits until so many bytes have moved in both directions since the start. For one at a time.
    pub(crate) async fn passed(&self, both: u64) {
        self.mark.store(both.max(1), Ordering::Release);
        while self.moved().both() < both {
            self.passed.notified().await;
        }
        self.mark.store(0, Ordering::Release);
    }

    fn count(&self, counter: &AtomicU64, bytes: u64) {
        counter.fetch_add(bytes, Ordering::Relaxed);
        let mark = self.mark.load(Ordering::Relaxed);
        if mark > 0 && self.moved().both() >= mark {
            self.mark.store(0, Ordering::Release);
            self.passed.notify_one();
        }
    }

    fn upload(&self) -> MutexGuard<'_, Upload> {
        self.upload.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn download(&self) -> MutexGuard<'_, Download> {
        self.download.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sending.
impl Meter {
    /// Whether there is a cap on what leaves.
    pub(crate) fn upload_capped(&self) -> bool {
        self.upload_capped.load(Ordering::Acquire)
    }

    /// The cap on what leaves, if there is one.
    pub(crate) fn upload_rate(&self) -> Option<u64> {
        if self.upload_capped() { self.upload().bucket.map(|bucket| bucket.rate()) } else { None }
    }

    /// Whether the holder of this ticket may send now; if not, it gets one, and is woken when it is
    /// its turn. Whoever came first goes first, one at a time, so a connection with little to say
    /// waits for one packet of each of the others at most.
    pub(crate) fn turn(&self, ticket: &mut Option<u64>, now: Instant, waker: &Waker) -> Turn {
        let mut upload = self.upload();
        let Upload { bucket, line, tickets, .. } = &mut *upload;
        let place = line.iter().position(|(other, _)| Some(*other) == *ticket);
        let ready = bucket.map_or(Ok(()), |bucket| bucket.ready(Duration::ZERO, now));
        match (place, ready) {
            (None, Ok(())) if line.is_empty() || bucket.is_none() => Turn::Now,
            (Some(_), Ok(())) if bucket.is_none() => {
                leave(line, ticket);
                Turn::Now
            }
            (Some(0), Ok(())) => {
                leave(line, ticket);
                Turn::Now
            }
            (Some(place), ready) => {
                line[place].1.clone_from(waker);
                if place == 0 { ready.err().map_or(Turn::Later, Turn::At) } else { Turn::Later }
            }
            (None, ready) => {
                *tickets += 1;
                *ticket = Some(*tickets);
                line.push_back((*tickets, waker.clone()));
                match (line.len(), ready) {
                    (1, Err(at)) => Turn::At(at),
                    _ => Turn::Later,
                }
            }
        }
    }

    /// The holder of this ticket does not want to send any more.
    pub(crate) fn leave(&self, ticket: &mut Option<u64>) {
        if ticket.is_some() {
            leave(&mut self.upload().line, ticket);
        }
    }

    /// Sends by `send` if there is room, and counts it. Nothing is lost where there is none: whoever
    /// asked waits for its turn and asks again.
    pub(crate) fn send<E>(
        &self,
        bytes: u64,
        clock: impl FnOnce() -> Instant,
        send: impl FnOnce() -> Result<(), E>,
    ) -> Option<Result<(), E>> {
        let sent = if self.upload_capped() {
            let now = clock();
            let mut upload = self.upload();
            let bucket = upload.bucket.as_mut();
            if bucket.as_ref().is_some_and(|bucket| bucket.ready(Duration::ZERO, now).is_err()) {
                return None;
            }
            let sent = send();
            if let (Some(bucket), Ok(())) = (bucket, &sent) {
                bucket.take(bytes, now);
            }
            sent
        } else {
            send()
        };
        if sent.is_ok() {
            self.count(&self.sent, bytes);
        }
        Some(sent)
    }

    /// How many of `wanted` bytes of a blob may be handed to a connection now, at least one; or when
    /// to ask again. Gossip asks nobody: what blobs leave in the bucket is there for it.
    pub(crate) fn take_blob(&self, wanted: usize, now: Instant) -> Result<usize, Instant> {
        let mut upload = self.upload();
        let Upload { bucket: Some(bucket), blobs: Some(blobs), .. } = &mut *upload else {
            return Ok(wanted);
        };
        let (left, handed) = (bucket.ready(BLOB_RESERVE, now), blobs.ready(Duration::ZERO, now));
        if let Some(at) = left.err().max(handed.err()) {
            return Err(at);
        }
        let bytes = wanted.min(chunk(blobs.rate(), BLOB_CHUNK));
        blobs.take(bytes as u64, now);
        Ok(bytes)
    }
}

/// Receiving.
impl Meter {
    /// Whether there is a cap on what arrives.
    pub(crate) fn download_capped(&self) -> bool {
        self.download_capped.load(Ordering::Acquire)
    }

    /// The cap on what arrives, if there is one.
    pub(crate) fn download_rate(&self) -> Option<u64> {
        let capped = self.download_capped();
        if capped { self.download().bucket.map(|bucket| bucket.rate()) } else { None }
    }

    /// Counts what has arrived, whatever becomes of it.
    pub(crate) fn arrived(&self, bytes: u64, clock: impl FnOnce() -> Instant) {
        self.count(&self.received, bytes);
        if self.download_capped()
            && let Some(grants) = &mut self.download().grants
        {
            grants.take(bytes, clock());
        }
    }

    /// Whether something that has arrived may be handed on now; if not, when, and `reader` is woken
    /// should the cap change before.
    pub(crate) fn deliver(&self, now: Instant, reader: &Waker) -> Result<(), Instant> {
        let mut download = self.download();
        let ready = download.bucket.map_or(Ok(()), |bucket| bucket.ready(Duration::ZERO, now));
        if ready.is_err() {
            download.reader = Some(reader.clone());
        }
        ready
    }

    /// So many bytes of what has arrived were handed on, or thrown away.
    pub(crate) fn delivered(&self, bytes: u64, now: Instant) {
        if let Some(bucket) = &mut self.download().bucket {
            bucket.take(bytes, now);
        }
    }

    /// How many of `wanted` bytes of a blob somebody may be asked to send now, at least one; or when
    /// to ask again. None if there is no cap any more.
    pub(crate) fn grant(&self, wanted: u64, now: Instant) -> Option<Result<u64, Instant>> {
        let mut download = self.download();
        let grants = download.grants.as_mut()?;
        Some(grants.ready(Duration::ZERO, now).map(|()| {
            let bytes = wanted.min(chunk(grants.rate(), GRANT_CHUNK) as u64);
            grants.take(bytes, now);
            bytes
        }))
    }

    /// So many granted bytes have come, and were counted when they arrived, or will never come.
    pub(crate) fn settle_grant(&self, bytes: u64) {
        if let Some(grants) = &mut self.download().grants {
            grants.give_back(bytes);
        }
    }
}

fn leave(line: &mut VecDeque<(u64, Waker)>, ticket: &mut Option<u64>) {
    let place = line.iter().position(|(other, _)| Some(*other) == *ticket);
    *ticket = None;
    if let Some(place) = place {
        line.remove(place);
        if let (0, Some((_, next))) = (place, line.front()) {
            next.wake_by_ref();
        }
    }
}

/// What goes at once: what comes in so much time, but a packet at least, and not so much that
/// others wait long where the cap is high.
fn chunk(bytes_per_s: u64, time: Duration) -> usize {
    let bytes = bytes_in(bytes_per_s, time).clamp(CHUNK_BYTES_MIN, CHUNK_BYTES_MAX);
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

/// What a UDP payload cut into segments is on the cable, sent to or come from this address.
pub(crate) fn bytes_on_cable(payload: usize, segment: Option<usize>, other: SocketAddr) -> u64 {
    let datagrams = segment.map_or(1, |segment| payload.div_ceil(segment.max(1)).max(1));
    payload as u64 + datagrams as u64 * header_bytes(other)
}

/// What stands before the payload of a datagram on the cable, to or from this address.
pub(crate) fn header_bytes(other: SocketAddr) -> u64 {
    let ip = if other.ip().to_canonical().is_ipv4() { IPV4_BYTES } else { IPV6_BYTES };
    ip + UDP_BYTES + ETHERNET_BYTES
}

/// What blobs leave in the bucket for everything else. Two fifths of what it holds: at any rate,
/// gossip finds this much waiting for it.
const BLOB_RESERVE: Duration = Duration::from_millis(20);
/// How much of a blob is handed to a connection at once: bounds what leaves before gossip that
/// comes a moment later.
const BLOB_CHUNK: Duration = Duration::from_millis(10);
/// How much of a blob is asked for at once: each asking costs a packet of some 80 bytes.
const GRANT_CHUNK: Duration = Duration::from_millis(20);
const CHUNK_BYTES_MIN: u64 = 1200;
const CHUNK_BYTES_MAX: u64 = 64 << 10;

const UDP_BYTES: u64 = 8;
const IPV4_BYTES: u64 = 20;
const IPV6_BYTES: u64 = 40;
const ETHERNET_BYTES: u64 = 14;
