//! Attestation documents of real machines, of test authorities, and faulty ones.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod binding;
mod chain;
mod freshness;
mod payload;
mod pcr;
mod real;
mod sample;
