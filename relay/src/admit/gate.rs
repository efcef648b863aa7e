//! The byte stream between the socket and the codec: every head and chunk is read strictly before the codec sees it.
//!
//! What is refused never reaches the codec. Requests that came before it on the connection are answered first; then the codec sees
//! the end of the stream, and the gate writes its own answer where the codec would only close.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Buf, Bytes, BytesMut};
use hyper::rt::ReadBufCursor;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;
use tokio_util::io::poll_read_buf;

use super::chunked::Chunked;
use super::head::{self, BodyFraming};
use crate::config::resolved::ConnectionLimits;
use crate::error::Framing;

/// Bytes asked for at a time.
const READ_SIZE: usize = 8 * 1024;

/// Most bytes that are read and thrown away after a refusal, so that the client gets to read the answer.
const LINGER_MAX: usize = 256 * 1024;

/// Where the stream is in the message that comes in.
#[derive(Debug)]
enum Phase {
    /// Between messages, or inside a head of which this many bytes were looked at.
    Head { seen: usize, line_start: usize },
    /// Inside a body, with this much to come.
    Length(u64),
    /// Inside a chunked body.
    Chunked(Box<Chunked>),
    /// After a head that asks for another protocol: nobody knows yet what follows.
    Undecided,
    /// Another protocol was agreed on: bytes are bytes.
    Raw,
    /// Refused between two messages.
    Refused,
    /// Refused inside a body: the codec is told so.
    Broken,
}

/// What gate, handlers and the connection's task tell each other.
#[derive(Debug, Default)]
struct Shared {
    /// Heads that were let through.
    heads: AtomicU64,
    /// Answers that were given, to the last byte.
    answered: AtomicU64,
    slow: Mutex<Slow>,
}

#[derive(Debug, Default)]
struct Slow {
    refusal: Option<Framing>,
    /// Written before the stream is shut down.
    farewell: Option<Bytes>,
    /// What became of the wish for another protocol.
    upgraded: Option<bool>,
    reader: Option<Waker>,
    deadline: Option<Instant>,
    in_head: bool,
    given_up: bool,
    /// The refusal was of a head, which no handler saw: the answer to it is the farewell.
    unheard: bool,
    /// The farewell was handed over.
    said: bool,
}

/// The handlers' and the task's end of a gate; cheap to clone.
#[derive(Debug, Clone)]
pub struct GateHandle(Arc<Shared>);

impl GateHandle {
    fn slow(&self) -> MutexGuard<'_, Slow> {
        self.0.slow.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the gate refused, if it did. A handler whose body breaks off looks here for the cause.
    #[must_use]
    pub fn refusal(&self) -> Option<Framing> {
        self.slow().refusal
    }

    /// The refusal of a head that still needs its answer.
    #[must_use]
    pub fn unanswered(&self) -> Option<Framing> {
        let slow = self.slow();
        slow.refusal.filter(|_| slow.unheard && !slow.said)
    }

    /// What is written when the codec is through with the earlier requests and closes.
    pub fn say_farewell(&self, answer: Bytes) {
        let mut slow = self.slow();
        slow.farewell = Some(answer);
        slow.said = true;
        drop(slow);
        self.wake();
    }

    /// One more answer is out, to its last byte.
    pub fn answered(&self) {
        self.0.answered.fetch_add(1, Ordering::Relaxed);
        self.wake();
    }

    /// Tells what became of the request's wish for another protocol.
    pub fn decide_upgrade(&self, agreed: bool) {
        self.slow().upgraded = Some(agreed);
        self.wake();
    }

    /// When the head that is awaited must be complete, or the idle connection is closed; `None` while a message is worked on.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.slow().deadline
    }

    /// Whether some bytes of a head have come.
    #[must_use]
    pub fn in_head(&self) -> bool {
        self.slow().in_head
    }

    /// The codec sees the end of the stream from now on; whatever is left to do has until `deadline`.
    pub fn give_up(&self, deadline: Instant) {
        let mut slow = self.slow();
        slow.given_up = true;
        slow.deadline = Some(deadline);
    }

    fn all_answered(&self) -> bool {
        self.0.answered.load(Ordering::Relaxed) >= self.0.heads.load(Ordering::Relaxed)
    }

    fn wake(&self) {
        let reader = self.slow().reader.take();
        if let Some(reader) = reader {
            reader.wake();
        }
    }
}

