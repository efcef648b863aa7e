//! Every fault of a rules file is told, with its place and a hint, all of them in one run; the files we ship have none.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use relay::config::report::Severity;
use relay::config::{self, Report};

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn check(text: &str) -> Report {
    match config::check(Path::new("relay.yaml"), text) {
        Ok(checked) => checked.warnings,
        Err(report) => report,
    }
}

/// A good file around these lines of one site.
fn inbound(lines: &str) -> String {
    let indented: String = lines.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "engine: {{endpoints: [\"unix:///run/e3.sock\"], app: shop, development: true}}\n\
         inbound:\n  - listen: 127.0.0.1:8080\n    hosts: [a.example]\n    backend: http://127.0.0.1:9\n{indented}"
    )
}

/// A file with this API alone.
fn api(text: &str) -> String {
    format!("engine: {{endpoints: [\"unix:///run/e3.sock\"], app: shop, development: true}}\napi: {text}\n")
}

/// Within one rule.
fn rule(lines: &str) -> String {
    inbound(&format!("rules:\n  - {}", lines.replace('\n', "\n    ")))
}

/// Holds a text with one fault to it: the mark `«` stands in front of what the report must point at.
fn one_fault(severity: Severity, marked: &str, cause: &str) {
    let before = marked.split('«').next().unwrap();
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    let text = marked.replace('«', "");
    let report = check(&text);
    let faults: Vec<_> = report.faults().iter().filter(|f| f.severity != Severity::Note).collect();
    assert_eq!(faults.len(), 1, "one fault in\n{text}\n{report}");
    let fault = faults[0];
    assert_eq!((fault.place.line, fault.place.column), (line, column), "{text}\n{report}");
    assert_eq!(fault.severity, severity, "{text}\n{report}");
    assert!(fault.hint.is_some(), "no hint\n{report}");
    assert!(fault.cause.contains(cause), "`{cause}` is not said of\n{text}\n{report}");
    let told = report.to_text(false);
    assert!(told.contains(&format!("relay.yaml:{line}:{column}: ")), "{told}");
}

