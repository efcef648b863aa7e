//! A policy, checked: types that cannot be wrong.

use crate::session::SpkiHash;
use core::net::IpAddr;
use e3_attest::PcrSet;
use e3_wire::{App, Role, ValueType};
use std::collections::BTreeMap;
use std::fmt;

/// Deterministic seals that an app may ask of one engine in a second, unless the policy says otherwise.
pub const DETERMINISTIC_RATE: Rate = Rate { count: 50_000, per: Per::Second };

/// A whole policy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its version, at least 1.
    pub version: u64,
    /// Unix seconds from which on it denies everything.
    pub valid_until: Option<u64>,
    /// The lowest epoch of the keyring with which it is in force.
    pub min_keyring_epoch: u64,
    /// What it says, by app. Nobody belongs to two.
    pub apps: BTreeMap<App, Section>,
}

/// What a policy says about one app.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Section {
    /// The declared roles.
    pub roles: BTreeMap<Role, RoleRules>,
    /// Who is known, by name.
    pub principals: BTreeMap<Box<str>, Principal>,
    /// What is allowed, in the order of the file.
    pub grants: Vec<Grant>,
    /// What is denied all the same, in the order of the file; without rates.
    pub deny: Vec<Grant>,
    /// Deterministic seals of the app.
    pub deterministic_rate: Rate,
}

/// What a role may be used for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RoleRules {
    /// Sealed deterministically, and only so: one random token among them would break equality.
    pub deterministic: bool,
    /// Whether anyone may seal it, with a public key.
    pub public_seal: bool,
    /// Whether opening it is denied and raises an alarm.
    pub honey: bool,
    /// The types of its values.
    pub types: Types,
    /// Seconds after which its tokens stay shut.
    pub max_age: Option<u64>,
    /// Its line in the file; 0 where there is none.
    pub line: u32,
}

/// A set of value types. All of them by default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Types(u8);

impl Default for Types {
    fn default() -> Self {
        Self(u8::MAX)
    }
}

impl Types {
    /// None of them.
    pub const NONE: Self = Self(0);

    const fn bit(value_type: ValueType) -> u8 {
        match value_type {
            ValueType::String => 1,
            ValueType::Number => 2,
            ValueType::Bool => 4,
            ValueType::Null => 8,
            ValueType::Json => 16,
        }
    }

    /// The set with one more.
    #[must_use]
    pub const fn with(self, value_type: ValueType) -> Self {
        Self(self.0 | Self::bit(value_type))
    }

    /// Whether the type is in the set.
    #[must_use]
    pub const fn contains(self, value_type: ValueType) -> bool {
        self.0 & Self::bit(value_type) != 0
    }
}

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verb {
    /// Seal under a random salt.
    Seal,
    /// Seal so that equal values give equal tokens.
    SealDeterministic,
    /// Learn whether a value is a genuine token of this role.
    Keep,
    /// Open a token.
    Open,
    /// Learn what a token is.
    Inspect,
    /// Have a token replaced by one under the newest key.
    Rewrap,
    /// Get the key under which anyone may seal.
    PublicKey,
}

impl Verb {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Seal, Self::SealDeterministic, Self::Keep, Self::Open, Self::Inspect, Self::Rewrap, Self::PublicKey];

    /// Its name in policies and records.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Seal => "seal",
            Self::SealDeterministic => "seal-deterministic",
            Self::Keep => "keep",
            Self::Open => "open",
            Self::Inspect => "inspect",
            Self::Rewrap => "rewrap",
            Self::PublicKey => "public-key",
        }
    }

    /// The verb of this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|verb| verb.as_str() == name)
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of verbs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verbs(u8);

impl Verbs {
    /// All of them.
    pub const ALL: Self = Self((1 << Verb::ALL.len()) - 1);

    /// The set with one more.
    #[must_use]
    pub const fn with(self, verb: Verb) -> Self {
        Self(self.0 | 1 << verb as u8)
    }

    /// Whether the verb is in the set.
    #[must_use]
    pub const fn contains(self, verb: Verb) -> bool {
        self.0 & 1 << verb as u8 != 0
    }

    /// The verbs in the set.
    pub fn iter(self) -> impl Iterator<Item = Verb> {
        Verb::ALL.into_iter().filter(move |verb| self.contains(*verb))
    }
}

