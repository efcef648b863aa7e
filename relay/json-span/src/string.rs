//! JSON string literals: decoding, and the one canonical way of writing them.

use std::fmt;

/// A string literal with half of a surrogate pair: it has no UTF-8 form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoneSurrogate;

impl fmt::Display for LoneSurrogate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("half of a surrogate pair")
    }
}

impl std::error::Error for LoneSurrogate {}

/// Appends the text of a string literal (quotes included in `raw`, which passed the strict scan).
///
/// # Errors
/// The literal holds half of a surrogate pair.
pub fn decode_string(raw: &[u8], out: &mut Vec<u8>) -> Result<(), LoneSurrogate> {
    let mut rest = raw.get(1..raw.len().saturating_sub(1)).unwrap_or_default();
    while let Some(at) = memchr::memchr(b'\\', rest) {
        out.extend_from_slice(&rest[..at]);
        rest = &rest[at + 1..];
        let Some((escape, tail)) = rest.split_first() else { return Err(LoneSurrogate) };
        rest = tail;
        let byte = match escape {
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let first = hex4(rest).ok_or(LoneSurrogate)?;
                rest = &rest[4..];
                let code = match first {
                    0xd800..0xdc00 => {
                        let second = rest.strip_prefix(b"\\u").and_then(hex4).filter(|s| (0xdc00..0xe000).contains(s));
                        let second = second.ok_or(LoneSurrogate)?;
                        rest = &rest[6..];
                        0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00)
                    }
                    other => other,
                };
                let c = char::from_u32(code).ok_or(LoneSurrogate)?;
                out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
            // The strict scan lets only these three others through.
            other => *other,
        };
        out.push(byte);
    }
    out.extend_from_slice(rest);
    Ok(())
}

fn hex4(text: &[u8]) -> Option<u32> {
    text.get(..4)?.iter().try_fold(0, |n, d| Some(n << 4 | char::from(*d).to_digit(16)?))
}

/// Appends text as a JSON string literal, canonically: only `"`, `\` and U+0000 to U+001F are escaped, `\b \f \n \r \t` in their
/// short forms, the other controls as `\u00xx` in lower case.
pub fn encode_string(text: &str, out: &mut Vec<u8>) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    encode_string_body(text, out);
    out.push(b'"');
}

/// As [`encode_string`], without the quotes: for text that stands inside a longer string.
pub fn encode_string_body(text: &str, out: &mut Vec<u8>) {
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|b| *b < 0x20 || *b == b'"' || *b == b'\\') {
        out.extend_from_slice(&rest[..at]);
        let short = match rest[at] {
            0x08 => b'b',
            0x0c => b'f',
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            b @ (b'"' | b'\\') => b,
            control => {
                out.extend_from_slice(b"\\u00");
                out.extend(
                    [control >> 4, control & 15].map(|d| char::from_digit(d.into(), 16).map_or(b'0', |c| c as u8)),
                );
                rest = &rest[at + 1..];
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', short]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
}

/// Whether writing the decoded text again gives the very bytes of the literal.
#[must_use]
pub fn is_canonical_string(raw: &[u8]) -> bool {
    let mut rest = raw.get(1..raw.len().saturating_sub(1)).unwrap_or_default();
    while let Some(at) = memchr::memchr(b'\\', rest) {
        match rest[at + 1..] {
            [b'b' | b'f' | b'n' | b'r' | b't' | b'"' | b'\\', ref tail @ ..] => rest = tail,
            [b'u', b'0', b'0', high @ (b'0' | b'1'), low, ref tail @ ..] => {
                let lower = low.is_ascii_digit() || (b'a'..=b'f').contains(&low);
                let has_short_form = high == b'0' && matches!(low, b'8' | b'9' | b'a' | b'c' | b'd');
                if !lower || has_short_form {
                    return false;
                }
                rest = tail;
            }
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_means_that_writing_the_decoded_text_gives_the_same_bytes() {
        let cases: &[&str] = &[
            r#""""#,
            r#""a""#,
            r#""\n""#,
            r#""\u000a""#,
            r#""\u0001""#,
            r#""\u001F""#,
            r#""\u001f""#,
            r#""\/""#,
            r#""/""#,
            r#""\u0041""#,
            r#""\\\"""#,
            r#""é""#,
            r#""\u00e9""#,
            r#""😀""#,
            r#""\ud83d\ude00""#,
            r#""\u007f""#,
            "\"\u{7f}\"",
            r#""\u0008""#,
            r#""\b\f\t\r""#,
        ];
        for raw in cases {
            let mut text = Vec::new();
            decode_string(raw.as_bytes(), &mut text).unwrap();
            let mut again = Vec::new();
            encode_string(std::str::from_utf8(&text).unwrap(), &mut again);
            assert_eq!(is_canonical_string(raw.as_bytes()), again == raw.as_bytes(), "{raw}");
        }
    }

    #[test]
    fn half_of_a_pair_has_no_text() {
        for raw in [r#""\ud800""#, r#""\udc00""#, r#""\ud800\ud800""#, r#""\ud800x""#, r#""\ud83d\u0041""#] {
            assert_eq!(decode_string(raw.as_bytes(), &mut Vec::new()), Err(LoneSurrogate), "{raw}");
        }
    }
}
