//! Requests and responses as they go on: fields, framing, bodies, and those that end early.

use std::time::Duration;

use crate::support::{Backend, Client, Relay, inbound, ok};

#[test]
fn fields_of_one_hop_end_here_both_ways_and_the_rest_goes_on() {
    let backend = Backend::answering(|_| {
        b"HTTP/1.1 200 OK\r\nConnection: X-Mine, keep-alive\r\nX-Mine: 1\r\nKeep-Alive: timeout=5\r\nProxy-Authenticate: x\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nX-Kept: yes\r\nContent-Length: 0\r\n\r\n".to_vec()
    });
    let relay = Relay::before(backend.address);
    let answer = Client::connect(relay.address).ask(
        "GET /p?q=1 HTTP/1.1\r\nHost: a.test\r\nConnection: keep-alive, X-Named, Host, X-Forwarded-For\r\nX-Named: 1\r\nKeep-Alive: 5\r\nProxy-Authorization: x\r\nProxy-Connection: x\r\nTE: gzip, trailers\r\nUpgrade-Insecure-Requests: 1\r\nX-Forwarded-For: 192.0.2.1\r\nX-Request-Id: id-1\r\nCookie: c=1\r\n\r\n",
    );
    let got = backend.only_request();
    assert_eq!(got.line, "GET /p?q=1 HTTP/1.1");
    for name in
        ["x-named", "keep-alive", "proxy-authorization", "proxy-connection", "content-length", "transfer-encoding"]
    {
        assert!(!got.names().contains(&name), "{name}");
    }
    assert_eq!(got.field("host"), Some("a.test"));
    assert_eq!(got.field("te"), Some("trailers"));
    assert_eq!(got.field("connection"), Some("te"));
    assert_eq!(got.field("x-forwarded-for"), Some("127.0.0.1"));
    assert_eq!(got.field("x-forwarded-proto"), Some("http"));
    assert_eq!(got.field("x-forwarded-host"), Some("a.test"));
    assert_eq!(got.field("x-request-id"), Some("id-1"));
    assert_eq!(got.field("cookie"), Some("c=1"));
    assert_eq!(got.field("upgrade-insecure-requests"), Some("1"));
    for name in ["x-mine", "keep-alive", "proxy-authenticate"] {
        assert_eq!(answer.field(name), None, "{name}");
    }
    assert_eq!(answer.fields.iter().filter(|(n, _)| n == "set-cookie").count(), 2);
    assert_eq!(answer.field("x-kept"), Some("yes"));
    assert_eq!(answer.field("x-request-id"), Some("id-1"));
}

#[test]
fn a_dubious_request_id_is_replaced() {
    let backend = Backend::echoing();
    let relay = Relay::before(backend.address);
    let mut client = Client::connect(relay.address);
    for id in ["a b", "x\"y", &"i".repeat(129)] {
        let answer = client.ask(format!("GET / HTTP/1.1\r\nHost: a.test\r\nX-Request-Id: {id}\r\n\r\n"));
        let given = answer.field("x-request-id").unwrap().to_owned();
        assert_ne!(given, id);
        assert_eq!(backend.requests().last().unwrap().field("x-request-id"), Some(given.as_str()));
    }
}

#[test]
fn an_absolute_target_goes_on_in_origin_form() {
    let backend = Backend::echoing();
    let relay = Relay::before(backend.address);
    let request = "GET http://A.test/x?y HTTP/1.1\r\nHost: a.test\r\n\r\n";
    assert_eq!(Client::connect(relay.address).ask(request).status, 200);
    assert_eq!(backend.only_request().line, "GET /x?y HTTP/1.1");
}

#[test]
fn bodies_of_every_method_and_framing_arrive_as_they_were_sent() {
    let backend = Backend::echoing();
    let relay = Relay::before(backend.address);
    let mut client = Client::connect(relay.address);
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "REPORT"] {
        for size in [1usize, 8191, 8192, 8193, 65_535, 65_536, 65_537, 300_000] {
            let body = vec![b'b'; size];
            let head = format!("{method} / HTTP/1.1\r\nHost: a.test\r\n");
            client.send(format!("{head}Content-Length: {size}\r\n\r\n")).send(&body);
            assert_eq!(client.answer().body.len(), size, "{method} {size}");
            client.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n"));
            for piece in body.chunks(50_000) {
                client.send(format!("{:x};ext=1\r\n", piece.len())).send(piece).send("\r\n");
            }
            client.send("0\r\n\r\n");
            assert_eq!(client.answer().body, body, "{method} {size} chunked");
        }
    }
    assert!(backend.requests().iter().all(|r| r.body.iter().all(|b| *b == b'b')));
    assert_eq!(backend.connections(), 1);
}

#[test]
fn a_method_that_expects_a_body_says_that_it_has_none() {
    let backend = Backend::echoing();
    let relay = Relay::before(backend.address);
    let mut client = Client::connect(relay.address);
    for (method, length) in [("POST", Some("0")), ("PUT", Some("0")), ("GET", None), ("DELETE", None)] {
        assert_eq!(client.ask(format!("{method} / HTTP/1.1\r\nHost: a.test\r\n\r\n")).status, 200);
        assert_eq!(backend.requests().last().unwrap().field("content-length"), length, "{method}");
    }
}

