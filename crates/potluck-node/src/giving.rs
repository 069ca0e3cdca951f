//! The record of giving: which of this node's work was found right, by day and by submitter, with
//! the signed records that show it.
//!
//! A unit counts once, when a result that this node signed for it is the accepted one, whoever's
//! copies carried that; it stops counting when it is opened again. Time is what the receipts say, in
//! proportion to the units of each that count. Nothing is counted event by event: now and then, and
//! before anybody is answered, what a job has come to is reckoned anew from the peer's own state,
//! and the difference is noted. So a crash loses nothing but what was found right in the last half
//! minute before its job left the board.
//!
//! What is exported is checked without believing it: by its signatures, and by the verdicts that the
//! records lead a peer to that knows nothing else, as for evidence.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use potluck_peer::{Action, News, Peer, Verdict};
use potluck_unit::{
    JobId, PeerId, Receipt, ReceiptBatch, Record, ResultHash, Signed, Statement, Time,
};
use serde::{Deserialize, Serialize};
use tracing::warn;

use crate::evidence::{Claim, Encoder, Evidence, Kind, without_bodies};
use crate::hub::{Hub, Input};
use crate::store::{NOBODY, Row, Share, Store, Sum};

/// How long after a change it is reckoned what this node has given: for the largest jobs that takes a
/// good part of a second.
const GIVING_AFTER: Duration = Duration::from_secs(30);

/// Notices which jobs have to be reckoned anew.
#[derive(Debug, Default)]
pub(crate) struct Giving {
    /// Jobs on the board on which this node has signed receipts.
    mine: BTreeSet<JobId>,
    /// Those of them that have changed since they were reckoned.
    changed: BTreeSet<JobId>,
}

impl Giving {
    /// Every job that the peer knows of after a restart may have to be reckoned.
    pub(crate) fn of(peer: &Peer) -> Giving {
        let mine: BTreeSet<JobId> = peer.jobs().into_iter().collect();
        Giving { changed: mine.clone(), mine }
    }

    /// Takes note of what the peer wants done. True if there is now something to reckon and there
    /// was nothing before.
    pub(crate) fn note(&mut self, me: PeerId, action: &Action) -> bool {
        let was_empty = self.changed.is_empty();
        match action {
            Action::Keep(record) if record.signer() == me => {
                if let Some(batch) = receipts(record) {
                    self.mine.insert(batch.job);
                    self.changed.insert(batch.job);
                }
            }
            Action::Tell(News::Accepted { job, .. } | News::Reopened { job, .. })
                if self.mine.contains(job) =>
            {
                self.changed.insert(*job);
            }
            Action::Clear(job) => {
                self.mine.remove(job);
                self.changed.remove(job);
            }
            Action::Keep(_)
            | Action::Tell(_)
            | Action::Say { .. }
            | Action::Dial { .. }
            | Action::HangUp { .. }
            | Action::Forget(_)
            | Action::Note(_)
            | Action::Credit(_)
            | Action::Discard(_)
            | Action::Fetch { .. }
            | Action::Run { .. }
            | Action::Stop { .. }
            | Action::Lend(_)
            | Action::WakeAt(_) => {}
        }
        was_empty && !self.changed.is_empty()
    }

    /// Reckons what has changed and puts it on disk. False if the disk refuses: then nothing has
    /// changed, and it is to be tried again. Blocks.
    pub(crate) fn settle(&mut self, peer: &Peer, store: &Store, now: Time) -> bool {
        let mut shares: Vec<Share> = Vec::new();
        for job in &self.changed {
            match share_of(peer, job) {
                Some(share) => shares.push(share),
                None => drop(self.mine.remove(job)),
            }
        }
        let noted = if shares.is_empty() { Ok(()) } else { store.give(now, today(now), &shares) };
        match &noted {
            Ok(()) => self.changed.clear(),
            Err(error) => warn!("{error}; what was given is not noted for now"),
        }
        noted.is_ok()
    }
}

impl Hub {
    /// Puts on disk what this node has given, in a while.
    pub(crate) fn settle_giving_later(&self) {
        let inputs = self.inputs.clone();
        tokio::spawn(async move {
            tokio::time::sleep(GIVING_AFTER).await;
            let settle = Input::Ask(Box::new(|hub: &mut Hub| {
                if !hub.settle_giving() {
                    hub.settle_giving_later();
                }
            }));
            // The loop is gone only when the node stops.
            let _ = inputs.send(settle).await;
        });
    }
}

