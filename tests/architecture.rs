//! The shape of the source: who may import whom, where HTTP, sockets and keys may appear, how large a file may grow. Read over manifests and source text, so that a
//! change that bends the shape fails here and is a decision instead of an accident.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Most lines of a source file.
const MOST_LINES: usize = 800;

/// Module names that say nothing.
const EMPTY_NAMES: [&str; 4] = ["utils", "common", "shared", "helpers"];

/// Crates of this project that each crate may use, tests of that crate included. `tests` and `benches` see everything.
const DIRECTIONS: [(&str, &[&str]); 7] = [
    ("relay", &["json-span", "e3-link", "e3-wire", "e3-attest", "e3-yaml"]),
    ("relay/json-span", &[]),
    ("e3-enclave", &["e3-link", "e3-wire", "e3-attest", "e3-yaml"]),
    ("e3-enclave/link", &["e3-wire", "e3-attest"]),
    ("e3-enclave/wire", &[]),
    ("e3-enclave/attest", &[]),
    ("e3-enclave/yaml", &[]),
];

/// Paths in code, and the only modules of a source folder that may name them.
const CONFINED: [(&str, &[&str], &[&str]); 10] = [
    (
        "relay/src",
        &["h2", "hyper", "hyper_util"],
        // The command asks a relay as anybody would.
        &[
            "listen",
            "tls",
            "exchange",
            "inbound",
            "outbound",
            "answer",
            "admit",
            "body/hold",
            "admin",
            "command/verify",
        ],
    ),
    (
        "relay/src",
        &["pingora_core", "pingora_load_balancing", "pingora_limits", "pingora_error", "pingora_timeout"],
        &[
            "listen",
            "tls",
            "exchange",
            "inbound",
            "outbound",
            "answer",
            "admit",
            "admin",
            "run",
            "lifecycle",
            "wellknown",
        ],
    ),
    ("e3-enclave/src", &["aes_gcm", "hkdf", "hmac", "hpke"], &["envelope", "keyring"]),
    // What KMS encrypts to the engine is opened in `kms/recipient`; the others hold public keys alone (`PUBLIC_KEYS`).
    ("e3-enclave/src", &["aws_lc_rs"], &["keyring", "kms/recipient", "admin", "audit/verify", "policy/signed"]),
    ("e3-enclave/src", &["aws_sdk_kms", "aws_smithy_runtime_api"], &["kms"]),
    (
        "e3-enclave/src",
        &["tokio::net", "std::net", "std::os::unix::net", "tokio_vsock"],
        &["serve", "host", "audit/sink"],
    ),
    ("e3-enclave/attest/src", &["tokio", "std::net", "std::fs", "std::io"], &[]),
    ("e3-enclave/wire/src", &["tokio", "std::net", "std::fs", "std::io"], &[]),
    ("relay/json-span/src", &["tokio", "std::net", "std::fs", "std::io"], &[]),
    ("e3-enclave/yaml/src", &["tokio", "std::net", "std::fs"], &[]),
];

/// Modules that check signatures with a library that could do more, and all that they may name of it.
const PUBLIC_KEYS: [&str; 3] = ["e3-enclave/src/admin", "e3-enclave/src/audit/verify", "e3-enclave/src/policy/signed"];
const VERIFYING: &str = "use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};";

/// Where a parsed JSON value may not appear: it would be tempting to write it back.
const NO_JSON_VALUES: [&str; 6] = [
    "relay/src/body",
    "relay/src/exchange",
    "relay/src/inbound",
    "relay/src/outbound",
    "relay/src/values",
    "relay/json-span/src",
];

/// The only files with `unsafe`.
const UNSAFE: [&str; 3] =
    ["relay/json-span/src/simd.rs", "relay/json-span/src/simd/x86.rs", "tests/nitro/signer/src/preload.rs"];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests is in the repository").to_owned()
}

/// Every Rust file of the project, by its path from the top.
fn sources() -> BTreeMap<String, String> {
    fn walk(folder: &Path, root: &Path, found: &mut BTreeMap<String, String>) {
        for entry in fs::read_dir(folder).expect("a folder of the repository") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                walk(&path, root, found);
            } else if name.ends_with(".rs") {
                let text = fs::read_to_string(&path).expect("a source file");
                found.insert(path.strip_prefix(root).expect("below the top").to_string_lossy().into_owned(), text);
            }
        }
    }
    let mut found = BTreeMap::new();
    walk(&root(), &root(), &mut found);
    assert!(found.len() > 20, "the sources were not found");
    found
}

