//! The header, the sealed binary and the message key (SPEC.md, "Sealed binary", "Message key").

use crate::keyring::pair::ENCAPSULATED;
use crate::keyring::{Lineage, SecretKey};
use aes_gcm::{Aes256Gcm, KeyInit};
use e3_wire::token::BINARY_OVERHEAD;
use e3_wire::{App, Role, ValueType};
use hkdf::Hkdf;
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

pub(crate) const SALT: usize = 24;
pub(crate) const COMMIT: usize = 32;
pub(crate) const TAG: usize = 16;
const NONCE: usize = 12;
const KEY: usize = 32;

/// Bytes of a sealed binary before its ciphertext: suite, kid, time, salt, commitment.
pub(crate) const PREAMBLE: usize = 1 + 4 + 4 + SALT + COMMIT;
const _: () = assert!(PREAMBLE + TAG == BINARY_OVERHEAD);

/// The same of suite 2: suite, kid, time, encapsulated key.
pub(crate) const PUBLIC_PREAMBLE: usize = 1 + 4 + 4 + ENCAPSULATED;
const _: () = assert!(PUBLIC_PREAMBLE < PREAMBLE, "so that the limits of a token's text hold for it too");

const MAGIC: &[u8; 4] = b"e3v1";
const MESSAGE_INFO: &[u8] = b"e3v1/message";
const PUBLIC_INFO: &[u8] = b"e3v1/public";
const MAX_HEADER: usize = 4 + 2 + 20 + 1 + 1 + 4 + 4;

/// How a token is sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Suite {
    /// A random salt: equal values give unlike tokens.
    Random = 1,
    /// To a public key of the app, by anyone who has it: HPKE. Its time is the sealer's claim.
    Public = 2,
    /// The salt is a MAC of the value: equal values of an app and role give equal tokens. Carries no time.
    Deterministic = 3,
}

impl Suite {
    /// Whose keys it uses.
    pub(crate) fn lineage(self) -> Lineage {
        match self {
            Self::Random => Lineage::Random,
            Self::Public => Lineage::Public,
            Self::Deterministic => Lineage::Deterministic,
        }
    }

    pub(crate) fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Random),
            2 => Some(Self::Public),
            3 => Some(Self::Deterministic),
            _ => None,
        }
    }
}

/// What a token says of itself and its tag vouches for: the associated data of the cipher.
pub(crate) struct Header {
    bytes: [u8; MAX_HEADER],
    len: usize,
}

impl Header {
    pub(crate) fn new(role: Role, value_type: ValueType, suite: Suite, kid: u32, time: u32) -> Self {
        let mut header = Self { bytes: [0; MAX_HEADER], len: 0 };
        header.put(MAGIC);
        // A role has at most 20 bytes, so its length fits.
        header.put(&(role.as_bytes().len() as u16).to_be_bytes());
        header.put(role.as_bytes());
        header.put(&[value_type.letter(), suite as u8]);
        header.put(&kid.to_be_bytes());
        header.put(&time.to_be_bytes());
        header
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

/// Key, commitment and nonce of one token.
pub(crate) struct MessageKey(Zeroizing<[u8; KEY + COMMIT + NONCE]>);

impl MessageKey {
    /// `HKDF-SHA256(ikm = app key, salt, info = "e3v1/message" ‖ SHA-256(header ‖ lp(app)), 76 bytes)`
    pub(crate) fn derive(key: &SecretKey, app: App, header: &Header, salt: &[u8; SALT]) -> Self {
        let mut context = Sha256::new();
        context.update(header.as_bytes());
        context.update((app.as_bytes().len() as u16).to_be_bytes());
        context.update(app.as_bytes());
        let mut info = [0; MESSAGE_INFO.len() + 32];
        info[..MESSAGE_INFO.len()].copy_from_slice(MESSAGE_INFO);
        info[MESSAGE_INFO.len()..].copy_from_slice(&context.finalize());
        let mut okm = Zeroizing::new([0; KEY + COMMIT + NONCE]);
        let expanded = Hkdf::<Sha256>::new(Some(salt), key.as_bytes()).expand(&info, okm.as_mut_slice());
        // HKDF refuses only outputs over 255 hashes; this one is under three.
        debug_assert!(expanded.is_ok());
        Self(okm)
    }

    pub(crate) fn cipher(&self) -> Aes256Gcm {
        let mut key = aes_gcm::Key::<Aes256Gcm>::default();
        key.copy_from_slice(&self.0[..KEY]);
        let cipher = Aes256Gcm::new(&key);
        zeroize::Zeroize::zeroize(key.as_mut_slice());
        cipher
    }

    #[cfg(test)]
    pub(super) fn okm(&self) -> &[u8] {
        self.0.as_slice()
    }

    pub(crate) fn commit(&self) -> &[u8] {
        &self.0[KEY..KEY + COMMIT]
    }

    pub(crate) fn nonce(&self) -> aes_gcm::Nonce<aes_gcm::aead::consts::U12> {
        let mut nonce = aes_gcm::Nonce::default();
        nonce.copy_from_slice(&self.0[KEY + COMMIT..]);
        nonce
    }
}

/// The `info` of HPKE: what binds a token of suite 2 to its app.
pub(crate) fn public_info(app: App) -> Vec<u8> {
    let length = (app.as_bytes().len() as u16).to_be_bytes();
    [PUBLIC_INFO, &length[..], app.as_bytes()].concat()
}

/// The parts of a sealed binary, not yet believed.
pub(crate) struct Parts {
    pub(crate) suite: Suite,
    pub(crate) kid: u32,
    pub(crate) time: u32,
    pub(crate) how: How,
}

/// What the message key comes from.
pub(crate) enum How {
    /// The app key and a salt (suites 1 and 3).
    Derived { salt: [u8; SALT], commit: [u8; COMMIT] },
    /// A key pair of the app and an encapsulated key (suite 2).
    Encapsulated { enc: [u8; ENCAPSULATED] },
}

impl Parts {
    /// Reads the fixed start of a sealed binary; the rest is ciphertext and tag.
    pub(crate) fn read(binary: &[u8]) -> Option<Self> {
        let (suite, rest) = binary.split_first()?;
        let suite = Suite::from_number(*suite)?;
        let (kid, rest) = rest.split_first_chunk()?;
        let (time, rest) = rest.split_first_chunk()?;
        let time = u32::from_be_bytes(*time);
        let (how, preamble) = match suite {
            Suite::Random | Suite::Deterministic => {
                let (salt, rest) = rest.split_first_chunk()?;
                let (commit, _) = rest.split_first_chunk()?;
                (How::Derived { salt: *salt, commit: *commit }, PREAMBLE)
            }
            Suite::Public => (How::Encapsulated { enc: *rest.first_chunk()? }, PUBLIC_PREAMBLE),
        };
        let value = binary.len().checked_sub(preamble + TAG)?;
        if value > e3_wire::MAX_VALUE || (suite == Suite::Deterministic && time != 0) {
            return None;
        }
        Some(Self { suite, kid: u32::from_be_bytes(*kid), time, how })
    }

    /// Bytes before the ciphertext.
    pub(crate) fn preamble(&self) -> usize {
        match self.how {
            How::Derived { .. } => PREAMBLE,
            How::Encapsulated { .. } => PUBLIC_PREAMBLE,
        }
    }
}
