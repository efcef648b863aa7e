//! The configuration after every check: the types that the rest of the relay works with.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use e3_attest::PcrSets;
use e3_link::Endpoint;
use e3_link::attested::memory::KeyringId;
use e3_wire::App;

use crate::admit::proxy_protocol::Version;
use crate::outbound::egress::{Egress, Network};
use crate::outbound::keys::ProxyKeys;
use crate::rules::route::{Rule, RuleSet};
use crate::tls::acme;
use crate::tls::ca::Authority;
use crate::tls::server::Terms;

/// A whole rules file that passed every check.
#[derive(Debug)]
pub struct Config {
    /// Where the engine is and how long it may take.
    pub engine: Engine,
    /// Inbound listeners, one for each address.
    pub inbound: Vec<Listener>,
    /// Outbound listeners, one for each address.
    pub outbound: Vec<Listener>,
    /// The HTTP API.
    pub api: Option<Api>,
    /// The local certificate authority.
    pub ca: Option<Arc<Authority>>,
    /// How certificates are ordered; only where some site wants one.
    pub acme: Option<acme::Settings>,
    /// The admin listener.
    pub admin: Admin,
    /// How the log is written.
    pub log: LogFormat,
    /// Most bytes of bodies that are held at once; over it 503, or 502.
    pub held_bytes: usize,
    /// Number of worker threads; `None` is one for each core.
    pub threads: Option<usize>,
    /// Longest time that connections may take to finish when the relay drains.
    pub grace: Duration,
    /// SHA-256 of the file's bytes, for `/status` and the audit.
    pub hash: [u8; 32],
    /// Files that the rules name and that were read with them: a change of one reloads the rules.
    pub files: Vec<NamedFile>,
}

impl Config {
    /// Every listener but the admin's.
    pub fn listeners(&self) -> impl Iterator<Item = &Listener> {
        self.inbound.iter().chain(&self.outbound).chain(self.api.as_ref().map(|api| &api.listener))
    }
}

/// The HTTP API.
#[derive(Debug)]
pub struct Api {
    /// Its address; it has no sites.
    pub listener: Listener,
    /// Whom to believe about who asked.
    pub forwarding: Forwarding,
    /// Sizes and times.
    pub limits: ApiLimits,
}

/// Sizes and total times of calls of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApiLimits {
    /// Most bytes of a body; over it 413.
    pub body: usize,
    /// Time for a body, from the end of its head.
    pub body_time: Duration,
    /// Time for the client to read its answer.
    pub answer_time: Duration,
}

/// A file as it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NamedFile {
    /// Where it is.
    pub path: PathBuf,
    /// SHA-256 of its bytes.
    pub hash: [u8; 32],
}

/// The engine as the relay sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Engine {
    /// Where it listens; several are alternatives.
    pub endpoints: Vec<Endpoint>,
    /// The tenant that owns the keys.
    pub app: App,
    /// Total time of one call.
    pub timeout: Duration,
    /// Connections of each worker thread to each endpoint.
    pub connections: usize,
    /// What it has to prove; nothing in development mode alone.
    pub attestation: Option<Attestation>,
    /// Whether a plain, unattested link is accepted.
    pub development: bool,
}

/// What the engine has to prove, and who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attestation {
    /// The accepted images.
    pub images: PcrSets,
    /// File with this relay's private key.
    pub key: PathBuf,
    /// The one accepted keyring.
    pub keyring: Option<KeyringId>,
    /// File in which the highest keyring epoch and policy version are kept.
    pub seen: PathBuf,
}

/// One address on which sites are served.
#[derive(Debug)]
pub struct Listener {
    /// The address to bind.
    pub listen: SocketAddr,
    /// Which way the requests of this listener go.
    pub side: Side,
    /// The sites by host; a request for any other host is answered 421.
    pub sites: HostTable,
    /// Who may use it; anybody when there are no keys.
    pub keys: ProxyKeys,
    /// TLS; plain when absent.
    pub tls: Option<ListenerTls>,
    /// Networks whose connections begin with a PROXY header.
    pub proxy_protocol: Vec<Network>,
    /// Limits of the connections.
    pub limits: ConnectionLimits,
}

