//! Chains of test authorities, each with one fault.

use std::time::Duration;

use e3_attest::error::{CertificateFault, Position};
use e3_attest::make::{Authority, Kind, Link};
use e3_attest::{AttestError, ExpectedNonce, Verifier};

use crate::sample::{AUTHORITY, authenticate, content, now};

const DAY: Duration = Duration::from_secs(86_400);

/// What a verifier that trusts its root says about the document of an authority with this chain.
fn answer(chain: &[Link]) -> Result<(), AttestError> {
    let authority = Authority::of(chain).unwrap();
    let verifier = Verifier::with_test_root(authority.root())?;
    let document = authority.sign(&content()).unwrap_or_else(|_| {
        // A leaf that cannot sign ES384: another key signs in its name.
        AUTHORITY.sign_as(authority.leaf(), authority.cabundle(), &content()).unwrap()
    });
    verifier.authenticate(&document, ExpectedNonce::Absent, now()).map(drop)
}

fn refused(fault: impl FnOnce(&mut Vec<Link>)) -> AttestError {
    let mut chain = Link::chain(now(), DAY);
    fault(&mut chain);
    answer(&chain).unwrap_err()
}

fn certificate(position: Position, fault: CertificateFault) -> AttestError {
    AttestError::Certificate { position, fault }
}

#[test]
fn a_faultless_chain_of_any_length_is_believed() {
    assert_eq!(answer(&Link::chain(now(), DAY)), Ok(()));
    let authority = || Link::new(Kind::Authority { path_length: None }, now(), DAY);
    let leaf = || Link::new(Kind::EndEntity, now(), DAY);
    assert_eq!(answer(&[authority(), leaf()]), Ok(()));
    let mut longest: Vec<Link> = (0..6).map(|_| authority()).collect();
    longest.push(leaf());
    assert_eq!(answer(&longest), Ok(()));
    longest.insert(0, authority());
    assert!(matches!(answer(&longest), Err(AttestError::FieldLength { found: 7, most: 6, .. })));
}

#[test]
fn a_certificate_outside_its_validity_is_refused_wherever_it_stands() {
    for index in 0..5 {
        let position = if index == 4 { Position::Leaf } else { Position::CaBundle(index) };
        let found = refused(|chain| chain[index].not_after = now() - Duration::from_secs(1));
        let seconds = 1_800_000_000;
        assert_eq!(found, certificate(position, CertificateFault::Expired { not_after: seconds - 1, now: seconds }));
        let found = refused(|chain| chain[index].not_before = now() + Duration::from_secs(1));
        assert_eq!(
            found,
            certificate(position, CertificateFault::NotYetValid { not_before: seconds + 1, now: seconds })
        );
        // The last and the first second are within.
        let mut chain = Link::chain(now(), DAY);
        (chain[index].not_before, chain[index].not_after) = (now(), now());
        assert_eq!(answer(&chain), Ok(()));
    }
}

#[test]
fn an_issuer_that_is_no_authority_is_refused() {
    for kind in [Kind::EndEntity, Kind::Unstated] {
        for index in 1..4 {
            let found = refused(|chain| chain[index].kind = kind);
            assert_eq!(found, certificate(Position::CaBundle(index), CertificateFault::NotAuthority));
        }
    }
}

#[test]
fn a_leaf_that_is_an_authority_or_does_not_say_is_refused() {
    for kind in [Kind::Authority { path_length: None }, Kind::Authority { path_length: Some(0) }, Kind::Unstated] {
        let found = refused(|chain| {
            chain[4].kind = kind;
            // Else the path length would be the fault.
            chain[..4].iter_mut().for_each(|link| link.kind = Kind::Authority { path_length: None });
        });
        assert_eq!(found, certificate(Position::Leaf, CertificateFault::LeafIsAuthority));
    }
}

#[test]
fn a_certificate_without_key_usage_is_refused() {
    for index in 1..5 {
        let position = if index == 4 { Position::Leaf } else { Position::CaBundle(index) };
        let found = refused(|chain| chain[index].key_usage = false);
        assert_eq!(found, certificate(position, CertificateFault::KeyUsage));
    }
    assert_eq!(refused(|chain| chain[0].key_usage = false), AttestError::BadRoot);
}

#[test]
fn a_key_of_another_curve_is_refused() {
    for index in 1..5 {
        let position = if index == 4 { Position::Leaf } else { Position::CaBundle(index) };
        let found = refused(|chain| chain[index].p384 = false);
        assert_eq!(found, certificate(position, CertificateFault::Key));
    }
    assert_eq!(refused(|chain| chain[0].p384 = false), AttestError::BadRoot);
}

#[test]
fn a_path_longer_than_an_authority_allows_is_refused() {
    for (index, most) in [(1, 1), (1, 0), (2, 0)] {
        let found = refused(|chain| chain[index].kind = Kind::Authority { path_length: Some(most) });
        assert_eq!(found, certificate(Position::CaBundle(index), CertificateFault::PathLength));
    }
}

#[test]
fn a_certificate_for_another_use_is_refused() {
    for index in 1..5 {
        let position = if index == 4 { Position::Leaf } else { Position::CaBundle(index) };
        let found = refused(|chain| chain[index].extended_key_usage = true);
        assert_eq!(found, certificate(position, CertificateFault::ExtendedKeyUsage));
    }
}

