//! HTTP messages as text, for `relay test`.

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};

/// Why a sample cannot be read, and in which line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {cause}")]
pub struct SampleError {
    /// Line from 1.
    pub line: usize,
    /// What is wrong there.
    pub cause: &'static str,
}

/// A request and its body.
#[derive(Debug)]
pub struct SampleRequest {
    /// Its head.
    pub head: Parts,
    /// The same as HTTP/1 writes it, each line ended by CRLF and an empty one at the end.
    pub written: Vec<u8>,
    /// Whether its first line names HTTP/2.
    pub is_http2: bool,
    /// Its body: everything after the first empty line, one line end at the end cut off.
    pub body: Vec<u8>,
}

/// A response and its body.
#[derive(Debug)]
pub struct SampleResponse {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Vec<u8>,
}

/// Reads a request: `METHOD target HTTP/1.1`, headers, an empty line, the body. Lines end in LF or CRLF.
///
/// # Errors
/// The text is no such message.
pub fn request(text: &[u8]) -> Result<SampleRequest, SampleError> {
    let Split { start, headers, body, fields } = split(text)?;
    let fault = |cause| SampleError { line: 1, cause };
    let mut parts = start.split(' ');
    let (Some(method), Some(target)) = (parts.next(), parts.next()) else {
        return Err(fault("a request starts with a method and a path: POST /v1/orders HTTP/1.1"));
    };
    let mut request = Request::new(());
    *request.method_mut() = method.parse().map_err(|_| fault("the method is malformed"))?;
    *request.uri_mut() = target.parse().map_err(|_| fault("the target is malformed"))?;
    *request.headers_mut() = headers;
    let version = parts.next();
    let mut written = start.clone().into_bytes();
    if version.is_none() {
        written.extend_from_slice(b" HTTP/1.1");
    }
    for line in fields.into_iter().chain([&b""[..]]) {
        written.extend_from_slice(b"\r\n");
        written.extend_from_slice(line);
    }
    written.extend_from_slice(b"\r\n");
    let is_http2 = matches!(version, Some("HTTP/2" | "HTTP/2.0"));
    Ok(SampleRequest { head: request.into_parts().0, written, is_http2, body })
}

/// Reads a response: `HTTP/1.1 200 OK`, headers, an empty line, the body.
///
/// # Errors
/// The text is no such message.
pub fn response(text: &[u8]) -> Result<SampleResponse, SampleError> {
    let Split { start, headers, body, .. } = split(text)?;
    let status = start.split(' ').nth(1).and_then(|s| s.parse().ok());
    let status = status.ok_or(SampleError { line: 1, cause: "a response starts with a status: HTTP/1.1 200 OK" })?;
    Ok(SampleResponse { status, headers, body })
}

/// A message taken apart.
struct Split<'a> {
    start: String,
    headers: HeaderMap,
    body: Vec<u8>,
    /// The lines of the headers.
    fields: Vec<&'a [u8]>,
}

fn split(text: &[u8]) -> Result<Split<'_>, SampleError> {
    let mut lines = Vec::new();
    let mut rest = text;
    loop {
        let Some(end) = memchr::memchr(b'\n', rest) else {
            lines.push(rest);
            rest = &[];
            break;
        };
        let line = rest[..end].strip_suffix(b"\r").unwrap_or(&rest[..end]);
        rest = &rest[end + 1..];
        if line.is_empty() {
            break;
        }
        lines.push(line);
    }
    let mut headers = HeaderMap::new();
    for (at, line) in lines.iter().enumerate().skip(1).filter(|(_, l)| !l.is_empty()) {
        let fault = |cause| SampleError { line: at + 1, cause };
        let colon = memchr::memchr(b':', line).ok_or(fault("a header is a name, a colon and a value"))?;
        let name = HeaderName::from_bytes(&line[..colon]).map_err(|_| fault("the header's name is malformed"))?;
        let value = HeaderValue::from_bytes(line[colon + 1..].trim_ascii())
            .map_err(|_| fault("the header's value is malformed"))?;
        headers.append(name, value);
    }
    let start = String::from_utf8_lossy(lines.first().copied().unwrap_or_default()).into_owned();
    // Editors end a file with a line end that the message does not have.
    let body = rest.strip_suffix(b"\r\n").or_else(|| rest.strip_suffix(b"\n")).unwrap_or(rest);
    let fields = lines.into_iter().skip(1).filter(|line| !line.is_empty()).collect();
    Ok(Split { start, headers, body: body.to_vec(), fields })
}
