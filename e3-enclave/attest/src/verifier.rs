//! Whether a document is believed: every check of SPEC.md, "Attestation documents", in its order, and what is known after each.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};

use crate::binding::{Binding, EXPORTER_LENGTH, Purpose, Subject};
use crate::chain::Root;
use crate::document::{Payload, Sign1};
use crate::error::AttestError;
use crate::pcr::{DEBUG_PCRS, Pcr, PcrSets};
use crate::{FUTURE_SKEW, MAX_AGE, MAX_FUTURE_SKEW, MAX_MAX_AGE};

/// The nonce that a document must carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExpectedNonce<'a> {
    /// None: the document may be used again until it is too old, as an engine's certificate is.
    Absent,
    /// This one, fresh and not guessable, of 1 to 512 bytes; E3 uses 32.
    Is(&'a [u8]),
}

/// Believes documents that lead to one root and are fresh. Make one and keep it.
#[derive(Debug, Clone)]
pub struct Verifier {
    root: Root,
    max_age: Duration,
    skew: Duration,
}

impl Verifier {
    /// Trusts the root of AWS Nitro enclaves alone. Documents are at most [`MAX_AGE`] old and at most [`FUTURE_SKEW`] ahead.
    #[must_use]
    pub const fn aws() -> Self {
        Self { root: Root::aws(), max_age: MAX_AGE, skew: FUTURE_SKEW }
    }

    /// Trusts another root alone, given as DER. Only in builds for tests.
    ///
    /// # Errors
    /// [`AttestError::BadRoot`]: not a P-384 certificate that may sign certificates.
    #[cfg(feature = "test-root")]
    pub fn with_test_root(der: impl Into<Vec<u8>>) -> Result<Self, AttestError> {
        Ok(Self { root: Root::other(der.into())?, ..Self::aws() })
    }

    /// The same with other limits of age and clock skew.
    ///
    /// # Errors
    /// [`AttestError::Freshness`]: over [`MAX_MAX_AGE`] or [`MAX_FUTURE_SKEW`].
    pub fn with_freshness(self, max_age: Duration, skew: Duration) -> Result<Self, AttestError> {
        if max_age > MAX_MAX_AGE || skew > MAX_FUTURE_SKEW {
            return Err(AttestError::Freshness);
        }
        Ok(Self { max_age, skew, ..self })
    }

    /// Whether a Nitro machine made this document, at `now`, for this nonce, for an enclave that is not in debug mode. Says nothing yet about which image runs
    /// there: [`Authentic::accept`] does.
    ///
    /// # Errors
    /// The first check that failed, in the order of SPEC.md.
    pub fn authenticate(
        &self,
        document: &[u8],
        nonce: ExpectedNonce<'_>,
        now: SystemTime,
    ) -> Result<Authentic, AttestError> {
        // A clock before 1970 makes everything too new.
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let sign1 = Sign1::read_signed(document)?;
        let payload = Payload::read(sign1.payload())?;
        let leaf = self.root.leaf(&payload.cabundle, payload.certificate, now.as_secs())?;
        UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, leaf.point)
            .verify(&sign1.signed_bytes(), sign1.signature)
            .map_err(|_| AttestError::Signature)?;
        self.fresh(payload.timestamp_ms, now)?;
        answers(payload.nonce, nonce)?;
        not_debug(&payload.pcrs)?;
        Ok(Authentic(Claims {
            module_id: payload.module_id.to_owned(),
            timestamp_ms: payload.timestamp_ms,
            pcrs: payload.pcrs,
            user_data: payload.user_data.map(<[u8]>::to_vec),
            nonce: payload.nonce.map(<[u8]>::to_vec),
            public_key: payload.public_key.map(<[u8]>::to_vec),
            leaf: leaf.validity,
        }))
    }

    fn fresh(&self, timestamp_ms: u64, now: Duration) -> Result<(), AttestError> {
        let made = Duration::from_millis(timestamp_ms);
        let ahead = made.saturating_sub(now);
        if ahead > self.skew {
            return Err(AttestError::Future { ahead_s: ahead.as_secs(), skew_s: self.skew.as_secs() });
        }
        let age = now.saturating_sub(made);
        if age > self.max_age {
            return Err(AttestError::Stale { age_s: age.as_secs(), max_age_s: self.max_age.as_secs() });
        }
        Ok(())
    }
}

fn answers(found: Option<&[u8]>, expected: ExpectedNonce<'_>) -> Result<(), AttestError> {
    match (expected, found) {
        (ExpectedNonce::Absent, None) => Ok(()),
        (ExpectedNonce::Absent, Some(_)) => Err(AttestError::NonceUnexpected),
        (ExpectedNonce::Is(_), None | Some([])) => Err(AttestError::NonceMissing),
        (ExpectedNonce::Is(expected), Some(found)) if expected == found => Ok(()),
        (ExpectedNonce::Is(_), Some(_)) => Err(AttestError::NonceDiffers),
    }
}

fn not_debug(pcrs: &BTreeMap<u8, Pcr>) -> Result<(), AttestError> {
    match DEBUG_PCRS.into_iter().find(|index| pcrs.get(index).is_none_or(Pcr::is_zero)) {
        None => Ok(()),
        Some(index) => Err(AttestError::DebugMode { index }),
    }
}

/// First and last second in which a certificate is valid, in Unix seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Validity {
    /// First second.
    pub not_before: u64,
    /// Last second.
    pub not_after: u64,
}

/// What an authentic document says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claims {
    module_id: String,
    timestamp_ms: u64,
    pcrs: BTreeMap<u8, Pcr>,
    user_data: Option<Vec<u8>>,
    nonce: Option<Vec<u8>>,
    public_key: Option<Vec<u8>>,
    leaf: Validity,
}

