//! What the author of a policy should know, although it is good: grants that are wide, that can never be used, and what is proven of what they ask for.

use super::document::{Document, Grant, Names, Proof, Section, Verb};
use super::resolve::shown;
use e3_wire::Role;
use e3_yaml::{Place, Report};
use std::collections::BTreeSet;

/// Says it, by line.
pub(super) fn lint(document: &Document, report: &mut Report) {
    if document.valid_until.is_none() {
        let hint =
            "a policy that was replaced can be put back while every engine is down; `valid_until` bounds for how long"
                .to_owned();
        report.note(Place::default(), "the policy has no end", Some(hint));
    }
    for section in document.apps.values() {
        let mut granted = BTreeSet::new();
        for grant in &section.grants {
            for (name, _) in principals(section, grant) {
                granted.insert(name);
            }
            wide(section, grant, report);
            useless(section, grant, report);
            labels(section, grant, "grant", report);
        }
        for deny in &section.deny {
            labels(section, deny, "deny rule", report);
        }
        for (name, principal) in &section.principals {
            if !granted.contains(&**name) {
                report.warn(at(principal.line), format!("`{name}` may do nothing: no grant names it"), None);
            }
            if principal.proof == Proof::Plain {
                report.warn(at(principal.line), format!("`{name}` proves nothing: development alone"), None);
            }
        }
    }
}

fn at(line: u32) -> Place {
    Place { line: line as usize, column: 1 }
}

fn principals<'s>(section: &'s Section, grant: &'s Grant) -> impl Iterator<Item = (&'s str, &'s Proof)> {
    section.principals.iter().filter(|(name, _)| grant.who.contains::<str>(name)).map(|(name, p)| (&**name, &p.proof))
}

/// The roles that a grant is about.
fn roles<'s>(section: &'s Section, grant: &'s Grant) -> impl Iterator<Item = &'s Role> {
    section.roles.keys().filter(|role| grant.roles.contains::<Role>(role))
}

fn wide(section: &Section, grant: &Grant, report: &mut Report) {
    let place = at(grant.line);
    let mut wide =
        |cause: &str, hint: &str| report.warn(place, format!("a wide grant: {cause}"), Some(hint.to_owned()));
    if grant.who == Names::All {
        wide("`who: \"*\"` is also everybody who is added later", "name them");
    }
    if grant.roles == Names::All && grant.verbs.contains(Verb::Open) {
        wide("`roles: \"*\"` opens every role, also those that are added later", "name the roles");
    }
    if grant.from.iter().any(super::document::Network::is_everything) {
        wide("`from` is the whole internet", "leave it out, or name networks");
    }
    let relay = |proof: &Proof| matches!(proof, Proof::Relay { .. } | Proof::Plain);
    if grant.verbs.contains(Verb::Open)
        && grant.to.is_empty()
        && principals(section, grant).any(|(_, proof)| relay(proof))
    {
        wide(
            "a relay opens for any destination",
            "say where the values may go: `to: [api.pay.example]`, or `to: [client]`",
        );
    }
}

fn useless(section: &Section, grant: &Grant, report: &mut Report) {
    let place = at(grant.line);
    if grant.roles == Names::All {
        return;
    }
    for role in roles(section, grant) {
        let Some(rules) = section.roles.get(role) else { continue };
        for (verb, never, hint) in [
            (Verb::Seal, rules.deterministic, "the role is deterministic: `seal-deterministic` is the verb"),
            (Verb::SealDeterministic, !rules.deterministic, "the role is not `deterministic: true`"),
            (Verb::PublicKey, !rules.public_seal, "the role is not `public_seal: true`"),
            (Verb::Open, rules.honey, "the role is a trap: opening it is always denied"),
        ] {
            if grant.verbs.contains(verb) && never {
                report.warn(place, format!("`{verb}` on `{role}` is never possible"), Some(hint.to_owned()));
            }
        }
    }
}

/// Whether each condition is proven, or only stated by a relay.
fn labels(section: &Section, grant: &Grant, what: &str, report: &mut Report) {
    let conditions =
        [("to", !grant.to.is_empty()), ("methods", !grant.methods.is_empty()), ("from", !grant.from.is_empty())];
    let (proven, stated): (Vec<_>, Vec<_>) = principals(section, grant).partition(|(_, proof)| proof.proves_context());
    let names = |of: &[(&str, &Proof)]| of.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ");
    for (condition, _) in conditions.iter().filter(|(_, is)| *is) {
        if !proven.is_empty() {
            report.note(at(grant.line), format!("`{condition}` of this {what} is proven for {}", names(&proven)), None);
        }
        if !stated.is_empty() {
            let hint = "whoever has the relay's host can state anything; give the relay an image to have it proven";
            report.note(
                at(grant.line),
                format!("`{condition}` of this {what} is stated for {}: the relay says so", names(&stated)),
                Some(hint.to_owned()),
            );
        }
    }
    let mut own = Vec::new();
    if let Some(since) = grant.since {
        own.push(format!("since {}", shown(since)));
    }
    if let Some(until) = grant.until {
        own.push(format!("until {}", shown(until)));
    }
    if let Some(rate) = grant.rate {
        own.push(format!("{rate} for each engine"));
    }
    if !own.is_empty() {
        report.note(at(grant.line), format!("proven by the engine's own clock: {}", own.join(", ")), None);
    }
}
