//! Why a document, a binding or a set of PCRs is refused: one cause each, with what was expected and found where that is public, in one line that says
//! what to do.

use std::fmt;

use crate::{MAX_DOCUMENT, MAX_FUTURE_SKEW, MAX_MAX_AGE, Pcr, Purpose};

/// Which check of SPEC.md, "Attestation documents", failed. Nothing in it is secret: documents are public.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AttestError {
    /// More than [`MAX_DOCUMENT`] bytes, or none.
    #[error(
        "the attestation document has {found} bytes, not 1 to {MAX_DOCUMENT}: check that the peer is an E3 enclave"
    )]
    Size {
        /// Its length in bytes.
        found: usize,
    },
    /// Not the CBOR that a Nitro Secure Module writes.
    #[error("the attestation document is malformed at byte {at}, {fault}: it was damaged, or is none")]
    Malformed {
        /// Byte at which reading stopped; inside the payload, counted from the payload's start.
        at: usize,
        /// What stands there.
        fault: CborFault,
    },
    /// Not an untagged array of four: protected header, unprotected header, payload, signature (RFC 9052 section 4.2).
    #[error("the attestation document is no untagged COSE_Sign1: it was wrapped or damaged, or is none")]
    NotSign1,
    /// The protected header is not exactly `{1: -35}`.
    #[error("the attestation document is not signed with ES384: an emulated machine that signs nothing, or a forgery")]
    Algorithm,
    /// The unprotected header is not empty.
    #[error("the attestation document has an unprotected header: Nitro documents have none, so it was altered")]
    UnprotectedHeader,
    /// A signature that has not 96 bytes.
    #[error("the attestation document's signature has {found} bytes, not 96: it was damaged or altered")]
    SignatureLength {
        /// Its length in bytes.
        found: usize,
    },
    /// A key stands twice in the payload, or an index twice among the PCRs.
    #[error("the attestation document states {0} twice: it was not made by a Nitro Secure Module")]
    Duplicate(Field),
    /// A key that documents do not have.
    #[error("the attestation document has an unknown key: update this program, or ask who made the document")]
    UnknownKey,
    /// A key is absent that every document has.
    #[error("the attestation document lacks {0}: it was not made by a Nitro Secure Module")]
    Missing(Field),
    /// A value has another type than its key demands, or a content that it cannot have.
    #[error("the attestation document's {0} is not of its type: it was not made by a Nitro Secure Module")]
    FieldType(Field),
    /// A value is longer or shorter than its key allows.
    #[error(
        "the attestation document's {field} has a length of {found}, not {least} to {most}: it was damaged or altered"
    )]
    FieldLength {
        /// Whose value.
        field: Field,
        /// Its length, in bytes or entries.
        found: usize,
        /// Least length.
        least: usize,
        /// Most length.
        most: usize,
    },
    /// A PCR index above 31.
    #[error("the attestation document has PCR{found}, but the last is PCR31: it was damaged or altered")]
    PcrIndex {
        /// The index.
        found: u64,
    },
    /// The first certificate of the bundle is not the trusted root.
    #[error(
        "the attestation document leads to another root than the trusted one: it comes from no AWS Nitro machine, or from a test"
    )]
    Root,
    /// A certificate breaks a rule of the chain.
    #[error("the attestation document's {position} {fault}")]
    Certificate {
        /// Which certificate.
        position: Position,
        /// What it breaks.
        fault: CertificateFault,
    },
    /// The certificates do not sign one another, root to leaf.
    #[error("the attestation document's certificates do not sign one another: it was altered or forged")]
    Chain,
    /// The leaf's key did not sign the document.
    #[error("the attestation document's signature does not verify: it was altered or forged")]
    Signature,
    /// Made too long ago.
    #[error(
        "the attestation document is {age_s} s old, over {max_age_s} s: have the peer make a new one, and check both clocks"
    )]
    Stale {
        /// Its age in seconds.
        age_s: u64,
        /// Most seconds allowed.
        max_age_s: u64,
    },
    /// Made later than now.
    #[error(
        "the attestation document was made {ahead_s} s from now, over the {skew_s} s that clocks may differ: check both clocks"
    )]
    Future {
        /// How many seconds ahead, at least.
        ahead_s: u64,
        /// Most seconds allowed.
        skew_s: u64,
    },
    /// A nonce was demanded and the document has none.
    #[error("the attestation document has no nonce, but one was demanded: ask the peer to answer the nonce")]
    NonceMissing,
    /// No nonce was demanded and the document has one.
    #[error("the attestation document has a nonce, but none was demanded: it was made for another exchange")]
    NonceUnexpected,
    /// Another nonce than the one that was demanded.
    #[error("the attestation document answers another nonce: it is a replay, or two exchanges were mixed up")]
    NonceDiffers,
    /// PCR0, PCR1 or PCR2 is all zero: the enclave runs in debug mode, and its host reads its console.
    #[error("PCR{index} is all zero: the enclave runs in debug mode; start it without --debug-mode")]
    DebugMode {
        /// 0, 1 or 2.
        index: u8,
    },
    /// No accepted set of PCRs matches; this is the first difference from the closest one.
    #[error(
        "PCR{index} is {}, but {expected} is expected{}: another image runs there, or the expected PCRs are out of date",
        Found(found), Sets(*sets)
    )]
    PcrDiffers {
        /// Index of the PCR.
        index: u8,
        /// What the closest set says.
        expected: Pcr,
        /// What the document says, if it has that PCR.
        found: Option<Pcr>,
        /// How many sets were tried.
        sets: usize,
    },
    /// The document carries no `user_data`, so it is bound to nothing.
    #[error("the attestation document is bound to nothing: it was not made by E3")]
    Unbound,
    /// The `user_data` is no binding of SPEC.md.
    #[error("the attestation document's binding {0}")]
    Binding(#[from] BindingFault),
    /// Made for another purpose.
    #[error("the attestation document was made for {found}, not for {expected}: it was replayed from another exchange")]
    PurposeDiffers {
        /// What this exchange needs.
        expected: Purpose,
        /// What the document says.
        found: Purpose,
    },
    /// Bound to another key or session.
    #[error(
        "the attestation document is bound to another {}: it was replayed from another peer or session",
        match purpose { Purpose::Caller => "session", Purpose::Link | Purpose::Kms => "key" }
    )]
    SubjectDiffers {
        /// The purpose, which both sides agree on.
        purpose: Purpose,
    },
    /// A document for KMS whose `public_key` is not the key that it is bound to.
    #[error("the attestation document's public key is not the one that it is bound to: it was put together wrongly")]
    PublicKeyDiffers,
    /// A request outside the limits of the Nitro Secure Module.
    #[error("the {field} for an attestation document has {found} bytes, not 1 to {most}: shorten it or leave it out")]
    RequestLength {
        /// Which part of the request.
        field: Field,
        /// Its length in bytes.
        found: usize,
        /// Most bytes.
        most: usize,
    },
    /// Freshness limits that would protect from nothing.
    #[error(
        "the age limit or clock skew is out of range: at most {} s and {} s",
        MAX_MAX_AGE.as_secs(), MAX_FUTURE_SKEW.as_secs()
    )]
    Freshness,
    /// A root of trust that cannot be read.
    #[error("the root certificate is not a P-384 certificate that may sign certificates: give its DER form")]
    BadRoot,
    /// An expected set of PCRs that cannot be read or says nothing.
    #[error("{0}")]
    Pcrs(#[from] PcrFault),
    /// Keys or certificates of a test authority could not be made or read.
    #[cfg(feature = "make")]
    #[error("the test authority cannot be made or read")]
    Authority,
}

