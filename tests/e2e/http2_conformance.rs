//! What RFC 9113 and RFC 7541 want of a server towards a peer that breaks them, section by section, over TLS and plain. The sections are those that the conformance suite
//! h2spec goes through; the cases are ours.

#[path = "../src/proxied.rs"]
#[allow(dead_code, reason = "most of its clients are for the tests of TLS and CONNECT")]
mod proxied;

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use e3_tests::backend::{Backend, answer};
use e3_tests::engine_double::{Behaviour, EngineDouble};
use e3_tests::frames::{ACK, END_HEADERS, END_STREAM, Frame, Frames, INITIAL_WINDOW, encoded, head, kind};
use e3_tests::port;
use e3_tests::stack::{Relay, folder};
use proxied::{TestCa, client_config};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConnection, StreamOwned};

const HOST: &str = "api.shop.example";

const PRIORITY: u8 = 2;
const PUSH_PROMISE: u8 = 5;
const PADDED: u8 = 8;
const PRIORITISED: u8 = 0x20;

const NO_ERROR: u32 = 0;
const PROTOCOL: u32 = 1;
const FLOW_CONTROL: u32 = 3;
const CLOSED: u32 = 5;
const FRAME_SIZE: u32 = 6;
const REFUSED: u32 = 7;
const COMPRESSION: u32 = 9;

const MAX_FRAME_SIZE: u16 = 5;
const ENABLE_PUSH: u16 = 2;

