//! The law by which children get a share of a processor: an account of processor time.
//!
//! It grows by the share of the time that passes, the children's real use is taken off, and
//! children whose account is empty stand still until there is enough for a pulse. What they have
//! not used they may catch up with, but no more than [`Share::BURST`]. Who looks at accounts, and
//! stops and lets go, is `leash`.

use std::fmt;
use std::time::Duration;

/// A part of one processor, in whole percent from 1 to 100.
///
/// It covers what children themselves compute, from their start to their last page, measured over
/// more than [`Share::BURST`], and what [`crate::Leash::charge`] adds to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Share(u8);

impl Share {
    /// A whole processor: no throttle at all.
    pub const FULL: Share = Share(100);
    /// How much processor time a runner may save up while it is idle or the machine is busy, and
    /// so how far above its share it can be in any span of time. 20 ms are nothing that heats a
    /// machine, and enough for a small unit to be done at once.
    pub const BURST: Duration = Duration::from_millis(20);

    /// `percent` of a processor, if that is between 1 and 100.
    pub fn from_percent(percent: u8) -> Option<Share> {
        (1..=100).contains(&percent).then_some(Share(percent))
    }

    /// The same as a number.
    pub fn percent(self) -> u8 {
        self.0
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} %", self.0)
    }
}

/// What one look at an account comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// Whether the children have to stand still.
    pub(crate) held: bool,
    /// When to look again.
    pub(crate) again_in: Duration,
}

/// The law: processor time, in and out. Knows no clock and no process.
#[derive(Debug)]
pub(crate) struct Account {
    pub(crate) share: Share,
    /// In hundredths of a nanosecond, so that a percentage of a time is exact.
    credit: i64,
    held: bool,
    seen: Duration,
    used: Duration,
}

impl Account {
    /// Opened at `now` by who has used `used` before. There is enough for a first pulse.
    pub(crate) fn new(share: Share, now: Duration, used: Duration) -> Account {
        let mut account = Account { share, credit: 0, held: false, seen: now, used };
        account.credit = account.pulse();
        account
    }

    /// Books what has happened since the last look. `now` and `used` never go back.
    pub(crate) fn look(&mut self, now: Duration, used: Duration) -> Verdict {
        let share = i64::from(self.share.0);
        let earned = nanoseconds(now.saturating_sub(self.seen)).saturating_mul(share);
        let spent = nanoseconds(used.saturating_sub(self.used)).saturating_mul(100);
        (self.seen, self.used) = (self.seen.max(now), self.used.max(used));
        let most = nanoseconds(SAVED_MAX).saturating_mul(100);
        // What was used counts before the cap: a child that ran all the time has nothing over.
        self.credit = self.credit.saturating_add(earned).saturating_sub(spent).min(most);
        let enough = if self.held { self.pulse() } else { 1 };
        self.held = self.credit < enough;
        let again_in = if self.held {
            Duration::from_nanos(((self.pulse() - self.credit) / share).unsigned_abs())
        } else {
            // When a child that runs from now on will have used it up.
            let used_up = self.credit / (100 - share).max(1);
            Duration::from_nanos(used_up.unsigned_abs()).min(LOOK_MAX)
        };
        Verdict { held: self.held, again_in: again_in.max(LOOK_MIN) }
    }

    /// For how long the account will be empty if nothing is used meanwhile.
    pub(crate) fn debt(&self) -> Duration {
        let share = i64::from(self.share.0);
        Duration::from_nanos((self.credit.min(0) / share).unsigned_abs())
    }

    /// Enough to run once in a [`PERIOD`], as long as the share says.
    fn pulse(&self) -> i64 {
        let share = i64::from(self.share.0);
        nanoseconds(PERIOD).saturating_mul(share * (100 - share)) / 100
    }
}

