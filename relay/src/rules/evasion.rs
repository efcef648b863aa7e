//! Ways to have a backend see another method or path than the rules saw.

use http::Method;
use http::request::Parts;

use crate::Failure;

/// The one that most frameworks know; some read a query parameter of this name, too.
const METHOD_OVERRIDE: &str = "x-http-method-override";

/// Headers by which frameworks let a client replace the method, also with `_` for `-`.
const METHOD_HEADERS: [&str; 6] =
    [METHOD_OVERRIDE, "x-http-method", "x-method-override", "x-override-method", "x-method", "x-http-verb"];

/// Headers by which some servers let a client replace the path, also with `_` for `-`.
const PATH_HEADERS: [&str; 7] = [
    "x-original-url",
    "x-original-uri",
    "x-rewrite-url",
    "x-rewrite-uri",
    "x-override-url",
    "x-override-uri",
    "x-http-path-override",
];

/// Whether a site with rules refuses every request with a header of this name, in any case: it would replace the method.
pub(crate) fn replaces_method(name: &str) -> bool {
    METHOD_HEADERS.iter().any(|header| same_name(name, header))
}

/// Refuses a request to a site with rules when another method or path hides in it. `ruled` are the methods of each rule, none
/// for all.
pub(super) fn refuse<'a>(head: &Parts, ruled: impl Iterator<Item = &'a [Method]>) -> Result<(), Failure> {
    for (name, value) in &head.headers {
        let name = name.as_str();
        // Most names are ruled out by one byte.
        if !name.starts_with('x') {
            continue;
        }
        if replaces_method(name) {
            return Err(Failure::MethodOverride);
        }
        // A proxy in front of us may say there what is true anyway.
        let truth = head.uri.path_and_query().map_or("", |p| p.as_str());
        if PATH_HEADERS.iter().any(|o| same_name(name, o)) && value.as_bytes() != truth.as_bytes() {
            return Err(Failure::PathOverride);
        }
    }
    if head.uri.query().is_some_and(|query| query.split(['&', ';']).any(is_override_parameter)) {
        return Err(Failure::MethodOverride);
    }
    if is_other_case(head.method.as_str(), ruled) { Err(Failure::MethodOverride) } else { Ok(()) }
}

fn same_name(name: &str, pattern: &str) -> bool {
    name.len() == pattern.len()
        && name.bytes().zip(pattern.bytes()).all(|(a, b)| a.to_ascii_lowercase() == b || (a == b'_' && b == b'-'))
}

/// Methods are case-sensitive; a backend that is not must not see a ruled method in another case.
fn is_other_case<'a>(method: &str, mut ruled: impl Iterator<Item = &'a [Method]>) -> bool {
    if !method.bytes().any(|b| b.is_ascii_lowercase()) {
        return false;
    }
    ruled.any(|methods| {
        methods.is_empty()
            || methods.iter().any(|m| {
                m.as_str().eq_ignore_ascii_case(method) || (*m == Method::GET && method.eq_ignore_ascii_case("head"))
            })
    })
}

/// `_method=…` or `X-HTTP-Method-Override=…`, however it is spelled: percent-encoded, in other case, or in one of the ways that PHP turns into it (blanks in
/// front dropped, `.`, blank and `[` read as `_`, cut off at NUL).
fn is_override_parameter(pair: &str) -> bool {
    let name = pair.split('=').next().unwrap_or_default();
    // Every byte of the name is spelled with one character or three.
    if name.len() < 7 {
        return false;
    }
    let decoded = percent_decoded(name);
    let text = decoded.split(|b| *b == 0).next().unwrap_or_default().trim_ascii();
    if std::str::from_utf8(text).is_ok_and(|name| same_name(name, METHOD_OVERRIDE)) {
        return true;
    }
    match text {
        [b'_' | b'.' | b'[', rest @ ..] => {
            let rest = rest.strip_suffix(b"[]").unwrap_or(rest);
            rest.eq_ignore_ascii_case(b"method")
        }
        _ => false,
    }
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((byte, tail)) = rest.split_first() {
        let hex = |at: usize| tail.get(at).and_then(|b| char::from(*b).to_digit(16));
        match (byte, hex(0), hex(1)) {
            (b'%', Some(high), Some(low)) => {
                out.push((high << 4 | low) as u8);
                rest = &tail[2..];
            }
            (b'+', ..) => {
                out.push(b' ');
                rest = tail;
            }
            _ => {
                out.push(*byte);
                rest = tail;
            }
        }
    }
    out
}
