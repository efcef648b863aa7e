//! The attested link between the real programs, with a security module of the tests in the engine.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, SystemTime};

use e3_attest::make::Authority;
use e3_tests::backend::Backend;
use e3_tests::client::{get, json_request, once};
use e3_tests::process::Program;
use e3_tests::stack::{Engine, Relay, folder};
use e3_tests::{eventually, port};

const HOST: &str = "api.shop.example";
const CARD: &str = r#"{"a": "4242424242424242"}"#;

/// Text of the PCRs that the module of the tests has: PCR0 is `first`, which is 1 for its real one.
fn pcrs(first: u8) -> String {
    let pcr = |byte: u8| format!("{byte:02x}").repeat(48);
    format!(r#"{{"pcr0": "{}", "pcr1": "{}", "pcr2": "{}"}}"#, pcr(first), pcr(2), pcr(3))
}

/// A relay's key, and beside it the root that test builds trust.
fn key(folder: &Path, name: &str, root: &[u8]) -> String {
    let file = folder.join(name);
    let made = Program::Relay.output(["key".as_ref(), "new".as_ref(), file.as_os_str()]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    fs::write(folder.join(format!("{name}.root")), root).unwrap();
    String::from_utf8(made.stdout).unwrap().trim().to_owned()
}

struct Stack {
    relay: Relay,
    engine: Engine,
    backend: Backend,
    listen: SocketAddr,
    folder: tempfile::TempDir,
}

impl Stack {
    /// An engine that lets in the relay with `known`, and a relay with `own` that expects `expected` of its engine.
    fn start(known: &str, own: &str, expected: &str, more: &str) -> Self {
        let folder = folder();
        let authority = Authority::new(SystemTime::now(), Duration::from_secs(86_400)).unwrap();
        fs::write(folder.path().join("module"), authority.to_bytes()).unwrap();
        let mut hash = String::new();
        for name in ["known", "unknown"] {
            let of = key(folder.path(), name, authority.root());
            if name == known {
                hash = of;
            }
        }
        let attested = format!("attested: {{module: {}, relays: [{hash}]}}\n", folder.path().join("module").display());
        let engine = Engine::start_with(folder.path(), Path::new("audit.log"), &attested);
        let (backend, listen) = (Backend::json("{}"), port::free());
        let rules = format!(
            "engine: {{endpoints: [\"{}\"], app: shop, timeout: 2s, attestation: {expected}, key: {}, seen: {}{more}}}\ninbound:\n  - listen: {listen}\n    \
             hosts: [{HOST}]\n    backend: http://{}\n    rules:\n      - match: {{methods: [POST]}}\n        \
             request: {{seal: [{{select: $.a, role: card-number}}]}}\n",
            engine.endpoint(),
            folder.path().join(own).display(),
            folder.path().join("seen").display(),
            backend.address(),
        );
        let relay = Relay::start(folder.path(), "relay", &rules);
        Self { relay, engine, backend, listen, folder }
    }

    fn seal(&self) -> u16 {
        once(self.listen, &json_request("POST", "/v1", HOST, CARD)).status
    }

    /// The cause that `/readyz` gives, once it gives one that holds `part`.
    fn not_ready(&self, part: &str) {
        eventually(part, || {
            let answer = get(self.relay.admin(), "/readyz");
            (answer.status == 503 && answer.text().contains(part)).then_some(())
        });
        assert_eq!(self.seal(), 503);
        assert_eq!(self.backend.bytes(), 0, "the backend got something of a request that could not be sealed");
    }
}

#[test]
fn a_relay_seals_through_an_engine_that_proves_itself() {
    let stack = Stack::start("known", "known", &pcrs(1), "");
    stack.relay.wait_ready();
    assert_eq!(stack.seal(), 200);
    let seen = stack.backend.requests();
    assert!(seen[0].text().contains("e3v1.card-number.s."), "{}", seen[0].text());
    // What was seen is kept for the next start.
    let kept = fs::read_to_string(stack.folder.path().join("seen")).unwrap();
    assert_eq!(kept.split(' ').count(), 3, "{kept}");
}

#[test]
fn a_wrong_image_is_refused_with_its_cause_and_nothing_is_sent() {
    Stack::start("known", "known", &pcrs(9), "").not_ready("PCR0");
}

#[test]
fn an_unknown_relay_is_told_so_and_seals_nothing() {
    Stack::start("known", "unknown", &pcrs(1), "").not_ready("refuses this relay's key");
}

#[test]
fn another_keyring_than_the_pinned_one_is_refused() {
    let pinned = format!(", keyring: \"{}\"", "ab".repeat(16));
    Stack::start("known", "known", &pcrs(1), &pinned).not_ready("another keyring");
}

#[test]
fn a_stranger_checks_the_engine_through_the_relay_and_directly() {
    let mut stack = Stack::start("known", "known", &format!("[{}, {}]", pcrs(7), pcrs(1)), "");
    stack.relay.wait_ready();
    let expect = |name: &str, text: &str| {
        let file = stack.folder.path().join(name);
        fs::write(&file, text).unwrap();
        fs::copy(stack.folder.path().join("known.root"), stack.folder.path().join(format!("{name}.root"))).unwrap();
        file
    };
    let (right, wrong) = (expect("right.json", &pcrs(1)), expect("wrong.json", &pcrs(9)));
    let untrusted = stack.folder.path().join("untrusted.json");
    fs::write(&untrusted, pcrs(1)).unwrap();
    let verify = |target: &str, pcrs: &Path| {
        Program::Relay.output([
            "verify".as_ref(),
            "engine".as_ref(),
            target.as_ref(),
            "--pcrs".as_ref(),
            pcrs.as_os_str(),
        ])
    };
    for target in [format!("http://{}", stack.listen), stack.engine.endpoint()] {
        let good = verify(&target, &right);
        let text = String::from_utf8(good.stdout).unwrap();
        assert!(good.status.success(), "{target}: {}", String::from_utf8_lossy(&good.stderr));
        assert!(text.contains("the expected image runs there") && text.contains("at epoch"), "{text}");
        for (bad, cause) in [(&wrong, "pcr0"), (&untrusted, "root")] {
            let refused = verify(&target, bad);
            let stderr = String::from_utf8_lossy(&refused.stderr).into_owned();
            assert_eq!(refused.status.code(), Some(1), "{target}: {stderr}");
            assert!(stderr.to_lowercase().contains(cause), "{stderr}");
        }
    }
    // Nobody answers: that is no success either.
    stack.engine.process().kill();
    assert_eq!(verify(&format!("http://{}", stack.listen), &right).status.code(), Some(1));
}

#[test]
fn without_attestation_an_engine_is_refused_unless_it_is_for_development() {
    let folder = folder();
    let file = folder.path().join("relay.yaml");
    fs::write(
        &file,
        "engine: {endpoints: [\"unix:///e3.sock\"], app: shop}\ninbound: [{listen: \"127.0.0.1:1\", hosts: [a.b], backend: \"http://127.0.0.1:2\"}]\n",
    )
    .unwrap();
    let checked = Program::Relay.output(["check".as_ref(), "--config".as_ref(), file.as_os_str()]);
    assert_eq!(checked.status.code(), Some(2));
    let text = String::from_utf8_lossy(&checked.stderr).into_owned() + &String::from_utf8_lossy(&checked.stdout);
    assert!(text.contains("would not be attested") && text.contains("attestation:"), "{text}");
}
