//! Blobs in step with the caps: how much of one is handed to a connection, or asked for, and when.
//! Without a cap, nothing here waits.
//!
//! The socket alone would keep the cap, but then what waits for it is whatever came first, and
//! gossip would wait with the blobs. So blobs wait here, before anything of them is in a connection,
//! and leave some room at the socket. They take turns: each peer one chunk.

use std::collections::BTreeMap;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use potluck_unit::PeerId;
use tokio::sync::{Mutex as Turns, Notify};
use tokio::time::sleep_until;

use super::bucket::bytes_in;
use super::meter::Meter;
use super::socket::now;

/// What paces all blobs of one node.
#[derive(Debug)]
pub(crate) struct Pace {
    meter: Arc<Meter>,
    /// Whose turn it is to hand over a chunk: each peer has one place in this line.
    uploads: Turns<()>,
    /// Within a peer's place, its transfers.
    peers: Mutex<BTreeMap<PeerId, Weak<Turns<()>>>>,
    /// Whose turn it is to ask for a chunk.
    downloads: Turns<()>,
    answers: Places,
    fetches: Places,
    bytes_per_s_min: u64,
}

impl Pace {
    /// Bytes of a blob that is so small that it is sent at once: 4 s at the slowest.
    pub(crate) const SMALL_BYTES_MAX: u64 = 64 << 10;

    /// `bytes_per_s_min`: below it a transfer is given up, see `NetLimits`.
    pub(crate) fn new(meter: Arc<Meter>, bytes_per_s_min: u64) -> Pace {
        Pace {
            meter,
            uploads: Turns::default(),
            peers: Mutex::default(),
            downloads: Turns::default(),
            answers: Places::default(),
            fetches: Places::default(),
            bytes_per_s_min,
        }
    }

    /// Waits until one more answer would not make all of them too slow to be waited for. For large
    /// blobs only: small ones don't wait for them.
    pub(crate) async fn answer(&self) -> Entered<'_> {
        self.answers.enter(&self.meter, || self.fit(self.meter.upload_rate())).await
    }

    /// The same for what is fetched.
    pub(crate) async fn fetch(&self) -> Entered<'_> {
        self.fetches.enter(&self.meter, || self.fit(self.meter.download_rate())).await
    }

    /// The same without waiting, if there is room now.
    pub(crate) fn try_fetch(&self) -> Option<Entered<'_>> {
        self.fetches.try_enter(&|| self.fit(self.meter.download_rate()))
    }

    fn fit(&self, rate: Option<u64>) -> usize {
        let fit = rate.map_or(u64::MAX, |rate| rate / (2 * self.bytes_per_s_min.max(1)));
        usize::try_from(fit).unwrap_or(usize::MAX).max(1)
    }

    /// How many of `wanted` bytes of a blob may be handed to the connection of `peer` now: waits
    /// until it is at least one.
    pub(crate) async fn hand_over(&self, peer: &PeerId, wanted: usize) -> usize {
        if !self.meter.upload_capped() {
            return wanted;
        }
        let place = self.place_of(peer);
        let _own_turn = place.lock().await;
        let _turn = self.uploads.lock().await;
        loop {
            match self.meter.take_blob(wanted, now()) {
                Ok(bytes) => return bytes,
                Err(at) => self.wait(at).await,
            }
        }
    }

    /// For how many of `wanted` bytes of a blob somebody may be asked now: waits until it is at
    /// least one. None if there is no cap any more.
    pub(crate) async fn ask_for(&self, wanted: u64) -> Option<u64> {
        let _turn = self.downloads.lock().await;
        loop {
            match self.meter.grant(wanted, now())? {
                Ok(bytes) => return Some(bytes),
                Err(at) => self.wait(at).await,
            }
        }
    }

    /// How much one source may have been asked for and not yet have sent; more, and what a source
    /// that has fallen silent holds would be missing elsewhere.
    pub(crate) fn asked_max(&self) -> u64 {
        let fit = |rate| bytes_in(rate, ASKED_TIME).max(ASKED_BYTES_MIN);
        self.meter.download_rate().map_or(u64::MAX, fit)
    }

    async fn wait(&self, at: Instant) {
        tokio::select! {
            () = sleep_until(at.into()) => {}
            () = self.meter.changed() => {}
        }
    }

    fn place_of(&self, peer: &PeerId) -> Arc<Turns<()>> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(place) = peers.get(peer).and_then(Weak::upgrade) {
            return place;
        }
        // As many as have transfers under way, then.
        peers.retain(|_, place| place.strong_count() > 0);
        let place = Arc::new(Turns::default());
        peers.insert(*peer, Arc::downgrade(&place));
        place
    }

    /// For one fetch.
    pub(crate) fn asked(&self) -> Asked<'_> {
        Asked { meter: &self.meter, bytes: Mutex::default(), came: Notify::new() }
    }
}

/// Bytes that a source was asked for and that have not come. What is left when this is dropped will
/// never come.
#[derive(Debug)]
pub(crate) struct Asked<'a> {
    meter: &'a Meter,
    bytes: Mutex<u64>,
    came: Notify,
}

impl Asked<'_> {
    /// So many more were asked for.
    pub(crate) fn add(&self, bytes: u64) {
        *self.bytes.lock().unwrap_or_else(PoisonError::into_inner) += bytes;
    }

    /// So many have come, asked for or not.
    pub(crate) fn came(&self, bytes: u64) {
        let mut asked = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let settled = bytes.min(*asked);
        *asked -= settled;
        drop(asked);
        if settled > 0 {
            self.meter.settle_grant(settled);
            self.came.notify_one();
        }
    }

    /// Waits until fewer than so many are to come.
    pub(crate) async fn below(&self, bytes: u64) {
        while *self.bytes.lock().unwrap_or_else(PoisonError::into_inner) >= bytes {
            self.came.notified().await;
        }
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.came(u64::MAX);
    }
}

/// How many may do something at once, where how many that is changes.
#[derive(Debug, Default)]
struct Places {
    taken: AtomicUsize,
    freed: Notify,
}

impl Places {
    fn try_enter(&self, most: &impl Fn() -> usize) -> Option<Entered<'_>> {
        let room = |taken: usize| (taken < most()).then_some(taken + 1);
        let entered = self.taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, room);
        entered.is_ok().then(|| Entered(self))
    }

    async fn enter(&self, meter: &Meter, most: impl Fn() -> usize) -> Entered<'_> {
        loop {
            // Both before the look, so that nothing comes between.
            let (mut changed, mut freed) = (pin!(meter.changed()), pin!(self.freed.notified()));
            changed.as_mut().enable();
            freed.as_mut().enable();
            if let Some(entered) = self.try_enter(&most) {
                return entered;
            }
            tokio::select! {
                () = freed => {}
                () = changed => {}
            }
        }
    }
}

/// A place that is taken until this is dropped.
#[derive(Debug)]
pub(crate) struct Entered<'a>(&'a Places);

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::AcqRel);
        self.0.freed.notify_one();
    }
}

/// As long as a round trip around the world takes, so that distance alone slows nobody down.
const ASKED_TIME: Duration = Duration::from_millis(250);
/// A few packets, whatever the cap.
const ASKED_BYTES_MIN: u64 = 8 << 10;
