//! The record of giving on disk: what came of this node's own work by day and submitter, and for
//! each job the signed records that show it.
//!
//! Sums are kept for ever, in bounded space: days that are long past are put together by month, and
//! on a day with very many submitters the last of them are put together as nobody. Signed records
//! are kept up to a bound, the oldest jobs' are dropped first; the sums stay.

use std::collections::BTreeMap;
use std::ops::AddAssign;

use jiff::ToSpan as _;
use jiff::civil::{Date, date};
use potluck_unit::{JobId, PeerId, RecordId, Time};
use redb::{
    ReadableDatabase as _, ReadableTable as _, ReadableTableMetadata as _, TableDefinition,
    WriteTransaction,
};

use super::{Store, StoreError};

/// Work that was found right.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Sum {
    /// Units. On a day on which results were taken back it may be below zero.
    pub(crate) units: i64,
    /// How long they took, as it was signed, in milliseconds.
    pub(crate) spent_ms: i64,
}

/// What a job came to so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) job: JobId,
    pub(crate) submitter: PeerId,
    pub(crate) sum: Sum,
    /// The job's own record, this node's receipts and those of others about the same units.
    pub(crate) records: Vec<(RecordId, Vec<u8>)>,
}

/// The sums of one day, or of a month that is long past, and one submitter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Row {
    /// The day, or the first of the month.
    pub(crate) day: Date,
    /// Who asked for the work; [`NOBODY`] for many.
    pub(crate) submitter: PeerId,
    /// What it came to.
    pub(crate) sum: Sum,
}

/// Stands for submitters that are not counted one by one.
pub(crate) const NOBODY: PeerId = PeerId([0; 32]);

impl AddAssign for Sum {
    fn add_assign(&mut self, other: Sum) {
        self.units = self.units.saturating_add(other.units);
        self.spent_ms = self.spent_ms.saturating_add(other.spent_ms);
    }
}

impl Store {
    /// Bytes of signed records that are kept to show what was given: some ten thousand units of jobs
    /// with two copies a MiB.
    pub(crate) const GIVEN_BYTES_MAX: u64 = 64 << 20;
    /// Submitters that are counted one by one on one day.
    pub(crate) const GIVEN_SUBMITTERS_MAX: usize = 1000;
    /// Days that are counted one by one; months that ended earlier are put together.
    pub(crate) const GIVEN_DAYS_MAX: u16 = 400;

    /// Notes what jobs have come to by now. What is more or less than was noted before is put down
    /// to `today`, so that noting the same twice changes nothing.
    ///
    /// # Errors
    /// If the disk fails; then nothing has changed.
    pub(crate) fn give(&self, now: Time, today: Date, shares: &[Share]) -> Result<(), StoreError> {
        self.give_within(now, today, shares, Store::GIVEN_BYTES_MAX)
    }

    fn give_within(
        &self,
        now: Time,
        today: Date,
        shares: &[Share],
        bytes_max: u64,
    ) -> Result<(), StoreError> {
        self.0.records.with("write", |database| {
            let transaction = database.begin_write()?;
            for share in shares {
                note(&transaction, now, today, share)?;
            }
            put_together(&transaction, today)?;
            drop_oldest(&transaction, bytes_max)?;
            Ok(transaction.commit()?)
        })
    }

    /// All sums, by rising day.
    ///
    /// # Errors
    /// If the disk can't be read.
    pub(crate) fn given(&self) -> Result<Vec<Row>, StoreError> {
        self.0.records.with("read", |database| {
            let table = database.begin_read()?.open_table(DAYS)?;
            let rows = table.iter()?.map(|entry| {
                let (key, value) = entry?;
                let ((day, submitter), (units, spent_ms)) = (key.value(), value.value());
                let (submitter, sum) = (PeerId(submitter), Sum { units, spent_ms });
                Ok(Row { day: date_of(day), submitter, sum })
            });
            rows.collect()
        })
    }

