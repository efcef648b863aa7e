//! The engine's side: its certificate carries its document, and only pinned relays get a session.

use std::collections::HashSet;
use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use e3_attest::{Binding, Request, State, Subject};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, UnixTime};
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use tokio_rustls::rustls::sign::{CertifiedKey, SigningKey};
use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, PeerIncompatible, ServerConfig, SignatureScheme,
    version,
};

use super::admin::{PUBLIC_KEY, ed25519_of};
use super::certificate::{CertificateFault, LinkKey, spki_of};
use super::{ALPN, Attester, Locked, key_hash, provider};
use crate::stream::Stream;

/// Age at which a certificate is renewed: well before a relay refuses its document ([`e3_attest::MAX_AGE`]).
pub const RENEW: Duration = Duration::from_secs(120);

/// Time for a relay to end its handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Why an engine has no certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EngineTlsError {
    /// The security module makes no document.
    #[error("the security module made no attestation document")]
    Document,
    /// The engine's state cannot be stated in a document.
    #[error("the engine's state cannot be stated in an attestation document")]
    State,
    /// The key or the certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateFault),
    /// The TLS library refuses the configuration.
    #[error("TLS cannot be set up")]
    Setup,
}

/// Who may come in.
#[derive(Debug, Clone, Default)]
pub struct Admitted {
    /// SHA-256 of the SubjectPublicKeyInfo of each relay.
    pub relays: HashSet<[u8; 32]>,
    /// Ed25519 public keys of administrators.
    pub admins: HashSet<[u8; PUBLIC_KEY]>,
    /// Whether keys that stand in neither list get a session, to prove in it what they are: a policy may know callers by their images alone.
    pub strangers: bool,
}

impl From<HashSet<[u8; 32]>> for Admitted {
    fn from(relays: HashSet<[u8; 32]>) -> Self {
        Self { relays, ..Self::default() }
    }
}

impl Admitted {
    fn peer(&self, spki: &[u8]) -> Option<Peer> {
        // A key that stands in both lists is an administrator's: nobody is both.
        if let Some(key) = ed25519_of(spki).filter(|key| self.admins.contains(key)) {
            return Some(Peer(Who::Admin(key)));
        }
        let hash = key_hash(spki);
        if self.relays.contains(&hash) {
            return Some(Peer(Who::Relay(hash)));
        }
        self.strangers.then_some(Peer(Who::Stranger(hash)))
    }
}

/// Whose session it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Who {
    /// A relay's, known by SHA-256 of its SubjectPublicKeyInfo.
    Relay([u8; 32]),
    /// An administrator's, known by its Ed25519 public key.
    Admin([u8; PUBLIC_KEY]),
    /// Nobody's that is known, with SHA-256 of its SubjectPublicKeyInfo: it has to prove what it is before it asks anything.
    Stranger([u8; 32]),
}

/// The other end of a session, known by its key. Only [`EngineTls::accept`] makes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Peer(Who);

impl Peer {
    /// Who it is.
    #[must_use]
    pub const fn who(&self) -> &Who {
        &self.0
    }
}

/// The engine's side of the attested link.
pub struct EngineTls {
    key: LinkKey,
    signer: Arc<dyn SigningKey>,
    attester: Arc<dyn Attester>,
    current: Arc<Current>,
    admitted: Arc<Door>,
    acceptor: TlsAcceptor,
}

impl fmt::Debug for EngineTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EngineTls")
    }
}