impl FromIterator<Verb> for Verbs {
    fn from_iter<T: IntoIterator<Item = Verb>>(verbs: T) -> Self {
        verbs.into_iter().fold(Self::default(), Self::with)
    }
}

/// Who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// How that is proven.
    pub proof: Proof,
    /// Unix seconds from which on it is nobody.
    pub until: Option<u64>,
    /// Its line in the file; 0 where there is none.
    pub line: u32,
}

/// How somebody is proven to be who he is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Proof {
    /// A relay: one of these keys in the link if there are any, one of these images if there are any; of both, there is one at least.
    Relay {
        /// SHA-256 of the keys' SubjectPublicKeyInfo.
        spki: Vec<SpkiHash>,
        /// Its images.
        images: Vec<PcrSet>,
    },
    /// Whoever comes over a link that proves nothing: development alone.
    Plain,
    /// An API key: SHA-256 of its text.
    ApiKey(Vec<[u8; 32]>),
    /// An enclave of one of these images.
    Image(Vec<PcrSet>),
}

impl Proof {
    /// Whether what the principal states of a message is proven: it is an enclave of a known image.
    #[must_use]
    pub fn proves_context(&self) -> bool {
        match self {
            Self::Relay { images, .. } => !images.is_empty(),
            Self::Image(_) => true,
            Self::Plain | Self::ApiKey(_) => false,
        }
    }
}

/// What is allowed or denied. All of it must fit.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Grant {
    /// Names of principals.
    pub who: Names<Box<str>>,
    /// The verbs.
    pub verbs: Verbs,
    /// The roles.
    pub roles: Names<Role>,
    /// Where opened values go; empty: anywhere.
    pub to: Vec<Host>,
    /// Methods, as HTTP writes them; empty: any.
    pub methods: Vec<Box<str>>,
    /// Where the request comes from; empty: anywhere.
    pub from: Vec<Network>,
    /// Unix seconds before which it does not hold.
    pub since: Option<u64>,
    /// Unix seconds from which on it does not hold.
    pub until: Option<u64>,
    /// How much of it, for each principal.
    pub rate: Option<Rate>,
    /// Its line in the file.
    pub line: u32,
}

/// Some names, or all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Names<T> {
    /// `*`.
    All,
    /// These.
    Some(Vec<T>),
}

impl<T> Default for Names<T> {
    fn default() -> Self {
        Self::Some(Vec::new())
    }
}

impl<T> Names<T> {
    /// Whether it names this one.
    pub fn contains<Q: ?Sized + PartialEq>(&self, name: &Q) -> bool
    where
        T: std::borrow::Borrow<Q>,
    {
        match self {
            Self::All => true,
            Self::Some(names) => names.iter().any(|n| n.borrow() == name),
        }
    }
}

/// Where an opened value goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Host {
    /// The answer to whoever asks.
    Client,
    /// This host, in lower case.
    Exact(Box<str>),
    /// Every host that ends in this, which begins with a dot; in lower case.
    Suffix(Box<str>),
}

impl Host {
    /// Whether the destination, in lower case and without a final dot, is one of these. An empty one is the client.
    #[must_use]
    pub fn matches(&self, destination: &str) -> bool {
        match self {
            Self::Client => destination.is_empty(),
            Self::Exact(host) => **host == *destination,
            Self::Suffix(suffix) => destination.len() > suffix.len() && destination.ends_with(&**suffix),
        }
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client => f.write_str("client"),
            Self::Exact(host) => f.write_str(host),
            Self::Suffix(suffix) => write!(f, "*{suffix}"),
        }
    }
}

/// A network: an address and how many of its leading bits count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// Reads `10.0.0.0/8`, `2001:db8::/32`, or one address. Bits behind the prefix must be zero.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) if bits.bytes().all(|b| b.is_ascii_digit()) => bits.parse().ok().filter(|bits| *bits <= most)?,
            Some(_) => return None,
            None => most,
        };
        let network = Self { address, bits };
        (network.masked(address) == address).then_some(network)
    }

    fn masked(&self, address: IpAddr) -> IpAddr {
        match address {
            IpAddr::V4(a) => {
                IpAddr::V4((a.to_bits() & u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0)).into())
            }
            IpAddr::V6(a) => {
                IpAddr::V6((a.to_bits() & u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0)).into())
            }
        }
    }

    /// Whether the address is in it. An IPv4 address that IPv6 writes (`::ffff:10.0.0.1`) counts as the IPv4 address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && self.masked(address) == self.address
    }

    /// Whether every address of its family is in it.
    #[must_use]
    pub const fn is_everything(&self) -> bool {
        self.bits == 0
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// So many in a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// How many, at least 1.
    pub count: u32,
    /// In which time.
    pub per: Per,
}

