//! One request of a connection: which site it is for, and who answers it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;

use super::Edge;
use super::secure::may_reach;
use super::visit::Visit;
use crate::admit::Conversation;
use crate::answer;
use crate::api::Caller;
use crate::config::resolved::{Connect, Side};
use crate::error::Failure;
use crate::exchange::arriving::Arriving;
use crate::exchange::flow::{Exchange, Shared};
use crate::exchange::headers::request_id;
use crate::exchange::stream::{Done, DownBody};
use crate::log::Message;
use crate::metrics::{NONE, OK};
use crate::outbound::connect::{self, Intercepted, Target, TunnelTimes};
use crate::outbound::keys::Proof;
use crate::rules::host::normal_host;
use crate::state::{SiteState, State};
use crate::{inbound, outbound, wellknown};

/// How long a client may take to read an answer of the relay's own.
const REFUSAL: Duration = Duration::from_secs(30);

impl Edge {
    pub(super) async fn answer(
        self: Arc<Self>,
        request: Request<Incoming>,
        visit: Arc<Visit>,
        conversation: Arc<Conversation>,
    ) -> Response<DownBody> {
        let started = Instant::now();
        let request = request.map(|body| Arriving::new(body, &conversation));
        let refusal = conversation.take_request();
        let state = self.live.hold();
        let id = request_id(request.headers());
        if refusal.is_none() && self.side == Side::Inbound && wellknown::asks(request.method(), request.uri()) {
            let answer = wellknown::answer(&state.engine, request.uri()).await;
            return answer.map(|body| DownBody::whole(body, Done::new(Arc::clone(&conversation), REFUSAL, REFUSAL)));
        }
        if refusal.is_none() && self.side == Side::Inbound && visit.session.is_none() {
            let proof = state.acme.as_ref().and_then(|acme| acme.challenges().http(request.uri().path()));
            if let Some(proof) = proof {
                return Response::new(DownBody::whole(proof, Done::new(Arc::clone(&conversation), REFUSAL, REFUSAL)));
            }
        }
        let sited = match refusal {
            Some(failure) => Err(failure),
            None if request.method() == Method::CONNECT => {
                match Box::pin(self.connect(&state, request, &visit, &conversation)).await {
                    Ok(()) => {
                        let done = Done::new(Arc::clone(&conversation), REFUSAL, REFUSAL);
                        return Response::new(DownBody::whole(bytes::Bytes::new(), done));
                    }
                    Err(failure) => return self.refuse(&state, failure, id, &visit, conversation, started),
                }
            }
            None if self.side == Side::Api => {
                let (client, session) = (&visit.client, visit.session.as_deref());
                let (state, conversation) = (&state, &conversation);
                return Caller { state, client, session, conversation, id, started }.answer(request).await;
            }
            None => self.site(&state, &request, &visit),
        };
        match sited {
            Ok((site, _)) if site.site.redirect => {
                let response = redirect(&request, &site, &id, started);
                response.map(|body| DownBody::whole(body, Done::new(conversation, REFUSAL, REFUSAL)))
            }
            Ok((site, target)) => {
                let shared = Shared {
                    connector: &self.connector,
                    state: &state,
                    edge: self.side,
                    client: &visit.client,
                    session: visit.session.as_deref(),
                    conversation: &conversation,
                };
                Exchange::new(shared, &site, target.as_deref(), id, started).run(request).await
            }
            Err(failure) => self.refuse(&state, failure, id, &visit, conversation, started),
        }
    }

    /// Answers a request that came to no site.
    fn refuse(
        &self,
        state: &State,
        failure: Failure,
        id: HeaderValue,
        visit: &Visit,
        conversation: Arc<Conversation>,
        started: Instant,
    ) -> Response<DownBody> {
        let done = Done::new(conversation, REFUSAL, REFUSAL);
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
        // For the host that TLS was made for, never for another one that a request names.
        if let Some(hsts) = visit.session.as_ref().and_then(|session| session.terms.hsts.clone())
            && !matches!(failure, Failure::UnknownHost | Failure::ServerName)
        {
            response.headers_mut().insert(header::STRICT_TRANSPORT_SECURITY, hsts);
        }
        response.map(|body| DownBody::whole(body, done))
    }

