//! The inbound and the outbound encryption relay.
//!
//! Journey of a message, in the order of the modules:
//!
//! 1. [`config`]: the rules file, read raw, then resolved into types that cannot be wrong; [`state`]: what is built from it;
//! 2. [`listen`]: accepts connections; [`tls`]: ends TLS, at listeners and where destinations are intercepted; [`admit`]: lets only what is beyond doubt reach the codec;
//! 3. [`inbound`], [`outbound`]: which site a request is for;
//! 4. [`rules`]: which rules it meets, and what they plan for its bodies;
//! 5. [`body`]: holds a ruled body whole, replaces every planned value, and only then yields a [`body::Sealed`];
//! 6. [`engine`]: the one call that a message makes;
//! 7. [`exchange`]: sends what is sealed, and brings the response back the same way;
//! 8. [`error`]: every cause for which a message is refused; [`answer`]: what the client is told.
//!
//! Around it: [`harden`] closes the process to core dumps and debuggers, [`run`] puts the parts together, [`lifecycle`] binds, drains and hands over, [`reload`] holds the rules in force and replaces them, [`metrics`] and [`log`] tell what happened, [`admin`] shows it; [`wellknown`] lets anyone check the engine. Programs and people seal and open
//! single values ([`values`]): over HTTP ([`api`]), or from files, on the command line ([`command`]).

pub mod admin;
pub mod admit;
pub mod answer;
pub mod api;
pub mod args;
pub mod body;
pub mod command;
pub mod config;
pub mod deadline;
pub mod engine;
pub mod error;
pub mod exchange;
pub mod harden;
pub mod inbound;
pub mod lifecycle;
pub mod listen;
pub mod log;
pub mod metrics;
pub mod outbound;
pub mod reload;
pub mod rules;
pub mod run;
pub mod state;
pub mod tls;
pub mod values;
pub mod wellknown;

pub use error::Failure;
