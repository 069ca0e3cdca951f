//! Judging: what follows from receipts, on this peer.
//!
//! Receipts go into the set of their job and into its tally; what they say is held against what this
//! peer found itself; liars are convicted; verdicts that change have their consequences.

use std::collections::BTreeSet;

use potluck_unit::{
    Draw, JobId, PeerId, ReceiptBatch, Record, Seat, Signed, Statement, Time, UnitId,
};

use crate::Peer;
use crate::action::{Action, Actions, News};
use crate::audits::LIARS_MAX;
use crate::board::Entry;
use crate::standing::{Conviction, Credit, Standing};
use crate::tally::{Own, Verdict, Vote};

impl Peer {
    /// Receipts arrived, or were signed here. `draw` is what [`Peer::draw_of`] says of them. True if
    /// they were taken.
    pub(crate) fn on_receipts(
        &mut self,
        now: Time,
        record: &Signed,
        draw: Option<Draw>,
        actions: &mut Actions,
    ) -> bool {
        let Record::Receipts(batch) = record.record() else { return false };
        let Some(entry) = self.board.get_mut(&batch.job) else { return false };
        let peer = record.signer();
        let taken = entry.taken.get(&peer).copied().unwrap_or(0) + batch.receipts.len() as u64;
        let taken_max = RECEIPTS_PER_UNIT_MAX * u64::from(entry.tally.units()) + RECEIPTS_EXTRA;
        if entry.receipts.len() >= RECEIPTS_MAX || taken > taken_max {
            self.gossip.refuse(now, record.id());
            return false;
        }
        // Kept even if it says nothing new: sets that depended on the order of arrival would differ
        // from neighbour to neighbour, and be compared and given again for ever.
        entry.taken.insert(peer, taken);
        let counted = entry.tally.count(record, draw, &self.standing);
        if counted.gave_up {
            // Who gave up leaves its seat without having voted.
            entry.plan.look_again();
        }
        let chunks: BTreeSet<u32> =
            batch.receipts.iter().map(|receipt| entry.tally.chunk_of(receipt.index)).collect();
        for chunk in &chunks {
            entry.seats.on_word(now, *chunk, &peer);
        }
        let most_ms = entry.job().limits.deadline_ms;
        entry.plan.note_hearsay(batch.receipts.len() as u64, batch.spent_ms, most_ms);
        entry.receipts.insert(record);
        let wider = entry.tally.reckon(chunks, &self.standing);
        self.board.records.insert(record);
        actions.push(Action::Keep(record.clone()));
        if peer == self.me {
            self.mark_own(batch);
        } else {
            self.consider(now, &batch.job, record);
        }
        let (job, made) = (batch.job, batch.made);
        for (index, found, said) in counted.contradictions {
            let record = record.id();
            let conviction = Conviction { peer, job, index, said, found, record, made };
            self.convict(now, conviction, actions);
        }
        for receipt in &batch.receipts {
            self.check_against_own(now, &batch.job, receipt.index, actions);
            let fresh = counted.fresh.contains(&receipt.index).then_some(peer);
            self.judge(now, &batch.job, receipt.index, fresh, actions);
        }
        if wider {
            self.judge_waiting(now, &batch.job, actions);
        }
        self.reckon_unsettled(now, &batch.job, actions);
        self.fetch_bodies(&batch.job, actions);
        true
    }

    /// What the signer of a batch proves to have drawn; an error if it proves nothing, or not for
    /// the chunk that all of its units are in.
    pub(crate) fn draw_of(&self, peer: &PeerId, batch: &ReceiptBatch) -> Result<Option<Draw>, ()> {
        let Seat::Drawn { chunk, proof } = &batch.seat else { return Ok(None) };
        let units = self.board.get(&batch.job).map_or(0..0, |entry| entry.job().units_of(*chunk));
        if !batch.receipts.iter().all(|receipt| units.contains(&receipt.index)) {
            return Err(());
        }
        let input = batch.job.draw_input(*chunk);
        self.config.check_draw(peer, proof, &input).map(Some).ok_or(())
    }

