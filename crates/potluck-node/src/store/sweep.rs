//! Sweeping: dropping what no job names any more.

use std::collections::BTreeSet;
use std::time::Duration;

use potluck_unit::{BlobId, ResultHash};

use super::{Change, Store, StoreError};

/// What the jobs that are still known name. Everything else on the disk may go.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Needed {
    /// Modules, input indices and input pages.
    pub(crate) blobs: BTreeSet<BlobId>,
    /// Outcomes by R.
    pub(crate) results: BTreeSet<ResultHash>,
}

impl Needed {
    fn has(&self, id: &BlobId) -> bool {
        self.blobs.contains(id) || self.results.contains(&id.result_hash())
    }
}

impl Store {
    /// Files younger than this are left alone: their job may be about to be posted, or their receipt
    /// about to be signed.
    pub(crate) const SWEEP_AGE: Duration = Duration::from_secs(3600);

    /// Drops blobs and bodies that are not `needed`, files only if they are older than `age`.
    /// Answers how many were dropped. Blocks for long on a large store.
    ///
    /// # Errors
    /// If the disk fails; then only part of it was dropped.
    pub(crate) fn sweep(&self, needed: &Needed, age: Duration) -> Result<usize, StoreError> {
        let results = self.0.records.results()?;
        let gone: Vec<Change> = (results.into_iter())
            .filter(|result| !needed.results.contains(result))
            .map(|result| Change::ForgetBody { result })
            .collect();
        self.commit(&gone)?;
        let swept = gone.len() + self.0.files.sweep(age, |id| needed.has(id))?;
        self.0.records.compact()?;
        Ok(swept)
    }

    /// Makes room for a file of so many bytes by dropping what is not `needed`, what was written
    /// first before the rest, and no more than it takes. Whether there is room. Blocks for long on a
    /// large store.
    ///
    /// # Errors
    /// If the disk fails; then only part of it was dropped.
    pub(crate) fn make_room(&self, bytes: u64, needed: &Needed) -> Result<bool, StoreError> {
        let quota = &self.0.quota;
        quota.count_others(&self.0.data);
        self.0.files.sweep_until(|id| needed.has(id), || quota.has_room(bytes))?;
        if !quota.has_room(bytes) {
            self.0.records.compact()?;
        }
        Ok(quota.has_room(bytes))
    }
}
