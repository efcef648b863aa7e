//! An administrator's side: `e3 keys … --engine`, which has a running engine do what the same command does to a keyring file.
//!
//! [`rewrap`] is what it does with tokens. Several engines are alternatives that serve one keyring. What changes it goes to the first; the others follow through their stores, and are asked whether they did.

mod rewrap;

use crate::args::Engines;
use crate::keyring::{Lineage, storage};
use e3_attest::{PcrSets, Verifier};
use e3_link::Endpoint;
use e3_link::attested::admin::{AdminError, AdminKey, AdminSession};
use e3_link::attested::certificate::CertificateFault;
use e3_link::attested::memory::{KeyringId, Memory};
use e3_link::attested::relay::RelayTls;
use e3_wire::{
    AdminAnswer, AdminRefusal, AdminVerb, App, Done, KeyLineage, KeyUse, KeyringNow, ListedKey, Refusal,
    RequestRefusal, RootFate,
};
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// Time for one answer: a command may wait for the audit, the host's store and KMS.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Time for the other engines to follow a change.
const FOLLOW: Duration = Duration::from_secs(10);

/// Why a command to running engines was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OperatorError {
    /// The file of expected PCRs.
    #[error("{}: no expected PCRs: {source}", path.display())]
    Pcrs {
        /// Which.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
    /// The administrator's key.
    #[error("{}: {cause}", path.display())]
    Key {
        /// Which.
        path: PathBuf,
        /// Why.
        cause: CertificateFault,
    },
    /// The session with an engine.
    #[error("{endpoint}: {cause}")]
    Session {
        /// Which engine.
        endpoint: Endpoint,
        /// Why.
        cause: AdminError,
    },
    /// The engine refuses.
    #[error("{endpoint}: {refusal}{}", Detail(*refusal, *detail))]
    Refused {
        /// Which engine.
        endpoint: Endpoint,
        /// Why.
        refusal: AdminRefusal,
        /// An epoch or kid.
        detail: u64,
    },
    /// Two engines serve unlike keyrings.
    #[error("{endpoint}: serves keyring {found}, and the first engine {expected}: they are no alternatives")]
    OtherKeyring {
        /// Which engine.
        endpoint: Endpoint,
        /// The first engine's.
        expected: KeyringId,
        /// This engine's.
        found: KeyringId,
    },
    /// An engine lacks the key that is to be promoted.
    #[error(
        "{endpoint}: does not hold key {kid} of {app}; nothing was promoted: it would refuse the tokens that the other engines make. Is its host's store a copy from before the rotation?"
    )]
    Lacks {
        /// Which engine.
        endpoint: Endpoint,
        /// Whose key.
        app: App,
        /// The key.
        kid: u32,
    },
    /// No key waits.
    #[error("no key of {app} waits to be promoted; `e3 keys rotate --app {app}` adds one")]
    NothingWaits {
        /// Whose.
        app: App,
    },
    /// An engine did not follow.
    #[error(
        "{endpoint}: is at epoch {found}, and the change made epoch {expected}: copy the keyring of the first engine's host to this one's"
    )]
    Behind {
        /// Which engine.
        endpoint: Endpoint,
        /// Where it should be.
        expected: u64,
        /// Where it is.
        found: u64,
    },
    /// Distributing and promoting at once with several engines.
    #[error(
        "--now is for a single engine: with several, distribute first, and promote once each of them holds the key"
    )]
    NowWithSeveral,
    /// A line that is no token, or none of this app.
    #[error("line {line}: {refusal}; the lines before it are done")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// Why.
        refusal: Refusal,
    },
    /// An empty or overlong line.
    #[error("line {line}: not one token; the lines before it are done")]
    NoToken {
        /// Its number, from 1.
        line: usize,
    },
    /// The engine refuses a batch.
    #[error("lines {first} to {last}: {refusal}; the lines before them are done")]
    Batch {
        /// First line.
        first: usize,
        /// Last line.
        last: usize,
        /// Why.
        refusal: RequestRefusal,
    },
    /// The tokens cannot be read or written.
    #[error("tokens cannot be read or written: {0}")]
    Io(io::Error),
    /// KMS still opens a root that was replaced.
    #[error(
        "KMS does not deny root version {0}: take it out of the key policy's condition on `e3:root-version`, then run `e3 keys destroy --verify`. Until then an old copy of the keyring opens with it"
    )]
    StillAllowed(u32),
}

