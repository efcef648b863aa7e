//! Who asked, as a backend is told: `X-Forwarded-For`, `-Proto`, `-Host`, and `Forwarded` (RFC 7239). Only what a trusted proxy says of it is believed.

use std::net::{IpAddr, SocketAddr};

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use crate::config::resolved::Forwarding;

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const HOST: HeaderName = HeaderName::from_static("x-forwarded-host");

/// The connection that a request came over.
#[derive(Debug, Clone, Copy)]
pub struct Came<'a> {
    /// From whom.
    pub address: Option<IpAddr>,
    /// The same as text.
    pub text: Option<&'a HeaderValue>,
    /// Over TLS.
    pub secure: bool,
    /// The host that was asked for.
    pub host: Option<&'a HeaderValue>,
}

/// For whom a request is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// For who opened the connection: nobody who is trusted says otherwise.
    Connection,
    /// For the client that a trusted proxy names.
    Client(IpAddr),
    /// A trusted proxy names a client that nobody can read. Its own address must not count in the client's place.
    Unknown,
}

impl Source {
    /// The address of the client, where `connection` is that of the connection; `None` where it is not known.
    #[must_use]
    pub fn address(self, connection: Option<IpAddr>) -> Option<IpAddr> {
        match self {
            Self::Connection => connection,
            Self::Client(address) => Some(address),
            Self::Unknown => None,
        }
    }
}

/// For whom a trusted proxy asks: the last address in `X-Forwarded-For` that is not itself trusted, else the first that is. What stands in front of the client's address is the
/// client's own word, and is not read.
#[must_use]
pub fn source(headers: &HeaderMap, policy: &Forwarding, address: Option<IpAddr>) -> Source {
    if !address.is_some_and(|address| policy.trusts(address)) {
        return Source::Connection;
    }
    let mut source = Source::Connection;
    for list in headers.get_all(&FOR).iter().rev() {
        for entry in list.as_bytes().rsplit(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if entry.is_empty() {
                continue;
            }
            let Some(entry) = std::str::from_utf8(entry).ok().and_then(read) else { return Source::Unknown };
            source = Source::Client(entry);
            if !policy.trusts(entry) {
                return source;
            }
        }
    }
    source
}

/// An address, with or without port and brackets.
fn read(text: &str) -> Option<IpAddr> {
    let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text);
    let address = bare.parse::<IpAddr>().ok().or_else(|| text.parse::<SocketAddr>().ok().map(|a| a.ip()));
    address.map(|address| address.to_canonical())
}

/// States who asked. What a trusted peer says of it is kept and goes on; what anyone else says is taken out.
pub fn state(headers: &mut HeaderMap, policy: &Forwarding, came: Came<'_>) {
    if !came.address.is_some_and(|address| policy.trusts(address)) {
        take_out(headers);
    }
    if policy.x_forwarded {
        if let Some(client) = came.text {
            append(headers, FOR, client);
        }
        if !headers.contains_key(&PROTO) {
            headers.insert(PROTO, HeaderValue::from_static(scheme(came.secure)));
        }
        if let Some(host) = came.host
            && !headers.contains_key(&HOST)
        {
            headers.insert(HOST, host.clone());
        }
    }
    if policy.forwarded
        && let Some(element) = element(came)
    {
        append(headers, header::FORWARDED, &element);
    }
}

fn scheme(secure: bool) -> &'static str {
    if secure { "https" } else { "http" }
}

/// Takes out everything that backends read as word of a proxy before them, of headers or trailers, also in the spelling that some read as the same name.
pub(super) fn take_out(fields: &mut HeaderMap) {
    let claims = |name: &HeaderName| {
        let name = name.as_str();
        // Hardly any name begins so.
        name.starts_with(['f', 'x'])
            && match &*name.replace('_', "-") {
                "forwarded" | "x-real-ip" => true,
                name => name.starts_with("x-forwarded-"),
            }
    };
    while let Some(name) = fields.keys().find(|name| claims(name)).cloned() {
        fields.remove(name);
    }
}

/// One element of `Forwarded`; an IPv6 address, and a host with a port, are quoted (RFC 7239 §4, §6).
fn element(came: Came<'_>) -> Option<HeaderValue> {
    let mut text = match came.address {
        Some(IpAddr::V4(address)) => format!("for={address}"),
        Some(IpAddr::V6(address)) => format!("for=\"[{address}]\""),
        None => "for=unknown".to_owned(),
    };
    if let Some(host) = came.host.and_then(|host| host.to_str().ok()) {
        let token = host.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        // The gate lets through letters, digits and these, with colons and brackets.
        text += &if token { format!(";host={host}") } else { format!(";host=\"{host}\"") };
    }
    text += ";proto=";
    text += scheme(came.secure);
    HeaderValue::from_str(&text).ok()
}

