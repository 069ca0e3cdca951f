//! Lives: jobs one after another in an open grid where standing counts, and workers that do well
//! until they are trusted and lie then.
//!
//! Sleepers are one coalition. They make up the same result about the same units, and only where no
//! outsider has spoken, as far as they have heard: where somebody has, a lie would only convict them.
//! What they lied about they stand by. They learn whom others have convicted, as nobody outside of a
//! simulation would; who may come back under a fresh key does so at once, and has made it long before.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use potluck_peer::{Chance, Credit, Event, News};
use potluck_unit::{JobId, PeerId, ResultHash, Time, Witness};

use super::{Crowd, Happening, Lean, Machine, peer, said};

/// What else there is than one job and honest workers.
#[derive(Debug, Clone, Copy)]
pub struct Lives {
    /// How many jobs. Each is submitted when all of the one before is final for the submitter.
    pub jobs: u32,
    /// How long after that, in milliseconds.
    pub pause_ms: u64,
    /// How many units everybody saw of every honest worker before all this.
    pub standing: u32,
    /// How many of the workers sleep.
    pub sleepers: u32,
    /// How many units everybody saw of those.
    pub sleepers_standing: u32,
    /// How many more units a sleeper does well in each of its lives.
    pub behaves: u32,
    /// After that it lies about so many units in a thousand, if no outsider was there before.
    pub lies_per_mille: u64,
    /// Whether it comes back under a fresh key when most have convicted it. If not it lies on.
    pub returns: bool,
}

/// What became of one job of several.
#[derive(Debug, Clone, Default)]
pub struct Lived {
    /// When all of it was final for the submitter, in milliseconds after it was submitted.
    pub final_ms: u64,
    /// Units that the submitter accepted with a wrong result at any time.
    pub wrong_ever: u32,
    /// Those that were wrong when all of the job was final: what a user takes.
    pub wrong_taken: u32,
    /// Those that were wrong in the end, after what was found out in later jobs.
    pub wrong_left: u32,
    /// Units about which somebody lied.
    pub lies: u32,
    /// Sleepers that the submitter had convicted when it was final.
    pub convicted: u32,
    /// How many convictions of those honest peers had come to, each for itself: nobody convicts on
    /// another's word, and only who has audits more.
    pub convictions: u32,
    /// What there was to do, k times.
    pub needed_us: u64,
    /// What was executed for it at any time, except by sleepers that the submitter had convicted: what
    /// those do after they were found out is their own affair. Lies take no work.
    pub executed_us: u64,
    /// How much of that was given to somebody for whom the unit was accepted already.
    pub audited_us: u64,
    /// How much was executed by honest workers.
    pub honest_us: u64,
}

/// What the coalition knows, and what is known of it.
#[derive(Debug, Default)]
pub(super) struct Sleepers {
    /// By machine, as long as it sleeps or lies.
    lives: BTreeMap<usize, Sleeper>,
    ids: BTreeSet<PeerId>,
    /// Which honest machines have convicted whom.
    convicted_by: BTreeMap<PeerId, BTreeSet<usize>>,
    accounts: Vec<Account>,
}

#[derive(Debug, Default)]
struct Sleeper {
    done: u32,
    lied: BTreeSet<(JobId, u32)>,
}

/// One job as its submitter sees it, and what was done for it.
#[derive(Debug, Default)]
struct Account {
    submitted: Time,
    accepted: BTreeSet<u32>,
    wrong: BTreeSet<u32>,
    wrong_ever: BTreeSet<u32>,
    lies: BTreeSet<u32>,
    executed_us: u64,
    audited_us: u64,
    honest_us: u64,
}

/// How often it is looked whether a job is final.
const LOOK_MS: u64 = 1000;

impl Sleepers {
    /// The last of the workers sleep.
    pub(super) fn of(crowd: &Crowd, ids: &[(PeerId, usize)]) -> Sleepers {
        let sleepers = crowd.lives.map_or(0, |lives| lives.sleepers);
        let first = (crowd.workers - sleepers + 1) as usize;
        let sleepers = || ids.iter().filter(|(_, number)| *number >= first);
        Sleepers {
            lives: sleepers().map(|(_, number)| (*number, Sleeper::default())).collect(),
            ids: sleepers().map(|(id, _)| *id).collect(),
            ..Sleepers::default()
        }
    }

    fn is_convicted_by(&self, judge: usize, peer: &PeerId) -> bool {
        self.convicted_by.get(peer).is_some_and(|judges| judges.contains(&judge))
    }
}

impl Lean {
    /// Lets everybody know all workers for what they did before.
    pub(super) fn give_standing(&mut self) {
        let Some(lives) = self.crowd.lives else { return };
        let credits: Vec<Credit> = (self.by_id.iter())
            .filter(|(_, number)| *number > 0)
            .map(|(peer, number)| {
                let sleeps = self.sleepers.lives.contains_key(number);
                let units = if sleeps { lives.sleepers_standing } else { lives.standing };
                Credit { peer: *peer, units, at: self.now }
            })
            .filter(|credit| credit.units > 0)
            .collect();
        for machine in 0..self.machines.len() {
            let me = self.machines[machine].id;
            for credit in credits.iter().filter(|credit| credit.peer != me) {
                self.tell(machine, Event::Credited(*credit));
            }
        }
    }

