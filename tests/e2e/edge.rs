//! The codec's edge: framing, connections and headers, with bytes on real sockets.

use std::net::SocketAddr;

use e3_tests::backend::{Backend, answer};
use e3_tests::client::{Connection, json_request, once};
use e3_tests::stack::{Engine, Relay, folder};
use e3_tests::{eventually, port};

const HOST: &str = "api.shop.example";

struct Stack {
    _relay: Relay,
    _engine: Engine,
    backend: Backend,
    inbound: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Stack {
    fn start(backend: Backend) -> Self {
        let (folder, inbound) = (folder(), port::free());
        let engine = Engine::start(folder.path());
        let rules = format!(
            r#"engine: {{endpoints: ["{engine}"], app: shop, timeout: 5s, development: true}}
inbound:
  - listen: {inbound}
    hosts: [{HOST}]
    backend: http://{backend}
    connections: {{head_time: 1s, idle_time: 3s}}
    limits: {{body_time: 1s, response_time: 1s}}
    rules:
      - match: {{methods: [POST], path: /ruled}}
        request: {{seal: [{{select: $.a, role: secret}}]}}
"#,
            engine = engine.endpoint(),
            backend = backend.address()
        );
        let relay = Relay::start(folder.path(), "relay", &rules);
        relay.wait_ready();
        Self { _relay: relay, _engine: engine, backend, inbound, _folder: folder }
    }

    fn send(&self, bytes: &[u8]) -> Connection {
        let mut connection = Connection::open(self.inbound);
        connection.send(bytes).unwrap();
        connection
    }
}

#[test]
fn a_malformed_chunk_of_a_ruled_body_is_answered_400() {
    let stack = Stack::start(Backend::echo());
    for chunk in ["5\r\nabc", "g\r\n", "1\nx\r\n", "1\r\nxy\r\n", "0\r\nContent-Length: 1\r\n\r\n"] {
        let head = format!(
            "POST /ruled HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        );
        let mut connection = stack.send(format!("{head}{chunk}").as_bytes());
        let answer = connection.answer().unwrap_or_else(|e| panic!("{chunk:?}: {e}"));
        // The first is only cut short: its time runs out.
        assert!(matches!(answer.status, 400 | 408), "{chunk:?}: {} {}", answer.status, answer.text());
        assert_eq!(stack.backend.bytes(), 0, "{chunk:?}");
    }
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let stack = Stack::start(Backend::echo());
    let request = |n: usize| {
        format!("POST /x HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\n{n:02}")
    };
    let all: String = (0..20).map(request).collect();
    let mut connection = stack.send(all.as_bytes());
    for n in 0..20 {
        assert_eq!(connection.answer().unwrap().text(), format!("{n:02}"));
    }
}

#[test]
fn hop_by_hop_fields_end_here_and_the_id_goes_on() {
    let stack = Stack::start(Backend::json("{}"));
    let request = format!(
        "GET /x HTTP/1.1\r\nHost: {HOST}\r\nConnection: keep-alive, X-Secret, Host\r\nX-Secret: 1\r\nKeep-Alive: 5\r\nTE: gzip\r\nProxy-Authorization: k\r\nX-Request-Id: my-id.1\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n"
    );
    let answer = once(stack.inbound, request.as_bytes());
    assert_eq!(answer.header("x-request-id"), Some("my-id.1"));
    let got = stack.backend.requests().pop().expect("a request");
    for gone in ["x-secret", "keep-alive", "te", "proxy-authorization", "connection"] {
        assert_eq!(got.header(gone), None, "{gone}: {}", got.head);
    }
    assert_eq!(got.header("host"), Some(HOST));
    assert_eq!(got.header("x-request-id"), Some("my-id.1"));
    assert_eq!(got.header("x-forwarded-for"), Some("127.0.0.1"));
}

#[test]
fn responses_without_a_body_end_where_they_end() {
    let backend = Backend::start(|request| {
        let (method, target) = request.line();
        Some(match (method, target) {
            ("HEAD", _) => b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n".to_vec(),
            (_, "/204") => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
            (_, "/304") => b"HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\n\r\n".to_vec(),
            _ => answer(200, "text/plain", b"end"),
        })
    });
    let stack = Stack::start(backend);
    let mut connection = Connection::open(stack.inbound);
    for (line, status) in [("HEAD /x", 200), ("GET /204", 204), ("GET /304", 304), ("GET /x", 200)] {
        connection.send(format!("{line} HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).unwrap();
        let method = line.split(' ').next().unwrap();
        let answer = connection.answer_to(method).unwrap();
        assert_eq!(answer.status, status, "{line}");
        if line == "HEAD /x" {
            assert_eq!(answer.header("content-length"), Some("1234"));
        }
    }
}

#[test]
fn slow_heads_and_bodies_end_at_their_deadline() {
    let stack = Stack::start(Backend::echo());
    let mut head = stack.send(b"POST /x HT");
    let answer = head.answer().expect("an answer to a head that does not come");
    assert_eq!((answer.status, answer.text().contains("request/timeout")), (408, true));
    let mut body = stack.send(
        format!(
            "POST /ruled HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n{{"
        )
        .as_bytes(),
    );
    let answer = body.answer().expect("an answer to a body that does not come");
    assert_eq!((answer.status, answer.text().contains("request/timeout")), (408, true));
    assert_eq!(stack.backend.bytes(), 0);
    let mut idle = Connection::open(stack.inbound);
    idle.send(format!("GET /x HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).unwrap();
    assert_eq!(idle.answer().unwrap().status, 200);
    assert!(idle.rest().unwrap().is_empty(), "an idle connection is closed without a word");
}

#[test]
fn upstream_faults_have_their_codes() {
    let refused = Stack::start(Backend::start(|_| None));
    let answer = once(refused.inbound, &json_request("POST", "/ruled", HOST, r#"{"a":1}"#));
    assert_eq!((answer.status, answer.text().contains("upstream/protocol")), (502, true), "{}", answer.text());
    let slow = Stack::start(Backend::start(|_| {
        std::thread::sleep(std::time::Duration::from_secs(3));
        None
    }));
    let answer = once(slow.inbound, &json_request("POST", "/ruled", HOST, r#"{"a":1}"#));
    assert_eq!((answer.status, answer.text().contains("upstream/timeout")), (504, true), "{}", answer.text());
    let unknown = once(slow.inbound, &json_request("POST", "/ruled", "other.example", r#"{"a":1}"#));
    assert_eq!((unknown.status, unknown.text().contains("rules/unknown-host")), (421, true));
}

#[test]
fn an_old_client_gets_an_answer_it_understands() {
    let backend = Backend::start(|_| {
        Some(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n".to_vec())
    });
    let stack = Stack::start(backend);
    let mut connection = stack.send(format!("GET /x HTTP/1.0\r\nHost: {HOST}\r\n\r\n").as_bytes());
    let all = String::from_utf8(connection.rest().unwrap()).unwrap();
    assert!(all.starts_with("HTTP/1.0 200") && all.ends_with("\r\n\r\nabc"), "{all}");
    assert!(!all.to_lowercase().contains("transfer-encoding"), "{all}");
}

#[test]
fn an_expectation_is_met_before_the_body_is_sent() {
    let stack = Stack::start(Backend::echo());
    let mut connection = stack.send(
        format!("POST /ruled HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: 7\r\nExpect: 100-continue\r\n\r\n").as_bytes(),
    );
    assert_eq!(connection.interim().unwrap(), 100);
    connection.send(br#"{"a":1}"#).unwrap();
    let answer = connection.answer().unwrap();
    assert!(answer.text().starts_with(r#"{"a":"e3v1.secret.n."#), "{}", answer.text());
}

#[test]
fn another_protocol_passes_on_an_unruled_route() {
    use std::io::{Read, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = [0u8; 2048];
        let n = stream.read(&mut head).unwrap();
        assert!(String::from_utf8_lossy(&head[..n]).to_lowercase().contains("upgrade: echo"));
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n").unwrap();
        let mut bytes = [0u8; 5];
        stream.read_exact(&mut bytes).unwrap();
        stream.write_all(&bytes).unwrap();
    });
    let (folder, inbound) = (folder(), port::free());
    let engine = Engine::start(folder.path());
    let rules = format!(
        "engine: {{endpoints: [\"{}\"], app: shop, development: true}}\ninbound:\n  - listen: {inbound}\n    hosts: [{HOST}]\n    backend: http://{upstream}\n",
        engine.endpoint()
    );
    let relay = Relay::start(folder.path(), "relay", &rules);
    relay.wait_ready();
    let mut connection = Connection::open(inbound);
    connection
        .send(format!("GET /ws HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n").as_bytes())
        .unwrap();
    assert_eq!(connection.answer().unwrap().status, 101);
    connection.send(b"hello").unwrap();
    assert_eq!(connection.rest().unwrap(), b"hello");
}

/// A connection that idles from before a reload, whose rules tell the backend who the client is.
#[test]
fn a_connection_that_told_no_client_is_not_used_where_clients_are_told() {
    use std::io::{BufRead, BufReader, Write};
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut told = "bare";
                for line in BufReader::new(&stream).lines().map_while(Result::ok) {
                    if line.starts_with("PROXY ") {
                        told = "told";
                    } else if line.is_empty() {
                        (&stream)
                            .write_all(format!("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n{told}").as_bytes())
                            .unwrap();
                    }
                }
            });
        }
    });
    let (folder, inbound) = (folder(), port::free());
    let rules = |more| {
        format!(
            "engine: {{endpoints: [\"unix:///nonexistent/e3.sock\"], app: shop, development: true}}\nthreads: 1\ninbound:\n  \
             - {{listen: \"{inbound}\", hosts: [{HOST}], backend: \"http://{upstream}\"{more}}}\n"
        )
    };
    let relay = Relay::start(folder.path(), "relay", &rules(""));
    let get = format!("GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let mut client = Connection::open(inbound);
    client.send(get.as_bytes()).unwrap();
    assert_eq!(client.answer().unwrap().text(), "bare");
    relay.replace_rules(&rules(", backend_proxy_protocol: v1"));
    eventually("the new rules", || {
        (relay.metric(r#"e3_relay_reloads_total{result="applied"}"#) == Some(1.0)).then_some(())
    });
    client.send(get.as_bytes()).unwrap();
    assert_eq!(client.answer().unwrap().text(), "told");
}
