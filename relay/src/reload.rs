//! The rules in force, and how newer ones take their place.
//!
//! A reload is all or nothing: the whole file is read, checked and built into a new state, and only then one pointer is swapped. Whatever fails, the old
//! rules stay, and the log, `/status` and a metric say so. A message keeps the state it started with to its end.

mod watch;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use arc_swap::{ArcSwap, Guard};
use sha2::{Digest, Sha256};
use tokio::signal::unix::{SignalKind, signal};

use self::watch::Folders;
use crate::config::resolved::{Config, LogFormat, NamedFile};
use crate::metrics::{ReloadOutcome, SharedMetrics, side_label};

/// The state in force. Readers take it without waiting.
#[derive(Debug)]
pub struct Live<S>(ArcSwap<S>);

impl<S> Live<S> {
    /// Starts with a first state.
    #[must_use]
    pub fn new(state: Arc<S>) -> Self {
        Self(ArcSwap::new(state))
    }

    /// The state in force now: a message takes it once, at its start. To keep it across an await, make it an `Arc` with [`Live::hold`].
    pub fn current(&self) -> Guard<Arc<S>> {
        self.0.load()
    }

    /// The state in force now, held as long as the caller likes.
    #[must_use]
    pub fn hold(&self) -> Arc<S> {
        self.0.load_full()
    }

    fn replace(&self, state: Arc<S>) {
        self.0.store(state);
    }
}

/// What a running process cannot change: sockets are bound, threads run and the log is set up before the first message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixed {
    listeners: BTreeSet<(SocketAddr, &'static str)>,
    admin: Option<SocketAddr>,
    threads: Option<usize>,
    log: &'static str,
}

impl Fixed {
    /// The part of a configuration that needs a restart.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self {
            listeners: config.listeners().map(|listener| (listener.listen, side_label(listener.side))).collect(),
            admin: config.admin.listen,
            threads: config.threads,
            log: match config.log {
                LogFormat::Human => "human",
                LogFormat::Json => "json",
            },
        }
    }

    /// What differs, as sentences for the operator; empty if nothing does.
    fn changes(&self, new: &Self) -> Vec<String> {
        let mut changes = Vec::new();
        for (address, side) in new.listeners.difference(&self.listeners) {
            changes.push(format!("{side} listener {address} is new"));
        }
        for (address, side) in self.listeners.difference(&new.listeners) {
            changes.push(format!("{side} listener {address} is gone"));
        }
        if self.admin != new.admin {
            let name =
                |admin: Option<SocketAddr>| admin.map_or_else(|| "off".to_owned(), |address| address.to_string());
            changes.push(format!("the admin listener moves from {} to {}", name(self.admin), name(new.admin)));
        }
        if self.threads != new.threads {
            changes.push("the number of threads changes".to_owned());
        }
        if self.log != new.log {
            changes.push(format!("the log's format changes from {} to {}", self.log, new.log));
        }
        changes
    }
}

/// A rules file that passed every check, built and ready to take effect.
#[derive(Debug)]
pub struct Candidate<S> {
    /// What the data path works with.
    pub state: Arc<S>,
    /// SHA-256 of the file's bytes.
    pub hash: [u8; 32],
    /// What it says about things that need a restart.
    pub fixed: Fixed,
    /// Files that it names and that were read with it: a change of one reloads it.
    pub files: Vec<NamedFile>,
    /// What the operator should know, although the file is good.
    pub warnings: Vec<String>,
}

/// Reads, checks and builds the rules file. An error is the whole report for people: every fault with its place and hint.
pub type Load<S> = Box<dyn Fn() -> Result<Candidate<S>, String> + Send + Sync>;

/// What `/status` says about the rules file.
#[derive(Debug, Clone)]
pub struct Standing {
    /// SHA-256 of the file in force, hexadecimal.
    pub hash: String,
    /// When the file in force was loaded.
    pub loaded: SystemTime,
    /// The last reload, `None` before the first.
    pub last: Option<Attempt>,
}

/// One reload.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// When it ended.
    pub at: SystemTime,
    /// How it ended.
    pub outcome: ReloadOutcome,
    /// Every fault, where it was refused.
    pub report: Option<String>,
}

/// Replaces the rules in force on request.
pub struct Reloader<S> {
    file: PathBuf,
    load: Load<S>,
    live: Arc<Live<S>>,
    fixed: Fixed,
    metrics: SharedMetrics,
    standing: Mutex<Standing>,
    /// What was read for the state in force: the rules file first, then what it names.
    sources: Mutex<Vec<NamedFile>>,
}

