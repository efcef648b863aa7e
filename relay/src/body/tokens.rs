//! Finds tokens in the strings of a body, whichever way their characters are escaped.

use std::ops::Range;

use e3_wire::{Role, TokenText};
use memchr::memmem;

use crate::error::Failure;

/// Calls `found` with each token in the text of a JSON string: the bytes that spell it, relative to `raw`, and its decoded text.
///
/// `raw` is what stands between the quotes of a string that passed the strict scan.
pub(super) fn each_token(
    raw: &[u8],
    escaped: bool,
    decoded: &mut Decoded,
    mut found: impl FnMut(Range<usize>, &[u8]) -> Result<(), Failure>,
) -> Result<(), Failure> {
    // Of the escapes only \u can spell a character of a token. Without one, every token stands literally, and as no escape is
    // longer than two characters then, what looks like a token is one.
    if !escaped || memmem::find(raw, b"\\u").is_none() {
        let mut from = 0;
        while let Some((_, range)) = TokenText::find(raw, from) {
            from = range.end;
            found(range.clone(), &raw[range])?;
        }
        return Ok(());
    }
    decoded.decode(raw);
    let mut from = 0;
    while let Some((_, range)) = TokenText::find(&decoded.text, from) {
        from = range.end;
        found(decoded.offsets[range.start] as usize..decoded.offsets[range.end] as usize, &decoded.text[range])?;
    }
    Ok(())
}

/// Every token in the text of a JSON string, with the bytes that spell it: what [`each_token`] finds.
pub(crate) fn tokens_in(raw: &[u8], escaped: bool) -> Vec<(Range<usize>, Vec<u8>)> {
    let mut all = Vec::new();
    // What is called never fails.
    let _ = each_token(raw, escaped, &mut Decoded::default(), |range, token| {
        all.push((range, token.to_vec()));
        Ok(())
    });
    all
}

/// Whether text is exactly one token that claims this role.
pub(crate) fn is_token_of(text: &[u8], role: Role) -> bool {
    TokenText::parse(text).is_ok_and(|token| token.role == role)
}

/// A string decoded far enough to find tokens in it, with the place in the raw text of each decoded byte.
///
/// Tokens are ASCII, so whatever decodes to something else may stand as NUL, which no token contains.
#[derive(Default)]
pub(super) struct Decoded {
    text: Vec<u8>,
    /// `offsets[i]` = where decoded byte `i` starts in the raw text; one more for the end. Bodies are far below 4 GiB.
    offsets: Vec<u32>,
}

impl Decoded {
    fn decode(&mut self, raw: &[u8]) {
        self.text.clear();
        self.offsets.clear();
        let mut at = 0;
        while at < raw.len() {
            let (byte, used) = match raw[at..] {
                [b'\\', b'u', a, b, c, d, ..] => (ascii_of([a, b, c, d]), 6),
                [b'\\', _, ..] => (0, 2),
                [byte, ..] => (byte, 1),
                [] => break,
            };
            self.text.push(byte);
            self.offsets.push(at as u32);
            at += used;
        }
        self.offsets.push(raw.len() as u32);
    }
}

fn ascii_of(digits: [u8; 4]) -> u8 {
    let value = digits.iter().try_fold(0u32, |n, d| Some(n << 4 | char::from(*d).to_digit(16)?));
    value.and_then(|v| u8::try_from(v).ok()).filter(u8::is_ascii).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(raw: &str) -> Vec<(Range<usize>, String)> {
        let mut all = Vec::new();
        each_token(raw.as_bytes(), raw.contains('\\'), &mut Decoded::default(), |range, text| {
            all.push((range, String::from_utf8(text.to_vec()).unwrap()));
            Ok(())
        })
        .unwrap();
        all
    }

    #[test]
    fn tokens_are_found_however_they_are_escaped() {
        let token = "e3v1.a.s.AAAA.";
        assert_eq!(tokens(token), [(0..14, token.into())]);
        assert_eq!(tokens(&format!("\\n{token}\\\\")), [(2..16, token.into())]);
        let odd = "x\\u0065\\u0033v1.a.s.AAA\\u0041\\u002e\\u00e9";
        assert_eq!(tokens(odd), [(1..odd.len() - 6, token.into())]);
        assert_eq!(tokens("\\u00e3v1.a.s.AAAA."), [], "the e belongs to the escape");
        assert_eq!(tokens("\\ud83d\\ude00 e3v1.a.s.AAAA. \\u0000"), [(13..27, token.into())]);
    }
}
