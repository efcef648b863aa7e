//! Rules that no message meets, that some message gets round, or that contradict each other across sites, are told when the file loads.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::Command;

use relay::config::report::{Fault, Severity};
use relay::config::{self, Report};
use relay::outbound::egress::Refused;

const ENGINE: &str = "engine: {endpoints: [\"unix:///run/e3.sock\"], app: shop, development: true}\n";

fn check(text: &str) -> Report {
    match config::check(Path::new("relay.yaml"), text) {
        Ok(checked) => checked.warnings,
        Err(report) => report,
    }
}

/// What the report says, notes aside.
fn faults(report: &Report) -> Vec<&Fault> {
    report.faults().iter().filter(|fault| fault.severity != Severity::Note).collect()
}

/// One site with these keys, and rules in flow style, one a line.
fn site(host: &str, keys: &str, rules: &str) -> String {
    let rules: String = rules.lines().map(|rule| format!("      - {rule}\n")).collect();
    format!(
        "  - listen: 127.0.0.1:8080\n    hosts: [{host}]\n    backend: http://127.0.0.1:9\n    {keys}\n    rules:\n{rules}"
    )
}

fn inbound(keys: &str, rules: &str) -> String {
    format!("{ENGINE}inbound:\n{}", site("a.example", keys, rules))
}

fn destination(keys: &str, rules: &str) -> String {
    let rules: String = rules.lines().map(|rule| format!("          - {rule}\n")).collect();
    format!(
        "{ENGINE}outbound:\n  - listen: 127.0.0.1:8081\n    destinations:\n      - host: a.example\n        {keys}\n        rules:\n{rules}"
    )
}

/// Holds a text with one fault to it: the mark `«` stands in front of what the report must point at. Every fault has a hint.
fn one_fault(severity: Severity, marked: &str, cause: &str) {
    let before = marked.split('«').next().unwrap();
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    let report = check(&marked.replace('«', ""));
    let faults = faults(&report);
    assert_eq!(faults.len(), 1, "one fault in\n{marked}\n{report}");
    let fault = faults[0];
    assert_eq!((fault.place.line, fault.place.column), (line, column), "{marked}\n{report}");
    assert_eq!(fault.severity, severity, "{marked}\n{report}");
    assert!(fault.cause.contains(cause), "`{cause}` is not said of\n{marked}\n{report}");
    assert!(fault.hint.is_some(), "{report}");
}

fn good(text: &str) {
    let report = check(text);
    assert!(faults(&report).is_empty(), "{text}\n{report}");
}

const SEAL: &str = "request: {seal: [{select: $.a, role: a}]}";
const OPEN: &str = "response: {open: [{select: $.a, roles: [a]}]}";

#[test]
fn a_rule_that_no_message_meets_is_refused() {
    let strict = |rule: &str| inbound("unruled: refuse", rule);
    let header = |header: &str, rest: &str| strict(&format!("{{match: {{headers: {{{header}}}}}, {rest}}}"));
    for (marked, cause) in [
        // Paths that the destination does not open.
        (
            destination("paths: [/charges/**]", &format!("{{match: {{path: [/charges/7, «/refunds/**]}}, {SEAL}}}")),
            "/refunds/**",
        ),
        // Headers with which nothing gets through, or that say nothing.
        (header("X-HTTP-Method-Override: «PUT", SEAL), "is refused with 400"),
        (header("X-Method-Override: «\"*\"", OPEN), "is refused with 400"),
        (header("Upgrade: «websocket", SEAL), "is refused with 403"),
        (header("Transfer-Encoding: «gzip", SEAL), "is refused with 400"),
        (header("Content-Encoding: «gzip", SEAL), "is refused with 415"),
        (header("Content-Type: «text/plain", SEAL), "is refused with 415"),
        (header("Host: «b.example", SEAL), "a rule cannot choose by it"),
        // Responses that are never read.
        (strict("{response: {status: «[204], open: [{select: $.a, roles: [a]}]}}"), "is read"),
        (strict("{response: {status: «[204, 206, \"304-304\"], open: [{select: $.a, roles: [a]}]}}"), "is read"),
        (strict(&format!("{{match: {{methods: «[HEAD]}}, {OPEN}}}")), "HEAD has a body"),
    ] {
        one_fault(Severity::Error, &marked, cause);
    }
    for text in [
        destination("paths: [/charges/**]", &format!("{{match: {{path: [/charges/7, \"/*/7\"]}}, {SEAL}}}")),
        destination("paths: [/charges/**]", &format!("{{{SEAL}}}")),
        header("Transfer-Encoding: chunked", SEAL).replace("Transfer-Encoding: chunked", "Content-Encoding: Identity"),
        header("Content-Encoding: gzip", OPEN),
        header("Content-Type: application/json; charset=utf-8", SEAL),
        header("Content-Type: \"text/*\"", SEAL),
        header("X-Original-URL: \"*\"", SEAL),
        strict("{response: {status: [200, 204], open: [{select: $.a, roles: [a]}]}}"),
        strict("{response: {status: [\"200-206\"], open: [{select: $.a, roles: [a]}]}}"),
        strict(&format!("{{match: {{methods: [HEAD]}}, {SEAL}}}")),
        strict(&format!("{{match: {{methods: [GET, HEAD]}}, {OPEN}}}")),
    ] {
        good(&text);
    }
}

