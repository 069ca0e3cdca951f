//! Blobs in files, `ab/abcdef…` by their id. A file has its name only once all of it is on disk.

use std::cmp::Reverse;
use std::fs::{self, DirBuilder, DirEntry, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use potluck_unit::{BlobId, ResultHash};

use super::StoreError;
use super::quota::{Quota, Room};
use crate::net::Wanted;

/// The folder of blobs.
#[derive(Debug)]
pub(crate) struct Files {
    root: PathBuf,
    /// The lengths of all files. Changed under `turn`.
    bytes: AtomicU64,
    /// Held while a file gets or loses its name, so that it is counted once.
    turn: Mutex<()>,
    quota: Arc<Quota>,
}

impl Files {
    /// Opens the folder, and clears away what a `kill -9` has left unfinished.
    pub(crate) fn open(root: PathBuf, quota: Arc<Quota>) -> Result<Files, StoreError> {
        let unfinished = root.join(UNFINISHED);
        create_folder(&unfinished).map_err(StoreError::disk("create", &unfinished))?;
        let unread = StoreError::disk("read", &root);
        for entry in fs::read_dir(&unfinished).map_err(&unread)? {
            let path = entry.map_err(&unread)?.path();
            fs::remove_file(&path).map_err(StoreError::disk("remove", &path))?;
        }
        let bytes = count(&root, &quota).map_err(unread)?;
        Ok(Files { root, bytes: AtomicU64::new(bytes), turn: Mutex::default(), quota })
    }

    /// Keeps a blob, in `room` if that is enough.
    pub(crate) fn put(&self, bytes: &[u8], room: Option<Room>) -> Result<BlobId, StoreError> {
        let id = BlobId::of(bytes);
        let path = self.path(&id);
        let length = bytes.len() as u64;
        if fs::metadata(&path).is_ok_and(|file| file.len() == length) {
            return Ok(id);
        }
        let room = match room.filter(|room| room.fits(length)) {
            Some(room) => room,
            None => self.quota.reserve(length)?,
        };
        let mut name = [0; 16];
        getrandom::fill(&mut name)
            .map_err(io::Error::other)
            .map_err(StoreError::disk("write", &path))?;
        let name: String = name.iter().map(|byte| format!("{byte:02x}")).collect();
        let beside = self.root.join(UNFINISHED).join(name);
        let put = write(&beside, bytes).and_then(|()| self.name(&beside, &path, length));
        if put.is_err() {
            let _ = fs::remove_file(&beside);
        }
        drop(room);
        put.map_err(StoreError::disk("write", &path))?;
        Ok(id)
    }

    pub(crate) fn read(&self, wanted: &Wanted) -> Option<Vec<u8>> {
        self.find(wanted).into_iter().find_map(|path| {
            let bytes = fs::read(&path).ok()?;
            if wanted.is(&BlobId::of(&bytes)) {
                return Some(bytes);
            }
            tracing::warn!(path = %path.display(), "a damaged blob is removed");
            if let Err(error) = self.unname(&path) {
                tracing::warn!(path = %path.display(), %error, "it can't be removed");
            }
            None
        })
    }

    pub(crate) fn has(&self, wanted: &Wanted) -> bool {
        self.find(wanted).iter().any(|path| path.is_file())
    }

    /// R and length of every file, by what its name and its folder's entry say.
    pub(crate) fn all(&self) -> Result<Vec<(ResultHash, u64)>, StoreError> {
        let mut all = Vec::new();
        self.each(|id, file| {
            all.push((id.result_hash(), file.metadata().map_or(0, |about| about.len())));
            Ok(())
        })?;
        Ok(all)
    }

    /// How long the file is that holds the body with this R, if there is one.
    pub(crate) fn bytes_of(&self, result: &ResultHash) -> Option<u64> {
        let found = self.find(&Wanted::Body(*result));
        found.iter().find_map(|path| fs::metadata(path).ok()).map(|about| about.len())
    }

    /// Removes the file that holds the body with this R, if there is one.
    pub(crate) fn remove(&self, result: &ResultHash) -> Result<(), StoreError> {
        for path in self.find(&Wanted::Body(*result)) {
            self.unname(&path).map_err(StoreError::disk("remove", &path))?;
        }
        Ok(())
    }

    /// Looks at every file that has its name.
    fn each(
        &self,
        mut look: impl FnMut(BlobId, &DirEntry) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        let unread = StoreError::disk("read", &self.root);
        for folder in fs::read_dir(&self.root).map_err(&unread)? {
            let folder = folder.map_err(&unread)?.path();
            if folder.ends_with(UNFINISHED) || !folder.is_dir() {
                continue;
            }
            for file in fs::read_dir(&folder).map_err(&unread)? {
                let file = file.map_err(&unread)?;
                let name = file.file_name();
                if let Some(id) = name.to_str().and_then(|name| name.parse::<BlobId>().ok()) {
                    look(id, &file)?;
                }
            }
        }
        Ok(())
    }

    /// Removes every file older than `age` that `keep` does not want. Answers how many.
    pub(crate) fn sweep(
        &self,
        age: Duration,
        keep: impl Fn(&BlobId) -> bool,
    ) -> Result<usize, StoreError> {
        let mut removed = 0;
        self.each(|id, file| {
            let old = file
                .metadata()
                .and_then(|about| about.modified())
                .is_ok_and(|at| at.elapsed().is_ok_and(|elapsed| elapsed >= age));
            if old && !keep(&id) {
                let path = file.path();
                let gone = self.unname(&path).map_err(StoreError::disk("remove", &path))?;
                removed += usize::from(gone);
            }
            Ok(())
        })?;
        Ok(removed)
    }

    /// Removes files that `keep` does not want, those written first before others, until `enough`.
    /// Answers how many.
    pub(crate) fn sweep_until(
        &self,
        keep: impl Fn(&BlobId) -> bool,
        enough: impl Fn() -> bool,
    ) -> Result<usize, StoreError> {
        let mut unwanted = Vec::new();
        self.each(|id, file| {
            let written = file.metadata().and_then(|about| about.modified());
            let age = written.ok().and_then(|at| at.elapsed().ok()).unwrap_or_default();
            if age >= YOUNG && !keep(&id) {
                unwanted.push((Reverse(age), file.path()));
            }
            Ok(())
        })?;
        unwanted.sort();
        let mut removed = 0;
        for (_, path) in unwanted {
            if enough() {
                break;
            }
            let gone = self.unname(&path).map_err(StoreError::disk("remove", &path))?;
            removed += usize::from(gone);
        }
        Ok(removed)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Gives a finished file its name, in its folder, both on disk when this returns.
    fn name(&self, beside: &Path, path: &Path, length: u64) -> io::Result<()> {
        let folder = path.parent().unwrap_or(&self.root);
        if !folder.is_dir() {
            create_folder(folder)?;
            self.quota.add_folder();
            sync_folder(&self.root)?;
        }
        {
            let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
            let before = fs::metadata(path).map(|file| file.len());
            fs::rename(beside, path)?;
            self.bytes.fetch_add(length, Ordering::Relaxed);
            self.quota.add_file(length);
            if let Ok(before) = before {
                self.bytes.fetch_sub(before, Ordering::Relaxed);
                self.quota.drop_file(before);
            }
        }
        sync_folder(folder)
    }

    /// Removes a file. Whether it was there.
    fn unname(&self, path: &Path) -> io::Result<bool> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let length = fs::metadata(path).map_or(0, |file| file.len());
        match fs::remove_file(path) {
            Ok(()) => {
                self.bytes.fetch_sub(length, Ordering::Relaxed);
                self.quota.drop_file(length);
                Ok(true)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The files that may be it: for a blob its one name, for a body whatever begins with R.
    fn find(&self, wanted: &Wanted) -> Vec<PathBuf> {
        let result = match wanted {
            Wanted::Blob(id) => return vec![self.path(id)],
            Wanted::Body(result) => result.to_string(),
        };
        let Ok(entries) = fs::read_dir(self.root.join(&result[..2])) else { return Vec::new() };
        entries
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name().as_encoded_bytes().starts_with(result.as_bytes()))
            .map(|entry| entry.path())
            .collect()
    }

    fn path(&self, id: &BlobId) -> PathBuf {
        let name = id.to_string();
        self.root.join(&name[..2]).join(name)
    }
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn create_folder(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// The lengths of all files two levels down.
fn count(root: &Path, quota: &Quota) -> io::Result<u64> {
    let mut bytes = 0;
    for folder in fs::read_dir(root)? {
        let folder = folder?;
        if folder.file_type()?.is_dir() {
            for file in fs::read_dir(folder.path())? {
                let length = file?.metadata()?.len();
                quota.add_file(length);
                bytes += length;
            }
        }
    }
    Ok(bytes)
}

/// Files younger than this are left alone even when room is needed: their job may be about to be
/// posted by the user, or their receipt about to be signed.
const YOUNG: Duration = Duration::from_secs(60);
/// Where files are written. Beside the others, so that a rename stays on one disk.
const UNFINISHED: &str = "unfinished";
