//! From the file as written to the types that the relay works with; every fault on the way is told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use e3_link::Endpoint;
use e3_wire::App;
use http::Uri;

use super::raw::{self, At};
use super::report::{Place, Report};
use super::resolved::{
    Admin, Config, ConnectionLimits, Engine, HealthCheck, HostTable, Listener, LogFormat, MessageLimits, Server, Side,
    Site, Upstream, UpstreamTls,
};
use super::sites::{Rules, Shared, file};
use super::units;
use crate::rules::host::is_name;

/// Largest body that can be ruled: a value of that size still fits one engine call.
const BODY_MAX: usize = 16 * 1024 * 1024;

/// Longest time that anything may be given.
const TIME_MAX: Duration = Duration::from_secs(7 * 86_400);

/// Resolves the whole file; `None` only where nothing sensible is left.
pub(super) fn resolve(raw: &raw::File, folder: &Path, hash: [u8; 32], report: &mut Report) -> Option<Config> {
    let mut resolver = Resolver { folder, report };
    let engine = resolver.engine(&raw.engine);
    let inbound = resolver.inbound(&raw.inbound);
    let outbound = resolver.outbound(&raw.outbound);
    resolver.same_address(&inbound, &outbound, &raw.outbound);
    if raw.inbound.is_empty() && raw.outbound.is_empty() {
        resolver.report.error(
            Place { line: 1, column: 1 },
            "nothing to do: neither `inbound` nor `outbound` has an entry",
            None,
        );
    }
    let admin = resolver.admin(&raw.admin);
    let threads = raw.threads.as_ref().and_then(|t| resolver.count(Some(t), 1, 1..=1024).into());
    Some(Config {
        engine: engine?,
        inbound,
        outbound,
        admin,
        log: match raw.log {
            raw::Log::Human => LogFormat::Human,
            raw::Log::Json => LogFormat::Json,
        },
        threads,
        grace: resolver.time(raw.grace.as_ref(), Duration::from_secs(30)),
        hash,
    })
}

struct Resolver<'a> {
    folder: &'a Path,
    report: &'a mut Report,
}

