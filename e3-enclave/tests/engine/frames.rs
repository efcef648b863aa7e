//! Frames: in any order, of any size, and broken.

use crate::harness::{PATIENCE, Setup, request, role, string};
use e3_wire::{FrameKind, MAX_FRAME, MAX_VALUE, Refusal, RequestRefusal, RequestWriter, ValueType};
use std::collections::HashMap;
use std::io::{Read, Write};
use std::time::Duration;

/// A frame with this length field, kind and body, id 42.
fn raw(length: u32, kind: u8, body: &[u8]) -> Vec<u8> {
    [&length.to_be_bytes()[..], &[kind], &42u64.to_be_bytes(), body].concat()
}

#[test]
fn a_wrong_frame_ends_its_connection_and_no_other() {
    let setup = Setup::new();
    let engine = setup.start();
    let mut neighbour = engine.relay();
    let good = request("shop", "r", 1000, |w| w.seal(role("card"), ValueType::String, b"x", false).unwrap());
    let mut trailing = good.clone();
    trailing.push(0);
    let broken = [
        ("length over the limit", raw(MAX_FRAME as u32, 1, b"")),
        ("length of all ones", raw(u32::MAX, 1, b"")),
        ("length below the header's", raw(8, 1, b"")),
        ("unknown kind", raw(99, 77, b"")),
        ("kind of the engine's own", raw(10, 2, b"\0")),
        ("ping with a body", raw(10, 3, b"x")),
        ("request without a body", raw(9, 1, b"")),
        ("request cut short", raw(9 + 10, 1, &good[..10])),
        ("request with a byte behind it", raw(9 + trailing.len() as u32, 1, &trailing)),
    ];
    for (name, bytes) in broken {
        let mut relay = engine.relay();
        relay.stream.write_all(&bytes).unwrap();
        let frame = relay.receive().unwrap_or_else(|| panic!("{name}: closed without a word"));
        assert_eq!((frame.id, frame.answer().unwrap_err()), (42, RequestRefusal::Malformed), "{name}");
        assert!(relay.receive().is_none(), "{name}: still open");
        assert!(!neighbour.seal("shop", "card", b"x").is_empty(), "{name}");
    }
}

#[test]
fn a_broken_frame_does_not_take_back_what_is_in_flight() {
    let setup = Setup::new();
    let engine = setup.start();
    let mut relay = engine.relay();
    let token = relay.seal("shop", "card", b"4111");
    // The open waits for its record while the broken frame arrives.
    let open = request("shop", "r", 30_000, |w| w.open(&[role("card")], &token).unwrap());
    relay.send(FrameKind::Request, 7, &open);
    relay.stream.write_all(&raw(9, 77, b"")).unwrap();
    let frames: HashMap<u64, _> =
        [relay.receive().unwrap(), relay.receive().unwrap()].into_iter().map(|f| (f.id, f.answer())).collect();
    assert_eq!(frames[&7], Ok(vec![string("card", b"4111")]));
    assert_eq!(frames[&42], Err(RequestRefusal::Malformed));
    assert!(relay.receive().is_none());
}

#[test]
fn a_frame_that_never_ends_is_cut_off() {
    let setup = Setup::with("audit: {file: audit.jsonl}\nlimits: {frame_ms: 200}");
    let engine = setup.start();
    let (mut small, mut large) = (engine.relay(), engine.relay());
    small.stream.write_all(&raw(100, 1, b"half")).unwrap();
    large.stream.write_all(&raw(1_000_000, 1, &[0; 100_000])).unwrap();
    assert!(small.receive().is_none() && large.receive().is_none());
    let mut quiet = engine.relay();
    std::thread::sleep(Duration::from_millis(400));
    assert!(!quiet.seal("shop", "card", b"a connection without a frame is not cut off").is_empty());
}

