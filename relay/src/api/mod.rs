//! The HTTP API: programs seal, open, inspect and rewrap values themselves. The relay decides nothing: it hands the caller's key on to the engine, which does.
//!
//! 1. [`router`]: what is asked; [`auth`]: by whom; [`query`]: with which parameters;
//! 2. [`seal`], [`open`], [`inspect`], [`rewrap`]: which values of the body, and what is done to them ([`crate::values`]); [`keys`]: public keys;
//! 3. [`openapi`]: the document that describes it.

pub mod auth;
mod inspect;
mod keys;
mod open;
pub mod openapi;
pub(crate) mod query;
mod rewrap;
pub mod router;
mod seal;

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use e3_wire::{Context, Direction};
use http::header::{self, HeaderName, HeaderValue};
use http::request::Parts;
use http::{Request, Response, StatusCode};

pub use self::router::Call;
use crate::admit::Conversation;
use crate::answer;
use crate::body::FieldOutcome;
use crate::body::hold::hold;
use crate::body::room::Held;
use crate::config::resolved::Api;
use crate::error::{Failure, Side};
use crate::exchange::arriving::Arriving;
use crate::exchange::flow::Client;
use crate::exchange::forwarded;
use crate::exchange::stream::{Done, DownBody};
use crate::log::Message;
use crate::metrics::{FieldVerb, OK};
use crate::rules::media;
use crate::state::State;
use crate::tls::server::Session;
use crate::values::Verb;
use crate::values::choice::{Choice, Counts, Fault, treat};

use self::auth::Key;
use self::query::Query;

/// Name of the API where others have that of a site.
pub const SITE: &str = "api";

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// One call.
pub struct Caller<'a> {
    /// The engine and everything else that the rules in force made.
    pub state: &'a Arc<State>,
    /// Who is connected.
    pub client: &'a Client,
    /// What TLS at the listener settled; `None` without it.
    pub session: Option<&'a Session>,
    /// The connection's state.
    pub conversation: &'a Arc<Conversation>,
    /// Id of the request.
    pub id: HeaderValue,
    /// When it came.
    pub started: Instant,
}

/// What a call is answered with.
struct Served {
    body: Bytes,
    /// Whether it may be kept: it holds nothing of anyone's.
    public: bool,
}

/// A call that failed, and the normalised path of the value at fault.
struct Refused {
    failure: Failure,
    path: Option<String>,
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self { failure, path: None }
    }
}

