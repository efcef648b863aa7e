//! Which server of an upstream gets a request: pingora's balancing and health checks over names that are resolved off the request path.

use std::collections::{BTreeSet, HashMap};
use std::future::Future;
use std::net::{SocketAddr, ToSocketAddrs};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use async_trait::async_trait;
use http::{HeaderValue, Request, header};
use pingora_core::connectors::TransportConnector;
use pingora_load_balancing::discovery::ServiceDiscovery;
use pingora_load_balancing::health_check::HealthCheck as HealthCheckOfServers;
use pingora_load_balancing::selection::RoundRobin;
use pingora_load_balancing::{Backend, Backends, LoadBalancer};
use tokio::time::Instant;

use super::pool::PoolKey;
use super::resolver::{LookUpError, Resolver};
use super::stream::UpBody;
use super::up::{self, Target};
use crate::admit::proxy_protocol::Version;
use crate::config::resolved::{HealthCheck, Server, Upstream, UpstreamTls};
use crate::error::{Failure, Side};
use crate::outbound::egress::Egress;

/// Time between two look-ups of the servers' names.
const RESOLVE_EVERY: Duration = Duration::from_secs(10);

/// How long the addresses of a host that a client asked for are believed.
const ASKED_KNOWN: Duration = Duration::from_secs(2);

/// Most servers that are looked at for a healthy one.
const TRIES: usize = 16;

/// The servers of one upstream.
pub struct Balance {
    kind: Kind,
    /// When [`Balance::tend`] has something to do again.
    due: Mutex<Due>,
    health: Option<HealthCheck>,
    servers: Vec<Server>,
    tls: Option<UpstreamTls>,
    /// What the servers' connections are, the bytes of the certificates' files included; checks dial as requests do.
    key: PoolKey,
    http2: bool,
    egress: Option<Egress>,
    proxy_protocol: Option<Version>,
    /// Whether some address was refused.
    refused: Arc<AtomicBool>,
    host: Box<str>,
}

enum Kind {
    /// One address and no health check: nothing to balance.
    Single(SocketAddr),
    Several(LoadBalancer<RoundRobin>),
    /// A host that a client asked for.
    Asked(Box<Asked>),
}

/// One host that a client asked for, looked up when a request wants it.
struct Asked {
    port: u16,
    resolver: Resolver,
    found: Mutex<Found>,
    turn: AtomicUsize,
}

/// The addresses that may be dialled, as they were looked up and checked.
#[derive(Default)]
struct Found {
    until: Option<Instant>,
    addresses: Vec<SocketAddr>,
}

#[derive(Debug, Clone, Copy)]
struct Due {
    resolve: Option<Instant>,
    check: Option<Instant>,
}

impl std::fmt::Debug for Balance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.kind {
            Kind::Single(server) => write!(f, "Balance({server})"),
            Kind::Several(_) => f.write_str("Balance(several)"),
            Kind::Asked(asked) => write!(f, "Balance({}:{})", self.host, asked.port),
        }
    }
}

impl Balance {
    /// Resolves the servers' names for the first time; this may block, so it is done while the rules load. A name that does not
    /// resolve is tried again by [`Balance::tend`]. `host` is what a check asks for.
    #[must_use]
    pub fn new(upstream: &Upstream, target: &Target, host: &str) -> Self {
        let health = upstream.health.clone();
        let due = Mutex::new(Due { resolve: None, check: None });
        let (servers, tls, egress) = (upstream.servers.clone(), upstream.tls.clone(), upstream.egress.clone());
        let refused = Arc::new(AtomicBool::new(false));
        let names = Names {
            servers: servers.clone(),
            egress: egress.clone(),
            last: Mutex::default(),
            looked_up: AtomicBool::new(true),
            refused: Arc::clone(&refused),
        };
        let proxy_protocol = upstream.proxy_protocol;
        let of = |kind| Self {
            kind,
            due,
            health: health.clone(),
            servers,
            tls,
            key: target.key,
            http2: target.http2,
            egress,
            proxy_protocol,
            refused,
            host: host.into(),
        };
        if let ([server], None) = (&upstream.servers[..], &health)
            && let Some(address) = literal(server)
            && names.allowed([address]).len() == 1
        {
            return of(Kind::Single(address));
        }
        names.look_up();
        let mut backends = Backends::new(Box::new(names));
        if let Some(check) = &health {
            backends.set_health_check(Box::new(Probe::new(check.clone(), target.clone(), host)));
        }
        let balancer = LoadBalancer::from_backends(backends);
        // The first discovery answers at once with what was resolved just now, so this one turn is all it takes.
        let _ = pin!(balancer.update()).poll(&mut Context::from_waker(Waker::noop()));
        of(Kind::Several(balancer))
    }

