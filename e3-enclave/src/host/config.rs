//! The settings of `e3 host run`: read raw, then resolved.

use crate::config::{Log, Name, RawAlarm, Report, SocketMode, Text, report, socket_mode};
use crate::error::Error;
use e3_link::Endpoint;
use schemars::JsonSchema;
use serde::Deserialize;
use std::fmt;
use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Settings of the program on the parent instance, as written.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "e3 host configuration")]
pub struct Raw {
    /// Ways to KMS, one listening endpoint for each.
    kms: Vec<RawKms>,
    /// The instance role's credentials.
    credentials: RawCredentials,
    /// Wrapped keyring and root.
    store: RawStore,
    /// Audit records.
    audit: RawAudit,
    /// Status and log of the engine.
    health: RawHealth,
    /// What rings when the engine tells that a token of a honey role was to be opened.
    #[serde(default)]
    alarm: RawAlarm,
    /// Starts and watches the enclave; without it, something else does.
    enclave: Option<RawEnclave>,
    /// Permission bits of Unix sockets, as octal text.
    #[serde(default = "socket_mode")]
    socket_mode: Name<SocketMode>,
    /// Bounds.
    #[serde(default)]
    limits: RawLimits,
    /// The log.
    #[serde(default)]
    log: Log,
}

/// One way to KMS.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawKms {
    /// Where the enclave connects: `vsock://any:9101`.
    listen: Name<Endpoint>,
    /// Where its bytes go: `host:port`, resolved at each connection.
    endpoint: Name<Target>,
}

/// The instance role's credentials.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawCredentials {
    /// Where the enclave connects: `vsock://any:9102`.
    listen: Name<Endpoint>,
    /// Address and port of the instance metadata service.
    #[serde(default = "metadata")]
    metadata: SocketAddr,
}

/// Wrapped keyring and root.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawStore {
    /// Where the enclave connects: `vsock://any:9103`.
    listen: Name<Endpoint>,
    /// The folder, which must exist and be of mode 0700. Relative paths start at this file's folder. Back it up: without it no token can be opened.
    folder: PathBuf,
    /// Older versions that are kept of each blob.
    #[serde(default = "versions")]
    #[schemars(range(max = 1000))]
    versions: usize,
}

/// Audit records.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawAudit {
    /// Where the enclave connects: `vsock://any:9104`.
    listen: Name<Endpoint>,
    /// Records are appended here as JSON lines and synced before they are acknowledged. Rotate it by renaming.
    file: PathBuf,
}

/// Status and log of the engine.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawHealth {
    /// Where the enclave connects: `vsock://any:9105`.
    listen: Name<Endpoint>,
    /// A loopback address that answers `/healthz`, `/readyz` and `/status`.
    http: Option<SocketAddr>,
    /// The status is written here, as JSON, whenever it changes.
    file: Option<PathBuf>,
}

/// Starts and watches the enclave.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawEnclave {
    /// The program, and arguments before its subcommand; it takes `run-enclave` and `describe-enclaves` as `nitro-cli` does.
    #[serde(default = "command")]
    command: Vec<String>,
    /// The image.
    image: PathBuf,
    /// Its name.
    #[serde(default = "name")]
    name: String,
    /// Its processors.
    cpus: NonZeroU32,
    /// Its memory, in MiB.
    memory_mib: NonZeroU32,
    /// Its context id: what stands in the relay's `vsock://cid:port`. At least 4.
    #[schemars(range(min = 4))]
    cid: u32,
    /// Time between two looks, in milliseconds; also the first wait before it is started again, which doubles up to a minute.
    #[serde(default = "look_ms")]
    look_ms: u64,
}

/// Bounds.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct RawLimits {
    /// Connections at once, at each endpoint.
    connections: NonZeroUsize,
    /// A message that has begun must end, and an answer be taken, within this time, in milliseconds.
    message_ms: u64,
    /// A connection to KMS on which nothing moves is closed after this time, in milliseconds.
    idle_ms: u64,
    /// No connection to KMS lasts longer, and no other is quiet for longer, in milliseconds.
    total_ms: u64,
}

impl Default for RawLimits {
    fn default() -> Self {
        Self {
            connections: NonZeroUsize::MIN.saturating_add(15),
            message_ms: 30_000,
            idle_ms: 30_000,
            total_ms: 300_000,
        }
    }
}

