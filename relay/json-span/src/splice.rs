//! Replaces spans of a text.

use std::fmt;
use std::ops::Range;

/// One span and what stands there afterwards. Its `Debug` output shows no bytes: they may be plaintext.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Replacement<'a> {
    /// First byte that is replaced.
    pub start: usize,
    /// One past the last byte that is replaced.
    pub end: usize,
    /// What stands there afterwards.
    pub with: &'a [u8],
}

impl fmt::Debug for Replacement<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Replacement({}..{} by {} bytes)", self.start, self.end, self.with.len())
    }
}

/// Replacements that cannot be spliced in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpliceError {
    /// They are not in ascending order, or overlap.
    Order,
    /// One reaches past the end of the text.
    Range,
}

impl fmt::Display for SpliceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Order => "replacements are out of order or overlap",
            Self::Range => "a replacement reaches past the end of the text",
        })
    }
}

impl std::error::Error for SpliceError {}

/// One piece of a spliced text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// Bytes of the text that stay as they are.
    Kept(Range<usize>),
    /// The replacement of this index.
    Replaced(usize),
}

/// Checks that the replacements are in order, apart from one another and inside the text; gives the spliced length.
fn spliced_len(text: &[u8], replacements: &[Replacement<'_>]) -> Result<usize, SpliceError> {
    let mut length = text.len();
    let mut at = 0;
    for r in replacements {
        if r.start < at || r.end < r.start {
            return Err(SpliceError::Order);
        }
        if r.end > text.len() {
            return Err(SpliceError::Range);
        }
        at = r.end;
        length = length - (r.end - r.start) + r.with.len();
    }
    Ok(length)
}

/// The text with every span replaced; all other bytes as they were. The result is allocated once, with its exact length.
///
/// # Errors
/// The replacements are out of order, overlap, or reach past the end.
pub fn splice(text: &[u8], replacements: &[Replacement<'_>]) -> Result<Vec<u8>, SpliceError> {
    let mut out = Vec::with_capacity(spliced_len(text, replacements)?);
    let mut at = 0;
    for r in replacements {
        out.extend_from_slice(&text[at..r.start]);
        out.extend_from_slice(r.with);
        at = r.end;
    }
    out.extend_from_slice(&text[at..]);
    Ok(out)
}

/// The pieces of the spliced text in order, for writing it without a copy (`writev`). Kept ranges are never empty.
///
/// # Errors
/// As [`splice`].
pub fn pieces(text: &[u8], replacements: &[Replacement<'_>]) -> Result<Vec<Piece>, SpliceError> {
    spliced_len(text, replacements)?;
    let mut pieces = Vec::with_capacity(2 * replacements.len() + 1);
    let mut at = 0;
    for (number, r) in replacements.iter().enumerate() {
        if at < r.start {
            pieces.push(Piece::Kept(at..r.start));
        }
        pieces.push(Piece::Replaced(number));
        at = r.end;
    }
    if at < text.len() {
        pieces.push(Piece::Kept(at..text.len()));
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn by(start: usize, end: usize, with: &[u8]) -> Replacement<'_> {
        Replacement { start, end, with }
    }

    #[test]
    fn replaces_spans_and_keeps_the_rest() {
        let text = b"0123456789";
        assert_eq!(splice(text, &[]).unwrap(), text);
        let spliced = splice(text, &[by(0, 1, b"ab"), by(1, 1, b"-"), by(4, 6, b""), by(9, 10, b"z")]).unwrap();
        assert_eq!(spliced, b"ab-123678z");
        assert_eq!(spliced.capacity(), spliced.len());
    }

    #[test]
    fn wrong_replacements_are_refused() {
        let text = b"0123456789";
        assert_eq!(splice(text, &[by(3, 2, b"")]), Err(SpliceError::Order));
        assert_eq!(splice(text, &[by(3, 4, b""), by(2, 3, b"")]), Err(SpliceError::Order));
        assert_eq!(splice(text, &[by(3, 6, b""), by(5, 7, b"")]), Err(SpliceError::Order));
        assert_eq!(splice(text, &[by(3, 11, b"")]), Err(SpliceError::Range));
        assert_eq!(pieces(text, &[by(3, 11, b"")]), Err(SpliceError::Range));
    }

    #[test]
    fn debug_output_shows_no_bytes() {
        assert!(!format!("{:?}", by(1, 2, b"4242")).contains("42"));
    }

    proptest::proptest! {
        #[test]
        fn pieces_are_the_spliced_text_and_splicing_back_gives_the_text(
            text in proptest::collection::vec(0u8.., 0..60),
            cuts in proptest::collection::vec((0usize..8, 0usize..8, proptest::collection::vec(0u8.., 0..5)), 0..8),
        ) {
            let (mut from, mut replacements) = (0, Vec::new());
            for (skip, take, with) in &cuts {
                let start = (from + skip).min(text.len());
                let end = (start + take).min(text.len());
                replacements.push(by(start, end, with));
                from = end;
            }
            let spliced = splice(&text, &replacements).unwrap();
            let put_together: Vec<u8> = pieces(&text, &replacements)
                .unwrap()
                .into_iter()
                .flat_map(|piece| match piece {
                    Piece::Kept(range) => text[range].to_vec(),
                    Piece::Replaced(number) => replacements[number].with.to_vec(),
                })
                .collect();
            proptest::prop_assert_eq!(&spliced, &put_together);
            let (mut shift, mut back) = (0isize, Vec::new());
            for r in &replacements {
                let start = (r.start as isize + shift) as usize;
                back.push(by(start, start + r.with.len(), &text[r.start..r.end]));
                shift += r.with.len() as isize - (r.end - r.start) as isize;
            }
            proptest::prop_assert_eq!(splice(&spliced, &back).unwrap(), text);
        }
    }
}
