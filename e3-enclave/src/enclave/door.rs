//! Who knocks while there is no keyring: relays learn the cause from the certificate and leave, administrators may make it.

use super::reception::Reception;
use crate::error::Error;
use e3_link::attested::engine::{EngineTls, Who};
use e3_link::{Endpoint, Listener};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{Semaphore, oneshot};
use tokio::task::JoinSet;

/// Handshakes at once; further ones wait in the kernel's queue.
const KNOCKING: usize = 64;

/// The listeners of an engine that is locked. Dropping it closes them.
pub struct Door {
    close: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Door {
    /// Listens, and shows the certificate in force to whoever comes. Administrators are led to the reception.
    ///
    /// # Errors
    /// It cannot listen, or the system refuses a thread or a runtime.
    pub fn open(
        listen: &[Endpoint],
        socket_mode: u32,
        tls: &Arc<EngineTls>,
        reception: Reception,
    ) -> Result<Self, Error> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
        let mut listeners = Vec::new();
        for endpoint in listen {
            let bound = runtime.block_on(endpoint.listen(socket_mode));
            listeners.push(bound.map_err(|source| Error::Listen { endpoint: endpoint.clone(), source })?);
        }
        let (close, closed) = oneshot::channel();
        let (tls, reception) = (Arc::clone(tls), Arc::new(reception));
        let answer = move || {
            runtime.block_on(async {
                let room = Arc::new(Semaphore::new(KNOCKING));
                let mut doors = JoinSet::new();
                for listener in listeners {
                    doors.spawn(show(listener, Arc::clone(&tls), Arc::clone(&room), Arc::clone(&reception)));
                }
                drop(closed.await);
                doors.shutdown().await;
            });
        };
        let thread = std::thread::Builder::new().name("e3-door".to_owned()).spawn(answer).map_err(Error::Runtime)?;
        Ok(Self { close: Some(close), thread: Some(thread) })
    }
}

impl Drop for Door {
    fn drop(&mut self) {
        drop(self.close.take());
        if let Some(thread) = self.thread.take() {
            // Its listeners must be closed before the engine opens its own.
            drop(thread.join());
        }
    }
}

async fn show(listener: Listener, tls: Arc<EngineTls>, room: Arc<Semaphore>, reception: Arc<Reception>) {
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
        match listener.accept().await {
            Ok(stream) => {
                let (tls, reception) = (Arc::clone(&tls), Arc::clone(&reception));
                tokio::spawn(async move {
                    match tls.accept(stream).await {
                        Some((stream, peer)) if matches!(peer.who(), Who::Admin(_)) => {
                            reception.serve(stream, peer).await;
                        }
                        // A relay leaves by itself once it has seen the certificate.
                        _ => {}
                    }
                    drop(permit);
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}
