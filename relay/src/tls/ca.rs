//! The local certificate authority: whoever trusts it lets the relay end TLS in the place of the destinations that are intercepted.
//!
//! Its key never leaves its file and this process. It signs leaves only (path length 0), and where all intercepted hosts are exact, `relay ca init` limits it to
//! them by name constraints (RFC 5280 §4.2.1.10), so that a stolen key is of no use for any other host.

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use lru::LruCache;
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, SanType,
};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::server::{ServerSessionMemoryCache, StoresServerSessions};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::{FromDer, X509Certificate};

/// Leaves start this long before they are minted: clocks differ.
const SKEW: Duration = Duration::from_secs(24 * 3600);

/// How long a leaf is valid.
const LEAF_TIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// How long a leaf is used before another is minted.
const LEAF_USE: Duration = Duration::from_secs(3 * 24 * 3600);

/// Most hosts whose leaves are kept.
const LEAVES: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1023);

/// Most TLS sessions that clients may resume.
const SESSIONS: usize = 4096;

/// Why an authority cannot be made or used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityFault {
    /// The key is none in PKCS #8 PEM.
    #[error("the key is no private key in PKCS #8 PEM")]
    Key,
    /// The certificate is none in PEM.
    #[error("the certificate is none in PEM")]
    Certificate,
    /// The certificate may not sign others.
    #[error("the certificate is no authority's: it may not sign others")]
    NoAuthority,
    /// The certificate is for another key.
    #[error("the certificate is for another key")]
    OtherKey,
    /// The certificate's time is over, or has not come.
    #[error("the certificate is not valid now")]
    Time,
    /// The host is none that a certificate can be for.
    #[error("no certificate can be for this host")]
    Host,
    /// The library failed.
    #[error("a key or certificate cannot be made")]
    Make,
}

/// A fresh authority: certificate and key in PEM.
pub struct Fresh {
    /// The certificate, for those who are to trust it.
    pub certificate: String,
    /// The private key, PKCS #8.
    pub key: String,
}

impl fmt::Debug for Fresh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Fresh")
    }
}

/// Makes an authority that is valid for `time`, for these hosts alone, or for any when there are none.
///
/// # Errors
/// [`AuthorityFault::Make`]; [`AuthorityFault::Host`] for a host that cannot be a constraint.
pub fn fresh(time: Duration, hosts: &[&str]) -> Result<Fresh, AuthorityFault> {
    let pair = KeyPair::generate().map_err(|_| AuthorityFault::Make)?;
    let mut params = CertificateParams::default();
    let tag: String = params.key_identifier(&pair).iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("E3 Relay local CA {tag}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    let now = SystemTime::now();
    params.not_before = (now - SKEW).into();
    params.not_after = (now + time).into();
    if !hosts.is_empty() {
        let subtree = |host: &&str| match host.parse::<IpAddr>() {
            Ok(address) => {
                let width = if address.is_ipv4() { 32 } else { 128 };
                GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(address, width))
            }
            Err(_) => GeneralSubtree::DnsName((*host).to_owned()),
        };
        let permitted: Vec<_> = hosts.iter().map(subtree).collect();
        // A kind that is not permitted at all has to be excluded, or it would be free.
        let is_address = |tree: &GeneralSubtree| matches!(tree, GeneralSubtree::IpAddress(_));
        let mut excluded = Vec::new();
        if !permitted.iter().any(is_address) {
            excluded.push(GeneralSubtree::IpAddress(CidrSubnet::V4([0; 4], [0; 4])));
            excluded.push(GeneralSubtree::IpAddress(CidrSubnet::V6([0; 16], [0; 16])));
        }
        if permitted.iter().all(is_address) {
            excluded.push(GeneralSubtree::DnsName(String::new()));
        }
        params.name_constraints = Some(NameConstraints { permitted_subtrees: permitted, excluded_subtrees: excluded });
    }
    let certificate = params.self_signed(&pair).map_err(|_| AuthorityFault::Make)?;
    Ok(Fresh { certificate: certificate.pem(), key: pair.serialize_pem() })
}

/// A certificate for one host, ready to end TLS with.
#[derive(Clone)]
struct Leaf {
    config: Arc<ServerConfig>,
    until: SystemTime,
}

/// An authority with its key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
    pem: Box<str>,
    not_after: SystemTime,
    leaves: Mutex<LruCache<Box<str>, Leaf>>,
    sessions: Arc<dyn StoresServerSessions>,
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Authority")
    }
}

