//! What the requests of one connection share.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use crate::exchange::flow::Client;
use crate::outbound::connect::{Intercepted, Target};

/// What the requests of one connection share.
pub(super) struct Visit {
    pub(super) client: Client,
    /// For what CONNECT asked, on the connection inside it.
    pub(super) through: Option<Through>,
    /// Set by a CONNECT whose TLS ends here.
    pub(super) intercepted: Mutex<Option<Intercepted>>,
}

/// The connection inside a CONNECT.
pub(super) struct Through {
    pub(super) target: Target,
    /// The TLS client asked for another name.
    pub(super) misdirected: bool,
    /// Whether a key was brought, in CONNECT or by a request since.
    pub(super) authenticated: AtomicBool,
}

impl Visit {
    pub(super) fn new(client: Client) -> Arc<Self> {
        Arc::new(Self { client, through: None, intercepted: Mutex::default() })
    }

    pub(super) fn intercepted(&self) -> Option<Intercepted> {
        self.intercepted.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