/// What a job has come to for this node; none if the peer holds nothing that it has signed there.
fn share_of(peer: &Peer, job: &JobId) -> Option<Share> {
    let records = peer.records(job)?;
    let submitter = records.first()?.signer();
    let accepted = |unit: u32| match peer.verdict(job, unit) {
        Some(Verdict::Accepted(result)) => Some(result),
        Some(Verdict::Open | Verdict::Partial(_) | Verdict::Disputed | Verdict::Unrunnable(_))
        | None => None,
    };
    let (sum, units) = reckon(&records, peer.id(), accepted)?;
    let of_these =
        |batch: &ReceiptBatch| batch.receipts.iter().any(|receipt| units.contains(&receipt.index));
    let shows = |record: &&Signed| is_job(record) || receipts(record).is_some_and(of_these);
    let kept = records.iter().filter(shows);
    let records = kept.map(|record| (record.id(), without_bodies(record).to_vec())).collect();
    Some(Share { job: *job, submitter, sum, records })
}

/// What `donor` has given according to these records, where `accepted` says what is right, and which
/// units that are. None if there is no receipt of the donor's.
fn reckon(
    records: &[Signed],
    donor: PeerId,
    accepted: impl Fn(u32) -> Option<ResultHash>,
) -> Option<(Sum, BTreeSet<u32>)> {
    let own = records.iter().filter(|record| record.signer() == donor);
    let mut own: Vec<&ReceiptBatch> = own.filter_map(receipts).collect();
    // The same order for everybody: a unit that was signed twice counts where it was first.
    own.sort_by_key(|batch| (batch.made, batch.head().root));
    let (mut sum, mut units) = (Sum::default(), BTreeSet::new());
    let is_right = |receipt: &&Receipt| match receipt.statement {
        Statement::Outcome { result, .. } => accepted(receipt.index) == Some(result),
        Statement::NoResult(_) => false,
    };
    for batch in &own {
        let right = batch.receipts.iter().filter(is_right).map(|receipt| receipt.index);
        let fresh = right.filter(|unit| units.insert(*unit)).count() as u64;
        let all = batch.receipts.len().max(1) as u64;
        let spent_ms = u64::from(batch.spent_ms) * fresh / all;
        sum += Sum {
            units: i64::try_from(fresh).unwrap_or(i64::MAX),
            spent_ms: i64::try_from(spent_ms).unwrap_or(i64::MAX),
        };
    }
    (!own.is_empty()).then_some((sum, units))
}

fn receipts(record: &Signed) -> Option<&ReceiptBatch> {
    if let Record::Receipts(batch) = record.record() { Some(batch) } else { None }
}

fn is_job(record: &Signed) -> bool {
    matches!(record.record(), Record::Job(_))
}

/// The day here.
fn today(now: Time) -> Date {
    let at = Timestamp::from_millisecond(i64::try_from(now.0).unwrap_or(i64::MAX));
    at.unwrap_or(Timestamp::MAX).to_zoned(TimeZone::system()).date()
}

/// Work that was found right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// Units. Of a day on which results were taken back, it may be below zero.
    pub units: i64,
    /// How long they took, as it was signed, in milliseconds.
    pub spent_ms: i64,
}

/// What this node has given, in sums.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenInfo {
    /// Whose work it was: this node's peer id.
    pub donor: String,
    /// Since the local day began.
    pub today: Given,
    /// Ever.
    pub ever: Given,
    /// The same in parts, if that was asked for.
    pub parts: Vec<GivenPart>,
}

/// One part of what was given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GivenPart {
    /// The local day, as `2027-01-15`; the first of the month where days are put together; none if
    /// all days are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub day: Option<String>,
    /// Who asked for the work: a peer id, `others`, or none if all are put together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub submitter: Option<String>,
    /// What it came to.
    #[serde(flatten)]
    pub given: Given,
}

/// How parts are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GivenBy {
    /// One for each day.
    Day,
    /// One for each submitter.
    Submitter,
}

impl From<Sum> for Given {
    fn from(sum: Sum) -> Given {
        Given { units: sum.units, spent_ms: sum.spent_ms }
    }
}

/// The sums, in parts if asked for.
pub(crate) fn info(donor: PeerId, rows: &[Row], now: Time, by: Option<GivenBy>) -> GivenInfo {
    let (mut ever, mut of_today) = (Sum::default(), Sum::default());
    let mut parts: BTreeMap<(Option<Date>, Option<PeerId>), Sum> = BTreeMap::new();
    let today = today(now);
    for row in rows {
        ever += row.sum;
        if row.day == today {
            of_today += row.sum;
        }
        let part = match by {
            Some(GivenBy::Day) => (Some(row.day), None),
            Some(GivenBy::Submitter) => (None, Some(row.submitter)),
            None => continue,
        };
        *parts.entry(part).or_default() += row.sum;
    }
    let parts = parts.into_iter().map(|((day, submitter), sum)| part(day, submitter, sum));
    GivenInfo {
        donor: donor.to_string(),
        today: of_today.into(),
        ever: ever.into(),
        parts: parts.collect(),
    }
}

