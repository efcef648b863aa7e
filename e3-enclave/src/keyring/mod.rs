//! The keys: `root → app key[kid] → message key` (SPEC.md, "Keys").
//!
//! [`root`] is where the root key comes from, [`derive`] and [`pair`] what is derived from it and from app keys, [`file`] the wrapped form that lies on disk,
//! [`storage`] where that form is kept, [`store`] how it is read and replaced, [`rotate`] how keys are added and promoted, [`live`] what a running engine
//! holds. Key bytes leave this module only by reference, to [`crate::envelope`].

pub(crate) mod derive;
pub(crate) mod file;
mod listing;
pub mod live;
pub(crate) mod pair;
pub(crate) mod record;
pub mod root;
pub mod roots;
pub mod rotate;
pub mod storage;
pub mod store;
pub mod unlock;

pub use derive::{AuditKey, DeterministicKey};
pub use file::KeyringFault;
pub use live::Live;
pub use pair::KeyPair;
pub use root::RootKey;
pub use roots::HostRoots;
pub use rotate::RotateError;
pub use store::Store;
pub use unlock::UnlockError;

use e3_wire::App;
use std::collections::HashMap;
use std::sync::Arc;
use zeroize::Zeroizing;

/// 32 key bytes, erased when dropped. No `Debug`, no `Clone`.
pub struct SecretKey(Zeroizing<[u8; 32]>);

impl SecretKey {
    pub(crate) fn new(bytes: Zeroizing<[u8; 32]>) -> Self {
        Self(bytes)
    }

    /// Fresh random bytes; `None` when the system has none to give.
    pub(crate) fn random() -> Option<Self> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(bytes.as_mut_slice()).ok()?;
        Some(Self(bytes))
    }

    pub(crate) fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// Which kind of sealing a key is for. The lineages of an app rotate apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Lineage {
    /// Suite 1.
    Random = 1,
    /// Suite 3: rotating it changes every deterministic token made from then on.
    Deterministic = 2,
    /// Suite 2: each key is a key pair, whose public half seals.
    Public = 3,
}

impl Lineage {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Random, Self::Deterministic, Self::Public];
}

impl std::fmt::Display for Lineage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Random => "random",
            Self::Deterministic => "det",
            Self::Public => "public",
        })
    }
}

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum KeyState {
    /// Opens tokens: a key that is still being handed out, or one that was replaced.
    DecryptOnly = 1,
    /// Opens tokens and makes new ones. At most one key of an app and lineage.
    Active = 2,
}

/// One key of one app.
pub struct AppKey {
    pub(crate) kid: u32,
    pub(crate) app: App,
    pub(crate) lineage: Lineage,
    pub(crate) state: KeyState,
    pub(crate) created: u32,
    secret: SecretKey,
    deterministic: Option<DeterministicKey>,
    pair: Option<KeyPair>,
}

impl AppKey {
    pub(crate) fn new(kid: u32, app: App, lineage: Lineage, state: KeyState, created: u32, secret: SecretKey) -> Self {
        let deterministic = (lineage == Lineage::Deterministic).then(|| DeterministicKey::derive(&secret, app));
        let pair = (lineage == Lineage::Public).then(|| KeyPair::derive(&secret, app));
        Self { kid, app, lineage, state, created, secret, deterministic, pair }
    }

    #[cfg(test)]
    pub(crate) fn known(kid: u32, app: App, lineage: Lineage, bytes: [u8; 32]) -> Self {
        Self::new(kid, app, lineage, KeyState::Active, 0, SecretKey::new(Zeroizing::new(bytes)))
    }

    #[cfg(test)]
    pub(crate) fn retired(self) -> Self {
        Self { state: KeyState::DecryptOnly, ..self }
    }

    /// The key's number, never used again in its keyring.
    #[must_use]
    pub fn kid(&self) -> u32 {
        self.kid
    }

    pub(crate) fn secret(&self) -> &SecretKey {
        &self.secret
    }

    pub(crate) fn deterministic(&self) -> Option<&DeterministicKey> {
        self.deterministic.as_ref()
    }

    /// Of the public lineage only.
    pub(crate) fn pair(&self) -> Option<&KeyPair> {
        self.pair.as_ref()
    }
}

