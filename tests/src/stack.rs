//! An engine and relays put together in a temporary folder.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::disk::Disk;
use crate::process::{Program, Running, Signal};
use crate::{client, eventually, port};

/// A temporary folder that only its owner may enter, removed when this is dropped.
///
/// # Panics
/// If none can be made.
#[must_use]
pub fn folder() -> tempfile::TempDir {
    let folder = tempfile::Builder::new().prefix("e3-").tempdir().expect("a temporary folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).expect("permissions of the folder");
    folder
}

/// What engines of the tests say of roles.
const ROLES: &str = "undeclared_roles: allow\napps: {shop: {roles: {email: {deterministic: true}}}}\n";

/// A running engine with a development keyring.
#[derive(Debug)]
pub struct Engine {
    process: Running,
    folder: PathBuf,
}

impl Engine {
    /// Makes keys in the folder if there are none, starts the engine there and waits until it listens.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start(folder: &Path) -> Self {
        Self::start_with(folder, Path::new("audit.log"), "")
    }

    /// The same, with this audit sink, which is below the folder unless it is absolute, and `more` lines of configuration.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start_with(folder: &Path, audit: &Path, more: &str) -> Self {
        Self::start_configured(folder, audit, &format!("{ROLES}{more}"), None)
    }

    /// The same as [`Engine::start`], on a disk of the tests' own.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start_on(folder: &Path, disk: &Disk) -> Self {
        Self::start_configured(folder, Path::new("audit.log"), ROLES, Some(disk))
    }

    /// Starts an engine that decides by this policy, which is `policy.yaml` in the folder and needs no signature.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start_under(folder: &Path, policy: &str) -> Self {
        fs::write(folder.join("policy.yaml"), policy).expect("policy.yaml is written");
        Self::start_configured(folder, Path::new("audit.log"), "policy: {file: policy.yaml}\n", None)
    }

    fn start_configured(folder: &Path, audit: &Path, more: &str, disk: Option<&Disk>) -> Self {
        let config = folder.join("e3.yaml");
        let path = |name: &str| folder.join(name).display().to_string();
        fs::write(
            &config,
            format!(
                "development: true\ncreate_apps: true\nlisten: [\"unix://{}\"]\nkeyring: {}\nroot: {{file: {}}}\naudit: {{file: {}}}\n{more}",
                path("e3.sock"),
                path("keyring"),
                path("root.key"),
                folder.join(audit).display(),
            ),
        )
        .expect("e3.yaml is written");
        if !folder.join("keyring").exists() {
            let made = Program::E3.output(["keys".as_ref(), "init".as_ref(), "--config".as_ref(), config.as_os_str()]);
            assert!(made.status.success(), "e3 keys init: {}", String::from_utf8_lossy(&made.stderr));
        }
        let arguments = ["run".as_ref(), "--config".as_ref(), config.as_os_str()];
        let environment = disk.iter().flat_map(|disk| disk.environment());
        let mut process = Program::E3.start_in(arguments, &folder.join("e3.log"), environment);
        let socket = folder.join("e3.sock");
        eventually("the engine's socket", || {
            if let Some(status) = process.ended() {
                panic!("the engine ended with {status}:\n{}", process.log());
            }
            std::os::unix::net::UnixStream::connect(&socket).ok()
        });
        Self { process, folder: folder.to_owned() }
    }

    /// Where it listens, as in a rules file.
    #[must_use]
    pub fn endpoint(&self) -> String {
        endpoint(&self.folder)
    }

    /// The engine's process.
    pub fn process(&mut self) -> &mut Running {
        &mut self.process
    }
}

/// Where an engine in this folder listens, as in a rules file.
#[must_use]
pub fn endpoint(folder: &Path) -> String {
    format!("unix://{}", folder.join("e3.sock").display())
}

/// A running relay.
#[derive(Debug)]
pub struct Relay {
    process: Running,
    rules: PathBuf,
    socket: PathBuf,
    admin: SocketAddr,
}

