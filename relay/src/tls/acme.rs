//! Certificates by ACME (RFC 8555): ordered, proven and renewed by the relay itself.
//!
//! 1. [`slot`]: the certificate of one set of hosts, and when it is to be renewed; [`store`]: the folder in which accounts and certificates outlive the
//!    process;
//! 2. [`challenge`]: what proves the hosts, answered by the listeners;
//! 3. [`client`]: HTTPS to the authority; [`order`]: one certificate, from the order to the file;
//! 4. this module: what is due, and what is told of it.

pub mod challenge;
mod client;
mod order;
pub mod slot;
mod store;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use tokio_rustls::rustls::ClientConfig;

use self::challenge::Challenges;
use self::slot::Slot;
use self::store::{Lock, Store};
use crate::metrics::SharedMetrics;

/// How the relay comes to its certificates, as the rules file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// URL of the authority's directory.
    pub directory: Box<str>,
    /// Whom the authority may write to: `mailto:` URLs.
    pub contact: Vec<Box<str>>,
    /// Folder of accounts and certificates.
    pub store: PathBuf,
    /// How hosts are proven.
    pub challenge: Challenge,
    /// PEM file of the only authorities that are trusted for the directory; `None` trusts the system's.
    pub ca: Option<PathBuf>,
    /// Binds the account to one that the authority knows already.
    pub binding: Option<Binding>,
    /// Time before another try after a failure; it doubles with each one.
    pub retry: Duration,
}

/// How hosts are proven.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Challenge {
    /// RFC 8737, at the TLS listeners.
    TlsAlpn,
    /// RFC 8555 §8.3, at the plain listeners.
    Http,
}

/// An external account (RFC 8555 §7.3.4).
#[derive(Clone, PartialEq, Eq)]
pub struct Binding {
    /// Its id.
    pub id: Box<str>,
    /// Its key.
    pub key: zeroize::Zeroizing<Vec<u8>>,
}

impl std::fmt::Debug for Binding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Binding").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Why there is no certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AcmeFault {
    /// The authority refused: the name of its problem type (RFC 8555 §6.7).
    #[error("the authority refused: {0}")]
    Refused(&'static str),
    /// The authority cannot be reached, or its certificate does not verify.
    #[error("the authority cannot be reached")]
    Away,
    /// The authority took too long.
    #[error("the authority took too long")]
    Slow,
    /// The authority offers no challenge of the kind that the rules file wants.
    #[error("the authority does not offer the challenge")]
    NoChallenge,
    /// An answer that does not fit.
    #[error("the authority gave an answer that does not fit")]
    Answer,
    /// The store cannot be read or written.
    #[error("the store cannot be read or written")]
    Store,
    /// The library failed.
    #[error("a key or request cannot be made")]
    Make,
}

impl AcmeFault {
    /// A name for metrics and `/status`.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Refused(problem) => problem,
            Self::Away => "away",
            Self::Slow => "slow",
            Self::NoChallenge => "no-challenge",
            Self::Answer => "answer",
            Self::Store => "store",
            Self::Make => "make",
        }
    }
}

/// What orders certificates for the rules in force.
pub struct Acme {
    settings: Settings,
    store: Store,
    tls: Arc<ClientConfig>,
    slots: BTreeMap<Box<[Box<str>]>, Arc<Slot>>,
    challenges: Arc<Challenges>,
    lock: Mutex<Option<Lock>>,
}

impl std::fmt::Debug for Acme {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acme").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Acme {
    /// Reads what the store has for these sets of hosts. What an earlier one knows is taken over where the settings are the same.
    ///
    /// # Errors
    /// The store cannot be made or read.
    pub fn new(
        settings: &Settings,
        tls: Arc<ClientConfig>,
        hosts: impl IntoIterator<Item = Box<[Box<str>]>>,
        previous: Option<&Self>,
    ) -> Result<Self, AcmeFault> {
        let store = Store::open(&settings.store, &settings.directory)?;
        let previous = previous.filter(|previous| previous.settings == *settings);
        let mut slots = BTreeMap::new();
        for hosts in hosts {
            let slot = match previous.and_then(|previous| previous.slots.get(&hosts)) {
                Some(slot) => Arc::clone(slot),
                None => Arc::new(Slot::new(hosts.clone(), store.certificate(&hosts)?)),
            };
            slots.insert(hosts, slot);
        }
        let challenges = previous.map(|previous| Arc::clone(&previous.challenges)).unwrap_or_default();
        let lock = previous.and_then(|previous| previous.lock.lock().unwrap_or_else(PoisonError::into_inner).clone());
        Ok(Self { settings: settings.clone(), store, tls, slots, challenges, lock: Mutex::new(lock) })
    }

    /// The certificate of a set of hosts.
    #[must_use]
    pub fn slot(&self, hosts: &[Box<str>]) -> Option<&Arc<Slot>> {
        self.slots.get(hosts)
    }

    /// What listeners answer to the authority.
    #[must_use]
    pub fn challenges(&self) -> &Challenges {
        &self.challenges
    }

    /// Hosts for which there is no certificate yet.
    pub fn missing(&self) -> impl Iterator<Item = &Slot> {
        self.slots.values().map(|slot| &**slot).filter(|slot| slot.current().is_none())
    }

    /// Orders what is due, one certificate after the other, and tells how it went.
    pub async fn round(&self, metrics: &SharedMetrics) {
        if !self.has_lock() {
            return;
        }
        for slot in self.slots.values() {
            if !slot.is_due(SystemTime::now()) {
                continue;
            }
            let host = slot.hosts().first().map_or("-", |host| &**host);
            tracing::info!(host, hosts = slot.hosts().len(), directory = %self.settings.directory, "ordering a certificate");
            match order::certificate(&self.settings, &self.store, &self.tls, &self.challenges, slot.hosts()).await {
                Ok(certificate) => {
                    metrics.acme(crate::metrics::OK);
                    slot.renew(certificate);
                    tracing::info!(host, "certificate in force");
                }
                Err(fault) => {
                    metrics.acme(fault.code());
                    let wait = slot.failed(fault, self.settings.retry);
                    tracing::error!(
                        host,
                        code = fault.code(),
                        again_in_seconds = wait.as_secs(),
                        "no certificate: {fault}"
                    );
                }
            }
        }
    }

    /// Lets another process order.
    pub fn release(&self) {
        *self.lock.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Of the relays that share a store, as two do while one takes over from the other, one orders.
    fn has_lock(&self) -> bool {
        let mut lock = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if lock.is_none() {
            *lock = self.store.lock();
            if lock.is_some() {
                // Whoever had it may have been busy.
                for slot in self.slots.values() {
                    if let Ok(Some(certificate)) = self.store.certificate(slot.hosts()) {
                        slot.adopt(certificate);
                    }
                }
            }
        }
        lock.is_some()
    }
}
