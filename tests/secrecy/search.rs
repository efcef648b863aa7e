//! Looks for secrets in what programs say, in every spelling in which one could slip out.

use base64ct::{Base64Unpadded, Base64UrlUnpadded, Encoding};

/// One secret, by a name that may be shown.
pub(crate) struct Secret {
    name: String,
    spellings: Vec<Vec<u8>>,
}

impl Secret {
    /// A secret of at least eight bytes: fewer would be found by chance.
    pub(crate) fn new(name: impl Into<String>, bytes: &[u8]) -> Self {
        assert!(bytes.len() >= 8, "too short to be looked for");
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let decimal = bytes.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
        let mut spellings = vec![
            bytes.to_vec(),
            hex.to_uppercase().into_bytes(),
            hex.into_bytes(),
            // `{:?}` of bytes, of text and of an escaped byte string.
            decimal.into_bytes(),
            String::from_utf8_lossy(bytes).escape_debug().to_string().into_bytes(),
            bytes.escape_ascii().to_string().into_bytes(),
            serde_json::to_vec(&*String::from_utf8_lossy(bytes)).expect("text")[1..]
                .strip_suffix(b"\"")
                .expect("a quote")
                .to_vec(),
        ];
        // Base64 spells bytes in three ways, by where they begin among the others; what is around them does not reach the middle.
        for before in 0..3 {
            let padded = [&vec![0; before][..], bytes].concat();
            for text in [Base64Unpadded::encode_string(&padded), Base64UrlUnpadded::encode_string(&padded)] {
                let (first, last) = ((before * 8).div_ceil(6), padded.len() * 8 / 6);
                spellings.push(text.as_bytes()[first..last].to_vec());
            }
        }
        // Bytes that are no text show as replacement characters, which are not a secret.
        spellings.retain(|spelling| !spelling.windows(3).any(|three| three == "\u{fffd}".as_bytes()));
        Self { name: name.into(), spellings }
    }

    /// Whether `text` holds it, in any spelling.
    pub(crate) fn is_in(&self, text: &[u8]) -> bool {
        self.spellings.iter().any(|spelling| memchr::memmem::find(text, spelling).is_some())
    }
}

/// Fails if `text`, which is called `place`, holds one of the secrets.
pub(crate) fn assert_none(secrets: &[Secret], place: &str, text: &[u8]) {
    let found: Vec<&str> = secrets.iter().filter(|secret| secret.is_in(text)).map(|secret| &*secret.name).collect();
    assert!(found.is_empty(), "{place} holds {found:?}");
}

#[test]
fn a_secret_is_found_in_every_spelling() {
    let secret = Secret::new("card", "4929 8712\u{e9}".as_bytes());
    let bytes = "4929 8712\u{e9}".as_bytes();
    for text in [
        "x4929 8712\u{e9}y".to_owned(),
        format!("{bytes:?}"),
        format!("{:?}", "4929 8712\u{e9}"),
        format!("\"{}\"", bytes.escape_ascii()),
        "343932392038373132C3A9".to_owned(),
        "343932392038373132c3a9".to_owned(),
        Base64Unpadded::encode_string(bytes),
        Base64UrlUnpadded::encode_string(&[b"x", bytes, b"yz"].concat()),
        Base64Unpadded::encode_string(&[b"xy", bytes, b"\xff"].concat()),
    ] {
        assert!(secret.is_in(text.as_bytes()), "{text}");
    }
    assert!(!secret.is_in(b"4929 8713"));
}