    /// A job was submitted.
    pub(super) fn open_account(&mut self) {
        self.sleepers.accounts.push(Account { submitted: self.now, ..Account::default() });
        if self.crowd.lives.is_some() {
            self.happens_in(LOOK_MS, Happening::Looked);
        }
    }

    /// What a sleeper makes up about a unit that it is done with, if it lies.
    pub(super) fn lie(
        &mut self,
        number: usize,
        job: &JobId,
        index: u32,
    ) -> Option<(ResultHash, Arc<[u8]>, Witness)> {
        let lives = self.crowd.lives?;
        let at = self.jobs.iter().position(|other| other == job)?;
        let (result, body) = made_up(index);
        let words = self.machines[number].peer.unit(job, index).map_or_else(Vec::new, |u| u.words);
        let alone = words.iter().all(|word| word.said == Ok(result));
        let sleeper = self.sleepers.lives.get_mut(&number)?;
        sleeper.done += 1;
        let mix = (at as u64) << 32 | u64::from(index);
        let mut chance = Chance::of_seed(self.crowd.seed ^ mix.wrapping_mul(0xd1b5_4a32_d192_ed03));
        let lies = sleeper.done > lives.behaves && chance.happens(lives.lies_per_mille) && alone;
        if !sleeper.lied.contains(&(*job, index)) && !lies {
            return None;
        }
        sleeper.lied.insert((*job, index));
        self.sleepers.accounts[at].lies.insert(index);
        Some((result, body, Witness(*blake3::hash(b"made up").as_bytes())))
    }

    /// A machine has run a unit.
    pub(super) fn note_run(&mut self, number: usize, job: &JobId, us: u64) {
        let honest = !self.sleepers.lives.contains_key(&number);
        let found_out = self.sleepers.is_convicted_by(0, &self.machines[number].id);
        if let Some(account) = self.account(job) {
            account.executed_us += if found_out { 0 } else { us };
            account.honest_us += if honest { us } else { 0 };
        }
    }

    /// A machine was given units that it took for accepted.
    pub(super) fn note_audit(&mut self, job: &JobId, us: u64) {
        if let Some(account) = self.account(job) {
            account.audited_us += us;
        }
    }

    fn account(&mut self, job: &JobId) -> Option<&mut Account> {
        let at = self.jobs.iter().position(|other| other == job)?;
        self.sleepers.accounts.get_mut(at)
    }

    pub(super) fn on_news(&mut self, machine: usize, news: News) {
        match news {
            News::Accepted { job, index, result } if machine == 0 => {
                let (now, right) = (self.now, self.bodies[index as usize].0 == result);
                let Some(account) = self.account(&job) else { return };
                let first = account.accepted.insert(index);
                let since = now.ms_since(account.submitted);
                let wrong = !right && account.wrong_ever.insert(index);
                if right {
                    account.wrong.remove(&index);
                } else {
                    account.wrong.insert(index);
                }
                self.fared.wrong += u32::from(wrong);
                self.fared.accepted_ms.extend(first.then_some(since));
            }
            News::Reopened { job, index } if machine == 0 => {
                if let Some(account) = self.account(&job) {
                    account.wrong.remove(&index);
                }
            }
            News::Convicted(conviction) => self.on_convicted(machine, conviction.peer),
            News::Accepted { .. }
            | News::Reopened { .. }
            | News::Job(_)
            | News::Drained { .. }
            | News::Unsteady { .. }
            | News::Keeping { .. } => {}
        }
    }

    fn on_convicted(&mut self, by: usize, liar: PeerId) {
        if self.sleepers.lives.contains_key(&by) {
            return;
        }
        let first = !self.sleepers.convicted_by.contains_key(&liar);
        let judges = self.sleepers.convicted_by.entry(liar).or_default();
        let new = judges.insert(by);
        let judges = judges.len();
        if !self.sleepers.ids.contains(&liar) {
            self.fared.convicted_honest += u32::from(first);
            return;
        }
        let Some(lives) = self.crowd.lives.filter(|lives| lives.returns) else { return };
        let honest = (self.crowd.workers - lives.sleepers + 1) as usize;
        if new && judges == honest / 2 + 1 {
            let machine = self.number(&liar).filter(|at| self.sleepers.lives.contains_key(at));
            machine.into_iter().for_each(|machine| {
                self.happens_in(0, Happening::Returned { machine });
            });
        }
    }

