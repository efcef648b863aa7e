//! HTTP/2 on one connection: hyper reads and writes, and every stream is a task of its own, with a conversation and a deadline of its own.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use hyper::body::Incoming;
use hyper::rt::Executor;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioIo, TokioTimer};
use pingora_core::protocols::Stream;
use pingora_core::server::ShutdownWatch;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};

use super::Edge;
use super::http1::{carry_tunnel, keep_pool_swept};
use super::visit::Visit;
use crate::admit::{Blocks, Conversation, decoded};
use crate::config::resolved::ConnectionLimits;
use crate::deadline::{Deadline, Moment};
use crate::error::Failure;
use crate::exchange::flow::Client;
use crate::exchange::stream::DownBody;
use crate::outbound::connect::Rewound;

/// What a client sends first (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What a client may send of one request body before it is read, at least and at most. A held body comes in this much at a time.
const STREAM_WINDOW: std::ops::RangeInclusive<u32> = 16 * 1024..=256 * 1024;

/// About as much may a client have us keep of all its bodies together without a handler wanting it.
const CONNECTION_BUDGET: u32 = 8 * 1024 * 1024;

/// The windows of a stream and of its connection, which may have so many. Streams whose bodies nobody reads never hold all of the connection's window, so they
/// stall no other: one connection may carry the requests of many, when a proxy has it.
const fn windows(streams: u32) -> (u32, u32) {
    let share = CONNECTION_BUDGET / streams;
    let (least, most) = (*STREAM_WINDOW.start(), *STREAM_WINDOW.end());
    let stream = if share < least {
        least
    } else if share > most {
        most
    } else {
        share
    };
    (stream, stream.saturating_mul(streams))
}

/// Most bytes of one stream's answer that wait for the client's window.
const SEND_BUFFER: usize = 64 * 1024;

/// Streams that a client reset before they were served, and those that were reset for its faults: more end the connection (rapid reset).
const MAX_RESET: usize = 64;

/// A peer is asked for a sign of life after this silence, and has as long to give it.
const PING: Duration = Duration::from_secs(20);

/// How long the goodbye to an idle client may take.
const GOODBYE: Duration = Duration::from_secs(5);

/// The versions of HTTP that a connection can speak.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    Http1,
    Http2,
}

impl Protocol {
    /// What TLS agreed on (RFC 7301).
    pub(super) fn agreed(alpn: Option<&[u8]>) -> Self {
        if alpn == Some(b"h2") { Self::Http2 } else { Self::Http1 }
    }
}

impl Edge {
    /// Serves the requests of a connection in its protocol.
    pub(super) async fn speak<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        self: &Arc<Self>,
        protocol: Protocol,
        stream: S,
        visit: &Arc<Visit>,
        limits: ConnectionLimits,
        shutdown: ShutdownWatch,
    ) {
        match protocol {
            Protocol::Http1 => Box::pin(self.serve(stream, visit, limits, shutdown)).await,
            Protocol::Http2 => Box::pin(self.serve_http2(stream, visit, limits, shutdown)).await,
        }
    }

    /// Serves a plain connection whose first bytes tell its protocol.
    pub(super) async fn plain(
        self: &Arc<Self>,
        mut stream: Stream,
        client: Client,
        first_head: Option<Moment>,
        limits: ConnectionLimits,
        shutdown: ShutdownWatch,
    ) {
        let first_head = first_head.unwrap_or_else(|| Moment::after(limits.head_time));
        let deadline = Deadline::of_this_task().await;
        deadline.set_at(first_head);
        let mut first = BytesMut::new();
        let protocol = loop {
            if first.starts_with(PREFACE) {
                break Protocol::Http2;
            }
            let far = first.len().min(PREFACE.len());
            if first[..far] != PREFACE[..far] {
                break Protocol::Http1;
            }
            match deadline.bound(stream.read_buf(&mut first)).await {
                Some(Ok(n)) if n > 0 => {}
                _ => return,
            }
        };
        drop(deadline);
        let visit = Visit::new(client, Some(first_head));
        let stream = Rewound::new(first.freeze(), stream);
        self.speak(protocol, stream, &visit, limits, shutdown.clone()).await;
        self.go_on::<Rewound<Stream>>(&visit, limits, shutdown).await;
    }

    async fn serve_http2<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        self: &Arc<Self>,
        stream: S,
        visit: &Arc<Visit>,
        limits: ConnectionLimits,
        mut shutdown: ShutdownWatch,
    ) {
        keep_pool_swept();
        let deadline = Deadline::new();
        deadline.set_at(visit.first_head.unwrap_or_else(|| Moment::after(limits.head_time)));
        let streams = Streams(Arc::new(Connection {
            edge: Arc::clone(self),
            visit: Arc::clone(visit),
            limits,
            shutdown: shutdown.clone(),
            deadline: Arc::clone(&deadline),
            open: AtomicUsize::new(0),
            called: Mutex::default(),
        }));
        let service = {
            let streams = streams.clone();
            service_fn(move |request| streams.call(request))
        };
        // What is too large by little is decoded, to be answered.
        let stream = Blocks::new(stream, 2 * limits.head_bytes);
        let (stream_window, connection_window) = windows(limits.streams.max(1));
        let connection = http2::Builder::new(streams)
            .timer(TokioTimer::new())
            .keep_alive_interval(PING)
            .keep_alive_timeout(PING)
            .initial_stream_window_size(stream_window)
            .initial_connection_window_size(connection_window)
            .max_concurrent_streams(limits.streams)
            .max_header_list_size(u32::try_from(limits.head_bytes).unwrap_or(u32::MAX))
            .max_send_buf_size(SEND_BUFFER)
            .max_pending_accept_reset_streams(MAX_RESET)
            .max_local_error_reset_streams(MAX_RESET)
            .auto_date_header(false)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let mut leaving = pin!(async move {
            // Ends when the process starts to drain; a closed channel is a process that is ending.
            let _ = shutdown.changed().await;
        });
        let (mut left, mut idle) = (false, false);
        poll_fn(|cx| {
            deadline.wake(cx);
            loop {
                if connection.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                if !left && leaving.as_mut().poll(cx).is_ready() {
                    left = true;
                    connection.as_mut().graceful_shutdown();
                    continue;
                }
                if !deadline.is_due() {
                    return Poll::Pending;
                }
                // Nothing came in time, or nothing more: the client is told, and then has a moment to see it.
                if std::mem::replace(&mut idle, true) {
                    return Poll::Ready(());
                }
                connection.as_mut().graceful_shutdown();
                deadline.set(GOODBYE);
            }
        })
        .await;
    }
}

