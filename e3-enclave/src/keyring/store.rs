//! The keyring file on disk: read, locked, replaced.
//!
//! A change takes an exclusive lock beside the file, reads the file anew, and replaces it in one step: written to a temporary file in the
//! same folder, synced, renamed over the old one, the folder synced. Two commands, or a command and an engine, never lose each other's change,
//! and a crash leaves the old file or the new one.

use super::file::{decode, encode};
use super::{Keyring, RootKey, RotateError};
use crate::error::Error;
use std::collections::HashMap;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Larger than any keyring of a million keys; what is larger is no keyring.
const MAX_FILE: u64 = 256 * 1024 * 1024;
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// A keyring file and the root key that opens it.
pub struct Store {
    path: PathBuf,
    root: RootKey,
}

impl Store {
    /// The keyring at this path under this root.
    #[must_use]
    pub fn new(path: PathBuf, root: RootKey) -> Self {
        Self { path, root }
    }

    /// Where the file is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes an empty keyring.
    ///
    /// # Errors
    /// There is a file already, or it cannot be written.
    pub fn create(&self) -> Result<Keyring, Error> {
        let _lock = self.lock()?;
        if self.path.symlink_metadata().is_ok() {
            return Err(Error::KeyringExists { path: self.path.clone() });
        }
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|_| Error::Entropy)?;
        let mut keyring = Keyring {
            id,
            root_version: 1,
            epoch: 1,
            next_kid: 1,
            keys: Vec::new(),
            active: HashMap::new(),
            mac: [0; 32],
        };
        self.save(&mut keyring)?;
        Ok(keyring)
    }

    /// Reads and authenticates the file.
    ///
    /// # Errors
    /// It cannot be read, is open to others, was altered, or is of another root.
    pub fn load(&self) -> Result<Keyring, Error> {
        decode(&read_private(&self.path)?, &self.root)
            .map_err(|fault| Error::Keyring { path: self.path.clone(), fault })
    }

    /// Changes the file under its lock: reads it, lets `change` work on it, raises the epoch and replaces it. A `change` that answers
    /// `None` leaves the file alone.
    ///
    /// # Errors
    /// As [`Store::load`]; the file cannot be locked or replaced; or `change` refused.
    pub fn update<T>(
        &self,
        change: impl FnOnce(&mut Keyring) -> Result<Option<T>, RotateError>,
    ) -> Result<(Keyring, Option<T>), Error> {
        let _lock = self.lock()?;
        let mut keyring = self.load()?;
        let done = change(&mut keyring).map_err(Error::Rotate)?;
        if done.is_some() {
            keyring.epoch += 1;
            keyring.index();
            self.save(&mut keyring)?;
        }
        Ok((keyring, done))
    }

    fn save(&self, keyring: &mut Keyring) -> Result<(), Error> {
        let bytes = encode(keyring, &self.root).ok_or(Error::Entropy)?;
        replace(&self.path, &bytes)
    }

    fn lock(&self) -> Result<File, Error> {
        let mut name = self.path.clone().into_os_string();
        name.push(".lock");
        let path = PathBuf::from(name);
        let io = |source| Error::Write { path: path.clone(), source };
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).map_err(io)?;
        let until = Instant::now() + LOCK_PATIENCE;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if Instant::now() < until => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(TryLockError::WouldBlock) => return Err(Error::Locked { path }),
                Err(TryLockError::Error(source)) => return Err(io(source)),
            }
        }
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
#[cfg(feature = "development")]
pub(crate) fn create_private(path: &Path, bytes: &[u8]) -> Result<(), Error> {
    let io = |source| Error::Write { path: path.to_owned(), source };
    let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(path).map_err(io)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(io)
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
