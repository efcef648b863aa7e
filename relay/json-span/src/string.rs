//! JSON string literals: decoding, the one canonical writing, and names of members.

use std::fmt;

/// A `\u` escape that is half of a surrogate pair, or text that is no string literal at all: it has no UTF-8 form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoneSurrogate;

impl fmt::Display for LoneSurrogate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the string has half of a surrogate pair, which no UTF-8 text can hold")
    }
}

impl std::error::Error for LoneSurrogate {}

/// One decoded escape: the code unit or character and the bytes that it took.
enum Escape {
    Char(char),
    Lone(u16),
}

fn hex4(digits: &[u8]) -> Option<u16> {
    let digits = digits.get(..4)?;
    let mut code = 0u16;
    for &digit in digits {
        code = code << 4 | (digit as char).to_digit(16)? as u16;
    }
    Some(code)
}

/// Decodes the escape whose backslash is at `body[at]`; gives it and the offset behind it.
fn escape(body: &[u8], at: usize) -> Option<(Escape, usize)> {
    let short = match body.get(at + 1)? {
        b'"' => '"',
        b'\\' => '\\',
        b'/' => '/',
        b'b' => '\u{8}',
        b'f' => '\u{c}',
        b'n' => '\n',
        b'r' => '\r',
        b't' => '\t',
        b'u' => {
            let unit = hex4(body.get(at + 2..)?)?;
            if let Some(character) = char::from_u32(u32::from(unit)) {
                return Some((Escape::Char(character), at + 6));
            }
            let low = match body.get(at + 6..at + 8) {
                Some(b"\\u") if unit < 0xdc00 => hex4(&body[at + 8..]).filter(|low| (0xdc00..0xe000).contains(low)),
                _ => None,
            };
            return Some(match low {
                Some(low) => {
                    let code = 0x10000 + ((u32::from(unit) - 0xd800) << 10) + (u32::from(low) - 0xdc00);
                    (Escape::Char(char::from_u32(code)?), at + 12)
                }
                None => (Escape::Lone(unit), at + 6),
            });
        }
        _ => return None,
    };
    Some((Escape::Char(short), at + 2))
}

fn push_char(out: &mut Vec<u8>, character: char) {
    out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
}

/// Decodes the inside of a literal; `lone` says what to do with a lone surrogate.
fn decode_body(body: &[u8], out: &mut Vec<u8>, lone: impl Fn(&mut Vec<u8>, u16) -> bool) -> Result<(), usize> {
    let mut from = 0;
    while let Some(found) = memchr::memchr(b'\\', &body[from..]) {
        let at = from + found;
        out.extend_from_slice(&body[from..at]);
        match escape(body, at) {
            Some((Escape::Char(character), next)) => {
                push_char(out, character);
                from = next;
            }
            Some((Escape::Lone(unit), next)) if lone(out, unit) => from = next,
            _ => return Err(at),
        }
    }
    out.extend_from_slice(&body[from..]);
    Ok(())
}

/// Decodes a JSON string literal, quotes included, and appends its text to `out` as UTF-8.
///
/// `raw` is a literal that a scan accepted (RFC 8259, section 7). For anything else the outcome is unspecified, but
/// never a panic.
///
/// # Errors
///
/// [`LoneSurrogate`] when an escape is half of a surrogate pair: such a string has no UTF-8 form. `out` then holds what
/// it held before.
pub fn decode_string(raw: &[u8], out: &mut Vec<u8>) -> Result<(), LoneSurrogate> {
    let body = match raw {
        [b'"', body @ .., b'"'] => body,
        _ => return Err(LoneSurrogate),
    };
    let before = out.len();
    decode_body(body, out, |_, _| false).map_err(|_| {
        out.truncate(before);
        LoneSurrogate
    })
}

/// Decodes the inside of a member name for comparison: a lone surrogate becomes its three-byte generalised form, which
/// is no UTF-8 and so equals no name.
pub(crate) fn decode_name(body: &[u8], out: &mut Vec<u8>) {
    let lone = |out: &mut Vec<u8>, unit: u16| {
        out.extend_from_slice(&[0xe0 | (unit >> 12) as u8, 0x80 | (unit >> 6) as u8 & 0x3f, 0x80 | unit as u8 & 0x3f]);
        true
    };
    if let Err(at) = decode_body(body, out, lone) {
        // Cannot happen for scanned text; kept apart from every name all the same.
        out.extend_from_slice(&[0xff]);
        out.extend_from_slice(&body[at..]);
    }
}

/// Appends `text` to `out` as a JSON string literal in its canonical writing.
///
/// Escaped are only `"`, `\` and U+0000 to U+001F: by the short forms `\b \f \n \r \t` where they exist, else as
/// `\u00xx` in lower-case hexadecimal. Everything else stands for itself.
pub fn encode_string(text: &str, out: &mut Vec<u8>) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    encode_string_body(text, out);
    out.push(b'"');
}

