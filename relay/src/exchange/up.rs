//! One upstream connection: dialled by pingora, spoken to by hyper, over HTTP/1 driven inside the request's own task.

use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use pingora_core::connectors::TransportConnector;
use pingora_core::protocols::Stream;
use pingora_core::protocols::l4::stream::Stream as L4Stream;
use pingora_core::upstreams::peer::BasicPeer;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use super::BoxError;
use super::headers;
use super::lane::{self, Opening, Search, Share, Turn};
use super::multiplexed;
use super::pool::{self, PoolKey};
use super::stream::UpBody;
use super::tied::{Tied, Wanted};
use crate::admit::Conversation;
use crate::admit::conversation::BodyFailure;
use crate::admit::proxy_protocol::{Ends, Version};
use crate::deadline::Deadline;
use crate::error::Failure;

/// TLS towards an upstream, built once when the rules load.
#[derive(Clone)]
pub struct Tls {
    /// Authorities and versions.
    pub config: Arc<ClientConfig>,
    /// The same, where servers may choose HTTP/2.
    pub either: Option<Arc<ClientConfig>>,
    /// The name that is verified.
    pub name: ServerName<'static>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Tls({:?})", self.name)
    }
}

/// Everything that is needed to reach one upstream.
#[derive(Debug, Clone)]
pub struct Target {
    /// Which connections may stand for each other.
    pub key: PoolKey,
    /// TLS, or plain.
    pub tls: Option<Tls>,
    /// Whether HTTP/2 is spoken: where TLS agrees on it, and on plain connections without asking (RFC 9113 §3.3).
    pub http2: bool,
    /// How the client is told of. A connection is then one client's own: none is kept, and none is shared.
    pub proxy_protocol: Option<Version>,
    /// Most idle connections for each server and worker thread.
    pub idle_max: usize,
    /// How long one is kept idle.
    pub idle_time: Duration,
}

/// Either kind of stream under the codec.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

type Driver = dyn Future<Output = hyper::Result<()>> + Send;

/// What one request is sent on.
pub enum Carrier {
    /// A connection of its own, until its response has ended.
    Own(Connection),
    /// A share in one that speaks HTTP/2.
    Shared(Share),
}

/// A connection between two requests.
pub struct Connection {
    sender: http1::SendRequest<UpBody>,
    driver: Pin<Box<Driver>>,
}

impl Connection {
    /// Gives the driver one turn, so that what the peer sent unasked, or its close, shows now; false when the connection is of no more use.
    pub fn nudge(&mut self) -> bool {
        // Nobody waits for this connection while it is idle.
        let mut cx = Context::from_waker(Waker::noop());
        self.driver.as_mut().poll(&mut cx).is_pending() && self.sender.is_ready()
    }
}

/// An idle connection to the server, one that the peer left open; or a share in one, where the request need not go alone.
#[must_use]
pub fn reuse(target: &Target, server: SocketAddr, alone: bool) -> Option<Carrier> {
    // Such a connection is one client's own. Earlier rules, or another listener's, may have kept some that never said whose.
    if target.proxy_protocol.is_some() {
        return None;
    }
    if target.http2
        && !alone
        && let Some(share) = lane::share(target.key, server)
    {
        return Some(Carrier::Shared(share));
    }
    while let Some(mut connection) = pool::take(target.key, server) {
        if connection.nudge() {
            return Some(Carrier::Own(connection));
        }
    }
    None
}

/// How a request wants its connection.
#[derive(Debug, Clone, Copy)]
pub struct Wish {
    /// It may change its protocol, so it goes alone, over HTTP/1.
    pub alone: bool,
    /// One that was open before broke under it.
    pub fresh: bool,
}

/// Opens a connection for a client's request, or shares one that is opened for others. The caller bounds the time.
///
/// # Errors
/// The server cannot be reached, its certificate does not verify, or there are as many connections to it as may be.
pub async fn open(
    connector: &TransportConnector,
    target: &Target,
    server: SocketAddr,
    client: Option<&Ends>,
    wish: Wish,
) -> Result<Carrier, Failure> {
    if wish.alone || !target.http2 {
        return dial(connector, target, server, client, wish.alone, None).await;
    }
    let search = Search::new(target.key, server, wish.fresh);
    loop {
        match search.turn(target.idle_time)? {
            Turn::Share(share) => return Ok(Carrier::Shared(share)),
            Turn::Open(opening) => return dial(connector, target, server, client, false, Some(opening)).await,
            // Whatever became of it, there is another turn.
            Turn::Wait(news) => drop(news.await),
        }
    }
}

