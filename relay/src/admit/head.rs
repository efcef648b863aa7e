//! The grammar of one request head (RFC 9112 §2 to §6), stricter than the RFC where it leaves a choice.

use crate::error::Framing;

/// How the body of a request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFraming {
    /// After this many bytes; 0 without `Content-Length` and `Transfer-Encoding`.
    Length(u64),
    /// After the last chunk.
    Chunked,
}

/// What the gate has to know about a head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// How the body ends.
    pub body: BodyFraming,
    /// The client asks for another protocol, or for a tunnel: what follows may be no HTTP.
    pub upgrade: bool,
}

/// Reads one head, the empty line at its end included.
///
/// # Errors
/// Anything that leaves a doubt about where the message ends or whom it is for.
pub fn read(head: &[u8], max_fields: usize) -> Result<Head, Framing> {
    let head = head.strip_suffix(b"\r\n\r\n").ok_or(Framing::BareLineEnd)?;
    let mut lines = Lines(Some(head));
    let request = RequestLine::read(lines.next().transpose()?.unwrap_or_default())?;
    let mut fields = Fields::default();
    for (n, line) in lines.enumerate() {
        if n >= max_fields {
            return Err(Framing::HeadTooLarge);
        }
        fields.take(line?)?;
    }
    fields.finish(&request)
}

/// Splits at CRLF, and refuses any CR or LF that is not part of one.
struct Lines<'a>(Option<&'a [u8]>);

impl<'a> Iterator for Lines<'a> {
    type Item = Result<&'a [u8], Framing>;

    fn next(&mut self) -> Option<Self::Item> {
        let rest = self.0?;
        let Some(at) = memchr::memchr2(b'\r', b'\n', rest) else {
            self.0 = None;
            return Some(Ok(rest));
        };
        if rest[at..].starts_with(b"\r\n") {
            self.0 = Some(&rest[at + 2..]);
            Some(Ok(&rest[..at]))
        } else {
            self.0 = None;
            Some(Err(Framing::BareLineEnd))
        }
    }
}

struct RequestLine<'a> {
    connect: bool,
    /// `host[:port]` of the target in absolute or authority form.
    authority: Option<&'a [u8]>,
    minor: u8,
}

impl<'a> RequestLine<'a> {
    fn read(line: &'a [u8]) -> Result<Self, Framing> {
        if line.contains(&0) {
            return Err(Framing::Control);
        }
        let mut parts = line.split(|b| *b == b' ');
        let (Some(method), Some(target), Some(version), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Framing::RequestLine);
        };
        let minor = match version {
            b"HTTP/1.1" => 1,
            b"HTTP/1.0" => 0,
            _ => return Err(Framing::RequestLine),
        };
        if method.is_empty() || !method.iter().all(|b| is_token(*b)) || !is_target(target) {
            return Err(Framing::RequestLine);
        }
        let connect = method == b"CONNECT";
        let authority = match target {
            _ if connect => Some(target),
            [b'/', ..] => None,
            b"*" if method == b"OPTIONS" => None,
            _ => {
                let scheme = target.iter().position(|b| *b == b':').ok_or(Framing::RequestLine)?;
                let known =
                    target[..scheme].eq_ignore_ascii_case(b"http") || target[..scheme].eq_ignore_ascii_case(b"https");
                let rest = target[scheme..].strip_prefix(b"://").filter(|_| known).ok_or(Framing::RequestLine)?;
                let end = rest.iter().position(|b| matches!(b, b'/' | b'?')).unwrap_or(rest.len());
                Some(&rest[..end])
            }
        };
        if authority.is_some_and(|a| !is_authority(a)) {
            return Err(Framing::RequestLine);
        }
        Ok(Self { connect, authority, minor })
    }
}

#[derive(Default)]
struct Fields<'a> {
    length: Option<u64>,
    chunked: bool,
    host: Option<&'a [u8]>,
    upgrade: bool,
}

impl<'a> Fields<'a> {
    fn take(&mut self, line: &'a [u8]) -> Result<(), Framing> {
        let (name, value) = field(line)?;
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => match self.host.replace(value) {
                None if is_authority(value) => {}
                _ => return Err(Framing::Host),
            },
            7 if name.eq_ignore_ascii_case(b"upgrade") => self.upgrade = true,
            14 if is_spelled(name, b"content-length") => {
                if name.contains(&b'_') {
                    return Err(Framing::FieldName);
                }
                if self.length.replace(decimal(value).ok_or(Framing::ContentLength)?).is_some() {
                    return Err(Framing::ContentLength);
                }
            }
            17 if is_spelled(name, b"transfer-encoding") => {
                if name.contains(&b'_') {
                    return Err(Framing::FieldName);
                }
                if self.chunked || !value.eq_ignore_ascii_case(b"chunked") {
                    return Err(Framing::TransferEncoding);
                }
                self.chunked = true;
            }
            _ => {}
        }
        Ok(())
    }

    fn finish(self, request: &RequestLine<'_>) -> Result<Head, Framing> {
        let body = match (self.length, self.chunked) {
            (Some(_), true) => return Err(Framing::LengthAndEncoding),
            (None, true) if request.minor == 0 => return Err(Framing::TransferEncoding),
            (None, true) => BodyFraming::Chunked,
            (length, false) => BodyFraming::Length(length.unwrap_or(0)),
        };
        match (self.host, request.authority) {
            (Some(host), Some(authority)) => {
                // Clients leave the port out of the Host of a CONNECT.
                let same = authority.eq_ignore_ascii_case(host)
                    || request.connect && without_port(authority).eq_ignore_ascii_case(host);
                if !same {
                    return Err(Framing::Host);
                }
            }
            (Some(_), None) => {}
            // HTTP/1.0 knows no Host, and CONNECT says for whom it is.
            (None, Some(_)) if request.connect && request.minor == 0 => {}
            (None, _) => return Err(Framing::Host),
        }
        if request.connect && body != BodyFraming::Length(0) {
            return Err(Framing::RequestLine);
        }
        Ok(Head { body, upgrade: self.upgrade || request.connect })
    }
}

