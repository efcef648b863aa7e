//! TLS on the engine link: TLS 1.3 alone, both sides known by their keys (SPEC.md, "Attested link").
//!
//! [`certificate`]: the two kinds of self-signed certificates; [`engine`]: the engine's side, whose certificate carries its attestation document;
//! [`relay`]: the relay's side, which believes nothing but that document; [`memory`]: what a relay has seen, so that nobody can go back behind it; [`locked`]: why an
//! engine serves nobody yet; `caller`: how a caller that is itself an enclave proves that, too; [`admin`]: administrators,
//! who sign what they have done.
//!
//! There is no session resumption, since it would skip the document; a session lives at most [`SESSION_MAX`], so that an engine is checked again.

pub mod admin;
pub(crate) mod caller;
pub mod certificate;
pub mod engine;
pub mod locked;
pub mod memory;
pub mod relay;

use std::sync::Arc;
use std::time::Duration;

pub use locked::Locked;

use sha2::{Digest, Sha256};
use tokio_rustls::rustls::crypto::{CryptoProvider, aws_lc_rs};

/// The protocol that both sides name in the handshake (RFC 7301).
const ALPN: &[u8] = b"e3/1";

/// Longest life of a session: the engine's document is then looked at again.
pub const SESSION_MAX: Duration = Duration::from_secs(3600);

/// Makes attestation documents: the security module of an enclave.
pub trait Attester: Send + Sync {
    /// A fresh document over this request; `None` if the module refuses.
    fn document(&self, request: &e3_attest::Request) -> Option<Vec<u8>>;
}

/// AWS-LC, which verifies the documents too: its AES-GCM carries a tenth more of large values than ring's where the processor has VAES.
fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// SHA-256 of a key's SubjectPublicKeyInfo in DER: how keys are pinned.
#[must_use]
pub fn key_hash(spki: &[u8]) -> [u8; 32] {
    Sha256::digest(spki).into()
}
