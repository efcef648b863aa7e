//! Signed admin commands: what a running engine does for an administrator, and for nobody else.

use crate::attested::{Place, Session};
use crate::harness::{PATIENCE, Setup, request, role};
use e3_link::attested::admin::{AdminError, AdminKey, AdminSession};
use e3_link::{Client, Refusal};
use e3_wire::{
    AdminAnswer, AdminRefusal, AdminVerb, Answer, App, Command, Context, Done, FrameKind, ItemAnswer, KeyLineage,
    KeyUse, KeyringNow, RequestRefusal, RequestWriter, ValueType,
};
use std::io::Write;
use std::process::{Output, Stdio};
use std::time::Duration;
use tokio::time::Instant;

fn shop() -> App {
    App::parse("shop").unwrap()
}

/// Runs a command at these engines; `input` goes to its standard input.
fn run(place: &Place, others: &[&Place], args: &[&str], input: &[u8]) -> Output {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_e3"));
    command.arg("keys").args(args).args(place.at(others));
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait_with_output().unwrap()
}

fn done(place: &Place, others: &[&Place], args: &[&str], input: &[u8]) -> String {
    let output = run(place, others, args, input);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn refused(place: &Place, others: &[&Place], args: &[&str], code: i32) -> String {
    let output = run(place, others, args, b"");
    let cause = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {cause}");
    cause
}

async fn ask(client: &Client, fill: impl FnOnce(&mut RequestWriter)) -> Vec<Vec<u8>> {
    let mut request = RequestWriter::new(shop(), &Context::default(), 0);
    fill(&mut request);
    let answer = client.call(request, Instant::now() + PATIENCE).await.unwrap();
    let Answer::Items(items) = answer.answer().unwrap() else { panic!("refused") };
    let bytes = |item: &ItemAnswer<'_>| match item {
        ItemAnswer::Token(token) => token.to_vec(),
        ItemAnswer::Value { value, .. } => value.to_vec(),
        ItemAnswer::Inspection(i) => format!("{} {} {} {}", i.role, i.suite, i.kid, i.time).into_bytes(),
        _ => panic!("no result"),
    };
    items.iter().map(bytes).collect()
}

