//! The program on the parent instance, and an instance metadata service for it.

use std::collections::VecDeque;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use crate::backend::{Backend, Request};
use crate::process::{Program, Running};
use crate::{client, eventually, port};

/// The services of a host, in the order of their ports on vsock, which begin at 9101.
pub const SERVICES: [&str; 5] = ["kms", "credentials", "store", "audit", "health"];

/// A running `e3 host run`.
#[derive(Debug)]
pub struct Host {
    process: Running,
    folder: PathBuf,
    sockets: [PathBuf; 5],
    http: SocketAddr,
}

impl Host {
    /// Starts a host in this folder, whose services are Unix sockets named after them there. Bytes to KMS go to `kms`.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start(folder: &Path, kms: SocketAddr, metadata: SocketAddr) -> Self {
        Self::start_with(folder, kms, metadata, SERVICES.map(|name| folder.join(name)), "")
    }

    /// The same, with its services at these sockets, and `more` lines of configuration.
    ///
    /// # Panics
    /// If it does not start.
    #[must_use]
    pub fn start_with(folder: &Path, kms: SocketAddr, metadata: SocketAddr, sockets: [PathBuf; 5], more: &str) -> Self {
        let store = folder.join("blobs");
        if !store.exists() {
            fs::create_dir(&store).expect("a folder for the store");
            fs::set_permissions(&store, fs::Permissions::from_mode(0o700)).expect("permissions of the store");
        }
        let http = port::free();
        let [to_kms, credentials, blobs, audit, health] =
            sockets.each_ref().map(|path| format!("unix://{}", path.display()));
        let config = folder.join("e3-host.yaml");
        let text = format!(
            "kms: [{{listen: \"{to_kms}\", endpoint: \"{kms}\"}}]\ncredentials: {{listen: \"{credentials}\", metadata: \"{metadata}\"}}\n\
             store: {{listen: \"{blobs}\", folder: blobs, versions: 3}}\naudit: {{listen: \"{audit}\", file: audit.jsonl}}\n\
             health: {{listen: \"{health}\", http: \"{http}\", file: status.json}}\n{more}"
        );
        fs::write(&config, text).expect("e3-host.yaml is written");
        let log = folder.join("host.log");
        let mut process =
            Program::E3.start(["host".as_ref(), "run".as_ref(), "--config".as_ref(), config.as_os_str()], &log);
        eventually("the host's page", || {
            if let Some(status) = process.ended() {
                panic!("the host ended with {status}:\n{}", process.log());
            }
            std::net::TcpStream::connect(http).ok()
        });
        Self { process, folder: folder.to_owned(), sockets, http }
    }

    /// Where one of [`SERVICES`] is, as an endpoint's text.
    ///
    /// # Panics
    /// If there is no such service.
    #[must_use]
    pub fn endpoint(&self, service: &str) -> String {
        let at = SERVICES.iter().position(|name| *name == service).expect("a service");
        format!("unix://{}", self.sockets[at].display())
    }

    /// Its process.
    pub fn process(&mut self) -> &mut Running {
        &mut self.process
    }

    /// What it logged so far.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// A file of its folder: `audit.jsonl`, `status.json`, `blobs/keyring`.
    #[must_use]
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Its page at this path: status and body.
    #[must_use]
    pub fn page(&self, path: &str) -> (u16, String) {
        let answer = client::get(self.http, path);
        (answer.status, answer.text().to_owned())
    }
}

/// An instance metadata service, version 2, of an instance whose role has credentials that can be changed.
#[derive(Debug)]
pub struct MetadataService {
    backend: Backend,
    credentials: Arc<Mutex<VecDeque<String>>>,
}

/// The role's name.
const ROLE: &str = "e3-engine";
const TOKEN: &str = "a-session-token";

impl MetadataService {
    /// A service without credentials.
    #[must_use]
    pub fn start() -> Self {
        let credentials: Arc<Mutex<VecDeque<String>>> = Arc::default();
        let given = Arc::clone(&credentials);
        let answer = move |request: &Request| {
            let mut given = given.lock().unwrap_or_else(PoisonError::into_inner);
            let authorised = request.header("x-aws-ec2-metadata-token") == Some(TOKEN);
            Some(match (request.line(), given.front().cloned()) {
                (("PUT", "/latest/api/token"), _)
                    if request.header("x-aws-ec2-metadata-token-ttl-seconds").is_some() =>
                {
                    ok(TOKEN)
                }
                (_, _) if !authorised => refused(401),
                (("GET", "/latest/meta-data/iam/security-credentials/"), Some(_)) => ok(ROLE),
                (("GET", path), Some(next)) if path.ends_with(ROLE) => {
                    given.rotate_left(1);
                    ok(&next)
                }
                _ => refused(404),
            })
        };
        Self { backend: Backend::start(answer), credentials }
    }

    /// Where it is.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.backend.address()
    }

    /// From now on the role has these credentials: access key id, secret key, session token, and when they expire (RFC 3339).
    pub fn give(&self, key_id: &str, secret: &str, token: &str, expiration: &str) {
        self.give_in_turn(&[key_id], secret, token, expiration);
    }

    /// From now on each question is answered by the credentials with the next one of these access key ids, over and over.
    pub fn give_in_turn(&self, key_ids: &[&str], secret: &str, token: &str, expiration: &str) {
        let credentials = key_ids.iter().map(|key_id| {
            format!(
                r#"{{"Code": "Success", "Type": "AWS-HMAC", "AccessKeyId": "{key_id}", "SecretAccessKey": "{secret}", "Token": "{token}", "Expiration": "{expiration}"}}"#
            )
        });
        *self.credentials.lock().unwrap_or_else(PoisonError::into_inner) = credentials.collect();
    }

    /// Requests that it got.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.backend.requests()
    }
}

fn ok(body: &str) -> Vec<u8> {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

fn refused(status: u16) -> Vec<u8> {
    format!("HTTP/1.1 {status} Refused\r\ncontent-length: 0\r\n\r\n").into_bytes()
}
