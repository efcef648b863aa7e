//! The policy as people write it. These types generate its schema; [`e3_yaml`] holds the file against it and tells every fault. What the schema requires is
//! optional here: where it is absent, that is told already.

use e3_yaml::{At, OneOrMany};
use schemars::JsonSchema;
use serde::Deserialize;
use std::collections::BTreeMap;

/// Who may do what with which roles. Whatever no grant allows is denied.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
#[schemars(title = "e3 policy")]
pub struct File {
    /// Grows with every policy: engines and relays refuse a lower one than they have seen.
    #[schemars(required, range(min = 1))]
    pub version: Option<At<u64>>,
    /// When the policy ends: `2027-01-01` (its first moment, UTC) or `2027-01-01T12:00:00Z`. After it, everything is denied.
    pub valid_until: Option<At<String>>,
    /// The lowest epoch of the keyring with which the policy is in force: after keys were destroyed, older keyrings serve nobody.
    pub min_keyring_epoch: Option<At<u64>>,
    /// The app that the keys below are about; for several apps write `apps` instead.
    pub app: Option<At<String>>,
    /// The classes of data.
    #[serde(default)]
    pub roles: BTreeMap<String, At<Role>>,
    /// Who asks.
    #[serde(default)]
    pub principals: BTreeMap<String, At<Principal>>,
    /// What they may.
    #[serde(default)]
    pub grants: Vec<At<Grant>>,
    /// What they may not, whatever is granted.
    #[serde(default)]
    pub deny: Vec<At<Deny>>,
    /// Deterministic seals of the app that one engine serves, such as `50000/s`: each answers a guess.
    pub deterministic_rate: Option<At<String>>,
    /// Several apps, each with roles, principals, grants and deny of its own.
    #[serde(default)]
    pub apps: BTreeMap<String, At<App>>,
}

/// One of several apps.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct App {
    /// The classes of data.
    #[serde(default)]
    pub roles: BTreeMap<String, At<Role>>,
    /// Who asks.
    #[serde(default)]
    pub principals: BTreeMap<String, At<Principal>>,
    /// What they may.
    #[serde(default)]
    pub grants: Vec<At<Grant>>,
    /// What they may not, whatever is granted.
    #[serde(default)]
    pub deny: Vec<At<Deny>>,
    /// Deterministic seals of the app that one engine serves, such as `50000/s`: each answers a guess.
    pub deterministic_rate: Option<At<String>>,
}

/// One class of data.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Role {
    /// The types of its values; any type when absent.
    #[serde(rename = "type")]
    pub types: Option<At<Types>>,
    /// Equal values give equal tokens, so that they can be searched and joined; whoever may seal can test guesses.
    #[serde(default)]
    pub deterministic: bool,
    /// Anyone who has the public key may seal values of this role.
    #[serde(default)]
    pub public_seal: bool,
    /// The age from which on its tokens stay shut, such as `400d`. Only for tokens whose time can be trusted: neither deterministic nor sealed by the public key.
    pub max_age: Option<At<String>>,
    /// A trap: nobody has a reason to open such a token. It is always denied, recorded, and raises an alarm.
    #[serde(default)]
    pub honey: bool,
}

/// A type of values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Type {
    /// Strings.
    String,
    /// Numbers.
    Number,
    /// `true` and `false`.
    Boolean,
    /// `null`.
    Null,
    /// Objects, arrays, and strings whose escapes must come back as they were.
    Json,
}

/// One type or a list of them.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
#[schemars(untagged)]
pub enum Types {
    /// One.
    One(Type),
    /// Several.
    Many(Vec<Type>),
}

/// One verb or a list of them.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema)]
#[schemars(untagged)]
pub enum Verbs {
    /// One.
    One(Verb),
    /// Several.
    Many(Vec<Verb>),
}

/// What may be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Verb {
    /// Seal under a random salt.
    Seal,
    /// Seal so that equal values give equal tokens.
    SealDeterministic,
    /// Learn whether a value is a genuine token of the role, and have it kept.
    Keep,
    /// Open a token.
    Open,
    /// Learn a token's role, type, key and age.
    Inspect,
    /// Have a token replaced by one under the newest key.
    Rewrap,
    /// Get the key under which anyone may seal.
    PublicKey,
}

