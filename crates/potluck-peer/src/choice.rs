//! Choice: for whom and for what the donor lends its machine.
//!
//! A job that is not chosen is followed and passed on like any other: only its units are not run here.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use potluck_unit::{BlobId, InputTable, Job, PeerId};

use crate::budget::size;

/// For whom and for what. An empty list to allow allows everything, and what is denied is denied
/// even where it is allowed too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Choice {
    /// `allow-submitters`.
    pub allow_submitters: BTreeSet<PeerId>,
    /// `deny-submitters`.
    pub deny_submitters: BTreeSet<PeerId>,
    /// `allow-labels`.
    pub allow_labels: Vec<Pattern>,
    /// `deny-labels`.
    pub deny_labels: Vec<Pattern>,
    /// `allow-modules`.
    pub allow_modules: BTreeSet<BlobId>,
    /// `deny-modules`.
    pub deny_modules: BTreeSet<BlobId>,
    /// `input-max`: bytes of one job's whole input table.
    pub input_max_bytes: u64,
    /// `[choice.weights]`: how much of its time the donor gives to whom, relative to the 100 that
    /// everybody else has. 0 for nothing at all.
    pub weights: BTreeMap<PeerId, u32>,
}

/// A text with `*` for any characters and `?` for any one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern(String);

/// Why the donor's machine runs nothing of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// Its submitter is not in `allow-submitters`.
    SubmitterNotAllowed(PeerId),
    /// Its submitter is in `deny-submitters`.
    SubmitterDenied(PeerId),
    /// Its submitter has weight 0.
    NoWeight(PeerId),
    /// No `allow-labels` matches its label.
    LabelNotAllowed(String),
    /// One of `deny-labels` matches its label.
    LabelDenied(String, Pattern),
    /// Its module is not in `allow-modules`.
    ModuleNotAllowed(BlobId),
    /// Its module is in `deny-modules`.
    ModuleDenied(BlobId),
    /// Its inputs are larger than `input-max`: how large, and how large they may be, in bytes.
    InputTooLarge(u64, u64),
    /// One unit may need more memory than is lent: how much, and how much a unit can have, in bytes.
    MemoryTooLarge(u64, u64),
    /// Its module and inputs need more than is left of the traffic quotas: how much, and how much is
    /// left, in bytes.
    TrafficTooLarge(u64, u64),
    /// It needs a newer version of this software.
    TooNew,
    /// This node lends no slots.
    NothingLent,
}

/// Patterns in one list that count.
const PATTERNS_MAX: usize = 256;
/// Bytes of a pattern that count: labels have at most 64.
const PATTERN_BYTES_MAX: usize = 256;
/// Half of what the default `traffic-day` lets through.
const INPUT_MAX_BYTES: u64 = 1 << 30;

impl Default for Choice {
    fn default() -> Choice {
        Choice {
            allow_submitters: BTreeSet::new(),
            deny_submitters: BTreeSet::new(),
            allow_labels: Vec::new(),
            deny_labels: Vec::new(),
            allow_modules: BTreeSet::new(),
            deny_modules: BTreeSet::new(),
            input_max_bytes: INPUT_MAX_BYTES,
            weights: BTreeMap::new(),
        }
    }
}

impl Choice {
    /// Refuses nothing.
    pub fn everything() -> Choice {
        Choice { input_max_bytes: u64::MAX, ..Choice::default() }
    }

