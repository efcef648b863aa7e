//! The configuration file: read raw, then resolved into types that cannot be wrong.
//!
//! Names are checked while the file is read, so that every complaint has its place. The build without the feature `development` knows neither
//! root keys from files nor from the environment.

use crate::audit::Audit;
use crate::audit::sink::Sink;
use crate::audit::sink::file::FileSink;
use crate::audit::sink::socket::SocketSink;
use crate::audit::sink::stdout::StdoutSink;
use crate::audit::sink::syslog::SyslogSink;
use crate::error::Error;
use crate::policy::signed::Signers;
use crate::policy::{AppRules, DETERMINISTIC_RATE, Policy, RoleRules};
use e3_link::Endpoint;
use e3_wire::{App, MAX_FRAME, Role};
use schemars::JsonSchema;
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What is wrong with a configuration file, for people: file, line, column, cause, hint.
#[derive(Debug)]
pub struct Report(String);

impl Report {
    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The configuration of the engine, as written.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(title = "e3 configuration")]
pub struct Raw {
    /// Development mode: the engine link proves nothing, and pipes may be audit sinks. Only development builds accept it.
    #[serde(default)]
    development: bool,
    /// Where to listen: `unix:///path`, `vsock://cid:port` (cid may be `any`), `hybrid:///path:port`, `tcp://127.0.0.1:port` (tests).
    listen: Vec<Name<Endpoint>>,
    /// Permission bits of Unix sockets, as octal text.
    #[serde(default = "socket_mode")]
    socket_mode: Name<SocketMode>,
    /// The keyring file: app keys, wrapped under the root key. Relative paths start at this file's folder.
    keyring: PathBuf,
    /// Where the root key comes from. Development builds only.
    #[cfg(feature = "development")]
    root: RawRoot,
    /// A security module in a file, and the relays that may come in: builds for tests alone.
    #[cfg(feature = "test-module")]
    #[schemars(skip)]
    attested: Option<RawAttested>,
    /// Whether an app gets its keys at its first use. Needs `development: true`.
    #[serde(default)]
    create_apps: bool,
    /// What happens with roles and apps that are not declared below; `allow` needs `development: true`.
    #[serde(default)]
    undeclared_roles: Undeclared,
    /// The apps and their roles, which every relay that comes in may use; a `policy` says more, and takes their place.
    #[serde(default)]
    apps: BTreeMap<Name<App>, RawApp>,
    /// Who may do what with which roles: a file of its own.
    policy: Option<RawPolicy>,
    /// Where it is recorded what was opened.
    audit: RawAudit,
    /// What rings when a token of a honey role is to be opened.
    #[serde(default)]
    alarm: RawAlarm,
    /// Bounds of what the engine takes on at once.
    #[serde(default)]
    limits: RawLimits,
    /// Worker threads; the number of cores when absent.
    threads: Option<NonZeroUsize>,
    /// The log.
    #[serde(default)]
    log: Log,
}

/// The attested link of the tests.
#[cfg(feature = "test-module")]
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawAttested {
    /// The module's file.
    module: PathBuf,
    /// SHA-256 of the relays' keys, as hexadecimal text.
    relays: Vec<Name<KeyHash>>,
    /// Public keys of administrators, as hexadecimal text.
    #[serde(default)]
    admins: Vec<Name<KeyHash>>,
}

/// SHA-256 of a key's SubjectPublicKeyInfo.
#[cfg(feature = "test-module")]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct KeyHash([u8; 32]);

#[cfg(feature = "test-module")]
impl Text for KeyHash {
    const SCHEMA: (&'static str, &'static str) = ("KeyHash", "^[0-9a-f]{64}$");
    fn read(text: &str) -> Result<Self, String> {
        let mut hash = [0; 32];
        let wrong = || "the hash of a key is 64 hexadecimal digits, as `relay key show` prints it".to_owned();
        if text.len() != 64 || !text.is_ascii() {
            return Err(wrong());
        }
        for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
        }
        Ok(Self(hash))
    }
}

/// The attested link of the tests.
#[cfg(feature = "test-module")]
#[derive(Debug, Clone)]
pub struct Attested {
    /// The module's file.
    pub module: PathBuf,
    /// Hashes of the relays' keys.
    pub relays: Vec<[u8; 32]>,
    /// Public keys of administrators.
    pub admins: Vec<[u8; 32]>,
}

/// Where the root key comes from.
#[cfg(feature = "development")]
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum RawRoot {
    /// A file of mode 0600 with 32 bytes as hexadecimal or base64 text.
    File(PathBuf),
    /// An environment variable with the same.
    Env(String),
}

