//! The client against engines on real sockets: no answer ever reaches another request, and every fault ends a call in time.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::time::Duration;

use e3_link::{Client, ClientOptions, Endpoint, FrameReader, LinkError, Listener, Security, Stream};
use e3_wire::{
    Answer, AnswerWriter, App, Context, FrameHeader, FrameKind, Item, ItemAnswer, MAX_FRAME, Request, RequestWriter,
    Role, ValueType,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

/// Long enough for any machine; nothing waits for it when all is well.
const LONG: Duration = Duration::from_secs(20);

fn request(value: &str) -> RequestWriter {
    let mut request = RequestWriter::new(App::parse("shop").unwrap(), &Context::default(), 0);
    request.seal(Role::parse("r").unwrap(), ValueType::String, value.as_bytes(), false).unwrap();
    request
}

fn frame(kind: FrameKind, id: u64, body: &[u8]) -> Vec<u8> {
    [&FrameHeader { kind, id, body: body.len() }.to_bytes().unwrap()[..], body].concat()
}

/// An answer whose one result is the request's value.
fn echo(id: u64, body: &[u8]) -> Vec<u8> {
    let request = Request::read(body).unwrap();
    let Item::Seal { value, .. } = request.items[0] else { panic!("not a seal") };
    let mut answer = AnswerWriter::new(0);
    answer.token(|out| out.extend_from_slice(value));
    frame(FrameKind::Answer, id, &answer.finish())
}

async fn ask(client: &Client, value: &str, time: Duration) -> Result<String, LinkError> {
    let frame = client.call(request(value), Instant::now() + time).await?;
    let Ok(Answer::Items(items)) = frame.answer() else { panic!("refused") };
    let ItemAnswer::Token(token) = items[0] else { panic!("no token") };
    Ok(String::from_utf8(token.to_vec()).unwrap())
}

struct Place {
    endpoint: Endpoint,
    listener: Listener,
    _folder: tempfile::TempDir,
}

async fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let endpoint: Endpoint = format!("unix://{}", folder.path().join("e3.sock").display()).parse().unwrap();
    let listener = endpoint.listen(0o600).await.unwrap();
    Place { endpoint, listener, _folder: folder }
}

fn client(endpoint: &Endpoint) -> Client {
    Client::new(vec![endpoint.clone()], Security::Plain, ClientOptions::default())
}

async fn read(reader: &mut FrameReader, stream: &mut Stream) -> (u64, Vec<u8>) {
    let (header, body) = reader.next(stream).await.unwrap();
    (header.id, body.to_vec())
}

#[tokio::test]
async fn ten_thousand_interleaved_calls_each_get_their_own_answer() {
    let Place { endpoint, listener, _folder } = place().await;
    tokio::spawn(async move {
        let mut stream = listener.accept().await.unwrap();
        let mut reader = FrameReader::new(MAX_FRAME);
        let mut held = Vec::new();
        loop {
            let (id, body) = read(&mut reader, &mut stream).await;
            held.push(echo(id, &body));
            // Answers go out in reverse, a few requests late, several in one write and split anywhere.
            if held.len() >= 7 || id.is_multiple_of(11) || id >= 9_900 {
                held.reverse();
                let all = held.concat();
                held.clear();
                let (a, b) = all.split_at(all.len() / 3);
                stream.write_all(a).await.unwrap();
                stream.write_all(b).await.unwrap();
            }
        }
    });
    let client = client(&endpoint);
    let mut tasks = Vec::new();
    for task in 0..100 {
        let client = client.clone();
        tasks.push(tokio::spawn(async move {
            for n in 0..100 {
                let value = format!("{task}-{n}");
                assert_eq!(ask(&client, &value, LONG).await.unwrap(), value);
            }
        }));
    }
    for task in tasks {
        task.await.unwrap();
    }
    assert_eq!(client.health().endpoints[0].in_flight, 0);
}

