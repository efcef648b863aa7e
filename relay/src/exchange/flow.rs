//! The order of things for one request: route, hold, transform, and only then a byte upstream; the same for the response.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use e3_wire::{Context, Direction as Way};
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode, Uri, Version};
use hyper::body::Body;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use pingora_core::connectors::TransportConnector;

use super::arriving::Arriving;
use super::forwarded::{self, Came, Source};
use super::headers;
use super::records::Falling;
use super::stream::{Done, DownBody, UpBody};
use super::up::{self, Carrier, Driven, Wish};
use crate::admit::Conversation;
use crate::admit::proxy_protocol::Ends;
use crate::answer;
use crate::body::hold::{HoldError, hold};
use crate::body::room::Held;
use crate::body::{FieldOutcome, Outgoing, Report, Sealed, Text, transform};
use crate::config::resolved::Side as Edge;
use crate::error::{Failure, Side};
use crate::log::Message;
use crate::metrics::{self, FieldVerb, RoleMetrics};
use crate::rules::media::Shape;
use crate::rules::plan::Plan;
use crate::rules::route::{Direction, Route};
use crate::state::{SiteState, State};
use crate::tls::server::Session;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// What every request of a listener shares.
pub struct Shared<'a> {
    /// Dials upstreams.
    pub connector: &'a TransportConnector,
    /// The engine and everything else that the rules in force made.
    pub state: &'a Arc<State>,
    /// Which relay this is.
    pub edge: Edge,
    /// Who asks.
    pub client: &'a Client,
    /// What TLS at the listener settled; `None` without it.
    pub session: Option<&'a Session>,
    /// The connection's state.
    pub conversation: &'a Arc<Conversation>,
}

/// The client of a connection, and its address as text, made once.
#[derive(Debug, Clone)]
pub struct Client {
    ends: Option<Ends>,
    text: Option<HeaderValue>,
}

impl Client {
    /// A client by the ends of its connection: those of the socket, or those that a balancer told.
    #[must_use]
    pub fn new(ends: Option<Ends>) -> Self {
        let text = ends.and_then(|ends| HeaderValue::from_str(&ends.source.ip().to_string()).ok());
        Self { ends, text }
    }

    /// The ends of its connection.
    #[must_use]
    pub fn ends(&self) -> Option<&Ends> {
        self.ends.as_ref()
    }

    /// Its address.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.ends.map(|ends| ends.source.ip())
    }

    fn text(&self) -> &str {
        self.text.as_ref().and_then(|v| v.to_str().ok()).unwrap_or_default()
    }
}

/// One request at one site.
pub struct Exchange<'a> {
    pub(super) shared: Shared<'a>,
    pub(super) site: &'a Arc<SiteState>,
    /// The path and query that the site's rules and its upstream see.
    target: Option<&'a str>,
    pub(super) id: HeaderValue,
    started: Instant,
    engine_time: Duration,
    pub(super) upstream_time: Duration,
    pub(super) rule: Option<usize>,
    /// The client speaks HTTP/1.0.
    pub(super) old_client: bool,
    /// The client for whom a trusted proxy asks; empty where it is not known.
    source: Option<Box<str>>,
    /// The request asks for another protocol.
    upgrades: bool,
    /// The request was cut between two records: the upstream may have acted.
    cut: bool,
    /// Set once the upstream has acted.
    upstream_status: Option<StatusCode>,
}

impl<'a> Exchange<'a> {
    /// The clock runs since `started`. `target` replaces the request's own path and query where the relay took a part of it.
    #[must_use]
    pub fn new(
        shared: Shared<'a>,
        site: &'a Arc<SiteState>,
        target: Option<&'a str>,
        id: HeaderValue,
        started: Instant,
    ) -> Self {
        Self {
            shared,
            site,
            target,
            id,
            started,
            engine_time: Duration::ZERO,
            upstream_time: Duration::ZERO,
            rule: None,
            old_client: false,
            source: None,
            upgrades: false,
            cut: false,
            upstream_status: None,
        }
    }

