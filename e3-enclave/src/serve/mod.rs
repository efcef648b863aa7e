//! Endpoints, connections, frames, deadlines and drain (SPEC.md, "Frames", "Connections").
//!
//! [`connection`] carries one relay's frames ([`inbox`] in, [`outbox`] out), [`engine`] does what a
//! request asks, [`command`] what an administrator has done, [`link`] is how it proves itself, [`signals`] says when to reload and when to stop.

pub(crate) mod command;
mod connection;
mod engine;
mod inbox;
pub mod link;
mod outbox;
mod signals;

use crate::audit::{Alarm, Audit, PolicyEvent, Record};
use crate::config::Limits;
use crate::error::Error;
use crate::keyring::hex;
use crate::keyring::{HostRoots, Live};
use crate::parent::Health;
use crate::parent::protocol::{State as Doing, Status};
use crate::policy::live::Live as LivePolicy;
use e3_link::attested::engine::Admitted;
use e3_link::{Endpoint, Listener};
use engine::Engine;
use link::Link;
use signals::Signals;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

/// How often the keyring file is looked at.
const KEYRING_LOOK: Duration = Duration::from_millis(500);

/// How often the policy is looked at: what it takes back is taken back within a second.
const POLICY_LOOK: Duration = Duration::from_millis(500);

/// Time for the audit to take what it is told when the engine stops.
const LAST: Duration = Duration::from_secs(2);

/// The counter by which a host knows that a trap was touched.
pub(crate) const HONEY: &str = "honey";

/// How often the host hears how the engine is.
const STATUS: Duration = Duration::from_secs(1);

/// What is served, and to whom it may grow.
pub struct Settings {
    /// Where to listen.
    pub listen: Vec<Endpoint>,
    /// Permission bits of Unix sockets.
    pub socket_mode: u32,
    /// Who may do what.
    pub policy: Arc<LivePolicy>,
    /// Whether an app gets its keys at its first use.
    pub create_apps: bool,
    /// Bounds.
    pub limits: Limits,
    /// Worker threads; the number of cores when absent.
    pub threads: Option<NonZeroUsize>,
    /// The host's health service.
    pub health: Option<Health>,
    /// Where the keyring's roots are from, if it is KMS.
    pub roots: Option<Arc<HostRoots>>,
    /// Who may come in whatever the policy says: relays and administrators of the measured lists.
    pub admitted: Admitted,
    /// How often it is recorded what was sealed.
    pub seals: Duration,
    /// What rings when a trap is touched.
    pub alarm: Alarm,
}

/// Serves relays until SIGTERM or SIGINT, then finishes what is in flight.
///
/// # Errors
/// The engine cannot start.
pub fn run(settings: Settings, live: Live, audit: Audit, link: Link) -> Result<(), Error> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = settings.threads.map_or(cores, usize::from);
    // One thread needs no scheduler between threads, which costs a tenth of a small request.
    let mut builder = match threads {
        1 => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    // Only large requests run on blocking threads; more of them than cores would only wait for each other.
    let runtime = builder
        .worker_threads(threads)
        .max_blocking_threads(threads + 1)
        .thread_name("e3-worker")
        .enable_all()
        .build()
        .map_err(Error::Runtime)?;
    let served = runtime.block_on(serve(settings, live, audit, link));
    // A job that is stuck must not keep the process from ending.
    runtime.shutdown_timeout(Duration::from_millis(100));
    served
}

