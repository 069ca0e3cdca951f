//! Accusations: proofs of cheating that travel.
//!
//! A wrong result contradicts right ones for everybody to see. A receipt with the right result and a
//! digest that only somebody who did not run the unit would give contradicts nobody: whoever ran the
//! unit knows, and nobody else. So it says so with a proof. That convicts nobody; but those who are
//! called to settle disputes about the unit run it, and then they know.

use std::collections::{BTreeMap, BTreeSet};

use potluck_unit::{JobId, PeerId, Proof, Record, ResultHash, Signed, Time, UnitId, WorkDigest};

use crate::Peer;
use crate::action::Actions;
use crate::board::Entry;
use crate::standing::{Conviction, Standing};

/// Who is accused of what in one job.
#[derive(Debug, Default)]
pub(crate) struct Accusations {
    /// By accused and accuser.
    heard: BTreeMap<(PeerId, PeerId), Accusation>,
}

#[derive(Debug, Clone)]
struct Accusation {
    index: u32,
    said: (ResultHash, WorkDigest),
    record: Signed,
}

/// Accusations remembered in a small job. Each costs a run of those called, seven on average.
const ACCUSED_FEW: usize = 16;
/// In a large one there is one more for so many units, so that they cost little beside the job.
const UNITS_PER_ACCUSED: u32 = 256;
/// Accusations remembered in one job at most.
const ACCUSED_MAX: usize = 256;
/// Accusations of one peer in one job, and against one.
const EACH_MAX: usize = 4;
/// Accusations told to a new neighbour, which may have been away when they were heard.
const TOLD_MAX: usize = 64;
/// How long after a conviction units that others take for settled, because they do not know of it,
/// are left to those who may.
const MISLED_MS: u64 = 30 * 1000;
/// Peers remembered to have accused somebody falsely.
pub(crate) const SLANDERERS_MAX: usize = 4096;

impl Accusations {
    /// Takes an accusation in a job of so many units. False if there is no place for it, or it is
    /// known.
    fn take(&mut self, units: u32, record: &Signed, proof: &Proof) -> bool {
        let by = record.signer();
        let most = ACCUSED_FEW.max((units / UNITS_PER_ACCUSED) as usize).min(ACCUSED_MAX);
        let accused = proof.accused();
        let same = |picked: fn(&(PeerId, PeerId)) -> PeerId, peer: PeerId| {
            self.heard.keys().filter(|key| picked(key) == peer).count()
        };
        let full = self.heard.len() >= most
            || same(|key| key.0, accused) >= EACH_MAX
            || same(|key| key.1, by) >= EACH_MAX;
        if full || self.heard.contains_key(&(accused, by)) {
            return false;
        }
        let (index, said) = (proof.index(), proof.said());
        let accusation = Accusation { index, said, record: record.clone() };
        self.heard.insert((accused, by), accusation);
        true
    }

    /// Whether somebody accuses a peer of what it signed of this unit. That others accuse it of what
    /// it signed of another says nothing: its friends might, of what is right.
    fn is_accused(&self, peer: &PeerId, index: u32) -> bool {
        self.heard.iter().any(|((accused, _), heard)| accused == peer && heard.index == index)
    }

    /// Forgets what a peer accused others of.
    fn forget(&mut self, by: &PeerId) {
        self.heard.retain(|(_, accuser), _| accuser != by);
    }
}

impl Entry {
    /// Units to run because somebody who signed them is accused. `all` says whether this peer settles
    /// every dispute of the job.
    pub(crate) fn accused_units(
        &self,
        id: &JobId,
        standing: &Standing,
        all: bool,
    ) -> BTreeSet<u32> {
        let open = |accused: &PeerId| {
            let strikes = standing.strikes(accused);
            !standing.is_out(accused) && strikes.iter().all(|strike| strike.job != *id)
        };
        let heard = self.accusations.heard.iter().filter(|((accused, _), _)| open(accused));
        let units = heard.map(|(_, heard)| heard.index);
        units.filter(|index| all || self.tally.is_called(*index)).collect()
    }

    /// Units that others may take for settled because they do not know of a liar, when they have had
    /// the time to do something about it if they do. For who wants the results.
    pub(crate) fn misled_units(&self, now: Time, standing: &Standing) -> Vec<u32> {
        match self.convicted_at {
            Some(at) if now.ms_since(at) >= MISLED_MS => self.tally.misled(standing),
            Some(_) | None => Vec::new(),
        }
    }
}

impl Peer {
    /// A peer was convicted here, of what others may not know.
    pub(crate) fn after_conviction(
        &mut self,
        now: Time,
        conviction: &Conviction,
        actions: &mut Actions,
    ) {
        if let Some(entry) = self.board.get_mut(&conviction.job) {
            entry.convicted_at = Some(now);
        }
        if conviction.said == conviction.found {
            self.accuse(now, conviction, actions);
        }
    }

