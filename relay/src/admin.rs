//! The admin listener: metrics, health, readiness and status. Loopback unless the rules file says otherwise; it never answers with a value, a token or a key.

use std::borrow::Cow;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use pingora_core::apps::ServerApp;
use pingora_core::protocols::Stream;
use pingora_core::server::ShutdownWatch;
use serde::Serialize;

use crate::reload::{Standing, unix_seconds};
use crate::tls::server::Terminator;

/// Time for the head of a request to the admin listener.
const HEAD_TIME: Duration = Duration::from_secs(10);

/// What the admin listener reports; the running relay implements it.
pub trait Source: Send + Sync + 'static {
    /// Every metric in Prometheus' text format, or `None` if they cannot be written.
    fn metrics(&self) -> Option<String>;

    /// Whether messages can be sealed and opened now.
    fn readiness(&self) -> Readiness;

    /// The whole state, for people.
    fn status(&self) -> Status;

    /// The certificate of the local authority in PEM, if there is one.
    fn ca(&self) -> Option<String>;
}

/// Whether the relay can do its work.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Whether it can.
    pub ready: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<Cow<'static, str>>,
}

/// The body of `/status`. Times are seconds since the Unix epoch.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Version of the relay.
    pub version: &'static str,
    /// Id of this process.
    pub pid: u32,
    /// Seconds since this process started.
    pub uptime_seconds: f64,
    /// Whether it can do its work.
    pub readiness: Readiness,
    /// Open client connections.
    pub connections: i64,
    /// Bodies that are held.
    pub held_bytes: HeldStatus,
    /// The rules file.
    pub config: ConfigStatus,
    /// The addresses it serves.
    pub listeners: Vec<ListenerStatus>,
    /// The engine.
    pub engine: EngineStatus,
}

/// Bytes of held bodies in `/status`.
#[derive(Debug, Serialize)]
pub struct HeldStatus {
    /// Now.
    pub now: usize,
    /// Most that may be.
    pub most: usize,
}

/// The rules file in `/status`.
#[derive(Debug, Serialize)]
pub struct ConfigStatus {
    /// The file.
    pub file: String,
    /// SHA-256 of the bytes in force, hexadecimal.
    pub hash: String,
    /// When they were loaded.
    pub loaded_at: f64,
    /// The last reload, absent before the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_reload: Option<ReloadStatus>,
}

/// The last reload in `/status`.
#[derive(Debug, Serialize)]
pub struct ReloadStatus {
    /// When it ended.
    pub at: f64,
    /// `applied` or `refused`.
    pub result: &'static str,
    /// Every fault of a refused file.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl ConfigStatus {
    /// From where the reloader stands.
    #[must_use]
    pub fn new(file: &std::path::Path, standing: Standing) -> Self {
        Self {
            file: file.display().to_string(),
            hash: standing.hash,
            loaded_at: unix_seconds(standing.loaded),
            last_reload: standing.last.map(|last| ReloadStatus {
                at: unix_seconds(last.at),
                result: last.outcome.as_str(),
                error: last.report,
            }),
        }
    }
}

/// A listener in `/status`.
#[derive(Debug, Serialize)]
pub struct ListenerStatus {
    /// The address.
    pub address: String,
    /// `inbound`, `outbound` or `api`.
    pub side: &'static str,
    /// Its certificate, where it has one for all clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateStatus>,
    /// What it serves.
    pub sites: Vec<SiteStatus>,
}

/// A certificate in `/status`.
#[derive(Debug, Serialize)]
pub struct CertificateStatus {
    /// What it is for; empty while there is none.
    pub names: Vec<String>,
    /// From when it is valid.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_before: Option<f64>,
    /// Until when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not_after: Option<f64>,
    /// When the relay orders the next one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub order_at: Option<f64>,
    /// The last order, where it failed: when, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<FailedOrder>,
}

/// An order of a certificate that failed, in `/status`.
#[derive(Debug, Serialize)]
pub struct FailedOrder {
    /// When.
    pub at: f64,
    /// Why: the authority's problem type, or what kept the relay from it.
    pub code: &'static str,
}

