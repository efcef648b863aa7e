//! From the machine's first instruction of ours to service: check what everything rests on, read what was measured, unlock the keys, serve.
//!
//! What can be repaired from outside (a host that is not up, a key policy, a store that lost its files) is waited for, and its cause said to the host and to relays. What
//! cannot ends the machine.

use super::boot::{self, BootError};
use super::clock::{self, ClockError, Compared};
use super::door::Door;
use super::entropy::{self, EntropyError};
use super::reception::Reception;
use crate::audit::{Alarm, Audit};
use crate::config::Limits;
use crate::error::Error;
use crate::inputs::{Inputs, Rules};
use crate::keyring::unlock::KmsRoot;
use crate::keyring::{HostRoots, Live, UnlockError};
use crate::kms::client::{Kms, Way};
use crate::module::Nsm;
use crate::parent::protocol::{State as Doing, Status};
use crate::parent::{BlobStore, Health, Parent, starter};
use crate::policy::live::{Live as LivePolicy, Source};
use crate::serve::link::Link;
use crate::serve::{self, Settings};
use crate::{harden, log};
use e3_attest::{State, Verifier};
use e3_link::Endpoint;
use e3_link::attested::engine::{Admitted, EngineTls};
use e3_link::attested::{Attester, Locked};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

/// Where relays find the engine.
pub const PORT: u32 = 7003;

/// Time for one answer of the host's store.
const STORE_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for the host to acknowledge audit records.
const AUDIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Time for one try of KMS.
const KMS_TIMEOUT: Duration = Duration::from_secs(5);

/// Time between two records of what was sealed.
const SEALS: Duration = Duration::from_secs(1);

/// First pause between two tries to unlock; it doubles.
const PAUSE: Duration = Duration::from_secs(1);

