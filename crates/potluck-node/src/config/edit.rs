//! Writing `potluck.toml`: a new one with every key explained, and single values in one that a
//! person has written, whose comments and order stay.
//!
//! What is written was checked first, and it replaces the file in one step.

use std::fmt;
use std::fs::{DirBuilder, File};
use std::io::{self, Write as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use toml_edit::{ArrayOfTables, DocumentMut, Item, Table, TableLike};

use super::error::{ConfigError, ConfigErrors};
use super::file::{self, Entry};
use super::keys::{AT, Fallback, KEYS, SECTIONS, WEIGHTS};
use super::names;
use super::settings::{Sources, default_of, read_text, value_of};
use crate::machine::Machine;

/// Why nothing was written.
#[derive(Debug)]
pub enum EditError {
    /// What would stand in the file is wrong, or what stands there is.
    Config(ConfigErrors),
    /// There is such a file already.
    Exists(PathBuf),
    /// The system says no.
    Io(PathBuf, io::Error),
}

impl fmt::Display for EditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            EditError::Config(errors) => write!(f, "{errors}"),
            EditError::Exists(path) => {
                write!(f, "{} is there already; --force replaces it", path.display())
            }
            EditError::Io(path, error) => {
                write!(f, "{} cannot be written: {error}", path.display())
            }
        }
    }
}

impl std::error::Error for EditError {}

/// Writes a new file with every key of [`KEYS`], readable by its owner only, in a folder that is
/// made if there is none.
pub fn init(path: &Path, force: bool) -> Result<(), EditError> {
    if !force && path.symlink_metadata().is_ok() {
        return Err(EditError::Exists(path.to_owned()));
    }
    let written = make_folder(path).and_then(|()| replace(path, &template(&Machine::this())));
    written.map_err(|error| EditError::Io(path.to_owned(), error))
}

/// Gives a key a value, which is as people type it or as it would stand in the file. Returns what
/// stands in the file now.
pub fn set(path: &Path, name: &str, value: &str) -> Result<String, EditError> {
    let refuse = |what: String| refusal(path, name, what);
    let value = value_of(name, value).map_err(refuse)?;
    let key = names::find(name).ok_or_else(|| refuse(names::unknown(name)))?;
    let literal = key.kind.write(&value);
    let text = read_text(path).map_err(EditError::Config)?.unwrap_or_default();
    let is_set = |text: &str| {
        file::read(path, text).0.iter().any(|entry| entry.name == name && entry.value == value)
    };
    let new = match uncomment(path, &text, name, &literal).filter(|new| is_set(new)) {
        Some(new) => new,
        None => insert(&text, name, &literal).map_err(refuse)?,
    };
    check(path, &new)?;
    if !is_set(&new) {
        return Err(refuse(format!("`{name}` cannot be set in this file; write it there")));
    }
    replace_existing(path, &new)?;
    Ok(literal)
}

/// Takes the value of a key, or a whole `[[budget.at]]` such as `budget.at.1`, out of the file, so
/// that its default holds. Returns whether there was one.
pub fn unset(path: &Path, name: &str) -> Result<bool, EditError> {
    let refuse = |what: String| refusal(path, name, what);
    let section = names::at_number(name);
    if section.is_none() && names::find(name).is_none() {
        return Err(refuse(names::unknown(name)));
    }
    let Some(text) = read_text(path).map_err(EditError::Config)? else { return Ok(false) };
    let (entries, _) = file::read(path, &text);
    let new = match (section, entries.iter().find(|entry| entry.name == name)) {
        (Some(_), _) => remove(&text, name).map_err(refuse)?,
        (None, None) => return Ok(false),
        (None, Some(entry)) => match comment_out(&text, entry) {
            Some(new) => new,
            None => remove(&text, name).map_err(refuse)?,
        },
    };
    if new == text {
        return Ok(false);
    }
    check(path, &new)?;
    replace_existing(path, &new)?;
    Ok(true)
}

