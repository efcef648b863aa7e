//! The byte stream between the socket and the HTTP/2 codec: a request's head is given to the codec when all of it is here, or never.
//!
//! A head can go on over any number of CONTINUATION frames (RFC 9113 §6.10), and the codec decodes what it has of it with each: work that an
//! attacker asks for without ever making a request (CVE-2024-27316 and its kin). Here frames are only measured. What is longer than a head may be
//! is not decoded at all: in its place the codec gets [`STRAY`], a frame that it must end the connection for.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

/// What stands before the first frame (RFC 9113 §3.4); what it says is the codec's to check.
const PREFACE: usize = 24;

/// The bytes of a frame before its payload (RFC 9113 §4.1).
const FRAME_HEAD: usize = 9;

/// The largest payload that is read; the codec refuses larger ones.
const FRAME_MAX: usize = 16 * 1024;

const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;
const END_HEADERS: u8 = 4;

/// A CONTINUATION of nothing: a connection error (RFC 9113 §6.10), which the client is told.
const STRAY: &[u8] = &[0, 0, 0, CONTINUATION, END_HEADERS, 0, 0, 0, 1];

/// Bytes asked for at a time while a head comes in pieces.
const PIECE: usize = 4 * 1024;

/// Where the stream is.
#[derive(Debug, Clone, Copy)]
enum Phase {
    /// Between two frames, or inside one with this much to come.
    Frames { left: usize },
    /// The codec ends the connection for what it was given: bytes are bytes.
    Judged,
    /// Nothing more is read.
    Ended,
}

/// A connection whose heads reach the codec whole.
#[derive(Debug)]
pub struct Blocks<S> {
    stream: S,
    phase: Phase,
    /// Most bytes of a head in its frames.
    most: usize,
    /// Bytes that the codec does not have yet: first those it may have, then the beginning of a frame or head.
    held: BytesMut,
    /// Bytes at the start of `held` that the codec may have.
    released: usize,
}

/// A frame as its head describes it.
struct Frame {
    length: usize,
    kind: u8,
    ends_head: bool,
    stream: [u8; 4],
}

impl Frame {
    fn read(bytes: &[u8]) -> Option<Self> {
        let &[a, b, c, kind, flags, ref stream @ ..] = bytes.first_chunk::<FRAME_HEAD>()?;
        let length = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        Some(Self { length, kind, ends_head: flags & END_HEADERS != 0, stream: *stream })
    }
}

impl<S> Blocks<S> {
    /// Over a connection whose preface is still to be read; a head may have `most` bytes, encoded.
    pub fn new(stream: S, most: usize) -> Self {
        Self { stream, phase: Phase::Frames { left: PREFACE }, most, held: BytesMut::new(), released: 0 }
    }

    /// The number of bytes, from the start, that the codec may have.
    fn examine(&mut self, bytes: &[u8]) -> usize {
        let Phase::Frames { mut left } = self.phase else { return bytes.len() };
        let mut passed = 0;
        loop {
            let n = left.min(bytes.len() - passed);
            (passed, left) = (passed + n, left - n);
            self.phase = Phase::Frames { left };
            if left > 0 {
                return passed;
            }
            let fresh = &bytes[passed..];
            let Some(frame) = Frame::read(fresh) else { return passed };
            left = FRAME_HEAD + frame.length;
            if frame.kind != HEADERS || frame.ends_head || frame.length > FRAME_MAX {
                continue;
            }
            match whole(fresh, &frame) {
                Head::Whole(length) if length <= self.most => left = length,
                Head::Part if fresh.len() < self.most => return passed,
                Head::Whole(_) | Head::Part => {
                    self.phase = Phase::Ended;
                    return passed;
                }
                Head::Broken => {
                    self.phase = Phase::Judged;
                    return bytes.len();
                }
            }
        }
    }

    /// Looks at what is held, and gives the codec what it may have.
    fn release(&mut self) {
        let held = std::mem::take(&mut self.held);
        self.released = self.examine(&held);
        self.held = held;
        self.end();
    }

    fn end(&mut self) {
        if matches!(self.phase, Phase::Ended) {
            self.held.truncate(self.released);
            self.held.extend_from_slice(STRAY);
            self.released = self.held.len();
        }
    }
}

/// A head that goes on after its first frame.
enum Head {
    /// It has this many bytes, with those of its frames.
    Whole(usize),
    /// There is more to come.
    Part,
    /// Something else comes before its end, which the codec refuses.
    Broken,
}

