//! HTTP/1 on one connection: the gate guards, hyper reads and writes.

use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use pingora_core::server::ShutdownWatch;
use tokio::io::{AsyncRead, AsyncWrite};

use super::Edge;
use super::visit::Visit;
use crate::admit::{Conversation, Gate};
use crate::config::resolved::ConnectionLimits;
use crate::deadline::Moment;
use crate::exchange::{lane, pool};

/// Time between two looks at idle upstream connections of a worker thread.
const SWEEP: Duration = Duration::from_secs(5);

/// When the process drains, a head that is awaited on a fresh connection, or has begun, has this long: it may be on its way, and nobody else will answer it.
const FIRST_HEAD: Duration = Duration::from_secs(2);

impl Edge {
    pub(super) async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
        self: &Arc<Self>,
        stream: S,
        visit: &Arc<Visit>,
        limits: ConnectionLimits,
        mut shutdown: ShutdownWatch,
    ) {
        keep_pool_swept();
        let conversation = Conversation::new(limits);
        if let Some(moment) = visit.first_head {
            conversation.deadline.set_at(moment);
        }
        let service = {
            let conversation = Arc::clone(&conversation);
            let (edge, visit) = (Arc::clone(self), Arc::clone(visit));
            service_fn(move |request| {
                let (edge, visit, conversation) = (Arc::clone(&edge), Arc::clone(&visit), Arc::clone(&conversation));
                // Boxed, so that an idle connection holds no room for a request's state.
                async move { Ok::<_, Infallible>(Box::pin(edge.answer(request, visit, conversation)).await) }
            })
        };
        let connection = http1::Builder::new()
            .max_headers(limits.head_fields)
            .max_buf_size(limits.head_bytes.max(64 * 1024))
            .auto_date_header(false)
            .serve_connection(TokioIo::new(Gate::new(stream, Arc::clone(&conversation))), service)
            .with_upgrades();
        let mut connection = pin!(connection);
        // Asking the channel costs less than another turn of the future that waits for it.
        let mut watched = false;
        let news = shutdown.clone();
        let mut leaving = pin!(async move {
            // Ends when the process starts to drain; a closed channel is a process that is ending.
            let _ = shutdown.changed().await;
        });
        let (mut leaves_by, mut left) = (None, false);
        poll_fn(|cx| {
            conversation.deadline.wake(cx);
            loop {
                if connection.as_mut().poll(cx).is_ready() {
                    return Poll::Ready(());
                }
                if leaves_by.is_none()
                    && (!std::mem::replace(&mut watched, true) || news.has_changed().unwrap_or(true))
                    && leaving.as_mut().poll(cx).is_ready()
                {
                    let by = Moment::after(FIRST_HEAD);
                    if conversation.expects_head() {
                        conversation.deadline.not_after(by);
                    }
                    leaves_by = Some(by);
                }
                if !left && leaves_by.is_some_and(|by| !conversation.expects_head() || by.has_come()) {
                    left = true;
                    connection.as_mut().graceful_shutdown();
                    continue;
                }
                if !conversation.deadline.is_due() {
                    return Poll::Pending;
                }
                // Whoever works on a message has just had a turn to answer that it is late, so here is a peer that does not read. Without a
                // message, the connection was idle for long enough, or a head did not come in time, which is answered.
                if !conversation.is_idle() || !conversation.out_of_time() {
                    return Poll::Ready(());
                }
            }
        })
        .await;
        carry_tunnel(&conversation).await;
    }
}

/// Carries on the tunnel that was left, if one was, as long as its deadline allows.
pub(super) async fn carry_tunnel(conversation: &Conversation) {
    let Some(mut tunnel) = conversation.take_tunnel() else { return };
    poll_fn(|cx| {
        conversation.deadline.wake(cx);
        if tunnel.as_mut().poll(cx).is_ready() || conversation.deadline.is_due() {
            return Poll::Ready(());
        }
        Poll::Pending
    })
    .await;
}

/// Starts the sweep of this worker thread's pool with its first connection.
pub(super) fn keep_pool_swept() {
    thread_local!(static SWEPT: Cell<bool> = const { Cell::new(false) });
    if !SWEPT.replace(true) {
        tokio::spawn(async {
            loop {
                tokio::time::sleep(SWEEP).await;
                pool::sweep();
                lane::sweep();
            }
        });
    }
}
