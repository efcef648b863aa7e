//! API keys through the whole system: `e3 policy api-key` makes them, a policy says what they may, programs show them to a relay or to its command line, and the engine decides.

#[path = "../src/proxied.rs"]
#[allow(dead_code, reason = "its CONNECT is for the tests of the outbound relay")]
mod proxied;

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use e3_tests::client::Connection;
use e3_tests::process::Program;
use e3_tests::stack::{Engine, Relay, folder};
use e3_tests::{eventually, port};
use proxied::curl;

/// A key and its hash, as the command makes them.
struct Key {
    text: String,
    hash: String,
}

impl Key {
    fn new() -> Self {
        let made = Program::E3.output(["policy", "api-key"]);
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let printed = String::from_utf8(made.stdout).expect("text");
        let mut lines = printed.lines().map(str::to_owned);
        Self { text: lines.next().expect("a key"), hash: lines.next().expect("its hash") }
    }
}

/// Writes a policy as whoever deploys one does: beside it, and then in its place.
fn deploy(folder: &Path, policy: &str) {
    fs::write(folder.join("policy.new"), policy).expect("the policy is written");
    fs::rename(folder.join("policy.new"), folder.join("policy.yaml")).expect("the policy is replaced");
}

fn relay(folder: &Path, engine: &Engine, address: SocketAddr) -> Relay {
    let rules = format!(
        "engine: {{endpoints: [\"{}\"], app: shop, development: true, timeout: 5s}}\napi: {{listen: \"{address}\", forwarded: {{trust: [127.0.0.1]}}}}\n",
        engine.endpoint()
    );
    let relay = Relay::start(folder, "relay", &rules);
    relay.wait_ready();
    relay
}

/// A call with this key for this client: its status and body.
fn call(address: SocketAddr, key: &Key, from: &str, target: &str, body: &str) -> (u16, String) {
    let (key, from) = (format!("Authorization: Bearer {}", key.text), format!("X-Forwarded-For: {from}"));
    let answer = curl(&["-H", &key, "-H", &from], &format!("http://{address}{target}"), Some(body));
    (answer.status, answer.text().to_owned())
}

fn code(body: &str) -> String {
    let problem: serde_json::Value = serde_json::from_str(body).expect("a problem");
    problem["code"].as_str().expect("a code").to_owned()
}

const HOME: &str = "10.1.2.3";
const ELSEWHERE: &str = "203.0.113.9";
/// What the proxy writes whose client sent something unreadable itself, or whose client it does not know. The proxy's own address may do what the client's may not.
const BEHIND_NOISE: &str = "\u{e9}, 203.0.113.9";
const UNKNOWN: &str = "203.0.113.9, unknown";

