//! The relay's client: a few connections for each worker thread, many calls on each.

use std::cell::RefCell;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use e3_wire::{FrameKind, MAX_FRAME, RequestWriter};
use tokio::time::Instant;

use crate::LinkError;
use crate::attested::SESSION_MAX;
use crate::attested::caller::prove;
use crate::attested::relay::{Refusal, RelayTls};
use crate::connection::{AnswerFrame, Connection};
use crate::endpoint::Endpoint;
use crate::frames::FrameReader;
use crate::stream::Stream;

/// Time to prove a caller that is an enclave: two questions, and a document of its security module.
const PROOF: Duration = Duration::from_secs(5);

/// Bounds of a client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientOptions {
    /// Connections of each worker thread to each endpoint.
    pub connections: usize,
    /// Most calls in flight on one connection; further ones are refused at once.
    pub max_in_flight: usize,
    /// Most bytes of one frame, at most [`MAX_FRAME`].
    pub max_frame: usize,
    /// Time to connect.
    pub connect_timeout: Duration,
    /// First pause after a failure; it doubles with each further one.
    pub backoff: Duration,
    /// Longest pause.
    pub max_backoff: Duration,
    /// Failures in a row, timeouts included, that make a pause.
    pub failures: u32,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            connections: 1,
            max_in_flight: 4096,
            max_frame: MAX_FRAME,
            connect_timeout: Duration::from_millis(500),
            backoff: Duration::from_millis(50),
            max_backoff: Duration::from_secs(2),
            failures: 5,
        }
    }
}

/// Whether the engine has to prove what it is.
#[derive(Debug, Clone)]
pub enum Security {
    /// It has not: development alone.
    Plain,
    /// Attested TLS.
    Attested(Arc<RelayTls>),
}

/// A handle on one or several alternative engines; cheap to clone, usable from any thread of any Tokio runtime.
#[derive(Clone)]
pub struct Client {
    inner: Arc<Inner>,
}

struct Inner {
    id: u64,
    options: ClientOptions,
    security: Security,
    endpoints: Vec<Target>,
    turn: AtomicUsize,
    rules: Arc<Rules>,
}

/// What the relay states of the rules that it follows. Each connection says it before the first request that follows them.
#[derive(Default)]
pub(crate) struct Rules {
    /// How often they were stated; 0: never.
    times: AtomicU64,
    hash: Mutex<[u8; 32]>,
}

impl Rules {
    /// How often they were stated.
    pub(crate) fn times(&self) -> u64 {
        self.times.load(Ordering::Acquire)
    }

    /// SHA-256 of those that were stated last.
    pub(crate) fn hash(&self) -> [u8; 32] {
        *self.hash.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An endpoint and what is known of it.
struct Target {
    endpoint: Endpoint,
    in_flight: Arc<AtomicUsize>,
    failures: AtomicU32,
    ready: AtomicBool,
    /// It answered the last ping as not ready, and neither answered a call nor failed since.
    waits: AtomicBool,
    /// No new attempt before this moment.
    paused_until: Mutex<Option<Instant>>,
    /// Why the engine was not believed when it was last dialled.
    refusal: Mutex<Option<Refusal>>,
}

/// What is known of all endpoints.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Whether some endpoint answered a ping as ready, and has not failed since.
    pub ready: bool,
    /// One entry for each endpoint, in order.
    pub endpoints: Vec<EndpointHealth>,
}

/// What is known of one endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointHealth {
    /// Which.
    pub endpoint: Endpoint,
    /// Whether it answered the last ping as ready, and has not failed since.
    pub ready: bool,
    /// Failures since the last answer.
    pub failures: u32,
    /// Calls in flight.
    pub in_flight: usize,
    /// Why the engine was not believed when it was last dialled.
    pub refusal: Option<Refusal>,
}

/// The connections of one thread to one endpoint of one client.
#[derive(Default)]
struct Slot {
    connection: Mutex<Option<Arc<Connection>>>,
    /// Held while one caller dials, so that the others wait for its connection instead of dialling too.
    dialling: tokio::sync::Mutex<()>,
}

