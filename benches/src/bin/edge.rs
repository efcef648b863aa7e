//! The relay at the edge: TLS at its listener beside nginx's, interception beside a plain tunnel, and what idle connections keep.
//!
//! As in `journey`: the measured proxy on processor 0, load and servers on processor 1, alternating rounds, ratios round by round.
//!
//! ```text
//! cargo build --release --workspace --bins && target/release/edge [rounds] [seconds] [tls | memory | victims]
//! ```

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e3_benches::document::order;
use e3_benches::peer::{nginx_backend, nginx_tls_backend, nginx_tls_proxy};
use e3_benches::process::{Running, free_port, wait_for_port};
use e3_benches::tls::{Leaf, Way, handshakes, leaf, requests};

const PROXY_CPU: usize = 0;
const REST_CPU: usize = 1;
const CLIENTS: usize = 32;
const IDLE: usize = 10_000;
const HOST: &str = "bench.example";
/// The same server by a tunnel.
const TUNNELLED: &str = "tunnel.example";

/// A preface, empty SETTINGS, and an acknowledgement of the server's (RFC 9113 §3.4).
const HTTP2: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0\0\0\0\x04\x01\0\0\0\0";

struct System {
    relay: Running,
    plain: u16,
    secure: u16,
    proxy: u16,
    nginx: Running,
    nginx_port: u16,
    leaf: Leaf,
    authority: std::path::PathBuf,
    _servers: [Running; 2],
}

