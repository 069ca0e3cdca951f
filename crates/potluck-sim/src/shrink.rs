//! Shrinking: which parts of a scenario that fails can be left out, and it still fails.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use crate::oracle::Failure;
use crate::scenario::{Blow, Conduct, Faults, Scenario};
use crate::world::run;

/// Something that can be left out of a scenario. Reads and prints as in the command that repeats one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// All machines but so many.
    Machines(usize),
    /// The cheating of one machine, which is honest then.
    Cheat(usize),
    /// A job.
    Job(usize),
    /// All units of each job but so many.
    Units(u32),
    /// A blow of fate.
    Blow(usize),
    /// Crashes by chance.
    Churn,
    /// Loss of messages.
    Loss,
    /// Messages that come twice.
    Twice,
    /// Messages that overtake each other.
    Reorder,
    /// Long delays.
    Delay,
    /// Units that fail on some machines.
    NoResults,
    /// Clocks that are off.
    Clocks,
    /// Limits to what links carry.
    Bandwidth,
    /// Machines that can't be dialled.
    Hidden,
    /// Machines that come late.
    Late,
}

/// Worlds run to shrink one: a few minutes of the slowest kind, those that never come to an end.
const TRIES_MAX: usize = 150;
/// Machines that are always left: the submitters, and whom everybody joins.
const MACHINES_LEAST: usize = 5;

impl Part {
    fn name_and_number(self) -> (&'static str, Option<usize>) {
        match self {
            Part::Machines(count) => ("machines", Some(count)),
            Part::Cheat(machine) => ("cheat", Some(machine)),
            Part::Job(job) => ("job", Some(job)),
            Part::Units(count) => ("units", Some(count as usize)),
            Part::Blow(blow) => ("blow", Some(blow)),
            Part::Churn => ("churn", None),
            Part::Loss => ("loss", None),
            Part::Twice => ("twice", None),
            Part::Reorder => ("reorder", None),
            Part::Delay => ("delay", None),
            Part::NoResults => ("no-results", None),
            Part::Clocks => ("clocks", None),
            Part::Bandwidth => ("bandwidth", None),
            Part::Hidden => ("hidden", None),
            Part::Late => ("late", None),
        }
    }
}

impl Part {
    /// Whether without this there is nothing of the other either.
    fn covers(self, other: Part) -> bool {
        match (self, other) {
            (Part::Machines(few), Part::Machines(more)) => few <= more,
            (Part::Machines(count), Part::Cheat(machine)) => machine >= count,
            (Part::Units(few), Part::Units(more)) => few <= more,
            _ => self == other,
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name_and_number() {
            (name, None) => f.write_str(name),
            (name, Some(number)) => write!(f, "{name}:{number}"),
        }
    }
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Part, String> {
        let number = text.split_once(':').map_or(0, |(_, number)| number.parse().unwrap_or(0));
        let units = u32::try_from(number).unwrap_or(u32::MAX);
        let numbered = [
            Part::Machines(number),
            Part::Cheat(number),
            Part::Job(number),
            Part::Units(units),
            Part::Blow(number),
        ];
        let all = numbered.into_iter().chain(PLAIN);
        let found = all.into_iter().find(|part| part.to_string() == text);
        found.ok_or_else(|| format!("{text} is no part of a scenario; parts are machines:N, cheat:N, job:N, units:N, blow:N, churn, loss, twice, reorder, delay, no-results, clocks, bandwidth, hidden, late"))
    }
}

/// The parts without a number.
const PLAIN: [Part; 10] = [
    Part::Churn,
    Part::Loss,
    Part::Twice,
    Part::Reorder,
    Part::Delay,
    Part::NoResults,
    Part::Clocks,
    Part::Bandwidth,
    Part::Hidden,
    Part::Late,
];

impl Scenario {
    /// The same scenario without these parts.
    pub fn without(&self, parts: &BTreeSet<Part>) -> Scenario {
        let mut left = self.clone();
        left.without = parts.clone();
        for part in parts {
            left.leave_out(*part);
        }
        let keep = |part: Part| !parts.contains(&part);
        let count = left.machines.len();
        let there = |blow: &Blow| match blow {
            Blow::Crash { machine, .. }
            | Blow::Die { machine }
            | Blow::Tell { machine, .. }
            | Blow::LoseOutputs { machine } => *machine < count,
            Blow::Part { .. } => true,
            Blow::SubmitterLeaves { job, .. } => keep(Part::Job(*job)),
        };
        let blows = self.blows.iter().enumerate();
        left.blows = blows
            .filter(|(number, (_, blow))| keep(Part::Blow(*number)) && there(blow))
            .map(|(_, blow)| blow.clone())
            .collect();
        // A job that is left out keeps its place, so that those after it keep their numbers: it is
        // never submitted, and nobody misses it.
        for (number, job) in left.jobs.iter_mut().enumerate() {
            job.absent |= !keep(Part::Job(number)) || job.submitter >= count;
        }
        left
    }

