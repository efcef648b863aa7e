//! What is left of a process: nothing. Neither program can be made to leave a core, and no other process of its user may look into its memory.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use e3_tests::process::{Program, Running, Signal};
use e3_tests::stack::{Engine, Relay, folder};
use e3_tests::{eventually, port};
use rustix::process::{Resource, getrlimit, setrlimit};

/// A user without rights, for tests that run as root.
const NOBODY: u32 = 65_534;

fn rules(endpoint: &str, listen: std::net::SocketAddr) -> String {
    format!(
        "engine: {{endpoints: [\"{endpoint}\"], app: shop, development: true}}\ninbound:\n  - {{listen: {listen}, hosts: [a.example], backend: \"http://127.0.0.1:9\"}}\n"
    )
}

/// As much room for cores as this process may give; the programs inherit it, and must give it up.
fn allow_cores() {
    let mut limit = getrlimit(Resource::Core);
    limit.current = limit.maximum;
    setrlimit(Resource::Core, limit).expect("a limit");
}

fn aborts_without_a_core(process: &mut Running) {
    let limits = fs::read_to_string(format!("/proc/{}/limits", process.id())).expect("limits");
    let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).expect("a limit of cores");
    assert_eq!(core.split_whitespace().take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    process.signal(Signal::ABORT);
    let status = process.wait();
    assert_eq!(status.signal(), Some(Signal::ABORT.as_raw()));
    assert!(!status.core_dumped(), "a core was left");
}

#[test]
fn neither_program_leaves_a_core() {
    allow_cores();
    let folder = folder();
    let mut engine = Engine::start(folder.path());
    let mut relay = Relay::start(folder.path(), "relay", &rules(&engine.endpoint(), port::free()));
    aborts_without_a_core(relay.process());
    aborts_without_a_core(engine.process());
}

/// A program of this workspace as a user who is not root, since root owns its own processes' files in any case.
struct Unprivileged {
    folder: tempfile::TempDir,
    user: u32,
}

impl Unprivileged {
    fn new() -> Self {
        let folder = folder();
        let own = rustix::process::getuid().as_raw();
        let user = if own == 0 { NOBODY } else { own };
        let this = Self { folder, user };
        this.give(this.folder.path());
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn give(&self, path: &Path) {
        if rustix::process::getuid().is_root() {
            chown(path, Some(self.user), Some(self.user)).expect("root may give files away");
        }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("a file");
        self.give(&self.path(name));
    }

    /// The program itself is copied: the folder that it was built in may be closed to others.
    fn command(&self, program: &Path) -> Command {
        let copy = self.path(&program.file_name().expect("a name").to_string_lossy());
        if !copy.exists() {
            fs::copy(program, &copy).expect("a copy");
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o755)).expect("a mode");
        }
        let mut command = Command::new(copy);
        command.current_dir(self.folder.path()).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        if rustix::process::getuid().is_root() {
            command.uid(self.user).gid(self.user);
        }
        command
    }
}

struct Ended(Child);

impl Ended {
    /// Starts the command. A process that another test starts at this moment may hold a copy open for writing until it has begun.
    fn start(command: &mut Command) -> Self {
        Self(eventually("a program that can be started", || match command.spawn() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy => None,
            started => Some(started.expect("the program starts")),
        }))
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Whose a process's memory is: root's, once it may not be dumped.
fn owner(child: &Ended) -> u32 {
    fs::metadata(format!("/proc/{}/mem", child.0.id())).expect("a process").uid()
}

#[test]
fn no_process_of_the_same_user_may_read_the_memory_of_either() {
    let place = Unprivileged::new();
    // What an ordinary process shows, so that the answer for ours means something.
    let sleep = Ended::start(place.command(Path::new("/bin/sleep")).arg("600"));
    eventually("an ordinary process", || (owner(&sleep) == place.user).then_some(()));

    place.write(
        "e3.yaml",
        "development: true\nlisten: [\"unix://e3.sock\"]\nkeyring: keyring\nroot: {file: root.key}\naudit: {file: audit.log}\n"
            .replace("unix://", &format!("unix://{}/", place.folder.path().display()))
            .as_str(),
    );
    let mut made = Ended::start(place.command(&Program::E3.path()).args(["keys", "init", "--config", "e3.yaml"]));
    assert!(made.0.wait().expect("e3").success());
    let engine = Ended::start(place.command(&Program::E3.path()).args(["run", "--config", "e3.yaml"]));
    let socket = place.path("e3.sock");
    eventually("the engine listens", || std::os::unix::net::UnixStream::connect(&socket).ok());
    assert_eq!(owner(&engine), 0, "the engine's memory");

    let listen = port::free();
    let endpoint = format!("unix://{}", socket.display());
    place.write("relay.yaml", &format!("admin: {{listen: none}}\n{}", rules(&endpoint, listen)));
    let mut command = place.command(&Program::Relay.path());
    command.args(["run", "--config", "relay.yaml", "--upgrade-socket", "upgrade.sock"]);
    let relay = Ended::start(&mut command);
    eventually("the relay listens", || std::net::TcpStream::connect(listen).ok());
    assert_eq!(owner(&relay), 0, "the relay's memory");
}
