//! Watching: notices that `potluck.toml` has changed while the node runs.
//!
//! Asking costs one look at the file's properties, so the node asks when it is awake anyway. A file
//! that is wrong changes nothing: what held goes on, and the error is there for whoever asks.

use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use tracing::{info, warn};

use super::error::ConfigErrors;
use super::settings::read_text;
use super::{Config, Settings};
use crate::options::Options;

/// What a running node knows of its config file.
#[derive(Debug)]
pub struct Watcher {
    options: Options,
    file: PathBuf,
    /// The file when it was read last; none if it may have changed unseen since.
    seen: Option<Stamp>,
    text: Result<Option<String>, ConfigErrors>,
    /// What the node was started with.
    started: Config,
    /// What holds.
    current: Settings,
    error: Option<ConfigErrors>,
    restart_needed: Vec<&'static str>,
}

/// By what a changed file is known without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stamp {
    Missing,
    There { modified: SystemTime, bytes: u64, inode: u64 },
}

impl Watcher {
    /// Watches the file of a node that was started with `options`, which amounted to `started`.
    pub fn new(options: Options, started: Config) -> Watcher {
        let file = options.config_file();
        let current = started.settings.clone();
        // The first look reads the file in any case: it may have changed since the start.
        Watcher {
            options,
            file,
            seen: None,
            text: Ok(None),
            started,
            current,
            error: None,
            restart_needed: Vec::new(),
        }
    }

    /// What the file says now, if it says something else than at the last look: new settings, or
    /// what is wrong with it. To be called every [`Watcher::EVERY`] or so.
    pub fn poll(&mut self) -> Option<Result<Config, ConfigErrors>> {
        let now = self.stamp();
        if self.seen == Some(now) {
            return None;
        }
        // Clocks of file systems are coarse: two writes shortly after one another may look the same.
        self.seen = Some(now).filter(Stamp::is_settled);
        let text = read_text(&self.file);
        if self.text == text && self.text != Ok(None) {
            return None;
        }
        self.text = text;
        match self.options.resolve() {
            Ok(config) => self.take(config).map(Ok),
            Err(errors) => {
                if self.error.as_ref() == Some(&errors) {
                    return None;
                }
                warn!("{errors}; the settings stay as they were");
                self.error = Some(errors.clone());
                Some(Err(errors))
            }
        }
    }

    /// What is wrong with the file; none if what it says holds.
    pub fn error(&self) -> Option<&ConfigErrors> {
        self.error.as_ref()
    }

    /// The keys that were changed and hold only after a restart.
    pub fn restart_needed(&self) -> &[&'static str] {
        &self.restart_needed
    }

    /// How often the file may be looked at: often enough for somebody who waits for it.
    pub const EVERY: Duration = Duration::from_secs(2);

    fn take(&mut self, config: Config) -> Option<Config> {
        let was_wrong = self.error.take().is_some();
        if !was_wrong && config.settings == self.current {
            return None;
        }
        self.current = config.settings.clone();
        self.restart_needed = config.restart_needed(&self.started);
        info!("{} was read anew", self.file.display());
        if !self.restart_needed.is_empty() {
            let keys = self.restart_needed.join(", ");
            warn!("{keys}: changed, and hold once the node is started again");
        }
        Some(config)
    }

    fn stamp(&self) -> Stamp {
        use std::os::unix::fs::MetadataExt as _;
        std::fs::metadata(&self.file).map_or(Stamp::Missing, |metadata| Stamp::There {
            modified: metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
            bytes: metadata.len(),
            inode: metadata.ino(),
        })
    }
}

impl Stamp {
    /// Whether the file can't have been written again since without another time on it.
    fn is_settled(&self) -> bool {
        match self {
            Stamp::Missing => true,
            Stamp::There { modified, .. } => {
                SystemTime::now().duration_since(*modified).is_ok_and(|age| age > GRAIN)
            }
        }
    }
}

/// The coarsest clock of a file system that is still in use.
const GRAIN: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(text: &str) -> (tempfile::TempDir, Watcher) {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("potluck.toml"), text).unwrap();
        let options = Options::new(folder.path().to_owned());
        let started = options.resolve().unwrap();
        (folder, Watcher::new(options, started))
    }

    #[test]
    fn a_change_is_seen_once_even_right_after_the_last_one() {
        let (folder, mut watcher) = watched("[budget]\nslots = 1");
        assert_eq!(watcher.poll(), None);
        for slots in [3, 5, 7] {
            // As long as the text before, and within one tick of any clock.
            std::fs::write(
                folder.path().join("potluck.toml"),
                format!("[budget]\nslots = {slots}"),
            )
            .unwrap();
            assert_eq!(watcher.poll().unwrap().unwrap().slots, slots);
            assert_eq!(watcher.poll(), None);
        }
        assert!(watcher.restart_needed().is_empty());
    }

    #[test]
    fn a_broken_file_changes_nothing_and_is_told_once_until_it_is_mended() {
        let (folder, mut watcher) = watched("[budget]\nslots = 1");
        let path = folder.path().join("potluck.toml");
        std::fs::write(&path, "[budget]\nslots = 'x'").unwrap();
        assert!(watcher.poll().unwrap().unwrap_err().to_string().contains("line 2"));
        assert!(watcher.error().is_some());
        assert_eq!(watcher.poll(), None);
        // The same as before it broke, and yet news: it can be read again.
        std::fs::write(&path, "[budget]\nslots = 1").unwrap();
        assert_eq!(watcher.poll().unwrap().unwrap().slots, 1);
        assert_eq!(watcher.error(), None);
        std::fs::remove_file(&path).unwrap();
        assert!(watcher.poll().unwrap().is_ok());
        assert_eq!(watcher.poll(), None);
    }

    #[test]
    fn what_holds_after_a_restart_only_is_named_until_it_is_taken_back() {
        let (folder, mut watcher) = watched("");
        let path = folder.path().join("potluck.toml");
        std::fs::write(&path, "listen = '127.0.0.1:9'\n[grid]\nopen = false").unwrap();
        assert!(watcher.poll().unwrap().is_ok());
        assert_eq!(watcher.restart_needed(), ["listen", "grid.open"]);
        std::fs::write(&path, "listen = '0.0.0.0:7117'").unwrap();
        assert!(watcher.poll().unwrap().is_ok());
        assert!(watcher.restart_needed().is_empty());
    }
}
