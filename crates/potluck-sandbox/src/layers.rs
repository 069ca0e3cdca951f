//! The layers of the lock on children, and how much of each this machine's system really gives.
//!
//! What a system promises and what it does differ: a container may filter calls, a kernel may be
//! built without a part. So the layers are never guessed from versions; a child that has just
//! locked itself says what came of each step.

use std::fmt;

/// One layer of the lock, as a real child found it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layer {
    /// Which one.
    pub kind: LayerKind,
    /// How much of it holds.
    pub state: LayerState,
    /// What holds, if all of it does; else what is missing. For people.
    pub note: String,
}

/// Which layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum LayerKind {
    /// No descriptor of the parent's is open.
    Descriptors = 1,
    /// Memory, files and processes are bounded.
    Limits = 2,
    /// No privilege is left, and none can be gained.
    Privileges = 3,
    /// It is killed with its parent.
    Leash = 4,
    /// It runs when nothing else wants to.
    Priority = 5,
    /// The system shows it no file, no network and no other process.
    Domain = 6,
    /// A system call outside a short list is its last.
    Calls = 7,
}

impl LayerKind {
    /// Every layer, in the order in which a child takes them.
    pub const ALL: [LayerKind; 7] = [
        LayerKind::Descriptors,
        LayerKind::Limits,
        LayerKind::Privileges,
        LayerKind::Leash,
        LayerKind::Priority,
        LayerKind::Domain,
        LayerKind::Calls,
    ];

    /// What people call it.
    pub fn as_str(self) -> &'static str {
        match self {
            LayerKind::Descriptors => "closed descriptors",
            LayerKind::Limits => "resource limits",
            LayerKind::Privileges => "no privileges",
            LayerKind::Leash => "dies with its parent",
            LayerKind::Priority => "lowest priority",
            LayerKind::Domain => "landlock",
            LayerKind::Calls => "system call filter",
        }
    }
}

/// How much of a layer holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum LayerState {
    /// All of it.
    Full = 1,
    /// Some of it.
    Partial = 2,
    /// Nothing.
    Missing = 3,
}

impl LayerState {
    /// In one word.
    pub fn as_str(self) -> &'static str {
        match self {
            LayerState::Full => "full",
            LayerState::Partial => "partial",
            LayerState::Missing => "missing",
        }
    }
}

impl Layer {
    pub(crate) fn new(kind: LayerKind, state: LayerState, note: impl Into<String>) -> Layer {
        Layer { kind, state, note: note.into() }
    }

    /// Whether nothing of it is missing.
    pub fn is_full(&self) -> bool {
        self.state == LayerState::Full
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {}: {}", self.kind.as_str(), self.state.as_str(), self.note)
    }
}

/// What is not full, as one sentence; none if the lock is whole.
pub fn shortfall(layers: &[Layer]) -> Option<String> {
    let missing: Vec<String> =
        layers.iter().filter(|layer| !layer.is_full()).map(ToString::to_string).collect();
    (!missing.is_empty()).then(|| missing.join("; "))
}

/// The payload in which a child names its layers: for each `kind (u8) ‖ state (u8) ‖ length of the
/// note (u16) ‖ note`.
pub(crate) fn to_bytes(layers: &[Layer]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for layer in layers {
        let note = &layer.note.as_bytes()[..layer.note.len().min(NOTE_MAX_BYTES)];
        bytes.extend([layer.kind as u8, layer.state as u8]);
        bytes.extend(u16::try_from(note.len()).unwrap_or(u16::MAX).to_le_bytes());
        bytes.extend(note);
    }
    bytes
}

/// Reads what claims to be every layer, each once and in order.
pub(crate) fn of_bytes(mut bytes: &[u8]) -> Option<Vec<Layer>> {
    let mut layers = Vec::new();
    for kind in LayerKind::ALL {
        let (&[found, state, a, b], rest) = bytes.split_first_chunk()?;
        let (note, rest) = rest.split_at_checked(usize::from(u16::from_le_bytes([a, b])))?;
        let states = [LayerState::Full, LayerState::Partial, LayerState::Missing];
        let state = states.into_iter().find(|known| *known as u8 == state)?;
        if found != kind as u8 || note.len() > NOTE_MAX_BYTES {
            return None;
        }
        layers.push(Layer::new(kind, state, String::from_utf8_lossy(note)));
        bytes = rest;
    }
    bytes.is_empty().then_some(layers)
}

/// A sentence or two.
const NOTE_MAX_BYTES: usize = 400;
/// The largest payload that names layers.
pub(crate) const LAYERS_MAX_BYTES: usize = LayerKind::ALL.len() * (4 + NOTE_MAX_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    fn layers(note: &str) -> Vec<Layer> {
        LayerKind::ALL.map(|kind| Layer::new(kind, LayerState::Partial, note)).to_vec()
    }

    #[test]
    fn layers_come_back_as_they_were_said() {
        let most = layers(&"x".repeat(NOTE_MAX_BYTES));
        let bytes = to_bytes(&most);
        assert_eq!(bytes.len(), LAYERS_MAX_BYTES);
        assert_eq!(of_bytes(&bytes), Some(most.clone()));
        let over = to_bytes(&layers(&"x".repeat(NOTE_MAX_BYTES + 1)));
        assert_eq!(of_bytes(&over), Some(most));
    }

    #[test]
    fn half_a_lock_is_none() {
        let bytes = to_bytes(&layers("why"));
        for length in 0..bytes.len() {
            assert_eq!(of_bytes(&bytes[..length]), None);
        }
        assert_eq!(of_bytes(&[&bytes[..], b"x"].concat()), None);
        let mut twice = layers("why");
        twice[1].kind = LayerKind::Descriptors;
        assert_eq!(of_bytes(&to_bytes(&twice)), None);
    }

    #[test]
    fn a_shortfall_names_what_is_missing_and_nothing_else() {
        let mut layers = layers("why");
        for layer in &mut layers {
            layer.state = LayerState::Full;
        }
        assert_eq!(shortfall(&layers), None);
        layers[5].state = LayerState::Missing;
        assert_eq!(shortfall(&layers).unwrap(), "landlock is missing: why");
    }
}
