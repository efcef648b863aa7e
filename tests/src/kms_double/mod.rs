//! A key management service that does what AWS KMS does for enclaves, on a loopback port: HTTPS, its JSON protocol, signatures of requests, key policies with conditions on
//! the attestation document and the encryption context, answers encrypted to the document's key. It is told to misbehave by [`Fault`].
//!
//! [`envelope`] writes the answers' CMS, [`signature`] checks who asks, [`ciphertext`] is how keys wrap.

mod ciphertext;
mod envelope;
mod server;
mod signature;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use e3_attest::{Pcr, Verifier};

/// The region of all keys.
pub const REGION: &str = "eu-central-1";

/// The account of the keys that are made with the tests.
pub const ACCOUNT: &str = "111122223333";

/// The name in the server's certificate.
pub const HOST: &str = "kms.test.example";

/// Credentials that this service knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    /// Access key id.
    pub id: String,
    /// Secret access key.
    pub secret: String,
    /// Session token.
    pub token: String,
    /// Whether they have expired.
    pub expired: bool,
    /// Whether they are of a role that no key's policy names: good, and allowed nothing.
    pub foreign: bool,
}

/// What a key allows: everything that is not allowed is denied.
#[derive(Debug, Clone, Default)]
pub struct KeyPolicy {
    /// `kms:RecipientAttestation:PCRn` that a document must have; `None`: no document is asked for.
    pub pcrs: Option<BTreeMap<u8, Pcr>>,
    /// `kms:EncryptionContext:name` and the values of which it must have one.
    pub context: BTreeMap<String, Vec<String>>,
}

/// How the service misbehaves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Answers with the plaintext beside the envelope.
    PlaintextBeside,
    /// Ignores the recipient: answers with the plaintext alone, as an emulator does.
    PlaintextInstead,
    /// Neither plaintext nor envelope.
    NoEnvelope,
    /// Says that this key did it.
    OtherKeyId(String),
    /// Does it with another key, and says so: one that a host planted.
    OtherKey(String),
    /// An envelope for somebody else's key.
    ForeignEnvelope,
    /// Bytes that are no envelope.
    GarbageEnvelope,
    /// A data key of this many bytes.
    ShortKey(usize),
    /// This error instead of so many answers, status 400 or, from `Internal` on, 500.
    Error(&'static str, usize),
    /// Takes the request and says nothing.
    Hang,
    /// Takes the request and closes.
    Close,
    /// Something that is not JSON.
    Nonsense,
}

/// One request that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// `GenerateDataKey` or `Decrypt`.
    pub action: String,
    /// The `KeyId` that it named.
    pub key: String,
    /// Its encryption context.
    pub context: BTreeMap<String, String>,
    /// The access key id that signed it.
    pub signer: String,
    /// What was answered: 200, or the error's name.
    pub outcome: String,
}

struct Key {
    secret: [u8; 32],
    policy: KeyPolicy,
}

struct State {
    verifier: Verifier,
    keys: BTreeMap<String, Key>,
    credentials: Vec<Credentials>,
    fault: Option<Fault>,
    calls: Vec<Call>,
}

/// The running service, until it is dropped.
pub struct KmsThatVerifies {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
    roots: String,
    _server: server::Server,
}

impl KmsThatVerifies {
    /// A service that believes documents under this root, with one set of credentials (`AKIDTEST`, `secret`, `token`) and no keys, under a certificate for this name:
    /// [`HOST`], unless it is to be refused.
    #[must_use]
    pub fn start(attestation_root: &[u8], name: &str) -> Self {
        let credentials = Credentials {
            id: "AKIDTEST".to_owned(),
            secret: "secret".to_owned(),
            token: "token".to_owned(),
            expired: false,
            foreign: false,
        };
        let state = Arc::new(Mutex::new(State {
            verifier: Verifier::with_test_root(attestation_root).expect("a root of attestation"),
            keys: BTreeMap::new(),
            credentials: vec![credentials],
            fault: None,
            calls: Vec::new(),
        }));
        let (server, address, roots) = server::Server::start(name, Arc::clone(&state));
        Self { address, state, roots, _server: server }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The certificate authority of its certificate, in PEM.
    #[must_use]
    pub fn roots(&self) -> &str {
        &self.roots
    }

    /// Makes a key of this account, or replaces its policy; answers its ARN.
    pub fn key(&self, account: &str, id: &str, policy: KeyPolicy) -> String {
        let arn = format!("arn:aws:kms:{REGION}:{account}:key/{id}");
        let mut state = self.state();
        match state.keys.get_mut(&arn) {
            Some(key) => key.policy = policy,
            None => {
                let mut secret = [0; 32];
                aws_lc_rs::rand::fill(&mut secret).expect("random numbers");
                state.keys.insert(arn.clone(), Key { secret, policy });
            }
        }
        arn
    }

    /// From now on these are the credentials that it knows.
    pub fn credentials(&self, credentials: Vec<Credentials>) {
        self.state().credentials = credentials;
    }

    /// From now on it misbehaves so, or not at all.
    pub fn misbehave(&self, fault: Option<Fault>) {
        self.state().fault = fault;
    }

    /// What it was asked so far.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
