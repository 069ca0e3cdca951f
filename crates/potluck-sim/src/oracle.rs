//! The oracle: knows the truth, and looks at what each peer decides right after it decided it.
//!
//! | invariant | what must hold | looked at |
//! | --- | --- | --- |
//! | I1 | nobody honest accepts a wrong result, but where all who support it are cheats and the world allows that | at each acceptance; at the end no such result stands against an honest peer's word |
//! | I2 | every unit of every open job is accepted by all who decide on it | until it is so, in the calm phase |
//! | I3 | nobody honest convicts a machine that means well and is sound | at each conviction |
//! | I3' | who is convicted stays so; who lied and was contradicted is convicted by the job's submitter if the grid is small; nobody counts a lie about what it ran itself | when sampled, over restarts; at the end |
//! | I4 | equal records and equal convictions give equal verdicts, where nobody goes by standing | for pairs, when sampled |
//! | I5 | an accepted result is given up only for a conviction, a dissent, or a doubt about who gave it | at each reopening |
//! | I6 | no more wrong units are final at a submitter than the world allows | at the end |
//! | I7 | a machine runs a unit once in a life unless others make it doubt its own finding or its outcome is lost, nothing of a closed job, and all together no more than promised | at each run; at the end |
//! | I8 | a turn's actions and a machine's records are bounded | at each turn; when sampled |
//! | I10 | the submitter has every accepted result and its body | at the end |
//!
//! I9, fair shares, is a matter of worlds made for it.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use potluck_peer::{Action, News, Peer, Verdict};
use potluck_unit::{JobId, PeerId, ResultHash, Time, Topic};

use crate::machine::Machine;
use crate::rules;
use crate::scenario::{Done, Promises, Scenario, Varies};
use crate::work::{Task, Work};

/// Whether enough honest machines are there that can run a unit, and not so many that can't that it
/// may be given up.
fn is_able(task: &Task, index: u32, machines: &[Machine], work: &Work) -> bool {
    let present = machines.iter().filter(|m| m.is_honest() && !m.dead && m.spec.slots > 0);
    let (unable, able): (Vec<_>, Vec<_>) = present.partition(|machine| work.fails(machine, index));
    able.len() >= usize::from(task.spec.copies) && unable.len() < rules::GIVE_UPS
}

/// Actions of one turn that are not news: what was said to all neighbours, and a little.
const ACTIONS_MAX: usize = 4096;

/// A world went where it must not. Displays with its last events and the command that repeats it.
#[derive(Debug)]
pub struct Failure {
    /// What is wrong.
    pub what: String,
    /// Where it stands in the world's time, in milliseconds since its start.
    pub at_ms: u64,
    /// How many events there were before.
    pub event: u64,
    pub(crate) events: String,
    /// The command that repeats it.
    pub command: String,
    pub(crate) seed: u64,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Failure { what, at_ms, event, events, command, seed } = self;
        writeln!(f, "seed {seed}: {what}, at {at_ms} ms, event {event}")?;
        write!(f, "the last events were\n{events}\n{command}")
    }
}

impl std::error::Error for Failure {}

/// What each machine has said so far that it may not take back.
#[derive(Debug)]
pub(crate) struct Oracle {
    blameless: BTreeMap<PeerId, bool>,
    views: Vec<View>,
    promises: Promises,
    /// Whether what each peer has seen of others is part of its verdicts.
    open: bool,
    /// Lies that some honest machine accepted, at any time.
    pub(crate) lies_accepted: u64,
}

#[derive(Debug, Default)]
struct View {
    /// R and the number of convictions when it was accepted, by job and unit.
    accepted: BTreeMap<(JobId, u32), (ResultHash, usize)>,
    convicted: BTreeSet<PeerId>,
    convictions: usize,
    /// What it has run in this life.
    ran: BTreeMap<(usize, u32), usize>,
}

impl Oracle {
    pub(crate) fn new(scenario: &Scenario, machines: &[Machine]) -> Oracle {
        Oracle {
            blameless: machines.iter().map(|m| (m.id, m.is_honest())).collect(),
            views: machines.iter().map(|_| View::default()).collect(),
            promises: scenario.promises,
            open: scenario.open,
            lies_accepted: 0,
        }
    }

