//! The HTTP API through real programs: curl calls it, a relay serves it, an engine decides.

#[path = "../src/proxied.rs"]
#[allow(dead_code, reason = "its CONNECT is for the tests of the outbound relay")]
mod proxied;

use std::net::SocketAddr;
use std::path::Path;

use e3_tests::client::{self, Answer};
use e3_tests::engine_double::{Behaviour, EngineDouble, token_of};
use e3_tests::port;
use e3_tests::stack::{Engine, Relay, folder};
use e3_wire::{Direction, Refusal, RequestRefusal};
use proxied::{TestCa, curl};

const KEY: &str = "e3k-Zq7pR2vN8wX1sT5uY9aB3cD4eF6gH0jK";

/// Every kind of leaf, and white space, escapes, duplicate names and digits that a parser would lose.
const BODY: &str = "{ \"text\" : \"x\u{e9} \\n\\u00e9\" ,\t\"n\":1.10,\"big\":1E400, \"list\": [ \"\", 0, -0.0, false,{ }, [],null ]\r\n, \"text\":\"again\",\
                    \"lone\":\"\\ud800\", \"sl\":\"a\\/b\", \"true\":true }\n";

fn rules(endpoint: &str, listen: SocketAddr, more: &str) -> String {
    format!(
        "engine: {{endpoints: [\"{endpoint}\"], app: shop, development: true, timeout: 5s}}\napi:\n  listen: {listen}\n{more}"
    )
}

/// A policy under which the key may do everything that the tests do.
fn policy() -> String {
    let hash = e3_enclave::policy::api_key_hash(KEY).iter().map(|b| format!("{b:02x}")).collect::<String>();
    format!(
        "version: 1\napp: shop\nroles: {{any: {{}}, c: {{}}, d: {{}}, bad: {{}}, card: {{}}, card-number: {{}}, good: {{}}, rest: {{}}, other: {{}}, email: {{deterministic: true}}, phone: {{deterministic: true}}}}\n\
         principals: {{caller: {{api_key: 'sha256:{hash}'}}}}\n\
         grants: [{{who: caller, may: [seal, seal-deterministic, keep, open, inspect, rewrap, public-key], roles: '*'}}]\n"
    )
}

struct Api {
    relay: Relay,
    address: SocketAddr,
}

impl Api {
    fn start(folder: &Path, endpoint: &str, more: &str) -> Self {
        Self::start_filtered(folder, endpoint, more, None)
    }

    fn start_filtered(folder: &Path, endpoint: &str, more: &str, filter: Option<&str>) -> Self {
        let address = port::free();
        let relay = Relay::start_filtered(folder, "relay", &rules(endpoint, address, more), filter);
        relay.wait_ready();
        Self { relay, address }
    }

    fn url(&self, target: &str) -> String {
        format!("http://{}{target}", self.address)
    }

    fn call(&self, target: &str, body: &str) -> Answer {
        curl(&["-H", &format!("Authorization: Bearer {KEY}")], &self.url(target), Some(body))
    }

    /// The body of a call that is answered with 200.
    fn done(&self, target: &str, body: &str) -> String {
        let answer = self.call(target, body);
        assert_eq!(answer.status, 200, "{target}: {}", answer.text());
        assert_eq!(answer.header("content-type"), Some("application/json"));
        assert_eq!(answer.header("cache-control"), Some("no-store"), "{target}");
        answer.text().to_owned()
    }

    /// A call that is refused: its status, code and path.
    fn refused(&self, target: &str, body: &str) -> (u16, String, Option<String>) {
        problem(&self.call(target, body))
    }
}

fn problem(answer: &Answer) -> (u16, String, Option<String>) {
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{}", answer.head);
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    let problem: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
    assert_eq!(problem["status"], answer.status);
    assert!(answer.header("x-request-id").is_some_and(|id| problem["request_id"] == id), "{}", answer.head);
    let text = |name: &str| problem[name].as_str().map(str::to_owned);
    (answer.status, text("code").expect("a code"), text("path"))
}

/// The tokens of a body, in order.
fn tokens(body: &str) -> Vec<String> {
    body.split('"').filter(|part| part.starts_with("e3v1.")).map(str::to_owned).collect()
}

