//! One listening address: pingora accepts, the gate guards, hyper reads and writes HTTP/1, the exchange does the work.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use async_trait::async_trait;
use http::{Method, Request, Response, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use pingora_core::apps::ServerApp;
use pingora_core::connectors::TransportConnector;
use pingora_core::listeners::{ListenerConfig, Listeners};
use pingora_core::protocols::Stream;
use pingora_core::protocols::l4::stream::L4BufferSettings;
use pingora_core::server::ShutdownWatch;
use pingora_core::services::ServiceWithDependents;
use pingora_core::services::listening::Service;
use pingora_limits::inflight::{Guard, Inflight};
use tokio::time::{Instant, sleep_until};

use crate::admit::{Gate, GateHandle};
use crate::answer;
use crate::config::resolved::{ConnectionLimits, Side};
use crate::error::Failure;
use crate::exchange::flow::{Exchange, Shared};
use crate::exchange::headers::request_id;
use crate::exchange::pool;
use crate::exchange::stream::{Done, DownBody};
use crate::log::Message;
use crate::metrics::{NONE, SharedMetrics};
use crate::reload::Live;
use crate::state::State;
use crate::{inbound, outbound};

/// Time between two looks at idle upstream connections of a worker thread.
const SWEEP: Duration = Duration::from_secs(5);

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
    let mut listeners = Listeners::new();
    // The gate has its own buffer; pingora's would only be copied through and kept by every idle connection.
    listeners.add_listener(ListenerConfig::tcp(address.to_string()).l4_buffer(L4BufferSettings::unbuffered()));
    let edge =
        Edge { address, side, live, metrics, connector: TransportConnector::new(None), clients: Clients::default() };
    let name = match side {
        Side::Inbound => format!("inbound {address}"),
        Side::Outbound => format!("outbound {address}"),
    };
    Box::new(Service::with_listeners(name, listeners, edge))
}

#[async_trait]
impl ServerApp for Edge {
    async fn process_new(self: &Arc<Self>, session: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let _open = self.metrics.connection(self.side);
        let client =
            session.get_socket_digest().and_then(|d| d.peer_addr().and_then(|a| a.as_inet().map(SocketAddr::ip)));
        let limits = self.live.current().listener(self.address, self.side).map(|(config, _)| config.limits)?;
        let Some(_place) = self.clients.admit(client, &limits) else {
            tracing::debug!(listener = %self.address, "connection over the limit closed");
            return None;
        };
        self.serve(session, client, limits, shutdown.clone()).await;
        None
    }
}

impl Edge {
    async fn serve(
        self: &Arc<Self>,
        stream: Stream,
        client: Option<IpAddr>,
        limits: ConnectionLimits,
        mut shutdown: ShutdownWatch,
    ) {
        keep_pool_swept();
        let (gate, handle) = Gate::new(stream, limits);
        let service = {
            let handle = handle.clone();
            let edge = Arc::clone(self);
            service_fn(move |request| {
                let (edge, handle) = (Arc::clone(&edge), handle.clone());
                // Boxed, so that an idle connection holds no room for a request's state.
                async move { Ok::<_, Infallible>(Box::pin(edge.answer(request, client, handle)).await) }
            })
        };
        let connection = http1::Builder::new()
            .max_headers(limits.head_fields)
            .max_buf_size(limits.head_bytes.max(64 * 1024))
            .auto_date_header(false)
            .serve_connection(gate, service)
            .with_upgrades();
        let mut connection = pin!(connection);
        let mut leaving = pin!(async move {
            // Ends when the process starts to drain; a closed channel is a process that is ending.
            let _ = shutdown.changed().await;
        });
        let mut left = false;
        let mut over = false;
        let mut timer = pin!(sleep_until(handle.deadline().unwrap_or_else(Instant::now)));
        poll_fn(|cx| {
            loop {
                if connection.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                if !left && leaving.as_mut().poll(cx).is_ready() {
                    left = true;
                    connection.as_mut().graceful_shutdown();
                    continue;
                }
                if let Some(fault) = handle.unanswered() {
                    over = true;
                    self.refused(&handle, &Failure::Framing(fault));
                    // Whoever does not read the answer has a while, and no more.
                    handle.give_up(Instant::now() + limits.head_time.min(Duration::from_secs(5)));
                    continue;
                }
                if timer.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
                // The timer was set for some deadline; what counts is the one that holds now.
                match handle.deadline() {
                    Some(deadline) if deadline <= Instant::now() => {
                        if over {
                            return Poll::Ready(());
                        }
                        over = true;
                        if handle.in_head() {
                            self.refused(&handle, &Failure::RequestTimeout);
                        }
                        // Writes the farewell, if there is one, and closes; a peer that does not read has the same time again.
                        connection.as_mut().graceful_shutdown();
                        handle.give_up(Instant::now() + limits.head_time.min(Duration::from_secs(5)));
                        timer.as_mut().reset(handle.deadline().unwrap_or_else(Instant::now));
                    }
                    Some(deadline) => timer.as_mut().reset(deadline),
                    None => timer.as_mut().reset(Instant::now() + limits.idle_time.min(limits.head_time)),
                }
            }
        })
        .await;
    }

