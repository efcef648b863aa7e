//! Upstream connections: kept, swept, retried when that is safe, and spread over servers.

use std::net::TcpListener;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::{Backend, Client, Relay, inbound, ok};

const GET: &str = "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n";
const POST: &str = "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\n{}";

#[test]
fn clients_share_idle_connections_up_to_the_cap() {
    let backend = Backend::answering(|_| {
        std::thread::sleep(Duration::from_millis(50));
        ok(b"{}")
    });
    let relay = Relay::before_with(backend.address, "limits: {pool_idle: 2}");
    let mut clients: Vec<_> = (0..6).map(|_| Client::connect(relay.address)).collect();
    for client in &mut clients {
        client.send(GET);
    }
    for client in &mut clients {
        assert_eq!(client.answer().status, 200);
    }
    let dialled = backend.connections();
    assert!(dialled > 2, "{dialled}");
    backend.wait_for_open(2);
    for client in &mut clients {
        assert_eq!(client.ask(GET).status, 200);
    }
    assert_eq!(backend.connections(), dialled, "later requests dial nothing");
}

#[test]
fn idle_connections_are_closed_when_their_time_is_over() {
    let backend = Backend::echoing();
    let relay = Relay::before_with(backend.address, "limits: {pool_idle_time: 100ms}");
    assert_eq!(Client::connect(relay.address).ask(GET).status, 200);
    backend.wait_for_open(0);
}

#[test]
fn a_connection_that_its_server_closed_is_not_used_again() {
    let backend = Backend::raw(|mut peer| {
        peer.request();
        peer.write(ok(b"{}"));
        // Closes without saying so.
    });
    let relay = Relay::before(backend.address);
    let mut client = Client::connect(relay.address);
    for n in 1..=5 {
        assert_eq!(client.ask(POST).status, 200);
        backend.wait_for_open(0);
        assert_eq!(backend.connections(), n);
    }
}

#[test]
fn an_answer_that_says_close_is_not_followed_on_its_connection() {
    let backend = Backend::raw(|mut peer| {
        peer.request();
        peer.write("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
        while peer.fill() > 0 {}
    });
    let relay = Relay::before(backend.address);
    let mut client = Client::connect(relay.address);
    for n in 1..=3 {
        let answer = client.ask(GET);
        assert_eq!((answer.status, answer.field("connection")), (200, None));
        assert_eq!(backend.connections(), n);
    }
}

/// Answers the first request of each connection, and closes on the second, which it has read.
fn closes_on_second() -> Backend {
    Backend::raw(|mut peer| {
        peer.request();
        peer.write(ok(b""));
        peer.request();
    })
}

#[test]
fn what_may_be_repeated_is_sent_again_when_an_idle_connection_breaks() {
    for method in ["GET", "HEAD", "DELETE", "OPTIONS"] {
        let backend = closes_on_second();
        let relay = Relay::before(backend.address);
        let mut client = Client::connect(relay.address);
        let request = format!("{method} / HTTP/1.1\r\nHost: a.test\r\n\r\n");
        assert_eq!(client.ask(&request).status, 200);
        assert_eq!(client.ask(&request).status, 200, "{method}");
        assert_eq!((backend.requests().len(), backend.connections()), (3, 2), "{method}");
    }
}

#[test]
fn what_a_server_may_have_acted_on_is_not_sent_again() {
    for request in [
        POST,
        "POST / HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "PUT / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 2\r\n\r\n{}",
        "PATCH / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let backend = closes_on_second();
        let relay = Relay::before(backend.address);
        let mut client = Client::connect(relay.address);
        assert_eq!(client.ask(request).status, 200);
        let answer = client.ask(request);
        assert_eq!((answer.status, answer.code().as_str()), (502, "upstream/protocol"), "{request}");
        assert_eq!(backend.requests().len(), 2, "{request}");
    }
}

#[test]
fn requests_are_spread_over_servers_and_go_round_one_that_is_gone() {
    let backends = [Backend::echoing(), Backend::echoing()];
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let list = format!("[\"http://{}\", \"http://{}\", \"http://{nobody}\"]", backends[0].address, backends[1].address);
    let relay = Relay::start(&inbound(&list, ""));
    let mut client = Client::connect(relay.address);
    for _ in 0..30 {
        assert_eq!(client.ask(POST).status, 200);
    }
    for backend in &backends {
        assert!(backend.requests().len() >= 10, "{}", backend.requests().len());
    }
}

#[test]
fn an_unhealthy_server_gets_no_requests_until_it_is_well_again() {
    let well = Arc::new(AtomicBool::new(true));
    let shown = Arc::clone(&well);
    let answering = move |name: &'static str, always: bool| {
        let shown = Arc::clone(&shown);
        Backend::answering(move |request| {
            let fine = always || shown.load(Ordering::SeqCst);
            match request.line.contains("/health") && !fine {
                true => b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n".to_vec(),
                false => ok(name.as_bytes()),
            }
        })
    };
    let (a, b) = (answering("a", true), answering("b", false));
    let list = format!("[\"http://{}\", \"http://{}\"]", a.address, b.address);
    let health = "health: {path: /health, interval: 100ms, timeout: 1s, unhealthy: 1, healthy: 1}";
    let relay = Relay::start(&inbound(&list, health));
    let mut client = Client::connect(relay.address);
    let mut seen = |wanted: &dyn Fn(&str) -> bool| {
        for _ in 0..500 {
            let round: Vec<String> = (0..6).map(|_| client.ask(GET).text()).collect();
            if wanted(&round.concat()) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("the servers did not change");
    };
    seen(&|round| round.contains('a') && round.contains('b'));
    well.store(false, Ordering::SeqCst);
    seen(&|round| !round.contains('b'));
    well.store(true, Ordering::SeqCst);
    seen(&|round| round.contains('b'));
    let checks = b.requests().into_iter().find(|r| r.line.contains("/health")).unwrap();
    assert_eq!((checks.line.as_str(), checks.field("host")), ("GET /health HTTP/1.1", Some("a.test")));
}
