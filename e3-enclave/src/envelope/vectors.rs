//! The frozen vectors of SPEC.md: `tests/conformance/data/vectors/tokens.json`. Sealing with a given salt and time exists only here, in a module
//! that is compiled for unit tests alone: a salt used twice under one key gives away the exclusive or of two values.
//!
//! The file is checked, never written, unless `E3_WRITE_VECTORS` names the path to write it to; a change of it is a change of the format.

use super::format::{Header, MessageKey, PREAMBLE, PUBLIC_PREAMBLE, SALT, Suite, public_info};
use super::open::Authentic;
use super::salt::Salt;
use super::seal::{encrypt, encrypt_to_public};
use crate::keyring::pair::Seed;
use crate::keyring::{AppKey, Keyring, Lineage, hex};
use base64ct::{Base64UrlUnpadded, Encoding};
use e3_wire::{App, Role, TokenText, ValueType, token};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/conformance/data/vectors/tokens.json");
const TIME: u32 = 1_767_225_600;
const KEYS: [(u32, &str, Lineage); 8] = [
    (1, "shop", Lineage::Random),
    (2, "shop", Lineage::Deterministic),
    (3, "bank", Lineage::Random),
    (4, "bank", Lineage::Deterministic),
    (0x0102_0304, "shop", Lineage::Random),
    (5, "shop", Lineage::Public),
    (6, "bank", Lineage::Public),
    (7, "shop", Lineage::Public),
];

fn key_bytes(kid: u32) -> [u8; 32] {
    Sha256::digest(format!("e3v1 test key {kid}")).into()
}

fn app(name: &str) -> App {
    App::parse(name).unwrap()
}

fn role(name: &str) -> Role {
    Role::parse(name).unwrap()
}

fn keyring() -> Keyring {
    Keyring::known(KEYS.map(|(kid, name, lineage)| AppKey::known(kid, app(name), lineage, key_bytes(kid))).into())
}

/// What a token is made of, laid open.
#[derive(Clone, Copy)]
struct Recipe<'a> {
    name: &'a str,
    app: &'a str,
    role: &'a str,
    ty: ValueType,
    suite: Suite,
    kid: u32,
    time: u32,
    value: &'a [u8],
}

const PLAIN: Recipe<'static> = Recipe {
    name: "string",
    app: "shop",
    role: "card-number",
    ty: ValueType::String,
    suite: Suite::Random,
    kid: 1,
    time: TIME,
    value: b"4111111111111111",
};

const PUBLIC: Recipe<'static> = Recipe { name: "public key, string", suite: Suite::Public, kid: 5, ..PLAIN };

struct Made {
    token: String,
    binary: Vec<u8>,
    header: Vec<u8>,
    /// What the ciphertext came from.
    from: Vec<(&'static str, Vec<u8>)>,
}

impl Recipe<'_> {
    /// Seals without any check, so that contents no engine would seal can be made.
    fn make(&self) -> Made {
        let (app, role) = (app(self.app), role(self.role));
        let (_, owner, lineage) = KEYS.into_iter().find(|k| k.0 == self.kid).unwrap();
        let key = AppKey::known(self.kid, super::vectors::app(owner), lineage, key_bytes(self.kid));
        let header = Header::new(role, self.ty, self.suite, self.kid, self.time);
        let mut binary = Vec::new();
        let from = match (self.suite, key.deterministic(), key.pair()) {
            (Suite::Public, _, Some(pair)) => {
                let ephemeral: [u8; 32] = Sha256::digest(format!("e3v1 test ephemeral {}", self.name)).into();
                let seed = Seed::known(ephemeral);
                encrypt_to_public(&key, app, &header, self.time, seed, self.value, &mut binary).unwrap();
                let enc = binary[9..PUBLIC_PREAMBLE].to_vec();
                vec![
                    ("public", pair.public().to_vec()),
                    ("info", public_info(app)),
                    ("ephemeral", ephemeral.into()),
                    ("enc", enc),
                ]
            }
            (_, det, _) => {
                let salt = match (self.suite, det) {
                    (Suite::Deterministic, Some(det)) => Salt::deterministic(det, app, role, self.ty, self.value),
                    _ => {
                        let digest = Sha256::digest(format!("e3v1 test salt {}", self.name));
                        Salt(digest[..SALT].try_into().unwrap())
                    }
                };
                encrypt(&key, app, &header, (self.suite, self.time), salt, self.value, &mut binary).unwrap();
                let okm = MessageKey::derive(key.secret(), app, &header, &salt.0).okm().to_vec();
                vec![("salt", salt.0.into()), ("okm", okm)]
            }
        };
        Made { token: text(role, self.ty, &binary), binary, header: header.as_bytes().to_vec(), from }
    }
}