/// A connection behind the gate.
#[derive(Debug)]
pub struct Gate<S> {
    stream: S,
    buffer: BytesMut,
    /// Bytes at the start of the buffer that the codec may have.
    released: usize,
    phase: Phase,
    shared: GateHandle,
    limits: ConnectionLimits,
    lingered: usize,
    shut: bool,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Gate<S> {
    /// Guards a fresh connection; the time for its first head runs from now.
    pub fn new(stream: S, limits: ConnectionLimits) -> (Self, GateHandle) {
        let shared = GateHandle(Arc::default());
        shared.slow().deadline = Some(Instant::now() + limits.head_time);
        let gate = Self {
            stream,
            buffer: BytesMut::new(),
            released: 0,
            phase: Phase::Head { seen: 0, line_start: 0 },
            shared: shared.clone(),
            limits,
            lingered: 0,
            shut: false,
        };
        (gate, shared)
    }

    /// Looks at all bytes that have come, and releases what is beyond doubt.
    fn examine(&mut self) {
        while self.released < self.buffer.len() {
            let fresh = &self.buffer[self.released..];
            match &mut self.phase {
                Phase::Head { seen, line_start } => match find_end(fresh, seen, line_start) {
                    Ok(Some(end)) if end <= self.limits.head_bytes => self.head(end),
                    Ok(None) if fresh.len() < self.limits.head_bytes => {
                        self.head_begun();
                        return;
                    }
                    Ok(_) => return self.refuse(Framing::HeadTooLarge, Phase::Refused),
                    Err(fault) => return self.refuse(fault, Phase::Refused),
                },
                Phase::Length(left) => {
                    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(fresh.len());
                    *left -= n as u64;
                    self.released += n;
                    if *left == 0 {
                        self.phase = Phase::Head { seen: 0, line_start: 0 };
                    }
                }
                Phase::Chunked(body) => match body.read(fresh) {
                    Ok(n) => {
                        self.released += n;
                        if body.is_done() {
                            self.phase = Phase::Head { seen: 0, line_start: 0 };
                        }
                    }
                    Err(fault) => return self.refuse(fault, Phase::Broken),
                },
                Phase::Raw => self.released = self.buffer.len(),
                Phase::Undecided | Phase::Refused | Phase::Broken => return,
            }
        }
    }

    fn head(&mut self, end: usize) {
        let from = self.released;
        // RFC 9112 §2.2: one empty line before a request is overlooked; the codec need not see it.
        let head = &self.buffer[from..from + end];
        match head::read(head.strip_prefix(b"\r\n").unwrap_or(head), self.limits.head_fields) {
            Ok(head) => {
                self.released += end;
                self.shared.0.heads.fetch_add(1, Ordering::Relaxed);
                let mut slow = self.shared.slow();
                slow.deadline = None;
                slow.in_head = false;
                drop(slow);
                self.phase = match head.body {
                    _ if head.upgrade => Phase::Undecided,
                    BodyFraming::Length(0) => Phase::Head { seen: 0, line_start: 0 },
                    BodyFraming::Length(length) => Phase::Length(length),
                    BodyFraming::Chunked => Phase::Chunked(Box::default()),
                };
            }
            Err(fault) => self.refuse(fault, Phase::Refused),
        }
    }

    /// The first bytes of a head are here, and the rest has to follow in its time.
    fn head_begun(&self) {
        let mut slow = self.shared.slow();
        if !slow.in_head {
            slow.in_head = true;
            let deadline = Instant::now() + self.limits.head_time;
            // The first head's time runs from the accept.
            slow.deadline =
                Some(slow.deadline.filter(|_| self.shared.0.heads.load(Ordering::Relaxed) == 0).unwrap_or(deadline));
        }
    }

    fn refuse(&mut self, fault: Framing, phase: Phase) {
        self.buffer.truncate(self.released);
        let unheard = matches!(phase, Phase::Refused);
        self.phase = phase;
        let mut slow = self.shared.slow();
        slow.unheard = unheard;
        slow.refusal = Some(fault);
        slow.deadline = None;
    }

    /// Reads into our buffer; 0 at the end of the stream.
    fn fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.buffer.is_empty() && self.buffer.capacity() < READ_SIZE / 2 {
            // Taken only now that something may come, and given back when it is empty: idle connections hold no buffer.
            self.buffer = BytesMut::new();
        }
        self.buffer.reserve(READ_SIZE);
        let polled = poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.buffer);
        if polled.is_pending() && self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        polled
    }
}

