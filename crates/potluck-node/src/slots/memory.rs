//! The account of memory: who may take how much, so that all together stay under the cap.
//!
//! A runner is counted with the most that its limits let it take, from before its start until after
//! its end; a compiler with the limit it is started with; the node itself with [`Rules::NODE_BYTES`]. What
//! does not fit beside the others waits for its turn, in order, and not for ever.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use potluck_peer::Rules;
use potluck_unit::Limits;

/// Who has taken how much.
#[derive(Debug)]
pub(super) struct Memory {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug)]
struct State {
    /// For units and compilers together.
    max: u64,
    taken: BTreeMap<u16, u64>,
    /// Slots that wait, the first first. Each waits once.
    waiting: VecDeque<u16>,
}

/// Why there is no memory. Nothing has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// It would not fit even alone.
    TooMuch {
        /// What is lent for units and compilers.
        lent: u64,
    },
    /// It did not fit beside the others for too long.
    NoRoom,
    /// Whoever waited is not to wait any more.
    GaveUp,
}

impl Memory {
    /// Nothing is taken.
    pub(super) fn new(cap_bytes: u64) -> Memory {
        let max = for_units(cap_bytes);
        let state = State { max, taken: BTreeMap::new(), waiting: VecDeque::new() };
        Memory { state: Mutex::new(state), changed: Condvar::new() }
    }

    /// The most that a runner under these limits takes, with what the node holds for it meanwhile.
    pub(super) fn of_runner(limits: &Limits) -> u64 {
        limits.held_bytes().saturating_add(Rules::SLOT_BYTES)
    }

    /// What a compiler may take: half, so that one more runs beside it.
    pub(super) fn of_compiler(&self) -> u64 {
        (self.lock().max / 2).min(COMPILER_MAX_BYTES)
    }

    /// Changes the cap on everything. What is taken stays so.
    pub(super) fn set_max(&self, cap_bytes: u64) {
        self.lock().max = for_units(cap_bytes);
        self.changed.notify_all();
    }

    /// Whether more is taken than may be.
    pub(super) fn is_over(&self) -> bool {
        let state = self.lock();
        state.sum() > state.max
    }

    /// The slots without which no more would be taken than may be: those with the highest numbers.
    pub(super) fn too_many(&self) -> Vec<u16> {
        let state = self.lock();
        let mut sum = state.sum();
        let over = state.taken.iter().rev().take_while(|(_, bytes)| {
            let over = sum > state.max;
            sum = sum.saturating_sub(**bytes);
            over
        });
        over.map(|(slot, _)| *slot).collect()
    }

    /// Whether so much would fit beside what the slots have taken for which `counts` holds.
    pub(super) fn fits(&self, bytes: u64, counts: impl Fn(u16) -> bool) -> bool {
        // Asked without the lock, which is not to be held over any other.
        let (taken, max) = {
            let state = self.lock();
            (state.taken.clone(), state.max)
        };
        let beside = taken.into_iter().filter(|(slot, _)| counts(*slot));
        beside.fold(bytes, |sum, (_, bytes)| sum.saturating_add(bytes)) <= max
    }

    /// Takes so much for `slot`, which has nothing, when it fits. As long as it does not, `ask` is
    /// called now and then to make others let go; `give_up` ends the waiting. [`Memory::wake`] has
    /// both called at once.
    pub(super) fn take(
        &self,
        slot: u16,
        bytes: u64,
        ask: impl Fn(),
        give_up: impl Fn() -> bool,
    ) -> Result<(), Refused> {
        let until = Instant::now() + WAIT_MAX;
        self.lock().waiting.push_back(slot);
        let mut waits = false;
        let taken = loop {
            if give_up() {
                break Err(Refused::GaveUp);
            }
            if waits {
                ask();
            }
            let mut state = self.lock();
            if bytes > state.max {
                break Err(Refused::TooMuch { lent: state.max });
            }
            let fits = state.sum().saturating_add(bytes) <= state.max;
            if fits && state.waiting.front() == Some(&slot) {
                state.taken.insert(slot, bytes);
                break Ok(());
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break Err(Refused::NoRoom);
            }
            if !std::mem::replace(&mut waits, true) {
                continue;
            }
            // Not for long: who gives up may do so between the question above and this.
            let glance = left.min(GLANCE);
            drop(self.changed.wait_timeout(state, glance).unwrap_or_else(PoisonError::into_inner));
        };
        self.lock().waiting.retain(|waiting| *waiting != slot);
        self.changed.notify_all();
        taken
    }