impl CertificateStatus {
    /// Of the certificate in use.
    #[must_use]
    pub fn new(terminator: &Terminator) -> Self {
        let (read, standing) = (terminator.certificate(), terminator.standing());
        Self {
            names: read.iter().flat_map(|read| read.names.iter().map(ToString::to_string)).collect(),
            not_before: read.as_ref().map(|read| unix_seconds(read.not_before)),
            not_after: read.as_ref().map(|read| unix_seconds(read.not_after)),
            order_at: standing.map(|standing| unix_seconds(standing.due)),
            failed: standing
                .and_then(|standing| standing.last)
                .map(|(at, fault)| FailedOrder { at: unix_seconds(at), code: fault.code() }),
        }
    }
}

/// A site in `/status`.
#[derive(Debug, Serialize)]
pub struct SiteStatus {
    /// Its name in logs and metrics.
    pub name: String,
    /// Its hosts as written.
    pub hosts: Vec<String>,
    /// The certificate in use, where TLS ends for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate: Option<CertificateStatus>,
    /// How many rules it has.
    pub rules: usize,
    /// Its servers, `host:port`.
    pub upstream: Vec<String>,
}

/// The engine in `/status`.
#[derive(Debug, Serialize)]
pub struct EngineStatus {
    /// The tenant that owns the keys.
    pub app: String,
    /// Whether a plain link is accepted.
    pub development: bool,
    /// Every endpoint.
    pub endpoints: Vec<EndpointStatus>,
}

/// One endpoint of the engine in `/status`.
#[derive(Debug, Serialize)]
pub struct EndpointStatus {
    /// As written.
    pub endpoint: String,
    /// Whether it answered the last time it was asked.
    pub ready: bool,
    /// Why it was not believed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// The admin listener's application.
#[derive(Debug)]
pub struct AdminApp<S> {
    source: Arc<S>,
}

impl<S: Source> AdminApp<S> {
    /// Reports what `source` says.
    #[must_use]
    pub fn new(source: Arc<S>) -> Self {
        Self { source }
    }
}

#[async_trait]
impl<S: Source> ServerApp for AdminApp<S> {
    async fn process_new(self: &Arc<Self>, session: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let service = service_fn(|request: Request<Incoming>| {
            let response = answer(&*self.source, request.method(), request.uri().path());
            async move { Ok::<_, Infallible>(response) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIME)
            .serve_connection(TokioIo::new(session), service);
        let mut connection = std::pin::pin!(connection);
        let mut shutdown = shutdown.clone();
        let down = async move { drop(shutdown.wait_for(|down| *down).await) };
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = down => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "admin connection");
        }
        None
    }
}

fn answer(source: &impl Source, method: &Method, path: &str) -> Response<Full<Bytes>> {
    type Answer = (StatusCode, &'static str, String);
    const TEXT: &str = "text/plain; charset=utf-8";
    const JSON: &str = "application/json";
    let known: Option<fn(&dyn Source) -> Answer> = match path {
        "/metrics" => Some(|source| match source.metrics() {
            Some(text) => (StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text),
            None => (StatusCode::INTERNAL_SERVER_ERROR, TEXT, "the metrics cannot be written\n".to_owned()),
        }),
        "/healthz" => Some(|_| (StatusCode::OK, TEXT, "ok\n".to_owned())),
        "/readyz" => Some(|source| {
            let readiness = source.readiness();
            let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            (status, JSON, json(&readiness))
        }),
        "/ca.pem" => Some(|source| match source.ca() {
            Some(pem) => (StatusCode::OK, "application/x-pem-file", pem),
            None => (StatusCode::NOT_FOUND, TEXT, "the rules name no `ca`\n".to_owned()),
        }),
        "/status" => Some(|source| (StatusCode::OK, JSON, json(&source.status()))),
        _ => None,
    };
    let readable = method == Method::GET || method == Method::HEAD;
    let (status, media, body) = match known {
        None => (StatusCode::NOT_FOUND, TEXT, "known paths: /metrics /healthz /readyz /status /ca.pem\n".to_owned()),
        Some(_) if !readable => (StatusCode::METHOD_NOT_ALLOWED, TEXT, "GET and HEAD only\n".to_owned()),
        Some(known) => known(source),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if status == StatusCode::METHOD_NOT_ALLOWED {
        headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

/// Readable JSON with a final line end.
fn json(report: &impl Serialize) -> String {
    // These types hold nothing that JSON cannot write.
    let mut text = serde_json::to_string_pretty(report).unwrap_or_else(|_| "{}".to_owned());
    text.push('\n');
    text
}
