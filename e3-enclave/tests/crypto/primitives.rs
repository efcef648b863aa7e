//! Wycheproof: AES-256-GCM with nonces of 96 bits and tags of 128, and HKDF-SHA256, through the very calls that seal and open.

use aes_gcm::aead::AeadInOut;
use aes_gcm::aead::inout::InOutBuf;
use aes_gcm::{Aes256Gcm, KeyInit, Nonce, Tag};
use hkdf::Hkdf;
use sha2::Sha256;
use wycheproof::TestResult;

#[test]
fn aes_gcm_meets_every_wycheproof_case_of_its_parameters() {
    let set = wycheproof::aead::TestSet::load(wycheproof::aead::TestName::AesGcm).unwrap();
    let (mut valid, mut invalid) = (0, 0);
    let ours = set.test_groups.iter().filter(|g| g.key_size == 256 && g.nonce_size == 96 && g.tag_size == 128);
    for test in ours.flat_map(|g| &g.tests) {
        let cipher = Aes256Gcm::new_from_slice(&test.key).unwrap();
        let nonce = Nonce::try_from(&test.nonce[..]).unwrap();
        let tag = Tag::try_from(&test.tag[..]).unwrap();
        let mut buffer = test.ct.to_vec();
        let opened = cipher.decrypt_inout_detached(&nonce, &test.aad, InOutBuf::from(&mut buffer[..]), &tag);
        match test.result {
            TestResult::Valid => {
                opened.unwrap_or_else(|_| panic!("case {}: not opened", test.tc_id));
                assert_eq!(buffer, test.pt.to_vec(), "case {}", test.tc_id);
                let made = cipher.encrypt_inout_detached(&nonce, &test.aad, InOutBuf::from(&mut buffer[..])).unwrap();
                assert_eq!((&buffer[..], &made[..]), (&test.ct[..], &test.tag[..]), "case {}", test.tc_id);
                valid += 1;
            }
            TestResult::Invalid => {
                assert!(opened.is_err(), "case {}: {}", test.tc_id, test.comment);
                invalid += 1;
            }
            TestResult::Acceptable => panic!("case {} needs a verdict", test.tc_id),
        }
    }
    assert!(valid >= 30 && invalid >= 20, "{valid} valid, {invalid} invalid");
}

#[test]
fn hkdf_meets_every_wycheproof_case() {
    let set = wycheproof::hkdf::TestSet::load(wycheproof::hkdf::TestName::HkdfSha256).unwrap();
    let (mut valid, mut invalid) = (0, 0);
    for test in set.test_groups.iter().flat_map(|g| &g.tests) {
        let mut okm = vec![0; test.size];
        let expanded = Hkdf::<Sha256>::new(Some(&test.salt), &test.ikm).expand(&test.info, &mut okm);
        match test.result {
            TestResult::Valid => {
                expanded.unwrap_or_else(|_| panic!("case {}: not expanded", test.tc_id));
                assert_eq!(okm, test.okm.to_vec(), "case {}", test.tc_id);
                valid += 1;
            }
            TestResult::Invalid => {
                assert!(expanded.is_err(), "case {}: {}", test.tc_id, test.comment);
                invalid += 1;
            }
            TestResult::Acceptable => panic!("case {} needs a verdict", test.tc_id),
        }
    }
    assert!(valid >= 80 && invalid >= 1, "{valid} valid, {invalid} invalid");
}
