//! Who the client is: PROXY headers in and out, and what a backend is told of it.

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::backend::Peer;
use crate::support::{Backend, Client, Relay, ok};

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
const BALANCED: &str = "proxy_protocol: {from: [127.0.0.0/8]}";

/// A header of version 2 for 192.0.2.7, port 4660.
fn v2() -> Vec<u8> {
    let addresses = [192, 0, 2, 7, 198, 51, 100, 1, 0x12, 0x34, 1, 187];
    [&b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c"[..], &addresses].concat()
}

#[test]
fn a_balancer_says_who_the_client_is_and_nobody_comes_without() {
    let backend = Backend::echoing();
    let relay = Relay::before_with(backend.address, BALANCED);
    for (header, client) in [
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 4660 443\r\n".to_vec(), "192.0.2.7"),
        (v2(), "192.0.2.7"),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 4660 443\r\n".to_vec(), "2001:db8::7"),
        (b"PROXY UNKNOWN\r\n".to_vec(), "127.0.0.1"),
        (b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0".to_vec(), "127.0.0.1"),
    ] {
        let mut connection = Client::connect(relay.address);
        connection.send(&header);
        for _ in 0..2 {
            assert_eq!(connection.ask(GET).status, 200);
            assert_eq!(backend.requests().last().unwrap().field("x-forwarded-for"), Some(client));
        }
    }
    let served = backend.bytes();
    for bad in ["", "PROXY TCP4 192.0.2.7 198.51.100.1 4660 99999\r\n", "\r\n\r\n\0\r\nQUIT\n\x21\x12\0\0", " "] {
        let mut connection = Client::connect(relay.address);
        // The relay may have closed before all of it is sent.
        let _ = connection.stream.write_all(format!("{bad}{GET}").as_bytes());
        connection.assert_closed();
    }
    assert_eq!(backend.bytes(), served, "nothing of them went on");
}

#[test]
fn a_header_from_another_network_is_no_request() {
    let backend = Backend::echoing();
    let relay = Relay::before_with(backend.address, "proxy_protocol: {from: [10.0.0.0/8, \"fd00::/8\"]}");
    let mut plain = Client::connect(relay.address);
    assert_eq!(plain.ask(GET).status, 200);
    assert_eq!(backend.only_request().field("x-forwarded-for"), Some("127.0.0.1"));
    for header in [b"PROXY TCP4 192.0.2.7 198.51.100.1 4660 443\r\n".to_vec(), v2()] {
        let mut connection = Client::connect(relay.address);
        connection.send([&header, GET.as_bytes()].concat());
        assert_eq!(connection.answer().status, 400);
        connection.assert_closed();
    }
    assert_eq!(backend.requests().len(), 1);
}

#[test]
fn a_header_and_the_first_head_share_one_deadline() {
    let backend = Backend::echoing();
    let relay = Relay::before_with(backend.address, &format!("{BALANCED}\nconnections: {{head_time: 1s}}"));
    // Silent, dripping, and late with the head: the time is total.
    let started = Instant::now();
    let mut silent = Client::connect(relay.address);
    let mut dripping = Client::connect(relay.address);
    let mut late = Client::connect(relay.address);
    for byte in b"PROXY " {
        let _ = dripping.stream.write_all(&[*byte]);
        std::thread::sleep(Duration::from_millis(100));
    }
    late.send(v2()).send("GET / HTTP/1.1\r\n");
    silent.assert_closed();
    dripping.assert_closed();
    assert_eq!(late.answer().status, 408);
    assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
    assert_eq!(backend.bytes(), 0);
}

#[test]
fn connections_are_counted_for_the_client_that_the_balancer_names() {
    let backend = Backend::echoing();
    let relay = Relay::before_with(backend.address, &format!("{BALANCED}\nconnections: {{most_per_client: 2}}"));
    let open = |client: &str| {
        let mut connection = Client::connect(relay.address);
        let line = format!("PROXY TCP4 {client} 198.51.100.1 4660 443\r\n{GET}");
        let _ = connection.stream.write_all(line.as_bytes());
        connection
    };
    let mut kept = Vec::new();
    for client in ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.1"] {
        let mut connection = open(client);
        assert_eq!(connection.answer().status, 200, "{client}");
        kept.push(connection);
    }
    open("192.0.2.1").assert_closed();
    assert_eq!(open("192.0.2.2").answer().status, 200, "another client has its own");
}

#[test]
fn a_backend_hears_of_each_client_on_a_connection_of_its_own() {
    let (told, heard) = std::sync::mpsc::channel();
    let backend = Backend::raw(move |mut peer: Peer| {
        let Some(line) = peer.line() else { return };
        told.send(line).unwrap();
        while let Some(request) = peer.request() {
            peer.write(ok(&request.body));
        }
    });
    let relay = Relay::before_with(backend.address, "backend_proxy_protocol: v1");
    for _ in 0..2 {
        let mut client = Client::connect(relay.address);
        let port = client.stream.local_addr().unwrap().port();
        for _ in 0..2 {
            assert_eq!(client.ask(GET).status, 200);
            let line = heard.recv_timeout(Duration::from_secs(20)).unwrap();
            assert_eq!(line, format!("PROXY TCP4 127.0.0.1 127.0.0.1 {port} {}", relay.address.port()));
        }
    }
    assert_eq!(backend.connections(), 4, "none was lent");
}

#[test]
fn the_binary_header_goes_out_as_it_came_in() {
    let (told, heard) = std::sync::mpsc::channel();
    let backend = Backend::raw(move |mut peer: Peer| {
        let Some(header) = peer.take(28) else { return };
        told.send(header).unwrap();
        while let Some(request) = peer.request() {
            peer.write(ok(&request.body));
        }
    });
    let relay = Relay::before_with(backend.address, &format!("backend_proxy_protocol: v2\n{BALANCED}"));
    let mut client = Client::connect(relay.address);
    client.send(v2());
    assert_eq!(client.ask(GET).status, 200);
    assert_eq!(heard.recv_timeout(Duration::from_secs(20)).unwrap(), v2());
}

#[test]
fn only_a_trusted_proxy_is_believed_about_who_asked() {
    let backend = Backend::echoing();
    let asked = |more: &str| {
        let relay = Relay::before_with(backend.address, more);
        let request = "GET / HTTP/1.1\r\nHost: a.test\r\nX-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\nForwarded: for=203.0.113.9\r\n\r\n";
        assert_eq!(Client::connect(relay.address).ask(request).status, 200);
        let got = backend.requests().pop().unwrap();
        ["x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "forwarded"]
            .map(|f| got.field(f).map(str::to_owned))
    };
    let is = |more: &str, expected: [Option<&str>; 4]| {
        let got = asked(more);
        assert_eq!(got.each_ref().map(Option::as_deref), expected, "{more}");
    };
    let untrusted = [Some("127.0.0.1"), Some("http"), Some("a.test"), None];
    is("", untrusted);
    is("forwarded: {trust: [10.0.0.0/8]}", untrusted);
    is("forwarded: {send: []}", [None; 4]);
    is("forwarded: {send: [forwarded]}", [None, None, None, Some("for=127.0.0.1;host=a.test;proto=http")]);
    is(
        "forwarded: {trust: [127.0.0.1], send: [x-forwarded, forwarded]}",
        [
            Some("203.0.113.9, 127.0.0.1"),
            Some("https"),
            Some("a.test"),
            Some("for=203.0.113.9, for=127.0.0.1;host=a.test;proto=http"),
        ],
    );
}

#[test]
fn a_listener_that_awaits_balancers_stays_up_when_they_only_connect() {
    let backend = Backend::echoing();
    let relay = Relay::before_with(backend.address, BALANCED);
    for _ in 0..50 {
        drop(TcpStream::connect(relay.address).unwrap());
    }
    let mut connection = Client::connect(relay.address);
    connection.send(v2());
    assert_eq!(connection.ask(GET).status, 200);
}
