//! Key pairs of public-key sealing: HPKE, RFC 9180, in base mode (SPEC.md, "Public-key sealing").

use super::SecretKey;
use e3_wire::App;
use hkdf::Hkdf;
use hpke::aead::{AeadTag, AesGcm256};
use hpke::inout::InOutBuf;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::rand_core::{TryCryptoRng, TryRng, utils};
use hpke::{Deserializable, HpkeError, Kem, OpModeR, OpModeS, Serializable};
use sha2::Sha256;
use std::convert::Infallible;
use zeroize::{Zeroize, Zeroizing};

/// Bytes of an encapsulated key, which is an X25519 public key.
pub(crate) const ENCAPSULATED: usize = 32;
const TAG: usize = 16;

/// The key pair that an app key of the *public* lineage stands for. The private half is erased when dropped, and never leaves.
pub struct KeyPair {
    private: <X25519HkdfSha256 as Kem>::PrivateKey,
    public: <X25519HkdfSha256 as Kem>::PublicKey,
}

impl KeyPair {
    /// `DeriveKeyPair(HKDF-SHA256(ikm = app key, no salt, info = "e3v1/public-key" ‖ lp(app), 32 bytes))`
    pub(crate) fn derive(key: &SecretKey, app: App) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        let length = (app.as_bytes().len() as u16).to_be_bytes();
        let info = [b"e3v1/public-key", &length[..], app.as_bytes()];
        let filled = Hkdf::<Sha256>::new(None, key.as_bytes()).expand_multi_info(&info, seed.as_mut_slice());
        // HKDF refuses only outputs over 255 hashes; this is one.
        debug_assert!(filled.is_ok());
        let (private, public) = X25519HkdfSha256::derive_keypair(seed.as_slice());
        Self { private, public }
    }

    /// The public half (RFC 7748).
    #[must_use]
    pub fn public(&self) -> [u8; 32] {
        self.public.to_bytes().into()
    }

    /// Opens in place what was sealed to the public half. `None` for whatever reason; the buffer is of no use then.
    pub(crate) fn open(
        &self,
        enc: &[u8; ENCAPSULATED],
        (info, aad): (&[u8], &[u8]),
        buffer: &mut [u8],
        tag: &[u8; TAG],
    ) -> Option<()> {
        let enc = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(enc).ok()?;
        let tag = AeadTag::<AesGcm256>::from_bytes(tag).ok()?;
        let (mode, buffer) = (OpModeR::Base, InOutBuf::from(buffer));
        hpke::single_shot_open_inout_detached::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
            &mode,
            &self.private,
            &enc,
            info,
            buffer,
            aad,
            &tag,
        )
        .ok()
    }

    /// Seals in place to the public half, as anyone could who has it; answers the encapsulated key and the tag.
    pub(crate) fn seal(
        &self,
        seed: Seed,
        (info, aad): (&[u8], &[u8]),
        buffer: &mut [u8],
    ) -> Result<([u8; ENCAPSULATED], [u8; TAG]), HpkeError> {
        let (mode, buffer, mut seed) = (OpModeS::Base, InOutBuf::from(buffer), seed);
        let (enc, tag) = hpke::single_shot_seal_inout_detached_with_rng::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
            &mode,
            &self.public,
            info,
            buffer,
            aad,
            &mut seed,
        )?;
        Ok((enc.to_bytes().into(), tag.to_bytes().into()))
    }
}

/// What the ephemeral key of one token is derived from, handed out once. Taken from the system beforehand, so that its failure is an error and no panic.
pub(crate) struct Seed {
    bytes: Zeroizing<[u8; 32]>,
    used: usize,
}

impl Seed {
    /// From the system's random numbers; `None` when it has none to give.
    pub(crate) fn random() -> Option<Self> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(bytes.as_mut_slice()).ok()?;
        Some(Self { bytes, used: 0 })
    }

    #[cfg(test)]
    pub(crate) fn known(bytes: [u8; 32]) -> Self {
        Self { bytes: Zeroizing::new(bytes), used: 0 }
    }
}

impl TryRng for Seed {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        utils::next_word_via_fill(self)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        utils::next_word_via_fill(self)
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        for byte in out {
            // An encapsulation draws 32 bytes, once. Should it ever draw more, they are new ones, never the same.
            if self.used == self.bytes.len() {
                self.bytes.zeroize();
                self.used = 0;
                // Zeroes in place of random numbers would be a key that anyone knows: better no process at all.
                if getrandom::fill(self.bytes.as_mut_slice()).is_err() {
                    std::process::abort();
                }
            }
            *byte = self.bytes[self.used];
            self.used += 1;
        }
        Ok(())
    }
}

impl TryCryptoRng for Seed {}
