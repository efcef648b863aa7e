//! The time: an enclave has no network to ask, and its host may not set it. The security module states the hypervisor's time in each document; the clock follows that.

use e3_attest::Request;
use e3_link::attested::Attester;
use rustix::time::{ClockId, Timespec, clock_settime};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// How far the clock may be from the module's before it is set.
const TOLERANCE: Duration = Duration::from_secs(1);

/// Time between two comparisons.
const PERIOD: Duration = Duration::from_secs(60);

/// Why the time is not known.
#[derive(Debug, thiserror::Error)]
pub enum ClockError {
    /// The module makes no document.
    #[error("the security module states no time")]
    Module,
    /// The kernel refuses.
    #[error("the clock is {0:?} off the security module's and cannot be set")]
    Set(Duration),
}

/// What a comparison found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compared {
    /// The clock agrees.
    Agrees,
    /// It was this far off, and has been set.
    Set(Duration),
}

/// Compares the clock with the module's, and sets it where they differ.
///
/// # Errors
/// See [`ClockError`].
pub fn follow(module: &dyn Attester) -> Result<Compared, ClockError> {
    let document = module.document(&Request::default()).ok_or(ClockError::Module)?;
    let stated = e3_attest::stated_time(&document).map_err(|_| ClockError::Module)?;
    let off = distance(SystemTime::now(), stated);
    if off <= TOLERANCE {
        return Ok(Compared::Agrees);
    }
    let since = stated.duration_since(SystemTime::UNIX_EPOCH).map_err(|_| ClockError::Module)?;
    let seconds = i64::try_from(since.as_secs()).map_err(|_| ClockError::Module)?;
    let to = Timespec { tv_sec: seconds, tv_nsec: since.subsec_nanos().into() };
    clock_settime(ClockId::Realtime, to).map_err(|_| ClockError::Set(off))?;
    Ok(Compared::Set(off))
}

/// Goes on comparing, on a thread of its own.
///
/// # Errors
/// The system refuses a thread.
pub fn keep(module: Arc<dyn Attester>) -> std::io::Result<()> {
    let watch = move || loop {
        std::thread::sleep(PERIOD);
        match follow(&*module) {
            Ok(Compared::Agrees) => {}
            Ok(Compared::Set(off)) => {
                tracing::warn!(off_ms = off.as_millis(), "the clock was set to the security module's")
            }
            Err(error) => tracing::error!(%error, "the clock was not compared"),
        }
    };
    std::thread::Builder::new().name("e3-clock".to_owned()).spawn(watch).map(|_| ())
}

fn distance(a: SystemTime, b: SystemTime) -> Duration {
    a.duration_since(b).unwrap_or_else(|earlier| earlier.duration())
}