    /// The jobs whose signed records are still here, oldest first.
    ///
    /// # Errors
    /// If the disk can't be read.
    pub(crate) fn given_jobs(&self) -> Result<Vec<JobId>, StoreError> {
        self.0.records.with("read", |database| {
            let table = database.begin_read()?.open_table(JOBS)?;
            let mut jobs: Vec<(u64, JobId)> = Vec::new();
            for entry in table.iter()? {
                let (job, given) = entry?;
                let (_, since, _, bytes) = given.value();
                jobs.extend((bytes > 0).then(|| (since, JobId(job.value()))));
            }
            jobs.sort_unstable();
            Ok(jobs.into_iter().map(|(_, job)| job).collect())
        })
    }

    /// A job with its signed records; none if they are no longer here.
    ///
    /// # Errors
    /// If the disk can't be read.
    pub(crate) fn given_job(&self, job: &JobId) -> Result<Option<Share>, StoreError> {
        self.0.records.with("read", |database| {
            let transaction = database.begin_read()?;
            let jobs = transaction.open_table(JOBS)?;
            let Some(given) = jobs.get(job.0)?.map(|given| given.value()) else { return Ok(None) };
            let (submitter, _, (units, spent_ms), bytes) = given;
            if bytes == 0 {
                return Ok(None);
            }
            let table = transaction.open_table(PROOFS)?;
            let mut records = Vec::new();
            for entry in table.range((job.0, [0; 32])..=(job.0, [0xff; 32]))? {
                let (key, value) = entry?;
                records.push((RecordId(key.value().1), value.value().to_vec()));
            }
            let sum = Sum { units, spent_ms };
            Ok(Some(Share { job: *job, submitter: PeerId(submitter), sum, records }))
        })
    }
}

fn note(
    transaction: &WriteTransaction,
    now: Time,
    today: Date,
    share: &Share,
) -> Result<(), redb::Error> {
    let mut jobs = transaction.open_table(JOBS)?;
    let known = jobs.get(share.job.0)?.map(|given| given.value());
    if known.is_none() && share.sum == Sum::default() {
        return Ok(());
    }
    let (_, since, (units, spent_ms), mut bytes) =
        known.unwrap_or((share.submitter.0, now.0, (0, 0), 0));
    // Records that were dropped to keep the bound do not come back.
    if known.is_none() || bytes > 0 {
        let mut proofs = transaction.open_table(PROOFS)?;
        for (id, record) in &share.records {
            let key = (share.job.0, id.0);
            if proofs.get(key)?.is_none() {
                proofs.insert(key, record.as_slice())?;
                bytes += record.len() as u64;
            }
        }
    }
    let Sum { units: all, spent_ms: spent } = share.sum;
    jobs.insert(share.job.0, (share.submitter.0, since, (all, spent), bytes))?;
    let more = Sum { units: all - units, spent_ms: spent - spent_ms };
    if more == Sum::default() {
        return Ok(());
    }
    let mut days = transaction.open_table(DAYS)?;
    let day = number_of(today);
    let mut key = (day, share.submitter.0);
    if days.get(key)?.is_none() {
        let others = days.range((day, [0; 32])..=(day, [0xff; 32]))?.count();
        if others >= Store::GIVEN_SUBMITTERS_MAX {
            key = (day, NOBODY.0);
        }
    }
    add(&mut days, key, more)
}

fn add(days: &mut Days<'_>, key: (i32, [u8; 32]), more: Sum) -> Result<(), redb::Error> {
    let (units, spent_ms) = days.get(key)?.map(|sum| sum.value()).unwrap_or_default();
    let mut sum = Sum { units, spent_ms };
    sum += more;
    days.insert(key, (sum.units, sum.spent_ms))?;
    Ok(())
}

/// Puts the days of months that ended long ago together.
fn put_together(transaction: &WriteTransaction, today: Date) -> Result<(), redb::Error> {
    let oldest = today.saturating_sub(i64::from(Store::GIVEN_DAYS_MAX).days()).first_of_month();
    let mut days = transaction.open_table(DAYS)?;
    let mut months: BTreeMap<(i32, [u8; 32]), Sum> = BTreeMap::new();
    let mut past = Vec::new();
    for entry in days.range(..(number_of(oldest), [0; 32]))? {
        let (key, sum) = entry?;
        let ((day, submitter), (units, spent_ms)) = (key.value(), sum.value());
        let month = number_of(date_of(day).first_of_month());
        if day != month {
            *months.entry((month, submitter)).or_default() += Sum { units, spent_ms };
            past.push((day, submitter));
        }
    }
    for key in past {
        days.remove(key)?;
    }
    for (key, sum) in months {
        add(&mut days, key, sum)?;
    }
    Ok(())
}

