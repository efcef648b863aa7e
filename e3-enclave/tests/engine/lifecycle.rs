//! Start, drain and what the process keeps to itself.

use crate::harness::{Relay, Setup, request, role, string};
use e3_wire::{FrameHeader, FrameKind, ValueType};
use rustix::process::Signal;
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;

#[test]
fn a_drain_answers_what_is_in_flight_and_ends_with_zero() {
    let setup = Setup::new();
    let engine = setup.start();
    let (mut busy, mut idle) = (engine.relay(), engine.relay());
    let value = vec![b'v'; 2 << 20];
    let token = busy.seal("shop", "card", b"4111");
    // The first answer shows that the connection is served; then large seals and opens are in flight when the signal comes.
    for id in 0..8 {
        let body = request("shop", "r", 60_000, |w| match id % 2 {
            0 => w.seal(role("card"), ValueType::String, &value, false).unwrap(),
            _ => w.open(&[role("card")], &token).unwrap(),
        });
        busy.send(FrameKind::Request, id, &body);
    }
    engine.signal(Signal::TERM);
    let mut answered = 0;
    let mut goaway = 0;
    while let Some(frame) = busy.receive() {
        match frame.kind {
            FrameKind::GoAway => goaway += 1,
            _ => {
                assert!(frame.answer().is_ok());
                answered += 1;
            }
        }
    }
    assert_eq!((answered, goaway), (8, 1));
    assert_eq!(idle.receive().unwrap().kind, FrameKind::GoAway);
    assert!(idle.receive().is_none());
    assert!(engine.wait().success());
    assert!(!setup.socket().exists(), "the socket is gone");
}

#[test]
fn a_relay_that_stays_does_not_outlast_the_drain_time() {
    let setup = Setup::with("audit: {file: audit.jsonl}\nlimits: {drain_ms: 500}");
    let engine = setup.start();
    // A frame that has begun keeps its connection from falling quiet; the drain time ends it all the same.
    let mut relay = engine.relay();
    relay.stream.write_all(&[0, 0, 1, 0, 1]).unwrap();
    assert!(engine.stop().success());
}

#[test]
fn a_socket_is_its_owners_alone_unless_configured() {
    let setup = Setup::new();
    let engine = setup.start();
    assert_eq!(fs::metadata(setup.socket()).unwrap().permissions().mode() & 0o777, 0o600);
    drop(engine);
    setup.configure("audit: {file: audit.jsonl}\nsocket_mode: \"0660\"");
    let _engine = setup.start();
    assert_eq!(fs::metadata(setup.socket()).unwrap().permissions().mode() & 0o777, 0o660);
}

#[test]
fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
    let setup = Setup::new();
    drop(UnixListener::bind(setup.socket()).unwrap());
    assert!(setup.socket().exists());
    let engine = setup.start();
    let token = engine.relay().seal("shop", "card", b"x");
    let second = Setup::new();
    second.configure(&format!("audit: {{file: {}}}", second.path("audit.jsonl").display()));
    let text = fs::read_to_string(second.path("e3.yaml")).unwrap();
    let stolen = text.replace(&second.socket().display().to_string(), &setup.socket().display().to_string());
    fs::write(second.path("e3.yaml"), stolen).unwrap();
    assert!(second.refused(&["run"], 1).contains("cannot listen"));
    assert_eq!(engine.relay().open("shop", "card", &token), string("card", b"x"));
}

#[test]
fn a_killed_engine_leaves_nothing_in_the_way_of_the_next() {
    let setup = Setup::new();
    let engine = setup.start();
    let token = engine.relay().seal("shop", "card", b"x");
    drop(engine);
    assert!(setup.socket().exists(), "killed, it could not remove its socket");
    assert_eq!(setup.start().relay().open("shop", "card", &token), string("card", b"x"));
}

#[test]
fn one_engine_at_a_time_writes_an_audit_file() {
    let (one, two) = (Setup::new(), Setup::new());
    let _first = one.start();
    two.configure(&format!("audit: {{file: {}}}", one.path("audit.jsonl").display()));
    assert!(two.refused(&["run"], 1).contains("another process writes to it"));
}

