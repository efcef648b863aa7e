//! The log: what happens and why, never a value.

use crate::config::{Log, LogFormat, LogLevel};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Sends the log to the host's health service: an enclave has no console that anybody may read. A second call changes nothing.
pub fn start_at_host(health: crate::parent::Health) {
    let layer = tracing_subscriber::fmt::layer().with_writer(health).with_target(false).with_ansi(false);
    let started = tracing_subscriber::registry().with(LevelFilter::INFO).with(layer.without_time().with_level(false));
    drop(started.try_init());
}

/// Sends the log to standard error. A second call changes nothing.
pub fn start(log: &Log) {
    let level = match log.level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
    };
    let registry = tracing_subscriber::registry().with(level);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let started = match log.format {
        LogFormat::Human => {
            registry.with(layer.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()))).try_init()
        }
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
    };
    drop(started);
}
