//! Idle upstream connections, kept for each worker thread.
//!
//! The key is the whole identity of a connection (server, TLS name, authorities, client certificate, oldest version), interned as a number when the rules load:
//! a connection that was verified under one authority is never handed to a site that trusts another.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::up::Connection;
use crate::config::resolved::UpstreamTls;
use crate::deadline::Moment;

/// What two connections must share to stand for each other.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Identity {
    tls: Option<TlsIdentity>,
    site: Box<str>,
}

/// What was proven on a connection, and what was offered.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct TlsIdentity {
    /// The name that is verified.
    name: Box<str>,
    /// SHA-256 of the authorities that are trusted, the system's where no file names others.
    authorities: [u8; 32],
    /// SHA-256 of the client certificate.
    client: Option<[u8; 32]>,
    only_tls13: bool,
    /// Whether HTTP/2 was offered beside HTTP/1.1.
    http2: bool,
}

/// An interned identity of connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PoolKey(Identified);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Identified {
    /// By what the rules say.
    Interned(u32),
    /// One of its own, never given twice.
    Fresh(u64),
}

static IDENTITIES: Mutex<Vec<Identity>> = Mutex::new(Vec::new());

impl PoolKey {
    /// The key of a site's connections; the same one after a reload that changes nothing about them, the bytes of the certificates' files included.
    /// `system` is asked for the SHA-256 of the system's authorities.
    #[must_use]
    pub fn intern(site: &str, tls: Option<&UpstreamTls>, system: impl FnOnce() -> [u8; 32]) -> Self {
        let digest = |file: &PathBuf| Sha256::digest(std::fs::read(file).unwrap_or_default()).into();
        let tls = tls.map(|t| TlsIdentity {
            name: t.server_name.clone(),
            authorities: t.ca.as_ref().map_or_else(system, digest),
            client: t.identity.as_ref().map(|identity| digest(&identity.certificate)),
            only_tls13: t.only_tls13,
            http2: t.http2,
        });
        let identity = Identity { tls, site: site.into() };
        let mut all = IDENTITIES.lock().unwrap_or_else(PoisonError::into_inner);
        let at = all.iter().position(|i| *i == identity).unwrap_or_else(|| {
            all.push(identity);
            all.len() - 1
        });
        Self(Identified::Interned(u32::try_from(at).unwrap_or(u32::MAX)))
    }

    /// A key that nothing else has, for a host that a client asked for: these come and go, so nothing is kept of them here.
    #[must_use]
    pub fn fresh() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        Self(Identified::Fresh(NEXT.fetch_add(1, Ordering::Relaxed)))
    }
}

struct Idle {
    connection: Connection,
    until: Moment,
}

/// Idle connections to one server; the most recently used last.
type Server = (SocketAddr, Vec<Idle>);

thread_local! {
    static POOL: RefCell<Pool> = RefCell::default();
}

#[derive(Default)]
struct Pool {
    /// By interned key, and then by server: there are few of each, and nothing is hashed for a request.
    interned: Vec<Vec<Server>>,
    /// By fresh key: those that idle, and no others.
    fresh: HashMap<u64, Vec<Server>>,
}

impl Pool {
    fn servers(&mut self, key: PoolKey) -> &mut Vec<Server> {
        match key.0 {
            Identified::Interned(at) => {
                let at = at as usize;
                if self.interned.len() <= at {
                    self.interned.resize_with(at + 1, Vec::new);
                }
                &mut self.interned[at]
            }
            Identified::Fresh(key) => self.fresh.entry(key).or_default(),
        }
    }
}

/// The most recently used idle connection.
#[must_use]
pub fn take(key: PoolKey, server: SocketAddr) -> Option<Connection> {
    POOL.with_borrow_mut(|pool| {
        let servers = match key.0 {
            Identified::Interned(at) => pool.interned.get_mut(at as usize)?,
            Identified::Fresh(key) => pool.fresh.get_mut(&key)?,
        };
        let (_, idle) = servers.iter_mut().find(|(address, _)| *address == server)?;
        while let Some(candidate) = idle.pop() {
            if !candidate.until.has_come() {
                return Some(candidate.connection);
            }
        }
        None
    })
}

/// Keeps a connection that is between two requests, unless there are enough.
pub fn put(key: PoolKey, server: SocketAddr, connection: Connection, most: usize, keep: Duration) {
    POOL.with_borrow_mut(|pool| {
        let servers = pool.servers(key);
        let known = servers.iter().position(|(address, _)| *address == server).unwrap_or_else(|| {
            servers.push((server, Vec::new()));
            servers.len() - 1
        });
        let Some((_, idle)) = servers.get_mut(known) else { return };
        // The oldest stand first: sweep what is over while we are here.
        if idle.first().is_some_and(|oldest| oldest.until.has_come()) {
            idle.retain(|i| !i.until.has_come());
        }
        if idle.len() < most {
            idle.push(Idle { connection, until: Moment::after(keep) });
        }
    });
}

/// Closes what idled too long or was closed by its peer, also of servers that nobody asks for any more. Called now and then on each worker thread.
pub fn sweep() {
    POOL.with_borrow_mut(|pool| {
        let sweep = |servers: &mut Vec<Server>| {
            servers.retain_mut(|(_, idle)| {
                idle.retain_mut(|i| !i.until.has_come() && i.connection.nudge());
                !idle.is_empty()
            });
        };
        pool.interned.iter_mut().for_each(sweep);
        pool.fresh.retain(|_, servers| {
            sweep(servers);
            !servers.is_empty()
        });
    });
}