    fn leave_out(&mut self, part: Part) {
        let none = Faults::NONE;
        match part {
            Part::Machines(count) => self.machines.truncate(count.max(1)),
            Part::Cheat(machine) => {
                let cheat = self.machines.get_mut(machine);
                cheat.into_iter().for_each(|spec| spec.conduct = Conduct::Honest);
            }
            Part::Units(most) => {
                self.jobs.iter_mut().for_each(|job| job.units = job.units.min(most.max(1)));
            }
            // These are told apart by their places in the whole scenario.
            Part::Job(_) | Part::Blow(_) => {}
            Part::Churn => self.churn = None,
            Part::Loss => self.faults.loss_per_mille = 0,
            Part::Twice => self.faults.twice_per_mille = 0,
            Part::Reorder => self.faults.reorder = false,
            Part::Delay => self.faults.delay_ms = none.delay_ms,
            Part::NoResults => self.no_result_per_mille = 0,
            Part::Clocks => {
                self.machines.iter_mut().for_each(|m| (m.skew_ms, m.drift_ppm) = (0, 0));
            }
            Part::Bandwidth => {
                self.machines.iter_mut().for_each(|m| (m.up_per_s, m.down_per_s) = (0, 0));
            }
            Part::Hidden => self.machines.iter_mut().for_each(|m| m.hidden = false),
            Part::Late => self.machines.iter_mut().for_each(|m| m.start_ms = 0),
        }
    }

    /// What might be left out, the largest first.
    fn parts(&self) -> Vec<Part> {
        let machines = self.machines.len();
        let fewer = [machines / 4, machines / 2, machines * 3 / 4, machines.saturating_sub(1)];
        let fewer = fewer.into_iter().filter(|count| *count >= MACHINES_LEAST);
        let mut parts: Vec<Part> = fewer.map(Part::Machines).collect();
        parts.extend((0..self.jobs.len()).map(Part::Job));
        let cheats = self.machines.iter().enumerate();
        let cheats = cheats.filter(|(_, machine)| machine.conduct != Conduct::Honest);
        parts.extend(cheats.map(|(number, _)| Part::Cheat(number)));
        parts.extend((0..self.blows.len()).map(Part::Blow));
        parts.extend(PLAIN);
        parts.extend([1, 4, 16].map(Part::Units));
        parts
    }
}

/// Leaves out of a scenario that fails what can be left out, and answers how it fails then. Only the
/// same kind of failure counts.
pub fn shrink(scenario: &Scenario, failure: Failure) -> Failure {
    let kind = |failure: &Failure| failure.what.split(':').next().map(str::to_owned);
    let (mut left_out, mut least, mut tries) = (BTreeSet::new(), failure, 0);
    loop {
        let before = left_out.clone();
        for part in scenario.parts() {
            if tries == TRIES_MAX || left_out.iter().any(|other: &Part| other.covers(part)) {
                continue;
            }
            tries += 1;
            let mut more = left_out.clone();
            more.retain(|other| !part.covers(*other));
            more.insert(part);
            if let Err(failure) = run(scenario.without(&more))
                && kind(&failure) == kind(&least)
            {
                (left_out, least) = (more, failure);
            }
        }
        if left_out == before {
            return least;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_part_reads_as_it_prints() {
        for part in Scenario::of_seed(3).parts() {
            assert_eq!(part.to_string().parse(), Ok(part));
        }
        assert!("chance".parse::<Part>().is_err());
    }
}