impl<S> std::fmt::Debug for Reloader<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reloader").field("file", &self.file).finish_non_exhaustive()
    }
}

impl<S> Reloader<S> {
    /// Loads the file for the first time.
    ///
    /// # Errors
    /// The report of the loader.
    pub fn start(file: PathBuf, metrics: SharedMetrics, load: Load<S>) -> Result<Self, String> {
        let first = load()?;
        log_warnings(&first.warnings);
        let standing = Standing { hash: hexadecimal(&first.hash), loaded: SystemTime::now(), last: None };
        metrics.config_in_force(&standing.hash, unix_seconds(standing.loaded));
        let sources = Mutex::new(sources(&file, first.hash, first.files));
        Ok(Self {
            file,
            load,
            live: Arc::new(Live::new(first.state)),
            fixed: first.fixed,
            metrics,
            standing: Mutex::new(standing),
            sources,
        })
    }

    /// The rules in force, for the data path.
    #[must_use]
    pub fn live(&self) -> &Arc<Live<S>> {
        &self.live
    }

    /// The rules file.
    #[must_use]
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// What `/status` says about the rules file.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the file again and puts it in force, or keeps the old rules and says why.
    pub fn reload(&self) -> ReloadOutcome {
        let loaded = (self.load)().and_then(|candidate| {
            let changes = self.fixed.changes(&candidate.fixed);
            if changes.is_empty() {
                Ok(candidate)
            } else {
                Err(format!("these changes need a restart, so nothing of the file is applied: {}", changes.join("; ")))
            }
        });
        let at = SystemTime::now();
        let mut standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        let outcome = match loaded {
            Ok(candidate) => {
                self.live.replace(candidate.state);
                *self.sources.lock().unwrap_or_else(PoisonError::into_inner) =
                    sources(&self.file, candidate.hash, candidate.files);
                standing.hash = hexadecimal(&candidate.hash);
                standing.loaded = at;
                standing.last = Some(Attempt { at, outcome: ReloadOutcome::Applied, report: None });
                self.metrics.config_in_force(&standing.hash, unix_seconds(at));
                log_warnings(&candidate.warnings);
                tracing::info!(file = %self.file.display(), hash = standing.hash, "rules reloaded");
                ReloadOutcome::Applied
            }
            Err(report) => {
                tracing::error!(
                    file = %self.file.display(),
                    in_force = standing.hash,
                    "reload refused, the old rules stay in force:\n{report}"
                );
                standing.last = Some(Attempt { at, outcome: ReloadOutcome::Refused, report: Some(report) });
                ReloadOutcome::Refused
            }
        };
        self.metrics.reloaded(outcome);
        outcome
    }
}

/// The rules file, and the files that were read with it.
fn sources(file: &Path, hash: [u8; 32], named: Vec<NamedFile>) -> Vec<NamedFile> {
    std::iter::once(NamedFile { path: file.to_owned(), hash }).chain(named).collect()
}

