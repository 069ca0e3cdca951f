//! Seats: who may run which units so that its word counts, as pure arithmetic.
//!
//! Nobody chooses its own units. A place in the *public* lottery follows from the job and the key; a
//! place in the *secret* one from what only the key's owner could draw. A ticket wins while it is
//! below the window's share of the N workers that the job names. Windows widen with each *level*, and
//! double with every fourth: as a job drains, and as time passes, so that units whose winners are gone fall to others. With few
//! workers everybody wins everything, and nothing here is in anybody's way.

use potluck_unit::{Job, Lot, Time};

/// Takers of each unit in the public lottery at level 0, where there are more units than workers: who
/// has done its own finds that windows have widened. The narrower they are, the less of a job a
/// coalition can choose for itself.
const PUBLIC_WINDOW: u64 = 4;
/// Takers of each further copy in the secret lottery.
const DRAWN_WINDOW: u64 = 2;
/// The same where there are fewer units than workers and an answer is wanted soon: one unit in three
/// thousand has no taker, and waits until windows widen with time.
const PUBLIC_WINDOW_SOON: u64 = 8;
/// One unit in four hundred lacks a taker of its second copy.
const DRAWN_WINDOW_SOON: u64 = 6;
/// Up to so many workers everybody may run everything: there is nobody to choose from.
pub(crate) const SMALL_GRID: u32 = 8;
/// Auditors of one worker's units at most, on average: beyond that more audits prove nothing.
pub(crate) const AUDITORS_MAX: f64 = 4.0;
/// Levels in which a window doubles. In larger steps the fastest workers would run out of seats
/// before each, with much of the job left.
const STEPS: u8 = 4;
/// What a window has grown by in the steps between two doublings, in parts of 2^16.
const GROWN: [u32; STEPS as usize] = [65_536, 77_936, 92_682, 110_218];
/// Levels: at 2^40 times the window everybody has won.
pub const LEVEL_MAX: u8 = 40 * STEPS;
/// Peers called to settle a dispute, on average. Beside one honest worker they lead by enough in 95 %
/// of disputes with a tenth of all workers cheats, in 62 % with a third (two Poisson numbers); where
/// they don't, more are called with time, and the submitter settles it in any case.
pub const SETTLERS: u64 = 7;
/// The least time in which windows double for the first time.
const WIDEN_MS: u64 = 10_000;

/// The windows of one job.
#[derive(Debug, Clone, Copy)]
pub struct Windows {
    /// N, or 1 where everybody may run everything.
    peers: u64,
    /// N.
    workers: u64,
    public: u64,
    drawn: u64,
    created: Time,
    widen_ms: u64,
}

impl Windows {
    /// Those of this job.
    pub fn of(job: &Job) -> Windows {
        let peers = if job.peers <= SMALL_GRID { 1 } else { u64::from(job.peers) };
        let (public, drawn) = if job.units <= job.peers {
            (PUBLIC_WINDOW_SOON, DRAWN_WINDOW_SOON)
        } else {
            (PUBLIC_WINDOW, DRAWN_WINDOW)
        };
        Windows {
            peers,
            workers: u64::from(job.peers.max(1)),
            public,
            // With one copy nobody is required, but a newcomer's word needs a second one.
            drawn: drawn * u64::from(job.copies.saturating_sub(1).max(1)),
            created: job.created,
            widen_ms: WIDEN_MS * (1 + u64::from(job.units) / peers),
        }
    }

    /// Whether seats are drawn at all: not where everybody may run everything.
    pub(crate) fn are_drawn(&self) -> bool {
        self.peers > 1
    }

    /// How many levels a record of this date has gained: windows have doubled after the first period,
    /// again after two more, then after four more.
    pub fn aged(&self, made: Time) -> u8 {
        let periods = made.ms_since(self.created) / self.widen_ms;
        doublings(1 + periods)
    }

    /// How many of all workers win a chunk at a level, on average, in parts of 2^16: in the secret
    /// lottery or in the public one.
    pub fn winners(&self, secret: bool, level: u8) -> u128 {
        grown(if secret { self.drawn } else { self.public }, level)
            .min(u128::from(self.peers) << 16)
    }

    /// The lowest level at which a ticket wins in the public lottery, for a record made then.
    pub(crate) fn public_level(&self, ticket: u64, made: Time) -> u8 {
        level(ticket, self.peers, self.public).saturating_sub(self.aged(made))
    }

    /// The lowest level at which a ticket wins in the secret lottery, for a record made then.
    pub(crate) fn drawn_level(&self, ticket: u64, made: Time) -> u8 {
        level(ticket, self.peers, self.drawn).saturating_sub(self.aged(made))
    }

    /// The lowest level at which everybody wins in the secret lottery, so that nobody need draw.
    pub fn undrawn_level(&self, made: Time) -> u8 {
        self.drawn_level(u64::MAX, made)
    }

    /// The lowest level at which a peer is called to settle disputes about a chunk.
    pub(crate) fn settles_at(&self, lot: Lot, chunk: u32, made: Time) -> u8 {
        level(lot.rank(!chunk), self.peers, SETTLERS).saturating_sub(self.aged(made))
    }

    /// Whether who drew this may audit, if audits are as frequent as they can be.
    pub(crate) fn may_audit(&self, ticket: u64) -> bool {
        self.audits(ticket, AUDITORS_MAX)
    }

