//! What was measured into an image: everything with security meaning that is not code (SPEC.md, "Measured inputs").
//!
//! The file lies in the image, so its bytes are part of PCR0 and PCR2. It is public: whoever rebuilds with it gets the same measurements. It is read strictly, for an
//! input that is misspelt and ignored would be a promise that nobody keeps.

use crate::config::{Name, RawRole, Report, Text, deterministic_rate};
use crate::error::Error;
use crate::keyring::unlock::Expected;
use crate::kms::{KeyArn, KmsTarget};
use crate::policy::signed::Signers;
use crate::policy::{AppRules, Policy};
use e3_wire::{App, Role};
use serde::Deserialize;
use serde::de::{Error as _, MapAccess, Visitor};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::num::{NonZeroU16, NonZeroUsize};
use std::path::{Path, PathBuf};
use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};

/// Longest file, in bytes.
const MAX: u64 = 1024 * 1024;

/// The file, as written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Raw {
    environment: Name<Environment>,
    kms: RawKms,
    #[serde(default)]
    relays: Vec<Name<Bytes32>>,
    #[serde(default)]
    admins: Vec<Name<Bytes32>>,
    #[serde(default, deserialize_with = "unique")]
    apps: BTreeMap<Name<App>, RawApp>,
    policy: Option<RawPolicy>,
    keyring: Option<Name<Id>>,
}

/// One app.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawApp {
    #[serde(default)]
    roles: BTreeMap<Name<Role>, RawRole>,
    #[serde(default = "deterministic_rate")]
    deterministic_rate: u32,
}

impl RawApp {
    fn rules(self) -> AppRules {
        let roles = self.roles.into_iter().map(|(role, raw)| (role.0, raw.rules())).collect();
        AppRules::new(roles, self.deterministic_rate)
    }
}

/// Who signs policies.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPolicy {
    signers: Vec<Name<Bytes32>>,
    #[serde(default = "one")]
    threshold: NonZeroUsize,
}

const fn one() -> NonZeroUsize {
    NonZeroUsize::MIN
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawKms {
    key: Name<KeyArn>,
    host: Option<String>,
    port: Option<NonZeroU16>,
    roots: Option<String>,
}

/// A name such as `production`.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Environment(Box<str>);

impl Text for Environment {
    const SCHEMA: (&'static str, &'static str) = ("Environment", "^[a-z][a-z0-9-]{0,31}$");
    fn read(text: &str) -> Result<Self, String> {
        let fits = text.len() <= 32
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if fits { Ok(Self(text.into())) } else { Err("an environment is [a-z][a-z0-9-]{0,31}".to_owned()) }
    }
}

impl Text for KeyArn {
    const SCHEMA: (&'static str, &'static str) = ("KeyArn", "^arn:aws");
    fn read(text: &str) -> Result<Self, String> {
        text.parse().map_err(|e: crate::kms::target::BadKeyArn| e.to_string())
    }
}

/// 32 bytes as hexadecimal text: the hash of a key, or an Ed25519 public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Bytes32([u8; 32]);

impl Text for Bytes32 {
    const SCHEMA: (&'static str, &'static str) = ("Bytes32", "^[0-9a-f]{64}$");
    fn read(text: &str) -> Result<Self, String> {
        hexadecimal(text).map(Self).ok_or_else(|| "64 lower-case hexadecimal digits are needed, not all 0".to_owned())
    }
}

/// The public id of a keyring.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Id([u8; 16]);

impl Text for Id {
    const SCHEMA: (&'static str, &'static str) = ("KeyringId", "^[0-9a-f]{32}$");
    fn read(text: &str) -> Result<Self, String> {
        hexadecimal(text).map(Self).ok_or_else(|| "32 lower-case hexadecimal digits are needed, not all 0".to_owned())
    }
}

fn hexadecimal<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let mut out = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    for (byte, pair) in out.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out).filter(|bytes| *bytes != [0; N])
}

/// A map that refuses a name that stands twice.
fn unique<'de, D, V>(deserializer: D) -> Result<BTreeMap<Name<App>, V>, D::Error>
where
    D: serde::Deserializer<'de>,
    V: Deserialize<'de>,
{
    struct Unique<V>(std::marker::PhantomData<V>);
    impl<'de, V: Deserialize<'de>> Visitor<'de> for Unique<V> {
        type Value = BTreeMap<Name<App>, V>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a map of apps")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut found = BTreeMap::new();
            while let Some((name, value)) = map.next_entry::<Name<App>, V>()? {
                let text = name.0;
                if found.insert(name, value).is_some() {
                    return Err(A::Error::custom(format!("`{text}` stands twice")));
                }
            }
            Ok(found)
        }
    }
    deserializer.deserialize_map(Unique(std::marker::PhantomData))
}