macro_rules! one_or_many {
    ($name:ident, $of:ident, $said:literal) => {
        impl $name {
            /// As a list.
            #[must_use]
            pub fn list(&self) -> &[$of] {
                match self {
                    Self::One(one) => std::slice::from_ref(one),
                    Self::Many(many) => many,
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Either;
                impl<'de> serde::de::Visitor<'de> for Either {
                    type Value = $name;

                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str($said)
                    }

                    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$name, E> {
                        $of::deserialize(serde::de::value::StrDeserializer::new(text)).map($name::One)
                    }

                    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut list: A) -> Result<$name, A::Error> {
                        let mut many = Vec::new();
                        while let Some(one) = list.next_element()? {
                            many.push(one);
                        }
                        Ok($name::Many(many))
                    }
                }
                deserializer.deserialize_any(Either)
            }
        }
    };
}

one_or_many!(Types, Type, "a type or a list of types");
one_or_many!(Verbs, Verb, "a verb or a list of verbs");

/// Who asks, and how that is proven: one of `relay`, `api_key`, `image`.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Principal {
    /// A relay, by its key in the engine link, by its image, or by both.
    pub relay: Option<At<Relay>>,
    /// An API key, by `sha256:` and the hash of its text, as `e3 policy api-key` prints it. Several are alternatives: while keys change, both hold.
    pub api_key: Option<At<OneOrMany>>,
    /// An enclave, by an attestation document that it makes for the session. Several images are alternatives; of one, all PCRs must match.
    pub image: Option<Vec<At<Pcrs>>>,
    /// When it ends: `2027-01-01` or `2027-01-01T12:00:00Z`.
    pub until: Option<At<String>>,
}

/// A relay.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Relay {
    /// `sha256:` and the hash of its key, as `relay key show` prints it. Several are alternatives.
    pub spki: Option<At<OneOrMany>>,
    /// Its images, if it is an enclave: what it states of destination, source and method is then proven.
    pub image: Option<Vec<At<Pcrs>>>,
    /// Whoever comes over a plain link: development alone.
    #[serde(default)]
    pub plain: bool,
}

/// The measurements of one image, 96 hexadecimal digits each.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Pcrs {
    /// The image.
    pub pcr0: Option<At<String>>,
    /// Kernel and bootstrap.
    pub pcr1: Option<At<String>>,
    /// The application.
    pub pcr2: Option<At<String>>,
    /// The parent instance's role.
    pub pcr3: Option<At<String>>,
    /// The parent instance.
    pub pcr4: Option<At<String>>,
    /// The certificate that signed the image: any image by that signer.
    pub pcr8: Option<At<String>>,
}

/// What somebody may. Everything that it says must fit.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Grant {
    /// The principals; `*` for all of them.
    #[schemars(required)]
    pub who: Option<At<OneOrMany>>,
    /// The verbs.
    #[schemars(required)]
    pub may: Option<At<Verbs>>,
    /// The roles; `*` for all of them.
    #[schemars(required)]
    pub roles: Option<At<OneOrMany>>,
    /// Where opened values go: hosts, exact or `*.suffix`; `client` for the answer to whoever asks. Anywhere when absent.
    pub to: Option<At<OneOrMany>>,
    /// Methods of the HTTP request. Any when absent.
    pub methods: Option<At<OneOrMany>>,
    /// Networks that the request comes from, such as `10.0.0.0/8`. Any when absent.
    pub from: Option<At<OneOrMany>>,
    /// Not before: `2027-01-01` or `2027-01-01T12:00:00Z`.
    pub since: Option<At<String>>,
    /// When it ends: `2027-01-01` or `2027-01-01T12:00:00Z`.
    pub until: Option<At<String>>,
    /// Values a second, minute, hour or day that one engine serves each of the principals: `100/s`, `10/m`, `5000/h`, `100000/d`.
    pub rate: Option<At<String>>,
}

/// What somebody may not. It applies where everything that it says fits, or cannot be known.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[schemars(deny_unknown_fields)]
pub struct Deny {
    /// The principals; `*` for all of them.
    #[schemars(required)]
    pub who: Option<At<OneOrMany>>,
    /// The verbs; all of them when absent.
    pub may: Option<At<Verbs>>,
    /// The roles; `*` for all of them.
    #[schemars(required)]
    pub roles: Option<At<OneOrMany>>,
    /// Where opened values go: hosts, exact or `*.suffix`; `client` for the answer to whoever asks. Anywhere when absent.
    pub to: Option<At<OneOrMany>>,
    /// Methods of the HTTP request. Any when absent.
    pub methods: Option<At<OneOrMany>>,
    /// Networks that the request comes from. Any when absent.
    pub from: Option<At<OneOrMany>>,
    /// Not before.
    pub since: Option<At<String>>,
    /// When it ends.
    pub until: Option<At<String>>,
}
