//! TLS at the inbound listener: which certificate, who is let in, what reaches which site, and what a reload does, with real clients.

#[path = "../src/proxied.rs"]
#[allow(dead_code, reason = "its CONNECT is for the tests of the outbound relay")]
mod proxied;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use e3_tests::backend::Backend;
use e3_tests::client::{Connection, json_request, once};
use e3_tests::engine_double::{Behaviour, EngineDouble, token_of};
use e3_tests::stack::{Relay, folder};
use e3_tests::{PATIENCE, eventually, port};
use proxied::{TestCa, Through};

const SHOP: &str = "api.shop.example";
const HEAD_TIME: &str = "connections: {head_time: 2s}";

/// A relay with TLS sites at one address.
struct Edge {
    relay: Relay,
    address: SocketAddr,
    backend: Backend,
    ca: TestCa,
    folder: tempfile::TempDir,
    _engine: EngineDouble,
}

impl Edge {
    /// Sites by host with what stands in their `tls` beside certificate and key, which are made for them.
    fn start(sites: &[(&str, &str)]) -> Self {
        let (folder, ca, address) = (folder(), TestCa::new(), port::free());
        let (engine, backend) = (EngineDouble::start(Behaviour::Honest), Backend::echo());
        let sites: String = sites
            .iter()
            .map(|(host, more)| {
                let tls = ca.site(folder.path(), host);
                format!(
                    "  - listen: {address}\n    hosts: [\"{host}\"]\n    backend: http://{}\n    {HEAD_TIME}\n    tls: {{{tls}{more}}}\n    \
                     rules: [{{match: {{methods: [POST], path: /seal}}, request: {{seal: [{{select: $.card, role: card}}]}}}}]\n",
                    backend.address()
                )
            })
            .collect();
        let rules = format!(
            "engine: {{endpoints: [\"{}\"], app: shop, development: true}}\ninbound:\n{sites}",
            engine.endpoint()
        );
        let relay = Relay::start(folder.path(), "relay", &rules);
        relay.wait_ready();
        Self { relay, address, backend, ca, folder, _engine: engine }
    }