/// Dials a server, for a client or, as a check does, for the relay itself. A request that may change its protocol goes alone, over HTTP/1. The caller bounds
/// the time. Others share the connection if it was `opening` for them.
///
/// # Errors
/// The server cannot be reached, or its certificate does not verify.
pub async fn dial(
    connector: &TransportConnector,
    target: &Target,
    server: SocketAddr,
    client: Option<&Ends>,
    alone: bool,
    opening: Option<Opening>,
) -> Result<Carrier, Failure> {
    let peer = BasicPeer::new(&server.to_string());
    let mut stream: Stream = connector.new_stream(&peer).await.map_err(|_| Failure::UpstreamConnect)?;
    if let Some(version) = target.proxy_protocol {
        stream.write_all(&version.write(client)).await.map_err(|_| Failure::UpstreamConnect)?;
        stream.flush().await.map_err(|_| Failure::UpstreamConnect)?;
    }
    let (io, http2): (Box<dyn Duplex>, bool) = match &target.tls {
        None => (stream_of(stream), target.http2 && !alone),
        Some(tls) => {
            let config = tls.either.as_ref().filter(|_| !alone).unwrap_or(&tls.config);
            let stream = handshake(tls, config, stream).await?;
            let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
            (Box::new(stream), http2)
        }
    };
    if let Some(opening) = &opening {
        opening.speaks(!http2);
    }
    if http2 {
        return multiplexed::begin(io, target.idle_time, opening).await.map(Carrier::Shared);
    }
    let handshake = http1::Builder::new().max_buf_size(128 * 1024).handshake(TokioIo::new(io)).await;
    let (sender, driver) = handshake.map_err(|_| Failure::UpstreamConnect)?;
    Ok(Carrier::Own(Connection { sender, driver: Box::pin(driver.with_upgrades()) }))
}

/// Plain streams are TCP, and need not be called through two tables.
fn stream_of(stream: Stream) -> Box<dyn Duplex> {
    if !stream.as_any().is::<L4Stream>() {
        return Box::new(stream);
    }
    match stream.into_any().downcast::<L4Stream>() {
        Ok(stream) => stream,
        // Asked just before; a closed connection is what is left to say.
        Err(_) => Box::new(tokio::io::empty()),
    }
}

/// TLS as the site wants it, on a stream that is connected.
///
/// # Errors
/// The certificate does not verify, or the peer speaks no TLS.
async fn handshake(tls: &Tls, config: &Arc<ClientConfig>, stream: Stream) -> Result<TlsStream<Stream>, Failure> {
    let connector = TlsConnector::from(Arc::clone(config));
    connector.connect(tls.name.clone(), stream).await.map_err(|error| {
        // rustls wraps its own error in the I/O error of the handshake; anything else is the network.
        match error.get_ref().and_then(|e| e.downcast_ref::<tokio_rustls::rustls::Error>()) {
            Some(tokio_rustls::rustls::Error::InvalidCertificate(_)) => Failure::UpstreamTls,
            _ => Failure::UpstreamConnect,
        }
    })
}

/// How an attempt failed.
pub struct Attempt {
    /// What the client is told.
    pub failure: Failure,
    /// The request, if nothing of it was written.
    pub unsent: Option<Request<UpBody>>,
    /// The connection broke before any answer: the server may or may not have had the request.
    pub broke: bool,
    /// A stream of records was cut: the server may have acted on earlier ones.
    pub cut: bool,
}

