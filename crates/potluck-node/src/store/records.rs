//! The database: records in the order they were kept, small bodies and notes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use potluck_unit::{ResultHash, Signed};
use redb::{
    Builder, Database, Durability, ReadableDatabase as _, ReadableTable as _, StorageBackend,
    TableDefinition, WriteTransaction,
};

use super::quota::Quota;
use super::{Change, Note, OpenError, Store, StoreError, giving};

/// The open database.
#[derive(Debug)]
pub(crate) struct Records {
    path: PathBuf,
    /// Gone after a disk error, which the library does not go on after; opened again by the next
    /// who asks.
    database: RwLock<Option<Database>>,
    quota: Arc<Quota>,
}

impl Records {
    pub(crate) fn open(data: &Path, quota: Arc<Quota>) -> Result<Records, OpenError> {
        let path = data.join("store.redb");
        let prepare = || -> Result<(Database, u64), redb::Error> {
            let mut database = open(&path, &quota)?;
            let format = stamp(&database)?;
            if format == FORMAT {
                compact(&mut database, &path)?;
            }
            Ok((database, format))
        };
        let (database, format) =
            prepare().map_err(|error| OpenError::Store(plain(&path, "open", error)))?;
        if format > FORMAT {
            return Err(OpenError::Newer(data.to_owned(), format));
        }
        Ok(Records { path, database: RwLock::new(Some(database)), quota })
    }

    pub(crate) fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        changes.iter().try_for_each(check)?;
        if changes.is_empty() {
            return Ok(());
        }
        self.with("write", |database| {
            let mut transaction = database.begin_write()?;
            transaction.set_durability(Durability::Immediate)?;
            apply(&transaction, changes)?;
            Ok(transaction.commit()?)
        })
    }

    pub(crate) fn records(&self) -> Result<Vec<Arc<[u8]>>, StoreError> {
        self.with("read", |database| {
            let table = database.begin_read()?.open_table(RECORDS)?;
            table.iter()?.map(|entry| Ok(Arc::from(entry?.1.value()))).collect()
        })
    }

    pub(crate) fn notes(&self) -> Result<Vec<Note>, StoreError> {
        self.with("read", |database| {
            let table = database.begin_read()?.open_table(NOTES)?;
            let entries = table.iter()?.map(|entry| {
                let (key, value) = entry?;
                Ok((key.value().to_vec(), value.value().to_vec()))
            });
            entries.collect()
        })
    }

    /// R of every body, by rising R.
    pub(crate) fn results(&self) -> Result<Vec<ResultHash>, StoreError> {
        self.with("read", |database| {
            let table = database.begin_read()?.open_table(BODIES)?;
            table.iter()?.map(|entry| Ok(ResultHash(entry?.0.value()))).collect()
        })
    }

    /// R and length of every body, by rising R.
    pub(crate) fn bodies(&self) -> Result<Vec<(ResultHash, u64)>, StoreError> {
        self.with("read", |database| {
            let table = database.begin_read()?.open_table(BODIES)?;
            let entries = table.iter()?.map(|entry| {
                let (result, bytes) = entry?;
                Ok((ResultHash(result.value()), bytes.value().len() as u64))
            });
            entries.collect()
        })
    }

    /// The body with this R, if there is one. A database that can't be read has none.
    pub(crate) fn body(&self, result: &ResultHash) -> Option<Vec<u8>> {
        let read = self.with("read", |database| {
            let table = database.begin_read()?.open_table(BODIES)?;
            Ok(table.get(result.0)?.map(|bytes| bytes.value().to_vec()))
        });
        read.unwrap_or_else(|error| {
            tracing::warn!(%error, "a body can't be read");
            None
        })
    }

    /// The length of the database file.
    pub(crate) fn bytes(&self) -> u64 {
        std::fs::metadata(&self.path).map_or(0, |file| file.len())
    }

    /// Gives back what the database file takes and does not use, if it is worth it.
    pub(crate) fn compact(&self) -> Result<(), StoreError> {
        let mut open = self.database.write().unwrap_or_else(PoisonError::into_inner);
        let Some(database) = open.as_mut() else { return Ok(()) };
        let compacted = compact(database, &self.path);
        if matches!(compacted, Err(redb::Error::Io(_) | redb::Error::PreviousIo)) {
            *open = None;
        }
        compacted.map_err(|error| plain(&self.path, "write", error))
    }

    /// Does something with the database, opening it again if a disk error has closed it.
    pub(super) fn with<T>(
        &self,
        verb: &'static str,
        act: impl Fn(&Database) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let done = {
            let open = self.database.read().unwrap_or_else(PoisonError::into_inner);
            open.as_ref().map(&act)
        };
        let done = match done {
            Some(done) => done,
            None => self.reopen().and_then(|()| {
                let open = self.database.read().unwrap_or_else(PoisonError::into_inner);
                open.as_ref().map_or(Err(redb::Error::PreviousIo), &act)
            }),
        };
        done.map_err(|error| {
            if matches!(error, redb::Error::Io(_) | redb::Error::PreviousIo) {
                *self.database.write().unwrap_or_else(PoisonError::into_inner) = None;
            }
            plain(&self.path, verb, error)
        })
    }

    fn reopen(&self) -> Result<(), redb::Error> {
        let mut closed = self.database.write().unwrap_or_else(PoisonError::into_inner);
        if closed.is_none() {
            *closed = Some(open(&self.path, &self.quota)?);
        }
        Ok(())
    }
}

