//! Reading `potluck.toml`: every value it sets, and everything that is wrong with it at once.

use std::ops::Range;
use std::path::Path;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::error::ConfigError;
use super::keys::{AT, Key};
use super::kind::{Value, Written};
use super::names;

/// A value that a file sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its dotted name.
    pub(super) name: String,
    pub(super) value: Value,
    /// Counted from 1.
    pub(super) line: usize,
    /// Where its last name stands in the text, and where its value does.
    pub(super) spans: (Range<usize>, Range<usize>),
}

/// Reads the text of the file at `path`: what it sets, in the order of names, and what is wrong with
/// it, in the order of lines. What is wrong sets nothing.
pub(super) fn read(path: &Path, text: &str) -> (Vec<Entry>, Vec<ConfigError>) {
    let (table, syntax) = DeTable::parse_recoverable(text);
    let mut reader = Reader { path, text, entries: Vec::new(), errors: Vec::new() };
    for error in syntax.iter().take(ERRORS_MAX) {
        let at = error.span().map_or(0, |span| span.start);
        reader.refuse(at, None, format!("not TOML: {}", error.message().replace('\n', ", ")));
    }
    // What follows the first error of a line is its consequence.
    reader.errors.dedup_by_key(|error| error.line);
    let broken: Vec<Option<usize>> = reader.errors.iter().map(|error| error.line).collect();
    reader.table("", table.get_ref());
    let Reader { entries, mut errors, .. } = reader;
    // What cannot be read makes odd keys and values of its line, and says more itself.
    let mut at = 0;
    errors.retain(|error| {
        at += 1;
        at <= broken.len() || !broken.contains(&error.line)
    });
    errors.sort_by_key(|error| error.line);
    (entries, errors)
}

/// A value as it would stand in the file.
pub(super) fn literal(text: &str) -> Option<Written> {
    DeValue::parse(text).ok().map(|value| written(value.get_ref()))
}

struct Reader<'a> {
    path: &'a Path,
    text: &'a str,
    entries: Vec<Entry>,
    errors: Vec<ConfigError>,
}

impl Reader<'_> {
    /// Reads what stands in the section of this name, empty for the top of the file.
    fn table(&mut self, section: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let last = key.get_ref();
            let name =
                if section.is_empty() { last.to_string() } else { format!("{section}.{last}") };
            let at = key.span().start;
            let shown: String = name.chars().take(NAME_SHOWN_MAX).collect();
            if last.contains('.') || last.is_empty() {
                self.refuse(at, Some(&shown), format!("`{shown}` is no key"));
            } else if let Some(found) = names::find(&name) {
                self.value(name, found, key.span(), value);
            } else if name == AT {
                self.at(value);
            } else if names::is_section(&name) {
                if let DeValue::Table(table) = value.get_ref() {
                    self.table(&name, table);
                } else {
                    let found = show(&written(value.get_ref()));
                    let what =
                        format!("`{name}` is a section, written as [{name}], and not {found}");
                    self.refuse(at, Some(&name), what);
                }
            } else {
                self.refuse(at, Some(&shown), names::unknown(&shown));
            }
        }
    }

    /// Reads the sections of which there may be several.
    fn at(&mut self, value: &Spanned<DeValue<'_>>) {
        let start = value.span().start;
        let DeValue::Array(sections) = value.get_ref() else {
            let what = format!("there may be several of {AT}: write [[{AT}]] above it");
            return self.refuse(start, Some(AT), what);
        };
        if sections.len() > names::AT_MAX {
            let what = format!("there are more than {} of [[{AT}]]", names::AT_MAX);
            self.refuse(start, Some(AT), what);
        }
        for (number, section) in (1..=names::AT_MAX).zip(sections) {
            let name = format!("{AT}.{number}");
            let start = section.span().start;
            let DeValue::Table(table) = section.get_ref() else {
                self.refuse(start, Some(&name), format!("write [[{AT}]] above it"));
                continue;
            };
            self.table(&name, table);
            if !table.keys().any(|key| key.get_ref() == "hours") {
                let what = format!(
                    "[[{AT}]] number {number} has no hours; write hours = \"mon-fri 09:00-17:00\" \
                     below it"
                );
                self.refuse(start, Some(&name), what);
            }
        }
    }

    fn value(
        &mut self,
        name: String,
        key: &'static Key,
        span: Range<usize>,
        value: &Spanned<DeValue<'_>>,
    ) {
        let written = written(value.get_ref());
        match key.kind.value(&written) {
            Some(found) => {
                let line = self.line(span.start);
                self.entries.push(Entry { name, value: found, line, spans: (span, value.span()) });
            }
            None => {
                let what = misfit(&name, key, &written);
                self.refuse(span.start, Some(&name), what);
            }
        }
    }

    fn refuse(&mut self, at: usize, key: Option<&str>, what: String) {
        if self.errors.len() < ERRORS_MAX {
            let line = Some(self.line(at));
            let place = self.path.display().to_string();
            self.errors.push(ConfigError { place, line, key: key.map(str::to_owned), what });
        }
    }

    fn line(&self, at: usize) -> usize {
        let before = self.text.as_bytes().get(..at).unwrap_or_default();
        before.iter().filter(|byte| **byte == b'\n').count() + 1
    }
}

