//! The log: one line for each failed message, to standard error, for people or as JSON. Never a value, a header, a path or a query.
//!
//! Of equal failures, which a client can cause as fast as it can send, ten lines in a second are written for each site and problem code; one line then says how many were
//! kept back. Metrics count them all.

mod flood;

use std::io::IsTerminal;
use std::sync::LazyLock;
use std::time::Instant;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::Failure;
use crate::config::resolved::LogFormat;
use flood::Flood;

/// What is logged unless `E3_LOG` or `RUST_LOG` says otherwise. Pingora reports its own start and end in detail; its warnings are enough.
const DEFAULT: &str = "info,pingora_core=warn,pingora_runtime=warn";

/// The most that these may say where the filter does not name them; they never say more than the rest. notify tells below `warn` of every change beside the rules file, and
/// the log may be such a change; the codec of HTTP/2 warns of every connection that a client's flood ends, as fast as the client dials.
const GUARDED: [(&str, LevelFilter); 2] = [("notify", LevelFilter::WARN), ("h2", LevelFilter::ERROR)];

/// Starts the log of this process. The filter is `E3_LOG`, else `RUST_LOG`, else `info`.
///
/// A filter that cannot be read is reported in the log and replaced by the default: a typing error there must not keep a relay down. A second call changes nothing.
pub fn start(format: LogFormat) {
    let written = ["E3_LOG", "RUST_LOG"].into_iter().find_map(|name| Some((name, std::env::var(name).ok()?)));
    let (filter, fault) = match &written {
        None => (usual(), None),
        Some((name, text)) => match EnvFilter::try_new(guarded(text)) {
            Ok(filter) => (filter, None),
            Err(error) => (usual(), Some((name, error))),
        },
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Human => {
            let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
            lines.with_ansi(colour).with_target(false).try_init()
        }
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init(),
    };
    if let (Ok(()), Some((name, error))) = (started, fault) {
        tracing::warn!(variable = name, %error, "the log filter cannot be read; `{DEFAULT}` is used");
    }
}

/// Every failure of this process by its kind.
static FLOOD: LazyLock<Flood> = LazyLock::new(Flood::default);

/// Seconds since this was first asked.
fn second() -> u32 {
    static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);
    u32::try_from(BEGUN.elapsed().as_secs()).unwrap_or(u32::MAX)
}

/// Tells of the lines that were kept back in seconds that are over. To be called now and then: without it, the end of a flood would be told only with the next failure of its
/// kind.
pub fn tell_suppressed() {
    for told in FLOOD.due(second()) {
        suppressed(&told.site, told.code, told.status, told.suppressed);
    }
}

/// The same, for the second that is not over yet too: at the end of the process.
pub fn tell_all_suppressed() {
    for told in FLOOD.due(u32::MAX) {
        suppressed(&told.site, told.code, told.status, told.suppressed);
    }
}

fn suppressed(site: &str, code: &'static str, status: u16, suppressed: u32) {
    if status < 500 {
        tracing::info!(site, status, code, suppressed, "more of the same were refused");
    } else {
        tracing::warn!(site, status, code, suppressed, "more of the same failed");
    }
}

fn usual() -> EnvFilter {
    EnvFilter::new(guarded(DEFAULT))
}

/// The filter with [`GUARDED`]. What has no level for everything is left as it is: there they are silent already.
fn guarded(filter: &str) -> String {
    let mut guarded = filter.to_owned();
    let levels = filter.split(',').map(str::trim).filter(|directive| !directive.is_empty());
    let Some(rest) = levels.rev().find_map(|directive| directive.parse::<LevelFilter>().ok()) else { return guarded };
    for (name, most) in GUARDED {
        if !filter.contains(name) {
            guarded = format!("{guarded},{name}={}", most.min(rest));
        }
    }
    guarded
}

/// What the log says about one message.
#[derive(Debug, Clone, Copy)]
pub struct Message<'m> {
    /// The request id, the client's or our own.
    pub request_id: &'m str,
    /// Name of the site, `-` for none.
    pub site: &'m str,
    /// Name of the first rule it met; `None` for none.
    pub rule: Option<&'m str>,
    /// Status that the client got.
    pub status: u16,
}

impl Message<'_> {
    /// A message that was refused or failed: one line, at `info` where the client caused it, at `warn` otherwise. `code` is the problem code;
    /// `cause` holds neither text nor values. In a flood of its kind it is only counted.
    pub fn failed(self, code: &'static str, cause: &Failure) {
        let Self { request_id, site, rule, status } = self;
        let turn = FLOOD.turn(site, code, status, second());
        if turn.suppressed > 0 {
            suppressed(site, code, status, turn.suppressed);
        }
        if !turn.write {
            return;
        }
        if status < 500 {
            tracing::info!(request_id, site, rule, status, code, ?cause, "refused");
        } else {
            tracing::warn!(request_id, site, rule, status, code, ?cause, "failed");
        }
    }

    /// An answer that was cut between two records, at `warn`: the client has its status and the records before.
    pub fn cut(self, code: &'static str, cause: &Failure) {
        let Self { request_id, site, rule, status } = self;
        tracing::warn!(request_id, site, rule, status, code, ?cause, "cut");
    }

    /// A message that went through, at `debug`.
    pub fn served(self) {
        let Self { request_id, site, rule, status } = self;
        tracing::debug!(request_id, site, rule, status, "served");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    /// Which of a library's levels a filter lets through.
    macro_rules! said {
        ($filter:expr, $target:literal) => {{
            let lines = tracing_subscriber::fmt().with_env_filter(EnvFilter::new(guarded($filter)));
            tracing::subscriber::with_default(lines.with_writer(std::io::sink).finish(), || {
                [
                    tracing::enabled!(target: $target, Level::ERROR),
                    tracing::enabled!(target: $target, Level::WARN),
                    tracing::enabled!(target: $target, Level::INFO),
                    tracing::enabled!(target: $target, Level::DEBUG),
                ]
            })
        }};
    }

    #[test]
    fn libraries_are_held_down_and_never_raised() {
        assert_eq!(said!(DEFAULT, "notify::inotify"), [true, true, false, false]);
        assert_eq!(said!("trace", "notify::inotify"), [true, true, false, false]);
        assert_eq!(said!("debug", "h2::codec"), [true, false, false, false]);
        assert_eq!(said!("debug", "relay::run"), [true, true, true, true]);
        for silent in ["off", "relay=debug"] {
            assert_eq!((said!(silent, "notify"), said!(silent, "h2")), ([false; 4], [false; 4]), "{silent}");
        }
        for errors in ["error", "", "ERROR", "debug,1"] {
            assert_eq!(said!(errors, "notify"), [true, false, false, false], "{errors}");
            assert_eq!(said!(errors, "relay"), [true, false, false, false], "{errors}");
        }
        assert_eq!(said!("info,notify=debug,h2=info", "notify"), [true, true, true, true]);
        assert_eq!(said!("info,notify=debug,h2=info", "h2"), [true, true, true, false]);
    }
}