#[test]
fn every_leaf_of_a_body_comes_back_through_the_api_byte_for_byte() {
    let folder = folder();
    let engine = Engine::start_under(folder.path(), &policy());
    let api = Api::start(folder.path(), &engine.endpoint(), "");
    let sealed = api.done("/v1/seal?role=any", BODY);
    let found = tokens(&sealed);
    let types: String = found.iter().map(|token| token.split('.').nth(2).expect("a type")).collect();
    // Strings whose escapes another writer would write differently, and lone surrogates, keep their JSON text.
    assert_eq!(types, "jnnsnnbzsjjb", "{sealed}");
    // The shape is the same: put marks in the place of tokens and of leaves.
    let mut marked = sealed.clone();
    for token in &found {
        marked = marked.replacen(&format!("\"{token}\""), "_", 1);
    }
    let shape = "{ \"text\" : _ ,\t\"n\":_,\"big\":_, \"list\": [ _, _, _, _,{ }, [],_ ]\r\n, \"text\":_,\"lone\":_, \"sl\":_, \"true\":_ }\n";
    assert_eq!(marked, shape);
    assert_eq!(api.done("/v1/open", &sealed), BODY);
    assert_eq!(api.done("/v1/open?roles=other,any", &sealed), BODY);
    for leaf in ["\"\"", "\"text\"", "0", "-1.50e-7", "true", "false", "null", " \"\\u0041\" "] {
        let sealed = api.done("/v1/seal?role=any", leaf);
        assert!(sealed.trim().starts_with("\"e3v1.any."), "{sealed}");
        assert_eq!(api.done("/v1/open", &sealed), leaf);
    }
    assert_eq!(api.done("/v1/seal?role=any", " { } "), " { } ");
}

