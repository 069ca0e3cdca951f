//! The trace: a hash over everything that happened, and the last of it in words.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;

use potluck_unit::Time;

/// Events kept for a failure's report.
pub(crate) const LINES_MAX: usize = 40;

/// A hash over all events so far, with the last few of them.
pub struct Trace {
    hasher: blake3::Hasher,
    last: VecDeque<Line>,
    events: u64,
    kinds: BTreeMap<&'static str, u64>,
    /// From which event on the story is told in words. Telling it from the start would take most of
    /// the time, so a world that failed is run again.
    told_from: u64,
    story: Vec<String>,
}

/// One event in short.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Line {
    pub(crate) at: Time,
    /// Whose event.
    pub(crate) machine: usize,
    pub(crate) what: &'static str,
    /// The other machine involved, or the same one.
    pub(crate) other: usize,
    /// What tells this event from another of its kind: a unit, an id's first bytes, a count.
    pub(crate) detail: u64,
}

impl Trace {
    pub(crate) fn new() -> Trace {
        Trace {
            hasher: blake3::Hasher::new(),
            last: VecDeque::new(),
            events: 0,
            kinds: BTreeMap::new(),
            told_from: u64::MAX,
            story: Vec::new(),
        }
    }

    /// Tells the story of this event, and of all that follow, in words.
    pub(crate) fn tell_from(&mut self, event: u64) {
        self.told_from = event;
    }

    /// Whether the story is told by now.
    pub(crate) fn is_told(&self) -> bool {
        self.events >= self.told_from
    }

    /// Adds to the story.
    pub(crate) fn add(&mut self, words: String) {
        self.story.push(words);
    }

    pub(crate) fn note(&mut self, line: Line) {
        self.events += 1;
        *self.kinds.entry(line.what).or_default() += 1;
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&line.at.0.to_le_bytes());
        bytes[8..16].copy_from_slice(&(line.machine as u64).to_le_bytes());
        bytes[16..24].copy_from_slice(&(line.other as u64).to_le_bytes());
        bytes[24..].copy_from_slice(&line.detail.to_le_bytes());
        self.hasher.update(&bytes);
        self.hasher.update(line.what.as_bytes());
        if self.last.len() == LINES_MAX {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }

    /// The hash of everything so far.
    pub fn hash(&self) -> [u8; 32] {
        *self.hasher.finalize().as_bytes()
    }

    /// How many events of each kind there were.
    pub fn kinds(&self) -> &BTreeMap<&'static str, u64> {
        &self.kinds
    }

    /// How many events there were.
    pub fn events(&self) -> u64 {
        self.events
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for words in &self.story {
            writeln!(f, "  {words}")?;
        }
        let lines = if self.story.is_empty() { &self.last } else { &VecDeque::new() };
        for line in lines {
            let Line { at, machine, what, other, detail } = line;
            writeln!(f, "  {at} machine {machine}: {what}, with {other}, {detail:x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Trace({} events)", self.events)
    }
}