    /// Holds what others say of a unit against what this peer found when it ran it: a different
    /// result is a lie, and so is a digest that only somebody who did not run it would give. Where
    /// nobody bears this peer out it runs the unit once more first: it might be the one at fault.
    pub(crate) fn check_against_own(
        &mut self,
        now: Time,
        id: &JobId,
        index: u32,
        actions: &mut Actions,
    ) {
        let Some(entry) = self.board.get(id) else { return };
        let Some(own) = entry.tally.own(index).filter(|_| !entry.unsteady) else { return };
        let unit = UnitId::of(id, index);
        let (mut lies, mut sure) = (Vec::new(), own.sure);
        for (peer, vote) in entry.tally.votes(index).filter(|(peer, _)| *peer != self.me) {
            let digest = own.witness.map(|witness| witness.work_digest(&peer, &unit));
            if vote.result != own.result || digest.is_some_and(|digest| digest != vote.digest) {
                lies.push((peer, vote));
            } else {
                sure |= digest.is_some() && !self.standing.is_liar(&peer);
            }
        }
        let known = |peer: &PeerId| {
            let strikes = self.standing.strikes(peer);
            strikes.len() >= Standing::STRIKES_MAX
                || strikes.iter().any(|strike| (strike.job, strike.index) == (*id, index))
        };
        lies.retain(|(peer, _)| !known(peer));
        if lies.is_empty() {
            return;
        }
        if !sure {
            let Some(entry) = self.board.get_mut(id) else { return };
            entry.doubts.insert(index);
            self.plan_due = true;
            return;
        }
        for (peer, Vote { result: said, record, made, .. }) in lies {
            let (job, found) = (*id, own.result);
            let conviction = Conviction { peer, job, index, said, found, record, made };
            self.convict(now, conviction, actions);
        }
    }

    fn convict(&mut self, now: Time, conviction: Conviction, actions: &mut Actions) {
        let Conviction { peer, job, made, .. } = conviction;
        if !self.board.get(&job).is_some_and(Entry::is_understood) {
            return;
        }
        // Where most are strangers each of them counts; else those who had something to lose, since
        // the others' work was tested anyway.
        let weighty = !self.standing.is_strict() || self.standing.is_established(&peer);
        let dead = self.standing.is_dead(&peer, &job, made);
        if !self.standing.convict(conviction.clone()) {
            return;
        }
        actions.push(Action::Note(conviction.clone()));
        actions.push(Action::Credit(Credit { peer, units: 0, at: now }));
        actions.tell(News::Convicted(conviction.clone()));
        if !dead || self.standing.is_out(&peer) {
            self.judge_all(now, actions);
        }
        self.after_conviction(now, &conviction, actions);
        if let Some(entry) = self.board.get_mut(&job).filter(|_| weighty)
            && entry.audits.liars.len() < LIARS_MAX
            && entry.audits.liars.insert(peer)
        {
            self.consider_all(now, &job);
        }
    }

    /// In an open grid, looks anew who is established and whether most are: often whether, since a
    /// crowd of strangers may come at any time, and seldom who, since that is a look at everybody.
    pub(crate) fn weigh_strangers(&mut self, now: Time, actions: &mut Actions) {
        if !self.config.open {
            return;
        }
        let mut changed = false;
        if self.refresh_at <= now {
            self.refresh_at = now.plus_ms(REFRESH_MS);
            changed = self.standing.refresh(now);
        }
        let mut workers: Vec<PeerId> = self.roster.live_workers(now).copied().collect();
        workers.push(self.me);
        let settled = now.ms_since(self.woke_at) >= SETTLED_MS;
        if self.standing.weigh(&workers, settled) || changed {
            self.judge_all(now, actions);
        }
    }

    /// Judges everything anew, after whom to believe or how many could run it has changed.
    pub(crate) fn judge_all(&mut self, now: Time, actions: &mut Actions) {
        for id in self.board.job_ids() {
            self.judge_job(now, &id, actions);
            self.fetch_bodies(&id, actions);
        }
        self.plan_due = true;
    }

    fn judge_job(&mut self, now: Time, id: &JobId, actions: &mut Actions) {
        let Some(entry) = self.board.get_mut(id) else { return };
        entry.tally.reckon_all(&self.standing);
        for index in entry.tally.spoken_of() {
            self.judge(now, id, index, None, actions);
        }
    }

    /// Judges what some have spoken of and is not accepted, after windows have widened.
    fn judge_waiting(&mut self, now: Time, id: &JobId, actions: &mut Actions) {
        let units = self.board.get(id).map_or_else(Vec::new, |entry| entry.tally.waiting());
        for index in units {
            self.judge(now, id, index, None, actions);
        }
    }

    /// A unit that a great majority leads takes the weight from those who contradict, everywhere in
    /// the job. That may change more units, but each round of it needs another such unit.
    fn reckon_unsettled(&mut self, now: Time, id: &JobId, actions: &mut Actions) {
        for _ in 0..ROUNDS_MAX {
            if !self.board.get(id).is_some_and(|entry| entry.tally.is_unsettled()) {
                break;
            }
            self.judge_job(now, id, actions);
            // More may have to be audited.
            self.plan_due = true;
        }
    }

