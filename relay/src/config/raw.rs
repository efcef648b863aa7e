//! The rules file as people write it. These types generate the schema; [`e3_yaml`] holds the file against it, tells every fault
//! and takes it out, so that the rest can be read and checked in the same run. What the schema requires is therefore optional
//! here: where it is absent, that is told already.

use std::collections::BTreeMap;
use std::fmt;

use schemars::JsonSchema;
use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};

pub use e3_yaml::{At, OneOrMany};

pub mod api;
pub mod tls;

use super::report::{Place, Report};

/// The rules of the inbound and the outbound relay.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
#[schemars(title = "relay rules")]
pub struct File {
    /// The encryption engine.
    #[schemars(required)]
    pub engine: Option<Engine>,
    /// Sites that requests come in for: a reverse proxy in front of backends.
    #[serde(default)]
    pub inbound: Vec<At<Inbound>>,
    /// Listeners through which backends reach third parties.
    #[serde(default)]
    pub outbound: Vec<At<Outbound>>,
    /// The HTTP API for programs that seal and open values themselves.
    pub api: Option<At<api::Api>>,
    /// The local certificate authority that ends TLS of intercepted destinations; `relay ca init` makes one.
    pub ca: Option<At<Ca>>,
    /// Certificates that the relay orders and renews by itself (RFC 8555), for sites with `tls: {acme: true}`.
    pub acme: Option<At<tls::Acme>>,
    /// Metrics, health and status.
    #[serde(default)]
    pub admin: Admin,
    /// How the log is written.
    #[serde(default)]
    pub log: Log,
    /// Most bytes of bodies that are held at once, in all: messages that rules select, records and calls of the API. `512MiB` when absent, at least twice the largest
    /// `limits.body`. What goes beyond is refused with 503.
    pub held_bytes: Option<At<String>>,
    /// Worker threads; the number of cores when absent.
    pub threads: Option<At<usize>>,
    /// Longest time that connections may take to finish when the relay drains, for example `30s`.
    pub grace: Option<At<String>>,
}

/// Where the engine is and how long it may take.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Engine {
    /// `unix:///path`, `vsock://cid:port`, `hybrid:///path:port`; several are alternatives.
    #[schemars(required)]
    pub endpoints: Option<At<Vec<At<String>>>>,
    /// The tenant that owns the keys.
    #[schemars(required)]
    pub app: Option<At<String>>,
    /// Total time of one call, for example `250ms`.
    pub timeout: Option<At<String>>,
    /// Connections of each worker thread to each endpoint.
    pub connections: Option<At<usize>>,
    /// What the engine's attestation document must say: the PCRs of its image, or a list of such sets, of which one must match whole.
    pub attestation: Option<At<Images>>,
    /// File with this relay's private key in PKCS #8 PEM, whose hash the image knows; `relay key new` makes one.
    pub key: Option<At<String>>,
    /// Public id of the one keyring that is accepted, 32 hexadecimal digits; any when absent.
    pub keyring: Option<At<String>>,
    /// File in which the highest keyring epoch and policy version are kept, which the relay must be able to write; `engine-seen` beside the rules file when absent.
    pub seen: Option<At<String>>,
    /// Accepts an engine that proves nothing. Never in production.
    #[serde(default)]
    pub development: bool,
}

/// PCRs of an image, each 96 hexadecimal digits.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Pcrs {
    /// The image.
    pub pcr0: Option<At<String>>,
    /// Its kernel and boot.
    pub pcr1: Option<At<String>>,
    /// Its program.
    pub pcr2: Option<At<String>>,
    /// The role of its instance.
    pub pcr3: Option<At<String>>,
    /// Its instance.
    pub pcr4: Option<At<String>>,
    /// Who signed it.
    pub pcr8: Option<At<String>>,
}

impl Pcrs {
    /// Those that are given, by index.
    pub fn given(&self) -> Vec<(u8, &At<String>)> {
        let all =
            [(0, &self.pcr0), (1, &self.pcr1), (2, &self.pcr2), (3, &self.pcr3), (4, &self.pcr4), (8, &self.pcr8)];
        all.into_iter().filter_map(|(index, pcr)| Some((index, pcr.as_ref()?))).collect()
    }
}