/// Name and value of a field line, white space around the value cut off.
pub(super) fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Framing> {
    if matches!(line.first(), Some(b' ' | b'\t')) {
        return Err(Framing::WhiteSpace);
    }
    let colon = memchr::memchr(b':', line).ok_or(Framing::FieldName)?;
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    if matches!(name.last(), Some(b' ' | b'\t')) {
        return Err(Framing::WhiteSpace);
    }
    if name.is_empty() || !name.iter().all(|b| is_token(*b)) {
        return Err(if name.contains(&0) { Framing::Control } else { Framing::FieldName });
    }
    // A control character in a value; tabs are white space.
    if value.iter().any(|b| (*b < 0x20 && *b != b'\t') || *b == 0x7f) {
        return Err(Framing::Control);
    }
    Ok((name, value.trim_ascii()))
}

/// Whether a request target consists of visible characters; a fragment is none of its parts.
pub(super) fn is_target(target: &[u8]) -> bool {
    !target.is_empty() && target.iter().all(|b| matches!(b, 0x21..=0x7e) && *b != b'#')
}

/// Whether a name is `name` once case and `_` for `-` are overlooked, as some backends do.
pub(super) fn is_spelled(name: &[u8], expected: &[u8]) -> bool {
    name.len() == expected.len()
        && name.iter().zip(expected).all(|(a, b)| a.to_ascii_lowercase() == *b || (*a == b'_' && *b == b'-'))
}

/// RFC 9110 §8.6: digits and nothing else. 18 of them always fit 64 bits.
pub(super) fn decimal(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 18 {
        return None;
    }
    value.iter().try_fold(0u64, |n, b| b.is_ascii_digit().then(|| n * 10 + u64::from(b - b'0')))
}

/// `host[:port]` (RFC 9110 §7.2) without user information; host is a name, an IPv4 address or a bracketed IPv6 address.
pub(super) fn is_authority(value: &[u8]) -> bool {
    let (host, port) = match value {
        [b'[', rest @ ..] => match rest.iter().position(|b| *b == b']') {
            Some(end) => match &rest[end + 1..] {
                [] => (&rest[..end], None),
                [b':', port @ ..] => (&rest[..end], Some(port)),
                _ => return false,
            },
            None => return false,
        },
        _ => match value.iter().position(|b| *b == b':') {
            Some(colon) => (&value[..colon], Some(&value[colon + 1..])),
            None => (value, None),
        },
    };
    let bracketed = value.starts_with(b"[");
    let host_byte = |b: &u8| {
        if bracketed {
            b.is_ascii_hexdigit() || matches!(b, b':' | b'.')
        } else {
            b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_')
        }
    };
    let port_fits =
        port.is_none_or(|p| !p.is_empty() && p.len() <= 5 && decimal(p).is_some_and(|n| (1..=65_535).contains(&n)));
    !host.is_empty() && host.len() <= 255 && host.iter().all(host_byte) && port_fits
}

/// `host:port` without the port.
pub(super) fn without_port(authority: &[u8]) -> &[u8] {
    match authority.iter().rposition(|b| *b == b':') {
        Some(colon) if !authority.ends_with(b"]") => &authority[..colon],
        _ => authority,
    }
}