/// A file that sets nothing and explains everything.
pub fn template(machine: &Machine) -> String {
    let mut text = TEMPLATE_HEAD.to_owned();
    let mut section = "";
    for key in KEYS {
        let (of, last) = key.split();
        if of != section {
            text += &sections_after(section);
            section = of;
            text += &format!("\n[{section}]\n");
        }
        let default = match key.default {
            Fallback::Is(_) => "",
            Fallback::HalfOfCores => " By default half of this machine's cores.",
            Fallback::QuarterOfMemory => " By default a quarter of this machine's.",
        };
        let mut about = key.about.to_owned();
        about[..1].make_ascii_uppercase();
        text += &format!("# {about}.{default}\n");
        text += &format!("# {last} = {}\n", key.kind.write(&default_of(key, machine)));
    }
    text
}

/// The sections that belong to one, each with an example.
fn sections_after(section: &str) -> String {
    match section {
        "budget" => {
            let varying = KEYS.iter().filter(|key| key.varies).map(|key| key.split().1);
            let names = varying.collect::<Vec<_>>().join(", ");
            let mut text = format!("\n# {SECTIONS_HEAD}\n# {}\n", wrap(&names));
            text += "#\n# [[budget.at]]\n# hours = \"mon-fri 09:00-17:00\"\n# slots = 1\n";
            for (section, example) in SECTIONS.iter().zip(SECTION_EXAMPLES) {
                text += &format!("\n[{section}]\n# {example}\n");
            }
            text
        }
        "choice" => format!("\n[{WEIGHTS}]\n{WEIGHTS_EXAMPLE}"),
        _ => String::new(),
    }
}

/// Breaks a long comment into lines.
fn wrap(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        if lines.last().is_some_and(|line| line.len() + word.len() > COLUMNS) {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            *line += if line.is_empty() { "" } else { " " };
            *line += word;
        }
    }
    lines.join("\n# ")
}

/// Gives a key that stands in its section behind a `#` a value on that line.
fn uncomment(path: &Path, text: &str, name: &str, literal: &str) -> Option<String> {
    let (section, last) = name.rsplit_once('.').unwrap_or(("", name));
    if file::read(path, text).0.iter().any(|entry| entry.name == name) {
        return None;
    }
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let at = commented(&lines, section, last)?;
    lines[at] = format!("{last} = {literal}");
    Some(lines.join("\n") + "\n")
}

/// The line on which a key of a section stands behind a `#`.
fn commented(lines: &[String], section: &str, last: &str) -> Option<usize> {
    let mut current = Some("");
    lines.iter().position(|line| {
        let line = line.trim();
        let (shown, is_comment) = match line.strip_prefix('#') {
            Some(rest) => (rest.trim_start(), true),
            None => (line, false),
        };
        if let Some(header) = shown.strip_prefix('[') {
            let header = header.split(']').next().unwrap_or_default().trim();
            current = Some(header).filter(|_| !is_comment);
        }
        let is_key = |rest: &str| rest.trim_start().starts_with('=');
        is_comment && current == Some(section) && shown.strip_prefix(last).is_some_and(is_key)
    })
}

/// Puts the default behind a `#` on the lines of a value, or takes them away where the value has
/// none; none if it shares them with something else.
fn comment_out(text: &str, entry: &Entry) -> Option<String> {
    let (key, value) = &entry.spans;
    let start = text[..key.start].rfind('\n').map_or(0, |at| at + 1);
    let end = text[value.end..].find('\n').map_or(text.len(), |at| value.end + at + 1);
    let after = text[value.end..end].trim();
    if !text[start..key.start].trim().is_empty() || !(after.is_empty() || after.starts_with('#')) {
        return None;
    }
    let base = KEYS.iter().find(|key| key.name == entry.name);
    let line = base.map_or_else(String::new, |key| {
        let default = key.kind.write(&default_of(key, &Machine::this()));
        format!("# {} = {default}\n", key.split().1)
    });
    Some(format!("{}{line}{}", &text[..start], &text[end..]))
}

