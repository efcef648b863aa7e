//! One listening address: pingora accepts, the gate guards, hyper reads and writes HTTP, the exchange does the work.
//!
//! 1. [`clients`]: how many connections may be open;
//! 2. [`secure`]: TLS at the listener;
//! 3. [`http1`]: the messages of one connection; [`visit`]: what they share;
//! 4. [`request`]: which site a request is for, and who answers it;
//! 5. [`intercept`]: TLS inside a CONNECT, and the requests in it.

mod clients;
mod http1;
mod intercept;
mod request;
mod secure;
mod visit;

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use pingora_core::apps::ServerApp;
use pingora_core::connectors::TransportConnector;
use pingora_core::listeners::{ListenerConfig, Listeners};
use pingora_core::protocols::Stream;
use pingora_core::protocols::l4::stream::L4BufferSettings;
use pingora_core::server::ShutdownWatch;
use pingora_core::services::ServiceWithDependents;
use pingora_core::services::listening::Service;

use self::clients::Clients;
use self::visit::Visit;
use crate::config::resolved::Side;
use crate::exchange::flow::Client;
use crate::metrics::SharedMetrics;
use crate::reload::Live;
use crate::state::State;

/// The requests of one address.
pub struct Edge {
    address: SocketAddr,
    side: Side,
    live: Arc<Live<State>>,
    metrics: SharedMetrics,
    connector: TransportConnector,
    clients: Clients,
}

/// The pingora service of one address.
#[must_use]
pub fn service(
    address: SocketAddr,
    side: Side,
    live: Arc<Live<State>>,
    metrics: SharedMetrics,
) -> Box<dyn ServiceWithDependents> {
    Box::new(edge(address, side, live, metrics))
}

/// The same, to be run by the caller.
#[must_use]
pub fn edge(address: SocketAddr, side: Side, live: Arc<Live<State>>, metrics: SharedMetrics) -> Service<Edge> {
    let mut listeners = Listeners::new();
    // The gate has its own buffer; pingora's would only be copied through and kept by every idle connection.
    listeners.add_listener(ListenerConfig::tcp(address.to_string()).l4_buffer(L4BufferSettings::unbuffered()));
    let edge =
        Edge { address, side, live, metrics, connector: TransportConnector::new(None), clients: Clients::default() };
    let name = match side {
        Side::Inbound => format!("inbound {address}"),
        Side::Outbound => format!("outbound {address}"),
    };
    Service::with_listeners(name, listeners, edge)
}

#[async_trait]
impl ServerApp for Edge {
    async fn process_new(self: &Arc<Self>, session: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let _open = self.metrics.connection(self.side);
        let client =
            session.get_socket_digest().and_then(|d| d.peer_addr().and_then(|a| a.as_inet().map(SocketAddr::ip)));
        let (limits, is_tls) = {
            let state = self.live.current();
            let (config, _) = state.listener(self.address, self.side)?;
            (config.limits, config.tls.is_some())
        };
        let Some(_place) = self.clients.admit(client, &limits) else {
            tracing::debug!(listener = %self.address, "connection over the limit closed");
            return None;
        };
        let client = Client::new(client);
        if is_tls {
            // Boxed, so that a plain connection needs no room for it.
            Box::pin(self.secure(session, client, limits, shutdown.clone())).await;
            return None;
        }
        let visit = Visit::new(client);
        self.serve(session, &visit, limits, shutdown.clone()).await;
        self.go_on::<Stream>(&visit, limits, shutdown.clone()).await;
        None
    }
}