impl Caller<'_> {
    /// Works the call off, and always has an answer.
    pub async fn answer(self, request: Request<Arriving>) -> Response<DownBody> {
        let Some(api) = &self.state.config.api else {
            // The listener is gone from the rules, and with it everything that could be asked.
            let time = self.conversation.limits().idle_time;
            let done = Done::new(Arc::clone(self.conversation), time, time);
            let mut response = Response::new(DownBody::whole(Bytes::new(), done));
            *response.status_mut() = StatusCode::MISDIRECTED_REQUEST;
            return response;
        };
        let mut done = Done::new(Arc::clone(self.conversation), api.limits.answer_time, api.limits.answer_time);
        done.hold(self.state.api.request());
        let call = Call::of(request.method(), request.uri().path());
        let served = match call {
            Ok(call) => self.serve(api, call, request).await,
            Err(failure) => Err(failure.into()),
        };
        let call = call.ok();
        let rule = call.map(|call| call as usize);
        let message = |status: StatusCode| Message {
            request_id: self.id.to_str().unwrap_or("-"),
            site: SITE,
            rule: call.map(Call::name),
            status: status.as_u16(),
        };
        let (outcome, mut response) = match served {
            Ok(Served { body, public }) => {
                message(StatusCode::OK).served();
                let mut response = Response::new(body);
                let headers = response.headers_mut();
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
                let cache = if public { "public, max-age=300" } else { "no-store" };
                headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(cache));
                (OK, response)
            }
            Err(Refused { failure, path }) => {
                // What broke a body off may be a chunk that the gate refused.
                let failure = if failure == Failure::ClientGone { self.conversation.breakage() } else { failure };
                match answer::cause_of(&failure) {
                    Some(cause) => {
                        message(cause.status).failed(cause.code, &failure);
                        let id = self.id.to_str().unwrap_or_default();
                        (cause.code, answer::problem_at(cause, &failure, id, None, path.as_deref()))
                    }
                    // Nobody reads it, but the codec wants an answer; nginx's number for it.
                    None => {
                        let mut response = Response::new(Bytes::new());
                        *response.status_mut() = StatusCode::from_u16(499).unwrap_or(StatusCode::BAD_REQUEST);
                        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
                        ("client/gone", response)
                    }
                }
            }
        };
        self.state.api.answered(rule, outcome, response.status(), self.started.elapsed());
        let headers = response.headers_mut();
        headers.insert(REQUEST_ID, self.id.clone());
        if let Some(hsts) = self.session.and_then(|session| session.terms.hsts.clone()) {
            headers.insert(header::STRICT_TRANSPORT_SECURITY, hsts);
        }
        response.map(|body| DownBody::whole(body, done))
    }

    async fn serve(&self, api: &Api, call: Call, request: Request<Arriving>) -> Result<Served, Refused> {
        if call == Call::OpenApi {
            return Ok(Served { body: openapi::TEXT.clone(), public: true });
        }
        let (head, body) = request.into_parts();
        let key = Key::of(&head.headers)?;
        let source = self.source(&head, api);
        let context = Context {
            request_id: self.id.to_str().unwrap_or_default(),
            direction: Direction::Api,
            destination: "",
            source: &source,
            method: head.method.as_str(),
            credential: key.credential(),
        };
        let engine = &self.state.engine;
        let query = head.uri.query();
        let choice = match call {
            Call::Seal => seal::choice(query),
            Call::Open => open::choice(query),
            Call::Inspect => inspect::choice(query),
            Call::Rewrap => rewrap::choice(query),
            Call::PublicKey | Call::OpenApi => {
                let body = keys::public(query, engine, &context).await?;
                return Ok(Served { body: body.into(), public: false });
            }
        };
        let (choice, leave) = choice?;
        media::check_document(&head.headers)?;
        if !engine.is_available() {
            return Err(Failure::EngineAway.into());
        }
        let deadline = &self.conversation.deadline;
        deadline.set(api.limits.body_time);
        let held = hold(body, api.limits.body, deadline, self.state.room).await;
        deadline.clear();
        let Held { text, mut taken } = held.map_err(|error| error.failure(Side::Request, Failure::ClientGone))?;
        let mut counts = Counts::default();
        let treated = treat(&choice, &text, engine, &context, leave, &mut counts).await;
        let treated = treated
            .map_err(|Fault { failure, at }| Refused { failure, path: at.map(|at| json_span::path_at(&text, at)) })?;
        taken.reach(treated.len()).map_err(|full| full.failure(Side::Request))?;
        self.count(&counts);
        Ok(Served { body: taken.keep(treated.into()), public: false })
    }

    /// The client for whom the call is made, as the engine is told.
    fn source(&self, head: &Parts, api: &Api) -> String {
        let told = forwarded::source(&head.headers, &api.forwarding, self.client.address());
        told.address(self.client.address()).map(|address| address.to_string()).unwrap_or_default()
    }

    fn count(&self, counts: &Counts) {
        for (outcome, role, n) in &counts.0 {
            let verb = match outcome {
                FieldOutcome::Sealed => FieldVerb::Seal,
                FieldOutcome::Opened => FieldVerb::Open,
                FieldOutcome::Kept => FieldVerb::Keep,
                FieldOutcome::Left => FieldVerb::Refused,
            };
            self.state.roles.count(verb, role.as_str(), *n);
        }
    }
}

/// One verb for every token, or for those that `select` takes; and whether what is refused stays.
fn chosen(query: &Query<'_>, verb: Verb) -> Result<(Choice, bool), Failure> {
    let leave = query.leaves()?;
    if !query.selects() {
        return Ok((Choice::all(verb), leave));
    }
    let selectors = query.selectors()?.into_iter();
    Ok((Choice::select(selectors.map(|selector| (selector, verb.clone())).collect()).bounded(), leave))
}
