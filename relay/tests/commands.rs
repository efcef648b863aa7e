//! `relay test` and `relay explain` promise nothing that the relay refuses.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::path::PathBuf;
use std::process::Command;

const RULES: &str = "engine: {endpoints: [\"unix:///run/e3.sock\"], app: shop, development: true}
inbound:
  - listen: 127.0.0.1:8080
    hosts: [a.example]
    backend: http://127.0.0.1:9
    limits: {body: 100B}
    rules:
      - match: {path: /seal}
        request: {seal: [{select: $.card, role: card}]}
      - match: {path: /open}
        response: {open: [{select: $.name, roles: [name]}]}
  - listen: 127.0.0.1:8081
    hosts: [b.example]
    redirect: https
outbound:
  - listen: 127.0.0.1:8082
    destinations:
      - host: pay.example
        rules:
          - match: {path: /charges}
            request: {open: [{select: $.number, roles: [card]}]}
          - match: {path: /notes}
            request: {open: [{select: $.number, roles: [card], on_refused: leave}]}
";

struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("relay.yaml"), RULES).unwrap();
        Self { folder }
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Exit code and what was printed.
    fn relay(&self, command: &str, arguments: &[&str]) -> (Option<i32>, String) {
        let mut relay = Command::new(env!("CARGO_BIN_EXE_relay"));
        relay.arg(command).arg("--config").arg(self.folder.path().join("relay.yaml")).args(arguments);
        let output = relay.output().unwrap();
        (output.status.code(), String::from_utf8(output.stdout).unwrap())
    }

    fn test(&self, request: &str, response: Option<&str>) -> (Option<i32>, String) {
        let request = self.write("request.http", request);
        let mut arguments = vec!["--request", request.to_str().unwrap()];
        let response = response.map(|text| self.write("response.http", text));
        if let Some(path) = &response {
            arguments.extend(["--response", path.to_str().unwrap()]);
        }
        self.relay("test", &arguments)
    }
}

fn post(path: &str, host: &str, headers: &str, body: &str) -> String {
    format!("POST {path} HTTP/1.1\nHost: {host}\nContent-Type: application/json\n{headers}\n{body}\n")
}

#[test]
fn the_commands_refuse_what_the_relay_refuses() {
    let files = Files::new();
    let body = r#"{"card":"4111"}"#;
    let (code, told) = files.test(&post("/seal", "a.example", "", body), None);
    assert_eq!(code, Some(0), "{told}");
    assert!(told.ends_with("{\"card\":\"<card>\"}\n"), "{told}");
    for (headers, refused) in [
        ("Transfer-Encoding: gzip\n", "400 framing/transfer-encoding"),
        ("Content-Length: 1\nContent-Length: 1\n", "400 framing/content-length"),
        ("Content-Length: 15\nTransfer-Encoding: chunked\n", "400 framing/length-and-encoding"),
        ("Host: a.example\n", "400 framing/host"),
        ("X_Tenant: a\n", "400 framing/underscore"),
        ("Connection: Upgrade\nUpgrade: websocket\n", "403 rules/upgrade"),
        ("X-Method-Override: PUT\n", "400 rules/method-override"),
        ("Content-Encoding: gzip\n", "415 body/content-coding"),
    ] {
        let (code, told) = files.test(&post("/seal", "a.example", headers, body), None);
        assert_eq!(code, Some(1), "{headers}{told}");
        assert!(told.contains(refused), "{headers}{told}");
    }
    let (code, told) = files.test(&post("/seal", "a.example", "", body).replace("Host: a.example\n", ""), None);
    assert!(code == Some(1) && told.contains("400 framing/host"), "{told}");
    let (code, told) = files.test(&post("/seal", "a.example", "Connection: close\n", body).replace("/1.1", "/2"), None);
    assert!(code == Some(1) && told.contains("400 framing/field-name"), "{told}");
    let (code, told) = files.test(&post("/seal", "b.example", "", body), None);
    assert!(code == Some(1) && told.contains("403 rules/plaintext"), "{told}");
    let long = format!(r#"{{"card":"{}"}}"#, "4".repeat(100));
    let lines = post("/seal", "a.example", "", &long).replace("application/json", "application/x-ndjson");
    for request in [post("/seal", "a.example", "", &long), lines] {
        let (code, told) = files.test(&request, None);
        assert!(code == Some(1) && told.contains("413 body/too-large"), "{told}");
    }
    // A response that would be refused, and those that are never read.
    let get = "GET /open HTTP/1.1\nHost: a.example\n\n";
    let answer = |status: &str| {
        format!("HTTP/1.1 {status} X\nContent-Type: application/json\n\n{{\"name\":\"e3v1.name.s.AAAA.\"}}\n")
    };
    let (code, told) = files.test(get, Some(&answer("200")));
    assert!(code == Some(0) && told.contains("<name opened>"), "{told}");
    let (code, told) = files.test(get, Some(&answer("206")));
    assert!(code == Some(1) && told.contains("502 upstream/partial"), "{told}");
    let (code, told) = files.test(get, Some(&answer("204")));
    assert!(code == Some(0) && told.contains("no body"), "{told}");
    for (arguments, refused) in [
        (&["-H", "X_Tenant: a", "http://a.example/seal"][..], "400 framing/underscore"),
        (&["-H", "Connection: upgrade", "-H", "Upgrade: x", "http://a.example/seal"], "403 rules/upgrade"),
        (&["-H", "Transfer-Encoding: gzip", "http://a.example/seal"], "400 framing/transfer-encoding"),
        (&["-H", "Host: b.example", "-H", "Host: a.example", "http://a.example/seal"], "400 framing/host"),
        (&["-X", "POST", "http://b.example/"], "403 rules/plaintext"),
    ] {
        let (code, told) = files.relay("explain", arguments);
        assert!(code == Some(1) && told.contains(refused), "{arguments:?}\n{told}");
    }
    let (code, told) = files.relay("explain", &["-X", "POST", "-H", "X-Tenant: a", "http://a.example/seal"]);
    assert!(code == Some(0) && told.contains("verdict   ruled"), "{told}");
}

#[test]
fn the_test_command_sees_every_token_however_it_is_written() {
    let files = Files::new();
    let charge = |path: &str, number: &str| {
        files.test(&post(path, "pay.example", "", &format!("{{\"number\":\"{number}\"}}")), None)
    };
    for (number, becomes) in [
        ("e3v1.card.s.AAAA.", "<card opened>"),
        ("\\u0065\\u0033v1.card.s.AAA\\u0041\\u002e", "<card opened>"),
        ("a e3v1.card.s.AAAA. b e3v1.card.s.AAAA.\\n", "a <card opened> b <card opened>\\n"),
        ("none", "none"),
    ] {
        let (code, told) = charge("/charges", number);
        assert_eq!(code, Some(0), "{told}");
        assert!(told.ends_with(&format!("{{\"number\":\"{becomes}\"}}\n")), "{number}\n{told}");
    }
    for number in ["e3v1.name.s.AAAA.", "e3v1.card.s.AAAA. e3v1.name.s.AAAA.", "\\u0065\\u0033v1.name.s.AAAA."] {
        let (code, told) = charge("/charges", number);
        assert_eq!(code, Some(1), "{number}\n{told}");
        assert!(told.contains("403 token/role") && told.contains("a token of name, which may not"), "{told}");
        let (code, told) = charge("/notes", number);
        assert!(code == Some(0) && told.contains("stays as it is"), "{told}");
    }
}
