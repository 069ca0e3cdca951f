//! The oracle: knows the truth, and looks at what each peer decides right after it decided it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use potluck_peer::{Action, News, Peer, Verdict};
use potluck_unit::{JobId, PeerId, ResultHash, Topic};

use crate::machine::Machine;
use crate::scenario::{Conduct, Scenario};

/// Actions of one turn that are not news: what was said to all neighbours, and a little.
const ACTIONS_MAX: usize = 4096;

/// A world went where it must not. Displays with its last events and the command that repeats it.
#[derive(Debug)]
pub struct Failure {
    /// What is wrong.
    pub what: String,
    /// Where it stands in the world's time, in milliseconds since its start.
    pub at_ms: u64,
    pub(crate) events: String,
    pub(crate) seed: u64,
    pub(crate) test: &'static str,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { what, at_ms, events, seed, test } = self;
        writeln!(f, "seed {seed}: {what}, at {at_ms} ms\nthe last events were\n{events}")?;
        write!(f, "POTLUCK_SIM_SEED={seed} cargo test -p potluck-sim {test} -- --nocapture")
    }
}

impl std::error::Error for Failure {}

/// What each machine has said so far that it may not take back.
#[derive(Debug)]
pub(crate) struct Oracle {
    truth: Vec<ResultHash>,
    conducts: BTreeMap<PeerId, Conduct>,
    views: Vec<View>,
    copies: usize,
    pacts_may_win: bool,
    job: JobId,
}

#[derive(Debug, Default)]
struct View {
    /// R and the number of convictions when it was accepted.
    accepted: BTreeMap<u32, (ResultHash, usize)>,
    convictions: usize,
}

impl Oracle {
    pub(crate) fn new(
        scenario: &Scenario,
        job: JobId,
        truth: Vec<ResultHash>,
        machines: &[Machine],
    ) -> Oracle {
        Oracle {
            truth,
            conducts: machines.iter().map(|m| (m.id, m.spec.conduct)).collect(),
            views: machines.iter().map(|_| View::default()).collect(),
            copies: usize::from(scenario.copies),
            pacts_may_win: scenario.pacts_may_win,
            job,
        }
    }

    fn is_honest(&self, peer: &PeerId) -> bool {
        self.conducts.get(peer) == Some(&Conduct::Honest)
    }

    /// Looks at one turn of an honest machine.
    pub(crate) fn on_turn(&mut self, machine: &Machine, actions: &[Action]) -> Result<(), String> {
        let Some(peer) = machine.peer.as_ref().filter(|_| machine.is_honest()) else {
            return Ok(());
        };
        let who = machine.number;
        let mut others = 0;
        for action in actions {
            match action {
                Action::Tell(News::Accepted { index, result, .. }) => {
                    self.on_accepted(who, peer, *index, *result)?;
                }
                Action::Tell(News::Reopened { index, .. }) => {
                    self.on_reopened(who, peer, *index)?
                }
                Action::Tell(News::Convicted(conviction)) => {
                    self.views[who].convictions += 1;
                    if self.is_honest(&conviction.peer) {
                        return Err(format!(
                            "machine {who} convicts an honest peer: {conviction:?}"
                        ));
                    }
                }
                Action::Tell(News::Job(_) | News::Keeping { .. } | News::Unsteady { .. }) => {}
                Action::Run { units, .. } if units.is_empty() => {
                    return Err(format!("machine {who} runs nothing"));
                }
                Action::Say { .. }
                | Action::Dial { .. }
                | Action::HangUp { .. }
                | Action::Keep(_)
                | Action::Forget(_)
                | Action::Note(_)
                | Action::Discard(_)
                | Action::Credit(_)
                | Action::Clear(_)
                | Action::Fetch { .. }
                | Action::Run { .. }
                | Action::Stop { .. }
                | Action::WakeAt(_) => others += 1,
            }
        }
        if others > ACTIONS_MAX {
            return Err(format!("machine {who} wants {others} things in one turn"));
        }
        Ok(())
    }

