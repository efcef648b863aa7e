//! One normalisation of paths, and patterns over what it yields.
//!
//! A path that two programs could read differently is refused; what is left is compared segment by segment, percent-decoded
//! once (RFC 3986 §6.2.2). One slash at the end is overlooked, as most backends do: `/v1/orders/` meets the rules of
//! `/v1/orders`. What is forwarded is always the client's own spelling.

use std::borrow::Cow;

use super::glob::{TextGlob, fold};
use crate::error::PathFault;

/// A path with one reading: its segments decoded, joined by `/`, none of which a segment can hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NormalPath<'a> {
    text: Cow<'a, str>,
    folded: bool,
}

impl<'a> NormalPath<'a> {
    /// Reads a path, query excluded. `*` (of `OPTIONS *`) has no segments. A path without escapes is borrowed.
    ///
    /// # Errors
    /// The path has more than one reading.
    pub fn read(path: &'a str) -> Result<Self, PathFault> {
        if path == "*" {
            return Ok(Self { text: Cow::Borrowed(""), folded: false });
        }
        let rest = path.strip_prefix('/').ok_or(PathFault::Malformed)?;
        // One look over the bytes: ordinary paths need no other.
        let mut escaped = false;
        for b in rest.bytes() {
            match b {
                b'\\' => return Err(PathFault::Backslash),
                b';' => return Err(PathFault::Parameter),
                b'%' => escaped = true,
                // A fragment is cut off by some and kept by others.
                b'#' | b'?' => return Err(PathFault::Malformed),
                0x21..=0x7e => {}
                _ => return Err(PathFault::Malformed),
            }
        }
        let rest = match rest.strip_suffix('/') {
            Some("") => return Err(PathFault::EmptySegment),
            Some(rest) => rest,
            None if rest.is_empty() => return Ok(Self { text: Cow::Borrowed(""), folded: false }),
            None => rest,
        };
        if !escaped {
            rest.as_bytes().split(|b| *b == b'/').try_for_each(check_segment)?;
            return Ok(Self { text: Cow::Borrowed(rest), folded: false });
        }
        let mut text = String::with_capacity(rest.len());
        for (n, segment) in rest.split('/').enumerate() {
            let decoded = decode(segment)?;
            check_segment(decoded.as_bytes())?;
            if n > 0 {
                text.push('/');
            }
            text.push_str(&decoded);
        }
        Ok(Self { text: Cow::Owned(text), folded: false })
    }

    /// The same path in folded case, for sites with `fold_case: true`.
    #[must_use]
    pub fn folded(self) -> Self {
        match fold(&self.text) {
            Cow::Borrowed(_) => Self { folded: true, ..self },
            Cow::Owned(text) => Self { text: Cow::Owned(text), folded: true },
        }
    }

    /// The path as it is compared, for people.
    #[must_use]
    pub fn shown(&self) -> String {
        format!("/{}", self.text)
    }
}

fn check_segment(segment: &[u8]) -> Result<(), PathFault> {
    match segment {
        b"" => Err(PathFault::EmptySegment),
        b"." | b".." => Err(PathFault::DotSegment),
        _ => Ok(()),
    }
}

fn decode(text: &str) -> Result<Cow<'_, str>, PathFault> {
    if !text.contains('%') {
        return Ok(Cow::Borrowed(text));
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        rest = tail;
        if *byte != b'%' {
            out.push(*byte);
            continue;
        }
        let &[high, low, ..] = rest else { return Err(PathFault::Escape) };
        let (Some(high), Some(low)) = (hex(high), hex(low)) else { return Err(PathFault::Escape) };
        rest = &rest[2..];
        match high << 4 | low {
            b'/' | b'\\' | 0 => return Err(PathFault::EncodedDelimiter),
            b';' => return Err(PathFault::Parameter),
            0x01..=0x1f | 0x7f => return Err(PathFault::Malformed),
            byte => out.push(byte),
        }
    }
    // Decoded once more somewhere behind us, it would be another path.
    if out.windows(3).any(|w| w[0] == b'%' && hex(w[1]).is_some() && hex(w[2]).is_some()) {
        return Err(PathFault::Escape);
    }
    String::from_utf8(out).map(Cow::Owned).map_err(|_| PathFault::Escape)
}

