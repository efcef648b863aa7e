//! What a key makes of a data key: a blob that names its key and opens for the same encryption context alone.

use std::collections::BTreeMap;

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};

/// Wraps.
pub(super) fn wrap(arn: &str, secret: &[u8; 32], context: &BTreeMap<String, String>, plain: &[u8]) -> Vec<u8> {
    let mut nonce = [0; 12];
    aws_lc_rs::rand::fill(&mut nonce).expect("random numbers");
    let cipher = Aes256Gcm::new(secret.into());
    let aad = aad(context);
    let nonce_of = Nonce::from(nonce);
    let sealed = cipher.encrypt(&nonce_of, Payload { msg: plain, aad: &aad }).expect("a ciphertext");
    [&[arn.len() as u8][..], arn.as_bytes(), &nonce, &sealed].concat()
}

/// The key that a blob names.
pub(super) fn key_of(blob: &[u8]) -> Option<String> {
    let (length, rest) = blob.split_first()?;
    String::from_utf8(rest.get(..usize::from(*length))?.to_vec()).ok()
}

/// Opens; `None` for another context or an altered blob.
pub(super) fn unwrap(secret: &[u8; 32], context: &BTreeMap<String, String>, blob: &[u8]) -> Option<Vec<u8>> {
    let (length, rest) = blob.split_first()?;
    let (nonce, sealed) = rest.get(usize::from(*length)..)?.split_first_chunk::<12>()?;
    let aad = aad(context);
    let nonce_of = Nonce::from(*nonce);
    Aes256Gcm::new(secret.into()).decrypt(&nonce_of, Payload { msg: sealed, aad: &aad }).ok()
}

fn aad(context: &BTreeMap<String, String>) -> Vec<u8> {
    context.iter().flat_map(|(name, value)| format!("{name}\n{value}\n").into_bytes()).collect()
}
