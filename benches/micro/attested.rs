//! What attestation costs: the handshake with its verification, and requests over attested TLS beside the same over a plain Unix socket, through the real engine.
//!
//! `cargo bench -p e3-benches --bench attested`. The engine runs on processor 1, its client on processor 0; rounds alternate, ratios are of the same round.

use e3_attest::make::{Authority, Content};
use e3_attest::{ExpectedNonce, KeyringState, Pcr, PcrSet, PcrSets, Request, State, Verifier};
use e3_enclave::audit::Alarm;
use e3_enclave::config::{Config, Rules};
use e3_enclave::keyring::{Live, RootKey, Store};
use e3_enclave::policy::live::Live as LivePolicy;
use e3_enclave::serve::link::{Development, Link, stated};
use e3_enclave::serve::{self, Settings};
use e3_link::attested::Attester;
use e3_link::attested::certificate::LinkKey;
use e3_link::attested::engine::EngineTls;
use e3_link::attested::memory::{Memory, Seen};
use e3_link::attested::relay::RelayTls;
use e3_link::{Client, ClientOptions, Endpoint, Security, Stream};
use e3_wire::{Answer, App, Context, Direction, RequestWriter, Role, ValueType};
use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};
use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio::net::UnixStream;
use tokio::task::LocalSet;
use tokio::time::Instant;

const HANDSHAKES: u32 = 300;
const ROUNDS: usize = 9;
const IN_FLIGHT: u64 = 32;
/// Values in a small request.
const BATCH: usize = 3;
const SMALL: &[u8] = b"4111111111111111";
/// Bytes of a large value.
const LARGE: usize = 256 * 1024;
const HOUR: Duration = Duration::from_secs(3600);

struct Module(Authority);

impl Module {
    fn new() -> Arc<Self> {
        Arc::new(Self(Authority::new(SystemTime::now(), HOUR).expect("an authority")))
    }

    fn verifier(&self) -> Verifier {
        Verifier::with_test_root(self.0.root()).expect("a root")
    }

    fn accepted() -> PcrSets {
        let set = PcrSet::new((0..3).map(|index| (index, Pcr::new([index + 1; 48])))).expect("a set");
        PcrSets::new([set]).expect("sets")
    }
}

impl Attester for Module {
    fn document(&self, request: &Request) -> Option<Vec<u8>> {
        let pcrs = (0..3).map(|index| (index, Pcr::new([index + 1; 48])));
        self.0.sign(&Content::new(SystemTime::now(), pcrs, request.clone())).ok()
    }
}

fn pin(processor: usize) {
    let mut set = CpuSet::new();
    set.set(processor);
    sched_setaffinity(None, &set).expect("a processor");
}

fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn relay_tls(module: &Module, key: &LinkKey) -> RelayTls {
    let memory = Arc::new(Memory::new(None, std::iter::empty::<(_, Seen)>().collect()));
    RelayTls::new(key, module.verifier(), Module::accepted(), memory).expect("a side of TLS")
}

/// Both sides on one thread: the sum is what it costs two machines.
fn handshakes() {
    let module = Module::new();
    let key = LinkKey::generate().expect("a key");
    let state = State { keyring: Some(KeyringState { epoch: 1, id: [7; 16] }), ..State::default() };
    let attester: Arc<dyn Attester> = Arc::clone(&module) as _;
    let engine = EngineTls::new(attester, HashSet::from([key.hash()]), state).expect("a side of TLS");
    let relay = relay_tls(&module, &key);
    let document = module.document(&Request::default()).expect("a document");
    let verifier = module.verifier();
    let begun = thread_time();
    for _ in 0..HANDSHAKES {
        verifier.authenticate(&document, ExpectedNonce::Absent, SystemTime::now()).expect("a genuine document");
    }
    let verifying = (thread_time() - begun) / HANDSHAKES;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let begun = thread_time();
    runtime.block_on(async {
        for _ in 0..HANDSHAKES {
            let (one, two) = UnixStream::pair().expect("a pair");
            let (accepted, connected) =
                tokio::join!(engine.accept(Stream::from(one)), relay.connect(Stream::from(two)));
            assert!(accepted.is_some() && connected.is_ok(), "no session");
        }
    });
    let both = (thread_time() - begun) / HANDSHAKES;
    println!("verification of a document: {verifying:?} of CPU");
    println!("handshake, both sides, verification included: {both:?} of CPU (aim 2 ms)");
}