/// Every text file that the repository tracks, by its path from the top; of a copy without its history, every text file.
fn tracked() -> BTreeMap<String, String> {
    fn walk(folder: &Path, root: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).expect("a folder of the repository") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().unwrap_or_default();
            if path.is_dir() && name != "target" && name != ".git" {
                walk(&path, root, found);
            } else if path.is_file() {
                found.push(path.strip_prefix(root).expect("below the top").to_string_lossy().into_owned());
            }
        }
    }
    let mut names = Vec::new();
    match Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output() {
        Ok(listed) if listed.status.success() => {
            names.extend(String::from_utf8_lossy(&listed.stdout).split_terminator('\0').map(str::to_owned));
        }
        _ => walk(&root(), &root(), &mut names),
    }
    let text = |name: String| fs::read_to_string(root().join(&name)).ok().map(|text| (name, text));
    let found: BTreeMap<_, _> = names.into_iter().filter_map(text).collect();
    for name in ["README.md", "Makefile", ".ci/run", "config/e3.yaml", "tests/architecture.rs"] {
        assert!(found.contains_key(name), "{name} was not found");
    }
    found
}

/// The modules that are compiled for tests only, declared as such by the file above them: by their paths without `.rs`.
fn test_modules(sources: &BTreeMap<String, String>) -> Vec<String> {
    let mut found = Vec::new();
    for (file, text) in sources {
        let above = file.trim_end_matches(".rs");
        let folder = match above.rsplit_once('/') {
            Some((folder, "lib" | "main" | "mod")) => folder,
            _ => above,
        };
        for declared in text.split("#[cfg(test)]\nmod ").skip(1) {
            if let Some((name, _)) = declared.split_once(';').filter(|(name, _)| !name.contains(['{', '\n'])) {
                found.push(format!("{folder}/{name}"));
            }
        }
    }
    found
}

/// Code without comments and without its unit tests, which end a file.
fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let end = text.find("#[cfg(test)]\nmod ").unwrap_or(text.len());
    let lines = text[..end].lines().enumerate();
    lines.map(|(number, line)| (number + 1, line.split("//").next().unwrap_or_default()))
}

/// Whether code names this path: as a whole, not as a part of a longer name.
fn names(line: &str, path: &str) -> bool {
    let part = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(path).any(|(at, _)| {
        // A path may begin with `::`.
        let head = line[..at].strip_suffix("::").filter(|head| !head.ends_with(part)).unwrap_or(&line[..at]);
        let before = head.chars().next_back();
        let after = line[at + path.len()..].chars().next();
        !before.is_some_and(|c| part(c) || c == ':' || c == '.' || c == '"')
            && !after.is_some_and(part)
            && line[at + path.len()..].trim_start().starts_with([':', ';', ' ', ')', ',', '}'])
    })
}

/// The entries of the sections whose name ends with `dependencies`.
fn dependencies(manifest: &str) -> Vec<(String, String)> {
    let text = fs::read_to_string(root().join(manifest)).expect("a manifest");
    let mut inside = false;
    let mut found = Vec::new();
    for line in text.lines() {
        if let Some(section) = line.strip_prefix('[') {
            inside = section.trim_end().trim_end_matches(']').ends_with("dependencies");
        } else if let (true, Some((name, value))) = (inside, line.split_once('=')) {
            found.push((name.trim().trim_end_matches(".workspace").to_owned(), value.to_owned()));
        }
    }
    found
}

fn assert_none(faults: &[String], rule: &str) {
    assert!(faults.is_empty(), "{rule}:\n  {}", faults.join("\n  "));
}

