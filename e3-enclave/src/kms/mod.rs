//! The root key, from AWS KMS against the enclave's attestation document (SPEC.md, "Root key from KMS").
//!
//! [`target`] is which key, where: measured into the image. [`client`] asks for a new root or an old one; [`connector`] carries its HTTP over
//! bytes that the host forwards, and ends TLS here; [`credentials`] come from the host and need not be trusted; [`recipient`] opens the answer,
//! which KMS encrypted to a key that only this enclave has; [`ber`] reads its encoding.
//!
//! What the host can do is to refuse service. A key, an endpoint or credentials of its own get it nothing: the key's ARN is sent with each
//! request and compared with the answer's, the endpoint's name is verified by TLS under compiled-in roots, and the answer must be for the
//! recipient key in the document.

pub mod ber;
pub mod client;
pub mod connector;
pub mod credentials;
pub mod recipient;
pub mod target;

pub use client::{Kms, KmsError, RootContext};
pub use credentials::HostCredentials;
pub use recipient::RecipientKey;
pub use target::{KeyArn, KmsTarget};
