//! `relay run`: puts the parts together and lets them run.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use pingora_core::server::ShutdownWatch;
use pingora_core::services::ServiceWithDependents;
use pingora_core::services::background::{BackgroundService, GenBackgroundService};
use pingora_core::services::listening::Service;

use crate::admin::{
    AdminApp, CertificateStatus, ConfigStatus, EndpointStatus, EngineStatus, HeldStatus, ListenerStatus, Readiness,
    SiteStatus, Source, Status,
};
use crate::command::BAD_INPUT;
use crate::config::resolved::{Listener, ListenerTls, Site};
use crate::exchange::balance::Tending;
use crate::lifecycle::{Ended, Process, StartError};
use crate::metrics::{Metrics, SharedMetrics, side_label};
use crate::reload::{Candidate, Fixed, Live, Reloader, unix_seconds};
use crate::state::State;
use crate::{config, listen, log};

/// Time between two questions to an engine that is ready.
const ASK_READY: Duration = Duration::from_secs(1);

/// Time between two questions to an engine that is not.
const ASK_AWAY: Duration = Duration::from_millis(200);

/// Time between two looks at what is due for the upstreams.
const TEND: Duration = Duration::from_millis(250);

/// What `relay run` is told.
#[derive(Debug, Clone)]
pub struct Options {
    /// The rules file.
    pub config: PathBuf,
    /// Take the listening sockets over from a running relay.
    pub upgrade: bool,
    /// Unix socket over which they pass.
    pub upgrade_socket: PathBuf,
}

/// Why a relay could not run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The rules file is bad: the whole report for people.
    #[error("{0}")]
    Rules(String),
    /// The process could not start.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The metrics are defective.
    #[error("the metrics cannot be registered: {0}")]
    Metrics(#[from] prometheus::Error),
}

impl RunError {
    /// The exit code, as `--help` documents it.
    #[must_use]
    pub fn exit_code(&self) -> ExitCode {
        match self {
            Self::Rules(_) => ExitCode::from(BAD_INPUT),
            Self::Start(_) | Self::Metrics(_) => ExitCode::FAILURE,
        }
    }
}

/// The exit codes of `relay run`, as README.md documents them.
#[must_use]
pub fn exit_code(ended: Ended) -> ExitCode {
    match ended {
        Ended::Drained => ExitCode::SUCCESS,
        Ended::Cut => ExitCode::from(3),
        Ended::Interrupted => ExitCode::from(130),
    }
}

/// Runs until a signal ends it.
///
/// # Errors
/// The rules file is bad, an address is taken, or no relay hands its sockets over.
pub fn run(options: Options) -> Result<Ended, RunError> {
    let started = Instant::now();
    let metrics = Arc::new(Metrics::new()?);
    let loader = Loader { file: options.config.clone(), metrics: Arc::clone(&metrics), last: Mutex::new(None) };
    let reloader = Reloader::start(options.config, Arc::clone(&metrics), Box::new(move || loader.load()));
    let reloader = Arc::new(reloader.map_err(RunError::Rules)?);
    let live = Arc::clone(reloader.live());
    let state = live.hold();
    let config = &state.config;
    let operator = Arc::new(Operator { started, metrics: Arc::clone(&metrics), reloader: Arc::clone(&reloader) });

    let mut addresses = BTreeSet::new();
    let mut services = Vec::new();
    for listener in config.listeners() {
        addresses.insert(listener.listen);
        services.push(listen::service(listener.listen, listener.side, Arc::clone(&live), Arc::clone(&metrics)));
    }
    if let Some(address) = config.admin.listen {
        addresses.insert(address);
        let mut admin = Service::new("admin".to_owned(), AdminApp::new(operator));
        admin.add_tcp(&address.to_string());
        admin.threads = Some(1);
        services.push(Box::new(admin));
    }
    services.push(background("reload", ReloadService(reloader)));
    services.push(background("certificates", Orders { live: Arc::clone(&live), metrics: Arc::clone(&metrics) }));
    services.push(background("upkeep", Upkeep(Arc::clone(&live))));
    services.push(background("engine health", EngineHealth { live: Arc::clone(&live), metrics: Arc::clone(&metrics) }));

    let process = Process {
        addresses,
        services,
        threads: config.threads,
        metrics,
        grace: Box::new(move || live.current().config.grace),
        upgrade_socket: options.upgrade_socket,
        take_over: options.upgrade,
    };
    let ended = process.run();
    log::tell_all_suppressed();
    Ok(ended?)
}

