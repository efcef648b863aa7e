//! Adding and promoting keys (SPEC.md, "Rotation").
//!
//! A new key is first *distributed*: it opens tokens but makes none. Once every engine holds it, it is *promoted*: it makes new tokens, and the
//! key before it opens old ones. An engine that missed the first step would refuse tokens that its neighbour makes; that is why there are two.

use super::{AppKey, KeyState, Keyring, Lineage, SecretKey};
use e3_wire::App;
use std::time::{SystemTime, UNIX_EPOCH};

/// Why keys were not changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RotateError {
    /// The app has no keys.
    #[error("app `{0}` has no keys; `e3 keys create-app {0}` makes them")]
    UnknownApp(App),
    /// The app has keys already.
    #[error("app `{0}` has keys already")]
    AppExists(App),
    /// A key waits for its promotion.
    #[error("key {0} is not promoted yet; `e3 keys rotate --promote` does it once every engine holds it")]
    NotPromoted(u32),
    /// No key waits for its promotion.
    #[error("no key waits to be promoted; `e3 keys rotate` adds one")]
    NothingToPromote,
    /// Another key than this one is waiting, or it is not.
    #[error("key {0} does not wait to be promoted")]
    NotWaiting(u32),
    /// The keyring is at another epoch than the one that is to be changed.
    #[error("the keyring has changed meanwhile, and is at epoch {0}")]
    Changed(u64),
    /// No key has this number.
    #[error("there is no key {0}")]
    UnknownKid(u32),
    /// The key makes tokens, or waits to.
    #[error("key {0} makes tokens or waits to: rotate first, and rewrap what is under it")]
    KeyInUse(u32),
    /// All key numbers are used.
    #[error("all key numbers are used")]
    NoKidsLeft,
    /// The operating system gave no random numbers.
    #[error("the operating system gave no random numbers")]
    Entropy,
}

impl Keyring {
    /// Gives a new app its first keys, one of each lineage, all active.
    ///
    /// # Errors
    /// The app exists, or no key can be made.
    pub fn create_app(&mut self, app: App) -> Result<(), RotateError> {
        if self.keys.iter().any(|k| k.app == app) {
            return Err(RotateError::AppExists(app));
        }
        self.complete_app(app).map(|_| ())
    }

    /// Gives an app an active key of each lineage that it has none of: all of a new app's, or what an older version did not know. Answers whether it lacked any. Only where one
    /// engine runs: others would refuse the tokens that it makes.
    ///
    /// # Errors
    /// No key can be made.
    pub fn complete_app(&mut self, app: App) -> Result<bool, RotateError> {
        let lacks = |lineage: &Lineage| !self.keys.iter().any(|k| k.app == app && k.lineage == *lineage);
        let missing: Vec<Lineage> = Lineage::ALL.into_iter().filter(lacks).collect();
        for lineage in &missing {
            self.add(app, *lineage, KeyState::Active)?;
        }
        self.index();
        Ok(!missing.is_empty())
    }

    /// Adds a key that opens tokens and makes none yet, which may be the app's first of this lineage; answers its number.
    ///
    /// # Errors
    /// The app is unknown, a key waits already, or no key can be made.
    pub fn distribute(&mut self, app: App, lineage: Lineage) -> Result<u32, RotateError> {
        self.known_app(app)?;
        if let Some(at) = self.waiting(app, lineage) {
            return Err(RotateError::NotPromoted(self.keys[at].kid));
        }
        self.add(app, lineage, KeyState::DecryptOnly)
    }

    /// Lets the waiting key make new tokens, and the one before it only open old ones; answers its number.
    ///
    /// # Errors
    /// The app is unknown or no key waits.
    pub fn promote(&mut self, app: App, lineage: Lineage) -> Result<u32, RotateError> {
        self.known_app(app)?;
        let at = self.waiting(app, lineage).ok_or(RotateError::NothingToPromote)?;
        for key in self.keys.iter_mut().filter(|k| k.app == app && k.lineage == lineage) {
            key.state = KeyState::DecryptOnly;
        }
        self.keys[at].state = KeyState::Active;
        self.index();
        Ok(self.keys[at].kid)
    }

    /// The same, if the key that waits is this one.
    ///
    /// # Errors
    /// As [`Keyring::promote`]; another key waits.
    pub fn promote_waiting(&mut self, app: App, lineage: Lineage, kid: u32) -> Result<u32, RotateError> {
        self.known_app(app)?;
        match self.waiting(app, lineage) {
            Some(at) if self.keys[at].kid == kid => self.promote(app, lineage),
            _ => Err(RotateError::NotWaiting(kid)),
        }
    }

    /// Whether these keys may be destroyed.
    ///
    /// # Errors
    /// One is unknown, makes tokens or waits to.
    pub fn destroyable(&self, kids: &[u32]) -> Result<(), RotateError> {
        for kid in kids {
            let key = self.keys.iter().find(|k| k.kid == *kid).ok_or(RotateError::UnknownKid(*kid))?;
            if key.state == KeyState::Active || self.is_waiting(*kid) {
                return Err(RotateError::KeyInUse(*kid));
            }
        }
        Ok(())
    }

    /// Removes keys; their bytes are erased, and their numbers never used again.
    ///
    /// # Errors
    /// As [`Keyring::destroyable`]; nothing was removed.
    pub fn destroy(&mut self, kids: &[u32]) -> Result<(), RotateError> {
        self.destroyable(kids)?;
        self.keys.retain(|k| !kids.contains(&k.kid));
        self.index();
        Ok(())
    }

    /// Whether this key is waiting for its promotion.
    #[must_use]
    pub fn is_waiting(&self, kid: u32) -> bool {
        self.keys
            .iter()
            .any(|k| k.kid == kid && self.waiting(k.app, k.lineage).is_some_and(|at| self.keys[at].kid == kid))
    }

    fn known_app(&self, app: App) -> Result<(), RotateError> {
        if self.has_app(app) { Ok(()) } else { Err(RotateError::UnknownApp(app)) }
    }

    /// The newest key that is younger than the active one, if there is an active one.
    fn waiting(&self, app: App, lineage: Lineage) -> Option<usize> {
        let active = self.active(app, lineage).map_or(0, AppKey::kid);
        self.keys.iter().rposition(|k| k.app == app && k.lineage == lineage && k.kid > active)
    }

    fn add(&mut self, app: App, lineage: Lineage, state: KeyState) -> Result<u32, RotateError> {
        let kid = self.next_kid;
        self.next_kid = kid.checked_add(1).ok_or(RotateError::NoKidsLeft)?;
        let secret = SecretKey::random().ok_or(RotateError::Entropy)?;
        let created = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() as u32);
        self.keys.push(AppKey::new(kid, app, lineage, state, created, secret));
        Ok(kid)
    }
}
