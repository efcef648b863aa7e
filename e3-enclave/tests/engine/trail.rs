//! The trail that records leave: a chain that shows what was taken out of it, in several sinks at once, with counts of what was sealed and alarms of what was a trap.

use crate::harness::{Engine, Relay, Reply, Setup, eventually, role, string};
use e3_wire::{Answer, FrameKind, Mark, Refusal, RequestRefusal};
use rustix::process::Signal;
use serde_json::Value;
use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// `e3 audit verify`: exit code, and what it said.
fn verify(arguments: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_e3")).args(["audit", "verify"]).args(arguments).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(said).unwrap())
}

/// Opens, and answers where the record is.
fn marked(relay: &mut Relay, id: u64, token: &[u8]) -> Mark {
    let body = crate::harness::request("shop", &format!("m-{id}"), 30_000, |w| w.open(&[role("card")], token).unwrap());
    relay.send(FrameKind::Request, id, &body);
    let frame = relay.receive().unwrap();
    let (Answer::Items(items), Some(mark)) = Answer::read_marked(&frame.body).unwrap() else { panic!("no mark") };
    assert_eq!(items.len(), 1);
    mark
}

fn lines(path: &Path) -> Vec<Value> {
    fs::read_to_string(path).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn a_trail_verifies_over_restarts_and_rotation_and_shows_what_was_taken_out() {
    let setup = Setup::new();
    let key = setup.done(&["audit", "key"]).trim().to_owned();
    let file = setup.path("audit.jsonl");
    let (old, now) = (setup.path("audit.1").display().to_string(), file.display().to_string());
    let mut marks = Vec::new();
    let engine = setup.start();
    let token = engine.relay().seal("shop", "card", b"4111");
    marks.extend((1..=5).map(|id| marked(&mut engine.relay(), id, &token)));
    assert!(engine.stop().success());
    let engine = setup.start();
    marks.extend((6..=9).map(|id| marked(&mut engine.relay(), id, &token)));
    fs::rename(&file, setup.path("audit.1")).unwrap();
    marks.extend((10..=12).map(|id| marked(&mut engine.relay(), id, &token)));
    engine.signal(Signal::KILL);
    engine.wait();

    let (code, said) = verify(&["--key", &key, &old, &now]);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("nothing was removed, changed or moved"), "{said}");
    assert_eq!(verify(&["--key", &key, &now]).0, 0, "a rotated file on its own");
    assert!(verify(&[&old, &now]).1.contains(&format!("signed by {key}")), "whose key it is, it says");
    let (code, said) = verify(&["--key", &"ab".repeat(32), &old, &now]);
    assert!(code == 1 && said.contains("is not a key that was given"), "{said}");

    // The log of a relay that got these answers.
    let log: String = marks
        .iter()
        .map(|m| format!("INFO recorded mark={}:{}:{}\n", hex(&m.boot), m.sequence, hex(&m.head)))
        .collect();
    fs::write(setup.path("relay.log"), log).unwrap();
    let heads = setup.path("relay.log").display().to_string();
    assert_eq!(verify(&["--key", &key, "--heads", &heads, &old, &now]), (0, verify(&["--key", &key, &old, &now]).1));
    // The last file gone altogether, with everything that names it: only the relay knows.
    assert_eq!(verify(&["--key", &key, &old]).0, 0);
    let (code, said) = verify(&["--key", &key, "--heads", &heads, &old]);
    assert!(code == 1 && said.matches("a relay was answered for record").count() == 3, "{said}");

    // Whatever line is taken out of the middle, the next one tells; whatever is changed, its own place.
    let text = fs::read_to_string(&old).unwrap();
    let all: Vec<&str> = text.lines().collect();
    let record = all.iter().position(|line| line.contains("\"request\":\"m-3\"")).unwrap();
    let put = |lines: &[&str]| fs::write(setup.path("changed"), lines.join("\n") + "\n").unwrap();
    let changed = setup.path("changed").display().to_string();
    put(&[&all[..record], &all[record + 2..]].concat());
    let (code, said) = verify(&["--key", &key, &changed, &now]);
    assert!(
        code == 1 && said.contains(&format!("changed:{}: record", record + 1)) && said.contains("missing"),
        "{said}"
    );
    let other = all[record].replace("203.0.113.9", "203.0.113.8");
    assert_ne!(other, all[record]);
    put(&[&all[..record], &[other.as_str()], &all[record + 1..]].concat());
    let (code, said) = verify(&["--key", &key, &changed, &now]);
    assert!(
        code == 1 && said.contains(&format!("changed:{}: record", record + 1)) && said.contains("was changed"),
        "{said}"
    );
    // The tail of the first run cut off: the second one went on from it.
    let second = all.iter().rposition(|line| line.contains("\"event\":\"boot\"")).unwrap();
    put(&[&all[..record], &all[second..]].concat());
    let (code, said) = verify(&["--key", &key, &changed, &now]);
    assert!(code == 1 && said.contains("what came before it was cut off"), "{said}");
}

