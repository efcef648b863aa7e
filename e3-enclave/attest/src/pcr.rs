//! PCRs, and the sets of them that are accepted: as the config and `relay verify` write them.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::error::{AttestError, PcrFault};

/// Bytes of a PCR: a SHA-384 hash.
pub const PCR_LENGTH: usize = 48;

/// Highest index of a PCR.
pub const LAST_PCR: u8 = 31;

/// PCRs that are all zero in debug mode: image, kernel, application.
pub(crate) const DEBUG_PCRS: [u8; 3] = [0, 1, 2];

/// PCR of the certificate that signed the image.
const SIGNER_PCR: u8 = 8;

/// One platform configuration register: 48 bytes, written as 96 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pcr([u8; PCR_LENGTH]);

impl Pcr {
    /// A register of this content.
    #[must_use]
    pub const fn new(bytes: [u8; PCR_LENGTH]) -> Self {
        Self(bytes)
    }

    /// Its content.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; PCR_LENGTH] {
        &self.0
    }

    /// Whether nothing was measured into it.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        self.0.iter().all(|b| *b == 0)
    }
}

impl FromStr for Pcr {
    type Err = PcrFault;

    fn from_str(text: &str) -> Result<Self, PcrFault> {
        let digit = |c: char| c.to_digit(16).and_then(|d| u8::try_from(d).ok());
        if let Some(at) = text.chars().position(|c| digit(c).is_none()) {
            return Err(PcrFault::Digit { at: at + 1 });
        }
        if text.len() != 2 * PCR_LENGTH {
            return Err(PcrFault::Digits { found: text.len() });
        }
        let mut digits = text.chars().filter_map(digit);
        let mut bytes = [0; PCR_LENGTH];
        for byte in &mut bytes {
            // The length was checked, so both digits are there.
            *byte = digits.next().unwrap_or(0) << 4 | digits.next().unwrap_or(0);
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Pcr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Pcr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Pcr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Pcr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Pcr;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("96 hexadecimal digits (SHA-384)")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Pcr, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_str(Text)
    }
}

/// PCRs that must all be as given: `{pcr0: <hex>, pcr1: <hex>, …}`. Names the image (`pcr0`) or its signer (`pcr8`) at least.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PcrSet(BTreeMap<u8, Pcr>);

impl PcrSet {
    /// A set of these registers, by index.
    ///
    /// # Errors
    /// [`PcrFault`]: an index above 31, one given twice, no identity, or zero where that is debug mode or no signer.
    pub fn new(pcrs: impl IntoIterator<Item = (u8, Pcr)>) -> Result<Self, PcrFault> {
        let mut set = BTreeMap::new();
        for (index, pcr) in pcrs {
            if index > LAST_PCR {
                return Err(PcrFault::Name);
            }
            if pcr.is_zero() && (DEBUG_PCRS.contains(&index) || index == SIGNER_PCR) {
                return Err(PcrFault::Zero(index));
            }
            if set.insert(index, pcr).is_some() {
                return Err(PcrFault::Twice(index));
            }
        }
        if !set.contains_key(&0) && !set.contains_key(&SIGNER_PCR) {
            return Err(PcrFault::NoIdentity);
        }
        Ok(Self(set))
    }

    /// The registers by index.
    #[must_use]
    pub fn pcrs(&self) -> &BTreeMap<u8, Pcr> {
        &self.0
    }

    /// Whether it names the signer alone: any image by that signer passes.
    #[must_use]
    pub fn any_image_of_signer(&self) -> bool {
        !self.0.contains_key(&0)
    }

    /// Whether all of its registers are as in these.
    #[must_use]
    pub fn matches(&self, found: &BTreeMap<u8, Pcr>) -> bool {
        self.differences(found).next().is_none()
    }

    /// The registers that differ from these.
    fn differences<'a>(&'a self, found: &'a BTreeMap<u8, Pcr>) -> impl Iterator<Item = (u8, Pcr)> + 'a {
        self.0.iter().filter(|(index, pcr)| found.get(*index) != Some(*pcr)).map(|(index, pcr)| (*index, *pcr))
    }
}

/// Index of a name `pcr0` to `pcr31`; `PCR0`, as build tools print it, is the same.
fn index(name: &str) -> Option<u8> {
    let digits = name.strip_prefix("pcr").or_else(|| name.strip_prefix("PCR"))?;
    let canonical = digits == "0" || !digits.starts_with(['0', '+']);
    digits.parse().ok().filter(|index| canonical && *index <= LAST_PCR)
}

impl Serialize for PcrSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        for (index, pcr) in &self.0 {
            map.serialize_entry(&format_args!("pcr{index}").to_string(), pcr)?;
        }
        map.end()
    }
}

impl<'de> Deserialize<'de> for PcrSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Map;
        impl<'de> Visitor<'de> for Map {
            type Value = PcrSet;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("PCRs by name, such as {pcr0: <96 hexadecimal digits>}")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<PcrSet, A::Error> {
                let mut pcrs = Vec::new();
                while let Some(name) = map.next_key::<String>()? {
                    let index = index(&name).ok_or_else(|| A::Error::custom(PcrFault::Name))?;
                    pcrs.push((index, map.next_value()?));
                }
                PcrSet::new(pcrs).map_err(A::Error::custom)
            }
        }
        deserializer.deserialize_map(Map)
    }
}

/// The accepted sets, of which one must match whole. Never empty. Several let an image be rolled out without a gap. Written as one set or a list of them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct PcrSets(Vec<PcrSet>);

impl PcrSets {
    /// These sets, as alternatives.
    ///
    /// # Errors
    /// [`PcrFault::NoSet`]: there is none.
    pub fn new(sets: impl IntoIterator<Item = PcrSet>) -> Result<Self, PcrFault> {
        let sets: Vec<PcrSet> = sets.into_iter().collect();
        if sets.is_empty() { Err(PcrFault::NoSet) } else { Ok(Self(sets)) }
    }

    /// The alternatives.
    #[must_use]
    pub fn sets(&self) -> &[PcrSet] {
        &self.0
    }

    /// Index of the first set that matches whole.
    ///
    /// # Errors
    /// [`AttestError::PcrDiffers`]: none does; the first difference from the closest one.
    pub fn matching(&self, found: &BTreeMap<u8, Pcr>) -> Result<usize, AttestError> {
        let mut closest: Option<(usize, AttestError)> = None;
        for (number, set) in self.0.iter().enumerate() {
            let mut differences = set.differences(found);
            let Some((index, expected)) = differences.next() else { return Ok(number) };
            let count = differences.count();
            if closest.as_ref().is_none_or(|(fewest, _)| count < *fewest) {
                let found = found.get(&index).copied();
                closest = Some((count, AttestError::PcrDiffers { index, expected, found, sets: self.0.len() }));
            }
        }
        Err(closest.map_or(AttestError::Pcrs(PcrFault::NoSet), |(_, error)| error))
    }
}

impl From<PcrSet> for PcrSets {
    fn from(set: PcrSet) -> Self {
        Self(vec![set])
    }
}

impl<'de> Deserialize<'de> for PcrSets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = PcrSets;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("PCRs by name, or a list of such sets")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<PcrSets, A::Error> {
                PcrSet::deserialize(serde::de::value::MapAccessDeserializer::new(map)).map(PcrSets::from)
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<PcrSets, A::Error> {
                let mut sets = Vec::new();
                while let Some(set) = list.next_element()? {
                    sets.push(set);
                }
                PcrSets::new(sets).map_err(A::Error::custom)
            }
        }
        deserializer.deserialize_any(OneOrMany)
    }
}
