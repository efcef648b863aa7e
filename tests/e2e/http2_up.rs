//! HTTP/2 towards upstreams: what goes up is what goes up over HTTP/1, on shared connections.

#[path = "../src/proxied.rs"]
#[allow(dead_code, reason = "its clients are for the tests of TLS and CONNECT")]
mod proxied;

use std::net::SocketAddr;

use e3_tests::backend::{Backend, answer};
use e3_tests::client::{Connection, json_request, once};
use e3_tests::engine_double::{Behaviour, EngineDouble, token_of};
use e3_tests::port;
use e3_tests::stack::{Relay, folder};
use proxied::{Setup, TestCa, TlsServer};

const HOST: &str = "api.shop.example";
const CARD: &str = r#"{"card":"4111111111111111","kept":1.10}"#;

/// A relay that seals and speaks HTTP/2 to a second one, which passes on to the backend, and opens what it answers.
struct Chain {
    first: Relay,
    second: Relay,
    entry: SocketAddr,
    backend: Backend,
    _folder: tempfile::TempDir,
    _engine: EngineDouble,
}

impl Chain {
    fn start(backend: Backend, tls: bool) -> Self {
        let (folder, entry, middle) = (folder(), port::free(), port::free());
        let engine = EngineDouble::start(Behaviour::Honest);
        let (site, ca) = if tls {
            let tls = TestCa::new().site(folder.path(), HOST);
            (format!("tls: {{{tls}}}"), format!("backend_ca: {}", folder.path().join("site-ca.pem").display()))
        } else {
            ("connections: {h2c: true}".to_owned(), "underscore_headers: false".to_owned())
        };
        let scheme = if tls { "https" } else { "http" };
        let name = if tls { format!("backend_name: {HOST}") } else { "server_timing: false".to_owned() };
        let engine_line = format!("engine: {{endpoints: [\"{}\"], app: shop, development: true}}", engine.endpoint());
        let second = Relay::start(
            folder.path(),
            "second",
            &format!(
                "{engine_line}\ngrace: 1s\ninbound:\n  - listen: {middle}\n    hosts: [{HOST}]\n    backend: http://{}\n    {site}\n    \
                 rules: [{{match: {{path: /open}}, response: {{open: [{{select: $.card, roles: [card]}}]}}}}]\n",
                backend.address()
            ),
        );
        second.wait_ready();
        let first = Relay::start(
            folder.path(),
            "first",
            &format!(
                "{engine_line}\nthreads: 1\ninbound:\n  - listen: {entry}\n    hosts: [{HOST}]\n    backend: {scheme}://{middle}\n    backend_http2: true\n    {ca}\n    {name}\n    \
                 limits: {{response_time: 2s, stream_idle: 2s}}\n    \
                 rules: [{{match: {{methods: [POST], path: /seal}}, request: {{seal: [{{select: $.card, role: card}}]}}}}]\n"
            ),
        );
        first.wait_ready();
        Self { first, second, entry, backend, _folder: folder, _engine: engine }
    }

    /// Connections that the second relay has from the first: those of its own health page are on another listener.
    fn connections(&self) -> f64 {
        self.second.metric("e3_relay_connections{side=\"inbound\"}").expect("the metric of connections")
    }
}

