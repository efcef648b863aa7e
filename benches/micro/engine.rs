//! Seal and open of one value, and the engine's throughput over a real Unix socket: batches of 3, 32 in flight, the engine on one core and the load
//! on the other. Build the engine first: `cargo build --release -p e3-enclave && cargo bench -p e3-benches --bench engine`.

use criterion::{Criterion, Throughput};
use e3_benches::process::{Running, wait_for_socket};
use e3_enclave::envelope::{Authentic, SealTime, Sealer};
use e3_enclave::keyring::{Keyring, RootKey, Store};
use e3_enclave::policy::{Allowed, AppRules, Asking, Moment, Policy, RoleRules, Subject, Verb};
use e3_enclave::session::Session;
use e3_wire::{
    Answer, App, Context, Direction, FRAME_HEADER, FrameHeader, FrameKind, ItemAnswer, MAX_FRAME, RequestWriter, Role,
    ValueType,
};
use std::hint::black_box;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const IN_FLIGHT: u64 = 32;
const BATCH: u64 = 3;
const VALUE: &[u8; 16] = b"4111111111111111";

fn app() -> App {
    App::parse("shop").expect("an app")
}

fn role(name: &str) -> Role {
    Role::parse(name).expect("a role")
}

fn keyring(folder: &Path) -> Keyring {
    let root = folder.join("root.key");
    std::fs::write(&root, "5a".repeat(32)).expect("a root key");
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o600)).expect("its mode");
    let store = Store::new(folder.join("keyring"), RootKey::from_file(&root).expect("a root key"));
    store.create().expect("a keyring");
    store.update(|k| k.create_app(app()).map(Some)).expect("an app's keys").0
}

fn allowed(policy: &Policy, verb: Verb, name: &str) -> Allowed {
    let context = Context::default();
    let session = Session::plain();
    let asking = Asking { proven: session.proven(), app: app(), context: &context, epoch: 1 };
    let asker = policy.asker(&asking, Moment::now().expect("a clock")).expect("an asker");
    asker.decide(verb, role(name), Subject::Role).result.expect("allowed")
}

fn one_value(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    let keyring = keyring(folder.path());
    let roles = [("card-number", false), ("email", true)]
        .map(|(r, deterministic)| (role(r), RoleRules { deterministic, ..RoleRules::default() }));
    let policy = Policy::declared([(app(), AppRules::new(roles.into(), u32::MAX))].into(), false);
    let mut sealer = Sealer::new(&keyring, SealTime::now().expect("a clock"));
    let mut out = Vec::with_capacity(1024);
    let mut group = c.benchmark_group("engine");
    for (name, verb, role) in
        [("seal 16 B", Verb::Seal, "card-number"), ("seal deterministic 16 B", Verb::SealDeterministic, "email")]
    {
        let allowed = allowed(&policy, verb, role);
        group.bench_function(name, |b| {
            b.iter(|| {
                out.clear();
                sealer.seal(&allowed, ValueType::String, black_box(VALUE), &mut out).expect("a token");
            });
        });
    }
    out.clear();
    sealer.seal(&allowed(&policy, Verb::Seal, "card-number"), ValueType::String, VALUE, &mut out).expect("a token");
    group.bench_function("open 16 B", |b| {
        b.iter(|| Authentic::read(&keyring, app(), black_box(&out)).expect("a genuine token"));
    });
    group.finish();
}

/// A relay that keeps its requests in flight, on a blocking socket.
struct Load {
    stream: UnixStream,
    frame: Vec<u8>,
    input: Vec<u8>,
    start: usize,
    in_flight: u64,
}

impl Load {
    fn new(socket: &Path, body: &[u8]) -> Self {
        let header = FrameHeader { kind: FrameKind::Request, id: 7, body: body.len() }.to_bytes().expect("a header");
        let stream = UnixStream::connect(socket).expect("the engine");
        Self { stream, frame: [&header[..], body].concat(), input: Vec::new(), start: 0, in_flight: IN_FLIGHT }
    }

    fn send(&mut self, n: u64) {
        let frames = self.frame.repeat(n as usize);
        self.stream.write_all(&frames).expect("the engine reads");
    }

    /// Waits for answers; checks each and counts them.
    fn receive(&mut self) -> u64 {
        let mut chunk = [0; 64 * 1024];
        let n = self.stream.read(&mut chunk).expect("the engine answers");
        assert!(n > 0, "the engine left");
        self.input.extend_from_slice(&chunk[..n]);
        let mut answers = 0;
        while let Some(head) = self.input[self.start..].first_chunk::<FRAME_HEADER>() {
            let header = FrameHeader::parse(head, MAX_FRAME).expect("a frame");
            let end = self.start + FRAME_HEADER + header.body;
            let Some(body) = self.input.get(self.start + FRAME_HEADER..end) else { break };
            let Ok(Answer::Items(items)) = Answer::read(body) else { panic!("refused") };
            assert!(items.len() == BATCH as usize);
            assert!(items.iter().all(|i| matches!(i, ItemAnswer::Token(_) | ItemAnswer::Value { .. })));
            self.start = end;
            answers += 1;
        }
        self.input.drain(..self.start);
        self.start = 0;
        answers
    }

    fn run(&mut self, requests: u64) -> Duration {
        let begun = Instant::now();
        let (mut sent, mut answered) = (requests.min(self.in_flight), 0);
        self.send(sent);
        while answered < requests {
            let n = self.receive();
            answered += n;
            let more = n.min(requests - sent);
            if more > 0 {
                self.send(more);
                sent += more;
            }
        }
        begun.elapsed()
    }
}