#[test]
fn every_fault_is_told_at_its_line_and_column() {
    let seal = "request: {seal: [{select: $.a, role: a}]}";
    let with = |rest: &str| rule(&format!("{seal}\n{rest}"));
    let faults = [
        // Structure.
        (inbound("«rule: []"), "unknown key `rule`"),
        (inbound("fold_case: «yess"), "text stands where true or false is expected"),
        (inbound("limits: «[]"), "a list stands where a map is expected"),
        (inbound("limits: {body: «10}"), "a whole number stands where text is expected"),
        (inbound("limits: {pool_idle: «-1}"), "-1 is out of range"),
        (inbound("limits: {«bodi: 1KiB}"), "unknown key `bodi`"),
        (inbound("unruled: «refues"), "`refues` stands where one of pass, refuse is expected"),
        (with("match: {path: «7}"), "a whole number stands where text or a list is expected"),
        (with("match: {path: [/a, «{}]}"), "a map stands where text is expected"),
        (rule("request: {seal: [«{select: $.a}]}"), "`role` is missing"),
        (rule("request: {seal: [«{role: a}]}"), "`select` is missing"),
        (rule("request: {seal: [«{role: a, select: }]}"), "`select` is missing"),
        ("«inbound: [{listen: \"127.0.0.1:1\", hosts: [a], backend: http://a}]\n".into(), "`engine` is missing"),
        // Units, addresses, hosts, URLs.
        (inbound("limits: {body: «10MB}"), "no size"),
        (inbound("limits: {body: «17MiB}"), "too large"),
        (inbound("limits: {body_time: «0s}"), "no time"),
        (inbound("").replacen("inbound:", "held_bytes: «1\ninbound:", 1), "a whole number stands where text"),
        (inbound("").replacen("inbound:", "held_bytes: «10TiB\ninbound:", 1), "no size"),
        (inbound("").replacen("inbound:", "held_bytes: «2048GiB\ninbound:", 1), "too large"),
        (inbound("").replacen("inbound:", "held_bytes: «19MiB\ninbound:", 1), "less than a body"),
        (inbound("limits: {body: 16MiB}").replacen("inbound:", "held_bytes: «31MiB\ninbound:", 1), "less than a body"),
        (inbound("connections: {head_fields: «0}"), "0 is out of range"),
        (inbound("health: {path: «x}"), "starts with /"),
        (inbound("proxy_protocol: {from: «[]}"), "no network"),
        (inbound("proxy_protocol: {from: [10.0.0.0/8, «10.0.0.1/8]}"), "is no network"),
        (inbound("proxy_protocol: «{}"), "`from` is missing"),
        // The API.
        (api("{listen: «0.0.0.0:8082}"), "in the clear"),
        (api("«{plaintext: true}"), "`listen` is missing"),
        (api("{listen: \"127.0.0.1:8082\", limits: {body: «17MiB}}"), "too large"),
        (api("{listen: \"127.0.0.1:8082\", tls: «{}}"), "TLS without a certificate"),
        (api("{listen: 0.0.0.0:8082, tls: {acme: «true}}"), "is for sites"),
        (inbound("").replacen("inbound:", "api: {listen: «\"127.0.0.1:8080\"}\ninbound:", 1), "taken by"),
        (inbound("backend_proxy_protocol: «v3"), "v1, v2"),
        (inbound("forwarded: {trust: [«lan]}"), "is no network"),
        (inbound("forwarded: {send: [«via]}"), "x-forwarded, forwarded"),
        (inbound("").replace("127.0.0.1:8080", "«localhost:1"), "no address"),
        (inbound("").replace("[a.example]", "[«a/b]"), "`a/b` is no host"),
        (inbound("").replace("[a.example]", "[a, «\"\"]"), "`` is no host"),
        (inbound("").replace("[a.example]", "[«\"*.*.b\"]"), "is no host"),
        (inbound("").replace("[a.example]", "[a, b, «A.]"), "served twice"),
        (inbound("").replace("[a.example]", "«[]"), "no host"),
        (inbound("").replace("http://127.0.0.1:9", "«127.0.0.1:9"), "no upstream"),
        (inbound("").replace("http://127.0.0.1:9", "«http://a:99999"), "no upstream"),
        (inbound("").replace("http://127.0.0.1:9", "«http://a/x#y"), "no upstream"),
        (inbound("").replace("http://127.0.0.1:9", "«http://a/x/../y"), "no upstream"),
        (inbound("").replace("http://127.0.0.1:9", "[http://a, «https://a]"), "another kind"),
        (inbound("").replace("http://127.0.0.1:9", "[https://a, «https://b]"), "the name of the first"),
        (inbound("").replace("unix:///run/e3.sock", "x").replace("\"x\"", "«\"x\""), "no endpoint"),
        (inbound("").replace(", development: true", "").replace("\"unix", "«\"unix"), "would not be attested"),
        (inbound("").replace("app: shop", "app: «Shop"), "no app"),
        // What requests can never be.
        (with("match: {methods: «[]}"), "names no method"),
        (with("match: {methods: [POST, «post]}"), "`post` is no method"),
        (with("match: {methods: [POST, «GTE]}"), "`GTE` is no method"),
        (with("match: {methods: [«CONNECT]}"), "CONNECT"),
        (with("match: {path: «[]}"), "names no path"),
        (with("match: {path: «v1}"), "the path pattern `v1`"),
        (with("match: {path: [/a, «/a//b]}"), "the path pattern `/a//b`"),
        (with("match: {path: [/a, «/a/%2e%2e/b]}"), "the path pattern"),
        (with("match: {path: «\"/a?b\"}"), "the path pattern `/a?b`"),
        (with("match: {path: «/a**}"), "the path pattern `/a**`"),
        (with("match: {media_types: «[]}"), "no media type"),
        (with("match: {media_types: [«json]}"), "`json` is no media type"),
        (rule("response: {status: «[], seal: [{select: $.a, role: a}]}"), "no statuses"),
        (rule("response: {status: [«99], seal: [{select: $.a, role: a}]}"), "no status"),
        (rule("response: {status: [200, «299-200], seal: [{select: $.a, role: a}]}"), "no status"),
        (rule("«{}"), "does nothing"),
        // Selectors: the column is that of the letter, whichever way YAML quotes it.
        (rule("request: {seal: [{select: «card, role: a}]}"), "cannot be honoured"),
        (rule("request: {seal: [{select: \"$.a[?(@.b«\", role: a}]}"), "cannot be honoured"),
        (rule("request: {seal: [{select: '$.it«''s', role: a}]}"), "cannot be honoured"),
        (rule("request: {seal: [{select: \"$['\\u00e9\\\"']«!\", role: a}]}"), "cannot be honoured"),
        (rule("request: {seal: [{select: \"$['é']«!\", role: a}]}"), "cannot be honoured"),
        (rule("request:\n  seal:\n    - select: $.a«(\n      role: a"), "cannot be honoured"),
        (rule("request: {seal: [{select: $.a, role: «Card}]}"), "`Card` is no role"),
        (rule("request: {open: [{select: $.a, roles: [b, «B]}]}"), "`B` is no role"),
        (rule("request: {open: [{select: $.a, roles: «[]}]}"), "no role may be opened"),
        (rule("request: {open: [«{roles: [a]}]}"), "`select` is missing"),
        (rule("request: {open: [{select: «$.a, anywhere: true, roles: [a]}]}"), "stand together"),
        // What rules come to together.
        (rule("request: {seal: [{select: $.a, role: a}, {select: «$.a, role: b}]}"), "another outcome"),
        (rule("request: {seal: [{select: $.a, role: a}], open: [{select: «$..a, roles: [a]}]}"), "another outcome"),
        (inbound(&format!("rules:\n  - {seal}\n  - «{seal}")), "says already"),
        (
            inbound(
                "rules:\n  - match: {methods: [GET]}\n    request: {seal: [{select: $.a, role: a}]}\n  - match: {methods: [HEAD]}\n    request: {seal: [{select: «$.a, role: b}]}",
            ),
            "another outcome",
        ),
        (
            inbound(
                "rules:\n  - match: {path: /a/*}\n    request: {seal: [{select: $.a, role: a}]}\n  - match: {path: /*/b}\n    request: {seal: [{select: «$.a, role: b}]}",
            ),
            "another outcome",
        ),
        (format!("{}admin: {{listen: «\"127.0.0.1:8080\"}}\n", inbound("")), "is taken by the inbound relay"),
        (inbound("backend_ca: «nowhere.pem").replace("http://127", "https://127"), "cannot be read"),
    ];
    for (marked, cause) in &faults {
        one_fault(Severity::Error, marked, cause);
    }
    assert!(faults.len() > 60);
}

