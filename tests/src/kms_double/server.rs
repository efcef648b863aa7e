//! HTTPS, the JSON protocol, and what is decided.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use base64ct::{Base64, Encoding};
use e3_attest::{ExpectedNonce, PcrSet, PcrSets};
use e3_tests::client::{header, read_body, read_head};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{ServerConfig, ServerConnection, StreamOwned, crypto};

use super::{Call, Fault, Key, State, ciphertext, envelope, signature};

/// Longest that a connection may be quiet, so that no thread stays for ever.
const QUIET: Duration = Duration::from_secs(60);

type Tls = StreamOwned<ServerConnection, TcpStream>;

pub(super) struct Server {
    address: SocketAddr,
    closing: Arc<AtomicBool>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.closing.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(self.address));
    }
}

impl Server {
    /// A server under a fresh authority's certificate for this name; and that authority's own, in PEM.
    pub(super) fn start(name: &str, state: Arc<Mutex<State>>) -> (Self, SocketAddr, String) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        let authority = params.self_signed(&key).expect("an authority");
        let issuer = Issuer::new(params, key);
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(vec![name.to_owned()]).expect("parameters");
        let certificate = params.signed_by(&key, &issuer).expect("a certificate");
        let private = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let config = ServerConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], private)
            .expect("a configuration");
        let config = Arc::new(config);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a free port");
        let address = listener.local_addr().expect("an address");
        let closing = Arc::new(AtomicBool::new(false));
        let closed = Arc::clone(&closing);
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                if closed.load(Ordering::Relaxed) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let (config, state) = (Arc::clone(&config), Arc::clone(&state));
                std::thread::spawn(move || drop(converse(stream, config, &state)));
            }
        });
        (Self { address, closing }, address, authority.pem())
    }
}

fn converse(stream: TcpStream, config: Arc<ServerConfig>, state: &Mutex<State>) -> io::Result<()> {
    stream.set_read_timeout(Some(QUIET))?;
    let connection = ServerConnection::new(config).map_err(io::Error::other)?;
    let mut stream = Tls::new(connection, stream);
    let mut unread = Vec::new();
    while let Some(head) = read_head(&mut stream, &mut unread)? {
        let body = read_body(&mut stream, &mut unread, &head)?;
        let fault = state.lock().unwrap_or_else(PoisonError::into_inner).fault.clone();
        match fault {
            Some(Fault::Hang) => std::thread::sleep(QUIET),
            Some(Fault::Close) => return Ok(()),
            Some(Fault::Nonsense) => answer(&mut stream, 200, "<html>")?,
            _ => {
                let answered = state.lock().unwrap_or_else(PoisonError::into_inner).request(&head, &body);
                match answered {
                    Ok(value) => answer(&mut stream, 200, &value.to_string())?,
                    Err(code) => {
                        let status = if code.starts_with("KMSInternal") { 500 } else { 400 };
                        answer(&mut stream, status, &json!({"__type": code, "message": "no"}).to_string())?;
                    }
                }
            }
        }
    }
    Ok(())
}