/// Commands in the audit: verb or `-`, and decision.
fn commands(place: &Place) -> Vec<String> {
    let records = place.records();
    let commands = records.iter().filter(|r| r.get("decisions").is_none());
    commands
        .map(|r| format!("{} {}", r["command"]["verb"].as_str().unwrap_or("-"), r["decision"].as_str().unwrap()))
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_of_a_running_engine_are_rotated_and_tokens_rewrapped_by_signed_commands() {
    let place = Place::new();
    let client = place.client(place.tls());
    let old = ask(&client, |w| {
        w.seal(role("card"), ValueType::String, b"4242-4242", false).unwrap();
        w.seal(role("email"), ValueType::String, b"a@b", true).unwrap();
        w.seal(role("cvc"), ValueType::Number, b"1.10", false).unwrap();
    })
    .await;
    let listed = done(&place, &[], &["list"], b"");
    assert!(listed.contains("epoch 3") && listed.contains("shop") && listed.contains("active"), "{listed}");
    assert!(done(&place, &[], &["create-app", "other"], b"").contains("epoch 4"));
    let cause = refused(&place, &[], &["create-app", "other"], 3);
    assert!(cause.contains("has keys already"), "{cause}");
    assert!(done(&place, &[], &["rotate", "--app", "shop"], b"").contains("only opens tokens"));
    assert!(done(&place, &[], &["list"], b"").contains("distributed"));
    let cause = refused(&place, &[], &["rotate", "--app", "shop"], 3);
    assert!(cause.contains("waits for its promotion") && cause.contains("(key 10)"), "{cause}");
    assert!(done(&place, &[], &["rotate", "--app", "shop", "--promote"], b"").contains("key 10 now makes the tokens"));
    assert!(refused(&place, &[], &["rotate", "--app", "shop", "--promote"], 3).contains("no key of shop waits"));
    done(&place, &[], &["rotate", "--app", "shop", "--lineage", "det", "--now"], b"");
    let report = done(&place, &[], &["rotate", "--app", "shop", "--lineage", "public", "--now"], b"");
    assert!(report.contains("shop (public): key 12 now makes the tokens"), "{report}");
    let cause = refused(&place, &[], &["rotate", "--app", "nobody"], 3);
    assert!(cause.contains("the app has no keys"), "{cause}");
    let input = [&old.join(&b"\n"[..])[..], b"\n"].concat();
    let new = done(&place, &[], &["rewrap", "--app", "shop"], &input);
    let again = done(&place, &[], &["rewrap", "--app", "shop"], new.as_bytes());
    assert_eq!(again, new, "what is under the newest key stays as it is");
    let new: Vec<&[u8]> = new.lines().map(str::as_bytes).collect();
    let opened = ask(&client, |w| {
        for token in &new {
            w.open(&[role("card"), role("email"), role("cvc")], token).unwrap();
        }
    });
    assert_eq!(opened.await, [&b"4242-4242"[..], b"a@b", b"1.10"]);
    let inspect = async |tokens: Vec<&[u8]>| -> Vec<Vec<String>> {
        let answers = ask(&client, |w| tokens.iter().for_each(|token| w.inspect(token).unwrap())).await;
        answers.iter().map(|a| String::from_utf8(a.clone()).unwrap().split(' ').map(str::to_owned).collect()).collect()
    };
    let (before, after) = (inspect(old.iter().map(Vec::as_slice).collect()).await, inspect(new.clone()).await);
    for ((before, after), kid) in before.iter().zip(&after).zip(["10", "11", "10"]) {
        assert_eq!((&before[..2], &before[3]), (&after[..2], &after[3]), "role, suite and time stay");
        assert_eq!(after[2], kid);
    }
    // Deterministic tokens are those that sealing makes now.
    let sealed = ask(&client, |w| w.seal(role("email"), ValueType::String, b"a@b", true).unwrap()).await;
    assert_eq!(sealed[0], new[1]);
    let commands = commands(&place);
    for expected in
        ["list allowed", "create-app done", "create-app failed", "distribute done", "promote done", "rewrap allowed"]
    {
        assert!(commands.iter().any(|c| c == expected), "{expected}: {commands:?}");
    }
    let records = place.records();
    let rewrapped = records.iter().find(|r| r["decisions"][0]["verb"] == "rewrap").unwrap();
    assert!(rewrapped["principal"].as_str().unwrap().starts_with("admin:ed25519:"));
    assert_eq!((&rewrapped["decisions"][0]["kids"][0], &rewrapped["decisions"][0]["into"][0]), (&1.into(), &10.into()));
    assert!(rewrapped.get("direction").is_none() && rewrapped.get("source").is_none(), "it belongs to no message");
    // One app of all that cannot be rotated: none is.
    done(&place, &[], &["rotate", "--app", "bank"], b"");
    assert!(refused(&place, &[], &["rotate"], 3).contains("waits for its promotion"));
    assert_eq!(done(&place, &[], &["list"], b"").matches("distributed").count(), 1);
    let text = std::fs::read_to_string(place.setup.path("audit.jsonl")).unwrap();
    assert!(!text.contains("4242-4242") && !text.contains("e3v1."));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rewrap_names_the_line_that_it_stops_at_and_what_is_before_it_is_done() {
    let place = Place::new();
    let client = place.client(place.tls());
    let token = ask(&client, |w| w.seal(role("card"), ValueType::String, b"4242", false).unwrap()).await.remove(0);
    let token = String::from_utf8(token).unwrap();
    for (bad, cause) in
        [("e3v1.card.s.AAAA.", "line 3: the token does not authenticate"), ("", "line 3: not one token")]
    {
        let input = format!("{token}\r\n{token}\n{bad}\n{token}\n");
        let output = run(&place, &[], &["rewrap", "--app", "shop"], input.as_bytes());
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(cause), "{said}");
        assert_eq!(String::from_utf8(output.stdout).unwrap(), format!("{token}\n{token}\n"));
    }
    let output = run(&place, &[], &["rewrap", "--app", "nobody"], token.as_bytes());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("lines 1 to 1: the app is not known"), "{said}");
    assert_eq!(done(&place, &[], &["rewrap", "--app", "shop"], token.as_bytes()), format!("{token}\n"));
    assert_eq!(done(&place, &[], &["rewrap", "--app", "shop"], b""), "");
}