#[test]
fn what_was_sealed_is_counted_by_principal_role_and_verb() {
    let setup = Setup::new();
    let engine = setup.start();
    let mut relay = engine.relay();
    (0..5).for_each(|_| drop(relay.seal("shop", "card", b"4111")));
    let replies = relay.ask("shop", 30_000, |w| {
        (0..3).for_each(|_| w.seal(role("email"), e3_wire::ValueType::String, b"a@b", true).unwrap());
        w.seal(role("cvc"), e3_wire::ValueType::String, b"123", false).unwrap();
    });
    assert_eq!(replies.unwrap().len(), 4);
    drop(relay.seal("bank", "card", b"4111"));
    assert!(engine.stop().success());
    let mut counts = std::collections::BTreeMap::new();
    for record in lines(&setup.path("audit.jsonl")).iter().filter(|r| r["event"] == "seals") {
        for seal in record["seals"].as_array().unwrap() {
            assert_eq!(seal["principal"], "link:plain");
            let text = |name: &str| seal[name].as_str().unwrap().to_owned();
            *counts.entry((text("app"), text("role"), text("verb"))).or_insert(0) += seal["count"].as_u64().unwrap();
        }
    }
    let expected = [
        ("bank", "card", "seal", 1),
        ("shop", "card", "seal", 5),
        ("shop", "cvc", "seal", 1),
        ("shop", "email", "seal-deterministic", 3),
    ];
    assert_eq!(counts, expected.map(|(a, r, v, n)| ((a.into(), r.into(), v.into()), n)).into());
    assert!(!fs::read_to_string(setup.path("audit.jsonl")).unwrap().contains("4111"));
}

/// An engine that decides by a policy, over a plain link.
fn under_policy(policy: &str, lines: &str) -> Setup {
    let setup = Setup::new();
    fs::write(setup.path("policy.yaml"), policy).unwrap();
    setup.configure(&format!("policy: {{file: policy.yaml}} # instead of apps:\n{lines}"));
    setup
}

#[test]
fn a_trap_is_never_opened_and_rings_once_for_many() {
    let policy = "version: 1\napp: shop\nroles:\n  card: {}\n  trap: {honey: true}\nprincipals:\n  shop-relay: {relay: {plain: true}}\n\
                  grants:\n  - {who: shop-relay, may: [seal, open, inspect], roles: [card, trap]}\n";
    let setup = under_policy(policy, "audit: {file: audit.jsonl}\nalarm: {command: [./ring]}");
    let script = format!("#!/bin/sh\nenv | grep ^E3_ | sort >> {}\n", setup.path("rung").display());
    fs::write(setup.path("ring"), script).unwrap();
    fs::set_permissions(setup.path("ring"), fs::Permissions::from_mode(0o755)).unwrap();
    setup.configure(&format!(
        "policy: {{file: policy.yaml}} # instead of apps:\naudit: {{file: audit.jsonl}}\nalarm: {{command: [{}]}}",
        setup.path("ring").display()
    ));
    let engine = setup.start();
    let mut relay = engine.relay();
    let (card, trap) = (relay.seal("shop", "card", b"4111"), relay.seal("shop", "trap", b"secret-bait"));
    assert_eq!(relay.open("shop", "card", &card), string("card", b"4111"));
    let other = relay.one("shop", |w| w.open(&[role("card"), role("trap")], &trap).unwrap());
    assert_eq!(other, Reply::Refused(Refusal::NotPermitted), "what anybody gets who may not");
    // Also where the asking side would not have asked for that role.
    for _ in 0..3 {
        assert_eq!(relay.open("shop", "card", &trap), Reply::Refused(Refusal::NotPermitted));
    }
    eventually("the alarm rings", || fs::read_to_string(setup.path("rung")).is_ok_and(|text| text.contains("E3_ROLE")));
    assert!(engine.log().matches("ALARM").count() == 4, "{}", engine.log());
    assert!(engine.stop().success());
    let rung = fs::read_to_string(setup.path("rung")).unwrap();
    assert_eq!(
        rung, "E3_APP=shop\nE3_COUNT=1\nE3_PRINCIPAL=shop-relay\nE3_REQUEST=r-4\nE3_ROLE=trap\n",
        "once in a while"
    );
    let denied: Vec<Value> = lines(&setup.path("audit.jsonl"));
    let honey: Vec<&Value> = denied.iter().filter(|r| r["decisions"][0]["why"] == "honey").collect();
    assert_eq!(honey.len(), 4);
    assert_eq!((&honey[0]["decisions"][0]["line"], &honey[0]["principal"]), (&5.into(), &"shop-relay".into()));
    assert!(!rung.contains("bait") && !fs::read_to_string(setup.path("audit.jsonl")).unwrap().contains("bait"));
}