    /// The servers of one host that a client asked for. They are known once [`Balance::look_up`] was through.
    #[must_use]
    pub fn asked(upstream: &Upstream, host: &str, port: u16, resolver: &Resolver) -> Self {
        let asked = Asked { port, resolver: resolver.clone(), found: Mutex::default(), turn: AtomicUsize::new(0) };
        Self {
            kind: Kind::Asked(Box::new(asked)),
            due: Mutex::new(Due { resolve: None, check: None }),
            health: None,
            servers: Vec::new(),
            tls: None,
            key: PoolKey::fresh(),
            http2: upstream.http2,
            egress: upstream.egress.clone(),
            proxy_protocol: None,
            refused: Arc::default(),
            host: host.into(),
        }
    }

    /// Whether [`Balance::look_up`] has something to do.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        let Kind::Asked(asked) = &self.kind else { return false };
        asked.found().until.is_none_or(|until| until <= Instant::now())
    }

    /// Looks a host up that a client asked for, and keeps what may be dialled of it. Without an answer, what was known stays. The caller bounds the time.
    ///
    /// # Errors
    /// Too many look-ups wait for their turn, and nothing was known.
    pub async fn look_up(&self) -> Result<(), Failure> {
        let Kind::Asked(asked) = &self.kind else { return Ok(()) };
        let found = match asked.resolver.look_up(&self.host, asked.port).await {
            Ok(found) => found,
            Err(LookUpError::Full) if asked.found().addresses.is_empty() => {
                return Err(Failure::Overloaded(Side::Request));
            }
            Err(LookUpError::Full | LookUpError::None) => return Ok(()),
        };
        // Without the guard nothing that a client asks for is dialled.
        let allowed = |address: &SocketAddr| self.egress.as_ref().is_some_and(|e| e.check(address.ip()).is_ok());
        let addresses: Vec<_> = found.iter().copied().filter(allowed).collect();
        self.refused.store(addresses.len() < found.len(), Ordering::Relaxed);
        *asked.found() = Found { until: Some(Instant::now() + ASKED_KNOWN), addresses };
        Ok(())
    }

    /// Whether this is what [`Balance::new`] would make, so that a reload can keep what is known about the servers' health.
    #[must_use]
    pub fn fits(&self, upstream: &Upstream, target: &Target, host: &str) -> bool {
        self.servers == upstream.servers
            && self.tls == upstream.tls
            && self.key == target.key
            && self.http2 == target.http2
            && self.egress == upstream.egress
            && self.health == upstream.health
            && self.proxy_protocol == upstream.proxy_protocol
            && &*self.host == host
    }

    /// A server for a request, in turn, healthy ones only.
    #[must_use]
    pub fn select(&self) -> Option<SocketAddr> {
        match &self.kind {
            Kind::Single(server) => Some(*server),
            Kind::Several(balancer) => balancer.select(b"", TRIES).and_then(|b| b.addr.as_inet().copied()),
            Kind::Asked(asked) => {
                let found = asked.found();
                let turn = asked.turn.fetch_add(1, Ordering::Relaxed);
                found.addresses.get(turn.checked_rem(found.addresses.len())?).copied()
            }
        }
    }

    /// Why there is no server.
    #[must_use]
    pub fn why_none(&self) -> Failure {
        if self.refused.load(Ordering::Relaxed) { Failure::Egress } else { Failure::UpstreamConnect }
    }

    /// Resolves names and checks health where that is due.
    pub async fn tend(&self) {
        let Kind::Several(balancer) = &self.kind else { return };
        let now = Instant::now();
        let (resolve, check) = {
            let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
            let resolve = due.resolve.is_none_or(|at| at <= now);
            let check = self.health.as_ref().filter(|_| due.check.is_none_or(|at| at <= now));
            if resolve {
                due.resolve = Some(now + RESOLVE_EVERY);
            }
            if let Some(check) = check {
                due.check = Some(now + check.interval);
            }
            (resolve, check.is_some())
        };
        if resolve && balancer.update().await.is_err() {
            tracing::warn!("an upstream's servers cannot be resolved");
        }
        if check {
            balancer.backends().run_health_check(true).await;
        }
    }
}

