//! What a node keeps on disk: records, small results and notes in a database, blobs in files, and
//! its key. What was acknowledged survives a `kill -9` and a power cut; what was not leaves nothing
//! half written.
//!
//! One running node per data folder, guarded by a lock on `DATA/lock`. Everything here blocks: on
//! a runtime thread, only [`Store::has`] is cheap enough.

mod error;
mod quota;
mod files;
mod sweep;
mod key;
mod records;
mod giving;
mod traffic;
#[cfg(test)]
mod tests;

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use potluck_unit::{BlobId, Key, ReceiptBatch, RecordId, ResultHash};

use crate::net::{BlobSource, Wanted};
pub(crate) use error::{OpenError, StoreError};
use files::Files;
pub(crate) use giving::{NOBODY, Row, Share, Sum};
#[cfg_attr(not(test), expect(unused_imports, reason = "who reads keys elsewhere comes later"))]
pub(crate) use key::read_key;
pub(crate) use key::{KeyError, read_or_create_key};
use quota::Quota;
pub(crate) use quota::Room;
use records::Records;
pub(crate) use sweep::Needed;

/// An open data folder. Clones share it; the folder is free again when the last is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Store(Arc<Folder>);

#[derive(Debug)]
struct Folder {
    data: PathBuf,
    records: Records,
    files: Files,
    quota: Arc<Quota>,
    /// Dropped last: nobody else may open the database before it is closed.
    _lock: File,
}

/// One change to what is kept in the database.
#[derive(Debug, Clone)]
pub(crate) enum Change {
    /// Keeps a record, unless it is kept already.
    Keep {
        /// Its id.
        id: RecordId,
        /// The whole record, at most `Signed::BYTES_MAX` bytes.
        bytes: Arc<[u8]>,
    },
    /// Drops a record, if it is kept.
    Forget {
        /// Its id.
        id: RecordId,
    },
    /// Keeps the body of an outcome, at most [`Store::BODY_BYTES_MAX`] bytes. Larger ones are for
    /// [`Store::put_blob`].
    Body {
        /// R.
        result: ResultHash,
        /// The body.
        bytes: Vec<u8>,
    },
    /// Drops the body of an outcome from the database, if it is there.
    ForgetBody {
        /// R.
        result: ResultHash,
    },
    /// Sets a small local fact, such as a conviction or an entry of the address book. An empty
    /// value drops it.
    Note {
        /// Its name, at most [`Store::NOTE_KEY_BYTES_MAX`] bytes, unique in the whole store.
        key: Vec<u8>,
        /// At most [`Store::NOTE_BYTES_MAX`] bytes.
        value: Vec<u8>,
    },
}

/// How the disk stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Disk {
    /// What everything below the data folder takes, in bytes of whole blocks.
    pub(crate) used: u64,
    /// Why nothing more is taken in, as a sentence, if nothing is.
    pub(crate) full: Option<String>,
}

/// A note's name and its value.
pub(crate) type Note = (Vec<u8>, Vec<u8>);

impl Store {
    /// Bytes of a body that is kept in the database: below this a file of its own costs more.
    pub(crate) const BODY_BYTES_MAX: usize = 4 << 10;
    /// Bytes of a note's name.
    pub(crate) const NOTE_KEY_BYTES_MAX: usize = 256;
    /// Bytes of a note.
    pub(crate) const NOTE_BYTES_MAX: usize = 64 << 10;
    /// Bytes of artefacts, however much disk is lent.
    const ARTEFACTS_MAX_BYTES: u64 = 2 << 30;
    /// With less room than this for blobs the disk counts as full: a module and some pages of input.
    const FULL_BELOW_BYTES: u64 = 1 << 20;

    /// Opens the data folder, creating what is missing, and reads or creates its key.
    ///
    /// # Errors
    /// If it is in use, was written by a newer version, is damaged or can't be used. At most empty
    /// files have been created then.
    pub(crate) fn open(data: &Path) -> Result<(Store, Key), OpenError> {
        let unusable = |error| OpenError::Folder(data.to_owned(), error);
        DirBuilder::new().recursive(true).mode(0o700).create(data).map_err(unusable)?;
        let lock = lock(data)?;
        let key = read_or_create_key(&data.join("key")).map_err(OpenError::Key)?;
        let quota = Quota::new();
        let records = Records::open(data, quota.clone())?;
        let files = Files::open(data.join("blobs"), quota.clone()).map_err(OpenError::Store)?;
        quota.count_others(data);
        let data = data.to_owned();
        Ok((Store(Arc::new(Folder { data, records, files, quota, _lock: lock })), key))
    }

    /// Keeps everything below the data folder within so many bytes from now on. What is above stays,
    /// but nothing is added to it. Of it, [`Store::artefacts_part`] is for compiled modules, which
    /// the sandbox keeps.
    pub(crate) fn set_disk_max(&self, bytes: u64) {
        self.0.quota.set_max(bytes - Store::artefacts_part(bytes));
    }

    /// What artefacts may take of a cap on the disk: a quarter, and no more than a few hundred large
    /// programs need. A guess.
    pub(crate) fn artefacts_part(disk_max_bytes: u64) -> u64 {
        (disk_max_bytes / 4).min(Store::ARTEFACTS_MAX_BYTES)
    }

    /// How the disk stands. `artefacts` is what compiled modules take.
    pub(crate) fn disk(&self, artefacts: u64) -> Disk {
        let quota = &self.0.quota;
        quota.count_others(&self.0.data);
        let full = if quota.is_out_of_space() {
            Some("the disk has no space left".to_owned())
        } else if quota.is_short() {
            Some("what is lent of the disk has no room for what was to be written".to_owned())
        } else {
            quota.reserve(Store::FULL_BELOW_BYTES).err().map(|error| error.to_string())
        };
        Disk { used: quota.used() + artefacts, full }
    }