/// Who may do what.
pub enum Rules {
    /// Every relay that comes in may use the declared roles.
    Declared(Policy),
    /// What a policy of these signers says, which the host's store holds.
    Signed(Signers),
}

/// The measured inputs, checked.
pub struct Inputs {
    /// Which keyring and environment.
    pub expected: Expected,
    /// The KMS key, its endpoint and who certifies that.
    pub kms: KmsTarget,
    /// SHA-256 of the SubjectPublicKeyInfo of each relay that may come in, beside those that the policy knows. At least one, if there is no policy.
    pub relays: Vec<[u8; 32]>,
    /// Ed25519 public keys that may sign admin commands.
    pub admins: Vec<[u8; 32]>,
    /// Who may do what.
    pub policy: Rules,
}

impl Inputs {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// It cannot be read, or something in it is refused; the report says where and why.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let read = |source| Error::Read { path: path.to_owned(), source };
        if std::fs::metadata(path).map_err(read)?.len() > MAX {
            return Err(Error::NotAFile { path: path.to_owned() });
        }
        Self::parse(&std::fs::read(path).map_err(read)?, path)
    }

    fn parse(text: &[u8], path: &Path) -> Result<Self, Error> {
        let refuse = |place: String, why: &str| {
            Error::Config(Report::new(format!(
                "{}{place}: {why}\nhint: SPEC.md, \"Measured inputs\", lists what may stand here",
                path.display()
            )))
        };
        let raw: Raw = serde_json::from_slice(text).map_err(|e| {
            let shown = e.to_string();
            let cause = shown.split(" at line ").next().unwrap_or_default();
            refuse(format!(":{}:{}", e.line(), e.column()), cause)
        })?;
        let at = |key: &str, why: &str| refuse(String::new(), &format!("`{key}`: {why}"));
        if raw.policy.is_none() && raw.relays.is_empty() {
            return Err(at("relays", "no relay could come in: the hash of one relay key at least is needed"));
        }
        let signers = raw.policy.as_ref().map_or(&[][..], |policy| &policy.signers);
        for (key, list) in [("relays", &raw.relays[..]), ("admins", &raw.admins), ("policy.signers", signers)] {
            if list.iter().collect::<BTreeSet<_>>().len() != list.len() {
                return Err(at(key, "a key stands twice"));
            }
        }
        if let Some(policy) = &raw.policy {
            if !raw.apps.is_empty() {
                return Err(at("apps", "the policy declares apps and roles: take one of the two out"));
            }
            if policy.threshold.get() > policy.signers.len() {
                return Err(at("policy.threshold", "more signatures than there are signers"));
            }
        }
        if raw.policy.is_none() && raw.apps.is_empty() {
            return Err(at("apps", "no app, and no `policy` that could declare one"));
        }
        let kms = target(raw.kms).map_err(|(key, why)| at(key, why))?;
        let rules = raw.apps.into_iter().map(|(app, raw)| (app.0, raw.rules())).collect();
        Ok(Self {
            expected: Expected { environment: raw.environment.0.0, keyring: raw.keyring.map(|id| id.0.0) },
            kms,
            relays: raw.relays.into_iter().map(|k| k.0.0).collect(),
            admins: raw.admins.into_iter().map(|k| k.0.0).collect(),
            policy: match raw.policy {
                None => Rules::Declared(Policy::declared(rules, false)),
                Some(policy) => Rules::Signed(Signers {
                    keys: policy.signers.into_iter().map(|key| key.0.0).collect(),
                    threshold: policy.threshold.get(),
                }),
            },
        })
    }

    /// What was read, for people: `e3 inputs check`.
    #[must_use]
    pub fn summary(&self, path: &Path) -> String {
        let keyring = self.expected.keyring.as_ref().map_or_else(|| "any".to_owned(), |id| crate::keyring::hex(id));
        let policy = match &self.policy {
            Rules::Declared(_) => "no policy: every relay may use every declared role".to_owned(),
            Rules::Signed(signers) => {
                format!("policies signed by {} of {} signers", signers.threshold, signers.keys.len())
            }
        };
        format!(
            "{}: good\nenvironment {}\nKMS key {} at {}:{}\nkeyring {keyring}\n{} relay keys, {} admin keys\n{policy}\n",
            path.display(),
            self.expected.environment,
            self.kms.key,
            self.kms.host,
            self.kms.port,
            self.relays.len(),
            self.admins.len(),
        )
    }
}