#[test]
fn selectors_choose_values_and_their_roles() {
    let folder = folder();
    let engine = Engine::start_under(folder.path(), &policy());
    let api = Api::start(folder.path(), &engine.endpoint(), "");
    let body = r#"{"card":{"number":"4111","cvc":123},"email":"a@b.example","note":"plain"}"#;
    let target =
        "/v1/seal?select=%24.card.number:card-number&select=%24.email:email:deterministic&select=%24..cvc&role=rest";
    let (one, two) = (api.done(target, body), api.done(target, body));
    let roles: Vec<String> =
        tokens(&one).iter().map(|token| token.split('.').nth(1).expect("a role").to_owned()).collect();
    assert_eq!(roles, ["card-number", "rest", "email"]);
    assert!(one.ends_with(r#","note":"plain"}"#), "{one}");
    assert_eq!(tokens(&one)[2], tokens(&two)[2], "deterministic");
    assert_ne!(tokens(&one)[0], tokens(&two)[0], "not deterministic");
    assert_eq!(api.done("/v1/open", &one), body);
    let opened = api.done("/v1/open?select=%24.email", &one);
    assert!(opened.contains(r#""email":"a@b.example""#) && tokens(&opened).len() == 2, "{opened}");
    // A container stands for its leaves, and one leaf has one role.
    assert_eq!(tokens(&api.done("/v1/seal?select=%24.card:c", body)).len(), 2);
    assert_eq!(tokens(&api.done("/v1/seal?select=%24.card:c&select=%24.card.cvc:c", body)).len(), 2);
    let conflict = api.refused("/v1/seal?select=%24.card:c&select=%24.card.cvc:d", body);
    assert_eq!(conflict, (422, "body/conflict".into(), Some("$['card']['cvc']".into())));
    // Sealed twice unless tokens are kept, and only genuine ones are.
    let kept = api.done("/v1/seal?role=rest&tokens=keep&select=%24..cvc", &one);
    assert_eq!(kept, one);
    assert_ne!(api.done("/v1/seal?role=rest&select=%24..cvc", &one), one);
    let forged = format!("\"{}\"", token_of("rest", 's', "0123456789"));
    assert_eq!(api.done("/v1/open", &api.done("/v1/seal?role=rest&tokens=keep", &forged)), forged);
}

#[test]
fn one_refused_token_refuses_the_call_and_is_named_by_its_path_alone() {
    let folder = folder();
    let engine = Engine::start_under(folder.path(), &policy());
    let api = Api::start(folder.path(), &engine.endpoint(), "");
    let sealed = api.done("/v1/seal?select=%24.a:good&select=%24.b:bad", r#"{"a":"one","b":["two"],"c":"three"}"#);
    let role = api.refused("/v1/open?roles=good", &sealed);
    assert_eq!(role, (403, "token/role".into(), Some("$['b'][0]".into())));
    let left = api.done("/v1/open?roles=good&on_refused=leave", &sealed);
    assert!(left.starts_with(r#"{"a":"one","b":["e3v1.bad.s."#), "{left}");
    // A forged token is no token of ours.
    let forged = token_of("good", 's', "0123456789");
    let body = format!(r#"{{"it's":[1,{{"":"{forged}"}}]}}"#);
    for verb in ["open", "inspect"] {
        let answer = api.call(&format!("/v1/{verb}"), &body);
        assert_eq!(problem(&answer), (422, "token/not-authentic".into(), Some(r"$['it\'s'][1]['']".into())));
        assert!(!answer.text().contains("e3v1"), "{}", answer.text());
        assert_eq!(api.done(&format!("/v1/{verb}?on_refused=leave"), &body), body);
    }
    // Text around a token makes it none: only whole strings are.
    let around = format!(r#"["x {forged}", "{forged} "]"#);
    assert_eq!(api.done("/v1/open", &around), around);
}

#[test]
fn inspect_tells_of_tokens_without_their_values_and_rewrap_keeps_them() {
    let folder = folder();
    let engine = Engine::start_under(folder.path(), &policy());
    let api = Api::start(folder.path(), &engine.endpoint(), "");
    let sealed =
        api.done("/v1/seal?select=%24.a:card&select=%24.e:email:deterministic", r#"{"a":41.10,"e":"x","c":"4111"}"#);
    let known: serde_json::Value = serde_json::from_str(&api.done("/v1/inspect", &sealed)).expect("JSON");
    assert_eq!(
        (&known["a"]["role"], &known["a"]["type"], &known["a"]["suite"]),
        (&"card".into(), &"number".into(), &1.into())
    );
    assert!(known["a"]["time"].as_u64().is_some_and(|time| time > 1_700_000_000), "{known}");
    assert!(known["a"]["age"].as_u64().is_some_and(|age| age < 600), "{known}");
    assert!(known["a"]["kid"].is_u64() && known["c"] == "4111", "{known}");
    assert_eq!((&known["e"]["suite"], &known["e"]["time"], &known["e"]["age"]), (&3.into(), &().into(), &().into()));
    // What the engine makes of tokens is tried with one that makes others.
    let double = EngineDouble::start(Behaviour::Honest);
    let below = folder.path().join("double");
    std::fs::create_dir(&below).expect("a folder");
    let api = Api::start(&below, &double.endpoint(), "");
    let (old, other) = (token_of("card", 's', "4111"), token_of("cvc", 'n', "123"));
    let body = format!(r#"{{ "a":"{old}","b":[ "{other}",4 ], "text":"{old} " }}"#);
    let new = api.done("/v1/rewrap", &body);
    assert!(!new.contains(&other) && new.matches(&*old).count() == 1, "{new}");
    assert_eq!(api.done("/v1/open", &new), format!(r#"{{ "a":"4111","b":[ 123,4 ], "text":"{old} " }}"#));
    let one = api.done("/v1/rewrap?select=%24.b", &body);
    assert!(one.contains(&format!(r#""a":"{old}""#)) && !one.contains(&other), "{one}");
}

#[test]
fn a_call_without_a_key_or_with_one_that_the_engine_does_not_know_gets_nothing() {
    let folder = folder();
    let double = EngineDouble::start(Behaviour::Demands(KEY));
    let api = Api::start(folder.path(), &double.endpoint(), "  forwarded: {trust: [127.0.0.1]}\n");
    let asked = double.requests();
    let none = curl(&[], &api.url("/v1/seal?role=a"), Some("1"));
    assert_eq!(problem(&none), (401, "api/key".into(), None));
    assert!(none.header("www-authenticate").is_some_and(|how| how.contains("Bearer")), "{}", none.head);
    for bad in ["Bearer", "Digest x", "Bearer a b"] {
        let answer = curl(&["-H", &format!("Authorization: {bad}")], &api.url("/v1/open"), Some("1"));
        assert_eq!(problem(&answer).1, "api/key", "{bad}");
    }
    assert_eq!(double.requests(), asked, "the engine was not asked");
    let unknown = curl(&["-u", "someone:e3k-other"], &api.url("/v1/seal?role=a"), Some("1"));
    assert_eq!(problem(&unknown), (401, "engine/unknown-key".into(), None));
    assert!(unknown.header("www-authenticate").is_some());
    for known in [
        vec!["-u", concat!("someone:", "e3k-Zq7pR2vN8wX1sT5uY9aB3cD4eF6gH0jK")],
        vec!["-u", concat!("e3k-Zq7pR2vN8wX1sT5uY9aB3cD4eF6gH0jK", ":")],
    ] {
        let answer = curl(
            &[&known[..], &["-H", "X-Forwarded-For: 203.0.113.9"]].concat(),
            &api.url("/v1/seal?role=a"),
            Some("1"),
        );
        assert_eq!((answer.status, answer.text()), (200, &*format!("\"{}\"", token_of("a", 'n', "1"))));
    }
    let seen = double.last().expect("a request");
    assert_eq!(
        (seen.direction, &*seen.source, &*seen.method, &*seen.credential),
        (Direction::Api, "203.0.113.9", "POST", KEY)
    );
    // What the engine says comes through: who may not, and who asks too much.
    for (behaviour, status, code) in [
        (Behaviour::RefusesItems(Refusal::NotPermitted), 403, "engine/not-permitted"),
        (Behaviour::RefusesItems(Refusal::RateLimited), 503, "engine/rate"),
        (Behaviour::RefusesItems(Refusal::TooOld), 403, "token/too-old"),
        (Behaviour::RefusesRequests(RequestRefusal::NoPolicy), 503, "engine/no-policy"),
        (Behaviour::RefusesRequests(RequestRefusal::AuditUnavailable), 503, "engine/audit"),
        (Behaviour::KeepsEverything, 503, "engine/answer"),
        (Behaviour::WrongRole, 503, "engine/answer"),
        (Behaviour::TokenThatBreaksOut, 503, "engine/answer"),
        (Behaviour::TooFewResults, 503, "engine/answer"),
        (Behaviour::TooManyResults, 503, "engine/answer"),
        (Behaviour::Closes, 503, "engine/unavailable"),
    ] {
        double.behave(behaviour);
        let answer = api.call("/v1/seal?role=a", r#"["secret"]"#);
        let (was, said, path) = problem(&answer);
        assert_eq!((was, &*said), (status, code), "{behaviour:?}");
        assert_eq!(
            path.is_some(),
            matches!(
                behaviour,
                Behaviour::RefusesItems(_)
                    | Behaviour::KeepsEverything
                    | Behaviour::WrongRole
                    | Behaviour::TokenThatBreaksOut
            ),
            "{behaviour:?}"
        );
        assert!(!answer.text().contains("secret"));
        assert_eq!(status == 503, answer.header("retry-after").is_some());
        double.behave(Behaviour::Honest);
        api.relay.wait_ready();
    }
}

#[test]
fn what_is_no_call_is_refused_with_its_cause() {
    let folder = folder();
    let double = EngineDouble::start(Behaviour::Honest);
    let api = Api::start(folder.path(), &double.endpoint(), "  limits: {body: 100KiB}\n");
    let asked = double.requests();
    let deep = format!("{}1{}", "[".repeat(129), "]".repeat(129));
    let many = format!("[{}1]", "1,".repeat(65_536).trim_end_matches(' '));
    for (target, body, status, code) in [
        ("/v1/seal?role=a", "", 400, "body/json"),
        ("/v1/seal?role=a", "{\"a\":01}", 400, "body/json"),
        ("/v1/seal?role=a", "[1] [2]", 400, "body/json"),
        ("/v1/seal?role=a", "\u{feff}1", 400, "body/json"),
        ("/v1/seal?role=a", &deep, 400, "body/json"),
        ("/v1/seal?role=a", &"7".repeat(100 * 1024 + 1), 413, "body/too-large"),
        ("/v1/seal", "1", 400, "api/query"),
        ("/v1/seal?role=A", "1", 400, "api/query"),
        ("/v1/seal?role=a&role=a", "1", 400, "api/query"),
        ("/v1/seal?role=a&roles=a", "1", 400, "api/query"),
        ("/v1/seal?select=%24.a", "1", 400, "api/query"),
        ("/v1/seal?select=a:b", "1", 400, "api/query"),
        (&format!("/v1/open?select=%24.{}", "a".repeat(1024)), "1", 400, "api/query"),
        ("/v1/open?select=%24%5B?match(@.a,'(a%7B90%7D)%7B90%7D')%5D", "1", 400, "api/query"),
        ("/v1/open?role=a", "1", 400, "api/query"),
        ("/v1/open?on_refused=maybe", "1", 400, "api/query"),
        ("/v1/keys/public?role=a", "1", 405, "api/method"),
        ("/v1/sea", "1", 404, "api/path"),
        ("/v1/seal/", "1", 404, "api/path"),
        ("/v1/%73eal?role=a", "1", 404, "api/path"),
        ("/", "1", 404, "api/path"),
    ] {
        let (was, said, path) = api.refused(target, body);
        assert_eq!((was, &*said, path), (status, code, None), "{target} {}", &body[..body.len().min(80)]);
    }
    assert!(api.call("/v1/seal?role=a", "{\"a\":01}").text().contains("at byte"));
    assert!(api.call("/v1/seal?select=%24.a:b&select=%24%5B:b", "1").text().contains("`select` number 2, at byte"));
    let bearer = format!("Authorization: Bearer {KEY}");
    let get = curl(&["-H", &bearer], &api.url("/v1/seal?role=a"), None);
    assert_eq!((problem(&get).0, get.header("allow")), (405, Some("POST")));
    for (more, code) in [
        ("Content-Type: text/plain", "body/media-type"),
        ("Content-Type: application/x-www-form-urlencoded", "body/media-type"),
        ("Content-Type: application/json; charset=latin1", "body/media-type"),
        ("Content-Type: application/x-ndjson", "body/media-type"),
    ] {
        let answer = curl(&["-H", &bearer, "-H", more, "--data-binary", "1"], &api.url("/v1/seal?role=a"), None);
        assert_eq!(problem(&answer), (415, code.into(), None), "{more}");
    }
    let coded = curl(&["-H", &bearer, "-H", "Content-Encoding: gzip"], &api.url("/v1/seal?role=a"), Some("1"));
    assert_eq!(problem(&coded), (415, "body/content-coding".into(), None));
    // The same gate as at sites.
    let mut raw = client::Connection::open(api.address);
    raw.send(b"POST /v1/seal?role=a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n")
        .expect("sent");
    assert_eq!(raw.answer().expect("an answer").status, 400);
    let connect = curl(&["-X", "CONNECT"], &api.url("/v1/seal"), None);
    assert!((400..500).contains(&connect.status), "{}", connect.head);
    assert_eq!(double.requests(), asked, "the engine was not asked");
    // More values than one engine call takes, in a body that is not too large.
    let larger = folder.path().join("larger");
    std::fs::create_dir(&larger).expect("a folder");
    let roomy = Api::start(&larger, &double.endpoint(), "");
    let mut raw = client::Connection::open(roomy.address);
    let head = format!(
        "POST /v1/seal?role=a HTTP/1.1\r\nHost: x\r\n{bearer}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        many.len()
    );
    raw.send(&[head.as_bytes(), many.as_bytes()].concat()).expect("sent");
    let answer = raw.answer().expect("an answer");
    assert_eq!(problem(&answer), (413, "body/too-many-values".into(), Some("$[65536]".into())));
    assert_eq!(double.requests(), asked, "the engine was not asked");
}

#[test]
fn keys_for_sealing_without_a_secret_are_told() {
    let folder = folder();
    let double = EngineDouble::start(Behaviour::Demands(KEY));
    let api = Api::start(folder.path(), &double.endpoint(), "");
    let bearer = format!("Authorization: Bearer {KEY}");
    let answer = curl(&["-H", &bearer], &api.url("/v1/keys/public?role=card"), None);
    let key: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
    assert_eq!(
        (answer.status, &key["kid"], &key["suite"], &key["role"], &key["app"]),
        (200, &1.into(), &2.into(), &"card".into(), &"shop".into())
    );
    assert_eq!(key["public_key"], "CQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQkJCQk");
    assert_eq!(problem(&curl(&[], &api.url("/v1/keys/public?role=card"), None)).1, "api/key");
}

#[test]
fn the_api_is_served_over_tls_and_http2_and_says_what_it_is() {
    let (folder, ca) = (folder(), TestCa::new());
    let double = EngineDouble::start(Behaviour::Demands(KEY));
    let tls = ca.site(folder.path(), "api.shop.example");
    let more = format!("  tls: {{{tls}, hsts: {{max_age: 365d}}}}\n  plaintext: false\n");
    let api = Api::start(folder.path(), &double.endpoint(), &more);
    let (url, authority) =
        (format!("https://api.shop.example:{}", api.address.port()), folder.path().join("site-ca.pem"));
    let resolve = format!("api.shop.example:{}:127.0.0.1", api.address.port());
    let (authority, bearer) = (authority.display().to_string(), format!("Authorization: Bearer {KEY}"));
    for version in ["--http1.1", "--http2"] {
        let arguments = ["--cacert", &authority, "--resolve", &resolve, version, "-H", &bearer];
        let answer = curl(&arguments, &format!("{url}/v1/seal?role=a"), Some("[true]"));
        assert_eq!(answer.text(), format!("[\"{}\"]", token_of("a", 'b', "true")));
        assert_eq!(answer.head.starts_with("HTTP/2"), version == "--http2");
        assert!(answer.header("strict-transport-security").is_some());
    }
    // The document needs no key; it is the one that is kept beside the schemas.
    let document = curl(&["--cacert", &authority, "--resolve", &resolve], &format!("{url}/openapi.json"), None);
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../config/schema/openapi.json");
    assert_eq!(document.text(), std::fs::read_to_string(kept).expect("the kept document"));
}

#[test]
fn neither_keys_nor_values_are_in_what_the_api_leaves_behind() {
    let folder = folder();
    let mut engine = Engine::start_under(folder.path(), &policy());
    let api = Api::start_filtered(folder.path(), &engine.endpoint(), "", Some("trace"));
    let secret = "4929-4555-6622-1187";
    let sealed = api.done("/v1/seal?role=card", &format!(r#"{{"card":"{secret}"}}"#));
    assert!(api.done("/v1/open", &sealed).contains(secret));
    api.refused("/v1/seal?role=card", &format!(r#"{{"card":"{secret}""#));
    api.refused("/v1/open?roles=other", &sealed);
    let unknown =
        curl(&["-H", &format!("Authorization: Digest {KEY}")], &api.url("/v1/open"), Some(&format!("\"{secret}\"")));
    assert_eq!(unknown.status, 401);
    let admin = api.relay.admin();
    let told = [client::get(admin, "/metrics"), client::get(admin, "/status")];
    let metrics = told[0].text();
    assert!(
        metrics.contains(r#"e3_relay_requests_total{outcome="ok",rule="seal",side="api",site="api",status="200"} 1"#),
        "{metrics}"
    );
    assert!(metrics.contains(r#"outcome="token/role",rule="open",side="api",site="api",status="403"} 1"#), "{metrics}");
    let mut left: Vec<String> = told.iter().map(|answer| answer.text().to_owned()).collect();
    left.push(std::fs::read_to_string(folder.path().join("relay/relay.log")).expect("the relay's log"));
    left.push(engine.process().log());
    left.push(std::fs::read_to_string(folder.path().join("audit.log")).expect("the audit"));
    assert!(left[2].contains("token/role"), "the log tells of the refusal");
    for text in &left {
        for kept in [secret, KEY, sealed.split('"').nth(3).expect("a token")] {
            assert!(
                !text.contains(kept),
                "found {kept} in {}",
                &text[text.find(kept).unwrap_or(0).saturating_sub(300)..][..400]
            );
        }
    }
}