/// Somebody at the audit socket, who does with each batch what `fate` says of its number.
struct Reader {
    /// Ids of requests whose records it has and has acknowledged.
    has: Arc<Mutex<HashSet<String>>>,
    lines: Arc<Mutex<Vec<String>>>,
    faults: Arc<Mutex<usize>>,
}

/// What becomes of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    Acknowledged,
    OtherNumber,
    Nonsense,
    CutBefore,
    CutAfter,
    HalfAnswer,
}

impl Reader {
    fn start(path: &Path, mut fate: impl FnMut(usize) -> Fate + Send + 'static) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let it = Self { has: Arc::default(), lines: Arc::default(), faults: Arc::default() };
        let (has, all, faults) = (Arc::clone(&it.has), Arc::clone(&it.lines), Arc::clone(&it.faults));
        std::thread::spawn(move || {
            let mut count = 0;
            for stream in listener.incoming().map_while(Result::ok) {
                let mut stream = BufReader::new(stream);
                loop {
                    let mut head = String::new();
                    if stream.read_line(&mut head).unwrap_or(0) == 0 {
                        break;
                    }
                    count += 1;
                    let now = fate(count);
                    if now != Fate::Acknowledged {
                        *faults.lock().unwrap() += 1;
                    }
                    if now == Fate::CutBefore {
                        break;
                    }
                    let mut words = head.split_whitespace().skip(1);
                    let number: u64 = words.next().unwrap().parse().unwrap();
                    let mut bytes = vec![0; words.next().unwrap().parse().unwrap()];
                    stream.read_exact(&mut bytes).unwrap();
                    let text = String::from_utf8(bytes).unwrap();
                    let answer = match now {
                        Fate::Acknowledged => format!("ok {number}\n"),
                        Fate::OtherNumber => format!("ok {}\n", number + 1),
                        Fate::Nonsense => "yes\n".to_owned(),
                        Fate::HalfAnswer => "ok".to_owned(),
                        Fate::CutBefore | Fate::CutAfter => break,
                    };
                    if now == Fate::Acknowledged {
                        has.lock().unwrap().extend(text.lines().filter_map(request_of));
                        all.lock().unwrap().extend(text.lines().map(str::to_owned));
                    }
                    if stream.get_mut().write_all(answer.as_bytes()).is_err() || now == Fate::HalfAnswer {
                        break;
                    }
                }
            }
        });
        it
    }
}

fn request_of(line: &str) -> Option<String> {
    let record: Value = serde_json::from_str(line).unwrap();
    record["request"].as_str().map(str::to_owned)
}

/// xorshift64*.
fn random(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_f491_4f6c_dd1d)
}

#[test]
fn a_thousand_audit_faults_open_nothing_without_a_durable_record() {
    let setup = Setup::with("audit: {file: audit.jsonl, sinks: [{socket: audit.sock}]}");
    let mut seed = 0x5eed_0001_u64;
    let reader = Reader::start(&setup.path("audit.sock"), move |_| match random(&mut seed) % 8 {
        0 => Fate::OtherNumber,
        1 => Fate::Nonsense,
        2 => Fate::CutBefore,
        3 => Fate::CutAfter,
        4 => Fate::HalfAnswer,
        _ => Fate::Acknowledged,
    });
    let engine = setup.start();
    let token = engine.relay().seal("shop", "card", b"4111");
    let faults = || *reader.faults.lock().unwrap();
    let workers: Vec<_> = (0..4)
        .map(|_| {
            let (mut relay, token) = (engine.relay(), token.clone());
            let (has, counted, file) = (Arc::clone(&reader.has), Arc::clone(&reader.faults), setup.path("audit.jsonl"));
            std::thread::spawn(move || {
                let (mut opened, mut refused) = (0, 0);
                // Each worker has ids of its own: those of its connection would be the others' too.
                let own = format!("{:?}", std::thread::current().id()).replace(['(', ')'], "");
                for n in 1.. {
                    if *counted.lock().unwrap() >= 1_000 {
                        break;
                    }
                    let id = format!("{own}-{n}");
                    let body =
                        crate::harness::request("shop", &id, 5_000, |w| w.open(&[role("card")], &token).unwrap());
                    relay.send(FrameKind::Request, n, &body);
                    match relay.receive().unwrap().answer() {
                        Ok(replies) => {
                            assert_eq!(replies, [string("card", b"4111")]);
                            assert!(has.lock().unwrap().contains(&id), "{id}: the reader has no record of it");
                            if opened % 25 == 0 {
                                let text = fs::read_to_string(&file).unwrap();
                                assert!(text.contains(&format!("\"request\":\"{id}\"")), "{id}: no record in the file");
                            }
                            opened += 1;
                        }
                        Err(refusal) => {
                            assert_eq!(refusal, RequestRefusal::AuditUnavailable);
                            refused += 1;
                        }
                    }
                }
                (opened, refused)
            })
        })
        .collect();
    let (mut opened, mut refused) = (0, 0);
    for worker in workers {
        let (o, r) = worker.join().unwrap();
        (opened, refused) = (opened + o, refused + r);
    }
    assert!(
        faults() >= 1_000 && opened > 100 && refused > 100,
        "{} faults, {opened} opened, {refused} refused",
        faults()
    );
    drop(engine);
    // Both sinks hold one and the same chain, with whatever was not answered in it.
    let key = setup.done(&["audit", "key"]).trim().to_owned();
    let (code, said) = verify(&["--key", &key, &setup.path("audit.jsonl").display().to_string()]);
    assert_eq!(code, 0, "{said}");
    let kept = fs::read_to_string(setup.path("audit.jsonl")).unwrap();
    let kept: Vec<&str> = kept.lines().collect();
    let read = reader.lines.lock().unwrap();
    assert_eq!(read[..], kept[..read.len()], "the reader was told the same, in the same order, once");
    assert!(kept.len() - read.len() < 64, "what it lacks is the last group");
}