#[test]
fn a_key_does_what_its_grants_say_and_the_relay_it_comes_through_adds_nothing() {
    let (folder, address) = (folder(), port::free());
    let (writer, phones, lapsed, stranger) = (Key::new(), Key::new(), Key::new(), Key::new());
    let policy = format!(
        "version: 1\napp: shop\nroles: {{card: {{}}, phone: {{deterministic: true}}}}\nprincipals:\n  relay: {{relay: {{plain: true}}}}\n  writer: {{api_key: '{}'}}\n  \
         phone-service: {{api_key: '{}'}}\n  lapsed: {{api_key: '{}', until: 2020-01-01}}\ngrants:\n  - {{who: relay, may: [seal, open], roles: [card]}}\n  \
         - {{who: writer, may: [seal, seal-deterministic], roles: '*'}}\n  - {{who: phone-service, may: [open, inspect], roles: [phone], from: [10.0.0.0/8, 127.0.0.0/8]}}\n  \
         - {{who: phone-service, may: [rewrap], roles: [phone], until: 2020-01-01}}\n  - {{who: lapsed, may: [open], roles: '*'}}\n",
        writer.hash, phones.hash, lapsed.hash
    );
    let engine = Engine::start_under(folder.path(), &policy);
    let _relay = relay(folder.path(), &engine, address);
    let target = "/v1/seal?select=%24.card:card&select=%24.phone:phone:deterministic";
    let (status, sealed) = call(address, &writer, ELSEWHERE, target, r#"{"card":"4111111111111111","phone":"555"}"#);
    assert_eq!(status, 200, "{sealed}");
    let tokens: serde_json::Value = serde_json::from_str(&sealed).expect("JSON");
    let (card, phone) = (tokens["card"].to_string(), tokens["phone"].to_string());
    assert_eq!(call(address, &phones, HOME, "/v1/open", &phone), (200, "\"555\"".into()));
    let (status, known) = call(address, &phones, HOME, "/v1/inspect", &phone);
    assert!(status == 200 && known.contains(r#""role":"phone""#), "{known}");
    for (key, from, target, body, refused, why) in [
        // The relay itself may open cards; whoever comes through it with a key may not.
        (&phones, HOME, "/v1/open", &card, 403, "engine/not-permitted"),
        (&phones, HOME, "/v1/open?roles=card", &card, 403, "engine/not-permitted"),
        (&phones, HOME, "/v1/open", &sealed, 403, "engine/not-permitted"),
        (&phones, HOME, "/v1/inspect", &card, 403, "engine/not-permitted"),
        (&phones, HOME, "/v1/seal?role=card", &phone, 403, "engine/not-permitted"),
        (&phones, ELSEWHERE, "/v1/open", &phone, 403, "engine/not-permitted"),
        (&phones, BEHIND_NOISE, "/v1/open", &phone, 403, "engine/not-permitted"),
        (&phones, UNKNOWN, "/v1/open", &phone, 403, "engine/not-permitted"),
        (&phones, HOME, "/v1/rewrap", &phone, 403, "engine/not-permitted"),
        (&writer, HOME, "/v1/open", &phone, 403, "engine/not-permitted"),
        (&lapsed, HOME, "/v1/open", &phone, 401, "engine/unknown-key"),
        (&stranger, HOME, "/v1/open", &phone, 401, "engine/unknown-key"),
        (&stranger, HOME, "/v1/seal?role=card", &phone, 401, "engine/unknown-key"),
    ] {
        let (status, told) = call(address, key, from, target, body);
        assert_eq!((status, code(&told).as_str()), (refused, why), "{target} {body} from {from}: {told}");
        assert!(!told.contains("555") && !told.contains("4111111111111111"));
    }
    // Of several tokens the one that the key may open is opened, where the caller wants that.
    let (status, left) = call(address, &phones, HOME, "/v1/open?on_refused=leave", &sealed);
    assert_eq!((status, left), (200, format!(r#"{{"card":{card},"phone":"555"}}"#)));
    // The command line is the relay to the engine, unless it shows a key.
    let run = |key: Option<&Key>, input: &str| {
        let config = folder.path().join("relay/relay.yaml");
        let mut command = Command::new(Program::Relay.path());
        command.args(["open", "-q", "--format", "lines", "--config"]).arg(config).env_remove("E3_API_KEY");
        command
            .envs(key.map(|key| ("E3_API_KEY", &key.text)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("the relay runs");
        std::io::Write::write_all(&mut child.stdin.take().expect("its input"), input.trim_matches('"').as_bytes())
            .expect("written");
        let done = child.wait_with_output().expect("it ends");
        (
            done.status.code(),
            String::from_utf8_lossy(&done.stdout).into_owned(),
            String::from_utf8_lossy(&done.stderr).into_owned(),
        )
    };
    assert_eq!(run(None, &card), (Some(0), "4111111111111111".into(), String::new()));
    let (status, _, told) = run(None, &phone);
    assert!(status == Some(1) && told.contains("(engine/not-permitted)"), "{told}");
    let (status, _, told) = run(Some(&writer), &card);
    assert!(status == Some(1) && told.contains("(engine/not-permitted)"), "{told}");
    let (status, _, told) = run(Some(&stranger), &card);
    assert!(status == Some(1) && told.contains("(engine/unknown-key)"), "{told}");
    // The audit has names, no keys, no values.
    let audit = eventually("the records", || {
        let text = fs::read_to_string(folder.path().join("audit.log")).ok()?;
        text.contains("phone-service").then_some(text)
    });
    assert!(audit.contains("\"principal\":\"phone-service\"") && audit.contains("\"proof\":\"api-key\""), "{audit}");
    for kept in [&writer.text, &phones.text, &lapsed.text, &stranger.text, "4111111111111111", "\"555\""] {
        assert!(!audit.contains(kept), "{kept} is in the audit");
    }
}

#[test]
fn a_revoked_key_opens_nothing_more_on_connections_that_are_open() {
    let (folder, address) = (folder(), port::free());
    let (one, two) = (Key::new(), Key::new());
    let policy = |version: u32, keys: &[&Key]| {
        let keys: Vec<String> = keys.iter().map(|key| format!("'{}'", key.hash)).collect();
        format!(
            "version: {version}\napp: shop\nroles: {{card: {{}}}}\nprincipals: {{service: {{api_key: [{}]}}}}\ngrants: [{{who: service, may: [seal, open], roles: '*'}}]\n",
            keys.join(", ")
        )
    };
    let engine = Engine::start_under(folder.path(), &policy(1, &[&one, &two]));
    let relay = relay(folder.path(), &engine, address);
    let (status, token) = call(address, &one, HOME, "/v1/seal?role=card", "\"4111111111111111\"");
    assert_eq!(status, 200, "{token}");
    let ask = |connection: &mut Connection, key: &Key| {
        let head = format!(
            "POST /v1/open HTTP/1.1\r\nHost: api\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            key.text,
            token.len()
        );
        connection.send(&[head.as_bytes(), token.as_bytes()].concat()).expect("sent");
        connection.answer().expect("an answer").status
    };
    let (mut first, mut second) = (Connection::open(address), Connection::open(address));
    assert_eq!((ask(&mut first, &one), ask(&mut second, &two)), (200, 200));
    deploy(folder.path(), &policy(2, &[&two]));
    let revoked = Instant::now();
    let status = eventually("the end of a revoked key", || Some(ask(&mut first, &one)).filter(|status| *status != 200));
    let took = revoked.elapsed();
    assert_eq!(status, 401);
    // It is promised within a second; a machine with much else to do may take longer to say so.
    assert!(took < Duration::from_secs(3), "{took:?}");
    println!("revoked within {took:?}");
    assert_eq!(ask(&mut second, &two), 200, "the other key goes on");
    assert_eq!(ask(&mut first, &two), 200, "on the same connection too");
    let log = fs::read_to_string(folder.path().join("relay/relay.log")).expect("the relay's log");
    assert!(log.contains("engine/unknown-key") && !log.contains(&one.text), "{log}");
    drop(relay);
}
