//! Paths and methods of the API.

use http::Method;

use crate::error::{ApiFault, Failure};

/// What a call asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// `POST /v1/seal`
    Seal,
    /// `POST /v1/open`
    Open,
    /// `POST /v1/inspect`
    Inspect,
    /// `POST /v1/rewrap`
    Rewrap,
    /// `GET /v1/keys/public`
    PublicKey,
    /// `GET /openapi.json`
    OpenApi,
}

impl Call {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 6] = [Self::Seal, Self::Open, Self::Inspect, Self::Rewrap, Self::PublicKey, Self::OpenApi];

    /// As in metrics and in the log.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Seal => "seal",
            Self::Open => "open",
            Self::Inspect => "inspect",
            Self::Rewrap => "rewrap",
            Self::PublicKey => "public-key",
            Self::OpenApi => "openapi",
        }
    }

    /// Its path.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Seal => "/v1/seal",
            Self::Open => "/v1/open",
            Self::Inspect => "/v1/inspect",
            Self::Rewrap => "/v1/rewrap",
            Self::PublicKey => "/v1/keys/public",
            Self::OpenApi => "/openapi.json",
        }
    }

    /// Whether it only reads.
    #[must_use]
    pub fn reads(self) -> bool {
        matches!(self, Self::PublicKey | Self::OpenApi)
    }

    /// The call that this method and path are. Paths have one spelling.
    ///
    /// # Errors
    /// There is no such path, or it does not take the method.
    pub fn of(method: &Method, path: &str) -> Result<Self, Failure> {
        let call = Self::ALL.into_iter().find(|call| call.path() == path).ok_or(Failure::Api(ApiFault::Path))?;
        let fits = if call.reads() { matches!(*method, Method::GET | Method::HEAD) } else { *method == Method::POST };
        if fits { Ok(call) } else { Err(Failure::Api(ApiFault::Method { read: call.reads() })) }
    }
}