/// Sends a request and waits for the head of its response, as long as the connection's deadline allows.
///
/// # Errors
/// The connection broke, the body's source broke, or the deadline came.
pub async fn send(
    carrier: Carrier,
    target: &Target,
    server: SocketAddr,
    request: Request<UpBody>,
    conversation: &Conversation,
) -> Result<Response<Driven>, Box<Attempt>> {
    match carrier {
        Carrier::Own(connection) => send_alone(connection, target, server, request, &conversation.deadline).await,
        // Boxed: sites whose upstream speaks HTTP/1 need no room for it.
        Carrier::Shared(share) => Box::pin(send_shared(share, target, server, request, conversation)).await,
    }
}

async fn send_shared(
    share: Share,
    target: &Target,
    server: SocketAddr,
    request: Request<UpBody>,
    conversation: &Conversation,
) -> Result<Response<Driven>, Box<Attempt>> {
    let keep = Keep { key: target.key, server, idle_max: target.idle_max, idle_time: target.idle_time };
    let failed = |failure| Attempt { failure, unsent: None, broke: false, cut: false };
    let request =
        multiplexed::into_http2(request, target.tls.is_some()).map_err(|failure| Box::new(failed(failure)))?;
    let (request, wanted) = tie(request, &share);
    let mut sender = share.sender();
    let mut answer = pin!(sender.try_send_request(request));
    let answered = poll_fn(|cx| match answer.as_mut().poll(cx) {
        Poll::Pending if conversation.deadline.is_due() => Poll::Ready(None),
        Poll::Pending => Poll::Pending,
        Poll::Ready(answer) => Poll::Ready(Some(answer)),
    })
    .await;
    match answered {
        Some(Ok(response)) => {
            let shared = Some((wanted, share));
            Ok(response.map(|body| Driven { body, connection: None, shared, keep, ended: false }))
        }
        Some(Err(mut error)) => {
            let unsent = error.take_message().and_then(|request| multiplexed::out_of_http2(request).ok());
            let unsent = unsent.map(|request| request.map(Tied::into_body));
            // The body goes up in a task of its own, which tells its failures here.
            Err(Box::new(match conversation.body_failure() {
                Some(BodyFailure { failure, cut }) => Attempt { failure, unsent: None, broke: false, cut },
                None => Attempt { failure: Failure::UpstreamProtocol, unsent, broke: true, cut: false },
            }))
        }
        None if conversation.is_streaming() => Err(Box::new(failed(Failure::RequestTimeout))),
        None => Err(Box::new(failed(Failure::UpstreamTimeout))),
    }
}

fn tie(request: Request<UpBody>, share: &Share) -> (Request<Tied>, Wanted) {
    let (head, body) = request.into_parts();
    let (body, wanted) = Tied::new(body, share.tasks());
    (Request::from_parts(head, body), wanted)
}

async fn send_alone(
    mut connection: Connection,
    target: &Target,
    server: SocketAddr,
    request: Request<UpBody>,
    deadline: &Deadline,
) -> Result<Response<Driven>, Box<Attempt>> {
    let keep = Keep { key: target.key, server, idle_max: target.idle_max, idle_time: target.idle_time };
    let mut answer = pin!(connection.sender.try_send_request(request));
    let mut over = false;
    let answered = poll_fn(|cx| {
        // The answer may be complete although the connection ended with it, so it is looked at after the connection had its turn. It comes by that turn
        // alone, so it need not wake anyone.
        if !over && connection.driver.as_mut().poll(cx).is_ready() {
            over = true;
        }
        match answer.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Pending if deadline.is_due() => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
        }
    })
    .await;
    match answered {
        Some(Ok(response)) => {
            let (head, body) = response.into_parts();
            let connection = if over { None } else { Some(connection) };
            Ok(Response::from_parts(head, Driven { body, connection, shared: None, keep, ended: false }))
        }
        Some(Err(mut error)) => {
            let unsent = error.take_message();
            let error = error.into_error();
            let cut = cut(&error);
            let failure = if let Some(failure) = cut {
                failure
            } else if is_slow(&error) {
                Failure::RequestTimeout
            } else if error.is_user() {
                Failure::ClientGone
            } else {
                Failure::UpstreamProtocol
            };
            let broke = failure == Failure::UpstreamProtocol && cut.is_none() && !error.is_parse();
            Err(Box::new(Attempt { failure, unsent, broke, cut: cut.is_some() }))
        }
        None => Err(Box::new(Attempt { failure: Failure::UpstreamTimeout, unsent: None, broke: false, cut: false })),
    }
}

