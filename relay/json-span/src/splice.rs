//! Replaces spans of a text.

/// One span and what stands there afterwards.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replacement<'a> {
    /// First byte that is replaced.
    pub start: usize,
    /// One past the last byte that is replaced.
    pub end: usize,
    /// What stands there afterwards.
    pub with: &'a [u8],
}

/// Replacements that cannot be spliced in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpliceError {
    /// They are not in ascending order, or overlap.
    Order,
    /// One reaches past the end of the text.
    Range,
}

impl std::fmt::Display for SpliceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Order => "replacements are out of order or overlap",
            Self::Range => "a replacement reaches past the end of the text",
        })
    }
}

impl std::error::Error for SpliceError {}

/// The text with every span replaced; all other bytes as they were. The result is allocated once, with its exact length.
///
/// # Errors
/// The replacements are out of order, overlap, or reach past the end.
pub fn splice(text: &[u8], replacements: &[Replacement<'_>]) -> Result<Vec<u8>, SpliceError> {
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
    let mut out = Vec::with_capacity(length);
    at = 0;
    for r in replacements {
        out.extend_from_slice(&text[at..r.start]);
        out.extend_from_slice(r.with);
        at = r.end;
    }
    out.extend_from_slice(&text[at..]);
    debug_assert_eq!(out.len(), length);
    Ok(out)
}