#[test]
fn a_bundle_out_of_order_or_with_gaps_and_extras_is_refused() {
    let whole = AUTHORITY.cabundle().to_vec();
    let answer = |cabundle: &[Vec<u8>]| {
        authenticate(&AUTHORITY.sign_as(AUTHORITY.leaf(), cabundle, &content()).unwrap()).map(drop)
    };
    assert_eq!(answer(&whole), Ok(()));
    let order = |indices: &[usize]| indices.iter().map(|index| whole[*index].clone()).collect::<Vec<_>>();
    // Leaf first, as TLS has it; without the root; another first.
    for indices in [&[3, 2, 1, 0][..], &[1, 2, 3], &[1, 0, 2, 3]] {
        assert_eq!(answer(&order(indices)), Err(AttestError::Root), "{indices:?}");
    }
    for indices in [
        &[0, 2, 1, 3][..],
        &[0, 1, 3],
        &[0, 2, 3],
        &[0, 1, 2],
        &[0],
        &[0, 1, 1, 2, 3],
        &[0, 1, 2, 3, 3],
        &[0, 0, 1, 2, 3],
    ] {
        let found = answer(&order(indices)).unwrap_err();
        assert!(matches!(found, AttestError::Certificate { .. } | AttestError::Chain), "{indices:?}: {found}");
    }
    // A foreign authority behind the chain.
    let foreign = Authority::new(now(), DAY).unwrap();
    let mut more = whole.clone();
    more.push(foreign.cabundle()[1].clone());
    assert!(answer(&more).is_err());
}

#[test]
fn certificates_of_the_same_names_by_another_root_are_refused() {
    // Names and statements are those of the trusted chain; only the signatures are not.
    let foreign = Authority::new(now(), DAY).unwrap();
    for kept in 1..4 {
        let mut cabundle = foreign.cabundle().to_vec();
        cabundle[..kept].clone_from_slice(&AUTHORITY.cabundle()[..kept]);
        let document = foreign.sign_as(foreign.leaf(), &cabundle, &content()).unwrap();
        assert_eq!(authenticate(&document).unwrap_err(), AttestError::Chain);
    }
    let cabundle = AUTHORITY.cabundle();
    let document = foreign.sign_as(foreign.leaf(), cabundle, &content()).unwrap();
    assert_eq!(authenticate(&document).unwrap_err(), AttestError::Chain);
    // The trusted chain whole, and a document that another key signed.
    let document = foreign.sign_as(AUTHORITY.leaf(), cabundle, &content()).unwrap();
    assert_eq!(authenticate(&document).unwrap_err(), AttestError::Signature);
}

#[test]
fn every_byte_flip_of_a_certificate_is_refused() {
    let sign = |cabundle: &[Vec<u8>], leaf: &[u8]| AUTHORITY.sign_as(leaf, cabundle, &content()).unwrap();
    for index in 0..5 {
        let whole = AUTHORITY.cabundle().to_vec();
        let length = whole.get(index).map_or(AUTHORITY.leaf().len(), Vec::len);
        for at in 0..length {
            let mut cabundle = whole.clone();
            let mut leaf = AUTHORITY.leaf().to_vec();
            let der = cabundle.get_mut(index).unwrap_or(&mut leaf);
            der[at] ^= 1 << (at % 8);
            // The document itself is signed anew each time, so only the chain can refuse it.
            assert!(authenticate(&sign(&cabundle, &leaf)).is_err(), "certificate {index}, byte {at}");
        }
    }
}

#[test]
fn what_a_test_authority_signs_is_refused_in_production() {
    let document = AUTHORITY.sign(&content()).unwrap();
    assert!(authenticate(&document).is_ok());
    let refused = Verifier::aws().authenticate(&document, ExpectedNonce::Absent, now()).unwrap_err();
    assert_eq!(refused, AttestError::Root);
    // A bundle that names AWS's root first does not help.
    let real = crate::sample::map(&crate::sample::real("ev_valid.bin"));
    let root = crate::sample::value(&real, "cabundle").into_array().unwrap()[0].clone().into_bytes().unwrap();
    let mut cabundle = AUTHORITY.cabundle().to_vec();
    cabundle[0] = root;
    let document = AUTHORITY.sign_as(AUTHORITY.leaf(), &cabundle, &content()).unwrap();
    let refused = Verifier::aws().authenticate(&document, ExpectedNonce::Absent, now()).unwrap_err();
    assert_eq!(refused, certificate(Position::CaBundle(1), CertificateFault::Issuer));
}

#[test]
fn a_root_that_cannot_sign_certificates_is_not_trusted() {
    for der in [&[][..], &[0; 100], AUTHORITY.leaf(), &AUTHORITY.root()[1..]] {
        assert_eq!(Verifier::with_test_root(der).unwrap_err(), AttestError::BadRoot);
    }
}

#[test]
fn an_authority_is_handed_to_another_process_whole() {
    let again = Authority::from_bytes(&AUTHORITY.to_bytes()).unwrap();
    assert!(authenticate(&again.sign(&content()).unwrap()).is_ok());
    assert!(Authority::from_bytes(&AUTHORITY.to_bytes()[1..]).is_err());
}