fn hex(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|d| d as u8)
}

/// The segments of a normal path; copied, it remembers a place.
#[derive(Clone, Copy)]
struct Segments<'a>(Option<&'a str>);

impl<'a> Segments<'a> {
    fn of(text: &'a str) -> Self {
        Self(if text.is_empty() { None } else { Some(text) })
    }
}

impl<'a> Iterator for Segments<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let text = self.0?;
        match memchr::memchr(b'/', text.as_bytes()) {
            Some(at) => {
                self.0 = Some(&text[at + 1..]);
                Some(&text[..at])
            }
            None => {
                self.0 = None;
                Some(text)
            }
        }
    }
}

/// A path pattern: `*` stands for any part of one segment, `**` for any number of whole segments, none included.
#[derive(Debug, Clone)]
pub struct PathGlob {
    source: Box<str>,
    /// The segments in front of the first that has a star, joined by `/`: most patterns have little else.
    start: Box<str>,
    /// The rest.
    parts: Box<[Part]>,
    fold: bool,
}

/// Two spellings of one pattern are equal.
impl PartialEq for PathGlob {
    fn eq(&self, other: &Self) -> bool {
        (&self.start, &self.parts, self.fold) == (&other.start, &other.parts, other.fold)
    }
}

impl Eq for PathGlob {}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// `**`.
    Any,
    /// One segment.
    One(TextGlob),
}

/// Why a pattern is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum GlobError {
    /// Does not start with `/`.
    #[error("a path pattern starts with /, for example /v1/orders/**")]
    NotAbsolute,
    /// `**` beside other text in one segment.
    #[error("** stands alone between slashes: /a/**/b")]
    DoubleStar,
    /// A query or a fragment.
    #[error("the query is no part of the path: leave out what starts at ? or #")]
    Query,
    /// A path that never occurs: the normalisation refuses it.
    #[error(
        "no request ever has this path: dot segments, empty segments, ;, \\ and encoded slashes are refused with 400"
    )]
    Unreachable,
}

impl PathGlob {
    /// Compiles a pattern; with `fold` letters match in either case. Escapes mean what they mean in a path: `%2a` is a star that
    /// stands for itself.
    ///
    /// # Errors
    /// The pattern is malformed, or matches nothing that can occur.
    pub fn new(source: &str, fold: bool) -> Result<Self, GlobError> {
        let text = source.strip_prefix('/').ok_or(GlobError::NotAbsolute)?;
        if text.contains(['?', '#']) {
            return Err(GlobError::Query);
        }
        if text.contains([';', '\\']) || text.contains(char::is_control) {
            return Err(GlobError::Unreachable);
        }
        let text = text.strip_suffix('/').filter(|t| !t.is_empty()).unwrap_or(text);
        let segments: Vec<_> = if text.is_empty() { Vec::new() } else { text.split('/').collect() };
        let mut start = String::new();
        let mut parts = Vec::new();
        for (n, segment) in segments.into_iter().enumerate() {
            let part = Part::new(segment, fold)?;
            match &part {
                Part::One(glob) if parts.is_empty() && glob.literal().is_some() => {
                    if n > 0 {
                        start.push('/');
                    }
                    start.push_str(glob.literal().unwrap_or_default());
                }
                _ => parts.push(part),
            }
        }
        Ok(Self { source: source.into(), start: start.into(), parts: parts.into(), fold })
    }

    /// Whether letters match in either case.
    #[must_use]
    pub fn is_folded(&self) -> bool {
        self.fold
    }

