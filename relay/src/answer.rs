//! The one place that turns causes into HTTP: status, stable code and problem+json (RFC 9457). Never a value.

use bytes::Bytes;
use e3_wire::{Refusal, RequestRefusal};
use http::{HeaderValue, Response, StatusCode, header};
use schemars::JsonSchema;
use serde::Serialize;

use crate::error::{ApiFault, Failure, Framing, Parameter, PathFault, QueryCause, Side};

/// What a client is told about a cause.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cause {
    /// Status of the answer.
    pub status: StatusCode,
    /// Stable code, `group/name`.
    pub code: &'static str,
    /// One sentence for people.
    pub title: &'static str,
}

const fn cause(status: StatusCode, code: &'static str, title: &'static str) -> Cause {
    Cause { status, code, title }
}

/// What a client is told about a failure; `None` when nobody is left to tell.
#[must_use]
pub fn cause_of(failure: &Failure) -> Option<Cause> {
    use StatusCode as S;
    Some(match failure {
        Failure::Framing(fault) => framing(*fault),
        Failure::Path(fault) => path(*fault),
        Failure::MethodOverride => {
            cause(S::BAD_REQUEST, "rules/method-override", "The method may not be overridden here.")
        }
        Failure::PathOverride => cause(S::BAD_REQUEST, "rules/path-override", "The path may not be overridden here."),
        Failure::UnderscoreField => cause(
            S::BAD_REQUEST,
            "framing/underscore",
            "A header name has an underscore, which this site does not allow.",
        ),
        Failure::UnknownHost => cause(S::MISDIRECTED_REQUEST, "rules/unknown-host", "This relay serves no such host."),
        Failure::ServerName => {
            cause(S::MISDIRECTED_REQUEST, "rules/server-name", "This TLS connection was made for another site.")
        }
        Failure::Plaintext => cause(S::FORBIDDEN, "rules/plaintext", "This host takes requests over https alone."),
        Failure::Tunnel => cause(S::METHOD_NOT_ALLOWED, "rules/tunnel", "This listener opens no tunnels."),
        Failure::NoTunnel => {
            cause(S::FORBIDDEN, "connect/refused", "No destination here opens this host and port to CONNECT.")
        }
        Failure::Misdirected => cause(
            S::MISDIRECTED_REQUEST,
            "connect/host",
            "Host, TLS server name and the target of CONNECT are not the same.",
        ),
        Failure::ProxyAuthentication => cause(
            S::PROXY_AUTHENTICATION_REQUIRED,
            "connect/authentication",
            "Proxy-Authorization holds no key of this listener.",
        ),
        Failure::ClosedPath => cause(S::FORBIDDEN, "rules/path", "The destination does not open this path."),
        Failure::Upgrade => cause(S::FORBIDDEN, "rules/upgrade", "A ruled request cannot change its protocol."),
        Failure::Unruled => {
            cause(S::FORBIDDEN, "rules/unruled", "No rule selects this request, and the site refuses such.")
        }
        Failure::MediaType(Side::Request) => {
            cause(S::UNSUPPORTED_MEDIA_TYPE, "body/media-type", "The media type of the body is none that is read here.")
        }
        Failure::MediaType(Side::Response) => {
            cause(S::BAD_GATEWAY, "response/media-type", "The rules of this response do not read its media type.")
        }
        Failure::ContentCoding(Side::Request) => {
            cause(S::UNSUPPORTED_MEDIA_TYPE, "body/content-coding", "A ruled body must not be compressed.")
        }
        Failure::ContentCoding(Side::Response) => {
            cause(S::BAD_GATEWAY, "response/content-coding", "A ruled response came compressed.")
        }
        Failure::TooLarge(Side::Request) => {
            cause(S::PAYLOAD_TOO_LARGE, "body/too-large", "The body is over this site's limit.")
        }
        Failure::TooLarge(Side::Response) => {
            cause(S::BAD_GATEWAY, "response/too-large", "The response is over this site's limit.")
        }
        Failure::Json { side: Side::Request, .. } => {
            cause(S::BAD_REQUEST, "body/json", "The body is not exactly one JSON value.")
        }
        Failure::Json { side: Side::Response, .. } => {
            cause(S::BAD_GATEWAY, "response/json", "The response is not exactly one JSON value.")
        }
        Failure::Required(Side::Request) => {
            cause(S::UNPROCESSABLE_ENTITY, "body/required", "A value that the rules require is absent.")
        }
        Failure::Required(Side::Response) => {
            cause(S::BAD_GATEWAY, "response/required", "A value that the rules require is absent from the response.")
        }
        Failure::Conflict(Side::Request) => {
            cause(S::UNPROCESSABLE_ENTITY, "body/conflict", "Two rules claim one value of this body differently.")
        }
        Failure::Conflict(Side::Response) => {
            cause(S::BAD_GATEWAY, "response/conflict", "Two rules claim one value of this response differently.")
        }
        Failure::Refused { side: Side::Request, reason } => refused(*reason),
        Failure::Refused { side: Side::Response, reason } => {
            Cause { status: S::BAD_GATEWAY, code: refused_response(*reason), ..refused(*reason) }
        }
        Failure::Engine(refusal) => engine(*refusal),
        Failure::EngineAway => {
            cause(S::SERVICE_UNAVAILABLE, "engine/unavailable", "The encryption engine did not answer in time.")
        }
        Failure::EngineAnswer => {
            cause(S::SERVICE_UNAVAILABLE, "engine/answer", "The encryption engine gave an answer that does not fit.")
        }
        Failure::TooMuchForEngine(Side::Request) => {
            cause(S::PAYLOAD_TOO_LARGE, "body/too-many-values", "The body has more values than one engine call takes.")
        }
        Failure::TooMuchForEngine(Side::Response) => cause(
            S::BAD_GATEWAY,
            "response/too-many-values",
            "The response has more values than one engine call takes.",
        ),
        Failure::RequestTimeout => cause(S::REQUEST_TIMEOUT, "request/timeout", "The request did not arrive in time."),
        Failure::ClientGone => return None,
        Failure::UpstreamConnect => cause(S::BAD_GATEWAY, "upstream/connect", "The upstream cannot be reached."),
        Failure::Egress => cause(
            S::FORBIDDEN,
            "upstream/address",
            "The upstream's address is not public, and the destination does not list its network.",
        ),
        Failure::UpstreamTls => {
            cause(S::BAD_GATEWAY, "upstream/certificate", "The upstream's certificate does not verify.")
        }
        Failure::UpstreamProtocol => {
            cause(S::BAD_GATEWAY, "upstream/protocol", "The upstream broke off or spoke no HTTP.")
        }
        Failure::UpstreamPartial => {
            cause(S::BAD_GATEWAY, "upstream/partial", "The upstream sent a part although the whole was asked for.")
        }
        Failure::UpstreamTimeout => {
            cause(S::GATEWAY_TIMEOUT, "upstream/timeout", "The upstream did not answer in time.")
        }
        Failure::Api(fault) => api(*fault),
        Failure::Overloaded(Side::Request) => {
            cause(S::SERVICE_UNAVAILABLE, "relay/overloaded", "The relay has no room for this request.")
        }
        Failure::Overloaded(Side::Response) => {
            cause(S::BAD_GATEWAY, "response/overloaded", "The relay has no room for the response.")
        }
        Failure::Internal => {
            cause(S::INTERNAL_SERVER_ERROR, "relay/internal", "The relay failed and let nothing through.")
        }
    })
}

