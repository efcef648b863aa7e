//! A whole shop at work, with marked values, and every kind of failure, at the most talkative levels of both logs: afterwards no marked value and no key is in
//! anything that the programs said.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;

use e3_tests::backend::{Backend, Request, answer};
use e3_tests::client::{Answer, Connection, get, json_request, once};
use e3_tests::process::Program;
use e3_tests::stack::{Engine, Relay, folder};
use e3_tests::{eventually, port};
use e3_wire::{FRAME_HEADER, FrameHeader, FrameKind};

use crate::keys;
use crate::search::{Secret, assert_none};

const HOST: &str = "api.shop.example";
const PAY: &str = "api.pay.example";

const CARD: &str = "4929871203645518";
const CVC: &str = "cvc-7Q4-81";
const NAME: &str = "Zo\u{eb} \"M\u{e4}rker\" \u{1f511}";
const EMAIL: &str = "marker-3f9a@private.example";
const RECEIPT: &str = "receipt-of-51b7c2";
const HEADER: &str = "bearer-header-c01d";
const QUERY: &str = "query-value-77aa";
const PATH: &str = "path-value-19ee";

/// Room for a body in these rules, in bytes.
const LIMIT: usize = 64 * 1024;

fn marked() -> Vec<Secret> {
    let marked = [CARD, CVC, NAME, EMAIL, RECEIPT, HEADER, QUERY, PATH];
    marked.iter().map(|value| Secret::new(format!("the marked value `{value}`"), value.as_bytes())).collect()
}

