//! The key pair that KMS encrypts its answers to, and the envelope they come in (RFC 5652 EnvelopedData, RFC 8017 RSAES-OAEP).
//!
//! The envelope is not authenticated: CBC without a MAC. So an answer is believed only because it came over TLS that ends in the enclave, and
//! every way to fail is one and the same error, so that a failure tells nothing about the padding.

use aws_lc_rs::cipher::{AES_256, DecryptionContext, PaddedBlockDecryptingKey, UnboundCipherKey};
use aws_lc_rs::encoding::{AsDer, PublicKeyX509Der};
use aws_lc_rs::iv::FixedLength;
use aws_lc_rs::rsa::{KeySize, OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey};
use zeroize::Zeroizing;

use super::ber::{Element, INTEGER, Malformed, NULL, OCTET_STRING, OID, SEQUENCE, SET};

/// Largest envelope that is looked at; KMS encrypts at most 4 KiB.
const MAX: usize = 16 * 1024;

const ENVELOPED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x03];
const DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x01];
const RSAES_OAEP: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x07];
const MGF1: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x08];
const SHA256: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];
const AES256_CBC: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x01, 0x2a];

/// The envelope does not open. One error for every cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the answer's envelope does not open with this enclave's key")]
pub struct Unopened;

impl From<Malformed> for Unopened {
    fn from(_: Malformed) -> Self {
        Self
    }
}

impl From<aws_lc_rs::error::Unspecified> for Unopened {
    fn from(_: aws_lc_rs::error::Unspecified) -> Self {
        Self
    }
}

/// An RSA-2048 key pair that is made at start and never leaves the process. It takes a tenth of a second to make.
pub struct RecipientKey {
    private: OaepPrivateDecryptingKey,
    public: Vec<u8>,
}

impl RecipientKey {
    /// Makes a key pair; `None` if the library cannot.
    #[must_use]
    pub fn generate() -> Option<Self> {
        Self::new(PrivateDecryptingKey::generate(KeySize::Rsa2048).ok()?)
    }

    fn new(private: PrivateDecryptingKey) -> Option<Self> {
        let public: PublicKeyX509Der<'_> = private.public_key().as_der().ok()?;
        let public = public.as_ref().to_vec();
        Some(Self { private: OaepPrivateDecryptingKey::new(private).ok()?, public })
    }

    /// The public key as SubjectPublicKeyInfo in DER, 294 bytes: what the attestation document carries.
    #[must_use]
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// Opens `CiphertextForRecipient`.
    ///
    /// # Errors
    /// It is not an envelope of the one accepted form, or not for this key.
    pub fn open(&self, envelope: &[u8]) -> Result<Zeroizing<Vec<u8>>, Unopened> {
        let Envelope { wrapped, iv, mut content } = Envelope::read(envelope)?;
        let mut key = Zeroizing::new([0u8; 256]);
        let key = self.private.decrypt(&OAEP_SHA256_MGF1SHA256, wrapped, key.as_mut_slice(), None)?;
        let key = PaddedBlockDecryptingKey::cbc_pkcs7(UnboundCipherKey::new(&AES_256, key)?)?;
        let plain = key.decrypt(&mut content, DecryptionContext::Iv128(FixedLength::from(iv)))?;
        Ok(Zeroizing::new(plain.to_vec()))
    }
}

/// The parts of an envelope that are needed; all others were checked.
struct Envelope<'a> {
    wrapped: &'a [u8],
    iv: [u8; 16],
    content: Zeroizing<Vec<u8>>,
}

impl<'a> Envelope<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        if bytes.len() > MAX {
            return Err(Malformed);
        }
        let [kind, content] = Element::read(bytes)?.exactly(SEQUENCE)?;
        is_oid(&kind, ENVELOPED_DATA)?;
        let [enveloped] = content.exactly(0xa0)?;
        let [version, recipients, content] = enveloped.exactly(SEQUENCE)?;
        let [recipient] = recipients.exactly(SET)?;
        let [recipient_version, identifier, algorithm, wrapped] = recipient.exactly(SEQUENCE)?;
        // Version 2 names the recipient by key identifier, 0 by issuer and serial number; either way there is one recipient: us.
        match (version.bytes(INTEGER)?, recipient_version.bytes(INTEGER)?, identifier.tag) {
            (&[2], &[2], 0x80) | (&[0], &[0], SEQUENCE) => {}
            _ => return Err(Malformed),
        }
        oaep_sha256(algorithm)?;
        let wrapped = wrapped.bytes(OCTET_STRING)?;
        let [kind, algorithm, content] = content.exactly(SEQUENCE)?;
        is_oid(&kind, DATA)?;
        let [cipher, iv] = algorithm.exactly(SEQUENCE)?;
        is_oid(&cipher, AES256_CBC)?;
        let iv = iv.bytes(OCTET_STRING)?.try_into().map_err(|_| Malformed)?;
        Ok(Self { wrapped, iv, content: Zeroizing::new(content.octets(0x80)?) })
    }
}

