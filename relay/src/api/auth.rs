//! Who calls: an API key, which the relay hands on to the engine and never judges itself.

use base64ct::{Base64, Encoding};
use http::HeaderMap;
use http::header::AUTHORIZATION;
use zeroize::Zeroizing;

use crate::error::{ApiFault, Failure};

/// Longest key, in bytes: what the engine link carries.
const LONGEST: usize = 255;

/// The API key of a caller. Its `Debug` does not show it, and its memory is wiped.
pub struct Key(Zeroizing<String>);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(an API key)")
    }
}

impl Key {
    /// A key by its text: 1 to 255 visible ASCII characters.
    #[must_use]
    pub fn new(text: &[u8]) -> Option<Self> {
        let fits = (1..=LONGEST).contains(&text.len()) && text.iter().all(u8::is_ascii_graphic);
        let text = std::str::from_utf8(text).ok().filter(|_| fits)?;
        Some(Self(Zeroizing::new(text.to_owned())))
    }

    /// The key in `Authorization`: after `Bearer` (RFC 6750), or as password, or as user without password, after `Basic` (RFC 7617).
    ///
    /// # Errors
    /// There is none, or more than one.
    pub fn of(headers: &HeaderMap) -> Result<Self, Failure> {
        let mut fields = headers.get_all(AUTHORIZATION).iter();
        let key = match (fields.next(), fields.next()) {
            (Some(field), None) => Self::read(field.as_bytes().trim_ascii()),
            _ => None,
        };
        key.ok_or(Failure::Api(ApiFault::NoKey))
    }

    fn read(text: &[u8]) -> Option<Self> {
        let space = text.iter().position(|byte| *byte == b' ')?;
        let (scheme, rest) = (&text[..space], text[space..].trim_ascii());
        if scheme.eq_ignore_ascii_case(b"bearer") {
            return Self::new(rest);
        }
        if !scheme.eq_ignore_ascii_case(b"basic") {
            return None;
        }
        let pair = Zeroizing::new(Base64::decode_vec(std::str::from_utf8(rest).ok()?).ok()?);
        let colon = pair.iter().position(|byte| *byte == b':')?;
        let (user, password) = (&pair[..colon], &pair[colon + 1..]);
        Self::new(if password.is_empty() { user } else { password })
    }

    /// As the engine link carries it.
    #[must_use]
    pub fn credential(&self) -> e3_wire::Credential<'_> {
        e3_wire::Credential(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn key(fields: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(AUTHORIZATION, HeaderValue::from_str(field).unwrap());
        }
        Key::of(&headers).ok().map(|key| key.credential().0.to_owned())
    }

    #[test]
    fn a_key_is_one_bearer_or_one_basic_and_nothing_else() {
        for (field, expected) in [
            ("Bearer e3k-1", "e3k-1"),
            ("bearer   e3k-1 ", "e3k-1"),
            // user:e3k-1, e3k-1:, :e3k-1
            ("Basic dXNlcjplM2stMQ==", "e3k-1"),
            ("Basic ZTNrLTE6", "e3k-1"),
            ("BASIC OmUzay0x", "e3k-1"),
        ] {
            assert_eq!(key(&[field]).as_deref(), Some(expected), "{field}");
        }
        let long = format!("Bearer {}", "k".repeat(256));
        for bad in
            ["", "Bearer", "Bearer ", "e3k-1", "Digest e3k-1", "Bearer two words", "Basic e3k-1", "Basic Og==", &long]
        {
            assert_eq!(key(&[bad]), None, "{bad}");
        }
        assert_eq!(key(&[]), None);
        assert_eq!(key(&["Bearer a", "Bearer a"]), None);
        assert_eq!(format!("{:?}", Key::new(b"secret")), "Some((an API key))");
    }
}
