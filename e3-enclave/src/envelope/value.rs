//! Whether bytes are exactly one value of their type (SPEC.md, "Value types"; RFC 8259).
//!
//! What is opened is spliced into JSON text without being looked at again, so nothing but one value may come out of a token,
//! whoever sealed it.

use e3_wire::ValueType;

/// Deepest nesting of arrays and objects in a value of type `j`.
pub const MAX_DEPTH: usize = 128;

/// Whether `bytes` are one value of type `value_type`, without white space around it.
#[must_use]
pub fn is_one_value(value_type: ValueType, bytes: &[u8]) -> bool {
    match value_type {
        ValueType::String => std::str::from_utf8(bytes).is_ok(),
        ValueType::Number => number(bytes) == Some(bytes.len()),
        ValueType::Bool => matches!(bytes, b"true" | b"false"),
        ValueType::Null => bytes == b"null",
        ValueType::Json => std::str::from_utf8(bytes).is_ok() && json(bytes) == Some(bytes.len()),
    }
}

/// Length of the number at the start.
fn number(b: &[u8]) -> Option<usize> {
    let mut at = usize::from(b.first() == Some(&b'-'));
    match b.get(at)? {
        b'0' => at += 1,
        b'1'..=b'9' => at += digits(&b[at..])?,
        _ => return None,
    }
    if b.get(at) == Some(&b'.') {
        at += 1;
        at += digits(&b[at..])?;
    }
    if matches!(b.get(at), Some(b'e' | b'E')) {
        at += 1;
        at += usize::from(matches!(b.get(at), Some(b'+' | b'-')));
        at += digits(&b[at..])?;
    }
    Some(at)
}

/// Number of digits at the start, at least one.
fn digits(b: &[u8]) -> Option<usize> {
    let n = b.iter().take_while(|c| c.is_ascii_digit()).count();
    (n > 0).then_some(n)
}

/// Length of the string at the start, quotes included. UTF-8 was checked before.
fn string(b: &[u8]) -> Option<usize> {
    if b.first() != Some(&b'"') {
        return None;
    }
    let mut at = 1;
    loop {
        match b.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => match b.get(at + 1)? {
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => at += 2,
                b'u' => {
                    b.get(at + 2..at + 6).filter(|h| h.iter().all(u8::is_ascii_hexdigit))?;
                    at += 6;
                }
                _ => return None,
            },
            0..=0x1f => return None,
            _ => at += 1,
        }
    }
}

/// Length of the JSON value at the start. A loop over a stack of bits, so that no depth can exhaust the thread's stack.
fn json(b: &[u8]) -> Option<usize> {
    let mut open = Nesting::default();
    let mut at = 0;
    'value: loop {
        match b.get(at)? {
            b'{' => {
                open.push(true)?;
                at = skip_space(b, at + 1);
                if b.get(at)? != &b'}' {
                    at = key(b, at)?;
                    continue 'value;
                }
                at += 1;
                open.pop();
            }
            b'[' => {
                open.push(false)?;
                at = skip_space(b, at + 1);
                if b.get(at)? != &b']' {
                    continue 'value;
                }
                at += 1;
                open.pop();
            }
            b'"' => at += string(&b[at..])?,
            b't' => at += literal(&b[at..], b"true")?,
            b'f' => at += literal(&b[at..], b"false")?,
            b'n' => at += literal(&b[at..], b"null")?,
            _ => at += number(&b[at..])?,
        }
        // A value has ended: close what it closes, or go on after a comma.
        while let Some(object) = open.top() {
            at = skip_space(b, at);
            match (b.get(at)?, object) {
                (b',', true) => {
                    at = key(b, skip_space(b, at + 1))?;
                    continue 'value;
                }
                (b',', false) => {
                    at = skip_space(b, at + 1);
                    continue 'value;
                }
                (b'}', true) | (b']', false) => {
                    at += 1;
                    open.pop();
                }
                _ => return None,
            }
        }
        return Some(at);
    }
}

/// Position of the value behind the member name at `at`.
fn key(b: &[u8], at: usize) -> Option<usize> {
    let at = skip_space(b, at + string(&b[at..])?);
    (b.get(at)? == &b':').then(|| skip_space(b, at + 1))
}

