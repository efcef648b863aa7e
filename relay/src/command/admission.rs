//! What the relay refuses of a request beside its path and rules, for the commands that tell what it would do.

use http::request::Parts;
use http::{Method, header};

use crate::admit::decoded;
use crate::admit::head::{self, BodyFraming};
use crate::config::resolved::Site;
use crate::error::{Failure, Framing};
use crate::exchange::headers;
use crate::rules::route::Route;

/// The most fields and bytes of a head where no listener says otherwise.
const USUAL: (usize, usize) = (100, 32 * 1024);

/// A head as the framing gate gets it.
pub(super) struct Written {
    /// Lines ended by CRLF, an empty one at the end.
    pub(super) text: Vec<u8>,
    /// Whether it is one of HTTP/2, which comes in frames.
    pub(super) is_http2: bool,
}

/// Holds a head to what the framing gate holds it to.
///
/// # Errors
/// What the gate refuses.
pub(super) fn framing(
    written: &Written,
    parts: &mut Parts,
    limits: Option<(usize, usize)>,
) -> Result<BodyFraming, Failure> {
    let (fields, bytes) = limits.unwrap_or(USUAL);
    if written.text.len() > bytes {
        return Err(Failure::Framing(Framing::HeadTooLarge));
    }
    if written.is_http2 {
        decoded::settle(parts, fields).map_err(Failure::Framing)?;
        let length = parts.headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
        return Ok(BodyFraming::Length(length.unwrap_or(0)));
    }
    head::read(&written.text, fields).map(|head| head.body).map_err(Failure::Framing)
}

/// Holds a request to what a site asks of it before its rules do.
///
/// # Errors
/// What the site refuses.
pub(super) fn site(parts: &Parts, site: &Site) -> Result<(), Failure> {
    if site.redirect && !matches!(parts.method, Method::GET | Method::HEAD) {
        return Err(Failure::Plaintext);
    }
    if !site.underscore_headers && parts.headers.keys().any(|name| name.as_str().contains('_')) {
        return Err(Failure::UnderscoreField);
    }
    Ok(())
}

/// Holds a request to what its rules ask of it beside its body.
///
/// # Errors
/// It is ruled, and would change its protocol.
pub(super) fn protocol(parts: &Parts, route: &Route) -> Result<(), Failure> {
    if route.is_ruled() && headers::upgrade(&parts.headers).is_some() { Err(Failure::Upgrade) } else { Ok(()) }
}