#[test]
fn what_works_but_may_surprise_is_a_warning() {
    let anywhere = rule("request: {open: [«{anywhere: true, roles: [a]}]}");
    let header = rule("match: {headers: {X-Tenant: «a}}\nrequest: {seal: [{select: $.a, role: a}]}");
    let kept =
        rule("request: {seal: [{select: «$.a, role: a, tokens: keep}]}\nresponse: {open: [{select: $.a, roles: [a]}]}");
    let maybe = rule("request: {seal: [{select: \"$[?@.x == 1]\", role: a}, {select: «$.a, role: b}]}");
    let status = rule("request: {seal: [{select: $.a, role: a}]}\nresponse: {status: «[200]}");
    let outbound = "engine: {endpoints: [\"unix:///run/e3.sock\"], app: shop, development: true}\n\
                    outbound:\n  - listen: LISTEN\n    destinations:\n      - host: a.example\n        upstream: http://a.example\n        \
                    rules: [{request: {open: [{select: SELECT$.a, roles: [a]LEAVE}]}}]\n";
    let public = outbound.replace("LISTEN", "«0.0.0.0:1").replace("SELECT", "").replace("LEAVE", "");
    let left = outbound.replace("LISTEN", "127.0.0.1:1").replace("SELECT", "«").replace("LEAVE", ", on_refused: leave");
    one_fault(Severity::Error, &public, "without asking for a key");
    for (marked, cause) in [
        (anywhere, "confused deputy"),
        (header, "can leave the header"),
        (kept, "kept here and opened towards clients"),
        (maybe, "may claim values"),
        (status, "does nothing to responses"),
        (inbound("forwarded: {trust: [10.0.0.0/8, «0.0.0.0/0]}"), "everyone is trusted"),
        (left, "goes to the third party as it is"),
        (format!("{}admin: {{listen: «\"0.0.0.0:9180\"}}\n", inbound("")), "not on loopback"),
    ] {
        one_fault(Severity::Warning, &marked, cause);
    }
}

