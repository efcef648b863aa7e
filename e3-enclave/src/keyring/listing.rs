//! What may be shown of a keyring, as the link carries it and commands print it.

use super::{KeyState, Keyring, Lineage};
use e3_wire::{KeyLineage, KeyUse, KeyringNow, ListedKey};

impl From<Lineage> for KeyLineage {
    fn from(lineage: Lineage) -> Self {
        match lineage {
            Lineage::Random => Self::Random,
            Lineage::Deterministic => Self::Deterministic,
            Lineage::Public => Self::Public,
        }
    }
}

impl From<KeyLineage> for Lineage {
    fn from(lineage: KeyLineage) -> Self {
        match lineage {
            KeyLineage::Random => Self::Random,
            KeyLineage::Deterministic => Self::Deterministic,
            KeyLineage::Public => Self::Public,
        }
    }
}

impl Keyring {
    /// Id, epoch and root version.
    #[must_use]
    pub fn now(&self) -> KeyringNow {
        KeyringNow { id: self.id, epoch: self.epoch, root_version: self.root_version }
    }

    /// Every key, ascending by kid.
    #[must_use]
    pub fn listed(&self) -> Vec<ListedKey> {
        let state = |kid, state| match state {
            KeyState::Active => KeyUse::Active,
            KeyState::DecryptOnly if self.is_waiting(kid) => KeyUse::Distributed,
            KeyState::DecryptOnly => KeyUse::DecryptOnly,
        };
        let keys = self.list().map(|key| ListedKey {
            kid: key.kid,
            app: key.app,
            lineage: key.lineage.into(),
            state: state(key.kid, key.state),
            created: key.created,
        });
        keys.collect()
    }
}
