//! What is asked of the Nitro Secure Module: the caller-chosen parts of a document, within the module's limits. The asking is the caller's.

use crate::binding::Binding;
use crate::error::{AttestError, Field};

/// Most bytes of `user_data`.
pub const MAX_USER_DATA: usize = 512;

/// Most bytes of `nonce`.
pub const MAX_NONCE: usize = 512;

/// Most bytes of `public_key`.
pub const MAX_PUBLIC_KEY: usize = 1024;

/// The parts of a document that its maker chooses, each within the module's limits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Request {
    user_data: Option<Vec<u8>>,
    nonce: Option<Vec<u8>>,
    public_key: Option<Vec<u8>>,
}

impl Request {
    /// A document with this binding as its `user_data`.
    #[must_use]
    pub fn bound(binding: &Binding) -> Self {
        Self { user_data: Some(binding.encode().to_vec()), ..Self::default() }
    }

    /// A document with `user_data` of another form, 1 to 512 bytes. E3 itself asks with [`Request::bound`].
    ///
    /// # Errors
    /// [`AttestError::RequestLength`]: empty or over the limit.
    pub fn raw(user_data: Vec<u8>) -> Result<Self, AttestError> {
        Ok(Self { user_data: within(Field::UserData, user_data, MAX_USER_DATA)?, ..Self::default() })
    }

    /// The same with a nonce of 1 to 512 bytes.
    ///
    /// # Errors
    /// [`AttestError::RequestLength`]: empty or over the limit.
    pub fn with_nonce(self, nonce: Vec<u8>) -> Result<Self, AttestError> {
        Ok(Self { nonce: within(Field::Nonce, nonce, MAX_NONCE)?, ..self })
    }

    /// The same with a public key of 1 to 1024 bytes: DER of a SubjectPublicKeyInfo, which KMS seals its answer to.
    ///
    /// # Errors
    /// [`AttestError::RequestLength`]: empty or over the limit.
    pub fn with_public_key(self, spki: Vec<u8>) -> Result<Self, AttestError> {
        Ok(Self { public_key: within(Field::PublicKey, spki, MAX_PUBLIC_KEY)?, ..self })
    }

    /// 1 to 512 bytes.
    #[must_use]
    pub fn user_data(&self) -> Option<&[u8]> {
        self.user_data.as_deref()
    }

    /// 1 to 512 bytes.
    #[must_use]
    pub fn nonce(&self) -> Option<&[u8]> {
        self.nonce.as_deref()
    }

    /// 1 to 1024 bytes.
    #[must_use]
    pub fn public_key(&self) -> Option<&[u8]> {
        self.public_key.as_deref()
    }
}

/// An absent part is left out, so an empty one is a mistake.
fn within(field: Field, value: Vec<u8>, most: usize) -> Result<Option<Vec<u8>>, AttestError> {
    match value.len() {
        found if found == 0 || found > most => Err(AttestError::RequestLength { field, found, most }),
        _ => Ok(Some(value)),
    }
}
