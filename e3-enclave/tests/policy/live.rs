//! The policy in force, and what may take its place.

use crate::decisions::example;
use e3_enclave::policy::live::{Live, PolicyFault, Source};
use e3_enclave::policy::signed::{Signers, sign};
use e3_link::attested::admin::AdminKey;
use std::fs;
use std::path::Path;

fn version(live: &Live) -> Option<u64> {
    live.current().state().map(|state| state.version)
}

fn put(path: &Path, key: &AdminKey, text: &str) {
    fs::write(path, sign(text.as_bytes(), key).unwrap()).unwrap();
}

#[test]
fn versions_grow_and_what_is_refused_leaves_what_is_in_force() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.yaml");
    let (key, stranger) = (AdminKey::generate().unwrap(), AdminKey::generate().unwrap());
    let signers = Signers { keys: vec![*key.public()], threshold: 1 };
    let live = Live::following(Source::File(path.clone()), signers, false);
    let at = |n: u32| example().replace("version: 3", &format!("version: {n}"));
    assert!(matches!(live.reload(false), Err(PolicyFault::Absent)));
    assert_eq!(version(&live), None);

    put(&path, &stranger, &at(3));
    assert!(matches!(live.reload(false), Err(PolicyFault::Signature(_))));
    assert_eq!(live.reload(false).unwrap(), None, "refused once, until it changes");
    assert!(matches!(live.reload(true), Err(PolicyFault::Signature(_))));

    put(&path, &key, &at(3));
    assert_eq!(live.reload(false).unwrap().unwrap().version, 3);
    assert_eq!(live.reload(false).unwrap(), None);
    put(&path, &key, &at(2));
    assert!(matches!(live.reload(false), Err(PolicyFault::RolledBack { found: 2, seen: 3 })));
    put(&path, &key, &(at(3) + "# another text\n"));
    assert!(matches!(live.reload(false), Err(PolicyFault::Forked(3))));
    put(&path, &key, &at(4).replace("open", "opne"));
    assert!(matches!(live.reload(false), Err(PolicyFault::Refused(_))));
    put(
        &path,
        &key,
        &at(5).replace("checkout-relay: {relay: {spki: sha256:", "checkout-relay: {relay: {plain: true}} #"),
    );
    assert!(matches!(live.reload(false), Err(PolicyFault::Plain(8))));
    fs::remove_file(&path).unwrap();
    assert!(matches!(live.reload(false), Err(PolicyFault::Absent)));
    assert_eq!(version(&live), Some(3), "still in force");

    put(&path, &key, &at(4));
    assert_eq!(live.reload(false).unwrap().unwrap().version, 4);
    // More signatures change nothing of what it says.
    let more = sign(&fs::read(&path).unwrap(), &stranger).unwrap();
    fs::write(&path, more).unwrap();
    assert_eq!(live.reload(false).unwrap(), None);
}
