//! TLS of listeners, as people write it.

use schemars::JsonSchema;
use serde::Deserialize;

use super::{At, TlsMin};

/// TLS of an inbound site. All sites of one address have it, or none.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct SiteTls {
    /// PEM file of the certificate for the site's hosts, and behind it those between it and its authority, in order.
    pub certificate: Option<At<String>>,
    /// File with its private key in PEM, which only its owner and group may read.
    pub key: Option<At<String>>,
    /// Oldest version of TLS; `1.2` when absent.
    pub min: Option<TlsMin>,
    /// PEM file of the authorities of client certificates (mTLS); clients need none when absent.
    pub client_ca: Option<At<String>>,
    /// Whether a client without a certificate is turned away: `require` when absent.
    pub client_certificate: Option<At<ClientCertificate>>,
    /// The backend gets a verified client certificate as `Client-Cert` and `Client-Cert-Chain` (RFC 9440).
    pub client_certificate_header: Option<At<bool>>,
    /// Answers say that the host is reached over https alone (RFC 6797).
    pub hsts: Option<At<Hsts>>,
    /// Clients that name no host in TLS, or one that no site has, come here; they are turned away when absent, but for those that name none where the
    /// address has one site alone.
    #[serde(default)]
    pub default: bool,
}

/// What a client is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ClientCertificate {
    /// It needs a certificate.
    #[default]
    Require,
    /// It may have one; one that does not verify turns it away all the same.
    Request,
}

/// `Strict-Transport-Security` of a site's answers.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Hsts {
    /// How long browsers keep it in mind, for example `365d`.
    #[schemars(required)]
    pub max_age: Option<At<String>>,
    /// It holds for every host below too.
    #[serde(default)]
    pub include_subdomains: bool,
    /// Agrees to the browsers' built-in lists, which are hard to leave again.
    pub preload: Option<At<bool>>,
}

/// TLS of an outbound listener, around CONNECT and plain requests.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ProxyTls {
    /// PEM file of the listener's certificate, and behind it those between it and its authority, in order.
    #[schemars(required)]
    pub certificate: Option<At<String>>,
    /// File with its private key in PEM, which only its owner and group may read.
    #[schemars(required)]
    pub key: Option<At<String>>,
    /// Oldest version of TLS; `1.2` when absent.
    pub min: Option<TlsMin>,
}

/// The only value of `redirect`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Redirect {
    /// To the same host and path over https.
    Https,
}
