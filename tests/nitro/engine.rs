//! The engine in its image, on an emulated Nitro machine, with a real host program beside it and real relays in front. Run by `tests/nitro/run`.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use e3_attest::make::Authority;
use e3_tests::backend::Backend;
use e3_tests::client::{get, json_request, once};
use e3_tests::host::{Host, MetadataService};
use e3_tests::nitro::{Enclave, Image, Instance, Machine};
use e3_tests::process::Program;
use e3_tests::stack::{Relay, folder};
use e3_tests::{eventually, port};

const HOST: &str = "api.shop.example";
const CARD: &str = r#"{"card":{"number":"4242424242424242","cvc":"987"},"kept":1.10}"#;
const KEY: &str = "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab";

/// Where the engine listens.
const PORT: u32 = 7003;

/// What all tests share: an authority that signs for every machine, a relay's key, and the image that knows the relay.
struct Site {
    authority: Authority,
    folder: PathBuf,
    image: Image,
}

static SITE: LazyLock<Site> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder").keep();
    let authority = Authority::new(SystemTime::now(), Duration::from_secs(3 * 3600)).expect("an authority");
    let key = folder.join("relay.key");
    let made = Program::Relay.output(["key".as_ref(), "new".as_ref(), key.as_os_str()]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    fs::write(folder.join("relay.key.root"), authority.root()).expect("the root is written");
    let hash = String::from_utf8(made.stdout).expect("text");
    let inputs = format!(
        r#"{{"environment": "test", "kms": {{"key": "{KEY}"}}, "relays": ["{}"],
            "apps": {{"shop": {{"roles": {{"card-number": {{}}, "card-cvc": {{}}}}}}}}}}"#,
        hash.trim()
    );
    fs::write(folder.join("inputs.json"), inputs).expect("the inputs are written");
    let image = Image::build(&folder, None, Some(&folder.join("inputs.json")));
    Site { authority, folder, image }
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

    fn key(&self) -> PathBuf {
        self.folder.join("relay.key")
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
    fn start(kms: SocketAddr) -> Self {
        let (folder, instance, metadata) = (folder(), Instance::new(), MetadataService::start());
        metadata.give("AKIDTEST", "a-secret", "a-token", "2099-01-01T00:00:00Z");
        let host = Host::start_with(folder.path(), kms, metadata.address(), instance.services(), "");
        Self { host, _metadata: metadata, instance, folder }
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

    fn endpoint(&self) -> String {
        self.instance.endpoint(PORT)
    }
}

fn relay(folder: &Path, name: &str, endpoint: &str, pcrs: &str, backend: &Backend) -> (Relay, SocketAddr) {
    let listen = port::free();
    let rules = format!(
        "engine: {{endpoints: [\"{endpoint}\"], app: shop, timeout: 5s, attestation: {pcrs}, key: {}, seen: {}}}\ninbound:\n  - listen: {listen}\n    \
         hosts: [{HOST}]\n    backend: http://{}\n    rules:\n      - match: {{methods: [POST]}}\n        \
         request: {{seal: [{{select: $.card.number, role: card-number}}, {{select: $.card.cvc, role: card-cvc}}]}}\n",
        SITE.key().display(),
        folder.join(format!("{name}.seen")).display(),
        backend.address(),
    );
    (Relay::start(folder, name, &rules), listen)
}

fn not_ready(relay: &Relay, part: &str) {
    eventually(part, || {
        let answer = get(relay.admin(), "/readyz");
        (answer.status == 503 && answer.text().contains(part)).then_some(())
    });
}

#[test]
fn an_engine_that_has_no_keys_yet_proves_its_image_and_says_why() {
    let mut parent = Parent::start(port::free());
    let machine = parent.boot("uninitialised");
    let backend = Backend::json("{}");
    let (good, listen) = relay(parent.folder.path(), "good", &parent.endpoint(), &SITE.pcrs(false), &backend);
    not_ready(&good, "there is no keyring yet");
    assert_eq!(once(listen, &json_request("POST", "/v1", HOST, CARD)).status, 503);
    // Of a wrong image nothing is believed, not even why it does not serve.
    let (wrong, _) = relay(parent.folder.path(), "wrong", &parent.endpoint(), &SITE.pcrs(true), &backend);
    not_ready(&wrong, "PCR0");
    assert_eq!(backend.bytes(), 0);
    drop(machine);
}
