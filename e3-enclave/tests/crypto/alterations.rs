//! Whatever is changed in a token, it is refused, and always with the same error; whatever is sealed comes back; no salt comes twice.

use crate::client::PublicKey;
use base64ct::{Base64UrlUnpadded, Encoding};
use e3_enclave::envelope::{Authentic, NotAuthentic, SealTime, Sealer};
use e3_enclave::keyring::{Keyring, RootKey, Store};
use e3_enclave::policy::{Allowed, AppRules, Asking, Moment, Policy, RoleRules, Subject, Verb};
use e3_enclave::session::Session;
use e3_wire::{App, Context, Role, TokenText, ValueType, token};
use proptest::prelude::*;
use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;
use std::sync::LazyLock;

struct World {
    keyring: Keyring,
    policy: Policy,
}

static WORLD: LazyLock<World> = LazyLock::new(|| {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("root.key");
    std::fs::write(&root, "5a".repeat(32)).unwrap();
    std::fs::set_permissions(&root, std::fs::Permissions::from_mode(0o600)).unwrap();
    let store = Store::new(folder.path().join("keyring"), RootKey::from_file(&root).unwrap());
    store.create().unwrap();
    let (keyring, _) = store
        .update(|k| {
            k.create_app(app("shop"))?;
            k.create_app(app("bank"))?;
            Ok(Some(()))
        })
        .unwrap();
    let roles = || {
        [("card", false, false), ("cvc", false, false), ("email", true, false), ("note", false, true)]
            .map(|(r, deterministic, public_seal)| {
                (role(r), RoleRules { deterministic, public_seal, ..RoleRules::default() })
            })
            .into()
    };
    let apps = ["shop", "bank"].map(|a| (app(a), AppRules::new(roles(), u32::MAX)));
    World { keyring, policy: Policy::declared(apps.into(), false) }
});

fn app(name: &str) -> App {
    App::parse(name).unwrap()
}

fn role(name: &str) -> Role {
    Role::parse(name).unwrap()
}

fn allowed(app: App, role: Role, verb: Verb) -> Allowed {
    let context = Context::default();
    let session = Session::plain();
    let asking = Asking { proven: session.proven(), app, context: &context, epoch: 1 };
    WORLD.policy.asker(&asking, Moment::now().unwrap()).unwrap().decide(verb, role, Subject::Role).result.unwrap()
}

/// A role of each form of token: random (suite 1), to a public key (suite 2), deterministic (suite 3).
const FORMS: [(&str, u8); 3] = [("card", 1), ("note", 2), ("email", 3)];

/// Kids that the keyring has, and some that it has not.
const KIDS: std::ops::Range<u32> = 0..9;

fn seal(app_name: &str, role_name: &str, ty: ValueType, value: &[u8]) -> Vec<u8> {
    if role_name == "note" {
        let (kid, key) = WORLD.keyring.public_key(app(app_name)).unwrap();
        return PublicKey { kid, key }.seal(app_name, role_name, ty, value, 1_767_225_600);
    }
    let verb = if role_name == "email" { Verb::SealDeterministic } else { Verb::Seal };
    let mut out = Vec::new();
    Sealer::new(&WORLD.keyring, SealTime::now().unwrap())
        .seal(&allowed(app(app_name), role(role_name), verb), ty, value, &mut out)
        .unwrap();
    out
}

fn read(app_name: &str, token: &[u8]) -> Result<Authentic, NotAuthentic> {
    Authentic::read(&WORLD.keyring, app(app_name), token)
}

fn binary(text: &[u8]) -> Vec<u8> {
    TokenText::parse(text).unwrap().decode().unwrap()
}

fn text(role_name: &str, ty: ValueType, binary: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    token::write(role(role_name), ty, binary, &mut out);
    out
}

const TYPES: [(ValueType, &[u8]); 5] = [
    (ValueType::String, b"4111111111111111"),
    (ValueType::Number, b"42"),
    (ValueType::Bool, b"true"),
    (ValueType::Null, b"null"),
    (ValueType::Json, b"[1]"),
];

