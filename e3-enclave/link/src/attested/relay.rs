//! The relay's side: it talks to nothing but an engine whose document says what it should.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use e3_attest::{AttestError, Bound, ExpectedNonce, PcrSets, Subject, Verifier};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, PeerIncompatible, SignatureScheme,
    version,
};

use super::admin::AdminKey;
use super::certificate::{CertificateFault, LinkKey, document_of, locked_of};
use super::memory::{Memory, Rollback};
use super::{ALPN, Attester, Locked, provider};
use crate::stream::Stream;

/// Why an engine is not talked to. One line that says which check failed, what was expected and found.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Its certificate.
    #[error(transparent)]
    Certificate(#[from] CertificateFault),
    /// Its document.
    #[error(transparent)]
    Document(#[from] AttestError),
    /// Its keyring or policy.
    #[error(transparent)]
    State(#[from] Rollback),
    /// It runs, and has no keyring in force.
    #[error(transparent)]
    Locked(#[from] Locked),
    /// The engine refused the session: this relay's key is not among its pinned ones.
    #[error(
        "the engine refuses this relay's key: its hash must be among the image's relay keys (or an administrator's key among its `admins`)"
    )]
    Unpinned,
    /// No TLS 1.3 with the engine.
    #[error("no TLS 1.3 session: the engine serves a plain link, or something else listens there")]
    Tls,
    /// The connection broke during the handshake.
    #[error("the connection broke during the handshake: {0}")]
    Broken(io::ErrorKind),
    /// The engine answered in a way that SPEC.md does not know.
    #[error("the engine broke the protocol during the handshake: it is of another version, or none")]
    Protocol,
    /// This caller was to prove itself, and its security module makes no document.
    #[error("this caller cannot prove itself: its security module made no attestation document")]
    NoDocument,
    /// The engine does not believe the document with which this caller proved itself.
    #[error("the engine does not believe this caller's attestation document: the engine's log says which check failed")]
    Caller,
}

/// The relay's side of the attested link: its key, and what it accepts.
pub struct RelayTls {
    config: ClientConfig,
    verifier: Verifier,
    accepted: PcrSets,
    memory: Arc<Memory>,
    name: ServerName<'static>,
    attester: Option<Arc<dyn Attester>>,
    locked: bool,
}

impl fmt::Debug for RelayTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RelayTls")
            .field("accepted", &self.accepted)
            .field("memory", &self.memory)
            .finish_non_exhaustive()
    }
}

impl RelayTls {
    /// Accepts engines of these images alone, checked by `verifier`, that do not go back behind `memory`; shows `key`.
    ///
    /// # Errors
    /// The certificate of the key cannot be made.
    pub fn new(
        key: &LinkKey,
        verifier: Verifier,
        accepted: PcrSets,
        memory: Arc<Memory>,
    ) -> Result<Self, CertificateFault> {
        Self::with(key.certificate(None)?, key.private(), verifier, accepted, memory)
    }

    /// The same for an administrator.
    ///
    /// # Errors
    /// The certificate of the key cannot be made.
    pub fn admin(
        key: &AdminKey,
        verifier: Verifier,
        accepted: PcrSets,
        memory: Arc<Memory>,
    ) -> Result<Self, CertificateFault> {
        Self::with(key.certificate()?, key.private(), verifier, accepted, memory)
    }

