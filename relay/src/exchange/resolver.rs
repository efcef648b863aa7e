//! Looks names up that clients chose, off the worker threads and few at a time.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use tokio::sync::Semaphore;

/// Look-ups of the system that run at once: each holds a thread for as long as the name's servers are silent.
static TURNS: Semaphore = Semaphore::const_new(32);

type Table = dyn Fn(&str) -> Vec<IpAddr> + Send + Sync;

/// What knows the addresses of names.
#[derive(Clone, Default)]
pub struct Resolver(Option<Arc<Table>>);

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_some() { "Resolver(own)" } else { "Resolver(system)" })
    }
}

impl Resolver {
    /// One of the caller's own instead of the system's.
    pub fn own(table: impl Fn(&str) -> Vec<IpAddr> + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(table)))
    }

    /// The addresses of a name now. The caller bounds the time.
    ///
    /// # Errors
    /// The system finds none.
    pub async fn look_up(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Some(table) = &self.0 {
            return Ok(table(host).into_iter().map(|address| SocketAddr::new(address, port)).collect());
        }
        let host = host.to_owned();
        // A task of its own: a caller that gives up leaves its turn when the thread is free again, not before.
        let found = tokio::spawn(async move {
            let _turn = TURNS.acquire().await.map_err(io::Error::other)?;
            Ok(tokio::net::lookup_host((host, port)).await?.collect())
        });
        found.await.map_err(io::Error::other)?
    }
}
