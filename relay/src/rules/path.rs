//! One normalisation of paths, and globs over what it yields.
//!
//! A path that two programs could read differently is refused; what is left is compared segment by segment, percent-decoded
//! (RFC 3986 §6.2.2). One slash at the end is overlooked, as most backends do: `/v1/orders/` meets the rules of `/v1/orders`.
//! What is forwarded is always the client's own spelling.

use std::borrow::Cow;

use crate::error::PathFault;

/// The segments of a path, decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NormalPath<'a> {
    segments: Vec<Cow<'a, str>>,
}

impl<'a> NormalPath<'a> {
    /// Reads a path, query excluded. `*` (of `OPTIONS *`) has no segments.
    ///
    /// # Errors
    /// The path has more than one reading.
    pub fn read(path: &'a str) -> Result<Self, PathFault> {
        if path == "*" {
            return Ok(Self { segments: Vec::new() });
        }
        let rest = path.strip_prefix('/').ok_or(PathFault::Malformed)?;
        // One look over the bytes: ordinary paths need no other.
        for b in rest.bytes() {
            match b {
                b'\\' => return Err(PathFault::Backslash),
                b';' => return Err(PathFault::Parameter),
                0x21..=0x7e => {}
                _ => return Err(PathFault::Malformed),
            }
        }
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        if rest.is_empty() {
            return if path.len() <= 1 { Ok(Self { segments: Vec::new() }) } else { Err(PathFault::EmptySegment) };
        }
        let segments = rest.split('/').map(segment).collect::<Result<_, _>>()?;
        Ok(Self { segments })
    }
}

fn segment(text: &str) -> Result<Cow<'_, str>, PathFault> {
    if text.is_empty() {
        return Err(PathFault::EmptySegment);
    }
    let decoded = decode(text)?;
    if matches!(&*decoded, "." | "..") { Err(PathFault::DotSegment) } else { Ok(decoded) }
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
        let digit = |at: usize| rest.get(at).and_then(|b| char::from(*b).to_digit(16));
        let (Some(high), Some(low)) = (digit(0), digit(1)) else { return Err(PathFault::Escape) };
        rest = &rest[2..];
        match (high << 4 | low) as u8 {
            b'/' | b'\\' | 0 => return Err(PathFault::EncodedDelimiter),
            b';' => return Err(PathFault::Parameter),
            // Decoded once more somewhere behind us, it would be another path.
            b'%' => return Err(PathFault::Escape),
            0x01..=0x1f | 0x7f => return Err(PathFault::Malformed),
            byte => out.push(byte),
        }
    }
    String::from_utf8(out).map(Cow::Owned).map_err(|_| PathFault::Escape)
}

/// A path pattern: `*` stands for any part of one segment, `**` for any number of whole segments, none included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathGlob {
    source: Box<str>,
    segments: Vec<Part>,
    fold: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Part {
    /// `**`.
    Any,
    /// Text without a star.
    Text(Box<str>),
    /// Text around stars: at least two pieces, the first and the last anchored.
    Pieces(Vec<Box<str>>),
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
    /// A path that never occurs: the normalisation refuses it.
    #[error(
        "no request ever has this path: dot segments, empty segments, ;, \\ and encoded slashes are refused with 400"
    )]
    Unreachable,
}

impl PathGlob {
    /// Compiles a pattern; with `fold` letters match in either case.
    ///
    /// # Errors
    /// The pattern is malformed, or matches nothing that can occur.
    pub fn new(source: &str, fold: bool) -> Result<Self, GlobError> {
        if !source.starts_with('/') {
            return Err(GlobError::NotAbsolute);
        }
        // Stars aside, a pattern is a path, spelled in any way that means it.
        let path = NormalPath::read(source).map_err(|_| GlobError::Unreachable)?;
        let mut segments = Vec::with_capacity(path.segments.len());
        for segment in path.segments {
            let text = if fold { fold_text(&segment) } else { segment.into_owned() };
            segments.push(match &*text {
                "**" => Part::Any,
                text if text.contains("**") => return Err(GlobError::DoubleStar),
                text if text.contains('*') => Part::Pieces(text.split('*').map(Into::into).collect()),
                text => Part::Text(text.into()),
            });
        }
        Ok(Self { source: source.into(), segments, fold })
    }

