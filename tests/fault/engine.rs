//! An engine that fails in any way: the client is told 503 within the deadline, and the backend gets not one byte of the request.

#[path = "../src/proxied.rs"]
#[allow(dead_code, reason = "its servers are for the tests of CONNECT")]
mod proxied;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
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
    relay: Relay,
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
      - match: {{path: /shown}}
        response: {{open: [{{select: $.number, roles: [card-number]}}]}}
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
        Self { relay, backend, inbound, secure, outbound, ca, site_ca, _folder: folder }
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
fn an_engine_killed_under_load_sends_no_plaintext_and_its_successor_serves() {
    let keys = folder();
    let mut engine = Engine::start(keys.path());
    let stack = Stack::start(&engine.endpoint(), Backend::echo());
    stack.relay.wait_ready();
    let (served, refused) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for client in 0..4 {
            let (stack, served, refused, over) = (&stack, &served, &refused, &over);
            scope.spawn(move || {
                // Enough values that many a call is in the engine's hands when it is killed.
                let items = vec![r#"{"cvc":"SECRET-737"}"#; 500].join(",");
                let order = format!(r#"{{"card":{{"number":"SECRET-{client}"}},"items":[{items}]}}"#);
                while !over.load(Ordering::SeqCst) {
                    let answer = stack.order(&order);
                    match answer.status {
                        200 => served.fetch_add(1, Ordering::SeqCst),
                        503 => refused.fetch_add(1, Ordering::SeqCst),
                        other => panic!("{other}: {}", answer.text()),
                    };
                    assert!(!answer.text().contains("SECRET"), "{}", answer.text());
                }
            });
        }
        // Ends the clients also when this fails.
        let _end = Ending(&over);
        let more = |what: &str, of: &AtomicUsize| {
            let before = of.load(Ordering::SeqCst);
            e3_tests::eventually(what, || (of.load(Ordering::SeqCst) >= before + 8).then_some(()));
        };
        for _ in 0..3 {
            more("orders are served", &served);
            engine.process().kill();
            more("orders are refused", &refused);
            engine = Engine::start(keys.path());
        }
        more("orders are served again", &served);
    });
    let got = stack.backend.requests();
    assert_eq!(got.len(), served.load(Ordering::SeqCst), "what was refused reached nobody");
    for request in got {
        assert!(!request.text().contains("SECRET"), "plaintext reached the backend");
        assert_eq!(request.text().matches("e3v1.card-cvc.s.").count(), 500);
    }
}

/// Tells others to end when this ends, however it does.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

#[test]
fn an_answer_that_comes_twice_reaches_no_other_request() {
    let engine = EngineDouble::start(Behaviour::DuplicateId);
    let stack = Stack::start(&engine.endpoint(), Backend::echo());
    let own = |name: &str| format!(r#"{{"card":{{"number":"{}"}}}}"#, token_of("card-number", 's', name));
    let served = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for client in 0..4 {
            let (stack, served) = (&stack, &served);
            scope.spawn(move || {
                for n in 0..50 {
                    let name = format!("{client}-{n}");
                    let answer = stack.order(&format!(r#"{{"card":{{"number":"{name}"}}}}"#));
                    match answer.status {
                        200 => assert_eq!(answer.text(), own(&name)),
                        // The second answer ends the connection to the engine, and what else was asked on it.
                        503 => continue,
                        other => panic!("{other}: {}", answer.text()),
                    }
                    served.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
    });
    let got = stack.backend.requests();
    assert!(!got.is_empty() && got.len() == served.load(Ordering::SeqCst), "{} reached the backend", got.len());
    assert!(got.iter().all(|request| request.text().contains("e3v1.card-number.s.")), "plaintext reached the backend");
    engine.behave(Behaviour::Honest);
    let answer = e3_tests::eventually("the engine serves again", || {
        Some(stack.order(r#"{"card":{"number":"now"}}"#)).filter(|answer| answer.status == 200)
    });
    assert_eq!(answer.text(), own("now"));
}

#[test]
fn what_an_engine_that_is_not_ready_would_have_to_open_is_not_even_asked_for() {
    let engine = EngineDouble::start(Behaviour::NotReady);
    let stack = Stack::start(&engine.endpoint(), Backend::json(r#"{"number":"4111"}"#));
    let get = format!("GET /shown HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    // Known when it has been asked for the first time.
    e3_tests::eventually("a relay that knows", || {
        (stack.relay.metric("e3_relay_engine_ready") == Some(0.0) && stack.order(CARD).status == 503).then_some(())
    });
    let before = stack.backend.bytes();
    let answer = once(stack.inbound, get.as_bytes());
    assert_eq!((answer.status, answer.text().contains("engine/unavailable")), (503, true), "{}", answer.text());
    assert!(!answer.text().contains("upstream_status"), "{}", answer.text());
    assert_eq!(stack.backend.bytes(), before, "the upstream was asked for what cannot be opened");
    assert_eq!(e3_tests::client::get(stack.relay.admin(), "/readyz").status, 503);
    engine.behave(Behaviour::Honest);
    stack.relay.wait_ready();
    assert_eq!(once(stack.inbound, get.as_bytes()).status, 200);
}

#[test]
fn an_engine_that_is_not_ready_gets_no_call_while_another_is() {
    let (waiting, ready) = (EngineDouble::start(Behaviour::NotReady), EngineDouble::start(Behaviour::Honest));
    let stack = Stack::start(&format!("{}\", \"{}", waiting.endpoint(), ready.endpoint()), Backend::echo());
    stack.relay.wait_ready();
    for _ in 0..20 {
        assert_eq!(stack.order(CARD).status, 200);
    }
    assert_eq!((waiting.requests(), ready.requests()), (0, 20));
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
