//! What an evidence file proves.
//!
//! Verdicts are recomputed from the records alone, by a peer that was born for this and knows
//! nothing else. Where two peers contradict each other, where whoever wrote the file claims what the
//! records do not say, and wherever else it is asked for, the unit is run again: that decides, and
//! convicts.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use potluck_peer::{Actions, Config, Conviction, Event, Peer};
use potluck_unit::{
    Identity, JobId, Key, PeerId, Receipt, ReceiptBatch, Record, ResultHash, RunReport, Seat,
    Signed, Statement, Time, UnitId, Witness, WorkDigest,
};
use serde::Serialize;

use super::file::Claim;
use super::open::Evidence;
use crate::Local;

/// What a file proves.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The job.
    pub job: String,
    /// What the submitter calls it.
    pub label: String,
    /// The submitter's peer id.
    pub submitter: String,
    /// How many units there are.
    pub units: u32,
    /// How many peers must agree on each.
    pub copies: u8,
    /// Records of receipts, every one with a good signature.
    pub records: usize,
    /// Receipts in them.
    pub receipts: usize,
    /// Peers that signed them.
    pub signers: usize,
    /// Units that whoever wrote the file takes for accepted; none if it does not say.
    pub claimed: Option<u32>,
    /// Units accepted by the records alone, without what proven liars say.
    pub accepted: u32,
    /// Units run again.
    pub ran: usize,
    /// Who signed what is wrong.
    pub proofs: Vec<Proof>,
    /// Whether strangers took part, so that every key had to prove work. The job itself says so.
    pub open: bool,
    /// Peers whose keys prove none in spite of that. Their records were left out.
    pub unproven: Vec<Unproven>,
    /// Records that claim a seat which their signer never drew. They were left out.
    pub false_seats: Vec<FalseSeat>,
    /// Accepted results that do not stand.
    pub contradictions: Vec<Contradiction>,
    /// Units about which this could not be found out.
    pub undecided: Vec<Undecided>,
}

/// Proof that a peer signed what is not so.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Proof {
    /// On which unit.
    pub unit: u32,
    /// Who signed.
    pub peer: String,
    /// R as it was signed.
    pub said: String,
    /// R as running the unit gives it.
    pub found: String,
    /// What is wrong with it.
    pub wrongdoing: Wrongdoing,
    /// The record that holds the receipt.
    pub record: String,
}

/// What is wrong with a receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Wrongdoing {
    /// The result.
    WrongResult,
    /// The result is right, but the digest is not: its signer did not run the unit.
    NotRun,
}

/// A peer whose key cost nothing, in a grid where that counts for nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Unproven {
    /// Who.
    pub peer: String,
    /// How many records it signed.
    pub records: usize,
}

/// A record that claims a seat which its signer never drew.
#[derive(Debug, Clone, Serialize)]
pub struct FalseSeat {
    /// Who signed it.
    pub peer: String,
    /// The record.
    pub record: String,
    /// The chunk that it claims.
    pub chunk: u32,
}

/// An accepted result that does not stand.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Contradiction {
    /// The unit.
    pub unit: u32,
    /// R as accepted.
    pub accepted: String,
    /// R as running the unit gives it.
    pub found: String,
}

/// A unit of which nothing could be found out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Undecided {
    /// The unit.
    pub unit: u32,
    /// Why running it again gave no result.
    pub why: String,
}

/// How far a check is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// The unit that is run now.
    pub unit: u32,
    /// Which of those to be run it is, counted from 1.
    pub number: usize,
    /// How many are to be run, as far as is known.
    pub of: usize,
}

/// What running a unit again came to.
#[derive(Debug, Clone)]
enum Found {
    Result(ResultHash, Witness),
    Nothing(String),
}

