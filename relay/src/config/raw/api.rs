//! The HTTP API, as people write it.

use schemars::JsonSchema;
use serde::Deserialize;

use super::tls::SiteTls;
use super::{At, Connections, ProxyProtocol};

/// The HTTP API for programs that seal and open values themselves, each with its own API key.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Api {
    /// Address and port, for example `127.0.0.1:8082`. Without `tls`, loopback alone.
    #[schemars(required)]
    pub listen: Option<At<String>>,
    /// TLS ends here; plain HTTP is spoken when absent. `acme`, `default` and `client_certificate_header` are for sites alone.
    pub tls: Option<At<SiteTls>>,
    /// Listens on other addresses than loopback without TLS too: keys and values then cross the network in the clear.
    #[serde(default)]
    pub plaintext: bool,
    /// Sizes and total times of calls.
    #[serde(default)]
    pub limits: ApiLimits,
    /// Who is believed about who asked.
    pub forwarded: Option<ApiForwarded>,
    /// Balancers that say who the client is by the PROXY protocol (version 1 or 2).
    pub proxy_protocol: Option<At<ProxyProtocol>>,
    /// Limits of the listener's connections.
    pub connections: Option<At<Connections>>,
}

/// Sizes and total times of calls.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ApiLimits {
    /// Most bytes of a body; `10MiB` when absent, at most `16MiB`.
    pub body: Option<At<String>>,
    /// Total time for a body; `30s` when absent.
    pub body_time: Option<At<String>>,
    /// Time for the client to read its answer; `30s` when absent.
    pub answer_time: Option<At<String>>,
}

/// Who is believed about who asked.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ApiForwarded {
    /// Proxies whose `X-Forwarded-For` says who the client is: `10.0.0.0/8`, or an address.
    #[serde(default)]
    pub trust: Vec<At<String>>,
}
