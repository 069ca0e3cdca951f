//! What this peer has proved of others' conduct.
//!
//! A peer is convicted only by what this peer itself executed, or by two statements of its own that
//! contradict each other. Nobody's word, and no vote, convicts anyone: in simulation, committees
//! that voted banned honest peers.

use std::collections::BTreeMap;

use potluck_unit::{JobId, PeerId, RecordId, ResultHash, Time};

/// Proof that a peer signed a wrong receipt. The record itself stays kept with its job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conviction {
    /// Who lied.
    pub peer: PeerId,
    /// In which job.
    pub job: JobId,
    /// On which unit.
    pub index: u32,
    /// What the liar signed.
    pub said: ResultHash,
    /// What this peer found, or what else the liar signed.
    pub found: ResultHash,
    /// The record that holds the liar's receipt.
    pub record: RecordId,
    /// When that record says it was made.
    pub made: Time,
}

/// Everybody this peer has convicted, with the first proof each.
#[derive(Debug, Default)]
pub(crate) struct Standing {
    convicted: BTreeMap<PeerId, Conviction>,
}

impl Standing {
    /// Convictions held at once; one per identity, and each took a run to prove.
    pub(crate) const CONVICTIONS_MAX: usize = 100_000;

    /// Whether this peer's word counts no longer.
    pub(crate) fn is_liar(&self, peer: &PeerId) -> bool {
        self.convicted.contains_key(peer)
    }

    /// Remembers a proof. False if there is one already, or no room.
    pub(crate) fn convict(&mut self, conviction: Conviction) -> bool {
        let room = self.convicted.len() < Self::CONVICTIONS_MAX;
        let new = room && !self.is_liar(&conviction.peer);
        if new {
            self.convicted.insert(conviction.peer, conviction);
        }
        new
    }

    /// Every conviction, by peer.
    pub(crate) fn convictions(&self) -> impl Iterator<Item = &Conviction> {
        self.convicted.values()
    }
}
