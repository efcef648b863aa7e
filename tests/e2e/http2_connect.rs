//! CONNECT on a stream of HTTP/2 (RFC 9113 §8.5): interception and tunnels, each stream for itself.

#[path = "../src/proxied.rs"]
#[allow(dead_code, reason = "some of its clients are for the tests of TLS and CONNECT")]
mod proxied;

use std::cell::RefCell;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::rc::Rc;

use e3_tests::backend::Backend;
use e3_tests::client::{Answer, header, json_request, read_body, read_head};
use e3_tests::engine_double::{Behaviour, EngineDouble, token_of};
use e3_tests::frames::{END_HEADERS, END_STREAM, Frame, Frames, head, kind};
use e3_tests::port;
use e3_tests::process::Program;
use e3_tests::stack::{Relay, folder};
use proxied::{Setup, TestCa, TlsServer, client_config};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConnection, StreamOwned};

const PAY: &str = "api.pay.example";
const LOGS: &str = "in.logs.example";

struct Proxy {
    _relay: Relay,
    address: SocketAddr,
    provider: Backend,
    logs: TlsServer,
    folder: tempfile::TempDir,
    _engine: EngineDouble,
}

impl Proxy {
    fn start() -> Self {
        let (folder, address) = (folder(), port::free());
        let engine = EngineDouble::start(Behaviour::Honest);
        let provider = Backend::echo();
        let ca = TestCa::new();
        let logs = TlsServer::start(ca.leaf(LOGS, |_| ()), Setup::default());
        std::fs::write(folder.path().join("logs-ca.pem"), &ca.pem).expect("the authority's file");
        let file = |name: &str| folder.path().join(name).display().to_string();
        let (certificate, key) = (file("ca.pem"), file("ca.key"));
        let made = Program::Relay.output(["ca", "init", "--certificate", &certificate, "--key", &key]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let rules = format!(
            "engine: {{endpoints: [\"{}\"], app: shop, development: true}}\nca: {{certificate: {certificate}, key: {key}}}\noutbound:\n  - listen: {address}\n    \
             connections: {{h2c: true, idle_time: 1s}}\n    destinations:\n      - host: {PAY}\n        upstream: http://{}\n        intercept: true\n        \
             rules: [{{match: {{path: /charges/**}}, request: {{open: [{{select: $.number, roles: [card-number]}}]}}}}]\n      \
             - {{host: {LOGS}, upstream: \"https://{}\", tunnel: true, limits: {{stream_idle: 1s}}}}\n",
            engine.endpoint(),
            provider.address(),
            logs.address
        );
        let relay = Relay::start(folder.path(), "relay", &rules);
        relay.wait_ready();
        Self { _relay: relay, address, provider, logs, folder, _engine: engine }
    }
}

/// One connection whose streams are tunnels.
#[derive(Clone)]
struct Shared(Rc<RefCell<Frames<TcpStream>>>);

impl Shared {
    fn open(proxy: &Proxy) -> Self {
        Self(Rc::new(RefCell::new(Frames::open(proxy.address, &[]))))
    }

    /// Asks for a tunnel; the status, and the tunnel where it is 200.
    fn connect(&self, stream: u32, target: &str) -> (Option<u16>, Tunnel) {
        let mut frames = self.0.borrow_mut();
        let fields = head(&[(":method", "CONNECT"), (":authority", target)]);
        frames.send(kind::HEADERS, END_HEADERS, stream, &fields).expect("CONNECT is sent");
        let answer = frames.until(|frame| frame.stream == stream && frame.kind == kind::HEADERS).expect("an answer");
        (answer.last().and_then(Frame::status), Tunnel { shared: self.clone(), stream, unread: Vec::new() })
    }
}

/// The bytes of one stream.
struct Tunnel {
    shared: Shared,
    stream: u32,
    unread: Vec<u8>,
}

impl Read for Tunnel {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.unread.is_empty() {
            let own = |frame: &Frame| frame.stream == self.stream && frame.kind != kind::WINDOW_UPDATE;
            let frames = self.shared.0.borrow_mut().until(own)?;
            match frames.into_iter().next_back() {
                Some(frame) if frame.kind == kind::DATA => self.unread = frame.payload,
                _ => return Err(io::ErrorKind::ConnectionReset.into()),
            }
        }
        let n = self.unread.len().min(out.len());
        out[..n].copy_from_slice(&self.unread[..n]);
        self.unread.drain(..n);
        Ok(n)
    }
}

impl Write for Tunnel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(16 * 1024);
        self.shared.0.borrow_mut().send(kind::DATA, 0, self.stream, &bytes[..n])?;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// TLS in a tunnel, and one request in it.
