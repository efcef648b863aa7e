//! The engine in its image, on an emulated Nitro machine: a real host program beside it, a KMS that verifies documents behind that, real relays in front. Run by
//! `tests/nitro/run`.

#[allow(dead_code, reason = "these tests need less of it than others")]
#[path = "../src/kms_double/mod.rs"]
mod kms_double;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant, SystemTime};

use e3_attest::Request;
use e3_attest::make::{Authority, Content};
use e3_enclave::keyring::unlock::{self, KmsRoot};
use e3_enclave::kms::client::{Kms, Way};
use e3_enclave::parent::BlobStore;
use e3_link::attested::Attester;
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

/// What all tests share: an authority that signs for every machine, a KMS, a relay's key, and the image that knows them.
struct Site {
    authority: Arc<Authority>,
    kms: KmsThatVerifies,
    folder: PathBuf,
    image: Image,
}

static SITE: LazyLock<Site> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder").keep();
    let authority = Authority::new(SystemTime::now(), Duration::from_secs(3 * 3600)).expect("an authority");
    let kms = KmsThatVerifies::start(authority.root(), kms_double::HOST);
    let key = folder.join("relay.key");
    let made = Program::Relay.output(["key".as_ref(), "new".as_ref(), key.as_os_str()]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    fs::write(folder.join("relay.key.root"), authority.root()).expect("the root is written");
    let role = serde_json::json!({});
    let inputs = serde_json::json!({
        "environment": "test",
        "kms": {"key": kms.key(ACCOUNT, KEY, KeyPolicy::default()), "host": kms_double::HOST, "roots": kms.roots()},
        "relays": [String::from_utf8(made.stdout).expect("text").trim()],
        "apps": {"shop": {"roles": {"card-number": role, "card-cvc": role, "receipt": role}}},
    });
    fs::write(folder.join("inputs.json"), inputs.to_string()).expect("the inputs are written");
    let image = Image::build(&folder, None, Some(&folder.join("inputs.json")));
    Site { authority: Arc::new(authority), kms, folder, image }
});

impl Site {
    /// The image's registers, as `engine.attestation` and `--pcrs` take them; PCR0 is that of another image where `wrong`.
    fn pcrs(&self, wrong: bool) -> String {
        let pcr = |index: u8| match (wrong, index) {
            (true, 0) => "ab".repeat(48),
            _ => self.image.pcrs[&index].to_string(),
        };
        format!(r#"{{"pcr0": "{}", "pcr1": "{}", "pcr2": "{}"}}"#, pcr(0), pcr(1), pcr(2))
    }

    /// The key's policy: for the image with this PCR0 alone.
    fn allow(&self, pcr0: e3_attest::Pcr) {
        let only = |name: &str, value: &str| (name.to_owned(), vec![value.to_owned()]);
        let context = [only("e3:purpose", "root"), only("e3:environment", "test"), only("e3:root-version", "1")];
        let policy = KeyPolicy { pcrs: Some(BTreeMap::from([(0, pcr0)])), context: BTreeMap::from(context) };
        let _: String = self.kms.key(ACCOUNT, KEY, policy);
    }
}

/// A security module of the image that was built, to make the keyring with.
struct Module;

impl Attester for Module {
    fn document(&self, request: &Request) -> Option<Vec<u8>> {
        let pcrs = SITE.image.pcrs.iter().map(|(index, pcr)| (*index, *pcr));
        SITE.authority.sign(&Content::new(SystemTime::now(), pcrs, request.clone())).ok()
    }
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
        let (folder, instance, metadata) = (folder(), Instance::new(), MetadataService::start());
        metadata.give("AKIDTEST", "secret", "token", "2099-01-01T00:00:00Z");
        let host = Host::start_with(folder.path(), SITE.kms.address(), metadata.address(), instance.services(), "");
        Self { host, _metadata: metadata, instance, folder }
    }

