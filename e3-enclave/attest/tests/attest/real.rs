//! Documents that real Nitro machines made: `tests/conformance/data/attestation`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use coset::{CborSerializable, CoseSign1};
use e3_attest::error::{CertificateFault, Position};
use e3_attest::{AttestError, ExpectedNonce, MAX_DOCUMENT, PcrSet, PcrSets, Subject, Verifier};

use crate::sample::{map, real, value};

/// A document with the moment it was made at and the nonce it answers, both read by another library.
struct Sample {
    name: &'static str,
    bytes: Vec<u8>,
    made: SystemTime,
    nonce: Option<Vec<u8>>,
}

impl Sample {
    fn new(name: &'static str) -> Self {
        let bytes = real(name);
        let payload = map(&bytes);
        let timestamp = u64::try_from(value(&payload, "timestamp").into_integer().unwrap()).unwrap();
        let made = UNIX_EPOCH + Duration::from_millis(timestamp);
        let nonce = value(&payload, "nonce").into_bytes().ok();
        Self { name, bytes, made, nonce }
    }

    fn nonce(&self) -> ExpectedNonce<'_> {
        self.nonce.as_deref().map_or(ExpectedNonce::Absent, ExpectedNonce::Is)
    }

    /// Whether a document passes everything up to the PCRs. Debug mode is asked after all the rest, so being refused for it alone counts.
    fn passes(&self, document: &[u8]) -> bool {
        let answer = Verifier::aws().authenticate(document, self.nonce(), self.made);
        matches!(answer, Ok(_) | Err(AttestError::DebugMode { .. }))
    }
}

fn samples() -> [Sample; 3] {
    ["ev_valid.bin", "nitro_attest.cose", "ppmag_debug.bin"].map(Sample::new)
}

#[test]
fn real_documents_verify_at_their_own_time() {
    for sample in &samples()[..2] {
        let verifier = Verifier::aws();
        let authentic = verifier.authenticate(&sample.bytes, sample.nonce(), sample.made).unwrap();
        let claims = authentic.claims().clone();
        assert!(claims.module_id().starts_with("i-0"), "{}", sample.name);
        assert_eq!(claims.pcrs().len(), 16);
        assert_eq!(claims.nonce(), sample.nonce.as_deref());
        let leaf = claims.leaf_validity();
        assert_eq!(leaf.not_after - leaf.not_before, 3 * 3600 + 3);
        // The image that they state is accepted, another is not.
        let image = (0..3).map(|index| (index, claims.pcrs()[&index]));
        let verified = authentic.clone().accept(&PcrSet::new(image).unwrap().into()).unwrap();
        let other = PcrSet::new([(0, claims.pcrs()[&1])]).unwrap();
        let refused = authentic.accept(&PcrSets::from(other)).unwrap_err();
        assert!(matches!(refused, AttestError::PcrDiffers { index: 0, .. }), "{refused}");
        // They were not made by E3.
        let unbound = verified.bound_to(&Subject::Link { spki: b"any" }).unwrap_err();
        assert!(matches!(unbound, AttestError::Unbound | AttestError::Binding(_)), "{unbound}");
    }
    let with_key = &samples()[1];
    let authentic = Verifier::aws().authenticate(&with_key.bytes, with_key.nonce(), with_key.made).unwrap();
    assert_eq!(authentic.claims().public_key().unwrap().len(), 294);
}

#[test]
fn a_real_document_of_debug_mode_is_refused_for_that_alone() {
    let [.., debug] = samples();
    let refused = Verifier::aws().authenticate(&debug.bytes, debug.nonce(), debug.made);
    assert_eq!(refused.unwrap_err(), AttestError::DebugMode { index: 0 });
}

#[test]
fn real_documents_are_refused_today() {
    for sample in samples() {
        let refused = Verifier::aws().authenticate(&sample.bytes, sample.nonce(), SystemTime::now()).unwrap_err();
        let AttestError::Certificate { position: Position::CaBundle(1), fault: CertificateFault::Expired { .. } } =
            refused
        else {
            panic!("{}: {refused}", sample.name);
        };
        // And before they were made.
        let before = sample.made - Duration::from_secs(40 * 86_400);
        let refused = Verifier::aws().authenticate(&sample.bytes, sample.nonce(), before).unwrap_err();
        assert!(
            matches!(refused, AttestError::Certificate { fault: CertificateFault::NotYetValid { .. }, .. }),
            "{refused}"
        );
    }
}

#[test]
fn every_byte_flip_of_a_real_document_is_refused() {
    std::thread::scope(|scope| {
        for sample in samples() {
            scope.spawn(move || {
                assert!(sample.passes(&sample.bytes), "{}", sample.name);
                let mut flipped = sample.bytes.clone();
                for at in 0..flipped.len() {
                    // One bit of every byte, each in its turn, and all eight of every sixty-fourth.
                    let bits = if at % 64 == 0 { 0..8 } else { at % 8..at % 8 + 1 };
                    for bit in bits {
                        flipped[at] ^= 1 << bit;
                        assert!(!sample.passes(&flipped), "{}: byte {at}, bit {bit}", sample.name);
                        flipped[at] ^= 1 << bit;
                    }
                }
                assert_eq!(flipped, sample.bytes);
            });
        }
    });
}

#[test]
fn every_truncation_of_a_real_document_is_refused() {
    for sample in samples() {
        for length in 0..sample.bytes.len() {
            assert!(!sample.passes(&sample.bytes[..length]), "{}: {length} bytes", sample.name);
        }
        let mut longer = sample.bytes.clone();
        longer.push(0);
        assert!(!sample.passes(&longer), "{}", sample.name);
        longer.resize(MAX_DOCUMENT + 1, 0);
        let refused = Verifier::aws().authenticate(&longer, sample.nonce(), sample.made).unwrap_err();
        assert_eq!(refused, AttestError::Size { found: MAX_DOCUMENT + 1 });
    }
}

#[test]
fn a_real_document_verifies_only_with_its_own_certificates_and_payload() {
    let [one, other, _] = samples().map(|sample| CoseSign1::from_slice(&sample.bytes).unwrap());
    let sample = &samples()[0];
    let swapped_signature = CoseSign1 { signature: other.signature.clone(), ..one.clone() };
    let refused =
        Verifier::aws().authenticate(&swapped_signature.to_vec().unwrap(), sample.nonce(), sample.made).unwrap_err();
    assert_eq!(refused, AttestError::Signature);
    let again = one.to_vec().unwrap();
    assert_eq!(again, sample.bytes, "another library writes the same bytes");
}

#[test]
fn a_wrapped_document_is_refused() {
    for sample in samples() {
        let tagged = [&[0xd2][..], &sample.bytes].concat();
        let refused = Verifier::aws().authenticate(&tagged, sample.nonce(), sample.made).unwrap_err();
        assert_eq!(refused, AttestError::NotSign1);
    }
}