    fn on_accepted(
        &mut self,
        who: usize,
        peer: &Peer,
        index: u32,
        result: ResultHash,
    ) -> Result<(), String> {
        let convictions = self.views[who].convictions;
        let before = self.views[who].accepted.insert(index, (result, convictions));
        if before.is_some() {
            return Err(format!("machine {who} accepts unit {index} twice without reopening it"));
        }
        if self.truth.get(index as usize) == Some(&result) {
            return Ok(());
        }
        let words = peer.unit(&self.job, index).map_or_else(Vec::new, |unit| unit.words);
        let voices: BTreeSet<PeerId> = (words.iter())
            .filter(|word| word.counts && word.said == Ok(result))
            .map(|word| word.peer)
            .collect();
        let conspired = self.pacts_may_win
            && voices.len() >= self.copies
            && !voices.iter().any(|voice| self.is_honest(voice));
        if conspired {
            return Ok(());
        }
        Err(format!("machine {who} accepts a lie about unit {index} from {voices:?}"))
    }

    fn on_reopened(&mut self, who: usize, peer: &Peer, index: u32) -> Result<(), String> {
        let Some((_, then)) = self.views[who].accepted.remove(&index) else {
            return Err(format!("machine {who} reopens unit {index}, which it had not accepted"));
        };
        let words = peer.unit(&self.job, index).map_or_else(Vec::new, |unit| unit.words);
        let said: BTreeSet<ResultHash> = words.iter().filter_map(|word| word.said.ok()).collect();
        // Who was contradicted on one unit by a great majority may lose weight on all.
        let doubted = || {
            let doubted = self.doubted(peer);
            words.iter().any(|word| doubted.contains(&word.peer))
        };
        if self.views[who].convictions == then && said.len() < 2 && !doubted() {
            return Err(format!(
                "machine {who} reopens unit {index} without a conviction or a contradiction"
            ));
        }
        Ok(())
    }

    /// A machine has replayed its disk: what it had accepted must still be.
    pub(crate) fn on_restart(&mut self, machine: &Machine) -> Result<(), String> {
        let Some(peer) = machine.peer.as_ref().filter(|_| machine.is_honest()) else {
            return Ok(());
        };
        let view = &mut self.views[machine.number];
        view.convictions = peer.convictions().len();
        for (index, (result, convictions)) in &mut view.accepted {
            *convictions = view.convictions;
            let verdict = peer.verdict(&self.job, *index);
            if verdict != Some(Verdict::Accepted(*result)) {
                let who = machine.number;
                return Err(format!(
                    "machine {who} forgot over a restart that it accepted unit {index}: {verdict:?}"
                ));
            }
        }
        Ok(())
    }

    /// Two honest peers that hold the same and believe the same must decide the same.
    pub(crate) fn compare(&self, a: &Machine, b: &Machine) -> Result<(), String> {
        let (Some(one), Some(two)) = (&a.peer, &b.peer) else { return Ok(()) };
        let topic = Topic::Job(self.job);
        let convicted = |peer: &Peer| -> BTreeSet<PeerId> {
            peer.convictions().iter().map(|conviction| conviction.peer).collect()
        };
        let (left, right) = (one.fingerprint(&topic), two.fingerprint(&topic));
        let liars = convicted(one);
        let comparable = a.is_honest() && b.is_honest() && left.is_some() && left == right;
        if !comparable || liars != convicted(two) {
            return Ok(());
        }
        let doubted = self.doubted(one);
        for index in 0..u32::try_from(self.truth.len()).unwrap_or(u32::MAX) {
            let verdicts = (one.verdict(&self.job, index), two.verdict(&self.job, index));
            // Whether a unit is given up depends on how many workers a peer knows of.
            let gave_up = |verdict| matches!(verdict, Some(Verdict::Unrunnable(_)));
            let same = verdicts.0 == verdicts.1 || gave_up(verdicts.0) || gave_up(verdicts.1);
            // A liar's word still counts with who found the same itself; and who tried in vain to
            // settle a dispute goes by the number of voices.
            let own_view = |word: &potluck_peer::Word| {
                let tried_in_vain = word.said.is_err() && [a.id, b.id].contains(&word.peer);
                liars.contains(&word.peer) || tried_in_vain || doubted.contains(&word.peer)
            };
            let unit = one.unit(&self.job, index).filter(|_| !same);
            if unit.is_some_and(|unit| !unit.words.iter().any(own_view)) {
                let (a, b) = (a.number, b.number);
                return Err(format!("machines {a} and {b} differ on unit {index}: {verdicts:?}"));
            }
        }
        Ok(())
    }