/// What has to come of it.
#[derive(Debug, Clone, Copy)]
enum Expect {
    /// GOAWAY with one of these codes, or the end of the connection.
    Connection(&'static [u32]),
    /// RST_STREAM with one of these codes; or as for the connection.
    Stream(&'static [u32]),
    /// The stream is answered to its end.
    Answered(u32),
    /// A PING that is sent behind it is answered: it was passed over.
    Ignored,
}

use Expect::{Answered, Connection, Ignored, Stream};

struct Case {
    section: &'static str,
    settings: &'static [(u16, u32)],
    /// What is sent first; with `then`, it is waited for stream 1 to be answered, and `then` is sent.
    first: Vec<u8>,
    then: Option<Vec<u8>>,
    expect: Expect,
}

fn case(section: &'static str, expect: Expect, first: Vec<u8>) -> Case {
    Case { section, settings: &[], first, then: None, expect }
}

fn fields<'a>(method: &'a str, more: &[(&'a str, &'a str)]) -> Vec<u8> {
    let mut all = vec![(":method", method), (":scheme", "https"), (":path", "/free"), (":authority", HOST)];
    all.extend_from_slice(more);
    head(&all)
}

fn headers(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    encoded(kind::HEADERS, flags, stream, block)
}

/// A whole request.
fn get(stream: u32) -> Vec<u8> {
    headers(stream, END_HEADERS | END_STREAM, &fields("GET", &[]))
}

/// A request whose body is to come.
fn post(stream: u32) -> Vec<u8> {
    headers(stream, END_HEADERS, &fields("POST", &[]))
}

/// A request with these fields and nothing else.
fn only(list: &[(&str, &str)]) -> Vec<u8> {
    headers(1, END_HEADERS | END_STREAM, &head(list))
}

/// A good request with one more field.
fn with(name: &str, value: &str) -> Vec<u8> {
    headers(1, END_HEADERS | END_STREAM, &fields("GET", &[(name, value)]))
}

fn data(stream: u32, flags: u8, bytes: &[u8]) -> Vec<u8> {
    encoded(kind::DATA, flags, stream, bytes)
}

fn reset(stream: u32, code: u32) -> Vec<u8> {
    encoded(kind::RST_STREAM, 0, stream, &code.to_be_bytes())
}

fn window(stream: u32, more: u32) -> Vec<u8> {
    encoded(kind::WINDOW_UPDATE, 0, stream, &more.to_be_bytes())
}

fn setting(id: u16, value: u32) -> Vec<u8> {
    encoded(kind::SETTINGS, 0, 0, &[&id.to_be_bytes()[..], &value.to_be_bytes()].concat())
}

fn priority(stream: u32, on: u32) -> Vec<u8> {
    encoded(PRIORITY, 0, stream, &[&on.to_be_bytes()[..], &[255]].concat())
}

fn continuation(stream: u32, flags: u8, block: &[u8]) -> Vec<u8> {
    encoded(kind::CONTINUATION, flags, stream, block)
}

fn ping(flags: u8, payload: &[u8]) -> Vec<u8> {
    encoded(kind::PING, flags, 0, payload)
}

/// What is unusual and right.
fn accepted_cases() -> Vec<Case> {
    let block = fields("GET", &[]);
    let request = |flags, before: &[u8], after: &[u8]| {
        let payload = [before, &block, after].concat();
        encoded(kind::HEADERS, END_HEADERS | END_STREAM | flags, 1, &payload)
    };
    // `:method: GET` and `:scheme: https` by index; `:path` and `:authority` by the index of their names, added to the table or never.
    let indexed = [&b"\x82\x87\x14\x05/free\x41"[..], &[HOST.len() as u8], HOST.as_bytes()].concat();
    // The table is emptied, and filled again.
    let resized = [&b"\x20\x3f\xe1\x1f"[..], &indexed].concat();
    let whole = END_HEADERS | END_STREAM;
    vec![
        case("5.3 PRIORITY of an idle stream", Answered(1), [priority(3, 0), get(1)].concat()),
        case("5.3 PRIORITY of a half closed stream", Answered(1), [get(1), priority(1, 0)].concat()),
        Case { then: Some(priority(1, 0)), ..case("5.3 PRIORITY of a closed stream", Ignored, get(1)) },
        case("6.1 DATA in two frames", Answered(1), [post(1), data(1, 0, b"a"), data(1, END_STREAM, b"b")].concat()),
        case("6.1 padded DATA", Answered(1), [post(1), data(1, PADDED | END_STREAM, b"\x03x\0\0\0")].concat()),
        case("6.2 a padded head", Answered(1), request(PADDED, &[3], &[0; 3])),
        case("6.2 a head with a priority", Answered(1), request(PRIORITISED, &[0, 0, 0, 0, 255], &[])),
        case(
            "6.2 a head with a priority, padded",
            Answered(1),
            request(PADDED | PRIORITISED, &[3, 0, 0, 0, 0, 9], &[0; 3]),
        ),
        case("6.9 a larger window of the connection", Answered(1), [window(0, 100), get(1)].concat()),
        case("7541 6.1, 6.2 fields by index", Answered(1), headers(1, whole, &indexed)),
        case("7541 6.3 two updates of the table's size", Answered(1), headers(1, whole, &resized)),
    ]
}

fn connection_cases() -> Vec<Case> {
    let block = fields("GET", &[]);
    let (half, rest) = block.split_at(10);
    let open = headers(1, END_STREAM, half);
    let frame = encoded;
    vec![
        case("4.1 a frame of unknown type", Ignored, frame(0x16, 0, 0, b"unknown")),
        case("4.1 undefined flags", Ignored, ping(0x16 | ACK, &[0; 8])),
        case("4.1 the reserved bit", Ignored, frame(kind::PING, ACK, 0x8000_0000, &[0; 8])),
        case("4.2 DATA of the largest size", Answered(1), [post(1), data(1, END_STREAM, &[b'x'; 16_384])].concat()),
        case(
            "4.2 DATA over the largest size",
            Stream(&[FRAME_SIZE]),
            [post(1), data(1, END_STREAM, &[b'x'; 16_385])].concat(),
        ),
        case(
            "4.2 HEADERS over the largest size",
            Connection(&[FRAME_SIZE]),
            headers(1, END_HEADERS | END_STREAM, &[0; 16_385]),
        ),
        case(
            "4.3 a head that HPACK cannot read",
            Connection(&[COMPRESSION]),
            headers(1, END_HEADERS | END_STREAM, b"\x40"),
        ),
        case(
            "4.3 PRIORITY within a head",
            Connection(&[PROTOCOL]),
            [open.clone(), priority(1, 0), continuation(1, END_HEADERS, rest)].concat(),
        ),
        case("4.3 another stream's HEADERS within a head", Connection(&[PROTOCOL]), [open.clone(), get(3)].concat()),
        case("5.1 idle: DATA", Connection(&[PROTOCOL]), data(1, END_STREAM, b"x")),
        case("5.3.1 PRIORITY on itself", Stream(&[PROTOCOL]), [post(1), priority(1, 1)].concat()),
        case(
            "7541 2.3.3 a name beyond the tables",
            Connection(&[COMPRESSION]),
            headers(1, END_HEADERS, b"\x7f\x07\x01x"),
        ),
        case("5.1 idle: RST_STREAM", Connection(&[PROTOCOL]), reset(1, 8)),
        case("5.1 idle: WINDOW_UPDATE", Connection(&[PROTOCOL]), window(1, 100)),
        case("5.1 idle: CONTINUATION", Connection(&[PROTOCOL]), continuation(1, END_HEADERS, &block)),
        case("5.1 half closed: DATA", Stream(&[CLOSED]), [get(1), data(1, END_STREAM, b"x")].concat()),
        case("5.1 half closed: HEADERS", Stream(&[CLOSED]), [get(1), get(1)].concat()),
        case(
            "5.1 half closed: CONTINUATION",
            Stream(&[CLOSED, PROTOCOL]),
            [get(1), continuation(1, END_HEADERS, &block)].concat(),
        ),
        case(
            "5.1 closed by RST_STREAM: DATA",
            Stream(&[CLOSED]),
            [post(1), reset(1, 8), data(1, END_STREAM, b"x")].concat(),
        ),
        case("5.1 closed by RST_STREAM: HEADERS", Stream(&[CLOSED]), [post(1), reset(1, 8), get(1)].concat()),
        case(
            "5.1 closed by RST_STREAM: CONTINUATION",
            Stream(&[CLOSED, PROTOCOL]),
            [post(1), reset(1, 8), continuation(1, END_HEADERS, &block)].concat(),
        ),
        Case { then: Some(data(1, END_STREAM, b"x")), ..case("5.1 closed: DATA", Stream(&[CLOSED]), get(1)) },
        Case { then: Some(get(1)), ..case("5.1 closed: HEADERS", Connection(&[CLOSED]), get(1)) },
        Case {
            then: Some(continuation(1, END_HEADERS, &block)),
            ..case("5.1 closed: CONTINUATION", Connection(&[CLOSED, PROTOCOL]), get(1))
        },
        case("5.1.1 an even stream", Connection(&[PROTOCOL]), get(2)),
        case("5.1.1 a stream below the last", Connection(&[PROTOCOL, CLOSED]), [get(5), get(3)].concat()),
        case(
            "5.3.1 HEADERS that depend on themselves",
            Stream(&[PROTOCOL]),
            headers(1, END_HEADERS | END_STREAM | PRIORITISED, &[&[0, 0, 0, 1, 255], &block[..]].concat()),
        ),
        case("5.4.1 the connection ends behind GOAWAY", Connection(&[FRAME_SIZE, PROTOCOL]), ping(0, &[0; 6])),
        case("5.5 an unknown extension", Ignored, frame(0x16, 0xff, 7, &[0; 8])),
        case(
            "5.5 an unknown extension within a head",
            Connection(&[PROTOCOL]),
            [open.clone(), frame(0x16, 0, 0, &[0; 8]), continuation(1, END_HEADERS, rest)].concat(),
        ),
        case("6.1 DATA on stream 0", Connection(&[PROTOCOL]), data(0, END_STREAM, b"x")),
        case(
            "6.1 DATA with too much padding",
            Connection(&[PROTOCOL]),
            [post(1), data(1, PADDED | END_STREAM, b"\x06Test")].concat(),
        ),
        case("6.2 HEADERS on stream 0", Connection(&[PROTOCOL]), headers(0, END_HEADERS | END_STREAM, &block)),
        case(
            "6.2 HEADERS with too much padding",
            Connection(&[PROTOCOL]),
            headers(1, END_HEADERS | END_STREAM | PADDED, &[&[255], &block[..]].concat()),
        ),
        case("6.3 PRIORITY on stream 0", Connection(&[PROTOCOL]), priority(0, 0)),
        case(
            "6.3 PRIORITY of another length",
            Stream(&[FRAME_SIZE]),
            [post(1), frame(PRIORITY, 0, 1, &[0; 4])].concat(),
        ),
        case("6.4 RST_STREAM on stream 0", Connection(&[PROTOCOL]), reset(0, 8)),
        case(
            "6.4 RST_STREAM of another length",
            Connection(&[FRAME_SIZE]),
            [post(1), frame(kind::RST_STREAM, 0, 1, &[0; 3])].concat(),
        ),
        case(
            "6.5 an acknowledgement that says something",
            Connection(&[FRAME_SIZE]),
            frame(kind::SETTINGS, ACK, 0, &[0; 6]),
        ),
        case("6.5 SETTINGS on a stream", Connection(&[PROTOCOL]), frame(kind::SETTINGS, 0, 1, &[0, 3, 0, 0, 0, 100])),
        case("6.5 SETTINGS of another length", Connection(&[FRAME_SIZE]), frame(kind::SETTINGS, 0, 0, &[0, 3, 0])),
        case("6.5.2 ENABLE_PUSH of 2", Connection(&[PROTOCOL]), setting(ENABLE_PUSH, 2)),
        case(
            "6.5.2 INITIAL_WINDOW_SIZE over its limit",
            Connection(&[FLOW_CONTROL]),
            setting(INITIAL_WINDOW, 0x8000_0000),
        ),
        case("6.5.2 MAX_FRAME_SIZE below its limit", Connection(&[PROTOCOL]), setting(MAX_FRAME_SIZE, 16_383)),
        case("6.5.2 MAX_FRAME_SIZE over its limit", Connection(&[PROTOCOL]), setting(MAX_FRAME_SIZE, 16_777_216)),
        case("6.5.2 an unknown setting", Ignored, setting(0xff, 1)),
        case("6.7 PING on a stream", Connection(&[PROTOCOL]), frame(kind::PING, 0, 1, &[0; 8])),
        case("6.7 PING of another length", Connection(&[FRAME_SIZE]), ping(0, &[0; 6])),
        case("6.8 GOAWAY on a stream", Connection(&[PROTOCOL]), frame(kind::GOAWAY, 0, 1, &[0; 8])),
        case("6.9 a window of 0 more", Connection(&[PROTOCOL]), window(0, 0)),
        case("6.9 a stream's window of 0 more", Stream(&[PROTOCOL]), [post(1), window(1, 0)].concat()),
        case(
            "6.9 WINDOW_UPDATE of another length",
            Connection(&[FRAME_SIZE]),
            frame(kind::WINDOW_UPDATE, 0, 0, &[0; 3]),
        ),
        case(
            "6.9.1 windows over their limit",
            Connection(&[FLOW_CONTROL]),
            [window(0, 0x7fff_ffff), window(0, 0x7fff_ffff)].concat(),
        ),
        case(
            "6.9.1 a stream's windows over their limit",
            Stream(&[FLOW_CONTROL]),
            [post(1), window(1, 0x7fff_ffff), window(1, 0x7fff_ffff)].concat(),
        ),
        Case {
            settings: &[(INITIAL_WINDOW, 1)],
            ..case("6.9.1 a window of one byte, then more", Answered(1), [get(1), window(1, 1000)].concat())
        },
        Case {
            settings: &[(INITIAL_WINDOW, 0)],
            ..case("6.9.2 no window, then SETTINGS", Answered(1), [get(1), setting(INITIAL_WINDOW, 1000)].concat())
        },
        Case {
            settings: &[(INITIAL_WINDOW, 3)],
            ..case(
                "6.9.2 a window that becomes negative",
                Answered(1),
                [get(1), setting(INITIAL_WINDOW, 2), window(1, 1000)].concat(),
            )
        },
        case(
            "6.5.3 settings take effect in their order",
            Answered(1),
            [frame(kind::SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0, 0, 4, 0, 0, 4, 0]), get(1)].concat(),
        ),
        case(
            "6.10 a head in three pieces",
            Answered(1),
            [open.clone(), continuation(1, 0, &rest[..5]), continuation(1, END_HEADERS, &rest[5..])].concat(),
        ),
        case(
            "6.10 DATA within a head",
            Connection(&[PROTOCOL]),
            [headers(1, 0, half), data(1, END_STREAM, b"x")].concat(),
        ),
        case(
            "6.10 CONTINUATION on stream 0",
            Connection(&[PROTOCOL]),
            [open.clone(), continuation(0, END_HEADERS, rest)].concat(),
        ),
        case(
            "6.10 CONTINUATION behind a whole head",
            Connection(&[PROTOCOL]),
            [post(1), continuation(1, END_HEADERS, &block)].concat(),
        ),
        case(
            "6.10 CONTINUATION behind the last one",
            Connection(&[PROTOCOL]),
            [headers(1, 0, half), continuation(1, END_HEADERS, rest), continuation(1, END_HEADERS, &block)].concat(),
        ),
        case(
            "6.10 CONTINUATION behind DATA",
            Connection(&[PROTOCOL]),
            [post(1), data(1, 0, b"x"), continuation(1, END_HEADERS, &block)].concat(),
        ),
        case(
            "7 GOAWAY with an unknown code",
            Connection(&[NO_ERROR]),
            frame(kind::GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0xff]),
        ),
        case("7 RST_STREAM with an unknown code", Ignored, [post(1), reset(1, 0xff)].concat()),
        case(
            "8.4 PUSH_PROMISE of a client",
            Connection(&[PROTOCOL]),
            [post(1), frame(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 2], &block[..]].concat())].concat(),
        ),
        case(
            "RFC 7541 2.3.3 an index beyond the tables",
            Connection(&[COMPRESSION]),
            headers(1, END_HEADERS | END_STREAM, &[&block[..], &[0xff, 0x00]].concat()),
        ),
        case(
            "RFC 7541 4.2 an update of the table's size behind fields",
            Connection(&[COMPRESSION]),
            headers(1, END_HEADERS | END_STREAM, &[&block[..], &[0x3f, 0x61]].concat()),
        ),
        case(
            "RFC 7541 5.2 padding of more than 7 bits",
            Connection(&[COMPRESSION]),
            headers(
                1,
                END_HEADERS | END_STREAM,
                &[&block[..], b"\x00\x85\xf2\xb2\x4a\x84\xff\x84\x49\x50\x9f\xff"].concat(),
            ),
        ),
        case(
            "RFC 7541 5.2 padding of zeros",
            Connection(&[COMPRESSION]),
            headers(
                1,
                END_HEADERS | END_STREAM,
                &[&block[..], b"\x00\x85\xf2\xb2\x4a\x84\xff\x83\x49\x50\x90"].concat(),
            ),
        ),
        case(
            "RFC 7541 5.2 the end of a string within it",
            Connection(&[COMPRESSION]),
            headers(
                1,
                END_HEADERS | END_STREAM,
                &[&block[..], b"\x00\x85\xf2\xb2\x4a\x84\xff\x87\x49\x51\xff\xff\xff\xfa\x7f"].concat(),
            ),
        ),
        case(
            "RFC 7541 6.1 index 0",
            Connection(&[COMPRESSION]),
            headers(1, END_HEADERS | END_STREAM, &[&block[..], &[0x80]].concat()),
        ),
        case(
            "RFC 7541 6.3 a table over its limit",
            Connection(&[COMPRESSION]),
            headers(1, END_HEADERS | END_STREAM, &[&[0x3f, 0xe1, 0xff, 0x03], &block[..]].concat()),
        ),
    ]
}

