//! HTTP/2 from clients: what holds over HTTP/1 holds here, and clients that abuse its frames get nowhere.

#[path = "../src/proxied.rs"]
#[allow(dead_code, reason = "some of its clients are for the tests of TLS and CONNECT")]
mod proxied;

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use e3_tests::backend::{Backend, answer};
use e3_tests::client::{json_request, once};
use e3_tests::engine_double::{Behaviour, EngineDouble, token_of};
use e3_tests::frames::{END_HEADERS, END_STREAM, Frame, Frames, INITIAL_WINDOW, encoded, head, kind, request};
use e3_tests::process::Signal;
use e3_tests::stack::{Relay, folder};
use e3_tests::{eventually, port};
use proxied::{TestCa, curl};

const HOST: &str = "api.shop.example";
const CARD: &str = r#"{"card":"4111111111111111","kept":1.10}"#;

struct Edge {
    relay: Relay,
    plain: SocketAddr,
    secure: SocketAddr,
    backend: Backend,
    folder: tempfile::TempDir,
    _engine: EngineDouble,
}

impl Edge {
    fn start(backend: Backend, more: &str) -> Self {
        let (folder, plain, secure) = (folder(), port::free(), port::free());
        let engine = EngineDouble::start(Behaviour::Honest);
        let tls = TestCa::new().site(folder.path(), HOST);
        let site = format!(
            "    hosts: [{HOST}]\n    backend: http://{}\n    limits: {{stream_idle: 1s, response_time: 5s}}\n    \
             rules: [{{match: {{methods: [POST], path: /seal}}, request: {{seal: [{{select: $.card, role: card}}]}}}}, \
             {{match: {{path: /whole}}, response: {{seal: [{{select: $.card, role: card}}]}}}}]\n",
            backend.address()
        );
        let rules = format!(
            "engine: {{endpoints: [\"{}\"], app: shop, timeout: 5s, development: true}}\nthreads: 1\ninbound:\n  - listen: {plain}\n    \
             connections: {{h2c: true, {more}}}\n{site}  - listen: {secure}\n    tls: {{{tls}}}\n{site}",
            engine.endpoint()
        );
        let relay = Relay::start(folder.path(), "relay", &rules);
        relay.wait_ready();
        Self { relay, plain, secure, backend, folder, _engine: engine }
    }

    fn frames(&self) -> Frames<std::net::TcpStream> {
        Frames::open(self.plain, &[])
    }

    /// Whether another client is served.
    fn serves(&self) {
        let answer = once(self.plain, &json_request("POST", "/seal", HOST, CARD));
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(!answer.text().contains("4111"), "{}", answer.text());
    }

    fn memory_kib(&mut self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.relay.process().id()));
        let status = status.expect("the relay runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("its memory");
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
    }
}

/// Waits for the frame that ends a stream's answer; status and body.
fn answered(frames: &mut Frames<std::net::TcpStream>, stream: u32) -> (Option<u16>, String) {
    let all = frames.until(|frame| frame.stream == stream && frame.flags & END_STREAM != 0).expect("an answer");
    let own = all.iter().filter(|frame| frame.stream == stream);
    let status = own.clone().find_map(Frame::status);
    let body = own.filter(|frame| frame.kind == kind::DATA).flat_map(|frame| frame.payload.clone()).collect();
    (status, String::from_utf8(body).expect("text"))
}

