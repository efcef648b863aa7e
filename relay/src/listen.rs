//! One listening address: pingora accepts, the gate guards, hyper reads and writes HTTP/1, the exchange does the work.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use http::{HeaderValue, Method, Request, Response, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use pingora_core::apps::ServerApp;
use pingora_core::connectors::TransportConnector;
use pingora_core::listeners::{ListenerConfig, Listeners};
use pingora_core::protocols::Stream;
use pingora_core::protocols::l4::stream::L4BufferSettings;
use pingora_core::server::ShutdownWatch;
use pingora_core::services::ServiceWithDependents;
use pingora_core::services::listening::Service;
use pingora_limits::inflight::{Guard, Inflight};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

use crate::admit::{Conversation, Gate};
use crate::answer;
use crate::config::resolved::{Connect, ConnectionLimits, Side};
use crate::deadline::Deadline;
use crate::error::Failure;
use crate::exchange::flow::{Client, Exchange, Shared};
use crate::exchange::headers::request_id;
use crate::exchange::pool;
use crate::exchange::stream::{Done, DownBody};
use crate::log::Message;
use crate::metrics::{NONE, SharedMetrics};
use crate::outbound::connect::{self, Intercepted, Target};
use crate::outbound::keys::Proof;
use crate::reload::Live;
use crate::state::State;
use crate::{inbound, outbound, wellknown};

/// Time between two looks at idle upstream connections of a worker thread.
const SWEEP: Duration = Duration::from_secs(5);

/// How long a client may take to read an answer of the relay's own.
const REFUSAL: Duration = Duration::from_secs(30);

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
        let limits = self.live.current().listener(self.address, self.side).map(|(config, _)| config.limits)?;
        let Some(_place) = self.clients.admit(client, &limits) else {
            tracing::debug!(listener = %self.address, "connection over the limit closed");
            return None;
        };
        let visit = Visit::new(Client::new(client));
        self.serve(session, &visit, limits, shutdown.clone()).await;
        if let Some(intercepted) = visit.intercepted() {
            // Boxed: few connections come this far, and the others need no room for it.
            Box::pin(self.intercept(intercepted, visit.client.clone(), limits, shutdown.clone())).await;
        }
        None
    }
}

/// What the requests of one connection share.
struct Visit {
    client: Client,
    /// For what CONNECT asked, on the connection inside it.
    through: Option<Through>,
    /// Set by a CONNECT whose TLS ends here.
    intercepted: Mutex<Option<Intercepted>>,
}

/// The connection inside a CONNECT.
struct Through {
    target: Target,
    /// The TLS client asked for another name.
    misdirected: bool,
    /// Whether a key was brought, in CONNECT or by a request since.
    authenticated: AtomicBool,
}

impl Visit {
    fn new(client: Client) -> Arc<Self> {
        Arc::new(Self { client, through: None, intercepted: Mutex::default() })
    }

