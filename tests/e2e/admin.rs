//! An administrator, an engine that gets its root from KMS, and the host between them: the keyring is made and keys are destroyed by signed commands, and KMS has the last word.

#[path = "../src/kms_double/mod.rs"]
#[allow(dead_code, reason = "the double is shared with the tests of the engine's way to KMS")]
mod kms_double;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use e3_attest::make::Authority;
use e3_attest::{Pcr, PcrSet, PcrSets, Verifier};
use e3_link::attested::admin::AdminKey;
use e3_link::attested::certificate::LinkKey;
use e3_link::attested::memory::Memory;
use e3_link::attested::relay::RelayTls;
use e3_link::{Client, ClientOptions, Security};
use e3_tests::eventually;
use e3_tests::host::{Host, MetadataService};
use e3_tests::process::{Program, Running};
use e3_tests::stack::folder;
use e3_wire::{Answer, App, Context, ItemAnswer, Refusal, RequestWriter, Role, ValueType};
use kms_double::{ACCOUNT, Credentials, HOST, KeyPolicy, KmsThatVerifies};
use tokio::time::Instant;

const KEY: &str = "1234abcd-12ab-34cd-56ef-1234567890ab";
const LONG: Duration = Duration::from_secs(20);

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// A key policy for the test's image that allows these root versions.
fn policy(versions: &[&str]) -> KeyPolicy {
    let entry = |name: &str, values: &[&str]| (name.to_owned(), values.iter().map(|v| (*v).to_owned()).collect());
    KeyPolicy {
        pcrs: Some(BTreeMap::from([(0, Pcr::new([1; 48]))])),
        context: BTreeMap::from([
            entry("e3:purpose", &["root"]),
            entry("e3:environment", &["test"]),
            entry("e3:root-version", versions),
        ]),
    }
}

struct World {
    kms: KmsThatVerifies,
    metadata: MetadataService,
    host: Host,
    authority: Authority,
    arn: String,
    relay: LinkKey,
    runtime: tokio::runtime::Runtime,
    _folder: tempfile::TempDir,
}

struct Engine {
    process: Running,
    endpoint: String,
}

