//! Clients that speak TLS, straight or through CONNECT, and the certificates that they are shown.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// A certificate and its key in files.
#[derive(Debug)]
pub struct Leaf {
    /// PEM.
    pub certificate: PathBuf,
    /// PKCS #8 PEM, mode 0600.
    pub key: PathBuf,
    /// The authority's certificate, PEM.
    pub authority: PathBuf,
}

/// Makes an authority, and a P-256 certificate for these names.
///
/// # Panics
/// A file cannot be written.
#[must_use]
pub fn leaf(dir: &Path, names: &[&str]) -> Leaf {
    use std::os::unix::fs::PermissionsExt;
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "Authority of a measurement");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let authority = params.self_signed(&key).expect("an authority").pem();
    let issuer = Issuer::new(params, key);
    let key = KeyPair::generate().expect("a key");
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let certificate = CertificateParams::new(names).expect("names").signed_by(&key, &issuer).expect("a leaf").pem();
    let made =
        Leaf { certificate: dir.join("leaf.pem"), key: dir.join("leaf.key"), authority: dir.join("authority.pem") };
    for (path, text) in
        [(&made.certificate, certificate), (&made.key, key.serialize_pem()), (&made.authority, authority)]
    {
        std::fs::write(path, text).expect("a file is written");
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).expect("permissions");
    }
    made
}

/// A way to a server that speaks TLS.
#[derive(Clone)]
pub struct Way {
    /// Port on loopback that is dialled.
    pub port: u16,
    /// Asked for by CONNECT first, `host:port`.
    pub connect: Option<String>,
    /// TLS server name and Host.
    pub name: &'static str,
    config: Arc<ClientConfig>,
}

impl Way {
    /// A way on which these authorities alone are trusted, this protocol is offered, and every handshake is a full one.
    ///
    /// # Panics
    /// The authorities cannot be read.
    #[must_use]
    pub fn new(port: u16, connect: Option<String>, name: &'static str, authorities: &Path, protocol: &str) -> Self {
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(authorities).expect("the authorities' file") {
            roots.add(certificate.expect("a certificate")).expect("an authority");
        }
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut config = builder.expect("versions").with_root_certificates(roots).with_no_client_auth();
        config.resumption = Resumption::disabled();
        config.alpn_protocols = vec![protocol.as_bytes().to_vec()];
        Self { port, connect, name, config: Arc::new(config) }
    }

    /// Connects, by CONNECT where that is wanted, and shakes hands.
    ///
    /// # Errors
    /// The server turned the client away.
    pub async fn open(&self) -> io::Result<TlsStream<TcpStream>> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await?;
        stream.set_nodelay(true)?;
        if let Some(target) = &self.connect {
            stream.write_all(format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes()).await?;
            let mut head = [0; 1024];
            let n = stream.read(&mut head).await?;
            if !head[..n].starts_with(b"HTTP/1.1 200") {
                return Err(io::ErrorKind::ConnectionRefused.into());
            }
        }
        let name = ServerName::try_from(self.name).map_err(io::Error::other)?;
        TlsConnector::from(Arc::clone(&self.config)).connect(name, stream).await
    }

    /// Sends one request and reads its answer.
    ///
    /// # Errors
    /// The connection broke, or the answer is not 2xx.
    pub async fn ask(&self, stream: &mut TlsStream<TcpStream>, body: &[u8]) -> io::Result<()> {
        let head = format!(
            "POST /plain/orders HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            self.name,
            body.len()
        );
        stream.write_all(&[head.as_bytes(), body].concat()).await?;
        stream.flush().await?;
        let (mut answer, mut filled) = ([0; 4096], 0);
        loop {
            let n = stream.read(&mut answer[filled..]).await?;
            filled += n;
            if n == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let text = &answer[..filled];
            let Some(end) = text.windows(4).position(|w| w == b"\r\n\r\n") else { continue };
            let head = String::from_utf8_lossy(&text[..end]).to_ascii_lowercase();
            if !head.starts_with("http/1.1 2") {
                return Err(io::Error::other("an answer that is not 2xx"));
            }
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next()?.parse().ok());
            if filled >= end + 4 + length.unwrap_or(0) {
                return Ok(());
            }
        }
    }
}

/// Handshakes in a second, one request on each, from `clients` at once on the calling thread.
///
/// # Panics
/// A connection fails.
#[must_use]
pub fn handshakes(way: &Way, clients: usize, time: Duration) -> f64 {
    run(
        clients,
        time,
        |way, until| async move {
            let mut done = 0;
            while Instant::now() < until {
                let mut stream = way.open().await.expect("a handshake");
                way.ask(&mut stream, b"{}").await.expect("an answer");
                // Abrupt, so that neither side waits with a port.
                let _ = stream.get_ref().0.set_zero_linger();
                done += 1;
            }
            done
        },
        way,
    )
}

/// Requests in a second over connections that stay, from `clients` at once on the calling thread.
///
/// # Panics
/// A request fails.
#[must_use]
pub fn requests(way: &Way, clients: usize, time: Duration, body: &'static [u8]) -> f64 {
    run(
        clients,
        time,
        move |way, until| async move {
            let mut stream = way.open().await.expect("a handshake");
            let mut done = 0;
            while Instant::now() < until {
                way.ask(&mut stream, body).await.expect("an answer");
                done += 1;
            }
            done
        },
        way,
    )
}

fn run<F, Fut>(clients: usize, time: Duration, work: F, way: &Way) -> f64
where
    F: Fn(Way, Instant) -> Fut,
    Fut: Future<Output = u64> + 'static,
{
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let tasks = tokio::task::LocalSet::new();
    let started = Instant::now();
    let done = tasks.block_on(&runtime, async {
        let clients: Vec<_> =
            (0..clients).map(|_| tokio::task::spawn_local(work(way.clone(), started + time))).collect();
        let mut done = 0;
        for client in clients {
            done += client.await.expect("a client ends well");
        }
        done
    });
    done as f64 / started.elapsed().as_secs_f64()
}
