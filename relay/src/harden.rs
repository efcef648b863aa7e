//! What keeps plaintext from leaving with the process's memory. The relay holds no key, but every value that is sealed or opened passes through it.

use std::io;

use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};

/// Switches core dumps off and keeps other processes of the same user from attaching to this one.
///
/// # Errors
/// The system refuses; the relay then does not start.
pub fn harden() -> io::Result<()> {
    setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
    Ok(set_dumpable_behavior(DumpableBehavior::NotDumpable)?)
}
