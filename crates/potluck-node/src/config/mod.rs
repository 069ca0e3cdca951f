//! What the donor set: `potluck.toml`, the environment and flags, over defaults.
//!
//! Every key is declared once, in [`keys`]; reading, checking, explaining, writing and documenting
//! them all follow from that table. What the rules of the budget mean is decided elsewhere: here
//! they are read.

pub mod keys;
mod kind;
mod names;
mod error;
mod file;
mod settings;
mod rules;
mod edit;
mod watch;

use std::net::SocketAddr;

use potluck_peer::Rules;

pub use edit::{EditError, init, set, template, unset};
pub use error::{ConfigError, ConfigErrors};
pub use kind::{Kind, Value};
pub use names::{all, find, variable};
pub use settings::{FILE_NAME, Flag, Origin, Setting, Settings, Sources, default_of};
pub use watch::Watcher;

use keys::KEYS;

/// What a node goes by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Whom to join, as `host:port`.
    pub join: Vec<String>,
    /// Units at once, where no section says otherwise.
    pub slots: u16,
    /// What the peer decides by.
    pub rules: Rules,
    /// Whether strangers take part.
    pub open: bool,
    /// How much of the lock on sandboxes must hold.
    pub require: Require,
    /// Everything, and who said so.
    pub settings: Settings,
}

/// How much of the lock on sandbox children must hold before anything is run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Require {
    /// What this machine has.
    #[default]
    Available,
    /// All of it.
    Full,
}

impl Config {
    /// Where a node listens of which nobody says where: all addresses, on a port that nothing well
    /// known uses.
    pub(crate) fn default_listen() -> SocketAddr {
        ([0, 0, 0, 0], 7117).into()
    }

    /// The settings in the types that a node needs.
    pub(crate) fn of_settings(settings: Settings) -> Config {
        let listen = settings.text("listen").parse();
        let slots = u16::try_from(settings.number("budget.slots")).unwrap_or(u16::MAX);
        let is_full = settings.text("sandbox.require") == "full";
        Config {
            listen: listen.unwrap_or_else(|_| Config::default_listen()),
            join: settings.list("join").to_vec(),
            slots,
            rules: rules::of_settings(&settings),
            open: settings.flag("grid.open"),
            require: if is_full { Require::Full } else { Require::Available },
            settings,
        }
    }

    /// The keys that say something else than those of `running` and of which a running node takes no
    /// notice.
    pub fn restart_needed(&self, running: &Config) -> Vec<&'static str> {
        let value =
            |config: &Config, name| config.settings.get(name).map(|setting| setting.value.clone());
        let names = KEYS.iter().filter(|key| key.restart).map(|key| key.name);
        names.filter(|name| value(self, name) != value(running, name)).collect()
    }
}

/// Reading by name what the table says is there. Of another kind than expected is the same as
/// nothing.
impl Settings {
    pub(crate) fn number(&self, name: &str) -> u64 {
        self.get(name).and_then(|setting| setting.value.number()).unwrap_or_default()
    }

    pub(crate) fn flag(&self, name: &str) -> bool {
        self.get(name).and_then(|setting| setting.value.flag()).unwrap_or_default()
    }

    pub(crate) fn text(&self, name: &str) -> &str {
        self.get(name).and_then(|setting| setting.value.text()).unwrap_or_default()
    }

    pub(crate) fn list(&self, name: &str) -> &[String] {
        self.get(name).and_then(|setting| setting.value.list()).unwrap_or_default()
    }
}
