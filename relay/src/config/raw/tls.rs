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
    /// The certificate is ordered and renewed by the relay, as `acme` at the top says; `certificate` and `key` are then absent.
    pub acme: Option<At<bool>>,
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

/// Certificates by ACME.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Acme {
    /// URL of the authority's directory, for example `https://acme-v02.api.letsencrypt.org/directory`.
    #[schemars(required)]
    pub directory: Option<At<String>>,
    /// Agrees to the authority's terms of service.
    #[serde(default)]
    pub terms_agreed: bool,
    /// Whom the authority may write to: `mailto:ops@example.com`.
    #[serde(default)]
    pub contact: Vec<At<String>>,
    /// Folder of the account's key and of the certificates, which only its owner may enter; it is made if there is none. `/var/lib/relay/acme`, for example.
    #[schemars(required)]
    pub store: Option<At<String>>,
    /// How hosts are proven: `tls-alpn-01` when absent.
    #[serde(default)]
    pub challenge: Challenge,
    /// PEM file of the only authorities that are trusted for the directory's https; the system's when absent.
    pub ca: Option<At<String>>,
    /// An account that the authority knows already (external account binding).
    pub eab: Option<Binding>,
    /// Time before another try after a failure, which doubles with each one, up to 6h; `1m` when absent.
    pub retry: Option<At<String>>,
}

/// How hosts are proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
pub enum Challenge {
    /// At the TLS listeners: the authority connects to port 443 of the host.
    #[default]
    #[serde(rename = "tls-alpn-01")]
    TlsAlpn,
    /// At the plain inbound listeners: the authority asks port 80 of the host.
    #[serde(rename = "http-01")]
    Http,
}

/// An account that the authority knows already.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Binding {
    /// Its id.
    #[schemars(required)]
    pub kid: Option<At<String>>,
    /// File with its key in base64url, which others may not read.
    #[schemars(required)]
    pub key: Option<At<String>>,
}

/// The only value of `redirect`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Redirect {
    /// To the same host and path over https.
    Https,
}
