//! How the engine says how it is: status and log lines, to the host. Never waits: what the host does not take in time is left out and counted.

use super::protocol::{Ask, Level, Status};
use crate::error::Error;
use e3_link::{Endpoint, Stream};
use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;
use tokio::sync::{Notify, mpsc};
use tracing_subscriber::fmt::MakeWriter;

/// Log lines that wait for the host, at most.
const QUEUE: usize = 1024;
/// The status is said again after this time: a host that was started anew learns it, and silence means that the engine is gone.
const REPEAT: Duration = Duration::from_secs(5);
/// Time for one message.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time between two tries to connect.
const BACKOFF: Duration = Duration::from_secs(1);

/// Says how the engine is.
#[derive(Clone)]
pub struct Health(Arc<Inner>);

struct Inner {
    lines: mpsc::Sender<(Level, String)>,
    /// The status and how often it was set.
    status: Mutex<(Option<Status>, u64)>,
    changed: Notify,
    lost: AtomicU64,
    /// Lines that were taken and not said yet.
    unsaid: AtomicU64,
    /// Which setting of the status was said last.
    said: AtomicU64,
}

impl Health {
    /// Starts the thread that speaks with the host's health service.
    ///
    /// # Errors
    /// The system refuses a thread or a runtime.
    pub fn start(endpoint: Endpoint) -> Result<Self, Error> {
        let (lines, waiting) = mpsc::channel(QUEUE);
        let inner = Arc::new(Inner {
            lines,
            status: Mutex::new((None, 0)),
            changed: Notify::new(),
            lost: AtomicU64::new(0),
            unsaid: AtomicU64::new(0),
            said: AtomicU64::new(0),
        });
        let speaker = Arc::downgrade(&inner);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(Error::Runtime)?;
        std::thread::Builder::new()
            .name("e3-health".to_owned())
            .spawn(move || runtime.block_on(speak(&endpoint, &speaker, waiting)))
            .map_err(Error::Runtime)?;
        Ok(Self(inner))
    }

    /// From now on the engine is like this.
    pub fn report(&self, status: Status) {
        let mut now = self.0.status.lock().unwrap_or_else(PoisonError::into_inner);
        *now = (Some(status), now.1 + 1);
        drop(now);
        self.0.changed.notify_one();
    }

    /// A line of the log.
    pub fn log(&self, level: Level, line: &str) {
        self.0.unsaid.fetch_add(1, Ordering::AcqRel);
        if self.0.lines.try_send((level, line.to_owned())).is_err() {
            self.0.unsaid.fetch_sub(1, Ordering::AcqRel);
            self.0.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Waits until everything is said, at most for `patience`: before a program ends. Blocks its thread.
    #[must_use]
    pub fn flush(&self, patience: Duration) -> bool {
        let until = Instant::now() + patience;
        loop {
            let set = self.0.status.lock().unwrap_or_else(PoisonError::into_inner).1;
            if self.0.unsaid.load(Ordering::Acquire) == 0 && self.0.said.load(Ordering::Acquire) == set {
                return true;
            }
            if Instant::now() >= until {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

/// What is to be said next.
enum Next {
    Line(Level, String),
    Status,
}

/// Speaks until nobody holds the [`Health`] any more.
async fn speak(endpoint: &Endpoint, inner: &std::sync::Weak<Inner>, mut lines: mpsc::Receiver<(Level, String)>) {
    let mut stream: Option<Stream> = None;
    while let Some(alive) = inner.upgrade() {
        let next = tokio::select! {
            line = lines.recv() => match line {
                Some((level, line)) => Next::Line(level, line),
                None => return,
            },
            () = alive.changed.notified() => Next::Status,
            () = tokio::time::sleep(REPEAT) => Next::Status,
        };
        // What cannot be said waits, and further lines behind it; those that find no room are counted.
        while !alive.say(endpoint, &mut stream, &next).await {
            stream = None;
            if Arc::strong_count(&alive) == 1 {
                return;
            }
            tokio::time::sleep(BACKOFF).await;
        }
        if matches!(next, Next::Line(..)) {
            alive.unsaid.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Inner {
    /// Whether it was said.
    async fn say(&self, endpoint: &Endpoint, stream: &mut Option<Stream>, next: &Next) -> bool {
        let fresh = stream.is_none();
        if fresh {
            *stream = endpoint.connect(PATIENCE).await.ok();
        }
        let Some(open) = stream else { return false };
        let (status, set) = self.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut message = Vec::new();
        if fresh {
            let lost = self.lost.swap(0, Ordering::Relaxed);
            if lost > 0 {
                let line = format!("{lost} log lines were lost while the host took none");
                message.extend(Ask::Log { level: Level::Warn, line: &line }.encode());
            }
        }
        if let Some(status) = status.filter(|_| fresh || matches!(next, Next::Status)) {
            message.extend(Ask::Status(status).encode());
        }
        if let Next::Line(level, line) = next {
            message.extend(Ask::Log { level: *level, line }.encode());
        }
        let written = write(open, &message).await;
        if written && (fresh || matches!(next, Next::Status)) {
            self.said.store(set, Ordering::Release);
        }
        written
    }
}

async fn write(stream: &mut Stream, message: &[u8]) -> bool {
    matches!(tokio::time::timeout(PATIENCE, stream.write_all(message)).await, Ok(Ok(())))
}

/// Takes one formatted event of `tracing`; a line to the host for each.
pub struct LineWriter {
    health: Health,
    level: Level,
}

impl Write for LineWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        text.lines().filter(|line| !line.is_empty()).for_each(|line| self.health.log(self.level, line));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Health {
    type Writer = LineWriter;

    fn make_writer(&'a self) -> LineWriter {
        LineWriter { health: self.clone(), level: Level::Info }
    }

    fn make_writer_for(&'a self, meta: &tracing::Metadata<'_>) -> LineWriter {
        let level = match *meta.level() {
            tracing::Level::ERROR => Level::Error,
            tracing::Level::WARN => Level::Warn,
            tracing::Level::INFO => Level::Info,
            _ => Level::Debug,
        };
        LineWriter { health: self.clone(), level }
    }
}
