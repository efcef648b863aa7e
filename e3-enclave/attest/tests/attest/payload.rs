//! Documents whose signature and chain are good and whose form is not.

use coset::cbor::value::Value;
use e3_attest::error::{CborFault, Field};
use e3_attest::make::{Content, unsigned};
use e3_attest::{AttestError, ExpectedNonce, Subject, Verifier};
use proptest::prelude::*;

use crate::sample::{AUTHORITY, SPKI, VERIFIER, accepted, authenticate, content, map, now, real, value};

type Map = Vec<(Value, Value)>;

/// The payload of a good document.
fn good() -> Map {
    map(&AUTHORITY.sign(&content()).unwrap())
}

fn encode(map: Map) -> Vec<u8> {
    let mut out = Vec::new();
    coset::cbor::ser::into_writer(&Value::Map(map), &mut out).unwrap();
    out
}

/// Why a document is refused that is genuinely signed over this payload.
fn refused(payload: &[u8]) -> AttestError {
    authenticate(&AUTHORITY.sign_payload(payload).unwrap()).unwrap_err()
}

/// The good payload with another value under this key.
fn with(field: Field, new: Value) -> Vec<u8> {
    let mut map = good();
    map.iter_mut().find(|(name, _)| name.as_text() == Some(field.key())).unwrap().1 = new;
    encode(map)
}

fn bytes(length: usize) -> Value {
    Value::Bytes(vec![1; length])
}

#[test]
fn a_payload_in_any_order_and_without_optional_values_is_believed() {
    let mut map = good();
    map.reverse();
    map.retain(|(name, _)| !["nonce", "public_key"].contains(&name.as_text().unwrap()));
    assert!(authenticate(&AUTHORITY.sign_payload(&encode(map)).unwrap()).is_ok());
}

#[test]
fn a_key_that_stands_twice_is_refused() {
    for field in Field::ALL {
        // The same value again, in front and behind, is refused as another would be.
        for place in [0, 9] {
            let mut map = good();
            map.insert(place, (Value::Text(field.key().to_owned()), value(&map, field.key())));
            assert_eq!(refused(&encode(map)), AttestError::Duplicate(field));
        }
    }
    let mut pcrs = value(&good(), "pcrs").into_map().unwrap();
    pcrs.push((Value::Integer(0.into()), bytes(48)));
    assert_eq!(refused(&with(Field::Pcrs, Value::Map(pcrs))), AttestError::Duplicate(Field::Pcrs));
}

#[test]
fn a_key_that_is_unknown_or_absent_is_refused() {
    for name in ["extra", "", "Nonce", "pcr"] {
        let mut map = good();
        map.push((Value::Text(name.to_owned()), Value::Null));
        assert_eq!(refused(&encode(map)), AttestError::UnknownKey);
    }
    let mut map = good();
    map.push((Value::Integer(1.into()), Value::Null));
    assert!(matches!(refused(&encode(map)), AttestError::Malformed { fault: CborFault::Type, .. }));
    for field in &Field::ALL[..6] {
        let map = good().into_iter().filter(|(name, _)| name.as_text() != Some(field.key())).collect();
        assert_eq!(refused(&encode(map)), AttestError::Missing(*field));
    }
}

#[test]
fn a_value_of_another_type_is_refused() {
    for field in Field::ALL {
        for new in [Value::Bool(true), Value::Float(1.0), Value::Tag(1, Box::new(Value::Null))] {
            assert_eq!(refused(&with(field, new)), AttestError::FieldType(field));
        }
    }
    for field in &Field::ALL[..6] {
        assert_eq!(refused(&with(*field, Value::Null)), AttestError::FieldType(*field));
    }
    for (field, new) in [
        (Field::Digest, Value::Text("SHA256".to_owned())),
        (Field::ModuleId, Value::Text("i-0\nforged log line".to_owned())),
        (Field::ModuleId, Value::Text("i-ö".to_owned())),
        (Field::Timestamp, Value::Integer((-1).into())),
    ] {
        assert_eq!(refused(&with(field, new)), AttestError::FieldType(field));
    }
}

