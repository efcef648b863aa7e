//! What happens to bodies on the way through both relays and a real engine.

use std::net::SocketAddr;

use e3_tests::backend::{Backend, answer};
use e3_tests::client::{Answer, Connection, json_request, once};
use e3_tests::port;
use e3_tests::stack::{Engine, Relay, folder};

const HOST: &str = "api.shop.example";

/// A shop behind the inbound relay, which opens what it seals on the way back where `/open` is asked.
struct Stack {
    _relay: Relay,
    _engine: Engine,
    backend: Backend,
    inbound: SocketAddr,
    outbound: SocketAddr,
    _folder: tempfile::TempDir,
}

impl Stack {
    fn start(backend: Backend) -> Self {
        let (folder, inbound, outbound) = (folder(), port::free(), port::free());
        let engine = Engine::start(folder.path());
        let rules = format!(
            r#"engine: {{endpoints: ["{engine}"], app: shop, timeout: 5s, development: true}}
inbound:
  - listen: {inbound}
    hosts: [{HOST}]
    backend: http://{backend}
    server_timing: true
    limits: {{body: 2MiB}}
    rules:
      - match: {{methods: [POST], path: /seal/**}}
        request:
          seal:
            - {{select: $.card.number, role: card-number}}
            - {{select: "$..cvc", role: card-cvc}}
            - {{select: $.email, role: email, deterministic: true}}
      - match: {{methods: [POST], path: /leaves}}
        request: {{seal: [{{select: $.whole, role: whole}}, {{select: $.leaves, role: leaf, each: true}}]}}
      - match: {{methods: [POST], path: /required}}
        request: {{seal: [{{select: $.must, role: must, required: true}}]}}
      - match: {{methods: [POST], path: /keep}}
        request: {{seal: [{{select: $.card.number, role: card-number, tokens: keep}}]}}
      - match: {{path: "/open/**"}}
        response:
          open: [{{anywhere: true, roles: [card-number, card-cvc, email, whole, leaf]}}]
      - match: {{path: /seal-response}}
        response: {{seal: [{{select: $.secret, role: secret}}]}}
  - listen: {inbound}
    hosts: [folded.example]
    backend: http://{backend}
    fold_case: true
    unruled: refuse
    rules:
      - match: {{path: /Seal}}
        request: {{seal: [{{select: $.Card, role: card-number}}]}}
      - match: {{path: /seal-response}}
        response: {{seal: [{{select: $.secret, role: secret}}]}}
outbound:
  - listen: {outbound}
    destinations:
      - host: api.pay.example
        upstream: http://{backend}
        rules:
          - match: {{path: /charges/**}}
            request:
              open:
                - {{select: $.number, roles: [card-number]}}
                - {{select: $.note, roles: [card-number], on_refused: leave}}
"#,
            engine = engine.endpoint(),
            backend = backend.address()
        );
        let relay = Relay::start(folder.path(), "relay", &rules);
        relay.wait_ready();
        Self { _relay: relay, _engine: engine, backend, inbound, outbound, _folder: folder }
    }

    fn post(&self, path: &str, body: &str) -> Answer {
        once(self.inbound, &json_request("POST", path, HOST, body))
    }

    /// What the backend got of this body.
    fn sealed(&self, body: &str) -> String {
        let answer = self.post("/seal/x", body);
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
        self.backend.requests().pop().expect("a request").text().to_owned()
    }

    /// What a client gets back of this text through a rule that opens it.
    fn opened(&self, text: &str) -> Answer {
        // The backend echoes the body of an unruled path; the response rule opens it.
        once(self.inbound, &json_request("POST", "/open/x", HOST, text))
    }
}

#[test]
fn a_value_comes_back_exactly_as_it_went_in() {
    let stack = Stack::start(Backend::echo());
    for value in [
        r#""4111 1111 1111 1111""#,
        r#""""#,
        r#""é😀\n\"\\""#,
        r#""\u00e9\u0041\/""#,
        r#""\ud800""#,
        r#""\u001f\u001F\b""#,
        "1.10",
        "1E400",
        "-0",
        "12345678901234567890.000",
        "true",
        "false",
        "null",
        "[]",
        r#"{ "b" : 1 , "a":[1, 2 ,{"b":2,"b":3}] }"#,
    ] {
        let body = format!(r#"{{ "z":1.10, "card" : {{"number":{value},"x":[1E400]}} , "z":2}}"#);
        let sealed = stack.sealed(&body);
        let (before, after) = (r#"{ "z":1.10, "card" : {"number":"#, r#","x":[1E400]} , "z":2}"#);
        let token = sealed
            .strip_prefix(before)
            .and_then(|s| s.strip_suffix(after))
            .unwrap_or_else(|| panic!("{value}: {sealed}"));
        assert!(token.starts_with("\"e3v1.card-number.") && token.ends_with(".\""), "{value}: {token}");
        assert_eq!(stack.opened(&sealed).text(), body, "{value}");
    }
}

#[test]
fn containers_are_sealed_whole_or_leaf_by_leaf() {
    let stack = Stack::start(Backend::echo());
    let body = r#"{"whole":{"a":[1,"x"]},"leaves":{"a":[1,"x",null],"b":{},"c":{"d":true}}}"#;
    assert_eq!(stack.post("/leaves", body).status, 200);
    let sealed = stack.backend.requests().pop().expect("a request").text().to_owned();
    assert!(sealed.contains(r#""whole":"e3v1.whole.j."#), "{sealed}");
    assert_eq!(sealed.matches("e3v1.leaf.").count(), 4, "{sealed}");
    assert!(sealed.contains(r#""b":{}"#), "{sealed}");
    assert_eq!(stack.opened(&sealed).text(), body);
}

#[test]
fn equal_values_give_equal_tokens_only_where_the_rule_says_so() {
    let stack = Stack::start(Backend::echo());
    let emails: Vec<_> =
        [r#""a@b.c""#, r#""\u0061@b.c""#].iter().map(|e| stack.sealed(&format!(r#"{{"email":{e}}}"#))).collect();
    assert_eq!(emails[0], emails[1]);
    let cards: Vec<_> = (0..2).map(|_| stack.sealed(r#"{"card":{"number":"1"}}"#)).collect();
    assert_ne!(cards[0], cards[1]);
}

#[test]
fn no_spelling_of_a_key_or_body_gets_a_value_past_the_rule() {
    let stack = Stack::start(Backend::echo());
    let deep = format!("{}1{}", "[".repeat(500), "]".repeat(500));
    let huge = format!(r#"{{"card":{{"number":{}}}}}"#, "9".repeat(5000));
    let utf16: Vec<u8> = r#"{"card":{"number":"SECRET"}}"#.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let cases: Vec<Vec<u8>> = vec![
        br#"{"card":{"number":"SECRET","number":"SECRET"}}"#.to_vec(),
        br#"{"card":{"number":"SECRET"},"card":{"number":"SECRET"}}"#.to_vec(),
        br#"{"\u0063ard":{"n\u0075mber":"SECRET"}}"#.to_vec(),
        br#"{"a":[[{"cvc":"SECRET"}]]}"#.to_vec(),
        [b"\xef\xbb\xbf", &br#"{"card":{"number":"SECRET"}}"#[..]].concat(),
        utf16,
        br#"{"card":{"number":"SECRET"}} {"card":{"number":"SECRET"}}"#.to_vec(),
        br#"{"card":{"number":"SECRET"}}x"#.to_vec(),
        br#"{"card":{"number":"SECRET\ud800"}}"#.to_vec(),
        br#"{"card":{"number":'SECRET'}}"#.to_vec(),
        br#"{"card":{"number":"SECRET",}}"#.to_vec(),
        b"{\"card\":{\"number\":\"SECRET\xff\"}}".to_vec(),
        format!(r#"{{"card":{{"number":"SECRET"}},"x":{deep}}}"#).into_bytes(),
        huge.into_bytes(),
    ];
    for body in cases {
        let shown = String::from_utf8_lossy(&body).into_owned();
        let before = stack.backend.bytes();
        let mut request = format!(
            "POST /seal/x HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )
        .into_bytes();
        request.extend_from_slice(&body);
        let answer = once(stack.inbound, &request);
        match answer.status {
            200 => {
                let got = stack.backend.requests().pop().expect("a request");
                assert!(!got.text().contains("SECRET") && !got.text().contains("9999"), "{shown}");
            }
            400 => assert_eq!(stack.backend.bytes(), before, "{shown}"),
            other => panic!("{other} for {shown}"),
        }
    }
}

#[test]
fn no_way_of_asking_gets_a_body_past_the_rule() {
    let stack = Stack::start(Backend::echo());
    let body = r#"{"card":{"number":"SECRET"}}"#;
    let ask = |line: &str, more: &str| {
        let request = format!("{line} HTTP/1.1\r\nHost: {HOST}\r\n{more}Content-Length: {}\r\n\r\n{body}", body.len());
        once(stack.inbound, request.as_bytes())
    };
    let json = "Content-Type: application/json\r\n";
    let cases: &[(&str, &str, u16, &str)] = &[
        ("POST /seal/../seal/x", json, 400, "path/dot-segment"),
        ("POST //seal/x", json, 400, "path/empty-segment"),
        ("POST /seal%2fx", json, 400, "path/encoded-delimiter"),
        ("POST /seal/x;a=1", json, 400, "path/parameter"),
        ("POST /seal\\x", json, 400, "path/backslash"),
        ("POST /%73eal/%2e/x", json, 400, "path/dot-segment"),
        ("POST /seal/%zz", json, 400, "path/escape"),
        ("post /seal/x", json, 400, "rules/method-override"),
        ("GET /seal/x?_method=POST", json, 400, "rules/method-override"),
        (
            "GET /seal/x",
            "X-HTTP-Method-Override: POST\r\nContent-Type: application/json\r\n",
            400,
            "rules/method-override",
        ),
        ("POST /seal/x", "Content-Type: text/plain\r\n", 415, "body/media-type"),
        ("POST /seal/x", "", 415, "body/media-type"),
        ("POST /seal/x", "Content-Type: application/json; charset=utf-16\r\n", 415, "body/media-type"),
        ("POST /seal/x", "Content-Type: application/json\r\nContent-Type: text/plain\r\n", 415, "body/media-type"),
        ("POST /seal/x", "Content-Type: application/json\r\nContent-Encoding: gzip\r\n", 415, "body/content-coding"),
        (
            "POST /seal/x",
            "Content-Type: application/json\r\nUpgrade: x\r\nConnection: upgrade\r\n",
            403,
            "rules/upgrade",
        ),
        ("POST /seal/x", "Content-Type: application/json\r\nX_Y: 1\r\n", 400, "framing/underscore"),
        ("CONNECT api.shop.example:443", "", 400, "framing/"),
    ];
    for (line, more, status, code) in cases {
        let answer = ask(line, more);
        assert_eq!(answer.status, *status, "{line} {more}: {}", answer.text());
        assert!(answer.text().contains(code), "{line} {more}: {}", answer.text());
        assert_eq!(stack.backend.bytes(), 0, "{line} {more}");
    }
    // Spelled in another way that means the same, it is sealed all the same.
    for (line, more) in [
        ("POST /%73eal/x", json),
        ("POST /seal/x/", json),
        ("POST /seal/x?a=/../", json),
        ("POST http://api.shop.example/seal/x", json),
        ("POST /seal/x", "content-type: APPLICATION/Json ; Charset=\"UTF-8\"\r\n"),
        ("POST /seal/x", "Content-Type: application/vnd.shop+json\r\n"),
    ] {
        let answer = ask(line, more);
        assert_eq!(answer.status, 200, "{line} {more}: {}", answer.text());
        assert!(!stack.backend.requests().pop().expect("a request").text().contains("SECRET"), "{line} {more}");
    }
}

#[test]
fn a_case_insensitive_backend_is_served_by_fold_case() {
    let stack = Stack::start(Backend::echo());
    for (path, key) in [("/seal", "card"), ("/SEAL", "CARD"), ("/Seal/", "cARD"), ("/seal", "\\u0043ard")] {
        let body = format!(r#"{{"{key}":"SECRET"}}"#);
        let answer = once(stack.inbound, &json_request("POST", path, "folded.example", &body));
        assert_eq!(answer.status, 200, "{path}: {}", answer.text());
        assert!(answer.text().contains("e3v1.card-number.s."), "{path} {key}: {}", answer.text());
    }
    let answer = once(stack.inbound, &json_request("POST", "/other", "folded.example", "{}"));
    assert_eq!((answer.status, answer.text().contains("rules/unruled")), (403, true));
}

#[test]
fn token_look_alikes_from_clients_are_sealed_as_strings() {
    let stack = Stack::start(Backend::echo());
    let genuine = stack.sealed(r#"{"card":{"number":"4111"}}"#);
    let resealed = stack.sealed(&genuine);
    assert_ne!(resealed, genuine, "a genuine token from a client was kept");
    assert_eq!(stack.opened(&resealed).text(), genuine, "what is opened is not scanned again");
    // A rule that keeps: genuine tokens of app and role only.
    let kept = |body: &str| {
        assert_eq!(stack.post("/keep", body).status, 200);
        stack.backend.requests().pop().expect("a request").text().to_owned()
    };
    assert_eq!(kept(&genuine), genuine);
    let mut forged = genuine.clone();
    let at = forged.len() - 12;
    let other = if forged.as_bytes()[at] == b'A' { "B" } else { "A" };
    forged.replace_range(at..=at, other);
    assert_ne!(kept(&forged), forged, "a forged token was kept");
    let other_role = stack.sealed(r#"{"cvc":"1"}"#).replace(r#"{"cvc":"#, r#"{"card":{"number":"#).replace('}', "}}");
    assert_ne!(kept(&other_role), other_role, "a token of another role was kept");
}

#[test]
fn a_destination_opens_only_its_roles() {
    let stack = Stack::start(Backend::echo());
    let token = |body: &str, key: &str| {
        let sealed = stack.sealed(body);
        sealed.split(&format!("\"{key}\":\"")).nth(1).and_then(|s| s.split('"').next()).expect("a token").to_owned()
    };
    let number = token(r#"{"card":{"number":"4111"}}"#, "number");
    let cvc = token(r#"{"cvc":737}"#, "cvc");
    let charge = |body: String| once(stack.outbound, &json_request("POST", "/charges/1", "api.pay.example", &body));
    assert_eq!(charge(format!(r#"{{"number":"{number}"}}"#)).text(), r#"{"number":"4111"}"#);
    let inside = charge(format!(r#"{{"number":"card \"{number}\", {number}"}}"#));
    assert_eq!(inside.text(), r#"{"number":"card \"4111\", 4111"}"#);
    // What came in with escapes of its own comes back with them, and without quotes of its own.
    for (value, inside) in [
        (r#""caf\u00e9\/\ud83d""#, r"caf\u00e9\/\ud83d"),
        (r#""\"\u0041\"""#, r#"\"\u0041\""#),
        (r#""caf\n\\""#, r"caf\n\\"),
        ("1.10", "1.10"),
        (r#"{"a":"b\n"}"#, r#"{\"a\":\"b\\n\"}"#),
    ] {
        let token = token(&format!(r#"{{"card":{{"number":{value}}}}}"#), "number");
        let body = |held: &str| format!(r#"{{"number":"Hello \"{held}\"!","x":"\/"}}"#);
        assert_eq!(charge(body(&token)).text(), body(inside), "{value}");
        assert_eq!(charge(format!(r#"{{"number":"{token}"}}"#)).text(), format!(r#"{{"number":{value}}}"#));
    }
    let before = stack.backend.bytes();
    let refused = charge(format!(r#"{{"number":"{cvc}"}}"#));
    assert_eq!((refused.status, refused.text().contains("token/role")), (403, true), "{}", refused.text());
    let forged = charge(r#"{"number":"e3v1.card-number.s.AAAA."}"#.to_owned());
    assert_eq!((forged.status, forged.text().contains("token/not-authentic")), (422, true), "{}", forged.text());
    assert_eq!(stack.backend.bytes(), before, "a refused request reached the third party");
    let left = format!(r#"{{"note":"{cvc}"}}"#);
    assert_eq!(charge(left.clone()).text(), left);
    // Base-URL form: the path names the destination.
    let by_path = once(
        stack.outbound,
        &json_request("POST", "/api.pay.example/charges/1", "localhost", &format!(r#"{{"number":"{number}"}}"#)),
    );
    assert_eq!(by_path.text(), r#"{"number":"4111"}"#);
    let unknown = once(stack.outbound, &json_request("POST", "/other.example/charges/1", "localhost", "{}"));
    assert_eq!(unknown.status, 421);
}

#[test]
fn required_and_absent_selections() {
    let stack = Stack::start(Backend::echo());
    let absent = stack.post("/required", r#"{"other":1}"#);
    assert_eq!((absent.status, absent.text().contains("body/required")), (422, true));
    assert_eq!(stack.backend.bytes(), 0);
    assert_eq!(stack.post("/seal/x", r#"{"other":1}"#).text(), r#"{"other":1}"#);
    let empty =
        once(stack.inbound, format!("POST /seal/x HTTP/1.1\r\nHost: {HOST}\r\nContent-Length: 0\r\n\r\n").as_bytes());
    assert_eq!(empty.status, 200, "an empty body on a ruled route is nothing to do");
}

/// A body of exactly this size, with a value to seal in it where there is room for one.
fn sized(size: usize) -> String {
    let around = r#"{"card":{"number":"4111"},"secret":"4111","pad":""}"#.len();
    match size.checked_sub(around) {
        Some(pad) => format!(r#"{{"card":{{"number":"4111"}},"secret":"4111","pad":"{}"}}"#, "x".repeat(pad)),
        None => "1".repeat(size),
    }
}

/// What is after the values of such a body.
fn tail(body: &str) -> &str {
    body.find("\"pad\"").map_or(body, |at| &body[at..])
}

/// In chunks of these sizes, without the end.
fn chunked(body: &[u8], piece: usize) -> Vec<u8> {
    body.chunks(piece).flat_map(|part| [format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat()).collect()
}

const DEFAULT_LIMIT: usize = 10 * 1024 * 1024;

#[test]
fn bodies_of_every_size_and_framing_arrive_whole() {
    let stack = Stack::start(Backend::echo());
    let limit = 2 * 1024 * 1024;
    let least = sized(52).len();
    let sizes = [1, least, 65_535, 65_536, 65_537, 1024 * 1024, limit].map(|size| (HOST, "/seal/x", size));
    for (host, path, size) in sizes.into_iter().chain([("folded.example", "/seal", DEFAULT_LIMIT)]) {
        let body = sized(size);
        assert_eq!(body.len(), size);
        for pieces in [1usize, 7] {
            let head = format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n");
            let piece = size.div_ceil(pieces);
            let mut plain = Connection::open(stack.inbound);
            plain.send(format!("{head}Content-Length: {size}\r\n\r\n").as_bytes()).unwrap();
            for part in body.as_bytes().chunks(piece) {
                plain.send(part).unwrap();
            }
            let mut in_chunks = Connection::open(stack.inbound);
            in_chunks.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes()).unwrap();
            in_chunks.send(&chunked(body.as_bytes(), piece)).unwrap();
            in_chunks.send(b"0\r\n\r\n").unwrap();
            for mut connection in [plain, in_chunks] {
                let answer = connection.answer().unwrap();
                assert_eq!(answer.status, 200, "{size} in {pieces}: {}", &answer.text()[..200.min(answer.body.len())]);
                let got = stack.backend.requests().pop().expect("a request");
                assert_eq!(got.header("content-length").and_then(|n| n.parse().ok()), Some(got.body.len()), "{size}");
                assert!(got.text().ends_with(tail(&body)), "{size} in {pieces}");
                assert_eq!(got.text() == body, size == 1, "{size} in {pieces}");
                assert!(!got.text().contains(r#""number":"4111""#), "{size} in {pieces}");
            }
        }
    }
    let before = stack.backend.bytes();
    for (host, path, limit) in [(HOST, "/seal/x", limit), ("folded.example", "/seal", DEFAULT_LIMIT)] {
        let over = sized(limit + 1);
        let head = format!("POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n");
        let mut told = Connection::open(stack.inbound);
        told.send(format!("{head}Content-Length: {}\r\n\r\n", over.len()).as_bytes()).unwrap();
        // The last byte is the one too many, and nothing that is on its way could cut the answer off.
        let mut untold = Connection::open(stack.inbound);
        untold.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes()).unwrap();
        let chunks = chunked(over.as_bytes(), limit / 7);
        untold.send(&chunks[..chunks.len() - 2]).unwrap();
        for mut connection in [told, untold] {
            let answer = connection.answer().unwrap();
            assert_eq!((answer.status, answer.text().contains("body/too-large")), (413, true), "{}", answer.text());
        }
    }
    assert_eq!(stack.backend.bytes(), before);
}

#[test]
fn responses_of_every_size_and_framing_arrive_whole() {
    let stack = Stack::start(Backend::start(|request| {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
        Some(match request.header("x-pieces").and_then(|pieces| pieces.parse().ok()) {
            Some(pieces) => {
                let body = chunked(&request.body, request.body.len().div_ceil(pieces));
                [format!("{head}Transfer-Encoding: chunked\r\n\r\n").as_bytes(), &body, b"0\r\n\r\n"].concat()
            }
            None => answer(200, "application/json", &request.body),
        })
    }));
    let limit = 2 * 1024 * 1024;
    let least = sized(52).len();
    let sizes = [1, least, 65_535, 65_536, 65_537, 1024 * 1024, limit].map(|size| (HOST, size));
    let ask = |host: &str, size: usize, framing: &str| {
        let head = format!("POST /seal-response HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n");
        once(stack.inbound, format!("{head}{framing}Content-Length: {size}\r\n\r\n{}", sized(size)).as_bytes())
    };
    let framings = ["", "X-Pieces: 1\r\n", "X-Pieces: 7\r\n"];
    for (host, size) in sizes.into_iter().chain([("folded.example", DEFAULT_LIMIT)]) {
        for framing in framings.iter().take(if size == 1 { 2 } else { 3 }) {
            let (answer, body) = (ask(host, size, framing), sized(size));
            assert_eq!(answer.status, 200, "{size} {framing}: {}", &answer.text()[..200.min(answer.body.len())]);
            assert_eq!(answer.header("content-length").map(str::to_owned), Some(answer.body.len().to_string()));
            assert!(answer.text().ends_with(tail(&body)), "{size} {framing}");
            assert_eq!(answer.text() == body, size == 1, "{size} {framing}");
            assert!(!answer.text().contains(r#""secret":"4111""#), "{size} {framing}");
        }
    }
    for (host, limit) in [(HOST, limit), ("folded.example", DEFAULT_LIMIT)] {
        for framing in framings {
            let answer = ask(host, limit + 1, framing);
            assert_eq!((answer.status, answer.text().contains("response/too-large")), (502, true), "{}", answer.text());
            assert!(answer.text().contains(r#""upstream_status":200"#) && !answer.text().contains("4111"));
        }
    }
}

#[test]
fn a_ruled_response_is_whole_exact_and_not_stored() {
    let backend = Backend::start(|request| {
        let (_, target) = request.line();
        Some(match target {
            "/open/partial" => b"HTTP/1.1 206 Partial Content\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}".to_vec(),
            "/open/html" => answer(200, "text/html", b"<p>e3v1.card-number.s.AAAA.</p>"),
            "/seal-response" if request.header("x-html").is_some() => answer(200, "text/html", b"<p>SECRET</p>"),
            "/seal-response" if request.header("x-bad").is_some() => answer(200, "application/json", b"{\"secret\":\"SECRET\""),
            "/seal-response" => b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nETag: \"strong\"\r\nContent-MD5: x\r\nTransfer-Encoding: chunked\r\n\r\n13\r\n{\"secret\":\"SECRET\"}\r\n0\r\n\r\n".to_vec(),
            _ => answer(200, "application/json", request.text().as_bytes()),
        })
    });
    let stack = Stack::start(backend);
    let get = |path: &str, more: &str| {
        once(
            stack.inbound,
            format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\nRange: bytes=0-1\r\nAccept-Encoding: gzip\r\n{more}\r\n")
                .as_bytes(),
        )
    };
    let sealed = get("/seal-response", "");
    assert_eq!(sealed.status, 200);
    assert!(sealed.text().starts_with(r#"{"secret":"e3v1.secret.s."#), "{}", sealed.text());
    assert_eq!(sealed.header("content-length").map(str::to_owned), Some(sealed.body.len().to_string()));
    assert_eq!(
        (sealed.header("etag"), sealed.header("content-md5"), sealed.header("transfer-encoding")),
        (None, None, None)
    );
    assert!(sealed.header("server-timing").is_some_and(|t| t.contains("engine;dur=") && t.contains("upstream;dur=")));
    let asked = stack.backend.requests().pop().expect("a request");
    assert_eq!((asked.header("range"), asked.header("accept-encoding")), (None, Some("identity")));
    for (more, code) in [("X-Html: 1\r\n", "response/media-type"), ("X-Bad: 1\r\n", "response/json")] {
        let refused = get("/seal-response", more);
        assert_eq!((refused.status, refused.text().contains(code)), (502, true), "{}", refused.text());
        assert!(refused.text().contains("\"upstream_status\":200") && !refused.text().contains("SECRET"));
    }
    assert!(get("/open/partial", "").text().contains("upstream/partial"));
    assert_eq!(get("/open/html", "").text(), "<p>e3v1.card-number.s.AAAA.</p>");
    let token = once(stack.inbound, &json_request("POST", "/seal/x", HOST, r#"{"card":{"number":1}}"#));
    let opened = stack.opened(token.text());
    assert_eq!((opened.text(), opened.header("cache-control")), (r#"{"card":{"number":1}}"#, Some("no-store")));
}

#[test]
fn concurrent_clients_never_see_each_others_values() {
    let stack = Stack::start(Backend::echo());
    std::thread::scope(|scope| {
        for client in 0..10 {
            let stack = &stack;
            scope.spawn(move || {
                let mut to_seal = Connection::open(stack.inbound);
                let mut to_open = Connection::open(stack.inbound);
                for n in 0..500 {
                    let body = format!(r#"{{"card":{{"number":"{client}-{n}"}},"cvc":{n}}}"#);
                    to_seal.send(&json_request("POST", "/seal/x", HOST, &body)).unwrap();
                    let sealed = to_seal.answer().unwrap();
                    assert!(sealed.text().contains("e3v1.card-number"), "{}", sealed.text());
                    to_open.send(&json_request("POST", "/open/x", HOST, sealed.text())).unwrap();
                    assert_eq!(to_open.answer().unwrap().text(), body);
                }
            });
        }
    });
}
