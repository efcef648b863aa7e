//! Bodies that are held take bounded memory in total, whoever sends them: what goes beyond is refused and reaches nobody, and when they are gone others are served.

use std::net::SocketAddr;

use e3_tests::backend::{Backend, answer};
use e3_tests::client::{Connection, json_request, once};
use e3_tests::engine_double::{Behaviour, EngineDouble};
use e3_tests::stack::{Relay, folder};
use e3_tests::{eventually, port};

const HOST: &str = "api.shop.example";
const CARD: &str = r#"{"card":"4111111111111111"}"#;
const MIB: usize = 1024 * 1024;

/// What the rules below allow in all.
const MOST: usize = 32 * MIB;

struct Stack {
    relay: Relay,
    backend: Backend,
    inbound: SocketAddr,
    api: SocketAddr,
    _engine: EngineDouble,
    _folder: tempfile::TempDir,
}

impl Stack {
    fn start(backend: Backend) -> Self {
        let (folder, inbound, api) = (folder(), port::free(), port::free());
        let engine = EngineDouble::start(Behaviour::Honest);
        let rules = format!(
            r#"engine: {{endpoints: ["{engine}"], app: shop, timeout: 5s, development: true}}
held_bytes: 32MiB
inbound:
  - listen: {inbound}
    hosts: [{HOST}]
    backend: http://{backend}
    limits: {{body: 16MiB, body_time: 1h, response_body_time: 1h}}
    rules:
      - match: {{methods: [POST], path: /seal}}
        request: {{seal: [{{select: $.card, role: card}}]}}
      - match: {{methods: [POST], path: /many}}
        request: {{seal: [{{select: $..n, role: card}}]}}
      - match: {{path: /shown}}
        response: {{seal: [{{select: $.card, role: card}}]}}
api: {{listen: "{api}"}}
"#,
            engine = engine.endpoint(),
            backend = backend.address(),
        );
        let relay = Relay::start(folder.path(), "relay", &rules);
        relay.wait_ready();
        Self { relay, backend, inbound, api, _engine: engine, _folder: folder }
    }

    fn order(&self) -> e3_tests::client::Answer {
        once(self.inbound, &json_request("POST", "/seal", HOST, CARD))
    }

    /// Bytes that the relay says to hold.
    fn held(&self) -> usize {
        self.relay.metric("e3_relay_held_bytes").expect("the metric") as usize
    }

    /// Opens a connection with a body of 16 MiB, of which so much comes and the rest never.
    fn unfinished(&self, bytes: usize) -> Connection {
        let mut connection = Connection::open(self.inbound);
        let head = format!("POST /seal HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n");
        connection.send(format!("{head}Content-Length: {}\r\n\r\n", 16 * MIB).as_bytes()).expect("the head is sent");
        let mut left = bytes;
        // Whoever is refused may be cut off before all of it is sent.
        while left > 0 && connection.send(&vec![b' '; left.min(64 * 1024)]).is_ok() {
            left -= left.min(64 * 1024);
        }
        connection
    }

    /// Connections whose bodies take all the room there is.
    fn fill(&self) -> Vec<Connection> {
        let connections = (0..8).map(|_| self.unfinished(MOST / 8)).collect();
        eventually("no room", || (self.held() == MOST).then_some(()));
        connections
    }

    fn memory(&mut self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.relay.process().id()));
        let status = status.expect("the relay runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("its memory");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse::<usize>().ok()).expect("a number") * 1024
    }
}