/// One image or a list of them.
#[derive(Debug, JsonSchema)]
#[schemars(untagged)]
pub enum Images {
    /// One.
    One(Box<Pcrs>),
    /// Several.
    Many(Vec<At<Pcrs>>),
}

impl Images {
    /// As a list, each with its place; `place` is that of the whole.
    pub fn list(&self, place: Place) -> Vec<(Place, &Pcrs)> {
        match self {
            Self::One(one) => vec![(place, one)],
            Self::Many(many) => many.iter().map(|at| (at.place(), at.get())).collect(),
        }
    }
}

// Derived, it would go over a copy that has lost the places.
impl<'de> Deserialize<'de> for Images {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;
        impl<'de> Visitor<'de> for Either {
            type Value = Images;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("the PCRs of an image or a list of such")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Images, A::Error> {
                Pcrs::deserialize(MapAccessDeserializer::new(map)).map(|one| Images::One(Box::new(one)))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Images, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(Images::Many)
            }
        }
        deserializer.deserialize_any(Either)
    }
}

/// One site of the inbound relay.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Inbound {
    /// Address and port, for example `0.0.0.0:8080`.
    #[schemars(required)]
    pub listen: Option<At<String>>,
    /// Host names that this site serves: exact, or `*.suffix`.
    #[schemars(required)]
    pub hosts: Option<At<Vec<At<String>>>>,
    /// `http://host:port` or `https://…`; several are balanced.
    pub backend: Option<At<OneOrMany>>,
    /// In the place of a backend: GET and HEAD are sent on to https, everything else is refused, so that nothing is told in plaintext.
    pub redirect: Option<At<tls::Redirect>>,
    /// TLS ends here; plain HTTP is spoken when absent.
    pub tls: Option<At<tls::SiteTls>>,
    /// Backends are spoken to over HTTP/2: over https where they choose it, over http without asking (h2c).
    #[serde(default)]
    pub backend_http2: bool,
    /// PEM file of the only authorities that are trusted for https backends; the system's when absent.
    pub backend_ca: Option<At<String>>,
    /// The name that https backends prove by their certificates; the URL's when absent.
    pub backend_name: Option<At<String>>,
    /// Connections to the backends begin with a PROXY header that says who the client is; none is then kept for another request.
    pub backend_proxy_protocol: Option<ProxyVersion>,
    /// How the backends' health is checked.
    pub health: Option<Health>,
    /// All rules that a request meets apply, in order.
    #[serde(default)]
    pub rules: Vec<At<Rule>>,
    /// What happens to requests that meet no rule.
    #[serde(default)]
    pub unruled: Unruled,
    /// Keys and paths match in either case, for backends that read them so.
    #[serde(default)]
    pub fold_case: bool,
    /// Answers carry `Server-Timing` (relay, engine, upstream).
    #[serde(default)]
    pub server_timing: bool,
    /// Lets header names with `_` through.
    #[serde(default)]
    pub underscore_headers: bool,
    /// Sizes and total times of messages.
    #[serde(default)]
    pub limits: Limits,
    /// Who is believed about who asked, and how the backend is told.
    pub forwarded: Option<Forwarded>,
    /// Balancers that say who the client is by the PROXY protocol (version 1 or 2); equal for all sites of one address.
    pub proxy_protocol: Option<At<ProxyProtocol>>,
    /// Limits of the listener's connections; equal for all sites of one address.
    pub connections: Option<At<Connections>>,
}

/// The local certificate authority.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Ca {
    /// PEM file of its certificate, which clients trust.
    #[schemars(required)]
    pub certificate: Option<At<String>>,
    /// File with its private key in PKCS #8 PEM, which only its owner may read.
    #[schemars(required)]
    pub key: Option<At<String>>,
}

