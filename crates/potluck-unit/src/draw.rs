//! Draws: verifiable random outputs, which only the owner of a key can make and everybody can check.
//!
//! A peer can't choose its draw: for one key and one input there is exactly one output. An Ed25519
//! signature would not do, because its signer may make as many of them as it likes.
//!
//! This is ECVRF-EDWARDS25519-SHA512-TAI of RFC 9381 (suite 3), and its output is hashed once more,
//! under a domain of our own. An owner may make several valid proofs for one input; all of them give
//! the same draw, because only the part of Gamma in the group of prime order is hashed and the proof
//! ties that part to the key.
//!
//! **One secret, three uses.** The scalar that draws also signs records and TLS handshakes. A secret
//! scalar leaks when one nonce serves two challenges. Every nonce is SHA-512 of a secret prefix and a
//! message: 32 bytes (the encoded point) here, 53 bytes in [`Key::sign`], at least 130 in a TLS 1.3
//! handshake. No two are equal, so no nonce serves twice. The challenges, too, are hashes of inputs
//! of different lengths: 163 bytes here, 117 for records, 194 or 210 in handshakes; what answers the
//! one never answers the other.

use curve25519_dalek::edwards::CompressedEdwardsY;
use curve25519_dalek::traits::{IsIdentity, VartimeMultiscalarMul};
use curve25519_dalek::{EdwardsPoint, Scalar};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha512};

use crate::{JobId, Key, PeerId};

/// What a peer drew, as long as nobody but the peer knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Draw(pub [u8; 32]);

/// The proof that a draw is what the peer drew: Gamma (32) ‖ c (16) ‖ s (32).
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

    /// What `peer` drew for `input`, if this proves it. Costs about as much as two or three signature checks.
    pub fn check(&self, peer: &PeerId, input: &[u8]) -> Option<Draw> {
        self.output(peer, input).map(|output| Draw::of_output(&output))
    }

    /// ECVRF_verify, with the key checked. Encodings of points and numbers other than the shortest
    /// are refused.
    fn output(&self, peer: &PeerId, input: &[u8]) -> Option<[u8; 64]> {
        let (gamma_bytes, rest) = self.0.split_first_chunk::<32>()?;
        let (c_bytes, s_bytes) = rest.split_first_chunk::<CHALLENGE_BYTES>()?;
        let key = point(&peer.0).filter(|key| !key.is_small_order())?;
        let gamma = point(gamma_bytes)?;
        let c = Scalar::from(u128::from_le_bytes(*c_bytes));
        let s = Option::from(Scalar::from_canonical_bytes(s_bytes.try_into().ok()?))?;
        let h = to_curve(&peer.0, input)?;
        // Points are negated, not c: a key or Gamma with a part of small order is not of the order
        // that scalars are reduced by.
        let u = EdwardsPoint::vartime_double_scalar_mul_basepoint(&c, &-key, &s);
        let v = EdwardsPoint::vartime_multiscalar_mul([s, c], [h, -gamma]);
        (challenge([&key, &h, &gamma, &u, &v]) == *c_bytes).then(|| output(&gamma))
    }
}

impl Key {
    /// Draws for `input`. Costs about as much as seven signatures.
    pub fn draw(&self, input: &[u8]) -> (DrawProof, Draw) {
        let secret = self.expanded();
        let peer = self.id();
        // Half of all tries fail: that 256 of them do is less likely than guessing the key.
        let h = to_curve(&peer.0, input).expect("a try that is a point");
        let gamma = secret.scalar * h;
        let nonce = Sha512::new()
            .chain_update(secret.hash_prefix)
            .chain_update(h.compress().as_bytes())
            .finalize();
        let k = Scalar::from_bytes_mod_order_wide(&nonce.into());
        let key = EdwardsPoint::mul_base(&secret.scalar);
        let c = challenge([&key, &h, &gamma, &EdwardsPoint::mul_base(&k), &(k * h)]);
        let s = k + Scalar::from(u128::from_le_bytes(c)) * secret.scalar;
        let mut proof = DrawProof([0; DrawProof::BYTES]);
        proof.0[..32].copy_from_slice(gamma.compress().as_bytes());
        proof.0[32..48].copy_from_slice(&c);
        proof.0[48..].copy_from_slice(s.as_bytes());
        (proof, Draw::of_output(&output(&gamma)))
    }
}

/// ECVRF-EDWARDS25519-SHA512-TAI.
const SUITE: u8 = 3;
const CHALLENGE_BYTES: usize = 16;

/// The point with this encoding, if it is the one that the point would be written as.
fn point(bytes: &[u8; 32]) -> Option<EdwardsPoint> {
    let written = CompressedEdwardsY(*bytes);
    written.decompress().filter(|point| point.compress() == written)
}

