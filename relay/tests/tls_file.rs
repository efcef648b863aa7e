//! What the rules file says of TLS at listeners, held against the certificates, keys and authorities that it names.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use relay::config::report::Severity;
use relay::config::{self, Report};

/// A folder with certificates that are good, and some that are not.
fn files() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str, mode: u32| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let authority = |name: &str| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        (Issuer::new(params, key), pem)
    };
    let ((one, ca), (_, other)) = (authority("one"), authority("other"));
    let leaf = |names: &[&str], days: (i64, i64)| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>()).unwrap();
        let day = |n: i64| {
            let time = Duration::from_secs(n.unsigned_abs() * 86_400);
            if n < 0 { SystemTime::now() - time } else { SystemTime::now() + time }
        };
        (params.not_before, params.not_after) = (day(days.0).into(), day(days.1).into());
        (params.signed_by(&key, &one).unwrap().pem(), key.serialize_pem())
    };
    let good = leaf(&["a.example", "*.b.example"], (-1, 90));
    write("a.pem", &format!("{}{ca}", good.0), 0o644);
    write("a.key", &good.1, 0o600);
    write("group.key", &good.1, 0o640);
    write("open.key", &good.1, 0o644);
    write("reversed.pem", &format!("{ca}{}", good.0), 0o644);
    write("foreign.pem", &format!("{}{other}", good.0), 0o644);
    write("other.key", &leaf(&["a.example"], (-1, 90)).1, 0o600);
    let timed = |name: &str, days: (i64, i64)| {
        let (pem, key) = leaf(&["a.example"], days);
        write(&format!("{name}.pem"), &pem, 0o644);
        write(&format!("{name}.key"), &key, 0o600);
    };
    timed("expired", (-90, -1));
    timed("early", (1, 90));
    timed("soon", (-80, 10));
    write("ca.pem", &ca, 0o644);
    write("empty.pem", "nothing\n", 0o644);
    folder
}

fn check(folder: &Path, text: &str) -> Report {
    match config::check(&folder.join("relay.yaml"), text) {
        Ok(checked) => checked.warnings,
        Err(report) => report,
    }
}

fn engine() -> &'static str {
    "engine: {endpoints: [\"unix:///run/e3.sock\"], app: shop, development: true}\n"
}

fn site(host: &str, tls: &str) -> String {
    format!("  - listen: 127.0.0.1:8443\n    hosts: [{host}]\n    backend: http://127.0.0.1:9\n    {tls}\n")
}

fn inbound(tls: &str) -> String {
    format!("{}inbound:\n{}", engine(), site("a.example", tls))
}

/// The mark `«` stands in front of what the one fault points at.
fn one_fault(folder: &Path, severity: Severity, marked: &str, cause: &str) {
    let before = marked.split('«').next().unwrap();
    let line = before.matches('\n').count() + 1;
    let column = before.chars().rev().take_while(|c| *c != '\n').count() + 1;
    let report = check(folder, &marked.replace('«', ""));
    let faults: Vec<_> = report.faults().iter().filter(|f| f.severity != Severity::Note).collect();
    assert_eq!(faults.len(), 1, "one fault in\n{marked}\n{report}");
    assert_eq!((faults[0].place.line, faults[0].place.column), (line, column), "{marked}\n{report}");
    assert_eq!(faults[0].severity, severity, "{marked}\n{report}");
    assert!(faults[0].cause.contains(cause), "`{cause}` is not said of\n{marked}\n{report}");
}

/// What a reload watches: a change of any of them is taken up.
#[test]
fn every_file_that_the_rules_name_is_watched() {
    let folder = files();
    for (text, named) in [
        (inbound("backend_ca: ca.pem").replace("http://", "https://"), &["ca.pem"][..]),
        (inbound("tls: {certificate: a.pem, key: a.key, client_ca: ca.pem}"), &["a.key", "a.pem", "ca.pem"]),
        (
            format!(
                "{}outbound:\n  - listen: 127.0.0.1:8443\n    destinations:\n      \
                 - {{host: a.example, ca: ca.pem, client_certificate: a.pem, client_key: a.key}}\n      \
                 - {{host: \"*.b.example\", ca: other.pem}}\n",
                engine()
            ),
            &["a.key", "a.pem", "ca.pem", "other.pem"],
        ),
        (
            format!(
                "{}acme: {{directory: \"https://acme.example\", terms_agreed: true, store: acme, ca: ca.pem}}\n",
                inbound("")
            ),
            &["ca.pem"],
        ),
    ] {
        fs::copy(folder.path().join("ca.pem"), folder.path().join("other.pem")).unwrap();
        let checked =
            config::check(&folder.path().join("relay.yaml"), &text).unwrap_or_else(|report| panic!("{report}"));
        let mut watched: Vec<_> = checked.config.files.iter().map(|file| file.path.clone()).collect();
        watched.sort();
        let named: Vec<_> = named.iter().map(|name| folder.path().join(name)).collect();
        assert_eq!(watched, named, "{text}");
    }
}