#[test]
fn core_dumps_are_off_and_the_memory_is_closed_to_others() {
    let setup = Setup::new();
    let engine = setup.start();
    let limits = fs::read_to_string(format!("/proc/{}/limits", engine.id())).unwrap();
    let core = limits.lines().find(|l| l.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().nth(4), Some("0"), "{core}");
    // The files of a process that is not dumpable belong to root, and nobody else reads them; root sees it by what may be traced.
    let other = std::process::Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "cat"])
        .arg(format!("/proc/{}/environ", engine.id()))
        .output();
    assert!(other.is_ok_and(|o| !o.status.success()));
}

#[test]
fn the_log_never_holds_a_value() {
    let setup = Setup::with("audit: {file: audit.jsonl}\nlog: {format: json, level: debug}");
    let engine = setup.start();
    let mut relay: Relay = engine.relay();
    let token = relay.seal("shop", "card", b"4111-secret");
    relay.open("shop", "card", &token);
    relay.one("shop", |w| w.seal(role("nope"), ValueType::String, b"other-secret", false).unwrap());
    let log = engine.log();
    assert!(log.contains("\"ready\"") && log.lines().all(|l| l.starts_with('{')), "{log}");
    assert!(engine.stop().success());
    let log = fs::read_to_string(setup.path("log")).unwrap();
    assert!(!log.contains("secret") && !log.contains("e3v1."), "{log}");
}

#[test]
fn a_folder_that_is_missing_is_named_with_the_command_that_makes_it() {
    let setup = Setup::new();
    let text = fs::read_to_string(setup.path("e3.yaml")).unwrap();
    let there = |name: &str| setup.path(name).display().to_string();
    let text = text
        .replace("keyring: keyring", "keyring: keys/keyring")
        .replace("file: root.key", "file: keys/root.key")
        .replace("file: audit.jsonl", "file: log/audit.jsonl")
        .replace(&there("e3.sock"), &there("run/e3.sock"));
    fs::write(setup.path("e3.yaml"), text).unwrap();
    assert!(setup.refused(&["check"], 7).contains("`e3 keys init`"), "without keys");
    for (command, folder, mode) in [("keys init", "keys", "0700"), ("run", "log", "0700"), ("run", "run", "0750")] {
        let command: Vec<&str> = command.split(' ').collect();
        let said = setup.refused(&command, 1);
        assert!(said.contains(&format!("install -d -m {mode} -o USER {}", there(folder))), "{command:?}: {said}");
        fs::create_dir(setup.path(folder)).unwrap();
        if folder == "keys" {
            setup.done(&command);
        }
    }
    assert!(setup.done(&["check"]).contains("good"));
}

#[test]
fn a_plain_link_needs_development_mode() {
    let setup = Setup::new();
    let text = fs::read_to_string(setup.path("e3.yaml")).unwrap();
    fs::write(setup.path("e3.yaml"), text.replace("development: true", "development: false")).unwrap();
    for command in ["run", "check"] {
        assert!(setup.refused(&[command], 2).contains("not attested"));
    }
}

#[test]
fn a_wrong_configuration_is_refused_with_its_place() {
    let setup = Setup::new();
    let text = fs::read_to_string(setup.path("e3.yaml")).unwrap();
    for (from, to, place, cause) in [
        ("keyring:", "keyrings:", ":3:1", "unknown key"),
        ("keyring: keyring", "keyring: keyring\nkeyring: again", ":4:1", "stands twice"),
        ("card: {}", "Card: {}", ":6:", "a role is"),
        ("shop:", "Shop:", ":6:", "an app is"),
        ("unix://", "http://", ":2:", "an endpoint starts with"),
        ("deterministic: true", "deterministic: maybe", ":6:", "true or false"),
        ("audit: {file: audit.jsonl}", "threads: 0\naudit: {file: audit.jsonl}", ":8:", "out of range"),
        ("audit: {file: audit.jsonl}", "", "e3.yaml:", "audit"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text);
        fs::write(setup.path("e3.yaml"), changed).unwrap();
        let said = setup.refused(&["check"], 2);
        assert!(said.contains(place) && said.contains(cause) && said.contains("hint:"), "{from} → {to}: {said}");
    }
}

