//! What can keep the program from doing its work. Each is one line for people: what failed, where, and what to do.

use crate::keyring::{KeyringFault, RotateError, UnlockError};
use crate::operator::OperatorError;
use std::io;
use std::path::{Path, PathBuf};

/// Every way in which a command of `e3` fails.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The configuration is refused; the report has file, line, column and hint.
    #[error("{0}")]
    Config(crate::config::Report),
    /// A file cannot be read.
    #[error("{}: cannot be read: {source}{}", path.display(), reading_advice(source))]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file cannot be written, locked or replaced.
    #[error("{}: cannot be written: {source}{}", path.display(), advice(path, source, "0700"))]
    Write {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no root key or no keyring where the configuration says.
    #[error("{}: is not there; `e3 keys init` makes the keyring, and the root key file with it", path.display())]
    NoKeys {
        /// Which file.
        path: PathBuf,
    },
    /// A keyring or root key that is no plain file, or far too large.
    #[error("{}: is not a plain file of a sensible size", path.display())]
    NotAFile {
        /// Which.
        path: PathBuf,
    },
    /// A keyring or root key that others may read.
    #[error("{}: mode {mode:04o} lets others in; `chmod 600` it", path.display())]
    OpenToOthers {
        /// Which.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A keyring or root key of another user.
    #[error("{}: belongs to user {owner}; it must belong to the user that runs e3, or to root", path.display())]
    NotOwned {
        /// Which.
        path: PathBuf,
        /// Whose it is.
        owner: u32,
    },
    /// A root key file that is none.
    #[error("{}: is no root key: 32 bytes as hexadecimal or base64 text are needed", path.display())]
    BadRootFile {
        /// Which.
        path: PathBuf,
    },
    /// A root key variable that is none.
    #[error("environment variable {name}: is not set to a root key: 32 bytes as hexadecimal or base64 text are needed")]
    BadRootVariable {
        /// Which.
        name: String,
    },
    /// The build has no way to get a root key.
    #[error("this build has no source for its root key: it was built without the feature `development`")]
    NoRootSource,
    /// The build, or the configuration, does not allow links that prove nothing.
    #[error(
        "the engine link is not attested; that is allowed only in development builds, with `development: true` in the configuration"
    )]
    PlainLink,
    /// The attested link cannot be set up.
    #[error("the engine cannot prove itself: {0}")]
    Link(e3_link::attested::engine::EngineTlsError),
    /// The security module of the tests.
    #[cfg(feature = "test-module")]
    #[error("{}: no security module of the tests", path.display())]
    TestModule {
        /// The file.
        path: PathBuf,
    },
    /// A keyring file that is refused.
    #[error("{}: keyring refused: {fault}", path.display())]
    Keyring {
        /// Which.
        path: PathBuf,
        /// Why.
        fault: KeyringFault,
    },
    /// There is no keyring where one is expected.
    #[error("{}: there is no keyring", path.display())]
    NoKeyring {
        /// Where: a path, or the host's endpoint.
        path: PathBuf,
    },
    /// The keys cannot be unlocked.
    #[error(transparent)]
    Unlock(#[from] UnlockError),
    /// A command to running engines.
    #[error(transparent)]
    Operator(Box<OperatorError>),
    /// A service of the host does not do what it is asked.
    #[error("{endpoint}: {fault}")]
    Host {
        /// Which.
        endpoint: e3_link::Endpoint,
        /// Why.
        fault: crate::parent::HostFault,
    },
    /// The store's folder is used by another host program.
    #[error("{}: another process uses this store", path.display())]
    StoreInUse {
        /// The folder.
        path: PathBuf,
    },
    /// An address of the loopback HTTP listener.
    #[error("{address}: cannot listen: {source}")]
    Http {
        /// Which.
        address: core::net::SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// `keys init` over an existing keyring.
    #[error("{}: exists already; a keyring is never written over", path.display())]
    KeyringExists {
        /// Which.
        path: PathBuf,
    },
    /// Audit records that are not as an engine wrote them.
    #[error("{}", text.trim_end())]
    AuditFindings {
        /// Each, with its place.
        text: String,
    },
    /// A policy does not say what its table expects.
    #[error("{text}{held} of {all} expectations hold")]
    Expectations {
        /// Each that does not, with its place.
        text: String,
        /// How many hold.
        held: usize,
        /// How many there are.
        all: usize,
    },
    /// Another process holds the keyring's lock.
    #[error("{}: another process holds this lock", path.display())]
    Locked {
        /// The lock's file.
        path: PathBuf,
    },
    /// A change of keys that is refused.
    #[error(transparent)]
    Rotate(RotateError),
    /// The operating system gave no random numbers.
    #[error("the operating system gave no random numbers")]
    Entropy,
    /// The audit file cannot be opened at start.
    #[error("{}: the audit sink cannot be opened: {source}{}", path.display(), advice(path, source, "0700"))]
    Audit {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// An endpoint cannot be listened on.
    #[error("{endpoint}: cannot listen: {source}{}", socket_advice(endpoint, source))]
    Listen {
        /// Which.
        endpoint: e3_link::Endpoint,
        /// Why.
        source: io::Error,
    },
    /// The process could not be hardened.
    #[error("core dumps cannot be switched off: {0}")]
    Harden(io::Error),
    /// The runtime, a thread or a signal handler cannot be set up.
    #[error("the runtime cannot start: {0}")]
    Runtime(io::Error),
}

/// What to do where a file cannot be made because of its folder. The folder is for the user that e3 runs as: files of another one are refused.
fn advice(path: &Path, source: &io::Error, mode: &str) -> String {
    let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) else { return String::new() };
    match source.kind() {
        io::ErrorKind::NotFound if !folder.is_dir() => format!(
            "; its folder is missing: make it with `install -d -m {mode} -o USER {}`, USER being the one that e3 runs as",
            folder.display()
        ),
        io::ErrorKind::PermissionDenied => {
            format!("; the folder {} must belong to the user that e3 runs as, mode {mode}", folder.display())
        }
        _ => String::new(),
    }
}

/// The same where a file cannot be read: often another user has made it.
fn reading_advice(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::PermissionDenied => "; it and its folder must belong to the user that e3 runs as",
        _ => "",
    }
}

/// The same for a socket, which its group may reach.
fn socket_advice(endpoint: &e3_link::Endpoint, source: &io::Error) -> String {
    match endpoint {
        e3_link::Endpoint::Unix(path) | e3_link::Endpoint::Hybrid { path, .. } => advice(path, source, "0750"),
        e3_link::Endpoint::Vsock { .. } | e3_link::Endpoint::Tcp(_) => String::new(),
    }
}

impl From<OperatorError> for Error {
    fn from(error: OperatorError) -> Self {
        Self::Operator(Box::new(error))
    }
}

impl Error {
    /// The exit code of a command that ends with this error: 1 at run time, 2 configuration, 3 keys refused, 7 none yet; 4 to 7 are
    /// those of [`UnlockError::exit_code`].
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::PlainLink | Self::NoRootSource => 2,
            Self::Unlock(e) => e.exit_code(),
            Self::Operator(e) => e.exit_code(),
            Self::Host { .. } => 4,
            Self::NoKeys { .. } => 7,
            Self::OpenToOthers { .. }
            | Self::NotOwned { .. }
            | Self::NotAFile { .. }
            | Self::BadRootFile { .. }
            | Self::BadRootVariable { .. }
            | Self::Keyring { .. }
            | Self::NoKeyring { .. }
            | Self::KeyringExists { .. }
            | Self::Rotate(_) => 3,
            _ => 1,
        }
    }
}
