//! Public-key sealing: who is given the key, whose tokens open, and that old keyrings get it.

use crate::client::PublicKey;
use crate::harness::{Relay, Reply, Setup, eventually, role, string};
use e3_wire::{Refusal, RequestRefusal, ValueType};
use rustix::process::Signal;

fn public_key(relay: &mut Relay, app: &str) -> PublicKey {
    match relay.one(app, |w| w.public_key(role("note")).unwrap()) {
        Reply::PublicKey(kid, key) => PublicKey { kid, key },
        other => panic!("no public key: {other:?}"),
    }
}

const APPS: &str = "audit: {file: audit.jsonl}\napps:\n  shop: {roles: {card: {}, note: {public_seal: true}}}\n  bank: {roles: {note: {public_seal: true}}}";

#[test]
fn what_a_holder_of_the_public_key_seals_opens() {
    let setup = Setup::with(APPS);
    let engine = setup.start();
    let mut relay = engine.relay();
    let key = public_key(&mut relay, "shop");
    for (ty, value) in [(ValueType::String, "Zoë 漢字"), (ValueType::Number, "1.10"), (ValueType::Json, r#"{"a":[]}"#)]
    {
        let token = key.seal("shop", "note", ty, value.as_bytes(), 1_700_000_000);
        let opened = Reply::Value(ty, "note".into(), value.as_bytes().to_vec());
        assert_eq!(relay.open("shop", "note", &token), opened);
        let said = relay.inspect("shop", &token);
        assert_eq!((said.suite, said.kid, said.time), (2, key.kid, 1_700_000_000));
        assert_eq!(relay.open("bank", "note", &token), Reply::Refused(Refusal::NotAuthentic));
    }
    // What does not keep the rules of its type was never a value, whoever sealed it.
    let token = key.seal("shop", "note", ValueType::Json, b"1,\"admin\":true", 0);
    assert_eq!(relay.open("shop", "note", &token), Reply::Refused(Refusal::NotAuthentic));
}

#[test]
fn the_public_key_is_given_and_its_tokens_are_opened_and_kept_only_for_roles_that_say_so() {
    let setup = Setup::with(APPS);
    let engine = setup.start();
    let mut relay = engine.relay();
    let refused = relay.one("shop", |w| w.public_key(role("card")).unwrap());
    assert_eq!(refused, Reply::Refused(Refusal::RoleKind));
    let unknown = relay.one("shop", |w| w.public_key(role("other")).unwrap());
    assert_eq!(unknown, Reply::Refused(Refusal::UnknownRole));
    let key = public_key(&mut relay, "shop");
    let card = key.seal("shop", "card", ValueType::String, b"4111", 0);
    assert_eq!(relay.open("shop", "card", &card), Reply::Refused(Refusal::RoleKind));
    // Where it cannot be opened it is no value of the role to be kept either: it is sealed as the text it is.
    let mut keep = |name: &str, token: &[u8]| {
        relay.one("shop", |w| w.keep_or_seal(role(name), ValueType::String, token, false).unwrap())
    };
    let note = key.seal("shop", "note", ValueType::String, b"x", 0);
    assert_eq!(keep("note", &note), Reply::Kept);
    let sealed = keep("card", &card).token().to_vec();
    assert_eq!(relay.open("shop", "card", &sealed), string("card", &card));
}

#[test]
fn rotating_the_public_lineage_gives_out_another_key_and_old_tokens_stay_open() {
    let setup = Setup::with(APPS);
    let engine = setup.start();
    let mut relay = engine.relay();
    let old = public_key(&mut relay, "shop");
    let token = old.seal("shop", "note", ValueType::String, b"old", 5);
    setup.done(&["keys", "rotate", "--app", "shop", "--lineage", "public"]);
    engine.signal(Signal::HUP);
    eventually("the engine has reloaded", || engine.log().contains("keyring reloaded"));
    assert_eq!(public_key(&mut relay, "shop").key, old.key, "a distributed key is not given out");
    setup.done(&["keys", "rotate", "--app", "shop", "--lineage", "public", "--promote"]);
    eventually("another key is given out", || public_key(&mut relay, "shop").key != old.key);
    let new = public_key(&mut relay, "shop");
    assert!(new.kid > old.kid);
    assert_eq!(relay.open("shop", "note", &token), string("note", b"old"));
    let token = new.seal("shop", "note", ValueType::String, b"new", 5);
    assert_eq!(relay.open("shop", "note", &token), string("note", b"new"));
}

/// A keyring of the version before public keys.
const OLD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/conformance/data/vectors/keyring-1/");

fn with_old_keyring(lines: &str) -> Setup {
    let setup = Setup::with(lines);
    for name in ["keyring", "root.key"] {
        // Written over, so that the mode stays.
        std::fs::write(setup.path(name), std::fs::read(format!("{OLD}{name}")).unwrap()).unwrap();
    }
    setup
}

#[test]
fn a_keyring_without_public_keys_works_on_and_is_given_them_by_rotation() {
    let setup = with_old_keyring(APPS);
    let engine = setup.start();
    let mut relay = engine.relay();
    let token = relay.seal("shop", "card", b"4111");
    let none = relay.ask("shop", 1000, |w| w.public_key(role("note")).unwrap());
    assert_eq!(none, Err(RequestRefusal::NotReady));
    assert!(engine.log().contains("--lineage public"), "{}", engine.log());
    let list = || setup.done(&["keys", "list"]).lines().filter(|line| line.contains("public")).collect::<String>();
    assert_eq!(list(), "");
    setup.done(&["keys", "rotate", "--lineage", "public"]);
    assert!(list().contains("distributed") && !list().contains("active"), "{}", list());
    assert!(setup.refused(&["keys", "rotate", "--lineage", "public"], 3).contains("not promoted yet"));
    setup.done(&["keys", "rotate", "--lineage", "public", "--promote"]);
    assert!(list().contains("active") && !list().contains("distributed"), "{}", list());
    let asks = |relay: &mut Relay| relay.ask("shop", 1000, |w| w.public_key(role("note")).unwrap());
    eventually("there is a public key", || asks(&mut relay).is_ok());
    let key = public_key(&mut relay, "shop");
    let note = key.seal("shop", "note", ValueType::String, b"x", 0);
    assert_eq!(relay.open("shop", "note", &note), string("note", b"x"));
    assert_eq!(relay.open("shop", "card", &token), string("card", b"4111"));
}

#[test]
fn in_development_an_old_app_gets_its_key_pair_at_first_use() {
    let setup = with_old_keyring(&format!("create_apps: true\n{APPS}"));
    let engine = setup.start();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let mut relay = engine.relay();
            std::thread::spawn(move || public_key(&mut relay, "shop").key)
        })
        .collect();
    let keys: Vec<_> = threads.into_iter().map(|t| t.join().unwrap()).collect();
    assert!(keys.iter().all(|key| *key == keys[0]), "one key pair is made");
    let list = setup.done(&["keys", "list"]);
    assert_eq!(list.lines().filter(|line| line.contains("public")).count(), 1, "{list}");
}
