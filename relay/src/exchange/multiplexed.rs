//! One upstream connection that speaks HTTP/2: shared by the requests of a worker thread, driven by a task of its own.

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use http::header::{self, HeaderName, HeaderValue};
use http::uri::{Authority, PathAndQuery, Scheme, Uri};
use http::{Request, uri};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite};

use super::lane::{Connection, Opening, STREAMS, Share};
use super::tied::{Tasks, Tied};
use crate::error::Failure;

/// What a server may send of one response before it is read. All of a connection's requests together hold 4 MiB.
const STREAM_WINDOW: u32 = 128 * 1024;

/// What it may send on one connection. Responses that nobody reads never hold all of it, so they stall no other. It is far larger than what they can hold
/// because the codec ends a connection when the small frames that wait on it, each weighed as if it had 256 bytes, weigh half of this.
const CONNECTION_WINDOW: u32 = 64 * 1024 * 1024;

const _: () = assert!(STREAM_WINDOW as usize * STREAMS < CONNECTION_WINDOW as usize);

/// Most bytes of a response's head.
const HEAD_MAX: u32 = 128 * 1024;

/// Most bytes of one request's body that wait for the server's window.
const SEND_BUFFER: usize = 64 * 1024;

/// A server is asked for a sign of life after this silence while it has requests, and has as long to give it.
const PING: Duration = Duration::from_secs(20);

/// Fields that HTTP/2 does not know (RFC 9113 §8.2.2).
const OF_HTTP_1: [HeaderName; 3] = [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE];

/// Sends requests on a connection that others may send on too.
pub type Sender = http2::SendRequest<Tied>;

/// Begins HTTP/2 on a stream, for a request that takes the first share in it, and for others if it was `opening` for them.
///
/// # Errors
/// The peer speaks something else.
pub async fn begin<S>(stream: S, keep: Duration, opening: Option<Opening>) -> Result<Share, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let tasks = Tasks::default();
    let handshake = http2::Builder::new(tasks.clone())
        .timer(TokioTimer::new())
        // None goes up before the server has said how many it takes: none is refused for being too many.
        .initial_max_send_streams(0)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_header_list_size(HEAD_MAX)
        .max_send_buf_size(SEND_BUFFER)
        // What still comes for many clients that left is no fault of the server's: it would end the connection for those that stay.
        .max_local_error_reset_streams(None)
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING)
        .handshake(TokioIo::new(stream))
        .await;
    let (sender, driver) = handshake.map_err(|_| Failure::UpstreamConnect)?;
    let (connection, mut unused) = Connection::new(sender, tasks, keep);
    let share = Share::of(&connection);
    let connection = Arc::downgrade(&connection);
    tokio::spawn(async move {
        let (mut driver, mut opening) = (pin!(driver), opening);
        poll_fn(|cx| {
            // Its requests hear of their own failures. A server that never says what it takes would keep a request that has given up.
            if driver.as_mut().poll(cx).is_ready() || Pin::new(&mut unused).poll(cx).is_ready() {
                return Poll::Ready(());
            }
            let limit = driver.current_max_send_streams();
            if let Some(connection) = connection.upgrade() {
                connection.takes(limit);
            }
            if limit > 0
                && let Some(opening) = opening.take()
            {
                opening.settled(&connection);
            }
            Poll::Pending
        })
        .await;
    });
    Ok(share)
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
