//! A relay on a port of its own, backends named for their behaviour, and a client that speaks bytes.

pub mod backend;
pub mod client;
pub mod relay;

pub use backend::{Backend, ok};
pub use client::Client;
pub use relay::{Relay, inbound};
