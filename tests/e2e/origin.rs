//! Who the client is, through the whole system: the engine's audit names the client that a balancer or a trusted proxy tells of, over plain connections and TLS.

#[path = "../src/proxied.rs"]
#[allow(dead_code, reason = "its CONNECT is for the tests of the outbound relay")]
mod proxied;

use std::io::Write;
use std::net::TcpStream;

use e3_tests::backend::Backend;
use e3_tests::client::{Connection, json_request};
use e3_tests::stack::{Engine, Relay, folder};
use e3_tests::{PATIENCE, eventually, port};
use proxied::{TestCa, Through, client_config};

const HOST: &str = "api.shop.example";

#[test]
fn the_audit_names_the_client_behind_balancers_and_proxies() {
    let (folder, ca, backend) = (folder(), TestCa::new(), Backend::echo());
    let engine = Engine::start(folder.path());
    let (plain, secure) = (port::free(), port::free());
    let site = |listen, more: &str| {
        format!(
            "  - listen: {listen}\n    hosts: [{HOST}]\n    backend: http://{}\n    proxy_protocol: {{from: [127.0.0.1]}}\n    \
             forwarded: {{trust: [192.0.2.0/24]}}\n{more}    \
             rules: [{{request: {{seal: [{{select: $.card, role: card}}]}}, response: {{open: [{{select: $.card, roles: [card]}}]}}}}]\n",
            backend.address()
        )
    };
    let tls = format!("    tls: {{{}}}\n", ca.site(folder.path(), HOST));
    let rules = format!(
        "engine: {{endpoints: [\"{}\"], app: shop, development: true}}\ninbound:\n{}{}",
        engine.endpoint(),
        site(plain, ""),
        site(secure, &tls)
    );
    let relay = Relay::start(folder.path(), "relay", &rules);
    relay.wait_ready();
    let audited = |source: &str| {
        eventually(&format!("an audit record of {source}"), || {
            let log = std::fs::read_to_string(folder.path().join("audit.log")).ok()?;
            log.contains(&format!("\"source\":\"{source}\"")).then_some(())
        });
    };
    let body = r#"{"card":"4111"}"#;
    let header = |client: &str| format!("PROXY TCP4 {client} 198.51.100.1 4660 443\r\n");
    let with = |more: &str| {
        let text = String::from_utf8(json_request("POST", "/x", HOST, body)).expect("text");
        text.replacen("\r\n", &format!("\r\n{more}"), 1).into_bytes()
    };
    for (client, more, source) in [
        ("203.0.113.1", "", "203.0.113.1"),
        ("203.0.113.2", "X-Forwarded-For: 198.51.100.9\r\n", "203.0.113.2"),
        ("192.0.2.3", "X-Forwarded-For: 198.51.100.9, 203.0.113.3\r\n", "203.0.113.3"),
    ] {
        let mut connection = Connection::open(plain);
        connection.send(header(client).as_bytes()).expect("the header is sent");
        connection.send(&with(more)).expect("the request is sent");
        assert_eq!(connection.answer().expect("an answer").text(), body);
        audited(source);
    }
    let mut stream = TcpStream::connect(secure).expect("the listener listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(header("203.0.113.4").as_bytes()).expect("the header is sent");
    let client = client_config(&folder.path().join("site-ca.pem"));
    let mut through = Through::start(stream, client, HOST).expect("TLS behind the header");
    assert_eq!(through.ask(&with("")).expect("an answer").text(), body);
    audited("203.0.113.4");
    let got = backend.requests().pop().expect("a request");
    assert_eq!((got.header("x-forwarded-for"), got.header("x-forwarded-proto")), (Some("203.0.113.4"), Some("https")));
    // TLS without the header goes nowhere.
    let stream = TcpStream::connect(secure).expect("the listener listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    assert!(Through::start(stream, client_config(&folder.path().join("site-ca.pem")), HOST).is_err());
}