#[test]
fn values_are_sealed_over_http2_plain_and_in_tls() {
    let edge = Edge::start(Backend::echo(), "");
    let site_ca = edge.folder.path().join("site-ca.pem").display().to_string();
    let (plain, secure) = (edge.plain.to_string(), edge.secure.port());
    let known = format!("{HOST}:{secure}:127.0.0.1");
    let host = format!("Host: {HOST}");
    let ways: [(&[&str], String); 2] = [
        (&["--http2-prior-knowledge", "-H", &host], format!("http://{plain}/seal")),
        (&["--http2", "--cacert", &site_ca, "--resolve", &known], format!("https://{HOST}:{secure}/seal")),
    ];
    for (n, (arguments, url)) in ways.iter().enumerate() {
        let answer = curl(arguments, url, Some(CARD));
        assert!(answer.head.starts_with("HTTP/2 "), "{}", answer.head);
        assert_eq!(answer.status, 200, "{}", answer.text());
        let token = token_of("card", 's', "4111111111111111");
        assert_eq!(answer.text(), format!(r#"{{"card":"{token}","kept":1.10}}"#));
        let requests = edge.backend.requests();
        let got = requests.get(n).expect("the backend got it");
        assert_eq!(got.header("host").map(|host| host.starts_with(HOST)), Some(true), "{}", got.head);
        assert_eq!(got.header("content-length"), Some(&*got.body.len().to_string()), "{}", got.head);
        let proto = if n == 0 { "http" } else { "https" };
        assert_eq!(got.header("x-forwarded-proto"), Some(proto), "{}", got.head);
    }
}

#[test]
fn nghttp_and_h2load_are_served() {
    let edge = Edge::start(Backend::echo(), "");
    let url = format!("http://{}/free", edge.plain);
    let file = edge.folder.path().join("body.json");
    std::fs::write(&file, CARD).expect("a body");
    let file = file.display().to_string();
    let host = format!(":authority: {HOST}");
    let shown = Command::new("nghttp").args(["-v", "-H", &host, "-d", &file, &url]).output().expect("nghttp runs");
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains(":status: 200") && shown.contains("kept"), "{shown}");
    let url = format!("http://{}/seal", edge.plain);
    let load = Command::new("h2load")
        .args(["-n", "2000", "-c", "5", "-m", "50", "-d", &file, "-H", "content-type: application/json"])
        .args(["-H", &host, &url])
        .output()
        .expect("h2load runs");
    let load = String::from_utf8_lossy(&load.stdout).into_owned();
    assert!(load.contains("2000 succeeded, 0 failed"), "{load}");
    assert!(load.contains("2000 2xx"), "{load}");
    let plaintext =
        edge.backend.requests().iter().filter(|r| r.line().1 == "/seal" && r.text().contains("4111")).count();
    assert_eq!(plaintext, 0);
}

#[test]
fn a_request_that_breaks_off_reaches_nobody() {
    let edge = Edge::start(Backend::echo(), "");
    let half = &CARD.as_bytes()[..20];
    // Reset, left with the connection, and one whose length is a lie.
    let mut reset = edge.frames();
    reset.send(kind::HEADERS, END_HEADERS, 1, &request("POST", "/seal", HOST)).expect("a head");
    reset.send(kind::DATA, 0, 1, half).expect("half a body");
    reset.send(kind::RST_STREAM, 0, 1, &8u32.to_be_bytes()).expect("a reset");
    let mut left = edge.frames();
    left.send(kind::HEADERS, END_HEADERS, 1, &request("POST", "/seal", HOST)).expect("a head");
    left.send(kind::DATA, 0, 1, half).expect("half a body");
    drop(left);
    let mut lying = edge.frames();
    let lie = [request("POST", "/seal", HOST), head(&[("content-length", "100")])].concat();
    lying.send(kind::HEADERS, END_HEADERS, 1, &lie).expect("a head");
    lying.send(kind::DATA, END_STREAM, 1, half).expect("half a body");
    let end =
        lying.until(|frame| frame.stream == 1 && (frame.kind == kind::RST_STREAM || frame.flags & END_STREAM != 0));
    let end = end.expect("an end");
    assert!(end.iter().all(|frame| frame.status() != Some(200)), "{end:?}");
    edge.serves();
    assert_eq!(edge.backend.requests().len(), 1, "only the last request was whole");
    assert!(!edge.backend.requests()[0].text().contains("4111"));
}

#[test]
fn heads_that_leave_a_doubt_are_refused() {
    let edge = Edge::start(Backend::echo(), "");
    let base = [(":method", "POST"), (":scheme", "http")];
    let with = |more: &[(&'static str, &'static str)]| {
        let mut fields = base.to_vec();
        fields.extend_from_slice(more);
        fields
    };
    let host = HOST;
    for (fields, status) in [
        (with(&[(":path", "/seal"), (":authority", host), ("host", "other.example")]), 400),
        (with(&[(":path", "/seal"), (":authority", "other.example")]), 421),
        (with(&[(":path", "/seal")]), 400),
        (with(&[(":path", "/x/../seal"), (":authority", host)]), 400),
        (with(&[(":path", "/%73eal%2f"), (":authority", host)]), 400),
        (with(&[(":path", "//seal"), (":authority", host)]), 400),
        (with(&[(":path", "/seal"), (":authority", host), ("x-http-method-override", "GET")]), 400),
        (with(&[(":path", "/seal"), (":authority", host), ("content_length", "3")]), 400),
        (with(&[(":path", "/seal"), (":authority", host), ("x_field", "3")]), 400),
        (with(&[(":path", "/seal"), (":authority", host), ("content-type", "text/plain")]), 415),
    ] {
        let mut frames = edge.frames();
        frames.send(kind::HEADERS, END_HEADERS, 1, &head(&fields)).expect("a head");
        frames.send(kind::DATA, END_STREAM, 1, CARD.as_bytes()).expect("a body");
        let (found, body) = answered(&mut frames, 1);
        assert_eq!(found, Some(status), "{fields:?}: {body}");
    }
    assert_eq!(edge.backend.bytes(), 0);
    // Another spelling of the path meets the same rule.
    let mut frames = edge.frames();
    frames.send(kind::HEADERS, END_HEADERS, 1, &request("POST", "/%73eal", HOST)).expect("a head");
    frames.send(kind::DATA, END_STREAM, 1, CARD.as_bytes()).expect("a body");
    assert_eq!(answered(&mut frames, 1).0, Some(200));
    assert!(!edge.backend.requests()[0].text().contains("4111"));
}

#[test]
fn cookies_come_to_the_backend_in_one_field() {
    let edge = Edge::start(Backend::echo(), "");
    let crumbs = head(&[("cookie", "a=1"), ("cookie", "b=2")]);
    let mut frames = edge.frames();
    let whole = [request("GET", "/free", HOST), crumbs].concat();
    frames.send(kind::HEADERS, END_HEADERS | END_STREAM, 1, &whole).expect("a head");
    assert_eq!(answered(&mut frames, 1).0, Some(200));
    assert_eq!(edge.backend.requests()[0].header("cookie"), Some("a=1; b=2"));
}

#[test]
fn rapid_reset_ends_the_connection_and_no_other() {
    let mut edge = Edge::start(Backend::echo(), "");
    let mut frames = edge.frames();
    let mut sent = Vec::new();
    for n in 0..5000u32 {
        let stream = 2 * n + 1;
        sent.extend(encoded(kind::HEADERS, END_HEADERS, stream, &request("POST", "/seal", HOST)));
        sent.extend(encoded(kind::RST_STREAM, 0, stream, &8u32.to_be_bytes()));
    }
    // The relay may close before it has taken all of it.
    let _ = frames.send_bytes(&sent);
    let _ = frames.send(kind::PING, 0, 0, &[9; 8]);
    let ended = loop {
        match frames.receive() {
            Ok(frame) if frame.kind == kind::GOAWAY => break true,
            Ok(frame) if frame.kind == kind::PING && frame.payload == [9; 8] => break false,
            Ok(_) => {}
            Err(error) => break error.kind() != std::io::ErrorKind::WouldBlock,
        }
    };
    assert!(ended, "the connection goes on");
    edge.serves();
    assert_eq!(edge.backend.requests().len(), 1, "no reset request reached the backend");
    let log = edge.relay.process().log();
    assert!(!log.contains("reset"), "a client's flood is not the log's: {log}");
}

#[test]
fn a_flood_of_continuations_ends_the_connection_and_keeps_no_memory() {
    let mut edge = Edge::start(Backend::echo(), "");
    edge.serves();
    let before = edge.memory_kib();
    let mut frames = edge.frames();
    frames.send(kind::HEADERS, 0, 1, &request("POST", "/seal", HOST)).expect("a head");
    let piece = encoded(kind::CONTINUATION, 0, 1, &head(&[("x-filler", &"y".repeat(120))]).repeat(120));
    // 64 MiB, if it were all taken.
    let taken = (0..4096).take_while(|_| frames.send_bytes(&piece).is_ok()).count();
    let ended = loop {
        match frames.receive() {
            Ok(frame) if frame.kind == kind::GOAWAY || frame.kind == kind::RST_STREAM => break true,
            Ok(_) => {}
            Err(error) => break error.kind() != std::io::ErrorKind::WouldBlock,
        }
    };
    assert!(ended && taken < 4096, "{taken} frames were taken");
    let kept = edge.memory_kib().saturating_sub(before);
    assert!(kept < 16 * 1024, "{kept} KiB kept");
    edge.serves();
}

#[test]
fn streams_whose_client_opens_no_window_are_reset_in_their_time() {
    let big = format!(r#"{{"card":"4111111111111111","rest":"{}"}}"#, "z".repeat(300_000));
    let mut edge = Edge::start(Backend::start(move |_| Some(answer(200, "application/json", big.as_bytes()))), "");
    let ask = |edge: &Edge| once(edge.plain, &json_request("GET", "/free", HOST, "")).status;
    assert_eq!(ask(&edge), 200);
    let before = edge.memory_kib();
    let mut stalled = Frames::open(edge.plain, &[(INITIAL_WINDOW, 0)]);
    for n in 0..100u32 {
        // Some stream, and some are held whole.
        let head = request("GET", if n % 2 == 0 { "/free" } else { "/whole" }, HOST);
        stalled.send(kind::HEADERS, END_HEADERS | END_STREAM, 2 * n + 1, &head).expect("a head");
    }
    assert_eq!(ask(&edge), 200, "another client waits");
    let mut resets = 0;
    while resets < 100 {
        let frame = stalled.receive().expect("the streams are reset");
        resets += usize::from(frame.kind == kind::RST_STREAM);
        assert!(frame.kind != kind::DATA || frame.payload.is_empty(), "data without a window");
    }
    let kept = edge.memory_kib().saturating_sub(before);
    assert!(kept < 40 * 1024, "{kept} KiB kept");
    assert_eq!(ask(&edge), 200);
}

#[test]
fn floods_of_pings_and_settings_keep_no_memory() {
    let mut edge = Edge::start(Backend::echo(), "");
    edge.serves();
    let before = edge.memory_kib();
    for flood in [encoded(kind::PING, 0, 0, &[7; 8]), encoded(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 255, 255])] {
        let mut frames = edge.frames();
        frames.patience(Duration::from_secs(1));
        let many = flood.repeat(1000);
        // Without a look at the answers: in the end nothing more is taken.
        std::thread::scope(|scope| {
            let sender = scope.spawn(|| (0..500).take_while(|_| frames.send_bytes(&many).is_ok()).count());
            edge.serves();
            sender.join().expect("the flood ends");
        });
    }
    let kept = edge.memory_kib().saturating_sub(before);
    assert!(kept < 16 * 1024, "{kept} KiB kept");
    edge.serves();
}

#[test]
fn a_connection_without_requests_is_closed_in_its_time() {
    let edge = Edge::start(Backend::echo(), "head_time: 1s, idle_time: 1s");
    // Not even a preface; a preface and nothing more; a request, and then nothing.
    let mut silent = std::net::TcpStream::connect(edge.plain).expect("a connection");
    silent.set_read_timeout(Some(e3_tests::PATIENCE)).expect("a timeout");
    let mut lazy = edge.frames();
    let mut idle = edge.frames();
    idle.send(kind::HEADERS, END_HEADERS | END_STREAM, 1, &request("GET", "/free", HOST)).expect("a head");
    assert_eq!(answered(&mut idle, 1).0, Some(200));
    assert_eq!(std::io::Read::read(&mut silent, &mut [0; 16]).expect("an end"), 0);
    for frames in [&mut lazy, &mut idle] {
        frames.until(|frame| frame.kind == kind::GOAWAY).expect("a goodbye");
        let end = frames.until(|_| false).expect_err("an end");
        assert_ne!(end.kind(), std::io::ErrorKind::WouldBlock, "the connection stays");
    }
}

#[test]
fn a_drain_lets_streams_finish_and_says_goodbye() {
    let slow = Backend::start(|_| {
        std::thread::sleep(Duration::from_millis(800));
        Some(answer(200, "application/json", b"{}"))
    });
    let mut edge = Edge::start(slow, "");
    let mut frames = edge.frames();
    frames.send(kind::HEADERS, END_HEADERS | END_STREAM, 1, &request("GET", "/free", HOST)).expect("a head");
    eventually("the request at the backend", || (!edge.backend.requests().is_empty()).then_some(()));
    edge.relay.process().signal(Signal::TERM);
    let (status, body) = answered(&mut frames, 1);
    assert_eq!((status, &*body), (Some(200), "{}"));
    assert!(edge.relay.process().wait().success(), "drained");
}
