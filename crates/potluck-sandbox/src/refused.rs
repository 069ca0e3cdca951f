//! Modules that the compiler has given up on, so that no unit of theirs starts it again: the next
//! attempt would cost as much and end alike.

use std::collections::VecDeque;

use potluck_unit::{ModuleId, NoResult};

use crate::Refusal;

/// What is remembered, the newest last. Gone with the process: another version may do better.
#[derive(Debug, Default)]
pub(crate) struct Refused(VecDeque<(ModuleId, u64, Refusal)>);

impl Refused {
    /// What the compiler said of `module` when it was tried with no less memory than this.
    pub(crate) fn find(&self, module: &ModuleId, memory_max_bytes: u64) -> Option<Refusal> {
        let tried = |known: &ModuleId, bytes: u64| known == module && bytes >= memory_max_bytes;
        self.0.iter().find(|(known, bytes, _)| tried(known, *bytes)).map(|entry| entry.2.clone())
    }

    /// Remembers a refusal that another attempt would not change: the compiler ran out of its
    /// limits, or said itself that it can't. A compiler that died may do better next time.
    pub(crate) fn insert(&mut self, module: &ModuleId, memory_max_bytes: u64, refusal: &Refusal) {
        let Refusal::NoResult(NoResult::TooCostlyToCompile | NoResult::Engine, _) = refusal else {
            return;
        };
        if self.0.len() >= REFUSED_MAX {
            self.0.pop_front();
        }
        self.0.push_back((*module, memory_max_bytes, refusal.clone()));
    }
}

/// Of more bombs than this the oldest is tried again.
const REFUSED_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    fn module(number: usize) -> ModuleId {
        ModuleId::of(&number.to_le_bytes())
    }

    #[test]
    fn one_past_the_bound_forgets_the_oldest() {
        let mut refused = Refused::default();
        let refusal = Refusal::NoResult(NoResult::TooCostlyToCompile, "bomb".into());
        for number in 0..=REFUSED_MAX {
            refused.insert(&module(number), 1, &refusal);
        }
        assert_eq!(refused.find(&module(0), 1), None);
        assert_eq!(refused.find(&module(1), 1), Some(refusal.clone()));
        assert_eq!(refused.find(&module(REFUSED_MAX), 1), Some(refusal));
    }

    #[test]
    fn what_may_end_otherwise_next_time_is_tried_again() {
        let mut refused = Refused::default();
        for reason in [NoResult::ChildDied, NoResult::HostMemory] {
            refused.insert(&module(1), 1, &Refusal::NoResult(reason, String::new()));
        }
        assert_eq!(refused.find(&module(1), 1), None);
        let said = Refusal::NoResult(NoResult::Engine, "function too large".into());
        refused.insert(&module(1), 1, &said);
        assert_eq!(refused.find(&module(1), 1), Some(said));
        assert_eq!(refused.find(&module(1), 2), None, "with more memory it may end well");
    }
}
