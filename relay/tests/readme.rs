//! The table of problem codes in README.md is the one that `answer` tells clients.

use std::path::Path;

use relay::answer;

#[test]
fn the_readme_lists_every_problem_code() {
    let mut causes = answer::table();
    // The order of the table: by what went wrong, not by status.
    causes.sort_by_key(|cause| cause.code);
    let expected: Vec<String> = causes
        .iter()
        .map(|cause| format!("| {} | `{}` | {} |", cause.status.as_u16(), cause.code, cause.title))
        .collect();
    let readme = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
    let readme = std::fs::read_to_string(readme).expect("README.md");
    let section = readme.split("## Problem codes\n").nth(1).expect("a section on problem codes");
    let rows: Vec<&str> =
        section.lines().take_while(|line| !line.starts_with("## ")).filter(|line| line.contains("| `")).collect();
    assert!(rows == expected, "README.md should list:\n{}", expected.join("\n"));
}
