//! What a relay has seen of an engine's keyring and policy: a host that brings back an older one is found out.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use e3_attest::State;

/// The public id of a keyring.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct KeyringId(pub [u8; 16]);

impl fmt::Display for KeyringId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::str::FromStr for KeyringId {
    type Err = BadKeyringId;

    fn from_str(text: &str) -> Result<Self, BadKeyringId> {
        let mut id = [0; 16];
        if text.len() != 32 || !text.is_ascii() {
            return Err(BadKeyringId);
        }
        for (byte, pair) in id.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
            *byte = digit(pair[0]).zip(digit(pair[1])).map(|(high, low)| high << 4 | low).ok_or(BadKeyringId)?;
        }
        Ok(Self(id))
    }
}

/// Text that is no keyring id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a keyring id is 32 hexadecimal digits, as `e3 keys list` prints it")]
pub struct BadKeyringId;

/// Highest epoch of a keyring and highest version of the policy beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Seen {
    /// Epoch of the keyring.
    pub epoch: u64,
    /// Version of the policy; 0 if none was stated.
    pub policy: u64,
}

/// Why an engine's state is refused although its document is good.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rollback {
    /// It has no keyring.
    #[error("the engine has unlocked no keyring yet")]
    NoKeyring,
    /// Another keyring than the pinned one.
    #[error(
        "the engine has another keyring: expected {expected}, found {found}; somebody put another file in its place, or `keyring` is to be changed here"
    )]
    OtherKeyring {
        /// The pinned one.
        expected: KeyringId,
        /// The engine's.
        found: KeyringId,
    },
    /// An epoch below one that was seen.
    #[error("the engine's keyring is at epoch {found}, and epoch {seen} was seen before: an old file was brought back")]
    Epoch {
        /// Seen before.
        seen: u64,
        /// The engine's.
        found: u64,
    },
    /// A policy version below one that was seen.
    #[error(
        "the engine's policy is at version {found}, and version {seen} was seen before: an old policy was brought back"
    )]
    Policy {
        /// Seen before.
        seen: u64,
        /// The engine's.
        found: u64,
    },
}

/// Called with what is to be kept for the next start.
type Keep = Box<dyn Fn(KeyringId, Seen) + Send + Sync>;

/// The highest that was seen of each keyring, and the one keyring that is accepted if one is pinned.
pub struct Memory {
    pinned: Option<KeyringId>,
    seen: Mutex<HashMap<KeyringId, Seen>>,
    keep: Option<Keep>,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memory").field("pinned", &self.pinned).field("seen", &self.seen).finish_non_exhaustive()
    }
}

impl Memory {
    /// What earlier runs saw.
    #[must_use]
    pub fn new(pinned: Option<KeyringId>, seen: HashMap<KeyringId, Seen>) -> Self {
        Self { pinned, seen: Mutex::new(seen), keep: None }
    }

    /// Also tells of each advance, so that it can be kept.
    #[must_use]
    pub fn keeping(self, keep: impl Fn(KeyringId, Seen) + Send + Sync + 'static) -> Self {
        Self { keep: Some(Box::new(keep)), ..self }
    }

    /// Whether an engine in this state may be talked to; remembers it.
    ///
    /// # Errors
    /// It may not.
    pub fn admit(&self, state: &State) -> Result<(), Rollback> {
        let keyring = state.keyring.ok_or(Rollback::NoKeyring)?;
        let found = KeyringId(keyring.id);
        if let Some(expected) = self.pinned.filter(|pinned| *pinned != found) {
            return Err(Rollback::OtherKeyring { expected, found });
        }
        let policy = state.policy.map_or(0, |policy| policy.version);
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = all.entry(found).or_default();
        if keyring.epoch < seen.epoch {
            return Err(Rollback::Epoch { seen: seen.epoch, found: keyring.epoch });
        }
        if policy < seen.policy {
            return Err(Rollback::Policy { seen: seen.policy, found: policy });
        }
        let now = Seen { epoch: keyring.epoch, policy };
        if *seen != now {
            *seen = now;
            // Kept under the lock, so that what is kept never goes back either.
            if let Some(keep) = &self.keep {
                keep(found, now);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use e3_attest::{KeyringState, PolicyState};

    fn state(id: u8, epoch: u64, policy: Option<u64>) -> State {
        State {
            policy: policy.map(|version| PolicyState { version, hash: [1; 32] }),
            keyring: Some(KeyringState { epoch, id: [id; 16] }),
            audit_key: None,
        }
    }

    #[test]
    fn nothing_goes_back_behind_what_was_seen() {
        let kept = std::sync::Arc::new(Mutex::new(Vec::new()));
        let memory = Memory::new(None, HashMap::from([(KeyringId([1; 16]), Seen { epoch: 4, policy: 2 })])).keeping({
            let kept = std::sync::Arc::clone(&kept);
            move |_, seen| kept.lock().unwrap().push(seen)
        });
        assert_eq!(memory.admit(&State::default()), Err(Rollback::NoKeyring));
        assert_eq!(memory.admit(&state(1, 3, Some(2))), Err(Rollback::Epoch { seen: 4, found: 3 }));
        assert_eq!(memory.admit(&state(1, 4, Some(1))), Err(Rollback::Policy { seen: 2, found: 1 }));
        assert_eq!(memory.admit(&state(1, 4, None)), Err(Rollback::Policy { seen: 2, found: 0 }));
        assert_eq!(memory.admit(&state(1, 4, Some(2))), Ok(()));
        assert_eq!(memory.admit(&state(1, 6, Some(3))), Ok(()));
        assert_eq!(memory.admit(&state(1, 5, Some(3))), Err(Rollback::Epoch { seen: 6, found: 5 }));
        assert_eq!(memory.admit(&state(2, 1, None)), Ok(()), "another keyring has its own past");
        assert_eq!(*kept.lock().unwrap(), [Seen { epoch: 6, policy: 3 }, Seen { epoch: 1, policy: 0 }]);
    }

    #[test]
    fn a_pinned_keyring_is_the_only_one() {
        let pinned: KeyringId = "01".repeat(16).parse().unwrap();
        let memory = Memory::new(Some(pinned), HashMap::new());
        assert_eq!(memory.admit(&state(1, 1, None)), Ok(()));
        let other = Err(Rollback::OtherKeyring { expected: pinned, found: KeyringId([2; 16]) });
        assert_eq!(memory.admit(&state(2, 9, None)), other);
        for bad in ["", "01", &"0".repeat(31), &"g".repeat(32), &"é".repeat(16)] {
            assert_eq!(bad.parse::<KeyringId>(), Err(BadKeyringId));
        }
    }
}