/// What was found, and what its key allows.
pub(super) fn misfit(name: &str, key: &Key, written: &Written) -> String {
    format!("`{name}` is {}, and must be {}", show(written), key.kind.expected())
}

fn written(value: &DeValue<'_>) -> Written {
    match value {
        DeValue::String(text) => Written::Text(text.to_string()),
        DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix())
            .map_or(Written::Other("a number out of all bounds"), Written::Number),
        DeValue::Boolean(flag) => Written::Flag(*flag),
        DeValue::Array(values) => {
            let values = values.iter().map(|value| {
                let is_list = matches!(value.get_ref(), DeValue::Array(_));
                if is_list { Written::Other("a list in a list") } else { written(value.get_ref()) }
            });
            Written::List(values.collect())
        }
        DeValue::Float(_) => Written::Other("a number with a fraction"),
        DeValue::Datetime(_) => Written::Other("a date or time"),
        DeValue::Table(_) => Written::Other("a table"),
    }
}

/// What was written, cut to what fits an error.
fn show(written: &Written) -> String {
    let text = match written {
        Written::Number(number) => number.to_string(),
        Written::Flag(flag) => flag.to_string(),
        Written::Text(text) => format!("{text:?}"),
        Written::Other(what) => (*what).to_owned(),
        Written::List(words) => {
            let words: Vec<String> = words.iter().take(SHOWN_MAX).map(show).collect();
            format!("[{}]", words.join(", "))
        }
    };
    if text.chars().count() <= SHOWN_MAX {
        return text;
    }
    text.chars().take(SHOWN_MAX).collect::<String>() + "…"
}

