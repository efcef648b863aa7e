//! The emulated Nitro machine and the image build, without the engine: what the other tests in this folder stand on. Run by `tests/nitro/run`.

use std::fs;
use std::io::Read;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use e3_attest::make::Authority;
use e3_attest::{AttestError, ExpectedNonce, PcrSet, PcrSets, Verifier};
use e3_tests::nitro::{Enclave, Image, Instance, MODULE_ID, Machine, guest};

/// Where the guest takes questions.
const QUESTIONS: u32 = 5000;

const INPUTS: &[u8] = br#"{"region":"eu-central-1"}"#;

/// Built once for all tests; the folder stays until the process ends.
static IMAGE: LazyLock<Image> = LazyLock::new(|| build(&tempfile::tempdir().expect("a folder").keep()));

/// Valid around now, as a Nitro machine's certificates are.
static AUTHORITY: LazyLock<Authority> =
    LazyLock::new(|| Authority::new(SystemTime::now(), Duration::from_secs(3 * 3600)).expect("an authority"));

fn build(folder: &std::path::Path) -> Image {
    let inputs = folder.join("inputs.json");
    fs::write(&inputs, INPUTS).expect("the inputs are written");
    Image::build(folder, Some(&guest()), Some(&inputs))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn bytes(text: &str) -> Vec<u8> {
    assert!(!text.starts_with("error"), "{text}");
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex")).collect()
}

fn document(machine: &Machine, nonce: Option<&[u8]>, user_data: Option<&[u8]>, public_key: Option<&[u8]>) -> Vec<u8> {
    let word = |value: Option<&[u8]>| value.map_or_else(|| "-".to_owned(), hex);
    let question = format!("document {} {} {}", word(nonce), word(user_data), word(public_key));
    bytes(&machine.ask(QUESTIONS, &question).expect("the guest answers"))
}

fn boot(instance: &mut Instance, authority: Option<&Authority>) -> Machine {
    let machine = instance.boot(&Enclave::new(&IMAGE, authority));
    println!("booted in {:.1} s", machine.booted_in.as_secs_f64());
    machine
}

#[test]
fn two_builds_of_an_image_are_the_same_bytes() {
    let folder: PathBuf = tempfile::tempdir().expect("a folder").keep();
    // Another folder, another file, other times: none of it may be in the image.
    let program = folder.join("program");
    fs::copy(guest(), &program).expect("the program is copied");
    fs::write(folder.join("inputs"), INPUTS).expect("the inputs are written");
    let second = Image::build(&folder, Some(&program), Some(&folder.join("inputs")));
    assert_eq!(IMAGE.pcrs, second.pcrs);
    assert!(fs::read(&IMAGE.path).expect("an image") == fs::read(&second.path).expect("an image"), "the images differ");

    fs::write(folder.join("inputs"), br#"{"region":"eu-central-2"}"#).expect("the inputs are written");
    let other = Image::build(&folder, Some(&program), Some(&folder.join("inputs")));
    assert_eq!(IMAGE.pcrs[&1], other.pcrs[&1], "the kernel's register covers the kernel alone");
    assert_ne!(IMAGE.pcrs[&2], other.pcrs[&2], "the inputs are not measured");
    assert_ne!(IMAGE.pcrs[&0], other.pcrs[&0], "the inputs are not measured");
    fs::remove_dir_all(folder).expect("the folder is removed");
}

#[test]
fn a_machine_measures_what_the_build_measured_and_its_document_says_so() {
    let mut instance = Instance::new();
    let machine = boot(&mut instance, Some(&AUTHORITY));
    for (index, pcr) in &IMAGE.pcrs {
        assert_eq!(machine.ask(QUESTIONS, &format!("pcr {index}")).expect("an answer"), pcr.to_string());
    }
    assert_eq!(bytes(&machine.ask(QUESTIONS, "inputs").expect("an answer")), INPUTS);
    // Whoever verifies a certificate in there needs the time.
    let there: u64 = machine.ask(QUESTIONS, "time").expect("an answer").parse().expect("a number");
    let here = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs();
    assert!(here.abs_diff(there) < 60, "the machine's clock says {there}, this one's {here}");

    let (nonce, user_data, public_key) = ([7; 32], [8; 512], [9; 294]);
    let signed = document(&machine, Some(&nonce), Some(&user_data), Some(&public_key));
    let verifier = Verifier::with_test_root(AUTHORITY.root()).expect("a root");
    let now = SystemTime::now();
    let authentic = verifier.authenticate(&signed, ExpectedNonce::Is(&nonce), now).expect("a genuine document");
    let claims = authentic.claims();
    assert_eq!(claims.nonce(), Some(&nonce[..]));
    assert_eq!(claims.user_data(), Some(&user_data[..]));
    assert_eq!(claims.public_key(), Some(&public_key[..]));
    assert_eq!(claims.module_id(), MODULE_ID);
    let accepted = PcrSet::new(IMAGE.pcrs.iter().map(|(index, pcr)| (*index, *pcr))).expect("a set");
    let accepted = PcrSets::new([accepted]).expect("sets");
    authentic.accept(&accepted).expect("the image that was built");

    assert_eq!(
        verifier.authenticate(&signed, ExpectedNonce::Is(&[6; 32]), now).err(),
        Some(AttestError::NonceDiffers),
        "another nonce was believed"
    );
    assert_eq!(
        Verifier::aws().authenticate(&signed, ExpectedNonce::Is(&nonce), now).err(),
        Some(AttestError::Root),
        "production believed a test"
    );

    // What is left out comes back as absent, and the largest document still fits into the module's answer.
    let bare = document(&machine, None, None, None);
    let bare = verifier.authenticate(&bare, ExpectedNonce::Absent, now).expect("a genuine document");
    assert_eq!((bare.claims().nonce(), bare.claims().user_data(), bare.claims().public_key()), (None, None, None));
    let largest = document(&machine, Some(&[1; 512]), Some(&[2; 512]), Some(&[3; 1024]));
    verifier.authenticate(&largest, ExpectedNonce::Is(&[1; 512]), now).expect("a genuine document");
}

#[test]
fn the_document_of_a_stock_machine_is_refused_because_nobody_signed_it() {
    let mut instance = Instance::new();
    let machine = boot(&mut instance, None);
    let unsigned = document(&machine, Some(&[7; 32]), None, None);
    for verifier in [Verifier::aws(), Verifier::with_test_root(AUTHORITY.root()).expect("a root")] {
        let refused = verifier.authenticate(&unsigned, ExpectedNonce::Is(&[7; 32]), SystemTime::now());
        assert_eq!(refused.err(), Some(AttestError::Algorithm));
    }
}

#[test]
fn a_killed_enclave_boots_again_beside_the_same_parent() {
    let mut instance = Instance::new();
    let mut first = boot(&mut instance, Some(&AUTHORITY));
    let mut heartbeat = first.heartbeat().expect("a heartbeat").try_clone().expect("a socket");
    first.kill();
    let mut rest = String::new();
    heartbeat.read_to_string(&mut rest).expect("the connection ends with the enclave");
    assert_eq!(rest, "");

    let second = boot(&mut instance, Some(&AUTHORITY));
    let pcr = second.ask(QUESTIONS, "pcr 0").expect("an answer");
    assert_eq!(pcr, IMAGE.pcrs[&0].to_string());
    assert!(second.console().contains("Run /init as init process"));
}
