//! What this relay accepts as its engine, who it says it is, and what it remembers of engines between two runs.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use e3_attest::Verifier;
use e3_link::attested::certificate::{CertificateFault, LinkKey};
use e3_link::attested::memory::{KeyringId, Memory, Seen};
use e3_link::attested::relay::RelayTls;

use crate::config::resolved::Attestation;

/// Why the attested link cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum AttestedError {
    /// The key file.
    #[error("the relay's key in {} cannot be read: {source}", path.display())]
    KeyFile {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The key in it.
    #[error("the relay's key in {}: {fault}", path.display())]
    Key {
        /// Which.
        path: PathBuf,
        /// Why.
        fault: CertificateFault,
    },
    /// The file of what was seen.
    #[error("{} must be readable and writable, so that an old keyring is found out after a restart too: {source}; `engine.seen` names another place", path.display())]
    Seen {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line in it.
    #[error("{}:{line}: not `KEYRING-ID EPOCH POLICY-VERSION`; remove the file only if you know why it is damaged", path.display())]
    SeenLine {
        /// Which file.
        path: PathBuf,
        /// Which line, from 1.
        line: usize,
    },
}

/// The relay's side of the link, as the rules file wants it.
///
/// # Errors
/// The key or what was seen cannot be read.
pub fn tls(attestation: &Attestation) -> Result<RelayTls, AttestedError> {
    let path = attestation.key.clone();
    let pem = std::fs::read_to_string(&path).map_err(|source| AttestedError::KeyFile { path: path.clone(), source })?;
    let key = LinkKey::from_pem(&pem).map_err(|fault| AttestedError::Key { path: path.clone(), fault })?;
    let memory = memory(&attestation.seen, attestation.keyring)?;
    RelayTls::new(&key, verifier(&path), attestation.images.clone(), Arc::new(memory))
        .map_err(|fault| AttestedError::Key { path, fault })
}

/// Trusts AWS's root.
#[cfg(not(feature = "test-root"))]
#[must_use]
pub fn verifier(_: &Path) -> Verifier {
    Verifier::aws()
}

/// Trusts the root in the file with this name and `.root` behind it, for tests with a security module of their own; else AWS's. The feature is in no build for
/// production.
#[cfg(feature = "test-root")]
#[must_use]
pub fn verifier(beside: &Path) -> Verifier {
    let mut name = beside.as_os_str().to_owned();
    name.push(".root");
    let other = std::fs::read(name).ok();
    other.and_then(|root| Verifier::with_test_root(root).ok()).unwrap_or(Verifier::aws())
}

/// What earlier runs saw, from a text file of lines `KEYRING-ID EPOCH POLICY-VERSION`.
fn memory(path: &Path, pinned: Option<KeyringId>) -> Result<Memory, AttestedError> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(source) => return Err(AttestedError::Seen { path: path.to_owned(), source }),
    };
    let mut seen = HashMap::new();
    for (at, line) in text.lines().enumerate() {
        let parsed = parse(line).ok_or_else(|| AttestedError::SeenLine { path: path.to_owned(), line: at + 1 })?;
        seen.insert(parsed.0, parsed.1);
    }
    // Written once now: a memory that cannot be kept is found out at the start, not after a rollback.
    write(path, &seen).map_err(|source| AttestedError::Seen { path: path.to_owned(), source })?;
    let (path, kept) = (path.to_owned(), std::sync::Mutex::new(seen.clone()));
    Ok(Memory::new(pinned, seen).keeping(move |keyring, now| {
        let mut kept = kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        kept.insert(keyring, now);
        if let Err(error) = write(&path, &kept) {
            tracing::error!(%error, file = %path.display(), "what was seen of the engine could not be kept");
        }
    }))
}

fn parse(line: &str) -> Option<(KeyringId, Seen)> {
    let mut words = line.split(' ');
    let (id, epoch, policy) = (words.next()?, words.next()?, words.next()?);
    let seen = Seen { epoch: epoch.parse().ok()?, policy: policy.parse().ok()? };
    words.next().is_none().then_some((id.parse().ok()?, seen))
}

/// Replaces the file in one step.
fn write(path: &Path, seen: &HashMap<KeyringId, Seen>) -> std::io::Result<()> {
    let mut lines: Vec<String> =
        seen.iter().map(|(id, seen)| format!("{id} {} {}\n", seen.epoch, seen.policy)).collect();
    lines.sort();
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    let fresh = PathBuf::from(name);
    let mut file = File::create(&fresh)?;
    file.write_all(lines.concat().as_bytes())?;
    file.sync_all()?;
    std::fs::rename(fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use e3_attest::{KeyringState, State};

    fn at(epoch: u64) -> State {
        State { keyring: Some(KeyringState { epoch, id: [7; 16] }), ..State::default() }
    }

    #[test]
    fn what_was_seen_outlives_the_process() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("seen");
        memory(&file, None).unwrap().admit(&at(5)).unwrap();
        assert_eq!(std::fs::read_to_string(&file).unwrap(), format!("{} 5 0\n", "07".repeat(16)));
        let again = memory(&file, None).unwrap();
        assert!(again.admit(&at(4)).is_err());
        again.admit(&at(5)).unwrap();
        std::fs::write(&file, "nonsense\n").unwrap();
        assert!(matches!(memory(&file, None), Err(AttestedError::SeenLine { line: 1, .. })));
        assert!(matches!(memory(&folder.path().join("no/folder"), None), Err(AttestedError::Seen { .. })));
    }
}
