//! TLS at a listener: the first message chooses the site, the rest of the handshake is held to that site's terms.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use pingora_core::protocols::Stream;
use pingora_core::server::ShutdownWatch;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::server::{Acceptor, ClientHello};
use tokio_rustls::server::TlsStream;
use tokio_rustls::{LazyConfigAcceptor, StartHandshake};

use super::Edge;
use super::http2::Protocol;
use super::visit::Visit;
use crate::config::resolved::{ConnectionLimits, ListenerTls};
use crate::deadline::{Deadline, Moment};
use crate::exchange::flow::Client;
use crate::metrics::Handshake;
use crate::rules::host::normal_host;
use crate::state::{SiteState, State};
use crate::tls::acme::challenge::PROTOCOL;
use crate::tls::server::{NO_CERTIFICATE, Session, Terminator, UNRECOGNIZED_NAME, client_headers};

/// Most bytes of a client's first message.
const HELLO_MAX: usize = 16 * 1024;

impl Edge {
    /// Ends TLS on a fresh connection, and serves what comes through. The handshake and the first request's head share one deadline.
    pub(super) async fn secure(
        self: &Arc<Self>,
        stream: Stream,
        client: Client,
        first_head: Option<Moment>,
        limits: ConnectionLimits,
        shutdown: ShutdownWatch,
    ) {
        let first_head = first_head.unwrap_or_else(|| Moment::after(limits.head_time));
        let deadline = Deadline::of_this_task().await;
        deadline.set_at(first_head);
        // Boxed: what a handshake needs is not kept by a connection that idles.
        let accepted = Box::pin(deadline.bound(self.handshake(stream))).await;
        drop(deadline);
        let (ended, accepted) = match accepted {
            Some(Ok(Some(accepted))) => (Handshake::Done, Some(accepted)),
            Some(Ok(None)) => return,
            Some(Err(error)) => {
                tracing::debug!(listener = %self.address, %error, "TLS handshake");
                (Handshake::Failed, None)
            }
            None => (Handshake::Late, None),
        };
        self.metrics.handshake(self.side, ended);
        let Some((stream, session)) = accepted else { return };
        let visit = Visit::secured(client, session, first_head);
        let protocol = Protocol::agreed(stream.get_ref().1.alpn_protocol());
        Box::pin(self.speak(protocol, stream, &visit, limits, shutdown.clone())).await;
        self.go_on::<TlsStream<Stream>>(&visit, limits, shutdown).await;
    }

    /// `None` where no request is to follow: an alert was sent because no site is meant, or a host was proven to a certificate authority.
    async fn handshake<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        mut stream: S,
    ) -> io::Result<Option<(TlsStream<S>, Arc<Session>)>> {
        let hello = Hello { stream: &mut stream, left: HELLO_MAX };
        let accepted = LazyConfigAcceptor::new(Acceptor::default(), hello).await?.accepted;
        let mut start = StartHandshake::from_parts(accepted, stream);
        let proof = {
            let state = self.live.current();
            proof(&state, &start.client_hello())
        };
        if let Some(config) = proof {
            let mut stream = start.into_stream(config).await?;
            self.metrics.handshake(self.side, Handshake::Challenge);
            stream.shutdown().await?;
            return Ok(None);
        }
        let Chosen { terminator, name } = {
            let state = self.live.current();
            let hello = start.client_hello();
            match self.terminator(&state, hello.server_name()) {
                Ok(found) => found,
                Err(alert) => {
                    self.metrics.handshake(self.side, Handshake::NoSite);
                    // Whether it gets there changes nothing.
                    let _ = start.io.write_all(&alert).await;
                    let _ = start.io.shutdown().await;
                    return Ok(None);
                }
            }
        };
        let stream = start.into_stream(Arc::clone(&terminator.config)).await?;
        let client = match stream.get_ref().1.peer_certificates() {
            Some(chain) if terminator.terms.tells_certificate => client_headers(chain),
            _ => None,
        };
        let session = Session { terms: Arc::clone(&terminator.terms), name, client };
        Ok(Some((stream, Arc::new(session))))
    }

    /// Whose terms hold for a client that says this server name, and the name as the host table has it; else the alert that says why nobody's do.
    fn terminator(&self, state: &State, said: Option<&str>) -> Result<Chosen, [u8; 7]> {
        let (config, listener) = state.listener(self.address, self.side).ok_or(UNRECOGNIZED_NAME)?;
        let by_name = |name: &str| Some(listener.site(&config.sites, name)?.tls.clone());
        let (terms, found, name) = match &config.tls {
            None => return Err(UNRECOGNIZED_NAME),
            Some(ListenerTls::Proxy(terms)) => (Some(terms), None, None),
            Some(ListenerTls::Sites { unnamed, unknown }) => match said {
                None => (unnamed.as_ref(), None, None),
                Some(said) => {
                    let name = normal_host(said).ok_or(UNRECOGNIZED_NAME)?;
                    match by_name(&name) {
                        Some(found) => (None, Some(found), Some(Box::from(&*name))),
                        None => (unknown.as_ref(), None, None),
                    }
                }
            },
        };
        let found = match (found, terms) {
            (Some(found), _) => found,
            (None, Some(terms)) => listener.terminator(terms),
            (None, None) => return Err(UNRECOGNIZED_NAME),
        };
        let found = found.filter(|terminator| terminator.certificate().is_some());
        found.map(|terminator| Chosen { terminator, name }).ok_or(NO_CERTIFICATE)
    }
}

/// A connection whose client has said nothing yet. Nobody needs more than [`HELLO_MAX`] for that, and whoever never ends is cut before it takes room.
struct Hello<'s, S> {
    stream: &'s mut S,
    left: usize,
}

impl<S: AsyncRead + Unpin> AsyncRead for Hello<'_, S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.left == 0 {
            return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
        }
        let before = out.filled().len();
        ready!(Pin::new(&mut *self.stream).poll_read(cx, out))?;
        self.left = self.left.saturating_sub(out.filled().len() - before);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Hello<'_, S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(cx)
    }
}

/// What ends TLS for a certificate authority that looks for the proof of a host: it offers that protocol and no other (RFC 8737 §3).
fn proof(state: &State, hello: &ClientHello<'_>) -> Option<Arc<ServerConfig>> {
    let acme = state.acme.as_ref()?;
    let mut offered = hello.alpn()?;
    if offered.next()? != PROTOCOL || offered.next().is_some() {
        return None;
    }
    acme.challenges().tls(&normal_host(hello.server_name()?)?)
}

/// What a client's first message comes to.
struct Chosen {
    terminator: Arc<Terminator>,
    /// The server name as the host table has it.
    name: Option<Box<str>>,
}

/// Whether a request that came over this connection may reach the site. The connection is held against the rules in force now: they may have
/// changed since it was made.
pub(super) fn may_reach(session: Option<&Session>, named: Option<&Arc<SiteState>>, site: &Arc<SiteState>) -> bool {
    match (session, &site.site.tls) {
        (None, None) => true,
        (Some(session), Some(terms)) => {
            session.terms.admit_as(terms)
                && (named.is_some_and(|named| Arc::ptr_eq(named, site)) || session.terms.shares_certificate(terms))
        }
        // The listener has changed its mind about TLS since.
        _ => false,
    }
}
