//! `GET /.well-known/e3/attestation?nonce=…`: anyone may ask what the engine is, from anywhere. The relay only carries the answer.

use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Method, Response, StatusCode, Uri};
use pingora_limits::rate::Rate;

use crate::engine::Engine;

/// The path, on every inbound site; it never reaches a backend.
pub const PATH: &str = "/.well-known/e3/attestation";

/// Most documents in a second, for all who ask: each costs the engine's security module some milliseconds.
const RATE: isize = 10;

static ASKED: LazyLock<Rate> = LazyLock::new(|| Rate::new(Duration::from_secs(1)));

/// Path and query for this nonce.
#[must_use]
pub fn target(nonce: &[u8]) -> String {
    format!("{PATH}?nonce={}", nonce.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// Whether a request asks for the document.
#[must_use]
pub fn asks(method: &Method, uri: &Uri) -> bool {
    uri.path() == PATH && *method == Method::GET
}

/// The nonce: `nonce=` and 32 to 128 hexadecimal digits, nothing else.
fn nonce(uri: &Uri) -> Option<Vec<u8>> {
    let digits = uri.query()?.strip_prefix("nonce=")?;
    if !(32..=128).contains(&digits.len()) || digits.len() % 2 != 0 || !digits.is_ascii() {
        return None;
    }
    let pairs = digits.as_bytes().chunks_exact(2).map(|pair| std::str::from_utf8(pair).ok());
    pairs.map(|pair| u8::from_str_radix(pair.filter(|p| !p.starts_with('+'))?, 16).ok()).collect()
}

/// The engine's document (`application/cbor`), or why there is none: 400 without a nonce, 404 where the engine can prove nothing, 429 over the rate,
/// 503 without an engine.
pub async fn answer(engine: &Engine, uri: &Uri) -> Response<Bytes> {
    let Some(nonce) = nonce(uri) else {
        return text(StatusCode::BAD_REQUEST, "ask with ?nonce= and 32 to 128 hexadecimal digits\n");
    };
    if ASKED.observe(&(), 1) > RATE {
        return text(StatusCode::TOO_MANY_REQUESTS, "too many ask at once\n");
    }
    match engine.attest(&nonce).await {
        Ok(document) if document.is_empty() => {
            text(StatusCode::NOT_FOUND, "this engine can prove nothing: development mode\n")
        }
        Ok(document) => {
            let mut response = Response::new(document);
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/cbor"));
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
            response
        }
        Err(_) => text(StatusCode::SERVICE_UNAVAILABLE, "no engine answers\n"),
    }
}

fn text(status: StatusCode, text: &'static str) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from_static(text.as_bytes()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_nonce_of_16_to_64_bytes_is_one() {
        let of = |query: &str| nonce(&format!("{PATH}?{query}").parse().unwrap());
        assert_eq!(of(&format!("nonce={}", "0f".repeat(16))), Some(vec![15; 16]));
        assert_eq!(nonce(&target(&[7; 64]).parse().unwrap()), Some(vec![7; 64]));
        for bad in [
            "",
            "nonce=",
            "nonce=00",
            "n=1",
            &format!("nonce={}", "0".repeat(33)),
            &format!("nonce={}", "+f".repeat(16)),
            &format!("nonce={}", "0".repeat(130)),
        ] {
            assert_eq!(of(bad), None, "{bad}");
        }
        assert!(asks(&Method::GET, &target(&[1; 32]).parse().unwrap()));
        assert!(!asks(&Method::POST, &target(&[1; 32]).parse().unwrap()));
    }
}
