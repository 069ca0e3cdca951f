//! What a node is started with: flags, over `potluck.toml` in the data folder, over defaults.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use potluck_unit::Identity;
use serde::Deserialize;

/// What a node is started with.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where everything is kept: key, records, blobs, compiled modules, the control socket.
    pub data: PathBuf,
    /// Where to listen; none for the config file's or [`Options::DEFAULT_LISTEN`].
    pub listen: Option<SocketAddr>,
    /// Whom to join, as `host:port`, besides those in the config file.
    pub join: Vec<String>,
    /// How many units to run at once; none for the config file's or half of the cores.
    pub slots: Option<u16>,
    /// Whether to take part in an open grid, where keys cost work; none for what the config file
    /// says, or yes.
    pub open: Option<bool>,
    /// How much work keys must prove in an open grid. All its nodes must ask for the same, so this
    /// is for tests alone: a flag that help does not list, and no key of the config file.
    pub work_bits: u8,
    /// Return wrong results, to show and test that it is found out. A flag of the worker that help
    /// does not list, and no key of the config file.
    pub cheat: bool,
}

/// `potluck.toml`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// Where to listen.
    listen: Option<SocketAddr>,
    /// Whom to join, as `host:port`.
    #[serde(default)]
    join: Vec<String>,
    /// How many units to run at once.
    slots: Option<u16>,
    #[serde(default)]
    grid: GridConfig,
    #[serde(default)]
    sandbox: SandboxConfig,
}

/// `[grid]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct GridConfig {
    /// Whether strangers take part.
    open: Option<bool>,
}

/// `[sandbox]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct SandboxConfig {
    /// How much of the lock on children must hold.
    #[serde(default)]
    require: Require,
}

/// How much of the lock on sandbox children must hold before anything is run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "toml::Value")]
pub(crate) enum Require {
    /// What this machine has.
    #[default]
    Available,
    /// All of it.
    Full,
}

impl TryFrom<toml::Value> for Require {
    type Error = String;

    fn try_from(value: toml::Value) -> Result<Require, String> {
        match value.as_str() {
            Some("available") => Ok(Require::Available),
            Some("full") => Ok(Require::Full),
            _ => Err(format!("sandbox.require is {value}, and can be \"full\" or \"available\"")),
        }
    }
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
            work_bits: Identity::BITS,
            cheat: false,
        }
    }

    /// Whether a node with these options takes part in an open grid. The error is one sentence for
    /// a person.
    pub fn is_open(&self) -> Result<bool, String> {
        self.resolve().map(|resolved| resolved.open)
    }

    pub(crate) fn default_listen() -> SocketAddr {
        Self::DEFAULT_LISTEN.parse().expect("the constant is an address")
    }

    /// Fills in what was not given from the config file and defaults. The error is one sentence for
    /// a person; nothing has changed.
    pub(crate) fn resolve(&self) -> Result<Resolved, String> {
        let path = self.data.join("potluck.toml");
        let config = Config::read(&path)?;
        let mut join = self.join.clone();
        join.extend(config.join);
        Ok(Resolved {
            listen: self.listen.or(config.listen).unwrap_or_else(Options::default_listen),
            join,
            slots: self.slots.or(config.slots).unwrap_or_else(default_slots),
            open: self.open.or(config.grid.open).unwrap_or(true),
            require: config.sandbox.require,
        })
    }
}

/// What is left to choose: nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub(crate) listen: SocketAddr,
    pub(crate) join: Vec<String>,
    pub(crate) slots: u16,
    pub(crate) open: bool,
    pub(crate) require: Require,
}

impl Config {
    fn read(path: &Path) -> Result<Config, String> {
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Config::default());
            }
            Err(error) => {
                let path = path.display();
                return Err(format!("cannot read the config file {path}: {error}"));
            }
        };
        toml::from_str(&text).map_err(|error| {
            let line = error.span().map_or(1, |span| text[..span.start].matches('\n').count() + 1);
            let (path, what) = (path.display(), error.message());
            format!("the config file {path} is wrong at line {line}: {what}; correct or remove it")
        })
    }
}

/// Half of the cores, at least one: a donor's machine should feel like before.
fn default_slots() -> u16 {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    u16::try_from(cores / 2).unwrap_or(u16::MAX).max(1)
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

    fn resolve(config: &str, options: impl FnOnce(PathBuf) -> Options) -> Result<Resolved, String> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("potluck.toml"), config).unwrap();
        options(folder.path().to_owned()).resolve()
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let config = "listen = '127.0.0.1:9'\nslots = 3\njoin = ['a:1']";
        let found = resolve(config, |data| Options {
            slots: Some(1),
            join: vec!["b:2".to_owned()],
            ..Options::new(data)
        });
        let expected = Resolved {
            listen: "127.0.0.1:9".parse().unwrap(),
            join: vec!["b:2".to_owned(), "a:1".to_owned()],
            slots: 1,
            open: true,
            require: Require::Available,
        };
        assert_eq!(found, Ok(expected));
    }

    #[test]
    fn a_grid_is_open_unless_file_or_flag_say_otherwise() {
        let open = |config, open| {
            resolve(config, |data| Options { open, ..Options::new(data) })
                .map(|resolved| resolved.open)
        };
        assert_eq!(open("", None), Ok(true));
        assert_eq!(open("[grid]\nopen = false", None), Ok(false));
        assert_eq!(open("[grid]\nopen = true", Some(false)), Ok(false));
        let error = open("[grid]\nopen = 'yes'", None).unwrap_err();
        assert!(error.contains("line 2") && error.contains("expected a boolean"), "{error}");
        assert!(open("[grid]\nwork_bits = 1", None).unwrap_err().contains("work_bits"));
    }

    #[test]
    fn a_wrong_config_names_file_line_and_key() {
        let error = resolve("slots = 1\nslot = 2", Options::new).unwrap_err();
        assert!(error.contains("potluck.toml"), "{error}");
        assert!(error.contains("line 2"), "{error}");
        assert!(error.contains("`slot`"), "{error}");
        let error = resolve("slots = 'many'", Options::new).unwrap_err();
        assert!(error.contains("line 1"), "{error}");
    }

    #[test]
    fn how_much_of_the_lock_is_required_is_one_of_two_words() {
        let require = |value| {
            let config = format!("slots = 1\n[sandbox]\nrequire = {value}");
            resolve(&config, Options::new).map(|resolved| resolved.require)
        };
        assert_eq!(require("'full'"), Ok(Require::Full));
        assert_eq!(require("'available'"), Ok(Require::Available));
        for wrong in ["'all'", "true", "['full']"] {
            let error = require(wrong).unwrap_err();
            for word in ["line 3", "sandbox.require", "\"full\" or \"available\""] {
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
