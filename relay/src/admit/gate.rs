//! The byte stream between the socket and the codec: every head and chunk is read strictly before the codec sees it.
//!
//! Bytes go straight into the codec's buffer and are looked at there; what is not beyond doubt is taken back before the codec is told of it. Only
//! a head that comes in pieces is collected here first. In the place of a head that is refused the codec gets [`MARKER`], a request of our own: so
//! earlier requests are answered first, and the refusal in its turn by a handler, like any other request.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

use super::chunked::Chunked;
use super::conversation::{Conversation, LINGER, LINGER_MAX};
use super::head::{self, BodyFraming};
use crate::error::{Failure, Framing};

/// What the codec gets in the place of a refused head. It is the last request of its connection.
const MARKER: &[u8] = b"GET / HTTP/1.1\r\nHost: refused.invalid\r\nConnection: close\r\n\r\n";

/// Bytes asked for at a time while a head comes in pieces.
const PIECE: usize = 4 * 1024;

/// Where the stream is in the message that comes in.
#[derive(Debug)]
enum Phase {
    /// Between messages, or inside a head.
    Head(Progress),
    /// Inside a body, with this much to come.
    Length(u64),
    /// Inside a chunked body.
    Chunked(Box<Chunked>),
    /// After a message whose head asks for another protocol: nobody knows yet what follows.
    Undecided,
    /// Another protocol was agreed on: bytes are bytes.
    Raw,
    /// Refused between two messages: the codec has its marker.
    Refused,
    /// Refused inside a body: the codec is told so.
    Broken,
}

/// How far a head was looked at, from its first byte.
#[derive(Debug, Default, Clone, Copy)]
struct Progress {
    seen: usize,
    line: usize,
}

/// A connection behind the gate.
#[derive(Debug)]
pub struct Gate<S> {
    stream: S,
    phase: Phase,
    /// The message that comes in asks for another protocol.
    wishes: bool,
    /// Bytes taken back from the codec: a head that is not complete, or what follows a wish for another protocol.
    held: BytesMut,
    /// Bytes at the start of `held` that the codec may have.
    released: usize,
    conversation: Arc<Conversation>,
    /// The last write found no room.
    blocked: bool,
    shut: bool,
    lingered: usize,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Gate<S> {
    /// Guards a fresh connection.
    pub fn new(stream: S, conversation: Arc<Conversation>) -> Self {
        Self {
            stream,
            phase: Phase::Head(Progress::default()),
            wishes: false,
            held: BytesMut::new(),
            released: 0,
            conversation,
            blocked: false,
            shut: false,
            lingered: 0,
        }
    }

    /// The stream, and what was read from it and not given to the codec: for a connection that HTTP has left.
    pub fn into_parts(self) -> (S, BytesMut) {
        (self.stream, self.held)
    }

    /// Looks at bytes that have come: the number of them, from the start, that the codec may have.
    fn examine(&mut self, bytes: &[u8]) -> usize {
        let mut passed = 0;
        while passed < bytes.len() {
            let fresh = &bytes[passed..];
            match &mut self.phase {
                Phase::Head(progress) => match find_end(fresh, progress) {
                    Ok(Some(end)) if end <= self.conversation.limits().head_bytes => {
                        match head::read(overlooked(&fresh[..end]), self.conversation.limits().head_fields) {
                            Ok(head) => {
                                passed += end;
                                self.wishes = head.upgrade;
                                self.phase = match head.body {
                                    BodyFraming::Length(0) => self.next(),
                                    BodyFraming::Length(length) => Phase::Length(length),
                                    BodyFraming::Chunked => Phase::Chunked(Box::default()),
                                };
                                self.conversation.head_came(head.upgrade);
                            }
                            Err(fault) => {
                                self.refuse(Failure::Framing(fault));
                                return passed;
                            }
                        }
                    }
                    Ok(None) if fresh.len() < self.conversation.limits().head_bytes => {
                        self.conversation.head_begins();
                        return passed;
                    }
                    Ok(_) => {
                        self.refuse(Failure::Framing(Framing::HeadTooLarge));
                        return passed;
                    }
                    Err(fault) => {
                        self.refuse(Failure::Framing(fault));
                        return passed;
                    }
                },
                Phase::Length(left) => {
                    let n = usize::try_from(*left).unwrap_or(usize::MAX).min(fresh.len());
                    *left -= n as u64;
                    passed += n;
                    if *left == 0 {
                        self.phase = self.next();
                    }
                }
                Phase::Chunked(body) => match body.read(fresh) {
                    Ok(n) => {
                        passed += n;
                        if body.is_done() {
                            self.phase = self.next();
                        }
                    }
                    Err(_) => {
                        self.conversation.breaks();
                        self.phase = Phase::Broken;
                        return passed;
                    }
                },
                Phase::Raw => return bytes.len(),
                Phase::Undecided | Phase::Refused | Phase::Broken => return passed,
            }
        }
        passed
    }

    /// What follows a message.
    fn next(&self) -> Phase {
        if self.wishes { Phase::Undecided } else { Phase::Head(Progress::default()) }
    }

    fn refuse(&mut self, failure: Failure) {
        self.conversation.refuse(failure);
        self.phase = Phase::Refused;
    }

    /// Looks at what is held.
    fn examine_held(&mut self) {
        let held = std::mem::take(&mut self.held);
        self.released = self.examine(&held);
        self.held = held;
        self.mark();
    }

    /// Puts the marker in the place of a refused head and of everything after it.
    fn mark(&mut self) {
        if matches!(self.phase, Phase::Refused) {
            self.held.truncate(self.released);
            self.held.extend_from_slice(MARKER);
            self.released = self.held.len();
        }
    }

    /// Sees to it that something can be given to the codec: released bytes or, where none can be held back, `true` to read into its buffer.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            if self.released > 0 {
                return Poll::Ready(Ok(false));
            }
            match self.phase {
                Phase::Broken => return Poll::Ready(Err(io::ErrorKind::InvalidData.into())),
                // The codec works on the marker, or will; it needs no more.
                Phase::Refused => return Poll::Pending,
                Phase::Undecided => match self.conversation.upgrade(cx) {
                    None => return Poll::Pending,
                    Some(agreed) => {
                        self.phase = if agreed { Phase::Raw } else { Phase::Head(Progress::default()) };
                        self.examine_held();
                        continue;
                    }
                },
                Phase::Head(_) if self.conversation.is_late() => {
                    self.held.clear();
                    self.refuse(Failure::RequestTimeout);
                    self.mark();
                    continue;
                }
                _ => {}
            }
            if self.held.is_empty() {
                return Poll::Ready(Ok(true));
            }
            self.held.reserve(PIECE);
            if ready!(poll_read_buf(Pin::new(&mut self.stream), cx, &mut self.held))? == 0 {
                // The client left in the middle of a head.
                return Poll::Ready(Ok(false));
            }
            self.examine_held();
        }
    }

    fn wrote(&mut self, polled: &Poll<io::Result<usize>>, offered: usize) {
        match polled {
            Poll::Ready(Ok(n)) => {
                if self.blocked || *n < offered {
                    self.conversation.slowly_read();
                }
                self.blocked = false;
                if matches!(self.phase, Phase::Raw) {
                    self.conversation.moves();
                }
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => self.blocked = true,
        }
    }
}