/// RFC 9110 §5.6.2.
pub(super) fn is_token(b: u8) -> bool {
    b.is_ascii_alphanumeric()
        || matches!(
            b,
            b'!' | b'#' | b'$' | b'%' | b'&' | b'\'' | b'*' | b'+' | b'-' | b'.' | b'^' | b'_' | b'`' | b'|' | b'~'
        )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(head: &str) -> Result<BodyFraming, Framing> {
        read(head.as_bytes(), 100).map(|h| h.body)
    }

    #[test]
    fn heads_beyond_doubt_are_read() {
        assert_eq!(verdict("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), Ok(BodyFraming::Length(0)));
        assert_eq!(
            verdict("POST /x?y HTTP/1.1\r\nHost: a.b:80\r\nContent-Length: 12\r\n\r\n"),
            Ok(BodyFraming::Length(12))
        );
        assert_eq!(
            verdict("POST / HTTP/1.1\r\nhOsT:a\r\nTransfer-Encoding:\tCHUNKED \r\n\r\n"),
            Ok(BodyFraming::Chunked)
        );
        assert_eq!(verdict("GET http://a/x HTTP/1.1\r\nHost: A\r\n\r\n"), Ok(BodyFraming::Length(0)));
        for connect in [
            "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n",
            "CONNECT a:443 HTTP/1.1\r\nHost: A\r\n\r\n",
            "CONNECT [::1]:443 HTTP/1.1\r\nHost: [::1]\r\n\r\n",
            "CONNECT a:443 HTTP/1.0\r\n\r\n",
        ] {
            assert_eq!(verdict(connect), Ok(BodyFraming::Length(0)), "{connect}");
        }
        assert_eq!(verdict("OPTIONS * HTTP/1.1\r\nHost: [::1]:80\r\n\r\n"), Ok(BodyFraming::Length(0)));
    }

    #[test]
    fn every_doubt_has_its_name() {
        let rest = "Host: a\r\n\r\n";
        let cases: &[(&str, Framing)] = &[
            ("GET /  HTTP/1.1\r\nHost: a\r\n\r\n", Framing::RequestLine),
            ("GET / HTTP/1.2\r\nHost: a\r\n\r\n", Framing::RequestLine),
            ("GET /\r\nHost: a\r\n\r\n", Framing::RequestLine),
            ("GET x HTTP/1.1\r\nHost: a\r\n\r\n", Framing::RequestLine),
            ("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", Framing::RequestLine),
            ("GET /\u{e9} HTTP/1.1\r\nHost: a\r\n\r\n", Framing::RequestLine),
            ("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", Framing::RequestLine),
            ("GET http://u@a/ HTTP/1.1\r\nHost: a\r\n\r\n", Framing::RequestLine),
            ("GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n", Framing::Host),
            ("CONNECT a:443 HTTP/1.1\r\n\r\n", Framing::Host),
            ("CONNECT a:443 HTTP/1.1\r\nHost: b\r\n\r\n", Framing::Host),
            ("CONNECT a:443 HTTP/1.1\r\nHost: a:80\r\n\r\n", Framing::Host),
            ("CONNECT a:443 HTTP/1.0\r\nHost: b\r\n\r\n", Framing::Host),
            ("CONNECT u@a:443 HTTP/1.1\r\nHost: a:443\r\n\r\n", Framing::RequestLine),
            ("CONNECT http://a/ HTTP/1.1\r\nHost: a\r\n\r\n", Framing::RequestLine),
            ("CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\nContent-Length: 1\r\n\r\n", Framing::RequestLine),
            ("GET / HTTP/1.0\r\n\r\n", Framing::Host),
            ("GET / HTTP/1.1\r\n\r\n", Framing::Host),
            ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Framing::Host),
            ("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", Framing::Host),
            ("GET / HTTP/1.1\r\nHost: a:0\r\n\r\n", Framing::Host),
            ("GET / HTTP/1.1\r\nHost:\r\n\r\n", Framing::Host),
        ];
        for (head, fault) in cases {
            assert_eq!(verdict(head), Err(*fault), "{head:?}");
        }
        let fields: &[(&str, Framing)] = &[
            ("Content-Length: 1\r\nTransfer-Encoding: chunked", Framing::LengthAndEncoding),
            ("Content-Length: 1\r\nContent-Length: 1", Framing::ContentLength),
            ("Content-Length: 1, 1", Framing::ContentLength),
            ("Content-Length: +1", Framing::ContentLength),
            ("Content-Length: 0x1", Framing::ContentLength),
            ("Content-Length:", Framing::ContentLength),
            ("Content-Length: 99999999999999999999", Framing::ContentLength),
            ("Content_Length: 1", Framing::FieldName),
            ("Transfer_Encoding: chunked", Framing::FieldName),
            ("Transfer-Encoding: xchunked", Framing::TransferEncoding),
            ("Transfer-Encoding: chunked, identity", Framing::TransferEncoding),
            ("Transfer-Encoding: gzip, chunked", Framing::TransferEncoding),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", Framing::TransferEncoding),
            ("Transfer-Encoding: \"chunked\"", Framing::TransferEncoding),
            ("Transfer-Encoding : chunked", Framing::WhiteSpace),
            (" Transfer-Encoding: chunked", Framing::WhiteSpace),
            ("X: a\r\n b", Framing::WhiteSpace),
            ("X", Framing::FieldName),
            (": x", Framing::FieldName),
            ("X\u{b}: x", Framing::FieldName),
            ("X: a\0b", Framing::Control),
            ("X: a\u{7f}b", Framing::Control),
            ("X: a\nY: b", Framing::BareLineEnd),
            ("X: a\rY: b", Framing::BareLineEnd),
        ];
        for (lines, fault) in fields {
            assert_eq!(verdict(&format!("POST / HTTP/1.1\r\n{lines}\r\n{rest}")), Err(*fault), "{lines:?}");
        }
        assert_eq!(
            verdict(&format!("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n{rest}")),
            Err(Framing::TransferEncoding)
        );
    }
}
