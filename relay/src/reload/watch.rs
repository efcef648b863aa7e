//! Watches the folders of files, so that a replaced file is noticed as well as a changed one.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use notify::event::{AccessKind, AccessMode};
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

/// Quiet time after the last change in the file's folder before the file is read: editors and deployment tools write in several steps.
const QUIET: Duration = Duration::from_millis(250);

/// Longest wait for that quiet: other files of the folder may change all the time.
const RESTLESS: Duration = Duration::from_secs(2);

/// The watched folders and their changes.
pub(super) struct Folders {
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
    change: mpsc::Sender<()>,
    changes: mpsc::Receiver<()>,
}

impl Folders {
    pub(super) fn new(files: &[PathBuf]) -> Self {
        // One waiting change stands for any number of them.
        let (change, changes) = mpsc::channel(1);
        let sender = change.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<Event>| {
            if is_change(&event) {
                let _ = sender.try_send(());
            }
        });
        let watcher = watcher
            .inspect_err(|error| tracing::warn!(%error, "file changes cannot be watched; SIGHUP reloads the rules"))
            .ok();
        let mut folders = Self { watcher, watched: BTreeSet::new(), change, changes };
        folders.watch(files);
        folders
    }

    /// Takes it that something changed.
    pub(super) fn changed(&self) {
        let _ = self.change.try_send(());
    }

    /// Watches the files' folders and those that their links lead to now.
    pub(super) fn watch(&mut self, files: &[PathBuf]) {
        let Some(watcher) = &mut self.watcher else { return };
        let wanted: BTreeSet<PathBuf> = files
            .iter()
            .flat_map(|file| [Some(file.clone()), file.canonicalize().ok()])
            .flatten()
            .filter_map(|path| path.parent().map(Path::to_owned))
            .map(|folder| if folder.as_os_str().is_empty() { PathBuf::from(".") } else { folder })
            .collect();
        // A folder that was deleted has lost its watch, also when another of its name is there now: only those that stay are kept.
        for gone in self.watched.difference(&wanted) {
            let _ = watcher.unwatch(gone);
        }
        self.watched = wanted
            .into_iter()
            .filter(|folder| {
                let watching = watcher.watch(folder, RecursiveMode::NonRecursive);
                if let Err(error) = &watching {
                    tracing::warn!(folder = %folder.display(), %error, "folder cannot be watched; SIGHUP reloads the rules");
                }
                watching.is_ok()
            })
            .collect();
    }

    /// Returns when something changed and then nothing did for [`QUIET`]. Safe to cancel: at worst a quiet time starts anew.
    pub(super) async fn quiet_after_change(&mut self) {
        self.changes.recv().await;
        let latest = tokio::time::Instant::now() + RESTLESS;
        loop {
            let quiet = (tokio::time::Instant::now() + QUIET).min(latest);
            if !matches!(tokio::time::timeout_at(quiet, self.changes.recv()).await, Ok(Some(()))) {
                return;
            }
        }
    }
}

/// Reading the file, as every reload does, is no change. A fault of the watcher may hide one.
fn is_change(event: &notify::Result<Event>) -> bool {
    match event {
        Ok(Event { kind: EventKind::Access(access), .. }) => *access == AccessKind::Close(AccessMode::Write),
        Ok(_) | Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    /// Generous: only a failure takes so long.
    const PATIENCE: Duration = Duration::from_secs(30);

    async fn noticed(folders: &mut Folders, what: &str) {
        tokio::time::timeout(PATIENCE, folders.quiet_after_change()).await.expect(what);
    }

    #[tokio::test]
    async fn a_file_written_in_place_is_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("relay.yaml");
        fs::write(&file, "1").unwrap();
        let mut folders = Folders::new(std::slice::from_ref(&file));
        fs::write(&file, "2").unwrap();
        noticed(&mut folders, "a write").await;
    }

    #[tokio::test]
    async fn a_file_renamed_over_it_is_noticed_again_and_again() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("relay.yaml");
        fs::write(&file, "1").unwrap();
        let mut folders = Folders::new(std::slice::from_ref(&file));
        for text in ["2", "3"] {
            let new = folder.path().join("new");
            fs::write(&new, text).unwrap();
            fs::rename(&new, &file).unwrap();
            noticed(&mut folders, "a rename").await;
            folders.watch(std::slice::from_ref(&file));
        }
    }

    #[tokio::test]
    async fn a_change_behind_a_link_is_noticed_after_the_link_moved() {
        let folder = tempfile::tempdir().unwrap();
        let [one, two] = ["one", "two"].map(|name| folder.path().join(name));
        for version in [&one, &two] {
            fs::create_dir(version).unwrap();
            fs::write(version.join("relay.yaml"), "1").unwrap();
        }
        let own = folder.path().join("own");
        fs::create_dir(&own).unwrap();
        let file = own.join("relay.yaml");
        symlink(one.join("relay.yaml"), &file).unwrap();
        let mut folders = Folders::new(std::slice::from_ref(&file));
        symlink(two.join("relay.yaml"), own.join("next")).unwrap();
        fs::rename(own.join("next"), &file).unwrap();
        noticed(&mut folders, "a moved link").await;
        folders.watch(std::slice::from_ref(&file));
        fs::write(two.join("relay.yaml"), "2").unwrap();
        noticed(&mut folders, "a change behind the link").await;
    }

    #[test]
    fn reading_the_file_is_no_change() {
        let access = |access| Ok(Event::new(EventKind::Access(access)));
        assert!(!is_change(&access(AccessKind::Open(AccessMode::Any))));
        assert!(!is_change(&access(AccessKind::Close(AccessMode::Read))));
        assert!(is_change(&access(AccessKind::Close(AccessMode::Write))));
        assert!(is_change(&Err(notify::Error::generic("overflow"))));
    }
}
