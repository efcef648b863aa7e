//! Whatever is changed in a token of any form, the engine answers one and the same bytes: nothing says what was wrong with it.

use crate::client::PublicKey;
use crate::harness::{Relay, Reply, Setup, request, role};
use e3_wire::{FrameKind, MAX_ITEMS, TokenText, ValueType, token};

/// A role of each form of token, with its suite.
const FORMS: [(&str, u8); 3] = [("card", 1), ("note", 2), ("email", 3)];
const TYPES: [(ValueType, &[u8]); 5] = [
    (ValueType::String, b"4111111111111111"),
    (ValueType::Number, b"42"),
    (ValueType::Bool, b"true"),
    (ValueType::Null, b"null"),
    (ValueType::Json, b"[1]"),
];
const ROLES: [&str; 5] = ["card", "note", "email", "cvc", "undeclared"];

fn text(role_name: &str, ty: ValueType, binary: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    token::write(role(role_name), ty, binary, &mut out);
    out
}

/// Every alteration of one token of the app `shop`.
fn altered(role_name: &str, ty: ValueType, good: &[u8]) -> Vec<Vec<u8>> {
    let whole = TokenText::parse(good).unwrap().decode().unwrap();
    let mut all = Vec::new();
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        all.push(text(role_name, ty, &flipped));
    }
    for bit in 0..good.len() * 8 {
        let mut flipped = good.to_vec();
        flipped[bit / 8] ^= 1 << (bit % 8);
        all.push(flipped);
    }
    all.extend((0..whole.len()).map(|len| text(role_name, ty, &whole[..len])));
    all.extend((0..good.len()).map(|len| good[..len].to_vec()));
    all.extend(ROLES.into_iter().filter(|r| *r != role_name).map(|other| text(other, ty, &whole)));
    all.extend(TYPES.into_iter().filter(|t| t.0 != ty).map(|(other, _)| text(role_name, other, &whole)));
    // Every key of both apps, and some that there are not; every suite, and some that there are not.
    for (kid, suite) in (0..9u32).flat_map(|kid| (0..5u8).map(move |suite| (kid, suite))) {
        let mut swapped = whole.clone();
        swapped[0] = suite;
        swapped[1..5].copy_from_slice(&kid.to_be_bytes());
        if swapped != whole {
            all.push(text(role_name, ty, &swapped));
        }
    }
    all
}

/// The bytes of the results, between the count and the mark.
fn results(relay: &mut Relay, app: &str, tokens: &[Vec<u8>]) -> Vec<u8> {
    let roles: Vec<_> = ROLES.map(role).into();
    let body = request(app, "r", 60_000, |w| {
        for token in tokens {
            w.open(&roles, token).unwrap();
            w.inspect(token).unwrap();
        }
    });
    relay.send(FrameKind::Request, 1, &body);
    let answer = relay.receive().unwrap();
    assert_eq!(answer.answer().unwrap().len(), tokens.len() * 2);
    answer.body[5..5 + tokens.len() * 4].to_vec()
}

#[test]
fn every_alteration_of_every_form_of_token_gets_the_same_answer() {
    let setup = Setup::new();
    let engine = setup.start();
    let mut relay = engine.relay();
    let Reply::PublicKey(kid, key) = relay.one("shop", |w| w.public_key(role("note")).unwrap()) else {
        panic!("no public key")
    };
    let (mut goods, mut all) = (Vec::new(), Vec::new());
    for (role_name, suite) in FORMS {
        for (ty, value) in TYPES {
            let good = match suite {
                2 => PublicKey { kid, key }.seal("shop", role_name, ty, value, 1_767_225_600),
                _ => {
                    let seal = relay.one("shop", |w| w.seal(role(role_name), ty, value, suite == 3).unwrap());
                    seal.token().to_vec()
                }
            };
            assert_eq!(relay.inspect("shop", &good).suite, suite);
            all.extend(altered(role_name, ty, &good));
            goods.push(good);
        }
    }
    // One result is code 3 (refused), refusal 1 (not authentic), whatever was asked and whatever was wrong.
    let one = [3, 1, 3, 1];
    assert!(all.len() > 25_000, "{}", all.len());
    for chunk in all.chunks(MAX_ITEMS / 8) {
        let got = results(&mut relay, "shop", chunk);
        let wrong = got.as_chunks::<4>().0.iter().position(|answer| *answer != one);
        assert_eq!(wrong.map(|at| String::from_utf8_lossy(&chunk[at]).into_owned()), None);
    }
    assert_eq!(results(&mut relay, "bank", &goods), one.repeat(goods.len()), "another app");
    // They were good: what was refused was refused for its alteration.
    for good in &goods {
        assert!(relay.inspect("shop", good).kid > 0);
    }
}
