//! The keyring that a running engine works with, and how it follows its file.

use super::file::KeyringFault;
use super::storage::Look;
use super::{Keyring, RotateError, Store};
use crate::error::Error;
use arc_swap::ArcSwap;
use e3_wire::App;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// A keyring file and what was last read from it.
pub struct Live {
    store: Store,
    current: ArcSwap<Keyring>,
    /// Held by whoever replaces `current`, so that an older file never overtakes a newer one; and what the file looked like last.
    seen: Mutex<Option<Look>>,
}

impl Live {
    /// Loads the keyring.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub fn open(store: Store) -> Result<Self, Error> {
        let seen = store.look();
        let current = store.load()?;
        Ok(Self { store, current: ArcSwap::from_pointee(current), seen: Mutex::new(seen) })
    }

    /// The keyring now in force.
    pub fn current(&self) -> arc_swap::Guard<Arc<Keyring>> {
        self.current.load()
    }

    /// Reads the file again if it looks changed, or always with `force`; answers the new epoch if there is one.
    ///
    /// # Errors
    /// The file is refused; the keyring in force stays.
    pub fn reload(&self, force: bool) -> Result<Option<u64>, Error> {
        let mut seen = self.guard();
        let now = self.store.look();
        if !force && *seen == now {
            return Ok(None);
        }
        // A file that is refused is looked at again only when it changes once more.
        *seen = now;
        let new = self.store.load()?;
        self.accept(new)
    }

    /// Gives an app its first keys, unless it has some by now.
    ///
    /// # Errors
    /// The file cannot be changed.
    pub fn create_app(&self, app: App) -> Result<(), Error> {
        let mut seen = self.guard();
        let (new, _) = self.store.update(|keyring| match keyring.create_app(app) {
            Ok(()) => Ok(Some(())),
            Err(RotateError::AppExists(_)) => Ok(None),
            Err(e) => Err(e),
        })?;
        *seen = self.store.look();
        self.accept(new).map(|_| ())
    }

    /// Changes the keyring, if it is at this epoch.
    ///
    /// # Errors
    /// It is not ([`RotateError::Changed`]), `change` refused, or the keyring cannot be stored.
    pub fn change<T>(
        &self,
        epoch: u64,
        change: &mut dyn FnMut(&mut Keyring) -> Result<T, RotateError>,
    ) -> Result<T, Error> {
        let mut seen = self.guard();
        let (new, done) = self.store.update(|keyring| match keyring.epoch {
            found if found != epoch => Err(RotateError::Changed(found)),
            _ => change(keyring).map(Some),
        })?;
        *seen = self.store.look();
        self.accept(new)?;
        done.ok_or(Error::Rotate(RotateError::Changed(epoch)))
    }

    fn accept(&self, new: Keyring) -> Result<Option<u64>, Error> {
        let current = self.current.load();
        let fault = if new.id != current.id {
            KeyringFault::AnotherKeyring
        } else if new.epoch < current.epoch {
            KeyringFault::RolledBack
        } else if new.epoch == current.epoch {
            if new.mac == current.mac {
                return Ok(None);
            }
            KeyringFault::Forked
        } else {
            let epoch = new.epoch;
            self.current.store(Arc::new(new));
            return Ok(Some(epoch));
        };
        Err(Error::Keyring { path: self.store.path().to_owned(), fault })
    }

    fn guard(&self) -> MutexGuard<'_, Option<Look>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
