//! What the relay counts, for Prometheus.
//!
//! Handles for the request path ([`SiteMetrics`], [`RoleMetrics`]) are made when the rules load, so that counting a request is a few atomic additions: no
//! formatting, and no map of label values on the way of an ordinary answer. Label values come from the rules file, from the table of problem codes and from status codes, so
//! their number is bounded by what the operator wrote; a request for an unknown host counts under the site `-`. No value, path, query or header ever becomes
//! a label.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use http::StatusCode;
use prometheus::core::Collector;
use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use crate::config::resolved::Side;

/// Label value where there is none: no site, no rule, a role that the rules file does not name.
pub const NONE: &str = "-";

/// The `outcome` of a request that went through; any other outcome is a problem code.
pub const OK: &str = "ok";

/// Bounds of the buckets in seconds: from a fifth of a millisecond, what a sealed request adds, to the longest timeouts.
const SECONDS: &[f64] =
    &[0.0002, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0];

/// Status codes whose counters are kept at hand for each rule; ascending. Any other takes the slower way through the label map.
const COMMON: [u16; 16] = [200, 201, 202, 204, 206, 301, 302, 304, 400, 401, 403, 404, 409, 422, 429, 500];

/// Every metric of one relay process, and the registry that exposes them.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    requests: IntCounterVec,
    request_seconds: HistogramVec,
    cuts: IntCounterVec,
    in_flight: IntGaugeVec,
    connections: [IntGauge; 3],
    held_bytes: IntGauge,
    handshakes: IntCounterVec,
    certificates: GaugeVec,
    acme: IntCounterVec,
    fields: IntCounterVec,
    engine_seconds: Histogram,
    engine_calls: IntGauge,
    engine_ready: IntGauge,
    reloads: IntCounterVec,
    reload_failed: IntGauge,
    config_info: IntGaugeVec,
    config_loaded: Gauge,
}

/// What became of one selected value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FieldVerb {
    /// It became a token.
    Seal,
    /// A token was opened.
    Open,
    /// A genuine token was kept as it was.
    Keep,
    /// The engine refused it.
    Refused,
}

/// How a TLS handshake at a listener ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Handshake {
    /// The client is in.
    Done,
    /// It was a certificate authority that looked for the proof of a host.
    Challenge,
    /// It named no site that is here, or one that has no certificate yet.
    NoSite,
    /// It did not finish in time.
    Late,
    /// It speaks no TLS that is spoken here, did not prove itself, or left.
    Failed,
}

impl Handshake {
    const ALL: [Self; 5] = [Self::Done, Self::Challenge, Self::NoSite, Self::Late, Self::Failed];

    fn as_str(self) -> &'static str {
        match self {
            Self::Done => OK,
            Self::Challenge => "challenge",
            Self::NoSite => "no-site",
            Self::Late => "late",
            Self::Failed => "failed",
        }
    }
}

/// How a reload ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReloadOutcome {
    /// The new rules are in force.
    Applied,
    /// The file is bad, or needs a restart; the old rules are in force.
    Refused,
}

impl ReloadOutcome {
    /// As in the metric's label and in `/status`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Refused => "refused",
        }
    }
}