    /// Whether a job of `submitter` is run here, by what its record says. `inputs_bytes` is how large
    /// its input table is.
    pub fn takes(&self, submitter: &PeerId, job: &Job, inputs_bytes: u64) -> Result<(), Refusal> {
        if self.deny_submitters.contains(submitter) {
            return Err(Refusal::SubmitterDenied(*submitter));
        }
        if !self.allow_submitters.is_empty() && !self.allow_submitters.contains(submitter) {
            return Err(Refusal::SubmitterNotAllowed(*submitter));
        }
        if self.weights.get(submitter) == Some(&0) {
            return Err(Refusal::NoWeight(*submitter));
        }
        let matching = |list: &[Pattern]| {
            list.iter().take(PATTERNS_MAX).find(|pattern| pattern.matches(&job.label)).cloned()
        };
        if let Some(pattern) = matching(&self.deny_labels) {
            return Err(Refusal::LabelDenied(job.label.clone(), pattern));
        }
        if !self.allow_labels.is_empty() && matching(&self.allow_labels).is_none() {
            return Err(Refusal::LabelNotAllowed(job.label.clone()));
        }
        if self.deny_modules.contains(&job.module) {
            return Err(Refusal::ModuleDenied(job.module));
        }
        if !self.allow_modules.is_empty() && !self.allow_modules.contains(&job.module) {
            return Err(Refusal::ModuleNotAllowed(job.module));
        }
        if inputs_bytes > self.input_max_bytes {
            return Err(Refusal::InputTooLarge(inputs_bytes, self.input_max_bytes));
        }
        Ok(())
    }
}

impl Pattern {
    /// A pattern. Nothing but `*` and `?` is special.
    pub fn new(text: &str) -> Pattern {
        let end = text.floor_char_boundary(PATTERN_BYTES_MAX);
        Pattern(text[..end].to_owned())
    }

    /// The text it was made of.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a text matches as a whole. Takes no longer than one length times the other.
    pub fn matches(&self, text: &str) -> bool {
        let pattern: Vec<char> = self.0.chars().collect();
        let text: Vec<char> = text.chars().collect();
        let (mut at, mut done) = (0, 0);
        // Where the last star is, and how much of the text it and all before it stand for.
        let mut star: Option<(usize, usize)> = None;
        while done < text.len() {
            match pattern.get(at) {
                Some('*') => {
                    star = Some((at, done));
                    at += 1;
                }
                Some(one) if *one == '?' || *one == text[done] => {
                    at += 1;
                    done += 1;
                }
                Some(_) | None => {
                    let Some((place, taken)) = &mut star else { return false };
                    *taken += 1;
                    (at, done) = (*place + 1, *taken);
                }
            }
        }
        pattern[at..].iter().all(|left| *left == '*')
    }
}

/// How much is to be fetched before a job's units can be run, in bytes.
pub(crate) fn needed_bytes(job: &Job) -> u64 {
    inputs_bytes(job).saturating_add(job.module_bytes.into())
}

/// How large a job's input table is at most, if no row is larger than a page: all that its record
/// says of that is how long the list of pages is.
pub(crate) fn inputs_bytes(job: &Job) -> u64 {
    let pages = (u64::from(job.inputs_bytes) / PAGE_REF_BYTES).max(1);
    pages * InputTable::PAGE_BYTES as u64
}

