//! The cryptography: Wycheproof's attacks on the primitives and the vectors of RFC 9180, as the engine uses them, and every alteration of a token.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod alterations;
mod client;
mod hpke_vectors;
mod primitives;
