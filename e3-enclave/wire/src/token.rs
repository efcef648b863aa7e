//! The text form of a token: `e3v1.<role>.<type>.<base64url>.` (SPEC.md, "Token text").

use crate::name::{Role, ValueType};
use base64_simd::URL_SAFE_NO_PAD;

/// What every token starts with.
pub const PREFIX: &[u8] = b"e3v1.";

/// Bytes of a sealed binary beside its ciphertext: suite, kid, time, salt, commitment, tag.
pub const BINARY_OVERHEAD: usize = 1 + 4 + 4 + 24 + 32 + 16;

/// Most characters of base64url in a token: those of the largest sealed binary.
pub const MAX_BASE64: usize = ((crate::MAX_VALUE + BINARY_OVERHEAD) * 4).div_ceil(3);

/// Longest token text, which only the longest roles reach: prefix, role, type, [`MAX_BASE64`], the dots behind these three.
pub const MAX_TOKEN_TEXT: usize = PREFIX.len() + 21 + 2 + MAX_BASE64 + 1;

/// Text that is no token. Never says more: the parts are an attacker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// Not of the form of a token, or not in its one canonical spelling.
    #[error("not a token")]
    NotAToken,
}

/// A token's text, taken apart. That it reads says nothing about whether it is genuine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenText<'a> {
    /// The role that the token claims.
    pub role: Role,
    /// The type that the token claims.
    pub value_type: ValueType,
    /// The base64url text of the sealed binary; its alphabet is checked, its canonical form only by [`TokenText::decode`].
    pub base64: &'a str,
}

impl<'a> TokenText<'a> {
    /// Reads text that is exactly one token.
    ///
    /// # Errors
    /// The text is no token.
    pub fn parse(text: &'a [u8]) -> Result<Self, TokenError> {
        match Self::parse_prefix(text) {
            Some((token, used)) if used == text.len() => Ok(token),
            _ => Err(TokenError::NotAToken),
        }
    }

    /// Reads the token that starts at the first byte, if one does, and the number of bytes it takes.
    #[must_use]
    pub fn parse_prefix(text: &'a [u8]) -> Option<(Self, usize)> {
        let rest = text.strip_prefix(PREFIX)?;
        // A role has at most 20 bytes: look no further for its dot.
        let dot = rest.iter().take(21).position(|b| *b == b'.')?;
        let role = Role::parse(&rest[..dot]).ok()?;
        let rest = &rest[dot + 1..];
        let [letter, b'.', body @ ..] = rest else { return None };
        let value_type = ValueType::from_letter(*letter).ok()?;
        let end = base64url_end(body)?;
        if end == 0 || end > MAX_BASE64 || body[end] != b'.' {
            return None;
        }
        let base64 = std::str::from_utf8(&body[..end]).ok()?;
        let used = PREFIX.len() + dot + 1 + 2 + end + 1;
        Some((Self { role, value_type, base64 }, used))
    }

    /// Finds the first token at or after `from` and the range of bytes it takes.
    #[must_use]
    pub fn find(text: &'a [u8], mut from: usize) -> Option<(Self, std::ops::Range<usize>)> {
        while let Some(at) = text.get(from..).and_then(|t| memchr::memmem::find(t, PREFIX)) {
            let start = from + at;
            if let Some((token, used)) = Self::parse_prefix(&text[start..]) {
                return Some((token, start..start + used));
            }
            from = start + 1;
        }
        None
    }

    /// The sealed binary.
    ///
    /// # Errors
    /// The base64url has padding, unused bits that are set, or an impossible length.
    pub fn decode(&self) -> Result<Vec<u8>, TokenError> {
        URL_SAFE_NO_PAD.decode_to_vec(self.base64).map_err(|_| TokenError::NotAToken)
    }
}

/// Whether a byte is of the alphabet of RFC 4648 §5. Every byte of every token passes here: without a branch or a table, so that many are looked at at once.
fn is_base64url(b: u8) -> bool {
    ((b | 0x20).wrapping_sub(b'a') < 26) | (b.wrapping_sub(b'0') < 10) | (b == b'-') | (b == b'_')
}