/// TLS of a listener.
#[derive(Debug)]
pub enum ListenerTls {
    /// By the server name of a client's first message, as each site has it. Every site of the listener has TLS.
    Sites {
        /// For clients that say no name; they are turned away when absent.
        unnamed: Option<Arc<Terms>>,
        /// For clients that say a name that no site has; they are turned away when absent.
        unknown: Option<Arc<Terms>>,
    },
    /// One for all clients.
    Proxy(Arc<Terms>),
}

/// What a listener is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// Reverse proxy in front of the company's own backend.
    Inbound,
    /// Proxy from the company's backend to third parties.
    Outbound,
    /// The HTTP API.
    Api,
}

/// Sites by host name: exact names first, then the longest `*.suffix`.
#[derive(Debug, Default)]
pub struct HostTable {
    pub(crate) exact: foldhash::HashMap<Box<str>, Arc<Site>>,
    /// Suffixes with their leading dot, longest first.
    pub(crate) suffixes: Vec<(Box<str>, Arc<Site>)>,
}

impl HostTable {
    /// Sites by exact host name, lower case without port, and by suffix with its leading dot. Of two equal ones the first counts.
    #[must_use]
    pub fn new(
        exact: impl IntoIterator<Item = (Box<str>, Arc<Site>)>,
        suffixes: impl IntoIterator<Item = (Box<str>, Arc<Site>)>,
    ) -> Self {
        let mut table = Self::default();
        for (host, site) in exact {
            table.exact.entry(host).or_insert(site);
        }
        table.suffixes.extend(suffixes);
        // Stable, so of two equal ones the first stays first.
        table.suffixes.sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
        table
    }

    /// The site of a host name: lower case, without port, without trailing dot.
    #[must_use]
    pub fn get(&self, host: &str) -> Option<&Arc<Site>> {
        self.exact.get(host).or_else(|| {
            self.suffixes
                .iter()
                .find(|(suffix, _)| host.len() > suffix.len() && host.ends_with(&**suffix))
                .map(|(_, site)| site)
        })
    }

    /// Every site once.
    pub fn sites(&self) -> impl Iterator<Item = &Arc<Site>> {
        let mut seen = std::collections::HashSet::new();
        self.exact.values().chain(self.suffixes.iter().map(|(_, s)| s)).filter(move |s| seen.insert(Arc::as_ptr(s)))
    }
}

/// A backend behind the inbound relay, or a destination of the outbound relay.
#[derive(Debug)]
pub struct Site {
    /// Name in logs and metrics: the first host as written in the file.
    pub name: Box<str>,
    /// The hosts as written in the file.
    pub hosts: Vec<Box<str>>,
    /// Where its requests go.
    pub upstream: Upstream,
    /// TLS that ends at its listener.
    pub tls: Option<Arc<Terms>>,
    /// Who asked, as its backend is told.
    pub forwarding: Forwarding,
    /// Whether it only sends on to https; it has no servers then.
    pub redirect: bool,
    /// What becomes of CONNECT.
    pub connect: Connect,
    /// Ports for which CONNECT may ask.
    pub ports: Box<[u16]>,
    /// Its rules and what happens to requests that meet none.
    pub rules: RuleSet,
    /// Sizes and times.
    pub limits: MessageLimits,
    /// Whether answers carry `Server-Timing` (relay, engine, upstream).
    pub server_timing: bool,
    /// Whether header names with `_` are let through.
    pub underscore_headers: bool,
}

impl Site {
    /// The rules in the order of the file.
    #[must_use]
    pub fn rules(&self) -> &[Rule] {
        self.rules.rules()
    }
}

/// Whom to believe about who asked, and how a backend is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forwarding {
    /// Proxies whose word counts and goes on. Nobody else's does.
    pub trust: Vec<Network>,
    /// `X-Forwarded-For`, `-Proto` and `-Host` are sent.
    pub x_forwarded: bool,
    /// `Forwarded` (RFC 7239) is sent.
    pub forwarded: bool,
}

impl Default for Forwarding {
    fn default() -> Self {
        Self { trust: Vec::new(), x_forwarded: true, forwarded: false }
    }
}

impl Forwarding {
    /// Whether this peer's word counts.
    #[must_use]
    pub fn trusts(&self, address: IpAddr) -> bool {
        self.trust.iter().any(|network| network.has(address))
    }
}

