//! Who may do what with which role (SPEC.md, "Policy").
//!
//! 1. [`raw`]: the file as people write it; [`resolve`] makes of it a [`document::Document`], which cannot be wrong; [`lint`] says what its author should know;
//! 2. [`signed`]: whose signatures it carries;
//! 3. [`index`]: what it says about one principal, role and verb is found, not searched for;
//! 4. [`decide`]: the one door. What it lets through carries an [`Allowed`], which nothing else can make and without which nothing is sealed or opened;
//! 5. [`live`]: the policy in force, and how a newer one takes its place;
//! 6. [`command`]: `e3 policy …`; [`diff`]: who gains and loses what, [`explain`]: why somebody is denied, [`table`]: what authors expect.

pub mod command;
mod decide;
pub mod diff;
pub mod document;
pub mod explain;
mod index;
mod lint;
pub mod live;
mod rate;
pub mod raw;
mod resolve;
pub mod signed;
pub mod table;

pub(crate) use decide::Sealing;
pub use decide::{Allowed, Asker, Decision, Moment, Subject, a_second};
pub use document::{RoleRules, Verb};
pub use index::Proven;
pub(crate) use resolve::bytes32;

use document::{Document, Proof, Section};
use e3_attest::PolicyState;
use e3_wire::{App, Context, RequestRefusal, Role};
use index::AppIndex;
use sha2::{Digest, Sha256};
use signed::Signed;
use std::collections::{HashMap, HashSet};
use std::time::Instant;

/// Deterministic seals that an app may ask of one engine in a second, unless the configuration says otherwise.
pub const DETERMINISTIC_RATE: u32 = document::DETERMINISTIC_RATE.count;

/// What an app's roles are, where everyone that comes in may use them.
pub struct AppRules(Section);

impl AppRules {
    /// The declared roles, and how many deterministic seals a second are served.
    #[must_use]
    pub fn new(roles: HashMap<Role, RoleRules>, deterministic_rate: u32) -> Self {
        let deterministic_rate = a_second(deterministic_rate);
        Self(Section { roles: roles.into_iter().collect(), deterministic_rate, ..Section::default() })
    }
}

/// What is in force.
#[derive(Debug)]
enum Force {
    /// Nothing: nothing is sealed or opened.
    Nothing,
    /// Whoever comes in may use the declared roles; with `allow_undeclared`, others too, with random salts.
    Declared { allow_undeclared: bool },
    /// A policy.
    Signed(Box<Signed>),
}

/// The policy in force, ready to be asked.
#[derive(Debug)]
pub struct Policy {
    force: Force,
    apps: HashMap<App, AppIndex>,
}

/// Who asks, and what for.
#[derive(Debug, Clone, Copy)]
pub struct Asking<'a> {
    /// What is proven of whoever asks.
    pub proven: Proven<'a>,
    /// Whose keys.
    pub app: App,
    /// What the relay states about the message.
    pub context: &'a Context<'a>,
    /// The keyring's epoch.
    pub epoch: u64,
}

impl Policy {
    /// Nothing is in force: every request is refused.
    #[must_use]
    pub fn nothing() -> Self {
        Self { force: Force::Nothing, apps: HashMap::new() }
    }

    /// Declared roles, which everyone that comes in may use. With `allow_undeclared`, roles and apps that are not declared may be used with random salts.
    #[must_use]
    pub fn declared(apps: HashMap<App, AppRules>, allow_undeclared: bool) -> Self {
        let now = Instant::now();
        let apps = apps.into_iter().map(|(app, rules)| (app, AppIndex::new(app, &rules.0, None, now))).collect();
        Self { force: Force::Declared { allow_undeclared }, apps }
    }

    /// A policy that takes the place of `previous`: rates that were used up there stay used up.
    #[must_use]
    pub fn of(signed: Signed, previous: Option<&Self>) -> Self {
        let apps = index::all(&signed.document, previous.map(|p| &p.apps), Instant::now());
        Self { force: Force::Signed(Box::new(signed)), apps }
    }

    /// What attestation documents state of it.
    #[must_use]
    pub fn state(&self) -> Option<PolicyState> {
        self.signed().map(|signed| PolicyState { version: signed.document.version, hash: signed.hash })
    }

    /// What it says, if it is more than declared roles.
    #[must_use]
    pub fn document(&self) -> Option<&Document> {
        self.signed().map(|signed| &signed.document)
    }

    fn signed(&self) -> Option<&Signed> {
        match &self.force {
            Force::Signed(signed) => Some(signed),
            Force::Nothing | Force::Declared { .. } => None,
        }
    }

    /// Hashes of the keys of the relays that it knows.
    #[must_use]
    pub fn relays(&self) -> HashSet<[u8; 32]> {
        let of = |proof: &Proof| match proof {
            Proof::Relay { spki, .. } => spki.iter().map(|key| *key.as_bytes()).collect(),
            Proof::Plain | Proof::ApiKey(_) | Proof::Image(_) => Vec::new(),
        };
        self.apps.values().flat_map(|index| &index.principals).flat_map(|p| of(&p.proof)).collect()
    }

    /// Whether it knows callers by their images alone, whose keys nobody can list.
    #[must_use]
    pub fn knows_images(&self) -> bool {
        let by_image = |proof: &Proof| match proof {
            Proof::Relay { spki, .. } => spki.is_empty(),
            Proof::Image(_) => true,
            Proof::Plain | Proof::ApiKey(_) => false,
        };
        self.apps.values().flat_map(|index| &index.principals).any(|p| by_image(&p.proof))
    }

    /// Who asks, ready to be decided about.
    ///
    /// # Errors
    /// [`RequestRefusal::UnknownApp`]; [`RequestRefusal::NoPolicy`] if none is in force, its time has run out, or the keyring is older than it allows;
    /// [`RequestRefusal::UnknownCredential`] if there is an API key and it is nobody's.
    pub fn asker(&self, asking: &Asking<'_>, now: Moment) -> Result<Asker<'_>, RequestRefusal> {
        let index = self.apps.get(&asking.app);
        let credential = asking.context.credential.0;
        match &self.force {
            Force::Nothing => Err(RequestRefusal::NoPolicy),
            // Without a policy there are no API keys: whoever shows one means to be less than the relay, and must not become it.
            Force::Declared { .. } if !credential.is_empty() => Err(RequestRefusal::UnknownCredential),
            Force::Declared { allow_undeclared } if *allow_undeclared || index.is_some() => {
                Ok(Asker::anyone(asking.app, index, *allow_undeclared, now))
            }
            Force::Declared { .. } => Err(RequestRefusal::UnknownApp),
            Force::Signed(signed) => {
                let document = &signed.document;
                if document.valid_until.is_some_and(|end| end <= now.unix) || asking.epoch < document.min_keyring_epoch
                {
                    return Err(RequestRefusal::NoPolicy);
                }
                let index = index.ok_or(RequestRefusal::UnknownApp)?;
                if credential.is_empty() {
                    return Ok(Asker::caller(asking.app, index, &asking.proven, asking.context, now));
                }
                let hash = api_key_hash(credential);
                Asker::holder(asking.app, index, &hash, asking.context, now).ok_or(RequestRefusal::UnknownCredential)
            }
        }
    }

    /// Whether the app may be used at all.
    #[must_use]
    pub fn knows(&self, app: App) -> bool {
        matches!(self.force, Force::Declared { allow_undeclared: true }) || self.apps.contains_key(&app)
    }
}

/// What a policy knows an API key by: SHA-256 of its text.
#[must_use]
pub fn api_key_hash(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}