impl World {
    fn new() -> Self {
        let folder = folder();
        let authority = Authority::new(SystemTime::now(), Duration::from_secs(86_400)).unwrap();
        let kms = KmsThatVerifies::start(authority.root(), HOST);
        let metadata = MetadataService::start();
        metadata.give("AKIDTEST", "secret", "token", "2099-01-01T00:00:00Z");
        let host = Host::start(folder.path(), kms.address(), metadata.address());
        let arn = kms.key(ACCOUNT, KEY, policy(&["1"]));
        let file = |name: &str| folder.path().join(name);
        fs::write(file("module"), authority.to_bytes()).unwrap();
        let admin = AdminKey::generate().unwrap();
        fs::write(file("admin.pem"), admin.to_pem()).unwrap();
        fs::set_permissions(file("admin.pem"), fs::Permissions::from_mode(0o600)).unwrap();
        let expected =
            format!(r#"{{"pcr0": "{}", "pcr1": "{}", "pcr2": "{}"}}"#, hex(&[1; 48]), hex(&[2; 48]), hex(&[3; 48]));
        fs::write(file("expected.json"), expected).unwrap();
        fs::write(file("expected.json.root"), authority.root()).unwrap();
        let relay = LinkKey::generate().unwrap();
        let inputs = serde_json::json!({
            "environment": "test",
            "kms": {"key": arn, "host": HOST, "port": kms.address().port(), "roots": kms.roots()},
            "relays": [hex(&relay.hash())],
            "admins": [hex(admin.public())],
            "apps": {"shop": {"roles": {"card": {}}}},
        });
        fs::write(file("inputs.json"), inputs.to_string()).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { kms, metadata, host, authority, arn, relay, runtime, _folder: folder }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.host.file(name)
    }

    fn start(&self, name: &str) -> Engine {
        let endpoint = format!("unix://{}", self.file(&format!("{name}.sock")).display());
        let arguments = [
            "enclave".to_owned(),
            format!("--module={}", self.file("module").display()),
            format!("--inputs={}", self.file("inputs.json").display()),
            format!("--parent={}", self.host.file("").display()),
            format!("--listen={endpoint}"),
        ];
        Engine { process: Program::E3.start(arguments, &self.file(&format!("{name}.log"))), endpoint }
    }

    fn keys(&self, engines: &[&Engine], args: &[&str], input: &[u8]) -> Output {
        let mut command = Command::new(Program::E3.path());
        command.arg("keys").args(args).arg("--admin-key").arg(self.file("admin.pem"));
        command.arg("--pcrs").arg(self.file("expected.json"));
        for engine in engines {
            command.arg("--engine").arg(&engine.endpoint);
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    }

    fn done(&self, engines: &[&Engine], args: &[&str]) -> String {
        let output = self.keys(engines, args, b"");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn refused(&self, engines: &[&Engine], args: &[&str], code: i32) -> String {
        let output = self.keys(engines, args, b"");
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        said
    }

    /// The keyring of an engine that is to have one soon.
    fn listed(&self, engine: &Engine) -> String {
        let mut listed = String::new();
        eventually("the engine lists its keys", || {
            let output = self.keys(&[engine], &["list"], b"");
            listed = String::from_utf8(output.stdout).unwrap();
            output.status.success().then_some(())
        });
        listed
    }

    /// Makes an engine of the test with a keyring that has keys for the shop.
    fn initialised(&self, name: &str) -> Engine {
        let engine = self.start(name);
        eventually("the engine says that it has no keyring", || {
            self.host.page("/readyz").1.contains("uninitialised").then_some(())
        });
        self.done(&[&engine], &["init", "--kms", &self.arn]);
        self.listed(&engine);
        self.done(&[&engine], &["create-app", "shop"]);
        engine
    }

    fn ask(&self, engine: &Engine, fill: impl FnOnce(&mut RequestWriter)) -> Result<Vec<u8>, Refusal> {
        self.try_ask(engine, fill).unwrap()
    }

    /// The same, where there may be no answer, or a refusal of the whole.
    fn try_ask(
        &self,
        engine: &Engine,
        fill: impl FnOnce(&mut RequestWriter),
    ) -> Result<Result<Vec<u8>, Refusal>, String> {
        let accepted = PcrSet::new((0..3).map(|index| (index, Pcr::new([index + 1; 48])))).unwrap();
        let verifier = Verifier::with_test_root(self.authority.root()).unwrap();
        let memory = Arc::new(Memory::new(None, HashMap::new()));
        let tls = RelayTls::new(&self.relay, verifier, PcrSets::from(accepted), memory).unwrap();
        let endpoint = engine.endpoint.parse().unwrap();
        let mut request = RequestWriter::new(App::parse("shop").unwrap(), &Context::default(), 0);
        fill(&mut request);
        self.runtime.block_on(async {
            let client = Client::new(vec![endpoint], Security::Attested(Arc::new(tls)), ClientOptions::default());
            let answer = client.call(request, Instant::now() + LONG).await.map_err(|e| e.to_string())?;
            match answer.answer().unwrap() {
                Answer::Items(items) => Ok(match items[0] {
                    ItemAnswer::Token(bytes) | ItemAnswer::Value { value: bytes, .. } => Ok(bytes.to_vec()),
                    ItemAnswer::Refused(refusal) => Err(refusal),
                    _ => panic!("no result"),
                }),
                Answer::Refused(refusal) => Err(refusal.to_string()),
            }
        })
    }

    fn seal(&self, engine: &Engine) -> Vec<u8> {
        let role = Role::parse("card").unwrap();
        self.ask(engine, |w| w.seal(role, ValueType::String, b"4242", false).unwrap()).unwrap()
    }

    fn open(&self, engine: &Engine, token: &[u8]) -> Result<Vec<u8>, Refusal> {
        let role = Role::parse("card").unwrap();
        self.ask(engine, |w| w.open(&[role], token).unwrap())
    }

    fn commands(&self) -> Vec<String> {
        let text = fs::read_to_string(self.file("audit.jsonl")).unwrap_or_default();
        let records = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        // Without openings, and without what the chain and the counters add.
        let commands = records.filter(|r| r.get("decision").is_some());
        commands
            .map(|r| format!("{} {}", r["command"]["verb"].as_str().unwrap_or("-"), r["decision"].as_str().unwrap()))
            .collect()
    }
}

#[test]
fn a_keyring_is_made_by_a_signed_command_once_and_under_the_measured_key_alone() {
    let world = World::new();
    let engine = world.start("one");
    eventually("the engine says that it has no keyring", || {
        world.host.page("/readyz").1.contains("uninitialised").then_some(())
    });
    // Nothing else is done there, and the cause is said.
    let cause = world.refused(&[&engine], &["list"], 1);
    assert!(cause.contains("there is no keyring yet"), "{cause}");
    let other = world.arn.replace("1234abcd", "abcd1234");
    let cause = world.refused(&[&engine], &["init", "--kms", &other], 3);
    assert!(cause.contains("the engine's image is for another KMS key"), "{cause}");
    world.kms.key(ACCOUNT, KEY, policy(&["9"]));
    let cause = world.refused(&[&engine], &["init", "--kms", &world.arn], 5);
    assert!(cause.contains("KMS denies access"), "{cause}");
    assert!(!world.file("blobs").join("keyring").exists());
    world.kms.key(ACCOUNT, KEY, policy(&["1"]));
    let made = world.done(&[&engine], &["init", "--kms", &world.arn]);
    assert!(made.contains("made keyring"), "{made}");
    let id = made.split(' ').nth(2).unwrap();
    let listed = world.listed(&engine);
    assert!(listed.contains(id) && listed.contains("epoch 1") && listed.contains("root version 1"), "{listed}");
    let cause = world.refused(&[&engine], &["init", "--kms", &world.arn], 3);
    assert!(cause.contains("there is a keyring already"), "{cause}");
    world.done(&[&engine], &["create-app", "shop"]);
    let token = world.seal(&engine);
    assert_eq!(world.open(&engine, &token).unwrap(), b"4242");
    let commands = world.commands();
    for expected in ["init denied", "init allowed", "init failed", "init done", "create-app done"] {
        assert!(commands.iter().any(|c| c == expected), "{expected}: {commands:?}");
    }
}

#[test]
fn keys_are_destroyed_under_a_new_root_and_old_copies_open_nothing_once_kms_denies_the_old_one() {
    let world = World::new();
    let mut engine = world.initialised("one");
    let neighbour = world.start("two");
    world.listed(&neighbour);
    let both = [&engine, &neighbour];
    let old = world.seal(&engine);
    let cause = world.refused(&both, &["destroy", "--kid", "1"], 3);
    assert!(cause.contains("the key makes tokens or waits to") && cause.contains("(key 1)"), "{cause}");
    assert!(world.refused(&both, &["destroy", "--kid", "77"], 3).contains("there is no such key (key 77)"));
    world.done(&both, &["rotate", "--app", "shop"]);
    assert!(world.refused(&both, &["destroy", "--kid", "4"], 3).contains("(key 4)"), "it waits");
    world.done(&both, &["rotate", "--app", "shop", "--promote"]);
    let input = [&old[..], b"\n"].concat();
    let rewrapped = world.keys(&both, &["rewrap", "--app", "shop"], &input).stdout;
    let rewrapped = rewrapped.strip_suffix(b"\n").unwrap();
    // The policy does not know the next version yet: nothing changes.
    let blobs = ["keyring", "root"].map(|name| world.file("blobs").join(name));
    let before = blobs.each_ref().map(|path| fs::read(path).unwrap());
    let cause = world.refused(&both, &["destroy", "--kid", "1"], 5);
    assert!(cause.contains("KMS denies access"), "{cause}");
    assert_eq!(blobs.each_ref().map(|path| fs::read(path).unwrap()), before);
    assert_eq!(world.open(&engine, &old).unwrap(), b"4242");
    // It does: the key is gone, and it is said that the old root still opens.
    world.kms.key(ACCOUNT, KEY, policy(&["1", "2"]));
    let output = world.keys(&both, &["destroy", "--kid", "1"], b"");
    let (said, cause) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(5), "{cause}");
    assert!(said.contains("destroyed keys 1") && said.contains("root version 2"), "{said}");
    assert!(said.contains("root version 1: KMS STILL OPENS IT"), "{said}");
    assert!(cause.contains("take it out of the key policy"), "{cause}");
    // Both engines work under the new root; neither has the key any more.
    for engine in both {
        assert_eq!(world.open(engine, &old), Err(Refusal::NotAuthentic));
        assert_eq!(world.open(engine, rewrapped).unwrap(), b"4242");
        assert!(world.listed(engine).contains("root version 2"));
    }
    assert!(world.refused(&both, &["destroy", "--verify"], 5).contains("does not deny root version 1"));
    world.kms.key(ACCOUNT, KEY, policy(&["2"]));
    let said = world.done(&both, &["destroy", "--verify"]);
    assert!(said.contains("root version 1: KMS denies it"), "{said}");
    let said = world.done(&both, &["destroy", "--verify"]);
    assert!(!said.contains("root version 1:") && said.contains("was asked about no earlier root"), "{said}");
    // A restart gets the new root; a copy from before opens nothing.
    engine.process.kill();
    let mut again = world.start("again");
    world.listed(&again);
    assert_eq!(world.open(&again, rewrapped).unwrap(), b"4242");
    again.process.kill();
    drop(neighbour);
    for (path, bytes) in blobs.iter().zip(&before) {
        fs::write(path, bytes).unwrap();
    }
    let rolled_back = world.start("back");
    eventually("the old copy is refused", || world.host.page("/readyz").1.contains("denies access").then_some(()));
    let cause = world.refused(&[&rolled_back], &["list"], 1);
    assert!(cause.contains("KMS denies this image the key"), "{cause}");
}

#[test]
fn a_host_that_changes_its_credentials_between_two_questions_does_not_make_a_root_seem_denied() {
    let world = World::new();
    // The host asks for these anew each time.
    let expired = "2020-01-01T00:00:00Z";
    world.metadata.give("AKIDTEST", "secret", "token", expired);
    let engine = world.initialised("one");
    world.done(&[&engine], &["rotate", "--app", "shop", "--now"]);
    world.kms.key(ACCOUNT, KEY, policy(&["1", "2"]));
    world.refused(&[&engine], &["destroy", "--kid", "1"], 5);
    let known = |id: &str, foreign| Credentials {
        id: id.to_owned(),
        secret: "secret".to_owned(),
        token: "token".to_owned(),
        expired: false,
        foreign,
    };
    world.kms.credentials(vec![known("AKIDTEST", false), known("AKIDFOREIGN", true)]);
    // Every second time they are of a role that may open nothing.
    world.metadata.give_in_turn(&["AKIDTEST", "AKIDFOREIGN"], "secret", "token", expired);
    for _ in 0..4 {
        let output = world.keys(&[&engine], &["destroy", "--verify"], b"");
        let said = String::from_utf8(output.stdout).unwrap();
        assert!(!output.status.success() && !said.contains("KMS denies it"), "{said}");
    }
    let signers: Vec<_> = world.kms.calls().into_iter().map(|call| (call.signer, call.outcome)).collect();
    for expected in [("AKIDTEST", "200"), ("AKIDFOREIGN", "AccessDeniedException")] {
        let expected = (expected.0.to_owned(), expected.1.to_owned());
        assert!(signers.contains(&expected), "{expected:?}: {signers:?}");
    }
}

#[test]
fn a_destruction_that_broke_off_loses_nothing_and_is_ended_by_the_next() {
    let world = World::new();
    let mut engine = world.initialised("one");
    let token = world.seal(&engine);
    world.done(&[&engine], &["rotate", "--app", "shop", "--now"]);
    world.kms.key(ACCOUNT, KEY, policy(&["1", "2"]));
    let before = fs::read(world.file("blobs").join("keyring")).unwrap();
    world.refused(&[&engine], &["destroy", "--kid", "1"], 5);
    // As a crash between the two writes leaves it: both roots, and the keyring under the first.
    engine.process.kill();
    fs::write(world.file("blobs").join("keyring"), &before).unwrap();
    let again = world.start("again");
    assert!(world.listed(&again).contains("root version 1"));
    assert_eq!(world.open(&again, &token).unwrap(), b"4242");
    let calls = world.kms.calls().iter().filter(|call| call.action == "GenerateDataKey").count();
    world.refused(&[&again], &["destroy", "--kid", "1"], 5);
    let made = world.kms.calls().iter().filter(|call| call.action == "GenerateDataKey").count();
    assert_eq!(made, calls, "the root that is there is used");
    assert!(world.listed(&again).contains("root version 2"));
    assert_eq!(world.open(&again, &token), Err(Refusal::NotAuthentic));
}

#[test]
fn an_enclave_decides_by_the_signed_policy_in_its_hosts_store() {
    let world = World::new();
    let pem = fs::read_to_string(world.file("admin.pem")).unwrap();
    let signer = AdminKey::from_pem(&pem).unwrap();
    // Nobody but the signers of policies is measured into this image: no relay, and no role.
    let mut inputs: serde_json::Value = serde_json::from_slice(&fs::read(world.file("inputs.json")).unwrap()).unwrap();
    let measured = inputs.as_object_mut().unwrap();
    measured.remove("apps");
    measured.remove("relays");
    measured.insert("policy".to_owned(), serde_json::json!({"signers": [hex(signer.public())], "threshold": 1}));
    fs::write(world.file("inputs.json"), inputs.to_string()).unwrap();
    let engine = world.initialised("one");
    let card = || Role::parse("card").unwrap();
    let seal = || world.try_ask(&engine, |w| w.seal(card(), ValueType::String, b"4242", false).unwrap());
    assert!(seal().is_err(), "without a policy nobody comes in");
    let put = |version: u32, may: &str, by: &AdminKey| {
        let text = format!(
            "version: {version}\napp: shop\nroles: {{card: {{}}}}\nprincipals: {{edge: {{relay: {{spki: 'sha256:{}'}}}}}}\n\
             grants: [{{who: edge, may: {may}, roles: [card]}}]\n",
            hex(&world.relay.hash())
        );
        let signed = e3_enclave::policy::signed::sign(text.as_bytes(), by).unwrap();
        fs::write(world.file("blobs/policy.new"), signed).unwrap();
        fs::rename(world.file("blobs/policy.new"), world.file("blobs/policy")).unwrap();
    };
    put(1, "[seal, open]", &AdminKey::generate().unwrap());
    let audited = |what: &str| fs::read_to_string(world.file("audit.jsonl")).unwrap_or_default().contains(what);
    eventually("a stranger's policy is refused", || audited("\"why\":\"too-few-signatures\"").then_some(()));
    assert!(seal().is_err());
    put(1, "[seal, open]", &signer);
    let mut token = Vec::new();
    eventually("the policy is in force", || match seal() {
        Ok(Ok(sealed)) => {
            token = sealed;
            Some(())
        }
        _ => None,
    });
    assert_eq!(world.open(&engine, &token), Ok(b"4242".to_vec()));
    put(2, "seal", &signer);
    eventually("the grant is taken back", || (world.open(&engine, &token) == Err(Refusal::NotPermitted)).then_some(()));
    assert!(
        audited("\"event\":\"policy-loaded\",\"version\":1") && audited("\"event\":\"policy-loaded\",\"version\":2")
    );
    // The host can put the older one back; this engine does not take it.
    put(1, "[seal, open]", &signer);
    eventually("it is refused", || audited("\"why\":\"rolled-back\"").then_some(()));
    assert_eq!(world.open(&engine, &token), Err(Refusal::NotPermitted));
}
