//! The outbound listener over TLS: CONNECT inside TLS, TLS inside that, and plain requests.

#[path = "../src/proxied.rs"]
#[allow(dead_code, reason = "its servers are for the tests of CONNECT")]
mod proxied;

use std::net::SocketAddr;
use std::process::Command;

use e3_tests::backend::Backend;
use e3_tests::client::{Connection, json_request};
use e3_tests::engine_double::{Behaviour, EngineDouble, token_of};
use e3_tests::port;
use e3_tests::process::Program;
use e3_tests::stack::{Relay, folder};
use proxied::{Setup, TestCa, Through, TlsServer};

const HOST: &str = "api.pay.example";
const LOGS: &str = "in.logs.example";
const CARD: &str = "4111111111111111";

struct Proxy {
    _relay: Relay,
    address: SocketAddr,
    backend: Backend,
    logs: TlsServer,
    folder: tempfile::TempDir,
    _engine: EngineDouble,
}

impl Proxy {
    /// One destination that is intercepted, and one that is a tunnel.
    fn start() -> Self {
        let (folder, address) = (folder(), port::free());
        let (engine, backend) = (EngineDouble::start(Behaviour::Honest), Backend::echo());
        let file = |name: &str| folder.path().join(name).display().to_string();
        let made = Program::Relay.output([
            "ca",
            "init",
            "--certificate",
            &file("relay-ca.pem"),
            "--key",
            &file("relay-ca.key"),
        ]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let ca = TestCa::new();
        let logs = TlsServer::start(ca.leaf(LOGS, |_| ()), Setup::default());
        let tls = ca.site(folder.path(), "proxy.example");
        let rules = format!(
            "engine: {{endpoints: [\"{engine}\"], app: shop, development: true}}\nca: {{certificate: {}, key: {}}}\n\
             outbound:\n  - listen: {address}\n    tls: {{{tls}}}\n    connections: {{head_time: 2s}}\n    destinations:\n\
             \x20     - {{host: {HOST}, upstream: \"http://{}\", intercept: true, rules: [{{match: {{path: /charges/**}}, request: {{open: [{{select: $.number, roles: [card-number]}}]}}}}]}}\n\
             \x20     - {{host: {LOGS}, upstream: \"https://{}\", name: {LOGS}, tunnel: true}}\n",
            file("relay-ca.pem"),
            file("relay-ca.key"),
            backend.address(),
            logs.address,
            engine = engine.endpoint(),
        );
        let relay = Relay::start(folder.path(), "relay", &rules);
        relay.wait_ready();
        Self { _relay: relay, address, backend, logs, folder, _engine: engine }
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// What curl gets through the proxy, which proves its name.
    fn curl(&self, ca: &str, arguments: &[&str]) -> (bool, String) {
        let proxy = format!("https://proxy.example:{}", self.address.port());
        let resolve = format!("proxy.example:{}:127.0.0.1", self.address.port());
        let seen = Command::new("curl")
            .args(["-sS", "--max-time", "20", "--proxy", &proxy, "--resolve", &resolve])
            .args(["--proxy-cacert", &self.file("site-ca.pem"), "--cacert", ca])
            .args(arguments)
            .output()
            .expect("curl");
        (
            seen.status.success(),
            String::from_utf8_lossy(&seen.stdout).into_owned() + &String::from_utf8_lossy(&seen.stderr),
        )
    }
}

fn charge() -> (String, String) {
    let sealed = format!(r#"{{"number":"{}"}}"#, token_of("card-number", 's', CARD));
    (sealed, format!(r#"{{"number":"{CARD}"}}"#))
}

#[test]
fn the_rules_hold_in_tls_inside_connect_inside_tls() {
    let proxy = Proxy::start();
    let (sealed, clear) = charge();
    let media = "content-type: application/json";
    let url = format!("https://{HOST}/charges/1");
    let seen = proxy.curl(&proxy.file("relay-ca.pem"), &["-H", media, "-d", &sealed, &url]);
    assert_eq!(seen, (true, clear.clone()));
    // The destination's TLS is for the destination alone.
    let (good, _) = proxy.curl(&proxy.file("site-ca.pem"), &["-H", media, "-d", &sealed, &url]);
    assert!(!good, "a proxy's certificate is not that of a destination");
    // Plain requests through an https proxy, and in base-URL form.
    let seen = proxy.curl("/dev/null", &["-H", media, "-d", &sealed, &format!("http://{HOST}/charges/1")]);
    assert_eq!(seen, (true, clear.clone()));
    let mut through = Through::direct(proxy.address, &proxy.folder.path().join("site-ca.pem"), "proxy.example");
    let answer = through.ask(&json_request("POST", &format!("/{HOST}/charges/1"), "proxy.example", &sealed)).unwrap();
    assert_eq!((answer.status, answer.text()), (200, clear.as_str()));
    assert_eq!(proxy.backend.requests().len(), 3);
    let (good, told) = proxy.curl(&proxy.file("relay-ca.pem"), &["https://unknown.example/"]);
    assert!(!good && told.contains("403"), "{told}");
}

#[test]
fn a_tunnel_inside_tls_carries_the_destinations_own_tls() {
    let proxy = Proxy::start();
    let url = format!("https://{LOGS}/in");
    let seen =
        proxy.curl(&proxy.file("site-ca.pem"), &["-H", "content-type: application/json", "-d", "{\"a\":1}", &url]);
    assert_eq!(seen, (true, "{\"a\":1}".to_owned()));
    assert_eq!(proxy.logs.heads.lock().unwrap().len(), 1);
}

#[test]
fn a_client_without_tls_gets_nothing_from_it() {
    let proxy = Proxy::start();
    let mut plain = Connection::open(proxy.address);
    plain.send(format!("CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\n\r\n").as_bytes()).unwrap();
    let got = plain.rest().unwrap_or_default();
    assert!(got.len() <= 7 && !got.starts_with(b"HTTP"), "{got:?}");
    assert_eq!((proxy.backend.bytes(), proxy.logs.bytes()), (0, 0));
}