impl Claims {
    /// Which module made it: instance and enclave; 1 to 128 printable ASCII characters.
    #[must_use]
    pub fn module_id(&self) -> &str {
        &self.module_id
    }

    /// When it was made, in milliseconds since the Unix epoch.
    #[must_use]
    pub const fn timestamp_ms(&self) -> u64 {
        self.timestamp_ms
    }

    /// What was measured, by index 0 to 31.
    #[must_use]
    pub const fn pcrs(&self) -> &BTreeMap<u8, Pcr> {
        &self.pcrs
    }

    /// What the enclave put in, at most 512 bytes.
    #[must_use]
    pub fn user_data(&self) -> Option<&[u8]> {
        self.user_data.as_deref()
    }

    /// The nonce that it answers, at most 512 bytes.
    #[must_use]
    pub fn nonce(&self) -> Option<&[u8]> {
        self.nonce.as_deref()
    }

    /// The key that answers to the enclave are sealed to, at most 1024 bytes.
    #[must_use]
    pub fn public_key(&self) -> Option<&[u8]> {
        self.public_key.as_deref()
    }

    /// When the leaf certificate is valid. A document is refused after its end, even while it is fresh.
    #[must_use]
    pub const fn leaf_validity(&self) -> Validity {
        self.leaf
    }

    /// What the document says it is bound to, for showing. Only [`Verified::bound_to`] checks that it belongs to an exchange.
    ///
    /// # Errors
    /// [`AttestError::Unbound`] or [`AttestError::Binding`]: its `user_data` is no binding of E3.
    pub fn stated_binding(&self) -> Result<Binding, AttestError> {
        Ok(Binding::decode(self.user_data().ok_or(AttestError::Unbound)?)?)
    }

    /// The binding, if it is for this purpose and this key or session.
    fn bound(&self, subject: &Subject<'_>) -> Result<Binding, AttestError> {
        let binding = self.stated_binding()?;
        let purpose = subject.purpose();
        if binding.purpose() != purpose {
            return Err(AttestError::PurposeDiffers { expected: purpose, found: binding.purpose() });
        }
        if *binding.subject() != subject.digest() {
            return Err(AttestError::SubjectDiffers { purpose });
        }
        // The exporter alone would let a document live as long as its session.
        if purpose == Purpose::Caller && self.nonce.is_none() {
            return Err(AttestError::NonceMissing);
        }
        if let Subject::Kms { spki } = subject
            && self.public_key() != Some(*spki)
        {
            return Err(AttestError::PublicKeyDiffers);
        }
        Ok(binding)
    }
}

/// A document that a Nitro machine made, fresh, for the expected nonce, for an enclave that is not in debug mode. Any image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authentic(Claims);

impl Authentic {
    /// What it says.
    #[must_use]
    pub const fn claims(&self) -> &Claims {
        &self.0
    }

    /// Whether the image is one of the accepted ones.
    ///
    /// # Errors
    /// [`AttestError::PcrDiffers`]: it is none.
    pub fn accept(self, accepted: &PcrSets) -> Result<Verified, AttestError> {
        let set = accepted.matching(&self.0.pcrs)?;
        Ok(Verified { claims: self.0, set })
    }

    /// Whether the document was made by a caller for the session with this exporter ([`EXPORTER_LABEL`](crate::EXPORTER_LABEL)). Any image: which of them may do
    /// what is for a policy to say. It must have been authenticated with [`ExpectedNonce::Is`].
    ///
    /// # Errors
    /// [`AttestError::Unbound`], [`AttestError::Binding`], [`AttestError::PurposeDiffers`], [`AttestError::SubjectDiffers`], [`AttestError::NonceMissing`].
    pub fn caller(self, exporter: &[u8; EXPORTER_LENGTH]) -> Result<Caller, AttestError> {
        self.0.bound(&Subject::Caller { exporter })?;
        Ok(Caller(self.0))
    }
}

/// An authentic document of any image, made for this very session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller(Claims);

impl Caller {
    /// What it says.
    #[must_use]
    pub const fn claims(&self) -> &Claims {
        &self.0
    }
}

/// An authentic document of an accepted image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    claims: Claims,
    set: usize,
}

impl Verified {
    /// What it says.
    #[must_use]
    pub const fn claims(&self) -> &Claims {
        &self.claims
    }

    /// Which of the accepted sets matched, from 0.
    #[must_use]
    pub const fn accepted_set(&self) -> usize {
        self.set
    }

    /// Whether the document was made for this purpose and this key or session.
    ///
    /// A caller's document must have been verified with [`ExpectedNonce::Is`]; one for KMS must carry the key as its `public_key`.
    ///
    /// # Errors
    /// [`AttestError::Unbound`], [`AttestError::Binding`], [`AttestError::PurposeDiffers`], [`AttestError::SubjectDiffers`],
    /// [`AttestError::NonceMissing`], [`AttestError::PublicKeyDiffers`].
    pub fn bound_to(self, subject: &Subject<'_>) -> Result<Bound, AttestError> {
        let binding = self.claims.bound(subject)?;
        Ok(Bound { verified: self, binding })
    }
}

/// A verified document that belongs to this exchange.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bound {
    verified: Verified,
    binding: Binding,
}

impl Bound {
    /// What it says.
    #[must_use]
    pub const fn claims(&self) -> &Claims {
        &self.verified.claims
    }

    /// What it is bound to, with policy, keyring and audit key.
    #[must_use]
    pub const fn binding(&self) -> &Binding {
        &self.binding
    }

    /// Which of the accepted sets matched, from 0.
    #[must_use]
    pub const fn accepted_set(&self) -> usize {
        self.verified.set
    }
}
