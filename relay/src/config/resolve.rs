//! From the file as written to the types that the relay works with; every fault on the way is told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use e3_attest::{Pcr, PcrSet, PcrSets};
use e3_link::Endpoint;
use e3_link::attested::certificate::LinkKey;
use e3_link::attested::memory::BadKeyringId;
use e3_wire::App;
use http::Uri;

use super::raw::{self, At, ForwardedForm, ProxyVersion};
use super::report::{Place, Report};
use super::resolved::{
    Admin, Api, Attestation, ClientIdentity, Config, Connect, ConnectionLimits, Engine, Forwarding, HealthCheck,
    HostTable, Listener, LogFormat, MessageLimits, NamedFile, Server, Side, Site, Upstream, UpstreamTls,
};
use super::roles::Roles;
use super::sites::{Rules, Shared};
use super::tls::Sited;
use super::units;
use crate::admit::proxy_protocol::Version;
use crate::outbound::egress::{BadNetwork, Egress, Network};
use crate::outbound::keys::ProxyKeys;
use crate::rules::host::{is_name, normal_host};
use crate::rules::path::NormalPath;
use crate::tls::ca::Authority;

/// Largest body that can be ruled: a value of that size still fits one engine call.
const BODY_MAX: usize = 16 * 1024 * 1024;

/// Bytes of bodies that are held at once, unless the file says otherwise.
const HELD: usize = 512 * 1024 * 1024;

/// Most that the file may say: more is a slip, not a machine.
const HELD_MAX: usize = 1024 * 1024 * 1024 * 1024;

/// Longest time that anything may be given.
const TIME_MAX: Duration = Duration::from_secs(7 * 86_400);

/// Resolves the whole file; `None` only where nothing sensible is left.
pub(super) fn resolve(
    file: &At<raw::File>,
    folder: &Path,
    hash: [u8; 32],
    serves: bool,
    report: &mut Report,
) -> Option<Config> {
    let raw = file.get();
    let mut resolver = Resolver {
        folder,
        report,
        ca: None,
        names_ca: raw.ca.is_some(),
        listening: Vec::new(),
        files: Vec::new(),
        names_acme: raw.acme.is_some(),
        orders: None,
        development: raw.engine.as_ref().is_none_or(|engine| engine.development),
        roles: Roles::default(),
    };
    let engine = raw.engine.as_ref().and_then(|engine| resolver.engine(engine));
    resolver.ca = raw.ca.as_ref().and_then(|ca| resolver.authority(ca));
    let acme = raw.acme.as_ref().and_then(|acme| resolver.acme(acme));
    let inbound = resolver.inbound(&raw.inbound);
    let acme = resolver.provable(acme, &inbound);
    let outbound = resolver.outbound(&raw.outbound);
    let api = raw.api.as_ref().and_then(|api| resolver.api(api));
    if serves && raw.inbound.is_empty() && raw.outbound.is_empty() && raw.api.is_none() && !file.is_pruned() {
        let cause = "nothing to do: neither `inbound` nor `outbound` has an entry, and there is no `api`";
        let hint = "start with an example from config/";
        resolver.report.error(Place { line: 1, column: 1 }, cause, Some(hint.to_owned()));
    }
    let admin = resolver.admin(&raw.admin);
    resolver.same_address();
    let held_bytes = resolver.held_bytes(raw.held_bytes.as_ref(), inbound.iter().chain(&outbound), api.as_ref());
    resolver.roles.tell(resolver.report);
    let threads = raw.threads.as_ref().map(|t| resolver.count(Some(t), 1, 1..=1024));
    let grace = resolver.time(raw.grace.as_ref(), Duration::from_secs(30));
    let log = match raw.log {
        raw::Log::Human => LogFormat::Human,
        raw::Log::Json => LogFormat::Json,
    };
    let ca = resolver.ca.take();
    let files = std::mem::take(&mut resolver.files);
    Some(Config {
        engine: engine?,
        inbound,
        outbound,
        api,
        ca,
        acme,
        admin,
        log,
        held_bytes,
        threads,
        grace,
        hash,
        files,
    })
}

