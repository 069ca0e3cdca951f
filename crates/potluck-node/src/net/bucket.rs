//! The law of a cap on bytes per second, without a clock: a bucket that fills at the rate of the cap
//! and holds what [`BURST`] brings.
//!
//! In any stretch of time `t`, no more than `rate × (t + BURST)` bytes are taken, and one take more,
//! because a take waits for an empty bucket to have something, not for all that it takes.

use std::time::{Duration, Instant};

/// One direction's bucket, or one kind of traffic's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bucket {
    bytes_per_s: u64,
    /// When all that was taken will have been paid for. In the past: how long the bucket has been
    /// filling since.
    paid: Instant,
}

impl Bucket {
    /// A full bucket. A rate of 0 is taken for 1.
    pub(crate) fn new(bytes_per_s: u64, now: Instant) -> Bucket {
        let paid = now.checked_sub(BURST).unwrap_or(now);
        Bucket { bytes_per_s: bytes_per_s.max(1), paid }
    }

    /// How many bytes come in a second.
    pub(crate) fn rate(&self) -> u64 {
        self.bytes_per_s
    }

    /// Another rate from now on. What is owed stays owed in bytes.
    pub(crate) fn set_rate(&mut self, bytes_per_s: u64, now: Instant) {
        let owed = self.owed(now);
        *self = Bucket { bytes_per_s: bytes_per_s.max(1), paid: self.paid.min(now) };
        if owed > 0 {
            self.take(owed, now);
        }
    }

    /// Whether anything is in the bucket beyond what `reserve` brings; if not, from when on there
    /// will be, if nobody takes anything before.
    pub(crate) fn ready(&self, reserve: Duration, now: Instant) -> Result<(), Instant> {
        let at = self.paid + reserve.min(BURST);
        if at <= now { Ok(()) } else { Err(at) }
    }

    /// Takes bytes, into debt if need be.
    pub(crate) fn take(&mut self, bytes: u64, now: Instant) {
        let floor = now.checked_sub(BURST).unwrap_or(self.paid);
        self.paid = self.paid.max(floor) + self.time_of(bytes);
    }

    /// Gives bytes back that were taken and not used.
    pub(crate) fn give_back(&mut self, bytes: u64) {
        self.paid = self.paid.checked_sub(self.time_of(bytes)).unwrap_or(self.paid);
    }

    /// How many bytes were taken that are still to come.
    fn owed(&self, now: Instant) -> u64 {
        bytes_in(self.bytes_per_s, self.paid.saturating_duration_since(now))
    }

    /// How long these bytes take at this rate, rounded up, so that rounding never speeds anything up.
    fn time_of(&self, bytes: u64) -> Duration {
        let nanos = (u128::from(bytes) * 1_000_000_000).div_ceil(u128::from(self.bytes_per_s));
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)).min(DEBT_MAX)
    }
}

