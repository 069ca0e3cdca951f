//! How much this node has moved over the network today, this month and ever, for the quotas.
//!
//! What is on disk is always more than what has moved, by an advance that is written before it is
//! used. So a node that was killed comes back with too high counts, never with too low ones; one
//! that was stopped comes back with exact ones. A quiet node writes nothing.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use potluck_unit::Time;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use crate::net::{Meter, Moved};
use crate::store::Store;

/// The node's traffic. Clones are the same.
#[derive(Debug, Clone)]
pub(crate) struct Traffic(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    meter: Arc<Meter>,
    store: Store,
    book: Mutex<Book>,
    /// Held while something is written, so that what is written last is the latest. True once
    /// nothing more is to be written.
    writing: Mutex<bool>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Book {
    /// When the day that is counted ends, by the local calendar; the end of time if nobody has said.
    pub(crate) day_ends: Time,
    /// When the month ends, likewise.
    pub(crate) month_ends: Time,
    /// What has moved on this day.
    pub(crate) today: Moved,
    /// In this month.
    pub(crate) month: Moved,
    /// Ever.
    pub(crate) ever: Moved,
    /// What the meter showed when it was last looked at.
    pub(crate) seen: Moved,
}

impl Default for Book {
    fn default() -> Book {
        let nothing = Moved::default();
        Book {
            day_ends: NEVER,
            month_ends: NEVER,
            today: nothing,
            month: nothing,
            ever: nothing,
            seen: nothing,
        }
    }
}

impl Book {
    /// The meter shows this now.
    fn count(&mut self, shows: Moved) {
        let more = Moved {
            sent: shows.sent.saturating_sub(self.seen.sent),
            received: shows.received.saturating_sub(self.seen.received),
        };
        for counted in [&mut self.today, &mut self.month, &mut self.ever] {
            counted.sent = counted.sent.saturating_add(more.sent);
            counted.received = counted.received.saturating_add(more.received);
        }
        self.seen = shows;
    }

    /// Begins anew what is over. The calendar may say otherwise at any time, when the clock was
    /// wrong or its owner travels: what it says now holds from now on.
    fn turn(&mut self, now: Time, day_ends: Time, month_ends: Time) {
        self.end(now);
        (self.day_ends, self.month_ends) = (day_ends, month_ends);
    }

    /// Begins anew what is over, where the calendar is still to say when the next ends.
    fn end(&mut self, now: Time) {
        if now >= self.day_ends {
            (self.today, self.day_ends) = (Moved::default(), NEVER);
        }
        if now >= self.month_ends {
            (self.month, self.month_ends) = (Moved::default(), NEVER);
        }
    }

    /// The same, as if so many bytes more had moved in each direction.
    fn ahead(mut self, bytes: u64) -> Book {
        let Moved { sent, received } = self.seen;
        let (sent, received) = (sent.saturating_add(bytes), received.saturating_add(bytes));
        self.count(Moved { sent, received });
        self
    }
}

impl Traffic {
    /// Goes on with what was kept, and keeps it up to date from now on. Must be called inside a
    /// tokio runtime; blocks on the disk.
    ///
    /// # Errors
    /// If what was kept can't be read or the disk does not take more: one sentence for a person.
    pub(crate) fn open(store: Store, meter: Arc<Meter>, now: Time) -> Result<Traffic, String> {
        let kept = store.traffic().map_err(|error| error.to_string())?;
        let mut book = kept.unwrap_or_default();
        book.end(now);
        let traffic = Traffic(Arc::new(Inner {
            meter,
            store,
            book: Mutex::new(book),
            writing: Mutex::new(false),
            writer: Mutex::default(),
        }));
        traffic.write(ADVANCE_BYTES_MIN)?;
        let writer = tokio::spawn(traffic.clone().keep());
        *traffic.0.writer.lock().unwrap_or_else(PoisonError::into_inner) = Some(writer);
        Ok(traffic)
    }

    /// What the local calendar says now: begins the day and the month anew when they are over. To be
    /// called before quotas are judged.
    pub(crate) fn turn(&self, now: Time, day_ends: Time, month_ends: Time) {
        self.book().turn(now, day_ends, month_ends);
    }

    /// What has moved today.
    pub(crate) fn today(&self) -> Moved {
        self.book().today
    }

    /// What has moved this month.
    pub(crate) fn month(&self) -> Moved {
        self.book().month
    }

    /// What has moved since the data folder was made.
    pub(crate) fn ever(&self) -> Moved {
        self.book().ever
    }

    /// Writes the exact counts, and nothing after them. For when the socket is closed.
    pub(crate) async fn close(&self) {
        let writer = self.0.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            writer.abort();
        }
        let traffic = self.clone();
        let written = tokio::task::spawn_blocking(move || {
            let written = traffic.write(0);
            *traffic.0.writing.lock().unwrap_or_else(PoisonError::into_inner) = true;
            written
        });
        if let Ok(Err(error)) = written.await {
            warn!("{error}; the counts of traffic stay a little too high");
        }
    }

    /// The book, with all that has moved.
    fn book(&self) -> MutexGuard<'_, Book> {
        let mut book = self.0.book.lock().unwrap_or_else(PoisonError::into_inner);
        book.count(self.0.meter.moved());
        book
    }

    fn write(&self, advance: u64) -> Result<(), String> {
        let closed = self.0.writing.lock().unwrap_or_else(PoisonError::into_inner);
        if *closed {
            return Ok(());
        }
        let book = self.book().ahead(advance);
        self.0.store.keep_traffic(&book).map_err(|error| error.to_string())
    }

    /// Writes the next advance whenever half of one is used up, but not more often than
    /// [`WRITE_EVERY`]; the advance is what the traffic of late would use up in thrice that.
    async fn keep(self) {
        let mut advance = ADVANCE_BYTES_MIN;
        loop {
            let (from, since) = (self.0.meter.moved().both(), Instant::now());
            self.0.meter.passed(from.saturating_add(advance / 2)).await;
            sleep_until(since + WRITE_EVERY).await;
            let moved = self.0.meter.moved().both().saturating_sub(from);
            let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
            let per_ms = moved / millis(since.elapsed()).max(1);
            advance = per_ms.saturating_mul(millis(WRITE_EVERY * 3)).max(ADVANCE_BYTES_MIN);
            let traffic = self.clone();
            let written = tokio::task::spawn_blocking(move || traffic.write(advance)).await;
            if let Ok(Err(error)) = written {
                warn!("{error}; if this node is killed now, its counts of traffic are too low");
            }
        }
    }
}