#[test]
fn a_value_of_another_length_is_refused() {
    let length = |field, found, least, most| AttestError::FieldLength { field, found, least, most };
    for found in [0, 47, 49, 64] {
        let pcrs = Value::Map(vec![(Value::Integer(0.into()), bytes(found))]);
        assert_eq!(refused(&with(Field::Pcrs, pcrs)), length(Field::Pcrs, found, 48, 48));
    }
    assert_eq!(refused(&with(Field::Pcrs, Value::Map(Vec::new()))), length(Field::Pcrs, 0, 1, 32));
    let pcrs = (0..33).map(|index| (Value::Integer(index.into()), bytes(48))).collect();
    assert_eq!(refused(&with(Field::Pcrs, Value::Map(pcrs))), length(Field::Pcrs, 33, 1, 32));
    for index in [32_u64, 256, u64::MAX] {
        let pcrs = Value::Map(vec![(Value::Integer(index.into()), bytes(48))]);
        assert_eq!(refused(&with(Field::Pcrs, pcrs)), AttestError::PcrIndex { found: index });
    }
    for (field, least, most, wrong) in [
        (Field::Certificate, 1, 1024, [0, 1025]),
        (Field::PublicKey, 1, 1024, [0, 1025]),
        (Field::UserData, 0, 512, [513, 1024]),
        (Field::Nonce, 0, 512, [513, 1024]),
    ] {
        for found in wrong {
            assert_eq!(refused(&with(field, bytes(found))), length(field, found, least, most));
        }
    }
    for (found, text) in [(0, String::new()), (129, "i".repeat(129))] {
        assert_eq!(refused(&with(Field::ModuleId, Value::Text(text))), length(Field::ModuleId, found, 1, 128));
    }
    assert_eq!(refused(&with(Field::CaBundle, Value::Array(Vec::new()))), length(Field::CaBundle, 0, 1, 6));
    let bundle = Value::Array(vec![bytes(0)]);
    assert_eq!(refused(&with(Field::CaBundle, bundle)), length(Field::CaBundle, 0, 1, 1024));
}

