//! The limits of how many connections are open.

use std::net::IpAddr;

use pingora_limits::inflight::{Guard, Inflight};

use crate::config::resolved::ConnectionLimits;

/// Connections by client, for the limits: pingora's estimator, which never counts too few.
pub(super) struct Clients {
    by_client: Inflight,
    all: Inflight,
}

impl Default for Clients {
    fn default() -> Self {
        Self { by_client: Inflight::new(), all: Inflight::new() }
    }
}

impl Clients {
    /// A place for one connection, given back when dropped; `None` over a limit.
    pub(super) fn admit(&self, client: Option<IpAddr>, limits: &ConnectionLimits) -> Option<[Guard; 2]> {
        let (all, open) = self.all.incr("", 1);
        let (own, open_of_client) = self.by_client.incr(client, 1);
        let fits = |n: isize, most: usize| usize::try_from(n).is_ok_and(|n| n <= most);
        (fits(open, limits.connections) && fits(open_of_client, limits.connections_per_client)).then_some([all, own])
    }
}