fn metadata() -> SocketAddr {
    SocketAddr::from(([169, 254, 169, 254], 80))
}

fn versions() -> usize {
    16
}

fn command() -> Vec<String> {
    vec!["nitro-cli".to_owned()]
}

fn name() -> String {
    "e3".to_owned()
}

fn look_ms() -> u64 {
    5_000
}

/// A host name or address, and a port. There are no patterns: what is not written out is not reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// A name, or an address without brackets.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl Text for Target {
    const SCHEMA: (&'static str, &'static str) = ("Target", "^[A-Za-z0-9.-]+:[0-9]+$");
    fn read(text: &str) -> Result<Self, String> {
        let wrong =
            || "an endpoint is host:port, for example `kms.eu-central-1.amazonaws.com:443`; no patterns".to_owned();
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        let port = port.parse().ok().filter(|p| *p != 0).ok_or_else(wrong)?;
        let label =
            |l: &str| !l.is_empty() && l.len() <= 63 && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if host.len() > 253 || !host.split('.').all(label) {
            return Err(wrong());
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

/// Bounds.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Connections at once, at each endpoint.
    pub connections: usize,
    /// Time for a message that has begun, and for an answer to be taken.
    pub message: Duration,
    /// Time for which nothing may move between enclave and KMS.
    pub idle: Duration,
    /// Longest time of a connection to KMS, and longest quiet of another.
    pub total: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        RawLimits::default().into()
    }
}

impl From<RawLimits> for Limits {
    fn from(raw: RawLimits) -> Self {
        Self {
            connections: raw.connections.get(),
            message: Duration::from_millis(raw.message_ms),
            idle: Duration::from_millis(raw.idle_ms),
            total: Duration::from_millis(raw.total_ms),
        }
    }
}

/// A way to KMS.
#[derive(Debug, Clone)]
pub struct Way {
    /// Where the enclave connects.
    pub listen: Endpoint,
    /// Where its bytes go.
    pub endpoint: Target,
}

/// The instance role's credentials.
#[derive(Debug, Clone)]
pub struct Metadata {
    /// Where the enclave connects.
    pub listen: Endpoint,
    /// The instance metadata service.
    pub metadata: SocketAddr,
}

/// The store.
#[derive(Debug, Clone)]
pub struct Store {
    /// Where the enclave connects.
    pub listen: Endpoint,
    /// Where the blobs lie.
    pub folder: PathBuf,
    /// Older versions that are kept of each.
    pub versions: usize,
}

/// The audit.
#[derive(Debug, Clone)]
pub struct Audit {
    /// Where the enclave connects.
    pub listen: Endpoint,
    /// Where records are appended.
    pub file: PathBuf,
}

/// Status and log.
#[derive(Debug, Clone)]
pub struct Health {
    /// Where the enclave connects.
    pub listen: Endpoint,
    /// A loopback address.
    pub http: Option<SocketAddr>,
    /// The status file.
    pub file: Option<PathBuf>,
}

/// The enclave to start.
#[derive(Debug, Clone)]
pub struct Enclave {
    /// The program, and arguments before its subcommand.
    pub command: Vec<String>,
    /// The image.
    pub image: PathBuf,
    /// Its name.
    pub name: String,
    /// Its processors.
    pub cpus: u32,
    /// Its memory.
    pub memory_mib: u32,
    /// Its context id.
    pub cid: u32,
    /// Time between two looks.
    pub look: Duration,
}

/// Settings that were checked.
#[derive(Debug)]
pub struct Config {
    /// Ways to KMS.
    pub kms: Vec<Way>,
    /// Credentials.
    pub credentials: Metadata,
    /// The store.
    pub store: Store,
    /// The audit.
    pub audit: Audit,
    /// Status and log.
    pub health: Health,
    /// The alarm's program and its arguments; empty: none.
    pub alarm: Vec<String>,
    /// The enclave to start.
    pub enclave: Option<Enclave>,
    /// Permission bits of Unix sockets.
    pub socket_mode: u32,
    /// Bounds.
    pub limits: Limits,
    /// The log.
    pub log: Log,
}