#[test]
fn a_payload_of_another_form_is_refused() {
    let good = encode(good());
    let fault = |payload: &[u8]| match refused(payload) {
        AttestError::Malformed { fault, .. } => fault,
        other => panic!("{other}"),
    };
    // The same map with an indefinite length, with a longer head, with a byte behind it, one pair short, one byte short.
    assert_eq!(fault(&[&[0xbf], &good[1..], &[0xff]].concat()), CborFault::NotCanonical);
    assert_eq!(fault(&[&[0xb8, 9], &good[1..]].concat()), CborFault::NotCanonical);
    assert_eq!(fault(&[&good[..], &[0xf6]].concat()), CborFault::Trailing);
    assert_eq!(fault(&[&[0xa8], &good[1..]].concat()), CborFault::Trailing);
    assert_eq!(fault(&good[..good.len() - 1]), CborFault::Truncated);
    assert_eq!(fault(&[&[0xaa], &good[1..]].concat()), CborFault::Truncated);
    assert_eq!(fault(&[]), CborFault::Truncated);
    // Lengths that overflow what is there, or any machine.
    assert_eq!(fault(&[0xa1, 0x7b, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), CborFault::Truncated);
    assert_eq!(fault(&[0xbb, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]), CborFault::Truncated);
    assert_eq!(fault(&[0x80]), CborFault::Type);
    assert_eq!(fault(&[0xa1, 0x61, 0xff]), CborFault::Text);
}

#[test]
fn another_header_or_envelope_is_refused() {
    let good = AUTHORITY.sign(&content()).unwrap();
    assert_eq!(&good[..7], [0x84, 0x44, 0xa1, 0x01, 0x38, 0x22, 0xa0]);
    let rest = &good[7..];
    let headed = |header: &[u8]| authenticate(&[header, rest].concat()).unwrap_err();
    // Other algorithms (ES256, ES512, −1), no algorithm, one more header, the same header in a longer form.
    for protected in [
        &[0x43, 0xa1, 0x01, 0x26][..],
        &[0x44, 0xa1, 0x01, 0x38, 0x23],
        &[0x43, 0xa1, 0x01, 0x20],
        &[0x40],
        &[0x41, 0xa0],
        &[0x46, 0xa2, 0x01, 0x38, 0x22, 0x04, 0x40],
        &[0x45, 0xa1, 0x01, 0x39, 0x00, 0x22],
    ] {
        assert_eq!(headed(&[&[0x84], protected, &[0xa0]].concat()), AttestError::Algorithm, "{protected:02x?}");
    }
    let unprotected = headed(&[0x84, 0x44, 0xa1, 0x01, 0x38, 0x22, 0xa1, 0x01, 0x26]);
    assert_eq!(unprotected, AttestError::UnprotectedHeader);
    for envelope in [&[0xd2, 0x84][..], &[0x83], &[0x85], &[0xa2], &[0x44]] {
        assert_eq!(headed(&[envelope, &good[1..7]].concat()), AttestError::NotSign1);
    }
    assert_eq!(authenticate(&[]).unwrap_err(), AttestError::Size { found: 0 });
    // A signature one byte shorter, with its length; a detached payload.
    let mut shorter = good.clone();
    let at = shorter.len() - 97;
    shorter[at] = 95;
    shorter.pop();
    assert_eq!(authenticate(&shorter).unwrap_err(), AttestError::SignatureLength { found: 95 });
    let detached = [&good[..7], &[0xf6], &good[good.len() - 98..]].concat();
    assert!(matches!(authenticate(&detached).unwrap_err(), AttestError::Malformed { fault: CborFault::Type, .. }));
}

#[test]
fn the_unsigned_document_of_an_emulated_machine_is_refused() {
    let document = unsigned(&content());
    for verifier in [&Verifier::aws(), &*VERIFIER] {
        let refused = verifier.authenticate(&document, ExpectedNonce::Absent, now()).unwrap_err();
        assert_eq!(refused, AttestError::Algorithm);
    }
    // Its zero signature under a header that claims ES384, even with the trusted chain.
    let mut claimed = AUTHORITY.sign_emulated(&document).unwrap();
    let at = claimed.len() - 96;
    claimed[at..].fill(0);
    assert_eq!(authenticate(&claimed).unwrap_err(), AttestError::Signature);
    // Signed by the authority it says what it said.
    let signed = AUTHORITY.sign_emulated(&document).unwrap();
    let bound = authenticate(&signed).unwrap().accept(&accepted()).unwrap().bound_to(&Subject::Link { spki: SPKI });
    assert_eq!(bound.unwrap().claims().pcrs(), &content().pcrs);
}

#[test]
fn every_refusal_is_one_line() {
    let documents = [real("ev_valid.bin"), unsigned(&content()), Vec::new(), vec![0x84], b"{}".to_vec()];
    for document in documents {
        let line = authenticate(&document).unwrap_err().to_string();
        assert!(line.len() > 40 && line.contains(": ") && !line.contains('\n'), "{line}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_refused_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(authenticate(&bytes).is_err());
        // Behind a good beginning.
        prop_assert!(authenticate(&[&[0x84, 0x44, 0xa1, 0x01, 0x38, 0x22, 0xa0], &bytes[..]].concat()).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_signed_payload_of_arbitrary_bytes_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..600), at in any::<proptest::sample::Index>()) {
        prop_assert!(authenticate(&AUTHORITY.sign_payload(&bytes).unwrap()).is_err());
        // A piece of a good payload replaced.
        let mut payload = encode(good());
        let at = at.index(payload.len());
        let end = payload.len().min(at + bytes.len() % 9);
        payload.splice(at..end, bytes.into_iter().take(8));
        let _ = authenticate(&AUTHORITY.sign_payload(&payload).unwrap());
    }

    #[test]
    fn certificates_of_arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 1..9), index in 0_usize..5, at in any::<proptest::sample::Index>()) {
        let mut chain = AUTHORITY.cabundle().to_vec();
        chain.push(AUTHORITY.leaf().to_vec());
        let at = at.index(chain[index].len());
        let end = chain[index].len().min(at + bytes.len());
        let same = chain[index][at..end] == bytes[..end - at];
        chain[index].splice(at..end, bytes);
        let leaf = chain.pop().unwrap();
        let document = AUTHORITY.sign_as(&leaf, &chain, &Content { ..content() }).unwrap();
        prop_assert!(same || authenticate(&document).is_err());
    }
}
