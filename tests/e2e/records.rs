//! Streams of records through the relay, over real sockets: record after record goes on as it is good, and one that is not cuts the message for all to see.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use e3_tests::backend::Backend;
use e3_tests::client::Connection;
use e3_tests::engine_double::{Behaviour, EngineDouble, token_of, value_in};
use e3_tests::process::Program;
use e3_tests::stack::{Engine, Relay, folder};
use e3_tests::{PATIENCE, eventually, port};
use e3_wire::Refusal;

const HOST: &str = "api.shop.example";
const NDJSON: &str = "application/x-ndjson";
const EVENTS: &str = "text/event-stream";

struct Stack {
    relay: Relay,
    inbound: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Stack {
    fn start(engine: &str, upstream: SocketAddr) -> Self {
        let (folder, inbound) = (folder(), port::free());
        let rules = format!(
            r#"engine: {{endpoints: ["{engine}"], app: shop, timeout: 2s, development: true}}
inbound:
  - listen: {inbound}
    hosts: [{HOST}]
    backend: http://{upstream}
    limits: {{body: 64KiB, stream_idle: 3s}}
    rules:
      - match: {{methods: [POST], path: /seal}}
        request: {{seal: [{{select: $.card.number, role: card-number}}, {{select: "$..cvc", role: card-cvc}}]}}
      - match: {{methods: [POST], path: /required}}
        request: {{seal: [{{select: $.must, role: must, required: true}}]}}
      - match: {{path: /open}}
        response: {{open: [{{select: $.card.number, roles: [card-number, whole]}}]}}
      - match: {{path: /seal-response}}
        response: {{seal: [{{select: $.secret, role: secret}}]}}
      - match: {{methods: [POST], path: /whole}}
        request: {{seal: [{{select: $.card, role: whole}}]}}
"#
        );
        let relay = Relay::start(folder.path(), "relay", &rules);
        relay.wait_ready();
        Self { relay, inbound, _folder: folder }
    }

    /// Begins a request whose body comes in chunks.
    fn begin(&self, path: &str, media: &str) -> Connection {
        let mut connection = Connection::open(self.inbound);
        let head = format!("POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {media}\r\n");
        connection.send(format!("{head}Digest: x\r\nTransfer-Encoding: chunked\r\n\r\n").as_bytes()).unwrap();
        connection
    }

    /// Asks for a stream.
    fn get(&self, path: &str) -> Connection {
        let mut connection = Connection::open(self.inbound);
        connection.send(format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).unwrap();
        connection
    }
}

fn chunk(text: &str) -> Vec<u8> {
    format!("{:x}\r\n{text}\r\n", text.len()).into_bytes()
}

const END: &[u8] = b"0\r\n\r\n";

/// A server of one connection after the other that keeps every byte it gets, and sends what it is told to.
struct Tap {
    address: SocketAddr,
    seen: Arc<Mutex<Seen>>,
    say: Sender<Vec<u8>>,
}

#[derive(Default)]
struct Seen {
    bytes: Vec<u8>,
    /// Connections that have ended.
    ended: usize,
}

impl Tap {
    fn start() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let seen: Arc<Mutex<Seen>> = Arc::default();
        let (say, said): (_, Receiver<Vec<u8>>) = channel();
        let said = Arc::new(Mutex::new(said));
        let kept = Arc::clone(&seen);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (kept, said) = (Arc::clone(&kept), Arc::clone(&said));
                std::thread::spawn(move || tap(stream, &kept, &said));
            }
        });
        Self { address, seen, say }
    }

    /// Everything that came so far.
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.seen.lock().unwrap_or_else(PoisonError::into_inner).bytes).into_owned()
    }

    /// Waits until that much has come.
    fn wait(&self, what: &str) -> String {
        eventually(what, || Some(self.text()).filter(|text| text.contains(what)))
    }

    /// Waits for the end of a connection, and says what came in all.
    fn ended(&self) -> String {
        eventually("the end of the upstream connection", || {
            (self.seen.lock().unwrap_or_else(PoisonError::into_inner).ended > 0).then_some(())
        });
        self.text()
    }

    /// Sends this, or closes when it is empty.
    fn say(&self, bytes: &[u8]) {
        self.say.send(bytes.to_vec()).unwrap();
    }

    /// Begins an answer that comes in chunks.
    fn answer(&self, media: &str, more: &str) {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {media}\r\n{more}Transfer-Encoding: chunked\r\n\r\n");
        self.say(head.as_bytes());
    }
}