/// Errors of one file that are told; nobody reads more.
const ERRORS_MAX: usize = 100;
/// Letters of a wrong value that an error repeats.
const SHOWN_MAX: usize = 60;
/// Letters of a wrong name that an error repeats: more than the longest right one, which ends in a
/// peer id.
const NAME_SHOWN_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    fn errors(text: &str) -> Vec<String> {
        let (_, errors) = read(Path::new("potluck.toml"), text);
        errors.iter().map(ToString::to_string).collect()
    }

    fn values(text: &str) -> Vec<(String, Value, usize)> {
        let (entries, errors) = read(Path::new("potluck.toml"), text);
        assert_eq!(errors, []);
        entries.into_iter().map(|entry| (entry.name, entry.value, entry.line)).collect()
    }

    #[test]
    fn a_value_is_known_by_its_dotted_name_and_line() {
        let text = "listen = '[::1]:9'\n[budget]\nslots = 2\n[budget.in-use]\nslots = 0\n\
                    [[budget.at]]\nhours = 'mon 01:00-02:00'\nslots = 3\n";
        let found = values(text);
        let expected = [
            ("budget.at.1.hours", Value::Text("mon 01:00-02:00".to_owned()), 7),
            ("budget.at.1.slots", Value::Number(3), 8),
            ("budget.in-use.slots", Value::Number(0), 5),
            ("budget.slots", Value::Number(2), 3),
            ("listen", Value::Text("[::1]:9".to_owned()), 1),
        ];
        assert_eq!(found, expected.map(|(name, value, line)| (name.to_owned(), value, line)));
        assert_eq!(values("budget.idle = { slots = 1 }")[0].0, "budget.idle.slots");
    }

    #[test]
    fn every_error_is_told_with_its_line_and_what_is_allowed() {
        let text =
            "[budget]\ncpu-percent = 150\nslot = 2\nmemory = '2 gigs'\n[budget.idle]\ndisk = 1\n";
        let expected = [
            "potluck.toml, line 2: `budget.cpu-percent` is 150, and must be a whole number of \
             percent from 1 to 100",
            "potluck.toml, line 3: `budget.slot` is no key; did you mean `slots`?",
            "potluck.toml, line 4: `budget.memory` is \"2 gigs\", and must be a size from 128MiB to \
             16TiB, such as \"512MiB\" or \"2GiB\"",
            "potluck.toml, line 6: `budget.idle.disk` is no key: `disk` holds at all times and stands \
             in [budget]",
        ];
        assert_eq!(errors(text), expected);
    }

    #[test]
    fn what_is_not_toml_is_told_once_and_the_rest_is_still_looked_at() {
        let found = errors("[budget]\nslots = = 2\ncpu-percent = 0\n");
        assert_eq!(found.len(), 2, "{found:?}");
        assert!(found[0].starts_with("potluck.toml, line 2: not TOML: "), "{found:?}");
        assert!(found[1].contains("line 3: `budget.cpu-percent` is 0,"), "{found:?}");
        assert!(errors("[budget]\nslots = 1\nslots = 2\n")[0].contains("line 3"));
    }

    #[test]
    fn sections_are_tables_and_those_of_hours_have_some() {
        for (text, hint) in [
            ("budget = 1", "line 1: `budget` is a section, written as [budget], and not 1"),
            ("[budget.at]\nslots = 1", "write [[budget.at]] above it"),
            ("budget.at = [1]", "write [[budget.at]] above it"),
            ("\n[[budget.at]]\nslots = 1", "line 2: [[budget.at]] number 1 has no hours"),
            ("slots = 1", "`slots` is no key here: it belongs to [budget]"),
            ("'budget.slots' = 1", "`budget.slots` is no key"),
            ("[choice.weights]\nme = 1", "line 2: `me` is no peer id"),
        ] {
            let found = errors(text);
            assert!(found.len() == 1 && found[0].contains(hint), "{text}: {found:?}");
        }
    }

    #[test]
    fn errors_and_what_they_repeat_are_bounded() {
        let many: String = (0..ERRORS_MAX + 1).map(|n| format!("x{n} = 1\n")).collect();
        assert_eq!(errors(&many).len(), ERRORS_MAX);
        let long = errors(&format!("listen = '{}'", "x".repeat(100_000)));
        assert!(long[0].len() < 300, "{}", long[0].len());
        let long = errors(&format!("{} = 1", "x".repeat(100_000)));
        assert!(long[0].len() < 300, "{}", long[0].len());
        let ats = |count: usize| "[[budget.at]]\nhours = '1:00-2:00'\n".repeat(count);
        assert_eq!(errors(&ats(names::AT_MAX)).len(), 0);
        assert_eq!(errors(&ats(names::AT_MAX + 1)).len(), 1);
    }
}