async fn serve(settings: Settings, live: Live, audit: Audit, link: Link) -> Result<(), Error> {
    let mut signals = Signals::new().map_err(Error::Runtime)?;
    let mut listeners = Vec::new();
    for endpoint in &settings.listen {
        let bound = endpoint.listen(settings.socket_mode).await;
        listeners.push(bound.map_err(|source| Error::Listen { endpoint: endpoint.clone(), source })?);
    }
    let (limits, epoch) = (settings.limits, live.current().epoch());
    let keys = (live, settings.roots);
    let engine = Engine::new(settings.policy, keys, (audit, settings.alarm), settings.create_apps, limits);
    let engine = Arc::new(engine);
    let policy = Follower { engine: Arc::clone(&engine), link: link.clone(), admitted: settings.admitted.clone() };
    policy.begin().await;
    let (drain, draining) = watch::channel(false);
    let room = Arc::new(Semaphore::new(limits.connections));
    let mut accepting = JoinSet::new();
    for listener in listeners {
        accepting.spawn(accept(listener, Arc::clone(&engine), link.clone(), Arc::clone(&room), draining.clone()));
    }
    match &link {
        Link::Plain(_) => {
            tracing::warn!("development mode: the engine link proves nothing, and keys are in this host's memory")
        }
        Link::Attested(_) => tracing::info!("attested link: relays are known by their keys"),
    }
    let names: Vec<String> = settings.listen.iter().map(ToString::to_string).collect();
    tracing::info!(endpoints = names.join(" "), keyring_epoch = epoch, "ready");
    signals::notify("READY=1");
    let following = tokio::spawn(policy.clone().follow());
    let counting = tokio::spawn(record_seals(Arc::clone(&engine), settings.seals));
    let watching = tokio::spawn(follow_keyring(Arc::clone(&engine)));
    let proving = tokio::spawn(link.clone().keep_fresh(Arc::clone(&engine)));
    let telling = settings.health.clone().map(|health| tokio::spawn(tell(health, Arc::clone(&engine))));
    while signals.next().await == signals::Signal::Reload {
        reload(&engine, true).await;
        policy.look(true).await;
    }
    watching.abort();
    following.abort();
    counting.abort();
    proving.abort();
    if let (Some(health), Some(telling)) = (&settings.health, &telling) {
        telling.abort();
        health.report(status(Doing::Stopping, &engine));
    }
    tracing::info!("draining");
    signals::notify("STOPPING=1");
    // Receivers outlive the engine's loops, so this cannot be lost.
    drain.send_replace(true);
    while accepting.join_next().await.is_some() {}
    // Every connection holds a permit: all of them back means that nothing is in flight.
    let all = u32::try_from(limits.connections).unwrap_or(u32::MAX);
    tokio::select! {
        _ = room.acquire_many(all) => {}
        () = tokio::time::sleep(limits.drain) => tracing::warn!("requests were still in flight when the drain time ended"),
        () = async { while signals.next().await != signals::Signal::Stop {} } => tracing::warn!("stopped while draining"),
    }
    let last = Arc::clone(&engine);
    drop(tokio::task::spawn_blocking(move || last.seals().record_last(last.audit(), LAST)).await);
    engine.counters().log();
    tracing::info!("stopped");
    Ok(())
}