    /// Says that a peer just convicted signed a right result that it did not compute, unless somebody
    /// has said so of the same unit.
    fn accuse(&mut self, now: Time, conviction: &Conviction, actions: &mut Actions) {
        let Conviction { peer, job, index, .. } = *conviction;
        let Some(entry) = self.board.get_mut(&job) else { return };
        let accused = entry.accusations.is_accused(&peer, index);
        let own = entry.tally.own(index).filter(|_| !accused);
        let Some((own, witness)) = own.and_then(|own| Some((own, own.witness?))) else { return };
        let digest = witness.work_digest(&peer, &UnitId::of(&job, index));
        let batch = entry.receipts.get(&conviction.record);
        let Some(proof) = batch.and_then(|batch| Proof::of(batch, index, own.result, digest))
        else {
            return;
        };
        let record = Signed::sign(&self.key, Record::Proof(proof.clone()));
        if entry.accusations.take(entry.tally.units(), &record, &proof) {
            self.gossip.pass(&record);
            self.spread(now, &record, None, actions);
        }
    }

    /// Somebody accuses somebody. True if that is taken, and so worth passing on.
    pub(crate) fn on_accusation(&mut self, record: &Signed, proof: &Proof) -> bool {
        let (by, accused) = (record.signer(), proof.accused());
        if accused == self.me || by == accused || self.slanderers.contains(&by) {
            return false;
        }
        let Some(entry) = self.board.get_mut(&proof.job()) else { return false };
        let units = entry.tally.units();
        if !entry.is_understood() || entry.closed || proof.index() >= units {
            return false;
        }
        if !entry.accusations.take(units, record, proof) {
            return false;
        }
        self.gossip.pass(record);
        self.weigh_accusations(&proof.job(), proof.index());
        self.plan_due = true;
        let entry = self.board.get(&proof.job());
        entry.is_some_and(|entry| entry.accusations.heard.contains_key(&(accused, by)))
    }

    /// Tells a new neighbour what some are accused of in jobs that are not over.
    pub(crate) fn tell_accusations(&self, peer: PeerId, actions: &mut Actions) {
        let open = self.board.jobs().filter(|(_, entry)| !entry.closed);
        let heard = open.flat_map(|(_, entry)| entry.accusations.heard.values());
        let records = heard.map(|heard| heard.record.bytes().clone());
        actions.say_records(peer, records.take(TOLD_MAX));
    }

