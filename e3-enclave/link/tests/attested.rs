//! The attested link on real sockets: a relay talks to nothing but the engine that it should, and an engine to nobody but its relays.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use e3_attest::make::{Authority, Content};
use e3_attest::{
    AttestError, Binding, EXPORTER_LABEL, KeyringState, Pcr, PcrSet, PcrSets, Request, State, Subject, Verifier,
};
use e3_link::attested::Attester;
use e3_link::attested::certificate::LinkKey;
use e3_link::attested::engine::{EngineTls, Peer, Who};
use e3_link::attested::memory::{KeyringId, Memory, Rollback};
use e3_link::attested::relay::{Refusal, RelayTls};
use e3_link::{Client, ClientOptions, Endpoint, FrameReader, LinkError, Listener, Security, Stream};
use e3_wire::{AnswerWriter, App, Context, FrameHeader, FrameKind, MAX_FRAME, RequestWriter, Role, ValueType};
use tokio::io::AsyncWriteExt;
use tokio::time::Instant;

const LONG: Duration = Duration::from_secs(20);
const HOUR: Duration = Duration::from_secs(3600);

fn pcr(byte: u8) -> Pcr {
    Pcr::new([byte; 48])
}

/// A security module of the tests: genuine documents under a root of its own.
struct Module {
    authority: Authority,
    pcrs: Vec<(u8, Pcr)>,
    /// How old its documents are made to look.
    age_s: AtomicU64,
    dead: AtomicBool,
    made: AtomicU64,
    /// What it hands out instead of a document of its own.
    replay: Mutex<Option<Vec<u8>>>,
}

impl Module {
    fn new() -> Arc<Self> {
        let authority = Authority::new(SystemTime::now(), HOUR).unwrap();
        Arc::new(Self {
            authority,
            pcrs: vec![(0, pcr(1)), (1, pcr(2)), (2, pcr(3))],
            age_s: AtomicU64::new(0),
            dead: AtomicBool::new(false),
            made: AtomicU64::new(0),
            replay: Mutex::default(),
        })
    }

    fn verifier(&self) -> Verifier {
        Verifier::with_test_root(self.authority.root()).unwrap()
    }
}

impl Attester for Module {
    fn document(&self, request: &Request) -> Option<Vec<u8>> {
        if self.dead.load(Ordering::Relaxed) {
            return None;
        }
        if let Some(document) = self.replay.lock().unwrap().clone() {
            return Some(document);
        }
        self.made.fetch_add(1, Ordering::Relaxed);
        let age = Duration::from_secs(self.age_s.load(Ordering::Relaxed));
        let content = Content::new(SystemTime::now() - age, self.pcrs.iter().copied(), request.clone());
        self.authority.sign(&content).ok()
    }
}

fn state(epoch: u64) -> State {
    State { keyring: Some(KeyringState { epoch, id: [7; 16] }), ..State::default() }
}

fn accepted(byte: u8) -> PcrSets {
    PcrSets::new([PcrSet::new([(0, pcr(byte)), (1, pcr(2)), (2, pcr(3))]).unwrap()]).unwrap()
}

struct Place {
    endpoint: Endpoint,
    listener: Listener,
    _folder: tempfile::TempDir,
}

async fn place() -> Place {
    let folder = tempfile::tempdir().unwrap();
    let endpoint: Endpoint = format!("unix://{}", folder.path().join("e3.sock").display()).parse().unwrap();
    let listener = endpoint.listen(0o600).await.unwrap();
    Place { endpoint, listener, _folder: folder }
}