impl Evidence {
    /// Checks everything. Besides units that somebody contradicts, those in `also` are run again,
    /// in sandboxes of this machine, with compiled modules kept in the data folder. Keys of an open
    /// grid must prove `bits` of work. Blocks.
    ///
    /// # Errors
    /// A sentence for a person, if this machine can't check at all.
    pub fn check(
        &mut self,
        data: &Path,
        also: &BTreeSet<u32>,
        bits: u8,
        mut progress: impl FnMut(Progress),
    ) -> Result<Report, String> {
        let units = self.job().units;
        let mut court = Court::of(self, bits)?;
        let claims = self.claims.clone().unwrap_or_else(|| court.verdicts(units));
        let mut bench = Bench { data, local: None };
        let mut ran: BTreeMap<u32, Found> = BTreeMap::new();
        let mut due: BTreeSet<u32> = also.iter().copied().filter(|unit| *unit < units).collect();
        due.extend(contradicted(&court.records, units));
        let mut looked_at = 0;
        while !due.is_empty() {
            let of = ran.len() + due.len();
            for unit in std::mem::take(&mut due) {
                progress(Progress { unit, number: ran.len() + 1, of });
                ran.insert(unit, bench.run(self, unit));
            }
            court.convict(&ran);
            // What the records without the liars no longer carry is decided by running it, too.
            let lost = claims.iter().zip(0..).filter(|(claim, unit)| {
                matches!(claim, Claim::Accepted(_)) && court.claim(*unit) != **claim
            });
            let lost = lost.map(|(_, unit)| unit).filter(|unit| !ran.contains_key(unit));
            let lost: Vec<u32> = lost.collect();
            let room = LOST_MAX.saturating_sub(looked_at);
            looked_at += lost.len();
            due.extend(lost.iter().take(room));
            let why = "without the liars too few receipts are left; run it again with --units";
            let rest = lost.iter().skip(room);
            ran.extend(rest.map(|unit| (*unit, Found::Nothing(why.to_owned()))));
        }
        Ok(self.report(&court, &claims, &ran))
    }

    /// What the records alone come to, unit by unit, as a peer judges that knows nothing else. Keys of
    /// an open grid must prove `bits` of work.
    ///
    /// # Errors
    /// A sentence for a person, if this machine can't judge at all.
    pub(crate) fn claims_by_records(&self, bits: u8) -> Result<Vec<Claim>, String> {
        Ok(Court::of(self, bits)?.verdicts(self.job().units))
    }

    fn report(&self, court: &Court, claims: &[Claim], ran: &BTreeMap<u32, Found>) -> Report {
        let job = self.job();
        let (mut contradictions, mut undecided) = (Vec::new(), Vec::new());
        for (unit, found) in ran {
            let claim = claims.get(*unit as usize).copied().unwrap_or(Claim::Open);
            match (claim, found) {
                (Claim::Accepted(result), Found::Result(found, _)) if result != *found => {
                    let (accepted, found) = (result.to_string(), found.to_string());
                    contradictions.push(Contradiction { unit: *unit, accepted, found });
                }
                (Claim::Accepted(_) | Claim::Open, Found::Nothing(why)) => {
                    undecided.push(Undecided { unit: *unit, why: why.clone() });
                }
                (Claim::Unrunnable, Found::Nothing(_)) | (_, Found::Result(..)) => {}
            }
        }
        let accepted = (0..job.units).filter(|unit| match ran.get(unit) {
            // A peer that ran a unit knows; the one that judges here did not run it itself.
            Some(Found::Result(found, _)) => {
                claims.get(*unit as usize) == Some(&Claim::Accepted(*found))
            }
            Some(Found::Nothing(_)) | None => matches!(court.claim(*unit), Claim::Accepted(_)),
        });
        let is_accepted = |claim: &&Claim| matches!(claim, Claim::Accepted(_));
        let claimed = self.claims.as_ref().map(|claims| claims.iter().filter(is_accepted).count());
        let signers: BTreeSet<PeerId> = court.records.iter().map(Signed::signer).collect();
        Report {
            job: self.id.to_string(),
            label: job.label.clone(),
            submitter: self.job.signer().to_string(),
            units: job.units,
            copies: job.copies,
            records: court.records.len(),
            receipts: court.records.iter().map(|record| receipts(record).len()).sum(),
            signers: signers.len(),
            claimed: claimed.map(|count| u32::try_from(count).unwrap_or(u32::MAX)),
            accepted: u32::try_from(accepted.count()).unwrap_or(u32::MAX),
            ran: ran.values().filter(|found| matches!(found, Found::Result(..))).count(),
            proofs: court.proofs.iter().cloned().collect(),
            open: is_open(self),
            unproven: court.unproven(),
            false_seats: court.false_seats.clone(),
            contradictions,
            undecided,
        }
    }
}

