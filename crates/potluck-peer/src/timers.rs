//! All alarms of a peer in one small table, and the one that rings next.

use potluck_unit::Time;

/// What an alarm is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timer {
    /// Sign and say the receipts that are waiting.
    Flush = 0,
    /// Announce record ids to those who did not get the records pushed.
    Announce = 1,
    /// Ask for records that were announced and never came.
    Ask = 2,
    /// Look around: dial, reconcile, expire, claim.
    Tick = 3,
    /// Push the records of others that need not hurry.
    Push = 4,
    /// Start what was claimed.
    Plan = 5,
    /// What is lent changes by itself.
    Lend = 6,
}

impl Timer {
    const ALL: [Timer; 7] = [
        Timer::Lend,
        Timer::Flush,
        Timer::Push,
        Timer::Announce,
        Timer::Ask,
        Timer::Tick,
        Timer::Plan,
    ];
}

/// When each alarm rings.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    due: [Option<Time>; Timer::ALL.len()],
    told: Option<Time>,
}

impl Timers {
    /// Rings at `at`, or earlier if it would have rung earlier.
    pub(crate) fn at_latest(&mut self, timer: Timer, at: Time) {
        let due = &mut self.due[timer as usize];
        *due = Some(due.map_or(at, |before| before.min(at)));
    }

    /// Takes one alarm that is due.
    pub(crate) fn take_due(&mut self, now: Time) -> Option<Timer> {
        let timer = Timer::ALL
            .into_iter()
            .find(|timer| self.due[*timer as usize].is_some_and(|at| at <= now))?;
        self.due[timer as usize] = None;
        Some(timer)
    }

    /// When the next alarm rings.
    #[cfg(test)]
    pub(crate) fn next(&self) -> Option<Time> {
        self.due.iter().flatten().min().copied()
    }

    /// The next alarm, if the shell does not know of it yet.
    pub(crate) fn news(&mut self) -> Option<Time> {
        let next = self.due.iter().flatten().min().copied();
        if next == self.told {
            return None;
        }
        self.told = next;
        next
    }

    /// The shell's alarm rang and is no longer set.
    pub(crate) fn rang(&mut self) {
        self.told = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_alarm_is_told_once() {
        let mut timers = Timers::default();
        timers.at_latest(Timer::Tick, Time(50));
        timers.at_latest(Timer::Flush, Time(20));
        timers.at_latest(Timer::Flush, Time(30));
        assert_eq!(timers.news(), Some(Time(20)));
        assert_eq!(timers.news(), None);
        assert_eq!(timers.take_due(Time(19)), None);
        assert_eq!(timers.take_due(Time(20)), Some(Timer::Flush));
        assert_eq!(timers.take_due(Time(20)), None);
        assert_eq!(timers.news(), Some(Time(50)));
    }
}
