//! Temporary credentials of the instance's role, handed over by the host in the shape of the instance metadata service.
//!
//! They need not be trusted: whoever's they are, the key's policy and the attestation document decide, and a foreign key is refused by its ARN.

use std::fmt;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::{self, ProvideCredentials, error::CredentialsError, future};
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use e3_link::Endpoint;
use http_body_util::Empty;
use serde::Deserialize;

use super::connector::send;

/// Where the host answers `GET /latest/meta-data/iam/security-credentials`.
pub(crate) const PATH: &str = "/latest/meta-data/iam/security-credentials";

/// Credentials from the host, asked for again when they expire.
#[derive(Clone)]
pub struct HostCredentials {
    host: Endpoint,
    timeout: Duration,
}

impl fmt::Debug for HostCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HostCredentials({})", self.host)
    }
}

/// What the metadata service says (`AccessKeyId`, `SecretAccessKey`, `Token`, `Expiration`); other members are ignored.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Said {
    access_key_id: String,
    secret_access_key: String,
    token: Option<String>,
    expiration: Option<String>,
}

#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("the host does not answer")]
    Host,
    #[error("the host's answer is not that of a metadata service")]
    Answer,
}

impl HostCredentials {
    /// Credentials that the host hands over at `host`, each time within `timeout`.
    #[must_use]
    pub fn new(host: Endpoint, timeout: Duration) -> Self {
        Self { host, timeout }
    }

    async fn fetch(&self) -> provider::Result {
        let said = tokio::time::timeout(self.timeout, self.ask()).await;
        let said = said.unwrap_or(Err(Refused::Host)).map_err(CredentialsError::provider_error)?;
        let expires = said.expiration.as_deref().and_then(|text| DateTime::from_str(text, Format::DateTime).ok());
        let expires = expires.and_then(|at| SystemTime::try_from(at).ok());
        Ok(Credentials::new(said.access_key_id, said.secret_access_key, said.token, expires, "host"))
    }

    async fn ask(&self) -> Result<Said, Refused> {
        let stream = self.host.connect(self.timeout).await.map_err(|_| Refused::Host)?;
        let request = http::Request::get(PATH)
            .header(http::header::HOST, "host")
            .body(Empty::<bytes::Bytes>::new())
            .map_err(|_| Refused::Host)?;
        let answer = send(stream, request).await.map_err(|_| Refused::Host)?;
        if answer.status() != http::StatusCode::OK {
            return Err(Refused::Host);
        }
        // serde_json's own words could quote the secret.
        serde_json::from_slice(answer.body()).map_err(|_| Refused::Answer)
    }
}

impl ProvideCredentials for HostCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.fetch())
    }
}