fn message_cases() -> Vec<Case> {
    let request: [(&str, &str); 4] =
        [(":method", "GET"), (":scheme", "https"), (":path", "/free"), (":authority", HOST)];
    let without = |name: &str| only(&request.iter().copied().filter(|(n, _)| *n != name).collect::<Vec<_>>());
    let twice = |at: usize| only(&[&request[..], &request[at..=at]].concat());
    let mut cases = vec![
        case("8.1 GET", Answered(1), get(1)),
        case("8.1 HEAD", Answered(1), headers(1, END_HEADERS | END_STREAM, &fields("HEAD", &[]))),
        case(
            "8.1 POST with trailers",
            Answered(1),
            [
                headers(1, END_HEADERS, &fields("POST", &[("trailer", "x-checked")])),
                data(1, 0, b"test"),
                headers(1, END_HEADERS | END_STREAM, &head(&[("x-checked", "yes")])),
            ]
            .concat(),
        ),
        case(
            "8.1 a second head that does not end the stream",
            Stream(&[PROTOCOL]),
            [post(1), headers(1, END_HEADERS, &fields("POST", &[]))].concat(),
        ),
        case("8.2.1 capitals in a name", Stream(&[PROTOCOL]), with("X-Test", "x")),
        case("8.3 an unknown pseudo field", Stream(&[PROTOCOL]), with(":test", "ok")),
        case("8.3 a pseudo field of answers", Stream(&[PROTOCOL]), with(":status", "200")),
        case(
            "8.3 a pseudo field behind others",
            Stream(&[PROTOCOL]),
            only(&[
                (":method", "GET"),
                (":scheme", "https"),
                (":authority", HOST),
                ("x-test", "ok"),
                (":path", "/free"),
            ]),
        ),
        case(
            "8.3 a pseudo field in trailers",
            Stream(&[PROTOCOL]),
            [post(1), data(1, 0, b"test"), headers(1, END_HEADERS | END_STREAM, &head(&[(":method", "GET")]))].concat(),
        ),
        case(
            "8.3.1 an empty path",
            Stream(&[PROTOCOL]),
            only(&[(":method", "GET"), (":scheme", "https"), (":path", ""), (":authority", HOST)]),
        ),
        case(
            "8.1.1 a length that is less than the body",
            Stream(&[PROTOCOL]),
            [headers(1, END_HEADERS, &fields("POST", &[("content-length", "1")])), data(1, END_STREAM, b"test")]
                .concat(),
        ),
        case(
            "8.1.1 a length that is less than all of the body",
            Stream(&[PROTOCOL]),
            [
                headers(1, END_HEADERS, &fields("POST", &[("content-length", "1")])),
                data(1, 0, b"te"),
                data(1, END_STREAM, b"st"),
            ]
            .concat(),
        ),
        case(
            "8.1.1 a length that is more than the body",
            Stream(&[PROTOCOL]),
            [headers(1, END_HEADERS, &fields("POST", &[("content-length", "9")])), data(1, END_STREAM, b"test")]
                .concat(),
        ),
    ];
    for (name, value) in [
        ("connection", "keep-alive"),
        ("te", "trailers, deflate"),
        ("transfer-encoding", "chunked"),
        ("upgrade", "foo"),
        ("keep-alive", "timeout=5"),
        ("proxy-connection", "close"),
    ] {
        cases.push(case("8.2.2 a field of the connection", Stream(&[PROTOCOL]), with(name, value)));
    }
    for (at, name) in [":method", ":scheme", ":path"].into_iter().enumerate() {
        cases.push(case("8.3.1 a pseudo field is missing", Stream(&[PROTOCOL]), without(name)));
        cases.push(case("8.3.1 a pseudo field stands twice", Stream(&[PROTOCOL]), twice(at)));
    }
    cases
}

