//! Clients that speak TLS, straight and through CONNECT, servers that do, and what they need of certificates. Included by the tests that need them: the harness itself has no TLS.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use e3_tests::PATIENCE;
use e3_tests::client::{Answer, header, read_body, read_head};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
};
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{
    ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned, crypto, version,
};

/// Connects and sends a CONNECT as it stands; the status of the answer and its head.
pub fn connect(proxy: SocketAddr, request: &str) -> (u16, String, TcpStream) {
    let mut stream = TcpStream::connect(proxy).expect("the proxy listens");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.write_all(request.as_bytes()).expect("CONNECT is sent");
    // Byte by byte: what follows the head is TLS.
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).expect("an answer to CONNECT") == 0 {
            break;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("a head");
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
    (status, head, stream)
}

/// A CONNECT with `more` header lines.
pub fn connect_request(target: &str, more: &str) -> String {
    format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n{more}\r\n")
}

/// TLS as a client that trusts these authorities alone.
pub fn client_config(ca: &Path) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(ca).expect("the authority's file") {
        roots.add(certificate.expect("a certificate")).expect("an authority");
    }
    let provider = Arc::new(crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Arc::new(builder.expect("versions").with_root_certificates(roots).with_no_client_auth())
}

/// A TLS connection to a listener, or inside CONNECT.
pub struct Through {
    stream: StreamOwned<ClientConnection, TcpStream>,
    unread: Vec<u8>,
}

impl Through {
    /// Starts TLS for a server name.
    pub fn start(stream: TcpStream, config: Arc<ClientConfig>, name: &str) -> io::Result<Self> {
        let name = ServerName::try_from(name.to_owned()).expect("a server name");
        let connection = ClientConnection::new(config, name).map_err(io::Error::other)?;
        let mut stream = StreamOwned::new(connection, stream);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        Ok(Self { stream, unread: Vec::new() })
    }

    /// CONNECT and TLS to one host on port 443.
    pub fn open(proxy: SocketAddr, ca: &Path, host: &str) -> Self {
        let (status, head, stream) = connect(proxy, &connect_request(&format!("{host}:443"), ""));
        assert_eq!(status, 200, "{head}");
        Self::start(stream, client_config(ca), host).expect("TLS inside CONNECT")
    }

    /// TLS straight to a listener of this host.
    pub fn direct(listener: SocketAddr, ca: &Path, host: &str) -> Self {
        let stream = TcpStream::connect(listener).expect("the listener listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self::start(stream, client_config(ca), host).expect("TLS to the listener")
    }

    /// What comes after the answers: bytes, once another protocol was agreed on.
    pub fn bytes(&mut self) -> &mut (impl Read + Write) {
        &mut self.stream
    }

    /// The certificate that the server showed, in DER.
    pub fn shown(&self) -> Vec<u8> {
        let chain = self.stream.conn.peer_certificates().expect("a certificate was shown");
        chain.first().expect("a certificate").to_vec()
    }

    /// Sends a request and reads its answer.
    pub fn ask(&mut self, request: &[u8]) -> io::Result<Answer> {
        self.stream.write_all(request)?;
        self.stream.flush()?;
        let head = read_head(&mut self.stream, &mut self.unread)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0);
        let body = if header(&head, "content-length").is_some() || header(&head, "transfer-encoding").is_some() {
            read_body(&mut self.stream, &mut self.unread, &head)?
        } else {
            Vec::new()
        };
        Ok(Answer { status, head, body })
    }
}

/// An authority of the test's own.
pub struct TestCa {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

impl TestCa {
    pub fn new() -> Self {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        // A name of its own: some clients take a leaf whose issuer has its name for one that signed itself.
        params.distinguished_name.push(DnType::CommonName, "An authority of a test");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        // Strict clients look for it.
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let pem = params.self_signed(&key).expect("an authority").pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for a name, and its key, in PEM; `change` may spoil it.
    pub fn leaf(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> (String, String) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![name.to_owned()]).expect("a name");
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        change(&mut params);
        (params.signed_by(&key, &self.issuer).expect("a leaf").pem(), key.serialize_pem())
    }
}

impl TestCa {
    /// Writes `NAME.pem` and `NAME.key` for a site into the folder, and the authority to `site-ca.pem`: what stands behind `tls:` in the rules.
    pub fn site(&self, folder: &Path, name: &str) -> String {
        self.site_with(folder, name, |_| ())
    }