/// What the number of a refusal means, for people.
struct Detail(AdminRefusal, u64);

impl std::fmt::Display for Detail {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.0, self.1) {
            (_, 0) => Ok(()),
            (AdminRefusal::Epoch, epoch) => write!(f, " (it is at epoch {epoch})"),
            (_, kid) => write!(f, " (key {kid})"),
        }
    }
}

impl OperatorError {
    /// The process's exit code: 2 wrong input, 3 keys refused, 5 KMS denies access or still allows it, else 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Pcrs { .. } | Self::Key { .. } | Self::NowWithSeveral => 2,
            Self::Refused { refusal: AdminRefusal::Denied, .. } | Self::StillAllowed(_) => 5,
            Self::Refused { .. } | Self::OtherKeyring { .. } | Self::Lacks { .. } | Self::NothingWaits { .. } => 3,
            _ => 1,
        }
    }
}

/// Trusts AWS's root.
#[cfg(not(feature = "test-module"))]
fn verifier(_: &Path) -> Verifier {
    Verifier::aws()
}

/// Trusts the root in the file with this name and `.root` behind it, for tests with a security module of their own; else AWS's.
#[cfg(feature = "test-module")]
fn verifier(beside: &Path) -> Verifier {
    let mut name = beside.as_os_str().to_owned();
    name.push(".root");
    let other = std::fs::read(name).ok();
    other.and_then(|root| Verifier::with_test_root(root).ok()).unwrap_or(Verifier::aws())
}

/// An administrator's key from its file, which nobody but its owner may read.
///
/// # Errors
/// The file cannot be read, is open to others, or holds no such key.
pub fn admin_key(path: &Path) -> Result<AdminKey, crate::Error> {
    let pem = zeroize::Zeroizing::new(storage::read_private(path)?);
    let key = std::str::from_utf8(&pem).map_err(|_| CertificateFault::AdminKey).and_then(AdminKey::from_pem);
    key.map_err(|cause| OperatorError::Key { path: path.to_owned(), cause }.into())
}

/// The engines of a command line, and how they are asked.
pub struct Operator {
    engines: Vec<Endpoint>,
    key: AdminKey,
    verifier: Verifier,
    accepted: PcrSets,
    keyring: Option<KeyringId>,
    runtime: tokio::runtime::Runtime,
}

/// The keys of one engine.
pub struct Listed {
    /// Which.
    pub endpoint: Endpoint,
    /// Its keyring.
    pub now: KeyringNow,
    /// The keys, ascending by kid.
    pub keys: Vec<ListedKey>,
}

/// One engine, and its keyring as it answered last.
struct Engine<'o> {
    endpoint: &'o Endpoint,
    session: AdminSession<'o>,
    now: KeyringNow,
    keys: Vec<ListedKey>,
}

impl Operator {
    /// What the command line names; `None` where it names no engine.
    ///
    /// # Errors
    /// The key or the expected PCRs cannot be read.
    pub fn of(args: &Engines) -> Result<Option<Self>, crate::Error> {
        let (Some(key), Some(pcrs)) = (&args.admin_key, &args.pcrs) else { return Ok(None) };
        if args.engines.is_empty() {
            return Ok(None);
        }
        let text = std::fs::read_to_string(pcrs).map_err(|source| crate::Error::Read { path: pcrs.clone(), source })?;
        let accepted: PcrSets =
            serde_json::from_str(&text).map_err(|source| OperatorError::Pcrs { path: pcrs.clone(), source })?;
        let key = admin_key(key)?;
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(crate::Error::Runtime)?;
        let verifier = verifier(pcrs);
        Ok(Some(Self { engines: args.engines.clone(), key, verifier, accepted, keyring: args.keyring, runtime }))
    }

    /// The keys of every engine.
    ///
    /// # Errors
    /// An engine cannot be asked.
    pub fn list(&self) -> Result<Vec<Listed>, OperatorError> {
        self.runtime.block_on(async {
            let all = self.all().await?;
            let listed =
                |engine: Engine<'_>| Listed { endpoint: engine.endpoint.clone(), now: engine.now, keys: engine.keys };
            Ok(all.into_iter().map(listed).collect())
        })
    }