/// The end of a head, counted from its start: after the first empty line that is not its first. Remembers how far it looked.
fn find_end(fresh: &[u8], seen: &mut usize, line_start: &mut usize) -> Result<Option<usize>, Framing> {
    while let Some(at) = memchr::memchr(b'\n', &fresh[*seen..]) {
        let at = *seen + at;
        let line = fresh[*line_start..at].strip_suffix(b"\r").ok_or(Framing::BareLineEnd)?;
        let first = *line_start == 0;
        let empty = line.is_empty();
        *seen = at + 1;
        *line_start = at + 1;
        if empty && !first {
            return Ok(Some(at + 1));
        }
    }
    *seen = fresh.len();
    Ok(None)
}

impl<S: AsyncRead + AsyncWrite + Unpin> hyper::rt::Read for Gate<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, mut out: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        let gate = &mut *self;
        loop {
            if gate.released > 0 {
                let n = gate.released.min(out.remaining());
                out.put_slice(&gate.buffer[..n]);
                gate.buffer.advance(n);
                gate.released -= n;
                return Poll::Ready(Ok(()));
            }
            match gate.phase {
                Phase::Broken => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
                Phase::Refused => {
                    gate.shared.slow().reader = Some(cx.waker().clone());
                    // The codec takes the end of the stream for a client that left, so the earlier requests come first; and once it
                    // closes, the farewell has to be there.
                    let said = gate.shared.slow().said;
                    return if said && gate.shared.all_answered() { Poll::Ready(Ok(())) } else { Poll::Pending };
                }
                Phase::Undecided => {
                    let mut slow = gate.shared.slow();
                    match slow.upgraded.take() {
                        Some(agreed) => {
                            drop(slow);
                            gate.phase = if agreed { Phase::Raw } else { Phase::Head { seen: 0, line_start: 0 } };
                            gate.examine();
                            continue;
                        }
                        None => {
                            slow.reader = Some(cx.waker().clone());
                            return Poll::Pending;
                        }
                    }
                }
                Phase::Head { seen, .. } if gate.shared.all_answered() => {
                    let mut slow = gate.shared.slow();
                    if slow.given_up {
                        return Poll::Ready(Ok(()));
                    }
                    if seen == 0 && slow.deadline.is_none() {
                        slow.deadline = Some(Instant::now() + gate.limits.idle_time);
                    }
                }
                _ => {}
            }
            if ready!(gate.fill(cx))? == 0 {
                return Poll::Ready(Ok(()));
            }
            gate.examine();
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> hyper::rt::Write for Gate<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let gate = &mut *self;
        loop {
            let farewell = gate.shared.slow().farewell.take();
            let Some(mut farewell) = farewell else { break };
            match Pin::new(&mut gate.stream).poll_write(cx, &farewell) {
                Poll::Ready(Ok(n)) if n < farewell.len() => {
                    farewell.advance(n);
                    gate.shared.slow().farewell = Some(farewell);
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Pending => {
                    gate.shared.slow().farewell = Some(farewell);
                    return Poll::Pending;
                }
            }
        }
        if !gate.shut {
            ready!(Pin::new(&mut gate.stream).poll_flush(cx))?;
            ready!(Pin::new(&mut gate.stream).poll_shutdown(cx))?;
            gate.shut = true;
        }
        if matches!(gate.phase, Phase::Head { seen: 0, .. } | Phase::Raw) {
            return Poll::Ready(Ok(()));
        }
        // Something was left unread. Closing now would reset the connection and could take our answer with it, so read a while.
        let mut waste = [0u8; 4096];
        while gate.lingered < LINGER_MAX {
            let mut into = ReadBuf::new(&mut waste);
            ready!(Pin::new(&mut gate.stream).poll_read(cx, &mut into))?;
            match into.filled().len() {
                0 => break,
                n => gate.lingered += n,
            }
        }
        Poll::Ready(Ok(()))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }
}
