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

    /// Whether every field is within its bounds.
    pub fn check(&self) -> Result<(), DecodeError> {
        let bounds = [
            ("number of addresses", self.addresses.len() <= Self::ADDRESSES_MAX),
            ("number of slots", self.slots <= Self::SLOTS_MAX),
            ("agent", self.agent.len() <= Self::AGENT_BYTES_MAX && self.agent.is_ascii()),
        ];
        match bounds.into_iter().find(|(_, within)| !within) {
            None => Ok(()),
            Some((what, _)) => Err(DecodeError::OutOfBounds { what }),
        }
    }
}