impl Asked {
    fn found(&self) -> MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn literal(server: &Server) -> Option<SocketAddr> {
    let host = server.host.trim_start_matches('[').trim_end_matches(']');
    Some(SocketAddr::new(host.parse().ok()?, server.port))
}

/// One look at a server: a connection, verified where the site wants TLS, and where a path is given a GET that must answer 2xx.
struct Probe {
    check: HealthCheck,
    target: Target,
    host: Option<HeaderValue>,
    connector: TransportConnector,
}

impl Probe {
    fn new(check: HealthCheck, target: Target, host: &str) -> Self {
        Self { check, target, host: HeaderValue::from_str(host).ok(), connector: TransportConnector::new(None) }
    }

    async fn look(&self, server: SocketAddr) -> Option<()> {
        let connection = up::dial(&self.connector, &self.target, server, None, false, None).await.ok()?;
        let Some(path) = &self.check.path else { return Some(()) };
        let mut request = Request::get(&**path).body(UpBody::Empty).ok()?;
        request.headers_mut().insert(header::HOST, self.host.clone()?);
        up::ask(connection, request, self.target.tls.is_some()).await?.is_success().then_some(())
    }
}

#[async_trait]
impl HealthCheckOfServers for Probe {
    async fn check(&self, server: &Backend) -> pingora_core::Result<()> {
        let well = match server.addr.as_inet() {
            Some(server) => tokio::time::timeout(self.check.timeout, self.look(*server)).await.ok().flatten(),
            None => None,
        };
        well.ok_or_else(|| pingora_core::Error::new(pingora_core::ErrorType::ConnectError))
    }

    async fn health_status_change(&self, server: &Backend, healthy: bool) {
        let host = self.host.as_ref().and_then(|h| h.to_str().ok()).unwrap_or_default();
        if healthy {
            tracing::info!(host, server = %server.addr, "server healthy");
        } else {
            tracing::warn!(host, server = %server.addr, "server unhealthy");
        }
    }

    fn health_threshold(&self, success: bool) -> usize {
        if success { self.check.healthy } else { self.check.unhealthy }
    }
}

/// Names that are looked up again and again; the last good answer of each stays in force. What may not be reached is no answer, so only addresses that were
/// checked are ever dialled.
struct Names {
    servers: Vec<Server>,
    egress: Option<Egress>,
    last: Mutex<HashMap<usize, Vec<SocketAddr>>>,
    looked_up: AtomicBool,
    refused: Arc<AtomicBool>,
}

impl Names {
    /// Looks every name up, blocking.
    fn look_up(&self) {
        for (at, server) in self.servers.iter().enumerate() {
            let blocking = || (&*server.host, server.port).to_socket_addrs().ok().map(Iterator::collect);
            if let Some(found) = literal(server).map(|a| vec![a]).or_else(blocking) {
                self.learn(at, found);
            }
        }
    }

    fn learn(&self, at: usize, found: Vec<SocketAddr>) {
        let allowed = self.allowed(found);
        self.last.lock().unwrap_or_else(PoisonError::into_inner).insert(at, allowed);
    }