    /// Makes a keyring with an app.
    fn make_keys(&self) {
        let inputs = e3_enclave::inputs::Inputs::load(&SITE.folder.join("inputs.json")).expect("good inputs");
        let at = |service: &str| self.host.endpoint(service).parse().expect("an endpoint");
        let wait = Duration::from_secs(10);
        let way = Way { forwarder: at("kms"), credentials: at("credentials"), timeout: wait };
        let roots = KmsRoot::new(Kms::new(&inputs.kms, &way, Arc::new(Module)).expect("a client")).expect("roots");
        let blobs = Arc::new(BlobStore::new(at("store"), wait).expect("a store"));
        let live = unlock::init(&blobs, &roots, &inputs.expected).expect("a keyring");
        live.create_app(e3_wire::App::parse("shop").expect("a name")).expect("an app");
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
        let rules = format!(
            "engine: {{endpoints: [\"{}\"], app: shop, timeout: 5s, attestation: {pcrs}, key: {}, seen: {}}}\n{sites}",
            self.instance.endpoint(PORT),
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
    let file = folder.join("expected.json");
    fs::write(&file, pcrs).expect("the registers are written");
    fs::write(folder.join("expected.json.root"), SITE.authority.root()).expect("the root is written");
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

#[test]
fn an_engine_that_has_no_keys_yet_proves_its_image_and_says_why() {
    let mut parent = Parent::start();
    let _machine = parent.boot("uninitialised");
    let (backend, listen) = (Backend::json("{}"), port::free());
    let relay = parent.relay("relay", &SITE.pcrs(false), &sealing(listen, &backend));
    not_ready(&relay, "there is no keyring yet");
    assert_eq!(order(listen), 503);
    assert_eq!(backend.bytes(), 0);
}

#[test]
fn the_shop_trades_through_an_engine_in_its_image_and_no_other_image_is_believed() {
    let mut parent = Parent::start();
    SITE.allow(SITE.image.pcrs[&0]);
    parent.make_keys();
    let _machine = parent.boot("ready");
    let asked = SITE.kms.calls().pop().expect("a call");
    assert_eq!((asked.action.as_str(), asked.outcome.as_str()), ("Decrypt", "200"));

    let (inbound, outbound) = (port::free(), port::free());
    let provider = payment_provider();
    let (backend, shop) = shop_backend(outbound, PROVIDER);
    let front = parent.relay("inbound", &SITE.pcrs(false), &sealing(inbound, &backend));
    let back = parent.relay("outbound", &SITE.pcrs(false), &opening(outbound, &provider));
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
    SITE.allow(SITE.image.pcrs[&0]);
    parent.make_keys();
    SITE.allow(e3_attest::Pcr::new([0xab; 48]));
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
}

#[test]
fn an_enclave_that_is_killed_under_load_comes_back_and_nothing_leaks() {
    let mut parent = Parent::start();
    SITE.allow(SITE.image.pcrs[&0]);
    parent.make_keys();
    let machine = parent.boot("ready");
    let (backend, listen) = (Backend::json("{}"), port::free());
    let mut relay = parent.relay("relay", &SITE.pcrs(false), &sealing(listen, &backend));
    relay.wait_ready();

    let end = Arc::new(AtomicBool::new(false));
    let loads: Vec<_> = (0..4)
        .map(|_| {
            let end = Arc::clone(&end);
            std::thread::spawn(move || {
                let mut answers: BTreeMap<u16, u32> = BTreeMap::new();
                while !end.load(Ordering::Relaxed) {
                    *answers.entry(order(listen)).or_default() += 1;
                    std::thread::sleep(Duration::from_millis(20));
                }
                answers
            })
        })
        .collect();
    eventually("sealed orders", || (backend.requests().len() > 20).then_some(()));
    machine.kill();
    not_ready(&relay, "");
    let sealed = backend.requests().len();
    let again = Instant::now();
    let machine = parent.boot("ready");
    relay.wait_ready();
    eventually("sealed orders after the reboot", || (backend.requests().len() > sealed + 20).then_some(()));
    println!("recovered in {:.1} s", again.elapsed().as_secs_f64());
    end.store(true, Ordering::Relaxed);
    let mut answers: BTreeMap<u16, u32> = BTreeMap::new();
    for load in loads {
        for (status, count) in load.join().expect("the load ends") {
            *answers.entry(status).or_default() += count;
        }
    }
    println!("answers by status: {answers:?}");
    assert!(answers.keys().all(|status| [200, 503].contains(status)), "{answers:?}");
    assert!(answers.contains_key(&503), "the kill was not felt: {answers:?}");
    assert_eq!(answers[&200] as usize, backend.requests().len(), "what was refused reached the backend");
    for request in backend.requests() {
        assert!(
            request.text().contains("e3v1.card-number.s.") && !request.text().contains(NUMBER),
            "{}",
            request.text()
        );
    }
    for log in [machine.console(), parent.host.log(), relay.process().log()] {
        assert!(!log.contains(NUMBER), "{log}");
    }
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
        ("file", "root: {file: root}\n", "unknown field `root`"),
        ("environment", "root: {env: E3_ROOT}\n", "unknown field `root`"),
        ("module", "attested: {module: module, relays: []}\n", "unknown field `attested`"),
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
