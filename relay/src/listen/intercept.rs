//! TLS inside a CONNECT ends here.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use pingora_core::server::ShutdownWatch;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;

use super::Edge;
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
            Box::pin(self.intercept::<S>(intercepted, visit.client.clone(), limits, shutdown)).await;
        }
    }

    /// Ends TLS on a connection whose CONNECT was answered, and serves the requests that come through.
    async fn intercept<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        self: &Arc<Self>,
        intercepted: Intercepted,
        client: Client,
        limits: ConnectionLimits,
        shutdown: ShutdownWatch,
    ) {
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
            let stream = Intercepted::stream::<S>(upgrade).await?;
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
        self.serve(stream, &visit, limits, shutdown).await;
    }
}
