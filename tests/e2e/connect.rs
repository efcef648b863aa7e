//! The outbound relay as an HTTPS proxy: CONNECT, interception, tunnels, keys, and TLS towards the upstreams, with real sockets and real clients.

#[path = "../src/proxied.rs"]
#[allow(dead_code, reason = "what listeners with TLS need is for other tests")]
mod proxied;

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::Duration;

use e3_tests::backend::Backend;
use e3_tests::client::{get, json_request, once};
use e3_tests::engine_double::{Behaviour, EngineDouble, token_of};
use e3_tests::eventually;
use e3_tests::port;
use e3_tests::process::Program;
use e3_tests::stack::{Relay, folder};
use proxied::{Setup, TestCa, Through, TlsServer, client_config, connect, connect_request};
use sha2::{Digest, Sha256};

const HOST: &str = "api.pay.example";
const CARD: &str = "4111111111111111";

/// A relay whose outbound listener has these destinations, after an authority was made.
struct Proxy {
    relay: Relay,
    address: SocketAddr,
    ca: PathBuf,
    _engine: EngineDouble,
    folder: tempfile::TempDir,
}

impl Proxy {
    fn start(keys: &str, destinations: &str) -> Self {
        Self::start_in(folder(), keys, destinations)
    }

    fn start_in(folder: tempfile::TempDir, keys: &str, destinations: &str) -> Self {
        Self::start_with(folder, keys, "connections: {}", destinations)
    }

