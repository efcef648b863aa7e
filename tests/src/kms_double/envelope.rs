//! CMS EnvelopedData as AWS KMS writes it: BER with indefinite lengths, RSAES-OAEP with SHA-256, AES-256-CBC.

use aws_lc_rs::cipher::{AES_256, PaddedBlockEncryptingKey, UnboundCipherKey};
use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPublicEncryptingKey, PublicEncryptingKey};

/// Contents over this are written in pieces of this many bytes.
const PIECE: usize = 1000;

const ENVELOPED_DATA: &[u8] = &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 3];
const DATA: &[u8] = &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 7, 1];
const OAEP: &[u8] = &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 7];
const MGF1: &[u8] = &[0x06, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 8];
const SHA256: &[u8] = &[0x30, 13, 0x06, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 1, 0x05, 0];
const AES256_CBC: &[u8] = &[0x06, 9, 0x60, 0x86, 0x48, 1, 0x65, 3, 4, 1, 0x2a];

/// An envelope for this public key (SubjectPublicKeyInfo in DER); `None` if it is none.
pub(super) fn seal(spki: &[u8], plain: &[u8]) -> Option<Vec<u8>> {
    let mut key = [0; 32];
    aws_lc_rs::rand::fill(&mut key).ok()?;
    let public = OaepPublicEncryptingKey::new(PublicEncryptingKey::from_der(spki).ok()?).ok()?;
    let mut wrapped = vec![0; public.ciphertext_size()];
    public.encrypt(&OAEP_SHA256_MGF1SHA256, &key, &mut wrapped, None).ok()?;
    let cipher = PaddedBlockEncryptingKey::cbc_pkcs7(UnboundCipherKey::new(&AES_256, &key).ok()?).ok()?;
    let mut content = plain.to_vec();
    let context = cipher.encrypt(&mut content).ok()?;
    let iv: &[u8] = (&context).try_into().ok()?;

    let parameters = [definite(0xa0, SHA256), definite(0xa1, &definite(0x30, &[MGF1, SHA256].concat()))].concat();
    let algorithm = definite(0x30, &[OAEP, &definite(0x30, &parameters)].concat());
    let recipient = [&[0x02, 1, 2][..], &definite(0x80, &[7; 32]), &algorithm, &definite(0x04, &wrapped)].concat();
    let recipients = definite(0x31, &definite(0x30, &recipient));
    let cipher = definite(0x30, &[AES256_CBC, &definite(0x04, iv)].concat());
    let pieces: Vec<u8> = content.chunks(PIECE).flat_map(|piece| definite(0x04, piece)).collect();
    let content = indefinite(0x30, &[DATA, &cipher, &indefinite(0xa0, &pieces)].concat());
    let enveloped = indefinite(0x30, &[&[0x02, 1, 2][..], &recipients, &content].concat());
    Some(indefinite(0x30, &[ENVELOPED_DATA, &indefinite(0xa0, &enveloped)].concat()))
}

fn definite(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut out = vec![tag];
    match length {
        0..=127 => out.push(length as u8),
        128..=255 => out.extend([0x81, length as u8]),
        _ => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    out.extend_from_slice(content);
    out
}

fn indefinite(tag: u8, content: &[u8]) -> Vec<u8> {
    [&[tag, 0x80][..], content, &[0, 0]].concat()
}