fn program() -> PathBuf {
    let deps = std::env::current_exe().expect("this program");
    let program = deps.ancestors().nth(2).expect("the target folder").join("e3");
    assert!(program.exists(), "build the engine first: cargo build --release -p e3-enclave");
    program
}

/// What an answer costs that has to be recorded: to a file, synced, ÷ to a device that keeps nothing, alternating.
fn audit(_: &mut Criterion) {
    const ROUNDS: u32 = 3;
    const REQUESTS: u64 = 20_000;
    let folder = tempfile::tempdir().expect("a folder");
    drop(keyring(folder.path()));
    let start = |name: &str, sink: &str| {
        let socket = folder.path().join(format!("{name}.sock"));
        let config = format!(
            "development: true\nlisten: [\"unix://{}\"]\nkeyring: keyring\nroot: {{file: root.key}}\naudit: {{file: {sink}}}\n\
             threads: 1\napps: {{shop: {{roles: {{card-number: {{}}}}}}}}\n",
            socket.display()
        );
        let path = folder.path().join(format!("{name}.yaml"));
        std::fs::write(&path, config).expect("a configuration");
        let arguments = ["run", "--config", &path.to_string_lossy()];
        let engine = Running::start("e3", 0, &program().to_string_lossy(), &arguments);
        wait_for_socket(&socket);
        (engine, socket)
    };
    let ((_file, to_file), (_null, to_null)) = (start("file", "audit.jsonl"), start("null", "/dev/null"));
    for in_flight in [32, 256] {
        let mut rates = [0.0; 2];
        for _ in 0..ROUNDS {
            for (rate, socket) in rates.iter_mut().zip([&to_file, &to_null]) {
                let mut open = RequestWriter::new(app(), &context(), 0);
                for token in tokens(socket, &seals()) {
                    open.open(&[role("card-number")], &token).expect("room");
                }
                let mut load = Load::new(socket, &open.finish(10_000));
                load.in_flight = in_flight;
                load.run(REQUESTS / 10);
                *rate += (REQUESTS * BATCH) as f64 / load.run(REQUESTS).as_secs_f64() / f64::from(ROUNDS);
            }
        }
        let [file, null] = rates;
        println!(
            "audit, {in_flight} in flight: {file:.0} opens/s to a file, {null:.0} to /dev/null, ratio {:.2}",
            file / null
        );
    }
}

fn context() -> Context<'static> {
    Context {
        request_id: "r-1",
        direction: Direction::OutboundRequest,
        destination: "api.pay.example",
        source: "203.0.113.9",
        method: "POST",
        credential: e3_wire::Credential::default(),
    }
}

/// A request of one batch of seals.
fn seals() -> Vec<u8> {
    let mut seal = RequestWriter::new(app(), &context(), 0);
    for _ in 0..BATCH {
        seal.seal(role("card-number"), ValueType::String, VALUE, false).expect("room");
    }
    seal.finish(10_000)
}

fn throughput(c: &mut Criterion) {
    let folder = tempfile::tempdir().expect("a folder");
    drop(keyring(folder.path()));
    let socket = folder.path().join("e3.sock");
    let config = format!(
        "development: true\nlisten: [\"unix://{}\"]\nkeyring: keyring\nroot: {{file: root.key}}\naudit: {{file: audit.jsonl}}\n\
         threads: 1\napps: {{shop: {{roles: {{card-number: {{}}}}}}}}\n",
        socket.display()
    );
    let path = folder.path().join("e3.yaml");
    std::fs::write(&path, config).expect("a configuration");
    let program = program();
    let engine = Running::start("e3", 0, &program.to_string_lossy(), &["run", "--config", &path.to_string_lossy()]);
    wait_for_socket(&socket);

    let body = seals();
    let mut open = RequestWriter::new(app(), &context(), 0);
    for token in tokens(&socket, &body) {
        open.open(&[role("card-number")], &token).expect("room");
    }
    let mut group = c.benchmark_group("server");
    group.throughput(Throughput::Elements(BATCH));
    let mut load = Load::new(&socket, &body);
    let cpu = engine.cpu();
    let mut sealed = 0;
    group.bench_function("seal, batches of 3, 32 in flight", |b| {
        b.iter_custom(|n| {
            sealed += n;
            load.run(n)
        });
    });
    println!("engine CPU per batch of 3 seals: {:?}", (engine.cpu() - cpu).div_f64(sealed as f64));
    let mut load = Load::new(&socket, &open.finish(10_000));
    group.bench_function("open with audit, batches of 3, 32 in flight", |b| b.iter_custom(|n| load.run(n)));
    group.finish();
    println!("engine RSS: {} KiB", engine.rss_kib());
}

/// Three tokens of the engine's own.
fn tokens(socket: &Path, body: &[u8]) -> Vec<Vec<u8>> {
    let mut load = Load::new(socket, body);
    load.send(1);
    let mut head = [0; FRAME_HEADER];
    load.stream.read_exact(&mut head).expect("an answer");
    let mut answer = vec![0; FrameHeader::parse(&head, MAX_FRAME).expect("a frame").body];
    load.stream.read_exact(&mut answer).expect("an answer");
    let Ok(Answer::Items(items)) = Answer::read(&answer) else { panic!("refused") };
    let token = |i: ItemAnswer<'_>| if let ItemAnswer::Token(t) = i { t.to_vec() } else { panic!("no token") };
    items.into_iter().map(token).collect()
}

fn main() {
    let mut c = Criterion::default().configure_from_args();
    one_value(&mut c);
    throughput(&mut c);
    audit(&mut c);
    c.final_summary();
}
