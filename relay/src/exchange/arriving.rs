//! The body of a request as it comes in.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::admit::Conversation;
use crate::admit::conversation::{LINGER, LINGER_MAX};

/// A request's body. What nobody has read of it when it is dropped is still taken in for a moment on a stream of HTTP/2: a reset in its place could take
/// the answer with it, for clients send on until they have seen it. On HTTP/1 the gate does the same with the connection.
#[derive(Debug)]
pub struct Arriving {
    /// Gone only when this is dropped.
    body: Option<Incoming>,
    conversation: Arc<Conversation>,
}

impl Arriving {
    /// The body of a request of this conversation.
    #[must_use]
    pub fn new(body: Incoming, conversation: &Arc<Conversation>) -> Self {
        if body.is_end_stream() {
            conversation.request_ended();
        }
        Self { body: Some(body), conversation: Arc::clone(conversation) }
    }
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && frame.trailers_ref().is_some_and(HeaderMap::is_empty)
            && this.conversation.is_stream()
        {
            // The codec has dropped the pseudo fields that stood there, which make a message malformed (RFC 9113 §8.1): whoever works on the stream resets it.
            this.conversation.found_malformed();
            return Poll::Pending;
        }
        if matches!(polled, Poll::Ready(None)) || this.body.as_ref().is_some_and(Body::is_end_stream) {
            this.conversation.request_ended();
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        if self.is_end_stream() || !self.conversation.is_stream() {
            return;
        }
        let Some(mut body) = self.body.take() else { return };
        let deadline = Arc::clone(&self.conversation.deadline);
        self.conversation.leave_tunnel(Box::pin(async move {
            deadline.set(LINGER);
            let mut left = LINGER_MAX;
            while let Some(Ok(frame)) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
                left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
                if left == 0 {
                    return;
                }
            }
        }));
    }
}
