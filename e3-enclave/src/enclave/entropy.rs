//! Random numbers: an enclave boots without a disk, a keyboard or a network card, so that the security module's are mixed into the kernel's before the first key is made.

use crate::module::Nsm;
use rustix::rand::{GetRandomFlags, getrandom};
use std::io::Write;

/// Least bytes of one answer of the module; it gives 256.
const LEAST: usize = 32;

/// Why there are no random numbers to rely on.
#[derive(Debug, thiserror::Error)]
pub enum EntropyError {
    /// The module gives none, or the same twice.
    #[error("the security module gives no random numbers")]
    Module,
    /// They cannot be mixed in.
    #[error("the kernel takes no random numbers: {0}")]
    Mix(std::io::Error),
    /// The kernel has none of its own.
    #[error("the kernel's random number generator is not ready")]
    Kernel,
}

/// Mixes the module's random numbers into the kernel's, and checks that these are ready.
///
/// # Errors
/// See [`EntropyError`]; the engine then does not start.
pub fn mix(module: &Nsm) -> Result<(), EntropyError> {
    let answers = [module.random(), module.random()].map(|answer| answer.filter(|bytes| bytes.len() >= LEAST));
    let [Some(first), Some(second)] = answers else { return Err(EntropyError::Module) };
    if first == second {
        return Err(EntropyError::Module);
    }
    let mut pool = std::fs::OpenOptions::new().write(true).open("/dev/urandom").map_err(EntropyError::Mix)?;
    pool.write_all(&first).and_then(|()| pool.write_all(&second)).map_err(EntropyError::Mix)?;
    let mut probe = [0; LEAST];
    match getrandom(&mut probe, GetRandomFlags::NONBLOCK) {
        Ok(LEAST) if probe != [0; LEAST] => Ok(()),
        _ => Err(EntropyError::Kernel),
    }
}