impl Authority {
    /// Reads an authority, and checks that it is one and that the key is its.
    ///
    /// # Errors
    /// See [`AuthorityFault`].
    pub fn read(certificate: &str, key: &str) -> Result<Self, AuthorityFault> {
        use tokio_rustls::rustls::pki_types::pem::PemObject;
        let pair = KeyPair::from_pem(key).map_err(|_| AuthorityFault::Key)?;
        let der = CertificateDer::from_pem_slice(certificate.as_bytes()).map_err(|_| AuthorityFault::Certificate)?;
        let not_after = {
            let (_, parsed) = X509Certificate::from_der(&der).map_err(|_| AuthorityFault::Certificate)?;
            if !parsed.is_ca() {
                return Err(AuthorityFault::NoAuthority);
            }
            if parsed.public_key().subject_public_key.data.as_ref() != pair.public_key_raw() {
                return Err(AuthorityFault::OtherKey);
            }
            let at = |seconds: i64| UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
            let validity = parsed.validity();
            let (from, to) = (at(validity.not_before.timestamp()), at(validity.not_after.timestamp()));
            if !(from..to).contains(&SystemTime::now()) {
                return Err(AuthorityFault::Time);
            }
            to
        };
        let issuer = Issuer::from_ca_cert_der(&der, pair).map_err(|_| AuthorityFault::Certificate)?;
        Ok(Self {
            issuer,
            certificate: der,
            pem: certificate.into(),
            not_after,
            leaves: Mutex::new(LruCache::new(LEAVES)),
            sessions: ServerSessionMemoryCache::new(SESSIONS),
        })
    }

    /// The certificate in PEM, as clients are to trust it.
    #[must_use]
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// Whether its name constraints let it sign for a host, exact or `*.suffix`.
    #[must_use]
    pub fn may_sign(&self, host: &str) -> bool {
        let Ok((_, parsed)) = X509Certificate::from_der(&self.certificate) else { return false };
        let constraints = parsed.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::NameConstraints(constraints) => Some(constraints),
            _ => None,
        });
        let Some(permitted) = constraints.and_then(|c| c.permitted_subtrees.as_ref()) else { return true };
        let address = host.parse::<IpAddr>().ok().map(|address| match address {
            IpAddr::V4(address) => address.octets().to_vec(),
            IpAddr::V6(address) => address.octets().to_vec(),
        });
        let name = host.strip_prefix("*.").unwrap_or(host);
        permitted.iter().any(|tree| match (&tree.base, &address) {
            (GeneralName::IPAddress(network), Some(address)) => {
                let (network, mask) = network.split_at(network.len() / 2);
                network.len() == address.len()
                    && address.iter().zip(mask).zip(network).all(|((a, mask), network)| a & mask == *network)
            }
            (GeneralName::DNSName(suffix), None) => {
                name == *suffix || name.strip_suffix(suffix).is_some_and(|rest| rest.ends_with('.'))
            }
            _ => false,
        })
    }

    /// What ends TLS in the place of a host: a name in lower case, or an address without brackets.
    ///
    /// # Errors
    /// [`AuthorityFault::Host`], [`AuthorityFault::Make`].
    pub fn server(&self, host: &str) -> Result<Arc<ServerConfig>, AuthorityFault> {
        let now = SystemTime::now();
        if let Some(leaf) = self.leaves.lock().unwrap_or_else(PoisonError::into_inner).get(host)
            && now < leaf.until
        {
            return Ok(Arc::clone(&leaf.config));
        }
        let leaf = Leaf { config: self.server_config(host, now)?, until: now + LEAF_USE };
        let config = Arc::clone(&leaf.config);
        self.leaves.lock().unwrap_or_else(PoisonError::into_inner).put(host.into(), leaf);
        Ok(config)
    }

    fn server_config(&self, host: &str, now: SystemTime) -> Result<Arc<ServerConfig>, AuthorityFault> {
        let (chain, key) = self.mint(host, now)?;
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|_| AuthorityFault::Make)?
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .map_err(|_| AuthorityFault::Make)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.session_storage = Arc::clone(&self.sessions);
        Ok(Arc::new(config))
    }

    /// A fresh key and a certificate for a host, with the authority's behind it.
    ///
    /// # Errors
    /// [`AuthorityFault::Host`], [`AuthorityFault::Make`].
    pub fn mint(
        &self,
        host: &str,
        now: SystemTime,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), AuthorityFault> {
        let pair = KeyPair::generate().map_err(|_| AuthorityFault::Make)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        // The longest common name that X.509 knows; the subject alternative name is what counts.
        let common = if host.len() <= 64 { host } else { "E3 Relay" };
        params.distinguished_name.push(DnType::CommonName, common);
        params.subject_alt_names = vec![match host.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(host.try_into().map_err(|_| AuthorityFault::Host)?),
        }];
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        params.not_before = (now - SKEW).into();
        params.not_after = (now + LEAF_TIME).min(self.not_after).into();
        let leaf = params.signed_by(&pair, &self.issuer).map_err(|_| AuthorityFault::Make)?;
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(pair.serialize_der()));
        Ok((vec![leaf.der().clone(), self.certificate.clone()], key))
    }
}

