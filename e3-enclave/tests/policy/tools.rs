//! `e3 policy …` as people run it.

use crate::decisions::example;
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

struct Said {
    code: i32,
    out: String,
    err: String,
}

fn e3(arguments: &[&str]) -> Said {
    let output = Command::new(env!("CARGO_BIN_EXE_e3")).args(arguments).stdin(Stdio::null()).output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    Said { code: output.status.code().unwrap(), out: text(&output.stdout), err: text(&output.stderr) }
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

fn written(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn the_policy_that_comes_with_the_project_is_good_and_says_what_its_table_expects() {
    let policy = repository().join("config/policy.yaml").display().to_string();
    let checked = e3(&["policy", "check", &policy]);
    assert_eq!(checked.code, 0, "{}", checked.err);
    assert!(checked.out.contains("good, 0 warnings\nversion 1, until 2030-01-01\n"), "{}", checked.out);
    let table = repository().join("config/examples/policy-expectations.yaml").display().to_string();
    let tested = e3(&["policy", "test", &table]);
    assert_eq!((tested.code, tested.err.as_str()), (0, ""));
    assert!(tested.out.contains("all 9 expectations hold"), "{}", tested.out);
}

#[test]
fn schemas_do_not_drift() {
    for (arguments, file) in [
        (&["policy", "schema"][..], "policy.json"),
        (&["policy", "schema", "--expectations"], "policy-expectations.json"),
        (&["host", "schema"], "e3-host.json"),
    ] {
        let kept = fs::read_to_string(repository().join("config/schema").join(file)).unwrap();
        assert!(e3(arguments).out == kept, "run: e3 {} > config/schema/{file}", arguments.join(" "));
    }
}

#[test]
fn an_expectation_that_does_not_hold_is_told_with_its_place_and_the_line_that_decided() {
    let folder = tempfile::tempdir().unwrap();
    written(folder.path(), "policy.yaml", &example());
    let table = "policy: policy.yaml\nexpect:\n  - {who: payout-relay, may: open, role: card-number, is: allowed}\n  \
                 - {who: phone-service, may: open, role: phone, from: 10.0.0.1, is: denied}\n  - {who: nobody, may: open, role: phone, is: denied}\n";
    let said = e3(&["policy", "test", &written(folder.path(), "table.yaml", table)]);
    assert_eq!(said.code, 1);
    for part in [
        "table.yaml:3:",
        "it is denied: no grant allows it",
        "table.yaml:4:",
        "it is allowed: a grant allows it (line 15)",
        "no principal of this name",
        "0 of 3",
    ] {
        assert!(said.err.contains(part), "{part}: {}", said.err);
    }
}

#[test]
fn a_policy_is_signed_by_several_and_checked_against_their_number() {
    let folder = tempfile::tempdir().unwrap();
    let policy = written(folder.path(), "policy.yaml", &example());
    let key = |name: &str| {
        let path = folder.path().join(name).display().to_string();
        let made = e3(&["admin-key", "new", &path]);
        assert_eq!(made.code, 0, "{}", made.err);
        let public = made.out.split_whitespace().find(|word| word.len() == 64).unwrap().to_owned();
        (path, public)
    };
    let ((a, a_public), (b, b_public)) = (key("a.pem"), key("b.pem"));
    let check = || e3(&["policy", "check", &policy, "--signer", &a_public, "--signer", &b_public, "--threshold", "2"]);
    assert!(check().err.contains("0 of the 2 signatures"));
    assert_eq!(e3(&["policy", "sign", &policy, "--key", &a]).code, 0);
    let one = check();
    assert_eq!(one.code, 2);
    assert!(one.err.contains("1 of the 2 signatures"), "{}", one.err);
    let signed = e3(&["policy", "sign", &policy, "--key", &b]);
    assert!(signed.out.contains("version 3 signed by") && signed.out.contains("2 signatures"), "{}", signed.out);
    assert_eq!(check().code, 0);
    let text = fs::read_to_string(&policy).unwrap();
    fs::write(&policy, text.replace("api.stripe.com", "api.strip3.com")).unwrap();
    let changed = check();
    assert!(changed.err.contains("the text was changed after it was signed"), "{}", changed.err);
    // What no engine would take is not signed either.
    fs::write(&policy, example().replace("open", "opne")).unwrap();
    let said = e3(&["policy", "sign", &policy, "--key", &a]);
    assert!(said.code == 2 && said.err.contains("did you mean `open`"), "{}", said.err);
}

#[test]
fn an_api_key_is_shown_once_with_the_hash_that_a_policy_takes() {
    let made = e3(&["policy", "api-key"]);
    let (text, hash) = made.out.trim().split_once('\n').unwrap();
    assert!(text.starts_with("e3k_") && text.len() == 47, "{text}");
    let expected: String = e3_enclave::policy::api_key_hash(text).iter().map(|b| format!("{b:02x}")).collect();
    assert_eq!(hash, format!("sha256:{expected}"));
    assert_ne!(e3(&["policy", "api-key"]).out, made.out);
}

#[test]
fn explain_names_the_line_and_why_others_do_not_fit() {
    let folder = tempfile::tempdir().unwrap();
    let policy = written(folder.path(), "policy.yaml", &example());
    let explain = |more: &[&str]| {
        let said = e3(&[&["policy", "explain", "--policy", &policy], more].concat());
        assert_eq!(said.code, 0, "{}", said.err);
        said.out
    };
    let may =
        explain(&["--who", "payout-relay", "--role", "card-number", "--to", "api.stripe.com", "--method", "POST"]);
    assert!(may.starts_with("allowed: payout-relay open card-number: a grant allows it, line 14\n"), "{may}");
    let may_not = explain(&["--who", "payout-relay", "--role", "card-number", "--to", "evil.example"]);
    assert!(may_not.starts_with("denied: payout-relay open card-number: no grant allows it\n"), "{may_not}");
    assert!(
        may_not.contains("line 14 does not fit: it goes to api.stripe.com, not to evil.example; is for POST"),
        "{may_not}"
    );
    let later = explain(&["--who", "phone-service", "--role", "phone", "--from", "10.0.0.1", "--at", "2100-01-01"]);
    assert!(later.contains("line 15 does not fit: it ended on 2100-01-01"), "{later}");
    // A token says its role, suite and time itself; nothing is opened, no key is there.
    let token = "e3v1.card-number.s.AQAAAAEAAAABAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA.";
    let old = explain(&["--who", "payout-relay", "--token", token, "--to", "api.stripe.com", "--method", "POST"]);
    assert!(old.contains("older than its role allows"), "{old}");
    let unknown = e3(&["policy", "explain", "--policy", &policy, "--who", "nobody", "--role", "phone"]);
    assert!(unknown.code == 2 && unknown.err.contains("no principal of this name"), "{}", unknown.err);
}

#[test]
fn diff_says_in_plain_words_who_gains_and_loses_what() {
    let folder = tempfile::tempdir().unwrap();
    let old = written(folder.path(), "old.yaml", &example());
    let changed = example()
        .replace("version: 3", "version: 4")
        .replace(
            "roles: [phone], from: [10.0.0.0/8], until: 2100-01-01",
            "roles: [phone, card-number], until: 2100-01-01",
        )
        .replace("  - {who: card-validator, may: [open], roles: [card-number], rate: 100/s}\n", "")
        .replace("max_age: 400d", "max_age: 800d")
        + "deny:\n  - {who: payout-relay, roles: [card-number], from: [192.0.2.0/24]}\n";
    let new = written(folder.path(), "new.yaml", &changed);
    let said = e3(&["policy", "diff", &old, &new]).out;
    for line in [
        "- card-validator may open card-number no more\n",
        "+ phone-service may open card-number: until 2100-01-01\n",
        "+ phone-service may open phone: until 2100-01-01\n",
        "- phone-service may open phone no more: from 10.0.0.0/8, until 2100-01-01\n",
        "- payout-relay may open card-number no more from 192.0.2.0/24\n",
        "~ role card-number: random, of type string or number, shut after 69120000 s (before: random, of type string or number, shut after 34560000 s)\n",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert!(!said.contains("checkout-relay"), "{said}");
    assert_eq!(e3(&["policy", "diff", &old, &old]).out.lines().count(), 1, "only that the version must grow");
    let moved = written(
        folder.path(),
        "moved.yaml",
        &example().replace("version: 3", "version: 4").replace("grants:", "# moved\ngrants:"),
    );
    assert_eq!(e3(&["policy", "diff", &old, &moved]).out, "nobody gains or loses anything\n");
}