/// Drops the signed records of the oldest jobs until the rest is within the bound, and forgets the
/// oldest jobs of too many.
fn drop_oldest(transaction: &WriteTransaction, bytes_max: u64) -> Result<(), redb::Error> {
    let mut jobs = transaction.open_table(JOBS)?;
    let mut all: Vec<(u64, [u8; 32], u64)> = Vec::new();
    for entry in jobs.iter()? {
        let (job, given) = entry?;
        let (_, since, _, bytes) = given.value();
        all.push((since, job.value(), bytes));
    }
    all.sort_unstable();
    let mut bytes: u64 = all.iter().map(|(_, _, bytes)| bytes).sum();
    let surplus = all.len().saturating_sub(JOBS_MAX);
    let mut proofs = transaction.open_table(PROOFS)?;
    for (at, (_, job, of_job)) in all.iter().enumerate() {
        if bytes <= bytes_max && at >= surplus {
            break;
        }
        if *of_job > 0 {
            bytes -= of_job;
            proofs.retain_in((*job, [0; 32])..=(*job, [0xff; 32]), |_, _| false)?;
        }
        let given = jobs.remove(job)?.map(|given| given.value());
        if let Some((submitter, since, sum, _)) = given.filter(|_| at >= surplus) {
            jobs.insert(job, (submitter, since, sum, 0))?;
        }
    }
    debug_assert!(jobs.len()? <= JOBS_MAX as u64, "the surplus is forgotten");
    Ok(())
}

/// Days since 1970.
fn number_of(day: Date) -> i32 {
    day.since(EPOCH).map_or(0, |span| span.get_days())
}

fn date_of(day: i32) -> Date {
    EPOCH.saturating_add(i64::from(day.clamp(-DAYS_MAX, DAYS_MAX)).days())
}

const EPOCH: Date = date(1970, 1, 1);
/// Days either side of 1970 that a calendar is asked for.
const DAYS_MAX: i32 = 2_900_000;
/// Jobs remembered. One that is noted again after it was forgotten counts twice, so these are many
/// more than a node holds at once.
const JOBS_MAX: usize = 20_000;

type Days<'a> = redb::Table<'a, (i32, [u8; 32]), (i64, i64)>;
/// Submitter, since when, units and milliseconds, bytes of records (0 once they are dropped).
type Given = ([u8; 32], u64, (i64, i64), u64);
/// What each job came to.
pub(super) const JOBS: TableDefinition<'_, [u8; 32], Given> = TableDefinition::new("given jobs");
/// The records that show it, by job.
pub(super) const PROOFS: TableDefinition<'_, ([u8; 32], [u8; 32]), &[u8]> =
    TableDefinition::new("given proofs");
