//! How the engine proves itself to relays.

use super::engine::Engine;
use crate::error::Error;
use crate::keyring::Keyring;
use crate::session::{AttestedImage, Challenge, Session, Unproven};
use e3_attest::{EXPORTER_LABEL, KeyringState, State, Verifier};
use e3_link::Stream;
use e3_link::attested::Attester;
use e3_link::attested::engine::{Admitted, EngineTls, RENEW};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Time between two looks at whether the keyring has changed.
const LOOK: Duration = Duration::from_secs(1);

/// Longest nonce of a question for a document, and the shortest that proves anything.
pub(crate) const NONCE: std::ops::RangeInclusive<usize> = 16..=64;

/// The link that relays come in on.
#[derive(Clone)]
pub enum Link {
    /// It proves nothing: development alone.
    Plain(Development),
    /// Attested TLS.
    Attested(Arc<Attested>),
}

/// The engine's side of attested TLS, and how callers that are enclaves are verified.
#[derive(Debug)]
pub struct Attested {
    tls: Arc<EngineTls>,
    callers: Verifier,
}

/// That this build and its configuration allow a plain link. Cannot be had in the enclave image.
#[derive(Debug, Clone, Copy)]
pub struct Development(());

impl Development {
    /// Permission for plain links.
    ///
    /// # Errors
    /// The configuration is not for development.
    #[cfg(feature = "development")]
    pub fn allowed(config: &crate::config::Config) -> Result<Self, Error> {
        if config.development { Ok(Self(())) } else { Err(Error::PlainLink) }
    }
}

impl Link {
    /// The attested link of a keyring: documents from `module`, and sessions for those that are `admitted` alone; relays that are enclaves are believed by `callers`.
    ///
    /// # Errors
    /// The module makes no document.
    pub fn attested(
        module: Arc<dyn Attester>,
        admitted: impl Into<Admitted>,
        callers: Verifier,
        state: State,
    ) -> Result<Self, Error> {
        let tls = EngineTls::new(module, admitted, state).map_err(Error::Link)?;
        Ok(Self::over(Arc::new(tls), callers))
    }

    /// The link over this side of TLS.
    #[must_use]
    pub fn over(tls: Arc<EngineTls>, callers: Verifier) -> Self {
        Self::Attested(Arc::new(Attested { tls, callers }))
    }

    /// The connection as this link wants it, and who is at its other end; `None` for whoever may not come in.
    pub(super) async fn secure(&self, stream: Stream) -> Option<(Stream, (Session, Option<Challenge>))> {
        let Self::Attested(link) = self else { return Some((stream, (Session::plain(), None))) };
        let Some((stream, peer)) = link.tls.accept(stream).await else {
            tracing::warn!("a connection was of nobody on the measured lists, and got no answer");
            return None;
        };
        let challenge = stream.exporter(EXPORTER_LABEL).map(Challenge::new);
        Some((stream, (Session::of(&peer), challenge)))
    }

    /// The image of a caller, if this document proves it.
    pub(super) fn image(&self, challenge: &mut Challenge, document: &[u8]) -> Result<AttestedImage, Unproven> {
        match self {
            Self::Attested(link) => challenge.prove(&link.callers, document, Instant::now()),
            Self::Plain(_) => Err(Unproven::NoNonce),
        }
    }

    /// A document for whoever asks with this nonce; `None` where nothing can be proven.
    pub(super) fn answer(&self, nonce: &[u8], engine: &Engine) -> Option<Vec<u8>> {
        match self {
            Self::Attested(link) if NONCE.contains(&nonce.len()) => link.tls.answer(nonce, state(engine)).ok(),
            _ => None,
        }
    }

    /// From now on these may come in.
    pub(super) fn admit(&self, admitted: Admitted) {
        if let Self::Attested(link) = self {
            link.tls.admit(admitted);
        }
    }

    /// Renews the certificate: it states what is in force now.
    pub(super) fn renew(&self, engine: &Engine) {
        if let Self::Attested(link) = self
            && let Err(error) = link.tls.renew(state(engine))
        {
            tracing::error!(%error, "the certificate was not renewed");
        }
    }

    /// Renews the certificate before relays refuse it as too old, and when the keyring has changed.
    pub(super) async fn keep_fresh(self, engine: Arc<Engine>) {
        let Self::Attested(link) = self else { return std::future::pending().await };
        let (mut stated, mut age) = (state(&engine), Duration::ZERO);
        loop {
            tokio::time::sleep(LOOK).await;
            age += LOOK;
            let now = state(&engine);
            if now == stated && age < RENEW {
                continue;
            }
            // A module that fails is asked again with the next look: there is time before the document is too old.
            match link.tls.renew(now) {
                Ok(()) => (stated, age) = (now, Duration::ZERO),
                Err(error) => tracing::error!(%error, "the certificate was not renewed"),
            }
        }
    }
}

/// What the engine states about itself in its documents.
pub(super) fn state(engine: &Engine) -> State {
    State { policy: engine.policy().current().state(), ..stated(&engine.keyring()) }
}

/// What an engine with this keyring states about itself.
#[must_use]
pub fn stated(keyring: &Keyring) -> State {
    State {
        keyring: Some(KeyringState { epoch: keyring.epoch(), id: *keyring.id_bytes() }),
        audit_key: keyring.audit_key().map(|key| *key.public()),
        ..State::default()
    }
}