    fn with(
        certificate: CertificateDer<'static>,
        private: PrivateKeyDer<'static>,
        verifier: Verifier,
        accepted: PcrSets,
        memory: Arc<Memory>,
    ) -> Result<Self, CertificateFault> {
        let algorithms = provider().signature_verification_algorithms;
        // Stands until each handshake brings its own.
        let nobody = Arc::new(Engine {
            verifier: verifier.clone(),
            accepted: accepted.clone(),
            memory: Arc::clone(&memory),
            locked: false,
            algorithms,
            bound: Mutex::default(),
        });
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&version::TLS13])
            .map_err(|_| CertificateFault::Make)?
            .dangerous()
            .with_custom_certificate_verifier(nobody)
            .with_client_auth_cert(vec![certificate], private)
            .map_err(|_| CertificateFault::Make)?;
        config.alpn_protocols = vec![ALPN.to_vec()];
        config.resumption = Resumption::disabled();
        config.enable_sni = false;
        let name = ServerName::try_from("e3.invalid").map_err(|_| CertificateFault::Make)?;
        Ok(Self { config, verifier, accepted, memory, name, attester: None, locked: false })
    }

    /// The same for a caller that is itself an enclave: it proves so in every session, before anything else is asked there.
    #[must_use]
    pub fn proving(self, attester: Arc<dyn Attester>) -> Self {
        Self { attester: Some(attester), ..self }
    }

    /// The same for an administrator who makes the keyring: it also talks to an engine that has none.
    #[must_use]
    pub fn without_keyring(self) -> Self {
        Self { locked: true, ..self }
    }

    /// What makes this caller's documents, if it proves itself.
    pub(crate) fn attester(&self) -> Option<&Arc<dyn Attester>> {
        self.attester.as_ref()
    }

    /// A session over a fresh connection, and what its engine's document says.
    ///
    /// # Errors
    /// See [`Refusal`]. Nothing of the relay's was sent but its certificate, and that only to an engine that was believed.
    pub async fn connect(&self, stream: Stream) -> Result<(Stream, Bound), Refusal> {
        let engine = Arc::new(Engine {
            verifier: self.verifier.clone(),
            accepted: self.accepted.clone(),
            memory: Arc::clone(&self.memory),
            locked: self.locked,
            algorithms: provider().signature_verification_algorithms,
            bound: Mutex::default(),
        });
        let mut config = self.config.clone();
        config.dangerous().set_certificate_verifier(Arc::clone(&engine) as Arc<dyn ServerCertVerifier>);
        let connector = TlsConnector::from(Arc::new(config));
        let session = connector.connect(self.name.clone(), stream.ahead()).await.map_err(|error| refusal(&error))?;
        let bound = engine.bound.lock().unwrap_or_else(PoisonError::into_inner).take();
        // Without a verified document there is no session, whatever the library says.
        let bound = bound.ok_or(Refusal::Tls)?;
        Ok((Stream::tls(session.into()), bound))
    }
}

/// The certificate that an engine shows to anyone, relay or stranger, to be checked by whoever asked; nothing is sent after it. `key` is any key.
///
/// # Errors
/// No TLS 1.3 there, or no certificate.
pub async fn certificate_of(stream: Stream, key: &LinkKey) -> Result<Vec<u8>, Refusal> {
    let algorithms = provider().signature_verification_algorithms;
    let look = Arc::new(Look { algorithms, seen: Mutex::default() });
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&version::TLS13])
        .map_err(|_| Refusal::Tls)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::clone(&look) as Arc<dyn ServerCertVerifier>)
        .with_client_auth_cert(vec![key.certificate(None)?], key.private())
        .map_err(|_| Refusal::Tls)?;
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.enable_sni = false;
    let name = ServerName::try_from("e3.invalid").map_err(|_| Refusal::Tls)?;
    TlsConnector::from(Arc::new(config)).connect(name, stream).await.map_err(|error| refusal(&error))?;
    let seen = look.seen.lock().unwrap_or_else(PoisonError::into_inner).take();
    seen.ok_or(Refusal::Tls)
}

/// Keeps the certificate; that its key is the peer's is proven by the handshake as ever.
#[derive(Debug)]
struct Look {
    algorithms: WebPkiSupportedAlgorithms,
    seen: Mutex<Option<Vec<u8>>>,
}

impl ServerCertVerifier for Look {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(end_entity.to_vec());
        Ok(ServerCertVerified::assertion())
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

/// What the library's error means to us.
pub(super) fn refusal(error: &io::Error) -> Refusal {
    match error.get_ref().and_then(|e| e.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(CertificateError::Other(OtherError(cause)))) => {
            cause.downcast_ref::<Refusal>().cloned().unwrap_or(Refusal::Tls)
        }
        Some(Error::AlertReceived(_)) => Refusal::Unpinned,
        Some(_) => Refusal::Tls,
        None => Refusal::Broken(error.kind()),
    }
}

/// Verifies one engine's certificate, and keeps what its document says.
struct Engine {
    verifier: Verifier,
    accepted: PcrSets,
    memory: Arc<Memory>,
    /// Whether it may have no keyring.
    locked: bool,
    algorithms: WebPkiSupportedAlgorithms,
    bound: Mutex<Option<Bound>>,
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Engine")
    }
}

impl Engine {
    fn verify(&self, certificate: &[u8], now: SystemTime) -> Result<(), Refusal> {
        let (spki, document) = document_of(certificate)?;
        let authentic = self.verifier.authenticate(document, ExpectedNonce::Absent, now)?;
        let bound = authentic.accept(&self.accepted)?.bound_to(&Subject::Link { spki })?;
        if bound.binding().state().keyring.is_none()
            && let Some(cause) = locked_of(certificate)
        {
            if !self.locked {
                return Err(cause.into());
            }
        } else {
            self.memory.admit(bound.binding().state())?;
        }
        *self.bound.lock().unwrap_or_else(PoisonError::into_inner) = Some(bound);
        Ok(())
    }
}

impl ServerCertVerifier for Engine {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let now = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(now.as_secs());
        match self.verify(end_entity, now) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(refusal) => Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(refusal))))),
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