fn api(fault: ApiFault) -> Cause {
    use StatusCode as S;
    match fault {
        ApiFault::NoKey => cause(S::UNAUTHORIZED, "api/key", "Authorization holds no API key."),
        ApiFault::Path => cause(S::NOT_FOUND, "api/path", "The API has no such path."),
        ApiFault::Method { .. } => cause(S::METHOD_NOT_ALLOWED, "api/method", "The path does not take this method."),
        ApiFault::Query { .. } => {
            cause(S::BAD_REQUEST, "api/query", "A query parameter is unknown, missing, repeated or malformed.")
        }
    }
}

/// Where and why a call of the API is none.
fn api_detail(fault: ApiFault) -> Option<String> {
    let ApiFault::Query { parameter, cause } = fault else { return None };
    let name = parameter.name();
    Some(match cause {
        QueryCause::Unknown => "this call has a parameter that it does not know".to_owned(),
        QueryCause::Missing => format!("`{name}` is missing"),
        QueryCause::Repeated => format!("`{name}` stands twice"),
        QueryCause::Word => format!("`{name}` is none of the words it may be"),
        QueryCause::Role => {
            format!("`{name}` is no role: a lower-case letter, then at most 19 lower-case letters, digits and hyphens")
        }
        QueryCause::Selector { number, error } => {
            format!("`{name}` number {number}, at byte {}: {error}", error.offset)
        }
        QueryCause::TooLong { most } => format!("all `{name}` together are longer than {most} bytes"),
        QueryCause::Pattern { number } => {
            format!("`{name}` number {number}: match() and search() are for selectors of the rules file")
        }
        QueryCause::NoRole { number } => {
            format!("`{name}` number {number} names no role: write $.card.number:card-number, or `role` for all")
        }
    })
}

