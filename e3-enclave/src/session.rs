//! Who is at the other end of a connection, as far as it is proven (SPEC.md, "Attested link", "Callers that are enclaves").
//!
//! A [`Session`] begins with what the handshake proved: a relay's pinned key, or on a plain link nothing. A caller that is itself an enclave adds its image by answering
//! a [`Challenge`]; the [`AttestedImage`] that this gives cannot be had otherwise.

use crate::keyring::hex;
use crate::policy::Proven;
use e3_attest::{AttestError, EXPORTER_LENGTH, ExpectedNonce, Pcr, Verifier};
use e3_link::attested::SESSION_MAX;
use e3_link::attested::admin::PUBLIC_KEY;
use e3_link::attested::engine::{Peer, Who};
use e3_wire::{NONCE, NONCE_LIFE_S};
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant, SystemTime};

/// How long a nonce may be used.
const NONCE_LIFE: Duration = Duration::from_secs(NONCE_LIFE_S);

/// How long a proof holds: a caller leaves its session after an hour, and proves itself anew in the next. What it asked just before is still answered.
const IMAGE_LIFE: Duration = SESSION_MAX.saturating_add(Duration::from_secs(60));

/// SHA-256 of a key's SubjectPublicKeyInfo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct SpkiHash([u8; 32]);

impl SpkiHash {
    /// This hash.
    #[must_use]
    pub const fn new(hash: [u8; 32]) -> Self {
        Self(hash)
    }

    /// Its bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for SpkiHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("sha256:")?;
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// What is proven of whoever asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProofKind {
    /// Nothing: a plain link.
    None,
    /// It has the key of a relay, or of an administrator, of the measured lists.
    Key,
    /// That, and it is an enclave of a known image.
    Image,
}

impl ProofKind {
    /// The name that audit records carry.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Key => "key",
            Self::Image => "image",
        }
    }
}

/// The image of a caller, by an attestation document that it made for this very session. Only [`Challenge::prove`] makes it. Holds for about an hour.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttestedImage {
    pcrs: BTreeMap<u8, Pcr>,
    module: Box<str>,
    /// The registers that something was measured into, as audit records carry them.
    shown: BTreeMap<String, String>,
    until: Instant,
}

impl AttestedImage {
    /// What was measured, by index 0 to 31; PCR0, 1 and 2 are there and not zero.
    #[must_use]
    pub const fn pcrs(&self) -> &BTreeMap<u8, Pcr> {
        &self.pcrs
    }

    /// Which security module vouches for it: instance and enclave.
    #[must_use]
    pub fn module(&self) -> &str {
        &self.module
    }

    /// The registers that are not zero, by name: `pcr0` and its 96 hexadecimal digits.
    #[must_use]
    pub const fn shown(&self) -> &BTreeMap<String, String> {
        &self.shown
    }
}

/// Who is at the other end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    relay: Option<SpkiHash>,
    admin: Option<[u8; PUBLIC_KEY]>,
    image: Option<AttestedImage>,
    /// SHA-256 of the rules that it says it follows.
    rules: Option<[u8; 32]>,
    /// Whether the link proves nothing.
    plain: bool,
    /// Whether its key is on no list: it has to prove what it is.
    stranger: bool,
    name: Box<str>,
}

impl Session {
    /// Whoever reached a plain link: nothing is proven.
    #[must_use]
    pub fn plain() -> Self {
        Self { plain: true, ..Self::named("link:plain".to_owned()) }
    }

    /// A relay or an administrator of the measured lists.
    #[must_use]
    pub fn of(peer: &Peer) -> Self {
        match *peer.who() {
            Who::Relay(hash) => {
                let key = SpkiHash(hash);
                Self { relay: Some(key), ..Self::named(format!("relay:{key}")) }
            }
            Who::Admin(key) => {
                let name = format!("admin:ed25519:{}", hex(&key));
                Self { admin: Some(key), ..Self::named(name) }
            }
            Who::Stranger(hash) => Self { stranger: true, ..Self::named(format!("key:{}", SpkiHash(hash))) },
        }
    }

    fn named(name: String) -> Self {
        Self { relay: None, admin: None, image: None, rules: None, plain: false, stranger: false, name: name.into() }
    }

    /// Whether it may ask nothing yet: its key is on no list, and it has not proven its image, or that proof has lapsed.
    #[must_use]
    pub fn is_unknown(&self) -> bool {
        self.stranger && self.image().is_none()
    }

    /// The administrator's key, if it is an administrator's session: then nothing is asked there but signed commands.
    #[must_use]
    pub const fn admin(&self) -> Option<&[u8; PUBLIC_KEY]> {
        self.admin.as_ref()
    }

    /// The same, which also proved its image.
    #[must_use]
    pub fn with_image(&self, image: AttestedImage) -> Self {
        Self { image: Some(image), ..self.clone() }
    }

    /// The same, which says that it follows rules of this SHA-256.
    #[must_use]
    pub fn with_rules(&self, hash: [u8; 32]) -> Self {
        Self { rules: Some(hash), ..self.clone() }
    }

    /// SHA-256 of the rules that it says it follows, if it said so.
    #[must_use]
    pub const fn rules(&self) -> Option<&[u8; 32]> {
        self.rules.as_ref()
    }