/// Number of bytes of the alphabet that `text` begins with; `None` if there is nothing else in it.
fn base64url_end(text: &[u8]) -> Option<usize> {
    const STRIDE: usize = 32;
    let (strides, _) = text.as_chunks::<STRIDE>();
    let whole = strides.iter().take_while(|stride| stride.iter().fold(true, |all, b| all & is_base64url(*b))).count();
    let rest = &text[whole * STRIDE..];
    rest.iter().position(|b| !is_base64url(*b)).map(|end| whole * STRIDE + end)
}

/// Number of bytes that [`write`] appends for a sealed binary of `binary_len` bytes.
#[must_use]
pub fn text_len(role: Role, binary_len: usize) -> usize {
    PREFIX.len() + role.as_bytes().len() + 1 + 2 + (binary_len * 4).div_ceil(3) + 1
}

/// Appends the text form of a sealed binary.
pub fn write(role: Role, value_type: ValueType, binary: &[u8], out: &mut Vec<u8>) {
    out.reserve(text_len(role, binary.len()));
    out.extend_from_slice(PREFIX);
    out.extend_from_slice(role.as_bytes());
    out.extend_from_slice(&[b'.', value_type.letter(), b'.']);
    URL_SAFE_NO_PAD.encode_append(binary, out);
    out.push(b'.');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(binary: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        write(Role::parse("card-number").unwrap(), ValueType::String, binary, &mut out);
        out
    }

    #[test]
    fn text_reads_back_and_has_the_announced_length() {
        for len in [0usize, 1, 2, 3, 80, 81, 82, 1000] {
            let binary: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let text = sample(&binary);
            assert_eq!(text.len(), text_len(Role::parse("card-number").unwrap(), len));
            if len > 0 {
                assert_eq!(TokenText::parse(&text).unwrap().decode().unwrap(), binary);
            }
        }
    }

    #[test]
    fn non_canonical_base64url_is_refused() {
        // One byte 0x00 is "AA"; "AB" sets unused bits and decodes leniently to the same byte.
        let token = b"e3v1.r.s.AB.";
        assert_eq!(TokenText::parse(token).unwrap().decode(), Err(TokenError::NotAToken));
        for bad in
            ["e3v1.r.s.AA", "e3v1.r.s..", "e3v1.r.x.AA.", "e3v1.R.s.AA.", "e3v1..s.AA.", "e3v1.r.s.A=.", "E3v1.r.s.AA."]
        {
            assert!(TokenText::parse(bad.as_bytes()).is_err(), "{bad}");
        }
        assert!(TokenText::parse(b"e3v1.r.s.AA. ").is_err());
        assert_eq!(TokenText::parse(b"e3v1.r.s.A.").unwrap().decode(), Err(TokenError::NotAToken));
    }

    #[test]
    fn one_limit_holds_for_every_role_and_meets_the_largest_binary() {
        let largest = vec![0; crate::MAX_VALUE + BINARY_OVERHEAD];
        for role in ["r", "a2345678901234567-90"] {
            let role = Role::parse(role).unwrap();
            let mut text = Vec::new();
            write(role, ValueType::String, &largest, &mut text);
            assert_eq!(TokenText::parse(&text).unwrap().base64.len(), MAX_BASE64);
            assert!(text.len() <= MAX_TOKEN_TEXT);
            assert_eq!(text.len() == MAX_TOKEN_TEXT, role.as_bytes().len() == 20);
            assert_eq!(TokenText::find(&text, 0).unwrap().1, 0..text.len());
            // One character more, which no bytes have, and two, which are one byte too many.
            for _ in 0..2 {
                text.insert(text.len() - 1, b'A');
                assert!(TokenText::parse(&text).is_err());
                assert_eq!(TokenText::find(&text, 0), None);
            }
        }
        assert_eq!((MAX_BASE64, MAX_TOKEN_TEXT), (22_369_730, 22_369_759), "as SPEC.md says");
    }

    #[test]
    fn tokens_are_found_inside_text_and_after_false_starts() {
        let text = b"e3v1.e3v1.r.s.AA. x e3v1.nope y e3v1.q.n.AAAA.z";
        let (first, range) = TokenText::find(text, 0).unwrap();
        assert_eq!((first.role.as_str(), range.clone()), ("r", 5..17));
        let (second, range) = TokenText::find(text, range.end).unwrap();
        assert_eq!((second.role.as_str(), &text[range.clone()]), ("q", &b"e3v1.q.n.AAAA."[..]));
        assert_eq!(TokenText::find(text, range.end), None);
        assert_eq!(TokenText::find(text, text.len() + 1), None);
    }
}