fn whole(bytes: &[u8], first: &Frame) -> Head {
    let mut end = FRAME_HEAD + first.length;
    loop {
        let Some(next) = bytes.get(end..).and_then(Frame::read) else { return Head::Part };
        if next.kind != CONTINUATION || next.stream != first.stream || next.length > FRAME_MAX {
            return Head::Broken;
        }
        end += FRAME_HEAD + next.length;
        if next.ends_head {
            return Head::Whole(end);
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Blocks<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.released > 0 {
                let n = this.released.min(out.remaining());
                out.put_slice(&this.held[..n]);
                this.held.advance(n);
                this.released -= n;
                if this.held.is_empty() {
                    // Its room is not kept by a connection that waits.
                    this.held = BytesMut::new();
                }
                return Poll::Ready(Ok(()));
            }
            if matches!(this.phase, Phase::Ended) {
                return Poll::Ready(Ok(()));
            }
            if !this.held.is_empty() {
                this.held.reserve(PIECE);
                if ready!(poll_read_buf(Pin::new(&mut this.stream), cx, &mut this.held))? == 0 {
                    return Poll::Ready(Ok(()));
                }
                this.release();
                continue;
            }
            let before = out.filled().len();
            ready!(Pin::new(&mut this.stream).poll_read(cx, out))?;
            let came = out.filled().len() - before;
            let passed = this.examine(&out.filled()[before..]);
            if passed < came {
                this.held.extend_from_slice(&out.filled()[before + passed..]);
                out.set_filled(before + passed);
                this.end();
            }
            if passed > 0 || came == 0 {
                return Poll::Ready(Ok(()));
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Blocks<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use tokio::io::AsyncReadExt;

    use super::*;

    /// What came, in the pieces in which it came.
    struct Pieces(VecDeque<Vec<u8>>);

    impl AsyncRead for Pieces {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            if let Some(mut piece) = self.0.pop_front() {
                let rest = piece.split_off(piece.len().min(out.remaining()));
                out.put_slice(&piece);
                if !rest.is_empty() {
                    self.0.push_front(rest);
                }
            }
            Poll::Ready(Ok(()))
        }
    }

    const MOST: usize = 1000;

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
    }

    fn headers(flags: u8, length: usize) -> Vec<u8> {
        frame(HEADERS, flags, 1, &vec![b'h'; length])
    }

    fn more(flags: u8, length: usize) -> Vec<u8> {
        frame(CONTINUATION, flags, 1, &vec![b'c'; length])
    }

    /// What the codec gets of these frames, which come in pieces of a size.
    async fn given(frames: &[Vec<u8>], piece: usize) -> Vec<u8> {
        let bytes = [&[b'P'; PREFACE][..], &frames.concat()].concat();
        let mut blocks = Blocks::new(Pieces(bytes.chunks(piece).map(<[u8]>::to_vec).collect()), MOST);
        let mut given = Vec::new();
        // Less room than there may be bytes, so that some have to wait for the next turn.
        while blocks.read_buf(&mut bytes::BufMut::limit(&mut given, 700)).await.unwrap() > 0 {}
        given.split_off(PREFACE)
    }

    const PIECES: [usize; 6] = [1, 2, 7, 9, 100, 100_000];

    #[tokio::test]
    async fn whole_heads_pass_however_they_come() {
        let data = || frame(0, 0, 1, &[b'd'; 5000]);
        let frames = [headers(0, 50), more(0, 0), more(END_HEADERS, 60), data(), headers(END_HEADERS, 900), data()];
        for piece in PIECES {
            assert_eq!(given(&frames, piece).await, frames.concat(), "pieces of {piece}");
        }
    }

    #[tokio::test]
    async fn a_head_that_does_not_end_gives_nothing_and_ends_the_connection() {
        let flood = |n, length| std::iter::repeat_n(more(0, length), n);
        let floods: [Vec<_>; 4] = [
            std::iter::once(headers(0, 10)).chain(flood(50, 100)).collect(),
            std::iter::once(headers(0, 0)).chain(flood(500, 0)).collect(),
            vec![headers(0, 10), more(0, 16384)],
            // It ends, but behind what a head may have.
            vec![headers(0, 500), more(END_HEADERS, 500)],
        ];
        for flood in floods {
            for piece in PIECES {
                let frames = [vec![headers(END_HEADERS, 7)], flood.clone()].concat();
                let expected = [&headers(END_HEADERS, 7)[..], STRAY].concat();
                assert_eq!(given(&frames, piece).await, expected, "{} frames in pieces of {piece}", flood.len());
            }
        }
    }

    #[tokio::test]
    async fn what_the_codec_must_refuse_reaches_it() {
        let other = frame(CONTINUATION, END_HEADERS, 3, b"x");
        for frames in [
            [headers(0, 10), other],
            [headers(0, 10), frame(0, 0, 1, b"x")],
            [headers(0, 10), headers(END_HEADERS, 10)],
            [headers(0, 20_000), more(END_HEADERS, 1)],
            [headers(0, 10), more(0, 20_000)],
            [more(END_HEADERS, 5), more(END_HEADERS, 5)],
        ] {
            for piece in PIECES {
                assert_eq!(given(&frames, piece).await, frames.concat());
            }
        }
    }

    #[tokio::test]
    async fn a_head_that_was_cut_off_is_not_given() {
        for piece in PIECES {
            assert_eq!(given(&[headers(0, 10), more(0, 10)], piece).await, b"");
        }
    }
}
