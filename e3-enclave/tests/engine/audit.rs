//! No record, no answer: with sinks that work, and with sinks that are full, blocked, closed or gone.

use crate::harness::{Engine, Relay, Reply, Setup, eventually, request, role, string};
use e3_wire::{FrameKind, Refusal, RequestRefusal};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use serde_json::Value;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

fn records(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'));
    let all = text.lines().map(|l| serde_json::from_str::<Value>(l).unwrap());
    // Without what the chain and the counters add.
    all.filter(|record| record.get("event").is_none() && record.get("signed").is_none()).collect()
}

fn try_open(relay: &mut Relay, token: &[u8], timeout_ms: u32) -> Result<Vec<Reply>, RequestRefusal> {
    relay.ask("shop", timeout_ms, |w| w.open(&[role("card")], token).unwrap())
}

/// A pipe that is full, and its reader, which does not read.
fn full_pipe(path: &Path) -> fs::File {
    rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let flags = OFlags::NONBLOCK.bits() as i32;
    let mut pipe = fs::File::options().read(true).write(true).custom_flags(flags).open(path).unwrap();
    while pipe.write(&[b'\n'; 4096]).is_ok() {}
    pipe
}

/// Nothing is opened or inspected, everything is still sealed.
fn assert_unavailable(engine: &Engine, token: &[u8]) {
    let mut relay = engine.relay();
    for _ in 0..3 {
        assert_eq!(try_open(&mut relay, token, 300), Err(RequestRefusal::AuditUnavailable));
        let inspected = relay.ask("shop", 300, |w| w.inspect(token).unwrap());
        assert_eq!(inspected, Err(RequestRefusal::AuditUnavailable));
        assert!(!relay.seal("shop", "card", b"still sealed").is_empty());
    }
}

#[test]
fn every_open_has_its_record_when_its_answer_arrives() {
    let setup = Setup::new();
    let engine = setup.start();
    let mut relay = engine.relay();
    let secret = b"4111-secret";
    let (card, cvc) = (relay.seal("shop", "card", secret), relay.seal("shop", "cvc", b"123-secret"));
    assert!(records(&setup.path("audit.jsonl")).is_empty(), "a seal makes no record of its own");
    for n in 1..=50 {
        let replies = relay.ask("shop", 30_000, |w| {
            w.open(&[role("card")], &card).unwrap();
            w.open(&[role("card")], &card).unwrap();
            w.open(&[role("card")], &cvc).unwrap();
            w.open(&[role("card")], b"e3v1.card.s.AAAA.").unwrap();
            w.inspect(&cvc).unwrap();
        });
        assert_eq!(replies.unwrap()[2], Reply::Refused(Refusal::RoleNotAllowed));
        assert_eq!(records(&setup.path("audit.jsonl")).len(), n, "the record comes before the answer");
    }
    let text = fs::read_to_string(setup.path("audit.jsonl")).unwrap();
    assert!(!text.contains("secret") && !text.contains("e3v1."));
    let record = &records(&setup.path("audit.jsonl"))[0];
    for (key, value) in [
        ("app", "shop"),
        ("principal", "link:plain"),
        ("direction", "outbound-request"),
        ("destination", "api.pay.example"),
        ("source", "203.0.113.9"),
        ("method", "POST"),
        ("request", "r-3"),
    ] {
        assert_eq!(record[key], value);
    }
    let decisions: Vec<(String, String, u64)> = record["decisions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|d| {
            let text = |key: &str| d[key].as_str().unwrap_or("-").to_owned();
            (format!("{} {}", text("verb"), text("role")), text("why"), d["count"].as_u64().unwrap())
        })
        .collect();
    let expected = [
        ("open -", "not-authentic", 1),
        ("open card", "-", 2),
        ("open cvc", "role-not-allowed", 1),
        ("inspect cvc", "-", 1),
    ];
    assert_eq!(decisions, expected.map(|(a, b, n)| (a.to_owned(), b.to_owned(), n)));
    assert_eq!(record["decisions"][1]["kids"], serde_json::json!([1]));
}