/// One listener of the outbound relay.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Outbound {
    /// Address and port, for example `127.0.0.1:8081`.
    #[schemars(required)]
    pub listen: Option<At<String>>,
    /// SHA-256 of the keys of its clients, 64 hexadecimal digits each, as `relay key proxy` prints them. Clients send theirs in `Proxy-Authorization`. Without
    /// any, only loopback is listened on.
    #[serde(default)]
    pub keys: Vec<At<String>>,
    /// Clients reach the listener over TLS (an `https://` proxy); plain when absent.
    pub tls: Option<At<tls::ProxyTls>>,
    /// The third parties that can be reached.
    #[schemars(required)]
    pub destinations: Option<At<Vec<At<Destination>>>>,
    /// Balancers that say who the client is by the PROXY protocol (version 1 or 2).
    pub proxy_protocol: Option<At<ProxyProtocol>>,
    /// Limits of the listener's connections.
    pub connections: Option<At<Connections>>,
}

/// Connections that begin with a PROXY header.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ProxyProtocol {
    /// The balancers' networks: their connections must begin with a header, and nobody else's may. `10.0.0.0/8`, or an address.
    #[schemars(required)]
    pub from: Option<At<Vec<At<String>>>>,
}

/// A version of the PROXY protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ProxyVersion {
    /// One line of text.
    V1,
    /// Binary.
    V2,
}

/// Who asked: whom to believe, and how to tell.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Forwarded {
    /// Proxies whose `X-Forwarded-*` and `Forwarded` are kept and go on, and whose `X-Forwarded-For` says who the client is: `10.0.0.0/8`, or an address.
    /// What anyone else writes there is taken out.
    #[serde(default)]
    pub trust: Vec<At<String>>,
    /// What the backend is told: `x-forwarded` alone when absent, nothing when empty.
    pub send: Option<Vec<ForwardedForm>>,
}

/// How a backend is told who asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardedForm {
    /// `X-Forwarded-For`, `X-Forwarded-Proto`, `X-Forwarded-Host`.
    XForwarded,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

/// One third party.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Destination {
    /// Requests with this Host, under `/host/…`, or for which CONNECT asks: exact, or `*.suffix`.
    #[schemars(required)]
    pub host: Option<At<String>>,
    /// `https://host[:port]`; several are balanced. `http://…` only within networks of one's own where rules open values. When absent, the host that is asked for over https, on a port of `ports`: looked up
    /// then, and verified by its own name.
    pub upstream: Option<At<OneOrMany>>,
    /// CONNECT is answered: TLS ends here with a certificate of the local authority (`ca`), and the rules hold for the requests in it.
    #[serde(default)]
    pub intercept: bool,
    /// CONNECT is answered: what comes is passed on as it is, unread. TLS alone, for this host by its server name.
    #[serde(default)]
    pub tunnel: bool,
    /// Ports for which CONNECT may ask; 443 when absent.
    pub ports: Option<At<Vec<At<u16>>>>,
    /// Path patterns, as in `match`: requests for other paths are refused with 403.
    pub paths: Option<At<OneOrMany>>,
    /// PEM file of the certificate by which the relay proves itself to the servers (mTLS).
    pub client_certificate: Option<At<String>>,
    /// File with its private key in PEM.
    pub client_key: Option<At<String>>,
    /// Oldest version of TLS; `1.2` when absent.
    pub tls_min: Option<TlsMin>,
    /// HTTP/2 is spoken where the servers choose it; over http without asking (h2c).
    #[serde(default)]
    pub http2: bool,
    /// Networks that may be reached although they are not public: `10.0.0.0/8`. An address that `upstream` names as such, and `localhost`, need no entry.
    #[serde(default)]
    pub networks: Vec<At<String>>,
    /// PEM file of the only authorities that are trusted; the system's when absent.
    pub ca: Option<At<String>>,
    /// The name that the certificate must prove; the URL's when absent.
    pub name: Option<At<String>>,
    /// How the servers' health is checked.
    pub health: Option<Health>,
    /// All rules that a request meets apply, in order.
    #[serde(default)]
    pub rules: Vec<At<Rule>>,
    /// What happens to requests that meet no rule.
    #[serde(default)]
    pub unruled: Unruled,
    /// Keys and paths match in either case.
    #[serde(default)]
    pub fold_case: bool,
    /// Answers carry `Server-Timing` (relay, engine, upstream).
    #[serde(default)]
    pub server_timing: bool,
    /// Lets header names with `_` through.
    #[serde(default)]
    pub underscore_headers: bool,
    /// Sizes and total times of messages.
    #[serde(default)]
    pub limits: Limits,
}

