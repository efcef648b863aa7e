//! The framing corpus: raw bytes, what they are answered with, and how many requests may reach the backend, as the first and as a later message of a connection, on every
//! listener.
//!
//! `cases.jsonl` has a case in each line. `send` is what is sent, a byte for each character (`…` stands for a text so many times, as `run` says); `answers` are the statuses
//! that come back, in order; `code` is that of the last one, a refusal; `reaches` is how many requests the backend gets. After a refusal the connection closes, unless the
//! case says `open`. A case that `waits` is answered when a deadline is over; one that is `cut` ends in the middle, and whatever comes back, the backend gets no request.

#[path = "../../src/proxied.rs"]
#[allow(dead_code, reason = "its servers are for other tests")]
mod proxied;

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;

use e3_tests::backend::Backend;
use e3_tests::client::{header, read_body, read_head};
use e3_tests::engine_double::{Behaviour, EngineDouble};
use e3_tests::process::Program;
use e3_tests::stack::{Relay, folder};
use e3_tests::{PATIENCE, port};
use proxied::{TestCa, client_config, connect_request};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConnection, StreamOwned};

const HOST: &str = "a.test";
/// A destination that the path names.
const BASE: &str = "base.test";
const GOOD: &str = "GET /good HTTP/1.1\r\nHost: a.test\r\n\r\n";
/// Stands behind what is refused, and must not be taken for a request.
const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n";

#[derive(Debug, Clone, serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    about: String,
    send: String,
    run: Option<(String, usize)>,
    answers: Option<Vec<u16>>,
    code: Option<String>,
    reaches: usize,
    #[serde(default)]
    open: bool,
    #[serde(default)]
    closes: bool,
    #[serde(default)]
    waits: bool,
    #[serde(default)]
    cut: bool,
}

impl Case {
    fn bytes(&self, way: &Way) -> Vec<u8> {
        let run = self.run.as_ref().map(|(text, times)| text.repeat(*times)).unwrap_or_default();
        let text = way.spoken(&self.send.replace('…', &run));
        text.chars().map(|c| u8::try_from(u32::from(c)).expect("a character for each byte")).collect()
    }

    fn refused(&self) -> bool {
        self.code.is_some()
    }
}

fn corpus() -> Vec<Case> {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance/framing/cases.jsonl");
    let text = std::fs::read_to_string(file).expect("the corpus");
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e} in {line}"))).collect()
}

trait Duplex: Read + Write + Send {
    /// Nothing more will be sent.
    fn finish(&mut self);
}

impl Duplex for TcpStream {
    fn finish(&mut self) {
        // The other end may have ended already.
        let _ = self.shutdown(Shutdown::Write);
    }
}

impl Duplex for StreamOwned<ClientConnection, Box<dyn Duplex>> {
    fn finish(&mut self) {
        self.conn.send_close_notify();
        let _ = self.flush();
        self.sock.finish();
    }
}

impl Duplex for Box<dyn Duplex> {
    fn finish(&mut self) {
        (**self).finish();
    }
}

/// One listener, and how to come to where requests are spoken.
#[derive(Debug, Clone)]
struct Way {
    name: &'static str,
    address: SocketAddr,
    /// TLS to the listener, for this name.
    tls: Option<&'static str>,
    /// CONNECT, and TLS inside it.
    through: bool,
    /// The first segment of the path names the destination.
    base: bool,
    /// Authorities of the sites and of the relay.
    trust: [PathBuf; 2],
}

impl Way {
    /// A text with its targets as they are written here.
    fn spoken(&self, text: &str) -> String {
        if !self.base {
            return text.to_owned();
        }
        let mut text = text.replace("/good", &format!("/{BASE}/good")).replace("/sealed", &format!("/{BASE}/sealed"));
        for start in ["GET / ", "GET /x ", "POST / ", "POST /x "] {
            if text.starts_with(start) {
                text = text.replacen('/', &format!("/{BASE}/"), 1);
            }
        }
        text
    }

    fn open(&self) -> Box<dyn Duplex> {
        let stream = TcpStream::connect(self.address).expect("a listener");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_nodelay(true).expect("no delay");
        let mut stream: Box<dyn Duplex> = Box::new(stream);
        if let Some(name) = self.tls {
            stream = secure(stream, &self.trust[0], name);
        }
        if self.through {
            stream.write_all(connect_request("a.test:443", "").as_bytes()).expect("CONNECT is sent");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                assert_eq!(stream.read(&mut byte).expect("an answer to CONNECT"), 1, "{}", self.name);
                head.push(byte[0]);
            }
            assert!(head.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&head));
            stream = secure(stream, &self.trust[1], HOST);
        }
        stream
    }
}