#[test]
fn every_fault_of_a_certificate_is_told_at_its_place() {
    let folder = files();
    for (tls, cause) in [
        ("tls: «{}", "without a certificate"),
        ("tls: {certificate: «a.pem}", "other half"),
        ("tls: {key: «a.key}", "other half"),
        ("tls: {certificate: «none.pem, key: a.key}", "cannot be read"),
        ("tls: {certificate: a.pem, key: «none.key}", "cannot be read"),
        ("tls: {certificate: «empty.pem, key: a.key}", "no certificate in PEM"),
        ("tls: {certificate: a.pem, key: «ca.pem}", "no private key"),
        ("tls: {certificate: a.pem, key: «other.key}", "key of another certificate"),
        ("tls: {certificate: a.pem, key: «open.key}", "others may read"),
        ("tls: {certificate: «reversed.pem, key: a.key}", "an authority's"),
        ("tls: {certificate: «foreign.pem, key: a.key}", "was not issued by"),
        ("tls: {certificate: a.pem, key: a.key, min: «\"1.1\"}", "one of 1.2, 1.3"),
        ("tls: {certificate: a.pem, key: a.key, client_ca: «none.pem}", "cannot be read"),
        ("tls: {certificate: a.pem, key: a.key, client_ca: «empty.pem}", "holds no certificate"),
        ("tls: {certificate: a.pem, key: a.key, client_certificate: «require}", "no client certificate could verify"),
        (
            "tls: {certificate: a.pem, key: a.key, client_ca: ca.pem, client_certificate: «always}",
            "one of require, request",
        ),
        ("tls: {certificate: a.pem, key: a.key, client_certificate_header: «true}", "is ever verified"),
        ("tls: {certificate: a.pem, key: a.key, hsts: «{}}", "`max_age` is missing"),
        ("tls: {certificate: a.pem, key: a.key, hsts: {max_age: «forever}}", "is no time"),
        ("tls: {certificate: a.pem, key: a.key, hsts: {max_age: 365d, preload: «true}}", "lists would not take"),
        (
            "tls: {certificate: a.pem, key: a.key, hsts: {max_age: 30d, include_subdomains: true, preload: «true}}",
            "lists would not take",
        ),
    ] {
        one_fault(folder.path(), Severity::Error, &inbound(tls), cause);
    }
    let good = "tls: {certificate: a.pem, key: a.key}";
    for host in ["«c.example", "«x.a.example", "«x.y.b.example", "«\"*.a.example\"", "«127.0.0.1"] {
        let marked = inbound(good).replace("[a.example]", &format!("[a.example, {host}]"));
        one_fault(folder.path(), Severity::Error, &marked, "is not for");
    }
    for (name, cause) in [("expired", "has expired"), ("early", "not valid yet"), ("soon", "within 14 days")] {
        let marked = inbound(&format!("tls: {{certificate: «{name}.pem, key: {name}.key}}"));
        one_fault(folder.path(), Severity::Warning, &marked, cause);
    }
    for (host, tls) in [
        ("a.example", good),
        ("\"*.b.example\"", good),
        (
            "x.b.example",
            "tls: {certificate: a.pem, key: group.key, min: \"1.3\", client_ca: ca.pem, client_certificate: request}",
        ),
        (
            "a.example",
            "tls: {certificate: a.pem, key: a.key, hsts: {max_age: 365d, include_subdomains: true, preload: true}}",
        ),
    ] {
        let text = format!("{}inbound:\n{}", engine(), site(host, tls));
        let report = check(folder.path(), &text);
        assert_eq!(report.faults().iter().filter(|f| f.severity != Severity::Note).count(), 0, "{report}");
    }
}

#[test]
fn all_sites_of_an_address_have_tls_or_none() {
    let folder = files();
    let good = "tls: {certificate: a.pem, key: a.key}";
    let default = "tls: {certificate: a.pem, key: a.key, default: true}";
    let both =
        |one: &str, two: &str| format!("{}inbound:\n{}{}", engine(), site("a.example", one), site("x.b.example", two));
    let second = |text: String| {
        let at = text.rfind("- listen").unwrap();
        format!("{}- «{}", &text[..at], &text[at + 2..])
    };
    one_fault(folder.path(), Severity::Error, &second(both(good, "fold_case: false")), "this site has no TLS");
    one_fault(folder.path(), Severity::Error, &second(both(default, default)), "another default site");
    assert!(!check(folder.path(), &both(good, default)).has_errors());
}

