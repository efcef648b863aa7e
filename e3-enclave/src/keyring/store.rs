//! The keyring: read, changed, replaced.
//!
//! A change locks the bytes (a file: an exclusive lock beside it), reads them anew, and replaces them in one step if they are still the same. A file is written to a
//! temporary one in the same folder, synced, renamed over the old one, the folder synced; the host's store compares before it replaces. Two commands, or a command and an
//! engine, never lose each other's change, and a crash leaves the old keyring or the new one.

use super::file::{decode, encode};
use super::storage::{FileStorage, Look, Replaced, Storage};
use super::{Keyring, KeyringFault, RootKey, RotateError};
use crate::error::Error;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// Times that a change is tried when others change the keyring meanwhile.
const TRIES: usize = 8;

/// A wrapped keyring and the root key that opens it.
pub struct Store {
    storage: Box<dyn Storage>,
    root: RootKey,
}

impl Store {
    /// The keyring in the file at this path, under this root.
    #[must_use]
    pub fn new(path: PathBuf, root: RootKey) -> Self {
        Self::at(Box::new(FileStorage::new(path)), root)
    }

    /// The keyring in this place, under this root.
    #[must_use]
    pub fn at(storage: Box<dyn Storage>, root: RootKey) -> Self {
        Self { storage, root }
    }

    /// Where the keyring is: a path, or the host's endpoint.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.storage.place()
    }

    /// What the keyring looks like from outside.
    pub(crate) fn look(&self) -> Option<Look> {
        self.storage.look()
    }

    /// Makes an empty keyring.
    ///
    /// # Errors
    /// There is one already, or it cannot be written.
    pub fn create(&self) -> Result<Keyring, Error> {
        let mut id = [0; 16];
        getrandom::fill(&mut id).map_err(|_| Error::Entropy)?;
        self.create_as(id, 1)
    }

    /// Makes an empty keyring with this id, under this version of the root.
    ///
    /// # Errors
    /// As [`Store::create`].
    pub(crate) fn create_as(&self, id: [u8; 16], root_version: u32) -> Result<Keyring, Error> {
        let _lock = self.storage.lock()?;
        let mut keyring = Keyring {
            id,
            root_version,
            epoch: 1,
            next_kid: 1,
            keys: Vec::new(),
            active: HashMap::new(),
            mac: [0; 32],
            audit: None,
        };
        let bytes = encode(&mut keyring, &self.root).ok_or(Error::Entropy)?;
        match self.storage.replace(None, &bytes)? {
            Replaced::Yes => Ok(keyring),
            Replaced::ChangedMeanwhile => Err(Error::KeyringExists { path: self.path().to_owned() }),
        }
    }

    /// Reads and authenticates the keyring.
    ///
    /// # Errors
    /// It cannot be read, is open to others, was altered, or is of another root.
    pub fn load(&self) -> Result<Keyring, Error> {
        self.open(&self.read()?)
    }

    /// Changes the keyring: reads it, lets `change` work on it, raises the epoch and replaces it. A `change` that answers `None` leaves it alone. Where others
    /// change it meanwhile, `change` works again on what they left.
    ///
    /// # Errors
    /// As [`Store::load`]; the keyring cannot be locked or replaced; or `change` refused.
    pub fn update<T>(
        &self,
        mut change: impl FnMut(&mut Keyring) -> Result<Option<T>, RotateError>,
    ) -> Result<(Keyring, Option<T>), Error> {
        let _lock = self.storage.lock()?;
        for _ in 0..TRIES {
            let previous = self.read()?;
            let mut keyring = self.open(&previous)?;
            let done = change(&mut keyring).map_err(Error::Rotate)?;
            if done.is_none() {
                return Ok((keyring, done));
            }
            keyring.epoch += 1;
            keyring.index();
            let bytes = encode(&mut keyring, &self.root).ok_or(Error::Entropy)?;
            if self.storage.replace(Some(&previous), &bytes)? == Replaced::Yes {
                return Ok((keyring, done));
            }
        }
        Err(self.storage.busy())
    }

    /// Changes the keyring, if it is at this epoch, and puts it under another root, which is this store's from then on.
    ///
    /// # Errors
    /// As [`Store::update`]; the keyring is as it was, unless the host stored it without saying so.
    pub(crate) fn rebase(
        &mut self,
        epoch: u64,
        version: u32,
        root: RootKey,
        change: &mut dyn FnMut(&mut Keyring) -> Result<(), RotateError>,
    ) -> Result<Keyring, Error> {
        let _lock = self.storage.lock()?;
        let previous = self.read()?;
        let mut keyring = self.open(&previous)?;
        if keyring.epoch != epoch {
            return Err(Error::Rotate(RotateError::Changed(keyring.epoch)));
        }
        change(&mut keyring).map_err(Error::Rotate)?;
        keyring.root_version = version;
        keyring.epoch += 1;
        keyring.index();
        let bytes = encode(&mut keyring, &root).ok_or(Error::Entropy)?;
        if self.storage.replace(Some(&previous), &bytes)? != Replaced::Yes {
            return Err(self.storage.busy());
        }
        self.root = root;
        Ok(keyring)
    }

    /// Opens the keyring with another root from now on.
    pub(crate) fn replace_root(&mut self, root: RootKey) {
        self.root = root;
    }

    fn read(&self) -> Result<Vec<u8>, Error> {
        self.storage.read()?.ok_or_else(|| Error::NoKeyring { path: self.path().to_owned() })
    }

    fn open(&self, bytes: &[u8]) -> Result<Keyring, Error> {
        let refuse = |fault: KeyringFault| Error::Keyring { path: self.path().to_owned(), fault };
        decode(bytes, &self.root).map_err(refuse)
    }
}
