//! The files that are shipped fit together: an engine with the shipped settings does what the shipped rules ask of it.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use e3_tests::eventually;
use e3_tests::process::Program;
use e3_tests::stack::folder;

fn config() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests is in the repository").join("config")
}

/// The words behind each `key:` of a text in YAML, alone or as a list in brackets.
fn words(line: &str, key: &str) -> Vec<String> {
    let name = |text: &str| text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '-').collect::<String>();
    let behind = line.match_indices(key).filter(|(at, _)| line[..*at].ends_with([' ', '{'])).map(|(at, _)| {
        let rest = line[at + key.len()..].trim_start();
        match rest.strip_prefix('[').and_then(|list| list.split_once(']')) {
            Some((list, _)) => list.split(',').map(|word| name(word.trim())).collect(),
            None => vec![name(rest)],
        }
    });
    behind.flatten().filter(|word| !word.is_empty()).collect()
}

/// What a file of rules wants sealed or opened: its app, and of each role whether it is deterministic.
fn wanted(file: &Path) -> (String, BTreeMap<String, bool>) {
    let text = fs::read_to_string(file).expect("an example");
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    let (mut apps, mut roles) = (Vec::new(), BTreeMap::new());
    for line in lines {
        apps.extend(words(line, "app:"));
        for role in words(line, "role:").into_iter().chain(words(line, "roles:")) {
            *roles.entry(role).or_default() |= line.contains("deterministic: true");
        }
    }
    assert_eq!(apps.len(), 1, "{}: one app", file.display());
    (apps.remove(0), roles)
}

#[test]
fn the_shipped_engine_file_serves_every_shipped_file_of_rules() {
    let mut files = vec![config().join("relay.yaml")];
    for entry in fs::read_dir(config().join("examples")).expect("the examples") {
        let path = entry.expect("an entry").path();
        if fs::read_to_string(&path).expect("an example").contains("$schema=../schema/relay.json") {
            files.push(path);
        }
    }
    assert!(files.len() >= 6, "{files:?}");

    let folder = folder();
    let path = |name: &str| folder.path().join(name).display().to_string();
    let shipped = fs::read_to_string(config().join("e3.yaml")).expect("config/e3.yaml");
    // As it is, but for its folders.
    let here = shipped.replace("/run/e3/", &path("")).replace("/var/lib/e3/", &path(""));
    fs::write(path("e3.yaml"), here).expect("the settings are written");
    let made = Program::E3.output(["keys", "init", "--config", &path("e3.yaml")]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let mut engine = Program::E3.start(["run", "--config", &path("e3.yaml")], Path::new(&path("e3.log")));
    eventually("the engine's socket", || {
        assert!(engine.ended().is_none(), "the engine ended");
        std::os::unix::net::UnixStream::connect(path("e3.sock")).ok()
    });

    fs::write(path("value"), "x\n").expect("a value");
    let mut sealed = 0;
    for file in files {
        let (app, roles) = wanted(&file);
        let rules = format!("engine: {{endpoints: ['unix://{}'], app: {app}, development: true}}\n", path("e3.sock"));
        fs::write(path("relay.yaml"), rules).expect("rules");
        for (role, deterministic) in roles {
            let mut arguments = vec!["seal", "--quiet", "--format", "lines", "--role", &role];
            arguments.extend(deterministic.then_some("--deterministic"));
            let (rules, value) = (path("relay.yaml"), path("value"));
            arguments.extend(["--config", &rules, &value]);
            let done = Program::Relay.output(&arguments);
            let said = String::from_utf8_lossy(&done.stderr);
            assert!(done.status.success(), "{}: app {app}, role {role}: {said}", file.display());
            assert!(String::from_utf8_lossy(&done.stdout).starts_with(&format!("e3v1.{role}.s.")), "{role}");
            sealed += 1;
        }
    }
    assert!(sealed >= 14, "{sealed} roles were found");
}
