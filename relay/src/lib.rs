//! The inbound and the outbound encryption relay.
//!
//! Journey of a message, in the order of the modules:
//!
//! 1. [`config`]: the rules file, read raw, then resolved into types that cannot be wrong;
//! 2. [`rules`]: which rules a request meets, and what they plan for its bodies;
//! 3. [`body`]: holds a ruled body whole, replaces every planned value, and only then yields a [`body::Sealed`];
//! 4. [`engine`]: the one call that a message makes;
//! 5. [`error`]: every cause for which a message is refused.
//!
//! Around it: [`lifecycle`] binds, drains and hands over, [`reload`] holds the rules in force and replaces them, [`metrics`] and [`log`] tell what happened, [`admin`] shows it.

pub mod admin;
pub mod body;
pub mod config;
pub mod engine;
pub mod error;
pub mod lifecycle;
pub mod log;
pub mod metrics;
pub mod reload;
pub mod rules;

pub use error::Failure;