/// Answers every request with one token, on as many sessions as come; counts what it read of relays.
fn serve(listener: Listener, tls: Arc<EngineTls>, requests: Arc<AtomicU64>) {
    tokio::spawn(async move {
        loop {
            let stream = listener.accept().await.unwrap();
            let (tls, requests) = (Arc::clone(&tls), Arc::clone(&requests));
            tokio::spawn(async move {
                let Some((mut stream, _)) = tls.accept(stream).await else { return };
                let mut reader = FrameReader::new(MAX_FRAME);
                while let Ok((header, _)) = reader.next(&mut stream).await {
                    requests.fetch_add(1, Ordering::Relaxed);
                    let mut answer = AnswerWriter::new(0);
                    answer.token(|out| out.extend_from_slice(b"token"));
                    let (kind, body) = match header.kind {
                        FrameKind::Ping => (FrameKind::Pong, vec![1]),
                        _ => (FrameKind::Answer, answer.finish()),
                    };
                    let head = FrameHeader { kind, id: header.id, body: body.len() }.to_bytes().unwrap();
                    stream.write_all(&[&head[..], &body].concat()).await.unwrap();
                    stream.flush().await.unwrap();
                }
            });
        }
    });
}

struct Engine {
    module: Arc<Module>,
    tls: Arc<EngineTls>,
    endpoint: Endpoint,
    requests: Arc<AtomicU64>,
    _folder: tempfile::TempDir,
}

async fn engine(relay: &LinkKey, module: Arc<Module>) -> Engine {
    let Place { endpoint, listener, _folder } = place().await;
    let tls =
        EngineTls::new(Arc::clone(&module) as Arc<dyn Attester>, HashSet::from([relay.hash()]), state(5)).unwrap();
    let (tls, requests) = (Arc::new(tls), Arc::new(AtomicU64::new(0)));
    serve(listener, Arc::clone(&tls), Arc::clone(&requests));
    Engine { module, tls, endpoint, requests, _folder }
}

impl Engine {
    fn relay(&self, key: &LinkKey, accepted: PcrSets, memory: Memory) -> Arc<RelayTls> {
        Arc::new(RelayTls::new(key, self.module.verifier(), accepted, Arc::new(memory)).unwrap())
    }

    fn client(&self, tls: Arc<RelayTls>) -> Client {
        Client::new(vec![self.endpoint.clone()], Security::Attested(tls), ClientOptions::default())
    }
}

fn forgetful() -> Memory {
    Memory::new(None, HashMap::new())
}

async fn ask(client: &Client) -> Result<(), LinkError> {
    let mut request = RequestWriter::new(App::parse("shop").unwrap(), &Context::default(), 0);
    request.seal(Role::parse("r").unwrap(), ValueType::String, b"value", false).unwrap();
    client.call(request, Instant::now() + LONG).await.map(|_| ())
}

async fn refusal(engine: &Engine, client: &Client) -> Refusal {
    assert_eq!(ask(client).await, Err(LinkError::Refused));
    assert_eq!(engine.requests.load(Ordering::Relaxed), 0, "nothing of the relay's reached the engine");
    client.health().endpoints[0].refusal.clone().unwrap()
}

#[tokio::test]
async fn the_right_engine_and_the_right_relay_talk() {
    let key = LinkKey::generate().unwrap();
    let engine = engine(&key, Module::new()).await;
    let client = engine.client(engine.relay(&key, accepted(1), forgetful()));
    for _ in 0..100 {
        ask(&client).await.unwrap();
    }
    client.ping(LONG).await;
    assert!(client.health().ready);
    assert_eq!(client.health().endpoints[0].refusal, None);
    assert_eq!(engine.module.made.load(Ordering::Relaxed), 1, "one document serves many requests");
}

#[tokio::test]
async fn a_wrong_image_gets_not_one_byte() {
    let key = LinkKey::generate().unwrap();
    let engine = engine(&key, Module::new()).await;
    let client = engine.client(engine.relay(&key, accepted(9), forgetful()));
    let Refusal::Document(AttestError::PcrDiffers { .. }) = refusal(&engine, &client).await else { panic!() };
}

