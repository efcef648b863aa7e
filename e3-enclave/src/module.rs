//! The security module that makes attestation documents: the enclave's own, or for tests one in a file.

use aws_nitro_enclaves_nsm_api::api::{Request as Question, Response};
use aws_nitro_enclaves_nsm_api::driver;
use e3_attest::Request;
use e3_link::attested::Attester;

/// The Nitro Secure Module, `/dev/nsm`.
#[derive(Debug)]
pub struct Nsm {
    fd: i32,
}

impl Nsm {
    /// Opens the module; `None` outside an enclave.
    #[must_use]
    pub fn open() -> Option<Self> {
        let fd = driver::nsm_init();
        (fd >= 0).then_some(Self { fd })
    }

    /// Random bytes of the module, to be mixed with the kernel's.
    #[must_use]
    pub fn random(&self) -> Option<Vec<u8>> {
        match driver::nsm_process_request(self.fd, Question::GetRandom) {
            Response::GetRandom { random } if !random.is_empty() => Some(random),
            _ => None,
        }
    }
}

impl Drop for Nsm {
    fn drop(&mut self) {
        driver::nsm_exit(self.fd);
    }
}

impl Attester for Nsm {
    fn document(&self, request: &Request) -> Option<Vec<u8>> {
        let part = |bytes: Option<&[u8]>| bytes.map(|bytes| bytes.to_vec().into());
        let question = Question::Attestation {
            user_data: part(request.user_data()),
            nonce: part(request.nonce()),
            public_key: part(request.public_key()),
        };
        match driver::nsm_process_request(self.fd, question) {
            Response::Attestation { document } => Some(document),
            _ => None,
        }
    }
}

/// A module in a file: an authority as `e3_attest::make` writes it. Its PCR0, 1 and 2 are 48 bytes of 1, 2 and 3.
#[cfg(feature = "test-module")]
pub struct FileModule(e3_attest::make::Authority);

#[cfg(feature = "test-module")]
impl FileModule {
    /// Reads the file.
    ///
    /// # Errors
    /// It is none.
    pub fn open(path: &std::path::Path) -> Result<Self, crate::Error> {
        let bytes = std::fs::read(path).ok();
        let authority = bytes.and_then(|bytes| e3_attest::make::Authority::from_bytes(&bytes).ok());
        authority.map(Self).ok_or_else(|| crate::Error::TestModule { path: path.to_owned() })
    }

    /// Believes the documents of this module, and of others under its root.
    ///
    /// # Errors
    /// The root is none.
    pub fn verifier(&self) -> Result<e3_attest::Verifier, e3_attest::AttestError> {
        e3_attest::Verifier::with_test_root(self.0.root())
    }
}

#[cfg(feature = "test-module")]
impl Attester for FileModule {
    fn document(&self, request: &Request) -> Option<Vec<u8>> {
        let pcrs = (0..3).map(|index| (index, e3_attest::Pcr::new([index + 1; 48])));
        let content = e3_attest::make::Content::new(std::time::SystemTime::now(), pcrs, request.clone());
        self.0.sign(&content).ok()
    }
}
