//! Several engines of one keyring behind one relay: each may go, and no request notices.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use e3_tests::backend::Backend;
use e3_tests::client::{Connection, json_request};
use e3_tests::process::Signal;
use e3_tests::stack::{Engine, Relay, folder};
use e3_tests::{eventually, port};

const HOST: &str = "api.shop.example";
const ENGINES: usize = 3;
const CLIENTS: usize = 4;

/// A folder for each engine, with a copy of one keyring and its root.
fn folders(top: &Path) -> Vec<PathBuf> {
    let folders: Vec<PathBuf> = (0..ENGINES).map(|number| top.join(format!("engine-{number}"))).collect();
    for folder in &folders {
        fs::create_dir(folder).unwrap();
    }
    // The first start makes the keys, a request those of the app: two engines must not each make their own.
    drop(Engine::start(&folders[0]));
    let config = folders[0].join("e3.yaml");
    let made = e3_tests::process::Program::E3.output([
        "keys".as_ref(),
        "create-app".as_ref(),
        "shop".as_ref(),
        "--config".as_ref(),
        config.as_os_str(),
    ]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    for folder in &folders[1..] {
        for name in ["keyring", "root.key"] {
            fs::copy(folders[0].join(name), folder.join(name)).unwrap();
        }
    }
    folders
}

fn relay(top: &Path, engines: &[Engine], backend: &Backend) -> (Relay, SocketAddr) {
    let listen = port::free();
    let endpoints: Vec<String> = engines.iter().map(|engine| format!("\"{}\"", engine.endpoint())).collect();
    let rules = format!(
        "engine: {{endpoints: [{}], app: shop, timeout: 2s, development: true}}\ninbound:\n  - listen: {listen}\n    hosts: [{HOST}]\n    \
         backend: http://{}\n    rules:\n      - match: {{methods: [POST]}}\n        request: {{seal: [{{select: $.a, role: card-number}}]}}\n",
        endpoints.join(", "),
        backend.address(),
    );
    let relay = Relay::start(top, "relay", &rules);
    relay.wait_ready();
    (relay, listen)
}

/// Orders from several clients at once, while `meanwhile` happens; answers how many there were and those that failed.
fn under_load(listen: SocketAddr, meanwhile: impl FnOnce(&AtomicUsize)) -> (usize, Vec<String>) {
    let (done, stop) = (AtomicUsize::new(0), AtomicBool::new(false));
    let failed = thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|_| {
                scope.spawn(|| {
                    let mut failed = Vec::new();
                    let mut connection = Connection::open(listen);
                    while !stop.load(Ordering::Relaxed) {
                        connection.send(&json_request("POST", "/v1", HOST, r#"{"a": "4242424242424242"}"#)).unwrap();
                        let answer = connection.answer().unwrap();
                        if answer.status != 200 {
                            failed.push(format!("{} {}", answer.status, answer.text()));
                        }
                        done.fetch_add(1, Ordering::Relaxed);
                    }
                    failed
                })
            })
            .collect();
        meanwhile(&done);
        stop.store(true, Ordering::Relaxed);
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    (done.load(Ordering::Relaxed), failed)
}

/// Whether the relay holds each engine to be ready, by endpoint.
fn readiness(relay: &Relay) -> Vec<(String, bool)> {
    let status: serde_json::Value = serde_json::from_str(&relay.status()).unwrap();
    let endpoints = status["engine"]["endpoints"].as_array().unwrap();
    let one =
        |endpoint: &serde_json::Value| (endpoint["endpoint"].as_str().unwrap().to_owned(), endpoint["ready"] == true);
    endpoints.iter().map(one).collect()
}

fn wait_all_ready(relay: &Relay) {
    eventually("all engines", || readiness(relay).iter().all(|(_, ready)| *ready).then_some(()));
}

/// Waits for some more orders.
fn orders(done: &AtomicUsize, more: usize) {
    let until = done.load(Ordering::Relaxed) + more;
    eventually("orders", || (done.load(Ordering::Relaxed) >= until).then_some(()));
}

#[test]
fn engines_restarted_one_at_a_time_under_load_fail_no_request() {
    let top = folder();
    let folders = folders(top.path());
    let mut engines: Vec<Engine> = folders.iter().map(|folder| Engine::start(folder)).collect();
    let backend = Backend::json("{}");
    let (relay, listen) = relay(top.path(), &engines, &backend);
    let (done, failed) = under_load(listen, |done| {
        orders(done, 200);
        for (engine, folder) in engines.iter_mut().zip(&folders) {
            engine.process().signal(Signal::TERM);
            assert!(engine.process().wait().success());
            orders(done, 100);
            *engine = Engine::start(folder);
            wait_all_ready(&relay);
            orders(done, 200);
        }
    });
    assert!(failed.is_empty(), "{} of {done} orders failed: {:?}", failed.len(), failed.first());
    // Each engine did its part, also after its restart.
    for engine in &mut engines {
        engine.process().signal(Signal::TERM);
        assert!(engine.process().wait().success());
        let log = engine.process().log();
        let last = log.lines().rev().find(|line| line.contains("served")).expect("what it served");
        assert!(!last.contains("sealed=0 "), "an engine was left out: {last}");
    }
    assert!(
        !backend.requests().iter().any(|request| request.text().contains("4242424242424242")),
        "plaintext reached the backend"
    );
}

#[test]
fn engines_killed_one_at_a_time_under_load_fail_no_request() {
    let top = folder();
    let folders = folders(top.path());
    let mut engines: Vec<Engine> = folders.iter().map(|folder| Engine::start(folder)).collect();
    let backend = Backend::json("{}");
    let (_relay, listen) = relay(top.path(), &engines, &backend);
    let (done, failed) = under_load(listen, |done| {
        orders(done, 200);
        for (engine, folder) in engines.iter_mut().zip(&folders) {
            engine.process().kill();
            orders(done, 100);
            *engine = Engine::start(folder);
            orders(done, 200);
        }
    });
    assert!(failed.is_empty(), "{} of {done} orders failed: {:?}", failed.len(), failed.first());
}

#[test]
fn a_hung_engine_is_left_and_its_requests_are_answered_by_another() {
    let top = folder();
    let folders = folders(top.path());
    let mut engines: Vec<Engine> = folders.iter().map(|folder| Engine::start(folder)).collect();
    let backend = Backend::json("{}");
    let (relay, listen) = relay(top.path(), &engines, &backend);
    let hung = engines[0].endpoint();
    let (done, failed) = under_load(listen, |done| {
        orders(done, 200);
        engines[0].process().signal(Signal::STOP);
        orders(done, 300);
        eventually("the hung engine's mark in /status", || {
            readiness(&relay).contains(&(hung.clone(), false)).then_some(())
        });
        orders(done, 300);
        engines[0].process().signal(Signal::CONT);
        orders(done, 300);
    });
    assert!(failed.is_empty(), "{} of {done} orders failed: {:?}", failed.len(), failed.first());
    wait_all_ready(&relay);
}
