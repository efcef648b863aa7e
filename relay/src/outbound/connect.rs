//! CONNECT: who may open it, to where, and what then comes through.
//!
//! The target of CONNECT, the server name of TLS and the Host of each request must be the same; what differs reaches nobody.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes};
use http::Uri;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use pingora_core::connectors::TransportConnector;
use pingora_core::protocols::Stream;
use pingora_core::upstreams::peer::BasicPeer;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::rustls::server::Acceptor;

use crate::admit::conversation::Tunnel;
use crate::admit::{Conversation, Gate};
use crate::config::resolved::{Connect, Listener};
use crate::error::{Failure, Framing};
use crate::outbound::egress::spelled;
use crate::outbound::keys::Proof;
use crate::rules::host::normal_host;
use crate::state::{ListenerState, SiteState};

/// Most bytes of a TLS client's first message.
const HELLO_MAX: usize = 32 * 1024;

/// A fatal alert `unrecognized_name` (RFC 8446 §6.2), in the clear, as a server says it before any key is agreed on.
const UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// What CONNECT asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Host name in lower case, or address without brackets.
    pub host: Box<str>,
    /// Port.
    pub port: u16,
}

impl Target {
    /// Reads the request target `host:port` (RFC 9110 §9.3.6).
    ///
    /// # Errors
    /// The port is missing, or the host is an address in an odd spelling.
    pub fn read(uri: &Uri) -> Result<Self, Failure> {
        let fault = Failure::Framing(Framing::RequestLine);
        let authority = uri.authority().ok_or(fault)?;
        let port = authority.port_u16().ok_or(fault)?;
        let host = normal_host(authority.as_str()).ok_or(fault)?;
        spelled(&host).map_err(|_| Failure::NoTunnel)?;
        Ok(Self { host: host.into(), port })
    }

    /// Whether a Host names this target; without a port it is that of https.
    #[must_use]
    pub fn is_host(&self, host: &str) -> bool {
        let port = host.parse::<http::uri::Authority>().ok().map(|a| a.port_u16().unwrap_or(443));
        port == Some(self.port) && normal_host(host).is_some_and(|host| *host == *self.host)
    }

    /// Whether a TLS client that asks for this server name means this target. Addresses are not named in TLS.
    #[must_use]
    pub fn is_server_name(&self, name: Option<&str>) -> bool {
        match name {
            Some(name) => normal_host(name).is_some_and(|name| *name == *self.host),
            None => self.host.parse::<std::net::IpAddr>().is_ok(),
        }
    }
}

/// The destination that CONNECT opens.
///
/// # Errors
/// No destination opens this host and port, or a key is missing.
pub fn destination(
    config: &Listener,
    state: &ListenerState,
    target: &Target,
    proof: Proof,
) -> Result<Arc<SiteState>, Failure> {
    if proof == Proof::Bad {
        return Err(Failure::ProxyAuthentication);
    }
    let site = state.site(&config.sites, &target.host).ok_or(Failure::NoTunnel);
    let open = site.and_then(|site| match site.site.connect {
        Connect::Refuse => Err(Failure::NoTunnel),
        _ if !site.site.ports.contains(&target.port) => Err(Failure::NoTunnel),
        _ => site.of(&target.host, target.port),
    });
    match (open, proof) {
        // Whoever has no key learns nothing of the destinations; with interception the first request may still bring it.
        (Err(_), Proof::Absent) => Err(Failure::ProxyAuthentication),
        (Ok(site), Proof::Absent) if site.site.connect != Connect::Intercept => Err(Failure::ProxyAuthentication),
        (open, _) => open,
    }
}

/// A connection whose CONNECT was answered, before TLS ends on it.
#[derive(Debug)]
pub struct Intercepted {
    /// What was asked for.
    pub target: Target,
    /// Whether CONNECT brought a key.
    pub authenticated: bool,
    /// The stream, once the codec lets go of it.
    pub upgrade: OnUpgrade,
}

impl Intercepted {
    /// The client's stream, with what was read of it already.
    ///
    /// # Errors
    /// The client left.
    pub async fn stream<S: AsyncRead + AsyncWrite + Unpin + 'static>(upgrade: OnUpgrade) -> io::Result<Rewound<S>> {
        let upgraded = upgrade.await.map_err(io::Error::other)?;
        let parts = upgraded.downcast::<TokioIo<Gate<S>>>().map_err(|_| io::ErrorKind::Unsupported)?;
        let (stream, held) = parts.io.into_inner().into_parts();
        let mut first = parts.read_buf;
        if first.is_empty() {
            first = held.freeze();
        } else if !held.is_empty() {
            first = [&first[..], &held[..]].concat().into();
        }
        Ok(Rewound::new(first, stream))
    }
}

/// A stream of which some bytes were read, and come again.
#[derive(Debug)]
pub struct Rewound<S> {
    first: Bytes,
    stream: S,
}

