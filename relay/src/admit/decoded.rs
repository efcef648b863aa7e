//! Requests that come decoded, as in HTTP/2: the same doubts are refused as in the head of an HTTP/1 request, and it is put into the same form.
//!
//! HTTP/2 frames messages beyond doubt, and its codec refuses what RFC 9113 §8 calls malformed. What is left are questions that only HTTP/1 backends ask: one
//! Host, one length, one line of cookies, a target of visible characters.

use http::Method;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::{self, Uri};

use super::head::{decimal, is_authority, is_spelled, is_target, without_port};
use crate::error::Framing;

/// Fields that belong to one connection and have no meaning in HTTP/2 (RFC 9113 §8.2.2).
const OF_A_CONNECTION: [HeaderName; 5] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// Checks a request and puts it into the form that one of HTTP/1 has: Host in a field, the target in origin form, one line of cookies.
///
/// # Errors
/// Anything that leaves a doubt about what the message is or whom it is for.
pub fn settle(head: &mut Parts, max_fields: usize) -> Result<(), Framing> {
    fields(&head.headers, max_fields)?;
    host(head)?;
    if head.method != Method::CONNECT {
        target(head)?;
    }
    one_cookie(&mut head.headers)
}

fn fields(headers: &HeaderMap, max_fields: usize) -> Result<(), Framing> {
    if headers.len() > max_fields {
        return Err(Framing::HeadTooLarge);
    }
    if OF_A_CONNECTION.iter().any(|name| headers.contains_key(name)) {
        return Err(Framing::FieldName);
    }
    for name in headers.keys() {
        let text = name.as_str().as_bytes();
        let framing = is_spelled(text, b"content-length") || is_spelled(text, b"transfer-encoding");
        if framing && text.contains(&b'_') {
            return Err(Framing::FieldName);
        }
    }
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    match (lengths.next().map(|length| decimal(length.as_bytes())), lengths.next()) {
        (None | Some(Some(_)), None) => {}
        _ => return Err(Framing::ContentLength),
    }
    if headers.get_all(header::TE).iter().any(|te| !te.as_bytes().eq_ignore_ascii_case(b"trailers")) {
        return Err(Framing::FieldName);
    }
    Ok(())
}

/// `:authority` and Host are one thing (RFC 9113 §8.3.1).
fn host(head: &mut Parts) -> Result<(), Framing> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let (host, further) = (hosts.next(), hosts.next());
    let authority = head.uri.authority().map(|authority| authority.as_str().as_bytes());
    if further.is_some() || !authority.is_none_or(is_authority) {
        return Err(Framing::Host);
    }
    match (host.map(HeaderValue::as_bytes), authority) {
        (Some(host), _) if !is_authority(host) => Err(Framing::Host),
        (Some(host), Some(authority)) => {
            let connect = head.method == Method::CONNECT;
            let same =
                host.eq_ignore_ascii_case(authority) || connect && host.eq_ignore_ascii_case(without_port(authority));
            if same { Ok(()) } else { Err(Framing::Host) }
        }
        (Some(_), None) => Ok(()),
        (None, Some(authority)) => {
            let host = HeaderValue::from_bytes(authority).map_err(|_| Framing::Host)?;
            head.headers.insert(header::HOST, host);
            Ok(())
        }
        (None, None) => Err(Framing::Host),
    }
}

fn target(head: &mut Parts) -> Result<(), Framing> {
    let known = head.uri.scheme().is_none_or(|scheme| *scheme == uri::Scheme::HTTP || *scheme == uri::Scheme::HTTPS);
    let Some(target) = head.uri.path_and_query().filter(|_| known) else { return Err(Framing::RequestLine) };
    let text = target.as_str().as_bytes();
    if !is_target(text) || !(text.starts_with(b"/") || text == b"*" && head.method == Method::OPTIONS) {
        return Err(Framing::RequestLine);
    }
    let mut origin = uri::Parts::default();
    origin.path_and_query = Some(target.clone());
    head.uri = Uri::from_parts(origin).map_err(|_| Framing::RequestLine)?;
    Ok(())
}

/// Cookies may come in several fields, and HTTP/1 has one (RFC 9113 §8.2.3).
fn one_cookie(headers: &mut HeaderMap) -> Result<(), Framing> {
    let mut crumbs = headers.get_all(header::COOKIE).iter();
    if crumbs.nth(1).is_none() {
        return Ok(());
    }
    let crumbs: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    let whole = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])).map_err(|_| Framing::Control)?;
    headers.insert(header::COOKIE, whole);
    Ok(())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn settled(uri: &str, fields: &[(&str, &str)]) -> Result<Parts, Framing> {
        let mut request = Request::get(uri);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let mut head = request.body(()).unwrap().into_parts().0;
        settle(&mut head, 10).map(|()| head)
    }

    #[test]
    fn a_decoded_request_gets_the_form_of_http_1() {
        let crumbs = [("cookie", "a=1"), ("cookie", "b=2"), ("cookie", "c=3")];
        let request = settled("https://api.example/a?b", &crumbs).unwrap();
        assert_eq!(request.headers[header::HOST], "api.example");
        assert_eq!(request.headers[header::COOKIE], "a=1; b=2; c=3");
        assert_eq!(request.headers.get_all(header::COOKIE).iter().count(), 1);
        assert_eq!(request.uri, "/a?b");
        assert!(request.uri.authority().is_none());
        assert!(settled("https://api.example/a", &[("host", "API.example"), ("te", "trailers")]).is_ok());
        assert!(settled("/a", &[("host", "api.example:8443"), ("content-length", "0")]).is_ok());
    }

    #[test]
    fn what_leaves_a_doubt_is_refused() {
        let own = "https://api.example/a";
        for (uri, fields, fault) in [
            ("/a", &[][..], Framing::Host),
            (own, &[("host", "other.example")], Framing::Host),
            (own, &[("host", "api.example"), ("host", "api.example")], Framing::Host),
            (own, &[("host", "api.example:443")], Framing::Host),
            ("/a", &[("host", "user@api.example")], Framing::Host),
            ("https://user@api.example/a", &[], Framing::Host),
            ("ftp://api.example/a", &[], Framing::RequestLine),
            (own, &[("content-length", "1"), ("content-length", "1")], Framing::ContentLength),
            (own, &[("content-length", "+1")], Framing::ContentLength),
            (own, &[("content_length", "1")], Framing::FieldName),
            (own, &[("transfer_encoding", "chunked")], Framing::FieldName),
            (own, &[("transfer-encoding", "chunked")], Framing::FieldName),
            (own, &[("connection", "close")], Framing::FieldName),
            (own, &[("te", "gzip")], Framing::FieldName),
        ] {
            assert_eq!(settled(uri, fields).unwrap_err(), fault, "{uri} {fields:?}");
        }
        let many: Vec<_> = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k"].map(|name| (name, "")).into();
        assert_eq!(settled(own, &many).unwrap_err(), Framing::HeadTooLarge);
    }

    #[test]
    fn connect_keeps_its_authority() {
        for host in [None, Some("api.example"), Some("api.example:443")] {
            let mut request = Request::connect("api.example:443");
            if let Some(host) = host {
                request = request.header("host", host);
            }
            let mut head = request.body(()).unwrap().into_parts().0;
            settle(&mut head, 10).unwrap();
            assert_eq!(head.uri.authority().unwrap(), "api.example:443");
        }
        let request = Request::connect("api.example:443").header("host", "other.example").body(()).unwrap();
        assert!(settle(&mut request.into_parts().0, 10).is_err());
    }
}