impl System {
    fn start(dir: &Path) -> Self {
        let port = || free_port().expect("a free port");
        let leaf = leaf(dir, &[HOST, TUNNELLED]);
        let (backend, secure_backend, nginx_port) = (port(), port(), port());
        let servers = [nginx_backend(dir, REST_CPU, backend), nginx_tls_backend(dir, REST_CPU, secure_backend, &leaf)];
        let nginx = nginx_tls_proxy(dir, PROXY_CPU, nginx_port, backend, &leaf);
        let authority = dir.join("relay-ca.pem");
        let made = std::process::Command::new(beside("relay"))
            .args(["ca", "init", "--certificate", &authority.display().to_string()])
            .args(["--key", &dir.join("relay-ca.key").display().to_string()])
            .output()
            .expect("relay ca init runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let (plain, secure, proxy, admin) = (port(), port(), port(), port());
        let (certificate, key) = (leaf.certificate.display(), leaf.key.display());
        let (upstream, ca) = (format!("https://127.0.0.1:{secure_backend}"), leaf.authority.display());
        let many = format!("connections: {{most: {0}, most_per_client: {0}, idle_time: 300s, h2c: true}}", 2 * IDLE);
        let rules = format!(
            "engine: {{endpoints: [\"unix://{0}/none.sock\"], app: shop, development: true}}\nthreads: 1\nadmin: {{listen: \"127.0.0.1:{admin}\"}}\n\
             ca: {{certificate: {1}, key: {0}/relay-ca.key}}\ninbound:\n\
             \x20 - {{listen: \"127.0.0.1:{plain}\", hosts: [{HOST}], backend: \"http://127.0.0.1:{backend}\", {many}}}\n\
             \x20 - {{listen: \"127.0.0.1:{secure}\", hosts: [{HOST}], backend: \"http://127.0.0.1:{backend}\", {many}, tls: {{certificate: {certificate}, key: {key}}}}}\n\
             outbound:\n  - listen: 127.0.0.1:{proxy}\n    {many}\n    destinations:\n\
             \x20     - {{host: {HOST}, upstream: \"{upstream}\", name: {HOST}, ca: {ca}, intercept: true}}\n\
             \x20     - {{host: {TUNNELLED}, upstream: \"{upstream}\", name: {TUNNELLED}, ca: {ca}, tunnel: true}}\n",
            dir.display(),
            authority.display()
        );
        let file = dir.join("relay.yaml");
        std::fs::write(&file, rules).expect("rules");
        let file = file.display().to_string();
        let upgrade = dir.join("upgrade.sock").display().to_string();
        let relay = Running::start(
            "relay",
            PROXY_CPU,
            &beside("relay"),
            &["run", "--config", &file, "--upgrade-socket", &upgrade],
        );
        wait_for_port(plain);
        Self { relay, plain, secure, proxy, nginx, nginx_port, leaf, authority, _servers: servers }
    }
}

fn beside(name: &str) -> String {
    let own = std::env::current_exe().expect("the path of this program");
    own.with_file_name(name).display().to_string()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// Puts a load on a way, and gives its rate.
type Load<'a> = &'a dyn Fn(&Way) -> f64;

/// Two ways in alternating rounds: handshakes and requests a second, the measured process's time for each, and their ratios.
fn compare(title: &str, ways: [(&str, &Way, &Running); 2], rounds: usize, time: Duration) {
    println!("\n{title}, {CLIENTS} clients, {rounds} alternating rounds of {} s\n", time.as_secs());
    println!(
        "| what | {0} | {1} | {0} ÷ {1} | CPU µs, {0} | CPU µs, {1} |\n|---|---|---|---|---|---|",
        ways[0].0, ways[1].0
    );
    let body: &'static [u8] = Box::leak(order(1024).into_boxed_slice());
    let full = |way: &Way| handshakes(way, CLIENTS, time);
    let kept = |way: &Way| requests(way, CLIENTS, time, body);
    let kinds: [(&str, Load<'_>); 2] = [("handshakes/s, one request each", &full), ("requests/s, 1 KiB", &kept)];
    for (what, load) in kinds {
        let mut rates = [Vec::new(), Vec::new()];
        let mut cpu = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            for (i, (_, way, process)) in ways.iter().enumerate() {
                let before = process.cpu();
                let rate = load(way);
                rates[i].push(rate);
                cpu[i].push((process.cpu() - before).as_secs_f64() * 1e6 / (rate * time.as_secs_f64()));
            }
        }
        let ratio = median(rates[0].iter().zip(&rates[1]).map(|(a, b)| a / b).collect());
        let [first, second] = rates.map(median);
        let [first_cpu, second_cpu] = cpu.map(median);
        println!("| {what} | {first:.0} | {second:.0} | {ratio:.2} | {first_cpu:.0} | {second_cpu:.0} |");
    }
}

/// Resident memory of each of [`IDLE`] connections that `open` makes, to a relay that has served nothing else.
fn idle<T>(name: &str, dir: &Path, open: impl Fn(&System) -> T) {
    let dir = dir.join(name.replace(|c: char| !c.is_ascii_alphanumeric(), "-"));
    std::fs::create_dir(&dir).expect("a folder");
    let system = System::start(&dir);
    // The first ones pay for what stays whatever their number.
    let few: Vec<T> = (0..64).map(|_| open(&system)).collect();
    let before = system.relay.rss_kib();
    let idle: Vec<T> = (0..IDLE).map(|_| open(&system)).collect();
    std::thread::sleep(Duration::from_millis(500));
    let after = system.relay.rss_kib();
    println!("| {name} | {:.1} |", after.saturating_sub(before) as f64 / idle.len() as f64);
    drop(few);
}

/// What an attacker does in a loop until it is told to stop.
type Attack = fn(&System, &AtomicBool);

fn no_attack(_: &System, _: &AtomicBool) {}

/// Heads that come a byte at a time, over as many connections as there may be.
fn slow_heads(system: &System, over: &AtomicBool) {
    let mut slow: Vec<TcpStream> = Vec::new();
    while !over.load(Ordering::Relaxed) {
        while slow.len() < IDLE {
            let mut stream = TcpStream::connect(("127.0.0.1", system.plain)).expect("connect");
            stream.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nx: ").expect("a head begins");
            slow.push(stream);
        }
        slow.retain_mut(|stream| stream.write_all(b"a").is_ok());
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// The same frames over and over, on a new connection whenever one is ended; what comes back is read, so that nothing waits for us.
fn flood(system: &System, over: &AtomicBool, frames: &[u8]) {
    while !over.load(Ordering::Relaxed) {
        let mut stream = TcpStream::connect(("127.0.0.1", system.plain)).expect("connect");
        stream.set_read_timeout(Some(Duration::from_millis(1))).expect("a timeout");
        let _ = stream.write_all(HTTP2);
        let mut waste = [0; 65536];
        while !over.load(Ordering::Relaxed) && stream.write_all(frames).is_ok() {
            match stream.read(&mut waste) {
                Ok(0) => break,
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => break,
            }
        }
    }
}

fn rapid_reset(system: &System, over: &AtomicBool) {
    let mut frames = Vec::new();
    for stream in (1..200u32).step_by(2) {
        let mut request = get();
        request[5..9].copy_from_slice(&stream.to_be_bytes());
        // Open, and reset at once.
        request[4] = 4;
        frames.extend(request);
        frames.extend([0, 0, 4, 3, 0]);
        frames.extend(stream.to_be_bytes());
        frames.extend(8u32.to_be_bytes());
    }
    flood(system, over, &frames);
}

fn continuations(system: &System, over: &AtomicBool) {
    let mut frames = get();
    frames[4] = 0;
    for _ in 0..64 {
        frames.extend([0, 64, 0, 9, 0, 0, 0, 0, 1]);
        // Literals of one letter each.
        frames.extend([0, 1, b'x', 1, b'y'].iter().cycle().take(16384));
    }
    flood(system, over, &frames);
}

/// 100 streams of a client that opens no window, on each of ten connections.
fn stalls(system: &System, over: &AtomicBool) {
    let mut frames = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\0".to_vec();
    for stream in (1..200u32).step_by(2) {
        let mut request = get();
        request[5..9].copy_from_slice(&stream.to_be_bytes());
        frames.extend(request);
    }
    while !over.load(Ordering::Relaxed) {
        let stalled: Vec<_> =
            (0..10).map(|_| TcpStream::connect(("127.0.0.1", system.plain)).expect("connect")).collect();
        for mut stream in &stalled {
            let _ = stream.write_all(&frames);
        }
        std::thread::sleep(Duration::from_millis(500));
    }
}

/// What another client notices of attacks: its requests' times, one after the other, and the relay's memory.
fn victims(dir: &Path, rounds: usize, time: Duration) {
    println!(
        "\nA client's requests over one connection during attacks, {rounds} alternating rounds of {} s\n\n| attack | p50 µs | p99 µs | p99 ÷ without | most memory of the relay, MiB |\n|---|---|---|---|---|",
        time.as_secs()
    );
    let attacks: [(&str, Attack); 5] = [
        ("none", no_attack),
        ("10,000 slow heads", slow_heads),
        ("rapid reset", rapid_reset),
        ("CONTINUATION flood", continuations),
        ("1,000 stalled streams", stalls),
    ];
    let mut times: Vec<(Vec<f64>, Vec<f64>, u64)> = vec![Default::default(); attacks.len()];
    for round in 0..rounds {
        for (n, (_, attack)) in attacks.iter().enumerate() {
            let dir = dir.join(format!("victim-{round}-{n}"));
            std::fs::create_dir(&dir).expect("a folder");
            let system = System::start(&dir);
            let over = AtomicBool::new(false);
            let (mut taken, memory) = std::thread::scope(|scope| {
                scope.spawn(|| {
                    // The victim shares the processor with the attacker, and is to wait for the relay alone.
                    rustix::process::nice(19).expect("a lower priority");
                    attack(&system, &over);
                });
                std::thread::sleep(Duration::from_secs(1));
                let measured = victim(&system, time);
                over.store(true, Ordering::Relaxed);
                measured
            });
            taken.sort_by(f64::total_cmp);
            let at = |part: f64| taken.get((taken.len() as f64 * part) as usize).copied().unwrap_or(f64::NAN);
            times[n].0.push(at(0.5));
            times[n].1.push(at(0.99));
            times[n].2 = times[n].2.max(memory);
        }
    }
    let without = times[0].1.clone();
    for ((name, _), (p50, p99, memory)) in attacks.iter().zip(times) {
        let ratio = median(p99.iter().zip(&without).map(|(a, b)| a / b).collect());
        println!("| {name} | {:.0} | {:.0} | {ratio:.1} | {:.0} |", median(p50), median(p99), memory as f64 / 1024.0);
    }
}

/// The times of its requests in µs, and the most memory that the relay had in KiB.
fn victim(system: &System, time: Duration) -> (Vec<f64>, u64) {
    let mut stream = TcpStream::connect(("127.0.0.1", system.plain)).expect("connect");
    stream.set_nodelay(true).expect("no delay");
    let request = format!("GET /plain HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    let (mut taken, mut memory, until) = (Vec::new(), 0, Instant::now() + time);
    let mut answer = [0; 4096];
    while Instant::now() < until {
        let started = Instant::now();
        stream.write_all(request.as_bytes()).expect("a request");
        let n = stream.read(&mut answer).expect("an answer");
        assert!(answer[..n].starts_with(b"HTTP/1.1 200"), "the victim was not served");
        taken.push(started.elapsed().as_secs_f64() * 1e6);
        if taken.len() % 256 == 0 {
            memory = memory.max(system.relay.rss_kib());
        }
    }
    (taken, memory)
}

fn idle_memory(dir: &Path) {
    println!(
        "\nResident memory of the relay for each of {IDLE} idle connections, after a request\n\n| connections | KiB |\n|---|---|"
    );
    idle("plain", dir, |system| {
        let mut stream = TcpStream::connect(("127.0.0.1", system.plain)).expect("connect");
        stream.write_all(format!("GET /plain HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes()).expect("request");
        let mut head = [0u8; 4096];
        let n = stream.read(&mut head).expect("answer");
        assert!(head[..n].starts_with(b"HTTP/1.1 200"), "an idle connection was not served");
        stream
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    idle("TLS", dir, |system| {
        runtime.block_on(async {
            let way = Way::new(system.secure, None, HOST, &system.leaf.authority, "http/1.1");
            let mut stream = way.open().await.expect("a handshake");
            way.ask(&mut stream, b"{}").await.expect("an answer");
            stream
        })
    });
    idle("TLS, HTTP/2", dir, |system| {
        runtime.block_on(async {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            let way = Way::new(system.secure, None, HOST, &system.leaf.authority, "h2");
            let mut stream = way.open().await.expect("a handshake");
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]), "HTTP/2 was not agreed on");
            stream.write_all(&[HTTP2, &get()].concat()).await.expect("a request is sent");
            // Frames up to the one that ends the stream.
            let (mut bytes, mut at) = (Vec::new(), 0);
            loop {
                while bytes.len() < at + 9 {
                    assert!(
                        stream.read_buf(&mut bytes).await.expect("a frame") > 0,
                        "an idle connection was not served"
                    );
                }
                let length = u32::from_be_bytes([0, bytes[at], bytes[at + 1], bytes[at + 2]]) as usize;
                if matches!(bytes[at + 3], 0 | 1) && bytes[at + 4] & 1 != 0 {
                    return stream;
                }
                at += 9 + length;
            }
        })
    });
}

/// A GET on stream 1 (RFC 9113 §6.2): `:method`, `:scheme` and `:path` by index, `:authority` as a literal.
fn get() -> Vec<u8> {
    let mut block = vec![0x82, 0x87, 0x84, 0x01, HOST.len() as u8];
    block.extend_from_slice(HOST.as_bytes());
    let mut frame = vec![0, 0, block.len() as u8, 1, 5, 0, 0, 0, 1];
    frame.extend(block);
    frame
}

fn main() {
    let mut args = std::env::args().skip(1).filter_map(|a| a.parse::<u64>().ok());
    let rounds = args.next().unwrap_or(5) as usize;
    let time = Duration::from_secs(args.next().unwrap_or(3));
    // The load is this process itself.
    let own = std::process::id().to_string();
    let pinned = std::process::Command::new("taskset").args(["-cp", &REST_CPU.to_string(), &own]).output();
    assert!(pinned.is_ok_and(|done| done.status.success()), "this process cannot be bound to a processor");
    let dir = tempfile::tempdir().expect("temporary folder");
    let part = std::env::args().nth(3);
    let wanted = |name: &str| part.as_deref().is_none_or(|part| part == name);
    if wanted("tls") {
        tls(dir.path(), rounds, time);
    }
    if wanted("memory") {
        idle_memory(dir.path());
    }
    if wanted("victims") {
        victims(dir.path(), rounds, time);
    }
}

fn tls(dir: &Path, rounds: usize, time: Duration) {
    let system = System::start(dir);
    let (relay, nginx) = (&system.relay, &system.nginx);
    let own = Way::new(system.secure, None, HOST, &system.leaf.authority, "http/1.1");
    let peer = Way::new(system.nginx_port, None, HOST, &system.leaf.authority, "http/1.1");
    compare("TLS at the listener, plain backend", [("relay", &own, relay), ("nginx", &peer, nginx)], rounds, time);
    let connect = |host: &str| Some(format!("{host}:443"));
    let inside = Way::new(system.proxy, connect(HOST), HOST, &system.authority, "http/1.1");
    let past = Way::new(system.proxy, connect(TUNNELLED), TUNNELLED, &system.leaf.authority, "http/1.1");
    compare("CONNECT, TLS backend", [("intercepted", &inside, relay), ("tunnel", &past, relay)], rounds, time);
}