    fn intercepted(&self) -> Option<Intercepted> {
        self.intercepted.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Edge {
    /// Ends TLS on a connection whose CONNECT was answered, and serves the requests that come through.
    async fn intercept(
        self: &Arc<Self>,
        intercepted: Intercepted,
        client: Client,
        limits: ConnectionLimits,
        shutdown: ShutdownWatch,
    ) {
        let Intercepted { target, authenticated, upgrade } = intercepted;
        let config = {
            let state = self.live.hold();
            let Some(authority) = &state.config.ca else { return };
            match authority.server(&target.host) {
                Ok(config) => config,
                Err(error) => {
                    tracing::warn!(host = %target.host, %error, "no certificate for an intercepted host");
                    return;
                }
            }
        };
        let deadline = Deadline::new();
        poll_fn(|cx| {
            deadline.wake(cx);
            Poll::Ready(())
        })
        .await;
        deadline.set(limits.head_time);
        let accepted = deadline.bound(async {
            let stream = Intercepted::stream::<Stream>(upgrade).await?;
            TlsAcceptor::from(config).accept(stream).await
        });
        let stream = match accepted.await {
            Some(Ok(stream)) => stream,
            Some(Err(error)) => {
                tracing::debug!(host = %target.host, %error, "TLS inside CONNECT");
                return;
            }
            None => return,
        };
        let misdirected = !target.is_server_name(stream.get_ref().1.server_name());
        let through = Through { target, misdirected, authenticated: AtomicBool::new(authenticated) };
        let visit = Arc::new(Visit { client, through: Some(through), intercepted: Mutex::default() });
        self.serve(stream, &visit, limits, shutdown).await;
    }

    async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        self: &Arc<Self>,
        stream: S,
        visit: &Arc<Visit>,
        limits: ConnectionLimits,
        mut shutdown: ShutdownWatch,
    ) {
        keep_pool_swept();
        let conversation = Conversation::new(limits);
        let service = {
            let conversation = Arc::clone(&conversation);
            let (edge, visit) = (Arc::clone(self), Arc::clone(visit));
            service_fn(move |request| {
                let (edge, visit, conversation) = (Arc::clone(&edge), Arc::clone(&visit), Arc::clone(&conversation));
                // Boxed, so that an idle connection holds no room for a request's state.
                async move { Ok::<_, Infallible>(Box::pin(edge.answer(request, visit, conversation)).await) }
            })
        };
        let connection = http1::Builder::new()
            .max_headers(limits.head_fields)
            .max_buf_size(limits.head_bytes.max(64 * 1024))
            .auto_date_header(false)
            .serve_connection(TokioIo::new(Gate::new(stream, Arc::clone(&conversation))), service)
            .with_upgrades();
        let mut connection = pin!(connection);
        let mut leaving = pin!(async move {
            // Ends when the process starts to drain; a closed channel is a process that is ending.
            let _ = shutdown.changed().await;
        });
        let mut left = false;
        poll_fn(|cx| {
            conversation.deadline.wake(cx);
            loop {
                if connection.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                if !left && leaving.as_mut().poll(cx).is_ready() {
                    left = true;
                    connection.as_mut().graceful_shutdown();
                    continue;
                }
                if !conversation.deadline.is_due() {
                    return Poll::Pending;
                }
                // Whoever works on a message has just had a turn to answer that it is late, so here is a peer that does not read. Without a
                // message, the connection was idle for long enough, or a head did not come in time, which is answered.
                if !conversation.is_idle() || !conversation.out_of_time() {
                    return Poll::Ready(());
                }
            }
        })
        .await;
        if let Some(mut tunnel) = conversation.take_tunnel() {
            poll_fn(|cx| {
                conversation.deadline.wake(cx);
                if tunnel.as_mut().poll(cx).is_ready() || conversation.deadline.is_due() {
                    return Poll::Ready(());
                }
                Poll::Pending
            })
            .await;
        }
    }

    async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        visit: Arc<Visit>,
        conversation: Arc<Conversation>,
    ) -> Response<DownBody> {
        let started = Instant::now();
        let refusal = conversation.take_request();
        let state = self.live.hold();
        let id = request_id(request.headers());
        if refusal.is_none() && self.side == Side::Inbound && wellknown::asks(request.method(), request.uri()) {
            let answer = wellknown::answer(&state.engine, request.uri()).await;
            return answer.map(|body| DownBody::whole(body, Done::new(Arc::clone(&conversation), REFUSAL)));
        }
        let sited = match refusal {
            Some(failure) => Err(failure),
            None if request.method() == Method::CONNECT => {
                match Box::pin(self.connect(&state, request, &visit, &conversation)).await {
                    Ok(()) => {
                        let done = Done::new(Arc::clone(&conversation), REFUSAL);
                        return Response::new(DownBody::whole(bytes::Bytes::new(), done));
                    }
                    Err(failure) => return self.refuse(&state, failure, id, conversation, started),
                }
            }
            None => self.site(&state, &request, &visit),
        };
        match sited {
            Ok((site, target)) => {
                let shared = Shared {
                    connector: &self.connector,
                    state: &state,
                    edge: self.side,
                    client: &visit.client,
                    conversation: &conversation,
                };
                Exchange::new(shared, &site, target.as_deref(), id, started).run(request).await
            }
            Err(failure) => self.refuse(&state, failure, id, conversation, started),
        }
    }