    /// Opens a CONNECT: the codec has only to say 200, and the connection's task goes on.
    async fn connect(
        &self,
        state: &State,
        mut request: Request<Arriving>,
        visit: &Visit,
        conversation: &Arc<Conversation>,
    ) -> Result<(), Failure> {
        if self.side != Side::Outbound || visit.through.is_some() {
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
        conversation.deadline.set(limits.connect_time);
        let dial = async {
            if site.balance.is_unknown() {
                site.balance.look_up().await?;
            }
            let server = site.balance.select().ok_or_else(|| site.balance.why_none())?;
            connect::dial(&self.connector, server).await
        };
        let dialled = conversation.deadline.bound(dial).await;
        let server = dialled.unwrap_or(Err(Failure::UpstreamConnect))?;
        let hello = conversation.limits().head_time;
        let times = TunnelTimes { hello, silence: limits.stream_idle, total: limits.stream_time };
        conversation.agree_to_upgrade(hello, hello);
        conversation.leave_tunnel(connect::tunnel(target, upgrade, server, times, conversation));
        Ok(())
    }

    #[allow(clippy::type_complexity, reason = "a site, and a target where the relay took a part of it")]
    fn site(
        &self,
        state: &State,
        request: &Request<Arriving>,
        visit: &Visit,
    ) -> Result<(Arc<SiteState>, Option<Box<str>>), Failure> {
        let (config, listener) = state.listener(self.address, self.side).ok_or(Failure::UnknownHost)?;
        let host = request.headers().get(header::HOST).and_then(|h| h.to_str().ok()).ok_or(Failure::UnknownHost)?;
        match self.side {
            Side::Inbound => {
                let site = inbound::site(config, listener, host)?;
                let session = visit.session.as_deref();
                let named = session.and_then(|session| listener.site(&config.sites, session.name.as_deref()?));
                if may_reach(session, named, &site) { Ok((site, None)) } else { Err(Failure::ServerName) }
            }
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
                if !open {
                    return Err(Failure::NoTunnel);
                }
                Ok((site.of(&through.target.host, through.target.port)?, None))
            }
            Side::Outbound => outbound::destination(config, listener, host, request.uri()).map(|d| (d.site, d.target)),
            // It has no sites.
            Side::Api => Err(Failure::UnknownHost),
        }
    }
}

/// Sends a request on to https, where it has told nothing yet; else it is refused, so that nobody gets used to it.
fn redirect(
    request: &Request<Arriving>,
    site: &SiteState,
    id: &HeaderValue,
    started: Instant,
) -> Response<bytes::Bytes> {
    let host = request.headers().get(header::HOST).and_then(|host| normal_host(host.to_str().ok()?));
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    let asks = matches!(*request.method(), Method::GET | Method::HEAD);
    let url = host.filter(|_| asks).and_then(|host| {
        let host = if host.contains(':') { format!("[{host}]") } else { host.into_owned() };
        HeaderValue::from_str(&format!("https://{host}{path}")).ok()
    });
    let (outcome, mut response) = match (url, answer::cause_of(&Failure::Plaintext)) {
        (Some(url), _) => {
            let mut response = Response::new(bytes::Bytes::new());
            *response.status_mut() = StatusCode::PERMANENT_REDIRECT;
            response.headers_mut().insert(header::LOCATION, url);
            (OK, response)
        }
        (None, Some(cause)) => {
            let text = id.to_str().unwrap_or_default();
            (cause.code, answer::problem(cause, &Failure::Plaintext, text, None))
        }
        (None, None) => (OK, Response::new(bytes::Bytes::new())),
    };
    site.metrics.answered(None, outcome, response.status(), started.elapsed());
    response.headers_mut().insert("x-request-id", id.clone());
    response
}
