//! One listening address: pingora accepts, the gate guards, hyper reads and writes HTTP, the exchange does the work.
//!
//! 1. [`clients`]: how many connections may be open, in all and of a client, which a balancer may have to name first;
//! 2. [`secure`]: TLS at the listener;
//! 3. [`http1`], [`http2`]: the messages of one connection; [`visit`]: what they share;
//! 4. [`request`]: which site a request is for, and who answers it;
//! 5. [`intercept`]: TLS inside a CONNECT, and the requests in it.

mod clients;
mod http1;
mod http2;
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
use crate::admit::proxy_protocol::{self, Ends, Header};
use crate::config::resolved::Side;
use crate::deadline::{Deadline, Moment};
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
        Side::Api => format!("api {address}"),
    };
    Service::with_listeners(name, listeners, edge)
}

#[async_trait]
impl ServerApp for Edge {
    async fn process_new(self: &Arc<Self>, mut session: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let _open = self.metrics.connection(self.side);
        let mut ends = ends(&session);
        let (limits, is_tls, is_balanced) = {
            let state = self.live.current();
            let (config, _) = state.listener(self.address, self.side)?;
            let from = ends.map(|ends| ends.source.ip());
            let is_balanced = from.is_some_and(|from| config.proxy_protocol.iter().any(|network| network.has(from)));
            (config.limits, config.tls.is_some(), is_balanced)
        };
        let over = || tracing::debug!(listener = %self.address, "connection over the limit closed");
        let Some(_place) = self.clients.admit(&limits) else {
            over();
            return None;
        };
        let mut first_head = None;
        if is_balanced {
            let by = Moment::after(limits.head_time);
            first_head = Some(by);
            // Boxed, as below.
            match Box::pin(self.passed(&mut session, by)).await? {
                Header::Passed(passed) => ends = Some(passed),
                Header::Local => {}
            }
        }
        let client = Client::new(ends);
        let Some(_place_of_client) = self.clients.admit_one_of(client.address(), &limits) else {
            over();
            return None;
        };
        if is_tls {
            // Boxed, so that a plain connection needs no room for it.
            Box::pin(self.secure(session, client, first_head, limits, shutdown.clone())).await;
            return None;
        }
        if limits.h2c {
            Box::pin(self.plain(session, client, first_head, limits, shutdown.clone())).await;
            return None;
        }
        let visit = Visit::new(client, first_head);
        self.serve(session, &visit, limits, shutdown.clone()).await;
        self.go_on::<Stream>(&visit, limits, shutdown.clone()).await;
        None
    }
}

impl Edge {
    /// What a balancer says of the connection; `None` where it does not say it in time and beyond doubt.
    async fn passed(&self, stream: &mut Stream, by: Moment) -> Option<Header> {
        let deadline = Deadline::of_this_task().await;
        deadline.set_at(by);
        let heard = deadline.bound(proxy_protocol::receive(stream)).await;
        match heard {
            Some(Ok(header)) => return Some(header),
            Some(Err(fault)) => tracing::debug!(listener = %self.address, %fault, "connection of a balancer closed"),
            None => tracing::debug!(listener = %self.address, "no PROXY header in time"),
        }
        None
    }
}

/// The ends of a connection as its socket has them.
fn ends(stream: &Stream) -> Option<Ends> {
    let digest = stream.get_socket_digest()?;
    let source = digest.peer_addr()?.as_inet()?;
    let destination = digest.local_addr().and_then(|address| address.as_inet());
    Some(Ends::new(*source, *destination.unwrap_or(source)))
}
