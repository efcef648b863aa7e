//! The engine's KMS client and a KMS that is not ours: moto speaks AWS's protocol and ignores Recipient. What the client writes is understood, and what comes back is refused.
//! `.ci/moto` installs it and says where it is.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use e3_attest::make::{Authority, Content};
use e3_attest::{Pcr, Request};
use e3_enclave::keyring::unlock::{self, Expected, KmsRoot};
use e3_enclave::kms::KmsTarget;
use e3_enclave::kms::client::{Kms, Way};
use e3_enclave::parent::BlobStore;
use e3_link::attested::Attester;
use e3_tests::host::{Host, MetadataService};
use e3_tests::stack::folder;
use e3_tests::{eventually, port};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, crypto};

const HOST: &str = "kms.test.example";
const TRY: Duration = Duration::from_secs(10);

struct Module(Authority);

impl Attester for Module {
    fn document(&self, request: &Request) -> Option<Vec<u8>> {
        let pcrs = (0..3).map(|index| (index, Pcr::new([index + 1; 48])));
        self.0.sign(&Content::new(SystemTime::now(), pcrs, request.clone())).ok()
    }
}

/// The emulator's process; killed when dropped.
struct Moto {
    child: Child,
    address: SocketAddr,
    roots: RootCertStore,
}

impl Drop for Moto {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

impl Moto {
    fn start(folder: &std::path::Path) -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let authority = params.self_signed(&key).unwrap();
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(vec![HOST.to_owned()]).unwrap().signed_by(&key, &issuer).unwrap();
        let (pem, private) = (folder.join("moto.pem"), folder.join("moto.key"));
        fs::write(&pem, certificate.pem()).unwrap();
        fs::write(&private, key.serialize_pem()).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        let server = std::env::var_os("E3_MOTO_SERVER").expect("E3_MOTO_SERVER names the program; `.ci/moto` sets it");
        let address = port::free();
        let log = fs::File::create(folder.join("moto.log")).unwrap();
        let child = Command::new(server)
            .args(["-H", "127.0.0.1", "-p", &address.port().to_string(), "-s", "-c"])
            .arg(&pem)
            .arg("-k")
            .arg(&private)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let moto = Self { child, address, roots };
        eventually("moto", || TcpStream::connect(address).ok());
        moto
    }

    fn tls(&self) -> StreamOwned<ClientConnection, TcpStream> {
        let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots.clone())
            .with_no_client_auth();
        let name = ServerName::try_from(HOST).unwrap();
        let stream = TcpStream::connect(self.address).unwrap();
        StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), stream)
    }

    /// Makes a key; answers its ARN.
    fn create_key(&self) -> String {
        let mut stream = self.tls();
        let request = "POST / HTTP/1.1\r\nhost: kms.eu-central-1.amazonaws.com\r\nx-amz-target: TrentService.CreateKey\r\n\
             content-type: application/x-amz-json-1.1\r\n\
             authorization: AWS4-HMAC-SHA256 Credential=AKIDTEST/20260101/eu-central-1/kms/aws4_request, SignedHeaders=host, Signature=0\r\n\
             connection: close\r\ncontent-length: 2\r\n\r\n{}";
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        // It closes without a word of TLS.
        drop(stream.read_to_end(&mut answer));
        let answer = String::from_utf8(answer).unwrap();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{answer}"));
        let body: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer}"));
        body["KeyMetadata"]["Arn"].as_str().unwrap().to_owned()
    }
}

#[test]
fn an_emulator_that_ignores_the_recipient_is_understood_and_refused() {
    let folder = folder();
    let moto = Moto::start(folder.path());
    let arn = moto.create_key();
    assert!(arn.starts_with("arn:aws:kms:eu-central-1:"), "{arn}");
    let metadata = MetadataService::start();
    metadata.give("AKIDTEST", "secret", "token", "2099-01-01T00:00:00Z");
    let host = Host::start(folder.path(), moto.address, metadata.address());
    let at = |service: &str| host.endpoint(service).parse().unwrap();
    let authority = || Authority::new(SystemTime::now(), Duration::from_secs(3600)).unwrap();
    let init = |arn: &str| {
        let target = KmsTarget::at(arn.parse().unwrap(), HOST, moto.address.port(), moto.roots.clone()).unwrap();
        let way = Way { forwarder: at("kms"), credentials: at("credentials"), timeout: TRY };
        let roots = KmsRoot::new(Kms::new(&target, &way, Arc::new(Module(authority()))).unwrap()).unwrap();
        let blobs = Arc::new(BlobStore::new(at("store"), TRY).unwrap());
        let expected = Expected { environment: "test".into(), keyring: None };
        unlock::init(&blobs, &roots, &expected).map(|_| ()).unwrap_err()
    };
    let error = init(&arn);
    assert!(error.to_string().contains("plaintext although a recipient was given"), "{error}");
    assert_eq!(error.exit_code(), 6);
    assert!(!host.file("blobs/root").exists(), "something of it was stored");
    // Its errors are understood too.
    let error = init("arn:aws:kms:eu-central-1:123456789012:key/00000000-0000-4000-8000-000000000000");
    assert!(error.to_string().contains("NotFoundException"), "{error}");
}
