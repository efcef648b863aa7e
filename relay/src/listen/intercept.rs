//! TLS inside a CONNECT ends here.

use std::future::poll_fn;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::task::Poll;

use pingora_core::protocols::Stream;
use pingora_core::server::ShutdownWatch;
use tokio_rustls::TlsAcceptor;

use super::Edge;
use super::visit::{Through, Visit};
use crate::config::resolved::ConnectionLimits;
use crate::deadline::Deadline;
use crate::exchange::flow::Client;
use crate::outbound::connect::Intercepted;

impl Edge {
    /// Ends TLS on a connection whose CONNECT was answered, and serves the requests that come through.
    pub(super) async fn intercept(
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
        let deadline = Deadline::new();
        poll_fn(|cx| {
            deadline.wake(cx);
            Poll::Ready(())
        })
        .await;
        deadline.set(limits.head_time);
        let accepted = deadline.bound(async {
            let stream = Intercepted::stream::<Stream>(upgrade).await?;
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
        let visit = Arc::new(Visit { client, through: Some(through), intercepted: Mutex::default() });
        self.serve(stream, &visit, limits, shutdown).await;
    }
}
