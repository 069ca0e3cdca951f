//! Settings: the value of every key, and who said so: a flag, over the environment, over the file,
//! over the default.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read as _};
use std::path::{Path, PathBuf};

use super::error::{ConfigError, ConfigErrors};
use super::file;
use super::keys::{AT, Fallback, KEYS, Key, SECTIONS, WEIGHTS};
use super::kind::{Value, Written};
use super::names;
use crate::machine::Machine;

/// Where values come from besides defaults.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sources {
    /// The file, which need not exist.
    pub file: PathBuf,
    /// Variables of the environment; those that are not ours are ignored.
    pub environment: Vec<(String, String)>,
    /// What the command line says, later ones winning.
    pub flags: Vec<Flag>,
    /// What this machine has, from which some defaults follow.
    pub machine: Machine,
}

/// One value from the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flag {
    /// The flag as it was given: `--slots`.
    pub flag: String,
    /// The dotted name of the key.
    pub key: String,
    /// The value as people type it, lists with commas, or as it would stand in the file.
    pub value: String,
}

/// The value of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The value.
    pub value: Value,
    /// Who said so.
    pub origin: Origin,
}

/// Who said so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody.
    Default,
    /// This line of the file, counted from 1.
    File(usize),
    /// This variable of the environment.
    Environment(String),
    /// This flag.
    Flag(String),
}

/// The value of every key of [`KEYS`], and those of other sections that were set.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    values: BTreeMap<String, Setting>,
}

impl Sources {
    /// Puts everything together.
    pub fn read(&self) -> Result<Settings, ConfigErrors> {
        self.with_text(&read_text(&self.file)?.unwrap_or_default())
    }

    /// Puts everything together as if this stood in the file.
    pub(super) fn with_text(&self, text: &str) -> Result<Settings, ConfigErrors> {
        let mut settings = Settings::of_defaults(&self.machine);
        let (entries, mut errors) = file::read(&self.file, text);
        for entry in entries {
            settings.put(entry.name, entry.value, Origin::File(entry.line));
        }
        for (variable, value) in &self.environment {
            match names::of_variable(variable) {
                Ok(None) => {}
                Ok(Some(name)) => {
                    let origin = Origin::Environment(variable.clone());
                    errors.extend(settings.say(&name, value, variable, origin).err());
                }
                Err(what) => errors.push(said_wrong(variable, None, what)),
            }
        }
        for Flag { flag, key, value } in &self.flags {
            errors.extend(settings.say(key, value, flag, Origin::Flag(flag.clone())).err());
        }
        errors.extend(settings.section_without_hours());
        if errors.is_empty() { Ok(settings) } else { Err(ConfigErrors(errors)) }
    }
}

impl Settings {
    fn of_defaults(machine: &Machine) -> Settings {
        let mut settings = Settings::default();
        for key in KEYS {
            settings.put(key.name.to_owned(), default_of(key, machine), Origin::Default);
        }
        settings
    }

    /// The setting of this dotted name. Every key of [`KEYS`] has one.
    pub fn get(&self, name: &str) -> Option<&Setting> {
        self.values.get(name)
    }

    /// Every setting: in the order of [`KEYS`], then section by section, then weights.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &'static Key, &Setting)> {
        let mut all: Vec<(&str, &'static Key, &Setting)> = (self.values.iter())
            .filter_map(|(name, setting)| Some((name.as_str(), names::find(name)?, setting)))
            .collect();
        all.sort_by_cached_key(|(name, key, _)| rank(name, key));
        all.into_iter()
    }

    /// How many `[[budget.at]]` sections there are.
    pub fn at_count(&self) -> usize {
        (1..=names::AT_MAX)
            .take_while(|number| self.values.contains_key(&format!("{AT}.{number}.hours")))
            .count()
    }

    /// The peers with a weight of their own, and it.
    pub fn weights(&self) -> impl Iterator<Item = (&str, u64)> {
        self.values.iter().filter_map(|(name, setting)| {
            let peer = name.strip_prefix(WEIGHTS)?.strip_prefix('.')?;
            Some((peer, setting.value.number()?))
        })
    }

    fn put(&mut self, name: String, value: Value, origin: Origin) {
        self.values.insert(name, Setting { value, origin });
    }

    /// Takes what somebody said outside the file.
    fn say(
        &mut self,
        name: &str,
        text: &str,
        place: &str,
        origin: Origin,
    ) -> Result<(), ConfigError> {
        let value = value_of(name, text).map_err(|what| said_wrong(place, Some(name), what))?;
        self.put(name.to_owned(), value, origin);
        Ok(())
    }