/// What came of a case; an error says what else.
fn outcome<S: Read + Write>(frames: &mut Frames<S>, case: &Case) -> Result<(), String> {
    const MARK: [u8; 8] = *b"afterall";
    // The latter where an acknowledgement of ours came too late for it.
    const ENDED: [ErrorKind; 2] = [ErrorKind::UnexpectedEof, ErrorKind::BrokenPipe];
    let ends = |frame: &Frame, stream: u32| {
        frame.stream == stream && frame.flags & END_STREAM != 0 && matches!(frame.kind, kind::HEADERS | kind::DATA)
    };
    // Whatever was sent into a connection that has ended is lost with it.
    drop(frames.send_bytes(&case.first));
    if let Some(then) = &case.then {
        frames.until(|frame| ends(frame, 1)).map_err(|e| format!("stream 1 was not answered: {e}"))?;
        drop(frames.send_bytes(then));
    }
    if matches!(case.expect, Connection(_) | Ignored) {
        drop(frames.send(kind::PING, 0, 0, &MARK));
    }
    loop {
        let frame = match frames.receive() {
            Ok(frame) => frame,
            // It ended in order; neither silence nor a reset of TCP is that.
            Err(e) if ENDED.contains(&e.kind()) && matches!(case.expect, Connection(_) | Stream(_)) => {
                return Ok(());
            }
            Err(e) => return Err(format!("the connection ended: {e}")),
        };
        let code = |at: usize| frame.payload.get(at..at + 4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
        match (case.expect, frame.kind) {
            // With another code, as the suite has it, the connection has to end.
            (Connection(codes) | Stream(codes), kind::GOAWAY) if code(4).is_some_and(|c| codes.contains(&c)) => {
                return Ok(());
            }
            (Connection(_) | Stream(_), kind::GOAWAY) => {}
            (Stream(codes), kind::RST_STREAM) => {
                let found = code(0);
                return if found.is_some_and(|c| codes.contains(&c)) {
                    Ok(())
                } else {
                    Err(format!("RST_STREAM {found:?}"))
                };
            }
            // Whoever said goodbye is answered, or the connection ends without an error.
            (Connection([NO_ERROR]), kind::PING) if frame.payload == MARK => return Ok(()),
            (Connection(_), kind::PING) if frame.payload == MARK => return Err("the connection goes on".to_owned()),
            (Ignored, kind::PING) if frame.flags & ACK != 0 && frame.payload == MARK => return Ok(()),
            (Answered(stream), _) if ends(&frame, stream) => return Ok(()),
            (Answered(_) | Ignored, kind::GOAWAY | kind::RST_STREAM) => return Err(format!("{frame:?}")),
            (Stream(_), kind::HEADERS | kind::DATA) if frame.flags & END_STREAM != 0 => {
                return Err(format!("it was answered: {:?}", frame.status()));
            }
            _ => {}
        }
    }
}

fn tls(address: SocketAddr, ca: &std::path::Path) -> StreamOwned<ClientConnection, TcpStream> {
    let mut config = (*client_config(ca)).clone();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let stream = TcpStream::connect(address).expect("a listener");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a read timeout");
    stream.set_nodelay(true).expect("no delay");
    let name = ServerName::try_from(HOST).expect("a name");
    StreamOwned::new(ClientConnection::new(Arc::new(config), name).expect("TLS"), stream)
}

#[test]
fn every_section_of_the_rfcs_is_kept_over_tls_and_plain() {
    let (folder, plain, secure) = (folder(), port::free(), port::free());
    let backend = Backend::start(|_| {
        // Somewhat later than at once, so that what follows a request finds its stream open.
        std::thread::sleep(Duration::from_millis(40));
        Some(answer(200, "application/json", b"{\"answer\":1}"))
    });
    let engine = EngineDouble::start(Behaviour::Honest);
    let key = TestCa::new().site(folder.path(), HOST);
    let site = format!("    hosts: [{HOST}]\n    backend: http://{}\n", backend.address());
    let rules = format!(
        "engine: {{endpoints: [\"{}\"], app: shop, development: true}}\nthreads: 1\ninbound:\n  - listen: {plain}\n    connections: {{h2c: true}}\n{site}  \
         - listen: {secure}\n    tls: {{{key}}}\n{site}",
        engine.endpoint()
    );
    let relay = Relay::start(folder.path(), "relay", &rules);
    relay.wait_ready();
    let ca = folder.path().join("site-ca.pem");
    let cases: Vec<Case> = [accepted_cases(), connection_cases(), message_cases()].into_iter().flatten().collect();
    assert!(cases.len() >= 105, "{}", cases.len());
    let mut wrong = Vec::new();
    for case in &cases {
        let mut over_tls = Frames::over(tls(secure, &ca), case.settings);
        if let Err(found) = outcome(&mut over_tls, case) {
            wrong.push(format!("TLS, {}: {found}; expected {:?}", case.section, case.expect));
        }
        if let Err(found) = outcome(&mut Frames::open(plain, case.settings), case) {
            wrong.push(format!("plain, {}: {found}; expected {:?}", case.section, case.expect));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), 2 * cases.len(), wrong.join("\n"));
    // RFC 9113, 3.4: what is no preface ends the connection.
    let mut no_preface = tls(secure, &ca);
    drop(no_preface.write_all(b"INVALID CONNECTION PREFACE\r\n\r\n"));
    let mut rest = Vec::new();
    drop(no_preface.read_to_end(&mut rest));
    assert!(!rest.windows(4).any(|w| w == b" 200"), "it was served");
    // 5.1.2: more streams at once than were announced.
    let mut many = Frames::over(tls(secure, &ca), &[]);
    let announced = 1 + 256;
    let all: Vec<u8> = (0..announced).flat_map(|n| post(2 * n + 1)).collect();
    drop(many.send_bytes(&all));
    let refused =
        many.until(|f| matches!(f.kind, kind::RST_STREAM | kind::GOAWAY)).map(|f| f.last().map(|f| f.payload.clone()));
    // Or the connection ended.
    if let Ok(Some(payload)) = refused {
        let code = payload.get(..4).and_then(|b| b.try_into().ok()).map(u32::from_be_bytes);
        assert!([Some(PROTOCOL), Some(REFUSED), Some(NO_ERROR)].contains(&code), "{code:?}");
    }
}

/// An answer may come before its request has ended. What comes together with the head, or when the answer's own head is out, is held against the stream's
/// windows all the same.
#[test]
fn an_early_answer_excuses_no_breach_of_flow_control() {
    let (folder, secure) = (folder(), port::free());
    let ca = TestCa::new();
    let key = ca.site(folder.path(), HOST);
    // Nobody is there to be asked: the relay itself answers at once.
    let rules = format!(
        "engine: {{endpoints: [\"unix:///nonexistent/e3.sock\"], app: shop, development: true}}\nthreads: 1\ninbound:\n  \
         - {{listen: \"{secure}\", hosts: [{HOST}], backend: \"http://{}\", tls: {{{key}}}}}\n",
        port::free()
    );
    let _relay = Relay::start(folder.path(), "relay", &rules);
    let over = [window(1, i32::MAX as u32), window(1, i32::MAX as u32)].concat();
    let mut after_the_head = 0;
    for _ in 0..20 {
        let open = || Frames::over(tls(secure, &folder.path().join("site-ca.pem")), &[]);
        let is_reset = |frame: &Frame| frame.kind == kind::RST_STREAM;
        let is_told = |told: Vec<Frame>| told.last().is_some_and(|frame| frame.payload == FLOW_CONTROL.to_be_bytes());
        let mut frames = open();
        frames.send_bytes(&[&post(1)[..], &over].concat()).expect("sent");
        assert!(is_told(frames.until(is_reset).expect("a reset")));
        let mut frames = open();
        frames.send_bytes(&post(1)).expect("sent");
        frames.until(|frame| frame.kind == kind::HEADERS).expect("an answer");
        frames.send_bytes(&over).expect("sent");
        after_the_head += u32::from(frames.until(is_reset).is_ok_and(is_told));
    }
    // The answer's end waits for 20 ms only, and this test may have to wait for its turn on the processor.
    assert!(after_the_head > 0, "the relay looks at nothing that comes behind its answer's head");
}