    /// Answers for the codec, which never saw the request.
    fn refused(&self, handle: &GateHandle, failure: &Failure) {
        let Some(cause) = answer::cause_of(failure) else { return };
        if let Some(farewell) = answer::farewell(failure) {
            handle.say_farewell(farewell);
        }
        Message { request_id: NONE, site: NONE, rule: None, status: cause.status.as_u16() }.failed(cause.code, failure);
        if let Some((_, state)) = self.live.current().listener(self.address, self.side) {
            state.no_site.answered(None, cause.code, cause.status, Duration::ZERO);
        }
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        client: Option<IpAddr>,
        gate: GateHandle,
    ) -> Response<DownBody> {
        let started = Instant::now();
        let id = request_id(request.headers());
        let state = self.live.hold();
        let failure = match self.site(&state, &request) {
            Ok((site, target)) => {
                let shared = Shared {
                    connector: &self.connector,
                    engine: &state.engine,
                    roles: &state.roles,
                    edge: self.side,
                    client,
                    gate: &gate,
                };
                return Exchange::new(shared, &site, target.as_deref(), id).run(request).await;
            }
            Err(failure) => failure,
        };
        if request.method() == Method::CONNECT {
            gate.decide_upgrade(false);
        }
        let Some(cause) = answer::cause_of(&failure) else {
            return Response::new(DownBody::whole(bytes::Bytes::new(), Done::new(gate)));
        };
        let text = id.to_str().unwrap_or_default();
        Message { request_id: text, site: NONE, rule: None, status: cause.status.as_u16() }
            .failed(cause.code, &failure);
        if let Some((_, listener)) = state.listener(self.address, self.side) {
            listener.no_site.answered(None, cause.code, cause.status, started.elapsed());
        }
        let mut response = answer::problem(cause, &failure, text, None);
        response.headers_mut().insert("x-request-id", id);
        response.map(|body| DownBody::whole(body, Done::new(gate)))
    }

    #[allow(clippy::type_complexity, reason = "a site, and a target where the relay took a part of it")]
    fn site(
        &self,
        state: &State,
        request: &Request<Incoming>,
    ) -> Result<(Arc<crate::state::SiteState>, Option<Box<str>>), Failure> {
        if request.method() == Method::CONNECT {
            return Err(Failure::Tunnel);
        }
        let (config, listener) = state.listener(self.address, self.side).ok_or(Failure::UnknownHost)?;
        let host = request.headers().get(header::HOST).and_then(|h| h.to_str().ok()).ok_or(Failure::UnknownHost)?;
        match self.side {
            Side::Inbound => inbound::site(config, listener, host).map(|site| (site, None)),
            Side::Outbound => outbound::destination(config, listener, host, request.uri()).map(|d| (d.site, d.target)),
        }
    }
}

/// Starts the sweep of this worker thread's pool with its first connection.
fn keep_pool_swept() {
    thread_local!(static SWEPT: Cell<bool> = const { Cell::new(false) });
    if !SWEPT.replace(true) {
        tokio::spawn(async {
            loop {
                tokio::time::sleep(SWEEP).await;
                pool::sweep();
            }
        });
    }
}

/// Connections by client, for the limits: pingora's estimator, which never counts too few.
struct Clients {
    by_client: Inflight,
    all: Inflight,
}

impl Default for Clients {
    fn default() -> Self {
        Self { by_client: Inflight::new(), all: Inflight::new() }
    }
}

impl Clients {
    /// A place for one connection, given back when dropped; `None` over a limit.
    fn admit(&self, client: Option<IpAddr>, limits: &ConnectionLimits) -> Option<[Guard; 2]> {
        let (all, open) = self.all.incr("", 1);
        let (own, open_of_client) = self.by_client.incr(client, 1);
        let fits = |n: isize, most: usize| usize::try_from(n).is_ok_and(|n| n <= most);
        (fits(open, limits.connections) && fits(open_of_client, limits.connections_per_client)).then_some([all, own])
    }
}
