//! The rules file as people write it. These types generate the schema, which knows no other keys; [`structure`] tells those, and serde skips them.

use std::borrow::Cow;
use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;
use serde_saphyr::Spanned;

use super::report::{Place, Report};
use super::tree::{self, Node};
use super::{structure, tree::place};

/// A value and its place in the file.
#[derive(Debug, Clone, Deserialize)]
#[serde(bound(deserialize = "T: serde::de::DeserializeOwned"), transparent)]
pub struct At<T>(Spanned<T>);

impl<T> At<T> {
    /// Where it stands.
    pub fn place(&self) -> Place {
        place(&self.0.referenced)
    }

    /// The value.
    pub fn get(&self) -> &T {
        &self.0.value
    }
}

impl<T: JsonSchema> JsonSchema for At<T> {
    fn inline_schema() -> bool {
        T::inline_schema()
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn schema_id() -> Cow<'static, str> {
        T::schema_id()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// One text or a list of them.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl OneOrMany {
    /// As a list.
    #[must_use]
    pub fn list(&self) -> &[String] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }
}

/// The rules of the inbound and the outbound relay.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
#[schemars(title = "relay rules")]
pub struct File {
    /// The encryption engine.
    pub engine: Engine,
    /// Sites that requests come in for: a reverse proxy in front of backends.
    #[serde(default)]
    pub inbound: Vec<At<Inbound>>,
    /// Listeners through which backends reach third parties.
    #[serde(default)]
    pub outbound: Vec<At<Outbound>>,
    /// Metrics, health and status.
    #[serde(default)]
    pub admin: Admin,
    /// How the log is written.
    #[serde(default)]
    pub log: Log,
    /// Worker threads; the number of cores when absent.
    pub threads: Option<At<usize>>,
    /// Longest time that connections may take to finish when the relay drains, for example `30s`.
    pub grace: Option<At<String>>,
}

/// Where the engine is and how long it may take.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Engine {
    /// `unix:///path`, `vsock://cid:port`, `hybrid:///path:port`; several are alternatives.
    pub endpoints: Vec<At<String>>,
    /// The tenant that owns the keys.
    pub app: At<String>,
    /// Total time of one call, for example `250ms`.
    pub timeout: Option<At<String>>,
    /// Connections of each worker thread to each endpoint.
    pub connections: Option<At<usize>>,
    /// Accepts an engine that proves nothing. Never in production.
    #[serde(default)]
    pub development: bool,
}

/// One site of the inbound relay.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Inbound {
    /// Address and port, for example `0.0.0.0:8080`.
    pub listen: At<String>,
    /// Host names that this site serves: exact, or `*.suffix`.
    pub hosts: Vec<At<String>>,
    /// `http://host:port` or `https://…`; several are balanced.
    pub backend: At<OneOrMany>,
    /// PEM file of the only authorities that are trusted for https backends; the system's when absent.
    pub backend_ca: Option<At<String>>,
    /// How the backends' health is checked.
    pub health: Option<Health>,
    /// All rules that a request meets apply, in order.
    #[serde(default)]
    pub rules: Vec<At<Rule>>,
    /// What happens to requests that meet no rule.
    #[serde(default)]
    pub unruled: Unruled,
    /// Keys and paths match in either case, for backends that read them so.
    #[serde(default)]
    pub fold_case: bool,
    /// Answers carry `Server-Timing` (relay, engine, upstream).
    #[serde(default)]
    pub server_timing: bool,
    /// Lets header names with `_` through.
    #[serde(default)]
    pub underscore_headers: bool,
    /// Sizes and total times of messages.
    #[serde(default)]
    pub limits: Limits,
    /// Limits of the listener's connections; equal for all sites of one address.
    pub connections: Option<At<Connections>>,
}

/// One listener of the outbound relay.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Outbound {
    /// Address and port, for example `127.0.0.1:8081`.
    pub listen: At<String>,
    /// The third parties that can be reached.
    pub destinations: Vec<At<Destination>>,
    /// Limits of the listener's connections.
    pub connections: Option<At<Connections>>,
}

