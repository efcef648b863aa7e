//! What documents are bound to, and that purposes never cross.

use e3_attest::binding::BINDING_LENGTH;
use e3_attest::error::{BindingFault, Field};
use e3_attest::make::Content;
use e3_attest::request::{MAX_NONCE, MAX_PUBLIC_KEY, MAX_USER_DATA};
use e3_attest::{
    AttestError, Binding, Bound, ExpectedNonce, KeyringState, PolicyState, Purpose, Request, State, Subject,
};
use proptest::prelude::*;

use crate::sample::{AUTHORITY, SPKI, VERIFIER, accepted, now, pcrs, request, state};

const EXPORTER: [u8; 32] = [0xe0; 32];

fn subjects() -> [Subject<'static>; 3] {
    [Subject::Link { spki: SPKI }, Subject::Caller { exporter: &EXPORTER }, Subject::Kms { spki: SPKI }]
}

/// Signs a document for this request and checks that it belongs to the subject.
fn check(request: Request, subject: &Subject<'_>) -> Result<Bound, AttestError> {
    let document = AUTHORITY.sign(&Content::new(now(), pcrs(), request.clone())).unwrap();
    let nonce = request.nonce().map_or(ExpectedNonce::Absent, ExpectedNonce::Is);
    VERIFIER.authenticate(&document, nonce, now())?.accept(&accepted())?.bound_to(subject)
}

/// What E3 asks for, by purpose.
fn proper(subject: &Subject<'_>) -> Request {
    let request = request(subject);
    match subject.purpose() {
        Purpose::Link => request,
        Purpose::Caller => request.with_nonce(vec![1; 32]).unwrap(),
        Purpose::Kms => request.with_public_key(SPKI.to_vec()).unwrap(),
    }
}

#[test]
fn a_document_is_believed_for_its_own_purpose_alone() {
    for made in subjects() {
        for needed in subjects() {
            let answer = check(proper(&made), &needed);
            if made.purpose() == needed.purpose() {
                let bound = answer.unwrap();
                assert_eq!((bound.binding().purpose(), *bound.binding().state()), (needed.purpose(), state()));
                assert_eq!(bound.accepted_set(), 0);
            } else {
                let crossed = AttestError::PurposeDiffers { expected: needed.purpose(), found: made.purpose() };
                assert_eq!(answer.unwrap_err(), crossed);
            }
        }
    }
}

#[test]
fn a_document_of_another_key_or_session_is_refused() {
    let other = [
        Subject::Link { spki: b"another key" },
        Subject::Caller { exporter: &[0xe1; 32] },
        Subject::Kms { spki: b"another key" },
    ];
    for (made, needed) in subjects().iter().zip(&other) {
        let refused = check(proper(made), needed).unwrap_err();
        assert_eq!(refused, AttestError::SubjectDiffers { purpose: needed.purpose() });
    }
}

#[test]
fn a_caller_without_a_nonce_is_refused() {
    let caller = Subject::Caller { exporter: &EXPORTER };
    assert_eq!(check(request(&caller), &caller).unwrap_err(), AttestError::NonceMissing);
}

#[test]
fn a_link_document_may_answer_a_nonce() {
    let link = Subject::Link { spki: SPKI };
    let bound = check(request(&link).with_nonce(vec![1; 32]).unwrap(), &link).unwrap();
    assert_eq!(bound.claims().nonce(), Some(&[1; 32][..]));
}

#[test]
fn a_document_for_kms_carries_the_key_that_it_is_bound_to() {
    let kms = Subject::Kms { spki: SPKI };
    assert_eq!(check(request(&kms), &kms).unwrap_err(), AttestError::PublicKeyDiffers);
    let other = request(&kms).with_public_key(b"another key".to_vec()).unwrap();
    assert_eq!(check(other, &kms).unwrap_err(), AttestError::PublicKeyDiffers);
}

#[test]
fn a_document_that_is_bound_to_nothing_is_refused() {
    let link = Subject::Link { spki: SPKI };
    assert_eq!(check(Request::default(), &link).unwrap_err(), AttestError::Unbound);
    let refused = check(Request::raw(b"something else".to_vec()).unwrap(), &link).unwrap_err();
    assert_eq!(refused, AttestError::Binding(BindingFault::Magic));
}

