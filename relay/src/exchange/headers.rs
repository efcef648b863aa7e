//! Headers at a hop (RFC 9110 §7.6.1, RFC 9112 §9).

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode};

/// Fields that end at this hop whatever `Connection` says.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    // Asks for HTTP/2 behind this hop (RFC 7540 §3.2.1, since withdrawn).
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHORIZATION,
    header::PROXY_AUTHENTICATE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

const DIGESTS: [HeaderName; 4] = [
    HeaderName::from_static("content-md5"),
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
];

/// Fields that a client may not make this hop drop by nominating them in `Connection`: the next hop relies on them.
fn may_be_nominated(name: &HeaderName) -> bool {
    !matches!(
        *name,
        header::HOST
            | header::CONTENT_LENGTH
            | header::CONTENT_TYPE
            | header::CONTENT_ENCODING
            | header::AUTHORIZATION
            | header::COOKIE
            | header::FORWARDED
    ) && !name.as_str().starts_with("x-forwarded-")
}

/// Whether `Connection` may name fields: the two words that nearly every message has there are none.
fn nominates(headers: &HeaderMap) -> bool {
    headers.get_all(header::CONNECTION).iter().any(|value| {
        !value.as_bytes().eq_ignore_ascii_case(b"keep-alive") && !value.as_bytes().eq_ignore_ascii_case(b"close")
    })
}

/// Takes out what ends at this hop. `TE: trailers` stays, for it is asked of the next hop too.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // Most messages on a kept connection have none of them, and a look at each name costs less than to ask for each field.
    if !headers.keys().any(|name| HOP_BY_HOP.contains(name) || *name == header::TE) {
        return;
    }
    if nominates(headers) {
        let nominated: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|v| v.to_str().ok())
            .flat_map(|v| v.split(','))
            .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
            .filter(may_be_nominated)
            .collect();
        for name in nominated {
            if name != header::TE {
                headers.remove(name);
            }
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    if let Some(te) = headers.remove(header::TE)
        && te.to_str().is_ok_and(|te| te.split(',').any(|t| t.trim().eq_ignore_ascii_case("trailers")))
    {
        // RFC 9110 §10.1.4: who sends TE names it in Connection.
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("te"));
    }
}

/// Takes out of a trailer section what frames, routes, authenticates or describes the message (RFC 9110 §6.5.1): it comes too late to be heeded.
pub fn strip_trailers(trailers: &mut HeaderMap) {
    const FORBIDDEN: [HeaderName; 16] = [
        header::TRANSFER_ENCODING,
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::CONTENT_ENCODING,
        header::CONTENT_RANGE,
        header::HOST,
        header::CONNECTION,
        header::TE,
        header::TRAILER,
        header::UPGRADE,
        header::EXPECT,
        header::AUTHORIZATION,
        header::PROXY_AUTHORIZATION,
        header::COOKIE,
        header::SET_COOKIE,
        header::CACHE_CONTROL,
    ];
    for name in &FORBIDDEN {
        trailers.remove(name);
    }
    remove_client_certificate(trailers);
    super::forwarded::take_out(trailers);
}

/// Protocols in which further HTTP requests travel, by name without version: behind a change to one of them no request would meet its rules.
const CARRY_HTTP: [&str; 6] = ["h2", "h2c", "h3", "http", "spdy", "tls"];

/// The protocols that a request asks to change to, as they are asked of the next hop. Those that carry HTTP are not: a server may overlook such a wish (RFC 9110 §7.8), and
/// the request goes on as what it is.
#[must_use]
pub fn upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    // Hardly any request asks.
    if !headers.contains_key(header::UPGRADE) || !members(headers, &header::CONNECTION).any(|m| is_word(m, "upgrade")) {
        return None;
    }
    let protocols: Vec<&str> = members(headers, &header::UPGRADE).filter(|protocol| !carries_http(protocol)).collect();
    HeaderValue::from_str(&protocols.join(", ")).ok().filter(|protocols| !protocols.is_empty())
}

/// The protocol that a server changes to; `None` unless it is one of those that were `asked` of it.
#[must_use]
pub fn agreed(headers: &HeaderMap, asked: &HeaderValue) -> Option<HeaderValue> {
    let asked = asked.to_str().ok()?;
    let mut protocols = members(headers, &header::UPGRADE);
    let (Some(protocol), None) = (protocols.next(), protocols.next()) else { return None };
    let was_asked = asked.split(", ").any(|asked| is_word(asked, protocol));
    if was_asked { HeaderValue::from_str(protocol).ok() } else { None }
}

