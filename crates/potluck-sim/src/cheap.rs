//! Cheap signatures and draws: what production spends on cryptography would dominate a world.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use potluck_peer::{Draws, Verify};
use potluck_unit::{Draw, DrawProof, Key, PeerId};

/// Checks each signature once for all peers of a world.
pub(crate) fn remembering() -> Verify {
    type Known = BTreeMap<[u8; 64], Vec<(PeerId, Box<[u8]>, bool)>>;
    let known: Mutex<Known> = Mutex::default();
    Arc::new(move |peer, signed, signature| {
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        let same = known.entry(signature.0).or_default();
        let before = same.iter().find(|(who, what, _)| who == peer && **what == *signed);
        if let Some((_, _, good)) = before {
            return *good;
        }
        let good = peer.signed("potluck record v1", signed, signature);
        same.push((*peer, signed.into(), good));
        good
    })
}

/// Draws that follow from a secret of the world. Cheats of a world can't steer them either: the
/// output for a key and an input is what it is, and no peer knows the secret.
pub(crate) struct WorldDraws([u8; 32]);

impl WorldDraws {
    pub(crate) fn of_seed(seed: u64) -> Arc<WorldDraws> {
        Arc::new(WorldDraws(*blake3::hash(&seed.to_le_bytes()).as_bytes()))
    }

    fn draw(&self, peer: &PeerId, input: &[u8]) -> Draw {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        Draw(*hasher.update(&peer.0).update(input).finalize().as_bytes())
    }
}

impl fmt::Debug for WorldDraws {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WorldDraws")
    }
}

impl Draws for WorldDraws {
    fn make(&self, key: &Key, input: &[u8]) -> (DrawProof, Draw) {
        let draw = self.draw(&key.id(), input);
        let mut proof = [0; DrawProof::BYTES];
        proof[..32].copy_from_slice(&draw.0);
        (DrawProof(proof), draw)
    }

    fn check(&self, peer: &PeerId, proof: &DrawProof, input: &[u8]) -> Option<Draw> {
        let draw = self.draw(peer, input);
        (proof.0[..32] == draw.0 && proof.0[32..].iter().all(|byte| *byte == 0)).then_some(draw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_draw_proves_itself_for_its_key_and_input_only() {
        let (draws, one, two) =
            (WorldDraws::of_seed(1), Key::of_secret(&[1; 32]), Key::of_secret(&[2; 32]));
        let (proof, draw) = draws.make(&one, b"input");
        assert_eq!(draws.check(&one.id(), &proof, b"input"), Some(draw));
        assert_eq!(draws.check(&two.id(), &proof, b"input"), None);
        assert_eq!(draws.check(&one.id(), &proof, b"another"), None);
        assert_eq!(WorldDraws::of_seed(2).check(&one.id(), &proof, b"input"), None);
    }
}