/// What is wrong with CBOR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CborFault {
    /// It ends too early.
    #[error("it ends too early")]
    Truncated,
    /// Bytes follow its end.
    #[error("bytes follow its end")]
    Trailing,
    /// A length or number that is not in its shortest form, or of indefinite length.
    #[error("a length is not in its one form")]
    NotCanonical,
    /// Another type than belongs there.
    #[error("a value of another type stands there")]
    Type,
    /// Text that is not UTF-8.
    #[error("text is not UTF-8")]
    Text,
}

/// A part of the document's payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Field {
    /// `module_id`: which module made it.
    ModuleId,
    /// `digest`: always `SHA384`.
    Digest,
    /// `timestamp`: milliseconds since the Unix epoch.
    Timestamp,
    /// `pcrs`: what was measured.
    Pcrs,
    /// `certificate`: the leaf.
    Certificate,
    /// `cabundle`: root first.
    CaBundle,
    /// `public_key`: what answers are sealed to.
    PublicKey,
    /// `user_data`: the binding.
    UserData,
    /// `nonce`.
    Nonce,
}

impl Field {
    /// Every field, in the order of SPEC.md.
    pub const ALL: [Self; 9] = [
        Self::ModuleId,
        Self::Digest,
        Self::Timestamp,
        Self::Pcrs,
        Self::Certificate,
        Self::CaBundle,
        Self::PublicKey,
        Self::UserData,
        Self::Nonce,
    ];

    /// Its key in the payload.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::ModuleId => "module_id",
            Self::Digest => "digest",
            Self::Timestamp => "timestamp",
            Self::Pcrs => "pcrs",
            Self::Certificate => "certificate",
            Self::CaBundle => "cabundle",
            Self::PublicKey => "public_key",
            Self::UserData => "user_data",
            Self::Nonce => "nonce",
        }
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.key())
    }
}

/// Where a certificate stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    /// `cabundle[n]`; 0 is the root.
    CaBundle(usize),
    /// `certificate`.
    Leaf,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CaBundle(0) => f.write_str("root certificate"),
            Self::CaBundle(index) => write!(f, "intermediate certificate {index}"),
            Self::Leaf => f.write_str("leaf certificate"),
        }
    }
}