    /// The same; `change` may spoil the certificate.
    pub fn site_with(&self, folder: &Path, name: &str, change: impl FnOnce(&mut CertificateParams)) -> String {
        let (certificate, key) = self.leaf(name, change);
        let file = |end: &str| folder.join(format!("{}.{end}", name.replace('*', "any")));
        // Written beside and renamed, as whoever renews certificates does; the key first, since it is of use to nobody alone.
        for (path, text) in
            [(file("key"), key), (file("pem"), certificate), (folder.join("site-ca.pem"), self.pem.clone())]
        {
            let new = path.with_extension("new");
            std::fs::write(&new, text).expect("a file is written");
            std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o600)).expect("permissions");
            std::fs::rename(&new, &path).expect("a file is replaced");
        }
        format!("certificate: {}, key: {}", file("pem").display(), file("key").display())
    }
}

/// How a [`TlsServer`] is set up.
#[derive(Default)]
pub struct Setup {
    pub only_tls12: bool,
    /// Authority of the clients that are let in.
    pub clients: Option<String>,
}

/// A server that speaks TLS and answers each request with its own head and body as text.
pub struct TlsServer {
    pub address: SocketAddr,
    /// Connections so far, whatever became of them.
    pub connections: Arc<AtomicUsize>,
    /// Bytes of requests that came out of TLS.
    pub bytes: Arc<AtomicUsize>,
    pub heads: Arc<Mutex<Vec<String>>>,
}

impl TlsServer {
    pub fn start((certificate, key): (String, String), setup: Setup) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let server = Self {
            address: listener.local_addr().expect("an address"),
            connections: Arc::default(),
            bytes: Arc::default(),
            heads: Arc::default(),
        };
        let provider = Arc::new(crypto::ring::default_provider());
        let versions: &[_] = if setup.only_tls12 { &[&version::TLS12] } else { &[&version::TLS13, &version::TLS12] };
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider)).with_protocol_versions(versions);
        let builder = builder.expect("versions");
        let builder = match setup.clients {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).expect("PEM")).expect("an authority");
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.expect("a verifier"))
            }
        };
        let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes()).expect("PEM")];
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("PEM");
        let config = Arc::new(builder.with_single_cert(chain, key).expect("a certificate with its key"));
        let (bytes, heads) = (Arc::clone(&server.bytes), Arc::clone(&server.heads));
        let connections = Arc::clone(&server.connections);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                connections.fetch_add(1, Ordering::SeqCst);
                let (config, bytes, heads) = (Arc::clone(&config), Arc::clone(&bytes), Arc::clone(&heads));
                std::thread::spawn(move || converse(stream, config, &bytes, &heads));
            }
        });
        server
    }

    pub fn bytes(&self) -> usize {
        self.bytes.load(Ordering::SeqCst)
    }
}

fn converse(stream: TcpStream, config: Arc<ServerConfig>, bytes: &AtomicUsize, heads: &Mutex<Vec<String>>) {
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let mut stream = StreamOwned::new(ServerConnection::new(config).expect("TLS"), stream);
    let mut unread = Vec::new();
    while let Ok(Some(head)) = read_head(&mut stream, &mut unread) {
        bytes.fetch_add(head.len(), Ordering::SeqCst);
        let Ok(body) = read_body(&mut stream, &mut unread, &head) else { return };
        bytes.fetch_add(body.len(), Ordering::SeqCst);
        heads.lock().expect("the record").push(head);
        let answer =
            format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
        if stream.write_all(&[answer.as_bytes(), &body].concat()).is_err() {
            return;
        }
    }
}

/// One request by curl: a POST of JSON, or a GET without a body. Its own head stands in the answer, the one of a CONNECT does not.
pub fn curl(arguments: &[&str], url: &str, body: Option<&str>) -> Answer {
    let mut curl = std::process::Command::new("curl");
    curl.args(["-sS", "-i", "--suppress-connect-headers", "--max-time", "20"]).args(arguments);
    if let Some(body) = body {
        curl.args(["-H", "Content-Type: application/json", "--data-binary", body]);
    }
    let done = curl.arg(url).output().expect("curl runs");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let end = done.stdout.windows(4).position(|end| end == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8(done.stdout[..end].to_vec()).expect("a head in text");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answer { status, head, body: done.stdout[end + 4..].to_vec() }
}
