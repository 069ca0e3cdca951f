//! The proof that this node's key cost work: searched for once, on all cores, and kept beside the
//! key.
//!
//! The file `identity` in the data folder has one line, `BORN NONCE`, both decimal. It is no secret.

use std::fs::File;
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use potluck_unit::{Identity, PeerId, Time};

/// Numbers tried between two looks at whether to go on: about 15 ms.
const STEP_TRIES: u64 = 1 << 16;
/// A line has at most 42 bytes.
const FILE_BYTES_MAX: u64 = 128;

fn path(data: &Path) -> PathBuf {
    data.join("identity")
}

/// The proof kept in this data folder, whatever it proves. The error is a sentence for a person.
pub fn read_identity(data: &Path) -> Result<Option<Identity>, String> {
    let path = path(data);
    let shown = path.display();
    let mut text = String::new();
    let read =
        File::open(&path).and_then(|file| file.take(FILE_BYTES_MAX).read_to_string(&mut text));
    match read {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) if error.kind() != ErrorKind::InvalidData => {
            return Err(format!("cannot read {shown}: {error}"));
        }
        Ok(_) | Err(_) => {}
    }
    let mut numbers = text.split_whitespace().map(str::parse);
    match (numbers.next(), numbers.next(), numbers.next()) {
        (Some(Ok(born)), Some(Ok(nonce)), None) => Ok(Some(Identity { born: Time(born), nonce })),
        _ => Err(format!(
            "{shown} does not hold the proof of work of a key; remove it, and the next start in an \
             open grid makes another"
        )),
    }
}

/// The proof kept in this data folder, if it proves so much for this key.
pub(crate) fn proven(data: &Path, peer: &PeerId, bits: u8) -> Result<Option<Identity>, String> {
    Ok(read_identity(data)?.filter(|identity| identity.proves(peer, bits)))
}

/// Keeps a proof in this data folder in place of any other. The error is a sentence for a person.
pub fn keep_identity(data: &Path, identity: &Identity) -> Result<(), String> {
    let kept = (|| {
        let mut file = tempfile::NamedTempFile::new_in(data)?;
        writeln!(file, "{} {}", identity.born.0, identity.nonce)?;
        file.as_file().sync_all()?;
        file.persist(path(data)).map_err(|error| error.error)?;
        File::open(data)?.sync_all()
    })();
    kept.map_err(|error| {
        let shown = path(data);
        format!("cannot write {}: {error}; make room or choose another --data", shown.display())
    })
}

/// A search that goes on in threads of its own. Dropping it ends them.
#[derive(Debug)]
pub struct Search {
    desk: Arc<Desk>,
    bits: u8,
    threads: Vec<JoinHandle<()>>,
}

/// What the threads share.
#[derive(Debug)]
struct Desk {
    next: AtomicU64,
    stop: AtomicBool,
    found: Mutex<Option<Identity>>,
}

impl Search {
    /// Starts a search for so many bits of work for this key, born now, on all cores; none if the
    /// data folder holds one already. The error is a sentence for a person.
    pub fn start(data: &Path, peer: &PeerId, bits: u8) -> Result<Option<Search>, String> {
        if proven(data, peer, bits)?.is_some() {
            return Ok(None);
        }
        let (peer, born) = (*peer, crate::hub::clock());
        let desk = Arc::new(Desk {
            next: AtomicU64::new(0),
            stop: AtomicBool::new(false),
            found: Mutex::new(None),
        });
        let mut search = Search { desk, bits, threads: Vec::new() };
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            let desk = search.desk.clone();
            let work = move || desk.work(&peer, born, bits);
            let thread = std::thread::Builder::new().name("identity".to_owned()).spawn(work);
            search.threads.push(thread.map_err(|error| format!("cannot start threads: {error}"))?);
        }
        Ok(Some(search))
    }

    /// What was searched for, once it is found.
    pub fn found(&self) -> Option<Identity> {
        *self.desk.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Numbers tried or being tried.
    pub fn tries(&self) -> u64 {
        self.desk.next.load(Ordering::Relaxed)
    }

    /// How many numbers have to be tried on average, however many were tried in vain.
    pub fn tries_expected(&self) -> u64 {
        Identity::tries_expected(self.bits)
    }
}

impl Drop for Search {
    fn drop(&mut self) {
        self.desk.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // It has panicked or ended; either way it is gone.
            let _ = thread.join();
        }
    }
}

impl Desk {
    fn work(&self, peer: &PeerId, born: Time, bits: u8) {
        while !self.stop.load(Ordering::Relaxed) {
            let first = self.next.fetch_add(STEP_TRIES, Ordering::Relaxed);
            if let Some(identity) = Identity::search(peer, born, bits, first, STEP_TRIES) {
                self.found.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(identity);
                self.stop.store(true, Ordering::Relaxed);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use potluck_unit::Key;

    use super::*;

    #[test]
    fn what_was_found_is_kept_and_not_searched_for_again() {
        let folder = tempfile::tempdir().unwrap();
        let (peer, other) = (Key::of_secret(&[1; 32]).id(), Key::of_secret(&[2; 32]).id());
        let search = Search::start(folder.path(), &peer, 1).unwrap().unwrap();
        let found = loop {
            match search.found() {
                Some(found) => break found,
                None => std::thread::yield_now(),
            }
        };
        assert!(found.proves(&peer, 1) && search.tries() > 0);
        keep_identity(folder.path(), &found).unwrap();
        assert_eq!(read_identity(folder.path()), Ok(Some(found)));
        assert!(Search::start(folder.path(), &peer, 1).unwrap().is_none());
        // For another key it counts for nothing.
        assert!(Search::start(folder.path(), &other, 20).unwrap().is_some());
        assert_eq!(proven(folder.path(), &other, 1), Ok(None));
    }

    #[test]
    fn a_search_that_nobody_waits_for_ends() {
        let folder = tempfile::tempdir().unwrap();
        let peer = Key::of_secret(&[1; 32]).id();
        let search = Search::start(folder.path(), &peer, Identity::BITS_MAX).unwrap();
        // Would hang if the threads went on.
        drop(search);
        assert_eq!(read_identity(folder.path()), Ok(None));
    }

    #[test]
    fn a_file_that_holds_no_proof_is_named_and_left_as_it_is() {
        let folder = tempfile::tempdir().unwrap();
        for text in [&b""[..], b"1", b"1 x", b"1 2 3", b"-1 2", b"\xff\xff"] {
            std::fs::write(path(folder.path()), text).unwrap();
            let error = read_identity(folder.path()).unwrap_err();
            assert!(error.contains("identity does not hold"), "{error}");
            assert!(Search::start(folder.path(), &PeerId([1; 32]), 1).is_err());
            assert_eq!(std::fs::read(path(folder.path())).unwrap(), text);
        }
    }
}
