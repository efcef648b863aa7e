//! What the framing gate refuses, on a fresh connection and after an answered request, whole and split at every byte.

use crate::support::{Backend, Client, Relay};

const GOOD: &str = "GET /good HTTP/1.1\r\nHost: a.test\r\n\r\n";

/// Request lines in the place of `LINE`, with `Host` behind them.
const LINES: &[(&str, &str)] = &[
    ("GET  / HTTP/1.1", "framing/request-line"),
    ("GET /  HTTP/1.1", "framing/request-line"),
    ("GET / HTTP/1.1 ", "framing/request-line"),
    (" GET / HTTP/1.1", "framing/request-line"),
    ("GET\t/ HTTP/1.1", "framing/request-line"),
    ("GET /\tHTTP/1.1", "framing/request-line"),
    ("GET /", "framing/request-line"),
    ("GET", "framing/request-line"),
    ("GET / HTTP/0.9", "framing/request-line"),
    ("GET / HTTP/1", "framing/request-line"),
    ("GET / HTTP/1.", "framing/request-line"),
    ("GET / HTTP/1.2", "framing/request-line"),
    ("GET / HTTP/1.10", "framing/request-line"),
    ("GET / HTTP/01.1", "framing/request-line"),
    ("GET / HTTP/2.0", "framing/request-line"),
    ("GET / HTTP/2", "framing/request-line"),
    ("GET / http/1.1", "framing/request-line"),
    ("GET / HTTPS/1.1", "framing/request-line"),
    ("GET / ICY/1.1", "framing/request-line"),
    ("GET / HTTP/1.1\u{b}", "framing/request-line"),
    ("PRI * HTTP/2.0", "framing/request-line"),
    ("G(T / HTTP/1.1", "framing/request-line"),
    ("G@T / HTTP/1.1", "framing/request-line"),
    ("G\u{e9}T / HTTP/1.1", "framing/request-line"),
    ("GET: / HTTP/1.1", "framing/request-line"),
    ("GET x HTTP/1.1", "framing/request-line"),
    ("GET ?x HTTP/1.1", "framing/request-line"),
    ("GET * HTTP/1.1", "framing/request-line"),
    ("GET /a b HTTP/1.1", "framing/request-line"),
    ("GET /a#b HTTP/1.1", "framing/request-line"),
    ("GET /\u{e9} HTTP/1.1", "framing/request-line"),
    ("GET /\u{7f} HTTP/1.1", "framing/request-line"),
    ("GET /\u{1} HTTP/1.1", "framing/request-line"),
    ("GET /\0 HTTP/1.1", "framing/control"),
    ("GET ftp://a.test/ HTTP/1.1", "framing/request-line"),
    ("GET http:/a.test/ HTTP/1.1", "framing/request-line"),
    ("GET http:///x HTTP/1.1", "framing/request-line"),
    ("GET http://u@a.test/ HTTP/1.1", "framing/request-line"),
    ("GET http://u:p@a.test/ HTTP/1.1", "framing/request-line"),
    ("GET http://a.test:99999/ HTTP/1.1", "framing/request-line"),
    ("GET http://b.test/ HTTP/1.1", "framing/host"),
    ("GET http://a.test:81/ HTTP/1.1", "framing/host"),
    ("GET //b.test/ HTTP/1.1\rX", "framing/bare-line-end"),
    ("CONNECT / HTTP/1.1", "framing/request-line"),
    ("CONNECT b.test:443 HTTP/1.1", "framing/host"),
    ("CONNECT b.test:443 HTTP/1.0", "framing/host"),
    ("CONNECT a.test:0 HTTP/1.1", "framing/request-line"),
    ("CONNECT a.test:65536 HTTP/1.1", "framing/request-line"),
    ("CONNECT a.test:+443 HTTP/1.1", "framing/request-line"),
    ("CONNECT a.test:443:443 HTTP/1.1", "framing/request-line"),
    ("CONNECT a.test:443/ HTTP/1.1", "framing/request-line"),
    ("CONNECT a.test:443?x HTTP/1.1", "framing/request-line"),
    ("CONNECT :443 HTTP/1.1", "framing/request-line"),
    ("CONNECT u@a.test:443 HTTP/1.1", "framing/request-line"),
    ("CONNECT [::1:443 HTTP/1.1", "framing/request-line"),
    ("CONNECT ::1:443 HTTP/1.1", "framing/request-line"),
    ("CONNECT https://a.test/ HTTP/1.1", "framing/request-line"),
    ("CONNECT a.test,b.test:443 HTTP/1.1", "framing/request-line"),
    ("CONNECT a.test%00:443 HTTP/1.1", "framing/request-line"),
    ("CONNECT * HTTP/1.1", "framing/request-line"),
    ("CONNECT a.test:443  HTTP/1.1", "framing/request-line"),
    ("CONNECT a.test:443", "framing/request-line"),
];

