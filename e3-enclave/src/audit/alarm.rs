//! What rings when somebody opens a trap: a line in the log, a counter, and a command if there is one.

use e3_wire::{App, Role};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Shortest time between two runs of the command. What happens in between is told by the next one, in its count.
const PAUSE: Duration = Duration::from_secs(5);

/// The alarm of traps.
#[derive(Debug, Default)]
pub struct Alarm {
    /// Program and arguments; empty: none.
    command: Vec<String>,
    count: AtomicU64,
    /// When the command was last run.
    last: Mutex<Option<Instant>>,
}

impl Alarm {
    /// The alarm that runs this command; empty: none. It gets `E3_APP`, `E3_ROLE`, `E3_PRINCIPAL`, `E3_REQUEST` and `E3_COUNT`, never a value.
    #[must_use]
    pub fn new(command: Vec<String>) -> Self {
        Self { command, ..Self::default() }
    }

    /// How often a trap was touched since the start.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// A trap was touched. Does not block.
    pub fn ring(&self, app: App, role: Role, principal: &str, request: &str) {
        let count = self.count.fetch_add(1, Ordering::Relaxed) + 1;
        tracing::error!(%app, %role, principal, request, count, "ALARM: a token of a honey role was to be opened");
        let facts = [
            ("E3_APP", app.to_string()),
            ("E3_ROLE", role.to_string()),
            ("E3_PRINCIPAL", principal.to_owned()),
            ("E3_REQUEST", request.to_owned()),
            ("E3_COUNT", count.to_string()),
        ];
        self.run(facts);
    }

    /// The count rose elsewhere: in an engine whose host this is.
    pub(crate) fn rose_to(&self, count: u64) {
        if self.count.swap(count, Ordering::Relaxed) < count {
            tracing::error!(count, "ALARM: a token of a honey role was to be opened");
            self.run([("E3_COUNT", count.to_string())]);
        }
    }

    fn run<const N: usize>(&self, facts: [(&'static str, String); N]) {
        let Some((program, arguments)) = self.command.split_first() else { return };
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.is_some_and(|last| last.elapsed() < PAUSE) {
            return;
        }
        *last = Some(Instant::now());
        let mut command = Command::new(program);
        command.args(arguments).envs(facts).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        // A thread waits for it, so that it neither blocks an answer nor stays behind as a zombie.
        let running = std::thread::Builder::new().name("e3-alarm".to_owned()).spawn(move || match command.status() {
            Ok(status) if status.success() => {}
            Ok(status) => tracing::error!(%status, "the alarm's command failed"),
            Err(error) => tracing::error!(%error, "the alarm's command could not be run"),
        });
        if let Err(error) = running {
            tracing::error!(%error, "the alarm's command could not be run");
        }
    }
}
