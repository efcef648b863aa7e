//! No record, no answer, seen from outside: while the audit sink is full, closed, gone or blocked, no token is opened for anybody. The client is told 503 within the deadline,
//! and a third party gets not one byte of the request. Sealing needs no record and goes on.

use std::fs::File;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use e3_tests::backend::Backend;
use e3_tests::client::{Answer, json_request, once};
use e3_tests::disk::Disk;
use e3_tests::stack::{Engine, Relay, folder};
use e3_tests::{eventually, port};
use rustix::fs::{CWD, FileType, Mode, OFlags};
use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};

const HOST: &str = "api.shop.example";
const CARD: &str = "4111111111111111";

/// Longer than the engine's second in these rules, and far shorter than any other timeout.
const DEADLINE: Duration = Duration::from_secs(8);

/// A sink that fails at once, and one that says nothing until the deadline, which relay and engine may notice in either order.
const AT_ONCE: &[&str] = &["engine/audit"];
const BY_DEADLINE: &[&str] = &["engine/audit", "engine/deadline", "engine/unavailable"];

struct Stack {
    relay: Relay,
    engine: Engine,
    shop: Backend,
    third_party: Backend,
    inbound: SocketAddr,
    outbound: SocketAddr,
    folder: tempfile::TempDir,
}

impl Stack {
    /// `audit` is below the stack's folder unless it is absolute; `prepare` makes what has to be there.
    fn start(audit: &str, prepare: impl FnOnce(&Path)) -> Self {
        let folder = folder();
        prepare(&folder.path().join(audit));
        let engine = Engine::start_with(folder.path(), Path::new(audit), "");
        Self::around(folder, engine)
    }