#[test]
fn trailers_go_on_but_not_those_that_come_too_late() {
    let backend = Backend::answering(|request| {
        assert!(request.chunked);
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum, Set-Cookie\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 7\r\nSet-Cookie: late=1\r\n\r\n".to_vec()
    });
    let relay = Relay::before(backend.address);
    let answer = Client::connect(relay.address).ask(
        "POST / HTTP/1.1\r\nHost: a.test\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\nTrailer: X-Check, Cookie\r\n\r\n1\r\na\r\n0\r\nX-Check: 1\r\nCookie: late=1\r\n\r\n",
    );
    assert_eq!(backend.only_request().trailers, [("x-check".to_owned(), "1".to_owned())]);
    assert_eq!((answer.text().as_str(), answer.chunked), ("ok", true));
    assert_eq!(answer.trailers, [("x-sum".to_owned(), "7".to_owned())]);
}

#[test]
fn answers_without_a_body_end_with_their_head_and_keep_their_length() {
    let backend = Backend::answering(|request| match &request.line {
        line if line.starts_with("HEAD /chunked") => b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec(),
        line if line.starts_with("HEAD") => b"HTTP/1.1 200 OK\r\nContent-Length: 1234\r\n\r\n".to_vec(),
        line if line.contains("/204") => b"HTTP/1.1 204 No Content\r\n\r\n".to_vec(),
        line if line.contains("/304") => {
            b"HTTP/1.1 304 Not Modified\r\nETag: \"x\"\r\nContent-Length: 99\r\n\r\n".to_vec()
        }
        _ => ok(b"{}"),
    });
    let relay = Relay::before(backend.address);
    let mut client = Client::connect(relay.address);
    let ask = |client: &mut Client, line: &str| client.ask(format!("{line} HTTP/1.1\r\nHost: a.test\r\n\r\n"));
    assert_eq!(ask(&mut client, "HEAD /x").field("content-length"), Some("1234"));
    let chunked = ask(&mut client, "HEAD /chunked");
    assert_eq!((chunked.status, chunked.field("content-length")), (200, None));
    let none = ask(&mut client, "GET /204");
    assert_eq!((none.status, none.field("content-length"), none.field("transfer-encoding")), (204, None, None));
    let unchanged = ask(&mut client, "GET /304");
    assert_eq!((unchanged.status, unchanged.field("etag")), (304, Some("\"x\"")));
    assert_eq!(ask(&mut client, "GET /").text(), "{}");
    assert_eq!(backend.connections(), 1, "no body was waited for, and none was left behind");
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let backend = Backend::answering(|request| {
        // The first is the slowest.
        if request.line.contains("/0 ") {
            std::thread::sleep(Duration::from_millis(100));
        }
        ok(request.line.as_bytes())
    });
    let relay = Relay::before(backend.address);
    let mut client = Client::connect(relay.address);
    let all: String =
        (0..40).map(|n| format!("POST /{n} HTTP/1.1\r\nHost: a.test\r\nContent-Length: 3\r\n\r\nabc")).collect();
    client.send(all);
    for n in 0..40 {
        assert_eq!(client.answer().text(), format!("POST /{n} HTTP/1.1"));
    }
}

