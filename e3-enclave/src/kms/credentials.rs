//! Temporary credentials of the instance's role, handed over by the host in the shape of the instance metadata service.
//!
//! They need not be trusted: whoever's they are, the key's policy and the attestation document decide, and a foreign key is refused by its ARN.

use std::fmt;
use std::time::{Duration, SystemTime};

use aws_credential_types::Credentials;
use aws_smithy_types::DateTime;
use aws_smithy_types::date_time::Format;
use e3_link::Endpoint;
use http_body_util::Empty;
use serde::Deserialize;

use super::connector::send;

/// Where the host answers `GET /latest/meta-data/iam/security-credentials`.
pub(crate) const PATH: &str = "/latest/meta-data/iam/security-credentials";

/// Longest session token that is taken; AWS's have one or two KiB.
const TOKEN_MAX: usize = 16 * 1024;

/// Credentials from the host, asked for anew for each operation: KMS is needed a few times in a boot, and whoever mends the host's role need not restart the engine.
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

/// The host hands over no credentials, or something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the host hands over no credentials")]
pub struct NoCredentials;

impl HostCredentials {
    /// Credentials that the host hands over at `host`, each time within `timeout`.
    #[must_use]
    pub fn new(host: Endpoint, timeout: Duration) -> Self {
        Self { host, timeout }
    }

    /// The present ones.
    ///
    /// # Errors
    /// The host does not answer in time, has none, or says what cannot be credentials.
    pub async fn fetch(&self) -> Result<Credentials, NoCredentials> {
        let said = tokio::time::timeout(self.timeout, self.ask()).await.map_err(|_| NoCredentials)??;
        let expires = said.expiration.as_deref().and_then(|text| DateTime::from_str(text, Format::DateTime).ok());
        let expires = expires.and_then(|at| SystemTime::try_from(at).ok());
        Ok(Credentials::new(said.access_key_id, said.secret_access_key, said.token, expires, "host"))
    }

    async fn ask(&self) -> Result<Said, NoCredentials> {
        let stream = self.host.connect(self.timeout).await.map_err(|_| NoCredentials)?;
        let request = http::Request::get(PATH)
            .header(http::header::HOST, "host")
            .body(Empty::<bytes::Bytes>::new())
            .map_err(|_| NoCredentials)?;
        let answer = send(stream, request).await.map_err(|_| NoCredentials)?;
        if answer.status() != http::StatusCode::OK {
            return Err(NoCredentials);
        }
        // serde_json's own words could quote the secret.
        let said: Said = serde_json::from_slice(answer.body()).map_err(|_| NoCredentials)?;
        if said.fits() { Ok(said) } else { Err(NoCredentials) }
    }
}

impl Said {
    /// Whether these can be written into a request's headers as they stand: what the host says goes into no parser of the SDK before.
    fn fits(&self) -> bool {
        let graphic = |text: &str, max| (1..=max).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        let id = &self.access_key_id;
        graphic(id, 128)
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
            && graphic(&self.secret_access_key, 256)
            && self.token.as_deref().is_none_or(|token| graphic(token, TOKEN_MAX))
    }
}