fn text(role: Role, ty: ValueType, binary: &[u8]) -> String {
    let mut out = Vec::new();
    token::write(role, ty, binary, &mut out);
    String::from_utf8(out).unwrap()
}

fn positive() -> Vec<Value> {
    use ValueType::{Bool, Json, Null, Number, String};
    let large = "0123456789".repeat(7_000);
    let det = |name, role, value| Recipe { name, role, suite: Suite::Deterministic, kid: 2, time: 0, value, ..PLAIN };
    let of = |name, ty, value| Recipe { name, ty, value, ..PLAIN };
    let public = |name, ty, value| Recipe { name, ty, value, ..PUBLIC };
    let recipes = [
        PLAIN,
        of("empty string", String, b""),
        of("unicode string", String, "Zoë 漢字 🔑 \u{0}\u{7f}\"\\".as_bytes()),
        of("number", Number, b"1.10"),
        of("large number", Number, b"-1E400"),
        of("true", Bool, b"true"),
        of("false", Bool, b"false"),
        of("null", Null, b"null"),
        of("object", Json, br#"{"a": [1.0, "\ud800"], "a": null}"#),
        of("string as its JSON text", Json, br#""\u0041\/""#),
        of("70,000 bytes", String, large.as_bytes()),
        Recipe { role: "a", ..of("shortest role", String, b"x") },
        Recipe { role: "a2345678901234567-90", ..of("longest role", String, b"x") },
        Recipe { kid: 0x0102_0304, time: u32::MAX, ..of("second key, last time", String, b"x") },
        Recipe { app: "bank", kid: 3, ..of("another app", String, b"4111111111111111") },
        det("deterministic string", "email", b"ada@example.com"),
        det("deterministic empty string", "email", b""),
        det("deterministic, another role", "login", b"ada@example.com"),
        Recipe { ty: Number, ..det("deterministic number", "email", b"42") },
        Recipe { app: "bank", kid: 4, ..det("deterministic, another app", "email", b"ada@example.com") },
        Recipe { ty: Json, ..det("deterministic object", "email", br#"{"a":1}"#) },
        det("deterministic 70,000 bytes", "email", large.as_bytes()),
        PUBLIC,
        public("public key, empty string", String, b""),
        public("public key, unicode string", String, "Zoë 漢字 🔑".as_bytes()),
        public("public key, number", Number, b"1.10"),
        public("public key, true", Bool, b"true"),
        public("public key, null", Null, b"null"),
        public("public key, object", Json, br#"{"a":1}"#),
        public("public key, 70,000 bytes", String, large.as_bytes()),
        Recipe { role: "a2345678901234567-90", ..public("public key, longest role", String, b"x") },
        Recipe { time: 0, ..public("public key, first time", String, b"x") },
        Recipe { kid: 7, time: u32::MAX, ..public("public key, second key, last time", String, b"x") },
        Recipe { app: "bank", kid: 6, ..public("public key, another app", String, b"4111111111111111") },
    ];
    recipes.iter().map(describe).collect()
}

fn describe(recipe: &Recipe<'_>) -> Value {
    let made = recipe.make();
    let mut vector = json!({
        "name": recipe.name, "app": recipe.app, "role": recipe.role, "type": char::from(recipe.ty.letter()).to_string(),
        "suite": recipe.suite as u8, "kid": recipe.kid, "time": recipe.time,
        "header": hex(&made.header),
    });
    let fields = vector.as_object_mut().unwrap();
    fields.extend(made.from.iter().map(|(name, bytes)| ((*name).to_owned(), hex(bytes).into())));
    if recipe.value.len() > 1_000 {
        fields.insert("value_repeated".into(), json!({"text": "0123456789", "times": recipe.value.len() / 10}));
        fields.insert("token_length".into(), made.token.len().into());
        fields.insert("token_sha256".into(), hex(&Sha256::digest(&made.token)).into());
    } else {
        fields.insert("value".into(), std::str::from_utf8(recipe.value).unwrap().into());
        fields.insert("token".into(), made.token.into());
    }
    vector
}

/// Every fault that a token can have, each by its name.
fn negative() -> Vec<(&'static str, &'static str, String)> {
    use ValueType::{Bool, Json, Null, Number, String};
    let good = PLAIN.make();
    let altered = |at: usize, bit: u8| {
        let mut binary = good.binary.clone();
        binary[at] ^= bit;
        text(role(PLAIN.role), PLAIN.ty, &binary)
    };
    let replaced = |at: usize, bytes: &[u8]| {
        let mut binary = good.binary.clone();
        binary[at..at + bytes.len()].copy_from_slice(bytes);
        text(role(PLAIN.role), PLAIN.ty, &binary)
    };
    let content = |ty, value| Recipe { name: "content", ty, value, ..PLAIN }.make().token;
    let deep = format!("{}{}", "[".repeat(129), "]".repeat(129));
    let body = good.token.strip_prefix("e3v1.card-number.s.").unwrap().strip_suffix('.').unwrap();
    let last = good.binary.len() - 1;
    let shop = |fault, token| (fault, "shop", token);
    vec![
        shop("role changed in the text", format!("e3v1.card-cvc.s.{body}.")),
        shop("type changed in the text", format!("e3v1.card-number.n.{body}.")),
        shop("type changed to JSON", format!("e3v1.card-number.j.{body}.")),
        shop("unknown type", format!("e3v1.card-number.x.{body}.")),
        shop("unknown prefix", format!("e3v2.card-number.s.{body}.")),
        shop("upper-case prefix", format!("E3v1.card-number.s.{body}.")),
        shop("upper-case role", format!("e3v1.Card-number.s.{body}.")),
        shop("empty role", format!("e3v1..s.{body}.")),
        shop("role of 21 characters", format!("e3v1.a23456789012345678901.s.{body}.")),
        shop("no dot at the end", format!("e3v1.card-number.s.{body}")),
        shop("bytes after the end", format!("{} ", good.token)),
        shop("bytes before the start", format!(" {}", good.token)),
        shop("two tokens", format!("{0}{0}", good.token)),
        shop("base64 padding", format!("e3v1.card-number.s.{body}=.")),
        shop("base64 of the other alphabet", format!("e3v1.card-number.s.{}+/.", &body[..body.len() - 2])),
        shop("base64 with unused bits set", unused_bits()),
        shop("base64 of impossible length", format!("e3v1.card-number.s.{}.", impossible_length(body))),
        shop("empty binary", "e3v1.card-number.s..".into()),
        shop("binary too short for its fields", text(role("card-number"), String, &good.binary[..80])),
        shop("truncated by one byte", text(role("card-number"), String, &good.binary[..last])),
        shop("one byte longer", text(role("card-number"), String, &[&good.binary[..], &[0]].concat())),
        shop("suite 0", replaced(0, &[0])),
        shop("suite 2, which is another layout", replaced(0, &[2])),
        shop("suite 3 for 1", replaced(0, &[3])),
        shop("suite 4", replaced(0, &[4])),
        shop("unknown kid", replaced(1, &9u32.to_be_bytes())),
        shop("kid of another key of the app", replaced(1, &0x0102_0304u32.to_be_bytes())),
        shop("kid of another lineage", replaced(1, &2u32.to_be_bytes())),
        shop("kid of another app", replaced(1, &3u32.to_be_bytes())),
        shop("time changed", replaced(5, &(TIME + 1).to_be_bytes())),
        shop("salt altered", altered(9, 1)),
        shop("commitment altered in its first bit", altered(33, 0x80)),
        shop("commitment altered in its last bit", altered(64, 1)),
        shop("ciphertext altered", altered(PREAMBLE, 1)),
        shop("tag altered in its first bit", altered(last - 15, 0x80)),
        shop("tag altered in its last bit", altered(last, 1)),
        ("token of another app", "bank", good.token.clone()),
        shop("token of another app, read here", Recipe { app: "bank", kid: 3, ..PLAIN }.make().token),
        shop("sealed for another app under this app's key", Recipe { app: "bank", ..PLAIN }.make().token),
        shop("suite 1 under a deterministic key", Recipe { kid: 2, ..PLAIN }.make().token),
        shop("suite 3 under a random key", Recipe { suite: Suite::Deterministic, time: 0, ..PLAIN }.make().token),
        shop("suite 3 with a time", Recipe { suite: Suite::Deterministic, kid: 2, ..PLAIN }.make().token),
        shop("content: string that is not UTF-8", content(String, b"\xff\xfe")),
        shop("content: number with a leading zero", content(Number, b"01")),
        shop("content: number with a space", content(Number, b"1 ")),
        shop("content: two numbers", content(Number, b"1,2")),
        shop("content: NaN", content(Number, b"NaN")),
        shop("content: empty number", content(Number, b"")),
        shop("content: boolean in capitals", content(Bool, b"True")),
        shop("content: null as boolean", content(Bool, b"null")),
        shop("content: empty null", content(Null, b"")),
        shop("content: JSON with a trailing comma", content(Json, b"[1,]")),
        shop("content: JSON with white space around it", content(Json, b" 1")),
        shop("content: two JSON values", content(Json, b"1 2")),
        shop("content: JSON that injects a member", content(Json, br#"1,"admin":true"#)),
        shop("content: JSON with a raw line feed in a string", content(Json, b"\"\n\"")),
        shop("content: JSON that is not UTF-8", content(Json, b"\"\xff\"")),
        shop("content: JSON nested 129 deep", content(Json, deep.as_bytes())),
    ]
    .into_iter()
    .chain(negative_public())
    .collect()
}

/// The same of tokens that are sealed to a public key.
fn negative_public() -> Vec<(&'static str, &'static str, String)> {
    use ValueType::{Json, Number, String};
    let good = PUBLIC.make();
    let spelled = |binary: &[u8]| text(role(PUBLIC.role), PUBLIC.ty, binary);
    let altered = |at: usize, bit: u8| {
        let mut binary = good.binary.clone();
        binary[at] ^= bit;
        spelled(&binary)
    };
    let replaced = |at: usize, bytes: &[u8]| {
        let mut binary = good.binary.clone();
        binary[at..at + bytes.len()].copy_from_slice(bytes);
        spelled(&binary)
    };
    let content = |ty, value| Recipe { name: "public content", ty, value, ..PUBLIC }.make().token;
    let body = good.token.strip_prefix("e3v1.card-number.s.").unwrap().strip_suffix('.').unwrap();
    let last = good.binary.len() - 1;
    let shop = |fault, token| (fault, "shop", token);
    vec![
        shop("public key: role changed in the text", format!("e3v1.card-cvc.s.{body}.")),
        shop("public key: type changed to JSON", format!("e3v1.card-number.j.{body}.")),
        shop("public key: binary too short for its fields", spelled(&good.binary[..56])),
        shop("public key: truncated by one byte", spelled(&good.binary[..last])),
        shop("public key: one byte longer", spelled(&[&good.binary[..], &[0]].concat())),
        shop("public key: suite 1 for 2", replaced(0, &[1])),
        shop("public key: suite 3 for 2", replaced(0, &[3])),
        shop("public key: unknown kid", replaced(1, &9u32.to_be_bytes())),
        shop("public key: kid of another key of the lineage", replaced(1, &7u32.to_be_bytes())),
        shop("public key: kid of another lineage", replaced(1, &1u32.to_be_bytes())),
        shop("public key: kid of another app", replaced(1, &6u32.to_be_bytes())),
        shop("public key: time changed", replaced(5, &(TIME + 1).to_be_bytes())),
        shop("public key: encapsulated key altered", altered(9, 1)),
        // X25519 itself ignores this bit; what is derived from it does not.
        shop("public key: encapsulated key altered in the bit that X25519 ignores", altered(40, 0x80)),
        shop("public key: encapsulated key of zeroes, whose shared secret is zero", replaced(9, &[0; 32])),
        shop("public key: ciphertext altered", altered(PUBLIC_PREAMBLE, 1)),
        shop("public key: tag altered in its first bit", altered(last - 15, 0x80)),
        shop("public key: tag altered in its last bit", altered(last, 1)),
        ("public key: token of another app", "bank", good.token.clone()),
        shop("public key: sealed for another app under this app's key", Recipe { app: "bank", ..PUBLIC }.make().token),
        shop("content: public key, string that is not UTF-8", content(String, b"\xff\xfe")),
        shop("content: public key, number with a space", content(Number, b"1 ")),
        shop("content: public key, JSON that injects a member", content(Json, br#"1,"admin":true"#)),
    ]
}

/// A token whose base64url decodes leniently to the right binary: only its unused bits differ.
fn unused_bits() -> String {
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let good = Recipe { name: "unused bits", value: PLAIN.value, ..PLAIN }.make();
    assert_ne!(good.binary.len() % 3, 0, "no unused bits to set");
    let mut token = good.token.into_bytes();
    let at = token.len() - 2;
    let value = ALPHABET.iter().position(|c| *c == token[at]).unwrap();
    token[at] = ALPHABET[value | 1];
    String::from_utf8(token).unwrap()
}

/// A length of 4n + 1, which no bytes have.
fn impossible_length(body: &str) -> String {
    let whole = body.len() / 4 * 4;
    format!("{}A", &body[..whole])
}

fn generated() -> Value {
    let keys = KEYS.map(|(kid, app, lineage)| {
        json!({"kid": kid, "app": app, "lineage": lineage.to_string(), "key": hex(&key_bytes(kid))})
    });
    let negative: Vec<Value> =
        negative().into_iter().map(|(fault, app, token)| json!({"fault": fault, "app": app, "token": token})).collect();
    json!({
        "about": "Known answers for E3 tokens (SPEC.md). Bytes are lower-case hexadecimal. Every negative token must be refused for its app.",
        "keys": keys, "positive": positive(), "negative": negative,
    })
}

#[test]
fn tokens_are_the_frozen_ones() {
    let generated = generated();
    if let Ok(path) = std::env::var("E3_WRITE_VECTORS") {
        std::fs::write(path, serde_json::to_string_pretty(&generated).unwrap() + "\n").unwrap();
    }
    let frozen: Value = serde_json::from_str(&std::fs::read_to_string(FILE).unwrap()).unwrap();
    assert_eq!(frozen["keys"], generated["keys"]);
    for part in ["positive", "negative"] {
        let (old, new) = (frozen[part].as_array().unwrap(), generated[part].as_array().unwrap());
        assert_eq!(old.len(), new.len(), "{part}");
        for (old, new) in old.iter().zip(new) {
            assert_eq!(old, new);
        }
    }
}

#[test]
fn frozen_tokens_open_and_faulty_ones_do_not() {
    let keyring = keyring();
    let frozen: Value = serde_json::from_str(&std::fs::read_to_string(FILE).unwrap()).unwrap();
    let mut opened = 0;
    for vector in frozen["positive"].as_array().unwrap() {
        let (Some(token), Some(value)) = (vector["token"].as_str(), vector["value"].as_str()) else { continue };
        let genuine = Authentic::read(&keyring, app(vector["app"].as_str().unwrap()), token.as_bytes()).unwrap();
        assert_eq!(genuine.value(), value.as_bytes(), "{}", vector["name"]);
        assert_eq!(genuine.role().as_str(), vector["role"].as_str().unwrap());
        assert_eq!(u64::from(genuine.inspection().time), vector["time"].as_u64().unwrap());
        opened += 1;
    }
    assert_eq!(opened, 31);
    for vector in frozen["negative"].as_array().unwrap() {
        let (app, token) = (app(vector["app"].as_str().unwrap()), vector["token"].as_str().unwrap());
        assert!(Authentic::read(&keyring, app, token.as_bytes()).is_err(), "{}", vector["fault"]);
    }
    assert!(frozen["negative"].as_array().unwrap().len() >= 50);
}

#[test]
fn the_salt_of_a_deterministic_token_is_bound_and_not_computed_again() {
    let (app, role, ty) = (app("shop"), role("email"), ValueType::String);
    let key = AppKey::known(2, app, Lineage::Deterministic, key_bytes(2));
    let header = Header::new(role, ty, Suite::Deterministic, 2, 0);
    let mut binary = Vec::new();
    encrypt(&key, app, &header, (Suite::Deterministic, 0), Salt([7; SALT]), b"ada@example.com", &mut binary).unwrap();
    // A holder of the key chose another salt: the token is genuine, and its value comes back.
    let genuine = Authentic::read(&keyring(), app, text(role, ty, &binary).as_bytes()).unwrap();
    assert_eq!(genuine.value(), b"ada@example.com");
    // Whoever has no key cannot.
    binary[9] ^= 1;
    assert!(Authentic::read(&keyring(), app, text(role, ty, &binary).as_bytes()).is_err());
}

#[test]
fn a_byte_order_mark_is_a_character_of_a_string() {
    let sealed = Recipe { name: "byte order mark", value: "\u{feff}x".as_bytes(), ..PLAIN }.make().token;
    let opened = Authentic::read(&keyring(), app("shop"), sealed.as_bytes()).unwrap();
    assert_eq!(opened.value(), "\u{feff}x".as_bytes());
    let json = Recipe { name: "byte order mark", ty: ValueType::Json, value: "\u{feff}1".as_bytes(), ..PLAIN }.make();
    assert!(Authentic::read(&keyring(), app("shop"), json.token.as_bytes()).is_err());
}

#[test]
fn a_faulty_token_differs_from_its_good_one_only_in_its_fault() {
    // The lenient reading of the unused bits is the good binary: only canonicity refuses it.
    let token = unused_bits();
    let parsed = TokenText::parse(token.as_bytes()).unwrap();
    assert!(parsed.decode().is_err());
    let good = Recipe { name: "unused bits", value: PLAIN.value, ..PLAIN }.make();
    let cut = |t: &str| t[..t.len() - 2].to_owned();
    assert_eq!(cut(&token), cut(&good.token));
    assert!(Authentic::read(&keyring(), app("shop"), good.token.as_bytes()).is_ok());
    // Contents that no engine seals do authenticate: only their content refuses them.
    let bad = Recipe { name: "content", ty: ValueType::Json, value: b"[1,]", ..PLAIN }.make();
    assert!(Base64UrlUnpadded::decode_vec(TokenText::parse(bad.token.as_bytes()).unwrap().base64).is_ok());
    let fine = Recipe { name: "content", ty: ValueType::Json, value: b"[1]", ..PLAIN }.make();
    assert!(Authentic::read(&keyring(), app("shop"), fine.token.as_bytes()).is_ok());
}
