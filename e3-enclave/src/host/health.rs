//! Takes the engine's status and log lines: into this program's log, a status file, and the [`super::page`].

use super::config::Limits;
use super::gate::{Ended, next_message};
use crate::audit::Alarm;
use crate::keyring::storage::replace;
use crate::parent::protocol::{Ask, HEALTH_MAX, Level, State, Status};
use crate::serve::HONEY;
use e3_link::Stream;
use serde_json::json;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The engine says its status every 5 s; after this it counts as gone.
const SILENCE: Duration = Duration::from_secs(20);

/// What is known of the engine and of its enclave.
pub struct Board {
    now: Mutex<Now>,
    file: Option<PathBuf>,
    alarm: Alarm,
}

#[derive(Default)]
struct Now {
    engine: Option<(Status, Instant)>,
    enclave: Option<String>,
}

impl Board {
    /// Nothing is known yet. The status is written to `file` whenever it changes; `alarm` rings when the engine tells that a trap was touched.
    #[must_use]
    pub fn new(file: Option<PathBuf>, alarm: Alarm) -> Self {
        Self { now: Mutex::default(), file, alarm }
    }

    fn said(&self, status: Status) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let before = now.engine.replace((status.clone(), Instant::now()));
        drop(now);
        if let Some((_, count)) = status.counters.iter().find(|(name, _)| name == HONEY) {
            self.alarm.rose_to(*count);
        }
        let changed = before
            .is_none_or(|(b, _)| (b.state, b.epoch, b.cause) != (status.state, status.epoch, status.cause.clone()));
        if changed {
            let (state, epoch, cause) = (status.state.as_str(), status.epoch, printable(&status.cause));
            match status.state {
                State::Failed => tracing::error!(target: "engine", state, cause, "engine"),
                _ => tracing::info!(target: "engine", state, epoch, "engine"),
            }
            self.write();
        }
    }

    /// What `describe-enclaves` says of the enclave: its state.
    pub(super) fn enclave(&self, state: &str) {
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let state = printable(state);
        if now.enclave.as_deref() != Some(&state) {
            tracing::info!(state, "enclave");
            now.enclave = Some(state);
            drop(now);
            self.write();
        }
    }

    /// Whether the engine serves; else why not, one line.
    ///
    /// # Errors
    /// It does not.
    pub fn ready(&self) -> Result<(), String> {
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        match &now.engine {
            None => Err("the engine has not said anything yet".to_owned()),
            Some((_, at)) if at.elapsed() > SILENCE => {
                Err(format!("the engine has said nothing for {} s", at.elapsed().as_secs()))
            }
            Some((status, _)) => match status.state {
                State::Ready => Ok(()),
                State::Failed => Err(format!("failed: {}", printable(&status.cause))),
                other => Err(other.as_str().to_owned()),
            },
        }
    }

    /// The status as JSON.
    #[must_use]
    pub fn json(&self) -> String {
        let ready = self.ready();
        let now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        let engine = now.engine.as_ref().map(|(status, at)| {
            let counters: serde_json::Map<_, _> =
                status.counters.iter().map(|(name, value)| (printable(name), json!(value))).collect();
            json!({
                "state": status.state.as_str(),
                "keyring_epoch": status.epoch,
                "cause": printable(&status.cause),
                "counters": counters,
                "silent_for_s": at.elapsed().as_secs(),
            })
        });
        let report = json!({
            "ready": ready.is_ok(),
            "cause": ready.err(),
            "engine": engine,
            "enclave": now.enclave,
            "host_version": env!("CARGO_PKG_VERSION"),
        });
        format!("{report:#}\n")
    }

    /// Writes the status file, if there is to be one.
    pub fn write(&self) {
        if let Some(file) = &self.file
            && let Err(error) = replace(file, self.json().as_bytes())
        {
            tracing::warn!(%error, "the status file is not written");
        }
    }
}

/// Text of the enclave is shown without characters that steer a terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Takes what one connection says.
///
/// # Errors
/// How it ended.
pub async fn serve(mut stream: Stream, board: Arc<Board>, limits: Limits) -> Result<(), Ended> {
    while let Some(body) = next_message(&mut stream, HEALTH_MAX, limits).await? {
        match Ask::decode(&body) {
            Ok(Ask::Status(status)) => {
                let board = Arc::clone(&board);
                let said = tokio::task::spawn_blocking(move || board.said(status)).await;
                said.map_err(std::io::Error::other)?;
            }
            Ok(Ask::Log { level, line }) => {
                let line = printable(line);
                match level {
                    Level::Error => tracing::error!(target: "engine", "engine: {line}"),
                    Level::Warn => tracing::warn!(target: "engine", "engine: {line}"),
                    Level::Info => tracing::info!(target: "engine", "engine: {line}"),
                    Level::Debug => tracing::debug!(target: "engine", "engine: {line}"),
                }
            }
            _ => return Err(Ended::BadMessage),
        }
    }
    Ok(())
}
