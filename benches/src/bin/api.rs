//! The HTTP API and the command line through a real engine with a policy: requests and values a second, and what they cost; prints Markdown.
//!
//! The relay runs on processor 0; the load and the engine share processor 1. `wrk` comes from the distribution. The binaries `relay` and `e3` are the release builds
//! beside this one.
//!
//! ```text
//! cargo build --release -p relay -p e3-enclave -p e3-benches && target/release/api [rounds] [seconds]
//! ```

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use e3_benches::document::order;
use e3_benches::peer::{Round, load, wrk_script};
use e3_benches::process::{Running, free_port, wait_for_port, wait_for_socket};

const RELAY_CPU: usize = 0;
const REST_CPU: usize = 1;
const RECORDS: usize = 200_000;

/// An engine under a policy with one API key, and a relay with an API.
struct System {
    engine: Running,
    relay: Running,
    port: u16,
    key: String,
    rules: PathBuf,
}

impl System {
    fn start(dir: &Path) -> Self {
        let socket = dir.join("e3.sock");
        let (key, hash) = api_key();
        let policy = format!(
            "version: 1\napp: shop\nroles: {{card: {{}}, email: {{deterministic: true}}}}\nprincipals: {{bench: {{api_key: '{hash}'}}}}\n\
             grants: [{{who: bench, may: [seal, seal-deterministic, keep, open, inspect, rewrap], roles: '*'}}]\ndeterministic_rate: 100000000/s\n"
        );
        std::fs::write(dir.join("policy.yaml"), policy).expect("the policy");
        let engine_config = dir.join("e3.yaml");
        let (folder, listen) = (dir.display(), socket.display());
        let engine_yaml = format!(
            "listen: [\"unix://{listen}\"]\ndevelopment: true\ncreate_apps: true\nkeyring: {folder}/keyring\nroot: {{file: {folder}/root.key}}\nthreads: 1\n\
             audit: {{file: {folder}/audit.jsonl}}\npolicy: {{file: policy.yaml}}\n"
        );
        std::fs::write(&engine_config, engine_yaml).expect("configuration of the engine");
        let engine_config = engine_config.display().to_string();
        run(&beside("e3"), &["keys", "init", "--config", &engine_config]);
        let engine = Running::start("engine", REST_CPU, &beside("e3"), &["run", "--config", &engine_config]);
        wait_for_socket(&socket);
        let (port, admin) = (free_port().expect("a free port"), free_port().expect("a free port"));
        let rules = dir.join("relay.yaml");
        let relay_yaml = format!(
            "engine: {{endpoints: [\"unix://{listen}\"], app: shop, timeout: 5s, development: true}}\nthreads: 1\nadmin: {{listen: \"127.0.0.1:{admin}\"}}\n\
             api: {{listen: \"127.0.0.1:{port}\"}}\n"
        );
        std::fs::write(&rules, relay_yaml).expect("configuration of the relay");
        let relay =
            Running::start("relay", RELAY_CPU, &beside("relay"), &["run", "--config", &rules.display().to_string()]);
        wait_for_port(port);
        Self { engine, relay, port, key, rules }
    }

    /// The body that a call answers.
    fn call(&self, target: &str, body: &[u8]) -> Vec<u8> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("connect");
        let head = format!(
            "POST {target} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.key,
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body].concat()).expect("a request");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer");
        let end = answer.windows(4).position(|end| end == b"\r\n\r\n").expect("a head") + 4;
        assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
        answer.split_off(end)
    }
}

fn api_key() -> (String, String) {
    let made = run(&beside("e3"), &["policy", "api-key"]);
    let mut lines = made.lines().map(str::to_owned);
    (lines.next().expect("a key"), lines.next().expect("its hash"))
}