/// What becomes of CONNECT for a destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Connect {
    /// It is refused with 403.
    #[default]
    Refuse,
    /// TLS ends here, and the rules hold for the requests in it.
    Intercept,
    /// Bytes pass.
    Tunnel,
}

/// Where a site's requests go.
#[derive(Debug, Clone)]
pub struct Upstream {
    /// Several are balanced. None where each request's own host is the server, over https.
    pub servers: Vec<Server>,
    /// TLS towards the servers; `None` is plain.
    pub tls: Option<UpstreamTls>,
    /// The `Host` that is sent: `None` keeps the client's.
    pub host: Option<Box<str>>,
    /// Path in front of the request's own, without trailing slash; often empty.
    pub base_path: Box<str>,
    /// What its servers' addresses may be; any for backends of the company's own.
    pub egress: Option<Egress>,
    /// How the servers' health is checked.
    pub health: Option<HealthCheck>,
    /// Whether HTTP/2 is spoken: where TLS agrees on it, and on plain connections without asking.
    pub http2: bool,
    /// The header with which connections to it begin.
    pub proxy_protocol: Option<Version>,
    /// Most idle connections kept for each server.
    pub pool_idle: usize,
    /// How long an idle connection is kept.
    pub pool_idle_timeout: Duration,
}

impl Upstream {
    /// Whether each request's own host is the server.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.servers.is_empty()
    }
}

/// One server of an upstream. The name is resolved at run time, off the request path where it can be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Server {
    /// Host name or address literal.
    pub host: Box<str>,
    /// Port.
    pub port: u16,
}

/// TLS towards an upstream. Verification is always on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamTls {
    /// The name that is verified and sent as SNI.
    pub server_name: Box<str>,
    /// PEM file of the only authorities that are trusted; `None` trusts the system's.
    pub ca: Option<PathBuf>,
    /// How the relay proves itself.
    pub identity: Option<ClientIdentity>,
    /// Whether TLS 1.2 is too old.
    pub only_tls13: bool,
    /// Whether HTTP/2 is offered beside HTTP/1.1.
    pub http2: bool,
}

/// A client certificate and its key, as files in PEM.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ClientIdentity {
    /// The certificate, and those between it and its authority.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// An active health check: TCP connect, or an HTTP GET that must answer 2xx.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    /// Path of the GET; `None` only connects.
    pub path: Option<Box<str>>,
    /// Time between checks.
    pub interval: Duration,
    /// Time one check may take.
    pub timeout: Duration,
    /// Checks in a row that turn a server off.
    pub unhealthy: usize,
    /// Checks in a row that turn it on again.
    pub healthy: usize,
}

/// Sizes and total times of one message. All times are totals, not per read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MessageLimits {
    /// Most bytes of a ruled body, request or response; over it 413 or 502.
    pub body: usize,
    /// Time for a held request body, from the end of its head.
    pub body_time: Duration,
    /// Time to connect to the upstream, TLS included.
    pub connect_time: Duration,
    /// Time for the upstream's response head, from the end of the request.
    pub response_time: Duration,
    /// Time for a held response body, from the end of its head.
    pub response_body_time: Duration,
    /// Longest time without a byte in a streamed body.
    pub stream_idle: Duration,
    /// Total time of a streamed body.
    pub stream_time: Duration,
    /// Total time of a request, from the end of its head to the last byte of its answer.
    pub request_time: Duration,
}

/// Limits of the connections of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ConnectionLimits {
    /// Time for a request head, from its first byte (or from accept for the first).
    pub head_time: Duration,
    /// Time that a connection may idle between requests.
    pub idle_time: Duration,
    /// Most bytes of a request head.
    pub head_bytes: usize,
    /// Most header fields of a request.
    pub head_fields: usize,
    /// Most streams at once of an HTTP/2 connection.
    pub streams: u32,
    /// Whether plain connections may begin with HTTP/2 (RFC 9113 §3.3).
    pub h2c: bool,
    /// Most connections at once; further ones are closed at accept.
    pub connections: usize,
    /// Most connections at once from one client address.
    pub connections_per_client: usize,
}

/// The admin listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Admin {
    /// Address, loopback unless the file says otherwise; `None` is off.
    pub listen: Option<SocketAddr>,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// One readable line each.
    Human,
    /// One JSON object each.
    Json,
}