impl Metrics {
    /// Registers every metric of a process in a registry of its own.
    ///
    /// # Errors
    /// Two metrics with one name: a defect of this module, which its tests exclude.
    pub fn new() -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let connections = register(
            &registry,
            IntGaugeVec::new(Opts::new("e3_relay_connections", "Open client connections."), &["side"])?,
        )?;
        let build = register(
            &registry,
            IntGaugeVec::new(Opts::new("e3_relay_build_info", "Version of this relay; always 1."), &["version"])?,
        )?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let metrics = Self {
            requests: register(
                &registry,
                IntCounterVec::new(
                    Opts::new(
                        "e3_relay_requests_total",
                        "Requests answered, by the first rule they met and what became of them.",
                    ),
                    &["side", "site", "rule", "outcome", "status"],
                )?,
            )?,
            request_seconds: register(
                &registry,
                HistogramVec::new(
                    HistogramOpts::new(
                        "e3_relay_request_seconds",
                        "Time from a request's head to the head of its answer.",
                    )
                    .buckets(SECONDS.to_vec()),
                    &["side", "site"],
                )?,
            )?,
            cuts: register(
                &registry,
                IntCounterVec::new(
                    Opts::new(
                        "e3_relay_answers_cut_total",
                        "Answers cut between two records because one could not go on, by the problem code of the cause.",
                    ),
                    &["side", "site", "rule", "code"],
                )?,
            )?,
            in_flight: register(
                &registry,
                IntGaugeVec::new(
                    Opts::new("e3_relay_requests_in_flight", "Requests being served."),
                    &["side", "site"],
                )?,
            )?,
            connections: [Side::Inbound, Side::Outbound, Side::Api]
                .map(|side| connections.with_label_values(&[side_label(side)])),
            held_bytes: register(
                &registry,
                IntGauge::new("e3_relay_held_bytes", "Bytes of bodies that are held now.")?,
            )?,
            handshakes: register(
                &registry,
                IntCounterVec::new(
                    Opts::new("e3_relay_handshakes_total", "TLS handshakes at listeners, by how they ended."),
                    &["side", "result"],
                )?,
            )?,
            certificates: register(
                &registry,
                GaugeVec::new(
                    Opts::new(
                        "e3_relay_certificate_expiry_timestamp_seconds",
                        "Unix time at which a listener's certificate expires, by its site.",
                    ),
                    &["side", "site"],
                )?,
            )?,
            acme: register(
                &registry,
                IntCounterVec::new(
                    Opts::new(
                        "e3_relay_acme_orders_total",
                        "Certificates that were ordered, by how it ended: ok, or the problem that the authority named.",
                    ),
                    &["result"],
                )?,
            )?,
            fields: register(
                &registry,
                IntCounterVec::new(
                    Opts::new("e3_relay_fields_total", "Selected values, by what became of them and their role."),
                    &["verb", "role"],
                )?,
            )?,
            engine_seconds: register(
                &registry,
                Histogram::with_opts(
                    HistogramOpts::new("e3_relay_engine_seconds", "Time of one engine call.").buckets(SECONDS.to_vec()),
                )?,
            )?,
            engine_calls: register(
                &registry,
                IntGauge::new("e3_relay_engine_calls_in_flight", "Engine calls that wait for their answer.")?,
            )?,
            engine_ready: register(
                &registry,
                IntGauge::new("e3_relay_engine_ready", "1 while the engine answers, else 0.")?,
            )?,
            reloads: register(
                &registry,
                IntCounterVec::new(
                    Opts::new("e3_relay_reloads_total", "Reloads of the rules file, by how they ended."),
                    &["result"],
                )?,
            )?,
            reload_failed: register(
                &registry,
                IntGauge::new(
                    "e3_relay_reload_failed",
                    "1 while the rules file on disk was refused and older rules are in force, else 0.",
                )?,
            )?,
            config_info: register(
                &registry,
                IntGaugeVec::new(
                    Opts::new("e3_relay_config_info", "SHA-256 of the rules file in force; always 1."),
                    &["hash"],
                )?,
            )?,
            config_loaded: register(
                &registry,
                Gauge::new(
                    "e3_relay_config_loaded_timestamp_seconds",
                    "Unix time at which the rules in force were loaded.",
                )?,
            )?,
            registry,
        };
        for outcome in [ReloadOutcome::Applied, ReloadOutcome::Refused] {
            metrics.reloads.with_label_values(&[outcome.as_str()]).inc_by(0);
        }
        for ended in Handshake::ALL {
            metrics.handshakes.with_label_values(&[side_label(Side::Inbound), ended.as_str()]).inc_by(0);
        }
        Ok(metrics)
    }

    /// Handles of one site, and the names of its rules in the order of the file.
    #[must_use]
    pub fn site<'r>(&self, side: Side, name: &str, rules: impl IntoIterator<Item = &'r str>) -> SiteMetrics {
        SiteMetrics {
            side: side_label(side),
            site: name.into(),
            requests: self.requests.clone(),
            cuts: self.cuts.clone(),
            seconds: self.request_seconds.with_label_values(&[side_label(side), name]),
            in_flight: self.in_flight.with_label_values(&[side_label(side), name]),
            unruled: RuleCounters::new(NONE.into()),
            rules: rules.into_iter().map(|name| RuleCounters::new(name.into())).collect(),
        }
    }

    /// Handles of requests that belong to no site: unknown hosts, and heads that could not be read.
    #[must_use]
    pub fn no_site(&self, side: Side) -> SiteMetrics {
        self.site(side, NONE, [])
    }

    /// Handles of the roles that a rules file names.
    #[must_use]
    pub fn roles<'r>(&self, names: impl IntoIterator<Item = &'r str>) -> RoleMetrics {
        RoleMetrics {
            roles: names.into_iter().map(|name| (name.into(), RoleCounters::new(&self.fields, name))).collect(),
            other: RoleCounters::new(&self.fields, NONE),
        }
    }

    /// Counts a client connection until the guard drops.
    #[must_use]
    pub fn connection(&self, side: Side) -> Held {
        Held::new(self.connections[side as usize].clone())
    }

    /// Client connections that are open now, on all sides. The drain ends when there is none.
    #[must_use]
    pub fn connections(&self) -> i64 {
        self.connections.iter().map(IntGauge::get).sum()
    }

    /// Counts a handshake that ended.
    pub fn handshake(&self, side: Side, ended: Handshake) {
        self.handshakes.with_label_values(&[side_label(side), ended.as_str()]).inc();
    }

    /// Records how many bytes of bodies are held.
    pub fn held_bytes(&self, bytes: usize) {
        self.held_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// Records until when the certificates in use are valid, by their sites, in seconds since the Unix epoch; others are forgotten.
    pub fn certificates<'c>(&self, expiries: impl IntoIterator<Item = (Side, &'c str, f64)>) {
        self.certificates.reset();
        for (side, site, expiry) in expiries {
            self.certificates.with_label_values(&[side_label(side), site]).set(expiry);
        }
    }

    /// Counts a certificate that was ordered: [`OK`], or why there is none.
    pub fn acme(&self, result: &'static str) {
        self.acme.with_label_values(&[result]).inc();
    }

    /// Handles for whoever calls the engine.
    #[must_use]
    pub fn engine(&self) -> EngineMetrics {
        EngineMetrics { seconds: self.engine_seconds.clone(), calls: self.engine_calls.clone() }
    }

    /// Records whether the engine answers.
    pub fn engine_ready(&self, ready: bool) {
        self.engine_ready.set(i64::from(ready));
    }

    /// Records the end of a reload.
    pub fn reloaded(&self, outcome: ReloadOutcome) {
        self.reloads.with_label_values(&[outcome.as_str()]).inc();
        self.reload_failed.set(i64::from(outcome == ReloadOutcome::Refused));
    }

    /// Records which rules file is in force: its hash in hexadecimal, and when it was loaded, in seconds since the Unix epoch.
    pub fn config_in_force(&self, hash: &str, loaded: f64) {
        self.config_info.reset();
        self.config_info.with_label_values(&[hash]).set(1);
        self.config_loaded.set(loaded);
    }

    /// Every metric in Prometheus' text format.
    ///
    /// # Errors
    /// A metric that cannot be encoded: a defect of this module.
    pub fn expose(&self) -> Result<String, prometheus::Error> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