#[test]
fn every_fault_of_the_configuration_is_told_once_in_one_run_at_its_place() {
    let setup = Setup::new();
    let good = fs::read_to_string(setup.path("e3.yaml")).unwrap();
    let text = r#"development: false
listen: ["http://x", "unix:///tmp/e3.sock"]
socket_mode: 1000
keyrings: keyring
root: {file: root.key, env: KEY}
create_apps: true
undeclared_roles: allow
apps: {shop: {roles: {Card: {}}, deterministic_rat: 5}}
limits: {frame_bytes: 2048, held_bytes: 1024, frame_ms: 0}
audit: {sinks: [{file: a}, {file: a}, {stdout: false}, {}]}
"#;
    fs::write(setup.path("e3.yaml"), text).unwrap();
    let said = setup.refused(&["check"], 2);
    let told = [
        (":1:1: error: `keyring` is missing", ""),
        (":2:10: error: `http://x`: an endpoint starts with", ""),
        (":3:14: error: `1000`: permission bits are octal", ""),
        (":4:1: error: unknown key `keyrings`", "did you mean `keyring`?"),
        (":5:7: error: the root key has one source", "{env: E3_ROOT_KEY}"),
        (":6:14: error: `create_apps` needs `development: true`", "`e3 keys create-app`"),
        (":7:19: error: `allow` needs `development: true`", "declare the roles"),
        (":8:29: error: `Card`: a role is", ""),
        (":8:34: error: unknown key `deterministic_rat`", "did you mean `deterministic_rate`?"),
        (":9:41: error: `held_bytes` is less than one frame", "at least `limits.frame_bytes`"),
        (":9:57: error: 0 is out of range", ""),
        (":10:28: error: a sink stands twice", "name each once"),
        (":10:39: error: `stdout: false`", "leave the sink out"),
        (":10:56: error: a sink is one place", "one of `file`"),
    ];
    for (fault, hint) in told {
        assert!(said.matches(fault).count() == 1 && said.contains(hint), "{fault}: {said}");
    }
    assert_eq!(said.matches(": error: ").count(), told.len(), "{said}");
    // A mode without quotes is what its digits say, and no other way to write a number.
    for (mode, fits) in
        [("0660", true), ("660", true), ("\"0660\"", true), ("0o660", false), ("432.0", false), ("-600", false)]
    {
        fs::write(setup.path("e3.yaml"), format!("{good}socket_mode: {mode}\n")).unwrap();
        let checked = setup.run(&["check"]);
        assert_eq!(checked.status.success(), fits, "{mode}: {}", String::from_utf8_lossy(&checked.stderr));
    }
}

#[test]
fn the_schema_in_the_repository_is_the_programs() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/");
    let setup = Setup::new();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_e3")).args(["config", "schema"]).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), fs::read_to_string(format!("{root}schema/e3.json")).unwrap());
    let example = fs::read_to_string(format!("{root}e3.yaml")).unwrap();
    assert!(example.starts_with("# yaml-language-server: $schema=schema/e3.json\n"));
    // The example is a good configuration, but for its folders.
    let here = example
        .replace("/run/e3/", &format!("{}/", setup.path("").display().to_string().trim_end_matches('/')))
        .replace("/var/lib/e3/", "");
    fs::write(setup.path("e3.yaml"), here).unwrap();
    assert!(setup.done(&["check"]).contains("good"));
}

