//! Ed25519 keys and the one way in which Potluck signs with them.
//!
//! A signature covers `"potluck signature v1\0" ‖ BLAKE3_derive(domain, bytes)`. The prefix can't be
//! the start of a TLS 1.3 handshake signature (those begin with 64 spaces), so the key may serve as
//! TLS identity as well; the domain keeps one kind of record from passing for another.

use std::fmt;

use ed25519_dalek::hazmat::ExpandedSecretKey;
use ed25519_dalek::{Signature as Dalek, Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::PeerId;

/// An Ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Signature(pub [u8; Signature::BYTES]);

impl Signature {
    /// How many bytes a signature has.
    pub const BYTES: usize = 64;
}

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let (mut r, mut s) = ([0; 32], [0; 32]);
        r.copy_from_slice(&self.0[..32]);
        s.copy_from_slice(&self.0[32..]);
        (r, s).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (r, s) = <([u8; 32], [u8; 32])>::deserialize(deserializer)?;
        let mut signature = Signature([0; Signature::BYTES]);
        signature.0[..32].copy_from_slice(&r);
        signature.0[32..].copy_from_slice(&s);
        Ok(signature)
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({:02x}{:02x}…)", self.0[0], self.0[1])
    }
}

/// A peer's secret key. Its bytes are wiped when it is dropped; it never prints them.
#[derive(Clone)]
pub struct Key(SigningKey);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id().short())
    }
}

impl Key {
    /// The key that these 32 secret bytes stand for.
    pub fn of_secret(secret: &[u8; 32]) -> Key {
        Key(SigningKey::from_bytes(secret))
    }

    /// The secret bytes, to be written to a file that only its owner can read.
    pub fn secret(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The peer that this key speaks for.
    pub fn id(&self) -> PeerId {
        PeerId(self.0.verifying_key().to_bytes())
    }

    /// The secret scalar and the secret prefix of nonces, wiped when dropped.
    pub(crate) fn expanded(&self) -> ExpandedSecretKey {
        ExpandedSecretKey::from(self.0.as_bytes())
    }

    /// Signs `bytes` under `domain`.
    pub fn sign(&self, domain: &str, bytes: &[u8]) -> Signature {
        Signature(self.0.sign(&message(domain, bytes)).to_bytes())
    }

    /// Signs exactly these bytes, for the TLS handshake and nothing else: every other signature
    /// must go through [`Key::sign`], which separates domains.
    pub fn sign_tls(&self, message: &[u8]) -> Signature {
        Signature(self.0.sign(message).to_bytes())
    }
}

impl PeerId {
    /// Whether `signature` over `bytes` under `domain` is this peer's. Strict: signatures and keys
    /// of small order, which would verify for several messages, are refused.
    pub fn signed(&self, domain: &str, bytes: &[u8], signature: &Signature) -> bool {
        VerifyingKey::from_bytes(&self.0).is_ok_and(|key| {
            key.verify_strict(&message(domain, bytes), &Dalek::from_bytes(&signature.0)).is_ok()
        })
    }
}

fn message(domain: &str, bytes: &[u8]) -> [u8; PREFIX.len() + 32] {
    let mut hasher = blake3::Hasher::new_derive_key(domain);
    hasher.update(bytes);
    let mut message = [0; PREFIX.len() + 32];
    message[..PREFIX.len()].copy_from_slice(PREFIX);
    message[PREFIX.len()..].copy_from_slice(hasher.finalize().as_bytes());
    message
}

const PREFIX: &[u8; 21] = b"potluck signature v1\0";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_counts_for_its_signer_domain_and_bytes_only() {
        let (key, other) = (Key::of_secret(&[1; 32]), Key::of_secret(&[2; 32]));
        let signature = key.sign("potluck test v1", b"hello");
        assert!(key.id().signed("potluck test v1", b"hello", &signature));
        assert!(!other.id().signed("potluck test v1", b"hello", &signature));
        assert!(!key.id().signed("potluck test v2", b"hello", &signature));
        assert!(!key.id().signed("potluck test v1", b"hellp", &signature));
    }

    #[test]
    fn a_key_of_small_order_signs_nothing() {
        let mut identity = [0; 32];
        identity[0] = 1;
        let mut signature = [0; 64];
        signature[0] = 1;
        assert!(!PeerId(identity).signed("potluck test v1", b"any", &Signature(signature)));
    }
}
