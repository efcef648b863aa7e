//! What the tests have in common: one authority, one moment, one engine.

use std::path::Path;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use coset::cbor::value::Value;
use coset::{CborSerializable, CoseSign1};
use e3_attest::make::{Authority, Content};
use e3_attest::{
    AttestError, Authentic, Binding, ExpectedNonce, KeyringState, Pcr, PcrSet, PcrSets, PolicyState, Request, State,
    Subject, Verifier,
};

/// When everything here happens.
pub(crate) fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_800_000_000)
}

pub(crate) static AUTHORITY: LazyLock<Authority> =
    LazyLock::new(|| Authority::new(now(), Duration::from_secs(86_400)).unwrap());

/// Trusts [`AUTHORITY`].
pub(crate) static VERIFIER: LazyLock<Verifier> = LazyLock::new(|| Verifier::with_test_root(AUTHORITY.root()).unwrap());

/// Stands for the DER of the engine's public key; only its hash counts.
pub(crate) const SPKI: &[u8] = b"the engine's public key";

pub(crate) fn pcr(byte: u8) -> Pcr {
    Pcr::new([byte; 48])
}

/// PCRs of a running image: 16 of them, as real machines have.
pub(crate) fn pcrs() -> Vec<(u8, Pcr)> {
    (0..16).map(|index| (index, if index < 5 { pcr(0x10 + index) } else { pcr(0) })).collect()
}

pub(crate) fn accepted() -> PcrSets {
    PcrSet::new((0..3).map(|index| (index, pcr(0x10 + index)))).unwrap().into()
}

pub(crate) fn state() -> State {
    State {
        policy: Some(PolicyState { version: 7, hash: [0xaa; 32] }),
        keyring: Some(KeyringState { epoch: 9, id: [0xbb; 16] }),
        audit_key: Some([0xcc; 32]),
    }
}

pub(crate) fn request(subject: &Subject<'_>) -> Request {
    Request::bound(&Binding::new(subject, state()).unwrap())
}

/// The content of an engine's certificate document.
pub(crate) fn content() -> Content {
    Content::new(now(), pcrs(), request(&Subject::Link { spki: SPKI }))
}

/// What [`VERIFIER`] says about a document without a nonce, now.
pub(crate) fn authenticate(document: &[u8]) -> Result<Authentic, AttestError> {
    VERIFIER.authenticate(document, ExpectedNonce::Absent, now())
}

/// The payload of a document as another library reads it.
pub(crate) fn map(document: &[u8]) -> Vec<(Value, Value)> {
    let payload = CoseSign1::from_slice(document).unwrap().payload.unwrap();
    let value: Value = coset::cbor::de::from_reader(&payload[..]).unwrap();
    value.into_map().unwrap()
}

/// The value of a key of the payload.
pub(crate) fn value(map: &[(Value, Value)], key: &str) -> Value {
    map.iter().find(|(name, _)| name.as_text() == Some(key)).unwrap().1.clone()
}

/// A published document.
pub(crate) fn real(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/conformance/data/attestation");
    std::fs::read(folder.join(name)).unwrap()
}
