//! What keeps keys and plaintext from leaving with the process's memory.

use crate::error::Error;
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Switches core dumps off and keeps other processes of the same user from attaching to this one.
///
/// # Errors
/// The system refuses; the engine then does not start.
pub fn harden() -> Result<(), Error> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) }).map_err(|e| Error::Harden(e.into()))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|e| Error::Harden(e.into()))
}