#[tokio::test]
async fn a_document_of_another_authority_is_refused() {
    let key = LinkKey::generate().unwrap();
    let engine = engine(&key, Module::new()).await;
    let memory = Arc::new(forgetful());
    for verifier in [Verifier::aws(), Module::new().verifier()] {
        let tls = Arc::new(RelayTls::new(&key, verifier, accepted(1), Arc::clone(&memory)).unwrap());
        let Refusal::Document(_) = refusal(&engine, &engine.client(tls)).await else { panic!() };
    }
}

#[tokio::test]
async fn a_certificate_that_was_not_renewed_is_refused_and_renewal_drops_nothing() {
    let key = LinkKey::generate().unwrap();
    let module = Module::new();
    module.age_s.store(400, Ordering::Relaxed);
    let engine = engine(&key, module).await;
    let stale = engine.client(engine.relay(&key, accepted(1), forgetful()));
    let Refusal::Document(AttestError::Stale { .. }) = refusal(&engine, &stale).await else { panic!() };
    engine.module.age_s.store(0, Ordering::Relaxed);
    engine.tls.renew(state(5)).unwrap();
    let client = engine.client(engine.relay(&key, accepted(1), forgetful()));
    ask(&client).await.unwrap();
    // Renewed while a session is open: it goes on, and the module's failure leaves the certificate in force.
    engine.tls.renew(state(6)).unwrap();
    ask(&client).await.unwrap();
    engine.module.dead.store(true, Ordering::Relaxed);
    engine.tls.renew(state(7)).unwrap_err();
    ask(&client).await.unwrap();
    ask(&engine.client(engine.relay(&key, accepted(1), forgetful()))).await.unwrap();
}

#[tokio::test]
async fn an_unknown_relay_gets_no_answer() {
    let (known, unknown) = (LinkKey::generate().unwrap(), LinkKey::generate().unwrap());
    let engine = engine(&known, Module::new()).await;
    let client = engine.client(engine.relay(&unknown, accepted(1), forgetful()));
    assert_eq!(refusal(&engine, &client).await, Refusal::Unpinned);
    let client = engine.client(engine.relay(&known, accepted(1), forgetful()));
    ask(&client).await.unwrap();
}

#[tokio::test]
async fn an_old_keyring_is_refused_also_by_a_relay_that_was_restarted() {
    let key = LinkKey::generate().unwrap();
    let engine = engine(&key, Module::new()).await;
    let memory = Arc::new(forgetful());
    let tls = || Arc::new(RelayTls::new(&key, engine.module.verifier(), accepted(1), Arc::clone(&memory)).unwrap());
    ask(&engine.client(tls())).await.unwrap();
    engine.requests.store(0, Ordering::Relaxed);
    engine.tls.renew(state(4)).unwrap();
    let expected = Refusal::State(Rollback::Epoch { seen: 5, found: 4 });
    assert_eq!(refusal(&engine, &engine.client(tls())).await, expected);
    engine.tls.renew(State::default()).unwrap();
    assert_eq!(refusal(&engine, &engine.client(tls())).await, Refusal::State(Rollback::NoKeyring));
    engine.tls.renew(state(6)).unwrap();
    let other = engine.relay(&key, accepted(1), Memory::new(Some(KeyringId([8; 16])), HashMap::new()));
    let Refusal::State(Rollback::OtherKeyring { .. }) = refusal(&engine, &engine.client(other)).await else { panic!() };
}

#[tokio::test]
async fn a_document_of_another_key_or_purpose_is_refused() {
    let key = LinkKey::generate().unwrap();
    let (genuine, thief) = (Module::new(), Module::new());
    let sign = |subject: &Subject<'_>| {
        let request = Request::bound(&Binding::new(subject, state(5)).unwrap());
        genuine.document(&request).unwrap()
    };
    let other = LinkKey::generate().unwrap().spki();
    for document in [
        sign(&Subject::Link { spki: &other }),
        sign(&Subject::Kms { spki: &other }),
        sign(&Subject::Caller { exporter: &[3; 32] }),
    ] {
        *thief.replay.lock().unwrap() = Some(document);
        let engine = engine(&key, Arc::clone(&thief)).await;
        let tls = RelayTls::new(&key, genuine.verifier(), accepted(1), Arc::new(forgetful())).unwrap();
        let Refusal::Document(AttestError::SubjectDiffers { .. } | AttestError::PurposeDiffers { .. }) =
            refusal(&engine, &engine.client(Arc::new(tls))).await
        else {
            panic!()
        };
    }
}

