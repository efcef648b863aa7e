//! Keeps wrapped blobs in a folder: replaced in one step, compared before, with the versions before them beside.

use super::config::Limits;
use super::gate::{Ended, next_message};
use crate::error::Error;
use crate::keyring::storage::replace;
use crate::parent::protocol::{Ask, Blob, Digest, Reply, STORE_MAX};
use crate::parent::store::sha256;
use e3_link::Stream;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::io::AsyncWriteExt;

/// A folder of blobs. It is this program's alone while it runs.
pub struct BlobFolder {
    folder: PathBuf,
    versions: usize,
    /// Held while a blob is compared and replaced.
    change: Mutex<()>,
    /// Locked for as long as this lives.
    _lock: File,
}

impl BlobFolder {
    /// Opens the folder, which must exist; clears away what a crash left half written.
    ///
    /// # Errors
    /// It cannot be read or written, or another process uses it.
    pub fn open(folder: &Path, versions: usize) -> Result<Self, Error> {
        let io = |source| Error::Write { path: folder.to_owned(), source };
        let lock = folder.join("lock");
        let lock = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(lock).map_err(io)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Err(Error::StoreInUse { path: folder.to_owned() }),
            Err(fs::TryLockError::Error(e)) => return Err(io(e)),
        }
        for entry in fs::read_dir(folder).map_err(io)? {
            let entry = entry.map_err(io)?;
            if entry.file_name().as_encoded_bytes().starts_with(b".tmp") {
                fs::remove_file(entry.path()).map_err(io)?;
            }
        }
        Ok(Self { folder: folder.to_owned(), versions, change: Mutex::new(()), _lock: lock })
    }

    /// The blob, if there is one.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn get(&self, blob: Blob) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.path(blob)) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Replaces the blob if its SHA-256 is `previous` (`None`: if there is none); else answers what it is. The new one is on the disk before this answers.
    ///
    /// # Errors
    /// The disk failed; the old blob stays.
    pub fn put(&self, blob: Blob, previous: Option<Digest>, bytes: &[u8]) -> io::Result<Result<(), Option<Digest>>> {
        let _change = self.change.lock().unwrap_or_else(PoisonError::into_inner);
        let current = self.get(blob)?.map(|b| sha256(&b));
        if current != previous {
            return Ok(Err(current));
        }
        if current.is_some() {
            self.keep(blob)?;
        }
        replace(&self.path(blob), bytes).map_err(|error| match error {
            Error::Write { source, .. } => source,
            other => io::Error::other(other),
        })?;
        // The blob is stored by now; too many versions are no reason to say otherwise.
        if let Err(error) = self.prune(blob) {
            tracing::warn!(blob = blob.as_str(), %error, "old versions were not cleared away");
        }
        tracing::info!(blob = blob.as_str(), bytes = bytes.len(), "stored");
        Ok(Ok(()))
    }

    fn path(&self, blob: Blob) -> PathBuf {
        self.folder.join(blob.as_str())
    }

    /// Gives the current blob a second name. The folder's sync that follows makes it durable.
    fn keep(&self, blob: Blob) -> io::Result<()> {
        if self.versions == 0 {
            return Ok(());
        }
        let next = self.kept(blob)?.last().map_or(1, |(number, _)| number + 1);
        fs::hard_link(self.path(blob), self.folder.join(format!("{}.{next:08}", blob.as_str())))
    }

    fn prune(&self, blob: Blob) -> io::Result<()> {
        let kept = self.kept(blob)?;
        let over = kept.len().saturating_sub(self.versions);
        kept.iter().take(over).try_for_each(|(_, path)| fs::remove_file(path))
    }

    /// The older versions, ascending.
    fn kept(&self, blob: Blob) -> io::Result<Vec<(u64, PathBuf)>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let entry = entry?;
            let name = entry.file_name();
            let number = name.to_str().and_then(|n| n.strip_prefix(blob.as_str())?.strip_prefix('.')?.parse().ok());
            found.extend(number.map(|n| (n, entry.path())));
        }
        found.sort_unstable();
        Ok(found)
    }
}

/// Answers the questions of one connection.
///
/// # Errors
/// How it ended.
pub async fn serve(mut stream: Stream, store: Arc<BlobFolder>, limits: Limits) -> Result<(), Ended> {
    loop {
        let Some(body) = next_message(&mut stream, STORE_MAX, limits).await? else { return Ok(()) };
        let store = Arc::clone(&store);
        let answered = tokio::task::spawn_blocking(move || answer(&store, &body)).await.map_err(io::Error::other)?;
        let answer = answered.ok_or(Ended::BadMessage)?;
        tokio::time::timeout(limits.message, stream.write_all(&answer)).await.map_err(|_| Ended::Idle)??;
    }
}

fn answer(store: &BlobFolder, body: &[u8]) -> Option<Vec<u8>> {
    let failed = |error: io::Error, blob: Blob| {
        tracing::error!(blob = blob.as_str(), folder = %store.folder.display(), %error, "the store failed");
        Reply::StoreFailed.encode()
    };
    Some(match Ask::decode(body).ok()? {
        Ask::Get(blob) => match store.get(blob) {
            Ok(Some(bytes)) => Reply::Found(&bytes).encode(),
            Ok(None) => Reply::Absent.encode(),
            Err(error) => failed(error, blob),
        },
        Ask::Look(blob) => match store.get(blob) {
            Ok(Some(bytes)) => Reply::Is(sha256(&bytes)).encode(),
            Ok(None) => Reply::Absent.encode(),
            Err(error) => failed(error, blob),
        },
        Ask::Put { blob, previous, bytes } => match store.put(blob, previous, bytes) {
            Ok(Ok(())) => Reply::Stored.encode(),
            Ok(Err(current)) => {
                tracing::info!(blob = blob.as_str(), "not stored: it was changed meanwhile");
                Reply::Conflict(current).encode()
            }
            Err(error) => failed(error, blob),
        },
        _ => return None,
    })
}
