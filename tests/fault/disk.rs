//! Keys that are not on the disk are no keys: what cannot be synced leaves the keyring as it was.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use e3_tests::disk::Disk;
use e3_tests::process::Program;
use e3_tests::stack::folder;

fn keys(folder: &Path, disk: &Disk, arguments: &[&str]) -> Output {
    let mut command = Command::new(Program::E3.path());
    command.arg("keys").args(arguments).arg("--config").arg(folder.join("e3.yaml")).envs(disk.environment());
    command.output().expect("e3 runs")
}

#[test]
fn a_keyring_that_cannot_be_synced_stays_as_it_was() {
    let folder = folder();
    let disk = Disk::new(folder.path());
    let path = |name: &str| folder.path().join(name);
    fs::write(
        path("e3.yaml"),
        format!(
            "development: true\nlisten: [\"unix://{}\"]\nkeyring: {}\nroot: {{file: {}}}\naudit: {{file: {}}}\n",
            path("e3.sock").display(),
            path("keyring").display(),
            path("root.key").display(),
            path("audit.log").display()
        ),
    )
    .expect("e3.yaml is written");
    for arguments in [&["init"][..], &["create-app", "shop"], &["rotate", "--app", "shop"]] {
        let before = fs::read(path("keyring")).ok();
        disk.fail();
        let failed = keys(folder.path(), &disk, arguments);
        assert!(!failed.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&failed.stdout));
        assert!(fs::read(path("keyring")).ok() == before, "{arguments:?} left something behind");
        disk.recover();
        // A root key that may not be on the disk is not used either.
        if arguments == ["init"] {
            let _ = fs::remove_file(path("root.key"));
        }
        let done = keys(folder.path(), &disk, arguments);
        assert!(done.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        assert!(fs::read(path("keyring")).ok() != before, "{arguments:?}");
    }
}