/// What happens with roles that are not declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Undeclared {
    /// They are refused.
    #[default]
    Refuse,
    /// They are sealed with random salts, and opened.
    Allow,
}

/// One app.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawApp {
    /// The roles of its tokens.
    #[serde(default)]
    roles: BTreeMap<Name<Role>, RawRole>,
    /// Deterministic seals a second that one engine serves: each answers a guess.
    #[serde(default = "deterministic_rate")]
    deterministic_rate: u32,
}

impl RawApp {
    pub(crate) fn rules(self) -> AppRules {
        let rules = |raw: RawRole| RoleRules {
            deterministic: raw.deterministic,
            public_seal: raw.public_seal,
            ..RoleRules::default()
        };
        let roles = self.roles.into_iter().map(|(role, raw)| (role.0, rules(raw))).collect();
        AppRules::new(roles, self.deterministic_rate)
    }
}

/// One role.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawRole {
    /// Equal values give equal tokens, so that they can be searched and joined; whoever may seal can test guesses.
    #[serde(default)]
    deterministic: bool,
    /// The app's public key is given out, and whoever has it may seal values of this role. Such tokens prove neither who made them nor when.
    #[serde(default)]
    public_seal: bool,
}

/// Where the policy is, and whose signatures it needs.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawPolicy {
    /// The policy. It is read again when it changes.
    file: PathBuf,
    /// Ed25519 public keys of those who may sign it, as hexadecimal text. Without any, it needs no signature: development alone.
    #[serde(default)]
    signers: Vec<Name<PublicKey>>,
    /// How many of them must have signed; 1 when absent.
    threshold: Option<NonZeroUsize>,
}

/// An Ed25519 public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PublicKey(pub(crate) [u8; 32]);

impl Text for PublicKey {
    const SCHEMA: (&'static str, &'static str) = ("PublicKey", "^[0-9a-f]{64}$");
    fn read(text: &str) -> Result<Self, String> {
        crate::policy::bytes32(text).map(Self).ok_or_else(|| {
            "a public key is 64 lower-case hexadecimal digits, as `e3 admin-key show` prints it".to_owned()
        })
    }
}

/// Where it is recorded what was opened.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawAudit {
    /// Records are appended here as JSON lines, and synced before the answer leaves.
    file: Option<PathBuf>,
    /// Further sinks, or others: each must have a record before its answer leaves.
    #[serde(default)]
    sinks: Vec<RawSink>,
    /// How often it is recorded what was sealed, in milliseconds.
    #[serde(default = "seals_ms")]
    seals_ms: u64,
}

const fn seals_ms() -> u64 {
    1_000
}

/// Where records go.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, rename_all = "snake_case")]
enum RawSink {
    /// A file: written and synced.
    File(PathBuf),
    /// Whoever listens at this Unix socket and acknowledges each batch (SPEC.md, "Audit socket").
    Socket(PathBuf),
    /// A syslog daemon's Unix datagram socket, such as `/dev/log` (RFC 5424): the kernel has the records, no more.
    Syslog(PathBuf),
    /// Standard output: the kernel has the records, no more.
    Stdout(Yes),
}

/// `true`.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(try_from = "bool")]
struct Yes;

impl TryFrom<bool> for Yes {
    type Error = &'static str;
    fn try_from(yes: bool) -> Result<Self, &'static str> {
        if yes { Ok(Self) } else { Err("`true`, or leave the sink out") }
    }
}

/// What rings when a token of a honey role is to be opened.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawAlarm {
    /// A program and its arguments. It gets `E3_APP`, `E3_ROLE`, `E3_PRINCIPAL`, `E3_REQUEST` and `E3_COUNT` in its environment, never a value.
    #[serde(default)]
    pub(crate) command: Vec<String>,
}

/// A sink, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SinkPlace {
    /// A file.
    File(PathBuf),
    /// A Unix socket whose reader acknowledges.
    Socket(PathBuf),
    /// A syslog daemon.
    Syslog(PathBuf),
    /// Standard output.
    Stdout,
}

/// Where records go, and how often it is recorded what was sealed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditPlaces {
    /// At least one.
    pub sinks: Vec<SinkPlace>,
    /// Time between two records of seals.
    pub seals: Duration,
}