#[test]
fn rules_of_a_site_have_names_of_their_own() {
    let named = |first: &str, second: &str| {
        inbound(
            "",
            &format!(
                "{{{first}{SEAL}}}\n{{{second}match: {{path: /x}}, request: {{seal: [{{select: $.b, role: a}}]}}}}"
            ),
        )
    };
    one_fault(Severity::Error, &named("name: one, ", "name: «one, "), "the rule in line 8 has the name `one` already");
    one_fault(Severity::Error, &named("name: «\"2\", ", ""), "the rule in line 9 has the name `2` already");
    good(&named("name: one, ", "name: two, "));
    good(&named("name: \"1\", ", ""));
}

#[test]
fn a_role_is_sealed_in_one_way_in_the_whole_file() {
    let sealed = |mark: &str, how: &str| {
        format!(
            "{ENGINE}inbound:\n{}outbound:\n  - listen: 127.0.0.1:8081\n    destinations:\n      - host: b.example\n        \
             rules: [{{response: {{seal: [{{select: {mark}$.mail, role: email{how}}}]}}}}]\n",
            site("a.example", "", "{request: {seal: [{select: $.email, role: email, deterministic: true}]}}")
        )
    };
    one_fault(Severity::Error, &sealed("«", ""), "`email` is not sealed deterministically here, and is in line 8");
    good(&sealed("", ", deterministic: true"));
}

#[test]
fn what_one_site_keeps_and_another_opens_is_warned_of() {
    let kept = "{request: {seal: [{select: «$.a, role: a, tokens: keep}]}}";
    let two = format!(
        "{ENGINE}inbound:\n{}{}",
        site("a.example", "", kept),
        site("b.example", "", "{response: {open: [{select: $.x, roles: [b, a]}]}}")
    );
    one_fault(Severity::Warning, &two, "are kept here and opened towards clients in line 14");
    good(&two.replace('«', "").replace("[b, a]", "[b]"));
}

#[test]
fn a_value_inside_one_that_is_taken_whole_is_warned_of() {
    let two = |whole: &str, inside: &str| {
        inbound("", &format!("{{request: {{seal: [{{select: {whole}, role: a}}, {{select: {inside}, role: b}}]}}}}"))
    };
    one_fault(
        Severity::Warning,
        &two("$.card", "«$..cvc"),
        "`$..cvc` and `$.card` in line 8 may claim a value and one inside it",
    );
    one_fault(
        Severity::Warning,
        &two("$..cvc", "«$.card"),
        "`$.card` and `$..cvc` in line 8 may claim a value and one inside it",
    );
    // A member of a member is likely a value that holds none.
    good(&two("$.card.number", "$..cvc"));
    good(&two("$.card", "$..cvc").replace("role: b", "role: a"));
}

