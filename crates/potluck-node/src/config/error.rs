//! What is wrong with what was set, for people.

use std::fmt;

use serde::Serialize;

/// One thing that is wrong with a file, variable or flag. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ConfigError {
    /// The file, variable or flag.
    pub place: String,
    /// The line of the file, counted from 1.
    pub line: Option<usize>,
    /// The dotted name of the key, if it is about one.
    pub key: Option<String>,
    /// What was found and what is allowed.
    pub what: String,
}

/// Everything that is wrong, at least one thing. Displays as one sentence for a person.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(pub Vec<ConfigError>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.place)?;
        if let Some(line) = self.line {
            write!(f, ", line {line}")?;
        }
        write!(f, ": {}", self.what)
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(first) = self.0.first() {
            write!(f, "{first}")?;
        }
        match self.0.len() {
            0 | 1 => Ok(()),
            more => write!(f, "; `potluck config check` shows {} more", more - 1),
        }
    }
}

impl std::error::Error for ConfigErrors {}
