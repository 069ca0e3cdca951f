//! Fate: crashes, partitions and who leaves when.

use potluck_peer::Event;
use potluck_unit::JobId;

use crate::scenario::Blow;
use crate::world::{Happening, World};

/// How long it takes until a crash or a cut is noticed at the other end of a link, in milliseconds.
const NOTICED_MS: (u64, u64) = (100, 8000);

impl World {
    /// Something happens to machines.
    pub(crate) fn strike(&mut self, blow: Blow) -> Result<(), String> {
        match blow {
            Blow::Crash { machine, torn, down_ms } => {
                if torn {
                    self.machines[machine].torn = Some(down_ms);
                } else {
                    self.crash(machine, down_ms);
                }
            }
            Blow::Part { first, for_ms } => {
                for (a, b, link) in self.network.part(first, self.now.plus_ms(for_ms)) {
                    for (side, other) in [(a, b), (b, a)] {
                        let ms = self.notice();
                        self.happens_in(ms, Happening::Lost { side, other, link });
                    }
                }
            }
            Blow::SubmitterLeaves { job, for_ms } => {
                self.leaves.insert(job, for_ms);
            }
            Blow::Die { machine } => {
                self.crash(machine, 0);
                self.machines[machine].dead = true;
            }
            Blow::Tell { machine, order } => {
                self.tell(machine, Event::Order(order), "was told", machine, 0)?;
            }
            Blow::LoseOutputs { machine } => self.machines[machine].disk.lose_outputs(),
        }
        Ok(())
    }

    /// Somebody else holds a job: its submitter may leave.
    pub(crate) fn kept_elsewhere(&mut self, machine: usize, job: &JobId) {
        let Some(number) = self.work.number(job) else { return };
        if self.work.jobs[number].spec.submitter == machine
            && let Some(down_ms) = self.leaves.remove(&number)
        {
            let blow = Blow::Crash { machine, torn: false, down_ms };
            self.happens_in(1, Happening::Fate(blow));
        }
    }

    /// A machine crashes and is started again after a while.
    pub(crate) fn crash(&mut self, machine: usize, down_ms: u64) {
        if self.machines[machine].peer.is_none() {
            return;
        }
        self.machines[machine].crash();
        for (side, link) in self.network.crash(machine) {
            let ms = self.notice();
            self.happens_in(ms, Happening::Lost { side, other: machine, link });
        }
        self.happens_in(down_ms, Happening::Start { machine });
    }

    /// Somebody crashes, and the next one is chosen.
    pub(crate) fn churn(&mut self) -> Result<(), String> {
        let Some(churn) = self.scenario.churn else { return Ok(()) };
        let all = self.machines.len() as u64;
        let machine = usize::try_from(self.chance.below(all)).unwrap_or(0);
        let down_ms = self.between(churn.down_ms);
        self.crash(machine, down_ms);
        let ms = self.between(churn.every_ms);
        self.happens_in(ms, Happening::Churn);
        Ok(())
    }

    fn notice(&mut self) -> u64 {
        self.between(NOTICED_MS)
    }

    fn between(&mut self, (least, most): (u64, u64)) -> u64 {
        least + self.chance.below(most - least + 1)
    }
}
