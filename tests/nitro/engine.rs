//! The engine in its image, on an emulated Nitro machine: a real host program beside it, a KMS that verifies documents behind that, real relays in front. Run by
//! `tests/nitro/run`.

#[allow(dead_code, reason = "these tests need less of it than others")]
#[path = "../src/kms_double/mod.rs"]
mod kms_double;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use e3_attest::Pcr;
use e3_attest::make::Authority;
use e3_tests::backend::Backend;
use e3_tests::client::{get, json_request, once};
use e3_tests::host::{Host, MetadataService};
use e3_tests::nitro::{Enclave, Image, Instance, Machine};
use e3_tests::process::Program;
use e3_tests::shop::{payment_provider, shop_backend};
use e3_tests::stack::{Relay, folder};
use e3_tests::{eventually, port};
use kms_double::{ACCOUNT, KeyPolicy, KmsThatVerifies};

const SHOP: &str = "api.shop.example";
const PROVIDER: &str = "api.pay.example";
const NUMBER: &str = "4242424242424242";
const ORDER: &str = r#"{"item":"Difference Engine","amount":1.10,"card":{"number":"4242424242424242","cvc":"987"}}"#;
const KEY: &str = "1234abcd-12ab-34cd-56ef-1234567890ab";

/// Where the engine listens.
const PORT: u32 = 7003;

/// What all tests share: an authority that signs for every machine, a KMS, the keys of a relay and of an administrator, and the image that knows them.
struct Site {
    authority: Authority,
    kms: KmsThatVerifies,
    /// The KMS key.
    arn: String,
    folder: PathBuf,
    image: Image,
}

static SITE: LazyLock<Site> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder").keep();
    let authority = Authority::new(SystemTime::now(), Duration::from_secs(3 * 3600)).expect("an authority");
    let kms = KmsThatVerifies::start(authority.root(), kms_double::HOST);
    let new = |program: Program, verb: &str, name: &str| {
        let file = folder.join(name);
        let made = program.output([verb.as_ref(), "new".as_ref(), file.as_os_str()]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        String::from_utf8(made.stdout).expect("text").trim().to_owned()
    };
    let (relay, admin) = (new(Program::Relay, "key", "relay.key"), new(Program::E3, "admin-key", "admin.pem"));
    fs::write(folder.join("relay.key.root"), authority.root()).expect("the root is written");
    let arn = kms.key(ACCOUNT, KEY, KeyPolicy::default());
    let role = serde_json::json!({});
    let inputs = serde_json::json!({
        "environment": "test",
        "kms": {"key": arn, "host": kms_double::HOST, "roots": kms.roots()},
        "relays": [relay],
        "admins": [admin],
        "apps": {"shop": {"roles": {"card-number": role, "card-cvc": role, "receipt": role}}},
    });
    fs::write(folder.join("inputs.json"), inputs.to_string()).expect("the inputs are written");
    let image = Image::build(&folder, None, Some(&folder.join("inputs.json")));
    Site { authority, kms, arn, folder, image }
});

impl Site {
    /// The image's registers, as its build wrote them for programs; PCR0 is that of another image where `wrong`.
    fn pcrs(&self, wrong: bool) -> String {
        let written = fs::read_to_string(format!("{}.pcrs.json", self.image.path.display())).expect("the registers");
        let pcr0 = self.image.pcrs[&0].to_string();
        assert!(written.contains(&pcr0), "{written}");
        if wrong {
            written.replace(&pcr0, &"ab".repeat(48)).trim_end().to_owned()
        } else {
            written.trim_end().to_owned()
        }
    }

    /// The key's policy: for the image with this PCR0 alone.
    fn allow(&self, pcr0: Pcr) {
        let only = |name: &str, value: &str| (name.to_owned(), vec![value.to_owned()]);
        let context = [only("e3:purpose", "root"), only("e3:environment", "test"), only("e3:root-version", "1")];
        let policy = KeyPolicy { pcrs: Some(BTreeMap::from([(0, pcr0)])), context: BTreeMap::from(context) };
        let _: String = self.kms.key(ACCOUNT, KEY, policy);
    }
}

