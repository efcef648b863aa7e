//! The roots above the keyring in the host's store: opened at the start, made once, replaced when keys are destroyed (SPEC.md, "Unlocking", "Destroying keys").

use super::record::{MAX_ROOTS, RootRecord};
use super::rotate::RotateError;
use super::unlock::{self, Expected, RootSource, UnlockError};
use super::{Live, RootKey};
use crate::admin::AdminPermit;
use crate::error::Error;
use crate::kms::KmsError;
use crate::parent::BlobStore;
use crate::parent::protocol::Blob;
use crate::parent::store::{Put, sha256};
use e3_wire::RootFate;
use std::sync::Arc;

/// The roots of one store: what KMS and the host are asked for.
pub struct HostRoots {
    blobs: Arc<BlobStore>,
    source: Arc<dyn RootSource>,
    expected: Expected,
    /// ARN of the measured KMS key.
    key: Box<str>,
}

impl HostRoots {
    /// Roots of this KMS key, in this store.
    #[must_use]
    pub fn new(blobs: Arc<BlobStore>, source: Arc<dyn RootSource>, expected: Expected, key: &str) -> Arc<Self> {
        Arc::new(Self { blobs, source, expected, key: key.into() })
    }

    /// ARN of the measured KMS key.
    #[must_use]
    pub fn key(&self) -> &str {
        &self.key
    }

    /// Opens the keyring, which follows its root when another engine replaces it.
    ///
    /// # Errors
    /// As [`unlock::open`].
    pub fn open(self: &Arc<Self>) -> Result<Live, Error> {
        Ok(self.followed(unlock::open(&self.blobs, &*self.source, &self.expected)?))
    }

    /// Makes the keyring.
    ///
    /// # Errors
    /// As [`unlock::init`].
    pub fn init(self: &Arc<Self>, _: &AdminPermit) -> Result<Live, Error> {
        Ok(self.followed(unlock::init(&self.blobs, &*self.source, &self.expected)?))
    }

    fn followed(self: &Arc<Self>, live: Live) -> Live {
        let roots = Arc::clone(self);
        live.reopened_by(move || unlock::root(&roots.blobs, &*roots.source, &roots.expected))
    }

    /// Destroys keys: makes a new root, puts every other key under it, and asks KMS whether it denies the roots before it. Without keys it only asks.
    ///
    /// At every step the host's store holds a root for the keyring that it holds: first both roots and the old keyring, then both and the new one.
    ///
    /// # Errors
    /// A key is in use or unknown, KMS does not make and open the new root, or the host does not store: the keyring is as it was.
    pub fn destroy(
        &self,
        _: &AdminPermit,
        live: &Live,
        epoch: u64,
        kids: &[u32],
    ) -> Result<Vec<(u32, RootFate)>, Error> {
        let (mut record, bytes) = self.record()?;
        if !kids.is_empty() {
            let now = Arc::clone(&live.current());
            now.destroyable(kids).map_err(Error::Rotate)?;
            let version = now.root_version() + 1;
            let root = self.next_root(&mut record, version, &bytes)?;
            live.rebase(epoch, version, root, &mut |keyring| keyring.destroy(kids))?;
            // They are destroyed, whatever the host or KMS say from here on.
            return Ok(self.fates(version).unwrap_or_else(|error| {
                tracing::warn!(%error, "KMS was not asked about the roots before");
                vec![(version - 1, RootFate::Unknown)]
            }));
        }
        self.fates(live.current().root_version())
    }

    /// The record as it is stored.
    fn record(&self) -> Result<(RootRecord, Vec<u8>), Error> {
        let bytes = self.blobs.get(Blob::Root).map_err(UnlockError::Host)?.ok_or(UnlockError::NoRoot)?;
        Ok((RootRecord::decode(&bytes)?, bytes))
    }

    /// The root of the next version, stored beside the others. One that an earlier destruction left behind is used.
    fn next_root(&self, record: &mut RootRecord, version: u32, stored: &[u8]) -> Result<RootKey, Error> {
        let context = record.context(version, &self.expected);
        if let Some(wrapped) = record.root(version) {
            return Ok(self.source.unwrap(wrapped, &context).map_err(UnlockError::Kms)?);
        }
        if record.roots.len() >= MAX_ROOTS {
            return Err(Error::Rotate(RotateError::NoKidsLeft));
        }
        let (wrapped, _) = self.source.generate(&context).map_err(UnlockError::Kms)?;
        // A policy that lets it be made and not opened would lose every key at the next start.
        let root = self.source.unwrap(&wrapped, &context).map_err(UnlockError::Kms)?;
        record.roots.push((version, wrapped));
        self.store(record, stored)?;
        Ok(root)
    }

    fn store(&self, record: &RootRecord, previous: &[u8]) -> Result<(), Error> {
        match self.blobs.put(Blob::Root, Some(sha256(previous)), &record.encode()).map_err(UnlockError::Host)? {
            Put::Stored => Ok(()),
            Put::Conflict => Err(UnlockError::Host(crate::parent::HostFault::Conflict).into()),
        }
    }

    /// What KMS says of every root before this version. Those that it denies leave the record.
    fn fates(&self, present: u32) -> Result<Vec<(u32, RootFate)>, Error> {
        let (mut record, bytes) = self.record()?;
        let newest = record.root(present).ok_or(UnlockError::BadRoot)?;
        let earlier = record.roots.iter().filter(|(version, _)| *version < present);
        let versions = std::iter::once((present, newest)).chain(earlier.map(|(version, wrapped)| (*version, wrapped)));
        let (versions, asked): (Vec<_>, Vec<_>) =
            versions.map(|(version, wrapped)| (version, (wrapped, record.context(version, &self.expected)))).unzip();
        let mut answers = versions.into_iter().zip(self.source.unwrap_each(&asked));
        // Who is denied everything is not told anything about one version.
        let works = answers.next().is_some_and(|(_, answer)| answer.is_ok());
        let fates: Vec<_> = answers
            .map(|(version, answer)| match answer {
                Ok(_) => (version, RootFate::StillAllowed),
                Err(KmsError::AccessDenied { .. }) if works => (version, RootFate::Denied),
                Err(_) => (version, RootFate::Unknown),
            })
            .collect();
        if fates.iter().any(|(_, fate)| *fate == RootFate::Denied) {
            record.roots.retain(|(version, _)| !fates.contains(&(*version, RootFate::Denied)));
            // It is asked about once more where this fails.
            if let Err(error) = self.store(&record, &bytes) {
                tracing::warn!(%error, "roots that KMS denies stay in the root record");
            }
        }
        Ok(fates)
    }
}