fn background<S: BackgroundService + Send + Sync + 'static>(name: &str, task: S) -> Box<dyn ServiceWithDependents> {
    Box::new(GenBackgroundService::new(name.to_owned(), Arc::new(task)))
}

/// Makes a state from the rules file.
struct Loader {
    file: PathBuf,
    metrics: SharedMetrics,
    /// The state that was built last: what a reload leaves alone keeps its connections.
    last: Mutex<Option<Arc<State>>>,
}

impl Loader {
    fn load(&self) -> Result<Candidate<State>, String> {
        let loaded = config::load(&self.file).map_err(|report| report.to_string())?;
        let config = loaded.config;
        log::start(config.log);
        let (hash, fixed, files) = (config.hash, Fixed::of(&config), config.files.clone());
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let state = State::build(config, &self.metrics, last.as_deref()).map_err(|error| error.to_string())?;
        let state = Arc::new(state);
        *last = Some(Arc::clone(&state));
        let warnings = loaded.warnings.lines();
        Ok(Candidate { state, hash, fixed, files, warnings })
    }
}

/// Reloads the rules until the relay drains.
struct ReloadService(Arc<Reloader<State>>);

#[async_trait]
impl BackgroundService for ReloadService {
    async fn start(&self, shutdown: ShutdownWatch) {
        if let Err(error) = self.0.watch(down(shutdown)).await {
            tracing::error!(%error, "SIGHUP cannot be received; the rules are not reloaded");
        }
    }
}

/// Asks the engine whether it is ready, so that readiness is known before a message needs it.
struct EngineHealth {
    live: Arc<Live<State>>,
    metrics: SharedMetrics,
}

#[async_trait]
impl BackgroundService for EngineHealth {
    async fn start(&self, shutdown: ShutdownWatch) {
        let mut down = std::pin::pin!(down(shutdown));
        let mut was = None;
        loop {
            let state = self.live.hold();
            let asked = async {
                state.engine.ping().await;
                let ready = state.engine.health().ready;
                self.metrics.engine_ready(ready);
                if was.replace(ready) != Some(ready) {
                    if ready { tracing::info!("engine ready") } else { tracing::warn!("engine not ready") }
                }
                drop(state);
                tokio::time::sleep(if ready { ASK_READY } else { ASK_AWAY }).await;
            };
            tokio::select! {
                // Messages in flight still need the engine, but nobody asks for readiness any more.
                () = down.as_mut() => return,
                () = asked => {}
            }
        }
    }
}

/// Looks up the upstreams' names again and checks their health, when that is due, and tells of log lines that were kept back.
struct Upkeep(Arc<Live<State>>);

#[async_trait]
impl BackgroundService for Upkeep {
    async fn start(&self, shutdown: ShutdownWatch) {
        let mut down = std::pin::pin!(down(shutdown));
        let tending = Tending::default();
        loop {
            let round = async {
                tending.round(self.0.hold().balances()).await;
                log::tell_suppressed();
                tokio::time::sleep(TEND).await;
            };
            tokio::select! {
                () = down.as_mut() => return,
                () = round => {}
            }
        }
    }
}

/// Orders certificates that are due.
struct Orders {
    live: Arc<Live<State>>,
    metrics: SharedMetrics,
}

#[async_trait]
impl BackgroundService for Orders {
    async fn start(&self, shutdown: ShutdownWatch) {
        let mut down = std::pin::pin!(down(shutdown));
        loop {
            let acme = self.live.hold().acme.clone();
            let round = async {
                if let Some(acme) = &acme {
                    acme.round(&self.metrics).await;
                }
                tokio::time::sleep(TEND).await;
            };
            tokio::select! {
                () = down.as_mut() => {
                    if let Some(acme) = acme {
                        acme.release();
                    }
                    return;
                }
                () = round => {}
            }
        }
    }
}

