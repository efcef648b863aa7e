//! The demo is a test.

use std::process::Command;

use e3_tests::process::Program;

#[test]
fn the_demo_protects_the_card_and_delivers_it() {
    for program in [Program::E3, Program::Relay] {
        assert!(program.path().exists());
    }
    let output = Command::new(env!("CARGO_BIN_EXE_demo")).arg("--once").output().expect("the demo starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    assert!(text.contains("The shop never held the card; the provider got it."), "{text}");
    assert!(!text.contains('\u{1b}'), "colours belong on a terminal");
}