/// Sums by day, or by month, and submitter.
pub(super) const DAYS: TableDefinition<'_, (i32, [u8; 32]), (i64, i64)> =
    TableDefinition::new("given days");

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Time = Time(1_800_000_000_000);
    const TODAY: Date = date(2027, 1, 15);

    fn share(job: u8, submitter: u8, units: i64) -> Share {
        Share {
            job: JobId([job; 32]),
            submitter: PeerId([submitter; 32]),
            sum: Sum { units, spent_ms: units * 10 },
            records: vec![(RecordId([job; 32]), vec![job; 100])],
        }
    }

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = Store::open(folder.path()).unwrap();
        (folder, store)
    }

    fn row(day: Date, submitter: u8, units: i64) -> Row {
        let sum = Sum { units, spent_ms: units * 10 };
        Row { day, submitter: PeerId([submitter; 32]), sum }
    }

    #[test]
    fn noting_the_same_twice_changes_nothing() {
        let (_folder, store) = store();
        for _ in 0..2 {
            let shares = [share(1, 7, 64), share(2, 7, 6), share(3, 8, 5), share(4, 8, 0)];
            store.give(NOW, TODAY, &shares).unwrap();
        }
        assert_eq!(store.given().unwrap(), [row(TODAY, 7, 70), row(TODAY, 8, 5)]);
        assert_eq!(store.given_job(&JobId([1; 32])).unwrap(), Some(share(1, 7, 64)));
        assert_eq!(store.given_jobs().unwrap().len(), 3);
    }

    #[test]
    fn what_is_taken_back_is_taken_off_the_day_on_which_that_happens() {
        let (_folder, store) = store();
        store.give(NOW, TODAY, &[share(1, 7, 64)]).unwrap();
        let tomorrow = TODAY.tomorrow().unwrap();
        store.give(NOW, tomorrow, &[share(1, 7, 60)]).unwrap();
        assert_eq!(store.given().unwrap(), [row(TODAY, 7, 64), row(tomorrow, 7, -4)]);
    }

    #[test]
    fn the_oldest_jobs_lose_their_records_and_keep_their_sums() {
        let (_folder, store) = store();
        let give = |job: u8, bytes_max| {
            let at = NOW.plus_ms(u64::from(job));
            store.give_within(at, TODAY, &[share(job, 7, 1)], bytes_max).unwrap();
        };
        (1..=3).for_each(|job| give(job, 300));
        assert_eq!(store.given_jobs().unwrap(), [1, 2, 3].map(|job| JobId([job; 32])));
        give(4, 300);
        assert_eq!(store.given_jobs().unwrap(), [2, 3, 4].map(|job| JobId([job; 32])));
        assert_eq!(store.given_job(&JobId([1; 32])).unwrap(), None);
        // It still counts once, and its records do not come back.
        give(1, 300);
        assert_eq!(store.given().unwrap(), [row(TODAY, 7, 4)]);
        assert_eq!(store.given_jobs().unwrap().len(), 3);
    }

    #[test]
    fn months_that_are_long_past_are_put_together() {
        let (_folder, store) = store();
        let (first, second) = (date(2025, 12, 10), date(2025, 12, 20));
        store.give(NOW, first, &[share(1, 7, 1)]).unwrap();
        store.give(NOW, second, &[share(2, 7, 2), share(3, 8, 4)]).unwrap();
        // 400 days after the first of January all of December is past.
        let last = date(2026, 1, 1).saturating_add(399.days());
        store.give(NOW, last, &[]).unwrap();
        assert_eq!(store.given().unwrap().len(), 3);
        for _ in 0..2 {
            store.give(NOW, last.tomorrow().unwrap(), &[]).unwrap();
            let month = date(2025, 12, 1);
            assert_eq!(store.given().unwrap(), [row(month, 7, 3), row(month, 8, 4)]);
        }
    }

    fn numbered(n: usize) -> Share {
        let (mut id, mut share) = ([1; 32], share(1, 7, 1));
        id[..8].copy_from_slice(&(n as u64).to_be_bytes());
        (share.job, share.submitter) = (JobId(id), PeerId(id));
        share
    }

    #[test]
    fn one_submitter_too_many_on_a_day_is_nobody() {
        let (_folder, store) = store();
        let shares: Vec<Share> = (0..Store::GIVEN_SUBMITTERS_MAX + 2).map(numbered).collect();
        store.give(NOW, TODAY, &shares).unwrap();
        let rows = store.given().unwrap();
        assert_eq!(rows.len(), Store::GIVEN_SUBMITTERS_MAX + 1);
        assert_eq!(rows[0], Row { submitter: NOBODY, ..row(TODAY, 0, 2) });
    }

    #[test]
    fn one_job_too_many_is_forgotten_with_its_records() {
        let (_folder, store) = store();
        let one = |n| Share { submitter: PeerId([7; 32]), ..numbered(n) };
        let shares: Vec<Share> = (0..=JOBS_MAX).map(one).collect();
        store.give(NOW, TODAY, &shares).unwrap();
        assert_eq!(store.given_jobs().unwrap().len(), JOBS_MAX);
        assert_eq!(store.given_job(&numbered(0).job).unwrap(), None);
    }
}