fn try_open(relay: &mut Relay, token: &[u8]) -> Result<Vec<Reply>, RequestRefusal> {
    relay.ask("shop", 300, |w| w.open(&[role("card")], token).unwrap())
}

#[test]
fn every_sink_must_have_the_record_and_each_may_keep_it_from_being_answered() {
    let setup = Setup::with("audit: {file: audit.jsonl, sinks: [{syslog: dev-log}, {socket: audit.sock}]}");
    let syslog = UnixDatagram::bind(setup.path("dev-log")).unwrap();
    let reader = Reader::start(&setup.path("audit.sock"), |_| Fate::Acknowledged);
    let engine: Engine = setup.start();
    let mut relay = engine.relay();
    let token = relay.seal("shop", "card", b"4111");
    assert!(try_open(&mut relay, &token).is_ok());
    let mut buffer = [0; 4096];
    let mut messages = Vec::new();
    syslog.set_nonblocking(true).unwrap();
    // Records that no answer waits for may come in between.
    eventually("both have the same number of records", || {
        let kept = fs::read_to_string(setup.path("audit.jsonl")).unwrap();
        while let Ok(length) = syslog.recv(&mut buffer) {
            messages.push(String::from_utf8(buffer[..length].to_vec()).unwrap());
        }
        messages.len() == kept.lines().count()
    });
    assert!(
        messages.iter().any(|m| m.starts_with("<109>1 - - e3 ") && m.contains("\"verb\":\"open\"")),
        "{messages:?}"
    );
    assert!(reader.lines.lock().unwrap().iter().any(|line| line.contains("\"verb\":\"open\"")));
    // The daemon is gone: the file alone is not enough, whatever it holds.
    drop(syslog);
    fs::remove_file(setup.path("dev-log")).unwrap();
    for _ in 0..3 {
        assert_eq!(try_open(&mut relay, &token), Err(RequestRefusal::AuditUnavailable));
    }
    assert!(!relay.seal("shop", "card", b"still sealed").is_empty());
    let again = UnixDatagram::bind(setup.path("dev-log")).unwrap();
    eventually("the sinks are whole again", || try_open(&mut relay, &token).is_ok());
    drop(again);
}

#[test]
fn a_reader_that_says_nothing_holds_up_no_answer_beyond_its_deadline() {
    let setup = Setup::with("audit: {file: audit.jsonl, sinks: [{socket: audit.sock}]}");
    let listener = UnixListener::bind(setup.path("audit.sock")).unwrap();
    let engine = setup.start();
    let mut relay = engine.relay();
    let token = relay.seal("shop", "card", b"4111");
    let mut silent: Vec<UnixStream> = Vec::new();
    for _ in 0..3 {
        let refused = try_open(&mut relay, &token);
        assert!(matches!(refused, Err(RequestRefusal::AuditUnavailable | RequestRefusal::Deadline)), "{refused:?}");
        assert!(!relay.seal("shop", "card", b"still sealed").is_empty());
    }
    listener.set_nonblocking(true).unwrap();
    silent.extend(listener.accept().map(|(stream, _)| stream));
    assert_eq!(silent.len(), 1, "it was asked, and said nothing");
}
