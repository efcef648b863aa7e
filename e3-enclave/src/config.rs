//! The configuration file: read raw, then resolved into types that cannot be wrong. [`e3_yaml`] holds the file against the schema of the raw types, [`resolve`] is the rest:
//! every fault is told in one run, with its place.
//!
//! What the schema requires is optional in the raw types: where it is absent, that is told already. The build without the feature `development` knows neither root keys from
//! files nor from the environment.

mod resolve;

use crate::audit::Audit;
use crate::audit::sink::Sink;
use crate::audit::sink::file::FileSink;
use crate::audit::sink::socket::SocketSink;
use crate::audit::sink::stdout::StdoutSink;
use crate::audit::sink::syslog::SyslogSink;
use crate::error::Error;
use crate::policy::signed::Signers;
use crate::policy::{DETERMINISTIC_RATE, Policy, RoleRules};
use e3_link::Endpoint;
use e3_wire::{App, MAX_FRAME, Role};
use e3_yaml::At;
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
    development: Option<At<bool>>,
    /// Where to listen: `unix:///path`, `vsock://cid:port` (cid may be `any`), `hybrid:///path:port`, `tcp://127.0.0.1:port` (tests).
    #[schemars(required)]
    listen: Option<At<Vec<At<Said<Endpoint>>>>>,
    /// Permission bits of Unix sockets, as octal text; `0600` when absent.
    socket_mode: Option<At<Octal>>,
    /// The keyring file: app keys, wrapped under the root key. Relative paths start at this file's folder.
    #[schemars(required)]
    keyring: Option<PathBuf>,
    /// Where the root key comes from. Development builds only.
    #[cfg(feature = "development")]
    #[schemars(required)]
    root: Option<At<RawRoot>>,
    /// A security module in a file, and the relays that may come in: builds for tests alone, and not in the schema that is printed.
    #[cfg(feature = "test-module")]
    attested: Option<RawAttested>,
    /// Whether an app gets its keys at its first use. Needs `development: true`.
    create_apps: Option<At<bool>>,
    /// What happens with roles and apps that are not declared below, `refuse` when absent; `allow` needs `development: true`.
    undeclared_roles: Option<At<Undeclared>>,
    /// The apps and their roles, which every relay that comes in may use; a `policy` says more, and takes their place.
    #[serde(default)]
    apps: BTreeMap<String, At<RawApp>>,
    /// Who may do what with which roles: a file of its own.
    policy: Option<At<RawPolicy>>,
    /// Where it is recorded what was opened.
    #[schemars(required)]
    audit: Option<At<RawAudit>>,
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
    #[schemars(required)]
    module: Option<PathBuf>,
    /// SHA-256 of the relays' keys, as hexadecimal text.
    #[serde(default)]
    relays: Vec<At<Said<KeyHash>>>,
    /// Public keys of administrators, as hexadecimal text.
    #[serde(default)]
    admins: Vec<At<Said<KeyHash>>>,
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

/// Where the root key comes from: one of them.
#[cfg(feature = "development")]
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
struct RawRoot {
    /// A file of mode 0600 with 32 bytes as hexadecimal or base64 text.
    file: Option<PathBuf>,
    /// An environment variable with the same.
    env: Option<String>,
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
struct RawApp {
    /// The roles of its tokens.
    #[serde(default)]
    roles: BTreeMap<String, At<RawRole>>,
    /// Deterministic seals a second that one engine serves: each answers a guess.
    #[serde(default = "deterministic_rate")]
    #[schemars(range(max = u32::MAX))]
    deterministic_rate: u32,
}

/// One role.
#[derive(Debug, Clone, Copy, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawRole {
    /// Equal values give equal tokens, so that they can be searched and joined; whoever may seal can test guesses.
    #[serde(default)]
    deterministic: bool,
    /// The app's public key is given out, and whoever has it may seal values of this role. Such tokens prove neither who made them nor when.
    #[serde(default)]
    public_seal: bool,
}

impl RawRole {
    pub(crate) fn rules(self) -> RoleRules {
        RoleRules { deterministic: self.deterministic, public_seal: self.public_seal, ..RoleRules::default() }
    }
}

/// Where the policy is, and whose signatures it needs.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawPolicy {
    /// The policy. It is read again when it changes.
    #[schemars(required)]
    file: Option<PathBuf>,
    /// Ed25519 public keys of those who may sign it, as hexadecimal text. Without any, it needs no signature: development alone.
    #[serde(default)]
    signers: Vec<At<Said<PublicKey>>>,
    /// How many of them must have signed; 1 when absent.
    threshold: Option<At<NonZeroUsize>>,
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
    sinks: Vec<At<RawSink>>,
    /// How often it is recorded what was sealed, in milliseconds; 1000 when absent.
    #[schemars(range(min = 1))]
    seals_ms: Option<u64>,
}

