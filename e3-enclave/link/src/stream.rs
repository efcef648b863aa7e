//! One connection, whatever carries it.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, BufReader, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsStream;
use tokio_vsock::VsockStream;

/// Most bytes of one write on vsock: a guest's write of more than 32 KiB can hang the connection.
pub const VSOCK_WRITE_MAX: usize = 16 * 1024;

/// Bytes that are read ahead under TLS, whose library asks for 4 KiB at a time.
const AHEAD: usize = 64 * 1024;

/// A stream that is read ahead.
pub(crate) type Ahead = BufReader<Stream>;

/// A connection to or from an endpoint.
#[derive(Debug)]
pub struct Stream(Inner);

#[derive(Debug)]
enum Inner {
    Vsock(VsockStream),
    Unix(UnixStream),
    /// A Unix stream behind which a vsock continues.
    Hybrid(UnixStream),
    Tcp(TcpStream),
    /// A TLS session over one of the others.
    Tls(Box<TlsStream<Ahead>>),
}

impl Stream {
    pub(crate) fn tls(session: TlsStream<Ahead>) -> Self {
        Self(Inner::Tls(Box::new(session)))
    }

    /// The stream as a TLS session wants it: read ahead.
    pub(crate) fn ahead(self) -> Ahead {
        BufReader::with_capacity(AHEAD, self)
    }

    /// Keying material of the session (RFC 8446 §7.5), the same at both ends and nowhere else; `None` on a plain stream.
    #[must_use]
    pub fn exporter(&self, label: &[u8]) -> Option<[u8; 32]> {
        let Inner::Tls(session) = &self.0 else { return None };
        match session.as_ref() {
            TlsStream::Client(s) => s.get_ref().1.export_keying_material([0; 32], label, None).ok(),
            TlsStream::Server(s) => s.get_ref().1.export_keying_material([0; 32], label, None).ok(),
        }
    }

    pub(crate) fn hybrid(stream: UnixStream) -> Self {
        Self(Inner::Hybrid(stream))
    }

    fn write_max(&self) -> usize {
        match self.0 {
            Inner::Vsock(_) | Inner::Hybrid(_) => VSOCK_WRITE_MAX,
            Inner::Unix(_) | Inner::Tcp(_) | Inner::Tls(_) => usize::MAX,
        }
    }
}

impl From<VsockStream> for Stream {
    fn from(stream: VsockStream) -> Self {
        Self(Inner::Vsock(stream))
    }
}

impl From<UnixStream> for Stream {
    fn from(stream: UnixStream) -> Self {
        Self(Inner::Unix(stream))
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Self(Inner::Tcp(stream))
    }
}

macro_rules! each {
    ($stream:expr, $inner:ident => $call:expr) => {
        match &mut $stream.get_mut().0 {
            Inner::Vsock($inner) => $call,
            Inner::Unix($inner) | Inner::Hybrid($inner) => $call,
            Inner::Tcp($inner) => $call,
            Inner::Tls($inner) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, s => Pin::new(s).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let buf = &buf[..buf.len().min(self.write_max())];
        each!(self, s => Pin::new(s).poll_write(cx, buf))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let max = self.write_max();
        let mut total = 0;
        let fit = bufs.iter().take_while(|b| {
            total += b.len();
            total <= max
        });
        match (fit.count(), bufs) {
            // The first slice alone is over the limit: a part of it.
            (0, [first, ..]) => self.poll_write(cx, first),
            (n, _) => each!(self, s => Pin::new(s).poll_write_vectored(cx, &bufs[..n])),
        }
    }

    fn is_write_vectored(&self) -> bool {
        !matches!(self.0, Inner::Vsock(_))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, s => Pin::new(s).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, s => Pin::new(s).poll_shutdown(cx))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Sizes of the writes that take these pieces away, each write all that is left of them.
    async fn writes(stream: &mut Stream, pieces: &[&[u8]]) -> Vec<usize> {
        let mut left: Vec<IoSlice<'_>> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
        let mut left = &mut left[..];
        let mut sizes = Vec::new();
        while !left.is_empty() {
            let written = stream.write_vectored(left).await.unwrap();
            sizes.push(written);
            IoSlice::advance_slices(&mut left, written);
        }
        sizes
    }

    #[tokio::test]
    async fn no_write_towards_a_vsock_is_over_its_limit_and_every_byte_arrives() {
        let long: Vec<u8> = (0..50_000_u32).map(|at| (at % 251) as u8).collect();
        let pieces: [&[u8]; 6] = [&long[..9], &long, &long[..VSOCK_WRITE_MAX], &long[..16_000], &long[..400], b"end"];
        let (near, mut far) = UnixStream::pair().unwrap();
        let mut stream = Stream::hybrid(near);
        let reader = tokio::spawn(async move {
            let mut read = Vec::new();
            far.read_to_end(&mut read).await.unwrap();
            read
        });
        let sizes = writes(&mut stream, &pieces).await;
        let first = stream.write(&long).await.unwrap();
        stream.write_all(&long[first..]).await.unwrap();
        drop(stream);
        assert!(first <= VSOCK_WRITE_MAX && sizes.iter().all(|size| *size <= VSOCK_WRITE_MAX), "{first}, {sizes:?}");
        assert!(sizes.contains(&VSOCK_WRITE_MAX), "{sizes:?}");
        assert!(reader.await.unwrap() == [pieces.concat(), long].concat(), "bytes were lost or moved");
    }

    #[tokio::test]
    async fn other_streams_take_as_much_as_there_is_room_for() {
        let long = vec![7; 2 * VSOCK_WRITE_MAX];
        let (near, _far) = UnixStream::pair().unwrap();
        let mut stream = Stream::from(near);
        assert!(stream.write(&long).await.unwrap() > VSOCK_WRITE_MAX);
    }
}
