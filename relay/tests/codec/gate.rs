//! The framing gate where it matters how bytes come: split at every byte, too many, more than is read.

use crate::support::{Backend, Client, Relay};

const GOOD: &str = "GET /good HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// A few of the corpus in `tests/conformance/framing`, each a refusal of its own, to be split everywhere.
const REFUSED: &[(&str, &str)] = &[
    ("GET /  HTTP/1.1\r\nHost: a.test\r\n\r\n", "framing/request-line"),
    ("CONNECT b.test:443 HTTP/1.1\r\nHost: a.test\r\n\r\n", "framing/host"),
    ("GET /\0 HTTP/1.1\r\nHost: a.test\r\n\r\n", "framing/control"),
    ("POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", "framing/content-length"),
    (
        "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n",
        "framing/length-and-encoding",
    ),
    ("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: gzip, chunked\r\n\r\n", "framing/transfer-encoding"),
    ("POST / HTTP/1.1\r\nHost: a.test\r\nContent_Length: 1\r\n\r\n", "framing/field-name"),
    ("POST / HTTP/1.1\r\nHost: a.test\r\nX: a\r\n b\r\n\r\n", "framing/white-space"),
    ("POST / HTTP/1.1\r\nHost: a.test\r\nX: a\n\nGET /smuggled HTTP/1.1\r\n\r\n", "framing/bare-line-end"),
    ("GET / HTTP/1.1\r\nHost: a.test, b.test\r\n\r\n", "framing/host"),
];

#[test]
fn where_a_head_is_split_changes_nothing() {
    let backend = Backend::echoing();
    let relay = Relay::before(backend.address);
    for (head, code) in REFUSED {
        for at in 1..head.len() {
            let mut client = Client::connect(relay.address);
            client.send(&head.as_bytes()[..at]);
            // What is in doubt already may be answered before the rest comes.
            std::thread::yield_now();
            let _ = std::io::Write::write_all(&mut client.stream, &head.as_bytes()[at..]);
            let answer = client.answer();
            assert_eq!(answer.code(), *code, "{head:?} split at {at}");
            assert_eq!(answer.field("connection"), Some("close"), "{head:?}");
            client.assert_closed();
        }
    }
    assert_eq!(backend.requests().len(), 0);
    let request = "POST /x HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let both = format!("{request}{GOOD}");
    for at in 1..both.len() {
        let mut client = Client::connect(relay.address);
        client.send(&both.as_bytes()[..at]);
        std::thread::yield_now();
        client.send(&both.as_bytes()[at..]);
        let answer = client.answer();
        assert_eq!((answer.status, answer.text().as_str()), (200, "abc"), "split at {at}");
        assert_eq!(client.answer().status, 200, "split at {at}");
    }
}

#[test]
fn a_chunk_in_doubt_behind_a_good_one_is_answered_400_and_ends_the_connection() {
    let backend = Backend::echoing();
    let relay = Relay::before(backend.address);
    for body in ["x\r\n", "1\r\nab\r\n", "1\na\r\n", "0\r\nHost: b.test\r\n\r\n", "ffffffffffffffff\r\n"] {
        let mut client = Client::connect(relay.address);
        client.send("POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n");
        client.send("4\r\ngood\r\n").send(body);
        let answer = client.answer();
        assert_eq!((answer.status, answer.code().as_str()), (400, "framing/chunk"), "{body:?}");
        client.assert_closed();
    }
    assert_eq!(backend.requests().len(), 0, "a broken body never ends");
}

#[test]
fn limits_of_a_head_are_answered_431() {
    let backend = Backend::echoing();
    let relay = Relay::before_with(backend.address, "connections: {head_bytes: 4KiB, head_fields: 20}");
    let long = format!("GET / HTTP/1.1\r\nHost: a.test\r\nX: {}\r\n\r\n", "x".repeat(5000));
    let never_ends = format!("GET / HTTP/1.1\r\nHost: a.test\r\nX: {}", "x".repeat(5000));
    let many = format!("GET / HTTP/1.1\r\nHost: a.test\r\n{}\r\n", "X: y\r\n".repeat(21));
    for head in [long, never_ends, many] {
        let mut client = Client::connect(relay.address);
        let answer = client.ask(&head);
        assert_eq!((answer.status, answer.code().as_str()), (431, "framing/head-too-large"));
        client.assert_closed();
    }
    assert_eq!(backend.bytes(), 0);
}

#[test]
fn a_big_refused_request_does_not_lose_its_answer() {
    let backend = Backend::echoing();
    let relay = Relay::before(backend.address);
    let mut client = Client::connect(relay.address);
    // More than the socket buffers hold: closing without reading it would reset the connection.
    let mut request = b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n".to_vec();
    request.resize(300 * 1024, b'x');
    client.send(&request);
    assert_eq!(client.answer().code(), "framing/content-length");
}

#[test]
fn fields_with_an_underscore_are_refused_unless_the_site_allows_them() {
    let backend = Backend::echoing();
    let request = "GET / HTTP/1.1\r\nHost: a.test\r\nX_Y: 1\r\n\r\n";
    let relay = Relay::before(backend.address);
    assert_eq!(Client::connect(relay.address).ask(request).code(), "framing/underscore");
    let relay = Relay::before_with(backend.address, "underscore_headers: true");
    assert_eq!(Client::connect(relay.address).ask(request).status, 200);
    assert_eq!(backend.only_request().field("x_y"), Some("1"));
    for look_alike in ["Content_Length: 1", "Transfer_Encoding: chunked"] {
        let request = format!("GET / HTTP/1.1\r\nHost: a.test\r\n{look_alike}\r\n\r\n");
        assert_eq!(Client::connect(relay.address).ask(request).code(), "framing/field-name");
    }
}
