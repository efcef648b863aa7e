//! The official vectors of RFC 9180 for the one suite that tokens use, through the very crate and calls that open and seal them.

use hpke::aead::{AeadTag, AesGcm256};
use hpke::inout::InOutBuf;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::rand_core::{TryCryptoRng, TryRng, utils};
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use std::convert::Infallible;

const FILE: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/conformance/data/rfc9180/base-x25519-sha256-aes256gcm.json");

fn hex(text: &serde_json::Value) -> Vec<u8> {
    let text = text.as_str().unwrap();
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

/// The vector's `ikmE` in place of random numbers; ends the test if more is drawn than the RFC draws.
struct Known(Vec<u8>);

impl TryRng for Known {
    type Error = Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        utils::next_word_via_fill(self)
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        utils::next_word_via_fill(self)
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        out.copy_from_slice(&self.0.drain(..out.len()).collect::<Vec<_>>());
        Ok(())
    }
}

impl TryCryptoRng for Known {}

#[test]
fn hpke_meets_the_vectors_of_its_rfc() {
    let all: Vec<serde_json::Value> = serde_json::from_str(&std::fs::read_to_string(FILE).unwrap()).unwrap();
    let mut messages = 0;
    for v in &all {
        assert_eq!([&v["mode"], &v["kem_id"], &v["kdf_id"], &v["aead_id"]], [0, 0x20, 1, 2]);
        let (private, public) = X25519HkdfSha256::derive_keypair(&hex(&v["ikmR"]));
        assert_eq!(public.to_bytes().to_vec(), hex(&v["pkRm"]));
        let info = hex(&v["info"]);
        let mut ephemeral = Known(hex(&v["ikmE"]));
        let (enc, mut sender) = hpke::setup_sender_with_rng::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
            &OpModeS::Base,
            &public,
            &info,
            &mut ephemeral,
        )
        .unwrap();
        assert_eq!((enc.to_bytes().to_vec(), ephemeral.0.len()), (hex(&v["enc"]), 0));
        let enc = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(&hex(&v["enc"])).unwrap();
        let mut receiver =
            hpke::setup_receiver::<AesGcm256, HkdfSha256, X25519HkdfSha256>(&OpModeR::Base, &private, &enc, &info)
                .unwrap();
        for e in v["encryptions"].as_array().unwrap() {
            let (aad, plaintext, sealed) = (hex(&e["aad"]), hex(&e["pt"]), hex(&e["ct"]));
            let (ciphertext, tag) = sealed.split_at(sealed.len() - 16);
            let mut buffer = plaintext.clone();
            let made = sender.seal_inout_detached(InOutBuf::from(&mut buffer[..]), &aad).unwrap();
            assert_eq!((&buffer[..], &made.to_bytes()[..]), (ciphertext, tag));
            let tag = AeadTag::<AesGcm256>::from_bytes(tag).unwrap();
            receiver.open_inout_detached(InOutBuf::from(&mut buffer[..]), &aad, &tag).unwrap();
            assert_eq!(buffer, plaintext);
            messages += 1;
        }
    }
    assert!(messages >= 250, "{messages} messages");
}