#[test]
fn the_hosts_schema_and_the_examples_in_the_repository_are_good() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/");
    let e3 = |args: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_e3")).args(args).output().unwrap();
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    assert_eq!(e3(&["host", "schema"]), fs::read_to_string(format!("{root}schema/e3-host.json")).unwrap());
    let example = format!("{root}e3-host.yaml");
    assert!(fs::read_to_string(&example).unwrap().starts_with("# yaml-language-server: $schema=schema/e3-host.json\n"));
    assert!(e3(&["host", "check", "--config", &example]).contains("bytes to kms.eu-central-1.amazonaws.com:443"));
    assert!(e3(&["inputs", "check", &format!("{root}examples/e3-inputs.json")]).contains("1 relay keys, 1 admin keys"));
}

#[test]
fn bad_inputs_and_bad_host_settings_are_refused_with_place_and_cause() {
    let folder = tempfile::tempdir().unwrap();
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/");
    let file = folder.path().join("file");
    let refused = |args: &[&str], text: &str| {
        fs::write(&file, text).unwrap();
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_e3"));
        let output = command.args(args).arg(&file).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains("hint:"), "{said}");
        said
    };
    let inputs = fs::read_to_string(format!("{root}examples/e3-inputs.json")).unwrap();
    for (from, to, cause) in [
        ("\"environment\"", "\"enviroment\"", "unknown field"),
        ("production", "Production", "an environment is"),
        ("arn:aws:kms:eu-central-1:111122223333:key/", "arn:aws:kms:eu-central-1:111122223333:alias/", "key"),
        ("\"9f86d081", "\"9f86d08", "64 lower-case"),
        ("\"9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08\"", "", "one relay key"),
        ("\"shop\": {", "\"shop\": {}, \"shop\": {", "stands twice"),
        ("\"roles\"", "\"rolls\"", "unknown field"),
    ] {
        let changed = inputs.replacen(from, to, 1);
        assert_ne!(changed, inputs, "{from}");
        let said = refused(&["inputs", "check"], &changed);
        assert!(said.contains(cause), "{from} → {to}: {said}");
    }
    let host = fs::read_to_string(format!("{root}e3-host.yaml")).unwrap();
    for (from, to, cause) in [
        ("vsock://any:9102", "vsock://any:9103", "same endpoint"),
        ("127.0.0.1:9190", "0.0.0.0:9190", "loopback"),
        ("amazonaws.com:443", "amazonaws.com", "host:port"),
        ("kms.eu-central-1", "*", "host:port"),
        ("cid: 16", "cid: 3", "reserved"),
        ("versions: 16", "versions: 16, version: 1", "unknown"),
    ] {
        let changed = host.replacen(from, to, 1);
        assert_ne!(changed, host, "{from}");
        let said = refused(&["host", "check", "--config"], &changed);
        assert!(said.contains(cause), "{from} → {to}: {said}");
    }
}

#[test]
fn memory_is_flat_over_a_million_requests() {
    /// Requests written before their answers are read.
    const WINDOW: u64 = 1000;
    let setup = Setup::new();
    let engine = setup.start();
    let mut relay = engine.relay();
    let token = relay.seal("shop", "card", b"4242424242424242");
    let seal = request("shop", "r", 30_000, |w| {
        w.seal(role("card"), ValueType::String, b"4242424242424242", false).unwrap();
    });
    let open = request("shop", "r", 30_000, |w| w.open(&[role("card")], &token).unwrap());
    let mut rounds = |count: u64| {
        for _ in 0..count / WINDOW {
            let mut frames = Vec::new();
            for id in 0..WINDOW {
                // One open among a hundred: each waits for the disk.
                let body = if id % 100 == 0 { &open } else { &seal };
                let header = FrameHeader { kind: FrameKind::Request, id, body: body.len() }.to_bytes().unwrap();
                frames.extend_from_slice(&header);
                frames.extend_from_slice(body);
            }
            relay.stream.write_all(&frames).unwrap();
            for _ in 0..WINDOW {
                assert!(relay.receive().expect("an answer").answer().is_ok());
            }
        }
    };
    rounds(100_000);
    let before = engine.rss_kib();
    rounds(1_000_000);
    let after = engine.rss_kib();
    assert!(after <= before + 2048, "{before} KiB before a million requests, {after} KiB after them");
}
