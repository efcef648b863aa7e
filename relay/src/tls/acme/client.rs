//! HTTPS to the authority: one connection for each request, verified, and bounded in time and size.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use instant_acme::{BodyWrapper, BytesResponse, Error, HttpClient};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

/// Longest time of one request.
const TIME: Duration = Duration::from_secs(30);

/// Most bytes of an answer: directories, orders and chains are far smaller.
const ANSWER_MAX: usize = 1024 * 1024;

/// Asks the authority.
pub(super) struct Https(pub(super) Arc<ClientConfig>);

/// The authority could not be asked, or did not answer.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the authority did not answer")]
pub(super) struct NoAnswer;

impl HttpClient for Https {
    fn request(
        &self,
        request: Request<BodyWrapper<Bytes>>,
    ) -> Pin<Box<dyn Future<Output = Result<BytesResponse, Error>> + Send>> {
        let tls = Arc::clone(&self.0);
        Box::pin(async move {
            let asked = tokio::time::timeout(TIME, ask(tls, request)).await;
            match asked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                Ok(response) => Ok(BytesResponse::from(response)),
                Err(error) => {
                    tracing::debug!(%error, "the authority cannot be asked");
                    Err(Error::Other(Box::new(NoAnswer)))
                }
            }
        })
    }
}

async fn ask(tls: Arc<ClientConfig>, request: Request<BodyWrapper<Bytes>>) -> io::Result<Response<Full<Bytes>>> {
    let (mut head, body) = request.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    if head.uri.scheme_str() != Some("https") {
        return Err(io::ErrorKind::Unsupported.into());
    }
    let authority = head.uri.authority().cloned().ok_or(io::ErrorKind::InvalidInput)?;
    let host = authority.host().trim_matches(['[', ']']);
    let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
    let stream = TcpStream::connect((host, authority.port_u16().unwrap_or(443))).await?;
    let stream = TlsConnector::from(tls).connect(name, stream).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let asked = async move {
        head.headers.insert(header::HOST, authority.as_str().parse().map_err(io::Error::other)?);
        let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        head.uri = path.parse().map_err(io::Error::other)?;
        let request = Request::from_parts(head, Full::new(body));
        let (head, body) = sender.send_request(request).await.map_err(io::Error::other)?.into_parts();
        let body = Limited::new(body, ANSWER_MAX).collect().await.map_err(io::Error::other)?.to_bytes();
        Ok(Response::from_parts(head, Full::new(body)))
    };
    // The connection is driven beside the request, and what becomes of it afterwards is of no interest.
    let mut connection = std::pin::pin!(connection);
    let mut asked = std::pin::pin!(asked);
    let mut over = false;
    loop {
        tokio::select! {
            biased;
            answer = &mut asked => return answer,
            _ = &mut connection, if !over => over = true,
        }
    }
}