    /// The relay's key; `None` on a plain link, and of an administrator.
    #[must_use]
    pub const fn key(&self) -> Option<&SpkiHash> {
        self.relay.as_ref()
    }

    /// The caller's image, if it proved one and the proof still holds.
    #[must_use]
    pub fn image(&self) -> Option<&AttestedImage> {
        self.image.as_ref().filter(|image| Instant::now() < image.until)
    }

    /// What a policy can know whoever asks by.
    #[must_use]
    pub fn proven(&self) -> Proven<'_> {
        let spki = self.relay.as_ref().map(SpkiHash::as_bytes);
        Proven { spki, pcrs: self.image().map(AttestedImage::pcrs), plain: self.plain }
    }

    /// What is proven.
    #[must_use]
    pub fn proof(&self) -> ProofKind {
        match (self.image(), &self.relay, &self.admin) {
            (Some(_), ..) => ProofKind::Image,
            (None, None, None) => ProofKind::None,
            (None, ..) => ProofKind::Key,
        }
    }

    /// The name that audit records carry: `link:plain`, `relay:sha256:` and the hash of its key, or `admin:ed25519:` and its key.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// Why a caller did not prove itself. For the engine's log; the caller learns only that it was so.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unproven {
    /// It did not ask for a nonce, or used the one it got.
    #[error("no nonce is out in this session: none was asked for, or it was used already")]
    NoNonce,
    /// Its nonce is too old.
    #[error("the nonce is older than {NONCE_LIFE_S} s")]
    Expired,
    /// Its document.
    #[error(transparent)]
    Document(#[from] AttestError),
}

/// The nonces of one session: at most one is out, for one use.
#[derive(Debug)]
pub struct Challenge {
    exporter: [u8; EXPORTER_LENGTH],
    out: Option<([u8; NONCE], Instant)>,
}

impl Challenge {
    /// The challenge of the TLS session with this exporter ([`e3_attest::EXPORTER_LABEL`]).
    #[must_use]
    pub const fn new(exporter: [u8; EXPORTER_LENGTH]) -> Self {
        Self { exporter, out: None }
    }

    /// A fresh nonce, which takes the place of one that is out; `None` when the system has no random numbers to give.
    pub fn nonce(&mut self, now: Instant) -> Option<[u8; NONCE]> {
        let mut nonce = [0; NONCE];
        self.out = None;
        getrandom::fill(&mut nonce).ok()?;
        self.out = Some((nonce, now));
        Some(nonce)
    }

    /// The nonce that is out; it is used up, whatever comes of it.
    ///
    /// # Errors
    /// [`Unproven::NoNonce`], [`Unproven::Expired`].
    pub fn redeem(&mut self, now: Instant) -> Result<[u8; NONCE], Unproven> {
        let (nonce, since) = self.out.take().ok_or(Unproven::NoNonce)?;
        if now.saturating_duration_since(since) > NONCE_LIFE { Err(Unproven::Expired) } else { Ok(nonce) }
    }

    /// Whether the document proves, now, an image at the other end of this session.
    ///
    /// # Errors
    /// See [`Unproven`]; the nonce is used up all the same.
    pub fn prove(&mut self, verifier: &Verifier, document: &[u8], now: Instant) -> Result<AttestedImage, Unproven> {
        let nonce = self.redeem(now)?;
        let authentic = verifier.authenticate(document, ExpectedNonce::Is(&nonce), SystemTime::now())?;
        let caller = authentic.caller(&self.exporter)?;
        let pcrs = caller.claims().pcrs().clone();
        let measured = pcrs.iter().filter(|(_, pcr)| !pcr.is_zero());
        let shown = measured.map(|(index, pcr)| (format!("pcr{index}"), pcr.to_string())).collect();
        Ok(AttestedImage { pcrs, module: caller.claims().module_id().into(), shown, until: now + IMAGE_LIFE })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nonce_serves_once_and_not_for_long() {
        let mut challenge = Challenge::new([1; 32]);
        let now = Instant::now();
        assert_eq!(challenge.redeem(now), Err(Unproven::NoNonce));
        let first = challenge.nonce(now).unwrap();
        let second = challenge.nonce(now).unwrap();
        assert_ne!(first, second);
        assert_eq!(challenge.redeem(now + NONCE_LIFE), Ok(second));
        assert_eq!(challenge.redeem(now), Err(Unproven::NoNonce));
        challenge.nonce(now).unwrap();
        assert_eq!(challenge.redeem(now + NONCE_LIFE + Duration::from_millis(1)), Err(Unproven::Expired));
        assert_eq!(challenge.redeem(now), Err(Unproven::NoNonce), "used up all the same");
    }

    #[test]
    fn an_image_lapses() {
        let now = Instant::now();
        let image = |until| AttestedImage { pcrs: BTreeMap::new(), module: "m".into(), shown: BTreeMap::new(), until };
        let plain = Session::plain();
        assert_eq!(plain.proof(), ProofKind::None);
        assert_eq!(plain.with_image(image(now + IMAGE_LIFE)).proof(), ProofKind::Image);
        let lapsed = plain.with_image(image(now));
        assert_eq!((lapsed.proof(), lapsed.image()), (ProofKind::None, None));
    }
}