/// One third party.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Destination {
    /// Requests with this Host, or under `/host/…`.
    pub host: At<String>,
    /// `https://host[:port]`, or `http://…` in tests.
    pub upstream: At<String>,
    /// PEM file of the only authorities that are trusted; the system's when absent.
    pub ca: Option<At<String>>,
    /// All rules that a request meets apply, in order.
    #[serde(default)]
    pub rules: Vec<At<Rule>>,
    /// What happens to requests that meet no rule.
    #[serde(default)]
    pub unruled: Unruled,
    /// Keys and paths match in either case.
    #[serde(default)]
    pub fold_case: bool,
    /// Answers carry `Server-Timing` (relay, engine, upstream).
    #[serde(default)]
    pub server_timing: bool,
    /// Lets header names with `_` through.
    #[serde(default)]
    pub underscore_headers: bool,
    /// Sizes and total times of messages.
    #[serde(default)]
    pub limits: Limits,
}

/// Which requests, and what is done to them and to their responses.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Rule {
    /// A name for logs, metrics and `relay explain`.
    pub name: Option<At<String>>,
    /// Which requests; every one when absent.
    #[serde(default, rename = "match")]
    pub condition: Match,
    /// What is done to request bodies.
    #[serde(default)]
    pub request: Actions,
    /// What is done to response bodies.
    #[serde(default)]
    pub response: ResponseActions,
}

/// Which requests meet a rule.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Match {
    /// Methods in upper case; all when absent. GET stands for HEAD too.
    pub methods: Option<At<Vec<String>>>,
    /// Path patterns: `*` is any part of one segment, `**` any number of segments.
    pub path: Option<At<OneOrMany>>,
    /// Headers that must be there: a value, or `"*"` for any.
    #[serde(default)]
    pub headers: BTreeMap<String, At<String>>,
    /// Media types that the selectors understand; another is refused with 415. `application/json` and `application/*+json` when absent.
    pub media_types: Option<Vec<At<String>>>,
}

/// What is done to a body.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Actions {
    /// Values that become tokens.
    #[serde(default)]
    pub seal: Vec<At<Seal>>,
    /// Values whose tokens are opened.
    #[serde(default)]
    pub open: Vec<At<Open>>,
}

/// What is done to response bodies.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct ResponseActions {
    /// Values that become tokens.
    #[serde(default)]
    pub seal: Vec<At<Seal>>,
    /// Values whose tokens are opened.
    #[serde(default)]
    pub open: Vec<At<Open>>,
    /// Statuses that this is for: `200`, `200-299`; all when absent.
    #[serde(default)]
    pub status: Vec<At<Status>>,
}

/// One status or a range of them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum Status {
    /// One.
    One(u16),
    /// `from-to`.
    Range(String),
}

/// Values that become tokens.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Seal {
    /// JSONPath (RFC 9535) of the values.
    pub select: At<String>,
    /// The class of data that they belong to.
    pub role: At<String>,
    /// Equal values give equal tokens. The engine must declare the role so.
    #[serde(default)]
    pub deterministic: bool,
    /// What happens to text that already is a token.
    #[serde(default)]
    pub tokens: Tokens,
    /// Objects and arrays stand for their leaves, instead of being sealed as a whole.
    #[serde(default)]
    pub each: bool,
    /// A message without such a value is refused with 422.
    #[serde(default)]
    pub required: bool,
}

/// What happens to text that already is a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Tokens {
    /// It is sealed as the text that it is.
    #[default]
    Seal,
    /// A genuine token of this app and role stays as it is. For trusted callers only.
    Keep,
}

/// Values whose tokens are opened.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Open {
    /// JSONPath (RFC 9535) of the values.
    pub select: Option<At<String>>,
    /// Every string of the body instead. Whoever chooses where a token stands chooses what is opened.
    #[serde(default)]
    pub anywhere: bool,
    /// The roles that may be opened here.
    pub roles: Vec<At<String>>,
    /// What happens when a token may not be opened.
    #[serde(default)]
    pub on_refused: OnRefused,
    /// Objects and arrays stand for their leaves.
    #[serde(default)]
    pub each: bool,
    /// A message without such a value is refused with 422.
    #[serde(default)]
    pub required: bool,
}

