//! Ten thousand slow connections: all of them are closed when their time is over, and meanwhile whoever is not slow is served.

#[path = "../src/proxied.rs"]
#[allow(dead_code, reason = "its clients are for other tests")]
mod proxied;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use e3_tests::backend::{Backend, answer};
use e3_tests::client::Connection;
use e3_tests::engine_double::{Behaviour, EngineDouble};
use e3_tests::port;
use e3_tests::stack::{Relay, folder};
use proxied::TestCa;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::Semaphore;

const HOST: &str = "api.shop.example";

/// Connections that are being opened at a time, and the time that each of them takes: 2,500 a second. All at once would measure how many the kernel lets wait for
/// `accept`, before the relay sees any of them.
const OPENING: usize = 100;
const OPENED_IN: Duration = Duration::from_millis(40);

/// Time between two bytes of a slow connection.
const DRIP: Duration = Duration::from_millis(700);

/// Longest time from the last connection's opening to the end of all of them. The deadlines below come to some ten seconds.
const BOUND: Duration = Duration::from_secs(60);

/// How a connection is slow.
#[derive(Debug, Clone, Copy)]
enum Slow {
    /// In its head.
    Head,
    /// In a body that is held.
    Held,
    /// In a body that streams up.
    Streamed,
    /// In reading its answer.
    Read,
    /// In its TLS handshake.
    Tls,
}

impl Slow {
    /// Of ten connections.
    const OF_TEN: [Self; 10] = [
        Self::Head,
        Self::Held,
        Self::Head,
        Self::Streamed,
        Self::Head,
        Self::Held,
        Self::Read,
        Self::Head,
        Self::Held,
        Self::Tls,
    ];

    fn first(self) -> String {
        let post = |path: &str| {
            format!(
                "POST {path} HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: 100000\r\n\r\n{{"
            )
        };
        match self {
            Self::Head => format!("GET / HTTP/1.1\r\nHost: {HOST}\r\nX: "),
            Self::Held => post("/sealed"),
            Self::Streamed => post("/streamed"),
            Self::Read => format!("GET /large HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
            Self::Tls => "\u{16}\u{3}\u{1}\u{2}\0\u{1}".to_owned(),
        }
    }
}

/// Opens one and goes on slowly until it is closed, or forced to end.
async fn drip(slow: Slow, from: Ipv4Addr, to: SocketAddr, turns: &Semaphore, opened: &AtomicUsize, over: &AtomicBool) {
    let stream = {
        let _turn = turns.acquire().await.expect("a turn");
        let socket = TcpSocket::new_v4().expect("a socket");
        // A small window, so that an answer does not fit into it.
        socket.set_recv_buffer_size(4096).expect("a small buffer");
        socket.bind(SocketAddr::from((from, 0))).expect("an address of loopback");
        let (stream, ()) = tokio::join!(socket.connect(to), tokio::time::sleep(OPENED_IN));
        stream.expect("the relay accepts")
    };
    opened.fetch_add(1, Ordering::SeqCst);
    let (mut reader, mut writer) = stream.into_split();
    if writer.write_all(slow.first().as_bytes()).await.is_err() {
        return;
    }
    let mut byte = [0; 1];
    while !over.load(Ordering::SeqCst) {
        tokio::time::sleep(DRIP).await;
        match slow {
            // One byte at a time.
            Slow::Read => {
                if !matches!(reader.read(&mut byte).await, Ok(1)) {
                    return;
                }
            }
            _ => {
                if writer.write_all(b"x").await.is_err() {
                    return;
                }
            }
        }
    }
}

/// Answers what streams with nothing, and what is large with a mebibyte, on one thread.
fn backend() -> SocketAddr {
    let (told, address) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
            told.send(listener.local_addr().expect("an address")).expect("the test listens");
            let large = Arc::new(answer(200, "text/plain", &vec![b'x'; 1024 * 1024]));
            loop {
                let Ok((stream, _)) = listener.accept().await else { continue };
                tokio::spawn(converse(stream, Arc::clone(&large)));
            }
        });
    });
    address.recv().expect("the backend listens")
}

async fn converse(mut stream: TcpStream, large: Arc<Vec<u8>>) {
    let mut bytes = Vec::new();
    while let Ok(1..) = stream.read_buf(&mut bytes).await {
        if bytes.starts_with(b"GET /large ") && bytes.ends_with(b"\r\n\r\n") {
            bytes.clear();
            if stream.write_all(&large).await.is_err() {
                return;
            }
        }
    }
}

