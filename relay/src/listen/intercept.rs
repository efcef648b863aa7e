//! TLS inside a CONNECT ends here.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use pingora_core::server::ShutdownWatch;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

use super::Edge;
use super::http2::Protocol;
use super::visit::{Through, Visit};
use crate::config::resolved::ConnectionLimits;
use crate::deadline::Deadline;
use crate::exchange::flow::Client;
use crate::outbound::connect::Intercepted;

impl Edge {
    /// Goes on where a CONNECT was answered on a connection of this kind, if one was.
    pub(super) async fn go_on<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        self: &Arc<Self>,
        visit: &Visit,
        limits: ConnectionLimits,
        shutdown: ShutdownWatch,
    ) {
        if let Some(intercepted) = visit.intercepted() {
            // Boxed: few connections come this far, and the others need no room for it.
            Box::pin(self.intercept(intercepted, Intercepted::stream::<S>, visit.client.clone(), limits, shutdown))
                .await;
        }
    }

    /// The same on a stream of an HTTP/2 connection.
    pub(super) async fn go_on_stream(
        self: &Arc<Self>,
        visit: &Visit,
        limits: ConnectionLimits,
        shutdown: ShutdownWatch,
    ) {
        if let Some(intercepted) = visit.intercepted() {
            let stream = |upgrade: OnUpgrade| async { upgrade.await.map(TokioIo::new).map_err(io::Error::other) };
            Box::pin(self.intercept(intercepted, stream, visit.client.clone(), limits, shutdown)).await;
        }
    }

    /// Ends TLS on a connection whose CONNECT was answered, and serves the requests that come through.
    async fn intercept<S, F>(
        self: &Arc<Self>,
        intercepted: Intercepted,
        stream: impl FnOnce(OnUpgrade) -> F,
        client: Client,
        limits: ConnectionLimits,
        shutdown: ShutdownWatch,
    ) where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
        F: Future<Output = io::Result<S>>,
    {
        let Intercepted { target, authenticated, upgrade } = intercepted;
        let config = {
            let state = self.live.hold();
            let Some(authority) = &state.config.ca else { return };
            match authority.server(&target.host) {
                Ok(config) => config,
                Err(error) => {
                    tracing::warn!(host = %target.host, %error, "no certificate for an intercepted host");
                    return;
                }
            }
        };
        let deadline = Deadline::of_this_task().await;
        deadline.set(limits.head_time);
        let accepted = deadline.bound(async {
            let stream = stream(upgrade).await?;
            TlsAcceptor::from(config).accept(stream).await
        });
        let stream = match accepted.await {
            Some(Ok(stream)) => stream,
            Some(Err(error)) => {
                tracing::debug!(host = %target.host, %error, "TLS inside CONNECT");
                return;
            }
            None => return,
        };
        let misdirected = !target.is_server_name(stream.get_ref().1.server_name());
        let through = Through { target, misdirected, authenticated: AtomicBool::new(authenticated) };
        let visit = Visit::through(client, through);
        let protocol = Protocol::agreed(stream.get_ref().1.alpn_protocol());
        self.speak(protocol, stream, &visit, limits, shutdown).await;
    }
}
