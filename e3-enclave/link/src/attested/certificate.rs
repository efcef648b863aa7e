//! Self-signed certificates: a key, and for an engine its attestation document in an extension. Nothing else in them is believed.

use rcgen::{CertificateParams, CustomExtension, DistinguishedName, KeyPair};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::Locked;

/// Object identifier of the extension that holds the document, not critical: 1.3.6.1.3.58021.1, in the arc for experiments.
const DOCUMENT: &[u64] = &[1, 3, 6, 1, 3, 58021, 1];

/// Object identifier of the extension with which a locked engine says why, one byte ([`Locked`]), not critical: 1.3.6.1.3.58021.2.
const LOCKED: &[u64] = &[1, 3, 6, 1, 3, 58021, 2];

/// Longest certificate that is looked at: a document of 16 KiB and little beside it.
const MAX: usize = 20 * 1024;

/// A key pair of the link: ECDSA with P-256. No `Debug`.
pub struct LinkKey {
    pair: KeyPair,
}

/// A key or certificate that cannot be made or read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFault {
    /// The library cannot make it.
    #[error("the key or certificate cannot be made")]
    Make,
    /// Not a PKCS #8 private key for ECDSA with P-256.
    #[error("not a private key in PKCS #8 PEM for P-256: `relay key new` makes one")]
    Key,
    /// Not a PKCS #8 private key for Ed25519.
    #[error("not a private key in PKCS #8 PEM for Ed25519: `e3 admin-key new` makes one")]
    AdminKey,
    /// Not one X.509 certificate.
    #[error("the certificate cannot be read")]
    Read,
    /// No document in it, or more than one.
    #[error("the certificate holds no attestation document: a plain engine, or one of another kind")]
    NoDocument,
}

impl LinkKey {
    /// A fresh key pair.
    ///
    /// # Errors
    /// [`CertificateFault::Make`].
    pub fn generate() -> Result<Self, CertificateFault> {
        Ok(Self { pair: KeyPair::generate().map_err(|_| CertificateFault::Make)? })
    }

    /// The key pair in PKCS #8 PEM.
    ///
    /// # Errors
    /// [`CertificateFault::Key`].
    pub fn from_pem(pem: &str) -> Result<Self, CertificateFault> {
        let pair = KeyPair::from_pem(pem).map_err(|_| CertificateFault::Key)?;
        if pair.algorithm() == &rcgen::PKCS_ECDSA_P256_SHA256 { Ok(Self { pair }) } else { Err(CertificateFault::Key) }
    }

    /// The pair as PKCS #8 PEM: a secret.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.pair.serialize_pem()
    }

    /// The public key as SubjectPublicKeyInfo in DER.
    #[must_use]
    pub fn spki(&self) -> Vec<u8> {
        rcgen::PublicKeyData::subject_public_key_info(&self.pair)
    }

    /// SHA-256 of [`LinkKey::spki`]: what the other side pins.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        super::key_hash(&self.spki())
    }

    pub(super) fn private(&self) -> PrivateKeyDer<'static> {
        PrivatePkcs8KeyDer::from(self.pair.serialize_der()).into()
    }

    /// A certificate of this key, with a document or without.
    pub(super) fn certificate(&self, document: Option<&[u8]>) -> Result<CertificateDer<'static>, CertificateFault> {
        let extension = document.map(|document| CustomExtension::from_oid_content(DOCUMENT, document.to_vec()));
        self_signed(&self.pair, extension.into_iter().collect())
    }

    /// The certificate of an engine that has no keyring in force.
    pub(super) fn locked(&self, document: &[u8], cause: Locked) -> Result<CertificateDer<'static>, CertificateFault> {
        let extension = |oid, content: &[u8]| CustomExtension::from_oid_content(oid, content.to_vec());
        self_signed(&self.pair, vec![extension(DOCUMENT, document), extension(LOCKED, &[cause as u8])])
    }
}

/// A certificate that says nothing but its key and these extensions.
pub(super) fn self_signed(
    pair: &KeyPair,
    extensions: Vec<CustomExtension>,
) -> Result<CertificateDer<'static>, CertificateFault> {
    let mut params = CertificateParams::new(vec!["e3.invalid".to_owned()]).map_err(|_| CertificateFault::Make)?;
    params.distinguished_name = DistinguishedName::new();
    params.custom_extensions = extensions;
    Ok(params.self_signed(pair).map_err(|_| CertificateFault::Make)?.der().clone())
}

/// The key in a certificate, as SubjectPublicKeyInfo in DER. That the peer has it is for the handshake to prove.
pub(super) fn spki_of(certificate: &[u8]) -> Result<&[u8], CertificateFault> {
    Ok(read(certificate)?.tbs_certificate.subject_pki.raw)
}

/// The key and the document in an engine's certificate.
///
/// # Errors
/// It is no certificate, or holds no document.
pub fn document_of(certificate: &[u8]) -> Result<(&[u8], &[u8]), CertificateFault> {
    let certificate = read(certificate)?;
    let oid = x509_parser::der_parser::Oid::from(DOCUMENT).map_err(|_| CertificateFault::Read)?;
    let extension = certificate.tbs_certificate.get_extension_unique(&oid).map_err(|_| CertificateFault::NoDocument)?;
    Ok((certificate.tbs_certificate.subject_pki.raw, extension.ok_or(CertificateFault::NoDocument)?.value))
}

/// Why the engine with this certificate is locked, if it says so.
#[must_use]
pub fn locked_of(certificate: &[u8]) -> Option<Locked> {
    let certificate = read(certificate).ok()?;
    let oid = x509_parser::der_parser::Oid::from(LOCKED).ok()?;
    let extension = certificate.tbs_certificate.get_extension_unique(&oid).ok()??;
    match extension.value {
        [number] => Locked::of(*number),
        _ => None,
    }
}

fn read(certificate: &[u8]) -> Result<X509Certificate<'_>, CertificateFault> {
    if certificate.len() > MAX {
        return Err(CertificateFault::Read);
    }
    match X509Certificate::from_der(certificate) {
        Ok(([], certificate)) => Ok(certificate),
        _ => Err(CertificateFault::Read),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_carries_key_and_document_and_a_key_survives_its_file() {
        let key = LinkKey::generate().unwrap();
        let certificate = key.certificate(Some(b"document")).unwrap();
        assert_eq!(document_of(&certificate).unwrap(), (&key.spki()[..], &b"document"[..]));
        let plain = key.certificate(None).unwrap();
        assert_eq!(spki_of(&plain).unwrap(), key.spki());
        assert_eq!(document_of(&plain).unwrap_err(), CertificateFault::NoDocument);
        let again = LinkKey::from_pem(&key.to_pem()).unwrap();
        assert_eq!(again.hash(), key.hash());
        assert_eq!(LinkKey::from_pem("nonsense").err(), Some(CertificateFault::Key));
        assert_eq!(locked_of(&certificate), None);
        let locked = key.locked(b"document", Locked::Denied).unwrap();
        assert_eq!(document_of(&locked).unwrap(), (&key.spki()[..], &b"document"[..]));
        assert_eq!(locked_of(&locked), Some(Locked::Denied));
        let longer = [&certificate[..], b"x"].concat();
        assert_eq!(document_of(&longer).unwrap_err(), CertificateFault::Read);
    }
}
