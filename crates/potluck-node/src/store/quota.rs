//! The account of the disk: what everything below the data folder takes, and what may still be
//! written.
//!
//! Room is taken before something is written, so that what would not fit is refused before its
//! first byte. Files count with the whole blocks that they take and their place in a folder. The
//! database grows in steps, the largest being its own length: so much is always left for it, because
//! what was acknowledged is kept there.

use std::fs;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::StoreError;

/// Shared by all who write below a data folder.
#[derive(Debug)]
pub(super) struct Quota {
    /// For everything but artefacts.
    max: AtomicU64,
    used: Mutex<Used>,
    /// Whether the disk itself had no room when something was last written.
    out_of_space: AtomicBool,
}

#[derive(Debug, Default)]
struct Used {
    database: u64,
    files: u64,
    /// The folders, the key, and whatever others put there.
    other: u64,
    /// Taken by those who are about to write.
    reserved: u64,
    /// The most that was refused since somebody last asked, and when that was.
    refused: Option<u64>,
    refused_at: Option<Instant>,
    asked: Option<Instant>,
}

impl Used {
    fn kept(&self) -> u64 {
        self.database + self.files + self.other
    }

    /// What there would be with so much more, and with room for the database to grow.
    fn with(&self, bytes: u64) -> u64 {
        let left_for_database = self.database.max(DATABASE_STEP_MIN);
        (self.kept() + self.reserved).saturating_add(bytes).saturating_add(left_for_database)
    }

    fn refuse(&mut self, bytes: u64, wanted: u64, max: u64) -> StoreError {
        self.refused = self.refused.max(Some(wanted));
        self.refused_at = Some(Instant::now());
        StoreError::Full { bytes, used: self.kept(), max }
    }
}

/// Room on the disk for so many bytes, held until it is dropped or used.
#[derive(Debug)]
pub(crate) struct Room {
    quota: Arc<Quota>,
    bytes: u64,
}

impl Drop for Room {
    fn drop(&mut self) {
        self.quota.lock().reserved -= self.bytes;
    }
}

impl Room {
    /// Whether a file of so many bytes fits.
    pub(super) fn fits(&self, bytes: u64) -> bool {
        on_disk(bytes) <= self.bytes
    }
}

impl Quota {
    /// Without a cap.
    pub(super) fn new() -> Arc<Quota> {
        Arc::new(Quota {
            max: AtomicU64::new(u64::MAX),
            used: Mutex::default(),
            out_of_space: AtomicBool::new(false),
        })
    }

    pub(super) fn set_max(&self, bytes: u64) {
        self.max.store(bytes, Ordering::Relaxed);
    }

    pub(super) fn max(&self) -> u64 {
        self.max.load(Ordering::Relaxed)
    }

    /// What is taken, without what is only reserved.
    pub(super) fn used(&self) -> u64 {
        self.lock().kept()
    }

    /// Holds room for a file of so many bytes, or says why there is none.
    pub(super) fn reserve(self: &Arc<Quota>, bytes: u64) -> Result<Room, StoreError> {
        let (wanted, max) = (on_disk(bytes), self.max());
        let mut used = self.lock();
        if used.with(wanted) > max {
            return Err(used.refuse(bytes, wanted, max));
        }
        used.reserved += wanted;
        drop(used);
        Ok(Room { quota: Arc::clone(self), bytes: wanted })
    }

    /// Whether something was refused a short while ago. Who waits for room asks every second.
    pub(super) fn is_short(&self) -> bool {
        self.lock().refused_at.is_some_and(|at| at.elapsed() < SHORT_FOR)
    }