/// The streams of one connection: called by the codec for each request, which right after hands over the task that is to work on it.
#[derive(Clone)]
struct Streams(Arc<Connection>);

struct Connection {
    edge: Arc<Edge>,
    visit: Arc<Visit>,
    limits: ConnectionLimits,
    shutdown: ShutdownWatch,
    /// For the first request, and for the silence after the last.
    deadline: Arc<Deadline>,
    /// Streams that are worked on.
    open: AtomicUsize,
    /// The request for which the codec has called and whose task it has not handed over yet.
    called: Mutex<Option<Call>>,
}

struct Call {
    conversation: Arc<Conversation>,
    visit: Arc<Visit>,
}

impl Streams {
    fn call(
        &self,
        request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<DownBody>, h2::Error>> + Send + use<> {
        let connection = &self.0;
        let (mut head, body) = request.into_parts();
        let refusal = decoded::settle(&mut head, connection.limits.head_fields).err().map(Failure::Framing);
        let request = Request::from_parts(head, body);
        let conversation = Conversation::of_stream(connection.limits, refusal);
        let (edge, visit) = (Arc::clone(&connection.edge), connection.visit.of_stream());
        let call = Call { conversation: Arc::clone(&conversation), visit: Arc::clone(&visit) };
        *connection.called.lock().unwrap_or_else(PoisonError::into_inner) = Some(call);
        async move {
            let mut answer = Box::pin(edge.answer(request, visit, Arc::clone(&conversation)));
            poll_fn(|cx| {
                let polled = answer.as_mut().poll(cx);
                // Found while the body was read, which happens in here.
                if conversation.is_malformed() {
                    return Poll::Ready(Err(h2::Reason::PROTOCOL_ERROR.into()));
                }
                polled.map(Ok)
            })
            .await
        }
    }

    /// Works on a stream as long as its deadline allows; what is dropped before its end is reset.
    async fn carry(self, stream: impl Future<Output = ()>, call: Call, _open: Open) {
        let Call { conversation, visit } = call;
        let deadline = &conversation.deadline;
        {
            let mut stream = pin!(stream);
            poll_fn(|cx| {
                deadline.wake(cx);
                // Whoever works on the message has its turn first, to answer that it is late: what is left then is a client that does not read.
                if stream.as_mut().poll(cx).is_ready() || deadline.is_due() {
                    return Poll::Ready(());
                }
                Poll::Pending
            })
            .await;
        }
        carry_tunnel(&conversation).await;
        let Connection { edge, limits, shutdown, .. } = &*self.0;
        edge.go_on_stream(&visit, *limits, shutdown.clone()).await;
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Streams {
    fn execute(&self, work: F) {
        match self.0.called.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(call) => {
                let open = Open::count(&self.0);
                tokio::spawn(self.clone().carry(work, call, open));
            }
            // It moves the bytes of a tunnel, and ends with it.
            None => {
                tokio::spawn(work);
            }
        }
    }
}

/// Counts a stream as open until it is dropped. With the last one the connection's idle time begins.
struct Open(Arc<Connection>);

impl Open {
    fn count(connection: &Arc<Connection>) -> Self {
        connection.open.fetch_add(1, Ordering::Relaxed);
        connection.deadline.clear();
        Self(Arc::clone(connection))
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        if self.0.open.fetch_sub(1, Ordering::Relaxed) == 1 {
            self.0.deadline.set(self.0.limits.idle_time);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_streams_of_a_connection_fit_into_its_window() {
        for streams in 1..=1000 {
            let (stream, connection) = windows(streams);
            assert!(STREAM_WINDOW.contains(&stream), "{streams}: {stream}");
            assert!(u64::from(stream) * u64::from(streams) <= u64::from(connection), "{streams}");
            assert!(connection <= 2 * CONNECTION_BUDGET, "{streams}: {connection}");
        }
    }
}
