//! What a peer can tell of itself: read only, for the local user and for oracles.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use potluck_unit::{
    BlobId, Fingerprint, IdRange, Job, JobId, NoResult, PeerId, RecordId, ResultHash, Signed,
    Statement, Topic,
};

use crate::Peer;
use crate::standing::{Conviction, Level};
use crate::tally::{Counts, Verdict};

/// A job as this peer sees it.
#[derive(Debug, Clone)]
pub struct JobStatus {
    /// The job's record.
    pub record: Signed,
    /// How many units have which verdict.
    pub counts: Counts,
    /// Peers that said they hold it, not counting this one.
    pub keepers: usize,
    /// Peers known that may run it, this one included if it lends slots.
    pub workers: usize,
    /// Whether module and inputs are on this peer's disk.
    pub ready: bool,
    /// Whether the submitter closed it.
    pub closed: bool,
    /// Whether every unit is accepted or unrunnable.
    pub settled: bool,
    /// Whether this peer wants the outcomes on its own disk.
    pub collect: bool,
    /// Neighbours connected now.
    pub neighbours: usize,
}

/// What the accepted results of a job stand on, as this peer sees it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Assurance {
    /// k: how many peers must agree on each unit.
    pub copies: u8,
    /// Workers that this peer has standing for.
    pub established: usize,
    /// Workers known, this peer included if it lends slots.
    pub workers: usize,
    /// Accepted units for which at least one established peer spoke.
    pub with_established: u32,
    /// Accepted units with more agreeing copies than k.
    pub audited: u32,
    /// Whether this peer knows the grid for too short a time to give anybody standing.
    pub young: bool,
    /// Convicted peers that spoke on this job.
    pub convicted: usize,
    /// Units that this peer ran itself.
    pub own: u32,
}

/// A unit as this peer sees it.
#[derive(Debug, Clone)]
pub struct UnitStatus {
    /// What the receipts amount to.
    pub verdict: Verdict,
    /// Whether the body of the accepted result is on this peer's disk.
    pub fetched: bool,
    /// Every statement on it.
    pub words: Vec<Word>,
}

/// One peer's statement on a unit.
#[derive(Debug, Clone)]
pub struct Word {
    /// Who says it.
    pub peer: PeerId,
    /// R, or why there is no result.
    pub said: Result<ResultHash, NoResult>,
    /// Whether it counts: not if its signer was convicted.
    pub counts: bool,
}

/// Another peer as this one sees it.
#[derive(Debug, Clone)]
pub struct PeerStatus {
    /// Who.
    pub peer: PeerId,
    /// Where it says it can be reached.
    pub addresses: Vec<SocketAddr>,
    /// Whether it is connected now.
    pub connected: bool,
    /// How many slots it says it lends.
    pub slots: u16,
    /// Its software.
    pub agent: String,
    /// What its donor wants to be called; anybody may call itself anything.
    pub nickname: String,
    /// With whom its donor wants to be counted, likewise.
    pub team: String,
    /// Whether its word counts no longer, because this peer convicted it.
    pub convicted: bool,
    /// What this peer has seen of its work.
    pub standing: Level,
    /// How much of its recent work this peer saw accepted.
    pub credit: u32,
    /// How many of its lies this peer has proved.
    pub strikes: u8,
}

impl Peer {
    /// Every job known here.
    pub fn jobs(&self) -> Vec<JobId> {
        self.board.job_ids()
    }

    /// A job as this peer sees it.
    pub fn job(&self, id: &JobId) -> Option<JobStatus> {
        let entry = self.board.get(id)?;
        Some(JobStatus {
            record: entry.record.clone(),
            counts: entry.tally.counts(),
            keepers: entry.keepers.len(),
            workers: self.workers,
            ready: entry.is_ready(),
            closed: entry.closed,
            settled: entry.is_settled(),
            collect: entry.collect,
            neighbours: self.roster.count(),
        })
    }

    /// What the accepted results of a job stand on. Looks at every unit: not for every change.
    pub fn assurance(&self, id: &JobId) -> Option<Assurance> {
        self.board.get(id).map(|entry| self.assurance_of(entry))
    }

    fn assurance_of(&self, entry: &crate::board::Entry) -> Assurance {
        let tally = &entry.tally;
        let copies = entry.job().copies;
        let young = !self.standing.is_strict();
        let mut found = Assurance { copies, workers: self.workers, young, ..Assurance::default() };
        let workers = self.roster.live_workers(self.told_at);
        found.established = workers.filter(|peer| self.standing.is_established(peer)).count();
        let mut convicted = BTreeSet::new();
        for index in 0..tally.units() {
            convicted.extend(
                tally.votes(index).map(|(peer, _)| peer).filter(|peer| self.standing.is_liar(peer)),
            );
            found.own += u32::from(tally.own(index).is_some());
            let agreeing = tally.supporters(index).count() + usize::from(tally.is_own(index));
            found.audited += u32::from(agreeing > usize::from(copies));
            let known = tally.supporters(index).any(|peer| self.standing.is_established(&peer));
            found.with_established += u32::from(known);
        }
        found.convicted = convicted.len();
        found
    }

