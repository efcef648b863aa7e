//! The folder in which accounts and certificates outlive the process. Only its owner may enter it, and a file is replaced whole or not at all.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::AcmeFault;
use crate::tls::certificate::Certificate;

/// Accounts and certificates of one authority.
#[derive(Debug)]
pub(super) struct Store {
    folder: PathBuf,
    directory: Box<str>,
}

/// Held by the one process that orders.
#[derive(Debug, Clone)]
pub(super) struct Lock {
    _file: Arc<File>,
}

impl Store {
    /// Makes the folder if there is none.
    pub(super) fn open(folder: &Path, directory: &str) -> Result<Self, AcmeFault> {
        if !folder.exists() {
            DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|_| AcmeFault::Store)?;
        }
        let mode = fs::metadata(folder).map_err(|_| AcmeFault::Store)?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(AcmeFault::Store);
        }
        Ok(Self { folder: folder.to_owned(), directory: directory.into() })
    }

    /// `None` while another process has it.
    pub(super) fn lock(&self) -> Option<Lock> {
        let mut options = OpenOptions::new();
        let file = options.create(true).truncate(false).write(true).mode(0o600).open(self.folder.join("lock")).ok()?;
        flock(&file, FlockOperation::NonBlockingLockExclusive).ok()?;
        Some(Lock { _file: Arc::new(file) })
    }

    /// The account's credentials, as JSON.
    pub(super) fn account(&self) -> Result<Option<Zeroizing<Vec<u8>>>, AcmeFault> {
        read(&self.account_file())
    }

    pub(super) fn save_account(&self, credentials: &[u8]) -> Result<(), AcmeFault> {
        self.replace(&self.account_file(), credentials)
    }

    /// The authority does not know it any more.
    pub(super) fn forget_account(&self) {
        // If it is still there next time, so is the refusal.
        let _ = fs::remove_file(self.account_file());
    }

    /// The certificate of these hosts, with its key. One that cannot be used is as good as none.
    pub(super) fn certificate(&self, hosts: &[Box<str>]) -> Result<Option<Certificate>, AcmeFault> {
        let Some(pem) = read(&self.certificate_file(hosts))? else { return Ok(None) };
        match Certificate::read(&pem, &pem) {
            Ok(certificate) if hosts.iter().all(|host| certificate.is_for(host)) => Ok(Some(certificate)),
            Ok(_) => Ok(None),
            Err(fault) => {
                tracing::warn!(store = %self.folder.display(), %fault, "a certificate of the store cannot be used");
                Ok(None)
            }
        }
    }

    /// Key and chain in one file, so that they are replaced together.
    pub(super) fn save_certificate(&self, hosts: &[Box<str>], key: &str, chain: &str) -> Result<(), AcmeFault> {
        let text = Zeroizing::new(format!("{key}{chain}"));
        self.replace(&self.certificate_file(hosts), text.as_bytes())
    }

    fn account_file(&self) -> PathBuf {
        self.folder.join(format!("account-{}.json", self.tag(&[])))
    }

    fn certificate_file(&self, hosts: &[Box<str>]) -> PathBuf {
        let first = hosts.first().map_or("none", |host| &**host);
        self.folder.join(format!("{first}-{}.pem", self.tag(hosts)))
    }

    /// Tells authorities and sets of hosts apart.
    fn tag(&self, hosts: &[Box<str>]) -> String {
        let mut hash = Sha256::new();
        hash.update(self.directory.as_bytes());
        for host in hosts {
            hash.update([0]);
            hash.update(host.as_bytes());
        }
        hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    }

    fn replace(&self, file: &Path, bytes: &[u8]) -> Result<(), AcmeFault> {
        let written = || -> io::Result<()> {
            let new = file.with_extension("new");
            let mut out = OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&new)?;
            out.write_all(bytes)?;
            out.sync_all()?;
            fs::rename(&new, file)?;
            File::open(&self.folder)?.sync_all()
        };
        written().map_err(|error| {
            tracing::error!(store = %self.folder.display(), %error, "the store cannot be written");
            AcmeFault::Store
        })
    }
}

fn read(file: &Path) -> Result<Option<Zeroizing<Vec<u8>>>, AcmeFault> {
    match fs::read(file) {
        Ok(bytes) => Ok(Some(Zeroizing::new(bytes))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => {
            tracing::error!(file = %file.display(), %error, "the store cannot be read");
            Err(AcmeFault::Store)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn keys_are_for_the_owner_alone_and_directories_are_kept_apart() {
        let folder = tempfile::tempdir().unwrap();
        let own = folder.path().join("a/store");
        let store = Store::open(&own, "https://one.example/dir").unwrap();
        store.save_account(b"{}").unwrap();
        let hosts: Box<[Box<str>]> = Box::new(["a.example".into()]);
        let key = rcgen::KeyPair::generate().unwrap();
        let chain =
            rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap().self_signed(&key).unwrap().pem();
        store.save_certificate(&hosts, &key.serialize_pem(), &chain).unwrap();
        assert_eq!(mode(&own), 0o700);
        for file in fs::read_dir(&own).unwrap() {
            assert_eq!(mode(&file.unwrap().path()), 0o600);
        }
        assert!(store.certificate(&hosts).unwrap().is_some());
        let more: Box<[Box<str>]> = Box::new(["a.example".into(), "b.example".into()]);
        assert!(store.certificate(&more).unwrap().is_none());
        let other = Store::open(&own, "https://two.example/dir").unwrap();
        assert!(other.account().unwrap().is_none() && other.certificate(&hosts).unwrap().is_none());
        fs::set_permissions(&own, fs::Permissions::from_mode(0o750)).unwrap();
        assert!(Store::open(&own, "https://one.example/dir").is_err(), "others may enter");
    }

    #[test]
    fn one_process_orders_at_a_time() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store"), "d").unwrap();
        let held = store.lock().unwrap();
        assert!(store.lock().is_none());
        drop(held);
        assert!(store.lock().is_some());
    }
}