fn is_oid(element: &Element<'_>, oid: &[u8]) -> Result<(), Malformed> {
    if element.bytes(OID)? == oid { Ok(()) } else { Err(Malformed) }
}

/// RSAES-OAEP with SHA-256 for both its hash and its mask; the defaults of RFC 8017 would be SHA-1.
fn oaep_sha256(algorithm: Element<'_>) -> Result<(), Malformed> {
    let [oaep, parameters] = algorithm.exactly(SEQUENCE)?;
    is_oid(&oaep, RSAES_OAEP)?;
    let [hash, mask] = parameters.exactly(SEQUENCE)?;
    let [hash] = hash.exactly(0xa0)?;
    sha256(hash)?;
    let [mask] = mask.exactly(0xa1)?;
    let [mgf1, hash] = mask.exactly(SEQUENCE)?;
    is_oid(&mgf1, MGF1)?;
    sha256(hash)
}

/// SHA-256, its parameters absent or NULL.
fn sha256(algorithm: Element<'_>) -> Result<(), Malformed> {
    let parts = algorithm.inside(SEQUENCE)?;
    let (oid, parameters) = parts.split_first().ok_or(Malformed)?;
    is_oid(oid, SHA256)?;
    match parameters {
        [] => Ok(()),
        [null] if null.bytes(NULL)?.is_empty() => Ok(()),
        _ => Err(Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use aws_lc_rs::cipher::PaddedBlockEncryptingKey;
    use aws_lc_rs::rsa::{OaepPublicEncryptingKey, PublicEncryptingKey};
    use std::sync::LazyLock;

    static KEY: LazyLock<RecipientKey> = LazyLock::new(|| RecipientKey::generate().unwrap());

    fn real() -> Vec<(String, Vec<u8>)> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/conformance/data/kms-cms");
        let mut all: Vec<_> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .filter(|path| path.extension().is_some_and(|e| e == "ber" || e == "bin"))
            .map(|path| (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap()))
            .collect();
        all.sort();
        assert_eq!(all.len(), 6);
        all
    }

    /// A real envelope with its wrapped key and content replaced by those for [`KEY`], and lengths kept: the encoding stays KMS's own.
    fn for_our_key(plain: &[u8]) -> Vec<u8> {
        let mut envelope = real().into_iter().find(|(name, _)| name == "sdkc_input_ber_w_ctx.bin").unwrap().1;
        let (wrapped_at, iv_at, content_at) = (131, 415, 433);
        let aes = [7u8; 32];
        let public = OaepPublicEncryptingKey::new(PublicEncryptingKey::from_der(KEY.public()).unwrap()).unwrap();
        public.encrypt(&OAEP_SHA256_MGF1SHA256, &aes, &mut envelope[wrapped_at..wrapped_at + 256], None).unwrap();
        let cipher = PaddedBlockEncryptingKey::cbc_pkcs7(UnboundCipherKey::new(&AES_256, &aes).unwrap()).unwrap();
        let mut content = plain.to_vec();
        let context = cipher.encrypt(&mut content).unwrap();
        let iv: &[u8] = (&context).try_into().unwrap();
        envelope[iv_at..iv_at + 16].copy_from_slice(iv);
        envelope[content_at..content_at + 16].copy_from_slice(&content);
        envelope
    }

    #[test]
    fn answers_of_kms_in_indefinite_lengths_are_read() {
        for (name, bytes) in real() {
            let envelope = Envelope::read(&bytes).unwrap_or_else(|_| panic!("{name}"));
            assert_eq!(envelope.wrapped.len(), 256, "{name}");
            assert!(!envelope.content.is_empty() && envelope.content.len().is_multiple_of(16), "{name}");
            // Not for this key, and no more is said.
            assert_eq!(KEY.open(&bytes).unwrap_err(), Unopened, "{name}");
        }
        // In pieces of 1,000 bytes.
        let (_, chunked) = &real()[3];
        assert_eq!(Envelope::read(chunked).unwrap().content.len(), 4112);
    }

    #[test]
    fn an_answer_for_this_key_opens() {
        assert_eq!(KEY.public().len(), 294);
        assert_eq!(*KEY.open(&for_our_key(b"0123456789abcde")).unwrap(), b"0123456789abcde");
        assert_eq!(*KEY.open(&for_our_key(b"")).unwrap(), b"");
    }

    #[test]
    fn an_altered_or_truncated_answer_never_opens_to_the_same() {
        let good = for_our_key(b"0123456789abcde");
        for length in 0..good.len() {
            assert_eq!(KEY.open(&good[..length]).unwrap_err(), Unopened, "{length}");
        }
        // Up to the IV every bit counts; the content is not authenticated, but the key identifier (bytes 33 to 64) is only a name.
        for at in (0..413).filter(|at| !(33..65).contains(at)) {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(KEY.open(&bad).unwrap_err(), Unopened, "byte {at}");
        }
        for at in 413..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert!(KEY.open(&bad).is_err() || *KEY.open(&bad).unwrap() != b"0123456789abcde", "byte {at}");
        }
    }
}
