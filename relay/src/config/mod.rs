//! The rules file: read raw, then resolved into types that cannot be wrong. Nothing after start-up parses its strings again.
//!
//! 1. [`raw`]: the file as people write it, which [`e3_yaml`] reads with the place of everything in it; [`units`]: times and sizes;
//! 2. [`resolve`], [`outbound`], [`api`], [`tls`]: names, selectors, patterns and files; [`sites`], [`reach`], [`roles`]: what rules come to together;
//! 3. [`resolved`]: what the rest of the relay works with;
//! 4. [`report`]: faults with file, line, column, cause and hint.

mod api;
mod outbound;
pub mod raw;
mod reach;
pub mod resolve;
pub mod resolved;
mod roles;
mod sites;
mod tls;
mod units;

use std::path::Path;

use sha2::{Digest, Sha256};

pub use e3_yaml::report;
pub use e3_yaml::report::{Fault, Report};
use resolved::Config;

/// A file that passed every check, and what its author should know all the same.
#[derive(Debug)]
pub struct Checked {
    /// The configuration.
    pub config: Config,
    /// Warnings only.
    pub warnings: Report,
}

/// Reads and checks a rules file.
///
/// # Errors
/// Every fault of the file, with its place; or that it cannot be read.
pub fn load(file: &Path) -> Result<Checked, Report> {
    let text = text(file)?;
    check(file, &text)
}

/// The hosts of the destinations with `intercept: true`, whatever else there is to say about the file: the authority that it names may not be there yet.
///
/// # Errors
/// The file cannot be read as a rules file.
pub fn intercepted(file: &Path) -> Result<Vec<String>, Report> {
    let text = text(file)?;
    let mut report = Report::new(file, &text);
    let Some(raw) = raw::File::read(&text, &mut report).filter(|_| !report.has_errors()) else { return Err(report) };
    let destinations =
        raw.get().outbound.iter().flat_map(|outbound| outbound.get().destinations.iter().flat_map(|d| d.get()));
    let hosts = destinations.filter(|d| d.get().intercept).filter_map(|d| d.get().host.as_ref());
    let plain = |host: &str| host.trim_end_matches('.').trim_matches(['[', ']']).to_ascii_lowercase();
    Ok(hosts.map(|host| plain(host.get())).collect())
}

/// The same, for who only talks to the engine: the file need not serve anything.
///
/// # Errors
/// Every fault of the file, with its place; or that it cannot be read.
pub fn load_engine(file: &Path) -> Result<resolved::Engine, Report> {
    let text = text(file)?;
    check_for(file, &text, false).map(|checked| checked.config.engine)
}

/// Checks the text of a rules file. Paths in it start at the file's folder.
///
/// # Errors
/// Every fault of the text, with its place.
pub fn check(file: &Path, text: &str) -> Result<Checked, Report> {
    check_for(file, text, true)
}

fn text(file: &Path) -> Result<String, Report> {
    let bytes = std::fs::read(file).map_err(|error| Report::unreadable(file, &error))?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        Report::no_text(file, error.as_bytes(), at)
    })
}

fn check_for(file: &Path, text: &str, serves: bool) -> Result<Checked, Report> {
    let mut report = Report::new(file, text);
    let folder = file.parent().unwrap_or(Path::new("."));
    let config = raw::File::read(text, &mut report)
        .and_then(|raw| resolve::resolve(&raw, folder, Sha256::digest(text.as_bytes()).into(), serves, &mut report));
    report.sort();
    match config {
        Some(config) if !report.has_errors() => Ok(Checked { config, warnings: report }),
        _ => Err(report),
    }
}

/// The JSON schema of the rules file, as editors use it.
#[must_use]
pub fn schema() -> String {
    e3_yaml::schema::<raw::File>()
}