fn tap(mut stream: TcpStream, kept: &Mutex<Seen>, said: &Mutex<Receiver<Vec<u8>>>) {
    stream.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
    let mut buffer = [0; 4096];
    let mut asked = false;
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => {
                asked = true;
                kept.lock().unwrap_or_else(PoisonError::into_inner).bytes.extend_from_slice(&buffer[..n]);
            }
            Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {}
            Err(_) => break,
        }
        // Nothing is said to somebody who only looks whether anybody is there.
        let next = if asked { said.lock().unwrap_or_else(PoisonError::into_inner).try_recv().ok() } else { None };
        if let Some(bytes) = next
            && (bytes.is_empty() || stream.write_all(&bytes).is_err())
        {
            break;
        }
    }
    kept.lock().unwrap_or_else(PoisonError::into_inner).ended += usize::from(asked);
}

/// Reads from the connection until this has come.
fn read_until(connection: &mut Connection, so_far: &mut String, what: &str) {
    let end = Instant::now() + PATIENCE;
    while !so_far.contains(what) {
        assert!(Instant::now() < end, "waited for {what:?}, got {so_far:?}");
        let some = connection.some().unwrap();
        assert!(!some.is_empty(), "the connection ended before {what:?}: {so_far:?}");
        so_far.push_str(&String::from_utf8_lossy(&some));
    }
}

/// The tokens in a text, in order.
fn tokens(text: &str) -> Vec<String> {
    text.match_indices("\"e3v1.").map(|(at, _)| text[at + 1..].split('"').next().unwrap().to_owned()).collect()
}

/// That the body of a request or an answer was begun and not ended.
fn assert_cut(text: &str) {
    assert!(text.to_lowercase().contains("transfer-encoding: chunked"), "{text}");
    assert!(!text.ends_with("0\r\n\r\n"), "it has an end: {text}");
}

