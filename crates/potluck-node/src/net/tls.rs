//! Who is at the other end: TLS 1.3 with Ed25519 raw public keys (RFC 7250) on both sides, so that a
//! peer's key is its identity and nobody has to vouch for it.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use potluck_unit::{Key, PeerId};
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::crypto::{CryptoError, HmacKey};
use quinn::{
    ClientConfig, Connection, ConnectionId, ConnectionIdGenerator, EndpointConfig, IdleTimeout,
    ServerConfig, TransportConfig, VarInt,
};
use rustls::client::Resumption;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls13_signature_with_raw_key};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::sign::{CertifiedKey, Signer, SigningKey};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible,
    SignatureAlgorithm, SignatureScheme,
};

use super::limits;

/// This node's side of every handshake.
#[derive(Debug, Clone)]
pub(crate) struct Identity {
    key: Key,
    provider: Arc<CryptoProvider>,
    shown: Arc<CertifiedKey>,
    grid: Grid,
}

/// With whom a node connects. Nodes of the one kind and of the other never do: each would refuse
/// what the other says, and nobody would see why.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Grid {
    /// Friends. Keys cost nothing.
    Private,
    /// Whoever comes. Keys cost work.
    Open,
}

impl Grid {
    /// The one protocol that is spoken; a change that old nodes can't follow gets another number.
    fn protocol(self) -> Vec<u8> {
        match self {
            Grid::Private => b"potluck/1".to_vec(),
            Grid::Open => b"potluck-open/1".to_vec(),
        }
    }
}

/// The server name that dialling needs and nobody looks at: it stays off the wire.
pub(crate) const SERVER_NAME: &str = "potluck.invalid";

impl Identity {
    pub(crate) fn of(key: &Key, grid: Grid) -> Identity {
        let spki = [SPKI_PREFIX.as_slice(), key.id().as_bytes()].concat();
        let signer: Arc<dyn SigningKey> = Arc::new(TlsKey(key.clone()));
        Identity {
            key: key.clone(),
            provider: Arc::new(ring::default_provider()),
            shown: Arc::new(CertifiedKey::new(vec![CertificateDer::from(spki)], signer)),
            grid,
        }
    }

    /// How this node answers.
    pub(crate) fn server(&self) -> Result<ServerConfig, Error> {
        let mut tls = rustls::ServerConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .with_client_cert_verifier(Arc::new(AnyClient(self.provider.clone())))
            .with_cert_resolver(Arc::new(rustls::server::AlwaysResolvesServerRawPublicKeys::new(
                self.shown.clone(),
            )));
        tls.alpn_protocols = vec![self.grid.protocol()];
        // No session is ever resumed, so there is no 0-RTT data that could be replayed, and the key
        // is shown and checked each time.
        tls.send_tls13_tickets = 0;
        tls.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
        let quic = QuicServerConfig::try_from(tls).map_err(no_suite)?;
        let mut server = ServerConfig::with_crypto(Arc::new(quic));
        server
            .transport_config(Arc::new(transport(None)))
            .max_incoming(limits::UNSEEN_MAX)
            .incoming_buffer_size(limits::UNSEEN_BYTES_MAX / 16)
            .incoming_buffer_size_total(limits::UNSEEN_BYTES_MAX);
        Ok(server)
    }

    /// How this node dials somebody of whom it expects this key, or any. What was found is written
    /// to `seen` even if it was not what was expected.
    pub(crate) fn client(
        &self,
        expect: Option<PeerId>,
        seen: Arc<OnceLock<PeerId>>,
    ) -> Result<ClientConfig, Error> {
        let verifier = Expected { expect, seen, provider: self.provider.clone() };
        let mut tls = rustls::ClientConfig::builder_with_provider(self.provider.clone())
            .with_protocol_versions(&[&rustls::version::TLS13])?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier))
            .with_client_cert_resolver(Arc::new(
                rustls::client::AlwaysResolvesClientRawPublicKeys::new(self.shown.clone()),
            ));
        tls.alpn_protocols = vec![self.grid.protocol()];
        tls.enable_sni = false;
        tls.resumption = Resumption::disabled();
        let quic = QuicClientConfig::try_from(tls).map_err(no_suite)?;
        let mut client = ClientConfig::new(Arc::new(quic));
        client.transport_config(Arc::new(transport(Some(limits::KEEP_ALIVE))));
        Ok(client)
    }

    /// How the endpoint behaves. The reset key is the same after a restart, so that neighbours who
    /// still talk to the node that was are told at once that it is gone, not after a timeout.
    pub(crate) fn endpoint(&self) -> EndpointConfig {
        let secret = blake3::derive_key("potluck stateless reset v1", &self.key.secret());
        let mut config = EndpointConfig::new(Arc::new(ResetKey(secret)));
        // Other kinds of datagram may share the port one day; they are told apart by this bit.
        config.grease_quic_bit(false).cid_generator(|| Box::new(RandomIds));
        config
    }
}

