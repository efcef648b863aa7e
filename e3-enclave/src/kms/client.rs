//! GenerateDataKey and Decrypt, always with a Recipient.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_credential_types::Credentials;
use aws_sdk_kms::Client;
use aws_sdk_kms::config::retry::RetryConfig;
use aws_sdk_kms::config::timeout::TimeoutConfig;
use aws_sdk_kms::config::{BehaviorVersion, Config, Region, SharedCredentialsProvider};
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{KeyEncryptionMechanism, RecipientInfo};
use aws_smithy_async::rt::sleep::TokioSleep;
use aws_smithy_runtime_api::client::http::{SharedHttpConnector, http_client_fn};
use e3_attest::{Binding, Request, State, Subject};
use e3_link::Endpoint;
use e3_link::attested::Attester;
use zeroize::Zeroizing;

use super::connector::{Connector, ExchangeError};
use super::credentials::HostCredentials;
use super::recipient::{RecipientKey, Unopened};
use super::target::{KeyArn, KmsTarget};
use crate::keyring::{RootKey, SecretKey};

/// Tries of one request, the first included; waits between them grow, with jitter.
const TRIES: u32 = 4;

/// What a root key is for: the KMS encryption context, to which it is bound. The key's policy can demand each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RootContext {
    /// Name of the environment, such as `production`.
    pub environment: Box<str>,
    /// The keyring's public id.
    pub keyring: [u8; 16],
    /// Version of the root: the policy stops allowing a destroyed one.
    pub root_version: u32,
}

impl RootContext {
    /// Names and values as KMS gets them (SPEC.md, "Root key from KMS").
    #[must_use]
    pub fn entries(&self) -> [(&'static str, String); 4] {
        [
            ("e3:purpose", "root".to_owned()),
            ("e3:environment", self.environment.to_string()),
            ("e3:keyring", self.keyring.iter().map(|b| format!("{b:02x}")).collect()),
            ("e3:root-version", self.root_version.to_string()),
        ]
    }
}

/// A root key as KMS wrapped it: kept by the host, opened only by KMS for an attested enclave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WrappedRoot(pub Vec<u8>);

/// Why there is no root key.
#[derive(Debug, thiserror::Error)]
pub enum KmsError {
    /// The security module made no document.
    #[error("the security module made no attestation document: is this an enclave?")]
    Document,
    /// The host's forwarder, or the network behind it.
    #[error("KMS cannot be reached through the host: {0}; look at `e3 host`'s log and its allowed endpoints")]
    Unreachable(ExchangeError),
    /// The host has no credentials to give.
    #[error("the host hands over no credentials: does the instance have a role?")]
    Credentials,
    /// KMS refuses the credentials.
    #[error("KMS refuses the credentials that the host hands over: they have expired, or are not AWS's")]
    BadCredentials,
    /// KMS refused: the policy does not allow this image, this context or this role.
    #[error(
        "KMS denies access to {key}: the key policy must allow this image's PCR0 and encryption context to the host's role (SPEC.md, \"Key policy\")"
    )]
    AccessDenied {
        /// The key that was asked.
        key: KeyArn,
    },
    /// KMS refused for another reason; its own code.
    #[error("KMS refuses with {}", code.as_deref().unwrap_or("an unknown error"))]
    Refused {
        /// Such as `InvalidCiphertextException`.
        code: Option<Box<str>>,
    },
    /// The answer is from another key than the measured one.
    #[error("the answer is from another key: expected {expected}, found {found}")]
    OtherKey {
        /// The measured key.
        expected: KeyArn,
        /// What the answer names.
        found: Box<str>,
    },
    /// The answer holds the key in the open although a recipient was given: this is not AWS KMS.
    #[error("the endpoint answered with plaintext although a recipient was given: it is not AWS KMS")]
    Plaintext,
    /// The answer lacks what was asked for.
    #[error("the answer holds no ciphertext for the recipient")]
    Incomplete,
    /// The envelope does not open.
    #[error(transparent)]
    Unopened(#[from] Unopened),
    /// The client could not be set up.
    #[error("the KMS client cannot be set up for this endpoint")]
    Setup,
}