async fn down(mut shutdown: ShutdownWatch) {
    drop(shutdown.wait_for(|down| *down).await);
}

/// What the admin listener tells.
struct Operator {
    started: Instant,
    metrics: SharedMetrics,
    reloader: Arc<Reloader<State>>,
}

impl Source for Operator {
    fn metrics(&self) -> Option<String> {
        let state = self.reloader.live().hold();
        let certificates = state.certificates();
        self.metrics
            .certificates(certificates.iter().map(|(side, site, read)| (*side, &**site, unix_seconds(read.not_after))));
        self.metrics.held_bytes(state.room.held());
        self.metrics.expose().ok()
    }

    fn readiness(&self) -> Readiness {
        let state = self.reloader.live().hold();
        let health = state.engine.health();
        let refused =
            || health.endpoints.iter().find_map(|e| Some(format!("engine {}: {}", e.endpoint, e.refusal.as_ref()?)));
        let cause = || refused().map_or(Cow::Borrowed("engine: no endpoint answers as ready"), Cow::Owned);
        if !health.ready {
            return Readiness { ready: false, cause: Some(cause()) };
        }
        let missing = state.acme.as_ref().and_then(|acme| {
            let slot = acme.missing().next()?;
            let host = slot.hosts().first().map_or("-", |host| &**host);
            let last = slot.standing().last.map_or("it is being ordered", |(_, fault)| fault.code());
            Some(Cow::Owned(format!("no certificate for {host} yet: {last}")))
        });
        Readiness { ready: missing.is_none(), cause: missing }
    }

    fn ca(&self) -> Option<String> {
        self.reloader.live().hold().config.ca.as_ref().map(|ca| ca.pem().to_owned())
    }

    fn status(&self) -> Status {
        let state = self.reloader.live().hold();
        let config = &state.config;
        let health = state.engine.health();
        Status {
            version: env!("CARGO_PKG_VERSION"),
            pid: std::process::id(),
            uptime_seconds: self.started.elapsed().as_secs_f64(),
            readiness: self.readiness(),
            connections: self.metrics.connections(),
            held_bytes: HeldStatus { now: state.room.held(), most: state.room.most() },
            config: ConfigStatus::new(self.reloader.file(), self.reloader.standing()),
            listeners: listeners(&state),
            engine: EngineStatus {
                app: config.engine.app.to_string(),
                development: config.engine.development,
                endpoints: health
                    .endpoints
                    .iter()
                    .map(|one| EndpointStatus {
                        endpoint: one.endpoint.to_string(),
                        ready: one.ready,
                        refused: one.refusal.as_ref().map(ToString::to_string),
                    })
                    .collect(),
            },
        }
    }
}

fn listeners(state: &State) -> Vec<ListenerStatus> {
    let listener = |listener: &Listener| {
        let built = state.listener(listener.listen, listener.side).map(|(_, built)| built);
        let terminator = |site: &Arc<Site>| built?.built(site)?.tls.clone();
        let mut sites: Vec<SiteStatus> = listener
            .sites
            .sites()
            .map(|site| SiteStatus {
                name: site.name.to_string(),
                hosts: site.hosts.iter().map(ToString::to_string).collect(),
                rules: site.rules().len(),
                certificate: terminator(site).map(|terminator| CertificateStatus::new(&terminator)),
                upstream: site
                    .upstream
                    .servers
                    .iter()
                    .map(|server| format!("{}:{}", server.host, server.port))
                    .collect(),
            })
            .collect();
        sites.sort_by(|a, b| a.name.cmp(&b.name));
        let certificate = match &listener.tls {
            Some(ListenerTls::Proxy(terms)) => {
                built.and_then(|built| built.terminator(terms)).map(|terminator| CertificateStatus::new(&terminator))
            }
            _ => None,
        };
        ListenerStatus { address: listener.listen.to_string(), side: side_label(listener.side), certificate, sites }
    };
    state.config.listeners().map(listener).collect()
}

/// Where listening sockets pass to a successor unless the command line says otherwise.
#[must_use]
pub fn default_upgrade_socket() -> &'static Path {
    Path::new("/run/relay/upgrade.sock")
}