    /// Gives an app its first keys; answers the epoch.
    ///
    /// # Errors
    /// The engine refuses, or another one does not follow.
    pub fn create_app(&self, app: App) -> Result<u64, OperatorError> {
        self.runtime.block_on(async {
            let mut all = self.all().await?;
            let now = self.first(&mut all)?.done(AdminVerb::CreateApp { app }).await?.0;
            self.followed(&mut all, now.epoch).await
        })
    }

    /// Adds a key of each app, or promotes the one that waits, or both; answers what was done, for people.
    ///
    /// # Errors
    /// An engine lacks what it needs, refuses, or does not follow.
    pub fn rotate(
        &self,
        app: Option<App>,
        lineage: Lineage,
        promote: bool,
        now: bool,
    ) -> Result<String, OperatorError> {
        if now && self.engines.len() > 1 {
            return Err(OperatorError::NowWithSeveral);
        }
        let which = KeyLineage::from(lineage);
        self.runtime.block_on(async {
            let mut all = self.all().await?;
            let apps: BTreeSet<App> = match app {
                Some(app) => [app].into(),
                None => self.first(&mut all)?.keys.iter().map(|key| key.app).collect(),
            };
            let mut report = String::new();
            // Every app is looked at before anything is done to one of them.
            for app in &apps {
                let first = self.first(&mut all)?;
                match first.waiting(*app, which) {
                    _ if promote => {
                        confirmed(&all, *app, which)?;
                    }
                    Some(kid) => return Err(first.refused(AdminRefusal::NotPromoted, kid.into())),
                    None => {}
                }
            }
            let mut epoch = self.first(&mut all)?.now.epoch;
            for app in apps {
                let waiting = if promote {
                    confirmed(&all, app, which)?
                } else {
                    let (at, done) = self.first(&mut all)?.done(AdminVerb::Distribute { app, lineage: which }).await?;
                    epoch = at.epoch;
                    kid(&done)
                };
                if promote || now {
                    let verb = AdminVerb::Promote { app, lineage: which, kid: waiting };
                    epoch = self.first(&mut all)?.done(verb).await?.0.epoch;
                    report.push_str(&format!("{app} ({lineage}): key {waiting} now makes the tokens\n"));
                } else {
                    report.push_str(&format!(
                        "{app} ({lineage}): key {waiting} only opens tokens for now; add --promote, with every engine named\n"
                    ));
                }
            }
            let epoch = self.followed(&mut all, epoch).await?;
            report.push_str(&format!("the keyring is at epoch {epoch}\n"));
            Ok(report)
        })
    }

    /// Makes the keyring at the first engine, under a root of this KMS key; answers its id.
    ///
    /// # Errors
    /// The engine or KMS refuses.
    pub fn init(&self, kms: &str) -> Result<KeyringId, OperatorError> {
        self.runtime.block_on(async {
            let Some(endpoint) = self.engines.first() else { return Err(nobody()) };
            let mut session = self.session(endpoint, true).await?;
            let answer = session.command([0; 16], 0, AdminVerb::Init { key: kms }).await;
            match answer.map_err(|cause| OperatorError::Session { endpoint: endpoint.clone(), cause })? {
                AdminAnswer::Done(now, _) => Ok(KeyringId(now.id)),
                AdminAnswer::Refused(refusal, detail) => {
                    Err(OperatorError::Refused { endpoint: endpoint.clone(), refusal, detail })
                }
            }
        })
    }

    /// Destroys keys, or with none asks KMS again; answers the keyring, and what KMS says of each root that was replaced.
    ///
    /// # Errors
    /// The engine or KMS refuses.
    pub fn destroy(&self, kids: Vec<u32>) -> Result<(KeyringNow, Vec<(u32, RootFate)>), OperatorError> {
        self.runtime.block_on(async {
            let mut all = self.all().await?;
            let (now, done) = self.first(&mut all)?.done(AdminVerb::Destroy { kids }).await?;
            self.followed(&mut all, now.epoch).await?;
            match done {
                Done::Roots(roots) => Ok((now, roots)),
                _ => Ok((now, Vec::new())),
            }
        })
    }

