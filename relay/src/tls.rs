//! TLS that ends in the relay: at its own listeners, and, inside CONNECT, in the place of destinations.

pub mod acme;
pub mod ca;
pub mod certificate;
pub mod server;
