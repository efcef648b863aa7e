//! The part of CBOR (RFC 8949) that attestation documents use: definite lengths, each length and number in its shortest form, nothing behind the end. Reading
//! borrows; a text has one reading or none, so nobody else can read the same bytes as something else.

use crate::error::{AttestError, CborFault};

/// Reads CBOR items from the front of a slice.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

/// A byte string, with its bytes as they stood, head included.
pub(crate) struct ByteString<'a> {
    pub(crate) content: &'a [u8],
    pub(crate) raw: &'a [u8],
}

const UNSIGNED: u8 = 0;
const BYTES: u8 = 2;
const TEXT: u8 = 3;
const ARRAY: u8 = 4;
const MAP: u8 = 5;
const NULL: u8 = 0xf6;

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn fault<T>(&self, fault: CborFault) -> Result<T, AttestError> {
        Err(AttestError::Malformed { at: self.at, fault })
    }

    /// The major type of what comes next.
    pub(crate) fn next_is_array(&self) -> bool {
        self.bytes.get(self.at).is_some_and(|b| b >> 5 == ARRAY)
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], AttestError> {
        let rest = &self.bytes[self.at..];
        match rest.get(..count) {
            Some(taken) => {
                self.at += count;
                Ok(taken)
            }
            None => self.fault(CborFault::Truncated),
        }
    }

    /// The argument of a head of this major type, which must be in its shortest form.
    fn head(&mut self, major: u8) -> Result<u64, AttestError> {
        let Some(&first) = self.bytes.get(self.at) else { return self.fault(CborFault::Truncated) };
        if first >> 5 != major {
            return self.fault(CborFault::Type);
        }
        let short = first & 0x1f;
        let width = match short {
            0..=23 => {
                self.at += 1;
                return Ok(u64::from(short));
            }
            24..=27 => 1 << (short - 24),
            // 28 to 30 are undefined, 31 is an indefinite length.
            _ => return self.fault(CborFault::NotCanonical),
        };
        let Some(digits) = self.bytes.get(self.at + 1..self.at + 1 + width) else {
            return self.fault(CborFault::Truncated);
        };
        let value = digits.iter().fold(0, |value, digit| value << 8 | u64::from(*digit));
        let least = match width {
            1 => 24,
            2 => 1 << 8,
            4 => 1 << 16,
            _ => 1 << 32,
        };
        if value < least {
            return self.fault(CborFault::NotCanonical);
        }
        self.at += 1 + width;
        Ok(value)
    }

    /// A length; one that does not fit the machine is longer than any document.
    fn length(&mut self, major: u8) -> Result<usize, AttestError> {
        let at = self.at;
        let value = self.head(major)?;
        usize::try_from(value).map_err(|_| AttestError::Malformed { at, fault: CborFault::Truncated })
    }

    pub(crate) fn unsigned(&mut self) -> Result<u64, AttestError> {
        self.head(UNSIGNED)
    }

    pub(crate) fn bytes(&mut self) -> Result<ByteString<'a>, AttestError> {
        let start = self.at;
        let length = self.length(BYTES)?;
        let content = self.take(length)?;
        Ok(ByteString { content, raw: &self.bytes[start..self.at] })
    }

    pub(crate) fn text(&mut self) -> Result<&'a str, AttestError> {
        let length = self.length(TEXT)?;
        let content = self.take(length)?;
        std::str::from_utf8(content).or_else(|_| self.fault(CborFault::Text))
    }

    /// How many items the array has.
    pub(crate) fn array(&mut self) -> Result<usize, AttestError> {
        self.length(ARRAY)
    }

    /// How many pairs the map has.
    pub(crate) fn map(&mut self) -> Result<usize, AttestError> {
        self.length(MAP)
    }

    /// Steps over a null, if one comes next.
    pub(crate) fn null(&mut self) -> bool {
        let null = self.bytes.get(self.at) == Some(&NULL);
        self.at += usize::from(null);
        null
    }

    /// Nothing may follow.
    pub(crate) fn end(&self) -> Result<(), AttestError> {
        if self.at == self.bytes.len() { Ok(()) } else { self.fault(CborFault::Trailing) }
    }
}

/// Appends a head in its shortest form.
fn write_head(out: &mut Vec<u8>, major: u8, value: u64) {
    let wide = value.to_be_bytes();
    let (short, digits) = match value {
        0..=23 => (wide[7], &wide[8..]),
        24..=0xff => (24, &wide[7..]),
        0x100..=0xffff => (25, &wide[6..]),
        0x1_0000..=0xffff_ffff => (26, &wide[4..]),
        _ => (27, &wide[..]),
    };
    out.push(major << 5 | short);
    out.extend_from_slice(digits);
}

/// Appends a byte string.
pub(crate) fn write_bytes(out: &mut Vec<u8>, content: &[u8]) {
    write_head(out, BYTES, content.len() as u64);
    out.extend_from_slice(content);
}

/// Appends a text string.
pub(crate) fn write_text(out: &mut Vec<u8>, content: &str) {
    write_head(out, TEXT, content.len() as u64);
    out.extend_from_slice(content.as_bytes());
}

/// Appends the head of an array.
pub(crate) fn write_array(out: &mut Vec<u8>, items: u64) {
    write_head(out, ARRAY, items);
}

/// What only documents of test authorities need.
#[cfg(feature = "make")]
pub(crate) mod made {
    use super::{MAP, NULL, UNSIGNED, write_head};

    pub(crate) fn write_unsigned(out: &mut Vec<u8>, value: u64) {
        write_head(out, UNSIGNED, value);
    }

    pub(crate) fn write_map(out: &mut Vec<u8>, pairs: u64) {
        write_head(out, MAP, pairs);
    }

    pub(crate) fn write_null(out: &mut Vec<u8>) {
        out.push(NULL);
    }
}
