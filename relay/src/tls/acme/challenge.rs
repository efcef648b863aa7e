//! What proves to the authority that the hosts are served here. Only what was asked for is answered, and only while it is asked for.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::sign::{CertifiedKey, SingleCertAndKey};

use super::AcmeFault;

/// Where the authority asks over plain HTTP.
const PATH: &str = "/.well-known/acme-challenge/";

/// The one protocol of a TLS connection that proves a host (RFC 8737).
pub const PROTOCOL: &[u8] = b"acme-tls/1";

/// Longest token that is looked up.
const TOKEN_MAX: usize = 256;

/// The challenges that wait for the authority.
#[derive(Debug, Default)]
pub struct Challenges {
    pending: Mutex<Pending>,
}

#[derive(Default)]
struct Pending {
    /// Key authorizations by their tokens.
    http: HashMap<Box<str>, Bytes>,
    /// What ends TLS for the authority, by host.
    tls: HashMap<Box<str>, Arc<ServerConfig>>,
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pending").field("http", &self.http.len()).field("tls", &self.tls.len()).finish()
    }
}

/// Answers one challenge while it lives.
#[derive(Debug)]
pub(super) struct Answering<'c> {
    challenges: &'c Challenges,
    what: What,
}

#[derive(Debug)]
enum What {
    Http(Box<str>),
    Tls(Box<str>),
}

impl Challenges {
    /// The key authorization for a request's path, if the authority asked for it.
    #[must_use]
    pub fn http(&self, path: &str) -> Option<Bytes> {
        let token = path.strip_prefix(PATH).filter(|token| token.len() <= TOKEN_MAX)?;
        self.pending().http.get(token).cloned()
    }

    /// What ends TLS for the authority that asks for this host.
    #[must_use]
    pub fn tls(&self, host: &str) -> Option<Arc<ServerConfig>> {
        self.pending().tls.get(host).cloned()
    }

    pub(super) fn answer_http(&self, token: &str, authorization: &str) -> Answering<'_> {
        self.pending().http.insert(token.into(), Bytes::copy_from_slice(authorization.as_bytes()));
        Answering { challenges: self, what: What::Http(token.into()) }
    }

    pub(super) fn answer_tls(&self, host: &str, digest: &[u8; 32]) -> Result<Answering<'_>, AcmeFault> {
        let config = proof(host, digest).map_err(|_| AcmeFault::Make)?;
        self.pending().tls.insert(host.into(), config);
        Ok(Answering { challenges: self, what: What::Tls(host.into()) })
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Answering<'_> {
    fn drop(&mut self) {
        let mut pending = self.challenges.pending();
        match &self.what {
            What::Http(token) => drop(pending.http.remove(token)),
            What::Tls(host) => drop(pending.tls.remove(host)),
        }
    }
}

/// A certificate that nobody but the authority accepts, with the digest in it (RFC 8737 §3).
fn proof(host: &str, digest: &[u8; 32]) -> Result<Arc<ServerConfig>, Box<dyn std::error::Error>> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(vec![host.to_owned()])?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = vec![CustomExtension::new_acme_identifier(digest)];
    let certificate = params.self_signed(&key)?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()));
    // Not read again: readers refuse a certificate with a critical extension that they do not know, as this one's is meant to be.
    let proof = CertifiedKey::new(vec![certificate.der().clone()], ring::sign::any_ecdsa_type(&key)?);
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(proof)));
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_asked_for_is_answered_and_only_so_long() {
        let challenges = Challenges::default();
        let answering =
            (challenges.answer_http("tok", "tok.thumb"), challenges.answer_tls("a.example", &[7; 32]).unwrap());
        assert_eq!(challenges.http("/.well-known/acme-challenge/tok").as_deref(), Some(&b"tok.thumb"[..]));
        for path in [
            "/.well-known/acme-challenge/",
            "/.well-known/acme-challenge/to",
            "/.well-known/acme-challenge/tok/",
            "/tok",
        ] {
            assert!(challenges.http(path).is_none(), "{path}");
        }
        assert_eq!(challenges.tls("a.example").unwrap().alpn_protocols, [PROTOCOL]);
        assert!(challenges.tls("b.example").is_none());
        drop(answering);
        assert!(challenges.http("/.well-known/acme-challenge/tok").is_none() && challenges.tls("a.example").is_none());
    }
}
