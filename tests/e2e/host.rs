//! The program on the parent instance, as a real process, asked as an engine asks it; and an engine beside it that has no keys yet.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, SystemTime};

use e3_attest::make::Authority;
use e3_enclave::parent::protocol::{Blob, State, Status};
use e3_enclave::parent::store::Put;
use e3_enclave::parent::{BlobStore, Health};
use e3_link::Endpoint;
use e3_tests::client::get;
use e3_tests::host::{Host, MetadataService};
use e3_tests::process::{Program, Signal};
use e3_tests::stack::{Relay, folder};
use e3_tests::{eventually, port};
use sha2::{Digest, Sha256};

const SOON: Duration = Duration::from_secs(10);

fn digest(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn at(host: &Host, service: &str) -> Endpoint {
    host.endpoint(service).parse().unwrap()
}

/// A host whose KMS is nobody.
fn host(folder: &Path) -> (Host, MetadataService) {
    let metadata = MetadataService::start();
    (Host::start(folder, port::free(), metadata.address()), metadata)
}

#[test]
fn a_blob_is_replaced_only_by_who_knows_the_one_before_and_older_ones_stay() {
    let folder = folder();
    let (host, _metadata) = host(folder.path());
    let store = BlobStore::new(at(&host, "store"), SOON).unwrap();
    assert_eq!(store.get(Blob::Keyring).unwrap(), None);
    assert_eq!(store.put(Blob::Keyring, Some([7; 32]), b"one").unwrap(), Put::Conflict);
    assert_eq!(store.put(Blob::Keyring, None, b"one").unwrap(), Put::Stored);
    assert_eq!(store.put(Blob::Keyring, None, b"two").unwrap(), Put::Conflict);
    for (before, after) in [("one", "two"), ("two", "three"), ("three", "four"), ("four", "five"), ("five", "six")] {
        assert_eq!(store.put(Blob::Keyring, Some(digest(before.as_bytes())), after.as_bytes()).unwrap(), Put::Stored);
    }
    assert_eq!(store.get(Blob::Keyring).unwrap().unwrap(), b"six");
    assert_eq!(store.look(Blob::Keyring).unwrap(), Some(digest(b"six")));
    assert_eq!(store.get(Blob::Root).unwrap(), None, "blobs are apart");
    let mut kept: Vec<_> = fs::read_dir(host.file("blobs"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name().to_str().is_some_and(|name| name.starts_with("keyring.")))
        .map(|entry| fs::read_to_string(entry.path()).unwrap())
        .collect();
    kept.sort_unstable();
    assert_eq!(kept, ["five", "four", "three"]);
    let mode = fs::metadata(host.file("blobs/keyring")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn a_host_that_cannot_write_says_so_and_keeps_what_it_has() {
    let folder = folder();
    let metadata = MetadataService::start();
    let host = Host::start(folder.path(), port::free(), metadata.address());
    let store = BlobStore::new(at(&host, "store"), SOON).unwrap();
    assert_eq!(store.put(Blob::Root, None, b"good").unwrap(), Put::Stored);
    // Whoever may do everything is not stopped by permissions: a folder where the temporary file belongs is.
    fs::remove_dir_all(host.file("blobs")).unwrap();
    assert!(store.put(Blob::Root, None, b"lost").is_err(), "what is not on the disk was acknowledged");
    assert!(host.log().contains("the store failed"), "{}", host.log());
}

#[test]
fn bytes_go_to_the_configured_endpoint_and_nowhere_else() {
    let folder = folder();
    let kms = TcpListener::bind("127.0.0.1:0").unwrap();
    let metadata = MetadataService::start();
    let host = Host::start(folder.path(), kms.local_addr().unwrap(), metadata.address());
    let mut enclave = UnixStream::connect(host.file("kms")).unwrap();
    // What looks like a proxy's request is bytes like any other.
    enclave.write_all(b"CONNECT evil.example:443 HTTP/1.1\r\n\r\n").unwrap();
    let (mut arrived, _) = kms.accept().unwrap();
    let mut seen = [0; 37];
    arrived.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"CONNECT evil.example:443 HTTP/1.1\r\n\r\n");
    arrived.write_all(b"answer").unwrap();
    drop(arrived);
    let mut answer = String::new();
    enclave.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "answer");
}

#[test]
fn the_metadata_service_cannot_be_reached_through_the_way_to_kms() {
    let folder = folder();
    let metadata = MetadataService::start();
    let host = Host::start(folder.path(), "169.254.169.254:80".parse().unwrap(), metadata.address());
    let mut enclave = UnixStream::connect(host.file("kms")).unwrap();
    drop(enclave.write_all(b"GET / HTTP/1.1\r\n\r\n"));
    let mut answer = String::new();
    let _: std::io::Result<usize> = enclave.read_to_string(&mut answer);
    assert_eq!(answer, "");
    eventually("the cause in the log", || host.log().contains("link-local").then_some(()));
}

#[test]
fn credentials_are_handed_over_and_renewed_and_never_logged() {
    let folder = folder();
    let (host, metadata) = host(folder.path());
    let ask = || {
        let mut enclave = UnixStream::connect(host.file("credentials")).unwrap();
        let request =
            "GET /latest/meta-data/iam/security-credentials HTTP/1.1\r\nhost: e3\r\nconnection: close\r\n\r\n";
        enclave.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        enclave.read_to_string(&mut answer).unwrap();
        answer
    };
    assert!(ask().starts_with("HTTP/1.1 503 "), "no role, no credentials");
    metadata.give("AKIDONE", "first-secret", "first-token", "2020-01-01T00:00:00Z");
    let answer = ask();
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("first-secret"), "{answer}");
    // Expired ones are asked for anew, those of tomorrow are kept.
    metadata.give("AKIDTWO", "second-secret", "second-token", "2099-01-01T00:00:00Z");
    assert!(ask().contains("second-secret"));
    let before = metadata.requests().len();
    assert!(ask().contains("second-secret"));
    assert_eq!(metadata.requests().len(), before);
    for secret in ["first-secret", "first-token", "second-secret", "second-token"] {
        assert!(!host.log().contains(secret), "{}", host.log());
    }
}

#[test]
fn the_page_says_how_the_engine_is_and_when_it_has_gone_quiet() {
    let folder = folder();
    let (host, _metadata) = host(folder.path());
    assert_eq!(host.page("/healthz").0, 200);
    let (status, body) = host.page("/readyz");
    assert_eq!(status, 503);
    assert!(body.contains("has not said anything"), "{body}");
    let health = Health::start(at(&host, "health")).unwrap();
    let failed =
        Status { state: State::Failed, epoch: 0, cause: "KMS denies\naccess".to_owned(), counters: Vec::new() };
    health.report(failed);
    health.log(e3_enclave::parent::protocol::Level::Warn, "a line of the engine");
    assert!(health.flush(SOON));
    // What was said is on its way, and not yet heard.
    eventually("the cause on the page", || {
        let (status, body) = host.page("/readyz");
        (status == 503 && body.contains("KMS denies")).then_some(())
    });
    eventually("the engine's line in the host's log", || host.log().contains("a line of the engine").then_some(()));
    health.report(Status {
        state: State::Ready,
        epoch: 7,
        cause: String::new(),
        counters: vec![("opened".to_owned(), 3)],
    });
    assert!(health.flush(SOON));
    eventually("readiness on the page", || (host.page("/readyz").0 == 200).then_some(()));
    let page: serde_json::Value = serde_json::from_str(&host.page("/status").1).unwrap();
    assert_eq!(page["engine"]["keyring_epoch"], 7);
    assert_eq!(page["engine"]["counters"]["opened"], 3);
    // The file follows the page.
    eventually("the engine's state in the file", || {
        let file: serde_json::Value = serde_json::from_str(&fs::read_to_string(host.file("status.json")).ok()?).ok()?;
        (file["ready"] == true).then_some(())
    });
}

#[test]
fn what_is_no_message_ends_that_connection_alone() {
    let folder = folder();
    let (mut host, _metadata) = host(folder.path());
    let store = BlobStore::new(at(&host, "store"), SOON).unwrap();
    assert_eq!(store.put(Blob::Root, None, b"kept").unwrap(), Put::Stored);
    for service in ["store", "audit", "health"] {
        for bytes in [&[0xff; 64][..], &[0, 0, 0, 0], &[0, 0, 0, 2, 99, 1], b"GET / HTTP/1.1\r\n\r\n"] {
            let mut enclave = UnixStream::connect(host.file(service)).unwrap();
            enclave.write_all(bytes).unwrap();
            enclave.set_read_timeout(Some(SOON)).unwrap();
            let mut answer = Vec::new();
            // Closed with bytes unread, a socket may say so instead of ending.
            if let Err(error) = enclave.read_to_end(&mut answer) {
                assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{service}");
            }
            assert!(answer.is_empty(), "{service} answered");
        }
    }
    assert!(host.process().ended().is_none());
    assert_eq!(store.get(Blob::Root).unwrap().unwrap(), b"kept");
}

#[test]
fn two_hosts_never_share_a_store_and_a_new_one_takes_over() {
    let folder = folder();
    let (mut first, metadata) = host(folder.path());
    let config = first.file("e3-host.yaml");
    let second = Program::E3.output(["host".as_ref(), "run".as_ref(), "--config".as_ref(), config.as_os_str()]);
    assert_eq!(second.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&second.stderr).contains("another process uses this store"));
    let store = BlobStore::new(at(&first, "store"), SOON).unwrap();
    assert_eq!(store.put(Blob::Root, None, b"kept").unwrap(), Put::Stored);
    first.process().signal(Signal::TERM);
    assert!(first.process().wait().success());
    let again = Host::start(folder.path(), port::free(), metadata.address());
    // The engine's connection broke; its next question finds the new host.
    assert_eq!(store.get(Blob::Root).unwrap().unwrap(), b"kept");
    drop(again);
}

