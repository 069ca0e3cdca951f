//! Lending: enforces what the peer decided that this machine lends, and remembers why it changed.

use std::collections::VecDeque;

use potluck_peer::{Allowance, Effect, Order, Rules};
use potluck_unit::Time;
use tracing::info;

use crate::hub::Hub;
use crate::net::{Net, Rates};
use crate::slots::{Lent, Slots};

/// Lines of the log that are kept: a week in which a rule changes its mind every ten minutes.
pub(crate) const LOG_MAX: usize = 1000;

/// What is enforced now, and what led to it.
#[derive(Debug, Default)]
pub(crate) struct Lending {
    now: Option<Allowance>,
    log: VecDeque<(Time, String)>,
    /// What is wrong with the config file, whose older settings hold.
    pub(crate) config_error: Option<String>,
    /// Keys that were changed and hold after a restart.
    pub(crate) restart_needed: Vec<String>,
}

impl Lending {
    /// Enforces this from now on, and notes what is new about it.
    pub(crate) fn enforce(&mut self, now: Time, lent: Allowance, slots: &Slots, net: &Net) {
        let before = self.now.as_ref();
        let released = before.is_some_and(|before| before.released);
        // First what stops something, then what lets it go on.
        if !lent.computes() {
            slots.suspend();
        }
        slots.lend(Lent {
            // One slot stays for disputed units of this node's own jobs.
            slots: lent.slots.max(1),
            cpu_percent: lent.cpu_percent,
            memory_bytes: lent.memory_bytes,
            disk_bytes: lent.disk_bytes,
        });
        if lent.released && !released {
            slots.release();
        }
        if lent.computes() {
            slots.resume();
        }
        let rate = |per_s: u64| (per_s != Rules::UNLIMITED).then_some(per_s);
        net.set_rates(Rates {
            upload_per_s: rate(lent.upload_per_s),
            download_per_s: rate(lent.download_per_s),
        });
        let shut = lent.first(Effect::Network);
        let shut =
            shut.map(|reason| format!("its owner keeps it off the network: {}", reason.rule.key()));
        net.set_shut(shut.as_deref());
        self.note_change(now, &lent);
        self.now = Some(lent);
    }

    fn note_change(&mut self, now: Time, lent: &Allowance) {
        let rules = |lent: &Allowance| -> Vec<_> {
            lent.reasons.iter().map(|reason| reason.rule).collect()
        };
        let before = self.now.as_ref().map(rules).unwrap_or_default();
        let after = rules(lent);
        let begun: Vec<String> = (lent.reasons.iter())
            .filter(|reason| !before.contains(&reason.rule))
            .map(ToString::to_string)
            .collect();
        let ended: Vec<&str> =
            before.iter().filter(|rule| !after.contains(rule)).map(|rule| rule.key()).collect();
        let released = lent.released && !self.now.as_ref().is_some_and(|before| before.released);
        begun.into_iter().for_each(|line| self.note(now, line));
        if !ended.is_empty() {
            self.note(now, format!("no longer held up by {}", ended.join(", ")));
        }
        if released {
            self.note(
                now,
                "memory is given back, and units that had begun are left to others".to_owned(),
            );
        }
    }

    /// Adds a line to the log.
    pub(crate) fn note(&mut self, now: Time, line: String) {
        info!("{line}");
        if self.log.len() == LOG_MAX {
            self.log.pop_front();
        }
        self.log.push_back((now, line));
    }

    /// The log, oldest first.
    pub(crate) fn log(&self) -> impl Iterator<Item = &(Time, String)> {
        self.log.iter()
    }
}

impl Hub {
    pub(crate) fn lending(&self) -> &Lending {
        &self.lending
    }

    /// Bytes below the data folder, compiled modules included.
    pub(crate) fn disk_used(&self) -> u64 {
        self.slots.as_ref().map_or_else(|| self.store().usage(), |slots| slots.disk().used)
    }

    /// Why nothing more is taken onto the disk, if nothing is.
    pub(crate) fn disk_full(&self) -> Option<String> {
        self.slots.as_ref().and_then(|slots| slots.disk().full)
    }

    /// The user said something.
    pub(crate) fn note_order(&mut self, order: Order) {
        let line = match order {
            Order::Pause { until: Some(until) } => {
                format!("asked to pause for {} s", until.ms_since(self.now()) / 1000)
            }
            Order::Pause { until: None } => "asked to pause".to_owned(),
            Order::Resume => "asked to go on".to_owned(),
            Order::Drain { exit: false } => "asked to finish and take on nothing new".to_owned(),
            Order::Drain { exit: true } => "asked to finish and stop".to_owned(),
        };
        self.lending.note(self.now(), line);
    }

    /// The config file was read anew: what is wrong with it, and what holds only after a restart.
    pub(crate) fn note_config(&mut self, wrong: Option<String>, restart_needed: Vec<String>) {
        let line = wrong.as_ref().map_or_else(
            || "potluck.toml was read anew".to_owned(),
            |wrong| format!("{wrong}; the settings stay as they were"),
        );
        self.lending.note(self.now(), line);
        (self.lending.config_error, self.lending.restart_needed) = (wrong, restart_needed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_keeps_the_newest_lines() {
        let mut lending = Lending::default();
        for line in 0..=LOG_MAX {
            lending.note(Time(0), line.to_string());
        }
        let lines: Vec<&str> = lending.log().map(|(_, line)| line.as_str()).collect();
        assert_eq!((lines.len(), lines[0], lines[LOG_MAX - 1]), (LOG_MAX, "1", "1000"));
    }
}
