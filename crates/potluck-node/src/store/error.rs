//! What can go wrong with a data folder, in words for the person whose disk it is.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use super::KeyError;

/// A data folder can't be opened. Nothing that was in it has changed.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// Another node uses it; its process id, if that is known.
    InUse(PathBuf, Option<u32>),
    /// It can't be created or used.
    Folder(PathBuf, io::Error),
    /// The key is missing and can't be created, or can't be used.
    Key(KeyError),
    /// It was written by a later version, in this format.
    Newer(PathBuf, u64),
    /// The database or the blobs can't be opened.
    Store(StoreError),
}

/// Something could not be kept or read. Nothing has changed.
#[derive(Debug)]
pub(crate) enum StoreError {
    /// The disk, or what the operating system says of it.
    Disk {
        /// What was tried: `write`, `read`, `remove`.
        verb: &'static str,
        /// On what.
        path: PathBuf,
        /// What came of it.
        error: io::Error,
    },
    /// There is no room for it within the cap on the disk.
    Full {
        /// What was to be written.
        bytes: u64,
        /// What is used by now.
        used: u64,
        /// The cap, without what is set aside for compiled modules.
        max: u64,
    },
    /// The database file is damaged, or is none.
    Database(PathBuf, String),
    /// Something is longer than what is kept.
    TooLong {
        /// What.
        what: &'static str,
        /// Its bytes.
        bytes: usize,
        /// The most that is kept.
        bytes_max: usize,
    },
}

impl StoreError {
    pub(super) fn disk(verb: &'static str, path: &Path) -> impl Fn(io::Error) -> StoreError {
        move |error| StoreError::Disk { verb, path: path.to_owned(), error }
    }

    /// Whether there was no room, and it may go better when there is.
    pub(crate) fn is_full(&self) -> bool {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        match self {
            StoreError::Full { .. } => true,
            StoreError::Disk { error, .. } => {
                matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
            }
            StoreError::Database(..) | StoreError::TooLong { .. } => false,
        }
    }
}

impl fmt::Display for OpenError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            OpenError::InUse(data, pid) => {
                write!(f, "data folder {} is in use by another running node", data.display())?;
                pid.map_or(Ok(()), |pid| write!(f, " (pid {pid})"))
            }
            OpenError::Folder(data, error) => {
                write!(f, "cannot use data folder {}: {}", data.display(), plainly(error))
            }
            OpenError::Key(error) => error.fmt(f),
            OpenError::Newer(data, format) => write!(
                f,
                "data folder {} was written by a newer potluck (format {format}); upgrade, or choose \
                 another folder with --data",
                data.display()
            ),
            OpenError::Store(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for OpenError {}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Disk { verb, path, error } => {
                write!(f, "cannot {verb} {}: {}", path.display(), plainly(error))
            }
            StoreError::Full { bytes, used, max } => write!(
                f,
                "the disk that is lent is full: {bytes} bytes do not fit beside {used} of {max}; \
                 raise disk in potluck.toml, or wait until jobs end"
            ),
            StoreError::Database(path, error) => {
                write!(f, "cannot use the database {}: {error}", path.display())
            }
            StoreError::TooLong { what, bytes, bytes_max } => {
                write!(f, "{what} of {bytes} bytes is longer than the {bytes_max} that are kept")
            }
        }
    }
}

impl std::error::Error for StoreError {}

/// An error of the operating system as the middle of a sentence.
pub(super) fn plainly(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or_default();
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| first.to_lowercase().chain(letters).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_disk_is_said_plainly() {
        let error = io::Error::from_raw_os_error(libc::ENOSPC);
        let error = StoreError::disk("write", Path::new("/data/store.redb"))(error);
        assert_eq!(error.to_string(), "cannot write /data/store.redb: no space left on device");
        let is_full = |code| {
            let error = io::Error::from_raw_os_error(code);
            StoreError::disk("write", Path::new("/data"))(error).is_full()
        };
        assert!([libc::ENOSPC, libc::EDQUOT, libc::EFBIG].into_iter().all(is_full));
        assert!(!is_full(libc::EIO));
    }
}