fn log_warnings(warnings: &[String]) {
    for warning in warnings {
        tracing::warn!("{warning}");
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Seconds since the Unix epoch.
pub(crate) fn unix_seconds(time: SystemTime) -> f64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64()
}

impl<S> Reloader<S> {
    /// Reloads on SIGHUP, and when the bytes of the file or of one that it names change, until `end` resolves.
    ///
    /// The folder is watched and not the file: editors replace a file by renaming another over it, and Kubernetes swaps a link beside it; a watch on the
    /// file itself would follow the old one. Where the file is a link, the folder it leads to is watched as well.
    ///
    /// # Errors
    /// SIGHUP cannot be received.
    pub async fn watch(&self, end: impl Future<Output = ()>) -> std::io::Result<()> {
        let mut hangup = signal(SignalKind::hangup())?;
        // Compared with what was loaded, so that a change before the watch began is not missed.
        let mut tried = self.in_force();
        let mut folders = Folders::new(&paths(&tried));
        folders.changed();
        let mut end = std::pin::pin!(end);
        loop {
            tokio::select! {
                () = end.as_mut() => return Ok(()),
                _ = hangup.recv() => {
                    tried = self.try_again(&mut folders);
                }
                () = folders.quiet_after_change() => {
                    let files = paths(&tried);
                    folders.watch(&files);
                    if digests(files) != tried {
                        tried = self.try_again(&mut folders);
                    }
                }
            }
        }
    }

    /// Reloads, and tells which bytes of which files that was tried with.
    fn try_again(&self, folders: &mut Folders) -> Digests {
        let tried = digests(paths(&self.in_force()));
        if self.reload() == ReloadOutcome::Refused {
            return tried;
        }
        let tried = self.in_force();
        folders.watch(&paths(&tried));
        // What was not watched until now may have changed since it was read.
        folders.changed();
        tried
    }

    fn in_force(&self) -> Digests {
        let sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        sources.iter().map(|file| (file.path.clone(), Some(file.hash))).collect()
    }
}

/// Files with the SHA-256 of their bytes; `None` while one cannot be read.
type Digests = Vec<(PathBuf, Option<[u8; 32]>)>;

fn paths(digests: &Digests) -> Vec<PathBuf> {
    digests.iter().map(|(path, _)| path.clone()).collect()
}

fn digests(files: Vec<PathBuf>) -> Digests {
    let digest = |file: &Path| std::fs::read(file).ok().map(|bytes| Sha256::digest(bytes).into());
    let read = |file: PathBuf| {
        let digest = digest(&file);
        (file, digest)
    };
    files.into_iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;

    fn fixed(listen: &str) -> Fixed {
        Fixed {
            listeners: BTreeSet::from([(listen.parse().unwrap(), "inbound")]),
            admin: None,
            threads: None,
            log: "human",
        }
    }

    /// A rules file that holds one number is good; its state is that number.
    fn reloader(file: &Path, listen: impl Fn() -> String + Send + Sync + 'static) -> Reloader<u32> {
        let path = file.to_owned();
        let load: Load<u32> = Box::new(move || {
            let bytes = std::fs::read(&path).map_err(|error| error.to_string())?;
            let number =
                String::from_utf8_lossy(&bytes).trim().parse().map_err(|_| "line 1: not a number".to_owned())?;
            Ok(Candidate {
                state: Arc::new(number),
                hash: Sha256::digest(bytes).into(),
                fixed: fixed(&listen()),
                files: Vec::new(),
                warnings: Vec::new(),
            })
        });
        Reloader::start(file.to_owned(), Arc::new(Metrics::new().unwrap()), load).unwrap()
    }

    #[test]
    fn a_bad_file_keeps_the_old_rules_and_says_why() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("relay.yaml");
        std::fs::write(&file, "1").unwrap();
        let reloader = reloader(&file, || "127.0.0.1:1".to_owned());
        let before = reloader.standing().hash;
        std::fs::write(&file, "one").unwrap();
        assert_eq!(reloader.reload(), ReloadOutcome::Refused);
        assert_eq!(**reloader.live().current(), 1);
        let standing = reloader.standing();
        assert_eq!(standing.hash, before);
        assert_eq!(standing.last.unwrap().report.as_deref(), Some("line 1: not a number"));
        std::fs::write(&file, "2").unwrap();
        assert_eq!(reloader.reload(), ReloadOutcome::Applied);
        assert_eq!(**reloader.live().current(), 2);
        assert_ne!(reloader.standing().hash, before);
    }

    #[test]
    fn a_change_that_needs_a_restart_applies_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("relay.yaml");
        std::fs::write(&file, "1").unwrap();
        let loads = std::sync::atomic::AtomicU16::new(1);
        let reloader =
            reloader(&file, move || format!("127.0.0.1:{}", loads.fetch_add(1, std::sync::atomic::Ordering::SeqCst)));
        std::fs::write(&file, "2").unwrap();
        assert_eq!(reloader.reload(), ReloadOutcome::Refused);
        assert_eq!(**reloader.live().current(), 1);
        let report = reloader.standing().last.unwrap().report.unwrap();
        assert!(report.contains("inbound listener 127.0.0.1:2 is new"), "{report}");
        assert!(report.contains("inbound listener 127.0.0.1:1 is gone"), "{report}");
        assert!(report.contains("restart"), "{report}");
    }

    #[test]
    fn a_message_keeps_the_rules_it_started_with() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("relay.yaml");
        std::fs::write(&file, "1").unwrap();
        let reloader = reloader(&file, || "127.0.0.1:1".to_owned());
        let held = reloader.live().hold();
        std::fs::write(&file, "2").unwrap();
        reloader.reload();
        assert_eq!(*held, 1);
        assert_eq!(*reloader.live().hold(), 2);
    }
}
