//! One normalisation of paths, and patterns over what it yields.
//!
//! A path that two programs could read differently is refused; what is left is compared segment by segment, percent-decoded
//! once (RFC 3986 §6.2.2). One slash at the end is overlooked, as most backends do: `/v1/orders/` meets the rules of
//! `/v1/orders`. Blanks and dots at the end of a segment are overlooked, as some hosts do: `/v1/orders.` and `/v1/orders%20`
//! meet them too; a segment of nothing else is refused. What is forwarded is always the client's own spelling.
//!
//! Letters match in either case only where a site says `fold_case: true`, and a suffix is part of its segment: for backends that
//! route `/v1/orders.json` as `/v1/orders`, rules name both.

use std::borrow::Cow;

use super::glob::{TextGlob, fold};
use crate::error::PathFault;

/// A path with one reading: its segments decoded, joined by `/`, none of which a segment can hold.
#[derive(Debug, Clone)]
pub struct NormalPath<'a> {
    /// Without blanks and dots at the end of segments.
    text: Cow<'a, str>,
    /// With them, where there are some.
    whole: Option<Box<str>>,
    folded: bool,
}

/// Two spellings of one path are equal.
impl PartialEq for NormalPath<'_> {
    fn eq(&self, other: &Self) -> bool {
        (&self.text, self.folded) == (&other.text, other.folded)
    }
}

impl Eq for NormalPath<'_> {}

impl<'a> NormalPath<'a> {
    /// Reads a path, query excluded. `*` (of `OPTIONS *`) has no segments. A path without escapes is borrowed.
    ///
    /// # Errors
    /// The path has more than one reading.
    pub fn read(path: &'a str) -> Result<Self, PathFault> {
        let borrowed = |text| Self { text: Cow::Borrowed(text), whole: None, folded: false };
        if path == "*" {
            return Ok(borrowed(""));
        }
        let rest = path.strip_prefix('/').ok_or(PathFault::Malformed)?;
        // One look over the bytes: ordinary paths need no other.
        let (mut escaped, mut dotted, mut last) = (false, false, b'/');
        for b in rest.bytes() {
            dotted |= last == b'.' && b == b'/';
            last = b;
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
            None if rest.is_empty() => return Ok(borrowed("")),
            None => rest,
        };
        if !escaped && !dotted && last != b'.' {
            rest.split('/').try_for_each(|segment| trimmed(segment).map(drop))?;
            return Ok(borrowed(rest));
        }
        let (mut text, mut whole) = (String::with_capacity(rest.len()), String::with_capacity(rest.len()));
        for (n, segment) in rest.split('/').enumerate() {
            let decoded = decode(segment)?;
            if n > 0 {
                text.push('/');
                whole.push('/');
            }
            text.push_str(trimmed(&decoded)?);
            whole.push_str(&decoded);
        }
        let whole = (whole != text).then(|| whole.into());
        Ok(Self { text: Cow::Owned(text), whole, folded: false })
    }

    /// The same path in folded case, for sites with `fold_case: true`.
    #[must_use]
    pub fn folded(self) -> Self {
        let whole = self.whole.as_deref().map(|whole| fold(whole).into());
        match fold(&self.text) {
            Cow::Borrowed(_) => Self { whole, folded: true, ..self },
            Cow::Owned(text) => Self { text: Cow::Owned(text), whole, folded: true },
        }
    }

    /// The path as it is compared, for people.
    #[must_use]
    pub fn shown(&self) -> String {
        format!("/{}", self.text)
    }
}

/// A segment without the blanks and dots at its end, which some hosts drop.
fn trimmed(segment: &str) -> Result<&str, PathFault> {
    match segment.trim_end_matches(|c: char| c == '.' || c.is_whitespace()) {
        "" if segment.is_empty() => Err(PathFault::EmptySegment),
        "" => Err(PathFault::DotSegment),
        rest => Ok(rest),
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
        "no request ever has this path: segments of dots and blanks, empty segments, ;, \\ and encoded slashes are refused with 400"
    )]
    Unreachable,
}

impl PathGlob {
    /// Compiles a pattern; with `fold` letters match in either case. Escapes, and blanks and dots at the end of a segment, mean what
    /// they mean in a path: `%2a` is a star that stands for itself.
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

    /// Whether the path meets the pattern, with or without the blanks and dots at the end of its segments. Time is the product of their lengths at worst.
    #[must_use]
    pub fn matches(&self, path: &NormalPath<'_>) -> bool {
        self.has(&path.text, path.folded) || path.whole.as_deref().is_some_and(|whole| self.has(whole, path.folded))
    }

    /// The same, however the path is read: for what opens something.
    #[must_use]
    pub fn matches_surely(&self, path: &NormalPath<'_>) -> bool {
        self.has(&path.text, path.folded) && path.whole.as_deref().is_none_or(|whole| self.has(whole, path.folded))
    }

    fn has(&self, text: &str, folded: bool) -> bool {
        let again;
        let text: &str = if self.fold && !folded {
            again = fold(text);
            &again
        } else {
            text
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

    /// All segments, those of the start included.
    fn segments(&self, fold_it: bool) -> Vec<Part> {
        let fixed = Segments::of(&self.start).map(|s| Part::One(TextGlob::of_pieces(vec![s.into()])));
        fixed.chain(self.parts.iter().cloned()).map(|p| if fold_it { p.folded() } else { p }).collect()
    }

    /// Whether every path of the other pattern meets this one. `false` where that would take more than a look at their segments one by one.
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        let fold = self.fold || other.fold;
        let (a, b) = (self.segments(fold), other.segments(fold));
        // covered[j]: whether what is left of `a` takes all of `b[j..]`; filled from the ends.
        let mut covered: Vec<bool> = (0..=b.len()).map(|j| j == b.len()).collect();
        for part in a.iter().rev() {
            let next = std::mem::replace(&mut covered, vec![false; b.len() + 1]);
            for j in (0..=b.len()).rev() {
                covered[j] = match (part, b.get(j)) {
                    (Part::Any, None) => next[j],
                    (Part::Any, Some(_)) => next[j] || covered[j + 1],
                    (Part::One(x), Some(Part::One(y))) => is_wider(x, y) && next[j + 1],
                    (Part::One(_), _) => false,
                };
            }
        }
        covered[0]
    }

    /// Whether some path meets both patterns.
    #[must_use]
    pub fn can_meet(&self, other: &Self) -> bool {
        let fold = self.fold || other.fold;
        let (a, b) = (self.segments(fold), other.segments(fold));
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

/// Whether every text of the second pattern meets the first, as far as can be told at a glance.
fn is_wider(wide: &TextGlob, narrow: &TextGlob) -> bool {
    wide == narrow || *wide == TextGlob::new("*") || narrow.literal().is_some_and(|text| wide.matches(text))
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
        let ends = pieces.len() - 1;
        let piece = |(n, text): (usize, &Cow<'_, str>)| {
            // As a path's segment; behind a star, nothing may be left.
            let text = match trimmed(text) {
                _ if n < ends => text,
                Ok(text) => text,
                Err(_) if ends > 0 => "",
                Err(_) => return Err(GlobError::Unreachable),
            };
            Ok(if fold_it { fold(text).into() } else { Box::from(text) })
        };
        Ok(Self::One(TextGlob::of_pieces(pieces.iter().enumerate().map(piece).collect::<Result<_, _>>()?)))
    }

    fn folded(self) -> Self {
        match self {
            Self::Any => Self::Any,
            Self::One(glob) => Self::One(glob.folded()),
        }
    }
}
