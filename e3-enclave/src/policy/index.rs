//! A policy, indexed: what it says about one principal, role and verb is found, not searched for.

use super::document::{Document, Grant, Host, Names, Principal, Proof, RoleRules, Section, Verb, Verbs};
use super::rate::Bucket;
use e3_attest::Pcr;
use e3_wire::{App, Role};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;
use subtle::ConstantTimeEq;

/// A principal's number within its app.
pub(super) type Number = u32;

/// The policy of one app.
#[derive(Debug)]
pub(super) struct AppIndex {
    pub(super) names: Vec<Box<str>>,
    pub(super) principals: Vec<Principal>,
    /// Relays by their keys.
    relays: HashMap<[u8; 32], Vec<Number>>,
    /// API keys by their hashes.
    api_keys: HashMap<[u8; 32], Number>,
    /// Those that are known by their images alone.
    images: Vec<Number>,
    /// Those that come over plain links.
    plain: Vec<Number>,
    pub(super) roles: HashMap<Role, RoleRules>,
    grants: Rules,
    deny: Rules,
    pub(super) deterministic: Arc<Bucket>,
}

/// What is proven of whoever asks.
#[derive(Debug, Clone, Copy, Default)]
pub struct Proven<'a> {
    /// SHA-256 of the relay's key.
    pub spki: Option<&'a [u8; 32]>,
    /// The caller's image.
    pub pcrs: Option<&'a BTreeMap<u8, Pcr>>,
    /// Whether the link proves nothing.
    pub plain: bool,
}

impl AppIndex {
    pub(super) fn new(app: App, section: &Section, previous: Option<&Self>, now: Instant) -> Self {
        let names: Vec<Box<str>> = section.principals.keys().cloned().collect();
        let principals: Vec<Principal> = section.principals.values().cloned().collect();
        let mut it = Self {
            relays: HashMap::new(),
            api_keys: HashMap::new(),
            images: Vec::new(),
            plain: Vec::new(),
            roles: section.roles.iter().map(|(role, rules)| (*role, *rules)).collect(),
            grants: Rules::new(&section.grants, &names, previous.map(|p| (&p.grants, &p.names[..])), now),
            deny: Rules::new(&section.deny, &names, None, now),
            deterministic: Arc::new(Bucket::new(section.deterministic_rate, now)),
            names,
            principals,
        };
        for (number, principal) in it.principals.iter().enumerate() {
            let number = number as Number;
            match &principal.proof {
                Proof::Relay { spki, .. } if spki.is_empty() => it.images.push(number),
                Proof::Relay { spki, .. } => {
                    for key in spki {
                        it.relays.entry(*key.as_bytes()).or_default().push(number);
                    }
                }
                Proof::Plain => it.plain.push(number),
                Proof::ApiKey(hashes) => it.api_keys.extend(hashes.iter().map(|hash| (*hash, number))),
                Proof::Image(_) => it.images.push(number),
            }
        }
        if let Some(previous) = previous
            && previous.deterministic.is_of(section.deterministic_rate)
        {
            it.deterministic = Arc::clone(&previous.deterministic);
        }
        tracing::debug!(%app, principals = it.names.len(), grants = section.grants.len(), "policy indexed");
        it
    }

    /// Who it is, of those that are not ended; nobody: an empty list.
    pub(super) fn who(&self, proven: &Proven<'_>, now: u64) -> Vec<Number> {
        let mut found = Vec::new();
        if let Some(known) = proven.spki.and_then(|spki| self.relays.get(spki)) {
            found.extend(known.iter().filter(|n| self.has_image(**n, proven)));
        }
        if proven.pcrs.is_some() {
            found.extend(self.images.iter().filter(|n| self.has_image(**n, proven)));
        }
        if proven.plain {
            found.extend_from_slice(&self.plain);
        }
        found.retain(|n| self.is_valid(*n, now));
        found
    }

