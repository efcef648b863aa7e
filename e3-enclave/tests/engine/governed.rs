//! A signed policy over the attested link: what whoever holds a relay's key, an API key or an image can have done, and what not.

use crate::attested::{Place, Session, pcr};
use crate::harness::{PATIENCE, Reply, eventually, role};
use e3_attest::{EXPORTER_LABEL, Request as DocumentRequest, State, Subject};
use e3_link::Refusal as LinkRefusal;
use e3_link::attested::Attester;
use e3_link::attested::certificate::LinkKey;
use e3_link::attested::memory::Memory;
use e3_wire::{
    Answer, App, Context, Credential, Direction, FrameKind, ItemAnswer, Refusal, RequestRefusal, RequestWriter, Role,
    ValueType,
};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

const KEY: &str = "e3k_of-the-phone-service";
const ROLES: [&str; 4] = ["card", "cvc", "email", "bait"];

/// Version 1: the relay may seal everything, and open cards towards one destination; an API key opens cvc; an image opens bait's neighbour.
fn policy(relay: &str) -> String {
    let key: String = e3_enclave::policy::api_key_hash(KEY).iter().map(|b| format!("{b:02x}")).collect();
    let image = "05".repeat(48);
    format!(
        "version: 1
app: shop
roles:
  card: {{}}
  cvc: {{}}
  email: {{deterministic: true}}
  bait: {{honey: true}}
  deep: {{}}
principals:
  edge: {{relay: {{spki: 'sha256:{relay}'}}}}
  phone: {{api_key: 'sha256:{key}'}}
  validator: {{image: [{{pcr0: '{image}'}}]}}
grants:
  - {{who: edge, may: [seal, seal-deterministic], roles: [card, cvc, email, bait, deep]}}
  - {{who: edge, may: open, roles: [card], to: [api.pay.example], methods: [POST]}}
  - {{who: phone, may: open, roles: [cvc], from: [10.0.0.0/8]}}
  - {{who: validator, may: open, roles: [deep]}}
"
    )
}

/// What is stated with a request.
#[derive(Debug, Clone, Copy)]
struct Stated {
    app: &'static str,
    destination: &'static str,
    method: &'static str,
    source: &'static str,
    direction: Direction,
    credential: &'static str,
}

const HONEST: Stated = Stated {
    app: "shop",
    destination: "api.pay.example",
    method: "POST",
    source: "10.1.2.3",
    direction: Direction::OutboundRequest,
    credential: "",
};

async fn ask(
    session: &mut Session,
    stated: Stated,
    fill: impl FnOnce(&mut RequestWriter),
) -> Result<Vec<Reply>, RequestRefusal> {
    let context = Context {
        request_id: "r",
        direction: stated.direction,
        destination: stated.destination,
        source: stated.source,
        method: stated.method,
        credential: Credential(stated.credential),
    };
    let mut writer = RequestWriter::new(App::parse(stated.app).unwrap(), &context, 0);
    fill(&mut writer);
    let (kind, _, body) = session.ask(FrameKind::Request, 1, &writer.finish(30_000)).await.expect("an answer");
    assert_eq!(kind, FrameKind::Answer);
    match Answer::read(&body).unwrap() {
        Answer::Refused(refusal) => Err(refusal),
        Answer::Items(items) => Ok(items
            .into_iter()
            .map(|item| match item {
                ItemAnswer::Token(t) => Reply::Token(t.to_vec()),
                ItemAnswer::Value { value_type, role, value } => {
                    Reply::Value(value_type, role.to_string(), value.to_vec())
                }
                ItemAnswer::Refused(r) => Reply::Refused(r),
                ItemAnswer::Inspection(i) => Reply::Inspection(i),
                ItemAnswer::Kept => Reply::Kept,
                ItemAnswer::PublicKey { kid, key } => Reply::PublicKey(kid, key),
            })
            .collect()),
    }
}

async fn seal(session: &mut Session, name: &str) -> Vec<u8> {
    let deterministic = name == "email";
    let replies =
        ask(session, HONEST, |w| w.seal(role(name), ValueType::String, b"4111", deterministic).unwrap()).await;
    replies.unwrap()[0].token().to_vec()
}