#[test]
fn answers_belong_to_their_requests_whatever_the_order() {
    let setup = Setup::new();
    let engine = setup.start();
    let threads: Vec<_> = (0..4)
        .map(|t| {
            let mut relay = engine.relay();
            std::thread::spawn(move || {
                let mut open = relay.stream.try_clone().unwrap();
                let tokens: Vec<Vec<u8>> =
                    (0..50).map(|i| relay.seal("shop", "card", format!("value {t} {i}").as_bytes())).collect();
                // 2,500 requests of this connection interleave opens, which wait for the audit, with seals, which do not, and large ones.
                let large = "l".repeat(100_000);
                let writer = std::thread::spawn(move || {
                    for id in 0..2_500u64 {
                        let body = request("shop", "r", 60_000, |w| {
                            let token = &tokens[id as usize % 50];
                            match id % 100 {
                                99 => w.seal(role("card"), ValueType::String, large.as_bytes(), false).unwrap(),
                                n if n % 2 == 0 => w.open(&[role("card")], token).unwrap(),
                                _ => w.keep_or_seal(role("card"), ValueType::String, token, false).unwrap(),
                            }
                        });
                        let header = e3_wire::FrameHeader { kind: FrameKind::Request, id, body: body.len() };
                        open.write_all(&[&header.to_bytes().unwrap()[..], &body].concat()).unwrap();
                    }
                });
                let mut seen = vec![false; 2_500];
                for _ in 0..2_500 {
                    let frame = relay.receive().unwrap();
                    assert!(!std::mem::replace(&mut seen[frame.id as usize], true), "answered twice");
                    let replies = frame.answer().unwrap();
                    match frame.id % 100 {
                        99 => assert!(replies[0].token().len() > 133_000),
                        n if n % 2 == 0 => {
                            assert_eq!(replies[0], string("card", format!("value {t} {}", frame.id % 50).as_bytes()));
                        }
                        _ => assert_eq!(replies[0], crate::harness::Reply::Kept),
                    }
                }
                writer.join().unwrap();
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
}

#[test]
fn values_of_every_size_come_back() {
    let setup = Setup::new();
    let engine = setup.start();
    let mut relay = engine.relay();
    for len in [0, 1, 65_000, 65_535, 65_536, 65_537, 131_072, 1 << 20, MAX_VALUE] {
        let value: Vec<u8> = (0..len).map(|i| b'a' + (i % 23) as u8).collect();
        let token = relay.seal("shop", "card", &value);
        assert!(relay.open("shop", "card", &token) == string("card", &value), "{len} bytes");
    }
    let over = vec![b'a'; MAX_VALUE + 1];
    let reply = relay.one("shop", |w| w.seal(role("card"), ValueType::String, &over, false).unwrap());
    assert_eq!(reply, crate::harness::Reply::Refused(Refusal::BadValue));
    let large = vec![b'a'; 15 << 20];
    let two = |w: &mut RequestWriter| {
        w.seal(role("card"), ValueType::String, &large, false).unwrap();
        w.seal(role("card"), ValueType::String, &large, false).unwrap();
    };
    assert_eq!(relay.ask("shop", 60_000, two), Err(RequestRefusal::TooLarge));
}

#[test]
fn many_items_in_one_request_are_answered_in_their_order() {
    let setup = Setup::new();
    let engine = setup.start();
    let mut relay = engine.relay();
    for n in [1usize, 127, 128, 129, 5_000] {
        let tokens = relay
            .ask("shop", 60_000, |w| {
                for i in 0..n {
                    w.seal(role("card"), ValueType::Number, i.to_string().as_bytes(), false).unwrap();
                }
            })
            .unwrap();
        let opened = relay
            .ask("shop", 60_000, |w| tokens.iter().for_each(|t| w.open(&[role("card")], t.token()).unwrap()))
            .unwrap();
        assert_eq!(opened.len(), n);
        for (i, reply) in opened.iter().enumerate() {
            let expected = i.to_string().into_bytes();
            assert_eq!(*reply, crate::harness::Reply::Value(ValueType::Number, "card".into(), expected));
        }
    }
}

#[test]
fn work_is_not_done_after_its_deadline() {
    let setup = Setup::new();
    let engine = setup.start();
    let mut relay = engine.relay();
    let seal = |w: &mut RequestWriter| w.seal(role("card"), ValueType::String, b"x", false).unwrap();
    assert_eq!(relay.ask("shop", 0, seal), Err(RequestRefusal::Deadline));
    assert!(relay.ask("shop", 30_000, seal).is_ok());
}

#[test]
fn a_ping_is_answered_ready() {
    let setup = Setup::new();
    let engine = setup.start();
    let mut relay = engine.relay();
    relay.send(FrameKind::Ping, 9, b"");
    let frame = relay.receive().unwrap();
    assert_eq!((frame.kind, frame.id, frame.body), (FrameKind::Pong, 9, vec![1]));
}

#[test]
fn a_relay_that_does_not_read_is_not_read_from() {
    let setup = Setup::new();
    let engine = setup.start();
    let mut relay = engine.relay();
    let value = vec![b'v'; 10_000];
    let body = request("shop", "r", 60_000, |w| w.seal(role("card"), ValueType::String, &value, false).unwrap());
    let header = e3_wire::FrameHeader { kind: FrameKind::Request, id: 1, body: body.len() }.to_bytes().unwrap();
    let frame = [&header[..], &body].concat();
    // 200 MB would pile up in the engine if it went on reading.
    let mut writer = relay.stream.try_clone().unwrap();
    writer.set_write_timeout(Some(Duration::from_millis(500))).unwrap();
    let mut written = 0usize;
    let mut stopped = false;
    'all: for _ in 0..20_000 {
        let mut rest = &frame[..];
        while !rest.is_empty() {
            match writer.write(rest) {
                Ok(n) => {
                    written += n;
                    rest = &rest[n..];
                }
                Err(_) => {
                    stopped = true;
                    break 'all;
                }
            }
        }
    }
    assert!(stopped, "the engine took {written} bytes without giving any");
    assert!(engine.rss_kib() < 100 * 1024, "{} KiB", engine.rss_kib());
    // What was taken is answered once the relay reads.
    let whole = written / frame.len();
    for _ in 0..whole {
        assert!(relay.receive().unwrap().answer().is_ok());
    }
}

#[test]
fn memory_stays_flat_over_many_requests() {
    let setup = Setup::new();
    let engine = setup.start();
    let mut relay = engine.relay();
    let round = |relay: &mut crate::harness::Relay, n: usize| {
        for i in 0..n {
            let value = vec![b'v'; [16, 1_000, 60_000, 200_000][i % 4]];
            let token = relay.seal("shop", "card", &value);
            if i % 8 == 0 {
                assert!(relay.open("shop", "card", &token) == string("card", &value));
            }
        }
    };
    round(&mut relay, 400);
    let before = engine.rss_kib();
    round(&mut relay, 1_600);
    let after = engine.rss_kib();
    assert!(after < before + 16 * 1024, "{before} KiB, then {after} KiB");
}

#[test]
fn a_relay_may_leave_at_any_time() {
    let setup = Setup::new();
    let engine = setup.start();
    let body = request("shop", "r", 60_000, |w| w.seal(role("card"), ValueType::String, b"x", false).unwrap());
    for cut in 0..body.len() + 13 {
        let mut relay = engine.relay();
        let header = e3_wire::FrameHeader { kind: FrameKind::Request, id: 1, body: body.len() }.to_bytes().unwrap();
        relay.stream.write_all(&[&header[..], &body].concat()[..cut]).unwrap();
    }
    // A relay that has closed its own side still gets its answers.
    let mut relay = engine.relay();
    relay.send(FrameKind::Request, 5, &body);
    relay.stream.shutdown(std::net::Shutdown::Write).unwrap();
    let mut rest = Vec::new();
    relay.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    relay.stream.read_to_end(&mut rest).unwrap();
    assert!(rest.len() > 100);
}

#[test]
fn large_frames_wait_for_room_and_are_all_served() {
    // Room for one large frame at a time: eight relays take turns, and none is refused.
    let setup = Setup::with("audit: {file: audit.jsonl}\nlimits: {frame_bytes: 1048576, held_bytes: 1048576}");
    let engine = setup.start();
    let threads: Vec<_> = (0..8u8)
        .map(|t| {
            let mut relay = engine.relay();
            std::thread::spawn(move || {
                for _ in 0..5 {
                    let value = vec![b'a' + t; 700_000];
                    let token = relay.seal("shop", "card", &value);
                    assert!(relay.open("shop", "card", &token) == string("card", &value));
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    // The configured limit is the limit, and is met before the body is sent.
    let mut relay = engine.relay();
    relay.stream.write_all(&raw(1 << 20, 1, b"")).unwrap();
    assert_eq!(relay.receive().unwrap().answer(), Err(RequestRefusal::Malformed));
}