/// When a day or month ends that nobody has said the end of.
const NEVER: Time = Time(u64::MAX);

/// So that a disk is not kept busy, and a crash loses no more than this time can move beyond the
/// advance.
const WRITE_EVERY: Duration = Duration::from_secs(3);
/// What a kill costs a quiet node at most, in each direction: a two-thousandth of a small day's
/// quota.
const ADVANCE_BYTES_MIN: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    fn moved(sent: u64, received: u64) -> Moved {
        Moved { sent, received }
    }

    fn open(folder: &std::path::Path, meter: &Arc<Meter>, now: u64) -> Traffic {
        let (store, _) = Store::open(folder).unwrap();
        Traffic::open(store, meter.clone(), Time(now)).unwrap()
    }

    /// As if the datagrams had passed the socket.
    fn moves(meter: &Meter, sent: u64, received: u64) {
        let clock = std::time::Instant::now;
        meter.send(sent, clock, || Ok::<_, ()>(())).unwrap().unwrap();
        meter.arrived(received, clock);
    }

    #[test]
    fn a_day_and_a_month_begin_anew_when_they_are_over() {
        let mut book = Book::default();
        book.turn(Time(0), Time(100), Time(1000));
        book.count(moved(1, 2));
        book.turn(Time(99), Time(100), Time(1000));
        assert_eq!((book.today, book.month), (moved(1, 2), moved(1, 2)));
        book.turn(Time(100), Time(200), Time(1000));
        book.count(moved(11, 2));
        assert_eq!((book.today, book.month), (moved(10, 0), moved(11, 2)));
        book.turn(Time(1000), Time(1100), Time(2000));
        assert_eq!((book.today.both(), book.month.both(), book.ever), (0, 0, moved(11, 2)));
    }

    #[test]
    fn a_clock_that_was_wrong_takes_no_count_away_and_freezes_none() {
        let mut book = Book::default();
        book.turn(Time(0), Time(100), Time(100));
        book.count(moved(5, 5));
        // A journey west, or a clock set back: the day ends later.
        book.turn(Time(90), Time(150), Time(150));
        book.turn(Time(110), Time(150), Time(150));
        assert_eq!(book.today, moved(5, 5));
        // A calendar that is a century ahead, and right again: the day ends as it says then.
        book.turn(Time(120), Time(1_000_000), Time(1_000_000));
        book.turn(Time(121), Time(150), Time(150));
        assert_eq!(book.today, moved(5, 5));
        book.turn(Time(150), Time(250), Time(250));
        assert_eq!(book.today, Moved::default());
    }

    #[tokio::test(start_paused = true)]
    async fn a_stop_keeps_exact_counts() {
        let folder = tempfile::tempdir().unwrap();
        for round in 1..=3 {
            let meter = Arc::new(Meter::default());
            let traffic = open(folder.path(), &meter, 10);
            traffic.turn(Time(10), Time(100), Time(1000));
            moves(&meter, 7, 5_000_000);
            traffic.close().await;
            assert_eq!(traffic.today(), moved(7 * round, 5_000_000 * round));
            assert_eq!(traffic.month(), traffic.today());
        }
        let traffic = open(folder.path(), &Arc::default(), 100);
        assert_eq!((traffic.today().both(), traffic.month().sent), (0, 21));
        assert_eq!(traffic.ever(), moved(21, 15_000_000));
        traffic.close().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_kill_at_any_time_loses_no_byte_and_adds_few() {
        let folder = tempfile::tempdir().unwrap();
        let mut total = 0;
        for (kill_after, bytes) in [(1, 0), (30, 100_000), (40, 1_000_000), (9, 300_000)] {
            let meter = Arc::new(Meter::default());
            let traffic = open(folder.path(), &meter, 10);
            let before = traffic.ever();
            assert!(before.sent >= total && before.received >= total, "{before:?} of {total}");
            traffic.turn(Time(10), Time(100), Time(1000));
            for _ in 0..kill_after {
                moves(&meter, bytes, bytes);
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            total += kill_after * bytes;
            // As a kill does: without a word, but what blocks on the disk is waited for.
            traffic.0.writer.lock().unwrap().take().unwrap().abort();
            *traffic.0.writing.lock().unwrap() = true;
            while Arc::strong_count(&traffic.0) > 1 {
                tokio::task::yield_now().await;
            }
        }
        let traffic = open(folder.path(), &Arc::default(), 10);
        let (kept, most) = (traffic.ever(), total + 4 * 30_000_000);
        assert!(kept.sent >= total && kept.sent < most, "{kept:?} of {total}");
        assert!(kept.received >= total && kept.received < most, "{kept:?} of {total}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_node_writes_nothing_and_a_busy_one_seldom() {
        let folder = tempfile::tempdir().unwrap();
        let meter = Arc::new(Meter::default());
        let traffic = open(folder.path(), &meter, 10);
        let kept = || traffic.0.store.traffic().unwrap();
        let mut writes = Vec::new();
        for (seconds, bytes) in [(3600, 100), (60, 10_000_000)] {
            let mut last = kept();
            let mut count = 0;
            for _ in 0..seconds {
                moves(&meter, bytes, 0);
                tokio::time::sleep(Duration::from_secs(1)).await;
                let now = kept();
                count += usize::from(now != last);
                last = now;
            }
            writes.push(count);
        }
        assert_eq!(writes[0], 0);
        assert!((5..=20).contains(&writes[1]), "{writes:?}");
        traffic.close().await;
    }
}
