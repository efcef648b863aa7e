//! Accepts connections at an endpoint, a bounded number at once.

use super::config::Limits;
use crate::error::Error;
use crate::parent::protocol::read_message;
use e3_link::{Endpoint, Listener, Stream};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::AsyncReadExt;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

/// Why a connection ended, when it did not end well. The other side is the enclave, so it is logged and nothing more.
#[derive(Debug, thiserror::Error)]
pub enum Ended {
    /// It broke SPEC.md, "Host services".
    #[error("what came is no message of this service")]
    BadMessage,
    /// The stream failed.
    #[error("the connection failed: {0}")]
    Io(#[from] std::io::Error),
    /// Nothing came, or nothing was taken, for too long.
    #[error("the connection stood still for too long")]
    Idle,
    /// It lasted too long.
    #[error("the connection lasted too long")]
    TooLong,
    /// What it leads to cannot be reached.
    #[error("{endpoint} cannot be reached: {cause}")]
    Unreachable {
        /// As configured.
        endpoint: String,
        /// Why.
        cause: std::io::Error,
    },
}

/// An endpoint of one service.
pub struct Gate {
    listener: Listener,
    room: Arc<Semaphore>,
    service: &'static str,
}

impl Gate {
    /// Listens.
    ///
    /// # Errors
    /// The endpoint is in use, or may not be bound.
    pub async fn bind(endpoint: &Endpoint, mode: u32, limits: Limits, service: &'static str) -> Result<Self, Error> {
        let listener = endpoint.listen(mode).await;
        let listener = listener.map_err(|source| Error::Listen { endpoint: endpoint.clone(), source })?;
        Ok(Self { listener, room: Arc::new(Semaphore::new(limits.connections)), service })
    }

    /// Serves each connection with `serve`, until it is dropped. Connections over the limit wait in the kernel's queue.
    pub async fn serve<F, C>(self, serve: C)
    where
        C: Fn(Stream) -> F + Send,
        F: Future<Output = Result<(), Ended>> + Send + 'static,
    {
        let mut connections = JoinSet::new();
        loop {
            let Ok(permit) = Arc::clone(&self.room).acquire_owned().await else { return };
            while connections.try_join_next().is_some() {}
            match self.listener.accept().await {
                Ok(stream) => {
                    let (serving, service) = (serve(stream), self.service);
                    connections.spawn(async move {
                        if let Err(ended) = serving.await {
                            tracing::warn!(service, cause = %ended, "a connection ended");
                        }
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(service = self.service, %error, "a connection could not be accepted");
                    // Out of file descriptors, most likely: trying at once would only spin.
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}

/// The next message of a connection, once begun within the limit of a message. `None`: the engine closed, or was quiet for as long as a connection may last.
///
/// # Errors
/// The stream failed, or what comes is no message.
pub async fn next_message(stream: &mut Stream, max: usize, limits: Limits) -> Result<Option<Vec<u8>>, Ended> {
    let mut first = [0; 1];
    match tokio::time::timeout(limits.total, stream.read(&mut first)).await {
        Ok(read) => {
            if read? == 0 {
                return Ok(None);
            }
        }
        Err(_) => return Ok(None),
    }
    let mut whole = first.as_slice().chain(stream);
    let read = tokio::time::timeout(limits.message, read_message(&mut whole, max)).await.map_err(|_| Ended::Idle)?;
    read.map_err(|error| match error.kind() {
        std::io::ErrorKind::InvalidData => Ended::BadMessage,
        _ => Ended::Io(error),
    })
}