    /// Flags can name sections that the file does not have.
    fn section_without_hours(&self) -> Option<ConfigError> {
        let next = self.at_count() + 1;
        self.values.iter().find_map(|(name, setting)| {
            let number =
                name.rsplit_once('.').and_then(|(section, _)| names::at_number(section))?;
            let Origin::Flag(flag) = &setting.origin else { return None };
            let what = format!("there is no [[{AT}]] number {number}; say {AT}.{next}.hours first");
            (number >= next).then(|| said_wrong(flag, Some(name), what))
        })
    }
}

/// The value that a key is given outside a file: as people type it, or as it would stand in the
/// file. The error says what is wrong.
pub(super) fn value_of(name: &str, text: &str) -> Result<Value, String> {
    let key = names::find(name).ok_or_else(|| names::unknown(name))?;
    let plain = key.kind.of_plain(text);
    let is_literal = text.trim_start().starts_with(['[', '"', '\'']);
    let written = file::literal(text.trim()).filter(|_| is_literal).unwrap_or(plain);
    key.kind.value(&written).ok_or_else(|| file::misfit(name, key, &written))
}

fn said_wrong(place: &str, key: Option<&str>, what: String) -> ConfigError {
    ConfigError { place: place.to_owned(), line: None, key: key.map(str::to_owned), what }
}

/// The default of a key on this machine.
pub fn default_of(key: &Key, machine: &Machine) -> Value {
    let number = |number: u64| key.kind.value(&Written::Number(i128::from(number)));
    let fixed = match key.default {
        Fallback::Is(text) => key.kind.value(&key.kind.of_plain(text)),
        Fallback::HalfOfCores => number(u64::from(machine.cores / 2).max(1)),
        // In whole MiB, so that people can read it. What is out of bounds is the nearest bound.
        Fallback::QuarterOfMemory => {
            let quarter = (machine.memory_bytes / 4) >> 20 << 20;
            key.kind.bounds().and_then(|(from, to)| number(quarter.clamp(from, to)))
        }
    };
    // A test holds that every default is allowed.
    fixed.unwrap_or(Value::Unlimited)
}

/// The text of a config file; none if there is no such file.
pub(super) fn read_text(path: &Path) -> Result<Option<String>, ConfigErrors> {
    let wrong = |line, what: String| {
        let place = path.display().to_string();
        ConfigErrors(vec![ConfigError { place, line, key: None, what }])
    };
    let unreadable = |error| wrong(None, format!("cannot be read: {error}"));
    let file = match std::fs::File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(error)),
    };
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(wrong(None, format!("has more than the {FILE_BYTES_MAX} bytes that are read")));
    }
    String::from_utf8(bytes).map(Some).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        wrong(Some(line), "is not text in UTF-8".to_owned())
    })
}

/// Sorts names as [`Settings::iter`] says.
fn rank(name: &str, key: &Key) -> (usize, usize, usize, String) {
    let section = name.rsplit_once('.').map_or("", |(section, _)| section);
    let at = KEYS.iter().position(|known| known.name == key.name).unwrap_or(0);
    let part = SECTIONS.iter().position(|known| *known == section);
    match (part, names::at_number(section)) {
        (Some(part), _) => (1, part, at, String::new()),
        (None, Some(number)) => (2, number, at, String::new()),
        (None, None) if section == WEIGHTS => (3, 0, 0, name.to_owned()),
        (None, None) => (0, 0, at, String::new()),
    }
}