#[test]
fn values_are_sealed_on_their_way_over_http2() {
    for tls in [false, true] {
        let chain = Chain::start(Backend::echo(), tls);
        let answer = once(chain.entry, &json_request("POST", "/seal", HOST, CARD));
        assert_eq!(answer.status, 200, "{}", answer.text());
        let token = token_of("card", 's', "4111111111111111");
        let sealed = format!(r#"{{"card":"{token}","kept":1.10}}"#);
        assert_eq!(answer.text(), sealed);
        let requests = chain.backend.requests();
        assert_eq!(requests[0].text(), sealed);
        assert_eq!(requests[0].header("content-length"), Some(&*sealed.len().to_string()));
        assert_eq!(requests[0].header("host"), Some(HOST));
        assert!(chain.connections() <= 1.0);
    }
}

#[test]
fn large_bodies_with_values_replaced_in_their_midst_arrive_whole() {
    for tls in [false, true] {
        let chain = Chain::start(Backend::echo(), tls);
        for size in [3_000, 70_000, 400_000] {
            let around =
                |card: &str| format!(r#"{{"b":"{}","card":{card},"a":"{}"}}"#, "b".repeat(size), "a".repeat(size));
            let (body, sealed) =
                (around("\"4111111111111111\""), around(&format!("\"{}\"", token_of("card", 's', "4111111111111111"))));
            let up = once(chain.entry, &json_request("POST", "/seal", HOST, &body));
            assert!(
                up.status == 200 && up.text() == sealed,
                "{size} bytes: {} with {} bytes",
                up.status,
                up.body.len()
            );
            assert!(chain.backend.requests().pop().is_some_and(|request| request.text() == sealed));
            let down = once(chain.entry, &json_request("POST", "/open", HOST, &sealed));
            assert!(down.status == 200 && down.text() == body, "{size} bytes: {}", down.status);
        }
    }
}

#[test]
fn requests_share_one_connection() {
    let chain = Chain::start(Backend::echo(), false);
    let mut clients: Vec<Connection> = (0..20).map(|_| Connection::open(chain.entry)).collect();
    for round in 0..5 {
        let body = format!(r#"{{"card":"4111","round":{round}}}"#);
        for client in &mut clients {
            client.send(&json_request("POST", "/seal", HOST, &body)).expect("a request");
        }
        for client in &mut clients {
            let answer = client.answer().expect("an answer");
            assert!(
                answer.status == 200 && answer.text().contains(&format!(r#""round":{round}"#)),
                "{}",
                answer.text()
            );
        }
    }
    assert_eq!(chain.backend.requests().len(), 100);
    assert!(chain.backend.requests().iter().all(|request| !request.text().contains("4111\"")));
    assert!(chain.connections() <= 1.0, "{} connections", chain.connections());
}

#[test]
fn streamed_bodies_and_trailers_pass_in_chunks() {
    let chunked = Backend::start(|_| {
        let mut answer = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: x-sum\r\n\r\n".to_vec();
        for _ in 0..100 {
            answer.extend(format!("1000\r\n{}\r\n", "a".repeat(0x1000)).bytes());
        }
        answer.extend(b"0\r\nx-sum: 42\r\n\r\n");
        Some(answer)
    });
    let chain = Chain::start(chunked, false);
    let body = "b".repeat(300_000);
    let request = format!(
        "POST /free HTTP/1.1\r\nHost: {HOST}\r\nTE: trailers\r\nConnection: te\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let answer = once(chain.entry, request.as_bytes());
    assert_eq!((answer.status, answer.body.len()), (200, 100 * 0x1000));
    assert_eq!(chain.backend.requests()[0].body.len(), 300_000);
}

#[test]
fn an_upstream_that_says_goodbye_fails_no_request() {
    let chain = Chain::start(Backend::echo(), false);
    assert_eq!(once(chain.entry, &json_request("POST", "/seal", HOST, CARD)).status, 200);
    // A second relay takes the middle over; the first one's shared connection ends with GOAWAY.
    let (successor, mut old) = chain.second.hand_over();
    for _ in 0..20 {
        let answer = once(chain.entry, &json_request("POST", "/seal", HOST, CARD));
        assert_eq!(answer.status, 200, "{}", answer.text());
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    assert!(old.wait().success());
    successor.wait_ready();
    assert_eq!(once(chain.entry, &json_request("POST", "/seal", HOST, CARD)).status, 200);
    drop(chain.first);
}

#[test]
fn an_upstream_that_hangs_is_given_up_and_its_answer_reaches_nobody_else() {
    let slow = Backend::start(|request| {
        if request.line().1 == "/slow" {
            std::thread::sleep(std::time::Duration::from_secs(4));
        }
        Some(answer(200, "text/plain", request.line().1.as_bytes()))
    });
    let chain = Chain::start(slow, false);
    let late = once(chain.entry, &json_request("GET", "/slow", HOST, ""));
    assert_eq!(late.status, 504, "{}", late.text());
    for path in ["/a", "/b"] {
        assert_eq!(once(chain.entry, &json_request("GET", path, HOST, "")).text(), path);
    }
}

#[test]
fn an_upstream_that_speaks_only_http1_is_taken_at_its_word() {
    let (folder, ca, entry) = (folder(), TestCa::new(), port::free());
    let engine = EngineDouble::start(Behaviour::Honest);
    let server = TlsServer::start(ca.leaf(HOST, |_| ()), Setup::default());
    let file = folder.path().join("ca.pem");
    std::fs::write(&file, &ca.pem).expect("the authority's file");
    let relay = Relay::start(
        folder.path(),
        "relay",
        &format!(
            "engine: {{endpoints: [\"{}\"], app: shop, development: true}}\ninbound:\n  - listen: {entry}\n    hosts: [{HOST}]\n    backend: https://{}\n    \
             backend_http2: true\n    backend_ca: {}\n    backend_name: {HOST}\n",
            engine.endpoint(),
            server.address,
            file.display()
        ),
    );
    relay.wait_ready();
    let answer = once(entry, &json_request("POST", "/free", HOST, CARD));
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(server.heads.lock().expect("the record")[0].starts_with("POST /free HTTP/1.1"));
}