fn ask(tunnel: Tunnel, ca: &Path, name: &str, request: &[u8]) -> io::Result<Answer> {
    let name = ServerName::try_from(name.to_owned()).expect("a server name");
    let connection = ClientConnection::new(client_config(ca), name).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(connection, tunnel);
    stream.write_all(request)?;
    stream.flush()?;
    let mut unread = Vec::new();
    let head = read_head(&mut stream, &mut unread)?.ok_or(io::ErrorKind::UnexpectedEof)?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    let body = match header(&head, "content-length") {
        Some(_) => read_body(&mut stream, &mut unread, &head)?,
        None => Vec::new(),
    };
    Ok(Answer { status, head, body })
}

#[test]
fn streams_of_one_connection_are_intercepted_and_tunnelled_each_for_itself() {
    let proxy = Proxy::start();
    let shared = Shared::open(&proxy);
    let token = token_of("card-number", 's', "4111111111111111");
    let (status, first) = shared.connect(1, &format!("{PAY}:443"));
    assert_eq!(status, Some(200));
    let (status, second) = shared.connect(3, &format!("{LOGS}:443"));
    assert_eq!(status, Some(200));
    let charge = json_request("POST", "/charges/1", PAY, &format!(r#"{{"number":"{token}"}}"#));
    let answer = ask(first, &proxy.folder.path().join("ca.pem"), PAY, &charge).expect("an answer");
    assert_eq!((answer.status, answer.text()), (200, r#"{"number":"4111111111111111"}"#));
    let line = json_request("POST", "/line", LOGS, &format!(r#"{{"number":"{token}"}}"#));
    let answer = ask(second, &proxy.folder.path().join("logs-ca.pem"), LOGS, &line).expect("an answer");
    assert_eq!((answer.status, answer.text()), (200, &*format!(r#"{{"number":"{token}"}}"#)));
    assert_eq!(proxy.provider.requests().len(), 1);
}

#[test]
fn connect_over_http2_opens_nothing_else() {
    let proxy = Proxy::start();
    let shared = Shared::open(&proxy);
    for (n, (target, expected)) in
        [("other.example:443", 403), (&*format!("{PAY}:444"), 403), ("127.1:443", 403), (PAY, 400)]
            .into_iter()
            .enumerate()
    {
        let stream = 2 * n as u32 + 1;
        assert_eq!(shared.connect(stream, target).0, Some(expected), "{target}");
    }
    // The target of CONNECT, the server name of TLS and the Host of a request are the same, or nothing goes out.
    let ca = proxy.folder.path().join("ca.pem");
    let (status, tunnel) = shared.connect(101, &format!("{PAY}:443"));
    assert_eq!(status, Some(200));
    let answer = ask(tunnel, &ca, PAY, &json_request("POST", "/charges/1", "other.example", "{}")).expect("an answer");
    assert_eq!(answer.status, 421, "{}", answer.text());
    let (status, tunnel) = shared.connect(103, &format!("{LOGS}:443"));
    assert_eq!(status, Some(200));
    let other = ask(tunnel, &proxy.folder.path().join("logs-ca.pem"), "other.example", b"GET / HTTP/1.1\r\n\r\n");
    assert!(other.is_err());
    assert_eq!((proxy.provider.bytes(), proxy.logs.bytes()), (0, 0));
    // The connection has come to no harm by it.
    let mut frames = shared.0.borrow_mut();
    frames.send(kind::PING, 0, 0, &[1; 8]).expect("a ping");
    frames.until(|frame| frame.kind == kind::PING && frame.flags == END_STREAM).expect("an answer to it");
}

#[test]
fn a_tunnel_on_a_stream_lasts_while_bytes_move_and_not_much_longer() {
    let proxy = Proxy::start();
    let shared = Shared::open(&proxy);
    let (status, tunnel) = shared.connect(1, &format!("{LOGS}:443"));
    assert_eq!(status, Some(200));
    let ca = proxy.folder.path().join("logs-ca.pem");
    let name = ServerName::try_from(LOGS).expect("a server name");
    let connection = ClientConnection::new(client_config(&ca), name).expect("TLS");
    let mut stream = StreamOwned::new(connection, tunnel);
    // Longer in all than it may be silent, and than an idle connection lasts.
    for n in 0..8 {
        stream.write_all(&json_request("POST", "/line", LOGS, &n.to_string())).expect("the tunnel is open");
        stream.flush().expect("the tunnel is open");
        let mut unread = Vec::new();
        let head = read_head(&mut stream, &mut unread).expect("an answer").expect("an answer");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        read_body(&mut stream, &mut unread, &head).expect("its body");
        std::thread::sleep(std::time::Duration::from_millis(400));
    }
    let end = stream.read(&mut [0; 16]);
    assert!(matches!(end, Ok(0) | Err(_)), "the silent tunnel stays");
    assert_eq!(proxy.logs.heads.lock().expect("the record").len(), 8);
}
