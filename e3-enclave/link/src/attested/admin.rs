//! Administrators: their keys, and their sessions with an engine (SPEC.md, "Admin sessions").

use std::time::Duration;

use bytes::Bytes;
use e3_wire::admin::SIGNATURE;
use e3_wire::{AdminAnswer, AdminVerb, Answer, Command, FrameHeader, FrameKind, MAX_FRAME, NONCE, RequestRefusal};
use rcgen::{KeyPair, PublicKeyData, SigningKey};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::caller::{last_word, write};
use super::certificate::{CertificateFault, self_signed};
use super::relay::{Refusal, RelayTls, refusal};
use crate::LinkError;
use crate::endpoint::Endpoint;
use crate::frames::{FrameReadError, FrameReader};
use crate::stream::Stream;

/// Bytes of an Ed25519 public key.
pub const PUBLIC_KEY: usize = 32;

/// A SubjectPublicKeyInfo with an Ed25519 key, up to the key (RFC 8410 section 4).
const SPKI_HEAD: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The Ed25519 key in a SubjectPublicKeyInfo, if it holds one.
pub(super) fn ed25519_of(spki: &[u8]) -> Option<[u8; PUBLIC_KEY]> {
    spki.strip_prefix(&SPKI_HEAD)?.try_into().ok()
}

/// An administrator's key pair: Ed25519 (RFC 8032). No `Debug`.
pub struct AdminKey {
    pair: KeyPair,
    public: [u8; PUBLIC_KEY],
}

impl AdminKey {
    /// A fresh key pair.
    ///
    /// # Errors
    /// [`CertificateFault::Make`].
    pub fn generate() -> Result<Self, CertificateFault> {
        Self::of(KeyPair::generate_for(&rcgen::PKCS_ED25519).map_err(|_| CertificateFault::Make)?)
    }

    /// The key pair in PKCS #8 PEM.
    ///
    /// # Errors
    /// [`CertificateFault::AdminKey`].
    pub fn from_pem(pem: &str) -> Result<Self, CertificateFault> {
        Self::of(KeyPair::from_pem(pem).map_err(|_| CertificateFault::AdminKey)?)
    }

    fn of(pair: KeyPair) -> Result<Self, CertificateFault> {
        let public = ed25519_of(&pair.subject_public_key_info()).ok_or(CertificateFault::AdminKey)?;
        Ok(Self { pair, public })
    }

    /// The pair as PKCS #8 PEM: a secret.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.pair.serialize_pem()
    }

    /// The public key, as the measured inputs list it.
    #[must_use]
    pub const fn public(&self) -> &[u8; PUBLIC_KEY] {
        &self.public
    }

    /// The body of an admin frame: the command, signed.
    ///
    /// # Errors
    /// The library does not sign.
    pub fn sign(&self, command: &[u8]) -> Result<Vec<u8>, CertificateFault> {
        let signature = self.pair.sign(command).map_err(|_| CertificateFault::Make)?;
        if signature.len() == SIGNATURE { Ok([&signature, command].concat()) } else { Err(CertificateFault::Make) }
    }

    pub(super) fn certificate(&self) -> Result<CertificateDer<'static>, CertificateFault> {
        self_signed(&self.pair, Vec::new())
    }

    pub(super) fn private(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.pair.serialize_der()).into()
    }
}

/// Why a command has no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// The engine cannot be reached.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// The engine is not what it should be, or does not know this administrator's key.
    #[error(transparent)]
    Refused(Box<Refusal>),
    /// The session broke, or the engine closed it, before the answer came. It may have been done.
    #[error("the engine ended the session before it answered; look with `e3 keys list` at what was done")]
    Closed,
    /// It took too long. It may have been done.
    #[error("the engine did not answer in time; look with `e3 keys list` at what was done")]
    Timeout,
    /// Something that SPEC.md does not know.
    #[error("the engine broke the protocol: it is of another version, or none")]
    Protocol,
    /// The command cannot be written or signed.
    #[error("the command is too long, or cannot be signed")]
    Command,
}

/// An administrator's session with one engine, for one command at a time.
pub struct AdminSession<'k> {
    stream: Stream,
    reader: FrameReader,
    key: &'k AdminKey,
    timeout: Duration,
    next: u64,
}

/// The answer to a rewrap. Its bytes are tokens.
pub struct Rewrapped(Bytes);

impl Rewrapped {
    /// The answer, read.
    ///
    /// # Errors
    /// The bytes do not follow SPEC.md, "Answers".
    pub fn answer(&self) -> Result<Answer<'_>, e3_wire::WireError> {
        Answer::read(&self.0)
    }
}

