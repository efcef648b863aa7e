//! The policy in force, and how a newer one takes its place: all or nothing. Whatever is refused leaves the one in force, until its own time runs out.

use super::Policy;
use super::document::{Document, Proof};
use super::signed::{self, MAX, SignatureFault, Signed, Signers};
use crate::parent::protocol::Blob;
use crate::parent::{BlobStore, HostFault};
use arc_swap::{ArcSwap, Guard};
use e3_yaml::Report;
use sha2::{Digest, Sha256};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Where policies come from.
pub enum Source {
    /// There is but the one.
    Fixed,
    /// A file here.
    File(PathBuf),
    /// The host's store.
    Host(Arc<BlobStore>),
}

/// Why a policy is not put in force.
#[derive(Debug, thiserror::Error)]
pub enum PolicyFault {
    /// There is none.
    #[error("there is no policy")]
    Absent,
    /// It cannot be read.
    #[error("the policy cannot be read: {0}")]
    Unreadable(std::io::ErrorKind),
    /// The host does not hand it over.
    #[error("the policy: {0}")]
    Host(HostFault),
    /// Whose it is.
    #[error(transparent)]
    Signature(#[from] SignatureFault),
    /// What it says.
    #[error("the policy is refused:\n{0}")]
    Refused(Box<Report>),
    /// It is older than one that was in force.
    #[error("the policy is version {found}, and version {seen} was in force already: versions grow")]
    RolledBack {
        /// Its version.
        found: u64,
        /// The highest that was in force.
        seen: u64,
    },
    /// It says something else under the same version.
    #[error("version {0} was in force with another text: versions grow with every change")]
    Forked(u64),
    /// It knows callers who prove nothing.
    #[error("line {0}: `plain: true` is for development alone")]
    Plain(u32),
}

impl PolicyFault {
    /// The name that records carry.
    #[must_use]
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Unreadable(_) | Self::Host(_) => "unreadable",
            Self::Signature(SignatureFault::TooFew { .. }) => "too-few-signatures",
            Self::Signature(_) => "signature",
            Self::Refused(_) => "refused",
            Self::RolledBack { .. } => "rolled-back",
            Self::Forked(_) => "forked",
            Self::Plain(_) => "plain",
        }
    }
}

/// A policy that was put in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loaded {
    /// Its version.
    pub version: u64,
    /// SHA-256 of its text.
    pub hash: [u8; 32],
}

/// The policy in force, and where the next one comes from.
pub struct Live {
    current: ArcSwap<Policy>,
    source: Source,
    signers: Signers,
    /// Whether callers who prove nothing may be known.
    plain: bool,
    /// Held by whoever replaces `current`: SHA-256 of the file that was looked at last.
    looked: Mutex<Option<[u8; 32]>>,
}

impl Live {
    /// This policy, for good.
    #[must_use]
    pub fn fixed(policy: Policy) -> Self {
        Self::new(policy, Source::Fixed, Signers::nobody(), false)
    }

    /// Policies of these signers, from this source; nothing is in force until [`Live::reload`]. `plain` is for development.
    #[must_use]
    pub fn following(source: Source, signers: Signers, plain: bool) -> Self {
        Self::new(Policy::nothing(), source, signers, plain)
    }

    fn new(policy: Policy, source: Source, signers: Signers, plain: bool) -> Self {
        Self { current: ArcSwap::from_pointee(policy), source, signers, plain, looked: Mutex::default() }
    }

    /// The policy in force.
    pub fn current(&self) -> Guard<Arc<Policy>> {
        self.current.load()
    }

    /// Reads the policy again if it has changed, or always with `force`; answers which is in force now, if it is another. May block.
    ///
    /// # Errors
    /// Why it is not put in force; the one in force stays. What was refused is refused once, until it changes or `force` is set.
    pub fn reload(&self, force: bool) -> Result<Option<Loaded>, PolicyFault> {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        let (name, file) = match &self.source {
            Source::Fixed => return Ok(None),
            Source::File(path) => (path.as_path(), read(path)?),
            Source::Host(blobs) => {
                let digest = blobs.look(Blob::Policy).map_err(PolicyFault::Host)?;
                if digest.is_some() && digest == *looked && !force {
                    return Ok(None);
                }
                (Path::new("policy"), blobs.get(Blob::Policy).map_err(PolicyFault::Host)?.ok_or(PolicyFault::Absent)?)
            }
        };
        let digest = Some(Sha256::digest(&file).into());
        if *looked == digest && !force {
            return Ok(None);
        }
        *looked = digest;
        let current = self.current.load();
        let signed = self.admit(name, &file, current.document().zip(current.state().map(|s| s.hash)))?;
        let loaded = Loaded { version: signed.document.version, hash: signed.hash };
        if current.state().is_some_and(|state| state.hash == loaded.hash) {
            return Ok(None);
        }
        self.current.store(Arc::new(Policy::of(signed, Some(&current))));
        Ok(Some(loaded))
    }

    /// The policy in this file, if it may take the place of the one in force.
    fn admit(&self, name: &Path, file: &[u8], before: Option<(&Document, [u8; 32])>) -> Result<Signed, PolicyFault> {
        let text = self.signers.admit(file)?;
        let hash = signed::hash(text);
        let (document, _) = signed::read(name, text).map_err(|report| PolicyFault::Refused(Box::new(report)))?;
        if let Some((before, same)) = before {
            if document.version < before.version {
                return Err(PolicyFault::RolledBack { found: document.version, seen: before.version });
            }
            if document.version == before.version && hash != same {
                return Err(PolicyFault::Forked(document.version));
            }
        }
        if !self.plain
            && let Some(line) = plain(&document)
        {
            return Err(PolicyFault::Plain(line));
        }
        Ok(Signed { document, hash })
    }
}

/// The line of a principal who proves nothing.
fn plain(document: &Document) -> Option<u32> {
    let mut principals = document.apps.values().flat_map(|section| section.principals.values());
    principals.find(|p| p.proof == Proof::Plain).map(|p| p.line)
}

fn read(path: &Path) -> Result<Vec<u8>, PolicyFault> {
    let unreadable = |error: std::io::Error| match error.kind() {
        std::io::ErrorKind::NotFound => PolicyFault::Absent,
        kind => PolicyFault::Unreadable(kind),
    };
    let mut file = Vec::new();
    // One byte more tells a file that is too long from one that just fits.
    std::fs::File::open(path).map_err(unreadable)?.take(MAX as u64 + 1).read_to_end(&mut file).map_err(unreadable)?;
    Ok(file)
}