/// How many bytes come in this time at this rate.
pub(crate) fn bytes_in(bytes_per_s: u64, time: Duration) -> u64 {
    let bytes = u128::from(bytes_per_s) * time.as_nanos() / 1_000_000_000;
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

/// What a bucket holds. Timers are a millisecond late and more on a busy machine, and what a bucket
/// can't hold meanwhile is lost; a quarter of a second would be all that a second may have above the
/// cap, and packets on their way and queues need some of that.
pub(crate) const BURST: Duration = Duration::from_millis(50);

/// The longest debt of one take, so that no sum overflows: at 1 byte a second, an hour's.
const DEBT_MAX: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Duration = Duration::ZERO;

    fn after(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    /// Takes packets as fast as the bucket allows, looking at the clock at these times only.
    fn takes(
        bucket: &mut Bucket,
        packet: u64,
        clock: impl Iterator<Item = Instant>,
    ) -> Vec<(Instant, u64)> {
        let mut takes = Vec::new();
        for now in clock {
            while bucket.ready(NONE, now).is_ok() {
                bucket.take(packet, now);
                takes.push((now, packet));
            }
        }
        takes
    }

    fn most_within(takes: &[(Instant, u64)], window: Duration) -> u64 {
        let from = |&(start, _): &(Instant, u64)| -> u64 {
            let within = |(at, _): &&(Instant, u64)| *at >= start && *at < start + window;
            takes.iter().filter(within).map(|(_, bytes)| bytes).sum()
        };
        takes.iter().map(from).max().unwrap_or(0)
    }

    #[test]
    fn no_window_holds_more_than_its_rate_a_burst_and_a_packet() {
        let start = Instant::now();
        for (rate, packet) in [(100 << 10, 1494), (1 << 20, 14_940), (4 << 20, 14_940)] {
            for step_ms in [1, 7, 40, 200] {
                let mut bucket = Bucket::new(rate, start);
                let clock = (0..12_000 / step_ms).map(|step| after(start, step * step_ms));
                let takes = takes(&mut bucket, packet, clock);
                for (window, most) in [(1000, 1.25), (10_000, 1.02)] {
                    let window = Duration::from_millis(window);
                    let bound = bytes_in(rate, window + BURST) + packet;
                    let found = most_within(&takes, window);
                    assert!(found <= bound, "{found} of {bound} at {rate} every {step_ms} ms");
                    assert!((found as f64) <= most * bytes_in(rate, window) as f64);
                }
            }
        }
    }

    #[test]
    fn what_is_there_is_used_up_when_looked_at_often_enough() {
        let start = Instant::now();
        let mut bucket = Bucket::new(1 << 20, start);
        let takes = takes(&mut bucket, 1494, (0..10_000).map(|ms| after(start, ms)));
        let sum: u64 = takes.iter().map(|(_, bytes)| bytes).sum();
        assert!(sum >= 10 << 20, "{sum}");
    }

    #[test]
    fn an_idle_bucket_saves_up_one_burst_and_no_more() {
        let start = Instant::now();
        let mut bucket = Bucket::new(1000, start);
        assert_eq!(takes(&mut bucket, 1, [after(start, 60_000)].into_iter()).len(), 51);
    }

    #[test]
    fn an_empty_bucket_says_from_when_on_there_is_something() {
        let start = Instant::now();
        let mut bucket = Bucket::new(1000, start);
        bucket.take(150, start);
        assert_eq!(bucket.ready(NONE, after(start, 99)), Err(after(start, 100)));
        assert_eq!(bucket.ready(NONE, after(start, 100)), Ok(()));
        let reserve = Duration::from_millis(20);
        assert_eq!(bucket.ready(reserve, after(start, 100)), Err(after(start, 120)));
        // A reserve that no bucket holds would never be there.
        assert_eq!(bucket.ready(BURST * 9, after(start, 150)), Ok(()));
        bucket.give_back(100);
        assert_eq!(bucket.ready(NONE, start), Ok(()));
    }

    #[test]
    fn a_new_rate_holds_at_once_and_debts_stay_in_bytes() {
        let start = Instant::now();
        let mut bucket = Bucket::new(1000, start);
        bucket.take(1050, start);
        bucket.set_rate(10_000, start);
        assert_eq!(bucket.rate(), 10_000);
        assert_eq!(bucket.ready(NONE, start), Err(after(start, 100)));
        bucket.set_rate(100, after(start, 100));
        assert_eq!(bucket.ready(NONE, after(start, 100)), Ok(()));
    }

    #[test]
    fn no_number_overflows() {
        let start = Instant::now();
        for rate in [0, 1, u64::MAX] {
            let mut bucket = Bucket::new(rate, start);
            bucket.take(u64::MAX, start);
            bucket.set_rate(u64::MAX, start);
            bucket.set_rate(0, start);
            bucket.give_back(u64::MAX);
            assert!(bucket.rate() >= 1);
        }
    }
}
