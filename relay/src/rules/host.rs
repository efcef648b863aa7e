//! One spelling of host names.

use std::borrow::Cow;

/// A host name as the host table knows it: lower case, without port, without the dot at its end, IPv6 without brackets.
///
/// `None` for what is no `host[:port]` (RFC 9110 §7.2): user information, spaces, empty labels, a bad port.
#[must_use]
pub fn normal_host(text: &str) -> Option<Cow<'_, str>> {
    let (name, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            let address: std::net::Ipv6Addr = address.parse().ok()?;
            let port = if port.is_empty() { None } else { Some(port.strip_prefix(':')?) };
            return port.is_none_or(is_port).then(|| Cow::Owned(address.to_string()));
        }
        None => match text.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (text, None),
        },
    };
    let name = name.strip_suffix('.').unwrap_or(name);
    if !is_name(name) || !port.is_none_or(is_port) {
        return None;
    }
    Some(if name.bytes().any(|b| b.is_ascii_uppercase()) {
        Cow::Owned(name.to_ascii_lowercase())
    } else {
        Cow::Borrowed(name)
    })
}

/// Whether the text is a host name: labels of letters, digits, `-` and `_` (which DNS names of services have).
#[must_use]
pub fn is_name(text: &str) -> bool {
    let label = |l: &[u8]| {
        !l.is_empty() && l.len() <= 63 && l.iter().all(|b| b.is_ascii_alphanumeric() || *b == b'-' || *b == b'_')
    };
    text.len() <= 253 && text.as_bytes().split(|b| *b == b'.').all(label)
}

fn is_port(text: &str) -> bool {
    text.len() <= 5 && text.bytes().all(|b| b.is_ascii_digit()) && text.parse::<u16>().is_ok_and(|port| port > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_has_one_spelling_or_none() {
        for (text, host) in [
            ("api.example", "api.example"),
            ("API.Example:8443", "api.example"),
            ("api.example.", "api.example"),
            ("api.example.:80", "api.example"),
            ("a_b.example", "a_b.example"),
            ("127.0.0.1:1", "127.0.0.1"),
            ("[::1]:8080", "::1"),
            ("[0:0:0:0:0:0:0:1]", "::1"),
        ] {
            assert_eq!(normal_host(text).as_deref(), Some(host), "{text}");
        }
        for bad in [
            "",
            ".",
            ":80",
            "a..b",
            "api.example..",
            ".api",
            "user@api.example",
            "api example",
            "api.example:",
            "a:0",
            "api.example:65536",
            "api.example:+80",
            "a:8 0",
            "api.example:80:80",
            "::1",
            "[::1",
            "[::1]80",
            "[::1]:",
            "[api.example]",
            "api.example/",
            "%61pi.example",
            "api\u{e9}.example",
            "*.example",
        ] {
            assert_eq!(normal_host(bad), None, "{bad}");
        }
    }
}
