//! Where the wrapped keyring's bytes are: a file here, or the host's store. [`super::store`] is what is done with them.

use crate::error::Error;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Larger than any keyring of a million keys; what is larger is no keyring.
const MAX_FILE: u64 = 256 * 1024 * 1024;
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// What tells one version of the bytes from the next, without reading them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Look {
    /// Device, inode, time and length of a file: a replacement has another inode.
    File(u64, u64, i64, i64, u64),
    /// SHA-256.
    Digest([u8; 32]),
}

/// Whether bytes were replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaced {
    /// They were, durably.
    Yes,
    /// Somebody else replaced them first; nothing was done.
    ChangedMeanwhile,
}

/// A place for the wrapped keyring.
pub trait Storage: Send + Sync {
    /// Its name, for people: a path, or the host's endpoint.
    fn place(&self) -> &Path;

    /// The bytes, if there are any.
    ///
    /// # Errors
    /// They cannot be read, or others may read them.
    fn read(&self) -> Result<Option<Vec<u8>>, Error>;

    /// Replaces the bytes in one step if they are `previous` (`None`: if there are none).
    ///
    /// # Errors
    /// They cannot be written; the old ones stay.
    fn replace(&self, previous: Option<&[u8]>, bytes: &[u8]) -> Result<Replaced, Error>;

    /// What the bytes look like; `None` where there are none, or nobody says.
    fn look(&self) -> Option<Look>;

    /// Keeps others from changing the bytes until the answer is dropped; `None` where [`Storage::replace`] compares by itself.
    ///
    /// # Errors
    /// Another process has locked them for too long.
    fn lock(&self) -> Result<Option<File>, Error>;

    /// What to say when others changed the bytes each time.
    fn busy(&self) -> Error;
}

/// A file of mode 0600, with a lock beside it.
pub(crate) struct FileStorage(PathBuf);

impl FileStorage {
    pub(crate) fn new(path: PathBuf) -> Self {
        Self(path)
    }

    fn lock_path(&self) -> PathBuf {
        let mut name = self.0.clone().into_os_string();
        name.push(".lock");
        PathBuf::from(name)
    }
}

impl Storage for FileStorage {
    fn place(&self) -> &Path {
        &self.0
    }

    fn read(&self) -> Result<Option<Vec<u8>>, Error> {
        read_keys(&self.0).map(Some)
    }

    /// Only under the lock, so that there is nothing to compare but whether there is a file.
    fn replace(&self, previous: Option<&[u8]>, bytes: &[u8]) -> Result<Replaced, Error> {
        if previous.is_none() && self.0.symlink_metadata().is_ok() {
            return Ok(Replaced::ChangedMeanwhile);
        }
        replace(&self.0, bytes).map(|()| Replaced::Yes)
    }

    fn look(&self) -> Option<Look> {
        let m = self.0.metadata().ok()?;
        Some(Look::File(m.dev(), m.ino(), m.mtime(), m.mtime_nsec(), m.len()))
    }

    fn lock(&self) -> Result<Option<File>, Error> {
        let path = self.lock_path();
        let io = |source| Error::Write { path: path.clone(), source };
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(io)?;
        let until = Instant::now() + LOCK_PATIENCE;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(Some(file)),
                Err(TryLockError::WouldBlock) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(TryLockError::WouldBlock) => return Err(Error::Locked { path }),
                Err(TryLockError::Error(source)) => return Err(io(source)),
            }
        }
    }

    fn busy(&self) -> Error {
        Error::Locked { path: self.lock_path() }
    }
}

/// Replaces a file in one step; the new one is readable by its owner alone.
pub(crate) fn replace(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let io = |source| Error::Write { path: path.to_owned(), source };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // A named temporary file is made with mode 0600.
    let mut file = tempfile::NamedTempFile::new_in(folder).map_err(io)?;
    file.write_all(bytes).map_err(io)?;
    file.as_file().sync_all().map_err(io)?;
    file.persist(path).map_err(|e| io(e.error))?;
    File::open(folder).and_then(|f| f.sync_all()).map_err(io)
}

/// Makes a file that must not exist yet, readable by its owner alone, and syncs it.
pub(crate) fn create_private(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let io = |source| Error::Write { path: path.to_owned(), source };
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path).map_err(io)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io)
}

/// [`read_private`] for what `e3 keys init` makes.
pub(crate) fn read_keys(path: &Path) -> Result<Vec<u8>, Error> {
    read_private(path).map_err(|error| match error {
        Error::Read { path, source } if source.kind() == ErrorKind::NotFound => Error::NoKeys { path },
        error => error,
    })
}

/// Reads a file that only its owner may read; looks at the file that was opened, not at its name.
pub(crate) fn read_private(path: &Path) -> Result<Vec<u8>, Error> {
    let io = |source| Error::Read { path: path.to_owned(), source };
    let flags = rustix::fs::OFlags::NONBLOCK.bits() as i32;
    let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(io)?;
    let meta = file.metadata().map_err(io)?;
    let user = rustix::process::geteuid().as_raw();
    if !meta.is_file() || meta.len() > MAX_FILE {
        return Err(Error::NotAFile { path: path.to_owned() });
    }
    if meta.mode() & 0o077 != 0 {
        return Err(Error::OpenToOthers { path: path.to_owned(), mode: meta.mode() & 0o777 });
    }
    if meta.uid() != user && meta.uid() != 0 {
        return Err(Error::NotOwned { path: path.to_owned(), owner: meta.uid() });
    }
    let mut bytes = Vec::with_capacity(meta.len() as usize + 1);
    file.take(MAX_FILE).read_to_end(&mut bytes).map_err(io)?;
    Ok(bytes)
}
