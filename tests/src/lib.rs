//! Harness of the whole-system tests and of the demo: it starts the real programs `e3` and `relay` as processes, with config files in a temporary folder, real sockets
//! between them, and backends that write down every byte they get.
//!
//! [`process`] starts and ends programs, [`port`] finds free ports, [`client`] speaks HTTP/1.1 byte by byte, [`backend`] records and answers,
//! [`disk`] fails to sync, [`engine_double`] stands in for an engine that misbehaves, [`host`] is the parent instance of an enclave, [`stack`] puts an engine and relays together, [`shop`] is what
//! the demo protects. With the feature `nitro`, `nitro` boots enclaves on emulated machines.

pub mod backend;
pub mod client;
pub mod disk;
pub mod engine_double;
pub mod frames;
pub mod host;
#[cfg(feature = "nitro")]
pub mod nitro;
pub mod port;
pub mod process;
pub mod shop;
pub mod stack;

use std::time::{Duration, Instant};

/// Longest wait for anything that should happen: generous, because only a failure takes that long.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `probe` yields something.
///
/// # Panics
/// When it has yielded nothing for [`PATIENCE`]; the message says what was waited for.
pub fn eventually<T>(what: &str, mut probe: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = probe() {
            return found;
        }
        assert!(Instant::now() < end, "waited {PATIENCE:?} for {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}
