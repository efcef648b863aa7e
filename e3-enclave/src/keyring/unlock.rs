//! From wrapped blobs in the host's store to a keyring in force (SPEC.md, "Unlocking").
//!
//! [`open`] is every start: the root record and the keyring come from the host, KMS opens the root for this image, the root opens the keyring. [`init`] is once:
//! it makes both *inside* the engine, so that no host ever knew the root.

use super::file::{KeyringFault, id_of, root_version_of};
use super::record::RootRecord;
use super::{Live, RootKey, Store, hex};
use crate::error::Error;
use crate::kms::client::{Kms, WrappedRoot};
use crate::kms::connector::ExchangeError;
use crate::kms::{KmsError, RootContext};
use crate::parent::protocol::Blob;
use crate::parent::store::Put;
use crate::parent::{BlobStore, Blocking, HostFault, HostKeyring};
use e3_link::attested::Locked;
use std::sync::Arc;

/// Version of a keyring's first root.
const FIRST: u32 = 1;

/// Makes and opens root keys. The one of production is [`KmsRoot`].
pub trait RootSource: Send + Sync {
    /// Makes a new root key for this context.
    ///
    /// # Errors
    /// See [`KmsError`].
    fn generate(&self, context: &RootContext) -> Result<(WrappedRoot, RootKey), KmsError>;

    /// Opens one that was made for this context.
    ///
    /// # Errors
    /// See [`KmsError`].
    fn unwrap(&self, wrapped: &WrappedRoot, context: &RootContext) -> Result<RootKey, KmsError>;

    /// Opens several as one and the same caller: what differs between the answers is not who asked. As many answers as questions, in their order.
    fn unwrap_each(&self, asked: &[(&WrappedRoot, RootContext)]) -> Vec<Result<RootKey, KmsError>>;
}

/// Root keys from KMS, for threads that may block.
pub struct KmsRoot {
    kms: Kms,
    runtime: Blocking,
}

impl KmsRoot {
    /// Root keys from this client.
    ///
    /// # Errors
    /// The system refuses a runtime.
    pub fn new(kms: Kms) -> Result<Self, Error> {
        Ok(Self { kms, runtime: Blocking::new().map_err(Error::Runtime)? })
    }
}

impl RootSource for KmsRoot {
    fn generate(&self, context: &RootContext) -> Result<(WrappedRoot, RootKey), KmsError> {
        self.runtime.wait(self.kms.generate_root(context)).unwrap_or(Err(KmsError::Setup))
    }

    fn unwrap(&self, wrapped: &WrappedRoot, context: &RootContext) -> Result<RootKey, KmsError> {
        self.runtime.wait(self.kms.unwrap_root(wrapped, context)).unwrap_or(Err(KmsError::Setup))
    }

    fn unwrap_each(&self, asked: &[(&WrappedRoot, RootContext)]) -> Vec<Result<RootKey, KmsError>> {
        let refused = || asked.iter().map(|_| Err(KmsError::Setup)).collect();
        self.runtime.wait(self.kms.unwrap_each(asked)).unwrap_or_else(refused)
    }
}

/// What the image's measured inputs say about its keyring.
#[derive(Debug, Clone)]
pub struct Expected {
    /// Name of the environment: part of the root's KMS encryption context.
    pub environment: Box<str>,
    /// The keyring's public id, where the image is for one keyring alone.
    pub keyring: Option<[u8; 16]>,
}