thread_local! {
    /// Keyed by client and place; a client's drivers run on the thread that dialled them, so calls cross no thread.
    static SLOTS: RefCell<foldhash::HashMap<(u64, usize), Arc<Slot>>> = RefCell::default();
}

static NEXT_CLIENT: AtomicU64 = AtomicU64::new(0);

impl Client {
    /// A client of these endpoints, which are alternatives. Nothing is dialled yet.
    #[must_use]
    pub fn new(endpoints: Vec<Endpoint>, security: Security, options: ClientOptions) -> Self {
        let endpoints = endpoints
            .into_iter()
            .map(|endpoint| Target {
                endpoint,
                in_flight: Arc::default(),
                failures: AtomicU32::new(0),
                ready: false.into(),
                waits: false.into(),
                paused_until: Mutex::default(),
                refusal: Mutex::default(),
            })
            .collect();
        let id = NEXT_CLIENT.fetch_add(1, Ordering::Relaxed);
        let rules = Arc::default();
        Self { inner: Arc::new(Inner { id, options, security, endpoints, turn: AtomicUsize::new(0), rules }) }
    }

    /// States the rules that requests follow from now on, by their SHA-256: engines record it with what they decide.
    pub fn state_rules(&self, hash: [u8; 32]) {
        let rules = &self.inner.rules;
        let mut stated = rules.hash.lock().unwrap_or_else(PoisonError::into_inner);
        *stated = hash;
        rules.times.fetch_add(1, Ordering::Release);
    }

    /// Asks an engine and waits for its answer until the deadline. A request that was not answered, because its connection failed or because half of
    /// the time has passed and there is another engine, is asked once more: sealing and opening may be repeated.
    ///
    /// # Errors
    /// No answer came. The engine may have worked on the request all the same.
    pub async fn call(&self, request: RequestWriter, deadline: Instant) -> Result<AnswerFrame, LinkError> {
        self.call_from(Instant::now(), request, deadline).await
    }

    /// The same for a caller that knows what time it is: `now`.
    ///
    /// # Errors
    /// As [`Client::call`].
    pub async fn call_from(
        &self,
        now: Instant,
        request: RequestWriter,
        deadline: Instant,
    ) -> Result<AnswerFrame, LinkError> {
        let left = deadline.saturating_duration_since(now);
        let body = Bytes::from(request.finish(u32::try_from(left.as_millis()).unwrap_or(u32::MAX)));
        let first = if self.has_alternative() { deadline - left / 2 } else { deadline };
        match self.attempt(FrameKind::Request, body.clone(), first, None).await {
            Err((
                error @ (LinkError::Closed
                | LinkError::Protocol
                | LinkError::Connect(_)
                | LinkError::Refused
                | LinkError::Timeout
                // It began to pause while this call waited for its connection.
                | LinkError::Unavailable),
                failed,
            )) if Instant::now() < deadline => {
                match self.attempt(FrameKind::Request, body, deadline, Some(failed)).await {
                    Ok((_, answer)) => Ok(answer),
                    // There is no other engine to ask: what happened with this one says more.
                    Err((LinkError::Unavailable, _)) => Err(error),
                    Err((error, _)) => Err(error),
                }
            }
            other => other.map(|(_, answer)| answer).map_err(|(error, _)| error),
        }
    }

    /// Asks an engine for an attestation document that answers this nonce, 16 to 64 bytes; empty if it can prove nothing.
    ///
    /// # Errors
    /// No answer came.
    pub async fn attest(&self, nonce: &[u8], deadline: Instant) -> Result<Bytes, LinkError> {
        let body = Bytes::copy_from_slice(nonce);
        let (_, document) = self.attempt(FrameKind::Attest, body, deadline, None).await.map_err(|(error, _)| error)?;
        Ok(document.into_bytes())
    }

