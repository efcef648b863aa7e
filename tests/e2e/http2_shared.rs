//! Connections of HTTP/2 that many requests share: what some clients do not send, or do not read, holds up no others, and no stream stays for good.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use e3_tests::backend::Backend;
use e3_tests::client::{Connection, json_request, once};
use e3_tests::engine_double::{Behaviour, EngineDouble};
use e3_tests::frames::{
    ACK, END_HEADERS, END_STREAM, Frames, INITIAL_WINDOW, MAX_STREAMS, encoded, head, kind, request,
};
use e3_tests::stack::{Relay, folder};
use e3_tests::{eventually, port};

const HOST: &str = "api.shop.example";
const OTHER: &str = "other.shop.example";

/// How a server treats requests with a body; one without is answered at once.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// It waits for all of the body.
    Patient,
    /// It answers 413 at once, reads nothing, and leaves the stream open.
    Early,
    /// As patient; but requests without a body get an answer that does not end, in pieces of this many bytes.
    Endless(i64),
}

/// A server that speaks HTTP/2 without TLS, frame by frame.
struct Upstream {
    address: SocketAddr,
    seen: Arc<Mutex<BTreeMap<usize, Seen>>>,
}

/// What it sees of one connection.
#[derive(Default, Clone, Copy)]
struct Seen {
    /// Streams that are open.
    open: usize,
    /// Most that ever were at once.
    most: usize,
    /// Bytes of answers that were sent.
    sent: usize,
}

impl Upstream {
    fn start(way: Way, settings: &'static [(u16, u32)]) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("its address");
        let seen = Arc::<Mutex<BTreeMap<usize, Seen>>>::default();
        let kept = Arc::clone(&seen);
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().flatten().enumerate() {
                let kept = Arc::clone(&kept);
                std::thread::spawn(move || {
                    let note = |seen| {
                        kept.lock().unwrap_or_else(PoisonError::into_inner).insert(number, seen);
                    };
                    // Ends with the connection, and so do its streams.
                    let _ = serve(stream, way, settings, &note);
                    if let Some(seen) = kept.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&number) {
                        seen.open = 0;
                    }
                });
            }
        });
        Self { address, seen }
    }

    fn all(&self) -> Vec<Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).values().copied().collect()
    }

    fn open(&self) -> usize {
        self.all().iter().map(|seen| seen.open).sum()
    }

    /// Waits until no window opens any more.
    fn stalled(&self) {
        let sent = || self.all().iter().map(|seen| seen.sent).sum::<usize>();
        eventually("answers that nobody reads", || {
            let before = sent();
            std::thread::sleep(Duration::from_millis(500));
            (before > 0 && sent() == before).then_some(())
        });
    }
}

/// A stream as the server has it.
struct Stream {
    window: i64,
    endless: bool,
}

fn serve(stream: TcpStream, way: Way, settings: &[(u16, u32)], note: &dyn Fn(Seen)) -> io::Result<()> {
    let mut frames = Frames::accept(stream, settings)?;
    let mut seen = Seen::default();
    let (mut window, mut initial) = (65_535_i64, 65_535_i64);
    let mut streams = BTreeMap::<u32, Stream>::new();
    let most = if let Way::Endless(piece) = way { piece } else { 0 };
    loop {
        let frame = frames.receive()?;
        let ends = frame.flags & END_STREAM != 0;
        let mut answer = None;
        match frame.kind {
            kind::SETTINGS => {
                if let Some(value) = frame.setting(INITIAL_WINDOW) {
                    let more = i64::from(value) - initial;
                    initial += more;
                    streams.values_mut().for_each(|stream| stream.window += more);
                }
            }
            kind::WINDOW_UPDATE => {
                let more = i64::from(u32::from_be_bytes(frame.payload[..4].try_into().expect("four bytes")));
                match streams.get_mut(&frame.stream) {
                    Some(stream) => stream.window += more,
                    None if frame.stream == 0 => window += more,
                    None => {}
                }
            }
            kind::HEADERS => {
                let endless = ends && matches!(way, Way::Endless(_));
                streams.insert(frame.stream, Stream { window: initial, endless });
                if endless {
                    frames.send(kind::HEADERS, END_HEADERS, frame.stream, &[0x88])?;
                } else if ends {
                    answer = Some("200");
                } else if way == Way::Early {
                    answer = Some("413");
                }
            }
            kind::DATA if ends && way != Way::Early => answer = Some("200"),
            kind::RST_STREAM => drop(streams.remove(&frame.stream)),
            _ => {}
        }
        seen.most = seen.most.max(streams.len());
        if let Some(status) = answer {
            let block = [&[8, 3], status.as_bytes()].concat();
            frames.send(kind::HEADERS, END_HEADERS | END_STREAM, frame.stream, &block)?;
            if status == "200" {
                streams.remove(&frame.stream);
            }
        }
        for (id, stream) in streams.iter_mut().filter(|(_, stream)| stream.endless) {
            let mut pieces = Vec::new();
            while let piece @ 1.. = stream.window.min(window).min(most) {
                pieces.extend(encoded(kind::DATA, 0, *id, &vec![b'a'; piece as usize]));
                stream.window -= piece;
                window -= piece;
            }
            frames.send_bytes(&pieces)?;
            seen.sent += pieces.len();
        }
        seen.open = streams.len();
        note(seen);
    }
}

