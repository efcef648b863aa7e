//! Callers that are enclaves: what proves an image in a session, and what does not.

use crate::attested::{Module, Place, Session, pcr};
use crate::harness::{PATIENCE, Setup, eventually, request, role};
use e3_attest::{Binding, EXPORTER_LABEL, Request, State, Subject};
use e3_link::attested::Attester;
use e3_link::{Client, LinkError, Refusal};
use e3_wire::{Answer, App, Context, FrameKind, ItemAnswer, RequestRefusal, RequestWriter, ValueType};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::time::Instant;

/// The request to the module for a document over this nonce and session.
fn over(nonce: &[u8], session: &Session) -> Request {
    let exporter = session.stream.exporter(EXPORTER_LABEL).unwrap();
    bound(nonce, &Subject::Caller { exporter: &exporter })
}

fn bound(nonce: &[u8], subject: &Subject<'_>) -> Request {
    Request::bound(&Binding::new(subject, State::default()).unwrap()).with_nonce(nonce.to_vec()).unwrap()
}

/// Opens a token, which makes a record.
fn open(token: &[u8]) -> Vec<u8> {
    request("shop", "r", 30_000, |w| w.open(&[role("card")], token).unwrap())
}

/// The document is refused with this cause, the session ends, and what follows in it is not looked at.
async fn refused(place: &Place, mut session: Session, document: &[u8], cause: &str) {
    let causes = || place.log().matches(cause).count();
    let before = causes();
    session.send(FrameKind::Prove, 4, document).await;
    session.send(FrameKind::Request, 5, &open(b"x")).await;
    let (kind, id, body) = session.receive().await.expect("an answer");
    assert_eq!((kind, id, &body[..]), (FrameKind::Proven, 4, &[0][..]), "{cause}");
    assert!(session.receive().await.is_none(), "{cause}: still open");
    eventually(cause, || causes() > before);
    assert!(place.records().is_empty(), "{cause}: a request behind it was served");
}

async fn ask(client: &Client, fill: impl FnOnce(&mut RequestWriter)) -> Result<Vec<u8>, LinkError> {
    let mut request = RequestWriter::new(App::parse("shop").unwrap(), &Context::default(), 0);
    fill(&mut request);
    let answer = client.call(request, Instant::now() + PATIENCE).await?;
    match answer.answer().unwrap() {
        Answer::Items(items) => match items[0] {
            ItemAnswer::Token(token) => Ok(token.to_vec()),
            ItemAnswer::Value { value, .. } => Ok(value.to_vec()),
            _ => panic!("no result"),
        },
        Answer::Refused(refusal) => panic!("{refusal}"),
    }
}