#[test]
fn an_outbound_listener_has_a_certificate_of_its_own() {
    let folder = files();
    let outbound = |tls: &str| {
        format!(
            "{}outbound:\n  - listen: 127.0.0.1:8081\n    tls: {tls}\n    destinations: [{{host: a.example}}]\n",
            engine()
        )
    };
    one_fault(folder.path(), Severity::Error, &outbound("«{certificate: a.pem}"), "`key` is missing");
    one_fault(
        folder.path(),
        Severity::Error,
        &outbound("{certificate: a.pem, key: «other.key}"),
        "another certificate",
    );
    assert!(!check(folder.path(), &outbound("{certificate: a.pem, key: a.key}")).has_errors());
}

#[test]
fn what_orders_certificates_is_told_apart_from_what_reads_them() {
    let folder = files();
    let good = "{directory: \"https://ca.example/dir\", store: store, terms_agreed: true}";
    let file = |acme: &str, tls: &str| format!("{}acme: {acme}\ninbound:\n{}", engine(), site("a.example", tls));
    let ordered = "tls: {acme: true}";
    for (acme, cause) in [
        ("«{directory: \"https://ca.example/dir\", store: store}", "terms are not agreed"),
        ("{directory: «\"http://ca.example/dir\", store: store, terms_agreed: true}", "no directory"),
        ("«{directory: \"https://ca.example/dir\", terms_agreed: true}", "`store` is missing"),
        (
            "{directory: \"https://ca.example/dir\", store: store, terms_agreed: true, contact: [«ops@a.example]}",
            "no contact",
        ),
        ("{directory: \"https://ca.example/dir\", store: store, terms_agreed: true, ca: «none.pem}", "cannot be read"),
        (
            "{directory: \"https://ca.example/dir\", store: store, terms_agreed: true, challenge: «dns-01}",
            "one of tls-alpn-01, http-01",
        ),
        (
            "{directory: \"https://ca.example/dir\", store: store, terms_agreed: true, eab: {kid: a, key: «open.key}}",
            "others may read",
        ),
        (
            "{directory: \"https://ca.example/dir\", store: store, terms_agreed: true, eab: {kid: a, key: «a.key}}",
            "no key in base64url",
        ),
    ] {
        let cause_of_open = acme.contains("open.key");
        let marked = file(acme, ordered);
        if cause_of_open {
            // It is no key in base64url either.
            assert!(check(folder.path(), &marked.replace('«', "")).to_text(false).contains(cause));
        } else {
            one_fault(folder.path(), Severity::Error, &marked, cause);
        }
    }
    one_fault(folder.path(), Severity::Error, &inbound("tls: {acme: «true}"), "where certificates are ordered");
    one_fault(folder.path(), Severity::Error, &file(good, "tls: {acme: true, key: «a.key}"), "is ordered, not read");
    for host in ["«\"*.a.example\"", "«127.0.0.1", "«intranet"] {
        let marked = file(good, ordered).replace("[a.example]", &format!("[a.example, {host}]"));
        one_fault(folder.path(), Severity::Error, &marked, "cannot be proven");
    }
    let http = good.replace('}', ", challenge: http-01}");
    one_fault(folder.path(), Severity::Error, &file(&http, "tls: {acme: «true}"), "needs a plain inbound listener");
    let redirect = "  - {listen: 127.0.0.1:8080, hosts: [a.example], redirect: https}\n";
    for text in [file(good, ordered), format!("{}{redirect}", file(&http, ordered))] {
        assert!(!check(folder.path(), &text).has_errors(), "{}", check(folder.path(), &text));
    }
    fs::create_dir(folder.path().join("store")).unwrap();
    fs::set_permissions(folder.path().join("store"), fs::Permissions::from_mode(0o755)).unwrap();
    one_fault(
        folder.path(),
        Severity::Error,
        &file(&good.replace("store: store", "store: «store"), ordered),
        "others may enter",
    );
}

#[test]
fn a_site_that_sends_on_to_https_does_nothing_else() {
    let folder = files();
    let site =
        |more: &str| format!("{}inbound:\n  - «listen: 127.0.0.1:8080\n    hosts: [a.example]\n    {more}\n", engine());
    let at = |more: &str| site(more).replacen('«', "", 1);
    one_fault(folder.path(), Severity::Error, &site("fold_case: false"), "`backend` is missing");
    one_fault(
        folder.path(),
        Severity::Error,
        &at("redirect: https\n    backend: «http://127.0.0.1:9"),
        "nothing reaches a backend",
    );
    one_fault(
        folder.path(),
        Severity::Error,
        &at("redirect: https\n    tls: «{certificate: a.pem, key: a.key}"),
        "over TLS",
    );
    one_fault(
        folder.path(),
        Severity::Error,
        &at("redirect: https\n    rules: [«{request: {seal: [{select: $.a, role: a}]}}]"),
        "no message is ruled",
    );
    one_fault(folder.path(), Severity::Error, &at("redirect: «http"), "`http` stands where");
    assert!(!check(folder.path(), &at("redirect: https")).has_errors());
}