/// Serves connections one after the other: the first with `fault`, the others honestly.
async fn faulty_first(listener: Listener, fault: impl AsyncFn(&mut Stream, u64, &[u8])) {
    for n in 0.. {
        let mut stream = listener.accept().await.unwrap();
        let mut reader = FrameReader::new(MAX_FRAME);
        while let Ok((header, body)) = reader.next(&mut stream).await {
            if n == 0 {
                fault(&mut stream, header.id, &body).await;
                break;
            }
            stream.write_all(&echo(header.id, &body)).await.unwrap();
        }
        // Held open until the client is through with it, so that only the fault itself can end the call.
        if n == 0 {
            tokio::spawn(async move { while stream.read_u8().await.is_ok() {} });
        }
    }
}

#[tokio::test]
async fn a_fault_of_the_engine_ends_the_connection_and_a_fresh_one_answers() {
    for fault in ["wrong id", "oversized", "unknown kind", "garbage", "cut"] {
        let Place { endpoint, listener, _folder } = place().await;
        tokio::spawn(faulty_first(listener, async move |stream: &mut Stream, id: u64, body: &[u8]| {
            let answer = echo(id, body);
            let bytes = match fault {
                "wrong id" => echo(id + 1000, body),
                "oversized" => [&u32::MAX.to_be_bytes()[..], &answer[4..]].concat(),
                "unknown kind" => [&answer[..4], &[99], &answer[5..]].concat(),
                "garbage" => b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(),
                _ => answer[..answer.len() / 2].to_vec(),
            };
            stream.write_all(&bytes).await.unwrap();
            if fault == "cut" {
                stream.shutdown().await.unwrap();
            }
        }));
        assert_eq!(ask(&client(&endpoint), "x", LONG).await.unwrap(), "x", "{fault}");
    }
}

#[tokio::test]
async fn an_answer_that_comes_twice_ends_the_connection() {
    let Place { endpoint, listener, _folder } = place().await;
    tokio::spawn(async move {
        for n in 0.. {
            let mut stream = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut reader = FrameReader::new(MAX_FRAME);
                while let Ok((header, body)) = reader.next(&mut stream).await {
                    let answer = echo(header.id, &body);
                    let times = if n == 0 { 2 } else { 1 };
                    stream.write_all(&answer.repeat(times)).await.unwrap();
                }
            });
        }
    });
    let client = client(&endpoint);
    for n in 0..10 {
        let value = n.to_string();
        assert_eq!(ask(&client, &value, LONG).await.unwrap(), value);
    }
}

#[tokio::test]
async fn a_late_answer_is_dropped_and_the_connection_stays() {
    let Place { endpoint, listener, _folder } = place().await;
    let (release, released) = tokio::sync::oneshot::channel::<()>();
    let served = tokio::spawn(async move {
        let mut stream = listener.accept().await.unwrap();
        let mut reader = FrameReader::new(MAX_FRAME);
        let (id, body) = read(&mut reader, &mut stream).await;
        let late = echo(id, &body);
        released.await.unwrap();
        let (id, body) = read(&mut reader, &mut stream).await;
        stream.write_all(&[late, echo(id, &body)].concat()).await.unwrap();
        tokio::time::timeout(Duration::from_millis(200), listener.accept()).await.is_err()
    });
    let client = client(&endpoint);
    assert_eq!(ask(&client, "late", Duration::from_millis(50)).await, Err(LinkError::Timeout));
    release.send(()).unwrap();
    assert_eq!(ask(&client, "now", LONG).await.unwrap(), "now");
    assert!(served.await.unwrap(), "the client dialled again");
}

#[tokio::test]
async fn calls_that_are_given_up_leave_nothing_behind() {
    let Place { endpoint, listener, _folder } = place().await;
    tokio::spawn(async move {
        let mut stream = listener.accept().await.unwrap();
        let mut reader = FrameReader::new(MAX_FRAME);
        loop {
            let (id, body) = read(&mut reader, &mut stream).await;
            if body.windows(4).any(|w| w == b"keep") {
                stream.write_all(&echo(id, &body)).await.unwrap();
            }
        }
    });
    let client = client(&endpoint);
    for n in 0..100 {
        let value = format!("drop-{n}");
        let dropped = tokio::time::timeout(Duration::from_millis(1), ask(&client, &value, LONG)).await;
        assert!(dropped.is_err());
    }
    assert_eq!(client.health().endpoints[0].in_flight, 0);
    assert_eq!(ask(&client, "keep", LONG).await.unwrap(), "keep");
}