fn secure(stream: Box<dyn Duplex>, ca: &Path, name: &str) -> Box<dyn Duplex> {
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let connection = ClientConnection::new(client_config(ca), name).expect("a connection");
    let mut stream = StreamOwned::new(connection, stream);
    while stream.conn.is_handshaking() {
        stream.conn.complete_io(&mut stream.sock).expect("TLS");
    }
    Box::new(stream)
}

/// The next final answer: status and body. `None` at the end of the connection.
fn answer(stream: &mut Box<dyn Duplex>, unread: &mut Vec<u8>) -> io::Result<Option<(u16, Vec<u8>)>> {
    loop {
        let Some(head) = read_head(stream, unread)? else { return Ok(None) };
        let status: u16 = head.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or(io::ErrorKind::InvalidData)?;
        if status >= 200 {
            let sized = header(&head, "content-length").or(header(&head, "transfer-encoding"));
            assert!(sized.is_some(), "an answer that says no length: {head}");
            return Ok(Some((status, read_body(stream, unread, &head)?)));
        }
    }
}

/// Whether nothing more comes, and the connection ends; a hang is told as such.
fn ended(stream: &mut Box<dyn Duplex>, unread: &[u8]) -> Result<(), String> {
    let mut rest = [0; 256];
    match stream.read(&mut rest) {
        _ if !unread.is_empty() => Err(format!("more came: {:?}", String::from_utf8_lossy(unread))),
        Ok(0) => Ok(()),
        Ok(n) => Err(format!("more came: {:?}", String::from_utf8_lossy(&rest[..n]))),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err("it hangs".to_owned()),
        Err(_) => Ok(()),
    }
}

/// Plays a case, after a good request where it comes later: how many requests the backend has to have got, or what went wrong.
fn play(way: &Way, case: &Case, later: bool) -> Result<usize, String> {
    // Who cuts a message must not count on an answer to one before it that is still on its way.
    let good = way.spoken(GOOD);
    let mut bytes = if later && !case.cut { good.clone().into_bytes() } else { Vec::new() };
    bytes.extend(case.bytes(way));
    if case.refused() && !case.open && !case.waits {
        bytes.extend_from_slice(SMUGGLED.as_bytes());
    }
    let (mut stream, mut unread) = (way.open(), Vec::new());
    let text = |error: io::Error| error.to_string();
    if later && case.cut {
        stream.write_all(good.as_bytes()).and_then(|()| stream.flush()).map_err(text)?;
        if answer(&mut stream, &mut unread).map_err(text)?.map(|(status, _)| status) != Some(200) {
            return Err("the good one has no answer".to_owned());
        }
    }
    // A refusal may come, and the connection end, before all is sent.
    let sent = stream.write_all(&bytes).and_then(|()| stream.flush());
    if sent.is_err() && !case.refused() {
        return Err("the connection broke".to_owned());
    }
    let reached = case.reaches + usize::from(later);
    if case.cut {
        stream.finish();
        // It may be told what was wrong; in any case it ends.
        if let Ok(Some((status, _))) = answer(&mut stream, &mut unread)
            && !(400..500).contains(&status)
        {
            return Err(format!("{status} for a message that was cut"));
        }
        return ended(&mut stream, &unread).map(|()| reached);
    }
    let expected = later.then_some(200).into_iter().chain(case.answers.iter().flatten().copied());
    let mut last = Vec::new();
    for (n, expected) in expected.enumerate() {
        match answer(&mut stream, &mut unread).map_err(|error| format!("answer {n}: {error}"))? {
            Some((status, body)) if status == expected => last = body,
            Some((status, body)) => {
                return Err(format!("answer {n} is {status}, not {expected}: {}", String::from_utf8_lossy(&body)));
            }
            None => return Err(format!("the end instead of answer {n}, {expected}")),
        }
    }
    if let Some(code) = &case.code {
        let told = String::from_utf8_lossy(&last).into_owned();
        if !told.contains(&format!("\"code\":\"{code}\"")) {
            return Err(format!("another code: {told}"));
        }
    }
    if case.closes || case.refused() && !case.open {
        return ended(&mut stream, &unread).map(|()| reached);
    }
    // The connection goes on where it should.
    stream.write_all(good.as_bytes()).and_then(|()| stream.flush()).map_err(text)?;
    match answer(&mut stream, &mut unread).map_err(text)? {
        Some((200, _)) if unread.is_empty() => Ok(reached + 1),
        other => Err(format!("out of step: {other:?}")),
    }
}