    fn around(folder: tempfile::TempDir, engine: Engine) -> Self {
        let (inbound, outbound) = (port::free(), port::free());
        let (shop, third_party) = (Backend::echo(), Backend::echo());
        let rules = format!(
            r#"engine: {{endpoints: ["{engine}"], app: shop, timeout: 1s, development: true}}
inbound:
  - listen: {inbound}
    hosts: [{HOST}]
    backend: http://{shop}
    rules:
      - match: {{methods: [POST], path: /v1/orders}}
        request: {{seal: [{{select: $.number, role: card-number}}]}}
      - match: {{methods: [POST], path: /v1/shown}}
        response: {{open: [{{select: $.number, roles: [card-number]}}]}}
outbound:
  - listen: {outbound}
    destinations:
      - host: api.pay.example
        upstream: http://{third_party}
        rules:
          - match: {{path: /charges/**}}
            request: {{open: [{{select: $.number, roles: [card-number]}}]}}
"#,
            engine = engine.endpoint(),
            shop = shop.address(),
            third_party = third_party.address()
        );
        let relay = Relay::start(folder.path(), "relay", &rules);
        relay.wait_ready();
        Self { relay, engine, shop, third_party, inbound, outbound, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Seals a card number, which needs no audit; what the shop then stores. A pause after failures may be in the way for a moment.
    fn sealed(&self) -> String {
        let order = json_request("POST", "/v1/orders", HOST, &format!(r#"{{"number":"{CARD}"}}"#));
        eventually("an order is sealed", || (once(self.inbound, &order).status == 200).then_some(()));
        let stored = self.shop.requests().pop().expect("an order").text().to_owned();
        assert!(stored.contains("e3v1.card-number.") && !stored.contains(CARD), "{stored}");
        stored
    }

    fn charge(&self, stored: &str) -> Answer {
        once(self.outbound, &json_request("POST", "/charges/1", "api.pay.example", stored))
    }

    fn shown(&self, stored: &str) -> Answer {
        once(self.inbound, &json_request("POST", "/v1/shown", HOST, stored))
    }

    /// Tokens are opened, on the way out and on the way back in.
    fn opens(&self, stored: &str) {
        eventually("tokens are opened again", || (self.charge(stored).status == 200).then_some(()));
        let received = self.third_party.requests().pop().expect("a charge");
        assert!(received.text().contains(CARD), "{}", received.text());
        eventually("tokens are opened towards the client again", || {
            let answer = self.shown(stored);
            (answer.status == 200).then(|| assert!(answer.text().contains(CARD), "{}", answer.text()))
        });
    }

    /// No token is opened, in time, and the third party hears of none.
    fn opens_nothing(&self, stored: &str, codes: &[&str]) {
        let before = (self.third_party.bytes(), self.records());
        for turn in 0..3 {
            for (name, ask) in [("charge", Self::charge as fn(&Self, &str) -> Answer), ("shown", Self::shown)] {
                let asked = Instant::now();
                let answer = ask(self, stored);
                assert!(asked.elapsed() < DEADLINE, "{name} {turn}: answered after {:?}", asked.elapsed());
                assert_eq!(answer.status, 503, "{name} {turn}: {}", answer.text());
                assert_eq!(answer.header("content-type"), Some("application/problem+json"));
                let problem: serde_json::Value = serde_json::from_slice(&answer.body).expect("a problem");
                assert!(codes.contains(&problem["code"].as_str().unwrap_or_default()), "{name} {turn}: {problem}");
                assert!(!answer.text().contains(CARD) && !answer.text().contains("e3v1."), "{name}: {problem}");
            }
        }
        assert_eq!(self.third_party.bytes(), before.0, "bytes reached the third party");
        assert_eq!(self.records(), before.1, "a record of an opening that was not");
        self.sealed();
        assert_eq!(self.third_party.bytes(), before.0, "bytes reached the third party late");
    }

    /// Records of openings in the audit file, if it is one.
    fn records(&self) -> usize {
        let text = std::fs::read_to_string(self.path("audit.log")).unwrap_or_default();
        // Without what the chain and the counters add.
        text.lines().filter(|line| !line.contains("\"event\":") && !line.contains("\"signed\":")).count()
    }

    /// Most bytes of any file that the engine writes; what is beyond fails as on a full disk.
    fn limit_files(&mut self, bytes: Option<u64>) {
        let id = i32::try_from(self.engine.process().id()).ok().and_then(Pid::from_raw);
        let maximum = getrlimit(Resource::Fsize).maximum;
        prlimit(id, Resource::Fsize, Rlimit { current: bytes, maximum }).expect("a limit");
    }
}

fn make_pipe(path: &Path) {
    rustix::fs::mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).expect("a pipe");
}

/// Both ends of a pipe, which never block.
fn pipe_ends(path: &Path) -> File {
    let flags = OFlags::NONBLOCK.bits() as i32;
    File::options().read(true).write(true).custom_flags(flags).open(path).expect("the pipe's ends")
}

fn fill(mut pipe: &File) {
    while pipe.write(&[b'\n'; 4096]).is_ok() {}
    while pipe.write(b"\n").is_ok() {}
}

/// Reads what comes until it is dropped.
struct Reader {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<String>>,
}

impl Reader {
    fn start(mut pipe: File) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let (mut got, mut chunk) = (Vec::new(), [0; 65_536]);
            loop {
                // Asked before reading: what was written before the end is read.
                let last = stopped.load(Ordering::SeqCst);
                match pipe.read(&mut chunk) {
                    Ok(n) if n > 0 => got.extend_from_slice(&chunk[..n]),
                    _ if last => break,
                    _ => std::thread::sleep(Duration::from_millis(2)),
                }
            }
            String::from_utf8(got).expect("records are text")
        });
        Self { stop, thread: Some(thread) }
    }

    /// What came. The pipe is closed.
    fn stop(mut self) -> String {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().expect("stopped once").join().expect("a reader")
    }
}

#[test]
fn a_full_audit_sink_opens_nothing_for_anybody() {
    let mut stack = Stack::start("/dev/full", |_| {});
    let stored = stack.sealed();
    stack.opens_nothing(&stored, AT_ONCE);
    assert_eq!(stack.third_party.bytes(), 0);
    assert!(stack.engine.process().log().contains("takes no records"));
    let refused = r#"e3_relay_requests_total{outcome="engine/audit",rule="1",side="outbound",site="api.pay.example",status="503"}"#;
    assert_eq!(stack.relay.metric(refused), Some(3.0));
}

#[test]
fn an_audit_file_that_fills_up_opens_nothing_until_there_is_room() {
    let mut stack = Stack::start("audit.log", |_| {});
    let stored = stack.sealed();
    stack.opens(&stored);
    let length = std::fs::metadata(stack.path("audit.log")).expect("the audit file").len();
    // Room for half a record: the line is cut short, and must not stay.
    stack.limit_files(Some(length + 100));
    stack.opens_nothing(&stored, AT_ONCE);
    stack.limit_files(None);
    stack.opens(&stored);
    let text = std::fs::read_to_string(stack.path("audit.log")).expect("the audit file");
    for line in text.lines() {
        serde_json::from_str::<serde_json::Value>(line).expect("whole records only");
    }
}

#[test]
fn a_record_that_is_written_and_not_synced_opens_nothing_until_it_is() {
    let folder = folder();
    let disk = Disk::new(folder.path());
    let engine = Engine::start_on(folder.path(), &disk);
    let stack = Stack::around(folder, engine);
    let stored = stack.sealed();
    stack.opens(&stored);
    disk.fail();
    stack.opens_nothing(&stored, AT_ONCE);
    disk.recover();
    stack.opens(&stored);
}

#[test]
fn an_audit_folder_that_is_gone_opens_nothing_until_it_is_back() {
    let stack = Stack::start("trail/audit.log", |path| {
        std::fs::create_dir(path.parent().expect("a folder")).expect("a folder");
    });
    let stored = stack.sealed();
    stack.opens(&stored);
    std::fs::rename(stack.path("trail"), stack.path("gone")).expect("the folder is moved");
    stack.opens_nothing(&stored, AT_ONCE);
    std::fs::create_dir(stack.path("trail")).expect("a folder");
    stack.opens(&stored);
}

#[test]
fn an_audit_file_that_cannot_be_written_opens_nothing_until_it_can() {
    let stack = Stack::start("audit.log", |_| {});
    let stored = stack.sealed();
    stack.opens(&stored);
    // A folder in its place cannot be written whoever asks; permissions would not keep root out.
    std::fs::rename(stack.path("audit.log"), stack.path("audit.1")).expect("the file is moved");
    std::fs::create_dir(stack.path("audit.log")).expect("a folder");
    stack.opens_nothing(&stored, AT_ONCE);
    std::fs::remove_dir(stack.path("audit.log")).expect("the folder is removed");
    stack.opens(&stored);
}

#[test]
fn a_blocked_audit_sink_opens_nothing_until_it_is_read() {
    let mut pipe = None;
    let stack = Stack::start("pipe", |path| {
        make_pipe(path);
        pipe = Some(pipe_ends(path));
    });
    let pipe = pipe.expect("a pipe");
    fill(&pipe);
    let stored = stack.sealed();
    stack.opens_nothing(&stored, BY_DEADLINE);
    assert_eq!(stack.third_party.bytes(), 0);
    let reader = Reader::start(pipe);
    stack.opens(&stored);
    assert!(reader.stop().contains(r#""decision":"allowed""#));
}

#[test]
fn an_audit_pipe_that_nobody_reads_opens_nothing_until_somebody_does() {
    let stack = Stack::start("pipe", make_pipe);
    let stored = stack.sealed();
    stack.opens_nothing(&stored, AT_ONCE);
    assert_eq!(stack.third_party.bytes(), 0);
    let reader = Reader::start(pipe_ends(&stack.path("pipe")));
    stack.opens(&stored);
    assert!(reader.stop().contains(r#""decision":"allowed""#));
}

#[test]
fn an_audit_pipe_that_its_reader_closes_opens_nothing_until_another_comes() {
    let mut reader = None;
    let stack = Stack::start("pipe", |path| {
        make_pipe(path);
        reader = Some(Reader::start(pipe_ends(path)));
    });
    let stored = stack.sealed();
    stack.opens(&stored);
    let got = reader.take().expect("a reader").stop();
    assert!(got.lines().count() >= 2, "a record for each opening: {got}");
    stack.opens_nothing(&stored, AT_ONCE);
    let reader = Reader::start(pipe_ends(&stack.path("pipe")));
    stack.opens(&stored);
    assert!(reader.stop().contains(r#""decision":"allowed""#));
}