fn skip_space(b: &[u8], mut at: usize) -> usize {
    while matches!(b.get(at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

fn literal(b: &[u8], text: &[u8]) -> Option<usize> {
    b.starts_with(text).then_some(text.len())
}

/// What is open around a value: one bit for each level, set for an object.
#[derive(Default)]
struct Nesting {
    bits: u128,
    depth: usize,
}

impl Nesting {
    fn push(&mut self, object: bool) -> Option<()> {
        if self.depth == MAX_DEPTH {
            return None;
        }
        self.bits = self.bits << 1 | u128::from(object);
        self.depth += 1;
        Some(())
    }

    fn pop(&mut self) {
        self.bits >>= 1;
        self.depth = self.depth.saturating_sub(1);
    }

    fn top(&self) -> Option<bool> {
        (self.depth > 0).then_some(self.bits & 1 == 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_follow_their_grammar() {
        for good in ["0", "-0", "1", "10", "1.10", "-1.5e+10", "1E400", "0e0", "123456789012345678901234567890"] {
            assert!(is_one_value(ValueType::Number, good.as_bytes()), "{good}");
        }
        for bad in
            ["", "-", "+1", "01", "1.", ".1", "1e", "1e+", "0x1", "1 ", " 1", "1,2", "NaN", "Infinity", "--1", "1\n"]
        {
            assert!(!is_one_value(ValueType::Number, bad.as_bytes()), "{bad}");
        }
    }

    #[test]
    fn literals_are_exact() {
        assert!(is_one_value(ValueType::Bool, b"true") && is_one_value(ValueType::Bool, b"false"));
        assert!(is_one_value(ValueType::Null, b"null"));
        for bad in ["True", "true ", "nul", "null", ""] {
            assert!(!is_one_value(ValueType::Bool, bad.as_bytes()), "{bad}");
        }
        assert!(!is_one_value(ValueType::Null, b"nulll") && !is_one_value(ValueType::Null, b""));
    }

    #[test]
    fn strings_are_utf8_and_may_be_empty() {
        assert!(is_one_value(ValueType::String, b"") && is_one_value(ValueType::String, "é\u{0}\"".as_bytes()));
        assert!(!is_one_value(ValueType::String, b"\xff"));
    }

    #[test]
    fn json_is_one_strict_value() {
        let good = [
            "{}",
            "[]",
            "[ ]",
            "{ }",
            "\"\"",
            "1",
            "true",
            "null",
            r#"{"a":1}"#,
            r#"{ "a" : [ 1 , {"b":"\ud800"} ] }"#,
            "[[],{}]",
            r#""\u00e9\"\\\/\b\f\n\r\t""#,
            "[1,2,3]",
            r#"{"a":{},"a":[]}"#,
        ];
        for text in good {
            assert!(is_one_value(ValueType::Json, text.as_bytes()), "{text}");
        }
        let bad = [
            "",
            " 1",
            "1 ",
            "{",
            "[",
            "[1,]",
            "[,1]",
            "{,}",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a":1,}"#,
            "[1}",
            r#"{"a":1]"#,
            "[] []",
            "1,2",
            "tru",
            "\"",
            "\"\n\"",
            r#""\x""#,
            r#""\u12g4""#,
            "[1 2]",
            r#"{"a" 1}"#,
            "{1:2}",
            "\u{feff}1",
            "[\u{0b}1]",
        ];
        for text in bad {
            assert!(!is_one_value(ValueType::Json, text.as_bytes()), "{text}");
        }
        assert!(!is_one_value(ValueType::Json, b"\"\xff\""));
    }

    #[test]
    fn depth_is_bounded_and_never_recurses() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(is_one_value(ValueType::Json, nested(128).as_bytes()));
        assert!(!is_one_value(ValueType::Json, nested(129).as_bytes()));
        assert!(!is_one_value(ValueType::Json, nested(1_000_000).as_bytes()));
        let mixed = format!("{}1{}", r#"{"a":["#.repeat(64), "]}".repeat(64));
        assert!(is_one_value(ValueType::Json, mixed.as_bytes()));
    }
}