fn nanoseconds(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

/// How often a busy child is stopped and let go on. Stopping costs microseconds; people and fans
/// notice nothing shorter than this.
const PERIOD: Duration = Duration::from_millis(10);
/// No sooner than this, or a share of 99 % would keep the thread busy.
pub(crate) const LOOK_MIN: Duration = Duration::from_micros(100);
/// No later than this while a child works.
const LOOK_MAX: Duration = Duration::from_millis(20);
/// What an account can hold. The rest of [`Share::BURST`] is what nobody sees: a child that first
/// idles and then runs between two looks, at worst half of the time under a share of half.
const SAVED_MAX: Duration = Duration::from_millis(15);

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);
    const US: Duration = Duration::from_micros(1);

    /// A child's life in steps of 10 us: when it ran.
    struct Life {
        ran: Vec<bool>,
        /// The longest time by which a look came later than it should have.
        lateness: Duration,
    }

    const STEP: Duration = Duration::from_micros(10);

    impl Life {
        /// Lets a child that `wants` to run at some times do so for `span` under `share`; `late`
        /// says by how much each look is late.
        fn of(
            share: Share,
            span: Duration,
            wants: impl Fn(Duration) -> bool,
            mut late: impl FnMut() -> Duration,
        ) -> Life {
            let mut account = Account::new(share, Duration::ZERO, Duration::ZERO);
            let mut life = Life { ran: Vec::new(), lateness: Duration::ZERO };
            let (mut now, mut used) = (Duration::ZERO, Duration::ZERO);
            let mut verdict = account.look(now, used);
            let mut due = verdict.again_in;
            while now < span {
                let runs = !verdict.held && wants(now);
                life.ran.push(runs);
                now += STEP;
                used += if runs { STEP } else { Duration::ZERO };
                if now >= due {
                    verdict = account.look(now, used);
                    let delay = late();
                    life.lateness = life.lateness.max(delay + STEP);
                    due = now + verdict.again_in + delay;
                }
            }
            life
        }

        fn used(&self) -> Duration {
            STEP * u32::try_from(self.ran.iter().filter(|ran| **ran).count()).unwrap()
        }

        /// By how much the worst span of any length was above `share` of its length.
        fn excess(&self, share: Share) -> Duration {
            let (mut sum, mut worst) = (0_i64, 0_i64);
            for ran in &self.ran {
                let step = i64::try_from(STEP.as_nanos()).unwrap();
                let gain = if *ran { 100 } else { 0 } - i64::from(share.percent());
                sum = (sum + step * gain / 100).max(0);
                worst = worst.max(sum);
            }
            Duration::from_nanos(worst.unsigned_abs())
        }
    }

    fn share(percent: u8) -> Share {
        Share::from_percent(percent).unwrap()
    }

    /// Numbers that look random and are the same every time.
    fn dice(seed: u64) -> impl FnMut() -> u64 {
        let mut state = seed;
        move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            state >> 33
        }
    }

    #[test]
    fn a_share_is_a_whole_percentage_of_one_processor() {
        for percent in 0..=u8::MAX {
            let share = Share::from_percent(percent);
            assert_eq!(share.map(Share::percent), (1..=100).contains(&percent).then_some(percent));
        }
        assert_eq!(Share::from_percent(100), Some(Share::FULL));
        assert_eq!(share(25).to_string(), "25 %");
    }

    #[test]
    fn a_busy_child_gets_its_share_and_no_more() {
        for percent in 1..100 {
            let span = 1000 * MS;
            let life = Life::of(share(percent), span, |_| true, || Duration::ZERO);
            let fair = span * u32::from(percent) / 100;
            assert!(life.used() + PERIOD / 2 >= fair, "{percent} %: {:?}", life.used());
            assert!(life.used() <= fair + PERIOD / 2, "{percent} %: {:?}", life.used());
        }
    }

    #[test]
    fn no_span_of_time_is_above_the_share_by_more_than_the_burst() {
        for seed in 0..200 {
            let mut roll = dice(seed);
            let share = share(u8::try_from(1 + roll() % 99).unwrap());
            // Work and idleness in turns of up to 64 ms, and looks up to 3 ms late.
            let turns: Vec<bool> = (0..64).map(|_| roll().is_multiple_of(2)).collect();
            let turn = 1 + roll() % 64;
            let wants = |now: Duration| {
                let at = u64::try_from(now.as_millis()).unwrap() / turn % 64;
                turns[usize::try_from(at).unwrap()]
            };
            let late = || US * u32::try_from(roll() % 3000).unwrap();
            let life = Life::of(share, 2000 * MS, wants, late);
            let allowed = Share::BURST + life.lateness + LOOK_MIN;
            let excess = life.excess(share);
            assert!(
                excess <= allowed,
                "seed {seed}, {share}: {excess:?} above, {allowed:?} allowed"
            );
        }
    }

    #[test]
    fn an_idle_child_saves_up_one_burst_and_starts_at_once() {
        let mut account = Account::new(share(5), Duration::ZERO, Duration::ZERO);
        let hour = 3_600_000 * MS;
        let verdict = account.look(hour, Duration::ZERO);
        assert_eq!(verdict, Verdict { held: false, again_in: SAVED_MAX * 100 / 95 });
        assert!(!account.look(hour + 15 * MS, 15 * MS).held);
        assert!(account.look(hour + 16 * MS, 16 * MS).held);
    }

    #[test]
    fn what_was_used_too_much_is_paid_back() {
        let mut account = Account::new(share(50), Duration::ZERO, Duration::ZERO);
        let verdict = account.look(100 * MS, 100 * MS);
        // 50 ms too much, less the first pulse, and then a pulse to go on with, at half a
        // millisecond per millisecond.
        assert_eq!(verdict, Verdict { held: true, again_in: 100 * MS });
        assert!(account.look(199 * MS, 100 * MS).held);
        assert!(!account.look(200 * MS, 100 * MS).held);
    }

    #[test]
    fn looking_often_or_backwards_changes_nothing() {
        let mut account = Account::new(share(50), 10 * MS, 10 * MS);
        let verdict = account.look(12 * MS, 12 * MS);
        assert_eq!(account.look(12 * MS, 12 * MS), verdict);
        assert_eq!(account.look(5 * MS, 5 * MS), verdict);
        assert_eq!(account.look(12 * MS, 12 * MS), verdict);
    }
}