impl EngineTls {
    /// Makes the key of this boot and the first certificate. Whoever is not `admitted` gets no session.
    ///
    /// # Errors
    /// See [`EngineTlsError`].
    pub fn new(
        attester: Arc<dyn Attester>,
        admitted: impl Into<Admitted>,
        state: State,
    ) -> Result<Self, EngineTlsError> {
        let admitted = Arc::new(Door(RwLock::new(Arc::new(admitted.into()))));
        let key = LinkKey::generate()?;
        let provider = provider();
        let signer = provider.key_provider.load_private_key(key.private()).map_err(|_| EngineTlsError::Setup)?;
        let certified = certified(&key, &signer, &*attester, state)?;
        let current = Arc::new(Current(RwLock::new(certified)));
        let algorithms = provider.signature_verification_algorithms;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13])
            .map_err(|_| EngineTlsError::Setup)?
            .with_client_cert_verifier(Arc::new(Pinned { admitted: Arc::clone(&admitted), algorithms }))
            .with_cert_resolver(Arc::clone(&current) as Arc<dyn ResolvesServerCert>);
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self { key, signer, attester, current, admitted, acceptor: TlsAcceptor::from(Arc::new(config)) })
    }

    /// Renews the certificate: a fresh document over the state of now. Sessions go on; the next ones see the new one. To be called every [`RENEW`],
    /// and whenever the state changes.
    ///
    /// # Errors
    /// The certificate in force stays.
    pub fn renew(&self, state: State) -> Result<(), EngineTlsError> {
        let certified = certified(&self.key, &self.signer, &*self.attester, state)?;
        *self.current.0.write().unwrap_or_else(PoisonError::into_inner) = certified;
        Ok(())
    }

    /// From now on these may come in; sessions that are open go on.
    pub fn admit(&self, admitted: Admitted) {
        *self.admitted.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(admitted);
    }

    /// From now on the certificate says that there is no keyring in force, and why; a relay refuses it with that cause.
    ///
    /// # Errors
    /// The certificate in force stays.
    pub fn lock(&self, cause: Locked) -> Result<(), EngineTlsError> {
        let document =
            self.attester.document(&request(&self.key, State::default())?).ok_or(EngineTlsError::Document)?;
        let certificate = self.key.locked(&document, cause)?;
        let certified = Arc::new(CertifiedKey::new(vec![certificate], Arc::clone(&self.signer)));
        *self.current.0.write().unwrap_or_else(PoisonError::into_inner) = certified;
        Ok(())
    }

    /// A document for anybody who asks with a nonce: the same binding as the certificate's.
    ///
    /// # Errors
    /// The nonce has not 1 to 512 bytes, or the module refuses.
    pub fn answer(&self, nonce: &[u8], state: State) -> Result<Vec<u8>, EngineTlsError> {
        let request = request(&self.key, state)?.with_nonce(nonce.to_vec()).map_err(|_| EngineTlsError::State)?;
        self.attester.document(&request).ok_or(EngineTlsError::Document)
    }

    /// The key of this boot, as SubjectPublicKeyInfo in DER: what the documents of [`EngineTls::answer`] are bound to.
    #[must_use]
    pub fn spki(&self) -> Vec<u8> {
        self.key.spki()
    }

    /// Ends the handshake of a connection; `None` for whoever is not admitted, or too slow.
    pub async fn accept(&self, stream: Stream) -> Option<(Stream, Peer)> {
        let session = tokio::time::timeout(HANDSHAKE, self.acceptor.accept(stream.ahead())).await.ok()?.ok()?;
        let certificate = session.get_ref().1.peer_certificates()?.first()?;
        let peer = self.admitted.now().peer(spki_of(certificate).ok()?)?;
        Some((Stream::tls(session.into()), peer))
    }
}

fn request(key: &LinkKey, state: State) -> Result<Request, EngineTlsError> {
    let spki = key.spki();
    let binding = Binding::new(&Subject::Link { spki: &spki }, state).map_err(|_| EngineTlsError::State)?;
    Ok(Request::bound(&binding))
}

fn certified(
    key: &LinkKey,
    signer: &Arc<dyn SigningKey>,
    attester: &dyn Attester,
    state: State,
) -> Result<Arc<CertifiedKey>, EngineTlsError> {
    let document = attester.document(&request(key, state)?).ok_or(EngineTlsError::Document)?;
    let certificate = key.certificate(Some(&document))?;
    Ok(Arc::new(CertifiedKey::new(vec![certificate], Arc::clone(signer))))
}

/// Who may come in now.
#[derive(Debug)]
struct Door(RwLock<Arc<Admitted>>);

impl Door {
    fn now(&self) -> Arc<Admitted> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The certificate in force.
struct Current(RwLock<Arc<CertifiedKey>>);

impl fmt::Debug for Current {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Current")
    }
}

impl ResolvesServerCert for Current {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

/// Relays and administrators by their keys; who certifies them does not matter.
#[derive(Debug)]
struct Pinned {
    admitted: Arc<Door>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for Pinned {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let spki = spki_of(end_entity).map_err(|_| Error::InvalidCertificate(CertificateError::BadEncoding))?;
        if self.admitted.now().peer(spki).is_some() {
            Ok(ClientCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        }
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::PeerIncompatible(PeerIncompatible::Tls12NotOffered))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