/// A file with these registers, as programs for tests take it: with the root of trust beside it.
fn expected(folder: &Path, pcrs: &str) -> PathBuf {
    let file = folder.join("expected.json");
    fs::write(&file, pcrs).expect("the registers are written");
    fs::write(folder.join("expected.json.root"), SITE.authority.root()).expect("the root is written");
    file
}

/// A parent instance: its host program, its metadata service, and room for an enclave.
struct Parent {
    host: Host,
    _metadata: MetadataService,
    instance: Instance,
    folder: tempfile::TempDir,
}

impl Parent {
    fn start() -> Self {
        Self::start_in(folder())
    }

    /// Another parent instance, with a copy of this one's wrapped keys.
    fn beside(first: &Self) -> Self {
        let folder = folder();
        let blobs = folder.path().join("blobs");
        fs::create_dir(&blobs).expect("a folder for the store");
        fs::set_permissions(&blobs, fs::Permissions::from_mode(0o700)).expect("permissions of the store");
        for blob in ["keyring", "root"] {
            fs::copy(first.host.file("blobs").join(blob), blobs.join(blob)).expect("a wrapped blob");
        }
        Self::start_in(folder)
    }

    fn start_in(folder: tempfile::TempDir) -> Self {
        let (instance, metadata) = (Instance::new(), MetadataService::start());
        metadata.give("AKIDTEST", "secret", "token", "2099-01-01T00:00:00Z");
        let host = Host::start_with(folder.path(), SITE.kms.address(), metadata.address(), instance.services(), "");
        Self { host, _metadata: metadata, instance, folder }
    }

    /// Has the engine make a keyring and the app's keys, as an administrator does, and waits until it serves.
    fn make_keys(&self) {
        SITE.allow(SITE.image.pcrs[&0]);
        let pcrs = expected(self.folder.path(), &SITE.pcrs(false));
        let keys = |command: &[&str]| {
            let (endpoint, admin) = (self.instance.endpoint(PORT), SITE.folder.join("admin.pem"));
            let at = ["--engine".as_ref(), endpoint.as_ref(), "--admin-key".as_ref(), admin.as_os_str()];
            let at = at.into_iter().chain(["--pcrs".as_ref(), pcrs.as_os_str()]);
            let words = ["keys"].iter().chain(command).map(std::ffi::OsStr::new);
            let told = Program::E3.output(words.chain(at));
            assert!(told.status.success(), "{command:?}: {}", String::from_utf8_lossy(&told.stderr));
        };
        keys(&["init", "--kms", &SITE.arn]);
        eventually("an engine that serves", || (self.host.page("/readyz").0 == 200).then_some(()));
        keys(&["create-app", "shop"]);
    }

    /// Boots the engine and waits until its host hears that it is in this state.
    fn boot(&mut self, state: &str) -> Machine {
        let mut enclave = Enclave::new(&SITE.image, Some(&SITE.authority));
        enclave.memory_mib = 512;
        // The host logs each change; its page may still tell of the machine before.
        let (host, state_is) = (&self.host, format!("state=\"{state}\""));
        let told = || host.log().matches(&state_is).count();
        let before = told();
        let machine = self.instance.boot_until(&enclave, || told() > before);
        println!("booted to {state} in {:.1} s", machine.booted_in.as_secs_f64());
        machine
    }

    fn relay(&self, name: &str, pcrs: &str, sites: &str) -> Relay {
        self.relay_to(&[&self.instance], name, pcrs, sites)
    }

    fn relay_to(&self, instances: &[&Instance], name: &str, pcrs: &str, sites: &str) -> Relay {
        let endpoints: Vec<String> = instances.iter().map(|at| format!("\"{}\"", at.endpoint(PORT))).collect();
        let rules = format!(
            "engine: {{endpoints: [{}], app: shop, timeout: 5s, attestation: {pcrs}, key: {}, seen: {}}}\n{sites}",
            endpoints.join(", "),
            SITE.folder.join("relay.key").display(),
            self.folder.path().join(format!("{name}.seen")).display(),
        );
        Relay::start(self.folder.path(), name, &rules)
    }
}