    /// Whether a file of so many bytes could be written now.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        self.lock().with(on_disk(bytes)) <= self.max()
    }

    /// How much was refused since the last answer, once in a while: making room is work.
    pub(super) fn pressed(&self) -> Option<u64> {
        let mut used = self.lock();
        used.refused?;
        if used.asked.is_some_and(|at| at.elapsed() < PRESSED_EVERY) {
            return None;
        }
        used.asked = Some(Instant::now());
        used.refused.take()
    }

    /// Lets the database have so many bytes in all, or refuses it.
    pub(super) fn grow_database(&self, bytes: u64) -> Result<(), StoreError> {
        let (mut used, max) = (self.lock(), self.max());
        let more = bytes.saturating_sub(used.database);
        if more > 0 && (used.kept() + used.reserved).saturating_add(more) > max {
            return Err(used.refuse(more, more, max));
        }
        used.database = bytes;
        Ok(())
    }

    /// The database is so long, whatever the cap says.
    pub(super) fn set_database(&self, bytes: u64) {
        self.lock().database = bytes;
    }

    /// A file of so many bytes has its name now.
    pub(super) fn add_file(&self, bytes: u64) {
        self.lock().files += on_disk(bytes);
    }

    /// A file of so many bytes is gone.
    pub(super) fn drop_file(&self, bytes: u64) {
        let mut used = self.lock();
        used.files = used.files.saturating_sub(on_disk(bytes));
    }

    /// A folder was made.
    pub(super) fn add_folder(&self) {
        self.lock().other += BLOCK_BYTES;
    }

    /// Counts what is neither blob nor artefact nor database anew.
    pub(super) fn count_others(&self, data: &Path) {
        let bytes = others(data);
        self.lock().other = bytes;
    }

    /// Takes note of how writing went.
    pub(super) fn note<T>(&self, written: &Result<T, StoreError>) {
        let out_of_space = match written {
            Ok(_) => false,
            Err(error @ StoreError::Disk { .. }) if error.is_full() => true,
            Err(_) => return,
        };
        self.out_of_space.store(out_of_space, Ordering::Relaxed);
    }

    pub(super) fn is_out_of_space(&self) -> bool {
        self.out_of_space.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Used> {
        // Whole between any two statements that hold the lock.
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a file takes of a disk: its blocks, and its place in a folder.
pub(super) fn on_disk(bytes: u64) -> u64 {
    bytes.saturating_add(NAME_BYTES).div_ceil(BLOCK_BYTES).saturating_mul(BLOCK_BYTES)
}

/// Everything below the folder that has no account of its own: files at the top, and all folders.
fn others(data: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(data) else { return BLOCK_BYTES };
    let mut bytes = BLOCK_BYTES;
    for entry in entries.filter_map(Result::ok) {
        let Ok(about) = entry.metadata() else { continue };
        let name = entry.file_name();
        if about.is_dir() && (name == "blobs" || name == "artefacts") {
            bytes += BLOCK_BYTES * (1 + folders(&entry.path()));
        } else if about.is_dir() {
            bytes = bytes.saturating_add(whole(&entry.path(), DEPTH_MAX));
        } else if name != "store.redb" {
            bytes = bytes.saturating_add(on_disk(about.len()));
        }
    }
    bytes
}

fn folders(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    let is_folder = |entry: &fs::DirEntry| entry.file_type().is_ok_and(|kind| kind.is_dir());
    entries.filter_map(Result::ok).filter(is_folder).count() as u64
}

/// A folder that somebody else put there, links not followed.
fn whole(path: &Path, depth: u32) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return BLOCK_BYTES };
    let mut bytes = BLOCK_BYTES;
    for entry in entries.filter_map(Result::ok) {
        let Ok(about) = entry.metadata() else { continue };
        bytes = bytes.saturating_add(match about.is_dir() {
            true if depth > 0 => whole(&entry.path(), depth - 1),
            true => BLOCK_BYTES,
            false => on_disk(about.len()),
        });
    }
    bytes
}

/// The blocks of most disks.
const BLOCK_BYTES: u64 = 4096;
/// A name of 64 digits, and a share of the room that folders leave between names.
const NAME_BYTES: u64 = 128;
/// So long after a refusal the disk counts as used up.
const SHORT_FOR: Duration = Duration::from_secs(10);
/// What is left for the database while it is small.
const DATABASE_STEP_MIN: u64 = 4 << 20;
/// Somebody else's folders are counted so deep.
const DEPTH_MAX: u32 = 8;
/// How often room is made at most.
const PRESSED_EVERY: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    fn quota(max: u64) -> Arc<Quota> {
        let quota = Quota::new();
        quota.set_max(DATABASE_STEP_MIN + max);
        quota
    }

    #[test]
    fn what_would_not_fit_is_refused_and_reservations_count() {
        let quota = quota(2 * on_disk(4000));
        let first = quota.reserve(4000).unwrap();
        assert!(first.fits(3968) && !first.fits(12_000));
        let second = quota.reserve(4000).unwrap();
        assert!(matches!(quota.reserve(0), Err(StoreError::Full { bytes: 0, used: 0, .. })));
        drop(second);
        assert!(quota.has_room(4000) && !quota.has_room(on_disk(4000)));
        assert!(quota.reserve(on_disk(4000)).is_err());
        drop(first);
        assert_eq!(quota.used(), 0);
        quota.reserve(on_disk(4000)).unwrap();
    }

    #[test]
    fn the_database_may_always_grow_by_its_own_length() {
        let quota = quota(100 << 20);
        quota.grow_database(30 << 20).unwrap();
        let mut rooms = Vec::new();
        while let Ok(room) = quota.reserve(1 << 20) {
            rooms.push(room);
        }
        quota.grow_database(60 << 20).unwrap();
        let refused = quota.grow_database(200 << 20).unwrap_err();
        assert!(matches!(refused, StoreError::Full { .. }), "{refused}");
        quota.grow_database(10 << 20).unwrap();
    }

    #[test]
    fn what_was_refused_is_told_once_in_a_while() {
        let quota = quota(0);
        assert_eq!(quota.pressed(), None);
        assert!(quota.reserve(5000).is_err() && quota.reserve(1).is_err());
        assert_eq!(quota.pressed(), Some(on_disk(5000)));
        assert!(quota.reserve(1).is_err());
        assert_eq!(quota.pressed(), None, "not so soon again");
    }
}
