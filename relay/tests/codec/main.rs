//! The data path over real sockets: client, relay and backends in one process.
#![allow(missing_docs, reason = "tests are named for what they hold")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]
#![allow(unreachable_pub, reason = "one crate, whose modules see each other")]

mod asked;
mod deadlines;
mod gate;
mod messages;
mod origin;
mod reuse;
mod support;
mod tunnel;
