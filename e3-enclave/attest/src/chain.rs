//! The certificates of a document: from the one trusted root, in the order of the bundle, to the leaf whose key signed it.

use std::borrow::Cow;
use std::time::Duration;

use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, ExtendedKeyUsageValidator, KeyPurposeIdIter};

use crate::certificate::{Certificate, Role};
use crate::error::{AttestError, CertificateFault, Position};
use crate::verifier::Validity;

/// The root of AWS Nitro enclaves, "G1": DER, SHA-256 `641a0321a3e244efe456463195d606317ed7cdcc3c1756e09893f3c68f79bb5b`, valid until 2049-10-28.
/// `trust/NOTICE` says where it comes from.
pub(crate) const AWS_NITRO_ROOT_G1: &[u8] = include_bytes!("../trust/aws-nitro-root-g1.der");

/// The one root that a verifier trusts.
#[derive(Debug, Clone)]
pub(crate) struct Root(Cow<'static, [u8]>);

/// A leaf that the root vouches for.
pub(crate) struct Leaf<'a> {
    /// The uncompressed P-384 point.
    pub(crate) point: &'a [u8],
    pub(crate) validity: Validity,
}

impl Root {
    pub(crate) const fn aws() -> Self {
        Self(Cow::Borrowed(AWS_NITRO_ROOT_G1))
    }

    #[cfg(feature = "test-root")]
    pub(crate) fn other(der: Vec<u8>) -> Result<Self, AttestError> {
        let root = Certificate::read(&der).map_err(|_| AttestError::BadRoot)?;
        if matches!(root.role, Role::Authority { .. }) && root.signs_certificates() {
            Ok(Self(Cow::Owned(der)))
        } else {
            Err(AttestError::BadRoot)
        }
    }

    /// The leaf, if the chain from this root to it holds at `now` (Unix seconds).
    pub(crate) fn leaf<'a>(&self, cabundle: &[&'a [u8]], leaf: &'a [u8], now: u64) -> Result<Leaf<'a>, AttestError> {
        if cabundle.first() != Some(&self.0.as_ref()) {
            return Err(AttestError::Root);
        }
        let found = stated(cabundle, leaf, now)?;
        self.signed(cabundle, leaf, now)?;
        Ok(Leaf { point: found.point, validity: found.validity })
    }

    /// Every signature from the root down, by webpki, which also refuses unknown critical extensions and checks validity, authority and path length in its own way.
    fn signed(&self, cabundle: &[&[u8]], leaf: &[u8], now: u64) -> Result<(), AttestError> {
        let root = CertificateDer::from_slice(&self.0);
        let anchor = webpki::anchor_from_trusted_cert(&root).map_err(|_| AttestError::BadRoot)?;
        let intermediates: Vec<CertificateDer<'_>> =
            cabundle[1..].iter().map(|der| CertificateDer::from_slice(der)).collect();
        let leaf = CertificateDer::from_slice(leaf);
        let leaf = EndEntityCert::try_from(&leaf).map_err(|_| AttestError::Chain)?;
        let path = leaf
            .verify_for_usage(
                &[webpki::aws_lc_rs::ECDSA_P384_SHA384],
                std::slice::from_ref(&anchor),
                &intermediates,
                UnixTime::since_unix_epoch(Duration::from_secs(now)),
                NoExtendedKeyUsage,
                None,
                None,
            )
            .map_err(|_| AttestError::Chain)?;
        // webpki may find a path of its own; only the whole bundle in its order is the chain.
        let whole = path.intermediate_certificates().rev().map(|cert| cert.der()).eq(intermediates.iter().cloned());
        if whole { Ok(()) } else { Err(AttestError::Chain) }
    }
}

/// What the certificates state about themselves, root first.
fn stated<'a>(cabundle: &[&'a [u8]], leaf: &'a [u8], now: u64) -> Result<Certificate<'a>, AttestError> {
    let mut issuer: Option<Certificate<'a>> = None;
    for (index, der) in cabundle.iter().enumerate() {
        let following = cabundle.len() - 1 - index;
        let check = || {
            let found = one(der, issuer.as_ref(), now)?;
            authority(&found, following)?;
            Ok(found)
        };
        issuer = Some(check().map_err(|fault| at(Position::CaBundle(index), fault))?);
    }
    let check = || {
        let found = one(leaf, issuer.as_ref(), now)?;
        end_entity(&found)?;
        Ok(found)
    };
    check().map_err(|fault| at(Position::Leaf, fault))
}

fn at(position: Position, fault: CertificateFault) -> AttestError {
    AttestError::Certificate { position, fault }
}

/// What every certificate must hold.
fn one<'a>(der: &'a [u8], issuer: Option<&Certificate<'_>>, now: u64) -> Result<Certificate<'a>, CertificateFault> {
    let found = Certificate::read(der)?;
    let Validity { not_before, not_after } = found.validity;
    if now < not_before {
        return Err(CertificateFault::NotYetValid { not_before, now });
    }
    if now > not_after {
        return Err(CertificateFault::Expired { not_after, now });
    }
    // The root issued itself.
    if found.issuer != issuer.map_or(found.subject, |issuer| issuer.subject) {
        return Err(CertificateFault::Issuer);
    }
    if found.extended_key_usage {
        return Err(CertificateFault::ExtendedKeyUsage);
    }
    Ok(found)
}

fn authority(found: &Certificate<'_>, following: usize) -> Result<(), CertificateFault> {
    let Role::Authority { path_length } = found.role else { return Err(CertificateFault::NotAuthority) };
    if !found.signs_certificates() {
        return Err(CertificateFault::KeyUsage);
    }
    if path_length.is_some_and(|most| following as u64 > most) {
        return Err(CertificateFault::PathLength);
    }
    Ok(())
}

fn end_entity(found: &Certificate<'_>) -> Result<(), CertificateFault> {
    if found.role != Role::EndEntity {
        return Err(CertificateFault::LeafIsAuthority);
    }
    if !found.signs_documents() {
        return Err(CertificateFault::KeyUsage);
    }
    Ok(())
}

/// Nitro certificates have no extended key usage.
struct NoExtendedKeyUsage;

impl ExtendedKeyUsageValidator for NoExtendedKeyUsage {
    fn validate(&self, mut usages: KeyPurposeIdIter<'_, '_>) -> Result<(), webpki::Error> {
        match usages.next() {
            None => Ok(()),
            Some(_) => Err(webpki::Error::ExtensionValueInvalid),
        }
    }
}
