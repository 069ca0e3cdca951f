//! What a node is started with: what the command line and the environment say, and where the rest
//! is found.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use potluck_unit::Identity;

use crate::config::{Config, ConfigErrors, FILE_NAME, Flag, Settings, Sources};
use crate::machine::Machine;

/// What a node is started with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Where everything is kept: key, records, blobs, compiled modules, the control socket.
    pub data: PathBuf,
    /// Where to listen; none for what the settings say.
    pub listen: Option<SocketAddr>,
    /// Whom to join, as `host:port`, besides those in the settings.
    pub join: Vec<String>,
    /// How many units to run at once; none for what the settings say.
    pub slots: Option<u16>,
    /// Whether to take part in an open grid, where keys cost work; none for what the settings say.
    pub open: Option<bool>,
    /// Values of other keys, which win over environment and file.
    pub flags: Vec<Flag>,
    /// Variables of the environment, which win over the file; those that are not ours are ignored.
    pub environment: Vec<(String, String)>,
    /// How much work keys must prove in an open grid. All its nodes must ask for the same, so this
    /// is for tests alone: a flag that help does not list, and no key of the config file.
    pub work_bits: u8,
    /// Return wrong results, to show and test that it is found out. A flag of the worker that help
    /// does not list, and no key of the config file.
    pub cheat: bool,
}

impl Options {
    /// All addresses, on a port that nothing well known uses.
    pub const DEFAULT_LISTEN: &str = "0.0.0.0:7117";

    /// Everything by default.
    pub fn new(data: PathBuf) -> Options {
        Options {
            data,
            listen: None,
            join: Vec::new(),
            slots: None,
            open: None,
            flags: Vec::new(),
            environment: Vec::new(),
            work_bits: Identity::BITS,
            cheat: false,
        }
    }

    /// Whether a node with these options takes part in an open grid. The error is one sentence for
    /// a person.
    pub fn is_open(&self) -> Result<bool, String> {
        self.resolve().map(|config| config.open).map_err(|errors| errors.to_string())
    }

    /// The config file of the data folder, which need not exist.
    pub fn config_file(&self) -> PathBuf {
        config_file(&self.data)
    }

    /// The value of every key, and who said so. Nothing has changed.
    pub fn settings(&self) -> Result<Settings, ConfigErrors> {
        let said = |flag: &str, key: &str, value: Option<String>| {
            let (flag, key) = (flag.to_owned(), key.to_owned());
            value.map(|value| Flag { flag, key, value })
        };
        let own = [
            said("--listen", "listen", self.listen.map(|listen| listen.to_string())),
            said("--slots", "budget.slots", self.slots.map(|slots| slots.to_string())),
            said("--private", "grid.open", self.open.map(|open| open.to_string())),
        ];
        let sources = Sources {
            file: self.config_file(),
            environment: self.environment.clone(),
            flags: self.flags.iter().cloned().chain(own.into_iter().flatten()).collect(),
            machine: Machine::this(),
        };
        sources.read()
    }

    /// What a node with these options goes by. Nothing has changed.
    pub fn resolve(&self) -> Result<Config, ConfigErrors> {
        let mut config = Config::of_settings(self.settings()?);
        config.join.splice(..0, self.join.iter().cloned());
        Ok(config)
    }
}

/// The config file of a data folder.
pub fn config_file(data: &Path) -> PathBuf {
    data.join(FILE_NAME)
}

/// `potluck` below the user's data folder: `$XDG_DATA_HOME` or `~/.local/share`.
pub fn default_data_folder() -> Option<PathBuf> {
    let absolute =
        |name| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local").join("share")))
        .map(|base| base.join("potluck"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Require;

    fn resolve(text: &str, options: impl FnOnce(PathBuf) -> Options) -> Result<Config, String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE_NAME), text).unwrap();
        options(folder.path().to_owned()).resolve().map_err(|errors| errors.to_string())
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let text = "listen = '127.0.0.1:9'\njoin = ['a:1']\n[budget]\nslots = 3";
        let found = resolve(text, |data| Options {
            slots: Some(1),
            join: vec!["b:2".to_owned()],
            ..Options::new(data)
        });
        let found = found.unwrap();
        assert_eq!(found.listen, "127.0.0.1:9".parse().unwrap());
        assert_eq!(found.join, ["b:2", "a:1"]);
        assert_eq!((found.slots, found.open, found.require), (1, true, Require::Available));
        let plain = resolve("", Options::new).unwrap();
        assert_eq!(plain.listen, Options::DEFAULT_LISTEN.parse().unwrap());
    }

    #[test]
    fn a_grid_is_open_unless_file_or_flag_say_otherwise() {
        let open = |text, open| {
            resolve(text, |data| Options { open, ..Options::new(data) }).map(|config| config.open)
        };
        assert_eq!(open("", None), Ok(true));
        assert_eq!(open("[grid]\nopen = false", None), Ok(false));
        assert_eq!(open("[grid]\nopen = true", Some(false)), Ok(false));
        let error = open("[grid]\nopen = 'yes'", None).unwrap_err();
        assert!(error.contains("line 2") && error.contains("true or false"), "{error}");
        assert!(open("[grid]\nwork_bits = 1", None).unwrap_err().contains("work_bits"));
    }

    #[test]
    fn how_much_of_the_lock_is_required_is_one_of_two_words() {
        let require = |value| {
            let text = format!("join = []\n[sandbox]\nrequire = {value}");
            resolve(&text, Options::new).map(|config| config.require)
        };
        assert_eq!(require("'full'"), Ok(Require::Full));
        assert_eq!(require("'available'"), Ok(Require::Available));
        for wrong in ["'all'", "true", "['full']"] {
            let error = require(wrong).unwrap_err();
            for word in ["potluck.toml", "line 3", "sandbox.require", "\"full\" or \"available\""] {
                assert!(error.contains(word), "{error}");
            }
        }
        assert!(resolve("[sandbox]\nrequired = 'full'", Options::new).is_err());
    }

    #[test]
    fn no_config_file_can_make_a_cheat() {
        assert!(resolve("cheat = true", Options::new).unwrap_err().contains("`cheat`"));
    }
}
