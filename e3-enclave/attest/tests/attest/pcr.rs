//! Debug mode, and which images are accepted.

use e3_attest::error::PcrFault;
use e3_attest::make::Content;
use e3_attest::{AttestError, Pcr, PcrSet, PcrSets};

use crate::sample::{AUTHORITY, accepted, authenticate, content, pcr, pcrs};

fn set(pcrs: &[(u8, u8)]) -> PcrSet {
    PcrSet::new(pcrs.iter().map(|(index, byte)| (*index, pcr(*byte)))).unwrap()
}

#[test]
fn debug_mode_is_refused() {
    for index in 0..3_u8 {
        let mut zero = pcrs();
        zero[usize::from(index)].1 = pcr(0);
        let document = AUTHORITY.sign(&Content { pcrs: zero.into_iter().collect(), ..content() }).unwrap();
        assert_eq!(authenticate(&document).unwrap_err(), AttestError::DebugMode { index });
        let without = pcrs().into_iter().filter(|(found, _)| *found != index).collect();
        let document = AUTHORITY.sign(&Content { pcrs: without, ..content() }).unwrap();
        assert_eq!(authenticate(&document).unwrap_err(), AttestError::DebugMode { index });
    }
}

#[test]
fn another_image_is_refused_and_both_measurements_are_told() {
    let document = AUTHORITY.sign(&content()).unwrap();
    let authentic = authenticate(&document).unwrap();
    assert_eq!(authentic.clone().accept(&accepted()).unwrap().accepted_set(), 0);
    for index in 0..3_u8 {
        let mut other = [(0, 0x10), (1, 0x11), (2, 0x12)];
        other[usize::from(index)].1 = 0xee;
        let refused = authentic.clone().accept(&set(&other).into()).unwrap_err();
        let expected = AttestError::PcrDiffers { index, expected: pcr(0xee), found: Some(pcr(0x10 + index)), sets: 1 };
        assert_eq!(refused, expected);
        let line = refused.to_string();
        assert!(line.contains(&"ee".repeat(48)) && line.contains(&format!("1{index}").repeat(48)), "{line}");
    }
    // A PCR that the document does not have.
    let refused = authentic.accept(&set(&[(0, 0x10), (20, 0x20)]).into()).unwrap_err();
    assert_eq!(refused, AttestError::PcrDiffers { index: 20, expected: pcr(0x20), found: None, sets: 1 });
}

#[test]
fn one_of_several_sets_must_match_whole() {
    let authentic = authenticate(&AUTHORITY.sign(&content()).unwrap()).unwrap();
    let old = set(&[(0, 0xaa), (1, 0x11), (2, 0x12)]);
    let new = set(&[(0, 0x10), (1, 0x11), (2, 0x12)]);
    let both = PcrSets::new([old.clone(), new]).unwrap();
    assert_eq!(authentic.clone().accept(&both).unwrap().accepted_set(), 1);
    // Halves of two sets make no third; the closest one is told.
    let half = set(&[(0, 0x10), (1, 0xbb), (2, 0xbb)]);
    let refused = authentic.accept(&PcrSets::new([half, old]).unwrap()).unwrap_err();
    let expected = AttestError::PcrDiffers { index: 0, expected: pcr(0xaa), found: Some(pcr(0x10)), sets: 2 };
    assert_eq!(refused, expected);
    assert!(refused.to_string().contains("closest of 2"), "{refused}");
}

#[test]
fn a_set_that_any_image_would_pass_is_refused() {
    assert_eq!(PcrSet::new([]).unwrap_err(), PcrFault::NoIdentity);
    assert_eq!(PcrSet::new([(1, pcr(1)), (2, pcr(2))]).unwrap_err(), PcrFault::NoIdentity);
    assert_eq!(PcrSets::new([]).unwrap_err(), PcrFault::NoSet);
    for index in [0, 1, 2, 8] {
        assert_eq!(PcrSet::new([(0, pcr(1)), (index, pcr(0))]).unwrap_err(), PcrFault::Zero(index));
    }
    assert_eq!(PcrSet::new([(0, pcr(1)), (0, pcr(1))]).unwrap_err(), PcrFault::Twice(0));
    assert_eq!(PcrSet::new([(32, pcr(1))]).unwrap_err(), PcrFault::Name);
    assert!(set(&[(8, 1)]).any_image_of_signer());
    assert!(!set(&[(0, 1), (8, 1)]).any_image_of_signer());
}

#[test]
fn sets_are_read_as_the_config_writes_them() {
    let hex = "1f".repeat(48);
    let one: PcrSets = serde_json::from_str(&format!(r#"{{"pcr0": "{hex}", "pcr8": "{hex}"}}"#)).unwrap();
    assert_eq!(one, PcrSets::from(set(&[(0, 0x1f), (8, 0x1f)])));
    let several: PcrSets =
        serde_json::from_str(&format!(r#"[{{"PCR0": "{}"}}, {{"pcr8": "{hex}"}}]"#, hex.to_uppercase())).unwrap();
    assert_eq!(several.sets(), [set(&[(0, 0x1f)]), set(&[(8, 0x1f)])]);
    let written = serde_json::to_string(&several).unwrap();
    assert_eq!(written, format!(r#"[{{"pcr0":"{hex}"}},{{"pcr8":"{hex}"}}]"#));
    assert_eq!(serde_json::from_str::<PcrSets>(&written).unwrap(), several);
}

#[test]
fn a_faulty_set_is_refused_with_its_cause() {
    let hex = "1f".repeat(48);
    for (text, cause) in [
        (r#"{"pcr0": "12"}"#.to_owned(), "96 hexadecimal digits (SHA-384), not 2"),
        (format!(r#"{{"pcr0": "{hex}0"}}"#), "not 97"),
        (format!(r#"{{"pcr0": "{}g1"}}"#, &hex[2..]), "character 95"),
        (format!(r#"{{"pcr0": "{}é"}}"#, &hex[2..]), "character 95"),
        (format!(r#"{{"pcr32": "{hex}"}}"#), "pcr0 to pcr31"),
        (format!(r#"{{"pcr00": "{hex}"}}"#), "pcr0 to pcr31"),
        (format!(r#"{{"pcr+1": "{hex}"}}"#), "pcr0 to pcr31"),
        (format!(r#"{{"Pcr0": "{hex}"}}"#), "pcr0 to pcr31"),
        (format!(r#"{{"pcr0": "{hex}", "PCR0": "{hex}"}}"#), "pcr0 is given twice"),
        (format!(r#"{{"pcr1": "{hex}"}}"#), "names the image (pcr0)"),
        (format!(r#"{{"pcr0": "{}"}}"#, "0".repeat(96)), "debug mode"),
        ("{}".to_owned(), "names the image (pcr0)"),
        ("[]".to_owned(), "at least one set"),
        ("7".to_owned(), "PCRs by name, or a list"),
    ] {
        let refused = serde_json::from_str::<PcrSets>(&text).unwrap_err().to_string();
        assert!(refused.contains(cause), "{text}: {refused}");
    }
    assert_eq!("".parse::<Pcr>().unwrap_err(), PcrFault::Digits { found: 0 });
}