impl AuditPlaces {
    /// Opens the sinks. `unsynced` lets pipes and devices be files, which is for development.
    ///
    /// # Errors
    /// A sink cannot be opened.
    pub fn open(&self, unsynced: bool) -> Result<Audit, Error> {
        let open = |place: &SinkPlace| -> Box<dyn Sink> {
            match place {
                SinkPlace::File(path) => Box::new(FileSink::new(path.clone(), unsynced)),
                SinkPlace::Socket(path) => Box::new(SocketSink::new(path.clone(), SINK_TIMEOUT)),
                SinkPlace::Syslog(path) => Box::new(SyslogSink::new(path.clone(), SINK_TIMEOUT)),
                SinkPlace::Stdout => Box::new(StdoutSink),
            }
        };
        Audit::start(self.sinks.iter().map(open).collect())
    }
}

/// Time for a sink to take what it is given.
const SINK_TIMEOUT: Duration = Duration::from_secs(5);

/// Bounds of what the engine takes on at once.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct RawLimits {
    /// Longest frame, in bytes.
    #[schemars(range(min = 1024, max = MAX_FRAME))]
    frame_bytes: usize,
    /// Connections at once.
    connections: NonZeroUsize,
    /// Requests that wait for a worker or for the audit at once; more are answered with `overloaded`.
    requests: NonZeroUsize,
    /// Bytes of large frames held at once; further ones are not read until there is room.
    held_bytes: usize,
    /// A frame that has begun must end within this time, in milliseconds.
    frame_ms: u64,
    /// A relay that takes no bytes of its answers for this time is cut off, in milliseconds.
    write_ms: u64,
    /// Time for requests in flight when the engine stops, in milliseconds.
    drain_ms: u64,
}

impl Default for RawLimits {
    fn default() -> Self {
        Self {
            frame_bytes: MAX_FRAME,
            connections: NonZeroUsize::MIN.saturating_add(1023),
            requests: NonZeroUsize::MIN.saturating_add(4095),
            held_bytes: 256 * 1024 * 1024,
            frame_ms: 10_000,
            write_ms: 30_000,
            drain_ms: 10_000,
        }
    }
}

/// The log.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Log {
    /// How lines are written.
    pub format: LogFormat,
    /// The least severe lines that are written.
    pub level: LogLevel,
}

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// For people.
    #[default]
    Human,
    /// One JSON object a line.
    Json,
}

/// The least severe log lines that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// Failures.
    Error,
    /// And what may become one.
    Warn,
    /// And what happens.
    #[default]
    Info,
    /// And how.
    Debug,
}

pub(crate) fn socket_mode() -> Name<SocketMode> {
    Name(SocketMode(0o600))
}

fn deterministic_rate() -> u32 {
    DETERMINISTIC_RATE
}

/// Text that is checked while the file is read, so that a complaint has its place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name<T>(pub(crate) T);

/// What a [`Name`] reads.
pub(crate) trait Text: Sized {
    const SCHEMA: (&'static str, &'static str);
    fn read(text: &str) -> Result<Self, String>;
}

impl<'de, T: Text> Deserialize<'de> for Name<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        T::read(&text).map(Self).map_err(|why| serde::de::Error::custom(format!("`{text}`: {why}")))
    }
}

impl<T: Text> JsonSchema for Name<T> {
    fn schema_name() -> Cow<'static, str> {
        T::SCHEMA.0.into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": "string", "pattern": T::SCHEMA.1})
    }
}

impl Text for App {
    const SCHEMA: (&'static str, &'static str) = ("App", "^[a-z][a-z0-9-]{0,31}$");
    fn read(text: &str) -> Result<Self, String> {
        Self::parse(text).map_err(|e| e.to_string())
    }
}

impl Text for Role {
    const SCHEMA: (&'static str, &'static str) = ("Role", "^[a-z][a-z0-9-]{0,19}$");
    fn read(text: &str) -> Result<Self, String> {
        Self::parse(text).map_err(|e| e.to_string())
    }
}

/// Permission bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SocketMode(pub(crate) u32);

impl Text for SocketMode {
    const SCHEMA: (&'static str, &'static str) = ("SocketMode", "^0?[0-7]{3}$");
    fn read(text: &str) -> Result<Self, String> {
        u32::from_str_radix(text, 8)
            .ok()
            .filter(|m| *m <= 0o777)
            .map(Self)
            .ok_or_else(|| "permission bits are octal text such as \"0600\"".to_owned())
    }
}

impl Text for Endpoint {
    const SCHEMA: (&'static str, &'static str) = ("Endpoint", "^(unix|vsock|hybrid|tcp)://");
    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|e: e3_link::EndpointError| e.to_string())
    }
}

