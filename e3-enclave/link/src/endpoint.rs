//! Where an engine listens.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_vsock::{VsockAddr, VsockListener, VsockStream};

use crate::LinkError;
use crate::stream::Stream;

/// Any context id, for listening (`VMADDR_CID_ANY`).
pub const CID_ANY: u32 = u32::MAX;

/// Longest line that a hybrid vsock backend may answer to `CONNECT`.
const HYBRID_LINE_MAX: usize = 64;

/// Where an engine listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Endpoint {
    /// `vsock://cid:port`; `vsock://any:port` listens on every context id.
    Vsock {
        /// Context id.
        cid: u32,
        /// Port.
        port: u32,
    },
    /// `unix:///path`.
    Unix(PathBuf),
    /// `hybrid:///path:port`: the Unix socket of a Firecracker or vhost-user vsock backend, and a port behind it.
    Hybrid {
        /// The backend's socket; a guest's connection arrives at `<path>_<port>`.
        path: PathBuf,
        /// Port in the guest, or on the host when listening.
        port: u32,
    },
    /// `tcp://address:port`, loopback only: for tests.
    Tcp(SocketAddr),
}

/// Text that names no endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EndpointError {
    /// The scheme is not known.
    #[error("an endpoint starts with vsock://, unix:///, hybrid:/// or tcp://")]
    Scheme,
    /// Not `cid:port`.
    #[error("vsock is vsock://cid:port with two numbers, or vsock://any:port to listen")]
    Vsock,
    /// Not an absolute path.
    #[error("a Unix socket is unix:// and an absolute path: unix:///run/e3/e3.sock")]
    Path,
    /// Not an absolute path and a port.
    #[error("hybrid vsock is hybrid:///path:port")]
    Hybrid,
    /// Not a loopback address and a port.
    #[error("tcp is for tests, on a loopback address: tcp://127.0.0.1:7003")]
    Tcp,
}

impl FromStr for Endpoint {
    type Err = EndpointError;

    fn from_str(text: &str) -> Result<Self, EndpointError> {
        let (scheme, rest) = text.split_once("://").ok_or(EndpointError::Scheme)?;
        match scheme {
            "vsock" => {
                let (cid, port) = rest.rsplit_once(':').ok_or(EndpointError::Vsock)?;
                let cid = if cid == "any" { Ok(CID_ANY) } else { cid.parse() };
                let port = port.parse();
                Ok(Self::Vsock {
                    cid: cid.map_err(|_| EndpointError::Vsock)?,
                    port: port.map_err(|_| EndpointError::Vsock)?,
                })
            }
            "unix" if rest.starts_with('/') && !rest.ends_with('/') => Ok(Self::Unix(rest.into())),
            "unix" => Err(EndpointError::Path),
            "hybrid" => {
                let (path, port) = rest.rsplit_once(':').ok_or(EndpointError::Hybrid)?;
                let port = port.parse().map_err(|_| EndpointError::Hybrid)?;
                if !path.starts_with('/') {
                    return Err(EndpointError::Hybrid);
                }
                Ok(Self::Hybrid { path: path.into(), port })
            }
            "tcp" => {
                let address: SocketAddr = rest.parse().map_err(|_| EndpointError::Tcp)?;
                if address.ip().is_loopback() { Ok(Self::Tcp(address)) } else { Err(EndpointError::Tcp) }
            }
            _ => Err(EndpointError::Scheme),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vsock { cid: CID_ANY, port } => write!(f, "vsock://any:{port}"),
            Self::Vsock { cid, port } => write!(f, "vsock://{cid}:{port}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Hybrid { path, port } => write!(f, "hybrid://{}:{port}", path.display()),
            Self::Tcp(address) => write!(f, "tcp://{address}"),
        }
    }
}

impl Endpoint {
    /// Connects within `timeout`.
    ///
    /// # Errors
    /// Nothing listens there, or not in time.
    pub async fn connect(&self, timeout: Duration) -> Result<Stream, LinkError> {
        match tokio::time::timeout(timeout, self.dial()).await {
            Ok(Ok(stream)) => Ok(stream),
            Ok(Err(error)) => Err(LinkError::Connect(error.kind())),
            Err(_) => Err(LinkError::Connect(io::ErrorKind::TimedOut)),
        }
    }

