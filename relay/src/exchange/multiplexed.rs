//! One upstream connection that speaks HTTP/2: shared by the requests of a worker thread, driven by a task of its own.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::time::Duration;

use http::header::{self, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Request, uri};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::pool::PoolKey;
use super::stream::UpBody;
use crate::deadline::Moment;
use crate::error::Failure;

/// What a server may send of one response before it is read.
const STREAM_WINDOW: u32 = 1024 * 1024;

/// The same for all responses of a connection together.
const CONNECTION_WINDOW: u32 = 4 * 1024 * 1024;

/// Most bytes of a response's head.
const HEAD_MAX: u32 = 128 * 1024;

/// Most bytes of one request's body that wait for the server's window.
const SEND_BUFFER: usize = 64 * 1024;

/// A server is asked for a sign of life after this silence while it has requests, and has as long to give it.
const PING: Duration = Duration::from_secs(20);

/// Fields that HTTP/2 does not know (RFC 9113 §8.2.2).
const OF_HTTP_1: [HeaderName; 3] = [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE];

/// Sends requests on a connection that others may send on too.
pub type Sender = http2::SendRequest<UpBody>;

struct Shared {
    key: PoolKey,
    server: SocketAddr,
    sender: Sender,
    until: Moment,
}

thread_local! {
    static SHARED: RefCell<Vec<Shared>> = const { RefCell::new(Vec::new()) };
}

/// The connection to a server that this thread's requests share, if there is one; it is kept for `keep` from now.
#[must_use]
pub fn shared(key: PoolKey, server: SocketAddr, keep: Duration) -> Option<Sender> {
    SHARED.with_borrow_mut(|all| {
        let at = all.iter().position(|one| one.key == key && one.server == server)?;
        let one = all.get_mut(at)?;
        if one.sender.is_closed() {
            all.swap_remove(at);
            return None;
        }
        one.until = Moment::after(keep);
        Some(one.sender.clone())
    })
}

/// Lets go of what nobody has used for its time: such connections close when their last response has ended.
pub fn sweep() {
    SHARED.with_borrow_mut(|all| all.retain(|one| !one.until.has_come() && !one.sender.is_closed()));
}

/// Begins HTTP/2 on a stream, and shares the connection in the place of an earlier one.
///
/// # Errors
/// The peer speaks something else.
pub async fn begin<S>(stream: S, key: PoolKey, server: SocketAddr, keep: Duration) -> Result<Sender, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let handshake = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEAD_MAX)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .handshake(TokioIo::new(stream))
        .await;
    let (sender, driver) = handshake.map_err(|_| Failure::UpstreamConnect)?;
    tokio::spawn(async move {
        // Its requests hear of their own failures.
        let _ = driver.await;
    });
    let one = Shared { key, server, sender: sender.clone(), until: Moment::after(keep) };
    SHARED.with_borrow_mut(|all| {
        all.retain(|other| other.key != key || other.server != server);
        all.push(one);
    });
    Ok(sender)
}

/// A request in the form of HTTP/2: scheme and authority stand in its URI, and nothing speaks of one connection.
///
/// # Errors
/// Its Host is none.
pub fn into_http2<B>(mut request: Request<B>, secure: bool) -> Result<Request<B>, Failure> {
    let headers = request.headers_mut();
    for name in &OF_HTTP_1 {
        headers.remove(name);
    }
    let host = headers.remove(header::HOST).ok_or(Failure::Internal)?;
    let mut parts = uri::Parts::default();
    parts.scheme = Some(if secure { Scheme::HTTPS } else { Scheme::HTTP });
    parts.authority = Some(Authority::try_from(host.as_bytes()).map_err(|_| Failure::Internal)?);
    let path = request.uri().path_and_query().cloned();
    parts.path_and_query = Some(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    *request.uri_mut() = Uri::from_parts(parts).map_err(|_| Failure::Internal)?;
    Ok(request)
}

/// The same request in the form of HTTP/1 again, for another try.
///
/// # Errors
/// It is none that [`into_http2`] made.
pub fn out_of_http2<B>(mut request: Request<B>) -> Result<Request<B>, Failure> {
    let authority = request.uri().authority().ok_or(Failure::Internal)?;
    let host = HeaderValue::from_str(authority.as_str()).map_err(|_| Failure::Internal)?;
    let path = request.uri().path_and_query().cloned().ok_or(Failure::Internal)?;
    request.headers_mut().insert(header::HOST, host);
    *request.uri_mut() = Uri::from(path);
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_goes_into_http_2_and_back() {
        let request = Request::post("/a?b").header("host", "api.example:8443").header("x-kept", "1");
        let request = request.header("connection", "te").header("te", "trailers").body(()).unwrap();
        let there = into_http2(request, true).unwrap();
        assert_eq!(there.uri(), "https://api.example:8443/a?b");
        assert!(!there.headers().contains_key("host") && !there.headers().contains_key("connection"));
        assert_eq!(there.headers()["te"], "trailers");
        let back = out_of_http2(there).unwrap();
        assert_eq!(
            (back.uri().to_string().as_str(), &back.headers()["host"]),
            ("/a?b", &HeaderValue::from_static("api.example:8443"))
        );
        assert_eq!(back.headers()["x-kept"], "1");
        assert!(into_http2(Request::get("/").body(()).unwrap(), false).is_err());
    }
}
