//! Keys of the outbound relay's clients: only their hashes are known here.

use base64ct::{Base64, Encoding};
use http::HeaderMap;
use http::header::{HeaderValue, PROXY_AUTHORIZATION};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// What a request says about who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// A key of this listener, or none is asked for.
    Good,
    /// No `Proxy-Authorization`.
    Absent,
    /// One that holds no key of this listener.
    Bad,
}

/// SHA-256 of each key. The keys are long and random, so that a plain hash protects them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ProxyKeys(Vec<[u8; 32]>);

impl ProxyKeys {
    /// From the hashes of the keys.
    #[must_use]
    pub fn new(hashes: Vec<[u8; 32]>) -> Self {
        Self(hashes)
    }

    /// Whether anybody may come.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Looks for a key in `Proxy-Authorization`: the key itself, after `Bearer`, or as password (or as user without password) after `Basic` (RFC 7617).
    #[must_use]
    pub fn check(&self, headers: &HeaderMap) -> Proof {
        if self.0.is_empty() {
            return Proof::Good;
        }
        let mut fields = headers.get_all(PROXY_AUTHORIZATION).iter();
        match (fields.next(), fields.next()) {
            (None, _) => Proof::Absent,
            (Some(field), None) if self.knows(field) => Proof::Good,
            _ => Proof::Bad,
        }
    }

    fn knows(&self, field: &HeaderValue) -> bool {
        let text = field.as_bytes().trim_ascii();
        let (scheme, rest) = match text.iter().position(|b| *b == b' ') {
            Some(at) => (&text[..at], text[at..].trim_ascii()),
            None => return self.has(text),
        };
        if scheme.eq_ignore_ascii_case(b"bearer") {
            return self.has(rest);
        }
        if !scheme.eq_ignore_ascii_case(b"basic") {
            return false;
        }
        let Some(pair) = std::str::from_utf8(rest).ok().and_then(|text| Base64::decode_vec(text).ok()) else {
            return false;
        };
        let Some(colon) = pair.iter().position(|b| *b == b':') else { return false };
        let (user, password) = (&pair[..colon], &pair[colon + 1..]);
        self.has(if password.is_empty() { user } else { password })
    }

    /// Every hash is compared, in constant time.
    fn has(&self, key: &[u8]) -> bool {
        let hash = Sha256::digest(key);
        self.0.iter().fold(Choice::from(0), |found, known| found | known[..].ct_eq(&hash[..])).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_known_in_each_form_and_nothing_else_is() {
        let keys = ProxyKeys::new(vec![Sha256::digest(b"other").into(), Sha256::digest(b"the-key").into()]);
        let basic = |text: &str| format!("Basic {}", Base64::encode_string(text.as_bytes()));
        let proof = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(PROXY_AUTHORIZATION, HeaderValue::from_str(value).unwrap());
            }
            keys.check(&headers)
        };
        for good in ["the-key", "Bearer the-key", "bearer  the-key", "other", &basic("app:the-key"), &basic("the-key:")]
        {
            assert_eq!(proof(&[good]), Proof::Good, "{good}");
        }
        for bad in [
            "",
            "the-ke",
            "the-key2",
            "Digest the-key",
            "Basic the-key",
            &basic("the-key"),
            &basic("the-key:x"),
            &basic(":"),
        ] {
            assert_eq!(proof(&[bad]), Proof::Bad, "{bad}");
        }
        assert_eq!(proof(&[]), Proof::Absent);
        assert_eq!(proof(&["the-key", "the-key"]), Proof::Bad, "two say two things");
        assert_eq!(ProxyKeys::default().check(&HeaderMap::new()), Proof::Good);
    }
}