fn order() -> String {
    let name = serde_json::to_string(NAME).expect("text");
    format!(r#"{{"number":"{CARD}","cvc":"{CVC}","name":{name},"email":"{EMAIL}"}}"#)
}

/// What the shop and the payment provider answer, by path.
fn shop(request: &Request) -> Option<Vec<u8>> {
    let json = "application/json";
    let secret = format!(r#"{{"secret":"{RECEIPT}"}}"#);
    match request.line().1.split('?').next().unwrap_or_default() {
        "/v1/answers/sealed" => Some(answer(200, json, secret.as_bytes())),
        "/v1/answers/no-json" => Some(answer(200, json, format!("{secret}{RECEIPT}").as_bytes())),
        "/v1/answers/media" => Some(answer(200, "text/html", secret.as_bytes())),
        "/v1/answers/large" => Some(answer(200, json, format!("{secret}{}", " ".repeat(LIMIT)).as_bytes())),
        "/v1/answers/coded" => Some(
            format!(
                "HTTP/1.1 200 OK\r\nContent-Type: {json}\r\nContent-Encoding: {RECEIPT}\r\nContent-Length: 2\r\n\r\n{{}}"
            )
            .into(),
        ),
        "/v1/answers/garbage" => Some(format!("{RECEIPT} {CARD}\r\n\r\n").into()),
        "/v1/answers/nothing" => None,
        _ => Some(answer(200, json, &request.body)),
    }
}

struct Shop {
    relay: Relay,
    engine: Engine,
    backend: Backend,
    third_party: Backend,
    inbound: SocketAddr,
    outbound: SocketAddr,
    folder: tempfile::TempDir,
    secrets: Vec<Secret>,
}

impl Shop {
    /// `format` is `human` or `json`.
    fn open(format: &str) -> Self {
        let (folder, inbound, outbound, down) = (folder(), port::free(), port::free(), port::free());
        std::fs::create_dir(folder.path().join("trail")).expect("a folder");
        let more = format!("log: {{level: debug, format: {format}}}\n");
        let engine = Engine::start_with(folder.path(), "trail/audit.log".as_ref(), &more);
        let (backend, third_party) = (Backend::start(shop), Backend::start(shop));
        let rules = format!(
            r#"engine: {{endpoints: ["{engine}"], app: shop, timeout: 2s, development: true}}
log: {format}
inbound:
  - listen: {inbound}
    hosts: [{HOST}]
    backend: http://{shop}
    server_timing: true
    limits: {{body: {LIMIT}B, body_time: 2s}}
    rules:
      - match: {{methods: [POST], path: /v1/orders/**}}
        request:
          seal:
            - {{select: $.number, role: card-number}}
            - {{select: $.cvc, role: card-cvc}}
            - {{select: $.name, role: name}}
            - {{select: $.email, role: email, deterministic: true}}
      - match: {{methods: [POST], path: /v1/required}}
        request: {{seal: [{{select: $.must, role: name, required: true}}]}}
      - match: {{path: /v1/open}}
        response: {{open: [{{anywhere: true, roles: [card-number, card-cvc, name, email]}}]}}
      - match: {{path: /v1/answers/**}}
        response: {{seal: [{{select: $.secret, role: receipt}}]}}
  - {{listen: {inbound}, hosts: [down.example], backend: "http://{down}"}}
  - {{listen: {inbound}, hosts: [tls.example], backend: "https://{shop}", backend_name: tls.example}}
outbound:
  - listen: {outbound}
    destinations:
      - host: {PAY}
        upstream: http://{third_party}
        rules:
          - match: {{path: /charges/**}}
            request: {{open: [{{select: $.number, roles: [card-number]}}]}}
"#,
            engine = engine.endpoint(),
            shop = backend.address(),
            third_party = third_party.address()
        );
        let relay = Relay::start_filtered(folder.path(), "relay", &rules, Some("trace"));
        relay.wait_ready();
        Self { relay, engine, backend, third_party, inbound, outbound, folder, secrets: marked() }
    }

    /// What went well: sealed, opened on the way out, opened on the way back, and a sealed answer.
    fn succeeds(&self) {
        let head = format!("Authorization: {HEADER}\r\nCookie: session={HEADER}");
        let path = format!("/v1/orders/{PATH}?q={QUERY}");
        let placed = once(self.inbound, &with_field(&json_request("POST", &path, HOST, &order()), &head));
        assert_eq!(placed.status, 200, "{}", placed.text());
        let stored = self.backend.requests().pop().expect("an order");
        assert_none(
            &[Secret::new("a card", CARD.as_bytes()), Secret::new("a name", NAME.as_bytes())],
            "the shop",
            &stored.body,
        );
        let charged = once(self.outbound, &json_request("POST", "/charges/1", PAY, stored.text()));
        assert_eq!(charged.status, 200, "{}", charged.text());
        let received = self.third_party.requests().pop().expect("a charge");
        assert!(received.text().contains(CARD), "{}", received.text());
        let shown = once(self.inbound, &json_request("POST", "/v1/open", HOST, stored.text()));
        assert!(shown.status == 200 && shown.text().contains(CARD), "{}", shown.text());
        let sealed = once(self.inbound, &json_request("GET", "/v1/answers/sealed", HOST, ""));
        assert!(sealed.status == 200 && !sealed.text().contains(RECEIPT), "{}", sealed.text());
    }

    /// Every way to fail that a client or an upstream can cause.
    fn fails(&self) {
        let order = order();
        let token = |role: &str| {
            let body = format!(r#"{{"number":"{CARD}","cvc":"{CVC}"}}"#);
            assert_eq!(once(self.inbound, &json_request("POST", "/v1/orders/1", HOST, &body)).status, 200);
            let stored: serde_json::Value =
                serde_json::from_slice(&self.backend.requests().pop().expect("an order").body).expect("JSON");
            format!(r#"{{"number":{}}}"#, stored[if role == "card-cvc" { "cvc" } else { "number" }])
        };
        let post = |path: &str, body: &str| json_request("POST", path, HOST, body);
        let ask = |path: &str| post(&format!("/v1/answers/{path}"), "{}");
        let swap = |request: Vec<u8>, from: &str, to: &str| {
            let text = String::from_utf8(request).expect("text");
            assert!(text.contains(from), "{from}");
            text.replace(from, to).into_bytes()
        };
        let media = "Content-Type: application/json";
        let forged = format!(r#"{{"number":"e3v1.card-number.s.{}."}}"#, CARD.repeat(10));
        let long = format!(r#"{{"number":"{}"}}"#, CARD.repeat(LIMIT / 16));
        let elsewhere = format!("{PATH}.example");
        let cases: Vec<(&str, Vec<u8>)> = vec![
            ("body/json", post("/v1/orders/1", &format!("{order}{CARD}"))),
            ("body/json", post("/v1/orders/1", &format!(r#"{{"number":"{CARD}"#))),
            ("body/json", [&post("/v1/orders/1", "")[..0], &bad_utf8()].concat()),
            ("body/media-type", swap(post("/v1/orders/1", &order), media, &format!("Content-Type: text/{HEADER}"))),
            ("body/content-coding", with_field(&post("/v1/orders/1", &order), "Content-Encoding: gzip")),
            ("body/too-large", post("/v1/orders/1", &long)),
            ("body/required", post("/v1/required", &order)),
            ("framing/length-and-encoding", with_field(&post("/v1/orders/1", &order), "Transfer-Encoding: chunked")),
            ("framing/content-length", with_field(&post("/v1/orders/1", &order), &format!("Content-Length: {HEADER}"))),
            (
                "framing/bare-line-end",
                with_field(&post("/v1/orders/1", &order), &format!("A: b\nAuthorization: {HEADER}")),
            ),
            ("framing/white-space", with_field(&post("/v1/orders/1", &order), &format!("Authorization : {HEADER}"))),
            ("framing/control", with_field(&post("/v1/orders/1", &order), &format!("Authorization: {HEADER}\0"))),
            ("framing/underscore", with_field(&post("/v1/orders/1", &order), &format!("X_Name: {HEADER}"))),
            ("framing/host", with_field(&post("/v1/orders/1", &order), &format!("Host: {HEADER}"))),
            ("framing/request-line", swap(post("/v1/orders/1", &order), "/v1/orders/1", &format!("/{PATH} {QUERY}"))),
            ("framing/chunk", chunked(&format!("10\r\n{CARD}{CVC}"))),
            ("path/encoded-delimiter", post(&format!("/v1/orders/..%2f{PATH}?{QUERY}"), &order)),
            ("path/dot-segment", post(&format!("/v1/../{PATH}?{QUERY}"), &order)),
            ("path/escape", post(&format!("/v1/%zz{PATH}"), &order)),
            (
                "rules/method-override",
                with_field(&post("/v1/orders/1", &order), &format!("X-Http-Method-Override: {HEADER}")),
            ),
            ("rules/path-override", with_field(&post("/v1/orders/1", &order), &format!("X-Original-Url: /{PATH}"))),
            ("rules/unknown-host", json_request("POST", &format!("/{PATH}"), &elsewhere, &order)),
            ("response/json", ask("no-json")),
            ("response/media-type", ask("media")),
            ("response/content-coding", ask("coded")),
            ("response/too-large", ask("large")),
            ("upstream/protocol", ask("garbage")),
            ("upstream/protocol", ask("nothing")),
            ("upstream/", json_request("POST", &format!("/{PATH}?{QUERY}"), "down.example", &order)),
            ("upstream/", json_request("POST", &format!("/{PATH}?{QUERY}"), "tls.example", &order)),
        ];
        for (code, request) in &cases {
            self.refused(code, once(self.inbound, request));
        }
        for (code, body) in [("token/not-authentic", forged), ("token/role", token("card-cvc"))] {
            self.refused(code, once(self.outbound, &json_request("POST", "/charges/1", PAY, &body)));
        }
        let charge = token("card-number");
        self.slow_and_broken_off(&order);
        self.engine_is_told_nonsense();
        self.without_audit(&charge);
    }

    /// A client that is too slow, and one that leaves.
    fn slow_and_broken_off(&self, order: &str) {
        let half = json_request("POST", "/v1/orders/1", HOST, order);
        let half = &half[..half.len() - 5];
        let mut slow = Connection::open(self.inbound);
        slow.send(half).expect("half a request");
        self.refused("request/timeout", slow.answer().expect("an answer"));
        let mut gone = Connection::open(self.inbound);
        gone.send(half).expect("half a request");
        drop(gone);
        self.logged("client/gone");
    }

    /// Frames that no relay sends, with marked values in them.
    fn engine_is_told_nonsense(&self) {
        let body = format!("{CARD}{NAME}{CVC}");
        let header = FrameHeader { kind: FrameKind::Request, id: 1, body: body.len() }.to_bytes().expect("a header");
        for bytes in [[&header[..], body.as_bytes()].concat(), body.repeat(FRAME_HEADER).into_bytes()] {
            let mut stream = UnixStream::connect(self.folder.path().join("e3.sock")).expect("the engine");
            stream.set_read_timeout(Some(e3_tests::PATIENCE)).expect("a timeout");
            stream.write_all(&bytes).expect("the engine reads");
            // It says what it has to say, and closes.
            let mut said = Vec::new();
            drop(stream.read_to_end(&mut said));
            assert_none(&self.secrets, "the engine's answer to nonsense", &said);
        }
    }

    /// An engine whose audit sink is away.
    fn without_audit(&self, charge: &str) {
        let (trail, gone) = (self.folder.path().join("trail"), self.folder.path().join("gone"));
        std::fs::rename(&trail, &gone).expect("the folder is moved");
        self.refused("engine/audit", once(self.outbound, &json_request("POST", "/charges/1", PAY, charge)));
        std::fs::rename(&gone, &trail).expect("the folder is moved back");
    }

    /// Checks a problem: its code (or how it begins), and that neither head nor body say more than they may.
    fn refused(&self, code: &str, answer: Answer) {
        assert!(answer.status >= 400, "{code}: {}", answer.text());
        assert!(answer.text().contains(&format!(r#""code":"{code}"#)), "{code}: {}", answer.text());
        assert_none(&self.secrets, &format!("the answer for {code}"), answer.head.as_bytes());
        assert_none(&self.secrets, &format!("the answer for {code}"), &answer.body);
        // Framing faults that no codec is left to answer for are not logged by request.
        if !code.starts_with("framing/") {
            self.logged(code);
        }
    }

    fn relay_log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("relay/relay.log")).expect("the relay's log")
    }

    fn logged(&self, code: &str) {
        eventually(&format!("{code} in the log"), || self.relay_log().contains(code).then_some(()));
    }

    /// Everything that was said, kept or shown, but to those whom it is for.
    fn said_nothing(&self) {
        let path = |name: &str| self.folder.path().join(name);
        let audit = std::fs::read_to_string(path("trail/audit.log")).expect("the audit file");
        let (relay, engine) = (self.relay_log(), std::fs::read_to_string(path("e3.log")).expect("the engine's log"));
        // Were these silent, the rest would prove nothing.
        assert!(audit.lines().count() > 2, "{audit}");
        for level in ["TRACE", "DEBUG", "INFO", "WARN"] {
            assert!(relay.contains(level), "the relay's log has no {level}");
        }
        assert!(
            relay.contains("served") && engine.contains("cannot be read") && engine.contains("takes no records"),
            "{engine}"
        );
        let secrets: Vec<&Secret> = self.secrets.iter().collect();
        assert!(secrets.len() > 12, "eight values, the root key, its two keys, and app keys");
        for (place, text) in [("the relay's log", relay), ("the engine's log", engine), ("the audit file", audit)] {
            for line in text.lines() {
                assert_none(
                    &self.secrets,
                    &format!("{place}, in `{}`,", line.chars().take(60).collect::<String>()),
                    line.as_bytes(),
                );
            }
        }
        for page in ["/metrics", "/status", "/readyz", "/healthz", "/nothing"] {
            let answer = get(self.relay.admin(), page);
            assert_none(&self.secrets, page, answer.head.as_bytes());
            assert_none(&self.secrets, page, &answer.body);
        }
        assert_none(&self.secrets, "the keyring file", &std::fs::read(path("keyring")).expect("the keyring"));
    }

    /// The commands that look at messages and keys, which say less than they know.
    fn commands_say_nothing(&self) {
        let sample = self.folder.path().join("sample.http");
        std::fs::write(&sample, json_request("POST", &format!("/v1/orders/{PATH}"), HOST, &order())).expect("a sample");
        let (rules, config) = (self.relay.rules().to_owned(), self.folder.path().join("e3.yaml"));
        let text = |path: &std::path::Path| path.to_str().expect("UTF-8").to_owned();
        let (rules, config, sample) = (text(&rules), text(&config), text(&sample));
        for (program, arguments) in [
            (Program::Relay, vec!["check", "--config", &rules]),
            (Program::Relay, vec!["test", "--config", &rules, "--request", &sample]),
            (Program::E3, vec!["check", "--config", &config]),
            (Program::E3, vec!["keys", "list", "--config", &config]),
            (Program::E3, vec!["keys", "rotate", "--now", "--config", &config]),
        ] {
            let output = program.output(&arguments);
            assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
            // The path is what `relay test` is asked about, and shows.
            let secrets: Vec<Secret> = self.values_and_keys();
            assert_none(&secrets, &format!("{arguments:?}"), &output.stdout);
            assert_none(&secrets, &format!("{arguments:?}"), &output.stderr);
        }
    }

    fn values_and_keys(&self) -> Vec<Secret> {
        let values = [CARD, CVC, NAME, EMAIL].iter().map(|value| Secret::new(*value, value.as_bytes()));
        values.chain(keys::secrets(self.folder.path())).collect()
    }
}

/// A request with one field more.
fn with_field(request: &[u8], field: &str) -> Vec<u8> {
    let end = memchr::memmem::find(request, b"\r\n\r\n").expect("a head");
    [&request[..end], b"\r\n", field.as_bytes(), &request[end..]].concat()
}

fn chunked(body: &str) -> Vec<u8> {
    format!("POST /v1/orders/1 HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{body}").into()
}

/// A card number, and a byte that is no UTF-8.
fn bad_utf8() -> Vec<u8> {
    let body = [format!(r#"{{"number":"{CARD}"#).as_bytes(), b"\xff\"}"].concat();
    let head = format!(
        "POST /v1/orders/1 HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), &body].concat()
}

fn a_day_at_the_shop(format: &str) {
    let mut shop = Shop::open(format);
    // The app's keys are made with its first use.
    shop.succeeds();
    shop.secrets.extend(keys::secrets(shop.folder.path()));
    shop.fails();
    shop.commands_say_nothing();
    shop.secrets.extend(keys::secrets(shop.folder.path()));
    eventually("the engine takes the rotated keys", || {
        shop.engine.process().log().contains("keyring reloaded").then_some(())
    });
    shop.succeeds();
    shop.said_nothing();
    shop.engine.process().kill();
    let order = json_request("POST", "/v1/orders/1", HOST, &order());
    shop.refused("engine/unavailable", once(shop.inbound, &order));
    shop.said_nothing();
}

#[test]
fn neither_values_nor_keys_are_in_anything_that_the_programs_say_to_people() {
    a_day_at_the_shop("human");
}

#[test]
fn neither_values_nor_keys_are_in_anything_that_the_programs_say_to_programs() {
    a_day_at_the_shop("json");
}
