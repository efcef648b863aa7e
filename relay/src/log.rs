//! The log: one line for each failed message, to standard error, for people or as JSON. Never a value, a header, a path or a query.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::Failure;
use crate::config::resolved::LogFormat;

/// What is logged unless `E3_LOG` or `RUST_LOG` says otherwise. Pingora reports its own start and end in detail; its warnings are enough.
const DEFAULT: &str = "info,pingora_core=warn,pingora_runtime=warn";

/// Starts the log of this process. The filter is `E3_LOG`, else `RUST_LOG`, else `info`.
///
/// A filter that cannot be read is reported in the log and replaced by the default: a typing error there must not keep a relay down. A second call changes nothing.
pub fn start(format: LogFormat) {
    let written = ["E3_LOG", "RUST_LOG"].into_iter().find_map(|name| Some((name, std::env::var(name).ok()?)));
    let (filter, fault) = match &written {
        None => (EnvFilter::new(DEFAULT), None),
        Some((name, text)) => match EnvFilter::try_new(text) {
            Ok(filter) => (filter, None),
            Err(error) => (EnvFilter::new(DEFAULT), Some((name, error))),
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
    /// `cause` holds neither text nor values.
    pub fn failed(self, code: &'static str, cause: &Failure) {
        let Self { request_id, site, rule, status } = self;
        if status < 500 {
            tracing::info!(request_id, site, rule, status, code, ?cause, "refused");
        } else {
            tracing::warn!(request_id, site, rule, status, code, ?cause, "failed");
        }
    }

    /// A message that went through, at `debug`.
    pub fn served(self) {
        let Self { request_id, site, rule, status } = self;
        tracing::debug!(request_id, site, rule, status, "served");
    }
}
