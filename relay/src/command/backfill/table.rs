//! Rows of a table as text (RFC 4180): fields are read and replaced in place, so that every other byte stays.

use std::borrow::Cow;
use std::ops::Range;

/// A field of a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Field {
    /// Its bytes, quotes included.
    pub(super) at: Range<usize>,
    /// It stands in quotes.
    pub(super) quoted: bool,
}

/// A row that is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadQuote {
    /// Where the quote is.
    pub(super) at: usize,
}

/// A row without its line end.
pub(super) fn content(row: &[u8]) -> &[u8] {
    let row = row.strip_suffix(b"\n").unwrap_or(row);
    row.strip_suffix(b"\r").unwrap_or(row)
}

/// The fields of a row.
///
/// # Errors
/// A quote inside a field without quotes, or text behind a closing quote.
pub(super) fn fields(row: &[u8], delimiter: u8) -> Result<Vec<Field>, BadQuote> {
    let row = content(row);
    let mut fields = Vec::new();
    let mut start = 0;
    loop {
        let quoted = row.get(start) == Some(&b'"');
        let mut at = start;
        if quoted {
            at += 1;
            loop {
                match (row.get(at), row.get(at + 1)) {
                    (Some(b'"'), Some(b'"')) => at += 2,
                    (Some(b'"'), _) => break,
                    (Some(_), _) => at += 1,
                    (None, _) => return Err(BadQuote { at: start }),
                }
            }
            at += 1;
            if row.get(at).is_some_and(|byte| *byte != delimiter) {
                return Err(BadQuote { at });
            }
        } else {
            while let Some(byte) = row.get(at).filter(|byte| **byte != delimiter) {
                if *byte == b'"' {
                    return Err(BadQuote { at });
                }
                at += 1;
            }
        }
        fields.push(Field { at: start..at, quoted });
        if at >= row.len() {
            return Ok(fields);
        }
        start = at + 1;
    }
}

/// The text of a field; `None` if it is not UTF-8.
pub(super) fn text<'r>(row: &'r [u8], field: &Field) -> Option<Cow<'r, str>> {
    let raw = std::str::from_utf8(row.get(field.at.clone())?).ok()?;
    if !field.quoted {
        return Some(Cow::Borrowed(raw));
    }
    let inner = raw.get(1..raw.len() - 1)?;
    Some(if inner.contains('"') { Cow::Owned(inner.replace("\"\"", "\"")) } else { Cow::Borrowed(inner) })
}

/// Writes a field: in quotes where the old one was, or where it has to be. An empty text is no empty field, which stands for no value.
pub(super) fn write(text: &[u8], quoted: bool, delimiter: u8, out: &mut Vec<u8>) {
    let special = |byte: &u8| matches!(byte, b'"' | b'\r' | b'\n') || *byte == delimiter;
    if !quoted && !text.is_empty() && !text.iter().any(special) {
        out.extend_from_slice(text);
        return;
    }
    out.push(b'"');
    for &byte in text {
        if byte == b'"' {
            out.push(b'"');
        }
        out.push(byte);
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::command::backfill::record::{Cutter, Ends};

    fn texts(row: &str) -> Vec<String> {
        let fields = fields(row.as_bytes(), b',').unwrap();
        fields.iter().map(|field| text(row.as_bytes(), field).unwrap().into_owned()).collect()
    }

    #[test]
    fn fields_are_read_and_written_back_as_they_were() {
        assert_eq!(texts("a, b ,\"c,\"\"\n\",,\"\"\r\n"), ["a", " b ", "c,\"\n", "", ""]);
        assert_eq!(texts(""), [""]);
        assert_eq!(texts(","), ["", ""]);
        for (row, at) in [("a\"b", 1), ("\"a\"b,c", 3), ("x,\"a", 2)] {
            assert_eq!(fields(row.as_bytes(), b','), Err(BadQuote { at }), "{row}");
        }
        let written = |text: &str, quoted| {
            let mut out = Vec::new();
            write(text.as_bytes(), quoted, b',', &mut out);
            String::from_utf8(out).unwrap()
        };
        assert_eq!(written("a b", false), "a b");
        assert_eq!(written("a", true), "\"a\"");
        assert_eq!(written("a,\"", false), "\"a,\"\"\"");
        assert_eq!(written("", false), "\"\"");
        assert_eq!(written("x\n", false), "\"x\n\"");
    }

    proptest! {
        #[test]
        fn what_is_read_and_written_again_is_the_same(text in "[a,\"\n\r;\u{e9} ]{0,40}", delimiter in prop_oneof![Just(b','), Just(b';')]) {
            let mut cutter = Cutter::new(text.as_bytes(), Ends::Row { delimiter });
            let mut rows = Vec::new();
            let whole = loop {
                match cutter.next() {
                    Ok(Some(row)) => rows.push(row.bytes),
                    Ok(None) => break true,
                    Err(_) => break false,
                }
            };
            let cut = rows.concat();
            let fits = if whole { cut == text.as_bytes() } else { text.as_bytes().starts_with(&cut) };
            prop_assert!(fits);
            for row in rows {
                let Ok(fields) = fields(&row, delimiter) else { continue };
                let mut again = Vec::new();
                for (index, field) in fields.iter().enumerate() {
                    if index > 0 {
                        again.push(delimiter);
                    }
                    if !field.at.is_empty() {
                        write(super::text(&row, field).unwrap().as_bytes(), field.quoted, delimiter, &mut again);
                    }
                }
                // A return that does not end a line is only written in quotes.
                if !fields.iter().any(|field| !field.quoted && row[field.at.clone()].contains(&b'\r')) {
                    prop_assert_eq!(&again[..], content(&row));
                }
            }
        }
    }
}
