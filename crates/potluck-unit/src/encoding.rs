//! Postcard, made strict: one value has one encoding, and nothing is read past its bound.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// Bytes that are not what they should be. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// More bytes than this kind may have.
    #[error("{bytes} bytes are more than the {max} allowed")]
    TooLong {
        /// How many there are.
        bytes: usize,
        /// How many there may be.
        max: usize,
    },
    /// They do not decode, or decode to something that would be written otherwise.
    #[error("malformed bytes")]
    Malformed,
    /// A version this build does not know.
    #[error("version {version} is not known here")]
    UnknownVersion {
        /// The version.
        version: u8,
    },
    /// A kind this build does not know.
    #[error("kind {kind} is not known here")]
    UnknownKind {
        /// The kind.
        kind: u8,
    },
    /// A field is outside its bounds.
    #[error("the {what} is out of bounds")]
    OutOfBounds {
        /// Which.
        what: &'static str,
    },
    /// The signature is not the signer's.
    #[error("the signature is wrong")]
    BadSignature,
}

/// Writes a value.
pub(crate) fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    postcard::to_stdvec(value).expect("our types hold nothing that postcard can't write")
}

/// Reads a value of at most `bytes_max` bytes. What would be written otherwise is refused: a second
/// encoding of the same record would be a second record id.
pub(crate) fn decode<T: Serialize + DeserializeOwned>(
    bytes: &[u8],
    bytes_max: usize,
) -> Result<T, DecodeError> {
    if bytes.len() > bytes_max {
        return Err(DecodeError::TooLong { bytes: bytes.len(), max: bytes_max });
    }
    let value = postcard::from_bytes(bytes).map_err(|_| DecodeError::Malformed)?;
    if encode(&value) == bytes { Ok(value) } else { Err(DecodeError::Malformed) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_encoding_of_the_same_value_is_refused() {
        assert_eq!(decode::<u32>(&[5], 8), Ok(5));
        assert_eq!(decode::<u32>(&[0x85, 0], 8), Err(DecodeError::Malformed));
        assert_eq!(decode::<u32>(&[5, 0], 8), Err(DecodeError::Malformed));
        assert_eq!(decode::<u32>(&[5, 0], 1), Err(DecodeError::TooLong { bytes: 2, max: 1 }));
    }
}