#[test]
fn rules_that_never_meet_may_differ() {
    let two = |a: &str, b: &str| {
        inbound(&format!(
            "unruled: refuse\nrules:\n  - match: {a}\n    request: {{seal: [{{select: $.a, role: a}}]}}\n  \
             - match: {b}\n    request: {{seal: [{{select: $.a, role: b}}]}}"
        ))
    };
    for (a, b) in [
        ("{methods: [POST]}", "{methods: [PUT]}"),
        ("{path: /a/**}", "{path: /b/**}"),
        ("{path: /a-*}", "{path: /b-*}"),
        ("{headers: {X-Tenant: one}}", "{headers: {x-tenant: two}}"),
    ] {
        let report = check(&two(a, b));
        assert!(report.faults().is_empty(), "{a} {b}\n{report}");
    }
    let statuses = inbound(
        "rules:\n  - response: {status: [200-299], seal: [{select: $.a, role: a}]}\n  \
         - response: {status: [400-599], seal: [{select: $.a, role: b}]}",
    );
    let report = check(&statuses);
    assert!(report.faults().is_empty(), "{report}");
    let report = check(&statuses.replace("400-599", "299-400"));
    assert_eq!(report.count(), (1, 0), "{report}");
}

/// Kept as a text, so that a change of any message is seen.
#[test]
fn many_faults_are_told_in_one_run() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/faults");
    let text = fs::read_to_string(folder.join("many.yaml")).unwrap();
    let told = check(&text).to_text(false).replace("relay.yaml:", "many.yaml:");
    let golden = folder.join("many.txt");
    if std::env::var_os("E3_UPDATE_GOLDEN").is_some() {
        fs::write(&golden, &told).unwrap();
    }
    let expected = fs::read_to_string(&golden).unwrap();
    assert!(told == expected, "{}\ndiffers; with E3_UPDATE_GOLDEN=1 it is written anew:\n{told}", golden.display());
    let report = check(&text);
    assert!(report.count().0 > 40);
    for fault in report.faults() {
        assert!(fault.hint.is_some(), "no hint: {}", fault.cause);
    }
}

#[test]
fn what_is_no_yaml_is_told_with_its_place() {
    for (text, line) in [
        ("engine: {\n", 2),
        ("a: b: c\n", 1),
        ("a: 1\n---\nb: 1\n", 3),
        ("a: [*.example]\n", 1),
        ("a: *nowhere\n", 1),
        ("- a\nb: c\n", 2),
    ] {
        let report = check(text);
        assert!(report.has_errors() && report.faults().len() == 1, "{text:?}\n{report}");
        let at = report.faults()[0].place.line;
        assert!(report.faults()[0].hint.is_some(), "{report}");
        let words = report.to_string();
        assert!(!words.contains("from_str") && !words.contains("Options"), "words of a library\n{report}");
        assert!(at >= 1 && at <= line, "{text:?} at {at}\n{report}");
    }
    for text in ["", "# nothing\n", "7\n", "[]\n", "---\n"] {
        assert!(check(text).has_errors(), "{text:?}");
    }
}