/// What happens when a token may not be opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnRefused {
    /// The message is refused.
    #[default]
    Refuse,
    /// The token stays as it is.
    Leave,
}

/// What happens to requests that meet no rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Unruled {
    /// They pass untouched.
    #[default]
    Pass,
    /// They are refused with 403.
    Refuse,
}

/// How servers' health is checked.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Health {
    /// Path of a GET that must answer 200; only a TCP connection is tried when absent.
    pub path: Option<At<String>>,
    /// Time between checks; `5s` when absent.
    pub interval: Option<At<String>>,
    /// Time of one check; `1s` when absent.
    pub timeout: Option<At<String>>,
    /// Failed checks in a row that turn a server off; 3 when absent.
    pub unhealthy: Option<At<usize>>,
    /// Good checks in a row that turn it on again; 1 when absent.
    pub healthy: Option<At<usize>>,
}

/// Sizes and total times of messages.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Limits {
    /// Most bytes of a ruled body; `10MiB` when absent, at most `16MiB`.
    pub body: Option<At<String>>,
    /// Total time for a held request body; `30s` when absent.
    pub body_time: Option<At<String>>,
    /// Time to connect; `3s` when absent.
    pub connect_time: Option<At<String>>,
    /// Time for the response's head; `30s` when absent.
    pub response_time: Option<At<String>>,
    /// Total time for a held response body; `30s` when absent.
    pub response_body_time: Option<At<String>>,
    /// Longest pause in a streamed body; `60s` when absent.
    pub stream_idle: Option<At<String>>,
    /// Total time of a streamed body; `1h` when absent.
    pub stream_time: Option<At<String>>,
    /// Most idle upstream connections of each worker thread to each server; 64 when absent.
    pub pool_idle: Option<At<usize>>,
    /// How long one is kept idle; `55s` when absent.
    pub pool_idle_time: Option<At<String>>,
}

/// Limits of a listener's connections.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Connections {
    /// Total time for a request's head; `10s` when absent.
    pub head_time: Option<At<String>>,
    /// How long a connection may idle between requests; `75s` when absent.
    pub idle_time: Option<At<String>>,
    /// Most bytes of a request's head; `32KiB` when absent.
    pub head_bytes: Option<At<String>>,
    /// Most header fields of a request; 100 when absent.
    pub head_fields: Option<At<usize>>,
    /// Most connections at once; 20000 when absent.
    pub most: Option<At<usize>>,
    /// Most connections at once from one address; 4000 when absent.
    pub most_per_client: Option<At<usize>>,
}

/// Metrics, health and status.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Admin {
    /// Address and port, or `off`; `127.0.0.1:9180` when absent.
    pub listen: Option<At<String>>,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Log {
    /// One readable line each.
    #[default]
    Human,
    /// One JSON object each.
    Json,
}

impl File {
    /// Reads the text; `None` when its structure has faults, which the report then tells, all of them.
    pub(super) fn read(text: &str, report: &mut Report) -> Option<Self> {
        let node: Node = match serde_saphyr::from_str(text) {
            Ok(node) => node,
            Err(error) => {
                syntax(&error, report);
                return None;
            }
        };
        if matches!(node.kind, tree::Kind::Null) {
            report.error(node.place, "the file is empty", Some("start with an example from config/".to_owned()));
            return None;
        }
        let schema = schemars::schema_for!(Self).to_value();
        let definitions = schema.get("$defs").and_then(|d| d.as_object()).cloned().unwrap_or_default();
        let fits = structure::check(&node, &schema, &definitions, report);
        match serde_saphyr::from_str(text) {
            // Unknown keys are told already and stand in nobody's way: the rest of the file is checked all the same.
            Ok(file) => Some(file),
            Err(_) if !fits => None,
            // The schema lets a number through that does not fit its type.
            Err(error) => {
                syntax(&error, report);
                None
            }
        }
    }
}

fn syntax(error: &serde_saphyr::Error, report: &mut Report) {
    let at = error.location().map(|l| place(&l)).unwrap_or_default();
    let message = error.to_string();
    let first = message.lines().next().unwrap_or_default();
    report.error(at, format!("not readable as YAML: {first}"), None);
}
