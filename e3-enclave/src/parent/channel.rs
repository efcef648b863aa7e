//! One connection to a service of the host, for threads that may block.

use super::protocol::read_message;
use e3_link::{Endpoint, LinkError, Stream};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWriteExt, ReadBuf};
use tokio::runtime::Runtime;

/// Why a service of the host did not do what it was asked. No text and no value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HostFault {
    /// Nobody listens.
    #[error("the host's service cannot be reached: {0}")]
    Connect(io::ErrorKind),
    /// No answer in time.
    #[error("the host's service did not answer in time")]
    Timeout,
    /// The connection broke.
    #[error("the host's service closed the connection")]
    Closed,
    /// The answer is none of SPEC.md's.
    #[error("the host's service broke the protocol")]
    Protocol,
    /// Its disk failed.
    #[error("the host could not write to its disk; its log says why")]
    Failed,
    /// Somebody else changed what was to be replaced.
    #[error("what the host stores is another than was expected, again and again")]
    Conflict,
}

/// A runtime of its own for code that blocks: the engine's threads for requests are not used, and need not run yet.
pub struct Blocking(Option<Runtime>);

impl Blocking {
    /// Makes the runtime.
    ///
    /// # Errors
    /// The system refuses.
    pub fn new() -> io::Result<Self> {
        tokio::runtime::Builder::new_current_thread().enable_all().build().map(|r| Self(Some(r)))
    }

    /// Waits for a future. Never from a thread that serves requests.
    pub fn wait<F: Future>(&self, future: F) -> Option<F::Output> {
        self.0.as_ref().map(|runtime| runtime.block_on(future))
    }
}

impl Drop for Blocking {
    fn drop(&mut self) {
        // Dropping a runtime inside another one panics; this does not.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Asks one question after the other on one connection, which is made when it is needed.
pub(crate) struct Channel {
    endpoint: Endpoint,
    timeout: Duration,
    longest: usize,
    runtime: Blocking,
    stream: Option<Stream>,
}

impl Channel {
    /// A channel to `endpoint`, whose questions are answered within `timeout` by at most `longest` bytes.
    ///
    /// # Errors
    /// The runtime cannot be made.
    pub(crate) fn new(endpoint: Endpoint, timeout: Duration, longest: usize) -> io::Result<Self> {
        Ok(Self { endpoint, timeout, longest, runtime: Blocking::new()?, stream: None })
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Sends a message and waits for its answer.
    ///
    /// # Errors
    /// There is none, for one of these causes; the next call connects anew.
    pub(crate) fn ask(&mut self, message: &[u8]) -> Result<Vec<u8>, HostFault> {
        let (endpoint, timeout, longest) = (&self.endpoint, self.timeout, self.longest);
        let stream = &mut self.stream;
        let asked = self.runtime.wait(async {
            // What a cancelled question leaves behind is never read as the answer to another.
            let used = stream.take();
            let exchange = tokio::time::timeout(timeout, exchange(endpoint, timeout, used, message, longest));
            let (kept, answer) = exchange.await.unwrap_or(Err(HostFault::Timeout))?;
            *stream = Some(kept);
            Ok(answer)
        });
        asked.unwrap_or(Err(HostFault::Closed))
    }
}

async fn exchange(
    endpoint: &Endpoint,
    timeout: Duration,
    used: Option<Stream>,
    message: &[u8],
    longest: usize,
) -> Result<(Stream, Vec<u8>), HostFault> {
    let quiet = match used {
        Some(mut stream) => is_quiet(&mut stream).await.then_some(stream),
        None => None,
    };
    let mut stream = match quiet {
        Some(stream) => stream,
        None => endpoint.connect(timeout).await.map_err(|error| match error {
            LinkError::Connect(kind) => HostFault::Connect(kind),
            _ => HostFault::Closed,
        })?,
    };
    stream.write_all(message).await.map_err(|_| HostFault::Closed)?;
    match read_message(&mut stream, longest).await {
        Ok(Some(answer)) => Ok((stream, answer)),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Err(HostFault::Protocol),
        Ok(None) | Err(_) => Err(HostFault::Closed),
    }
}

/// Whether the connection still stands, with nothing unread: a host that was started anew has closed it.
async fn is_quiet(stream: &mut Stream) -> bool {
    // Lets the runtime hear of what happened since the last question.
    tokio::task::yield_now().await;
    let mut byte = [0];
    std::future::poll_fn(|cx| {
        Poll::Ready(Pin::new(&mut *stream).poll_read(cx, &mut ReadBuf::new(&mut byte)).is_pending())
    })
    .await
}
