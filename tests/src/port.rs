//! Free ports, below the range from which the system takes ports of outgoing connections: a port from that range could be taken again before the program under test
//! binds it.

use std::collections::BTreeSet;
use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::{Mutex, PoisonError};

/// Two that are asked for before either is bound must differ.
static GIVEN: Mutex<BTreeSet<u16>> = Mutex::new(BTreeSet::new());

const FIRST: u16 = 10_000;
const LAST: u16 = 32_000;

/// An address on loopback that nobody listens on, and that this process was not given before.
#[must_use]
pub fn free() -> SocketAddr {
    loop {
        let random = RandomState::new().build_hasher().finish();
        let port = FIRST + (random % u64::from(LAST - FIRST)) as u16;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let fresh = GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert(port);
        if fresh && TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}