#[test]
fn held_bodies_are_bounded_in_total_and_what_goes_beyond_reaches_nobody() {
    let mut stack = Stack::start(Backend::json(CARD));
    assert_eq!(stack.order().status, 200);
    let (memory, bytes, requests) = (stack.memory(), stack.backend.bytes(), stack.backend.requests().len());
    let mut holding = stack.fill();
    // Fifty more of these would be half a gibibyte.
    holding.extend((0..50).map(|_| stack.unfinished(10 * MIB)));
    let refused = r#"e3_relay_requests_total{outcome="relay/overloaded",rule="1",side="inbound",site="api.shop.example",status="503"}"#;
    eventually("fifty refusals", || (stack.relay.metric(refused) == Some(50.0)).then_some(()));
    let grown = stack.memory().saturating_sub(memory);
    assert!(grown < MOST + 32 * MIB, "{} MiB more", grown / MIB);
    assert_eq!(stack.held(), MOST);

    // The smallest body is one too many, as a whole, as a record and as a call of the API.
    let lines = format!(
        "POST /seal HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/x-ndjson\r\nContent-Length: {}\r\n\r\n{CARD}",
        CARD.len()
    );
    let call = format!(
        "POST /v1/seal?role=card HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer some-key\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{CARD}",
        stack.api,
        CARD.len()
    );
    for answer in [stack.order(), once(stack.inbound, lines.as_bytes()), once(stack.api, call.as_bytes())] {
        assert_eq!((answer.status, answer.text().contains("relay/overloaded")), (503, true), "{}", answer.text());
        assert_eq!(answer.header("retry-after"), Some("1"));
        assert!(!answer.text().contains("4111"), "{}", answer.text());
    }
    assert_eq!((stack.backend.bytes(), stack.backend.requests().len()), (bytes, requests), "something was forwarded");

    // An upstream that has acted is told apart, and its answer goes no further.
    let shown = once(stack.inbound, format!("GET /shown HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes());
    assert_eq!((shown.status, shown.text().contains("response/overloaded")), (502, true), "{}", shown.text());
    assert!(shown.text().contains(r#""upstream_status":200"#) && !shown.text().contains("4111"), "{}", shown.text());
    // What no rule selects is not held.
    let unruled = once(stack.inbound, &json_request("POST", "/other", HOST, CARD));
    assert_eq!((unruled.status, unruled.text()), (200, CARD));
    let status: serde_json::Value = serde_json::from_str(&stack.relay.status()).expect("JSON");
    assert_eq!(status["held_bytes"], serde_json::json!({"now": MOST, "most": MOST}));

    drop(holding);
    eventually("room again", || (stack.held() == 0).then_some(()));
    assert_eq!(stack.order().status, 200);
    eventually("nothing held", || (stack.held() == 0).then_some(()));
}

#[test]
fn an_answer_counts_until_its_client_has_read_it() {
    // More than the sockets in between take.
    let large = format!(r#"{{"card":"4111111111111111","pad":"{}"}}"#, "x".repeat(15 * MIB));
    let stack = Stack::start(Backend::start(move |_| Some(answer(200, "application/json", large.as_bytes()))));
    let mut slow = Connection::open(stack.inbound);
    slow.send(format!("GET /shown HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).expect("a request");
    let done = r#"e3_relay_requests_total{outcome="ok",rule="3",side="inbound",site="api.shop.example",status="200"}"#;
    eventually("an answer on its way", || (stack.relay.metric(done) == Some(1.0)).then_some(()));
    assert!(stack.held() > 15 * MIB, "{}", stack.held());
    let answer = slow.answer().expect("an answer");
    assert!(answer.text().starts_with(r#"{"card":"e3v1.card.s."#));
    eventually("nothing held", || (stack.held() == 0).then_some(()));
}

#[test]
fn what_stands_in_the_place_of_values_counts_too() {
    let stack = Stack::start(Backend::echo());
    let large = |name: &str| format!(r#"{{"{name}":"{}"}}"#, "4".repeat(900 * 1024));
    let many = |name: &str| format!("[{}0]", format!(r#"{{"{name}":"4111111111111111"}},"#).repeat(15_000));
    let post = |path: &str, body: &str| once(stack.inbound, &json_request("POST", path, HOST, body));
    // Neither one long value nor many short ones leave room for what they become, as they do for themselves.
    for (path, name, left, body) in [
        ("/seal", "card", MIB, &large as &dyn Fn(&str) -> String),
        ("/many", "n", MIB / 2, &many as &dyn Fn(&str) -> String),
    ] {
        let mut holding: Vec<Connection> = (0..7).map(|_| stack.unfinished(MOST / 8)).collect();
        holding.push(stack.unfinished(MOST / 8 - left));
        eventually("little room", || (stack.held() == MOST - left).then_some(()));
        let before = stack.backend.requests().len();
        let refused = post(path, &body(name));
        assert_eq!((refused.status, refused.text().contains("relay/overloaded")), (503, true), "{path}");
        assert_eq!(stack.backend.requests().len(), before, "something was forwarded");
        assert_eq!(post(path, &body("other")).status, 200, "{path}");
        drop(holding);
        eventually("nothing held", || (stack.held() == 0).then_some(()));
        assert_eq!(post(path, &body(name)).status, 200, "{path}");
        eventually("nothing held", || (stack.held() == 0).then_some(()));
    }
}

#[test]
fn records_count_while_they_are_held_and_not_when_they_are_gone() {
    let stack = Stack::start(Backend::echo());
    let mut upload = Connection::open(stack.inbound);
    let head = format!("POST /seal HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/x-ndjson\r\n");
    upload.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes()).expect("a head");
    let line = format!("{CARD}\n");
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len());
    upload.send(chunk(&line.repeat(1000)).as_bytes()).expect("records");
    eventually("records at the backend", || (stack.backend.bytes() > 1000 * 40).then_some(()));
    eventually("nothing held", || (stack.held() == 0).then_some(()));
    let half = format!("{{\"pad\":\"{}", "x".repeat(MIB));
    upload.send(chunk(&half).as_bytes()).expect("half a record");
    eventually("half a record", || (stack.held() == half.len()).then_some(()));
    upload.send(format!("{}0\r\n\r\n", chunk("\"}\n")).as_bytes()).expect("the rest");
    let answer = upload.answer().expect("an answer");
    assert_eq!((answer.status, answer.text().matches("e3v1.card.s.").count()), (200, 1000));
    eventually("nothing held", || (stack.held() == 0).then_some(()));
}