/// Oldest version of TLS that is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
pub enum TlsMin {
    /// TLS 1.2.
    #[default]
    #[serde(rename = "1.2")]
    Tls12,
    /// TLS 1.3.
    #[serde(rename = "1.3")]
    Tls13,
}

/// Which requests, and what is done to them and to their responses.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Rule {
    /// A name for logs, metrics and `relay explain`.
    pub name: Option<At<String>>,
    /// Which requests; every one when absent.
    #[serde(default, rename = "match")]
    pub condition: Match,
    /// What is done to request bodies.
    #[serde(default)]
    pub request: Actions,
    /// What is done to response bodies.
    #[serde(default)]
    pub response: ResponseActions,
}

/// Which requests meet a rule.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Match {
    /// Methods in upper case; all when absent. GET stands for HEAD too.
    pub methods: Option<At<Vec<At<String>>>>,
    /// Path patterns: `*` is any part of one segment, `**` any number of segments. A slash at the end, and blanks and dots at the end of a segment, are overlooked.
    pub path: Option<At<OneOrMany>>,
    /// Headers that must be there, `Host` aside, by which sites are chosen: a value in which `*` is any text, so that `"*"` asks only that the header is there.
    #[serde(default)]
    pub headers: BTreeMap<String, At<String>>,
    /// Media types that the selectors understand; another is refused with 415. When absent: `application/json` and `application/*+json`, held whole;
    /// and, held record by record, `application/x-ndjson`, `application/ndjson`, `application/jsonl`, `application/x-jsonlines` and `text/event-stream`.
    pub media_types: Option<At<Vec<At<String>>>>,
}

/// What is done to a body.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Actions {
    /// Values that become tokens.
    #[serde(default)]
    pub seal: Vec<At<Seal>>,
    /// Values whose tokens are opened.
    #[serde(default)]
    pub open: Vec<At<Open>>,
}

/// What is done to response bodies.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ResponseActions {
    /// Values that become tokens.
    #[serde(default)]
    pub seal: Vec<At<Seal>>,
    /// Values whose tokens are opened.
    #[serde(default)]
    pub open: Vec<At<Open>>,
    /// Statuses that this is for: `200`, `200-299`; all when absent.
    pub status: Option<At<Vec<At<Status>>>>,
}

/// One status or a range of them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Status {
    /// One.
    One(u16),
    /// `from-to`.
    Range(String),
}

/// Values that become tokens.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Seal {
    /// JSONPath (RFC 9535) of the values.
    #[schemars(required)]
    pub select: Option<At<String>>,
    /// The class of data that they belong to.
    #[schemars(required)]
    pub role: Option<At<String>>,
    /// Equal values give equal tokens. The engine must declare the role so.
    #[serde(default)]
    pub deterministic: bool,
    /// What happens to text that already is a token.
    #[serde(default)]
    pub tokens: Tokens,
    /// Objects and arrays stand for their leaves, instead of being sealed as a whole.
    #[serde(default)]
    pub each: bool,
    /// A body without such a value is refused with 422. A message without a body passes: there is nothing in it to seal or open.
    #[serde(default)]
    pub required: bool,
}

/// What happens to text that already is a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Tokens {
    /// It is sealed as the text that it is.
    #[default]
    Seal,
    /// A genuine token of this app and role stays as it is. For trusted callers only.
    Keep,
}

