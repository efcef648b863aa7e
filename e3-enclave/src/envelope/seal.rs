//! Sealing (SPEC.md, "Sealing").

use super::format::{Header, MessageKey, PREAMBLE, PUBLIC_PREAMBLE, Suite, TAG, public_info};
use super::salt::{Salt, SealTime};
use super::value;
use crate::keyring::pair::Seed;
use crate::keyring::{AppKey, Keyring, Lineage};
use crate::policy::{Allowed, Sealing};
use aes_gcm::aead::AeadInOut;
use aes_gcm::aead::inout::InOutBuf;
use e3_wire::{App, MAX_VALUE, ValueType, token};

/// Why a value was not sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Over [`MAX_VALUE`], or not one value of its type.
    #[error("the value is not one value of its type, or too large")]
    BadValue,
    /// The permission is not one to seal.
    #[error("the permission is not one to seal")]
    NotAllowed,
    /// The app has no active key of the lineage that this kind of sealing needs.
    #[error("the app has no active key for this")]
    NoKey,
    /// The operating system gave no random numbers.
    #[error("the operating system gave no random numbers")]
    Entropy,
    /// The cipher refused; cannot happen for values within [`MAX_VALUE`].
    #[error("the cipher refused the value")]
    Cipher,
}

/// Seals the values of one request: keeps the buffer and the time that they share.
pub struct Sealer<'k> {
    pub(super) keyring: &'k Keyring,
    time: SealTime,
    pub(super) binary: Vec<u8>,
}

impl<'k> Sealer<'k> {
    /// A sealer under the keys of `keyring`.
    #[must_use]
    pub fn new(keyring: &'k Keyring, time: SealTime) -> Self {
        Self { keyring, time, binary: Vec::new() }
    }

    /// Appends the token of `value` to `out`, under a random salt or deterministically as the permission says.
    ///
    /// # Errors
    /// The value is not one of its type, the app has no key, or there are no random numbers. Nothing was appended.
    pub fn seal(
        &mut self,
        allowed: &Allowed,
        value_type: ValueType,
        value: &[u8],
        out: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        if value.len() > MAX_VALUE || !value::is_one_value(value_type, value) {
            return Err(SealError::BadValue);
        }
        let (app, role) = (allowed.app(), allowed.role());
        let active = |lineage| self.keyring.active(app, lineage).ok_or(SealError::NoKey);
        let (key, suite, time, salt) = match allowed.sealing().ok_or(SealError::NotAllowed)? {
            Sealing::Random => {
                let salt = Salt::random().ok_or(SealError::Entropy)?;
                (active(Lineage::Random)?, Suite::Random, self.time.0, salt)
            }
            Sealing::Deterministic => {
                let key = active(Lineage::Deterministic)?;
                let det = key.deterministic().ok_or(SealError::NoKey)?;
                (key, Suite::Deterministic, 0, Salt::deterministic(det, app, role, value_type, value))
            }
        };
        let header = Header::new(role, value_type, suite, key.kid(), time);
        encrypt(key, app, &header, (suite, time), salt, value, &mut self.binary)?;
        token::write(role, value_type, &self.binary, out);
        Ok(())
    }
}

/// Makes the sealed binary in `binary`, in place of what it held.
pub(super) fn encrypt(
    key: &AppKey,
    app: App,
    header: &Header,
    (suite, time): (Suite, u32),
    salt: Salt,
    value: &[u8],
    binary: &mut Vec<u8>,
) -> Result<(), SealError> {
    let message = MessageKey::derive(key.secret(), app, header, &salt.0);
    binary.clear();
    // One reservation: growing later would leave copies of the plaintext in freed memory.
    binary.reserve(PREAMBLE + value.len() + TAG);
    binary.push(suite as u8);
    binary.extend_from_slice(&key.kid().to_be_bytes());
    binary.extend_from_slice(&time.to_be_bytes());
    binary.extend_from_slice(&salt.0);
    binary.extend_from_slice(message.commit());
    binary.extend_from_slice(value);
    let buffer = InOutBuf::from(&mut binary[PREAMBLE..]);
    match message.cipher().encrypt_inout_detached(&message.nonce(), header.as_bytes(), buffer) {
        Ok(tag) => {
            binary.extend_from_slice(&tag);
            Ok(())
        }
        Err(_) => {
            zeroize::Zeroize::zeroize(binary);
            Err(SealError::Cipher)
        }
    }
}

/// The same to the app's own public key, as anyone who has it could: suite 2.
pub(super) fn encrypt_to_public(
    key: &AppKey,
    app: App,
    header: &Header,
    time: u32,
    seed: Seed,
    value: &[u8],
    binary: &mut Vec<u8>,
) -> Result<(), SealError> {
    let pair = key.pair().ok_or(SealError::NoKey)?;
    binary.clear();
    binary.reserve(PUBLIC_PREAMBLE + value.len() + TAG);
    binary.push(Suite::Public as u8);
    binary.extend_from_slice(&key.kid().to_be_bytes());
    binary.extend_from_slice(&time.to_be_bytes());
    let enc_at = binary.len();
    binary.resize(PUBLIC_PREAMBLE, 0);
    binary.extend_from_slice(value);
    match pair.seal(seed, (&public_info(app), header.as_bytes()), &mut binary[PUBLIC_PREAMBLE..]) {
        Ok((enc, tag)) => {
            binary[enc_at..PUBLIC_PREAMBLE].copy_from_slice(&enc);
            binary.extend_from_slice(&tag);
            Ok(())
        }
        Err(_) => {
            zeroize::Zeroize::zeroize(binary);
            Err(SealError::Cipher)
        }
    }
}
