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
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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
    max_bytes: u64,
}

impl Cache {
    /// Keeps artefacts in `folder`, which is made when the first one is written.
    pub(crate) fn new(folder: PathBuf) -> Cache {
        Cache { folder, max_bytes: CACHE_MAX_BYTES }
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

    /// Writes the artefact of `module`, then makes room by removing those unused for longest.
    pub(crate) fn insert(
        &self,
        module: &ModuleId,
        engine: &Fingerprint,
        code: &[u8],
    ) -> io::Result<()> {
        static TURN: AtomicU64 = AtomicU64::new(0);
        fs::create_dir_all(&self.folder)?;
        let turn = TURN.fetch_add(1, Ordering::Relaxed);
        let unfinished = self.folder.join(format!("{}-{turn}.part", std::process::id()));
        let written = File::create_new(&unfinished).and_then(|mut file| {
            file.write_all(code)?;
            file.write_all(blake3::hash(code).as_bytes())?;
            fs::rename(&unfinished, self.path(module, engine))
        });
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        self.evict();
        written
    }

    fn path(&self, module: &ModuleId, engine: &Fingerprint) -> PathBuf {
        let mut name = blake3::Hasher::new_derive_key("potluck artefact name v1");
        name.update(module.as_bytes()).update(engine);
        self.folder.join(format!("{}.artefact", name.finalize().to_hex()))
    }

    /// Removes files until the folder is within its bound; whatever was started from one keeps
    /// its own descriptor.
    fn evict(&self) {
        let Ok(entries) = fs::read_dir(&self.folder) else { return };
        let mut files: Vec<(SystemTime, u64, PathBuf)> = entries
            .filter_map(|entry| {
                let entry = entry.ok()?;
                let data = entry.metadata().ok().filter(fs::Metadata::is_file)?;
                Some((data.modified().ok()?, data.len(), entry.path()))
            })
            .collect();
        files.sort();
        let mut total: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
        // The newest stays even if it is alone over the bound: its caller is about to open it.
        files.pop();
        for (_, bytes, path) in files {
            if total <= self.max_bytes {
                return;
            }
            if fs::remove_file(path).is_ok() {
                total -= bytes;
            }
        }
    }
}

/// Whether the file ends with the hash of what is before it.
fn is_whole(mut file: &File) -> bool {
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).is_ok()
        && bytes
            .split_last_chunk::<{ blake3::OUT_LEN }>()
            .is_some_and(|(code, hash)| blake3::hash(code).as_bytes() == hash)
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
        let cache = Cache { folder: folder.path().join("artefacts"), max_bytes };
        (folder, cache)
    }

    #[test]
    fn an_artefact_is_found_for_its_module_and_engine_only() {
        let (_folder, cache) = cache(1 << 20);
        let module = ModuleId::of(b"module");
        assert!(cache.find(&module, INFO, &ENGINE).is_none());
        cache.insert(&module, &ENGINE, b"code").unwrap();
        assert!(cache.find(&module, INFO, &ENGINE).is_some());
        assert!(cache.find(&module, INFO, &[2; 32]).is_none());
        assert!(cache.find(&ModuleId::of(b"other"), INFO, &ENGINE).is_none());
    }

    #[test]
    fn a_damaged_artefact_is_removed() {
        let (_folder, cache) = cache(1 << 20);
        let module = ModuleId::of(b"module");
        for damaged in [&b""[..], b"short", &[0; 36], &[7; 4096]] {
            cache.insert(&module, &ENGINE, b"code").unwrap();
            fs::write(cache.path(&module, &ENGINE), damaged).unwrap();
            assert!(cache.find(&module, INFO, &ENGINE).is_none());
            assert!(!cache.path(&module, &ENGINE).exists());
        }
    }

    #[test]
    fn a_full_folder_forgets_the_oldest_and_keeps_the_newest() {
        let (_folder, cache) = cache(100);
        let modules = [b"a", b"b", b"c"].map(|name| ModuleId::of(name));
        for (age, module) in modules.iter().enumerate() {
            cache.insert(module, &ENGINE, &[0; 60]).unwrap();
            if let Some(found) = cache.find(module, INFO, &ENGINE) {
                let then = SystemTime::now() - std::time::Duration::from_secs(10 - age as u64);
                found.file.set_modified(then).unwrap();
            }
        }
        let found = modules.map(|module| cache.find(&module, INFO, &ENGINE).is_some());
        assert_eq!(found, [false, false, true]);
    }
}
