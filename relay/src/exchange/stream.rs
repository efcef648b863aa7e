//! The bodies that the codec sends: whole or streaming, with total deadlines.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::BoxError;
use super::up::Driven;
use crate::admit::GateHandle;
use crate::body::Outgoing;
use crate::config::resolved::MessageLimits;
use crate::metrics::Held;

/// A streamed body was too slow.
#[derive(Debug, thiserror::Error)]
#[error("a streamed body took too long")]
pub struct TooSlow;

/// Total and idle time of a streamed body. One timer, looked at only while nothing comes.
struct Pace {
    end: Instant,
    idle: Duration,
    last: Instant,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    fn new(limits: &MessageLimits) -> Self {
        let now = Instant::now();
        Self { end: now + limits.stream_time, idle: limits.stream_idle, last: now, timer: None }
    }

    fn moved(&mut self) {
        self.last = Instant::now();
    }

    /// Ready when the body's time is over.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let due = self.end.min(self.last + self.idle);
            if Instant::now() >= due {
                return Poll::Ready(());
            }
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(due)));
            // The timer may be set for an earlier moment than is due now; it is set again only when it has fired.
            ready!(timer.as_mut().poll(cx));
            self.timer = None;
        }
    }
}

use std::future::Future;

/// A body on its way to the upstream.
pub enum UpBody {
    /// None, or one that was sent.
    Empty,
    /// A body of known length.
    Whole(Full<Bytes>),
    /// The client's, as it comes.
    Stream(Box<Paced<Incoming>>),
}

/// A streamed body with its deadlines.
pub struct Paced<B> {
    body: B,
    pace: Pace,
}

impl<B> Paced<B> {
    /// Starts the body's time.
    pub fn new(body: B, limits: &MessageLimits) -> Self {
        Self { body, pace: Pace::new(limits) }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Paced<B>
where
    B::Error: Into<BoxError>,
{
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(frame) => {
                self.pace.moved();
                Poll::Ready(frame.map(|f| f.map_err(Into::into)))
            }
            Poll::Pending => {
                ready!(self.pace.poll(cx));
                Poll::Ready(Some(Err(Box::new(TooSlow))))
            }
        }
    }
}

impl UpBody {
    /// What one attempt sends.
    pub fn new(outgoing: Outgoing<Incoming>, limits: &MessageLimits) -> Self {
        match outgoing {
            Outgoing::None => Self::Empty,
            Outgoing::Whole(bytes) if bytes.is_empty() => Self::Empty,
            Outgoing::Whole(bytes) => Self::Whole(Full::new(bytes)),
            Outgoing::Stream(body) if body.is_end_stream() => Self::Empty,
            Outgoing::Stream(body) => Self::Stream(Box::new(Paced::new(body, limits))),
        }
    }
}

impl Body for UpBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        match self.get_mut() {
            Self::Empty => Poll::Ready(None),
            Self::Whole(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Stream(body) => body.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Whole(body) => body.is_end_stream(),
            Self::Stream(body) => body.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Whole(body) => body.size_hint(),
            Self::Stream(body) => body.body.size_hint(),
        }
    }
}

/// A body on its way to the client.
pub struct DownBody {
    kind: Down,
    done: Done,
}

enum Down {
    Whole(Full<Bytes>),
    Stream(Box<Paced<Driven>>),
}

/// Counts an answer as out when its body is through, or dropped.
pub struct Done {
    gate: GateHandle,
    _in_flight: Option<Held>,
}

impl Done {
    /// Guards one request.
    #[must_use]
    pub fn new(gate: GateHandle) -> Self {
        Self { gate, _in_flight: None }
    }

    /// Also keeps a gauge up until then.
    pub fn hold(&mut self, in_flight: Held) {
        self._in_flight = Some(in_flight);
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        self.gate.answered();
    }
}

impl DownBody {
    /// A whole body.
    #[must_use]
    pub fn whole(bytes: Bytes, done: Done) -> Self {
        Self { kind: Down::Whole(Full::new(bytes)), done }
    }

    /// The upstream's body, as it comes.
    #[must_use]
    pub fn stream(body: Driven, limits: &MessageLimits, done: Done) -> Self {
        Self { kind: Down::Stream(Box::new(Paced::new(body, limits))), done }
    }
}

impl Body for DownBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let body = self.get_mut();
        let _ = &body.done;
        match &mut body.kind {
            Down::Whole(whole) => Pin::new(whole).poll_frame(cx).map_err(|never| match never {}),
            Down::Stream(stream) => stream.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Down::Whole(whole) => whole.is_end_stream(),
            Down::Stream(stream) => stream.body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Down::Whole(whole) => whole.size_hint(),
            Down::Stream(stream) => stream.body.size_hint(),
        }
    }
}