/// Asks once and for the status alone, on a connection that is not used again. The caller bounds the time.
pub async fn ask(carrier: Carrier, request: Request<UpBody>, secure: bool) -> Option<StatusCode> {
    let mut connection = match carrier {
        Carrier::Own(connection) => connection,
        Carrier::Shared(share) => {
            let (request, _wanted) = tie(multiplexed::into_http2(request, secure).ok()?, &share);
            return share.sender().send_request(request).await.ok().map(|response| response.status());
        }
    };
    let mut answer = pin!(connection.sender.try_send_request(request));
    let mut over = false;
    poll_fn(|cx| {
        if !over && connection.driver.as_mut().poll(cx).is_ready() {
            over = true;
        }
        answer.as_mut().poll(cx).map(|answer| answer.ok().map(|response| response.status()))
    })
    .await
}

fn cut(error: &hyper::Error) -> Option<Failure> {
    std::error::Error::source(error)?.downcast_ref::<super::records::Cut>().map(|cut| cut.0)
}

fn is_slow(error: &hyper::Error) -> bool {
    std::error::Error::source(error).is_some_and(|s| s.is::<super::stream::TooSlow>())
}

#[derive(Debug, Clone, Copy)]
struct Keep {
    key: PoolKey,
    server: SocketAddr,
    idle_max: usize,
    idle_time: Duration,
}

/// A response body that drives its own connection, and gives it back to the pool at its end.
pub struct Driven {
    body: Incoming,
    connection: Option<Connection>,
    /// It comes over a connection that is driven elsewhere, and what is left of the request ends with it.
    shared: Option<(Wanted, Share)>,
    keep: Keep,
    ended: bool,
}

impl Driven {
    /// Ends the exchange without a body, as after HEAD, 204 and 304.
    pub fn finish(mut self) {
        self.ended = true;
    }

    /// The driver, for a connection that changes its protocol: it has to run until the tunnel is handed over.
    pub fn into_driver(mut self) -> Option<impl Future<Output = ()> + Send + 'static> {
        let connection = self.connection.take()?;
        Some(async move {
            let Connection { sender, driver } = connection;
            // The result tells only how the HTTP part ended; the tunnel has errors of its own.
            let _ = driver.await;
            drop(sender);
        })
    }
}

impl Drop for Driven {
    fn drop(&mut self) {
        let ended = self.ended || self.body.is_end_stream();
        if let Some((_, share)) = self.shared.as_mut().filter(|_| ended) {
            share.ended();
        }
        // Only a connection whose response was read to its end is between two requests.
        if ended
            && let Some(mut connection) = self.connection.take()
            && connection.nudge()
        {
            let Keep { key, server, idle_max, idle_time } = self.keep;
            pool::put(key, server, connection, idle_max, idle_time);
        }
    }
}

impl Body for Driven {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        if this.shared.is_some() {
            let mut polled = Pin::new(&mut this.body).poll_frame(cx);
            if let Poll::Ready(Some(Ok(frame))) = &mut polled
                && let Some(trailers) = frame.trailers_mut()
            {
                headers::strip_trailers(trailers);
            }
            return polled.map(|frame| frame.map(|frame| frame.map_err(Into::into)));
        }
        // More of the body comes only by a turn of the connection, so the body's channel need not wake anyone.
        let mut nobody = Context::from_waker(Waker::noop());
        let mut polled = Pin::new(&mut this.body).poll_frame(&mut nobody);
        if polled.is_pending()
            && let Some(connection) = &mut this.connection
        {
            if connection.driver.as_mut().poll(cx).is_ready() {
                this.connection = None;
            }
            polled = Pin::new(&mut this.body).poll_frame(&mut nobody);
        }
        match polled {
            Poll::Ready(None) => {
                this.ended = true;
                Poll::Ready(None)
            }
            Poll::Ready(Some(Ok(mut frame))) => {
                if let Some(trailers) = frame.trailers_mut() {
                    headers::strip_trailers(trailers);
                    this.ended = true;
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