/// A client of one key.
pub struct Kms {
    /// All but the credentials.
    config: Config,
    credentials: HostCredentials,
    key: KeyArn,
    recipient: RecipientKey,
    attester: Arc<dyn Attester>,
}

impl fmt::Debug for Kms {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Kms({})", self.key)
    }
}

/// How KMS is reached.
#[derive(Debug, Clone)]
pub struct Way {
    /// The host forwards bytes from here to the target's endpoint.
    pub forwarder: Endpoint,
    /// The host hands over credentials here.
    pub credentials: Endpoint,
    /// Time for one try.
    pub timeout: Duration,
}

impl Kms {
    /// A client; makes the recipient key, which takes a tenth of a second.
    ///
    /// # Errors
    /// The key cannot be made, or the endpoint's name is none.
    pub fn new(target: &KmsTarget, way: &Way, attester: Arc<dyn Attester>) -> Result<Self, KmsError> {
        let connector = Connector::new(target, way.forwarder.clone(), way.timeout).ok_or(KmsError::Setup)?;
        let connector = SharedHttpConnector::new(connector);
        let tries = way.timeout.saturating_mul(TRIES + 1);
        let timeouts = TimeoutConfig::builder().operation_attempt_timeout(way.timeout).operation_timeout(tries).build();
        let config = Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(target.key.region().to_owned()))
            .endpoint_url(format!("https://{}:{}", target.host, target.port))
            .http_client(http_client_fn(move |_, _| connector.clone()))
            .sleep_impl(TokioSleep::new())
            .retry_config(RetryConfig::standard().with_max_attempts(TRIES))
            .timeout_config(timeouts)
            .build();
        let recipient = RecipientKey::generate().ok_or(KmsError::Setup)?;
        let credentials = HostCredentials::new(way.credentials.clone(), way.timeout);
        Ok(Self { config, credentials, key: target.key.clone(), recipient, attester })
    }

    /// The credentials that the host hands over now.
    async fn credentials(&self) -> Result<Credentials, KmsError> {
        self.credentials.fetch().await.map_err(|_| KmsError::Credentials)
    }

    fn client(&self, credentials: &Credentials) -> Client {
        let provider = SharedCredentialsProvider::new(credentials.clone());
        Client::from_conf(self.config.to_builder().credentials_provider(provider).build())
    }

    /// Makes a new root key inside KMS.
    ///
    /// # Errors
    /// See [`KmsError`].
    pub async fn generate_root(&self, context: &RootContext) -> Result<(WrappedRoot, RootKey), KmsError> {
        let client = self.client(&self.credentials().await?);
        let mut request =
            client.generate_data_key().key_id(self.key.as_str()).number_of_bytes(32).recipient(self.recipient()?);
        for (name, value) in context.entries() {
            request = request.encryption_context(name, value);
        }
        let answer = request.send().await.map_err(|error| self.refused(&error))?;
        self.check(answer.key_id(), answer.plaintext().is_some_and(|p| !p.as_ref().is_empty()))?;
        let wrapped = answer.ciphertext_blob().ok_or(KmsError::Incomplete)?.as_ref().to_vec();
        let root = self.open(answer.ciphertext_for_recipient())?;
        Ok((WrappedRoot(wrapped), root))
    }

    /// Opens a wrapped root key.
    ///
    /// # Errors
    /// See [`KmsError`].
    pub async fn unwrap_root(&self, wrapped: &WrappedRoot, context: &RootContext) -> Result<RootKey, KmsError> {
        self.unwrap_as(&self.credentials().await?, wrapped, context).await
    }

    /// Opens several wrapped root keys with one and the same credentials: a host that hands over others in between cannot make KMS deny one root and open another.
    pub async fn unwrap_each(&self, asked: &[(&WrappedRoot, RootContext)]) -> Vec<Result<RootKey, KmsError>> {
        let credentials = self.credentials().await;
        let mut answers = Vec::with_capacity(asked.len());
        for (wrapped, context) in asked {
            answers.push(match &credentials {
                Ok(credentials) => self.unwrap_as(credentials, wrapped, context).await,
                Err(_) => Err(KmsError::Credentials),
            });
        }
        answers
    }

    async fn unwrap_as(
        &self,
        credentials: &Credentials,
        wrapped: &WrappedRoot,
        context: &RootContext,
    ) -> Result<RootKey, KmsError> {
        let mut request = self
            .client(credentials)
            .decrypt()
            .key_id(self.key.as_str())
            .ciphertext_blob(Blob::new(wrapped.0.clone()))
            .recipient(self.recipient()?);
        for (name, value) in context.entries() {
            request = request.encryption_context(name, value);
        }
        let answer = request.send().await.map_err(|error| self.refused(&error))?;
        self.check(answer.key_id(), answer.plaintext().is_some_and(|p| !p.as_ref().is_empty()))?;
        self.open(answer.ciphertext_for_recipient())
    }

    /// A fresh document for each request: KMS refuses old ones.
    fn recipient(&self) -> Result<RecipientInfo, KmsError> {
        let spki = self.recipient.public();
        // The purpose says that this document proves nothing on a link; KMS itself looks at the public key alone.
        let request = Binding::new(&Subject::Kms { spki }, State::default())
            .ok()
            .and_then(|binding| Request::bound(&binding).with_public_key(spki.to_vec()).ok())
            .ok_or(KmsError::Document)?;
        let document = self.attester.document(&request).ok_or(KmsError::Document)?;
        Ok(RecipientInfo::builder()
            .key_encryption_algorithm(KeyEncryptionMechanism::RsaesOaepSha256)
            .attestation_document(Blob::new(document))
            .build())
    }

    fn check(&self, key: Option<&str>, plaintext: bool) -> Result<(), KmsError> {
        if plaintext {
            return Err(KmsError::Plaintext);
        }
        match key {
            Some(found) if found == self.key.as_str() => Ok(()),
            found => Err(KmsError::OtherKey {
                expected: self.key.clone(),
                found: found.unwrap_or("none").chars().filter(|c| c.is_ascii_graphic()).take(256).collect(),
            }),
        }
    }

    fn open(&self, envelope: Option<&Blob>) -> Result<RootKey, KmsError> {
        let envelope = envelope.ok_or(KmsError::Incomplete)?;
        let plain = self.recipient.open(envelope.as_ref())?;
        let plain: &[u8; 32] = plain.as_slice().try_into().map_err(|_| Unopened)?;
        let mut key = Zeroizing::new([0; 32]);
        key.copy_from_slice(plain);
        Ok(RootKey::from_kms(SecretKey::new(key)))
    }

    fn refused<E, R>(&self, error: &SdkError<E, R>) -> KmsError
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
        R: fmt::Debug,
    {
        if let SdkError::ServiceError(refused) = error {
            let code = refused.err().code();
            return match code {
                Some(
                    "ExpiredTokenException"
                    | "UnrecognizedClientException"
                    | "InvalidSignatureException"
                    | "InvalidClientTokenId",
                ) => KmsError::BadCredentials,
                Some("AccessDeniedException") => KmsError::AccessDenied { key: self.key.clone() },
                code => KmsError::Refused { code: code.map(printable) },
            };
        }
        let mut cause: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(error);
        while let Some(error) = cause {
            if let Some(exchange) = error.downcast_ref::<ExchangeError>() {
                return KmsError::Unreachable(exchange.clone());
            }
            cause = error.source();
        }
        match error {
            SdkError::TimeoutError(_) => KmsError::Unreachable(ExchangeError::Timeout),
            _ => KmsError::Unreachable(ExchangeError::Broken),
        }
    }
}

/// A code of the answer, for people: never more than a word.
fn printable(code: &str) -> Box<str> {
    code.chars().filter(char::is_ascii_alphanumeric).take(64).collect()
}
