//! What changes from one policy to the next, in plain words: who gains and who loses what.

use super::document::{Document, Grant, Network, Proof, RoleRules, Section, Verb};
use super::explain::list;
use super::resolve::shown;
use e3_wire::{App, Role, ValueType};
use std::collections::{BTreeMap, BTreeSet};

/// One change.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Somebody may do more, or is known who was not.
    Gains(String),
    /// Somebody may do less, or is known no more.
    Loses(String),
    /// Something is otherwise.
    Differs(String),
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Gains(text) => write!(f, "+ {text}"),
            Self::Loses(text) => write!(f, "- {text}"),
            Self::Differs(text) => write!(f, "~ {text}"),
        }
    }
}

/// Everything that differs.
#[must_use]
pub fn diff(old: &Document, new: &Document) -> Vec<Change> {
    let mut changes = Vec::new();
    if new.version <= old.version {
        changes.push(Change::Differs(format!(
            "version {} does not come after version {}: engines that had it refuse it",
            new.version, old.version
        )));
    }
    let end = |document: &Document| document.valid_until.map_or_else(|| "never".to_owned(), shown);
    if end(old) != end(new) {
        changes.push(Change::Differs(format!("the policy ends: {} (before: {})", end(new), end(old))));
    }
    if old.min_keyring_epoch != new.min_keyring_epoch {
        changes.push(Change::Differs(format!(
            "keyrings from epoch {} on (before: {})",
            new.min_keyring_epoch, old.min_keyring_epoch
        )));
    }
    let empty = Section::default();
    let apps: BTreeSet<App> = old.apps.keys().chain(new.apps.keys()).copied().collect();
    for app in apps {
        let (before, after) = (old.apps.get(&app).unwrap_or(&empty), new.apps.get(&app).unwrap_or(&empty));
        let within = if apps_of(old, new) > 1 { format!("{app}: ") } else { String::new() };
        section(before, after, &within, &mut changes);
    }
    changes
}

fn apps_of(old: &Document, new: &Document) -> usize {
    old.apps.keys().chain(new.apps.keys()).collect::<BTreeSet<_>>().len()
}

fn section(old: &Section, new: &Section, within: &str, changes: &mut Vec<Change>) {
    let roles: BTreeSet<Role> = old.roles.keys().chain(new.roles.keys()).copied().collect();
    for role in &roles {
        match (old.roles.get(role), new.roles.get(role)) {
            (None, Some(rules)) => {
                changes.push(Change::Differs(format!("{within}role {role} is new: {}", describe(rules))))
            }
            (Some(_), None) => {
                changes.push(Change::Loses(format!("{within}role {role} is gone: its tokens open for nobody")))
            }
            (Some(before), Some(after)) if describe(before) != describe(after) => {
                changes.push(Change::Differs(format!(
                    "{within}role {role}: {} (before: {})",
                    describe(after),
                    describe(before)
                )));
            }
            _ => {}
        }
    }
    let names: BTreeSet<&str> = old.principals.keys().chain(new.principals.keys()).map(AsRef::as_ref).collect();
    for name in &names {
        match (old.principals.get(*name), new.principals.get(*name)) {
            (None, Some(after)) => {
                changes.push(Change::Gains(format!("{within}{name} is known: {}", who(&after.proof))))
            }
            (Some(_), None) => changes.push(Change::Loses(format!("{within}{name} is known no more"))),
            (Some(before), Some(after)) => {
                if before.proof != after.proof {
                    changes.push(Change::Differs(format!(
                        "{within}{name} is known by other means: {} (before: {})",
                        who(&after.proof),
                        who(&before.proof)
                    )));
                }
                if before.until != after.until {
                    let end = |until: Option<u64>| until.map_or_else(|| "never".to_owned(), shown);
                    changes.push(Change::Differs(format!(
                        "{within}{name} ends: {} (before: {})",
                        end(after.until),
                        end(before.until)
                    )));
                }
            }
            (None, None) => {}
        }
        for role in &roles {
            for verb in Verb::ALL {
                let (before, after) = (permitted(old, name, *role, verb), permitted(new, name, *role, verb));
                rights(&format!("{within}{name}"), *role, verb, &before, &after, changes);
            }
        }
    }
    if old.deterministic_rate != new.deterministic_rate {
        changes.push(Change::Differs(format!(
            "{within}deterministic seals: {} (before: {})",
            new.deterministic_rate, old.deterministic_rate
        )));
    }
}

/// What somebody may, and what is denied all the same: conditions in words. `None`: not at all.
type Rights = Option<BTreeMap<String, bool>>;