/// Bytes of a page in the index: its id, its first unit and its size, each as short as it can be.
const PAGE_REF_BYTES: u64 = BlobId::BYTES as u64 + 2;

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::SubmitterNotAllowed(peer) => {
                write!(f, "its submitter {} is not in allow-submitters", peer.short())
            }
            Refusal::SubmitterDenied(peer) => {
                write!(f, "its submitter {} is in deny-submitters", peer.short())
            }
            Refusal::NoWeight(peer) => {
                write!(f, "its submitter {} has weight 0 in [choice.weights]", peer.short())
            }
            Refusal::LabelNotAllowed(label) => {
                write!(f, "its label `{label}` matches nothing in allow-labels")
            }
            Refusal::LabelDenied(label, pattern) => {
                write!(f, "its label `{label}` matches deny-labels `{}`", pattern.0)
            }
            Refusal::ModuleNotAllowed(module) => {
                write!(f, "its module {} is not in allow-modules", module.short())
            }
            Refusal::ModuleDenied(module) => {
                write!(f, "its module {} is in deny-modules", module.short())
            }
            Refusal::InputTooLarge(bytes, most) => {
                write!(f, "its inputs are up to {}, input-max is {}", size(*bytes), size(*most))
            }
            Refusal::MemoryTooLarge(bytes, most) => write!(
                f,
                "one unit may use {}, and memory leaves {} to a unit",
                size(*bytes),
                size(*most)
            ),
            Refusal::TrafficTooLarge(bytes, left) => write!(
                f,
                "its inputs are up to {}, and traffic-day and traffic-month leave {}",
                size(*bytes),
                size(*left)
            ),
            Refusal::TooNew => f.write_str("it needs a newer version of this software"),
            Refusal::NothingLent => f.write_str("this node lends no slots"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::board::tests::plain_job;

    #[test]
    fn a_star_is_any_text_and_a_question_mark_any_one_character() {
        let yes = [
            ("", ""),
            ("*", ""),
            ("*", "any"),
            ("a*", "a"),
            ("*b", "ab"),
            ("a?c", "abc"),
            ("a*b*c", "axxbyyc"),
            ("*a*a*", "aa"),
            ("?", "ü"),
            ("prime*", "primes to 10^9"),
            ("[a]", "[a]"),
            ("a**", "ab"),
        ];
        let no = [
            ("", "a"),
            ("?", ""),
            ("a*", "ba"),
            ("a?c", "ac"),
            ("a*b*c", "axxbyy"),
            ("*a*a*", "a"),
            ("[a]", "a"),
            ("Prime", "prime"),
        ];
        for (pattern, text) in yes {
            assert!(Pattern::new(pattern).matches(text), "{pattern} {text}");
        }
        for (pattern, text) in no {
            assert!(!Pattern::new(pattern).matches(text), "{pattern} {text}");
        }
    }

    #[test]
    fn what_is_over_the_bounds_of_patterns_does_not_count() {
        let long = Pattern::new(&"x".repeat(PATTERN_BYTES_MAX + 1));
        assert_eq!(long.as_str().len(), PATTERN_BYTES_MAX);
        let mut deny_labels = vec![Pattern::new("other"); PATTERNS_MAX];
        deny_labels.push(Pattern::new("mine"));
        let job = Job { label: "mine".to_owned(), ..plain_job(1, 1, 1) };
        let mut choice = Choice { deny_labels, ..Choice::default() };
        assert_eq!(choice.takes(&PeerId([1; 32]), &job, 0), Ok(()));
        choice.deny_labels.remove(0);
        assert!(choice.takes(&PeerId([1; 32]), &job, 0).is_err());
    }

    #[test]
    fn every_refusal_names_the_key_that_refuses() {
        let (me, you) = (PeerId([1; 32]), PeerId([2; 32]));
        let job = Job { label: "primes".to_owned(), ..plain_job(1, 1, 1) };
        let other = BlobId([9; 32]);
        let only = |text| vec![Pattern::new(text)];
        let base = Choice::default;
        let refused = [
            (Choice { allow_submitters: [you].into(), ..base() }, "allow-submitters"),
            (Choice { deny_submitters: [me].into(), ..base() }, "deny-submitters"),
            (Choice { weights: [(me, 0)].into(), ..base() }, "[choice.weights]"),
            (Choice { allow_labels: only("x*"), ..base() }, "allow-labels"),
            (Choice { deny_labels: only("pri*"), ..base() }, "deny-labels `pri*`"),
            (Choice { allow_modules: [other].into(), ..base() }, "allow-modules"),
            (Choice { deny_modules: [job.module].into(), ..base() }, "deny-modules"),
            (Choice { input_max_bytes: 99, ..base() }, "input-max"),
        ];
        for (choice, key) in refused {
            let refusal = choice.takes(&me, &job, 100).unwrap_err().to_string();
            assert!(refusal.contains(key), "{refusal}");
        }
        let allowed = Choice {
            allow_submitters: [me, you].into(),
            allow_labels: only("p*"),
            allow_modules: [job.module].into(),
            input_max_bytes: 100,
            ..base()
        };
        assert_eq!(allowed.takes(&me, &job, 100), Ok(()));
        let both = Choice { deny_submitters: [me].into(), ..allowed };
        assert!(both.takes(&me, &job, 100).is_err(), "denied even where it is allowed");
    }
}
