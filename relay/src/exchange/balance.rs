//! Which server of an upstream gets a request: pingora's balancing and health checks over names that are resolved off the request path.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use pingora_load_balancing::discovery::ServiceDiscovery;
use pingora_load_balancing::health_check::{HttpHealthCheck, TcpHealthCheck};
use pingora_load_balancing::selection::RoundRobin;
use pingora_load_balancing::{Backend, Backends, LoadBalancer};
use tokio::time::Instant;

use crate::config::resolved::{HealthCheck, Server, Upstream};

/// Time between two look-ups of the servers' names.
const RESOLVE_EVERY: Duration = Duration::from_secs(10);

/// Most servers that are looked at for a healthy one.
const TRIES: usize = 16;

/// The servers of one upstream.
pub struct Balance {
    kind: Kind,
    /// When [`Balance::tend`] has something to do again.
    due: Mutex<Due>,
    health: Option<HealthCheck>,
}

enum Kind {
    /// One address and no health check: nothing to balance.
    Single(SocketAddr),
    Several(LoadBalancer<RoundRobin>),
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
        }
    }
}

impl Balance {
    /// Resolves the servers' names for the first time; this may block, so it is done while the rules load. A name that does not
    /// resolve is tried again by [`Balance::tend`].
    #[must_use]
    pub fn new(upstream: &Upstream) -> Self {
        let health = upstream.health.clone();
        let literals: Vec<_> = upstream.servers.iter().filter_map(literal).collect();
        let due = Mutex::new(Due { resolve: None, check: None });
        if let ([server], [address], None) = (&upstream.servers[..], &literals[..], &health)
            && literal(server).is_some()
        {
            return Self { kind: Kind::Single(*address), due, health };
        }
        let names = Names { servers: upstream.servers.clone(), last: Mutex::default() };
        names.resolve_now();
        let mut backends = Backends::new(Box::new(names));
        if let Some(check) = &health {
            backends.set_health_check(checker(check));
        }
        let balancer = LoadBalancer::from_backends(backends);
        Self { kind: Kind::Several(balancer), due, health }
    }

    /// A server for a request, in turn, healthy ones only.
    #[must_use]
    pub fn select(&self) -> Option<SocketAddr> {
        match &self.kind {
            Kind::Single(server) => Some(*server),
            Kind::Several(balancer) => balancer.select(b"", TRIES).and_then(|b| b.addr.as_inet().copied()),
        }
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

fn literal(server: &Server) -> Option<SocketAddr> {
    let host = server.host.trim_start_matches('[').trim_end_matches(']');
    Some(SocketAddr::new(host.parse().ok()?, server.port))
}

fn checker(check: &HealthCheck) -> Box<dyn pingora_load_balancing::health_check::HealthCheck + Send + Sync> {
    match &check.path {
        None => {
            let mut tcp = TcpHealthCheck::new();
            tcp.consecutive_success = check.healthy;
            tcp.consecutive_failure = check.unhealthy;
            tcp.peer_template.options.connection_timeout = Some(check.timeout);
            tcp
        }
        Some(path) => {
            let mut http = HttpHealthCheck::new("health-check", false);
            http.consecutive_success = check.healthy;
            http.consecutive_failure = check.unhealthy;
            http.peer_template.options.connection_timeout = Some(check.timeout);
            http.peer_template.options.read_timeout = Some(check.timeout);
            if let Ok(uri) = path.parse() {
                http.req.set_uri(uri);
            }
            Box::new(http)
        }
    }
}

/// Names that are looked up again and again; the last good answer of each stays in force.
struct Names {
    servers: Vec<Server>,
    last: Mutex<HashMap<usize, Vec<SocketAddr>>>,
}

impl Names {
    fn resolve_now(&self) {
        use std::net::ToSocketAddrs;
        for (at, server) in self.servers.iter().enumerate() {
            let found = literal(server)
                .map(|a| vec![a])
                .or_else(|| (&*server.host, server.port).to_socket_addrs().ok().map(Iterator::collect));
            if let Some(found) = found {
                self.last.lock().unwrap_or_else(PoisonError::into_inner).insert(at, found);
            }
        }
    }
}

#[async_trait]
impl ServiceDiscovery for Names {
    async fn discover(&self) -> pingora_core::Result<(BTreeSet<Backend>, HashMap<u64, bool>)> {
        for (at, server) in self.servers.iter().enumerate() {
            if literal(server).is_none()
                && let Ok(found) = tokio::net::lookup_host((&*server.host, server.port)).await
            {
                self.last.lock().unwrap_or_else(PoisonError::into_inner).insert(at, found.collect());
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