#[test]
fn every_record_of_an_upload_is_sealed_and_the_rest_is_unchanged() {
    let (folder, backend) = (folder(), Backend::echo());
    let engine = Engine::start(folder.path());
    let stack = Stack::start(&engine.endpoint(), backend.address());
    let (before, after) = ("{ \"z\":1.10,\"card\" : {\"number\":", ",\"x\":[1E400 ]} , \"z\":2}");
    let values = ["\"4111\"", "\"\\u00e9\\n\"", "1.10", "null"];
    for end in ["\n", "\r\n"] {
        let body: String = values.iter().map(|v| format!("{before}{v}{after}{end}{end} {end}")).collect();
        let body = format!("{end}{body}{{\"cvc\":[7]}}");
        for pieces in [1, 3, 64, body.len()] {
            let mut client = if pieces == 3 {
                let mut client = Connection::open(stack.inbound);
                let head = format!("POST /seal HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: {NDJSON}\r\nDigest: x\r\n");
                client.send(format!("{head}Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes()).unwrap();
                client
            } else {
                let mut client = stack.begin("/seal", "Application/X-NDJSON; charset=utf-8");
                for part in body.as_bytes().chunks(pieces) {
                    client.send(&chunk(std::str::from_utf8(part).unwrap())).unwrap();
                }
                client.send(END).unwrap();
                client
            };
            let answer = client.answer().unwrap();
            assert_eq!(answer.status, 200, "{}", answer.text());
            let got = backend.requests().pop().unwrap();
            assert_eq!((got.header("content-length"), got.header("digest")), (None, None), "{}", got.head);
            let sealed = got.text();
            let found = tokens(sealed);
            assert_eq!(found.len(), values.len() + 1, "{sealed}");
            let mut without = sealed.to_owned();
            for (token, value) in found.iter().zip(values.iter().chain(&["[7]"])) {
                assert!(token.starts_with("e3v1.card-"), "{token}");
                without = without.replacen(&format!("\"{token}\""), value, 1);
            }
            assert_eq!(without, body, "in pieces of {pieces}");
        }
    }
}

#[test]
fn a_record_goes_on_before_the_next_one_comes() {
    let (engine, tap) = (EngineDouble::start(Behaviour::Honest), Tap::start());
    let stack = Stack::start(&engine.endpoint(), tap.address);
    let mut client = stack.begin("/seal", NDJSON);
    client.send(&chunk("\n{\"card\":{\"number\":\"41")).unwrap();
    client.send(&chunk("11\"}}\n{\"n\":2,")).unwrap();
    let first = tap.wait("\"}}\n");
    assert_eq!(value_in(&tokens(&first)[0]), "4111");
    client.send(&chunk("\"cvc\":737}\n")).unwrap();
    let second = tap.wait("{\"n\":2,\"cvc\":\"e3v1.card-cvc.n.");
    assert!(!second.contains("737") && !second.contains("content-length"), "{second}");
    engine.behave(Behaviour::Slow(Duration::from_millis(500)));
    client.send(&chunk("{\"cvc\":1}")).unwrap();
    client.send(END).unwrap();
    let whole = tap.wait("0\r\n\r\n");
    assert_eq!(tokens(&whole).len(), 3);
    tap.say(b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\n\r\nok");
    let answer = client.answer().unwrap();
    assert_eq!((answer.status, answer.text()), (202, "ok"));
}

#[test]
fn events_are_opened_as_they_come() {
    let (engine, tap) = (EngineDouble::start(Behaviour::Honest), Tap::start());
    let stack = Stack::start(&engine.endpoint(), tap.address);
    let token = token_of("card-number", 's', "4111 é");
    let mut client = stack.get("/open");
    tap.answer("Text/Event-Stream", "ETag: \"strong\"\r\nDigest: x\r\nContent-Length-Was: 7\r\n");
    tap.say(&chunk(": hello\n\n"));
    let mut got = String::new();
    read_until(&mut client, &mut got, ": hello\n");
    let head = got.to_lowercase();
    assert!(head.contains("cache-control: no-store") && head.contains("transfer-encoding: chunked"), "{got}");
    assert!(!head.contains("etag") && !head.contains("\r\ndigest"), "{got}");
    tap.say(&chunk(&format!(
        "event: card\r\nid: 1\r\ndata:{{\"card\": {{\"number\":\"{token}\"}}, \"n\":1.0}}\r\n\r\n"
    )));
    read_until(&mut client, &mut got, "1.0}\r\n\r\n");
    assert!(
        got.contains("event: card\r\nid: 1\r\ndata:{\"card\": {\"number\":\"4111 é\"}, \"n\":1.0}\r\n\r\n"),
        "{got}"
    );
    // Over several lines, and with line ends in the value; then data that is no JSON.
    let lines = token_of("whole", 'j', "[1,\r\n2]");
    tap.say(&chunk(&format!(
        "data: {{\"card\":\ndata:  {{\"number\": \"{lines}\"}}\nretry: 5\ndata: }}\n\ndata: [DONE]\n\n"
    )));
    read_until(&mut client, &mut got, "[DONE]\n\n");
    assert!(got.contains("data: {\"card\":\ndata:  {\"number\": [1, \ndata: 2]}\nretry: 5\ndata: }\n\n"), "{got}");
    tap.say(&chunk(&format!("data: {{\"card\":{{\"number\":\"{token}\"}}}}")));
    tap.say(END);
    read_until(&mut client, &mut got, "0\r\n\r\n");
    assert_eq!(got.matches("4111 é").count(), 2, "{got}");
}

#[test]
fn lines_are_opened_and_stay_lines() {
    let (engine, tap) = (EngineDouble::start(Behaviour::Honest), Tap::start());
    let stack = Stack::start(&engine.endpoint(), tap.address);
    let line = |value: &str| format!("{{\"card\":{{\"number\":{value}}}}}\n");
    let text = token_of("card-number", 's', "a\nb");
    let json = token_of("whole", 'j', "{\n \"a\":\r1}");
    let body = line(&format!("\"{text}\"")) + &line(&format!("\"{json}\"")) + "{\"z\":1E400}\n";
    // Without a length the answer ends with the connection.
    tap.say(format!("HTTP/1.1 200 OK\r\nContent-Type: application/jsonl\r\n\r\n{body}").as_bytes());
    tap.say(b"");
    let answer = stack.get("/open").answer().unwrap();
    assert_eq!(answer.text(), line("\"a\\nb\"") + &line("{  \"a\": 1}") + "{\"z\":1E400}\n");
    assert_eq!(answer.header("cache-control"), Some("no-store"));
}

#[test]
fn a_bad_first_record_reaches_nobody() {
    let (engine, backend) = (EngineDouble::start(Behaviour::Honest), Backend::echo());
    let stack = Stack::start(&engine.endpoint(), backend.address());
    let long = format!("{{\"card\":{{\"number\":\"{}\"}}}}\n", "9".repeat(70_000));
    let good = "{\"card\":{\"number\":\"SECRET\"}}\n";
    let cases = [
        ("/seal", NDJSON, "{\"card\":{\"number\":\"SECRET\"}\n", 400, "body/json"),
        ("/seal", NDJSON, "\n\n\u{feff}{\"card\":{\"number\":\"SECRET\"}}\n", 400, "body/json"),
        ("/seal", NDJSON, "{\"card\":{\"number\":\"SECRET\"}} {}\n", 400, "body/json"),
        ("/seal", NDJSON, "{\"card\":\r{\"number\":\"SECRET\"}}\r{}\n", 400, "body/json"),
        ("/seal", NDJSON, "SECRET\n", 400, "body/json"),
        ("/seal", NDJSON, &long, 413, "body/too-large"),
        ("/required", NDJSON, good, 422, "body/required"),
        ("/seal", EVENTS, "data: SECRET\n\n", 400, "body/json"),
        ("/seal", EVENTS, ": hi\n\ndata: [DONE]\n\n", 400, "body/json"),
        ("/seal", EVENTS, "Data: {\"card\":{\"number\":\"SECRET\"}}\n\n", 400, "body/json"),
        ("/seal", EVENTS, "data: {\"card\":{\"number\":\"SECRET\"}\n", 400, "body/json"),
        ("/seal", "application/json-seq", "\u{1e}{\"card\":{\"number\":\"SECRET\"}}\n", 415, "body/media-type"),
        ("/seal", "application/x-ndjson; charset=utf-16", good, 415, "body/media-type"),
    ];
    for (path, media, body, status, code) in cases {
        let mut client = stack.begin(path, media);
        let shown = &body[..body.len().min(60)];
        client.send(&chunk(body)).unwrap();
        client.send(&chunk(if media == EVENTS { "data: {}\n\n" } else { "{}\n" })).unwrap();
        // A refusal may come before the end.
        let _ = client.send(END);
        let answer = client.answer().unwrap_or_else(|e| panic!("{shown:?}: {e}"));
        assert_eq!(answer.status, status, "{shown:?}: {}", answer.text());
        assert!(answer.text().contains(&format!("\"code\":\"{code}\"")), "{shown:?}: {}", answer.text());
        assert!(!answer.text().contains("SECRET"), "{shown:?}");
        assert_eq!(backend.bytes(), 0, "{shown:?}");
    }
    engine.behave(Behaviour::Closes);
    let mut client = stack.begin("/seal", NDJSON);
    client.send(&chunk(good)).unwrap();
    assert_eq!((client.answer().unwrap().status, backend.bytes()), (503, 0), "the engine is away");
}

#[test]
fn a_bad_record_cuts_the_upload_before_it() {
    let long = format!("{{\"card\":{{\"number\":\"SECRET{}", "9".repeat(70_000));
    let cases = [
        ("/seal", NDJSON, "{\"card\":{\"number\":\"SECRET\"}\n{}\n", "body/json"),
        ("/seal", NDJSON, &long, "body/too-large"),
        ("/seal", EVENTS, "data: SECRET\n\ndata: {}\n\n", "body/json"),
        ("/required", NDJSON, "{\"other\":\"SECRET\"}\n{\"must\":1}\n", "body/required"),
    ];
    for (path, media, bad, cause) in cases {
        // All at once, and one after the other.
        for together in [true, false] {
            let (engine, tap) = (EngineDouble::start(Behaviour::Honest), Tap::start());
            let stack = Stack::start(&engine.endpoint(), tap.address);
            let mut client = stack.begin(path, media);
            let good =
                if path == "/seal" { "{\"n\":1,\"card\":{\"number\":\"SECRET\"}}" } else { "{\"must\":\"SECRET\"}" };
            let good = if media == EVENTS { format!("data: {good}\n\n") } else { format!("{good}\n") };
            if together {
                client.send(&chunk(&format!("{good}{good}{bad}"))).unwrap();
            } else {
                for record in [&good, &good, bad] {
                    client.send(&chunk(record)).unwrap();
                    std::thread::sleep(Duration::from_millis(50));
                }
            }
            let answer = client.answer().unwrap_or_else(|e| panic!("{cause}: {e}"));
            assert_eq!(answer.status, 422, "{cause}: {}", answer.text());
            let told = answer.text();
            assert!(
                told.contains("\"code\":\"records/refused\"") && told.contains(&format!("\"cause\":\"{cause}\"")),
                "{told}"
            );
            assert_eq!(answer.header("connection"), Some("close"));
            let got = tap.ended();
            assert_eq!(tokens(&got).len(), 2, "{cause}: {got}");
            assert!(!got.contains("SECRET"), "{cause}: {got}");
            assert_cut(&got);
        }
    }
}

#[test]
fn records_that_come_together_share_a_call_and_no_fate() {
    let (engine, tap) = (EngineDouble::start(Behaviour::Honest), Tap::start());
    let stack = Stack::start(&engine.endpoint(), tap.address);
    let record = |n: usize| match n {
        // Nothing is asked of the engine for these.
        7 | 8 => format!("{{\"n\":{n}}}\n\n"),
        170 => "{\"card\":{\"number\":\"SECRET\"}\n".to_owned(),
        n => format!("{{\"n\":{n},\"cvc\":\"SECRET {n}\"}}\n"),
    };
    let all: String = (0..200).map(record).collect();
    let mut client = stack.begin("/seal", NDJSON);
    client.send(&chunk(&all)).unwrap();
    let answer = client.answer().unwrap();
    assert!(answer.text().contains("\"cause\":\"body/json\""), "{}", answer.text());
    let got = tap.ended();
    assert_cut(&got);
    assert!(!got.contains("SECRET") && !got.contains("\"n\":171"), "{got}");
    let sealed: Vec<String> = tokens(&got).iter().map(|token| value_in(token)).collect();
    let expected: Vec<String> = (0..170).filter(|n| !matches!(n, 7 | 8)).map(|n| format!("SECRET {n}")).collect();
    assert_eq!(sealed, expected);
    for n in 0..170 {
        assert!(got.contains(&format!("{{\"n\":{n}")), "record {n}");
    }
    assert!(engine.requests() < 20, "{} calls for 170 records", engine.requests());
    // Refused by the engine as a whole, what needs nothing of it went on before.
    let tap = Tap::start();
    let stack = Stack::start(&engine.endpoint(), tap.address);
    engine.behave(Behaviour::RefusesItems(Refusal::BadValue));
    let mut client = stack.begin("/seal", NDJSON);
    client.send(&chunk(&format!("{}{}{}", record(7), record(8), record(9)))).unwrap();
    assert!(client.answer().unwrap().text().contains("\"cause\":\"engine/value\""));
    let got = tap.ended();
    assert!(got.contains("{\"n\":7}") && got.contains("{\"n\":8}") && !got.contains("\"n\":9"), "{got}");
}

#[test]
fn an_engine_killed_amid_an_upload_sends_no_plaintext() {
    let (folder, tap) = (folder(), Tap::start());
    let mut engine = Engine::start(folder.path());
    let stack = Stack::start(&engine.endpoint(), tap.address);
    let mut client = stack.begin("/seal", NDJSON);
    client.send(&chunk("{\"card\":{\"number\":\"SECRET\"}}\n")).unwrap();
    tap.wait("}}\n");
    engine.process().kill();
    client.send(&chunk("{\"card\":{\"number\":\"SECRET\"}}\n{}\n")).unwrap();
    let answer = client.answer().unwrap();
    assert_eq!(answer.status, 502, "{}", answer.text());
    assert!(answer.text().contains("\"code\":\"records/failed\""), "{}", answer.text());
    assert!(answer.text().contains("\"cause\":\"engine/unavailable\""), "{}", answer.text());
    assert_eq!(answer.header("retry-after"), None, "it may not simply be sent again");
    let got = tap.ended();
    assert_eq!((tokens(&got).len(), got.contains("SECRET")), (1, false), "{got}");
    assert_cut(&got);
}

#[test]
fn an_engine_that_is_too_slow_cuts_the_upload_in_time() {
    let (engine, tap) = (EngineDouble::start(Behaviour::Honest), Tap::start());
    let stack = Stack::start(&engine.endpoint(), tap.address);
    let mut client = stack.begin("/seal", NDJSON);
    client.send(&chunk("{\"card\":{\"number\":\"SECRET\"}}\n")).unwrap();
    tap.wait("}}\n");
    engine.behave(Behaviour::Hangs);
    let asked = Instant::now();
    client.send(&chunk("{\"card\":{\"number\":\"SECRET\"}}\n")).unwrap();
    let answer = client.answer().unwrap();
    assert!(answer.text().contains("\"cause\":\"engine/unavailable\""), "{}", answer.text());
    assert!(asked.elapsed() < Duration::from_secs(20), "the engine has two seconds");
    let got = tap.ended();
    assert_eq!((tokens(&got).len(), got.contains("SECRET")), (1, false), "{got}");
    assert_cut(&got);
}

#[test]
fn a_cut_answer_is_seen_to_be_incomplete() {
    let tap = Tap::start();
    let folder = folder();
    let mut engine = Engine::start(folder.path());
    let mut stack = Stack::start(&engine.endpoint(), tap.address);
    let client = Command::new("curl")
        .args([
            "-sSN",
            "--max-time",
            "30",
            "-H",
            &format!("Host: {HOST}"),
            &format!("http://{}/seal-response", stack.inbound),
        ])
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("curl is installed");
    tap.answer(EVENTS, "");
    tap.say(&chunk("data: {\"n\":1,\"secret\":\"SECRET\"}\n\n"));
    let sealed = r#"e3_relay_fields_total{role="secret",verb="seal"}"#;
    eventually("the first event", || (stack.relay.metric(sealed) == Some(1.0)).then_some(()));
    engine.process().kill();
    tap.say(&chunk("data: {\"n\":2,\"secret\":\"SECRET\"}\n\ndata: {}\n\n"));
    let got = client.wait_with_output().unwrap();
    let told = String::from_utf8_lossy(&got.stderr);
    assert_eq!(got.status.code(), Some(18), "curl's code for a part of a file: {told}");
    let text = String::from_utf8_lossy(&got.stdout);
    assert!(text.starts_with("data: {\"n\":1,\"secret\":\"e3v1.secret.s."), "{text}");
    assert!(!text.contains("\"n\":2") && !text.contains("SECRET") && !text.contains("data: {}"), "{text}");
    let series =
        format!(r#"e3_relay_answers_cut_total{{code="engine/unavailable",rule="4",side="inbound",site="{HOST}"}}"#);
    assert_eq!(stack.relay.metric(&series), Some(1.0), "{}", stack.relay.metrics());
    let log = stack.relay.process().log();
    assert!(log.contains("cut") && log.contains("engine/unavailable") && !log.contains("SECRET"), "{log}");
}

#[test]
fn a_bad_record_cuts_the_answer_before_it() {
    let long = format!("data: {{\"secret\":\"SECRET{}", "9".repeat(70_000));
    for (bad, code) in [
        ("data: {\"secret\":\"SECRET\"\n\n", "response/json"),
        ("data: [DONE]\n\n", "response/json"),
        ("DATA: {\"secret\":\"SECRET\"}\n\n", "response/json"),
        (&*long, "response/too-large"),
    ] {
        let (engine, tap) = (EngineDouble::start(Behaviour::Honest), Tap::start());
        let stack = Stack::start(&engine.endpoint(), tap.address);
        let mut client = stack.get("/seal-response");
        tap.answer(EVENTS, "");
        tap.say(&chunk(&format!("data: {{\"secret\":\"SECRET\"}}\n\n{bad}")));
        let got = String::from_utf8(client.rest().unwrap()).unwrap();
        assert!(got.starts_with("HTTP/1.1 200"), "{got}");
        assert_eq!((tokens(&got).len(), got.contains("SECRET")), (1, false), "{bad:.40}: {got}");
        assert_cut(&got);
        tap.ended();
        // The same as the first record is an answer of its own.
        let (engine, tap) = (EngineDouble::start(Behaviour::Honest), Tap::start());
        let stack = Stack::start(&engine.endpoint(), tap.address);
        let mut client = stack.get("/seal-response");
        tap.answer(EVENTS, "");
        tap.say(&chunk(bad));
        let refused = client.answer().unwrap();
        assert_eq!((refused.status, refused.text().contains(code)), (502, true), "{}", refused.text());
        assert!(refused.text().contains("\"upstream_status\":200") && !refused.text().contains("SECRET"));
    }
}

#[test]
fn an_upstream_that_breaks_off_is_passed_on_as_such() {
    let (engine, tap) = (EngineDouble::start(Behaviour::Honest), Tap::start());
    let stack = Stack::start(&engine.endpoint(), tap.address);
    let mut client = stack.get("/seal-response");
    tap.answer(NDJSON, "");
    tap.say(&chunk("{\"secret\":\"SECRET\"}\n{\"secret\":\"SEC"));
    tap.say(b"");
    let got = String::from_utf8(client.rest().unwrap()).unwrap();
    assert_eq!((tokens(&got).len(), got.contains("SEC")), (1, false), "{got}");
    assert_cut(&got);
}

#[test]
fn an_old_client_gets_all_records_or_none() {
    for (second, status) in [("{\"secret\":2}\n", 200), ("{\"secret\":\n", 502)] {
        let (engine, tap) = (EngineDouble::start(Behaviour::Honest), Tap::start());
        let stack = Stack::start(&engine.endpoint(), tap.address);
        let mut client = Connection::open(stack.inbound);
        client.send(format!("GET /seal-response HTTP/1.0\r\nHost: {HOST}\r\n\r\n").as_bytes()).unwrap();
        tap.answer(NDJSON, "");
        tap.say(&chunk(&format!("{{\"secret\":1}}\n{second}")));
        tap.say(END);
        let answer = client.answer().unwrap();
        assert_eq!(answer.status, status, "{}", answer.text());
        assert_eq!(answer.header("content-length").map(str::to_owned), Some(answer.body.len().to_string()));
        assert_eq!(tokens(answer.text()).len(), if status == 200 { 2 } else { 0 });
    }
}

#[test]
fn a_client_that_leaves_leaves_no_end_behind() {
    let (engine, tap) = (EngineDouble::start(Behaviour::Honest), Tap::start());
    let stack = Stack::start(&engine.endpoint(), tap.address);
    let mut client = stack.begin("/seal", NDJSON);
    client.send(&chunk("{\"card\":{\"number\":\"SECRET\"}}\n{\"card\":{\"number\":\"SECRET\"}}")).unwrap();
    tap.wait("}}\n");
    drop(client);
    let got = tap.ended();
    assert_eq!((tokens(&got).len(), got.contains("SECRET")), (1, false), "{got}");
    assert_cut(&got);
    // And one that leaves an answer ends it upstream.
    let tap = Tap::start();
    let stack = Stack::start(&engine.endpoint(), tap.address);
    let mut client = stack.get("/seal-response");
    tap.answer(EVENTS, "");
    tap.say(&chunk("data: {}\n\n"));
    read_until(&mut client, &mut String::new(), "data: {}");
    drop(client);
    tap.ended();
}

#[test]
fn the_test_command_shows_each_record() {
    let folder = folder();
    let (rules, sample) = (folder.path().join("relay.yaml"), folder.path().join("sample.http"));
    let site = "hosts: [a.example], backend: \"http://127.0.0.1:1\", rules: [{request: {seal: [{select: $.a, role: secret}]}}]";
    let text = format!(
        "engine: {{endpoints: [\"unix:///x\"], app: shop, development: true}}\ninbound: [{{listen: \"127.0.0.1:2\", {site}}}]\n"
    );
    std::fs::write(&rules, text).unwrap();
    let shown = |media: &str, body: &str| {
        let message = format!("POST /x HTTP/1.1\nHost: a.example\nContent-Type: {media}\n\n{body}\n");
        std::fs::write(&sample, message).unwrap();
        let (rules, sample) = (rules.to_str().unwrap(), sample.to_str().unwrap());
        let output = Program::Relay.output(["test", "--rule-file", rules, "--request", sample]);
        String::from_utf8(output.stdout).unwrap()
    };
    let lines = shown(NDJSON, "{\"a\":1}\n\n{\"b\":2}\n{\"a\":3}");
    assert!(
        lines.contains("record 3\n") && lines.ends_with("{\"a\":\"<secret>\"}\n\n{\"b\":2}\n{\"a\":\"<secret>\"}\n"),
        "{lines}"
    );
    let events = shown(EVENTS, ": x\n\ndata: {\"a\":\ndata: [1,\ndata: 2]}\n\ndata: [DONE]");
    assert!(events.contains("record 1\n") && events.contains("$.a"), "{events}");
    assert!(events.contains("record 2\n") && events.contains("body/json"), "{events}");
}

#[test]
fn a_stalled_upload_is_cut() {
    let (engine, tap) = (EngineDouble::start(Behaviour::Honest), Tap::start());
    let stack = Stack::start(&engine.endpoint(), tap.address);
    let mut client = stack.begin("/seal", NDJSON);
    client.send(&chunk("{\"card\":{\"number\":\"SECRET\"}}\n{\"card\":")).unwrap();
    let answer = client.answer().unwrap();
    assert!(answer.text().contains("\"cause\":\"request/timeout\""), "{}", answer.text());
    assert_cut(&tap.ended());
    // With nothing sent there is nothing to cut.
    let mut client = stack.begin("/seal", NDJSON);
    client.send(&chunk("\n\n{\"card\":")).unwrap();
    assert_eq!(client.answer().unwrap().status, 408);
}
