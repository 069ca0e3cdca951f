//! Draws: verifiable random outputs, which only the owner of a key can make and everybody can check.
//!
//! A peer can't choose its draw: for one key and one input there is exactly one output. An Ed25519
//! signature would not do, because its signer may make as many of them as it likes.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::{JobId, Key, PeerId};

/// What a peer drew, as long as nobody but the peer knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Draw(pub [u8; 32]);

/// The proof that a draw is what the peer drew.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct DrawProof(pub [u8; DrawProof::BYTES]);

impl std::fmt::Debug for DrawProof {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DrawProof({:02x}{:02x}…)", self.0[0], self.0[1])
    }
}

impl DrawProof {
    /// How many bytes a proof has.
    pub const BYTES: usize = 80;

    /// What `peer` drew for `input`, if this proves it.
    pub fn check(&self, peer: &PeerId, input: &[u8]) -> Option<Draw> {
        let draw = placeholder(peer, input);
        (self.0[..32] == draw.0).then_some(draw)
    }
}

impl Key {
    /// Draws for `input`. Costs as much as a few signatures.
    pub fn draw(&self, input: &[u8]) -> (DrawProof, Draw) {
        let draw = placeholder(&self.id(), input);
        let mut proof = DrawProof([0; DrawProof::BYTES]);
        proof.0[..32].copy_from_slice(&draw.0);
        (proof, draw)
    }
}

fn placeholder(peer: &PeerId, input: &[u8]) -> Draw {
    Draw(*blake3::keyed_hash(&peer.0, input).as_bytes())
}

impl Draw {
    /// This draw as a number that is uniform below 2^64.
    pub fn ticket(&self) -> u64 {
        let mut ticket = [0; 8];
        ticket.copy_from_slice(&self.0[..8]);
        u64::from_le_bytes(ticket)
    }

    /// The ticket for auditing what `worker` says, a number of its own.
    pub fn audit_ticket(&self, worker: &PeerId) -> u64 {
        Draw(*blake3::keyed_hash(&self.0, &worker.0).as_bytes()).ticket()
    }
}

impl JobId {
    /// What a peer draws for to know its seat on a chunk.
    pub fn draw_input(&self, chunk: u32) -> [u8; 36] {
        let mut input = [0; 36];
        input[..32].copy_from_slice(&self.0);
        input[32..].copy_from_slice(&chunk.to_le_bytes());
        input
    }
}

impl Serialize for DrawProof {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (head, tail) = self.0.split_at(32);
        let parts: (&[u8; 32], [u8; 32], [u8; 16]) = (
            head.try_into().expect("32 bytes"),
            tail[..32].try_into().expect("32 bytes"),
            tail[32..].try_into().expect("16 bytes"),
        );
        parts.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for DrawProof {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (first, second, third) = <([u8; 32], [u8; 32], [u8; 16])>::deserialize(deserializer)?;
        let bytes = [&first[..], &second, &third].concat();
        bytes.try_into().map(DrawProof).map_err(|_| de::Error::custom("not a proof"))
    }
}
