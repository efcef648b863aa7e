//! HTTP for the SDK over bytes that the host forwards. TLS ends here, not in the host.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_smithy_runtime_api::client::http::{HttpConnector, HttpConnectorFuture};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_types::body::SdkBody;
use e3_link::Endpoint;
use http_body_util::{BodyExt, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

use super::target::KmsTarget;

/// Largest answer that is read; KMS answers a few KiB.
const ANSWER_MAX: usize = 256 * 1024;

/// Why an exchange failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ExchangeError {
    /// The host forwards nothing there.
    #[error("the host's forwarder cannot be reached")]
    Forwarder,
    /// The endpoint's name, or what certifies it, is not the measured one.
    #[error("the endpoint's certificate is refused: {0}")]
    Certificate(tokio_rustls::rustls::CertificateError),
    /// The handshake failed otherwise.
    #[error("no TLS with the endpoint")]
    Tls,
    /// The connection broke, or what came is no HTTP.
    #[error("the exchange broke off")]
    Broken,
    /// It took too long.
    #[error("the exchange took too long")]
    Timeout,
}

/// Connects anew for each request: a root key is asked for once in a boot.
#[derive(Clone)]
pub struct Connector {
    forwarder: Endpoint,
    name: ServerName<'static>,
    authority: http::HeaderValue,
    tls: TlsConnector,
    timeout: Duration,
}

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Connector({:?} through {})", self.name, self.forwarder)
    }
}

impl Connector {
    /// Carries requests to the target through the host's `forwarder`, each within `timeout`; `None` if the target's name is no host name.
    #[must_use]
    pub fn new(target: &KmsTarget, forwarder: Endpoint, timeout: Duration) -> Option<Self> {
        let authority =
            if target.port == 443 { target.host.to_string() } else { format!("{}:{}", target.host, target.port) };
        Some(Self {
            forwarder,
            name: ServerName::try_from(target.host.to_string()).ok()?,
            authority: authority.parse().ok()?,
            tls: TlsConnector::from(Arc::clone(&target.tls)),
            timeout,
        })
    }

    async fn exchange(&self, request: HttpRequest) -> Result<HttpResponse, ExchangeError> {
        let mut request = request.try_into_http1x().map_err(|_| ExchangeError::Broken)?;
        // Wherever the request says it goes, it goes to the measured name.
        let path = request.uri().path_and_query().map_or("/", |p| p.as_str()).to_owned();
        *request.uri_mut() = path.parse().map_err(|_| ExchangeError::Broken)?;
        request.headers_mut().insert(http::header::HOST, self.authority.clone());
        let stream = self.forwarder.connect(self.timeout).await.map_err(|_| ExchangeError::Forwarder)?;
        let stream = self.tls.connect(self.name.clone(), stream).await.map_err(|error| {
            match error.get_ref().and_then(|e| e.downcast_ref::<tokio_rustls::rustls::Error>()) {
                Some(tokio_rustls::rustls::Error::InvalidCertificate(why)) => ExchangeError::Certificate(why.clone()),
                _ => ExchangeError::Tls,
            }
        })?;
        let response = send(stream, request).await?;
        HttpResponse::try_from(response.map(SdkBody::from)).map_err(|_| ExchangeError::Broken)
    }
}

/// One request and its whole answer on a fresh connection.
pub(crate) async fn send<S, B>(
    stream: S,
    request: http::Request<B>,
) -> Result<http::Response<bytes::Bytes>, ExchangeError>
where
    S: AsyncRead + AsyncWrite + Unpin,
    B: hyper::body::Body + Unpin + 'static,
    B::Data: Send,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|_| ExchangeError::Broken)?;
    let exchange = async {
        let (head, body) = sender.send_request(request).await.map_err(|_| ExchangeError::Broken)?.into_parts();
        let body = Limited::new(body, ANSWER_MAX).collect().await.map_err(|_| ExchangeError::Broken)?.to_bytes();
        Ok(http::Response::from_parts(head, body))
    };
    let mut connection = std::pin::pin!(connection);
    let mut exchange = std::pin::pin!(exchange);
    // The connection has to be driven; when it ends first, the answer may still be complete.
    tokio::select! {
        biased;
        answer = &mut exchange => answer,
        _ = &mut connection => exchange.await,
    }
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let connector = self.clone();
        HttpConnectorFuture::new(async move {
            let exchange = tokio::time::timeout(connector.timeout, connector.exchange(request)).await;
            exchange.unwrap_or(Err(ExchangeError::Timeout)).map_err(|error| match error {
                ExchangeError::Timeout => ConnectorError::timeout(error.into()),
                // A certificate does not get better by asking again.
                ExchangeError::Certificate(_) => ConnectorError::user(error.into()),
                _ => ConnectorError::io(error.into()),
            })
        })
    }
}
