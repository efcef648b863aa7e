//! The whole system beside nginx, in alternating rounds of one run; prints medians and ratios as Markdown.
//!
//! The measured proxy runs on processor 0; the load, the backend and the engine share processor 1. `nginx` and `wrk` come from the
//! distribution. The binaries `relay` and `e3` are the release builds beside this one.
//!
//! ```text
//! cargo build --release -p relay -p e3-enclave -p e3-benches && target/release/journey [rounds] [seconds]
//! ```

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use e3_benches::document::order;
use e3_benches::peer::{Round, load, nginx_backend, nginx_proxy, wrk_script};
use e3_benches::process::{Running, free_port, wait_for_port, wait_for_socket};

const PROXY_CPU: usize = 0;
const REST_CPU: usize = 1;
const CONNECTIONS: usize = 32;
const IDLE: usize = 1000;

struct System {
    nginx: Running,
    nginx_port: u16,
    relay: Running,
    relay_port: u16,
    engine: Running,
    _backend: Running,
}

impl System {
    fn start(dir: &Path) -> Self {
        let backend_port = free_port().expect("a free port");
        let backend = nginx_backend(dir, REST_CPU, backend_port);
        let nginx_port = free_port().expect("a free port");
        let nginx = nginx_proxy(dir, PROXY_CPU, nginx_port, backend_port);
        let socket = dir.join("e3.sock");
        let engine_config = dir.join("e3.yaml");
        std::fs::write(&engine_config, engine_yaml(dir, &socket)).expect("configuration of the engine");
        keys_init(&engine_config);
        let engine_config = engine_config.display().to_string();
        let engine = Running::start("engine", REST_CPU, &beside("e3"), &["run", "--config", &engine_config]);
        wait_for_socket(&socket);
        let relay_port = free_port().expect("a free port");
        let relay_config = dir.join("relay.yaml");
        std::fs::write(&relay_config, relay_yaml(&socket, relay_port, backend_port))
            .expect("configuration of the relay");
        let relay_config = relay_config.display().to_string();
        let relay = Running::start("relay", PROXY_CPU, &beside("relay"), &["run", "--config", &relay_config]);
        wait_for_port(relay_port);
        Self { nginx, nginx_port, relay, relay_port, engine, _backend: backend }
    }
}

fn engine_yaml(dir: &Path, socket: &Path) -> String {
    let (dir, socket) = (dir.display(), socket.display());
    format!(
        "listen: [\"unix://{socket}\"]\ndevelopment: true\ncreate_apps: true\nkeyring: {dir}/keyring\nroot: {{file: {dir}/root.key}}\nthreads: 1\n\
         audit: {{file: {dir}/audit.jsonl}}\napps:\n  shop:\n    roles: {{card-number: {{}}, card-cvc: {{}}, email: {{}}}}\n"
    )
}

fn keys_init(config: &Path) {
    let status = std::process::Command::new(beside("e3"))
        .args(["keys", "init", "--config", &config.display().to_string()])
        .stdout(std::process::Stdio::null())
        .status()
        .expect("e3 keys init runs");
    assert!(status.success(), "e3 keys init failed");
}

fn relay_yaml(socket: &Path, port: u16, backend: u16) -> String {
    let socket = socket.display();
    let admin = free_port().expect("a free port");
    format!(
        "engine: {{endpoints: [\"unix://{socket}\"], app: shop, timeout: 2s, development: true}}\nthreads: 1\nadmin: {{listen: \"127.0.0.1:{admin}\"}}\n\
         inbound:\n  - listen: 127.0.0.1:{port}\n    hosts: [bench.example]\n    backend: http://127.0.0.1:{backend}\n    rules:\n\
         \x20     - match: {{methods: [POST], path: /ruled/**}}\n        request:\n          seal:\n\
         \x20           - {{select: $.card.number, role: card-number}}\n            - {{select: \"$..cvc\", role: card-cvc}}\n\
         \x20           - {{select: $.customer.email, role: email}}\n"
    )
}

fn beside(name: &str) -> String {
    let own = std::env::current_exe().expect("the path of this program");
    own.with_file_name(name).display().to_string()
}

/// What one subject did in all its rounds.
struct Subject {
    name: &'static str,
    port: u16,
    script: PathBuf,
    rounds: Vec<Round>,
    proxy_us: Vec<f64>,
    engine_us: Vec<f64>,
}