    /// Every record about a job that this peer holds: the job's own, then receipts, then closings.
    pub fn records(&self, id: &JobId) -> Option<Vec<Signed>> {
        let entry = self.board.get(id)?;
        let receipts = entry.receipts.iter();
        let closes = |record: &&Signed| matches!(record.record(), potluck_unit::Record::Close(close) if close.job == *id);
        let closings = self.board.jobs_set.iter().filter(closes);
        Some(std::iter::once(&entry.record).chain(receipts).chain(closings).cloned().collect())
    }

    /// A unit as this peer sees it.
    pub fn unit(&self, id: &JobId, index: u32) -> Option<UnitStatus> {
        let entry = self.board.get(id).filter(|entry| index < entry.job().units)?;
        let heard = |peer: &PeerId, made| entry.tally.is_heard(peer, made, &self.standing);
        let votes = entry.tally.votes(index).map(|(peer, vote)| {
            let counts = heard(&peer, vote.made);
            Word { peer, said: Ok(vote.result), counts }
        });
        let gave_up = entry.tally.gave_up(index).map(|(peer, why)| {
            let counts = !self.standing.is_liar(&peer);
            Word { peer, said: Err(why), counts }
        });
        let words = votes.chain(gave_up);
        Some(UnitStatus {
            verdict: entry.tally.verdict(index),
            fetched: entry.tally.is_fetched(index),
            words: words.collect(),
        })
    }

    /// The verdict on a unit.
    pub fn verdict(&self, id: &JobId, index: u32) -> Option<Verdict> {
        let entry = self.board.get(id).filter(|entry| index < entry.job().units)?;
        Some(entry.tally.verdict(index))
    }

    /// Whether module and inputs of a job are here, or will not come: its parts are not all known to
    /// this version, or it is over. True for a job that is not known.
    pub fn has_inputs(&self, id: &JobId) -> bool {
        self.board
            .get(id)
            .is_none_or(|entry| entry.is_ready() || entry.is_cleared() || !entry.is_understood())
    }

    /// What a set of records amounts to here, if it is known: equal at two peers when the sets are.
    pub fn fingerprint(&self, topic: &Topic) -> Option<Fingerprint> {
        self.board.set(topic).map(|set| set.fingerprint(IdRange::ALL))
    }

    /// Every peer heard of.
    pub fn peers(&self) -> Vec<PeerStatus> {
        let status = |peer: &PeerId| {
            let contact = self.roster.contact(peer);
            PeerStatus {
                peer: *peer,
                addresses: contact.map_or_else(Vec::new, |contact| contact.addresses.clone()),
                connected: self.roster.is_neighbour(peer),
                slots: contact.map_or(0, |contact| contact.slots),
                agent: contact.map_or_else(String::new, |contact| contact.agent.clone()),
                nickname: contact.map_or_else(String::new, |contact| contact.nickname.clone()),
                team: contact.map_or_else(String::new, |contact| contact.team.clone()),
                convicted: self.standing.is_out(peer),
                standing: self.standing.level(self.told_at, peer, LIKELY_WRONG),
                credit: u32::try_from(self.standing.credit(self.told_at, peer)).unwrap_or(u32::MAX),
                strikes: u8::try_from(self.standing.strikes(peer).len()).unwrap_or(u8::MAX),
            }
        };
        self.roster.known().map(|(peer, _)| status(peer)).collect()
    }

    /// How many neighbours there are.
    pub fn neighbours(&self) -> usize {
        self.roster.count()
    }

    /// Peers known to lend slots, this one included if it does.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// Slots that have something to run.
    pub fn slots_busy(&self) -> usize {
        self.runs.busy()
    }

    /// Units run since start.
    pub fn units_run(&self) -> u64 {
        self.runs.units_run()
    }

    /// Every proof of a lie.
    pub fn convictions(&self) -> Vec<Conviction> {
        self.standing.convictions().cloned().collect()
    }

    /// The receipts that `peer` signed and this peer holds: record, job, unit and statement.
    pub fn receipts_of(&self, peer: &PeerId) -> Vec<(RecordId, JobId, u32, Statement)> {
        let mut found = Vec::new();
        for (id, entry) in self.board.jobs() {
            for record in entry.receipts.iter().filter(|record| record.signer() == *peer) {
                if let potluck_unit::Record::Receipts(batch) = record.record() {
                    let receipts = batch.receipts.iter();
                    found.extend(receipts.map(|r| (record.id(), *id, r.index, r.statement)));
                }
            }
        }
        found
    }

    /// What jobs known here still need on the disk: modules and input indices by id, outcomes by R.
    pub fn needed(&self) -> (BTreeSet<BlobId>, BTreeSet<ResultHash>) {
        let (mut blobs, mut results) = (BTreeSet::new(), BTreeSet::new());
        for (_, entry) in self.board.jobs().filter(|(_, entry)| !entry.is_cleared()) {
            blobs.extend([entry.job().module, entry.job().inputs]);
            for index in 0..entry.tally.units() {
                results.extend(entry.tally.votes(index).map(|(_, vote)| vote.result));
                results.extend(entry.tally.own(index).map(|own| own.result));
            }
        }
        (blobs, results)
    }

    /// The job inside a job's record.
    pub fn job_record(&self, id: &JobId) -> Option<&Job> {
        self.board.get(id).map(board_job)
    }
}

fn board_job(entry: &crate::board::Entry) -> &Job {
    entry.job()
}

/// Veterans are shown as those of work where one unit in a thousand may be wrong.
const LIKELY_WRONG: f64 = 1e-3;