/// A command over this nonce, of this keyring.
fn signed(key: &AdminKey, nonce: &[u8], now: &KeyringNow, verb: AdminVerb<'_>) -> Vec<u8> {
    let command = Command { nonce: nonce.try_into().unwrap(), keyring: now.id, epoch: now.epoch, verb };
    key.sign(&command.write().unwrap()).unwrap()
}

async fn admin(place: &Place) -> Session {
    place.session_of(&place.admin_tls(&place.admin)).await
}

fn answer(frame: Option<(FrameKind, u64, Vec<u8>)>) -> AdminAnswer {
    let (kind, _, body) = frame.expect("an answer");
    assert_eq!(kind, FrameKind::Done);
    AdminAnswer::read(&body).unwrap()
}

async fn now(place: &Place) -> KeyringNow {
    let mut session = admin(place).await;
    let nonce = session.nonce().await;
    let list = signed(&place.admin, &nonce, &KeyringNow::default(), AdminVerb::List);
    match answer(session.ask(FrameKind::Admin, 1, &list).await) {
        AdminAnswer::Done(now, Done::Keys(keys)) => {
            assert!(keys.iter().any(|key| key.state == KeyUse::Active));
            now
        }
        other => panic!("{other:?}"),
    }
}

fn distribute() -> AdminVerb<'static> {
    AdminVerb::Distribute { app: shop(), lineage: KeyLineage::Random }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_that_is_not_this_administrators_over_this_nonce_ends_the_session_and_does_nothing() {
    let place = Place::new();
    let before = now(&place).await;
    let other = AdminKey::generate().unwrap();
    let mut elsewhere = admin(&place).await;
    let foreign = elsewhere.nonce().await;
    for (case, refusal) in [
        ("another key", AdminRefusal::Signature),
        ("altered", AdminRefusal::Signature),
        ("another session's nonce", AdminRefusal::Nonce),
        ("an old nonce", AdminRefusal::Nonce),
        ("a used nonce", AdminRefusal::Nonce),
        ("no nonce", AdminRefusal::Nonce),
    ] {
        let mut session = admin(&place).await;
        let nonce = if case == "no nonce" { vec![0; 32] } else { session.nonce().await };
        let key = if case == "another key" { &other } else { &place.admin };
        let over = if case == "another session's nonce" { &foreign } else { &nonce };
        let mut body = signed(key, over, &before, distribute());
        match case {
            "altered" => body[70] ^= 1,
            "an old nonce" => drop(session.nonce().await),
            "a used nonce" => {
                let list = signed(&place.admin, &nonce, &before, AdminVerb::List);
                answer(session.ask(FrameKind::Admin, 1, &list).await);
            }
            _ => {}
        }
        let refused = answer(session.ask(FrameKind::Admin, 2, &body).await);
        assert_eq!(refused, AdminAnswer::Refused(refusal, 0), "{case}");
        assert!(session.receive().await.is_none(), "{case}: still open");
    }
    assert_eq!(now(&place).await, before);
    assert_eq!(commands(&place).iter().filter(|c| *c == "- denied").count(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_for_another_keyring_or_epoch_is_refused_and_the_session_goes_on() {
    let place = Place::new();
    let before = now(&place).await;
    let mut session = admin(&place).await;
    let mut at = async |at: KeyringNow, verb: AdminVerb<'_>| {
        let nonce = session.nonce().await;
        answer(session.ask(FrameKind::Admin, 5, &signed(&place.admin, &nonce, &at, verb)).await)
    };
    let refused = |refusal, detail| AdminAnswer::Refused(refusal, detail);
    let other = KeyringNow { id: [1; 16], ..before };
    assert_eq!(at(other, distribute()).await, refused(AdminRefusal::OtherKeyring, 0));
    for epoch in [before.epoch - 1, before.epoch + 1, 0] {
        let at = at(KeyringNow { epoch, ..before }, distribute()).await;
        assert_eq!(at, refused(AdminRefusal::Epoch, before.epoch));
    }
    let request = request("shop", "r", 1000, |w| w.rewrap(b"e3v1.card.s.AAAA.").unwrap());
    let past = KeyringNow { epoch: before.epoch - 1, ..before };
    let rewrap = at(past, AdminVerb::Rewrap { request: &request }).await;
    assert_eq!(rewrap, refused(AdminRefusal::Epoch, before.epoch));
    let promote = AdminVerb::Promote { app: shop(), lineage: KeyLineage::Random, kid: 1 };
    assert_eq!(at(before, promote).await, refused(AdminRefusal::NotWaiting, 1));
    let init = AdminVerb::Init { key: "arn:aws:kms:eu-central-1:111122223333:key/1234abcd" };
    assert_eq!(at(before, init).await, refused(AdminRefusal::Initialised, 0));
    assert_eq!(at(before, AdminVerb::Destroy { kids: vec![1] }).await, refused(AdminRefusal::NoKms, 0));
    let AdminAnswer::Done(after, Done::Key(kid)) = at(before, distribute()).await else { panic!("not done") };
    assert_eq!((after.epoch, kid), (before.epoch + 1, 7));
    // The same command once more is for an epoch that is past.
    assert_eq!(at(before, distribute()).await, refused(AdminRefusal::Epoch, after.epoch));
    let wrong = AdminVerb::Promote { app: shop(), lineage: KeyLineage::Random, kid: 4 };
    assert_eq!(at(after, wrong).await, refused(AdminRefusal::NotWaiting, 4));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_a_relays_or_an_administrators_and_never_both() {
    let place = Place::new();
    let malformed = |frame: Option<(FrameKind, u64, Vec<u8>)>| {
        let (kind, _, body) = frame.expect("an answer");
        assert_eq!((kind, body), (FrameKind::Answer, RequestRefusal::Malformed.to_body()));
    };
    let mut relay = place.session().await;
    let nonce = relay.nonce().await;
    let list = signed(&place.admin, &nonce, &KeyringNow::default(), AdminVerb::List);
    malformed(relay.ask(FrameKind::Admin, 3, &list).await);
    assert!(relay.receive().await.is_none());
    let seal = request("shop", "r", 1000, |w| w.seal(role("card"), ValueType::String, b"x", false).unwrap());
    for (kind, body) in [
        (FrameKind::Request, &seal[..]),
        (FrameKind::Prove, b"document"),
        (FrameKind::Ping, b""),
        (FrameKind::Admin, b"too short"),
        (FrameKind::Done, b"x"),
    ] {
        let mut session = admin(&place).await;
        malformed(session.ask(kind, 3, body).await);
        assert!(session.receive().await.is_none(), "{kind:?}: still open");
    }
    // A rewrap holds rewraps, and nothing else.
    let mut session = admin(&place).await;
    let nonce = session.nonce().await;
    let body = signed(&place.admin, &nonce, &now(&place).await, AdminVerb::Rewrap { request: &seal });
    malformed(session.ask(FrameKind::Admin, 4, &body).await);
    // Anyone who is in may ask what runs here.
    let mut session = admin(&place).await;
    let (kind, _, document) = session.ask(FrameKind::Attest, 9, &[7; 32]).await.unwrap();
    assert!(kind == FrameKind::Document && !document.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_administrator_gets_no_answer() {
    let place = Place::new();
    let stranger = AdminKey::generate().unwrap();
    let tls = place.admin_tls(&stranger);
    let session = AdminSession::connect(&place.endpoint(), &tls, &stranger, PATIENCE).await;
    let refusal = match session {
        Ok(mut session) => session.command([0; 16], 0, AdminVerb::List).await.unwrap_err(),
        Err(error) => error,
    };
    assert_eq!(refusal, AdminError::Refused(Box::new(Refusal::Unpinned)));
    assert!(commands(&place).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_record_no_command_is_done() {
    let place = Place::with("/dev/full");
    let before = std::fs::read(place.setup.path("keyring")).unwrap();
    let cause = refused(&place, &[], &["list"], 3);
    assert!(cause.contains("the audit sink did not take the record, so nothing was done"), "{cause}");
    let tls = place.admin_tls(&place.admin);
    let mut session = AdminSession::connect(&place.endpoint(), &tls, &place.admin, PATIENCE).await.unwrap();
    let id: [u8; 16] = before[5..21].try_into().unwrap();
    let unrecorded = AdminAnswer::Refused(AdminRefusal::AuditUnavailable, 0);
    assert_eq!(session.command(id, 3, distribute()).await, Ok(unrecorded.clone()));
    let rewrap = request("shop", "r", 30_000, |w| w.rewrap(b"e3v1.card.s.AAAA.").unwrap());
    assert_eq!(session.rewrap(id, 3, &rewrap).await.map(|answer| answer.err()), Ok(Some(unrecorded)));
    assert_eq!(std::fs::read(place.setup.path("keyring")).unwrap(), before, "nothing was changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_promoted_only_when_every_engine_holds_it() {
    let first = Place::new();
    let second = first.copy();
    assert!(refused(&first, &[&second], &["rotate", "--app", "shop", "--now"], 2).contains("single engine"));
    // The second engine has a store of its own, and does not follow by itself.
    let cause = refused(&first, &[&second], &["rotate", "--app", "shop"], 1);
    assert!(cause.contains("is at epoch 3, and the change made epoch 4"), "{cause}");
    let cause = refused(&first, &[&second], &["rotate", "--app", "shop", "--promote"], 3);
    assert!(cause.contains("does not hold key 7 of shop; nothing was promoted"), "{cause}");
    assert!(cause.contains(&second.endpoint().to_string()), "{cause}");
    assert!(done(&first, &[], &["list"], b"").contains("distributed"), "nothing was promoted");
    first.hand_keyring_to(&second);
    let until = Instant::now() + PATIENCE;
    while !done(&second, &[], &["list"], b"").contains("distributed") {
        assert!(Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let output = run(&first, &[&second], &["rotate", "--app", "shop", "--promote"], b"");
    assert_eq!(output.status.code(), Some(1), "promoted, and the second is behind once more");
    first.hand_keyring_to(&second);
    assert!(done(&first, &[&second], &["list"], b"").matches("epoch 5").count() >= 1);
    let other = Place::new();
    let mixed = std::process::Command::new(env!("CARGO_BIN_EXE_e3"))
        .args(["keys", "list"])
        .args(first.at(&[]))
        .args(["--keyring", &"ab".repeat(16)])
        .output()
        .unwrap();
    let said = String::from_utf8(mixed.stderr).unwrap();
    assert!(said.contains("another keyring"), "{said}");
    drop(other);
}

#[test]
fn an_admin_key_is_made_once_and_for_its_owner_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("admin.pem");
    let e3 = |args: &[&str]| {
        let output = std::process::Command::new(env!("CARGO_BIN_EXE_e3")).args(args).arg(&file).output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, public, _) = e3(&["admin-key", "new"]);
    assert_eq!((code, public.len()), (Some(0), 65));
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(e3(&["admin-key", "show"]).1, public);
    assert_eq!(e3(&["admin-key", "new"]).0, Some(1), "it is not written over");
    assert_eq!(e3(&["admin-key", "show"]).1, public);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).unwrap();
    assert!(e3(&["admin-key", "show"]).2.contains("chmod 600"));
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(&file, "no key").unwrap();
    assert!(e3(&["admin-key", "show"]).2.contains("`e3 admin-key new` makes one"));
    let setup = Setup::new();
    assert!(setup.refused(&["keys", "rotate", "--engine", "unix:///nowhere"], 2).contains("--admin-key"));
}