    /// Holds room on the disk for so many bytes, for as long as the answer is kept.
    ///
    /// # Errors
    /// [`StoreError::Full`] if there is none. Nothing has changed.
    pub(crate) fn reserve(&self, bytes: u64) -> Result<Room, StoreError> {
        self.0.quota.reserve(bytes)
    }

    /// For how many bytes somebody should make room: since the last answer so much was refused.
    /// Not more than a few times a minute.
    pub(crate) fn pressed(&self) -> Option<u64> {
        self.0.quota.pressed()
    }

    /// Carries out all changes, in order, or none of them. They are on disk when this returns.
    ///
    /// # Errors
    /// If something is too long or the disk fails; then nothing has changed, and a later commit may
    /// succeed, as after a full disk.
    pub(crate) fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        let committed = self.0.records.commit(changes);
        self.0.quota.note(&committed);
        committed
    }

    /// All records, in the order in which they were kept.
    ///
    /// # Errors
    /// If the database can't be read.
    pub(crate) fn records(&self) -> Result<Vec<Arc<[u8]>>, StoreError> {
        self.0.records.records()
    }

    /// All notes, by rising name.
    ///
    /// # Errors
    /// If the database can't be read.
    pub(crate) fn notes(&self) -> Result<Vec<Note>, StoreError> {
        self.0.records.notes()
    }

    /// R and length of everything that may be a body too large for a receipt: bodies in the database,
    /// and all files, since a file does not say what it is.
    ///
    /// # Errors
    /// If the disk can't be read.
    pub(crate) fn bodies(&self) -> Result<Vec<(ResultHash, u64)>, StoreError> {
        let mut bodies = self.0.records.bodies()?;
        bodies.retain(|(_, bytes)| *bytes > ReceiptBatch::BODY_BYTES_MAX as u64);
        bodies.extend(self.0.files.all()?);
        Ok(bodies)
    }

    /// How long the body with this R is, if it is here and too large for a receipt.
    pub(crate) fn body_bytes(&self, result: &ResultHash) -> Option<u64> {
        let small = self.0.records.body(result).map(|body| body.len() as u64);
        let bytes = small.or_else(|| self.0.files.bytes_of(result));
        bytes.filter(|bytes| *bytes > ReceiptBatch::BODY_BYTES_MAX as u64)
    }

    /// Drops the body with this R, wherever it is.
    ///
    /// # Errors
    /// If the disk fails; then some of it may be left.
    pub(crate) fn drop_body(&self, result: &ResultHash) -> Result<(), StoreError> {
        self.commit(&[Change::ForgetBody { result: *result }])?;
        self.0.files.remove(result)
    }

    /// Keeps a blob in a file of its own. It is on disk when this returns. Does nothing if it is
    /// there already.
    ///
    /// # Errors
    /// If the disk fails or is full; then nothing has changed.
    pub(crate) fn put_blob(&self, bytes: &[u8]) -> Result<BlobId, StoreError> {
        self.put_blob_in(bytes, None)
    }

    /// The same, in room that was reserved for it.
    ///
    /// # Errors
    /// As for [`Store::put_blob`].
    pub(crate) fn put_blob_in(
        &self,
        bytes: &[u8],
        room: Option<Room>,
    ) -> Result<BlobId, StoreError> {
        let put = self.0.files.put(bytes, room);
        self.0.quota.note(&put);
        put
    }

    /// What is wanted, if it is here and still what its id says. A damaged file is removed, so that
    /// the blob can be fetched again.
    pub(crate) fn read(&self, wanted: &Wanted) -> Option<Vec<u8>> {
        let small = self.0.records.body(&result_of(wanted));
        let small = small.filter(|bytes| wanted.is(&BlobId::of(bytes)));
        small.or_else(|| self.0.files.read(wanted))
    }

    /// Whether it seems to be here, without reading it.
    pub(crate) fn has(&self, wanted: &Wanted) -> bool {
        match wanted {
            Wanted::Blob(_) if self.0.files.has(wanted) => true,
            Wanted::Blob(_) => self.read(wanted).is_some(),
            Wanted::Body(result) => {
                self.0.records.body(result).is_some() || self.0.files.has(wanted)
            }
        }
    }

    /// Bytes of the database and of all blobs, as their files' lengths say.
    pub(crate) fn usage(&self) -> u64 {
        self.0.records.bytes() + self.0.files.bytes()
    }
}

impl BlobSource for Store {
    fn read(&self, wanted: &Wanted) -> Option<Vec<u8>> {
        Store::read(self, wanted)
    }
}

fn result_of(wanted: &Wanted) -> ResultHash {
    match wanted {
        Wanted::Blob(id) => id.result_hash(),
        Wanted::Body(result) => *result,
    }
}

/// Takes the folder for this process. The lock goes with the process, however it ends; the number
/// in the file only tells people who has it.
fn lock(data: &Path) -> Result<File, OpenError> {
    let unusable = |error| OpenError::Folder(data.to_owned(), error);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(data.join("lock")).map_err(unusable)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // Whoever has the lock may be about to write this; then the number is left out.
            let _ = file.take(20).read_to_string(&mut pid);
            return Err(OpenError::InUse(data.to_owned(), pid.trim().parse().ok()));
        }
        Err(TryLockError::Error(error)) => return Err(unusable(error)),
    }
    let pid = format!("{}\n", std::process::id());
    file.set_len(0).and_then(|()| file.write_all(pid.as_bytes())).map_err(unusable)?;
    Ok(file)
}