async fn open(session: &mut Session, stated: Stated, token: &[u8]) -> Result<Reply, RequestRefusal> {
    let roles: Vec<Role> = ["card", "cvc", "email", "bait", "deep"].map(role).to_vec();
    Ok(ask(session, stated, |w| w.open(&roles, token).unwrap()).await?.remove(0))
}

fn opened(reply: &Result<Reply, RequestRefusal>) -> bool {
    matches!(reply, Ok(Reply::Value(..)))
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_has_a_relays_host_opens_nothing_outside_its_grants() {
    let place = Place::governed(policy);
    let mut session = place.session().await;
    let mut tokens = Vec::new();
    for name in ROLES {
        tokens.push((name, seal(&mut session, name).await));
    }
    let (mut asked, mut came_through) = (0, 0);
    for app in ["shop", "bank"] {
        for destination in ["api.pay.example", "API.Pay.Example.", "evil.example", "pay.example", "client", ""] {
            for method in ["POST", "GET", "post", ""] {
                for (source, credential) in [
                    ("10.1.2.3", ""),
                    ("10.1.2.3", KEY),
                    ("192.0.2.1", KEY),
                    ("", KEY),
                    ("10.1.2.3", "e3k_forged"),
                    ("", ""),
                ] {
                    for direction in [Direction::OutboundRequest, Direction::InboundResponse, Direction::Api] {
                        let stated = Stated { app, destination, method, source, direction, credential };
                        for (name, token) in &tokens {
                            let reply = open(&mut session, stated, token).await;
                            let by_relay = credential.is_empty()
                                && *name == "card"
                                && destination.to_lowercase().starts_with("api.pay.example")
                                && method == "POST";
                            let by_key = credential == KEY && *name == "cvc" && source == "10.1.2.3";
                            let may = app == "shop" && (by_relay || by_key);
                            assert_eq!(opened(&reply), may, "{name} {stated:?}: {reply:?}");
                            asked += 1;
                            came_through += usize::from(may);
                        }
                    }
                }
            }
        }
    }
    assert!(asked > 3_000 && came_through > 50, "{asked} {came_through}");
    // No other verb helps, and none says whether a token is genuine.
    for (name, token) in &tokens {
        let forged = token[..token.len() - 3].iter().chain(b"AA.").copied().collect::<Vec<_>>();
        for text in [token, &forged] {
            let replies = ask(&mut session, HONEST, |w| {
                w.inspect(text).unwrap();
                w.rewrap(text).unwrap();
                w.public_key(role(name)).unwrap();
                w.keep_or_seal(role(name), ValueType::String, text, *name == "email").unwrap();
            });
            let replies = replies.await.unwrap();
            assert_eq!(replies[..2], [Reply::Refused(Refusal::NotPermitted), Reply::Refused(Refusal::NotPermitted)]);
            assert!(matches!(replies[2], Reply::Refused(_)), "{:?}", replies[2]);
            assert!(matches!(replies[3], Reply::Token(_)), "kept, which says that it is genuine");
        }
    }
    // The audit names whoever it was, and the line that let him.
    let records = place.records();
    let allowed: Vec<_> = records.iter().filter(|r| r["decisions"][0]["decision"] == "allowed").collect();
    assert_eq!(allowed.len(), came_through);
    for record in allowed {
        let by = (
            record["principal"].as_str().unwrap(),
            record["proof"].as_str().unwrap(),
            record["decisions"][0]["line"].as_u64().unwrap(),
        );
        assert!([("edge", "key", 15), ("phone", "api-key", 16)].contains(&by), "{record}");
        assert!(record["via"].as_str().unwrap().starts_with("relay:sha256:") && record["policy"] == 1);
    }
}

/// How long after a new policy is in its place the session that is open is denied.
async fn denied_after(
    place: &Place,
    session: &mut Session,
    stated: Stated,
    token: &[u8],
    text: &str,
) -> Result<Reply, RequestRefusal> {
    assert!(opened(&open(session, stated, token).await), "before");
    place.put_policy(text);
    let since = Instant::now();
    loop {
        let reply = open(session, stated, token).await;
        if !opened(&reply) {
            println!("denied after {:?}", since.elapsed());
            // Looked at twice a second; what is measured on a quiet machine stands in the report.
            assert!(since.elapsed() < PATIENCE / 2);
            return reply;
        }
        assert!(since.elapsed() < PATIENCE, "still opened");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_back_ends_on_sessions_that_are_open() {
    let place = Place::governed(policy);
    let relay: String = place.key.hash().iter().map(|b| format!("{b:02x}")).collect();
    let at = |version: u32, from: &str, to: &str| {
        let text = policy(&relay).replace("version: 1", &format!("version: {version}"));
        assert!(text.contains(from), "{from}");
        text.replace(from, to)
    };
    let mut session = place.session().await;
    let (card, cvc) = (seal(&mut session, "card").await, seal(&mut session, "cvc").await);
    let key = Stated { credential: KEY, ..HONEST };
    // A grant, an API key, and at last the relay itself.
    let reply = denied_after(
        &place,
        &mut session,
        HONEST,
        &card,
        &at(2, "may: open, roles: [card]", "may: inspect, roles: [card]"),
    )
    .await;
    assert_eq!(reply, Ok(Reply::Refused(Refusal::NotPermitted)));
    let reply = denied_after(&place, &mut session, key, &cvc, &at(3, &api_key_digits(), &"ab".repeat(32))).await;
    assert_eq!(reply, Err(RequestRefusal::UnknownCredential));
    place.put_policy(&at(4, "version: 4", "version: 4"));
    eventually("the grant is back", || place.log().contains("version=4") || place.log().contains("\"version\":4"));
    let reply = denied_after(&place, &mut session, HONEST, &card, &at(5, &relay, &"cd".repeat(32))).await;
    assert_eq!(reply, Ok(Reply::Refused(Refusal::NotPermitted)));
    // Its key is on no list now: it may prove an image, and ask nothing.
    let mut stranger = place.session().await;
    let context = Context::default();
    let mut request = RequestWriter::new(App::parse("shop").unwrap(), &context, 0);
    request.open(&[role("card")], &card).unwrap();
    let answer = stranger.ask(FrameKind::Request, 1, &request.finish(1_000)).await;
    assert_eq!(answer, Some((FrameKind::Answer, 1, RequestRefusal::Malformed.to_body())));
    assert!(stranger.receive().await.is_none(), "the session ends");
    // Where no image is known either, it gets no session.
    let lines: Vec<String> = at(6, &relay, &"cd".repeat(32))
        .lines()
        .filter(|l| !l.contains("validator"))
        .map(|l| format!("{l}\n"))
        .collect();
    place.put_policy(&lines.concat());
    let until = Instant::now() + PATIENCE;
    loop {
        let stream = place.endpoint().connect(PATIENCE).await.unwrap();
        let refused = match place.tls().connect(stream).await {
            Err(_) => true,
            // With TLS 1.3 the refusal may come behind the handshake.
            Ok((stream, _)) => !Session::over(stream).answers().await,
        };
        if refused {
            break;
        }
        assert!(Instant::now() < until, "still let in");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let text = std::fs::read_to_string(place.setup.path("audit.jsonl")).unwrap();
    assert_eq!(text.matches("\"event\":\"policy-loaded\"").count(), 6, "each change is recorded");
}

fn api_key_digits() -> String {
    e3_enclave::policy::api_key_hash(KEY).iter().map(|b| format!("{b:02x}")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rate_holds_across_sessions_and_policies() {
    let limited = |relay: &str| policy(relay).replace("methods: [POST]", "methods: [POST], rate: 3/d");
    let place = Place::governed(limited);
    let card = seal(&mut place.session().await, "card").await;
    for _ in 0..3 {
        assert!(opened(&open(&mut place.session().await, HONEST, &card).await));
    }
    for _ in 0..3 {
        assert_eq!(open(&mut place.session().await, HONEST, &card).await, Ok(Reply::Refused(Refusal::RateLimited)));
    }
    let relay: String = place.key.hash().iter().map(|b| format!("{b:02x}")).collect();
    place.put_policy(&limited(&relay).replace("version: 1", "version: 2"));
    eventually("version 2 is in force", || place.log().contains("version=2"));
    assert_eq!(open(&mut place.session().await, HONEST, &card).await, Ok(Reply::Refused(Refusal::RateLimited)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_is_attested_and_neither_engines_nor_relays_go_back_behind_it() {
    let place = Place::governed(policy);
    let relay: String = place.key.hash().iter().map(|b| format!("{b:02x}")).collect();
    let at = |version: u32| policy(&relay).replace("version: 1", &format!("version: {version}"));
    let memory = Arc::new(Memory::new(None, HashMap::new()));
    let tls = place.tls_of(&place.key, Arc::clone(&memory));
    let stated = async |tls: &e3_link::attested::relay::RelayTls| {
        let stream = place.endpoint().connect(PATIENCE).await.unwrap();
        tls.connect(stream).await.map(|(_, bound)| bound.binding().state().policy)
    };
    let first = stated(&tls).await.unwrap().unwrap();
    assert_eq!((first.version, first.hash), (1, e3_enclave::policy::signed::hash(&at(1))));
    assert!(matches!(stated(&tls).await, Ok(Some(policy)) if policy == first));
    place.put_policy(&at(5));
    let until = Instant::now() + PATIENCE;
    while stated(&tls).await.unwrap().unwrap().version != 5 {
        assert!(Instant::now() < until, "the certificate is not renewed");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    // Whatever is older, another text of the same version, unsigned or signed by another, is not put in force.
    let unsigned = || std::fs::write(place.setup.path("policy.yaml"), at(9)).unwrap();
    let other_text = || place.put_policy(&(at(5) + "# changed\n"));
    let older = || place.put_policy(&at(4));
    for (put, why) in [(&unsigned as &dyn Fn(), "too-few-signatures"), (&other_text, "forked"), (&older, "rolled-back")]
    {
        put();
        let expected = format!("\"event\":\"policy-refused\",\"why\":\"{why}\"");
        eventually(why, || {
            std::fs::read_to_string(place.setup.path("audit.jsonl")).is_ok_and(|text| text.contains(&expected))
        });
        assert_eq!(stated(&tls).await.unwrap().unwrap().version, 5);
    }
    // An engine that was restarted with an older one knows nothing of it; a relay that saw the newer one does.
    let mut place = place;
    place.put_policy(&at(4));
    place.engine.take().unwrap().stop();
    place.engine = Some(place.setup.start());
    let stream = place.endpoint().connect(PATIENCE).await.unwrap();
    assert!(matches!(tls.connect(stream).await, Err(LinkRefusal::State(_))), "a relay went back");
    let stream = place.endpoint().connect(PATIENCE).await.unwrap();
    assert!(place.tls().connect(stream).await.is_ok(), "one that saw nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_that_has_ended_or_wants_a_newer_keyring_allows_nothing() {
    for (line, what) in [("valid_until: 2001-01-01", "ended"), ("min_keyring_epoch: 1000", "keyring")] {
        let place = Place::governed(|relay| policy(relay).replace("app: shop", &format!("app: shop\n{line}")));
        let reply = open(&mut place.session().await, HONEST, b"x").await;
        assert_eq!(reply, Err(RequestRefusal::NoPolicy), "{what}");
    }
}

/// A session of this key; with an image, proven.
async fn caller(place: &Place, key: &LinkKey, image: Option<u8>) -> Session {
    let memory = Arc::new(Memory::new(None, HashMap::new()));
    let mut session = place.session_of(&place.tls_of(key, memory)).await;
    if let Some(image) = image {
        let nonce = session.nonce().await;
        let exporter = session.stream.exporter(EXPORTER_LABEL).unwrap();
        let binding = e3_attest::Binding::new(&Subject::Caller { exporter: &exporter }, State::default()).unwrap();
        let request = DocumentRequest::bound(&binding).with_nonce(nonce).unwrap();
        let document = place.module(image).document(&request).unwrap();
        assert_eq!(session.ask(FrameKind::Prove, 9, &document).await, Some((FrameKind::Proven, 9, vec![1])));
    }
    session
}

#[tokio::test(flavor = "multi_thread")]
async fn one_image_opens_a_role_and_every_key_of_its_host_does_not() {
    let place = Place::governed(policy);
    let deep = seal(&mut place.session().await, "deep").await;
    let card = seal(&mut place.session().await, "card").await;
    let nobody = LinkKey::generate().unwrap();
    // Any key will do, for the image is what counts.
    for key in [&nobody, &place.key] {
        assert!(opened(&open(&mut caller(&place, key, Some(5)).await, HONEST, &deep).await));
        assert_eq!(
            open(&mut caller(&place, key, Some(6)).await, HONEST, &deep).await,
            Ok(Reply::Refused(Refusal::NotPermitted))
        );
    }
    // It is nothing but that image.
    assert_eq!(
        open(&mut caller(&place, &nobody, Some(5)).await, HONEST, &card).await,
        Ok(Reply::Refused(Refusal::NotPermitted))
    );
    // The relay's key, and an API key beside it, are not the image; nor is a document of another session.
    let mut session = place.session().await;
    assert_eq!(open(&mut session, HONEST, &deep).await, Ok(Reply::Refused(Refusal::NotPermitted)));
    let with_key = Stated { credential: KEY, ..HONEST };
    assert_eq!(open(&mut session, with_key, &deep).await, Ok(Reply::Refused(Refusal::NotPermitted)));
    let mut proven = caller(&place, &nobody, Some(5)).await;
    assert_eq!(
        open(&mut proven, with_key, &deep).await,
        Ok(Reply::Refused(Refusal::NotPermitted)),
        "a key is less than the image that shows it"
    );
    let bearer = {
        let nonce = session.nonce().await;
        let exporter = proven.stream.exporter(EXPORTER_LABEL).unwrap();
        let binding = e3_attest::Binding::new(&Subject::Caller { exporter: &exporter }, State::default()).unwrap();
        place.module(5).document(&DocumentRequest::bound(&binding).with_nonce(nonce).unwrap()).unwrap()
    };
    assert_eq!(session.ask(FrameKind::Prove, 9, &bearer).await, Some((FrameKind::Proven, 9, vec![0])));
    // Whoever is on no list and has proven nothing asks nothing.
    let mut stranger = caller(&place, &nobody, None).await;
    let mut request = RequestWriter::new(App::parse("shop").unwrap(), &Context::default(), 0);
    request.open(&[role("deep")], &deep).unwrap();
    let answer = stranger.ask(FrameKind::Request, 1, &request.finish(1_000)).await;
    assert_eq!(answer, Some((FrameKind::Answer, 1, RequestRefusal::Malformed.to_body())));
    let records = place.records();
    let by_image =
        records.iter().find(|r| r["proof"] == "image" && r["decisions"][0]["decision"] == "allowed").unwrap();
    assert_eq!((&by_image["principal"], &by_image["decisions"][0]["line"]), (&"validator".into(), &17.into()));
    assert!(
        by_image["via"].as_str().unwrap().starts_with("key:sha256:") && by_image["image"]["pcr0"] == pcr(5).to_string()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rules_that_a_relay_follows_are_recorded_with_what_it_asks() {
    let place = Place::governed(policy);
    let client = place.client(place.tls());
    let card = seal(&mut place.session().await, "card").await;
    for (stated, expected) in
        [(None, None), (Some([7; 32]), Some("07".repeat(32))), (Some([8; 32]), Some("08".repeat(32)))]
    {
        if let Some(hash) = stated {
            client.state_rules(hash);
        }
        let context = Context { destination: HONEST.destination, method: HONEST.method, ..Context::default() };
        let mut request = RequestWriter::new(App::parse("shop").unwrap(), &context, 0);
        request.open(&[role("card")], &card).unwrap();
        client.call(request, tokio::time::Instant::now() + PATIENCE).await.unwrap();
        let records = place.records();
        assert_eq!(records.last().unwrap().get("rules").and_then(|r| r.as_str()), expected.as_deref());
    }
}