    /// Holds what some are accused of having signed of a unit against what this peer found: who gave
    /// the digest that only a run gives was accused falsely, and its accuser is not heard again.
    pub(crate) fn weigh_accusations(&mut self, id: &JobId, index: u32) {
        let Some(entry) = self.board.get_mut(id).filter(|entry| !entry.unsteady) else { return };
        let Some((own, witness)) = entry.tally.own(index).and_then(|own| Some((own, own.witness?)))
        else {
            return;
        };
        let unit = UnitId::of(id, index);
        let right = |accused: &PeerId, heard: &Accusation| {
            heard.said == (own.result, witness.work_digest(accused, &unit))
        };
        let heard = entry.accusations.heard.iter().filter(|(_, heard)| heard.index == index);
        let false_ones = heard.filter(|((accused, _), heard)| right(accused, heard));
        let slanderers: Vec<PeerId> = false_ones.map(|((_, by), _)| *by).collect();
        for by in slanderers {
            entry.accusations.forget(&by);
            if self.slanderers.len() < SLANDERERS_MAX {
                self.slanderers.insert(by);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use potluck_unit::{
        Key, Receipt, ReceiptBatch, ResultHash, Seat, Statement, Witness, WorkDigest,
    };

    use super::*;
    use crate::Config;
    use crate::action::Action;
    use crate::board::tests::{NOW, fetched, handle, hear, job, job_with, worker};
    use crate::event::{Event, Ran, Report};

    const RIGHT: ResultHash = ResultHash([7; 16]);
    const WITNESS: Witness = Witness([3; 32]);

    fn key(n: u8) -> Key {
        Key::of_secret(&[n; 32])
    }

    /// What `n` signs of a unit: the right result with its own digest, or with a made-up one.
    fn signed(id: JobId, n: u8, index: u32, honest: bool) -> Signed {
        let digest = WITNESS.work_digest(&key(n).id(), &UnitId::of(&id, index));
        let digest = if honest { digest } else { WorkDigest([9; 16]) };
        let receipts =
            vec![Receipt { index, statement: Statement::Outcome { result: RIGHT, digest } }];
        let batch = ReceiptBatch { receipts, ..ReceiptBatch::new(id, NOW, Seat::Public) };
        Signed::sign(&key(n), batch.into())
    }

    /// What `by` says against the signer of a batch.
    fn accusation(by: u8, batch: &Signed, index: u32) -> Signed {
        let found = WorkDigest([by; 16]);
        Signed::sign(&key(by), Record::Proof(Proof::of(batch, index, RIGHT, found).unwrap()))
    }

    /// The slot ends the unit it was given with the right result.
    fn run(peer: &mut Peer, id: JobId, index: u32) -> Vec<Action> {
        let report = Report { index, result: Ok((RIGHT, WITNESS)), body: None };
        let ran = Ran { slot: 0, job: id, reports: vec![report], spent_us: 1, done: true };
        handle(peer, NOW, Event::Ran(ran))
    }

    fn runs(actions: &[Action]) -> Vec<u32> {
        let units = actions.iter().filter_map(|action| match action {
            Action::Run { units, .. } => Some(units.clone()),
            _ => None,
        });
        units.flatten().collect()
    }

    /// A worker of a job of two units that others have done: 5 and 6 the first, 5 and 7 the second.
    fn done_by_others(honest: bool) -> (Peer, JobId, Signed) {
        let mut peer = worker(2);
        let record = job(1, 2, 2);
        let id = record.job_id().unwrap();
        hear(&mut peer, NOW, &record);
        let batch = signed(id, 5, 0, honest);
        hear(&mut peer, NOW, &batch);
        hear(&mut peer, NOW, &signed(id, 6, 0, true));
        hear(&mut peer, NOW, &signed(id, 5, 1, honest));
        hear(&mut peer, NOW, &signed(id, 7, 1, true));
        assert_eq!(runs(&fetched(&mut peer, NOW, id)), [], "it is all done");
        (peer, id, batch)
    }

    #[test]
    fn whoever_hears_that_a_digest_is_false_runs_the_unit_and_then_what_relied_on_the_signer() {
        let (mut peer, id, batch) = done_by_others(false);
        let heard = hear(&mut peer, NOW, &accusation(6, &batch, 0));
        assert_eq!(runs(&heard), [0]);
        let ran = run(&mut peer, id, 0);
        assert!(peer.standing.is_liar(&key(5).id()));
        assert_eq!(runs(&ran), [1], "one of two is left that counts");
        let again = hear(&mut peer, NOW, &accusation(7, &batch, 0));
        assert_eq!(runs(&again), [], "that is known by now");
    }

    #[test]
    fn who_accuses_falsely_costs_one_run_and_is_not_heard_again() {
        let (mut peer, id, batch) = done_by_others(true);
        let first = accusation(9, &batch, 0);
        assert_eq!(runs(&hear(&mut peer, NOW, &first)), [0]);
        let other = signed(id, 7, 1, true);
        assert_eq!(runs(&hear(&mut peer, NOW, &accusation(9, &other, 1))), []);
        assert_eq!(runs(&run(&mut peer, id, 0)), [], "its other one is forgotten");
        assert!(!peer.standing.is_liar(&key(5).id()));
        assert!(peer.slanderers.contains(&key(9).id()));
        assert_eq!(runs(&hear(&mut peer, NOW, &accusation(9, &other, 1))), []);
    }

    #[test]
    fn who_convicts_for_a_digest_tells_others_once() {
        let (mut peer, id, batch) = done_by_others(false);
        let address = ([127, 0, 0, 1], 9).into();
        handle(&mut peer, NOW, Event::Joined { peer: key(9).id(), address, outbound: true });
        hear(&mut peer, NOW, &accusation(6, &batch, 0));
        run(&mut peer, id, 0);
        let entry = peer.board.get(&id).unwrap();
        assert_eq!(entry.accusations.heard.len(), 1, "somebody has said so");
        let (mut peer, id, _) = done_by_others(false);
        handle(&mut peer, NOW, Event::Joined { peer: key(9).id(), address, outbound: true });
        let own = crate::tally::Own { result: RIGHT, witness: Some(WITNESS), sure: true };
        peer.board.get_mut(&id).unwrap().tally.note_own(0, own);
        let mut actions = Actions::new();
        peer.check_against_own(NOW, &id, 0, &mut actions);
        let said: Vec<Signed> = actions
            .drain()
            .filter_map(|action| match action {
                Action::Say { message: potluck_unit::Message::Records(records), .. } => {
                    Some(records)
                }
                _ => None,
            })
            .flatten()
            .map(|bytes| Signed::of_bytes(&bytes).unwrap())
            .collect();
        assert_eq!(said.len(), 1);
        assert!(matches!(said[0].record(), Record::Proof(proof) if proof.accused() == key(5).id()));
    }

    #[test]
    fn a_new_neighbour_is_told_what_some_are_accused_of() {
        let (mut peer, _, batch) = done_by_others(false);
        let accusation = accusation(6, &batch, 0);
        hear(&mut peer, NOW, &accusation);
        let address = ([127, 0, 0, 1], 9).into();
        let joined = Event::Joined { peer: key(9).id(), address, outbound: false };
        let told = handle(&mut peer, NOW, joined).into_iter().any(|action| match action {
            Action::Say { to, message: potluck_unit::Message::Records(records) } => {
                to == key(9).id() && records.contains(accusation.bytes())
            }
            _ => false,
        });
        assert!(told);
    }

    /// Others count a liar that they do not know, and do not come to add the voice that is missing.
    #[test]
    fn the_submitter_runs_what_others_take_for_settled_after_they_had_the_time_to() {
        let mut peer = Peer::new(key(1), Config { slots: 0, ..Config::default() });
        handle(&mut peer, NOW, Event::Woke);
        let record = job(1, 2, 2);
        let id = record.job_id().unwrap();
        handle(&mut peer, NOW, Event::Submitted { record });
        for batch in [signed(id, 5, 1, false), signed(id, 6, 1, true), signed(id, 5, 0, true)] {
            hear(&mut peer, NOW, &batch);
        }
        let lie = peer.receipts_of(&key(5).id())[0].0;
        let conviction = Conviction {
            peer: key(5).id(),
            job: id,
            index: 1,
            said: RIGHT,
            found: RIGHT,
            record: lie,
            made: NOW,
        };
        handle(&mut peer, NOW, Event::Convicted(conviction.clone()));
        peer.after_conviction(NOW, &conviction, &mut Actions::new());
        let later = |ms| NOW.plus_ms(ms);
        assert_eq!(runs(&handle(&mut peer, later(MISLED_MS - 1), Event::Woke)), []);
        let woke = handle(&mut peer, later(MISLED_MS + 10_000), Event::Woke);
        assert_eq!(runs(&woke), [1], "nobody else has spoken of the other");
    }

    #[test]
    fn one_accusation_too_many_is_not_taken() {
        let id = JobId([1; 32]);
        let proof = |accused: u8| {
            Proof::of(&signed(id, accused, 0, false), 0, RIGHT, WorkDigest([1; 16])).unwrap()
        };
        let take = |pairs: &mut dyn Iterator<Item = (u8, u8)>| {
            let mut accusations = Accusations::default();
            let taken = pairs.filter(|(by, accused)| {
                let proof = proof(*accused);
                let record = Signed::sign(&key(*by), Record::Proof(proof.clone()));
                accusations.take(10, &record, &proof)
            });
            taken.count()
        };
        assert_eq!(take(&mut (0..100).map(|n| (100 + n, n))), ACCUSED_FEW);
        assert_eq!(take(&mut (1..100).map(|n| (n, 0))), EACH_MAX);
        assert_eq!(take(&mut (1..100).map(|n| (0, n))), EACH_MAX);
        assert_eq!(take(&mut [(1, 2), (1, 2)].into_iter()), 1);
    }

    #[test]
    fn no_more_is_told_to_a_neighbour_or_remembered_of_slanderers_than_is_bounded() {
        let mut peer = worker(2);
        let per_job = ACCUSED_FEW as u64;
        for nonce in 0..=TOLD_MAX as u64 / per_job {
            let record = job_with(1, nonce, 2, 2);
            let id = record.job_id().unwrap();
            hear(&mut peer, NOW, &record);
            for n in 0..per_job as u8 {
                let batch = signed(id, 100 + n, 0, false);
                hear(&mut peer, NOW, &accusation(200 + n, &batch, 0));
            }
        }
        let mut actions = Actions::new();
        peer.tell_accusations(key(9).id(), &mut actions);
        let told = actions.drain().map(|action| match action {
            Action::Say { message: potluck_unit::Message::Records(records), .. } => records.len(),
            other => panic!("{other:?}"),
        });
        assert_eq!(told.sum::<usize>(), TOLD_MAX);

        let (mut peer, id, batch) = done_by_others(true);
        let id_of = |n: u64| {
            let mut id = [0; 32];
            id[..8].copy_from_slice(&n.to_le_bytes());
            PeerId(id)
        };
        peer.slanderers = (0..SLANDERERS_MAX as u64).map(id_of).collect();
        hear(&mut peer, NOW, &accusation(9, &batch, 0));
        run(&mut peer, id, 0);
        assert_eq!(peer.slanderers.len(), SLANDERERS_MAX);
    }
}
