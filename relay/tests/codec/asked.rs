//! Destinations without an upstream: the host that a request asks for, looked up, checked and verified for that request.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use relay::exchange::resolver::Resolver;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned, crypto};

use crate::support::{Client, Relay};

/// An authority, written to a file.
struct Ca {
    issuer: Issuer<'static, KeyPair>,
    folder: tempfile::TempDir,
}

impl Ca {
    fn new() -> Self {
        let (key, folder) = (KeyPair::generate().unwrap(), tempfile::tempdir().unwrap());
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        std::fs::write(folder.path().join("ca.pem"), params.self_signed(&key).unwrap().pem()).unwrap();
        Self { issuer: Issuer::new(params, key), folder }
    }

    fn file(&self) -> String {
        self.folder.path().join("ca.pem").display().to_string()
    }

    /// A server that proves these names and answers every request with the Host that it got.
    fn server(&self, address: &str, names: &[&str]) -> Server {
        let key = KeyPair::generate().unwrap();
        let names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &self.issuer).unwrap();
        let provider = Arc::new(crypto::ring::default_provider());
        let builder = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
        let config = Arc::new(builder.with_no_client_auth().with_single_cert(vec![leaf.into()], key).unwrap());
        let listener = TcpListener::bind(address).unwrap();
        let server =
            Server { address: listener.local_addr().unwrap(), connections: Arc::default(), hosts: Arc::default() };
        let kept = server.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                kept.connections.fetch_add(1, Ordering::SeqCst);
                let (config, kept) = (Arc::clone(&config), kept.clone());
                std::thread::spawn(move || {
                    let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
                    let mut head = Vec::new();
                    let mut byte = [0];
                    while matches!(stream.read(&mut byte), Ok(1)) {
                        head.push(byte[0]);
                        if head.ends_with(b"\r\n\r\n") {
                            let text = String::from_utf8(std::mem::take(&mut head)).unwrap().to_ascii_lowercase();
                            let host = text.lines().find_map(|l| l.strip_prefix("host: ")).unwrap().to_owned();
                            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{host}", host.len());
                            kept.hosts.lock().unwrap().push(host);
                            if stream.write_all(answer.as_bytes()).is_err() {
                                return;
                            }
                        }
                    }
                });
            }
        });
        server
    }
}

#[derive(Clone)]
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    hosts: Arc<Mutex<Vec<String>>>,
}