/// What a client is told about a failure between two records of its request: earlier ones have reached the upstream, so it is not the answer of a request
/// that may simply be sent again.
#[must_use]
pub fn cut(failure: &Failure) -> Option<Cause> {
    let cause = cause_of(failure)?;
    Some(if cause.status.is_client_error() { CUT_REFUSED } else { CUT_FAILED })
}

const CUT_REFUSED: Cause = cause(
    StatusCode::UNPROCESSABLE_ENTITY,
    "records/refused",
    "A record was refused, and the request was cut before it: the upstream may have acted on earlier records.",
);

const CUT_FAILED: Cause = cause(
    StatusCode::BAD_GATEWAY,
    "records/failed",
    "A record could not be sealed or opened, and the request was cut before it: the upstream may have acted on earlier records.",
);

fn framing(fault: Framing) -> Cause {
    use StatusCode as S;
    let (code, title) = match fault {
        Framing::LengthAndEncoding => {
            ("framing/length-and-encoding", "Content-Length and Transfer-Encoding stand together.")
        }
        Framing::ContentLength => ("framing/content-length", "Content-Length is repeated, a list, or no number."),
        Framing::TransferEncoding => ("framing/transfer-encoding", "Transfer-Encoding is not exactly one chunked."),
        Framing::BareLineEnd => ("framing/bare-line-end", "A line ends in a bare CR or LF."),
        Framing::Control => ("framing/control", "The head has a NUL or another control character."),
        Framing::WhiteSpace => ("framing/white-space", "White space stands around a field name."),
        Framing::FieldName => ("framing/field-name", "A field name is malformed."),
        Framing::Host => ("framing/host", "Host is missing, repeated, malformed, or differs from the target."),
        Framing::RequestLine => ("framing/request-line", "The request line is malformed."),
        Framing::HeadTooLarge => {
            let title = "The head has too many bytes or fields.";
            return cause(S::REQUEST_HEADER_FIELDS_TOO_LARGE, "framing/head-too-large", title);
        }
        Framing::Chunk => ("framing/chunk", "A chunk or trailer is malformed."),
    };
    cause(S::BAD_REQUEST, code, title)
}

fn path(fault: PathFault) -> Cause {
    let (code, title) = match fault {
        PathFault::EncodedDelimiter => ("path/encoded-delimiter", "The path has an encoded slash, backslash or NUL."),
        PathFault::Backslash => ("path/backslash", "The path has a backslash."),
        PathFault::DotSegment => ("path/dot-segment", "The path has a segment of dots and blanks alone."),
        PathFault::EmptySegment => ("path/empty-segment", "The path has an empty segment."),
        PathFault::Parameter => ("path/parameter", "The path has a semicolon parameter."),
        PathFault::Escape => ("path/escape", "The path has an invalid escape."),
        PathFault::Malformed => ("path/malformed", "The path is malformed."),
    };
    cause(StatusCode::BAD_REQUEST, code, title)
}

fn refused(reason: Refusal) -> Cause {
    use StatusCode as S;
    match reason {
        Refusal::NotAuthentic => {
            cause(S::UNPROCESSABLE_ENTITY, "token/not-authentic", "A token does not authenticate.")
        }
        Refusal::RoleNotAllowed => cause(S::FORBIDDEN, "token/role", "A token's role may not be opened here."),
        Refusal::RoleKind => {
            cause(S::FORBIDDEN, "engine/role-kind", "The engine does not allow this kind of sealing for the role.")
        }
        Refusal::UnknownRole => cause(S::FORBIDDEN, "engine/unknown-role", "The engine does not know the role."),
        Refusal::BadValue => {
            cause(S::UNPROCESSABLE_ENTITY, "engine/value", "A value is too large or not one value of its type.")
        }
        Refusal::RateLimited => cause(S::SERVICE_UNAVAILABLE, "engine/rate", "The engine's rate limit is reached."),
        Refusal::NotPermitted => cause(S::FORBIDDEN, "engine/not-permitted", "The engine does not permit this."),
        Refusal::TooOld => cause(S::FORBIDDEN, "token/too-old", "A token is older than its role allows."),
        Refusal::TypeNotAllowed => {
            cause(S::UNPROCESSABLE_ENTITY, "engine/type", "The role has no values of this type.")
        }
    }
}

