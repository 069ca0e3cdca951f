//! Retention: when what is known of a job leaves memory and disk.

use potluck_unit::{Job, JobId, Record, Signed, Time};

use crate::Peer;
use crate::action::{Action, Actions, News};
use crate::board::{Entry, Held};
use crate::leases::Seats;
use crate::tally::Tally;

/// How long after its closing a job's receipts, inputs and outputs are kept: whoever is fetching them
/// at that moment gets them. The job itself stays until it expires, so that nothing old of it is
/// taken in again.
pub(crate) const CLOSED_KEPT_MS: u64 = 3600 * 1000;

impl Peer {
    /// Forgets jobs that have expired, and of those that were closed a while ago all but that.
    pub(crate) fn expire(&mut self, now: Time, actions: &mut Actions) {
        let expired = |entry: &Entry| entry.job().expires <= now;
        let gone: Vec<JobId> = (self.board.jobs.iter())
            .filter(|(_, entry)| expired(entry))
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            let Some(entry) = self.board.jobs.remove(&id) else { continue };
            if entry.took_part {
                self.settle(now, &entry.tally, actions);
            }
            self.forget_records(entry.receipts.iter(), actions);
            let is_about = |record: &Signed| match record.record() {
                Record::Close(close) => close.job == id,
                Record::Job(_) => record.id() == entry.record.id(),
                Record::Receipts(_) | Record::Claim(_) | Record::Contact(_) | Record::Proof(_) => {
                    false
                }
            };
            let about = self.board.jobs_set.iter().filter(|record| is_about(record));
            let about: Vec<Signed> = about.cloned().collect();
            self.forget_records(about.iter(), actions);
            self.runs.stop(&id, actions);
            self.keepers.forget(&id);
            actions.push(Action::Clear(id));
            actions.tell(News::Job(id));
        }
        // What the local user wants here stays until the end.
        let closed = self.board.jobs.iter_mut().filter(|(_, entry)| entry.closed && !entry.collect);
        let mut due = Vec::new();
        for (id, entry) in closed {
            let at = *entry.clear_at.get_or_insert(now.plus_ms(CLOSED_KEPT_MS));
            if at <= now && !std::mem::replace(&mut entry.cleared, true) {
                due.push(*id);
            }
        }
        for id in due {
            self.clear(now, &id, actions);
        }
    }

    /// Drops everything about a closed job but the job and its closing.
    fn clear(&mut self, now: Time, id: &JobId, actions: &mut Actions) {
        let Some(entry) = self.board.jobs.get_mut(id) else { return };
        let receipts = std::mem::take(&mut entry.receipts);
        let none = Job { units: 0, ..entry.job().clone() };
        let tally = std::mem::replace(&mut entry.tally, Tally::new(id, &none, &self.me));
        let took_part = entry.took_part;
        entry.seats = Seats::default();
        (entry.module, entry.inputs) = (Held::No(Time(u64::MAX)), Held::No(Time(u64::MAX)));
        entry.disputed.clear();
        entry.orphans.clear();
        entry.taken.clear();
        if took_part {
            self.settle(now, &tally, actions);
        }
        self.forget_records(receipts.iter(), actions);
        self.keepers.forget(id);
        actions.push(Action::Clear(*id));
        self.board.note_changed(*id);
    }

    /// What was done for a job that leaves the board is from now on kept as standing.
    fn settle(&mut self, now: Time, tally: &Tally, actions: &mut Actions) {
        for (peer, units) in tally.credits() {
            if let Some(credit) = self.standing.settle(now, &peer, units) {
                actions.push(Action::Credit(credit));
            }
        }
    }

    fn forget_records<'a>(
        &mut self,
        records: impl Iterator<Item = &'a Signed>,
        actions: &mut Actions,
    ) {
        for record in records {
            self.board.jobs_set.remove(&record.id());
            if let Some(record) = self.board.records.remove(&record.id()) {
                actions.push(Action::Forget(record));
            }
        }
    }
}
