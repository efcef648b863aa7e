//! An engine in a folder of its own, and a relay that speaks to it.

use e3_wire::{
    Answer, App, Context, Credential, Direction, FRAME_HEADER, FrameHeader, FrameKind, Inspection, ItemAnswer,
    MAX_FRAME, Refusal, RequestRefusal, RequestWriter, Role, ValueType,
};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Far longer than anything here takes; only a hang meets it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A configuration in a folder, with keys for the apps `shop` and `bank`.
pub(crate) struct Setup {
    folder: TempDir,
}

pub(crate) const APPS: &str = "apps:\n  shop: {roles: {card: {}, cvc: {}, email: {deterministic: true}, note: {public_seal: true}}}\n  bank: {roles: {card: {}}}\n";

impl Setup {
    pub(crate) fn new() -> Self {
        Self::with("audit: {file: audit.jsonl}")
    }

    /// A setup with these lines in the configuration; one must say where the audit goes.
    pub(crate) fn with(lines: &str) -> Self {
        let setup = Self { folder: tempfile::tempdir().unwrap() };
        setup.configure(lines);
        setup.done(&["keys", "init"]);
        setup.done(&["keys", "create-app", "shop"]);
        setup.done(&["keys", "create-app", "bank"]);
        setup
    }

    pub(crate) fn configure(&self, lines: &str) {
        let socket = self.socket();
        let apps = if lines.contains("apps:") { "" } else { APPS };
        let text = format!(
            "development: true\nlisten: [\"unix://{}\"]\nkeyring: keyring\nroot: {{file: root.key}}\n{apps}{lines}\n",
            socket.display()
        );
        fs::write(self.path("e3.yaml"), text).unwrap();
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.path("e3.sock")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_e3"));
        command.args(args).arg("--config").arg(self.path("e3.yaml"));
        command
    }

