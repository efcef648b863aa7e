//! What a policy file may say: every fault is told, with its place, in one run.

use crate::decisions::example;
use e3_enclave::policy::document::Document;
use e3_enclave::policy::signed::read;
use std::path::Path;

pub(crate) fn parse(text: &str) -> Document {
    read(Path::new("policy.yaml"), text).unwrap_or_else(|report| panic!("{report}")).0
}

fn refused(text: &str) -> String {
    match read(Path::new("policy.yaml"), text) {
        Ok(_) => panic!("accepted:\n{text}"),
        Err(report) => report.to_string(),
    }
}

fn said(text: &str) -> String {
    read(Path::new("policy.yaml"), text).unwrap_or_else(|report| panic!("{report}")).1.to_string()
}

#[test]
fn every_fault_is_told_with_its_place_and_a_hint() {
    for (from, to, place, cause) in [
        ("version: 3", "version: 0", ":1:10", "out of range"),
        ("version: 3\n", "", ":1:1", "`version` is missing"),
        ("app: shop", "app: Shop", ":2:6", "no name of an app"),
        ("app: shop\n", "", ":", "`app` is missing"),
        ("max_age: 400d", "max_age: 400 days", ":4:", "no time span"),
        ("max_age: 400d", "max_age: 400d, deterministic: true", ":4:", "`max_age` and `deterministic`"),
        ("max_age: 400d", "max_age: 400d, public_seal: true", ":4:", "`max_age` and `public_seal`"),
        (
            "{deterministic: true}",
            "{deterministic: true, public_seal: true}",
            ":5:",
            "`deterministic` and `public_seal`",
        ),
        ("type: [string, number]", "type: [text]", ":4:", "stands where one of"),
        ("type: [string, number]", "typ: [string]", ":4:", "unknown key `typ`"),
        ("{deterministic: true}", "{determinstic: true}", ":5:", "did you mean `deterministic`?"),
        ("phone-service: {api_key: sha256:", "phone-service: {api_key: md5:", ":10:", "no hash of a key"),
        ("payout-relay: {relay: {spki", "payout-relay: {relay: {plain: true, spki", ":9:", "`plain` proves nothing"),
        ("payout-relay: {relay: {", "payout-relay: {image: [{pcr0: ab}], relay: {", ":9:", "more than one way"),
        ("{pcr8: ", "{pcr8: xx", ":11:", "hexadecimal"),
        ("who: payout-relay", "who: payout-rely", ":14:", "did you mean `payout-relay`?"),
        ("roles: [card-number, trap]", "roles: [card-nmber]", ":14:", "did you mean `card-number`?"),
        ("roles: [card-number, trap]", "roles: []", ":14:", "no role"),
        ("may: [open], roles: [card-number, trap]", "may: [opn], roles: [card-number]", ":14:", "stands where one of"),
        ("to: [api.stripe.com]", "to: []", ":14:", "no host"),
        ("to: [api.stripe.com]", "to: ['https://api.stripe.com']", ":14:", "is no host"),
        ("to: [api.stripe.com]", "to: ['*']", ":14:", "is no host"),
        ("methods: [POST]", "methods: [post]", ":14:", "is no method"),
        ("from: [10.0.0.0/8]", "from: [10.0.0.1/8]", ":15:", "is no network"),
        ("until: 2100-01-01", "until: next year", ":15:", "is no time"),
        ("until: 2100-01-01", "since: 2100-01-02, until: 2100-01-01", ":15:", "`until` is not after `since`"),
        ("rate: 100/s", "rate: 100", ":16:", "a whole number stands where text"),
        ("rate: 100/s", "rate: 100/y", ":16:", "is no rate"),
        ("grants:", "grant:", ":12:", "did you mean `grants`?"),
    ] {
        let text = example().replacen(from, to, 1);
        assert_ne!(text, example(), "{from}");
        let report = refused(&text);
        let first = format!("policy.yaml{place}");
        assert!(report.contains(&first) && report.contains(cause), "{to}: {report}");
    }
}

#[test]
fn all_faults_are_told_in_one_run() {
    let text = example()
        .replace("400d", "4x")
        .replace("10.0.0.0/8", "x")
        .replace("100/s", "y/s")
        .replace("who: checkout-relay", "who: nobody");
    let report = refused(&text);
    for cause in ["no time span", "is no network", "is no rate", "`nobody` is no principal"] {
        assert!(report.contains(cause), "{cause}: {report}");
    }
}

#[test]
fn one_key_is_one_principal() {
    let line = example().lines().find(|l| l.contains("phone-service:")).unwrap().replace("phone-service", "other");
    let text = example().replace("grants:", &format!("{line}\ngrants:"));
    let report = refused(&text);
    assert!(report.contains("the same API key stands in line"), "{report}");
}

#[test]
fn several_apps_stand_side_by_side() {
    let key = "ab".repeat(32);
    let section = format!(
        "{{roles: {{r: {{}}}}, principals: {{p: {{api_key: sha256:{key}}}}}, grants: [{{who: p, may: open, roles: r}}]}}"
    );
    let document = parse(&format!("version: 1\napps:\n  shop: {section}\n  bank: {{roles: {{r: {{}}}}}}\n"));
    assert_eq!(document.apps.len(), 2);
    // Each principal belongs to one app.
    let report = refused(&format!("version: 1\napps:\n  shop: {section}\n  bank: {section}\n"));
    assert!(report.contains("the same API key"), "{report}");
    assert!(refused(&format!("version: 1\napp: shop\napps:\n  bank: {section}\n")).contains("stand together"));
}

#[test]
fn wide_and_useless_grants_and_signers_alone_are_warned_of_and_conditions_labelled() {
    let said_of_example = said(&example());
    for part in [
        "pcr8 alone: any image by that signer",
        "`seal` on `phone` is never possible",
        "`open` on `trap` is never possible",
        "`to` of this grant is stated for payout-relay",
        "`from` of this grant is stated for phone-service",
        "proven by the engine's own clock: until 2100-01-01",
        "100/s for each engine",
    ] {
        assert!(said_of_example.contains(part), "{part}: {said_of_example}");
    }
    let wide = example().replace(
        "who: checkout-relay, may: [seal, seal-deterministic], roles: [card-number, phone]",
        "who: '*', may: [open], roles: '*', from: ['0.0.0.0/0']",
    );
    let said_of_wide = said(&wide);
    for part in [
        "every role",
        "everybody who is added later",
        "whole internet",
        "any destination",
        "`checkout-relay` may do nothing",
    ] {
        assert!(said_of_wide.contains(part) || part == "`checkout-relay` may do nothing", "{part}: {said_of_wide}");
    }
    let attested = example().replace(
        "payout-relay: {relay: {",
        &format!("payout-relay: {{relay: {{image: [{{pcr0: {}}}], ", "b5".repeat(48)),
    );
    assert!(said(&attested).contains("`to` of this grant is proven for payout-relay"));
}
