//! The engine's way to its root key, with a real host between it and a KMS that does what AWS's does, or misbehaves: keys come from the measured key for this image alone, and each
//! failure has its own cause.

#[path = "../src/kms_double/mod.rs"]
mod kms_double;

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use e3_attest::make::{Authority, Content};
use e3_attest::{Pcr, Request};
use e3_enclave::Error;
use e3_enclave::keyring::unlock::{self, Expected, KmsRoot, RootSource};
use e3_enclave::keyring::{Live, UnlockError};
use e3_enclave::kms::client::{Kms, Way};
use e3_enclave::kms::{KmsTarget, RootContext};
use e3_enclave::parent::BlobStore;
use e3_link::attested::Attester;
use e3_tests::backend::Backend;
use e3_tests::client::{get, json_request, once};
use e3_tests::host::{Host, MetadataService};
use e3_tests::process::{Program, Signal};
use e3_tests::stack::{Relay, folder};
use e3_tests::{eventually, port};
use kms_double::{ACCOUNT, Credentials, Fault, HOST, KeyPolicy, KmsThatVerifies};
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

/// Time for one try; a test of a hanging service waits for a few of them.
const TRY: Duration = Duration::from_secs(2);
const KEY: &str = "1234abcd-12ab-34cd-56ef-1234567890ab";
const FOREVER: &str = "2099-01-01T00:00:00Z";

/// A security module whose PCR0 is this byte.
struct Module(Arc<Authority>, u8);

impl Attester for Module {
    fn document(&self, request: &Request) -> Option<Vec<u8>> {
        let pcrs = [(0, self.1), (1, 2), (2, 3)].map(|(index, byte)| (index, Pcr::new([byte; 48])));
        self.0.sign(&Content::new(SystemTime::now(), pcrs, request.clone())).ok()
    }
}

/// A host, its metadata service, and the KMS that it leads to.
struct World {
    kms: KmsThatVerifies,
    metadata: MetadataService,
    host: Host,
    authority: Arc<Authority>,
    arn: String,
    _folder: tempfile::TempDir,
}

fn policy() -> KeyPolicy {
    let only = |name: &str, value: &str| (name.to_owned(), vec![value.to_owned()]);
    KeyPolicy {
        pcrs: Some(BTreeMap::from([(0, Pcr::new([1; 48]))])),
        context: BTreeMap::from([
            only("e3:purpose", "root"),
            only("e3:environment", "test"),
            only("e3:root-version", "1"),
        ]),
    }
}

impl World {
    fn new() -> Self {
        Self::served_as(HOST)
    }

    /// A KMS whose certificate is for this name.
    fn served_as(name: &str) -> Self {
        let folder = folder();
        let authority = Arc::new(Authority::new(SystemTime::now(), Duration::from_secs(86_400)).unwrap());
        let kms = KmsThatVerifies::start(authority.root(), name);
        let metadata = MetadataService::start();
        metadata.give("AKIDTEST", "secret", "token", FOREVER);
        let host = Host::start(folder.path(), kms.address(), metadata.address());
        let arn = kms.key(ACCOUNT, KEY, policy());
        Self { kms, metadata, host, authority, arn, _folder: folder }
    }

    fn target(&self, roots: &str) -> KmsTarget {
        let mut store = RootCertStore::empty();
        for root in CertificateDer::pem_slice_iter(roots.as_bytes()) {
            store.add(root.unwrap()).unwrap();
        }
        KmsTarget::at(self.arn.parse().unwrap(), HOST, self.kms.address().port(), store).unwrap()
    }

    /// An engine of the image whose PCR0 is this byte, that believes these authorities of TLS.
    fn engine(&self, pcr0: u8, roots: &str) -> KmsRoot {
        let at = |service: &str| self.host.endpoint(service).parse().unwrap();
        let way = Way { forwarder: at("kms"), credentials: at("credentials"), timeout: TRY };
        let module = Arc::new(Module(Arc::clone(&self.authority), pcr0));
        KmsRoot::new(Kms::new(&self.target(roots), &way, module).unwrap()).unwrap()
    }

    fn blobs(&self) -> Arc<BlobStore> {
        Arc::new(BlobStore::new(self.host.endpoint("store").parse().unwrap(), TRY).unwrap())
    }

    fn blob(&self, name: &str) -> PathBuf {
        self.host.file("blobs").join(name)
    }