/// A token of each form and type, with its role and binary.
fn every_token() -> impl Iterator<Item = (&'static str, ValueType, Vec<u8>, Vec<u8>)> {
    FORMS.into_iter().flat_map(|(role_name, suite)| {
        TYPES.into_iter().map(move |(ty, value)| {
            let good = seal("shop", role_name, ty, value);
            let whole = binary(&good);
            assert_eq!((read("shop", &good).is_ok(), whole[0]), (true, suite));
            (role_name, ty, good, whole)
        })
    })
}

#[test]
fn every_flipped_bit_of_a_token_is_refused() {
    for (role_name, ty, good, whole) in every_token() {
        for bit in 0..whole.len() * 8 {
            let mut altered = whole.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(read("shop", &text(role_name, ty, &altered)).is_err(), "{role_name}: bit {bit} of the binary");
        }
        // And of its text, where a flip mostly breaks the grammar.
        for bit in 0..good.len() * 8 {
            let mut altered = good.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            assert!(read("shop", &altered).is_err(), "{role_name}: bit {bit} of the text");
        }
    }
}

#[test]
fn every_truncation_and_extension_is_refused() {
    for (role_name, ty, good, whole) in every_token() {
        for len in 0..whole.len() {
            assert!(read("shop", &text(role_name, ty, &whole[..len])).is_err(), "{role_name}: {len} bytes");
            assert!(read("shop", &text(role_name, ty, &whole[len + 1..])).is_err(), "{role_name}: from {len}");
        }
        for len in 0..good.len() {
            assert!(read("shop", &good[..len]).is_err());
        }
        assert!(read("shop", &text(role_name, ty, &[&whole[..], &[0]].concat())).is_err());
        assert!(read("shop", &text(role_name, ty, &[&[0], &whole[..]].concat())).is_err());
    }
}

#[test]
fn role_type_app_key_and_suite_cannot_be_swapped() {
    // `true`, `null` and `42` are good contents of type `j` too: only the header can tell.
    for (role_name, ty, good, whole) in every_token() {
        assert!(read("bank", &good).is_err());
        for other in ["card", "cvc", "email", "note", "undeclared"].into_iter().filter(|r| *r != role_name) {
            assert!(read("shop", &text(other, ty, &whole)).is_err(), "{role_name} as {other}");
        }
        for (other, _) in TYPES.into_iter().filter(|t| t.0 != ty) {
            assert!(read("shop", &text(role_name, other, &whole)).is_err());
        }
        for kid in KIDS {
            for suite in 0..5u8 {
                let mut altered = whole.clone();
                altered[0] = suite;
                altered[1..5].copy_from_slice(&kid.to_be_bytes());
                let genuine = altered == whole;
                assert_eq!(read("shop", &text(role_name, ty, &altered)).is_ok(), genuine, "suite {suite}, kid {kid}");
                assert!(read("bank", &text(role_name, ty, &altered)).is_err(), "suite {suite}, kid {kid}");
            }
        }
    }
}

#[test]
fn a_token_to_a_public_key_is_bound_to_everything_its_sealer_said() {
    // Not altered on its way but sealed so, by whoever has both apps' public keys.
    let of = |name: &str| WORLD.keyring.public_key(app(name)).unwrap();
    let ((shop, shop_key), (bank, bank_key)) = (of("shop"), of("bank"));
    let seal = |kid, key, app_name| PublicKey { kid, key }.seal(app_name, "note", ValueType::String, b"x", 7);
    let said = read("shop", &seal(shop, shop_key, "shop")).unwrap().inspection();
    assert_eq!((said.role.as_str(), said.suite, said.kid, said.time), ("note", 2, shop, 7));
    for app_name in ["shop", "bank"] {
        for token in [
            seal(shop, shop_key, "bank"),
            seal(bank, bank_key, "shop"),
            seal(shop, bank_key, app_name),
            seal(bank, shop_key, app_name),
            seal(1, shop_key, app_name),
        ] {
            assert!(read(app_name, &token).is_err());
        }
    }
    assert_ne!(shop_key, bank_key);
}

