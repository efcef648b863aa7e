//! Free ports, below the range from which the system takes ports of outgoing connections: a port from that range could be taken again before the program under test
//! binds it.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};

const FIRST: u16 = 10_000;
const LAST: u16 = 32_000;

/// An address on loopback that nobody listens on.
#[must_use]
pub fn free() -> SocketAddr {
    loop {
        let random = RandomState::new().build_hasher().finish();
        let port = FIRST + (random % u64::from(LAST - FIRST)) as u16;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        if TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}