fn run(program: &str, arguments: &[&str]) -> String {
    let done = Command::new(program).args(arguments).output().unwrap_or_else(|error| panic!("{program}: {error}"));
    assert!(done.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

fn beside(name: &str) -> String {
    let own = std::env::current_exe().expect("the path of this program");
    own.with_file_name(name).display().to_string()
}

/// One kind of call.
struct Subject {
    name: String,
    values: usize,
    script: PathBuf,
    rounds: Vec<Round>,
    relay_us: Vec<f64>,
    engine_us: Vec<f64>,
}

impl Subject {
    fn new(dir: &Path, system: &System, name: &str, target: &str, body: &[u8], values: usize) -> Self {
        let folder = dir.join(name.replace(' ', "-"));
        std::fs::create_dir_all(&folder).expect("a folder");
        let script = wrk_script(&folder, "bench", target, body);
        let key = format!("wrk.headers['Authorization']='Bearer {}'\n", system.key);
        let text = std::fs::read_to_string(&script).expect("the script") + &key;
        std::fs::write(&script, text).expect("the script");
        let name = format!("{name}, {} bytes", body.len());
        Self { name, values, script, rounds: Vec::new(), relay_us: Vec::new(), engine_us: Vec::new() }
    }

    fn run(&mut self, system: &System, connections: usize, seconds: u64) {
        let before = (system.relay.cpu(), system.engine.cpu());
        let round = load(REST_CPU, system.port, connections, seconds, &self.script);
        assert_eq!(round.errors, 0, "{}: answers that are not 2xx", self.name);
        let per = |after: std::time::Duration, before: std::time::Duration| {
            (after - before).as_secs_f64() * 1e6 / round.requests.max(1) as f64
        };
        self.relay_us.push(per(system.relay.cpu(), before.0));
        self.engine_us.push(per(system.engine.cpu(), before.1));
        self.rounds.push(round);
    }
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn over_http(system: &System, dir: &Path, rounds: usize, seconds: u64) {
    let card = br#"{"number":"4111111111111111","cvc":"737"}"#.to_vec();
    let order = order(1024);
    let count = |body: &[u8]| String::from_utf8_lossy(body).matches("e3v1.").count();
    let all = "/v1/seal?role=card";
    let three =
        "/v1/seal?select=%24.card.number:card&select=%24..cvc:card&select=%24.customer.email:email:deterministic";
    let (sealed_card, sealed_order, sealed_three) =
        (system.call(all, &card), system.call(all, &order), system.call(three, &order));
    for connections in [32, 1] {
        let mut subjects = [
            Subject::new(dir, system, "seal two values", all, &card, count(&sealed_card)),
            Subject::new(dir, system, "open two values", "/v1/open", &sealed_card, count(&sealed_card)),
            Subject::new(dir, system, "seal three of an order", three, &order, count(&sealed_three)),
            Subject::new(dir, system, "seal all of an order", all, &order, count(&sealed_order)),
            Subject::new(dir, system, "open all of an order", "/v1/open", &sealed_order, count(&sealed_order)),
            Subject::new(dir, system, "inspect two tokens", "/v1/inspect", &sealed_card, count(&sealed_card)),
        ];
        for _ in 0..rounds {
            for subject in &mut subjects {
                subject.run(system, connections, seconds);
            }
        }
        println!("\n{connections} connection(s), {rounds} rounds of {seconds} s, medians\n");
        println!("| call | requests/s | values/s | relay CPU µs/request | engine CPU µs/request | p50 µs | p99 µs |");
        println!("|---|---|---|---|---|---|---|");
        for subject in &subjects {
            let rate = median(subject.rounds.iter().map(|round| round.rate));
            println!(
                "| {} | {rate:.0} | {:.0} | {:.1} | {:.1} | {:.0} | {:.0} |",
                subject.name,
                rate * subject.values as f64,
                median(subject.relay_us.iter().copied()),
                median(subject.engine_us.iter().copied()),
                median(subject.rounds.iter().map(|round| round.p50_us)),
                median(subject.rounds.iter().map(|round| round.p99_us)),
            );
        }
    }
}

fn over_files(system: &System, dir: &Path, records: usize) {
    let path = |name: &str| dir.join(name).display().to_string();
    let lines: String = (0..records)
        .map(|n| format!("{{\"id\":{n},\"number\":\"4111{n:012}\",\"email\":\"user-{n}@example.org\"}}\n"))
        .collect();
    std::fs::write(path("in.ndjson"), lines).expect("the input");
    println!("\nCommand line, {records} records of two values, one run each\n\n| what | records/s |\n|---|---|");
    let rules = system.rules.display().to_string();
    let seal = ["seal", "--select", "$.number:card", "--select", "$.email:email:deterministic"];
    for (name, verb, input, output) in
        [("seal", &seal[..], "in.ndjson", "sealed.ndjson"), ("open", &["open"][..], "sealed.ndjson", "opened.ndjson")]
    {
        let (input, output) = (path(input), path(output));
        let started = Instant::now();
        let status = Command::new("taskset")
            .args(["-c", &RELAY_CPU.to_string(), &beside("relay")])
            .args(verb)
            .args(["--quiet", "--config", &rules, &input, "--output", &output])
            .env("E3_API_KEY", &system.key)
            .stdin(Stdio::null())
            .status()
            .expect("the relay runs");
        assert!(status.success(), "{name} failed");
        println!("| {name} | {:.0} |", records as f64 / started.elapsed().as_secs_f64());
    }
    let read = |name: &str| std::fs::read(path(name)).expect("an output");
    assert!(read("opened.ndjson") == read("in.ndjson"), "what comes back is not what went in");
}

fn main() {
    let mut args = std::env::args().skip(1).filter_map(|a| a.parse::<u64>().ok());
    let rounds = args.next().unwrap_or(5) as usize;
    let seconds = args.next().unwrap_or(4);
    let records = args.next().map_or(RECORDS, |records| records as usize);
    let dir = tempfile::tempdir().expect("temporary folder");
    let system = System::start(dir.path());
    over_http(&system, dir.path(), rounds, seconds);
    over_files(&system, dir.path(), records);
}