/// Values whose tokens are opened.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Open {
    /// JSONPath (RFC 9535) of the values.
    pub select: Option<At<String>>,
    /// Every string of the body instead. Whoever chooses where a token stands chooses what is opened.
    #[serde(default)]
    pub anywhere: bool,
    /// The roles that may be opened here.
    #[schemars(required)]
    pub roles: Option<At<Vec<At<String>>>>,
    /// What happens when a token may not be opened.
    #[serde(default)]
    pub on_refused: OnRefused,
    /// Objects and arrays stand for their leaves.
    #[serde(default)]
    pub each: bool,
    /// A body without such a value is refused with 422. A message without a body passes: there is nothing in it to seal or open.
    #[serde(default)]
    pub required: bool,
}

/// What happens when a token may not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnRefused {
    /// The message is refused.
    #[default]
    Refuse,
    /// The token stays as it is.
    Leave,
}

/// What happens to requests that meet no rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Unruled {
    /// They pass untouched.
    #[default]
    Pass,
    /// They are refused with 403.
    Refuse,
}

/// How servers' health is checked.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Health {
    /// Path of a GET that must answer with a status of 2xx; only a TCP connection is tried when absent.
    pub path: Option<At<String>>,
    /// Time between checks; `5s` when absent.
    pub interval: Option<At<String>>,
    /// Time of one check; `1s` when absent.
    pub timeout: Option<At<String>>,
    /// Failed checks in a row that turn a server off; 3 when absent.
    pub unhealthy: Option<At<usize>>,
    /// Good checks in a row that turn it on again; 1 when absent.
    pub healthy: Option<At<usize>>,
}

/// Sizes and total times of messages.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Limits {
    /// Most bytes of a ruled body, or of one record of a stream of them; `10MiB` when absent, at most `16MiB`.
    pub body: Option<At<String>>,
    /// Total time for a held request body; `30s` when absent.
    pub body_time: Option<At<String>>,
    /// Time to connect; `3s` when absent.
    pub connect_time: Option<At<String>>,
    /// Time for the response's head; `30s` when absent.
    pub response_time: Option<At<String>>,
    /// Total time for a held response body; `30s` when absent.
    pub response_body_time: Option<At<String>>,
    /// Longest pause in a streamed body; `60s` when absent.
    pub stream_idle: Option<At<String>>,
    /// Total time of a streamed body; `1h` when absent.
    pub stream_time: Option<At<String>>,
    /// Total time of a request, from the end of its head to the last byte of its answer; `2h` when absent. Changed to another protocol, a connection has
    /// `stream_time` for that.
    pub request_time: Option<At<String>>,
    /// Most idle upstream connections of each worker thread to each server; 64 when absent.
    pub pool_idle: Option<At<usize>>,
    /// How long one is kept idle; `55s` when absent.
    pub pool_idle_time: Option<At<String>>,
}

/// Limits of a listener's connections.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Connections {
    /// Total time for a request's head; `10s` when absent.
    pub head_time: Option<At<String>>,
    /// How long a connection may idle between requests; `75s` when absent.
    pub idle_time: Option<At<String>>,
    /// Most bytes of a request's head; `32KiB` when absent.
    pub head_bytes: Option<At<String>>,
    /// Most header fields of a request; 100 when absent.
    pub head_fields: Option<At<usize>>,
    /// Most requests at once on an HTTP/2 connection; 100 when absent.
    pub streams: Option<At<usize>>,
    /// Clients may begin with HTTP/2 on a plain listener (prior knowledge). Over TLS they always may.
    #[serde(default)]
    pub h2c: bool,
    /// Most connections at once; 20000 when absent.
    pub most: Option<At<usize>>,
    /// Most connections at once from one address; 4000 when absent.
    pub most_per_client: Option<At<usize>>,
}

/// Metrics, health and status.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Admin {
    /// Address and port, or `none`; `127.0.0.1:9180` when absent.
    pub listen: Option<At<String>>,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Log {
    /// One readable line each.
    #[default]
    Human,
    /// One JSON object each.
    Json,
}

impl File {
    /// Reads the text, whatever of it fits; what does not is told. `None` when nothing can be read.
    pub(super) fn read(text: &str, report: &mut Report) -> Option<At<Self>> {
        e3_yaml::read(text, report)
    }
}
