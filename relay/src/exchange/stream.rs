//! The bodies that the codec sends: whole or streaming, with total deadlines.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};

use super::BoxError;
use super::arriving::Arriving;
use super::headers;
use super::records;
use super::up::Driven;
use crate::admit::Conversation;
use crate::admit::conversation::BodyFailure;
use crate::body::{Outgoing, Text};
use crate::config::resolved::MessageLimits;
use crate::error::Failure;
use crate::metrics::Held;

/// A streamed body was too slow.
#[derive(Debug, thiserror::Error)]
#[error("a streamed body took too long")]
pub struct TooSlow;

/// A body on its way to the upstream.
pub enum UpBody {
    /// None, or one that was sent.
    Empty,
    /// A body of known length.
    Whole(Full<Text>),
    /// The client's, as it comes.
    Stream(Box<Rising>),
    /// Record after record, as each is good.
    Records(Box<records::Rising>),
}

/// A request body that streams up. With its end, the time for the response begins.
pub struct Rising {
    body: Arriving,
    conversation: Arc<Conversation>,
    response_time: Duration,
    ended: bool,
}

impl Rising {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.conversation.is_stopped() {
            // The upstream has said all it has to say. The connection ends with its answer, or over HTTP/2 this stream, so nobody waits for the rest.
            return Poll::Pending;
        }
        match Pin::new(&mut self.body).poll_frame(cx) {
            Poll::Ready(Some(Ok(mut frame))) => {
                self.conversation.moves();
                if let Some(trailers) = frame.trailers_mut() {
                    headers::strip_trailers(trailers);
                }
                if self.body.is_end_stream() {
                    self.end();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.conversation.body_failed(BodyFailure { failure: Failure::ClientGone, cut: false });
                Poll::Ready(Some(Err(error.into())))
            }
            Poll::Ready(None) => {
                self.end();
                Poll::Ready(None)
            }
            Poll::Pending if self.conversation.deadline.is_due() => {
                self.conversation.body_failed(BodyFailure { failure: Failure::RequestTimeout, cut: false });
                Poll::Ready(Some(Err(Box::new(TooSlow))))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    fn end(&mut self) {
        if !self.ended {
            self.ended = true;
            self.conversation.set_streaming(false);
            self.conversation.deadline.set(self.response_time);
        }
    }
}

impl UpBody {
    /// What one attempt sends.
    pub fn new(outgoing: Outgoing<Arriving>, conversation: &Arc<Conversation>, limits: &MessageLimits) -> Self {
        match outgoing {
            Outgoing::Whole(text) if !text.is_empty() => Self::Whole(Full::new(text)),
            Outgoing::Stream(body) if !body.is_end_stream() => {
                conversation.set_streaming(true);
                conversation.stream(limits.stream_idle, limits.stream_time);
                Self::Stream(Box::new(Rising {
                    body,
                    conversation: Arc::clone(conversation),
                    response_time: limits.response_time,
                    ended: false,
                }))
            }
            Outgoing::Records(sealed) => {
                Self::Records(Box::new(records::Rising::new(sealed, conversation, limits.response_time)))
            }
            Outgoing::None | Outgoing::Whole(_) | Outgoing::Stream(_) => Self::Empty,
        }
    }

    /// Whether it streams.
    #[must_use]
    pub fn is_stream(&self) -> bool {
        matches!(self, Self::Stream(_) | Self::Records(_))
    }
}

impl Body for UpBody {
    type Data = Text;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Text>, BoxError>>> {
        let polled = match self.get_mut() {
            Self::Empty => return Poll::Ready(None),
            Self::Whole(body) => return Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
            Self::Stream(body) => body.poll_frame(cx),
            Self::Records(records) => records.poll_frame(cx),
        };
        polled.map_ok(|frame| frame.map_data(Text::from))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Whole(body) => body.is_end_stream(),
            Self::Stream(body) => body.body.is_end_stream(),
            Self::Records(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Whole(body) => body.size_hint(),
            Self::Stream(body) => body.body.size_hint(),
            Self::Records(_) => SizeHint::default(),
        }
    }
}

/// Most bytes of a whole body that are given to HTTP/2's codec at a time: it keeps what it has until the client's window opens.
const PIECE: usize = 64 * 1024;

/// A body on its way to the client.
pub struct DownBody {
    kind: Down,
    done: Done,
    /// Some of it is out.
    begun: bool,
    end: Option<End>,
}

/// How long the end of an answer waits for a request that has not ended, on a stream of HTTP/2: what its client sent together with its head is then still held against
/// the stream's state and windows (RFC 9113 §5.1, §6.9.1), which the codec forgets with the answer's end.
const END_WAITS: Duration = Duration::from_millis(20);

/// The end of an answer that waits: with its trailers, if it has any.
struct End {
    wait: Pin<Box<tokio::time::Sleep>>,
    trailers: Option<Frame<Text>>,
}

enum Down {
    Whole(Full<Text>),
    /// A whole body on a stream of HTTP/2, which the codec takes as the client's window allows.
    Pieces(Text),
    Stream(Box<Driven>),
    Records(Box<records::Falling>),
}

/// Counts an answer as out when its body is through, or dropped.
pub struct Done {
    conversation: Arc<Conversation>,
    /// How long the client may read nothing of a body that streams.
    silence: Duration,
    /// How long it may take in all, and to read what the codec has buffered by the end.
    time: Duration,
    in_flight: Option<Held>,
}

impl Done {
    /// Guards one request.
    #[must_use]
    pub fn new(conversation: Arc<Conversation>, silence: Duration, time: Duration) -> Self {
        Self { conversation, silence, time, in_flight: None }
    }

    /// Also keeps a gauge up until then.
    pub fn hold(&mut self, in_flight: Held) {
        self.in_flight = Some(in_flight);
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        self.in_flight = None;
        self.conversation.answered(self.time);
    }
}

impl DownBody {
    /// A whole body.
    #[must_use]
    pub fn whole(text: impl Into<Text>, done: Done) -> Self {
        let text = text.into();
        if text.is_empty() || !done.conversation.is_stream() {
            return Self { kind: Down::Whole(Full::new(text)), done, begun: false, end: None };
        }
        // Over HTTP/1 the codec takes it at once; here it may never, so the client's time runs.
        done.conversation.stream(done.silence, done.time);
        Self { kind: Down::Pieces(text), done, begun: false, end: None }
    }

    /// The upstream's body, as it comes.
    #[must_use]
    pub fn stream(body: Driven, limits: &MessageLimits, done: Done) -> Self {
        done.conversation.stream(limits.stream_idle, limits.stream_time);
        Self { kind: Down::Stream(Box::new(body)), done, begun: false, end: None }
    }

    /// Record after record, as each is good.
    #[must_use]
    pub fn records(records: Box<records::Falling>, limits: &MessageLimits, done: Done) -> Self {
        done.conversation.stream(limits.stream_idle, limits.stream_time);
        Self { kind: Down::Records(records), done, begun: false, end: None }
    }
}

impl Body for DownBody {
    type Data = Text;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Text>, BoxError>>> {
        let body = self.get_mut();
        if body.end.is_none() {
            let trailers = match ready!(body.poll_next(cx)) {
                Some(Ok(frame)) if frame.is_trailers() => Some(frame),
                None => None,
                other => {
                    body.begun = true;
                    return Poll::Ready(other);
                }
            };
            if body.may_end() {
                return Poll::Ready(trailers.map(Ok));
            }
            body.end = Some(End { wait: Box::pin(tokio::time::sleep(END_WAITS)), trailers });
        }
        let Some(end) = &mut body.end else { return Poll::Ready(None) };
        ready!(end.wait.as_mut().poll(cx));
        Poll::Ready(end.trailers.take().map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.is_through() && self.may_end()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Down::Whole(whole) => whole.size_hint(),
            Down::Pieces(rest) => SizeHint::with_exact(rest.len() as u64),
            Down::Stream(stream) => stream.size_hint(),
            Down::Records(_) => SizeHint::default(),
        }
    }
}

impl DownBody {
    /// Whether nothing has to wait for the end of the request.
    fn may_end(&self) -> bool {
        !self.begun || !self.done.conversation.is_stream() || self.done.conversation.has_request()
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Text>, BoxError>>> {
        let body = self;
        let polled = match &mut body.kind {
            Down::Whole(whole) => return Pin::new(whole).poll_frame(cx).map_err(|never| match never {}),
            Down::Pieces(rest) => {
                body.done.conversation.moves();
                let piece = rest.take_front(PIECE);
                return Poll::Ready((!piece.is_empty()).then(|| Ok(Frame::data(piece))));
            }
            Down::Stream(stream) => match Pin::new(&mut **stream).poll_frame(cx) {
                Poll::Ready(frame) => {
                    body.done.conversation.moves();
                    Poll::Ready(frame)
                }
                Poll::Pending if body.done.conversation.deadline.is_due() => Poll::Ready(Some(Err(TooSlow.into()))),
                Poll::Pending => Poll::Pending,
            },
            Down::Records(records) => records.poll_frame(cx),
        };
        polled.map_ok(|frame| frame.map_data(Text::from))
    }

    fn is_through(&self) -> bool {
        match &self.kind {
            Down::Whole(whole) => whole.is_end_stream(),
            Down::Pieces(rest) => rest.is_empty(),
            Down::Stream(stream) => stream.is_end_stream(),
            Down::Records(_) => false,
        }
    }
}
