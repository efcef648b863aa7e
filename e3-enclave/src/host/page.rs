//! `/healthz`, `/readyz` and `/status` on a loopback address.

use super::config::Limits;
use super::health::Board;
use crate::error::Error;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// The loopback listener.
pub struct Page {
    listener: TcpListener,
    board: Arc<Board>,
    limits: Limits,
}

impl Page {
    /// Listens.
    ///
    /// # Errors
    /// The address is in use, or may not be bound.
    pub async fn bind(address: SocketAddr, board: Arc<Board>, limits: Limits) -> Result<Self, Error> {
        let listener = TcpListener::bind(address).await.map_err(|source| Error::Http { address, source })?;
        Ok(Self { listener, board, limits })
    }

    /// Answers until it is dropped.
    pub async fn serve(self) {
        let room = Arc::new(Semaphore::new(self.limits.connections));
        let mut connections = JoinSet::new();
        loop {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
            while connections.try_join_next().is_some() {}
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let (board, limits) = (Arc::clone(&self.board), self.limits);
                    connections.spawn(async move {
                        connection(stream, board, limits).await;
                        drop(permit);
                    });
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    }
}

async fn connection(stream: TcpStream, board: Arc<Board>, limits: Limits) {
    let service = service_fn(|request: Request<hyper::body::Incoming>| {
        let board = Arc::clone(&board);
        async move { Ok::<_, Infallible>(answer(&board, request.method(), request.uri().path())) }
    });
    let serving = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.message)
        .serve_connection(TokioIo::new(stream), service);
    // Whoever asks for health has gone when this fails.
    let _ = tokio::time::timeout(limits.total, serving).await;
}

fn answer(board: &Board, method: &Method, path: &str) -> Response<Full<Bytes>> {
    let (status, kind, body) = match (method, path) {
        (&Method::GET, "/healthz") => (StatusCode::OK, "text/plain", "ok\n".to_owned()),
        (&Method::GET, "/readyz") => match board.ready() {
            Ok(()) => (StatusCode::OK, "text/plain", "ready\n".to_owned()),
            Err(cause) => (StatusCode::SERVICE_UNAVAILABLE, "text/plain", cause + "\n"),
        },
        (&Method::GET, "/status") => (StatusCode::OK, "application/json", board.json()),
        _ => (StatusCode::NOT_FOUND, "text/plain", "GET /healthz, /readyz or /status\n".to_owned()),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}
