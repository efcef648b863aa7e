//! An engine with an attested link, under a root of the tests' own; and callers on real sockets.

use crate::harness::{Engine, PATIENCE, Setup};
use e3_attest::make::{Authority, Content};
use e3_attest::{Pcr, PcrSet, PcrSets, Request};
use e3_link::attested::Attester;
use e3_link::attested::admin::AdminKey;
use e3_link::attested::certificate::LinkKey;
use e3_link::attested::memory::Memory;
use e3_link::attested::relay::RelayTls;
use e3_link::{Client, ClientOptions, Endpoint, FrameReader, Security, Stream};
use e3_wire::{FrameHeader, FrameKind, MAX_FRAME};
use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};
use tokio::io::AsyncWriteExt;

pub(crate) fn pcr(byte: u8) -> Pcr {
    Pcr::new([byte; 48])
}

/// An engine, a relay that it knows, and the authority that both believe.
pub(crate) struct Place {
    pub(crate) setup: Setup,
    pub(crate) engine: Option<Engine>,
    pub(crate) key: LinkKey,
    pub(crate) admin: AdminKey,
    pub(crate) authority: Arc<Authority>,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

impl Place {
    pub(crate) fn new() -> Self {
        Self::with("audit.jsonl")
    }

    /// The same with this audit sink.
    pub(crate) fn with(audit: &str) -> Self {
        let authority = Arc::new(Authority::new(SystemTime::now(), Duration::from_secs(86_400)).unwrap());
        let (key, admin) = (LinkKey::generate().unwrap(), AdminKey::generate().unwrap());
        let setup = Setup::with(&Self::lines(audit, &key, &admin));
        Self { setup, engine: None, key, admin, authority }.started()
    }

    /// An engine that no relay is measured into: it decides, also who comes in, by a policy that this place's administrator signs. `policy` gets the hash of the
    /// relay's key.
    pub(crate) fn governed(policy: impl FnOnce(&str) -> String) -> Self {
        let authority = Arc::new(Authority::new(SystemTime::now(), Duration::from_secs(86_400)).unwrap());
        let (key, admin) = (LinkKey::generate().unwrap(), AdminKey::generate().unwrap());
        let signer = hex(admin.public());
        let setup = Setup::with(&format!(
            "audit: {{file: audit.jsonl}}\nattested: {{module: module, relays: [], admins: [{signer}]}}\n\
             policy: {{file: policy.yaml, signers: [{signer}]}} # instead of apps:"
        ));
        let place = Self { setup, engine: None, key, admin, authority };
        place.put_policy(&policy(&hex(&place.key.hash())));
        place.started()
    }

    /// Signs a policy and puts it in the place of the one before, in one step.
    pub(crate) fn put_policy(&self, text: &str) {
        let signed = e3_enclave::policy::signed::sign(text.as_bytes(), &self.admin).unwrap();
        fs::write(self.setup.path("policy.new"), signed).unwrap();
        fs::rename(self.setup.path("policy.new"), self.setup.path("policy.yaml")).unwrap();
    }

    fn lines(audit: &str, key: &LinkKey, admin: &AdminKey) -> String {
        let (relay, admin) = (hex(&key.hash()), hex(admin.public()));
        format!("audit: {{file: {audit}}}\nattested: {{module: module, relays: [{relay}], admins: [{admin}]}}")
    }

    /// Another engine on another host, with a copy of the keyring as it is now, for the same relay and administrator.
    pub(crate) fn copy(&self) -> Self {
        let key = LinkKey::from_pem(&self.key.to_pem()).unwrap();
        let admin = AdminKey::from_pem(&self.admin.to_pem()).unwrap();
        let setup = Setup::with(&Self::lines("audit.jsonl", &key, &admin));
        let copy = Self { setup, engine: None, key, admin, authority: Arc::clone(&self.authority) };
        fs::copy(self.setup.path("root.key"), copy.setup.path("root.key")).unwrap();
        self.hand_keyring_to(&copy);
        copy.started()
    }

    /// Replaces the other's keyring file by this one's.
    pub(crate) fn hand_keyring_to(&self, other: &Self) {
        fs::copy(self.setup.path("keyring"), other.setup.path("new")).unwrap();
        fs::rename(other.setup.path("new"), other.setup.path("keyring")).unwrap();
    }

