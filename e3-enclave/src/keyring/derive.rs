//! What is derived from the root key and from app keys, all by HKDF-SHA256 (RFC 5869; SPEC.md, "Keyring file").

use super::{RootKey, SecretKey};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use e3_wire::App;
use hkdf::Hkdf;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

/// The keys that guard one keyring file.
pub(crate) struct FileKeys {
    /// Wraps app keys.
    pub(crate) wrap: SecretKey,
    /// Authenticates the whole file.
    pub(crate) mac: SecretKey,
    /// Tells a wrong root key from an altered file; public.
    pub(crate) check: [u8; 16],
}

impl FileKeys {
    pub(crate) fn derive(root: &RootKey, id: &[u8; 16], root_version: u32) -> Self {
        let hkdf = Hkdf::<Sha256>::new(Some(id), root.secret().as_bytes());
        let version = root_version.to_be_bytes();
        let mut check = [0; 16];
        fill(&hkdf, &[b"e3v1/keyring/check", &version], &mut check);
        Self {
            wrap: secret(&hkdf, &[b"e3v1/keyring/wrap", &version]),
            mac: secret(&hkdf, &[b"e3v1/keyring/mac", &version]),
            check,
        }
    }
}

/// The key that signs audit records (Ed25519, RFC 8032): derived from the root, so that every engine under it has the same. No `Debug`.
pub struct AuditKey {
    pair: Ed25519KeyPair,
    public: [u8; 32],
}

impl AuditKey {
    /// `HKDF-SHA256(ikm = root key, salt = id, info = "e3v1/audit" ‖ root version u32, 32 bytes)` is the seed.
    pub(crate) fn derive(root: &RootKey, id: &[u8; 16], root_version: u32) -> Option<Self> {
        let hkdf = Hkdf::<Sha256>::new(Some(id), root.secret().as_bytes());
        let seed = secret(&hkdf, &[b"e3v1/audit", &root_version.to_be_bytes()]);
        let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_bytes()).ok()?;
        let public = pair.public_key().as_ref().try_into().ok()?;
        Some(Self { pair, public })
    }

    /// The public key, as attestation documents state it.
    #[must_use]
    pub fn public(&self) -> &[u8; 32] {
        &self.public
    }

    /// The signature's 64 bytes.
    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        let mut out = [0; 64];
        let signature = self.pair.sign(message);
        // Ed25519 signatures have one length.
        let bytes = signature.as_ref();
        out[..bytes.len().min(64)].copy_from_slice(&bytes[..bytes.len().min(64)]);
        out
    }
}

/// The key of deterministic salts: derived from an app key of the deterministic lineage, and kept as a keyed MAC state.
pub struct DeterministicKey(Hmac<Sha256>);

impl DeterministicKey {
    /// `HKDF-SHA256(ikm = app key, no salt, info = "e3v1/deterministic" ‖ lp(app), 32 bytes)`
    pub(crate) fn derive(key: &SecretKey, app: App) -> Self {
        let hkdf = Hkdf::<Sha256>::new(None, key.as_bytes());
        let length = (app.as_bytes().len() as u16).to_be_bytes();
        let key = secret(&hkdf, &[b"e3v1/deterministic", &length, app.as_bytes()]);
        Self(keyed(&key))
    }

    /// HMAC-SHA256 of the parts, back to back.
    pub(crate) fn mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = self.0.clone();
        parts.iter().for_each(|p| mac.update(p));
        mac.finalize().into_bytes().into()
    }
}

/// HMAC-SHA256 under a key of 32 bytes.
pub(crate) fn keyed(key: &SecretKey) -> Hmac<Sha256> {
    // A block-sized key is what HMAC pads a shorter one to, so this is the same MAC and cannot fail.
    let mut block = Zeroizing::new([0; 64]);
    block[..32].copy_from_slice(key.as_bytes());
    Hmac::new(&(*block).into())
}

fn secret(hkdf: &Hkdf<Sha256>, info: &[&[u8]]) -> SecretKey {
    let mut out = Zeroizing::new([0; 32]);
    fill(hkdf, info, out.as_mut_slice());
    SecretKey::new(out)
}

fn fill(hkdf: &Hkdf<Sha256>, info: &[&[u8]], out: &mut [u8]) {
    let filled = hkdf.expand_multi_info(info, out);
    // HKDF refuses only outputs over 255 hashes; these are one.
    debug_assert!(filled.is_ok());
}