impl<S> Rewound<S> {
    /// A stream from which these bytes were read.
    #[must_use]
    pub fn new(first: Bytes, stream: S) -> Self {
        Self { first, stream }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Rewound<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.first.is_empty() {
            return Pin::new(&mut self.stream).poll_read(cx, out);
        }
        let n = self.first.len().min(out.remaining());
        out.put_slice(&self.first[..n]);
        self.first.advance(n);
        if self.first.is_empty() {
            self.first = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Rewound<S> {
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

/// A connection to a server for a tunnel. The caller bounds the time.
///
/// # Errors
/// The server cannot be reached.
pub async fn dial(connector: &TransportConnector, server: SocketAddr) -> Result<Stream, Failure> {
    connector.new_stream(&BasicPeer::new(&server.to_string())).await.map_err(|_| Failure::UpstreamConnect)
}

/// How long a tunnel's parts may take.
#[derive(Debug, Clone, Copy)]
pub struct TunnelTimes {
    /// All of the client's first message.
    pub hello: Duration,
    /// The longest silence after it.
    pub silence: Duration,
    /// All of the tunnel after it.
    pub total: Duration,
}

/// Passes bytes on, once the client has said in TLS that it means the target. The conversation's task bounds the time.
#[must_use]
pub fn tunnel(
    target: Target,
    client: OnUpgrade,
    mut server: Stream,
    times: TunnelTimes,
    conversation: &Arc<Conversation>,
) -> Tunnel {
    // Not held by what it holds itself.
    let conversation = Arc::downgrade(conversation);
    Box::pin(async move {
        let Ok(client) = client.await else { return };
        let mut client = Moving { stream: TokioIo::new(client), conversation };
        // A head like any other: whoever sends it byte by byte gains nothing by that.
        client.within(times.hello, times.hello);
        let Some(hello) = hello(&mut client, &target).await else { return };
        client.within(times.silence, times.total);
        if server.write_all(&hello).await.is_err() || server.flush().await.is_err() {
            return;
        }
        drop(hello);
        // How it ends is between the two; bytes that were sent are through.
        let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
    })
}

/// The client's end of a tunnel: what goes through it, either way, shows that it is in use.
struct Moving {
    stream: TokioIo<Upgraded>,
    conversation: Weak<Conversation>,
}

impl Moving {
    /// From now on it may be silent for `silence`, and take `total` in all.
    fn within(&self, silence: Duration, total: Duration) {
        if let Some(conversation) = self.conversation.upgrade() {
            conversation.stream(silence, total);
        }
    }

    fn moved<T>(&self, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let (Poll::Ready(Ok(_)), Some(conversation)) = (&polled, self.conversation.upgrade()) {
            conversation.moves();
        }
        polled
    }
}

impl AsyncRead for Moving {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_read(cx, out);
        self.moved(polled)
    }
}

impl AsyncWrite for Moving {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.moved(polled)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// The first bytes of the client, if they are TLS for the target.
async fn hello(client: &mut Moving, target: &Target) -> Option<Vec<u8>> {
    let mut acceptor = Acceptor::default();
    let mut bytes = Vec::new();
    loop {
        let from = bytes.len();
        if client.read_buf(&mut bytes).await.ok()? == 0 || bytes.len() > HELLO_MAX {
            return None;
        }
        let mut fresh = &bytes[from..];
        while !fresh.is_empty() {
            acceptor.read_tls(&mut fresh).ok()?;
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => {
                if target.is_server_name(accepted.client_hello().server_name()) {
                    return Some(bytes);
                }
                refuse(client, &UNRECOGNIZED_NAME).await;
                return None;
            }
            // No TLS: nobody could say for whom it is.
            Err(_) => return None,
        }
    }
}

async fn refuse(client: &mut Moving, alert: &[u8]) {
    // Whether it gets there changes nothing.
    let _ = client.write_all(alert).await;
    let _ = poll_fn(|cx| Pin::new(&mut *client).poll_shutdown(cx)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(text: &str) -> Result<Target, Failure> {
        let request = http::Request::connect(text).body(()).unwrap();
        Target::read(request.uri())
    }

    #[test]
    fn target_host_and_server_name_are_the_same_or_refused() {
        let named = target("API.Pay.example:443").unwrap();
        for host in ["api.pay.example", "api.pay.example:443", "API.pay.example.", "Api.Pay.Example.:443"] {
            assert!(named.is_host(host), "{host}");
        }
        for host in
            ["api.pay.example:80", "pay.example", "api.pay.example.evil", "", "u@api.pay.example", "xapi.pay.example"]
        {
            assert!(!named.is_host(host), "{host}");
        }
        assert!(named.is_server_name(Some("api.pay.example")));
        assert!(!named.is_server_name(Some("api.else.example")));
        assert!(!named.is_server_name(None), "a name is said in TLS");
        let odd_port = target("api.pay.example:8443").unwrap();
        assert!(odd_port.is_host("api.pay.example:8443") && !odd_port.is_host("api.pay.example"));
        let address = target("[::1]:443").unwrap();
        assert!(address.is_host("[::1]") && address.is_host("[0::1]:443") && address.is_server_name(None));
        for bad in ["api.pay.example", "127.1:443", "0x7f000001:443", "2130706433:443"] {
            assert!(target(bad).is_err(), "{bad}");
        }
    }
}