fn open(path: &Path, quota: &Arc<Quota>) -> Result<Database, redb::Error> {
    let backend = Bounded::open(path, quota.clone())?;
    Ok(Builder::new().set_cache_size(CACHE_BYTES).create_with_backend(backend)?)
}

/// Makes the file shorter if more than half of it is free, and it is more than a little.
fn compact(database: &mut Database, path: &Path) -> Result<(), redb::Error> {
    let length = std::fs::metadata(path).map_or(0, |file| file.len());
    if length <= LOOSE_MIN_BYTES {
        return Ok(());
    }
    let transaction = database.begin_write()?;
    let stats = transaction.stats()?;
    transaction.abort()?;
    let taken = stats.allocated_pages().saturating_mul(stats.page_size() as u64);
    if taken < length / 2 {
        database.compact()?;
    }
    Ok(())
}

/// The database's file, within what the disk's account allows. Nobody else has it open: the folder
/// is locked.
#[derive(Debug)]
struct Bounded {
    file: File,
    quota: Arc<Quota>,
}

impl Bounded {
    fn open(path: &Path, quota: Arc<Quota>) -> io::Result<Bounded> {
        let mut options = File::options();
        let file = options.read(true).write(true).create(true).truncate(false).open(path)?;
        quota.set_database(file.metadata()?.len());
        Ok(Bounded { file, quota })
    }
}

impl StorageBackend for Bounded {
    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(out, offset)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let before = self.file.metadata()?.len();
        let full =
            |error: StoreError| io::Error::new(io::ErrorKind::QuotaExceeded, error.to_string());
        self.quota.grow_database(length).map_err(full)?;
        let set = self.file.set_len(length);
        if set.is_err() {
            self.quota.set_database(before);
        }
        set
    }

    fn sync_data(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }
}

/// Reads the format of the database, or makes an empty one this version's.
fn stamp(database: &Database) -> Result<u64, redb::Error> {
    let transaction = database.begin_write()?;
    let format = {
        let mut facts = transaction.open_table(FACTS)?;
        let format = facts.get("format")?.map(|format| format.value());
        match format {
            Some(format) => format,
            None => {
                facts.insert("format", FORMAT)?;
                FORMAT
            }
        }
    };
    if format == FORMAT {
        // So that reading never meets a table that is not there.
        transaction.open_table(RECORDS)?;
        transaction.open_table(PLACES)?;
        transaction.open_table(BODIES)?;
        transaction.open_table(NOTES)?;
        transaction.open_table(giving::JOBS)?;
        transaction.open_table(giving::PROOFS)?;
        transaction.open_table(giving::DAYS)?;
        transaction.commit()?;
    } else {
        transaction.abort()?;
    }
    Ok(format)
}

fn check(change: &Change) -> Result<(), StoreError> {
    let (what, bytes, bytes_max) = match change {
        Change::Keep { bytes, .. } => ("a record", bytes.len(), Signed::BYTES_MAX),
        Change::Body { bytes, .. } => ("a body", bytes.len(), Store::BODY_BYTES_MAX),
        Change::Note { key, .. } if key.len() > Store::NOTE_KEY_BYTES_MAX => {
            ("the name of a note", key.len(), Store::NOTE_KEY_BYTES_MAX)
        }
        Change::Note { value, .. } => ("a note", value.len(), Store::NOTE_BYTES_MAX),
        Change::Forget { .. } | Change::ForgetBody { .. } => return Ok(()),
    };
    if bytes > bytes_max {
        return Err(StoreError::TooLong { what, bytes, bytes_max });
    }
    Ok(())
}

