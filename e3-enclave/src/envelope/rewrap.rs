//! Rewrapping: a token under an old key becomes one of the same value under the newest (SPEC.md, "Rewrapping").

use super::format::{Header, Suite};
use super::open::Authentic;
use super::salt::Salt;
use super::seal::{SealError, Sealer, encrypt, encrypt_to_public};
use crate::admin::AdminPermit;
use crate::keyring::pair::Seed;
use crate::policy::Allowed;
use e3_wire::{Role, token};

/// That somebody may have tokens rewrapped.
#[derive(Debug)]
pub(crate) struct RewrapPermit {
    /// The one role that it is for; any, where an administrator has it done.
    role: Option<Role>,
    line: u32,
}

impl RewrapPermit {
    /// An administrator's.
    pub(crate) const fn of_admin(_: &AdminPermit) -> Self {
        Self { role: None, line: 0 }
    }

    /// The policy's; `None` if what it allows is something else.
    pub(crate) fn of_policy(allowed: Allowed) -> Option<Self> {
        allowed.rewraps().then(|| Self { role: Some(allowed.role()), line: allowed.line() })
    }

    /// The line of the policy; 0 where there is none.
    pub(crate) const fn line(&self) -> u32 {
        self.line
    }
}

/// What became of a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rewrapped {
    /// It is under the newest key already, and stays as it is.
    Newest,
    /// A new token was appended, under the key of this number.
    Under(u32),
}

