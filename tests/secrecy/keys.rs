//! The keys of an engine, read as SPEC.md section 11 describes them: from the root file and the keyring file beside it.

use std::path::Path;

use aes_gcm::aead::{Aead, Payload};
use aes_gcm::{Aes256Gcm, KeyInit, Nonce};
use hkdf::Hkdf;
use sha2::Sha256;

use crate::search::Secret;

/// Every key of the folder's keyring, derived ones included.
pub(crate) fn secrets(folder: &Path) -> Vec<Secret> {
    let text = std::fs::read_to_string(folder.join("root.key")).expect("a root file");
    let root: Vec<u8> = text.trim().as_bytes().chunks(2).map(|pair| hex(pair).expect("hexadecimal")).collect();
    assert_eq!(root.len(), 32);
    let file = std::fs::read(folder.join("keyring")).expect("a keyring file");
    let mut rest = &file[..];
    assert_eq!(take(&mut rest, 5), b"e3kr\x01");
    let id = take(&mut rest, 16);
    let version = take(&mut rest, 4);
    take(&mut rest, 16 + 8 + 4);
    let count = number(take(&mut rest, 4));
    let derive = |purpose: &str| {
        let info = [purpose.as_bytes(), version].concat();
        okm(&root, Some(id), &info)
    };
    let wrap = derive("e3v1/keyring/wrap");
    let mut secrets = vec![
        Secret::new("the root key", &root),
        Secret::new("the keyring's wrap key", &wrap),
        Secret::new("the keyring's MAC key", &derive("e3v1/keyring/mac")),
    ];
    for _ in 0..count {
        let kid = take(&mut rest, 4);
        let length = usize::from(take(&mut rest, 1)[0]);
        let app = take(&mut rest, length);
        let lineage = take(&mut rest, 1);
        take(&mut rest, 1 + 4);
        let nonce: [u8; 12] = take(&mut rest, 12).try_into().expect("12 bytes");
        let lp = (length as u16).to_be_bytes();
        let aad = [b"e3v1/app-key", id, kid, &lp, app, lineage].concat();
        let payload = Payload { msg: take(&mut rest, 48), aad: &aad };
        let cipher = Aes256Gcm::new_from_slice(&wrap).expect("32 bytes");
        let key = cipher.decrypt(&Nonce::from(nonce), payload).expect("a genuine keyring");
        let kid = number(kid);
        secrets.push(Secret::new(format!("app key {kid}"), &key));
        if lineage == [2] {
            let info = [b"e3v1/deterministic", &lp[..], app].concat();
            secrets.push(Secret::new(format!("deterministic key {kid}"), &okm(&key, None, &info)));
        }
    }
    assert_eq!(rest.len(), 32, "the MAC, and nothing else");
    secrets
}

fn okm(key: &[u8], salt: Option<&[u8]>, info: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    Hkdf::<Sha256>::new(salt, key).expand(info, &mut out).expect("32 bytes");
    out
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> &'a [u8] {
    let (taken, left) = rest.split_at(length);
    *rest = left;
    taken
}

fn number(bytes: &[u8]) -> u32 {
    u32::from_be_bytes(bytes.try_into().expect("four bytes"))
}

fn hex(pair: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()
}
