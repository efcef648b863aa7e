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

/// Checks that the spans are in order, apart from one another and inside a text of this length; gives the length after each has become as long as it says.
fn spliced_len(text: usize, spans: impl Iterator<Item = (Range<usize>, usize)>) -> Result<usize, SpliceError> {
    let mut length = text;
    let mut at = 0;
    for (span, becomes) in spans {
        if span.start < at || span.end < span.start {
            return Err(SpliceError::Order);
        }
        if span.end > text {
            return Err(SpliceError::Range);
        }
        at = span.end;
        length = length - (span.end - span.start) + becomes;
    }
    Ok(length)
}

/// The text with every span replaced; all other bytes as they were. The result is allocated once, with its exact length.
///
/// # Errors
/// The replacements are out of order, overlap, or reach past the end.
pub fn splice(text: &[u8], replacements: &[Replacement<'_>]) -> Result<Vec<u8>, SpliceError> {
    let spans = replacements.iter().map(|r| (r.start..r.end, r.with.len()));
    let mut out = Vec::with_capacity(spliced_len(text.len(), spans)?);
    let mut at = 0;
    for r in replacements {
        out.extend_from_slice(&text[at..r.start]);
        out.extend_from_slice(r.with);
        at = r.end;
    }
    out.extend_from_slice(&text[at..]);
    Ok(out)
}

/// A text with spans of it replaced, in pieces: for sending it without putting it together (`writev`). Its `Debug` output shows no bytes.
pub struct Spliced<T> {
    text: T,
    written: Vec<u8>,
    places: Vec<(Range<usize>, Range<usize>)>,
    length: usize,
}

impl<T: AsRef<[u8]>> Spliced<T> {
    /// `places` are the spans of `text`, in ascending order, and which part of `written` stands in the place of each.
    ///
    /// # Errors
    /// The spans are out of order, overlap, or reach past the end; or a part reaches past the end of `written`.
    pub fn new(text: T, written: Vec<u8>, places: Vec<(Range<usize>, Range<usize>)>) -> Result<Self, SpliceError> {
        if places.iter().any(|(_, with)| with.start > with.end || with.end > written.len()) {
            return Err(SpliceError::Range);
        }
        let spans = places.iter().map(|(span, with)| (span.clone(), with.len()));
        let length = spliced_len(text.as_ref().len(), spans)?;
        Ok(Self { text, written, places, length })
    }

    /// Bytes of all pieces together.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether all pieces are empty.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The piece of this number, counted from 0, which may be empty; `None` after the last one.
    pub fn piece(&self, number: usize) -> Option<&[u8]> {
        let index = number / 2;
        if number % 2 == 1 {
            return self.places.get(index).map(|(_, with)| &self.written[with.clone()]);
        }
        if index > self.places.len() {
            return None;
        }
        let start = index.checked_sub(1).map_or(0, |before| self.places[before].0.end);
        let text = self.text.as_ref();
        Some(&text[start..self.places.get(index).map_or(text.len(), |(span, _)| span.start)])
    }
}

impl<T> fmt::Debug for Spliced<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Spliced({} bytes, {} spans replaced)", self.length, self.places.len())
    }
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
        let spliced = |places: &[(Range<usize>, Range<usize>)]| {
            Spliced::new(text, b"abc".to_vec(), places.to_vec()).map(|spliced| spliced.len())
        };
        assert_eq!(spliced(&[(3..10, 0..3), (10..10, 1..2)]), Ok(7));
        assert_eq!(spliced(&[(3..11, 0..0)]), Err(SpliceError::Range));
        assert_eq!(spliced(&[(3..4, 1..4)]), Err(SpliceError::Range));
        assert_eq!(spliced(&[(3..4, 4..4)]), Err(SpliceError::Range));
        assert_eq!(spliced(&[(3..4, Range { start: 2, end: 1 })]), Err(SpliceError::Range));
        assert_eq!(spliced(&[(3..4, 0..0), (2..3, 0..0)]), Err(SpliceError::Order));
    }

    #[test]
    fn debug_output_shows_no_bytes() {
        assert!(!format!("{:?}", by(1, 2, b"4242")).contains("42"));
        let spliced = Spliced::new(b"4343", b"4242".to_vec(), vec![(1..2, 0..4)]).unwrap();
        assert!(!format!("{spliced:?}").contains("42") && !format!("{spliced:?}").contains("43"));
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
            let (mut written, mut places) = (Vec::new(), Vec::new());
            for r in &replacements {
                places.push((r.start..r.end, written.len()..written.len() + r.with.len()));
                written.extend_from_slice(r.with);
            }
            let apart = Spliced::new(&text, written, places).unwrap();
            let put_together: Vec<u8> = (0..).map_while(|number| apart.piece(number)).flatten().copied().collect();
            proptest::prop_assert_eq!(apart.len(), put_together.len());
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