/// Where the root key comes from.
#[cfg(feature = "development")]
#[derive(Debug, Clone)]
pub enum RootSource {
    /// A file of mode 0600.
    File(PathBuf),
    /// An environment variable.
    Environment(String),
}

/// Bounds of what the engine takes on at once.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Longest frame, in bytes.
    pub frame_bytes: usize,
    /// Connections at once.
    pub connections: usize,
    /// Requests that wait for a worker or for the audit at once.
    pub requests: usize,
    /// Bytes of large frames held at once.
    pub held_bytes: usize,
    /// Time within which a frame that has begun must end.
    pub frame: Duration,
    /// Time for which a relay may take no bytes of its answers.
    pub write: Duration,
    /// Time for requests in flight when the engine stops.
    pub drain: Duration,
}

impl Limits {
    /// The defaults, for a machine of this size: large frames hold at most a quarter of its memory.
    #[must_use]
    pub fn of_this_machine() -> Self {
        let system = rustix::system::sysinfo();
        let quarter = u64::from(system.mem_unit).saturating_mul(system.totalram) / 4;
        let mut limits = Self::from(RawLimits::default());
        limits.held_bytes =
            limits.held_bytes.min(usize::try_from(quarter).unwrap_or(usize::MAX)).max(limits.frame_bytes);
        limits
    }
}

impl From<RawLimits> for Limits {
    fn from(raw: RawLimits) -> Self {
        Self {
            frame_bytes: raw.frame_bytes,
            connections: raw.connections.get(),
            requests: raw.requests.get(),
            held_bytes: raw.held_bytes,
            frame: Duration::from_millis(raw.frame_ms),
            write: Duration::from_millis(raw.write_ms),
            drain: Duration::from_millis(raw.drain_ms),
        }
    }
}

/// Who may do what.
pub enum Rules {
    /// Whoever comes in may use the declared roles.
    Declared(Policy),
    /// What a policy says.
    Policy {
        /// Where it is.
        file: PathBuf,
        /// Whose it is.
        signers: Signers,
    },
}

/// A configuration that was checked.
pub struct Config {
    /// Whether plain links are allowed.
    pub development: bool,
    /// Where to listen.
    pub listen: Vec<Endpoint>,
    /// Permission bits of Unix sockets.
    pub socket_mode: u32,
    /// The keyring file.
    pub keyring: PathBuf,
    /// Where the root key comes from.
    #[cfg(feature = "development")]
    pub root: RootSource,
    /// The attested link of the tests.
    #[cfg(feature = "test-module")]
    pub attested: Option<Attested>,
    /// Whether an app gets its keys at its first use.
    pub create_apps: bool,
    /// Who may do what.
    pub policy: Rules,
    /// Where records go.
    pub audit: AuditPlaces,
    /// The alarm's program and its arguments; empty: none.
    pub alarm: Vec<String>,
    /// Bounds.
    pub limits: Limits,
    /// Worker threads.
    pub threads: Option<NonZeroUsize>,
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
        let raw: Raw =
            serde_saphyr::from_str(&text).map_err(|e| Error::Config(report(path, &e, "e3 config schema")))?;
        raw.resolve(path)
    }
}

/// `file:line:column: cause`, and the lines around.
pub(crate) fn report(path: &Path, error: &serde_saphyr::Error, schema: &str) -> Report {
    let place = error.location().map_or_else(String::new, |l| format!(":{}:{}", l.line(), l.column()));
    let shown = error.to_string();
    // The library names the place in its first line; it is the first thing in ours.
    let cause = shown.split_once(": ").map_or(shown.as_str(), |(_, rest)| rest);
    let cause = cause.split_once(": ").filter(|(at, _)| at.starts_with("line ")).map_or(cause, |(_, rest)| rest);
    let cause = cause.replace("--> <input>", "--> ").replace("\n\n", "\n");
    Report(format!(
        "{}{place}: {}\nhint: `{schema}` prints every key that may stand here",
        path.display(),
        cause.trim_end()
    ))
}