fn part(day: Option<Date>, submitter: Option<PeerId>, sum: Sum) -> GivenPart {
    let name = |peer: PeerId| if peer == NOBODY { "others".to_owned() } else { peer.to_string() };
    let (day, submitter) = (day.map(|day| day.to_string()), submitter.map(name));
    GivenPart { day, submitter, given: sum.into() }
}

/// The head of an export: everything but the jobs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    /// What this is: [`FORMAT`].
    format: String,
    donor: String,
    ever: Given,
    parts: Vec<GivenPart>,
}

/// A job in an export.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct ExportedJob {
    job: String,
    submitter: String,
    #[serde(flatten)]
    given: Given,
    /// Signed records in hexadecimal: the job's, the donor's receipts, and those of others about the
    /// same units.
    records: Vec<String>,
}

/// An export, as it is read.
#[derive(Deserialize)]
struct Export {
    #[serde(flatten)]
    head: Head,
    jobs: Vec<ExportedJob>,
}

/// Writes an export piece by piece: JSON, with a job a line. `piece` says whether to go on. Blocks.
pub(crate) fn export(
    donor: PeerId,
    store: &Store,
    mut piece: impl FnMut(Vec<u8>) -> bool,
) -> Result<(), String> {
    let rows = store.given().map_err(|error| error.to_string())?;
    let mut ever = Sum::default();
    rows.iter().for_each(|row| ever += row.sum);
    let parts = rows.iter().map(|row| part(Some(row.day), Some(row.submitter), row.sum)).collect();
    let (format, donor) = (FORMAT.to_owned(), donor.to_string());
    let head = Head { format, donor, ever: ever.into(), parts };
    let mut text = serde_json::to_string(&head).map_err(|error| error.to_string())?;
    // The object goes on with its jobs.
    text.pop();
    text.push_str(",\"jobs\":[");
    let mut between = "\n";
    for job in store.given_jobs().map_err(|error| error.to_string())? {
        // It may have been dropped meanwhile.
        let Some(share) = store.given_job(&job).map_err(|error| error.to_string())? else {
            continue;
        };
        let exported = ExportedJob {
            job: job.to_string(),
            submitter: share.submitter.to_string(),
            given: share.sum.into(),
            records: share.records.iter().map(|(_, bytes)| hex(bytes)).collect(),
        };
        text.push_str(between);
        text.push_str(&serde_json::to_string(&exported).map_err(|error| error.to_string())?);
        between = ",\n";
        if !piece(std::mem::take(&mut text).into_bytes()) {
            return Ok(());
        }
    }
    text.push_str("\n]}\n");
    piece(text.into_bytes());
    Ok(())
}

/// What an export shows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GivenCheck {
    /// Whose work it was.
    pub donor: String,
    /// What the export says was given ever.
    pub ever: Given,
    /// Jobs whose records are in the export.
    pub jobs: usize,
    /// What the export says these came to.
    pub claimed: Given,
    /// What their records show.
    pub shown: Given,
    /// What does not add up, in sentences for a person, at most [`GIVEN_FAULTS_MAX`].
    pub faults: Vec<String>,
}