fn permitted(section: &Section, name: &str, role: Role, verb: Verb) -> Rights {
    let rules = section.roles.get(&role)?;
    let possible = match verb {
        Verb::Seal => !rules.deterministic,
        Verb::SealDeterministic => rules.deterministic,
        Verb::PublicKey => rules.public_seal,
        Verb::Open => !rules.honey,
        Verb::Keep | Verb::Inspect | Verb::Rewrap => true,
    };
    let concerns = |rule: &&Grant| {
        rule.who.contains::<str>(name) && rule.roles.contains::<Role>(&role) && rule.verbs.contains(verb)
    };
    if !possible || !section.principals.contains_key(name) {
        return None;
    }
    let deny: Vec<String> = section.deny.iter().filter(concerns).map(conditions).collect();
    if deny.iter().any(String::is_empty) {
        return None;
    }
    let mut all: BTreeMap<String, bool> =
        section.grants.iter().filter(concerns).map(|g| (conditions(g), true)).collect();
    if all.is_empty() {
        return None;
    }
    all.extend(deny.into_iter().map(|conditions| (conditions, false)));
    Some(all)
}

fn rights(name: &str, role: Role, verb: Verb, before: &Rights, after: &Rights, changes: &mut Vec<Change>) {
    let one = |conditions: &str| {
        if conditions.is_empty() { "whatever the message".to_owned() } else { conditions.to_owned() }
    };
    match (before, after) {
        (None, None) => {}
        (None, Some(all)) => {
            for (conditions, _) in all.iter().filter(|(_, granted)| **granted) {
                changes.push(Change::Gains(format!("{name} may {verb} {role}: {}", one(conditions))));
            }
            for (conditions, _) in all.iter().filter(|(_, granted)| !**granted) {
                changes.push(Change::Differs(format!("{name} may not {verb} {role} {}", one(conditions))));
            }
        }
        (Some(_), None) => changes.push(Change::Loses(format!("{name} may {verb} {role} no more"))),
        (Some(old), Some(new)) => {
            for (conditions, granted) in new.iter().filter(|(c, g)| old.get(*c) != Some(*g)) {
                changes.push(if *granted {
                    Change::Gains(format!("{name} may {verb} {role}: {}", one(conditions)))
                } else {
                    Change::Loses(format!("{name} may {verb} {role} no more {}", one(conditions)))
                });
            }
            for (conditions, granted) in old.iter().filter(|(c, g)| new.get(*c) != Some(*g)) {
                changes.push(if *granted {
                    Change::Loses(format!("{name} may {verb} {role} no more: {}", one(conditions)))
                } else {
                    Change::Gains(format!("{name} is not denied any more to {verb} {role} {}", one(conditions)))
                });
            }
        }
    }
}

/// What a grant asks for, in words; empty: nothing.
fn conditions(grant: &Grant) -> String {
    let mut parts = Vec::new();
    if !grant.to.is_empty() {
        parts.push(format!("to {}", list(&grant.to)));
    }
    if !grant.methods.is_empty() {
        parts.push(format!("by {}", grant.methods.join(" or ")));
    }
    if !grant.from.is_empty() {
        parts.push(format!("from {}", list::<Network>(&grant.from)));
    }
    if let Some(since) = grant.since {
        parts.push(format!("since {}", shown(since)));
    }
    if let Some(until) = grant.until {
        parts.push(format!("until {}", shown(until)));
    }
    if let Some(rate) = grant.rate {
        parts.push(format!("at most {rate}"));
    }
    parts.join(", ")
}

fn describe(rules: &RoleRules) -> String {
    let mut parts = vec![if rules.deterministic { "deterministic".to_owned() } else { "random".to_owned() }];
    if rules.public_seal {
        parts.push("sealed by anyone".to_owned());
    }
    if rules.honey {
        parts.push("a trap".to_owned());
    }
    let types = [
        (ValueType::String, "string"),
        (ValueType::Number, "number"),
        (ValueType::Bool, "boolean"),
        (ValueType::Null, "null"),
        (ValueType::Json, "json"),
    ];
    let of: Vec<_> = types.iter().filter(|(t, _)| rules.types.contains(*t)).map(|(_, name)| *name).collect();
    if of.len() < types.len() {
        parts.push(format!("of type {}", of.join(" or ")));
    }
    if let Some(age) = rules.max_age {
        parts.push(format!("shut after {age} s"));
    }
    parts.join(", ")
}

fn who(proof: &Proof) -> String {
    match proof {
        Proof::Relay { spki, images } if images.is_empty() => format!("a relay with one of {} keys", spki.len()),
        Proof::Relay { spki, images } if spki.is_empty() => format!("a relay of one of {} images", images.len()),
        Proof::Relay { spki, images } => {
            format!("a relay with one of {} keys and of one of {} images", spki.len(), images.len())
        }
        Proof::Plain => "whoever comes over a plain link".to_owned(),
        Proof::ApiKey(hashes) => format!("the holder of one of {} API keys", hashes.len()),
        Proof::Image(images) => format!("an enclave of one of {} images", images.len()),
    }
}