/// A site in front of `backend` that seals an order's card.
fn sealing(listen: SocketAddr, backend: &Backend) -> String {
    format!(
        "inbound:\n  - listen: {listen}\n    hosts: [{SHOP}]\n    backend: http://{}\n    rules:\n      - match: {{methods: [POST], path: /v1/orders}}\n        \
         request: {{seal: [{{select: $.card.number, role: card-number}}, {{select: \"$..cvc\", role: card-cvc}}]}}\n",
        backend.address(),
    )
}

/// A destination that gets the card, and whose receipt is sealed.
fn opening(listen: SocketAddr, provider: &Backend) -> String {
    format!(
        "outbound:\n  - listen: {listen}\n    destinations:\n      - host: {PROVIDER}\n        upstream: http://{}\n        rules:\n          - match: {{path: /charges/**}}\n            \
         request: {{open: [{{select: $.source.number, roles: [card-number]}}, {{select: $.source.cvc, roles: [card-cvc]}}]}}\n            \
         response: {{seal: [{{select: $.receipt.token, role: receipt}}]}}\n",
        provider.address(),
    )
}

fn order(listen: SocketAddr) -> u16 {
    once(listen, &json_request("POST", "/v1/orders", SHOP, ORDER)).status
}

fn not_ready(relay: &Relay, part: &str) {
    eventually(part, || {
        let answer = get(relay.admin(), "/readyz");
        (answer.status == 503 && answer.text().contains(part)).then_some(())
    });
}

fn verify(target: &str, pcrs: &str, folder: &Path) -> (Option<i32>, String) {
    let file = expected(folder, pcrs);
    let told = Program::Relay.output([
        "verify".as_ref(),
        "engine".as_ref(),
        target.as_ref(),
        "--pcrs".as_ref(),
        file.as_os_str(),
    ]);
    let text = [told.stdout, told.stderr].concat();
    (told.status.code(), String::from_utf8_lossy(&text).into_owned())
}

/// Orders from several clients at once while `meanwhile` happens; answers how often each status came.
fn under_load(listen: SocketAddr, meanwhile: impl FnOnce(&AtomicUsize)) -> BTreeMap<u16, usize> {
    let (good, end) = (AtomicUsize::new(0), AtomicBool::new(false));
    let answers: Vec<BTreeMap<u16, usize>> = thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut answers = BTreeMap::new();
                    while !end.load(Ordering::Relaxed) {
                        let status = order(listen);
                        *answers.entry(status).or_default() += 1;
                        if status == 200 {
                            good.fetch_add(1, Ordering::Relaxed);
                        }
                        // The machines are emulated by the processors that this load runs on.
                        thread::sleep(Duration::from_millis(50));
                    }
                    answers
                })
            })
            .collect();
        // The load must end also where this fails.
        let happened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| meanwhile(&good)));
        end.store(true, Ordering::Relaxed);
        let answers = clients.into_iter().map(|client| client.join().expect("the load ends")).collect();
        happened.unwrap_or_else(|cause| std::panic::resume_unwind(cause));
        answers
    });
    let mut all = BTreeMap::new();
    for (status, count) in answers.into_iter().flatten() {
        *all.entry(status).or_default() += count;
    }
    println!("orders by status: {all:?}");
    all
}

/// Waits for some more good orders.
fn orders(good: &AtomicUsize, more: usize) {
    let until = good.load(Ordering::Relaxed) + more;
    eventually("orders", || (good.load(Ordering::Relaxed) >= until).then_some(()));
}

/// Nothing of an order's card is in what a backend got, or in what is told to people.
fn nothing_leaked(backend: &Backend, told: &[String]) {
    for request in backend.requests() {
        let text = request.text();
        assert!(text.contains("e3v1.card-number.s.") && !text.contains(NUMBER), "{text}");
    }
    for log in told {
        assert!(!log.contains(NUMBER), "{log}");
    }
}

