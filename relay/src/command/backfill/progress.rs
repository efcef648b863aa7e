//! One line on a terminal that says how far a run has come.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

/// Time between two lines.
const OFTEN: Duration = Duration::from_millis(200);

/// Width of the bar.
const BAR: usize = 24;

/// A line that is written over.
pub(super) struct Progress {
    shown: bool,
    started: Instant,
    told: Instant,
    /// Bytes of the input, where that is known.
    total: Option<u64>,
    /// Bytes and records that an earlier run has done.
    before: (u64, u64),
}

impl Progress {
    /// Shown only where somebody looks.
    pub(super) fn new(quiet: bool, total: Option<u64>, before: (u64, u64)) -> Self {
        let now = Instant::now();
        Self { shown: !quiet && std::io::stderr().is_terminal(), started: now, told: now, total, before }
    }

    /// So many bytes of the input and records are done.
    pub(super) fn tell(&mut self, bytes: u64, records: u64) {
        if self.shown && self.told.elapsed() >= OFTEN {
            self.told = Instant::now();
            let text = line(self.started.elapsed(), self.total, self.before, (bytes, records));
            let _ = write!(std::io::stderr(), "\r\x1b[K{text}");
        }
    }

    /// Takes the line away.
    pub(super) fn clear(&self) {
        if self.shown {
            let _ = write!(std::io::stderr(), "\r\x1b[K");
        }
    }
}

fn line(took: Duration, total: Option<u64>, before: (u64, u64), now: (u64, u64)) -> String {
    let seconds = took.as_secs_f64().max(0.001);
    let rate = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
    let records = format!("{} records, {:.0}/s", now.1, rate(now.1, before.1));
    let Some(total) = total.filter(|total| *total > 0) else { return records };
    let share = (now.0 as f64 / total as f64).min(1.0);
    let full = (share * BAR as f64) as usize;
    let left = (total.saturating_sub(now.0)) as f64 / rate(now.0, before.0).max(1.0);
    let (minutes, rest) = (left as u64 / 60, left as u64 % 60);
    format!(
        "[{}{}] {:3.0} % {records}, {minutes}:{rest:02} left",
        "#".repeat(full),
        "-".repeat(BAR - full),
        share * 100.0
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_tells_share_rate_and_time_left() {
        let text = line(Duration::from_secs(10), Some(400), (100, 10), (200, 20));
        assert_eq!(text, "[############------------]  50 % 20 records, 1/s, 0:20 left");
        assert_eq!(line(Duration::from_secs(2), None, (0, 0), (5, 8)), "8 records, 4/s");
    }
}