fn target(raw: RawKms) -> Result<KmsTarget, (&'static str, &'static str)> {
    let key = raw.key.0;
    if raw.host.is_none() && raw.port.is_none() && raw.roots.is_none() {
        return KmsTarget::of(key).map_err(|_| ("kms", "the endpoint cannot be set up"));
    }
    let own = KmsTarget::of(key.clone()).map_err(|_| ("kms", "the endpoint cannot be set up"))?;
    let host = raw.host.unwrap_or_else(|| own.host.to_string());
    if !matches!(ServerName::try_from(host.as_str()), Ok(ServerName::DnsName(_))) {
        return Err(("kms.host", "not a host name"));
    }
    let roots = match raw.roots {
        None => crate::kms::target::amazon_roots(),
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
                let certificate = certificate.map_err(|_| ("kms.roots", "not certificates in PEM"))?;
                roots.add(certificate).map_err(|_| ("kms.roots", "a certificate that cannot be a root"))?;
            }
            if roots.is_empty() {
                return Err(("kms.roots", "no certificate in PEM"));
            }
            roots
        }
    };
    KmsTarget::at(key, &host, raw.port.map_or(443, NonZeroU16::get), roots)
        .map_err(|_| ("kms", "the endpoint cannot be set up"))
}

/// Where the image carries the file.
#[must_use]
pub fn default_path() -> PathBuf {
    PathBuf::from("/etc/e3/inputs.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

    fn good() -> String {
        format!(
            r#"{{"environment": "production",
 "kms": {{"key": "arn:aws:kms:eu-central-1:111122223333:key/1234abcd"}},
 "relays": ["{}"], "admins": ["{KEY}"],
 "apps": {{"shop": {{"roles": {{"card-number": {{}}, "email": {{"deterministic": true}}}}}}}}}}"#,
            "ab".repeat(32)
        )
    }

    fn refused(text: &str) -> String {
        match Inputs::parse(text.as_bytes(), Path::new("inputs.json")) {
            Err(e) => e.to_string(),
            Ok(_) => panic!("accepted: {text}"),
        }
    }

    #[test]
    fn good_inputs_are_read() {
        let inputs = Inputs::parse(good().as_bytes(), Path::new("inputs.json")).unwrap();
        assert_eq!((&*inputs.kms.host, inputs.kms.port), ("kms.eu-central-1.amazonaws.com", 443));
        assert_eq!((inputs.relays.len(), inputs.admins.len()), (1, 1));
        assert!(inputs.expected.keyring.is_none());
        assert!(inputs.summary(Path::new("inputs.json")).contains("production"));
    }

    #[test]
    fn what_is_misspelt_doubled_or_unusable_is_refused_with_its_place() {
        let id = "0".repeat(31) + "1";
        let with = |from: &str, to: &str| {
            let text = good().replacen(from, to, 1);
            assert_ne!(text, good(), "{from}");
            refused(&text)
        };
        for (from, to, said) in [
            ("\"relays\"", "\"relay\"", ":3:"),
            ("\"environment\"", "\"enviroment\"", "unknown field"),
            ("production", "Production", "an environment is"),
            ("\"kms\": {", "\"kms\": {\"hots\": \"x\", ", "unknown field `hots`"),
            ("key/1234abcd", "alias/e3", "an alias can be pointed"),
            ("\"relays\": [", "\"relays\": [\"00\", ", "64 lower-case hexadecimal"),
            ("\"relays\": [", "\"relays\": [], \"old\": [", "unknown field `old`"),
            ("\"kms\": {", "\"kms\": {\"host\": \"127.0.0.1\", ", "`kms.host`: not a host name"),
            ("\"kms\": {", "\"kms\": {\"roots\": \"no PEM\", ", "`kms.roots`: no certificate"),
            ("\"kms\": {", "\"kms\": {\"port\": 0, ", "nonzero"),
            ("\"shop\": {", "\"shop\": {}, \"shop\": {", "stands twice"),
            ("\"environment\"", "\"environment\": \"a\", \"environment\"", "duplicate field"),
            ("\"kms\"", "\"keyring\": \"xyz\", \"kms\"", "32 lower-case hexadecimal"),
            ("d75a98", "D75A98", "64 lower-case hexadecimal"),
        ] {
            let report = with(from, to);
            assert!(report.contains(said) && report.contains("inputs.json"), "{to}: {report}");
        }
        let twice = good().replacen(&format!("\"{KEY}\""), &format!("\"{KEY}\", \"{KEY}\""), 1);
        assert!(refused(&twice).contains("`admins`: a key stands twice"));
        let none = good().replacen(&format!("\"{}\"", "ab".repeat(32)), "", 1);
        assert!(refused(&none).contains("`relays`: no relay could come in"));
        let pinned = good().replacen("\"kms\"", &format!("\"keyring\": \"{id}\", \"kms\""), 1);
        let pinned = Inputs::parse(pinned.as_bytes(), Path::new("inputs.json")).unwrap();
        assert_eq!(pinned.expected.keyring.unwrap()[15], 1);
    }
}
