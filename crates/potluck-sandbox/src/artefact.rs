//! Artefacts: modules compiled for this machine and this engine, kept in a local folder.
//!
//! An artefact is native code. It is made by our own compiler child, never taken from a peer, and
//! used only inside a runner child. A file is the compiler's output followed by its BLAKE3 hash, so
//! that a damaged one is noticed and made again; files appear by renaming, so that none is ever
//! half there.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use potluck_unit::ModuleId;

use crate::engine::Fingerprint;
use crate::profile::ModuleInfo;

/// A module that is ready to be started: what is known of it, and its open file.
#[derive(Clone)]
pub struct Artefact {
    module: ModuleId,
    info: ModuleInfo,
    path: PathBuf,
    file: Arc<File>,
}

impl Artefact {
    /// The module this was made from.
    pub fn module(&self) -> &ModuleId {
        &self.module
    }

    /// What the profile's check found out about the module.
    pub fn info(&self) -> &ModuleInfo {
        &self.info
    }

    /// The open file: what was checked is what is run, whatever happens to its name meanwhile.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Forgets the file on disk, because no engine would load it: the next `prepare` makes it
    /// again.
    pub(crate) fn discard(&self) {
        let _ = fs::remove_file(&self.path);
    }
}

impl fmt::Debug for Artefact {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Artefact").field("module", &self.module).finish_non_exhaustive()
    }
}

/// The folder of artefacts.
#[derive(Debug)]
pub(crate) struct Cache {
    folder: PathBuf,
    max_bytes: AtomicU64,
    /// Held while room is made and a file takes it.
    turn: Mutex<()>,
}

impl Cache {
    /// Keeps artefacts in `folder`, which is made when the first one is written.
    pub(crate) fn new(folder: PathBuf) -> Cache {
        Cache { folder, max_bytes: AtomicU64::new(CACHE_MAX_BYTES), turn: Mutex::default() }
    }

    /// Keeps no more than this from now on, and removes what is too much at once.
    pub(crate) fn set_max(&self, bytes: u64) {
        self.max_bytes.store(bytes, Ordering::Relaxed);
        let _turn = self.lock();
        self.make_room(0);
    }

    /// What the files of the folder take on disk.
    pub(crate) fn bytes(&self) -> u64 {
        self.files().iter().map(|(_, bytes, _)| bytes).sum()
    }

    /// The artefact of `module`, unless it is missing or damaged. A damaged file is removed.
    pub(crate) fn find(
        &self,
        module: &ModuleId,
        info: ModuleInfo,
        engine: &Fingerprint,
    ) -> Option<Artefact> {
        let path = self.path(module, engine);
        let file = File::open(&path).ok()?;
        let artefact = Artefact { module: *module, info, path, file: Arc::new(file) };
        if is_whole(&artefact.file) {
            // Last use decides what is evicted.
            let _ = artefact.file.set_modified(SystemTime::now());
            return Some(artefact);
        }
        tracing::warn!(path = %artefact.path.display(), "artefact is damaged, making it again");
        artefact.discard();
        None
    }

    /// Begins an artefact of `code_bytes`, after making room for it by removing those unused for
    /// longest.
    pub(crate) fn begin(&self, code_bytes: usize) -> io::Result<Unfinished<'_>> {
        static TURN: AtomicU64 = AtomicU64::new(0);
        fs::create_dir_all(&self.folder)?;
        let turn = TURN.fetch_add(1, Ordering::Relaxed);
        let path = self.folder.join(format!("{}-{turn}.part", std::process::id()));
        let bytes = code_bytes as u64 + blake3::OUT_LEN as u64;
        let _turn = self.lock();
        if !self.make_room(on_disk(bytes)) {
            let max = self.max_bytes.load(Ordering::Relaxed);
            let text = format!("{bytes} bytes are more than the {max} that artefacts may take");
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, text));
        }
        let file = File::create_new(&path)?;
        // From here on what has begun counts as if it were whole.
        let unfinished = Unfinished { cache: self, path, file, hash: blake3::Hasher::new() };
        unfinished.file.set_len(bytes)?;
        Ok(unfinished)
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        self.turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, module: &ModuleId, engine: &Fingerprint) -> PathBuf {
        let mut name = blake3::Hasher::new_derive_key("potluck artefact name v1");
        name.update(module.as_bytes()).update(engine);
        self.folder.join(format!("{}.artefact", name.finalize().to_hex()))
    }

    /// Removes files until there is room for so many bytes more; whatever was started from one
    /// keeps its own descriptor. Whether there is.
    fn make_room(&self, bytes: u64) -> bool {
        let max_bytes = self.max_bytes.load(Ordering::Relaxed);
        let mut files = self.files();
        files.sort();
        let mut total: u64 = files.iter().map(|(_, bytes, _)| bytes).sum::<u64>() + bytes;
        for (_, bytes, path) in files {
            if total <= max_bytes {
                break;
            }
            // What is being written is its writer's.
            let is_whole = path.extension().is_some_and(|extension| extension == "artefact");
            if is_whole && fs::remove_file(path).is_ok() {
                total -= bytes;
            }
        }
        total <= max_bytes
    }

    /// Last use, bytes on disk and path of every file.
    fn files(&self) -> Vec<(SystemTime, u64, PathBuf)> {
        let Ok(entries) = fs::read_dir(&self.folder) else { return Vec::new() };
        let file = |entry: io::Result<fs::DirEntry>| {
            let entry = entry.ok()?;
            let data = entry.metadata().ok().filter(fs::Metadata::is_file)?;
            Some((data.modified().ok()?, on_disk(data.len()), entry.path()))
        };
        entries.filter_map(file).collect()
    }
}