/// Field lines behind a POST and its `Host`.
const FIELDS: &[(&str, &str)] = &[
    ("Content-Length: 1\r\nTransfer-Encoding: chunked", "framing/length-and-encoding"),
    ("Transfer-Encoding: chunked\r\nContent-Length: 1", "framing/length-and-encoding"),
    ("Content-Length: 0\r\nTransfer-Encoding: chunked", "framing/length-and-encoding"),
    ("Content-Length: 1\r\nContent-Length: 1", "framing/content-length"),
    ("Content-Length: 1\r\nContent-Length: 2", "framing/content-length"),
    ("Content-Length: 1\r\ncontent-length: 1", "framing/content-length"),
    ("Content-Length: 1, 1", "framing/content-length"),
    ("Content-Length: 1,", "framing/content-length"),
    ("Content-Length: ,1", "framing/content-length"),
    ("Content-Length: 1 1", "framing/content-length"),
    ("Content-Length: +1", "framing/content-length"),
    ("Content-Length: -1", "framing/content-length"),
    ("Content-Length: 0x1", "framing/content-length"),
    ("Content-Length: 1.0", "framing/content-length"),
    ("Content-Length: 1e1", "framing/content-length"),
    ("Content-Length: 1_0", "framing/content-length"),
    ("Content-Length:", "framing/content-length"),
    ("Content-Length: ", "framing/content-length"),
    ("Content-Length: \"1\"", "framing/content-length"),
    ("Content-Length: one", "framing/content-length"),
    ("Content-Length: 1;", "framing/content-length"),
    ("Content-Length: \u{660}", "framing/content-length"),
    ("Content-Length: 18446744073709551616", "framing/content-length"),
    ("Content-Length: 99999999999999999999999999", "framing/content-length"),
    ("Content-Length: \u{b}1", "framing/control"),
    ("Content_Length: 1", "framing/field-name"),
    ("content_length: 1", "framing/field-name"),
    ("Content-Length : 1", "framing/white-space"),
    ("Content-Length\t: 1", "framing/white-space"),
    (" Content-Length: 1", "framing/white-space"),
    ("\tContent-Length: 1", "framing/white-space"),
    ("Content Length: 1", "framing/field-name"),
    ("Transfer-Encoding: xchunked", "framing/transfer-encoding"),
    ("Transfer-Encoding: chunkedx", "framing/transfer-encoding"),
    ("Transfer-Encoding: chunked, identity", "framing/transfer-encoding"),
    ("Transfer-Encoding: identity, chunked", "framing/transfer-encoding"),
    ("Transfer-Encoding: chunked, chunked", "framing/transfer-encoding"),
    ("Transfer-Encoding: chunked,", "framing/transfer-encoding"),
    ("Transfer-Encoding: ,chunked", "framing/transfer-encoding"),
    ("Transfer-Encoding: gzip, chunked", "framing/transfer-encoding"),
    ("Transfer-Encoding: gzip", "framing/transfer-encoding"),
    ("Transfer-Encoding: identity", "framing/transfer-encoding"),
    ("Transfer-Encoding: chunked;q=1", "framing/transfer-encoding"),
    ("Transfer-Encoding: \"chunked\"", "framing/transfer-encoding"),
    ("Transfer-Encoding: 'chunked'", "framing/transfer-encoding"),
    ("Transfer-Encoding: chu nked", "framing/transfer-encoding"),
    ("Transfer-Encoding:", "framing/transfer-encoding"),
    ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", "framing/transfer-encoding"),
    ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity", "framing/transfer-encoding"),
    ("Transfer-Encoding: identity\r\nTransfer-Encoding: chunked", "framing/transfer-encoding"),
    ("Transfer-Encoding: \u{b}chunked", "framing/control"),
    ("Transfer-Encoding: chunked\0", "framing/control"),
    ("Transfer_Encoding: chunked", "framing/field-name"),
    ("TRANSFER_ENCODING: chunked", "framing/field-name"),
    ("Transfer-Encoding : chunked", "framing/white-space"),
    ("Transfer-Encoding\t: chunked", "framing/white-space"),
    (" Transfer-Encoding: chunked", "framing/white-space"),
    ("Transfer-Encoding:\r\n chunked", "framing/transfer-encoding"),
    ("Transfer\u{1}-Encoding: chunked", "framing/field-name"),
    ("X: a\r\n b", "framing/white-space"),
    ("X: a\r\n\tb", "framing/white-space"),
    ("X: a\nY: b", "framing/bare-line-end"),
    ("X: a\rY: b", "framing/bare-line-end"),
    ("X: a\r", "framing/bare-line-end"),
    ("X: a\n", "framing/bare-line-end"),
    ("\rX: a", "framing/bare-line-end"),
    ("X: a\n\nGET /smuggled HTTP/1.1", "framing/bare-line-end"),
    ("X: a\0b", "framing/control"),
    ("X: a\u{1}b", "framing/control"),
    ("X: a\u{8}b", "framing/control"),
    ("X: a\u{1b}b", "framing/control"),
    ("X: a\u{7f}b", "framing/control"),
    ("X\0: a", "framing/control"),
    ("X", "framing/field-name"),
    (": a", "framing/field-name"),
    ("X Y: a", "framing/field-name"),
    ("X(: a", "framing/field-name"),
    ("X\"Y: a", "framing/field-name"),
    ("X/Y: a", "framing/field-name"),
    ("X{}: a", "framing/field-name"),
    ("X\u{e9}: a", "framing/field-name"),
    ("[X]: a", "framing/field-name"),
    ("Host: a.test", "framing/host"),
    ("host: b.test", "framing/host"),
];

