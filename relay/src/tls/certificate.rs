//! The certificates of the relay's own listeners: read with their keys, and held against the hosts that they are for.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::{Error, InconsistentKeys};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer, X509Certificate};

/// Why a certificate cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFault {
    /// The file holds no certificate in PEM.
    #[error("it holds no certificate in PEM")]
    None,
    /// A certificate of the chain cannot be read.
    #[error("certificate {0} of it cannot be read")]
    Unreadable(usize),
    /// The chain is out of order.
    #[error(
        "certificate {0} of it was not issued by the one behind it: the site's own comes first, then the one that issued it, and so on"
    )]
    Order(usize),
    /// The first one may sign others: it is an authority's.
    #[error("the first certificate in it is an authority's: the site's own comes first")]
    Authority,
    /// The key is none.
    #[error("it holds no private key in PEM that can be used")]
    Key,
    /// The key is another one's.
    #[error("it is the key of another certificate")]
    OtherKey,
}

impl CertificateFault {
    /// Whether the fault is in the file of the key.
    #[must_use]
    pub fn is_of_key(self) -> bool {
        matches!(self, Self::Key | Self::OtherKey)
    }
}

/// A certificate with its chain and its key, ready to end TLS with. Its times are those of the certificate itself.
pub struct Certificate {
    /// Chain and key, as rustls takes them.
    pub key: Arc<CertifiedKey>,
    /// The names it is for: DNS names in lower case, also `*.suffix`, and addresses.
    pub names: Vec<Box<str>>,
    /// From when it is valid.
    pub not_before: SystemTime,
    /// Until when.
    pub not_after: SystemTime,
}

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").field("names", &self.names).finish_non_exhaustive()
    }
}

impl Certificate {
    /// Reads a chain and its key, both PEM.
    ///
    /// # Errors
    /// See [`CertificateFault`]. That it is not valid now is none: clocks differ, and a client sees for itself.
    pub fn read(chain: &[u8], key: &[u8]) -> Result<Self, CertificateFault> {
        let mut ders = Vec::new();
        for (index, der) in CertificateDer::pem_slice_iter(chain).enumerate() {
            ders.push(der.map_err(|_| CertificateFault::Unreadable(index + 1))?);
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| CertificateFault::Key)?;
        Self::new(ders, key)
    }

    /// The same from DER.
    ///
    /// # Errors
    /// See [`CertificateFault`].
    pub fn new(ders: Vec<CertificateDer<'static>>, key: PrivateKeyDer<'static>) -> Result<Self, CertificateFault> {
        let parsed = ders.iter().enumerate().map(|(index, der)| match X509Certificate::from_der(der) {
            Ok((_, parsed)) => Ok(parsed),
            Err(_) => Err(CertificateFault::Unreadable(index + 1)),
        });
        let parsed = parsed.collect::<Result<Vec<_>, _>>()?;
        let leaf = parsed.first().ok_or(CertificateFault::None)?;
        if leaf.is_ca() && parsed.len() > 1 {
            return Err(CertificateFault::Authority);
        }
        for (index, pair) in parsed.windows(2).enumerate() {
            if pair[0].issuer().as_raw() != pair[1].subject().as_raw() {
                return Err(CertificateFault::Order(index + 1));
            }
        }
        let names = names(leaf);
        let at = |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let (not_before, not_after) =
            (at(leaf.validity().not_before.timestamp()), at(leaf.validity().not_after.timestamp()));
        drop(parsed);
        let key = match CertifiedKey::from_der(ders, key, &ring::default_provider()) {
            Ok(key) => Arc::new(key),
            Err(Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => return Err(CertificateFault::OtherKey),
            Err(Error::InvalidCertificate(_)) => return Err(CertificateFault::Unreadable(1)),
            Err(_) => return Err(CertificateFault::Key),
        };
        Ok(Self { key, names, not_before, not_after })
    }

    /// Whether it is for a host of a site: a name in lower case, `*.suffix`, or an address without brackets.
    #[must_use]
    pub fn is_for(&self, host: &str) -> bool {
        // A wildcard stands for one label (RFC 9525 §6.3).
        let wildcard = match host.strip_prefix("*.") {
            Some(_) => None,
            None => host.split_once('.').filter(|_| host.parse::<IpAddr>().is_err()).map(|(_, rest)| rest),
        };
        self.names.iter().any(|name| {
            **name == *host || wildcard.is_some_and(|rest| name.strip_prefix("*.").is_some_and(|suffix| suffix == rest))
        })
    }
}

/// The subject's alternative names; the common name has long meant nothing to clients.
fn names(leaf: &X509Certificate<'_>) -> Vec<Box<str>> {
    let Ok(Some(alternatives)) = leaf.subject_alternative_name() else { return Vec::new() };
    let name = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some(name.to_ascii_lowercase().into()),
        GeneralName::IPAddress(bytes) => match bytes.len() {
            4 => <[u8; 4]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string().into()),
            16 => <[u8; 16]>::try_from(*bytes).ok().map(|b| IpAddr::from(b).to_string().into()),
            _ => None,
        },
        _ => None,
    };
    alternatives.value.general_names.iter().filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

    use super::*;

    struct Ca {
        issuer: Issuer<'static, KeyPair>,
        pem: String,
    }

    fn ca(name: &str) -> Ca {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Ca { issuer: Issuer::new(params, key), pem }
    }

    fn leaf(ca: &Ca, names: &[&str]) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
        (params.signed_by(&key, &ca.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn fault(chain: &str, key: &str) -> CertificateFault {
        Certificate::read(chain.as_bytes(), key.as_bytes()).unwrap_err()
    }

    #[test]
    fn a_certificate_is_for_its_names_alone() {
        let (chain, key) = leaf(&ca("one"), &["API.shop.example", "*.pay.example", "10.1.2.3", "fd00::1"]);
        let read = Certificate::read(chain.as_bytes(), key.as_bytes()).unwrap();
        for host in ["api.shop.example", "a.pay.example", "*.pay.example", "10.1.2.3", "fd00::1"] {
            assert!(read.is_for(host), "{host}");
        }
        for host in
            ["shop.example", "x.api.shop.example", "pay.example", "a.b.pay.example", "*.shop.example", "10.1.2.4", ""]
        {
            assert!(!read.is_for(host), "{host}");
        }
    }

    #[test]
    fn what_cannot_work_is_told_apart() {
        let (one, two) = (ca("one"), ca("two"));
        let (chain, key) = leaf(&one, &["a.example"]);
        let (_, other) = leaf(&one, &["a.example"]);
        assert!(Certificate::read(format!("{chain}{}", one.pem).as_bytes(), key.as_bytes()).is_ok());
        assert_eq!(fault("", &key), CertificateFault::None);
        assert_eq!(fault(&chain, ""), CertificateFault::Key);
        assert_eq!(fault(&chain, &chain), CertificateFault::Key);
        assert_eq!(fault(&chain, &other), CertificateFault::OtherKey);
        assert_eq!(fault(&format!("{chain}{}", two.pem), &key), CertificateFault::Order(1));
        assert_eq!(fault(&format!("{}{chain}", one.pem), &key), CertificateFault::Authority);
        assert_eq!(
            fault("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", &key),
            CertificateFault::Unreadable(1)
        );
    }
}
