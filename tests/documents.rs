//! README.md keeps step with the source: the tests it names exist, and so do the metrics and the problem codes.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests is in the repository").to_owned()
}

fn readme() -> String {
    fs::read_to_string(root().join("README.md")).expect("README.md")
}

/// The table rows under a heading, as cells.
fn rows(readme: &str, heading: &str) -> Vec<Vec<String>> {
    let section =
        readme.split(&format!("## {heading}\n")).nth(1).unwrap_or_else(|| panic!("README.md has no {heading}"));
    let section = section.split("\n## ").next().unwrap_or_default();
    let rows = section.lines().filter(|line| line.starts_with("| ") && !line.starts_with("|---"));
    let cells = |line: &str| line.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect();
    rows.map(cells).collect()
}

/// What stands in backquotes.
fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}

/// The text of every Rust file below a folder.
fn sources(folder: &Path, text: &mut String) {
    for entry in fs::read_dir(folder).expect("a folder of the repository") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            sources(&path, text);
        } else if name.ends_with(".rs") {
            text.push_str(&fs::read_to_string(&path).expect("a source file"));
        }
    }
}

/// Whether a test of this name stands in the text: a function that is told to be one, by an attribute right before it.
fn has_test(text: &str, name: &str) -> bool {
    text.match_indices(&format!("fn {name}(")).any(|(at, _)| {
        let before = text[..at].lines().rev().skip(usize::from(!text[..at].ends_with('\n')));
        let attributes = before.map(str::trim).take_while(|line| line.starts_with("#[") || line.starts_with("//"));
        let mut attributes = attributes.filter(|line| line.starts_with("#["));
        attributes.any(|line| line == "#[test]" || line.starts_with("#[tokio::test"))
    })
}

#[test]
fn a_function_is_a_test_only_if_it_says_so() {
    let text = "#[test]\nfn plain() {}\n\nfn helper() {}\n\n/// Why.\n#[tokio::test(flavor = \"x\")]\n// And how.\n    async fn late() {}\n";
    assert!(has_test(text, "plain") && has_test(text, "late"));
    assert!(!has_test(text, "helper") && !has_test(text, "lain") && !has_test(text, "missing"));
}

#[test]
fn every_promise_names_tests_that_exist() {
    let mut text = String::new();
    sources(&root(), &mut text);
    let readme = readme();
    let rows = rows(&readme, "Promises");
    assert!(rows.len() > 8, "the table of promises was not found");
    for row in &rows[1..] {
        let tests: Vec<&str> = quoted(&row[1]).collect();
        assert!(!tests.is_empty(), "no test holds: {}", row[0]);
        for test in tests {
            assert!(has_test(&text, test), "README.md names {test}, which is no test");
        }
    }
}

#[test]
fn the_quick_start_makes_the_folders_that_the_engine_needs() {
    let readme = readme();
    let start = readme.split("## Quick start\n").nth(1).and_then(|rest| rest.split("```").nth(1)).expect("commands");
    let config = fs::read_to_string(root().join("config/e3.yaml")).expect("config/e3.yaml");
    let code = config.lines().map(|line| line.split('#').next().unwrap_or_default());
    let mut folders = BTreeSet::new();
    for word in code.flat_map(|line| line.split(|c: char| !c.is_ascii_alphanumeric() && !"/._-".contains(c))) {
        let path = Path::new(word.trim_start_matches("//").trim_start_matches(':'));
        folders.extend(path.parent().filter(|_| path.is_absolute()).map(Path::to_path_buf));
    }
    assert_eq!(folders.len(), 2, "{folders:?}");
    let made = start.lines().find(|line| line.contains("install -d ")).expect("folders are made");
    for folder in folders {
        let name = folder.display().to_string();
        assert!(made.split(' ').any(|word| word == name), "the quick start does not make {name}");
    }
}

#[test]
fn every_builder_of_images_leaves_out_the_same() {
    let of = |name: &str| fs::read_to_string(root().join(name)).expect("a list of what is left out");
    assert_eq!(of(".containerignore"), of(".dockerignore"));
    assert!(of(".dockerignore").lines().any(|line| line == ".git"));
}

#[test]
fn the_users_of_the_units_are_made() {
    let made = fs::read_to_string(root().join("config/deploy/sysusers.d/e3.conf")).expect("sysusers");
    for unit in
        ["config/deploy/systemd/e3.service", "config/deploy/systemd/relay.service", "e3-enclave/image/e3-host.service"]
    {
        let text = fs::read_to_string(root().join(unit)).expect("a unit");
        let user = text.lines().find_map(|line| line.strip_prefix("User=")).expect("a user of its own");
        assert!(made.lines().any(|line| line.starts_with(&format!("u {user} "))), "{unit}: nobody makes {user}");
    }
}

#[test]
fn every_metric_is_documented() {
    let metrics = fs::read_to_string(root().join("relay/src/metrics.rs")).expect("metrics.rs");
    let metrics = metrics.split("#[cfg(test)]").next().unwrap_or_default();
    let exposed: BTreeSet<&str> =
        metrics.split('"').filter(|word| word.starts_with("e3_relay_") && !word.contains('{')).collect();
    assert!(exposed.len() >= 13, "{exposed:?}");
    let readme = readme();
    let documented: BTreeSet<&str> = quoted(&readme).filter(|word| word.starts_with("e3_relay_")).collect();
    assert_eq!(exposed, documented);
}
