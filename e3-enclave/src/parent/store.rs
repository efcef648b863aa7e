//! The wrapped blobs that the host keeps.

use super::channel::{Channel, HostFault};
use super::protocol::{Ask, Blob, Digest, Reply, STORE_MAX};
use crate::error::Error;
use crate::keyring::storage::{Look, Replaced, Storage};
use e3_link::Endpoint;
use sha2::{Digest as _, Sha256};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The host's store, as the engine asks it.
pub struct BlobStore {
    channel: Mutex<Channel>,
    endpoint: Endpoint,
}

/// Whether a blob was replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    /// It was, and is on the host's disk.
    Stored,
    /// It is another than was expected, and stays.
    Conflict,
}

impl BlobStore {
    /// The store at `endpoint`, each of whose answers comes within `timeout`.
    ///
    /// # Errors
    /// The system refuses a runtime.
    pub fn new(endpoint: Endpoint, timeout: Duration) -> Result<Self, Error> {
        let channel = Channel::new(endpoint.clone(), timeout, STORE_MAX).map_err(Error::Runtime)?;
        Ok(Self { channel: Mutex::new(channel), endpoint })
    }

    /// Where it is.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The blob, if there is one.
    ///
    /// # Errors
    /// The host does not say.
    pub fn get(&self, blob: Blob) -> Result<Option<Vec<u8>>, HostFault> {
        let answer = self.ask(&Ask::Get(blob).encode())?;
        match Reply::decode(&answer) {
            Ok(Reply::Found(bytes)) if bytes.len() <= blob.max() => Ok(Some(bytes.to_vec())),
            Ok(Reply::Absent) => Ok(None),
            Ok(Reply::StoreFailed) => Err(HostFault::Failed),
            _ => Err(HostFault::Protocol),
        }
    }

    /// The blob's SHA-256, if there is one.
    ///
    /// # Errors
    /// The host does not say.
    pub fn look(&self, blob: Blob) -> Result<Option<Digest>, HostFault> {
        match Reply::decode(&self.ask(&Ask::Look(blob).encode())?) {
            Ok(Reply::Is(digest)) => Ok(Some(digest)),
            Ok(Reply::Absent) => Ok(None),
            Ok(Reply::StoreFailed) => Err(HostFault::Failed),
            _ => Err(HostFault::Protocol),
        }
    }

    /// Replaces the blob if its SHA-256 is `previous`; `None`: if there is none.
    ///
    /// # Errors
    /// The host did not, or does not say so.
    pub fn put(&self, blob: Blob, previous: Option<Digest>, bytes: &[u8]) -> Result<Put, HostFault> {
        let answer = self.ask(&Ask::Put { blob, previous, bytes }.encode())?;
        match Reply::decode(&answer) {
            Ok(Reply::Stored) => Ok(Put::Stored),
            // The connection broke before the first answer came, and the question was asked again.
            Ok(Reply::Conflict(Some(digest))) if digest == sha256(bytes) => Ok(Put::Stored),
            Ok(Reply::Conflict(_)) => Ok(Put::Conflict),
            Ok(Reply::StoreFailed) => Err(HostFault::Failed),
            _ => Err(HostFault::Protocol),
        }
    }

    /// Every question may be asked twice, so a connection that broke is tried anew once.
    fn ask(&self, message: &[u8]) -> Result<Vec<u8>, HostFault> {
        let mut channel = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        match channel.ask(message) {
            Err(HostFault::Closed) => channel.ask(message),
            answered => answered,
        }
    }
}

/// The keyring in the host's store.
pub struct HostKeyring {
    blobs: Arc<BlobStore>,
    place: PathBuf,
}

impl HostKeyring {
    /// The keyring in this store.
    #[must_use]
    pub fn new(blobs: Arc<BlobStore>) -> Self {
        let place = PathBuf::from(blobs.endpoint().to_string());
        Self { blobs, place }
    }

    fn fault(&self, fault: HostFault) -> Error {
        Error::Host { endpoint: self.blobs.endpoint().clone(), fault }
    }
}

impl Storage for HostKeyring {
    fn place(&self) -> &Path {
        &self.place
    }

    fn read(&self) -> Result<Option<Vec<u8>>, Error> {
        self.blobs.get(Blob::Keyring).map_err(|f| self.fault(f))
    }

    fn replace(&self, previous: Option<&[u8]>, bytes: &[u8]) -> Result<Replaced, Error> {
        match self.blobs.put(Blob::Keyring, previous.map(sha256), bytes).map_err(|f| self.fault(f))? {
            Put::Stored => Ok(Replaced::Yes),
            Put::Conflict => Ok(Replaced::ChangedMeanwhile),
        }
    }

    fn look(&self) -> Option<Look> {
        self.blobs.look(Blob::Keyring).ok().flatten().map(Look::Digest)
    }

    fn lock(&self) -> Result<Option<std::fs::File>, Error> {
        Ok(None)
    }

    fn busy(&self) -> Error {
        self.fault(HostFault::Conflict)
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> Digest {
    Sha256::digest(bytes).into()
}