fn answer(stream: &mut Tls, status: u16, body: &str) -> io::Result<()> {
    let head = format!(
        "HTTP/1.1 {status} Said\r\nx-amzn-RequestId: 00000000-0000-4000-8000-000000000000\r\ncontent-type: application/x-amz-json-1.1\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    stream.flush()
}

impl State {
    fn request(&mut self, head: &str, body: &[u8]) -> Result<Value, String> {
        let target = header(head, "x-amz-target").unwrap_or_default();
        let action = target.strip_prefix("TrentService.").ok_or("UnknownOperationException")?.to_owned();
        if !head.starts_with("POST / ") || header(head, "content-type") != Some("application/x-amz-json-1.1") {
            return Err("UnknownOperationException".to_owned());
        }
        let asked: Value = serde_json::from_slice(body).map_err(|_| "SerializationException")?;
        let mut context = BTreeMap::new();
        for (name, value) in asked["EncryptionContext"].as_object().into_iter().flatten() {
            context.insert(name.clone(), value.as_str().ok_or("SerializationException")?.to_owned());
        }
        let mut call = Call {
            action: action.clone(),
            key: asked["KeyId"].as_str().unwrap_or_default().to_owned(),
            context,
            signer: String::new(),
            outcome: String::new(),
        };
        let done = self.decide(head, body, &asked, &mut call);
        call.outcome = done.as_ref().map_or_else(Clone::clone, |_| "200".to_owned());
        self.calls.push(call);
        done
    }

    fn decide(&mut self, head: &str, body: &[u8], asked: &Value, call: &mut Call) -> Result<Value, String> {
        let signer = signature::signer(head, body, &self.credentials)?;
        call.signer = signer.id;
        if signer.foreign {
            return Err("AccessDeniedException".to_owned());
        }
        if let Some(Fault::Error(code, times)) = &mut self.fault
            && *times > 0
        {
            *times -= 1;
            return Err((*code).to_owned());
        }
        let fault = self.fault.clone();
        let named = match &fault {
            Some(Fault::OtherKey(other)) => other.clone(),
            _ => call.key.clone(),
        };
        let key = self.keys.get(&named).ok_or("NotFoundException")?;
        let spki = self.recipient(asked, key, &call.context)?;
        let (plain, blob) = match call.action.as_str() {
            "GenerateDataKey" => {
                let length = match (&fault, asked["NumberOfBytes"].as_u64(), asked["KeySpec"].as_str()) {
                    (Some(Fault::ShortKey(length)), ..) => *length,
                    (_, Some(length), None) => usize::try_from(length).map_err(|_| "ValidationException")?,
                    (_, None, Some("AES_256")) => 32,
                    _ => return Err("ValidationException".to_owned()),
                };
                let mut plain = vec![0; length];
                aws_lc_rs::rand::fill(&mut plain).map_err(|_| "KMSInternalException")?;
                let blob = ciphertext::wrap(&named, &key.secret, &call.context, &plain);
                (plain, Some(blob))
            }
            "Decrypt" => {
                let blob = asked["CiphertextBlob"].as_str().unwrap_or_default();
                let blob = Base64::decode_vec(blob).map_err(|_| "SerializationException")?;
                match ciphertext::key_of(&blob) {
                    None => return Err("InvalidCiphertextException".to_owned()),
                    Some(of) if of != named => return Err("IncorrectKeyException".to_owned()),
                    Some(_) => {}
                }
                let plain =
                    ciphertext::unwrap(&key.secret, &call.context, &blob).ok_or("InvalidCiphertextException")?;
                (plain, None)
            }
            _ => return Err("UnknownOperationException".to_owned()),
        };
        let mut answer = json!({"KeyId": named});
        if let Some(Fault::OtherKeyId(id)) = &fault {
            answer["KeyId"] = json!(id);
        }
        if let Some(blob) = blob {
            answer["CiphertextBlob"] = json!(Base64::encode_string(&blob));
        }
        let in_the_open = spki.is_none() || matches!(fault, Some(Fault::PlaintextBeside | Fault::PlaintextInstead));
        answer["Plaintext"] = json!(if in_the_open { Base64::encode_string(&plain) } else { String::new() });
        match (&fault, &spki) {
            (Some(Fault::PlaintextInstead | Fault::NoEnvelope), _) | (_, None) => {}
            (Some(Fault::GarbageEnvelope), _) => {
                answer["CiphertextForRecipient"] = json!(Base64::encode_string(b"garbage"))
            }
            (Some(Fault::ForeignEnvelope), _) => {
                let other =
                    aws_lc_rs::rsa::PrivateDecryptingKey::generate(aws_lc_rs::rsa::KeySize::Rsa2048).expect("a key");
                let spki = aws_lc_rs::encoding::AsDer::<aws_lc_rs::encoding::PublicKeyX509Der<'_>>::as_der(
                    &other.public_key(),
                );
                let sealed = envelope::seal(spki.expect("a public key").as_ref(), &plain).expect("an envelope");
                answer["CiphertextForRecipient"] = json!(Base64::encode_string(&sealed));
            }
            (_, Some(spki)) => {
                let sealed = envelope::seal(spki, &plain).ok_or("ValidationException")?;
                answer["CiphertextForRecipient"] = json!(Base64::encode_string(&sealed));
            }
        }
        Ok(answer)
    }

    /// The recipient's key, if there is a recipient, once the key's policy allows all of this.
    fn recipient(
        &self,
        asked: &Value,
        key: &Key,
        context: &BTreeMap<String, String>,
    ) -> Result<Option<Vec<u8>>, String> {
        let denied = || "AccessDeniedException".to_owned();
        for (name, allowed) in &key.policy.context {
            if !context.get(name).is_some_and(|value| allowed.contains(value)) {
                return Err(denied());
            }
        }
        let Some(recipient) = asked.get("Recipient") else {
            return if key.policy.pcrs.is_some() { Err(denied()) } else { Ok(None) };
        };
        if recipient["KeyEncryptionAlgorithm"] != "RSAES_OAEP_SHA_256" {
            return Err("ValidationException".to_owned());
        }
        let document = recipient["AttestationDocument"].as_str().unwrap_or_default();
        let document = Base64::decode_vec(document).map_err(|_| "SerializationException")?;
        // KMS reads no nonce.
        let authentic = self
            .verifier
            .authenticate(&document, ExpectedNonce::Absent, SystemTime::now())
            .map_err(|_| "ValidationException")?;
        let spki = authentic.claims().public_key().ok_or("ValidationException")?.to_vec();
        if let Some(pcrs) = &key.policy.pcrs {
            let allowed = PcrSet::new(pcrs.clone()).and_then(|set| PcrSets::new([set])).expect("a condition");
            authentic.accept(&allowed).map_err(|_| denied())?;
        }
        Ok(Some(spki))
    }
}