/// Values of `Host`; `None` leaves it out.
const HOSTS: &[Option<&str>] = &[
    None,
    Some(""),
    Some(" "),
    Some("a.test, b.test"),
    Some("a.test b.test"),
    Some("a.test:0"),
    Some("a.test:"),
    Some("a.test:x"),
    Some("a.test:65536"),
    Some("a.test:80:80"),
    Some("u@a.test"),
    Some("a.test/"),
    Some("a.test?"),
    Some("a.test#"),
    Some("http://a.test"),
    Some("[::1"),
    Some("[a.test]"),
    Some("a%2etest"),
    Some("\u{e9}.test"),
];

/// Chunked bodies.
const CHUNKS: &[&str] = &[
    "\r\n",
    "x\r\n",
    "+1\r\na\r\n",
    "-1\r\na\r\n",
    "0x1\r\na\r\n",
    " 1\r\na\r\n",
    "1 \r\na\r\n",
    "1\t\r\na\r\n",
    "1\na\r\n",
    "1\ra\r\n",
    "1\r\nab\r\n",
    "1\r\na\n",
    "1\r\na\r\r\n",
    "1\r\na0\r\n\r\n",
    "1,1\r\na\r\n",
    "1;\0\r\na\r\n",
    "1;\n\r\na\r\n",
    ";x\r\n",
    "ffffffffffffffff\r\n",
    "10000000000000000\r\n",
    "0\r\n\n",
    "0\r\nX\r\n\r\n",
    "0\r\n X: 1\r\n\r\n",
    "0\r\nX : 1\r\n\r\n",
    "0\r\nX: 1\nY: 2\r\n\r\n",
    "0\r\nX: \0\r\n\r\n",
    "0\r\nContent-Length: 1\r\n\r\n",
    "0\r\nTransfer-Encoding: chunked\r\n\r\n",
    "0\r\nHost: b.test\r\n\r\n",
];