#[test]
fn the_shop_trades_through_an_engine_in_its_image_and_no_other_image_is_believed() {
    let mut parent = Parent::start();
    let _machine = parent.boot("uninitialised");
    let (inbound, outbound) = (port::free(), port::free());
    let provider = payment_provider();
    let (backend, shop) = shop_backend(outbound, PROVIDER);
    let front = parent.relay("inbound", &SITE.pcrs(false), &sealing(inbound, &backend));
    let back = parent.relay("outbound", &SITE.pcrs(false), &opening(outbound, &provider));
    not_ready(&front, "there is no keyring yet");
    assert_eq!(order(inbound), 503);
    assert_eq!(backend.bytes(), 0);

    let before = SITE.kms.calls().len();
    parent.make_keys();
    let asked = SITE.kms.calls();
    assert_eq!((asked[before].action.as_str(), asked[before].outcome.as_str()), ("GenerateDataKey", "200"));
    front.wait_ready();
    back.wait_ready();
    assert_eq!(order(inbound), 201);
    let stored = shop.orders().pop().expect("an order").to_string();
    assert!(stored.contains("e3v1.card-number.s.") && stored.contains("e3v1.receipt.s."), "{stored}");
    assert!(!stored.contains(NUMBER), "{stored}");
    assert!(provider.requests()[0].text().contains(NUMBER), "{}", provider.requests()[0].text());
    // What was opened is in the host's file, without its value.
    let audit = fs::read_to_string(parent.host.file("audit.jsonl")).expect("the audit");
    assert!(audit.contains("card-number") && !audit.contains(NUMBER), "{audit}");

    let (code, text) = verify(&format!("http://{inbound}"), &SITE.pcrs(false), parent.folder.path());
    assert!(code == Some(0) && text.contains("the expected image runs there"), "{text}");
    let (code, text) = verify(&parent.instance.endpoint(PORT), &SITE.pcrs(true), parent.folder.path());
    assert!(code == Some(1) && text.to_lowercase().contains("pcr0"), "{text}");

    let (nobody, listen) = (Backend::json("{}"), port::free());
    let other = parent.relay("other", &SITE.pcrs(true), &sealing(listen, &nobody));
    not_ready(&other, "PCR0");
    assert_eq!(order(listen), 503);
    assert_eq!(nobody.bytes(), 0);
}

#[test]
fn kms_opens_the_keys_for_the_measured_image_alone() {
    let mut parent = Parent::start();
    let machine = parent.boot("uninitialised");
    parent.make_keys();
    machine.kill();
    SITE.allow(Pcr::new([0xab; 48]));
    let _machine = parent.boot("failed");
    let (status, page) = parent.host.page("/readyz");
    assert!(status == 503 && page.contains("KMS denies access"), "{page}");
    let (backend, listen) = (Backend::json("{}"), port::free());
    let relay = parent.relay("relay", &SITE.pcrs(false), &sealing(listen, &backend));
    not_ready(&relay, "KMS");
    assert_eq!(order(listen), 503);
    assert_eq!(backend.bytes(), 0);
    // What is repaired outside needs no other boot.
    SITE.allow(SITE.image.pcrs[&0]);
    relay.wait_ready();
    assert_eq!(order(listen), 200);
    let asked = SITE.kms.calls().pop().expect("a call");
    assert_eq!((asked.action.as_str(), asked.outcome.as_str()), ("Decrypt", "200"));
}