#[tokio::test]
async fn nobody_listening_is_an_error_at_once_and_the_breaker_closes_again() {
    let folder = tempfile::tempdir().unwrap();
    let endpoint: Endpoint = format!("unix://{}", folder.path().join("e3.sock").display()).parse().unwrap();
    let client = client(&endpoint);
    let refused = ask(&client, "x", LONG).await;
    assert!(matches!(refused, Err(LinkError::Connect(_) | LinkError::Unavailable)), "{refused:?}");
    assert!(!client.is_available());
    let listener = endpoint.listen(0o600).await.unwrap();
    tokio::spawn(faulty_first(listener, async |_: &mut Stream, _: u64, _: &[u8]| {}));
    let end = Instant::now() + LONG;
    loop {
        // The first connection says nothing; the one after it answers.
        if ask(&client, "x", Duration::from_millis(200)).await.is_ok() {
            break;
        }
        assert!(Instant::now() < end, "the breaker stays open");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(client.is_available());
}

#[tokio::test]
async fn a_draining_engine_is_left_and_what_is_in_flight_is_answered() {
    let Place { endpoint, listener, _folder } = place().await;
    tokio::spawn(async move {
        let mut first = listener.accept().await.unwrap();
        let mut reader = FrameReader::new(MAX_FRAME);
        let (id, body) = read(&mut reader, &mut first).await;
        first.write_all(&frame(FrameKind::GoAway, 0, &[])).await.unwrap();
        let mut second = listener.accept().await.unwrap();
        let mut other = FrameReader::new(MAX_FRAME);
        let (next, next_body) = read(&mut other, &mut second).await;
        second.write_all(&echo(next, &next_body)).await.unwrap();
        first.write_all(&echo(id, &body)).await.unwrap();
        std::future::pending::<()>().await;
    });
    let client = client(&endpoint);
    let in_flight = tokio::spawn({
        let client = client.clone();
        async move { ask(&client, "first", LONG).await }
    });
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(ask(&client, "second", LONG).await.unwrap(), "second");
    assert_eq!(in_flight.await.unwrap().unwrap(), "first");
}

#[tokio::test]
async fn hybrid_endpoints_speak_the_backends_line_protocol() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("vm.vsock");
    let backend = tokio::net::UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        for reply in ["OK 1073741824\n", "OK\n", "NO\n", ""] {
            let (mut stream, _) = backend.accept().await.unwrap();
            let mut line = [0u8; 13];
            stream.read_exact(&mut line).await.unwrap();
            assert_eq!(&line, b"CONNECT 7003\n");
            stream.write_all(format!("{reply}guest").as_bytes()).await.unwrap();
        }
        let (mut stream, _) = backend.accept().await.unwrap();
        // A client that has seen enough closes, so the rest of the line may find nobody.
        let _ = stream.write_all(&[b'x'; 4096]).await;
        std::future::pending::<()>().await;
    });
    let endpoint: Endpoint = format!("hybrid://{}:7003", path.display()).parse().unwrap();
    for _ in 0..2 {
        let mut stream = endpoint.connect(LONG).await.unwrap();
        let mut bytes = [0u8; 5];
        stream.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"guest", "what follows the line belongs to the guest");
    }
    for _ in 0..3 {
        assert!(matches!(endpoint.connect(LONG).await, Err(LinkError::Connect(_))));
    }
}

#[tokio::test]
async fn a_stale_socket_is_replaced_a_live_one_is_not_and_its_mode_is_the_owners() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("e3.sock");
    let endpoint: Endpoint = format!("unix://{}", path.display()).parse().unwrap();
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let listener = endpoint.listen(0o600).await.unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(endpoint.listen(0o600).await.unwrap_err().kind(), std::io::ErrorKind::AddrInUse);
    drop(listener);
    assert!(!path.exists(), "the socket stays behind");
    std::fs::write(&path, "a file").unwrap();
    assert!(endpoint.listen(0o600).await.is_err(), "a file that is no socket was replaced");
}