impl Default for Rate {
    fn default() -> Self {
        DETERMINISTIC_RATE
    }
}

/// A unit of time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Per {
    /// `s`
    Second,
    /// `m`
    Minute,
    /// `h`
    Hour,
    /// `d`
    Day,
}

impl Per {
    /// How long it is.
    #[must_use]
    pub const fn seconds(self) -> u32 {
        match self {
            Self::Second => 1,
            Self::Minute => 60,
            Self::Hour => 3600,
            Self::Day => 86_400,
        }
    }

    const fn letter(self) -> char {
        match self {
            Self::Second => 's',
            Self::Minute => 'm',
            Self::Hour => 'h',
            Self::Day => 'd',
        }
    }

    fn of(letter: &str) -> Option<Self> {
        match letter {
            "s" => Some(Self::Second),
            "m" => Some(Self::Minute),
            "h" => Some(Self::Hour),
            "d" => Some(Self::Day),
            _ => None,
        }
    }
}

impl Rate {
    /// Reads `100/s`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (count, per) = text.split_once('/')?;
        let count = Some(count).filter(|c| c.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()?;
        (count > 0).then_some(Self { count, per: Per::of(per)? })
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.count, self.per.letter())
    }
}

/// Reads a time span, `90s` to `400d`, as seconds; at least one.
#[must_use]
pub fn span(text: &str) -> Option<u64> {
    let (count, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count: u64 = Some(count).filter(|c| c.bytes().all(|b| b.is_ascii_digit()))?.parse().ok()?;
    count.checked_mul(Per::of(unit)?.seconds().into()).filter(|seconds| *seconds > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_hold_their_addresses_alone() {
        let net = |text| Network::parse(text).unwrap();
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        assert!(net("10.0.0.0/8").contains(ip("10.255.0.1")) && !net("10.0.0.0/8").contains(ip("11.0.0.1")));
        assert!(net("10.0.0.0/8").contains(ip("::ffff:10.1.2.3")));
        assert!(net("0.0.0.0/0").contains(ip("1.2.3.4")) && !net("0.0.0.0/0").contains(ip("2001:db8::1")));
        assert!(net("2001:db8::/32").contains(ip("2001:db8:1::")) && !net("2001:db8::/32").contains(ip("2001:db9::")));
        assert!(net("192.0.2.1").contains(ip("192.0.2.1")) && !net("192.0.2.1").contains(ip("192.0.2.2")));
        assert!(net("::/0").is_everything() && net("::/0").contains(ip("::1")));
        for wrong in
            ["10.0.0.1/8", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/+8", "10.0/8", "x", "", "::/129", "2001:db8::1/32"]
        {
            assert_eq!(Network::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn hosts_match_as_written() {
        let suffix = Host::Suffix(".pay.example".into());
        assert!(suffix.matches("api.pay.example") && !suffix.matches("pay.example") && !suffix.matches(".pay.example"));
        assert!(!suffix.matches("apipay.example") && !suffix.matches(""));
        assert!(Host::Client.matches("") && !Host::Client.matches("client"));
    }

    #[test]
    fn rates_and_spans_are_read_exactly() {
        assert_eq!(Rate::parse("100/s").unwrap().to_string(), "100/s");
        assert_eq!(span("400d"), Some(34_560_000));
        for wrong in ["", "s", "0s", "1w", "-1s", "1.5h", "+1s", "99999999999999999999d", "é"] {
            assert_eq!(span(wrong), None, "{wrong}");
        }
        for wrong in ["", "/s", "0/s", "1", "1/w", "+1/s", "4294967296/s"] {
            assert_eq!(Rate::parse(wrong), None, "{wrong}");
        }
    }
}