/// The members of a list (RFC 9110 §5.6.1), of all fields of the name.
fn members<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'h str> {
    let lists = headers.get_all(name).into_iter().filter_map(|list| list.to_str().ok());
    lists.flat_map(|list| list.split(',')).map(str::trim).filter(|member| !member.is_empty())
}

fn is_word(text: &str, word: &str) -> bool {
    text.eq_ignore_ascii_case(word)
}

fn carries_http(protocol: &str) -> bool {
    let name = protocol.split('/').next().unwrap_or_default().trim_end();
    CARRY_HTTP.iter().any(|known| is_word(name, known))
}

/// Whether the end of a response is beyond doubt (RFC 9112 §6): not two lengths, nor a length beside a coding, nor a coding but `chunked`, whose label would be lost
/// at this hop.
#[must_use]
pub fn is_framed_once(headers: &HeaderMap) -> bool {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let length = lengths.next();
    let one =
        length.is_none_or(|l| !l.is_empty() && l.as_bytes().iter().all(u8::is_ascii_digit)) && lengths.next().is_none();
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => one,
        (Some(only), None) => length.is_none() && only.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    }
}

/// Drops what no longer holds after a body was edited: digests over it, and strong entity tags of it.
pub fn drop_integrity(headers: &mut HeaderMap) {
    // As above: most messages have none.
    if !headers.keys().any(|name| DIGESTS.contains(name) || *name == header::ETAG) {
        return;
    }
    for name in &DIGESTS {
        headers.remove(name);
    }
    if headers.get(header::ETAG).is_some_and(|tag| !tag.as_bytes().starts_with(b"W/")) {
        headers.remove(header::ETAG);
    }
}

/// Asks for the whole response, uncompressed: a part or a compressed whole cannot be ruled.
pub fn ask_for_whole(headers: &mut HeaderMap) {
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.remove(header::RANGE);
    headers.remove(header::IF_RANGE);
}

/// Whether a response to this method with this status has no body, whatever its headers say (RFC 9112 §6.3).
#[must_use]
pub fn has_no_body(method: &Method, status: StatusCode) -> bool {
    *method == Method::HEAD
        || status.is_informational()
        || matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// States the client's certificate (RFC 9440), and takes out whatever the client says of one: a backend believes these headers.
pub fn client_certificate(headers: &mut HeaderMap, client: Option<&(HeaderValue, Option<HeaderValue>)>) {
    const CERTIFICATE: HeaderName = HeaderName::from_static("client-cert");
    const CHAIN: HeaderName = HeaderName::from_static("client-cert-chain");
    remove_client_certificate(headers);
    if let Some((certificate, chain)) = client {
        headers.insert(CERTIFICATE, certificate.clone());
        if let Some(chain) = chain {
            headers.insert(CHAIN, chain.clone());
        }
    }
}

/// Takes out what a client says of its certificate, also in the spelling that some backends read as the same name.
fn remove_client_certificate(fields: &mut HeaderMap) {
    let said = |name: &HeaderName| {
        let name = name.as_str();
        name.starts_with("client") && matches!(&*name.replace('_', "-"), "client-cert" | "client-cert-chain")
    };
    while let Some(name) = fields.keys().find(|name| said(name)).cloned() {
        fields.remove(name);
    }
}

/// An id for the logs of every hop: the client's where it is harmless, else one of ours.
#[must_use]
pub fn request_id(headers: &HeaderMap) -> HeaderValue {
    const NAME: HeaderName = HeaderName::from_static("x-request-id");
    let mut given = headers.get_all(&NAME).iter();
    if let (Some(id), None) = (given.next(), given.next())
        && (1..=128).contains(&id.len())
        && id.as_bytes().iter().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(b))
    {
        return id.clone();
    }
    fresh_id()
}