    /// Everybody whom somebody contradicts somewhere: who is not called to settle that goes by what
    /// a great majority says, and others wait until they know.
    fn doubted(&self, peer: &Peer) -> BTreeSet<PeerId> {
        let mut doubted = BTreeSet::new();
        for index in 0..u32::try_from(self.truth.len()).unwrap_or(0) {
            let words = peer.unit(&self.job, index).map_or_else(Vec::new, |unit| unit.words);
            let said: BTreeSet<ResultHash> = words.iter().filter_map(|one| one.said.ok()).collect();
            if said.len() > 1 {
                doubted.extend(words.iter().filter(|one| one.said.is_ok()).map(|one| one.peer));
            }
        }
        doubted
    }

    /// What is still missing until all is well; none if it is.
    pub(crate) fn missing(&self, machines: &[Machine]) -> Option<String> {
        machines.iter().filter(|machine| machine.is_honest()).find_map(|machine| {
            let who = machine.number;
            let Some(peer) = &machine.peer else { return Some(format!("machine {who} is down")) };
            let Some(status) = peer.job(&self.job) else {
                let neighbours = peer.neighbours();
                return Some(format!("machine {who} with {neighbours} neighbours has no job"));
            };
            // Who lends nothing has nobody to settle disputes about others' jobs with.
            let decides = machine.spec.slots > 0 || who == 0;
            let units = self.truth.len();
            let undecided = || self.undecided(peer);
            if decides && status.counts.accepted as usize != units && undecided() {
                return Some(format!("machine {who} has {:?} of {units}", status.counts));
            }
            if who == 0 && status.counts.fetched as usize != units {
                return Some(format!("the submitter fetched {} of {units}", status.counts.fetched));
            }
            None
        })
    }

    /// Whether a unit is not accepted.
    fn undecided(&self, peer: &Peer) -> bool {
        let all = 0..u32::try_from(self.truth.len()).unwrap_or(u32::MAX);
        let mut units = all.filter_map(|index| peer.unit(&self.job, index));
        units.any(|unit| !matches!(unit.verdict, Verdict::Accepted(_)))
    }

    /// Looks at everything once all is well.
    pub(crate) fn on_end(&self, machines: &[Machine]) -> Result<(), String> {
        for machine in machines.iter().filter(|machine| machine.is_honest()) {
            let Some(peer) = &machine.peer else { continue };
            for (index, truth) in self.truth.iter().enumerate() {
                let index = u32::try_from(index).unwrap_or(u32::MAX);
                self.check_unit(machine, peer, index, truth)?;
            }
        }
        Ok(())
    }

    fn check_unit(
        &self,
        machine: &Machine,
        peer: &Peer,
        index: u32,
        truth: &ResultHash,
    ) -> Result<(), String> {
        let who = machine.number;
        let Some(unit) = peer.unit(&self.job, index) else { return Ok(()) };
        if let Verdict::Accepted(result) = unit.verdict
            && result != *truth
            && !self.pacts_may_win
        {
            return Err(format!("machine {who} ends with a lie about unit {index}"));
        }
        let ran = unit.words.iter().any(|word| word.peer == machine.id && word.said == Ok(*truth));
        let lied = unit
            .words
            .iter()
            .find(|word| word.counts && word.said.is_ok_and(|said| said != *truth) && ran);
        if let Some(word) = lied {
            let liar = word.peer.short();
            return Err(format!("machine {who} ran unit {index} and believes {liar}, who lied"));
        }
        if who == 0
            && matches!(unit.verdict, Verdict::Accepted(_))
            && !machine.disk.bodies.contains(truth)
        {
            return Err(format!("the submitter has no body of unit {index} on its disk"));
        }
        Ok(())
    }
}
