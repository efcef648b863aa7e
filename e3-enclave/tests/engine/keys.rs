//! The keyring: refused when it is not what it should be, rotated without losing a token, shared between engines.

use crate::harness::{Relay, Reply, Setup, eventually, role, string};
use e3_wire::{Refusal, ValueType};
use rustix::process::Signal;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn kid_of_new_token(relay: &mut Relay) -> u32 {
    let token = relay.seal("shop", "card", b"x");
    relay.inspect("shop", &token).kid
}

#[test]
fn a_keyring_that_is_not_genuine_is_refused_with_its_cause() {
    let setup = Setup::new();
    let path = setup.path("keyring");
    let good = fs::read(&path).unwrap();
    let refused = |bytes: &[u8], cause: &str| {
        fs::write(&path, bytes).unwrap();
        for command in [&["run"][..], &["check"], &["keys", "list"], &["keys", "create-app", "new"]] {
            let said = setup.refused(command, 3);
            assert!(said.contains(cause) && said.contains("keyring"), "{cause}: {said}");
        }
    };
    refused(b"", "not a keyring");
    refused(b"something else entirely", "not a keyring");
    refused(&[b"e3kr\x02", &good[5..]].concat(), "format");
    refused(&good[..good.len() - 1], "truncated");
    refused(&good[..40], "truncated");
    refused(&[&good[..], b"\0"].concat(), "altered");
    // Every byte is covered by the MAC, or by the check of the root key.
    for at in (5..good.len()).step_by(7) {
        let mut altered = good.clone();
        altered[at] ^= 1;
        fs::write(&path, &altered).unwrap();
        let said = setup.refused(&["check"], 3);
        assert!(["altered", "not the one", "truncated"].iter().any(|c| said.contains(c)), "byte {at}: {said}");
    }
    fs::write(&path, &good).unwrap();
    assert!(setup.done(&["check"]).contains("good"));
}

#[test]
fn a_keyring_of_another_root_is_refused() {
    let (setup, other) = (Setup::new(), Setup::new());
    fs::copy(other.path("keyring"), setup.path("keyring")).unwrap();
    assert!(setup.refused(&["run"], 3).contains("the root key is not the one it was made under"));
    fs::write(setup.path("root.key"), "no key").unwrap();
    assert!(setup.refused(&["run"], 3).contains("32 bytes"));
}

#[test]
fn files_that_others_may_read_are_refused() {
    let setup = Setup::new();
    for name in ["keyring", "root.key"] {
        for mode in [0o640, 0o604, 0o620] {
            chmod(&setup.path(name), mode);
            let said = setup.refused(&["run"], 3);
            assert!(said.contains(name) && said.contains("chmod 600"), "{said}");
        }
        chmod(&setup.path(name), 0o600);
    }
    for name in ["keyring", "root.key", "keyring.lock"] {
        assert_eq!(fs::metadata(setup.path(name)).unwrap().permissions().mode() & 0o777, 0o600, "{name}");
    }
}

#[test]
fn an_existing_keyring_or_root_is_never_written_over() {
    let setup = Setup::new();
    let before = (fs::read(setup.path("keyring")).unwrap(), fs::read(setup.path("root.key")).unwrap());
    assert!(setup.refused(&["keys", "init"], 3).contains("exists"));
    assert_eq!(before, (fs::read(setup.path("keyring")).unwrap(), fs::read(setup.path("root.key")).unwrap()));
    // A lost keyring does not take the root key with it.
    fs::remove_file(setup.path("keyring")).unwrap();
    setup.done(&["keys", "init"]);
    assert_eq!(before.1, fs::read(setup.path("root.key")).unwrap());
}

#[test]
fn a_restart_keeps_every_token() {
    let setup = Setup::new();
    let engine = setup.start();
    let token = engine.relay().seal("shop", "card", b"4111");
    assert!(engine.stop().success());
    let engine = setup.start();
    assert_eq!(engine.relay().open("shop", "card", &token), string("card", b"4111"));
}

#[test]
fn two_engines_of_one_keyring_open_each_others_tokens() {
    let (one, two) = (Setup::new(), Setup::new());
    for name in ["keyring", "root.key"] {
        fs::copy(one.path(name), two.path(name)).unwrap();
        chmod(&two.path(name), 0o600);
    }
    let (a, b) = (one.start(), two.start());
    let (mut a, mut b) = (a.relay(), b.relay());
    let (of_a, of_b) = (a.seal("shop", "card", b"1"), b.seal("shop", "card", b"2"));
    assert_eq!(a.open("shop", "card", &of_b), string("card", b"2"));
    assert_eq!(b.open("shop", "card", &of_a), string("card", b"1"));
}

#[test]
fn rotation_is_followed_by_a_running_engine_and_old_tokens_stay_open() {
    let setup = Setup::new();
    let engine = setup.start();
    let mut relay = engine.relay();
    let old = relay.seal("shop", "card", b"old");
    let first = relay.inspect("shop", &old).kid;
    assert!(setup.done(&["keys", "rotate", "--app", "shop"]).contains("only opens"));
    let again = setup.refused(&["keys", "rotate", "--app", "shop"], 3);
    assert!(again.contains("not promoted yet"), "{again}");
    engine.signal(Signal::HUP);
    eventually("the engine has reloaded", || engine.log().contains("keyring reloaded"));
    assert_eq!(kid_of_new_token(&mut relay), first, "a distributed key makes no tokens");
    setup.done(&["keys", "rotate", "--app", "shop", "--promote"]);
    // Without a signal: the engine looks at the file.
    eventually("new tokens have the new key", || kid_of_new_token(&mut relay) > first);
    assert_eq!(relay.open("shop", "card", &old), string("card", b"old"));
    assert!(setup.refused(&["keys", "rotate", "--app", "shop", "--promote"], 3).contains("no key waits"));
    let list = setup.done(&["keys", "list"]);
    assert!(list.contains("decrypt-only") && !list.contains("distributed"), "{list}");
}

