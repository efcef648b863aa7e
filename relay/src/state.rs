//! Everything that the data path works with, built from one rules file and swapped as a whole by a reload.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use http::HeaderValue;
use lru::LruCache;
use sha2::{Digest, Sha256};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

use crate::api;
use crate::body::room::Room;
use crate::config::resolved::{ClientIdentity, Config, HostTable, Listener, ListenerTls, Side, Site, UpstreamTls};
use crate::engine::Engine;
use crate::error::Failure;
use crate::exchange::balance::Balance;
use crate::exchange::pool::PoolKey;
use crate::exchange::resolver::Resolver;
use crate::exchange::up::{Target, Tls};
use crate::metrics::{RoleMetrics, SharedMetrics, SiteMetrics};
use crate::outbound::egress::{Spelled, spelled};
use crate::rules::action::Verb;
use crate::tls::acme::Acme;
use crate::tls::certificate::Certificate;
use crate::tls::server::{SetupError, Source, Terminator, Terms};

/// The state in force.
pub struct State {
    /// The rules file, resolved.
    pub config: Config,
    /// The engine's client.
    pub engine: Engine,
    /// What orders certificates; `None` where no site wants that.
    pub acme: Option<Arc<Acme>>,
    /// The room for bodies that are held, which is the process's.
    pub room: Room,
    /// Counters by role.
    pub roles: RoleMetrics,
    /// Counters of the API's calls, by what they ask for.
    pub api: SiteMetrics,
    listeners: foldhash::HashMap<(SocketAddr, Side), ListenerState>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State").field("config", &self.config).finish_non_exhaustive()
    }
}

/// The sites of one address.
pub struct ListenerState {
    /// By the address of the site's configuration, which `config` keeps where it is.
    sites: foldhash::HashMap<usize, Arc<SiteState>>,
    /// What ends TLS for each of the listener's terms, by their address.
    terminators: HashMap<usize, Arc<Terminator>>,
    /// Counters of requests for no site of this listener.
    pub no_site: SiteMetrics,
}

/// One site with everything that is built from its configuration.
#[derive(Debug)]
pub struct SiteState {
    /// The configuration.
    pub site: Arc<Site>,
    /// Its counters.
    pub metrics: Arc<SiteMetrics>,
    /// What ends TLS for it at the listener; `None` where it is plain.
    pub tls: Option<Arc<Terminator>>,
    /// How its servers are reached.
    pub target: Target,
    /// Which server is next.
    pub balance: Arc<Balance>,
    /// What the engine is told about where a request goes.
    pub destination: Box<str>,
    /// The `Host` that is sent; `None` keeps the client's.
    pub host: Option<HeaderValue>,
    /// Where each request's own host is the upstream.
    asked: Option<Asked>,
}

/// By host and port.
type AskedHosts = LruCache<(Box<str>, u16), Arc<SiteState>>;

/// Hosts that clients asked for at one destination, the most recent ones.
struct Asked {
    /// TLS, but for the name that is verified.
    tls: Arc<ClientConfig>,
    /// The same, where servers may choose HTTP/2.
    either: Option<Arc<ClientConfig>>,
    resolver: Resolver,
    hosts: Mutex<AskedHosts>,
}

impl std::fmt::Debug for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Asked")
    }
}

/// Most hosts of one destination whose connections are kept in mind.
const ASKED_MOST: NonZeroUsize = NonZeroUsize::MIN.saturating_add(1023);

