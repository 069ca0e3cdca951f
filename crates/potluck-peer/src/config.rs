//! What a peer is born with, and what a simulation may do cheaper for it.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use potluck_unit::{DecodeError, Draw, DrawProof, Identity, Key, PeerId, Signature, Signed};

/// How a peer checks signatures. Everybody's answer must be that of [`PeerId::signed`] under the
/// domain of records; a simulation may remember it.
pub type Verify = Arc<dyn Fn(&PeerId, &[u8], &Signature) -> bool + Send + Sync>;

/// How a peer reads records. Everybody's answer must be that of [`Signed::of_bytes`]; a simulation
/// may remember it, so that what reaches a thousand peers is decoded and held once.
pub type Read = Arc<dyn Fn(&Arc<[u8]>) -> Result<Signed, DecodeError> + Send + Sync>;

/// How a peer draws, and checks what others drew. Everybody's answers must be those of
/// [`Key::draw`] and [`DrawProof::check`]; a simulation may use something cheaper among itself.
pub trait Draws: Send + Sync {
    /// Draws with a key.
    fn make(&self, key: &Key, input: &[u8]) -> (DrawProof, Draw);
    /// Checks what a peer says it drew.
    fn check(&self, peer: &PeerId, proof: &DrawProof, input: &[u8]) -> Option<Draw>;
}

/// What a peer is born with.
#[derive(Clone, Default)]
pub struct Config {
    /// How many units it runs at once. 0 for one that only submits; such a peer still re-executes
    /// disputed units of its own jobs, one at a time.
    pub slots: u16,
    /// Where it can be reached.
    pub addresses: Vec<SocketAddr>,
    /// Whom the user told it to join.
    pub joins: Vec<SocketAddr>,
    /// The software and its version.
    pub agent: String,
    /// What the donor wants to be called; within the bounds of [`potluck_unit::Contact`].
    pub nickname: String,
    /// With whom the donor wants to be counted; likewise.
    pub team: String,
    /// Seeds every choice by chance.
    pub seed: u64,
    /// How it checks signatures; none for the plain way.
    pub verify: Option<Verify>,
    /// How it reads records; none for the plain way. Does what `verify` does too.
    pub read: Option<Read>,
    /// How it draws; none for the plain way.
    pub draws: Option<Arc<dyn Draws>>,
    /// Whether strangers take part: then keys cost work, and newcomers are on probation.
    pub open: bool,
    /// What this peer's key cost, if strangers take part.
    pub identity: Identity,
    /// How much work others must prove then; 0 for none.
    pub work_bits: u8,
    /// How much of its time the donor wants to give to whom, relative to the 100 that everybody else
    /// has. 0 for nothing at all.
    pub weights: BTreeMap<PeerId, u32>,
    /// How many bytes of outcomes it keeps for others; none for 1 GiB. Those that travel inside
    /// receipts do not count, and what is on its way may come on top.
    pub keep_max_bytes: Option<u64>,
}

impl Config {
    pub(crate) fn draw(&self, key: &Key, input: &[u8]) -> (DrawProof, Draw) {
        self.draws.as_ref().map_or_else(|| key.draw(input), |draws| draws.make(key, input))
    }

    pub(crate) fn check_draw(
        &self,
        peer: &PeerId,
        proof: &DrawProof,
        input: &[u8],
    ) -> Option<Draw> {
        let plain = || proof.check(peer, input);
        self.draws.as_ref().map_or_else(plain, |draws| draws.check(peer, proof, input))
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("slots", &self.slots)
            .field("addresses", &self.addresses)
            .field("joins", &self.joins)
            .finish_non_exhaustive()
    }
}