/// Adds an export up again: signatures, verdicts and sums. Keys of open grids must prove `bits` of
/// work. Blocks.
///
/// # Errors
/// A sentence for a person, if the file can't be read or is no export.
pub fn check_given(path: &Path, bits: u8) -> Result<GivenCheck, String> {
    let shown = path.display();
    let mut text = String::new();
    let file = File::open(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
    let read = file.take(GIVEN_EXPORT_BYTES_MAX + 1).read_to_string(&mut text);
    read.map_err(|error| format!("cannot read {shown}: {error}"))?;
    if text.len() as u64 > GIVEN_EXPORT_BYTES_MAX {
        return Err(format!("{shown} is larger than any record of giving"));
    }
    let export: Export = serde_json::from_str(&text)
        .map_err(|error| format!("{shown} is no record of giving, or is cut off: {error}"))?;
    drop(text);
    let Head { format, donor, ever, parts } = &export.head;
    if format != FORMAT {
        return Err(format!("{shown} is of the format `{format}`; this program reads `{FORMAT}`"));
    }
    let donor: PeerId =
        donor.parse().map_err(|error| format!("{shown} names no donor: {error}"))?;
    let mut check = GivenCheck {
        donor: donor.to_string(),
        ever: *ever,
        jobs: export.jobs.len(),
        claimed: Given::default(),
        shown: Given::default(),
        faults: Vec::new(),
    };
    let mut sum = Given::default();
    parts.iter().for_each(|part| sum.add(part.given));
    if sum != *ever {
        check.fault(format!("the days come to {} units, not {}", sum.units, ever.units));
    }
    let mut seen = BTreeSet::new();
    for job in &export.jobs {
        if seen.insert(&job.job) {
            check.add(job, shown_by(job, donor, bits));
        } else {
            check.fault(format!("job {} is there twice", job.job));
        }
    }
    if check.claimed.units > ever.units {
        let (jobs, ever) = (check.claimed.units, ever.units);
        check.fault(format!("the jobs come to {jobs} units, more than the {ever} ever given"));
    }
    Ok(check)
}

impl Given {
    fn add(&mut self, other: Given) {
        self.units = self.units.saturating_add(other.units);
        self.spent_ms = self.spent_ms.saturating_add(other.spent_ms);
    }
}

impl GivenCheck {
    fn add(&mut self, job: &ExportedJob, shown: Result<Given, String>) {
        self.claimed.add(job.given);
        match shown {
            Ok(shown) => {
                self.shown.add(shown);
                if shown != job.given {
                    self.fault(format!(
                        "job {}: {} units and {} ms are claimed, its records show {} and {}",
                        job.job, job.given.units, job.given.spent_ms, shown.units, shown.spent_ms
                    ));
                }
            }
            Err(why) => self.fault(format!("job {}: {why}", job.job)),
        }
    }

    fn fault(&mut self, fault: String) {
        if self.faults.len() < GIVEN_FAULTS_MAX {
            self.faults.push(fault);
        }
    }
}

/// What the records of a job show, judged by a peer that knows nothing else.
fn shown_by(job: &ExportedJob, donor: PeerId, bits: u8) -> Result<Given, String> {
    let id: JobId = job.job.parse().map_err(|error| format!("it has no id: {error}"))?;
    let mut records = Vec::with_capacity(job.records.len());
    for text in &job.records {
        let bytes = unhex(text).ok_or("a record is not in hexadecimal")?;
        records.push(Signed::of_bytes(&bytes).map_err(|error| format!("a record: {error}"))?);
    }
    let own = |record: &&Signed| is_job(record) && record.job_id() == Some(id);
    let record = records.iter().find(own).ok_or("the job's own record is missing")?;
    if record.signer().to_string() != job.submitter {
        return Err(format!("it was submitted by {}", record.signer()));
    }
    let claims = evidence_of(record, &records)?.claims_by_records(bits)?;
    let accepted = |unit: u32| match claims.get(unit as usize) {
        Some(Claim::Accepted(result)) => Some(*result),
        Some(Claim::Open | Claim::Unrunnable) | None => None,
    };
    let reckoned = reckon(&records, donor, accepted);
    // Everything of a job may have been taken back since.
    Ok(reckoned.map(|(sum, _)| sum.into()).unwrap_or_default())
}

/// The records as evidence, which is strict about what belongs together.
fn evidence_of(job: &Signed, records: &[Signed]) -> Result<Evidence, String> {
    let fail = |error: std::io::Error| format!("cannot write a temporary file: {error}");
    let mut file = tempfile::NamedTempFile::new().map_err(fail)?;
    let mut encoder = Encoder::default();
    let mut bytes = encoder.head();
    bytes.extend(encoder.part(Kind::Job, without_bodies(job)));
    for record in records.iter().filter(|record| !is_job(record)) {
        bytes.extend(encoder.part(Kind::Record, without_bodies(record)));
    }
    bytes.extend(encoder.end());
    file.write_all(&bytes).map_err(fail)?;
    Evidence::open(file.path()).map_err(|error| error.to_string())
}

fn hex(bytes: &[u8]) -> String {
    let digit = |nibble: u8| char::from(b"0123456789abcdef"[usize::from(nibble)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let digit = |byte: u8| u8::try_from(char::from(byte).to_digit(16)?).ok();
    let byte = |[high, low]: &[u8; 2]| Some((digit(*high)? << 4) | digit(*low)?);
    pairs.iter().map(byte).collect::<Option<Vec<u8>>>().filter(|_| rest.is_empty())
}

/// What every export says it is.
const FORMAT: &str = "potluck given 1";
/// The largest export: every record twice its size, and as much again for sums.
pub const GIVEN_EXPORT_BYTES_MAX: u64 = 4 * Store::GIVEN_BYTES_MAX;
/// Faults that are named.
pub const GIVEN_FAULTS_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use potluck_unit::{Key, Seat, WorkDigest};

    use super::*;

    fn batch(key: u8, made: u64, spent_ms: u32, said: &[(u32, u8)]) -> Signed {
        let mut batch = ReceiptBatch::new(JobId([9; 32]), Time(made), Seat::Public);
        batch.spent_ms = spent_ms;
        batch.receipts.extend(said.iter().map(|(index, result)| {
            let (result, digest) = (ResultHash([*result; 16]), WorkDigest([0; 16]));
            Receipt { index: *index, statement: Statement::Outcome { result, digest } }
        }));
        Signed::sign(&Key::of_secret(&[key; 32]), batch.into())
    }

    fn given(records: &[Signed]) -> Option<(i64, i64)> {
        let donor = Key::of_secret(&[1; 32]).id();
        // Of every unit the result 5 is right.
        let reckoned = reckon(records, donor, |_| Some(ResultHash([5; 16])));
        reckoned.map(|(sum, _)| (sum.units, sum.spent_ms))
    }

    #[test]
    fn what_was_right_counts_with_its_part_of_the_time() {
        assert_eq!(given(&[batch(1, 1, 300, &[(0, 5), (1, 5), (2, 4)])]), Some((2, 200)));
        assert_eq!(given(&[batch(1, 1, 300, &[(0, 4)])]), Some((0, 0)));
    }

    #[test]
    fn a_unit_that_was_signed_twice_counts_once() {
        let twice = [batch(1, 2, 100, &[(0, 5), (1, 5)]), batch(1, 1, 70, &[(0, 5)])];
        assert_eq!(given(&twice), Some((2, 120)));
    }

    #[test]
    fn the_work_of_others_is_theirs() {
        assert_eq!(given(&[batch(2, 1, 100, &[(0, 5)])]), None);
        assert_eq!(given(&[]), None);
    }

    #[test]
    fn only_jobs_with_own_receipts_are_reckoned_and_only_once_a_change() {
        let me = Key::of_secret(&[1; 32]).id();
        let mut giving = Giving::default();
        let job = JobId([9; 32]);
        let news = Action::Tell(News::Reopened { job, index: 0 });
        assert!(!giving.note(me, &news), "nothing here is ours");
        assert!(!giving.note(me, &Action::Keep(batch(2, 1, 1, &[(0, 5)]))));
        assert!(giving.note(me, &Action::Keep(batch(1, 1, 1, &[(0, 5)]))));
        assert!(!giving.note(me, &news), "that is noted already");
        giving.note(me, &Action::Clear(job));
        assert!(giving.changed.is_empty() && giving.mine.is_empty());
    }

    #[test]
    fn sums_are_shown_by_day_or_by_submitter() {
        let now = Time(1_800_000_000_000);
        let row = |days: i64, submitter: u8, units: i64| {
            let day = today(now).saturating_sub(jiff::Span::new().days(days));
            Row { day, submitter: PeerId([submitter; 32]), sum: Sum { units, spent_ms: units } }
        };
        let rows = [row(2, 1, 10), row(0, 0, -1), row(0, 1, 5)];
        let units = |by| -> Vec<i64> {
            let parts = info(PeerId([3; 32]), &rows, now, by).parts;
            parts.iter().map(|part| part.given.units).collect()
        };
        assert_eq!(units(Some(GivenBy::Day)), [10, 4]);
        assert_eq!(units(Some(GivenBy::Submitter)), [-1, 15]);
        assert_eq!(units(None), [0; 0]);
        let sums = info(PeerId([3; 32]), &rows, now, None);
        assert_eq!((sums.today.units, sums.ever.units), (4, 14));
    }

    #[test]
    fn bytes_go_through_hexadecimal_and_nonsense_does_not() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(unhex(&hex(&bytes)), Some(bytes));
        for bad in ["a", "zz", "é", "+1"] {
            assert_eq!(unhex(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_no_export_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("given.json");
        let check = |text: &str| {
            std::fs::write(&path, text).unwrap();
            check_given(&path, 0).unwrap_err()
        };
        assert!(check("{}").contains("no record of giving"));
        let head = r#"{"format":"potluck given 2","donor":"x","ever":{"units":0,"spent_ms":0}"#;
        let head = format!("{head},\"parts\":[],\"jobs\":[]}}");
        assert!(check(&head).contains("`potluck given 2`"));
        assert!(check(&head.replace("given 2", "given 1")).contains("names no donor"));
    }
}