#[test]
fn an_enclave_that_ended_is_started_again() {
    let folder = folder();
    let metadata = MetadataService::start();
    // Takes what nitro-cli takes: an enclave is a file here, which the test removes when it is to end.
    let nitro = folder.path().join("nitro");
    let running = folder.path().join("running");
    let script = format!(
        "#!/bin/sh\ncase \"$1\" in\ndescribe-enclaves) if [ -e {0} ]; then echo '[{{\"EnclaveName\":\"e3\",\"State\":\"RUNNING\",\"Flags\":\"NONE\"}}]'; else echo '[]'; fi ;;\n\
         run-enclave) echo \"$@\" >> {0}.calls; : > {0} ;;\nesac\n",
        running.display()
    );
    fs::write(&nitro, script).unwrap();
    fs::set_permissions(&nitro, fs::Permissions::from_mode(0o755)).unwrap();
    let enclave = format!(
        "enclave: {{command: [\"{}\"], image: e3.eif, cpus: 2, memory_mib: 512, cid: 16, look_ms: 50}}\n",
        nitro.display()
    );
    let sockets = e3_tests::host::SERVICES.map(|name| folder.path().join(name));
    let host = Host::start_with(folder.path(), port::free(), metadata.address(), sockets, &enclave);
    let calls = || fs::read_to_string(running.with_extension("calls")).unwrap_or_default();
    eventually("the enclave's start", || (calls().lines().count() == 1).then_some(()));
    let expected = format!(
        "run-enclave --enclave-name e3 --eif-path {} --cpu-count 2 --memory 512 --enclave-cid 16",
        folder.path().join("e3.eif").display()
    );
    assert_eq!(calls().trim_end(), expected);
    eventually("the enclave's state on the page", || host.page("/status").1.contains("running").then_some(()));
    fs::remove_file(&running).unwrap();
    eventually("its second start", || (calls().lines().count() == 2).then_some(()));
}

