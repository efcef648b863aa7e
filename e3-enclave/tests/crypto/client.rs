//! A client that holds an app's public key and nothing else, written from SPEC.md, "Public-key sealing".

use e3_wire::{Role, ValueType, token};
use hpke::aead::AesGcm256;
use hpke::inout::InOutBuf;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::rand_core::{TryCryptoRng, TryRng, utils};
use hpke::{Deserializable, Kem, OpModeS, Serializable, single_shot_seal_inout_detached_with_rng};
use std::convert::Infallible;

pub(crate) struct PublicKey {
    pub(crate) kid: u32,
    pub(crate) key: [u8; 32],
}

impl PublicKey {
    pub(crate) fn seal(&self, app: &str, role: &str, ty: ValueType, value: &[u8], time: u32) -> Vec<u8> {
        let lp = |text: &str| [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat();
        let start = [&[2][..], &self.kid.to_be_bytes(), &time.to_be_bytes()].concat();
        let header = [b"e3v1", &lp(role)[..], &[ty.letter()], &start].concat();
        let info = [b"e3v1/public", &lp(app)[..]].concat();
        let key = <X25519HkdfSha256 as Kem>::PublicKey::from_bytes(&self.key).unwrap();
        let mut sealed = value.to_vec();
        let (enc, tag) = single_shot_seal_inout_detached_with_rng::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
            &OpModeS::Base,
            &key,
            &info,
            InOutBuf::from(&mut sealed[..]),
            &header,
            &mut System,
        )
        .unwrap();
        let binary = [&start[..], &enc.to_bytes(), &sealed, &tag.to_bytes()].concat();
        let mut text = Vec::new();
        token::write(Role::parse(role).unwrap(), ty, &binary, &mut text);
        text
    }
}

struct System;

impl TryRng for System {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        utils::next_word_via_fill(self)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        utils::next_word_via_fill(self)
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        getrandom::fill(out).unwrap();
        Ok(())
    }
}

impl TryCryptoRng for System {}