/// The name of the file in the data folder.
pub const FILE_NAME: &str = "potluck.toml";
/// A file with every key, section and weight that is allowed has less.
const FILE_BYTES_MAX: u64 = 1 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    const MACHINE: Machine = Machine { cores: 8, memory_bytes: 16 << 30 };

    fn sources(environment: &[(&str, &str)], flags: &[(&str, &str)]) -> Sources {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let flags = flags.iter().map(owned);
        let flags = flags.map(|(key, value)| Flag { flag: "--set".to_owned(), key, value });
        Sources {
            file: PathBuf::from("potluck.toml"),
            environment: environment.iter().map(owned).collect(),
            flags: flags.collect(),
            machine: MACHINE,
        }
    }

    fn slots(sources: &Sources, text: &str) -> Setting {
        sources.with_text(text).unwrap().get("budget.slots").unwrap().clone()
    }

    #[test]
    fn a_flag_wins_over_the_environment_over_the_file_over_the_default() {
        let file = "[budget]\nslots = 3";
        let environment = [("POTLUCK_BUDGET_SLOTS", "5"), ("HOME", "/")];
        let flags = [("budget.slots", "6"), ("budget.slots", "7")];
        let number = |number, origin| Setting { value: Value::Number(number), origin };
        let by = |environment: &[_], flags: &[_], text| slots(&sources(environment, flags), text);
        assert_eq!(by(&[], &[], ""), number(4, Origin::Default));
        assert_eq!(by(&[], &[], file), number(3, Origin::File(2)));
        let variable = Origin::Environment("POTLUCK_BUDGET_SLOTS".to_owned());
        assert_eq!(by(&environment, &[], file), number(5, variable));
        assert_eq!(by(&environment, &flags, file), number(7, Origin::Flag("--set".to_owned())));
    }

    #[test]
    fn every_key_has_a_setting_and_every_default_is_allowed() {
        for machine in [MACHINE, Machine { cores: 1, memory_bytes: 0 }] {
            let settings = Settings::of_defaults(&machine);
            for key in KEYS {
                let value = &settings.get(key.name).unwrap().value;
                assert_eq!(value_of(key.name, &key.kind.write(value)).as_ref(), Ok(value));
            }
        }
        let small = Settings::of_defaults(&Machine { cores: 1, memory_bytes: 0 });
        assert_eq!(small.get("budget.slots").unwrap().value, Value::Number(1));
        assert_eq!(small.get("budget.memory").unwrap().value, Value::Number(128 << 20));
        let settings = Settings::of_defaults(&MACHINE);
        assert_eq!(settings.get("budget.memory").unwrap().value, Value::Number(4 << 30));
        assert_eq!(settings.iter().count(), KEYS.len());
    }

    #[test]
    fn errors_of_all_sources_are_told_together() {
        let environment = [("POTLUCK_BUDGET_CPU_PERCENT", "0"), ("POTLUCK_GRID_OPNE", "true")];
        let sources =
            sources(&environment, &[("budget.memry", "1GiB"), ("budget.at.1.slots", "1")]);
        let errors = sources.with_text("speed = 1").unwrap_err();
        let errors: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
        for (error, hint) in errors.iter().zip([
            "potluck.toml, line 1: `speed` is no key",
            "POTLUCK_BUDGET_CPU_PERCENT: `budget.cpu-percent` is 0, and must be",
            "POTLUCK_GRID_OPNE: POTLUCK_GRID_OPNE stands for no key of potluck.toml; did you mean \
             POTLUCK_GRID_OPEN?",
            "--set: `budget.memry` is no key; did you mean `memory`?",
            "--set: there is no [[budget.at]] number 1; say budget.at.1.hours first",
        ]) {
            assert!(error.starts_with(hint), "{error}");
        }
        assert_eq!(errors.len(), 5, "{errors:?}");
    }

    #[test]
    fn values_outside_the_file_may_be_written_as_in_it() {
        let steam = Ok(Value::List(vec!["steam".to_owned()]));
        assert_eq!(value_of("budget.pause-programs", "steam"), steam);
        assert_eq!(value_of("budget.pause-programs", "['steam']"), steam);
        let nickname = |text| value_of("donor.nickname", text);
        assert_eq!(nickname("7"), Ok(Value::Text("7".to_owned())));
        assert_eq!(nickname("'me'"), Ok(Value::Text("me".to_owned())));
        assert_eq!(nickname("'me"), Ok(Value::Text("'me".to_owned())));
        assert_eq!(value_of("budget.memory", "\"1GiB\""), Ok(Value::Number(1 << 30)));
        assert!(value_of("budget", "1").is_err());
    }

    #[test]
    fn a_file_that_is_too_large_or_no_text_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("potluck.toml");
        assert_eq!(read_text(&path), Ok(None));
        let bytes = usize::try_from(FILE_BYTES_MAX).unwrap();
        std::fs::write(&path, vec![b'#'; bytes]).unwrap();
        assert_eq!(read_text(&path).unwrap().map(|text| text.len()), Some(bytes));
        std::fs::write(&path, vec![b'#'; bytes + 1]).unwrap();
        assert!(read_text(&path).unwrap_err().to_string().contains("has more than"));
        std::fs::write(&path, b"a\n\xff").unwrap();
        assert!(read_text(&path).unwrap_err().to_string().contains("line 2: is not text"));
        assert!(read_text(folder.path()).unwrap_err().to_string().contains("cannot be read"));
    }
}
