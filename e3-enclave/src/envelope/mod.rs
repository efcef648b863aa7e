//! Tokens: how a value becomes one and how it comes back (SPEC.md, "Tokens").
//!
//! [`format`] lays out the header and the sealed binary and derives the message key; [`salt`] is where salts and times come from;
//! [`value`] says whether bytes are one value of their type; [`seal`], [`open`] and [`rewrap`] do what their names say.
//!
//! Every way in which a token can fail to authenticate is one error, [`NotAuthentic`]: what is wrong with a forged token is of
//! use only to its forger.

pub(crate) mod format;
pub mod open;
pub mod rewrap;
pub(crate) mod salt;
pub mod seal;
pub mod value;
#[cfg(test)]
mod vectors;

pub use format::Suite;
pub use open::{Authentic, NotAuthentic};
pub use salt::SealTime;
pub use seal::{SealError, Sealer};
