//! An engine that fails in any way: the client is told 503 within the deadline, and the backend gets not one byte of the request.

#[path = "../src/proxied.rs"]
#[allow(dead_code, reason = "its servers are for the tests of CONNECT")]
mod proxied;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use e3_tests::backend::Backend;
use e3_tests::client::{json_request, once};
use e3_tests::engine_double::{Behaviour, EngineDouble, token_of};
use e3_tests::port;
use e3_tests::process::Program;
use e3_tests::stack::{Engine, Relay, endpoint, folder};
use e3_wire::{Refusal, RequestRefusal};
use proxied::{TestCa, Through, curl};

const HOST: &str = "api.shop.example";
const CARD: &str = r#"{"card":{"number":"4111111111111111","cvc":"737"},"kept":1.10}"#;

/// Longer than the engine's 300 ms in these rules, and far shorter than any other timeout.
const DEADLINE: Duration = Duration::from_secs(5);

struct Stack {
    _relay: Relay,
    backend: Backend,
    inbound: SocketAddr,
    secure: SocketAddr,
    outbound: SocketAddr,
    ca: PathBuf,
    site_ca: PathBuf,
    _folder: tempfile::TempDir,
}

impl Stack {
    fn start(endpoint: &str, backend: Backend) -> Self {
        let (folder, inbound, secure, outbound) = (folder(), port::free(), port::free(), port::free());
        let tls = TestCa::new().site(folder.path(), HOST);
        let (ca, key) = (folder.path().join("ca.pem"), folder.path().join("ca.key"));
        let made = Program::Relay.output([
            "ca".as_ref(),
            "init".as_ref(),
            "--certificate".as_ref(),
            ca.as_os_str(),
            "--key".as_ref(),
            key.as_os_str(),
        ]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let site = format!(
            r#"    hosts: [{HOST}]
    backend: http://{backend}
    rules:
      - match: {{methods: [POST], path: /v1/**}}
        request:
          seal:
            - {{select: $.card.number, role: card-number}}
            - {{select: "$..cvc", role: card-cvc, tokens: keep}}
"#,
            backend = backend.address(),
        );
        let rules = format!(
            r#"engine: {{endpoints: ["{endpoint}"], app: shop, timeout: 300ms, development: true}}
ca: {{certificate: {ca}, key: {key}}}
inbound:
  - listen: {inbound}
{site}  - listen: {secure}
    tls: {{{tls}}}
{site}outbound:
  - listen: {outbound}
    destinations:
      - host: api.pay.example
        upstream: http://{backend}
        intercept: true
        rules:
          - match: {{path: /charges/**}}
            request: {{open: [{{select: $.number, roles: [card-number]}}]}}
"#,
            backend = backend.address(),
            ca = ca.display(),
            key = key.display(),
        );
        let relay = Relay::start(folder.path(), "relay", &rules);
        let site_ca = folder.path().join("site-ca.pem");
        Self { _relay: relay, backend, inbound, secure, outbound, ca, site_ca, _folder: folder }
    }

    fn secure_http2(&self) -> Way {
        let port = self.secure.port();
        let known = ["--resolve".to_owned(), format!("{HOST}:{port}:127.0.0.1")];
        let trust = ["--cacert".to_owned(), self.site_ca.display().to_string()];
        Way::Http2([known, trust].concat(), format!("https://{HOST}:{port}/v1/orders"))
    }

    fn connect_http2(&self, host: &str) -> Way {
        let proxy = ["--proxy".to_owned(), format!("http://{}", self.outbound)];
        let trust = ["--cacert".to_owned(), self.ca.display().to_string()];
        Way::Http2([proxy, trust].concat(), format!("https://{host}/charges/1"))
    }

    fn order(&self, body: &str) -> e3_tests::client::Answer {
        once(self.inbound, &json_request("POST", "/v1/orders", HOST, body))
    }
}

/// How a message comes to the relay.
enum Way {
    Plain(SocketAddr),
    /// In TLS that ends at the inbound listener.
    Tls,
    /// Through CONNECT to the outbound listener, in TLS that ends in the relay.
    Connect,
    /// The same two over HTTP/2, by curl.
    Http2(Vec<String>, String),
}

/// Sends an order, and a charge in either way; all are refused in time with this status and code, and nothing reaches the backend.
fn nothing_leaves(behaviour: Behaviour, status: u16, codes: &[&str]) {
    let engine = EngineDouble::start(behaviour);
    let stack = Stack::start(&engine.endpoint(), Backend::echo());
    let charge = format!(r#"{{"number":"{}"}}"#, token_of("card-number", 's', "4111111111111111"));
    let pay = "api.pay.example";
    let sent = [
        (Way::Plain(stack.inbound), json_request("POST", "/v1/orders", HOST, CARD)),
        (Way::Plain(stack.outbound), json_request("POST", "/charges/1", pay, &charge)),
        (Way::Tls, json_request("POST", "/v1/orders", HOST, CARD)),
        (Way::Connect, json_request("POST", "/charges/1", pay, &charge)),
        (stack.secure_http2(), Vec::from(CARD)),
        (stack.connect_http2(pay), charge.clone().into_bytes()),
    ];
    for (way, request) in sent {
        let mut through = match way {
            Way::Plain(_) | Way::Http2(..) => None,
            Way::Tls => Some(Through::direct(stack.secure, &stack.site_ca, HOST)),
            Way::Connect => Some(Through::open(stack.outbound, &stack.ca, pay)),
        };
        let started = Instant::now();
        let answer = match (way, &mut through) {
            (Way::Plain(address), _) => once(address, &request),
            (Way::Http2(arguments, url), _) => {
                let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                let answer = curl(&arguments, &url, std::str::from_utf8(&request).ok());
                assert!(answer.head.starts_with("HTTP/2 "), "{}", answer.head);
                answer
            }
            (_, Some(through)) => through.ask(&request).expect("an answer"),
            (_, None) => unreachable!("opened just now"),
        };
        assert!(started.elapsed() < DEADLINE, "{behaviour:?}: answered after {:?}", started.elapsed());
        assert_eq!(answer.status, status, "{behaviour:?}: {}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{behaviour:?}");
        assert!(codes.iter().any(|c| answer.text().contains(c)), "{behaviour:?}: {}", answer.text());
        assert!(!answer.text().contains("4111"), "{behaviour:?}: the answer holds a value");
    }
    assert_eq!(stack.backend.bytes(), 0, "{behaviour:?}: bytes reached the backend");
}

const AWAY: &[&str] = &["engine/unavailable"];
const ODD: &[&str] = &["engine/answer", "engine/unavailable"];

#[test]
fn engine_hang_sends_no_plaintext() {
    nothing_leaves(Behaviour::Hangs, 503, AWAY);
}

#[test]
fn slow_engine_sends_no_plaintext() {
    nothing_leaves(Behaviour::Slow(Duration::from_secs(2)), 503, AWAY);
}

#[test]
fn engine_that_closes_sends_no_plaintext() {
    nothing_leaves(Behaviour::Closes, 503, AWAY);
}

#[test]
fn engine_cut_mid_frame_sends_no_plaintext() {
    nothing_leaves(Behaviour::CutsMidFrame, 503, AWAY);
}

#[test]
fn engine_answering_a_wrong_id_sends_no_plaintext() {
    nothing_leaves(Behaviour::WrongId, 503, ODD);
}

#[test]
fn engine_announcing_an_oversized_frame_sends_no_plaintext() {
    nothing_leaves(Behaviour::OversizedFrame, 503, ODD);
}

#[test]
fn engine_answering_garbage_sends_no_plaintext() {
    nothing_leaves(Behaviour::Garbage, 503, ODD);
}

#[test]
fn engine_answering_too_few_results_sends_no_plaintext() {
    nothing_leaves(Behaviour::TooFewResults, 503, ODD);
}

#[test]
fn engine_answering_too_many_results_sends_no_plaintext() {
    nothing_leaves(Behaviour::TooManyResults, 503, ODD);
}

#[test]
fn every_refusal_of_a_request_sends_no_plaintext() {
    for (refusal, status, code) in [
        (RequestRefusal::Overloaded, 503, "engine/overloaded"),
        (RequestRefusal::Deadline, 503, "engine/deadline"),
        (RequestRefusal::AuditUnavailable, 503, "engine/audit"),
        (RequestRefusal::NotReady, 503, "engine/not-ready"),
        (RequestRefusal::UnknownApp, 503, "engine/unknown-app"),
        (RequestRefusal::Malformed, 503, "engine/malformed"),
        (RequestRefusal::TooLarge, 503, "engine/too-large"),
        (RequestRefusal::UnknownCredential, 401, "engine/unknown-key"),
        (RequestRefusal::NoPolicy, 503, "engine/no-policy"),
    ] {
        nothing_leaves(Behaviour::RefusesRequests(refusal), status, &[code]);
    }
}

#[test]
fn every_refusal_of_a_value_sends_no_plaintext() {
    for (refusal, status, code) in [
        (Refusal::NotAuthentic, 422, "token/not-authentic"),
        (Refusal::RoleNotAllowed, 403, "token/role"),
        (Refusal::RoleKind, 403, "engine/role-kind"),
        (Refusal::NotPermitted, 403, "engine/not-permitted"),
        (Refusal::UnknownRole, 403, "engine/unknown-role"),
        (Refusal::BadValue, 422, "engine/value"),
        (Refusal::RateLimited, 503, "engine/rate"),
        (Refusal::TooOld, 403, "token/too-old"),
        (Refusal::TypeNotAllowed, 422, "engine/type"),
    ] {
        nothing_leaves(Behaviour::RefusesItems(refusal), status, &[code]);
    }
}

/// Faults that only sealing can show.
#[test]
fn an_engine_that_would_leave_plaintext_in_place_is_not_believed() {
    for behaviour in [Behaviour::KeepsEverything, Behaviour::WrongRole, Behaviour::TokenThatBreaksOut] {
        let engine = EngineDouble::start(behaviour);
        let stack = Stack::start(&engine.endpoint(), Backend::echo());
        let answer = stack.order(CARD);
        assert_eq!(answer.status, 503, "{behaviour:?}: {}", answer.text());
        assert!(answer.text().contains("engine/answer"), "{behaviour:?}: {}", answer.text());
        assert_eq!(stack.backend.bytes(), 0, "{behaviour:?}");
    }
}

#[test]
fn refused_engine_connection_sends_no_plaintext() {
    let empty = folder();
    let stack = Stack::start(&endpoint(empty.path()), Backend::echo());
    let answer = stack.order(CARD);
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(stack.backend.bytes(), 0);
}

#[test]
fn killed_engine_sends_no_plaintext_and_its_successor_serves() {
    let keys = folder();
    let mut engine = Engine::start(keys.path());
    let stack = Stack::start(&engine.endpoint(), Backend::echo());
    assert_eq!(stack.order(CARD).status, 200);
    let before = stack.backend.bytes();
    engine.process().kill();
    let answer = stack.order(CARD);
    assert_eq!(answer.status, 503, "{}", answer.text());
    assert_eq!(stack.backend.bytes(), before, "bytes reached the backend without an engine");
    drop(engine);
    let _engine = Engine::start(keys.path());
    e3_tests::eventually("the relay finds the engine again", || (stack.order(CARD).status == 200).then_some(()));
}

#[test]
fn an_unruled_request_needs_no_engine() {
    let engine = EngineDouble::start(Behaviour::Hangs);
    let stack = Stack::start(&engine.endpoint(), Backend::echo());
    let answer = once(stack.inbound, &json_request("POST", "/v2/plain", HOST, CARD));
    assert_eq!((answer.status, answer.text()), (200, CARD));
    assert_eq!(engine.requests(), 0);
}

#[test]
fn a_late_answer_reaches_no_other_request() {
    let engine = EngineDouble::start(Behaviour::Slow(Duration::from_millis(600)));
    let stack = Stack::start(&engine.endpoint(), Backend::echo());
    for n in 0..3 {
        assert_eq!(stack.order(&format!(r#"{{"card":{{"number":"late-{n}"}}}}"#)).status, 503);
    }
    engine.behave(Behaviour::Honest);
    let answer = e3_tests::eventually("the engine serves again", || {
        let answer = stack.order(r#"{"card":{"number":"now"}}"#);
        (answer.status == 200).then_some(answer)
    });
    assert_eq!(answer.text(), format!(r#"{{"card":{{"number":"{}"}}}}"#, token_of("card-number", 's', "now")));
}