#[test]
fn an_encapsulated_key_of_low_order_is_refused() {
    // Points whose shared secret is zero with every private key (RFC 7748, section 6.1), so that anyone knows it.
    let good = binary(&seal("shop", "note", ValueType::String, b"x"));
    let mut p_minus_1 = [0xff; 32];
    (p_minus_1[0], p_minus_1[31]) = (0xec, 0x7f);
    let mut p = p_minus_1;
    p[0] = 0xed;
    let mut one = [0; 32];
    one[0] = 1;
    for point in [[0; 32], one, p_minus_1, p] {
        let mut altered = good.clone();
        altered[9..41].copy_from_slice(&point);
        assert!(read("shop", &text("note", ValueType::String, &altered)).is_err());
    }
}

#[test]
fn parts_of_two_tokens_make_no_third() {
    for (role_name, _) in FORMS {
        let a = binary(&seal("shop", role_name, ValueType::String, b"4111111111111111"));
        let b = binary(&seal("shop", role_name, ValueType::String, b"5555555555554444"));
        for cut in 1..a.len() {
            let mixed = [&a[..cut], &b[cut..]].concat();
            let genuine = mixed == a || mixed == b;
            assert_eq!(read("shop", &text(role_name, ValueType::String, &mixed)).is_ok(), genuine, "cut at {cut}");
        }
    }
}

#[test]
fn a_million_seals_repeat_no_salt() {
    let threads: Vec<_> = (0..4)
        .map(|_| {
            std::thread::spawn(|| {
                let permission = allowed(app("shop"), role("card"), Verb::Seal);
                let mut sealer = Sealer::new(&WORLD.keyring, SealTime::now().unwrap());
                let mut out = Vec::new();
                let mut salts = Vec::with_capacity(250_000);
                for _ in 0..250_000 {
                    out.clear();
                    sealer.seal(&permission, ValueType::Number, b"1", &mut out).unwrap();
                    // `e3v1.card.n.`, then 12 characters of suite, kid and time: the salt is the next 32.
                    let mut salt = [0; 24];
                    Base64UrlUnpadded::decode(&out[24..56], &mut salt).unwrap();
                    salts.push(salt);
                }
                assert_eq!(binary(&out)[9..33], salts[249_999]);
                salts
            })
        })
        .collect();
    let mut seen = HashSet::with_capacity(1_000_000);
    for salt in threads.into_iter().flat_map(|t| t.join().unwrap()) {
        assert!(seen.insert(salt), "a salt came twice");
    }
    assert_eq!(seen.len(), 1_000_000);
}

proptest! {
    #[test]
    fn every_string_becomes_a_token_of_its_role_and_type(value in ".*", deterministic: bool) {
        let role_name = if deterministic { "email" } else { "card" };
        let genuine = read("shop", &seal("shop", role_name, ValueType::String, value.as_bytes())).unwrap();
        let seen = genuine.inspection();
        prop_assert_eq!((seen.role, seen.value_type), (role(role_name), ValueType::String));
    }

    #[test]
    fn any_change_of_bytes_is_refused(value in "[ -~]{0,40}", at: prop::sample::Index, change in 1u8..) {
        let good = seal("shop", "card", ValueType::String, value.as_bytes());
        let mut whole = binary(&good);
        let at = at.index(whole.len());
        whole[at] ^= change;
        prop_assert!(read("shop", &text("card", ValueType::String, &whole)).is_err());
    }

    #[test]
    fn any_text_is_read_without_a_panic(noise in "\\PC*", bytes: Vec<u8>) {
        prop_assert!(read("shop", noise.as_bytes()).is_err());
        prop_assert!(read("shop", &bytes).is_err());
        let framed = ["e3v1.card.s.", &noise, "."].concat();
        prop_assert!(read("shop", framed.as_bytes()).is_err());
        prop_assert!(read("shop", &text("card", ValueType::String, &bytes)).is_err());
    }
}