    /// A session with one engine, which may be without keyring where that is to be made.
    async fn session<'o>(
        &'o self,
        endpoint: &'o Endpoint,
        without_keyring: bool,
    ) -> Result<AdminSession<'o>, OperatorError> {
        let failed = |cause| OperatorError::Session { endpoint: endpoint.clone(), cause };
        // Each engine has its own past: one that is behind the others is to be found out, not to be refused.
        let memory = Arc::new(Memory::new(self.keyring, HashMap::new()));
        let tls = RelayTls::admin(&self.key, self.verifier.clone(), self.accepted.clone(), memory)
            .map_err(|cause| failed(AdminError::Refused(Box::new(cause.into()))))?;
        let tls = if without_keyring { tls.without_keyring() } else { tls };
        AdminSession::connect(endpoint, &tls, &self.key, TIMEOUT).await.map_err(failed)
    }

    /// Sessions with every engine; all serve one keyring.
    async fn all(&self) -> Result<Vec<Engine<'_>>, OperatorError> {
        let mut all: Vec<Engine<'_>> = Vec::new();
        for endpoint in &self.engines {
            let session = self.session(endpoint, false).await?;
            let mut engine = Engine { endpoint, session, now: KeyringNow::default(), keys: Vec::new() };
            engine.look().await?;
            if let Some(expected) = all.first().map(|first| first.now.id).filter(|id| *id != engine.now.id) {
                let (expected, found) = (KeyringId(expected), KeyringId(engine.now.id));
                return Err(OperatorError::OtherKeyring { endpoint: endpoint.clone(), expected, found });
            }
            all.push(engine);
        }
        Ok(all)
    }

    fn first<'a, 'o>(&self, all: &'a mut [Engine<'o>]) -> Result<&'a mut Engine<'o>, OperatorError> {
        all.first_mut().ok_or_else(nobody)
    }

    /// Waits until every engine is at this epoch.
    async fn followed(&self, all: &mut [Engine<'_>], epoch: u64) -> Result<u64, OperatorError> {
        let until = Instant::now() + FOLLOW;
        for engine in all {
            loop {
                engine.look().await?;
                if engine.now.epoch >= epoch {
                    break;
                }
                if Instant::now() >= until {
                    let (endpoint, found) = (engine.endpoint.clone(), engine.now.epoch);
                    return Err(OperatorError::Behind { endpoint, expected: epoch, found });
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        Ok(epoch)
    }
}

/// Cannot be: a command line without engines asks none.
fn nobody() -> OperatorError {
    OperatorError::Io(io::ErrorKind::NotFound.into())
}

fn kid(done: &Done) -> u32 {
    if let Done::Key(kid) = done { *kid } else { 0 }
}

/// The key of this app that waits at the first engine, if every other one holds it too.
fn confirmed(all: &[Engine<'_>], app: App, lineage: KeyLineage) -> Result<u32, OperatorError> {
    let waits = |engine: &Engine<'_>| engine.waiting(app, lineage);
    let kid = all.first().and_then(waits).ok_or(OperatorError::NothingWaits { app })?;
    match all.iter().find(|engine| waits(engine) != Some(kid)) {
        Some(engine) => Err(OperatorError::Lacks { endpoint: engine.endpoint.clone(), app, kid }),
        None => Ok(kid),
    }
}

impl Engine<'_> {
    fn failed(&self, cause: AdminError) -> OperatorError {
        OperatorError::Session { endpoint: self.endpoint.clone(), cause }
    }

    /// The key of this app that waits for its promotion.
    fn waiting(&self, app: App, lineage: KeyLineage) -> Option<u32> {
        let mut keys = self.keys.iter().filter(|key| key.app == app && key.lineage == lineage);
        keys.find(|key| key.state == KeyUse::Distributed).map(|key| key.kid)
    }

    async fn look(&mut self) -> Result<(), OperatorError> {
        match self.done(AdminVerb::List).await? {
            (now, Done::Keys(keys)) => {
                (self.now, self.keys) = (now, keys);
                Ok(())
            }
            _ => Err(self.failed(AdminError::Protocol)),
        }
    }

    /// Has it done to the keyring as it was last seen.
    async fn done(&mut self, verb: AdminVerb<'_>) -> Result<(KeyringNow, Done), OperatorError> {
        let answer = self.session.command(self.now.id, self.now.epoch, verb).await;
        match answer.map_err(|cause| self.failed(cause))? {
            AdminAnswer::Done(now, done) => {
                self.now = now;
                Ok((now, done))
            }
            AdminAnswer::Refused(refusal, detail) => Err(self.refused(refusal, detail)),
        }
    }

    fn refused(&self, refusal: AdminRefusal, detail: u64) -> OperatorError {
        OperatorError::Refused { endpoint: self.endpoint.clone(), refusal, detail }
    }
}