/// Why a state cannot be built from a rules file that passed every check.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The authorities of an upstream cannot be read.
    #[error("the authorities in {} cannot be read", .0.display())]
    Authorities(std::path::PathBuf),
    /// A client certificate cannot be used with its key.
    #[error("the client certificate in {} cannot be used with its key", .0.display())]
    Identity(std::path::PathBuf),
    /// The system has no authorities.
    #[error("the system has no certificate authorities: install ca-certificates, or name a file")]
    NoAuthorities,
    /// A name that no certificate can be for.
    #[error("{0} is no name that a certificate can be for")]
    ServerName(Box<str>),
    /// The folder of ordered certificates cannot be used.
    #[error("the store {} cannot be made or read, or others may enter it: it needs mode 700", .0.display())]
    Store(std::path::PathBuf),
    /// TLS of a listener cannot be set up.
    #[error(transparent)]
    Tls(#[from] SetupError),
    /// The attested link cannot be set up.
    #[error(transparent)]
    Attested(#[from] crate::engine::attested::AttestedError),
}

impl State {
    /// Builds everything. Blocks while names are resolved and files read.
    ///
    /// # Errors
    /// Authorities cannot be read, or a name fits no certificate.
    pub fn build(config: Config, metrics: &SharedMetrics, previous: Option<&Self>) -> Result<Self, BuildError> {
        Self::build_with(config, metrics, previous, &Resolver::default())
    }

    /// The same, with what knows the addresses of hosts that clients ask for.
    ///
    /// # Errors
    /// As for [`State::build`].
    pub fn build_with(
        config: Config,
        metrics: &SharedMetrics,
        previous: Option<&Self>,
        resolver: &Resolver,
    ) -> Result<Self, BuildError> {
        // A client keeps its connections, so it stays as long as nothing about it changes.
        let engine = match previous {
            Some(previous) if previous.config.engine == config.engine => previous.engine.clone(),
            _ => Engine::new(&config.engine, metrics.engine())?,
        };
        let mut tls = TlsConfigs { resolver: resolver.clone(), ..TlsConfigs::default() };
        let acme = acme(&config, previous)?;
        let mut listeners = foldhash::HashMap::default();
        for listener in config.listeners() {
            let state = ListenerState::build(listener, metrics, &mut tls, acme.as_deref(), previous)?;
            listeners.insert((listener.listen, listener.side), state);
        }
        engine.state_rules(config.hash);
        let room = previous.map_or_else(|| Room::new(config.held_bytes), |state| state.room.bounded(config.held_bytes));
        let roles = metrics.roles(role_names(&config).iter().map(String::as_str));
        let api = metrics.site(Side::Api, api::SITE, api::Call::ALL.map(api::Call::name));
        Ok(Self { config, engine, acme, room, roles, api, listeners })
    }

    /// A listener's configuration and sites.
    #[must_use]
    pub fn listener(&self, address: SocketAddr, side: Side) -> Option<(&Listener, &ListenerState)> {
        let config = self.config.listeners().find(|l| l.side == side && l.listen == address)?;
        Some((config, self.listeners.get(&(address, side))?))
    }

    /// The certificates in use, by the sites that they are for; that of an outbound listener, or of the API, by its address.
    #[must_use]
    pub fn certificates(&self) -> Vec<(Side, Box<str>, Arc<Certificate>)> {
        let mut found = Vec::new();
        for ((address, side), listener) in &self.listeners {
            let sites = listener.sites.values().map(|site| (site.site.name.clone(), site.tls.as_ref()));
            let all = listener.terminators.values();
            let proxy = all.filter(|t| *side == Side::Api || t.terms.default && *side == Side::Outbound);
            let proxy = proxy.map(|terminator| (address.to_string().into(), Some(terminator)));
            for (name, terminator) in sites.chain(proxy) {
                found.extend(terminator.and_then(|t| t.certificate()).map(|certificate| (*side, name, certificate)));
            }
        }
        found
    }

    /// The servers of every site, for their upkeep.
    #[must_use]
    pub fn balances(&self) -> Vec<Arc<Balance>> {
        self.listeners.values().flat_map(|l| l.sites.values()).map(|s| Arc::clone(&s.balance)).collect()
    }
}

/// What orders the certificates that sites want ordered.
fn acme(config: &Config, previous: Option<&State>) -> Result<Option<Arc<Acme>>, BuildError> {
    let Some(settings) = &config.acme else { return Ok(None) };
    let sites = config.inbound.iter().flat_map(|listener| listener.sites.sites());
    let hosts = sites.filter_map(|site| match &site.tls.as_ref()?.certificate {
        Source::Acme(hosts) => Some(hosts.clone()),
        Source::File { .. } => None,
    });
    let client = Arc::new(upstream_config(settings.ca.as_deref(), None, false)?);
    let previous = previous.and_then(|previous| previous.acme.as_deref());
    let acme = Acme::new(settings, client, hosts, previous);
    Ok(Some(Arc::new(acme.map_err(|_| BuildError::Store(settings.store.clone()))?)))
}

fn role_names(config: &Config) -> Vec<String> {
    let sites = config.inbound.iter().chain(&config.outbound).flat_map(|l| l.sites.sites());
    let actions = sites.flat_map(|s| s.rules().iter().flat_map(|r| r.request.iter().chain(&r.response)));
    let mut names: Vec<String> = actions
        .flat_map(|a| match &a.verb {
            Verb::Seal { role, .. } => vec![role.to_string()],
            Verb::Open { roles, .. } => roles.iter().map(ToString::to_string).collect(),
        })
        .collect();
    names.sort();
    names.dedup();
    names
}

impl ListenerState {
    fn build(
        listener: &Listener,
        metrics: &SharedMetrics,
        tls: &mut TlsConfigs,
        acme: Option<&Acme>,
        previous: Option<&State>,
    ) -> Result<Self, BuildError> {
        let mut sites = foldhash::HashMap::default();
        let mut terminators = HashMap::new();
        if let Some(ListenerTls::Proxy(terms)) = &listener.tls {
            terminators.insert(Arc::as_ptr(terms) as usize, Terminator::new(terms, acme)?);
        }
        for site in listener.sites.sites() {
            let state = SiteState::build(site, listener.side, metrics, tls, acme, previous)?;
            if let Some(terminator) = &state.tls {
                terminators.insert(Arc::as_ptr(&terminator.terms) as usize, Arc::clone(terminator));
            }
            sites.insert(Arc::as_ptr(site) as usize, Arc::new(state));
        }
        Ok(Self { sites, terminators, no_site: metrics.no_site(listener.side) })
    }

    /// What is built from a site of this listener.
    #[must_use]
    pub fn built(&self, site: &Arc<Site>) -> Option<&Arc<SiteState>> {
        self.sites.get(&(Arc::as_ptr(site) as usize))
    }

    /// What ends TLS under terms of this listener.
    #[must_use]
    pub fn terminator(&self, terms: &Arc<Terms>) -> Option<Arc<Terminator>> {
        self.terminators.get(&(Arc::as_ptr(terms) as usize)).cloned()
    }

    /// The site of a host name, as [`HostTable::get`].
    #[must_use]
    pub fn site(&self, table: &HostTable, host: &str) -> Option<&Arc<SiteState>> {
        self.sites.get(&(Arc::as_ptr(table.get(host)?) as usize))
    }
}

impl SiteState {
    fn build(
        site: &Arc<Site>,
        side: Side,
        metrics: &SharedMetrics,
        tls: &mut TlsConfigs,
        acme: Option<&Acme>,
        previous: Option<&State>,
    ) -> Result<Self, BuildError> {
        let upstream = &site.upstream;
        let target = Target {
            key: PoolKey::intern(&site.name, upstream.tls.as_ref(), || tls.system()),
            tls: upstream.tls.as_ref().filter(|_| !upstream.is_asked()).map(|t| tls.get(t)).transpose()?,
            http2: upstream.http2,
            proxy_protocol: upstream.proxy_protocol,
            // One client's connection is never lent to another.
            idle_max: if upstream.proxy_protocol.is_some() { 0 } else { upstream.pool_idle },
            idle_time: upstream.pool_idle_timeout,
        };
        // A pattern is no host that a server could be asked for.
        let named = (!site.name.starts_with('*')).then_some(&*site.name);
        let host =
            upstream.host.as_deref().or(named).or(upstream.servers.first().map(|s| &*s.host)).unwrap_or_default();
        // What is known about the servers outlives a reload that leaves them alone.
        let known =
            previous.into_iter().flat_map(State::balances).find(|balance| balance.fits(upstream, &target, host));
        let balance = known.unwrap_or_else(|| Arc::new(Balance::new(upstream, &target, host)));
        let asked = match &upstream.tls {
            Some(trust) if upstream.is_asked() => {
                let config = tls.config(trust)?;
                Some(Asked {
                    either: either(trust, &config),
                    tls: config,
                    resolver: tls.resolver.clone(),
                    hosts: Mutex::new(LruCache::new(ASKED_MOST)),
                })
            }
            _ => None,
        };
        let host = upstream.host.as_deref().map(HeaderValue::from_str).transpose();
        let host = host.map_err(|_| BuildError::ServerName(upstream.host.clone().unwrap_or_default()))?;
        Ok(Self {
            site: Arc::clone(site),
            tls: site.tls.as_ref().map(|terms| Terminator::new(terms, acme)).transpose()?,
            metrics: Arc::new(metrics.site(side, &site.name, site.rules().iter().map(|rule| &*rule.name))),
            target,
            balance,
            destination: upstream.host.clone().unwrap_or_else(|| site.name.clone()),
            host,
            asked,
        })
    }

    /// The site for a request to this host and port: itself, or, where each request's own host is the upstream, one whose connections, certificate's name and
    /// addresses are that host's alone.
    ///
    /// # Errors
    /// The host is an address, or the port is not open.
    pub fn of(self: &Arc<Self>, host: &str, port: u16) -> Result<Arc<Self>, Failure> {
        let Some(asked) = &self.asked else { return Ok(Arc::clone(self)) };
        if !self.site.ports.contains(&port) {
            return Err(Failure::NoTunnel);
        }
        let mut hosts = asked.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (Box::from(host), port);
        if let Some(known) = hosts.get(&key) {
            return Ok(Arc::clone(known));
        }
        // What some read as an address has no name to look up, and none to verify.
        if !matches!(spelled(host), Ok(Spelled::Name | Spelled::Localhost)) {
            return Err(Failure::Egress);
        }
        let name = ServerName::try_from(host.to_owned()).map_err(|_| Failure::UpstreamTls)?;
        let sent = if port == 443 { host.to_owned() } else { format!("{host}:{port}") };
        let fresh = Arc::new(Self {
            site: Arc::clone(&self.site),
            tls: None,
            metrics: Arc::clone(&self.metrics),
            target: Target {
                key: PoolKey::fresh(),
                tls: Some(Tls { config: Arc::clone(&asked.tls), either: asked.either.clone(), name }),
                ..self.target.clone()
            },
            balance: Arc::new(Balance::asked(&self.site.upstream, host, port, &asked.resolver)),
            destination: host.into(),
            host: Some(HeaderValue::from_str(&sent).map_err(|_| Failure::Internal)?),
            asked: None,
        });
        hosts.put(key, Arc::clone(&fresh));
        Ok(fresh)
    }
}

/// One client configuration for each set of authorities: building one reads and parses them all.
#[derive(Default)]
struct TlsConfigs {
    made: HashMap<Trust, Arc<ClientConfig>>,
    /// SHA-256 of the system's authorities, once somebody trusts them.
    system: Option<[u8; 32]>,
    /// For hosts that clients ask for.
    resolver: Resolver,
}

/// What a client configuration is made of.
type Trust = (Option<std::path::PathBuf>, Option<ClientIdentity>, bool);

impl TlsConfigs {
    fn system(&mut self) -> [u8; 32] {
        *self.system.get_or_insert_with(|| {
            let mut all: Vec<_> = rustls_native_certs::load_native_certs().certs;
            // Wherever they come from, they come in any order.
            all.sort_unstable_by(|a, b| a.as_ref().cmp(b.as_ref()));
            let mut digest = Sha256::new();
            for certificate in all {
                digest.update((certificate.len() as u64).to_be_bytes());
                digest.update(&certificate);
            }
            digest.finalize().into()
        })
    }

    fn config(&mut self, tls: &UpstreamTls) -> Result<Arc<ClientConfig>, BuildError> {
        let trust: Trust = (tls.ca.clone(), tls.identity.clone(), tls.only_tls13);
        Ok(match self.made.get(&trust) {
            Some(config) => Arc::clone(config),
            None => {
                let config = Arc::new(upstream_config(tls.ca.as_deref(), tls.identity.as_ref(), tls.only_tls13)?);
                self.made.insert(trust, Arc::clone(&config));
                config
            }
        })
    }

    fn get(&mut self, tls: &UpstreamTls) -> Result<Tls, BuildError> {
        let config = self.config(tls)?;
        let either = either(tls, &config);
        let name = ServerName::try_from(tls.server_name.to_string());
        Ok(Tls { config, either, name: name.map_err(|_| BuildError::ServerName(tls.server_name.clone()))? })
    }
}

/// The same, offering HTTP/2 too, where that is wanted.
fn either(tls: &UpstreamTls, config: &ClientConfig) -> Option<Arc<ClientConfig>> {
    tls.http2.then(|| {
        let mut either = config.clone();
        either.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Arc::new(either)
    })
}

pub(crate) fn client_config(ca: Option<&Path>) -> Result<ClientConfig, BuildError> {
    upstream_config(ca, None, false)
}

fn upstream_config(
    ca: Option<&Path>,
    identity: Option<&ClientIdentity>,
    only_tls13: bool,
) -> Result<ClientConfig, BuildError> {
    let mut roots = RootCertStore::empty();
    match ca {
        Some(file) => {
            let fault = || BuildError::Authorities(file.to_owned());
            for certificate in CertificateDer::pem_file_iter(file).map_err(|_| fault())? {
                roots.add(certificate.map_err(|_| fault())?).map_err(|_| fault())?;
            }
            if roots.is_empty() {
                return Err(fault());
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
            if roots.is_empty() {
                return Err(BuildError::NoAuthorities);
            }
        }
    }
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let versions: &[_] = if only_tls13 { &[&TLS13] } else { &[&TLS13, &TLS12] };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|_| BuildError::NoAuthorities)?
        .with_root_certificates(roots);
    let mut config = match identity {
        None => builder.with_no_client_auth(),
        Some(identity) => {
            let (chain, key) = read_identity(identity)?;
            let fault = || BuildError::Identity(identity.certificate.clone());
            builder.with_client_auth_cert(chain, key).map_err(|_| fault())?
        }
    };
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// A client certificate with what stands between it and its authority, and its key.
fn read_identity(
    identity: &ClientIdentity,
) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), BuildError> {
    let fault = || BuildError::Identity(identity.certificate.clone());
    let chain = CertificateDer::pem_file_iter(&identity.certificate).map_err(|_| fault())?;
    let chain = chain.collect::<Result<Vec<_>, _>>().map_err(|_| fault())?;
    let key = PrivateKeyDer::from_pem_file(&identity.key).map_err(|_| fault())?;
    Ok((chain, key))
}

/// Whether a client certificate can be used with its key.
#[must_use]
pub(crate) fn is_usable(identity: &ClientIdentity) -> bool {
    let Ok((chain, key)) = read_identity(identity) else { return false };
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .is_ok_and(|b| b.with_root_certificates(RootCertStore::empty()).with_client_auth_cert(chain, key).is_ok())
}
