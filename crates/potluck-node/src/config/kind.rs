//! Kinds of values: which a key allows, how each is read, and how it is written.

use std::net::SocketAddr;

use potluck_peer::Hours;
use potluck_unit::{BlobId, Contact, PeerId};

use crate::quantity::{parse_duration, parse_rate, parse_size, write_duration, write_size};

/// What a key allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A whole number of something, from and to, both included.
    Count(u64, u64),
    /// Percent, from and to, both included.
    Percent(u64, u64),
    /// Degrees Celsius, from and to, both included.
    Degrees(u64, u64),
    /// Bytes, from and to, both included.
    Size(u64, u64),
    /// Bytes over some time, at least so many, or no bound.
    Quota(u64),
    /// Bytes per second, at least so many, or no bound.
    Rate(u64),
    /// Milliseconds, from and to, both included.
    Duration(u64, u64),
    /// Yes or no.
    Flag,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// An address and port of this machine.
    Address,
    /// One line of text of at most so many bytes.
    Text(usize),
    /// Stretches of the week.
    Hours,
    /// One stretch of the week.
    Stretch,
    /// Peers to join, as `HOST:PORT`.
    Joins,
    /// Names of programs, as the system lists them.
    Programs,
    /// Peer ids.
    Peers,
    /// Patterns with `*` and `?`.
    Patterns,
    /// Ids of modules.
    Modules,
}

/// A value that its key allows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// A number in the unit of its kind: one, percent, degree, byte, byte per second or millisecond.
    Number(u64),
    /// No bound, where its kind allows that.
    Unlimited,
    /// Yes or no.
    Flag(bool),
    /// A word, address or text.
    Text(String),
    /// Words.
    List(Vec<String>),
}

impl Value {
    /// A number; no bound is the largest.
    pub fn number(&self) -> Option<u64> {
        match self {
            Value::Number(number) => Some(*number),
            Value::Unlimited => Some(u64::MAX),
            Value::Flag(_) | Value::Text(_) | Value::List(_) => None,
        }
    }

    /// Yes or no.
    pub fn flag(&self) -> Option<bool> {
        if let Value::Flag(flag) = self { Some(*flag) } else { None }
    }

    /// A word, address or text.
    pub fn text(&self) -> Option<&str> {
        if let Value::Text(text) = self { Some(text) } else { None }
    }

    /// Words.
    pub fn list(&self) -> Option<&[String]> {
        if let Value::List(words) = self { Some(words) } else { None }
    }
}

/// What somebody wrote, before it is known whether its key allows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Written {
    Number(i128),
    Flag(bool),
    Text(String),
    List(Vec<Written>),
    /// Something that no key allows, in words.
    Other(&'static str),
}

impl Kind {
    /// What is allowed, as it goes on after "and must be".
    pub fn expected(self) -> String {
        match self {
            Kind::Count(from, to) => format!("a whole number from {from} to {to}"),
            Kind::Percent(from, to) => format!("a whole number of percent from {from} to {to}"),
            Kind::Degrees(from, to) => format!("whole degrees Celsius from {from} to {to}"),
            Kind::Size(from, to) => {
                let (from, to) = (write_size(from), write_size(to));
                format!("a size from {from} to {to}, such as \"512MiB\" or \"2GiB\"")
            }
            Kind::Quota(from) => {
                let from = write_size(from);
                format!("a size of at least {from}, such as \"2GiB\", or \"{UNLIMITED}\"")
            }
            Kind::Rate(from) => {
                let from = write_size(from);
                format!("a rate of at least {from}/s, such as \"500KiB/s\", or \"{UNLIMITED}\"")
            }
            Kind::Duration(from, to) => {
                let (from, to) = (write_duration(from), write_duration(to));
                format!("a duration from {from} to {to}, such as \"90s\", \"3m\" or \"2h\"")
            }
            Kind::Flag => "true or false".to_owned(),
            Kind::OneOf(words) => {
                let words: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
                words.join(" or ")
            }
            Kind::Address => "an address and port, such as \"0.0.0.0:7117\"".to_owned(),
            Kind::Text(max) => format!("text on one line, of at most {max} bytes"),
            Kind::Hours => format!("a list of hours of the week; {HOURS_EXPECTED}"),
            Kind::Stretch => format!("hours of the week; {HOURS_EXPECTED}"),
            Kind::Joins => "a list of peers, each as \"HOST:PORT\"".to_owned(),
            Kind::Programs => {
                "a list of names of programs, such as \"steam\", without folders".to_owned()
            }
            Kind::Peers => "a list of peer ids, each of 64 hexadecimal digits".to_owned(),
            Kind::Patterns => "a list of labels, in which * and ? stand for any text and any \
                               letter"
                .to_owned(),
            Kind::Modules => "a list of module ids, each of 64 hexadecimal digits".to_owned(),
        }
    }