#[test]
fn an_enclave_that_is_killed_under_load_comes_back_and_nothing_leaks() {
    let mut parent = Parent::start();
    let machine = parent.boot("uninitialised");
    parent.make_keys();
    let (backend, listen) = (Backend::json("{}"), port::free());
    let mut relay = parent.relay("relay", &SITE.pcrs(false), &sealing(listen, &backend));
    relay.wait_ready();
    let mut consoles = Vec::new();
    let answers = under_load(listen, |good| {
        orders(good, 20);
        consoles.push(machine.console());
        machine.kill();
        not_ready(&relay, "");
        let again = Instant::now();
        let machine = parent.boot("ready");
        relay.wait_ready();
        orders(good, 20);
        println!("measured: from the start of the boot to service {:.1} s", again.elapsed().as_secs_f64());
        consoles.push(machine.console());
        drop(machine);
    });
    assert!(answers.keys().all(|status| [200, 503].contains(status)), "{answers:?}");
    assert!(answers.contains_key(&503), "the kill was not felt: {answers:?}");
    assert_eq!(answers[&200], backend.requests().len(), "what was refused reached the backend");
    consoles.extend([parent.host.log(), relay.process().log()]);
    nothing_leaked(&backend, &consoles);
}

#[test]
fn two_enclaves_of_one_keyring_are_killed_in_turn_and_no_request_fails() {
    let mut first = Parent::start();
    let mut one = Some(first.boot("uninitialised"));
    first.make_keys();
    let mut second = Parent::beside(&first);
    let two = second.boot("ready");
    let (backend, listen) = (Backend::json("{}"), port::free());
    let both = [&first.instance, &second.instance];
    let mut relay = first.relay_to(&both, "relay", &SITE.pcrs(false), &sealing(listen, &backend));
    let all_ready = |relay: &Relay| {
        eventually("both engines", || {
            let status: serde_json::Value = serde_json::from_str(&relay.status()).expect("JSON");
            let engines = status["engine"]["endpoints"].as_array().expect("the engines");
            engines.iter().all(|engine| engine["ready"] == true).then_some(())
        });
    };
    all_ready(&relay);
    let answers = under_load(listen, |good| {
        orders(good, 20);
        drop(one.take());
        orders(good, 20);
        one = Some(first.boot("ready"));
        all_ready(&relay);
        orders(good, 20);
        two.kill();
        orders(good, 20);
    });
    drop(one);
    assert_eq!(answers.keys().collect::<Vec<_>>(), [&200], "requests failed");
    nothing_leaked(&backend, &[first.host.log(), second.host.log(), relay.process().log()]);
}

#[test]
fn the_program_of_the_image_has_no_development_mode() {
    let folder = folder();
    let config = |name: &str, more: &str| {
        let file = folder.path().join(name);
        let text = format!(
            "listen: [\"unix://{0}/e3.sock\"]\nkeyring: keyring\naudit: {{file: audit}}\n{more}",
            folder.path().display()
        );
        fs::write(&file, text).expect("a configuration");
        file
    };
    let run = |program: &Path, arguments: &[&std::ffi::OsStr]| {
        let told = std::process::Command::new(program).args(arguments).output().expect("the program starts");
        (told.status.code(), String::from_utf8_lossy(&[told.stdout, told.stderr].concat()).into_owned())
    };
    let ours = Program::E3.path();
    let cases = [
        ("development", "development: true\n", "no development mode"),
        ("file", "root: {file: root}\n", "unknown key `root`"),
        ("environment", "root: {env: E3_ROOT}\n", "unknown key `root`"),
        ("module", "attested: {module: module, relays: []}\n", "unknown key `attested`"),
    ];
    for (name, more, refused) in cases {
        let file = config(name, more);
        let check = ["check".as_ref(), "--config".as_ref(), file.as_os_str()];
        let (code, text) = run(&SITE.image.program, &check);
        assert!(code == Some(2) && text.contains(refused), "{name}: {code:?} {text}");
        // The same program as the tests have it knows these.
        let (_, text) = run(&ours, &check);
        assert!(!text.contains(refused), "{name}: {text}");
    }
    // Nor the command that stands in for an image.
    let (code, text) = run(&SITE.image.program, &["enclave".as_ref(), "--help".as_ref()]);
    assert!(code == Some(2) && text.contains("unrecognized subcommand"), "{text}");
    assert_eq!(run(&ours, &["enclave".as_ref(), "--help".as_ref()]).0, Some(0));
}