impl<'k> AdminSession<'k> {
    /// A session with the engine at this endpoint, which `tls` ([`RelayTls::admin`]) believes. Each answer must come within `timeout`.
    ///
    /// # Errors
    /// See [`AdminError`]; nothing was sent but the certificate.
    pub async fn connect(
        endpoint: &Endpoint,
        tls: &RelayTls,
        key: &'k AdminKey,
        timeout: Duration,
    ) -> Result<Self, AdminError> {
        let stream = endpoint.connect(timeout).await?;
        let session = tokio::time::timeout(timeout, tls.connect(stream)).await.map_err(|_| AdminError::Timeout)?;
        let (stream, _) = session.map_err(|refusal| AdminError::Refused(Box::new(refusal)))?;
        Ok(Self { stream, reader: FrameReader::new(MAX_FRAME), key, timeout, next: 0 })
    }

    /// Has something done, of the keyring with this id at this epoch.
    ///
    /// # Errors
    /// See [`AdminError`]. A refusal is no error.
    pub async fn command(
        &mut self,
        keyring: [u8; 16],
        epoch: u64,
        verb: AdminVerb<'_>,
    ) -> Result<AdminAnswer, AdminError> {
        let (kind, body) = self.signed(keyring, epoch, verb).await?;
        if kind != FrameKind::Done {
            return Err(AdminError::Protocol);
        }
        AdminAnswer::read(&body).map_err(|_| AdminError::Protocol)
    }

    /// Has tokens rewrapped: `request` is the body of a request of rewrap items. The refusal of the command, or the answer to the request.
    ///
    /// # Errors
    /// See [`AdminError`].
    pub async fn rewrap(
        &mut self,
        keyring: [u8; 16],
        epoch: u64,
        request: &[u8],
    ) -> Result<Result<Rewrapped, AdminAnswer>, AdminError> {
        match self.signed(keyring, epoch, AdminVerb::Rewrap { request }).await? {
            (FrameKind::Answer, body) => Ok(Ok(Rewrapped(body))),
            (FrameKind::Done, body) => AdminAnswer::read(&body).map(Err).map_err(|_| AdminError::Protocol),
            _ => Err(AdminError::Protocol),
        }
    }

    async fn signed(
        &mut self,
        keyring: [u8; 16],
        epoch: u64,
        verb: AdminVerb<'_>,
    ) -> Result<(FrameKind, Bytes), AdminError> {
        let (kind, nonce) = self.ask(FrameKind::Challenge, &[]).await?;
        let nonce: [u8; NONCE] = nonce.as_ref().try_into().map_err(|_| AdminError::Protocol)?;
        if kind != FrameKind::Nonce {
            return Err(AdminError::Protocol);
        }
        let command = Command { nonce, keyring, epoch, verb }.write().map_err(|_| AdminError::Command)?;
        let body = self.key.sign(&command).map_err(|_| AdminError::Command)?;
        self.ask(FrameKind::Admin, &body).await
    }

    async fn ask(&mut self, kind: FrameKind, body: &[u8]) -> Result<(FrameKind, Bytes), AdminError> {
        let id = self.next;
        self.next += 1;
        let header = FrameHeader { kind, id, body: body.len() }.to_bytes().map_err(|_| AdminError::Command)?;
        let exchange = async {
            if let Err(error) = write(&mut self.stream, &header, body).await {
                return Err(broken(last_word(&mut self.stream, &mut self.reader, &error).await));
            }
            loop {
                return match self.reader.next(&mut self.stream).await {
                    // It still answers what is in flight.
                    Ok((header, _)) if header.kind == FrameKind::GoAway => continue,
                    Ok((header, body)) if header.id == id => match (header.kind, body.as_ref()) {
                        (FrameKind::Answer, [code]) if *code == RequestRefusal::Malformed as u8 => {
                            Err(AdminError::Protocol)
                        }
                        _ => Ok((header.kind, body)),
                    },
                    Ok(_) | Err(FrameReadError::Frame(_)) => Err(AdminError::Protocol),
                    Err(FrameReadError::Closed | FrameReadError::Cut) => Err(AdminError::Closed),
                    Err(FrameReadError::Io(error)) => Err(broken(refusal(&error))),
                };
            }
        };
        tokio::time::timeout(self.timeout, exchange).await.map_err(|_| AdminError::Timeout)?
    }
}

/// With TLS 1.3 an administrator learns only after the handshake that its key is not among the measured ones.
fn broken(refusal: Refusal) -> AdminError {
    match refusal {
        Refusal::Unpinned => AdminError::Refused(Box::new(Refusal::Unpinned)),
        _ => AdminError::Closed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_file_and_another_kind_is_refused() {
        let key = AdminKey::generate().unwrap();
        let again = AdminKey::from_pem(&key.to_pem()).unwrap();
        assert_eq!(again.public(), key.public());
        let p256 = super::super::certificate::LinkKey::generate().unwrap();
        assert_eq!(AdminKey::from_pem(&p256.to_pem()).err(), Some(CertificateFault::AdminKey));
        assert_eq!(AdminKey::from_pem("nonsense").err(), Some(CertificateFault::AdminKey));
        let signed = key.sign(b"command").unwrap();
        assert_eq!((signed.len(), &signed[SIGNATURE..]), (71, &b"command"[..]));
    }
}