    /// What a flag that takes such a value calls it in its help.
    pub fn placeholder(self) -> &'static str {
        match self {
            Kind::Count(..) => "N",
            Kind::Percent(..) => "PERCENT",
            Kind::Degrees(..) => "DEGREES",
            Kind::Size(..) | Kind::Quota(_) => "SIZE",
            Kind::Rate(_) => "RATE",
            Kind::Duration(..) => "DURATION",
            Kind::Flag => "BOOL",
            Kind::OneOf(_) => "WORD",
            Kind::Address => "ADDR",
            Kind::Text(_) => "TEXT",
            Kind::Hours | Kind::Stretch => "HOURS",
            Kind::Joins | Kind::Programs | Kind::Peers | Kind::Patterns | Kind::Modules => "LIST",
        }
    }

    /// The value that was written, if it is one; none says only that it is not.
    pub(super) fn value(self, written: &Written) -> Option<Value> {
        let within = |number: u64, from: u64, to: u64| {
            (from..=to).contains(&number).then_some(Value::Number(number))
        };
        match (self, written) {
            (Kind::Count(from, to) | Kind::Degrees(from, to), Written::Number(number)) => {
                within(u64::try_from(*number).ok()?, from, to)
            }
            (Kind::Percent(from, to), written) => within(percent(written)?, from, to),
            (Kind::Quota(_) | Kind::Rate(_), Written::Text(text)) if text == UNLIMITED => {
                Some(Value::Unlimited)
            }
            (Kind::Size(from, to), written) => within(size(written)?, from, to),
            // The largest number stands for no bound.
            (Kind::Quota(from), written) => within(size(written)?, from, u64::MAX - 1),
            (Kind::Rate(from), Written::Text(text)) => {
                within(parse_rate(text).ok()?, from, u64::MAX - 1)
            }
            (Kind::Duration(from, to), Written::Text(text)) => {
                within(u64::try_from(parse_duration(text).ok()?.as_millis()).ok()?, from, to)
            }
            (Kind::Flag, Written::Flag(flag)) => Some(Value::Flag(*flag)),
            (kind, Written::Text(text)) if kind.is_text() => kind.text(text).map(Value::Text),
            (kind, Written::List(list)) if kind.is_list() => kind.list(list),
            _ => None,
        }
    }

    /// What was written outside a file, where there are no quotes to tell text from the rest.
    pub(super) fn of_plain(self, text: &str) -> Written {
        let text = text.trim();
        let as_text = || Written::Text(text.to_owned());
        if self.is_list() {
            // The days of hours have commas between them.
            let comma = if self == Kind::Hours { ';' } else { ',' };
            let words = text.split(comma).map(str::trim).filter(|word| !word.is_empty());
            return Written::List(words.map(|word| Written::Text(word.to_owned())).collect());
        }
        if self == Kind::Flag {
            return text.parse().map_or_else(|_| as_text(), Written::Flag);
        }
        let number = if self.is_text() { None } else { text.parse().ok() };
        number.map_or_else(as_text, Written::Number)
    }

    /// The value as it stands in a file.
    pub fn write(self, value: &Value) -> String {
        match (self, value) {
            (Kind::Size(..) | Kind::Quota(_), Value::Number(bytes)) => quote(&write_size(*bytes)),
            (Kind::Rate(_), Value::Number(bytes)) => quote(&(write_size(*bytes) + "/s")),
            (Kind::Duration(..), Value::Number(ms)) => quote(&write_duration(*ms)),
            (_, Value::Number(number)) => number.to_string(),
            (_, Value::Unlimited) => quote(UNLIMITED),
            (_, Value::Flag(flag)) => flag.to_string(),
            (_, Value::Text(text)) => quote(text),
            (_, Value::List(words)) => {
                let words: Vec<String> = words.iter().map(|word| quote(word)).collect();
                format!("[{}]", words.join(", "))
            }
        }
    }

    /// The least and the most that a number may be, where both are bounded.
    pub(super) fn bounds(self) -> Option<(u64, u64)> {
        match self {
            Kind::Count(from, to)
            | Kind::Percent(from, to)
            | Kind::Degrees(from, to)
            | Kind::Size(from, to)
            | Kind::Duration(from, to) => Some((from, to)),
            Kind::Quota(_)
            | Kind::Rate(_)
            | Kind::Flag
            | Kind::OneOf(_)
            | Kind::Address
            | Kind::Text(_)
            | Kind::Hours
            | Kind::Stretch
            | Kind::Joins
            | Kind::Programs
            | Kind::Peers
            | Kind::Patterns
            | Kind::Modules => None,
        }
    }

    fn is_list(self) -> bool {
        matches!(
            self,
            Kind::Hours
                | Kind::Joins
                | Kind::Programs
                | Kind::Peers
                | Kind::Patterns
                | Kind::Modules
        )
    }

    fn is_text(self) -> bool {
        matches!(self, Kind::OneOf(_) | Kind::Address | Kind::Text(_) | Kind::Stretch)
    }

    fn list(self, written: &[Written]) -> Option<Value> {
        let word = |written: &Written| match written {
            Written::Text(text) => self.text(text),
            Written::Number(_) | Written::Flag(_) | Written::List(_) | Written::Other(_) => None,
        };
        let words: Option<Vec<String>> = written.iter().map(word).collect();
        words.filter(|words| words.len() <= LIST_MAX).map(Value::List)
    }

    /// One word of a list, or a value that is one, in the form in which it is kept.
    fn text(self, text: &str) -> Option<String> {
        let plain = !text.chars().any(char::is_control);
        let fits = match self {
            Kind::OneOf(words) => words.contains(&text),
            Kind::Address => return Some(text.parse::<SocketAddr>().ok()?.to_string()),
            Kind::Text(max) => text.len() <= max && Contact::is_name(text),
            Kind::Hours | Kind::Stretch => text.parse::<Hours>().is_ok(),
            Kind::Joins => is_join(text) && plain,
            Kind::Programs => {
                (1..=PROGRAM_BYTES_MAX).contains(&text.len()) && plain && !text.contains('/')
            }
            Kind::Peers => return Some(text.parse::<PeerId>().ok()?.to_string()),
            Kind::Modules => return Some(text.parse::<BlobId>().ok()?.to_string()),
            Kind::Patterns => (1..=PATTERN_BYTES_MAX).contains(&text.len()) && plain,
            Kind::Count(..)
            | Kind::Percent(..)
            | Kind::Degrees(..)
            | Kind::Size(..)
            | Kind::Quota(_)
            | Kind::Rate(_)
            | Kind::Duration(..)
            | Kind::Flag => false,
        };
        fits.then(|| text.to_owned())
    }
}

