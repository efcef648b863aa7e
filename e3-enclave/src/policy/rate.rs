//! A token bucket. The limit holds for one engine, across all its connections and reloads of the policy; a restart fills it.

use super::document::Rate;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

#[derive(Debug)]
pub(super) struct Bucket {
    most: f64,
    gain: f64,
    level: Mutex<(f64, Instant)>,
}

impl Bucket {
    /// A full bucket of the rate's count, which gains as many in the rate's time.
    pub(super) fn new(rate: Rate, now: Instant) -> Self {
        let most = f64::from(rate.count);
        Self { most, gain: most / f64::from(rate.per.seconds()), level: Mutex::new((most, now)) }
    }

    /// Whether it is of this rate.
    pub(super) fn is_of(&self, rate: Rate) -> bool {
        let most = f64::from(rate.count);
        self.most == most && self.gain == most / f64::from(rate.per.seconds())
    }

    /// Takes one, if there is one.
    pub(super) fn take(&self, now: Instant) -> bool {
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        // A request that came earlier, and is worked on later, must not turn the clock back.
        let now = now.max(level.1);
        let gained = now.saturating_duration_since(level.1).as_secs_f64() * self.gain;
        *level = ((level.0 + gained).min(self.most), now);
        let there = level.0 >= 1.0;
        if there {
            level.0 -= 1.0;
        }
        there
    }
}
