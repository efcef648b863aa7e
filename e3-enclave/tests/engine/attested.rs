//! An engine with an attested link, under a root of the tests' own; and callers on real sockets.

use crate::harness::{Engine, PATIENCE, Setup};
use e3_attest::make::{Authority, Content};
use e3_attest::{Pcr, PcrSet, PcrSets, Request};
use e3_link::attested::Attester;
use e3_link::attested::certificate::LinkKey;
use e3_link::attested::memory::Memory;
use e3_link::attested::relay::RelayTls;
use e3_link::{Client, ClientOptions, Endpoint, FrameReader, Security, Stream};
use e3_wire::{FrameHeader, FrameKind, MAX_FRAME};
use std::collections::HashMap;
use std::fs;
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
    pub(crate) authority: Arc<Authority>,
}

impl Place {
    pub(crate) fn new() -> Self {
        let authority = Authority::new(SystemTime::now(), Duration::from_secs(86_400)).unwrap();
        let key = LinkKey::generate().unwrap();
        let hash: String = key.hash().iter().map(|b| format!("{b:02x}")).collect();
        let lines = format!("audit: {{file: audit.jsonl}}\nattested: {{module: module, relays: [{hash}]}}");
        let setup = Setup::with(&lines);
        fs::write(setup.path("module"), authority.to_bytes()).unwrap();
        let engine = Some(setup.start());
        Self { setup, engine, key, authority: Arc::new(authority) }
    }

    pub(crate) fn endpoint(&self) -> Endpoint {
        format!("unix://{}", self.setup.socket().display()).parse().unwrap()
    }

    /// The relay's side, which expects the image of the engine's module.
    pub(crate) fn tls(&self) -> RelayTls {
        let accepted = PcrSet::new([(0, pcr(1)), (1, pcr(2)), (2, pcr(3))]).unwrap();
        let memory = Arc::new(Memory::new(None, HashMap::new()));
        let verifier = e3_attest::Verifier::with_test_root(self.authority.root()).unwrap();
        RelayTls::new(&self.key, verifier, PcrSets::from(accepted), memory).unwrap()
    }

    pub(crate) fn client(&self, tls: RelayTls) -> Client {
        Client::new(vec![self.endpoint()], Security::Attested(Arc::new(tls)), ClientOptions::default())
    }

    /// A session, to speak frames in.
    pub(crate) async fn session(&self) -> Session {
        let stream = self.endpoint().connect(PATIENCE).await.unwrap();
        let (stream, _) = self.tls().connect(stream).await.unwrap();
        Session { stream, reader: FrameReader::new(MAX_FRAME) }
    }

    /// The security module of an enclave with this image, which makes documents under the authority.
    pub(crate) fn module(&self, image: u8) -> Arc<Module> {
        Arc::new(Module::new(Arc::clone(&self.authority), image))
    }

    /// The records of the audit.
    pub(crate) fn records(&self) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(self.setup.path("audit.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
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
    pub(crate) async fn send(&mut self, kind: FrameKind, id: u64, body: &[u8]) {
        let header = FrameHeader { kind, id, body: body.len() }.to_bytes().unwrap();
        self.stream.write_all(&[&header[..], body].concat()).await.unwrap();
        self.stream.flush().await.unwrap();
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
