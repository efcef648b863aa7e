//! What a document is bound to: the content of `user_data` (SPEC.md, "Attestation documents", "Binding").
//!
//! ```text
//! binding = "e3at" ‖ version u8 = 1 ‖ purpose u8 ‖ subject 32 ‖ policy version u64 ‖ policy hash 32 ‖ keyring epoch u64 ‖ keyring id 16 ‖ audit key 32
//! offset    0        4                5            6            38                   46               78                  86               102
//! ```
//!
//! 134 bytes, integers big-endian. Purpose and subject stand together in a [`Subject`], so that a document made for one purpose is never checked as
//! another's.

use std::fmt;

use crate::error::BindingFault;

/// Bytes of a binding.
pub const BINDING_LENGTH: usize = 134;

/// Label of the TLS exporter (RFC 8446 section 7.5) that a caller's document is bound to: `tls-exporter` of RFC 9266, with an empty context.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-Channel-Binding";

/// Bytes that the exporter gives.
pub const EXPORTER_LENGTH: usize = 32;

const MAGIC: [u8; 4] = *b"e3at";
const VERSION: u8 = 1;

/// What a document is for. Purposes never cross.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// 1: an engine's certificate on the engine link.
    Link,
    /// 2: a caller of the engine that is an enclave, in one TLS session.
    Caller,
    /// 3: a request to KMS.
    Kms,
}

impl Purpose {
    const fn tag(self) -> u8 {
        match self {
            Self::Link => 1,
            Self::Caller => 2,
            Self::Kms => 3,
        }
    }

    const fn of_tag(tag: u8) -> Result<Self, BindingFault> {
        match tag {
            1 => Ok(Self::Link),
            2 => Ok(Self::Caller),
            3 => Ok(Self::Kms),
            _ => Err(BindingFault::Purpose(tag)),
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Link => "the engine link",
            Self::Caller => "a caller's session",
            Self::Kms => "KMS",
        })
    }
}

/// What proves that the document belongs to this exchange, by purpose.
#[derive(Debug, Clone, Copy)]
pub enum Subject<'a> {
    /// The engine's TLS key.
    Link {
        /// DER of its SubjectPublicKeyInfo.
        spki: &'a [u8],
    },
    /// The TLS session that the caller is in.
    Caller {
        /// The exporter of the session: [`EXPORTER_LABEL`], no context.
        exporter: &'a [u8; EXPORTER_LENGTH],
    },
    /// The key that KMS seals its answer to; the document's `public_key`.
    Kms {
        /// DER of its SubjectPublicKeyInfo.
        spki: &'a [u8],
    },
}

impl Subject<'_> {
    /// What the document is for.
    #[must_use]
    pub const fn purpose(&self) -> Purpose {
        match self {
            Self::Link { .. } => Purpose::Link,
            Self::Caller { .. } => Purpose::Caller,
            Self::Kms { .. } => Purpose::Kms,
        }
    }

    /// The 32 bytes of the binding: SHA-256 of a key, or the exporter itself.
    pub(crate) fn digest(&self) -> [u8; 32] {
        match self {
            Self::Link { spki } | Self::Kms { spki } => sha256(spki),
            Self::Caller { exporter } => **exporter,
        }
    }
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut hash = [0; 32];
    hash.copy_from_slice(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, bytes).as_ref());
    hash
}

/// The policy in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolicyState {
    /// Its version, 1 or more; grows with every policy.
    pub version: u64,
    /// Its SHA-256, not all zero.
    pub hash: [u8; 32],
}

/// The keyring in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyringState {
    /// Its epoch, 1 or more; grows with every change.
    pub epoch: u64,
    /// Its public id, not all zero.
    pub id: [u8; 16],
}

/// What the enclave states about itself, beside the purpose. Callers that are no engine have none of it; an engine that has not yet unlocked its
/// keyring has a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct State {
    /// The policy, if one is loaded.
    pub policy: Option<PolicyState>,
    /// The keyring, if one is unlocked.
    pub keyring: Option<KeyringState>,
    /// The Ed25519 key (RFC 8032) that signs audit records; absent is written as zeros.
    pub audit_key: Option<[u8; 32]>,
}