    /// The pattern as written.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the path meets the pattern. Time is the product of their lengths at worst.
    #[must_use]
    pub fn matches(&self, path: &NormalPath<'_>) -> bool {
        let again;
        let text: &str = if self.fold && !path.folded {
            again = fold(&path.text);
            &again
        } else {
            &path.text
        };
        let Some(rest) = text.strip_prefix(&*self.start) else { return false };
        // What follows the start must be at the border of a segment.
        let rest = match rest.strip_prefix('/') {
            Some(rest) if !self.start.is_empty() => rest,
            None if self.start.is_empty() || rest.is_empty() => rest,
            _ => return false,
        };
        match &*self.parts {
            [] => rest.is_empty(),
            [Part::Any] => true,
            parts => meets(parts, Segments::of(rest)),
        }
    }

    /// Whether some path meets both patterns.
    #[must_use]
    pub fn can_meet(&self, other: &Self) -> bool {
        let parts = |glob: &Self, fold_it: bool| -> Vec<Part> {
            let fixed = Segments::of(&glob.start).map(|s| Part::One(TextGlob::of_pieces(vec![s.into()])));
            fixed.chain(glob.parts.iter().cloned()).map(|p| if fold_it { p.folded() } else { p }).collect()
        };
        let fold = self.fold || other.fold;
        let (a, b) = (parts(self, fold), parts(other, fold));
        // meet[j]: whether what is left of `a` and `b[j..]` share a path; filled from the ends.
        let only_any = |parts: &[Part]| parts.iter().all(|p| *p == Part::Any);
        let mut meet: Vec<bool> = (0..=b.len()).map(|j| only_any(&b[j..])).collect();
        for i in (0..a.len()).rev() {
            let next = std::mem::replace(&mut meet, vec![false; b.len() + 1]);
            meet[b.len()] = only_any(&a[i..]);
            for j in (0..b.len()).rev() {
                meet[j] = match (&a[i], &b[j]) {
                    (Part::Any, Part::Any) => next[j] || meet[j + 1],
                    (Part::Any, Part::One(_)) => next[j] || meet[j + 1],
                    (Part::One(_), Part::Any) => meet[j + 1] || next[j],
                    (Part::One(x), Part::One(y)) => x.can_meet(y) && next[j + 1],
                };
            }
        }
        meet[0]
    }
}

/// The classic two-pointer match: on a mismatch, the last `**` takes one segment more.
fn meets(parts: &[Part], mut segments: Segments<'_>) -> bool {
    let mut left = parts;
    let mut retry: Option<(&[Part], Segments<'_>)> = None;
    loop {
        if let [Part::Any, after @ ..] = left {
            left = after;
            retry = Some((after, segments));
            continue;
        }
        let here = segments;
        let taken = match (left, segments.next()) {
            ([Part::One(glob), after @ ..], Some(segment)) if glob.matches(segment) => {
                left = after;
                true
            }
            ([], None) => return true,
            // Too few segments: no longer `**` leaves more of them.
            (_, None) => return false,
            _ => false,
        };
        if !taken {
            let Some((after, mut from)) = retry else { return false };
            if from.next().is_none() {
                return false;
            }
            debug_assert!(here.0.is_some());
            (left, segments) = (after, from);
            retry = Some((after, from));
        }
    }
}

impl Part {
    fn new(segment: &str, fold_it: bool) -> Result<Self, GlobError> {
        if segment == "**" {
            return Ok(Self::Any);
        }
        if segment.contains("**") {
            return Err(GlobError::DoubleStar);
        }
        let pieces = segment.split('*').map(decode).collect::<Result<Vec<_>, _>>();
        let pieces = pieces.map_err(|_| GlobError::Unreachable)?;
        if let [only] = &*pieces {
            check_segment(only.as_bytes()).map_err(|_| GlobError::Unreachable)?;
        }
        let piece = |text: &Cow<'_, str>| if fold_it { fold(text).into() } else { Box::from(&**text) };
        Ok(Self::One(TextGlob::of_pieces(pieces.iter().map(piece).collect())))
    }

    fn folded(self) -> Self {
        match self {
            Self::Any => Self::Any,
            Self::One(glob) => Self::One(glob.folded()),
        }
    }
}