#[test]
fn crates_import_only_downwards() {
    let own =
        ["json-span", "e3-wire", "e3-link", "e3-attest", "e3-yaml", "relay", "e3-enclave", "e3-tests", "e3-benches"];
    for (folder, _) in DIRECTIONS {
        let text = fs::read_to_string(root().join(folder).join("Cargo.toml")).expect("a manifest");
        let name = text.split("name = \"").nth(1).and_then(|rest| rest.split('"').next()).unwrap_or_default();
        assert!(own.contains(&name), "{folder} is the crate {name}, which is not looked for");
    }
    let mut faults = Vec::new();
    for (folder, allowed) in DIRECTIONS {
        let manifest = format!("{folder}/Cargo.toml");
        if !root().join(&manifest).exists() {
            continue;
        }
        for (name, value) in dependencies(&manifest) {
            // A crate may name itself, to turn a feature on in its own tests.
            let itself = value.contains("path = \".\"");
            if own.contains(&name.as_str()) && !itself && !allowed.contains(&name.as_str()) {
                faults.push(format!("{manifest} uses {name}"));
            }
        }
    }
    assert_none(&faults, "a crate uses one that it must not know");
}

#[test]
fn no_program_trusts_a_test_root_by_default() {
    let mut faults = Vec::new();
    for (folder, _) in DIRECTIONS {
        let path = root().join(folder).join("Cargo.toml");
        let text = fs::read_to_string(&path).unwrap_or_default();
        let mut section = "";
        for line in text.lines() {
            if line.starts_with('[') {
                section = line;
            }
            let by_default = section == "[dependencies]" && line.starts_with("e3-") && line.contains("features")
                || section == "[features]" && line.starts_with("default");
            if by_default && (line.contains("test-root") || line.contains("\"make\"")) {
                faults.push(format!("{folder}/Cargo.toml: {line}"));
            }
        }
    }
    let workspace = fs::read_to_string(root().join("Cargo.toml")).expect("the workspace's manifest");
    let line = workspace.lines().find(|line| line.starts_with("e3-attest ")).expect("e3-attest");
    if line.contains("features") {
        faults.push(line.to_owned());
    }
    assert_none(&faults, "another root of trust is for tests alone");
}

#[test]
fn http_sockets_and_keys_stay_in_their_modules() {
    let sources = sources();
    let tests = test_modules(&sources);
    let mut faults = Vec::new();
    for (folder, paths, modules) in CONFINED {
        for (file, text) in &sources {
            if tests.iter().any(|test| file.trim_end_matches(".rs") == test || file.starts_with(&format!("{test}/"))) {
                continue;
            }
            let Some(module) = file.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/')) else { continue };
            let module = module.trim_end_matches(".rs");
            if modules.iter().any(|allowed| module == *allowed || module.starts_with(&format!("{allowed}/"))) {
                continue;
            }
            for (number, line) in code(text) {
                for path in paths.iter().filter(|path| names(line, path)) {
                    faults.push(format!("{file}:{number} names {path}, which belongs to {modules:?}"));
                }
            }
        }
    }
    for (file, text) in &sources {
        let module = file.trim_end_matches(".rs");
        if PUBLIC_KEYS.iter().any(|public| module == *public || module.starts_with(&format!("{public}/"))) {
            let used = code(text).filter(|(_, line)| names(line, "aws_lc_rs") && line.trim() != VERIFYING);
            faults.extend(used.map(|(number, _)| format!("{file}:{number} does more than to verify signatures")));
        }
    }
    assert_none(&faults, "a module reaches past its job");
}

/// What code takes from a crate, by each path that names it, groups of `use` written out.
fn taken(code: &str, of: &str) -> Vec<String> {
    let mut found = Vec::new();
    for (at, _) in code.match_indices(of) {
        let rest = code[at + of.len()..].trim_start();
        if let Some(renamed) = rest.strip_prefix("as ") {
            found.push(renamed.split(';').next().unwrap_or_default().to_owned());
        }
        let Some(path) = rest.strip_prefix("::").map(str::trim_start) else { continue };
        let mut depth = 0;
        let end = path.find(|c: char| {
            depth += i32::from(c == '{') - i32::from(c == '}');
            c == ';' || (depth == 0 && !c.is_alphanumeric() && !"_:{}*".contains(c))
        });
        let whole = &path[..end.unwrap_or(path.len())];
        let parts = whole.split(|c: char| !c.is_alphanumeric() && c != '_' && c != '*');
        found.extend(parts.filter(|part| !part.is_empty()).map(str::to_owned));
    }
    found
}

