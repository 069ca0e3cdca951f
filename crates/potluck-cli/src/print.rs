//! What people and programs get to see: the one place that writes to standard output and standard
//! error.
//!
//! Standard output carries what was asked for and nothing else; everything said along the way goes
//! to standard error.

use std::io::{self, IsTerminal as _, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use serde::Serialize;

use crate::exit::{Exit, Failure};

/// For whom standard output is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// Text for a person.
    Human,
    /// JSON for a program, one value a line.
    Json,
}

/// Writes to both standard streams.
#[derive(Debug)]
pub(crate) struct Printer {
    format: Format,
    terminal: bool,
    /// Whether a progress line is on the screen and has to be wiped before anything else is said.
    drawn: AtomicBool,
}

impl Printer {
    pub(crate) fn new(format: Format) -> Printer {
        let terminal = io::stderr().is_terminal();
        Printer { format, terminal, drawn: AtomicBool::new(false) }
    }

    pub(crate) fn is_json(&self) -> bool {
        self.format == Format::Json
    }

    /// Whether a progress line can be drawn over and over.
    pub(crate) fn can_draw(&self) -> bool {
        self.terminal
    }

    /// The answer in both forms: the text for people, or the value on one line for programs.
    pub(crate) fn answer(
        &self,
        value: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        let mut line = match self.format {
            Format::Human => text(),
            Format::Json => serde_json::to_string(value).map_err(|error| {
                Failure::failed(format!("cannot write the answer as JSON: {error}"))
            })?,
        };
        if !line.ends_with('\n') && !line.is_empty() {
            line.push('\n');
        }
        self.bytes(line.as_bytes())
    }

    /// Bytes of the answer as they are.
    pub(crate) fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        self.wipe();
        let mut stdout = io::stdout().lock();
        stdout.write_all(bytes).and_then(|()| stdout.flush()).map_err(|error| {
            // Whoever read our output has seen enough, as `head` does: no news to anybody.
            let closed = error.kind() == io::ErrorKind::BrokenPipe;
            let message = format!("cannot write to standard output: {error}");
            Failure::new(Exit::Failed, if closed { String::new() } else { message })
        })
    }

    /// What a program said along the way, as it is.
    pub(crate) fn aside(&self, bytes: &[u8]) {
        self.wipe();
        let _ = io::stderr().lock().write_all(bytes);
    }

    /// Something said along the way.
    pub(crate) fn note(&self, text: impl AsRef<str>) {
        self.wipe();
        // With standard error closed there is nobody to tell.
        let _ = writeln!(io::stderr().lock(), "{}", text.as_ref());
    }

    /// The last word on why a verb stopped.
    pub(crate) fn failure(&self, failure: &Failure) {
        self.wipe();
        if !failure.message.is_empty() {
            self.note(format!("potluck: {}", failure.message));
        }
    }

    /// Draws the progress line anew; only on a terminal, see [`Printer::can_draw`].
    pub(crate) fn draw(&self, text: &str) {
        if self.terminal {
            self.drawn.store(true, Ordering::Relaxed);
            // Without wrapping, so that a long line never becomes two that can't be wiped.
            let mut stderr = io::stderr().lock();
            let _ = write!(stderr, "\r\x1b[K\x1b[?7l{text}\x1b[?7h");
            let _ = stderr.flush();
        }
    }

    /// Wipes the progress line.
    pub(crate) fn wipe(&self) {
        if self.drawn.swap(false, Ordering::Relaxed) {
            let mut stderr = io::stderr().lock();
            let _ = write!(stderr, "\r\x1b[K");
            let _ = stderr.flush();
        }
    }
}

/// Columns padded to their widest cell; the first row is the heading.
pub(crate) fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n"
    };
    rows.iter().map(line).collect()
}

/// A number with its noun.
pub(crate) fn count(number: impl Into<u64>, noun: &str) -> String {
    let number = number.into();
    format!("{number} {noun}{}", if number == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [
            vec!["unit".to_owned(), "exit".to_owned()],
            vec!["1000000".to_owned(), "0".to_owned()],
        ];
        assert_eq!(table(&rows), "unit     exit\n1000000  0\n");
    }

    #[test]
    fn one_unit_is_not_one_units() {
        assert_eq!(
            (count(1_u32, "unit"), count(0_u32, "unit")),
            ("1 unit".into(), "0 units".into())
        );
    }
}