#[test]
fn a_method_that_a_body_replaces_is_warned_of() {
    let put = |more: &str, also: &str| {
        inbound(more, &format!("{{match: {{methods: «[PUT, PATCH], path: /v1/orders/*}}, {SEAL}}}{also}"))
    };
    one_fault(Severity::Warning, &put("", ""), "a POST to these paths meets no rule");
    for also in [
        "\n{match: {methods: [POST], path: /v2/**}, request: {seal: [{select: $.b, role: a}]}}",
        "\n{match: {methods: [POST], path: /v1/orders}, request: {seal: [{select: $.b, role: a}]}}",
        "\n{match: {methods: [POST]}, response: {open: [{select: $.b, roles: [a]}]}}",
    ] {
        one_fault(Severity::Warning, &put("", also), "a POST to these paths meets no rule");
    }
    let plain = |more: &str, also: &str| put(more, also).replace('«', "");
    for text in [
        plain("unruled: refuse", ""),
        plain("", "").replace("[PUT, PATCH]", "[PUT, POST]"),
        plain("", "\n{match: {methods: [POST], path: /v1/**}, request: {seal: [{select: $.b, role: a}]}}"),
        plain("", "\n{request: {seal: [{select: $.b, role: a}]}}"),
        // Without it tokens stay tokens.
        plain("", "").replace(SEAL, OPEN),
    ] {
        good(&text);
    }
}

#[test]
fn opened_values_never_go_in_plaintext_to_the_internet() {
    let rule = "{request: {open: [{select: $.a, roles: [a]}]}}";
    // Without an engine that proves itself there is another fault.
    let told = |keys: &str, rule: &str, development: &str| {
        let text = destination(keys, rule).replace(", development: true", development);
        let report = check(&text);
        let found = report.faults().iter().find(|fault| fault.cause.contains("in plaintext"));
        found.map(|fault| (fault.severity, fault.place.line, fault.place.column, fault.hint.is_some()))
    };
    for keys in [
        "upstream: http://api.pay.example",
        "upstream: HTTP://api.pay.example:8080/v1",
        "upstream: http://93.184.216.34",
        "{upstream: http://api.pay.example",
    ] {
        let keys = keys.trim_start_matches('{');
        assert_eq!(told(keys, rule, ""), Some((Severity::Error, 6, 19, true)), "{keys}");
        assert_eq!(told(keys, rule, ", development: true"), None, "{keys}");
    }
    let public = "upstream: http://api.pay.example\n        networks: [93.184.216.0/24]";
    assert!(told(public, rule, "").is_some(), "a listed network of the Internet is one all the same");
    for keys in [
        "upstream: https://api.pay.example",
        "upstream: http://127.0.0.1:9",
        "upstream: http://localhost:9",
        "upstream: http://[::1]:9",
        "upstream: http://10.0.0.7",
        "upstream: http://ledger.internal\n        networks: [10.0.0.0/8]",
    ] {
        assert_eq!(told(keys, rule, ""), None, "{keys}");
    }
    // What a name resolves to is seen when it is dialled: with an engine that proves itself no address of the Internet is.
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("relay.key");
    let made = Command::new(env!("CARGO_BIN_EXE_relay")).args(["key", "new"]).arg(&key).output().unwrap();
    assert!(made.status.success(), "{made:?}");
    let pcr = "1".repeat(96);
    let attested =
        format!(", attestation: {{pcr0: \"{pcr}\", pcr1: \"{pcr}\", pcr2: \"{pcr}\"}}, key: {}", key.display());
    for (engine, reached) in [(&*attested, Err(Refused::Plaintext)), (", development: true", Ok(()))] {
        let named = destination("upstream: http://ledger.internal\n        networks: [10.0.0.0/8]", rule);
        let named = named.replace(", development: true", engine);
        let checked = config::check(Path::new("relay.yaml"), &named).unwrap_or_else(|report| panic!("{report}"));
        let egress = checked.config.outbound[0].sites.get("a.example").unwrap().upstream.egress.clone().unwrap();
        assert_eq!(egress.check("93.184.216.34".parse().unwrap()), reached, "{engine}");
        assert_eq!(egress.check("10.1.2.3".parse().unwrap()), Ok(()), "{engine}");
    }
    let sealed = "{response: {seal: [{select: $.a, role: a}]}}";
    assert_eq!(told("upstream: http://api.pay.example", sealed, ""), None, "nothing is opened");
}