fn apply(transaction: &WriteTransaction, changes: &[Change]) -> Result<(), redb::Error> {
    let mut records = transaction.open_table(RECORDS)?;
    let mut places = transaction.open_table(PLACES)?;
    let mut bodies = transaction.open_table(BODIES)?;
    let mut notes = transaction.open_table(NOTES)?;
    let mut next = records.last()?.map_or(0, |(place, _)| place.value() + 1);
    for change in changes {
        match change {
            Change::Keep { id, bytes } => {
                if places.get(id.0)?.is_none() {
                    places.insert(id.0, next)?;
                    records.insert(next, bytes.as_ref())?;
                    next += 1;
                }
            }
            Change::Forget { id } => {
                let place = places.remove(id.0)?.map(|place| place.value());
                if let Some(place) = place {
                    records.remove(place)?;
                }
            }
            Change::Body { result, bytes } => {
                bodies.insert(result.0, bytes.as_slice())?;
            }
            Change::ForgetBody { result } => {
                bodies.remove(result.0)?;
            }
            Change::Note { key, value } if value.is_empty() => {
                notes.remove(key.as_slice())?;
            }
            Change::Note { key, value } => {
                notes.insert(key.as_slice(), value.as_slice())?;
            }
        }
    }
    Ok(())
}

fn plain(path: &Path, verb: &'static str, error: redb::Error) -> StoreError {
    if let redb::Error::Io(error) = error {
        return StoreError::disk(verb, path)(error);
    }
    if matches!(error, redb::Error::PreviousIo) {
        return StoreError::disk(verb, path)(io::Error::other("the disk has failed before"));
    }
    // Whatever else it is, there is nothing to branch on: a person has to look.
    StoreError::Database(path.to_owned(), error.to_string())
}

/// The layout of the tables below. A change that older versions can't read gets another number.
const FORMAT: u64 = 1;

/// What the library may keep in memory. Records are read once, at start; bodies now and then.
const CACHE_BYTES: usize = 16 << 20;
/// A file no longer than this is not worth making shorter.
const LOOSE_MIN_BYTES: u64 = 8 << 20;

const FACTS: TableDefinition<&str, u64> = TableDefinition::new("facts");
/// Records by the order in which they were kept.
const RECORDS: TableDefinition<u64, &[u8]> = TableDefinition::new("records");
/// Where in that order a record is.
const PLACES: TableDefinition<[u8; 32], u64> = TableDefinition::new("places");
const BODIES: TableDefinition<[u8; 16], &[u8]> = TableDefinition::new("bodies");
const NOTES: TableDefinition<&[u8], &[u8]> = TableDefinition::new("notes");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_a_newer_version_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        drop(Records::open(folder.path(), Quota::new()).unwrap());
        let path = folder.path().join("store.redb");
        let database = open(&path, &Quota::new()).unwrap();
        let transaction = database.begin_write().unwrap();
        transaction.open_table(FACTS).unwrap().insert("format", FORMAT + 1).unwrap();
        transaction.commit().unwrap();
        drop(database);
        for _ in 0..2 {
            let error = Records::open(folder.path(), Quota::new()).unwrap_err().to_string();
            assert!(error.contains("newer potluck (format 2)"), "{error}");
        }
    }

    #[test]
    fn the_database_is_opened_again_after_a_disk_error() {
        let folder = tempfile::tempdir().unwrap();
        let records = Records::open(folder.path(), Quota::new()).unwrap();
        let note = Change::Note { key: b"a".to_vec(), value: b"b".to_vec() };
        records.commit(std::slice::from_ref(&note)).unwrap();
        let failed = records.with("write", |_| -> Result<(), _> {
            Err(redb::Error::Io(io::Error::from_raw_os_error(libc::ENOSPC)))
        });
        assert!(failed.unwrap_err().to_string().ends_with("no space left on device"));
        assert!(records.database.read().unwrap().is_none());
        assert_eq!(records.notes().unwrap().len(), 1);
        records.commit(&[note]).unwrap();
    }
}