fn refused_response(reason: Refusal) -> &'static str {
    match reason {
        Refusal::NotAuthentic => "response/token-not-authentic",
        Refusal::RoleNotAllowed => "response/token-role",
        Refusal::RoleKind => "response/role-kind",
        Refusal::UnknownRole => "response/unknown-role",
        Refusal::BadValue => "response/value",
        Refusal::RateLimited => "response/rate",
        Refusal::NotPermitted => "response/not-permitted",
        Refusal::TooOld => "response/token-too-old",
        Refusal::TypeNotAllowed => "response/type",
    }
}

fn engine(refusal: RequestRefusal) -> Cause {
    use StatusCode as S;
    let (code, title) = match refusal {
        RequestRefusal::UnknownCredential => {
            return cause(S::UNAUTHORIZED, "engine/unknown-key", "The API key is not known.");
        }
        RequestRefusal::NoPolicy => ("engine/no-policy", "The encryption engine has no policy in force."),
        RequestRefusal::Overloaded => ("engine/overloaded", "The encryption engine is overloaded."),
        RequestRefusal::Deadline => ("engine/deadline", "The encryption engine ran out of time."),
        RequestRefusal::AuditUnavailable => {
            ("engine/audit", "The audit record could not be written, so nothing was opened.")
        }
        RequestRefusal::NotReady => ("engine/not-ready", "The encryption engine is not ready."),
        RequestRefusal::UnknownApp => ("engine/unknown-app", "The encryption engine does not know this app."),
        RequestRefusal::Malformed => ("engine/malformed", "The encryption engine did not understand the relay."),
        RequestRefusal::TooLarge => ("engine/too-large", "The encryption engine's answer would be too large."),
    };
    cause(S::SERVICE_UNAVAILABLE, code, title)
}

/// Every cause that a client can be told, for the documentation and its test.
#[must_use]
pub fn table() -> Vec<Cause> {
    let mut all = Vec::new();
    for fault in [
        Framing::LengthAndEncoding,
        Framing::ContentLength,
        Framing::TransferEncoding,
        Framing::BareLineEnd,
        Framing::Control,
        Framing::WhiteSpace,
        Framing::FieldName,
        Framing::Host,
        Framing::RequestLine,
        Framing::HeadTooLarge,
        Framing::Chunk,
    ] {
        all.push(Failure::Framing(fault));
    }
    for fault in [
        PathFault::EncodedDelimiter,
        PathFault::Backslash,
        PathFault::DotSegment,
        PathFault::EmptySegment,
        PathFault::Parameter,
        PathFault::Escape,
        PathFault::Malformed,
    ] {
        all.push(Failure::Path(fault));
    }
    all.extend([
        Failure::MethodOverride,
        Failure::PathOverride,
        Failure::UnderscoreField,
        Failure::UnknownHost,
        Failure::ServerName,
        Failure::Plaintext,
        Failure::Tunnel,
        Failure::NoTunnel,
        Failure::Misdirected,
        Failure::ProxyAuthentication,
        Failure::ClosedPath,
        Failure::Upgrade,
        Failure::Unruled,
    ]);
    for side in [Side::Request, Side::Response] {
        all.extend([
            Failure::MediaType(side),
            Failure::ContentCoding(side),
            Failure::TooLarge(side),
            Failure::Json { side, offset: 0, cause: json_span::ScanCause::UnexpectedEnd },
            Failure::Required(side),
            Failure::Conflict(side),
            Failure::TooMuchForEngine(side),
            Failure::Overloaded(side),
        ]);
        for reason in Refusal::ALL {
            all.push(Failure::Refused { side, reason });
        }
    }
    for refusal in RequestRefusal::ALL {
        all.push(Failure::Engine(refusal));
    }
    all.extend([
        Failure::EngineAway,
        Failure::EngineAnswer,
        Failure::RequestTimeout,
        Failure::UpstreamConnect,
        Failure::Egress,
        Failure::UpstreamTls,
        Failure::UpstreamProtocol,
        Failure::UpstreamPartial,
        Failure::UpstreamTimeout,
        Failure::Api(ApiFault::NoKey),
        Failure::Api(ApiFault::Path),
        Failure::Api(ApiFault::Method { read: true }),
        Failure::Api(ApiFault::Query { parameter: Parameter::Role, cause: QueryCause::Missing }),
        Failure::Internal,
    ]);
    all.iter().filter_map(cause_of).chain([CUT_REFUSED, CUT_FAILED]).collect()
}