#[tokio::test]
async fn a_plain_engine_is_refused_and_sees_no_request() {
    let key = LinkKey::generate().unwrap();
    let Place { endpoint, listener, _folder } = place().await;
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&seen);
    tokio::spawn(async move {
        let mut stream = listener.accept().await.unwrap();
        let mut bytes = [0; 4096];
        let n = tokio::io::AsyncReadExt::read(&mut stream, &mut bytes).await.unwrap();
        kept.lock().unwrap().extend_from_slice(&bytes[..n]);
        stream.write_all(b"no TLS here").await.unwrap();
    });
    let tls = RelayTls::new(&key, Verifier::aws(), accepted(1), Arc::new(forgetful())).unwrap();
    let client = Client::new(vec![endpoint], Security::Attested(Arc::new(tls)), ClientOptions::default());
    assert_eq!(ask(&client).await, Err(LinkError::Refused));
    assert_eq!(client.health().endpoints[0].refusal, Some(Refusal::Tls));
    let seen = seen.lock().unwrap();
    assert_eq!(seen[0], 0x16, "a TLS handshake");
    assert!(!seen.windows(5).any(|w| w == b"value"));
}

#[tokio::test]
async fn both_ends_and_nobody_else_have_the_sessions_exporter() {
    let key = LinkKey::generate().unwrap();
    let module = Module::new();
    let relays = HashSet::from([key.hash()]);
    let engine = Arc::new(EngineTls::new(Arc::clone(&module) as Arc<dyn Attester>, relays, state(5)).unwrap());
    let relay = RelayTls::new(&key, module.verifier(), accepted(1), Arc::new(forgetful())).unwrap();
    let session = async || -> (Stream, Stream, Peer) {
        let Place { endpoint, listener, _folder } = place().await;
        let (near, far) = tokio::join!(endpoint.connect(LONG), listener.accept());
        let (near, far) = tokio::join!(relay.connect(near.unwrap()), engine.accept(far.unwrap()));
        let ((near, bound), (far, peer)) = (near.unwrap(), far.unwrap());
        assert_eq!(bound.binding().state(), &state(5));
        (near, far, peer)
    };
    let (a, b, peer) = session().await;
    assert_eq!(*peer.who(), Who::Relay(key.hash()));
    let exporter = a.exporter(EXPORTER_LABEL).unwrap();
    assert_eq!(b.exporter(EXPORTER_LABEL), Some(exporter));
    let (c, ..) = session().await;
    assert_ne!(c.exporter(EXPORTER_LABEL), Some(exporter));
}

#[tokio::test]
async fn a_nonce_document_answers_its_nonce_for_this_boots_key() {
    let key = LinkKey::generate().unwrap();
    let engine = engine(&key, Module::new()).await;
    let document = engine.tls.answer(&[9; 32], state(5)).unwrap();
    let verifier = engine.module.verifier();
    let check = |nonce: &[u8]| {
        let nonce = e3_attest::ExpectedNonce::Is(nonce);
        let spki = engine.tls.spki();
        verifier
            .authenticate(&document, nonce, SystemTime::now())?
            .accept(&accepted(1))?
            .bound_to(&Subject::Link { spki: &spki })
    };
    assert!(check(&[9; 32]).is_ok());
    assert_eq!(check(&[8; 32]), Err(AttestError::NonceDiffers));
}