    fn file(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    fn open(&self, host: &str) -> Through {
        Through::direct(self.address, &self.folder.path().join("site-ca.pem"), host)
    }

    /// `openssl s_client` with a request on its standard input.
    fn s_client(&self, arguments: &[&str], request: &str) -> Output {
        s_client(self.address, &self.file("site-ca.pem"), arguments, request)
    }

    fn handshakes(&self, result: &str) -> f64 {
        let series = format!("e3_relay_handshakes_total{{result=\"{result}\",side=\"inbound\"}}");
        self.relay.metric(&series).expect("a metric of handshakes")
    }
}

fn s_client(address: SocketAddr, ca: &str, arguments: &[&str], request: &str) -> Output {
    let mut client = Command::new("openssl")
        .args(["s_client", "-quiet", "-verify_quiet", "-CAfile", ca, "-connect", &address.to_string()])
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl");
    // It may have been turned away already.
    let _ = client.stdin.take().expect("standard input").write_all(request.as_bytes());
    client.wait_with_output().expect("openssl ends")
}

fn request(host: &str) -> String {
    format!("GET /x HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn each_site_shows_its_own_certificate_and_seals_what_comes() {
    let edge = Edge::start(&[(SHOP, ""), ("*.wild.example", ""), ("one.wild.example", ", hsts: {max_age: 365d}")]);
    let mut shown = Vec::new();
    // Verified by the client, each for its own name.
    for (host, hsts) in [(SHOP, None), ("any.wild.example", None), ("one.wild.example", Some("max-age=31536000"))] {
        let mut through = edge.open(host);
        shown.push(through.shown());
        let answer = through.ask(&json_request("POST", "/seal", host, r#"{"card":"4111"}"#)).unwrap();
        let sealed = format!(r#"{{"card":"{}"}}"#, token_of("card", 's', "4111"));
        assert_eq!((answer.status, answer.text()), (200, &*sealed), "{host}");
        assert_eq!(answer.header("strict-transport-security"), hsts, "{host}");
        let refused = through.ask(format!("GET /a//b HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).unwrap();
        assert_eq!((refused.status, refused.header("strict-transport-security")), (400, hsts), "{}", refused.text());
    }
    shown.dedup();
    assert_eq!(shown.len(), 3, "three certificates");
    for got in edge.backend.requests() {
        assert_eq!(got.header("x-forwarded-proto"), Some("https"), "{}", got.head);
    }
    assert_eq!(edge.handshakes("ok"), 3.0);
}

#[test]
fn a_name_that_no_site_has_is_turned_away_with_an_alert() {
    let edge = Edge::start(&[(SHOP, ""), ("b.example", "")]);
    for arguments in
        [["-servername", "c.example"].as_slice(), &["-servername", "x.api.shop.example"], &["-noservername"]]
    {
        let seen = edge.s_client(arguments, &request(SHOP));
        assert!(text(&seen.stderr).contains("unrecognized name"), "{arguments:?}: {}", text(&seen.stderr));
        assert!(seen.stdout.is_empty() && !seen.status.success(), "{arguments:?}");
    }
    assert_eq!(edge.handshakes("no-site"), 3.0);
    // In any case and with its last dot it is the same name.
    let seen = edge.s_client(&["-servername", "API.Shop.example"], &request(SHOP));
    assert!(text(&seen.stdout).starts_with("HTTP/1.1 200"), "{}", text(&seen.stderr));
    assert_eq!(edge.backend.requests().len(), 1);
}

#[test]
fn the_default_site_takes_those_who_name_none_and_no_more() {
    let edge = Edge::start(&[(SHOP, ", default: true"), ("b.example", "")]);
    for arguments in [["-servername", "c.example"].as_slice(), &["-noservername"]] {
        let seen = edge.s_client(arguments, &request(SHOP));
        assert!(text(&seen.stdout).starts_with("HTTP/1.1 200"), "{arguments:?}: {}", text(&seen.stderr));
        let seen = edge.s_client(arguments, &request("b.example"));
        assert!(text(&seen.stdout).starts_with("HTTP/1.1 421"), "{arguments:?}: {}", text(&seen.stdout));
    }
    let only = Edge::start(&[(SHOP, "")]);
    assert!(text(&only.s_client(&["-noservername"], &request(SHOP)).stdout).starts_with("HTTP/1.1 200"));
    let seen = only.s_client(&["-servername", "c.example"], &request(SHOP));
    assert!(text(&seen.stderr).contains("unrecognized name"), "{}", text(&seen.stderr));
}

#[test]
fn versions_older_than_a_site_wants_are_refused() {
    let edge = Edge::start(&[(SHOP, ""), ("new.example", ", min: \"1.3\"")]);
    let old = ["-cipher", "DEFAULT@SECLEVEL=0"];
    for (host, version, good) in [
        (SHOP, "-tls1", false),
        (SHOP, "-tls1_1", false),
        (SHOP, "-tls1_2", true),
        (SHOP, "-tls1_3", true),
        ("new.example", "-tls1_2", false),
        ("new.example", "-tls1_3", true),
    ] {
        let mut arguments = vec!["-servername", host, version];
        arguments.extend(old.iter().filter(|_| matches!(version, "-tls1" | "-tls1_1")));
        let seen = edge.s_client(&arguments, &request(host));
        assert_eq!(text(&seen.stdout).starts_with("HTTP/1.1 200"), good, "{host} {version}: {}", text(&seen.stderr));
        assert!(good || text(&seen.stderr).contains("alert"), "{version}: {}", text(&seen.stderr));
    }
}

#[test]
fn a_site_lets_in_the_clients_of_its_authorities_alone() {
    let (clients, foreign, own) = (TestCa::new(), TestCa::new(), folder());
    let file = |name: &str, text: &str| {
        let path = own.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let ca = file("clients.pem", &clients.pem);
    let member = |name: &str, (certificate, key): (String, String)| {
        [file(&format!("{name}.pem"), &certificate), file(&format!("{name}.key"), &key)]
    };
    let now = std::time::SystemTime::now();
    let good = member("good", clients.leaf("good.client", |_| ()));
    let stranger = member("stranger", foreign.leaf("good.client", |_| ()));
    let expired = member(
        "expired",
        clients.leaf("good.client", |params| {
            params.not_before = (now - Duration::from_secs(7200)).into();
            params.not_after = (now - Duration::from_secs(3600)).into();
        }),
    );
    let edge = Edge::start(&[
        ("open.example", ""),
        ("strict.example", &format!(", client_ca: {ca}, client_certificate_header: true")),
        ("kind.example", &format!(", client_ca: {ca}, client_certificate: request, client_certificate_header: true")),
    ]);
    let nobody: Option<&[String; 2]> = None;
    for (host, who, let_in) in [
        ("open.example", nobody, true),
        ("open.example", Some(&stranger), true),
        ("strict.example", nobody, false),
        ("strict.example", Some(&good), true),
        ("strict.example", Some(&stranger), false),
        ("strict.example", Some(&expired), false),
        ("kind.example", nobody, true),
        ("kind.example", Some(&good), true),
        ("kind.example", Some(&stranger), false),
        ("kind.example", Some(&expired), false),
    ] {
        for version in ["-tls1_2", "-tls1_3"] {
            let mut arguments = vec!["-servername", host, version];
            if let Some([certificate, key]) = who {
                arguments.extend(["-cert", certificate, "-key", key]);
            }
            let before = edge.backend.requests().len();
            let forged =
                request(host).replace("Connection:", "Client-Cert: :AAAA:\r\nclient-cert-chain: :AAAA:\r\nConnection:");
            let seen = edge.s_client(&arguments, &forged);
            assert_eq!(
                text(&seen.stdout).starts_with("HTTP/1.1 200"),
                let_in,
                "{host} {who:?} {version}: {} {}",
                text(&seen.stdout),
                text(&seen.stderr)
            );
            let requests = edge.backend.requests();
            assert_eq!(requests.len() - before, usize::from(let_in), "{host} {who:?}");
            if let_in {
                let told = requests.last().and_then(|got| got.header("client-cert"));
                let shown = host != "open.example" && who.is_some();
                assert_eq!(told.is_some_and(|t| t.starts_with(":MII") && t.ends_with(':')), shown, "{host} {told:?}");
                assert_ne!(told, Some(":AAAA:"), "what a client says of itself");
                // The client shows its authority too, where it is asked for a certificate.
                let chain = requests.last().and_then(|got| got.header("client-cert-chain"));
                assert_eq!(chain.is_some_and(|chain| chain.starts_with(":MII")), shown, "{host} {chain:?}");
            }
        }
    }
    // By the name of a site that asks for nothing nobody comes to one that does; nor with one site's certificate to another.
    for (named, host, status) in [
        ("open.example", "strict.example", 421),
        ("open.example", "kind.example", 421),
        ("kind.example", "strict.example", 421),
        ("open.example", "nowhere.example", 421),
        ("open.example", "OPEN.example:443", 200),
    ] {
        let answer = edge.open(named).ask(request(host).as_bytes()).unwrap();
        assert_eq!(answer.status, status, "{named} then {host}: {}", answer.text());
    }
}

#[test]
fn a_request_for_another_site_is_misdirected_unless_their_tls_is_one() {
    let edge = Edge::start(&[("a.example", ""), ("b.example", "")]);
    let answer = edge.open("a.example").ask(request("b.example").as_bytes()).unwrap();
    assert_eq!((answer.status, answer.text().contains("rules/server-name")), (421, true), "{}", answer.text());
    let (folder, address) = (folder(), port::free());
    let tls = edge.ca.site_with(folder.path(), "a.example", |params| {
        params.subject_alt_names.push(rcgen::SanType::DnsName("b.example".try_into().unwrap()));
    });
    let site = |host: &str, more: &str| {
        format!(
            "  - {{listen: \"{address}\", hosts: [{host}], backend: \"http://{}\", tls: {{{tls}{more}}}}}\n",
            edge.backend.address()
        )
    };
    let engine = "engine: {endpoints: [\"unix:///nonexistent/e3.sock\"], app: shop, development: true}";
    let rules = format!("{engine}\ninbound:\n{}{}", site("a.example", ""), site("b.example", ", default: true"));
    let _relay = Relay::start(folder.path(), "relay", &rules);
    let mut through = Through::direct(address, &folder.path().join("site-ca.pem"), "a.example");
    for host in ["a.example", "b.example"] {
        let answer = through.ask(format!("GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).unwrap();
        assert_eq!(answer.status, 200, "{host}: {}", answer.text());
    }
}

#[test]
fn a_new_certificate_is_taken_up_while_connections_stay_and_a_bad_one_is_not() {
    let edge = Edge::start(&[(SHOP, "")]);
    let keep = format!("GET /x HTTP/1.1\r\nHost: {SHOP}\r\n\r\n");
    let mut stays = edge.open(SHOP);
    assert_eq!(stays.ask(keep.as_bytes()).unwrap().status, 200);
    let first = stays.shown();
    edge.ca.site(edge.folder.path(), SHOP);
    let second = eventually("the new certificate", || Some(edge.open(SHOP).shown()).filter(|shown| *shown != first));
    assert_eq!(stays.ask(keep.as_bytes()).unwrap().status, 200, "the old connection goes on");
    // A key that does not fit.
    let (_, key) = edge.ca.leaf(SHOP, |_| ());
    std::fs::write(edge.file(&format!("{SHOP}.key")), key).unwrap();
    let refused = eventually("a refused reload", || Some(edge.relay.status()).filter(|s| s.contains("key of another")));
    assert!(refused.contains("\"result\": \"refused\"") && !refused.contains("PRIVATE"), "{refused}");
    assert_eq!(edge.relay.metric("e3_relay_reload_failed"), Some(1.0));
    assert!(edge.relay.status().contains(SHOP));
    assert_eq!(edge.open(SHOP).shown(), second, "the old one stays");
    assert_eq!(stays.ask(keep.as_bytes()).unwrap().status, 200);
    edge.ca.site(edge.folder.path(), SHOP);
    eventually("the third certificate", || Some(edge.open(SHOP).shown()).filter(|shown| *shown != second));
    assert_eq!(edge.relay.metric("e3_relay_reload_failed"), Some(0.0));
    let series = format!("e3_relay_certificate_expiry_timestamp_seconds{{side=\"inbound\",site=\"{SHOP}\"}}");
    assert!(edge.relay.metric(&series).is_some_and(|expiry| expiry > 1e9), "{}", edge.relay.metrics());
}

#[test]
fn a_new_authority_of_a_backend_is_taken_up_by_requests_and_health_checks() {
    // Where client certificates are asked for no session is resumed, so that every connection shows the server's anew.
    let edge = Edge::start(&[(SHOP, ", client_ca: ../site-ca.pem, client_certificate: request")]);
    let (front, ca) = (port::free(), edge.file("backend-ca.pem"));
    std::fs::copy(edge.file("site-ca.pem"), &ca).unwrap();
    let engine = EngineDouble::start(Behaviour::Honest);
    let relay = Relay::start(
        edge.folder.path(),
        "front",
        &format!(
            "engine: {{endpoints: [\"{}\"], app: shop, development: true}}\ninbound:\n  - listen: {front}\n    hosts: [{SHOP}]\n    \
             backend: https://{}\n    backend_name: {SHOP}\n    backend_ca: {ca}\n    \
             limits: {{pool_idle: 0}}\n    health: {{path: /alive, interval: 100ms, unhealthy: 1, healthy: 1}}\n",
            engine.endpoint(),
            edge.address
        ),
    );
    relay.wait_ready();
    let status = || once(front, &json_request("POST", "/x", SHOP, "{}")).status;
    let checks = || edge.backend.requests().iter().filter(|request| request.line().1 == "/alive").count();
    eventually("a check", || (checks() > 0).then_some(()));
    assert_eq!(status(), 200);
    // The server shows a certificate of an authority that is not trusted yet: it is turned off.
    TestCa::new().site(edge.folder.path(), SHOP);
    eventually("a server that is turned off", || (status() == 502).then_some(()));
    let before = checks();
    std::fs::copy(edge.file("site-ca.pem"), &ca).unwrap();
    eventually("an answer under the new authority", || (status() == 200).then_some(()));
    eventually("a check under the new authority", || (checks() > before).then_some(()));
    assert_eq!(status(), 200);
}

#[test]
fn a_site_that_begins_to_ask_for_certificates_asks_connections_that_stayed() {
    let edge = Edge::start(&[(SHOP, "")]);
    let keep = format!("GET /x HTTP/1.1\r\nHost: {SHOP}\r\n\r\n");
    let mut stays = edge.open(SHOP);
    assert_eq!(stays.ask(keep.as_bytes()).unwrap().status, 200);
    let rules = std::fs::read_to_string(edge.relay.rules()).unwrap();
    let rules = rules.replace("tls: {", &format!("tls: {{client_ca: {}, ", edge.file("site-ca.pem")));
    std::fs::write(edge.relay.rules(), rules).unwrap();
    eventually("the new rules", || {
        edge.relay.metric("e3_relay_reloads_total{result=\"applied\"}").filter(|n| *n > 0.0)
    });
    assert_eq!(stays.ask(keep.as_bytes()).unwrap().status, 421);
}

#[test]
fn plaintext_and_slow_handshakes_get_nothing_through() {
    let edge = Edge::start(&[(SHOP, "")]);
    let started = Instant::now();
    let mut silent = TcpStream::connect(edge.address).unwrap();
    let mut slow = TcpStream::connect(edge.address).unwrap();
    // The head of a first message that does not come.
    slow.write_all(&[22, 3, 1, 2, 0, 1, 0]).unwrap();
    // A handshake, and then no request.
    let mut idle = edge.open(SHOP);
    for stream in [&mut silent, &mut slow] {
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut rest = Vec::new();
        assert_eq!(stream.read_to_end(&mut rest).unwrap_or(0), 0, "{rest:?}");
    }
    assert!(idle.ask(b"").is_err(), "closed without a word");
    assert!(started.elapsed() < Duration::from_secs(20), "closed after {:?}", started.elapsed());
    assert_eq!(edge.handshakes("late"), 2.0);
    // A first message that never ends is cut long before its time.
    let failed = edge.handshakes("failed");
    let mut endless = TcpStream::connect(edge.address).unwrap();
    endless.set_read_timeout(Some(PATIENCE)).unwrap();
    let record = [&[22, 3, 1, 16, 4, 1, 0, 255, 255][..], &[0; 4096]].concat();
    let more = [&[22, 3, 1, 16, 0][..], &[0; 4096]].concat();
    let sent = [record, more.clone(), more.clone(), more.clone(), more].concat();
    // The relay may be gone before it is all sent.
    let _ = endless.write_all(&sent);
    let _ = endless.read_to_end(&mut Vec::new());
    eventually("a failed handshake", || (edge.handshakes("failed") > failed).then_some(()));
    assert_eq!(edge.handshakes("late"), 2.0);
    let mut plain = Connection::open(edge.address);
    plain.send(request(SHOP).as_bytes()).unwrap();
    let got = plain.rest().unwrap_or_default();
    assert!(got.len() <= 7 && !got.starts_with(b"HTTP"), "{got:?}");
    assert_eq!(edge.backend.bytes(), 0);
}

#[test]
fn tls_to_a_plain_listener_is_answered_400_and_reaches_nobody() {
    let (folder, address, backend) = (folder(), port::free(), Backend::echo());
    let rules = format!(
        "engine: {{endpoints: [\"unix:///nonexistent/e3.sock\"], app: shop, development: true}}\n\
         inbound:\n  - {{listen: \"{address}\", hosts: [{SHOP}], backend: \"http://{}\"}}\n",
        backend.address()
    );
    let _relay = Relay::start(folder.path(), "relay", &rules);
    let seen = s_client(address, "/dev/null", &["-servername", SHOP], &request(SHOP));
    assert!(!seen.status.success() && seen.stdout.is_empty(), "{}", text(&seen.stdout));
    assert_eq!(backend.bytes(), 0);
}

fn run(program: &str, arguments: &[&str]) -> String {
    let seen = Command::new(program).args(arguments).stdin(Stdio::null()).output().expect(program);
    assert!(seen.status.success(), "{program}: {}{}", text(&seen.stdout), text(&seen.stderr));
    text(&seen.stdout)
}

#[test]
fn curl_and_python_come_in_unmodified() {
    let edge = Edge::start(&[(SHOP, "")]);
    let (port, ca) = (edge.address.port().to_string(), edge.file("site-ca.pem"));
    let sealed = format!(r#"{{"card":"{}"}}"#, token_of("card", 's', "4111"));
    let resolve = format!("{SHOP}:{port}:127.0.0.1");
    let url = format!("https://{SHOP}:{port}/seal");
    for version in ["--tlsv1.2", "--tlsv1.3"] {
        let seen = run(
            "curl",
            &[
                "-sS",
                version,
                "--cacert",
                &ca,
                "--resolve",
                &resolve,
                "-H",
                "content-type: application/json",
                "-d",
                r#"{"card":"4111"}"#,
                &url,
            ],
        );
        assert_eq!(seen, sealed, "{version}");
    }
    let script = r#"
import http.client, socket, ssl, sys
host, port, ca = sys.argv[1:]
context = ssl.create_default_context(cafile=ca)
stream = context.wrap_socket(socket.create_connection(("127.0.0.1", int(port))), server_hostname=host)
client = http.client.HTTPSConnection(host, int(port))
client.sock = stream
client.request("POST", "/seal", '{"card":"4111"}', {"Content-Type": "application/json"})
print(client.getresponse().read().decode(), end="")
"#;
    assert_eq!(run("python3", &["-c", script, SHOP, &port, &ca]), sealed);
}

/// A session is resumed where no client certificate is asked for, and never where one is.
#[test]
fn sessions_resume_for_their_own_site_alone() {
    let (clients, own) = (TestCa::new(), folder());
    let file = |name: &str, text: &str| {
        std::fs::write(own.path().join(name), text).unwrap();
        own.path().join(name).display().to_string()
    };
    let (certificate, key) = clients.leaf("good.client", |_| ());
    let (ca, certificate, key) = (file("ca.pem", &clients.pem), file("good.pem", &certificate), file("good.key", &key));
    let strict = format!(", client_ca: {ca}");
    let edge = Edge::start(&[("a.example", ""), ("b.example", ""), ("strict.example", &strict)]);
    let session = edge.file("session");
    for version in ["-tls1_2", "-tls1_3"] {
        let _ = std::fs::remove_file(&session);
        let reused = |host: &str, arguments: &[&str]| {
            let address = edge.address.to_string();
            let mut client = Command::new("openssl")
                .args(["s_client", "-connect", &address, "-servername", host, "-ign_eof", version])
                .args(arguments)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn()
                .expect("openssl");
            let _ = client.stdin.take().expect("standard input").write_all(request(host).as_bytes());
            text(&client.wait_with_output().expect("openssl ends").stdout).contains("\nReused, ")
        };
        assert!(!reused("a.example", &["-sess_out", &session]));
        assert!(Path::new(&session).exists(), "{version}: a session was given");
        assert!(!reused("b.example", &["-sess_in", &session]), "{version}: another site's session");
        assert!(reused("a.example", &["-sess_in", &session]), "{version}");
        let member = ["-cert", &certificate, "-key", &key];
        assert!(!reused("strict.example", &[&member[..], &["-sess_out", &session]].concat()));
        assert!(
            !reused("strict.example", &[&member[..], &["-sess_in", &session]].concat()),
            "{version}: it proves itself anew"
        );
    }
}

#[test]
fn another_protocol_passes_through_tls() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let upstream = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut head = [0; 2048];
        let n = stream.read(&mut head).unwrap();
        assert!(text(&head[..n]).to_lowercase().contains("upgrade: echo"));
        stream.write_all(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: echo\r\n\r\n").unwrap();
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).unwrap();
        stream.write_all(&bytes).unwrap();
    });
    let (folder, address, ca) = (folder(), port::free(), TestCa::new());
    let tls = ca.site(folder.path(), SHOP);
    let rules = format!(
        "engine: {{endpoints: [\"unix:///nonexistent/e3.sock\"], app: shop, development: true}}\n\
         inbound:\n  - {{listen: \"{address}\", hosts: [{SHOP}], backend: \"http://{upstream}\", tls: {{{tls}}}}}\n"
    );
    let _relay = Relay::start(folder.path(), "relay", &rules);
    let mut through = Through::direct(address, &folder.path().join("site-ca.pem"), SHOP);
    let asked = format!("GET /ws HTTP/1.1\r\nHost: {SHOP}\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n");
    assert_eq!(through.ask(asked.as_bytes()).unwrap().status, 101);
    through.bytes().write_all(b"hello").unwrap();
    let mut echoed = [0; 5];
    through.bytes().read_exact(&mut echoed).unwrap();
    assert_eq!(&echoed, b"hello");
}

/// What TLS was made under holds for every request of a connection, in HTTP/2 too.
#[test]
fn http2_keeps_to_the_site_that_its_tls_was_made_for() {
    let clients = TestCa::new();
    let own = folder();
    let ca = own.path().join("clients.pem");
    std::fs::write(&ca, &clients.pem).unwrap();
    let strict = format!(", client_ca: {}", ca.display());
    let edge = Edge::start(&[("a.example", ", hsts: {max_age: 1d}"), ("b.example", ""), ("strict.example", &strict)]);
    let (port, trusted) = (edge.address.port().to_string(), edge.file("site-ca.pem"));
    let resolve = format!("a.example:{port}:127.0.0.1");
    for (host, status) in [("a.example", "200"), ("b.example", "421"), ("strict.example", "421"), ("c.example", "421")]
    {
        let seen = run(
            "curl",
            &[
                "-sS",
                "--http2",
                "--cacert",
                &trusted,
                "--resolve",
                &resolve,
                "-H",
                &format!("host: {host}"),
                "-D",
                "-",
                "-o",
                "/dev/null",
                &format!("https://a.example:{port}/x"),
            ],
        );
        assert!(seen.starts_with(&format!("HTTP/2 {status}")), "{host}: {seen}");
        assert_eq!(seen.contains("strict-transport-security: max-age=86400"), status == "200", "{host}: {seen}");
    }
    assert_eq!(edge.backend.requests().len(), 1);
}