/// Appends `text` as the inside of a JSON string literal: [`encode_string`] without the quotes, for replacing a part of
/// a longer string.
pub fn encode_string_body(text: &str, out: &mut Vec<u8>) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bytes = text.as_bytes();
    let mut from = 0;
    for (at, &byte) in bytes.iter().enumerate() {
        if byte >= 0x20 && byte != b'"' && byte != b'\\' {
            continue;
        }
        out.extend_from_slice(&bytes[from..at]);
        from = at + 1;
        match short_escape(byte) {
            Some(letter) => out.extend_from_slice(&[b'\\', letter]),
            None => out.extend_from_slice(&[
                b'\\',
                b'u',
                b'0',
                b'0',
                HEX[usize::from(byte >> 4)],
                HEX[usize::from(byte & 15)],
            ]),
        }
    }
    out.extend_from_slice(&bytes[from..]);
}

fn short_escape(byte: u8) -> Option<u8> {
    Some(match byte {
        b'"' | b'\\' => byte,
        0x08 => b'b',
        0x0c => b'f',
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        _ => return None,
    })
}

/// Whether writing the decoded text again gives these very bytes: `encode_string(decode_string(raw)) == raw`.
///
/// `raw` is a literal that a scan accepted, quotes included; text that is no literal is never canonical.
#[must_use]
pub fn is_canonical_string(raw: &[u8]) -> bool {
    let body = match raw {
        [b'"', body @ .., b'"'] => body,
        _ => return false,
    };
    let mut from = 0;
    while let Some(found) = memchr::memchr(b'\\', &body[from..]) {
        let at = from + found;
        from = match body.get(at + 1) {
            Some(b'"' | b'\\' | b'b' | b'f' | b'n' | b'r' | b't') => at + 2,
            Some(b'u') => match body.get(at + 2..at + 6) {
                Some([b'0', b'0', high @ (b'0' | b'1'), low @ (b'0'..=b'9' | b'a'..=b'f')]) => {
                    let low = if low.is_ascii_digit() { low - b'0' } else { low - b'a' + 10 };
                    if short_escape((high - b'0') << 4 | low).is_some() {
                        return false;
                    }
                    at + 6
                }
                _ => return false,
            },
            _ => return false,
        };
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decoded(raw: &str) -> Option<String> {
        let mut out = Vec::new();
        decode_string(raw.as_bytes(), &mut out).ok()?;
        Some(String::from_utf8(out).unwrap())
    }

    #[test]
    fn every_escape_decodes() {
        assert_eq!(decoded(r#""a\"\\\/\b\f\n\r\té\uD83D\ude00z""#).unwrap(), "a\"\\/\u{8}\u{c}\n\r\té😀z");
        assert_eq!(decoded(r#""""#).unwrap(), "");
    }

    #[test]
    fn lone_surrogates_do_not_decode() {
        for raw in [r#""\ud800""#, r#""\udc00""#, r#""\ud800\ud800""#, r#""\ud800A""#, r#""\ud800x""#, r#""a\udfff""#] {
            assert_eq!(decoded(raw), None, "{raw}");
            assert!(!is_canonical_string(raw.as_bytes()));
        }
        let mut out = b"kept".to_vec();
        assert_eq!(decode_string(br#""ab\ud800""#, &mut out), Err(LoneSurrogate));
        assert_eq!(out, b"kept");
    }

    #[test]
    fn names_with_lone_surrogates_equal_no_utf8() {
        let mut name = Vec::new();
        decode_name(br"a\ud800", &mut name);
        assert!(std::str::from_utf8(&name).is_err());
    }

    #[test]
    fn no_input_makes_decoding_panic() {
        for raw in ["", "\"", "x", "\"\\\"", "\"\\u\"", "\"\\u12\"", "\"\\ud800\\u\"", "\"\\x\"", "\"\\ud800\\u12\""] {
            let _ = decode_string(raw.as_bytes(), &mut Vec::new());
            let _ = is_canonical_string(raw.as_bytes());
            decode_name(raw.as_bytes(), &mut Vec::new());
        }
    }

    proptest::proptest! {
        #[test]
        fn the_canonical_writing_comes_back(text in ".*") {
            let mut raw = Vec::new();
            encode_string(&text, &mut raw);
            proptest::prop_assert!(is_canonical_string(&raw));
            proptest::prop_assert_eq!(serde_json::from_slice::<String>(&raw).unwrap(), text.clone());
            proptest::prop_assert_eq!(decoded(std::str::from_utf8(&raw).unwrap()), Some(text));
        }

        #[test]
        fn canonical_means_that_writing_again_gives_the_same_bytes(
            parts in proptest::collection::vec(proptest::sample::select(vec![
                "a", "é", "\u{7f}", r"\n", r"\u000a", r"\u0001", r"\u001f", r"\u001F", r"\u0020", r"\/", "/", r#"\""#, r"\\",
                r"\u0041", r"\u00e9", r"\ud83d\ude00", r"\ud800", r"\b", r"\u0008", r"\u0022",
            ]), 0..6)
        ) {
            let raw = format!("\"{}\"", parts.concat());
            let again = decoded(&raw).map(|text| {
                let mut out = Vec::new();
                encode_string(&text, &mut out);
                out
            });
            proptest::prop_assert_eq!(is_canonical_string(raw.as_bytes()), again.as_deref() == Some(raw.as_bytes()));
        }
    }
}
