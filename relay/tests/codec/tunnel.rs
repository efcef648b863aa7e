//! Other protocols on unruled routes.

use std::time::Duration;

use crate::support::{Backend, Client, Relay, ok};

const ASK: &str =
    "GET /ws HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n\r\n";

/// Agrees, and sends back what comes.
fn agreeing() -> Backend {
    Backend::raw(|mut peer| {
        let request = peer.request().unwrap();
        assert_eq!((request.field("connection"), request.field("upgrade")), (Some("upgrade"), Some("websocket")));
        peer.write("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: y\r\n\r\nhello");
        while let Some(byte) = peer.take(1) {
            peer.write(byte);
        }
    })
}

#[test]
fn bytes_go_through_both_ways_also_those_sent_early() {
    let backend = agreeing();
    let relay = Relay::before(backend.address);
    let mut client = Client::connect(relay.address);
    // Bytes behind the head, before anyone agreed, that are no HTTP.
    client.send(format!("{ASK}\0\u{1}early"));
    let answer = client.head();
    assert_eq!(
        (answer.status, answer.field("upgrade"), answer.field("sec-websocket-accept")),
        (101, Some("websocket"), Some("y"))
    );
    assert_eq!(client.take(12), b"hello\0\x01early");
    for n in 0..100u8 {
        client.send([n]);
        assert_eq!(client.take(1), [n]);
    }
    assert_eq!(relay.metrics.connections(), 1, "a tunnel is a connection that a drain waits for");
    client.half_close();
    client.assert_closed();
    backend.wait_for_open(0);
}

#[test]
fn after_a_refusal_the_next_bytes_are_http_again_and_pass_the_gate() {
    let backend = Backend::echoing();
    let relay = Relay::before(backend.address);
    let mut client = Client::connect(relay.address);
    client.send(format!("{ASK}GET /next HTTP/1.1\r\nHost: a.test\r\n\r\nbad\r\n\r\n"));
    assert_eq!(client.answer().status, 200);
    assert_eq!(client.answer().status, 200);
    assert_eq!(client.answer().code(), "framing/request-line");
    client.assert_closed();
    assert_eq!(backend.requests()[1].line, "GET /next HTTP/1.1");
}

#[test]
fn no_protocol_in_which_requests_travel_is_asked_of_a_backend() {
    let backend = Backend::answering(|request| {
        // Agrees to whatever it is asked.
        match request.field("upgrade") {
            Some(protocol) => {
                format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\n\r\n").into()
            }
            None => ok(b"{}"),
        }
    });
    let relay = Relay::before(backend.address);
    let mut client = Client::connect(relay.address);
    for protocol in ["h2c", "H2C", "h2", "TLS/1.0", "HTTP/2.0, h2c"] {
        let settings = "Connection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAAQAAP__";
        let answer = client.ask(format!("GET / HTTP/1.1\r\nHost: a.test\r\n{settings}\r\nUpgrade: {protocol}\r\n\r\n"));
        assert_eq!((answer.status, answer.text().as_str()), (200, "{}"), "{protocol}");
    }
    // What is sent behind such a wish is HTTP, and passes the gate.
    client.send(
        "GET / HTTP/1.1\r\nHost: a.test\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    );
    assert_eq!(client.answer().status, 200);
    assert_eq!(client.answer().code(), "framing/request-line");
    client.assert_closed();
    for request in backend.requests() {
        assert!(["upgrade", "http2-settings", "connection"].iter().all(|name| request.field(name).is_none()));
    }
}

#[test]
fn a_backend_that_changes_to_what_nobody_asked_for_gets_no_tunnel() {
    for other in ["Upgrade: h2c", "Upgrade: websocket, h2c", "X: y"] {
        let backend = Backend::answering(move |_| {
            format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\n{other}\r\n\r\nhello").into()
        });
        let relay = Relay::before(backend.address);
        let answer = Client::connect(relay.address).ask(ASK);
        assert_eq!((answer.status, answer.code().as_str()), (502, "upstream/protocol"), "{other}");
    }
}

#[test]
fn an_older_client_stays_with_its_protocol() {
    let backend = Backend::echoing();
    let relay = Relay::before(backend.address);
    let answer = Client::connect(relay.address).ask(ASK.replace("HTTP/1.1", "HTTP/1.0"));
    assert_eq!((answer.status, backend.only_request().field("upgrade")), (200, None));
}

#[test]
fn a_silent_tunnel_ends() {
    let backend = agreeing();
    let relay = Relay::before_with(backend.address, "limits: {stream_idle: 400ms}");
    let mut client = Client::connect(relay.address);
    client.send(ASK);
    assert_eq!(client.head().status, 101);
    client.take(5);
    for _ in 0..8 {
        std::thread::sleep(Duration::from_millis(100));
        client.send("x");
        client.take(1);
    }
    client.assert_closed();
    backend.wait_for_open(0);
}

#[test]
fn connect_is_refused_here() {
    let backend = Backend::echoing();
    let relay = Relay::before(backend.address);
    let answer = Client::connect(relay.address).ask("CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n");
    assert_eq!((answer.status, answer.code().as_str()), (405, "rules/tunnel"));
    assert_eq!(backend.bytes(), 0);
}
