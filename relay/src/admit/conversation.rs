//! What the gate, the handlers and the task of one connection tell each other.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Context, Waker};
use std::time::Duration;

use crate::config::resolved::ConnectionLimits;
use crate::deadline::{Deadline, Moment, Moments};
use crate::error::{Failure, Framing};

/// No request wishes for another protocol.
const NONE: u8 = 0;
/// The last request does, and nobody knows yet what becomes of it.
const WISHED: u8 = 1;
const DECLINED: u8 = 2;
const AGREED: u8 = 3;

/// How long a client may take to read an answer after which the connection closes.
pub const LINGER: Duration = Duration::from_secs(5);

/// Most bytes that are read and thrown away after a refusal, so that the client gets to read the answer.
pub const LINGER_MAX: usize = 1024 * 1024;

/// A tunnel that the connection's task carries on when HTTP is over.
pub type Tunnel = Pin<Box<dyn Future<Output = ()> + Send>>;

/// One connection's state. Its parts run in one task, so the atomics are never contended; they only make it `Sync`.
#[derive(Debug)]
pub struct Conversation {
    /// The connection's one deadline: for its head and its idle time while no message is worked on, else the handler's.
    pub deadline: Arc<Deadline>,
    limits: ConnectionLimits,
    /// This is one stream of HTTP/2.
    stream: bool,
    /// Heads that were let through, the marker for a refused one included.
    heads: AtomicU32,
    /// Requests that a handler took.
    taken: AtomicU32,
    /// Answers that were given, to the last byte of their bodies.
    answered: AtomicU32,
    /// Some bytes of a head have come, and the rest has not.
    in_head: AtomicBool,
    /// The head that is awaited is too late.
    late: AtomicBool,
    /// A chunk of the body that comes in was refused.
    broken: AtomicBool,
    /// What came behind the head of a stream is malformed.
    malformed: AtomicBool,
    /// The request has come to its end.
    whole: AtomicBool,
    /// The body that comes in streams up, and has not ended.
    streams: AtomicBool,
    /// The rest of it is not wanted.
    unwanted: AtomicBool,
    refusal: OnceLock<Failure>,
    /// What became of a wish for another protocol.
    upgrade: AtomicU8,
    /// Longest silence of a stream, in milliseconds; 0 while nothing streams.
    silence: AtomicU64,
    /// When the stream must be through at the latest.
    stream_end: Moments,
    /// When the last answer must be written at the latest.
    written_by: Moments,
    slow: Mutex<Slow>,
}

/// Why a request's body ended before its end.
#[derive(Debug, Clone, Copy)]
pub struct BodyFailure {
    /// The cause.
    pub failure: Failure,
    /// Records before it had gone up.
    pub cut: bool,
}

#[derive(Default)]
struct Slow {
    body_failure: Option<BodyFailure>,
    /// Waits for the decision on an upgrade.
    reader: Option<Waker>,
    tunnel: Option<Tunnel>,
}

impl std::fmt::Debug for Slow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Slow")
    }
}

impl Conversation {
    /// A fresh connection; the time for its first head runs from now.
    #[must_use]
    pub fn new(limits: ConnectionLimits) -> Arc<Self> {
        Self::of(limits, false)
    }

    fn of(limits: ConnectionLimits, stream: bool) -> Arc<Self> {
        let deadline = Deadline::new();
        deadline.set(limits.head_time);
        Arc::new(Self {
            deadline,
            limits,
            stream,
            heads: AtomicU32::new(0),
            taken: AtomicU32::new(0),
            answered: AtomicU32::new(0),
            in_head: AtomicBool::new(false),
            late: AtomicBool::new(false),
            broken: AtomicBool::new(false),
            malformed: AtomicBool::new(false),
            whole: AtomicBool::new(false),
            streams: AtomicBool::new(false),
            unwanted: AtomicBool::new(false),
            refusal: OnceLock::new(),
            upgrade: AtomicU8::new(NONE),
            silence: AtomicU64::new(0),
            stream_end: Moments::default(),
            written_by: Moments::default(),
            slow: Mutex::default(),
        })
    }

