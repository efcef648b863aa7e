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
    /// A place for one connection, given back when dropped; `None` over the limit.
    pub(super) fn admit(&self, limits: &ConnectionLimits) -> Option<Guard> {
        let (place, open) = self.all.incr("", 1);
        fits(open, limits.connections).then_some(place)
    }

    /// The same among the connections of this client, once it is known who that is.
    pub(super) fn admit_one_of(&self, client: Option<IpAddr>, limits: &ConnectionLimits) -> Option<Guard> {
        let (place, open) = self.by_client.incr(client, 1);
        fits(open, limits.connections_per_client).then_some(place)
    }
}

fn fits(open: isize, most: usize) -> bool {
    usize::try_from(open).is_ok_and(|open| open <= most)
}
