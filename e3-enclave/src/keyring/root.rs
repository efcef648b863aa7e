//! Where the root key comes from.
//!
//! The enclave image gets it from KMS against its attestation document. A file or an environment variable is for development
//! alone and is compiled out of the image.

use super::SecretKey;
#[cfg(feature = "development")]
use {
    super::storage::read_keys,
    crate::error::Error,
    base64ct::{Base64, Encoding},
    std::path::Path,
    zeroize::Zeroizing,
};

/// The key above all others.
pub struct RootKey(SecretKey);

impl RootKey {
    pub(crate) fn secret(&self) -> &SecretKey {
        &self.0
    }

    /// A root key that KMS gave to this enclave.
    pub(crate) fn from_kms(key: SecretKey) -> Self {
        Self(key)
    }

    /// The root key in this file: 32 bytes as hexadecimal or base64 text. Nobody but its owner may read the file.
    ///
    /// # Errors
    /// The file cannot be read, is open to others, or holds something else.
    #[cfg(feature = "development")]
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        let text = Zeroizing::new(read_keys(path)?);
        Self::parse(&text).ok_or_else(|| Error::BadRootFile { path: path.to_owned() })
    }

    /// The root key in this environment variable, written as in a file.
    ///
    /// # Errors
    /// The variable is not set, or holds something else.
    #[cfg(feature = "development")]
    pub fn from_environment(name: &str) -> Result<Self, Error> {
        let text = Zeroizing::new(std::env::var(name).unwrap_or_default());
        Self::parse(text.as_bytes()).ok_or_else(|| Error::BadRootVariable { name: name.to_owned() })
    }

    /// Makes a new root key and the text to keep it as.
    #[cfg(feature = "development")]
    pub(crate) fn generate() -> Option<(Self, Zeroizing<String>)> {
        let key = SecretKey::random()?;
        let text = Zeroizing::new(super::hex(key.as_bytes()));
        Some((Self(key), text))
    }

    #[cfg(feature = "development")]
    fn parse(text: &[u8]) -> Option<Self> {
        let text = text.trim_ascii();
        let mut key = Zeroizing::new([0u8; 32]);
        if text.len() == 64 {
            for (byte, pair) in key.iter_mut().zip(text.chunks_exact(2)) {
                let digit = |c: u8| char::from(c).to_digit(16);
                *byte = (digit(pair[0])? * 16 + digit(pair[1])?) as u8;
            }
        } else {
            let decoded = Base64::decode(text, key.as_mut_slice()).ok()?.len();
            if decoded != 32 {
                return None;
            }
        }
        Some(Self(SecretKey::new(key)))
    }
}

#[cfg(all(test, feature = "development"))]
mod tests {
    use super::*;

    #[test]
    fn a_root_key_is_32_bytes_of_hexadecimal_or_base64() {
        let hex = "00".repeat(31) + "fF\n";
        assert_eq!(RootKey::parse(hex.as_bytes()).unwrap().0.as_bytes()[31], 0xff);
        let base64 = b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=";
        assert_eq!(RootKey::parse(base64).unwrap().0.as_bytes()[31], 1);
        for bad in ["", "00", "zz", &"0".repeat(63), &"0".repeat(65), &"g".repeat(64), "AAAA"] {
            assert!(RootKey::parse(bad.as_bytes()).is_none(), "{bad}");
        }
    }
}