#[test]
fn the_lineages_of_an_app_rotate_apart() {
    let setup = Setup::new();
    let engine = setup.start();
    let mut relay = engine.relay();
    let email = |relay: &mut Relay| {
        relay.one("shop", |w| w.seal(role("email"), ValueType::String, b"a@b", true).unwrap()).token().to_vec()
    };
    let before = email(&mut relay);
    setup.done(&["keys", "rotate", "--app", "shop", "--now"]);
    let random = kid_of_new_token(&mut relay);
    eventually("random tokens have the new key", || kid_of_new_token(&mut relay) > random || random > 6);
    assert_eq!(email(&mut relay), before, "rotating the random lineage leaves deterministic tokens equal");
    setup.done(&["keys", "rotate", "--app", "shop", "--lineage", "det", "--now"]);
    eventually("deterministic tokens have the new key", || email(&mut relay) != before);
    assert_eq!(relay.open("shop", "email", &before), string("email", b"a@b"));
}

#[test]
fn a_running_engine_refuses_an_older_or_foreign_keyring() {
    let setup = Setup::new();
    let old = fs::read(setup.path("keyring")).unwrap();
    setup.done(&["keys", "rotate", "--app", "shop", "--now"]);
    let new = fs::read(setup.path("keyring")).unwrap();
    let engine = setup.start();
    let mut relay = engine.relay();
    let kid = kid_of_new_token(&mut relay);
    let put = |bytes: &[u8]| {
        fs::write(setup.path("next"), bytes).unwrap();
        chmod(&setup.path("next"), 0o600);
        fs::rename(setup.path("next"), setup.path("keyring")).unwrap();
    };
    put(&old);
    eventually("the older keyring is refused", || engine.log().contains("rolled back"));
    put(&[&new[..new.len() - 1], &[new[new.len() - 1] ^ 1]].concat());
    eventually("the altered keyring is refused", || engine.log().contains("altered"));
    // Another keyring under the same root.
    fs::remove_file(setup.path("keyring")).unwrap();
    setup.done(&["keys", "init"]);
    eventually("the foreign keyring is refused", || engine.log().contains("another keyring"));
    assert_eq!(kid_of_new_token(&mut relay), kid, "the keyring in force stays");
}

#[test]
fn commands_at_once_lose_no_key_and_give_no_number_twice() {
    let setup = Setup::new();
    std::thread::scope(|s| {
        for name in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            s.spawn({
                let setup = &setup;
                move || setup.done(&["keys", "create-app", name])
            });
        }
    });
    let list = setup.done(&["keys", "list"]);
    let kids: Vec<u32> = list.lines().filter_map(|l| l.split_whitespace().next()?.parse().ok()).collect();
    assert_eq!(kids, (1..=30).collect::<Vec<u32>>(), "{list}");
}

#[test]
fn an_app_gets_its_keys_at_first_use_only_where_that_is_configured() {
    let setup = Setup::with("audit: {file: audit.jsonl}\ncreate_apps: true\nundeclared_roles: allow\napps: {}");
    let engine = setup.start();
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let mut relay = engine.relay();
            std::thread::spawn(move || relay.seal("fresh", "any", b"x"))
        })
        .collect();
    let mut relay = engine.relay();
    for token in threads.into_iter().map(|t| t.join().unwrap()) {
        assert_eq!(relay.open("fresh", "any", &token), string("any", b"x"));
    }
    assert_eq!(setup.done(&["keys", "list"]).matches("fresh").count(), 3, "one key of each lineage");
    drop(engine);
    setup.configure("audit: {file: audit.jsonl}\nundeclared_roles: allow\napps: {}");
    let engine = setup.start();
    let refused = engine.relay().ask("fresher", 1000, |w| w.inspect(b"x").unwrap());
    assert_eq!(refused, Err(e3_wire::RequestRefusal::UnknownApp));
    assert_eq!(engine.relay().open("fresh", "any", b"x"), Reply::Refused(Refusal::NotAuthentic));
}

/// A keyring, its root and tokens under its keys, written by the first version that had this format. They open for ever.
const FROZEN: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/conformance/data/vectors/keyring-1/");

#[test]
fn the_frozen_keyring_opens_and_so_do_its_tokens() {
    let setup = Setup::new();
    for name in ["keyring", "root.key"] {
        fs::copy(format!("{FROZEN}{name}"), setup.path(name)).unwrap();
        chmod(&setup.path(name), 0o600);
    }
    let listed = setup.done(&["keys", "list"]);
    for state in ["active", "decrypt-only", "distributed"] {
        assert!(listed.contains(state), "{listed}");
    }
    let engine = setup.start();
    let mut relay = engine.relay();
    let tokens = fs::read_to_string(format!("{FROZEN}tokens")).unwrap();
    assert_eq!(tokens.lines().count(), 6);
    for line in tokens.lines() {
        let [app, role_name, value, token] = line.split(' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
        assert_eq!(relay.open(app, role_name, token.as_bytes()), string(role_name, value.as_bytes()), "{line}");
    }
    // Deterministic sealing under the key in force is frozen too.
    let again = relay.one("shop", |w| w.seal(role("email"), ValueType::String, b"second@shop.example", true).unwrap());
    assert!(tokens.contains(std::str::from_utf8(again.token()).unwrap()));
}
