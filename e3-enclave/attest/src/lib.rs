//! Attestation documents of AWS Nitro enclaves: what they are bound to, and whether they are believed (SPEC.md, "Attestation documents"). Pure: no I/O, no
//! clock of its own.
//!
//! Journey of a document, in the order of the modules:
//!
//! 1. [`binding`]: what the document is bound to, written into its `user_data`;
//! 2. [`request`]: what is asked of the Nitro Secure Module, within its limits;
//! 3. `document`: the bytes that come back, read strictly, not yet believed;
//! 4. `chain`: its certificates, from the one trusted root to the leaf;
//! 5. [`verifier`]: every check in its order, each result a type of its own: [`Authentic`] (a Nitro machine made it, now, for this nonce, not in debug
//!    mode), [`Verified`] (and the image is an accepted one), [`Bound`] (and it belongs to this exchange); [`Caller`] (a caller's, of whichever image, for this session);
//! 6. [`pcr`]: the accepted images, as the config writes them.
//!
//! ```
//! use e3_attest::{AttestError, Bound, ExpectedNonce, PcrSets, Subject, Verifier};
//! use std::time::SystemTime;
//!
//! /// What a relay asks of an engine's certificate.
//! fn engine(document: &[u8], spki: &[u8], accepted: &PcrSets) -> Result<Bound, AttestError> {
//!     let authentic = Verifier::aws().authenticate(document, ExpectedNonce::Absent, SystemTime::now())?;
//!     authentic.accept(accepted)?.bound_to(&Subject::Link { spki })
//! }
//! ```
//!
//! # Features
//! Neither is a default, and neither belongs in what runs in production.
//! - `test-root`: a verifier may trust another root than AWS's (`Verifier::with_test_root`). There is no flag or setting for that.
//! - `make`: an authority that signs documents, for tests and emulated machines. The production verifier refuses what it makes.

pub mod binding;
mod cbor;
mod certificate;
mod chain;
mod document;
pub mod error;
#[cfg(feature = "make")]
pub mod make;
pub mod pcr;
pub mod request;
pub mod verifier;

use std::time::{Duration, SystemTime};

pub use binding::{Binding, EXPORTER_LABEL, EXPORTER_LENGTH, KeyringState, PolicyState, Purpose, State, Subject};
pub use error::AttestError;
pub use pcr::{Pcr, PcrSet, PcrSets};
pub use request::Request;
pub use verifier::{Authentic, Bound, Caller, Claims, ExpectedNonce, Validity, Verified, Verifier};

/// The time that a document states, unverified: for an enclave that asks its own module for the time.
///
/// # Errors
/// The bytes are no document.
pub fn stated_time(document: &[u8]) -> Result<SystemTime, AttestError> {
    let payload = document::Payload::read(document::Sign1::read(document)?.payload())?;
    Ok(SystemTime::UNIX_EPOCH + Duration::from_millis(payload.timestamp_ms))
}

/// Most bytes of a document. Real ones have 4,400 to 4,800; a module's answer has at most 12,288.
pub const MAX_DOCUMENT: usize = 16 * 1024;

/// How old a document may be unless the verifier is told less or more.
pub const MAX_AGE: Duration = Duration::from_secs(300);

/// How far ahead of this clock a document's may be.
pub const FUTURE_SKEW: Duration = Duration::from_secs(30);

/// Most that [`Verifier::with_freshness`] takes as age: the longest life of a session.
pub const MAX_MAX_AGE: Duration = Duration::from_secs(3600);

/// Most that [`Verifier::with_freshness`] takes as skew.
pub const MAX_FUTURE_SKEW: Duration = Duration::from_secs(300);
