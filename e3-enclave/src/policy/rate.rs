//! A token bucket. The limit holds for one engine, across all its connections; a restart fills it.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

pub(super) struct Bucket {
    rate: f64,
    level: Mutex<(f64, Instant)>,
}

impl Bucket {
    /// A full bucket of `rate` tokens that gains as many each second.
    pub(super) fn new(rate: u32) -> Self {
        Self { rate: f64::from(rate), level: Mutex::new((f64::from(rate), Instant::now())) }
    }

    /// Takes one token, if there is one.
    pub(super) fn take(&self) -> bool {
        let now = Instant::now();
        let mut level = self.level.lock().unwrap_or_else(PoisonError::into_inner);
        let gained = now.saturating_duration_since(level.1).as_secs_f64() * self.rate;
        *level = ((level.0 + gained).min(self.rate), now);
        let there = level.0 >= 1.0;
        if there {
            level.0 -= 1.0;
        }
        there
    }
}