#[test]
fn what_is_taken_from_a_crate_is_found_however_it_is_written() {
    for written in [
        "serde_json::Value::Null",
        "use serde_json::{Value};",
        "use serde_json::{de::IoRead,\n    Value as Json};",
        "use serde_json::value::{self, Value};",
        "::serde_json :: Value",
    ] {
        assert!(taken(written, "serde_json").contains(&"Value".to_owned()), "{written}");
    }
    assert_eq!(taken("serde_json::from_slice::<Value>(x)", "serde_json"), ["from_slice"]);
    assert_eq!(taken("use serde_json as json;", "serde_json"), ["json"]);
    assert!(names("let x = ::aws_lc_rs::rsa;", "aws_lc_rs") && !names("other::aws_lc_rs::rsa", "aws_lc_rs"));
}

#[test]
fn no_parsed_json_on_the_way_of_a_body() {
    let mut faults = Vec::new();
    for (file, text) in sources() {
        if !NO_JSON_VALUES.iter().any(|folder| file.starts_with(folder)) {
            continue;
        }
        let code: Vec<&str> = code(&text).map(|(_, line)| line).collect();
        for name in taken(&code.join("\n"), "serde_json") {
            // `json` is the macro, or another name for the crate; a star takes everything.
            if matches!(name.as_str(), "Value" | "value" | "Map" | "map" | "json" | "self" | "*")
                || name.starts_with("to_")
            {
                faults.push(format!("{file} takes {name} from serde_json"));
            }
        }
    }
    assert_none(&faults, "bodies are edited as spans of text");
}

#[test]
fn files_are_short_and_named_after_nouns() {
    let mut faults = Vec::new();
    for (file, text) in sources() {
        let lines = text.lines().count();
        if lines > MOST_LINES {
            faults.push(format!("{file} has {lines} lines, over {MOST_LINES}"));
        }
        if file.trim_end_matches(".rs").split('/').any(|part| EMPTY_NAMES.contains(&part)) {
            faults.push(format!("{file} is named after nothing"));
        }
    }
    assert_none(&faults, "a file has lost its shape");
}

#[test]
fn unsafe_code_is_only_in_named_modules() {
    let mut faults = Vec::new();
    for (file, text) in sources() {
        if UNSAFE.contains(&file.as_str()) {
            continue;
        }
        // Unit tests too. Written in two pieces, so that this file does not hold the words itself.
        let (block, lint) = (["un", "safe"].concat(), ["un", "safe_code"].concat());
        for (number, line) in text.lines().enumerate() {
            let line = line.split("//").next().unwrap_or_default();
            let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            if words.any(|word| word == block || word == lint) {
                faults.push(format!("{file}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    for folder in DIRECTIONS.map(|(folder, _)| folder) {
        let text = fs::read_to_string(root().join(folder).join("Cargo.toml")).expect("a manifest");
        if !text.contains("\n[lints]\nworkspace = true\n") {
            faults.push(format!("{folder}/Cargo.toml does not take the workspace's lints"));
        }
    }
    assert_none(&faults, "a new place for it is a decision: list it here, with its reason beside its allow");
}

#[test]
fn every_dependency_has_its_reason() {
    let mut faults = Vec::new();
    for (name, value) in dependencies("Cargo.toml") {
        if value.split_once('#').is_none_or(|(_, reason)| reason.trim().len() < 8) {
            faults.push(format!("Cargo.toml: {name} has no reason beside it"));
        }
    }
    for folder in DIRECTIONS.map(|(folder, _)| folder).into_iter().chain([
        "tests",
        "tests/nitro/guest",
        "tests/nitro/signer",
        "benches",
    ]) {
        let manifest = format!("{folder}/Cargo.toml");
        if !root().join(&manifest).exists() {
            continue;
        }
        for (name, value) in dependencies(&manifest) {
            let itself = value.contains("path = \".\"");
            if !itself && !value.contains("workspace = true") && value.trim() != "true" {
                faults.push(format!("{manifest}: {name} is not the workspace's"));
            }
        }
    }
    assert_none(&faults, "dependencies are chosen, not collected");
}

#[test]
fn the_source_does_not_name_the_machine_it_was_written_on() {
    let mut faults = Vec::new();
    for (file, text) in tracked() {
        for (number, line) in text.lines().enumerate() {
            for place in [["/wo", "rk/"].concat(), ["/ro", "ot/"].concat()] {
                if line.contains(&place) {
                    faults.push(format!("{file}:{} names {place}", number + 1));
                }
            }
        }
    }
    assert_none(&faults, "paths of a machine");
}
