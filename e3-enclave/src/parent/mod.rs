//! The engine's side of the parent instance's services (SPEC.md, "Host services").
//!
//! [`protocol`] is what both sides say, [`channel`] one connection on which questions are asked in turn, [`store`] where the wrapped blobs are,
//! [`health`] how the engine says how it is, [`starter`] that its machine is up. Nothing of this is trusted: the host can refuse service, and no more.

pub mod channel;
pub mod health;
pub mod protocol;
pub mod starter;
pub mod store;

pub use channel::{Blocking, HostFault};
pub use health::Health;
pub use store::{BlobStore, HostKeyring};

use e3_link::Endpoint;
use protocol::port;

/// Where the host's services are.
#[derive(Debug, Clone)]
pub struct Parent {
    /// Forwards bytes to KMS.
    pub kms: Endpoint,
    /// Hands over credentials.
    pub credentials: Endpoint,
    /// Keeps the wrapped blobs.
    pub store: Endpoint,
    /// Takes audit records.
    pub audit: Endpoint,
    /// Takes status and log.
    pub health: Endpoint,
}

impl Parent {
    /// The services at their usual ports of this context id: 3 on AWS.
    #[must_use]
    pub fn at(cid: u32) -> Self {
        let at = |port| Endpoint::Vsock { cid, port };
        Self {
            kms: at(port::KMS),
            credentials: at(port::CREDENTIALS),
            store: at(port::STORE),
            audit: at(port::AUDIT),
            health: at(port::HEALTH),
        }
    }
}