/// RFC 9112 §2.2: one empty line before a request is overlooked.
fn overlooked(head: &[u8]) -> &[u8] {
    head.strip_prefix(b"\r\n").unwrap_or(head)
}

/// The end of a head, counted from its start: after the first empty line that is not its first. Remembers how far it looked.
fn find_end(fresh: &[u8], progress: &mut Progress) -> Result<Option<usize>, Framing> {
    let Progress { seen, line } = progress;
    while let Some(at) = memchr::memchr(b'\n', &fresh[*seen..]) {
        let at = *seen + at;
        let text = fresh[*line..at].strip_suffix(b"\r").ok_or(Framing::BareLineEnd)?;
        let end = text.is_empty() && *line > 0;
        *seen = at + 1;
        *line = at + 1;
        if end {
            return Ok(Some(at + 1));
        }
    }
    *seen = fresh.len();
    Ok(None)
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gate<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let gate = self.get_mut();
        loop {
            if !ready!(gate.poll_ready(cx))? {
                let n = gate.released.min(out.remaining());
                out.put_slice(&gate.held[..n]);
                gate.held.advance(n);
                gate.released -= n;
                if gate.held.is_empty() {
                    // An idle connection keeps no buffer.
                    gate.held = BytesMut::new();
                }
                return Poll::Ready(Ok(()));
            }
            let before = out.filled().len();
            ready!(Pin::new(&mut gate.stream).poll_read(cx, out))?;
            let fresh = &out.filled()[before..];
            if fresh.is_empty() {
                return Poll::Ready(Ok(()));
            }
            let passed = gate.examine(fresh);
            if matches!(gate.phase, Phase::Raw) {
                gate.conversation.moves();
            }
            if passed < fresh.len() {
                if matches!(gate.phase, Phase::Head(_) | Phase::Undecided) {
                    gate.held.extend_from_slice(&fresh[passed..]);
                }
                out.set_filled(before + passed);
                gate.mark();
            }
            if passed > 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Gate<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let gate = self.get_mut();
        let polled = Pin::new(&mut gate.stream).poll_write(cx, bytes);
        gate.wrote(&polled, bytes.len());
        polled
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let gate = self.get_mut();
        let polled = Pin::new(&mut gate.stream).poll_write_vectored(cx, slices);
        gate.wrote(&polled, slices.iter().map(|s| s.len()).sum());
        polled
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let gate = self.get_mut();
        if !gate.shut {
            ready!(Pin::new(&mut gate.stream).poll_flush(cx))?;
            ready!(Pin::new(&mut gate.stream).poll_shutdown(cx))?;
            gate.shut = true;
            gate.conversation.deadline.set(LINGER);
        }
        if gate.held.is_empty() && matches!(gate.phase, Phase::Head(_) | Phase::Raw) {
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
}