#[cfg(test)]
mod tests {
    use tokio_rustls::rustls::pki_types::{ServerName, UnixTime};
    use tokio_rustls::rustls::{RootCertStore, client::WebPkiServerVerifier};

    use super::*;

    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

    fn authority(hosts: &[&str]) -> Authority {
        let fresh = fresh(YEAR, hosts).unwrap();
        Authority::read(&fresh.certificate, &fresh.key).unwrap()
    }

    /// What a client that trusts `root` says to a leaf that `signer` minted for `minted`.
    fn verifies(root: &Authority, signer: &Authority, minted: &str, asked: &str, at: SystemTime) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add(root.certificate.clone()).unwrap();
        let provider = Arc::new(ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider).build().unwrap();
        let (chain, _) = signer.mint(minted, SystemTime::now()).unwrap();
        let name = ServerName::try_from(asked.to_owned()).unwrap();
        let at = UnixTime::since_unix_epoch(at.duration_since(UNIX_EPOCH).unwrap());
        use tokio_rustls::rustls::client::danger::ServerCertVerifier;
        verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], at).is_ok()
    }

    #[test]
    fn a_leaf_is_for_its_host_and_time_and_its_authority_alone() {
        let (own, other, now) = (authority(&[]), authority(&[]), SystemTime::now());
        for host in ["api.pay.example", "10.1.2.3", "fd00::1"] {
            assert!(verifies(&own, &own, host, host, now), "{host}");
            assert!(!verifies(&own, &own, host, "api.else.example", now), "{host}");
            assert!(!verifies(&other, &own, host, host, now), "{host}");
        }
        let long = format!("{}.{}.example", "a".repeat(60), "b".repeat(60));
        assert!(verifies(&own, &own, &long, &long, now));
        let host = "api.pay.example";
        assert!(verifies(&own, &own, host, host, now - SKEW + Duration::from_secs(60)), "clocks differ");
        assert!(!verifies(&own, &own, host, host, now - SKEW - Duration::from_secs(60)));
        assert!(!verifies(&own, &own, host, host, now + LEAF_TIME + Duration::from_secs(60)));
    }

    #[test]
    fn a_constrained_authority_is_believed_for_its_hosts_alone() {
        let own = authority(&["api.pay.example", "10.1.2.3"]);
        let now = SystemTime::now();
        for (host, good) in [
            ("api.pay.example", true),
            ("10.1.2.3", true),
            ("api.else.example", false),
            ("10.1.2.4", false),
            ("pay.example", false),
            ("xapi.pay.example", false),
        ] {
            assert_eq!(own.may_sign(host), good, "{host}");
            assert_eq!(verifies(&own, &own, host, host, now), good, "{host}");
        }
        let names = authority(&["api.pay.example"]);
        assert!(!verifies(&names, &names, "10.1.2.3", "10.1.2.3", now), "no address is permitted");
        assert!(authority(&[]).may_sign("*.example"));
        assert!(!own.may_sign("*.example"));
    }

    #[test]
    fn only_an_authority_with_its_own_key_is_taken() {
        let (one, two) = (fresh(YEAR, &[]).unwrap(), fresh(YEAR, &[]).unwrap());
        let read = |certificate: &str, key: &str| Authority::read(certificate, key).map(|_| ()).unwrap_err();
        assert_eq!(read(&one.certificate, &two.key), AuthorityFault::OtherKey);
        assert_eq!(read(&one.certificate, "no key"), AuthorityFault::Key);
        assert_eq!(read("no certificate", &one.key), AuthorityFault::Certificate);
        let past = fresh(Duration::ZERO, &[]).unwrap();
        assert_eq!(read(&past.certificate, &past.key), AuthorityFault::Time);
        let pair = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(vec!["a.example".to_owned()]).unwrap().self_signed(&pair).unwrap();
        let leaf = read(&leaf.pem(), &pair.serialize_pem());
        assert!(matches!(leaf, AuthorityFault::NoAuthority | AuthorityFault::Time), "{leaf}");
    }

    #[test]
    fn leaves_are_kept_and_the_key_may_sign_no_authority() {
        let own = authority(&[]);
        let first = own.server("a.example").unwrap();
        assert!(Arc::ptr_eq(&first, &own.server("a.example").unwrap()));
        assert!(!Arc::ptr_eq(&first, &own.server("b.example").unwrap()));
        let (_, parsed) = X509Certificate::from_der(&own.certificate).unwrap();
        let basic = parsed.basic_constraints().unwrap().unwrap();
        assert_eq!((basic.value.ca, basic.value.path_len_constraint), (true, Some(0)));
    }
}