/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Time for the host to take the last words.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// Why the engine cannot be started in this machine.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The machine.
    #[error(transparent)]
    Boot(#[from] BootError),
    /// There is no security module.
    #[error("there is no security module: /dev/nsm cannot be opened; is this an enclave?")]
    NoModule,
    /// Random numbers.
    #[error(transparent)]
    Entropy(#[from] EntropyError),
    /// The time.
    #[error(transparent)]
    Clock(#[from] ClockError),
    /// Everything else.
    #[error(transparent)]
    Engine(#[from] Error),
}

/// Whether this process is the first program of an enclave image.
#[must_use]
pub fn is_init() -> bool {
    rustix::process::getpid().is_init() && std::env::args_os().next().is_some_and(|name| name == "/init")
}

/// The first program's life. Ends with the machine.
pub fn init() {
    match begin() {
        Ok(()) => println!("e3: stopped"),
        // The host has heard it too; a console is there in debug mode alone.
        Err(error) => println!("e3: {error}"),
    }
    // Init must not return: the kernel would panic, which says less.
    if let Err(error) = rustix::system::reboot(rustix::system::RebootCommand::Restart) {
        println!("e3: cannot restart: {error}");
    }
}

fn begin() -> Result<(), StartError> {
    boot::prepare()?;
    harden::harden()?;
    harden::keep_in_memory()?;
    let cid = boot::parent_cid()?;
    let parent = Parent::at(cid);
    let health = Health::start(parent.health.clone())?;
    log::start_at_host(health.clone());
    starter::tell(cid);
    let served = prepared(&parent, &health);
    if let Err(error) = &served {
        tracing::error!(%error, "the engine cannot start in this machine");
        health.report(status(Doing::Failed, error.to_string()));
    }
    let _: bool = health.flush(LAST_WORDS);
    served
}

fn prepared(parent: &Parent, health: &Health) -> Result<(), StartError> {
    health.report(status(Doing::Starting, String::new()));
    let module = Nsm::open().ok_or(StartError::NoModule)?;
    entropy::mix(&module)?;
    let module: Arc<dyn Attester> = Arc::new(module);
    if let Compared::Set(off) = clock::follow(&*module)? {
        tracing::info!(off_ms = off.as_millis(), "the clock was set to the security module's");
    }
    clock::keep(Arc::clone(&module)).map_err(Error::Runtime)?;
    let inputs = Inputs::load(Path::new(boot::INPUTS))?;
    let listen = vec![Endpoint::Vsock { cid: e3_link::CID_ANY, port: PORT }];
    Ok(run(inputs, parent, health, module, Verifier::aws(), listen)?)
}

/// Unlocks the keys of these inputs through `parent`, and serves until the process is told to stop.
///
/// # Errors
/// The engine cannot start. What can be repaired from outside is no error: it is waited for.
pub fn run(
    inputs: Inputs,
    parent: &Parent,
    health: &Health,
    module: Arc<dyn Attester>,
    callers: Verifier,
    listen: Vec<Endpoint>,
) -> Result<(), Error> {
    let admitted = Admitted {
        relays: inputs.relays.iter().copied().collect(),
        admins: inputs.admins.iter().copied().collect(),
        strangers: false,
    };
    let tls = EngineTls::new(Arc::clone(&module), admitted.clone(), State::default()).map_err(Error::Link)?;
    let tls = Arc::new(tls);
    tls.lock(Locked::Starting).map_err(Error::Link)?;
    let limits = Limits::of_this_machine();
    let blobs = Arc::new(BlobStore::new(parent.store.clone(), STORE_TIMEOUT)?);
    let way = Way { forwarder: parent.kms.clone(), credentials: parent.credentials.clone(), timeout: KMS_TIMEOUT };
    let source = KmsRoot::new(Kms::new(&inputs.kms, &way, module).map_err(UnlockError::Kms)?)?;
    let policy = Arc::new(match inputs.policy {
        Rules::Declared(policy) => LivePolicy::fixed(policy),
        Rules::Signed(signers) => LivePolicy::following(Source::Host(Arc::clone(&blobs)), signers, false),
    });
    let roots = HostRoots::new(blobs, Arc::new(source), inputs.expected, inputs.kms.key.as_str());
    let audit = Audit::start_at_host(parent.audit.clone(), AUDIT_TIMEOUT)?;
    let (made, making) = sync_channel(1);
    let reception = Reception::new(Arc::clone(&tls), audit.clone(), Arc::clone(&roots), made);
    let door = Door::open(&listen, SOCKET_MODE, &tls, reception)?;
    health.report(status(Doing::Unlocking, String::new()));
    let live = unlocked(|| roots.open(), &making, &tls, health)?;
    tls.renew(serve::link::stated(&live.current())).map_err(Error::Link)?;
    drop(door);
    let settings = Settings {
        listen,
        socket_mode: SOCKET_MODE,
        policy,
        // Keys are made by command alone.
        create_apps: false,
        limits,
        threads: None,
        health: Some(health.clone()),
        roots: Some(roots),
        admitted,
        seals: SEALS,
        // The host rings: it sees the count rise.
        alarm: Alarm::default(),
    };
    serve::run(settings, live, audit, Link::over(tls, callers))
}

/// Unix sockets are for tests alone, and then for their user.
const SOCKET_MODE: u32 = 0o600;

/// Tries until the keys are there, or an administrator has made them.
fn unlocked(
    mut open: impl FnMut() -> Result<Live, Error>,
    making: &Receiver<Live>,
    tls: &EngineTls,
    health: &Health,
) -> Result<Live, Error> {
    let mut pause = PAUSE;
    loop {
        let cause = match open() {
            Ok(live) => return Ok(live),
            Err(Error::Unlock(cause)) => cause,
            Err(other) => return Err(other),
        };
        tracing::error!(error = %cause, "no keys yet");
        let doing = if matches!(cause, UnlockError::Uninitialised) { Doing::Uninitialised } else { Doing::Failed };
        health.report(status(doing, cause.to_string()));
        // Also renews the document of whoever looks meanwhile.
        if let Err(error) = tls.lock(cause.locked()) {
            tracing::error!(%error, "the certificate was not renewed");
        }
        if let Ok(live) = making.recv_timeout(pause) {
            return Ok(live);
        }
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

fn status(state: Doing, cause: String) -> Status {
    Status { state, epoch: 0, cause, counters: Vec::new() }
}