fn corpus() -> Vec<(String, &'static str)> {
    let mut cases: Vec<_> =
        LINES.iter().map(|(line, code)| (format!("{line}\r\nHost: a.test\r\n\r\n"), *code)).collect();
    cases.extend(
        FIELDS.iter().map(|(lines, code)| (format!("POST / HTTP/1.1\r\nHost: a.test\r\n{lines}\r\n\r\n"), *code)),
    );
    for host in HOSTS {
        let host = host.map_or_else(String::new, |host| format!("Host: {host}\r\n"));
        cases.push((format!("GET / HTTP/1.1\r\n{host}\r\n"), "framing/host"));
        cases.push((format!("GET / HTTP/1.0\r\n{host}\r\n"), "framing/host"));
    }
    cases.push((
        "POST / HTTP/1.0\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(),
        "framing/transfer-encoding",
    ));
    cases
}

fn expected(code: &str) -> u16 {
    if code == "framing/head-too-large" { 431 } else { 400 }
}

#[test]
fn a_head_in_doubt_is_refused_first_or_later_and_reaches_nobody() {
    let backend = Backend::echoing();
    let relay = Relay::before(backend.address);
    let cases = corpus();
    assert!(cases.len() >= 120, "{} cases", cases.len());
    let mut good = 0;
    for (head, code) in &cases {
        // Behind it stands a request that must not be taken for one.
        let bad = format!("{head}GET /smuggled HTTP/1.1\r\nHost: a.test\r\n\r\n");
        let mut first = Client::connect(relay.address);
        let answer = first.ask(&bad);
        assert_eq!((answer.status, answer.code().as_str()), (expected(code), *code), "{head:?}");
        assert_eq!(answer.field("connection"), Some("close"), "{head:?}");
        first.assert_closed();

        let mut later = Client::connect(relay.address);
        later.send(format!("{GOOD}{bad}"));
        assert_eq!(later.answer().status, 200, "{head:?}");
        good += 1;
        let answer = later.answer();
        assert_eq!((answer.status, answer.code().as_str()), (expected(code), *code), "{head:?}");
        later.assert_closed();
    }
    let lines: Vec<_> = backend.requests().into_iter().map(|r| r.line).collect();
    assert_eq!(lines.len(), good);
    assert!(lines.iter().all(|line| line == "GET /good HTTP/1.1"), "{lines:?}");
}

#[test]
fn where_a_head_is_split_changes_nothing() {
    let backend = Backend::echoing();
    let relay = Relay::before(backend.address);
    for (head, code) in corpus().into_iter().step_by(9) {
        for at in 1..head.len() {
            let mut client = Client::connect(relay.address);
            client.send(&head.as_bytes()[..at]);
            // What is in doubt already may be answered before the rest comes.
            std::thread::yield_now();
            let _ = std::io::Write::write_all(&mut client.stream, &head.as_bytes()[at..]);
            let answer = client.answer();
            assert_eq!(answer.code(), code, "{head:?} split at {at}");
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
fn a_chunk_in_doubt_is_answered_400_and_ends_the_connection() {
    let backend = Backend::echoing();
    let relay = Relay::before(backend.address);
    for body in CHUNKS {
        let head = "POST / HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n";
        for whole in [true, false] {
            let mut client = Client::connect(relay.address);
            if whole {
                client.send(format!("{head}{body}"));
            } else {
                client.send(head).send("4\r\ngood\r\n").send(body);
            }
            let answer = client.answer();
            assert_eq!((answer.status, answer.code().as_str()), (400, "framing/chunk"), "{body:?}");
            client.assert_closed();
        }
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