#[test]
fn opens_of_many_connections_share_syncs_and_lose_no_record() {
    let setup = Setup::new();
    let engine = setup.start();
    let token = engine.relay().seal("shop", "card", b"4111");
    let threads: Vec<_> = (0..8)
        .map(|_| {
            let (mut relay, token) = (engine.relay(), token.clone());
            std::thread::spawn(move || {
                for _ in 0..125 {
                    assert_eq!(relay.open("shop", "card", &token), string("card", b"4111"));
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    assert_eq!(records(&setup.path("audit.jsonl")).len(), 1_000);
}

#[test]
fn a_full_sink_opens_nothing() {
    let setup = Setup::with("audit: {file: /dev/full}");
    let engine = setup.start();
    let token = engine.relay().seal("shop", "card", b"4111");
    assert_unavailable(&engine, &token);
    assert!(engine.log().contains("takes no records"), "{}", engine.log());
}

#[test]
fn a_blocked_sink_opens_nothing_and_hangs_nothing() {
    let setup = Setup::with("audit: {file: pipe}");
    let mut pipe = full_pipe(&setup.path("pipe"));
    let engine = setup.start();
    let token = engine.relay().seal("shop", "card", b"4111");
    assert_unavailable(&engine, &token);
    // Once the reader reads, tokens are opened again, and nothing that was refused is answered late.
    let mut relay = engine.relay();
    let mut got = Vec::new();
    eventually("tokens are opened again", || {
        let mut chunk = [0; 65_536];
        while let Ok(n) = pipe.read(&mut chunk) {
            got.extend_from_slice(&chunk[..n]);
        }
        try_open(&mut relay, &token, 300).is_ok()
    });
    relay.send(FrameKind::Ping, 99, b"");
    assert_eq!(relay.receive().unwrap().id, 99);
    assert!(engine.stop().success());
}

#[test]
fn what_waits_for_a_blocked_sink_is_bounded_and_the_rest_is_refused_at_once() {
    let setup = Setup::with("audit: {file: pipe}\nlimits: {requests: 4}");
    let _pipe = full_pipe(&setup.path("pipe"));
    let engine = setup.start();
    let mut relay = engine.relay();
    let token = relay.seal("shop", "card", b"4111");
    for id in 0..10 {
        let body = request("shop", "r", 2_000, |w| w.open(&[role("card")], &token).unwrap());
        relay.send(FrameKind::Request, id, &body);
    }
    let refusals: Vec<RequestRefusal> = (0..10).map(|_| relay.receive().unwrap().answer().unwrap_err()).collect();
    assert_eq!(refusals[..6], [RequestRefusal::Overloaded; 6], "refused while the others wait");
    assert_eq!(refusals[6..], [RequestRefusal::AuditUnavailable; 4], "refused at their deadline");
    assert!(!relay.seal("shop", "card", b"still sealed").is_empty());
}

#[test]
fn a_blocked_sink_does_not_keep_the_engine_from_stopping() {
    let setup = Setup::with("audit: {file: pipe}");
    let _pipe = full_pipe(&setup.path("pipe"));
    let engine = setup.start();
    let token = engine.relay().seal("shop", "card", b"4111");
    assert_unavailable(&engine, &token);
    assert!(engine.stop().success());
}

#[test]
fn a_pipe_that_nobody_reads_neither_hangs_the_start_nor_opens_anything() {
    let setup = Setup::with("audit: {file: pipe}");
    rustix::fs::mknodat(CWD, setup.path("pipe"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let engine = setup.start();
    let token = engine.relay().seal("shop", "card", b"4111");
    assert_unavailable(&engine, &token);
}

#[test]
fn a_sink_that_is_gone_opens_nothing_until_it_is_back() {
    let setup = Setup::with("audit: {file: trail/audit.jsonl}");
    fs::create_dir(setup.path("trail")).unwrap();
    let engine = setup.start();
    let mut relay = engine.relay();
    let token = relay.seal("shop", "card", b"4111");
    assert!(try_open(&mut relay, &token, 30_000).is_ok());
    fs::rename(setup.path("trail"), setup.path("gone")).unwrap();
    assert_unavailable(&engine, &token);
    fs::create_dir(setup.path("trail")).unwrap();
    assert!(try_open(&mut relay, &token, 30_000).is_ok());
    assert_eq!(records(&setup.path("trail/audit.jsonl")).len(), 1);
    assert_eq!(records(&setup.path("gone/audit.jsonl")).len(), 1);
}

#[test]
fn a_sink_that_fills_up_and_drains_keeps_whole_lines_only() {
    // A file system of one megabyte is not to be had without privileges, so the file's size is limited instead: the write that reaches the
    // limit is cut short, as on a full disk.
    let setup = Setup::new();
    let engine = setup.start_with_file_limit(4_000);
    let mut relay = engine.relay();
    let token = relay.seal("shop", "card", b"4111");
    let opened = (0..100).take_while(|_| try_open(&mut relay, &token, 30_000).is_ok()).count();
    assert!((2..100).contains(&opened), "{opened}");
    assert_unavailable(&engine, &token);
    assert_eq!(records(&setup.path("audit.jsonl")).len(), opened, "a record for every answer, and no torn line");
    // Rotation makes room.
    fs::rename(setup.path("audit.jsonl"), setup.path("audit.1")).unwrap();
    assert!(try_open(&mut relay, &token, 30_000).is_ok());
    assert_eq!(records(&setup.path("audit.jsonl")).len(), 1);
}

#[test]
fn a_line_that_a_crash_cut_short_is_removed_at_the_next_start() {
    let setup = Setup::new();
    let engine = setup.start();
    let mut relay = engine.relay();
    let token = relay.seal("shop", "card", b"4111");
    assert!(try_open(&mut relay, &token, 30_000).is_ok());
    drop(engine);
    let mut file = fs::File::options().append(true).open(setup.path("audit.jsonl")).unwrap();
    file.write_all(br#"{"v":1,"time_ms":17"#).unwrap();
    let engine = setup.start();
    assert!(try_open(&mut engine.relay(), &token, 30_000).is_ok());
    assert_eq!(records(&setup.path("audit.jsonl")).len(), 2);
}

#[test]
fn an_audit_file_that_cannot_be_opened_refuses_the_start() {
    let setup = Setup::with("audit: {file: missing/audit.jsonl}");
    assert!(setup.refused(&["run"], 1).contains("audit"), "the cause is named");
}
