//! Carries bytes between the enclave and one endpoint of KMS. The enclave names no destination: which one it is, is the host's configuration, one for each port.

use super::config::{Limits, Target};
use super::gate::Ended;
use e3_link::Stream;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Mutex;
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// Time to resolve a name and connect.
const CONNECT: Duration = Duration::from_secs(5);
/// Bytes carried at a time; no write on vsock is longer.
const PIECE: usize = 16 * 1024;

/// Carries the bytes of one connection, both ways, until both sides have ended, or for the limits' time.
///
/// # Errors
/// How it ended.
pub async fn forward(stream: Stream, endpoint: Target, limits: Limits) -> Result<(), Ended> {
    let connected = tokio::time::timeout(CONNECT, connect(&endpoint)).await;
    let connected = connected.unwrap_or(Err(io::ErrorKind::TimedOut.into()));
    let upstream = connected.map_err(|cause| Ended::Unreachable { endpoint: endpoint.to_string(), cause })?;
    let (from_enclave, to_enclave) = tokio::io::split(stream);
    let (from_kms, to_kms) = upstream.into_split();
    let last = Mutex::new(Instant::now());
    let both = async {
        tokio::try_join!(
            carry(from_enclave, to_kms, &last, limits.idle),
            carry(from_kms, to_enclave, &last, limits.idle)
        )
    };
    tokio::time::timeout(limits.total, both).await.map_err(|_| Ended::TooLong)??;
    Ok(())
}

/// Resolves the name anew each time: endpoints of AWS move.
async fn connect(endpoint: &Target) -> io::Result<TcpStream> {
    let mut cause = io::ErrorKind::NotFound.into();
    for address in tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port)).await? {
        if is_link_local(&address) {
            cause = io::Error::other("the name leads to a link-local address, such as the metadata service's");
            continue;
        }
        match TcpStream::connect(address).await {
            Ok(stream) => {
                stream.set_nodelay(true)?;
                return Ok(stream);
            }
            Err(error) => cause = error,
        }
    }
    Err(cause)
}

/// Where the metadata service lives, with the credentials of the instance. KMS never does.
fn is_link_local(address: &SocketAddr) -> bool {
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.segments()[..2] == [0xfd00, 0x0ec2],
    }
}

async fn carry<R, W>(mut from: R, mut to: W, last: &Mutex<Instant>, idle: Duration) -> Result<(), Ended>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut piece = vec![0; PIECE];
    let quiet = || last.lock().map_or(idle, |last| last.elapsed());
    loop {
        let read = match tokio::time::timeout(idle.saturating_sub(quiet()), from.read(&mut piece)).await {
            Ok(read) => read?,
            // The other way may have been busy meanwhile.
            Err(_) if quiet() < idle => continue,
            Err(_) => return Err(Ended::Idle),
        };
        if let Ok(mut last) = last.lock() {
            *last = Instant::now();
        }
        if read == 0 {
            to.shutdown().await?;
            return Ok(());
        }
        tokio::time::timeout(idle, to.write_all(&piece[..read])).await.map_err(|_| Ended::Idle)??;
    }
}