fn play_all(way: &Way, backend: &Backend, cases: &[Case]) -> Vec<String> {
    let mut faults = Vec::new();
    let mut told = |case: &Case, later: bool, fault: String| {
        let when = if later { "later" } else { "first" };
        faults.push(format!("{}, {when}: {} {:?}: {fault}", way.name, case.about, case.send));
    };
    // Those that wait do so together.
    let waits: Vec<_> = cases.iter().filter(|case| case.waits).flat_map(|case| [(case, false), (case, true)]).collect();
    let before = backend.requests().len();
    let expected: usize = thread::scope(|scope| {
        let playing: Vec<_> = waits.iter().map(|(case, later)| scope.spawn(|| play(way, case, *later))).collect();
        let played: Vec<_> = playing.into_iter().map(|play| play.join().expect("a play")).collect();
        played
            .into_iter()
            .zip(&waits)
            .map(|(played, (case, later))| {
                played.unwrap_or_else(|fault| {
                    told(case, *later, fault);
                    0
                })
            })
            .sum()
    });
    if backend.requests().len() != before + expected {
        told(&cases[0], false, format!("{} requests for cases that wait", backend.requests().len() - before));
    }
    for case in cases.iter().filter(|case| !case.waits) {
        for later in [false, true] {
            let before = backend.requests().len();
            match play(way, case, later) {
                Err(fault) => told(case, later, fault),
                Ok(expected) => {
                    let got = backend.requests().len() - before;
                    if got != expected {
                        told(case, later, format!("{got} requests reached the backend, not {expected}"));
                    }
                }
            }
        }
    }
    for request in backend.requests() {
        let (_, target) = request.line();
        if !["/good", "/sealed"].contains(&target) {
            faults.push(format!("{}: {:?} reached the backend", way.name, request.head));
        }
    }
    faults
}

#[test]
fn every_case_of_the_corpus_has_its_answer_on_every_listener_and_nothing_is_smuggled() {
    let cases = corpus();
    assert!(cases.len() >= 250, "{} cases", cases.len());
    let (folder, ca) = (folder(), TestCa::new());
    let path = |name: &str| folder.path().join(name);
    let made = Program::Relay.output([
        "ca".as_ref(),
        "init".as_ref(),
        "--certificate".as_ref(),
        path("relay-ca.pem").as_os_str(),
        "--key".as_ref(),
        path("relay-ca.key").as_os_str(),
    ]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let trust = [path("site-ca.pem"), path("relay-ca.pem")];
    let (site_tls, proxy_tls) = (ca.site(folder.path(), HOST), ca.site(folder.path(), "proxy.test"));
    let way = |name, tls, through| Way { name, address: port::free(), tls, through, base: false, trust: trust.clone() };
    let ways = [
        way("inbound", None, false),
        way("inbound over TLS", Some(HOST), false),
        way("outbound", None, false),
        Way { base: true, ..way("outbound by path", None, false) },
        way("inside CONNECT", None, true),
        way("outbound over TLS", Some("proxy.test"), false),
        way("inside CONNECT over TLS", Some("proxy.test"), true),
    ];
    let backends: Vec<Backend> = ways.iter().map(|_| Backend::echo()).collect();
    let engine = EngineDouble::start(Behaviour::Honest);
    let mut rules = format!(
        "engine: {{endpoints: [\"{}\"], app: shop, development: true}}\nca: {{certificate: {}, key: {}}}\n",
        engine.endpoint(),
        trust[1].display(),
        path("relay-ca.key").display()
    );
    let limits = "limits: {stream_idle: 3s, body_time: 3s}";
    let sealed = "rules: [{match: {path: /sealed}, request: {seal: [{select: $.card, role: card}]}}]";
    let connections = "connections: {head_time: 3s}";
    rules += "inbound:\n";
    for (way, backend) in ways.iter().zip(&backends).take(2) {
        let tls = way.tls.map(|_| format!("    tls: {{{site_tls}}}\n")).unwrap_or_default();
        rules += &format!(
            "  - listen: {}\n    hosts: [{HOST}]\n    backend: http://{}\n    {limits}\n    {connections}\n    {sealed}\n{tls}",
            way.address,
            backend.address()
        );
    }
    rules += "outbound:\n";
    for (way, backend) in ways.iter().zip(&backends).skip(2) {
        let tls = way.tls.map(|_| format!("    tls: {{{proxy_tls}}}\n")).unwrap_or_default();
        rules += &format!(
            "  - listen: {}\n    {connections}\n{tls}    destinations:\n      - host: {}\n        upstream: http://{}\n        intercept: {}\n        {limits}\n        {sealed}\n",
            way.address,
            if way.base { BASE } else { HOST },
            backend.address(),
            way.through
        );
    }
    // Thousands of refusals are no news.
    let relay = Relay::start_filtered(folder.path(), "relay", &rules, Some("warn"));
    relay.wait_ready();
    let faults: Vec<String> = thread::scope(|scope| {
        let playing: Vec<_> =
            ways.iter().zip(&backends).map(|(way, backend)| scope.spawn(|| play_all(way, backend, &cases))).collect();
        playing.into_iter().flat_map(|play| play.join().expect("a way")).collect()
    });
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
}