    /// The pattern as written.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether the path meets the pattern. Time is the product of their lengths at worst.
    #[must_use]
    pub fn matches(&self, path: &NormalPath<'_>) -> bool {
        // The classic two-pointer match: on a mismatch, the last `**` takes one segment more.
        let (mut p, mut s) = (0, 0);
        let mut star: Option<(usize, usize)> = None;
        while s < path.segments.len() {
            match self.segments.get(p) {
                Some(Part::Any) => {
                    star = Some((p, s));
                    p += 1;
                }
                Some(part) if part.takes(&path.segments[s], self.fold) => {
                    p += 1;
                    s += 1;
                }
                _ => match &mut star {
                    Some((at, from)) => {
                        *from += 1;
                        (p, s) = (*at + 1, *from);
                    }
                    None => return false,
                },
            }
        }
        self.segments[p..].iter().all(|part| *part == Part::Any)
    }

    /// Whether some path meets both patterns; true when in doubt.
    #[must_use]
    pub fn can_meet(&self, other: &Self) -> bool {
        fn meet(a: &[Part], b: &[Part]) -> bool {
            match (a, b) {
                ([], rest) | (rest, []) => rest.iter().all(|p| *p == Part::Any),
                ([Part::Any, x @ ..], [_, y @ ..]) if meet(x, b) || meet(a, y) => true,
                ([_, x @ ..], [Part::Any, y @ ..]) if meet(a, y) || meet(x, b) => true,
                ([Part::Any, ..], _) | (_, [Part::Any, ..]) => false,
                ([Part::Text(s), x @ ..], [Part::Text(t), y @ ..]) => s.eq_ignore_ascii_case(t) && meet(x, y),
                ([_, x @ ..], [_, y @ ..]) => meet(x, y),
            }
        }
        meet(&self.segments, &other.segments)
    }
}

impl Part {
    fn takes(&self, segment: &str, fold: bool) -> bool {
        let folded;
        let segment = if fold {
            folded = fold_text(segment);
            &folded
        } else {
            segment
        };
        match self {
            Self::Any => false,
            Self::Text(text) => **text == *segment,
            Self::Pieces(pieces) => takes_pieces(pieces, segment),
        }
    }
}

fn takes_pieces(pieces: &[Box<str>], segment: &str) -> bool {
    let [first, middle @ .., last] = pieces else { return false };
    let Some(mut rest) = segment.strip_prefix(&**first) else { return false };
    for piece in middle {
        let Some(at) = rest.find(&**piece) else { return false };
        rest = &rest[at + piece.len()..];
    }
    rest.ends_with(&**last)
}

fn fold_text(text: &str) -> String {
    text.chars().flat_map(char::to_lowercase).collect()
}

