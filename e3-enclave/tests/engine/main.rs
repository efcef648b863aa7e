//! Promises of the engine, held on the real program over a real Unix socket.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

#[cfg(feature = "test-module")]
mod admin;
#[cfg(feature = "test-module")]
mod attested;
mod audit;
#[cfg(feature = "test-module")]
mod callers;
#[path = "../crypto/client.rs"]
mod client;
mod frames;
#[cfg(feature = "test-module")]
mod governed;
mod harness;
mod keys;
mod lifecycle;
mod public;
mod tampering;
mod tokens;
mod trail;
