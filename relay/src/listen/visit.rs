//! What the requests of one connection share.

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};

use crate::deadline::Moment;
use crate::exchange::flow::Client;
use crate::outbound::connect::{Intercepted, Target};
use crate::tls::server::Session;

/// What the requests of one connection share.
pub(super) struct Visit {
    pub(super) client: Client,
    /// For what CONNECT asked, on the connection inside it.
    pub(super) through: Option<Through>,
    /// What TLS at the listener settled; `None` without it.
    pub(super) session: Option<Arc<Session>>,
    /// When the first head must be here, where its time began before the connection was one of HTTP.
    pub(super) first_head: Option<Moment>,
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
    pub(super) fn new(client: Client, first_head: Option<Moment>) -> Arc<Self> {
        Arc::new(Self { client, through: None, session: None, first_head, intercepted: Mutex::default() })
    }

    /// Over TLS that ended at the listener.
    pub(super) fn secured(client: Client, session: Arc<Session>, first_head: Moment) -> Arc<Self> {
        let (session, first_head) = (Some(session), Some(first_head));
        Arc::new(Self { client, through: None, session, first_head, intercepted: Mutex::default() })
    }

    /// Inside a CONNECT.
    pub(super) fn through(client: Client, through: Through) -> Arc<Self> {
        let through = Some(through);
        Arc::new(Self { client, through, session: None, first_head: None, intercepted: Mutex::default() })
    }

    /// For one stream of a connection, which may ask for a tunnel as its others may.
    pub(super) fn of_stream(self: &Arc<Self>) -> Arc<Self> {
        if self.through.is_some() {
            return Arc::clone(self);
        }
        let (client, session) = (self.client.clone(), self.session.clone());
        Arc::new(Self { client, through: None, session, first_head: None, intercepted: Mutex::default() })
    }

    pub(super) fn intercepted(&self) -> Option<Intercepted> {
        self.intercepted.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