/// Gives a key a value wherever it stands, or at the end of its section, which is made if there is
/// none. The error says why that can't be.
fn insert(text: &str, name: &str, literal: &str) -> Result<String, String> {
    let mut document: DocumentMut = text.parse().map_err(|_| unreadable())?;
    let (section, last) = name.rsplit_once('.').unwrap_or(("", name));
    let value: toml_edit::Value = literal.parse().map_err(|_| unreadable())?;
    let table = descend(document.as_table_mut(), section)?;
    match table.get_mut(last).and_then(Item::as_value_mut) {
        Some(there) => {
            let decor = there.decor().clone();
            *there = value;
            *there.decor_mut() = decor;
        }
        None => {
            table.insert(last, Item::Value(value));
        }
    }
    Ok(document.to_string())
}

/// Takes a key or a `[[budget.at]]` away.
fn remove(text: &str, name: &str) -> Result<String, String> {
    let mut document: DocumentMut = text.parse().map_err(|_| unreadable())?;
    if let Some(number) = names::at_number(name) {
        let sections = document.get_mut("budget").and_then(|budget| budget.get_mut("at"));
        let sections = sections.and_then(Item::as_array_of_tables_mut);
        if let Some(sections) = sections.filter(|sections| number <= sections.len()) {
            sections.remove(number - 1);
        }
    } else {
        let (section, last) = name.rsplit_once('.').unwrap_or(("", name));
        descend(document.as_table_mut(), section)?.remove(last);
    }
    Ok(document.to_string())
}

/// The section of this name, made if there is none.
fn descend<'a>(
    table: &'a mut dyn TableLike,
    section: &str,
) -> Result<&'a mut dyn TableLike, String> {
    if section.is_empty() {
        return Ok(table);
    }
    if let Some(number) = names::at_number(section) {
        let budget = descend(table, "budget")?;
        let sections = budget.entry("at").or_insert(Item::ArrayOfTables(ArrayOfTables::new()));
        let sections = sections.as_array_of_tables_mut().ok_or_else(|| odd(AT))?;
        if sections.len() + 1 == number {
            sections.push(Table::new());
        }
        let count = sections.len();
        return match sections.get_mut(number - 1) {
            Some(table) => Ok(table),
            None => Err(format!("the next one is {AT}.{}; give it hours first", count + 1)),
        };
    }
    let (first, rest) = section.split_once('.').unwrap_or((section, ""));
    let mut new = Table::new();
    new.set_implicit(!rest.is_empty());
    let item = table.entry(first).or_insert(Item::Table(new));
    descend(item.as_table_like_mut().ok_or_else(|| odd(first))?, rest)
}

fn unreadable() -> String {
    "this file cannot be read as TOML; correct what `potluck config check` shows".to_owned()
}

fn odd(section: &str) -> String {
    format!("`{section}` is no section in this file; write it as one")
}

fn refusal(path: &Path, name: &str, what: String) -> EditError {
    let (place, key) = (path.display().to_string(), Some(name.to_owned()));
    EditError::Config(ConfigErrors(vec![ConfigError { place, line: None, key, what }]))
}

fn check(path: &Path, text: &str) -> Result<(), EditError> {
    let sources = Sources {
        file: path.to_owned(),
        environment: Vec::new(),
        flags: Vec::new(),
        machine: Machine::this(),
    };
    sources.with_text(text).map(|_| ()).map_err(EditError::Config)
}

/// Replaces a file that a person may have put elsewhere and linked to, with the rights it has.
fn replace_existing(path: &Path, text: &str) -> Result<(), EditError> {
    let written = match std::fs::canonicalize(path) {
        Ok(real) => std::fs::metadata(&real).and_then(|metadata| {
            replace(&real, text)?;
            std::fs::set_permissions(&real, metadata.permissions())
        }),
        Err(_) => make_folder(path).and_then(|()| replace(path, text)),
    };
    written.map_err(|error| EditError::Io(path.to_owned(), error))
}