    /// A sleeper leaves, and comes as somebody else.
    pub(super) fn come_back(&mut self, machine: usize) {
        let old = &mut self.machines[machine];
        (old.started, old.alarm, old.running) = (false, None, false);
        old.queue.clear();
        let (speed, neighbours) = (old.speed_per_mille, std::mem::take(&mut old.neighbours));
        for other in neighbours {
            let ms = self.delay(machine, other);
            self.happens_in(ms, Happening::Left { machine: other, other: machine });
        }
        self.sleepers.lives.remove(&machine);
        let number = self.machines.len();
        let honest = (self.crowd.workers + 1 - self.crowd.lives.map_or(0, |l| l.sleepers)).into();
        let mut chance = Chance::of_seed(self.crowd.seed ^ number as u64);
        let known = (0..2).map(|_| chance.below(honest)).collect();
        let fresh = Machine::of(peer(&self.crowd, &self.born, number, known), speed);
        self.sleepers.lives.insert(number, Sleeper::default());
        self.sleepers.ids.insert(fresh.id);
        let at = self.by_id.partition_point(|(other, _)| *other < fresh.id);
        self.by_id.insert(at, (fresh.id, number));
        self.machines.push(fresh);
        self.fared.returned += 1;
        self.happens_in(0, Happening::Start(number));
    }

    /// Looks whether the last job is final, and submits the next.
    pub(super) fn look(&mut self) {
        let (Some(lives), Some(job)) = (self.crowd.lives, self.jobs.last()) else { return };
        let finals = self.machines[0].peer.job(job).map_or(0, |job| job.counts.finals);
        if finals < self.crowd.units {
            return self.happens_in(LOOK_MS, Happening::Looked);
        }
        let known = |id: &&PeerId| self.sleepers.is_convicted_by(0, id);
        let convicted = self.sleepers.ids.iter().filter(known).count();
        let proven = self.sleepers.ids.iter().filter(known);
        let convictions: usize = proven.map(|id| self.sleepers.convicted_by[id].len()).sum();
        let Some(account) = self.sleepers.accounts.last() else { return };
        self.fared.lived.push(Lived {
            final_ms: self.now.ms_since(account.submitted),
            wrong_taken: count(account.wrong.len()),
            convicted: count(convicted),
            convictions: count(convictions),
            ..Lived::default()
        });
        if self.jobs.len() < lives.jobs as usize {
            self.happens_in(lives.pause_ms, Happening::Submit);
        }
    }

    /// Adds what is only known in the end.
    pub(super) fn sum_up(&mut self) {
        let copies = u64::from(self.crowd.quality.copies());
        let accounts = self.sleepers.accounts.iter().enumerate();
        for ((number, account), lived) in accounts.zip(&mut self.fared.lived) {
            let units = 0..self.crowd.units;
            let work = units.map(|index| self.crowd.cost_us(number, index)).sum::<u64>();
            lived.needed_us = copies * work;
            lived.wrong_ever = count(account.wrong_ever.len());
            lived.wrong_left = count(account.wrong.len());
            lived.lies = count(account.lies.len());
            lived.executed_us = account.executed_us;
            lived.audited_us = account.audited_us;
            lived.honest_us = account.honest_us;
        }
    }
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

/// What the whole coalition says of a unit.
fn made_up(index: u32) -> (ResultHash, Arc<[u8]>) {
    said(format!("{index} or so\n"))
}

#[cfg(test)]
mod tests {
    use potluck_unit::Quality;

    use super::*;

    /// A dozen workers known for long, of whom four begin to lie about everything.
    fn sleepers(returns: bool) -> Crowd {
        let lives = Lives {
            jobs: 3,
            pause_ms: 10_000,
            standing: 2000,
            sleepers: 4,
            sleepers_standing: 2000,
            behaves: 10,
            lies_per_mille: 1000,
            returns,
        };
        let crowd = Crowd::of(12, 150, Quality::Bulk);
        Crowd { lives: Some(lives), unit_us: 1_000_000, submit_ms: 40_000, ..crowd }
    }

    #[test]
    fn sleepers_who_lie_after_ten_units_are_all_convicted_and_leave_nothing_wrong() {
        let fared = sleepers(false).fare();
        assert_eq!((fared.lived.len(), fared.accepted_ms.len()), (3, 450));
        let sum = |pick: fn(&Lived) -> u32| fared.lived.iter().map(pick).sum::<u32>();
        assert!(sum(|lived| lived.lies) > 10 && sum(|lived| lived.wrong_ever) > 0, "{fared:?}");
        assert_eq!(fared.lived.last().map(|lived| lived.convicted), Some(4));
        assert_eq!(sum(|lived| lived.wrong_left), 0);
        assert_eq!((fared.convicted_honest, fared.returned), (0, 0));
    }

    #[test]
    fn who_comes_back_under_a_fresh_key_is_a_newcomer_and_the_jobs_get_done() {
        let fared = sleepers(true).fare();
        assert!(fared.returned >= 4, "{}", fared.returned);
        assert_eq!((fared.lived.len(), fared.accepted_ms.len()), (3, 450));
        let left: u32 = fared.lived.iter().map(|lived| lived.wrong_left).sum();
        assert_eq!((left, fared.convicted_honest), (0, 0));
    }
}
