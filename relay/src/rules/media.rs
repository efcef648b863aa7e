//! Which bodies the rules can read.

use std::sync::LazyLock;

use http::{HeaderMap, header};

use crate::Failure;
use crate::error::Side;

/// Media types of JSON, one value for each message. Read unless a rule says otherwise.
pub const DOCUMENTS: [&str; 2] = ["application/json", "application/*+json"];

/// Media types of lines of JSON, one value for each line. Read unless a rule says otherwise.
pub const LINES: [&str; 4] =
    ["application/x-ndjson", "application/ndjson", "application/jsonl", "application/x-jsonlines"];

/// The media type of event streams (WHATWG HTML §9.2). Read unless a rule says otherwise.
pub const EVENTS: &str = "text/event-stream";

/// How a body is made up, by its media type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One JSON value, held whole.
    Document,
    /// A stream of them, held one by one.
    Records(RecordForm),
}

/// How records stand in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RecordForm {
    /// Each on a line of its own: NDJSON.
    Lines,
    /// Each as the data of an event.
    Events,
}

impl Shape {
    fn of(essence: &str) -> Self {
        if LINES.iter().any(|lines| essence.eq_ignore_ascii_case(lines)) {
            Self::Records(RecordForm::Lines)
        } else if essence.eq_ignore_ascii_case(EVENTS) {
            Self::Records(RecordForm::Events)
        } else {
            Self::Document
        }
    }
}

/// A media type, or `application/*+json` and the like.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MediaType {
    /// Lower case; before the star, or the whole.
    start: Box<str>,
    /// After the star.
    end: Option<Box<str>>,
}

impl MediaType {
    /// Reads `type/subtype`, with at most one `*`; `None` when it is neither.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        let (kind, subtype) = text.split_once('/')?;
        if !is_token(kind) || !is_token(subtype) || text.matches('*').count() > 1 {
            return None;
        }
        Some(match text.split_once('*') {
            Some((start, end)) => Self { start: start.into(), end: Some(end.into()) },
            None => Self { start: text.as_str().into(), end: None },
        })
    }

    /// Whether a type and subtype is meant, in whatever case it is written.
    #[must_use]
    pub fn matches(&self, essence: &str) -> bool {
        let is = |a: Option<&str>, b: &str| a.is_some_and(|a| a.eq_ignore_ascii_case(b));
        match &self.end {
            None => essence.eq_ignore_ascii_case(&self.start),
            Some(end) => {
                essence.len() >= self.start.len() + end.len()
                    && is(essence.get(..self.start.len()), &self.start)
                    && is(essence.get(essence.len() - end.len()..), end)
            }
        }
    }
}

/// Refuses a body whose coding or type some of the rules do not understand; else tells how it is made up.
pub(super) fn check<'a>(
    mut rules: impl Iterator<Item = &'a [MediaType]>,
    headers: &HeaderMap,
    side: Side,
) -> Result<Shape, Failure> {
    let is_identity = |c: &http::HeaderValue| c.as_bytes().trim_ascii().eq_ignore_ascii_case(b"identity");
    if !headers.get_all(header::CONTENT_ENCODING).iter().all(is_identity) {
        return Err(Failure::ContentCoding(side));
    }
    let mut types = headers.get_all(header::CONTENT_TYPE).iter();
    // Of two fields, nobody knows which the backend reads.
    let essence = match (types.next().map(|t| t.to_str()), types.next()) {
        (Some(Ok(media)), None) => essence(media),
        _ => None,
    };
    match essence {
        Some(essence) if rules.all(|types| types.iter().any(|m| m.matches(essence))) => Ok(Shape::of(essence)),
        _ => Err(Failure::MediaType(side)),
    }
}

/// Whether a `Content-Type` is one that these types mean.
#[must_use]
pub fn is_read(value: &str, types: &[MediaType]) -> bool {
    essence(value).is_some_and(|essence| types.iter().any(|media| media.matches(essence)))
}

/// Refuses a body that is not one JSON document, in the media types that rules read too.
///
/// # Errors
/// Its media type is another, or it has a content coding.
pub fn check_document(headers: &HeaderMap) -> Result<(), Failure> {
    static TYPES: LazyLock<Vec<MediaType>> =
        LazyLock::new(|| DOCUMENTS.into_iter().filter_map(MediaType::parse).collect());
    check(std::iter::once(TYPES.as_slice()), headers, Side::Request).map(drop)
}

/// Type and subtype; `None` when malformed, or when a charset other than UTF-8 is named.
fn essence(media: &str) -> Option<&str> {
    let mut parts = media.split(';');
    let essence = parts.next()?.trim_ascii();
    for parameter in parts {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let value = value.trim_ascii().trim_matches('"');
        if name.trim_ascii().eq_ignore_ascii_case("charset")
            && !value.eq_ignore_ascii_case("utf-8")
            && !value.eq_ignore_ascii_case("utf8")
        {
            return None;
        }
    }
    let (kind, subtype) = essence.split_once('/')?;
    (is_token(kind) && is_token(subtype)).then_some(essence)
}

/// RFC 6838 §4.2, and the star of a pattern.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$&-^_.+*".contains(&b))
}