/// ECVRF_encode_to_curve by trying hashes until one is a point; always of prime order.
fn to_curve(salt: &[u8; 32], input: &[u8]) -> Option<EdwardsPoint> {
    (0..=u8::MAX).find_map(|tries| {
        let hash = Sha512::new()
            .chain_update([SUITE, 1])
            .chain_update(salt)
            .chain_update(input)
            .chain_update([tries, 0])
            .finalize();
        let hash: [u8; 64] = hash.into();
        let found = point(hash.first_chunk()?)?.mul_by_cofactor();
        (!found.is_identity()).then_some(found)
    })
}

/// ECVRF_challenge_generation.
fn challenge(points: [&EdwardsPoint; 5]) -> [u8; CHALLENGE_BYTES] {
    let mut hasher = Sha512::new().chain_update([SUITE, 2]);
    points.iter().for_each(|point| hasher.update(point.compress().as_bytes()));
    let hash = hasher.chain_update([0]).finalize();
    let mut challenge = [0; CHALLENGE_BYTES];
    challenge.copy_from_slice(&hash[..CHALLENGE_BYTES]);
    challenge
}

/// ECVRF_proof_to_hash.
fn output(gamma: &EdwardsPoint) -> [u8; 64] {
    Sha512::new()
        .chain_update([SUITE, 3])
        .chain_update(gamma.mul_by_cofactor().compress().as_bytes())
        .chain_update([0])
        .finalize()
        .into()
}

impl Draw {
    fn of_output(output: &[u8; 64]) -> Draw {
        Draw(blake3::derive_key("potluck draw v1", output))
    }

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
        let (mut gamma, mut c, mut s) = ([0; 32], [0; CHALLENGE_BYTES], [0; 32]);
        gamma.copy_from_slice(&self.0[..32]);
        c.copy_from_slice(&self.0[32..48]);
        s.copy_from_slice(&self.0[48..]);
        (gamma, c, s).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for DrawProof {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (gamma, c, s) =
            <([u8; 32], [u8; CHALLENGE_BYTES], [u8; 32])>::deserialize(deserializer)?;
        let mut proof = DrawProof([0; DrawProof::BYTES]);
        proof.0[..32].copy_from_slice(&gamma);
        proof.0[32..48].copy_from_slice(&c);
        proof.0[48..].copy_from_slice(&s);
        Ok(proof)
    }
}

#[cfg(test)]
mod tests {
    use curve25519_dalek::constants::EIGHT_TORSION;

    use super::*;

    fn unhex<const N: usize>(text: &str) -> [u8; N] {
        let byte = |at| u8::from_str_radix(&text[at..at + 2], 16).unwrap();
        (0..text.len()).step_by(2).map(byte).collect::<Vec<u8>>().try_into().unwrap()
    }

    /// Appendix B.3 of RFC 9381, examples 16 to 18: secret, input, proof, output.
    const EXAMPLES: [(&str, &[u8], &str, &str); 3] = [
        (
            "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
            &[],
            "8657106690b5526245a92b003bb079ccd1a92130477671f6fc01ad16f26f723f26f8a57ccaed74ee1b190bed1f479d9727d2d0f9b005a6e456a35d4fb0daab1268a1b0db10836d9826a528ca76567805",
            "90cf1df3b703cce59e2a35b925d411164068269d7b2d29f3301c03dd757876ff66b71dda49d2de59d03450451af026798e8f81cd2e333de5cdf4f3e140fdd8ae",
        ),
        (
            "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
            &[0x72],
            "f3141cd382dc42909d19ec5110469e4feae18300e94f304590abdced48aed5933bf0864a62558b3ed7f2fea45c92a465301b3bbf5e3e54ddf2d935be3b67926da3ef39226bbc355bdc9850112c8f4b02",
            "eb4440665d3891d668e7e0fcaf587f1b4bd7fbfe99d0eb2211ccec90496310eb5e33821bc613efb94db5e5b54c70a848a0bef4553a41befc57663b56373a5031",
        ),
        (
            "c5aa8df43f9f837bedb7442f31dcb7b166d38535076f094b85ce3a2e0b4458f7",
            &[0xaf, 0x82],
            "9bc0f79119cc5604bf02d23b4caede71393cedfbb191434dd016d30177ccbf8096bb474e53895c362d8628ee9f9ea3c0e52c7a5c691b6c18c9979866568add7a2d41b00b05081ed0f58ee5e31b3a970e",
            "645427e5d00c62a23fb703732fa5d892940935942101e456ecca7bb217c61c452118fec1219202a0edcf038bb6373241578be7217ba85a2687f7a0310b2df19f",
        ),
    ];