/// `80`, or `"80%"`.
fn percent(written: &Written) -> Option<u64> {
    match written {
        Written::Number(number) => u64::try_from(*number).ok(),
        Written::Text(text) => text.strip_suffix('%')?.trim_end().parse().ok(),
        Written::Flag(_) | Written::List(_) | Written::Other(_) => None,
    }
}

/// `"2GiB"`, or a number of bytes.
fn size(written: &Written) -> Option<u64> {
    match written {
        Written::Number(number) => u64::try_from(*number).ok(),
        Written::Text(text) => parse_size(text).ok(),
        Written::Flag(_) | Written::List(_) | Written::Other(_) => None,
    }
}

fn is_join(text: &str) -> bool {
    let (host, port) = text.rsplit_once(':').unwrap_or_default();
    !host.is_empty() && text.len() <= JOIN_BYTES_MAX && port.parse::<u16>().is_ok()
}

/// Text as TOML writes it.
fn quote(text: &str) -> String {
    toml_edit::Value::from(text).to_string()
}

const HOURS_EXPECTED: &str =
    "write them like \"mon-fri 09:00-17:00\", \"sat,sun 00:00-24:00\" or \"22:00-06:00\"";
/// What stands where a bound is wanted and there is to be none.
const UNLIMITED: &str = "unlimited";
/// Words in one list. More than anybody writes by hand.
const LIST_MAX: usize = 64;
/// The longest host name of DNS, a colon and a port.
const JOIN_BYTES_MAX: usize = 253 + 6;
/// Longer than any file system's names.
const PROGRAM_BYTES_MAX: usize = 255;
/// Longer than a label may be.
const PATTERN_BYTES_MAX: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(kind: Kind, text: &str) -> Option<Value> {
        kind.value(&kind.of_plain(text))
    }

    #[test]
    fn bounds_are_included_and_one_past_them_is_refused() {
        for (kind, fits, too_much) in [
            (Kind::Count(1, 9), ["1", "9"], ["0", "10"]),
            (Kind::Percent(5, 100), ["5", "100%"], ["4", "101%"]),
            (Kind::Degrees(30, 120), ["30", "120"], ["29", "121"]),
            (Kind::Size(1024, 4096), ["1KiB", "4096"], ["1023", "4097"]),
            (Kind::Duration(1000, 60_000), ["1s", "1m"], ["999ms", "60001ms"]),
            (Kind::Quota(1024), ["1KiB", "unlimited"], ["1023", "18446744073709551615"]),
            (Kind::Rate(1024), ["1KiB/s", "unlimited"], ["1023B/s", "18446744073709551615B/s"]),
            (Kind::Text(3), ["", "abc"], ["abcd", "a\nb"]),
        ] {
            for text in fits {
                assert!(plain(kind, text).is_some(), "{kind:?}: {text}");
            }
            for text in too_much {
                assert_eq!(plain(kind, text), None, "{kind:?}: {text}");
            }
        }
        let list = |words: usize| {
            let words = vec![Written::Text("a".to_owned()); words];
            Kind::Programs.value(&Written::List(words))
        };
        assert!(list(LIST_MAX).is_some());
        assert_eq!(list(LIST_MAX + 1), None);
        for (kind, max) in
            [(Kind::Programs, PROGRAM_BYTES_MAX), (Kind::Patterns, PATTERN_BYTES_MAX)]
        {
            assert!(plain(kind, &"x".repeat(max)).is_some());
            assert_eq!(plain(kind, &"x".repeat(max + 1)), None);
        }
        let host = |length: usize| plain(Kind::Joins, &format!("{}:65535", "h".repeat(length)));
        assert!(host(JOIN_BYTES_MAX - 6).is_some());
        assert_eq!(host(JOIN_BYTES_MAX - 5), None);
    }

    #[test]
    fn a_value_of_another_kind_is_none() {
        let text = |text: &str| Written::Text(text.to_owned());
        assert_eq!(Kind::Count(0, 9).value(&text("5")), None);
        assert_eq!(Kind::Count(0, 9).value(&Written::Number(-1)), None);
        assert_eq!(Kind::Flag.value(&text("true")), None);
        assert_eq!(Kind::Duration(0, 9000).value(&Written::Number(5)), None);
        assert_eq!(Kind::Rate(1).value(&Written::Number(5000)), None);
        assert_eq!(Kind::Programs.value(&text("steam")), None);
        assert_eq!(Kind::Programs.value(&Written::List(vec![Written::Flag(true)])), None);
        assert_eq!(Kind::Text(9).value(&Written::Other("a table")), None);
        assert_eq!(plain(Kind::Peers, "abc"), None);
        assert_eq!(plain(Kind::Joins, "nowhere"), None);
        assert_eq!(plain(Kind::Programs, "/usr/bin/steam"), None);
    }

    #[test]
    fn lists_outside_a_file_have_commas_and_hours_semicolons() {
        let words = |words: &[&str]| {
            Some(Value::List(words.iter().map(|word| (*word).to_owned()).collect()))
        };
        assert_eq!(plain(Kind::Programs, "steam, blender"), words(&["steam", "blender"]));
        assert_eq!(plain(Kind::Programs, ""), words(&[]));
        let hours = plain(Kind::Hours, "sat,sun 8:00-9:00; 22:00-06:00");
        assert_eq!(hours, words(&["sat,sun 8:00-9:00", "22:00-06:00"]));
        assert_eq!(plain(Kind::Stretch, "mon 9-17"), None);
    }

    #[test]
    fn what_is_written_is_read_back() {
        for (kind, text) in [
            (Kind::Size(0, u64::MAX), "\"2GiB\""),
            (Kind::Rate(1), "\"500KiB/s\""),
            (Kind::Rate(1), "\"unlimited\""),
            (Kind::Duration(0, u64::MAX), "\"3m\""),
            (Kind::Percent(0, 100), "80"),
            (Kind::Flag, "true"),
            (Kind::Programs, "[\"steam\", 'a \"b\"']"),
        ] {
            let written = super::super::file::literal(text).unwrap();
            let value = kind.value(&written).unwrap();
            assert_eq!(kind.write(&value), text);
        }
    }
}
