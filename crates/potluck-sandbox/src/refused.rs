//! Modules that the compiler has given up on, so that no unit of theirs starts it again: the next
//! attempt would cost as much and end alike.

use std::collections::VecDeque;

use potluck_unit::{ModuleId, NoResult};

use crate::Refusal;

/// What is remembered, the newest last. Gone with the process: another version may do better.
#[derive(Debug, Default)]
pub(crate) struct Refused(VecDeque<(ModuleId, Refusal)>);

impl Refused {
    /// What the compiler said of `module` when it was tried.
    pub(crate) fn find(&self, module: &ModuleId) -> Option<Refusal> {
        self.0.iter().find(|(known, _)| known == module).map(|(_, refusal)| refusal.clone())
    }

    /// Remembers a refusal that another attempt would not change: the compiler ran out of its
    /// limits, or said itself that it can't. A compiler that died may do better next time.
    pub(crate) fn insert(&mut self, module: &ModuleId, refusal: &Refusal) {
        let Refusal::NoResult(NoResult::TooCostlyToCompile | NoResult::Engine, _) = refusal else {
            return;
        };
        if self.0.len() >= REFUSED_MAX {
            self.0.pop_front();
        }
        self.0.push_back((*module, refusal.clone()));
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
            refused.insert(&module(number), &refusal);
        }
        assert_eq!(refused.find(&module(0)), None);
        assert_eq!(refused.find(&module(1)), Some(refusal.clone()));
        assert_eq!(refused.find(&module(REFUSED_MAX)), Some(refusal));
    }

    #[test]
    fn what_may_end_otherwise_next_time_is_tried_again() {
        let mut refused = Refused::default();
        for reason in [NoResult::ChildDied, NoResult::HostMemory] {
            refused.insert(&module(1), &Refusal::NoResult(reason, String::new()));
        }
        assert_eq!(refused.find(&module(1)), None);
        let said = Refusal::NoResult(NoResult::Engine, "function too large".into());
        refused.insert(&module(1), &said);
        assert_eq!(refused.find(&module(1)), Some(said));
    }
}
