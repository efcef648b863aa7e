//! A request's body on a connection that others share ends with its response at the latest.
//!
//! The codec sends such a body in a task of its own, which waits for more of it, and for the server's window, for as long as the stream is open. A server that
//! answers early and leaves it open would keep the task, and the stream with it, for good; where the response is over, or nobody wants it any more, the task
//! is dropped, and with it the stream is reset (RFC 9113 §8.1).

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use hyper::body::{Body, Frame, SizeHint};
use hyper::rt::Executor;
use tokio::sync::oneshot;

use super::BoxError;
use super::stream::UpBody;
use crate::body::Text;

/// Held for as long as the response is wanted: what is left of the body goes with it.
pub struct Wanted(#[allow(dead_code, reason = "its end is the message")] Option<oneshot::Sender<Infallible>>);

type Over = oneshot::Receiver<Infallible>;

/// A body that ends with its response.
pub struct Tied {
    body: UpBody,
    over: Option<Over>,
    tasks: Tasks,
}

impl Tied {
    /// Ties a body to its response, on the connection with these tasks.
    #[must_use]
    pub fn new(body: UpBody, tasks: &Tasks) -> (Self, Wanted) {
        // Of none, nothing can be left.
        let (wanted, over) = (!body.is_end_stream()).then(oneshot::channel).unzip();
        (Self { body, over, tasks: tasks.clone() }, Wanted(wanted))
    }

    /// The body alone, for another try.
    #[must_use]
    pub fn into_body(self) -> UpBody {
        self.body
    }
}

impl Body for Tied {
    type Data = Text;
    type Error = BoxError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Text>, BoxError>>> {
        if let Some(over) = self.over.take() {
            self.tasks.expect(over);
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Starts the tasks of one connection. The codec looks once whether a body can be sent at a stroke, and right after hands over the task that sends the rest:
/// the first task after a body's first look is that body's own, or the one that waits for the response, which then is over anyway.
#[derive(Clone, Default)]
pub struct Tasks(Arc<Mutex<Option<Over>>>);

impl Tasks {
    fn expect(&self, over: Over) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(over);
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Tasks {
    fn execute(&self, work: F) {
        let over = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        match over {
            Some(over) => tokio::spawn(until(over, work)),
            None => tokio::spawn(work),
        };
    }
}

async fn until(mut over: Over, work: impl Future<Output = ()>) {
    let mut work = pin!(work);
    poll_fn(|cx| {
        // What can still be sent is sent.
        if work.as_mut().poll(cx).is_ready() || Pin::new(&mut over).poll(cx).is_ready() {
            return Poll::Ready(());
        }
        Poll::Pending
    })
    .await;
}