    /// Runs a command to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    /// Runs a command that must do what it is asked; answers what it printed.
    pub(crate) fn done(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs a command that must be refused with this exit code; answers why.
    pub(crate) fn refused(&self, args: &[&str], code: i32) -> String {
        let output = self.run(args);
        let cause = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{args:?}: {cause}");
        cause
    }

    /// Starts the engine and waits until it listens.
    pub(crate) fn start(&self) -> Engine {
        self.launch(self.command(&["run"]))
    }

    /// Starts an engine whose files cannot grow beyond this many bytes.
    pub(crate) fn start_with_file_limit(&self, bytes: u64) -> Engine {
        let mut command = Command::new("prlimit");
        command.arg(format!("--fsize={bytes}")).arg(env!("CARGO_BIN_EXE_e3"));
        command.arg("run").arg("--config").arg(self.path("e3.yaml"));
        self.launch(command)
    }

    fn launch(&self, mut command: Command) -> Engine {
        let log = fs::File::options().create(true).append(true).open(self.path("log")).unwrap();
        let child = command.stdin(Stdio::null()).stderr(log).spawn().unwrap();
        let mut engine = Engine { child, socket: self.socket(), log: self.path("log") };
        let socket = self.socket();
        eventually("the engine listens", || {
            assert!(engine.child.try_wait().unwrap().is_none(), "the engine ended: {}", engine.log());
            UnixStream::connect(&socket).is_ok()
        });
        engine
    }
}

/// Waits for something that happens soon.
pub(crate) fn eventually(what: &str, mut happens: impl FnMut() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !happens() {
        assert!(Instant::now() < until, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A running engine; killed when dropped.
pub(crate) struct Engine {
    child: Child,
    socket: PathBuf,
    log: PathBuf,
}

impl Engine {
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for the end.
    pub(crate) fn wait(mut self) -> ExitStatus {
        let mut status = None;
        eventually("the engine ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    /// SIGTERM, and the end.
    pub(crate) fn stop(self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait()
    }

    pub(crate) fn relay(&self) -> Relay {
        Relay::connect(&self.socket)
    }

    pub(crate) fn rss_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if self.child.try_wait().unwrap().is_none() {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }
}

/// One result, owned.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Reply {
    Token(Vec<u8>),
    Value(ValueType, String, Vec<u8>),
    Refused(Refusal),
    Inspection(Inspection),
    Kept,
    PublicKey(u32, [u8; 32]),
}

impl Reply {
    pub(crate) fn token(&self) -> &[u8] {
        if let Self::Token(token) = self { token } else { panic!("no token: {self:?}") }
    }
}

/// A frame, owned.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: FrameKind,
    pub(crate) id: u64,
    pub(crate) body: Vec<u8>,
}

impl Frame {
    pub(crate) fn answer(&self) -> Result<Vec<Reply>, RequestRefusal> {
        assert_eq!(self.kind, FrameKind::Answer);
        match Answer::read(&self.body).unwrap() {
            Answer::Refused(refusal) => Err(refusal),
            Answer::Items(items) => Ok(items
                .into_iter()
                .map(|item| match item {
                    ItemAnswer::Token(t) => Reply::Token(t.to_vec()),
                    ItemAnswer::Value { value_type, role, value } => {
                        Reply::Value(value_type, role.to_string(), value.to_vec())
                    }
                    ItemAnswer::Refused(r) => Reply::Refused(r),
                    ItemAnswer::Inspection(i) => Reply::Inspection(i),
                    ItemAnswer::Kept => Reply::Kept,
                    ItemAnswer::PublicKey { kid, key } => Reply::PublicKey(kid, key),
                })
                .collect()),
        }
    }
}

/// A relay's connection.
pub(crate) struct Relay {
    pub(crate) stream: UnixStream,
    next: u64,
}

pub(crate) fn app(name: &str) -> App {
    App::parse(name).unwrap()
}

pub(crate) fn role(name: &str) -> Role {
    Role::parse(name).unwrap()
}

/// A request's body.
pub(crate) fn request(app_name: &str, id: &str, timeout_ms: u32, fill: impl FnOnce(&mut RequestWriter)) -> Vec<u8> {
    let context = Context {
        request_id: id,
        direction: Direction::OutboundRequest,
        destination: "api.pay.example",
        source: "203.0.113.9",
        method: "POST",
        credential: Credential::default(),
    };
    let mut writer = RequestWriter::new(app(app_name), &context, 0);
    fill(&mut writer);
    writer.finish(timeout_ms)
}

impl Relay {
    pub(crate) fn connect(socket: &Path) -> Self {
        let stream = UnixStream::connect(socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Self { stream, next: 1 }
    }

    pub(crate) fn send(&mut self, kind: FrameKind, id: u64, body: &[u8]) {
        let header = FrameHeader { kind, id, body: body.len() }.to_bytes().unwrap();
        self.stream.write_all(&[&header[..], body].concat()).unwrap();
    }

    /// The next frame; `None` when the engine closed the connection.
    pub(crate) fn receive(&mut self) -> Option<Frame> {
        let mut head = [0; FRAME_HEADER];
        match self.stream.read_exact(&mut head) {
            Ok(()) => {}
            Err(e) if matches!(e.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => return None,
            Err(e) => panic!("{e}"),
        }
        let header = FrameHeader::parse(&head, MAX_FRAME).unwrap();
        let mut body = vec![0; header.body];
        self.stream.read_exact(&mut body).unwrap();
        Some(Frame { kind: header.kind, id: header.id, body })
    }

    /// One request and its answer.
    pub(crate) fn ask(
        &mut self,
        app: &str,
        timeout_ms: u32,
        fill: impl FnOnce(&mut RequestWriter),
    ) -> Result<Vec<Reply>, RequestRefusal> {
        let id = self.next;
        self.next += 1;
        self.send(FrameKind::Request, id, &request(app, &format!("r-{id}"), timeout_ms, fill));
        let frame = self.receive().expect("an answer");
        assert_eq!(frame.id, id);
        frame.answer()
    }

    /// Asks for one item.
    pub(crate) fn one(&mut self, app: &str, fill: impl FnOnce(&mut RequestWriter)) -> Reply {
        let replies = self.ask(app, 30_000, fill).unwrap();
        assert_eq!(replies.len(), 1);
        replies.into_iter().next().unwrap()
    }

    pub(crate) fn seal(&mut self, app: &str, role_name: &str, value: &[u8]) -> Vec<u8> {
        let reply = self.one(app, |w| w.seal(role(role_name), ValueType::String, value, false).unwrap());
        reply.token().to_vec()
    }

    pub(crate) fn open(&mut self, app: &str, role_name: &str, token: &[u8]) -> Reply {
        self.one(app, |w| w.open(&[role(role_name)], token).unwrap())
    }

    pub(crate) fn inspect(&mut self, app: &str, token: &[u8]) -> Inspection {
        match self.one(app, |w| w.inspect(token).unwrap()) {
            Reply::Inspection(i) => i,
            other => panic!("no inspection: {other:?}"),
        }
    }
}

/// What an open answers for a string.
pub(crate) fn string(role: &str, value: &[u8]) -> Reply {
    Reply::Value(ValueType::String, role.to_owned(), value.to_vec())
}