    async fn dial(&self) -> io::Result<Stream> {
        Ok(match self {
            Self::Vsock { cid, port } => VsockStream::connect(VsockAddr::new(*cid, *port)).await?.into(),
            Self::Unix(path) => UnixStream::connect(path).await?.into(),
            Self::Hybrid { path, port } => {
                let mut stream = UnixStream::connect(path).await?;
                stream.write_all(format!("CONNECT {port}\n").as_bytes()).await?;
                read_ok(&mut stream).await?;
                Stream::hybrid(stream)
            }
            Self::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                stream.into()
            }
        })
    }

    /// Listens. A Unix socket gets `mode` (for example `0o600`) before anyone can connect; a stale one is replaced.
    ///
    /// # Errors
    /// The address is in use, or may not be bound.
    pub async fn listen(&self, mode: u32) -> io::Result<Listener> {
        let inner = match self {
            Self::Vsock { cid, port } => Inner::Vsock(VsockListener::bind(VsockAddr::new(*cid, *port))?),
            Self::Unix(path) => bind_unix(path, mode).await?,
            Self::Hybrid { path, port } => {
                let mut name = path.clone().into_os_string();
                name.push(format!("_{port}"));
                bind_unix(Path::new(&name), mode).await?
            }
            Self::Tcp(address) => Inner::Tcp(TcpListener::bind(address).await?),
        };
        Ok(Listener { inner, hybrid: matches!(self, Self::Hybrid { .. }) })
    }
}

/// Reads the backend's `OK …` line byte by byte: what follows belongs to the guest.
async fn read_ok(stream: &mut UnixStream) -> io::Result<()> {
    let mut line = Vec::with_capacity(HYBRID_LINE_MAX);
    loop {
        match stream.read_u8().await? {
            b'\n' => break,
            byte if line.len() < HYBRID_LINE_MAX => line.push(byte),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
    if line == b"OK" || line.starts_with(b"OK ") { Ok(()) } else { Err(io::ErrorKind::ConnectionRefused.into()) }
}

/// Accepts connections at an endpoint; a Unix socket is removed when this is dropped, if it is still ours.
#[derive(Debug)]
pub struct Listener {
    inner: Inner,
    hybrid: bool,
}

#[derive(Debug)]
enum Inner {
    Vsock(VsockListener),
    Unix { listener: UnixListener, path: PathBuf, inode: (u64, u64) },
    Tcp(TcpListener),
}

impl Listener {
    /// The next connection.
    ///
    /// # Errors
    /// As `accept(2)`; most are passing.
    pub async fn accept(&self) -> io::Result<Stream> {
        Ok(match &self.inner {
            Inner::Vsock(listener) => listener.accept().await?.0.into(),
            Inner::Unix { listener, .. } if self.hybrid => Stream::hybrid(listener.accept().await?.0),
            Inner::Unix { listener, .. } => listener.accept().await?.0.into(),
            Inner::Tcp(listener) => {
                let stream = listener.accept().await?.0;
                stream.set_nodelay(true)?;
                stream.into()
            }
        })
    }

    /// The bound address of a TCP endpoint, for tests that bind port 0.
    #[must_use]
    pub fn tcp_address(&self) -> Option<SocketAddr> {
        match &self.inner {
            Inner::Tcp(listener) => listener.local_addr().ok(),
            _ => None,
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Inner::Unix { path, inode, .. } = &self.inner
            && std::fs::symlink_metadata(path).is_ok_and(|m| (m.dev(), m.ino()) == *inode)
        {
            // A socket that cannot be removed is replaced by the next listener.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Binds under a temporary name, sets the mode and renames: nobody ever sees the socket with a wider mode.
async fn bind_unix(path: &Path, mode: u32) -> io::Result<Inner> {
    if let Ok(existing) = std::fs::symlink_metadata(path) {
        if !existing.file_type().is_socket() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        if UnixStream::connect(path).await.is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let fresh = path.with_file_name(name);
    let _ = std::fs::remove_file(&fresh);
    let listener = UnixListener::bind(&fresh)?;
    std::fs::set_permissions(&fresh, std::fs::Permissions::from_mode(mode))?;
    std::fs::rename(&fresh, path)?;
    let metadata = std::fs::symlink_metadata(path)?;
    Ok(Inner::Unix { listener, path: path.into(), inode: (metadata.dev(), metadata.ino()) })
}
