//! Which KMS key, where: measured into the image, so that the host cannot put another in its place.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto, version};

/// The ARN of one KMS key: `arn:PARTITION:kms:REGION:ACCOUNT:key/ID`. An alias is refused, for its owner can point it elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct KeyArn {
    text: Box<str>,
    /// Range of the region in the text.
    region: (usize, usize),
}

/// Text that is no ARN of a KMS key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BadKeyArn {
    /// Not of the form.
    #[error("not of the form `arn:aws:kms:REGION:ACCOUNT:key/ID`")]
    Form,
    /// An alias.
    #[error("an alias can be pointed at another key: give the key's own ARN, `arn:aws:kms:REGION:ACCOUNT:key/ID`")]
    Alias,
}

impl FromStr for KeyArn {
    type Err = BadKeyArn;

    fn from_str(text: &str) -> Result<Self, BadKeyArn> {
        let parts: Vec<&str> = text.split(':').collect();
        let [arn, partition, service, region, account, resource] = parts[..] else { return Err(BadKeyArn::Form) };
        let name =
            |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if resource.starts_with("alias/") {
            return Err(BadKeyArn::Alias);
        }
        let id = resource.strip_prefix("key/").ok_or(BadKeyArn::Form)?;
        let fits = arn == "arn"
            && (partition == "aws" || partition.starts_with("aws-"))
            && name(partition)
            && service == "kms"
            && name(region)
            && account.len() == 12
            && account.bytes().all(|b| b.is_ascii_digit())
            && name(id)
            && text.len() <= 256;
        if !fits {
            return Err(BadKeyArn::Form);
        }
        let start = arn.len() + partition.len() + service.len() + 3;
        Ok(Self { text: text.into(), region: (start, start + region.len()) })
    }
}

impl KeyArn {
    /// The whole ARN.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Its region.
    #[must_use]
    pub fn region(&self) -> &str {
        self.text.get(self.region.0..self.region.1).unwrap_or_default()
    }
}

impl fmt::Display for KeyArn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// A key, the host name that answers for it, and who may certify that name.
#[derive(Debug, Clone)]
pub struct KmsTarget {
    /// The key.
    pub key: KeyArn,
    /// The name that TLS verifies, and the port.
    pub host: Box<str>,
    /// Port of the endpoint.
    pub port: u16,
    /// TLS 1.2 or 1.3 under the target's roots alone.
    pub(crate) tls: Arc<ClientConfig>,
}

impl KmsTarget {
    /// The key at its region's own endpoint, under Amazon's roots.
    ///
    /// # Errors
    /// Never for the roots that are compiled in; the signature is the library's.
    pub fn of(key: KeyArn) -> Result<Self, tokio_rustls::rustls::Error> {
        let suffix = if key.as_str().starts_with("arn:aws-cn:") { "amazonaws.com.cn" } else { "amazonaws.com" };
        let host = format!("kms.{}.{suffix}", key.region());
        Self::at(key, &host, 443, amazon_roots())
    }

    /// The key at another endpoint under other roots: a VPC endpoint, or a KMS of the tests. These are measured into the image like the key.
    ///
    /// # Errors
    /// The library refuses the configuration.
    pub fn at(key: KeyArn, host: &str, port: u16, roots: RootCertStore) -> Result<Self, tokio_rustls::rustls::Error> {
        let provider = Arc::new(crypto::ring::default_provider());
        let mut tls = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&version::TLS13, &version::TLS12])?
            .with_root_certificates(roots)
            .with_no_client_auth();
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self { key, host: host.into(), port, tls: Arc::new(tls) })
    }
}

/// The roots that sign AWS endpoints: Amazon Trust Services, and Starfield Services from before; no other authority of the web's list.
#[must_use]
pub fn amazon_roots() -> RootCertStore {
    let of_amazon = |subject: &[u8]| {
        [b"Amazon Root CA".as_slice(), b"Starfield Services Root Certificate Authority"]
            .iter()
            .any(|name| subject.windows(name.len()).any(|window| window == *name))
    };
    let roots =
        webpki_roots::TLS_SERVER_ROOTS.iter().filter(|root| of_amazon(root.subject.as_ref())).cloned().collect();
    RootCertStore { roots }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARN: &str = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";

    #[test]
    fn only_the_arn_of_a_key_is_accepted() {
        let arn: KeyArn = ARN.parse().unwrap();
        assert_eq!((arn.as_str(), arn.region()), (ARN, "eu-central-1"));
        assert!("arn:aws-us-gov:kms:us-gov-west-1:111122223333:key/mrk-1234abcd".parse::<KeyArn>().is_ok());
        assert_eq!("arn:aws:kms:eu-central-1:111122223333:alias/e3".parse::<KeyArn>(), Err(BadKeyArn::Alias));
        for bad in [
            "",
            "1234abcd-12ab-34cd-56ef-1234567890ab",
            "alias/e3",
            "arn:aws:s3:eu-central-1:111122223333:key/1",
            "arn:aws:kms::111122223333:key/1",
            "arn:aws:kms:eu-central-1:1111:key/1",
            "arn:aws:kms:eu-central-1:111122223333:key/",
            "arn:aws:kms:eu.evil.example#:111122223333:key/1",
            "arn:evil:kms:eu-central-1:111122223333:key/1",
            "arn:aws:kms:eu-central-1:111122223333:key/1:x",
        ] {
            assert_eq!(bad.parse::<KeyArn>(), Err(BadKeyArn::Form), "{bad}");
        }
    }

    #[test]
    fn the_endpoint_is_the_regions_own_and_only_amazon_may_certify_it() {
        let target = KmsTarget::of(ARN.parse().unwrap()).unwrap();
        assert_eq!((&*target.host, target.port), ("kms.eu-central-1.amazonaws.com", 443));
        let china = KmsTarget::of("arn:aws-cn:kms:cn-north-1:111122223333:key/1".parse().unwrap()).unwrap();
        assert_eq!(&*china.host, "kms.cn-north-1.amazonaws.com.cn");
        assert_eq!(amazon_roots().len(), 5);
    }
}
