//! What a policy means, written down as plainly as it can be: every rule is looked at for every question, nothing is prepared, nothing is shared with the engine's own
//! evaluator but the types of the document.

use e3_enclave::policy::Subject;
use e3_enclave::policy::document::{Document, Grant, Host, Names, Proof, Verb};
use e3_wire::{App, Refusal, RequestRefusal, Role, ValueType};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// Everything that matters of one question.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    pub(crate) app: App,
    pub(crate) spki: Option<[u8; 32]>,
    pub(crate) pcrs: Option<BTreeMap<u8, e3_attest::Pcr>>,
    pub(crate) plain: bool,
    pub(crate) api_key: Option<String>,
    pub(crate) verb: Verb,
    pub(crate) role: Role,
    pub(crate) subject: Subject,
    pub(crate) destination: String,
    pub(crate) method: String,
    pub(crate) source: String,
    pub(crate) now: u64,
    pub(crate) epoch: u64,
}

/// What comes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Request(RequestRefusal),
    Denied(Refusal, u32),
    Allowed(u32),
}

#[expect(clippy::collapsible_if, reason = "one thought a line")]
pub(crate) fn judge(document: &Document, q: &Question) -> Verdict {
    if let Some(end) = document.valid_until {
        if q.now >= end {
            return Verdict::Request(RequestRefusal::NoPolicy);
        }
    }
    if q.epoch < document.min_keyring_epoch {
        return Verdict::Request(RequestRefusal::NoPolicy);
    }
    let Some(section) = document.apps.get(&q.app) else { return Verdict::Request(RequestRefusal::UnknownApp) };

    let mut who: Vec<&str> = Vec::new();
    for (name, principal) in &section.principals {
        if let Some(end) = principal.until {
            if q.now >= end {
                continue;
            }
        }
        let image = |images: &[e3_attest::PcrSet]| match &q.pcrs {
            None => false,
            Some(found) => images.iter().any(|set| set.pcrs().iter().all(|(i, pcr)| found.get(i) == Some(pcr))),
        };
        let is = match (&principal.proof, &q.api_key) {
            (Proof::ApiKey(hashes), Some(key)) => hashes.iter().any(|h| sha256(key.as_bytes()) == *h),
            (Proof::ApiKey(_), None) => false,
            (_, Some(_)) => false,
            (Proof::Relay { spki, images }, None) => {
                let key_fits = spki.is_empty() || q.spki.is_some_and(|k| spki.iter().any(|s| *s.as_bytes() == k));
                let image_fits = images.is_empty() || image(images);
                key_fits && image_fits
            }
            (Proof::Plain, None) => q.plain,
            (Proof::Image(images), None) => image(images),
        };
        if is {
            who.push(name);
        }
    }
    if q.api_key.is_some() && who.is_empty() {
        return Verdict::Request(RequestRefusal::UnknownCredential);
    }

    let Some(role) = section.roles.get(&q.role) else { return Verdict::Denied(Refusal::UnknownRole, 0) };
    if role.honey && q.verb == Verb::Open {
        return Verdict::Denied(Refusal::NotPermitted, role.line);
    }
    for rule in &section.deny {
        if concerns(rule, &who, q) && in_time(rule, q) && place(rule, q, true) {
            return Verdict::Denied(Refusal::NotPermitted, rule.line);
        }
    }
    let mut line = None;
    for rule in &section.grants {
        if line.is_none() && concerns(rule, &who, q) && in_time(rule, q) && place(rule, q, false) {
            line = Some(rule.line);
        }
    }
    let Some(line) = line else { return Verdict::Denied(Refusal::NotPermitted, 0) };
    if q.verb == Verb::Seal && role.deterministic
        || q.verb == Verb::SealDeterministic && !role.deterministic
        || q.verb == Verb::PublicKey && !role.public_seal
        || matches!(q.verb, Verb::Open | Verb::Keep)
            && !role.public_seal
            && matches!(q.subject, Subject::Token { suite: 2, .. })
    {
        return Verdict::Denied(Refusal::RoleKind, line);
    }
    let mut of_type: Option<ValueType> = None;
    let mut age = None;
    match q.subject {
        Subject::Value(t) if q.verb == Verb::Seal || q.verb == Verb::SealDeterministic => of_type = Some(t),
        Subject::Token { value_type, suite, time } if q.verb == Verb::Open => {
            of_type = Some(value_type);
            age = Some((suite, u64::from(time)));
        }
        _ => {}
    }
    if let Some(t) = of_type {
        if !role.types.contains(t) {
            return Verdict::Denied(Refusal::TypeNotAllowed, line);
        }
    }
    if let (Some(most), Some((suite, time))) = (role.max_age, age) {
        if suite != 1 || time > q.now + 300 || time + most < q.now {
            return Verdict::Denied(Refusal::TooOld, line);
        }
    }
    Verdict::Allowed(line)
}

fn concerns(rule: &Grant, who: &[&str], q: &Question) -> bool {
    let me = match &rule.who {
        Names::All => !who.is_empty(),
        Names::Some(names) => names.iter().any(|n| who.contains(&&**n)),
    };
    let role = match &rule.roles {
        Names::All => true,
        Names::Some(roles) => roles.contains(&q.role),
    };
    me && role && rule.verbs.contains(q.verb)
}

#[expect(clippy::nonminimal_bool, reason = "as the sentence goes: not before, and not after")]
fn in_time(rule: &Grant, q: &Question) -> bool {
    !rule.since.is_some_and(|since| q.now < since) && !rule.until.is_some_and(|until| q.now >= until)
}

/// Where and how. What is not known fits no grant and every deny rule.
fn place(rule: &Grant, q: &Question, unknown: bool) -> bool {
    let destination = q.destination.to_lowercase();
    let destination = destination.strip_suffix('.').unwrap_or(&destination);
    let to = rule.to.is_empty()
        || rule.to.iter().any(|host| match host {
            Host::Client => destination.is_empty(),
            Host::Exact(name) => destination == &**name,
            Host::Suffix(tail) => destination.strip_suffix(&**tail).is_some_and(|rest| !rest.is_empty()),
        });
    let method =
        rule.methods.is_empty() || rule.methods.iter().any(|m| **m == *q.method) || unknown && q.method.is_empty();
    let from = rule.from.is_empty()
        || match q.source.parse::<IpAddr>() {
            Ok(address) => rule.from.iter().any(|network| network.contains(address)),
            Err(_) => unknown,
        };
    to && method && from
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    use sha2::Digest;
    sha2::Sha256::digest(bytes).into()
}