impl Relay {
    /// Starts a relay with these rules in a folder of its own below `folder`, and waits until its admin listener answers. `rules` is the rules file without its `admin`.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start(folder: &Path, name: &str, rules: &str) -> Self {
        Self::start_filtered(folder, name, rules, None)
    }

    /// The same, with a filter of its log, as `E3_LOG` takes it.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start_filtered(folder: &Path, name: &str, rules: &str, filter: Option<&str>) -> Self {
        let own = folder.join(name);
        fs::create_dir(&own).expect("a folder for the relay");
        fs::set_permissions(&own, fs::Permissions::from_mode(0o700)).expect("permissions of the folder");
        let (file, admin) = (own.join("relay.yaml"), port::free());
        fs::write(&file, with_admin(rules, admin)).expect("relay.yaml is written");
        Self::start_at(&file, admin, filter)
    }

    /// Starts a relay with this rules file, whose admin listener is `admin`, and waits until that answers.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start_with(file: &Path, admin: SocketAddr) -> Self {
        Self::start_at(file, admin, None)
    }

    fn start_at(file: &Path, admin: SocketAddr, filter: Option<&str>) -> Self {
        let mut relay = Self::spawn(file, admin, &[], filter);
        relay.wait_alive();
        relay
    }

    fn spawn(file: &Path, admin: SocketAddr, more: &[&str], filter: Option<&str>) -> Self {
        let own = file.parent().expect("the rules are in a folder");
        let socket = own.join("upgrade.sock");
        let mut arguments = vec!["run", "--config", file.to_str().expect("a path in UTF-8")];
        arguments.extend(["--upgrade-socket", socket.to_str().expect("a path in UTF-8")]);
        arguments.extend(more);
        let process = Program::Relay.start_filtered(arguments, &own.join("relay.log"), filter);
        Self { process, rules: file.to_owned(), socket, admin }
    }

    fn wait_alive(&mut self) {
        let (process, admin) = (&mut self.process, self.admin);
        eventually("the relay's admin listener", || {
            if let Some(status) = process.ended() {
                panic!("the relay ended with {status}:\n{}", process.log());
            }
            client::Connection::try_open(admin).ok()
        });
    }

    /// Starts a second relay process that takes over this one's listeners: it waits for them, this one gets SIGQUIT, and both are returned running, the
    /// successor first.
    ///
    /// # Panics
    /// If the successor does not start to wait.
    #[must_use]
    pub fn hand_over(self) -> (Self, Running) {
        let successor = Self::spawn(&self.rules, self.admin, &["--upgrade"], None);
        eventually("the upgrade socket", || self.socket.exists().then_some(()));
        self.process.signal(Signal::QUIT);
        (successor, self.process)
    }

    /// Waits until it reports to be ready.
    ///
    /// # Panics
    /// If it does not become ready in time.
    pub fn wait_ready(&self) {
        eventually("a ready relay", || (client::get(self.admin, "/readyz").status == 200).then_some(()));
    }

    /// Writes other rules to the file, in place.
    ///
    /// # Panics
    /// If they cannot be written.
    pub fn write_rules(&self, rules: &str) {
        fs::write(&self.rules, with_admin(rules, self.admin)).expect("relay.yaml is written");
    }

    /// Writes other rules to a new file and renames it over the old one, as editors do.
    ///
    /// # Panics
    /// If they cannot be written.
    pub fn replace_rules(&self, rules: &str) {
        let new = self.rules.with_extension("new");
        fs::write(&new, with_admin(rules, self.admin)).expect("relay.yaml is written");
        fs::rename(&new, &self.rules).expect("relay.yaml is replaced");
    }

    /// Its admin listener.
    #[must_use]
    pub fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// Its rules file.
    #[must_use]
    pub fn rules(&self) -> &Path {
        &self.rules
    }

    /// The whole text of `/metrics`.
    ///
    /// # Panics
    /// If it does not answer.
    #[must_use]
    pub fn metrics(&self) -> String {
        client::get(self.admin, "/metrics").text().to_owned()
    }

    /// The value of one series of `/metrics`, named with its labels; `None` if there is no such series.
    ///
    /// # Panics
    /// If `/metrics` does not answer.
    #[must_use]
    pub fn metric(&self, series: &str) -> Option<f64> {
        let metrics = self.metrics();
        metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok())
    }

    /// `/status` as text.
    ///
    /// # Panics
    /// If it does not answer.
    #[must_use]
    pub fn status(&self) -> String {
        client::get(self.admin, "/status").text().to_owned()
    }

    /// The relay's process.
    pub fn process(&mut self) -> &mut Running {
        &mut self.process
    }
}

/// A rules file with its admin listener.
#[must_use]
pub fn with_admin(rules: &str, admin: SocketAddr) -> String {
    format!("admin: {{listen: \"{admin}\"}}\n{rules}")
}