/// Why there is no keyring in force. Each is one line; [`UnlockError::exit_code`] tells the kinds apart.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum UnlockError {
    /// KMS gives no root key.
    #[error(transparent)]
    Kms(#[from] KmsError),
    /// The host's store does not answer.
    #[error("the wrapped keys cannot be had from the host: {0}; is `e3 host run` up?")]
    Host(#[from] HostFault),
    /// There is nothing yet.
    #[error(
        "the host's store holds no keyring; `e3 keys init` makes one, once, or restore the store's folder from its copy"
    )]
    Uninitialised,
    /// The keyring is there, its root is not.
    #[error("the host's store holds a keyring without its root record; restore the store's folder from its copy")]
    NoRoot,
    /// The root is there, its keyring is not.
    #[error(
        "the host's store holds a root record without its keyring; restore the store's folder from its copy (or repeat `e3 keys init` if it broke off)"
    )]
    NoKeyring,
    /// The root record is none.
    #[error("the root record of the host's store is truncated or malformed; restore the store's folder from its copy")]
    BadRoot,
    /// The blobs do not belong together.
    #[error("the host's store mixes two keyrings: the root record is of {root}, the keyring file of {keyring}")]
    Mixed {
        /// Id in the root record.
        root: String,
        /// Id in the keyring.
        keyring: String,
    },
    /// The keyring is under a root that the record does not hold.
    #[error(
        "the host's store mixes two states: the keyring is under root version {0}, which the root record does not hold; restore the store's folder from its copy"
    )]
    OtherRoot(u32),
    /// The image is for another keyring.
    #[error("the host's store holds another keyring than the image is for: expected {expected}, found {found}")]
    OtherKeyring {
        /// The measured id.
        expected: String,
        /// The id in the store.
        found: String,
    },
    /// The keyring is refused.
    #[error("the keyring of the host's store is refused: {0}")]
    Keyring(KeyringFault),
    /// `init` where there is a keyring.
    #[error("the host's store holds a keyring already; a keyring is never written over")]
    Exists,
    /// `init` in an image that is for one keyring alone.
    #[error(
        "this image is for keyring {0} alone, so it makes no new one; restore that one, or build an image without `keyring`"
    )]
    Pinned(String),
    /// No random numbers.
    #[error("the operating system gave no random numbers")]
    Entropy,
}

impl UnlockError {
    /// The exit code of a command that ends with this error: 3 keys refused, 4 the host does not serve, 5 KMS denies access, 6 KMS is not believed, 7 no keyring yet.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Kms(KmsError::AccessDenied { .. }) => 5,
            Self::Kms(
                KmsError::OtherKey { .. } | KmsError::Plaintext | KmsError::Incomplete | KmsError::Unopened(_),
            ) => 6,
            Self::Kms(KmsError::Unreachable(ExchangeError::Certificate(_))) => 6,
            Self::Kms(KmsError::Unreachable(_) | KmsError::Credentials | KmsError::BadCredentials) | Self::Host(_) => 4,
            Self::Kms(_) | Self::Entropy => 1,
            Self::Uninitialised => 7,
            Self::NoRoot
            | Self::NoKeyring
            | Self::BadRoot
            | Self::Mixed { .. }
            | Self::OtherRoot(_)
            | Self::OtherKeyring { .. }
            | Self::Keyring(_)
            | Self::Exists
            | Self::Pinned(_) => 3,
        }
    }
}

impl UnlockError {
    /// What relays are told of it.
    #[must_use]
    pub fn locked(&self) -> Locked {
        match self {
            Self::Kms(KmsError::AccessDenied { .. }) => Locked::Denied,
            Self::Kms(KmsError::Credentials | KmsError::BadCredentials) => Locked::Credentials,
            Self::Kms(KmsError::Unreachable(ExchangeError::Certificate(_))) => Locked::Unbelieved,
            Self::Kms(KmsError::Unreachable(_)) => Locked::Unreachable,
            Self::Kms(
                KmsError::OtherKey { .. } | KmsError::Plaintext | KmsError::Incomplete | KmsError::Unopened(_),
            ) => Locked::Unbelieved,
            Self::Kms(_) | Self::Entropy => Locked::Refused,
            Self::Host(_) => Locked::Host,
            Self::Uninitialised => Locked::Uninitialised,
            Self::OtherKeyring { .. } => Locked::OtherKeyring,
            Self::NoRoot
            | Self::NoKeyring
            | Self::BadRoot
            | Self::Mixed { .. }
            | Self::OtherRoot(_)
            | Self::Keyring(_)
            | Self::Exists
            | Self::Pinned(_) => Locked::Keyring,
        }
    }
}

/// Opens the keyring in the host's store.
///
/// # Errors
/// There is none, KMS does not open its root for this image, or it is refused: [`Error::Unlock`].
pub fn open(blobs: &Arc<BlobStore>, roots: &dyn RootSource, expected: &Expected) -> Result<Live, Error> {
    enter(blobs, root(blobs, roots, expected)?)
}