    /// Works the request off, and always has an answer: the upstream's, or a problem that says why not.
    pub async fn run(mut self, request: Request<Arriving>) -> Response<DownBody> {
        let limits = &self.site.site.limits;
        let mut done = Done::new(Arc::clone(self.shared.conversation), limits.stream_idle, limits.stream_time);
        done.hold(self.site.metrics.request());
        self.shared.conversation.within(self.site.site.limits.request_time);
        let (status, outcome, response) = match self.attempt(request).await {
            Ok(Passed::Whole(head, bytes)) => {
                (head.status, metrics::OK, Response::from_parts(head, DownBody::whole(bytes, done)))
            }
            Ok(Passed::Stream(head, body)) => {
                let body = DownBody::stream(body, &self.site.site.limits, done);
                (head.status, metrics::OK, Response::from_parts(head, body))
            }
            Ok(Passed::Records(head, records)) => {
                let body = DownBody::records(records, &self.site.site.limits, done);
                (head.status, metrics::OK, Response::from_parts(head, body))
            }
            Err(failure) => {
                // What broke a body off may be a chunk that the gate refused.
                let failure =
                    if failure == Failure::ClientGone { self.shared.conversation.breakage() } else { failure };
                let (status, code, response) = self.refuse(&failure);
                let message = self.message(status);
                message.failed(code, &failure);
                (status, code, response.map(|b| DownBody::whole(b, done)))
            }
        };
        if outcome == metrics::OK {
            self.message(status).served();
        }
        self.site.metrics.answered(self.rule, outcome, status, self.started.elapsed());
        self.finish(response)
    }