    /// Whose API key it is. The hash finds it, and is compared once more in constant time.
    pub(super) fn holder(&self, hash: &[u8; 32], now: u64) -> Option<Number> {
        let number = *self.api_keys.get(hash)?;
        let Proof::ApiKey(hashes) = &self.principals.get(number as usize)?.proof else { return None };
        let same = hashes.iter().any(|known| bool::from(known.ct_eq(hash)));
        (same && self.is_valid(number, now)).then_some(number)
    }

    fn is_valid(&self, number: Number, now: u64) -> bool {
        self.principals.get(number as usize).is_some_and(|p| p.until.is_none_or(|until| now < until))
    }

    /// Whether it has one of the principal's images, if that has any.
    fn has_image(&self, number: Number, proven: &Proven<'_>) -> bool {
        match self.principals.get(number as usize).map(|p| &p.proof) {
            Some(Proof::Relay { images, .. }) if images.is_empty() => true,
            Some(Proof::Relay { images, .. } | Proof::Image(images)) => {
                proven.pcrs.is_some_and(|pcrs| images.iter().any(|image| image.matches(pcrs)))
            }
            _ => false,
        }
    }

    /// The grants that may fit, in the order of the file.
    pub(super) fn grants(&self, who: &[Number], role: Role, verb: Verb, destination: &str) -> Vec<(u32, Number)> {
        self.grants.candidates(who, role, verb, destination)
    }

    /// Whether any grant names one of these and the verb.
    pub(super) fn may_ever(&self, who: &[Number], verb: Verb) -> bool {
        let named = |number: Option<Number>| self.grants.verbs.get(&number).is_some_and(|verbs| verbs.contains(verb));
        !who.is_empty() && (named(None) || who.iter().any(|number| named(Some(*number))))
    }

    pub(super) fn grant(&self, at: u32) -> Option<&Ruled> {
        self.grants.all.get(at as usize)
    }

    /// The deny rules that may fit, in the order of the file.
    pub(super) fn denied(&self, who: &[Number], role: Role, verb: Verb, destination: &str) -> Vec<(u32, Number)> {
        self.deny.candidates(who, role, verb, destination)
    }

    pub(super) fn deny(&self, at: u32) -> Option<&Ruled> {
        self.deny.all.get(at as usize)
    }
}

/// A grant with what is left of its rate, for each principal.
#[derive(Debug)]
pub(super) struct Ruled {
    pub(super) grant: Grant,
    buckets: HashMap<Number, Arc<Bucket>>,
}

impl Ruled {
    /// Takes one of the principal's rate, if there is one left, or no rate.
    pub(super) fn take(&self, number: Number, now: Instant) -> bool {
        match self.grant.rate {
            None => true,
            Some(_) => self.buckets.get(&number).is_some_and(|bucket| bucket.take(now)),
        }
    }
}

/// Where rules stand that are about a principal (`None`: all), a role (`None`: all) and a verb.
type Key = (Option<Number>, Option<Role>, Verb);

#[derive(Debug)]
struct Rules {
    all: Vec<Ruled>,
    found: foldhash::HashMap<Key, Bin>,
    /// What each principal (`None`: all) may with some role.
    verbs: HashMap<Option<Number>, Verbs>,
}

/// Rules of one key.
#[derive(Debug, Default)]
struct Bin {
    /// Those that are about named hosts alone, by each of them.
    hosts: foldhash::HashMap<Box<str>, Vec<u32>>,
    /// The others.
    others: Vec<u32>,
}