/// Makes the folder of a file as a node would make it.
fn make_folder(path: &Path) -> io::Result<()> {
    let folder = folder_of(path);
    if folder.is_dir() {
        return Ok(());
    }
    DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// Puts a file, readable by its owner only, in the place of what is there, in one step.
fn replace(path: &Path, text: &str) -> io::Result<()> {
    let folder = folder_of(path);
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(text.as_bytes())?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    // The name is on disk when its folder is.
    File::open(folder)?.sync_all()
}

fn folder_of(path: &Path) -> &Path {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new("."))
}

const TEMPLATE_HEAD: &str = "\
# What this machine lends to the grid, and how; docs/donating.md explains it at length.
#
# Every key stands here with its default behind a `#`: take that away and change the value. A running
# node notices within seconds. `potluck config check` says whether all is well, `potluck config show`
# what holds and why, and `potluck config set budget.slots 2` does the writing for you.

";
const SECTIONS_HEAD: &str =
    "In the sections below each of these may have another value, which wins while the section
# holds; later sections win over earlier ones:";
const SECTION_EXAMPLES: [&str; 3] = ["slots = 4", "cpu-percent = 50", "slots = 1"];
const WEIGHTS_EXAMPLE: &str = "\
# Shares of single submitters, by peer id, against the 100 of everybody else; 0 is nothing at all.
# 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef = 200
";
/// Columns of a comment.
const COLUMNS: usize = 96;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    const MACHINE: Machine = Machine { cores: 8, memory_bytes: 16 << 30 };

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("potluck.toml");
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    fn after(text: &str, edit: impl FnOnce(&Path)) -> String {
        let (_folder, path) = file(text);
        edit(&path);
        std::fs::read_to_string(path).unwrap()
    }

    #[test]
    fn a_new_file_explains_every_key_and_sets_nothing() {
        let text = template(&MACHINE);
        let (entries, errors) = file::read(Path::new("x"), &text);
        assert_eq!((entries, errors), (vec![], vec![]));
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        for key in KEYS {
            let (section, last) = key.split();
            let at = commented(&lines, section, last).unwrap_or_else(|| panic!("{}", key.name));
            let about = lines[at - 1].to_lowercase();
            assert!(about.contains(&key.about.to_lowercase()), "{}", key.name);
        }
        assert!(lines.iter().all(|line| line.len() <= 130), "{text}");
    }

    #[test]
    fn every_default_of_a_new_file_can_be_taken_as_it_stands() {
        let text = template(&MACHINE);
        let taken: Vec<String> = (text.lines())
            .map(|line| match line.strip_prefix("# ") {
                Some(rest) if rest.split(' ').nth(1) == Some("=") => rest.to_owned(),
                _ => line.to_owned(),
            })
            .collect();
        // The example of hours has its header behind a `#` too.
        let taken = taken.join("\n").replace("# [[budget.at]]", "[[budget.at]]");
        let (entries, errors) = file::read(Path::new("x"), &taken);
        assert_eq!(errors, []);
        for key in KEYS {
            let entry = entries.iter().find(|entry| entry.name == key.name).unwrap();
            assert_eq!(entry.value, default_of(key, &MACHINE), "{}", key.name);
        }
    }

    #[test]
    fn a_new_file_is_the_owners_alone_and_replaces_nothing_unasked() {
        let (_folder, path) = file("slots");
        assert!(matches!(init(&path, false), Err(EditError::Exists(_))));
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "slots");
        init(&path, true).unwrap();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        let below = path.with_file_name("new").join("potluck.toml");
        init(&below, false).unwrap();
        assert!(below.exists());
    }

    #[test]
    fn a_value_goes_where_its_default_stands() {
        let text = template(&MACHINE);
        let new = after(&text, |path| {
            assert_eq!(set(path, "budget.memory", "1.5GiB").unwrap(), "\"1536MiB\"");
            set(path, "budget.idle.slots", "6").unwrap();
            set(path, "listen", "127.0.0.1:9").unwrap();
        });
        let expected = text
            .replacen("# memory = \"4GiB\"", "memory = \"1536MiB\"", 1)
            .replacen("[budget.idle]\n# slots = 4", "[budget.idle]\nslots = 6", 1)
            .replacen("# listen = \"0.0.0.0:7117\"", "listen = \"127.0.0.1:9\"", 1);
        assert_eq!(new, expected);
        let back = after(&new, |path| {
            assert!(unset(path, "budget.memory").unwrap());
            assert!(!unset(path, "budget.memory").unwrap());
        });
        assert!(back.contains("\n# memory = ") && !back.contains("\nmemory"), "{back}");
    }

    #[test]
    fn comments_and_order_stay() {
        let text = "# mine\n[budget] # here\nupload = '1MiB/s' # slow line\nslots = 1\n\n[donor]\n\
                    team = 'x'\n";
        let new = after(text, |path| {
            set(path, "budget.upload", "2MiB/s").unwrap();
            set(path, "budget.cpu-percent", "50").unwrap();
        });
        let expected = "# mine\n[budget] # here\nupload = \"2MiB/s\" # slow line\nslots = 1\n\
                        cpu-percent = 50\n\n[donor]\nteam = 'x'\n";
        assert_eq!(new, expected);
    }

    #[test]
    fn sections_are_made_where_there_are_none() {
        let peer = "ab".repeat(32);
        let new = after("join = []", |path| {
            set(path, "budget.on-battery.slots", "1").unwrap();
            set(path, &format!("choice.weights.{peer}"), "200").unwrap();
            set(path, "budget.at.1.hours", "mon-fri 9:00-17:00").unwrap();
            set(path, "budget.at.1.slots", "0").unwrap();
            assert!(set(path, "budget.at.3.hours", "1:00-2:00").is_err());
            set(path, "budget.pause-programs", "a,b").unwrap();
        });
        let (entries, errors) = file::read(Path::new("x"), &new);
        assert_eq!((entries.len(), errors), (6, vec![]), "{new}");
        let gone = after(&new, |path| {
            assert!(unset(path, "budget.at.1.hours").is_err());
            assert!(unset(path, "budget.at.1").unwrap());
            assert!(!unset(path, "budget.at.1").unwrap());
            assert!(unset(path, &format!("choice.weights.{peer}")).unwrap());
        });
        assert_eq!(file::read(Path::new("x"), &gone).0.len(), 3, "{gone}");
    }

    #[test]
    fn a_value_in_an_inline_table_is_reached_too() {
        let text = "budget = { slots = 1, idle.slots = 2 } # short\n";
        let new = after(text, |path| {
            set(path, "budget.slots", "3").unwrap();
            set(path, "budget.idle.cpu-percent", "50%").unwrap();
            assert!(unset(path, "budget.idle.slots").unwrap());
        });
        assert_eq!(new, "budget = { slots = 3, idle.cpu-percent = 50 } # short\n");
    }

    #[test]
    fn what_check_would_refuse_is_not_written() {
        let text = "[budget]\nslots = 1\n";
        for (name, value) in [
            ("budget.slots", "1025"),
            ("budget.slots", "many"),
            ("budget.slot", "1"),
            ("slots", "1"),
            ("budget", "1"),
            ("budget.idle.disk", "1GiB"),
            ("choice.weights.me", "1"),
            ("budget.at.1.slots", "1"),
        ] {
            let new = after(text, |path| assert!(set(path, name, value).is_err(), "{name}"));
            assert_eq!(new, text);
        }
        // Nor is anything written beside what is wrong already, unless that mends it.
        let wrong = "[budget]\nslots = 'x'\n";
        let same = after(wrong, |path| assert!(set(path, "budget.upload", "1MiB/s").is_err()));
        assert_eq!(same, wrong);
        let right = after(wrong, |path| assert!(set(path, "budget.slots", "2").is_ok()));
        assert_eq!(right, "[budget]\nslots = 2\n");
    }

    #[test]
    fn a_link_and_the_files_rights_stay() {
        let (folder, path) = file("");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let link = folder.path().join("link.toml");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        set(&link, "budget.slots", "1").unwrap();
        assert!(link.symlink_metadata().unwrap().is_symlink());
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o644);
        assert!(std::fs::read_to_string(&path).unwrap().contains("slots = 1"));
    }
}