/// The root of the keyring in the host's store: of the version that the keyring names.
pub(crate) fn root(blobs: &BlobStore, roots: &dyn RootSource, expected: &Expected) -> Result<RootKey, Error> {
    let record = blobs.get(Blob::Root).map_err(UnlockError::Host)?;
    let keyring = blobs.get(Blob::Keyring).map_err(UnlockError::Host)?;
    let (record, keyring) = match (record, keyring) {
        (Some(record), Some(keyring)) => (RootRecord::decode(&record)?, keyring),
        (Some(_), None) => return Err(UnlockError::NoKeyring.into()),
        (None, Some(_)) => return Err(UnlockError::NoRoot.into()),
        (None, None) => return Err(UnlockError::Uninitialised.into()),
    };
    pinned(expected, &record.keyring)?;
    let id = id_of(&keyring).map_err(UnlockError::Keyring)?;
    if id != record.keyring {
        return Err(UnlockError::Mixed { root: hex(&record.keyring), keyring: hex(&id) }.into());
    }
    let version = root_version_of(&keyring).map_err(UnlockError::Keyring)?;
    let wrapped = record.root(version).ok_or(UnlockError::OtherRoot(version))?;
    Ok(roots.unwrap(wrapped, &record.context(version, expected)).map_err(UnlockError::Kms)?)
}

/// Makes a root key and an empty keyring, and opens it. Where an earlier call broke off in between, its root is used.
///
/// # Errors
/// There is a keyring, the image is for another one, or KMS or the host refuse: [`Error::Unlock`].
pub fn init(blobs: &Arc<BlobStore>, roots: &dyn RootSource, expected: &Expected) -> Result<Live, Error> {
    if let Some(id) = &expected.keyring {
        return Err(UnlockError::Pinned(hex(id)).into());
    }
    if blobs.look(Blob::Keyring).map_err(UnlockError::Host)?.is_some() {
        return Err(UnlockError::Exists.into());
    }
    let (record, root) = match blobs.get(Blob::Root).map_err(UnlockError::Host)? {
        Some(record) => {
            let record = RootRecord::decode(&record)?;
            let wrapped = record.root(FIRST).ok_or(UnlockError::BadRoot)?;
            let root = roots.unwrap(wrapped, &record.context(FIRST, expected)).map_err(UnlockError::Kms)?;
            (record, root)
        }
        None => {
            let mut record = RootRecord::new([0; 16], FIRST, WrappedRoot(Vec::new()));
            getrandom::fill(&mut record.keyring).map_err(|_| UnlockError::Entropy)?;
            let (wrapped, root) = roots.generate(&record.context(FIRST, expected)).map_err(UnlockError::Kms)?;
            record.roots = vec![(FIRST, wrapped)];
            if blobs.put(Blob::Root, None, &record.encode()).map_err(UnlockError::Host)? == Put::Conflict {
                return Err(UnlockError::Exists.into());
            }
            (record, root)
        }
    };
    let store = Store::at(Box::new(HostKeyring::new(Arc::clone(blobs))), root);
    store.create_as(record.keyring, FIRST).map_err(|error| match error {
        Error::KeyringExists { .. } => UnlockError::Exists.into(),
        Error::Host { fault, .. } => UnlockError::Host(fault).into(),
        other => other,
    })?;
    Live::open(store)
}

fn pinned(expected: &Expected, found: &[u8; 16]) -> Result<(), UnlockError> {
    match &expected.keyring {
        Some(id) if id != found => Err(UnlockError::OtherKeyring { expected: hex(id), found: hex(found) }),
        _ => Ok(()),
    }
}

fn enter(blobs: &Arc<BlobStore>, root: RootKey) -> Result<Live, Error> {
    let store = Store::at(Box::new(HostKeyring::new(Arc::clone(blobs))), root);
    Live::open(store).map_err(|error| match error {
        Error::Keyring { fault, .. } => UnlockError::Keyring(fault).into(),
        Error::Host { fault, .. } => UnlockError::Host(fault).into(),
        other => other,
    })
}