    fn init(&self) -> Result<Live, Error> {
        unlock::init(&self.blobs(), &self.engine(1, self.kms.roots()), &expected())
    }

    fn open(&self) -> Result<Live, Error> {
        unlock::open(&self.blobs(), &self.engine(1, self.kms.roots()), &expected())
    }
}

fn expected() -> Expected {
    Expected { environment: "test".into(), keyring: None }
}

/// Why there are no keys: the line for people and the exit code.
fn refusal(result: Result<Live, Error>) -> (String, u8) {
    match result.map(|_| ()) {
        Err(error @ Error::Unlock(_)) => (error.to_string(), error.exit_code()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_keyring_is_made_inside_the_engine_and_opened_by_the_next_one() {
    let world = World::new();
    let (cause, code) = refusal(world.open());
    assert!(cause.contains("no keyring") && code == 7, "{cause}");
    let made = world.init().unwrap();
    made.create_app(e3_wire::App::parse("shop").unwrap()).unwrap();
    let opened = world.open().unwrap();
    assert_eq!(opened.current().id_bytes(), made.current().id_bytes());
    assert_eq!(opened.current().epoch(), 2);
    assert_eq!(opened.current().list().count(), 3);
    let calls = world.kms.calls();
    assert_eq!(calls.iter().map(|c| c.action.as_str()).collect::<Vec<_>>(), ["GenerateDataKey", "Decrypt"]);
    for call in &calls {
        assert_eq!((call.key.as_str(), call.outcome.as_str()), (world.arn.as_str(), "200"));
        let context: Vec<_> = call.context.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let id = made.current().id();
        let expected =
            [("e3:environment", "test"), ("e3:keyring", id.as_str()), ("e3:purpose", "root"), ("e3:root-version", "1")];
        assert_eq!(context, expected);
    }
    // Once, and never over what is there.
    let (cause, code) = refusal(world.init());
    assert!(cause.contains("never written over") && code == 3, "{cause}");
}

#[test]
fn an_answer_that_is_not_for_this_engine_alone_gives_no_key() {
    let world = World::new();
    world.init().unwrap();
    let foreign = world.kms.key("999988887777", KEY, KeyPolicy::default());
    let sibling = world.kms.key(ACCOUNT, "ffffffff-12ab-34cd-56ef-1234567890ab", KeyPolicy::default());
    for (fault, cause, code) in [
        (Fault::PlaintextBeside, "plaintext although a recipient was given", 6),
        (Fault::PlaintextInstead, "plaintext although a recipient was given", 6),
        (Fault::NoEnvelope, "no ciphertext for the recipient", 6),
        (Fault::OtherKeyId(foreign.clone()), "from another key", 6),
        (Fault::OtherKeyId(sibling.clone()), "from another key", 6),
        (Fault::ForeignEnvelope, "does not open with this enclave's key", 6),
        (Fault::GarbageEnvelope, "does not open with this enclave's key", 6),
        (Fault::Error("AccessDeniedException", 1), "denies access", 5),
        (Fault::Error("DisabledException", 1), "DisabledException", 1),
        (Fault::Error("ExpiredTokenException", 1), "refuses the credentials", 4),
        (Fault::Close, "cannot be reached", 4),
    ] {
        world.kms.misbehave(Some(fault.clone()));
        let (said, exit) = refusal(world.open());
        assert!(said.contains(cause) && exit == code, "{fault:?}: {exit} {said}");
        assert!(!said.contains('\n'), "{said}");
    }
    world.kms.misbehave(Some(Fault::Nonsense));
    let (said, exit) = refusal(world.open());
    assert!(exit == 1 || exit == 4, "{exit} {said}");
    // A key that the host planted: the ciphertext names the measured one, so a foreign one does not open it.
    world.kms.misbehave(Some(Fault::OtherKey(foreign)));
    let (said, _) = refusal(world.open());
    assert!(said.contains("IncorrectKeyException"), "{said}");
    world.kms.misbehave(None);
    world.open().unwrap();
}

#[test]
fn a_root_that_a_host_planted_is_refused_when_it_is_made() {
    for (fault, cause) in [
        (Fault::ShortKey(16), "does not open with this enclave's key"),
        (Fault::ShortKey(33), "does not open with this enclave's key"),
        (Fault::PlaintextBeside, "plaintext although"),
    ] {
        let world = World::new();
        world.kms.misbehave(Some(fault.clone()));
        let (said, _) = refusal(world.init());
        assert!(said.contains(cause), "{fault:?}: {said}");
        assert!(!world.blob("root").exists() && !world.blob("keyring").exists(), "{fault:?}: something was stored");
    }
    // The host's own key, of its own account, behind a KMS that says so.
    let world = World::new();
    let foreign = world.kms.key("999988887777", KEY, KeyPolicy::default());
    world.kms.misbehave(Some(Fault::OtherKey(foreign.clone())));
    let (said, code) = refusal(world.init());
    assert!(said.contains(&foreign) && said.contains(&world.arn) && code == 6, "{said}");
    assert!(!world.blob("root").exists());
}

#[test]
fn another_image_or_another_environment_gets_no_key() {
    let world = World::new();
    world.init().unwrap();
    let blobs = world.blobs();
    let other_image = unlock::open(&blobs, &world.engine(9, world.kms.roots()), &expected());
    let (said, code) = refusal(other_image);
    assert!(said.contains("denies access") && said.contains("PCR0") && code == 5, "{said}");
    let elsewhere = Expected { environment: "production".into(), keyring: None };
    let (said, code) = refusal(unlock::open(&blobs, &world.engine(1, world.kms.roots()), &elsewhere));
    assert!(said.contains("denies access") && code == 5, "{said}");
    // The policy stops allowing a version, and the old files open nothing.
    let mut destroyed = policy();
    destroyed.context.insert("e3:root-version".to_owned(), vec!["2".to_owned()]);
    world.kms.key(ACCOUNT, KEY, destroyed);
    assert_eq!(refusal(world.open()).1, 5);
}

#[test]
fn a_context_that_the_policy_would_allow_does_not_open_another_contexts_root() {
    let world = World::new();
    world.kms.key(ACCOUNT, KEY, KeyPolicy { context: BTreeMap::new(), ..policy() });
    world.init().unwrap();
    let elsewhere = Expected { environment: "production".into(), keyring: None };
    let (said, code) = refusal(unlock::open(&world.blobs(), &world.engine(1, world.kms.roots()), &elsewhere));
    assert!(said.contains("InvalidCiphertextException") && code == 1, "{said}");
    let context = |root_version| RootContext { environment: "test".into(), keyring: [7; 16], root_version };
    let engine = world.engine(1, world.kms.roots());
    let (wrapped, _) = engine.generate(&context(1)).unwrap();
    assert!(engine.unwrap(&wrapped, &context(2)).is_err());
    assert!(engine.unwrap(&wrapped, &context(1)).is_ok());
}

#[test]
fn a_look_alike_endpoint_gets_no_request() {
    let elsewhere = World::served_as("kms.evil.example");
    let (said, code) = refusal(elsewhere.init());
    assert!(said.contains("certificate is refused") && code == 6, "{said}");
    assert!(elsewhere.kms.calls().is_empty());
    let world = World::new();
    let roots = elsewhere.kms.roots();
    let (said, code) = refusal(unlock::init(&world.blobs(), &world.engine(1, roots), &expected()));
    assert!(said.contains("certificate is refused") && code == 6, "{said}");
    assert!(world.kms.calls().is_empty());
}

#[test]
fn credentials_are_used_until_they_expire_and_then_renewed() {
    let world = World::new();
    world.init().unwrap();
    let engine = world.engine(1, world.kms.roots());
    let open = || unlock::open(&world.blobs(), &engine, &expected());
    open().unwrap();
    let known = |id: &str, expired| Credentials {
        id: id.to_owned(),
        secret: "secret".to_owned(),
        token: "token".to_owned(),
        expired,
        foreign: false,
    };
    // What the host still hands over has been revoked; KMS says so, and it is not the key policy's fault.
    world.kms.credentials(vec![known("AKIDTEST", true), known("AKIDNEXT", false)]);
    let (said, code) = refusal(open());
    assert!(said.contains("refuses the credentials") && code == 4, "{said}");
    // Expired ones are not used again: the next start asks the host, and the host the metadata service.
    let world = World::new();
    world.metadata.give("AKIDTEST", "secret", "token", "2020-01-01T00:00:00Z");
    world.init().unwrap();
    world.kms.credentials(vec![known("AKIDNEXT", false)]);
    world.metadata.give("AKIDNEXT", "secret", "token", FOREVER);
    world.open().unwrap();
    let signers: Vec<_> = world.kms.calls().into_iter().map(|call| call.signer).collect();
    assert_eq!(signers, ["AKIDTEST", "AKIDNEXT"]);
    // One engine: its host's credentials are revoked long before they expire, and renewed.
    let world = World::new();
    world.metadata.give("AKIDTEST", "secret", "token", &soon());
    let engine = world.engine(1, world.kms.roots());
    unlock::init(&world.blobs(), &engine, &expected()).unwrap();
    world.kms.credentials(vec![known("AKIDTEST", true), known("AKIDNEXT", false)]);
    let (said, _) = refusal(unlock::open(&world.blobs(), &engine, &expected()));
    assert!(said.contains("refuses the credentials"), "{said}");
    world.metadata.give("AKIDNEXT", "secret", "token", &soon());
    unlock::open(&world.blobs(), &engine, &expected()).unwrap();
    // A host without a role.
    let world = World::new();
    let metadata = MetadataService::start();
    let folder = folder();
    let host = Host::start(folder.path(), world.kms.address(), metadata.address());
    let at = |service: &str| host.endpoint(service).parse().unwrap();
    let way = Way { forwarder: at("kms"), credentials: at("credentials"), timeout: TRY };
    let module = Arc::new(Module(Arc::clone(&world.authority), 1));
    let engine = KmsRoot::new(Kms::new(&world.target(world.kms.roots()), &way, module).unwrap()).unwrap();
    let (said, code) = refusal(unlock::init(&world.blobs(), &engine, &expected()));
    assert!(said.contains("no credentials") && code == 4, "{said}");
}

/// In four minutes: the host asks for credentials anew from five minutes before they expire.
fn soon() -> String {
    let at = SystemTime::now() + Duration::from_secs(240);
    let seconds = at.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let date = std::process::Command::new("date").args(["-u", "-d", &format!("@{seconds}"), "+%FT%TZ"]).output();
    String::from_utf8(date.unwrap().stdout).unwrap().trim().to_owned()
}

#[test]
fn credentials_that_hang_or_that_are_none_are_said_to_be_the_hosts_fault() {
    let world = World::new();
    for (id, secret, token) in [
        ("AKIDTEST\\r\\nx-amz-target: TrentService.Encrypt", "secret", "token"),
        ("AKID/TEST", "secret", "token"),
        ("", "secret", "token"),
        ("AKIDTEST", "", "token"),
        ("AKIDTEST", "secret", "to\\u0000ken"),
        ("AKIDTEST", "secret", &"t".repeat(17_000)),
    ] {
        world.metadata.give(id, secret, token, &soon());
        let (said, code) = refusal(world.init());
        assert!(said.contains("no credentials") && code == 4, "{id}: {said}");
        assert!(!said.contains("AKID"), "{said}");
    }
    assert!(world.kms.calls().is_empty());
    // A metadata service that takes the question and says nothing: KMS is not to blame.
    let hanging = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let folder = folder();
    let host = Host::start(folder.path(), world.kms.address(), hanging.local_addr().unwrap());
    let at = |service: &str| host.endpoint(service).parse().unwrap();
    let way = Way { forwarder: at("kms"), credentials: at("credentials"), timeout: TRY };
    let module = Arc::new(Module(Arc::clone(&world.authority), 1));
    let engine = KmsRoot::new(Kms::new(&world.target(world.kms.roots()), &way, module).unwrap()).unwrap();
    let (said, code) = refusal(unlock::init(&world.blobs(), &engine, &expected()));
    assert!(said.contains("no credentials") && code == 4, "{said}");
}

/// A security module that signs something else than it is asked for.
struct Deviating<F>(F);

impl<F: Fn(&Request) -> Option<Vec<u8>> + Send + Sync> Attester for Deviating<F> {
    fn document(&self, request: &Request) -> Option<Vec<u8>> {
        (self.0)(request)
    }
}

#[test]
fn a_document_that_is_old_or_of_another_authority_or_without_a_key_gets_no_key() {
    let world = World::new();
    world.init().unwrap();
    let pcrs = || [(0, 1), (1, 2), (2, 3)].map(|(index, byte)| (index, Pcr::new([byte; 48])));
    let signed = |authority: &Arc<Authority>, age: u64| {
        let authority = Arc::clone(authority);
        move |request: &Request| {
            let at = SystemTime::now() - Duration::from_secs(age);
            authority.sign(&Content::new(at, pcrs(), request.clone())).ok()
        }
    };
    let other = Arc::new(Authority::new(SystemTime::now(), Duration::from_secs(86_400)).unwrap());
    let generate = |module: Arc<dyn Attester>| {
        let at = |service: &str| world.host.endpoint(service).parse().unwrap();
        let way = Way { forwarder: at("kms"), credentials: at("credentials"), timeout: TRY };
        let engine = KmsRoot::new(Kms::new(&world.target(world.kms.roots()), &way, module).unwrap()).unwrap();
        let context = RootContext { environment: "test".into(), keyring: [7; 16], root_version: 1 };
        engine.generate(&context).map(|_| ()).map_err(|error| error.to_string())
    };
    assert_eq!(generate(Arc::new(Deviating(signed(&world.authority, 0)))), Ok(()));
    let said = generate(Arc::new(Deviating(signed(&other, 0)))).unwrap_err();
    assert!(said.contains("ValidationException"), "{said}");
    let keyless = Arc::clone(&world.authority);
    let keyless =
        Deviating(move |_: &Request| keyless.sign(&Content::new(SystemTime::now(), pcrs(), Request::default())).ok());
    assert!(generate(Arc::new(keyless)).unwrap_err().contains("ValidationException"));
    let said = generate(Arc::new(Deviating(|_: &Request| None))).unwrap_err();
    assert!(said.contains("no attestation document"), "{said}");
    let said = generate(Arc::new(Deviating(signed(&world.authority, 600)))).unwrap_err();
    assert!(said.contains("ValidationException"), "{said}");
    assert!(generate(Arc::new(Deviating(signed(&world.authority, 60)))).is_ok());
}

#[test]
fn a_busy_kms_is_asked_again_and_a_hanging_one_not_for_ever() {
    let world = World::new();
    world.init().unwrap();
    for code in ["ThrottlingException", "KMSInternalException"] {
        let before = world.kms.calls().len();
        world.kms.misbehave(Some(Fault::Error(code, 2)));
        world.open().unwrap();
        assert_eq!(world.kms.calls().len() - before, 3, "{code}");
        world.kms.misbehave(Some(Fault::Error(code, 100)));
        let (said, exit) = refusal(world.open());
        assert!(said.contains(code) && exit == 1, "{said}");
    }
    world.kms.misbehave(Some(Fault::Hang));
    let begun = Instant::now();
    let (said, exit) = refusal(world.open());
    assert!(said.contains("too long") && exit == 4, "{said}");
    // Generous: four tries, what lies between them, and a busy machine.
    assert!(begun.elapsed() < TRY * 15, "{:?}", begun.elapsed());
}

#[test]
fn a_store_that_was_tampered_with_is_refused_with_its_cause() {
    let world = World::new();
    let made = world.init().unwrap();
    made.create_app(e3_wire::App::parse("shop").unwrap()).unwrap();
    let (root, keyring) = (fs::read(world.blob("root")).unwrap(), fs::read(world.blob("keyring")).unwrap());
    let other = World::new();
    other.init().unwrap();
    let of_other = |name: &str| fs::read(other.blob(name)).unwrap();
    let flipped = |bytes: &[u8], at: usize| {
        let mut bytes = bytes.to_vec();
        let at = at.min(bytes.len() - 1);
        bytes[at] ^= 1;
        bytes
    };
    let with = |of_root: Option<&[u8]>, of_keyring: Option<&[u8]>| {
        for (name, bytes) in [("root", of_root), ("keyring", of_keyring)] {
            drop(fs::remove_file(world.blob(name)));
            if let Some(bytes) = bytes {
                fs::write(world.blob(name), bytes).unwrap();
            }
        }
        refusal(world.open())
    };
    for (what, (said, code), cause, exit) in [
        ("no root", with(None, Some(&keyring)), "without its root record", 3),
        ("no keyring", with(Some(&root), None), "without its keyring", 3),
        ("a truncated root", with(Some(&root[..20]), Some(&keyring)), "truncated or malformed", 3),
        ("another root", with(Some(&of_other("root")), Some(&keyring)), "mixes two keyrings", 3),
        ("another keyring", with(Some(&root), Some(&of_other("keyring"))), "mixes two keyrings", 3),
        ("an altered ciphertext", with(Some(&flipped(&root, 999)), Some(&keyring)), "InvalidCiphertextException", 1),
        ("an altered keyring id", with(Some(&flipped(&root, 6)), Some(&keyring)), "mixes two keyrings", 3),
        ("another root version", with(Some(&flipped(&root, 23)), Some(&keyring)), "mixes two states", 3),
        (
            "and the same in the keyring",
            with(Some(&flipped(&root, 23)), Some(&flipped(&keyring, 23))),
            "denies access",
            5,
        ),
        ("a truncated keyring", with(Some(&root), Some(&keyring[..keyring.len() - 1])), "is refused", 3),
        ("an altered keyring", with(Some(&root), Some(&flipped(&keyring, keyring.len() / 2))), "is refused", 3),
    ] {
        assert!(said.contains(cause) && code == exit, "{what}: {code} {said}");
    }
    // An image that is for one keyring alone.
    fs::write(world.blob("root"), &root).unwrap();
    fs::write(world.blob("keyring"), &keyring).unwrap();
    let engine = world.engine(1, world.kms.roots());
    let pinned = |keyring| Expected { environment: "test".into(), keyring: Some(keyring) };
    let (said, code) = refusal(unlock::open(&world.blobs(), &engine, &pinned([9; 16])));
    assert!(said.contains("another keyring than the image is for") && code == 3, "{said}");
    unlock::open(&world.blobs(), &engine, &pinned(*made.current().id_bytes())).unwrap();
    let (said, _) = refusal(unlock::init(&world.blobs(), &engine, &pinned([9; 16])));
    assert!(said.contains("makes no new one"), "{said}");
}

#[test]
fn an_init_that_broke_off_goes_on_with_the_root_that_is_there() {
    let world = World::new();
    world.init().unwrap();
    let root = fs::read(world.blob("root")).unwrap();
    fs::remove_file(world.blob("keyring")).unwrap();
    let again = world.init().unwrap();
    assert_eq!(fs::read(world.blob("root")).unwrap(), root);
    assert_eq!(world.open().unwrap().current().id_bytes(), again.current().id_bytes());
}

#[test]
fn a_host_that_is_gone_is_said_to_be_gone() {
    let mut world = World::new();
    world.init().unwrap();
    let blobs = world.blobs();
    let engine = world.engine(1, world.kms.roots());
    world.host.process().kill();
    let error = unlock::open(&blobs, &engine, &expected()).map(|_| ()).unwrap_err();
    assert!(matches!(&error, Error::Unlock(UnlockError::Host(_))), "{error}");
    assert!(error.exit_code() == 4 && error.to_string().contains("e3 host run"), "{error}");
}

/// An engine as an enclave starts it, in a process of its own, with its own host beside it.
struct Started {
    process: e3_tests::process::Running,
    endpoint: String,
}

impl World {
    fn start_engine(&self, name: &str, relay: &str) -> Started {
        let folder = self.host.file(name);
        fs::create_dir(&folder).unwrap();
        let file = |name: &str| folder.join(name).display().to_string();
        fs::write(folder.join("module"), self.authority.to_bytes()).unwrap();
        let inputs = serde_json::json!({
            "environment": "test",
            "kms": {"key": self.arn, "host": HOST, "port": self.kms.address().port(), "roots": self.kms.roots()},
            "relays": [relay],
            "apps": {"shop": {"roles": {"card-number": {}}}},
        });
        fs::write(folder.join("inputs.json"), inputs.to_string()).unwrap();
        let endpoint = format!("unix://{}", file("e3.sock"));
        let arguments = [
            "enclave".to_owned(),
            format!("--module={}", file("module")),
            format!("--inputs={}", file("inputs.json")),
            format!("--parent={}", self.host.file("").display()),
            format!("--listen={endpoint}"),
        ];
        Started { process: Program::E3.start(arguments, &folder.join("log")), endpoint }
    }

    /// Makes a relay's key that trusts this world's root of attestation; answers its hash.
    fn relay_key(&self) -> String {
        let file = self.host.file("relay.key");
        let made = Program::Relay.output(["key".as_ref(), "new".as_ref(), file.as_os_str()]);
        fs::write(self.host.file("relay.key.root"), self.authority.root()).unwrap();
        String::from_utf8(made.stdout).unwrap().trim().to_owned()
    }

    /// A relay in front of one engine, which seals on its way in and opens on its way back.
    fn start_relay(&self, name: &str, engine: &Started, backend: &Backend) -> (Relay, SocketAddr) {
        let (listen, pcr) = (port::free(), |byte: u8| format!("{byte:02x}").repeat(48));
        let rules = format!(
            "engine: {{endpoints: [\"{}\"], app: shop, timeout: 5s, attestation: {{pcr0: \"{}\", pcr1: \"{}\", pcr2: \"{}\"}}, key: {}, seen: {}}}\n\
             inbound:\n  - listen: {listen}\n    hosts: [api.shop.example]\n    backend: http://{}\n    rules:\n      - match: {{methods: [POST]}}\n        \
             request: {{seal: [{{select: $.a, role: card-number}}]}}\n        response: {{open: [{{select: $.b, roles: [card-number]}}]}}\n",
            engine.endpoint,
            pcr(1),
            pcr(2),
            pcr(3),
            self.host.file("relay.key").display(),
            self.host.file(&format!("{name}.seen")).display(),
            backend.address(),
        );
        (Relay::start(&self.host.file(""), name, &rules), listen)
    }
}

#[test]
fn two_engines_that_each_unwrapped_the_keyring_from_kms_open_each_others_tokens() {
    let world = World::new();
    world.init().unwrap().create_app(e3_wire::App::parse("shop").unwrap()).unwrap();
    let relay = world.relay_key();
    let (one, two) = (world.start_engine("one", &relay), world.start_engine("two", &relay));
    let stored = Backend::json("{}");
    let (sealing, listen) = world.start_relay("sealing", &one, &stored);
    sealing.wait_ready();
    let sealed = once(listen, &json_request("POST", "/v1", "api.shop.example", r#"{"a": "4242424242424242"}"#));
    assert_eq!(sealed.status, 200, "{}", sealed.text());
    let body: serde_json::Value = serde_json::from_str(stored.requests()[0].text()).unwrap();
    let token = body["a"].as_str().unwrap().to_owned();
    assert!(token.starts_with("e3v1.card-number.s."), "{token}");
    let answers = Backend::start(move |_| {
        let body = format!(r#"{{"b": "{token}"}}"#);
        let head =
            format!("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n", body.len());
        Some([head, body].concat().into_bytes())
    });
    let (opening, listen) = world.start_relay("opening", &two, &answers);
    opening.wait_ready();
    let opened = once(listen, &json_request("POST", "/v1", "api.shop.example", "{}"));
    assert_eq!((opened.status, opened.text()), (200, r#"{"b": "4242424242424242"}"#));
    // The record of the open is on the host's disk.
    let records = fs::read_to_string(world.host.file("audit.jsonl")).unwrap();
    assert!(records.contains(r#""verb":"open","role":"card-number","decision":"allowed""#), "{records}");
    assert!(!records.contains("4242424242424242"));
    for mut engine in [one, two] {
        engine.process.signal(Signal::TERM);
        assert!(engine.process.wait().success(), "{}", engine.process.log());
    }
    let said = world.host.log();
    assert!(said.contains("attested link") && !said.contains("4242") && !said.contains("secret"), "{said}");
}

#[test]
fn an_engine_waits_for_its_keys_and_says_what_it_waits_for() {
    let world = World::new();
    world.init().unwrap().create_app(e3_wire::App::parse("shop").unwrap()).unwrap();
    world.kms.key(ACCOUNT, KEY, KeyPolicy { pcrs: Some(BTreeMap::from([(0, Pcr::new([9; 48]))])), ..policy() });
    let relay = world.relay_key();
    let engine = world.start_engine("one", &relay);
    let backend = Backend::json("{}");
    let (waiting, listen) = world.start_relay("relay", &engine, &backend);
    let order =
        || once(listen, &json_request("POST", "/v1", "api.shop.example", r#"{"a": "4242424242424242"}"#)).status;
    eventually("the cause in the relay's /readyz", || {
        let answer = get(waiting.admin(), "/readyz");
        (answer.status == 503 && answer.text().contains("KMS denies this image the key")).then_some(())
    });
    assert!(world.host.page("/readyz").1.contains("denies access"), "{}", world.host.page("/readyz").1);
    assert_eq!(order(), 503);
    assert_eq!(backend.bytes(), 0);
    // Somebody mends the policy; nobody restarts anything.
    world.kms.key(ACCOUNT, KEY, policy());
    waiting.wait_ready();
    assert_eq!(order(), 200);
    assert!(!backend.requests()[0].text().contains("4242"));
}