    /// The addresses that may be dialled.
    fn allowed(&self, found: impl IntoIterator<Item = SocketAddr>) -> Vec<SocketAddr> {
        let mut found: Vec<SocketAddr> = found.into_iter().collect();
        let Some(egress) = &self.egress else { return found };
        found.retain(|address| match egress.check(address.ip()) {
            Ok(()) => true,
            Err(reason) => {
                // Told once: the names are looked up again and again.
                if !self.refused.swap(true, Ordering::Relaxed) {
                    tracing::warn!(%address, %reason, "an upstream's address is refused: list its network if it is meant");
                }
                false
            }
        });
        found
    }
}

#[async_trait]
impl ServiceDiscovery for Names {
    async fn discover(&self) -> pingora_core::Result<(BTreeSet<Backend>, HashMap<u64, bool>)> {
        if !self.looked_up.swap(false, Ordering::Relaxed) {
            for (at, server) in self.servers.iter().enumerate() {
                if literal(server).is_none()
                    && let Ok(found) = tokio::net::lookup_host((&*server.host, server.port)).await
                {
                    self.learn(at, found.collect());
                }
            }
        }
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let backends = last.values().flatten().filter_map(|a| Backend::new(&a.to_string()).ok()).collect();
        Ok((backends, HashMap::new()))
    }
}

/// Spreads the work of many upstreams over time.
#[derive(Debug, Default)]
pub struct Tending(AtomicUsize);

impl Tending {
    /// Tends every upstream that is due, one after the other.
    pub async fn round(&self, upstreams: impl IntoIterator<Item = Arc<Balance>>) {
        for upstream in upstreams {
            self.0.fetch_add(1, Ordering::Relaxed);
            upstream.tend().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbound::egress::Network;

    fn upstream(host: &str, egress: Egress) -> Upstream {
        Upstream {
            servers: vec![Server { host: host.into(), port: 9 }],
            tls: None,
            host: None,
            base_path: "".into(),
            egress: Some(egress),
            health: None,
            http2: false,
            proxy_protocol: None,
            pool_idle: 0,
            pool_idle_timeout: Duration::ZERO,
        }
    }

    fn target() -> Target {
        Target {
            key: PoolKey::intern("a", None, || [0; 32]),
            tls: None,
            http2: false,
            proxy_protocol: None,
            idle_max: 0,
            idle_time: Duration::ZERO,
        }
    }

    fn balance(host: &str, egress: Egress) -> Balance {
        Balance::new(&upstream(host, egress), &target(), host)
    }

    #[test]
    fn what_is_known_of_servers_is_kept_for_the_same_connections_alone() {
        let mut upstream = upstream("127.0.0.1", Egress::default());
        upstream.health = Some(HealthCheck {
            path: None,
            interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            unhealthy: 1,
            healthy: 1,
        });
        let known = Balance::new(&upstream, &target(), "a");
        assert!(known.fits(&upstream, &target(), "a"));
        // Another protocol, or authorities or a client certificate whose bytes are others: checks would go on with the old ones.
        assert!(!known.fits(&upstream, &Target { http2: true, ..target() }, "a"));
        assert!(!known.fits(&upstream, &Target { key: PoolKey::fresh(), ..target() }, "a"));
        assert!(!known.fits(&upstream, &target(), "b"));
        let tls = UpstreamTls { server_name: "a".into(), ca: None, identity: None, only_tls13: false, http2: false };
        let key = |system| PoolKey::intern("a", Some(&tls), || system);
        assert_eq!(key([1; 32]), key([1; 32]));
        assert_ne!(key([1; 32]), key([2; 32]), "the system's authorities have changed");
    }

    #[test]
    fn a_name_that_resolves_to_an_address_of_ours_has_no_server() {
        for host in ["localhost", "127.0.0.1", "169.254.169.254"] {
            let balance = balance(host, Egress::default());
            assert_eq!((balance.select(), balance.why_none()), (None, Failure::Egress), "{host}");
        }
        let listed = ["127.0.0.0/8", "::1"].map(|network| network.parse::<Network>().unwrap());
        let server = balance("localhost", Egress::new(listed.to_vec())).select().unwrap();
        assert!(server.ip().is_loopback());
    }
}
