//! Contacts: what a peer says of itself, so that others can reach it and know what it lends.

use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::encoding::DecodeError;
use crate::{Identity, Time};

/// Where a peer can be reached and what it offers. The newest one by `made` counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Contact {
    /// When it was made, by the peer's clock.
    pub made: Time,
    /// Where it listens, best first. Empty for a peer that can't be dialled.
    pub addresses: Vec<SocketAddr>,
    /// How many units it runs at once. 0 for one that only submits.
    pub slots: u16,
    /// The software and its version, for people.
    pub agent: String,
    /// What the donor wants to be called, for people; empty if nothing. Anybody may call itself
    /// anything.
    pub nickname: String,
    /// With whom the donor wants to be counted, likewise.
    pub team: String,
    /// The peer's proof of work; none in a grid among friends.
    pub identity: Identity,
}

impl Contact {
    /// Addresses of one peer.
    pub const ADDRESSES_MAX: usize = 8;
    /// Slots of one peer.
    pub const SLOTS_MAX: u16 = 1024;
    /// Bytes of the agent string.
    pub const AGENT_BYTES_MAX: usize = 32;
    /// Bytes of a nickname, or of a team.
    pub const NAME_BYTES_MAX: usize = 32;

    /// Whether this may be a nickname or a team. It is printed on other people's terminals: no control
    /// characters, and nothing that turns the direction of writing.
    pub fn is_name(text: &str) -> bool {
        let turns = |letter: char| matches!(letter, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        text.len() <= Self::NAME_BYTES_MAX
            && !text.chars().any(|letter| letter.is_control() || turns(letter))
    }

    /// Whether every field is within its bounds.
    pub fn check(&self) -> Result<(), DecodeError> {
        let bounds = [
            ("number of addresses", self.addresses.len() <= Self::ADDRESSES_MAX),
            ("number of slots", self.slots <= Self::SLOTS_MAX),
            ("nickname", Self::is_name(&self.nickname)),
            ("team", Self::is_name(&self.team)),
            ("agent", self.agent.len() <= Self::AGENT_BYTES_MAX && self.agent.is_ascii()),
        ];
        match bounds.into_iter().find(|(_, within)| !within) {
            None => Ok(()),
            Some((what, _)) => Err(DecodeError::OutOfBounds { what }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_can_be_printed() {
        let most = "n".repeat(Contact::NAME_BYTES_MAX);
        for fine in ["", "Ada", "Zürich 1", &most] {
            assert!(Contact::is_name(fine), "{fine:?}");
        }
        for bad in ["a\nb", "\u{1b}[31m", "\u{202e}gro", &format!("{most}n")] {
            assert!(!Contact::is_name(bad), "{bad:?}");
        }
    }
}