    fn start_with(folder: tempfile::TempDir, keys: &str, more: &str, destinations: &str) -> Self {
        let ca = folder.path().join("relay-ca.pem");
        let key = folder.path().join("relay-ca.key");
        let made = Program::Relay.output([
            "ca".as_ref(),
            "init".as_ref(),
            "--certificate".as_ref(),
            ca.as_os_str(),
            "--key".as_ref(),
            key.as_os_str(),
        ]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let (engine, address) = (EngineDouble::start(Behaviour::Honest), port::free());
        let rules = format!(
            "engine: {{endpoints: [\"{}\"], app: shop, development: true}}\nca: {{certificate: {}, key: {}}}\n\
             outbound:\n  - listen: {address}\n    keys: [{keys}]\n    {more}\n    destinations:\n{destinations}",
            engine.endpoint(),
            ca.display(),
            key.display(),
        );
        let relay = Relay::start(folder.path(), "relay", &rules);
        relay.wait_ready();
        Self { relay, address, ca, _engine: engine, folder }
    }

    fn through(&self, host: &str) -> Through {
        Through::open(self.address, &self.ca, host)
    }
}

fn intercepted(host: &str, upstream: &str, more: &str) -> String {
    format!("      - {{host: \"{host}\", upstream: \"{upstream}\", intercept: true{more}}}\n")
}

const OPENS: &str =
    ", rules: [{match: {path: /charges/**}, request: {open: [{select: $.number, roles: [card-number]}]}}]";

fn charge() -> String {
    format!(r#"{{"number":"{}"}}"#, token_of("card-number", 's', CARD))
}

#[test]
fn the_rules_hold_inside_connect() {
    let backend = Backend::echo();
    let proxy = Proxy::start("", &intercepted(HOST, &format!("http://{}", backend.address()), OPENS));
    let mut client = proxy.through(HOST);
    for path in ["/charges/1", "/charges/2"] {
        let answer = client.ask(&json_request("POST", path, HOST, &charge())).expect("an answer");
        assert_eq!((answer.status, answer.text()), (200, format!(r#"{{"number":"{CARD}"}}"#).as_str()));
    }
    let plain = client.ask(&json_request("POST", "/other", HOST, &charge())).expect("an answer");
    assert_eq!(plain.text(), charge(), "unruled");
    assert_eq!(backend.requests().len(), 3);
    // With a path's dots and the like, as everywhere.
    let odd = client.ask(&json_request("POST", "/a/../charges/1", HOST, &charge())).expect("an answer");
    assert_eq!(odd.status, 400);
    assert_eq!(backend.requests().len(), 3);
}

#[test]
fn connect_target_server_name_and_host_are_the_same_or_nothing_goes_out() {
    let backend = Backend::echo();
    let upstream = format!("http://{}", backend.address());
    let destinations = [
        intercepted(HOST, &upstream, ""),
        intercepted("api.else.example", &upstream, ", ports: [8443]"),
        intercepted("*.wild.example", &upstream, ", paths: [/v1/**]"),
        format!("      - {{host: closed.example, upstream: \"{upstream}\"}}\n"),
    ];
    let proxy = Proxy::start("", &destinations.concat());
    // Who does not open.
    for (target, status) in [
        ("closed.example:443", 403),
        ("unknown.example:443", 403),
        ("api.pay.example:80", 403),
        ("api.else.example:443", 403),
        ("wild.example:443", 403),
        ("127.0.0.1:443", 403),
        ("169.254.169.254:80", 403),
        ("[::1]:443", 403),
        ("2130706433:443", 403),
        ("0x7f000001:443", 403),
        ("api.pay.example", 400),
    ] {
        let (got, head, _) = connect(proxy.address, &connect_request(target, ""));
        assert_eq!(got, status, "{target}: {head}");
    }
    // Host of a request inside.
    for host in ["api.else.example", "api.pay.example:8443", "closed.example", "127.0.0.1"] {
        let answer = proxy.through(HOST).ask(&json_request("POST", "/charges/1", host, "{}")).expect("an answer");
        assert_eq!((answer.status, answer.text().contains("connect/host")), (421, true), "{host}: {}", answer.text());
    }
    // The base-URL form is no way out of it either.
    let mut client = proxy.through(HOST);
    let answer = client.ask(&json_request("POST", "/closed.example/x", "closed.example", "{}")).expect("an answer");
    assert_eq!(answer.status, 421);
    // No CONNECT inside CONNECT.
    let answer = proxy.through(HOST).ask(connect_request("api.pay.example:443", "").as_bytes()).expect("an answer");
    assert_eq!(answer.status, 405);
    // Server name: the certificate is for the target, so only a client that does not look gets as far as an answer.
    let (status, _, stream) = connect(proxy.address, &connect_request("api.pay.example:443", ""));
    assert_eq!(status, 200);
    assert!(Through::start(stream, client_config(&proxy.ca), "api.else.example").is_err());
    let curl = |arguments: &[&str]| {
        let mut curl = Command::new("curl");
        curl.args(["-sk", "--max-time", "20", "-o", "/dev/null", "-w", "%{http_connect} %{http_code}"]).args(arguments);
        String::from_utf8(curl.output().expect("curl").stdout).expect("text")
    };
    let (through, from) = (format!("http://{}", proxy.address), format!("api.else.example:443:{HOST}:443"));
    let seen = curl(&["--proxy", &through, "--connect-to", &from, "https://api.else.example/charges/1"]);
    assert_eq!(seen, "200 421", "another server name");
    // Closed paths.
    let mut wild = proxy.through("a.wild.example");
    let answer = wild.ask(&json_request("POST", "/v2/x", "a.wild.example", "{}")).expect("an answer");
    assert_eq!((answer.status, answer.text().contains("rules/path")), (403, true));
    assert_eq!(backend.bytes(), 0, "something went out");
    let answer = wild.ask(&json_request("POST", "/v1/x", "a.wild.example", "{}")).expect("an answer");
    assert_eq!(answer.status, 200);
}

#[test]
fn a_tunnel_passes_tls_for_its_host_alone() {
    let ca = TestCa::new();
    let server = TlsServer::start(ca.leaf("tunnel.example", |_| {}), Setup::default());
    let trust = folder();
    let roots = trust.path().join("test.pem");
    fs::write(&roots, &ca.pem).expect("the authority is written");
    let destination =
        format!("      - {{host: tunnel.example, upstream: \"https://{}\", tunnel: true}}\n", server.address);
    let proxy = Proxy::start("", &destination);
    let mut client = Through::open(proxy.address, &roots, "tunnel.example");
    let answer = client.ask(&json_request("POST", "/x", "tunnel.example", r#"{"a":1.10}"#)).expect("an answer");
    assert_eq!((answer.status, answer.text()), (200, r#"{"a":1.10}"#));
    let before = server.bytes();
    let target = connect_request("tunnel.example:443", "");
    let (status, _, stream) = connect(proxy.address, &target);
    assert_eq!(status, 200);
    let refused = Through::start(stream, client_config(&roots), "other.example").err().expect("refused").to_string();
    assert!(refused.contains("UnrecognisedName") || refused.contains("UnrecognizedName"), "{refused}");
    let (_, _, mut plain) = connect(proxy.address, &target);
    std::io::Write::write_all(&mut plain, b"GET / HTTP/1.1\r\nHost: tunnel.example\r\n\r\n").expect("sent");
    assert_eq!(std::io::Read::read(&mut plain, &mut [0; 16]).unwrap_or(0), 0, "no TLS, no tunnel");
    assert_eq!(server.bytes(), before);
}

#[test]
fn a_hello_that_comes_byte_by_byte_has_one_time_for_all_of_it() {
    let server = TlsServer::start(TestCa::new().leaf("tunnel.example", |_| {}), Setup::default());
    let destination =
        format!("      - {{host: tunnel.example, upstream: \"https://{}\", tunnel: true}}\n", server.address);
    let proxy = Proxy::start_with(folder(), "", "connections: {head_time: 1s}", &destination);
    let (status, _, mut slow) = connect(proxy.address, &connect_request("tunnel.example:443", ""));
    assert_eq!(status, 200);
    slow.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
    // A head of a record of 512 bytes, and then its bytes one after the other: without an end of its own it would take half a minute.
    let record = [&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3][..], &[b'a'; 489]].concat();
    let closed = record.iter().any(|byte| {
        let sent = std::io::Write::write_all(&mut slow, &[*byte]);
        sent.is_err() || matches!(std::io::Read::read(&mut slow, &mut [0]), Ok(0))
    });
    assert!(closed, "it went on");
    assert_eq!(server.bytes(), 0);
}

#[test]
fn a_key_is_asked_for_in_connect_or_inside_and_goes_no_further() {
    let backend = Backend::echo();
    let upstream = format!("http://{}", backend.address());
    let hash: String = Sha256::digest("secret-key").iter().map(|byte| format!("{byte:02x}")).collect();
    let tunnel = format!("      - {{host: tunnel.example, upstream: \"{upstream}\", tunnel: true}}\n");
    let proxy = Proxy::start(&hash, &(intercepted(HOST, &upstream, "") + &tunnel));
    let target = format!("{HOST}:443");
    let with = |line: &str| {
        let body = json_request("POST", "/charges/1", HOST, "{}");
        let text = String::from_utf8(body).expect("text");
        text.replacen("\r\n", &format!("\r\n{line}"), 1).into_bytes()
    };
    let raw = "Proxy-Authorization: secret-key\r\n";
    let bad = "Proxy-Authorization: secret-kez\r\n";
    for (request, status) in [
        (connect_request(&target, bad), 407),
        (connect_request("tunnel.example:443", ""), 407),
        (connect_request("tunnel.example:443", bad), 407),
        (connect_request("unknown.example:443", ""), 407),
        (connect_request("unknown.example:443", raw), 403),
    ] {
        let (got, head, _) = connect(proxy.address, &request);
        assert_eq!(got, status, "{request} {head}");
        assert_eq!(status == 407, head.to_ascii_lowercase().contains("proxy-authenticate: basic"), "{head}");
    }
    // Not at all, then inside, then for the rest of the connection.
    let mut client = proxy.through(HOST);
    for (line, status) in [("", 407), (bad, 407), (raw, 200), ("", 200), (bad, 407)] {
        let answer = client.ask(&with(line)).expect("an answer");
        assert_eq!(answer.status, status, "{line:?} {}", answer.text());
    }
    // In CONNECT.
    for more in
        [raw, "Proxy-Authorization: Basic YXBwOnNlY3JldC1rZXk=\r\n", "Proxy-Authorization: Bearer secret-key\r\n"]
    {
        let (status, head, stream) = connect(proxy.address, &connect_request(&target, more));
        assert_eq!(status, 200, "{head}");
        let mut client = Through::start(stream, client_config(&proxy.ca), HOST).expect("TLS");
        assert_eq!(client.ask(&with("")).expect("an answer").status, 200);
    }
    // Base-URL form.
    assert_eq!(once(proxy.address, &with("")).status, 407);
    assert_eq!(once(proxy.address, &with(raw)).status, 200);
    for request in backend.requests() {
        assert!(!request.head.to_ascii_lowercase().contains("proxy-"), "{}", request.head);
    }
    assert_eq!(backend.requests().len(), 6);
}

#[test]
fn an_upstream_that_cannot_prove_itself_gets_no_request() {
    let (ca, other) = (TestCa::new(), TestCa::new());
    let own = rcgen::KeyPair::generate().expect("a key");
    let self_signed = rcgen::CertificateParams::new(vec!["a.example".to_owned()]).expect("a name").self_signed(&own);
    let long_ago = |params: &mut rcgen::CertificateParams| params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let dir = folder();
    fs::write(dir.path().join("test.pem"), &ca.pem).expect("written");
    let pem = dir.path().join("test.pem").display().to_string();
    let cases = [
        ("good", ca.leaf("a.example", |_| {}), 200),
        ("untrusted", other.leaf("a.example", |_| {}), 502),
        ("expired", ca.leaf("a.example", long_ago), 502),
        ("wrong-name", ca.leaf("b.example", |_| {}), 502),
        ("self-signed", (self_signed.expect("a certificate").pem(), own.serialize_pem()), 502),
    ];
    let servers: Vec<_> = cases
        .into_iter()
        .map(|(name, leaf, status)| (name, TlsServer::start(leaf, Setup::default()), status))
        .collect();
    let destination = |(name, server, _): &(&str, TlsServer, u16)| {
        intercepted(
            &format!("{name}.example"),
            &format!("https://{}", server.address),
            &format!(", ca: {pem}, name: a.example"),
        )
    };
    let proxy = Proxy::start("", &servers.iter().map(destination).collect::<String>());
    for (name, server, status) in &servers {
        let host = format!("{name}.example");
        for _ in 0..3 {
            let answer =
                proxy.through(&host).ask(&json_request("POST", "/x", &host, r#"{"card":"4111"}"#)).expect("an answer");
            assert_eq!(answer.status, *status, "{name}: {}", answer.text());
            assert_eq!(*status == 502, answer.text().contains("upstream/certificate"), "{name}: {}", answer.text());
        }
        assert_eq!(*status == 502, server.bytes() == 0, "{name}");
    }
}

#[test]
fn client_certificates_and_versions_are_the_destinations_own() {
    let (ca, clients) = (TestCa::new(), TestCa::new());
    let dir = folder();
    let file = |name: &str, text: &str| {
        fs::write(dir.path().join(name), text).expect("written");
        dir.path().join(name).display().to_string()
    };
    let pem = file("test.pem", &ca.pem);
    let (certificate, key) = clients.leaf("relay.example", |_| {});
    let (certificate, key) = (file("client.pem", &certificate), file("client.key", &key));
    let wants = TlsServer::start(
        ca.leaf("a.example", |_| {}),
        Setup { clients: Some(clients.pem.clone()), ..Setup::default() },
    );
    let old = TlsServer::start(ca.leaf("a.example", |_| {}), Setup { only_tls12: true, ..Setup::default() });
    let base = format!(", ca: {pem}, name: a.example");
    let (to_wants, to_old) = (format!("https://{}", wants.address), format!("https://{}", old.address));
    let destinations = [
        intercepted(
            "with.example",
            &to_wants,
            &format!("{base}, client_certificate: {certificate}, client_key: {key}"),
        ),
        intercepted("without.example", &to_wants, &base),
        intercepted("old.example", &to_old, &base),
        intercepted("new.example", &to_old, &format!("{base}, tls_min: \"1.3\"")),
    ];
    let proxy = Proxy::start("", &destinations.concat());
    // The one without a certificate comes after one whose connection idles: it is not lent.
    for (host, status) in [("with.example", 200), ("without.example", 502), ("old.example", 200), ("new.example", 502)]
    {
        let answer = proxy.through(host).ask(&json_request("POST", "/x", host, "{}")).expect("an answer");
        assert_eq!(answer.status, status, "{host}: {}", answer.text());
    }
    assert_eq!(wants.heads.lock().expect("the record").len(), 1);
}

#[test]
fn a_reload_to_another_identity_uses_no_connection_of_the_one_before() {
    let (ca, other, clients) = (TestCa::new(), TestCa::new(), TestCa::new());
    let (folder, engine, address) = (folder(), EngineDouble::start(Behaviour::Honest), port::free());
    let file = |name: &str, text: &str| {
        fs::write(folder.path().join(name), text).expect("written");
        folder.path().join(name).display().to_string()
    };
    let (known, unknown) = (clients.leaf("relay.example", |_| {}), other.leaf("relay.example", |_| {}));
    let (known_key, unknown_key) = (file("known.key", &known.1), file("unknown.key", &unknown.1));
    let known = format!("client_certificate: {}, client_key: {known_key}", file("known.pem", &known.0));
    let unknown = format!("client_certificate: {}, client_key: {unknown_key}", file("unknown.pem", &unknown.0));
    let (good, bad) = (file("good.pem", &ca.pem), file("bad.pem", &other.pem));
    // TLS 1.2, where a certificate is missed before the handshake is over.
    let setup = Setup { only_tls12: true, clients: Some(clients.pem.clone()) };
    let server = TlsServer::start(ca.leaf("a.example", |_| {}), setup);
    // One thread, so that every request meets the one pool.
    let rules = |identity: &str| {
        format!(
            "engine: {{endpoints: [\"{}\"], app: shop, development: true}}\nthreads: 1\noutbound:\n  - listen: {address}\n    \
             destinations:\n      - {{host: a.example, upstream: \"https://{}\", networks: [127.0.0.1], {identity}}}\n",
            engine.endpoint(),
            server.address
        )
    };
    let proven = format!("ca: {good}, name: a.example, {known}");
    let relay = Relay::start(folder.path(), "relay", &rules(&proven));
    relay.wait_ready();
    let ask = || once(address, &json_request("POST", "/x", "a.example", "{}"));
    let mut reloads = 0.0;
    let mut reload = |identity: &str| {
        relay.write_rules(&rules(identity));
        reloads += 1.0;
        let applied = r#"e3_relay_reloads_total{result="applied"}"#;
        eventually("a reload", || (relay.metric(applied) == Some(reloads)).then_some(()));
    };
    let connections = || server.connections.load(Ordering::SeqCst);
    for _ in 0..2 {
        assert_eq!(ask().status, 200);
    }
    assert_eq!(connections(), 1, "it idles between requests");
    for (what, identity) in [
        ("another authority", format!("ca: {bad}, name: a.example, {known}")),
        ("another name", format!("ca: {good}, name: b.example, {known}")),
        ("another client certificate", format!("ca: {good}, name: a.example, {unknown}")),
        ("no client certificate", format!("ca: {good}, name: a.example")),
        ("another version", format!("{proven}, tls_min: \"1.3\"")),
    ] {
        let before = connections();
        reload(&identity);
        let answer = ask();
        assert_eq!(answer.status, 502, "{what}: {}", answer.text());
        assert_eq!(connections(), before + 1, "{what}: it proves itself anew");
        reload(&proven);
        assert_eq!(ask().status, 200, "{what}");
        assert_eq!(connections(), before + 1, "{what}: what idled was kept for its own");
    }
    assert_eq!(server.heads.lock().expect("the record").len(), 7);
}

#[test]
fn old_and_sparse_clients_are_served() {
    let backend = Backend::echo();
    let proxy = Proxy::start("", &intercepted(HOST, &format!("http://{}", backend.address()), OPENS));
    for request in [
        format!("CONNECT {HOST}:443 HTTP/1.0\r\n\r\n"),
        format!("CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}\r\n\r\n"),
        format!("CONNECT {HOST}:443 HTTP/1.1\r\nHost: {HOST}:443\r\nUser-Agent: Go-http-client/1.1\r\n\r\n"),
        format!(
            "CONNECT {HOST}:443 HTTP/1.1\r\nhost: {HOST}:443\r\nConnection: close\r\nProxy-Connection: keep-alive\r\n\r\n"
        ),
    ] {
        let (status, head, stream) = connect(proxy.address, &request);
        assert_eq!(status, 200, "{request} {head}");
        assert!(!head.to_ascii_lowercase().contains("content-length"), "{head}");
        let mut client = Through::start(stream, client_config(&proxy.ca), HOST).expect("TLS");
        let answer = client.ask(&json_request("POST", "/charges/1", HOST, &charge())).expect("an answer");
        assert!(answer.text().contains(CARD), "{request}");
    }
}

/// Runs a client with `HTTPS_PROXY`, and gives what it printed.
fn run(proxy: &Proxy, program: &str, arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let url = format!("http://{}", proxy.address);
    let mut command = Command::new(program);
    command.args(arguments).envs([
        ("HTTPS_PROXY", url.as_str()),
        ("https_proxy", &url),
        ("NO_PROXY", ""),
        ("no_proxy", ""),
    ]);
    let output = command.envs(variables.iter().copied()).output().expect("the client runs");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program}: {text} {}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn curl_python_and_node_go_through_unmodified() {
    let backend = Backend::echo();
    let proxy = Proxy::start("", &intercepted(HOST, &format!("http://{}", backend.address()), OPENS));
    let (url, body, ca) = (format!("https://{HOST}/charges/1"), charge(), proxy.ca.display().to_string());
    let clear = format!(r#"{{"number":"{CARD}"}}"#);
    let curl = ["-sS", "--fail-with-body", "--cacert", &ca, "-H", "content-type: application/json", "-d", &body, &url];
    assert_eq!(run(&proxy, "curl", &curl, &[]), clear);
    let urllib = "import sys, urllib.request as u\n\
        r = u.Request(sys.argv[1], sys.argv[2].encode(), {'content-type': 'application/json'})\n\
        print(u.urlopen(r, timeout=30).read().decode(), end='')";
    assert_eq!(run(&proxy, "python3", &["-c", urllib, &url, &body], &[("SSL_CERT_FILE", &ca)]), clear);
    let client = "import sys, ssl, http.client as h\n\
        c = h.HTTPSConnection(sys.argv[1], int(sys.argv[2]), context=ssl.create_default_context(), timeout=30)\n\
        c.set_tunnel(sys.argv[3], 443)\n\
        for n in range(2):\n  c.request('POST', '/charges/1', sys.argv[4], {'content-type': 'application/json'}); out = c.getresponse().read().decode()\n\
        print(out, end='')";
    let port = proxy.address.port().to_string();
    let arguments = ["-c", client, "127.0.0.1", &port, HOST, &body];
    assert_eq!(run(&proxy, "python3", &arguments, &[("SSL_CERT_FILE", &ca)]), clear);
    // Node goes through a proxy by itself from version 24 on; in older ones this is what agents do.
    if Command::new("node").arg("--version").output().is_ok_and(|o| o.status.success()) {
        let node = "const [url, body, port] = process.argv.slice(1); const u = new URL(url);\n\
            require('http').request({port, method: 'CONNECT', path: u.hostname + ':443', headers: {host: u.hostname + ':443'}}).on('connect', (r, socket) => {\n\
              const agent = new (require('https').Agent)(); agent.createConnection = () => s;\n\
              const s = require('tls').connect({socket, servername: u.hostname}, () =>\n\
                require('https').request(url, {method: 'POST', agent, headers: {'content-type': 'application/json', 'content-length': body.length}},\n\
                  r => r.on('data', d => process.stdout.write(d)).on('end', () => process.exit(0))).end(body));\n\
            }).end();";
        assert_eq!(run(&proxy, "node", &["-e", node, &url, &body, &port], &[("NODE_EXTRA_CA_CERTS", &ca)]), clear);
    }
    for request in backend.requests() {
        assert_eq!(request.header("host"), Some(backend.address().to_string().as_str()));
    }
}

#[test]
fn the_authority_is_made_once_kept_private_and_handed_out() {
    let backend = Backend::echo();
    let proxy = Proxy::start("", &intercepted(HOST, &format!("http://{}", backend.address()), ""));
    let mode = |name: &str| fs::metadata(proxy.folder.path().join(name)).expect("made").permissions().mode() & 0o777;
    assert_eq!(mode("relay-ca.key"), 0o600);
    let handed = get(proxy.relay.admin(), "/ca.pem");
    assert_eq!((handed.status, handed.body), (200, fs::read(&proxy.ca).expect("the certificate")));
    let output = |arguments: &[&str]| Program::Relay.output(arguments);
    let (ca, key) = (proxy.ca.display().to_string(), proxy.folder.path().join("other.key").display().to_string());
    let again = output(&["ca", "init", "--certificate", &ca, "--key", &key]);
    assert!(!again.status.success(), "an authority that clients trust is not overwritten");
    let rules = proxy.relay.rules().display().to_string();
    let (limited, limited_key) = (format!("{ca}.limited"), format!("{key}.limited"));
    let made = output(&["ca", "init", "--config", &rules, "--certificate", &limited, "--key", &limited_key]);
    let told = String::from_utf8_lossy(&made.stdout).into_owned();
    assert!(made.status.success() && told.contains(&format!("limited to  {HOST}")), "{told}");
    let shown = Command::new("openssl").args(["x509", "-noout", "-text", "-in", &limited]).output().expect("openssl");
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    for text in ["CA:TRUE, pathlen:0", "Name Constraints: critical", &format!("DNS:{HOST}"), "id-ecPublicKey"] {
        assert!(shown.contains(text), "{text} in {shown}");
    }
    let help = output(&["ca", "trust-help", "--certificate", &ca]);
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    for client in ["curl", "Node", "Python", "Java", "Go", "update-ca-certificates"] {
        assert!(help.contains(client), "{client}");
    }
    assert!(help.contains(&ca) && Path::new(&ca).exists());
}
