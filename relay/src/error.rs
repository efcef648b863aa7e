//! Every cause for which a message is refused. Variants carry no text and no value; the module `answer` turns them into HTTP.

use e3_wire::{Refusal, RequestRefusal};
use json_span::{ScanCause, SelectorError};

/// Which of the two bodies of an exchange failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The request: nothing of it went upstream.
    Request,
    /// The response: the upstream has acted; nothing of the response went down.
    Response,
}

/// Why a message is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// The head or the framing breaks RFC 9112 or this relay's stricter gate: 400.
    Framing(Framing),
    /// A path that has more than one reading: 400.
    Path(PathFault),
    /// A method-override header or parameter on a ruled site: 400.
    MethodOverride,
    /// A header that has some servers read another path than the rules did, on a ruled site: 400.
    PathOverride,
    /// A field name with `_` on a site that does not allow it: some backends read it as `-`: 400.
    UnderscoreField,
    /// No site of this host here: 421.
    UnknownHost,
    /// Host and TLS server name are of sites that demand different things of a TLS client: 421.
    ServerName,
    /// A request that could tell something, on a site that sends on to https: 403.
    Plaintext,
    /// CONNECT, on a listener that opens no tunnels: 405.
    Tunnel,
    /// CONNECT for a host or port that no destination opens to it: 403.
    NoTunnel,
    /// Host, TLS server name and CONNECT target differ: 421.
    Misdirected,
    /// No key of this listener's clients: 407.
    ProxyAuthentication,
    /// A path that the destination does not open: 403.
    ClosedPath,
    /// An upgrade to another protocol on a ruled request: 403.
    Upgrade,
    /// `unruled: refuse`, and no rule selects the request: 403.
    Unruled,
    /// A media type that the rules of the request do not read: 415.
    MediaType(Side),
    /// A content coding other than identity: 415.
    ContentCoding(Side),
    /// A ruled body over its limit: 413.
    TooLarge(Side),
    /// A body that is not exactly one strict JSON value: 400, with the byte offset.
    Json {
        /// Which body.
        side: Side,
        /// Byte offset in the body.
        offset: usize,
        /// What is wrong there.
        cause: ScanCause,
    },
    /// A `required: true` selection that matched nothing: 422.
    Required(Side),
    /// Two rules claim one value with different outcomes, seen only at run time: 422.
    Conflict(Side),
    /// The engine refused a value: 403 or 422.
    Refused {
        /// Which body.
        side: Side,
        /// The engine's reason.
        reason: Refusal,
    },
    /// The engine refused the whole call: 503.
    Engine(RequestRefusal),
    /// The engine could not be reached or did not answer in time: 503.
    EngineAway,
    /// The engine's answer does not fit the question: 503.
    EngineAnswer,
    /// More values or bytes than one engine call takes: 413.
    TooMuchForEngine(Side),
    /// The request head or body did not arrive in its total time: 408.
    RequestTimeout,
    /// The client went away; nobody is left to answer.
    ClientGone,
    /// No server of the upstream can be reached: 502.
    UpstreamConnect,
    /// No address of the upstream is one that may be reached: 403.
    Egress,
    /// The upstream's certificate does not verify: 502.
    UpstreamTls,
    /// The upstream broke off or spoke no HTTP: 502.
    UpstreamProtocol,
    /// A ruled response was partial (206) although no range was asked for: 502.
    UpstreamPartial,
    /// The upstream did not answer in its total time: 504.
    UpstreamTimeout,
    /// A call of the HTTP API that is none.
    Api(ApiFault),
    /// The relay has no room for the body: 503, or 502 where the upstream has acted.
    Overloaded(Side),
    /// A defect of the relay itself; failing closed: 500.
    Internal,
}

/// What the framing gate refused. Names follow the fault, as in the table of README.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Framing {
    /// Both `Content-Length` and `Transfer-Encoding`.
    LengthAndEncoding,
    /// Repeated, listed or malformed `Content-Length`.
    ContentLength,
    /// Any `Transfer-Encoding` but exactly one `chunked`, or one in HTTP/1.0.
    TransferEncoding,
    /// A bare LF or CR.
    BareLineEnd,
    /// A NUL or other control character.
    Control,
    /// White space around a field name, or a folded line.
    WhiteSpace,
    /// A field name outside RFC 9110's token, or with `_` where that is not allowed.
    FieldName,
    /// Missing, repeated or malformed `Host`, or one that differs from the absolute-form target.
    Host,
    /// A request line outside RFC 9112, or an HTTP version other than 1.0 and 1.1.
    RequestLine,
    /// A head over its byte or field limit.
    HeadTooLarge,
    /// A malformed chunk or trailer.
    Chunk,
}

/// Why a path has more than one reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PathFault {
    /// `%2f`, `%5c` or `%00`.
    EncodedDelimiter,
    /// A backslash.
    Backslash,
    /// A `.` or `..` segment, or one of other dots and blanks alone, also encoded.
    DotSegment,
    /// `//`.
    EmptySegment,
    /// `;` parameters.
    Parameter,
    /// `%` without two hexadecimal digits, or bytes that are not UTF-8 after decoding.
    Escape,
    /// Not an absolute path, or a control character in it.
    Malformed,
}

/// Why a call of the HTTP API is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiFault {
    /// `Authorization` is missing, repeated, or holds no key: 401.
    NoKey,
    /// No such path: 404.
    Path,
    /// Another method than the path has: 405.
    Method {
        /// Whether the path is read with GET, else it is asked with POST.
        read: bool,
    },
    /// A query parameter: 400.
    Query {
        /// Which one.
        parameter: Parameter,
        /// What is wrong with it.
        cause: QueryCause,
    },
}

/// Query parameters of the HTTP API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parameter {
    /// `role`
    Role,
    /// `roles`
    Roles,
    /// `deterministic`
    Deterministic,
    /// `tokens`
    Tokens,
    /// `select`
    Select,
    /// `on_refused`
    OnRefused,
    /// Any other.
    Other,
}

impl Parameter {
    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Role => "role",
            Self::Roles => "roles",
            Self::Deterministic => "deterministic",
            Self::Tokens => "tokens",
            Self::Select => "select",
            Self::OnRefused => "on_refused",
            Self::Other => "a parameter",
        }
    }
}

/// What is wrong with a query parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueryCause {
    /// This call has no such parameter.
    Unknown,
    /// It is missing.
    Missing,
    /// It stands twice.
    Repeated,
    /// It is none of the words it may be.
    Word,
    /// It is no role.
    Role,
    /// A selector is none.
    Selector {
        /// Which of them, from 1.
        number: usize,
        /// Where, and what is wrong there.
        error: SelectorError,
    },
    /// The selectors are too long together.
    TooLong {
        /// Most bytes that they may have.
        most: usize,
    },
    /// A selector uses a regular expression.
    Pattern {
        /// Which of them, from 1.
        number: usize,
    },
    /// A selector has no role, and the call names none for all.
    NoRole {
        /// Which of them, from 1.
        number: usize,
    },
}