impl Server {
    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// An outbound relay for `*.wild.example` without an upstream, whose resolver asks `table`. The port that is asked for is the servers'.
fn relay(ca: &Ca, port: u16, more: &str, table: impl Fn(&str) -> Vec<IpAddr> + Send + Sync + 'static) -> Relay {
    let rules = format!(
        "engine: {{endpoints: [\"unix:///nonexistent/e3.sock\"], app: shop, development: true}}\noutbound:\n  - listen: LISTEN\n    destinations:\n      \
         - {{host: \"*.wild.example\", tunnel: true, ports: [443, {port}], ca: {}, networks: [127.0.0.1]{more}}}\n",
        ca.file()
    );
    Relay::start_with(&rules, Resolver::own(table).with_turns(1, 2))
}

fn get(host: &str) -> String {
    format!("GET /x HTTP/1.1\r\nHost: {host}\r\n\r\n")
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn the_host_that_is_asked_for_is_the_upstream_and_proves_its_own_name() {
    let ca = Ca::new();
    let server = ca.server("127.0.0.1:0", &["a.wild.example", "b.wild.example"]);
    let port = server.address.port();
    let relay = relay(&ca, port, "", |_| vec![ip("127.0.0.1")]);
    let mut client = Client::connect(relay.address);
    for host in ["a", "b", "a", "B", "a"] {
        let host = format!("{host}.wild.example:{port}");
        let answer = client.ask(get(&host));
        assert_eq!((answer.status, answer.text()), (200, host.to_ascii_lowercase()));
    }
    assert_eq!(server.connections(), 2, "one for each name: none is lent although both are at one address");
    // A name that the certificate is not for, and a port that is not open.
    let answer = client.ask(get(&format!("c.wild.example:{port}")));
    assert_eq!((answer.status, answer.code().as_str()), (502, "upstream/certificate"));
    assert_eq!(client.ask(get("a.wild.example:1")).status, 403);
    assert_eq!(client.ask(get("wild.example")).status, 421);
    assert_eq!(server.hosts.lock().unwrap().len(), 5);
}

#[test]
fn what_the_guard_refuses_is_not_dialled_whatever_the_name_resolves_to() {
    let ca = Ca::new();
    let server = ca.server("127.0.0.1:0", &["good.wild.example", "both.wild.example"]);
    let port = server.address.port();
    // A trap on an address that is not listed.
    let trap = TcpListener::bind(("127.0.0.2", port)).unwrap();
    trap.set_nonblocking(true).unwrap();
    let relay = relay(&ca, port, "", |host| match host.split('.').next() {
        Some("both") => vec![ip("127.0.0.2"), ip("127.0.0.1"), ip("169.254.169.254")],
        Some("mapped") => vec![ip("::ffff:127.0.0.2")],
        Some("metadata") => vec![ip("169.254.169.254")],
        Some("nowhere") => vec![],
        Some("good") => vec![ip("127.0.0.1")],
        _ => vec![ip("127.0.0.2")],
    });
    let mut client = Client::connect(relay.address);
    for (host, status, code) in [
        ("evil", 403, "upstream/address"),
        ("mapped", 403, "upstream/address"),
        ("metadata", 403, "upstream/address"),
        ("nowhere", 502, "upstream/connect"),
    ] {
        let answer = client.ask(get(&format!("{host}.wild.example:{port}")));
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{host}");
    }
    for _ in 0..6 {
        assert_eq!(client.ask(get(&format!("both.wild.example:{port}"))).status, 200);
    }
    // A tunnel asks the same guard.
    for (host, status) in [("evil", "403"), ("good", "200")] {
        let mut client = Client::connect(relay.address);
        client.send(format!("CONNECT {host}.wild.example:{port} HTTP/1.1\r\nHost: {host}.wild.example:{port}\r\n\r\n"));
        assert_eq!(client.head().status.to_string(), status, "{host}");
    }
    assert!(trap.accept().is_err(), "the trap was dialled");
}

#[test]
fn a_name_that_changes_its_answer_gains_nothing() {
    let ca = Ca::new();
    let server = ca.server("127.0.0.1:0", &["a.wild.example"]);
    let port = server.address.port();
    let trap = TcpListener::bind(("127.0.0.2", port)).unwrap();
    trap.set_nonblocking(true).unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    // Good when it is checked, and another one whenever it is asked again.
    let relay = relay(&ca, port, ", limits: {pool_idle: 0}", move |_| match count.fetch_add(1, Ordering::SeqCst) {
        0 => vec![ip("127.0.0.1")],
        _ => vec![ip("127.0.0.2")],
    });
    let host = format!("a.wild.example:{port}");
    let mut client = Client::connect(relay.address);
    for _ in 0..3 {
        assert_eq!(client.ask(get(&host)).status, 200);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 1, "what was checked is what is dialled");
    assert_eq!(server.connections(), 3);
    // When its time is over it is looked up again, and checked again.
    let mut refused = None;
    for _ in 0..200 {
        let answer = client.ask(get(&host));
        if answer.status != 200 {
            refused = Some((answer.status, answer.code()));
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(refused, Some((403, "upstream/address".to_owned())));
    assert!(trap.accept().is_err(), "the trap was dialled");
}

#[test]
fn any_number_of_names_is_served_one_after_the_other() {
    let ca = Ca::new();
    let server = ca.server("127.0.0.1:0", &["*.wild.example"]);
    let port = server.address.port();
    let relay = relay(&ca, port, "", |_| vec![ip("127.0.0.2")]);
    let mut client = Client::connect(relay.address);
    for n in 0..3000 {
        let answer = client.ask(get(&format!("n{n}.wild.example:{port}")));
        assert_eq!(answer.status, 403);
    }
    assert_eq!(server.connections(), 0);
}

#[test]
fn names_whose_servers_are_silent_hold_up_a_bounded_number_of_requests() {
    let ca = Ca::new();
    let server = ca.server("127.0.0.1:0", &["*.wild.example"]);
    let port = server.address.port();
    let (speak, silence) = mpsc::channel::<()>();
    let silence = Mutex::new(silence);
    let relay = relay(&ca, port, ", limits: {connect_time: 60s}", move |host| {
        if host.starts_with("silent") {
            // Until somebody speaks, or nobody ever will.
            let _ = silence.lock().unwrap().recv();
            return vec![];
        }
        vec![ip("127.0.0.1")]
    });
    // One look-up runs and two wait: whoever comes fourth is refused, and none of these has an answer.
    let mut refused = 0;
    let mut clients: Vec<_> = (0..6)
        .map(|n| {
            let mut client = Client::connect(relay.address);
            client.send(get(&format!("silent{n}.wild.example:{port}")));
            client
        })
        .collect();
    let mut left = Vec::new();
    for _ in 0..500 {
        if refused == 3 {
            break;
        }
        for mut client in clients.drain(..) {
            if client.has_bytes() {
                let answer = client.answer();
                assert_eq!((answer.status, answer.code().as_str()), (503, "relay/overloaded"));
                refused += 1;
            } else {
                left.push(client);
            }
        }
        std::mem::swap(&mut clients, &mut left);
    }
    assert_eq!(refused, 3);
    assert!(clients.len() == 3 && clients.iter_mut().all(|client| !client.has_bytes()), "three wait");
    drop(speak);
    for client in &mut clients {
        assert_eq!(client.answer().status, 502);
    }
    let mut client = Client::connect(relay.address);
    assert_eq!(client.ask(get(&format!("good.wild.example:{port}"))).status, 200);
}