#[test]
fn every_key_that_stands_twice_is_told() {
    let text = inbound(
        "unruled: pass\nunruled: refuse\nrules:\n  - match: {headers: {X-A: a, X-A: b}}\n    request: {seal: [{select: $.a, role: a, role: b}]}",
    );
    let report = check(&text);
    let twice: Vec<_> = report.faults().iter().filter(|f| f.cause.contains("stands twice")).collect();
    let told: Vec<_> = twice.iter().map(|f| (f.place.line, f.place.column, f.cause.as_str())).collect();
    let expected = [
        (7, 5, "the key `unruled` stands twice"),
        (9, 35, "the key `X-A` stands twice"),
        (10, 49, "the key `role` stands twice"),
    ];
    assert_eq!(told, expected, "{report}");
    assert_eq!(twice[0].hint.as_deref(), Some("it stands in line 6 already: keep one of the two"));
    assert_eq!(report.count().0, 3, "{report}");
}

#[test]
fn what_is_no_text_is_told_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let told = |name: &str| {
        let report = config::load(&folder.path().join(name)).unwrap_err();
        let fault = &report.faults()[0];
        assert!(fault.hint.is_some(), "{report}");
        (fault.place.line, fault.place.column, fault.cause.clone())
    };
    fs::write(folder.path().join("latin.yaml"), b"# notes\nlog: human # caf\xe9\n").unwrap();
    assert_eq!(told("latin.yaml"), (2, 17, "this is no text in UTF-8".to_owned()));
    assert_eq!(told(""), (0, 0, "is a folder, not a file".to_owned()));
    assert!(told("nowhere.yaml").2.contains("cannot be read"));
}

#[test]
fn reports_are_json_for_programs() {
    let report = check(&inbound("unruled: refues"));
    let json: serde_json::Value = serde_json::from_str(&report.to_json()).unwrap();
    assert_eq!(json["file"], "relay.yaml");
    let fault = &json["faults"][0];
    assert_eq!((fault["line"].as_u64(), fault["column"].as_u64()), (Some(6), Some(14)));
    assert_eq!((fault["severity"].as_str(), fault["hint"].as_str()), (Some("error"), Some("did you mean `refuse`?")));
}

#[test]
fn the_files_we_ship_are_good_and_name_their_schema() {
    let config = repository().join("config");
    let mut files = vec![config.join("relay.yaml")];
    for entry in fs::read_dir(config.join("examples")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if name.ends_with(".yaml") && !name.starts_with("e3") && !name.starts_with("policy") {
            files.push(path);
        }
    }
    assert!(files.len() >= 4, "{files:?}");
    for file in files {
        let checked = config::load(&file).unwrap_or_else(|report| panic!("{report}"));
        assert_eq!(checked.warnings.count(), (0, 0), "{}", checked.warnings);
        let text = fs::read_to_string(&file).unwrap();
        let named = text.lines().next().unwrap().strip_prefix("# yaml-language-server: $schema=").unwrap_or_default();
        let schema = file.parent().unwrap().join(named).canonicalize().unwrap();
        assert_eq!(schema, config.join("schema/relay.json").canonicalize().unwrap(), "{}", file.display());
    }
}

#[test]
fn the_schema_is_that_of_the_source() {
    let written = fs::read_to_string(repository().join("config/schema/relay.json")).unwrap();
    assert!(written == config::schema(), "run: relay schema > config/schema/relay.json");
    let written = fs::read_to_string(repository().join("config/schema/openapi.json")).unwrap();
    assert!(written == relay::api::openapi::document(), "run: relay openapi > config/schema/openapi.json");
}

#[test]
fn every_key_is_described_for_editors() {
    fn walk(at: &str, value: &serde_json::Value) {
        for (key, property) in value.get("properties").and_then(|p| p.as_object()).into_iter().flatten() {
            assert!(property.get("description").is_some(), "{at}.{key} has no description");
            walk(&format!("{at}.{key}"), property);
        }
        for (name, definition) in value.get("$defs").and_then(|d| d.as_object()).into_iter().flatten() {
            walk(name, definition);
        }
    }
    walk("file", &serde_json::from_str(&config::schema()).unwrap());
}

