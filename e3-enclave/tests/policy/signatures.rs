//! Whose policy it is.

use crate::decisions::example;
use e3_enclave::policy::signed::{SignatureFault, Signers, hash, open, sign};
use e3_link::attested::admin::AdminKey;

fn signers(keys: &[&AdminKey], threshold: usize) -> Signers {
    Signers { keys: keys.iter().map(|k| *k.public()).collect(), threshold }
}

#[test]
fn enough_signatures_of_the_right_keys_are_needed() {
    let [a, b, c] = [(); 3].map(|()| AdminKey::generate().unwrap());
    let text = example();
    let by_a = sign(text.as_bytes(), &a).unwrap();
    let by_both = sign(&by_a, &b).unwrap();
    let two = signers(&[&a, &b], 2);
    assert_eq!(two.admit(text.as_bytes()), Err(SignatureFault::TooFew { found: 0, needed: 2 }));
    assert_eq!(two.admit(&by_a), Err(SignatureFault::TooFew { found: 1, needed: 2 }));
    assert_eq!(two.admit(&by_both), Ok(&*text));
    let by_another = sign(&by_a, &c).unwrap();
    assert_eq!(two.admit(&by_another), Err(SignatureFault::TooFew { found: 1, needed: 2 }));
    assert_eq!(signers(&[&c], 1).admit(&by_another), Ok(&*text), "others may sign too");
    assert_eq!(sign(&sign(&by_a, &a).unwrap(), &a).unwrap(), by_a, "signing twice is signing once");
    assert_eq!(open(&by_both).unwrap().1, [*a.public(), *b.public()]);
    assert_ne!(hash(&text), hash(std::str::from_utf8(&by_both).unwrap()));
}

#[test]
fn no_byte_of_a_signed_policy_can_be_changed() {
    let key = AdminKey::generate().unwrap();
    let signed = sign(b"version: 1\napp: shop\n", &key).unwrap();
    let signers = signers(&[&key], 1);
    for at in 0..signed.len() {
        for bit in 0..8 {
            let mut changed = signed.clone();
            changed[at] ^= 1 << bit;
            assert!(signers.admit(&changed).is_err(), "byte {at}, bit {bit}");
        }
        assert!(signers.admit(&signed[..at]).is_err(), "cut at {at}");
    }
    let mut longer = signed.clone();
    longer.push(b'\n');
    assert!(matches!(signers.admit(&longer), Err(SignatureFault::Line { .. })));
}

#[test]
fn signatures_stand_behind_the_text_once_each() {
    let key = AdminKey::generate().unwrap();
    let signed = String::from_utf8(sign(b"version: 1\n", &key).unwrap()).unwrap();
    let line = signed.lines().nth(1).unwrap();
    let signers = signers(&[&key], 1);
    let twice = format!("{signed}{line}\n");
    assert_eq!(signers.admit(twice.as_bytes()), Err(SignatureFault::Twice { line: 3 }));
    let inside = format!("{line}\nversion: 1\n");
    assert_eq!(signers.admit(inside.as_bytes()), Err(SignatureFault::Line { line: 2 }));
    assert_eq!(Signers::nobody().admit(b"x: 1\n"), Ok("x: 1\n"));
    assert_eq!(Signers::nobody().admit(&[0xff]), Err(SignatureFault::Text));
}