/// At the end of the list, as one field.
fn append(headers: &mut HeaderMap, name: HeaderName, last: &HeaderValue) {
    // Almost always the relay is the first to say it.
    if !headers.contains_key(&name) {
        headers.insert(name, last.clone());
        return;
    }
    let mut list = Vec::with_capacity(64);
    for earlier in headers.get_all(&name) {
        list.extend_from_slice(earlier.as_bytes());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(last.as_bytes());
    // Parts of header values make a header value.
    let list = HeaderValue::from_bytes(&list).unwrap_or_else(|_| last.clone());
    headers.insert(name, list);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::outbound::egress::Network;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in list {
            headers.append(HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap());
        }
        headers
    }

    fn policy(trust: &[&str], x_forwarded: bool, forwarded: bool) -> Forwarding {
        let trust = trust.iter().map(|n| n.parse::<Network>().unwrap()).collect();
        Forwarding { trust, x_forwarded, forwarded }
    }

    const CLAIMS: [(&str, &str); 6] = [
        ("x-forwarded-for", "203.0.113.9"),
        ("x-forwarded-for", "10.0.0.7"),
        ("x-forwarded-proto", "https"),
        ("x-forwarded-port", "443"),
        ("x-real-ip", "203.0.113.9"),
        ("forwarded", "for=203.0.113.9"),
    ];

    fn stated(policy: &Forwarding, address: &str, host: &'static str) -> Vec<String> {
        let mut headers = headers(&CLAIMS);
        let text = HeaderValue::from_str(address).unwrap();
        let host = HeaderValue::from_static(host);
        let address = Some(address.parse().unwrap());
        state(&mut headers, policy, Came { address, text: Some(&text), secure: false, host: Some(&host) });
        let mut lines: Vec<_> = headers.iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
        lines.sort();
        lines
    }

    #[test]
    fn only_a_trusted_proxy_is_believed_and_its_word_goes_on() {
        let both = policy(&["10.0.0.0/8"], true, true);
        assert_eq!(
            stated(&both, "192.0.2.1", "a.test:8080"),
            [
                "forwarded: for=192.0.2.1;host=\"a.test:8080\";proto=http",
                "x-forwarded-for: 192.0.2.1",
                "x-forwarded-host: a.test:8080",
                "x-forwarded-proto: http"
            ]
        );
        assert_eq!(
            stated(&both, "10.1.1.1", "a.test"),
            [
                "forwarded: for=203.0.113.9, for=10.1.1.1;host=a.test;proto=http",
                "x-forwarded-for: 203.0.113.9, 10.0.0.7, 10.1.1.1",
                "x-forwarded-host: a.test",
                "x-forwarded-port: 443",
                "x-forwarded-proto: https",
                "x-real-ip: 203.0.113.9"
            ]
        );
        assert_eq!(stated(&policy(&[], false, false), "10.1.1.1", "a.test"), [""; 0]);
        assert_eq!(
            stated(&policy(&[], false, true), "2001:db8::7", "[::1]:80"),
            ["forwarded: for=\"[2001:db8::7]\";host=\"[::1]:80\";proto=http"]
        );
    }

    #[test]
    fn the_client_is_the_last_one_that_no_trusted_proxy_is() {
        let policy = policy(&["10.0.0.0/8", "2001:db8::/32"], true, false);
        let found = |address: &str, lists: &[&'static str]| {
            let lists: Vec<_> = lists.iter().map(|list| ("x-forwarded-for", *list)).collect();
            source(&headers(&lists), &policy, Some(address.parse().unwrap()))
        };
        let is = |address: &str, lists: &[&'static str], expected: Option<&str>| {
            let expected = expected.map_or(Source::Connection, |client| Source::Client(client.parse().unwrap()));
            assert_eq!(found(address, lists), expected, "{address} {lists:?}");
        };
        is("192.0.2.1", &["203.0.113.9"], None);
        is("10.0.0.1", &[], None);
        is("10.0.0.1", &["203.0.113.9"], Some("203.0.113.9"));
        is("10.0.0.1", &["198.51.100.6, 203.0.113.9,10.0.0.2"], Some("203.0.113.9"));
        is("10.0.0.1", &["198.51.100.6", "203.0.113.9, 10.9.9.9"], Some("203.0.113.9"));
        is("10.0.0.1", &["10.0.0.3, 10.0.0.2"], Some("10.0.0.3"));
        is("10.0.0.1", &["203.0.113.9:4711"], Some("203.0.113.9"));
        is("2001:db8::1", &["[2001:470::9]:4711"], Some("2001:470::9"));
        is("10.0.0.1", &["::ffff:203.0.113.9"], Some("203.0.113.9"));
        is("10.0.0.1", &["203.0.113.9, "], Some("203.0.113.9"));
        // What a client wrote before its proxy came does not matter, whatever it is.
        is("10.0.0.1", &["\u{e9}, 203.0.113.9"], Some("203.0.113.9"));
        is("10.0.0.1", &["\u{e9}", "203.0.113.9, 10.0.0.2"], Some("203.0.113.9"));
        for unknown in ["203.0.113.9, unknown, 10.0.0.2", "203.0.113.9, \u{e9}", "_hidden", "203.0.113.9 10.0.0.1"] {
            assert_eq!(found("10.0.0.1", &[unknown]), Source::Unknown, "{unknown}");
        }
    }

    #[test]
    fn claims_are_taken_out_in_every_spelling() {
        let mut fields = headers(&[
            ("x_forwarded_for", "203.0.113.9"),
            ("x-forwarded_proto", "https"),
            ("x_real_ip", "203.0.113.9"),
            ("forwarded", "for=203.0.113.9"),
            ("x-forward", "stays"),
            ("from", "stays"),
        ]);
        take_out(&mut fields);
        let mut left: Vec<_> = fields.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["from", "x-forward"]);
    }
}