/// What a certificate of the chain breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateFault {
    /// Not the DER of an X.509 version 3 certificate.
    #[error("cannot be read: it was damaged or altered")]
    Malformed,
    /// Signed with something else than ECDSA with SHA-384.
    #[error("is not signed with ECDSA and SHA-384: it comes from no AWS Nitro machine")]
    Algorithm,
    /// A key that is not an uncompressed point of P-384.
    #[error("has no P-384 key: it comes from no AWS Nitro machine")]
    Key,
    /// `now` is before its validity.
    #[error("is not valid before {not_before} (Unix seconds), and it is {now}: check this machine's clock")]
    NotYetValid {
        /// First second of its validity.
        not_before: u64,
        /// The time it was checked at.
        now: u64,
    },
    /// `now` is after its validity.
    #[error(
        "expired at {not_after} (Unix seconds), and it is {now}: have the peer make a new document, and check this machine's clock"
    )]
    Expired {
        /// Last second of its validity.
        not_after: u64,
        /// The time it was checked at.
        now: u64,
    },
    /// An authority without basicConstraints that say so, marked critical.
    #[error("is no certificate authority, but signs certificates: the chain was forged")]
    NotAuthority,
    /// A leaf that is an authority, or does not say that it is none.
    #[error("is a certificate authority, or does not say that it is none: the chain was forged")]
    LeafIsAuthority,
    /// keyUsage is absent or lacks what the certificate is used for.
    #[error("has no key usage for what it signs: the chain was forged")]
    KeyUsage,
    /// More authorities follow than its path length allows.
    #[error("is followed by more authorities than it allows: the chain was forged")]
    PathLength,
    /// Not issued by the certificate before it.
    #[error("was not issued by the certificate before it: the chain is out of order or forged")]
    Issuer,
    /// An extended key usage, which Nitro certificates do not have.
    #[error("was issued for another use: it comes from no AWS Nitro machine")]
    ExtendedKeyUsage,
}

/// What is wrong with `user_data` as a binding.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BindingFault {
    /// Not the length of its version.
    #[error("has {found} bytes, not {expected}: it was not made by E3")]
    Length {
        /// Its length.
        found: usize,
        /// The length of a binding.
        expected: usize,
    },
    /// It does not start with the magic.
    #[error("does not start as one: it was not made by E3")]
    Magic,
    /// A version that this program does not know.
    #[error("has version {0}, which this program does not know: update it")]
    Version(u8),
    /// A purpose that SPEC.md does not define.
    #[error("has purpose {0}, which SPEC.md does not define: update this program, or ask who made the document")]
    Purpose(u8),
    /// The subject is all zero.
    #[error("names no key or session: it was not made by E3")]
    NoSubject,
    /// A policy version without a hash, or a hash without a version.
    #[error("has half a policy: version and hash stand together or not at all")]
    HalfPolicy,
    /// A keyring epoch without an id, or an id without an epoch.
    #[error("has half a keyring: id and epoch stand together or not at all")]
    HalfKeyring,
}

/// What is wrong with an expected set of PCRs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PcrFault {
    /// A name that is not `pcr0` to `pcr31`.
    #[error("a PCR's name is pcr0 to pcr31")]
    Name,
    /// Hexadecimal of another length than 96 digits.
    #[error("a PCR has 96 hexadecimal digits (SHA-384), not {found}")]
    Digits {
        /// How many characters there are.
        found: usize,
    },
    /// A character that is no hexadecimal digit.
    #[error("a PCR is written in hexadecimal digits; character {at} is none")]
    Digit {
        /// Which character, from 1.
        at: usize,
    },
    /// One PCR is given twice.
    #[error("pcr{0} is given twice")]
    Twice(u8),
    /// All zero where only debug mode or an unsigned image has that.
    #[error(
        "pcr{0} is all zero, which is debug mode (pcr0 to pcr2) or an unsigned image (pcr8): give the measured value"
    )]
    Zero(u8),
    /// A set that says neither which image (`pcr0`) nor whose image (`pcr8`).
    #[error("a set of PCRs names the image (pcr0) or its signer (pcr8), else any image would pass")]
    NoIdentity,
    /// No set at all.
    #[error("at least one set of PCRs is needed, else any image would pass")]
    NoSet,
}

/// Display of a PCR that may be absent.
struct Found<'a>(&'a Option<Pcr>);

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(pcr) => pcr.fmt(f),
            None => f.write_str("absent"),
        }
    }
}

/// Display of how many sets were tried, where there was a choice.
struct Sets(usize);

impl fmt::Display for Sets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 | 1 => Ok(()),
            sets => write!(f, " by the closest of {sets} accepted sets"),
        }
    }
}