/// 64 random bits of the thread's start and a counter: unique enough to find a line in a log, and cheap.
fn fresh_id() -> HeaderValue {
    use std::cell::Cell;
    use std::hash::{BuildHasher, Hasher, RandomState};
    thread_local!(static NEXT: Cell<(u64, u64)> = Cell::new((RandomState::new().build_hasher().finish(), 0)));
    let (start, n) = NEXT.get();
    NEXT.set((start, n + 1));
    let mut text = [0u8; 24];
    let id = u128::from(start) << 32 | u128::from(n & 0xffff_ffff);
    for (i, byte) in text.iter_mut().enumerate() {
        *byte = b"0123456789abcdef"[(id >> (92 - 4 * i)) as usize & 15];
    }
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        list.iter().map(|(n, v)| (HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn what_ends_at_this_hop_is_gone_and_what_the_next_hop_needs_stays() {
        let mut h = headers(&[
            ("connection", "close, X-Mine, host, x-forwarded-for, content-length, TE"),
            ("x-mine", "1"),
            ("host", "a"),
            ("x-forwarded-for", "1.2.3.4"),
            ("keep-alive", "5"),
            ("proxy-authorization", "secret"),
            ("te", "gzip, trailers"),
            ("upgrade", "websocket"),
            ("transfer-encoding", "chunked"),
            ("x-stays", "1"),
        ]);
        strip_hop_by_hop(&mut h);
        let mut left: Vec<_> = h.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
        left.sort();
        assert_eq!(left, ["connection: te", "host: a", "te: trailers", "x-forwarded-for: 1.2.3.4", "x-stays: 1"]);
    }

    #[test]
    fn what_a_client_says_of_its_certificate_is_gone_in_every_spelling() {
        let said = [
            ("client-cert", ":AAAA:"),
            ("client_cert", ":AAAA:"),
            ("client-cert-chain", ":AAAA:"),
            ("client_cert-chain", ":AAAA:"),
            ("client-certainly", "1"),
        ];
        let mut none = headers(&said);
        client_certificate(&mut none, None);
        assert_eq!(none, headers(&said[4..]));
        let mut told = headers(&said);
        client_certificate(&mut told, Some(&(HeaderValue::from_static(":BBBB:"), None)));
        assert_eq!(told, headers(&[("client-certainly", "1"), ("client-cert", ":BBBB:")]));
        let mut trailers = headers(&said);
        strip_trailers(&mut trailers);
        assert_eq!(trailers, headers(&said[4..]));
    }

    #[test]
    fn no_protocol_that_carries_http_is_asked_of_the_next_hop() {
        let asked =
            |lists: &[(&'static str, &'static str)]| upgrade(&headers(lists)).map(|v| v.to_str().unwrap().to_owned());
        let with = |protocols| asked(&[("connection", "keep-alive, Upgrade"), ("upgrade", protocols)]);
        assert_eq!(with("websocket").as_deref(), Some("websocket"));
        assert_eq!(with("h2c, WebSocket, foo/2").as_deref(), Some("WebSocket, foo/2"));
        for protocol in
            ["h2c", "H2C", "h2", "HTTP/2.0", "http / 1.1", "TLS/1.0, HTTP/1.1", "tls", "SPDY/3", "h3", ", ", ""]
        {
            assert_eq!(with(protocol), None, "{protocol}");
        }
        assert_eq!(asked(&[("connection", "Upgrade"), ("upgrade", "h2c"), ("upgrade", "x")]).as_deref(), Some("x"));
        assert_eq!(asked(&[("upgrade", "websocket")]), None);
        assert_eq!(asked(&[("connection", "upgrade")]), None);
    }

    #[test]
    fn a_server_changes_to_what_it_was_asked_for_and_to_nothing_else() {
        let asked = HeaderValue::from_static("WebSocket, foo/2");
        let to = |protocol| agreed(&headers(&[("upgrade", protocol)]), &asked);
        assert_eq!(to("websocket").unwrap(), "websocket");
        assert_eq!(to("foo/2").unwrap(), "foo/2");
        for other in ["h2c", "foo", "websocket, foo/2", "", "foo/2, h2c"] {
            assert_eq!(to(other), None, "{other}");
        }
        assert_eq!(agreed(&HeaderMap::new(), &asked), None);
    }

    #[test]
    fn a_response_has_one_end_or_none_that_is_believed() {
        for fine in [&[][..], &[("content-length", "5")], &[("transfer-encoding", "Chunked")]] {
            assert!(is_framed_once(&headers(fine)), "{fine:?}");
        }
        for doubt in [
            &[("content-length", "5"), ("transfer-encoding", "chunked")][..],
            &[("content-length", "5"), ("content-length", "5")],
            &[("content-length", "5, 5")],
            &[("content-length", "+5")],
            &[("content-length", "")],
            &[("transfer-encoding", "gzip, chunked")],
            &[("transfer-encoding", "gzip")],
            &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
        ] {
            assert!(!is_framed_once(&headers(doubt)), "{doubt:?}");
        }
    }

    #[test]
    fn request_ids_are_kept_only_when_harmless() {
        assert_eq!(request_id(&headers(&[("x-request-id", "abc-1._Z")])), "abc-1._Z");
        let long = HeaderValue::from_str(&"a".repeat(129)).unwrap();
        for bad in
            [HeaderValue::from_static("a b"), HeaderValue::from_static(""), HeaderValue::from_static("a\"b"), long]
        {
            let mut h = HeaderMap::new();
            h.insert("x-request-id", bad.clone());
            let id = request_id(&h);
            assert_ne!(id, bad);
            assert_eq!(id.len(), 24);
        }
        assert_ne!(request_id(&HeaderMap::new()), request_id(&HeaderMap::new()));
    }
}