    /// Asks every endpoint whether it is ready; [`Client::health`] tells afterwards.
    pub async fn ping(&self, timeout: Duration) {
        for at in 0..self.inner.endpoints.len() {
            let Some(target) = self.inner.endpoints.get(at) else { continue };
            let deadline = Instant::now() + timeout;
            let pong = match tokio::time::timeout_at(deadline, self.connection(at)).await {
                Ok(Ok(connection)) => connection.call(FrameKind::Ping, Bytes::new(), deadline).await,
                // Counted where it failed. A pause is no failure: counting it would lengthen it with every ping, without end.
                Ok(Err(_)) => continue,
                Err(_) => Err(LinkError::Timeout),
            };
            match pong {
                Ok((FrameKind::Pong, body)) => {
                    target.succeeded();
                    target.ready.store(body.is_pong_ready(), Ordering::Relaxed);
                    target.waits.store(!body.is_pong_ready(), Ordering::Relaxed);
                }
                Err(LinkError::Refused) => {
                    target.refused(Some(Refusal::Unpinned));
                    target.failed(&self.inner.options);
                }
                Ok(_) | Err(_) => target.failed(&self.inner.options),
            }
        }
    }

    /// What is known of the endpoints, without asking them.
    #[must_use]
    pub fn health(&self) -> Health {
        let endpoints: Vec<_> = self
            .inner
            .endpoints
            .iter()
            .map(|t| EndpointHealth {
                endpoint: t.endpoint.clone(),
                ready: t.ready.load(Ordering::Relaxed),
                failures: t.failures.load(Ordering::Relaxed),
                in_flight: t.in_flight.load(Ordering::Relaxed),
                refusal: t.refusal.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            })
            .collect();
        Health { ready: endpoints.iter().any(|e| e.ready), endpoints }
    }

    /// Whether a call has a chance: some endpoint is not pausing after failures, and did not say in its last pong that it is not ready.
    #[must_use]
    pub fn is_available(&self) -> bool {
        self.inner.endpoints.iter().any(|t| !t.waits.load(Ordering::Relaxed) && !t.is_paused())
    }

    async fn attempt(
        &self,
        kind: FrameKind,
        body: Bytes,
        deadline: Instant,
        avoid: Option<usize>,
    ) -> Result<(FrameKind, AnswerFrame), (LinkError, usize)> {
        let at = self.choose(avoid).ok_or((LinkError::Unavailable, 0))?;
        let Some(target) = self.inner.endpoints.get(at) else { return Err((LinkError::Unavailable, at)) };
        let connection = match tokio::time::timeout_at(deadline, self.connection(at)).await {
            Ok(connection) => connection.map_err(|error| (error, at))?,
            Err(_) => return Err((LinkError::Timeout, at)),
        };
        let wanted = if kind == FrameKind::Attest { FrameKind::Document } else { FrameKind::Answer };
        match connection.call(kind, body, deadline).await {
            Ok((kind, answer)) if kind == wanted => {
                target.succeeded();
                Ok((kind, answer))
            }
            Ok(_) => {
                target.failed(&self.inner.options);
                Err((LinkError::Protocol, at))
            }
            Err(error) => {
                if error == LinkError::Refused {
                    target.refused(Some(Refusal::Unpinned));
                }
                if !matches!(error, LinkError::Overloaded | LinkError::TooLarge) {
                    target.failed(&self.inner.options);
                }
                Err((error, at))
            }
        }
    }

    /// Whether a second engine could answer what the first does not.
    fn has_alternative(&self) -> bool {
        self.inner.endpoints.iter().filter(|t| !t.is_paused()).nth(1).is_some()
    }

    /// The endpoint with the fewest calls in flight, of those that are not pausing; one that has failed since it was last known to be ready, and the one to
    /// avoid, only when there is no other. So an engine that hung gets no call before it has answered a ping.
    fn choose(&self, avoid: Option<usize>) -> Option<usize> {
        let endpoints = &self.inner.endpoints;
        if let [only] = &endpoints[..] {
            return (!only.is_paused()).then_some(0);
        }
        // Equally busy ones take turns.
        let turn = self.inner.turn.fetch_add(1, Ordering::Relaxed);
        let open = (0..endpoints.len()).filter(|i| !endpoints[*i].is_paused());
        open.min_by_key(|i| {
            let target = &endpoints[*i];
            let in_doubt = !target.ready.load(Ordering::Relaxed);
            let place = (*i + turn) % endpoints.len();
            (Some(*i) == avoid, in_doubt, target.in_flight.load(Ordering::Relaxed), place)
        })
    }

