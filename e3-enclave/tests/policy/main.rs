//! The policy: what its file may say, whose signatures it needs, and that it decides as it reads.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod decisions;
mod file;
mod live;
mod naive;
mod oracle;
mod signatures;
mod tools;