#[test]
fn the_layout_of_a_binding_is_the_frozen_one() {
    let binding = Binding::new(&Subject::Caller { exporter: &EXPORTER }, state()).unwrap();
    let hex: String = binding.encode().iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [
        "65336174",
        "01",
        "02",
        &"e0".repeat(32),
        "0000000000000007",
        &"aa".repeat(32),
        "0000000000000009",
        &"bb".repeat(16),
        &"cc".repeat(32),
    ];
    assert_eq!(hex, parts.concat());
    // SHA-256 of a key, for the two purposes that name one.
    let key = "6fbb8c64";
    for subject in [Subject::Link { spki: SPKI }, Subject::Kms { spki: SPKI }] {
        let binding = Binding::new(&subject, State::default()).unwrap();
        let hex: String = binding.subject()[..4].iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, key);
        assert_eq!(Binding::decode(&binding.encode()), Ok(binding));
    }
}

#[test]
fn a_binding_that_breaks_its_layout_is_refused() {
    let good = Binding::new(&Subject::Link { spki: SPKI }, state()).unwrap().encode();
    let with = |at: usize, bytes: &[u8]| {
        let mut binding = good;
        binding[at..at + bytes.len()].copy_from_slice(bytes);
        Binding::decode(&binding).unwrap_err()
    };
    assert_eq!(with(0, b"E"), BindingFault::Magic);
    assert_eq!(with(4, &[2]), BindingFault::Version(2));
    assert_eq!(with(5, &[0]), BindingFault::Purpose(0));
    assert_eq!(with(5, &[4]), BindingFault::Purpose(4));
    assert_eq!(with(6, &[0; 32]), BindingFault::NoSubject);
    assert_eq!(with(38, &[0; 8]), BindingFault::HalfPolicy);
    assert_eq!(with(46, &[0; 32]), BindingFault::HalfPolicy);
    assert_eq!(with(78, &[0; 8]), BindingFault::HalfKeyring);
    assert_eq!(with(86, &[0; 16]), BindingFault::HalfKeyring);
    for length in 0..BINDING_LENGTH {
        assert!(Binding::decode(&good[..length]).is_err());
    }
    let longer = [&good[..], &[0]].concat();
    let expected = BindingFault::Length { found: BINDING_LENGTH + 1, expected: BINDING_LENGTH };
    assert_eq!(Binding::decode(&longer).unwrap_err(), expected);
}

#[test]
fn what_cannot_be_written_is_not_bound() {
    let link = Subject::Link { spki: SPKI };
    let zeros = PolicyState { version: 0, hash: [0; 32] };
    for policy in [zeros, PolicyState { version: 1, ..zeros }, PolicyState { hash: [1; 32], ..zeros }] {
        let state = State { policy: Some(policy), ..State::default() };
        assert_eq!(Binding::new(&link, state).unwrap_err(), BindingFault::HalfPolicy);
    }
    let zeros = KeyringState { epoch: 0, id: [0; 16] };
    for keyring in [zeros, KeyringState { epoch: 1, ..zeros }, KeyringState { id: [1; 16], ..zeros }] {
        let state = State { keyring: Some(keyring), ..State::default() };
        assert_eq!(Binding::new(&link, state).unwrap_err(), BindingFault::HalfKeyring);
    }
    let nowhere = Subject::Caller { exporter: &[0; 32] };
    assert_eq!(Binding::new(&nowhere, State::default()).unwrap_err(), BindingFault::NoSubject);
}

#[test]
fn a_request_keeps_the_modules_limits() {
    let over = |field, found, most| AttestError::RequestLength { field, found, most };
    let bound = || request(&Subject::Link { spki: SPKI });
    assert!(bound().with_nonce(vec![1; MAX_NONCE]).is_ok());
    assert!(bound().with_public_key(vec![1; MAX_PUBLIC_KEY]).is_ok());
    assert!(Request::raw(vec![1; MAX_USER_DATA]).is_ok());
    for found in [0, 513] {
        assert_eq!(bound().with_nonce(vec![1; found]).unwrap_err(), over(Field::Nonce, found, 512));
        assert_eq!(Request::raw(vec![1; found]).unwrap_err(), over(Field::UserData, found, 512));
    }
    for found in [0, 1025] {
        assert_eq!(bound().with_public_key(vec![1; found]).unwrap_err(), over(Field::PublicKey, found, 1024));
    }
}

proptest! {
    #[test]
    fn a_binding_is_read_in_one_way_or_not_at_all(bytes in proptest::collection::vec(any::<u8>(), 0..200), header in any::<bool>()) {
        let mut bytes = bytes;
        if header {
            bytes.resize(BINDING_LENGTH, 1);
            bytes[..6].copy_from_slice(b"e3at\x01\x01");
        }
        if let Ok(binding) = Binding::decode(&bytes) {
            prop_assert_eq!(&binding.encode()[..], &bytes[..]);
        }
    }
}