    /// Answers a request that came to no site.
    fn refuse(
        &self,
        state: &State,
        failure: Failure,
        id: HeaderValue,
        conversation: Arc<Conversation>,
        started: Instant,
    ) -> Response<DownBody> {
        let done = Done::new(conversation, REFUSAL);
        let Some(cause) = answer::cause_of(&failure) else {
            return Response::new(DownBody::whole(bytes::Bytes::new(), done));
        };
        let text = id.to_str().unwrap_or_default();
        Message { request_id: text, site: NONE, rule: None, status: cause.status.as_u16() }
            .failed(cause.code, &failure);
        if let Some((_, listener)) = state.listener(self.address, self.side) {
            listener.no_site.answered(None, cause.code, cause.status, started.elapsed());
        }
        let mut response = answer::problem(cause, &failure, text, None);
        response.headers_mut().insert("x-request-id", id);
        response.map(|body| DownBody::whole(body, done))
    }

    /// Opens a CONNECT: the codec has only to say 200, and the connection's task goes on.
    async fn connect(
        &self,
        state: &State,
        mut request: Request<Incoming>,
        visit: &Visit,
        conversation: &Arc<Conversation>,
    ) -> Result<(), Failure> {
        if self.side == Side::Inbound || visit.through.is_some() {
            return Err(Failure::Tunnel);
        }
        let (config, listener) = state.listener(self.address, self.side).ok_or(Failure::NoTunnel)?;
        let target = Target::read(request.uri())?;
        let proof = config.keys.check(request.headers());
        let site = connect::destination(config, listener, &target, proof)?;
        let upgrade = request.extensions_mut().remove::<OnUpgrade>().ok_or(Failure::Internal)?;
        let limits = &site.site.limits;
        if site.site.connect == Connect::Intercept {
            let head_time = conversation.limits().head_time;
            conversation.agree_to_upgrade(head_time, head_time);
            let intercepted = Intercepted { target, authenticated: proof == Proof::Good, upgrade };
            *visit.intercepted.lock().unwrap_or_else(PoisonError::into_inner) = Some(intercepted);
            return Ok(());
        }
        let server = site.balance.select().ok_or_else(|| site.balance.why_none())?;
        conversation.deadline.set(limits.connect_time);
        let dialled = conversation.deadline.bound(connect::dial(&self.connector, server)).await;
        let server = dialled.unwrap_or(Err(Failure::UpstreamConnect))?;
        conversation.agree_to_upgrade(limits.stream_idle, limits.stream_time);
        conversation.leave_tunnel(connect::tunnel(target, upgrade, server));
        Ok(())
    }

    #[allow(clippy::type_complexity, reason = "a site, and a target where the relay took a part of it")]
    fn site(
        &self,
        state: &State,
        request: &Request<Incoming>,
        visit: &Visit,
    ) -> Result<(Arc<crate::state::SiteState>, Option<Box<str>>), Failure> {
        let (config, listener) = state.listener(self.address, self.side).ok_or(Failure::UnknownHost)?;
        let host = request.headers().get(header::HOST).and_then(|h| h.to_str().ok()).ok_or(Failure::UnknownHost)?;
        match self.side {
            Side::Inbound => inbound::site(config, listener, host).map(|site| (site, None)),
            Side::Outbound if visit.through.is_some() || !config.keys.is_empty() => {
                let proof = config.keys.check(request.headers());
                let Some(through) = &visit.through else {
                    // Not inside a CONNECT: each request brings its key.
                    return match proof {
                        Proof::Good => outbound::destination(config, listener, host, request.uri())
                            .map(|found| (found.site, found.target)),
                        Proof::Absent | Proof::Bad => Err(Failure::ProxyAuthentication),
                    };
                };
                match proof {
                    Proof::Good => through.authenticated.store(true, Ordering::Relaxed),
                    Proof::Absent if through.authenticated.load(Ordering::Relaxed) => {}
                    Proof::Absent | Proof::Bad => return Err(Failure::ProxyAuthentication),
                }
                if through.misdirected || !through.target.is_host(host) {
                    return Err(Failure::Misdirected);
                }
                let site = listener.site(&config.sites, &through.target.host).ok_or(Failure::Misdirected)?;
                // The rules may have changed since.
                let open = site.site.connect == Connect::Intercept && site.site.ports.contains(&through.target.port);
                if open { Ok((Arc::clone(site), None)) } else { Err(Failure::NoTunnel) }
            }
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
