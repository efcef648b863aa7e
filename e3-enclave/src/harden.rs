//! What keeps keys and plaintext from leaving with the process's memory.

use crate::error::Error;
use rustix::mm::{MlockAllFlags, mlockall};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Switches core dumps off and keeps other processes of the same user from attaching to this one.
///
/// # Errors
/// The system refuses; the engine then does not start.
pub fn harden() -> Result<(), Error> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).map_err(|e| Error::Harden(e.into()))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|e| Error::Harden(e.into()))
}

/// Keeps all memory of the process in memory. An enclave has no disk to swap to; this says so to the kernel too.
///
/// # Errors
/// The system refuses; the engine then does not start.
pub fn keep_in_memory() -> Result<(), Error> {
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    mlockall(flags).map_err(|e| Error::Harden(e.into()))
}