    fn started(mut self) -> Self {
        fs::write(self.setup.path("module"), self.authority.to_bytes()).unwrap();
        let pcr = |byte: u8| hex(&[byte; 48]);
        let expected = format!(r#"{{"pcr0": "{}", "pcr1": "{}", "pcr2": "{}"}}"#, pcr(1), pcr(2), pcr(3));
        fs::write(self.setup.path("expected.json"), expected).unwrap();
        fs::write(self.setup.path("expected.json.root"), self.authority.root()).unwrap();
        fs::write(self.setup.path("admin.pem"), self.admin.to_pem()).unwrap();
        fs::set_permissions(self.setup.path("admin.pem"), fs::Permissions::from_mode(0o600)).unwrap();
        self.engine = Some(self.setup.start());
        self
    }

    /// The arguments that send a command to these engines, as this one's administrator.
    pub(crate) fn at(&self, others: &[&Self]) -> Vec<String> {
        let path = |name: &str| self.setup.path(name).display().to_string();
        let mut args = vec!["--admin-key".to_owned(), path("admin.pem"), "--pcrs".to_owned(), path("expected.json")];
        for place in [self].iter().chain(others) {
            args.extend(["--engine".to_owned(), place.endpoint().to_string()]);
        }
        args
    }

    /// The administrator's side.
    pub(crate) fn admin_tls(&self, key: &AdminKey) -> RelayTls {
        let memory = Arc::new(Memory::new(None, HashMap::new()));
        RelayTls::admin(key, self.verifier(), Self::accepted(), memory).unwrap()
    }

    fn verifier(&self) -> e3_attest::Verifier {
        e3_attest::Verifier::with_test_root(self.authority.root()).unwrap()
    }

    fn accepted() -> PcrSets {
        PcrSets::from(PcrSet::new([(0, pcr(1)), (1, pcr(2)), (2, pcr(3))]).unwrap())
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        format!("unix://{}", self.setup.socket().display()).parse().unwrap()
    }

    /// The relay's side, which expects the image of the engine's module.
    pub(crate) fn tls(&self) -> RelayTls {
        self.tls_of(&self.key, Arc::new(Memory::new(None, HashMap::new())))
    }

    /// The same for whoever has this key and remembers this.
    pub(crate) fn tls_of(&self, key: &LinkKey, memory: Arc<Memory>) -> RelayTls {
        RelayTls::new(key, self.verifier(), Self::accepted(), memory).unwrap()
    }

    pub(crate) fn client(&self, tls: RelayTls) -> Client {
        Client::new(vec![self.endpoint()], Security::Attested(Arc::new(tls)), ClientOptions::default())
    }

    /// A session, to speak frames in.
    pub(crate) async fn session(&self) -> Session {
        self.session_of(&self.tls()).await
    }

    pub(crate) async fn session_of(&self, tls: &RelayTls) -> Session {
        let stream = self.endpoint().connect(PATIENCE).await.unwrap();
        let (stream, _) = tls.connect(stream).await.unwrap();
        Session::over(stream)
    }

    /// The security module of an enclave with this image, which makes documents under the authority.
    pub(crate) fn module(&self, image: u8) -> Arc<Module> {
        Arc::new(Module::new(Arc::clone(&self.authority), image))
    }

    /// The records of the audit.
    pub(crate) fn records(&self) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(self.setup.path("audit.jsonl")).unwrap_or_default();
        let all = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
        // Without what the chain and the counters add.
        all.filter(|record| record.get("event").is_none() && record.get("signed").is_none()).collect()
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(self.setup.path("log")).unwrap_or_default()
    }
}

/// A caller's security module.
pub(crate) struct Module {
    authority: Arc<Authority>,
    pub(crate) pcrs: Mutex<Vec<(u8, Pcr)>>,
    /// How old its documents are made to look.
    pub(crate) age: Mutex<Duration>,
    pub(crate) made: AtomicU64,
}

impl Module {
    pub(crate) fn new(authority: Arc<Authority>, image: u8) -> Self {
        let pcrs = vec![(0, pcr(image)), (1, pcr(2)), (2, pcr(3)), (3, pcr(0)), (8, pcr(8))];
        Self { authority, pcrs: Mutex::new(pcrs), age: Mutex::default(), made: AtomicU64::new(0) }
    }

    pub(crate) fn sign(&self, request: &Request) -> Vec<u8> {
        self.made.fetch_add(1, Ordering::Relaxed);
        let time = SystemTime::now() - *self.age.lock().unwrap();
        let pcrs = self.pcrs.lock().unwrap().clone();
        self.authority.sign(&Content::new(time, pcrs, request.clone())).unwrap()
    }
}

impl Attester for Module {
    fn document(&self, request: &Request) -> Option<Vec<u8>> {
        Some(self.sign(request))
    }
}

/// A TLS session with the engine, frame by frame.
pub(crate) struct Session {
    pub(crate) stream: Stream,
    reader: FrameReader,
}

impl Session {
    /// A session over this stream.
    pub(crate) fn over(stream: Stream) -> Self {
        Self { stream, reader: FrameReader::new(MAX_FRAME) }
    }

    pub(crate) async fn send(&mut self, kind: FrameKind, id: u64, body: &[u8]) {
        let header = FrameHeader { kind, id, body: body.len() }.to_bytes().unwrap();
        self.stream.write_all(&[&header[..], body].concat()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    /// Whether a ping is answered.
    pub(crate) async fn answers(mut self) -> bool {
        let header = FrameHeader { kind: FrameKind::Ping, id: 1, body: 0 }.to_bytes().unwrap();
        let sent = self.stream.write_all(&header).await.is_ok() && self.stream.flush().await.is_ok();
        sent && self.receive().await.is_some()
    }

    /// The next frame; `None` when the engine closed the session.
    pub(crate) async fn receive(&mut self) -> Option<(FrameKind, u64, Vec<u8>)> {
        let next = tokio::time::timeout(PATIENCE, self.reader.next(&mut self.stream)).await.expect("an answer");
        next.ok().map(|(header, body)| (header.kind, header.id, body.to_vec()))
    }

    pub(crate) async fn ask(&mut self, kind: FrameKind, id: u64, body: &[u8]) -> Option<(FrameKind, u64, Vec<u8>)> {
        self.send(kind, id, body).await;
        self.receive().await
    }

    pub(crate) async fn nonce(&mut self) -> Vec<u8> {
        let (kind, id, nonce) = self.ask(FrameKind::Challenge, 3, &[]).await.unwrap();
        assert_eq!((kind, id, nonce.len()), (FrameKind::Nonce, 3, 32));
        nonce
    }
}
