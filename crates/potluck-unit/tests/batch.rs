//! Why signatures are checked one by one: checked together, some would count that alone do not.

#![allow(clippy::print_stdout, reason = "one of these tests measures")]

use std::time::Instant;

use curve25519_dalek::constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION};
use curve25519_dalek::edwards::CompressedEdwardsY;
use curve25519_dalek::traits::{IsIdentity, VartimeMultiscalarMul};
use curve25519_dalek::{EdwardsPoint, Scalar};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use sha2::{Digest, Sha512};

struct Signed {
    key: VerifyingKey,
    message: [u8; 53],
    signature: Signature,
}

fn challenge(r: &[u8], key: &VerifyingKey, message: &[u8]) -> Scalar {
    let hash = Sha512::new().chain_update(r).chain_update(key.as_bytes()).chain_update(message);
    Scalar::from_bytes_mod_order_wide(&hash.finalize().into())
}

/// The batch equation of Ed25519 as ed25519-dalek's `verify_batch` has it: one sum over all
/// signatures with weights of 128 bits, which follow from everything that is summed.
fn together(all: &[Signed]) -> bool {
    let mut hasher = blake3::Hasher::new();
    for one in all {
        hasher.update(&one.signature.to_bytes());
        hasher.update(one.key.as_bytes());
        hasher.update(&one.message);
    }
    let mut weights = hasher.finalize_xof();
    let mut scalars = vec![Scalar::ZERO];
    let mut points = vec![Some(ED25519_BASEPOINT_POINT)];
    for one in all {
        let mut weight = [0; 16];
        weights.fill(&mut weight);
        let weight = Scalar::from(u128::from_le_bytes(weight));
        let s = Scalar::from_canonical_bytes(*one.signature.s_bytes());
        let Some(s) = Option::<Scalar>::from(s) else { return false };
        scalars[0] -= weight * s;
        scalars.push(weight);
        points.push(CompressedEdwardsY(*one.signature.r_bytes()).decompress());
        scalars.push(weight * challenge(one.signature.r_bytes(), &one.key, &one.message));
        points.push(CompressedEdwardsY(one.key.to_bytes()).decompress());
    }
    EdwardsPoint::optional_multiscalar_mul(scalars, points).is_some_and(|sum| sum.is_identity())
}

fn alone(one: &Signed) -> bool {
    one.key.verify_strict(&one.message, &one.signature).is_ok()
}

fn honest(n: u8) -> Signed {
    let (key, message) = (SigningKey::from_bytes(&[n; 32]), [n; 53]);
    Signed { key: key.verifying_key(), message, signature: key.sign(&message) }
}

/// Signed by the owner of the key, with a nonce's point that has a part of order 2.
fn twisted(n: u8, nonce: u64) -> Signed {
    let (key, message) = (SigningKey::from_bytes(&[n; 32]), [n; 53]);
    let nonce = Scalar::from(nonce);
    let r = (EdwardsPoint::mul_base(&nonce) + EIGHT_TORSION[4]).compress();
    let c = challenge(r.as_bytes(), &key.verifying_key(), &message);
    let s = nonce + c * key.to_scalar();
    let signature = Signature::from_components(r.to_bytes(), s.to_bytes());
    Signed { key: key.verifying_key(), message, signature }
}

#[test]
fn a_batch_takes_what_no_peer_takes_alone() {
    let mut taken = 0;
    for nonce in 1..=40 {
        let mut all: Vec<Signed> = (1..=7).map(honest).collect();
        assert!(together(&all) && all.iter().all(alone));
        all.push(twisted(8, nonce));
        assert!(!alone(&all[7]), "refused by itself");
        taken += usize::from(together(&all));
    }
    assert!((5..=35).contains(&taken), "the weights decide, one time in two: {taken} of 40");
}

/// `cargo test -p potluck-unit --test batch -- --ignored --nocapture`
#[test]
#[ignore = "measures"]
fn cost_of_64_signatures() {
    let all: Vec<Signed> = (1..=64).map(honest).collect();
    let fastest = |check: &dyn Fn() -> bool| {
        let time = || {
            let start = Instant::now();
            assert!(check());
            start.elapsed()
        };
        (0..50).map(|_| time()).min().unwrap_or_default()
    };
    println!("64 signatures one by one: {:?}", fastest(&|| all.iter().all(alone)));
    println!("64 signatures together: {:?}", fastest(&|| together(&all)));
}