/// As in metrics and in `/status`.
pub(crate) fn side_label(side: Side) -> &'static str {
    match side {
        Side::Inbound => "inbound",
        Side::Outbound => "outbound",
        Side::Api => "api",
    }
}

/// A gauge that is one higher while this lives.
#[derive(Debug)]
pub struct Held(IntGauge);

impl Held {
    fn new(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// What is measured of engine calls; cheap to clone.
#[derive(Debug, Clone)]
pub struct EngineMetrics {
    seconds: Histogram,
    calls: IntGauge,
}

impl EngineMetrics {
    /// Counts a call that waits for its answer until the guard drops.
    #[must_use]
    pub fn call(&self) -> Held {
        Held::new(self.calls.clone())
    }

    /// Records the time of one call, answered or not.
    pub fn took(&self, took: Duration) {
        self.seconds.observe(took.as_secs_f64());
    }
}

/// Counters of one site, at hand for the request path.
#[derive(Debug)]
pub struct SiteMetrics {
    side: &'static str,
    site: Box<str>,
    requests: IntCounterVec,
    cuts: IntCounterVec,
    seconds: Histogram,
    in_flight: IntGauge,
    unruled: RuleCounters,
    rules: Box<[RuleCounters]>,
}

/// The counters of successful answers for one rule.
#[derive(Debug)]
struct RuleCounters {
    label: Box<str>,
    ok: [OnceLock<IntCounter>; COMMON.len()],
}

impl RuleCounters {
    fn new(label: Box<str>) -> Self {
        Self { label, ok: [const { OnceLock::new() }; COMMON.len()] }
    }
}

impl SiteMetrics {
    /// Counts a request as in flight until the guard drops.
    #[must_use]
    pub fn request(&self) -> Held {
        Held::new(self.in_flight.clone())
    }

    /// Records an answered request.
    ///
    /// `rule` is the index of the first rule that the request met, `None` for none; `outcome` is [`OK`] or a problem code.
    pub fn answered(&self, rule: Option<usize>, outcome: &'static str, status: StatusCode, took: Duration) {
        self.seconds.observe(took.as_secs_f64());
        let rule = rule.and_then(|index| self.rules.get(index)).unwrap_or(&self.unruled);
        match COMMON.binary_search(&status.as_u16()) {
            Ok(index) if outcome == OK => rule.ok[index].get_or_init(|| self.counter(rule, outcome, status)).inc(),
            _ => self.counter(rule, outcome, status).inc(),
        }
    }

    /// Records an answer that was cut after its head; `code` is the problem code of the cause.
    pub fn cut(&self, rule: Option<usize>, code: &'static str) {
        let rule = rule.and_then(|index| self.rules.get(index)).unwrap_or(&self.unruled);
        self.cuts.with_label_values(&[self.side, &*self.site, &*rule.label, code]).inc();
    }

    fn counter(&self, rule: &RuleCounters, outcome: &str, status: StatusCode) -> IntCounter {
        self.requests.with_label_values(&[self.side, &*self.site, &*rule.label, outcome, status.as_str()])
    }
}

/// Counters of the roles of one rules file.
#[derive(Debug)]
pub struct RoleMetrics {
    roles: foldhash::HashMap<Box<str>, RoleCounters>,
    other: RoleCounters,
}

#[derive(Debug)]
struct RoleCounters {
    verbs: [IntCounter; 4],
}

impl RoleCounters {
    fn new(fields: &IntCounterVec, role: &str) -> Self {
        Self { verbs: ["seal", "open", "keep", "refused"].map(|verb| fields.with_label_values(&[verb, role])) }
    }
}

impl RoleMetrics {
    /// Counts `values` selected values of a role. A role that the rules file does not name counts as `-`, whoever wrote it.
    pub fn count(&self, verb: FieldVerb, role: &str, values: u64) {
        self.roles.get(role).unwrap_or(&self.other).verbs[verb as usize].inc_by(values);
    }
}

/// What most of the relay holds.
pub type SharedMetrics = Arc<Metrics>;

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(metrics: &Metrics, start: &str) -> Vec<String> {
        metrics.expose().unwrap().lines().filter(|line| line.starts_with(start)).map(str::to_owned).collect()
    }

    #[test]
    fn requests_count_by_site_rule_outcome_and_status() {
        let metrics = Metrics::new().unwrap();
        let site = metrics.site(Side::Inbound, "api.shop.example", ["1", "charge"]);
        let took = Duration::from_millis(3);
        site.answered(Some(1), OK, StatusCode::CREATED, took);
        site.answered(Some(1), OK, StatusCode::CREATED, took);
        site.answered(None, OK, StatusCode::IM_A_TEAPOT, took);
        site.answered(Some(0), "engine-unavailable", StatusCode::SERVICE_UNAVAILABLE, took);
        assert_eq!(
            lines(&metrics, "e3_relay_requests_total"),
            [
                r#"e3_relay_requests_total{outcome="engine-unavailable",rule="1",side="inbound",site="api.shop.example",status="503"} 1"#,
                r#"e3_relay_requests_total{outcome="ok",rule="-",side="inbound",site="api.shop.example",status="418"} 1"#,
                r#"e3_relay_requests_total{outcome="ok",rule="charge",side="inbound",site="api.shop.example",status="201"} 2"#,
            ]
        );
        assert_eq!(
            lines(&metrics, "e3_relay_request_seconds_count"),
            [r#"e3_relay_request_seconds_count{side="inbound",site="api.shop.example"} 4"#]
        );
    }

    #[test]
    fn a_failed_answer_with_a_common_status_is_not_counted_as_ok() {
        let metrics = Metrics::new().unwrap();
        let site = metrics.site(Side::Outbound, "api.pay.example", ["1"]);
        site.answered(Some(0), OK, StatusCode::BAD_REQUEST, Duration::ZERO);
        site.answered(Some(0), "json", StatusCode::BAD_REQUEST, Duration::ZERO);
        let counted = lines(&metrics, "e3_relay_requests_total");
        assert_eq!(counted.len(), 2, "{counted:?}");
        assert!(counted.iter().all(|line| line.ends_with(" 1")), "{counted:?}");
    }

    #[test]
    fn roles_outside_the_rules_file_share_one_label() {
        let metrics = Metrics::new().unwrap();
        let roles = metrics.roles(["card-number"]);
        roles.count(FieldVerb::Seal, "card-number", 3);
        roles.count(FieldVerb::Refused, "from-a-stranger", 1);
        roles.count(FieldVerb::Refused, "from-another", 1);
        let text = metrics.expose().unwrap();
        assert!(text.contains(r#"e3_relay_fields_total{role="card-number",verb="seal"} 3"#), "{text}");
        assert!(text.contains(r#"e3_relay_fields_total{role="-",verb="refused"} 2"#), "{text}");
        assert!(!text.contains("stranger"), "{text}");
    }

    #[test]
    fn gauges_fall_when_their_guards_drop() {
        let metrics = Metrics::new().unwrap();
        let inbound = metrics.connection(Side::Inbound);
        let outbound = metrics.connection(Side::Outbound);
        assert_eq!(metrics.connections(), 2);
        drop(inbound);
        assert_eq!(metrics.connections(), 1);
        drop(outbound);
        assert_eq!(metrics.connections(), 0);
    }

    #[test]
    fn a_refused_reload_shows_until_one_is_applied() {
        let metrics = Metrics::new().unwrap();
        metrics.reloaded(ReloadOutcome::Refused);
        assert_eq!(lines(&metrics, "e3_relay_reload_failed"), ["e3_relay_reload_failed 1"]);
        metrics.reloaded(ReloadOutcome::Applied);
        assert_eq!(lines(&metrics, "e3_relay_reload_failed"), ["e3_relay_reload_failed 0"]);
        assert!(
            lines(&metrics, "e3_relay_reloads_total")
                .contains(&r#"e3_relay_reloads_total{result="refused"} 1"#.to_owned())
        );
    }

    #[test]
    fn only_the_hash_in_force_is_exposed() {
        let metrics = Metrics::new().unwrap();
        metrics.config_in_force("aa", 1.0);
        metrics.config_in_force("bb", 2.0);
        assert_eq!(lines(&metrics, "e3_relay_config_info"), [r#"e3_relay_config_info{hash="bb"} 1"#]);
    }
}