struct Edge {
    entry: SocketAddr,
    _relay: Relay,
    _folder: tempfile::TempDir,
    _engine: EngineDouble,
    _other: Backend,
}

/// A relay whose site `HOST` is at the upstream, and whose site `OTHER` at a backend that answers everything.
fn edge(upstream: &Upstream) -> Edge {
    let (folder, entry, other) = (folder(), port::free(), Backend::echo());
    let engine = EngineDouble::start(Behaviour::Honest);
    let rules = format!(
        "engine: {{endpoints: [\"{}\"], app: shop, development: true}}\nthreads: 1\ninbound:\n  - listen: {entry}\n    hosts: [{HOST}]\n    \
         connections: {{h2c: true}}\n    backend: http://{}\n    backend_http2: true\n    limits: {{response_time: 10s, stream_idle: 60s}}\n    \
         rules: [{{match: {{methods: [POST], path: /seal}}, request: {{seal: [{{select: $.card, role: card}}]}}}}]\n  - listen: {entry}\n    \
         hosts: [{OTHER}]\n    connections: {{h2c: true}}\n    backend: http://{}\n",
        engine.endpoint(),
        upstream.address,
        other.address()
    );
    let relay = Relay::start(folder.path(), "relay", &rules);
    relay.wait_ready();
    Edge { entry, _relay: relay, _folder: folder, _engine: engine, _other: other }
}

/// Requests of which a byte of the body is sent, and the rest is not.
fn uploads(edge: &Edge, upstream: &Upstream, count: usize) -> Vec<Connection> {
    let begin = |_| {
        let mut client = Connection::open(edge.entry);
        let begun = format!("POST /up HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 2\r\n\r\nx");
        client.send(begun.as_bytes()).expect("a request");
        client
    };
    let clients = (0..count).map(begin).collect();
    eventually("the uploads", || (upstream.open() == count).then_some(()));
    clients
}

#[test]
fn slow_uploads_hold_up_nobody_else() {
    let upstream = Upstream::start(Way::Patient, &[(MAX_STREAMS, 20)]);
    let edge = edge(&upstream);
    let slow = uploads(&edge, &upstream, 60);
    let other = once(edge.entry, &json_request("GET", "/x", HOST, ""));
    assert_eq!(other.status, 200, "{}", other.text());
    for mut client in slow {
        client.send(b"y").expect("the rest");
        assert_eq!(client.answer().expect("an answer").status, 200);
    }
    let connections = upstream.all();
    assert!(connections.iter().all(|seen| seen.most <= 20), "never more than the server takes");
    assert!((4..=6).contains(&connections.len()), "{} connections", connections.len());
}

#[test]
fn requests_beyond_the_connections_bound_are_refused_at_once() {
    let upstream = Upstream::start(Way::Patient, &[(MAX_STREAMS, 1)]);
    let edge = edge(&upstream);
    let mut slow = uploads(&edge, &upstream, 64);
    let refused = once(edge.entry, &json_request("GET", "/x", HOST, ""));
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert!(refused.text().contains("relay/overloaded"), "{}", refused.text());
    let mut first = slow.remove(0);
    first.send(b"y").expect("the rest");
    assert_eq!(first.answer().expect("an answer").status, 200);
    let served = once(edge.entry, &json_request("GET", "/x", HOST, ""));
    assert_eq!(served.status, 200, "{}", served.text());
    assert_eq!(upstream.all().len(), 64);
}

/// Requests for an answer that does not end.
fn downloads(edge: &Edge, count: usize) -> Vec<Connection> {
    let begin = |_| {
        let mut client = Connection::open(edge.entry);
        client.send(&json_request("GET", "/big", HOST, "")).expect("a request");
        client
    };
    (0..count).map(begin).collect()
}

#[test]
fn clients_that_do_not_read_hold_up_nobody_else() {
    // In pieces of the usual size, and so small ones that their frames weigh more than what is in them.
    for (count, piece) in [(31, 16_384), (8, 48)] {
        let upstream = Upstream::start(Way::Endless(piece), &[]);
        let edge = edge(&upstream);
        assert_eq!(once(edge.entry, &json_request("POST", "/up", HOST, "xy")).status, 200, "the first connection");
        let _stalled = downloads(&edge, count);
        upstream.stalled();
        let other = once(edge.entry, &json_request("POST", "/up", HOST, "xy"));
        assert_eq!(other.status, 200, "{}", other.text());
        assert_eq!(upstream.all().len(), 1, "on the very same connection");
    }
}

