//! The allowance: what the machine lends right now, and why not more.

use potluck_unit::Time;

use super::rule::{Effect, Reason};
use super::rules::Section;

/// What is lent right now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Allowance {
    /// Units at once by the sections that hold, whether or not they may run now: see
    /// [`Allowance::slots_now`].
    pub slots: u16,
    /// Percent of one core per slot, 1 to 100.
    pub cpu_percent: u8,
    /// Bytes of memory of everything together.
    pub memory_bytes: u64,
    /// Bytes below the data folder.
    pub disk_bytes: u64,
    /// Bytes per second sent; [`super::Rules::UNLIMITED`] for no cap.
    pub upload_per_s: u64,
    /// Bytes per second received; the same.
    pub download_per_s: u64,
    /// The largest inputs that may be fetched now, in bytes, by what is left of the traffic quotas.
    pub inputs_max_bytes: u64,
    /// Every rule that says no, in the order of [`super::Rule::ALL`]: the first one is shown.
    pub reasons: Vec<Reason>,
    /// Since when units are suspended.
    pub suspended_since: Option<Time>,
    /// Whether they have been for so long that memory and units were given back.
    pub released: bool,
    /// Whether only what is begun is finished.
    pub draining: bool,
    /// Whether the node is to stop when that is done.
    pub exit: bool,
    /// Which section each value comes from.
    pub from: Origins,
}

/// Which section each value of an allowance comes from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Origins {
    /// `slots`.
    pub slots: Section,
    /// `cpu-percent`.
    pub cpu_percent: Section,
    /// `memory`.
    pub memory: Section,
    /// `upload`.
    pub upload: Section,
    /// `download`.
    pub download: Section,
}

impl Allowance {
    /// Whether units may run; else all are suspended.
    pub fn computes(&self) -> bool {
        self.first(Effect::Compute).is_none()
    }

    /// Whether the network may be used.
    pub fn connects(&self) -> bool {
        self.first(Effect::Network).is_none()
    }

    /// Whether anything new is taken on.
    pub fn takes(&self) -> bool {
        self.first(Effect::Intake).is_none()
    }

    /// The first rule that keeps something from happening.
    pub fn first(&self, effect: Effect) -> Option<&Reason> {
        self.reasons.iter().find(|reason| reason.rule.effect() == effect)
    }

    /// Slots whose units may run now: 0 while suspended.
    pub fn slots_now(&self) -> u16 {
        if self.computes() { self.slots } else { 0 }
    }

    /// Whether the units of a slot may run now; else they are suspended. Slots beyond the cap are at
    /// once, so that it holds from then on. A node that never lends anything keeps the first one for
    /// disputed units of its own jobs.
    pub fn runs(&self, slot: u16) -> bool {
        self.computes() && slot < self.slots.max(1)
    }

    /// Whether a node enforces this as it does another: only what was measured may differ, and times
    /// as much as two readings of a clock do.
    pub(crate) fn is_alike(&self, other: &Allowance) -> bool {
        let bare = |allowance: &Allowance| Allowance {
            reasons: Vec::new(),
            inputs_max_bytes: 0,
            ..allowance.clone()
        };
        let same = |(one, other): (&Reason, &Reason)| {
            let both = one.until.zip(other.until);
            let near = both.is_some_and(|(one, other)| one.0.abs_diff(other.0) < SAME_TIME_MS);
            one.rule == other.rule && (near || one.until == other.until)
        };
        self.reasons.len() == other.reasons.len()
            && self.reasons.iter().zip(&other.reasons).all(same)
            && bare(self) == bare(other)
    }
}

/// Times that are closer are the same: the local clock and ours are read one after the other.
const SAME_TIME_MS: u64 = 2_000;