/// The key that the other end of this connection has proven to hold.
pub(crate) fn peer_of(connection: &Connection) -> Option<PeerId> {
    let shown = connection.peer_identity()?.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    peer_of_spki(shown.first()?)
}

fn peer_of_spki(spki: &[u8]) -> Option<PeerId> {
    spki.strip_prefix(SPKI_PREFIX.as_slice()).and_then(|key| key.try_into().ok()).map(PeerId)
}

/// Who dialled keeps the connection alive: it is the one that may sit behind a router. Where both
/// do, their clocks fall into step and everything is said twice.
fn transport(keep_alive: Option<Duration>) -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(limits::IDLE_TIMEOUT_MS))))
        .keep_alive_interval(keep_alive)
        .max_concurrent_bidi_streams(limits::REQUESTS_MAX.into())
        .max_concurrent_uni_streams(limits::GOSSIP_STREAMS_MAX.into())
        .stream_receive_window(limits::STREAM_WINDOW_BYTES.into())
        .receive_window(limits::WINDOW_BYTES.into())
        .send_window(limits::SEND_WINDOW_BYTES)
        .datagram_receive_buffer_size(None);
    transport
}

fn no_suite(error: impl std::fmt::Display) -> Error {
    Error::General(error.to_string())
}

/// Signs handshakes with the node's key.
#[derive(Debug, Clone)]
struct TlsKey(Key);

impl SigningKey for TlsKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered
            .contains(&SignatureScheme::ED25519)
            .then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ED25519
    }
}

impl Signer for TlsKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, Error> {
        Ok(self.0.sign_tls(message).0.to_vec())
    }

    fn scheme(&self) -> SignatureScheme {
        SignatureScheme::ED25519
    }
}

/// Takes whoever has the key that is expected.
#[derive(Debug)]
struct Expected {
    expect: Option<PeerId>,
    seen: Arc<OnceLock<PeerId>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Expected {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let peer = peer_of_spki(end_entity).ok_or(CertificateError::BadEncoding)?;
        let _ = self.seen.set(peer);
        if self.expect.is_some_and(|expected| expected != peer) {
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify(&self.provider, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

/// Takes any client that proves to hold the key it shows; who it is, others judge.
#[derive(Debug)]
struct AnyClient(Arc<CryptoProvider>);

impl ClientCertVerifier for AnyClient {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        peer_of_spki(end_entity).ok_or(CertificateError::BadEncoding)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(PeerIncompatible::Tls12NotOfferedOrEnabled.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify(&self.0, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        true
    }
}

fn verify(
    provider: &CryptoProvider,
    message: &[u8],
    spki: &CertificateDer<'_>,
    dss: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let spki = SubjectPublicKeyInfoDer::from(spki.as_ref());
    let algorithms = &provider.signature_verification_algorithms;
    verify_tls13_signature_with_raw_key(message, &spki, dss, algorithms)
}

/// Makes the tokens by which a restarted node takes back the connections it no longer knows.
struct ResetKey([u8; 32]);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(blake3::keyed_hash(&self.0, data).as_bytes());
    }

    fn signature_len(&self) -> usize {
        blake3::OUT_LEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let signature: [u8; 32] = signature.try_into().map_err(|_| CryptoError)?;
        // `blake3::Hash` compares in constant time.
        (blake3::keyed_hash(&self.0, data) == signature).then_some(()).ok_or(CryptoError)
    }
}

/// Connection ids without structure. The library's own recognise the ids that this run of the
/// program gave out and stay silent about all others, which would defeat [`ResetKey`].
#[derive(Debug)]
struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        let mut id = [0; CONNECTION_ID_BYTES];
        getrandom::fill(&mut id).expect("the operating system has random bytes");
        ConnectionId::new(&id)
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Enough that ids of one node never meet by chance.
const CONNECTION_ID_BYTES: usize = 8;

/// What stands before the 32 bytes of an Ed25519 key in its SubjectPublicKeyInfo (RFC 8410).
const SPKI_PREFIX: [u8; 12] = *b"\x30\x2a\x30\x05\x06\x03\x2b\x65\x70\x03\x21\x00";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_ed25519_key_in_its_exact_form_names_a_peer() {
        let peer = Key::of_secret(&[1; 32]).id();
        let spki = [SPKI_PREFIX.as_slice(), peer.as_bytes()].concat();
        assert_eq!(peer_of_spki(&spki), Some(peer));
        assert_eq!(peer_of_spki(&spki[..43]), None);
        assert_eq!(peer_of_spki(&[spki.as_slice(), &[0]].concat()), None);
        assert_eq!(peer_of_spki(&[&[0x30, 0x2b], &spki[2..]].concat()), None);
    }
}