#[test]
fn clients_that_leave_amid_answers_end_nobody_elses() {
    let upstream = Upstream::start(Way::Endless(64), &[]);
    let edge = edge(&upstream);
    let mut slow = uploads(&edge, &upstream, 1);
    for _ in 0..20 {
        let mut leaving = downloads(&edge, 31);
        for client in &mut leaving {
            assert!(!client.some().expect("a part of the answer").is_empty());
        }
        drop(leaving);
        eventually("closed streams", || (upstream.open() == 1).then_some(()));
    }
    slow[0].send(b"y").expect("the rest");
    assert_eq!(slow[0].answer().expect("an answer").status, 200);
}

#[test]
fn an_early_answer_leaves_no_stream_open() {
    // The body does not come; or it does, and the server opens no window for it.
    for (settings, path, length) in [
        (&[(MAX_STREAMS, 20)][..], "/up", 1000),
        (&[(MAX_STREAMS, 20), (INITIAL_WINDOW, 0)], "/up", 2),
        (&[(MAX_STREAMS, 20), (INITIAL_WINDOW, 0)], "/seal", 2),
    ] {
        let upstream = Upstream::start(Way::Early, settings);
        let edge = edge(&upstream);
        let begun = format!(
            "POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{{}}"
        );
        let mut clients = Vec::new();
        for _ in 0..25 {
            let mut client = Connection::open(edge.entry);
            client.send(begun.as_bytes()).expect("a request");
            assert_eq!(client.answer().expect("an answer").status, 413);
            clients.push(client);
        }
        eventually("closed streams", || (upstream.open() == 0).then_some(()));
        assert_eq!(once(edge.entry, &json_request("GET", "/x", HOST, "")).status, 200);
        assert_eq!(upstream.all().len(), 1);
    }
}

#[test]
fn an_early_answer_to_a_stream_that_says_nothing_more_leaves_none_open() {
    let upstream = Upstream::start(Way::Early, &[(MAX_STREAMS, 20)]);
    let edge = edge(&upstream);
    let mut client = Frames::open(edge.entry, &[]);
    for stream in (1..50).step_by(2) {
        client.send(kind::HEADERS, END_HEADERS, stream, &request("POST", "/up", HOST)).expect("a head");
        client.send(kind::DATA, 0, stream, b"x").expect("a byte");
        let all = client.until(|frame| frame.stream == stream && frame.kind == kind::HEADERS).expect("an answer");
        assert_eq!(all.last().and_then(e3_tests::frames::Frame::status), Some(413));
    }
    eventually("closed streams", || (upstream.open() == 0).then_some(()));
    assert_eq!(once(edge.entry, &json_request("GET", "/x", HOST, "")).status, 200);
}

#[test]
fn stalled_uploads_of_a_connection_hold_up_none_of_its_others() {
    let upstream = Upstream::start(Way::Patient, &[(INITIAL_WINDOW, 0)]);
    let edge = edge(&upstream);
    let mut client = Frames::open(edge.entry, &[]);
    let settings = client.until(|frame| frame.kind == kind::SETTINGS && frame.flags & ACK == 0).expect("settings");
    let told = |id| settings.last().and_then(|frame| frame.setting(id)).expect("a setting");
    let (streams, window) = (told(MAX_STREAMS), told(INITIAL_WINDOW));
    let mut stream = 1;
    // All that it may send at first, on all streams but one: the connection's window must have room for that.
    for _ in 1..streams {
        client.send(kind::HEADERS, END_HEADERS, stream, &request("POST", "/up", HOST)).expect("a head");
        let mut rest = window;
        while rest > 0 {
            let piece = rest.min(16_384);
            client.send(kind::DATA, 0, stream, &vec![b'x'; piece as usize]).expect("a piece");
            rest -= piece;
        }
        stream += 2;
    }
    let fields = [(":method", "POST"), (":scheme", "http"), (":path", "/x"), (":authority", OTHER)];
    client.send(kind::HEADERS, END_HEADERS, stream, &head(&fields)).expect("a head");
    client.send(kind::DATA, END_STREAM, stream, &[b'x'; 16_384]).expect("a body");
    let all = client.until(|frame| frame.stream == stream && frame.flags & END_STREAM != 0).expect("an answer");
    let status = all.iter().filter(|frame| frame.stream == stream).find_map(e3_tests::frames::Frame::status);
    assert_eq!(status, Some(200));
    eventually("all the others, which wait", || (upstream.open() as u32 == streams - 1).then_some(()));
}