#[test]
fn ten_thousand_slow_connections_are_closed_in_time_and_nobody_else_waits() {
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    // Each is a file here, and one in five another one at the backend.
    let count = usize::try_from(files.saturating_sub(500) * 5 / 6).unwrap_or(usize::MAX).min(10_000);
    if count < 10_000 {
        println!("{count} connections: this process may have {files} files");
    }
    let (folder, ca, engine) = (folder(), TestCa::new(), EngineDouble::start(Behaviour::Honest));
    let (plain, secure, quick) = (port::free(), port::free(), Backend::echo());
    let site = |listen: SocketAddr, host: &str, backend: SocketAddr, more: &str| {
        format!(
            "  - listen: {listen}\n    hosts: [{host}]\n    backend: http://{backend}\n    connections: {{head_time: 3s, idle_time: 3s}}\n    \
             limits: {{body_time: 3s, stream_idle: 3s, stream_time: 4s, request_time: 5s}}\n    \
             rules: [{{match: {{path: /sealed}}, request: {{seal: [{{select: $.card, role: card}}]}}}}]\n{more}"
        )
    };
    let slow_backend = backend();
    let rules = format!(
        "engine: {{endpoints: [\"{}\"], app: shop, development: true}}\ninbound:\n{}{}{}",
        engine.endpoint(),
        site(plain, HOST, slow_backend, ""),
        site(plain, "quick.example", quick.address(), ""),
        site(secure, HOST, slow_backend, &format!("    tls: {{{}}}\n", ca.site(folder.path(), HOST))),
    );
    let relay = Relay::start_filtered(folder.path(), "relay", &rules, Some("warn"));
    relay.wait_ready();

    let (opened, over) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
    let probing = {
        let over = Arc::clone(&over);
        thread::spawn(move || {
            let mut took = Vec::new();
            while !over.load(Ordering::SeqCst) {
                let started = Instant::now();
                // A connection of its own each time: accepting is part of it.
                let mut probe = Connection::open(plain);
                probe
                    .send(b"GET / HTTP/1.1\r\nHost: quick.example\r\nConnection: close\r\n\r\n")
                    .expect("a probe is sent");
                assert_eq!(probe.answer().expect("a probe is answered").status, 200);
                took.push(started.elapsed());
                thread::sleep(Duration::from_millis(20));
            }
            took.sort();
            took
        })
    };
    let dripping = {
        let (opened, over) = (Arc::clone(&opened), Arc::clone(&over));
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let turns = Arc::new(Semaphore::new(OPENING));
                let all: Vec<_> = (0..count)
                    .map(|n| {
                        let slow = Slow::OF_TEN[n % 10];
                        let from = Ipv4Addr::new(127, 0, 0, 2 + u8::try_from(n % 20).expect("few"));
                        let to = if matches!(slow, Slow::Tls) { secure } else { plain };
                        let (turns, opened, over) = (Arc::clone(&turns), Arc::clone(&opened), Arc::clone(&over));
                        tokio::spawn(async move { drip(slow, from, to, &turns, &opened, &over).await })
                    })
                    .collect();
                for one in all {
                    one.await.expect("a slow connection");
                }
            });
        })
    };
    let started = Instant::now();
    let open = || relay.metric("e3_relay_connections{side=\"inbound\"}").unwrap_or(0.0);
    let mut most = 0.0_f64;
    while opened.load(Ordering::SeqCst) < count {
        assert!(started.elapsed() < BOUND, "{} of {count} could connect", opened.load(Ordering::SeqCst));
        most = most.max(open());
        thread::sleep(Duration::from_millis(50));
    }
    let last = Instant::now();
    // The probe's own connection, and one that is just going.
    while open() > 3.0 {
        most = most.max(open());
        assert!(last.elapsed() < BOUND, "{} connections are still open", open());
        thread::sleep(Duration::from_millis(50));
    }
    let closed = last.elapsed();
    over.store(true, Ordering::SeqCst);
    let took = probing.join().expect("every probe is answered");
    dripping.join().expect("the slow ones");
    let at = |part: f64| took[((took.len() - 1) as f64 * part) as usize];
    println!(
        "{count} slow connections opened in {:?}, {most} at once, all closed {closed:?} after the last; {} probes: p50 {:?}, p99 {:?}, most {:?}",
        last - started,
        took.len(),
        at(0.5),
        at(0.99),
        at(1.0)
    );
    assert!(took.len() >= 20, "only {} probes", took.len());
    assert_eq!(quick.requests().len(), took.len(), "the slow ones reached nobody but their own backend");
    assert!(most >= count as f64 * 0.3, "they were hardly open at the same time: {most}");
}