/// RFC 9457, with our code, the request's id, and what helps to find the fault.
#[derive(Serialize, JsonSchema)]
pub(crate) struct Problem<'a> {
    /// Always `about:blank`.
    r#type: &'static str,
    /// One sentence for people.
    title: &'static str,
    /// The answer's status.
    status: u16,
    /// Stable code of the cause.
    code: &'static str,
    /// Code of what happened to the record at which a request was cut.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<&'static str>,
    /// What is wrong, and where; never a value.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// Normalised path of the value that was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<&'a str>,
    /// Id of the request in the relay's log.
    #[serde(skip_serializing_if = "str::is_empty")]
    request_id: &'a str,
    /// Status that the upstream gave: it has acted.
    #[serde(skip_serializing_if = "Option::is_none")]
    upstream_status: Option<u16>,
}

/// The answer for a cause: `application/problem+json`, not to be stored.
#[must_use]
pub fn problem(cause: Cause, failure: &Failure, request_id: &str, upstream: Option<StatusCode>) -> Response<Bytes> {
    problem_at(cause, failure, request_id, upstream, None)
}

/// The same, naming the value at fault by its normalised path (RFC 9535 §2.7) in the caller's own body.
#[must_use]
pub fn problem_at(
    cause: Cause,
    failure: &Failure,
    request_id: &str,
    upstream: Option<StatusCode>,
    path: Option<&str>,
) -> Response<Bytes> {
    let is_cut = cause == CUT_REFUSED || cause == CUT_FAILED;
    let detail = match failure {
        Failure::Json { offset, cause, .. } => Some(format!("{cause} at byte {offset}")),
        Failure::Api(fault) => api_detail(*fault),
        _ => None,
    };
    let problem = Problem {
        r#type: "about:blank",
        title: cause.title,
        status: cause.status.as_u16(),
        code: cause.code,
        cause: is_cut.then(|| cause_of(failure)).flatten().map(|cause| cause.code),
        detail,
        path,
        request_id,
        upstream_status: upstream.map(|s| s.as_u16()),
    };
    // Strings and numbers always serialise; an empty body would still carry the status.
    let body = Bytes::from(serde_json::to_vec(&problem).unwrap_or_default());
    let mut response = Response::new(body);
    *response.status_mut() = cause.status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if cause.status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    if cause.status == StatusCode::UNAUTHORIZED {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer realm=\"e3\", Basic realm=\"e3\""));
    }
    if let Failure::Api(ApiFault::Method { read }) = failure {
        headers.insert(header::ALLOW, HeaderValue::from_static(if *read { "GET, HEAD" } else { "POST" }));
    }
    if cause.status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
        headers.insert(header::PROXY_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"relay\""));
    }
    if is_cut || matches!(failure, Failure::Framing(_) | Failure::RequestTimeout) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

/// The bytes of an answer that is written where no codec is left to do it: the connection closes after it.
#[must_use]
pub fn farewell(failure: &Failure) -> Option<Bytes> {
    let cause = cause_of(failure)?;
    let body = problem(cause, failure, "", None).into_body();
    let status = cause.status;
    let reason = status.canonical_reason().unwrap_or_default();
    let mut out = format!(
        "HTTP/1.1 {} {reason}\r\ncontent-type: application/problem+json\r\ncache-control: no-store\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        status.as_u16(),
        body.len()
    )
    .into_bytes();
    out.extend_from_slice(&body);
    Some(out.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_of_one_form() {
        let mut codes: Vec<_> = table().iter().map(|c| c.code).collect();
        codes.sort_unstable();
        for pair in codes.windows(2) {
            assert_ne!(pair[0], pair[1]);
        }
        for code in codes {
            let (group, name) = code.split_once('/').unwrap();
            assert!([group, name].iter().all(|p| p.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')), "{code}");
        }
    }
}