    /// Whether who drew this audits at this rate: how many auditors there are to be on average.
    pub(crate) fn audits(&self, ticket: u64, rate: f64) -> bool {
        let share = millionths(rate.clamp(0.0, AUDITORS_MAX));
        u128::from(ticket) * u128::from(self.workers) * 1_000_000 <= u128::from(share) << 64
    }

    /// How long a worker waits before it starts a unit that must be answered soon: the better its
    /// place, the shorter.
    pub(crate) fn stagger_ms(&self, ticket: u64, secret: bool) -> u64 {
        let window = if secret { self.drawn } else { self.public };
        let spread = (u128::from(ticket) * u128::from(STAGGER_MS * self.peers)) >> 64;
        u64::try_from(spread).unwrap_or(u64::MAX).div_ceil(window).min(STAGGER_MAX_MS)
    }
}

/// The levels after so many doublings as there are in a number.
pub(crate) fn doublings(times: u64) -> u8 {
    u8::try_from(times.max(1).ilog2()).unwrap_or(u8::MAX).saturating_mul(STEPS).min(LEVEL_MAX)
}

/// `number` times what a window has grown to at a level, in parts of 2^16.
fn grown(number: u64, level: u8) -> u128 {
    let part = u128::from(number) * u128::from(GROWN[usize::from(level % STEPS)]);
    part << (level / STEPS)
}

/// The lowest level at which `ticket` is below the window, of `peers` in all.
fn level(ticket: u64, peers: u64, window: u64) -> u8 {
    let place = (u128::from(ticket) * u128::from(peers)) >> 48;
    let times = u64::try_from((place >> 16) / u128::from(window)).unwrap_or(u64::MAX);
    let from = if times == 0 { 0 } else { doublings(times) };
    (from..=from + STEPS).find(|level| place < grown(window, *level)).unwrap_or(LEVEL_MAX)
}

/// How far windows have widened when `done` of `units` are done: twice as wide each time that half
/// of what was left is.
pub fn drained(units: u32, done: u32) -> u8 {
    let left = u64::from(units.saturating_sub(done));
    if left == 0 {
        return LEVEL_MAX;
    }
    let whole = doublings(u64::from(units) / left);
    let fits = |step: &u8| grown(left, whole + step) <= u128::from(units) << 16;
    whole + (0..STEPS).rev().find(fits).unwrap_or(0)
}

#[expect(clippy::cast_possible_truncation, reason = "rates are small and not negative")]
fn millionths(rate: f64) -> u64 {
    (rate * 1e6) as u64
}

/// Within this time all who won a place in the first window start, one after another.
const STAGGER_MS: u64 = 200;
/// Nobody waits longer for those before it.
const STAGGER_MAX_MS: u64 = 10_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chance::Chance;

    fn windows(peers: u64, units: u32, copies: u64) -> Windows {
        Windows {
            peers,
            workers: peers,
            public: 8,
            drawn: 4 * (copies - 1).max(1),
            created: Time(0),
            widen_ms: WIDEN_MS * (1 + u64::from(units) / peers),
        }
    }

    #[test]
    fn with_few_workers_everybody_wins() {
        let windows = windows(4, 100, 2);
        assert_eq!(windows.public_level(u64::MAX, Time(0)), 0);
        assert_eq!(windows.undrawn_level(Time(0)), 0);
    }

    #[test]
    fn a_window_holds_as_many_of_a_thousand_as_it_says() {
        let (windows, mut chance) = (windows(1000, 100_000, 2), Chance::of_seed(4));
        let mut counts = [0; 3];
        for _ in 0..1_000_000 {
            let ticket = chance.next_u64();
            counts[0] += u32::from(windows.public_level(ticket, Time(0)) == 0);
            counts[1] += u32::from(windows.drawn_level(ticket, Time(0)) <= STEPS);
            counts[2] += u32::from(windows.audits(ticket, 0.25));
        }
        assert!((7700..8300).contains(&counts[0]), "{counts:?}");
        assert!((7700..8300).contains(&counts[1]), "{counts:?}");
        assert!((200..300).contains(&counts[2]), "{counts:?}");
    }

    #[test]
    fn windows_widen_with_age_and_as_the_job_drains() {
        let windows = windows(1000, 1000, 2);
        let late = u64::MAX / 1000 * 100;
        assert_eq!(windows.public_level(late, Time(0)), 15);
        assert_eq!(windows.public_level(late, Time(20_000)), 11);
        assert_eq!(windows.public_level(late, Time(60_000)), 7);
        assert_eq!(drained(1000, 0), 0);
        assert_eq!(drained(1000, 159), 0);
        assert_eq!(drained(1000, 160), 1);
        assert_eq!(drained(1000, 499), 3);
        assert_eq!(drained(1000, 500), 4);
        assert_eq!(drained(1000, 999), 39);
        assert_eq!(drained(1000, 1000), LEVEL_MAX);
        assert_eq!(drained(1, 0), 0);
    }

    #[test]
    fn who_has_a_better_place_starts_earlier_and_nobody_waits_for_long() {
        let windows = windows(1000, 10, 2);
        let first = windows.stagger_ms(u64::MAX / 100_000, false);
        let last = windows.stagger_ms(u64::MAX / 1000 * 7, false);
        assert!(first < 5 && last > 150, "{first} {last}");
        assert_eq!(windows.stagger_ms(u64::MAX, false), STAGGER_MAX_MS);
        assert_eq!(super::tests::windows(1, 10, 2).stagger_ms(u64::MAX, false), 25);
    }
}
