//! TLS where it ends in the relay: [`ca`] mints certificates for intercepted connections.

pub mod ca;