/// A good file around these lines of one destination.
fn destination(upstream: &str, lines: &str) -> String {
    let indented: String = lines.lines().map(|line| format!("        {line}\n")).collect();
    format!(
        "engine: {{endpoints: [\"unix:///run/e3.sock\"], app: shop, development: true}}\n\
         outbound:\n  - listen: 127.0.0.1:8081\n    destinations:\n      - host: a.example\n        upstream: {upstream}\n{indented}"
    )
}

#[test]
fn what_a_destination_may_reach_is_written_in_one_way() {
    for (lines, cause) in [
        ("networks: [«10.0.0.1/8]", "is no network"),
        ("networks: [10.0.0.0/8, «private]", "is no network"),
        ("networks: [«\"10.0.0.0/40\"]", "is no network"),
    ] {
        one_fault(Severity::Error, &destination("https://a.example", lines), cause);
    }
    for odd in ["http://127.1", "http://0x7f.1", "http://2130706433", "http://0177.0.0.1"] {
        one_fault(Severity::Error, &destination(&format!("«{odd}"), ""), "more than one reading");
    }
    for (upstream, lines) in [
        ("http://127.0.0.1:9", ""),
        ("http://localhost:9", ""),
        ("http://[::1]:9", ""),
        ("https://a.example", "networks: [10.0.0.0/8, \"fd00::/8\", 169.254.169.254]"),
    ] {
        assert!(!check(&destination(upstream, lines)).has_errors(), "{upstream}");
    }
}

#[test]
fn what_connect_opens_is_said_without_contradiction() {
    let upstream = "https://a.example";
    let rule = "rules: [{request: {open: [{select: $.a, roles: [a]}]}}]";
    // Any host below one, each its own upstream.
    let any = |lines: &str| {
        let plain = destination("PLAIN", lines).replace("        upstream: PLAIN\n", "");
        plain.replace("host: a.example", "host: \"*.a.example\"")
    };
    assert!(!check(&any("tunnel: true\nports: [443, 8443]")).has_errors());
    for (marked, cause) in [
        (destination(upstream, "intercept: true").replace("- host", "- «host"), "names no `ca`"),
        (destination(upstream, "intercept: true\ntunnel: true").replace("- host", "- «host"), "stand together"),
        (destination(upstream, "ports: «[443]"), "refused on every port"),
        (destination(upstream, "tunnel: true\nports: «[]"), "no port"),
        (destination(upstream, "tunnel: true\nports: [«0]"), "0 is no port"),
        (destination(upstream, "tunnel: true\nports: [«70000]"), "out of range"),
        (destination(upstream, "tunnel: true\npaths: «/v1/**"), "no path is seen in a tunnel"),
        (destination(upstream, "paths: [«v1]"), "cannot be used"),
        (destination(upstream, "paths: «[]"), "no path would be open"),
        (destination(upstream, "tls_min: «\"1.1\""), "one of 1.2, 1.3"),
        (destination(upstream, "client_key: «a.key"), "other half"),
        (destination(upstream, "client_certificate: «a.pem\nclient_key: Cargo.toml"), "cannot be read"),
        (any("name: «b.example"), "the name that is verified"),
        (any("health: {}").replace("\"*", "«\"*"), "no server is known"),
        (
            destination(upstream, "").replace("    destinations", "    keys: [«secret]\n    destinations"),
            "no hash of a key",
        ),
    ] {
        one_fault(Severity::Error, &marked, cause);
    }
    let both = check(&destination(upstream, "client_certificate: a.pem\nclient_key: a.key"));
    assert_eq!(both.count(), (2, 0), "both files are missing, and both are told\n{both}");
    one_fault(
        Severity::Warning,
        &destination(upstream, &format!("tunnel: true\n{rule}")).replace("[{request", "[«{request"),
        "do not hold",
    );
    let itself = destination("PLAIN", "tunnel: true").replace("        upstream: PLAIN\n", "");
    let checked = config::check(Path::new("relay.yaml"), &itself).unwrap();
    let site = checked.config.outbound[0].sites.get("a.example").unwrap();
    assert_eq!((&*site.upstream.servers[0].host, site.upstream.servers[0].port), ("a.example", 443));
    assert!(site.upstream.tls.is_some());
}