impl Subject {
    fn new(name: &'static str, port: u16, script: &Path) -> Self {
        let script = script.to_path_buf();
        Self { name, port, script, rounds: Vec::new(), proxy_us: Vec::new(), engine_us: Vec::new() }
    }

    fn run(&mut self, proxy: &Running, engine: &Running, connections: usize, seconds: u64) {
        let before = (proxy.cpu(), engine.cpu());
        let round = load(REST_CPU, self.port, connections, seconds, &self.script);
        assert_eq!(round.errors, 0, "{}: answers that are not 2xx", self.name);
        let per = |after: std::time::Duration, before: std::time::Duration| {
            (after - before).as_secs_f64() * 1e6 / round.requests.max(1) as f64
        };
        self.proxy_us.push(per(proxy.cpu(), before.0));
        self.engine_us.push(per(engine.cpu(), before.1));
        self.rounds.push(round);
    }
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn compare(system: &System, dir: &Path, size: usize, rounds: usize, seconds: u64) {
    let body = order(size);
    let plain = wrk_script(dir, "bench.example", "/plain/orders", &body);
    let ruled = wrk_script(dir, "bench.example", "/ruled/orders", &body);
    for connections in [CONNECTIONS, 1] {
        let mut subjects = [
            Subject::new("nginx pass-through", system.nginx_port, &plain),
            Subject::new("relay, unruled", system.relay_port, &plain),
            Subject::new("relay, three fields sealed", system.relay_port, &ruled),
        ];
        for _ in 0..rounds {
            for (i, subject) in subjects.iter_mut().enumerate() {
                let proxy = if i == 0 { &system.nginx } else { &system.relay };
                subject.run(proxy, &system.engine, connections, seconds);
            }
        }
        println!("\n{size} bytes, {connections} connection(s), {rounds} alternating rounds of {seconds} s\n");
        println!(
            "| subject | requests/s | ÷ nginx | proxy CPU µs/request | ÷ nginx | engine CPU µs/request | p50 µs | p99 µs |"
        );
        println!("|---|---|---|---|---|---|---|---|");
        let [nginx, ..] = &subjects;
        for subject in &subjects {
            // Ratios are taken round by round: the machine's speed drifts, and a round's neighbours drift with it.
            let pairs = |a: &[f64], b: &[f64]| median(a.iter().zip(b).map(|(a, b)| a / b));
            let rates = |s: &Subject| s.rounds.iter().map(|r| r.rate).collect::<Vec<_>>();
            println!(
                "| {} | {:.0} | {:.2} | {:.1} | {:.2} | {:.1} | {:.0} | {:.0} |",
                subject.name,
                median(rates(subject)),
                pairs(&rates(subject), &rates(nginx)),
                median(subject.proxy_us.iter().copied()),
                pairs(&subject.proxy_us, &nginx.proxy_us),
                median(subject.engine_us.iter().copied()),
                median(subject.rounds.iter().map(|r| r.p50_us)),
                median(subject.rounds.iter().map(|r| r.p99_us)),
            );
        }
    }
}

/// Resident memory that each idle keepalive connection costs, after one answered request on it.
fn idle_memory(system: &System) {
    println!("\nResident memory for each of {IDLE} idle connections\n\n| subject | KiB |\n|---|---|");
    for (name, process, port) in
        [("nginx", &system.nginx, system.nginx_port), ("relay", &system.relay, system.relay_port)]
    {
        let before = process.rss_kib();
        let idle: Vec<TcpStream> = (0..IDLE).map(|_| idle_connection(port)).collect();
        let after = process.rss_kib();
        println!("| {name} | {:.1} |", (after.saturating_sub(before)) as f64 / idle.len() as f64);
    }
}

fn idle_connection(port: u16) -> TcpStream {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connect");
    stream.write_all(b"GET /plain HTTP/1.1\r\nHost: bench.example\r\n\r\n").expect("request");
    let mut head = [0u8; 4096];
    let n = stream.read(&mut head).expect("answer");
    assert!(head[..n].starts_with(b"HTTP/1.1 200"), "idle connection was not served");
    stream
}

fn main() {
    let mut args = std::env::args().skip(1).filter_map(|a| a.parse::<u64>().ok());
    let rounds = args.next().unwrap_or(5) as usize;
    let seconds = args.next().unwrap_or(4);
    let dir = tempfile::tempdir().expect("temporary folder");
    let system = System::start(dir.path());
    idle_memory(&system);
    for size in [1024, 16 * 1024] {
        compare(&system, dir.path(), size, rounds, seconds);
    }
}
