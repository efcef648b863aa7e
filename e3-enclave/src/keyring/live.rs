//! The keyring that a running engine works with, and how it follows its file.

use super::file::KeyringFault;
use super::storage::Look;
use super::{Keyring, RootKey, RotateError, Store};
use crate::error::Error;
use arc_swap::ArcSwap;
use e3_wire::App;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Time between two tries to get the root that another engine put the keyring under.
const REOPEN: Duration = Duration::from_secs(10);

type Reopen = Box<dyn Fn() -> Result<RootKey, Error> + Send + Sync>;

/// A keyring file and what was last read from it.
pub struct Live {
    current: ArcSwap<Keyring>,
    /// Held by whoever replaces `current`, so that an older file never overtakes a newer one.
    place: Mutex<Place>,
    /// How the root is had when it is another than the store's.
    reopen: Option<Reopen>,
}

/// Where the keyring is.
struct Place {
    store: Store,
    /// What it looked like last.
    seen: Option<Look>,
    /// It is under a root that could not be had; no earlier than this it is tried again.
    again: Option<Instant>,
}

impl Live {
    /// Loads the keyring.
    ///
    /// # Errors
    /// As [`Store::load`].
    pub fn open(store: Store) -> Result<Self, Error> {
        let seen = store.look();
        let current = store.load()?;
        let place = Mutex::new(Place { store, seen, again: None });
        Ok(Self { current: ArcSwap::from_pointee(current), place, reopen: None })
    }

    /// The same, which gets its root so when the keyring was put under another.
    #[must_use]
    pub fn reopened_by(self, reopen: impl Fn() -> Result<RootKey, Error> + Send + Sync + 'static) -> Self {
        Self { reopen: Some(Box::new(reopen)), ..self }
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
        let mut place = self.guard();
        let now = place.store.look();
        let due = place.again.is_some_and(|again| again <= Instant::now());
        if !force && !due && place.seen == now {
            return Ok(None);
        }
        // A file that is refused is looked at again only when it changes once more.
        (place.seen, place.again) = (now, None);
        let new = match (place.store.load(), &self.reopen) {
            (Err(Error::Keyring { fault: KeyringFault::WrongRoot, .. }), Some(reopen)) => {
                let root = match reopen() {
                    Ok(root) => root,
                    Err(error) => {
                        place.again = Some(Instant::now() + REOPEN);
                        return Err(error);
                    }
                };
                place.store.replace_root(root);
                place.store.load()?
            }
            (loaded, _) => loaded?,
        };
        self.accept(&place, new)
    }

    /// Gives an app its first keys, or those of a lineage that it lacks, unless it has them by now.
    ///
    /// # Errors
    /// The file cannot be changed.
    pub fn create_app(&self, app: App) -> Result<(), Error> {
        let mut place = self.guard();
        let (new, _) = place.store.update(|keyring| match keyring.complete_app(app) {
            Ok(lacked) => Ok(lacked.then_some(())),
            Err(e) => Err(e),
        })?;
        place.seen = place.store.look();
        self.accept(&place, new).map(|_| ())
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
        let mut place = self.guard();
        let (new, done) = place.store.update(|keyring| match keyring.epoch {
            found if found != epoch => Err(RotateError::Changed(found)),
            _ => change(keyring).map(Some),
        })?;
        place.seen = place.store.look();
        self.accept(&place, new)?;
        done.ok_or(Error::Rotate(RotateError::Changed(epoch)))
    }

    /// Changes the keyring, if it is at this epoch, and puts it under another root.
    ///
    /// # Errors
    /// As [`Live::change`].
    pub(crate) fn rebase(
        &self,
        epoch: u64,
        version: u32,
        root: RootKey,
        change: &mut dyn FnMut(&mut Keyring) -> Result<(), RotateError>,
    ) -> Result<(), Error> {
        let mut place = self.guard();
        let new = place.store.rebase(epoch, version, root, change)?;
        place.seen = place.store.look();
        self.accept(&place, new).map(|_| ())
    }

    fn accept(&self, place: &Place, new: Keyring) -> Result<Option<u64>, Error> {
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
        Err(Error::Keyring { path: place.store.path().to_owned(), fault })
    }

    fn guard(&self) -> MutexGuard<'_, Place> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