/// Where records go: one of them.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("minProperties" = 1, "maxProperties" = 1))]
struct RawSink {
    /// A file: written and synced.
    file: Option<PathBuf>,
    /// Whoever listens at this Unix socket and acknowledges each batch (SPEC.md, "Audit socket").
    socket: Option<PathBuf>,
    /// A syslog daemon's Unix datagram socket, such as `/dev/log` (RFC 5424): the kernel has the records, no more.
    syslog: Option<PathBuf>,
    /// Standard output, if `true`: the kernel has the records, no more.
    stdout: Option<bool>,
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
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawLimits {
    /// Longest frame, in bytes; 33554432 when absent, which is the most.
    #[schemars(range(min = 1024, max = MAX_FRAME))]
    frame_bytes: Option<At<usize>>,
    /// Connections at once; 1024 when absent.
    connections: Option<NonZeroUsize>,
    /// Requests that wait for a worker or for the audit at once; more are answered with `overloaded`; 4096 when absent.
    requests: Option<NonZeroUsize>,
    /// Bytes of large frames held at once; further ones are not read until there is room; 268435456 when absent.
    held_bytes: Option<At<usize>>,
    /// A frame that has begun must end within this time, in milliseconds; 10000 when absent.
    #[schemars(range(min = 1))]
    frame_ms: Option<u64>,
    /// A relay that takes no bytes of its answers for this time is cut off, in milliseconds; 30000 when absent.
    #[schemars(range(min = 1))]
    write_ms: Option<u64>,
    /// Time for requests in flight when the engine stops, in milliseconds; 10000 when absent.
    drain_ms: Option<u64>,
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

pub(crate) fn deterministic_rate() -> u32 {
    DETERMINISTIC_RATE
}

/// Text that is checked while the file is read, so that a complaint has its place.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name<T>(pub(crate) T);

/// Text that is read while the file is, and what is wrong with it: [`resolve`] tells that at its place.
#[derive(Debug, Clone)]
struct Said<T>(Result<T, String>);

impl<'de, T: Text> Deserialize<'de> for Said<T> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Ok(Self(T::read(&text).map_err(|why| format!("`{text}`: {why}"))))
    }
}

impl<T: Text> JsonSchema for Said<T> {
    fn schema_name() -> Cow<'static, str> {
        Name::<T>::schema_name()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        Name::<T>::json_schema(generator)
    }
}

/// Permission bits as written: without quotes they are a number to YAML, whose digits only the text of the file still has.
#[derive(Debug, Clone)]
enum Octal {
    Text(String),
    Number,
}

impl<'de> Deserialize<'de> for Octal {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Digits;
        impl serde::de::Visitor<'_> for Digits {
            type Value = Octal;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("permission bits")
            }

            fn visit_str<E>(self, text: &str) -> Result<Octal, E> {
                Ok(Octal::Text(text.to_owned()))
            }

            fn visit_u64<E>(self, _: u64) -> Result<Octal, E> {
                Ok(Octal::Number)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Octal, E> {
                Ok(Octal::Number)
            }

            fn visit_i128<E>(self, _: i128) -> Result<Octal, E> {
                Ok(Octal::Number)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Octal, E> {
                Ok(Octal::Number)
            }
        }
        deserializer.deserialize_any(Digits)
    }
}

impl JsonSchema for Octal {
    fn schema_name() -> Cow<'static, str> {
        SocketMode::SCHEMA.0.into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({"type": ["string", "number"], "pattern": SocketMode::SCHEMA.1})
    }
}

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
        let mut limits = Self::default();
        limits.held_bytes =
            limits.held_bytes.min(usize::try_from(quarter).unwrap_or(usize::MAX)).max(limits.frame_bytes);
        limits
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            frame_bytes: MAX_FRAME,
            connections: 1024,
            requests: 4096,
            held_bytes: 256 * 1024 * 1024,
            frame: Duration::from_secs(10),
            write: Duration::from_secs(30),
            drain: Duration::from_secs(10),
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
    /// It cannot be read, or something in it is refused; the report says all of it, and where.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let refused = |report: &e3_yaml::Report| {
            let hint = "hint: `e3 config schema` prints every key that may stand here";
            Error::Config(Report(format!("{}{hint}", report.to_text(false))))
        };
        let text = std::fs::read_to_string(path).map_err(|e| {
            let report = e3_yaml::Report::unreadable(path, &e).to_text(false);
            Error::Config(Report(report.trim_end().to_owned()))
        })?;
        let mut report = e3_yaml::Report::new(path, &text);
        let raw = e3_yaml::read::<Raw>(&text, &mut report);
        let config = raw.and_then(|raw| resolve::resolve(&raw, &text, path, &mut report));
        report.sort();
        config.filter(|_| !report.has_errors()).ok_or_else(|| refused(&report))
    }
}

/// `file:line:column: cause`.
pub(crate) fn report(path: &Path, error: &serde_saphyr::Error, schema: &str) -> Report {
    let place = error.location().map_or_else(String::new, |l| format!(":{}:{}", l.line(), l.column()));
    let shown = error.to_string();
    // The library names the place in its first line; it is the first thing in ours.
    let cause = shown.split_once(": ").map_or(shown.as_str(), |(_, rest)| rest);
    let cause = cause.split_once(": ").filter(|(at, _)| at.starts_with("line ")).map_or(cause, |(_, rest)| rest);
    // What follows repeats it, below the lines around.
    let cause = cause.lines().next().unwrap_or_default();
    Report(format!("{}{place}: {cause}\nhint: `{schema}` prints every key that may stand here", path.display()))
}

/// The JSON schema of the file, as pretty text.
///
/// # Errors
/// Never for the schema of this type; the signature is the serialiser's.
pub fn schema() -> Result<String, serde_json::Error> {
    let mut schema = schemars::schema_for!(Raw);
    // Without what builds for tests take beside it.
    for (part, names) in [("properties", &["attested"][..]), ("$defs", &["RawAttested", "KeyHash"])] {
        if let Some(members) = schema.get_mut(part).and_then(|members| members.as_object_mut()) {
            members.retain(|name, _| !names.contains(&name.as_str()));
        }
    }
    serde_json::to_string_pretty(&schema).map(|s| s + "\n")
}
