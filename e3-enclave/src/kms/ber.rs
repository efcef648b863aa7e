//! Reads BER (ITU-T X.690) as far as CMS needs it: one-byte tags, definite and indefinite lengths.
//!
//! KMS answers in indefinite lengths, which DER readers refuse. Everything here is bounded: by the input, by [`DEPTH`], and every byte is read once.

/// Deepest nesting; CMS needs seven levels.
const DEPTH: usize = 16;

/// Bit 6 of a tag: the content is elements.
const CONSTRUCTED: u8 = 0x20;

/// Not the encoding that was expected. Never says more: the input is an attacker's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Malformed;

/// One element.
#[derive(Debug, PartialEq, Eq)]
pub struct Element<'a> {
    /// The tag byte, the constructed bit included.
    pub tag: u8,
    content: Content<'a>,
}

#[derive(Debug, PartialEq, Eq)]
enum Content<'a> {
    Primitive(&'a [u8]),
    Constructed(Vec<Element<'a>>),
}

impl<'a> Element<'a> {
    /// Reads text that is exactly one element.
    ///
    /// # Errors
    /// It is not, or nests too deeply.
    pub fn read(bytes: &'a [u8]) -> Result<Self, Malformed> {
        let mut rest = bytes;
        let element = element(&mut rest, DEPTH)?;
        if rest.is_empty() { Ok(element) } else { Err(Malformed) }
    }

    /// The elements inside a constructed element of this tag.
    ///
    /// # Errors
    /// It is another one, or primitive.
    pub fn inside(self, tag: u8) -> Result<Vec<Self>, Malformed> {
        match self.content {
            Content::Constructed(elements) if self.tag == tag => Ok(elements),
            _ => Err(Malformed),
        }
    }

    /// The same, for exactly this many elements.
    ///
    /// # Errors
    /// As [`Element::inside`], or there are more or fewer.
    pub fn exactly<const N: usize>(self, tag: u8) -> Result<[Self; N], Malformed> {
        self.inside(tag)?.try_into().map_err(|_| Malformed)
    }

    /// The bytes of a primitive element of this tag.
    ///
    /// # Errors
    /// It is another one, or constructed.
    pub fn bytes(&self, tag: u8) -> Result<&'a [u8], Malformed> {
        match self.content {
            Content::Primitive(bytes) if self.tag == tag => Ok(bytes),
            _ => Err(Malformed),
        }
    }

    /// The bytes of an octet string with this (context) tag: whole, or in pieces inside a constructed one.
    ///
    /// # Errors
    /// It is another one, or its pieces are no octet strings.
    pub fn octets(&self, tag: u8) -> Result<Vec<u8>, Malformed> {
        match &self.content {
            Content::Primitive(bytes) if self.tag == tag => Ok(bytes.to_vec()),
            Content::Constructed(pieces) if self.tag == tag | CONSTRUCTED => {
                let pieces = pieces.iter().map(|piece| piece.bytes(OCTET_STRING)).collect::<Result<Vec<_>, _>>()?;
                Ok(pieces.concat())
            }
            _ => Err(Malformed),
        }
    }
}

/// Universal tags that CMS uses.
pub const INTEGER: u8 = 0x02;
/// Octet string.
pub const OCTET_STRING: u8 = 0x04;
/// Null.
pub const NULL: u8 = 0x05;
/// Object identifier.
pub const OID: u8 = 0x06;
/// Sequence.
pub const SEQUENCE: u8 = 0x30;
/// Set.
pub const SET: u8 = 0x31;

fn element<'a>(rest: &mut &'a [u8], depth: usize) -> Result<Element<'a>, Malformed> {
    let depth = depth.checked_sub(1).ok_or(Malformed)?;
    let tag = byte(rest)?;
    // Tags of more than one byte, and end-of-contents where no indefinite length is open.
    if tag & 0x1f == 0x1f || tag == 0 {
        return Err(Malformed);
    }
    let constructed = tag & CONSTRUCTED != 0;
    let length = match byte(rest)? {
        0x80 if constructed => None,
        short @ 0..0x80 => Some(usize::from(short)),
        long @ 0x81..=0x84 => {
            let mut length = 0usize;
            for _ in 0x80..long {
                length = length << 8 | usize::from(byte(rest)?);
            }
            Some(length)
        }
        _ => return Err(Malformed),
    };
    let content = match length {
        Some(length) => {
            let (mut content, after) = rest.split_at_checked(length).ok_or(Malformed)?;
            *rest = after;
            if constructed {
                let mut elements = Vec::new();
                while !content.is_empty() {
                    elements.push(element(&mut content, depth)?);
                }
                Content::Constructed(elements)
            } else {
                Content::Primitive(content)
            }
        }
        None => {
            let mut elements = Vec::new();
            loop {
                if let Some(after) = rest.strip_prefix(&[0, 0]) {
                    *rest = after;
                    break;
                }
                elements.push(element(rest, depth)?);
            }
            Content::Constructed(elements)
        }
    };
    Ok(Element { tag, content })
}

fn byte(rest: &mut &[u8]) -> Result<u8, Malformed> {
    let (first, after) = rest.split_first().ok_or(Malformed)?;
    *rest = after;
    Ok(*first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definite_and_indefinite_lengths_say_the_same() {
        let definite = Element::read(&[0x30, 0x05, 0x02, 0x01, 0x02, 0x05, 0x00]).unwrap();
        let indefinite = Element::read(&[0x30, 0x80, 0x02, 0x01, 0x02, 0x05, 0x00, 0x00, 0x00]).unwrap();
        let long = Element::read(&[0x30, 0x82, 0x00, 0x05, 0x02, 0x01, 0x02, 0x05, 0x00]).unwrap();
        assert_eq!(definite, indefinite);
        assert_eq!(definite, long);
        let pieces = Element::read(&[0xa0, 0x80, 0x04, 0x01, 1, 0x04, 0x02, 2, 3, 0, 0]).unwrap();
        assert_eq!(pieces.octets(0x80), Ok(vec![1, 2, 3]));
        assert_eq!(Element::read(&[0x80, 0x03, 1, 2, 3]).unwrap().octets(0x80), Ok(vec![1, 2, 3]));
    }

    #[test]
    fn what_is_cut_too_deep_or_trailed_is_refused() {
        for bad in [
            &[][..],
            &[0x30],
            &[0x30, 0x01],
            &[0x30, 0x80],
            &[0x30, 0x80, 0x00],
            &[0x04, 0x80, 0x00, 0x00],
            &[0x00, 0x00],
            &[0x1f, 0x01, 0x00],
            &[0x30, 0x85, 0, 0, 0, 0, 0],
            &[0x05, 0x00, 0x00],
            &[0x04, 0xff],
        ] {
            assert_eq!(Element::read(bad), Err(Malformed), "{bad:02x?}");
        }
        let nested = |n: usize| [[0x30, 0x80].repeat(n), [0, 0].repeat(n)].concat();
        assert!(Element::read(&nested(DEPTH)).is_ok());
        assert_eq!(Element::read(&nested(DEPTH + 1)), Err(Malformed));
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(0u8.., 0..300)) {
            let _ = Element::read(&bytes);
        }
    }
}