#[test]
fn old_clients_get_no_chunks_and_keep_the_connection_only_if_they_ask() {
    let backend =
        Backend::answering(|_| b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n".to_vec());
    let relay = Relay::before(backend.address);
    let mut client = Client::connect(relay.address);
    let answer = client.ask("GET / HTTP/1.0\r\nHost: a.test\r\n\r\n");
    assert_eq!((answer.text().as_str(), answer.chunked, answer.version.as_str()), ("ok", false, "HTTP/1.0"));
    client.assert_closed();
    let lengthy = Backend::echoing();
    let relay = Relay::before(lengthy.address);
    let mut client = Client::connect(relay.address);
    for _ in 0..3 {
        let answer = client.ask("GET / HTTP/1.0\r\nHost: a.test\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!((answer.status, answer.field("connection")), (200, Some("keep-alive")));
    }
    let answer = client.ask("GET / HTTP/1.0\r\nHost: a.test\r\n\r\n");
    assert_eq!(answer.status, 200);
    client.assert_closed();
}

#[test]
fn a_client_that_asks_to_close_is_closed() {
    let backend = Backend::echoing();
    let relay = Relay::before(backend.address);
    let mut client = Client::connect(relay.address);
    let answer = client.ask("GET / HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n");
    assert_eq!((answer.status, answer.field("connection")), (200, Some("close")));
    client.assert_closed();
    assert_eq!(backend.only_request().field("connection"), None);
}

#[test]
fn an_expectation_is_met_once_and_ends_here() {
    let backend = Backend::echoing();
    let relay = Relay::before(backend.address);
    let mut client = Client::connect(relay.address);
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    assert_eq!(client.head().status, 100);
    client.send("abc");
    assert_eq!(client.answer().text(), "abc");
    assert_eq!(backend.only_request().field("expect"), None);
    // Refused by the head alone: no body is asked for.
    client.send("POST / HTTP/1.1\r\nHost: b.test\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n");
    assert_eq!(client.answer().code(), "rules/unknown-host");
}

#[test]
fn an_answer_that_comes_before_the_request_is_through_is_relayed_and_ends_the_connection() {
    let backend = Backend::raw(|mut peer| {
        peer.head();
        peer.write("HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\n\r\nbig");
        // Reads nothing of the body.
        std::thread::sleep(Duration::from_millis(500));
    });
    let relay = Relay::before(backend.address);
    let mut client = Client::connect(relay.address);
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100000000\r\n\r\n").send(vec![b'x'; 64 * 1024]);
    let answer = client.answer();
    assert_eq!((answer.status, answer.text().as_str(), answer.field("connection")), (413, "big", Some("close")));
    backend.wait_for_open(0);
}

#[test]
fn both_directions_stream_at_once() {
    let backend = Backend::raw(|mut peer| {
        peer.head();
        peer.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        // Each piece of the request is answered before the next one comes.
        for _ in 0..3 {
            let piece = peer.take(6).unwrap();
            assert!(piece.starts_with(b"1\r\n"), "{piece:?}");
            peer.write("2\r\nok\r\n");
        }
        peer.take(5);
        peer.write("0\r\n\r\n");
    });
    let relay = Relay::before(backend.address);
    let mut client = Client::connect(relay.address);
    client.send("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(client.head().status, 200);
    for _ in 0..3 {
        client.send("1\r\na\r\n");
        assert_eq!(client.take(7), b"2\r\nok\r\n");
    }
    client.send("0\r\n\r\n");
    assert_eq!(client.take(5), b"0\r\n\r\n");
}

#[test]
fn a_client_that_leaves_takes_its_upstream_request_along() {
    let backend = Backend::raw(|mut peer| {
        peer.request();
        // Never answers; sees the end when the relay lets go.
        while peer.fill() > 0 {}
    });
    let relay = Relay::before(backend.address);
    for request in [
        "GET / HTTP/1.1\r\nHost: a.test\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100\r\n\r\nhalf",
        "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
    ] {
        let mut client = Client::connect(relay.address);
        client.send(request);
        backend.wait_for_open(1);
        drop(client);
        backend.wait_for_open(0);
    }
}

#[test]
fn an_answer_that_breaks_off_is_visibly_incomplete() {
    for (head, piece) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n", "half"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", "4\r\nhalf\r\n"),
    ] {
        let backend = Backend::raw(move |mut peer| {
            peer.request();
            peer.write(head);
            peer.write(piece);
            // What came goes down before the end does.
            std::thread::sleep(Duration::from_millis(300));
        });
        let relay = Relay::before(backend.address);
        let mut client = Client::connect(relay.address);
        client.send("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
        assert_eq!(client.head().status, 200);
        let mut rest = Vec::new();
        let _ = std::io::Read::read_to_end(&mut client.stream, &mut rest);
        assert!(!String::from_utf8_lossy(&rest).contains("0\r\n\r\n"));
    }
}

#[test]
fn faults_of_the_upstream_have_their_codes() {
    for (answer, code) in [
        ("", "upstream/protocol"),
        ("HTTP/1.1 200", "upstream/protocol"),
        ("nonsense\r\n\r\n", "upstream/protocol"),
        ("HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "upstream/protocol"),
        // Two ends: the next hop might believe the other.
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
            "upstream/protocol",
        ),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1, 1\r\n\r\na", "upstream/protocol"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na", "upstream/protocol"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", "upstream/protocol"),
    ] {
        let backend = Backend::raw(move |mut peer| {
            peer.request();
            peer.write(answer);
        });
        let relay = Relay::before(backend.address);
        let got = Client::connect(relay.address).ask("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\n\r\nx");
        assert_eq!((got.status, got.code().as_str()), (502, code), "{answer:?}");
        assert_eq!(backend.requests().len(), 1, "a request that may have been acted on is not sent twice");
    }
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let relay = Relay::start(&inbound(&format!("http://{nobody}"), ""));
    let got = Client::connect(relay.address).ask("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    assert_eq!((got.status, got.code().as_str()), (502, "upstream/connect"));
}

#[test]
fn times_are_told_where_the_site_wants_it() {
    let backend = Backend::echoing();
    let relay = Relay::before_with(backend.address, "server_timing: true");
    let answer = Client::connect(relay.address).ask("GET / HTTP/1.1\r\nHost: a.test\r\n\r\n");
    let timing = answer.field("server-timing").unwrap();
    for part in ["relay;dur=", "engine;dur=0.000", "upstream;dur="] {
        assert!(timing.contains(part), "{timing}");
    }
}
