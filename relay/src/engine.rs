//! The engine as the data path sees it: one call for each message, within one total time.

pub mod attested;

use std::sync::Arc;
use std::time::Duration;

use e3_link::{AnswerFrame, Client, ClientOptions, Health, LinkError, Security};
use e3_wire::{Answer, App, RequestWriter, WireError};
use tokio::time::Instant;

use self::attested::AttestedError;
use crate::config::resolved;
use crate::error::{Failure, Side};
use crate::metrics::EngineMetrics;

/// Reads an answer, and logs where its audit record is: `e3 audit verify --heads` holds the audit against these lines, and finds records that were cut off.
///
/// # Errors
/// The bytes do not follow SPEC.md, "Answers".
pub fn read<'f>(frame: &'f AnswerFrame, request_id: &str) -> Result<Answer<'f>, WireError> {
    let (answer, mark) = frame.marked()?;
    if let Some(mark) = mark {
        let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
        let mark = format!("{}:{}:{}", hex(&mark.boot), mark.sequence, hex(&mark.head));
        tracing::info!(request_id, mark, "recorded");
    }
    Ok(answer)
}

/// A handle on the engine; cheap to clone.
#[derive(Clone)]
pub struct Engine {
    client: Client,
    app: App,
    timeout: Duration,
    metrics: EngineMetrics,
}

impl Engine {
    /// A client of the configured endpoints. Nothing is dialled yet.
    ///
    /// # Errors
    /// The relay's key, or what it has seen of engines, cannot be read.
    pub fn new(config: &resolved::Engine, metrics: EngineMetrics) -> Result<Self, AttestedError> {
        let options = ClientOptions { connections: config.connections, ..ClientOptions::default() };
        let security = match &config.attestation {
            Some(attestation) => Security::Attested(Arc::new(attested::tls(attestation)?)),
            // The rules file was refused unless it says so.
            None => Security::Plain,
        };
        let client = Client::new(config.endpoints.clone(), security, options);
        Ok(Self { client, app: config.app, timeout: config.timeout, metrics })
    }

    /// The app whose keys are asked for.
    #[must_use]
    pub fn app(&self) -> App {
        self.app
    }

    /// Whether a call has a chance; asked before a ruled message is taken in.
    #[must_use]
    pub fn is_available(&self) -> bool {
        self.client.is_available()
    }

    /// Asks the engine, once for the whole message.
    ///
    /// # Errors
    /// No answer within the configured time.
    pub async fn call(&self, request: RequestWriter, side: Side) -> Result<AnswerFrame, Failure> {
        self.timed_call(request, side).await.map(|(answer, _)| answer)
    }

    /// The same, with the time it took.
    ///
    /// # Errors
    /// As [`Engine::call`].
    pub async fn timed_call(&self, request: RequestWriter, side: Side) -> Result<(AnswerFrame, Duration), Failure> {
        let _waiting = self.metrics.call();
        let asked = Instant::now();
        let answer = self.client.call_from(asked, request, asked + self.timeout).await;
        let took = asked.elapsed();
        self.metrics.took(took);
        answer.map(|answer| (answer, took)).map_err(|error| match error {
            LinkError::TooLarge => Failure::TooMuchForEngine(side),
            LinkError::Protocol => Failure::EngineAnswer,
            LinkError::Connect(_)
            | LinkError::Timeout
            | LinkError::Closed
            | LinkError::Overloaded
            | LinkError::Refused
            | LinkError::Unavailable => Failure::EngineAway,
        })
    }

    /// States the rules that requests follow from now on, by the SHA-256 of their file.
    pub fn state_rules(&self, hash: [u8; 32]) {
        self.client.state_rules(hash);
    }

    /// The engine's attestation document for this nonce; empty where it can prove nothing.
    ///
    /// # Errors
    /// No answer within the configured time.
    pub async fn attest(&self, nonce: &[u8]) -> Result<bytes::Bytes, LinkError> {
        self.client.attest(nonce, Instant::now() + self.timeout).await
    }

    /// Asks every endpoint whether it is ready, within the configured time of a call.
    pub async fn ping(&self) {
        self.client.ping(self.timeout).await;
    }

    /// What the last pings and calls said.
    #[must_use]
    pub fn health(&self) -> Health {
        self.client.health()
    }
}
