//! How the engine proves itself to relays.

use super::engine::Engine;
use crate::error::Error;
use e3_attest::{KeyringState, State};
use e3_link::Stream;
use e3_link::attested::Attester;
use e3_link::attested::engine::{EngineTls, RENEW};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// Time between two looks at whether the keyring has changed.
const LOOK: Duration = Duration::from_secs(1);

/// Longest nonce of a question for a document, and the shortest that proves anything.
pub(super) const NONCE: std::ops::RangeInclusive<usize> = 16..=64;

/// The link that relays come in on.
#[derive(Clone)]
pub enum Link {
    /// It proves nothing: development alone.
    Plain(Development),
    /// Attested TLS.
    Attested(Arc<EngineTls>),
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
    /// The attested link of a keyring: documents from `module`, and sessions for these relays alone.
    ///
    /// # Errors
    /// The module makes no document.
    pub fn attested(module: Arc<dyn Attester>, relays: HashSet<[u8; 32]>, state: State) -> Result<Self, Error> {
        Ok(Self::Attested(Arc::new(EngineTls::new(module, relays, state).map_err(Error::Link)?)))
    }

    /// The connection as this link wants it; `None` for whoever may not come in.
    pub(super) async fn secure(&self, stream: Stream) -> Option<Stream> {
        match self {
            Self::Plain(_) => Some(stream),
            Self::Attested(tls) => match tls.accept(stream).await {
                Some((stream, _)) => Some(stream),
                None => {
                    tracing::warn!("a connection was no relay of the measured list, and got no answer");
                    None
                }
            },
        }
    }

    /// A document for whoever asks with this nonce; `None` where nothing can be proven.
    pub(super) fn answer(&self, nonce: &[u8], engine: &Engine) -> Option<Vec<u8>> {
        match self {
            Self::Attested(tls) if NONCE.contains(&nonce.len()) => tls.answer(nonce, state(engine)).ok(),
            _ => None,
        }
    }

    /// Renews the certificate before relays refuse it as too old, and when the keyring has changed.
    pub(super) async fn keep_fresh(self, engine: Arc<Engine>) {
        let Self::Attested(tls) = self else { return std::future::pending().await };
        let (mut stated, mut age) = (state(&engine), Duration::ZERO);
        loop {
            tokio::time::sleep(LOOK).await;
            age += LOOK;
            let now = state(&engine);
            if now == stated && age < RENEW {
                continue;
            }
            // A module that fails is asked again with the next look: there is time before the document is too old.
            match tls.renew(now) {
                Ok(()) => (stated, age) = (now, Duration::ZERO),
                Err(error) => tracing::error!(%error, "the certificate was not renewed"),
            }
        }
    }
}

/// What the engine states about itself in its documents.
pub(super) fn state(engine: &Engine) -> State {
    let keyring = engine.keyring();
    State { keyring: Some(KeyringState { epoch: keyring.epoch(), id: *keyring.id_bytes() }), ..State::default() }
}