    /// Gives back what `slot` has taken.
    pub(super) fn give_back(&self, slot: u16) {
        if self.lock().taken.remove(&slot).is_some() {
            self.changed.notify_all();
        }
    }

    /// Lets those who wait look again: somebody has nothing to do now, or is to give up.
    pub(super) fn wake(&self) {
        self.changed.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whole between any two statements that hold the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn sum(&self) -> u64 {
        self.taken.values().fold(0, |sum, bytes| sum.saturating_add(*bytes))
    }
}

/// What a cap on everything leaves for units and compilers.
pub(super) fn for_units(cap_bytes: u64) -> u64 {
    cap_bytes.saturating_sub(Rules::NODE_BYTES)
}

/// No honest module that was measured needs more to compile.
const COMPILER_MAX_BYTES: u64 = 2 << 30;
/// How long memory is waited for. Others then get to run the unit.
const WAIT_MAX: Duration = Duration::from_secs(60);
const GLANCE: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(max: u64) -> Memory {
        Memory::new(Rules::NODE_BYTES + max)
    }

    fn take(memory: &Memory, slot: u16, bytes: u64) -> Result<(), Refused> {
        memory.take(slot, bytes, || {}, || false)
    }

    #[test]
    fn a_byte_more_than_is_lent_is_refused_and_says_what_is() {
        let memory = memory(10);
        assert_eq!(take(&memory, 0, 11), Err(Refused::TooMuch { lent: 10 }));
        assert_eq!(take(&memory, 0, 10), Ok(()));
        assert!(memory.fits(0, |_| true) && !memory.fits(1, |_| true));
        assert!(memory.fits(10, |_| false), "what idles counts for nothing");
    }

    #[test]
    fn who_waits_gets_the_memory_when_it_is_given_back_in_order() {
        let memory = memory(10);
        take(&memory, 0, 8).unwrap();
        let order = Mutex::new(Vec::new());
        std::thread::scope(|threads| {
            for slot in [1, 2] {
                let (memory, order) = (&memory, &order);
                threads.spawn(move || {
                    // The second needs little and could go first.
                    take(memory, slot, if slot == 1 { 9 } else { 1 }).unwrap();
                    order.lock().unwrap().push(slot);
                });
                while memory.lock().waiting.len() < usize::from(slot) {
                    std::thread::yield_now();
                }
            }
            assert!(order.lock().unwrap().is_empty());
            memory.give_back(0);
        });
        assert_eq!(memory.lock().sum(), 10);
        assert!(memory.lock().waiting.is_empty());
    }

    #[test]
    fn others_are_asked_to_let_go_and_who_gives_up_has_nothing() {
        let memory = memory(10);
        take(&memory, 0, 8).unwrap();
        memory.take(1, 5, || memory.give_back(0), || false).unwrap();
        assert_eq!(memory.take(2, 1, || {}, || true), Err(Refused::GaveUp));
        assert_eq!(memory.lock().sum(), 5);
    }

    #[test]
    fn a_lower_cap_names_the_highest_slots_that_are_too_many() {
        let memory = memory(40);
        (0..4).for_each(|slot| take(&memory, slot, 10).unwrap());
        for (max, expected) in [(40, &[][..]), (39, &[3]), (20, &[3, 2]), (0, &[3, 2, 1, 0])] {
            memory.set_max(Rules::NODE_BYTES + max);
            assert_eq!(memory.too_many(), expected);
            assert_eq!(memory.is_over(), !expected.is_empty());
        }
    }

    #[test]
    fn what_the_peer_takes_fits_here_to_the_byte() {
        // The peer's rule: what is lent less the node's part and a sandbox's.
        let limits = Limits { out_max_bytes: 3 << 20, ..Limits::DEFAULT };
        let least = Rules::NODE_BYTES + Rules::SLOT_BYTES + limits.held_bytes();
        assert_eq!(Memory::of_runner(&limits), for_units(least));
    }

    #[test]
    fn two_default_units_fit_into_two_gibibytes() {
        let one = Memory::of_runner(&Limits::DEFAULT);
        assert!(2 * one <= for_units(2 << 30), "{one}");
        assert!(3 * one > for_units(2 << 30), "{one}");
    }
}
