//! Why a connection ended, in words for a person.

use quinn::{ConnectionError, ReadError, ReadExactError, WriteError};

/// Why this connection ended, or never began.
pub(crate) fn of_connection(error: &ConnectionError) -> String {
    match error {
        ConnectionError::VersionMismatch => "it speaks another version of QUIC".to_owned(),
        ConnectionError::TransportError(error) => format!("the connection failed: {error}"),
        ConnectionError::ConnectionClosed(close) => {
            let code = u64::from(close.error_code);
            if code == REFUSED {
                "it takes no more connections now".to_owned()
            } else if code == NO_PROTOCOL {
                "what runs there is not a potluck node of this version, or one takes part in an open \
                 grid and the other was started with --private"
                    .to_owned()
            } else {
                format!("it closed the connection: {}", close.error_code)
            }
        }
        ConnectionError::ApplicationClosed(close) => said(&close.reason),
        ConnectionError::Reset => "it was restarted".to_owned(),
        ConnectionError::TimedOut => "it no longer answers".to_owned(),
        ConnectionError::LocallyClosed => "this node hung up".to_owned(),
        ConnectionError::CidsExhausted => "no connection ids are left".to_owned(),
    }
}

/// Why nothing more can be read.
pub(crate) fn of_read(error: &ReadError) -> String {
    match error {
        ReadError::ConnectionLost(error) => of_connection(error),
        ReadError::Reset(_) => "it broke off its stream".to_owned(),
        ReadError::ClosedStream | ReadError::IllegalOrderedRead | ReadError::ZeroRttRejected => {
            error.to_string()
        }
    }
}

/// Why a fixed number of bytes can't be read.
pub(crate) fn of_read_exact(error: &ReadExactError) -> String {
    match error {
        ReadExactError::FinishedEarly(_) => "it ended its stream".to_owned(),
        ReadExactError::ReadError(error) => of_read(error),
    }
}

/// Why nothing more can be written.
pub(crate) fn of_write(error: &WriteError) -> String {
    match error {
        WriteError::ConnectionLost(error) => of_connection(error),
        WriteError::Stopped(_) => "it does not want to read".to_owned(),
        WriteError::ClosedStream | WriteError::ZeroRttRejected => error.to_string(),
    }
}

/// What the other side gave as its reason: theirs to choose, so short and printable here.
fn said(reason: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(&reason[..reason.len().min(REASON_BYTES_MAX)])
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    if text.is_empty() { "it closed the connection".to_owned() } else { format!("it said: {text}") }
}

const REASON_BYTES_MAX: usize = 120;

/// QUIC's code for a refused handshake (RFC 9000, 20.1).
const REFUSED: u64 = 0x2;

/// QUIC's code for TLS's `no_application_protocol` alert (RFC 9001, 4.8).
const NO_PROTOCOL: u64 = 0x178;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_stranger_says_is_short_and_printable() {
        assert_eq!(said(b"bye\n\x1b[31m"), "it said: bye  [31m");
        assert!(said(&[b'x'; 1000]).len() < 140);
    }
}