/// What may be shown of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyInfo {
    /// The key's number.
    pub kid: u32,
    /// Whose it is.
    pub app: App,
    /// What it is for.
    pub lineage: Lineage,
    /// What it may do.
    pub state: KeyState,
    /// When it was made, in Unix seconds.
    pub created: u32,
}

/// All keys, unwrapped, as one version of the keyring file holds them.
pub struct Keyring {
    pub(crate) id: [u8; 16],
    pub(crate) root_version: u32,
    pub(crate) epoch: u64,
    pub(crate) next_kid: u32,
    /// Ascending by kid.
    pub(crate) keys: Vec<AppKey>,
    pub(crate) active: HashMap<(App, Lineage), usize>,
    /// The MAC of the file that this was read from or written as.
    pub(crate) mac: [u8; 32],
    /// The key of audit records under the root that this was read or written with.
    pub(crate) audit: Option<Arc<AuditKey>>,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keyring").field("epoch", &self.epoch).field("keys", &self.keys.len()).finish_non_exhaustive()
    }
}

impl Keyring {
    /// A keyring with given keys, for vectors.
    #[cfg(test)]
    pub(crate) fn known(keys: Vec<AppKey>) -> Self {
        let mut keyring = Self {
            id: [0; 16],
            root_version: 1,
            epoch: 1,
            next_kid: u32::MAX,
            keys,
            active: HashMap::new(),
            mac: [0; 32],
            audit: None,
        };
        keyring.keys.sort_by_key(|k| k.kid);
        keyring.index();
        keyring
    }

    /// Rebuilds the index of active keys.
    pub(crate) fn index(&mut self) {
        self.active = self
            .keys
            .iter()
            .enumerate()
            .filter(|(_, k)| k.state == KeyState::Active)
            .map(|(at, k)| ((k.app, k.lineage), at))
            .collect();
    }

    /// The keyring's public id, as hexadecimal text.
    #[must_use]
    pub fn id(&self) -> String {
        hex(&self.id)
    }

    /// The public id's bytes.
    #[must_use]
    pub fn id_bytes(&self) -> &[u8; 16] {
        &self.id
    }

    /// Grows by one with every change of the file.
    #[must_use]
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The key that signs audit records.
    #[must_use]
    pub fn audit_key(&self) -> Option<&Arc<AuditKey>> {
        self.audit.as_ref()
    }

    /// Which root wraps it.
    #[must_use]
    pub fn root_version(&self) -> u32 {
        self.root_version
    }

    /// What may be shown of every key, ascending by kid.
    pub fn list(&self) -> impl Iterator<Item = KeyInfo> + '_ {
        self.keys.iter().map(|k| KeyInfo {
            kid: k.kid,
            app: k.app,
            lineage: k.lineage,
            state: k.state,
            created: k.created,
        })
    }

    /// Whether the app has any key.
    #[must_use]
    pub fn has_app(&self, app: App) -> bool {
        self.active.contains_key(&(app, Lineage::Random))
    }

    /// The key that new tokens of this app and lineage are made with.
    pub(crate) fn active(&self, app: App, lineage: Lineage) -> Option<&AppKey> {
        self.active.get(&(app, lineage)).and_then(|at| self.keys.get(*at))
    }

    /// Number and public half of the key pair that values of this app are sealed to now; `None` for apps of older versions, until they are given one.
    #[must_use]
    pub fn public_key(&self, app: App) -> Option<(u32, [u8; 32])> {
        let key = self.active(app, Lineage::Public)?;
        Some((key.kid, key.pair()?.public()))
    }

    /// The key of this number, if it belongs to this app and lineage.
    pub(crate) fn find(&self, kid: u32, app: App, lineage: Lineage) -> Option<&AppKey> {
        let at = self.keys.binary_search_by_key(&kid, |k| k.kid).ok()?;
        self.keys.get(at).filter(|k| k.app == app && k.lineage == lineage)
    }
}

/// Bytes as lower-case hexadecimal text.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [b >> 4, b & 15]).map(|d| char::from(DIGITS[usize::from(d)])).collect()
}