    fn message(&self, status: StatusCode) -> Message<'_> {
        Message {
            request_id: self.id.to_str().unwrap_or("-"),
            site: &self.site.site.name,
            rule: self.rule.and_then(|index| self.site.site.rules().get(index)).map(|rule| &*rule.name),
            status: status.as_u16(),
        }
    }

    fn refuse(&self, failure: &Failure) -> (StatusCode, &'static str, Response<Bytes>) {
        let id = self.id.to_str().unwrap_or_default();
        let cause = if self.cut { answer::cut(failure) } else { answer::cause_of(failure) };
        match cause {
            Some(cause) => (cause.status, cause.code, answer::problem(cause, failure, id, self.upstream_status)),
            // Nobody reads it, but the codec wants an answer; nginx's number for it.
            None => {
                let status = StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST);
                let mut response = Response::new(Bytes::new());
                *response.status_mut() = status;
                response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                (status, "client/gone", response)
            }
        }
    }

    /// Names the request in the answer, and tells the times where the site wants that.
    fn finish(&self, mut response: Response<DownBody>) -> Response<DownBody> {
        let head = response.headers_mut();
        head.insert(REQUEST_ID, self.id.clone());
        if self.shared.session.is_some()
            && let Some(hsts) = self.site.site.tls.as_ref().and_then(|terms| terms.hsts.clone())
        {
            head.insert(header::STRICT_TRANSPORT_SECURITY, hsts);
        }
        if self.site.site.server_timing {
            let ms = |d: Duration| d.as_secs_f64() * 1000.0;
            let relay = self.started.elapsed().saturating_sub(self.engine_time).saturating_sub(self.upstream_time);
            let timing = format!(
                "relay;dur={:.3}, engine;dur={:.3}, upstream;dur={:.3}",
                ms(relay),
                ms(self.engine_time),
                ms(self.upstream_time)
            );
            if let Ok(timing) = HeaderValue::from_str(&timing) {
                head.append(SERVER_TIMING, timing);
            }
        }
        // The codec lowers it, with all that follows from it, for a client that is older.
        *response.version_mut() = Version::HTTP_11;
        response
    }

    /// The time, where somebody will ask for it.
    pub(super) fn clock(&self) -> Option<Instant> {
        self.site.site.server_timing.then(Instant::now)
    }

    async fn attempt(&mut self, request: Request<Arriving>) -> Result<Passed, Failure> {
        let (mut head, body) = request.into_parts();
        self.old_client = head.version < Version::HTTP_11;
        let site = self.site;
        if !site.site.underscore_headers && head.headers.keys().any(|n| n.as_str().contains('_')) {
            return Err(Failure::UnderscoreField);
        }
        if self.shared.edge == Edge::Inbound && !site.site.forwarding.trust.is_empty() {
            self.source = match forwarded::source(&head.headers, &site.site.forwarding, self.shared.client.address()) {
                Source::Connection => None,
                Source::Client(address) => Some(address.to_string().into()),
                // The engine then grants nothing to clients from some network alone.
                Source::Unknown => Some("".into()),
            };
        }
        let path = self.target.map_or(head.uri.path(), |t| t.split('?').next().unwrap_or_default());
        let (route, request_body) = site.site.rules.route(&head, path)?;
        self.rule = route.first_rule();
        // HTTP/1.0 knows no other protocol (RFC 9110 §7.8).
        let upgrade = if self.old_client { None } else { headers::upgrade(&head.headers) };
        self.upgrades = upgrade.is_some();
        if upgrade.is_some() && route.is_ruled() {
            return Err(Failure::Upgrade);
        }
        let asks = route.expects_response() || matches!(request_body, Direction::Planned(_));
        if asks && !self.shared.state.engine.is_available() {
            return Err(Failure::EngineAway);
        }
        let sealed = self.request_body(&mut head, body, &route, request_body).await?;
        self.request_head(&mut head, &route, upgrade.as_ref())?;
        let client_upgrade = upgrade.is_some().then(|| head.extensions.remove::<OnUpgrade>()).flatten();
        let method = head.method.clone();
        let sent = self.clock();
        let response = self.send(head, sealed).await;
        self.upstream_time = since(sent);
        let response = response?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            return self.tunnel(response, client_upgrade, upgrade.as_ref());
        }
        self.response(response, &route, &method).await
    }

    /// The request's body as it may be sent: untouched when no rule selects it, else whole and with every planned value replaced.
    async fn request_body(
        &mut self,
        head: &mut Parts,
        body: Arriving,
        route: &Route,
        direction: Direction,
    ) -> Result<Sealed<Arriving>, Failure> {
        let plan = match direction {
            Direction::Untouched(proof) => return Ok(Sealed::untouched(proof, body)),
            Direction::Planned(plan) => plan,
        };
        let limits = &self.site.site.limits;
        if body.is_end_stream() {
            return Ok(Sealed::none());
        }
        // Asked before the body is taken in: a type that no rule reads need not be held.
        let media = self.site.site.rules.check_request_media(route, &head.headers);
        if let Ok(Shape::Records(form)) = media {
            return self.request_records(head, body, plan, form).await;
        }
        if body.size_hint().lower() > 0 {
            media?;
        }
        let deadline = &self.shared.conversation.deadline;
        deadline.set(limits.body_time);
        let held = hold(body, limits.body, deadline, self.shared.state.room).await;
        deadline.clear();
        let held = held.map_err(|e| e.failure(Side::Request, Failure::ClientGone))?;
        if held.text.is_empty() {
            return Ok(Sealed::none());
        }
        media?;
        let (body, report) = self.transformed::<Arriving>(&plan, held, head.method.as_str(), Side::Request).await?;
        if report.edited {
            headers::drop_integrity(&mut head.headers);
        }
        // What was answered to `Expect` is over, and trailers of a held body are not sent on.
        head.headers.remove(header::TRAILER);
        Ok(body)
    }

    async fn transformed<S>(
        &mut self,
        plan: &Plan,
        held: Held,
        method: &str,
        side: Side,
    ) -> Result<(Sealed<S>, Report), Failure> {
        let context = self.asked(method, side);
        let outcome = transform::<S>(plan, held, &self.shared.state.engine, &context, side).await;
        let transformed = outcome?;
        self.engine_time += transformed.report.engine_time;
        count(&self.shared.state.roles, &transformed.report);
        Ok((transformed.body, transformed.report))
    }

    /// What the engine is told about one of the two bodies.
    pub(super) fn asked<'s>(&'s self, method: &'s str, side: Side) -> Context<'s> {
        let direction = match (self.shared.edge, side) {
            (Edge::Inbound, Side::Request) => Way::InboundRequest,
            (Edge::Inbound, Side::Response) => Way::InboundResponse,
            (Edge::Outbound, Side::Request) => Way::OutboundRequest,
            (Edge::Outbound, Side::Response) => Way::OutboundResponse,
            (Edge::Api, _) => Way::Api,
        };
        Context {
            request_id: self.id.to_str().unwrap_or_default(),
            direction,
            destination: if direction == Way::InboundResponse { "" } else { &self.site.destination },
            source: self.source.as_deref().unwrap_or_else(|| self.shared.client.text()),
            method,
            credential: e3_wire::Credential::default(),
        }
    }

    fn request_head(&self, head: &mut Parts, route: &Route, upgrade: Option<&HeaderValue>) -> Result<(), Failure> {
        let up = &self.site.site.upstream;
        headers::strip_hop_by_hop(&mut head.headers);
        // The relay answers `Expect` itself when it takes the body in.
        head.headers.remove(header::EXPECT);
        head.headers.remove(header::CONTENT_LENGTH);
        if route.expects_response() {
            headers::ask_for_whole(&mut head.headers);
        }
        head.headers.insert(REQUEST_ID, self.id.clone());
        if self.shared.edge == Edge::Inbound {
            let host = head.headers.get(header::HOST).cloned();
            let session = self.shared.session;
            let client = self.shared.client;
            let came = Came {
                address: client.address(),
                text: client.text.as_ref(),
                secure: session.is_some(),
                host: host.as_ref(),
            };
            forwarded::state(&mut head.headers, &self.site.site.forwarding, came);
            headers::client_certificate(&mut head.headers, session.and_then(|session| session.client.as_ref()));
        }
        if let Some(host) = &self.site.host {
            head.headers.insert(header::HOST, host.clone());
        }
        if let Some(protocol) = upgrade {
            head.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            head.headers.insert(header::UPGRADE, protocol.clone());
        }
        // Origin form, in the client's own spelling.
        let own = head.uri.path_and_query().map_or("/", |p| p.as_str());
        let own = self.target.unwrap_or(own);
        if head.uri.authority().is_some() || !up.base_path.is_empty() || self.target.is_some() {
            let path = if up.base_path.is_empty() { own.to_owned() } else { format!("{}{own}", up.base_path) };
            head.uri = Uri::try_from(path).map_err(|_| Failure::Internal)?;
        }
        head.version = Version::HTTP_11;
        Ok(())
    }

    /// Sends the request. Again, on a fresh connection, where nothing of it reached a server, or where an idle connection broke under a request that
    /// has no body and may be repeated (RFC 9110 §9.2.2).
    async fn send(&mut self, head: Parts, body: Sealed<Arriving>) -> Result<Response<Driven>, Failure> {
        let limits = &self.site.site.limits;
        let deadline = &self.shared.conversation.deadline;
        let length = body.content_length();
        let up = UpBody::new(body.send(), self.shared.conversation, limits);
        let mut request = Request::from_parts(head, up);
        frame(&mut request, length);
        let may_repeat = request.body().is_end_stream() && request.method().is_idempotent();
        let mut fresh = false;
        loop {
            let (connection, server, reused) = self.connect(fresh).await?;
            if !request.body().is_stream() {
                deadline.set(limits.response_time);
            }
            let again = (reused && may_repeat).then(|| copy_of(&request));
            match up::send(connection, &self.site.target, server, request, self.shared.conversation).await {
                Ok(response) => return Ok(response),
                // An idle connection may have been closed under our hands.
                Err(attempt) if reused => {
                    request = match (attempt.unsent, again) {
                        (Some(unsent), _) => unsent,
                        (None, Some(again)) if attempt.broke => again,
                        _ => {
                            self.cut = attempt.cut;
                            return Err(attempt.failure);
                        }
                    };
                    fresh = true;
                }
                Err(attempt) => {
                    self.cut = attempt.cut;
                    return Err(attempt.failure);
                }
            }
        }
    }

    /// A connection to the server whose turn it is, or to the next one that can be reached, and whether it idled before.
    async fn connect(&self, fresh: bool) -> Result<(Carrier, SocketAddr, bool), Failure> {
        let site = self.site;
        if site.balance.is_unknown() {
            self.look_up().await?;
        }
        let mut server = site.balance.select().ok_or_else(|| site.balance.why_none())?;
        if !fresh && let Some(connection) = up::reuse(&site.target, server, self.upgrades) {
            return Ok((connection, server, true));
        }
        let deadline = &self.shared.conversation.deadline;
        let streams = self.shared.conversation.is_streaming();
        deadline.set(site.site.limits.connect_time);
        let first = server;
        let connection = loop {
            // Boxed: most requests dial nothing, and need no room for it.
            let wish = Wish { alone: self.upgrades, fresh };
            let dial = up::open(self.shared.connector, &site.target, server, self.shared.client.ends(), wish);
            let dialled = deadline.bound(Box::pin(dial)).await;
            match dialled.unwrap_or(Err(Failure::UpstreamConnect)) {
                Ok(connection) => break connection,
                Err(failure) => {
                    // A certificate that does not verify is no reason to look for a server with another.
                    let next = site.balance.select().filter(|next| *next != first && *next != server);
                    match next {
                        Some(next)
                            if matches!(failure, Failure::UpstreamConnect | Failure::Overloaded(_))
                                && !deadline.is_due() =>
                        {
                            server = next;
                        }
                        _ => return Err(failure),
                    }
                }
            }
        };
        deadline.clear();
        if streams {
            self.shared.conversation.moves();
        }
        Ok((connection, server, false))
    }

    /// Looks up the host that the client asked for.
    async fn look_up(&self) -> Result<(), Failure> {
        let deadline = &self.shared.conversation.deadline;
        deadline.set(self.site.site.limits.connect_time);
        let looked_up = deadline.bound(Box::pin(self.site.balance.look_up())).await;
        deadline.clear();
        if self.shared.conversation.is_streaming() {
            self.shared.conversation.moves();
        }
        looked_up.unwrap_or(Err(Failure::UpstreamConnect))
    }

    async fn response(
        &mut self,
        response: Response<Driven>,
        route: &Route,
        method: &Method,
    ) -> Result<Passed, Failure> {
        let (mut head, body) = response.into_parts();
        self.upstream_status = Some(head.status);
        if !headers::is_framed_once(&head.headers) {
            return Err(Failure::UpstreamProtocol);
        }
        headers::strip_hop_by_hop(&mut head.headers);
        if self.shared.conversation.is_streaming() && head.status.as_u16() >= 300 {
            // The upstream does not want the rest. What the client still sends is on its way, so the connection ends with the answer.
            self.shared.conversation.stop_streaming();
            head.headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        if headers::has_no_body(method, head.status) {
            let length = head.headers.get(header::CONTENT_LENGTH).cloned();
            body.finish();
            if *method != Method::HEAD || route.expects_response() {
                // The length of a ruled body is not that of what the upstream would have sent.
                head.headers.remove(header::CONTENT_LENGTH);
            } else if let Some(length) = length {
                head.headers.insert(header::CONTENT_LENGTH, length);
            }
            return Ok(Passed::Whole(head, Bytes::new().into()));
        }
        let plan = match self.site.site.rules.response(route, head.status) {
            Direction::Untouched(_) => return Ok(Passed::Stream(head, body)),
            Direction::Planned(plan) => plan,
        };
        if head.status == StatusCode::PARTIAL_CONTENT {
            return Err(Failure::UpstreamPartial);
        }
        let limits = &self.site.site.limits;
        if body.is_end_stream() {
            return Ok(Passed::Whole(head, Bytes::new().into()));
        }
        let media = self.site.site.rules.check_response_media(route, head.status, &head.headers);
        if media.is_err() && !plan.seals() {
            // Nothing is to be sealed in it, and its tokens stay tokens: it passes as it is.
            return Ok(Passed::Stream(head, body));
        }
        if let Ok(Shape::Records(form)) = media {
            return self.response_records(head, body, plan, form, method).await;
        }
        let waited = self.clock();
        let deadline = &self.shared.conversation.deadline;
        deadline.set(limits.response_body_time);
        let held = hold(body, limits.body, deadline, self.shared.state.room).await;
        deadline.clear();
        self.upstream_time += since(waited);
        let held = held.map_err(|e: HoldError<_>| e.failure(Side::Response, Failure::UpstreamProtocol))?;
        if held.text.is_empty() {
            return Ok(Passed::Whole(head, Bytes::new().into()));
        }
        media?;
        let (sealed, report) = self.transformed::<Driven>(&plan, held, method.as_str(), Side::Response).await?;
        if report.edited {
            headers::drop_integrity(&mut head.headers);
        }
        if report.opened {
            head.headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        }
        head.headers.remove(header::TRAILER);
        head.headers.remove(header::CONTENT_LENGTH);
        head.headers.remove(header::ACCEPT_RANGES);
        match sealed.send() {
            Outgoing::Whole(text) => Ok(Passed::Whole(head, text)),
            Outgoing::None => Ok(Passed::Whole(head, Bytes::new().into())),
            Outgoing::Stream(_) | Outgoing::Records(_) => Err(Failure::Internal),
        }
    }

    /// Joins the client's and the upstream's streams after `101 Switching Protocols`.
    fn tunnel(
        &self,
        mut response: Response<Driven>,
        client: Option<OnUpgrade>,
        asked: Option<&HeaderValue>,
    ) -> Result<Passed, Failure> {
        let (Some(client), Some(asked)) = (client, asked) else { return Err(Failure::UpstreamProtocol) };
        let protocol = headers::agreed(response.headers(), asked).ok_or(Failure::UpstreamProtocol)?;
        let upstream = hyper::upgrade::on(&mut response);
        let (mut head, body) = response.into_parts();
        let driver = body.into_driver();
        headers::strip_hop_by_hop(&mut head.headers);
        head.headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        head.headers.insert(header::UPGRADE, protocol);
        let limits = &self.site.site.limits;
        self.shared.conversation.agree_to_upgrade(limits.stream_idle, limits.stream_time);
        // The connection's own task carries the tunnel on, so that it counts as a connection until its end.
        self.shared.conversation.leave_tunnel(Box::pin(async move {
            if let Some(driver) = driver {
                driver.await;
            }
            let Ok((client, upstream)) = tokio::try_join!(client, upstream) else { return };
            let (mut client, mut upstream) = (TokioIo::new(client), TokioIo::new(upstream));
            // How it ends is between the two; bytes that were sent are through.
            let _ = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
        }));
        Ok(Passed::Whole(head, Bytes::new().into()))
    }
}

