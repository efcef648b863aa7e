//! Hands over the instance role's temporary credentials: fetched from the instance metadata service, version 2, and kept until five minutes before they expire. Never logged.
//!
//! The parent has the same role, so nothing is given away: the key's policy demands an attestation document, which the parent cannot make.

use super::config::Limits;
use super::gate::Ended;
use crate::kms::connector::send;
use crate::kms::credentials::PATH;
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use bytes::Bytes;
use e3_link::Stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HOST};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{Empty, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::net::TcpStream;
use tokio::sync::Mutex;
use zeroize::{Zeroize, Zeroizing};

/// Credentials are asked for again this long before they expire.
const BEFORE: Duration = Duration::from_secs(5 * 60);
/// Time for one exchange with the metadata service.
const PATIENCE: Duration = Duration::from_secs(5);
/// Seconds for which a token of the metadata service is good; it is used at once.
const TOKEN_TTL: &str = "60";
const TOKEN_PATH: &str = "/latest/api/token";
const ROLES_PATH: &str = "/latest/meta-data/iam/security-credentials/";

/// Why there are no credentials. No value of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoCredentials {
    /// Nobody answers.
    #[error("the metadata service does not answer: is this an EC2 instance, and is the metadata service on?")]
    Unreachable,
    /// It refuses.
    #[error("the metadata service refuses with {0}; 404 means that the instance has no role")]
    Refused(u16),
    /// What it says is no credentials.
    #[error("the metadata service's answer holds no credentials")]
    Answer,
}

/// The members that the engine reads; others are left out.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Said {
    access_key_id: String,
    secret_access_key: String,
    token: String,
    expiration: String,
}

impl Drop for Said {
    fn drop(&mut self) {
        self.secret_access_key.zeroize();
        self.token.zeroize();
    }
}

struct Kept {
    json: Zeroizing<Vec<u8>>,
    until: SystemTime,
}

/// The credentials of the instance's role.
pub struct Credentials {
    metadata: SocketAddr,
    kept: Mutex<Option<Kept>>,
}

impl Credentials {
    /// Those of the metadata service at this address.
    #[must_use]
    pub fn new(metadata: SocketAddr) -> Self {
        Self { metadata, kept: Mutex::new(None) }
    }

    /// The credentials as JSON; one fetch at a time, whoever asks.
    async fn json(&self) -> Result<Zeroizing<Vec<u8>>, NoCredentials> {
        let mut kept = self.kept.lock().await;
        let now = SystemTime::now();
        if let Some(kept) = kept.as_ref().filter(|k| k.until.checked_sub(BEFORE).is_some_and(|t| now < t)) {
            return Ok(kept.json.clone());
        }
        match tokio::time::timeout(PATIENCE, self.fetch()).await.unwrap_or(Err(NoCredentials::Unreachable)) {
            Ok(fresh) => {
                let json = fresh.json.clone();
                *kept = Some(fresh);
                Ok(json)
            }
            // What has not expired yet is better than nothing.
            Err(error) => match kept.as_ref().filter(|k| now < k.until) {
                Some(kept) => Ok(kept.json.clone()),
                None => Err(error),
            },
        }
    }

    async fn fetch(&self) -> Result<Kept, NoCredentials> {
        let request = |method: Method, path: &str| {
            Request::builder().method(method).uri(path).header(HOST, self.metadata.to_string())
        };
        let token = request(Method::PUT, TOKEN_PATH).header("x-aws-ec2-metadata-token-ttl-seconds", TOKEN_TTL);
        let token = self.ask(token).await?;
        let token = http::HeaderValue::from_bytes(&token).map_err(|_| NoCredentials::Answer)?;
        let get = |path: &str| request(Method::GET, path).header("x-aws-ec2-metadata-token", token.clone());
        let roles = self.ask(get(ROLES_PATH)).await?;
        let role = roles.split(|b| *b == b'\n').next().unwrap_or_default();
        let role = std::str::from_utf8(role).map_err(|_| NoCredentials::Answer)?.trim();
        // IAM's own grammar of role names.
        let fits = |b: u8| b.is_ascii_alphanumeric() || b"+=,.@_-".contains(&b);
        if role.is_empty() || role.len() > 64 || !role.bytes().all(fits) {
            return Err(NoCredentials::Answer);
        }
        let said = self.ask(get(&format!("{ROLES_PATH}{role}"))).await?;
        // serde_json's own words could quote the secret.
        let said: Said = serde_json::from_slice(&said).map_err(|_| NoCredentials::Answer)?;
        let until = DateTime::from_str(&said.expiration, Format::DateTime).map_err(|_| NoCredentials::Answer)?;
        let until = SystemTime::try_from(until).map_err(|_| NoCredentials::Answer)?;
        let json = serde_json::to_vec(&said).map_err(|_| NoCredentials::Answer)?;
        Ok(Kept { json: Zeroizing::new(json), until })
    }

    async fn ask(&self, request: http::request::Builder) -> Result<Bytes, NoCredentials> {
        let request = request.body(Empty::<Bytes>::new()).map_err(|_| NoCredentials::Answer)?;
        let stream = TcpStream::connect(self.metadata).await.map_err(|_| NoCredentials::Unreachable)?;
        let answer = send(stream, request).await.map_err(|_| NoCredentials::Unreachable)?;
        match answer.status() {
            StatusCode::OK => Ok(answer.into_body()),
            other => Err(NoCredentials::Refused(other.as_u16())),
        }
    }

    async fn answer(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        let (status, body) = match (method, path) {
            (&Method::GET, PATH) => match self.json().await {
                Ok(json) => (StatusCode::OK, Bytes::copy_from_slice(&json)),
                Err(cause) => {
                    tracing::error!(%cause, "there are no credentials for the enclave");
                    (StatusCode::SERVICE_UNAVAILABLE, Bytes::new())
                }
            },
            _ => (StatusCode::NOT_FOUND, Bytes::new()),
        };
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = status;
        response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static("application/json"));
        response.headers_mut().insert(CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
        response
    }
}

/// Answers the requests of one connection.
///
/// # Errors
/// How it ended.
pub async fn serve(stream: Stream, credentials: Arc<Credentials>, limits: Limits) -> Result<(), Ended> {
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        let credentials = Arc::clone(&credentials);
        async move { Ok::<_, Infallible>(credentials.answer(request.method(), request.uri().path()).await) }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.message)
        .max_buf_size(16 * 1024)
        .serve_connection(TokioIo::new(stream), service);
    tokio::time::timeout(limits.total, serving)
        .await
        .map_err(|_| Ended::TooLong)?
        .map_err(|e| Ended::Io(std::io::Error::other(e)))
}