    #[test]
    fn the_examples_of_rfc_9381_come_out() {
        for (secret, input, proof, beta) in EXAMPLES {
            let key = Key::of_secret(&unhex(secret));
            let (made, draw) = key.draw(input);
            assert_eq!(made, DrawProof(unhex(proof)));
            assert_eq!(made.output(&key.id(), input), Some(unhex(beta)));
            assert_eq!(made.check(&key.id(), input), Some(draw));
        }
    }

    #[test]
    fn a_proof_counts_for_its_key_and_input_only() {
        let (key, other) = (Key::of_secret(&[1; 32]), Key::of_secret(&[2; 32]));
        let (proof, draw) = key.draw(b"input");
        assert_eq!(proof.check(&key.id(), b"input"), Some(draw));
        assert_eq!(proof.check(&key.id(), b"inpus"), None);
        assert_eq!(proof.check(&other.id(), b"input"), None);
        for bit in 0..DrawProof::BYTES * 8 {
            let mut changed = proof;
            changed.0[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(changed.check(&key.id(), b"input"), None, "bit {bit}");
        }
    }

    #[test]
    fn an_s_beyond_the_group_order_is_refused() {
        let key = Key::of_secret(&[1; 32]);
        let (mut proof, _) = key.draw(b"input");
        let order = unhex::<32>("edd3f55c1a631258d69cf7a2def9de1400000000000000000000000000000010");
        let mut carry = 0;
        for (byte, more) in proof.0[48..].iter_mut().zip(order) {
            let sum = u16::from(*byte) + u16::from(more) + carry;
            (*byte, carry) = (sum.to_le_bytes()[0], sum >> 8);
        }
        assert_eq!(proof.check(&key.id(), b"input"), None);
    }

    #[test]
    fn keys_of_small_order_draw_nothing() {
        // With such a key and such a Gamma the equations hold for every c that is divisible by 8.
        for torsion in EIGHT_TORSION {
            let peer = PeerId(torsion.compress().to_bytes());
            for k in 0..64u64 {
                let (k, gamma) = (Scalar::from(k), EIGHT_TORSION[0]);
                let h = to_curve(&peer.0, b"input").unwrap();
                let u = EdwardsPoint::mul_base(&k);
                let c = challenge([&torsion, &h, &gamma, &u, &(k * h)]);
                let mut proof = DrawProof([0; DrawProof::BYTES]);
                proof.0[..32].copy_from_slice(gamma.compress().as_bytes());
                proof.0[32..48].copy_from_slice(&c);
                proof.0[48..].copy_from_slice(k.as_bytes());
                assert_eq!(proof.check(&peer, b"input"), None);
            }
        }
    }

    /// The owner's only freedom, a part of small order in Gamma and any nonce, changes the proof and
    /// not the draw.
    #[test]
    fn every_valid_proof_of_one_key_and_input_gives_the_same_draw() {
        let key = Key::of_secret(&[3; 32]);
        let (peer, secret) = (key.id(), key.expanded());
        let (first, draw) = key.draw(b"input");
        let h = to_curve(&peer.0, b"input").unwrap();
        let y = EdwardsPoint::mul_base(&secret.scalar);
        let mut others = 0;
        for torsion in EIGHT_TORSION {
            let gamma = secret.scalar * h + torsion;
            for k in 1..=64u64 {
                let k = Scalar::from(k);
                let c = challenge([&y, &h, &gamma, &EdwardsPoint::mul_base(&k), &(k * h)]);
                let s = k + Scalar::from(u128::from_le_bytes(c)) * secret.scalar;
                let mut proof = DrawProof([0; DrawProof::BYTES]);
                proof.0[..32].copy_from_slice(gamma.compress().as_bytes());
                proof.0[32..48].copy_from_slice(&c);
                proof.0[48..].copy_from_slice(s.as_bytes());
                if let Some(other) = proof.check(&peer, b"input") {
                    assert_eq!(other, draw);
                    others += usize::from(proof.0[..32] != first.0[..32]);
                }
            }
        }
        assert!(others > 0, "some c is divisible by 8 and hides the part of small order");
    }

    #[test]
    fn points_have_one_encoding() {
        let mut one_beyond_p = [0xff; 32];
        (one_beyond_p[0], one_beyond_p[31]) = (0xee, 0x7f);
        assert_eq!(point(&one_beyond_p), None, "p + 1 is another name of 1");
        let mut minus_zero = [0; 32];
        (minus_zero[0], minus_zero[31]) = (1, 0x80);
        assert_eq!(point(&minus_zero), None, "x = 0 has no sign");
    }
}