    /// Judges a unit and does what follows from a new verdict. `peer` has just spoken of it.
    fn judge(
        &mut self,
        now: Time,
        id: &JobId,
        index: u32,
        peer: Option<PeerId>,
        actions: &mut Actions,
    ) {
        let Some(entry) = self.board.get_mut(id).filter(|entry| entry.is_understood()) else {
            return;
        };
        let before: Vec<PeerId> = entry.tally.supporters(index).collect();
        let judged = entry.tally.judge(now, index, &self.standing, self.workers);
        let took_part = entry.took_part;
        let Some((was, is)) = judged else {
            // A late copy is good work too.
            if let Some(peer) = peer.filter(|peer| took_part && before.contains(peer)) {
                self.standing.note_work(&peer, 1);
            }
            return;
        };
        if took_part && matches!(was, Verdict::Accepted(_)) {
            before.iter().for_each(|peer| self.standing.note_work(peer, -1));
        }
        if took_part && matches!(is, Verdict::Accepted(_)) {
            let right: Vec<PeerId> = entry.tally.supporters(index).collect();
            right.iter().for_each(|peer| self.standing.note_work(peer, 1));
        }
        let Some(entry) = self.board.get_mut(id) else { return };
        match is {
            Verdict::Disputed => drop(entry.disputed.insert(index, now)),
            Verdict::Open | Verdict::Partial(_) | Verdict::Accepted(_) | Verdict::Unrunnable(_) => {
                entry.disputed.remove(&index);
            }
        }
        // Also when another result takes the place of the one before.
        if matches!(was, Verdict::Accepted(_)) {
            actions.tell(News::Reopened { job: *id, index });
        }
        if let Verdict::Accepted(result) = is {
            actions.tell(News::Accepted { job: *id, index, result });
            if !entry.tally.is_fetched(index) && entry.collect {
                entry.to_fetch.insert(index);
            }
        }
        // From open to partial, what was still to be done is still to be done.
        let undone = matches!(is, Verdict::Open | Verdict::Partial(_));
        if undone && !matches!(was, Verdict::Open | Verdict::Partial(_)) {
            entry.plan.reopen(index);
        }
        self.plan_due = true;
        self.board.note_changed(*id);
    }

    /// What this peer signed it has run: known at once when it signs, and again after a restart.
    fn mark_own(&mut self, batch: &ReceiptBatch) {
        let Some(entry) = self.board.get_mut(&batch.job) else { return };
        for receipt in &batch.receipts {
            entry.tally.note_ran(receipt.index, true);
            match receipt.statement {
                Statement::Outcome { result, .. } if entry.tally.own(receipt.index).is_none() => {
                    let own = Own { result, witness: None, sure: false };
                    entry.tally.note_own(receipt.index, own);
                }
                Statement::Outcome { .. } => {}
                Statement::NoResult(_) => entry.tally.note_blind(receipt.index),
            }
        }
        if !std::mem::replace(&mut entry.took_part, true) {
            for (peer, units) in entry.tally.credits() {
                self.standing.note_work(&peer, units as i32);
            }
        }
    }

    /// Takes units for final that have been accepted for long enough that whoever audits them has
    /// spoken.
    pub(crate) fn ripen(&mut self, now: Time) {
        for id in self.board.job_ids() {
            let Some(entry) = self.board.get_mut(&id) else { continue };
            let run_ms =
                entry.plan.cost_us().unwrap_or(0) * u64::from(entry.job().chunk_units()) / 1000;
            let window_ms = FINAL_AFTER_MS.saturating_add(2 * run_ms);
            let reviewed = now.ms_since(entry.audits.review_at) >= window_ms;
            if reviewed && entry.tally.ripen(now, window_ms) {
                self.board.note_changed(id);
            }
        }
    }
}

/// Records of receipts held for one job: a batch a unit and copy would be the worst honest case.
const RECEIPTS_MAX: usize = 1 << 20;
/// Receipts of one peer on one job, for each of its units: one that counts, and as many again for
/// what a crash made it say twice. Beyond that it is a flood.
const RECEIPTS_PER_UNIT_MAX: u64 = 2;
/// How long an accepted unit may still be contradicted by an audit that was under way, beside twice
/// what its chunk takes.
const FINAL_AFTER_MS: u64 = 6000;
/// How often a peer looks who is established.
const REFRESH_MS: u64 = 10_000;
/// How long after its start a peer has heard of almost everybody who is there: contacts are said anew
/// every few minutes.
const SETTLED_MS: u64 = 10 * 60 * 1000;
/// Rounds of reckoning in one turn; what is left is taken up in the next.
const ROUNDS_MAX: usize = 4;
/// What a peer may say beyond that on a job of few units.
const RECEIPTS_EXTRA: u64 = 64;