/// A job of a private grid carries no proof of work; in an open one nobody would have taken it.
fn is_open(evidence: &Evidence) -> bool {
    evidence.job().identity != Identity::NONE
}

/// As many strikes as end it; more would tell the peer nothing.
const CONVICTIONS_MAX: usize = 3;
/// Units run again only because the records without the liars do not carry them. When a whole
/// quorum is found to lie that can be a million, and the first few thousand say enough.
const LOST_MAX: usize = 4096;

/// Units on which two statements contradict each other, whoever made them.
fn contradicted(records: &[Signed], units: u32) -> BTreeSet<u32> {
    let mut first: Vec<Option<ResultHash>> = vec![None; units as usize];
    let mut found = BTreeSet::new();
    for receipt in records.iter().flat_map(receipts) {
        if let Statement::Outcome { result, .. } = receipt.statement
            && let Some(said) = first.get_mut(receipt.index as usize)
            && *said.get_or_insert(result) != result
        {
            found.insert(receipt.index);
        }
    }
    found
}

/// A record's receipts.
fn made(record: &Signed) -> Time {
    match record.record() {
        Record::Receipts(batch) => batch.made,
        Record::Job(_)
        | Record::Claim(_)
        | Record::Close(_)
        | Record::Contact(_)
        | Record::Proof(_) => Time(0),
    }
}

fn receipts(record: &Signed) -> &[Receipt] {
    if let Record::Receipts(batch) = record.record() { &batch.receipts } else { &[] }
}

/// Judges from records and from what was run again.
struct Court {
    peer: Peer,
    key: Key,
    job: Signed,
    id: JobId,
    now: Time,
    /// Of receipts, those with false seats left out.
    records: Vec<Signed>,
    /// What the peer is told of each liar, at most [`CONVICTIONS_MAX`].
    convictions: BTreeMap<PeerId, Vec<Conviction>>,
    /// Whether each signer's proofs of work are good, as far as they were looked at.
    proven: BTreeMap<(PeerId, Identity), (bool, usize)>,
    false_seats: Vec<FalseSeat>,
    proofs: BTreeSet<Proof>,
}

impl Court {
    fn of(evidence: &Evidence, bits: u8) -> Result<Court, String> {
        let mut secret = [0; 32];
        // A key that others know could sign what the peer then takes for its own work.
        getrandom::fill(&mut secret)
            .map_err(|error| format!("the system gives no randomness: {error}"))?;
        let key = Key::of_secret(&secret);
        let mut court = Court {
            peer: Peer::new(key.clone(), Config::default()),
            key,
            job: evidence.job.clone(),
            id: evidence.id,
            now: crate::hub::clock(),
            records: Vec::new(),
            convictions: BTreeMap::new(),
            proven: BTreeMap::new(),
            false_seats: Vec::new(),
            proofs: BTreeSet::new(),
        };
        for record in &evidence.records {
            if let Record::Receipts(batch) = record.record() {
                if is_open(evidence) && !court.proves(record.signer(), batch.identity, bits) {
                    continue;
                }
                if let Some(chunk) = false_seat(evidence, &record.signer(), batch) {
                    let (peer, record) = (record.signer().to_string(), record.id().to_string());
                    court.false_seats.push(FalseSeat { peer, record, chunk });
                    continue;
                }
                court.records.push(record.clone());
            }
        }
        court.hear();
        Ok(court)
    }

    /// Lets a new peer judge by what is known now, as a node does after a restart: a conviction
    /// that comes after the receipts would have it judge every unit anew each time. Closings are
    /// left out: they decide nothing.
    fn hear(&mut self) {
        self.peer = Peer::new(self.key.clone(), Config::default());
        for conviction in self.convictions.values().flatten().cloned().collect::<Vec<_>>() {
            self.tell(Event::Convicted(conviction));
        }
        self.tell(Event::Kept { record: self.job.clone() });
        for at in 0..self.records.len() {
            let record = self.records[at].clone();
            self.tell(Event::Kept { record });
        }
    }

    fn tell(&mut self, event: Event) {
        let mut nothing = Actions::new();
        self.peer.handle(self.now, event, &mut nothing);
    }

    /// Whether a signer's key cost work. Proofs that were not looked for before take milliseconds.
    fn proves(&mut self, signer: PeerId, identity: Identity, bits: u8) -> bool {
        let look = || (identity.proves(&signer, bits), 0);
        let (good, records) = self.proven.entry((signer, identity)).or_insert_with(look);
        *records += 1;
        *good
    }

