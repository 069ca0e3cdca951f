//! Retention: when what is known of a job leaves memory and disk.

use std::collections::BTreeSet;

use potluck_unit::{JobId, Record, RecordId, Signed, Time};

use crate::Peer;
use crate::action::{Action, Actions, News};
use crate::board::{Entry, Held};
use crate::schedule::Seats;
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
            self.forget_records(&entry.receipts, actions);
            let is_about = |record: &Signed| match record.record() {
                Record::Close(close) => close.job == id,
                Record::Job(_) => record.id() == entry.record.id(),
                Record::Receipts(_) | Record::Claim(_) | Record::Contact(_) | Record::Proof(_) => {
                    false
                }
            };
            let ids = self.board.ids.iter().copied();
            let about = |record: &RecordId| self.board.records.get(record).is_some_and(is_about);
            let about: BTreeSet<RecordId> = ids.filter(about).collect();
            self.forget_records(&about, actions);
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
            self.clear(&id, actions);
        }
    }

    /// Drops everything about a closed job but the job and its closing.
    fn clear(&mut self, id: &JobId, actions: &mut Actions) {
        let Some(entry) = self.board.jobs.get_mut(id) else { return };
        let receipts = std::mem::take(&mut entry.receipts);
        entry.tally = Tally::new(0, entry.job().copies);
        entry.seats = Seats::default();
        (entry.module, entry.inputs) = (Held::No(Time(u64::MAX)), Held::No(Time(u64::MAX)));
        entry.disputed.clear();
        entry.orphans.clear();
        entry.taken.clear();
        self.forget_records(&receipts, actions);
        self.keepers.forget(id);
        actions.push(Action::Clear(*id));
        self.board.note_changed(*id);
    }

    fn forget_records(&mut self, ids: &BTreeSet<RecordId>, actions: &mut Actions) {
        for id in ids {
            self.board.ids.remove(id);
            if let Some(record) = self.board.records.remove(id) {
                actions.push(Action::Forget(record));
            }
        }
    }
}
