//! Certificates by ACME, from an authority that is not ours: pebble, with a DNS of its own, on loopback.

#[path = "../src/proxied.rs"]
#[allow(dead_code, reason = "its CONNECT is for the tests of the outbound relay")]
mod proxied;

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use e3_tests::backend::Backend;
use e3_tests::client::once;
use e3_tests::engine_double::{Behaviour, EngineDouble};
use e3_tests::stack::{Relay, folder};
use e3_tests::{eventually, port};
use proxied::{TestCa, Through, client_config};

const SHOP: &str = "api.shop.example";
const OTHER: &str = "www.shop.example";
const PAY: &str = "pay.example";

/// A program that ends with the test.
struct Started(Child);

impl Started {
    fn new(command: &mut Command, log: &Path) -> Self {
        let log = fs::File::create(log).expect("a log");
        let output = log.try_clone().expect("the log can be shared");
        Self(
            command
                .stdin(Stdio::null())
                .stdout(output)
                .stderr(log)
                .spawn()
                .expect("the program is installed: .ci/deps test"),
        )
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A certificate authority with its DNS, which knows every name at 127.0.0.1.
struct Authority {
    directory: SocketAddr,
    management: SocketAddr,
    http: SocketAddr,
    tls: SocketAddr,
    folder: tempfile::TempDir,
    /// Seconds that its certificates are valid for.
    validity: u32,
    running: Option<[Started; 2]>,
}

impl Authority {
    fn new(validity: u32) -> Self {
        let folder = folder();
        TestCa::new().site(folder.path(), "localhost");
        let [directory, management, http, tls] = [(); 4].map(|()| port::free());
        Self { directory, management, http, tls, folder, validity, running: None }
    }

    fn start(&mut self) {
        let (dns, tests) = (port::free(), port::free());
        let path = |name: &str| self.folder.path().join(name);
        let config = serde_json::json!({"pebble": {
            "listenAddress": self.directory.to_string(),
            "managementListenAddress": self.management.to_string(),
            "certificate": path("localhost.pem"),
            "privateKey": path("localhost.key"),
            "httpPort": self.http.port(),
            "tlsPort": self.tls.port(),
            "externalAccountBindingRequired": false,
            "externalAccountMACKeys": {"kid-1": "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"},
            "domainBlocklist": ["blocked.example"],
            "certificateValidityPeriod": self.validity,
        }});
        fs::write(path("pebble.json"), config.to_string()).expect("a file");
        let names = Started::new(
            Command::new("pebble-challtestsrv")
                .args(["-defaultIPv4", "127.0.0.1", "-defaultIPv6", "", "-dns01", &dns.to_string()])
                .args(["-http01", "", "-https01", "", "-tlsalpn01", "", "-management", &tests.to_string()]),
            &path("dns.log"),
        );
        let pebble = Started::new(
            Command::new("pebble")
                .args(["-config", path("pebble.json").to_str().expect("a path"), "-dnsserver", &dns.to_string()])
                // Every fifth nonce is refused although it is good, every proof is asked for anew, and nothing sleeps.
                .envs([("PEBBLE_WFE_NONCEREJECT", "20"), ("PEBBLE_AUTHZREUSE", "0"), ("PEBBLE_VA_NOSLEEP", "1")]),
            &path("pebble.log"),
        );
        for address in [self.directory, self.management, tests] {
            eventually("the authority", || TcpStream::connect(address).ok());
        }
        self.running = Some([pebble, names]);
    }

    /// The root of what it signs, which is another at every start.
    fn root(&self) -> PathBuf {
        let address = format!("https://localhost:{}/roots/0", self.management.port());
        let ca = self.folder.path().join("site-ca.pem");
        let seen = Command::new("curl").args(["-sS", "--cacert", ca.to_str().expect("a path"), &address]).output();
        let file = self.folder.path().join("root.pem");
        fs::write(&file, seen.expect("curl").stdout).expect("a file");
        file
    }

    /// The rules' `acme`, without what closes it.
    fn acme(&self, store: &Path, challenge: &str) -> String {
        format!(
            "acme: {{directory: \"https://localhost:{}/dir\", store: {}, challenge: {challenge}, ca: {}, terms_agreed: true, contact: [\"mailto:ops@shop.example\"], retry: 1s",
            self.directory.port(),
            store.display(),
            self.folder.path().join("site-ca.pem").display()
        )
    }
}

struct Edge {
    relay: Relay,
    backend: Backend,
    folder: tempfile::TempDir,
    _engine: EngineDouble,
}

impl Edge {
    /// Sites with ordered certificates at the authority's TLS port, and one that sends on to https at its HTTP port.
    fn start(authority: &Authority, challenge: &str, more: &str, sites: &[&[&str]]) -> Self {
        Self::start_at([authority.tls, authority.http], authority, challenge, more, sites)
    }

    fn start_at(
        [tls, http]: [SocketAddr; 2],
        authority: &Authority,
        challenge: &str,
        more: &str,
        sites: &[&[&str]],
    ) -> Self {
        let (folder, engine, backend) = (folder(), EngineDouble::start(Behaviour::Honest), Backend::echo());
        let acme = authority.acme(&folder.path().join("store"), challenge);
        let site = |hosts: &&[&str]| {
            format!(
                "  - {{listen: \"{}\", hosts: {hosts:?}, backend: \"http://{}\", tls: {{acme: true, hsts: {{max_age: 1d}}}}}}\n",
                tls,
                backend.address()
            )
        };
        let rules = format!(
            "engine: {{endpoints: [\"{}\"], app: shop, development: true}}\n{acme}{more}}}\ninbound:\n{}  - {{listen: \"{}\", hosts: [{SHOP}, {OTHER}, {PAY}], redirect: https}}\n",
            engine.endpoint(),
            sites.iter().map(site).collect::<String>(),
            http,
        );
        let relay = Relay::start(folder.path(), "relay", &rules);
        Self { relay, backend, folder, _engine: engine }
    }

    fn orders(&self, result: &str) -> f64 {
        self.relay.metric(&format!("e3_relay_acme_orders_total{{result=\"{result}\"}}")).unwrap_or(0.0)
    }
}

fn request(host: &str) -> Vec<u8> {
    format!("GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes()
}

/// Whether a client that trusts the root gets in.
fn try_open(address: SocketAddr, root: &Path, host: &str) -> Option<Through> {
    Through::start(TcpStream::connect(address).ok()?, client_config(root), host).ok()
}

#[test]
fn certificates_are_ordered_by_tls_alpn_and_served_only_when_they_are_there() {
    let mut authority = Authority::new(3600);
    let edge = Edge::start(&authority, "tls-alpn-01", "", &[&[SHOP, OTHER], &[PAY]]);
    // The authority is away: nobody is served, and it is told.
    let told = eventually("a failed order", || {
        Some(edge.relay.status()).filter(|status| status.contains("\"code\": \"away\""))
    });
    assert!(!told.contains("PRIVATE"), "{told}");
    let ready = e3_tests::client::get(edge.relay.admin(), "/readyz");
    assert_eq!((ready.status, ready.text().contains("no certificate for")), (503, true), "{}", ready.text());
    let refused = Command::new("openssl")
        .args(["s_client", "-connect", &authority.tls.to_string(), "-servername", SHOP])
        .stdin(Stdio::null())
        .output()
        .expect("openssl");
    assert!(!refused.status.success() && !String::from_utf8_lossy(&refused.stdout).contains("BEGIN CERTIFICATE"));
    // And then it comes.
    authority.start();
    edge.relay.wait_ready();
    let root = authority.root();
    for host in [SHOP, OTHER, PAY] {
        let answer = Through::direct(authority.tls, &root, host).ask(&request(host)).unwrap();
        assert_eq!((answer.status, answer.header("strict-transport-security")), (200, Some("max-age=86400")), "{host}");
    }
    assert_eq!(edge.orders("ok"), 2.0);
    assert!(edge.orders("away") >= 1.0);
    assert_eq!(edge.backend.requests().len(), 3);
    // Nobody else gets what proves a host.
    let asked = Command::new("openssl")
        .args(["s_client", "-connect", &authority.tls.to_string(), "-servername", SHOP, "-alpn", "acme-tls/1"])
        .stdin(Stdio::null())
        .output()
        .expect("openssl");
    assert!(!asked.status.success(), "{}", String::from_utf8_lossy(&asked.stdout));
    let store = edge.folder.path().join("store");
    assert_eq!(fs::metadata(&store).unwrap().permissions().mode() & 0o777, 0o700);
    let files: Vec<_> = fs::read_dir(&store).unwrap().map(|file| file.unwrap().path()).collect();
    assert_eq!(files.len(), 4, "an account, two certificates and the lock: {files:?}");
    for file in files {
        assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600, "{}", file.display());
    }
}

#[test]
fn certificates_are_renewed_by_http_and_outlive_the_process() {
    let mut authority = Authority::new(12);
    authority.start();
    let edge = Edge::start(&authority, "http-01", "", &[&[SHOP]]);
    edge.relay.wait_ready();
    let root = authority.root();
    let mut stays = Through::direct(authority.tls, &root, SHOP);
    let first = stays.shown();
    // What no authority asked for is sent on like everything else.
    for (line, status, location) in [
        (
            "GET /.well-known/acme-challenge/x?y HTTP/1.1",
            308,
            Some("https://api.shop.example/.well-known/acme-challenge/x?y"),
        ),
        ("GET /a?b=c HTTP/1.1", 308, Some("https://api.shop.example/a?b=c")),
        ("POST /a HTTP/1.1", 403, None),
    ] {
        let answer = once(authority.http, format!("{line}\r\nHost: {SHOP}:80\r\nContent-Length: 0\r\n\r\n").as_bytes());
        assert_eq!((answer.status, answer.header("location")), (status, location), "{line}");
        assert_eq!(answer.header("strict-transport-security"), None, "never over plain HTTP");
    }
    assert_eq!(stays.ask(&request(SHOP)).unwrap().status, 200);
    let second = eventually("a renewed certificate", || {
        try_open(authority.tls, &root, SHOP).map(|through| through.shown()).filter(|shown| *shown != first)
    });
    assert_eq!(stays.ask(&request(SHOP)).unwrap().status, 200, "the connection goes on");
    assert!(edge.orders("ok") >= 2.0);
    // A relay that starts again has it from the store: there is no authority any more.
    authority.running = None;
    let last = Through::direct(authority.tls, &root, SHOP).shown();
    let Edge { relay, folder, _engine, .. } = edge;
    let (rules, admin) = (relay.rules().to_owned(), relay.admin());
    drop(relay);
    let again = Relay::start_with(&rules, admin);
    let shown = eventually("the relay listens again", || try_open(authority.tls, &root, SHOP)).shown();
    assert!(shown == second || shown == last, "the one of the store");
    drop((again, folder));
}

#[test]
fn a_refused_order_is_told_by_its_problem_and_never_by_a_key() {
    let mut authority = Authority::new(3600);
    authority.start();
    let edge = Edge::start(&authority, "tls-alpn-01", "", &[&["www.blocked.example"], &[SHOP]]);
    let told = eventually("a refused order", || Some(edge.relay.status()).filter(|s| s.contains("rejectedIdentifier")));
    assert!(told.contains("\"failed\""), "{told}");
    // The other site has its own.
    let root = authority.root();
    eventually("the other site's certificate", || try_open(authority.tls, &root, SHOP));
    assert!(edge.orders("rejectedIdentifier") >= 1.0);
    let ready = e3_tests::client::get(edge.relay.admin(), "/readyz");
    assert!(ready.text().contains("no certificate for www.blocked.example"), "{}", ready.text());
    let log = fs::read_to_string(edge.relay.rules().with_extension("log")).unwrap();
    assert!(log.contains("rejectedIdentifier") && !log.contains("PRIVATE") && !log.contains("key_pkcs8"), "{log}");
}

#[test]
fn a_host_that_cannot_be_proven_gets_no_certificate() {
    let mut authority = Authority::new(3600);
    authority.start();
    // The authority looks for the proof where nobody listens.
    let listens = [port::free(), port::free()];
    let edge = Edge::start_at(listens, &authority, "http-01", "", &[&[SHOP]]);
    eventually("a failed proof", || (edge.orders("connection") > 0.0).then_some(()));
    assert_eq!(edge.orders("ok"), 0.0);
    assert!(try_open(listens[0], &authority.root(), SHOP).is_none());
}

#[test]
fn an_account_is_bound_to_one_that_the_authority_knows() {
    let mut authority = Authority::new(3600);
    authority.start();
    let key = authority.folder.path().join("eab.key");
    fs::write(&key, "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W\n").unwrap();
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let bound = format!(", eab: {{kid: kid-1, key: {}}}", key.display());
    let edge = Edge::start(&authority, "tls-alpn-01", &bound, &[&[SHOP]]);
    edge.relay.wait_ready();
    assert_eq!(edge.orders("ok"), 1.0);
    let bound = bound.replace("kid-1", "kid-9");
    let unknown = Edge::start_at([port::free(), port::free()], &authority, "tls-alpn-01", &bound, &[&[SHOP]]);
    eventually("a refused account", || {
        (unknown.relay.metrics().contains("e3_relay_acme_orders_total{result=\"")).then_some(())
    });
    assert_eq!(unknown.orders("ok"), 0.0);
}