impl Rules {
    fn new(grants: &[Grant], names: &[Box<str>], previous: Option<(&Self, &[Box<str>])>, now: Instant) -> Self {
        let number = |name: &str| names.binary_search_by(|n| (**n).cmp(name)).ok().map(|n| n as Number);
        let spent = previous.map(|(rules, names)| rules.buckets(names)).unwrap_or_default();
        let mut it =
            Self { all: Vec::with_capacity(grants.len()), found: foldhash::HashMap::default(), verbs: HashMap::new() };
        for (at, grant) in grants.iter().enumerate() {
            let who: Vec<Option<Number>> = match &grant.who {
                Names::All => vec![None],
                Names::Some(some) => some.iter().filter_map(|name| number(name)).map(Some).collect(),
            };
            let roles: Vec<Option<Role>> = match &grant.roles {
                Names::All => vec![None],
                Names::Some(some) => some.iter().copied().map(Some).collect(),
            };
            for number in &who {
                let verbs = it.verbs.entry(*number).or_default();
                *verbs = grant.verbs.iter().fold(*verbs, Verbs::with);
            }
            let exact = |host: &Host| if let Host::Exact(name) = host { Some(name.clone()) } else { None };
            let hosts: Option<Vec<Box<str>>> = grant.to.iter().map(exact).collect();
            for (who, role) in who.iter().flat_map(|who| roles.iter().map(|role| (*who, *role))) {
                for verb in grant.verbs.iter() {
                    let bin = it.found.entry((who, role, verb)).or_default();
                    match &hosts {
                        Some(hosts) if !hosts.is_empty() => {
                            for host in hosts {
                                bin.hosts.entry(host.clone()).or_default().push(at as u32);
                            }
                        }
                        _ => bin.others.push(at as u32),
                    }
                }
            }
            let mut buckets = HashMap::new();
            if let Some(rate) = grant.rate {
                let limited = names.iter().enumerate().filter(|(_, name)| grant.who.contains::<str>(name));
                for (n, name) in limited {
                    // What was used up stays used up when a policy with the same grant takes the place of this one.
                    let kept = spent.get(&(&**name, identity(grant))).map(|bucket| Arc::clone(bucket));
                    buckets.insert(n as Number, kept.unwrap_or_else(|| Arc::new(Bucket::new(rate, now))));
                }
            }
            it.all.push(Ruled { grant: grant.clone(), buckets });
        }
        it
    }

    /// Every bucket, by the principal's name and what the grant says.
    fn buckets<'p>(&'p self, names: &'p [Box<str>]) -> HashMap<(&'p str, String), &'p Arc<Bucket>> {
        let of = |ruled: &'p Ruled| {
            let identity = identity(&ruled.grant);
            let named = ruled.buckets.iter().filter_map(|(n, bucket)| Some((&**names.get(*n as usize)?, bucket)));
            named.map(move |(name, bucket)| ((name, identity.clone()), bucket)).collect::<Vec<_>>()
        };
        self.all.iter().filter(|ruled| ruled.grant.rate.is_some()).flat_map(of).collect()
    }

    fn candidates(&self, who: &[Number], role: Role, verb: Verb, destination: &str) -> Vec<(u32, Number)> {
        let mut found = Vec::new();
        if self.all.is_empty() {
            return found;
        }
        for number in who {
            for key in [(Some(*number), Some(role)), (Some(*number), None), (None, Some(role)), (None, None)] {
                let Some(bin) = self.found.get(&(key.0, key.1, verb)) else { continue };
                found.extend(bin.others.iter().map(|at| (*at, *number)));
                if let Some(named) = bin.hosts.get(destination) {
                    found.extend(named.iter().map(|at| (*at, *number)));
                }
            }
        }
        found.sort_unstable();
        found.dedup();
        found
    }
}

/// What a grant says, wherever it stands.
fn identity(grant: &Grant) -> String {
    format!("{:?}", Grant { line: 0, ..grant.clone() })
}

/// The indexes of all apps.
pub(super) fn all(
    document: &Document,
    previous: Option<&HashMap<App, AppIndex>>,
    now: Instant,
) -> HashMap<App, AppIndex> {
    let one =
        |(app, section): (&App, &Section)| (*app, AppIndex::new(*app, section, previous.and_then(|p| p.get(app)), now));
    document.apps.iter().map(one).collect()
}