/// A host name for the host table: lower case, without port and without the dot at its end.
///
/// The gate let only `host[:port]` through, so what is cut off is a port.
#[must_use]
pub fn normal_host(host: &str) -> String {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_one_reading_or_none() {
        use PathFault::{Backslash, DotSegment, EmptySegment, EncodedDelimiter, Escape, Malformed, Parameter};
        let read = |path| NormalPath::read(path).map(|p| p.segments.iter().map(|s| s.to_string()).collect::<Vec<_>>());
        let good: &[(&str, &[&str])] = &[
            ("/", &[]),
            ("*", &[]),
            ("/v1/orders", &["v1", "orders"]),
            ("/v1/orders/", &["v1", "orders"]),
            ("/v1/%6frders", &["v1", "orders"]),
            ("/v1/%6Frders", &["v1", "orders"]),
            ("/%E2%82%AC", &["€"]),
            ("/a%20b", &["a b"]),
            ("/a.b/..c/.d/...", &["a.b", "..c", ".d", "..."]),
            ("/a:b@c!$&'()*+,=~-_", &["a:b@c!$&'()*+,=~-_"]),
        ];
        for (path, segments) in good {
            assert_eq!(read(path).unwrap(), *segments, "{path}");
        }
        let bad = [
            ("", Malformed),
            ("v1", Malformed),
            ("//", EmptySegment),
            ("//v1", EmptySegment),
            ("/v1//orders", EmptySegment),
            ("/v1/orders//", EmptySegment),
            ("/v1/./orders", DotSegment),
            ("/v1/../orders", DotSegment),
            ("/v1/..", DotSegment),
            ("/.", DotSegment),
            ("/v1/%2e/orders", DotSegment),
            ("/v1/%2E%2e/orders", DotSegment),
            ("/v1/.%2e/orders", DotSegment),
            ("/v1%2forders", EncodedDelimiter),
            ("/v1%2Forders", EncodedDelimiter),
            ("/v1%5corders", EncodedDelimiter),
            ("/v1%5Corders", EncodedDelimiter),
            ("/v1/orders%00", EncodedDelimiter),
            ("/v1\\orders", Backslash),
            ("/v1/orders;x=1", Parameter),
            ("/v1;/orders", Parameter),
            ("/v1/orders%3bx", Parameter),
            ("/v1/orders%3Bx", Parameter),
            ("/v1/%", Escape),
            ("/v1/%4", Escape),
            ("/v1/%zz", Escape),
            ("/v1/%+1", Escape),
            ("/v1/%252e", Escape),
            ("/v1/%252f", Escape),
            ("/v1/%ff", Escape),
            ("/v1/%c0%af", Escape),
            ("/v1/%e2%82", Escape),
            ("/v1/%0a", Malformed),
            ("/v1/%7f", Malformed),
            ("/v1/a b", Malformed),
            ("/v1/\u{e9}", Malformed),
            ("/v1/\t", Malformed),
        ];
        for (path, fault) in bad {
            assert_eq!(read(path), Err(fault), "{path}");
        }
    }

    #[test]
    fn globs_match_whole_segments() {
        let cases: &[(&str, &[&str], &[&str])] = &[
            (
                "/v1/orders",
                &["/v1/orders", "/v1/orders/", "/v1/%6frders"],
                &["/v1", "/v1/orders/1", "/v1/ordersx", "/V1/orders"],
            ),
            ("/v1/orders/**", &["/v1/orders", "/v1/orders/1", "/v1/orders/1/2"], &["/v1", "/v1/orders2"]),
            ("/v1/*/items", &["/v1/a/items", "/v1/a/items/"], &["/v1/items", "/v1/a/b/items"]),
            ("/**/items", &["/items", "/a/items", "/a/items/b/items"], &["/items/a"]),
            ("/a/**/b/**/c", &["/a/b/c", "/a/x/b/y/z/c", "/a/b/b/c/c"], &["/a/c", "/a/b"]),
            ("/f-*.json", &["/f-1.json", "/f-.json"], &["/f-1.jsonx", "/f.json"]),
            ("/*a*b*", &["/ab", "/xaxbx"], &["/ba"]),
            ("/**", &["/", "/a/b"], &[]),
            ("/", &["/"], &["/a"]),
        ];
        for (glob, yes, no) in cases {
            let glob = PathGlob::new(glob, false).unwrap();
            for path in *yes {
                assert!(glob.matches(&NormalPath::read(path).unwrap()), "{} {path}", glob.source());
            }
            for path in *no {
                assert!(!glob.matches(&NormalPath::read(path).unwrap()), "{} {path}", glob.source());
            }
        }
        let folded = PathGlob::new("/V1/Orders", true).unwrap();
        assert!(folded.matches(&NormalPath::read("/v1/ORDERS").unwrap()));
        assert_eq!(PathGlob::new("v1", false), Err(GlobError::NotAbsolute));
        assert_eq!(PathGlob::new("/a**", false), Err(GlobError::DoubleStar));
        assert_eq!(PathGlob::new("/a/../b", false), Err(GlobError::Unreachable));
    }

    #[test]
    fn patterns_that_share_a_path_are_known() {
        let meet = |a, b| PathGlob::new(a, false).unwrap().can_meet(&PathGlob::new(b, false).unwrap());
        assert!(meet("/v1/**", "/v1/orders"));
        assert!(meet("/**/a", "/b/**"));
        assert!(meet("/*/x", "/y/*"));
        assert!(!meet("/v1/**", "/v2/**"));
        assert!(!meet("/a", "/a/b"));
        assert!(meet("/a/**", "/a"));
    }
}