/// Accepts connections until the drain begins; the listener is closed then.
async fn accept(
    listener: Listener,
    engine: Arc<Engine>,
    link: Link,
    room: Arc<Semaphore>,
    mut draining: watch::Receiver<bool>,
) {
    loop {
        // Room first: connections over the limit wait in the kernel's queue.
        let permit = tokio::select! {
            permit = Arc::clone(&room).acquire_owned() => permit,
            _ = draining.wait_for(|d| *d) => return,
        };
        let Ok(permit) = permit else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = draining.wait_for(|d| *d) => return,
        };
        match accepted {
            Ok(stream) => {
                let (engine, link, draining) = (Arc::clone(&engine), link.clone(), draining.clone());
                tokio::spawn(async move {
                    if let Some((stream, session)) = link.secure(stream).await {
                        connection::serve(stream, engine, link, session, draining).await;
                    }
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                // Out of file descriptors, most likely: trying at once would only spin.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// Has it recorded now and then what was sealed.
async fn record_seals(engine: Arc<Engine>, every: Duration) {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        engine.seals().record(engine.audit(), every.max(LAST));
    }
}

/// Puts newer policies in force.
#[derive(Clone)]
struct Follower {
    engine: Arc<Engine>,
    link: Link,
    admitted: Admitted,
}

impl Follower {
    async fn follow(self) {
        let mut ticks = tokio::time::interval(POLICY_LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look(false).await;
        }
    }

    /// Takes up the policy that was in force before anybody was served, or looks for one.
    async fn begin(&self) {
        match self.engine.policy().current().state() {
            Some(state) => {
                self.tell(&PolicyEvent::Loaded { version: state.version, hash: state.hash }).await;
                self.admit();
            }
            None => self.look(false).await,
        }
    }

    async fn look(&self, force: bool) {
        let engine = Arc::clone(&self.engine);
        let looked = tokio::task::spawn_blocking(move || engine.policy().reload(force)).await;
        match &looked {
            Ok(Ok(Some(loaded))) => {
                self.tell(&PolicyEvent::Loaded { version: loaded.version, hash: loaded.hash }).await
            }
            Ok(Err(fault)) => self.tell(&PolicyEvent::Refused(fault.as_str())).await,
            Ok(Ok(None)) | Err(_) => {}
        }
        match looked {
            Ok(Ok(None)) => {}
            Ok(Ok(Some(loaded))) => {
                tracing::info!(version = loaded.version, hash = hex(&loaded.hash), "the policy is in force");
                self.admit();
            }
            Ok(Err(fault)) => tracing::error!(%fault, "the policy is not put in force; the one that is stays"),
            Err(error) => tracing::error!(%error, "the policy was not looked at"),
        }
    }

    /// Has it recorded. The policy is in force by then: a sink that is full must not keep a grant that was taken back.
    async fn tell(&self, event: &PolicyEvent) {
        let record = Record::of_policy(event, Instant::now() + LAST);
        let audit = self.engine.audit().clone();
        let told = tokio::task::spawn_blocking(move || record.and_then(|record| audit.record(record, LAST))).await;
        if !matches!(told, Ok(Some(_))) {
            tracing::error!("the audit did not take the record of a change of the policy");
        }
    }

    /// Lets in whom the policy knows, beside those of the measured lists.
    fn admit(&self) {
        let policy = self.engine.policy().current();
        let mut admitted = self.admitted.clone();
        admitted.relays.extend(policy.relays());
        admitted.strangers = policy.knows_images();
        self.link.admit(admitted);
        // Relays see what is in force with their next session.
        self.link.renew(&self.engine);
    }
}

async fn follow_keyring(engine: Arc<Engine>) {
    let mut ticks = tokio::time::interval(KEYRING_LOOK);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        reload(&engine, false).await;
    }
}

/// Tells the host how the engine is, whenever that has changed.
async fn tell(health: Health, engine: Arc<Engine>) {
    let mut ticks = tokio::time::interval(STATUS);
    let mut told = None;
    loop {
        ticks.tick().await;
        let now = status(Doing::Ready, &engine);
        if told.as_ref() != Some(&now) {
            health.report(now.clone());
            told = Some(now);
        }
    }
}

fn status(state: Doing, engine: &Engine) -> Status {
    let mut counters = engine.counters().list();
    counters.push((HONEY.to_owned(), engine.alarm().count()));
    Status { state, epoch: engine.keyring().epoch(), cause: String::new(), counters }
}

async fn reload(engine: &Arc<Engine>, force: bool) {
    let (engine, followed) = (Arc::clone(engine), engine);
    match tokio::task::spawn_blocking(move || engine.reload(force)).await {
        Ok(Ok(Some(epoch))) => {
            followed.audit().sign_with(followed.keyring().audit_key().cloned());
            tracing::info!(epoch, "keyring reloaded");
        }
        Ok(Ok(None)) => {}
        Ok(Err(error)) => tracing::error!(%error, "keyring not reloaded; the one in force stays"),
        Err(error) => tracing::error!(%error, "keyring not reloaded"),
    }
}