#[test]
fn an_engine_without_keys_says_why_to_its_host_and_to_relays() {
    let folder = folder();
    let (host, _metadata) = host(folder.path());
    let authority = Authority::new(SystemTime::now(), Duration::from_secs(86_400)).unwrap();
    fs::write(folder.path().join("module"), authority.to_bytes()).unwrap();
    let key = folder.path().join("relay.key");
    let made = Program::Relay.output(["key".as_ref(), "new".as_ref(), key.as_os_str()]);
    fs::write(folder.path().join("relay.key.root"), authority.root()).unwrap();
    let hash = String::from_utf8(made.stdout).unwrap();
    let inputs = format!(
        r#"{{"environment": "test", "kms": {{"key": "arn:aws:kms:eu-central-1:111122223333:key/1234abcd-12ab-34cd-56ef-1234567890ab"}},
            "relays": ["{}"], "apps": {{"shop": {{"roles": {{"card-number": {{}}}}}}}}}}"#,
        hash.trim()
    );
    fs::write(folder.path().join("inputs.json"), inputs).unwrap();
    let socket = format!("unix://{}", folder.path().join("e3.sock").display());
    let path = |name: &str| folder.path().join(name).display().to_string();
    let arguments = [
        "enclave".to_owned(),
        format!("--module={}", path("module")),
        format!("--inputs={}", path("inputs.json")),
        format!("--parent={}", folder.path().display()),
        format!("--listen={socket}"),
    ];
    let mut engine = Program::E3.start(arguments, &folder.path().join("e3.log"));
    eventually("the cause on the host's page", || {
        assert!(engine.ended().is_none(), "the engine ended:\n{}", engine.log());
        host.page("/readyz").1.contains("uninitialised").then_some(())
    });
    let pcr = |byte: u8| format!("{byte:02x}").repeat(48);
    let rules = format!(
        "engine: {{endpoints: [\"{socket}\"], app: shop, timeout: 1s, attestation: {{pcr0: \"{}\", pcr1: \"{}\", pcr2: \"{}\"}}, key: {}, seen: {}}}\n\
         inbound:\n  - listen: {}\n    hosts: [api.shop.example]\n    backend: http://127.0.0.1:9\n",
        pcr(1),
        pcr(2),
        pcr(3),
        key.display(),
        path("seen"),
        port::free()
    );
    let relay = Relay::start(folder.path(), "relay", &rules);
    eventually("the cause in /readyz", || {
        let answer = get(relay.admin(), "/readyz");
        (answer.status == 503 && answer.text().contains("there is no keyring yet")).then_some(())
    });
}
