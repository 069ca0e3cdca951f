//! The key file: 32 secret bytes as hexadecimal digits, readable by its owner alone.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use potluck_unit::{Key, PeerId};

use super::error::plainly;

/// A key file can't be used. Nothing has changed.
#[derive(Debug)]
pub(crate) enum KeyError {
    /// It can't be read.
    Read(PathBuf, io::Error),
    /// It can't be created.
    Create(PathBuf, io::Error),
    /// Others than its owner may read or change it; its permission bits.
    Exposed(PathBuf, u32),
    /// It does not hold a key.
    Malformed(PathBuf),
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KeyError::Read(path, error) => {
                write!(f, "cannot read key file {}: {}", path.display(), plainly(error))
            }
            KeyError::Create(path, error) => {
                write!(f, "cannot create key file {}: {}", path.display(), plainly(error))
            }
            KeyError::Exposed(path, mode) => write!(
                f,
                "key file {0} can be used by others (mode {mode:04o}); run chmod 600 {0}, and if \
                 somebody may have copied it, move it away: the next start makes a new key",
                path.display()
            ),
            KeyError::Malformed(path) => write!(
                f,
                "key file {} does not hold 64 hexadecimal digits; restore it from a backup, or move \
                 it away: the next start makes a new key, and this node becomes a new peer",
                path.display()
            ),
        }
    }
}

impl std::error::Error for KeyError {}

/// Reads the key in this file.
///
/// # Errors
/// If it is not there, can be read by others, or holds no key.
pub(crate) fn read_key(path: &Path) -> Result<Key, KeyError> {
    let unread = |error| KeyError::Read(path.to_owned(), error);
    let file = File::open(path).map_err(unread)?;
    let mode = file.metadata().map_err(unread)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed(path.to_owned(), mode));
    }
    let mut text = Vec::new();
    file.take(TEXT_BYTES_MAX).read_to_end(&mut text).map_err(unread)?;
    // The digits of a secret are those of any 32 bytes, so the reader of ids will do.
    let secret = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
    let PeerId(secret) = secret.ok_or_else(|| KeyError::Malformed(path.to_owned()))?;
    Ok(Key::of_secret(&secret))
}

/// Reads the key in this file, or creates it with a new key.
///
/// # Errors
/// Like [`read_key`], and if it can't be created. A key that is there is never replaced.
pub(crate) fn read_or_create_key(path: &Path) -> Result<Key, KeyError> {
    match read_key(path) {
        Err(KeyError::Read(_, error)) if error.kind() == io::ErrorKind::NotFound => {
            match create(path) {
                // Whoever was faster has made the key.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => read_key(path),
                created => created.map_err(|error| KeyError::Create(path.to_owned(), error)),
            }
        }
        key => key,
    }
}

/// Writes a new key beside the file and then gives it its name, which fails if there is one.
fn create(path: &Path) -> io::Result<Key> {
    let mut random = [0; 40];
    getrandom::fill(&mut random).map_err(io::Error::other)?;
    let (secret, suffix) = random.split_at(32);
    let key = Key::of_secret(secret.try_into().map_err(io::Error::other)?);
    let suffix: String = suffix.iter().map(|byte| format!("{byte:02x}")).collect();
    let beside = path.with_extension(format!("{suffix}.new"));
    let named = (|| {
        let mut options = OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&beside)?;
        writeln!(file, "{}", PeerId(key.secret()))?;
        file.sync_all()?;
        fs::hard_link(&beside, path)
    })();
    let _ = fs::remove_file(&beside);
    named?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(key)
}

/// A key file has 65 bytes; some room for line ends.
const TEXT_BYTES_MAX: u64 = 128;