    fn unproven(&self) -> Vec<Unproven> {
        let bad = self.proven.iter().filter(|(_, (good, _))| !good);
        bad.map(|((peer, _), (_, records))| Unproven { peer: peer.to_string(), records: *records })
            .collect()
    }

    fn claim(&self, unit: u32) -> Claim {
        Claim::of(self.peer.verdict(&self.id, unit))
    }

    fn verdicts(&self, units: u32) -> Vec<Claim> {
        (0..units).map(|unit| self.claim(unit)).collect()
    }

    /// Holds every receipt against what running its unit gave, and judges anew without the liars.
    fn convict(&mut self, ran: &BTreeMap<u32, Found>) {
        let before = self.proofs.len();
        for record in &self.records {
            let peer = record.signer();
            for receipt in receipts(record) {
                let Statement::Outcome { result, digest } = receipt.statement else { continue };
                let Some(Found::Result(found, witness)) = ran.get(&receipt.index) else { continue };
                let unit = UnitId::of(&self.id, receipt.index);
                let Some(wrongdoing) =
                    wrongdoing(&peer, &unit, (result, digest), (*found, witness))
                else {
                    continue;
                };
                let proof = Proof {
                    unit: receipt.index,
                    peer: peer.to_string(),
                    said: result.to_string(),
                    found: found.to_string(),
                    wrongdoing,
                    record: record.id().to_string(),
                };
                let known = self.convictions.entry(peer).or_default();
                if self.proofs.insert(proof) && known.len() < CONVICTIONS_MAX {
                    let (said, found, index) = (result, *found, receipt.index);
                    let (job, made, record) = (self.id, made(record), record.id());
                    known.push(Conviction { peer, job, index, said, found, record, made });
                }
            }
        }
        if self.proofs.len() > before {
            self.hear();
        }
    }
}

fn wrongdoing(
    peer: &PeerId,
    unit: &UnitId,
    (said, digest): (ResultHash, WorkDigest),
    (found, witness): (ResultHash, &Witness),
) -> Option<Wrongdoing> {
    if said != found {
        Some(Wrongdoing::WrongResult)
    } else if witness.work_digest(peer, unit) != digest {
        Some(Wrongdoing::NotRun)
    } else {
        None
    }
}

/// The chunk that a batch says its signer drew, if that is not so or not where its units are.
fn false_seat(evidence: &Evidence, signer: &PeerId, batch: &ReceiptBatch) -> Option<u32> {
    let Seat::Drawn { chunk, proof } = batch.seat else { return None };
    let units = evidence.job().units_of(chunk);
    let within = batch.receipts.iter().all(|receipt| units.contains(&receipt.index));
    let drawn = proof.check(signer, &evidence.id.draw_input(chunk)).is_some();
    (!within || !drawn).then_some(chunk)
}

const NO_INPUT: &str =
    "its input is not in the evidence; get that from the submitter or from a worker";
const NO_MODULE: &str =
    "the module is not in the evidence; get that from the submitter or from a worker";

/// Where units are run again.
struct Bench<'a> {
    data: &'a Path,
    local: Option<Local>,
}

impl Bench<'_> {
    fn run(&mut self, evidence: &mut Evidence, unit: u32) -> Found {
        let Some(row) = evidence.row(unit) else {
            return Found::Nothing(NO_INPUT.to_owned());
        };
        let local = match self.set_up(evidence) {
            Ok(local) => local,
            Err(why) => return Found::Nothing(why),
        };
        let id = UnitId::of(&evidence.id, unit);
        match local.run_unit(id, &row.args, &row.stdin, None).report {
            RunReport::Done { outcome, witness } => Found::Result(outcome.result_hash(), witness),
            RunReport::NoResult(why) => Found::Nothing(why.as_str().to_owned()),
        }
    }

    fn set_up(&mut self, evidence: &Evidence) -> Result<&mut Local, String> {
        let local = match self.local.take() {
            Some(local) => local,
            None => {
                let module = evidence.module.as_ref();
                let module = module.ok_or(NO_MODULE)?;
                Local::new(self.data, module, evidence.job().limits, Vec::new())?
            }
        };
        Ok(self.local.insert(local))
    }
}
