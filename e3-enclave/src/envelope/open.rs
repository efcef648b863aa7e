//! Opening (SPEC.md, "Opening").

use super::format::{Header, How, MessageKey, Parts, Suite, TAG, public_info};
use super::value;
use crate::audit::Withheld;
use crate::keyring::Keyring;
use crate::policy::Allowed;
use aes_gcm::aead::AeadInOut;
use aes_gcm::aead::inout::InOutBuf;
use e3_wire::{App, Inspection, Role, TokenText, ValueType};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

/// The token is not a genuine one of this app. Never says why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the token does not authenticate")]
pub struct NotAuthentic;

/// A genuine token of an app: its header holds, and its value is inside, out of reach until it is allowed.
pub struct Authentic {
    app: App,
    role: Role,
    value_type: ValueType,
    suite: Suite,
    kid: u32,
    time: u32,
    value: Zeroizing<Vec<u8>>,
}

impl Authentic {
    /// Authenticates the text as exactly one token of `app`.
    ///
    /// # Errors
    /// It is not one, for whatever reason: form, key, commitment, tag, or a content that is not one value of its type.
    pub fn read(keyring: &Keyring, app: App, text: &[u8]) -> Result<Self, NotAuthentic> {
        let token = TokenText::parse(text).map_err(|_| NotAuthentic)?;
        let mut binary = Zeroizing::new(token.decode().map_err(|_| NotAuthentic)?);
        let parts = Parts::read(&binary).ok_or(NotAuthentic)?;
        let key = keyring.find(parts.kid, app, parts.suite.lineage()).ok_or(NotAuthentic)?;
        let header = Header::new(token.role, token.value_type, parts.suite, parts.kid, parts.time);
        let (start, end) = (parts.preamble(), binary.len() - TAG);
        let mut tag = [0; TAG];
        tag.copy_from_slice(&binary[end..]);
        let sealed = &mut binary[start..end];
        match parts.how {
            How::Derived { salt, commit } => {
                let message = MessageKey::derive(key.secret(), app, &header, &salt);
                if !bool::from(message.commit().ct_eq(&commit)) {
                    return Err(NotAuthentic);
                }
                message
                    .cipher()
                    .decrypt_inout_detached(&message.nonce(), header.as_bytes(), InOutBuf::from(sealed), &tag.into())
                    .map_err(|_| NotAuthentic)?;
            }
            How::Encapsulated { enc } => {
                let pair = key.pair().ok_or(NotAuthentic)?;
                pair.open(&enc, (&public_info(app), header.as_bytes()), sealed, &tag).ok_or(NotAuthentic)?;
            }
        }
        // Keep the one buffer: move the value to its start and clear what lies behind.
        binary.copy_within(start..end, 0);
        let len = end - start;
        binary[len..].zeroize();
        binary.truncate(len);
        if !value::is_one_value(token.value_type, &binary) {
            return Err(NotAuthentic);
        }
        Ok(Self {
            app,
            role: token.role,
            value_type: token.value_type,
            suite: parts.suite,
            kid: parts.kid,
            time: parts.time,
            value: binary,
        })
    }

    /// The authenticated role.
    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// The authenticated key id.
    #[must_use]
    pub fn kid(&self) -> u32 {
        self.kid
    }

    /// The authenticated type.
    #[must_use]
    pub fn value_type(&self) -> ValueType {
        self.value_type
    }

    /// What is known of the token without its value.
    #[must_use]
    pub fn inspection(&self) -> Inspection {
        Inspection {
            role: self.role,
            value_type: self.value_type,
            suite: self.suite as u8,
            kid: self.kid,
            time: self.time,
        }
    }

    /// The app whose token it is.
    pub(super) fn app(&self) -> App {
        self.app
    }

    pub(super) fn suite(&self) -> Suite {
        self.suite
    }

    pub(super) fn time(&self) -> u32 {
        self.time
    }

    /// For what stays inside: the token that takes this one's place.
    pub(super) fn value(&self) -> &[u8] {
        &self.value
    }

    /// Puts the value into an answer that is withheld until its audit record is written: the only way in which it leaves this type.
    /// Answers whether the permission was one to open this role.
    pub(crate) fn reveal(self, allowed: &Allowed, answer: &mut Withheld) -> bool {
        let may = allowed.opens() && allowed.role() == self.role;
        if may {
            answer.opened(self.value_type, (self.role, self.kid), allowed.line(), &self.value);
        }
        may
    }
}
