//! A relay in this process, on a thread and a port of its own.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use pingora_core::services::Service as _;
use relay::config::resolved::Side;
use relay::exchange::balance::Tending;
use relay::exchange::resolver::Resolver;
use relay::metrics::{Metrics, SharedMetrics};
use relay::reload::Live;
use relay::state::State;

/// A running relay.
pub struct Relay {
    pub address: SocketAddr,
    stop: tokio::sync::watch::Sender<bool>,
    pub metrics: SharedMetrics,
}

/// The rules file of one inbound site `a.test` without rules: `more` are further lines of the site, `backend` what stands behind `backend:`.
pub fn inbound(backend: &str, more: &str) -> String {
    ruled(backend, "unix:///nonexistent/e3.sock", more)
}

/// The same with an engine.
pub fn ruled(backend: &str, engine: &str, more: &str) -> String {
    let more: String = more.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "engine: {{endpoints: [\"{engine}\"], app: shop, timeout: 1s, development: true}}\ninbound:\n  - listen: LISTEN\n    hosts: [a.test]\n    backend: {backend}\n{more}"
    )
}

impl Relay {
    /// Behind it one backend, and no rules.
    pub fn before(backend: SocketAddr) -> Self {
        Self::start(&inbound(&format!("http://{backend}"), ""))
    }

    /// The same with further lines of the site.
    pub fn before_with(backend: SocketAddr, more: &str) -> Self {
        Self::start(&inbound(&format!("http://{backend}"), more))
    }

    /// `LISTEN` in the rules file is a free port.
    pub fn start(rules: &str) -> Self {
        Self::start_with(rules, Resolver::default())
    }

    /// The same, with what knows the addresses of hosts that clients ask for.
    pub fn start_with(rules: &str, resolver: Resolver) -> Self {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let rules = rules.replace("LISTEN", &address.to_string());
        let config = relay::config::check(Path::new("relay.yaml"), &rules).unwrap_or_else(|r| panic!("{r}\n{rules}"));
        let config = config.config;
        let side = if config.inbound.is_empty() { Side::Outbound } else { Side::Inbound };
        let metrics: SharedMetrics = Arc::new(Metrics::new().unwrap());
        let (stop, shutdown) = tokio::sync::watch::channel(false);
        let counted = Arc::clone(&metrics);
        std::thread::spawn(move || {
            // As pingora's workers: one thread, and nothing moves away from it.
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let live = Arc::new(Live::new(Arc::new(State::build_with(config, &counted, None, &resolver).unwrap())));
                let tended = Arc::clone(&live);
                tokio::spawn(async move {
                    let tending = Tending::default();
                    loop {
                        tending.round(tended.hold().balances()).await;
                        tokio::time::sleep(Duration::from_millis(20)).await;
                    }
                });
                let mut service = relay::listen::edge(address, side, live, counted);
                service.start_service(None, shutdown, 1).await;
                // What is still open may finish, as in a draining process.
                tokio::time::sleep(Duration::from_secs(60)).await;
            });
        });
        for _ in 0..1000 {
            if TcpStream::connect(address).is_ok() {
                return Self { address, stop, metrics };
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        panic!("the relay does not listen");
    }

    /// Begins to drain.
    pub fn drain(&self) {
        self.stop.send(true).unwrap();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
    }
}