impl Sealer<'_> {
    /// Appends a token of the same value, app, role, type, suite and time under the active key of its lineage, unless it is under that key already, or under one that
    /// is still younger. The value goes from one token into the other and nowhere else.
    ///
    /// # Errors
    /// The app has no active key of the lineage, or there are no random numbers. Nothing was appended.
    pub(crate) fn rewrap(
        &mut self,
        permit: &RewrapPermit,
        old: &Authentic,
        out: &mut Vec<u8>,
    ) -> Result<Rewrapped, SealError> {
        let (app, role, value_type, suite) = (old.app(), old.role(), old.value_type(), old.suite());
        if permit.role.is_some_and(|only| only != role) {
            return Err(SealError::NotAllowed);
        }
        let key = self.keyring.active(app, suite.lineage()).ok_or(SealError::NoKey)?;
        if old.kid() >= key.kid() {
            return Ok(Rewrapped::Newest);
        }
        // Of suite 3 it is 0, and stays so.
        let time = old.time();
        let header = Header::new(role, value_type, suite, key.kid(), time);
        let salt = match suite {
            Suite::Random => Some(Salt::random().ok_or(SealError::Entropy)?),
            Suite::Deterministic => {
                let det = key.deterministic().ok_or(SealError::NoKey)?;
                Some(Salt::deterministic(det, app, role, value_type, old.value()))
            }
            Suite::Public => None,
        };
        match salt {
            Some(salt) => encrypt(key, app, &header, (suite, time), salt, old.value(), &mut self.binary)?,
            None => {
                let seed = Seed::random().ok_or(SealError::Entropy)?;
                encrypt_to_public(key, app, &header, time, seed, old.value(), &mut self.binary)?;
            }
        }
        token::write(role, value_type, &self.binary, out);
        Ok(Rewrapped::Under(key.kid()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envelope::SealTime;
    use crate::keyring::{AppKey, Keyring, Lineage};
    use e3_wire::{App, Role, ValueType};
    use proptest::prelude::*;

    const APPS: [&str; 2] = ["shop", "bank"];
    const TYPES: [(ValueType, &str); 5] = [
        (ValueType::String, ""),
        (ValueType::Number, "1.10"),
        (ValueType::Bool, "true"),
        (ValueType::Null, "null"),
        (ValueType::Json, r#"{"a": [1E400]}"#),
    ];

    fn app(name: &str) -> App {
        App::parse(name).unwrap()
    }

    /// Three generations of keys for each app and lineage; the last is active.
    fn keyring(generations: u32) -> Keyring {
        let mut keys = Vec::new();
        for generation in 0..generations {
            for (at, name) in APPS.iter().enumerate() {
                for (lane, lineage) in Lineage::ALL.into_iter().enumerate() {
                    let kid = generation * 6 + at as u32 * 3 + lane as u32 + 1;
                    let key = AppKey::known(kid, app(name), lineage, [kid as u8; 32]);
                    keys.push(if generation + 1 == generations { key } else { key.retired() });
                }
            }
        }
        Keyring::known(keys)
    }

    /// A token as `keyring` makes it.
    fn seal(keyring: &Keyring, app: App, role: Role, ty: ValueType, suite: Suite, time: u32, value: &[u8]) -> Vec<u8> {
        let key = keyring.active(app, suite.lineage()).unwrap();
        let header = Header::new(role, ty, suite, key.kid(), time);
        let (mut binary, mut out) = (Vec::new(), Vec::new());
        let salt = match suite {
            Suite::Random => Salt::random().unwrap(),
            Suite::Deterministic => Salt::deterministic(key.deterministic().unwrap(), app, role, ty, value),
            Suite::Public => {
                encrypt_to_public(key, app, &header, time, Seed::random().unwrap(), value, &mut binary).unwrap();
                token::write(role, ty, &binary, &mut out);
                return out;
            }
        };
        encrypt(key, app, &header, (suite, time), salt, value, &mut binary).unwrap();
        token::write(role, ty, &binary, &mut out);
        out
    }

    fn rewrap(keyring: &Keyring, app: App, token: &[u8]) -> (Rewrapped, Vec<u8>) {
        let old = Authentic::read(keyring, app, token).unwrap();
        let mut out = Vec::new();
        let done = Sealer::new(keyring, SealTime::now().unwrap())
            .rewrap(&RewrapPermit::of_admin(&AdminPermit::known()), &old, &mut out)
            .unwrap();
        (done, out)
    }

    proptest! {
        #[test]
        fn a_rewrapped_token_is_the_same_value_under_the_newest_key(
            (old, new) in (1u32..4, 1u32..4), bank in any::<bool>(), suite in prop::sample::select(vec![Suite::Random, Suite::Public, Suite::Deterministic]), which in 0..TYPES.len(),
            text in "\\PC{0,40}", role in "[a-z][a-z0-9-]{0,19}", time in any::<u32>(),
        ) {
            let (before, after) = (keyring(old), keyring(old.max(new)));
            let owner = app(APPS[usize::from(bank)]);
            let role = Role::parse(&role).unwrap();
            let (ty, value) = TYPES[which];
            let value = if ty == ValueType::String { text.as_bytes() } else { value.as_bytes() };
            let deterministic = suite == Suite::Deterministic;
            let time = if deterministic { 0 } else { time };
            let token = seal(&before, owner, role, ty, suite, time, value);
            let (done, rewrapped) = rewrap(&after, owner, &token);
            let newest = after.active(owner, suite.lineage()).unwrap().kid();
            if old >= new {
                prop_assert_eq!((done, rewrapped.len()), (Rewrapped::Newest, 0));
                return Ok(());
            }
            prop_assert_eq!(done, Rewrapped::Under(newest));
            prop_assert_ne!(&token, &rewrapped);
            let (was, is) = (Authentic::read(&after, owner, &token).unwrap(), Authentic::read(&after, owner, &rewrapped).unwrap());
            prop_assert_eq!(is.value(), value);
            let fields = |t: &Authentic| { let i = t.inspection(); (i.role, i.value_type, i.suite, i.time) };
            prop_assert_eq!(fields(&is), fields(&was));
            prop_assert_eq!((is.kid(), is.time()), (newest, time));
            // Nothing of it opens for the other app, and once more changes nothing.
            let other = app(APPS[usize::from(!bank)]);
            prop_assert!(Authentic::read(&after, other, &rewrapped).is_err());
            prop_assert_eq!(rewrap(&after, owner, &rewrapped).0, Rewrapped::Newest);
            // Equal values stay equal: it is the token that sealing makes now.
            if deterministic {
                prop_assert_eq!(rewrapped, seal(&after, owner, role, ty, suite, 0, value));
            }
        }
    }

    #[test]
    fn a_token_under_a_key_that_waits_for_its_promotion_stays_as_it_is() {
        let role = Role::parse("card").unwrap();
        let token = seal(&keyring(2), app("shop"), role, ValueType::String, Suite::Random, 7, b"4242");
        // This engine has the younger key, and does not know yet that another engine promoted it.
        let mut behind = keyring(2);
        behind
            .keys
            .iter_mut()
            .for_each(|key| *key = AppKey::known(key.kid(), key.app, key.lineage, [key.kid() as u8; 32]).retired());
        behind.keys.iter_mut().take(6).for_each(|key| key.state = crate::keyring::KeyState::Active);
        behind.index();
        assert_eq!(rewrap(&behind, app("shop"), &token).0, Rewrapped::Newest);
    }
}
