//! What is derived from the root key and from app keys, all by HKDF-SHA256 (RFC 5869; SPEC.md, "Keyring file").

use super::{RootKey, SecretKey};
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