impl Resolver<'_> {
    fn time(&mut self, text: Option<&At<String>>, otherwise: Duration) -> Duration {
        let Some(text) = text else { return otherwise };
        match units::duration(text.get()) {
            Some(time) if !time.is_zero() && time <= TIME_MAX => time,
            _ => {
                let hint = "a whole number with ms, s, m, h or d, more than nothing and at most 7d: 250ms";
                self.report.error(text.place(), format!("`{}` is no time", text.get()), Some(hint.to_owned()));
                otherwise
            }
        }
    }

    fn size(&mut self, text: Option<&At<String>>, otherwise: usize, most: usize) -> usize {
        let Some(text) = text else { return otherwise };
        match units::size(text.get()) {
            Some(size) if size > 0 && size <= most => size,
            Some(size) if size > most => {
                self.report.error(
                    text.place(),
                    format!("`{}` is too large", text.get()),
                    Some(format!("at most {} bytes", most)),
                );
                otherwise
            }
            _ => {
                let hint = "a whole number with B, KiB, MiB or GiB: 10MiB";
                self.report.error(text.place(), format!("`{}` is no size", text.get()), Some(hint.to_owned()));
                otherwise
            }
        }
    }

    fn count(&mut self, number: Option<&At<usize>>, otherwise: usize, range: std::ops::RangeInclusive<usize>) -> usize {
        let Some(number) = number else { return otherwise };
        if range.contains(number.get()) {
            return *number.get();
        }
        let cause = format!("{} is out of range", number.get());
        self.report.error(number.place(), cause, Some(format!("from {} to {}", range.start(), range.end())));
        otherwise
    }

    fn engine(&mut self, raw: &raw::Engine) -> Option<Engine> {
        let mut endpoints = Vec::new();
        for text in &raw.endpoints {
            match text.get().parse::<Endpoint>() {
                Ok(endpoint) => endpoints.push(endpoint),
                Err(error) => {
                    self.report.error(text.place(), format!("`{}` is no endpoint", text.get()), Some(error.to_string()))
                }
            }
        }
        if raw.endpoints.is_empty() {
            self.report.error(
                raw.app.place(),
                "the engine has no endpoint",
                Some("endpoints: [\"unix:///run/e3/e3.sock\"]".to_owned()),
            );
        }
        if !raw.development
            && let Some(first) = raw.endpoints.first()
        {
            let hint =
                "set development: true to accept an engine that proves nothing; this version has no attested link yet";
            self.report.error(first.place(), "the engine would not be attested", Some(hint.to_owned()));
        }
        let app = App::parse(raw.app.get()).map_err(|error| {
            self.report.error(raw.app.place(), format!("`{}` is no app", raw.app.get()), Some(error.to_string()))
        });
        let timeout = self.time(raw.timeout.as_ref(), Duration::from_millis(250));
        let connections = self.count(raw.connections.as_ref(), 1, 1..=64);
        Some(Engine { endpoints, app: app.ok()?, timeout, connections, development: raw.development })
    }

    fn address(&mut self, text: &At<String>) -> Option<SocketAddr> {
        let address = text.get().parse();
        if address.is_err() {
            let hint = "an address and a port: 0.0.0.0:8080 or [::1]:8080";
            self.report.error(
                text.place(),
                format!("`{}` is no address to listen on", text.get()),
                Some(hint.to_owned()),
            );
        }
        address.ok()
    }

    fn inbound(&mut self, raw: &[At<raw::Inbound>]) -> Vec<Listener> {
        let mut listeners: BTreeMap<SocketAddr, (Listener, bool)> = BTreeMap::new();
        for entry in raw {
            let site = entry.get();
            let hosts: Vec<_> = site.hosts.iter().filter_map(|h| self.host(h)).collect();
            if site.hosts.is_empty() {
                self.report.error(entry.place(), "the site has no host", Some("hosts: [api.example.com]".to_owned()));
            }
            let upstream =
                self.upstream(&site.backend, site.backend_ca.as_ref(), site.health.as_ref(), &site.limits, false);
            let rules = Rules { side: Side::Inbound, fold_case: site.fold_case, report: self.report }
                .resolve(&site.rules, site.unruled);
            let limits = self.limits(&site.limits);
            let connections = site.connections.as_ref().map(|c| (c.place(), self.connections(c.get())));
            let (Some(address), Some(upstream)) = (self.address(&site.listen), upstream) else { continue };
            let built = Shared::new(Site {
                name: hosts.first().map_or_else(|| "-".into(), |(_, h)| h.clone()),
                hosts: hosts.iter().map(|(_, h)| h.clone()).collect(),
                upstream,
                rules,
                limits,
                server_timing: site.server_timing,
                underscore_headers: site.underscore_headers,
            });
            let (listener, stated) = listeners.entry(address).or_insert_with(|| (empty(address, Side::Inbound), false));
            if let Some((place, connections)) = connections {
                if *stated && connections != listener.limits {
                    let hint = "the sites of one address share its connections";
                    self.report.error(
                        place,
                        "the limits differ from those of another site at this address",
                        Some(hint.to_owned()),
                    );
                }
                listener.limits = connections;
                *stated = true;
            }
            for (place, host) in hosts {
                self.place_site(&mut listener.sites, place, &host, &built);
            }
        }
        listeners
            .into_values()
            .map(|(mut listener, _)| {
                listener.sites.suffixes.sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
                listener
            })
            .collect()
    }

    fn outbound(&mut self, raw: &[At<raw::Outbound>]) -> Vec<Listener> {
        let mut listeners = Vec::<Listener>::new();
        for entry in raw {
            let raw = entry.get();
            let address = self.address(&raw.listen);
            let limits = raw.connections.as_ref().map(|c| self.connections(c.get()));
            if let Some(address) = address.filter(|a| !a.ip().is_loopback()) {
                let hint = "anyone who reaches it can have tokens opened towards the destinations";
                self.report.warn(
                    raw.listen.place(),
                    format!("the outbound relay listens on {address}, not on loopback"),
                    Some(hint.to_owned()),
                );
            }
            let mut listener = empty(address.unwrap_or_else(|| SocketAddr::from(([127, 0, 0, 1], 0))), Side::Outbound);
            listener.limits = limits.unwrap_or(listener.limits);
            for destination in &raw.destinations {
                self.destination(destination, &mut listener.sites);
            }
            if raw.destinations.is_empty() {
                self.report.error(entry.place(), "the listener has no destination", None);
            }
            listener.sites.suffixes.sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
            if address.is_some() && listeners.iter().any(|l| l.listen == listener.listen) {
                let hint = "put the destinations of one address under one entry";
                self.report.error(
                    raw.listen.place(),
                    format!("{} is listened on twice", listener.listen),
                    Some(hint.to_owned()),
                );
            }
            listeners.push(listener);
        }
        listeners
    }

    fn destination(&mut self, entry: &At<raw::Destination>, table: &mut HostTable) {
        let raw = entry.get();
        let host = self.host(&raw.host);
        let one = raw::OneOrMany::One(raw.upstream.get().clone());
        let upstream = self.upstream_at(raw.upstream.place(), &one, raw.ca.as_ref(), None, &raw.limits, true);
        let rules = Rules { side: Side::Outbound, fold_case: raw.fold_case, report: self.report }
            .resolve(&raw.rules, raw.unruled);
        let limits = self.limits(&raw.limits);
        let (Some((place, host)), Some(upstream)) = (host, upstream) else { return };
        let site = Shared::new(Site {
            name: host.clone(),
            hosts: vec![host.clone()],
            upstream,
            rules,
            limits,
            server_timing: raw.server_timing,
            underscore_headers: raw.underscore_headers,
        });
        self.place_site(table, place, &host, &site);
    }

    /// A host pattern in its normal form: lower case, exact or `*.suffix`.
    fn host(&mut self, text: &At<String>) -> Option<(Place, Box<str>)> {
        let host = text.get().to_ascii_lowercase();
        let host = host.strip_suffix('.').unwrap_or(&host);
        let name = host.strip_prefix("*.").unwrap_or(host);
        if is_name(name) {
            return Some((text.place(), host.into()));
        }
        // An address as `normal_host` writes it, so that a request's Host finds it.
        let address = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        if let Ok(address) = address.parse::<std::net::IpAddr>() {
            return Some((text.place(), address.to_string().into()));
        }
        let hint = "a host name without port or path, or *.suffix: api.example.com, *.example.com";
        self.report.error(text.place(), format!("`{}` is no host", text.get()), Some(hint.to_owned()));
        None
    }

    fn place_site(&mut self, table: &mut HostTable, place: Place, host: &str, site: &Shared<Site>) {
        let taken = match host.strip_prefix('*') {
            Some(suffix) => {
                let taken = table.suffixes.iter().any(|(s, _)| **s == *suffix);
                table.suffixes.push((suffix.into(), Shared::clone(site)));
                taken
            }
            None => table.exact.insert(host.into(), Shared::clone(site)).is_some(),
        };
        if taken {
            self.report.error(
                place,
                format!("the host `{host}` is served twice at this address"),
                Some("take one of them out".to_owned()),
            );
        }
    }

    fn upstream(
        &mut self,
        urls: &At<raw::OneOrMany>,
        ca: Option<&At<String>>,
        health: Option<&raw::Health>,
        limits: &raw::Limits,
        own_host: bool,
    ) -> Option<Upstream> {
        self.upstream_at(urls.place(), urls.get(), ca, health, limits, own_host)
    }

    fn upstream_at(
        &mut self,
        place: Place,
        urls: &raw::OneOrMany,
        ca: Option<&At<String>>,
        health: Option<&raw::Health>,
        limits: &raw::Limits,
        own_host: bool,
    ) -> Option<Upstream> {
        let mut servers = Vec::new();
        let mut first: Option<(bool, String, String)> = None;
        for text in urls.list() {
            let Some((tls, host, port, path)) = self.url(place, text) else { continue };
            match &first {
                Some((other, _, base)) if *other != tls || *base != path => {
                    let hint = "servers that are balanced share scheme and path";
                    self.report.error(
                        place,
                        format!("`{text}` is of another kind than the first"),
                        Some(hint.to_owned()),
                    );
                }
                Some(_) => {}
                None => first = Some((tls, host.clone(), path)),
            }
            servers.push(Server { host: host.into(), port });
        }
        if urls.list().is_empty() {
            self.report.error(place, "no server is named", Some("http://127.0.0.1:9000".to_owned()));
        }
        let ca_file = ca.and_then(|ca| file(ca, self.folder, self.report));
        let (tls, host, base_path) = first?;
        if let (Some(ca), false) = (ca, tls) {
            self.report.error(ca.place(), "authorities are named, but the upstream is plain http", None);
        }
        let port = servers.first().map_or(0, |s| s.port);
        let usual = if tls { 443 } else { 80 };
        let host_header = if port == usual { host.clone() } else { format!("{host}:{port}") };
        let pool_idle = self.count(limits.pool_idle.as_ref(), 64, 0..=100_000);
        let pool_idle_timeout = self.time(limits.pool_idle_time.as_ref(), Duration::from_secs(55));
        let health = health.map(|h| self.health(h));
        let server_name = host.trim_start_matches('[').trim_end_matches(']').into();
        Some(Upstream {
            servers,
            tls: tls.then_some(UpstreamTls { server_name, ca: ca_file }),
            host: own_host.then(|| host_header.into()),
            base_path: base_path.trim_end_matches('/').into(),
            health,
            pool_idle,
            pool_idle_timeout,
        })
    }

    fn url(&mut self, place: Place, text: &str) -> Option<(bool, String, u16, String)> {
        let fault = |this: &mut Self, hint: &str| {
            this.report.error(place, format!("`{text}` is no upstream"), Some(hint.to_owned()));
            None
        };
        let Ok(uri) = text.parse::<Uri>() else { return fault(self, "http://host:port or https://host") };
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return fault(self, "it starts with http:// or https://"),
        };
        if uri.query().is_some() || uri.authority().is_some_and(|a| a.as_str().contains('@')) {
            return fault(self, "it has neither a query nor user information");
        }
        let Some(host) = uri.host().filter(|h| !h.is_empty()) else { return fault(self, "it names a host") };
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Some((tls, host.to_owned(), port, uri.path().to_owned()))
    }

    fn health(&mut self, raw: &raw::Health) -> HealthCheck {
        if let Some(path) = raw.path.as_ref().filter(|p| !p.get().starts_with('/')) {
            self.report.error(path.place(), "the path of a health check starts with /", None);
        }
        HealthCheck {
            path: raw.path.as_ref().map(|p| p.get().as_str().into()),
            interval: self.time(raw.interval.as_ref(), Duration::from_secs(5)),
            timeout: self.time(raw.timeout.as_ref(), Duration::from_secs(1)),
            unhealthy: self.count(raw.unhealthy.as_ref(), 3, 1..=100),
            healthy: self.count(raw.healthy.as_ref(), 1, 1..=100),
        }
    }

    fn limits(&mut self, raw: &raw::Limits) -> MessageLimits {
        let secs = Duration::from_secs;
        MessageLimits {
            body: self.size(raw.body.as_ref(), 10 * 1024 * 1024, BODY_MAX),
            body_time: self.time(raw.body_time.as_ref(), secs(30)),
            connect_time: self.time(raw.connect_time.as_ref(), secs(3)),
            response_time: self.time(raw.response_time.as_ref(), secs(30)),
            response_body_time: self.time(raw.response_body_time.as_ref(), secs(30)),
            stream_idle: self.time(raw.stream_idle.as_ref(), secs(60)),
            stream_time: self.time(raw.stream_time.as_ref(), secs(3600)),
        }
    }

    fn connections(&mut self, raw: &raw::Connections) -> ConnectionLimits {
        let usual = usual_connections();
        ConnectionLimits {
            head_time: self.time(raw.head_time.as_ref(), usual.head_time),
            idle_time: self.time(raw.idle_time.as_ref(), usual.idle_time),
            head_bytes: self.size(raw.head_bytes.as_ref(), usual.head_bytes, 1024 * 1024),
            head_fields: self.count(raw.head_fields.as_ref(), usual.head_fields, 1..=1000),
            connections: self.count(raw.most.as_ref(), usual.connections, 1..=1_000_000),
            connections_per_client: self.count(
                raw.most_per_client.as_ref(),
                usual.connections_per_client,
                1..=1_000_000,
            ),
        }
    }

    fn admin(&mut self, raw: &raw::Admin) -> Admin {
        let listen = match &raw.listen {
            None => Some(SocketAddr::from(([127, 0, 0, 1], 9180))),
            Some(text) if text.get() == "off" => None,
            Some(text) => {
                let address = self.address(text);
                if let Some(address) = address.filter(|a| !a.ip().is_loopback()) {
                    let hint = "it tells hosts, rules and the engine's state to whoever reaches it";
                    self.report.warn(
                        text.place(),
                        format!("the admin listener is on {address}, not on loopback"),
                        Some(hint.to_owned()),
                    );
                }
                address
            }
        };
        Admin { listen }
    }

    fn same_address(&mut self, inbound: &[Listener], outbound: &[Listener], raw: &[At<raw::Outbound>]) {
        for (listener, raw) in outbound.iter().zip(raw) {
            if listener.listen.port() != 0 && inbound.iter().any(|l| l.listen == listener.listen) {
                let hint = "an address is inbound or outbound";
                self.report.error(
                    raw.get().listen.place(),
                    format!("{} is inbound already", listener.listen),
                    Some(hint.to_owned()),
                );
            }
        }
    }
}

fn empty(listen: SocketAddr, side: Side) -> Listener {
    Listener { listen, side, sites: HostTable::default(), limits: usual_connections() }
}

fn usual_connections() -> ConnectionLimits {
    ConnectionLimits {
        head_time: Duration::from_secs(10),
        idle_time: Duration::from_secs(75),
        head_bytes: 32 * 1024,
        head_fields: 100,
        connections: 20_000,
        connections_per_client: 4_000,
    }
}