/// The content of a document's `user_data`: purpose, subject and what the enclave states about itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Binding {
    purpose: Purpose,
    subject: [u8; 32],
    state: State,
}

impl Binding {
    /// Binds a document to its subject.
    ///
    /// # Errors
    /// [`BindingFault`]: a version, epoch, hash or id of zero, which is how their absence is written; a subject of zeros.
    pub fn new(subject: &Subject<'_>, state: State) -> Result<Self, BindingFault> {
        let binding = Self { purpose: subject.purpose(), subject: subject.digest(), state };
        // What cannot be read back must not be written.
        let again = Self::decode(&binding.encode())?;
        if again.state.policy.is_some() != state.policy.is_some() {
            return Err(BindingFault::HalfPolicy);
        }
        if again.state.keyring.is_some() != state.keyring.is_some() {
            return Err(BindingFault::HalfKeyring);
        }
        Ok(again)
    }

    /// What the document is for.
    #[must_use]
    pub const fn purpose(&self) -> Purpose {
        self.purpose
    }

    /// SHA-256 of the key, or the exporter.
    #[must_use]
    pub const fn subject(&self) -> &[u8; 32] {
        &self.subject
    }

    /// What the enclave states about itself.
    #[must_use]
    pub const fn state(&self) -> &State {
        &self.state
    }

    /// The 134 bytes for `user_data`.
    #[must_use]
    pub fn encode(&self) -> [u8; BINDING_LENGTH] {
        let policy = self.state.policy.unwrap_or(PolicyState { version: 0, hash: [0; 32] });
        let keyring = self.state.keyring.unwrap_or(KeyringState { epoch: 0, id: [0; 16] });
        let mut out = [0; BINDING_LENGTH];
        let mut rest = &mut out[..];
        for part in [
            &MAGIC[..],
            &[VERSION, self.purpose.tag()],
            &self.subject,
            &policy.version.to_be_bytes(),
            &policy.hash,
            &keyring.epoch.to_be_bytes(),
            &keyring.id,
            &self.state.audit_key.unwrap_or_default(),
        ] {
            let (place, after) = rest.split_at_mut(part.len());
            place.copy_from_slice(part);
            rest = after;
        }
        out
    }

    /// Reads a binding.
    ///
    /// # Errors
    /// [`BindingFault`]: it breaks a rule of SPEC.md.
    pub fn decode(bytes: &[u8]) -> Result<Self, BindingFault> {
        if !bytes.starts_with(&MAGIC) {
            return Err(BindingFault::Magic);
        }
        // Before the length, which another version may change.
        if let Some(version) = bytes.get(4).filter(|version| **version != VERSION) {
            return Err(BindingFault::Version(*version));
        }
        let bytes: &[u8; BINDING_LENGTH] =
            bytes.try_into().map_err(|_| BindingFault::Length { found: bytes.len(), expected: BINDING_LENGTH })?;
        let purpose = Purpose::of_tag(bytes[5])?;
        let subject = part(bytes, 6);
        if subject == [0; 32] {
            return Err(BindingFault::NoSubject);
        }
        let version = u64::from_be_bytes(part(bytes, 38));
        let hash = part(bytes, 46);
        let policy = match (version == 0, hash == [0; 32]) {
            (true, true) => None,
            (false, false) => Some(PolicyState { version, hash }),
            _ => return Err(BindingFault::HalfPolicy),
        };
        let epoch = u64::from_be_bytes(part(bytes, 78));
        let id = part(bytes, 86);
        let keyring = match (epoch == 0, id == [0; 16]) {
            (true, true) => None,
            (false, false) => Some(KeyringState { epoch, id }),
            _ => return Err(BindingFault::HalfKeyring),
        };
        let audit_key = Some(part(bytes, 102)).filter(|key| *key != [0; 32]);
        Ok(Self { purpose, subject, state: State { policy, keyring, audit_key } })
    }
}

/// The field of `N` bytes at an offset of the layout.
fn part<const N: usize>(bytes: &[u8; BINDING_LENGTH], offset: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[offset..offset + N]);
    field
}