/// An engine in this process, on a processor of its own, over this link.
fn engine(folder: &Path, module: Option<(&Arc<Module>, [u8; 32])>) -> Endpoint {
    fs::create_dir(folder).expect("a folder");
    let config = folder.join("e3.yaml");
    let socket = folder.join("e3.sock");
    let text = format!(
        "development: true\nlisten: [\"unix://{}\"]\nkeyring: keyring\nroot: {{env: E3_ROOT}}\naudit: {{file: audit.jsonl}}\n\
         apps: {{shop: {{roles: {{card-number: {{}}}}}}}}\n",
        socket.display()
    );
    fs::write(&config, text).expect("a configuration");
    let config = Config::load(&config).expect("a good configuration");
    let root = || {
        let file = folder.join("root.key");
        if !file.exists() {
            fs::write(&file, "07".repeat(32)).expect("a root key");
            fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).expect("its mode");
        }
        RootKey::from_file(&file).expect("a root key")
    };
    Store::new(config.keyring.clone(), root()).create().expect("a keyring");
    let live = Live::open(Store::new(config.keyring.clone(), root())).expect("the keyring");
    live.create_app(App::parse("shop").expect("an app")).expect("keys");
    let link = match module {
        None => Link::Plain(Development::allowed(&config).expect("development")),
        Some((module, relay)) => {
            let attester: Arc<dyn Attester> = Arc::clone(module) as _;
            Link::attested(attester, HashSet::from([relay]), module.verifier(), stated(&live.current()))
                .expect("a link")
        }
    };
    let audit = config.audit.open(true).expect("an audit");
    let settings = Settings {
        listen: config.listen,
        socket_mode: 0o600,
        policy: Arc::new(match config.policy {
            Rules::Declared(policy) => LivePolicy::fixed(policy),
            Rules::Policy { .. } => panic!("roles are declared here"),
        }),
        create_apps: false,
        limits: config.limits,
        threads: std::num::NonZeroUsize::new(1),
        health: None,
        roots: None,
        admitted: e3_link::attested::engine::Admitted::default(),
        seals: config.audit.seals,
        alarm: Alarm::default(),
    };
    std::thread::spawn(move || {
        pin(1);
        serve::run(settings, live, audit, link).expect("an engine");
    });
    while std::os::unix::net::UnixStream::connect(&socket).is_err() {
        std::thread::sleep(Duration::from_millis(5));
    }
    format!("unix://{}", socket.display()).parse().expect("an endpoint")
}

async fn ask(client: Client, calls: u64, value: Arc<[u8]>, items: usize) {
    let context = Context {
        request_id: "5f0c8e2ab61d4c3900000001",
        direction: Direction::InboundRequest,
        destination: "api.shop.example",
        source: "203.0.113.9",
        method: "POST",
        credential: e3_wire::Credential::default(),
    };
    for _ in 0..calls {
        let mut request = RequestWriter::new(App::parse("shop").expect("an app"), &context, 0);
        for _ in 0..items {
            request.seal(Role::parse("card-number").expect("a role"), ValueType::String, &value, false).expect("room");
        }
        let frame = client.call(request, Instant::now() + Duration::from_secs(10)).await.expect("an answer");
        assert!(matches!(frame.answer(), Ok(Answer::Items(answered)) if answered.len() == items));
    }
}

/// Requests a second.
fn rate(runtime: &tokio::runtime::Runtime, client: &Client, calls: u64, value: &Arc<[u8]>, items: usize) -> f64 {
    let begun = Instant::now();
    runtime.block_on(async {
        let tasks = LocalSet::new();
        for _ in 0..IN_FLIGHT {
            tasks.spawn_local(ask(client.clone(), calls / IN_FLIGHT, Arc::clone(value), items));
        }
        tasks.await;
    });
    (calls / IN_FLIGHT * IN_FLIGHT) as f64 / begun.elapsed().as_secs_f64()
}

fn links() {
    let folder = tempfile::tempdir().expect("a folder");
    let module = Module::new();
    let key = LinkKey::generate().expect("a key");
    let plain = engine(&folder.path().join("plain"), None);
    let attested = engine(&folder.path().join("attested"), Some((&module, key.hash())));
    let plain = Client::new(vec![plain], Security::Plain, ClientOptions::default());
    let security = Security::Attested(Arc::new(relay_tls(&module, &key)));
    let attested = Client::new(vec![attested], security, ClientOptions::default());
    pin(0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for (name, value, items, calls) in [
        ("seal, batches of 3, 32 in flight", Arc::from(SMALL), BATCH, 32_000),
        ("seal, values of 256 KiB, 32 in flight", Arc::from(vec![b'v'; LARGE]), 1, 640),
    ] {
        let (mut of_plain, mut of_attested, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let one = rate(&runtime, &plain, calls, &value, items);
            let two = rate(&runtime, &attested, calls, &value, items);
            of_plain.push(one);
            of_attested.push(two);
            ratios.push(two / one);
        }
        println!(
            "{name}: plain {:.0}/s, attested {:.0}/s, ratio {:.2} (aim 0.8)",
            median(&mut of_plain),
            median(&mut of_attested),
            median(&mut ratios)
        );
    }
}

fn main() {
    handshakes();
    links();
    // The engines end with the process.
}
