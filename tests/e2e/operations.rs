//! Running the relay: reload, admin listener, readiness, draining and handing over, on the real programs.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use e3_tests::backend::{Backend, answer};
use e3_tests::client::{Connection, get, json_request, once};
use e3_tests::process::{Program, Signal};
use e3_tests::stack::{Engine, Relay, endpoint, folder, with_admin};
use e3_tests::{eventually, port};

const HOST: &str = "api.shop.example";
const CARD: &str = r#"{"a": "4242424242424242", "b": "5555444433332222"}"#;

/// Rules that seal `select` of every POST under `/v1`, and what `response` says of their answers.
fn rules(folder: &Path, listen: SocketAddr, backend: &Backend, select: &str, response: &str) -> String {
    format!(
        r#"engine: {{endpoints: ["{}"], app: shop, timeout: 2s, development: true}}
grace: 60s
inbound:
  - listen: {listen}
    hosts: [{HOST}]
    backend: http://{}
    rules:
      - match: {{methods: [POST], path: /v1/**}}
        request: {{seal: [{{select: {select}, role: card-number}}]}}
{response}"#,
        endpoint(folder),
        backend.address()
    )
}

/// An engine, a relay in front of `backend` that seals `$.a`, and its listener.
struct Stack {
    relay: Relay,
    engine: Engine,
    backend: Backend,
    listen: SocketAddr,
    folder: tempfile::TempDir,
}

impl Stack {
    fn start(backend: Backend) -> Self {
        Self::with_response_rule(backend, "")
    }

    fn with_response_rule(backend: Backend, response: &str) -> Self {
        let folder = folder();
        let engine = Engine::start(folder.path());
        let listen = port::free();
        let relay = Relay::start(folder.path(), "relay", &rules(folder.path(), listen, &backend, "$.a", response));
        relay.wait_ready();
        Self { relay, engine, backend, listen, folder }
    }

    fn rules(&self, select: &str) -> String {
        rules(self.folder.path(), self.listen, &self.backend, select, "")
    }

    /// Which of the two fields reaches the backend as a token.
    fn sealed(&self) -> (bool, bool) {
        let answer = once(self.listen, &card());
        assert_eq!(answer.status, 200, "{}", answer.text());
        let got = self.backend.requests().pop().expect("a request reached the backend");
        (!got.text().contains("4242424242424242"), !got.text().contains("5555444433332222"))
    }
}

fn card() -> Vec<u8> {
    json_request("POST", "/v1/orders", HOST, CARD)
}

/// A backend that answers each request only when the test says so, with this JSON text.
fn held_backend(text: &'static str) -> (Backend, mpsc::Receiver<()>, mpsc::Sender<()>) {
    let (arrived, arrivals) = mpsc::channel();
    let (release, released) = mpsc::channel();
    let (arrived, released) = (Mutex::new(arrived), Mutex::new(released));
    let backend = Backend::start(move |_| {
        let _ = arrived.lock().unwrap().send(());
        let _ = released.lock().unwrap().recv();
        Some(answer(200, "application/json", text.as_bytes()))
    });
    (backend, arrivals, release)
}

#[test]
fn a_changed_file_takes_effect() {
    let stack = Stack::start(Backend::echo());
    assert_eq!(stack.sealed(), (true, false));
    stack.relay.write_rules(&stack.rules("$.b"));
    eventually("the new rules", || (stack.sealed() == (false, true)).then_some(()));
    stack.relay.replace_rules(&stack.rules("$.a"));
    eventually("the rules of a file renamed over the old one", || (stack.sealed() == (true, false)).then_some(()));
    assert_eq!(stack.relay.metric("e3_relay_reload_failed"), Some(0.0));
}

#[test]
fn a_swapped_link_takes_effect() {
    // As Kubernetes projects a ConfigMap: relay.yaml -> ..data/relay.yaml, ..data -> a folder for each version.
    use std::os::unix::fs::symlink;
    let (folder, listen, admin, backend) = (folder(), port::free(), port::free(), Backend::echo());
    let _engine = Engine::start(folder.path());
    let mount = folder.path().join("mount");
    for (version, select) in [("..1", "$.a"), ("..2", "$.b")] {
        std::fs::create_dir_all(mount.join(version)).unwrap();
        let text = with_admin(&rules(folder.path(), listen, &backend, select, ""), admin);
        std::fs::write(mount.join(version).join("relay.yaml"), text).unwrap();
    }
    symlink("..1", mount.join("..data")).unwrap();
    symlink("..data/relay.yaml", mount.join("relay.yaml")).unwrap();
    let relay = Relay::start_with(&mount.join("relay.yaml"), admin);
    relay.wait_ready();
    symlink("..2", mount.join("..data_tmp")).unwrap();
    std::fs::rename(mount.join("..data_tmp"), mount.join("..data")).unwrap();
    eventually("the rules behind the new link", || {
        assert_eq!(once(listen, &card()).status, 200);
        let got = backend.requests().pop()?;
        (got.text().contains("4242424242424242") && !got.text().contains("5555444433332222")).then_some(())
    });
}

#[test]
fn a_bad_file_keeps_the_old_rules_and_says_so() {
    let mut stack = Stack::start(Backend::echo());
    stack.relay.write_rules(&stack.rules("$.b").replace("role: card-number", "role: card-number, rolle: x"));
    eventually("a refused reload in the metrics", || {
        (stack.relay.metric("e3_relay_reload_failed") == Some(1.0)).then_some(())
    });
    let status = stack.relay.status();
    assert!(status.contains(r#""result": "refused""#) && status.contains("rolle"), "{status}");
    assert!(stack.relay.process().log().contains("rolle"), "the log names the fault");
    assert_eq!(stack.sealed(), (true, false));
    stack.relay.write_rules(&stack.rules("$.b"));
    eventually("the new rules", || (stack.sealed() == (false, true)).then_some(()));
    assert_eq!(stack.relay.metric("e3_relay_reload_failed"), Some(0.0));
    assert!(stack.relay.status().contains(r#""result": "applied""#));
}

#[test]
fn sighup_reloads() {
    let mut stack = Stack::start(Backend::echo());
    stack.relay.process().signal(Signal::HUP);
    eventually("a reload", || {
        (stack.relay.metric(r#"e3_relay_reloads_total{result="applied"}"#) == Some(1.0)).then_some(())
    });
    assert_eq!(stack.sealed(), (true, false));
}

#[test]
fn a_reload_that_needs_a_restart_applies_nothing() {
    let stack = Stack::start(Backend::echo());
    let moved = port::free();
    stack.relay.write_rules(&rules(stack.folder.path(), moved, &stack.backend, "$.b", ""));
    eventually("a refused reload", || stack.relay.status().contains("restart").then_some(()));
    assert!(stack.relay.status().contains(&moved.to_string()), "the address is named");
    assert_eq!(stack.sealed(), (true, false));
}

#[test]
fn a_message_keeps_the_rules_it_started_with() {
    let (backend, arrived, release) = held_backend(r#"{"receipt": "r-1"}"#);
    let response = "        response: {seal: [{select: $.receipt, role: receipt}]}\n";
    let stack = Stack::with_response_rule(backend, response);
    let mut connection = Connection::open(stack.listen);
    connection.send(&card()).unwrap();
    arrived.recv().unwrap();
    stack.relay.write_rules(&stack.rules("$.a"));
    eventually("a reload", || {
        (stack.relay.metric(r#"e3_relay_reloads_total{result="applied"}"#) == Some(1.0)).then_some(())
    });
    release.send(()).unwrap();
    release.send(()).unwrap();
    let answer = connection.answer().unwrap();
    assert!(answer.text().contains("e3v1.receipt.s."), "{}", answer.text());
    let answer = once(stack.listen, &card());
    assert!(answer.text().contains("r-1"), "the new rules do not seal it: {}", answer.text());
}

#[test]
fn the_admin_listener_answers_only_what_it_knows() {
    let stack = Stack::start(Backend::echo());
    let admin = stack.relay.admin();
    assert_eq!(get(admin, "/healthz").status, 200);
    assert_eq!(get(admin, "/").status, 404);
    let posted = once(admin, b"POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    assert_eq!((posted.status, posted.header("allow")), (405, Some("GET, HEAD")));
    let head = once(admin, b"HEAD /status HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(head.status, 200);
    let status: serde_json::Value = serde_json::from_str(&stack.relay.status()).unwrap();
    assert_eq!(status["readiness"]["ready"], true);
    assert_eq!(status["listeners"][0]["address"], stack.listen.to_string());
    assert_eq!(status["listeners"][0]["sites"][0]["name"], HOST);
    assert_eq!(status["engine"]["app"], "shop");
    assert_eq!(status["config"]["hash"].as_str().unwrap().len(), 64);
}

#[test]
fn requests_and_fields_are_counted() {
    let stack = Stack::start(Backend::echo());
    stack.sealed();
    stack.sealed();
    let unruled = once(stack.listen, format!("GET /other HTTP/1.1\r\nHost: {HOST}\r\n\r\n").as_bytes());
    assert_eq!(unruled.status, 200);
    assert_eq!(once(stack.listen, b"GET / HTTP/1.1\r\nHost: elsewhere.example\r\n\r\n").status, 421);
    let expected = [
        (r#"e3_relay_requests_total{outcome="ok",rule="1",side="inbound",site="api.shop.example",status="200"}"#, 2.0),
        (r#"e3_relay_requests_total{outcome="ok",rule="-",side="inbound",site="api.shop.example",status="200"}"#, 1.0),
        (r#"e3_relay_fields_total{role="card-number",verb="seal"}"#, 2.0),
        ("e3_relay_engine_seconds_count", 2.0),
        ("e3_relay_engine_ready", 1.0),
    ];
    // A request is counted when its answer has been written, which the client may see earlier.
    for (series, value) in expected {
        eventually(series, || (stack.relay.metric(series) == Some(value)).then_some(()));
    }
    eventually("the unknown host's count", || {
        stack.relay.metrics().contains(r#"site="-",status="421"} 1"#).then_some(())
    });
}

#[test]
fn readiness_follows_the_engine() {
    let mut stack = Stack::start(Backend::echo());
    stack.engine.process().kill();
    let admin = stack.relay.admin();
    let red = eventually("a red relay", || Some(get(admin, "/readyz")).filter(|answer| answer.status == 503));
    assert!(red.text().contains("cause"), "{}", red.text());
    assert_eq!(get(admin, "/healthz").status, 200);
    stack.engine = Engine::start(stack.folder.path());
    stack.relay.wait_ready();
    assert_eq!(stack.sealed(), (true, false));
}

#[test]
fn a_failed_message_is_one_line_without_its_values() {
    let mut stack = Stack::start(Backend::echo());
    stack.engine.process().kill();
    let request = json_request("POST", "/v1/orders?card=4242424242424242", HOST, CARD);
    let answer = once(stack.listen, &request);
    assert_eq!(answer.status, 503);
    let id = answer.header("x-request-id").expect("a request id").to_owned();
    let line = eventually("a line for the message", || {
        stack.relay.process().log().lines().find(|line| line.contains(&id)).map(str::to_owned)
    });
    for part in [HOST, "503", "rule=\"1\""] {
        assert!(line.contains(part), "{line}");
    }
    let log = stack.relay.process().log();
    assert_eq!(log.lines().filter(|line| line.contains(&id)).count(), 1);
    for secret in ["4242424242424242", "5555444433332222", "/v1/orders"] {
        assert!(!log.contains(secret), "the log holds {secret}");
        assert!(!stack.relay.metrics().contains(secret), "a metric holds {secret}");
    }
    assert_eq!(stack.backend.bytes(), 0);
}

#[test]
fn a_drain_ends_when_the_last_connection_closes() {
    // The grace of 60 s is longer than the test waits.
    let mut stack = Stack::start(Backend::echo());
    let mut idle = Connection::open(stack.listen);
    idle.send(&card()).unwrap();
    assert_eq!(idle.answer().unwrap().status, 200);
    stack.relay.process().signal(Signal::TERM);
    assert_eq!(stack.relay.process().wait().code(), Some(0));
}

#[test]
fn sigterm_finishes_requests_in_flight() {
    let (backend, arrived, release) = held_backend("{}");
    let mut stack = Stack::start(backend);
    let mut connection = Connection::open(stack.listen);
    connection.send(&card()).unwrap();
    arrived.recv().unwrap();
    stack.relay.process().signal(Signal::TERM);
    eventually("a closed listener", || Connection::try_open(stack.listen).is_err().then_some(()));
    assert!(stack.relay.process().ended().is_none(), "it waits for the request");
    release.send(()).unwrap();
    assert_eq!(connection.answer().unwrap().status, 200);
    assert_eq!(stack.relay.process().wait().code(), Some(0));
}

#[test]
fn a_second_sigterm_cuts_the_drain() {
    let (backend, arrived, _release) = held_backend("{}");
    let mut stack = Stack::start(backend);
    let mut connection = Connection::open(stack.listen);
    connection.send(&card()).unwrap();
    arrived.recv().unwrap();
    stack.relay.process().signal(Signal::TERM);
    eventually("a closed listener", || Connection::try_open(stack.listen).is_err().then_some(()));
    stack.relay.process().signal(Signal::TERM);
    assert_eq!(stack.relay.process().wait().code(), Some(3));
}

#[test]
fn a_taken_port_is_one_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (folder, backend) = (folder(), Backend::echo());
    let address = taken.local_addr().unwrap();
    let file = folder.path().join("relay.yaml");
    std::fs::write(&file, with_admin(&rules(folder.path(), address, &backend, "$.a", ""), port::free())).unwrap();
    let output = Program::Relay.output(["run", "--config", file.to_str().unwrap()]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    let fault: Vec<&str> = text.lines().filter(|line| line.contains("cannot listen")).collect();
    assert!(fault.len() == 1 && fault[0].contains(&address.to_string()) && fault[0].contains("in use"), "{text}");
    assert!(!text.contains("panicked"), "{text}");
}

#[test]
fn an_upgrade_loses_no_request() {
    let (arrived, arrivals) = mpsc::channel();
    let (release, released) = mpsc::channel();
    let (arrived, released) = (Mutex::new(arrived), Mutex::new(released));
    let stack = Stack::start(Backend::start(move |request| {
        if request.line().1 == "/v1/held" {
            let _ = arrived.lock().unwrap().send(());
            let _ = released.lock().unwrap().recv();
        }
        Some(answer(200, "application/json", b"{}"))
    }));
    let Stack { relay, engine: _engine, backend, listen, folder: _folder } = stack;
    // One request stays in flight over the whole hand-over.
    let mut held = Connection::open(listen);
    held.send(&json_request("POST", "/v1/held", HOST, CARD)).unwrap();
    arrivals.recv().unwrap();
    let (stop, served) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..2)
        .map(|_| {
            let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
            std::thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    // Each on a connection of its own, which somebody must take at once.
                    let mut connection = Connection::try_open(listen).expect("a listener");
                    connection.send(&card()).expect("an order is sent");
                    assert_eq!(connection.answer().expect("an answer").status, 200);
                    served.fetch_add(1, Ordering::SeqCst);
                }
            })
        })
        .collect();
    let more = |what: &str| {
        let before = served.load(Ordering::SeqCst);
        eventually(what, || {
            let failed = clients.iter().any(std::thread::JoinHandle::is_finished);
            (failed || served.load(Ordering::SeqCst) >= before + 50).then_some(())
        });
    };
    more("orders before the upgrade");
    let (mut successor, mut old) = relay.hand_over();
    eventually("the old relay's drain", || old.log().contains("draining").then_some(()));
    more("orders after it");
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.join().expect("every order is answered");
    }
    assert!(old.ended().is_none(), "it waits for the request in flight");
    release.send(()).unwrap();
    assert_eq!(held.answer().unwrap().status, 200);
    assert_eq!(old.wait().code(), Some(0));
    successor.wait_ready();
    let own = r#"e3_relay_requests_total{outcome="ok",rule="1",side="inbound",site="api.shop.example",status="200"}"#;
    assert!(successor.metric(own).is_some_and(|orders| orders >= 40.0), "{:?}", successor.metric(own));
    assert_eq!(once(listen, &card()).status, 200);
    let got = backend.requests();
    assert_eq!(got.len(), served.load(Ordering::SeqCst) + 2);
    for request in got {
        assert!(request.text().contains("e3v1.card-number.s.") && !request.text().contains("4242424242424242"));
    }
    assert!(successor.process().ended().is_none());
}

#[test]
fn sigquit_without_a_successor_is_refused() {
    let mut stack = Stack::start(Backend::echo());
    stack.relay.process().signal(Signal::QUIT);
    eventually("the refusal in the log", || stack.relay.process().log().contains("SIGQUIT ignored").then_some(()));
    assert_eq!(stack.sealed(), (true, false));
}
