//! The commands that do their work without serving.

mod admission;
pub mod backfill;
pub mod ca;
pub mod check;
pub mod explain;
pub mod key;
pub mod sample;
pub mod test;
pub mod verify;

use std::process::ExitCode;

use crate::args::Side as Wanted;
use crate::config::resolved::{Config, Listener, Side, Site};
use crate::config::{self, Report};
use crate::rules::host::normal_host;

/// Exit code of a command that was used wrongly, or was given a bad file.
pub const BAD_INPUT: u8 = 2;

/// Whether to colour what goes to this stream.
fn colours(stream: &impl std::io::IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Reads the rules, or tells what is wrong with them.
fn rules(file: &std::path::Path) -> Result<Config, ExitCode> {
    config::load(file).map(|checked| checked.config).map_err(|report| {
        tell(&report);
        ExitCode::from(BAD_INPUT)
    })
}

fn tell(report: &Report) {
    let stderr = std::io::stderr();
    eprint!("{}", report.to_text(colours(&stderr)));
}

/// The site that serves a request, and the path that its rules see.
pub(super) struct Served<'a> {
    pub(super) listener: &'a Listener,
    pub(super) site: &'a Site,
    pub(super) path: String,
}

/// Finds the site by host, or by the first segment of the path on the outbound side.
fn serve<'a>(config: &'a Config, wanted: Option<Wanted>, host: &str, path: &str) -> Option<Served<'a>> {
    let all = config.inbound.iter().chain(&config.outbound).filter(|l| match wanted {
        None => true,
        Some(Wanted::Inbound) => l.side == Side::Inbound,
        Some(Wanted::Outbound) => l.side == Side::Outbound,
    });
    let mut by_path = None;
    for listener in all {
        if let Some(site) = normal_host(host).and_then(|host| listener.sites.get(&host)) {
            return Some(Served { listener, site, path: path.to_owned() });
        }
        if listener.side == Side::Outbound
            && let Some((name, rest)) = path.strip_prefix('/').map(|p| p.split_once('/').unwrap_or((p, "")))
            && let Some(site) = normal_host(name).and_then(|name| listener.sites.get(&name))
        {
            by_path = by_path.or(Some(Served { listener, site, path: format!("/{rest}") }));
        }
    }
    by_path
}
