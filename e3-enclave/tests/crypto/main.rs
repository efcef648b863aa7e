//! The cryptography: Wycheproof's attacks on the primitives as the engine uses them, and every alteration of a token.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod alterations;
mod primitives;