    /// A live connection of this thread, dialled if need be.
    async fn connection(&self, at: usize) -> Result<Arc<Connection>, LinkError> {
        let Inner { id, options, security, endpoints, rules, .. } = &*self.inner;
        let Some(target) = endpoints.get(at) else { return Err(LinkError::Unavailable) };
        let lanes = options.connections.max(1);
        let lane = target.in_flight.load(Ordering::Relaxed) % lanes;
        let slot = SLOTS.with_borrow_mut(|slots| Arc::clone(slots.entry((*id, at * lanes + lane)).or_default()));
        if let Some(connection) = slot.live() {
            return Ok(connection);
        }
        let _dialling = slot.dialling.lock().await;
        if let Some(connection) = slot.live() {
            return Ok(connection);
        }
        if target.is_paused() {
            return Err(LinkError::Unavailable);
        }
        match target.dial(security, options).await {
            Ok((stream, reader, life)) => {
                let in_flight = Arc::clone(&target.in_flight);
                let bounds = (options.max_in_flight, in_flight);
                let connection = Connection::start(stream, reader, bounds, life, Arc::clone(rules));
                *slot.connection.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::clone(&connection));
                Ok(connection)
            }
            Err(error) => {
                // Nothing listens: there is no sense in trying again at once.
                target.failures.fetch_max(options.failures, Ordering::Relaxed);
                target.failed(options);
                Err(error)
            }
        }
    }
}

impl Slot {
    fn live(&self) -> Option<Arc<Connection>> {
        let mut slot = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
        match &*slot {
            Some(connection) if connection.is_open() => Some(Arc::clone(connection)),
            Some(_) => {
                // Calls in flight on a draining connection keep it alive by their own handles.
                *slot = None;
                None
            }
            None => None,
        }
    }
}

impl Target {
    /// A connection as the client's security wants it, with what was read of it already, and how long it may be used.
    async fn dial(
        &self,
        security: &Security,
        options: &ClientOptions,
    ) -> Result<(Stream, FrameReader, Option<Duration>), LinkError> {
        let deadline = Instant::now() + options.connect_timeout;
        let stream = self.endpoint.connect(options.connect_timeout).await?;
        let mut reader = FrameReader::new(options.max_frame);
        let Security::Attested(tls) = security else { return Ok((stream, reader, None)) };
        let session = tokio::time::timeout_at(deadline, tls.connect(stream)).await;
        let session = session.map_err(|_| LinkError::Connect(std::io::ErrorKind::TimedOut))?;
        let (mut stream, _) = session.map_err(|refusal| self.refuse(refusal))?;
        if let Some(attester) = tls.attester() {
            let proof = tokio::time::timeout(PROOF, prove(&mut stream, &mut reader, attester)).await;
            let proof = proof.map_err(|_| LinkError::Connect(std::io::ErrorKind::TimedOut))?;
            proof.map_err(|refusal| self.refuse(refusal))?;
        }
        self.refused(None);
        Ok((stream, reader, Some(SESSION_MAX)))
    }

    fn refuse(&self, refusal: Refusal) -> LinkError {
        self.refused(Some(refusal));
        LinkError::Refused
    }

    fn refused(&self, refusal: Option<Refusal>) {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = refusal;
    }

    fn is_paused(&self) -> bool {
        if self.failures.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let paused = self.paused_until.lock().unwrap_or_else(PoisonError::into_inner);
        paused.is_some_and(|until| Instant::now() < until)
    }

    fn succeeded(&self) {
        if self.waits.load(Ordering::Relaxed) {
            self.waits.store(false, Ordering::Relaxed);
        }
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
            *self.paused_until.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    fn failed(&self, options: &ClientOptions) {
        self.ready.store(false, Ordering::Relaxed);
        self.waits.store(false, Ordering::Relaxed);
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        let Some(over) = failures.checked_sub(options.failures) else { return };
        let pause = options.backoff.saturating_mul(1 << over.min(10)).min(options.max_backoff);
        // A quarter of jitter, so that relays do not come back all at once; a hasher's random key is random enough for that.
        let jitter = pause / 400 * (RandomState::new().build_hasher().finish() % 100) as u32;
        *self.paused_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now() + pause + jitter);
    }
}

impl AnswerFrame {
    fn is_pong_ready(&self) -> bool {
        self.bytes() == [1]
    }
}