impl Raw {
    fn resolve(self, path: &Path) -> Result<Config, Error> {
        let refuse = |key: &str, why: &str, hint: &str| {
            Err(Error::Config(Report(format!("{}: `{key}`: {why}\nhint: {hint}", path.display()))))
        };
        let development = self.development && cfg!(feature = "development");
        if self.development && !development {
            return refuse("development", "this build has no development mode", "build with the feature `development`");
        }
        if self.listen.is_empty() {
            return refuse("listen", "no endpoint", "for example `listen: [\"unix:///run/e3/e3.sock\"]`");
        }
        if self.create_apps && !development {
            return refuse("create_apps", "needs `development: true`", "`e3 keys create-app` makes the keys of an app");
        }
        if self.undeclared_roles == Undeclared::Allow && !development {
            return refuse("undeclared_roles", "`allow` needs `development: true`", "declare the roles under `apps`");
        }
        if let Some(policy) = &self.policy {
            if !self.apps.is_empty() || self.undeclared_roles == Undeclared::Allow {
                return refuse("apps", "the policy declares apps and roles", "take `apps` and `undeclared_roles` out");
            }
            if policy.signers.is_empty() && !development {
                return refuse(
                    "policy.signers",
                    "an unsigned policy needs `development: true`",
                    "list the signers' keys",
                );
            }
            let needed = policy.threshold.map_or(usize::from(!policy.signers.is_empty()), NonZeroUsize::get);
            if needed > policy.signers.len() {
                return refuse("policy.threshold", "more signatures than there are signers", "at most their number");
            }
        }
        let limits = self.limits;
        if !(1024..=MAX_FRAME).contains(&limits.frame_bytes) {
            return refuse("limits.frame_bytes", "out of bounds", "between 1024 and 33554432");
        }
        if limits.held_bytes < limits.frame_bytes {
            return refuse("limits.held_bytes", "less than one frame", "at least `limits.frame_bytes`");
        }
        if limits.frame_ms == 0 || limits.write_ms == 0 {
            return refuse("limits", "a time of 0 ms", "leave it out for the default");
        }
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let mut sinks: Vec<SinkPlace> = self.audit.file.iter().map(|file| SinkPlace::File(folder.join(file))).collect();
        sinks.extend(self.audit.sinks.iter().map(|sink| match sink {
            RawSink::File(path) => SinkPlace::File(folder.join(path)),
            RawSink::Socket(path) => SinkPlace::Socket(folder.join(path)),
            RawSink::Syslog(path) => SinkPlace::Syslog(folder.join(path)),
            RawSink::Stdout(Yes) => SinkPlace::Stdout,
        }));
        if sinks.is_empty() {
            return refuse("audit", "no sink", "for example `audit: {file: /var/lib/e3/audit.jsonl}`");
        }
        if (1..sinks.len()).any(|at| sinks[..at].contains(&sinks[at])) {
            return refuse("audit.sinks", "a sink stands twice", "name each once");
        }
        let durable = sinks.iter().any(|sink| matches!(sink, SinkPlace::File(_) | SinkPlace::Socket(_)));
        if !durable && !development {
            let hint = "add a file, or a socket whose reader acknowledges";
            return refuse("audit.sinks", "stdout and syslog acknowledge only that the kernel took a record", hint);
        }
        if self.audit.seals_ms == 0 {
            return refuse("audit.seals_ms", "a time of 0 ms", "leave it out for the default");
        }
        let apps = self.apps.into_iter().map(|(app, raw)| (app.0, raw.rules()));
        Ok(Config {
            development,
            listen: self.listen.into_iter().map(|e| e.0).collect(),
            socket_mode: self.socket_mode.0.0,
            keyring: folder.join(self.keyring),
            #[cfg(feature = "development")]
            root: match self.root {
                RawRoot::File(file) => RootSource::File(folder.join(file)),
                RawRoot::Env(name) => RootSource::Environment(name),
            },
            #[cfg(feature = "test-module")]
            attested: self.attested.map(|raw| Attested {
                module: folder.join(raw.module),
                relays: raw.relays.into_iter().map(|hash| hash.0.0).collect(),
                admins: raw.admins.into_iter().map(|key| key.0.0).collect(),
            }),
            create_apps: self.create_apps,
            policy: match self.policy {
                None => Rules::Declared(Policy::declared(apps.collect(), self.undeclared_roles == Undeclared::Allow)),
                Some(raw) => Rules::Policy {
                    file: folder.join(raw.file),
                    signers: Signers {
                        threshold: raw.threshold.map_or(usize::from(!raw.signers.is_empty()), NonZeroUsize::get),
                        keys: raw.signers.into_iter().map(|key| key.0.0).collect(),
                    },
                },
            },
            audit: AuditPlaces { sinks, seals: Duration::from_millis(self.audit.seals_ms) },
            alarm: self.alarm.command,
            limits: limits.into(),
            threads: self.threads,
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