/// Counts what was done to a body, or to a record.
pub(super) fn count(roles: &RoleMetrics, report: &Report) {
    for (outcome, role, n) in &report.fields {
        let verb = match outcome {
            FieldOutcome::Sealed => FieldVerb::Seal,
            FieldOutcome::Opened => FieldVerb::Open,
            FieldOutcome::Kept => FieldVerb::Keep,
            FieldOutcome::Left => FieldVerb::Refused,
        };
        roles.count(verb, role.as_str(), u64::from(*n));
    }
}

pub(super) fn since(start: Option<Instant>) -> Duration {
    start.map(|start| start.elapsed()).unwrap_or_default()
}

/// States how the body ends, since what the client said about it ended at this hop: `length` bytes, or what the stream says of itself.
fn frame(request: &mut Request<UpBody>, length: Option<usize>) {
    // Methods that expect a body say 0 (RFC 9110 §8.6).
    let says_zero = matches!(*request.method(), Method::POST | Method::PUT | Method::PATCH);
    let length = match length {
        Some(length) => Some(length as u64),
        None => request.body().size_hint().exact(),
    };
    let headers = request.headers_mut();
    match length {
        Some(0) if !says_zero => {}
        Some(length) => {
            headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        // The codec takes a GET for one without a body unless this is said.
        None => {
            headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
    }
}

/// The same request once more, if it has no body.
fn copy_of(request: &Request<UpBody>) -> Request<UpBody> {
    let mut copy = Request::new(UpBody::Empty);
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    copy
}

/// What goes down to the client.
pub(super) enum Passed {
    Whole(http::response::Parts, Text),
    Stream(http::response::Parts, Driven),
    Records(http::response::Parts, Box<Falling>),
}