async fn round(client: &Client) -> Result<(), LinkError> {
    let token = ask(client, |w| w.seal(role("card"), ValueType::String, b"4242", false).unwrap()).await?;
    assert_eq!(ask(client, |w| w.open(&[role("card")], &token).unwrap()).await?, b"4242");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enclave_proves_its_image_in_every_session_and_the_audit_says_which() {
    let mut place = Place::new();
    let module = place.module(5);
    let client = place.client(place.tls().proving(Arc::clone(&module) as Arc<dyn Attester>));
    for _ in 0..3 {
        round(&client).await.unwrap();
    }
    assert_eq!(module.made.load(Ordering::Relaxed), 1, "one proof serves a session");
    round(&place.client(place.tls())).await.unwrap();
    // A new engine knows nothing of the old one's sessions.
    place.engine.take().unwrap().stop();
    place.engine = Some(place.setup.start());
    let until = Instant::now() + PATIENCE;
    while round(&client).await.is_err() {
        assert!(Instant::now() < until, "no session with the new engine");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(module.made.load(Ordering::Relaxed), 2);
    let records = place.records();
    let proofs: Vec<&str> = records.iter().map(|r| r["proof"].as_str().unwrap()).collect();
    assert_eq!(proofs, ["image", "image", "image", "key", "image"]);
    for record in &records {
        let name = record["principal"].as_str().unwrap();
        assert!(name.starts_with("relay:sha256:") && name.len() == 13 + 64, "{name}");
        assert_eq!(record["v"], 1);
    }
    let image = records[0]["image"].as_object().unwrap();
    let names: Vec<&String> = image.keys().collect();
    assert_eq!(names, ["module", "pcr0", "pcr1", "pcr2", "pcr8"], "registers that hold nothing are left out");
    assert_eq!(image["pcr0"], "05".repeat(48));
    assert!(records[3].get("image").is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_before_the_proof_is_not_the_images() {
    let place = Place::new();
    let mut session = place.session().await;
    let (kind, ..) = session.ask(FrameKind::Request, 1, &open(b"e3v1.card.s.AAAA.")).await.unwrap();
    assert_eq!(kind, FrameKind::Answer);
    let nonce = session.nonce().await;
    let document = place.module(5).sign(&over(&nonce, &session));
    assert_eq!(session.ask(FrameKind::Prove, 9, &document).await, Some((FrameKind::Proven, 9, vec![1])));
    session.ask(FrameKind::Request, 2, &open(b"e3v1.card.s.AAAA.")).await.unwrap();
    let proofs: Vec<_> = place.records().iter().map(|r| r["proof"].as_str().unwrap().to_owned()).collect();
    assert_eq!(proofs, ["key", "image"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_of_another_session_is_refused() {
    let place = Place::new();
    let module = place.module(5);
    let (mut first, mut second) = (place.session().await, place.session().await);
    let (nonce, other) = (first.nonce().await, second.nonce().await);
    let document = module.sign(&over(&nonce, &first));
    // Replayed whole, it has the other session's nonce; made for the right nonce, it is still bound to the other's exporter.
    refused(&place, second, &document, "answers another nonce").await;
    let mut third = place.session().await;
    let nonce = third.nonce().await;
    refused(&place, third, &module.sign(&over(&nonce, &first)), "bound to another session").await;
    refused(
        &place,
        first,
        &module.sign(&bound(&other, &Subject::Caller { exporter: &[7; 32] })),
        "answers another nonce",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_for_another_purpose_is_refused() {
    let place = Place::new();
    let module = place.module(5);
    let spki = place.key.spki();
    for subject in [Subject::Link { spki: &spki }, Subject::Kms { spki: &spki }] {
        let mut session = place.session().await;
        let nonce = session.nonce().await;
        let request = bound(&nonce, &subject).with_public_key(spki.clone()).unwrap();
        let cause = format!("made for {}", subject.purpose());
        refused(&place, session, &module.sign(&request), &cause).await;
    }
    let mut session = place.session().await;
    let nonce = session.nonce().await;
    let unbound = Request::raw(b"something else".to_vec()).unwrap().with_nonce(nonce).unwrap();
    refused(&place, session, &module.sign(&unbound), "binding").await;
    refused(&place, place.session().await, b"", "no nonce is out").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_nonce_that_is_stale_used_or_was_never_asked_for_is_refused() {
    let place = Place::new();
    let module = place.module(5);
    let mut stale = place.session().await;
    let first = stale.nonce().await;
    stale.nonce().await;
    refused(&place, place.session().await, &module.sign(&over(&first, &stale)), "no nonce is out").await;
    let document = module.sign(&over(&first, &stale));
    refused(&place, stale, &document, "answers another nonce").await;
    let mut used = place.session().await;
    let nonce = used.nonce().await;
    let document = module.sign(&over(&nonce, &used));
    assert_eq!(used.ask(FrameKind::Prove, 1, &document).await, Some((FrameKind::Proven, 1, vec![1])));
    refused(&place, used, &document, "used already").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_in_debug_mode_too_old_or_of_another_authority_is_refused() {
    let place = Place::new();
    let debug = place.module(5);
    *debug.pcrs.lock().unwrap() = vec![(0, pcr(0)), (1, pcr(0)), (2, pcr(0))];
    let old = place.module(5);
    *old.age.lock().unwrap() = Duration::from_secs(400);
    let day = Duration::from_secs(86_400);
    let foreign = e3_attest::make::Authority::new(std::time::SystemTime::now(), day).unwrap();
    let foreign = Arc::new(Module::new(Arc::new(foreign), 5));
    for (module, cause) in [(debug, "debug mode"), (old, "400 s old"), (foreign, "root")] {
        let mut session = place.session().await;
        let nonce = session.nonce().await;
        let document = module.sign(&over(&nonce, &session));
        refused(&place, session, &document, cause).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_that_is_not_believed_learns_so_and_its_request_is_not_sent() {
    let place = Place::new();
    let module = place.module(5);
    *module.age.lock().unwrap() = Duration::from_secs(400);
    let client = place.client(place.tls().proving(Arc::clone(&module) as Arc<dyn Attester>));
    assert_eq!(round(&client).await, Err(LinkError::Refused));
    assert_eq!(client.health().endpoints[0].refusal, Some(Refusal::Caller));
    // It goes on with the next document that is good.
    *module.age.lock().unwrap() = Duration::ZERO;
    let until = Instant::now() + PATIENCE;
    while round(&client).await.is_err() {
        assert!(Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(client.health().endpoints[0].refusal, None);
}

#[test]
fn a_plain_link_has_nothing_to_prove_in() {
    let setup = Setup::new();
    let engine = setup.start();
    for (kind, body) in [(FrameKind::Challenge, &b""[..]), (FrameKind::Prove, b"document"), (FrameKind::Nonce, b"n")] {
        let mut relay = engine.relay();
        relay.send(kind, 8, body);
        let frame = relay.receive().expect("an answer");
        assert_eq!((frame.id, frame.answer().unwrap_err()), (8, RequestRefusal::Malformed));
        assert!(relay.receive().is_none(), "still open");
    }
}