/// An artefact on its way to the disk. Nothing of it is left unless it is finished.
#[derive(Debug)]
pub(crate) struct Unfinished<'a> {
    cache: &'a Cache,
    path: PathBuf,
    file: File,
    hash: blake3::Hasher,
}

impl Unfinished<'_> {
    /// Adds a piece of the code.
    pub(crate) fn write(&mut self, piece: &[u8]) -> io::Result<()> {
        self.hash.update(piece);
        self.file.write_all(piece)
    }

    /// Gives the file its name.
    pub(crate) fn finish(mut self, module: &ModuleId, engine: &Fingerprint) -> io::Result<()> {
        self.file.write_all(self.hash.finalize().as_bytes())?;
        fs::rename(&self.path, self.cache.path(module, engine))
    }
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        // Its name is another by now, if it was finished.
        let _ = fs::remove_file(&self.path);
    }
}

/// What a file of so many bytes takes of a disk, at the usual size of blocks.
fn on_disk(bytes: u64) -> u64 {
    bytes.next_multiple_of(4096)
}

/// Whether the file ends with the hash of what is before it. Reads it piece by piece: artefacts can
/// be large.
fn is_whole(mut file: &File) -> bool {
    let Some(code_bytes) =
        (file.metadata().ok()).and_then(|about| about.len().checked_sub(blake3::OUT_LEN as u64))
    else {
        return false;
    };
    let mut hash = blake3::Hasher::new();
    let mut end = [0; blake3::OUT_LEN];
    hash.update_reader(file.take(code_bytes)).is_ok()
        && file.read_exact(&mut end).is_ok()
        && hash.finalize().as_bytes() == &end
}

/// 2 GiB: a few hundred large programs. A guess.
const CACHE_MAX_BYTES: u64 = 2 << 30;

#[cfg(test)]
mod tests {
    use super::*;

    const ENGINE: Fingerprint = [1; 32];
    const INFO: ModuleInfo = ModuleInfo { memory_min_bytes: 0, functions: 1 };

    fn cache(max_bytes: u64) -> (tempfile::TempDir, Cache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = Cache::new(folder.path().join("artefacts"));
        cache.set_max(max_bytes);
        (folder, cache)
    }

    fn insert(cache: &Cache, module: &ModuleId, code: &[u8]) -> io::Result<()> {
        let mut unfinished = cache.begin(code.len())?;
        code.chunks(3).try_for_each(|piece| unfinished.write(piece))?;
        unfinished.finish(module, &ENGINE)
    }

    #[test]
    fn an_artefact_is_found_for_its_module_and_engine_only() {
        let (_folder, cache) = cache(1 << 20);
        let module = ModuleId::of(b"module");
        assert!(cache.find(&module, INFO, &ENGINE).is_none());
        insert(&cache, &module, b"code").unwrap();
        assert!(cache.find(&module, INFO, &ENGINE).is_some());
        assert!(cache.find(&module, INFO, &[2; 32]).is_none());
        assert!(cache.find(&ModuleId::of(b"other"), INFO, &ENGINE).is_none());
    }

    #[test]
    fn a_damaged_artefact_is_removed() {
        let (_folder, cache) = cache(1 << 20);
        let module = ModuleId::of(b"module");
        for damaged in [&b""[..], b"short", &[0; 36], &[7; 4096]] {
            insert(&cache, &module, b"code").unwrap();
            fs::write(cache.path(&module, &ENGINE), damaged).unwrap();
            assert!(cache.find(&module, INFO, &ENGINE).is_none());
            assert!(!cache.path(&module, &ENGINE).exists());
        }
    }

    #[test]
    fn a_full_folder_forgets_the_oldest_and_keeps_the_newest() {
        let (_folder, cache) = cache(12_287);
        let modules = [b"a", b"b", b"c"].map(|name| ModuleId::of(name));
        for (age, module) in modules.iter().enumerate() {
            insert(&cache, module, &[0; 4064]).unwrap();
            if let Some(found) = cache.find(module, INFO, &ENGINE) {
                let then = SystemTime::now() - std::time::Duration::from_secs(10 - age as u64);
                found.file.set_modified(then).unwrap();
            }
        }
        let found = modules.map(|module| cache.find(&module, INFO, &ENGINE).is_some());
        assert_eq!(found, [false, true, true]);
        assert_eq!(cache.bytes(), 8192);
        cache.set_max(8191);
        assert_eq!(cache.bytes(), 4096);
    }

    #[test]
    fn what_would_not_fit_is_refused_before_a_byte_of_it_is_written() {
        let (_folder, cache) = cache(8192);
        let module = ModuleId::of(b"module");
        insert(&cache, &module, &[0; 8160]).unwrap();
        let refused = insert(&cache, &ModuleId::of(b"other"), &[0; 8161]).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::QuotaExceeded);
        assert_eq!(cache.bytes(), 0, "room was made in vain");
        let (one, two) = (cache.begin(4064).unwrap(), cache.begin(4064).unwrap());
        assert!(cache.begin(0).is_err(), "what has begun counts");
        drop((one, two));
        assert_eq!(cache.bytes(), 0);
    }
}
