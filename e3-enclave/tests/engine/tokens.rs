//! What is sealed, kept, opened and refused.

use crate::harness::{Reply, Setup, role, string};
use e3_wire::{Refusal, RequestRefusal, ValueType};

#[test]
fn a_value_comes_back_exactly_as_it_went_in() {
    let setup = Setup::new();
    let engine = setup.start();
    let mut relay = engine.relay();
    let values: [(ValueType, &str); 9] = [
        (ValueType::String, ""),
        (ValueType::String, "Zoë 漢字 🔑 \u{0}\"\\"),
        (ValueType::Number, "1.10"),
        (ValueType::Number, "-1E400"),
        (ValueType::Bool, "true"),
        (ValueType::Null, "null"),
        (ValueType::Json, r#"{"a" : [1.0, "\ud800"], "a":null}"#),
        (ValueType::Json, r#""\u0041\/""#),
        (ValueType::Json, "[]"),
    ];
    for (ty, value) in values {
        let token = relay.one("shop", |w| w.seal(role("card"), ty, value.as_bytes(), false).unwrap());
        assert!(!String::from_utf8_lossy(token.token()).contains(value) || value.is_empty());
        let expected = Reply::Value(ty, "card".into(), value.as_bytes().to_vec());
        assert_eq!(relay.open("shop", "card", token.token()), expected);
    }
}

#[test]
fn what_is_not_one_value_of_its_type_is_not_sealed() {
    let setup = Setup::new();
    let engine = setup.start();
    let mut relay = engine.relay();
    let bad: [(ValueType, &[u8]); 6] = [
        (ValueType::String, b"\xff"),
        (ValueType::Number, b"01"),
        (ValueType::Bool, b"yes"),
        (ValueType::Null, b""),
        (ValueType::Json, b"[1,]"),
        (ValueType::Json, b"1,\"admin\":true"),
    ];
    for (ty, value) in bad {
        let reply = relay.one("shop", |w| w.seal(role("card"), ty, value, false).unwrap());
        assert_eq!(reply, Reply::Refused(Refusal::BadValue), "{}", String::from_utf8_lossy(value));
    }
}

#[test]
fn roles_are_sealed_in_their_declared_way_and_opened_where_listed() {
    let setup = Setup::new();
    let engine = setup.start();
    let mut relay = engine.relay();
    let seal = |relay: &mut crate::harness::Relay, name: &str, deterministic| {
        relay.one("shop", |w| w.seal(role(name), ValueType::String, b"v", deterministic).unwrap())
    };
    assert_eq!(seal(&mut relay, "card", true), Reply::Refused(Refusal::RoleKind));
    assert_eq!(seal(&mut relay, "email", false), Reply::Refused(Refusal::RoleKind));
    assert_eq!(seal(&mut relay, "other", false), Reply::Refused(Refusal::UnknownRole));
    let token = seal(&mut relay, "card", false).token().to_vec();
    assert_eq!(relay.open("shop", "cvc", &token), Reply::Refused(Refusal::RoleNotAllowed));
    assert_eq!(relay.one("shop", |w| w.open(&[], &token).unwrap()), Reply::Refused(Refusal::RoleNotAllowed));
    let both = relay.one("shop", |w| w.open(&[role("cvc"), role("card")], &token).unwrap());
    assert_eq!(both, string("card", b"v"));
    assert_eq!(relay.ask("nobody", 1000, |w| w.inspect(&token).unwrap()), Err(RequestRefusal::UnknownApp));
}

#[test]
fn a_token_of_another_app_role_or_type_is_not_authentic() {
    let setup = Setup::new();
    let engine = setup.start();
    let mut relay = engine.relay();
    let token = relay.seal("shop", "card", b"true");
    assert_eq!(relay.open("bank", "card", &token), Reply::Refused(Refusal::NotAuthentic));
    let text = String::from_utf8(token).unwrap();
    for altered in [text.replace(".card.", ".cvc."), text.replace(".s.", ".b."), text[..text.len() - 1].to_owned()] {
        let replies = relay.ask("shop", 1000, |w| {
            w.open(&[role("card"), role("cvc")], altered.as_bytes()).unwrap();
            w.inspect(altered.as_bytes()).unwrap();
        });
        assert_eq!(replies.unwrap(), vec![Reply::Refused(Refusal::NotAuthentic); 2], "{altered}");
    }
}

#[test]
fn equal_values_give_equal_tokens_only_where_that_is_declared() {
    let setup = Setup::new();
    let engine = setup.start();
    let mut relay = engine.relay();
    let mut email = |value: &[u8]| {
        relay.one("shop", |w| w.seal(role("email"), ValueType::String, value, true).unwrap()).token().to_vec()
    };
    let (a, b, c) = (email(b"a@b"), email(b"a@b"), email(b"a@c"));
    assert!(a == b && a != c);
    assert_ne!(relay.seal("shop", "card", b"1"), relay.seal("shop", "card", b"1"));
    let seen = relay.inspect("shop", &a);
    assert_eq!((seen.suite, seen.time, seen.role), (3, 0, role("email")));
    assert_eq!(relay.open("shop", "email", &a), string("email", b"a@b"));
}

#[test]
fn only_genuine_tokens_of_the_app_and_role_are_kept() {
    let setup = Setup::new();
    let engine = setup.start();
    let mut relay = engine.relay();
    let card = relay.seal("shop", "card", b"4111");
    let cvc = relay.seal("shop", "cvc", b"123");
    let foreign = relay.seal("bank", "card", b"4111");
    let mut keep = |ty, value: &[u8]| relay.one("shop", |w| w.keep_or_seal(role("card"), ty, value, false).unwrap());
    assert_eq!(keep(ValueType::String, &card), Reply::Kept);
    let mut forged = card.clone();
    let at = forged.len() - 3;
    forged[at] = if forged[at] == b'A' { b'B' } else { b'A' };
    let inside = [b"see ", &card[..]].concat();
    let quoted = [b"\"", &card[..], b"\""].concat();
    let mut sealed = Vec::new();
    for (ty, value) in [
        (ValueType::String, &cvc),
        (ValueType::String, &foreign),
        (ValueType::String, &forged),
        (ValueType::String, &inside),
        (ValueType::Json, &quoted),
    ] {
        sealed.push((ty, value.clone(), keep(ty, value).token().to_vec()));
    }
    for (ty, value, token) in sealed {
        assert_eq!(relay.open("shop", "card", &token), Reply::Value(ty, "card".into(), value));
    }
}

#[test]
fn an_inspection_tells_what_a_token_is_and_not_what_it_holds() {
    let setup = Setup::new();
    let engine = setup.start();
    let mut relay = engine.relay();
    let token = relay.one("shop", |w| w.seal(role("card"), ValueType::Number, b"42", false).unwrap());
    let seen = relay.inspect("shop", token.token());
    assert_eq!((seen.role, seen.value_type, seen.suite), (role("card"), ValueType::Number, 1));
    assert!(seen.time > 1_700_000_000 && seen.kid > 0);
}

#[test]
fn deterministic_seals_are_limited_and_others_are_not() {
    let roles = "{card: {}, email: {deterministic: true}}";
    let setup = Setup::with(&format!(
        "audit: {{file: audit.jsonl}}\napps: {{shop: {{deterministic_rate: 5, roles: {roles}}}, bank: {{}}}}"
    ));
    let engine = setup.start();
    let mut relay = engine.relay();
    let replies = relay
        .ask("shop", 30_000, |w| {
            for i in 0..100 {
                w.seal(role("email"), ValueType::Number, i.to_string().as_bytes(), true).unwrap();
                w.seal(role("card"), ValueType::Number, b"1", false).unwrap();
            }
        })
        .unwrap();
    let limited = replies.iter().filter(|r| **r == Reply::Refused(Refusal::RateLimited)).count();
    assert!((50..=95).contains(&limited), "{limited}");
    assert_eq!(replies.iter().filter(|r| matches!(r, Reply::Token(_))).count(), 200 - limited);
}

#[test]
fn a_relay_rewraps_nothing_and_learns_nothing_by_asking() {
    let setup = Setup::new();
    let engine = setup.start();
    let mut relay = engine.relay();
    let token = relay.seal("shop", "card", b"4242");
    for asked in [&token[..], b"e3v1.card.s.AAAA.", b"nonsense"] {
        let reply = relay.one("shop", |w| w.rewrap(asked).unwrap());
        assert_eq!(reply, Reply::Refused(Refusal::NotPermitted));
    }
    let audit = std::fs::read_to_string(setup.path("audit.jsonl")).unwrap();
    let expected = r#""decisions":[{"verb":"rewrap","decision":"denied","why":"not-permitted","count":1}]"#;
    assert_eq!(audit.lines().filter(|line| line.contains(expected)).count(), 3, "{audit}");
}
