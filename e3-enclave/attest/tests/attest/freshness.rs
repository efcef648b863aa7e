//! Age, clocks and nonces.

use std::time::Duration;

use e3_attest::make::Content;
use e3_attest::{AttestError, ExpectedNonce, Subject, Verifier};

use crate::sample::{AUTHORITY, SPKI, VERIFIER, content, now, pcrs, request};

fn aged(verifier: &Verifier, made: std::time::SystemTime) -> Result<(), AttestError> {
    let document = AUTHORITY.sign(&Content { timestamp: made, ..content() }).unwrap();
    verifier.authenticate(&document, ExpectedNonce::Absent, now()).map(drop)
}

#[test]
fn a_stale_document_is_refused() {
    let ms = Duration::from_millis;
    assert_eq!(aged(&VERIFIER, now() - ms(300_000)), Ok(()));
    assert_eq!(aged(&VERIFIER, now() - ms(300_001)), Err(AttestError::Stale { age_s: 300, max_age_s: 300 }));
    assert_eq!(aged(&VERIFIER, now() - ms(3_000_000)), Err(AttestError::Stale { age_s: 3000, max_age_s: 300 }));
}

#[test]
fn a_document_from_the_future_is_refused() {
    let ms = Duration::from_millis;
    assert_eq!(aged(&VERIFIER, now() + ms(30_000)), Ok(()));
    assert_eq!(aged(&VERIFIER, now() + ms(30_001)), Err(AttestError::Future { ahead_s: 30, skew_s: 30 }));
    // A timestamp that fits no calendar.
    let far = Content { timestamp: now() + Duration::from_secs(1 << 53), ..content() };
    let document = AUTHORITY.sign(&far).unwrap();
    let refused = VERIFIER.authenticate(&document, ExpectedNonce::Absent, now()).unwrap_err();
    assert!(matches!(refused, AttestError::Future { .. }), "{refused}");
}

#[test]
fn the_limits_of_age_and_skew_are_the_callers_within_reason() {
    let (ms, s) = (Duration::from_millis, Duration::from_secs);
    let strict = VERIFIER.clone().with_freshness(s(10), s(0)).unwrap();
    assert_eq!(aged(&strict, now() - s(10)), Ok(()));
    assert!(matches!(aged(&strict, now() - ms(10_001)), Err(AttestError::Stale { .. })));
    assert!(matches!(aged(&strict, now() + ms(1)), Err(AttestError::Future { .. })));
    assert_eq!(Verifier::aws().with_freshness(s(3601), s(0)).unwrap_err(), AttestError::Freshness);
    assert_eq!(Verifier::aws().with_freshness(s(300), s(301)).unwrap_err(), AttestError::Freshness);
}

#[test]
fn a_clock_before_1970_believes_nothing() {
    let document = AUTHORITY.sign(&content()).unwrap();
    let before = std::time::UNIX_EPOCH - Duration::from_secs(1);
    assert!(VERIFIER.authenticate(&document, ExpectedNonce::Absent, before).is_err());
}

#[test]
fn a_wrong_nonce_is_refused() {
    let plain = AUTHORITY.sign(&content()).unwrap();
    let answered = request(&Subject::Link { spki: SPKI }).with_nonce(vec![7; 32]).unwrap();
    let answered = AUTHORITY.sign(&Content::new(now(), pcrs(), answered)).unwrap();
    let ask = |document: &[u8], nonce| VERIFIER.authenticate(document, nonce, now()).map(drop);

    assert_eq!(ask(&plain, ExpectedNonce::Absent), Ok(()));
    assert_eq!(ask(&answered, ExpectedNonce::Is(&[7; 32])), Ok(()));
    assert_eq!(ask(&plain, ExpectedNonce::Is(&[7; 32])), Err(AttestError::NonceMissing));
    assert_eq!(ask(&plain, ExpectedNonce::Is(&[])), Err(AttestError::NonceMissing));
    assert_eq!(ask(&answered, ExpectedNonce::Absent), Err(AttestError::NonceUnexpected));
    for other in [&[8; 32][..], &[7; 31], &[7; 33], &[]] {
        assert_eq!(ask(&answered, ExpectedNonce::Is(other)), Err(AttestError::NonceDiffers));
    }
}