/// What listens on an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    Inbound,
    Outbound,
    Api,
    Admin,
}

impl Use {
    fn name(self) -> &'static str {
        match self {
            Self::Inbound => "the inbound relay",
            Self::Outbound => "the outbound relay",
            Self::Api => "the API",
            Self::Admin => "the admin listener",
        }
    }
}

pub(super) struct Resolver<'a> {
    pub(super) folder: &'a Path,
    pub(super) report: &'a mut Report,
    /// The local certificate authority, where the file names a good one.
    pub(super) ca: Option<Arc<Authority>>,
    /// Whether the file names one.
    pub(super) names_ca: bool,
    /// Every address as written, what for, and where in the file.
    listening: Vec<(SocketAddr, Use, Place)>,
    /// Files that were read with the rules.
    pub(super) files: Vec<NamedFile>,
    /// Whether the file says where certificates are ordered.
    pub(super) names_acme: bool,
    /// A site that wants that.
    pub(super) orders: Option<Place>,
    /// Whether the engine may be one that proves nothing: nothing that it opens is secret then.
    pub(super) development: bool,
    /// What the sites do with each role.
    pub(super) roles: Roles,
}

impl Resolver<'_> {
    pub(super) fn time(&mut self, text: Option<&At<String>>, otherwise: Duration) -> Duration {
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

    /// What all bodies together may take. One of them must fit with what it becomes, or it would never be served.
    fn held_bytes<'l>(
        &mut self,
        text: Option<&At<String>>,
        listeners: impl Iterator<Item = &'l Listener>,
        api: Option<&Api>,
    ) -> usize {
        let size = self.size(text, HELD, HELD_MAX);
        let sites = listeners.flat_map(|listener| listener.sites.sites()).map(|site| site.limits.body);
        let least = sites.chain(api.map(|api| api.limits.body)).max().unwrap_or_default() * 2;
        if let Some(text) = text.filter(|_| size < least) {
            let cause = format!("`{}` is less than a body and what it becomes can take", text.get());
            let hint =
                format!("at least {}MiB, twice the largest `limits.body`, or smaller bodies", least.div_ceil(1 << 20));
            self.report.error(text.place(), cause, Some(hint));
        }
        size
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
        for text in raw.endpoints.iter().flat_map(At::get) {
            match text.get().parse::<Endpoint>() {
                Ok(endpoint) => endpoints.push(endpoint),
                Err(error) => {
                    self.report.error(text.place(), format!("`{}` is no endpoint", text.get()), Some(error.to_string()))
                }
            }
        }
        if let Some(list) = raw.endpoints.as_ref().filter(|list| list.get().is_empty() && !list.is_pruned()) {
            let hint = "endpoints: [\"unix:///run/e3/e3.sock\"]".to_owned();
            self.report.error(list.place(), "the engine has no endpoint", Some(hint));
        }
        let attestation = self.attestation(raw);
        let app = raw.app.as_ref().and_then(|app| match App::parse(app.get()) {
            Ok(app) => Some(app),
            Err(error) => {
                self.report.error(app.place(), format!("`{}` is no app", app.get()), Some(error.to_string()));
                None
            }
        });
        let timeout = self.time(raw.timeout.as_ref(), Duration::from_millis(250));
        let connections = self.count(raw.connections.as_ref(), 1, 1..=64);
        let development = raw.development && attestation.is_none();
        Some(Engine { endpoints, app: app?, timeout, connections, attestation, development })
    }

    /// What the engine has to prove. Without it, and without development mode, the file is refused.
    fn attestation(&mut self, raw: &raw::Engine) -> Option<Attestation> {
        let Some(images) = &raw.attestation else {
            if let (false, Some(list)) = (raw.development, &raw.endpoints) {
                let place = list.get().first().map_or(list.place(), At::place);
                let hint = "attestation: {pcr0: ..., pcr1: ..., pcr2: ...} with the PCRs that the build of the image prints; or development: true to accept an \
                            engine that proves nothing";
                self.report.error(place, "the engine would not be attested", Some(hint.to_owned()));
            }
            return None;
        };
        if raw.development {
            let hint = "an attested engine needs no development mode: remove one of the two".to_owned();
            self.report.error(images.place(), "development mode does not go with attestation", Some(hint));
        }
        let sets: Vec<PcrSet> =
            images.get().list(images.place()).into_iter().filter_map(|(place, pcrs)| self.image(place, pcrs)).collect();
        if images.get().list(images.place()).is_empty() {
            let hint =
                "attestation: {pcr0: ..., pcr1: ..., pcr2: ...} with the PCRs that the build of the image prints";
            self.report.error(images.place(), "no image is accepted", Some(hint.to_owned()));
        }
        let keyring = raw.keyring.as_ref().and_then(|text| match text.get().parse() {
            Ok(id) => Some(id),
            Err(error) => {
                let error: BadKeyringId = error;
                self.report.error(text.place(), format!("`{}` is no keyring id", text.get()), Some(error.to_string()));
                None
            }
        });
        let Some(key) = &raw.key else {
            let hint =
                "key: relay.key, made by `relay key new relay.key`; its hash goes into the image's inputs".to_owned();
            self.report.error(
                images.place(),
                "an attested engine wants to know this relay: `key` is missing",
                Some(hint),
            );
            return None;
        };
        let file = self.folder.join(key.get());
        match std::fs::read_to_string(&file) {
            Ok(pem) => {
                if let Err(error) = LinkKey::from_pem(&pem) {
                    self.report.error(key.place(), format!("`{}` cannot be used", key.get()), Some(error.to_string()));
                }
            }
            Err(error) => {
                let hint = "`relay key new FILE` makes a key".to_owned();
                self.report.error(key.place(), format!("`{}` cannot be read: {error}", key.get()), Some(hint));
            }
        }
        let seen = raw.seen.as_ref().map_or("engine-seen", |seen| seen.get().as_str());
        let images = PcrSets::new(sets).ok()?;
        Some(Attestation { images, key: file, keyring, seen: self.folder.join(seen) })
    }

    fn image(&mut self, place: Place, pcrs: &raw::Pcrs) -> Option<PcrSet> {
        let mut given = Vec::new();
        let mut whole = true;
        for (index, text) in pcrs.given() {
            match text.get().parse::<Pcr>() {
                Ok(pcr) => given.push((index, pcr)),
                Err(error) => {
                    whole = false;
                    self.report.error(text.place(), format!("pcr{index} is none"), Some(error.to_string()));
                }
            }
        }
        match PcrSet::new(given) {
            Ok(set) => Some(set),
            Err(error) => {
                if whole {
                    self.report.error(place, "these PCRs name no image", Some(error.to_string()));
                }
                None
            }
        }
    }

    pub(super) fn address(&mut self, text: &At<String>, for_what: Use) -> Option<SocketAddr> {
        let Ok(address) = text.get().parse() else {
            let hint = "an address and a port: 0.0.0.0:8080 or [::1]:8080";
            let cause = format!("`{}` is no address to listen on", text.get());
            self.report.error(text.place(), cause, Some(hint.to_owned()));
            return None;
        };
        self.listening.push((address, for_what, text.place()));
        Some(address)
    }

    fn inbound(&mut self, raw: &[At<raw::Inbound>]) -> Vec<Listener> {
        let mut listeners: BTreeMap<SocketAddr, (Listener, bool, Vec<Sited>)> = BTreeMap::new();
        for entry in raw {
            let site = entry.get();
            let hosts: Vec<_> = site.hosts.iter().flat_map(At::get).filter_map(|h| self.host(h)).collect();
            if let Some(list) = site.hosts.as_ref().filter(|list| list.get().is_empty() && !list.is_pruned()) {
                self.report.error(list.place(), "the site has no host", Some("hosts: [api.example.com]".to_owned()));
            }
            let written = Written {
                urls: site.backend.as_ref(),
                name: site.backend_name.as_ref(),
                ca: site.backend_ca.as_ref(),
                health: site.health.as_ref(),
                limits: &site.limits,
                identity: None,
                only_tls13: false,
                http2: site.backend_http2,
                egress: None,
                own_host: false,
                proxy_protocol: site.backend_proxy_protocol,
            };
            let upstream = match &site.redirect {
                Some(_) => self.redirect(site),
                None => self.upstream(&written),
            };
            if site.backend.is_none() && site.redirect.is_none() && !entry.is_pruned() {
                let hint = "backend: http://127.0.0.1:9000";
                self.report.error(entry.place(), "`backend` is missing", Some(hint.to_owned()));
            }
            let rules = Rules {
                side: Side::Inbound,
                fold_case: site.fold_case,
                underscore_headers: site.underscore_headers,
                unruled: site.unruled,
                open_paths: &[],
                roles: &mut self.roles,
                report: self.report,
            };
            let rules = rules.resolve(&site.rules);
            let limits = self.limits(&site.limits);
            let terms = site.tls.as_ref().map(|tls| self.site_tls(tls, &hosts));
            let forwarding = self.forwarding(site.forwarded.as_ref());
            let balancers = site.proxy_protocol.as_ref().map(|p| (p.place(), self.balancers(p)));
            let connections = site.connections.as_ref().map(|c| (c.place(), self.connections(c.get())));
            let address = site.listen.as_ref().and_then(|text| self.address(text, Use::Inbound));
            let (Some(address), Some(upstream)) = (address, upstream) else { continue };
            // What has a fault was told; the rest is checked as if it had none.
            let (has_tls, terms) = (terms.is_some(), terms.flatten());
            let built = Shared::new(Site {
                name: hosts.first().map_or_else(|| "-".into(), |(_, h)| h.clone()),
                hosts: hosts.iter().map(|(_, h)| h.clone()).collect(),
                upstream,
                tls: terms.clone(),
                forwarding,
                redirect: site.redirect.is_some(),
                connect: Connect::Refuse,
                ports: Box::default(),
                rules,
                limits,
                server_timing: site.server_timing,
                underscore_headers: site.underscore_headers,
            });
            let fresh = || (empty(address, Side::Inbound), false, Vec::new());
            let (listener, stated, sited) = listeners.entry(address).or_insert_with(fresh);
            if !has_tls || terms.is_some() {
                sited.push(Sited { place: entry.place(), terms });
            }
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
            if let Some((place, balancers)) = balancers {
                if !listener.proxy_protocol.is_empty() && balancers != listener.proxy_protocol {
                    let hint = "the sites of one address share its balancers; one of them need say it";
                    let cause = "the networks differ from those of another site at this address";
                    self.report.error(place, cause, Some(hint.to_owned()));
                }
                listener.proxy_protocol = balancers;
            }
            for (place, host) in hosts {
                self.place_site(&mut listener.sites, place, &host, &built);
            }
        }
        listeners
            .into_values()
            .map(|(mut listener, _, sited)| {
                self.listener_tls(&mut listener, &sited);
                listener.sites.suffixes.sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
                listener
            })
            .collect()
    }

    /// A host pattern in its normal form: lower case, exact or `*.suffix`.
    pub(super) fn host(&mut self, text: &At<String>) -> Option<(Place, Box<str>)> {
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

    pub(super) fn place_site(&mut self, table: &mut HostTable, place: Place, host: &str, site: &Shared<Site>) {
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

    pub(super) fn upstream(&mut self, written: &Written<'_>) -> Option<Upstream> {
        let ca = written.ca.and_then(|ca| self.authorities(ca));
        let health = written.health.map(|h| self.health(h));
        let pool_idle = self.count(written.limits.pool_idle.as_ref(), 64, 0..=100_000);
        let pool_idle_timeout = self.time(written.limits.pool_idle_time.as_ref(), Duration::from_secs(55));
        let urls = written.urls?;
        let list = urls.list();
        if list.is_empty() && !urls.is_pruned() {
            self.report.error(urls.place(), "no server is named", Some("http://127.0.0.1:9000".to_owned()));
        }
        let servers: Vec<_> = list.iter().filter_map(|(place, text)| Some((*place, self.url(*place, text)?))).collect();
        let egress = written.egress.clone().map(|egress| self.listed(egress, &servers));
        let (_, first) = servers.first()?;
        for (place, other) in &servers {
            if other.tls != first.tls || other.path != first.path {
                let hint = "servers that are balanced share scheme and path";
                self.report.error(*place, "this server is of another kind than the first", Some(hint.to_owned()));
            } else if first.tls && other.host != first.host && written.name.is_none() {
                let hint = "say in `backend_name` (inbound) or `name` (outbound) which name all of them prove";
                let cause = "this server's certificate would be held against the name of the first";
                self.report.error(*place, cause, Some(hint.to_owned()));
            }
        }
        if written.http2 && written.proxy_protocol.is_some() {
            let hint = "leave one of the two out";
            let cause = "over HTTP/2 clients share connections, and a PROXY header tells of one client";
            self.report.error(urls.place(), cause, Some(hint.to_owned()));
        }
        if !first.tls {
            for text in [written.ca, written.name].into_iter().flatten() {
                let hint = "write https:// in the URL, or take this out";
                self.report.error(
                    text.place(),
                    "this is for TLS, and the upstream is plain http",
                    Some(hint.to_owned()),
                );
            }
        }
        let name = written.name.map_or(first.host.as_str(), |name| name.get());
        let server_name: &str = name.trim_start_matches('[').trim_end_matches(']');
        if let Some(name) =
            written.name.filter(|_| !is_name(server_name) && server_name.parse::<std::net::IpAddr>().is_err())
        {
            let hint = "the name in the servers' certificate, without port: api.example.com";
            self.report.error(name.place(), format!("`{}` is no host name", name.get()), Some(hint.to_owned()));
        }
        let usual = if first.tls { 443 } else { 80 };
        let host = if first.port == usual { first.host.clone() } else { format!("{}:{}", first.host, first.port) };
        Some(Upstream {
            tls: first.tls.then(|| UpstreamTls {
                server_name: server_name.into(),
                ca,
                identity: written.identity.clone(),
                only_tls13: written.only_tls13,
                http2: written.http2,
            }),
            http2: written.http2,
            host: written.own_host.then(|| host.into()),
            base_path: first.path.trim_end_matches('/').into(),
            servers: servers.iter().map(|(_, s)| Server { host: s.host.as_str().into(), port: s.port }).collect(),
            egress,
            health,
            proxy_protocol: written.proxy_protocol.map(|version| match version {
                ProxyVersion::V1 => Version::V1,
                ProxyVersion::V2 => Version::V2,
            }),
            pool_idle,
            pool_idle_timeout,
        })
    }

    /// An upstream whose servers are the hosts that requests ask for.
    pub(super) fn without_servers(&mut self, written: &Written<'_>) -> Upstream {
        let server_name = Box::default();
        let ca = written.ca.and_then(|ca| self.authorities(ca));
        let (identity, only_tls13, http2) = (written.identity.clone(), written.only_tls13, written.http2);
        Upstream {
            servers: Vec::new(),
            tls: Some(UpstreamTls { server_name, ca, identity, only_tls13, http2 }),
            host: None,
            base_path: Box::default(),
            egress: written.egress.clone(),
            health: written.health.map(|health| self.health(health)),
            http2,
            proxy_protocol: None,
            pool_idle: self.count(written.limits.pool_idle.as_ref(), 64, 0..=100_000),
            pool_idle_timeout: self.time(written.limits.pool_idle_time.as_ref(), Duration::from_secs(55)),
        }
    }

    fn url(&mut self, place: Place, text: &str) -> Option<Url> {
        let mut fault = |hint: &str| {
            self.report.error(place, format!("`{text}` is no upstream"), Some(hint.to_owned()));
            None
        };
        let Ok(uri) = text.parse::<Uri>() else { return fault("http://host:port or https://host") };
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return fault("it starts with http:// or https://"),
        };
        if text.contains(['?', '#', '@']) {
            return fault("it has no query, no fragment and no user information");
        }
        let (Some(host), Some(authority)) = (uri.host().filter(|h| !h.is_empty()), uri.authority()) else {
            return fault("it names a host");
        };
        if normal_host(authority.as_str()).is_none() {
            return fault("it names a host, and perhaps a port from 1 to 65535");
        }
        if NormalPath::read(uri.path()).is_err() {
            return fault("its path has no empty or dot segments and nothing else that servers could read differently");
        }
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        Some(Url { tls, host: host.to_owned(), port, path: uri.path().to_owned() })
    }

    fn health(&mut self, raw: &raw::Health) -> HealthCheck {
        if let Some(path) = raw.path.as_ref().filter(|p| !p.get().starts_with('/')) {
            let hint = "path: /healthz".to_owned();
            self.report.error(path.place(), "the path of a health check starts with /", Some(hint));
        }
        HealthCheck {
            path: raw.path.as_ref().map(|p| p.get().as_str().into()),
            interval: self.time(raw.interval.as_ref(), Duration::from_secs(5)),
            timeout: self.time(raw.timeout.as_ref(), Duration::from_secs(1)),
            unhealthy: self.count(raw.unhealthy.as_ref(), 3, 1..=100),
            healthy: self.count(raw.healthy.as_ref(), 1, 1..=100),
        }
    }

    /// Most bytes of a body that is held whole.
    pub(super) fn body(&mut self, raw: Option<&At<String>>) -> usize {
        self.size(raw, 10 * 1024 * 1024, BODY_MAX)
    }

    pub(super) fn limits(&mut self, raw: &raw::Limits) -> MessageLimits {
        let secs = Duration::from_secs;
        MessageLimits {
            body: self.body(raw.body.as_ref()),
            body_time: self.time(raw.body_time.as_ref(), secs(30)),
            connect_time: self.time(raw.connect_time.as_ref(), secs(3)),
            response_time: self.time(raw.response_time.as_ref(), secs(30)),
            response_body_time: self.time(raw.response_body_time.as_ref(), secs(30)),
            stream_idle: self.time(raw.stream_idle.as_ref(), secs(60)),
            stream_time: self.time(raw.stream_time.as_ref(), secs(3600)),
            request_time: self.time(raw.request_time.as_ref(), secs(2 * 3600)),
        }
    }

    pub(super) fn connections(&mut self, raw: &raw::Connections) -> ConnectionLimits {
        let usual = usual_connections();
        ConnectionLimits {
            head_time: self.time(raw.head_time.as_ref(), usual.head_time),
            idle_time: self.time(raw.idle_time.as_ref(), usual.idle_time),
            head_bytes: self.size(raw.head_bytes.as_ref(), usual.head_bytes, 1024 * 1024),
            head_fields: self.count(raw.head_fields.as_ref(), usual.head_fields, 1..=1000),
            streams: u32::try_from(self.count(raw.streams.as_ref(), 100, 1..=1000)).unwrap_or(100),
            h2c: raw.h2c,
            connections: self.count(raw.most.as_ref(), usual.connections, 1..=1_000_000),
            connections_per_client: self.count(
                raw.most_per_client.as_ref(),
                usual.connections_per_client,
                1..=1_000_000,
            ),
        }
    }

    pub(super) fn networks(&mut self, raw: &[At<String>]) -> Vec<Network> {
        let mut networks = Vec::new();
        for text in raw {
            match text.get().parse() {
                Ok(network) => networks.push(network),
                Err(error) => {
                    let error: BadNetwork = error;
                    self.report.error(text.place(), format!("`{}` is no network", text.get()), Some(error.to_string()));
                }
            }
        }
        networks
    }

    /// Who has to begin with a PROXY header.
    pub(super) fn balancers(&mut self, raw: &At<raw::ProxyProtocol>) -> Vec<Network> {
        let Some(from) = &raw.get().from else { return Vec::new() };
        if from.get().is_empty() && !from.is_pruned() {
            let hint = "from: [10.0.0.0/8], or leave `proxy_protocol` out";
            self.report.error(from.place(), "no network may send a PROXY header", Some(hint.to_owned()));
        }
        self.networks(from.get())
    }

    /// Proxies whose word about the client counts.
    pub(super) fn trusted(&mut self, raw: &[At<String>]) -> Vec<Network> {
        for text in raw.iter().filter(|text| text.get().ends_with("/0")) {
            let hint = "whoever is trusted chooses which client the engine and the backend are told of";
            self.report.warn(text.place(), "everyone is trusted to say who the client is", Some(hint.to_owned()));
        }
        self.networks(raw)
    }

    fn forwarding(&mut self, raw: Option<&raw::Forwarded>) -> Forwarding {
        let Some(raw) = raw else { return Forwarding::default() };
        let sends = |form| raw.send.as_ref().map_or(form == ForwardedForm::XForwarded, |send| send.contains(&form));
        Forwarding {
            trust: self.trusted(&raw.trust),
            x_forwarded: sends(ForwardedForm::XForwarded),
            forwarded: sends(ForwardedForm::Forwarded),
        }
    }

    fn admin(&mut self, raw: &raw::Admin) -> Admin {
        let listen = match &raw.listen {
            None => Some(SocketAddr::from(([127, 0, 0, 1], 9180))),
            // `off` would be a truth value of YAML.
            Some(text) if text.get() == "none" => None,
            Some(text) => {
                let address = self.address(text, Use::Admin);
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

    /// Two listeners that cannot both have their address.
    fn same_address(&mut self) {
        for (n, (address, one, place)) in self.listening.iter().enumerate() {
            let taken = self.listening[..n].iter().find(|(other, two, _)| {
                let both_inbound = *one == Use::Inbound && *two == Use::Inbound;
                let covers = other.ip() == address.ip()
                    || other.is_ipv4() == address.is_ipv4()
                        && (other.ip().is_unspecified() || address.ip().is_unspecified());
                address.port() != 0
                    && other.port() == address.port()
                    && covers
                    // Sites of one inbound address are told apart by host.
                    && !(both_inbound && other == address)
            });
            if let Some((other, two, at)) = taken {
                let cause = format!("{address} is taken by {} on {other} in line {}", two.name(), at.line);
                let hint = match (one, two) {
                    (Use::Outbound, Use::Outbound) => "put the destinations of one address under one entry",
                    (Use::Inbound, Use::Inbound) => "write the same address for all sites of one port",
                    _ => "give each its own address",
                };
                self.report.error(*place, cause, Some(hint.to_owned()));
            }
        }
    }
}

/// An upstream as the file has it.
pub(super) struct Written<'a> {
    pub(super) urls: Option<&'a At<raw::OneOrMany>>,
    pub(super) name: Option<&'a At<String>>,
    pub(super) ca: Option<&'a At<String>>,
    pub(super) health: Option<&'a raw::Health>,
    pub(super) limits: &'a raw::Limits,
    pub(super) identity: Option<ClientIdentity>,
    pub(super) only_tls13: bool,
    pub(super) http2: bool,
    /// What may be reached; anything when absent.
    pub(super) egress: Option<Egress>,
    /// Whether requests carry the upstream's host instead of the client's.
    pub(super) own_host: bool,
    pub(super) proxy_protocol: Option<ProxyVersion>,
}

/// One server's URL.
pub(super) struct Url {
    pub(super) tls: bool,
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) path: String,
}

pub(super) fn empty(listen: SocketAddr, side: Side) -> Listener {
    let (sites, keys, limits) = (HostTable::default(), ProxyKeys::default(), usual_connections());
    Listener { listen, side, sites, keys, tls: None, proxy_protocol: Vec::new(), limits }
}

fn usual_connections() -> ConnectionLimits {
    ConnectionLimits {
        head_time: Duration::from_secs(10),
        idle_time: Duration::from_secs(75),
        head_bytes: 32 * 1024,
        head_fields: 100,
        streams: 100,
        h2c: false,
        connections: 20_000,
        connections_per_client: 4_000,
    }
}