    /// One stream of an HTTP/2 connection: its head has come, and no other will. `refusal` is what is wrong with it.
    #[must_use]
    pub fn of_stream(limits: ConnectionLimits, refusal: Option<Failure>) -> Arc<Self> {
        let conversation = Self::of(limits, true);
        conversation.head_came(false);
        if let Some(failure) = refusal {
            let _ = conversation.refusal.set(failure);
        }
        conversation
    }

    fn slow(&self) -> MutexGuard<'_, Slow> {
        self.slow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its request turned out to be malformed, behind a head that was not.
    pub fn found_malformed(&self) {
        self.malformed.store(true, Ordering::Relaxed);
    }

    /// Whether it did: nothing is answered then, and the stream is reset.
    #[must_use]
    pub fn is_malformed(&self) -> bool {
        self.malformed.load(Ordering::Relaxed)
    }

    /// All of its request has come.
    pub fn request_ended(&self) {
        self.whole.store(true, Ordering::Relaxed);
    }

    /// Whether it has.
    #[must_use]
    pub fn has_request(&self) -> bool {
        self.whole.load(Ordering::Relaxed)
    }

    /// Whether this is one stream of HTTP/2.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        self.stream
    }

    /// The limits of the connection.
    #[must_use]
    pub fn limits(&self) -> &ConnectionLimits {
        &self.limits
    }

    // For the gate.

    /// A head was let through; `wishes` for another protocol.
    pub(super) fn head_came(&self, wishes: bool) {
        if wishes {
            self.upgrade.store(WISHED, Ordering::Relaxed);
        }
        // Of a head that comes while a message is worked on, that message's deadline knows nothing.
        let awaited = self.is_idle();
        self.heads.fetch_add(1, Ordering::Relaxed);
        self.in_head.store(false, Ordering::Relaxed);
        if awaited {
            self.deadline.clear();
        }
    }

    /// The first bytes of a head are here, and the rest has to follow in its time.
    pub(super) fn head_begins(&self) {
        if !self.in_head.swap(true, Ordering::Relaxed)
            && self.is_idle()
            // The first head's time runs from the accept.
            && self.heads.load(Ordering::Relaxed) > 0
        {
            self.deadline.set(self.limits.head_time);
        }
    }

    /// The head that is awaited was refused, and a marker goes to the codec in its place.
    pub(super) fn refuse(&self, failure: Failure) {
        // Only the first refusal counts: nothing is read after it.
        let _ = self.refusal.set(failure);
        self.head_came(false);
    }

    /// A chunk was refused.
    pub(super) fn breaks(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    /// Whether the head that is awaited is too late.
    pub(super) fn is_late(&self) -> bool {
        self.late.load(Ordering::Relaxed)
    }

    /// What became of the wish for another protocol; `None` if nobody knows yet, and the reader is woken when it is known.
    pub(super) fn upgrade(&self, cx: &Context<'_>) -> Option<bool> {
        match self.upgrade.load(Ordering::Relaxed) {
            WISHED => {
                self.slow().reader = Some(cx.waker().clone());
                None
            }
            decided => {
                self.upgrade.store(NONE, Ordering::Relaxed);
                Some(decided == AGREED)
            }
        }
    }

    /// A client that reads slowly took some bytes. Between two requests they belong to the last answer.
    pub(super) fn slowly_read(&self) {
        if self.is_idle() {
            self.rest();
        } else {
            self.moves();
        }
    }

    // For the handlers.

    /// A handler takes the next request: the failure to answer it with, where the gate refused it.
    #[must_use]
    pub fn take_request(&self) -> Option<Failure> {
        self.silence.store(0, Ordering::Relaxed);
        self.streams.store(false, Ordering::Relaxed);
        self.unwanted.store(false, Ordering::Relaxed);
        let taken = self.taken.fetch_add(1, Ordering::Relaxed) + 1;
        // The marker is the last of the connection.
        if taken == self.heads.load(Ordering::Relaxed) { self.refusal.get().copied() } else { None }
    }

    /// Why a request body broke off.
    #[must_use]
    pub fn breakage(&self) -> Failure {
        if self.broken.load(Ordering::Relaxed) { Failure::Framing(Framing::Chunk) } else { Failure::ClientGone }
    }

    /// The request that was taken has `time` in all, until its answer is out.
    pub fn within(&self, time: Duration) {
        self.deadline.cap(Moment::after(time));
    }

    /// From now on bytes stream, either way: they may be silent for `idle`, and take `total` in all.
    pub fn stream(&self, idle: Duration, total: Duration) {
        self.silence.store(u64::try_from(idle.as_millis()).unwrap_or(u64::MAX).max(1), Ordering::Relaxed);
        self.stream_end.set(Moment::after(total));
        self.moves();
    }

    /// Some bytes of a stream went through.
    pub fn moves(&self) {
        let silence = self.silence.load(Ordering::Relaxed);
        if silence > 0 {
            self.deadline.set_at(Moment::after(Duration::from_millis(silence)).min(self.stream_end.get()));
        }
    }

    /// The request's body streams up, or has ended.
    pub fn set_streaming(&self, streams: bool) {
        self.streams.store(streams, Ordering::Relaxed);
    }

    /// Whether the request's body streams up and has not ended.
    #[must_use]
    pub fn is_streaming(&self) -> bool {
        self.streams.load(Ordering::Relaxed)
    }

    /// The upstream has answered for good: no more of the request's body is sent.
    pub fn stop_streaming(&self) {
        self.unwanted.store(true, Ordering::Relaxed);
    }

    /// The request's body broke off on its way up.
    pub fn body_failed(&self, failure: BodyFailure) {
        self.slow().body_failure = Some(failure);
    }

    /// Why it did, told once.
    #[must_use]
    pub fn body_failure(&self) -> Option<BodyFailure> {
        self.slow().body_failure.take()
    }

    /// Whether no more of the request's body is to be sent.
    #[must_use]
    pub fn is_stopped(&self) -> bool {
        self.unwanted.load(Ordering::Relaxed)
    }

    /// One more answer is out, to the last byte of its body; the codec has `time` to write it.
    pub fn answered(&self, time: Duration) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        self.deadline.uncap();
        if !self.is_idle() {
            // Whoever takes the next one sets its own.
            self.deadline.clear();
        } else {
            // Nothing is read after a wish, so it was this request's.
            self.decide(DECLINED);
            self.written_by.set(Moment::after(time.max(self.limits.idle_time)));
            self.rest();
        }
    }

    /// The request's wish for another protocol is granted; without this word it is not. The tunnel may be silent for `idle` and last for `total`.
    pub fn agree_to_upgrade(&self, idle: Duration, total: Duration) {
        self.deadline.uncap();
        self.stream(idle, total);
        self.decide(AGREED);
    }

    fn decide(&self, verdict: u8) {
        let decided = self.upgrade.compare_exchange(WISHED, verdict, Ordering::Relaxed, Ordering::Relaxed);
        if decided.is_ok()
            && let Some(reader) = self.slow().reader.take()
        {
            reader.wake();
        }
    }

    /// Leaves a tunnel, or what else is to go on behind the answer, to the connection's task.
    pub fn leave_tunnel(&self, tunnel: Tunnel) {
        self.slow().tunnel = Some(tunnel);
    }

    // For the connection's task.

    /// Whether no message is worked on: the deadline is that of the next head, or of the last answer's way out.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.answered.load(Ordering::Relaxed) == self.heads.load(Ordering::Relaxed)
    }

    /// Whether a head may be on its way: the first of the connection, or one of which some bytes are here.
    #[must_use]
    pub fn expects_head(&self) -> bool {
        let is_first = self.heads.load(Ordering::Relaxed) == 0;
        self.is_idle() && (is_first || self.in_head.load(Ordering::Relaxed))
    }

    /// The deadline is due while no message is worked on: whether to go on, to answer that a head is late; else the connection just ends.
    #[must_use]
    pub fn out_of_time(&self) -> bool {
        if !self.in_head.load(Ordering::Relaxed) || self.late.swap(true, Ordering::Relaxed) {
            return false;
        }
        // Answering it has its time too.
        self.deadline.set(LINGER);
        true
    }

    /// The tunnel that was left.
    #[must_use]
    pub fn take_tunnel(&self) -> Option<Tunnel> {
        self.slow().tunnel.take()
    }

    fn rest(&self) {
        let time = if self.in_head.load(Ordering::Relaxed) { self.limits.head_time } else { self.limits.idle_time };
        self.deadline.set_at(Moment::after(time).min(self.written_by.get()));
    }
}
