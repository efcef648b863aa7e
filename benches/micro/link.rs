//! The engine link alone: round trips over a Unix socket between the relay's client and an engine that answers each request with the same bytes, at 1 and at 32
//! calls in flight. What a message pays for having its keys in another process, before anything is sealed.
//!
//! `cargo bench -p e3-benches --bench link`

use criterion::{Criterion, Throughput};
use e3_link::{Client, ClientOptions, Endpoint, Security};
use e3_wire::{
    Answer, AnswerWriter, App, Context, Direction, FRAME_HEADER, FrameHeader, FrameKind, MAX_FRAME, RequestWriter,
    Role, ValueType,
};
use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::Duration;
use tokio::task::LocalSet;
use tokio::time::Instant;

/// Values in one request: a card's number, its code and a name.
const BATCH: usize = 3;
const VALUE: &[u8; 16] = b"4111111111111111";
/// Bytes of the token that each value becomes: a role of eleven characters, 16 bytes sealed.
const TOKEN: [u8; 150] = [b'A'; 150];

/// Answers what has arrived with one write, as the engine does.
fn echo(mut stream: UnixStream) {
    let mut answer = AnswerWriter::new(0);
    for _ in 0..BATCH {
        answer.token(|out| out.extend_from_slice(&TOKEN));
    }
    let answer = answer.finish();
    let (mut input, mut output) = (Vec::new(), Vec::new());
    let mut chunk = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = stream.read(&mut chunk) {
        input.extend_from_slice(&chunk[..n]);
        let mut at = 0;
        while let Some(head) = input[at..].first_chunk::<FRAME_HEADER>() {
            let header = FrameHeader::parse(head, MAX_FRAME).expect("a frame");
            if input.len() < at + FRAME_HEADER + header.body {
                break;
            }
            at += FRAME_HEADER + header.body;
            let header = FrameHeader { kind: FrameKind::Answer, id: header.id, body: answer.len() };
            output.extend_from_slice(&header.to_bytes().expect("a short frame"));
            output.extend_from_slice(&answer);
        }
        input.drain(..at);
        if stream.write_all(&output).is_err() {
            return;
        }
        output.clear();
    }
}

fn request() -> RequestWriter {
    let context = Context {
        request_id: "5f0c8e2ab61d4c3900000001",
        direction: Direction::InboundRequest,
        destination: "api.shop.example",
        source: "203.0.113.9",
        method: "POST",
        credential: e3_wire::Credential::default(),
    };
    let mut request = RequestWriter::new(App::parse("shop").expect("an app"), &context, 0);
    for _ in 0..BATCH {
        request.seal(Role::parse("card-number").expect("a role"), ValueType::String, VALUE, false).expect("room");
    }
    request
}

/// `calls` round trips one after the other.
async fn ask(client: Client, calls: u64) {
    for _ in 0..calls {
        let frame = client.call(request(), Instant::now() + Duration::from_secs(10)).await.expect("an answer");
        assert!(matches!(frame.answer(), Ok(Answer::Items(items)) if items.len() == BATCH));
    }
}

/// The time of `calls` round trips on one worker thread, `in_flight` at once.
async fn run(client: &Client, calls: u64, in_flight: u64) -> Duration {
    let begun = Instant::now();
    let tasks = LocalSet::new();
    for n in 0..in_flight {
        let share = calls / in_flight + u64::from(n < calls % in_flight);
        tasks.spawn_local(ask(client.clone(), share));
    }
    tasks.await;
    begun.elapsed()
}

fn main() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("e3.sock");
    let listener = UnixListener::bind(&path).expect("a socket");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.expect("a connection");
            std::thread::spawn(|| echo(stream));
        }
    });
    let endpoint: Endpoint = format!("unix://{}", path.display()).parse().expect("an endpoint");
    let client = Client::new(vec![endpoint], Security::Plain, ClientOptions::default());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut c = Criterion::default().configure_from_args();
    let mut group = c.benchmark_group("link");
    group.throughput(Throughput::Elements(1));
    for in_flight in [1, 32] {
        group.bench_function(format!("round trips, {in_flight} in flight"), |b| {
            b.iter_custom(|calls| runtime.block_on(run(&client, calls, in_flight)));
        });
    }
    group.finish();
    c.final_summary();
}