impl Config {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// It cannot be read, or something in it is refused; the report says where and why.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        let raw: Raw = serde_saphyr::from_str(&text).map_err(|e| Error::Config(report(path, &e, "e3 host schema")))?;
        raw.resolve(path)
    }

    /// What was read, for people: `e3 host check`.
    #[must_use]
    pub fn summary(&self, path: &Path) -> String {
        let mut text = format!("{}: good\n", path.display());
        for way in &self.kms {
            text.push_str(&format!("{}: bytes to {}\n", way.listen, way.endpoint));
        }
        text.push_str(&format!("{}: credentials from {}\n", self.credentials.listen, self.credentials.metadata));
        text.push_str(&format!("{}: blobs in {}\n", self.store.listen, self.store.folder.display()));
        text.push_str(&format!("{}: audit records to {}\n", self.audit.listen, self.audit.file.display()));
        text.push_str(&format!("{}: status and log\n", self.health.listen));
        text
    }
}

impl Raw {
    fn resolve(self, path: &Path) -> Result<Config, Error> {
        let refuse = |key: &str, why: &str, hint: &str| {
            Err(Error::Config(Report::new(format!("{}: `{key}`: {why}\nhint: {hint}", path.display()))))
        };
        let limits = self.limits;
        if self.kms.is_empty() {
            return refuse(
                "kms",
                "no way to KMS",
                "`{listen: \"vsock://any:9101\", endpoint: \"kms.REGION.amazonaws.com:443\"}`",
            );
        }
        let others =
            [&self.credentials.listen, &self.store.listen, &self.audit.listen, &self.health.listen].map(|e| &e.0);
        let all: Vec<&Endpoint> = self.kms.iter().map(|k| &k.listen.0).chain(others).collect();
        if all.iter().enumerate().any(|(at, one)| all[..at].contains(one)) {
            return refuse("listen", "two services listen at the same endpoint", "each has a port of its own");
        }
        if self.health.http.is_some_and(|a| !a.ip().is_loopback()) {
            return refuse("health.http", "not a loopback address", "for example `127.0.0.1:9190`");
        }
        if limits.message_ms == 0 || limits.idle_ms == 0 || limits.total_ms == 0 {
            return refuse("limits", "a time of 0 ms", "leave it out for the default");
        }
        if self.store.versions > 1000 {
            return refuse("store.versions", "too many", "at most 1000");
        }
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let enclave = match self.enclave {
            Some(e) if e.command.is_empty() => return refuse("enclave.command", "empty", "for example `[nitro-cli]`"),
            Some(e) if e.cid < 4 || e.cid == u32::MAX => {
                return refuse("enclave.cid", "reserved", "a number from 4 on, for example 16");
            }
            Some(e) if e.look_ms == 0 => {
                return refuse("enclave.look_ms", "a time of 0 ms", "leave it out for the default");
            }
            Some(e) => Some(Enclave {
                command: e.command,
                image: folder.join(e.image),
                name: e.name,
                cpus: e.cpus.get(),
                memory_mib: e.memory_mib.get(),
                cid: e.cid,
                look: Duration::from_millis(e.look_ms),
            }),
            None => None,
        };
        Ok(Config {
            kms: self.kms.into_iter().map(|k| Way { listen: k.listen.0, endpoint: k.endpoint.0 }).collect(),
            credentials: Metadata { listen: self.credentials.listen.0, metadata: self.credentials.metadata },
            store: Store {
                listen: self.store.listen.0,
                folder: folder.join(self.store.folder),
                versions: self.store.versions,
            },
            audit: Audit { listen: self.audit.listen.0, file: folder.join(self.audit.file) },
            health: Health {
                listen: self.health.listen.0,
                http: self.health.http,
                file: self.health.file.map(|f| folder.join(f)),
            },
            alarm: self.alarm.command,
            enclave,
            socket_mode: self.socket_mode.0.0,
            limits: limits.into(),
            log: self.log,
        })
    }
}

/// The JSON schema of the file, as pretty text.
///
/// # Errors
/// Never for the schema of this type; the signature is the serialiser's.
pub fn schema() -> Result<String, serde_json::Error> {
    serde_json::to_string_pretty(&schemars::schema_for!(Raw)).map(|s| s + "\n")
}