    /// Whether somebody means well. Nobody does whose key a cheat made up.
    fn is_honest(&self, peer: &PeerId) -> bool {
        self.blameless.get(peer).copied().unwrap_or(false)
    }

    /// Looks at one turn of an honest machine.
    pub(crate) fn on_turn(
        &mut self,
        machine: &Machine,
        work: &Work,
        actions: &[Action],
    ) -> Result<(), String> {
        let Some(peer) = machine.peer.as_ref().filter(|_| machine.is_honest()) else {
            return Ok(());
        };
        let who = machine.number;
        let mut others = 0;
        for action in actions {
            match action {
                Action::Tell(News::Accepted { job, index, result }) => {
                    self.on_accepted(who, peer, work, (*job, *index), *result)?;
                }
                Action::Tell(News::Reopened { job, index }) => {
                    self.on_reopened(who, peer, work, (*job, *index))?;
                }
                Action::Tell(News::Convicted(conviction)) => {
                    self.views[who].convictions += 1;
                    if self.is_honest(&conviction.peer) {
                        return Err(format!(
                            "I3: machine {who} convicts an honest peer: {conviction:?}"
                        ));
                    }
                }
                Action::Lend(_)
                | Action::Tell(
                    News::Job(_)
                    | News::Keeping { .. }
                    | News::Unsteady { .. }
                    | News::Drained { .. },
                ) => {}
                Action::Run { job, units, .. } => {
                    others += 1;
                    self.on_run(machine, peer, work, job, units)?;
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
                | Action::Stop { .. }
                | Action::WakeAt(_) => others += 1,
            }
        }
        if others > ACTIONS_MAX {
            return Err(format!("I8: machine {who} wants {others} things in one turn"));
        }
        Ok(())
    }

    fn on_run(
        &mut self,
        machine: &Machine,
        peer: &Peer,
        work: &Work,
        job: &JobId,
        units: &[u32],
    ) -> Result<(), String> {
        let who = machine.number;
        let Some(number) = work.number(job) else {
            return Err(format!("I7: machine {who} runs a job whose module nobody has"));
        };
        if units.is_empty() || peer.job(job).is_none_or(|status| status.closed) {
            return Err(format!("I7: machine {who} runs {units:?} of job {number} for nobody"));
        }
        for index in units {
            let times = self.views[who].ran.entry((number, *index)).or_default();
            *times += 1;
            if *times == 1 {
                continue;
            }
            let words = peer.unit(job, *index).map_or_else(Vec::new, |unit| unit.words);
            let mut own = words.iter().filter(|word| word.peer == machine.id);
            let lost = own.any(|word| {
                word.said.is_ok_and(|result| !machine.disk.bodies.contains_key(&result))
            });
            if !rules::may_run_again(&words, &machine.id, *times - 1, lost) {
                return Err(format!("I7: machine {who} runs unit {index} of job {number} again"));
            }
        }
        Ok(())
    }

    /// What a machine was told to run was dropped, so that it may be run again.
    pub(crate) fn on_stopped(&mut self, who: usize, dropped: &[(JobId, Vec<u32>)], work: &Work) {
        for (job, units) in dropped {
            let Some(number) = work.number(job) else { continue };
            for index in units {
                if let Some(times) = self.views[who].ran.get_mut(&(number, *index)) {
                    *times = times.saturating_sub(1);
                }
            }
        }
    }

    fn on_accepted(
        &mut self,
        who: usize,
        peer: &Peer,
        work: &Work,
        (job, index): (JobId, u32),
        result: ResultHash,
    ) -> Result<(), String> {
        let convictions = self.views[who].convictions;
        let before = self.views[who].accepted.insert((job, index), (result, convictions));
        if before.is_some() {
            return Err(format!("I5: machine {who} accepts unit {index} twice"));
        }
        let Some(task) = work.task(&job).filter(|task| task.spec.varies == Varies::Never) else {
            return Ok(());
        };
        if task.truth.get(index as usize) == Some(&result) {
            return Ok(());
        }
        // What is accepted and given up in one turn nobody outside ever sees.
        if rules::taken(peer, &job, index) != Some(result) {
            return Ok(());
        }
        self.lies_accepted += 1;
        let words = peer.unit(&job, index).map_or_else(Vec::new, |unit| unit.words);
        let voices = rules::supporters(&words, result);
        let conspired = self.promises.lies_may_win
            && voices.len() >= usize::from(task.spec.copies)
            && !voices.iter().any(|voice| self.is_honest(voice));
        if conspired {
            return Ok(());
        }
        Err(format!("I1: machine {who} accepts a lie about unit {index} from {voices:?}"))
    }

    fn on_reopened(
        &mut self,
        who: usize,
        peer: &Peer,
        work: &Work,
        (job, index): (JobId, u32),
    ) -> Result<(), String> {
        let Some((_, then)) = self.views[who].accepted.remove(&(job, index)) else {
            return Err(format!("I5: machine {who} reopens unit {index}, which was not accepted"));
        };
        let words = peer.unit(&job, index).map_or_else(Vec::new, |unit| unit.words);
        let since = self.views[who].convictions - then;
        let small = work.task(&job).is_some_and(rules::settles_itself);
        if rules::may_reopen(&words, since, small, || rules::unsure(peer, &job)) {
            return Ok(());
        }
        Err(format!("I5: machine {who} reopens unit {index} without conviction or dissent"))
    }

    /// A machine has replayed its disk: what it had accepted must still be.
    pub(crate) fn on_restart(&mut self, machine: &Machine, work: &Work) -> Result<(), String> {
        let Some(peer) = machine.peer.as_ref().filter(|_| machine.is_honest()) else {
            return Ok(());
        };
        self.check_convicted(machine)?;
        let (who, view) = (machine.number, &mut self.views[machine.number]);
        view.ran.clear();
        view.convictions = peer.convictions().len();
        // What has expired meanwhile may be forgotten.
        view.accepted.retain(|(job, _), _| {
            work.task(job).is_none_or(|task| !task.expires_soon()) || peer.job(job).is_some()
        });
        let unsure = work.jobs.iter().flat_map(|task| rules::unsure(peer, &task.id)).collect();
        let mut forgotten = None;
        view.accepted.retain(|(job, index), (result, convictions)| {
            *convictions = view.convictions;
            let verdict = peer.verdict(job, *index);
            let same = verdict == Some(Verdict::Accepted(*result));
            let words = || peer.unit(job, *index).map_or_else(Vec::new, |unit| unit.words);
            if !same && !rules::may_forget(&words(), *result, &unsure) {
                forgotten = Some((*index, verdict));
            }
            same
        });
        // What its disk tells it may amount to more than it had judged before it crashed.
        for id in peer.jobs() {
            let units = peer.job_record(&id).map_or(0, |job| job.units);
            for index in 0..units {
                if let Some(Verdict::Accepted(result)) = peer.verdict(&id, index) {
                    let convictions = view.convictions;
                    view.accepted.entry((id, index)).or_insert((result, convictions));
                }
            }
        }
        forgotten.map_or(Ok(()), |(index, verdict)| {
            Err(format!(
                "I5: machine {who} forgot over a restart that it accepted unit {index}: {verdict:?}"
            ))
        })
    }

    /// Who was convicted stays convicted.
    fn check_convicted(&mut self, machine: &Machine) -> Result<(), String> {
        let Some(peer) = &machine.peer else { return Ok(()) };
        let (who, now) = (machine.number, rules::convicted(peer));
        let before = std::mem::take(&mut self.views[who].convicted);
        if let Some(pardoned) = before.difference(&now).next() {
            return Err(format!("I3': machine {who} pardons {}", pardoned.short()));
        }
        self.views[who].convicted = now;
        Ok(())
    }

    /// Looks at two machines: what each holds, and whether two that hold and believe the same decide
    /// the same.
    pub(crate) fn compare(&mut self, a: &Machine, b: &Machine, work: &Work) -> Result<(), String> {
        if !a.is_honest() || !b.is_honest() {
            return Ok(());
        }
        for machine in [a, b] {
            self.check_convicted(machine)?;
            let (who, count) = (machine.number, machine.disk.count());
            if count > self.promises.records_max {
                return Err(format!("I8: machine {who} keeps {count} records"));
            }
        }
        let (Some(one), Some(two)) = (&a.peer, &b.peer) else { return Ok(()) };
        if self.open || !rules::think_alike(one, two) {
            return Ok(());
        }
        work.jobs.iter().try_for_each(|task| self.compare_job(a, b, task))
    }

    fn compare_job(&self, a: &Machine, b: &Machine, task: &Task) -> Result<(), String> {
        let (Some(one), Some(two)) = (&a.peer, &b.peer) else { return Ok(()) };
        let topic = Topic::Job(task.id);
        let (left, right) = (one.fingerprint(&topic), two.fingerprint(&topic));
        if left.is_none() || left != right {
            return Ok(());
        }
        let unsure = OnceCell::new();
        for index in 0..task.spec.units {
            let verdicts = (one.verdict(&task.id, index), two.verdict(&task.id, index));
            if rules::agree(verdicts.0, verdicts.1) {
                continue;
            }
            let words = one.unit(&task.id, index).map_or_else(Vec::new, |unit| unit.words);
            let unsure = unsure.get_or_init(|| rules::unsure(one, &task.id));
            if !rules::own_view(&words, rules::settles_itself(task), unsure, [a.id, b.id]) {
                let (a, b) = (a.number, b.number);
                return Err(format!(
                    "I4: machines {a} and {b} differ on unit {index}: {verdicts:?}"
                ));
            }
        }
        Ok(())
    }

    /// What is still missing until all is well; none if it is.
    pub(crate) fn missing(&self, machines: &[Machine], work: &Work, now: Time) -> Option<String> {
        let present = |machine: &&Machine| machine.is_honest() && !machine.dead;
        machines.iter().filter(present).find_map(|machine| {
            let who = machine.number;
            let Some(peer) = &machine.peer else { return Some(format!("machine {who} is down")) };
            let present = work.jobs.iter().enumerate().filter(|(_, task)| !task.spec.absent);
            present.into_iter().find_map(|(number, task)| {
                self.missing_of(machine, peer, (task, machines, work), now)
                    .map(|missing| format!("machine {who} {missing} of job {number}"))
            })
        })
    }

    fn missing_of(
        &self,
        machine: &Machine,
        peer: &Peer,
        (task, machines, work): (&Task, &[Machine], &Work),
        now: Time,
    ) -> Option<String> {
        let status = peer.job(&task.id);
        if task.expires_soon() {
            let gone =
                task.is_over(now) && status.is_none() && !machine.disk.holds(&task.record.id());
            return (!gone).then(|| "still has what has expired".to_owned());
        }
        let Some(status) = status else {
            return Some(format!("with {} neighbours has heard nothing", peer.neighbours()));
        };
        if task.spec.close_at_ms.is_some() {
            return (!status.closed).then(|| "does not know of the closing".to_owned());
        }
        if self.promises.done == Done::Nothing {
            return None;
        }
        let submitted = task.spec.submitter == machine.number;
        let units = task.spec.units;
        let accepted = status.counts.accepted;
        let undone = |index: &u32| {
            let able = || is_able(task, *index, machines, work);
            let promised = || self.promises.done == Done::All || able();
            rules::taken(peer, &task.id, *index).is_none() && promised()
        };
        if rules::decides(machine.spec.slots, submitted)
            && accepted != units
            && let Some(index) = (0..units).find(undone)
        {
            let verdict = peer.verdict(&task.id, index);
            return Some(format!("has {accepted} of {units} units, and {verdict:?} of {index},"));
        }
        if submitted && status.counts.fetched != accepted {
            return Some(format!("fetched {} of {accepted} units", status.counts.fetched));
        }
        None
    }

    /// Looks at everything once all is well.
    pub(crate) fn on_end(
        &mut self,
        machines: &[Machine],
        work: &Work,
        executions: u64,
    ) -> Result<(), String> {
        if self.promises.executions_max.is_some_and(|most| executions > most) {
            return Err(format!("I7: {executions} units were run"));
        }
        for machine in machines.iter().filter(|machine| machine.is_honest()) {
            let Some(peer) = &machine.peer else { continue };
            self.check_convicted(machine)?;
            for task in work.jobs.iter().filter(|task| task.spec.varies == Varies::Never) {
                self.check_job(machine, peer, task)?;
            }
        }
        Ok(())
    }

    fn check_job(&self, machine: &Machine, peer: &Peer, task: &Task) -> Result<(), String> {
        let submitted = task.spec.submitter == machine.number;
        let (mut wrong, mut contradicted) = (0, BTreeSet::<PeerId>::new());
        for index in 0..task.spec.units {
            let Some(unit) = peer.unit(&task.id, index) else { continue };
            let truth = task.truth[index as usize];
            wrong += u32::from(self.check_unit(machine, peer, task, index, &unit.words)?);
            let lied = |word: &&potluck_peer::Word| word.said.is_ok_and(|said| said != truth);
            let blind = |word: &potluck_peer::Word| word.peer == machine.id && word.said.is_err();
            let right =
                |word: &potluck_peer::Word| word.said == Ok(truth) && self.is_honest(&word.peer);
            if unit.words.iter().any(right) && !unit.words.iter().any(blind) {
                contradicted.extend(unit.words.iter().filter(lied).map(|word| word.peer));
            }
        }
        let most = if self.promises.lies_may_win { self.promises.lies_final_max } else { 0 };
        if submitted && wrong > most {
            return Err(format!("I6: {wrong} units of a job end with a lie at its submitter"));
        }
        let free = |peer: &&PeerId| !self.views[machine.number].convicted.contains(*peer);
        // Nobody settles disputes of a job that nobody wants any more.
        let wanted = submitted && task.spec.close_at_ms.is_none() && rules::settles_itself(task);
        if let Some(liar) = contradicted.iter().find(free).filter(|_| wanted) {
            let (who, liar) = (machine.number, liar.short());
            return Err(format!(
                "I3': machine {who} never convicts {liar}, who lied about its job"
            ));
        }
        Ok(())
    }

    /// Whether a wrong result stands. An error if it stands against what an honest peer said.
    fn check_unit(
        &self,
        machine: &Machine,
        peer: &Peer,
        task: &Task,
        index: u32,
        words: &[potluck_peer::Word],
    ) -> Result<bool, String> {
        let (who, truth) = (machine.number, task.truth[index as usize]);
        let taken = rules::taken(peer, &task.id, index);
        let wrong = taken.is_some_and(|result| result != truth);
        let right = |word: &&potluck_peer::Word| {
            word.said == Ok(truth) && word.counts && self.is_honest(&word.peer)
        };
        if wrong && let Some(word) = words.iter().find(right) {
            let honest = word.peer.short();
            return Err(format!(
                "I1: machine {who} believes a lie about unit {index} against {honest}"
            ));
        }
        let ran = words.iter().any(|word| word.peer == machine.id && word.said == Ok(truth));
        let lie = |word: &&potluck_peer::Word| word.counts && word.said.is_ok_and(|s| s != truth);
        // What is closed nobody runs a second time, so as to be sure.
        let open = task.spec.close_at_ms.is_none();
        if let Some(word) = words.iter().find(lie).filter(|_| ran && open) {
            let liar = word.peer.short();
            return Err(format!(
                "I3': machine {who} ran unit {index} and believes {liar}, who lied"
            ));
        }
        let submitted = task.spec.submitter == who && task.spec.close_at_ms.is_none();
        if submitted
            && let Some(result) = taken
            && !machine.disk.bodies.contains_key(&result)
        {
            return Err(format!("I10: the submitter has no body of unit {index} on its disk"));
        }
        Ok(wrong)
    }
}
